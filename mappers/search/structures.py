"""Everything about a phase that is no number: loops in their order, arrays, spatial ranks.

A phase is a tree of loops of two levels. Its `outer` loops are shared by all its Einsums; these
fall into runs that follow one another, each with `inner` loops of its own around all of it; what is
left of the ranks is in each Einsum's own nest, in time and over the array.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import NamedTuple

from einsum_cascade import Einsum
from mappers.search.problem import Problem, common_ranks, is_product, touched
from mappers.search.recompute import kept_rank
from sim.legality import exchanges_along


class Binding(NamedTuple):
    """The array of an Einsum and the ranks that are spread over it, one a dimension."""

    array: str
    spatial: tuple[str, ...]


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
    def words(self) -> str:
        """The structure in a line."""
        names = [e.name for e in self.einsums]
        text = f"{names[0]}..{names[-1]}" if len(names) > 1 else names[0]
        loops = [*self.batch, *self.outer]
        inside = " | ".join(" ".join(ranks) or "-" for ranks in self.inner)
        where: dict[str, list[str]] = {}
        for e, b in zip(names, self.bindings, strict=True):
            where.setdefault(f"{b.array}({','.join(b.spatial)})", []).append(e)
        bound = "; ".join(f"{' '.join(es)} on {array}" for array, es in where.items())
        return f"{text} over {' '.join(loops) or '-'} [{inside}]: {bound}"


def structures(problem: Problem, einsums: tuple[Einsum, ...]) -> Iterator[Structure]:
    """The structures of a phase of these Einsums."""
    names = tuple(e.name for e in einsums)
    shared = common_ranks(problem.cascade, names)
    for lanes in _lanes(problem, einsums, shared):
        batch = tuple(r for r in shared if r != lanes and _is_batch(problem, einsums, r))
        trees = list(dict.fromkeys(_trees(problem, einsums, shared, batch)))
        for run, outer, inner in trees:
            for bindings in _bindings(problem, einsums, lanes, batch, outer, run, inner):
                yield Structure(einsums, batch, outer, inner, run, bindings)


_Tree = tuple[tuple[int, ...], tuple[str, ...], tuple[tuple[str, ...], ...]]


def _trees(
    problem: Problem, einsums: tuple[Einsum, ...], shared: Sequence[str], batch: Sequence[str]
) -> Iterator[_Tree]:
    """Ways to divide a phase into runs, with the order of all shared loops."""
    cascade = problem.cascade
    free = [r for r in shared if r not in batch and _is_long(problem, r)]
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
            ranks = [r for r in common if r not in batch and _is_long(problem, r)]
            if len(part) == 1:
                kept = set(part[0].reduction_ranks) & set(ranks)
                ranks = [r for r in ranks if is_product(part[0]) and r not in kept]
            inside.append(list(_orders(problem, part, ranks)))
        around: list[tuple[str, ...]] = list(_orders(problem, einsums, free))
        if count == 1:  # one loop outside of a full order is enough
            around = [(r,) for r in free if not cascade.ranks[r].iterative] or [()]
        for outer in around:
            wanted = [
                [o for o in orders if not (o and outer and o[0] == outer[-1])] or [()]
                for orders in inside
            ]
            for inner in product(*wanted):
                yield run, outer, inner


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
                r for r in common if r not in batch and (_is_long(problem, r) or len(einsums) == 1)
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
    streamed = [r for r in streamed if _is_long(problem, r)]
    return not streamed or any(r in inside for r in streamed)


def _orders(
    problem: Problem, einsums: Sequence[Einsum], ranks: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    """Orders of loops. What is iterated lies outside of all along which its steps exchange."""
    cascade = problem.cascade
    for order in permutations(ranks):
        ok = True
        for at, rank in enumerate(order):
            if cascade.ranks[rank].iterative:
                ok = ok and not any(exchanges_along(cascade, rank, r) for r in order[:at])
        if ok:
            yield order


def _is_long(problem: Problem, rank: str) -> bool:
    return problem.typical(rank) > 1


def _is_batch(problem: Problem, einsums: Sequence[Einsum], rank: str) -> bool:
    """Whether a rank moves every tensor of the phase: then nothing is shared along it, and no loop
    order, tile or memory can make a use of two of its coordinates at once."""
    if problem.cascade.ranks[rank].iterative:
        return False
    for einsum in einsums:
        for use in touched(problem.cascade, einsum.name):
            if rank not in use.ranks or any(rank in w.ranks for w in use.windows):
                return False
    return True


def _lanes(problem: Problem, einsums: Sequence[Einsum], shared: Sequence[str]) -> list[str | None]:
    """The rank that lies along the lanes of all arrays, in Einsums that have it: the longest shared
    one that is not reduced, and each other one where that is shorter than an array."""
    reduced = {r for e in einsums for r in e.reduction_ranks}
    free = [r for r in shared if r not in reduced and not problem.cascade.ranks[r].iterative]
    free = [r for r in free if _is_long(problem, r)]
    if not free:
        return [None]
    longest = max(free, key=problem.typical)
    if problem.typical(longest) >= min(problem.sides[-1], 32):
        return [longest]
    return list(free)


def _bindings(
    problem: Problem,
    einsums: tuple[Einsum, ...],
    lanes: str | None,
    batch: Sequence[str],
    outer: Sequence[str],
    run: Sequence[int],
    inner: Sequence[Sequence[str]],
) -> Iterator[tuple[Binding, ...]]:
    """Arrays and spatial ranks of all Einsums; those that are alike go to one array together."""
    classes: dict[object, list[Einsum]] = {}
    spread: dict[str, list[str]] = {}
    for einsum, at in zip(einsums, run, strict=True):
        placed = (*batch, *outer, *inner[at])
        own = frozenset(r for r in einsum.ranks if r not in placed and r != lanes)
        spread[einsum.name] = _spreadable(problem, einsum, batch, placed)
        key: object = einsum.name if is_product(einsum) else own
        classes.setdefault(key, []).append(einsum)
    done = set()
    rows = any(kept_rank(problem.cascade, e.output.tensor) is not None for e in einsums)
    for fiber in (False, True) if rows else (False,):
        options = []
        for members in classes.values():
            arrays = [problem.arrays_for(e) for e in members]
            common = [a.name for a in arrays[0] if all(a in own for own in arrays)]
            ways: list[tuple[Binding, ...]] = []
            for name in common:
                each = [
                    _spatial(problem, e, name, spread[e.name], lanes, fiber, len(einsums) == 1)
                    for e in members
                ]
                ways += product(*each)
            if not common:  # each where it can be
                each = [
                    [
                        b
                        for a in own
                        for b in _spatial(problem, e, a.name, spread[e.name], lanes, fiber, False)
                    ][:1]
                    for e, own in zip(members, arrays, strict=True)
                ]
                ways += product(*each)
            options.append([dict(zip([e.name for e in members], w, strict=True)) for w in ways])
        for chosen in product(*options):
            every = {name: binding for part in chosen for name, binding in part.items()}
            found = tuple(every[e.name] for e in einsums)
            if found not in done:
                done.add(found)
                yield found


def _spreadable(
    problem: Problem, einsum: Einsum, batch: Sequence[str], placed: Sequence[str]
) -> list[str]:
    """Ranks of which an Einsum may spread several coordinates, those of its own nest first.

    Tiles that follow one another are not, where there is anything else.
    """
    cascade = problem.cascade
    ranks = [
        r
        for r in einsum.ranks
        if r not in batch and _is_long(problem, r) and not cascade.ranks[r].iterative
    ]
    inner = [r for r in ranks if not cascade.inner_to(r)]
    ranks = inner or ranks
    return sorted(ranks, key=lambda r: (r in placed, -problem.typical(r)))


def _spatial(
    problem: Problem,
    einsum: Einsum,
    name: str,
    ranks: list[str],
    lanes: str | None,
    fiber: bool,
    alone: bool,
) -> list[Binding]:
    """What may be spread over an array."""
    array = problem.architecture.array(name)
    every = problem.arrays_for(einsum)
    rows = lanes if lanes in ranks else None
    others = [r for r in ranks if r != rows]
    if len(array.shape) == 1:
        if is_product(einsum) and any(len(a.shape) > 1 for a in every):
            return []  # a product is on an array of two dimensions where there is one
        mine = (rows,) if rows is not None else ()
        own = tuple(others[:1])
        return [Binding(name, own or mine if fiber else mine or own)]
    if is_product(einsum) and alone:
        square = bool(array.shape[0] == array.shape[1])
        pairs = [p for p in permutations(ranks, 2) if not square or _first(ranks, p)]
        return [Binding(name, pair) for pair in pairs] or [Binding(name, tuple(ranks))]
    if is_product(einsum) and rows is not None:
        return [Binding(name, (r, rows)) for r in others] or [Binding(name, (rows,))]
    if rows is not None and others:
        return [Binding(name, (others[0], rows))]
    if any(len(a.shape) == 1 for a in every):
        return []  # one rank would use one row of the array
    return [Binding(name, tuple(ranks[:2]))]


def _first(ranks: list[str], pair: tuple[str, ...]) -> bool:
    return ranks.index(pair[0]) < ranks.index(pair[1])


__all__ = ["Binding", "Structure", "structures"]
