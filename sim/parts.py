"""The costs of a phase taken apart, for a search that compares many candidates of one structure.

Energy, traffic, the time of each memory and the room in it are sums over tensors. A candidate axis
of one tensor (where it is kept) need not meet those of the others before the parts are added, so
that most of the work is done on small arrays. It is the arithmetic of `sim.evaluate_phase`, in
another order: the same functions, fed with the part of one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import dataclass

import numpy as np

from einsum_cascade.shapes import points_in
from sim.accesses import tally
from sim.energy import Accounting, energy_terms
from sim.legality import objections
from sim.mapping import Mapping, Mask, Number, Phase
from sim.schedule import timing


@dataclass(frozen=True)
class TensorPart:
    """What one tensor adds: energy, traffic, seconds of each memory that takes time, room in each
    memory on chip."""

    energy_pj: Number
    traffic_bytes: Number
    seconds: MappingABC[str, Number]
    room_bytes: MappingABC[str, Number]


@dataclass(frozen=True)
class PhaseParts:
    """A phase whose arrays and memories overlap: its latency is that of the busiest.

    `energy_pj` and `busy_s` are those of the arrays alone. `refused` are masks: where one holds,
    the phase is not legal; room is not among them.
    """

    energy_pj: Number
    busy_s: MappingABC[str, Number]
    tensors: MappingABC[str, TensorPart]
    refused: tuple[Mask, ...]


def phase_parts(on: Mapping, phase: Phase, accounting: Accounting = "full") -> PhaseParts:
    """Take a phase apart.

    Raises ValueError for what does not add up: steps, spilled parts of tiles, what comes ahead,
    and ports.
    """
    cascade, architecture = on.cascade, on.architecture
    outermost = architecture.memories[0]
    if phase.steps or phase.spilled or phase.ahead or outermost.ports:
        raise ValueError(f"the costs of phase {phase.name} are no sums over tensors")
    counted = tally(cascade, architecture, on.shape, phase)
    nothing = Phase(phase.name, (), {})
    memories = [memory.name for memory in architecture.memories]
    parts = {}
    for tensor in dict.fromkeys(tensor for _, tensor, _ in counted.moved_words):
        own = counted.of(tensor)
        terms = energy_terms(cascade, architecture, {}, nothing, own, accounting)
        busy = timing(cascade, architecture, on.shape, nothing, own).busy_s
        moved = own.words_by_tensor.get((outermost.name, tensor), np.float64(0))
        parts[tensor] = TensorPart(
            sum(terms.values()),
            moved * architecture.word_bytes,
            {name: seconds for name, seconds in busy.items() if name in memories},
            {name: own.footprint(name) * architecture.word_bytes for name in memories[1:]},
        )
    for tensor in {tensor for _, tensor, _ in counted.footprint_words} - parts.keys():
        own = counted.of(tensor)
        room = {name: own.footprint(name) * architecture.word_bytes for name in memories[1:]}
        parts[tensor] = TensorPart(np.float64(0), np.float64(0), {}, room)
    empty = counted.of("")
    extents = {rank: np.asarray(v, dtype=np.float64) for rank, v in on.shape.items()}
    points = {
        m.einsum: points_in(cascade, cascade.einsum(m.einsum), extents) for m in phase.einsums
    }
    energy = energy_terms(cascade, architecture, points, phase, empty, accounting)
    time = timing(cascade, architecture, on.shape, phase, empty).busy_s
    problems = objections(cascade, architecture, on.shape, phase, counted, capacity=False)
    return PhaseParts(
        sum(energy.values()),
        {name: seconds for name, seconds in time.items() if name not in memories},
        parts,
        tuple(problem.where for problem in problems if np.any(problem.where)),
    )
