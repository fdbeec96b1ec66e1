"""The costs of structures in pieces, each worked out once for all structures that have it.

What an Einsum adds follows from its nest, what a tensor adds from the nests of the Einsums that use
it and a little of the phase around them. Structures of one run, of runs that overlap, and of
rewrites of a cascade have most of these in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from einsum_cascade import Einsum
from mappers.search.axes import Axes, plain
from mappers.search.measures import Measures
from mappers.search.nests import (
    Placed,
    Sizes,
    axes_of,
    free_orders,
    place_nest,
    place_sizes,
    tile_axes,
)
from mappers.search.points import at_points, pick
from mappers.search.problem import Problem, touched
from mappers.search.residency import Homes, find_homes, overwriting
from mappers.search.structures import Structure
from sim import Phase
from sim.accesses import Accessed
from sim.mapping import Mask, Number
from sim.parts import (
    einsum_part,
    fusion_refused,
    tensor_part,
    tensor_refused,
    tensor_registers,
)
from sim.registers import overwritten

_MOST_BYTES = 1 << 28
"""What pieces may take before they are forgotten."""

_WEIGHED = 64
"""At so many points it is looked at how much is at stake in a piece."""


@dataclass(frozen=True, eq=False)
class Piece:
    """What a tensor or an Einsum adds, along the choices `names` (of all its `choices`, those that
    matter).

    `values` are measures (only the first of them, if the others are zero), then an axis for each of
    `names`, then those of tiles: of all, or one axis of some sets of their sizes. `least` is the
    least over the choices, of those that fit by themselves. Infinite where a choice is not legal.
    `at_stake` is how much of the room on chip depends on the choices.
    """

    choices: Mapping[str, int]
    names: tuple[str, ...]
    values: np.ndarray
    least: np.ndarray
    at_stake: float = 0.0


@dataclass(frozen=True, eq=False)
class Begun:
    """A structure of which the pieces of its tensors (by `keys`) are still to be worked out.

    `axes` are those of `tiles`, then those of the nests. `base` is what no choice of the nests
    changes, along all axes of tiles. `pieces` are those of Einsums, and such as cost nothing and
    are infinite where the structure is not legal.
    """

    problem: Problem
    axes: Axes
    tiles: tuple[str, ...]
    placed: tuple[Placed, ...]
    base: np.ndarray
    pieces: tuple[Piece, ...]
    keys: Mapping[object, _Tensor]
    homes: dict[str, tuple[Homes, Axes]] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an array along all axes of tiles."""
        return tuple(self.axes.sizes[name] for name in reversed(self.tiles))


@dataclass(frozen=True)
class _Tensor:
    """A tensor of a run of Einsums, with the positions of its users.

    If an Einsum of the run makes it (`made`), it may overwrite one of `old`, and then what is
    `beside` (positions too) bears on it as well. Of what is made `between` it and a reader that
    needs both, the arrays do. What several Einsums take is in several pieces: that which goes
    between memories, and for each of these (`at`, a position) what crosses the edge of its array.
    """

    name: str
    users: tuple[int, ...]
    made: bool
    old: tuple[str, ...] = ()
    beside: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    what: Accessed = "all"
    at: int | None = None


class Pieces:
    """All pieces that have been worked out, by what they depend on.

    The problems are those of one cascade and its rewrites, at one shape and on one architecture.
    """

    def __init__(self, measures: Measures) -> None:
        self.measures = measures
        self._numbers: dict[object, int] = {}
        self._signatures: dict[tuple[Problem, str], int] = {}
        self._sizes: dict[object, tuple[dict[str, Sizes], dict[str, int]]] = {}
        self._placed: dict[tuple[str, int, int], tuple[Placed, int]] = {}
        self._einsums: dict[int, Piece] = {}
        self._runs: dict[object, tuple[_Tensor, ...]] = {}
        self._tensors: dict[object, Piece] = {}
        self._bytes = 0
        self._fused: dict[object, tuple[Mask, ...]] = {}

    def begin(self, problem: Problem, structure: Structure) -> Begun:
        """Open a structure: all about its arrays, and nothing yet about its tensors."""
        if self._bytes > _MOST_BYTES:
            for known in (self._placed, self._einsums, self._tensors, self._fused):
                known.clear()
            self._bytes = 0
        axes = axes_of(problem, structure)
        numbers, placed = self._place(problem, structure, axes)
        tiles = tile_axes(problem)
        names = list(axes.sizes)[len(tiles) :]
        masks = self._refused(problem, structure, placed)
        found = [_piece(np.where(m, np.inf, 0.0)[None], names, len(tiles), {}) for m in masks]
        base = np.zeros((self.measures.count, *(axes.sizes[name] for name in reversed(tiles))))
        for at, number in enumerate(numbers):
            if number not in self._einsums:
                values = self._einsum(problem, structure, at, placed[at], axes)
                self._einsums[number] = _piece(values, names, len(tiles), {})
                self._bytes += values.nbytes
            piece = self._einsums[number]
            if piece.names:
                found.append(piece)
            else:
                base += piece.values
        tensors = self._tensors_of(problem, structure.einsums)
        return Begun(
            problem,
            axes,
            tiles,
            tuple(placed),
            base,
            tuple(found),
            {self._key(problem, structure, tensor, numbers): tensor for tensor in tensors},
        )

    def _einsum(
        self, problem: Problem, structure: Structure, at: int, placed: Placed, axes: Axes
    ) -> np.ndarray:
        """The measures of an Einsum, along the choice of what is spread over its array."""
        binding = structure.bindings[at]
        shared, _ = self._sizes[structure.outer, structure.inner]
        ways = axes.which(binding.choice, len(binding.spreads))
        found = []
        for spread, when in enumerate(ways):
            alone = placed
            if len(ways) > 1:
                alone = place_nest(problem, structure, at, shared, None, axes, spread)
            part = einsum_part(problem.on, alone.plain)
            values = self.measures.of_einsum(part, binding.array)
            lacking = max(0, np.ndim(when) + 1 - values.ndim)
            values = values.reshape(len(values), *(1,) * lacking, *values.shape[1:])
            found.append(np.where(when, values, 0.0))
        return np.asarray(sum(found))

    def known(self, key: object) -> Piece | None:
        """A piece that has been worked out for all sizes of tiles."""
        return self._tensors.get(key)

    def work_out(self, begun: Begun, key: object, some: np.ndarray | None) -> Piece:
        """A piece, for all sizes of tiles, or only for `some` (flat positions)."""
        problem, tensor, tiles = begun.problem, begun.keys[key], len(begun.tiles)
        axes = Axes(None, dict(begun.axes.sizes))
        if tensor.name not in begun.homes:
            only = {tensor.name, *tensor.old}
            begun.homes[tensor.name] = find_homes(problem, "", begun.placed, axes, only), axes
        homes, axes = begun.homes[tensor.name]
        on, phase = problem.on, homes.phase
        refused: tuple[Mask, ...] = ()
        words: Mapping[str, Number] | None = None
        shared: Mapping[str, Mask] = {}
        if tensor.at is None:
            refused = tensor_refused(on, phase, tensor.name)
            words = tensor_registers(on, phase, tensor.name)
            old = dict(overwriting(problem, homes)).get(tensor.name)
            shared = homes.held[old].there if old else {}
            between = tensor.what == "between"
            of = [begun.placed[at] for at in tensor.users]
            users = [placed.plain if between else placed.nest for placed in of]
        else:
            users = [begun.placed[tensor.at].nest]
        if tensor.what != "all":
            phase = replace(phase, einsums=tuple(users))
        if some is not None:
            where = np.unravel_index(some, begun.shape)
            on, phase = at_points(on, phase, users, tensor.name, where)
            refused = tuple(pick(mask, where) for mask in refused)
            shared = {memory: pick(mask, where) for memory, mask in shared.items()}
            words = words and {array: pick(own, where) for array, own in words.items()}
            tiles = 1
        part = tensor_part(on, phase, tensor.name, what=tensor.what)
        room: dict[str, Number] = {}
        if words is not None:
            room = {
                memory: np.where(shared[memory], 0.0, own) if memory in shared else own
                for memory, own in part.room_bytes.items()
            }
        values = self.measures.of(part, room, words, refused)
        names = list(axes.sizes)
        choices = {name: axes.sizes[name] for name in names[len(begun.axes.sizes) :]}
        piece = self._weighed(_piece(values, names[len(begun.tiles) :], tiles, choices))
        if some is None:
            self._bytes += piece.values.nbytes
            self._tensors[key] = piece
        return piece

    def _weighed(self, piece: Piece) -> Piece:
        """A piece with what is at stake, at some of its points; its least is that of choices which
        fit by themselves, where there are any."""
        if not piece.names:
            return piece
        points = piece.values.reshape(len(piece.values), -1, piece.least[0].size)
        some = points[..., :: max(1, points.shape[-1] // _WEIGHED)]
        piece = replace(piece, at_stake=self.measures.at_stake(some))
        fitting = self.measures.fit(points)
        if np.all(fitting):
            return piece
        least = np.where(fitting, points, np.inf).min(axis=1).reshape(piece.least.shape)
        return replace(piece, least=np.where(np.isfinite(least[0]), least, piece.least))

    def _place(
        self, problem: Problem, structure: Structure, axes: Axes
    ) -> tuple[list[int], list[Placed]]:
        """The nests, and numbers that are the same for nests that are alike but for names."""
        loops = structure.outer, structure.inner
        if loops not in self._sizes:
            shared = place_sizes(problem, structure, axes)
            self._sizes[loops] = shared, {name: axes.sizes[name] for name in tile_axes(problem)}
        shared, tiles = self._sizes[loops]
        axes.sizes.update(tiles)
        orders = free_orders(problem, structure)
        numbers, placed = [], []
        for at, einsum in enumerate(structure.einsums):
            run, order = structure.run[at], orders.get(einsum.name)
            what = (
                self._signature(problem, einsum),
                structure.bindings[at],
                structure.batch,
                structure.outer,
                structure.inner[run],
                tuple(axes.sizes.get(r, 1) for r in einsum.ranks),
                order,
            )
            number = self._numbers.setdefault(what, len(self._numbers))
            key = einsum.name, number, run
            if key not in self._placed:
                found = place_nest(problem, structure, at, shared, order, axes)
                self._placed[key] = found, axes.sizes[order] if order else 1
            if order:
                axes.sizes[order] = self._placed[key][1]
            numbers.append(number)
            placed.append(self._placed[key][0])
        return numbers, placed

    def _signature(self, problem: Problem, einsum: Einsum) -> int:
        """The same number for Einsums that are alike but for their names."""
        key = problem, einsum.name
        if key not in self._signatures:
            alike = replace(einsum, name="", output=replace(einsum.output, tensor=""))
            self._signatures[key] = self._numbers.setdefault(alike, len(self._numbers))
        return self._signatures[key]

    def _refused(
        self, problem: Problem, structure: Structure, placed: Sequence[Placed]
    ) -> tuple[Mask, ...]:
        arrays = tuple(b.array for b in structure.bindings)
        tree = (structure.batch, structure.outer, structure.inner, structure.run)
        key = (problem, structure.einsums[0].name, tree, arrays)
        if key not in self._fused:
            phase = Phase("", tuple(p.nest for p in placed), {})
            self._fused[key] = fusion_refused(problem.on, phase)
        return self._fused[key]

    def _tensors_of(self, problem: Problem, einsums: tuple[Einsum, ...]) -> tuple[_Tensor, ...]:
        key = (problem, einsums[0].name, len(einsums))
        if key not in self._runs:
            self._runs[key] = tuple(_tensors(problem, einsums))
        return self._runs[key]

    def _key(
        self, problem: Problem, structure: Structure, tensor: _Tensor, numbers: Sequence[int]
    ) -> object:
        """What a tensor's costs depend on. Runs of the phase are told apart, but not numbered."""
        run = structure.run
        every = (*tensor.users, *tensor.beside)
        apart: dict[int, int] = {}
        for at in every:
            apart.setdefault(run[at], len(apart))
        nests = tuple((numbers[at], apart[run[at]]) for at in every)
        if tensor.at is not None:  # of the others only the loops outside of which it may be kept
            kept = tuple(
                (
                    self._signature(problem, structure.einsums[at]),
                    structure.batch,
                    structure.outer,
                    structure.inner[run[at]],
                    apart[run[at]],
                )
                for at in every
            )
            return tensor.name, numbers[tensor.at], every.index(tensor.at), kept
        if not tensor.made:
            return tensor.name, nests
        names = tuple(structure.einsums[at].name for at in tensor.users)
        around = tuple(
            (e.name, apart[at])
            for e, at in zip(structure.einsums, run, strict=True)
            if len(apart) > 1 and at in apart
        )
        arrays = tuple(structure.bindings[at].array for at in tensor.between)
        return problem, tensor.name, names, nests, around, arrays


def _tensors(problem: Problem, einsums: Sequence[Einsum]) -> Iterator[_Tensor]:
    """The tensors of a run of Einsums, with what bears on where each lives."""
    users: dict[str, dict[int, None]] = {}
    makers: dict[str, int] = {}
    for at, einsum in enumerate(einsums):
        for use in touched(problem.cascade, einsum.name):
            users.setdefault(use.tensor, {})[at] = None
            if use.writes:
                makers[use.tensor] = at
    for tensor, own in users.items():
        old: tuple[str, ...] = ()
        beside: dict[int, None] = {}
        if tensor in makers:
            old = tuple(o for o in overwritten(einsums[makers[tensor]]) if o in makers)
        for each in old:
            beside |= users[each]
            takers = [e for e in einsums if each in overwritten(e)]
            if len(takers) > 1:  # which of them takes it depends on all else that they may take
                old, beside = tuple(users), dict.fromkeys(range(len(einsums)))
                break
        every = (*own, *beside)
        between: tuple[int, ...] = ()
        if tensor in makers:
            between = tuple(at for at in range(min(every), max(every)) if at not in every)
        near = tuple(at for at in beside if at not in own)
        if tensor not in makers and len(own) > 1:
            yield _Tensor(tensor, tuple(own), False, what="between")
            for user in own:
                yield _Tensor(tensor, tuple(own), False, what="edges", at=user)
            continue
        yield _Tensor(tensor, tuple(own), tensor in makers, old, near, between)


def _piece(
    values: np.ndarray, names: Sequence[str], tiles: int, choices: Mapping[str, int]
) -> Piece:
    """A piece with an axis for each choice that matters. The last `tiles` axes are those of tiles,
    the one before them that of the first of `names`, and so on."""
    values = plain(values, 1)
    lacking = tiles + 1 - values.ndim
    if lacking > 0:
        values = values.reshape(len(values), *(1,) * lacking, *values.shape[1:])
    free = values.ndim - 1 - tiles
    counts = values.shape[1 : 1 + free]
    kept = [(n, c) for n, c in zip(names[:free][::-1], counts, strict=True) if c > 1]
    values = values.reshape(len(values), *(c for _, c in kept), *values.shape[1 + free :])
    least = values.min(axis=tuple(range(1, 1 + len(kept))))
    return Piece(choices, tuple(n for n, _ in kept), values, least)


__all__ = ["Begun", "Piece", "Pieces"]
