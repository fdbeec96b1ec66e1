"""The points of a task: which coordinates each PE works on, in which order, on which operands.

Every index of the notation is affine, so the place of an operand in its tensor is a sum of three
parts: that of the point in time, that of the row and that of the column of the PE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from einsum_cascade import Cascade, Einsum
from einsum_cascade.affine import Affine
from einsum_cascade.cascade import Access, Call, Coordinate, Node, Number, nodes
from einsum_cascade.execute import _FUNCTIONS as FUNCTIONS
from einsum_cascade.execute import _IDENTITY as IDENTITY
from einsum_cascade.shapes import iteration_ranges
from einsum_cascade.views import shown
from sim.folds import folds_of
from sim.mapping import EinsumMapping, Loop, Phase
from sim.mapping import Mapping as Placed
from sim.schedule import point_cycles

Array = NDArray[Any]
Way = Literal["right", "down", "own"]
"""How an operand comes to a PE: from the left, from above, or it is in the PE."""


def extents(cascade: Cascade, tensor: str, shape: Mapping[str, Any]) -> tuple[int, ...]:
    """Coordinates of each rank of a tensor."""
    return tuple(int(e.evaluate(shape, {})) for e in cascade.tensors[tensor].extents)


class NotAtThisLevel(ValueError):  # noqa: N818  (it says what is not there)
    """What the cycle-accurate level has not, such as filters and tables of indices."""


@dataclass(frozen=True)
class Reach:
    """An access in words of the tensor: word = `x @ factors + offset` at the coordinates x."""

    tensor: str
    factors: Array
    offset: int

    def at(self, x: Array) -> Array:
        """The words at coordinates, one row each."""
        found: Array = x @ self.factors + self.offset
        return found


@dataclass(frozen=True)
class Operand:
    """An access of an Einsum's expression, how it comes to the PE, and across how many iterations.

    `back` is whether it is what an earlier iteration made: a running value.
    """

    access: Access
    reach: Reach
    way: Way
    back: bool


class Nest:
    """The tasks of one Einsum: the iterations of the first `depth` loops of its nest.

    Rows of `points` are the points of a task in order: coordinates of the variables `names`, to
    which the task's own (`base`) and those of the PE (`row`, `col`) are added.
    """

    def __init__(self, mapping: Placed, phase: Phase, nest: EinsumMapping, depth: int) -> None:
        self.cascade, self.nest, self.depth = mapping.cascade, nest, depth
        self.einsum: Einsum = mapping.cascade.einsum(nest.einsum)
        self.name, self.array = nest.einsum, nest.array
        self.shape = {k: int(v) for k, v in mapping.shape.items()}
        _refuse(self.einsum)
        ranges = iteration_ranges(self.cascade, self.einsum, self.shape)
        self.names = tuple(ranges)
        self.start = np.array([r[0] for r in ranges.values()], np.int64)
        self.stop = np.array([r[1] for r in ranges.values()], np.int64)
        self.sides = tuple(int(n) for n in mapping.architecture.array(nest.array).shape)
        spatial = nest.spatial
        if len(spatial) > len(self.sides):
            raise NotAtThisLevel(
                f"{self.name} has more spatial loops than its array has dimensions"
            )
        flat = len(self.sides) == 1
        down = None if flat else (spatial[0] if spatial else None)
        rest = spatial if flat else spatial[1:]
        across = rest[0] if rest else None
        self.rows, self.row = self._spread(down)
        self.cols, self.col = self._spread(across)
        self.sum_rows, self.sum_cols = (
            loop is not None and loop.rank in self.einsum.reduction_ranks for loop in (down, across)
        )
        if self.sum_rows and self.sum_cols:
            raise NotAtThisLevel(f"{self.name} is reduced over rows and columns at once")
        self.across = None if across is None else (across.rank, self.cols)
        self.down = None if down is None else (down.rank, self.rows)
        self.points = self._grid(nest.loops[depth:])
        cycles = float(point_cycles(self.cascade, mapping.architecture.array(nest.array), nest))
        if cycles != int(cycles) or cycles < 1:
            raise NotAtThisLevel(f"a point of {self.name} takes {cycles} cycles, no whole number")
        self.cycles = int(cycles)
        self.output = self._reach(self.einsum.output.tensor, self.einsum.output.indices)
        self.operands = tuple(self._operand(a) for a in self.einsum.operands)
        summed = np.array([v.upper() in self.einsum.reduction_ranks for v in self.names], bool)
        self.contributions = int(np.prod((self.stop - self.start)[summed]))
        self.kept = ~summed
        self.folds = None if nest.folds == "pipelined" else _Folds(mapping, phase, nest, depth)

    def _stride(self, at: int) -> int:
        rank = self.nest.loops[at].rank
        return prod(int(loop.extent) for loop in self.nest.loops[at + 1 :] if loop.rank == rank)

    def _unit(self, at: int) -> Array:
        """What an iteration of a loop adds to the coordinates."""
        loop = self.nest.loops[at]
        step = np.zeros(len(self.names), np.int64)
        step[self.names.index(loop.rank.lower())] = self._stride(at)
        return step

    def _spread(self, loop: Loop | None) -> tuple[int, Array]:
        if loop is None:
            return 1, np.zeros(len(self.names), np.int64)
        return int(loop.extent), self._unit(self.nest.loops.index(loop))

    def _grid(self, loops: Sequence[Loop]) -> Array:
        first = len(self.nest.loops) - len(loops)
        points = np.zeros((1, len(self.names)), np.int64)
        for at, loop in enumerate(loops, first):
            if not loop.spatial:
                steps = np.arange(int(loop.extent))[:, None] * self._unit(at)
                points = (points[:, None] + steps).reshape(-1, len(self.names))
        return points

    def base(self, index: Sequence[int]) -> Array:
        """The coordinates at which a task begins."""
        found = self.start.copy()
        for at, digit in enumerate(index):
            found += digit * self._unit(at)
        return found

    def _reach(self, tensor: str, indices: Sequence[Affine]) -> Reach:
        sides = extents(self.cascade, tensor, self.shape)
        if len(sides) != len(indices):
            raise NotAtThisLevel(f"{self.name} reads {tensor} through a view that joins ranks")
        zero = dict.fromkeys(self.names, 0)
        factors, offset = np.zeros(len(self.names), np.int64), 0
        for at, index in enumerate(indices):
            stride = prod(sides[at + 1 :])
            constant = int(index.evaluate(self.shape, zero))
            offset += constant * stride
            for i, name in enumerate(self.names):
                moved = int(index.evaluate(self.shape, {**zero, name: 1})) - constant
                factors[i] += moved * stride
        return Reach(tensor, factors, offset)

    def _operand(self, access: Access) -> Operand:
        seen = shown(self.cascade, access)
        reach = self._reach(seen.tensor, seen.indices)
        by_row, by_col = (bool(reach.factors @ step) for step in (self.row, self.col))
        way: Way = "own" if by_row and by_col else "down" if by_col else "right"
        if len(self.sides) == 1:
            way = "own"
        return Operand(access, reach, way, self._is_back(access))

    def _is_back(self, access: Access) -> bool:
        """Whether the Einsums of the body make what is read in an earlier iteration."""
        for producer in self.cascade.producers[access.tensor]:
            for made, read in zip(producer.output.indices, access.indices, strict=True):
                same = made.variable is not None and made.variable == read.variable
                if same and made.offset != read.offset:
                    return True
        return False

    def begins(self, index: Sequence[int]) -> tuple[Array, int]:
        """The cycle of a task in which each of its points begins in PE (0,0), and its length."""
        count = len(self.points)
        if self.folds is None:
            return self.cycles * np.arange(count), self.cycles * count
        before, behind = self.folds.gaps(index, count)
        ends = np.cumsum(before + self.cycles + behind)
        return ends - behind - self.cycles, int(ends[-1])

    @cached_property
    def spread(self) -> Array:
        """What the place of a PE adds to the coordinates: an array [row, column, variable]."""
        rows, cols = np.arange(self.rows), np.arange(self.cols)
        found: Array = rows[:, None, None] * self.row + cols[None, :, None] * self.col
        return found

    def all(self, index: Sequence[int]) -> tuple[Array, Array]:
        """The coordinates of a task, [point, row, column, variable], and which of them are real.

        The others pad incomplete tiles.
        """
        x = (self.base(index) + self.points)[:, None, None, :] + self.spread
        return x, self.real(x)

    def real(self, x: Array) -> Array:
        """Which coordinates lie in the iteration space."""
        return np.asarray((x < self.stop).all(axis=-1))

    def told(self, x: Array) -> Array:
        """Which coordinates count for when a result is complete: real ones of the output.

        An array does not know that a sum is padded with zeros at its end.
        """
        return np.asarray(((x < self.stop) | ~self.kept).all(axis=-1))

    def value(self, operands: Sequence[Array], x: Array) -> Array:
        """The expression at the coordinates x, given its operands there."""
        coordinates = {name: x[..., i] for i, name in enumerate(self.names)}

        def of(node: Node) -> Any:
            if isinstance(node, Number):
                return np.float64(node.value)
            if isinstance(node, Coordinate):
                return np.asarray(node.index.evaluate(self.shape, coordinates), np.float64)
            if isinstance(node, Call):
                return FUNCTIONS[node.operator](*[of(a) for a in node.arguments])
            return operands[self._position[id(node)]]

        with np.errstate(all="ignore"):
            return np.broadcast_to(of(self.einsum.expression), x.shape[:-1])

    @cached_property
    def _position(self) -> dict[int, int]:
        """Where the operand of each access stands, by identity: looked up for every point."""
        order = {operand.access: i for i, operand in enumerate(self.operands)}
        found = (n for n in nodes(self.einsum.expression) if isinstance(n, Access))
        return {id(access): order[access] for access in found}

    @cached_property
    def combine(self) -> Any:
        """The operation of the reduction; None without one."""
        return None if self.einsum.reduction is None else FUNCTIONS[self.einsum.reduction]

    @cached_property
    def identity(self) -> float:
        """What a reduction begins with."""
        return 0.0 if self.einsum.reduction is None else float(IDENTITY[self.einsum.reduction])


class _Folds:
    """Serialized folds: the array is filled before and emptied behind each."""

    def __init__(self, mapping: Placed, phase: Phase, nest: EinsumMapping, depth: int) -> None:
        found = folds_of(mapping.cascade, mapping.architecture, mapping.shape, nest, phase)
        extents = [int(loop.extent) for loop in nest.temporal]
        self.depth, self.sides = depth, extents[:depth]
        self.skew, self.preload = int(found.skew_cycles), int(found.preload_cycles)
        self.fold = self._inside(extents, int(found.depth))
        held = 0  # loops that change an operand which is shifted in
        while held < len(extents) and prod(extents[:held]) < int(found.preloads):
            held += 1
        self.held = self._inside(extents, held)

    def _inside(self, extents: list[int], depth: int) -> tuple[int, int]:
        """The first loop inside a fold, and the iterations of a task's own loops inside it."""
        return depth, prod(extents[max(depth, self.depth) :])

    def _first(self, index: Sequence[int], count: int, part: tuple[int, int]) -> Array:
        """The points of a task with which a fold begins."""
        depth, inside = part
        return np.asarray((np.arange(count) % inside == 0) & (not any(index[depth:])))

    def gaps(self, index: Sequence[int], count: int) -> tuple[Array, Array]:
        """Cycles to fill the array before each point, and to empty it behind it."""
        depth, inside = self.fold
        rest = [digit - side + 1 for digit, side in zip(index, self.sides, strict=True)]
        last = (np.arange(count) % inside == inside - 1) & (not any(rest[depth:]))
        return self.preload * self._first(index, count, self.held), self.skew * last


def _refuse(einsum: Einsum) -> None:
    if einsum.filters or einsum.data_filters:
        raise NotAtThisLevel(f"{einsum.name} has a filter: this level has dense Einsums only")
    if einsum.reduction is not None and einsum.reduction not in IDENTITY:
        raise NotAtThisLevel(f"{einsum.name} is reduced by {einsum.reduction!r}: not at this level")
    if any(access.gathers for access in einsum.operands):
        raise NotAtThisLevel(f"{einsum.name} reads through a table: not at this level")


__all__ = ["Nest", "NotAtThisLevel", "Operand", "Reach", "Way", "extents"]
