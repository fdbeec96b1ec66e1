"""The best of all mappings of the space: phases of every run of Einsums, then their best sequence.

Phases meet only in the outermost memory, so what they cost adds up. A mapping is a way to cut the
order of the Einsums into phases, and a candidate for each. The run of Einsums that may be part of
the best mapping is looked at next, until bounds say that no other run can.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import numpy as np

from mappers.search.bounds import Run, bounds_around, join_all, merged
from mappers.search.fronts import Front, front_of, join
from mappers.search.goals import Goal
from mappers.search.least import least
from mappers.search.measures import measures_of
from mappers.search.pieces import Pieces
from mappers.search.price import Layout, Pricing, open_structure, rebuild
from mappers.search.problem import Problem
from mappers.search.screen import Count, Screen
from mappers.search.structures import Structure, structures
from sim import Phase

Plan = tuple[tuple[int, ...], ...]
"""For each phase the number of its structure, and those of a candidate's tiles and choices (this in
two parts)."""


_LONG = 12
"""Of more Einsums than these one phase takes long to search."""

_MANY = 1 << 20
"""From so many candidates on with the same sizes of tiles, or where nothing of a run has been found
yet, something good is looked for first."""


@dataclass
class Limits:
    """How far a search goes: candidates that are costed, until it is `stopped`; only phases of all
    Einsums (`whole`), or any. With `shuffled`, runs are looked at in any order."""

    candidates: float = np.inf
    whole: bool = False
    shuffled: random.Random | None = None
    stopped: Callable[[], bool] = bool

    def reached(self, count: Count) -> bool:
        """Whether it is over."""
        return count.costed + count.ahead >= self.candidates or self.stopped()


@dataclass
class Searched:
    """What was found for a cascade and its rewrites.

    `costs` are those of whole mappings that nothing beats, `plans` the choices of each.
    """

    goal: Goal
    count: Count
    structures: int
    costs: np.ndarray
    plans: list[tuple[Space, Plan]]
    complete: bool
    structures_bounded: int = 0
    runs: int = 0
    runs_bounded: int = 0


@dataclass
class Space:
    """One cascade (of several rewrites): its runs with what was found for them.

    `listed` are the structures of each run with what they cost at least (`all_listed`: of all that
    there are), `bounds` rows that say what each run costs at least (by the tiles of the cascade's
    own), `ahead` what mappings that have the run do; none of those with a run that is `useless` is
    better than what was found.
    """

    problem: Problem
    about: tuple[str, ...]
    listed: dict[Run, list[tuple[Structure, np.ndarray]]] = field(default_factory=dict)
    all_listed: bool = False
    bounds: dict[tuple[Run, int | None], np.ndarray] = field(default_factory=dict)
    around: dict[tuple[Run, int | None], np.ndarray] = field(default_factory=dict)
    ahead: dict[Run, np.ndarray] = field(default_factory=dict)
    useless: set[Run] = field(default_factory=set)
    fronts: dict[tuple[Run, int | None], Front] = field(default_factory=dict)
    opened: list[tuple[Structure, Layout]] = field(default_factory=list)

    @property
    def whole(self) -> Run:
        """The run of all Einsums."""
        return 0, len(self.problem.order)

    @property
    def every_part(self) -> Sequence[int | None]:
        """The tiles of the cascade's own that there are to choose from."""
        return range(len(self.problem.parts)) or [None]

    def parts(self, run: Run) -> Sequence[int | None]:
        """Phases of one mapping all have the same tiles of what the cascade itself takes in tiles:
        so what is best is kept for each, but for a phase of all Einsums."""
        return [None] if run == self.whole else self.every_part

    def is_searched(self, run: Run) -> bool:
        """Whether a run has been looked at."""
        return (run, self.parts(run)[0]) in self.fronts

    def list_first(self, goal: Goal, limits: Limits) -> None:
        """Find the structures, with bounds, of what is quick to search and enough for a mapping:
        one phase, or of many Einsums each by itself, as far as it can be."""
        first = [self.whole]
        if len(self.problem.order) > _LONG and not limits.whole:
            cut = sorted({at for run in runs_of(self.problem) for at in run})
            first = list(pairwise(cut))
        self._list(goal, limits, first)

    def list_all(self, goal: Goal, limits: Limits) -> None:
        """Those of all other runs (or that of all Einsums)."""
        self._list(goal, limits, self.runs(limits))
        self.all_listed = not limits.stopped()
        self.look_around(goal)

    def runs(self, limits: Limits) -> list[Run]:
        """The runs that there are to list."""
        return [self.whole] if limits.whole else runs_of(self.problem)

    def _list(self, goal: Goal, limits: Limits, runs: Sequence[Run]) -> None:
        for run in runs:
            if run in self.listed or limits.stopped():
                continue
            found = list(structures(self.problem, self.problem.order[run[0] : run[1]]))
            if not found:
                continue
            every = least(self.problem, run, goal.columns, found)
            self.listed[run] = list(zip(found, every, strict=True))
            for part in self.parts(run):
                rows = every.reshape(-1, len(goal.columns)) if part is None else every[:, part]
                self.bounds[run, part] = merged(rows)
        self.look_around(goal)

    def look_around(self, goal: Goal) -> None:
        """Bound what is around each run, by what is known of the others; before all runs are
        listed, by nothing."""
        count, nothing = len(self.problem.order), np.zeros((1, len(goal.columns)))
        self.around = {(self.whole, None): nothing}
        if not self.all_listed:
            self.around = dict.fromkeys(self.bounds, nothing)
        for part in self.every_part if self.all_listed else ():
            phases = {run: rows for (run, own), rows in self.bounds.items() if own == part}
            for run, rows in bounds_around(count, phases, goal.columns).items():
                self.around[run, part] = rows
        self.ahead = {}
        for run in self.listed:
            if run in self.useless or self.is_searched(run):
                continue
            every = [np.zeros((0, len(goal.columns)))]
            every += [
                join_all(goal.columns, self.bounds[run, part], self.around[run, part])
                for part in self.parts(run)
                if (run, part) in self.around
            ]
            self.ahead[run] = np.concatenate(every)

    def mapping(self, plan: Plan) -> tuple[Problem, list[Phase], list[str]]:
        """The phases of a plan, with a line on each."""
        phases, words = [], []
        single = self.problem
        for number, x, *parts in plan:
            structure, layout = self.opened[number]
            k = layout.code(*parts)
            single, phase = rebuild(self.problem, structure, layout, x, k)
            phases.append(phase)
            words.append(structure.words(layout.picked(x, k)))
        return single, phases, words


def runs_of(problem: Problem) -> list[Run]:
    """Runs of Einsums that can be a phase, the longest first."""
    count = len(problem.order)
    cut = [i for i in range(count + 1) if i not in problem.together]
    return sorted(((i, j) for i in cut for j in cut if i < j), key=lambda r: (r[0] - r[1], r))


def search(spaces: Sequence[Space], goal: Goal, limits: Limits | None = None) -> Searched:
    """Search all spaces."""
    limits = limits or Limits()
    result = Searched(goal, Count(), 0, np.zeros((0, len(goal.columns))), [], True)
    pieces = Pieces(measures_of(spaces[0].problem.architecture, goal.columns))
    spaces[0].list_first(goal, limits)
    _search_ahead(spaces[:1], pieces, limits, result)  # to list all takes long: first, anything
    for space in spaces:
        if not limits.reached(result.count):
            space.list_all(goal, limits)
    _search_ahead(spaces, pieces, limits, result)
    result.complete = not limits.reached(result.count)
    result.runs = sum(len(space.runs(limits)) for space in spaces)
    listed = sum(len(space.listed) for space in spaces)
    searched = sum(len({run for run, _ in each.fronts}) for each in spaces)
    result.runs_bounded = listed - searched - len(_ahead(spaces, goal, result))
    return result


def _search_ahead(
    spaces: Sequence[Space], pieces: Pieces, limits: Limits, result: Searched
) -> None:
    """Search what is listed, as long as it may be part of something better."""
    while not limits.reached(result.count) and (ahead := _ahead(spaces, result.goal, result)):
        shuffled = limits.shuffled if len(result.costs) else None  # first, anything at all
        _, space, run = shuffled.choice(ahead) if shuffled else ahead[0]
        _search_run(space, run, pieces, limits, result)


def _ahead(
    spaces: Sequence[Space], goal: Goal, result: Searched
) -> list[tuple[tuple[bool, float, int], Space, Run]]:
    """The runs that may be part of something better, those first of which the most may be hoped."""
    found = []
    for space in spaces:
        for run, rows in space.ahead.items():
            if run in space.useless or space.is_searched(run):
                continue
            rows = rows[goal.useful(rows, result.costs)]
            if not len(rows):
                space.useless.add(run)
            else:
                # to begin with, the cascade itself in one phase, or a long one Einsum by Einsum;
                # a sequence of phases begins with the longest, which often proves it useless
                long = len(space.problem.order) > _LONG
                begun = run[1] - run[0] == 1 if long else run == space.whole
                first = not len(result.costs) and begun and not space.about
                promise = float(f"{goal.promise(rows).min():.6g}")
                found.append(((not first, promise, run[0] - run[1]), space, run))
    return sorted(found, key=lambda f: f[0])


def _search_run(space: Space, run: Run, pieces: Pieces, limits: Limits, result: Searched) -> None:
    """Search the phases of one run, but for what the bounds of all else prove useless."""
    goal, problem, parts = result.goal, space.problem, space.parts(run)
    around = {part: rows for (own, part), rows in space.around.items() if own == run}
    fronts = {p: space.fronts.setdefault((run, p), Front(len(goal.columns))) for p in parts}
    listed = sorted(space.listed[run], key=lambda each: float(goal.promise(each[1]).min()))
    alive = goal.alive(around, result.costs)
    for structure, bound in listed:
        some = {
            part: front
            for part, front in fronts.items()
            if np.any(alive(bound if part is None else bound[part : part + 1], part))
        }
        screen = Screen(pieces.measures, alive, some, len(problem.parts))
        opened = open_structure(pieces, problem, structure, screen, result.count) if some else None
        if opened is None:
            result.structures_bounded += 1
            continue
        result.structures += 1
        space.opened.append((structure, opened.layout))
        number, reached = len(space.opened) - 1, partial(limits.reached, result.count)
        pricing = Pricing(opened, number, screen, result.count, reached)
        if opened.layout.each > _MANY or not any(len(front.costs) for front in some.values()):
            pricing.dive()
            _plan(space, result, fronts)
            screen = replace(screen, alive=goal.alive(around, result.costs))
        replace(pricing, screen=screen).search()
        _plan(space, result, fronts)
        alive = goal.alive(around, result.costs)
        if limits.reached(result.count):
            return
    for part, front in fronts.items():
        space.bounds[run, part] = merged(front.costs)
    space.look_around(goal)


def _plan(space: Space, result: Searched, fronts: Mapping[int | None, Front]) -> None:
    """Take in the best sequences of phases of a space, for the tiles of the cascade's own of which
    one of these fronts has something."""
    known = list(zip(result.costs, result.plans, strict=True))
    for part in (part for part, front in fronts.items() if len(front.costs)):
        costs, plans = _sequences(space, part, result.goal)
        known += [(c, (space, plan)) for c, plan in zip(costs, plans, strict=True)]
    if not known:
        return
    every = np.array([c for c, _ in known]).reshape(-1, len(result.goal.columns))
    kept = front_of(every)
    result.costs, result.plans = every[kept], [known[i][1] for i in kept]


def _sequences(space: Space, part: int | None, goal: Goal) -> tuple[np.ndarray, list[Plan]]:
    """Sequences of phases that no other beats, with the same tiles of the cascade's own in all."""
    count, width = len(space.problem.order), len(goal.columns)
    at: dict[int, tuple[np.ndarray, list[Plan]]] = {0: (np.zeros((1, width)), [()])}
    for end in range(1, count + 1):
        costs: list[np.ndarray] = []
        plans: list[Plan] = []
        for (run, own), front in space.fronts.items():
            if run[1] != end or own not in (None, part) or run[0] not in at:
                continue
            if not len(front.costs):
                continue
            before, before_plans = at[run[0]]
            total = join(goal.columns, before[:, None, :], front.costs[None, :, :])
            flat = total.reshape(-1, width)
            kept = front_of(flat)
            costs.append(flat[kept])
            size = len(front.costs)
            keys = [tuple(key) for key in front.keys.tolist()]
            plans += [(*before_plans[i // size], keys[i % size]) for i in kept]
        if costs:
            every = np.concatenate(costs)
            kept = front_of(every)
            at[end] = every[kept], [plans[i] for i in kept]
    return at.get(count, (np.zeros((0, width)), []))


__all__ = ["Limits", "Searched", "Space", "search"]
