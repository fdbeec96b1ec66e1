"""What is asked of a search: a design point, and the options. How it is answered."""

from __future__ import annotations

import random
from collections.abc import Callable
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from archs import Architecture
from einsum_cascade import Cascade, InputError
from mappers.search.engine import Limits, Searched, Space, search
from mappers.search.fronts import front_of
from mappers.search.goals import Goal
from mappers.search.options import Columns, Objective, Options, goal_of
from mappers.search.problem import Problem, problem
from mappers.search.recompute import rewrites
from mappers.tree import plain
from sim import Evaluation, Mapping, Phase, PhaseChoice, combine, evaluate_phase


@dataclass(frozen=True)
class Answer:
    """What a search found: `picked` are the positions of the mappings that are asked for."""

    goal: Goal
    found: Searched
    picked: np.ndarray

    @property
    def costs(self) -> np.ndarray:
        """Their costs, a row a mapping."""
        return self.goal.waited(self.found.costs[self.picked])


@dataclass(frozen=True)
class Asked:
    """One design point, and the options of its search."""

    options: Options
    cascade: Cascade
    architecture: Architecture
    shape: MappingABC[str, Any]

    def refusal(self) -> str | None:
        """Why no mapping can do.

        Raises `InputError` for a limit of power where more than mappings draws any.
        """
        constraints, architecture = self.options.constraints, self.architecture
        if constraints.power_w is not None and architecture.power_w > 0:
            raise InputError(
                f"constraints.power_w limits what a mapping draws, and {architecture.name!r} draws "
                "a power_w of its own, whatever it does: give that up, or the limit"
            )
        area, most = float(architecture.area_um2), constraints.area_um2
        if most is None or area <= most:
            return self.problem.unsupported()
        return (
            f"{architecture.name} takes {area:,.0f} um2 of area, {area - most:,.0f} more than the "
            f"{most:,.0f} of constraints.area_um2"
        )

    @cached_property
    def problem(self) -> Problem:
        """The cascade as it is."""
        return self._problem(self.cascade)

    def _problem(self, cascade: Cascade, copies: frozenset[str] = frozenset()) -> Problem:
        options = self.options
        on, tiles, most = self.architecture, options.tiles, options.structures
        return problem(cascade, on, self.shape, tiles, copies, most)

    def spaces(self) -> list[Space]:
        """The cascade, and with each set of its intermediates made again."""
        ways = rewrites(self.cascade) if self.options.recompute else []
        found = [Space(self.problem, ())]
        for about, own in ways[1:]:
            copies = frozenset(own.tensors) - frozenset(self.cascade.tensors)
            sized = self._problem(own, copies)
            found.append(Space(sized, about))
        return found

    def answer(self, wanted: Objective | Columns, stopped: Callable[[], bool] = bool) -> Answer:
        """The best by one objective; of several columns, all mappings that none beats in them."""
        capped = self._capped()
        options = capped.options
        goal = goal_of(wanted, options.constraints)
        limits = Limits(options.budget or np.inf, options.fusion == "whole", None, stopped)
        if options.seed is not None:
            limits = replace(limits, shuffled=random.Random(options.seed))
        found = search(capped.spaces(), goal, limits)
        kept = np.flatnonzero(goal.within(found.costs))
        if goal.score is None:
            picked = kept[front_of(goal.waited(found.costs[kept])[:, : len(wanted)])]
        else:
            picked = kept[np.argsort(goal.of(found.costs[kept]), kind="stable")[:1]]
        return Answer(goal, found, picked)

    def _capped(self) -> Asked:
        """With the limit of room as the size of the memory, where there is one on chip only."""
        constraints, memories = self.options.constraints, self.architecture.memories
        most = constraints.buffer_bytes
        if most is None or len(memories) > 2:
            return self
        size = min(float(memories[1].size_bytes), most)
        without = constraints.model_copy(update={"buffer_bytes": None})
        options = self.options.model_copy(update={"constraints": without})
        return replace(self.with_size(memories[1].name, size), options=options)

    def with_size(self, memory: str, size_bytes: float) -> Asked:
        """The same with another size of a memory."""
        memories = tuple(
            replace(m, size_bytes=np.float64(size_bytes)) if m.name == memory else m
            for m in self.architecture.memories
        )
        return replace(self, architecture=replace(self.architecture, memories=memories))

    def mapping(self, answer: Answer, at: int) -> tuple[Mapping, str, float]:
        """One of the mappings that an answer picked, a line on it, and its bytes of traffic."""
        number = int(answer.picked[at])
        space, plan = answer.found.plans[number]
        single, phases, words = space.mapping(plan)
        again = f"{', '.join(space.about)} made again; " if space.about else ""
        choices = tuple(PhaseChoice((phase,)) for phase in phases)
        whole = Mapping(single.cascade, self.architecture, single.shape, choices)
        mapping = plain(whole)
        costs = _costs(mapping)
        if costs.infeasible[0] is not None:
            # what one array hands to another is asked for in the order of all loops, idle ones too
            mapping, costs = whole, _costs(whole)
        waiting = waited(mapping, answer.goal, answer.found.costs[number])
        return waiting, f"{again}{'; then '.join(words)}", float(costs.traffic_bytes[0])


def _costs(mapping: Mapping) -> Evaluation:
    phases = [choice.options[0] for choice in mapping.phases]
    return combine([evaluate_phase(mapping, phase, explain=False) for phase in phases])


def waited(mapping: Mapping, goal: Goal, costs: np.ndarray) -> Mapping:
    """The mapping, and then nothing for as long as it takes to stay within the power."""
    if "latency_s" not in goal.columns:
        return mapping
    at = goal.columns.index("latency_s")
    seconds = float(goal.waited(costs)[at] - costs[at])
    if not seconds > 0:
        return mapping
    cycles = seconds * mapping.architecture.clock_hz
    pause = Phase("wait", (), {}, steps=((),), stall_cycles=cycles)
    return replace(mapping, phases=(*mapping.phases, PhaseChoice((pause,))))


__all__ = ["Answer", "Asked", "waited"]
