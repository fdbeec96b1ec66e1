"""Whether a mapping can exist, and if not, why: what needs how much, where, how much is missing.

Whoever made a mapping, it passes here before it is priced. The cascade's pass analysis decides which
Einsums may share a loop; capacities and supported operations come from the architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from archs import Architecture
from einsum_cascade import Cascade, PassAnalysis, analyze_passes
from sim.accesses import Tally, Use, uses
from sim.mapping import IN_ARRAY, EinsumMapping, Mask, Number, Phase
from sim.nest import product


@dataclass(frozen=True)
class Objection:
    """Why some points are infeasible: at which (a mask), and the reason at point `i` of a flat array."""

    where: Mask
    reason: Callable[[int], str]


def _everywhere(reason: str) -> Objection:
    return Objection(True, lambda _: reason)


@lru_cache(maxsize=64)
def analysis_of(cascade: Cascade) -> PassAnalysis:
    """The pass analysis of a cascade, made once."""
    return analyze_passes(cascade)


def at(value: Number, index: int) -> float:
    """The value of a number at flat index `index`."""
    flat = np.ravel(value)
    return float(flat[index] if flat.size > 1 else flat[0])


def objections(
    cascade: Cascade,
    architecture: Architecture,
    shape: Mapping[str, Number],
    phase: Phase,
    tally: Tally,
) -> Iterator[Objection]:
    """Everything that stands against a phase, structure first."""
    for mapping in phase.einsums:
        yield from _nest(cascade, architecture, shape, mapping)
    yield from _fusion(cascade, phase)
    yield from _homes(cascade, architecture, phase)
    yield from _capacity(architecture, phase, tally)


def _nest(
    cascade: Cascade, architecture: Architecture, shape: Mapping[str, Number], m: EinsumMapping
) -> Iterator[Objection]:
    """The loops cover the iteration space, the array has the PEs and the operations."""
    einsum = cascade.einsum(m.einsum)
    array = architecture.array(m.array)
    for kind in einsum.operations:
        if kind not in array.operations:
            yield _everywhere(
                f"{m.einsum} needs the operation {kind!r}, which array {m.array!r} of "
                f"{architecture.name} lacks (it has {', '.join(array.operations)})"
            )
    stray = {loop.rank for loop in m.loops} - set(einsum.ranks)
    if stray:
        yield _everywhere(f"{m.einsum} has loops over {', '.join(sorted(stray))}, not its own ranks")
    for rank in einsum.ranks:
        covered = product(m.loops, frozenset({rank}))
        yield Objection(
            covered < shape[rank],
            lambda i, r=rank, c=covered: (
                f"the loops of {m.einsum} cover {at(c, i):g} of {at(shape[r], i):g} "
                f"coordinates of rank {r}"
            ),
        )
    spatial = [loop for loop in m.loops if loop.spatial]
    if len(spatial) > len(array.shape):
        yield _everywhere(f"{m.einsum} has {len(spatial)} spatial ranks on a {m.array} array")
    for loop, extent in zip(spatial, array.shape, strict=False):
        yield Objection(
            loop.extent > extent,
            lambda i, lp=loop, e=extent: (
                f"{m.einsum} spreads {lp.name} over {at(lp.extent, i):g} PEs of array {m.array}, "
                f"which has {at(e, i):g}"
            ),
        )


def _common(a: EinsumMapping, b: EinsumMapping) -> int:
    """How many loops two Einsums of a phase share."""
    depth = 0
    for first, second in zip(a.loops[: a.shared], b.loops[: b.shared], strict=False):
        if first.name != second.name:
            break
        depth += 1
    return depth


def _fusion(cascade: Cascade, phase: Phase) -> Iterator[Objection]:
    """Einsums that share a loop over a rank are in the same pass over it."""
    analysis = analysis_of(cascade)
    after = _followers(cascade, phase)
    for first in phase.einsums:
        for second in phase.einsums:
            if second.einsum not in after[first.einsum]:
                continue
            for loop in first.loops[: _common(first, second)]:
                levels = [analysis.level(m.einsum, loop.rank) for m in (first, second)]
                if levels[0] != levels[1]:
                    yield Objection(
                        loop.extent > 1,
                        lambda _, f=first, s=second, lp=loop, lv=levels: (
                            f"{s.einsum} is fused with {f.einsum} on loop {lp.name}, but over rank "
                            f"{lp.rank} they are in passes {lv[1]} and {lv[0]}: {s.einsum} needs a "
                            f"value that exists only when {f.einsum} has gone through the fiber"
                        ),
                    )


def _followers(cascade: Cascade, phase: Phase) -> dict[str, set[str]]:
    """For each Einsum of the phase, those of the phase that need its result, directly or not.

    What the next iteration needs counts too: it shares the loops all the same, in the same pass.
    """
    direct = {
        e.name: {c.name for c in cascade.consumers[e.output.tensor]} for e in cascade.einsums
    }
    names = {m.einsum for m in phase.einsums}
    result = {}
    for name in names:
        found: set[str] = set()
        front = [name]
        while front:
            for following in direct[front.pop()] - found:
                found.add(following)
                front.append(following)
        result[name] = (found & names) - {name}
    return result


def _homes(cascade: Cascade, architecture: Architecture, phase: Phase) -> Iterator[Objection]:
    """What stays on chip between two Einsums is still there when the second one needs it."""
    outermost = architecture.memories[0].name
    by_tensor: dict[str, list[Use]] = {}
    for use in uses(cascade, phase):
        by_tensor.setdefault(use.tensor, []).append(use)
    for tensor, users in by_tensor.items():
        here = any(u.writes for u in users)
        external = not here or any(
            c.name not in {m.einsum for m in phase.einsums} and not c.is_view
            for c in cascade.consumers[tensor]
        )
        for option in phase.residency[tensor]:
            home = option.residency.home
            if home == outermost:
                continue
            if (external or cascade.tensors[tensor].role != "intermediate") and np.any(option.when):
                yield Objection(
                    option.when,
                    lambda _, t=tensor, h=home: (
                        f"{t} is exchanged with another phase, so it cannot live in {h}"
                    ),
                )
            for writer in (u for u in users if u.writes):
                for reader in (u for u in users if not u.writes):
                    if home == IN_ARRAY or reader.mapping.einsum in option.residency.handed_to:
                        problem = _forwarding(cascade, architecture, tensor, writer, reader)
                    else:
                        problem = _kept(tensor, writer, reader, option.residency.of)
                    if problem is not None:
                        yield Objection(problem.where & np.asarray(option.when), problem.reason)


def _kept(tensor: str, writer: Use, reader: Use, tiles_of: Callable[..., object]) -> Objection | None:
    """The loops outside of the tile that is alive are shared by its writer and its reader."""
    common = _common(writer.mapping, reader.mapping)
    for use in (writer, reader):
        tiles = tiles_of(use.mapping.einsum)
        below = tiles[0].below if tiles else None  # type: ignore[index]
        if use.mapping.position(below) > common:
            return _everywhere(
                f"{reader.mapping.einsum} would need tiles of {tensor} that "
                f"{writer.mapping.einsum} has overwritten: they do not share loop {below}"
            )
    return None


def _forwarding(
    cascade: Cascade, architecture: Architecture, tensor: str, writer: Use, reader: Use
) -> Objection | None:
    """Arrays must be the same or linked; a later pass finds a tile only if the registers hold it."""
    w, r = writer.mapping, reader.mapping
    if w.array != r.array and (w.array, r.array) not in architecture.links:
        return _everywhere(
            f"{tensor} is handed from {w.einsum} on array {w.array} to {r.einsum} on array "
            f"{r.array}, which are not linked in {architecture.name}"
        )
    analysis = analysis_of(cascade)
    ranks = set(cascade.einsum(w.einsum).ranks) & set(cascade.einsum(r.einsum).ranks)
    later = [k for k in ranks if analysis.level(w.einsum, k) != analysis.level(r.einsum, k)]
    common = _common(w, r)
    inside = product(w.loops[common:], writer.ranks)
    spatial = product([loop for loop in w.loops if loop.spatial], writer.ranks)
    words = inside / spatial
    array = architecture.array(w.array)
    if not later:
        return None
    if w.array != r.array:
        return _everywhere(
            f"{r.einsum} on array {r.array} needs {tensor} in a later pass over "
            f"{', '.join(sorted(later))} than {w.einsum} on array {w.array} makes it: it must be kept"
        )
    return Objection(
        words > array.register_words,
        lambda i: (
            f"{tensor} needs {at(words, i):g} words of registers in each PE of array {w.array} from "
            f"one pass to the next, which has {at(array.register_words, i):g}"
        ),
    )


def _capacity(architecture: Architecture, phase: Phase, tally: Tally) -> Iterator[Objection]:
    """The tiles fit, or the mapping says what is spilled."""
    if phase.spilled:
        return
    for memory in architecture.memories[1:]:
        need = tally.footprint(memory.name) * architecture.word_bytes
        have = memory.size_bytes
        largest = [(t, w) for (m, t, _), w in tally.footprint_words.items() if m == memory.name]

        def reason(i: int, name: str = memory.name, need: Number = need, have: Number = have,
                   tiles: list[tuple[str, Number]] = largest) -> str:  # fmt: skip
            tensor, words = max(tiles, key=lambda tile: at(tile[1], i))
            each = at(words, i) * at(architecture.word_bytes, i)
            return (
                f"the tiles of phase {phase.name} need {at(need, i):,.0f} bytes of {name}, "
                f"which has {at(have, i):,.0f}: {at(need, i) - at(have, i):,.0f} bytes are missing "
                f"(the largest tile is {tensor}'s, {each:,.0f} bytes)"
            )

        yield Objection(need > have, reason)
