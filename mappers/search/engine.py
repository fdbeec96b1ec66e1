"""The best of all mappings of the space: phases of every run of Einsums, then their best sequence.

Phases meet only in the outermost memory, so what they cost adds up. A mapping is a way to cut the
order of the Einsums into phases, and a candidate for each; along the order, only sequences that no
other beats are kept.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from einsum_cascade import Cascade
from mappers.search.fronts import Column, Front, front_of, join
from mappers.search.goals import Goal
from mappers.search.price import Count, Layout, open_structure, rebuild, search_structure
from mappers.search.problem import Problem
from mappers.search.structures import Binding, Structure, structures
from sim import Phase
from sim.accesses import analysis_of
from sim.mapping import Mapping, Number

Run = tuple[int, int]
Plan = tuple[tuple[Run, int | None, int], ...]
"""For each phase its run, the tiles of the cascade's own that it is for, and the position in the
front of both."""


@dataclass
class Limits:
    """How far a search goes: candidates that are costed, until it is `stopped`; only phases of all
    Einsums (`whole`), or any. With `shuffled`, runs are looked at in that order."""

    candidates: float = np.inf
    whole: bool = False
    shuffled: random.Random | None = None
    stopped: Callable[[], bool] = bool

    def reached(self, count: Count) -> bool:
        """Whether it is over."""
        return count.costed >= self.candidates or self.stopped()


@dataclass
class Searched:
    """What was found for a cascade and its rewrites.

    `costs` are those of whole mappings that nothing beats, `plans` the choices of each: for every
    phase its run and the position in the run's front.
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
    """One cascade (of several rewrites): its runs with what was found for them."""

    problem: Problem
    about: tuple[str, ...]
    least: dict[Run, np.ndarray] = field(default_factory=dict)
    fronts: dict[tuple[Run, int | None], Front] = field(default_factory=dict)
    opened: list[tuple[Structure, Layout]] = field(default_factory=list)

    @property
    def whole(self) -> Run:
        """The run of all Einsums."""
        return 0, len(self.problem.order)

    def parts(self, run: Run) -> Sequence[int | None]:
        """Phases of one mapping all have the same tiles of what the cascade itself takes in tiles:
        so what is best is kept for each, but for a phase of all Einsums."""
        single = run == self.whole or not self.problem.parts
        return [None] if single else range(len(self.problem.parts))

    def mapping(self, plan: Plan) -> tuple[Problem, list[Phase], list[str]]:
        """The phases of a plan, with a line on each."""
        phases, words = [], []
        single = self.problem
        for run, part, at in plan:
            number, x, k = (int(v) for v in self.fronts[run, part].keys[at])
            structure, layout = self.opened[number]
            single, phase = rebuild(self.problem, structure, layout, x, k)
            phases.append(phase)
            words.append(structure.words)
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
    work: list[tuple[Space, Run]] = []
    for space in spaces:
        for run in runs_of(space.problem):
            space.least[run] = least(space.problem, run, goal.columns)
            work.append((space, run))
    work.sort(key=lambda w: (w[1][0] - w[1][1], len(w[0].about)))
    whole = [w for w in work if w[1] == (0, len(w[0].problem.order))]
    rest = [] if limits.whole else [w for w in work if w not in whole]
    if limits.shuffled is not None:
        limits.shuffled.shuffle(rest)
    result.runs = len(whole) + len(rest)
    for space, run in (*whole, *rest):
        if not _one(space, run, goal, limits, result):
            result.runs_bounded += 1
        if limits.reached(result.count):
            result.complete = False
            break
    _plans(spaces, goal, result)
    return result


def _one(space: Space, run: Run, goal: Goal, limits: Limits, result: Searched) -> bool:
    """Search the phases of one run, but for what the bounds of all else prove useless."""
    around = _around(space, run, goal.columns)
    if around is None:
        return False

    def alive(costs: np.ndarray) -> np.ndarray:
        total = join(goal.columns, costs, around)
        return goal.useful(total, result.costs)

    if not alive(space.least[run][None])[0]:
        return False
    problem = space.problem
    memories = problem.architecture.memories[1:]
    capacity = {m.name: float(m.size_bytes) for m in memories}
    fronts = {
        part: space.fronts.setdefault((run, part), Front(len(goal.columns)))
        for part in space.parts(run)
    }
    for structure in structures(problem, problem.order[run[0] : run[1]]):
        if not alive(least(problem, run, goal.columns, structure.bindings)[None])[0]:
            result.structures_bounded += 1
            continue
        result.structures += 1
        opened = open_structure(problem, structure)
        space.opened.append((structure, opened.layout))
        number = len(space.opened) - 1
        power = float(problem.architecture.power_w)
        for part, front in fronts.items():
            result.count.add(
                search_structure(opened, number, goal.columns, capacity, power, front, alive, part)
            )
        if limits.reached(result.count):
            break
    _plans([space], goal, result)
    return True


def _around(space: Space, run: Run, columns: Sequence[Column]) -> np.ndarray | None:
    """The least that the phases before and after a run can cost."""
    count = len(space.problem.order)
    before: dict[int, np.ndarray] = {0: np.zeros(len(columns))}
    after: dict[int, np.ndarray] = {count: np.zeros(len(columns))}
    for i in range(count + 1):
        for (a, b), costs in space.least.items():
            if a == i and a in before and b <= run[0]:
                found = join(columns, before[a], costs)
                before[b] = np.minimum(before.get(b, np.inf), found)
    for i in range(count, -1, -1):
        for (a, b), costs in space.least.items():
            if b == i and b in after and a >= run[1]:
                found = join(columns, after[b], costs)
                after[a] = np.minimum(after.get(a, np.inf), found)
    if run[0] not in before or run[1] not in after:
        return None
    return join(columns, before[run[0]], after[run[1]])


def _plans(spaces: Sequence[Space], goal: Goal, result: Searched) -> None:
    """The best sequences of phases, of these spaces and of those before."""
    width = len(goal.columns)
    for space in spaces:
        parts: Sequence[int | None] = range(len(space.problem.parts)) or [None]
        known = [
            (c, p) for c, p in zip(result.costs, result.plans, strict=True) if p[0] is not space
        ]
        for part in parts:
            costs, plans = _sequences(space, part, goal)
            known += [(c, (space, plan)) for c, plan in zip(costs, plans, strict=True)]
        every = np.array([c for c, _ in known]).reshape(-1, width)
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
            plans += [(*before_plans[i // size], (run, own, int(i % size))) for i in kept]
        if costs:
            every = np.concatenate(costs)
            kept = front_of(every)
            at[end] = every[kept], [plans[i] for i in kept]
    return at.get(count, (np.zeros((0, width)), []))


def least(
    problem: Problem, run: Run, columns: Sequence[Column], bindings: Sequence[Binding] = ()
) -> np.ndarray:
    """What no phase of these Einsums costs less than: work, and what comes from outside or goes.

    With `bindings`, no phase in which each is on the array given, over the ranks given.
    """
    einsums = problem.order[run[0] : run[1]]
    architecture = problem.architecture
    busy: dict[str, Number] = {}
    slowest, together, energy = np.float64(0), np.float64(0), np.float64(0)
    for at, einsum in enumerate(einsums):
        if bindings:
            seconds, joules = problem.work(einsum.name, bindings[at].array, bindings[at].spatial)
            name = bindings[at].array
            busy[name] = busy.get(name, 0.0) + seconds
        else:
            each = [problem.work(einsum.name, a.name, None) for a in problem.arrays_for(einsum)]
            seconds = np.nanmin(np.stack([s for s, _ in each]), axis=0)
            joules = np.nanmin(np.stack([j for _, j in each]), axis=0)
            slowest, together = np.maximum(slowest, seconds), together + seconds
        energy = energy + joules
    for seconds in busy.values():
        slowest = np.maximum(slowest, seconds)
    read, written = problem.moved(run)
    outermost = architecture.memories[0]
    words = read + written
    time_of = words * architecture.word_bytes / outermost.bandwidth_bytes_per_s
    energy = energy + read / outermost.access_words * outermost.read_energy_pj
    energy = energy + written / outermost.access_words * outermost.write_energy_pj
    found = {
        "latency_s": np.maximum(np.maximum(slowest, together / len(architecture.arrays)), time_of),
        "energy_pj": energy,
        "traffic_bytes": words * architecture.word_bytes,
        "buffer_bytes": np.float64(0),
    }
    rounding = 1 - 1e-9
    return np.array([float(np.min(np.nan_to_num(found[c]))) * rounding for c in columns])


def bound_bytes(cascade: Cascade, problem: Problem) -> float:
    """Bytes that any mapping of a cascade moves on the architecture."""
    on = Mapping(cascade, problem.architecture, problem.shape, ())
    inner = sum(m.size_bytes for m in on.architecture.memories[1:])
    registers = sum(a.pes * a.register_words for a in on.architecture.arrays)
    held = inner / on.architecture.word_bytes + registers
    words = analysis_of(cascade).traffic_lower_bound_words(problem.shape, held)
    return float(np.min(words * on.architecture.word_bytes))


__all__ = ["Limits", "Run", "Searched", "Space", "bound_bytes", "least", "search"]
