"""Costs that nothing beats: Pareto fronts of columns that are all to be small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

Column = Literal["latency_s", "energy_pj", "traffic_bytes", "buffer_bytes"]
COLUMNS: tuple[Column, ...] = get_args(Column)
PEAK: Column = "buffer_bytes"
"""Of phases that follow one another it is the largest that counts; all else adds up."""


def join(columns: Sequence[Column], one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Costs of phases that follow one another; columns along the last axis."""
    total = one + other
    if PEAK in columns:
        at = list(columns).index(PEAK)
        total[..., at] = np.maximum(one[..., at], other[..., at])
    return np.asarray(total)


_SHORT = 16
"""Rows of a front that are looked at one by one sooner than searched."""

_EQUAL = 1 + 1e-12
"""What differs by less is equal: the same sum, added up in another order."""


def front_of(costs: np.ndarray) -> np.ndarray:
    """Positions of the rows that no other row beats, one of those that are equal.

    >>> front_of(np.array([[1.0, 5.0], [2.0, 2.0], [3.0, 3.0], [2.0, 2.0]])).tolist()
    [0, 1]
    """
    if not len(costs):
        return np.zeros(0, dtype=np.int64)
    order = np.lexsort(costs.T[::-1])
    if costs.shape[1] == 1:
        return order[:1]
    if costs.shape[1] == 2:
        second = costs[order, 1]
        before = np.concatenate([[np.inf], np.minimum.accumulate(second)[:-1]])
        kept = order[second * _EQUAL < before]
        first = costs[kept, 0]
        return np.asarray(kept[np.append(first[:-1] * _EQUAL < first[1:], True)])
    every = []
    while len(order):
        best, rest = order[0], order[1:]
        every.append(best)
        order = rest[~np.all(costs[rest] * _EQUAL >= costs[best], axis=-1)]
    behind = [costs[every[i + 1 :]] for i in range(len(every))]
    return np.array([e for e, o in zip(every, behind, strict=True) if not beaten(costs[[e]], o)[0]])


def beaten(costs: np.ndarray, front: np.ndarray) -> np.ndarray:
    """Which rows some row of a front equals or beats in every column. A front of two columns is
    in the order of its first."""
    if not len(front):
        return np.zeros(len(costs), dtype=bool)
    columns = (costs * _EQUAL).T
    if len(columns) == 2 and len(front) > _SHORT:
        at = np.searchsorted(front[:, 0], columns[0], side="right") - 1
        return np.asarray((at >= 0) & (front[np.maximum(at, 0), 1] <= columns[1]))
    result = np.zeros(len(costs), dtype=bool)
    for row in front:
        worse = columns[0] >= row[0]
        for column, value in zip(columns[1:], row[1:], strict=True):
            worse &= column >= value
        result |= worse
    return result


def less(front: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The front that beats the rows (of two columns that add up) which a front beats, whichever of
    some others is added to them.

    >>> less(np.array([[3.0, 9.0], [5.0, 4.0]]), np.array([[1.0, 2.0], [2.0, 1.0]])).tolist()
    [[2.0, 8.0], [3.0, 7.0], [4.0, 3.0]]
    """
    first = np.unique(front[:, :1] - others[:, 0])
    second = np.zeros(len(first))
    for row in others:
        at = np.searchsorted(front[:, 0] - row[0], first, side="right") - 1
        second = np.maximum(second, np.where(at < 0, np.inf, front[at, 1] - row[1]))
    both = np.stack([first, second], axis=-1)[np.isfinite(second)]
    return np.asarray(both[front_of(both)])


@dataclass
class Front:
    """Costs that nothing beats so far, and the keys of what has them."""

    width: int
    costs: np.ndarray = field(init=False)
    keys: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.costs = np.zeros((0, self.width))
        self.keys = np.zeros((0, 4), dtype=np.int64)

    def add(self, costs: np.ndarray, keys: np.ndarray) -> None:
        """Take in further rows."""
        left = np.flatnonzero(~beaten(costs, self.costs))
        if not len(left):
            return
        left = left[front_of(costs[left])]
        both = np.concatenate([self.costs, costs[left]])
        every = np.concatenate([self.keys, keys[left]])
        kept = front_of(both)
        self.costs, self.keys = both[kept], every[kept]


__all__ = ["COLUMNS", "PEAK", "Column", "Front", "beaten", "front_of", "join", "less"]
