"""A phase as a tree: loops that Einsums share are written once, tiles stand where they are kept.

The picture that LoopTree has of a fused mapping (Gilbert et al., 2024). Text, file and figure of a
mapping all show this tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from einsum_cascade import Cascade
from sim import EinsumMapping, Loop, Mapping, Phase, Residency, Tile
from sim.accesses import uses


@dataclass(frozen=True)
class Kept:
    """A tile of a tensor in the place where it is kept; `tile.below` is the loop around it.

    It is for the Einsums inside that reach the tensor: for all of them, or those of `only`.
    """

    tensor: str
    tile: Tile
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Leaf:
    """An Einsum with the loops in time that it has alone, and the tiles kept below these."""

    nest: EinsumMapping
    loops: tuple[Loop, ...]
    kept: tuple[Kept, ...] = ()

    @property
    def spatial(self) -> tuple[Loop, ...]:
        """Its loops over the array."""
        return tuple(loop for loop in self.nest.loops if loop.spatial)


@dataclass(frozen=True)
class Branch:
    """Loops around what is inside, and the tiles kept right inside of the last of them.

    The root of a phase has no loops: its tiles hold what the whole phase needs.
    """

    loops: tuple[Loop, ...]
    kept: tuple[Kept, ...]
    inside: tuple[Branch | Leaf, ...]

    def leaves(self) -> Iterator[Leaf]:
        """All Einsums inside."""
        for part in self.inside:
            if isinstance(part, Leaf):
                yield part
            else:
                yield from part.leaves()


Path = tuple[str, ...]


def loop_tree(cascade: Cascade, phase: Phase) -> Branch:
    """The tree of a phase of one design point (see `sim.single`).

    Einsums that share a loop stand together, in the order of the first of them.
    """
    shared: dict[tuple[Path, str, Tile], list[str]] = {}
    own: dict[str, list[Kept]] = {nest.einsum: [] for nest in phase.einsums}
    for nest in phase.einsums:
        for tensor in touched(cascade, nest.einsum):
            for tile in residency_of(phase, tensor).of(nest.einsum):
                depth = nest.position(tile.below)
                if depth > nest.shared:
                    own[nest.einsum].append(Kept(tensor, tile))
                else:
                    shared.setdefault((_path(nest)[:depth], tensor, tile), []).append(nest.einsum)
    kept: dict[Path, list[Kept]] = {}
    for (path, tensor, tile), einsums in shared.items():
        inside = [
            nest.einsum
            for nest in phase.einsums
            if _path(nest)[: len(path)] == path and tensor in touched(cascade, nest.einsum)
        ]
        only = () if einsums == inside else tuple(einsums)
        kept.setdefault(path, []).append(Kept(tensor, tile, only))
    leaves = [Leaf(n, n.temporal[n.shared :], tuple(own[n.einsum])) for n in phase.einsums]
    return Branch((), tuple(kept.get((), ())), _inside(leaves, (), kept))


def opened(leaf: Leaf) -> Branch | Leaf:
    """An Einsum whose own loops have tiles between them, as branches around the rest of it."""
    for at, loop in enumerate(leaf.loops):
        kept = tuple(k for k in leaf.kept if k.tile.below == loop.name)
        if kept:
            inner = tuple(k for k in leaf.kept if k not in kept)
            rest = replace(leaf, loops=leaf.loops[at + 1 :], kept=inner)
            return Branch(leaf.loops[: at + 1], kept, (opened(rest),))
    return leaf


def touched(cascade: Cascade, einsum: str) -> tuple[str, ...]:
    """The tensors that an Einsum reads and writes; of views, what they show."""
    bare = Phase("", (EinsumMapping(einsum, "", ()),), {})
    return tuple(dict.fromkeys(use.tensor for use in uses(cascade, bare)))


def residency_of(phase: Phase, tensor: str) -> Residency:
    """Where a tensor lives in a phase of one design point."""
    return next(o.residency for o in phase.residency[tensor] if o.when)


def _path(nest: EinsumMapping) -> Path:
    return tuple(loop.name for loop in nest.loops[: nest.shared])


def _inside(
    leaves: Sequence[Leaf], path: Path, kept: dict[Path, list[Kept]]
) -> tuple[Branch | Leaf, ...]:
    """What is inside of the shared loops `path`."""
    parts: list[Branch | Leaf] = []
    done: set[str] = set()
    for leaf in leaves:
        nest = leaf.nest
        if nest.shared == len(path):
            parts.append(leaf)
            continue
        name = nest.loops[len(path)].name
        if name in done:
            continue
        done.add(name)
        together = [e for e in leaves if _path(e.nest)[: len(path) + 1] == (*path, name)]
        below = (*path, name)
        while (  # loops with nothing in between are one branch
            below not in kept
            and all(e.nest.shared > len(below) for e in together)
            and len({_path(e.nest)[: len(below) + 1] for e in together}) == 1
        ):
            below = _path(nest)[: len(below) + 1]
        loops = nest.loops[len(path) : len(below)]
        inside = _inside(together, below, kept)
        parts.append(Branch(loops, tuple(kept.get(below, ())), inside))
    return tuple(parts)


def plain(mapping: Mapping) -> Mapping:
    """The same mapping of one design point without what says nothing.

    Left out are an Einsum's own loops in time of one iteration, unless a tile is below them, and
    tensors that the phase does not touch; tiles are for all Einsums of a phase where these agree.
    """
    phases = []
    for choice in mapping.phases:
        phase = choice.options[int(choice.index)]
        phases.append(replace(choice, options=(_plain(mapping.cascade, phase),), index=0))
    return replace(mapping, phases=tuple(phases))


def _plain(cascade: Cascade, phase: Phase) -> Phase:
    users: dict[str, list[str]] = {}
    for nest in phase.einsums:
        for tensor in touched(cascade, nest.einsum):
            users.setdefault(tensor, []).append(nest.einsum)
    residency = {}
    needed: dict[str, set[str | None]] = {nest.einsum: set() for nest in phase.einsums}
    for tensor, einsums in users.items():
        old = residency_of(phase, tensor)
        chains = {einsum: old.of(einsum) for einsum in einsums}
        for einsum, chain in chains.items():
            needed[einsum] |= {tile.below for tile in chain}
        alike = len(set(chains.values())) == 1
        tiles = chains[einsums[0]] if alike else ()
        each = {} if alike else {e: chain for e, chain in chains.items() if chain}
        option = next(o for o in phase.residency[tensor] if o.when)
        handed = old.handed_to & set(einsums)
        new = replace(old, tiles=tiles, tiles_of=each, handed_to=handed)
        residency[tensor] = (replace(option, when=True, residency=new),)
    nests = tuple(_without_idle(nest, needed[nest.einsum]) for nest in phase.einsums)
    spilled = {access: True for access, when in phase.spilled.items() if when}
    return replace(phase, einsums=nests, residency=residency, spilled=spilled)


def _without_idle(nest: EinsumMapping, needed: set[str | None]) -> EinsumMapping:
    named = needed | {nest.restarts, nest.stagger}
    loops = tuple(
        loop
        for at, loop in enumerate(nest.loops)
        if at < nest.shared or loop.spatial or loop.extent > 1 or loop.name in named
    )
    return replace(nest, loops=loops)


__all__ = ["Branch", "Kept", "Leaf", "loop_tree", "opened", "plain", "residency_of", "touched"]
