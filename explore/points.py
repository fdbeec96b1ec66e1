"""The points of a grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Points:
    """The points of a grid: arrays that broadcast together, models as indices.

    Those of a whole grid have the shape of `product`: what follows from a few axes is then worked
    out once for each combination of their values, not at every point. Any others are flat, with
    arrays of length n. Their order, and that of positions, is the one of the flat points.
    """

    model: Array
    seq_len: Array
    batch: Array
    swept: dict[str, Array]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape to which all arrays broadcast."""
        every = (self.model, self.seq_len, self.batch, *self.swept.values())
        return np.broadcast_shapes(*(values.shape for values in every))

    @cached_property
    def flat(self) -> Points:
        """The same points one after the other, with an array of length n for each axis."""
        return self._each(lambda values: np.broadcast_to(values, self.shape).reshape(-1))

    @property
    def is_flat(self) -> bool:
        """Whether they are one after the other, along one dimension."""
        return len(self.shape) == 1

    def __len__(self) -> int:
        return math.prod(self.shape)

    def __getitem__(self, index: Array) -> Points:
        """The flat points at `index` (positions, or a mask of length n), as NumPy indexes."""
        return self.flat._each(lambda values: values[index])

    def _each(self, function: Callable[[Array], Array]) -> Points:
        swept = {name: function(values) for name, values in self.swept.items()}
        return Points(function(self.model), function(self.seq_len), function(self.batch), swept)

    @property
    def axes(self) -> list[Array]:
        """The values of every axis, those that an extent depends on first."""
        swept = sorted(self.swept, key=lambda name: not name.startswith("shape."))
        ranks = [self.swept[name] for name in swept if name.startswith("shape.")]
        others = [self.swept[name] for name in swept if not name.startswith("shape.")]
        return [*ranks, self.seq_len, self.model, *others, self.batch]


def product(axes: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """All combinations of the values of axes, outermost first, as arrays that broadcast together.

    Values that vary together are one axis. Each axis has a dimension of its own, those of one value
    have none.

    >>> both = product([{"a": np.arange(2)}, {"b": np.arange(1)}, {"c": np.arange(3)}])
    >>> {name: values.shape for name, values in both.items()}
    {'a': (2, 1), 'b': (1, 1), 'c': (1, 3)}
    """
    counts = [len(next(iter(axis.values()))) for axis in axes]
    several = [at for at, count in enumerate(counts) if count > 1]
    found: dict[str, Array] = {}
    for at, axis in enumerate(axes):
        shape = tuple(counts[at] if at == other else 1 for other in several) or (1,)
        found |= {name: values.reshape(shape) for name, values in axis.items()}
    return found
