"""A structure with its free numbers: loop nests whose extents lie along axes of choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import compress, product

import numpy as np

from einsum_cascade import Einsum
from mappers.roles import tiles
from mappers.search.axes import Axes, moved
from mappers.search.problem import Problem, is_product, touched
from mappers.search.sizes import nested, tile_sizes
from mappers.search.structures import Structure
from sim import EinsumMapping, Loop
from sim.mapping import Number

_MOST_FREE = 2
"""Of how many products in a phase the own loops may be in any order."""

PARTS = "parts"
"""The choice of the tiles that the cascade itself makes."""

ALONE = "order", "spread"
"""The axes of a nest by itself, behind those of tiles: the order of its own loops, and what is
spread over its array."""


@dataclass(frozen=True)
class Placed:
    """An Einsum with its nest, and how many of its shared loops all of the phase share.

    `plain` is the nest for what goes between memories: the order of its own loops does not matter.
    """

    einsum: Einsum
    nest: EinsumMapping
    plain: EinsumMapping
    run: int
    outer: int


@dataclass(frozen=True)
class Sizes:
    """Coordinates of a rank inside the outer loops, and inside those of a run."""

    outer: Number
    inner: Number


def tile_axes(problem: Problem) -> tuple[str, ...]:
    """The choices of tiles: those of the cascade's own, and the sizes for each rank."""
    return (*([PARTS] if problem.parts else []), *problem.tiled)


def order_of(einsum: str) -> str:
    """The choice of the order of an Einsum's own loops."""
    return f"order {einsum}"


def place_nests(problem: Problem, structure: Structure, axes: Axes) -> list[Placed]:
    """The nests of all Einsums, with all choices picked."""
    sizes, free = place_sizes(problem, structure, axes), free_orders(problem, structure)
    return [
        place_nest(
            problem, structure, at, sizes, axes,
            order_of(einsum.name) if einsum.name in free else None,
            structure.bindings[at].choice,
        )
        for at, einsum in enumerate(structure.einsums)
    ]  # fmt: skip


def free_orders(problem: Problem, structure: Structure) -> frozenset[str]:
    """The Einsums whose own loops may be in several orders."""
    return frozenset(e.name for e in structure.einsums if _leaves_free(problem, structure, e))


def place_sizes(problem: Problem, structure: Structure, axes: Axes) -> dict[str, Sizes]:
    """The sizes of the tiles of all ranks that are shared, each along its axis."""
    if problem.parts and axes.picked is None:
        axes.add(PARTS, np.arange(len(problem.parts)))
    return {r: _sizes(problem, structure, r, axes) for r in _tiled(structure)}


def place_nest(
    problem: Problem,
    structure: Structure,
    number: int,
    sizes: Mapping[str, Sizes],
    axes: Axes,
    order: str | None,
    spread: str | int,
) -> Placed:
    """The nest of one Einsum. With an `order`, its own loops may be in several, along that axis. So
    may be what is spread over the array, along the axis `spread`; or it is the one of that number.
    """
    einsum, at = structure.einsums[number], structure.run[number]
    binding = structure.bindings[number]
    loops: list[Loop] = []
    left: dict[str, Number] = {r: problem.shape[r] for r in einsum.ranks}
    for rank in structure.batch:
        loops.append(Loop(f"{rank}2", rank, left[rank]))
        left[rank] = np.float64(1)
    for rank in structure.outer:
        loops.append(Loop(f"{rank}2", rank, tiles(left[rank], sizes[rank].outer)))
        left[rank] = sizes[rank].outer
    for rank in structure.inner[at]:
        loops.append(Loop(f"{rank}1.{at}", rank, tiles(left[rank], sizes[rank].inner)))
        left[rank] = sizes[rank].inner
    shared = len(loops)
    array = problem.architecture.array(binding.array)
    whole: set[str] = set()
    if isinstance(spread, str):
        chosen = axes.which(spread, len(binding.spreads))
    else:
        chosen = [np.bool_(way == spread) for way in range(len(binding.spreads))]
    spatial = []
    for dimension, side in enumerate(array.shape):
        for rank in dict.fromkeys(r for way in binding.spreads for r in way[dimension:][:1]):
            where = [rank in ranks for ranks in binding.spreads]
            when = reduce(np.logical_or, compress(chosen, where))
            if not np.any(when):
                continue
            times = np.where(when, tiles(left[rank], side), left[rank])
            width = np.where(when, np.ceil(left[rank] / times), 1.0)
            spatial.append(Loop(f"{rank}0", rank, width, True))
            left[rank] = times
            if all(where) and problem.typical(rank) <= side:
                whole.add(rank)
    stepped = {r for r in loops_over(structure, at) if problem.cascade.ranks[r].iterative}
    done = {*structure.batch, *whole, *stepped}
    own = [r for r in einsum.ranks if r not in done and problem.typical(r) > 1]

    def nest_of(choice: str | None) -> EinsumMapping:
        inside = _own_loops(problem, einsum, own, left, choice, axes)
        every = (*loops, *inside, *spatial)
        return EinsumMapping(einsum.name, binding.array, every, shared, issue="pipelined")

    plain = nest_of(None)
    nest = nest_of(order) if order else plain
    return Placed(einsum, nest, plain, at, len(structure.batch) + len(structure.outer))


def along(nest: EinsumMapping, tiles: int, axes: Sequence[int]) -> EinsumMapping:
    """A nest by itself with its axes (behind those of so many `tiles`) where they are among those
    of several nests."""
    loops = (
        Loop(loop.name, loop.rank, moved(loop.extent, tiles, axes), loop.spatial)
        if np.ndim(loop.extent) > tiles
        else loop
        for loop in nest.loops
    )
    return replace(nest, loops=tuple(loops))


def loops_over(structure: Structure, run: int) -> tuple[str, ...]:
    """The ranks of the loops that a run shares."""
    return (*structure.batch, *structure.outer, *structure.inner[run])


def _tiled(structure: Structure) -> list[str]:
    inside = [r for ranks in structure.inner for r in ranks]
    return list(dict.fromkeys((*structure.outer, *inside)))


def _sizes(problem: Problem, structure: Structure, rank: str, axes: Axes) -> Sizes:
    """The sizes of tiles of a rank, along an axis where there is a choice."""
    extent = problem.shape[rank]
    one = np.float64(1)
    if problem.cascade.ranks[rank].iterative:
        return Sizes(one, one)
    if np.ndim(extent) == 0 and not _varies(problem, rank):
        candidates = tile_sizes(int(extent), problem.sides, problem.tiles)
    else:  # it changes with the tiles that the cascade makes: one, a side, or all
        candidates = [1, *problem.sides, 2**60]
    inside = any(rank in ranks for ranks in structure.inner)
    if rank in structure.outer and inside:
        pairs = nested(candidates)
    else:
        pairs = [(c, c) for c in candidates]
    if len(pairs) == 1:
        outer: Number = np.float64(pairs[0][0])
        inner: Number = np.float64(pairs[0][1])
    else:
        outer = axes.add(rank, np.array([p[0] for p in pairs], dtype=np.float64))
        inner = axes.put(rank, np.array([p[1] for p in pairs], dtype=np.float64))
    return Sizes(np.minimum(outer, extent), np.minimum(inner, extent))


def _varies(problem: Problem, rank: str) -> bool:
    """Whether a rank's extent follows from a choice of this search."""
    parent = problem.cascade.ranks[rank].parent
    return bool(problem.parts) and parent is not None


def _leaves_free(problem: Problem, structure: Structure, einsum: Einsum) -> bool:
    """Whether the own loops of an Einsum may be in any order: those of products may, but for what
    an array hands to another one as it is made."""
    if not is_product(einsum):
        return False
    if sum(is_product(e) for e in structure.einsums) > _MOST_FREE:
        return False
    array = {e.name: b.array for e, b in zip(structure.einsums, structure.bindings, strict=True)}
    for reader in problem.cascade.consumers[einsum.output.tensor]:
        there = array.get(reader.name)
        if there not in (None, array[einsum.name]):
            return (array[einsum.name], there) not in problem.architecture.links
    return True


def _own_loops(
    problem: Problem,
    einsum: Einsum,
    own: Sequence[str],
    left: dict[str, Number],
    order: str | None,
    axes: Axes,
) -> list[Loop]:
    """The loops in time of an Einsum alone.

    Which of its tensors stays while the innermost loops run is what their order decides. Several
    orders follow one another in the nest, and at each point all loops but those of one order have
    one iteration.
    """
    iterative = [r for r in own if problem.cascade.ranks[r].iterative]
    rest = [r for r in own if r not in iterative]
    orders = own_orders(problem, einsum, tuple(rest)) if order else [_results_last(einsum, rest)]
    first = [Loop(f"{r}t", r, left[r]) for r in iterative]
    if order is None or len(orders) == 1:
        return [*first, *(Loop(f"{r}t", r, left[r]) for r in orders[0])]
    loops = []
    which = axes.which(order, len(orders))
    for number, (ranks, when) in enumerate(zip(orders, which, strict=True)):
        name = "t" if number == 0 else f"t{number}"
        loops += [Loop(f"{r}{name}", r, np.where(when, left[r], 1.0)) for r in ranks]
    return [*first, *loops]


def _results_last(einsum: Einsum, ranks: Sequence[str]) -> tuple[str, ...]:
    """Sums are finished one after the other."""
    return tuple(sorted(ranks, key=lambda r: r in einsum.reduction_ranks))


def own_orders(problem: Problem, einsum: Einsum, ranks: tuple[str, ...]) -> list[tuple[str, ...]]:
    """One order for each tensor that could stay in place: the loops that do not move it innermost.

    Orders that treat every tensor alike are one.
    """
    uses = touched(problem.cascade, einsum.name)
    found: dict[object, tuple[str, ...]] = {}
    for held in (uses[-1], *uses[:-1]):
        order = tuple(sorted(ranks, key=lambda r: r not in held.ranks))
        counted = []
        for use in uses:
            last = max((i for i, r in enumerate(order) if r in use.ranks), default=-1)
            counted.append(frozenset(order[: last + 1]))
        found.setdefault(tuple(counted), order)
    return list(found.values())


def depth_choices(
    ranks: frozenset[str], loops: Sequence[Loop], windows: bool, parting: int | None = None
) -> list[int]:
    """Depths at which a tile of a tensor may be kept, of those that differ in cost.

    Right inside of a loop that does not move it, a tile is the same as outside. Where all loops
    further out move it, so does going one deeper at the same traffic, for less room; but not where
    runs that read it are `parting`: what they share outside, each moves by itself further in.
    """
    found = []
    for depth in range(len(loops) + 1):
        if depth and loops[depth - 1].rank not in ranks:
            continue
        outer = all(loop.rank in ranks for loop in loops[:depth])
        deeper = depth < len(loops) and loops[depth].rank in ranks
        if outer and deeper and not windows and depth != parting:
            continue
        found.append(depth)
    return found


def levels(depths: Sequence[int], memories: int) -> list[tuple[int | None, ...]]:
    """A depth or none for each memory, not further out in a memory that is further in."""
    found = []
    for choice in product((None, *depths), repeat=memories):
        given = [d for d in choice if d is not None]
        if given == sorted(given):
            found.append(choice)
    return found


__all__ = [
    "ALONE",
    "PARTS",
    "Placed",
    "Sizes",
    "along",
    "depth_choices",
    "free_orders",
    "levels",
    "order_of",
    "own_orders",
    "place_nest",
    "place_nests",
    "place_sizes",
    "tile_axes",
]
