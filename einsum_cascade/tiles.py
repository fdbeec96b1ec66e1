"""Tiles of a filtered iteration space: how many hold at least one point, and what is touched.

A mask cuts points exactly (`filters`), but hardware works on tiles: a tile at the edge of a causal
mask or of a window is worked on as a whole. Filters on data are random: a tile of n points holds
one with probability 1 - (1 - d)^n at occupancy d, the uniform model of Sparseloop (MICRO 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np

from einsum_cascade.cascade import Cascade, DataCondition, Einsum
from einsum_cascade.filters import Band, filtered_space, maximum, minimum
from einsum_cascade.shapes import occupancy_of, share


def tile_share(
    cascade: Cascade, einsum: Einsum, values: Mapping[str, Any], sizes: Mapping[str, Any]
) -> Any:
    """The share of the tiles of an Einsum's iteration space that hold a point.

    `values` are extents as in `shapes.points_in`, `sizes` the extent of a tile along each index
    variable (numbers or arrays of design points). An incomplete tile at the end of a rank counts as
    a whole one. Filters without a closed form leave all tiles.

    >>> from einsum_cascade import parse_cascade
    >>> causal = parse_cascade("{name: c, ranks: [P, M], inputs: ['A[m]'], "
    ...     "body: ['Y[p] = A[m] where m <= p']}")
    >>> float(tile_share(causal, causal.einsum("Y"), {"P": 1024, "M": 1024}, {"p": 256, "m": 256}))
    0.625
    """
    result: Any = 1.0
    if einsum.filters:
        space = filtered_space(cascade, einsum, values)
        whole = _sizes(cascade, values, sizes)
        for band in space.bands:
            if band.closed:
                result = result * _band_share(band, whole)
        result = result * np.asarray(space.always, dtype=np.float64)
    for condition in einsum.data_filters:
        rules = occupancy_of(cascade, condition)
        if rules is not None:
            points = _product(sizes[v] for v in _variables(condition) if v in sizes)
            result = result * _any_of(rules, points, values)
    return result


def touched(
    cascade: Cascade, einsum: Einsum, values: Mapping[str, Any], tensor_ranks: tuple[str, ...]
) -> dict[str, Any]:
    """For index variables that filters bound, how many of their coordinates have a point.

    A filter on data leaves, of a tensor over `tensor_ranks`, the expected share of its coordinates
    that any point of the other ranks needs: under the key "" of the result.
    """
    found: dict[str, Any] = {}
    if einsum.filters:
        for band in filtered_space(cascade, einsum, values).bands:
            if not band.closed:
                continue
            for position, name in enumerate(band.names):
                start, stop = band.ranges[position]
                low, high = _reach(band, position)
                first = start if low is None else maximum(low, start)
                end = stop if high is None else minimum(high + 1, stop)
                found[name] = maximum(end - first, 0)
    for condition in einsum.data_filters:
        rules = occupancy_of(cascade, condition)
        if rules is not None:
            others = [v.upper() for v in _variables(condition) if v.upper() not in tensor_ranks]
            points = _product(values[r] for r in others if r in values)
            found[""] = found.get("", 1.0) * _any_of(rules, points, values)
    return found


def _reach(band: Band, position: int) -> tuple[Any, Any]:
    """Bounds on one variable of a band, over all values of the other."""
    low, high = band.low, band.high
    if len(band.names) == 1:
        return low, high
    start, stop = band.ranges[1 - position]
    if position == 0:
        return (
            None if low is None else low + start,
            None if high is None else high + stop - 1,
        )
    return (
        None if high is None else start - high,
        None if low is None else stop - 1 - low,
    )


def _variables(condition: DataCondition) -> tuple[str, ...]:
    return tuple(dict.fromkeys(v for a in condition.accesses for v in a.variables))


def _any_of(rules: tuple[Any, ...], points: Any, values: Mapping[str, Any]) -> Any:
    """The chance that at least one of `points` passes a filter, over a distribution of shares."""
    shares = [share(rule, values) for rule in rules]
    return sum(1 - (1 - d) ** points for d in shares) / len(shares)


def _product(sizes: Any) -> Any:
    return reduce(lambda a, b: a * b, sizes, 1.0)


def _sizes(cascade: Cascade, values: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Tile extents of partitioned ranks too: the coordinates that a tile spans."""
    result = dict(sizes)
    for rank in cascade.ranks.values():
        parts = [p for p in rank.partition if p.lower() in sizes]
        if not rank.partition or len(parts) < len(rank.partition):
            continue
        span: Any = 1.0
        inner: Any = 1.0
        for part in reversed(rank.partition):
            size = np.asarray(sizes[part.lower()], dtype=np.float64)
            span = np.where(size > 1, size * inner, span)
            inner = inner * values[part]
        result[rank.variable] = span
    return result


def _band_share(band: Band, sizes: Mapping[str, Any]) -> Any:
    """Tiles that a band touches over all tiles."""
    numbers = [np.asarray(v, dtype=np.int64) for r in band.ranges for v in r]
    size = [np.asarray(np.round(sizes.get(n, 1)), dtype=np.int64) for n in band.names]
    starts, stops = numbers[0::2], numbers[1::2]
    tiles = [-((start - stop) // s) for start, stop, s in zip(starts, stops, size, strict=True)]
    low = None if band.low is None else np.asarray(band.low, dtype=np.int64)
    high = None if band.high is None else np.asarray(band.high, dtype=np.int64)
    if len(band.names) == 1:
        first = 0 if low is None else np.maximum(low - starts[0], 0) // size[0]
        last = tiles[0] - 1 if high is None else (high - starts[0]) // size[0]
        count = np.maximum(np.minimum(last, tiles[0] - 1) - first + 1, 0)
        return np.maximum(count / tiles[0], 0.0)
    (nx, ny), (sx, sy) = tiles, size
    shift = starts[0] - starts[1]
    if band.mirrored:  # with the incomplete tile made whole, tiles are mirrored onto tiles
        shift = shift + ny * sy - (stops[1] - starts[1])
    missed: Any = 0
    if high is not None:  # the smallest difference of tile (i, j) is i*sx - j*sy - (sy - 1)
        missed = missed + _beyond(nx, ny, sx, sy, high - shift + sy - 1)
    if low is not None:  # the largest is i*sx + sx - 1 - j*sy
        missed = missed + _beyond(ny, nx, sy, sx, sx - 1 - (low - shift))
    return np.clip(1 - missed / (nx * ny), 0.0, 1.0)


def _beyond(nx: Any, ny: Any, a: Any, b: Any, limit: Any) -> Any:
    """Pairs `0 <= i < nx`, `0 <= j < ny` with `i*a - j*b > limit`.

    For each j these are `nx - 1 - floor((limit + j*b) / a)`, held between 0 and nx: a sum of floors
    over the j between those two ends.
    """
    none_from = -((limit - (nx - 1) * a) // b)  # first j with (nx-1)*a - j*b <= limit
    all_until = -(limit // b) - 1  # last j with -j*b > limit
    all_until = np.where(limit < 0, all_until, -1)
    from_j = np.clip(all_until + 1, 0, ny)
    to_j = np.clip(none_from, from_j, ny)
    terms = to_j - from_j
    floors = _floor_sum(terms, a, b, limit + from_j * b)
    return from_j * nx + terms * (nx - 1) - floors


def _floor_sum(n: Any, m: Any, a: Any, b: Any) -> Any:
    """Sum over 0 <= i < n of floor((a*i + b) / m), for a > 0 and m > 0, on int64 arrays.

    Euclid's algorithm, as in the AtCoder library: a logarithmic number of steps for all points.
    """
    n, m, a, b = np.broadcast_arrays(*(np.asarray(v, dtype=np.int64) for v in (n, m, a, b)))
    total = np.zeros(n.shape, dtype=np.int64)
    while True:
        total = total + n * (n - 1) // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        top = a * n + b
        open_points = top >= m
        if not np.any(open_points):
            return total
        n = np.where(open_points, top // m, 0)
        b = np.where(open_points, top % m, 0)
        m, a = np.where(open_points, a, 1), np.where(open_points, m, 0)


__all__ = ["tile_share", "touched"]
