// What came of First LoRA. props.value = {words, run, going, html, kept, verdict, files: [[number, label]], proposed, send}.
// "select" looks again, "submit" {run} draws the grid, "apply" {file} keeps a file, "expand" {handover} sends one.
const { make } = window.kumakobo;
const value = () => props.value || {};
const words = () => value().words || {};
const LOOKS = 2000; // ms between two looks at a run that goes on
let timer = 0, chosen = null, shown = "";

function button(id, text, className, act) {
  const made = make("button", className, text);
  made.type = "button";
  made.id = id;
  made.onclick = act;
  return made;
}

// A row of the list: what is done, with a word about it.
function act(go, help) {
  const row = make("div", "gd-own");
  row.append(go, make("span", "gd-help", help));
  return row;
}

function keeping(v) {
  const label = make("label", "gd-field gd-wide"), list = make("select", "gd-box"), row = make("div", "gd-asking");
  list.id = "guide_run_file";
  list.replaceChildren(...v.files.map(([number, text]) => { const made = make("option", "", text); made.value = number; return made; }));
  list.value = String(v.files.some(([number]) => number === chosen) ? chosen : v.proposed);
  list.onchange = () => { chosen = Number(list.value); };
  row.append(list, button("guide_run_keep", words().keep, "gd-go gd-second", () => trigger("apply", { file: Number(list.value) })));
  label.append(make("span", "gd-label", words().file), row, make("span", "gd-help", words().keep_help));
  return label;
}

function draw() {
  const v = value();
  clearTimeout(timer);
  if (v.going) timer = setTimeout(look, LOOKS);
  const key = JSON.stringify(v);
  if (key === shown) return;
  shown = key;
  if (!v.run) { element.replaceChildren(); return; }
  const box = make("section", "gd-step"), body = make("div", "gd-body"), status = make("div", "gd-status");
  status.innerHTML = v.html + v.kept; // made on the server, where every name in it is escaped
  body.append(status, make("div", "gd-rule", v.verdict));
  if (v.files.length) {
    const grid = button("guide_run_grid", words().grid, "gd-go", () => trigger("submit", { run: v.run }));
    body.append(act(grid, words().grid_help), keeping(v));
  }
  if (v.send) body.append(act(button("guide_run_send", words().send, "gd-go gd-second", () => trigger("expand", { handover: v.send })), v.send));
  if (v.going) body.append(act(button("guide_run_monitor", words().monitor, "gd-go gd-second", () => document.getElementById("tab_monitor-button")?.click()), words().choose));
  box.append(make("span", "gd-number", "7"), make("h4", "", words().title), body);
  element.replaceChildren(box);
}

// A run that nobody sees is not asked about; the Guide tab calls this when it is shown.
function look() {
  if (!element.isConnected) return;
  if (element.closest(".gd")?.getClientRects().length) trigger("select", {});
}
window.kumakobo = { ...window.kumakobo, guideRun: look };
draw();
watch("value", draw);
look();
