"""Words of registers that the tensors of a phase take in each PE of an array.

A tensor that its readers get without a memory waits in the PEs until the last of them has taken it,
a running value until its next generation. As in a memory, each has room of its own for as long as
the phase lasts, unless it overwrites another one. What flows from one Einsum into the next as it is
made takes none, nor do the words that a PE works on: an operand that is held, the one sum that it
adds to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from itertools import combinations

import numpy as np

from einsum_cascade import Cascade, Einsum
from einsum_cascade.dependencies import dependencies
from sim.accesses import Use, analysis_of, generation_ranks, iterated_ranks, uses
from sim.mapping import (
    IN_ARRAY,
    EinsumMapping,
    Mask,
    Number,
    Option,
    Phase,
    Residency,
    shared_loops,
)
from sim.nest import product


@dataclass(frozen=True)
class Waiting:
    """Words of a tensor that wait in each PE of an array.

    `ahead` are those of the next tile, which the array works on while this one waits for another
    array. What the Einsum `made_by` makes is read last by one of `last`, each at its own points;
    none, where another array reads it.
    """

    array: str
    words: Number
    ahead: Number = 0.0
    made_by: str | None = None
    last: Mapping[str, Mask] = field(default_factory=dict)


AllWaiting = Mapping[str, Sequence[tuple[Waiting, Mask]]]
"""What waits in registers of each tensor, and at which points."""


def register_words(cascade: Cascade, phase: Phase) -> dict[str, dict[str, Number]]:
    """Words that each tensor takes in each PE, by array."""
    every = all_waiting(cascade, phase)
    found: dict[str, dict[str, Number]] = {}
    for tensor in every:
        for array, words in tensor_words(cascade, every, tensor).items():
            found.setdefault(array, {})[tensor] = words
    return found


def tensor_words(cascade: Cascade, every: AllWaiting, tensor: str) -> dict[str, Number]:
    """Words that a tensor takes in each PE, by array, given what waits of `every` tensor.

    A result that is made element by element overwrites an operand that nothing reads afterwards,
    and takes no more than it needs beyond that.
    """
    found: dict[str, Number] = {}
    for new, when in every[tensor]:
        saved: Number = 0.0
        for _, words in _places(cascade, every, new):
            saved = np.maximum(saved, words)
        words = np.where(when, np.maximum(new.words - saved, 0.0) + new.ahead, 0.0)
        if np.any(words):  # its options exclude one another; of several that make it, the most
            found[new.array] = np.maximum(found.get(new.array, 0.0), words)
    return found


def in_place(cascade: Cascade, phase: Phase) -> dict[str, str]:
    """Tensors that overwrite another one in the registers, at some point, each with that."""
    every = all_waiting(cascade, phase)
    return {
        tensor: old
        for tensor, own in every.items()
        for new, when in own
        for old, words in _places(cascade, every, new)
        if np.any(np.where(when, words, 0.0))
    }


def all_waiting(cascade: Cascade, phase: Phase) -> AllWaiting:
    """What waits in registers of each tensor of a phase, and at which points."""
    return {
        tensor: list(_waiting_at(cascade, phase, tensor, options))
        for tensor, options in phase.residency.items()
    }


def _waiting_at(
    cascade: Cascade, phase: Phase, tensor: str, options: Sequence[Option]
) -> Iterator[tuple[Waiting, Mask]]:
    """What waits of a tensor with some options: with those that the registers see alike, once."""
    alike: dict[object, list[Option]] = {}
    for option in options:
        there = option.residency
        alike.setdefault((there.home == IN_ARRAY, there.handed_to), []).append(option)
    for same in alike.values():
        when = reduce(np.logical_or, [option.when for option in same])
        for own in waiting(cascade, phase, tensor, same[0].residency):
            yield own, when


def _places(cascade: Cascade, every: AllWaiting, new: Waiting) -> Iterator[tuple[str, Number]]:
    """The tensors whose place a result may take, and the words that are there."""
    if new.made_by is None:
        return
    for old in overwritten(cascade.einsum(new.made_by)):
        for own, there in every.get(old, ()):
            if own.array == new.array and new.made_by in own.last:
                yield old, np.where(there & own.last[new.made_by], own.words, 0.0)


def waiting(cascade: Cascade, phase: Phase, tensor: str, residency: Residency) -> Iterator[Waiting]:
    """What of a tensor waits in registers where it has this residency."""
    if residency.home != IN_ARRAY and not residency.handed_to:
        return
    own = list(uses(cascade, phase, tensor))
    writers, readers = ([u for u in own if u.writes == made] for made in (True, False))
    everything = residency.home == IN_ARRAY
    direct = [r for r in readers if everything or r.mapping.einsum in residency.handed_to]
    running = everything and bool(generation_ranks(cascade, tensor))
    for writer in writers if direct else ():
        for array in dict.fromkeys(use.mapping.array for use in (writer, *direct)):
            if running and array == writer.mapping.array:
                yield _running(cascade, phase, writer, direct)
            else:
                yield _handed(cascade, phase, writer, direct, array)


def overwritten(einsum: Einsum) -> tuple[str, ...]:
    """The operands whose place a result could take: nothing is reduced, and each of its values
    comes from the same place."""
    if einsum.reduction_ranks:
        return ()
    return tuple(a.tensor for a in einsum.operands if a.indices == einsum.output.indices)


def later_pass(cascade: Cascade, phase: Phase, writer: Use, reader: Use) -> dict[str, Mask]:
    """The ranks over which a reader is in a later pass than the writer, each with the points.

    Who goes over a rank in a loop that only one of them shares, and waits for the whole of it, does
    not let the other flow beside.
    """
    w, r = writer.mapping, reader.mapping
    both = set(cascade.einsum(r.einsum).ranks)
    common = shared_loops(w, r)
    found: dict[str, Mask] = {}
    for rank in cascade.einsum(w.einsum).ranks:
        if rank not in both or not any(lp.rank == rank and lp.repeats for lp in w.loops):
            continue
        along: dict[str, Mask] = {w.einsum: np.True_, r.einsum: np.True_}
        for end in (w, r):
            for other in phase.einsums if end.shared > common else ():
                inside = [
                    lp for lp in end.loops[common : shared_loops(end, other)] if lp.rank == rank
                ]
                if any(lp.repeats for lp in inside):
                    there = along.get(other.einsum, np.False_)
                    along[other.einsum] = there | (product(inside) > 1)
        apart: Mask = np.False_
        for a, b in combinations(along, 2):
            if not analysis_of(cascade).fusible((a, b), rank):
                apart = apart | (along[a] & along[b])
        if np.any(apart):
            found[rank] = apart & (product(w.loops, frozenset({rank})) > 1)
    return found


def _handed(
    cascade: Cascade, phase: Phase, writer: Use, readers: Sequence[Use], array: str
) -> Waiting:
    """What a tensor takes on one array that these readers get without a memory.

    On the writer's array, until the last reader has taken it that does not take each word as it is
    made. On another array, which gets it over a link, for those that read it after the first. There
    or here, as much of it as the loops of one Einsum come back to: sums that are not complete leave
    no PE.
    """
    common = min(shared_loops(writer.mapping, r.mapping) for r in readers)
    users = [r for r in readers if r.mapping.array == array]
    here = array == writer.mapping.array
    first = writer if here else users[0]
    words: Number = np.float64(0)
    for use in (first,) if here else users:
        words = np.maximum(words, _come_back_to(use, min(common, use.mapping.shared)))
    ahead: Number = 0.0
    last: dict[str, Mask] = {}
    for reader in users:
        waits = _waits(cascade, phase, first, reader)
        if not np.any(waits):
            continue
        inside = shared_loops(first.mapping, reader.mapping)
        tile = np.where(waits, _each_pe(first, inside), 0.0)
        words = np.maximum(words, tile)
        if not phase.steps and _another_array(cascade, phase, writer, reader, array):
            repeats = product(first.mapping.loops[:inside]) > 1
            ahead = np.maximum(ahead, np.where(repeats, tile, 0.0))
        last = {name: when & ~np.asarray(waits) for name, when in last.items()}
        last[reader.mapping.einsum] = waits
    return Waiting(array, words, ahead, writer.mapping.einsum if here else None, last)


def _running(cascade: Cascade, phase: Phase, writer: Use, readers: Sequence[Use]) -> Waiting:
    """A running value: what one iteration carries to the next, and all that a reader behind the
    iteration still waits for. Twice, if the generation before is still read when the next is there.
    """
    nest = writer.mapping
    steps = iterated_ranks(cascade, writer.tensor)
    iterated = next((i for i, loop in enumerate(nest.loops) if loop.rank in steps), len(nest.loops))
    others = [r for r in readers if r.mapping is not nest]
    inside = min([iterated, *(shared_loops(nest, r.mapping) for r in others)])
    words = _each_pe(writer, inside)
    before = _readers_of_the_last(cascade, nest.einsum)
    place = {m.einsum: i for i, m in enumerate(phase.einsums)}
    both: Mask = np.False_
    for reader in others:
        name = reader.mapping.einsum
        if name in before and place[name] > place[nest.einsum]:
            both = both | _waits(cascade, phase, writer, reader)
    return Waiting(nest.array, words, np.where(both, words, 0.0))


def _waits(cascade: Cascade, phase: Phase, first: Use, reader: Use) -> Mask:
    """Where a reader on the same array does not take each word as it is made, or comes."""
    if first is reader:
        return np.False_
    found = _differ(first.mapping, reader.mapping)
    for where in later_pass(cascade, phase, first, reader).values():
        found = found | where
    return found


def _differ(one: EinsumMapping, other: EinsumMapping) -> Mask:
    """Where two nests have other loops: by name, rank and extent. Which of the dimensions of an
    array have one coordinate does not matter."""
    found: Mask = np.False_
    mine, theirs = one.temporal, other.temporal
    if [(lp.name, lp.rank) for lp in mine] != [(lp.name, lp.rank) for lp in theirs]:
        return np.True_
    pairs = list(zip(mine, theirs, strict=True))
    spread = {(lp.name, lp.rank): at for at, lp in enumerate(other.spatial)}
    before = [(spread.pop((lp.name, lp.rank), None), lp) for lp in one.spatial]
    both = [(at, lp) for at, lp in before if at is not None]
    pairs += [(lp, other.spatial[at]) for at, lp in both]
    apart = [lp for at, lp in before if at is None] + [other.spatial[at] for at in spread.values()]
    for loop in apart:
        found = found | (np.asarray(loop.extent) > 1)
    for (i, first), (j, second) in combinations(both, 2):
        if i > j:  # along other dimensions
            found = found | ((np.asarray(first.extent) > 1) & (np.asarray(second.extent) > 1))
    for loop, same in pairs:
        if loop.extent is not same.extent:
            found = found | (np.asarray(loop.extent) != np.asarray(same.extent))
    return found


def _each_pe(use: Use, position: int) -> Number:
    """Words of a tensor that a PE makes, or takes, inside of the first loops."""
    nest = use.mapping
    return product(nest.loops[position:], use.ranks) / product(nest.spatial, use.ranks)


def _come_back_to(use: Use, position: int) -> Number:
    """Words of a tensor that the loops from `position` come back to: those inside of the first loop
    that does not move it. None, if it is one that a PE works on at a time."""
    words: Number = np.float64(1)
    again: Mask = False
    for loop in use.mapping.temporal[position:]:
        if not loop.repeats:
            continue
        if loop.rank not in use.ranks:
            again = again | (np.asarray(loop.extent) > 1)
        elif again is not False:
            words = words * np.where(again, loop.extent, 1.0)
    return np.where(words > 1, words, 0.0)


def _another_array(cascade: Cascade, phase: Phase, writer: Use, reader: Use, array: str) -> bool:
    """Whether a reader needs what another array makes of the same tile of a tensor."""
    after = needed_by(cascade)
    made = after[writer.mapping.einsum]
    return any(
        nest.array != array and nest.einsum in made and reader.mapping.einsum in after[nest.einsum]
        for nest in phase.einsums
    )


@lru_cache(maxsize=64)
def needed_by(cascade: Cascade) -> dict[str, frozenset[str]]:
    """For each Einsum, those that need its result of the same iteration, directly or not."""
    direct: dict[str, set[str]] = {e.name: set() for e in cascade.einsums}
    for dependency in dependencies(cascade):
        if dependency.distance <= 0:
            direct[dependency.producer.name].add(dependency.consumer.name)
    found: dict[str, frozenset[str]] = {}
    for einsum in reversed(cascade.order):
        own = direct[einsum.name]
        found[einsum.name] = frozenset(own).union(*(found[name] for name in own))
    return found


@lru_cache(maxsize=4096)
def _readers_of_the_last(cascade: Cascade, einsum: str) -> frozenset[str]:
    """The Einsums that read the generation before that which an Einsum makes."""
    return frozenset(
        d.consumer.name
        for d in dependencies(cascade)
        if d.producer.name == einsum and d.distance > 0
    )


__all__ = [
    "AllWaiting",
    "Waiting",
    "all_waiting",
    "in_place",
    "later_pass",
    "needed_by",
    "overwritten",
    "register_words",
    "tensor_words",
    "waiting",
]
