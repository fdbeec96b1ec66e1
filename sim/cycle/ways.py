"""How many cycles values are on their way from the PE that made them to those that use them.

All times are told in the frame of PE (0,0), or lane 0: PE (r,c) does everything r + c cycles later,
lane c of a 1D array c cycles later, so what stays in its column needs no more than its hops.
Lanes that a tree joins, or that are no columns of the 2D array, cannot be skewed: they run in step,
and what reaches them has to wait until the last column of a wavefront has left the array.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, log2

from sim.cycle.points import Nest


def tree_cycles(lanes: int) -> int:
    """Cycles of a tree of two-operand units over `lanes`."""
    return ceil(log2(lanes)) if lanes > 1 else 0


def lanes_in_step(nests: Mapping[str, Nest]) -> frozenset[str]:
    """The 1D arrays whose lanes all do the same point in the same cycle."""
    found = set()
    for nest in nests.values():
        if len(nest.sides) == 1 and nest.sum_cols and nest.cols > 1:
            found.add(nest.array)
    for reader in nests.values():
        for operand in reader.operands:
            writer = nests.get(operand.reach.tensor)
            if writer is None or len(writer.sides) == len(reader.sides):
                continue
            if writer.sum_cols or writer.across != reader.across:
                found.add(writer.array if len(writer.sides) == 1 else reader.array)
    return frozenset(found)


def stays(writer: Nest, reader: Nest) -> bool:
    """Whether a PE uses what it made itself."""
    whole = not (writer.sum_rows or writer.sum_cols)
    placed = (writer.down, writer.across) == (reader.down, reader.across)
    return writer.array == reader.array and whole and placed


def way_cycles(writer: Nest, reader: Nest, in_step: frozenset[str]) -> int:
    """Cycles after the one in which a value was made, in which it cannot be used yet.

    In a 1D array those of the tree that joins the lanes. From a 2D array, unless the PE keeps it:
    down the column and into the lane at its foot, R cycles; R + C - 1 until the last column has
    left, when the reader is none that begins a column as much later as the array does.
    """
    if len(writer.sides) == 1:
        return tree_cycles(writer.cols) if writer.sum_cols else 0
    if stays(writer, reader):
        return 0
    rows, cols = writer.sides
    column = writer.across == reader.across and not writer.sum_cols
    lane = len(reader.sides) == 1 and reader.array not in in_step
    top = len(reader.sides) == 2 and not writer.sum_cols and _from_above(writer.name, reader)
    return rows if column and (lane or top) else rows + cols - 1


def _from_above(tensor: str, reader: Nest) -> bool:
    return all(o.way == "down" for o in reader.operands if o.reach.tensor == tensor)


__all__ = ["lanes_in_step", "stays", "tree_cycles", "way_cycles"]
