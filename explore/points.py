"""The points of a grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Points:
    """The points of a grid, one array of length n for each axis, models as indices."""

    model: Array
    seq_len: Array
    batch: Array
    swept: dict[str, Array]

    def __len__(self) -> int:
        return len(self.seq_len)

    def __getitem__(self, index: Array) -> Points:
        """The points at `index`, as NumPy indexes."""
        swept = {name: values[index] for name, values in self.swept.items()}
        return Points(self.model[index], self.seq_len[index], self.batch[index], swept)

    @property
    def axes(self) -> list[Array]:
        """The values of every axis, those that an extent depends on first."""
        swept = sorted(self.swept, key=lambda name: not name.startswith("shape."))
        ranks = [self.swept[name] for name in swept if name.startswith("shape.")]
        others = [self.swept[name] for name in swept if not name.startswith("shape.")]
        return [*ranks, self.seq_len, self.model, *others, self.batch]
