"""What an architecture file may say.

A number is written as a number, as a quantity with its unit (`16 MiB`, `940 MHz`), as an expression
over the file's parameters (`2*array_dim`), or as `{value: ..., source: ...}` with `inferred: ...`
in place of a published source. Each block may carry one `source` for all its numbers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

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


class MemorySchema(Cited):
    """One memory level."""

    size_bytes: Bytes | None = None
    bandwidth_bytes_per_s: BytesPerSecond | None = None
    access_words: Count = 1.0
    read_energy_pj: NonNegative
    write_energy_pj: NonNegative
    area_um2: NonNegative = 0.0


class UnitSchema(Cited):
    """A functional unit of a processing element."""

    area_um2: NonNegative


class OperationSchema(Cited):
    """An operation: on a unit for some cycles, or as a sequence of other operations."""

    unit: str | None = None
    cycles: NonNegative = 1.0
    energy_pj: NonNegative | None = None
    sequence: dict[str, Count] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> OperationSchema:
        if self.sequence is None and self.unit is None:
            raise ValueError("an operation needs a unit or a sequence of other operations")
        if self.sequence is not None and self.unit is not None:
            raise ValueError(
                "an operation has a unit or a sequence of others, not both: write `sequence: null` "
                "or `unit: null` to be rid of the one in the file that it extends"
            )
        if self.unit is not None and self.energy_pj is None:
            raise ValueError("an operation on a unit needs energy_pj")
        return self


class RegistersSchema(Cited):
    """The register file of each processing element."""

    words: Count
    area_um2: NonNegative
    energy_pj: NonNegative


class ArraySchema(Cited):
    """A 1D or 2D compute array."""

    shape: list[Count] = Field(min_length=1, max_length=2)
    units: dict[Name, UnitSchema] = Field(min_length=1)
    operations: dict[Name, OperationSchema] = Field(min_length=1)
    registers: RegistersSchema

    @model_validator(mode="after")
    def _known(self) -> ArraySchema:
        for name, operation in self.operations.items():
            if operation.unit is not None and operation.unit not in self.units:
                raise InputError(
                    f"operation {name!r} runs on unknown unit {operation.unit!r}",
                    allowed=self.units,
                    found=operation.unit,
                    keys=("operations", name, "unit"),
                )
            for part in operation.sequence or ():
                if part not in self.operations:
                    raise InputError(
                        f"operation {name!r} is a sequence of unknown operation {part!r}",
                        allowed=[n for n in self.operations if n != name],
                        found=part,
                        keys=("operations", name, "sequence", part),
                    )
        for name in self.operations:
            self._refuse_loop(name, ())
        return self

    def _refuse_loop(self, name: str, above: tuple[str, ...]) -> None:
        """A sequence may hold sequences, but not itself."""
        if name in above:
            loop = " -> ".join([*above[above.index(name) :], name])
            raise InputError(
                f"operation {name!r} is a sequence of itself: {loop}", keys=("operations", name)
            )
        for part in self.operations[name].sequence or ():
            self._refuse_loop(part, (*above, name))


class LinkSchema(Cited):
    """One array hands its results to another without a trip through a memory."""

    model_config = ConfigDict(populate_by_name=True)
    origin: str = Field(alias="from")
    target: str = Field(alias="to")


class ArchitectureSchema(Cited):
    """An architecture file."""

    name: Name
    description: str = ""
    kind: Literal["spatial-array"] = "spatial-array"
    parameters: dict[Name, NonNegative] = Field(default_factory=dict)
    clock_hz: Hertz
    word_bytes: Bytes
    memories: dict[Name, MemorySchema] = Field(min_length=2)
    arrays: dict[Name, ArraySchema] = Field(min_length=1)
    links: list[LinkSchema] = Field(default_factory=list)

    @model_validator(mode="after")
    def _consistent(self) -> ArchitectureSchema:
        outermost, *inner = self.memories
        for name in inner:
            if self.memories[name].size_bytes is None:
                raise InputError(
                    f"memory {name!r} needs size_bytes: only the outermost has no end",
                    keys=("memories", name),
                )
        if self.memories[outermost].bandwidth_bytes_per_s is None:
            raise InputError(
                f"the outermost memory {outermost!r} needs bandwidth_bytes_per_s",
                keys=("memories", outermost),
            )
        for i, link in enumerate(self.links):
            for key, end in (("from", link.origin), ("to", link.target)):
                if end not in self.arrays:
                    raise InputError(
                        f"a link names unknown array {end!r}",
                        allowed=self.arrays,
                        found=end,
                        keys=("links", i, key),
                    )
        return self
