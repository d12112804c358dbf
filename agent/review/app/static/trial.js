"use strict";

// The bars of an ablation, in the colours of the page's light or dark scheme.
const {plots} = paretune.json("page");
function draw() {
  const style = getComputedStyle(document.documentElement);
  const coloured = (value) => JSON.parse(JSON.stringify(value), (key, item) =>
    typeof item === "string" && item.startsWith("--") ? style.getPropertyValue(item).trim() : item);
  for (const plot of plots) {
    const axis = {gridcolor: "--grid", zeroline: true, zerolinecolor: "--muted", automargin: true};
    Plotly.react(plot.id, coloured(plot.data), coloured({
      ...plot.layout, xaxis: {...axis, ...plot.layout.xaxis}, yaxis: {...axis, ...plot.layout.yaxis}, margin: {l: 40, r: 16, t: 8, b: 44},
      paper_bgcolor: "--paper", plot_bgcolor: "--paper", font: {family: getComputedStyle(document.body).fontFamily, size: 12.5, color: "--ink"},
    }), {displayModeBar: false, responsive: true});
  }
}
draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
