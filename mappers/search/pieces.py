"""The costs of structures in pieces, each worked out once for all structures that have it.

What an Einsum adds follows from its nest, what a tensor adds from the nests of the Einsums that use
it and a little of the phase around them. Structures of one run, of runs that overlap, and of
rewrites of a cascade have most of these in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import chain
from math import prod

import numpy as np

from einsum_cascade import Einsum
from mappers.search.axes import Axes, moved, plain
from mappers.search.measures import Measures
from mappers.search.needs import Needed, Tensor, choices_of, needs_of, spread_of, tensors_of
from mappers.search.nests import ALONE, Placed
from mappers.search.placing import Nest, Placing
from mappers.search.points import at_points, pick, positions
from mappers.search.problem import Problem
from mappers.search.residency import Homes, find_homes, overwriting
from mappers.search.structures import Structure
from sim import Option, Phase
from sim.mapping import Mask, Number
from sim.parts import (
    einsum_part,
    fill_seconds,
    fusion_refused,
    loop_seconds,
    tensor_part,
    tensor_refused,
)
from sim.registers import AllWaiting, Waiting, all_waiting, tensor_words

_MOST_BYTES = 1 << 28
"""What pieces may take before they are forgotten."""

_WEIGHED = 64
"""At so many points it is looked at how much is at stake in a piece."""


@dataclass(frozen=True, eq=False)
class Piece:
    """What a tensor or an Einsum adds, along the choices `names` (of all its `choices`, those that
    matter).

    `values` are measures (only the first of them, if the others are zero), then an axis for each of
    `names`, then those of tiles: of all, or one axis of `some` sets of their sizes (flat positions
    among all). `least` is the least over the choices, of those that fit by themselves. Infinite
    where a choice is not legal. `at_stake` is how much of the room on chip depends on the choices.
    """

    choices: Mapping[str, int]
    names: tuple[str, ...]
    values: np.ndarray
    least: np.ndarray
    at_stake: float = 0.0
    some: np.ndarray | None = None

    def at(self, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Where along its axes of tiles it has some sets of their sizes, of all of a shape."""
        tiles = self.least.shape[1:]
        if self.some is not None:
            return positions([np.searchsorted(self.some, x)], tiles)
        return x if tiles == shape else positions(np.unravel_index(x, shape), tiles)

    def called(self, names: Mapping[str, str]) -> Piece:
        """The same with other names for some choices."""
        return replace(self, names=tuple(names.get(name, name) for name in self.names))


@dataclass(frozen=True, eq=False)
class Begun:
    """A structure of which the pieces of its tensors (by `keys`) are still to be worked out.

    `tiles` are the choices of their sizes, with how many values each has, `choices` those of the
    `nests`. `base` is what no choice of the nests changes, along all axes of tiles. `pieces` are
    those of Einsums, and such as cost nothing and are infinite where the structure is not legal.
    """

    problem: Problem
    tiles: Mapping[str, int]
    choices: Mapping[str, int]
    nests: Sequence[Nest]
    base: np.ndarray
    pieces: tuple[Piece, ...]
    keys: Mapping[object, Needed]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an array along all axes of tiles."""
        return tuple(self.tiles.values())[::-1]

    def dearness(self, key: object) -> tuple[int, bool]:
        """What comes later is more work, or says less: inputs can always be outside."""
        needed = self.keys[key]
        return prod(self.choices[name] for name in needed.choices), not needed.tensor.made


@dataclass(frozen=True, eq=False)
class _Known:
    """Where a tensor may live by the choices `own`, and what waits in registers then; along these
    axes behind those of the nests (where they matter) and of tiles."""

    homes: Homes
    own: Mapping[str, int]
    waiting: Sequence[tuple[Waiting, Mask]]
    refused: tuple[Mask, ...]


@dataclass(frozen=True, eq=False)
class _Beside:
    """Where a tensor is in the place of another one, by memory, and the words that it takes in each
    PE, by array."""

    shared: Mapping[str, Mask]
    words: Mapping[str, Number]

    def content(self, names: Sequence[str], tiles: int) -> object:
        """The same for what is equal, along the choices `names` behind those of tiles."""
        every = [(n, np.asarray(own[n])) for own in (self.shared, self.words) for n in own]
        along = max((array.ndim for _, array in every), default=0) - tiles
        content = tuple(
            (name, array.shape, blake2b(array.tobytes()).digest()) for name, array in every
        )
        return content, tuple(names[: max(0, along)])

    def at(self, where: Sequence[np.ndarray]) -> _Beside:
        """The same at some points."""
        shared = {memory: pick(mask, where) for memory, mask in self.shared.items()}
        return _Beside(shared, {array: pick(own, where) for array, own in self.words.items()})


class Pieces:
    """All pieces that have been worked out, by what they depend on.

    The problems are those of one cascade and its rewrites, at one shape and on one architecture.
    """

    def __init__(self, measures: Measures) -> None:
        self.measures = measures
        self._placing = Placing()
        self._einsums: dict[int, Piece] = {}
        self._runs: dict[object, tuple[Tensor, ...]] = {}
        self._loops: dict[object, Piece] = {}
        self._homes: dict[object, _Known] = {}
        self._tensors: dict[object, Piece] = {}
        self._contents: dict[object, Piece] = {}
        self._bytes = 0
        self._fused: dict[object, tuple[Mask, ...]] = {}

    def begin(self, problem: Problem, structure: Structure) -> Begun:
        """Open a structure: all about its arrays, and nothing yet about its tensors."""
        if self._bytes > _MOST_BYTES:
            self._placing.forget()
            self._homes.clear()
            self._fused.clear()
            for known in (self._einsums, self._loops, self._tensors, self._contents):
                known.clear()
            self._bytes = 0
        tiles = self._placing.tiles(problem, structure)
        nests = self._placing.nests(problem, structure)
        found = [
            _piece(np.where(mask, np.inf, 0.0)[None], (), len(tiles), {})
            for mask in self._refused(problem, structure, nests)
        ]
        base = np.zeros((self.measures.count, *tuple(tiles.values())[::-1]))
        for at, nest in enumerate(nests):
            if nest.number not in self._einsums:
                values = self._einsum(problem, structure, at, nest)
                self._einsums[nest.number] = _piece(values, ALONE, len(tiles), {})
                self._bytes += values.nbytes
            piece = self._einsums[nest.number]
            if piece.names:
                found.append(piece.called(dict(zip(ALONE, nest.choices, strict=True))))
            else:
                base += piece.values
        for array in problem.architecture.arrays:
            on = [at for at, bound in enumerate(structure.bindings) if bound.array == array.name]
            if on and array.loop is not None:
                found.append(self._loop(problem, structure, nests, array.name, on, len(tiles)))
        if self.measures.fills:
            base[-1] += fill_seconds(problem.on, [nest.placed.plain for nest in nests])
        tensors = self._tensors_of(problem, structure.einsums)
        needs = {needed.key: needed for needed in needs_of(problem, structure, tensors, nests)}
        orders = {nest.choices[0]: nest.counts[0] for nest in nests}
        spreads = {nest.choices[1]: nest.counts[1] for nest in nests}
        choices = {name: count for name, count in (orders | spreads).items() if name}
        return Begun(problem, tiles, choices, nests, base, tuple(found), needs)

    def known(self, needed: Needed) -> Piece | None:
        """A piece that has been worked out for all sizes of tiles."""
        piece = self._tensors.get(needed.key)
        return piece.called(_names(needed.every)) if piece else None

    def work_out(self, begun: Begun, needed: Needed, some: np.ndarray | None) -> Piece:
        """A piece, for all sizes of tiles, or only for `some` (flat positions)."""
        tensor, known = needed.tensor, self._home(begun, needed)
        names, beside = [*needed.choices, *known.own], None
        if tensor.at is None:
            shared, waiting, names = self._beside(begun, needed, names)
            words = tensor_words(begun.problem.cascade, waiting, tensor.name)
            beside = _Beside(shared, words)
        called = {name: number for number, name in _names(needed.every).items()}
        names = [called.get(name, name) for name in names]
        content = needed.alone, beside and beside.content(names, len(begun.tiles))
        piece = self._contents.get(content)
        if piece is None:
            values = self._tensor(begun, needed, known, beside, some)
            tiles = 1 if some is not None else len(begun.tiles)
            piece = self._weighed(replace(_piece(values, names, tiles, known.own), some=some))
            self._bytes += 0 if some is not None else piece.values.nbytes
        if some is None:
            self._tensors[needed.key] = self._contents[content] = piece
        return piece.called(_names(needed.every))

    def _tensor(
        self,
        begun: Begun,
        needed: Needed,
        known: _Known,
        beside: _Beside | None,
        some: np.ndarray | None,
    ) -> np.ndarray:
        """The measures of a tensor, along all axes."""
        tensor, tiles = needed.tensor, len(begun.tiles)
        at = tensor.users if tensor.at is None else (tensor.at,)
        users = [self._nest(begun, each, needed).nest for each in at]
        on, options = begun.problem.on, known.homes.options
        ports = known.homes.ports
        if not tensor.made:  # where it may live is the same whatever the choices of the nests
            places = range(len(needed.choices), len(needed.choices) + len(known.own))
            options = tuple(Option(moved(o.when, tiles, places), o.residency) for o in options)
            ports = {port: moved(by, tiles, places) for port, by in ports.items()}
        phase = Phase("", tuple(users), {tensor.name: options})
        refused = known.refused if beside is not None else ()
        if some is not None:
            where = np.unravel_index(some, begun.shape)
            on, phase = at_points(on, phase, users, tensor.name, where)
            refused = tuple(pick(mask, where) for mask in refused)
            ports = {port: pick(by, where) for port, by in ports.items()}
            beside = beside and beside.at(where)
        part = tensor_part(on, phase, tensor.name, what=tensor.what)
        if beside is None:
            return self.measures.of(part, {}, None, refused, ports)
        room = dict(part.room_bytes)
        for memory in beside.shared.keys() & room.keys():
            room[memory] = np.where(beside.shared[memory], 0.0, room[memory])
        return self.measures.of(part, room, beside.words, refused, ports)

    def _home(self, begun: Begun, needed: Needed) -> _Known:
        """Where a tensor may live, whatever it overwrites. Of nests that do not use it, which are
        along axes of their own, nothing but the array and the shared loops is looked at; of an
        input, of none."""
        if needed.homes in self._homes:
            return self._homes[needed.homes]
        problem, tensor = begun.problem, needed.tensor
        choices = {n: begun.choices[n] for n in needed.choices} if tensor.made else {}
        axes = Axes(None, {**begun.tiles, **choices})
        placed = [
            self._nest(begun, at, needed) if tensor.made and at in tensor.users else nest.placed
            for at, nest in enumerate(begun.nests)
        ]
        homes = find_homes(problem, placed, tensor.name, axes, tensor.number)
        phase = Phase("", tuple(p.nest for p in placed), {tensor.name: homes.options})
        own = {n: c for n, c in axes.sizes.items() if n not in begun.tiles and n not in choices}
        waiting = all_waiting(problem.cascade, phase)[tensor.name]
        refused = tensor_refused(problem.on, phase, tensor.name) if tensor.made else ()
        self._bytes += sum(np.asarray(option.when).nbytes for option in homes.options)
        known = self._homes[needed.homes] = _Known(homes, own, waiting, refused)
        return known

    def _beside(
        self, begun: Begun, needed: Needed, names: list[str]
    ) -> tuple[dict[str, Mask], AllWaiting, list[str]]:
        """Where a tensor is in the place of another one, by memory; and what waits in registers of
        it and of those that it may overwrite. Along the axes `names`, and those of the others,
        which are put behind them."""
        tensor, tiles = needed.tensor.name, len(begun.tiles)
        every = dict(needed.old)
        every.setdefault(tensor, needed)
        known = {name: self._home(begun, each) for name, each in every.items()}
        own = {name: [*each.choices, *known[name].own] for name, each in every.items()}
        names = list(dict.fromkeys(chain(names, *own.values())))
        places = {name: [names.index(n) for n in mine] for name, mine in own.items()}
        waiting = {
            name: [_moved(*each, tiles, places[name]) for each in mine.waiting]
            for name, mine in known.items()
        }
        held = {n: h for n, mine in known.items() if (h := mine.homes.held) is not None}
        pairs = overwriting(begun.problem, [nest.placed.nest for nest in begun.nests], held)
        old = dict(pairs).get(tensor)
        there = held[old].there if old is not None else {}
        shared = {memory: moved(mask, tiles, places[old or ""]) for memory, mask in there.items()}
        return shared, waiting, names

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

    def _einsum(self, problem: Problem, structure: Structure, at: int, nest: Nest) -> np.ndarray:
        """The measures of an Einsum, along the axes of its nest."""
        array, found = structure.bindings[at].array, []
        for when, own in self._placing.spread(problem, structure, at, nest):
            values = self.measures.of_einsum(einsum_part(problem.on, own), array)
            lacking = max(0, np.ndim(when) + 1 - values.ndim)
            values = values.reshape(len(values), *(1,) * lacking, *values.shape[1:])
            found.append(np.where(when, values, 0.0))
        return np.asarray(sum(found))

    def _loop(
        self,
        problem: Problem,
        structure: Structure,
        nests: Sequence[Nest],
        array: str,
        members: Sequence[int],
        tiles: int,
    ) -> Piece:
        """The time of an array that is a pipelined loop, for all Einsums that are on it: which of
        them are in one loop is decided between them."""
        choices = choices_of(nests, members, plain=True)
        names = _names(choices)
        numbers = tuple((nests[at].plain, structure.run[at]) for at in members)
        key = array, numbers, spread_of(nests, members, choices)
        if key not in self._loops:
            own = [self._placing.along(nests[at], choices, tiles, True).nest for at in members]
            values = self.measures.of_loop(array, loop_seconds(problem.on, own))
            self._loops[key] = _piece(values, list(names), tiles, {})
            self._bytes += values.nbytes
        return self._loops[key].called(names)

    def _nest(self, begun: Begun, at: int, needed: Needed) -> Placed:
        """A nest along the axes of the choices that matter to a tensor."""
        between = needed.tensor.what == "between"
        return self._placing.along(begun.nests[at], needed.choices, len(begun.tiles), between)

    def _refused(
        self, problem: Problem, structure: Structure, nests: Sequence[Nest]
    ) -> tuple[Mask, ...]:
        arrays = tuple(b.array for b in structure.bindings)
        tree = (structure.batch, structure.outer, structure.inner, structure.run)
        key = (problem, structure.einsums[0].name, tree, arrays)
        if key not in self._fused:
            phase = Phase("", tuple(nest.placed.nest for nest in nests), {})
            self._fused[key] = fusion_refused(problem.on, phase)
        return self._fused[key]

    def _tensors_of(self, problem: Problem, einsums: tuple[Einsum, ...]) -> tuple[Tensor, ...]:
        key = (problem, einsums[0].name, len(einsums))
        if key not in self._runs:
            self._runs[key] = tuple(tensors_of(problem, einsums))
        return self._runs[key]


def _names(choices: Sequence[str]) -> dict[str, str]:
    """What the choices of nests are called in pieces that structures share, and in this one."""
    return {f"#{number}": name for number, name in enumerate(choices)}


def _moved(own: Waiting, when: Mask, tiles: int, places: Sequence[int]) -> tuple[Waiting, Mask]:
    """What waits of a tensor, along other axes."""
    words, ahead, when = (moved(each, tiles, places) for each in (own.words, own.ahead, when))
    last = {name: moved(mask, tiles, places) for name, mask in own.last.items()}
    return replace(own, words=words, ahead=ahead, last=last), when


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
