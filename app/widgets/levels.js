// Calm page. props.value is what app/calm.py look() gives: level, levels, hidden, accordions, marks, parts, note.
// Hiding is a style sheet of element ids: it holds for fields that are drawn later, too, and nothing is drawn anew.
const { make } = window.kumakobo;
// What the app said last. While somebody chooses a level, an answer to an earlier change may still be on its way: it says
// the level of before, and would take the choice back. The choice's own answer follows.
let said = props.value || {};
const value = () => said;
const remembered = () => document.cookie.match(/(?:^|; )COOKIE=([^;]*)/)?.[1];
function listen() {
  const news = props.value || {}, chosen = remembered();
  const isLevel = (news.levels || []).some(([name]) => name === chosen);
  if (!isLevel || news.level === chosen) said = news;
}
const id = (name) => "#" + CSS.escape(name);

function hide() {
  let style = document.getElementById("kb_hidden");
  if (!style) document.head.append(style = Object.assign(make("style"), { id: "kb_hidden" }));
  const hidden = (value().hidden || []).map(id), parts = (value().accordions || []).map(id);
  const rules = [];
  if (hidden.length) {
    const seen = `:has(.kb-field:not(${hidden.join(",")}), .kb-keep)`;
    const boxes = [".row", ".form", ".column", ".kb-section", ".kb-path"].map((box) => `#kb_tabs ${box}:has(.kb-field)`);
    rules.push(`${hidden.join(",")}{display:none!important}`);
    rules.push(`:is(${boxes.join(",")}):not(${seen}){display:none!important}`);
  }
  if (parts.length) rules.push(`${parts.join(",")}{display:none!important}`);
  const text = rules.join("\n");
  if (style.textContent !== text) style.textContent = text;
}

function undoButton(className, words, title, fields) {
  const made = make("button", className, words);
  made.type = "button";
  made.title = title;
  made.setAttribute("aria-label", title);
  made.onclick = (event) => {
    event.preventDefault();
    event.stopPropagation();
    trigger("select", { action: "undo", fields });
  };
  return made;
}

function mark() {
  const marks = value().marks || {}, parts = value().parts || {};
  document.querySelectorAll(".kb-undo").forEach((old) => {
    if (marks[old.parentElement.id] === old.title) return;
    old.parentElement.classList.remove("kb-changed");
    old.remove();
  });
  for (const [name, title] of Object.entries(marks)) {
    const field = document.getElementById(name);
    if (!field || field.querySelector(":scope > .kb-undo")) continue;
    field.classList.add("kb-changed");
    field.append(undoButton("kb-undo", "↺", title, [name]));
  }
  document.querySelectorAll(".kb-undo-part").forEach((old) => {
    const part = parts[old.parentElement.id];
    if (!part || old.dataset.fields !== part.fields.join() || old.dataset.title !== part.title) old.remove();
  });
  for (const [name, part] of Object.entries(parts)) {
    const box = document.getElementById(name);
    if (!box || box.querySelector(":scope > .kb-undo-part")) continue;
    const button = undoButton("kb-undo-part", "", `${part.title} (${part.words})`, part.fields);
    button.append(make("span", "kb-undo-count", part.words), make("span", "kb-undo-sign", "↺"));
    Object.assign(button.dataset, { fields: part.fields.join(), title: part.title });
    box.append(button);
  }
}

function setLevel(level) {
  if (!level || level === value().level) return;
  document.cookie = `COOKIE=${level};path=/;max-age=31536000;samesite=strict`;
  trigger("select", { action: "level" });
}

// The level that shows a field, if the present one does not. Never less than now.
function raise(level) {
  const order = (value().levels || []).map(([name]) => name);
  if (order.indexOf(level) > order.indexOf(value().level)) setLevel(level);
}

function draw() {
  const group = make("div", "kl-switch");
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", value().legend || "");
  for (const [name, words, title] of value().levels || []) {
    const button = make("button", "", words);
    button.type = "button";
    button.title = title;
    button.dataset.level = name;
    button.setAttribute("aria-pressed", String(name === value().level));
    button.onclick = () => setLevel(name);
    group.append(button);
  }
  const focused = element.contains(document.activeElement) && document.activeElement.dataset.level;
  element.replaceChildren(group);
  if (focused) group.querySelector(`[data-level=${focused}]`)?.focus();
  if (value().note) {
    const note = make("div", "kl-note");
    const button = make("button", "kl-show", value().note.button);
    button.type = "button";
    button.onclick = () => setLevel(value().note.level);
    note.append(make("span", "", value().note.words), button);
    element.append(note);
  }
}

let shown = "";
function update() {
  hide();
  mark();
  const { level, levels, legend, note } = value();
  const key = JSON.stringify([level, levels, legend, note]);
  if (key === shown) return;
  shown = key;
  draw();
}
window.kumakobo = { ...window.kumakobo, raise };
update();
watch("value", () => { listen(); update(); });
// Tabs and parts that are unfolded draw their fields anew: mark those, too.
let waiting = 0;
new MutationObserver(() => {
  if (!waiting) waiting = setTimeout(() => { waiting = 0; mark(); }, 80);
}).observe(document.body, { childList: true, subtree: true });
