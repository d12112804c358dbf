"use strict";

// Names beside their points, each where nothing else is yet; farther away, with a line, where points are close.
// named: [x, y, text] of each point. taken: boxes where nothing may be written, as [middle x, middle y, width, height] in px.
function labelled(plot, named, taken = []) {
  const {xaxis, yaxis, _size: {w: width, h: height}} = plot._fullLayout;
  const at = named.map(([x, y]) => [xaxis.l2p(x), yaxis.l2p(y)]);
  const box = ([x, y, w, h]) => [x - w / 2, y - h / 2, x + w / 2, y + h / 2];
  const full = [...taken, ...at.map(([x, y]) => [x, y, 18, 18])].map(box);
  const free = ([left, top, right, bottom]) => top >= -14 && bottom <= height &&
    full.every((one) => right < one[0] || left > one[2] || bottom < one[1] || top > one[3]);
  const found = [];
  for (const i of at.keys()) {
    const [px, py] = at[i], [x, y, text] = named[i], w = 7.4 * text.replace(/<[^>]*>/g, "").length + 8, h = 18;
    if (px < 0 || py < 0 || px > width || py > height) continue;  // zoomed away
    const places = Array.from({length: 12}, (_, step) => 22 + 18 * step).flatMap((far) => [[1, -1], [-1, -1], [1, 1], [-1, 1]].map(([sx, sy]) =>
      [Math.min(Math.max(px + sx * (w / 2 + 4), w / 2), width - w / 2), py + sy * far]));
    const [cx, cy] = places.find(([cx, cy]) => free(box([cx, cy, w, h]))) ?? places[0];
    full.push(box([cx, cy, w, h]));
    found.push({x, y, ax: cx - px, ay: cy - py, text, showarrow: true, arrowhead: 0, arrowwidth: 1, standoff: 10, borderpad: 0});
  }
  return found;
}
