"""Costs that nothing beats: Pareto fronts of columns that are all to be small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

Column = Literal["latency_s", "energy_pj", "traffic_bytes", "buffer_bytes"]
COLUMNS: tuple[Column, ...] = get_args(Column)
_PEAK: Column = "buffer_bytes"
"""Of phases that follow one another it is the largest that counts; all else adds up."""


def join(columns: Sequence[Column], one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Costs of phases that follow one another; columns along the last axis."""
    total = one + other
    if _PEAK in columns:
        at = list(columns).index(_PEAK)
        total[..., at] = np.maximum(one[..., at], other[..., at])
    return np.asarray(total)


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
        return np.asarray(order[second < before])
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        order = rest[~np.all(costs[rest] >= costs[best], axis=-1)]
    return np.array(kept)


def beaten(costs: np.ndarray, front: np.ndarray) -> np.ndarray:
    """Which rows some row of a front equals or beats in every column. A front of two columns is
    in the order of its first."""
    if not len(front):
        return np.zeros(len(costs), dtype=bool)
    if costs.shape[1] == 2:
        at = np.searchsorted(front[:, 0], costs[:, 0], side="right") - 1
        return np.asarray((at >= 0) & (front[np.maximum(at, 0), 1] <= costs[:, 1]))
    result = np.zeros(len(costs), dtype=bool)
    for row in front:
        result |= np.all(costs >= row, axis=-1)
    return result


@dataclass
class Front:
    """Costs that nothing beats so far, and the keys of what has them."""

    width: int
    costs: np.ndarray = field(init=False)
    keys: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.costs = np.zeros((0, self.width))
        self.keys = np.zeros((0, 3), dtype=np.int64)

    def add(self, costs: np.ndarray, key: Callable[[np.ndarray], np.ndarray]) -> None:
        """Take in further rows; `key` gives the keys of those at some positions."""
        left = np.flatnonzero(~beaten(costs, self.costs))
        if not len(left):
            return
        left = left[front_of(costs[left])]
        both = np.concatenate([self.costs, costs[left]])
        keys = np.concatenate([self.keys, key(left)])
        kept = front_of(both)
        self.costs, self.keys = both[kept], keys[kept]


__all__ = ["COLUMNS", "Column", "Front", "beaten", "front_of", "join"]
