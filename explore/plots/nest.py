"""A mapping as a figure, in the manner of LoopTree: loops as boxes around what they repeat.

Every Einsum is a bar in the colour of its array, with the loops that it has alone; tiles stand in
the box in which a memory keeps them. What is drawn (`nest_figure`) is plain data.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import FancyBboxPatch, Rectangle

from explore.plots.style import (
    COLOURS,
    COLUMN_IN,
    INK,
    SAVING,
    SETTINGS,
    TEXT_PT,
    TICK_PT,
    text_in,
)
from mappers.drawing import (
    homes,
    kept_in_words,
    lanes_in_words,
    loops_in_words,
    schedule_in_words,
    tensor_in_words,
)
from mappers.tree import Branch, Leaf, loop_tree, opened, residency_of
from sim import IN_ARRAY, Mapping, Phase
from sim.single import single_point

Kind = Literal["phase", "home", "note", "loops", "kept", "einsum"]


@dataclass(frozen=True)
class Row:
    """One line of the figure, `depth` boxes deep.

    `name` is the phase, the memory, the first words or the Einsum, `text` what stands beside it;
    `array` that of an Einsum, `result` where what it makes goes.
    """

    kind: Kind
    depth: int
    name: str
    text: str = ""
    array: str = ""
    result: str = ""


@dataclass(frozen=True)
class Box:
    """Loops around the rows from `first` to `last`, both inside."""

    depth: int
    first: int
    last: int


@dataclass(frozen=True)
class NestFigure:
    """A mapping by its rows, and the boxes around them."""

    name: str
    title: str
    rows: tuple[Row, ...]
    boxes: tuple[Box, ...]
    arrays: tuple[str, ...]


def nest_figure(mapping: Mapping, name: str = "mapping") -> NestFigure:
    """What a figure of a mapping of one design point shows. Loops of one iteration are left out."""
    mapping = single_point(mapping)
    rows: list[Row] = []
    boxes: list[Box] = []

    def add(part: Branch | Leaf, phase: Phase, depth: int) -> None:
        if isinstance(part, Leaf) and isinstance(around := opened(part), Branch):
            part = around
        if isinstance(part, Leaf):
            rows.append(_einsum(mapping, phase, part, depth))
            return
        first, loops = len(rows), loops_in_words(part.loops)
        if loops:
            rows.append(Row("loops", depth, "for", ", ".join(loops)))
        inner = depth + bool(loops)
        for memory, tiles in kept_in_words(part.kept).items():
            rows.append(Row("kept", inner, f"{memory} keeps", " ".join(tiles)))
        for each in part.inside:
            add(each, phase, inner)
        if loops:
            boxes.append(Box(depth, first, len(rows) - 1))

    for choice in mapping.phases:
        phase = choice.options[0]
        rows.append(Row("phase", 0, f"phase {phase.name}"))
        for home, tensors in homes(mapping, phase).items():
            where = "in the arrays" if home == IN_ARRAY else f"in {home}"
            rows.append(Row("home", 0, where, " ".join(tensor_in_words(phase, t) for t in tensors)))
        rows += [Row("note", 0, *text.split(": ", 1)) for text in schedule_in_words(phase)]
        add(loop_tree(mapping.cascade, phase), phase, 0)
    extents = ", ".join(f"{rank} = {float(n):g}" for rank, n in mapping.shape.items())
    title = f"{mapping.cascade.name} on {mapping.architecture.name}: {extents}"
    arrays = tuple(array.name for array in mapping.architecture.arrays)
    used = tuple(a for a in arrays if any(row.array == a for row in rows))
    return NestFigure(name, title, tuple(rows), tuple(sorted(boxes, key=lambda b: b.first)), used)


def _einsum(mapping: Mapping, phase: Phase, leaf: Leaf, depth: int) -> Row:
    texts = [f"for {', '.join(loops)}" for loops in [loops_in_words(leaf.loops)] if loops]
    texts += [f"over {' × '.join(lanes)}" for lanes in [lanes_in_words(leaf.spatial)] if lanes]
    made = mapping.cascade.einsum(leaf.nest.einsum).output.tensor
    home = residency_of(phase, made).home
    result = "stays in the array" if home == IN_ARRAY else f"to {home}"
    return Row("einsum", depth, leaf.nest.einsum, "; ".join(texts), leaf.nest.array, result)


_LINE_IN, _STEP_IN, _EDGE_IN, _GAP_IN, _INSET_IN = 0.135, 0.11, 0.05, 0.025, 0.04
_HEAD_IN = 0.2


@dataclass(frozen=True)
class _Placed:
    """A row on the page: its lines of text from `left_in` on, and where it is from the top."""

    row: Row
    lines: tuple[str, ...]
    left_in: float
    top_in: float
    tall_in: float


def draw_nest(figure: NestFigure, file: Path, width: str = "auto") -> Path:
    """Draw the figure into a file, whose ending says in which form."""
    settings: Any = SETTINGS
    kind = file.suffix.removeprefix(".")
    with mpl.rc_context(settings):
        canvas = _drawn(figure, COLUMN_IN["double" if width == "auto" else width])
        FigureCanvasAgg(canvas)
        canvas.savefig(file, format=kind, **SAVING[kind])
    return file


def _drawn(figure: NestFigure, width_in: float) -> Canvas:
    placed = list(_laid_out(figure, width_in))
    last = placed[-1]
    height = last.top_in + last.tall_in + _INSET_IN * (1 + _ending(figure, len(placed) - 1))
    canvas = Canvas(figsize=(width_in, height))
    ax: Any = canvas.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.set(xlim=(0, width_in), ylim=(height, 0))
    ax.axis("off")
    ax.text(_EDGE_IN, 0.04, figure.title, fontsize=TICK_PT, va="top")
    _legend(ax, figure, width_in)
    for number, box in enumerate(figure.boxes):
        first, end = placed[box.first], placed[box.last]
        inside = sum(b.last == box.last for b in figure.boxes[number + 1 :])
        left = _EDGE_IN + box.depth * _STEP_IN
        right = width_in - _EDGE_IN - box.depth * _INSET_IN
        bottom = end.top_in + end.tall_in + 0.015 + _INSET_IN * inside
        shape = FancyBboxPatch(
            (left, first.top_in), right - left, bottom - first.top_in,
            boxstyle="round,pad=0,rounding_size=0.04", linewidth=0.5, edgecolor=INK,
            facecolor=str(0.985 - 0.035 * min(box.depth, 4)), zorder=1 + box.depth,
        )  # fmt: skip
        ax.add_patch(shape)
    for each in placed:
        _row(ax, each, figure, width_in)
    return canvas


def _ending(figure: NestFigure, number: int) -> int:
    """How many boxes end with a row."""
    return sum(box.last == number for box in figure.boxes)


def _laid_out(figure: NestFigure, width_in: float) -> Iterator[_Placed]:
    """The rows one below the other, long texts in several lines."""
    top = _HEAD_IN + _LINE_IN
    results = max((text_in(row.result, TICK_PT) for row in figure.rows if row.result), default=0.0)
    columns: dict[str, float] = {}  # where the texts of Einsums begin, and those about a phase
    for row in figure.rows:
        begin = _left(row) + _name_in(row) + 0.06
        columns[_column(row)] = max(columns.get(_column(row), 0.0), begin)
    for number, row in enumerate(figure.rows):
        alone = row.kind in ("loops", "kept")
        left = _left(row) + _name_in(row) + 0.06 if alone else columns[_column(row)]
        right = _right(row, width_in) - (results + 0.1 if row.result else 0.05)
        letters = max(12, int((right - left) / text_in("x", TICK_PT)))
        lines = tuple(textwrap.wrap(row.text, letters, break_long_words=False)) or ("",)
        begun = sum(box.first == number for box in figure.boxes)
        top += 0.1 if row.kind == "phase" and number else _GAP_IN * (1 + begun)
        tall = _LINE_IN * len(lines)
        yield _Placed(row, lines, left, top, tall)
        top += tall + _INSET_IN * _ending(figure, number)


def _column(row: Row) -> str:
    return "about" if row.kind in ("home", "note") else row.kind


def _name_in(row: Row) -> float:
    return 1.12 * text_in(row.name, TEXT_PT) if row.kind == "einsum" else text_in(row.name)


def _left(row: Row) -> float:
    return _EDGE_IN + row.depth * _STEP_IN + 0.05


def _right(row: Row, width_in: float) -> float:
    return width_in - _EDGE_IN - _INSET_IN * row.depth - 0.05


def _row(ax: Any, placed: _Placed, figure: NestFigure, width_in: float) -> None:
    row, middle = placed.row, placed.top_in + _LINE_IN / 2
    style = {"va": "center_baseline", "zorder": 20}
    if row.kind == "einsum":
        left, right = _left(row) - 0.03, _right(row, width_in)
        bar = Rectangle(
            (left, placed.top_in), right - left, placed.tall_in,
            facecolor=_colour(figure, row.array), alpha=0.35, edgecolor="none", zorder=15,
        )  # fmt: skip
        ax.add_patch(bar)
        ax.text(right - 0.03, middle, row.result, fontsize=TICK_PT, ha="right", **style)
    heavy = row.kind in ("phase", "einsum")
    size, weight = (TEXT_PT, "bold") if heavy else (TICK_PT, "normal")
    colour = "#666666" if row.kind in ("home", "kept", "note") else INK
    ax.text(_left(row), middle, row.name, fontsize=size, fontweight=weight, color=colour, **style)
    for number, line in enumerate(placed.lines):
        ax.text(placed.left_in, middle + number * _LINE_IN, line, fontsize=TICK_PT, **style)


_ARRAYS = (1, 0, 4, 5, 6, 3, 7, 2)
"""Of the colours, in which arrays come."""


def _colour(figure: NestFigure, array: str) -> str:
    at = figure.arrays.index(array)
    return COLOURS[_ARRAYS[at % len(_ARRAYS)]]


def _legend(ax: Any, figure: NestFigure, width_in: float) -> None:
    """The arrays by their colours."""
    left = _EDGE_IN
    for array in figure.arrays:
        swatch = Rectangle((left, _HEAD_IN + 0.03), 0.14, 0.08, facecolor=_colour(figure, array),
                           alpha=0.35, edgecolor="none")  # fmt: skip
        ax.add_patch(swatch)
        words = f"on array {array}"
        ax.text(left + 0.18, _HEAD_IN + 0.07, words, fontsize=TICK_PT, va="center_baseline")
        left += 0.34 + text_in(words, TICK_PT)
        if left > width_in - 1.0:
            break


__all__ = ["Box", "NestFigure", "Row", "draw_nest", "nest_figure"]
