"""Figures whose bars lie: long names to the left, a line a bar, what there is to say behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from explore.plots.figure import Figure, Panel
from explore.plots.style import COLOURS, INK, TEXT_PT, TICK_PT, legend_form, look, text_in

_BAR_IN, _PITCH_IN = 0.17, 0.235
_BELOW_IN, _TITLE_IN, _LEGEND_LINE_IN, _HANDLE_IN = 0.34, 0.2, 0.15, 0.36
_FILL = _BAR_IN / _PITCH_IN
_SAVED = "#e4e4e4"


def draw_across(figure: Figure, width_in: float) -> Canvas:
    """A panel under the other, each with a line for every label."""
    panels = figure.panels
    shares = figure.kind == "shares"
    handles = _shares_legend(panels) if shares else _steps_legend(panels)
    columns, lines = legend_form([str(h.get_label()) for h in handles], width_in, _HANDLE_IN)
    above_in = 0.05 + _LEGEND_LINE_IN * lines
    left_in = 0.1 + max(text_in(label) for p in panels for label in p.labels)
    right_in = 0.1 + max(text_in(note) for p in panels for note in p.notes)
    right_in += 0.0 if shares else 0.45 * max(len(panel.series) - 2 for panel in panels)
    titles_in = [_TITLE_IN if panel.title and len(panels) > 1 else 0.06 for panel in panels]
    tall_in = [len(panel.labels) * _PITCH_IN + 0.06 for panel in panels]
    height = above_in + sum(titles_in) + sum(tall_in) + _BELOW_IN
    canvas = Canvas(figsize=(width_in, height))
    top = height - above_in
    for panel, title_in, own_in in zip(panels, titles_in, tall_in, strict=True):
        top -= title_in + own_in
        size = np.array([left_in, top, width_in - left_in - right_in, own_in])
        ax: Any = canvas.add_axes(tuple(size / [width_in, height, width_in, height]))
        (_shares if shares else _steps)(ax, panel, size[2], figure)
        ax.set_ylim(len(panel.labels) - 0.5, -0.5)
        ax.set_yticks(range(len(panel.labels)), panel.labels)
        ax.tick_params(axis="y", length=0)
        if title_in == _TITLE_IN:
            ax.set_title(panel.title, fontsize=TEXT_PT, pad=3)
        if panel is panels[-1]:
            ax.set_xlabel(figure.x_label)
        else:
            ax.tick_params(axis="x", labelbottom=False)
    canvas.legend(handles=handles, loc="upper center", ncols=columns, borderaxespad=0.1)
    return canvas


def _names(panels: Sequence[Panel]) -> list[str]:
    return list(dict.fromkeys(s.name for panel in panels for s in panel.series))


def _shares_legend(panels: Sequence[Panel]) -> list[Any]:
    return [Patch(label=name, **look(i)) for i, name in enumerate(_names(panels))]


def _shares(ax: Any, panel: Panel, wide_in: float, figure: Figure) -> None:
    """Parts of a whole side by side, numbered where they are wide enough."""
    names = _names(figure.panels)
    start = np.zeros(len(panel.labels))
    for series in panel.series:
        width = 100 * np.array([v or 0.0 for v in series.values])
        at = np.flatnonzero(width > 0)
        style = look(names.index(series.name))
        ax.barh(at, width[at], left=start[at], height=_FILL, **style)
        for line in at.tolist():
            text = f"{width[line]:.0f}"
            if text_in(text) + 0.05 < width[line] / 100 * wide_in:
                plain = {} if not style["hatch"] else {"bbox": _ground(style["facecolor"])}
                ax.text(start[line] + width[line] / 2, line, text, ha="center",
                        va="center_baseline", fontsize=TICK_PT, **plain)  # fmt: skip
        start += width
    for line, note in enumerate(panel.notes):
        ax.annotate(note, (100, line), (4, 0), textcoords="offset points", va="center_baseline",
                    fontsize=TICK_PT)  # fmt: skip
    ax.set_xlim(0, 100)


def _ground(colour: str) -> dict[str, Any]:
    """What a number stands on, so that hatching does not run through it."""
    return {"boxstyle": "square,pad=0.12", "facecolor": colour, "edgecolor": "none"}


def _steps_legend(panels: Sequence[Panel]) -> list[Any]:
    latency, saved, *theirs = _names(panels)
    patches: list[Any] = [
        Patch(facecolor=COLOURS[1], edgecolor=INK, linewidth=0.3, label=latency),
        Patch(facecolor=_SAVED, edgecolor=INK, linewidth=0.3, label=saved),
    ]
    return patches + [Line2D([], [], **_diamond(), label=name) for name in theirs]


def _diamond() -> dict[str, Any]:
    return {"marker": "D", "markersize": 4, "linestyle": "", "color": "white",
            "markeredgecolor": COLOURS[6], "markeredgewidth": 1.0}  # fmt: skip


def _steps(ax: Any, panel: Panel, wide_in: float, figure: Figure) -> None:
    """A bar for what is left, and before its end what the step has taken; or has added."""
    latency, saved, *theirs = (
        np.array([np.nan if v is None else v for v in s.values]) for s in panel.series
    )
    lines = np.arange(len(latency))
    before = np.where(np.isnan(saved), latency, latency + np.nan_to_num(saved))
    edge: dict[str, Any] = {"edgecolor": INK, "linewidth": 0.3, "height": _FILL}
    ax.barh(lines, latency, facecolor=COLOURS[1], **edge)
    ax.barh(lines, before - latency, left=latency, facecolor=_SAVED, **edge)
    for line in lines[:-1]:  # from the end of a bar to where the next one started
        ax.vlines(
            latency[line], line, line + 1, color=INK, linewidth=0.4, linestyle=":", zorder=0.5
        )
    for values in theirs:
        ax.plot(values, lines, **_diamond(), zorder=4)
    longest = max(float(np.nanmax(v)) for v in (before, latency, *theirs))
    columns = [(panel.notes, INK)]
    for values in theirs:  # in the colour of their marks, behind ours
        columns.append((tuple("" if np.isnan(v) else f"{v:.3g}" for v in values), COLOURS[6]))
    shift = 4.0
    for notes, colour in columns:
        wide = 72 * max(map(text_in, notes))
        for line, note in enumerate(notes):
            ax.annotate(note, (1, line), (shift + wide, 0), ax.get_yaxis_transform(),
                        "offset points", ha="right", va="center_baseline", fontsize=TICK_PT,
                        color=colour)  # fmt: skip
        shift += wide + 6
    ax.set_xlim(0, longest * 1.03)
    ax.grid(axis="x")


__all__ = ["draw_across"]
