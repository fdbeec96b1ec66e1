"""Whether a mapping can exist, and if not, why: what needs how much, where, how much is missing.

Whoever made a mapping, it passes here before it is priced. The cascade's pass analysis decides
which Einsums may share a loop; capacities and supported operations come from the architecture.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from archs import Architecture
from einsum_cascade import Cascade, Einsum
from einsum_cascade.dependencies import dependencies, feeds_itself, recurrences
from sim.accesses import Tally, Use, analysis_of, generation_ranks, iterated_ranks, uses
from sim.mapping import IN_ARRAY, EinsumMapping, Loop, Mask, Number, Phase, shared_loops
from sim.nest import product
from sim.registers import later_pass, register_words


@dataclass(frozen=True)
class Objection:
    """Why points are infeasible: which ones, and a text with places for the numbers of each."""

    where: Mask
    text: str
    numbers: tuple[Number, ...] = ()

    def reasons(self, shape: tuple[int, ...], indices: np.ndarray) -> list[str]:
        """The reasons at flat `indices` of arrays of `shape`."""
        where = np.unravel_index(indices, shape)
        columns = [np.broadcast_to(number, shape)[where].tolist() for number in self.numbers]
        if not columns:
            return [self.text.format()] * len(indices)
        return [self.text.format(*values) for values in zip(*columns, strict=True)]


def objections(
    cascade: Cascade,
    architecture: Architecture,
    shape: Mapping[str, Number],
    phase: Phase,
    tally: Tally,
) -> Iterator[Objection]:
    """Everything that stands against a phase, structure first, capacities last."""
    for mapping in phase.einsums:
        yield from nest_objections(cascade, architecture, shape, mapping)
    yield from fusion_objections(cascade, phase)
    yield from tensor_objections(cascade, architecture, phase)
    yield from _registers(cascade, architecture, phase)
    yield from _capacity(architecture, phase, tally)


def nest_objections(
    cascade: Cascade, architecture: Architecture, shape: Mapping[str, Number], m: EinsumMapping
) -> Iterator[Objection]:
    """The loops cover the iteration space, the array has the PEs and the operations."""
    einsum = cascade.einsum(m.einsum)
    array = architecture.array(m.array)
    for kind in einsum.operations:
        if kind not in array.operations:
            yield Objection(
                True,
                f"{m.einsum} needs the operation {kind!r}, which array {m.array!r} of "
                f"{architecture.name} lacks (it has {', '.join(array.operations)})",
            )
    stray = {loop.rank for loop in m.loops} - set(einsum.ranks)
    if stray:
        names = ", ".join(sorted(stray))
        yield Objection(True, f"{m.einsum} has loops over {names}, which it does not iterate over")
    for rank in einsum.ranks:
        covered = product(m.loops, frozenset({rank}))
        yield Objection(
            covered < shape[rank],
            f"the loops of {m.einsum} cover {{:g}} of {{:g}} coordinates of rank {rank}",
            (covered, shape[rank]),
        )
    if len(m.spatial) > len(array.shape):
        yield Objection(True, f"{m.einsum} has {len(m.spatial)} spatial ranks on array {m.array}")
    for loop, extent in zip(m.spatial, array.shape, strict=False):
        yield Objection(
            loop.extent > extent,
            f"{m.einsum} spreads {loop.name} over {{:g}} PEs of array {m.array}, which has {{:g}}",
            (loop.extent, extent),
        )


def fusion_objections(cascade: Cascade, phase: Phase) -> Iterator[Objection]:
    """The Einsums of a phase can share their loops, and overlap or follow one another."""
    yield from _fusion(cascade, phase)
    yield from _schedule(cascade, phase)


def tensor_objections(
    cascade: Cascade, architecture: Architecture, phase: Phase, tensor: str | None = None
) -> Iterator[Objection]:
    """Running values, and what stays on chip, are where they are needed; or one `tensor` is."""
    yield from _states(cascade, phase, tensor)
    yield from _homes(cascade, architecture, phase, tensor)


def _fusion(cascade: Cascade, phase: Phase) -> Iterator[Objection]:
    """Einsums that share a loop over a rank can all be in the same pass over it."""
    analysis = analysis_of(cascade)
    sharing: dict[tuple[str, ...], tuple[Loop, list[str]]] = {}
    for mapping in phase.einsums:
        names = tuple(loop.name for loop in mapping.loops)
        for depth, loop in enumerate(mapping.loops[: mapping.shared], start=1):
            sharing.setdefault(names[:depth], (loop, []))[1].append(mapping.einsum)
    after = _followers(cascade, frozenset(m.einsum for m in phase.einsums))
    for loop, einsums in sharing.values():
        for outsider in after.keys() - set(einsums):
            into = [e for e in einsums if outsider in after[e]]
            if into and after[outsider] & set(einsums):
                yield Objection(
                    loop.extent > 1,
                    f"{outsider} stands between Einsums that share loop {loop.name}, "
                    f"which it does not share: it needs {into[0]} and is needed in the same loop",
                )
        apart = [
            p for p in itertools.combinations(einsums, 2) if not analysis.fusible(p, loop.rank)
        ]
        if not apart:
            continue
        levels = {einsum: analysis.level(einsum, loop.rank) for einsum in apart[0]}
        late = max(levels, key=lambda e: levels[e])
        early = min(levels, key=lambda e: levels[e])
        if not analysis.waits(apart[0], loop.rank):
            here, there = analysis.in_order(apart[0])
            yield Objection(
                loop.extent > 1,
                f"{there} is fused with {here} on loop {loop.name}, but at one coordinate of rank "
                f"{loop.rank} it needs what {here} makes at another",
            )
            continue
        yield Objection(
            loop.extent > 1,
            f"{late} is fused with {early} on loop {loop.name}, but over rank {loop.rank} they are "
            f"in passes {levels[late]} and {levels[early]}: {late} needs a value that exists only "
            f"when {early} has gone through the whole fiber",
        )


@lru_cache(maxsize=1024)
def _followers(cascade: Cascade, names: frozenset[str]) -> Mapping[str, frozenset[str]]:
    """For each Einsum of a phase, those of the phase that need its result, directly or not."""
    direct: dict[str, set[str]] = {e.name: set() for e in cascade.einsums}
    for dependency in dependencies(cascade):
        direct[dependency.producer.name].add(dependency.consumer.name)
    result = {}
    for name in names:
        found: set[str] = set()
        front = [name]
        while front:
            new = direct[front.pop()] - found
            found |= new
            front += new
        result[name] = frozenset(found & names) - {name}
    return result


def _schedule(cascade: Cascade, phase: Phase) -> Iterator[Objection]:
    """Arrays overlap on tiles of shared loops; steps hold every Einsum once."""
    if phase.steps:
        names = Counter(einsum for step in phase.steps for einsum in step)
        for einsum in {m.einsum for m in phase.einsums} | set(names):
            placed = sum(m.einsum == einsum for m in phase.einsums)
            if not names[einsum] == placed == 1:
                yield Objection(
                    True, f"{einsum} is in {names[einsum]} steps and {placed} nests of {phase.name}"
                )
    by_output = {m.einsum: m for m in phase.einsums}
    for reader in phase.einsums:
        for access in cascade.einsum(reader.einsum).operands:
            for producer in cascade.producers[access.tensor]:
                writer = by_output.get(producer.name)
                if writer is None or writer.array == reader.array or shared_loops(writer, reader):
                    continue
                yield Objection(
                    True,
                    f"{reader.einsum} cannot overlap with {writer.einsum}, whose result it needs: "
                    f"they share no loop, so it begins when {writer.einsum} has ended",
                )


def _homes(
    cascade: Cascade, architecture: Architecture, phase: Phase, only: str | None
) -> Iterator[Objection]:
    """What stays on chip between two Einsums is still there when the second one needs it."""
    outermost = architecture.memories[0].name
    by_tensor: dict[str, list[Use]] = {}
    for use in uses(cascade, phase, only):
        by_tensor.setdefault(use.tensor, []).append(use)
    for tensor, users in by_tensor.items():
        known: dict[tuple[str, str, bool], list[Objection]] = {}
        here = any(u.writes for u in users)
        external = not here or any(
            c.name not in {m.einsum for m in phase.einsums} and not c.is_view
            for c in cascade.consumers[tensor]
        )
        for option in phase.residency[tensor]:
            home = option.residency.home
            handed = {u.mapping.einsum for u in users if not u.writes}
            handed &= option.residency.handed_to
            if handed and not here:
                yield Objection(
                    option.when,
                    f"{tensor} is handed to {', '.join(sorted(handed))}, but nothing of phase "
                    f"{phase.name} makes it",
                )
            if home == outermost and not handed:
                continue
            leaves = external or cascade.tensors[tensor].role != "intermediate"
            if leaves and home != outermost and np.any(option.when):
                yield Objection(
                    option.when,
                    f"{tensor} is exchanged with another phase, so it cannot live in {home}",
                )
            old = option.residency.in_place_of
            for late in late_readers(cascade, phase, tensor, old) if old else ():
                yield Objection(
                    option.when, f"{tensor} overwrites {old}, which {late} still reads afterwards"
                )
            for writer in (u for u in users if u.writes):
                for reader in (u for u in users if not u.writes):
                    direct = reader.mapping.einsum in option.residency.handed_to
                    if home == outermost and not direct:
                        continue
                    if home == IN_ARRAY or direct:
                        kept = home != IN_ARRAY
                        key = (writer.mapping.einsum, reader.mapping.einsum, kept)
                        if key not in known:
                            known[key] = list(
                                forwarding(cascade, architecture, phase, writer, reader, kept)
                            )
                        problems = known[key]
                    else:
                        problems = list(_kept(tensor, writer, reader, option.residency.of))
                    for problem in problems:
                        yield replace(problem, where=problem.where & np.asarray(option.when))


def late_readers(cascade: Cascade, phase: Phase, tensor: str, old: str) -> list[str]:
    """Readers of `old` that do not have to come before the Einsum that overwrites it."""
    after = _followers(cascade, frozenset(m.einsum for m in phase.einsums))
    readers = {c.name for c in cascade.consumers[old]} & set(after)
    return [r for r in sorted(readers) if r != tensor and tensor not in after[r]]


def _kept(
    tensor: str, writer: Use, reader: Use, tiles_of: Callable[..., object]
) -> Iterator[Objection]:
    """The loops outside of the tile that is alive are shared by its writer and its reader."""
    common = shared_loops(writer.mapping, reader.mapping)
    for use in (writer, reader):
        tiles = tiles_of(use.mapping.einsum)
        below = tiles[0].below if tiles else None  # type: ignore[index]
        if use.mapping.position(below) > common:
            yield Objection(
                True,
                f"{reader.mapping.einsum} would need tiles of {tensor} that "
                f"{writer.mapping.einsum} has overwritten: they do not share loop {below}",
            )
            return


def forwarding(
    cascade: Cascade,
    architecture: Architecture,
    phase: Phase,
    writer: Use,
    reader: Use,
    kept: bool,
) -> Iterator[Objection]:
    """What stands against a tensor going from its writer to a reader without a memory, room aside.

    Between linked arrays it flows in the same pass, in the order in which it is made (a copy that
    is `kept` beside lets the reader go another way). On one array it flows or waits in registers
    (`sim.registers`).
    """
    tensor, w, r = writer.tensor, writer.mapping, reader.mapping
    if w.array == r.array:
        return
    if (w.array, r.array) not in architecture.links:
        yield Objection(
            True,
            f"{tensor} is handed from {w.einsum} on array {w.array} to {r.einsum} on array "
            f"{r.array}, which are not linked in {architecture.name}",
        )
        return
    later = later_pass(cascade, phase, writer, reader)
    for rank, where in later.items():
        yield Objection(
            where,
            f"{r.einsum} on array {r.array} needs {tensor} in a later pass over {rank} than "
            f"{w.einsum} on array {w.array} makes it: keep it",
        )
    if not kept:
        yield Objection(
            _turned(writer, reader, shared_loops(w, r)),
            f"{tensor} leaves {w.einsum} in another order of its ranks than {r.einsum} takes it: "
            f"it must be kept in between",
        )


def _turned(writer: Use, reader: Use, common: int) -> Mask:
    """Where the loops below the shared ones go over a tensor's ranks in another order."""
    loops = [
        [loop for loop in use.mapping.loops[common:] if loop.rank in writer.ranks]
        for use in (writer, reader)
    ]
    several = [np.asarray(loop.extent) > 1 for own in loops for loop in own]
    varied = [i for i, one in enumerate(several) if np.any(one) and not np.all(one)]
    always = tuple(i for i, one in enumerate(several) if np.all(one))
    ranks = tuple(tuple(loop.rank for loop in own) for own in loops)
    turned = _turned_by(ranks, always, tuple(varied))
    if np.all(turned == turned[0]):
        return turned[0]
    number: np.ndarray = np.zeros((), dtype=np.int64)
    for i in varied:
        number = 2 * number + several[i]
    return turned[number]


@lru_cache(maxsize=4096)
def _turned_by(
    ranks: tuple[tuple[str, ...], ...], always: tuple[int, ...], varied: tuple[int, ...]
) -> np.ndarray:
    """Whether two nests go over ranks in another order, if of their loops (numbered through both)
    those have several iterations that `always` do, and of the `varied` ones some: by the number
    whose binary digits say which."""
    found = []
    for states in itertools.product((False, True), repeat=len(varied)):
        repeated = {*always, *(i for i, state in zip(varied, states, strict=True) if state)}
        number = itertools.count()
        orders = []
        for own in ranks:
            passed = [rank for rank in own if next(number) in repeated]
            orders.append([rank for rank, _ in itertools.groupby(passed)])
        found.append(orders[0] != orders[1])
    return np.array(found)


@lru_cache(maxsize=1024)
def exchanges_along(cascade: Cascade, iterated: str, rank: str) -> bool:
    """Whether one step of an iteration needs what another coordinate of `rank` made before it.

    Then the loop over `iterated` must lie outside of any loop over `rank`. It is not so if every
    Einsum of the recurrence keeps the rank, coordinate by coordinate (queries, in attention).
    """
    for group in recurrences(cascade):
        if not all(iterated in e.ranks for e in group) or not feeds_itself(cascade, group):
            continue
        made = {e.output.tensor for e in group}
        for einsum in group:
            if rank in einsum.reduction_ranks or rank not in einsum.ranks:
                return True
            for access in einsum.operands:
                moving = [i for i in access.indices if rank.lower() in i.variables]
                if access.tensor in made and not any(i.is_plain for i in moving):
                    return True
    return False


def _states(cascade: Cascade, phase: Phase, only: str | None) -> Iterator[Objection]:
    """A running value is there when its next generation is made, and generations follow in time."""
    writers = {m.einsum: m for m in phase.einsums}
    for use in uses(cascade, phase, only):
        m = use.mapping
        for rank in iterated_ranks(cascade, use.tensor):
            at = [i for i, loop in enumerate(m.loops) if loop.rank == rank]
            for i in at:
                if m.loops[i].spatial:
                    yield Objection(
                        m.loops[i].extent > 1,
                        f"{m.einsum} spreads the iterative rank {rank} over PEs, but each "
                        f"generation of {use.tensor} needs the one before",
                    )
            if not at:
                continue
            for outside in m.loops[: at[0]]:
                if outside.rank != rank and exchanges_along(cascade, rank, outside.rank):
                    yield Objection(
                        outside.extent > 1,
                        f"{m.einsum} loops over {outside.rank} outside of the iterative rank "
                        f"{rank}, but each generation of {use.tensor} needs other coordinates of "
                        f"{outside.rank} of the one before",
                    )
            if rank not in generation_ranks(cascade, use.tensor):
                continue
            if not _varies(cascade.einsum(m.einsum), use.tensor, rank):
                continue  # only the last generation, behind the iteration
            writer = writers.get(use.tensor)
            if writer is not None and shared_loops(writer, m) <= at[0] and writer is not m:
                yield Objection(
                    m.loops[at[0]].extent > 1,
                    f"{m.einsum} reads each generation of {use.tensor}, but does not share the "
                    f"loop over {rank} in which {writer.einsum} replaces it",
                )
            for option in phase.residency[use.tensor]:
                tiles = option.residency.of(m.einsum)
                if tiles and option.residency.home == tiles[0].memory:
                    between = m.loops[at[0] : m.position(tiles[0].below)]
                    lost = product(between, use.ranks)
                    yield Objection(
                        (lost > 1) & np.asarray(option.when),
                        f"the tile of {use.tensor} below {tiles[0].below} holds a part of a "
                        f"generation only: the rest is overwritten before its loop over {rank} "
                        f"comes round",
                    )


def _varies(einsum: Einsum, tensor: str, rank: str) -> bool:
    """Whether the Einsum touches one generation after the other, not a fixed one."""
    accesses = (*einsum.operands, einsum.output)
    return any(a.tensor == tensor and rank.lower() in a.variables for a in accesses)


def _registers(cascade: Cascade, architecture: Architecture, phase: Phase) -> Iterator[Objection]:
    """What waits in the registers of each PE fits."""
    for name, tensors in register_words(cascade, phase).items():
        need, have = sum(tensors.values()), architecture.array(name).register_words
        where = np.asarray(need > have)
        if not np.any(where):
            continue
        shares = {t: words for t, words in tensors.items() if np.any(where & (words > 0))}
        yield Objection(
            where,
            f"each PE of array {name} needs {{:g}} words of registers, and has {{:g}}: {{:g}} are "
            f"missing ({', '.join(f'{t} takes {{:g}}' for t in shares)})",
            (need, have, need - have, *shares.values()),
        )


def _capacity(architecture: Architecture, phase: Phase, tally: Tally) -> Iterator[Objection]:
    """The tiles fit, but for those of tensors that the mapping says may spill."""
    spills: dict[str, Mask] = {}
    for (_, tensor), when in phase.spilled.items():
        spills[tensor] = spills.get(tensor, False) | np.asarray(when)
    for memory in architecture.memories[1:]:
        tiles = [
            (tensor, np.where(spills.get(tensor, False), 0.0, words))
            for (name, tensor, *_), words in tally.footprint_words.items()
            if name == memory.name
        ]
        if not tiles:
            continue
        need = sum(words for _, words in tiles) * architecture.word_bytes
        have = memory.size_bytes
        if not np.any(need > have):
            continue
        largest = np.argmax(np.stack(np.broadcast_arrays(*(w for _, w in tiles))), axis=0)
        for position, (tensor, words) in enumerate(tiles):
            yield Objection(
                (need > have) & (largest == position),
                f"the tiles of phase {phase.name} need {{:,.0f}} bytes of {memory.name}, which has "
                f"{{:,.0f}}: {{:,.0f}} bytes are missing ({tensor} takes {{:,.0f}} bytes of them)",
                (need, have, need - have, words * architecture.word_bytes),
            )
