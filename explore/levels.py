"""Design points at three levels of detail, and how far the levels agree.

`analytic` is the evaluation of `explore run`; `timeline` runs every tile as a task; `cycle` moves
values from PE to PE, on small arrays. A point is the same mapping at every level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from einsum_cascade.expression import parse_quantity
from einsum_cascade.source import InputError
from explore.evaluate import (
    DesignResult,
    attention_mapping,
    design_architecture,
    evaluate_design,
    linear_mapping,
    points_of,
)
from explore.plots.front import short
from explore.spec import Experiment, Grid, load_experiment
from sim import evaluate
from sim.single import single_point
from sim.timeline import CannotRun, Segment, Stretch, Timeline, UnitTime, joined, programs, timeline
from sim.timeline.result import Kind
from workloads import linear_layers

if TYPE_CHECKING:
    import polars as pl

    from sim import Mapping as Mapped
    from sim.cycle import PhaseRun

LEVELS = ("analytic", "timeline", "cycle")
LARGEST_SIDE = 64
"""Of an array that is simulated PE by PE."""
LARGEST_CYCLES = 100_000
"""Of a run that is simulated PE by PE, as the analytic model counts them."""
WHOLE_TASKS = 20_000
"""A run of up to so many tasks is not extrapolated where all of it is shown."""
CSV = "levels.csv"
_FEW = 8
"""Points that are not worth the way to other processes, which read the spec again."""


@dataclass(frozen=True)
class Selection:
    """The design points of a main grid that are wanted; what is empty is not narrowed."""

    designs: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    seq_len: tuple[int, ...] = ()
    batch: tuple[int, ...] = ()


def selection(
    designs: Iterable[str] | None = None,
    models: Iterable[str] | None = None,
    kernels: Iterable[str] | None = None,
    seq_len: Iterable[str] | None = None,
    batch: Iterable[int] | None = None,
) -> Selection:
    """The same from words of a command line: sequence lengths as people write them.

    >>> selection(designs=["FLAT"], seq_len=["4K"])
    Selection(designs=('FLAT',), models=(), kernels=(), seq_len=(4096,), batch=())
    """
    lengths = tuple(int(parse_quantity(text)) for text in seq_len or ())
    return Selection(
        tuple(designs or ()), tuple(models or ()), tuple(kernels or ()), lengths, tuple(batch or ())
    )


@dataclass(frozen=True)
class PointResult:
    """A design point at one level, times in seconds.

    The analytic level knows how long a unit is busy, not why it waits: `stalled_s` and `idle_s` are
    None, and so they are at the level `cycle`. `critical_path_s` adds up to the latency: what the
    run's length was spent on; `unit_of` says where tasks run. A point that cannot be has a `reason`
    and nothing else.
    """

    design: str
    model: str
    kernel: str
    batch: int
    seq_len: int
    level: str
    swept: Mapping[str, float] = field(default_factory=dict)
    latency_s: float | None = None
    cycles: float | None = None
    busy_s: Mapping[str, float] = field(default_factory=dict)
    stalled_s: Mapping[str, Mapping[str, float]] | None = None
    idle_s: Mapping[str, float] | None = None
    critical_path_s: Mapping[str, float] = field(default_factory=dict)
    arrays: tuple[str, ...] = ()
    unit_of: Mapping[str, str] = field(default_factory=dict)
    tasks: float | None = None
    extrapolated: bool = False
    reason: str | None = None

    @property
    def label(self) -> str:
        """The design, with the swept values that tell its points apart."""
        swept = (f", {name.split('.')[-1]}={short(value)}" for name, value in self.swept.items())
        return self.design + "".join(swept)

    @property
    def name(self) -> str:
        """The point in words."""
        swept = "".join(f", {k} = {short(v)}" for k, v in self.swept.items())
        where = f"{self.kernel} of {self.model}, {self.seq_len} tokens, batch {self.batch}{swept}"
        return f"{self.design}: {where}"

    @property
    def largest_stall(self) -> tuple[str, str, float] | None:
        """The unit that waits longest for one thing, for what, and how long.

        A port that waits because everything is there already is no reason to be slow, so arrays
        come first.
        """
        if self.stalled_s is None:
            return None
        found = [
            (unit in self.arrays, seconds, unit, reason)
            for unit, reasons in self.stalled_s.items()
            for reason, seconds in reasons.items()
            if seconds > 0
        ]
        if not found:
            return None
        _, seconds, unit, reason = max(found)
        return unit, reason, seconds

    @property
    def longest_term(self) -> tuple[str, float] | None:
        """What the critical path is spent on most, and its share."""
        if not self.latency_s or not self.critical_path_s:
            return None
        name = max(self.critical_path_s, key=lambda k: self.critical_path_s[k])
        return name, self.critical_path_s[name] / self.latency_s


@dataclass(frozen=True)
class Place:
    """A point of the main grid: the position of its design, its own position, and a kernel."""

    design: int
    point: int
    kernel: str


@dataclass(frozen=True)
class Run:
    """A design point that was run as a timeline."""

    result: PointResult
    timeline: Timeline


def places(experiment: Experiment, chosen: Selection) -> list[Place]:
    """The chosen points of the main grid, in the order of the results table.

    Raises `InputError` for a name or a number that the main grid does not have.
    """
    grid = narrowed(experiment, chosen)
    count = len(points_of(grid))
    return [
        Place(design, point, kernel)
        for design in range(len(grid.designs))
        for kernel in grid.kernels
        for point in range(count)
    ]


def narrowed(experiment: Experiment, chosen: Selection) -> Grid:
    """The main grid with nothing in it but what is chosen."""
    grid = experiment.grids[0]

    def kept(what: str, wanted: Iterable[Any], known: Mapping[Any, Any]) -> tuple[Any, ...]:
        wanted = tuple(dict.fromkeys(wanted))
        for each in wanted:
            if each not in known:
                raise InputError(
                    f"the main grid of {experiment.name!r} has no {what} {each!r}",
                    allowed=known,
                    found=each,
                )
        return tuple(value for key, value in known.items() if key in wanted or not wanted)

    return replace(
        grid,
        designs=kept("design", chosen.designs, {d.name: d for d in grid.designs}),
        models=kept("model", chosen.models, {m.name: m for m in grid.models}),
        kernels=kept("kernel", chosen.kernels, {k: k for k in grid.kernels}),
        seq_len=kept("sequence length", chosen.seq_len, {n: n for n in grid.seq_len}),
        batch=kept("batch size", chosen.batch, {b: b for b in grid.batch}),
    )


def first_of_each(experiment: Experiment, chosen: Selection) -> Selection:
    """The same with one point a design: the first of everything that has more than one value."""
    grid = narrowed(experiment, chosen)
    return Selection(
        tuple(design.name for design in grid.designs),
        (grid.models[0].name,),
        (grid.kernels[0],),
        grid.seq_len[:1],
        grid.batch[:1],
    )


def at_levels(
    experiment: Experiment,
    chosen: Selection,
    levels: Sequence[str],
    limit: int | None = None,
    progress: Callable[[str, int], None] | None = None,
    pool: Executor | None = None,
) -> list[tuple[PointResult, ...]]:
    """The chosen points, each at all `levels`; the first `limit` of them.

    `progress` is told the design of every point that is done. `pool` takes points side by side, if
    there are many. A point that a level cannot run has the reason there.
    """
    todo = places(experiment, chosen)[:limit]
    file = experiment.document.file
    found: Iterator[tuple[PointResult, ...]]
    if pool is not None and len(todo) > _FEW and set(levels) - {"analytic"}:
        found = pool.map(_in_file, repeat(file), repeat(chosen), todo, repeat(levels), chunksize=4)
    else:
        one_by_one = _each_placed(experiment, chosen, todo)
        found = (_evaluated(placed, place, levels) for placed, place in one_by_one)
    results = []
    for each in found:
        results.append(each)
        if progress is not None:
            progress(each[0].design, 1)
    return results


def run_timelines(experiment: Experiment, chosen: Selection) -> tuple[list[Run], list[PointResult]]:
    """Timelines of the chosen points, whole ones of up to `WHOLE_TASKS` tasks: people look at them.

    Beside them the points that cannot be, with their reasons.
    """
    runs, left_out = [], []
    for placed, place in _each_placed(experiment, chosen, places(experiment, chosen)):
        result = _described(placed, place, "timeline")
        try:
            if result.reason is None:
                found = _timeline(placed, place)
                if found.extrapolated and found.tasks <= WHOLE_TASKS:
                    found = _timeline(placed, place, steady=False)
                runs.append(Run(_measured(result, found), found))
                continue
        except (CannotRun, InputError) as error:
            result = replace(result, reason=str(error))
        left_out.append(result)
    return runs, left_out


@dataclass(frozen=True)
class _Placed:
    """A design at all chosen points, one kernel of it: results, and mappings of what is feasible.

    `at` gives the position of a point among those that are mapped.
    """

    grid: Grid
    result: DesignResult
    kernel: str
    reasons: Any
    at: Any
    attention: Any
    linear: Any
    arrays: tuple[str, ...]
    clock_hz: Any


def _place(experiment: Experiment, chosen: Selection, index: int, kernel: str) -> _Placed:
    grid = replace(narrowed(experiment, chosen), kernels=(kernel,))
    design = grid.designs[index]
    result = evaluate_design(grid, design, experiment.schema.energy.accounting)
    reasons = result.reasons(kernel)
    good = reasons == None  # noqa: E711  (elementwise)
    attention, linear = None, None
    clock: Any = np.nan
    if good.any() and kernel != "network":
        points = result.points[good]
        values = {name: np.asarray(value)[good] for name, value in result.values.items()}
        architecture = design_architecture(design, values)
        clock = architecture.clock_hz
        attention = attention_mapping(grid, design, points, values)
        if kernel == "encoder":
            linear = linear_mapping(grid, architecture, points, design)
    return _Placed(
        grid,
        result,
        kernel,
        reasons,
        np.cumsum(good) - 1,
        attention,
        linear,
        tuple(design.architecture.schema.arrays),
        np.broadcast_to(clock, (int(good.sum()),)),
    )


def _in_file(
    file: str, chosen: Selection, place: Place, levels: Sequence[str]
) -> tuple[PointResult, ...]:
    """A point in another process, from the file of the spec."""
    return _evaluated(_placed_in(file, chosen, place.design, place.kernel), place, levels)


@lru_cache(maxsize=1)
def _loaded(file: str) -> Experiment:
    return load_experiment(file)


@lru_cache(maxsize=1)  # points come design by design
def _placed_in(file: str, chosen: Selection, design: int, kernel: str) -> _Placed:
    return _place(_loaded(file), chosen, design, kernel)


def _each_placed(
    experiment: Experiment, chosen: Selection, todo: Iterable[Place]
) -> Iterator[tuple[_Placed, Place]]:
    """Every point with its design, which is placed once for all of its points."""
    for (design, kernel), own in groupby(todo, key=lambda place: (place.design, place.kernel)):
        placed = _place(experiment, chosen, design, kernel)
        for place in own:
            yield placed, place


def _evaluated(placed: _Placed, place: Place, levels: Sequence[str]) -> tuple[PointResult, ...]:
    alone = "cycle" in levels  # compared with arrays alone, a timeline is of arrays alone
    return tuple(_at_level(placed, place, level, ports=not alone) for level in levels)


def _at_level(placed: _Placed, place: Place, level: str, ports: bool) -> PointResult:
    result = _described(placed, place, level)
    if result.reason is not None:
        return result
    if level == "analytic":
        return _analytic(result, placed, place.point)
    try:
        if level == "timeline":
            return _measured(result, _timeline(placed, place, ports=ports))
        found = _measured(result, _cycle(placed, place))
        return replace(found, stalled_s=None, idle_s=None)  # who waits and who has no work is alike
    except (CannotRun, InputError) as error:
        return replace(result, reason=str(error))


def _described(placed: _Placed, place: Place, level: str) -> PointResult:
    """The point and the reason why it cannot be, if there is one; nothing measured yet."""
    points, i = placed.result.points, place.point
    reason = placed.reasons[i]
    if reason is None and placed.kernel == "network" and level != "analytic":
        reason = (
            f"the kernel 'network' has no level {level}: it is made of many kernels, each with a "
            "mapping of its own"
        )
    return PointResult(
        design=placed.result.design.name,
        model=placed.grid.models[points.model[i]].name,
        kernel=placed.kernel,
        batch=int(points.batch[i]),
        seq_len=int(points.seq_len[i]),
        level=level,
        swept={name: float(values[i]) for name, values in points.swept.items()},
        arrays=placed.arrays,
        reason=reason,
    )


def _analytic(result: PointResult, placed: _Placed, point: int) -> PointResult:
    found = placed.result.kernels[placed.kernel]

    def at(terms: Mapping[str, Any]) -> dict[str, float]:
        return {name: float(value[point]) for name, value in terms.items()}

    latency = float(found.latency_s[point])
    clock = placed.clock_hz[placed.at[point]]
    return replace(
        result,
        latency_s=latency,
        cycles=None if np.isnan(clock) else latency * float(clock),
        busy_s=at(found.busy_s),
        critical_path_s=at(found.latency_terms_s),
    )


def _measured(result: PointResult, run: Timeline) -> PointResult:
    """The point with what a timeline says of it."""
    second = 1 / run.clock_hz
    return replace(
        result,
        latency_s=run.latency_s,
        cycles=run.cycles,
        busy_s={unit: time.busy * second for unit, time in run.units.items()},
        stalled_s={
            unit: {reason: cycles * second for reason, cycles in time.stalled.items()}
            for unit, time in run.units.items()
        },
        idle_s={unit: time.idle * second for unit, time in run.units.items()},
        critical_path_s={name: c * second for name, c in run.critical_path.items()},
        unit_of={segment.name: segment.unit for segment in run.segments},
        tasks=run.tasks,
        extrapolated=run.extrapolated,
    )


def _timeline(placed: _Placed, place: Place, steady: bool = True, ports: bool = True) -> Timeline:
    """The run of a point: attention, and then each linear layer if the kernel has them."""
    return _in_turn(placed, place, lambda m: timeline(m, ports=ports, steady=steady))


def _cycle(placed: _Placed, place: Place) -> Timeline:
    """The same, cycle by cycle, where the point is small enough for that."""
    return _in_turn(placed, place, _simulated)


def _simulated(mapping: Mapped) -> Timeline:
    """A mapping on the PEs, on numbers drawn at random, with memories that answer at once.

    Raises `InputError` for what this level has not, such as filters, and RuntimeError if what the
    PEs computed is not what the cascade says.
    """
    from einsum_cascade import execute
    from sim.cycle import NotAtThisLevel, simulate

    _refuse_large(mapping)
    generator = np.random.default_rng(0)
    shape = {rank: int(extent) for rank, extent in mapping.shape.items()}
    tensors = mapping.cascade.tensors
    inputs = {
        name: generator.normal(size=[shape[rank] for rank in tensors[name].ranks])
        for name in mapping.cascade.inputs
    }
    try:
        run = simulate(mapping, inputs, programs(mapping))
    except NotAtThisLevel as error:
        raise InputError(f"the level 'cycle' cannot run {mapping.cascade.name}: {error}") from None
    wanted = execute(mapping.cascade, inputs, shape)
    for name in mapping.cascade.outputs:
        if not np.allclose(run.tensors[name], wanted[name], rtol=1e-9, atol=1e-9):
            raise RuntimeError(f"the PEs computed another {name} than the cascade")
    return as_timeline(mapping, run.phases)


def _refuse_large(mapping: Mapped) -> None:
    """Raise `InputError` for what would take too long PE by PE, with what is allowed."""
    for array in mapping.architecture.arrays:
        if max(array.shape) > LARGEST_SIDE:
            sides = " x ".join(f"{side:g}" for side in array.shape)
            raise InputError(
                f"the level 'cycle' takes arrays of up to {LARGEST_SIDE} PEs a side, but array "
                f"{array.name!r} has {sides}: choose a smaller one, as in "
                "sweep: {arch.array_dim: 16}"
            )
    cycles = float(np.ravel(evaluate(mapping).latency_s)[0]) * float(mapping.architecture.clock_hz)
    if cycles > LARGEST_CYCLES:
        raise InputError(
            f"the level 'cycle' takes runs of up to {LARGEST_CYCLES:,} cycles, but this one has "
            f"about {cycles:,.0f}: choose fewer heads, a batch of one, or a shorter sequence"
        )


def as_timeline(mapping: Mapped, phases: Iterable[PhaseRun]) -> Timeline:
    """What ran cycle by cycle, as a timeline. It knows who worked when, not what one waited for.

    Cycles are told in the frame of PE (0,0), as the timeline's are.
    """
    segments: list[Segment] = []
    path: dict[str, float] = {}
    begin = 0.0
    for choice, run in zip(mapping.phases, phases, strict=True):
        loops = {m.einsum: [loop.name for loop in m.temporal] for m in choice.options[0].einsums}
        for task in run.tasks:
            index = tuple(zip(loops[task.einsum], task.index, strict=False))
            start, end = begin + task.start, begin + task.end
            kind: Kind = "compute"
            segments.append(Segment(task.array, run.name, task.einsum, kind, index, start, end))
        path[f"phase {run.name}"] = path.get(f"phase {run.name}", 0.0) + run.told_cycles
        begin += run.told_cycles
    units = {}
    for array in mapping.architecture.arrays:
        worked, until = 0.0, 0.0
        for s in sorted((s for s in segments if s.unit == array.name), key=lambda s: s.start):
            worked += max(0.0, s.end - max(s.start, until))  # interleaved tasks share their time
            until = max(until, s.end)
        units[array.name] = UnitTime(worked, {}, begin - worked)
    clock = float(mapping.architecture.clock_hz)
    whole = (Stretch(0.0, begin, 1.0),)
    return Timeline(clock, begin, tuple(segments), whole, units, path, float(len(segments)))


def _in_turn(placed: _Placed, place: Place, simulate: Callable[[Any], Timeline]) -> Timeline:
    at = int(placed.at[place.point])
    parts = [("", simulate(single_point(placed.attention, at)))]
    if placed.linear is not None:
        count = len(placed.clock_hz)
        model = placed.grid.models[placed.result.points.model[place.point]]
        alike: dict[tuple[int, int], Timeline] = {}  # Q, K and V often have one shape
        for i, layer in enumerate(linear_layers(model)):
            shape = (layer.K, layer.N)
            if shape not in alike:
                alike[shape] = simulate(single_point(placed.linear, i * count + at))
            parts.append((f"layer {layer.name}", alike[shape]))
    return in_sequence(parts)


def in_sequence(parts: Iterable[tuple[str, Timeline]]) -> Timeline:
    """Runs that follow one another, as one. A name goes before the phases of its run."""
    runs = [
        replace(run, segments=tuple(replace(s, phase=f"{name}: {s.phase}") for s in run.segments))
        if name
        else run
        for name, run in parts
    ]
    if len(runs) == 1:
        return runs[0]
    return joined(runs, runs[0].clock_hz, [])


def table_of(results: Iterable[PointResult]) -> pl.DataFrame:
    """One row a point and level; figures that a level does not know are null."""
    import polars as pl

    return pl.DataFrame([_row(r) for r in results], infer_schema_length=None)


def write_csv(table: pl.DataFrame, file: Path) -> None:
    """Write a table. Raises `InputError` where that is not possible."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        table.write_csv(file)
    except OSError as error:
        raise InputError(f"cannot write {str(file)!r}: {error.strerror}") from None


def _row(r: PointResult) -> dict[str, Any]:
    row: dict[str, Any] = {
        "design": r.design,
        "model": r.model,
        "kernel": r.kernel,
        "batch": r.batch,
        "seq_len": r.seq_len,
        **r.swept,
        "level": r.level,
        "latency_s": r.latency_s,
        "cycles": r.cycles,
        "tasks": r.tasks,
        "extrapolated": r.extrapolated,
    }
    for unit, seconds in r.busy_s.items():
        name = unit.lower()
        stalled = None if r.stalled_s is None else sum(r.stalled_s.get(unit, {}).values())
        row[f"busy_{name}_s"] = seconds
        row[f"stalled_{name}_s"] = stalled
        row[f"idle_{name}_s"] = None if r.idle_s is None else r.idle_s.get(unit, 0.0)
    for unit in r.stalled_s or ():
        row[f"stalls_{unit.lower()}"] = shares((r.stalled_s or {})[unit], r.latency_s)
    row["largest_stall"] = stall_text(r) or None
    row["critical_path"] = shares(r.critical_path_s, r.latency_s)
    row["reason"] = r.reason
    return row


def shares(seconds: Mapping[str, float], whole: float | None, least: float = 5e-4) -> str:
    """What takes which part of the whole, largest first, as text.

    >>> shares({"QK": 3.0, "drain of LM": 1.0, "RM": 0.0}, 4.0)
    'QK 75.0 %, drain of LM 25.0 %'
    """
    if not whole:
        return ""
    found = sorted(seconds.items(), key=lambda item: -item[1])
    return ", ".join(f"{n} {100 * s / whole:.1f} %" for n, s in found if s > least * whole)


def stall_text(r: PointResult) -> str:
    """The largest stall in words."""
    found = r.largest_stall
    if found is None or not r.latency_s:
        return ""
    unit, reason, seconds = found
    return f"{unit} waits for {reason} {100 * seconds / r.latency_s:.1f} %"


def term_text(r: PointResult) -> str:
    """The largest term of the critical path, with its share."""
    found = r.longest_term
    return "" if found is None else f"{found[0]} {100 * found[1]:.1f} %"


def unit_text(r: PointResult, unit: str) -> str:
    """Shares of the run that a unit is busy, stalled and idle, in percent."""
    if unit not in r.busy_s or not r.latency_s:
        return "-"
    busy = 100 * r.busy_s[unit] / r.latency_s
    if r.stalled_s is None or r.idle_s is None:
        return f"{busy:.1f}"
    stalled = 100 * sum(r.stalled_s.get(unit, {}).values()) / r.latency_s
    return f"{busy:.1f}/{stalled:.1f}/{100 * r.idle_s.get(unit, 0.0) / r.latency_s:.1f}"
