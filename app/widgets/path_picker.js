// The folder browser. props.value = null (closed) or what app/folder_view.py draws.
// Events say {action, to}: Gradio would take a key "path" for a file of its own cache.
const { make } = window.kumakobo;
const button = (className, text, action, path) => {
  const made = make("button", className, text);
  made.type = "button";
  made.onclick = () => trigger("select", { action, to: path });
  return made;
};
let returnTo = null;

function entry(kind, item, action) {
  const row = button(`fb-entry fb-${kind}`, undefined, action, item.path);
  row.append(make("span", `fb-icon kb-icon-${kind}`), make("span", "fb-name", item.name), make("span", "fb-note", item.note));
  return row;
}

function draw() {
  const v = props.value;
  const wasOpen = element.querySelector(".fb-box") !== null;
  element.replaceChildren();
  if (!v) {
    if (wasOpen && returnTo) returnTo.focus();
    return;
  }
  if (!wasOpen) returnTo = document.activeElement;
  const shade = make("div", "fb-shade");
  shade.onclick = () => trigger("select", { action: "close" });
  const box = make("div", "fb-box");
  box.setAttribute("role", "dialog");
  box.setAttribute("aria-modal", "true");
  box.setAttribute("aria-label", v.title);
  box.onkeydown = (event) => { if (event.key === "Escape") trigger("select", { action: "close" }); };

  const line = make("form", "fb-line");
  const typed = make("input", "fb-path");
  typed.value = v.path;
  typed.spellcheck = false;
  typed.setAttribute("aria-label", v.words.path);
  line.onsubmit = (event) => { event.preventDefault(); trigger("select", { action: "go", to: typed.value }); };
  const up = button("fb-up", `↑ ${v.words.up}`, "go", v.parent);
  up.disabled = !v.parent;
  line.append(up, typed);

  const crumbs = make("div", "fb-crumbs");
  v.crumbs.forEach((crumb) => crumbs.append(button("fb-crumb", crumb.name, "go", crumb.path)));

  const body = make("div", "fb-body"), side = make("div", "fb-side"), list = make("div", "fb-list");
  for (const kind of ["place", "recent"]) {
    const places = v.places.filter((place) => place.kind === kind);
    if (places.length) side.append(make("div", "fb-head", kind === "place" ? v.words.places : v.words.recent));
    places.forEach((place) => {
      const made = button("fb-place", place.name, "go", place.path);
      made.title = place.path;
      side.append(made);
    });
  }
  v.folders.forEach((item) => list.append(entry("folder", item, "go")));
  v.files.forEach((item) => list.append(entry("file", item, "choose")));
  if (v.error) list.append(make("div", "fb-error", v.error));
  else if (!v.folders.length && !v.files.length) list.append(make("div", "fb-empty", v.note || v.words.empty));
  body.append(side, list);

  const foot = make("div", "fb-foot");
  foot.append(make("span", "fb-here", v.note), button("fb-cancel", v.words.cancel, "close"));
  if (v.choosable) foot.append(button("fb-choose", v.words.choose, "choose", v.path));
  box.append(make("h2", "fb-title", v.title), line, crumbs, body, foot);
  element.append(shade, box);
  (element.querySelector(".fb-choose") || typed).focus();
}
draw();
watch("value", draw);
