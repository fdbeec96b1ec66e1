"""What all candidates of one structure cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np

from einsum_cascade import InputError
from mappers.search.axes import Axes
from mappers.search.nests import PARTS, place_nests
from mappers.search.pieces import Piece, Pieces
from mappers.search.problem import Problem
from mappers.search.residency import make_phase
from mappers.search.screen import Count, Screen
from mappers.search.structures import Structure
from sim import Phase

_AT_ONCE = 1 << 17
"""Candidates whose costs are added up at a time."""

_FIRST = 64
"""Sets of sizes of tiles that are looked at first, to know what is good."""

_FEW, _MANY = 1 / 10, 4096
"""From how many sets of sizes of tiles on a piece is worked out only for those that are left, if no
more than such a share is."""


_LONGEST = 1 << 62
"""So large may a part of a candidate's number be."""

_BEAM = 1024
"""How many candidates are added up at a time when anything good is looked for."""

_COMPARED = 1 << 22
"""Up to how many numbers the choices of a piece are compared with each other."""


@dataclass(frozen=True)
class Layout:
    """How the number of a candidate stands for its choices: those of tiles, and all others."""

    tiles: Mapping[str, int]
    choices: Mapping[str, int]

    def picked(self, x: int, k: int) -> dict[str, int]:
        """The choices of a candidate: `x` numbers the sizes of its tiles, `k` all else."""
        found: dict[str, int] = {}
        for choices, number in ((self.tiles, x), (self.choices, k)):
            for name, count in choices.items():
                number, found[name] = divmod(number, count)
        return found

    @cached_property
    def steps(self) -> Mapping[str, tuple[int, int]]:
        """For each choice but those of tiles, what one more adds to the number of a candidate: this
        may be longer than 64 bits, and is in two parts then, of which the first is the lower."""
        found = {}
        step, part = 1, 0
        for name, count in self.choices.items():
            if step * count > _LONGEST:
                step, part = 1, part + 1
            found[name] = part, step
            step *= count
        if part > 1:
            raise InputError(f"mapper 'search' cannot number {self.each:.3g} choices of one phase")
        return found

    def code(self, low: int, high: int) -> int:
        """The number of a candidate of its parts."""
        first = prod(n for name, n in self.choices.items() if self.steps[name][0] == 0)
        return low + high * first

    @property
    def each(self) -> int:
        """How many candidates have the same sizes of tiles."""
        return prod(self.choices.values())


@dataclass(frozen=True, eq=False)
class Opened:
    """A structure with what is left of its sets of sizes of tiles, numbered by `x`.

    `least` are the measures that each costs at least, every piece at its best by itself; `base` is
    what no choice changes. Beside each piece are the positions in it that belong to `x`.
    """

    layout: Layout
    x: np.ndarray
    least: np.ndarray
    base: np.ndarray
    pieces: tuple[tuple[Piece, np.ndarray], ...]


def open_structure(
    pieces: Pieces, problem: Problem, structure: Structure, screen: Screen, count: Count
) -> Opened | None:
    """Work out the pieces of a structure, as long as anything is left that can be of use.

    None when nothing is, before the number of its candidates is known.
    """
    begun = pieces.begin(problem, structure)
    shape, keys = begun.shape, begun.keys
    points = prod(shape)
    known = {key: pieces.known(needed) for key, needed in keys.items()}
    found = [*begun.pieces, *(piece for piece in known.values() if piece is not None)]
    sums = begun.base.copy()
    for piece in found:
        sums[: len(piece.least)] += piece.least
    left = _Left(np.arange(points), sums.reshape(len(sums), -1)).screened(screen)
    for key in sorted((k for k in keys if known[k] is None), key=begun.dearness):
        if not len(left.x):
            return None
        some = left.x if points >= _MANY and len(left.x) < _FEW * points else None
        piece = pieces.work_out(begun, keys[key], some)
        found.append(piece)
        least = left.least.copy()
        least[: len(piece.least)] += _flat(piece.least).take(piece.at(left.x, shape), axis=1)
        left = replace(left, least=least).screened(screen)
    choices = dict(begun.choices)
    for piece in found:
        choices |= piece.choices
    layout = Layout(begun.tiles, choices)
    count.covered += points * layout.each
    for verdicts in left.out:
        count.leave_out(verdicts, layout.each)
    base = _flat(begun.base).take(left.x, axis=1)
    each = []
    for piece in found:
        at = piece.at(left.x, shape)
        if piece.names:
            each.append((piece, at))
        else:
            base[: len(piece.least)] += _flat(piece.least).take(at, axis=1)
    return Opened(layout, left.x, left.least, base, tuple(_in_turn(each, choices)))


_Placed = tuple[Piece, np.ndarray]


def _in_turn(pieces: Sequence[_Placed], choices: Mapping[str, int]) -> Iterator[_Placed]:
    """Pieces in the order in which they are added up: where the most room is at stake first, those
    of which nothing is left to choose as soon as that is so."""
    left = sorted(
        pieces, key=lambda p: (-p[0].at_stake, prod(choices[name] for name in p[0].names))
    )
    chosen: set[str] = set()
    while left:
        settled = [p for p in left if chosen.issuperset(p[0].names)] or left[:1]
        yield from settled
        chosen.update(name for piece, _ in settled for name in piece.names)
        left = [p for p in left if not any(p is other for other in settled)]


@dataclass(frozen=True, eq=False)
class _Left:
    """Sets of sizes of tiles that are left, and the verdicts on all others."""

    x: np.ndarray
    least: np.ndarray
    out: tuple[np.ndarray, ...] = ()

    def screened(self, screen: Screen) -> _Left:
        """What passes a screen."""
        verdicts = screen.verdicts(self.least, self.x)
        kept = np.flatnonzero(verdicts == 0)
        if len(kept) == len(self.x):
            return self
        out = (*self.out, verdicts)
        return _Left(self.x[kept], self.least.take(kept, axis=1), out)


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)


@dataclass(frozen=True, eq=False)
class _Sums:
    """Candidates of which the pieces up to the `next` have been added up: measures by candidates.

    `point` is the position of the sizes of the tiles, `code` numbers the choices that are `chosen`
    so far, in two parts; each stands for so many candidates.
    """

    next: int
    values: np.ndarray
    point: np.ndarray
    code: np.ndarray
    chosen: tuple[str, ...]
    each: int

    def only(self, kept: np.ndarray) -> _Sums:
        """Some of them, by their positions."""
        values, point = self.values.take(kept, axis=1), self.point[kept]
        code = self.code.take(kept, axis=1)
        return _Sums(self.next, values, point, code, self.chosen, self.each)


@dataclass(frozen=True)
class Pricing:
    """The candidates of a structure (the one of this `number`), costed where that can be of use."""

    opened: Opened
    number: int
    screen: Screen
    count: Count
    stopped: Callable[[], bool] = bool

    def dive(self) -> None:
        """Keep something good in the fronts, soon."""
        least = self.screen.measures.costs(self.opened.least)
        order = np.argsort(least.prod(axis=-1), kind="stable")
        some = order[:: max(1, len(order) // _FIRST)]
        if len(some):
            count = Count()
            replace(self, count=count)._add_up(some, _BEAM)
            self.count.ahead += count.costed

    def search(self) -> None:
        """Keep in the fronts of the screen what nothing beats."""
        opened = self.opened
        least = self.screen.measures.costs(opened.least)
        left = np.argsort(least.prod(axis=-1), kind="stable")
        size = _FIRST
        while len(left) and not self.stopped():
            verdicts = self.screen.verdicts(opened.least.take(left, axis=1), opened.x[left])
            self.count.leave_out(verdicts, opened.layout.each)
            left = left[verdicts == 0]
            some = np.zeros(len(left), dtype=bool)
            some[:: max(1, len(left) // size)] = True
            if len(left):
                self._add_up(left[some])
            left, size = left[~some], size * 4

    def _add_up(self, some: np.ndarray, beam: int | None = None) -> None:
        """Add up the pieces of all candidates at some positions, one after the other. What cannot
        be of use, each further tensor at its best by itself, is left out on the way; with a `beam`
        also all but so many that look best."""
        opened, choices = self.opened, self.opened.layout.choices
        rest = [np.zeros((len(opened.least), len(some)))]
        for piece, at in reversed(opened.pieces):
            least = rest[-1].copy()
            least[: len(piece.least)] += _flat(piece.least).take(at[some], axis=1)
            rest.append(least)
        rest.reverse()
        first = opened.base.take(some, axis=1)
        matter = Counter(name for piece, _ in opened.pieces for name in piece.names)
        useful = [_useful(piece, at[some], choices, matter) for piece, at in opened.pieces]
        each = prod(choices[name] for name in matter)
        self.count.dominated += (opened.layout.each - each) * len(some)  # as good as others
        here = np.arange(len(some))
        pending = [_Sums(0, first, here, np.zeros((2, len(some)), dtype=np.int64), (), each)]
        while pending and not self.stopped():
            sums = pending.pop()
            if sums.next == len(opened.pieces):
                self._keep(sums, some)
                continue
            piece, at = opened.pieces[sums.next]
            new = [name for name in piece.names if name not in sums.chosen]
            more = prod(choices[name] for name in new)
            if more > 1:
                bound = sums.values + rest[sums.next].take(sums.point, axis=1)
                verdicts = self.screen.verdicts(bound, opened.x[some[sums.point]])
                kept = np.flatnonzero(verdicts == 0)
                self.count.leave_out(verdicts, sums.each)
                if beam is not None and len(kept) > beam:
                    promise = self.screen.measures.costs(bound.take(kept, axis=1)).prod(axis=-1)
                    kept = kept[np.argsort(promise, kind="stable")[:beam]]
                sums = sums.only(kept)
            if len(sums.point) > 1 and len(sums.point) * more > _AT_ONCE:
                pending += map(sums.only, np.array_split(np.arange(len(sums.point)), 2)[::-1])
            elif len(sums.point):
                tile, layout = at[some[sums.point]], opened.layout
                added = _with(sums, piece, tile, new, layout, useful[sums.next])
                self.count.dominated += (len(sums.point) * more - len(added.point)) * added.each
                pending.append(added)

    def _keep(self, sums: _Sums, some: np.ndarray) -> None:
        """Take in candidates whose pieces have all been added up."""
        measures, fronts = self.screen.measures, self.screen.fronts
        fine = np.isfinite(sums.values[0]) & measures.fit(sums.values)
        point, code = some[sums.point[fine]], sums.code[:, fine]
        x = self.opened.x[point]
        self.count.costed += len(fine)
        self.count.valid += len(x)
        costs = measures.costs(sums.values[:, fine])
        keys = np.stack([np.full(len(x), self.number), x, *code], axis=-1)
        for part, own in self.screen.by_part(x):
            fronts[part].add(costs[own], keys[own])


def _useful(
    piece: Piece, at: np.ndarray, choices: Mapping[str, int], pieces: Mapping[str, int]
) -> np.ndarray:
    """Which choices of a piece are of use at some of its points: `pieces` says in how many each
    matters, and of those of this piece alone, what is no better in any measure is not.

    Shape: its choices, points.
    """
    counts = [choices[name] for name in piece.names]
    own = [axis for axis, name in enumerate(piece.names) if pieces[name] == 1]
    several = prod(counts[axis] for axis in own)
    values = piece.values.reshape(len(piece.values), -1, piece.least[0].size)
    size = values.shape[0] * values.shape[1] * len(at)
    if several == 1 or size * several > _COMPARED:
        return np.ones((values.shape[1], len(at)), dtype=bool)
    values = values.take(at, axis=2).reshape(len(values), *counts, len(at))
    first = range(len(own))
    values = np.moveaxis(values, [1 + axis for axis in own], [1 + axis for axis in first])
    shape = values.shape[1:]
    values = values.reshape(len(values), several, -1)
    useful = np.ones(values.shape[1:], dtype=bool)
    for number in range(several):
        this = values[:, number : number + 1]
        no_worse = np.all(values <= this, axis=0)
        alike = no_worse & np.all(values >= this, axis=0)
        useful[number] = ~np.any(no_worse & ~alike, axis=0) & ~np.any(alike[:number], axis=0)
    found = np.moveaxis(useful.reshape(shape), first, own)
    return found.reshape(-1, len(at))


def _with(
    sums: _Sums,
    piece: Piece,
    tile: np.ndarray,
    new: Sequence[str],
    layout: Layout,
    useful: np.ndarray,
) -> _Sums:
    """Some sums with a further piece: each with all values of its `new` choices, but for what is
    not `useful`."""
    choices = layout.choices
    row: np.ndarray = np.zeros((1, 1), dtype=np.int64)
    code: np.ndarray = sums.code[:, None]
    for name in piece.names:
        row = row * choices[name]
        part, step = layout.steps[name]
        if name in new:
            values = np.arange(choices[name])[:, None]
            row = (row[:, None] + values).reshape(-1, row.shape[-1])
            more = np.zeros((2, 1, *values.shape), dtype=np.int64)
            more[part] = values * step
            code = (code[:, :, None] + more).reshape(2, -1, code.shape[-1])
        else:
            row = row + sums.code[part] // step % choices[name]
    chosen = (*sums.chosen, *new)
    each = sums.each // prod(choices[name] for name in new)
    row = np.broadcast_to(row, code.shape[1:])
    which, own = np.nonzero(useful[row, sums.point])
    at = row[which, own] * piece.least[0].size + tile[own]
    added = sums.values.take(own, axis=1)
    added[: len(piece.values)] += _flat(piece.values).take(at, axis=1)
    return _Sums(sums.next + 1, added, sums.point[own], code[:, which, own], chosen, each)


def rebuild(
    problem: Problem, structure: Structure, layout: Layout, x: int, k: int
) -> tuple[Problem, Phase]:
    """The phase of one candidate, all numbers."""
    picked = layout.picked(x, k)
    single = problem.at(picked[PARTS]) if PARTS in picked else problem
    axes = Axes(picked)
    placed = place_nests(single, structure, axes)
    names = [e.name for e in structure.einsums]
    label = names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}"
    return single, make_phase(single, label, placed, axes)


__all__ = ["Layout", "Opened", "Pricing", "open_structure", "rebuild"]
