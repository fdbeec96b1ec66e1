"""Cycles of each Einsum, and what a phase's schedule makes of them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np

from archs import Architecture, ComputeArray, Port
from einsum_cascade import Cascade
from sim.accesses import Tally, apart, stagger_iterations, worked_share
from sim.folds import folds_of
from sim.mapping import EinsumMapping, Loop, Mask, Number, Phase, shared_loops
from sim.nest import product

STALL = "stall"


@dataclass(frozen=True)
class Timing:
    """Seconds of a phase.

    `terms_s` names what the latency consists of (arrays, memories, stalls) and adds up to it;
    `busy_s` is how long each array and each memory with a bandwidth works. `compute_s` is what the
    phase takes if memories give everything at once.
    """

    latency_s: Number
    compute_s: Number
    terms_s: Mapping[str, Number]
    busy_s: Mapping[str, Number]


def point_cycles(cascade: Cascade, array: ComputeArray, mapping: EinsumMapping) -> Number:
    """Cycles that a PE needs for one point of an Einsum's iteration space.

    Sequential issue: the cycles of all its operations. Pipelined: those of the busiest unit, since
    the units of a PE work on successive points. Of a pipelined loop: its interval, whatever the
    operations. NaN when the array lacks an operation.
    """
    if array.loop is not None:
        kinds = cascade.einsum(mapping.einsum).operations
        known = all(kind in array.operations for kind in kinds)
        return array.loop.interval_cycles if known else np.nan
    units: dict[str, Number] = {}
    for kind, times in cascade.einsum(mapping.einsum).operations.items():
        if kind not in array.operations:
            return np.nan
        for unit, cycles in array.operations[kind].unit_cycles.items():
            units[unit] = units.get(unit, 0.0) + times * cycles
    if mapping.issue == "sequential":
        return sum(units.values(), np.float64(0))
    busiest: Number = np.float64(0)
    for cycles in units.values():
        busiest = np.maximum(busiest, cycles)
    return busiest


def einsum_cycles(
    cascade: Cascade,
    architecture: Architecture,
    shape: Mapping[str, Number],
    mapping: EinsumMapping,
    phase: Phase | None = None,
) -> Number:
    """Cycles of an Einsum on its array: its temporal iterations, each of one point a PE.

    Iterations whose whole wavefront a filter leaves out are skipped. Serialized folds are filled
    and drained one by one; `phase` says what runs beside the Einsum (see `sim.folds`). A pipelined
    loop that restarts runs empty each time. Staggered PEs end one behind the other.
    """
    array = architecture.array(mapping.array)
    worked = worked_share(cascade, mapping, shape, len(mapping.temporal))
    iterations = product(mapping.temporal) * worked
    if mapping.stagger is not None:
        inside = mapping.temporal[mapping.position(mapping.stagger) :]
        alone = product(apart(mapping)) * product(inside)
        iterations = iterations + stagger_iterations(mapping, shape) * alone
    cycles = iterations * point_cycles(cascade, array, mapping)
    if array.loop is not None and mapping.restarts is not None:
        outside = mapping.temporal[: mapping.position(mapping.restarts)]
        cycles = cycles + product(outside) * _emptying(array)
    if mapping.folds == "pipelined":
        return cycles
    return cycles + folds_of(cascade, architecture, shape, mapping, phase).overhead_cycles


def _emptying(array: ComputeArray) -> Number:
    """Cycles from the begin of a pipelined loop's last iteration to its end, but for its own."""
    if array.loop is None:
        return np.float64(0)
    return np.maximum(0.0, array.loop.depth_cycles - array.loop.interval_cycles)


def carried(architecture: Architecture, phase: Phase) -> dict[str, dict[str, Mask]]:
    """Einsums that take no time of their own, each with those in whose pipelined loop it is, where.

    Such another one, on the same array and in the same step, has all the loops that they have, and
    shares these. What has equally many is one loop; the first of them stands for it. A loop of one
    iteration is none: high-level synthesis dissolves it.
    """
    step = {einsum: at for at, names in enumerate(phase.steps) for einsum in names}
    looped = [m for m in phase.einsums if architecture.array(m.array).loop is not None]
    loops = {m.einsum: _repeating(m.temporal) for m in looped}
    result: dict[str, dict[str, Mask]] = {}
    for m in looped:
        longest: Number = np.float64(-1)
        chosen: dict[str, Mask] = {}
        for other in looped:
            together = other.array == m.array and step.get(other.einsum) == step.get(m.einsum)
            if other is not m and not together:
                continue
            alone = 0.0 if other is m else _repeating(m.temporal[shared_loops(m, other) :])
            longer = (np.asarray(alone) == 0) & (loops[other.einsum] > longest)
            chosen = {name: when & ~longer for name, when in chosen.items()}
            chosen[other.einsum] = longer
            longest = np.where(longer, loops[other.einsum], longest)
        del chosen[m.einsum]
        along = {name: when for name, when in chosen.items() if np.any(when)}
        if along:
            result[m.einsum] = along
    return result


def _repeating(loops: Iterable[Loop]) -> Number:
    """How many of some loops have more than one iteration."""
    return sum((np.asarray(loop.extent > 1, dtype=np.float64) for loop in loops), np.float64(0))


def busy_cycles(
    cascade: Cascade,
    architecture: Architecture,
    shape: Mapping[str, Number],
    phase: Phase,
) -> dict[str, Number]:
    """Cycles that each Einsum of a phase takes of its array's time: none in another one's loop."""
    cycles = {
        m.einsum: einsum_cycles(cascade, architecture, shape, m, phase) for m in phase.einsums
    }
    for einsum, along in carried(architecture, phase).items():
        for loop, when in along.items():  # a filter may leave it more iterations
            both = np.maximum(cycles[loop], cycles[einsum])
            cycles[loop] = np.where(when, both, cycles[loop])
        anywhere = reduce(np.logical_or, along.values())
        cycles[einsum] = np.where(anywhere, 0.0, cycles[einsum])
    return cycles


def timing(
    cascade: Cascade,
    architecture: Architecture,
    shape: Mapping[str, Number],
    phase: Phase,
    tally: Tally,
) -> Timing:
    """The latency of a phase under its schedule.

    Overlapped, the busiest array, memory or port sets it. With steps, the busiest array of each
    step does, the stalls are added, and what the memories need beyond that. What comes ahead is
    added, and so is what pipelined loops need to run full and empty once, with a way to the
    memory at either end.
    """
    clock = architecture.clock_hz
    cycles = busy_cycles(cascade, architecture, shape, phase)
    on = {m.einsum: m.array for m in phase.einsums}
    arrays = [array.name for array in architecture.arrays]
    busy: dict[str, Number] = {name: np.float64(0) for name in arrays}
    for einsum, needed in cycles.items():
        busy[on[einsum]] = busy[on[einsum]] + needed / clock
    memories = moving_seconds(architecture, phase, tally)
    before = moving_seconds(architecture, phase, tally, ahead=True) if phase.ahead else {}
    fill = fill_cycles(architecture, phase) / clock
    if not phase.steps:
        everything = {**busy, **memories}
        computing, latency = _longest(busy), _longest(everything)
        terms = _attribute(everything, latency)
        terms[STALL] = np.float64(0)
    else:
        terms = {name: np.float64(0) for name in (*arrays, *memories)}
        for step in phase.steps:
            beside: dict[str, Number] = {name: np.float64(0) for name in arrays}
            for einsum in (e for e in step if e in on):  # a stray name is refused as illegal
                beside[on[einsum]] = beside[on[einsum]] + cycles[einsum] / clock
            for name, share in _attribute(beside, _longest(beside)).items():
                terms[name] = terms[name] + share
        terms[STALL] = np.asarray(phase.stall_cycles / clock)[()]
        computing = latency = sum(terms.values())
        for name, needed in memories.items():
            terms[name] = np.maximum(0.0, needed - latency)
            latency = latency + terms[name]
    first = _longest(before)
    for name, share in _attribute(before, first).items():
        terms[name] = terms[name] + share
        memories[name] = memories[name] + before[name]
    terms[STALL] = terms[STALL] + fill
    return Timing(latency + first + fill, computing + fill, terms, {**busy, **memories})


def moving_seconds(
    architecture: Architecture, phase: Phase, tally: Tally, ahead: bool = False
) -> dict[str, Number]:
    """Seconds that each memory and each port moves what comes ahead, or all the rest.

    A port reads and writes at the same time; the memory behind all ports does one or the other.
    """
    seconds = {}
    outermost = architecture.memories[0]
    for memory in architecture.memories:
        if not np.any(np.isfinite(memory.bandwidth_bytes_per_s)):
            continue
        moved: list[Number] = []
        if not ahead:
            every = (tally.read_words, tally.write_words)
            moved += [words[memory.name] for words in every if memory.name in words]
        if memory is outermost:
            sign = 1.0 if ahead else -1.0
            early = (tally.words_by_tensor.get((memory.name, t), 0.0) for t in sorted(phase.ahead))
            moved += [sign * words for words in early]
        each = architecture.word_bytes / memory.bandwidth_bytes_per_s
        seconds[memory.name] = reduce(np.add, moved) * each if moved else np.float64(0)
    for port in outermost.ports:
        own = {
            tensor
            for tensor, name in phase.ports.items()
            if name == port.name and (tensor in phase.ahead) == ahead
        }
        cycles = port_cycles(architecture, port, tally, own)
        seconds[f"{outermost.name}.{port.name}"] = np.maximum(*cycles) / architecture.clock_hz
    return seconds


def port_cycles(
    architecture: Architecture, port: Port, tally: Tally, tensors: Container[str]
) -> tuple[Number, Number]:
    """Cycles in which a port reads, and writes, what the outermost memory moves of some tensors."""
    ways: dict[tuple[bool, bool], Number] = {}
    for (tensor, writes, single), words in tally.beats.items():
        if tensor in tensors:
            moved = words * architecture.word_bytes
            ways[writes, single] = ways.get((writes, single), 0.0) + moved
    read, written = (
        port.cycles(ways.get((writes, False), 0.0), ways.get((writes, True), 0.0))
        for writes in (False, True)
    )
    return read, written


def fill_cycles(architecture: Architecture, phase: Phase) -> Number:
    """Cycles in which pipelined loops run full and empty, one behind the other, once in a phase."""
    cycles: Number = np.float64(0)
    once = {m.array for m in phase.einsums if m.restarts is None}
    for array in architecture.arrays:
        if array.name in once:
            cycles = cycles + _emptying(array)
    ways = 3 if phase.ahead else 2
    return cycles + ways * np.asarray(architecture.memories[0].latency_cycles)


def _longest(seconds: Mapping[str, Number]) -> Number:
    result: Number = np.float64(0)
    for value in seconds.values():
        result = np.maximum(result, value)
    return result


def _attribute(seconds: Mapping[str, Number], latency: Number) -> dict[str, Number]:
    """The latency on the account of the first that takes all of it."""
    left: Number = True
    shares = {}
    for name, value in seconds.items():
        takes = left & (value >= latency)
        shares[name] = np.where(takes, latency, 0.0)
        left = left & ~takes
    return shares
