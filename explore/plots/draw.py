"""Drawing a figure's data with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch

from explore.plots.info import Figure, Panel
from explore.plots.style import COLOURS, COLUMN_IN, MARKERS, METADATA, SETTINGS, look

_MARGIN_IN = {"left": 0.42, "right": 0.06, "bottom": 0.34, "top": 0.30}
_LEGEND_ROW_IN = 0.14
_LABEL_IN = 0.24  # a label such as 256K in the usual size


def draw(figure: Figure, folder: Path, width: str, formats: Sequence[str]) -> list[Path]:
    """Draw one figure into `folder`, in every format; the files written."""
    settings: Any = SETTINGS  # the stubs of matplotlib know a literal type for every key
    with mpl.rc_context(settings):
        canvas = _lines(figure, width) if figure.kind == "lines" else _bars(figure, width)
        FigureCanvasAgg(canvas)
        paths = []
        for kind in formats:
            paths.append(folder / f"{figure.name}.{kind}")
            canvas.savefig(paths[-1], format=kind, metadata=METADATA[kind])
    return paths


def _size(figure: Figure, width: str) -> float:
    if width != "auto":
        return COLUMN_IN[width]
    wide = figure.kind != "lines" and len(figure.panels) > 1
    return COLUMN_IN["double" if wide else "single"]


def _axes(
    rows: int, width_in: float, panel_in: float, legend_rows: int, ratios: Sequence[float]
) -> tuple[Canvas, list[Any]]:
    """A canvas with a grid of axes, its margins fixed in inches; y is shared along a row."""
    gap = 0.30
    above = _MARGIN_IN["top"] + _LEGEND_ROW_IN * (legend_rows - 1) + 0.06
    height = above + _MARGIN_IN["bottom"] + rows * panel_in + (rows - 1) * gap
    canvas = Canvas(figsize=(width_in, height))
    grid = canvas.add_gridspec(
        rows,
        len(ratios),
        left=_MARGIN_IN["left"] / width_in,
        right=1 - _MARGIN_IN["right"] / width_in,
        bottom=_MARGIN_IN["bottom"] / height,
        top=1 - above / height,
        wspace=0.08,
        hspace=gap / panel_in,
        width_ratios=ratios,
    )
    axes: list[Any] = []
    for row in range(rows):
        first = None
        for column in range(len(ratios)):
            one = canvas.add_subplot(grid[row, column], sharey=first)
            if first is None:
                first = one
            else:
                one.tick_params(labelleft=False)
            axes.append(one)
    return canvas, axes


def _bars(figure: Figure, width: str) -> Canvas:
    width_in = _size(figure, width)
    names = list(dict.fromkeys(s.name for panel in figure.panels for s in panel.series))
    rows = figure.rows
    if width_in < COLUMN_IN["double"] and rows == 1:
        rows = -(-len(figure.panels) // 2)  # two panels side by side in a single column
    columns = -(-len(figure.panels) // rows)
    ratios = [max(1.6, len(p.labels)) for p in figure.panels[:columns]]
    per_row = max(1, int(width_in / (0.42 + 0.065 * max(map(len, names)))))
    legend_rows = -(-len(names) // per_row)
    panel_in = 0.95 if rows > 1 else 1.25
    canvas, axes = _axes(rows, width_in, panel_in, legend_rows, ratios)
    for i, (ax, panel) in enumerate(zip(axes, figure.panels, strict=False)):
        (_stacks if figure.kind == "stacked" else _groups)(ax, panel, names)
        ax.set_title(panel.title)
        ax.set_xticks(np.arange(len(panel.labels)), panel.labels)
        if (width_in - 0.5) / sum(ratios) < _LABEL_IN:
            ax.tick_params(axis="x", labelsize=5.5)
        ax.grid(axis="y")
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        if figure.log:
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter("")
        if figure.reference is not None:
            ax.axhline(figure.reference, color="#222222", linewidth=0.4, zorder=0)
        if i % columns == 0:
            ax.set_ylabel(figure.y_label)
    for ax in axes[len(figure.panels) :]:
        ax.set_visible(False)
    canvas.supxlabel(figure.x_label, fontsize=7, y=0.01, va="bottom")
    handles = [Patch(label=name, **_solid(look(i))) for i, name in enumerate(names)]
    canvas.legend(handles=handles, loc="upper center", ncols=min(per_row, len(names)))
    return canvas


def _solid(style: dict[str, object]) -> dict[str, Any]:
    """The look of a bar, as a patch takes it."""
    return {"facecolor": style["color"], **{k: v for k, v in style.items() if k != "color"}}


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], dtype=float)


def _groups(ax: Any, panel: Panel, names: Sequence[str]) -> None:
    """Bars side by side; a cross stands where a point is infeasible."""
    at = np.arange(len(panel.labels))
    each = 0.84 / len(panel.series)
    for i, series in enumerate(panel.series):
        x = at + (i - (len(panel.series) - 1) / 2) * each
        heights = _numbers(series.values)
        ax.bar(x, np.nan_to_num(heights), each, **look(names.index(series.name)))
        missing = np.isnan(heights)
        if missing.any():
            ax.plot(x[missing], np.full(missing.sum(), 0.02), "x", color="#222222", markersize=2.5,
                    transform=ax.get_xaxis_transform())  # fmt: skip
    ax.set_xlim(-0.6, len(panel.labels) - 0.4)


def _stacks(ax: Any, panel: Panel, names: Sequence[str]) -> None:
    """Bars on top of one another."""
    at = np.arange(len(panel.labels))
    bottom = np.zeros(len(at))
    for series in panel.series:
        heights = np.nan_to_num(_numbers(series.values))
        ax.bar(at, heights, 0.8, bottom=bottom, **look(names.index(series.name)))
        bottom += heights
    ax.set_xlim(-0.6, len(panel.labels) - 0.4)


def _lines(figure: Figure, width: str) -> Canvas:
    """Curves on logarithmic axes, points labelled; those off the Pareto front are hollow."""
    width_in = _size(figure, width)
    canvas, (ax,) = _axes(1, width_in, 1.9, 1, [1.0])
    for i, line in enumerate(figure.lines):
        colour = COLOURS[i % len(COLOURS)]
        marker = MARKERS[i % len(MARKERS)]
        on = np.array(line.front)
        x, y = _numbers(line.x), _numbers(line.y)
        ax.plot(x, y, color=colour, linewidth=0.9, zorder=2)
        style = {"marker": marker, "linestyle": "", "markersize": 4, "color": colour, "zorder": 3}
        ax.plot(
            x[on], y[on], markeredgecolor="#222222", markeredgewidth=0.4, label=line.name, **style
        )
        ax.plot(x[~on], y[~on], markerfacecolor="white", **style)
    last = figure.lines[-1]
    for x_at, y_at, text in zip(last.x, last.y, last.labels, strict=True):
        ax.annotate(text, (x_at, y_at), (4, 3), textcoords="offset points", fontsize=6.5)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.margins(x=0.12, y=0.1)
    ax.grid(visible=True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.set_xlabel(figure.x_label)
    ax.set_ylabel(figure.y_label)
    canvas.legend(loc="upper center", ncols=min(4, len(figure.lines)))
    return canvas
