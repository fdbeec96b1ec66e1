"""Which array each Einsum of a phase is bound to, and which ranks are spread over it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import permutations, product
from math import prod
from typing import NamedTuple

from einsum_cascade import Einsum
from mappers.search.problem import Problem, is_product
from mappers.search.recompute import kept_rank

_MOST_SPREADS = 64
"""In so many ways the Einsums of one structure may be spread; else each way is a structure."""


class Binding(NamedTuple):
    """The array of an Einsum, and ways to spread it: each has a rank for a dimension.

    Of several, `choice` names the choice between them.
    """

    array: str
    spreads: tuple[tuple[str, ...], ...]
    choice: str = ""


def bindings(
    problem: Problem,
    einsums: tuple[Einsum, ...],
    lanes: str | None,
    batch: Sequence[str],
    outer: Sequence[str],
    run: Sequence[int],
    inner: Sequence[Sequence[str]],
    most: tuple[int, int],
) -> Iterator[tuple[Binding, ...]]:
    """Arrays and spatial ranks of all Einsums. Those that are alike go to one array together: where
    that makes more than the first of `most` ways, those that only some arrays can compute take
    others along; more than the second, as much as can be is on one array."""
    own: dict[str, frozenset[str]] = {}
    spread: dict[str, list[str]] = {}
    for einsum, at in zip(einsums, run, strict=True):
        placed = (*batch, *outer, *inner[at])
        own[einsum.name] = frozenset(r for r in einsum.ranks if r not in placed and r != lanes)
        spread[einsum.name] = spreadable(problem, einsum, batch, placed)
    rows = any(kept_rank(problem.cascade, e.output.tensor) is not None for e in einsums)
    sides = [a.shape[0] for a in problem.architecture.arrays if len(a.shape) == 1]
    short = lanes is not None and any(problem.typical(lanes) < side for side in sides)
    fibers = (False, True) if rows or short else (False,)

    def options(fine: bool, some: tuple[bool, ...], joined: bool) -> list[tuple[_Way, ...]]:
        """The ways of each class, along `some` of the fibers."""
        found = []
        for members in _classes(problem, einsums, own, fine):
            ranks = tuple(tuple(spread[e.name]) for e in members)
            what = lanes, some, len(einsums) == 1, tuple(members), ranks, joined
            key = "ways", *what[:3], tuple(e.name for e in members), ranks, joined
            found.append(problem.once(key, partial(_ways, problem, *what)))
        return found

    each = options(True, fibers, True)
    joined = prod(max(map(_spreads, ways), default=1) for ways in each) <= _MOST_SPREADS
    names = [a.name for a in problem.architecture.arrays]
    done = set()
    for some in [fibers] if joined else [(fiber,) for fiber in fibers]:
        each = options(True, some, joined)
        every = prod(map(len, each)) <= most[0]
        if not every:
            each = options(False, some, joined)
            every = prod(map(len, each)) <= most[1]
        for chosen in product(*each) if every else _on_one(each, names, most[1]):
            found = _numbered(einsums, chosen)
            if found not in done:
                done.add(found)
                yield found


_Way = dict[str, Binding]


def _ways(
    problem: Problem,
    lanes: str | None,
    fibers: tuple[bool, ...],
    alone: bool,
    members: tuple[Einsum, ...],
    spread: tuple[tuple[str, ...], ...],
    joined: bool,
) -> tuple[_Way, ...]:
    """What Einsums that are alike may be bound to, each with some ranks that may be spread."""

    def on(at: int, array: str, fiber: bool, alone: bool) -> list[Binding]:
        some = _spatial(problem, members[at], array, spread[at], lanes, fiber, alone)
        return [Binding(array, (ranks,)) for ranks in some]

    arrays = [problem.arrays_for(e) for e in members]
    common = [a.name for a in arrays[0] if all(a in every for every in arrays)]
    found: dict[tuple[Binding, ...], None] = {}
    for fiber in fibers:
        for name in common:
            each = (on(at, name, fiber, alone) for at in range(len(members)))
            found |= dict.fromkeys(product(*each))
        if not common:  # each where it can be
            first = (
                [b for array in own for b in on(at, array.name, fiber, False)][:1]
                for at, own in enumerate(arrays)
            )
            found |= dict.fromkeys(product(*first))
    names = [e.name for e in members]
    every = _joined(list(found)) if joined else found
    return tuple(dict(zip(names, way, strict=True)) for way in every)


def _numbered(einsums: Sequence[Einsum], chosen: Sequence[_Way]) -> tuple[Binding, ...]:
    """The way of each class as a binding for each Einsum, with names for what is left to choose."""
    by_name: dict[str, Binding] = {}
    number = 0
    for way in chosen:
        several = _spreads(way) > 1
        choice = f"spread {number}" if several else ""
        by_name |= {name: binding._replace(choice=choice) for name, binding in way.items()}
        number += several
    return tuple(by_name[e.name] for e in einsums)


def _spreads(way: _Way) -> int:
    """In how many ways Einsums are spread."""
    return max((len(binding.spreads) for binding in way.values()), default=1)


def _joined(ways: Sequence[tuple[Binding, ...]]) -> list[tuple[Binding, ...]]:
    """Ways to bind some Einsums with one way to spread each, joined to ways with several where the
    arrays are the same, and no rank is along one dimension here and along another there."""
    found: list[list[tuple[Binding, ...]]] = []
    for way in ways:
        fitting = (some for some in found if all(_agree(way, other) for other in some))
        joined = next(fitting, None)
        if joined is None:
            found.append([way])
        else:
            joined.append(way)
    return [
        tuple(
            Binding(same[0].array, tuple(binding.spreads[0] for binding in same))
            for same in zip(*some, strict=True)
        )
        for some in found
    ]


def _agree(one: Sequence[Binding], other: Sequence[Binding]) -> bool:
    """Whether two ways have every Einsum on the same array, and its ranks along one dimension."""
    for mine, theirs in zip(one, other, strict=True):
        along = {rank: at for at, rank in enumerate(mine.spreads[0])}
        if mine.array != theirs.array or any(
            along.get(rank, at) != at for at, rank in enumerate(theirs.spreads[0])
        ):
            return False
    return True


def _classes(
    problem: Problem, einsums: Sequence[Einsum], own: Mapping[str, frozenset[str]], arrays: bool
) -> list[list[Einsum]]:
    """Einsums that are alike: the same ranks are left, and with `arrays` the same ones can compute
    them. A product is by itself."""
    classes: dict[object, list[Einsum]] = {}
    for einsum in einsums:
        on = tuple(a.name for a in problem.arrays_for(einsum)) if arrays else ()
        key: object = einsum.name if is_product(einsum) else (own[einsum.name], on)
        classes.setdefault(key, []).append(einsum)
    return list(classes.values())


def _on_one(
    options: Sequence[Sequence[_Way]], arrays: Sequence[str], most: int
) -> Iterator[tuple[_Way, ...]]:
    """Ways in which as much as can be is on one array; but for what one class does, unless that
    makes more than `most`."""
    vary = len(arrays) * sum(map(len, options)) <= most
    for name in arrays:
        on = [[w for w in ways if all(b.array == name for b in w.values())] for ways in options]
        mine = [some or list(ways) for some, ways in zip(on, options, strict=True)]
        for at in range(max(map(len, mine))):
            yield tuple(ways[min(at, len(ways) - 1)] for ways in mine)
        for at, ways in enumerate(options) if vary else ():
            for way in ways:
                yield tuple(way if i == at else some[0] for i, some in enumerate(mine))


def spreadable(
    problem: Problem, einsum: Einsum, batch: Sequence[str], placed: Sequence[str]
) -> list[str]:
    """Ranks of which an Einsum may spread several coordinates, those of its own nest first.

    Tiles that follow one another are not, where there is anything else.
    """
    cascade = problem.cascade
    ranks = [
        r
        for r in einsum.ranks
        if r not in batch and problem.is_long(r) and not cascade.ranks[r].iterative
    ]
    inner = [r for r in ranks if not cascade.inner_to(r)]
    ranks = inner or ranks
    return sorted(ranks, key=lambda r: (r in placed, -problem.typical(r)))


def _spatial(
    problem: Problem,
    einsum: Einsum,
    name: str,
    ranks: tuple[str, ...],
    lanes: str | None,
    fiber: bool,
    alone: bool,
) -> list[tuple[str, ...]]:
    """The ranks that may be spread over an array."""
    array = problem.architecture.array(name)
    every = problem.arrays_for(einsum)
    rows = lanes if lanes in ranks else None
    others = [r for r in ranks if r != rows]
    if len(array.shape) == 1:
        if is_product(einsum) and any(len(a.shape) > 1 for a in every):
            return []  # a product is on an array of two dimensions where there is one
        mine = (rows,) if rows is not None else ()
        own = tuple(others[:1])
        return [own or mine if fiber else mine or own]
    if is_product(einsum) and (alone or lanes is None):
        square = bool(array.shape[0] == array.shape[1])
        pairs: list[tuple[str, ...]] = []
        pairs += [p for p in permutations(ranks, 2) if not square or _first(ranks, p)]
        return pairs or [ranks]
    if is_product(einsum) and rows is not None:
        return [(r, rows) for r in others] or [(rows,)]
    if rows is not None and others:
        return [(others[0], rows)]
    if any(len(a.shape) == 1 for a in every):
        return []  # one rank would use one row of the array
    return [ranks[:2]]


def _first(ranks: tuple[str, ...], pair: tuple[str, ...]) -> bool:
    return ranks.index(pair[0]) < ranks.index(pair[1])


__all__ = ["Binding", "bindings", "spreadable"]
