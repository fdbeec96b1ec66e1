"""Extents, sizes and iteration spaces, for one shape or for an array of many.

Everything here is arithmetic that numbers, NumPy arrays and sympy symbols share, so the closed form
that people read and the number that the simulator uses are one formula.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from einsum_cascade.cascade import Cascade, Condition, Einsum, Shape
from einsum_cascade.occupancy import occupancy_of, share
from einsum_cascade.source import InputError, shown


def resolve_shape(cascade: Cascade, shape: Shape) -> dict[str, Any]:
    """Extents of all ranks and values of all parameters.

    `shape` gives some of them, each a positive integer or an array of positive integers (one a
    design point); the others follow from partitions (`M = M1*M0`), from `like` and from a constant
    stop; what is left, from the cascade's defaults. Values stay Python ints, or become int64
    arrays.

    Raises `InputError` for an unknown name, a value that is no positive integer, a rank that does
    not divide, two values that disagree, a rank that cannot be derived.

    >>> from einsum_cascade import parse_cascade
    >>> cascade = parse_cascade("{name: sum, ranks: {M: {partition: [M1, M0]}, M1: outer, M0: "
    ...     "inner}, inputs: ['A[m]'], body: ['B[m1] = A[m1*M0+m0]']}")
    >>> cascade.resolve_shape({"M": 1024, "M0": 256})["M1"]
    4
    """
    known = known_shape(cascade, shape)
    missing = [n for n in (*cascade.ranks, *cascade.parameters) if n not in known]
    if missing:
        raise InputError(
            f"the shape of cascade {cascade.name!r} lacks {', '.join(missing)}: give "
            f"{_ways(cascade, missing[0])}"
        )
    return known


def known_shape(cascade: Cascade, shape: Shape) -> dict[str, Any]:
    """Like `resolve_shape`, for a shape that may leave something open: what follows from it."""
    known: dict[str, Any] = {}
    names = [*cascade.ranks, *cascade.parameters]
    for name, value in shape.items():
        if name not in cascade.ranks and name not in cascade.parameters:
            raise InputError(
                f"cascade {cascade.name!r} has no rank or parameter {name!r}",
                allowed=names,
                found=name,
            )
        known[name] = _positive_integer(name, value)
    for rank in cascade.ranks.values():
        if rank.stop is not None and not rank.stop.symbols:
            _agree(known, rank.name, rank.stop.offset, "where its iteration stops")
    changed = True
    while changed:
        changed = _derive(cascade, known)
    while (ready := _ready(cascade, known)) is not None:
        value = cascade.defaults[ready].evaluate(known)
        known[ready] = _positive_integer(ready, _rounded(value))
        while _derive(cascade, known):
            pass
    return known


def own_extents(cascade: Cascade) -> frozenset[str]:
    """Names that have a default, such as the 49 tokens of a window, and ranks that share theirs.

    No workload sets these, though a design or a sweep may. TOKENS is the workload's own name.
    """
    found = set(cascade.defaults) - {"TOKENS"}
    pairs = [(r.name, r.like) for r in cascade.ranks.values() if r.like is not None]
    while True:
        more = {a for pair in pairs for a in pair if found.intersection(pair)}
        if more <= found:
            return frozenset(found)
        found |= more


def _ready(cascade: Cascade, known: Mapping[str, Any]) -> str | None:
    """A name without a value whose default can be worked out."""
    for name, rule in cascade.defaults.items():
        if name not in known and rule.names <= known.keys():
            return name
    return None


def _rounded(value: Any) -> Any:
    """A default such as `M // 64` of a short M: at least 1."""
    return np.maximum(np.floor(value), 1)


def _ways(cascade: Cascade, name: str) -> str:
    rank = cascade.ranks.get(name)
    ways = [name]
    if rank is not None and rank.partition:
        ways.append(" and ".join(rank.partition))
    if rank is not None and rank.parent:
        others = [p for p in cascade.ranks[rank.parent].partition if p != name]
        ways.append(" and ".join([rank.parent, *others]))
    return ", or ".join(ways)


def _positive_integer(name: str, value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype == object and array.ndim == 0 and isinstance(value, int):
        return value  # beyond int64: exact as a Python int
    good = array.dtype.kind in "iuf" and array.size > 0
    if good and array.dtype.kind == "f":
        good = bool(np.all(np.isfinite(array)) and np.all(array == np.floor(array)))
    if not good or not np.all(array >= 1):
        raise InputError(f"{name} must be a positive integer, found {shown(value)}")
    if array.ndim == 0:
        return int(array)
    return array.astype(np.int64)


def _derive(cascade: Cascade, known: dict[str, Any]) -> bool:
    """Fill in what one rule gives; check what is known both ways. True when something is new."""
    before = len(known)
    for rank in cascade.ranks.values():
        if rank.like is not None:
            _agree(known, rank.name, known.get(rank.like), f"like {rank.like}")
            _agree(known, rank.like, known.get(rank.name), f"like {rank.name}")
        if not rank.partition:
            continue
        unknown = [p for p in rank.partition if p not in known]
        if not unknown:
            rule = " * ".join(rank.partition)
            _agree(known, rank.name, _product(known[p] for p in rank.partition), rule)
        elif len(unknown) == 1 and rank.name in known:
            others = [p for p in rank.partition if p in known]
            divisor = _product(known[p] for p in others)
            remainder = np.asarray(known[rank.name] % divisor)
            if np.any(remainder):
                at = np.unravel_index(int(np.argmax(remainder != 0)), remainder.shape)
                whole, part = (
                    int(np.broadcast_to(v, remainder.shape)[at])
                    for v in (known[rank.name], divisor)
                )
                raise InputError(
                    f"{rank.name} = {whole} is not divisible by {' * '.join(others)} = {part}, so "
                    f"{unknown[0]} has no value"
                )
            known[unknown[0]] = known[rank.name] // divisor
    return len(known) > before


def _agree(known: dict[str, Any], name: str, value: Any, rule: str) -> None:
    if value is None:
        return
    if name not in known:
        known[name] = value
    elif np.any(np.asarray(known[name] != value)):
        here, there = np.broadcast_arrays(known[name], value)
        at = np.unravel_index(int(np.argmax(here != there)), here.shape)
        raise InputError(f"{name} = {int(here[at])} disagrees with {rule} = {int(there[at])}")


def _product(values: Iterable[Any]) -> Any:
    result: Any = 1
    for value in values:
        result = result * value
    return result


def numbers(cascade: Cascade, shape: Shape) -> dict[str, Any]:
    """`resolve_shape` for arithmetic: Python ints, exact at any size, or float64 arrays.

    int64 would overflow at sizes that a sweep reaches; float64 is exact to 2^53 and never wraps.
    """
    return {
        name: value if isinstance(value, int) else value.astype(np.float64)
        for name, value in resolve_shape(cascade, shape).items()
    }


def symbols(cascade: Cascade) -> dict[str, Any]:
    """The same names as sympy symbols, partitioned ranks in terms of the rank they come from."""
    import sympy

    result: dict[str, Any] = {}

    def symbol(name: str) -> Any:
        if name not in result:
            rank = cascade.ranks.get(name)
            if rank is not None and rank.like is not None:
                result[name] = symbol(rank.like)
            elif (
                rank is not None
                and rank.parent
                and (cascade.ranks[rank.parent].partition[0] == name)
            ):
                inner = cascade.ranks[rank.parent].partition[1:]
                result[name] = symbol(rank.parent) / _product(map(symbol, inner))
            else:
                result[name] = sympy.Symbol(name, positive=True, integer=True)
        return result[name]

    for name in (*cascade.ranks, *cascade.parameters):
        symbol(name)
    return result


def size(cascade: Cascade, tensor: str, shape: Shape) -> Any:
    """Words of `tensor`: Python int, or float64 array. Iterative tensors count every iteration."""
    return size_in(cascade, tensor, numbers(cascade, shape))


def size_in(cascade: Cascade, tensor: str, values: Mapping[str, Any]) -> Any:
    """Like `size`, for values that `numbers` or `symbols` gave."""
    return _product(e.evaluate(values, {}) for e in cascade.tensor(tensor).extents)


def points(cascade: Cascade, einsum: str, shape: Shape) -> Any:
    """Points of the iteration space of `einsum`, those that its filters leave out not counted.

    Filters on data count by their expected occupancy. Bounds on one variable and on the difference
    or the sum of two (`m <= p`, `p - W < m`, `x + k < X`) are counted in closed form; other filters
    point by point, up to 10^8 of them. Raises `InputError` beyond that.
    """
    return points_in(cascade, cascade.einsum(einsum), numbers(cascade, shape))


def points_in(cascade: Cascade, einsum: Einsum, values: Mapping[str, Any]) -> Any:
    """Like `points`, for values that `numbers` or `symbols` gave."""
    held: Any = 1
    for condition in einsum.data_filters:
        rules = occupancy_of(cascade, condition)
        if rules is not None:
            held = held * (sum(share(rule, values) for rule in rules) / len(rules))
    if einsum.filters:
        from einsum_cascade.filters import filtered_points

        return filtered_points(cascade, einsum, values) * held
    ranges = iteration_ranges(cascade, einsum, values)
    return _product(stop - start for start, stop in ranges.values()) * held


def iteration_ranges(
    cascade: Cascade, einsum: Einsum, values: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """First coordinate and end of each index variable of `einsum`."""
    ranges = {}
    for name in einsum.ranks:
        rank = cascade.ranks[name]
        if rank.iterative and einsum.section == "body":
            stop = rank.stop.evaluate(values, {}) if rank.stop is not None else values[name]
            ranges[rank.variable] = (rank.start, stop)
        else:
            ranges[rank.variable] = (0, values[name])
    return ranges


__all__ = ["Condition", "numbers", "points", "resolve_shape", "size", "symbols"]
