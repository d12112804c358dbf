"use strict";

// Two pictures on one stage. Both have the same transform, so whatever zooms or moves one moves the other.
const page = paretune.json("page");
const field = (id) => document.getElementById(id);
const stage = field("stage"), over = field("over");
const view = {name: "wipe", scale: 1, x: 0, y: 0, wipe: 50, flicked: false, timer: null};
const asked = new URLSearchParams(location.search);
const said = field("over-tag").textContent;
stage.classList.toggle("no-tile", !page.tile);

field("reference").src = page.reference;
field("candidate").src = page.candidate;

function paneSize() {
  const box = over.getBoundingClientRect();
  return [box.width, box.height];
}
function fitScale() {
  const [width, height] = paneSize();
  return Math.min(width / page.width, height / page.height);
}
// As tall as the pictures need, and no taller than the window.
function shape() {
  const narrow = innerWidth <= 700, beside = view.name === "side", across = beside && !narrow ? 2 : 1, down = beside && narrow ? 2 : 1;
  const wanted = stage.clientWidth / across * page.height / page.width * down, most = innerHeight * (narrow ? 0.8 : 0.74);
  stage.style.height = `${Math.round(Math.max(260, Math.min(wanted, most)))}px`;
}
function fit() {
  shape();
  const [width, height] = paneSize();
  view.scale = fitScale();
  view.x = (width - page.width * view.scale) / 2;
  view.y = (height - page.height * view.scale) / 2;
  place();
}
function zoomAt(factor, x, y) {
  const scale = Math.min(Math.max(view.scale * factor, fitScale() / 2), 32);
  view.x = x - (x - view.x) * scale / view.scale;
  view.y = y - (y - view.y) * scale / view.scale;
  view.scale = scale;
  place();
}
function place() {
  const transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
  for (const layer of stage.querySelectorAll(".layer")) {
    layer.style.transform = transform;
    layer.classList.toggle("sharp", view.scale >= 2);
  }
  if (page.tile) {
    const [x, y, width, height] = page.tile;
    for (const frame of stage.querySelectorAll(".frame")) {
      frame.style.transform = `translate(${view.x + x * view.scale}px, ${view.y + y * view.scale}px)`;
      frame.style.width = `${width * view.scale}px`;
      frame.style.height = `${height * view.scale}px`;
    }
  }
  field("zoom").textContent = `${Math.round(100 * view.scale)} %`;
  const cut = paneSize()[0] * view.wipe / 100;
  over.style.clipPath = view.name === "wipe" ? `inset(0 0 0 ${cut}px)` : "none";
  field("edge").style.transform = `translateX(${cut}px)`;
}
function show(name) {
  view.name = name;
  stage.dataset.view = name;
  for (const button of document.querySelectorAll("[data-view]:is(button)")) button.setAttribute("aria-pressed", String(button.dataset.view === name));
  for (const tools of ["wipe", "flicker", "difference"]) field(`${tools}-tools`).hidden = tools !== name;
  field("difference").hidden = name !== "difference";
  if (name === "difference" && !field("difference").src) field("difference").src = page.difference;
  field("candidate").hidden = name === "difference";
  field("over-tag").textContent = name === "difference" ? "difference" : said;
  flick(false);
  if (name !== "flicker") speed(0);
  asked.set("view", name);
  history.replaceState(null, "", `?${asked}`);
  fit();
}
function flick(flicked) {
  view.flicked = flicked;
  over.classList.toggle("away", view.name === "flicker" && flicked);
}
function speed(perSecond) {
  field("speed").value = perSecond;
  field("speed-out").textContent = perSecond ? `${perSecond} a second` : "off";
  clearInterval(view.timer);
  if (perSecond) view.timer = setInterval(() => flick(!view.flicked), 1000 / perSecond);
}
function tile(shown) {
  stage.classList.toggle("with-tile", shown);
  field("tile-button").setAttribute("aria-pressed", String(shown));
  if (!shown) { fit(); return; }
  const [x, y, width, height] = page.tile, [paneWidth, paneHeight] = paneSize();
  view.scale = Math.max(fitScale(), Math.min(paneWidth / width, paneHeight / height) / 3);
  view.x = paneWidth / 2 - (x + width / 2) * view.scale;
  view.y = paneHeight / 2 - (y + height / 2) * view.scale;
  place();
}

for (const button of document.querySelectorAll("[data-view]:is(button)")) button.addEventListener("click", () => show(button.dataset.view));
field("wipe").addEventListener("input", () => { view.wipe = Number(field("wipe").value); place(); });
field("speed").addEventListener("input", () => speed(Number(field("speed").value)));
field("flick").addEventListener("click", () => flick(!view.flicked));
const middle = () => paneSize().map((side) => side / 2);
field("in").addEventListener("click", () => zoomAt(1.5, ...middle()));
field("out").addEventListener("click", () => zoomAt(1 / 1.5, ...middle()));
field("fit").addEventListener("click", fit);
field("tile-button")?.addEventListener("click", () => tile(!stage.classList.contains("with-tile")));

// Dragging moves; near the edge of a wipe it moves the edge. Two fingers zoom.
const fingers = new Map();
function inPane(x, y) {
  const boxes = [...stage.querySelectorAll(".pane")].map((pane) => pane.getBoundingClientRect());
  const box = boxes.findLast((one) => x >= one.left && x <= one.right && y >= one.top && y <= one.bottom) ?? boxes[0];
  return [x - box.left, y - box.top];
}
let grabbed = null;
stage.addEventListener("pointerdown", (event) => {
  fingers.set(event.pointerId, event);
  stage.setPointerCapture(event.pointerId);
  const from = stage.getBoundingClientRect().left;
  const edge = view.name === "wipe" && Math.abs(event.clientX - from - paneSize()[0] * view.wipe / 100) < 24;
  grabbed = edge ? "edge" : "picture";
});
stage.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const box = stage.getBoundingClientRect();
  if (fingers.size === 2) {
    const other = [...fingers.values()].find((one) => one.pointerId !== event.pointerId);
    const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    zoomAt(apart(event) / Math.max(apart(before), 1), ...inPane((event.clientX + other.clientX) / 2, (event.clientY + other.clientY) / 2));
  } else if (grabbed === "edge") {
    view.wipe = Math.min(100, Math.max(0, 100 * (event.clientX - box.left) / paneSize()[0]));
    field("wipe").value = view.wipe;
    place();
  } else {
    view.x += event.clientX - before.clientX;
    view.y += event.clientY - before.clientY;
    place();
  }
  fingers.set(event.pointerId, event);
});
for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => fingers.delete(event.pointerId));
stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoomAt(Math.exp(-event.deltaY / 400), ...inPane(event.clientX, event.clientY));
}, {passive: false});

const KEYS = {
  w: () => show("wipe"), f: () => show("flicker"), s: () => show("side"), d: () => show("difference"), t: () => page.tile && tile(!stage.classList.contains("with-tile")),
  "+": () => zoomAt(1.5, ...middle()), "-": () => zoomAt(1 / 1.5, ...middle()), 0: fit, " ": () => { if (view.name !== "flicker") show("flicker"); flick(!view.flicked); },
  "[": () => field("before")?.click(), "]": () => field("after")?.click(),
  ArrowLeft: () => { view.x += 40; place(); }, ArrowRight: () => { view.x -= 40; place(); }, ArrowUp: () => { view.y += 40; place(); }, ArrowDown: () => { view.y -= 40; place(); },
};
document.addEventListener("keydown", (event) => {
  const onStage = event.target === stage, typing = event.target.matches("input, select, textarea, button, a");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key.startsWith("Arrow") && !onStage) return;
  if (event.key === " " && typing) return;
  if (typing && event.target.matches("select, textarea, input:not([type=range])")) return;
  const action = KEYS[event.key];
  if (action) { event.preventDefault(); action(); }
});
addEventListener("resize", fit);
show(["wipe", "flicker", "side", "difference"].includes(asked.get("view")) ? asked.get("view") : "wipe");
