"""Whether a mapping is well formed: what no loop nest could mean is a mistake of whoever made it.

A mapping that means something but cannot be is another matter: `sim.legality` says why.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sim.accesses import uses
from sim.mapping import IN_ARRAY, EinsumMapping, Mapping, Phase, Residency


def check_form(mapping: Mapping, phase: Phase) -> None:
    """Raise ValueError, naming the Einsum or the tensor, for a phase that is not well formed."""
    arrays = {array.name for array in mapping.architecture.arrays}
    for nest in phase.einsums:
        for problem in _nest(nest, arrays):
            raise ValueError(f"phase {phase.name}: {problem}")
    for problem in (*_together(phase), *_residency(mapping, phase)):
        raise ValueError(f"phase {phase.name}: {problem}")


def _nest(nest: EinsumMapping, arrays: set[str]) -> Iterator[str]:
    if nest.array not in arrays:
        yield f"{nest.einsum} is on unknown array {nest.array!r}"
    names = [loop.name for loop in nest.loops]
    if len(set(names)) < len(names):
        yield f"{nest.einsum} has two loops of one name"
    spatial = [loop.spatial for loop in nest.loops]
    if spatial != sorted(spatial):
        yield f"{nest.einsum} has a loop in time inside a spatial loop: spatial loops come last"
    for key, name in (("restarts", nest.restarts), ("is staggered", nest.stagger)):
        if name is not None and name not in [loop.name for loop in nest.temporal]:
            yield f"{nest.einsum} {key} in {name}, which is no loop in time of its own"
    for loop in nest.loops:
        extent = np.asarray(loop.extent, dtype=np.float64)
        if not (np.all(extent >= 1) and np.all(extent == np.floor(extent))):
            yield f"loop {loop.name} of {nest.einsum} has an extent that is no positive integer"


def _together(phase: Phase) -> Iterator[str]:
    """Loops that are shared are the same loops."""
    seen: dict[tuple[str, ...], EinsumMapping] = {}
    for nest in phase.einsums:
        names = tuple(loop.name for loop in nest.loops)
        for depth in range(1, nest.shared + 1):
            other = seen.setdefault(names[:depth], nest)
            mine, theirs = nest.loops[depth - 1], other.loops[depth - 1]
            alike = (mine.rank, mine.spatial) == (theirs.rank, theirs.spatial)
            if not (alike and np.all(mine.extent == theirs.extent)):
                yield f"{nest.einsum} and {other.einsum} share loop {mine.name}, which differs"
    if len({nest.einsum for nest in phase.einsums}) < len(phase.einsums):
        yield "an Einsum has two nests"


def _residency(mapping: Mapping, phase: Phase) -> Iterator[str]:
    """Every tensor lives somewhere, at every point in exactly one way."""
    order = [memory.name for memory in mapping.architecture.memories]
    ports = [port.name for port in mapping.architecture.memories[0].ports]
    formats = mapping.architecture.format_bits
    read = {use.tensor for use in uses(mapping.cascade, phase)}
    read -= {use.tensor for use in uses(mapping.cascade, phase) if use.writes}
    for tensor in sorted(phase.ahead - read):
        yield f"{tensor} cannot come ahead: no Einsum of the phase merely reads it"
    for tensor, name in phase.formats.items():
        if name not in formats:
            yield f"{tensor} is in unknown format {name!r}"
        kept = [p.name for p in mapping.architecture.memories[0].ports if name in p.carries]
        if kept and tensor in phase.ports and phase.ports[tensor] not in kept:
            yield f"{tensor}, in format {name}, needs a port that is kept for it: {', '.join(kept)}"
    kept_for = {p.name: p.carries for p in mapping.architecture.memories[0].ports if p.carries}
    for tensor, port in phase.ports.items():
        if port in kept_for and phase.formats.get(tensor) not in kept_for[port]:
            yield f"{tensor} is on port {port}, which is kept for {', '.join(kept_for[port])}"
    for use in uses(mapping.cascade, phase):
        tensor, einsum = use.tensor, use.mapping.einsum
        options = phase.residency.get(tensor, ())
        if not np.all(sum(np.asarray(option.when, dtype=int) for option in options) == 1):
            yield f"{tensor} must have exactly one residency at every point"
        outside = any(option.residency.home == order[0] for option in options)
        outside = outside or (einsum, tensor) in phase.spilled
        if ports and outside and phase.ports.get(tensor) not in ports:
            yield f"{tensor} needs a port of {order[0]}: {', '.join(ports)}"
        for option in options:
            residency = option.residency
            memories = [tile.memory for tile in residency.of(einsum)]
            unknown = [m for m in (residency.home, *memories) if m not in (*order, IN_ARRAY)]
            if unknown:
                yield f"{tensor} is in unknown memory {unknown[0]!r}"
            elif residency.home == IN_ARRAY:
                continue
            levels = [order.index(m) for m in memories if m in order]
            if levels != sorted(set(levels)) or (
                levels and levels[0] < order.index(residency.home)
            ):
                yield f"the tiles of {tensor} are not ordered from its home inwards"
            if residency.home != order[0] and residency.home not in memories[:1]:
                yield f"{tensor} lives in {residency.home}: a tile must say how much of it there"
            for tile in residency.of(einsum):
                at = use.mapping.position(tile.below)
                if at > len(use.mapping.temporal):
                    yield f"{tensor} has a tile below {tile.below}, a spatial loop of {einsum}"
            old = residency.in_place_of
            if old is not None and not any(
                _has_room(o.residency, residency.home) for o in phase.residency.get(old, ())
            ):
                yield f"{tensor} is in place of {old}, which has no room in {residency.home}"


def _has_room(residency: Residency, memory: str) -> bool:
    """Whether a memory holds a tensor, or tiles of it."""
    chains = (residency.tiles, *residency.tiles_of.values())
    return residency.home == memory or any(t.memory == memory for c in chains for t in c)
