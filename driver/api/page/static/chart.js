// Draws the last hour of some series: an area of 600 x 120, one line each, and the newest value in words.

import { h, s } from "./dom.js";
import { clock } from "./words.js";

const WIDTH = 600, HEIGHT = 120, HOUR = 3600, GAP = 25; // seconds without a sample: the line is broken

function top(most) {
  if (!(most > 0)) return 1;
  const step = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((times) => times * step).find((each) => each >= most * 0.999);
}

// title; samples: oldest first, with At; series: [{name, class, of: sample -> number}]; shown: number -> text
export function chart(title, samples, series, shown) {
  const end = samples.at(-1)?.At ?? 0;
  const kept = samples.filter((sample) => end - sample.At <= HOUR);
  const most = top(Math.max(0, ...kept.flatMap((sample) => series.map((each) => each.of(sample)))));
  const x = (at) => (WIDTH * (1 - (end - at) / HOUR)).toFixed(1), y = (value) => (HEIGHT - 4 - (value / most) * (HEIGHT - 12)).toFixed(1);
  const paths = series.map((each) => {
    let d = "", last = -Infinity;
    for (const sample of kept) {
      // A sample alone is a point: a line of no length, with round ends.
      d += `${sample.At - last > GAP ? "M" : "L"}${x(sample.At)} ${y(each.of(sample))}${sample.At - last > GAP ? "h0" : ""}`;
      last = sample.At;
    }
    return s("path", { class: `line ${each.class}`, "stroke-width": 2, d });
  });
  const now = series.map((each) => `${each.name} ${kept.length ? shown(each.of(kept.at(-1))) : "–"}`).join(", ");
  return h("figure", { class: "chart", "data-key": `chart ${title}` },
    h("figcaption", null, h("b", null, title), " ", h("span", { class: "now" }, now)),
    s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}, the last hour; now: ${now}`, preserveAspectRatio: "none" },
      [0, 0.5, 1].map((part) => s("path", { class: "grid", d: `M0 ${y(most * part)}H${WIDTH}` })),
      paths),
    h("p", { class: "axis", "aria-hidden": "true" }, h("span", null, end ? `${clock(end - HOUR).slice(0, 5)}` : ""),
      h("span", null, `full height: ${shown(most)}`), h("span", null, end ? clock(end).slice(0, 5) : "")));
}
