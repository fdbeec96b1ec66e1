"""Free choices, each along an array axis of its own.

The first axis is the last of every array, the next one the last but one: an array that lacks the
later axes broadcasts against one that has them. So whatever depends on one choice alone is worked
out once for each of its values, and choices meet only where costs are added.
"""

from __future__ import annotations

from collections.abc import Mapping
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
        """A new choice between `values`: them along a new axis, or the one that is picked."""
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

    def which(self, name: str) -> list[Mask]:
        """For each value of a choice, where it is taken."""
        count = self.sizes[name]
        return [self.put(name, np.arange(count) == i) for i in range(count)]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an array along all axes."""
        return tuple(reversed(self.sizes.values()))

    def along(self, array: Number) -> frozenset[str]:
        """The choices on which an array depends."""
        shape = np.shape(array)
        names = list(self.sizes)
        return frozenset(names[i] for i, n in enumerate(reversed(shape)) if n > 1)

    def plain(self, array: Any, kept: Any = ()) -> np.ndarray:
        """An array without the axes of choices along which nothing changes, as iterations do not
        with the order of loops. Those of `kept` stay."""
        result = np.asarray(array)
        names = list(self.sizes)
        for behind, count in enumerate(reversed(result.shape)):
            if count > 1 and names[behind] not in kept:
                at = result.ndim - 1 - behind
                first = result[(slice(None),) * at + (slice(0, 1),)]
                if np.all(result == first):
                    result = first
        return result


__all__ = ["Axes"]
