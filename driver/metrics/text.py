"""Puts what the parts say into Prometheus' text, with its client library.

The library is loaded by whoever imports this, which costs memory: only if somebody wants metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest, make_wsgi_app
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from driver.metrics.families import (
    COUNTER,
    FAMILIES,
    HISTOGRAM,
    PREFIX,
    SCRAPE_ERRORS,
    Family,
    Labels,
)
from driver.metrics.reading import Reader
from driver.work.tally import Durations

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Families:
    """A collector of prometheus_client: the families, as read at that moment."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def describe(self) -> Iterable[Metric]:
        """Return the families without values, so that nothing is read for their names."""
        return [_family(each) for each in (*FAMILIES, SCRAPE_ERRORS)]

    def collect(self) -> Iterator[Metric]:
        """Read all parts; a family whose part has failed or says nothing of it is absent."""
        found, errors = self._reader.read()
        for family in FAMILIES:
            values = found.get(family.part, {}).get(family.name)
            if values is not None:
                made = _family(family)
                for labels, value in values.items():
                    _add(made, labels, value)
                yield made
        made = _family(SCRAPE_ERRORS)
        for part, count in errors.items():
            made.add_metric((part,), count)
        yield made


class Exposition:
    """The metrics as text, and as an application for an HTTP server.  Thread-safe."""

    def __init__(self, reader: Reader) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Families(reader))
        # With our prefix: node_exporter refuses a text file with families of its own names.
        ProcessCollector(namespace=PREFIX, registry=self._registry)

    def text(self) -> str:
        """Return everything in Prometheus' text format, version 0.0.4."""
        return generate_latest(self._registry).decode()

    def app(self) -> WsgiApp:
        """Return the WSGI application; it answers any request with the text, gzipped if asked."""
        app: WsgiApp = make_wsgi_app(self._registry)

        def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            # The library reads no more of a request than that: it fails at odd wishes for versions.
            asked = {name: environ[name] for name in ("HTTP_ACCEPT_ENCODING",) if name in environ}
            return app({"REQUEST_METHOD": "GET", "PATH_INFO": "", **asked}, start_response)

        return answer


def _family(family: Family) -> Any:
    kinds = {COUNTER: CounterMetricFamily, HISTOGRAM: HistogramMetricFamily}
    return kinds.get(family.kind, GaugeMetricFamily)(
        family.name, family.help, labels=family.labels)


def _add(made: Any, labels: Labels, value: float | Durations) -> None:
    if not isinstance(value, Durations):
        made.add_metric(labels, value)
        return
    buckets, below = [], 0
    for bound, count in zip((*map(str, value.bounds_s), "+Inf"), value.counts, strict=True):
        below += count
        buckets.append((bound, below))
    made.add_metric(labels, buckets, value.sum_s)
