"""Tiles of a filtered iteration space: how many hold at least one point.

A mask cuts points exactly (`filters`), but hardware works on tiles: a tile at the edge of a causal
mask or of a window is worked on, and fetched, as a whole. Filters on data are random: a tile of n
points holds one with probability 1 - (1 - d)^n at occupancy d, the uniform model of Sparseloop
(MICRO 2022). They are known word by word, so of such a tile only the words that pass are fetched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import lru_cache, reduce
from itertools import product
from typing import Any

import numpy as np

from einsum_cascade.cascade import Cascade, DataCondition, Einsum
from einsum_cascade.filters import Band, filtered_space
from einsum_cascade.occupancy import occupancy_of, share


@dataclass(frozen=True, eq=False)
class Part:
    """What some of an Einsum's filters, independent of all others, leave of its tiles: a share.

    `names` are the conditions, `variables` what they tie together. `band` and `sizes` (of a tile)
    are there if the conditions have a closed form.
    """

    names: frozenset[str]
    variables: frozenset[str]
    share: Any
    band: Band | None = None
    sizes: Mapping[str, Any] = field(default_factory=dict)


def tile_share(
    cascade: Cascade, einsum: Einsum, values: Mapping[str, Any], sizes: Mapping[str, Any]
) -> Any:
    """The share of the tiles of an Einsum's iteration space that hold a point.

    `values` are extents as in `shapes.points_in`, `sizes` the extent of a tile along each index
    variable (numbers or arrays of design points). Filters without a closed form leave all tiles.

    >>> from einsum_cascade import parse_cascade
    >>> causal = parse_cascade("{name: c, ranks: [P, M], inputs: ['A[m]'], "
    ...     "body: ['Y[p] = A[m] where m <= p']}")
    >>> float(tile_share(causal, causal.einsum("Y"), {"P": 1024, "M": 1024}, {"p": 256, "m": 256}))
    0.625
    """
    return _product(part.share for part in parts(cascade, einsum, values, sizes))


def parts(
    cascade: Cascade,
    einsum: Einsum,
    values: Mapping[str, Any],
    sizes: Mapping[str, Any],
    moving: AbstractSet[str] | None = None,
    data: bool = True,
) -> tuple[Part, ...]:
    """The shares of tiles that hold a point, filter by filter.

    With `moving`, the variables of a tensor: the shares of its words that come with those tiles. An
    incomplete tile has fewer; and filters on data, known word by word, leave out of a tile what no
    point needs. `data`: whether these are asked at all.
    """
    found = []
    if einsum.filters:
        space = filtered_space(cascade, einsum, values)
        whole = _sizes(cascade, values, sizes)
        for band in space.bands:
            if band.closed:
                inside = frozenset(v for n in band.names for v in _leaves(cascade, n))
                weighed = {n for n in band.names if moving and moving & _leaves(cascade, n)}
                share = _band_share(band, whole, weighed)
                found.append(Part(band.texts, inside, share, band, whole))
        if space.always is not True and not np.all(space.always):
            constant = frozenset(str(c) for c in einsum.filters)
            found.append(Part(constant, frozenset(), np.asarray(space.always, dtype=np.float64)))
    for condition in einsum.data_filters if data else ():
        rules = occupancy_of(cascade, condition)
        if rules is not None:
            variables = _variables(condition)
            points = _product(sizes[v] for v in variables if v in sizes and v not in (moving or ()))
            share = any_of(rules, points, values)
            found.append(Part(frozenset([repr(condition)]), frozenset(variables), share))
    return tuple(found)


def union(several: Sequence[tuple[Part, ...]], moving: AbstractSet[str]) -> Any:
    """The share of a tensor's words that at least one of several Einsums needs, each with its
    filters: exact for those of which one is under more conditions than another, and for two whose
    conditions are independent or bound the same variables; otherwise no less than there is."""
    if len(several) == 1:
        return _product(part.share for part in several[0])
    names = [frozenset(n for part in each for n in part.names) for each in several]
    kept: dict[frozenset[str], tuple[Part, ...]] = {}
    for mine, each in zip(names, several, strict=True):
        if not any(other < mine for other in names):
            kept.setdefault(mine, each)
    shares = [_product(part.share for part in each) for each in kept.values()]
    if len(shares) == 1:
        return shares[0]
    total = sum(shares)
    if len(shares) == 2:
        one, other = kept.values()
        total = total - _both(one, other, moving)
    return np.clip(total, reduce(np.maximum, shares), 1.0)


def _both(one: tuple[Part, ...], other: tuple[Part, ...], moving: AbstractSet[str]) -> Any:
    """The share of words that two Einsums need both; 0 where it is not known."""
    left = list(other)
    share: Any = 1.0
    for mine in one:
        same = next((p for p in left if p.names == mine.names), None)
        if same is not None:
            left.remove(same)
            share = share * mine.share
            continue
        tied = [p for p in left if p.variables & mine.variables]
        if not tied:
            share = share * mine.share
            continue
        joined = _joined(mine, tied[0], moving) if len(tied) == 1 else None
        if joined is None:
            return 0.0
        left.remove(tied[0])
        share = share * joined
    return share * _product(part.share for part in left)


def _joined(one: Part, other: Part, moving: AbstractSet[str]) -> Any:
    """The share of tiles that two bands of the same variables both touch, if it has a form."""
    a, b = one.band, other.band
    if a is None or b is None or (a.names, a.mirrored) != (b.names, b.mirrored):
        return None
    ends = [[end for within in x.within for end in within] for x in (a, b)]
    if any(np.any(v != w) for v, w in zip(*ends, strict=True)):
        return None
    lows = [x.low for x in (a, b) if x.low is not None]
    highs = [x.high for x in (a, b) if x.high is not None]
    band = replace(
        a,
        low=reduce(np.maximum, lows) if lows else None,
        high=reduce(np.minimum, highs) if highs else None,
    )
    return _band_share(band, one.sizes, {n for n in band.names if n in moving})


@lru_cache(maxsize=4096)
def _leaves(cascade: Cascade, unit: str) -> frozenset[str]:
    """A variable, and those of the parts of its rank."""
    rank = cascade.ranks[unit.upper()]
    return frozenset({unit}).union(*(_leaves(cascade, part.lower()) for part in rank.partition))


def _variables(condition: DataCondition) -> tuple[str, ...]:
    return tuple(dict.fromkeys(v for a in condition.accesses for v in a.variables))


def any_of(rules: tuple[Any, ...], points: Any, values: Mapping[str, Any]) -> Any:
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


def _band_share(
    band: Band, sizes: Mapping[str, Any], weighed: AbstractSet[str] = frozenset()
) -> Any:
    """Tiles that a band touches over all tiles; along what is `weighed`, tiles count as many as
    they have coordinates."""
    runs, totals = [], []
    for i, name in enumerate(band.names):
        size = np.asarray(np.round(sizes.get(name, 1)), dtype=np.int64)
        start, stop = (np.asarray(v, dtype=np.int64) for v in band.ranges[i])
        whole = _runs(start, stop, size, band.mirrored and i == 1, name in weighed)
        runs.append(whole if band.within[i] is band.ranges[i] else _cut(whole, band.within[i]))
        totals.append(sum(run.count * run.weight for run in whole))
    low = None if band.low is None else np.asarray(band.low, dtype=np.int64)
    high = None if band.high is None else np.asarray(band.high, dtype=np.int64)
    held: Any = 0.0
    if len(band.names) == 1:
        for x in runs[0]:
            first = 0 if low is None else np.maximum(low - x.start, 0) // x.size
            last = x.count - 1 if high is None else (high - x.start) // x.size
            held = held + np.maximum(np.minimum(last, x.count - 1) - first + 1, 0) * x.weight
        return held / totals[0]
    for x, y in product(*runs):
        missed: Any = 0
        if high is not None:  # the smallest difference of tile (i, j): i*sx - j*sy - (sy - 1)
            limit = high - (x.start - y.start) + y.size - 1
            missed = missed + _beyond(x.count, y.count, x.size, y.size, limit)
        if low is not None:  # the largest is i*sx + sx - 1 - j*sy
            limit = x.size - 1 - (low - (x.start - y.start))
            missed = missed + _beyond(y.count, x.count, y.size, x.size, limit)
        some = (x.count > 0) & (y.count > 0)
        tiles = np.where(some, np.maximum(x.count * y.count - missed, 0), 0)
        held = held + tiles * x.weight * y.weight
    return held / (totals[0] * totals[1])


@dataclass(frozen=True)
class _Run:
    """`count` tiles of `size` coordinates each in a row from `start`, and what each of them is."""

    start: Any
    count: Any
    size: Any
    weight: Any


def _runs(start: Any, stop: Any, size: Any, mirrored: bool, weighed: bool) -> list[_Run]:
    """The tiles of a range: whole ones, and one that is incomplete."""
    full, rest = (stop - start) // size, (stop - start) % size
    weight = size if weighed else 1
    if not np.any(rest):
        return [_Run(start, full, size, weight)]
    first = start + rest if mirrored else start
    last = start if mirrored else start + full * size
    some = np.where(rest > 0, 1, 0)
    width = np.maximum(rest, 1)
    return [_Run(first, full, size, weight), _Run(last, some, width, width if weighed else 1)]


def _cut(runs: list[_Run], within: tuple[Any, Any]) -> list[_Run]:
    """What a range leaves of runs of tiles; the tiles at both ends may be cut."""
    first, end = (np.asarray(v, dtype=np.int64) for v in within)
    found = []
    for run in runs:
        lower = np.clip(first - run.start, 0, run.count * run.size)
        upper = np.clip(end - run.start, lower, run.count * run.size)
        full, last = -(-lower // run.size), upper // run.size
        left = np.minimum(full * run.size, upper) - lower
        right = np.where(last >= full, upper - last * run.size, 0)
        for start, count, size in (
            (lower, np.where(left > 0, 1, 0), np.maximum(left, 1)),
            (full * run.size, np.maximum(last - full, 0), run.size),
            (last * run.size, np.where(right > 0, 1, 0), np.maximum(right, 1)),
        ):
            if np.any(count):
                found.append(_Run(run.start + start, count, size, run.weight))
    return found


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


__all__ = ["Part", "any_of", "parts", "tile_share", "union"]
