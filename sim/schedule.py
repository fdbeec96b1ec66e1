"""Cycles of each Einsum, and what a phase's schedule makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from archs import Architecture, ComputeArray
from einsum_cascade import Cascade
from sim.accesses import Tally, worked_share
from sim.folds import folds_of
from sim.mapping import EinsumMapping, Number, Phase
from sim.nest import product

STALL = "stall"


@dataclass(frozen=True)
class Timing:
    """Seconds of a phase.

    `terms_s` names what the latency consists of (arrays, memories, stalls) and adds up to it;
    `busy_s` is how long each array and each memory with a bandwidth works.
    """

    latency_s: Number
    terms_s: Mapping[str, Number]
    busy_s: Mapping[str, Number]


def point_cycles(cascade: Cascade, array: ComputeArray, mapping: EinsumMapping) -> Number:
    """Cycles that a PE needs for one point of an Einsum's iteration space.

    Sequential issue: the cycles of all its operations. Pipelined: those of the busiest unit, since
    the units of a PE work on successive points. NaN when the array lacks an operation.
    """
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
    and drained one by one; `phase` says what runs beside the Einsum (see `sim.folds`).
    """
    array = architecture.array(mapping.array)
    worked = worked_share(cascade, mapping, shape, len(mapping.temporal))
    cycles = product(mapping.temporal) * worked * point_cycles(cascade, array, mapping)
    if mapping.folds == "pipelined":
        return cycles
    return cycles + folds_of(cascade, architecture, shape, mapping, phase).overhead_cycles


def timing(
    cascade: Cascade,
    architecture: Architecture,
    shape: Mapping[str, Number],
    phase: Phase,
    tally: Tally,
) -> Timing:
    """The latency of a phase under its schedule.

    Overlapped, the busiest array or memory sets it. With steps, the busiest array of each step
    does, the stalls are added, and what the memories need beyond that.
    """
    clock = architecture.clock_hz
    cycles = {
        m.einsum: einsum_cycles(cascade, architecture, shape, m, phase) for m in phase.einsums
    }
    on = {m.einsum: m.array for m in phase.einsums}
    arrays = [array.name for array in architecture.arrays]
    busy: dict[str, Number] = {name: np.float64(0) for name in arrays}
    for einsum, needed in cycles.items():
        busy[on[einsum]] = busy[on[einsum]] + needed / clock
    memories = {}
    for memory in architecture.memories:
        if np.any(np.isfinite(memory.bandwidth_bytes_per_s)):
            read = tally.read_words.get(memory.name, np.float64(0))
            words = read + tally.write_words.get(memory.name, 0.0)
            memories[memory.name] = words * architecture.word_bytes / memory.bandwidth_bytes_per_s
    if not phase.steps:
        everything = {**busy, **memories}
        latency = _longest(everything)
        terms = _attribute(everything, latency)
        terms[STALL] = np.float64(0)
        return Timing(latency, terms, everything)
    terms = {name: np.float64(0) for name in (*arrays, *memories)}
    for step in phase.steps:
        beside: dict[str, Number] = {name: np.float64(0) for name in arrays}
        for einsum in (e for e in step if e in on):  # a stray name is refused as illegal
            beside[on[einsum]] = beside[on[einsum]] + cycles[einsum] / clock
        for name, share in _attribute(beside, _longest(beside)).items():
            terms[name] = terms[name] + share
    terms[STALL] = np.asarray(phase.stall_cycles / clock)[()]
    computing = sum(terms.values())
    for name, needed in memories.items():
        terms[name] = np.maximum(0.0, needed - computing)
        computing = computing + terms[name]
    return Timing(computing, terms, {**busy, **memories})


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
