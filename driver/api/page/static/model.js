// Makes of the driver's picture what the views ask for: who an address is, pairs of two reports joined.

// An endpoint of which only the address is known has no id.
export const endpointKey = (each) => `${each.Vni} ${each.Host} ${each.Id} ${each.Address ?? each.Address6}`;
export const peerAddress = (peer) => peer.replace(/^\[?(.*?)\]?:\d+$/, "$1");
export const endKey = (end) => `${end.Vni}|${end.Address}`;

export class Model {
  constructor(picture, reasons) {
    this.picture = picture;
    this.texts = reasons; // counter -> Kind, Meaning, Remedy
    this.hosts = new Map(picture.Hosts.map((host) => [host.Id, host]));
    this.networks = new Map(picture.Networks.map((network) => [network.Vni, network]));
    this.endpoints = picture.Endpoints;
    this.byAddress = new Map();
    for (const endpoint of this.endpoints)
      for (const address of [endpoint.Address, endpoint.Address6])
        if (address) this.byAddress.set(`${endpoint.Vni}|${address}`, endpoint);
    this.pairs = joined(picture.Pairs, this.byAddress);
    this.pairs.sort((one, other) => other.bytes - one.bytes || other.connections - one.connections || (one.key < other.key ? -1 : 1));
    this.reasons = picture.Reasons.filter((reason) => reason.Kind !== "other" && (reason.PerSecond > 0 || reason.Total > 0));
    this.active = this.reasons.filter((reason) => reason.PerSecond > 0)
      .sort((one, other) => (one.Kind === "drop" ? 0 : 1) - (other.Kind === "drop" ? 0 : 1) || other.PerSecond - one.PerSecond);
    // What nobody has to do anything about is in the tables alone.
    this.pressing = this.active.filter((reason) => !this.explain(reason.Name)?.Remedy.startsWith("nothing:"));
    this.refusals = picture.Refusals;
  }

  // Names of counters come from other hosts, too: `constructor` is none.
  explain(reason) {
    return Object.hasOwn(this.texts, reason) ? this.texts[reason] : null;
  }

  hostName(id) {
    return this.hosts.get(id)?.Name ?? id;
  }

  pairsOf(endpoint) {
    return this.pairs.filter((pair) => pair.a.endpoint === endpoint || pair.b.endpoint === endpoint);
  }

  totals() {
    const paths = { host: 0, overlay: 0, local: 0, outside: 0 };
    let connections = 0;
    for (const pair of this.pairs) {
      paths[pair.path] = (paths[pair.path] ?? 0) + pair.bytes;
      connections += pair.connections;
    }
    const of = (kind) => this.active.filter((reason) => reason.Kind === kind).reduce((sum, reason) => sum + reason.PerSecond, 0);
    return { paths, connections, fallbacks: of("fallback"), drops: of("drop") };
  }
}

// A pair of two hosts is reported by both: what one sends the other gets.  The larger report counts,
// since one of them may be older.
function joined(reports, byAddress) {
  const found = new Map();
  for (const report of reports) {
    const from = endKey(report.From), to = endKey(report.To);
    const turned = from > to;
    const key = `${turned ? to : from} ${turned ? from : to} ${report.Path}`;
    let pair = found.get(key);
    if (!pair) {
      const end = (each) => ({ ...each, key: endKey(each), endpoint: byAddress.get(endKey(each)) ?? null });
      const [a, b] = turned ? [end(report.To), end(report.From)] : [end(report.From), end(report.To)];
      pair = { key, a, b, path: report.Path, connections: 0, opened: 0, ab: 0, ba: 0, bytes: 0 };
      found.set(key, pair);
    }
    const [ab, ba] = turned ? [report.BytesInPerSecond, report.BytesOutPerSecond] : [report.BytesOutPerSecond, report.BytesInPerSecond];
    pair.ab = Math.max(pair.ab, ab);
    pair.ba = Math.max(pair.ba, ba);
    pair.bytes = pair.ab + pair.ba;
    pair.connections = Math.max(pair.connections, report.Connections);
    pair.opened = Math.max(pair.opened, report.OpenedPerSecond);
  }
  return [...found.values()];
}
