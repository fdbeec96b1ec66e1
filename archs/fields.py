"""What the blocks of an architecture file are made of: names, cited blocks, numbers with units."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from einsum_cascade.expression import (
    Expression,
    looks_like_quantity,
    parse_expression,
    parse_quantity,
)
from einsum_cascade.source import InputError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$", max_length=64)]


class Strict(BaseModel):
    """Unknown keys are refused: a typo must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Cited(Strict):
    """A block whose numbers come from somewhere."""

    source: str | None = None
    inferred: str | None = None
    note: str | None = None


def _number(unit: str, minimum: float) -> BeforeValidator:
    def parse(raw: Any) -> float | Expression:
        if isinstance(raw, dict):
            unknown = set(raw) - {"value", "source", "inferred", "note"}
            if unknown or "value" not in raw:
                raise ValueError("a cited number is written {value: ..., source: ...}")
            if not (raw.get("source") or raw.get("inferred")):
                raise ValueError("a cited number needs a source, or what it is inferred from")
            raw = raw["value"]
        if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
            raise ValueError(f"a number{f' in {unit}' if unit else ''} is expected")
        try:
            value = parse_quantity(raw, unit)
        except InputError:
            if not isinstance(raw, str):
                raise
            if looks_like_quantity(raw):
                raise
            return parse_expression(raw)
        if not value >= minimum or value == float("inf") or value > 1e30:
            raise ValueError(f"a number of at least {minimum:g} is expected")
        if minimum == 0 and unit == "positive":
            raise ValueError("a positive number is expected")
        return value

    return BeforeValidator(parse)


_TINY = 1e-30
Count = Annotated[Any, _number("", 1)]
NonNegative = Annotated[Any, _number("", 0)]
Hertz = Annotated[Any, _number("Hz", _TINY)]
Bytes = Annotated[Any, _number("B", _TINY)]
BytesPerSecond = Annotated[Any, _number("B/s", _TINY)]
