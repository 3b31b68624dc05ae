"""Reads what Prometheus would: the families that a text has, and those that an expression names."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families

from driver.metrics.families import FAMILIES, HISTOGRAM

# Those of prometheus_client's ProcessCollector.
PROCESS = {f"slim_process_{name}" for name in (
    "virtual_memory_bytes", "resident_memory_bytes", "start_time_seconds", "cpu_seconds_total",
    "open_fds", "max_fds")}
# There only while the kernel counts the runs of programs.
COUNTED_RUNS = {each.name for each in FAMILIES if each.part == "programs"}
_HISTOGRAMS = {each.name for each in FAMILIES if each.kind == HISTOGRAM}
_SUFFIX = re.compile(r"_(bucket|sum|count)$")


def named(text: str) -> set[str]:
    """Return the families that expressions in a text name."""
    found = set(re.findall(r"\bslim_[a-z0-9_]+", text))
    return {base if (base := _SUFFIX.sub("", name)) in _HISTOGRAMS else name for name in found}


@dataclass(frozen=True)
class Scraped:
    """One scrape."""

    text: str

    @property
    def families(self) -> set[str]:
        """The names, as in `# TYPE`."""
        return set(re.findall(r"^# TYPE (\w+) ", self.text, re.MULTILINE))

    def values(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        """Return a sample's values by its labels."""
        return {frozenset(sample.labels.items()): sample.value
                for family in text_string_to_metric_families(self.text)
                for sample in family.samples if sample.name == name}

    def value(self, name: str, **labels: str) -> float:
        """Return one value; 0 if there is none with these labels."""
        return sum(value for found, value in self.values(name).items()
                   if labels.items() <= dict(found).items())


def promtool() -> str:
    """Return its path; skip where it is missing."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is missing (Debian package prometheus)")
    return found
