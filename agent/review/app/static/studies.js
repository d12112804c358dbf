"use strict";

// The list brings itself up to date: the server sends it whenever something in it has changed.
const live = document.getElementById("live");
const rows = new Map([...document.querySelectorAll("tr[data-study]")].map((row) => [row.dataset.study, row]));

function state(one) {
  if (one.running) return [["chip chip-near-lossless", "running"], ["small", one.left]];
  if (one.best === null) return [["chip chip-none", "no gain"]];
  return one.confirmed ? [["chip chip-faster", "confirmed"]] : [["chip chip-limit", "unconfirmed"]];
}

function update(studies) {
  const names = new Set(studies.map((one) => one.name));
  if (names.size !== rows.size || [...names].some((name) => !rows.has(name))) { location.reload(); return; }
  for (const one of studies) {
    if (one.problem) continue;
    const row = rows.get(one.name), put = (field, text) => {
      const cell = row.querySelector(`[data-field="${field}"]`);
      if (cell && cell.textContent !== String(text)) cell.textContent = text;
    };
    put("trials", one.trials);
    put("failures", one.failures);
    put("over_reference", one.over_reference || "no gain yet");
    put("over_compile", one.over_compile || "not known");
    const cell = row.querySelector('[data-field="state"]');
    if (cell) cell.replaceChildren(...state(one).map(([kind, text]) => paretune.element("span", {class: kind}, text)));
  }
}

paretune.news(({studies, problem}) => {
  live.textContent = problem ?? "";
  if (studies) update(studies);
}, () => { live.textContent = "The dashboard does not answer: what is shown may be old."; });
