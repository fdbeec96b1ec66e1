"""What a network file holds: blocks of kernels, their shapes and counts as expressions."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from einsum_cascade.expression import Expression, parse_expression


def _expression(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return parse_expression(str(value))
    if isinstance(value, str):
        return parse_expression(value)
    raise ValueError("arithmetic such as 'B*P' is expected")


_Rule = Annotated[Expression, BeforeValidator(_expression)]
_ONE = parse_expression("1")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class KernelRule(_Strict):
    """A kernel of a block: a cascade, its extents and how often it runs in one repetition.

    `cascade` is a name, a path, or `model.FIELD`: the cascade that a field of the model names. A
    kernel of the name `attention` takes of `shape` what its cascade has, so that another cascade
    can stand in its place. A count of 0 means that the model has no such kernel. `weight_sets`: how
    many sets of weights it has, one of which is used at a time (a gate for each task).
    """

    name: str
    cascade: str
    shape: dict[str, _Rule]
    count: _Rule = _ONE
    weight_sets: _Rule = _ONE


class Block(_Strict):
    """Kernels that run one after the other, `repeat` times."""

    repeat: _Rule = _ONE
    kernels: tuple[KernelRule, ...] = Field(min_length=1)


class Network(_Strict):
    """The kernels of a network, for any model, batch, number of queries and number of keys.

    `symbols` are named expressions that those behind them, and the blocks, may use.
    """

    name: str
    about: str = ""
    source: str = ""
    symbols: dict[str, _Rule] = {}
    blocks: dict[str, Block] = Field(min_length=1)


__all__ = ["Block", "KernelRule", "Network"]
