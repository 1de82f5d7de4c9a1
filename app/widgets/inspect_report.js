// Clicks in the report: data-tool asks the server, data-measure switches the bars, and the tags can be filtered.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-tool]");
  if (button) { trigger("select", { ...button.dataset }); return; }
  const measure = event.target.closest("button[data-measure]");
  if (!measure) return;
  const place = measure.closest(".in-section") || element;
  place.querySelectorAll("button[data-measure]").forEach((other) => other.setAttribute("aria-pressed", String(other === measure)));
  const chart = place.querySelector(".in-chart");
  if (chart) chart.dataset.measure = measure.dataset.measure;
});

const filterTags = (box) => {
  const wanted = box.querySelector(".in-filter").value.trim().toLowerCase();
  const select = box.querySelector(".in-folder"), folder = select ? select.value : "";
  box.querySelectorAll(".in-tag-folder").forEach((list) => { list.hidden = list.dataset.folder !== folder; });
  box.querySelectorAll(".in-tag-list > li").forEach((row) => { row.hidden = wanted !== "" && !row.dataset.tag.includes(wanted); });
};
["input", "change"].forEach((kind) => element.addEventListener(kind, (event) => {
  const box = event.target.closest(".in-tags");
  if (box) filterTags(box);
}));

// Another file: what was typed to filter the tags of the last one must not hide those of this one.
watch("value", () => queueMicrotask(() => element.querySelectorAll(".in-tags").forEach((box) => {
  box.querySelector(".in-filter").value = "";
  if (box.querySelector(".in-folder")) box.querySelector(".in-folder").value = "";
  filterTags(box);
})));

// The line above the bars tells the numbers of the one that is pointed at.
const tell = (event) => {
  const bar = event.target.closest(".in-bar"), chart = event.target.closest(".in-chart");
  const line = chart && chart.closest(".in-section").querySelector(".in-readout");
  if (line) line.textContent = bar ? bar.dataset.tip : line.dataset.usual;
};
element.addEventListener("pointerover", tell);
element.addEventListener("pointerdown", tell);
element.addEventListener("pointerout", (event) => { if (!event.relatedTarget || !event.relatedTarget.closest || !event.relatedTarget.closest(".in-chart")) tell({ target: event.target.closest(".in-chart") || event.target }); });
