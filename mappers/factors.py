"""Candidate tile counts for many design points at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def divisors(number: int) -> list[int]:
    """All divisors, ascending.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    low = np.arange(1, int(np.sqrt(number)) + 1)
    low = low[number % low == 0]
    return sorted({*map(int, low), *(number // int(d) for d in low)})


def divisor_table(numbers: object) -> Floats:
    """The divisors of each number along a new last axis, padded with the number itself.

    >>> divisor_table([4, 6])
    array([[1., 2., 4., 4.],
           [1., 2., 3., 6.]])
    """
    array = np.atleast_1d(np.asarray(numbers, dtype=np.float64))
    unique, inverse = np.unique(array, return_inverse=True)
    lists = [divisors(int(n)) for n in unique]
    width = max(map(len, lists))
    table = np.array([row + [row[-1]] * (width - len(row)) for row in lists], dtype=np.float64)
    return table[inverse.reshape(-1)].reshape(*array.shape, width)


def largest_divisor(numbers: object, limit: object) -> Floats:
    """The largest divisor of each number that is not above `limit`.

    >>> largest_divisor([1024, 1000], 256)
    array([256., 250.])
    """
    table = divisor_table(numbers)
    fits = table <= np.asarray(limit, dtype=np.float64)[..., None]
    found: Floats = np.where(fits, table, 1.0).max(axis=-1)
    return found
