// Draws who talks to whom: a disc per host with its endpoints, a line per pair that has traffic.
// A host and an endpoint keep their places as long as the page is open.

import { s } from "./dom.js";
import { endpointKey, peerAddress } from "./model.js";
import { bytes, count, name, rate } from "./words.js";
import { containerLink, hostLink } from "./links.js";

const MOST_PAIRS = 300;
const DOT = 5; // radius of an endpoint
const MANY = 12; // hosts; with more, their names stand like spokes
const LABEL = 16; // letters of a host's name
const GOLDEN = Math.PI * (3 - Math.sqrt(5));

// Gives each key a number that it keeps; numbers of keys that are gone are given again.
class Places {
  constructor() {
    this.taken = new Map();
  }

  of(keys) {
    const wanted = new Set(keys);
    for (const key of this.taken.keys()) if (!wanted.has(key)) this.taken.delete(key);
    const used = new Set(this.taken.values());
    let next = 0;
    for (const key of keys) {
      if (this.taken.has(key)) continue;
      while (used.has(next)) next++;
      used.add(next);
      this.taken.set(key, next);
    }
    return this.taken;
  }

  get size() {
    return 1 + Math.max(0, ...this.taken.values());
  }
}

export class Layout {
  constructor() {
    this.hosts = new Places();
    this.endpoints = new Map(); // host -> Places
    this.room = 0; // of the largest host, in endpoints; it never shrinks
    this.seats = 0;
  }

  // Return the drawing's size, the places of hosts and of endpoints.
  place(model) {
    const members = new Map([...model.hosts.keys()].map((id) => [id, []]));
    for (const endpoint of model.endpoints) members.get(endpoint.Host)?.push(endpoint);
    const seats = this.hosts.of([...members.keys()]);
    this.seats = Math.max(this.seats, this.hosts.size);
    for (const id of this.endpoints.keys()) if (!members.has(id)) this.endpoints.delete(id);
    const inside = new Map();
    for (const [id, endpoints] of members) {
      if (!this.endpoints.has(id)) this.endpoints.set(id, new Places());
      inside.set(id, this.endpoints.get(id).of(endpoints.map(endpointKey)));
      this.room = Math.max(this.room, this.endpoints.get(id).size);
    }
    const disc = 18 + DOT * 2.4 * Math.sqrt(this.room);
    // Around an ellipse, far enough from each other; the middle is for the lines.
    const around = this.seats < 2 ? 0 : Math.max(disc * 1.7, (this.seats * (disc * 2.3 + 6)) / (2 * Math.PI));
    const wide = around * (this.seats > MANY ? 1.2 : 1.7);
    const size = Math.max(13, (wide + disc) / 36), label = size * (this.seats > MANY ? LABEL * 0.78 : 3.2);
    const width = Math.max(860, 2 * (wide + disc + label)), height = 2 * ((this.seats === 2 ? 0 : around) + disc + label);
    const hosts = new Map(), endpoints = new Map();
    for (const [id, seat] of seats) {
      const angle = (2 * Math.PI * seat) / this.seats + Math.PI;
      const host = { x: width / 2 + wide * Math.cos(angle), y: height / 2 + around * Math.sin(angle), r: disc };
      host.angle = Math.atan2(host.y - height / 2, host.x - width / 2);
      hosts.set(id, host);
      for (const endpoint of members.get(id)) {
        const at = inside.get(id).get(endpointKey(endpoint));
        const away = DOT * 2.2 * Math.sqrt(at + 0.3);
        endpoints.set(endpoint, { x: host.x + away * Math.cos(at * GOLDEN), y: host.y + away * Math.sin(at * GOLDEN) });
      }
    }
    return { width, height, hosts, endpoints, size, many: this.seats > MANY };
  }
}

const fixed = (number) => number.toFixed(1);

function line(from, to, middle) {
  // Lines bend towards the middle, so that they do not run over other hosts.
  const x = (from.x + to.x) / 2, y = (from.y + to.y) / 2;
  return `M${fixed(from.x)} ${fixed(from.y)}Q${fixed(x + (middle.x - x) * 0.45)} ${fixed(y + (middle.y - y) * 0.45)} ${fixed(to.x)} ${fixed(to.y)}`;
}

const thickness = (perSecond, unit) => (unit * (0.6 + Math.min(6, 1.1 * Math.log10(1 + perSecond / 1e3)))).toFixed(2);

export function who(end) {
  return end.endpoint ? name(end.endpoint.Container) : name(end.Address);
}

// A refused connection's two ends, where both are in the picture.
function refused(model, refusal) {
  const address = peerAddress(refusal.Peer);
  for (const from of model.endpoints) {
    if (from.Host !== refusal.Host || from.Container !== refusal.Container) continue;
    const to = model.byAddress.get(`${from.Vni}|${address}`);
    if (to && to !== from) return [from, to];
  }
  return null;
}

export function picture(model, layout) {
  const placed = layout.place(model);
  const middle = { x: placed.width / 2, y: placed.height / 2 }, unit = placed.size / 13;
  const drawn = model.pairs.filter((pair) => placed.endpoints.has(pair.a.endpoint) && placed.endpoints.has(pair.b.endpoint)
    && (pair.bytes > 0 || pair.connections > 0));
  const busiest = drawn.slice(0, MOST_PAIRS);
  const pen = unit / Math.max(1, Math.sqrt(busiest.length / 30)); // many lines are thin ones
  busiest.sort((one, other) => (one.path === "overlay") - (other.path === "overlay")); // which lie on top
  const lines = busiest.map((pair) =>
    s("path", { "data-key": pair.key, class: `line ${pair.path}`, "stroke-width": thickness(pair.bytes, pen),
      d: line(placed.endpoints.get(pair.a.endpoint), placed.endpoints.get(pair.b.endpoint), middle) },
    s("title", null, `${who(pair.a)} – ${who(pair.b)}: ${bytes(pair.bytes)}, ${pair.path} path`)));
  const seen = new Set();
  for (const refusal of model.refusals) {
    if (model.picture.At - refusal.At > 60) break;
    const ends = refused(model, refusal);
    const key = ends && `refused ${ends.map(endpointKey).join(" ")}`;
    if (!ends || seen.has(key) || !placed.endpoints.has(ends[0]) || !placed.endpoints.has(ends[1])) continue;
    seen.add(key);
    lines.push(s("path", { "data-key": key, class: "line dropped", "stroke-width": fixed(Math.max(1.5 * unit, 2.2 * pen)),
      d: line(placed.endpoints.get(ends[0]), placed.endpoints.get(ends[1]), middle) },
    s("title", null, `refused: ${name(ends[0].Container)} to ${name(refusal.Peer)}, ${refusal.Name}`)));
  }
  const about = `${count(model.hosts.size)} hosts, ${count(model.endpoints.length)} endpoints, the busiest ${count(busiest.length)} of ${count(model.pairs.length)} pairs.  The tables below say the same.`;
  return s("svg", { viewBox: `0 0 ${fixed(placed.width)} ${fixed(placed.height)}`, class: "picture", role: "group", "aria-label": about },
    s("g", null, [...placed.hosts].map(([id, at]) => disc(model, placed, id, at, unit))),
    s("g", null, lines),
    s("g", null, [...placed.endpoints].map(([endpoint, at]) => dot(endpoint, at))));
}

function disc(model, placed, id, at, unit) {
  const host = model.hosts.get(id);
  const trouble = model.pressing.filter((reason) => reason.Host === id);
  const worst = trouble[0]; // drops come before fallbacks
  const says = worst ? `${rate(worst.PerSecond)} ${worst.Name}` : host.State === "ok" || host.State === "here" ? "" : host.State;
  return s("g", { "data-key": id, class: `host ${host.State} ${worst?.Kind ?? ""}` },
    s("a", { href: hostLink(id), "aria-label": `host ${name(host.Name)}, ${host.State}${says ? `, ${says}` : ""}` },
      s("circle", { class: "disc", cx: fixed(at.x), cy: fixed(at.y), r: fixed(at.r), "stroke-width": fixed(1.5 * unit) }),
      placed.many ? spoke(placed, at, host) : label(placed, at, host, says)));
}

const short = (text) => {
  const letters = [...name(text)];
  return letters.length > LABEL ? `${letters.slice(0, LABEL).join("")}…` : letters.join("");
};

function label(placed, at, host, says) {
  const above = at.y <= placed.height / 2 + 1, { size } = placed;
  const y = above ? at.y - at.r - size * 0.6 : at.y + at.r + size * 1.25;
  return [s("text", { x: fixed(at.x), y: fixed(y), "font-size": fixed(size), "text-anchor": "middle" }, short(host.Name)),
    says && s("text", { class: "says", x: fixed(at.x), y: fixed(above ? y - size * 1.1 : y + size * 1.1), "font-size": fixed(size * 0.85), "text-anchor": "middle" }, says)];
}

function spoke(placed, at, host) {
  const left = Math.cos(at.angle) < 0, away = at.r + placed.size * 0.5;
  const x = at.x + away * Math.cos(at.angle), y = at.y + away * Math.sin(at.angle);
  const turn = (at.angle * 180) / Math.PI + (left ? 180 : 0);
  return s("text", { x: fixed(x), y: fixed(y), "font-size": fixed(placed.size), "text-anchor": left ? "end" : "start", "dominant-baseline": "middle",
    transform: `rotate(${fixed(turn)} ${fixed(x)} ${fixed(y)})` }, short(host.Name));
}

function dot(endpoint, at) {
  // Not one by one by the keyboard, which has the tables for that.
  return s("a", { "data-key": endpointKey(endpoint), href: containerLink(endpoint), tabindex: -1 },
    s("circle", { class: endpoint.OffersHostPath ? "dot" : "dot kept", cx: fixed(at.x), cy: fixed(at.y), r: DOT },
      s("title", null, `${name(endpoint.Container)} ${endpoint.Address ?? endpoint.Address6}`)));
}
