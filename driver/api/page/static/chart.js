// Draws the last hour of some series by uPlot, with the values at the cursor, else the newest ones.
// `make page` fetches uPlot; the page works without.

import { h } from "./dom.js";
import { clock } from "./words.js";

const HEIGHT = 130, HOUR = 3600, GAP = 25; // seconds without a sample: the line is broken
const FONT = "12px system-ui, sans-serif";
const uPlot = await import("./vendor/uplot/uPlot.esm.js").then((found) => found.default, () => null);
if (uPlot) document.head.prepend(h("link", { rel: "stylesheet", href: "static/vendor/uplot/uPlot.min.css" }));

export const drawn = uPlot !== null;
const charts = new Map(); // title -> what it shows
const plots = new Map(); // element -> uPlot
const sizes = new ResizeObserver((seen) => seen.forEach(({ target }) => plots.get(target)?.setSize({ width: target.clientWidth, height: HEIGHT })));

function top(most) {
  if (!(most > 0)) return 1;
  const step = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((times) => times * step).find((each) => each >= most * 0.999);
}

// As uPlot takes them: times, then each series' values; a gap is a time without values.
function columns(samples, series) {
  const found = [[], ...series.map(() => [])];
  for (const sample of samples) {
    const last = found[0].at(-1) ?? Infinity;
    if (sample.At - last > GAP) [last + GAP / 2, ...series.map(() => null)].forEach((value, at) => found[at].push(value));
    [sample.At, ...series.map((each) => each.of(sample))].forEach((value, at) => found[at].push(value));
  }
  return found;
}

// title; samples: oldest first, with At; series: [{name, class, of: sample -> number}]; shown: number -> text
export function chart(title, samples, series, shown) {
  const end = samples.at(-1)?.At ?? 0;
  const kept = samples.filter((sample) => end - sample.At <= HOUR);
  const now = series.map((each) => `${each.name} ${kept.length ? shown(each.of(kept.at(-1))) : "–"}`).join(", ");
  charts.set(title, { samples, series, shown, end, data: columns(kept, series) });
  return h("figure", { class: "chart", "data-key": `chart ${title}` },
    h("figcaption", null, h("b", null, title), !drawn && h("span", { class: "now" }, ` ${now}`)),
    drawn && h("div", { class: "plot", "data-key": "plot", "data-own": title, tabindex: 0, role: "img", "aria-label": `${title}, the last hour; now: ${now}` }));
}

// Draw the charts that are in the page, and forget those that are no more.
export function draw() {
  for (const element of plots.keys()) if (!element.isConnected) forget(element);
  for (const element of document.querySelectorAll(".plot")) {
    const wanted = charts.get(element.dataset.own);
    if (!plots.has(element)) begin(element);
    else if (plots.get(element).samples !== wanted.samples) plots.get(element).setData(wanted.data);
    plots.get(element).samples = wanted.samples;
  }
}

function forget(element) {
  sizes.unobserve(element);
  plots.get(element).destroy();
  plots.delete(element);
}

function begin(element) {
  const of = () => charts.get(element.dataset.own);
  const plot = new uPlot(options(of, element.clientWidth), of().data, element);
  plots.set(element, plot);
  sizes.observe(element);
  element.onkeydown = (event) => step(event, plot);
  element.onblur = () => plot.setCursor({ left: -10, top: -10 });
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function options(of, width) {
  const { series } = of();
  const axis = { stroke: () => colour("dim"), font: FONT, ticks: { show: false }, grid: { stroke: () => colour("rule"), width: 1 } };
  // No cursor: the newest.
  const value = (then) => (plot, found, at, index) => {
    const told = index === null || index === undefined ? plot.data[at].at(-1) : found;
    return told === null || told === undefined ? "–" : then(told);
  };
  return {
    width, height: HEIGHT, padding: [8, 8, 0, 0],
    cursor: { y: false, drag: { x: false, y: false, setScale: false } },
    legend: { markers: { dash: (plot, at) => (series[at - 1].class === "overlay" ? "dashed" : "solid") } },
    scales: { x: { time: false, range: () => [of().end - HOUR, of().end] }, y: { range: (plot, least, most) => [0, top(most)] } },
    axes: [
      { ...axis, size: 24, space: 50, incrs: [600, 900, 1800, HOUR], values: (plot, splits) => splits.map((at) => (of().end ? clock(at).slice(0, 5) : "")) },
      { ...axis, size: 76, splits: (plot, at, least, most) => [0, most / 2, most], values: (plot, splits) => splits.map(of().shown) },
    ],
    series: [{ label: "at", value: value(clock) }, ...series.map((each) => ({
      label: each.name, width: 2, dash: each.class === "overlay" ? [6, 3] : [], stroke: () => colour(each.class === "opened" ? "ink" : each.class),
      value: value(of().shown), points: { show: false, size: 5, filter: alone },
    }))],
  };
}

// Samples that no line goes to are points.
function alone(plot, at) {
  const values = plot.data[at], none = (index) => values[index] === null || values[index] === undefined;
  return values.flatMap((value, index) => (!none(index) && none(index - 1) && none(index + 1) ? [index] : []));
}

function step(event, plot) {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key], times = plot.data[0];
  if (!by || !times.length) return;
  event.preventDefault();
  const at = Math.min(times.length - 1, Math.max(0, (plot.cursor.idx ?? times.length) + by));
  plot.setCursor({ left: plot.valToPos(times[at], "x"), top: 0 });
}

// Some colours are taken once.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  [...plots.keys()].forEach(forget);
  draw();
});
