"""Makes answers of Slim.Picture as a driver: of any size, ever changing, with hostile names."""

from __future__ import annotations

from typing import Any, Final

HOSTILE: Final = (
    "<img src=x onerror=window.hacked=1>",
    "<script>window.hacked=1</script>",
    "\"'><svg onload=window.hacked=1>",
    "javascript:window.hacked=1//",
    "safe\u202egnp.exe\u2066\u0007\x1b[31m",
    "{{7*7}}${7*7}' onfocus='window.hacked=1' autofocus='",
    "../../%2e%2e/#/host/\\",
    "long" * 2500)
_NAMES: Final = ("web", "api", "db", "cache", "queue", "worker", "search", "auth", "mail", "cron")
_SUBNET: Final = 250  # endpoints of a network


class Pictures:
    """Answers for a cluster; each one has other rates, and is 2 s later than the one before."""

    def __init__(self, hosts: int = 3, endpoints: int = 24, hostile: bool = False) -> None:
        """hostile: names are `HOSTILE` for some containers, hosts, networks and problems."""
        self.hosts = hosts
        self.endpoints = endpoints
        self.hostile = hostile
        self.asked: list[bool] = []  # Cluster, of each question
        self.at = 1_790_000_000.0

    def answer(self, cluster: bool) -> dict[str, Any]:
        """Return the next one."""
        self.asked.append(cluster)
        self.at += 2
        return self._picture(len(self.asked))

    def _evil(self, number: int) -> str:
        return HOSTILE[number % len(HOSTILE)] if self.hostile else ""

    def _picture(self, turn: int) -> dict[str, Any]:
        ends = [self._endpoint(number) for number in range(self.endpoints)]
        pairs = [report for number in range(self.endpoints)
                 for report in self._reports(ends, number, turn)]
        drops = (turn % 5) * 0.8
        return {
            "At": self.at, "Host": "h0", "EverySeconds": 2.0, "Ready": turn > 1,
            "Hosts": [self._host(number) for number in range(self.hosts)],
            "Networks": [self._network(number)
                         for number in range(-(-self.endpoints // _SUBNET))],
            "Endpoints": ends, "Pairs": pairs,
            "Reasons": [
                _reason("h1", "own_rules", "fallback", 1.4 + turn % 3, 210 + turn),
                _reason("h0", "bound_address", "fallback", 0.2, 31 + turn),
                _reason("h0", "spoofed_source", "drop", drops, 7 + turn),
                _reason("h0", "link_local6", "drop", 0.0, 44),
                _reason("h0", "connected", "other", 41.0, 90_000 + turn)],
            "Totals": _totals(pairs),
            "Refusals": [{"At": self.at - 3 - 11 * number, "Host": "h0",
                          "Container": ends[0]["Container"], "Name": "host_dead",
                          "Peer": f"{ends[1 + number]['Address']}:80", "Count": 2 + number}
                         for number in range(min(3, self.endpoints - 1))],
            "More": {"Pairs": 0, "Endpoints": 0}}

    def _host(self, number: int) -> dict[str, Any]:
        last = number == self.hosts - 1 and self.hosts > 2
        evil = self._evil(number) if number < len(HOSTILE) else ""
        return {"Id": f"h{number}", "Name": evil or f"node-{number + 1}",
                "Address": f"192.0.2.{number + 1}",
                "State": "here" if number == 0 else "silent" if last else "ok",
                "Version": "0.1.0", "AgeSeconds": 95.0 if last else 1.5,
                "Problems": ([self._evil(number) or "peers: SYNs to node-3 are not answered"]
                             if number == 1 else ["its lease has ended"] if last else [])}

    def _network(self, number: int) -> dict[str, Any]:
        used = min(_SUBNET, self.endpoints - number * _SUBNET)
        return {"Id": f"{number:012x}", "Vni": 100 + number,
                "Name": self._evil(number) or ("shop", "data", "edge", "ops")[number % 4],
                "Subnets": [{"Cidr": f"10.{32 + number}.0.0/24", "Used": used, "Size": 254}],
                "HostPath": "auto", "Internal": number == 1}

    def _endpoint(self, number: int) -> dict[str, Any]:
        name = f"{_NAMES[number % len(_NAMES)]}-{number // len(_NAMES) + 1}"
        known = number != 5  # of the other one only an IPv6 address is known
        return {"Id": f"e{number:011x}" if known else "", "Vni": 100 + number // _SUBNET,
                "Container": (self._evil(number) if number < len(HOSTILE) else "") or name,
                "Host": f"h{number % self.hosts}",
                "Address": (f"10.{32 + number // _SUBNET}.0.{number % _SUBNET + 2}" if known
                            else None),
                "Address6": f"fd00::{number:x}" if number % 3 == 0 or not known else None,
                "OffersHostPath": number % 11 != 4}

    def _reports(self, ends: list[dict[str, Any]], number: int, turn: int
                 ) -> list[dict[str, Any]]:
        """Return both hosts' reports of the pair of an endpoint and another one of its network."""
        other = number // _SUBNET * _SUBNET + (number * 7 + 3) % _SUBNET
        if other == number or other >= len(ends):
            other = number // _SUBNET * _SUBNET + (number + 1) % min(_SUBNET, len(ends))
        here, there = ends[number], ends[min(other, len(ends) - 1)]
        path = ("local" if here["Host"] == there["Host"] else
                "host" if here["OffersHostPath"] and there["OffersHostPath"] else "overlay")
        out = 2e3 * 1.9 ** (number % 17) * (1 + 0.1 * ((turn + number) % 4))
        back = out * 0.2
        return [{"From": _end(one), "To": _end(two), "Reporter": one["Host"], "Path": path,
                 "Connections": 1 + number % 5, "OpenedPerSecond": 0.5 * (number % 4),
                 "BytesInPerSecond": came, "BytesOutPerSecond": went}
                for one, two, went, came in ((here, there, out, back), (there, here, back, out))]


def _end(endpoint: dict[str, Any]) -> dict[str, Any]:
    return {"Vni": endpoint["Vni"], "Address": endpoint["Address"] or endpoint["Address6"]}


def _totals(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rates = ("Connections", "OpenedPerSecond", "BytesInPerSecond", "BytesOutPerSecond")
    return [{"Host": host, "Path": path, **{
        rate: sum(each[rate] for each in pairs
                  if (each["Reporter"], each["Path"]) == (host, path)) for rate in rates}}
            for host, path in sorted({(each["Reporter"], each["Path"]) for each in pairs})]


def _reason(host: str, name: str, kind: str, per_s: float, total: int) -> dict[str, Any]:
    return {"Host": host, "Name": name, "PerSecond": per_s, "Total": total, "Kind": kind}
