"""How long after one task another may begin, if values are taken as they are made, word by word.

A task goes over its points in the order of its loops. A word is made with the last point that adds
to it and taken with the first that reads it. Both times are sums over the ranks of the word, so the
longest wait is a sum of one maximum for each rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np
from numpy.typing import NDArray

from sim.timeline.spaces import Space

Times = NDArray[np.int64]


@dataclass
class Between:
    """A tensor that passes from the tasks of `made` to those of `taken`.

    `ranks` are its ranks as the maker and the taker name them, with the distance by which the taker
    reads ahead; a taker's None means that it may want any coordinate. `extents` are the true ones.
    """

    made: Space
    taken: Space
    ranks: tuple[tuple[str, str | None, int], ...]
    extents: Mapping[str, int]
    _known: dict[tuple[object, ...], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = [rank for rank, _, _ in self.ranks]
        self._times = {rank: _points(self.made, rank) for rank in own}
        self._taken = {r: _points(self.taken, r) for _, r, _ in self.ranks if r is not None}
        self._rest = _others(self.made, own)

    def wait(self, maker: int, taker: int, each: float, other: float) -> float:
        """Cycles from the begin of task `maker` to that of `taker`, with cycles a point of both.

        Negative infinity when the taker reads nothing of it.
        """
        low = self.made.first(self.made.digits(maker))
        wanted = self.taken.first(self.taken.digits(taker))
        key = (
            each, other,
            *(low[rank] - wanted.get(str(r), 0) for rank, r, _ in self.ranks),
            *(min(0, self.extents[k] - low[k] - self.made.inside[k]) for k, _, _ in self.ranks),
        )  # fmt: skip
        if key not in self._known:
            self._known[key] = self._longest(low, wanted, each, other)
        return self._known[key]

    def _longest(
        self, low: Mapping[str, int], wanted: Mapping[str, int], each: float, other: float
    ) -> float:
        total = (self._rest + 1) * each
        for rank, reader, ahead in self.ranks:
            times = self._times[rank]
            begin, stop = 0, min(len(times), self.extents[rank] - low[rank])
            if reader is None:
                if stop <= begin:
                    return -inf
                total += float(times[:stop].max()) * each
                continue
            taken = self._taken[reader]
            shift = wanted[reader] + ahead - low[rank]
            begin, stop = max(begin, shift), min(stop, shift + len(taken))
            if stop <= begin:
                return -inf
            waits = times[begin:stop] * each - taken[begin - shift : stop - shift] * other
            total += float(waits.max())
        return total


def _inner(space: Space) -> Sequence[tuple[str, int, bool]]:
    """The loops inside of a task: rank, extent, and whether it is spatial."""
    return [(lp.rank, int(lp.extent), lp.spatial) for lp in space.loops[space.depth :]]


def _points(space: Space, rank: str) -> Times:
    """For each coordinate of a rank in a task, how many points its loops put before it."""
    found: Times = np.zeros(1, np.int64)
    behind = 1  # points in one iteration of the loop
    for own, extent, spatial in reversed(_inner(space)):
        if own == rank:
            steps = np.arange(extent) * (0 if spatial else behind)
            found = (steps[:, None] + found).ravel()
        if not spatial:
            behind *= extent
    return found


def _others(space: Space, ranks: Sequence[str]) -> int:
    """Points before the last one that adds to a word: those of all its reduction loops."""
    total, behind = 0, 1
    for own, extent, spatial in reversed(_inner(space)):
        if not spatial:
            if own not in ranks:
                total += (extent - 1) * behind
            behind *= extent
    return total


__all__ = ["Between"]
