"use strict";

// Blind rating: the server gives pairs whose addresses say nothing; the next one is asked for when one is rated.
const page = paretune.json("page");
const field = (id) => document.getElementById(id);
const base = `/studies/${page.study}/blind`;
let pair = null, busy = false;

async function next() {
  const trial = field("of").value;
  const found = await paretune.send(base, {by: field("by").value, trial: trial === "" ? null : Number(trial)});
  pair = found.pair;
  begun(pair !== null);
  field("progress").hidden = false;
  field("progress").max = Math.max(found.total, 1);
  field("progress").value = found.done;
  if (pair === null) {
    field("said").textContent = found.total ? `You have rated all ${found.total} pictures. Thank you.`
      : "There is nothing to rate: every picture here is the same as the reference's.";
    return;
  }
  field("prompt").textContent = found.prompt;
  field("rater").textContent = field("by").value;
  await Promise.all(["left", "right"].map((side) => {
    field(side).src = found[side];
    return field(side).decode().catch(() => {});
  }));
  field("said").textContent = `${found.done} of ${found.total} rated by you`;
  closer(false);
  for (const side of ["left", "right"]) field(side).classList.toggle("sharp", field(side).naturalWidth <= 256);
}
// While somebody rates, the pictures have the page.
function begun(rating) {
  field("round").hidden = !rating;
  for (const id of ["intro", "who"]) field(id).hidden = rating;
}
field("change")?.addEventListener("click", () => { pair = null; begun(false); field("by").focus(); });
// One part of both pictures, at full size.
function closer(asked, across = 50, down = 50) {
  const shown = asked && field("left").naturalWidth > field("left").clientWidth;
  for (const side of ["left", "right"]) {
    field(side).classList.toggle("closer", shown);
    field(side).style.objectPosition = shown ? `${across}% ${down}%` : "";
  }
}
for (const side of ["left", "right"]) {
  field(side)?.addEventListener("click", (event) => {
    const box = event.target.getBoundingClientRect(), part = (at, length) => Math.min(100, Math.max(0, 100 * at / length));
    closer(!event.target.classList.contains("closer"), part(event.clientX - box.left, box.width), part(event.clientY - box.top, box.height));
  });
}
async function answer(better) {
  if (pair === null || busy) return;
  busy = true;
  try {
    await paretune.send(`${base}/${pair}`, {better, by: field("by").value});
    await next();
  } catch (error) { field("said").textContent = error.message; }
  busy = false;
}
if (field("who")) {
  field("by").value = paretune.person;
  field("who").addEventListener("submit", async (event) => {
    event.preventDefault();
    paretune.person = field("by").value;
    try { await next(); document.activeElement.blur(); } catch (error) { field("said").textContent = error.message; }
  });
  for (const button of document.querySelectorAll("[data-better]")) button.addEventListener("click", () => answer(button.dataset.better));
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select, button") || event.ctrlKey || event.metaKey || event.altKey) return;
    const better = {ArrowLeft: "left", ArrowRight: "right", " ": "same"}[event.key];
    if (event.key === "z" && pair !== null) closer(!field("left").classList.contains("closer"));
    if (better && pair !== null) { event.preventDefault(); answer(better); }
  });
}
