"""What an architecture file may say.

A number is written as a number, as a quantity with its unit (`16 MiB`, `940 MHz`), as an expression
over the file's parameters (`2*array_dim`), or as `{value: ..., source: ...}` with `inferred: ...`
in place of a published source. Each block may carry one `source` for all its numbers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from archs.fields import (
    Bytes,
    BytesPerSecond,
    Cited,
    Count,
    Hertz,
    Name,
    NonNegative,
)
from archs.resources_schema import ComponentSchema
from einsum_cascade.source import InputError


class PortSchema(Cited):
    """A way into a memory. `carries` names the number formats that the port is kept for."""

    kernel_bits: Count
    memory_bits: Count
    single_beat_cycles: Count = 1.0
    carries: list[Name] = Field(default_factory=list)


class MemorySchema(Cited):
    """One memory level."""

    size_bytes: Bytes | None = None
    bandwidth_bytes_per_s: BytesPerSecond | None = None
    access_words: Count = 1.0
    read_energy_pj: NonNegative
    write_energy_pj: NonNegative
    area_um2: NonNegative = 0.0
    latency_cycles: NonNegative = 0.0
    ports: dict[Name, PortSchema] = Field(default_factory=dict)


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


class LoopSchema(Cited):
    """A pipelined loop: cycles from iteration to iteration, and of one iteration."""

    interval_cycles: Count
    depth_cycles: NonNegative


def _named(raw: Any) -> Any:
    """A list of names, as a mapping of names to nothing."""
    return {name: {} for name in raw} if isinstance(raw, list) else raw


class ArraySchema(Cited):
    """A 1D or 2D compute array, of PEs with units and registers or of pipelined loops."""

    shape: list[Count] = Field(min_length=1, max_length=3)
    loop: LoopSchema | None = None
    units: dict[Name, UnitSchema] = Field(default_factory=dict)
    operations: Annotated[dict[Name, OperationSchema], BeforeValidator(_named)] = Field(
        min_length=1
    )
    registers: RegistersSchema | None = None

    @model_validator(mode="after")
    def _known(self) -> ArraySchema:
        if self.loop is None and len(self.shape) > 2:
            raise InputError(
                "an array of PEs has at most 2 dimensions (3: a pipelined loop)", keys=("shape",)
            )
        for key, value in (("units", self.units), ("registers", self.registers)):
            if self.loop is None and not value:
                raise InputError(f"an array of PEs needs {key}, or else is a loop", keys=(key,))
            if self.loop is not None and value:
                raise InputError(f"a pipelined loop has no {key}", keys=(key,))
        for name, operation in self.operations.items():
            if self.loop is not None and operation.model_fields_set:
                raise InputError(
                    "the operations of a pipelined loop are a list of names: an iteration takes "
                    "its interval, whatever is in it",
                    keys=("operations", name),
                )
            if self.loop is None and operation.sequence is None and operation.unit is None:
                raise InputError(
                    "an operation needs a unit or a sequence of other operations",
                    keys=("operations", name),
                )
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


def _device(raw: Any) -> Any:
    """The name or the path of an FPGA, or what it has."""
    if raw is None or isinstance(raw, (str, dict)):
        return raw
    raise ValueError("the name of a device, a path, or its totals are expected")


class ArchitectureSchema(Cited):
    """An architecture file."""

    name: Name
    description: str = ""
    kind: Literal["spatial-array", "fpga-template"] = "spatial-array"
    parameters: dict[Name, NonNegative] = Field(default_factory=dict)
    clock_hz: Hertz
    word_bytes: Bytes
    formats: dict[Name, Count] = Field(default_factory=dict)
    power_w: NonNegative = 0.0
    memories: dict[Name, MemorySchema] = Field(min_length=2)
    arrays: dict[Name, ArraySchema] = Field(min_length=1)
    links: list[LinkSchema] = Field(default_factory=list)
    device: Annotated[Any, BeforeValidator(_device)] = None
    resources: dict[Name, ComponentSchema] = Field(default_factory=dict)

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
        for name, memory in self.memories.items():
            for port, schema in memory.ports.items():
                for format_ in schema.carries:
                    if format_ not in self.formats:
                        raise InputError(
                            f"port {port!r} carries unknown number format {format_!r}",
                            allowed=self.formats,
                            found=format_,
                            keys=("memories", name, "ports", port, "carries"),
                        )
            if memory.ports and name != outermost:
                raise InputError(
                    f"memory {name!r} has ports: only the outermost has",
                    keys=("memories", name, "ports"),
                )
        if self.resources and self.device is None:
            raise InputError(
                "resources need the device that they are taken from", keys=("resources",)
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
