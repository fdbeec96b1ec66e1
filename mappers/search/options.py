"""What a spec may say to the search."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from einsum_cascade.expression import parse_quantity
from einsum_cascade.source import InputError
from mappers.search.fronts import COLUMNS, Column
from mappers.search.goals import Goal
from mappers.search.problem import STRUCTURES
from mappers.search.sizes import Tiles

Objective = Literal["edp", "latency_s", "energy_pj", "traffic_bytes", "buffer_bytes"]
Columns = tuple[Column, ...]
_COLUMNS: dict[Objective, Columns] = {
    "edp": ("latency_s", "energy_pj"),
    "latency_s": ("latency_s", "energy_pj"),
    "energy_pj": ("energy_pj", "latency_s"),
    "traffic_bytes": ("traffic_bytes", "energy_pj"),
    "buffer_bytes": ("buffer_bytes", "energy_pj"),
}
_POWER: Columns = ("latency_s", "energy_pj")


def _parsed(unit: str, scale: float = 1.0) -> BeforeValidator:
    """A number in the unit of its name, or with a unit as in `20 ms` or `8 MiB`."""

    def parse(raw: Any) -> float:
        value = parse_quantity(raw, unit)
        return value * scale if isinstance(raw, str) else value

    return BeforeValidator(parse)


_Limit = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_OrNone = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[_Limit | None, _parsed("s")]
Picojoules = Annotated[_Limit | None, _parsed("J", 1e12)]
Bytes = Annotated[_OrNone | None, _parsed("B")]
Watts = Annotated[_Limit | None, _parsed("W")]
SquareMicrometres = Annotated[_Limit | None, _parsed("um2")]


class Constraints(BaseModel):
    """What a mapping costs at most; the area is that of the architecture, the power the mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    latency_s: Seconds = None
    energy_pj: Picojoules = None
    traffic_bytes: Bytes = None
    buffer_bytes: Bytes = None
    power_w: Watts = None
    area_um2: SquareMicrometres = None

    @property
    def of_columns(self) -> dict[Column, float]:
        """The limits of what a search counts."""
        given = {column: getattr(self, column) for column in COLUMNS}
        return {column: limit for column, limit in given.items() if limit is not None}


def _objective(raw: Any) -> Any:
    """One objective, or several columns."""
    allowed = COLUMNS if isinstance(raw, list) else get_args(Objective)
    for name in raw if isinstance(raw, list) else [raw]:
        if name not in allowed:
            raise InputError(f"unknown objective {name!r}", allowed=allowed, found=name)
    if isinstance(raw, list) and not 1 < len(raw) == len(set(raw)):
        raise InputError("a list of objectives has two or more, each once", allowed=allowed)
    return tuple(raw) if isinstance(raw, list) else raw


def _counted(raw: Any) -> Any:
    """A number, or one such as 20K."""
    return int(found) if isinstance(raw, str) and (found := parse_quantity(raw)) % 1 == 0 else raw


class Options(BaseModel):
    """`objective`: what is minimized; of several columns there is no best but a front.

    `constraints`: what counts is only what keeps to them. `tiles`: which sizes tiles may have.
    `recompute`: whether intermediates may be made again for later passes. `compare`: whether the
    mappings of `unfused`, `flat`, `fusemax` and `fused`, where they place such a cascade, are taken
    when they are better: what they alone do (parts of a tile that spill) is not in the space.
    `fusion: whole` leaves out mappings of several phases. `structures`: up to how many of a cascade
    (each phase has an equal share) Einsums that are alike, but not for all arrays, are bound apart
    from one another: more is a larger space. `budget` candidates are costed, and what is at hand
    then; `seed` says in which order runs of Einsums are looked at when that may not be enough
    (none: the most promising first).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    objective: Annotated[Objective | Columns, BeforeValidator(_objective)] = "edp"
    constraints: Constraints = Constraints()
    tiles: Tiles = "padded"
    recompute: bool = True
    compare: bool = True
    fusion: Literal["any", "whole"] = "any"
    structures: int = Field(default=STRUCTURES, ge=0)
    budget: Annotated[int | None, BeforeValidator(_counted)] = Field(default=None, ge=1)
    seed: int | None = None


def goal_of(wanted: Objective | Columns, constraints: Constraints) -> Goal:
    """What is searched for: the columns that are wanted first, then those that are limited.

    What another mapping beats in all columns of a goal never is the best within its limits.
    """
    base = _COLUMNS[wanted] if isinstance(wanted, str) else wanted
    limits = constraints.of_columns
    power = _POWER if constraints.power_w is not None else ()
    needed = base[:1] if isinstance(wanted, str) and wanted != "edp" else base
    columns = tuple(dict.fromkeys((*needed, *power, *limits)))
    columns = columns if len(columns) > 1 else base  # else the second merely breaks ties
    score = wanted if isinstance(wanted, str) else None
    return Goal(columns, score, limits, constraints.power_w or np.inf)


__all__ = ["Columns", "Constraints", "Objective", "Options", "goal_of"]
