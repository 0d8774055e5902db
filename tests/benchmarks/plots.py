"""The figures as drawings: cost against size, and how long a saved file takes. Needs the extra `benchmarks`."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from benchmarks.growth import Series
from benchmarks.results import Row
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Text stays text, which is smaller and can be searched; ids and dates do not change from one run to the next.
mpl.rcParams["svg.fonttype"] = "none"
mpl.rcParams["svg.hashsalt"] = "migrated"
mpl.rcParams["font.size"] = 9
_METADATA = {"Date": None, "Creator": None}
_MARKERS = "osD^"
_GREY = "0.6"


def draw_growth(path: Path, series: Sequence[Series], what: str) -> None:
    """Medians against sizes, both logarithmic, with the floors in grey and a line for what is proportional."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for marker, each in zip(_MARKERS, series, strict=False):
        sizes = [row.size for row in each.rows]
        line = axes.plot(sizes, [statistics.median(row.ours) for row in each.rows], marker=marker, label=each.name)
        beside = [row.beside[-1] for row in each.rows]
        known = [(size, statistics.median(b.samples)) for size, b in zip(sizes, beside, strict=True) if b.samples]
        label = f"{each.name}: floor"
        style = {"color": line[0].get_color(), "linestyle": ":", "marker": marker, "fillstyle": "none"}
        axes.plot([size for size, _ in known], [middle for _, middle in known], label=label, **style)
    _proportional(axes, series)
    axes.set(xscale="log", yscale="log", xlabel=what, ylabel=series[0].rows[0].unit)
    axes.grid(visible=True, color="0.9")
    axes.legend(fontsize="small", frameon=False)
    _save(figure, path)


def draw_latencies(path: Path, rows: Sequence[Row]) -> None:
    """For each watcher how large a share of the files was committed in which time."""
    figure = Figure(figsize=(6.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for row in rows:
        axes.ecdf(row.ours, label=row.what.removeprefix("for comparison: ").partition(":")[0].replace("`", ""))
    axes.set(xscale="log", xlabel="ms from rename to commit", ylabel="share of the files")
    axes.grid(visible=True, color="0.9")
    axes.legend(fontsize="small", frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    _save(figure, path)


def _proportional(axes: Axes, series: Sequence[Series]) -> None:
    first, last = series[0].rows[0], series[0].rows[-1]
    start = statistics.median(first.ours)
    end = start * last.size / first.size
    axes.plot([first.size, last.size], [start, end], color=_GREY, linewidth=0.8, label="slope 1", zorder=0)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata=_METADATA)
