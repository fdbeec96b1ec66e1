"""The nouns: a figure as plain data, before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Values = tuple[float | None, ...]


class Published(NamedTuple):
    """What others published of the same point; `energy_j` is None where they give latency alone."""

    name: str
    latency_s: float
    energy_j: float | None = None


@dataclass(frozen=True)
class Series:
    """Values along the x axis of a panel; None where there is none, as at an infeasible point."""

    name: str
    values: Values


@dataclass(frozen=True)
class Panel:
    """A set of bars. Every series has one value a label, or one a label of each of `groups`.

    `notes` stand behind the bars of labels, where bars lie.
    """

    title: str
    labels: tuple[str, ...]
    series: tuple[Series, ...]
    groups: tuple[str, ...] = ()
    numbered: bool = False  # write the values at the bars
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """Panels that share their y axis."""

    y_label: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Line:
    """A curve of (x, y, label) points; `front` marks those that no other point beats in both."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    labels: tuple[str, ...]
    front: tuple[bool, ...]


@dataclass(frozen=True)
class LinePanel:
    """Curves, or scattered points, on logarithmic axes of their own.

    The points of a front are joined and named; `stepped`, by steps. Scattered points of which none
    is on a front are all named. `marked` points (name, x, y) stand out. A `compact` panel fits a
    single column.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    scattered: bool = False
    stepped: bool = False
    marked: tuple[tuple[str, float, float], ...] = ()
    compact: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure by its file name: rows of panels with bars, lines, or rows of panels with curves.

    Bars of `shares` and `steps` lie, a label a line: parts of a whole, and what each step leaves of
    the one before. Axes of lines and curves are logarithmic.
    """

    name: str
    kind: Literal["grouped", "stacked", "lines", "curves", "shares", "steps"]
    rows: tuple[Row, ...] = ()
    lines: tuple[Line, ...] = ()
    curves: tuple[tuple[LinePanel, ...], ...] = ()
    x_label: str = "sequence length (tokens)"
    y_label: str = ""  # of the lines
    log: bool = False
    reference: float | None = None

    @property
    def panels(self) -> tuple[Panel, ...]:
        """The panels of all rows."""
        return tuple(panel for row in self.rows for panel in row.panels)

    @property
    def has_marks(self) -> bool:
        """Whether there is anything to draw."""
        if self.lines or self.curves:
            return True
        values = (v for panel in self.panels for s in panel.series for v in s.values)
        return any(value is not None for value in values)
