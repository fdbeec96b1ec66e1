"""How many points of an iteration space its filters leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

from einsum_cascade.affine import Affine, Term, mixed_radix
from einsum_cascade.cascade import Cascade, Condition, Einsum
from einsum_cascade.shapes import iteration_ranges
from einsum_cascade.source import InputError

_MOST_POINTS = 10**8
COMPARE = {
    "<=": np.less_equal,
    ">=": np.greater_equal,
    "<": np.less,
    ">": np.greater,
    "==": np.equal,
    "!=": np.not_equal,
}

Ranges = dict[str, tuple[Any, Any]]


def holds(
    conditions: tuple[Condition, ...], shape: Mapping[str, Any], coordinates: Mapping[str, Any]
) -> Any:
    """Where all conditions hold: a bool array over the broadcast coordinates."""
    result: Any = np.bool_(True)
    for condition in conditions:
        left = condition.left.evaluate(shape, coordinates)
        right = condition.right.evaluate(shape, coordinates)
        result = result & COMPARE[condition.comparison](left, right)
    return result


@dataclass(frozen=True)
class Band:
    """Variables that filters tie together, and what they demand.

    With one name x: `low <= x <= high`; with two: `low <= x - y <= high`, where y is mirrored in
    its range if the filters bound x + y (`mirrored`). None is no bound. `within` are the ranges
    that filters on one of two names leave, of y mirrored too. `closed` is false when the filters
    have another form: their points can only be enumerated. `texts` name the filters.
    """

    names: tuple[str, ...]
    ranges: tuple[tuple[Any, Any], ...]
    within: tuple[tuple[Any, Any], ...] = ()
    low: Any = None
    high: Any = None
    mirrored: bool = False
    closed: bool = True
    conditions: tuple[tuple[Affine, Condition], ...] = ()
    texts: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Filtered:
    """The iteration space of an Einsum under its filters: bands, and the variables that are free.

    `always` is whether what the filters say of constants holds. Parts of a rank that filters only
    use together stand as that rank.
    """

    bands: tuple[Band, ...]
    free: Ranges
    always: Any


def filtered_space(cascade: Cascade, einsum: Einsum, values: Mapping[str, Any]) -> Filtered:
    """What the filters of `einsum` leave; `values` as in `shapes.points_in`."""
    ranges = iteration_ranges(cascade, einsum, values)
    tied = _tied(cascade, einsum.name)
    for whole in tied.wholes:
        ranges[whole.lower()] = (0, values[whole])
    bands = tuple(_band(group, ranges, values) for group in tied.groups)
    used = {name for group in tied.groups for name in group.names} | tied.parts
    free = {name: ends for name, ends in ranges.items() if name not in used}
    return Filtered(bands, free, holds(tied.constant, values, {}))


@dataclass(frozen=True)
class _Group:
    """Variables that filters tie together, and what these say of them: together, and of each."""

    names: tuple[str, ...]
    conditions: tuple[tuple[Affine, Condition], ...]
    tying: tuple[tuple[Affine, Condition], ...]
    alone: tuple[tuple[tuple[Affine, Condition], ...], ...]
    texts: frozenset[str]


@dataclass(frozen=True)
class _Tied:
    """What the filters of an Einsum tie together, for any shape. `wholes` are ranks that stand for
    their `parts`."""

    groups: tuple[_Group, ...]
    constant: tuple[Condition, ...]
    wholes: tuple[str, ...]
    parts: frozenset[str]


@lru_cache(maxsize=4096)
def _tied(cascade: Cascade, name: str) -> _Tied:
    einsum = cascade.einsum(name)
    own = {rank.lower() for rank in einsum.ranks}
    plain = [(c.left - c.right, c) for c in einsum.filters]
    variables, wholes = set(own), []
    differences = []
    for difference, condition in plain:
        joined, found = _whole(cascade, difference, variables)
        differences.append((joined, condition))
        wholes += found
    if not all(v in variables for d, _ in differences for v in d.variables):
        differences, variables, wholes = plain, own, []  # a part is also filtered on its own
    groups = []
    for group in _groups([d for d, _ in differences]):
        names = tuple(sorted(group))
        mine = tuple((d, c) for d, c in differences if set(d.variables) & group)
        alone = [each for each in mine if len(names) > 1 and len(each[0].variables) == 1]
        groups.append(
            _Group(
                names,
                mine,
                tuple(each for each in mine if each not in alone),
                tuple(tuple(a for a in alone if a[0].variables == (n,)) for n in names),
                frozenset(f"{d} {c.comparison}" for d, c in mine),
            )
        )
    constant = tuple(c for d, c in differences if not d.variables)
    return _Tied(tuple(groups), constant, tuple(dict.fromkeys(wholes)), frozenset(own - variables))


def filtered_points(cascade: Cascade, einsum: Einsum, values: Mapping[str, Any]) -> Any:
    """Points of `einsum` that its filters leave; `values` as in `shapes.points_in`."""
    space = filtered_space(cascade, einsum, values)
    total: Any = 1
    for band in space.bands:
        total = total * counted(band, values, einsum)
    for start, stop in space.free.values():
        total = total * (stop - start)
    if space.always is np.True_ or space.always is True:
        return total
    truth = space.always
    return total * (int(truth) if np.ndim(truth) == 0 else truth.astype(np.float64))


def _whole(cascade: Cascade, difference: Affine, variables: set[str]) -> tuple[Affine, list[str]]:
    """`m1*M0+m0` put together to `m` again, which takes the place of its parts in `variables`; and
    the ranks put together."""
    found = []
    for rank in cascade.ranks.values():
        together = rank.variable in variables
        inner = {p.lower() for p in rank.partition}
        if not inner or not (together or inner <= variables):
            continue
        parts = mixed_radix(rank.partition)
        for whole, factor in ((parts, 1), (-parts, -1)):
            if set(whole.terms) <= set(difference.terms):
                difference = difference - whole + Affine((Term(rank.variable, (), factor),))
                variables -= inner
                variables.add(rank.variable)
                found.append(rank.name)
    return difference, found


def _groups(differences: list[Affine]) -> list[set[str]]:
    """Variables that some filter ties together."""
    groups: list[set[str]] = []
    for difference in differences:
        tied = set(difference.variables)
        if not tied:
            continue
        touching = [g for g in groups if g & tied]
        groups = [g for g in groups if not g & tied] + [tied.union(*touching)]
    return groups


def _band(group: _Group, ranges: Ranges, values: Mapping[str, Any]) -> Band:
    names, conditions = group.names, group.conditions
    mine = tuple(ranges[n] for n in names)
    within = [
        _within(alone, n, ends, values)
        for alone, n, ends in zip(group.alone, names, mine, strict=True)
    ]
    for mirrored in (False, True):
        bounds = _bounds(group.tying, names, values, mirrored)
        if bounds is None or None in within:
            continue
        low, high = bounds
        if mirrored and len(names) == 2:  # x + y = x - y' + shift, y' = shift - y
            shift = mine[1][0] + mine[1][1] - 1
            low = None if low is None else low - shift
            high = None if high is None else high - shift
            if within[1] is not mine[1]:
                within[1] = (shift + 1 - within[1][1], shift + 1 - within[1][0])
        return Band(names, mine, tuple(within), low, high, mirrored, True, conditions, group.texts)
    return Band(names, mine, mine, closed=False, conditions=conditions)


def _within(
    conditions: Sequence[tuple[Affine, Condition]],
    name: str,
    whole: tuple[Any, Any],
    values: Mapping[str, Any],
) -> Any:
    """The range that filters on one variable leave, not below empty; None for another form."""
    if not conditions:
        return whole
    bounds = _bounds(conditions, (name,), values, False)
    if bounds is None:
        return None
    start = whole[0] if bounds[0] is None else maximum(bounds[0], whole[0])
    stop = whole[1] if bounds[1] is None else minimum(bounds[1] + 1, whole[1])
    return start, maximum(start, stop)


def counted(band: Band, values: Mapping[str, Any], einsum: Einsum) -> Any:
    """Points of a band."""
    return _count(band) if band.closed else _enumerated(band, values, einsum)


def _count(band: Band) -> Any:
    """Points of a band in closed form."""
    low, high = band.low, band.high
    (start, stop), *others = band.within
    if not others:
        first = start if low is None else maximum(low, start)
        end = stop if high is None else minimum(high + 1, stop)
        return maximum(end - first, 0)
    extents = [stop - start, others[0][1] - others[0][0]]
    shift = start - others[0][0]
    top = extents[0] * extents[1] if high is None else _at_most(high - shift, *extents)
    below = 0 if low is None else _at_most(low - 1 - shift, *extents)
    return maximum(top - below, 0)


def reach(band: Band, position: int) -> Any:
    """How many coordinates of one variable of a closed band have a point."""
    start, stop = band.within[position]
    low, high = band.low, band.high
    empty: Any = False
    if len(band.names) == 2:
        other = band.within[1 - position]
        for least, most in ((low, high), (other[0], other[1] - 1)):
            if least is not None and most is not None and not hasattr(least - most, "free_symbols"):
                empty = empty | (least > most)
        if position == 0:
            low = None if low is None else low + other[0]
            high = None if high is None else high + other[1] - 1
        else:
            low, high = (
                None if high is None else other[0] - high,
                None if low is None else other[1] - 1 - low,
            )
    first = start if low is None else maximum(low, start)
    end = stop if high is None else minimum(high + 1, stop)
    found = maximum(end - first, 0)
    if empty is False:
        return found
    return (0 if empty else found) if np.ndim(empty) == 0 else np.where(empty, 0, found)


def reach_at_best(band: Band, position: int) -> Any:
    """How many coordinates one variable of a closed band of two has at most, at one of the other.

    At y these are min(extent, width of the band, high + y - start + 1, stop - low - y): one grows
    with y, one falls, and where they meet neither is less than the first two.
    """
    (start, stop), (other, end) = band.within[position], band.within[1 - position]
    low, high = band.low, band.high
    if position == 1:
        low, high = None if high is None else -high, None if low is None else -low
    found = stop - start
    if low is not None and high is not None:
        found = minimum(found, high - low + 1)
    if high is not None:
        found = minimum(found, high + end - start)
    if low is not None:
        found = minimum(found, stop - low - other)
    return maximum(found, 0)


def _bounds(
    conditions: Sequence[tuple[Affine, Condition]],
    names: tuple[str, ...],
    values: Mapping[str, Any],
    mirrored: bool,
) -> tuple[Any, Any] | None:
    """Bounds (inclusive) on x, or on x - y (x + y if `mirrored`); None for anything else."""
    if len(names) > 2:
        return None
    wanted = {names[0]: 1} if len(names) == 1 else {names[0]: 1, names[1]: 1 if mirrored else -1}
    low: Any = None
    high: Any = None
    for difference, condition in conditions:
        if any(t.variable and t.symbols for t in difference.terms):
            return None
        found = {t.variable: t.coefficient for t in difference.terms if t.variable}
        sign = 1 if found == wanted else -1
        if found != {name: sign * c for name, c in wanted.items()}:
            return None
        if condition.comparison == "!=":
            return None
        constant = Affine(tuple(t for t in difference.terms if not t.variable))
        value = constant.evaluate(values, {})
        # sign * (x - y) + value COMPARE 0
        comparison = condition.comparison
        slack = 1 if comparison in ("<", ">") else 0
        limit = -value if sign == 1 else value
        upper = comparison in ("<", "<=") if sign == 1 else comparison in (">", ">=")
        if comparison == "==" or upper:
            bound = limit - slack
            high = bound if high is None else minimum(high, bound)
        if comparison == "==" or not upper:
            bound = limit + slack
            low = bound if low is None else maximum(low, bound)
    return low, high


def _at_most(limit: Any, x: Any, y: Any) -> Any:
    """How many pairs have `0 <= i < x`, `0 <= j < y`, `i - j <= limit`.

    The sum over j of clip(j + limit + 1, 0, x), written with triangular numbers.
    """
    return _triangle(y + limit) - _triangle(limit) - _triangle(y + limit - x) + _triangle(limit - x)


def _triangle(n: Any) -> Any:
    positive = maximum(n, 0)
    both = positive * (positive + 1)
    return both // 2 if isinstance(both, int) else both / 2


def maximum(a: Any, b: Any) -> Any:
    """The larger of two numbers, arrays or closed forms."""
    if hasattr(a, "free_symbols") or hasattr(b, "free_symbols"):
        import sympy

        return sympy.Max(a, b)
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else np.maximum(a, b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two numbers, arrays or closed forms."""
    return -maximum(-a, -b)


def _enumerated(band: Band, values: Mapping[str, Any], einsum: Einsum) -> Any:
    """Count point by point, each design point on its own."""
    names, conditions = band.names, band.conditions
    ranges = dict(zip(names, band.ranges, strict=True))
    if any(hasattr(stop, "free_symbols") for _, stop in band.ranges):
        import sympy

        text = ", ".join(str(c) for _, c in conditions)
        return sympy.Symbol(f"points({', '.join(names)}: {text})", positive=True, integer=True)
    used = {s for d, _ in conditions for s in d.symbols}
    arrays = [np.asarray(e) for n in names for e in ranges[n]] + [
        np.asarray(values[s]) for s in used
    ]
    form = np.broadcast_shapes(*(a.shape for a in arrays))
    counts = np.empty(form)
    for at in product(*map(range, form)):

        def number(value: Any, at: tuple[int, ...] = at) -> int:
            return int(np.broadcast_to(value, form)[at])

        here = {n: (number(ranges[n][0]), number(ranges[n][1])) for n in names}
        total = 1
        for start, stop in here.values():
            total *= stop - start
        if total > _MOST_POINTS:
            text = ", ".join(str(c) for _, c in conditions)
            raise InputError(
                f"the filter of {einsum.name} ({text}) has no closed form here, and its {total} "
                f"points are more than the {_MOST_POINTS} that are counted one by one",
                einsum.place,
            )
        grids = np.meshgrid(*(np.arange(*here[n]) for n in names), indexing="ij", sparse=True)
        coordinates = dict(zip(names, grids, strict=True))
        shape = {s: number(values[s]) for s in used}
        zero = Affine(())
        kept = holds(
            tuple(Condition(d, c.comparison, zero) for d, c in conditions), shape, coordinates
        )
        counts[at] = np.count_nonzero(np.broadcast_to(kept, [e - s for s, e in here.values()]))
    return int(counts) if counts.ndim == 0 else counts


__all__ = [
    "Band",
    "Filtered",
    "counted",
    "filtered_points",
    "filtered_space",
    "holds",
    "maximum",
    "minimum",
    "reach",
    "reach_at_best",
]
