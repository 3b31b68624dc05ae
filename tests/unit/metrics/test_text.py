"""Tests the text that Prometheus reads: names, kinds, labels, buckets; and what is bounded."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from driver.metrics.families import COUNTER, FAMILIES, HISTOGRAM, SCRAPE_ERRORS
from driver.metrics.reading import Parts, Reader
from driver.metrics.text import Exposition
from driver.work.tally import Durations


def parsed(parts: Parts) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return sample name -> labels -> value, without those of the process."""
    text = Exposition(Reader(parts)).text()
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.startswith("slim_process_"):
                found.setdefault(sample.name, {})[
                    tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_kinds_labels_and_errors() -> None:
    def fails() -> dict[str, dict[tuple[str, ...], float]]:
        raise ZeroDivisionError

    found = parsed({
        "reasons": lambda: {"slim_reasons_total": {("connected", "path"): 3}},
        "endpoints": lambda: {"slim_endpoints": {(): 2}}, "guard": fails, "programs": dict})
    assert found == {
        "slim_reasons_total": {(("kind", "path"), ("reason", "connected")): 3},
        "slim_endpoints": {(): 2},
        "slim_scrape_errors_total": {
            (("part", "reasons"),): 0, (("part", "endpoints"),): 0, (("part", "guard"),): 1,
            (("part", "programs"),): 0}}


def test_histograms_are_cumulative() -> None:
    durations = Durations((0.1, 1.0))
    for seconds in (0.05, 0.5, 0.6, 9.0):
        durations.add(seconds)
    found = parsed({"etcd": lambda: {"slim_etcd_request_duration_seconds": {
        ("read",): durations}}})
    name = "slim_etcd_request_duration_seconds"
    assert {dict(labels)["le"]: value for labels, value in found[f"{name}_bucket"].items()} == {
        "0.1": 1, "1.0": 3, "+Inf": 4}
    assert found[f"{name}_count"] == {(("operation", "read"),): 4}
    assert found[f"{name}_sum"][("operation", "read"),] == pytest.approx(10.15)


def test_the_process_has_its_own_with_slims_prefix() -> None:
    """Those without would break node_exporter, which has families of these names itself."""
    text = Exposition(Reader({})).text()
    assert "\nslim_process_resident_memory_bytes " in text
    assert all(line.startswith(("#", "slim_")) for line in text.splitlines())


def test_names_follow_the_conventions() -> None:
    names = [family.name for family in (*FAMILIES, SCRAPE_ERRORS)]
    assert len(set(names)) == len(names)
    for family in (*FAMILIES, SCRAPE_ERRORS):
        assert re.fullmatch(r"slim_[a-z0-9_]+", family.name)
        assert (family.kind == COUNTER) == family.name.endswith("_total"), family.name
        assert (family.kind == HISTOGRAM) == family.name.endswith("_duration_seconds"), family.name
        assert family.help.endswith(".")
    for family in FAMILIES:
        assert not set(family.labels) & {"container", "endpoint", "host", "network", "address",
                                         "instance", "job", "le"}, family.name


@pytest.mark.parametrize("environ", [
    {}, {"HTTP_ACCEPT": "application/openmetrics-text; version=abc"},
    {"HTTP_ACCEPT": "text/plain;version=1..0"}, {"HTTP_ACCEPT": "\x01, \xff;;=="},
    {"HTTP_ACCEPT": "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4"},
    {"QUERY_STRING": "name[]=%ff&name[]=x"}, {"HTTP_ACCEPT_ENCODING": "gzip;q=x, \xff"}])
def test_whatever_a_client_asks_for_it_gets_the_text(environ: dict[str, str]) -> None:
    """The library raises for some of these, and each would put a trace into the log."""
    exposition, started = Exposition(Reader({"a": dict})), list[str]()
    body = b"".join(exposition.app()(
        {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", **environ},
        lambda status, headers: started.append(f"{status} {dict(headers)['Content-Type']}")))
    text = gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body
    assert started == ["200 OK text/plain; version=0.0.4; charset=utf-8"]
    assert b'slim_scrape_errors_total{part="a"} 0.0' in text


def test_the_library_is_loaded_for_those_who_want_metrics_only() -> None:
    code = ("import sys; import driver.compose.build; "
            "sys.exit(any(m.startswith('prometheus_client') for m in sys.modules))")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
