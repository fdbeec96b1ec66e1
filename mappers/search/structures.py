"""Everything about a phase that is no number: loops in their order, arrays, spatial ranks.

A phase is a tree of loops of two levels. Its `outer` loops are shared by all its Einsums; these
fall into runs that follow one another, each with `inner` loops of its own around all of it; what is
left of the ranks is in each Einsum's own nest, in time and over the array.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from math import prod

from einsum_cascade import Einsum
from mappers.search.bindings import Binding, bindings, spreadable
from mappers.search.problem import Problem, common_ranks, is_product, touched
from sim.legality import exchanges_along

_MOST_PERMUTED = 3
"""So many loops, or groups of loops, may be in any order."""

_MOST_ORDERS = 64
"""So many ways to order the loops of all runs are looked at, each with each."""

_MOST_STRUCTURES = 1 << 15
"""From so many structures of a cascade on, fewer ways to bind its Einsums are looked at: each phase
has an equal share of them."""


@dataclass(frozen=True)
class Structure:
    """A phase but for its numbers. `run` says to which run an Einsum belongs."""

    einsums: tuple[Einsum, ...]
    batch: tuple[str, ...]
    outer: tuple[str, ...]
    inner: tuple[tuple[str, ...], ...]
    run: tuple[int, ...]
    bindings: tuple[Binding, ...]

    @property
    def spreads(self) -> dict[str, int]:
        """Between how many ways to spread Einsums each choice is."""
        return {b.choice: len(b.spreads) for b in self.bindings if b.choice}

    def words(self, picked: Mapping[str, int]) -> str:
        """The structure in a line, with some choices picked."""
        names = [e.name for e in self.einsums]
        text = f"{names[0]}..{names[-1]}" if len(names) > 1 else names[0]
        loops = [*self.batch, *self.outer]
        inside = " | ".join(" ".join(ranks) or "-" for ranks in self.inner)
        where: dict[str, list[str]] = {}
        for e, b in zip(names, self.bindings, strict=True):
            spatial = b.spreads[picked.get(b.choice, 0)]
            where.setdefault(f"{b.array}({','.join(spatial)})", []).append(e)
        bound = "; ".join(f"{' '.join(es)} on {array}" for array, es in where.items())
        return f"{text} over {' '.join(loops) or '-'} [{inside}]: {bound}"


def structures(problem: Problem, einsums: tuple[Einsum, ...]) -> Iterator[Structure]:
    """The structures of a phase of these Einsums."""
    names = tuple(e.name for e in einsums)
    shared = common_ranks(problem.cascade, names)
    along = list(_parallel(problem, einsums, shared))
    for lanes, batch in along:
        trees = list(dict.fromkeys(_trees(problem, einsums, shared, batch)))
        share = problem.runs * len(along) * max(1, len(trees))
        most = problem.structures // share, _MOST_STRUCTURES // share
        for run, outer, inner in trees:
            for bound in bindings(problem, einsums, lanes, batch, outer, run, inner, most):
                yield Structure(einsums, batch, outer, inner, run, bound)


def _parallel(
    problem: Problem, einsums: Sequence[Einsum], shared: Sequence[str]
) -> Iterator[tuple[str | None, tuple[str, ...]]]:
    """The rank along the lanes, with the batch ranks that lie outside of everything.

    Where no Einsum has another rank for the second dimension of an array, the longest of the batch
    ranks may be that.
    """
    wide = any(len(a.shape) > 1 for e in einsums for a in problem.arrays_for(e))
    for lanes in _lanes(problem, einsums, shared):
        batch = tuple(r for r in shared if r != lanes and _is_batch(problem, einsums, r))
        yield lanes, batch
        long = [r for r in batch if problem.is_long(r)]
        left = {r for e in einsums for r in spreadable(problem, e, batch, ()) if r != lanes}
        if wide and long and not left:
            spread = max(long, key=problem.typical)
            yield lanes, tuple(r for r in batch if r != spread)


_Tree = tuple[tuple[int, ...], tuple[str, ...], tuple[tuple[str, ...], ...]]


def _trees(
    problem: Problem, einsums: tuple[Einsum, ...], shared: Sequence[str], batch: Sequence[str]
) -> Iterator[_Tree]:
    """Ways to divide a phase into runs, with the order of all shared loops."""
    cascade = problem.cascade
    free = [r for r in shared if r not in batch and problem.is_long(r)]
    if len(einsums) == 1:
        for order in _orders(problem, einsums, free):
            yield (0,), (), (order,)
        return
    for run in _divisions(problem, einsums, batch):
        count = run[-1] + 1
        members = [
            tuple(e for e, at in zip(einsums, run, strict=True) if at == i) for i in range(count)
        ]
        inside = []
        for part in members:
            common = common_ranks(cascade, tuple(e.name for e in part))
            ranks = [r for r in common if r not in batch and problem.is_long(r)]
            if len(part) == 1:
                kept = set(part[0].reduction_ranks) & set(ranks)
                ranks = [r for r in ranks if is_product(part[0]) and r not in kept]
            inside.append(list(_orders(problem, part, ranks)))
        around: list[tuple[str, ...]] = list(_orders(problem, einsums, free))
        if count == 1:  # one loop outside of a full order is enough
            around = [(r,) for r in free if not cascade.ranks[r].iterative] or [()]
        for outer in around:
            wanted = []
            for orders in inside:  # two loops over the same ranks in a row are one
                cut = [o[_repeated(outer, o) :] for o in orders]
                fresh = [o for o, left in zip(orders, cut, strict=True) if len(o) == len(left)]
                wanted.append(fresh or list(dict.fromkeys(cut)))
            for inner in _combined(wanted):
                if all(_follow(problem, (*outer, *ranks)) for ranks in inner):
                    yield run, outer, inner


def _repeated(outer: Sequence[str], inner: Sequence[str]) -> int:
    """How many of the first inner loops are over the same ranks as the last outer ones."""
    most = min(len(outer), len(inner))
    return next((k for k in range(most, 0, -1) if {*outer[-k:]} == {*inner[:k]}), 0)


def _combined(orders: Sequence[Sequence[tuple[str, ...]]]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """An order for each run: all combinations, or of too many those that follow one run's order as
    far as they have its ranks."""
    if prod(map(len, orders)) <= _MOST_ORDERS:
        yield from product(*orders)
        return
    found: dict[tuple[tuple[str, ...], ...], None] = {}
    for lead in dict.fromkeys(order for some in orders for order in some):
        place = {rank: at for at, rank in enumerate(lead)}
        nearest = [min(o, key=lambda o: [place.get(r, len(place)) for r in o]) for o in orders]
        found[tuple(nearest)] = None
    yield from found


def _divisions(
    problem: Problem, einsums: tuple[Einsum, ...], batch: Sequence[str]
) -> list[tuple[int, ...]]:
    """Runs as long as their Einsums have a loop to share; and products by themselves."""
    found = []
    steps = any(problem.cascade.ranks[r].iterative for e in einsums for r in e.ranks)
    for apart in (False,) if steps else (False, True):
        run: list[int] = []
        members: list[str] = []
        for einsum in einsums:
            together = [*members, einsum.name]
            common = common_ranks(problem.cascade, tuple(together))
            lost = {
                r
                for name in together
                for r in problem.cascade.einsum(name).ranks
                if problem.cascade.ranks[r].iterative and r not in common
            }
            inside = [
                r for r in common if r not in batch and (problem.is_long(r) or len(einsums) == 1)
            ]
            streams = not members or _streams(problem, members, together, inside)
            alone = apart and (
                is_product(einsum)
                or (bool(members) and is_product(problem.cascade.einsum(members[-1])))
            )
            again = problem.copies & {einsum.name} and not problem.copies & set(members[-1:])
            if members and (lost or not inside or not streams or alone or again):
                run.append(run[-1] + 1)
                members = [einsum.name]
            else:
                run.append(run[-1] if run else 0)
                members = together
        found.append(tuple(run))
    return list(dict.fromkeys(found))


def _streams(problem: Problem, before: list[str], now: list[str], inside: list[str]) -> bool:
    """Whether a further Einsum leaves a run the reduced or iterative rank that it streams."""
    cascade = problem.cascade
    common = common_ranks(cascade, tuple(before))
    reduced = {r for name in now for r in cascade.einsum(name).reduction_ranks}
    streamed = [r for r in common if (r in reduced or cascade.ranks[r].iterative)]
    streamed = [r for r in streamed if problem.is_long(r)]
    return not streamed or any(r in inside for r in streamed)


def _orders(
    problem: Problem, einsums: Sequence[Einsum], ranks: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    """Orders of loops. Ranks that move the same tensors stand together, those that move all of them
    outermost; of more than a few such groups those that leave the fewest words in place are further
    out, in one order. What is iterated lies outside of all along which its steps exchange.
    """
    cascade = problem.cascade
    steps = [r for r in ranks if cascade.ranks[r].iterative]
    alike: dict[object, list[str]] = {}
    bound: list[tuple[str, ...]] = []
    for rank in ranks:
        if rank in steps or any(exchanges_along(cascade, t, rank) for t in steps):
            bound.append((rank,))
        else:
            alike.setdefault(_moved(problem, einsums, rank), []).append(rank)
    groups = [tuple(group) for group in alike.values()]
    batch = [group for group in groups if _is_batch(problem, einsums, group[0])]
    others = [group for group in groups if group not in batch]
    others.sort(key=lambda group: _words_in_place(problem, einsums, group[0]))
    fixed = max(0, len(others) + len(bound) - _MOST_PERMUTED)
    first = [*batch, *others[:fixed]]
    for some in permutations([*bound, *others[fixed:]]):
        order = tuple(rank for group in (*first, *some) for rank in group)
        if _follow(problem, order):
            yield order


def _follow(problem: Problem, order: Sequence[str]) -> bool:
    """Whether no iterated rank is inside of one along which its steps exchange values."""
    cascade = problem.cascade
    steps = [(at, rank) for at, rank in enumerate(order) if cascade.ranks[rank].iterative]
    return not any(exchanges_along(cascade, t, r) for at, t in steps for r in order[:at])


def _moved(problem: Problem, einsums: Sequence[Einsum], rank: str) -> object:
    """The same for ranks that move the same tensors of some Einsums; not where one is in a window,
    whose tiles overlap along it."""
    uses = [u for e in einsums for u in touched(problem.cascade, e.name)]
    slides = any(rank in window.ranks for use in uses for window in use.windows)
    return tuple(rank in use.ranks for use in uses), rank if slides else None


def _words_in_place(problem: Problem, einsums: Sequence[Einsum], rank: str) -> float:
    """Words of all tensors that a rank does not move."""
    tensors = {u.tensor: u.ranks for e in einsums for u in touched(problem.cascade, e.name)}
    sizes = [prod(map(problem.typical, own)) for own in tensors.values() if rank not in own]
    return float(sum(sizes))


def _is_batch(problem: Problem, einsums: Sequence[Einsum], rank: str) -> bool:
    """Whether a rank moves every tensor of the phase: then nothing is shared along it, and no loop
    order, tile or memory can make a use of two of its coordinates at once. Not where steps of an
    iteration exchange values along it: it lies inside of that."""
    steps = {r for e in einsums for r in e.ranks if problem.cascade.ranks[r].iterative}
    if rank in steps or any(exchanges_along(problem.cascade, t, rank) for t in steps):
        return False
    for einsum in einsums:
        for use in touched(problem.cascade, einsum.name):
            if rank not in use.ranks or any(rank in w.ranks for w in use.windows):
                return False
    return True


def _lanes(problem: Problem, einsums: Sequence[Einsum], shared: Sequence[str]) -> list[str | None]:
    """The rank that lies along the lanes of all arrays, in Einsums that have it: the longest shared
    one that is not reduced, and each other one, or none, where that is shorter than an array."""
    reduced = {r for e in einsums for r in e.reduction_ranks}
    free = [r for r in shared if r not in reduced and not problem.cascade.ranks[r].iterative]
    free = [r for r in free if problem.is_long(r)]
    if not free:
        return [None]
    longest = max(free, key=problem.typical)
    if problem.typical(longest) >= min(problem.sides[-1], 32):
        return [longest]
    return [*free, None]


__all__ = ["Structure", "structures"]
