"""Drawing panels of curves and of scattered points, on logarithmic axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from explore.plots.figure import Figure, Line, LinePanel
from explore.plots.front import short
from explore.plots.layout import AROUND, beside, raised
from explore.plots.style import COLOURS, INK, MARKERS, TEXT_PT, TICK_PT, log_ticks, text_in

_PALE = "#bbbbbb"
_ORDER = (1, 6, 4, 0, 5, 3, 7, 2)  # of the colours: lines on white need dark ones first
_HEIGHT_IN = 2.1
_LEFT_IN, _BELOW_IN, _GAP_IN, _TITLE_IN = 0.48, 0.36, 0.5, 0.18
_LEGEND_LINE_IN = 0.15
_MANY = 1000  # points that are drawn as pixels, not one by one, in files of lines
_MOST_TICKS = 10
_CLOUD = {(False, False): 0.35, (False, True): 0.15, (True, False): 0.7, (True, True): 0.25}
"""How opaque points off the front are: pale ones, many of them."""
_BEFORE = ((-1, -1), (-1, 0), (0, -1))  # where a front leaves room: nothing is smaller in both
_BEHIND = ((1, 1), (0, 1), (1, 0))
_NAME_PT = TICK_PT - 1.5


def draw_curves(figure: Figure, width_in: float) -> Canvas:
    """The panels of a figure in rows; what is on a front is named, the rest is pale."""
    columns = max(map(len, figure.curves))
    rows = len(figure.curves)
    styles = _styles(figure)
    handles = [
        Line2D([], [], color=c, marker=m, markersize=4, linewidth=0.9, label=name)
        for name, (c, m) in styles.items()
    ]
    scattered = all(panel.scattered for row in figure.curves for panel in row)
    if scattered:
        front = any(any(line.front) for row in figure.curves for p in row for line in p.lines)
        for i, handle in enumerate(handles):
            handle.set_linestyle("")
            if not front:
                handle.set(**_alike(str(handle.get_color()), first=i == 0))
    elif any(line.name not in styles for row in figure.curves for p in row for line in p.lines):
        handles.append(Line2D([], [], color=_PALE, linewidth=0.6, label="others"))
    if len(handles) == 1 and any(panel.marked for row in figure.curves for panel in row):
        handles = []  # the mark says whose points these are
    each = max((0.4 + text_in(str(h.get_label()), TEXT_PT) for h in handles), default=width_in)
    across = max(1, min(len(handles), int(width_in / each)))
    above = 0.05 + _LEGEND_LINE_IN * -(-len(handles) // across)
    panel_in = (width_in - _LEFT_IN - (columns - 1) * _GAP_IN - 0.06) / columns
    titled = any(panel.title for row in figure.curves for panel in row)
    pitch = _HEIGHT_IN + _BELOW_IN + (_TITLE_IN if titled else 0.05)
    height = above + rows * pitch
    canvas = Canvas(figsize=(width_in, height))
    for i, row in enumerate(figure.curves):
        for j, panel in enumerate(row):
            left = _LEFT_IN + j * (panel_in + _GAP_IN)
            bottom = height - above - (i + 1) * pitch + _BELOW_IN
            box = (left / width_in, bottom / height, panel_in / width_in, _HEIGHT_IN / height)
            ax: Any = canvas.add_axes(box)
            _panel(ax, panel, styles)
            _name_fronts(ax, panel, styles)
            ax.set_title(panel.title, fontsize=TEXT_PT, pad=3)
            ax.set_ylabel(panel.y_label if j == 0 or panel.y_label != row[j - 1].y_label else "")
            ax.set_xlabel(panel.x_label if i == rows - 1 or panel.scattered else "")
    canvas.legend(handles=handles, loc="upper center", ncols=across, borderaxespad=0.1)
    return canvas


def _styles(figure: Figure) -> dict[str, tuple[str, str]]:
    """Colour and marker of every line that has a point on a front, in order of appearance."""
    names = dict.fromkeys(
        line.name
        for row in figure.curves
        for panel in row
        for line in panel.lines
        if panel.scattered or any(line.front)
    )
    return {
        name: (COLOURS[_ORDER[i % len(_ORDER)]], MARKERS[i % len(MARKERS)])
        for i, name in enumerate(names)
    }


def _panel(ax: Any, panel: LinePanel, styles: dict[str, tuple[str, str]]) -> None:
    for i, line in enumerate(panel.lines):
        colour, marker = styles.get(line.name, (_PALE, "o"))
        if panel.scattered and not any(any(line.front) for line in panel.lines):
            ax.plot(line.x, line.y, linestyle="", marker=marker, **_alike(colour, first=i == 0))
        elif panel.scattered:
            cloud = _PALE if panel.stepped and len(panel.lines) == 1 else colour
            _points(ax, line, colour, cloud, marker, panel.stepped)
        elif any(line.front):
            ax.plot(line.x, line.y, color=colour, marker=marker, markersize=3, linewidth=0.9,
                    markeredgecolor=INK, markeredgewidth=0.3, zorder=3)  # fmt: skip
        else:
            ax.plot(line.x, line.y, color=_PALE, linewidth=0.6, zorder=2)
    _marks(ax, panel)
    x = [value for line in panel.lines for value in line.x] + [x for _, x, _ in panel.marked]
    logarithmic = min(x) > 0  # what is swept may be 0
    ax.set(xscale="log" if logarithmic else "linear", yscale="log")
    ax.margins(x=0.28 if panel.stepped else 0.12, y=0.1)
    ax.grid(visible=True)
    y = [value for line in panel.lines for value in line.y] + [y for _, _, y in panel.marked]
    log_ticks(ax.yaxis, min(y), max(y))
    if panel.scattered or len(set(x)) > _MOST_TICKS:
        if logarithmic:
            log_ticks(ax.xaxis, min(x), max(x))
        return
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ax.xaxis.set_major_locator(FixedLocator(sorted(set(x))))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _points(ax: Any, line: Line, colour: str, cloud: str, marker: str, stepped: bool) -> None:
    """Points of one line: those on the front joined and filled, a cloud of the others."""
    best = np.array(line.front, dtype=bool)
    x, y = np.array(line.x), np.array(line.y)
    if not best.all():
        many = len(best) > _MANY
        ax.plot(x[~best], y[~best], linestyle="", marker=marker, markersize=2 if many else 3,
                color=cloud, alpha=_CLOUD[cloud == _PALE, many], markeredgewidth=0, zorder=2,
                rasterized=many)  # fmt: skip
    order = np.lexsort((y[best], x[best]))
    ax.plot(x[best][order], y[best][order], linestyle="-", linewidth=0.7, marker=marker,
            markersize=4, color=colour, markeredgecolor=INK, markeredgewidth=0.4, zorder=3,
            drawstyle="steps-post" if stepped else "default")  # fmt: skip


def _alike(colour: str, first: bool) -> dict[str, Any]:
    """Points without a front: the first ones filled, the others larger and hollow behind them."""
    if first:
        return {"color": colour, "markersize": 3.5, "markeredgewidth": 0, "zorder": 4}
    hollow = {"markerfacecolor": "none", "markeredgecolor": colour, "markeredgewidth": 0.9}
    return {**hollow, "markersize": 5, "zorder": 3}


def _marks(ax: Any, panel: LinePanel) -> None:
    for _, x, y in panel.marked:
        ax.plot(x, y, linestyle="", marker="*", markersize=8, color=COLOURS[0],
                markeredgecolor=INK, markeredgewidth=0.5, zorder=4)  # fmt: skip


def _name_fronts(ax: Any, panel: LinePanel, styles: dict[str, tuple[str, str]]) -> None:
    """The names of the points on the front, in the colour of their line, none over another.

    Where there is no front, of all points; and of those that are marked.
    """
    named = [
        ((x, y), name, styles[line.name][0])
        for line in panel.lines
        if panel.scattered
        for x, y, name, best in zip(line.x, line.y, line.labels, line.front, strict=True)
        if name and (best or not any(line.front))
    ]
    marked = [((x, y), name, INK) for name, x, y in panel.marked]
    if not named and not marked:
        return
    ax.autoscale_view()
    in_points = 72 / ax.figure.dpi
    at, wide = [], []
    for point, name, _ in (*named, *marked):
        at.append(tuple((ax.transData.transform(point) * in_points).tolist()))
        wide.append(72 * text_in(name, _NAME_PT))
    count = len(named)
    sizes = [(w, 1.15 * _NAME_PT) for w in wide]
    if panel.stepped or not any(any(line.front) for line in panel.lines):
        (left, low), (right, top) = (ax.transAxes.transform([(0, 0), (1, 1)]) * in_points).tolist()
        page = (left, low, right, top)
        sides = _BEFORE if panel.stepped else AROUND
        corners = beside(at[:count], sizes[:count], page, at[count:], around=sides)
        sides = _BEHIND if panel.stepped else AROUND
        corners += beside(at[count:], sizes[count:], page, at[:count], around=sides)
        shifts = [c and (c[0] - x, c[1] - y) for c, (x, y) in zip(corners, at, strict=True)]
    else:
        boxes = [(x, x + w, y) for (x, y), w in zip(at, wide, strict=True)]
        heights = raised(boxes, 1.15 * _NAME_PT)
        shifts = [(4, 3 + h - y) for (_, y), h in zip(at, heights, strict=True)]
    named += marked
    for (point, name, colour), shift in zip(named, shifts, strict=True):
        if shift is not None:
            ax.annotate(name, point, shift, textcoords="offset points",
                        fontsize=_NAME_PT, color=colour)  # fmt: skip
