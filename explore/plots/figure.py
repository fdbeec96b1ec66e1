"""The nouns: a figure as plain data, before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Series:
    """Values along the x axis of a panel; None where there is none, as at an infeasible point."""

    name: str
    values: Values


@dataclass(frozen=True)
class Panel:
    """A set of bars. Every series has one value a label, or one a label of each of `groups`."""

    title: str
    labels: tuple[str, ...]
    series: tuple[Series, ...]
    groups: tuple[str, ...] = ()
    numbered: bool = False  # write the values at the bars


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
    """Curves, or scattered points, on logarithmic axes of their own."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    scattered: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure by its file name: rows of panels with bars, lines, or rows of panels with curves.

    Axes of lines and curves are logarithmic.
    """

    name: str
    kind: Literal["grouped", "stacked", "lines", "curves"]
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
