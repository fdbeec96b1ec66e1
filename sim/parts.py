"""The costs of a phase taken apart, for a search that compares many candidates of one structure.

Energy, traffic, the time of each memory and the room in it are sums over tensors; energy and time
of the arrays are sums over Einsums. So the candidates of one tensor (where it is kept) need not
meet those of the others before the parts are added, and what bears on a part alone (the nests of
the Einsums that use a tensor) is worked out once for all phases that have it. It is the arithmetic
of `sim.evaluate_phase`, in another order: the same functions, fed with one part at a time.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from archs import Port
from einsum_cascade.shapes import points_in
from sim.accesses import Accessed, Tally, tally
from sim.energy import Accounting, energy_terms
from sim.legality import fusion_objections, nest_objections, tensor_objections
from sim.mapping import EinsumMapping, Mapping, Mask, Number, Phase
from sim.schedule import (
    busy_cycles,
    einsum_cycles,
    fill_cycles,
    moving_seconds,
    port_cycles,
)


@dataclass(frozen=True)
class EinsumPart:
    """What one Einsum adds: energy, and seconds of its array if that is no pipelined loop.
    `refused` are masks: where one holds, its nest is not legal."""

    energy_pj: Number
    seconds: Number
    refused: tuple[Mask, ...]


@dataclass(frozen=True)
class TensorPart:
    """What one tensor adds, each measure worked out when it is asked for."""

    on: Mapping
    tensor: str
    accesses: Tally
    accounting: Accounting

    @property
    def energy_pj(self) -> Number:
        """The energy of all accesses."""
        cascade, architecture = self.on.cascade, self.on.architecture
        terms = energy_terms(
            cascade, architecture, {}, Phase("", (), {}), self.accesses, self.accounting
        )
        return sum(terms.values())

    @property
    def traffic_bytes(self) -> Number:
        """What the outermost memory moves."""
        outermost = self.on.architecture.memories[0].name
        moved = self.accesses.words_by_tensor.get((outermost, self.tensor), np.float64(0))
        return moved * self.on.architecture.word_bytes

    @property
    def seconds(self) -> MappingABC[str, Number]:
        """The time of each memory that takes some."""
        return moving_seconds(self.on.architecture, Phase("", (), {}), self.accesses)

    def port_seconds(self, port: Port) -> tuple[Number, Number]:
        """The time in which a port of the outermost memory reads it, and writes it, if it is that
        by which it comes and goes."""
        architecture = self.on.architecture
        read, written = port_cycles(architecture, port, self.accesses, {self.tensor})
        return read / architecture.clock_hz, written / architecture.clock_hz

    @property
    def room_bytes(self) -> MappingABC[str, Number]:
        """The room in each memory on chip."""
        architecture = self.on.architecture
        inner = [memory.name for memory in architecture.memories[1:]]
        return {name: self.accesses.footprint(name) * architecture.word_bytes for name in inner}


def einsum_part(on: Mapping, nest: EinsumMapping, accounting: Accounting = "full") -> EinsumPart:
    """The part of an Einsum, in a phase whose arrays and memories overlap.

    Raises ValueError for what does not add up: serialized folds.
    """
    cascade, architecture = on.cascade, on.architecture
    if nest.folds != "pipelined":
        raise ValueError(f"the time of {nest.einsum} depends on what else is on its array")
    extents = {rank: np.asarray(v, dtype=np.float64) for rank, v in on.shape.items()}
    points = {nest.einsum: points_in(cascade, cascade.einsum(nest.einsum), extents)}
    alone = Phase("", (nest,), {})
    terms = energy_terms(cascade, architecture, points, alone, Tally(), accounting)
    seconds: Number = np.float64(0)
    if architecture.array(nest.array).loop is None:
        seconds = einsum_cycles(cascade, architecture, on.shape, nest) / architecture.clock_hz
    problems = nest_objections(cascade, architecture, on.shape, nest)
    refused = tuple(problem.where for problem in problems if np.any(problem.where))
    return EinsumPart(sum(terms.values()), seconds, refused)


def loop_seconds(on: Mapping, nests: Sequence[EinsumMapping]) -> Number:
    """Seconds of an array that is a pipelined loop, given all of a phase that is on it: Einsums
    that are in one loop take the time of one."""
    cycles = busy_cycles(on.cascade, on.architecture, on.shape, Phase("", tuple(nests), {}))
    return sum(cycles.values(), np.float64(0)) / on.architecture.clock_hz


def fill_seconds(on: Mapping, nests: Sequence[EinsumMapping]) -> Number:
    """Seconds that a phase takes beyond what is busiest in it: loops that run full and empty, and
    the way to the outermost memory at either end."""
    return fill_cycles(on.architecture, Phase("", tuple(nests), {})) / on.architecture.clock_hz


def tensor_part(
    on: Mapping,
    phase: Phase,
    tensor: str,
    accounting: Accounting = "full",
    what: Accessed = "all",
) -> TensorPart:
    """The part of a tensor, in a phase of at least the Einsums that use it; or of this only `what`
    crosses the edges of the arrays, or goes between memories.

    Raises ValueError for what does not add up: steps, spilled parts of tiles, and what comes ahead.
    """
    cascade, architecture = on.cascade, on.architecture
    if phase.steps or phase.spilled or phase.ahead:
        raise ValueError(f"the costs of phase {phase.name} are no sums over tensors")
    counted = tally(cascade, architecture, on.shape, phase, tensor, what)
    return TensorPart(on, tensor, counted, accounting)


def tensor_refused(on: Mapping, phase: Phase, tensor: str) -> tuple[Mask, ...]:
    """Where a tensor cannot live as it does in a whole phase; room aside."""
    problems = tensor_objections(on.cascade, on.architecture, phase, tensor)
    return tuple(problem.where for problem in problems if np.any(problem.where))


def fusion_refused(on: Mapping, phase: Phase) -> tuple[Mask, ...]:
    """Where the Einsums of a phase cannot share their loops, or overlap; whatever lives where."""
    problems = fusion_objections(on.cascade, phase)
    return tuple(problem.where for problem in problems if np.any(problem.where))


__all__ = [
    "EinsumPart",
    "TensorPart",
    "einsum_part",
    "fill_seconds",
    "fusion_refused",
    "loop_seconds",
    "tensor_part",
    "tensor_refused",
]
