// Layer weights of one LoRA. props.value = null or {rows: [{title, blocks: [{name, short, weight, here}]}], presets: [[name, title, {block: number}]], preset, error, words}
// A bar is a slider: drag or tap it, or use the arrow keys. Events say {weights: {block: number}}.
const STEP = 0.05, FAR = 0.25, LIMIT = 10;
const PATIENCE = 10000;  // ms that a change made here waits to come back as a value
const { make } = window.kumakobo;
const words = () => (props.value && props.value.words) || {};
const said = (weight) => String(+weight.toFixed(2));
let weights = {}, bars = new Map(), layout = "", sending = 0, unanswered = 0, active = "", low = 0, high = 1;

function rescale() {
  const all = Object.values(weights);
  low = Math.min(0, ...all);
  high = Math.max(1, ...all);
  bars.forEach((_, name) => paint(name));
}

function paint(name) {
  const { bar, fill, number, tag, short } = bars.get(name), weight = weights[name], span = high - low;
  const zero = (0 - low) / span, top = (Math.max(weight, 0) - low) / span, bottom = (Math.min(weight, 0) - low) / span;
  fill.style.bottom = `${100 * bottom}%`;
  fill.style.height = `${100 * (top - bottom)}%`;
  bar.style.setProperty("--zero", `${100 * zero}%`);
  number.textContent = said(weight).replace(/^(-?)0\./, "$1.");
  bar.setAttribute("aria-valuenow", said(weight));
  bar.setAttribute("aria-valuemin", said(low));
  bar.setAttribute("aria-valuemax", said(high));
  bar.parentElement.dataset.kind = weight === 0 ? "off" : weight === 1 ? "full" : "part";
  tag.setAttribute("aria-pressed", String(weight === 0));
  tag.setAttribute("aria-label", `${words().remove || ""} ${name}`);
  tag.textContent = short;
}

// Values that come between a change and its answer are older than the change: drawing them would take it back.
function expectAnswer() {
  clearTimeout(unanswered);
  unanswered = setTimeout(() => { unanswered = 0; draw(); }, PATIENCE);
}

function olderThanHere(blocks) {
  return blocks.every(({ name }) => bars.has(name)) && blocks.some(({ name, weight }) => Math.abs(weight - weights[name]) > 1e-6);
}

function put(name, weight) {
  expectAnswer();
  weights[name] = Math.max(-LIMIT, Math.min(LIMIT, Math.round(weight * 1000) / 1000));
  if (weights[name] < low || weights[name] > high) rescale(); else paint(name);
}

function send(wait) {
  clearTimeout(sending);
  sending = setTimeout(() => { sending = 0; trigger("select", { weights: { ...weights } }); }, wait);
}

function toggle(names) {
  const weight = names.every((name) => weights[name] === 0) ? 1 : 0;
  names.forEach((name) => put(name, weight));
  rescale();
  send(0);
}

function focus(name) {
  if (!bars.has(name)) return;
  if (bars.has(active)) bars.get(active).bar.tabIndex = -1;
  active = name;
  bars.get(name).bar.tabIndex = 0;
}

function pressed(event, name) {
  const names = [...bars.keys()], at = names.indexOf(name);
  const next = { ArrowLeft: at - 1, ArrowRight: at + 1 }[event.key];
  if (next !== undefined) {
    if (names[next]) { focus(names[next]); bars.get(names[next]).bar.focus(); }
  } else {
    const step = { ArrowUp: STEP, ArrowDown: -STEP, PageUp: FAR, PageDown: -FAR }[event.key];
    if (step !== undefined) put(name, Math.round((weights[name] + step) / STEP) * STEP);
    else if (event.key === "Home" || event.key === "End") put(name, event.key === "End" ? 1 : 0);
    else if (event.key === "Delete" || event.key === "Backspace") put(name, 0);
    else return;
    send(350);
  }
  event.preventDefault();
}

function dragged(event, name) {
  const box = bars.get(name).bar.getBoundingClientRect();
  const share = Math.max(0, Math.min(1, (box.bottom - event.clientY) / box.height));
  put(name, Math.round((low + share * (high - low)) / STEP) * STEP);
}

function slider(block) {
  const cell = make("div", "bw-cell"), bar = make("div", "bw-bar"), fill = make("div", "bw-fill");
  const number = make("span", "bw-number"), tag = make("button", "bw-tag");
  bar.setAttribute("role", "slider");
  bar.setAttribute("aria-orientation", "vertical");
  bar.setAttribute("aria-label", block.name);
  bar.tabIndex = -1;
  bar.dataset.block = block.name;
  if (!block.here) cell.classList.add("bw-absent");
  cell.title = block.here ? block.name : `${block.name}: ${words().absent}`;
  bar.append(fill);
  bar.onkeydown = (event) => pressed(event, block.name);
  bar.onfocus = () => focus(block.name);
  bar.onpointerdown = (event) => { if (event.button) return; bar.setPointerCapture(event.pointerId); bar.focus(); dragged(event, block.name); };
  bar.onpointermove = (event) => { if (bar.hasPointerCapture(event.pointerId)) dragged(event, block.name); };
  bar.onpointerup = bar.onpointercancel = () => send(0);
  tag.type = "button";
  tag.tabIndex = -1;
  tag.onclick = () => toggle([block.name]);
  cell.append(number, bar, tag);
  bars.set(block.name, { bar, fill, number, tag, short: block.short });
  return cell;
}

function chart(v) {
  bars = new Map();
  const box = make("div", "bw-chart");
  for (const row of v.rows) {
    const group = make("div", row.blocks.length > 1 ? "bw-group" : "bw-group bw-single"), cells = make("div", "bw-cells");
    group.style.setProperty("--count", row.blocks.length);
    row.blocks.forEach((block) => cells.append(slider(block)));
    const head = make("button", "bw-head", row.title);
    head.type = "button";
    head.title = words().group || "";
    head.onclick = () => toggle(row.blocks.map((block) => block.name));
    group.append(head, cells);
    box.append(group);
  }
  return box;
}

function tools(v) {
  const line = make("div", "bw-tools"), label = make("label", "bw-preset"), select = make("select");
  const choices = [["", v.words.own], ...v.presets];
  choices.forEach(([name, title]) => { const option = make("option", "", title); option.value = name; select.append(option); });
  select.value = v.preset;
  select.onchange = () => {
    const chosen = v.presets.find(([name]) => name === select.value);
    if (!chosen) return;
    Object.entries(chosen[2]).forEach(([name, weight]) => put(name, weight));
    rescale();
    send(0);
  };
  label.append(make("span", "", v.words.preset), select);
  line.append(label, make("span", "bw-hint", v.words.hint));
  return line;
}

function draw() {
  const v = props.value;
  if (!v || !v.rows) { element.replaceChildren(); layout = ""; return; }
  const blocks = v.rows.flatMap((row) => row.blocks);
  if (sending || (unanswered && olderThanHere(blocks))) return;
  clearTimeout(unanswered);
  unanswered = 0;
  weights = Object.fromEntries(blocks.map((block) => [block.name, block.weight]));
  const shape = JSON.stringify([v.rows.map((row) => row.blocks.map((block) => [block.name, block.here])), v.presets, v.words]);
  if (shape !== layout) {
    layout = shape;
    element.replaceChildren(make("div", "bw-tools"), chart(v), make("div", "bw-error"));
    focus(bars.keys().next().value);
  }
  element.querySelector(".bw-tools").replaceWith(tools(v));
  element.querySelector(".bw-error").textContent = v.error || "";
  element.querySelector(".bw-chart").classList.toggle("bw-stale", Boolean(v.error));
  rescale();
}
draw();
watch("value", draw);
