"""What need not be costed, and why; and how many candidates that was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mappers.search.fronts import Front, beaten
from mappers.search.goals import Alive
from mappers.search.measures import Measures

_REASONS = ("illegal", "too_large", "bounded", "dominated")


@dataclass
class Count:
    """Candidates: all that the space has, those that were costed (and of these, what was legal and
    fitted), and the others by what proved that they need not be. Besides, `ahead` were costed to
    know what is good."""

    covered: int = 0
    ahead: int = 0
    costed: int = 0
    valid: int = 0
    illegal: int = 0
    too_large: int = 0
    dominated: int = 0
    bounded: int = 0

    def add(self, other: Count) -> None:
        """Count further ones."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def leave_out(self, verdicts: np.ndarray, each: int) -> None:
        """Count what a screen leaves out, where each stands for so many candidates."""
        numbers = np.bincount(verdicts, minlength=len(_REASONS) + 1)[1:]
        for name, number in zip(_REASONS, numbers.tolist(), strict=True):
            setattr(self, name, getattr(self, name) + number * each)


@dataclass(frozen=True)
class Screen:
    """What candidates of a run have to pass: `fronts` are what is best so far, for each of the
    tiles that the cascade itself makes (of so many `parts`), or for all at once."""

    measures: Measures
    alive: Alive
    fronts: Mapping[int | None, Front]
    parts: int

    def verdicts(self, sums: np.ndarray, x: np.ndarray) -> np.ndarray:
        """0 for what may be of use, else the number of the reason why it is not: 1 not legal, 2 too
        large, 3 beyond a bound, 4 dominated.

        `sums` are measures by candidates, complete or the least that they can be; `x` numbers the
        sizes of their tiles.
        """
        legal = np.isfinite(sums[0])
        good = legal & self.measures.fit(sums)
        if not np.all(good):
            found = np.where(legal, 2, 1)
            left = np.flatnonzero(good)
            if len(left):
                found[left] = self.verdicts(sums.take(left, axis=1), x[left])
            return found
        costs = self.measures.costs(sums)
        found = np.full(len(x), 3)
        for part, own in self.by_part(x):
            if part in self.fronts:
                here = costs[own]
                dominated = np.where(beaten(here, self.fronts[part].costs), 4, 0)
                found[own] = np.where(self.alive(here, part), dominated, 3)
        return found

    def by_part(self, x: np.ndarray) -> Iterator[tuple[int | None, Any]]:
        """Positions of the candidates that have a front in common."""
        if None in self.fronts:
            yield None, slice(None)
            return
        part = x % self.parts
        for each in np.unique(part).tolist():
            yield each, np.flatnonzero(part == each)


__all__ = ["Count", "Screen"]
