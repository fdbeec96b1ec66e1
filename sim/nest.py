"""Reuse in a loop nest: how large a tile is, how often it is fetched, how often it is written.

The rule is Timeloop's: a tile stays while only loops change that its tensor does not depend on,
counted from the tile outwards up to the first loop that it does depend on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sim.mapping import Loop, Number


@dataclass(frozen=True)
class Visits:
    """Fetches of a tile, or departures of a tile of results.

    `words` in one tile, `count` times it comes or goes, of `distinct` tiles. More visits than
    distinct tiles of results means that partial results come back to be accumulated. The first
    `depth` loops are those whose iterations bring a tile; `trips` are how many of each bring one.
    """

    words: Number
    count: Number
    distinct: Number
    depth: int = 0
    trips: tuple[Number, ...] = ()

    @cached_property
    def accumulates(self) -> Number:
        """Where results come back: a mask."""
        return self.count > self.distinct


def product(loops: Sequence[Loop], ranks: frozenset[str] | None = None) -> Number:
    """Product of the extents of the loops over `ranks` (of all loops when None)."""
    return _product(
        (loop.rank, loop.extent) for loop in loops if ranks is None or loop.rank in ranks
    )


def _product(extents: Iterable[tuple[str, Number]]) -> Number:
    """Rank by rank: what varies along different axes meets as late as can be."""
    by_rank: dict[str, Number] = {}
    for rank, extent in extents:
        by_rank[rank] = by_rank[rank] * extent if rank in by_rank else extent
    result: Number = 1.0
    for extent in by_rank.values():
        result = result * extent
    return result


def visits(
    loops: Sequence[Loop], ranks: frozenset[str], position: int, retain: bool = True
) -> Visits:
    """How a tile of a tensor over `ranks`, kept inside `loops[position:]`, comes and goes.

    >>> nest = [Loop("M1", "M", 4.0), Loop("P1", "P", 8.0), Loop("M0", "M", 256.0)]
    >>> v = visits(nest, frozenset("M"), 1)      # K below M1: stays while P1 runs inside
    >>> float(v.words), float(v.count)
    (256.0, 4.0)
    >>> float(visits(nest, frozenset("M"), 2, retain=False).count)    # streamed for every P1
    32.0
    """
    untouched: Number = retain
    depth = 0 if retain is True else position
    trips: list[Number] = []
    for at in range(position, 0, -1):
        loop = loops[at - 1]
        trip: Number = 1.0
        if loop.rank in ranks:
            depth = max(depth, at)
            trip = loop.extent
            untouched = untouched & (loop.extent == 1)
        elif untouched is not True:
            trip = np.where(untouched, 1.0, loop.extent)
        trips.insert(0, trip)
    outer = loops[:position]
    count = _product((loop.rank, trip) for loop, trip in zip(outer, trips, strict=True))
    words = product(loops[position:], ranks)
    return Visits(words, count, product(outer, ranks), depth, tuple(trips))
