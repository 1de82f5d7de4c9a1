// Concept slider. props.value = what app/guide/slider.py says of the wish; the boxes are made once, so that typing is not
// disturbed. "select" asks, "submit" fills in the form, both with {target, more, less, keep}.
const { make } = window.kumakobo;
const value = () => props.value || {};
const words = () => value().words || {};
const boxes = {}, fields = {};
let places = null, timer = 0;
const wish = () => Object.fromEntries(Object.entries(boxes).map(([name, box]) => [name, box.value]));

function field(name) {
  const label = make("label", "gd-field"), box = make(name === "keep" ? "textarea" : "input", "gd-box");
  Object.assign(box, { id: `guide_slider_${name}`, autocomplete: "off", spellcheck: false });
  if (name === "keep") box.rows = 2;
  box.oninput = () => ask(350);
  boxes[name] = box;
  fields[name] = { label, head: make("span", "gd-label"), help: make("span", "gd-help") };
  label.append(fields[name].head, box, fields[name].help);
  return label;
}

function build() {
  const body = make("div", "gd-body gd-plain"), said = make("div", "gd-said"), row = make("div", "gd-buttons");
  said.setAttribute("role", "status");
  const fill = make("button", "gd-go"), train = make("button", "gd-go gd-second");
  fill.type = train.type = "button";
  fill.id = "guide_slider_fill";
  train.id = "guide_slider_train";
  fill.onclick = () => { clearTimeout(timer); trigger("submit", wish()); };
  train.onclick = () => document.getElementById("train_button")?.click();
  row.append(fill, train);
  body.append(...["target", "less", "more", "keep"].map(field), said, row);
  element.replaceChildren(body);
  places = { said, fill, train };
}

function ask(wait) {
  clearTimeout(timer);
  timer = setTimeout(() => trigger("select", wish()), wait);
}

const LINES = { missing: "kb-hint", error: "kb-problem-line kb-error", warning: "kb-problem-line kb-warning" };

function draw() {
  const v = value();
  if (!v.words) return;
  if (!places) build();
  for (const name of Object.keys(fields)) {
    fields[name].head.textContent = words()[name];
    fields[name].help.textContent = words()[`${name}_help`];
    fields[name].label.hidden = Boolean(v.pictures) && name !== "target";
  }
  const { said, fill, train } = places;
  said.replaceChildren(...(v.lines || []).map(([severity, text]) => make("div", LINES[severity] || "", text)));
  if (v.found) said.append(make("div", "gd-fine", v.found));
  if (v.filled) said.append(make("div", "gd-fine", v.filled));
  fill.textContent = words().fill;
  train.textContent = words().train;
  train.hidden = !v.filled;
}

// The folders are boxes elsewhere: whoever changes them calls this.
window.kumakobo = { ...window.kumakobo, guideSlider: () => { if (element.isConnected) ask(150); } };
draw();
watch("value", draw);
ask(0);
