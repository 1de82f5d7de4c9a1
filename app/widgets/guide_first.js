// First LoRA. props.value = what app/guide/first_lora.py says of the wish; the boxes are made once, so that typing is not
// disturbed. Empty boxes stand for what is proposed, which they show in grey. Events carry {trigger, class, kind, ...}.
const { make } = window.kumakobo;
const value = () => props.value || {};
const words = () => value().words || {};
const boxes = {};
let places = null, timer = 0, sent = "";

function field(name, kind) {
  const label = make("label", "gd-field"), box = make(kind === "select" ? "select" : "input", "gd-box");
  box.id = `guide_first_${name}`;
  if (kind !== "select") Object.assign(box, { type: "text", autocomplete: "off", spellcheck: false });
  if (kind === "number") box.inputMode = "numeric";
  box.oninput = () => { if (name === "kind") boxes.preset.value = ""; ask(350); };
  boxes[name] = box;
  const head = make("span", "gd-label"), help = make("span", "gd-help");
  label.append(head, box, help);
  return { label, head, help };
}

function step(number) {
  const box = make("section", "gd-step"), head = make("h4"), body = make("div", "gd-body");
  box.append(make("span", "gd-number", String(number)), head, body);
  return { box, head, body };
}

function build() {
  const steps = [1, 2, 3, 4, 5, 6].map(step), fields = {};
  for (const [at, name, kind] of [[1, "trigger"], [1, "class"], [2, "kind", "select"], [2, "preset", "select"], [3, "repeats", "number"], [3, "epochs", "number"]]) {
    fields[name] = field(name, kind);
    steps[at].body.append(fields[name].label);
  }
  const parts = {};
  for (const [at, name] of [[0, "found"], [0, "missing"], [2, "purpose"], [2, "card"], [3, "rule"], [3, "aim"], [4, "problems"], [4, "plan"], [5, "filled"]]) {
    parts[name] = make("div", `gd-${name}`);
    steps[at].body.append(parts[name]);
  }
  const why = make("details", "gd-why");
  why.append(make("summary"), make("p"));
  steps[3].body.append(why);
  parts.missing.setAttribute("role", "status");
  const fill = make("button", "gd-go", ""), train = make("button", "gd-go gd-second", "");
  fill.type = train.type = "button";
  fill.id = "guide_first_fill";
  train.id = "guide_first_train";
  fill.onclick = () => { clearTimeout(timer); trigger("submit", wish()); };
  train.onclick = () => document.getElementById("train_button")?.click();
  steps[5].body.prepend(fill, train);
  element.replaceChildren(...steps.map((one) => one.box));
  places = { steps, fields, parts, why, fill, train };
}

const wish = () => Object.fromEntries(Object.entries(boxes).map(([name, box]) => [name, box.value]));

function ask(wait) {
  clearTimeout(timer);
  timer = setTimeout(() => { sent = JSON.stringify(wish()); trigger("select", wish()); }, wait);
}

function choices(box, rows) {
  const key = JSON.stringify(rows);
  if (box.dataset.key === key) return;
  const before = box.value;
  box.dataset.key = key;
  box.replaceChildren(...rows.map(([name, title]) => { const made = make("option", "", title); made.value = name; return made; }));
  box.value = rows.some(([name]) => name === before) ? before : rows[0]?.[0] ?? "";
}

function line(problem) {
  const row = make("div", `kb-problem-line kb-${problem.severity}`, problem.text);
  if (!problem.place) return row;
  const go = make("button", "kp-fix", words().source);
  go.type = "button";
  go.onclick = () => window.kumakobo.goTo(problem.place);
  row.append(go);
  return row;
}

function draw() {
  const v = value();
  if (!v.words) return;
  if (!places) build();
  const { steps, fields, parts, why, fill, train } = places;
  ["pictures", "words", "purpose", "numbers", "check", "go"].forEach((name, number) => { steps[number].head.textContent = words()[name]; });
  for (const name of Object.keys(fields)) {
    fields[name].head.textContent = words()[name];
    fields[name].help.textContent = words()[`${name}_help`] || "";
  }
  choices(boxes.kind, v.kinds);
  choices(boxes.preset, [["", v.chosen || words().proposed], ...v.presets]);
  for (const name of ["trigger", "class", "repeats", "epochs"]) boxes[name].placeholder = v[name] ?? "";
  fields.repeats.label.hidden = Boolean(v.several);
  for (const name of ["found", "rule", "card", "aim", "filled"]) parts[name].textContent = v[name] || "";
  parts.purpose.textContent = v.purpose || "";
  parts.missing.textContent = v.error || v.missing || "";
  parts.missing.className = v.error ? "gd-missing kb-problem-line kb-error" : v.missing ? "gd-missing kb-hint" : "gd-missing";
  const at = steps[v.at || 0].body;
  if (parts.missing.parentElement !== at) at.append(parts.missing);
  parts.plan.replaceChildren(...(v.plan || []).map((said) => make("div", "", said)));
  parts.problems.replaceChildren(...(v.problems || []).map(line));
  if (v.problems && !v.problems.length) parts.problems.append(make("div", "gd-fine", `✓ ${words().nothing_wrong}`));
  why.firstChild.textContent = words().why;
  why.lastChild.textContent = words().why_text;
  fill.textContent = words().fill;
  train.textContent = words().train;
  train.hidden = !v.filled;
}

// The folder and the source model are boxes elsewhere: whoever changes them calls this.
window.kumakobo = { ...window.kumakobo, guideFirst: () => { if (element.isConnected && element.getClientRects().length) ask(150); } };
draw();
watch("value", draw);
ask(0);
