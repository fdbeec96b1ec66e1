"""Folds: how long an array works with the same values held in its PEs, and what a change costs.

Links carry operands along a row or down a column and results down the columns, so they reach what
varies with one spatial loop at most. A tensor that varies with *all* of them is another value in
every PE, and is held there. It is the stationary tensor of the nest, and there are three kinds:

- the *result*, where nothing is reduced over PEs: it is made in its PE, and leaves when it is done;
- an operand from *outside* the PEs, on an array with a spatial loop for each of its two
  dimensions: it is shifted in through the rows, which takes as many cycles as there are rows;
- an operand that the *same PE made*, as QK for LM and SLN in FuseMax: it is there.

A matrix product has one such tensor (with K over the rows it is W or X: weight- or
input-stationary; otherwise Z: output-stationary). An elementwise Einsum holds its result and its
full operands together, and these change together.

A **fold** is the iterations in time inside the innermost loop that changes the held result or an
operand from outside. An operand of the PE's own ends no fold by itself: all of it lies in the
registers. What ends one is that the array *turns to another Einsum*, which it does in every
iteration of the loops that the two share; it is how the next tile of such an operand is made. So
SLN and LM of FuseMax have one fold a tile. An Einsum of which nothing is held, and which shares its
array with no other, is one fold.

*Pipelined* folds follow at once: values of the next move in behind those of the last. *Serialized*
ones start when the last has ended entirely. Each then costs, beside its own iterations:

- **preload**: R cycles (the rows of the array) where an operand from outside is held. Not again
  where the array merely comes back from another Einsum: accesses count such a value as kept.
  Several such operands move in side by side. 0 for a held result: partial results that come back
  are added where they leave the array.
- **skew**: R - 1 + C - 1 cycles between the first PE and the last of the whole array, used or not.

That is SCALE-Sim's count. It reports its last cycle, counted from 0: one less in total.

On a 1D array each lane reads its own operands and writes its own results, next to no other: no
preload, no skew, so serialized folds cost independent lanes nothing. A result reduced over lanes
goes through a tree of adders, ceil(log2(lanes used)) cycles behind the last iteration of a fold;
partial results inside of one follow each other through the tree. In a kernel that goes row by row
(a softmax whose maximum is over lanes) that is once for each row and reduction.

Sources: SCALE-Sim 3 (fill, stream and drain of each fold, no overlap of two); Eyeriss (Chen et al.,
ISCA 2016) for what stationary means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from archs import Architecture
from einsum_cascade import Cascade
from sim.accesses import Use, uses, worked_share
from sim.mapping import IN_ARRAY, EinsumMapping, Loop, Mask, Number, Phase
from sim.nest import product


@dataclass(frozen=True)
class Folds:
    """The folds of a nest, every number for each design point.

    `stationary` names what is held in the PEs, operands first (one tensor for a matrix product).
    `count` folds are worked on (what filters leave of them). A fold is the iterations of the nest
    inside its first `depth` loops: `iterations` of them, of one point a PE. `preloads` of the folds
    begin with `preload_cycles`; each ends `skew_cycles` behind the last iteration of its first PE.
    """

    stationary: tuple[str, ...]
    depth: Number
    count: Number
    iterations: Number
    preloads: Number
    preload_cycles: Number
    skew_cycles: Number

    @property
    def overhead_cycles(self) -> Number:
        """What all folds cost beyond their iterations, where they are serialized."""
        return self.count * self.skew_cycles + self.preloads * self.preload_cycles

    def length_cycles(self, point_cycles: Number) -> Number:
        """A whole fold, serialized, with its preload: `point_cycles` for each iteration.

        Filters may leave a part of its iterations only.
        """
        return self.preload_cycles + self.iterations * point_cycles + self.skew_cycles


def folds_of(
    cascade: Cascade,
    architecture: Architecture,
    shape: Mapping[str, Number],
    mapping: EinsumMapping,
    phase: Phase | None = None,
) -> Folds:
    """The folds of an Einsum's nest, whether they are serialized or not.

    `phase` says what else runs on the array and which operands its PEs made themselves; without
    one, nothing and none.
    """
    alone = Phase("", (mapping,), {})
    around = phase or alone
    array = architecture.array(mapping.array)
    spatial = mapping.spatial
    in_two = len(array.shape) == 2
    ended = _turns(mapping, around)
    loaded: Number = 0
    loads: Mask = np.False_
    reduced = True
    stationary = []
    for use in uses(cascade, alone):
        if not {loop.rank for loop in spatial} <= use.ranks:
            continue
        change = _innermost(mapping.temporal, use.ranks)
        if use.writes:
            reduced = False
            ended = np.maximum(ended, change)
        elif in_two and len(spatial) == 2:
            outside = ~_made_here(cascade, around, use)
            loads = loads | outside
            loaded = np.maximum(loaded, np.where(outside, change, 0))
        else:  # it enters where its row or its column begins, or a lane reads it
            continue
        stationary.append(use.tensor)
    ended = np.maximum(ended, loaded)
    tree = np.ceil(np.log2(product(spatial))) if reduced else np.float64(0)
    return Folds(
        stationary=tuple(stationary),
        depth=ended,
        count=_worked(cascade, shape, mapping, ended),
        iterations=product(mapping.temporal) / _before(mapping.temporal, ended),
        preloads=np.where(loads, _worked(cascade, shape, mapping, loaded), 0.0),
        preload_cycles=np.where(loads, array.shape[0], 0.0),
        skew_cycles=array.shape[0] - 1 + array.shape[1] - 1 if in_two else tree,
    )


def _innermost(loops: Sequence[Loop], ranks: frozenset[str]) -> Number:
    """How many loops there are down to the innermost over `ranks`; of one iteration: none."""
    depth: Number = 0
    for at, loop in enumerate(loops, start=1):
        if loop.rank in ranks:
            depth = np.where(np.asarray(loop.extent) > 1, at, depth)
    return depth


def _turns(mapping: EinsumMapping, phase: Phase) -> Number:
    """How many loops there are down to the innermost in which the array has other Einsums too."""
    shared = 0
    for other in phase.einsums:
        if other.einsum == mapping.einsum or other.array != mapping.array:
            continue
        depth = 0
        both = zip(mapping.loops[: mapping.shared], other.loops[: other.shared], strict=False)
        for mine, theirs in both:
            if mine.name != theirs.name:
                break
            depth += 1
        shared = max(shared, depth)
    loops = mapping.temporal[:shared]
    return _innermost(loops, frozenset(loop.rank for loop in loops))


def _made_here(cascade: Cascade, phase: Phase, operand: Use) -> Mask:
    """Where each PE finds an operand that it holds for itself in its own registers.

    An Einsum with the same ranks on the same array made it there, and it goes through no memory.
    """
    reader = operand.mapping
    producers = {einsum.name for einsum in cascade.producers[operand.tensor]}
    here: Mask = np.False_
    for writer in phase.einsums:
        if writer.einsum not in producers or writer.array != reader.array:
            continue
        if [loop.rank for loop in writer.spatial] == [loop.rank for loop in reader.spatial]:
            for option in phase.residency.get(operand.tensor, ()):
                kept = option.residency
                if kept.home == IN_ARRAY or reader.einsum in kept.handed_to:
                    here = here | np.asarray(option.when, dtype=np.bool_)
    return here


def _before(loops: Sequence[Loop], depth: Number) -> Number:
    """Iterations of the first `depth` loops."""
    count: Number = 1.0
    for at, loop in enumerate(loops, start=1):
        count = count * np.where(at <= depth, loop.extent, 1.0)
    return count


def _worked(
    cascade: Cascade, shape: Mapping[str, Number], mapping: EinsumMapping, depth: Number
) -> Number:
    """Iterations of the first `depth` loops in which the Einsum has a point."""
    share: Number = 1.0
    for level in np.unique(depth):
        worked = worked_share(cascade, mapping, shape, int(level))
        share = np.where(depth == level, worked, share)
    return _before(mapping.temporal, depth) * share
