"""Drawing a figure's data with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from explore.plots.across import draw_across
from explore.plots.bars import draw_bars
from explore.plots.curves import draw_curves
from explore.plots.figure import Figure
from explore.plots.layout import LEFT_IN, RIGHT_IN
from explore.plots.style import (
    COLOURS,
    COLUMN_IN,
    INK,
    MARKERS,
    SAVING,
    SETTINGS,
    TICK_PT,
    legend_form,
    log_ticks,
    look,
)

_LEGEND_LINE_IN, _HANDLE_IN = 0.15, 0.36
_FEW_PLACES = 16  # labels that a single column holds


def draw(figure: Figure, folder: Path, width: str, formats: Sequence[str]) -> list[Path]:
    """Draw one figure into `folder`, in every format; the files written."""
    settings: Any = SETTINGS  # the stubs of matplotlib know a literal type for every key
    width_in = COLUMN_IN[_suited(figure) if width == "auto" else width]
    with mpl.rc_context(settings):
        canvas = _KINDS.get(figure.kind, _bars)(figure, width_in)
        FigureCanvasAgg(canvas)
        paths = []
        for kind in formats:
            paths.append(folder / f"{figure.name}.{kind}")
            canvas.savefig(paths[-1], format=kind, **SAVING[kind])
    return paths


def _suited(figure: Figure) -> str:
    if figure.kind == "curves":
        return (
            "single" if all(panel.compact for row in figure.curves for panel in row) else "double"
        )
    if figure.kind in ("shares", "steps"):
        return "double"
    most = max((sum(_places(p) for p in row.panels) for row in figure.rows), default=0)
    return "double" if most > _FEW_PLACES else "single"


def _places(panel: Any) -> int:
    return len(panel.labels) * max(1, len(panel.groups))


def _bars(figure: Figure, width_in: float) -> Canvas:
    names = list(dict.fromkeys(s.name for panel in figure.panels for s in panel.series))
    columns, above_in = _legend_size(names, width_in)
    canvas = draw_bars(figure, width_in, above_in, names)
    handles = [Patch(label=name, **look(i)) for i, name in enumerate(names)]
    canvas.legend(handles=handles, loc="upper center", ncols=columns, borderaxespad=0.1)
    return canvas


def _legend_size(names: Sequence[str], width_in: float) -> tuple[int, float]:
    """How many columns a legend has, and its height in inches."""
    columns, lines = legend_form(names, width_in, _HANDLE_IN)
    return columns, 0.03 + _LEGEND_LINE_IN * lines


def _lines(figure: Figure, width_in: float) -> Canvas:
    """Curves on logarithmic axes, points labelled; those off the Pareto front are hollow."""
    handles = [
        Line2D([], [], **_curve(i), markeredgecolor=INK, label=line.name)
        for i, line in enumerate(figure.lines)
    ]
    mixed = any(not all(line.front) for line in figure.lines)
    if mixed:
        handles.append(Line2D([], [], marker="o", linestyle="", markersize=4, markeredgewidth=0.5,
                              color=INK, markerfacecolor="w", label="off the front"))  # fmt: skip
    columns, above_in = _legend_size([str(h.get_label()) for h in handles], width_in)
    height = above_in + 0.05 + 1.85 + 0.34
    size = (LEFT_IN, 0.34, width_in - LEFT_IN - RIGHT_IN - 0.06, 1.85)
    canvas = Canvas(figsize=(width_in, height))
    ax: Any = canvas.add_axes(tuple(np.array(size) / [width_in, height, width_in, height]))
    for i, line in enumerate(figure.lines):
        x, y, on = np.array(line.x), np.array(line.y), np.array(line.front)
        ax.plot(x[on], y[on], **_curve(i), markeredgecolor=INK)
        if not on.all():
            style = _curve(i) | {"linestyle": "", "markerfacecolor": "white"}
            ax.plot(x[~on], y[~on], **style | {"markeredgewidth": 0.9})
    highest = max(figure.lines, key=lambda line: float(np.mean(np.log(line.y))))
    for x_at, y_at, text in zip(highest.x, highest.y, highest.labels, strict=True):
        ax.annotate(text, (x_at, y_at), (3.5, 2.5), textcoords="offset points", fontsize=TICK_PT)
    ax.set(xscale="log", yscale="log", xlabel=figure.x_label, ylabel=figure.y_label)
    ax.margins(x=0.12, y=0.1)
    ax.grid(visible=True)
    for axis, values in ((ax.xaxis, [line.x for line in figure.lines]),
                         (ax.yaxis, [line.y for line in figure.lines])):  # fmt: skip
        log_ticks(axis, min(map(min, values)), max(map(max, values)))
    canvas.legend(handles=handles, loc="upper center", ncols=columns, borderaxespad=0.1)
    return canvas


_KINDS = {"lines": _lines, "curves": draw_curves, "shares": draw_across, "steps": draw_across}


def _curve(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": ("-", "--", "-.", ":")[index % 4],
        "linewidth": 0.9,
        "markersize": 4.2,
        "markeredgewidth": 0.5,
        "zorder": 3,
    }
