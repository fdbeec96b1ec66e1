"""Figures of bars: the panels of a row stand in one set of axes, folded when they are too wide.

One set of axes and one path for all bars of a series keep drawing fast: what costs time in
matplotlib is the number of artists, ticks above all.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import NullLocator
from matplotlib.transforms import ScaledTranslation

from explore.plots.figure import Figure
from explore.plots.layout import (
    ALONG_Y,
    BETWEEN_PANELS,
    FILL,
    LEFT_IN,
    LETTER_IN,
    NARROWEST_IN,
    PITCH_IN,
    RIGHT_IN,
    TITLE_IN,
    Array,
    Strip,
    fits,
    folded,
    group_names,
    height_below,
    labels_in,
    place,
    shortened,
    turned,
)
from explore.plots.style import INK, TEXT_PT, TICK_PT, log_ticks, look, text_in


def draw_bars(figure: Figure, width_in: float, above_in: float, names: Sequence[str]) -> Canvas:
    """All of a figure of bars but its legend, for which `above_in` is kept free."""
    stacked = figure.kind == "stacked"
    bars = 1 if stacked else max(len(panel.series) for panel in figure.panels)
    needed = max(PITCH_IN, bars * NARROWEST_IN / FILL)
    longest = (width_in - LEFT_IN - RIGHT_IN) / needed
    rows = [list(folded(row, longest)) for row in figure.rows]
    lines = [line for row in rows for line in row]
    panel_in = 1.25 if len(lines) == 1 else 0.95
    y_labels = [wrap(r[0].y_label, int((len(r) * panel_in + 0.25) / LETTER_IN)) for r in rows]
    left_in = LEFT_IN + 0.11 * (max(map(len, y_labels)) - 1)
    unit_in = (width_in - left_in - RIGHT_IN) / max(line.extent for line in lines)
    level = all(fits(line, unit_in) for line in lines)
    shown = [(a.labels, a.groups) != (b.labels, b.groups) for a, b in pairwise(lines)]
    shown.append(True)  # labels that the next line repeats are left out
    below = [
        height_below(line, unit_in, level) * show for line, show in zip(lines, shown, strict=True)
    ]
    tops = np.cumsum([TITLE_IN, *(panel_in + b + 0.06 + TITLE_IN for b in below[:-1])])
    height = above_in + tops[-1] + panel_in + below[-1] + 0.16
    canvas = Canvas(figsize=(width_in, height))
    for line, top, show in zip(lines, tops, shown, strict=True):
        low = height - above_in - top - panel_in
        size = np.array([left_in, low, line.extent * unit_in, panel_in])
        ax = canvas.add_axes(tuple(size / [width_in, height, width_in, height]))
        ax.set_xlim(0, line.extent)
        _scale(ax, figure, panel_in, stacked)
        _draw_line(ax, figure, line, names)
        _annotate(ax, line, unit_in, level, show)
    done = 0
    for row, label in zip(rows, y_labels, strict=True):
        middle = (tops[done] + tops[done + len(row) - 1] + panel_in) / 2
        y = 1 - (above_in + middle) / height
        canvas.text(0.02 / width_in, y, "\n".join(label), **ALONG_Y)
        done += len(row)
    centre = (left_in + width_in - RIGHT_IN) / 2
    canvas.text(centre / width_in, 0.03 / height, figure.x_label, ha="center")
    return canvas


def _numbers(values: Sequence[float | None]) -> Array:
    found = np.array([np.nan if v is None else v for v in values], dtype=float)
    return np.where(np.isfinite(found), found, np.nan)


def _scale(ax: Any, figure: Figure, panel_in: float, stacked: bool) -> None:
    """The y axis. It is the same in all lines of the figure."""
    heights = [np.array([_numbers(s.values) for s in p.series]) for p in figure.panels]
    tops = [np.nansum(h, axis=0) if stacked else h for h in heights if h.size]
    highest = max((float(np.nanmax(t)) for t in tops if not np.isnan(t).all()), default=1.0) or 1.0
    if figure.log:
        lowest = min(float(np.nanmin(h[h > 0])) for h in heights if (h > 0).any())
        ax.set_yscale("log")
        ax.set_ylim(lowest / 1.5, highest * (highest / lowest) ** 0.3)
        log_ticks(ax.yaxis, lowest, highest)
    else:
        numbers = [h for h, p in zip(heights, figure.panels, strict=True) if p.numbered]
        above = max((float(np.nanmax(h)) for h in numbers if not np.isnan(h).all()), default=0.0)
        head = 0.30 / panel_in  # for a number of four characters, upright
        ax.set_ylim(0, max(highest * 1.04, min(above / (1 - head), highest * 1.4)))
    ax.grid(axis="y")


def _draw_line(ax: Any, figure: Figure, line: Strip, names: Sequence[str]) -> None:
    """The bars; a cross stands where a point has no value."""
    stacked = figure.kind == "stacked"
    boxes: dict[str, list[Array]] = {}
    crosses: list[Array] = []
    floor = ax.get_ylim()[0]
    for panel, at in zip(line.panels, line.places, strict=True):
        values = np.array([_numbers(s.values) for s in panel.series]).reshape(-1, len(at))
        empty = np.isnan(values).all(axis=0)
        each = FILL * place(panel) / (1 if stacked else len(values))
        low = np.full(len(at), floor)
        for i, (series, height) in enumerate(zip(panel.series, values, strict=True)):
            left = at - each / 2 if stacked else at + (i - len(values) / 2) * each
            top = low + np.nan_to_num(height) if stacked else np.nan_to_num(height, nan=floor)
            drawn = top > low
            box = np.stack([left, low, left + each, top], axis=1)[drawn]
            boxes.setdefault(series.name, []).append(box)
            if stacked:
                low = top
            else:
                crosses.append((left + each / 2)[np.isnan(height) & ~empty])
                if panel.numbered:
                    _number(ax, left + each / 2, height)
        crosses.append(at[empty])
    plain = [at for p, at in zip(line.panels, line.places, strict=True) if not p.numbered]
    if figure.reference is not None and plain:
        ends = [plain[0][0] - 0.5, plain[-1][-1] + 0.5]
        ax.plot(ends, [figure.reference] * 2, color=INK, linewidth=0.5, zorder=0.6)
    for name, found in boxes.items():
        outline = _outline(np.concatenate(found))
        if outline:
            ax.add_patch(PathPatch(outline, **look(names.index(name))))
    missing = np.concatenate(crosses)
    if len(missing):
        ax.plot(missing, np.full(len(missing), 0.03), "x", color=INK, markersize=2.5,
                markeredgewidth=0.6, transform=ax.get_xaxis_transform())  # fmt: skip


def _outline(boxes: Array) -> Outline | None:
    """One path of many boxes, given as (left, bottom, right, top)."""
    if not len(boxes):
        return None
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(-1, 2)
    codes = [Outline.MOVETO, *[Outline.LINETO] * 3, Outline.CLOSEPOLY] * len(boxes)
    return Outline(corners, codes)


def _number(ax: Any, x: Array, heights: Array) -> None:
    for at, height in zip(x, heights, strict=True):
        if np.isfinite(height):
            digits = 2 if height < 10 else 1 if height < 100 else 0
            text = f"{height:.{digits}f}" if height >= 0.01 else f"{height:.0e}"
            ax.annotate(text, (at, height), (0, 1.5), textcoords="offset points",
                        rotation=90, ha="center", va="bottom", fontsize=TICK_PT)  # fmt: skip


def _annotate(ax: Any, line: Strip, unit_in: float, level: bool, show: bool) -> None:
    """What stands around the bars: titles above, labels and groups below, rules between panels."""
    above, rules = ax.get_xaxis_transform(), []
    for panel, at in zip(line.panels, line.places, strict=True):
        half = place(panel) / 2
        width_in = (at[-1] - at[0] + 2 * half) * unit_in
        most = max(4, int(width_in / text_in("x", TEXT_PT)))
        title = shortened(panel.title, most)
        ax.text((at[0] + at[-1]) / 2, 1.04, title, transform=above, ha="center", va="bottom")
        if panel is not line.panels[0]:
            rules.append(at[0] - half - BETWEEN_PANELS / 2)
    ax.vlines(rules, 0, 1, transform=above, color="#888888", linewidth=0.5)
    ax.xaxis.set_major_locator(NullLocator())
    ax.xaxis.set_minor_locator(NullLocator())
    if not show:
        return
    # plain text: a tick is five artists
    every = 1 if level else max(1, int(np.ceil(PITCH_IN / unit_in - 0.01)))
    style: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": TICK_PT}
    style |= {"rotation": 0 if level else 90, "transform": _lower(ax, 0.03)}
    for x, label in list(zip(np.concatenate(line.places), line.labels, strict=True))[::every]:
        ax.text(x, 0, label, **style)
    style = {"transform": _lower(ax, labels_in(line, level)), "va": "top"}
    style |= {"rotation": turned(line, unit_in)}
    style |= {"ha": "right" if style["rotation"] == 45 else "center"}
    for x, name in group_names(line, unit_in):
        ax.text(x + (style["ha"] == "right") * 0.08 / unit_in, 0, name, **style)


def _lower(ax: Any, inches: float) -> Any:
    """Where x is the data's, and y is so far under the axes."""
    down = ScaledTranslation(0, -inches, ax.figure.dpi_scale_trans)
    return ax.get_xaxis_transform() + down
