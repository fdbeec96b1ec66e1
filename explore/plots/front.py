"""Pareto fronts, and numbers as people write them."""

from __future__ import annotations

from collections.abc import Sequence


def front(x: Sequence[float], y: Sequence[float]) -> tuple[bool, ...]:
    """Which points no other beats: smaller or equal in both, and smaller in one.

    >>> front([1, 2, 3], [3, 4, 1])
    (True, False, True)
    """
    order = sorted(range(len(x)), key=lambda i: (x[i], y[i]))
    lowest = float("inf")
    found = [False] * len(x)
    for position, i in enumerate(order):
        twin = position > 0 and (x[i], y[i]) == (x[order[position - 1]], y[order[position - 1]])
        found[i] = found[order[position - 1]] if twin else y[i] < lowest
        lowest = min(lowest, y[i])
    return tuple(found)


def short(number: float) -> str:
    """1024 as 1K, 1048576 as 1M."""
    for suffix, size in (("M", 2**20), ("K", 2**10)):
        if number >= size and number % size == 0:
            return f"{number / size:g}{suffix}"
    return f"{number:g}"


_PREFIXES = ((1.0, ""), (1e3, "m"), (1e6, "µ"), (1e9, "n"))


def scaled(values: Sequence[float]) -> tuple[float, str]:
    """The factor and the prefix that write the largest of some values with digits before the point.

    >>> scaled([0.02, 0.0004])
    (1000.0, 'm')
    """
    largest = max(values, default=1.0)
    return next(((f, p) for f, p in _PREFIXES if largest * f >= 1), _PREFIXES[-1])


def sized(value: float, unit: str) -> str:
    """A value below a thousand with its prefix.

    >>> sized(0.03464, "s")
    '34.6 ms'
    """
    factor, prefix = scaled([value])
    number = value * factor
    digits = 2 if number < 10 else 1 if number < 100 else 0
    return f"{number:.{digits}f} {prefix}{unit}"
