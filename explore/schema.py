"""What an experiment spec may say. One page of explanation: docs/experiments.md."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from einsum_cascade.expression import Expression, parse_expression, parse_quantity
from einsum_cascade.source import InputError
from explore.sweeps.block import SamplingSchema, Sweep

LARGEST = 2**40


def _size(raw: Any) -> int:
    value = parse_quantity(raw)
    if not (1 <= value <= LARGEST and value == int(value)):
        raise ValueError(f"a whole number from 1 to {LARGEST} is expected")
    return int(value)


def _queries(raw: Any) -> Any:
    if raw == "seq_len":
        return raw
    if isinstance(raw, list):
        raise ValueError("one number or seq_len is expected (others need a spec of their own)")
    return _size(raw)


def _loads(raw: Any) -> Any:
    """A number for each expert, a list of such lists, or the name or path of a routing."""

    def numbers(row: Any) -> bool:
        return bool(row) and isinstance(row, list) and all(type(n) in (int, float) for n in row)

    if raw is None or isinstance(raw, str) or numbers(raw):
        return raw
    if raw and isinstance(raw, list) and all(map(numbers, raw)):
        return raw
    raise ValueError("numbers, a list of numbers for each layer, or a routing are expected")


def _listed(raw: Any) -> Any:
    return raw if isinstance(raw, list) else [raw]


def _expression(raw: Any) -> Expression:
    return parse_expression(str(raw)) if isinstance(raw, (int, float, str)) else _no_text()


def _no_text() -> Expression:
    raise ValueError("an expression is expected")


Size = Annotated[int, BeforeValidator(_size)]
Sizes = Annotated[list[Size], BeforeValidator(_listed), Field(min_length=1)]
Formula = Annotated[Expression, BeforeValidator(_expression)]
Formulas = Annotated[list[Formula], BeforeValidator(_listed), Field(min_length=1)]
Kernel = Literal["attention", "encoder", "network"]
Kernels = Annotated[list[Kernel], BeforeValidator(_listed), Field(min_length=1)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]+$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]


class Strict(BaseModel):
    """Unknown keys are refused: a typo must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class WorkloadSchema(Strict):
    """What is computed: models x kernels x sequence lengths x batch sizes.

    `queries` is how many tokens attend to the `seq_len` keys: all, or those of a decoding step. For
    the kernel `network`, `attention` is the design's cascade or the network's own, and `histogram`
    the load of each expert, for all layers or for each, or a measured routing by its name or path.
    """

    models: list[str | dict[str, Any]] = Field(min_length=1)
    kernels: Kernels = ["attention"]
    seq_len: Sizes
    batch: Sizes = [1]
    queries: Annotated[Any, BeforeValidator(_queries)] = "seq_len"
    attention: Literal["design", "network"] = "design"
    histogram: Annotated[Any, BeforeValidator(_loads)] = None


class DesignSchema(Strict):
    """A cascade on an architecture with a mapping.

    `shape` sets ranks that neither the model nor the workload does, or says how they follow from
    what those set (`P: P*H`); `occupancy` the expected shares of filters on data,
    or measured distributions of them.
    """

    arch: str | dict[str, Any]
    cascade: str
    mapper: str | dict[str, Any]
    shape: dict[str, Formula] = Field(default_factory=dict)
    occupancy: dict[str, Formulas] = Field(default_factory=dict)


class VariantsSchema(Strict):
    """A design for every combination; `cascade: all` is every packaged attention variant."""

    arch: Annotated[list[str | dict[str, Any]], BeforeValidator(_listed), Field(min_length=1)]
    cascade: Annotated[list[str], BeforeValidator(_listed), Field(min_length=1)]
    mapper: Annotated[list[str | dict[str, Any]], BeforeValidator(_listed), Field(min_length=1)]


class RankSchema(Strict):
    """What the designs are ranked by, and which one the others are compared with."""

    by: Literal["latency_s", "energy_pj", "traffic_bytes", "edp"] = "latency_s"
    baseline: str | None = None


class EnergySchema(Strict):
    """Which register files are counted: those of all PEs, or one PE's as FuseMax published."""

    accounting: Literal["full", "artifact"] = "full"


Quantity = Literal[
    "dsp", "bram18", "uram", "lut", "ff", "area_um2", "latency_s", "energy_pj", "traffic_bytes"
]


class ParetoSchema(Strict):
    """The two quantities whose front is drawn; without `x`, DSP slices or the area."""

    x: Quantity | None = None
    y: Quantity = "latency_s"

    @model_validator(mode="after")
    def _two(self) -> ParetoSchema:
        if self.x == self.y:
            raise InputError("x and y are the same: a front needs two quantities", keys=("x",))
        return self


class FiguresSchema(Strict):
    """How the figures are drawn, and what against what where several parameters are swept."""

    width: Literal["auto", "single", "double"] = "auto"
    formats: Annotated[list[Literal["pdf", "svg", "png"]], Field(min_length=1)] = [
        "pdf",
        "svg",
        "png",
    ]
    pareto: ParetoSchema = Field(default_factory=ParetoSchema)


class PublishedSchema(Strict):
    """What others published of the same point: latency, and power or energy if they say so.

    Under the name of a design it is what was published of that one.
    """

    latency_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    power_w: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    energy_j: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    source: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _one_of_two(self) -> PublishedSchema:
        if self.power_w is not None and self.energy_j is not None:
            raise InputError(
                "power and energy: give one, the other follows from the latency",
                keys=("energy_j",),
            )
        return self

    @property
    def joules(self) -> float | None:
        """The energy of a run, where it is known."""
        return self.power_w * self.latency_s if self.power_w is not None else self.energy_j


class GrowSchema(Strict):
    """A value that is doubled from `start` until a comparison of results holds."""

    start: Formula
    double_until: Formula
    at_most: int = Field(default=20, ge=1, le=60)


def _derived(raw: Any) -> Any:
    return GrowSchema.model_validate(raw) if isinstance(raw, dict) else _expression(raw)


Derive = dict[str, Annotated[Any, BeforeValidator(_derived)]]


class FamilySchema(Strict):
    """A study beside the main grid: one design or several, of the main grid or of its own."""

    design: str | None = None
    designs: list[str] | dict[Name, DesignSchema] | None = Field(default=None, min_length=1)
    models: list[str | dict[str, Any]] | None = Field(default=None, min_length=1)
    kernels: Kernels | None = None
    seq_len: Sizes | None = None
    batch: Sizes | None = None
    histogram: Annotated[Any, BeforeValidator(_loads)] = None
    sweep: Sweep = Field(default_factory=dict)
    derive: Derive = Field(default_factory=dict)

    @model_validator(mode="after")
    def _some_design(self) -> FamilySchema:
        if (self.design is None) == (self.designs is None):
            both = "not both" if self.design else "and has neither"
            raise InputError(f"a family has a design, or designs, {both}", keys=("designs",))
        return self


class ExperimentSchema(Strict):
    """A whole spec."""

    name: FileName
    description: str = ""
    workload: WorkloadSchema
    designs: dict[Name, DesignSchema] = Field(default_factory=dict)
    variants: VariantsSchema | None = None
    rank: RankSchema = Field(default_factory=RankSchema)
    energy: EnergySchema = Field(default_factory=EnergySchema)
    sweep: Sweep = Field(default_factory=dict)
    derive: Derive = Field(default_factory=dict)
    families: dict[FileName, FamilySchema] = Field(default_factory=dict)
    published: dict[Name, PublishedSchema] = Field(default_factory=dict)
    figures: FiguresSchema = Field(default_factory=FiguresSchema)
    sampling: SamplingSchema | None = None

    @model_validator(mode="after")
    def _some_design(self) -> ExperimentSchema:
        if not self.designs and self.variants is None:
            raise InputError("a spec needs designs, or variants")
        return self
