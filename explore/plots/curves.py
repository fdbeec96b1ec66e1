"""Drawing panels of curves and of scattered points, on logarithmic axes."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from explore.plots.figure import Figure, LinePanel
from explore.plots.front import short
from explore.plots.layout import raised
from explore.plots.style import COLOURS, INK, MARKERS, TEXT_PT, TICK_PT, log_ticks, text_in

_PALE = "#bbbbbb"
_ORDER = (1, 6, 4, 0, 5, 3, 7, 2)  # of the colours: lines on white need dark ones first
_HEIGHT_IN = 2.1
_LEFT_IN, _BELOW_IN, _GAP_IN, _TITLE_IN = 0.48, 0.36, 0.5, 0.18
_LEGEND_LINE_IN = 0.15
_LEGEND_ROWS = 3
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
        for handle in handles:
            handle.set_linestyle("")
    else:
        handles.append(Line2D([], [], color=_PALE, linewidth=0.6, label="others"))
    each = max(0.4 + text_in(str(h.get_label()), TEXT_PT) for h in handles)
    across = max(1, min(len(handles), int(width_in / each)))
    above = 0.05 + _LEGEND_LINE_IN * -(-len(handles) // across)
    panel_in = (width_in - _LEFT_IN - (columns - 1) * _GAP_IN - 0.06) / columns
    pitch = _HEIGHT_IN + _BELOW_IN + _TITLE_IN
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
            ax.set_ylabel(panel.y_label if j == 0 else "")
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
    for line in panel.lines:
        colour, marker = styles.get(line.name, (_PALE, "o"))
        if panel.scattered:
            _points(ax, line, colour, marker)
        elif any(line.front):
            ax.plot(line.x, line.y, color=colour, marker=marker, markersize=3, linewidth=0.9,
                    markeredgecolor=INK, markeredgewidth=0.3, zorder=3)  # fmt: skip
        else:
            ax.plot(line.x, line.y, color=_PALE, linewidth=0.6, zorder=2)
    ax.set(xscale="log", yscale="log")
    ax.margins(x=0.12, y=0.1)
    ax.grid(visible=True)
    x = [value for line in panel.lines for value in line.x]
    y = [value for line in panel.lines for value in line.y]
    log_ticks(ax.yaxis, min(y), max(y))
    if panel.scattered:
        log_ticks(ax.xaxis, min(x), max(x))
        return
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ax.xaxis.set_major_locator(FixedLocator(sorted(set(x))))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _points(ax: Any, line: Any, colour: str, marker: str) -> None:
    """Points of one colour; those on the front are joined and filled."""
    on = sorted((x, y) for x, y, best in zip(line.x, line.y, line.front, strict=True) if best)
    off = [(x, y) for x, y, best in zip(line.x, line.y, line.front, strict=True) if not best]
    if off:
        ax.plot(*zip(*off, strict=True), linestyle="", marker=marker, markersize=3,
                color=colour, alpha=0.35, markeredgewidth=0, zorder=2)  # fmt: skip
    if not on:
        return
    ax.plot(*zip(*on, strict=True), linestyle="-", linewidth=0.7, marker=marker, markersize=4,
            color=colour, markeredgecolor=INK, markeredgewidth=0.4, zorder=3)  # fmt: skip


def _name_fronts(ax: Any, panel: LinePanel, styles: dict[str, tuple[str, str]]) -> None:
    """The names of the points on the front, in the colour of their line, none over another."""
    named = [
        (point, name, styles[line.name][0])
        for line in panel.lines
        if panel.scattered
        for *point, name, best in zip(line.x, line.y, line.labels, line.front, strict=True)
        if best
    ]
    if not named:
        return
    ax.autoscale_view()
    in_points = 72 / ax.figure.dpi
    at = ax.transData.transform([point for point, _, _ in named]) * in_points
    wide = [72 * text_in(name, _NAME_PT) for _, name, _ in named]
    boxes = [(x, x + w, y) for (x, y), w in zip(at.tolist(), wide, strict=True)]
    heights = raised(boxes, 1.15 * _NAME_PT)
    for (point, name, colour), (_, y), height in zip(named, at, heights, strict=True):
        ax.annotate(name, point, (4, 3 + height - y), textcoords="offset points",
                    fontsize=_NAME_PT, color=colour)  # fmt: skip
