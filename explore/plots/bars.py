"""Figures of bars: the panels of a row stand in one set of axes, folded when they are too wide.

One set of axes and one path for all bars of a series keep drawing fast: what costs time in
matplotlib is the number of artists, ticks above all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import NullLocator

from explore.plots.info import Figure, Panel, Row
from explore.plots.style import INK, TEXT_PT, TICK_PT, log_ticks, look, text_in

LEFT_IN, RIGHT_IN = 0.44, 0.04
TITLE_IN, TEXT_LINE_IN = 0.17, 0.13
BETWEEN_PANELS, BETWEEN_GROUPS, FILL = 0.7, 0.6, 0.86  # in units of a label's place
EDGE = 0.25
NARROWEST_IN = 0.022  # of a bar
PITCH_IN = TICK_PT * 1.05 / 72  # of labels that stand upright

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Line:
    """Panels side by side in one set of axes; a label's place is one unit wide."""

    y_label: str
    panels: tuple[Panel, ...]

    @cached_property
    def places(self) -> list[Any]:
        """Where the labels of each panel stand."""
        begin, found = EDGE, []
        for panel in self.panels:
            each = _place(panel)
            at = begin + each * (np.arange(len(panel.labels) * max(1, len(panel.groups))) + 0.5)
            at += BETWEEN_GROUPS * (np.arange(len(at)) // len(panel.labels))
            found.append(at)
            begin = at[-1] + each / 2 + BETWEEN_PANELS
        return found

    @property
    def extent(self) -> float:
        """The width of all panels."""
        return float(self.places[-1][-1]) + _place(self.panels[-1]) / 2 + EDGE

    @property
    def labels(self) -> list[str]:
        """The labels of all panels."""
        return [label for p in self.panels for label in p.labels * max(1, len(p.groups))]

    @property
    def groups(self) -> list[tuple[float, str]]:
        """Where the names of the groups stand, and the names."""
        return [
            (float(middle), name)
            for panel, at in zip(self.panels, self.places, strict=True)
            if panel.groups
            for middle, name in zip(
                at.reshape(len(panel.groups), -1).mean(axis=1), panel.groups, strict=True
            )
        ]


def _place(panel: Panel) -> float:
    """The width of a label's place: bars with numbers need room for them."""
    return 0.55 * len(panel.series) if panel.numbered else 1.0


def draw_bars(figure: Figure, width_in: float, above_in: float, names: Sequence[str]) -> Canvas:
    """All of a figure of bars but its legend, for which `above_in` is kept free."""
    room = width_in - LEFT_IN - RIGHT_IN
    stacked = figure.kind == "stacked"
    bars = 1 if stacked else max(len(panel.series) for panel in figure.panels)
    needed = max(PITCH_IN, bars * NARROWEST_IN / FILL)
    rows = [list(_folded(row, room / needed)) for row in figure.rows]
    lines = [line for row in rows for line in row]
    unit_in = room / max(line.extent for line in lines)
    level = all(_fits(line, unit_in) for line in lines)
    shown = [
        (one.labels, one.groups) != (two.labels, two.groups) for one, two in pairwise(lines)
    ] + [True]  # labels that the next line repeats are left out
    below = [
        _below(line, unit_in, level) if s else 0.0 for line, s in zip(lines, shown, strict=True)
    ]
    panel_in = 1.25 if len(lines) == 1 else 0.95
    tops = np.cumsum([TITLE_IN, *(panel_in + b + 0.06 + TITLE_IN for b in below[:-1])])
    height = above_in + tops[-1] + panel_in + below[-1] + 0.16
    canvas = Canvas(figsize=(width_in, height))
    for line, top, show in zip(lines, tops, shown, strict=True):
        low = height - above_in - top - panel_in
        size = (LEFT_IN, low, line.extent * unit_in, panel_in)
        ax = canvas.add_axes(tuple(np.array(size) / [width_in, height, width_in, height]))
        ax.set_xlim(0, line.extent)
        _scale(ax, figure, panel_in, stacked)
        _draw_line(ax, figure, line, names)
        _annotate(ax, line, unit_in, level, show)
    done = 0
    for row in rows:
        first, last = tops[done], tops[done + len(row) - 1] + panel_in
        done += len(row)
        label = wrap(row[0].y_label, int((last - first + TITLE_IN) / text_in("x", TEXT_PT)))
        canvas.text(0.02 / width_in, 1 - (above_in + (first + last) / 2) / height,
                    "\n".join(label), rotation=90, ha="left", va="center", linespacing=1.0)  # fmt: skip
    canvas.text((LEFT_IN + room / 2) / width_in, 0.03 / height, figure.x_label, ha="center")
    return canvas


def _folded(row: Row, longest: float) -> Iterator[Line]:
    """The panels of a row in as few lines as hold them, all but the last equally many."""
    for count in range(1, len(row.panels) + 1):
        each = -(-len(row.panels) // count)
        parts = [row.panels[i : i + each] for i in range(0, len(row.panels), each)]
        lines = [Line(row.y_label, part) for part in parts]
        if all(line.extent <= longest for line in lines):
            break
    yield from lines


def _fits(line: Line, unit_in: float) -> bool:
    """Whether the labels can be written side by side."""
    at = np.concatenate(line.places) * unit_in
    half = np.array([text_in(label) / 2 for label in line.labels])
    return bool(np.all(np.diff(at) >= half[1:] + half[:-1] + 0.015))


def _names_fit(line: Line, unit_in: float) -> bool:
    spans = [(at * unit_in, text_in(name, TEXT_PT) / 2) for at, name in line.groups]
    return all(b - a >= p + q + 0.03 for (a, p), (b, q) in pairwise(spans))


def _below(line: Line, unit_in: float, level: bool) -> float:
    """The height of labels and groups' names under the axes, in inches."""
    labels = TEXT_LINE_IN if level else 0.05 + max(map(text_in, line.labels))
    if not line.groups:
        return labels
    if _names_fit(line, unit_in):
        return labels + TEXT_LINE_IN
    return labels + 0.06 + 0.5 * max(text_in(name, TEXT_PT) for _, name in line.groups)


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


def _draw_line(ax: Any, figure: Figure, line: Line, names: Sequence[str]) -> None:
    """The bars; a cross stands where a point has no value."""
    stacked = figure.kind == "stacked"
    boxes: dict[str, list[Array]] = {}
    crosses: list[Array] = []
    floor = ax.get_ylim()[0]
    for panel, at in zip(line.panels, line.places, strict=True):
        values = np.array([_numbers(s.values) for s in panel.series]).reshape(-1, len(at))
        each = FILL * _place(panel) / (1 if stacked else len(values))
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
                crosses.append((left + each / 2)[np.isnan(height)])
                if panel.numbered:
                    _number(ax, left + each / 2, height)
        if stacked:
            crosses.append(at[np.isnan(values).all(axis=0)])
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
            text = f"{height:.2f}" if 0.1 <= height < 100 else f"{height:.3g}"
            ax.annotate(text, (at, height), (0, 1.5), textcoords="offset points",
                        rotation=90, ha="center", va="bottom", fontsize=TICK_PT)  # fmt: skip


def _annotate(ax: Any, line: Line, unit_in: float, level: bool, show: bool) -> None:
    """What stands around the bars: titles above, labels and groups below, rules between panels."""
    every = 1 if level else max(1, int(np.ceil(PITCH_IN / unit_in - 0.01)))
    labels = [label if i % every == 0 else "" for i, label in enumerate(line.labels)]
    rotation = 0 if level else 90
    ax.set_xticks(np.concatenate(line.places), labels if show else [], rotation=rotation)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.tick_params(axis="x", length=0)
    above, rules = ax.get_xaxis_transform(), []
    for panel, at in zip(line.panels, line.places, strict=True):
        half = _place(panel) / 2
        width_in = (at[-1] - at[0] + 2 * half) * unit_in
        most = max(4, int(width_in / text_in("x", TEXT_PT)))
        title = panel.title if len(panel.title) <= most else panel.title[: most - 1] + "…"
        ax.text((at[0] + at[-1]) / 2, 1.04, title, transform=above, ha="center", va="bottom")
        if panel is not line.panels[0]:
            rules.append(at[0] - half - BETWEEN_PANELS / 2)
    ax.vlines(rules, 0, 1, transform=above, color="#888888", linewidth=0.5)
    if not show:
        return
    upright = _names_fit(line, unit_in)
    labels_pt = 72 * (TEXT_LINE_IN if level else 0.05 + max(map(text_in, line.labels)))
    turned: dict[str, Any] = {"ha": "center"} if upright else {"ha": "right", "rotation": 30}
    for x, name in line.groups:
        ax.annotate(name, (x, 0), (0 if upright else 6, -labels_pt), xycoords=above,
                    textcoords="offset points", va="top", **turned)  # fmt: skip
