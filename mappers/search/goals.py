"""What is minimized, what a mapping must keep to, and what may still be of use for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from mappers.search.fronts import PEAK, Column, beaten, join, less

Score = str
_ROUNDING = 1 - 1e-9
"""Bounds are sums in another order than costs: one that is above a limit by less is not."""

Alive = Callable[[np.ndarray, int | None], np.ndarray]
"""Which rows of costs may be part of a mapping that is better than what there is, for one of the
tiles that the cascade itself makes."""


@dataclass(frozen=True)
class Goal:
    """What is minimized: all `columns` at once, or with a `score` that one number.

    Only mappings count whose costs are within `limits`. What would draw more than `power_w` waits:
    its latency is then its energy over that power. Both are as monotone as the costs are: what
    another mapping beats in all columns is neither better nor within limits where that one is not.
    So the best within limits is always among what nothing beats.
    """

    columns: tuple[Column, ...]
    score: Score | None = None
    limits: Mapping[Column, float] = field(default_factory=dict)
    power_w: float = np.inf

    def waited(self, costs: np.ndarray) -> np.ndarray:
        """Costs with the latency as it is after waiting."""
        if not np.isfinite(self.power_w):
            return costs
        latency, energy = self.columns.index("latency_s"), self.columns.index("energy_pj")
        costs = np.array(costs)
        slowest = costs[..., energy] * 1e-12 / self.power_w
        costs[..., latency] = np.maximum(costs[..., latency], slowest)
        return costs

    def within(self, costs: np.ndarray, slack: float = 1.0) -> np.ndarray:
        """Which rows keep to all limits."""
        costs = self.waited(costs)
        fine = np.ones(costs.shape[:-1], dtype=bool)
        for column, most in self.limits.items():
            fine &= costs[..., self.columns.index(column)] * slack <= most
        return fine

    def of(self, costs: np.ndarray) -> np.ndarray:
        """The score of rows of costs; of a front, its first column."""
        costs = self.waited(costs)
        if self.score == "edp":
            result: np.ndarray = costs[..., 0] * costs[..., 1]
            return result
        return np.asarray(costs[..., 0])

    def promise(self, costs: np.ndarray) -> np.ndarray:
        """What says which rows are to be looked at first: the score, or the product of all."""
        return np.asarray(costs.prod(axis=-1)) if self.score is None else self.of(costs)

    def useful(self, total: np.ndarray, best: np.ndarray) -> np.ndarray:
        """Which rows, of the least that something costs, may still lead to what beats `best`: whole
        mappings that nothing beats. Of an equal score, less in the next column is better."""
        fine = self.within(total, _ROUNDING)
        if self.score is None:
            return np.asarray(fine & ~beaten(total, best))
        best = best[self.within(best)]
        if not len(best):
            return fine
        score, scores = self.of(total), self.of(best)
        least = scores.min()
        if self.score == "edp":
            return np.asarray(fine & (score < least))
        tied = best[scores == least, 1].min()
        equal = (score <= least) & (total[..., 1] < tied)
        return np.asarray(fine & ((score < least) | equal))

    def alive(self, around: Mapping[int | None, np.ndarray], best: np.ndarray) -> Alive:
        """What may be part of a mapping that beats the `best`.

        `around` has, for each of the tiles that the cascade itself makes, rows of what all else of
        such a mapping costs at least, one of which no mapping is below in any column.
        """
        beyond = {}
        limited = self.limits or np.isfinite(self.power_w)
        plain = len(self.columns) == 2 and self.score is None and PEAK not in self.columns
        if len(best) and plain and not limited:
            beyond = {part: less(best, rows) for part, rows in around.items() if len(rows)}

        def alive(costs: np.ndarray, part: int | None) -> np.ndarray:
            if part in beyond:
                return ~beaten(costs, beyond[part])
            fine = np.zeros(len(costs), dtype=bool)
            for row in around.get(part, ()):
                left = np.flatnonzero(~fine)
                fine[left] = self.useful(join(self.columns, costs[left], row), best)
            return fine

        return alive


__all__ = ["Alive", "Goal", "Score"]
