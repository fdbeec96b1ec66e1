"""Loop nests of structures, each made once for all structures that have it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from einsum_cascade import Einsum
from mappers.search.axes import Axes
from mappers.search.nests import (
    ALONE,
    Placed,
    Sizes,
    along,
    free_orders,
    order_of,
    place_nest,
    place_sizes,
    tile_axes,
)
from mappers.search.problem import Problem
from mappers.search.structures import Structure
from sim import EinsumMapping
from sim.mapping import Mask


@dataclass(frozen=True, eq=False)
class Nest:
    """A nest along axes of its own (`nests.ALONE`), of so many entries (`counts`), and the choices
    that these are in a structure; the empty name where there is none.

    Nests that are alike but for names have the same `number`; where only what goes between memories
    matters, the same `plain` one. So have Einsums with the same loops around them (`around`). What
    lives on of a result (a running state) tells no nests apart: own loops have no iterated rank.
    """

    placed: Placed
    choices: tuple[str, str]
    counts: tuple[int, int]
    number: int
    plain: int
    around: int


class Placing:
    """All nests that have been placed, by what they depend on.

    The problems are those of one cascade and its rewrites, at one shape and on one architecture.
    """

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}
        self._signatures: dict[tuple[Problem, str], int] = {}
        self._sizes: dict[object, tuple[dict[str, Sizes], dict[str, int]]] = {}
        self._placed: dict[tuple[str, int, int], tuple[Placed, tuple[int, int]]] = {}
        self._along: dict[object, EinsumMapping] = {}

    def forget(self) -> None:
        """Keep no nest; numbers stay what they are."""
        self._placed.clear()
        self._along.clear()

    def tiles(self, problem: Problem, structure: Structure) -> dict[str, int]:
        """The choices of sizes of tiles, with how many there are of each."""
        return self._sized(problem, structure)[1]

    def nests(self, problem: Problem, structure: Structure) -> list[Nest]:
        """The nests of a structure."""
        shared, tiles = self._sized(problem, structure)
        free = free_orders(problem, structure)
        found = []
        for at, einsum in enumerate(structure.einsums):
            run, binding = structure.run[at], structure.bindings[at]
            signature = self._signature(problem, einsum)
            loops = structure.batch, structure.outer, structure.inner[run]
            sizes = tuple(tiles.get(rank, 1) for rank in einsum.ranks)
            number, plain = (
                self._number((signature, binding.array, binding.spreads, loops, sizes, order))
                for order in (einsum.name in free, False)
            )
            key = einsum.name, number, run
            if key not in self._placed:
                axes = Axes(None, {**tiles, **dict.fromkeys(ALONE, 1)})
                order = ALONE[0] if einsum.name in free else None
                placed = place_nest(problem, structure, at, shared, axes, order, ALONE[1])
                self._placed[key] = placed, (axes.sizes[ALONE[0]], axes.sizes[ALONE[1]])
            placed, counts = self._placed[key]
            choices = (
                order_of(einsum.name) if counts[0] > 1 else "",
                binding.choice if counts[1] > 1 else "",
            )
            around = self._number((signature, *loops))
            found.append(Nest(placed, choices, counts, number, plain, around))
        return found

    def spread(
        self, problem: Problem, structure: Structure, at: int, nest: Nest
    ) -> Iterator[tuple[Mask, EinsumMapping]]:
        """The nest of an Einsum for each way to spread it, and where (along its own axes) it is."""
        shared, tiles = self._sized(problem, structure)
        axes = Axes(None, {**tiles, **dict.fromkeys(ALONE, 1)})
        ways = axes.which(ALONE[1], len(structure.bindings[at].spreads))
        if len(ways) == 1:
            yield ways[0], nest.placed.plain
            return
        for number, when in enumerate(ways):
            yield when, place_nest(problem, structure, at, shared, axes, None, number).plain

    def along(self, nest: Nest, choices: Sequence[str], tiles: int, plain: bool) -> Placed:
        """A nest (or the `plain` one) along the axes of some choices, behind so many of tiles."""
        places = tuple(choices.index(name) if name in choices else 0 for name in nest.choices)
        number = nest.plain if plain else nest.number
        key = nest.placed.einsum.name, number, nest.placed.run, places
        if key not in self._along:
            own = nest.placed.plain if plain else nest.placed.nest
            self._along[key] = along(own, tiles, places)
        return replace(nest.placed, nest=self._along[key])

    def _sized(
        self, problem: Problem, structure: Structure
    ) -> tuple[dict[str, Sizes], dict[str, int]]:
        loops = structure.outer, structure.inner
        if loops not in self._sizes:
            axes = Axes(None, dict.fromkeys(tile_axes(problem), 1))
            self._sizes[loops] = place_sizes(problem, structure, axes), axes.sizes
        return self._sizes[loops]

    def _number(self, what: object) -> int:
        """The same number for what is equal."""
        return self._numbers.setdefault(what, len(self._numbers))

    def _signature(self, problem: Problem, einsum: Einsum) -> int:
        """The same number for Einsums that are alike but for their names."""
        key = problem, einsum.name
        if key not in self._signatures:
            alike = replace(einsum, name="", output=replace(einsum.output, tensor=""))
            self._signatures[key] = self._number(alike)
        return self._signatures[key]


__all__ = ["Nest", "Placing"]
