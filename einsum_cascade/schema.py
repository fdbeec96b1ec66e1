"""What a cascade file may hold (the keys, not the notation inside them)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from einsum_cascade.expression import Expression, parse_expression


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def _formula(value: object) -> Expression:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("a number or arithmetic over extents is expected")
    return parse_expression(str(value))


Formula = Annotated[Expression, BeforeValidator(_formula)]


class RankSpec(_Strict):
    """A rank: what it stands for, its parts (outermost first), the rank whose extent it shares.

    `default` is the extent where a shape gives none.
    """

    about: str = ""
    partition: list[str] = []
    like: str | None = None
    default: Formula | None = None


class ParameterSpec(_Strict):
    """A size that is no rank: what it is, its value where none is given."""

    about: str = ""
    default: Formula | None = None


class FunctionSpec(_Strict):
    """A user-defined function: what it does, how many arguments it takes."""

    about: str = ""
    arguments: int = Field(default=1, ge=1)


class IterateSpec(_Strict):
    """An iterative rank: the first coordinate of its body, the condition that ends it."""

    rank: str
    start: int = Field(default=0, ge=0)
    stop: str | None = None


def _about(value: object) -> object:
    """A bare text (or nothing) stands for its `about`."""
    return {"about": value or ""} if value is None or isinstance(value, str) else value


def _names(value: object) -> object:
    return {str(v): None for v in value} if isinstance(value, list) else value


def _listed(value: object) -> object:
    return [value] if isinstance(value, dict) else [] if value is None else value


def _shares(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _lines(value: object) -> object:
    return [] if value is None else value


Statements = Annotated[list[str] | str, BeforeValidator(_lines)]
"""A list of Einsums, or one text with an Einsum a line."""


class CascadeSpec(_Strict):
    """A cascade file."""

    name: str
    description: str = ""
    source: str = ""
    ranks: Annotated[
        dict[str, Annotated[RankSpec, BeforeValidator(_about)]], BeforeValidator(_names)
    ]
    parameters: Annotated[
        dict[str, Annotated[ParameterSpec, BeforeValidator(_about)]], BeforeValidator(_names)
    ] = {}
    functions: Annotated[
        dict[str, Annotated[FunctionSpec, BeforeValidator(_about)]], BeforeValidator(_names)
    ] = {}
    inputs: list[str]
    outputs: list[str] = []
    initialization: Statements = []
    body: Statements
    final: Statements = []
    occupancy: dict[str, Annotated[list[Formula], BeforeValidator(_shares)]] = {}
    iterate: Annotated[list[IterateSpec], BeforeValidator(_listed)] = []
