"""Measured routings: how many tokens each expert of each layer got."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from einsum_cascade.source import InputError

_Count = Annotated[int, Field(strict=True, ge=0)]
_Extent = Annotated[int, Field(strict=True, ge=1)]


class Routing(BaseModel):
    """Counted tokens of each expert, a row of `loads` for each layer with experts.

    A single row stands for all layers. `tokens` (batch times tokens) went to TOPK experts each, so
    that every row sums to tokens * TOPK and no expert has more than all tokens.

    >>> Routing(tokens=3, TOPK=2, loads=[[3, 1, 2]]).histogram
    (3.0, 1.0, 2.0)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "inline"
    about: str = ""
    tokens: _Extent
    TOPK: _Extent
    loads: Annotated[tuple[tuple[_Count, ...], ...], Field(min_length=1)]
    source: str = ""

    @model_validator(mode="after")
    def _adds_up(self) -> Routing:
        wanted = self.tokens * self.TOPK
        for i, layer in enumerate(self.loads):
            keys = ("loads", i)
            if len(layer) != len(self.loads[0]):
                raise InputError(
                    f"{len(layer)} experts, but {len(self.loads[0])} in the first layer", keys=keys
                )
            if sum(layer) != wanted:
                raise InputError(
                    f"loads sum to {sum(layer)}, but {self.tokens} tokens went to {self.TOPK} "
                    f"experts each: {wanted}",
                    keys=keys,
                )
            if max(layer) > self.tokens:
                raise InputError(f"an expert has {max(layer)} tokens of {self.tokens}", keys=keys)
        return self

    @property
    def histogram(self) -> tuple[float, ...] | tuple[tuple[float, ...], ...]:
        """The loads as `kernels` takes them."""
        rows = tuple(tuple(map(float, layer)) for layer in self.loads)
        return rows[0] if len(rows) == 1 else rows


__all__ = ["Routing"]
