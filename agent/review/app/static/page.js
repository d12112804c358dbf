"use strict";

// What every page uses: writing with the page's token, and small helpers.
const paretune = {
  token: document.querySelector('meta[name="csrf-token"]').content,
  async send(url, data) {
    const answer = await fetch(url, {
      method: "POST", body: JSON.stringify(data),
      headers: {"Content-Type": "application/json", "Accept": "application/json", "X-CSRF-Token": this.token},
    });
    const text = await answer.text();
    let found = {};
    try { found = JSON.parse(text); } catch { found = {error: text.trim()}; }
    if (!answer.ok) throw new Error(found.error || `The server answered ${answer.status}.`);
    return found;
  },
  async get(url) {
    const answer = await fetch(url, {headers: {"Accept": "application/json"}});
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error || `The server answered ${answer.status}.`);
    return found;
  },
  element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children);
    return made;
  },
  // The list of studies, whenever something in it changes; while the page is looked at, because a browser has few
  // connections to one server.
  news(take, lost = () => {}) {
    let source = null;
    const follow = () => {
      if (document.hidden) { source?.close(); source = null; return; }
      if (source) return;
      source = new EventSource("/events");
      source.addEventListener("message", (event) => take(JSON.parse(event.data)));
      source.addEventListener("error", lost);
    };
    document.addEventListener("visibilitychange", follow);
    follow();
  },
  json(id) { return JSON.parse(document.getElementById(id).textContent); },
  // Who rates or chooses: asked once in this browser.
  get person() { try { return localStorage.getItem("paretune-person") || ""; } catch { return ""; } },
  set person(name) { try { localStorage.setItem("paretune-person", name); } catch { /* private window */ } },
};
