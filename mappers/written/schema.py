"""What a file that holds a mapping may say. One page of explanation: docs/mappings.md."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from einsum_cascade.expression import looks_like_quantity, parse_expression, parse_quantity
from einsum_cascade.source import InputError


def _extent(raw: Any) -> Any:
    """A number such as 256 or 4K, or an expression."""
    if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
        raise ValueError("a number or an expression is expected")
    if isinstance(raw, str) and not looks_like_quantity(raw):
        return parse_expression(raw)
    return parse_quantity(raw)


def _loop(raw: Any) -> Any:
    return raw if isinstance(raw, dict) else {"extent": raw}


def _tile(raw: Any) -> Any:
    return {"tensor": raw} if isinstance(raw, str) else raw


def _listed(raw: Any) -> Any:
    return [raw] if isinstance(raw, str) else raw


Extent = Annotated[Any, BeforeValidator(_extent)]
Names = Annotated[list[str], BeforeValidator(_listed)]
Issue = Literal["sequential", "pipelined"]
Folds = Literal["pipelined", "serialized"]
LoopName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:-]*$")]


class Strict(BaseModel):
    """Unknown keys are refused: a typo must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class LoopSchema(Strict):
    """A loop: how often, and over which rank where its name does not begin with it."""

    extent: Extent
    rank: str | None = None


class TileSchema(Strict):
    """A tile, below the innermost loop around it unless `below` names another one.

    `einsums` are those it is for, if not for all inside that reach the tensor.
    """

    tensor: str
    below: str | None = None
    copies: Annotated[int, Field(ge=1)] = 1
    retain: bool = True
    einsums: Annotated[Names | None, Field(min_length=1)] = None


Loops = dict[LoopName, Annotated[LoopSchema, BeforeValidator(_loop)]]
Keep = dict[str, list[Annotated[TileSchema, BeforeValidator(_tile)]]]


class NodeSchema(Strict):
    """Loops around what they `do`, or one Einsum with the loops that it has alone."""

    model_config = ConfigDict(populate_by_name=False)
    for_: Loops = Field(default_factory=dict, alias="for")
    keep: Keep = Field(default_factory=dict)
    do: list[NodeSchema] | None = Field(default=None, min_length=1)
    einsum: str | None = None
    array: str | None = None
    spatial: Loops = Field(default_factory=dict)
    issue: Issue | None = None
    folds: Folds | None = None
    restarts: str | None = None
    stagger: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> NodeSchema:
        if (self.do is None) == (self.einsum is None):
            both = "not both" if self.do else "and has neither"
            raise InputError(f"a node has an einsum, or loops and what they do, {both}")
        if self.einsum is not None and self.array is None:
            raise InputError(f"{self.einsum} needs the array that it runs on", keys=("einsum",))
        if self.do is not None:
            if not self.for_:
                raise InputError("what is done needs loops around it: for: {...}", keys=("do",))
            own = self.model_fields_set - {"for_", "keep", "do"}
            for key in sorted(own):
                raise InputError(f"{key!r} belongs to an einsum", keys=(key,))
        return self


class PhaseSchema(Strict):
    """A phase: where tensors live, the tree of loops, the schedule.

    `issue` and `folds` are those of its Einsums that do not say otherwise.
    """

    name: Annotated[str, Field(min_length=1)]
    issue: Issue = "sequential"
    folds: Folds = "pipelined"
    home: dict[str, Names] = Field(default_factory=dict)
    in_place_of: dict[str, str] = Field(default_factory=dict)
    handed_to: dict[str, Names] = Field(default_factory=dict)
    keep: Keep = Field(default_factory=dict)
    nest: list[NodeSchema] = Field(default_factory=list)
    steps: list[Names] = Field(default_factory=list)
    stall_cycles: Extent = 0.0
    interleaved: list[Names] = Field(default_factory=list)
    spilled: dict[str, Names] = Field(default_factory=dict)
    formats: dict[str, str] = Field(default_factory=dict)
    ports: dict[str, str] = Field(default_factory=dict)
    ahead: Names = Field(default_factory=list)

    @model_validator(mode="after")
    def _something(self) -> PhaseSchema:
        if not self.nest and not self.stall_cycles:
            raise InputError("a phase has a nest (or waits: stall_cycles)", keys=("name",))
        return self


class MappingSchema(Strict):
    """A whole mapping. `shape` says which extents it is for, and sets tiles of the cascade's own;
    `recompute` names intermediates that are made again for later passes."""

    name: Annotated[str, Field(min_length=1)]
    note: str = ""
    cascade: str | None = None
    recompute: Names = Field(default_factory=list)
    shape: dict[str, Extent] = Field(default_factory=dict)
    phases: list[PhaseSchema] = Field(min_length=1)
