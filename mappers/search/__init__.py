"""Any cascade on any architecture: the best mapping of a stated space, exactly.

`docs/search.md` says what the space is, what is pruned and why that is safe. What is proposed is
costed by the simulator's own functions (`sim.parts`), and by nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping as MappingABC
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np

from archs import Architecture
from einsum_cascade import Cascade, InputError
from mappers.search.asked import Answer, Asked, waited
from mappers.search.bounds import bound_bytes
from mappers.search.changes import Change, smallest_changes
from mappers.search.engine import Searched
from mappers.search.fronts import Column
from mappers.search.interrupts import interruptible
from mappers.search.options import Columns, Constraints, Objective, Options, goal_of
from mappers.search.screen import Count
from sim import Mapping, MappingParts, evaluate, footprint_bytes
from sim.mapping import Number
from sim.single import single_point

NAME = "search"
ALL_MEMORIES = True
"""It places tensors in every memory."""


@dataclass(frozen=True)
class Report:
    """What a search did at one design point.

    Of `covered` candidates, all were costed or proved useless: `costed` says how many were costed
    (`valid`: legal, and they fitted), `pruned` how many were not, by what. Before, `ahead` were
    costed to know what is good, which counts as well for a budget. `structures_bounded` and
    `runs_bounded` were left out whole, and their candidates are not among the covered ones. Without
    `complete`, the search ended before its space: its budget was spent, or it was `interrupted`
    by Ctrl-C. `bound` is the traffic that any mapping of the
    cascade needs; `gap` is how much more the best mapping moves, as a share.
    `mapper` names another mapper whose mapping is better than any of the space.
    """

    complete: bool
    covered: int
    ahead: int
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
    interrupted: bool = False

    @property
    def partial(self) -> bool:
        """Whether Ctrl-C ended the search before its space."""
        return self.interrupted and not self.complete

    @property
    def gap(self) -> float:
        """Traffic beyond the lower bound, over the bound."""
        return self.traffic_bytes / self.bound_bytes - 1

    def __str__(self) -> str:
        why = "interrupted" if self.interrupted else "the budget was spent"
        share = "optimum of its space" if self.complete else f"best so far ({why})"
        if self.mapper:
            share = f"mapping of {self.mapper}, better than the {share}"
        pruned = ", ".join(f"{n:,} {why}" for why, n in self.pruned.items() if n)
        return (
            f"{share}: {self.covered:,} candidates covered in {self.structures} structures, "
            f"{self.costed:,} costed ({self.valid:,} valid; {self.ahead:,} before, to know what is "
            f"good), pruned: {pruned or 'none'}; "
            f"{self.structures_bounded} structures and {self.runs_bounded} of {self.runs} runs by "
            f"bounds; traffic {self.traffic_bytes:,.0f} bytes, at least {self.bound_bytes:,.0f}"
            + (f"; {self.lacking}" if self.lacking else "")
        )


@dataclass(frozen=True)
class Found:
    """Mappings that nothing beats, with their costs (columns as in `columns`), and the report.

    `score` is that of the first. Where there is none, `mappings` holds one that says why.
    """

    columns: tuple[Column, ...]
    costs: np.ndarray
    mappings: tuple[Mapping, ...]
    report: Report
    score: float = np.inf


def place(
    options: Options, cascade: Cascade, architecture: Architecture, shape: MappingABC[str, Number]
) -> MappingParts:
    """Place any cascade; at each design point the best of the space by the objective.

    Where nothing fits, the mapping that needs the least room, which the simulator refuses with what
    is missing; where nothing keeps to the constraints, a refusal that says by how much. Raises
    `InputError` for several objectives. Ctrl-C ends it: half of a search is no result of a run.
    """
    if not isinstance(options.objective, str):
        columns = ",".join(options.objective)
        raise InputError(
            "several objectives have a front of mappings, not one mapping a point: "
            f"`explore mapping SPEC --front {columns}` lists it; here name one objective"
        )
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
            if found.report.interrupted:
                raise KeyboardInterrupt
            known[key] = found.mappings[0]
        parts.append((np.array([point]), known[key]))
    return MappingParts(tuple(parts), count)


def optimum(
    options: Options, cascade: Cascade, architecture: Architecture, shape: MappingABC[str, Any]
) -> Found:
    """The best mapping of one design point by the objective, with the report.

    Ctrl-C returns the best so far; before there is any, it is a KeyboardInterrupt.
    """
    asked = Asked(options, cascade, architecture, shape)
    found = _found(asked, options.objective)
    goal = goal_of(options.objective, options.constraints)
    compared = options.compare and goal.score is not None and asked.refusal() is None
    for name in _OTHERS if compared else ():
        other = _other(name, cascade, architecture, shape)
        costs = None if other is None else _costs(other, goal.columns)
        if other is None or costs is None or not goal.within(costs)[0]:
            continue
        score = goal.of(costs)[0]
        if len(found.costs) and found.score <= score * (1 + 1e-9):
            continue
        traffic = float(evaluate(other).traffic_bytes[0])
        report = replace(found.report, mapper=name, traffic_bytes=traffic, lacking="")
        own = waited(replace(other, notes=f"{other.notes} ({report})"), goal, costs[0])
        found = Found(goal.columns, goal.waited(costs), (own,), report, score)
    return found


_OTHERS = ("unfused", "flat", "fusemax", "fused", "edge_moe")
"""What they find may have what the space lacks, and is better than half of a search."""


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
    return single_point(placed)


def _costs(mapping: Mapping, columns: tuple[Column, ...]) -> np.ndarray | None:
    """The costs of a mapping of another mapper as a row, if it can be at all."""
    found = evaluate(mapping)
    if found.infeasible[0] is not None:
        return None
    room = 0.0
    for choice in mapping.phases:
        phase = choice.options[int(np.ravel(choice.index)[0])]
        own = 0.0
        for memory in mapping.architecture.memories[1:]:  # what is beyond its size spills
            needed = float(np.ravel(footprint_bytes(mapping, phase, memory.name))[0])
            own += min(needed, float(memory.size_bytes))
        room = max(room, own)
    row = [room if c == "buffer_bytes" else float(getattr(found, c)[0]) for c in columns]
    return np.array([row])


def front(
    options: Options,
    cascade: Cascade,
    architecture: Architecture,
    shape: MappingABC[str, Any],
    columns: tuple[Column, ...] = ("latency_s", "energy_pj"),
) -> Found:
    """All mappings of one design point that no other beats in every column."""
    return _found(Asked(options, cascade, architecture, shape), columns)


def changes(
    options: Options, cascade: Cascade, architecture: Architecture, shape: MappingABC[str, Any]
) -> list[Change]:
    """Where nothing fits: for each memory, constraint and extent by itself, the smallest change
    with which something does. Extents are looked for by halving, each step a search."""
    asked = Asked(options, cascade, architecture, shape)
    return smallest_changes(asked, extents=True) if asked.refusal() is None else []


def _found(asked: Asked, wanted: Objective | Columns) -> Found:
    """What there is of an objective, or of a front of columns."""
    begun = time.perf_counter()
    if (refusal := asked.refusal()) is not None:
        return _nothing(asked, None, 0.0, refusal)
    with interruptible() as stopped:
        answer = asked.answer(wanted, stopped)
        found: list[Change] = []
        if not len(answer.picked) and answer.found.complete:
            found = smallest_changes(asked, stopped=stopped)
        if stopped() and not len(answer.picked):
            raise KeyboardInterrupt
        interrupted = stopped()
    seconds = time.perf_counter() - begun
    if not len(answer.picked):
        return _lacking(asked, answer, seconds, found)
    mappings = [asked.mapping(answer, at) for at in range(len(answer.picked))]
    report = _report(asked, answer.found, seconds, mappings[0][2], interrupted=interrupted)
    noted = tuple(replace(mapping, notes=f"{words} ({report})") for mapping, words, _ in mappings)
    score = float(answer.goal.of(answer.found.costs[answer.picked])[0])
    return Found(answer.goal.columns, answer.costs, noted, report, score)


def _lacking(asked: Asked, answer: Answer, seconds: float, enough: Sequence[Change]) -> Found:
    """Nothing fits: why, and with what something would.

    Where that is room alone, the mapping that needs the least of it, which the simulator refuses.
    """
    constraints = asked.options.constraints
    limited = bool(constraints.of_columns) or constraints.power_w is not None
    what = "no mapping keeps to the constraints" if limited else "nothing fits"
    if not answer.found.complete:
        count = answer.found.count.costed + answer.found.count.ahead
        return _nothing(asked, answer, seconds, f"{what} of {count:,} costed: the budget is spent")
    if enough:
        would = "; or ".join(map(str, enough))
        text = f"{what}: it would, by the smallest change of one number alone, with {would}"
    else:
        text = f"{what}, and no change of a memory or a constraint alone is enough"
    if limited or not enough:
        return _nothing(asked, answer, seconds, text)
    mapping, words, traffic = asked.mapping(enough[0].answer, 0)
    report = _report(asked, answer.found, seconds, traffic, text)
    mapping = replace(mapping, notes=f"{words} ({report})")
    return Found(answer.goal.columns, answer.costs, (mapping,), report)


def _nothing(asked: Asked, answer: Answer | None, seconds: float, text: str) -> Found:
    """No mapping at all, and why."""
    goal = goal_of(asked.options.objective, Constraints()) if answer is None else answer.goal
    none = Searched(goal, Count(), 0, np.zeros((0, len(goal.columns))), [], True)
    report = _report(asked, none if answer is None else answer.found, seconds, np.nan, text)
    extents = asked.problem.at(0).shape
    empty = Mapping(asked.cascade, asked.architecture, extents, (), refusal=text)
    return Found(goal.columns, none.costs, (empty,), report)


def _report(
    asked: Asked,
    found: Searched,
    seconds: float,
    traffic: float,
    lacking: str = "",
    interrupted: bool = False,
) -> Report:
    count = found.count
    pruned = {
        "not legal": count.illegal,
        "too large": count.too_large,
        "dominated": count.dominated,
        "beyond a bound": count.bounded,
    }
    return Report(
        found.complete,
        count.covered,
        count.ahead,
        count.costed,
        count.valid,
        pruned,
        found.structures,
        found.structures_bounded,
        found.runs,
        found.runs_bounded,
        seconds,
        bound_bytes(asked.cascade, asked.problem),
        traffic,
        lacking,
        interrupted=interrupted,
    )


__all__ = ["NAME", "Found", "Options", "Report", "changes", "front", "optimum", "place"]
