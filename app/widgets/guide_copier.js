// Copier LoRA by difference. props.value = {words, projects, project, busy, said, steps: [{step, title, help, rows, notes, next, done,
// button, enabled, anew, grids, file}], values, proposed, layers}. The boxes are made once, so that looking again does not disturb
// typing. "select" looks ({action: look | open | new | pictures}), "submit" does ({step, ...boxes}).
const { make } = window.kumakobo;
const value = () => props.value || {};
const words = () => value().words || {};
const send = (action, more = {}) => trigger("select", { action, project: value().project, ...more });
const FIELDS = { train: ["steps"], difference: ["rank", "layers"], grid: ["prompts"], save: ["name"] };
const boxes = {}, shown = {};
let parts = null, project = null;

function button(className, act) {
  const made = make("button", className);
  made.type = "button";
  made.onclick = act;
  return made;
}

function field(name) {
  const outer = make("label", "gd-field"), head = make("span", "gd-label"), help = make("span", "gd-help");
  const box = make(name === "prompts" ? "textarea" : "input", "gd-box");
  box.id = `guide_copier_${name}`;
  box.spellcheck = false;
  box.autocomplete = "off";
  if (name === "prompts") box.rows = 2; else box.type = "text";
  if (name === "steps" || name === "rank") box.inputMode = "numeric";
  boxes[name] = box;
  outer.append(head, box, help);
  return { outer, head, help };
}

const typed = (step) => Object.fromEntries((FIELDS[step] || []).map((name) => [name, boxes[name].value]));
const act = (step, more = {}) => trigger("submit", { project: value().project, step, ...typed(step), ...more });

function section(name, number) {
  const box = make("section", "gd-step"), title = make("h4"), body = make("div", "gd-body");
  const help = make("div", "gd-help"), rows = make("div", "gd-parts"), notes = make("div"), fields = {}, row = make("div", "gd-do");
  box.dataset.copier = name;
  body.append(help);
  for (const one of FIELDS[name] || []) {
    fields[one] = field(one);
    body.append(fields[one].outer);
  }
  const go = button("gd-go", () => (name === "pictures" ? send("pictures") : act(name)));
  go.id = `guide_copier_${name}_go`;
  const more = { anew: button("gd-go gd-second", () => act("train", { anew: true })), inspect: button("gd-go gd-second", () => act("inspect")), send: button("gd-go gd-second", () => act("send")) };
  Object.entries(more).forEach(([key, made]) => { made.id = `guide_copier_${key}`; made.hidden = true; });
  row.append(go, ...(name === "train" ? [more.anew] : name === "save" ? [more.inspect, more.send] : []));
  const pictures = make("div", "gd-grids");
  body.append(row, rows, notes, pictures);
  box.append(make("span", "gd-number", String(number)), title, body);
  return { box, title, help, rows, notes, fields, go, more, pictures };
}

function build() {
  const head = make("div", "gd-body"), list = make("select", "gd-box"), choose = make("label", "gd-field");
  list.id = "guide_copier_project";
  list.onchange = () => trigger("select", { action: "open", project: list.value });
  const chooseHead = make("span", "gd-label");
  choose.append(chooseHead, list);
  const fresh = make("label", "gd-field"), freshHead = make("span", "gd-label"), row = make("div", "gd-asking"), box = make("input", "gd-box");
  Object.assign(box, { id: "guide_copier_new", type: "text", autocomplete: "off", spellcheck: false });
  const begin = button("gd-go gd-second", () => send("new", { name: box.value }));
  begin.id = "guide_copier_new_go";
  box.onkeydown = (event) => { if (event.key === "Enter" && !event.isComposing && !event.ctrlKey) { event.preventDefault(); begin.click(); } };
  row.append(box, begin);
  fresh.append(freshHead, row);
  const said = make("div");
  said.setAttribute("role", "status");
  head.append(choose, fresh, said);
  const steps = ["pictures", "train", "difference", "grid", "save"].map((name, number) => section(name, number + 1));
  const presets = make("select", "gd-box");
  presets.id = "guide_copier_layer_names";
  presets.onchange = () => { boxes.layers.value = presets.value; };
  boxes.layers.after(presets);
  element.replaceChildren(head, ...steps.map((one) => one.box));
  parts = { choose, chooseHead, list, fresh, freshHead, box, begin, said, steps, presets };
}

function options(list, rows, chosen) {
  const key = JSON.stringify(rows);
  if (list.dataset.key !== key) {
    list.dataset.key = key;
    list.replaceChildren(...rows.map(([name, title]) => { const made = make("option", "", title); made.value = name; return made; }));
  }
  if (chosen !== undefined) list.value = chosen;
}

function line(row) {
  const made = make("div", "gd-part"), state = make("span", "gd-state", row.word);
  made.dataset.part = row.part;
  state.dataset.state = row.state;
  if (row.label) made.append(make("strong", "", row.label));
  made.append(state);
  if (row.fraction !== null && row.fraction !== undefined) { const bar = make("progress"); bar.max = 1; bar.value = row.fraction; made.append(bar); }
  if (row.text) made.append(make("span", row.state === "failed" ? "gd-failed" : "gd-run", row.text));
  return made;
}

function grid([small, large]) {
  const link = make("a"), picture = make("img");
  Object.assign(link, { href: large, target: "_blank", rel: "noopener" });
  Object.assign(picture, { src: large, alt: words().grid_alt });
  link.append(picture);
  return link;
}

// What is drawn again at each look only where it changed, so that pictures do not flicker.
function fill(place, key, made) {
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  place.replaceChildren(...made());
}

function drawStep(place, step) {
  place.box.classList.toggle("gd-done", step.done);
  if (step.next) place.box.setAttribute("aria-current", "step"); else place.box.removeAttribute("aria-current");
  place.title.replaceChildren(step.title, ...(step.next ? [make("span", "gd-next", words().next)] : []));
  place.help.textContent = step.help;
  fill(place.rows, JSON.stringify(step.rows), () => step.rows.map(line));
  fill(place.notes, JSON.stringify(step.notes), () => step.notes.map((said) => make("div", said.severity ? `kb-problem-line kb-${said.severity}` : "gd-run", said.text)));
  fill(place.pictures, JSON.stringify(step.grids || []), () => (step.grids || []).map(grid));
  place.go.textContent = step.button;
  place.go.disabled = !step.enabled;
  place.go.className = step.next && step.step !== "pictures" ? "gd-go" : "gd-go gd-second";
  place.more.anew.hidden = !step.anew;
  place.more.inspect.hidden = place.more.send.hidden = !step.file;
  Object.entries(place.more).forEach(([name, made]) => { made.textContent = words()[name]; });
  if (step.step === "train") place.go.hidden = step.done;
  for (const [name, { head, help }] of Object.entries(place.fields)) {
    head.textContent = words()[name];
    help.textContent = words()[`${name}_help`] || "";
  }
}

function draw() {
  const v = value();
  if (!v.words) return;
  if (!parts) build();
  parts.chooseHead.textContent = words().project;
  parts.freshHead.textContent = words().new;
  parts.begin.textContent = words().create;
  parts.choose.hidden = !v.projects.length;
  options(parts.list, v.projects.map((name) => [name, name]), v.project);
  parts.said.textContent = v.said;
  parts.said.className = v.said ? "kb-problem-line kb-error" : "";
  parts.steps.forEach((place, number) => { place.box.hidden = !v.steps[number]; });
  v.steps.forEach((step, number) => drawStep(parts.steps[number], step));
  if (v.steps.length) {
    options(parts.presets, v.layers, project === v.project ? undefined : v.values.layers);
    parts.presets.setAttribute("aria-label", words().preset);
    for (const [name, box] of Object.entries(boxes)) {
      const known = v.values[name] ?? "";
      if (project !== v.project || (shown[name] !== known && document.activeElement !== box)) box.value = known;
      shown[name] = known;
      box.placeholder = v.proposed[name] ?? "";
    }
    if (project !== v.project) parts.box.value = "";
    project = v.project;
  }
}

const visible = () => element.isConnected && element.getClientRects().length > 0;
// By its own clock: an answer that is the same as before draws nothing.
function again() {
  if (value().busy && visible()) send("look");
  setTimeout(again, 1500);
}

window.kumakobo = { ...window.kumakobo, guideCopier: () => { if (visible()) send("look"); } };
draw();
watch("value", draw);
send("look");
setTimeout(again, 1500);
