"""How many cycles a value is on its way from the array that made it to where it is used.

Times are told in the frame of PE (0,0), or lane 0: PE (r,c) does everything r + c cycles later,
lane c of a 1D array c cycles later, so what stays in its column needs no more than the hops down to
its foot. Lanes that a tree joins cannot be skewed: they run in step, and wait for the last column.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, log2

from archs import Architecture
from einsum_cascade import Cascade
from einsum_cascade.views import reads
from sim.mapping import EinsumMapping

Spread = tuple[str, int] | None
"""The rank that a dimension of an array goes over, and how many PEs of it."""


@dataclass(frozen=True)
class Place:
    """How an Einsum lies on its array: `sides` of the array, ranks down and across it."""

    array: str
    sides: tuple[int, ...]
    down: Spread
    across: Spread
    sums_down: bool
    sums_across: bool


def place_of(cascade: Cascade, architecture: Architecture, nest: EinsumMapping) -> Place:
    """The place of a nest of a single design point."""
    array = architecture.array(nest.array)
    spatial: list[Spread] = [(lp.rank, int(lp.extent)) for lp in nest.spatial]
    missing: list[Spread] = [None] * (len(array.shape) - len(spatial))
    spread = spatial + missing
    down, across = (spread[0], spread[1]) if len(array.shape) == 2 else (None, spread[0])
    summed = cascade.einsum(nest.einsum).reduction_ranks
    sides = tuple(int(side) for side in array.shape)

    def sums(over: Spread) -> bool:
        return over is not None and over[0] in summed and over[1] > 1

    return Place(nest.array, sides, down, across, sums(down), sums(across))


def lanes_in_step(places: Mapping[str, Place], passed: Iterable[tuple[str, str]]) -> set[str]:
    """The 1D arrays whose lanes all do the same point in the same cycle.

    `passed` are the pairs of Einsums of which the second reads what the first makes.
    """
    found = {p.array for p in places.values() if len(p.sides) == 1 and p.sums_across}
    for maker, user in passed:
        writer, reader = places[maker], places[user]
        if len(writer.sides) == len(reader.sides):
            continue
        if writer.sums_across or writer.across != reader.across:
            found.add(writer.array if len(writer.sides) == 1 else reader.array)
    return found


def way_cycles(
    cascade: Cascade, writer: Place, reader: Place, maker: str, user: str, in_step: set[str]
) -> int:
    """Cycles after a point was done until the value can be used.

    In a 1D array those of the tree that joins the lanes. From a 2D array, unless the PE keeps it:
    down the column and into the lane at its foot, R cycles; R + C - 1 until the last column has
    left, when the reader is none that begins a column as much later as the array does.
    """
    if len(writer.sides) == 1:
        lanes = writer.across[1] if writer.across and writer.sums_across else 1
        return ceil(log2(lanes))
    whole = not (writer.sums_down or writer.sums_across)
    if whole and (writer.array, writer.down, writer.across) == (
        reader.array, reader.down, reader.across,
    ):  # fmt: skip
        return 0
    rows, cols = writer.sides
    column = writer.across == reader.across and not writer.sums_across
    if len(reader.sides) == 1:
        follows = reader.array not in in_step
    else:
        follows = not writer.sums_across and _from_above(cascade, maker, user, reader)
    return rows if column and follows else rows + cols - 1


def _from_above(cascade: Cascade, maker: str, user: str, reader: Place) -> bool:
    """Whether the reader takes the value at the top of its columns: it varies with these alone."""
    tensor = cascade.einsum(maker).output.tensor
    for read in reads(cascade, cascade.einsum(user)):
        if read.tensor == tensor:
            moving = {v.upper() for v in read.variables}
            by_row = reader.down is not None and reader.down[0] in moving
            by_column = reader.across is not None and reader.across[0] in moving
            if by_row or not by_column:
                return False
    return True


__all__ = ["Place", "lanes_in_step", "place_of", "way_cycles"]
