"""Which Einsums run together: groups that share loops, worked out from the passes of a cascade.

A group is a run of Einsums, in the order of their dependencies, that have a rank in common along
which all of them are in one pass. Inside of it the same is asked again for the ranks that are left.
An iterative rank is looped over in order, outside of every rank along which its steps exchange
values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from einsum_cascade import Cascade, Einsum
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
    cascade: Cascade, extents: Mapping[str, float], least: float, outside: bool = False
) -> tuple[Group, ...]:
    """The groups of a cascade. `extents` are typical extents, to prefer long ranks as rows.

    A rank shorter than `least` is not worth a loop that streams it. `outside` as in `batch_of`.
    """
    ordered = [e for e in cascade.order if e in computing(cascade)]
    batch = batch_of(cascade, ordered, extents, least, outside)
    return tuple(_groups(cascade, ordered, batch, extents, least))


def kernels(
    cascade: Cascade, extents: Mapping[str, float], least: float, outside: bool = False
) -> tuple[Group, ...]:
    """Each product by itself, and what stands between two of them together.

    Einsums of an iteration are one kernel: they exchange values at every step.
    """
    ordered = [e for e in cascade.order if e in computing(cascade)]
    batch = batch_of(cascade, ordered, extents, least, outside)

    def kind(einsum: Einsum) -> str:
        steps = [r for r in einsum.ranks if cascade.ranks[r].iterative]
        if steps:
            return f"iteration over {steps[0]}"
        return "product" if "mac" in einsum.operations else "between"

    runs: list[list[Einsum]] = []
    for einsum in ordered:
        if runs and kind(einsum) != "product" and kind(einsum) == kind(runs[-1][-1]):
            runs[-1].append(einsum)
        else:
            runs.append([einsum])
    result: list[Group] = []
    for run in runs:
        whole = tuple(r for r in batch if all(r in e.ranks for e in run))
        result += _groups(cascade, run, whole, extents, least)
    return tuple(result)


def batch_of(
    cascade: Cascade,
    einsums: Sequence[Einsum],
    extents: Mapping[str, float],
    least: float,
    outside: bool,
) -> tuple[str, ...]:
    """Ranks that every Einsum has, to be looped over outside of everything.

    Those that every input and output has, for nothing is shared along them; `outside`, also short
    ones that some lack (the heads of shared keys, the batch of weights): less stays on chip then,
    and what they do not move is fetched again. Not all ranks of an Einsum, though: the longest is
    left to be spread over an array.
    """
    ends = [*cascade.inputs, *cascade.outputs]
    reduced = {r for e in einsums for r in e.reduction_ranks}
    common = [r for r in _common(cascade, einsums, ()) if not cascade.ranks[r].iterative]
    batch = [
        r
        for r in common
        if all(r in cascade.tensors[t].ranks for t in ends)
        or (outside and r not in reduced and extents[r] <= least)
    ]
    while batch and any(set(e.ranks) <= set(batch) for e in einsums):
        batch.remove(max(batch, key=lambda r: extents[r]))
    return tuple(batch)


def _groups(
    cascade: Cascade,
    einsums: Sequence[Einsum],
    whole: tuple[str, ...],
    extents: Mapping[str, float],
    least: float,
) -> list[Group]:
    groups = []
    for run, common in _runs(cascade, einsums, whole):
        iterative = [r for r in common if cascade.ranks[r].iterative]
        free = [r for r in common if r not in iterative]
        if not free and iterative:
            around = (*whole, iterative[0])
            groups += _groups(cascade, run, around, extents, least)
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


__all__ = ["Group", "Place", "batch_of", "grouped", "kernels"]
