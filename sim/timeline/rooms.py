"""How many tiles of a tensor there is room for at the same time.

In the registers of an array, as many as its words allow for all that a tile leaves there; in a
memory, the copies that the mapping reserves, and more wherever what it leaves free allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from sim.accesses import iterated_ranks
from sim.mapping import IN_ARRAY
from sim.timeline.spaces import Space, chunks

if TYPE_CHECKING:
    from sim.timeline.building import Builder


@dataclass(frozen=True)
class Rooms:
    """`copies` and `depth` (loops whose iteration is a tile) of tensors made in the phase.

    `sharing` are the tensors that take turns in one room. `loads` are the copies of tiles that come
    from, or go to, the outermost memory.
    """

    copies: Mapping[str, int]
    depth: Mapping[str, int]
    sharing: Mapping[str, tuple[str, ...]]
    loads: Mapping[str, int]
    in_flight: Mapping[str, int] = field(default_factory=dict)


def rooms(on: Builder, spaces: Mapping[str, Space]) -> Rooms:
    """The rooms of a phase."""
    made = {on.cascade.einsum(name).output.tensor: name for name in spaces}
    sharing = _sharing(on, made)
    flight = _in_flight(on, spaces, made)
    extra = _extra(on)
    copies: dict[str, int] = {}
    depth: dict[str, int] = {}
    for tensor, writer in made.items():
        residency = on.home[tensor]
        space = spaces[writer]
        if residency.in_place_of is not None or tensor in on.overwritten:
            continue
        if residency.home == IN_ARRAY or iterated_ranks(on.cascade, tensor):
            holder = _holder(on, tensor, writer)
            if holder is None:
                continue
            copies[tensor], depth[tensor] = flight[holder], space.depth
            common = _common(on, tensor, space)
            if common < space.depth:  # a later pass reads it: all of a pass waits in registers
                words = _words(on, tensor, space, common)
                registers = float(on.architecture.array(holder).register_words)
                copies[tensor], depth[tensor] = max(1, int(registers // words)), common
        elif residency.home != on.architecture.memories[0].name:
            tile = residency.of(writer)[0]
            position = on.nests[writer].position(tile.below)
            copies[tensor] = tile.copies + extra.get(tensor, 0)
            depth[tensor] = min(position, space.depth)
    loads: dict[str, int] = {}
    for use in on.uses:
        residency = on.home[use.tensor]
        tiles = residency.of(use.mapping.einsum)
        if tiles and residency.home == on.architecture.memories[0].name:
            most = max(loads.get(use.tensor, 1), tiles[0].copies + extra.get(use.tensor, 0))
            loads[use.tensor] = most
    return Rooms(copies, depth, sharing, loads, flight)


def _sharing(on: Builder, made: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """For each tensor, those that overwrite it in place, one after the other, and itself."""
    found: dict[str, tuple[str, ...]] = {}
    for tensor in made:
        base = tensor
        while (old := on.home[base].in_place_of or on.overwritten.get(base)) is not None:
            base = old
        found[base] = (*found.get(base, ()), tensor)
    return found


def _holder(on: Builder, tensor: str, writer: str) -> str | None:
    """The array whose registers hold a value on its way to the readers of the same tile.

    That of the reader, when it leaves a 2D array for a 1D one; else that of the writer.
    """
    arrays = {on.nests[reader].array for _, reader, _ in on.readers((tensor,))}
    if not arrays:
        return None
    own = on.nests[writer].array
    others = sorted(arrays - {own})
    if others and len(on.architecture.array(own).shape) > 1:
        return others[0]
    return own


def _common(on: Builder, tensor: str, space: Space) -> int:
    """How many of the loops around its making all readers of a tensor's tile are in."""
    common = space.depth
    for _, reader, _ in on.readers((tensor,)):
        names = [loop.name for loop in on.nests[reader].loops]
        shared = 0
        for level in space.levels[:common]:
            if shared >= len(names) or names[shared] != level.name:
                break
            shared += 1
        common = min(common, shared)
    return common


def _words(on: Builder, tensor: str, space: Space, depth: int) -> float:
    """Words of a tensor that a PE makes inside of the first `depth` loops."""
    use = next(u for u in on.uses if u.writes and u.tensor == tensor)
    inside = 1.0
    for loop in space.loops[depth:]:
        if loop.rank in use.ranks and not loop.spatial:
            inside *= float(loop.extent)
    return inside


def _in_flight(on: Builder, spaces: Mapping[str, Space], made: Mapping[str, str]) -> dict[str, int]:
    """Tiles that the registers of each array hold at the same time.

    What flows from one Einsum to the next in equal parts needs the room of a part only.
    """
    needed = {array.name: 0.0 for array in on.architecture.arrays}
    for tensor, writer in made.items():
        passed = on.home[tensor].home == IN_ARRAY or bool(iterated_ranks(on.cascade, tensor))
        holder = _holder(on, tensor, writer) if passed else None
        if holder is None or tensor in on.overwritten:
            continue
        use = next(u for u in on.uses if u.writes and u.tensor == tensor)
        space = spaces[writer]
        if _common(on, tensor, space) < space.depth:
            continue
        inside = _words(on, tensor, space, space.depth)
        for _, reader, _ in on.readers((tensor,)):
            parts = chunks(space, spaces[reader], use.ranks)
            inside = min(inside, inside / parts)
        registers = float(on.architecture.array(holder).register_words)
        needed[holder] += inside if inside <= registers else 1.0
    found = {}
    for array in on.architecture.arrays:
        words = float(array.register_words)
        tiles = words / needed[array.name] if needed[array.name] else inf
        found[array.name] = int(max(1.0, min(tiles, 1e6)))
    return found


AHEAD = 8
"""More copies of a tile than this are not made, however much room there is."""


def _extra(on: Builder) -> dict[str, int]:
    """More copies of tiles, in what the mapping leaves free: always of what has the fewest.

    Of those with as few copies, the smallest first.
    """
    found: dict[str, int] = {}
    for memory in on.architecture.memories[1:]:
        size = float(memory.size_bytes) / float(on.architecture.word_bytes)
        left = size - float(on.tally.footprint(memory.name))
        words: dict[str, float] = {}
        copies: dict[str, int] = {}
        for (name, tensor, *_), held in on.tally.footprint_words.items():
            if name == memory.name:
                copies[tensor] = max(t.copies for t in _tiles(on, tensor, name))
                words[tensor] = words.get(tensor, 0.0) + float(np.max(held)) / copies[tensor]
        while True:
            fits = [
                (copies[t] + found.get(t, 0), w, t)
                for t, w in words.items()
                if 0 < w <= left and found.get(t, 0) < AHEAD
            ]
            if not fits:
                break
            _, taken, tensor = min(fits)
            found[tensor] = found.get(tensor, 0) + 1
            left -= taken
    return found


def _tiles(on: Builder, tensor: str, memory: str) -> list:  # type: ignore[type-arg]
    residency = on.home[tensor]
    chains = [residency.tiles, *residency.tiles_of.values()]
    return [tile for chain in chains for tile in chain if tile.memory == memory]
