"""The arrays of PEs, cycle by cycle: wires, latches, accumulators, the tree that joins lanes.

PE (r,c) of a 2D array begins a point r + c cycles after PE (0,0). Operands that vary with rows only
enter at the left edge, those that vary with columns only at the top; they move on by a PE a cycle,
each with a tag, and a PE asserts that the tag is that of its point. Operands that vary with both
are in the PE. Sums (and maxima) over rows move down, a PE a cycle, each PE adding its own; those
over columns move right; beyond the last PE they end in an accumulator. Other results stay in the
PE. On the way to another array each has a wire of its own down its column: none waits for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.cycle.board import Board
from sim.cycle.issue import Begun
from sim.cycle.points import Nest
from sim.cycle.ways import stays, tree_cycles

Array = NDArray[Any]
_TAG = 2**40  # tags are tensor * _TAG + word


class _Line:
    """What the PEs that are d cycles behind PE (0,0) begin, or end: entry d of a moving line."""

    def __init__(self, length: int, nests: Sequence[Nest]) -> None:
        variables = max((len(n.names) for n in nests), default=0)
        self.nest = np.full(length, -1)
        self.x = np.zeros((length, variables), np.int64)
        self.serial = np.zeros(length, np.int64)
        self.coming: dict[int, tuple[int, Array, int]] = {}

    def plan(self, cycle: int, nest: int, x: Array, serial: int) -> None:
        """A point of PE (0,0) in a later cycle."""
        assert cycle not in self.coming, "a PE would do two points at once"
        self.coming[cycle] = nest, x, serial

    def move(self, cycle: int) -> list[int]:
        """Move on by a cycle; the nests at work."""
        for line in (self.nest, self.x, self.serial):
            line[1:] = line[:-1]
        self.nest[0] = -1
        if cycle in self.coming:
            nest, x, self.serial[0] = self.coming.pop(cycle)
            self.nest[0] = nest
            self.x[0, : len(x)] = x
        return [int(n) for n in np.unique(self.nest) if n >= 0]

    @property
    def empty(self) -> bool:
        """Whether no PE has anything to come."""
        return not self.coming and bool((self.nest < 0).all())


class PEs:
    """What arrays of both kinds have in common: PEs that do points, each in its own time."""

    def __init__(self, nests: Sequence[Nest], board: Board, late: Array) -> None:
        self.nests, self.board = list(nests), board
        self.late = late  # by how many cycles each PE is behind the first
        length = int(late.max()) + 1
        self.begins, self.ends = _Line(length, nests), _Line(length, nests)
        self.value = np.zeros(len(late))  # of the point at hand
        self.works = np.zeros(len(late), bool)
        self.serial = 0
        self.last = -1  # the last cycle in which anything happened
        self.leaves = [_leaves(nest, board) for nest in nests]

    def take(self, begun: Begun) -> None:
        """The points of a task that begins."""
        at = next(i for i, nest in enumerate(self.nests) if nest is begun.nest)
        for point, first, last in zip(
            begun.nest.points, begun.first.tolist(), begun.last.tolist(), strict=True
        ):
            x = begun.base + point
            self.begins.plan(first, at, x, self.serial)
            self.ends.plan(last, at, x, self.serial)
            self.serial += 1

    def _compute(self, nest: Nest, pes: Array, x: Array, operands: list[Array]) -> None:
        self.value[pes] = nest.value(operands, x)
        self.works[pes] = True


class Grid(PEs):
    """A 2D array."""

    def __init__(self, sides: Sequence[int], nests: Sequence[Nest], board: Board) -> None:
        self.rows, self.cols = sides
        row, col = np.indices((self.rows, self.cols))
        self.row, self.col = row.ravel(), col.ravel()
        super().__init__(nests, board, self.row + self.col)
        wires = max((len(n.operands) for n in nests), default=0)
        form = (wires, self.rows, self.cols)
        self.wires = {way: (np.zeros(form), np.full(form, -1)) for way in ("right", "down")}
        self.sum = self._no_sums()
        self.leaving: list[tuple[Nest, Array, Array, Array]] = []

    def _no_sums(self) -> tuple[Array, Array, Array]:
        form = (self.rows, self.cols)
        return np.zeros(form), np.full(form, -1), np.zeros(form, np.int64)

    @property
    def idle(self) -> bool:
        """Whether nothing moves any more."""
        return self.begins.empty and self.ends.empty and not self.leaving

    def step(self, cycle: int) -> None:
        """One cycle."""
        for nest, at, values, counts in self.leaving:  # one hop, into the accumulators
            self.board.write(nest, at, values, counts, cycle, -1)
        self.leaving = []
        for axis, (values, tags) in zip((2, 1), self.wires.values(), strict=True):
            ahead = (slice(None),) * axis + (slice(1, None),)
            back = (slice(None),) * axis + (slice(None, -1),)
            edge = (slice(None),) * axis + (0,)
            values[ahead], tags[ahead] = values[back], tags[back]
            tags[edge] = -1
        for number in self.begins.move(cycle):
            self._enter(number, cycle)
            self._begin(number, cycle)
        sums = self._no_sums()
        for number in self.ends.move(cycle):
            self._end(number, cycle, sums)
        self.sum = sums

    def _enter(self, number: int, cycle: int) -> None:
        """Operands come in at the edges."""
        nest, line = self.nests[number], self.begins
        for way, lanes, side in (("right", nest.rows, nest.row), ("down", nest.cols, nest.col)):
            wires = [(j, o) for j, o in enumerate(nest.operands) if o.way == way]
            if not wires:
                continue
            values, tags = self.wires[way]
            at = np.flatnonzero(line.nest[:lanes] == number)
            x = line.x[at, : len(nest.names)] + at[:, None] * side
            real = nest.real(x)
            at, x = at[real], x[real]
            for j, operand in wires:
                words = operand.reach.at(x)
                place = (j, at, 0) if way == "right" else (j, 0, at)
                values[place] = read(self.board, nest, j, words, cycle)
                tags[place] = self.board.numbers[operand.reach.tensor] * _TAG + words

    def _begin(self, number: int, cycle: int) -> None:
        """PEs take their operands and compute."""
        nest, line = self.nests[number], self.begins
        mine = (line.nest[self.late] == number) & (self.row < nest.rows) & (self.col < nest.cols)
        pes = np.flatnonzero(mine)
        row, col = self.row[pes], self.col[pes]
        x = line.x[self.late[pes], : len(nest.names)] + nest.spread[row, col]
        real = nest.real(x)
        pes, x, row, col = pes[real], x[real], row[real], col[real]
        operands = []
        for j, operand in enumerate(nest.operands):
            words = operand.reach.at(x)
            if operand.way == "own":
                operands.append(read(self.board, nest, j, words, cycle, pes))
                continue
            values, tags = self.wires[operand.way]
            wanted = self.board.numbers[operand.reach.tensor] * _TAG + words
            assert (tags[j, row, col] == wanted).all(), f"{nest.name}: a PE met another's operand"
            operands.append(values[j, row, col])
        self._compute(nest, pes, x, operands)

    def _end(self, number: int, cycle: int, sums: tuple[Array, Array, Array]) -> None:
        """Points end: results stay, or go on to the next PE with what came from the last."""
        nest, line = self.nests[number], self.ends
        pes = np.flatnonzero(line.nest[self.late] == number)
        row, col = self.row[pes], self.col[pes]
        late = self.late[pes]
        works = self.works[pes]
        self.works[pes] = False
        if works.any():
            self.last = max(self.last, cycle)
        if not (nest.sum_rows or nest.sum_cols):
            pes, row, col, late = pes[works], row[works], col[works], late[works]
            x = line.x[late, : len(nest.names)] + nest.spread[row, col]
            at = nest.output.at(x)
            self.board.write(nest, at, self.value[pes], 1, cycle, pes)
            if self.leaves[number] and len(row):
                self.last = max(self.last, cycle + self.rows - int(row.min()))
            return
        values = np.where(works, self.value[pes], nest.identity)
        counts = works.astype(np.int64)
        before = (row - 1, col) if nest.sum_rows else (row, col - 1)
        inner = (row if nest.sum_rows else col) > 0
        from_r, from_c = before[0][inner], before[1][inner]
        came, tags, many = self.sum
        assert (tags[from_r, from_c] == line.serial[late][inner]).all(), (
            f"{nest.name}: a PE met another's sum"
        )
        values[inner] = nest.combine(came[from_r, from_c], values[inner])
        counts[inner] += many[from_r, from_c]
        sums[0][row, col], sums[1][row, col] = values, line.serial[late]
        sums[2][row, col] = counts
        final = (row == self.rows - 1) if nest.sum_rows else (col == self.cols - 1)
        final &= counts > 0
        if final.any():
            spread = np.minimum(row, nest.rows - 1), np.minimum(col, nest.cols - 1)
            x = line.x[late, : len(nest.names)] + nest.spread[spread]
            at = nest.output.at(x)[final]
            self.leaving.append((nest, at, values[final], counts[final]))
            self.last = max(self.last, cycle + 1)


@dataclass
class _Joining:
    """Values of one point of all lanes on their way through the tree."""

    nest: Nest
    at: Array
    values: Array
    count: int
    levels: int


class Lanes(PEs):
    """A 1D array: skewed as the columns above it, or in step."""

    def __init__(self, lanes: int, nests: Sequence[Nest], board: Board, in_step: bool) -> None:
        self.lane = np.arange(lanes)
        super().__init__(nests, board, 0 * self.lane if in_step else self.lane)
        self.tree: list[_Joining] = []

    @property
    def idle(self) -> bool:
        """Whether nothing moves any more."""
        return self.begins.empty and self.ends.empty and not self.tree

    def step(self, cycle: int) -> None:
        """One cycle."""
        for number in self.begins.move(cycle):
            nest = self.nests[number]
            lanes, x = self._points(number, self.begins)
            real = nest.real(x)
            lanes, x = lanes[real], x[real]
            operands = [
                read(self.board, nest, j, o.reach.at(x), cycle, lanes)
                for j, o in enumerate(nest.operands)
            ]
            self._compute(nest, lanes, x, operands)
        for joining in self.tree:
            joining.levels -= 1
            joining.values = joining.nest.combine(joining.values[0::2], joining.values[1::2])
        for number in self.ends.move(cycle):
            self._end(number, cycle)
        for joining in [j for j in self.tree if j.levels == 0]:
            self.board.write(joining.nest, joining.at, joining.values, joining.count, cycle, -1)
            self.last = max(self.last, cycle)
        self.tree = [j for j in self.tree if j.levels > 0]

    def _points(self, number: int, line: _Line) -> tuple[Array, Array]:
        nest = self.nests[number]
        lanes = np.flatnonzero((line.nest[self.late] == number) & (self.lane < nest.cols))
        x = line.x[self.late[lanes], : len(nest.names)] + nest.spread[0, lanes]
        return lanes, x

    def _end(self, number: int, cycle: int) -> None:
        nest = self.nests[number]
        lanes, x = self._points(number, self.ends)
        works = self.works[lanes]
        self.works[lanes] = False
        if not works.any():
            return
        self.last = max(self.last, cycle)
        at = nest.output.at(x)
        if not nest.sum_cols:
            lanes, at = lanes[works], at[works]
            self.board.write(nest, at, self.value[lanes], 1, cycle, lanes)
            return
        levels = tree_cycles(nest.cols)
        leaves = np.full(2**levels, nest.identity)
        leaves[lanes[works]] = self.value[lanes[works]]
        count = int(works.sum())
        self.tree.append(_Joining(nest, at[:1], leaves, count, levels))


def read(
    board: Board, nest: Nest, j: int, words: Array, cycle: int, pes: Array | None = None
) -> Array:
    """Operands from where they are: the PE's own registers, an accumulator, a memory.

    What another PE made has to have come down its column first.
    """
    operand = nest.operands[j]
    tensor = board.words[operand.reach.tensor]
    writer = tensor.writer
    if writer is not None and len(words):
        place = tensor.place[words]
        if stays(writer, nest) and operand.way == "own" and not operand.back:
            assert pes is not None
            good = (place == pes) | (tensor.total[words] == 0)
            assert good.all(), f"{nest.name}: {writer.name} is in other PEs"
        elif len(writer.sides) == 2 and not (writer.sum_rows or writer.sum_cols):
            hops = writer.sides[0] - place // writer.sides[1]
            there = tensor.made[words] + hops < cycle
            assert there.all(), f"{nest.name}: {writer.name} is on its way in cycle {cycle}"
    room = operand.reach.tensor in board.watched and not operand.back
    return board.read(operand.reach.tensor, words, cycle, room)


def _leaves(nest: Nest, board: Board) -> bool:
    """Whether a result that the PE keeps is wanted elsewhere too."""
    consumers = [e.name for e in board.cascade.consumers[nest.output.tensor]]
    here = {n.name: n for n in board.nests}
    return not consumers or any(c not in here or not stays(nest, here[c]) for c in consumers)


__all__ = ["Grid", "Lanes", "read"]
