"""Index spaces of tasks: which tasks of one stream another stream's task needs.

The tasks of a stream are the iterations of the first loops of a nest, in their order. A task covers
an interval of coordinates of each rank; what it needs of a producer is everything up to the last
task of it that touches this interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd, prod

from sim.mapping import Loop


@dataclass(frozen=True)
class Level:
    """A loop with plain numbers: its extent, and the coordinates of its rank in one iteration."""

    name: str
    rank: str
    extent: int
    stride: int


@dataclass(frozen=True)
class Space:
    """The first `depth` loops of a nest (all of them in `loops`), as the index space of tasks."""

    loops: tuple[Loop, ...]
    depth: int

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The loops that index tasks."""
        found = []
        for at, loop in enumerate(self.loops[: self.depth]):
            inside = self._coordinates(loop.rank, at + 1)
            found.append(Level(loop.name, loop.rank, int(loop.extent), inside))
        return tuple(found)

    def _coordinates(self, rank: str, start: int) -> int:
        return prod(int(loop.extent) for loop in self.loops[start:] if loop.rank == rank)

    @cached_property
    def count(self) -> int:
        """Number of tasks."""
        return prod(level.extent for level in self.levels)

    @cached_property
    def inside(self) -> Mapping[str, int]:
        """Coordinates of each rank in one task."""
        ranks = dict.fromkeys(loop.rank for loop in self.loops)
        return {rank: self._coordinates(rank, self.depth) for rank in ranks}

    @cached_property
    def whole(self) -> Mapping[str, int]:
        """Coordinates of each rank that the whole nest covers."""
        return {rank: self._coordinates(rank, 0) for rank in self.inside}

    def digits(self, task: int) -> list[int]:
        """The iteration of each loop at a task.

        >>> nest = (Loop("P1", "P", 4), Loop("M1", "M", 3), Loop("P0", "P", 8, True))
        >>> Space(nest, 2).digits(7)
        [2, 1]
        """
        found = []
        for level in reversed(self.levels):
            task, digit = divmod(task, level.extent)
            found.append(digit)
        return found[::-1]

    def first(self, digits: Sequence[int]) -> dict[str, int]:
        """The lowest coordinate of each rank at a task."""
        low = dict.fromkeys(self.inside, 0)
        for level, digit in zip(self.levels, digits, strict=True):
            low[level.rank] += digit * level.stride
        return low

    def last(self, digits: Sequence[int]) -> dict[str, int]:
        """The highest coordinate of each rank at a task."""
        low = self.first(digits)
        return {rank: low[rank] + size - 1 for rank, size in self.inside.items()}

    def latest(self, limits: Mapping[str, int]) -> int:
        """The last task that touches a coordinate up to `limits`; ranks without one: any.

        -1 where a limit lies before the first coordinate.

        >>> nest = (Loop("P1", "P", 4), Loop("M1", "M", 3), Loop("P0", "P", 8, True))
        >>> Space(nest, 2).latest({"P": 16})
        8
        """
        return self._reached(limits, latest=True)

    def earliest(self, limits: Mapping[str, int]) -> int:
        """The first task that touches the coordinates `limits`; ranks without one: any."""
        return self._reached(limits, latest=False)

    def _reached(self, limits: Mapping[str, int], latest: bool) -> int:
        left = {}
        for rank, limit in limits.items():
            if limit < 0:
                return -1
            if rank in self.whole:
                left[rank] = min(limit, self.whole[rank] - 1)
        task = 0
        for level in self.levels:
            if level.rank in left:
                digit = left[level.rank] // level.stride
                left[level.rank] -= digit * level.stride
            else:
                digit = level.extent - 1 if latest else 0
            task = task * level.extent + digit
        return task


def private(space: Space) -> list[Loop]:
    """The loops in time inside of one task, but for those of a single iteration."""
    return [p for p in space.loops[space.depth :] if not p.spatial and p.extent > 1]


def chunks(first: Space, second: Space, ranks: frozenset[str]) -> int:
    """In how many equal parts, in the same order, two tasks go over a tensor's `ranks`.

    1 when one of them needs the whole tile at once. Where a task takes what several others make,
    the parts are those of the last of them.

    >>> made = (Loop("P2", "P", 2), Loop("F", "F", 8), Loop("K", "K", 4))
    >>> read = (Loop("P2", "P", 2), Loop("F", "F", 8))
    >>> chunks(Space(made, 1), Space(read, 1), frozenset("PF"))
    8
    """

    def outside(space: Space, rank: str) -> list[int]:
        return [v.stride for v in space.levels if v.rank == rank and v.extent > 1]

    parts = 1
    for a, b in zip(private(first), private(second), strict=False):
        if a.rank != b.rank or a.rank not in ranks:
            break
        if outside(first, a.rank) != outside(second, a.rank):
            break
        parts *= gcd(int(a.extent), int(b.extent))
        if a.extent != b.extent:
            break
    return parts
