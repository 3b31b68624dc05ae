// Follows the driver's events and shows the view that the address asks for.

import { draw } from "./chart.js";
import { h, morph, morphChildren } from "./dom.js";
import { parts } from "./links.js";
import { Model } from "./model.js";
import { Layout } from "./picture.js";
import { setFilter } from "./table.js";
import { navigation, view } from "./views.js";
import { age, clock, sentence } from "./words.js";

const HOUR = 3600, AGAIN_MS = 5000, LATE_MS = 8000;
const main = document.getElementById("main"), live = document.getElementById("live"), nav = document.getElementById("nav");
const layout = new Layout();
let reasons = {}, picture = null, samples = [], trouble = "", heard = 0, source = null;

if (new URLSearchParams(location.search).has("token")) history.replaceState(null, "", location.pathname + location.hash);

function say() {
  const late = heard && Date.now() - heard > LATE_MS;
  const text = trouble ? sentence(trouble) : late ? `no news for ${age((Date.now() - heard) / 1000)}` : picture ? `${picture.Ready === false ? "first rates are on their way" : "live"}, ${clock(picture.At)}` : "connecting…";
  morphChildren(live, [document.createTextNode(text)]);
  live.className = trouble || late ? "wrong" : "";
  document.body.classList.toggle("stale", Boolean(picture && (trouble || late)));
}

function show() {
  say();
  const where = parts(location.hash);
  morphChildren(nav, navigation(where[0]));
  if (!picture) return;
  const made = h("main", { id: "main", tabindex: -1, "data-shown": String(picture.At) });
  made.append(...view(new Model(picture, reasons), samples, layout, where).filter(Boolean));
  morph(main, made);
  draw();
  const title = main.querySelector("h1")?.textContent ?? "";
  document.title = title ? `${title} – slim` : "slim";
}

// Nobody is asked for a page that is not seen.
function follow() {
  source?.close();
  source = document.hidden ? null : new EventSource("events");
  if (source) listen(source);
}

function listen(events) {
  const on = (kind, then) => events.addEventListener(kind, (event) => {
    heard = Date.now();
    then(JSON.parse(event.data));
  });
  on("history", (all) => {
    samples = all;
  });
  on("sample", (sample) => {
    samples = [...samples.filter((each) => sample.At - each.At <= HOUR), sample];
  });
  on("trouble", (text) => {
    trouble = text;
    say();
  });
  on("picture", (found) => {
    trouble = "";
    picture = found;
    show();
  });
  events.onerror = async () => {
    trouble = "slim ui does not answer";
    say();
    if (events.readyState !== EventSource.CLOSED) return; // it tries again by itself
    // It was refused, and does not say why: too many browsers, or another token.
    try {
      const answer = await fetch("events", { method: "HEAD" });
      trouble = answer.status === 403 ? "the token is another one: open the address that slim ui printed" : "too many browsers have this page open";
    } catch { /* as before */ }
    say();
    setTimeout(() => events === source && follow(), AGAIN_MS);
  };
}

document.addEventListener("input", (event) => {
  if (event.target.dataset.filter === undefined) return;
  setFilter(event.target.dataset.filter, event.target.value);
  show();
});
document.addEventListener("visibilitychange", () => {
  heard = 0;
  follow();
});
addEventListener("hashchange", () => {
  show();
  scrollTo(0, 0);
  main.focus({ preventScroll: true });
});
setInterval(say, 1000);

try {
  reasons = await (await fetch("static/reasons.json")).json();
} catch { /* the page works without them */ }
show();
follow();
