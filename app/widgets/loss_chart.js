// The loss chart. props.value = {x, raw, smooth, rates: [{names, x, y}], epochs: [[step, mean]], total, words}
const find = (selector) => element.querySelector(selector);
const canvas = find("canvas"), tip = find(".lc-tip"), empty = find(".lc-empty"), legend = find(".lc-legend");
const logBox = find(".lc-log input"), pen = canvas.getContext("2d");
const PAD = { left: 52, right: 58, top: 10, bottom: 24 };
const RATE_COLOURS = ["#0ea5e9", "#a855f7", "#10b981", "#f59e0b", "#ec4899", "#64748b"];
const rateColour = (i) => RATE_COLOURS[i % RATE_COLOURS.length];
const DASHES = [[6, 4], [2, 3], [10, 3, 2, 3]];
const MOST_NAMES = 12;
let hover = null, frame = 0;

const data = () => (props.value && props.value.x ? props.value : { x: [], raw: [], smooth: [], rates: [], epochs: [], words: (props.value || {}).words || {} });
const colour = (name, fallback) => getComputedStyle(element).getPropertyValue(name).trim() || fallback;
const number = (value) => value == null ? "–" : Math.abs(value) >= 0.01 && Math.abs(value) < 1000 ? String(+value.toPrecision(4)) : value.toExponential(2).replace("e+", "e");
const finite = (values) => values.filter((v) => v != null);

function bounds(values, low, high) {
  // The middle 99% of the values, so that one peak does not flatten the rest.
  const sorted = finite(values).slice().sort((a, b) => a - b);
  if (!sorted.length) return [0, 1];
  const at = (q) => sorted[Math.min(sorted.length - 1, Math.max(0, Math.round(q * (sorted.length - 1))))];
  let a = at(low), b = at(high);
  if (a === b) { a -= Math.abs(a) * 0.1 || 0.1; b += Math.abs(b) * 0.1 || 0.1; }
  return [a, b];
}

function ticks(a, b, count) {
  const raw = (b - a) / Math.max(1, count), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw) || raw;
  const found = [];
  for (let v = Math.ceil(a / step) * step; v <= b + step * 1e-6; v += step) found.push(Math.abs(v) < step * 1e-6 ? 0 : v);
  return found;
}

function logTicks(a, b) {
  const found = [];
  for (let e = Math.floor(Math.log10(a)); e <= Math.ceil(Math.log10(b)); e++)
    for (const m of [1, 2, 5]) { const v = m * 10 ** e; if (v >= a && v <= b) found.push(v); }
  return found.length > 1 ? found : [a, b];
}

function scales() {
  const v = data(), width = canvas.clientWidth, height = canvas.clientHeight;
  const first = v.x.length ? Math.min(v.x[0], 1) : 0, last = Math.max(v.total || 0, v.x[v.x.length - 1] || 1, first + 1);
  const log = logBox.checked;
  let [low, high] = bounds(v.raw, 0.002, 0.995);
  const smooth = finite(v.smooth);
  if (smooth.length) { low = Math.min(low, Math.min.apply(null, smooth)); high = Math.max(high, Math.max.apply(null, smooth)); }
  if (log) { low = Math.max(low, 1e-8); high = Math.max(high, low * 1.5); }
  else { const room = (high - low) * 0.06; low = Math.max(low >= 0 ? 0 : -Infinity, low - room); high += room; }
  const rate = Math.max(1e-12, ...v.rates.map((r) => Math.max(...finite(r.y), 0)));
  const X = (s) => PAD.left + (s - first) / (last - first) * (width - PAD.left - PAD.right);
  const tall = height - PAD.top - PAD.bottom;
  const share = log ? (y) => Math.log(Math.max(y, 1e-9) / low) / Math.log(high / low) : (y) => (y - low) / (high - low);
  const Y = (y) => PAD.top + tall * (1 - share(y));
  const R = (y) => PAD.top + tall * (1 - y / (rate * 1.08));
  const step = (px) => first + (px - PAD.left) / (width - PAD.left - PAD.right) * (last - first);
  return { first, last, low, high, rate, X, Y, R, step, width, height, log };
}

function line(xs, ys, X, Y) {
  pen.beginPath();
  let down = false;
  for (let i = 0; i < xs.length; i++) {
    if (ys[i] == null) { down = false; continue; }
    const x = X(xs[i]), y = Y(ys[i]);
    if (down) pen.lineTo(x, y); else pen.moveTo(x, y);
    down = true;
  }
  pen.stroke();
}

function draw() {
  frame = 0;
  const v = data(), width = canvas.clientWidth, height = canvas.clientHeight, ratio = window.devicePixelRatio || 1;
  empty.textContent = v.x.length ? "" : v.words.empty || "";
  if (!width || !height) return;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  element.dataset.points = v.x.length;
  if (!v.x.length) { legend.replaceChildren(); tip.hidden = true; return; }
  const s = scales(), accent = colour("--color-accent", "#f97316"), muted = colour("--body-text-color-subdued", "#888"), grid = colour("--border-color-primary", "#ddd");
  pen.font = "11px " + (colour("--font", "sans-serif"));
  pen.lineWidth = 1; pen.textBaseline = "middle";
  pen.textAlign = "right";
  for (const y of s.log ? logTicks(s.low, s.high) : ticks(s.low, s.high, 5)) {
    pen.strokeStyle = grid; pen.beginPath(); pen.moveTo(PAD.left, s.Y(y)); pen.lineTo(width - PAD.right, s.Y(y)); pen.stroke();
    pen.fillStyle = muted; pen.fillText(number(y), PAD.left - 7, s.Y(y));
  }
  pen.textAlign = "center"; pen.textBaseline = "top";
  for (const x of ticks(s.first, s.last, Math.max(2, Math.floor(width / 80))))
    if (Number.isInteger(x)) { pen.fillStyle = muted; pen.fillText(x.toLocaleString("en"), s.X(x), height - PAD.bottom + 7); }
  const area = new Path2D(); area.rect(PAD.left, PAD.top, width - PAD.left - PAD.right, height - PAD.top - PAD.bottom);
  pen.save(); pen.clip(area);
  if (v.epochs.length <= 60) {
    pen.strokeStyle = grid; pen.setLineDash([2, 4]);
    for (const [step] of v.epochs) { pen.beginPath(); pen.moveTo(s.X(step), PAD.top); pen.lineTo(s.X(step), height - PAD.bottom); pen.stroke(); }
    pen.setLineDash([]);
  }
  pen.lineJoin = "round";
  pen.strokeStyle = accent; pen.globalAlpha = 0.3; pen.lineWidth = 1; line(v.x, v.raw, s.X, s.Y);
  pen.globalAlpha = 1; pen.setLineDash([6, 4]); pen.lineWidth = 1.5;
  v.rates.forEach((r, i) => { pen.strokeStyle = rateColour(i); pen.setLineDash(DASHES[Math.floor(i / RATE_COLOURS.length) % DASHES.length]); line(r.x, r.y, s.X, s.R); });
  pen.setLineDash([]);
  pen.strokeStyle = accent; pen.lineWidth = 2.25; line(v.x, v.smooth, s.X, s.Y);
  if (hover != null) {
    const x = s.X(v.x[hover]);
    pen.strokeStyle = muted; pen.lineWidth = 1; pen.beginPath(); pen.moveTo(x, PAD.top); pen.lineTo(x, height - PAD.bottom); pen.stroke();
    if (v.smooth[hover] != null) { pen.fillStyle = accent; pen.beginPath(); pen.arc(x, s.Y(v.smooth[hover]), 4, 0, 7); pen.fill(); }
  }
  pen.restore();
  pen.textAlign = "left"; pen.textBaseline = "middle"; pen.fillStyle = RATE_COLOURS[0];
  if (v.rates.length) for (const y of ticks(0, s.rate * 1.06, 4)) pen.fillText(y ? y.toExponential(1).replace("e+", "e") : "0", width - PAD.right + 7, s.R(y));
  labels(v, accent);
  readOut(v, s);
}

// One line stands for all groups that share a rate; with very many groups the first few are named.
const partName = (names, words) => {
  const said = names.slice(0, 3).map((n) => (words.parts || {})[n] || n).join(", ");
  return names.length > 3 ? said + " +" + (names.length - 3) : said;
};

function labels(v, accent) {
  const entries = [[v.words.raw, accent, 0.35], [v.words.smooth, accent, 1], ...v.rates.map((r, i) => [(v.words.rate || "") + (v.rates.length > 1 || r.names[0] !== "all" ? " (" + partName(r.names, v.words) + ")" : ""), rateColour(i), 1])];
  const more = entries.length - MOST_NAMES - 2;
  if (more > 0) entries.splice(MOST_NAMES + 2, more, ["+" + more, rateColour(0), 0.3]);
  legend.replaceChildren(...entries.map(([word, ink, alpha]) => {
    const entry = document.createElement("span"), bar = document.createElement("i");
    bar.style.background = ink; bar.style.opacity = alpha;
    entry.append(bar, document.createTextNode(word || ""));
    return entry;
  }));
  find(".lc-log span").textContent = v.words.log || "";
  canvas.setAttribute("aria-label", v.words.title || "");
}

function readOut(v, s) {
  tip.hidden = hover == null;
  if (hover == null) return;
  const rows = [[v.words.step, v.x[hover].toLocaleString("en")], [v.words.raw, number(v.raw[hover])], [v.words.smooth, number(v.smooth[hover])]];
  for (const r of v.rates.slice(0, MOST_NAMES)) { let i = r.x.findIndex((x) => x >= v.x[hover]); if (i < 0) i = r.x.length - 1; rows.push([v.words.rate + (v.rates.length > 1 ? " (" + partName(r.names, v.words) + ")" : ""), number(r.y[i])]); }
  tip.replaceChildren(...rows.map(([word, value]) => { const row = document.createElement("div"); row.textContent = word + ": " + value; return row; }));
  const x = s.X(v.x[hover]), wide = tip.offsetWidth;
  tip.style.left = Math.max(4, x + 14 + wide > s.width ? x - 14 - wide : x + 14) + "px";
}

const later = () => { if (!frame) frame = requestAnimationFrame(draw); };

function point(event) {
  const v = data();
  if (!v.x.length) return;
  const target = scales().step(event.clientX - canvas.getBoundingClientRect().left);
  let a = 0, b = v.x.length - 1;
  while (b - a > 1) { const m = (a + b) >> 1; if (v.x[m] < target) a = m; else b = m; }
  hover = target - v.x[a] < v.x[b] - target ? a : b;
  later();
}

canvas.addEventListener("pointermove", point);
canvas.addEventListener("pointerdown", point);
canvas.addEventListener("pointerleave", () => { hover = null; later(); });
canvas.addEventListener("keydown", (event) => {
  const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key], count = data().x.length;
  if (!way || !count) return;
  hover = Math.min(count - 1, Math.max(0, (hover == null ? count - 1 : hover + way * (event.shiftKey ? 20 : 1))));
  event.preventDefault(); later();
});
canvas.addEventListener("blur", () => { hover = null; later(); });
logBox.addEventListener("change", later);
new ResizeObserver(later).observe(canvas);
new MutationObserver(later).observe(document.body, { attributes: true, attributeFilter: ["class"] });
watch("value", () => { if (hover != null && hover >= data().x.length) hover = null; later(); });
later();
