"""Any cascade on any architecture: the best mapping of a stated space, exactly.

`docs/search.md` says what the space is, what is pruned and why that is safe. What is proposed is
costed by the simulator's own functions (`sim.parts`), and by nothing else.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from archs import Architecture
from einsum_cascade import Cascade, InputError
from mappers.search.engine import Goal, Limits, Searched, Space, bound_bytes, search
from mappers.search.fronts import Column
from mappers.search.price import Count
from mappers.search.problem import problem
from mappers.search.recompute import rewrites
from mappers.search.sizes import Tiles
from sim import Mapping, MappingParts, PhaseChoice, combine, evaluate, evaluate_phase
from sim.mapping import Number

NAME = "search"
Objective = Literal["edp", "latency_s", "energy_pj", "traffic_bytes", "buffer_bytes"]
_COLUMNS: dict[Objective, tuple[Column, ...]] = {
    "edp": ("latency_s", "energy_pj"),
    "latency_s": ("latency_s", "energy_pj"),
    "energy_pj": ("energy_pj", "latency_s"),
    "traffic_bytes": ("traffic_bytes", "energy_pj"),
    "buffer_bytes": ("buffer_bytes", "energy_pj"),
}


class Options(BaseModel):
    """`objective`: what is minimized. `tiles`: which sizes tiles may have.

    `recompute`: whether intermediates may be made again for later passes. `compare`: whether the
    mappings of `unfused`, `flat` and `fusemax`, where they place such a cascade, are taken when
    they are better: what they alone do (parts of a tile that spill) is not in the space. `fusion:
    whole` leaves out mappings of several phases. `budget` candidates are costed at most; `seed`
    says in which order runs of Einsums are looked at when that may not be enough (none: the longest
    first).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    objective: Objective = "edp"
    tiles: Tiles = "padded"
    recompute: bool = True
    compare: bool = True
    fusion: Literal["any", "whole"] = "any"
    budget: int | None = Field(default=None, ge=1)
    seed: int | None = None


@dataclass(frozen=True)
class Report:
    """What a search did at one design point.

    Of `covered` candidates, all were costed or proved useless: `costed` says how many were costed
    (`valid`: legal, and they fitted), `pruned` how many were not, by what. `structures_bounded` and
    `runs_bounded` were left out whole, and their candidates are not among the covered ones. Without
    `complete`, the search ended before its space. `bound` is the traffic that any mapping of the
    cascade needs; `gap` is how much more the best mapping moves, as a share.
    `mapper` names another mapper whose mapping is better than any of the space.
    """

    complete: bool
    covered: int
    costed: int
    valid: int
    pruned: MappingABC[str, int]
    structures: int
    structures_bounded: int
    runs: int
    runs_bounded: int
    seconds: float
    bound_bytes: float
    traffic_bytes: float
    lacking: str = ""
    mapper: str = ""

    @property
    def gap(self) -> float:
        """Traffic beyond the lower bound, over the bound."""
        return self.traffic_bytes / self.bound_bytes - 1

    def __str__(self) -> str:
        share = "optimum of its space" if self.complete else "best so far (the budget was spent)"
        if self.mapper:
            share = f"mapping of {self.mapper}, better than the {share}"
        pruned = ", ".join(f"{n:,} {why}" for why, n in self.pruned.items() if n)
        return (
            f"{share}: {self.covered:,} candidates covered in {self.structures} structures, "
            f"{self.costed:,} costed ({self.valid:,} valid), pruned: {pruned or 'none'}; "
            f"{self.structures_bounded} structures and {self.runs_bounded} of {self.runs} runs by "
            f"bounds; traffic {self.traffic_bytes:,.0f} bytes, at least {self.bound_bytes:,.0f}"
            + (f"; {self.lacking}" if self.lacking else "")
        )


@dataclass(frozen=True)
class Found:
    """Mappings that nothing beats, with their costs (columns as in `columns`), and the report."""

    columns: tuple[Column, ...]
    costs: np.ndarray
    mappings: tuple[Mapping, ...]
    report: Report


def place(
    options: Options, cascade: Cascade, architecture: Architecture, shape: MappingABC[str, Number]
) -> MappingParts:
    """Place any cascade; at each design point the best of the space by the objective.

    Where nothing fits, the mapping that needs the least room, which the simulator refuses with what
    is missing. Raises `InputError` for an architecture with ports or pipelined loops.
    """
    numbers = [np.asarray(v) for v in (*shape.values(), *architecture.parameters.values())]
    count = np.broadcast_shapes((1,), *(n.shape for n in numbers))[0]
    parts = []
    known: dict[tuple[float, ...], Mapping] = {}
    for point in range(count):

        def at(number: Number, point: int = point) -> Number:
            return number if np.ndim(number) == 0 else np.broadcast_to(number, (count,))[point]

        key = tuple(float(at(n)) for n in numbers)
        if key not in known:
            extents = {k: at(v) for k, v in shape.items()}
            found = optimum(options, cascade, architecture.with_numbers(at), extents)
            known[key] = found.mappings[0]
        parts.append((np.array([point]), known[key]))
    return MappingParts(tuple(parts), count)


def optimum(
    options: Options, cascade: Cascade, architecture: Architecture, shape: MappingABC[str, Any]
) -> Found:
    """The best mapping of one design point by the objective, with the report."""
    goal = Goal(_COLUMNS[options.objective], options.objective)
    found = _found(options, cascade, architecture, shape, goal)
    room = "buffer_bytes" in goal.columns
    for name in _OTHERS if options.compare and not room else ():
        other = _other(name, cascade, architecture, shape)
        costs = evaluate(other) if other is not None else None
        if other is None or costs is None or costs.infeasible[0] is not None:
            continue
        row = np.array([[getattr(costs, c)[0] for c in goal.columns]])
        if len(found.costs) and goal.of(found.costs)[0] <= goal.of(row)[0] * (1 + 1e-9):
            continue
        traffic = float(costs.traffic_bytes[0])
        report = replace(found.report, mapper=name, traffic_bytes=traffic, lacking="")
        noted = replace(other, notes=f"{other.notes[0]} ({report})")
        found = Found(goal.columns, row, (noted,), report)
    return found


_OTHERS = ("unfused", "flat", "fusemax")


def _other(
    name: str, cascade: Cascade, architecture: Architecture, shape: MappingABC[str, Any]
) -> Mapping | None:
    """What another mapper makes of the point, if it places such a cascade."""
    module = import_module(f"mappers.{name}")
    try:
        extents = {k: np.atleast_1d(np.asarray(v)) for k, v in shape.items()}
        placed = module.place(module.Options(), cascade, architecture, extents)
    except InputError:
        return None
    return placed if isinstance(placed, Mapping) else None


def front(
    options: Options,
    cascade: Cascade,
    architecture: Architecture,
    shape: MappingABC[str, Any],
    columns: tuple[Column, ...] = ("latency_s", "energy_pj"),
) -> Found:
    """All mappings of one design point that no other beats in every column."""
    return _found(options, cascade, architecture, shape, Goal(columns))


def _found(
    options: Options,
    cascade: Cascade,
    architecture: Architecture,
    shape: MappingABC[str, Any],
    goal: Goal,
) -> Found:
    begun = time.perf_counter()
    spaces = _spaces(options, cascade, architecture, shape)
    limits = Limits(options.budget or np.inf, whole=options.fusion == "whole")
    if options.seed is not None:
        limits = replace(limits, shuffled=random.Random(options.seed))
    result = search(spaces, goal, limits=limits)
    lacking = ""
    if not len(result.costs) and result.complete:
        spaces = _spaces(options, cascade, architecture, shape)
        least = Goal(("buffer_bytes", "energy_pj"), "buffer_bytes")
        needed = search(spaces, least, unlimited=True, limits=replace(limits))
        result = replace(needed, count=_sum(result.count, needed.count))
        if len(needed.costs):
            room = float(needed.costs[:, 0].min())
            have = float(sum(m.size_bytes for m in architecture.memories[1:]))
            lacking = (
                f"nothing fits: the mapping that needs the least room takes {room:,.0f} bytes on "
                f"chip of {have:,.0f}, so {room - have:,.0f} more would do"
            )
        goal = least
    seconds = time.perf_counter() - begun
    bound = bound_bytes(cascade, spaces[0].problem)
    if not len(result.costs):
        empty = Mapping(cascade, architecture, cascade.resolve_shape(shape), ())
        nothing = _report(result, seconds, bound, np.nan, "no mapping of the space is legal")
        return Found(goal.columns, result.costs, (replace(empty, notes=str(nothing)),), nothing)
    order = np.argsort(goal.of(result.costs), kind="stable")
    order = order[:1] if goal.score is not None else order
    mappings = []
    report: Report | None = None
    for i in order:
        space, plan = result.plans[i]
        single, phases, words = space.mapping(plan)
        mapping = Mapping(
            single.cascade, architecture, single.shape, tuple(PhaseChoice((p,)) for p in phases)
        )
        if report is None:
            report = _report(result, seconds, bound, _traffic(mapping), lacking)
        again = f"{', '.join(space.about)} made again; " if space.about else ""
        mappings.append(replace(mapping, notes=f"{again}{'; then '.join(words)} ({report})"))
    assert report is not None
    return Found(goal.columns, result.costs[order], tuple(mappings), report)


def _spaces(
    options: Options, cascade: Cascade, architecture: Architecture, shape: MappingABC[str, Any]
) -> list[Space]:
    ways = rewrites(cascade) if options.recompute else [((), cascade)]
    spaces = []
    for about, own in ways:
        copies = frozenset(own.tensors) - frozenset(cascade.tensors)
        spaces.append(Space(problem(own, architecture, shape, options.tiles, copies), about))
    return spaces


def _traffic(mapping: Mapping) -> float:
    costs = [evaluate_phase(mapping, c.options[0], explain=False) for c in mapping.phases]
    return float(np.ravel(combine(costs).traffic_bytes)[0])


def _sum(one: Count, other: Count) -> Count:
    total = replace(one)
    total.add(other)
    return total


def _report(result: Searched, seconds: float, bound: float, traffic: float, lacking: str) -> Report:
    count = result.count
    pruned = {
        "not legal": count.illegal,
        "too large": count.too_large,
        "dominated": count.dominated,
        "beyond a bound": count.bounded,
    }
    return Report(
        result.complete,
        count.covered,
        count.costed,
        count.valid,
        pruned,
        result.structures,
        result.structures_bounded,
        result.runs,
        result.runs_bounded,
        seconds,
        bound,
        traffic,
        lacking,
    )


__all__ = ["NAME", "Found", "Options", "Report", "front", "optimum", "place"]
