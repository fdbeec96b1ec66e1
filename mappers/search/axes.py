"""Free choices, each along an array axis of its own.

The first axis is the last of every array, the next one the last but one: an array that lacks the
later axes broadcasts against one that has them. So whatever depends on one choice alone is worked
out once for each of its values, and choices meet only where costs are added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sim.mapping import Mask, Number


@dataclass
class Axes:
    """The choices of a structure by name, with how many values each has.

    With `picked` every choice is made: arrays along an axis are numbers then.
    """

    picked: Mapping[str, int] | None = None
    sizes: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, values: Any) -> Number:
        """A choice between `values`: them along a new axis, or one that was kept free for it; or
        the one that is picked."""
        values = np.asarray(values)
        self.sizes[name] = len(values)
        return self.put(name, values)

    def put(self, name: str, values: Any) -> Number:
        """Other values of a choice that there is."""
        values = np.asarray(values)
        if self.picked is not None:
            return values[self.picked[name]]
        behind = list(self.sizes).index(name)
        return values.reshape(len(values), *(1,) * behind)

    def which(self, name: str, count: int) -> list[Mask]:
        """A choice between so many: for each, where it is taken. None, where there is but one.

        Where one was picked that there is at other points only, the first is taken.
        """
        if count == 1:
            return [np.True_]
        self.sizes[name] = count
        if self.picked is not None:
            value = self.picked[name] if self.picked[name] < count else 0
            return [np.bool_(i == value) for i in range(count)]
        return [self.put(name, np.arange(count) == i) for i in range(count)]


def plain(array: Any, first: int = 0) -> np.ndarray:
    """An array without the axes (from the `first` on) along which nothing changes, as iterations do
    not with the order of loops: they have one entry.

    >>> plain([[1, 2], [1, 2]]).tolist()
    [[1, 2]]
    """
    result = np.asarray(array)
    for axis in range(first, result.ndim):
        if result.shape[axis] > 1:
            ahead = (slice(None),) * axis
            one = result[*ahead, :1]
            if (one == result[*ahead, 1:2]).all() and (result == one).all():
                result = one
    return result


def moved(array: Any, first: int, axes: Sequence[int]) -> np.ndarray:
    """An array with its axes from the `first` on (counted from the last) in other places behind
    these: so many further on are those of `axes`. Where one has a single entry, it may go anywhere.

    >>> moved(np.ones((5, 4, 3)), 1, (2, 0)).shape
    (4, 1, 5, 3)
    """
    array = np.asarray(array)
    if array.ndim <= first:
        return np.asarray(array)
    counts = array.shape[: array.ndim - first][::-1]
    behind = array.shape[array.ndim - first :]
    kept = [(place, at) for at, place in enumerate(axes[: len(counts)]) if counts[at] > 1]
    if not kept:
        return np.asarray(array.reshape(behind))
    now: np.ndarray = array.reshape(*(counts[at] for _, at in reversed(kept)), *behind)
    order = [len(kept) - 1 - i for i, _ in sorted(enumerate(kept), key=lambda k: k[1][0])][::-1]
    now = now.transpose(*order, *range(len(kept), now.ndim))
    shape = [1] * (max(place for place, _ in kept) + 1)
    for place, at in kept:
        shape[place] = counts[at]
    return np.asarray(now.reshape(*shape[::-1], *behind))


__all__ = ["Axes", "moved", "plain"]
