"use strict";

// The front: two figures, three limits. The address bar holds the whole state, so a link shows the same.
const page = paretune.json("page");
const {points, verdicts} = page;
const field = (id) => document.getElementById(id);
const body = document.querySelector("#trials tbody");
const rows = new Map([...body.querySelectorAll("tr"), ...(field("more-rows")?.content.querySelectorAll("tr") ?? [])].map((row) => [Number(row.dataset.number), row]));
const MANY = 500;  // points beyond which only what is cheap follows a slider while it moves
const STYLES = {  // a shape and a colour each, so that neither alone has to be told apart
  "bit-exact": ["circle", "--v0"], "imperceptible": ["square", "--v1"], "near-lossless": ["diamond", "--v2"],
  "visible": ["triangle-up", "--v3"], "different": ["x", "--v4"], "broken": ["cross", "--v4"], "not-assessed": ["circle-open", "--muted"],
};
const SIGNS = {circle: "●", square: "■", diamond: "◆", "triangle-up": "▲", x: "✖", cross: "✚", "circle-open": "○"};

const range = (name) => {
  const values = points.map((point) => point.figures[name]).filter((value) => value !== undefined);
  return values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
};
// Sliders move over what was measured; memory stops at what GPUs have as well.
const memoryStops = (() => {
  const [low, high] = range("peak_vram_gib"), stops = new Set([16, 24, 48, 80]);
  for (let i = 0; i <= 40; i++) stops.add(Number((low + (high - low) * i / 40).toPrecision(3)));
  return [...stops].filter((gib) => gib >= low * 0.95).sort((a, b) => a - b);
})();
const coldStops = (() => {
  const [low, high] = range("cold_start_s");
  return [...new Set(Array.from({length: 41}, (_, i) => Number((low + (high - low) * i / 40).toPrecision(3))))];
})();
const nearest = (stops, value) => stops.reduce((best, stop, i) => Math.abs(stop - value) < Math.abs(stops[best] - value) ? i : best, 0);

for (const id of ["x", "y"]) {
  field(id).append(...page.axes.map((axis) => paretune.element("option", {value: axis.name}, axis.label)));
}
field("memory").max = memoryStops.length;
field("cold").max = coldStops.length;
field("memory-marks").append(...[16, 24, 48, 80].filter((gib) => memoryStops.includes(gib)).map((gib) => {
  const mark = paretune.element("button", {type: "button"}, `${gib} GiB`);
  mark.addEventListener("click", () => { field("memory").value = memoryStops.indexOf(gib); changed(); });
  return mark;
}));

const state = {x: "latency_ms", y: page.assessed ? "drift" : "peak_vram_gib", memory: null, cold: null, verdict: null, sort: "latency_ms", down: false};

function readAddress() {
  const asked = new URLSearchParams(location.search), names = page.axes.map((axis) => axis.name);
  for (const axis of ["x", "y"]) if (names.includes(asked.get(axis))) state[axis] = asked.get(axis);
  for (const limit of ["memory", "cold"]) {
    const value = asked.get(limit);
    state[limit] = value !== null && Number.isFinite(Number(value)) ? Number(value) : null;
  }
  state.verdict = verdicts.includes(asked.get("verdict")) ? asked.get("verdict") : null;
  if (asked.get("sort")) [state.sort, state.down] = [asked.get("sort").replace(/^-/, ""), asked.get("sort").startsWith("-")];
}
function writeAddress() {
  const said = new URLSearchParams({x: state.x, y: state.y});
  for (const limit of ["memory", "cold", "verdict"]) if (state[limit] !== null) said.set(limit, state[limit]);
  if (state.sort !== "latency_ms" || state.down) said.set("sort", (state.down ? "-" : "") + state.sort);
  history.replaceState(null, "", `?${said}`);
}
function showControls() {
  field("x").value = state.x;
  field("y").value = state.y;
  field("memory").value = state.memory === null ? memoryStops.length : nearest(memoryStops, state.memory);
  field("cold").value = state.cold === null ? coldStops.length : nearest(coldStops, state.cold);
  field("verdict").value = state.verdict === null ? verdicts.length : verdicts.indexOf(state.verdict);
  const say = (id, words) => { field(`${id}-out`).textContent = words; field(id).setAttribute("aria-valuetext", words); };
  say("memory", state.memory === null ? "any" : `${state.memory} GiB`);
  say("cold", state.cold === null ? "any" : `${state.cold} s`);
  say("verdict", state.verdict ?? "any");
  field("verdict").disabled = !page.assessed;
}
const keeps = (point) =>
  (state.memory === null || point.figures.peak_vram_gib <= state.memory) &&
  (state.cold === null || point.figures.cold_start_s <= state.cold) &&
  (state.verdict === null || point.rank <= verdicts.indexOf(state.verdict));

// The plot.
const dark = matchMedia("(prefers-color-scheme: dark)");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const escaped = (text) => text.replace(/[&<>]/g, (sign) => ({"&": "&amp;", "<": "&lt;", ">": "&gt;"})[sign]);
const unitOf = (axis) => axis === "latency_ms" && range("latency_ms")[1] >= 2000 ? 1000 : 1;
const titleOf = (axis) => page.axes.find((one) => one.name === axis).label.replace(", ms", unitOf(axis) === 1000 ? ", s" : ", ms");
const hover = (point) => [
  `<b>trial ${point.number}</b>${point.label ? ` (${point.label})` : ""}`,
  ...escaped(point.text).split(" + "),
  `${Object.values(point.texts).join(", ")}`,
  `speed ${escaped(point.speed)}, pictures ${point.verdict}`,
  ...point.broken_limits.map((words) => `breaks a limit: ${escaped(words)}`),
].join("<br>");
function frontOf(found) {
  const sorted = [...found].sort((a, b) => a.figures[state.x] - b.figures[state.x] || a.figures[state.y] - b.figures[state.y]);
  let least = Infinity;
  return sorted.filter((point) => point.figures[state.y] < least && ((least = point.figures[state.y]), true));
}
function draw() {
  const {x, y} = state, unitX = unitOf(x), unitY = unitOf(y), ink = colour("--ink"), muted = colour("--muted");
  const has = points.filter((point) => x in point.figures && y in point.figures);
  const kept = has.filter(keeps), out = has.filter((point) => !keeps(point));
  const xs = (found) => found.map((point) => point.figures[x] / unitX), ys = (found) => found.map((point) => point.figures[y] / unitY);
  const trace = (found, marker, more = {}) => ({
    type: "scatter", mode: "markers", x: xs(found), y: ys(found), marker, text: found.map(hover), hovertemplate: "%{text}<extra></extra>",
    customdata: found.map((point) => point.number), cliponaxis: false, ...more,
  });
  const sound = (point) => !point.broken_limits.length, best = frontOf(kept.filter(sound));
  const hollow = (symbol) => symbol.endsWith("open") ? `${symbol}-dot` : `${symbol}-open`;
  const symbolOf = (point) => sound(point) ? STYLES[point.verdict][0] : hollow(STYLES[point.verdict][0]);
  const traces = [
    trace(out, {size: 6, color: muted, opacity: 0.22, symbol: "circle"}, {hoverinfo: "skip", hovertemplate: null}),
    {type: "scatter", mode: "lines", x: xs(best), y: ys(best), line: {shape: "hv", color: muted, width: 1, dash: "dot"}, hoverinfo: "skip"},
  ];
  for (const [verdict, [, shade]] of Object.entries(STYLES)) for (const whole of [true, false]) {
    const found = kept.filter((point) => point.verdict === verdict && !point.label && sound(point) === whole);
    if (!found.length) continue;
    const symbol = symbolOf(found[0]), open = symbol.includes("open");
    traces.push(trace(found, {symbol, color: colour(shade), size: 10, line: {color: open ? colour(shade) : colour("--raised"), width: open ? 2 : 1}}));
  }
  const named = kept.filter((point) => point.label && x in point.figures && y in point.figures);
  traces.push(trace(named, {
    symbol: named.map(symbolOf), color: named.map((point) => colour(STYLES[point.verdict][1])), size: 15,
    line: {color: ink, width: 2},
  }));
  const shapes = [], annotations = [];
  for (const [axis, other, name, unit] of [["x", "y", x, unitX], ["y", "x", y, unitY]]) {
    const band = page.floors[name];
    if (!band) continue;
    shapes.push({type: "rect", layer: "below", line: {width: 0}, fillcolor: colour("--line"), opacity: 0.6,
      [`${axis}ref`]: axis, [`${axis}0`]: band[0] / unit, [`${axis}1`]: band[1] / unit, [`${other}ref`]: "paper", [`${other}0`]: 0, [`${other}1`]: 1});
    annotations.push({text: name === "drift" ? "reordering floor" : "noise floor", showarrow: false, font: {size: 11, color: muted},
      [`${axis}ref`]: axis, [axis]: band[1] / unit, [`${other}ref`]: "paper", [other]: 0.99, textangle: axis === "x" ? -90 : 0,
      xanchor: axis === "x" ? "left" : "right", yanchor: axis === "x" ? "top" : "bottom"});
  }
  const axis = (title) => ({title: {text: title, font: {size: 13}}, rangemode: "tozero", gridcolor: colour("--grid"), linecolor: colour("--line"),
    zeroline: false, automargin: true, tickfont: {color: muted}});
  const layout = {
    showlegend: false, hovermode: "closest", dragmode: innerWidth < 700 ? false : "zoom", margin: {l: 56, r: 20, t: 20, b: 48},
    paper_bgcolor: colour("--raised"), plot_bgcolor: colour("--raised"), font: {family: getComputedStyle(document.body).fontFamily, size: 12.5, color: ink},
    hoverlabel: {bgcolor: colour("--raised"), bordercolor: colour("--edge"), align: "left", font: {color: ink}},
    xaxis: axis(titleOf(x)), yaxis: axis(titleOf(y)), shapes, annotations, uirevision: `${x} ${y}`,
  };
  for (const node of document.querySelectorAll("#plot path.out")) node.classList.remove("out");
  const drawn = Plotly.react("plot", traces, layout, {displayModeBar: false, responsive: true});
  placeNames = () => {
    const {xaxis, yaxis, _size: {w: width}} = field("plot")._fullLayout, taken = [];
    if (page.floors[x]) taken.push([xaxis.l2p(page.floors[x][1] / unitX) + 8, 38, 18, 76]);
    if (page.floors[y]) taken.push([width - 48, yaxis.l2p(page.floors[y][1] / unitY) - 8, 96, 18]);
    const labels = labelled(field("plot"), named.map((point) => [point.figures[x] / unitX, point.figures[y] / unitY, `<b>${point.label}</b>`]), taken)
      .map((label) => ({...label, font: {color: ink, size: 12.5}, arrowcolor: muted}));
    return Plotly.relayout("plot", {annotations: [...annotations, ...labels]});
  };
  drawn.then(placeNames);
  const shown = new Set(kept.map((point) => point.verdict));
  field("key").replaceChildren(
    ...Object.entries(STYLES).filter(([verdict]) => shown.has(verdict)).map(([verdict, [symbol]]) =>
      paretune.element("li", {}, paretune.element("span", {class: `sign sign-${verdict}`, "aria-hidden": true}, SIGNS[symbol]), ` ${verdict}`)),
    paretune.element("li", {}, "large and framed: the named ones"), paretune.element("li", {}, "dotted: best trade-offs of these two"),
    ...(kept.every(sound) ? [] : [paretune.element("li", {}, "hollow: breaks a limit of the study")]),
    ...(out.length ? [paretune.element("li", {}, "faint: outside of the limits")] : []));
}

let placeNames = () => {};

// While a slider moves, points only fade: drawing thousands anew takes too long.
function fade() {
  const kept = new Set(points.filter(keeps).map((point) => point.number));
  for (const node of document.querySelectorAll("#plot .scatterlayer path.point")) node.classList.toggle("out", !kept.has(node.__data__?.data));
}

// The table.
let order = [], all = false;
function value(point, key) { return key === "number" || key === "rank" || key === "text" ? point[key] : point.figures[key]; }
function arrange() {
  order = [...points].sort((a, b) => {
    const [left, right] = [value(a, state.sort), value(b, state.sort)];
    const less = typeof left === "string" ? left.localeCompare(right) : (left ?? Infinity) - (right ?? Infinity);
    return (state.down ? -1 : 1) * less;
  });
  let first = true;  // latency and speed have one order: only one heading says so
  for (const button of document.querySelectorAll("#trials thead button")) {
    const sorted = button.dataset.key === state.sort && first;
    if (sorted) first = false;
    button.parentElement.setAttribute("aria-sort", !sorted ? "none" : state.down ? "descending" : "ascending");
  }
}
function fill() {
  const kept = order.filter(keeps), shown = all ? kept : kept.slice(0, page.rows);
  body.replaceChildren(...shown.map((point) => rows.get(point.number)));
  field("all-rows").hidden = shown.length === kept.length;
  field("all-rows").textContent = `Show all ${kept.length}`;
}
function count() {
  field("count").textContent = `${points.filter(keeps).length} of ${points.length} trials are within these limits.`;
}
field("all-rows").addEventListener("click", () => { all = true; fill(); });
for (const button of document.querySelectorAll("#trials thead button")) {
  button.addEventListener("click", () => {
    state.down = state.sort === button.dataset.key ? !state.down : false;
    state.sort = button.dataset.key;
    arrange();
    fill();
    writeAddress();
  });
}

// The picks: chosen by the server, as the command line chooses.
let asked = 0;
async function pick() {
  const mine = ++asked, limits = new URLSearchParams();
  for (const limit of ["memory", "cold", "verdict"]) if (state[limit] !== null) limits.set(limit, state[limit]);
  let found;
  try { found = await paretune.get(`/studies/${page.study}/picks?${limits}`); } catch (error) { field("count").textContent = error.message; return; }
  if (mine !== asked) return;
  const make = paretune.element, chip = (words, kind) => make("span", {class: `chip chip-${kind}`}, words);
  field("picks").replaceChildren(...found.map((one) => make("article", {class: "pick panel"}, make("h2", {}, one.title),
    ...(one.trial === null ? [make("p", {class: "muted"}, one.why)] : [
      make("p", {class: "big"}, make("a", {href: `/studies/${page.study}/trials/${one.trial}`}, `trial ${one.trial}`), " ", make("b", {}, one.latency)),
      make("p", {class: "figures"}, make("span", {}, one.speed), make("span", {}, one.memory), chip(one.verdict, one.verdict.replace(/ .*/, "")),
        ...(one.confirmed ? [chip("confirmed", "faster")] : [])),
      make("p", {class: "what"}, one.text)]),
    make("p", {class: "command"}, make("code", {}, ...one.command.split(" ").flatMap((word) => [make("span", {class: "word"}, word), " "]))))));
}
let waiting = null;
function changed() {
  const at = (id, stops) => Number(field(id).value) >= stops.length ? null : stops[Number(field(id).value)];
  Object.assign(state, {x: field("x").value, y: field("y").value, memory: at("memory", memoryStops), cold: at("cold", coldStops), verdict: at("verdict", verdicts)});
  show();
}
// What follows a slider at once, and what does when it rests: browsers allow few changes of the address in a second.
let frame = null;
function show() {
  showControls();
  frame ??= requestAnimationFrame(() => {
    frame = null;
    count();
    if (points.length > MANY) fade();
    else { fill(); draw(); }
  });
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    writeAddress();
    if (points.length > MANY) { fill(); draw(); }
    pick();
  }, 150);
}
field("controls").addEventListener("input", changed);
field("controls").addEventListener("submit", (event) => event.preventDefault());
field("controls").addEventListener("reset", (event) => { event.preventDefault(); Object.assign(state, {memory: null, cold: null, verdict: null}); show(); });
field("copy").addEventListener("click", async () => {
  try { await navigator.clipboard.writeText(location.href); field("copy").textContent = "Copied"; }
  catch { field("copy").textContent = "Copy it from the address bar"; }
  setTimeout(() => { field("copy").textContent = "Copy a link to this view"; }, 2000);
});
dark.addEventListener("change", draw);

readAddress();
showControls();
arrange();
fill();
count();
draw();
if (state.memory !== null || state.cold !== null || state.verdict !== null) pick();
document.getElementById("plot").on("plotly_relayout", (changed) => { if (!("annotations" in changed)) placeNames(); });
document.getElementById("plot").on("plotly_click", (event) => {
  const number = event.points[0]?.customdata;
  if (number !== undefined) location.href = `/studies/${page.study}/trials/${number}`;
});

// What was measured since is said, not put under the reader's hands.
paretune.news(({studies}) => {
  const more = (studies?.find((one) => one.name === page.study)?.trials ?? page.trials) - page.trials;
  if (more <= 0) return;
  const link = paretune.element("a", {href: ""}, "Show them");
  link.addEventListener("click", (event) => { event.preventDefault(); location.reload(); });
  field("more").hidden = false;
  field("more").replaceChildren(`${more} trial${more === 1 ? " was" : "s were"} measured since this page was opened. `, link);
});
