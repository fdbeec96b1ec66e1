"""Which Einsums run together: groups that share loops, worked out from the passes of a cascade.

A group is a run of Einsums, in the order of their dependencies, that have a rank in common along
which all of them are in one pass. Inside of it the same is asked again for the ranks that are left.
An iterative rank is looped over in order, outside of every rank along which its steps exchange
values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from einsum_cascade import Cascade, Einsum
from einsum_cascade.views import reads
from sim.accesses import analysis_of, computing
from sim.legality import exchanges_along


@dataclass(frozen=True)
class Place:
    """Where an Einsum stands: the ranks of the loops around it.

    `whole` ranks are looped over one coordinate at a time, outermost; `rows` in tiles of tiles,
    `stream` in tiles between those two levels, `beside` (further ranks that all share, such as the
    query heads of a group) one coordinate at a time right inside of it. A None is no such loop.
    Einsums of one `run` share the loop over `stream`.
    """

    whole: tuple[str, ...]
    rows: str | None
    beside: tuple[str, ...]
    stream: str | None
    run: int


@dataclass(frozen=True)
class Group:
    """Einsums that share the loops over `whole` and `rows`, each at its place."""

    einsums: tuple[Einsum, ...]
    places: tuple[Place, ...]


def grouped(
    cascade: Cascade,
    extents: Mapping[str, float],
    least: float,
    outside: Sequence[str] | None = None,
    einsums: Sequence[Einsum] | None = None,
    whole_steps: bool = False,
) -> tuple[Group, ...]:
    """The groups of a cascade, or of some of its Einsums, in their order.

    `extents` are typical extents, to prefer long ranks as rows. A rank shorter than `least` is not
    worth a loop that streams it. Ranks of `outside` that all these Einsums have are looped over
    outside of everything (see `outsides`, whose first choice is the default). Einsums that share
    nothing but an iteration are grouped inside of its steps; with `whole_steps` they are one group,
    without rows.
    """
    run = list(einsums) if einsums is not None else in_order(cascade)
    if outside is None:
        outside = outsides(cascade, extents, least)[0][0]
    common = _common(cascade, run, ())
    whole = tuple(r for r in outside if r in common)
    return tuple(_groups(cascade, run, whole, extents, least, whole_steps))


def kernels(cascade: Cascade) -> tuple[tuple[Einsum, ...], ...]:
    """Each product by itself, and what stands between two of them together.

    Einsums of an iteration are one kernel: they exchange values at every step.
    """

    def kind(einsum: Einsum) -> str:
        steps = [r for r in einsum.ranks if cascade.ranks[r].iterative]
        if steps:
            return f"iteration over {steps[0]}"
        return "product" if "mac" in einsum.operations else "between"

    runs: list[list[Einsum]] = []
    for einsum in in_order(cascade):
        if runs and kind(einsum) != "product" and kind(einsum) == kind(runs[-1][-1]):
            runs[-1].append(einsum)
        else:
            runs.append([einsum])
    return tuple(tuple(run) for run in runs)


def in_order(cascade: Cascade) -> list[Einsum]:
    """The Einsums that cost something, in the order of their dependencies."""
    return [e for e in cascade.order if e in computing(cascade)]


def outsides(
    cascade: Cascade, extents: Mapping[str, float], least: float
) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Ranks to be looped over outside of everything, one coordinate after the other: some choices,
    and one that goes furthest.

    Ranks of every input and output always are: nothing is shared along them. Those that share
    little (the batch, where only weights or a table of biases lack it) join one after the other, in
    the order of the cascade; along those of one coordinate or a few there is nothing else to do.
    The choice that goes furthest takes all that are short (the heads of shared keys): least stays
    on chip then, and what they do not move is fetched again. There, the longest rank of an Einsum
    is left to be spread over an array.
    """
    ordered = [e for e in in_order(cascade) if e.ranks]
    ends = [*cascade.inputs, *cascade.outputs]
    reduced = {r for e in ordered for r in e.reduction_ranks}
    free = [r for r in _shareable(cascade) if not cascade.ranks[r].iterative]
    always = [r for r in free if all(r in cascade.tensors[t].ranks for t in ends)]
    rest = [r for r in free if r not in always and r not in reduced]
    common = [r for r in rest if all(r in e.ranks for e in ordered)]
    one = {**extents, **dict.fromkeys(common, 1.0)}  # of each, for looseness not to depend on it
    loose = [r for r in rest if _shares_little(cascade, r, one)]
    if any(set(e.ranks) <= set(always) for e in ordered):  # it would be left without a rank
        always, loose = [], [*always, *loose]
    always += [r for r in loose if extents[r] <= 1]
    some = [r for r in loose if r not in always]
    found = [(*always, *some[:count]) for count in range(len(some) + 1)]
    short = [r for r in common if extents[r] <= least]
    most = [*always, *some, *(r for r in short if r not in loose)]
    while most and any(set(e.ranks) <= set(most) for e in ordered):
        most.remove(max(most, key=lambda r: (r not in always and r not in loose, extents[r])))
    return found, tuple(most)


@lru_cache(maxsize=256)
def _shareable(cascade: Cascade) -> tuple[str, ...]:
    """Ranks over which all Einsums can share a loop, or all that have them if results do."""
    ordered = in_order(cascade)
    ranks = dict.fromkeys(r for e in ordered for r in e.ranks)
    having = {r: [e for e in ordered if r in e.ranks] for r in ranks}
    made = set.intersection(*(set(cascade.tensors[t].ranks) for t in cascade.outputs))
    wanted = [r for r in ranks if r in made or len(having[r]) == len(ordered)]
    return tuple(r for r in wanted if r in _common(cascade, having[r], ()))


def _shares_little(cascade: Cascade, rank: str, extents: Mapping[str, float]) -> bool:
    """Whether a rank moves at least as many words of inputs as it leaves, one coordinate of it."""
    moved, left = 0.0, 0.0
    moving = _moving(cascade, rank)
    for name in cascade.inputs:
        words = 1.0
        for other in cascade.tensors[name].ranks:
            words *= extents[other]
        if name in moving:
            moved += words
        else:
            left += words
    return moved >= left


@lru_cache(maxsize=4096)
def _moving(cascade: Cascade, rank: str) -> frozenset[str]:
    """Inputs that a rank moves from one part to another that shares nothing with it: those that
    have it, and those that a table of data has pointed to for each of its coordinates."""
    found = {name for name in cascade.inputs if rank in cascade.tensors[name].ranks}
    for einsum in computing(cascade):
        for read in reads(cascade, einsum):
            for position in read.scattered:
                if rank.lower() in read.indices[position].variables:
                    found.add(read.tensor)
    return frozenset(found)


def _groups(
    cascade: Cascade,
    einsums: Sequence[Einsum],
    whole: tuple[str, ...],
    extents: Mapping[str, float],
    least: float,
    whole_steps: bool,
) -> list[Group]:
    groups = []
    for run, common in _runs(cascade, einsums, whole):
        iterative = [r for r in common if cascade.ranks[r].iterative]
        free = [r for r in common if r not in iterative]
        if not free and iterative and not whole_steps:
            around = (*whole, iterative[0])
            groups += _groups(cascade, run, around, extents, least, whole_steps)
            continue
        rows = _rows(run, free, extents)
        places = []
        reduced = {r for e in run for r in e.reduction_ranks}
        beside = tuple(r for r in free if r != rows and r not in reduced and len(run) > 1)
        placed = (*whole, rows, *beside) if rows else whole
        for number, (part, left) in enumerate(_runs(cascade, run, placed, innermost=True)):
            stream = _stream(cascade, part, left, extents, least)
            places += [Place(whole, rows, beside, stream, number)] * len(part)
        groups.append(Group(tuple(run), tuple(places)))
    return groups


def _rows(run: Sequence[Einsum], free: Sequence[str], extents: Mapping[str, float]) -> str | None:
    """The longest rank that all share; rather one that no Einsum reduces."""
    kept = [r for r in free if not any(r in e.reduction_ranks for e in run)]
    choice = kept if kept and len(run) == 1 else free
    return max(choice, key=lambda r: (extents[r], r in kept), default=None)


def _stream(
    cascade: Cascade,
    run: Sequence[Einsum],
    left: Sequence[str],
    extents: Mapping[str, float],
    least: float,
) -> str | None:
    for rank in left:
        if cascade.ranks[rank].iterative:
            return rank
    outer = {rank.partition[0] for rank in cascade.ranks.values() if rank.partition}
    long = [r for r in left if extents[r] > least or r in outer]
    kept = [r for r in long if not any(r in e.reduction_ranks for e in run)]
    choice = kept if kept and len(run) == 1 else long
    return max(choice, key=lambda r: extents[r], default=None)


def _runs(
    cascade: Cascade, einsums: Sequence[Einsum], placed: Sequence[str], innermost: bool = False
) -> list[tuple[list[Einsum], list[str]]]:
    """The longest runs of Einsums with a rank in common, and these ranks.

    In the `innermost` runs an iterative rank that some share must stay shared: no loop further in
    could be its own.
    """
    result: list[tuple[list[Einsum], list[str]]] = []
    for einsum in einsums:
        if result:
            run, before = result[-1]
            common = _common(cascade, [*run, einsum], placed)
            steps = {r for r in (*before, *einsum.ranks) if cascade.ranks[r].iterative}
            lost = steps.difference(common, placed)
            if common and not (innermost and lost):
                result[-1] = ([*run, einsum], common)
                continue
        result.append(([einsum], _common(cascade, [einsum], placed)))
    return result


def _common(cascade: Cascade, einsums: Sequence[Einsum], placed: Sequence[str]) -> list[str]:
    """Ranks over which the Einsums can share a loop, given the loops that are placed around."""
    analysis = analysis_of(cascade)
    names = [e.name for e in einsums]
    open_ranks = {r for e in einsums for r in e.ranks if cascade.ranks[r].iterative} - set(placed)
    found = []
    for rank in einsums[0].ranks:
        if rank in placed or not all(rank in e.ranks for e in einsums):
            continue
        if not analysis.fusible(names, rank):
            continue
        if any(exchanges_along(cascade, t, rank) for t in open_ranks if t != rank):
            continue
        found.append(rank)
    return found


__all__ = ["Group", "Place", "grouped", "in_order", "kernels", "outsides"]
