// The sample gallery. props.value = {groups: [{title, step, items: [{small, large, prompt, index, file, keep}]}], prompts: [[index, prompt]], words}
// pair = index of the picture that this one is compared with at once; others are compared where words.compare is given.
// keep = {name, ask} offers the LoRA file of a picture: a select event {action: "keep", index, name} follows when it is taken.
const find = (selector) => element.querySelector(selector);
const select = find("select"), groups = find(".sg-groups"), dialog = find("dialog");
let shown = [], at = 0, chosen = "";
let large = null; // the item shown large: places change when pictures come
let marked = null; // the item that the next one is compared with

const { make } = window.kumakobo;

function figure(item, caption) {
  const place = shown.push({ ...item, caption }) - 1;
  const node = make("figure", "sg-item"), button = make("button"), image = make("img");
  button.type = "button";
  button.title = item.prompt + "\n" + item.file;
  image.loading = "lazy"; image.src = item.small; image.alt = item.prompt;
  button.append(image);
  button.addEventListener("click", () => enlarge(place));
  node.append(button, make("figcaption", "", caption));
  return node;
}

function render() {
  const value = props.value || {}, words = value.words || {}, all = value.groups || [];
  find(".sg-title").textContent = words.title || "";
  find(".sg-pick span").textContent = words.prompt || "";
  find(".sg-close").textContent = words.close || "";
  find(".sg-compare").textContent = words.compare || "";
  find(".sg-split").setAttribute("aria-label", words.compare || "");
  find(".sg-ask").textContent = words.keep || "";
  find(".sg-keep button").textContent = words.keepGo || "";
  find(".sg-previous").setAttribute("aria-label", words.previous || "");
  find(".sg-next").setAttribute("aria-label", words.next || "");
  find(".sg-empty").textContent = all.length ? "" : words.empty || "";
  find(".sg-pick").style.display = (value.prompts || []).length > 1 ? "" : "none";
  const options = [["", words.all_prompts || ""], ...(value.prompts || []).map(([index, prompt]) => [String(index), prompt])];
  select.replaceChildren(...options.map(([index, word]) => { const option = make("option", "", word); option.value = index; return option; }));
  if (!options.some(([index]) => index === chosen)) chosen = "";
  select.value = chosen;
  shown = [];
  if (chosen === "") {
    groups.replaceChildren(...all.map((group) => {
      const node = make("section", "sg-group"), row = make("div", "sg-row");
      row.append(...group.items.map((item) => figure(item, item.prompt)));
      node.append(make("h4", "", group.title), row);
      return node;
    }));
  } else {
    const strip = make("div", "sg-strip");
    for (const group of all) for (const item of group.items) if (String(item.index) === chosen) strip.append(figure(item, group.title));
    groups.replaceChildren(strip);
  }
  element.dataset.pictures = shown.length;
}

function enlarge(place) {
  if (!shown.length) return;
  at = (place + shown.length) % shown.length;
  const item = large = shown[at];
  const other = marked === item ? null : marked ?? partner(item);
  put(find(".sg-one"), item);
  put(find(".sg-other"), other);
  find(".sg-split").hidden = !other;
  split(50);
  find(".sg-caption").textContent = [other, item].filter(Boolean).map((one) => one.prompt + " — " + one.file).join("  |  ");
  find(".sg-compare").hidden = !(props.value?.words || {}).compare;
  mark(null);
  find(".sg-ask").hidden = !item.keep;
  find(".sg-keep").hidden = true;
  if (!dialog.open) dialog.showModal();
}

// The same picture without the LoRA, or with it, where both were drawn.
function partner(item) {
  return item.pair == null ? null : shown.find((one) => one.pair != null && one.index === item.pair);
}

function put(image, item) {
  image.hidden = !item;
  if (item) { image.src = item.large; image.alt = item.prompt; } else image.removeAttribute("src");
}

// Of two pictures, the other one is seen left of the line.
function split(percent) {
  find(".sg-split").value = percent;
  find(".sg-view").style.setProperty("--sg-at", `${percent}%`);
}

function mark(item) {
  marked = item;
  const hint = find(".sg-hint");
  hint.hidden = !item;
  hint.textContent = item ? (props.value?.words || {}).compareWith + " " + item.file : "";
}

find(".sg-compare").addEventListener("click", () => { dialog.close(); mark(large); });
find(".sg-split").addEventListener("input", (event) => split(event.target.value));
find(".sg-view").addEventListener("pointermove", (event) => {
  const other = find(".sg-other");
  if (other.hidden) return;
  const box = other.getBoundingClientRect();
  split(Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width)));
});

function ask() {
  const { keep } = large, form = find(".sg-keep");
  find(".sg-keep span").textContent = keep.ask;
  find(".sg-keep input").value = keep.name;
  form.hidden = false;
  find(".sg-keep input").focus();
}

find(".sg-ask").addEventListener("click", ask);
find(".sg-keep").addEventListener("submit", (event) => {
  event.preventDefault();
  trigger("select", { action: "keep", index: large.index, name: find(".sg-keep input").value });
  dialog.close(); // what is said about it appears behind the dialog
});
select.addEventListener("change", () => { chosen = select.value; render(); });
find(".sg-previous").addEventListener("click", () => enlarge(at - 1));
find(".sg-next").addEventListener("click", () => enlarge(at + 1));
find(".sg-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("keydown", (event) => {
  if (event.target.matches("input")) return;
  if (event.key === "ArrowLeft") enlarge(at - 1);
  if (event.key === "ArrowRight") enlarge(at + 1);
});
watch("value", render);
render();
