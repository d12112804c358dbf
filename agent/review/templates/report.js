"use strict";

// Plots, in the colours of the page's light or dark scheme.
const plots = JSON.parse(document.getElementById("plots").textContent);
const scheme = matchMedia("(prefers-color-scheme: dark)");
function coloured(value) {
  const style = getComputedStyle(document.documentElement);
  return JSON.parse(JSON.stringify(value), (key, item) =>
    typeof item === "string" && item.startsWith("--") ? style.getPropertyValue(item).trim() : item);
}
function drawPlots() {
  const ink = "--ink", font = getComputedStyle(document.body).fontFamily, narrow = innerWidth < 700;
  for (const plot of plots) {
    const axis = {gridcolor: "--grid", linecolor: "--line", zeroline: false, automargin: true, tickfont: {color: "--muted"}};
    const {xaxis, yaxis, ...rest} = plot.layout;
    const layout = coloured({
      ...rest, font: {family: font, size: 12.5, color: ink}, paper_bgcolor: "--paper", plot_bgcolor: "--paper",
      margin: {l: 52, r: 16, t: 24, b: 48}, showlegend: false, hovermode: "closest", dragmode: narrow ? false : "zoom",
      hoverlabel: {bgcolor: "--raised", bordercolor: "--line", font: {color: ink, family: font, size: 12.5}, align: "left"},
      xaxis: {...axis, ...xaxis}, yaxis: {...axis, ...yaxis},
    });
    const isNamed = (trace) => trace.mode === "markers+text";
    const data = coloured(plot.data).map((trace) => isNamed(trace) ? {...trace, mode: "markers"} : trace);
    const named = plot.data.filter(isNamed).map((trace) => [trace.x[0], trace.y[0], trace.text[0]]);
    const element = document.getElementById(plot.id);
    const place = () => Plotly.relayout(element, {annotations: [...(layout.annotations ?? []),
      ...labelled(element, named).map((label) => coloured({...label, font: {color: ink}, arrowcolor: "--muted"}))]});
    Plotly.react(element, data, layout, {displayModeBar: false, responsive: true}).then(() => {
      if (!named.length) return;
      place();
      element.removeAllListeners("plotly_relayout");
      element.on("plotly_relayout", (changed) => { if (!("annotations" in changed)) place(); });
    });
  }
}
drawPlots();
scheme.addEventListener("change", drawPlots);

// Sorting the table of configurations.
const table = document.getElementById("all");
const headings = [...table.tHead.rows[0].cells];
headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
  const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  headings.forEach((other) => other.setAttribute("aria-sort", "none"));
  heading.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
  const value = (row) => row.cells[column].dataset.value;
  const compare = (a, b) => isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => direction * compare(value(a), value(b))));
}));

// Enlarged pictures: the arrow keys change between the configurations of one request, in place.
const viewer = document.getElementById("viewer");
let cards = [], shown = 0;
function show(index) {
  shown = (index + cards.length) % cards.length;
  const picture = cards[shown].querySelector("img"), large = viewer.querySelector("img");
  large.src = picture.src;
  large.alt = picture.alt;
  large.className = picture.className;
  viewer.querySelector("p").innerHTML = cards[shown].querySelector("figcaption").innerHTML;
}
for (const card of document.querySelectorAll(".card")) {
  const picture = card.querySelector("img");
  const sharpen = () => picture.classList.toggle("pixelated", picture.naturalWidth > 0 && picture.naturalWidth <= 256);
  picture.addEventListener("load", sharpen);
  sharpen();
  card.querySelector("button").addEventListener("click", () => {
    cards = [...card.parentElement.children];
    show(cards.indexOf(card));
    viewer.showModal();
  });
}
viewer.addEventListener("click", (event) => {
  const {step, home, close} = event.target.dataset;
  if (step) show(shown + Number(step));
  else if (home !== undefined) show(0);
  else if (close !== undefined || event.target === viewer) viewer.close();
});
viewer.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") show(shown - 1);
  if (event.key === "ArrowRight") show(shown + 1);
});
