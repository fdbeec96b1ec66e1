"""What a spec says of a sweep: values and ranges of axes, and the block `sampling`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from einsum_cascade.expression import Expression, parse_expression, parse_quantity
from einsum_cascade.source import InputError

MOST_LEVELS = 10**6
LARGEST_SAMPLE = 10**12


class Range(list[float]):
    """An interval to draw from; as a list, the values of a grid over it (`steps`), or its ends.

    >>> Range(64, 1024, steps=5, log=True)
    [64.0, 128.0, 256.0, 512.0, 1024.0]
    """

    def __init__(
        self,
        low: float,
        high: float,
        steps: int | None = None,
        log: bool = False,
        integer: bool = False,
    ) -> None:
        self.low, self.high, self.steps, self.log, self.integer = low, high, steps, log, integer
        if steps is None and integer and not log and high - low < MOST_LEVELS:
            steps = int(high - low) + 1
        self.has_levels = steps is not None
        share = np.linspace(0.0, 1.0, steps or 2)
        values = low * (high / low) ** share if log else low + (high - low) * share
        whole = np.rint(values)
        exact = np.abs(values - whole) <= 1e-12 * whole  # 255.99999999999997 was meant as 256
        values = np.where(exact | integer, whole, values)
        values[0], values[-1] = low, high
        super().__init__(dict.fromkeys(values.tolist()))

    def at(self, share: Any) -> Any:
        """The value at a share (0 to 1, 1 left out) of the interval; levels are equally likely."""
        if self.has_levels:
            return np.asarray(self)[(share * len(self)).astype(np.int64)]
        low, high = self.low, self.high
        if self.integer and not self.log:  # the ends as often as any other
            low, high = low - 0.5, high + 0.5
        values = low * (high / low) ** share if self.log else low + (high - low) * share
        return np.clip(np.rint(values), self.low, self.high) if self.integer else values

    def share(self, value: float) -> float:
        """A share at which a value is, the same for all that are rounded to it."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low) * (1 - 2**-53)
        low, high = (self.low - 0.5, self.high + 0.5) if self.integer else (self.low, self.high)
        return (value - low) / (high - low)

    def __reduce__(self) -> Any:
        return Range, (self.low, self.high, self.steps, self.log, self.integer)


def _quantity(raw: Any) -> float:
    """A swept value: a number, or a quantity with its unit."""
    if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
        raise ValueError("a number or a quantity such as '16 MiB' is expected")
    for unit in _UNITS:
        try:
            value = parse_quantity(raw, unit)
        except InputError:
            continue
        if not 0 <= value < 1e30:  # what may be 0, the architecture and the cascade know
            raise ValueError("a number of at least 0 is expected")
        return value
    raise ValueError("a number or a quantity such as '16 MiB' is expected")


def _count(raw: Any) -> int:
    value = parse_quantity(raw)
    if not (1 <= value <= LARGEST_SAMPLE and value == int(value)):
        raise ValueError(f"a whole number from 1 to {LARGEST_SAMPLE} is expected")
    return int(value)


def _listed(raw: Any) -> Any:
    return raw if isinstance(raw, (list, dict)) else [raw]


Value = Annotated[float, BeforeValidator(_quantity)]
Count = Annotated[int, BeforeValidator(_count)]


class RangeSchema(BaseModel):
    """`{from: 64, to: 1024, steps: 5, scale: log, integer: true}`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    low: Value = Field(alias="from")
    high: Value = Field(alias="to")
    steps: Annotated[int, Field(ge=2, le=MOST_LEVELS)] | None = None
    scale: Literal["linear", "log"] = "linear"
    integer: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> RangeSchema:
        if not self.low < self.high:
            raise InputError(f"from < to must hold, found {self.low:g} and {self.high:g}")
        if self.scale == "log" and not self.low:
            raise InputError("a range of scale log begins above 0", keys=("from",))
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise InputError("a range of whole numbers begins and ends with one")
        return self

    @property
    def range(self) -> Range:
        """The interval itself."""
        return Range(self.low, self.high, self.steps, self.scale == "log", self.integer)


def _range(value: Any) -> Any:
    return value.range if isinstance(value, RangeSchema) else value


if TYPE_CHECKING:
    Values = list[float]
else:
    Values = Annotated[
        Annotated[list[Value], Field(min_length=1)] | RangeSchema,
        BeforeValidator(_listed),
        AfterValidator(_range),
    ]
"""The values of an axis: a list, or a `Range` (a list too)."""

CHOICES = ("queries", "device")
"""Axes of `sampling` that are no numbers, beside options of the mapper."""


_UNIT_OF = {"_bytes_per_s": "B/s", "_bytes": "B", "_hz": "Hz"}
_UNITS = ("", *_UNIT_OF.values())


def check_units(name: str, raw: Any) -> None:
    """Raise `InputError` where a number, or one of several, is in another unit than its name."""
    several = list(raw.values()) if isinstance(raw, dict) else _listed(raw)
    unit = next((unit for end, unit in _UNIT_OF.items() if name.endswith(end)), None)
    for text in several if unit is not None else ():
        found = [u for u in _UNITS if isinstance(text, str) and _is_in(text, u)]
        if found and not {"", unit} & set(found):
            raise InputError(f"{name} is in {unit}, found {text!r}", keys=(name,))


def _is_in(text: str, unit: str) -> bool:
    try:
        parse_quantity(text, unit)
    except InputError:
        return False
    return True


def _swept(raw: Any) -> Any:
    """What is a design of its own for each value has its place in `sampling`. Units are those of
    the names."""
    for name in raw if isinstance(raw, dict) else ():
        check_units(str(name), raw[name])
        bare = str(name).removeprefix("arch.")
        if bare in CHOICES or bare.startswith("mapper."):
            raise InputError(
                f"{name!r} is swept with explore sweep: sampling: {{axes: {{{bare}: [...]}}}}",
                keys=(name,),
            )
    return raw


Sweep = Annotated[dict[str, Values], BeforeValidator(_swept)]
"""The block `sweep` of a spec or of a family."""


def _any_values(raw: Any) -> Any:
    """Values of a mapper's option are its own business: only ranges are looked at here."""
    return RangeSchema.model_validate(raw).range if isinstance(raw, dict) else raw


AnyValues = Annotated[
    list[Any], BeforeValidator(_listed), BeforeValidator(_any_values), Field(min_length=1)
]


def _condition(raw: Any) -> Expression:
    rule = parse_expression(raw) if isinstance(raw, str) else None
    if rule is None or not set(rule.text) & set("<>"):
        raise ValueError("a comparison such as 'array_dim <= 256' is expected")
    return rule


Condition = Annotated[Expression, BeforeValidator(_condition)]
Formula = Annotated[Expression, BeforeValidator(lambda raw: parse_expression(str(raw)))]
Sampler = Literal["nsga2", "nsga3", "tpe", "gp", "random", "qmc"]


class SamplingSchema(BaseModel):
    """Which points of the space a sweep takes, and what it keeps of each.

    `grid` takes all, `list` those listed (with every value of the other axes), `random` and
    `latin-hypercube` a sample of `points` for each design, `search` asks a sampler of optuna.
    `axes` are what else varies: `seq_len`, `batch`, `queries`, `device`, `mapper.OPTION`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
    kind: Literal["grid", "list", "random", "latin-hypercube", "search"] = "grid"
    points: Count | None = None
    list_: str | list[dict[str, Any]] | None = Field(default=None, alias="list", min_length=1)
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    axes: dict[str, AnyValues] = Field(default_factory=dict)
    require: Annotated[list[Condition], BeforeValidator(_listed)] = []
    columns: Literal["all"] | list[str] = []
    chunk: Annotated[int, Field(ge=16, le=2**20)] = 2**14
    objectives: Annotated[list[Formula], BeforeValidator(_listed), Field(min_length=1)] = [
        parse_expression("latency_s"),
        parse_expression("energy_pj"),
    ]
    sampler: Sampler = "nsga2"
    batch: Annotated[int, Field(ge=1, le=10**5)] = 100

    @model_validator(mode="after")
    def _complete(self) -> SamplingSchema:
        drawn = self.kind in ("random", "latin-hypercube", "search")
        if drawn != (self.points is not None):
            verb = "needs" if drawn else "has no"
            raise InputError(f"a sweep of kind {self.kind} {verb} points: the number to draw")
        if (self.kind == "list") != (self.list_ is not None):
            verb = "needs" if self.kind == "list" else "has no"
            raise InputError(f"a sweep of kind {self.kind} {verb} list: the points, or a CSV file")
        only = {"objectives", "sampler", "batch"} & self.model_fields_set
        if self.kind != "search" and only:
            raise InputError(f"{', '.join(sorted(only))}: only for a sweep of kind search")
        if self.kind == "search" and self.points is not None and self.points > MOST_LEVELS:
            raise InputError(f"a search takes at most {MOST_LEVELS} points, found {self.points}")
        return self
