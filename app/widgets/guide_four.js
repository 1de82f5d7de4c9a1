// Four-step tuning. props.value = {words, projects, project, steps: [{step, title, help, runs, notes, next, done, button, enabled}],
// epoch, proposed, said}. "select" looks ({action: look | new | epoch}), "submit" does ({step}).
const { make } = window.kumakobo;
const value = () => props.value || {};
const words = () => value().words || {};
const send = (action, more = {}) => trigger("select", { action, project: value().project, ...more });

function button(className, text, act) {
  const made = make("button", className, text);
  made.type = "button";
  made.onclick = act;
  return made;
}

// A box with a button behind it; Enter presses the button, but not the Enter that ends the input of Japanese.
function asking(id, label, help, text, act) {
  const outer = make("label", "gd-field"), row = make("div", "gd-asking"), box = make("input", "gd-box");
  Object.assign(box, { id, type: "text", autocomplete: "off", spellcheck: false });
  const go = button("gd-go gd-second", text, () => act(box.value));
  go.id = `${id}_go`;
  box.onkeydown = (event) => { if (event.key === "Enter" && !event.isComposing && !event.ctrlKey) { event.preventDefault(); act(box.value); } };
  row.append(box, go);
  outer.append(make("span", "gd-label", label), row, make("span", "gd-help", help || ""));
  return { outer, box };
}

function head(v) {
  const line = make("div", "gd-body");
  if (v.projects.length) {
    const label = make("label", "gd-field"), list = make("select", "gd-box");
    list.id = "guide_four_project";
    v.projects.forEach((name) => { const made = make("option", "", name); made.value = name; list.append(made); });
    list.value = v.project;
    list.onchange = () => trigger("select", { action: "look", project: list.value });
    label.append(make("span", "gd-label", words().project), list);
    line.append(label);
  }
  line.append(asking("guide_four_new", words().new, "", words().create, (name) => send("new", { name })).outer);
  if (v.project) line.append(button("gd-go gd-second gd-refresh", words().refresh, () => send("look")));
  const said = make("div", v.said ? "kb-problem-line kb-error" : "", v.said);
  said.setAttribute("role", "status");
  line.append(said);
  return line;
}

function step(found, number, v) {
  const box = make("section", found.done ? "gd-step gd-done" : "gd-step"), title = make("h4", "", found.title), body = make("div", "gd-body");
  box.dataset.step = found.step;
  if (found.next) { box.setAttribute("aria-current", "step"); title.append(make("span", "gd-next", words().next)); }
  body.append(make("div", "gd-help", found.help));
  found.runs.forEach((run) => body.append(make("div", "gd-run", run)));
  found.notes.forEach((note) => body.append(make("div", "gd-rule", note)));
  if (found.step === "final") {
    const asked = asking("guide_four_epoch", words().epoch, words().epoch_help, words().use, (epoch) => send("epoch", { epoch }));
    asked.box.inputMode = "numeric";
    asked.box.value = v.epoch || "";
    asked.box.placeholder = v.proposed || "";
    body.append(asked.outer);
  }
  const go = button(found.next ? "gd-go" : "gd-go gd-second", found.button, () => trigger("submit", { project: v.project, step: found.step }));
  go.disabled = !found.enabled;
  const row = make("div");
  row.append(go);
  body.append(row);
  box.append(make("span", "gd-number", String(number + 1)), title, body);
  return box;
}

function draw() {
  const v = value();
  if (!v.words) return;
  element.replaceChildren(head(v), ...v.steps.map((found, number) => step(found, number, v)));
}

window.kumakobo = { ...window.kumakobo, guideFour: () => { if (element.isConnected && element.getClientRects().length && !element.contains(document.activeElement)) send("look"); } };
draw();
watch("value", draw);
send("look");
