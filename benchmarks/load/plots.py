"""Plots of the results. Axes of latency are logarithmic and say so in their labels; all other axes begin at 0."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from load.histogram import Histogram, carries
from load.phase import STACKED, Phase
from load.results import Measured

_COLOURS = ("#0b6e99", "#d1495b", "#edae49", "#4f9d3a", "#6a4c93", "#8a5a35")
_STAGES = {
    "client": "#adb5bd", "decode": "#0b6e99", "preprocess": "#5fa8d3", "queue": "#d1495b", "infer": "#edae49",
    "matte": "#2a9d8f", "encode": "#6a4c93", "other": "#495057", "transport": "#ced4da",
}  # fmt: skip
_STYLES = {50.0: "-", 99.0: "--", 90.0: ":"}


def draw_latency(measured: Sequence[Measured], objective_s: float, file: Path) -> None:
    """Draws p50, p90 and p99 of latency against the offered load, where there are enough samples."""
    figure, axes = _figure()
    for colour, each in zip(_COLOURS, measured, strict=False):
        for percentile, style in _STYLES.items():
            points = [(phase.load.amount, Histogram(phase.latency).percentile_s(percentile)) for phase in each.swept]
            found = sorted((rate, value_s * 1e3) for rate, value_s in points if value_s is not None)
            if not found:
                continue
            label = f"{each.name} p{percentile:g}"
            axes.plot([x for x, _ in found], [y for _, y in found], style, color=colour, marker="o", ms=4, label=label)
        if each.capacity is not None and each.capacity.sustained_hz:
            axes.axvline(each.capacity.sustained_hz, color=colour, lw=6, alpha=0.2)
    axes.axhline(objective_s * 1e3, color="black", lw=0.8, ls=(0, (1, 3)))
    _log(axes)
    axes.set_xlim(left=0)
    axes.set_xlabel("offered load, calls a second (bars: held within the objective)")
    axes.set_ylabel("latency from the intended time, ms (log)")
    _save(figure, axes, f"Latency against offered load; dotted line: {objective_s * 1e3:g} ms", file)


def draw_answered(measured: Sequence[Measured], file: Path) -> None:
    """Draws the answered load, and the part within the objective, against the offered load."""
    figure, axes = _figure()
    most_hz = max((phase.load.amount for each in measured for phase in each.swept), default=1)
    axes.plot([0, most_hz], [0, most_hz], color="#adb5bd", lw=0.8, label="all that is offered")
    for colour, each in zip(_COLOURS, measured, strict=False):
        phases = sorted(each.swept, key=lambda phase: phase.load.amount)
        offered = [phase.load.amount for phase in phases]
        axes.plot(offered, [phase.answered_hz for phase in phases], "-o", ms=4, color=colour, label=each.name)
        label = f"{each.name}, within the objective"
        axes.plot(offered, [phase.goodput_hz for phase in phases], "--", color=colour, label=label)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("offered load, calls a second")
    axes.set_ylabel("answered OK, calls a second")
    _save(figure, axes, "Answered load", file)


def draw_curves(phases: Sequence[tuple[str, Phase]], title: str, file: Path) -> None:
    """Draws whole distributions, each up to the last percentile that has enough samples."""
    figure, axes = _figure()
    last = 1.0
    for colour, (name, phase) in zip(_COLOURS, phases, strict=False):
        histogram = Histogram(phase.latency)
        nines = np.linspace(0, 4, 200)
        percentiles = [float(value) for value in 100 * (1 - 10.0**-nines) if carries(histogram.count, float(value))]
        x = [-np.log10(1 - value / 100) for value in percentiles]
        y = [histogram.quantile_s(value) * 1e3 for value in percentiles]
        axes.plot(x, y, color=colour, label=f"{name} ({histogram.count} calls)")
        last = max([last, *x])
    axes.set_xticks([0, 0.30103, 1, 2, 3], ["p0", "p50", "p90", "p99", "p99.9"])
    axes.set_xlim(0, 1.02 * last)
    _log(axes)
    axes.set_xlabel("percentile (log of what lies beyond)")
    axes.set_ylabel("latency, ms (log)")
    _save(figure, axes, title, file)


def draw_stages(phases: Sequence[Phase], title: str, file: Path) -> None:
    """Draws a bar for each percentile of each load, divided into the stages of such a call."""
    bars = [(f"{phase.load.label}\n{name}", stack) for phase in phases for name, stack in phase.stacks.items()]
    figure, axes = _figure()
    bottom = np.zeros(len(bars))
    for stage in STACKED:
        heights = np.array([max(0.0, stack[stage]) * 1e3 for _, stack in bars])
        axes.bar(range(len(bars)), heights, 0.7, bottom=bottom, color=_STAGES[stage], label=stage)
        bottom += heights
    axes.set_xticks(range(len(bars)), [name for name, _ in bars], fontsize=7)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("ms, mean of calls around the percentile")
    _save(figure, axes, title, file)


def draw_bars(names: Sequence[str], values: Sequence[float], title: str, unit: str, file: Path) -> None:
    """Draws one horizontal bar for each value."""
    figure, axes = _figure(height=1.2 + 0.45 * len(names))
    bars = axes.barh(range(len(names)), list(values), 0.6, color=[*_COLOURS, *_COLOURS][: len(names)])
    axes.bar_label(bars, fmt="%.3g", padding=4, fontsize=8)
    axes.set_yticks(range(len(names)), list(names))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max([*values, 1e-9]))
    axes.set_xlabel(unit)
    _save(figure, axes, title, file)


def _figure(height: float = 4.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.4, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=True, alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _log(axes: Axes) -> None:
    """Makes the axis of latency logarithmic, with its numbers written out."""
    axes.set_yscale("log")
    for side in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        side(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))


def _save(figure: Figure, axes: Axes, title: str, file: Path) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right center", fontsize=7, frameon=False)
    figure.savefig(file, dpi=110)
