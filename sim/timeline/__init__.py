"""A task-level timeline: when every tile of every Einsum runs, what it waits for, and why.

The same mapping that the analytic model prices is played as tasks on arrays and memory ports, with
finite rooms, fill and drain, and the software pipelining that its binding asks for.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from sim.mapping import Mapping, Phase
from sim.timeline.account import critical_path, stretches_of, unit_times
from sim.timeline.building import Builder, streams_of
from sim.timeline.engine import Deadlock, Engine, Run
from sim.timeline.order import PIPELINES, ordered
from sim.timeline.program import Program, program_of
from sim.timeline.result import Segment, Stretch, Timeline, UnitTime
from sim.timeline.streams import Streams

_GOOD = 1.001
"""A pipeline this close to the busiest unit's time leaves nothing to look for."""

_SAME = 1e-9
"""Runs that differ by rounding only: of those, the first that was tried."""


class CannotRun(ValueError):  # noqa: N818  (it is a finding about a mapping)
    """A phase whose tiles wait for each other's room for ever, or with what this level lacks."""


def timeline(mapping: Mapping, *, ports: bool = True, steady: bool = True) -> Timeline:
    """The timeline of a single design point (see `sim.single`): its phases one after the other.

    Without `ports` memories answer at once: the arrays alone. Without `steady` every task is
    simulated. Raises `CannotRun` when a phase cannot run at all in the rooms that it has.
    """
    parts = []
    clock = float(mapping.architecture.clock_hz)
    for choice in mapping.phases:
        phase = choice.options[0]
        if not phase.einsums:
            parts.append(_pause(phase, clock))
            continue
        _, streams, run = _simulated(mapping, phase, ports, steady)
        parts.append(_told(mapping, streams, run))
    return joined(parts, clock, [a.name for a in mapping.architecture.arrays])


def programs(mapping: Mapping) -> list[Program]:
    """The order of tasks of every phase, with memories that answer at once: for a finer level.

    Every task is listed, so it is for small problems. Raises as `timeline` does.
    """
    phases = [choice.options[0] for choice in mapping.phases]
    phases = [phase for phase in phases if phase.einsums]
    return [program_of(*_simulated(mapping, phase, ports=False, steady=False)) for phase in phases]


def _simulated(
    mapping: Mapping, phase: Phase, ports: bool, steady: bool
) -> tuple[Builder, Streams, Run]:
    """The phase in the best of the pipelines that its rooms allow."""
    outermost = mapping.architecture.memories[0]
    loops = [m.array for m in phase.einsums if mapping.architecture.array(m.array).loop is not None]
    if loops or outermost.ports:
        what = f"pipelined loops ({loops[0]})" if loops else f"ports of {outermost.name}"
        raise CannotRun(f"phase {phase.name}: only the analytic level knows {what}")
    builder, streams = streams_of(mapping, phase, ports)
    best: tuple[float, Streams, Run] | None = None
    tried = set()
    for distance in PIPELINES[:1] if phase.steps else PIPELINES:
        trial = ordered(builder, streams, phase, distance)
        lags = tuple(stream.lag for stream in trial.all)
        if lags in tried:
            continue
        tried.add(lags)
        try:
            run = Engine(trial, steady).simulate()
        except Deadlock:
            continue
        end = max((s.end for s in run.segments), default=0.0)
        cycles = sum((s.end - s.start) * s.repeats for s in stretches_of(run, end))
        if best is None or cycles < best[0] * (1 - _SAME):
            best = (cycles, trial, run)
        if cycles <= _GOOD * _busiest(trial):
            break
    if best is None:
        raise CannotRun(f"phase {phase.name}: its tiles wait for each other's room{_uneven(phase)}")
    return builder, best[1], best[2]


def _uneven(phase: Phase) -> str:
    """Why that may be: a loop that Einsums share, but in which they go different ways."""
    sizes: dict[str, dict[float, str]] = {}
    for m in phase.einsums:
        for at, loop in enumerate(m.loops[: m.shared]):
            inside = prod(float(p.extent) for p in m.loops[at + 1 :] if p.rank == loop.rank)
            if loop.extent > 1:
                sizes.setdefault(loop.name, {}).setdefault(inside, m.einsum)
    for name, found in sizes.items():
        if len(found) > 1:
            (one, first), (other, second) = sorted(found.items())[:2]
            return (
                f". An iteration of loop {name} is {one:g} coordinates to {first} and, in whole "
                f"wavefronts, {other:g} to {second}: tasks of this level do not overlap that far"
            )
    return ""


def _busiest(streams: Streams) -> float:
    """Cycles of the unit with the most work: nothing is faster."""
    busy: dict[str, float] = {}
    for stream in streams.all:
        busy[stream.unit] = busy.get(stream.unit, 0.0) + stream.cycles * stream.count
    return max(busy.values(), default=0.0)


def _told(mapping: Mapping, streams: Streams, run: Run) -> Timeline:
    end = max((s.end for s in run.segments), default=0.0)
    stretches = stretches_of(run, end)
    return Timeline(
        float(mapping.architecture.clock_hz),
        sum((s.end - s.start) * s.repeats for s in stretches),
        tuple(run.segments),
        stretches,
        unit_times(run, stretches, list((*streams.arrays, *streams.ports)), end),
        critical_path(run, stretches, end),
        float(sum(stream.count for stream in streams.all)),
    )


def _pause(phase: Phase, clock_hz: float) -> Timeline:
    """A phase in which nothing runs."""
    cycles = float(phase.stall_cycles)
    return Timeline(
        clock_hz, cycles, (), (Stretch(0.0, cycles, 1.0),), {}, {phase.name: cycles}, 0.0
    )


def joined(parts: list[Timeline], clock_hz: float, arrays: list[str]) -> Timeline:
    """Timelines one after the other, as one."""
    segments: list[Segment] = []
    stretches: list[Stretch] = []
    units: dict[str, UnitTime] = {}
    path: dict[str, float] = {}
    offset = 0.0
    names = dict.fromkeys([*arrays, *(unit for part in parts for unit in part.units)])
    for part in parts:
        end = part.stretches[-1].end if part.stretches else 0.0
        segments += [replace(s, start=s.start + offset, end=s.end + offset) for s in part.segments]
        stretches += [
            replace(s, start=s.start + offset, end=s.end + offset) for s in part.stretches
        ]
        for unit in names:
            here = part.units.get(unit, UnitTime(0.0, {}, part.cycles))
            before = units.get(unit, UnitTime(0.0, {}, 0.0))
            stalled = {
                k: before.stalled.get(k, 0.0) + here.stalled.get(k, 0.0)
                for k in (*before.stalled, *here.stalled)
            }
            units[unit] = UnitTime(before.busy + here.busy, stalled, before.idle + here.idle)
        for name, cycles in part.critical_path.items():
            path[name] = path.get(name, 0.0) + cycles
        offset += end
    cycles = sum(part.cycles for part in parts)
    tasks = sum(part.tasks for part in parts)
    return Timeline(clock_hz, cycles, tuple(segments), tuple(stretches), units, path, tasks)


__all__ = [
    "CannotRun",
    "Program",
    "Segment",
    "Stretch",
    "Timeline",
    "UnitTime",
    "joined",
    "programs",
    "timeline",
]
