"""Sizes that a tile of a rank may have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

from mappers.factors import divisors

Tiles = Literal["perfect", "padded", "all"]


def tile_sizes(extent: int, sides: Iterable[int], tiles: Tiles) -> list[int]:
    """Sizes of tiles of a rank, ascending: 1 and the whole rank are always among them.

    `perfect`: the divisors. `padded`: these, and whole sides of the arrays in numbers that divide
    how many there are; the incomplete tile is counted as a tile. `all`: for each number of tiles
    the smallest size, which no other size with as many tiles can beat.

    >>> tile_sizes(12, [5], "perfect")
    [1, 2, 3, 4, 6, 12]
    >>> tile_sizes(12, [5], "padded")
    [1, 2, 3, 4, 5, 6, 12]
    >>> tile_sizes(12, [], "all")
    [1, 2, 3, 4, 6, 12]
    """
    found = set(divisors(extent))
    if tiles != "perfect":
        for side in sides:
            if side < extent:
                count = -(-extent // side)
                found |= {side * d for d in divisors(count) if side * d < extent}
    if tiles == "all":
        counts = np.arange(1, int(np.sqrt(extent)) + 2)
        some = {int(-(-extent // int(k))) for k in counts}
        found |= some | {-(-extent // s) for s in range(1, int(np.sqrt(extent)) + 2)}
    return sorted(found)


def nested(sizes: list[int]) -> list[tuple[int, int]]:
    """An outer size and an inner one that is not above it."""
    return [(outer, inner) for outer in sizes for inner in sizes if inner <= outer]


__all__ = ["Tiles", "nested", "tile_sizes"]
