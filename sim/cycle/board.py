"""What is known of every word of every tensor: its value, when it was made, who has still to read.

Two users: the arrays, which move values, assert with it that what they use was made before; the
issue of tasks looks up what running tasks announce of the cycles in which values will be made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from einsum_cascade import Cascade, Einsum
from einsum_cascade.cascade import Call, Coordinate, Node, Number
from einsum_cascade.execute import _FUNCTIONS as FUNCTIONS
from einsum_cascade.shapes import iteration_ranges
from sim.cycle.points import Nest, NotAtThisLevel, Operand, extents

Array = NDArray[Any]
LONG_AGO = -(2**40)


class Words:
    """All words of a tensor.

    `total` contributions make a word; `count` were made, the last in cycle `made` at `place`, and
    `announced` by tasks that run. Of two clocks, the told and the true one, `done` is the cycle
    after its last contribution, `free` the one in which its room may be written again once all
    (`unread`) points that read it have begun. `alive`: its room was not written over yet; `over`:
    the word in whose room it is put (-1: none).
    """

    def __init__(self, sides: tuple[int, ...]) -> None:
        self.sides = sides
        size = int(np.prod(sides, dtype=np.int64))
        self.value = np.zeros(size)
        self.total, self.count, self.announced, self.unread = (
            np.zeros(size, np.int64) for _ in range(4)
        )
        self.made = np.full(size, LONG_AGO)
        self.place = np.full(size, -1)
        self.done = np.full((2, size), LONG_AGO)
        self.free = np.full((2, size), LONG_AGO)
        self.alive = np.ones(size, bool)
        self.over = np.full(size, -1)
        self.writer: Nest | None = None

    def whole(self) -> Array:
        """The values as an array of the tensor's ranks."""
        return self.value.reshape(self.sides)

    def rest(self) -> None:
        """A new phase begins: what there is was made long ago, and lies in a memory."""
        self.made[:] = self.done[:] = self.free[:] = LONG_AGO
        self.alive[:] = True
        self.over[:] = -1
        self.place[:] = -1
        self.writer = None


class Board:
    """The words of all tensors of a cascade."""

    def __init__(
        self, cascade: Cascade, shape: Mapping[str, int], inputs: Mapping[str, Any]
    ) -> None:
        self.cascade, self.shape = cascade, shape
        self.words: dict[str, Words] = {}
        for name, tensor in cascade.tensors.items():
            if any(e.is_view for e in cascade.producers[name]):
                continue
            self.words[name] = words = Words(extents(cascade, name, shape))
            if tensor.role != "input":
                continue
            if name not in inputs:
                raise ValueError(f"the input {name} is missing")
            given = np.asarray(inputs[name], np.float64)
            if given.shape != words.sides:
                raise ValueError(f"{name} has the shape {given.shape}, mapped is {words.sides}")
            words.value[:] = given.ravel()
        for einsum in cascade.einsums:
            if einsum.is_constant:
                self._constant(einsum)
        self.nests: list[Nest] = []
        self.rooms: dict[str, tuple[str, ...]] = {}
        self.watched: set[str] = set()
        self.numbers = {name: i for i, name in enumerate(self.words)}

    def _constant(self, einsum: Einsum) -> None:
        """Values that are known before the run, such as what an iteration begins with."""
        if einsum.reduction is not None or einsum.filters:
            raise NotAtThisLevel(
                f"{einsum.name}: a constant with a reduction is not for this level"
            )
        ranges = iteration_ranges(self.cascade, einsum, self.shape)
        axes = np.meshgrid(*(np.arange(*r) for r in ranges.values()), indexing="ij", sparse=True)
        x = dict(zip(ranges, axes, strict=True))

        def of(node: Node) -> Any:
            if isinstance(node, Number):
                return np.float64(node.value)
            if isinstance(node, Coordinate):
                return np.asarray(node.index.evaluate(self.shape, x), np.float64)
            assert isinstance(node, Call)
            return FUNCTIONS[node.operator](*map(of, node.arguments))

        words = self.words[einsum.output.tensor]
        at = tuple(np.asarray(i.evaluate(self.shape, x)) for i in einsum.output.indices)
        words.whole()[at] = of(einsum.expression)

    def expect(
        self, nests: Sequence[Nest], copies: Mapping[str, int], sharing: Mapping[str, Sequence[str]]
    ) -> None:
        """Prepare for a phase: contributions to come, and reads of tensors with few rooms."""
        self.nests = list(nests)
        self.rooms = {t: tuple(sharing.get(t, (t,))) for t in copies}
        self.watched = {t for many in self.rooms.values() for t in many}
        for words in self.words.values():
            words.rest()
        for nest in nests:
            words = self.words[nest.output.tensor]
            words.writer = nest
            for index in np.ndindex(*(int(lp.extent) for lp in nest.nest.loops[: nest.depth])):
                x, real = nest.all(index)
                words.total[nest.output.at(x[real])] = nest.contributions
                for operand in self.tracked(nest):
                    read = self.words[operand.reach.tensor]
                    np.add.at(read.unread, operand.reach.at(x[real]), 1)

    def tracked(self, nest: Nest) -> list[Operand]:
        """The operands whose rooms are written again, and that come from the same iteration."""
        return [
            o
            for o in nest.operands
            if o.reach.tensor in self.watched and not o.back and o.reach.tensor != nest.name
        ]

    def read(self, tensor: str, at: Array, cycle: int, room: bool) -> Array:
        """Values in a cycle, which must have been made and, if `room`, be in their rooms still."""
        words = self.words[tensor]
        _assert(words.count[at] == words.total[at], tensor, "incomplete", cycle)
        _assert(words.made[at] < cycle, tensor, "not there yet", cycle)
        if room:
            _assert(words.alive[at], tensor, "written over", cycle)
        found: Array = words.value[at]
        return found

    def write(
        self, nest: Nest, at: Array, values: Array, counts: Array | int, cycle: int, place: Any
    ) -> None:
        """Contributions to distinct words, the last of which a PE or an accumulator makes now."""
        words = self.words[nest.output.tensor]
        counts = np.broadcast_to(counts, at.shape)
        over = words.over[at[words.count[at] == 0]]
        for each in self.rooms.get(nest.output.tensor, ()):
            self.words[each].alive[over[over >= 0]] = False
        if nest.combine is None:
            _assert(words.count[at] == 0, nest.name, "made twice", cycle)
            words.value[at] = values
        else:
            first = words.count[at] == 0
            words.value[at] = np.where(first, values, nest.combine(words.value[at], values))
        words.count[at] += counts
        words.made[at] = cycle
        words.place[at] = place


def _assert(good: Array, tensor: str, what: str, cycle: int) -> None:
    if not good.all():
        raise AssertionError(f"cycle {cycle}: a value of {tensor} is {what}")


__all__ = ["LONG_AGO", "Board", "Words"]
