"""Whole mappings on the arrays, cycle by cycle, on real numbers.

Ports and bandwidths of memories are not simulated here: what comes from a memory is at hand in the
cycle in which it is wanted, at the edge or in the PE, and what goes to one leaves without waiting.
So are operands that are held in the PEs: serialized folds wait the cycles that they take to be
shifted in (`product` does shift them). Everything that an Einsum of the same phase makes is there
only when, and where, it was made.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.cycle.array import Grid, Lanes
from sim.cycle.board import Board
from sim.cycle.issue import Program, Sequencer, TaskRun
from sim.cycle.points import Nest
from sim.cycle.ways import lanes_in_step
from sim.mapping import Mapping, Phase

LARGEST = 64


@dataclass(frozen=True)
class PhaseRun:
    """A phase that ran: its tasks in the frame of PE (0,0) or lane 0, from its own cycle 0.

    `cycles` are those until the last PE or lane was done and the last result had left its array,
    `told_cycles` those until the last task ended in that frame.
    """

    name: str
    cycles: int
    told_cycles: int
    tasks: tuple[TaskRun, ...]


@dataclass(frozen=True)
class CycleRun:
    """All tensors that were computed, and the phases one after the other."""

    tensors: MappingABC[str, NDArray[Any]]
    phases: tuple[PhaseRun, ...]

    @property
    def cycles(self) -> int:
        """Cycles of all phases; each begins when the last result of the one before has left."""
        return sum(phase.cycles for phase in self.phases)


def simulate(
    mapping: Mapping, inputs: MappingABC[str, Any], programs: Sequence[Program]
) -> CycleRun:
    """Run a single design point (`sim.single`) on arrays of up to 64 PEs a side.

    `inputs` holds an array for each input, in the extents of the mapping; `programs` the order of
    tasks for each phase.

    Raises `NotAtThisLevel` for what this level has not (filters, tables of indices), ValueError for
    larger arrays, inputs that are missing, and tasks that wait for each other for ever;
    AssertionError when a PE does not find what it needs.
    """
    for array in mapping.architecture.arrays:
        if any(side > LARGEST for side in array.shape):
            raise ValueError(f"array {array.name} has more than {LARGEST} PEs a side")
    shape = {k: int(v) for k, v in mapping.shape.items()}
    board = Board(mapping.cascade, shape, inputs)
    phases = []
    for choice, program in zip(mapping.phases, programs, strict=True):
        phases.append(_phase(mapping, choice.options[0], program, board))
    made = {name: words.whole() for name, words in board.words.items()}
    return CycleRun(made, tuple(phases))


def _phase(mapping: Mapping, phase: Phase, program: Program, board: Board) -> PhaseRun:
    nests = {m.einsum: Nest(mapping, phase, m, program.depth[m.einsum]) for m in phase.einsums}
    in_step = lanes_in_step(nests)
    board.expect(list(nests.values()), program.copies, program.sharing)
    arrays: dict[str, Grid | Lanes] = {}
    for array in mapping.architecture.arrays:
        own = [n for n in nests.values() if n.array == array.name]
        sides = [int(side) for side in array.shape]
        if own and len(sides) == 2:
            arrays[array.name] = Grid(sides, own, board)
        elif own:
            arrays[array.name] = Lanes(sides[0], own, board, array.name in in_step)
    sequencer = Sequencer(phase, program, nests, board, in_step)
    cycle = 0
    while not (sequencer.done and all(a.idle for a in arrays.values())):
        for begun in sequencer.begin(cycle):
            arrays[begun.nest.array].take(begun)
        if not (sequencer.done or sequencer.waits(cycle)):
            raise ValueError(f"phase {phase.name}: {sequencer.waiting()} wait for ever")
        for each in arrays.values():
            each.step(cycle)
        cycle += 1
    for nest in nests.values():
        words = board.words[nest.output.tensor]
        assert np.array_equal(words.count, words.total), f"{nest.name} was not computed whole"
    last = max(a.last for a in arrays.values()) + 1
    told = max((task.end for task in sequencer.runs), default=0)
    return PhaseRun(phase.name, last, told, tuple(sequencer.runs))


__all__ = ["CycleRun", "PhaseRun", "simulate"]
