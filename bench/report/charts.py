"""Draws the charts of results and of the paper's claims: SVG, without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.harness.errors import BenchError
from bench.harness.networks import CROSS, HOST, KNOWN, OVERLAY, SCOPES, SLIM, TITLES
from bench.harness.workloads import HIGHER
from bench.report import results
from bench.report.paper import CLAIMS, CPU, SOURCE, Claim
from bench.report.results import Row

COLOURS = {"slim": "#0b7a75", "overlay": "#d1603d", "bridge": "#8d99ae", "slim-overlay": "#7fc8c2",
           "macvlan": "#c9a227"}
OTHER, PAPER = "#6c757d", "#b8b8b8"
INK = "#222222"
LONGEST = 4.0  # longer bars are cut off


def draw(rows: Sequence[Row], folder: Path, stem: str, formats: Sequence[str] = ("svg",)
         ) -> list[Path]:
    """Write all charts that the rows allow; return the files.  Error: BenchError."""
    pyplot = _pyplot()
    plain = [row for row in rows if row.conditions.fabric == "plain"]
    written: list[Path] = []
    drawn = [(f"{stem}-{scope}", _ratios(pyplot, plain, scope)) for scope in SCOPES]
    drawn += [(f"{stem}-summary", _ratios(pyplot, plain, CROSS, (SLIM, OVERLAY))),
              (f"{stem}-paper", _paper(pyplot, plain))]
    for name, figure in drawn:
        if figure is None:
            continue
        for kind in formats:
            path = folder / f"{name}.{kind}"
            # No date, no random names: the same results must make the same file.
            figure.savefig(path, metadata={"Date": None} if kind == "svg" else None, dpi=110)
            written.append(path)
        pyplot.close(figure)
    return written


def _pyplot() -> Any:
    try:
        import matplotlib  # noqa: PLC0415 (only drawing needs it)
    except ImportError:
        raise BenchError("charts need matplotlib: .venv/bin/pip install -r requirements-dev.txt"
                         ) from None
    matplotlib.use("Agg")
    matplotlib.rcParams.update({
        "svg.hashsalt": "slim", "svg.fonttype": "path", "font.size": 9, "axes.spines.top": False,
        "axes.spines.right": False, "axes.edgecolor": INK, "figure.facecolor": "white"})
    from matplotlib import pyplot  # noqa: PLC0415

    return pyplot


def where(rows: Sequence[Row]) -> str:
    """Return machine, kernels and dates, for the line under a chart."""
    dates = sorted({row.conditions.date for row in rows})
    kernels = sorted({row.conditions.kernel for row in rows})
    return (f"{rows[0].conditions.machine}; Linux {', '.join(kernels)}; "
            f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}; medians of interleaved rounds"
            + ("; other programs were at work" if any(
                row.conditions.busy_cpus > results.BUSY_CPUS for row in rows) else ""))


def _ratios(pyplot: Any, rows: Sequence[Row], scope: str, only: Sequence[str] = ()) -> Any:
    """Draw two panels, rates and the CPU time for them, as ratios to the host."""
    own = [row for row in rows if row.scope == scope and not row.figure
           and row.better == HIGHER and row.ratio_to_host is not None
           and row.network != HOST and (not only or row.network in only)]
    titles = list(dict.fromkeys(row.title for row in own))
    found = {row.network for row in own}
    networks = [n for n in KNOWN if n in found] + sorted(found - set(KNOWN))
    if not networks:
        return None
    height_in = 1.3 + len(titles) * (0.12 * len(networks) + 0.12)
    figure, (left, right) = pyplot.subplots(1, 2, sharey=True, figsize=(11, height_in))
    step = 0.84 / len(networks)
    for place, network in enumerate(networks):
        mine = {row.title: row for row in own if row.network == network}
        shown = [(at + place * step, mine[title]) for at, title in enumerate(titles)
                 if title in mine]
        style = {"height": step * 0.92, "color": COLOURS.get(network, OTHER)}
        left.barh([at for at, _ in shown], [row.ratio_to_host or 0 for _, row in shown],
                  xerr=_errors([row for _, row in shown]), label=TITLES.get(network, network),
                  error_kw={"elinewidth": 0.7, "ecolor": INK}, **style)
        right.barh([at for at, _ in shown], [row.cpu_ratio_to_host or 0 for _, row in shown],
                   **style)
    left.set_yticks([at + step * (len(networks) - 1) / 2 for at in range(len(titles))], titles)
    left.set_ylim(len(titles) - step / 2 - 0.05, -step / 2 - 0.1)
    for axes, title in (
            (left, "work in a second, host network = 1 (longer is better)"),
            (right, "CPU time for it, host network = 1 (shorter is better)")):
        axes.set_xlim(0, min(LONGEST, max(1.1, axes.get_xlim()[1])))
        axes.axvline(1, color=INK, linewidth=1)
        axes.set_title(title, fontsize=8.5, loc="left")
        axes.grid(axis="x", linewidth=0.3)
        axes.set_axisbelow(True)
    figure.suptitle("Between containers on two hosts" if scope == CROSS else
                    "Between containers on one host", x=0.01, y=0.99, ha="left", weight="bold")
    figure.legend(loc="upper right", ncols=len(networks), frameon=False)
    cut = any(max(row.ratio_to_host or 0, row.cpu_ratio_to_host or 0) > LONGEST for row in own)
    figure.text(0.01, 0.05 / height_in, f"{where(own)}; lines: 95 % confidence"
                f"{f'; bars are cut at {LONGEST:g}' if cut else ''}", fontsize=7, color=INK)
    figure.tight_layout(rect=(0, 0.2 / height_in, 1, 1 - 0.15 / height_in))
    return figure


def curves(found: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draw bench.studies.growth, a column for each series: ratios to the host, eBPF's time."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(2, len(found), sharey="row", figsize=(11, 5), squeeze=False)
    kinds = {"round trips": COLOURS["slim"], "connections": COLOURS["overlay"]}
    for column, (what, steps) in enumerate(found.items()):
        counts = [step["count"] for step in steps]
        for kind, colour in kinds.items():
            for row, key, scale in ((0, "ratio_to_host", 1.0), (1, "ebpf_ns", 1e-3)):
                axes[row][column].plot(counts, [step[kind][key] * scale for step in steps],
                                       marker="o", color=colour, label=kind)
        for row in (0, 1):
            axes[row][column].set_xscale("log")
            axes[row][column].grid(linewidth=0.3)
        axes[1][column].set_xlabel(what)
    for row, _ in enumerate(axes):  # the whole axis from 0, so that a flat curve looks flat
        axes[row][0].set_ylim(0, 1.1 * max(line.get_ydata().max() for each in axes[row]
                                           for line in each.lines))
    axes[0][0].set_ylabel("in a second, host network = 1")
    axes[1][0].set_ylabel("eBPF for each, both hosts, µs")
    axes[1][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None}, dpi=110)
    pyplot.close(figure)


def _errors(rows: Sequence[Row]) -> list[list[float]]:
    """Return how far the confidence intervals reach below and above the bars."""
    bounds = [(row.ratio_to_host or 0, row.ratio_low or 0, row.ratio_high or 0) for row in rows]
    return [[max(0.0, middle - low) for middle, low, _ in bounds],
            [max(0.0, high - middle) for middle, _, high in bounds]]


def change(rows: Sequence[Row], claim: Claim) -> float | None:
    """Return our figure for a claim: slim's change in percent against Docker's overlay."""
    found = {row.network: row for row in rows if row.scope == CROSS
             and (row.workload, row.figure) == (claim.workload, claim.figure)}
    if SLIM not in found or OVERLAY not in found:
        return None
    ours, theirs = found[SLIM], found[OVERLAY]
    ratio = results.ratio(ours.cpu_samples, theirs.cpu_samples) if claim.kind == CPU else (
        results.ratio(ours.samples, theirs.samples))
    return None if ratio is None else (ratio.value - 1) * 100


def _paper(pyplot: Any, rows: Sequence[Row]) -> Any:
    """Draw the paper's changes beside ours."""
    shown = [(claim, ours) for claim in CLAIMS if (ours := change(rows, claim)) is not None]
    if not shown:
        return None
    figure, axes = pyplot.subplots(figsize=(9, 4.2))
    for offset, values, colour, label in (
            (-0.2, [claim.percent for claim, _ in shown], PAPER,
             f"the paper's Slim against Weave, on other machines ({SOURCE})"),
            (0.2, [ours for _, ours in shown], COLOURS["slim"],
             "this slim against Docker's overlay, on the machine below")):
        bars = axes.bar([at + offset for at in range(len(shown))], values, 0.38, color=colour,
                        label=label)
        labels = [claim.shown if colour == PAPER and claim.shown else f"{value:+.0f} %"
                  for value, (claim, _) in zip(values, shown, strict=True)]
        axes.bar_label(bars, labels, fontsize=8, padding=2)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xticks(range(len(shown)), [claim.title for claim, _ in shown])
    axes.set_ylabel("change against the overlay, %")
    axes.margins(y=0.15)
    axes.legend(loc="upper right", frameon=False, fontsize=8)
    axes.set_title("Not one experiment: two overlays, two kinds of machine", fontsize=9, loc="left")
    figure.text(0.01, 0.01, where(rows), fontsize=7, color=INK)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    return figure
