// Builds each view from the model: the most important first, the picture, then the tables.

import { chart, drawn } from "./chart.js";
import { h } from "./dom.js";
import { containerLink, hostLink, networkLink } from "./links.js";
import { endpointKey, peerAddress } from "./model.js";
import { picture } from "./picture.js";
import { table } from "./table.js";
import { age, bytes, clock, count, name, plural, rate, sentence } from "./words.js";

const PATHS = [["host", "host path"], ["overlay", "overlay path"], ["local", "on one host"], ["outside", "outside"]];
const STATES = { here: "this host", ok: "ok", silent: "silent", gone: "gone", unknown: "unknown" };

const a = (href, ...text) => h("a", { href }, ...text);
const foreign = (text) => h("bdi", null, name(text));
const path = (which) => h("span", { class: `path ${which}` }, which);
const state = (host) => h("span", { class: `state ${host.State}` }, STATES[host.State] ?? name(host.State));

const hostCell = (model, id) => a(hostLink(id), foreign(model.hostName(id)));
const networkCell = (model, vni) => a(networkLink(vni), foreign(model.networks.get(vni)?.Name ?? `VNI ${vni}`));
const end = (each) => (each.endpoint ? [a(containerLink(each.endpoint), foreign(each.endpoint.Container)), " ", h("small", null, each.Address)] : foreign(each.Address));

// A text of docs/counters.md: what is between ` is code.
const text = (words) => words.split("`").map((part, at) => (at % 2 ? h("code", null, part) : part));
const remedy = (words) => h("p", { class: "remedy" }, h("b", null, "What to do: "), text(words));

function details(model, reason) {
  const says = model.explain(reason);
  return says && h("details", null, h("summary", null, text(says.Meaning)), remedy(says.Remedy));
}

function facts(...pairs) {
  return h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null).map(([term, ...value]) => h("div", null, h("dt", null, term), h("dd", null, ...value))));
}

function notice(kind, key, title, ...more) {
  return h("li", { class: `notice ${kind}`, "data-key": key }, h("p", null, h("span", { class: "badge" }, kind), " ", title), ...more);
}

function reasonNotice(model, reason, withHost = true) {
  const says = model.explain(reason.Name);
  return notice(reason.Kind, `${reason.Host} ${reason.Name}`,
    [h("b", null, rate(reason.PerSecond)), " ", h("code", null, name(reason.Name)), withHost ? [" on ", hostCell(model, reason.Host)] : null, `, ${count(reason.Total)} in all`],
    says && h("p", { class: "meaning" }, text(says.Meaning)), says && remedy(says.Remedy));
}

const says = (host) => host.Problems.map((problem) => h("p", { class: "meaning" }, h("bdi", null, sentence(problem))));

// What is wrong, worst first: hosts that are gone, drops, fallbacks, what hosts say of themselves.
function attention(model, only = null) {
  const hosts = [...model.hosts.values()].filter((host) => only === null || host.Id === only);
  const found = [
    ...hosts.filter((host) => host.State === "gone").map((host) => notice("gone", `gone ${host.Id}`, ["host ", hostCell(model, host.Id), " is gone: it gives no sign of life"],
      says(host), remedy("is it down? `slim hosts` says since when"))),
    ...model.pressing.filter((reason) => reason.Kind === "drop" && (only === null || reason.Host === only)).map((reason) => reasonNotice(model, reason, only === null)),
    ...hosts.filter((host) => host.State === "silent" || host.State === "unknown").map((host) => notice("silent", `silent ${host.Id}`, ["host ", hostCell(model, host.Id), host.AgeSeconds === null ? " has not told of itself yet" : ` has not told of itself for ${age(host.AgeSeconds)}`], says(host))),
    ...hosts.filter((host) => host.State === "here" || host.State === "ok").flatMap((host) => host.Problems.map((problem, at) =>
      notice("problem", `problem ${host.Id} ${at}`, [hostCell(model, host.Id), ": ", h("bdi", null, sentence(problem))]))),
    ...model.pressing.filter((reason) => reason.Kind === "fallback" && (only === null || reason.Host === only)).map((reason) => reasonNotice(model, reason, only === null)),
  ];
  const most = 5;
  return h("section", { "data-key": "attention", "aria-labelledby": "title-attention" },
    h("h2", { id: "title-attention" }, "Needs attention", h("small", null, ` ${count(found.length)}`)),
    found.length ? h("ul", { class: "notices" }, found.slice(0, only === null ? most : 50)) : h("p", { class: "none" }, "nothing at the moment"),
    found.length > most && only === null && h("p", { class: "none" }, a("#/refusals", `and ${count(found.length - most)} more`)));
}

function charts(model, samples) {
  const title = `Last hour of ${name(model.hostName(model.picture.Host))}`;
  return h("section", { "data-key": "charts", "aria-labelledby": "title-charts" },
    h("h2", { id: "title-charts" }, title, h("small", null, samples.length ? ` seen since ${clock(samples[0].At)}` : " nothing yet")),
    !drawn && h("p", { class: "hint" }, "There are no charts: uPlot, which draws them, is not here.  ", text("In the checkout that `slim ui` runs from: `apt-get install npm; make page`, then load this page anew.")),
    h("div", { class: "charts" },
      chart("Traffic by path", samples, PATHS.map(([id, label]) => ({ name: label, class: id, of: (sample) => sample.Bytes[id] })), bytes),
      chart("Connections opened", samples, [{ name: "opened", class: "opened", of: (sample) => sample.Opened }], rate),
      chart("Fallbacks", samples, [{ name: "fallbacks", class: "overlay", of: (sample) => sample.Fallbacks }], rate),
      chart("Drops", samples, [{ name: "drops", class: "dropped", of: (sample) => sample.Drops }], rate)));
}

function legend() {
  return h("ul", { class: "legend", "aria-label": "Legend" },
    [...PATHS.slice(0, 3), ["dropped", "refused in the last minute"]].map(([id, label]) => h("li", null, h("i", { class: `key ${id}` }), label)),
    h("li", null, h("i", { class: "key kept" }), "endpoint kept off the host path"),
    h("li", null, "wider: more traffic"));
}

const tables = {
  hosts: (model) => table("hosts", "Hosts", [
    ["host", (host) => hostCell(model, host.Id)], ["state", state], ["underlay", (host) => name(host.Address)],
    ["endpoints", (host) => count(model.endpoints.filter((each) => each.Host === host.Id).length), "number"],
    ["fallbacks", (host) => rate(sum(model, host.Id, "fallback")), "number"], ["drops", (host) => rate(sum(model, host.Id, "drop")), "number"],
    ["version", (host) => name(host.Version)], ["seen", (host) => age(host.AgeSeconds), "number"]],
  order([...model.hosts.values()]), { key: (host) => host.Id, words: (host) => `${host.Name} ${host.Address} ${host.State}` }),
  networks: (model) => table("networks", "Networks", [
    ["network", (network) => networkCell(model, network.Vni)],
    ["subnets", (network) => network.Subnets.map((subnet) => h("div", null, name(subnet.Cidr)))],
    ["used", (network) => network.Subnets.map((subnet) => h("div", null, count(subnet.Used))), "number"],
    ["free", (network) => network.Subnets.map(free), "number"],
    ["endpoints", (network) => count(model.endpoints.filter((each) => each.Vni === network.Vni).length), "number"],
    ["host path", (network) => name(network.HostPath)], ["", (network) => (network.Internal ? "internal" : "")]],
  [...model.networks.values()], { key: (network) => String(network.Vni), words: (network) => `${network.Name} ${network.Subnets.map((each) => each.Cidr).join(" ")}` }),
  endpoints: (model, rows, id = "containers", title = "Containers") => table(id, title, [
    ["container", (each) => a(containerLink(each), foreign(each.Container))],
    ["address", (each) => [name(each.Address), each.Address6 && h("div", null, h("small", null, name(each.Address6)))]],
    ["network", (each) => networkCell(model, each.Vni)], ["host", (each) => hostCell(model, each.Host)],
    ["host path", (each) => (each.OffersHostPath ? "offered" : "not offered")]],
  rows, { key: endpointKey, words: (each) => `${each.Container} ${each.Address} ${each.Address6 ?? ""} ${model.hostName(each.Host)} ${model.networks.get(each.Vni)?.Name ?? ""}` }),
  pairs: (model, rows, title = "Who talks to whom", most = 200) => table("pairs", title, [
    ["one end", (pair) => end(pair.a)], ["other end", (pair) => end(pair.b)], ["path", (pair) => path(pair.path)],
    ["→", (pair) => bytes(pair.ab), "number"], ["←", (pair) => bytes(pair.ba), "number"],
    ["open", (pair) => count(pair.connections), "number"], ["opened", (pair) => rate(pair.opened), "number"]],
  rows, { key: (pair) => pair.key, words: (pair) => `${pair.a.endpoint?.Container ?? ""} ${pair.a.Address} ${pair.b.endpoint?.Container ?? ""} ${pair.b.Address} ${pair.path}`, none: "no open connections", most }),
  refusals: (model, rows) => table("refusals", "Last drops and refusals", [
    ["at", (each) => clock(each.At)], ["host", (each) => hostCell(model, each.Host)], ["container", (each) => foreign(each.Container)],
    ["towards", (each) => foreign(each.Peer)], ["times", (each) => count(each.Count), "number"],
    ["reason", (each) => [h("code", null, name(each.Name)), details(model, each.Name)], "wide"]],
  rows, { key: (each) => `${each.Host} ${each.Container} ${each.Peer} ${each.Name}`, words: (each) => `${each.Container} ${each.Peer} ${each.Name} ${model.hostName(each.Host)}`, none: "none is known" }),
  counters: (model, rows) => table("counters", "All fallbacks and drops", [
    ["reason", (each) => h("code", null, name(each.Name))], ["kind", (each) => each.Kind], ["host", (each) => hostCell(model, each.Host)],
    ["now", (each) => rate(each.PerSecond), "number"], ["in all", (each) => count(each.Total), "number"],
    ["meaning", (each) => details(model, each.Name), "wide"]],
  rows, { key: (each) => `${each.Host} ${each.Name}`, words: (each) => `${each.Name} ${each.Kind} ${model.hostName(each.Host)}` }),
};

const free = (subnet) => {
  const left = Math.max(0, subnet.Size - subnet.Used);
  return h("div", { class: left * 20 < subnet.Size ? "scarce" : null }, left > 1e9 ? "plenty" : count(left));
};
const sum = (model, host, kind) => model.active.filter((reason) => reason.Host === host && reason.Kind === kind).reduce((all, reason) => all + reason.PerSecond, 0);
const order = (hosts) => hosts.sort((one, other) => rank(one) - rank(other) || one.Name.localeCompare(other.Name, "en", { numeric: true }));
const rank = (host) => ["gone", "silent", "unknown"].indexOf(host.State) + 1 || 9;
const byRate = (reasons) => [...reasons].sort((one, other) => other.PerSecond - one.PerSecond || other.Total - one.Total);

function overview(model, samples, layout) {
  const totals = model.totals(), states = [...model.hosts.values()];
  const well = states.filter((host) => host.State === "here" || host.State === "ok").length;
  const more = model.picture.More ?? {};
  const left = [more.Pairs && plural(more.Pairs, "pair"), more.Endpoints && plural(more.Endpoints, "endpoint")].filter(Boolean).join(" and ");
  return [h("h1", null, "The cluster", h("small", null, ` as ${name(model.hostName(model.picture.Host))} knows it`)),
    facts(["hosts well", `${count(well)} of ${count(states.length)}`], ["containers", a("#/containers", count(model.endpoints.length))],
      ["open connections", `${more.Pairs ? "over " : ""}${count(totals.connections)}`], ["host path", bytes(totals.paths.host)], ["overlay path", bytes(totals.paths.overlay)],
      ["on one host", bytes(totals.paths.local)], ["fallbacks", rate(totals.fallbacks)], ["drops", rate(totals.drops)]),
    attention(model),
    h("section", { "data-key": "picture", "aria-labelledby": "title-picture" }, h("h2", { id: "title-picture" }, "Who talks to whom"), legend(), picture(model, layout),
      left && h("p", { class: "none" }, `left out by the driver: ${left}`)),
    charts(model, samples), tables.hosts(model), tables.networks(model), tables.pairs(model, model.pairs, "Busiest pairs", 25)];
}

function host(model, samples, id) {
  const found = model.hosts.get(id);
  if (!found) return missing("host", id);
  const own = model.endpoints.filter((each) => each.Host === id);
  return [h("h1", null, "Host ", foreign(found.Name), " ", state(found)),
    facts(["underlay", name(found.Address)], ["version", name(found.Version)], ["id", name(id)], ["told", found.AgeSeconds === null ? "–" : `${age(found.AgeSeconds)} ago`], ["containers", count(own.length)]),
    attention(model, id), id === model.picture.Host && charts(model, samples),
    tables.refusals(model, model.refusals.filter((each) => each.Host === id)),
    tables.pairs(model, model.pairs.filter((pair) => pair.a.endpoint?.Host === id || pair.b.endpoint?.Host === id)),
    tables.endpoints(model, own), tables.counters(model, byRate(model.reasons.filter((each) => each.Host === id)))];
}

function network(model, vni) {
  const found = model.networks.get(Number(vni));
  if (!found) return missing("network", vni);
  const members = model.endpoints.filter((each) => each.Vni === found.Vni);
  return [h("h1", null, "Network ", foreign(found.Name)),
    facts(["VNI", String(found.Vni)], ["id", name(found.Id)], ["host path", name(found.HostPath)], ["internal", found.Internal ? "yes" : "no"], ["containers", count(members.length)],
      ...found.Subnets.map((subnet) => [name(subnet.Cidr), h("meter", { min: 0, max: subnet.Size, value: subnet.Used, high: subnet.Size * 0.95, "aria-label": "addresses used" }), ` ${count(subnet.Used)} used, `, free(subnet), " free"])),
    tables.refusals(model, model.refusals.filter((each) => members.some((one) => one.Host === each.Host && one.Container === each.Container))),
    tables.pairs(model, model.pairs.filter((pair) => pair.a.Vni === found.Vni || pair.b.Vni === found.Vni)), tables.endpoints(model, members)];
}

function container(model, vni, address) {
  const found = model.byAddress.get(`${vni}|${address}`);
  if (!found) return missing("container", address);
  const pairs = model.pairsOf(found);
  const overlay = pairs.filter((pair) => pair.path === "overlay");
  return [h("h1", null, "Container ", foreign(found.Container)),
    facts(["address", name(found.Address)], ["IPv6", found.Address6 ? name(found.Address6) : null], ["network", networkCell(model, found.Vni)], ["host", hostCell(model, found.Host)],
      ["endpoint", name(found.Id)], ["host path", found.OffersHostPath ? "offered" : "not offered"]),
    overlay.length > 0 && h("p", { class: "hint", "data-key": "hint" }, `${plural(overlay.length, "peer")} by the overlay path.  Why, and what to do: `, h("code", null, `slim why ${name(found.Container)} PEER`), " on its host."),
    tables.pairs(model, pairs),
    tables.refusals(model, model.refusals.filter((each) => (each.Host === found.Host && each.Container === found.Container) || [found.Address, found.Address6].includes(peerAddress(each.Peer))))];
}

function missing(kind, text) {
  return [h("h1", null, `No such ${kind}`), h("p", null, foreign(text), " is not in the picture: it is gone, or has not been told yet.  ", a("#/", "Back to the cluster"))];
}

export function view(model, samples, layout, [which, ...rest]) {
  if (which === "host") return host(model, samples, rest[0]);
  if (which === "network") return network(model, rest[0]);
  if (which === "container") return container(model, rest[0], rest[1]);
  if (which === "containers") return [h("h1", null, "Containers"), tables.endpoints(model, model.endpoints, "containers", "On all hosts")];
  if (which === "refusals") return [h("h1", null, "Drops and fallbacks"), tables.refusals(model, model.refusals), tables.counters(model, byRate(model.reasons))];
  return overview(model, samples, layout);
}

export function navigation(which) {
  return [["", "#/", "Cluster"], ["containers", "#/containers", "Containers"], ["refusals", "#/refusals", "Drops"]].map(([id, href, text]) =>
    h("a", { href, "aria-current": (which || "") === id ? "page" : null }, text));
}
