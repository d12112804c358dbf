"use strict";

// Confirming a choice, and exporting it: the server does the work, this shows how far it is.
const page = paretune.json("page");
const field = (id) => document.getElementById(id);
const base = `/studies/${page.study}`;

field("confirm")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const said = field("confirm-said"), by = field("by").value;
  try {
    await paretune.send(`${base}/choose/${page.trial}`, {by, note: field("note").value});
    paretune.person = by;
    location.reload();
  } catch (error) { said.textContent = error.message; }
});
if (field("by")) field("by").value = paretune.person;

function show(state) {
  if (!state || !field("export-state")) return;
  field("export-state").hidden = false;
  field("bar").value = state.state === "done" ? 1 : state.done / Math.max(state.total, 1);
  field("bar").hidden = state.state === "failed";
  field("export-said").textContent = state.state === "done" ? `Exported to ${state.folder}` : state.text;
  field("export-said").classList.toggle("note", state.state === "failed");
  field("ready").hidden = state.state !== "done";
  field("export").querySelector("button").disabled = ["waiting", "running"].includes(state.state);
  if (["waiting", "running"].includes(state.state)) setTimeout(ask, 400);
}
async function ask() {
  try { show(await paretune.get(`${base}/export/${page.trial}`)); }
  catch (error) { field("export-said").textContent = error.message; }
}
field("export")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  try { show(await paretune.send(`${base}/export/${page.trial}`, {unconfirmed: field("unconfirmed")?.checked ?? false})); }
  catch (error) { show({state: "failed", text: error.message}); }
});
show(page.state);
