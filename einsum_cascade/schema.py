"""What a cascade file may hold (the keys, not the notation inside them)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RankSpec(_Strict):
    """A rank: what it stands for, its parts (outermost first), the rank whose extent it shares."""

    about: str = ""
    partition: list[str] = []
    like: str | None = None


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
    parameters: Annotated[dict[str, str | None], BeforeValidator(_names)] = {}
    functions: Annotated[
        dict[str, Annotated[FunctionSpec, BeforeValidator(_about)]], BeforeValidator(_names)
    ] = {}
    inputs: list[str]
    outputs: list[str] = []
    initialization: Statements = []
    body: Statements
    final: Statements = []
    iterate: Annotated[list[IterateSpec], BeforeValidator(_listed)] = []
