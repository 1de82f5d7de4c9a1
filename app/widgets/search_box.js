// Finds settings. props.value = {query, hits: [{place, label, tab, kohya, help, needs}], words: {placeholder, nothing}}
const { make } = window.kumakobo;
const value = () => props.value || {};
const words = () => value().words || {};
let active = 0, timer = 0, closed = true;

const input = make("input", "ks-input");
Object.assign(input, { type: "search", autocomplete: "off", spellcheck: false, id: "kb_search_input" });
const list = make("ul", "ks-list");
list.id = "kb_search_list";
list.setAttribute("role", "listbox");
for (const [name, said] of [["role", "combobox"], ["aria-controls", list.id], ["aria-autocomplete", "list"]]) input.setAttribute(name, said);
element.append(input, list);

function go(hit) {
  if (!hit) return;
  close();
  input.value = "";
  input.blur();
  window.kumakobo.goTo(hit.place);
}

function close() {
  closed = true;
  list.replaceChildren();
  input.setAttribute("aria-expanded", "false");
}

function row(hit, number) {
  const made = make("li", "ks-hit");
  made.id = `kb_search_hit_${number}`;
  made.setAttribute("role", "option");
  const head = make("div", "ks-head");
  head.append(make("b", "", hit.label), make("span", "ks-tab", hit.tab));
  if (hit.kohya) head.append(make("code", "", hit.kohya));
  made.append(head, make("div", "ks-help", hit.help));
  if (hit.needs) made.append(make("div", "ks-needs", hit.needs));
  made.onmousedown = (event) => { event.preventDefault(); go(hit); };
  made.onmousemove = () => { if (active !== number) { active = number; point(); } };
  return made;
}

function point() {
  [...list.querySelectorAll(".ks-hit")].forEach((item, number) => {
    item.setAttribute("aria-selected", String(number === active));
    if (number === active) { input.setAttribute("aria-activedescendant", item.id); item.scrollIntoView({ block: "nearest" }); }
  });
}

function draw() {
  input.placeholder = words().placeholder || "";
  input.setAttribute("aria-label", words().placeholder || "");
  if (closed || !input.value.trim() || value().query !== input.value.trim()) return;
  const hits = value().hits || [];
  active = 0;
  list.replaceChildren(...hits.map(row));
  if (!hits.length) list.append(make("li", "ks-nothing", words().nothing));
  input.setAttribute("aria-expanded", "true");
  point();
}

function ask() {
  clearTimeout(timer);
  closed = false;
  if (!input.value.trim()) return close();
  timer = setTimeout(() => trigger("select", { query: input.value.trim() }), 150);
}

input.oninput = ask;
input.onfocus = () => { if (input.value.trim()) ask(); };
input.onblur = () => setTimeout(close, 100);
input.onkeydown = (event) => {
  const hits = value().hits || [];
  if (event.isComposing) return; // Enter ends the input of Japanese, not the search
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    active = (active + (event.key === "ArrowDown" ? 1 : hits.length - 1)) % Math.max(hits.length, 1);
    point();
  } else if (event.key === "Enter" && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    if (!closed && value().query === input.value.trim()) go(hits[active]);
  } else if (event.key === "Escape") {
    event.stopPropagation();
    input.value = "";
    close();
    input.blur();
  }
};
document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey && event.key.toLowerCase() === "k") {
    event.preventDefault();
    input.focus();
    input.select();
  }
});
draw();
watch("value", draw);
