"""What a mapping is: partitioning, loop order, spatial ranks, fusion, residency, binding, schedule.

The words are the field's: loop nests as in Timeloop, fusion and retained tiles as in LoopTree,
binding of Einsums to arrays as in FuseMax. Every extent may be an array, one entry a design point,
so that one mapping stands for many points of the same structure.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from archs import Architecture
from einsum_cascade import Cascade

Number = Any
Mask = Any
"""True, or a boolean array with one entry a design point."""

IN_ARRAY = "array"
"""The home of a tensor that no memory holds: forwarded from PE to PE, or kept in registers."""


@dataclass(frozen=True)
class Loop:
    """One loop over (a part of) a rank. A spatial loop is unrolled over a dimension of the array.

    The extents of all loops over a rank multiply to at least the extent of the rank: the last,
    incomplete tile is counted as a tile.
    """

    name: str
    rank: str
    extent: Number
    spatial: bool = False

    @cached_property
    def repeats(self) -> bool:
        """Whether it has more than one iteration at some point."""
        return bool(np.any(np.asarray(self.extent) > 1))


@dataclass(frozen=True)
class Tile:
    """The part of a tensor that a memory keeps.

    It holds what one iteration of the loop `below` needs (None: what the whole phase needs) in
    `copies` copies (2: double-buffered). A tile is retained while the loops outside of it do not
    change what it holds, unless `retain` is false: then it is streamed, fetched for every use.
    """

    memory: str
    below: str | None
    copies: int = 1
    retain: bool = True


@dataclass(frozen=True)
class Residency:
    """Where a tensor lives during a phase.

    `home` is the memory that holds all of it that is alive, or IN_ARRAY. `tiles` are the parts that
    memories between the home and the arrays keep, outermost first; the first may describe the part
    that is alive in the home itself, when that is on chip. `tiles_of` replaces them for some
    Einsums. A tensor `in_place_of` another overwrites it and takes no room of its own. Readers in
    `handed_to` get it from the writer's array as it is made, beside the copy that is kept.
    """

    home: str
    tiles: tuple[Tile, ...] = ()
    tiles_of: MappingABC[str, tuple[Tile, ...]] = field(default_factory=dict)
    in_place_of: str | None = None
    handed_to: frozenset[str] = frozenset()

    def of(self, einsum: str) -> tuple[Tile, ...]:
        """The tiles through which `einsum` reaches the tensor."""
        return self.tiles_of.get(einsum, self.tiles)


@dataclass(frozen=True)
class Option:
    """A residency and the points at which it holds. A tensor's options exclude one another."""

    when: Mask
    residency: Residency


@dataclass(frozen=True)
class EinsumMapping:
    """The loop nest of one Einsum on the array it is bound to.

    The first `shared` loops are shared with the Einsums of the phase that have the same ones: these
    are fused there. Spatial loops come last. `issue` says how the operations of one point follow:
    one at a time, or as a pipeline through the units of a PE, where the busiest unit sets the pace.
    `folds` says how the array goes from one set of values held in its PEs to the next: at once, or
    only when the last has been emptied (`sim.folds`).

    A pipelined loop that `restarts` runs empty in every iteration of the loop of that name; without
    it, once in the phase. `stagger` names a loop along which each PE of the first spatial loop
    begins its tile one iteration behind the PE before, and ends as much later: it wraps around, and
    only the last PEs of all make the nest longer (`stagger_iterations`), in each iteration of loops
    outside of all these.
    """

    einsum: str
    array: str
    loops: tuple[Loop, ...]
    shared: int = 0
    issue: Literal["sequential", "pipelined"] = "sequential"
    folds: Literal["pipelined", "serialized"] = "pipelined"
    restarts: str | None = None
    stagger: str | None = None

    @cached_property
    def temporal(self) -> tuple[Loop, ...]:
        """The loops in time, outermost first."""
        return tuple(loop for loop in self.loops if not loop.spatial)

    @cached_property
    def spatial(self) -> tuple[Loop, ...]:
        """The loops over the dimensions of the array, in their order."""
        return tuple(loop for loop in self.loops if loop.spatial)

    @cached_property
    def repeated(self) -> frozenset[str]:
        """The ranks of which it has several coordinates, at some point."""
        return frozenset(loop.rank for loop in self.loops if loop.repeats)

    def position(self, below: str | None) -> int:
        """Index of the first loop inside a tile kept below that loop.

        Raises ValueError when the nest has no such loop.
        """
        if below is None:
            return 0
        if below not in self._positions:
            names = ", ".join(self._positions)
            raise ValueError(f"{self.einsum} has no loop {below!r}, only {names}")
        return self._positions[below]

    def below(self, depth: int) -> str | None:
        """The name of the loop right outside of a tile kept inside the first `depth` loops."""
        return self.loops[depth - 1].name if depth else None

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {loop.name: at for at, loop in enumerate(self.loops, start=1)}


def shared_loops(a: EinsumMapping, b: EinsumMapping) -> int:
    """How many loops two Einsums of a phase share."""
    depth = 0
    for first, second in zip(a.loops[: a.shared], b.loops[: b.shared], strict=False):
        if first.name != second.name:
            break
        depth += 1
    return depth


@dataclass(frozen=True)
class Phase:
    """Einsums that run at the same time, and what the memories keep for them.

    Without `steps` all arrays and memories overlap freely, as when tiles are software-pipelined. A
    step is a set of Einsums that run beside each other in every tile; steps follow one another, and
    `stall_cycles` are lost to filling and draining (one step of no Einsum waits for as long).
    `spilled` names the accesses (Einsum, tensor) whose overflowing part goes to the outermost
    memory when the tiles do not fit, and the points at which it does; without any, tiles that do
    not fit make the mapping infeasible. The Einsums of an `interleaved` group share their array
    cycle by cycle where tiles of theirs run at the same time.

    `formats` names the number format of a tensor, one of the architecture's (else its elements are
    words), `ports` the port of the outermost memory by which it comes and goes. Tiles of the
    tensors `ahead` come before what needs them begins: nothing else runs meanwhile.
    """

    name: str
    einsums: tuple[EinsumMapping, ...]
    residency: MappingABC[str, tuple[Option, ...]]
    steps: tuple[tuple[str, ...], ...] = ()
    stall_cycles: Number = 0.0
    spilled: MappingABC[tuple[str, str], Mask] = field(default_factory=dict)
    interleaved: tuple[tuple[str, ...], ...] = ()
    formats: MappingABC[str, str] = field(default_factory=dict)
    ports: MappingABC[str, str] = field(default_factory=dict)
    ahead: frozenset[str] = frozenset()


@dataclass(frozen=True)
class PhaseChoice:
    """Phases of different structure, one of which each design point takes."""

    options: tuple[Phase, ...]
    index: Number = 0


@dataclass(frozen=True)
class Mapping:
    """A cascade placed on an architecture: phases that follow one another.

    `shape` holds the extent of every rank. `notes` say for each design point, in words, what was
    chosen (one text for all, or an array of texts). A `refusal` is a mapper's reason for which it
    has no mapping: all points are infeasible then, and there may be no phases.
    """

    cascade: Cascade
    architecture: Architecture
    shape: MappingABC[str, Number]
    phases: tuple[PhaseChoice, ...]
    notes: Any = ""
    refusal: str | None = None


@dataclass(frozen=True)
class MappingChoice:
    """Mappings of different structure of one cascade, one of which each design point takes."""

    options: tuple[Mapping, ...]
    index: Number = 0


@dataclass(frozen=True)
class MappingParts:
    """Design points in parts, each with mappings of its own.

    `parts` holds the positions of some points and how these are mapped; `count` is how many points
    all parts have.
    """

    parts: tuple[tuple[Any, Mapping | MappingChoice], ...]
    count: int


def always(home: str, *tiles: Tile, **rest: Any) -> tuple[Option, ...]:
    """One residency at every point."""
    return (Option(True, Residency(home, tiles, **rest)),)
