// Problems of the settings. props.value = {items: [{path, place, tab, tabLabel, label, text, severity, fix, fixLabel}], words, open}
// Draws the list, and marks each field (#f-section-name) with a class and the sentence below it.
const { make } = window.kumakobo;
const items = () => (props.value && props.value.items) || [];
const words = () => (props.value && props.value.words) || {};
const fieldOf = (item) => document.getElementById("f-" + item.path.replaceAll(".", "-"));
let shown = "", unfolded = null;

function fixButton(item) {
  const made = make("button", "kp-fix", item.fixLabel);
  made.type = "button";
  made.onclick = (event) => { event.stopPropagation(); trigger("select", { action: "fix", fix: item.fix }); };
  return made;
}

function mark() {
  const byId = new Map();
  for (const item of items()) {
    const field = fieldOf(item);
    if (field) byId.set(field, [...(byId.get(field) || []), item]);
  }
  document.querySelectorAll(".kb-has-problem").forEach((field) => {
    if (byId.has(field)) return;
    field.classList.remove("kb-has-problem", "kb-error", "kb-warning");
    field.querySelectorAll(".kb-problem").forEach((old) => old.remove());
    field.querySelectorAll("[aria-invalid]").forEach((input) => input.removeAttribute("aria-invalid"));
  });
  for (const [field, found] of byId) {
    const bad = found.some((item) => item.severity === "error");
    const key = JSON.stringify(found.map((item) => [item.text, item.fixLabel]));
    field.classList.add("kb-has-problem");
    field.classList.toggle("kb-error", bad);
    field.classList.toggle("kb-warning", !bad);
    field.querySelectorAll("input, textarea").forEach((input) => bad ? input.setAttribute("aria-invalid", "true") : input.removeAttribute("aria-invalid"));
    const old = field.querySelector(":scope > .kb-problem");
    if (old && old.dataset.key === key) continue;
    if (old) old.remove();
    const box = make("div", "kb-problem");
    box.dataset.key = key;
    found.forEach((item) => {
      const line = make("div", `kb-problem-line kb-${item.severity}`);
      line.append(make("span", "", item.text));
      if (item.fixLabel) line.append(fixButton(item));
      box.append(line);
    });
    field.append(box);
  }
}

function draw() {
  const found = items(), errors = found.filter((item) => item.severity === "error");
  const key = JSON.stringify(props.value);
  if (key === shown) return;
  shown = key;
  element.replaceChildren();
  mark();
  if (!found.length) { unfolded = null; return; }
  const box = make("details", errors.length ? "kp kp-errors" : "kp kp-warnings");
  box.open = unfolded ?? Boolean(props.value.open && errors.length);
  if (props.value.open && errors.length) box.open = true;
  box.ontoggle = () => { unfolded = box.open; };
  box.append(make("summary", "kp-head", words().head || ""));
  const list = make("ul", "kp-list");
  for (const item of found) {
    const row = make("li", `kp-row kp-${item.severity}`);
    const link = make("button", "kp-place", [item.tabLabel, item.label].filter(Boolean).join(" › "));
    link.type = "button";
    link.onclick = () => window.kumakobo.goTo(item.place);
    row.append(link, make("span", "kp-text", item.text));
    if (item.fixLabel) row.append(fixButton(item));
    list.append(row);
  }
  box.append(list);
  element.append(box);
}
draw();
watch("value", draw);
// Tabs and accordions draw their fields when they are opened: mark those, too.
let waiting = 0;
new MutationObserver(() => {
  if (!waiting) waiting = setTimeout(() => { waiting = 0; mark(); }, 80);
}).observe(document.body, { childList: true, subtree: true });
