"""What a file says about a cascade on an architecture: every name in it is looked up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from archs import Architecture
from einsum_cascade import Cascade
from einsum_cascade.expression import Expression
from einsum_cascade.source import Document, InputError, Place
from mappers.search.recompute import rewrites
from mappers.tree import touched
from mappers.written.schema import (
    Keep,
    Loops,
    MappingSchema,
    NodeSchema,
    PhaseSchema,
    TileSchema,
)
from sim import IN_ARRAY, EinsumMapping, Loop, Option, Phase, Residency, Tile
from sim.accesses import computing
from sim.mapping import Number

Keys = tuple[str | int, ...]


@dataclass(frozen=True)
class Written:
    """A number as a file has it, and where it stands."""

    value: float | Expression
    what: str
    place: Place

    @property
    def names(self) -> frozenset[str]:
        """The names in it."""
        return self.value.names if isinstance(self.value, Expression) else frozenset()

    def at(self, names: MappingABC[str, Any], least: float = 1.0, whole: bool = True) -> Number:
        """The number. Raises `InputError` where it is too small, or no whole one."""
        value: Any = np.float64(0)
        try:
            value = self.value.evaluate(names) if isinstance(self.value, Expression) else self.value
        except InputError as error:
            raise InputError(
                error.message, self.place, allowed=error.allowed, found=error.found
            ) from None
        value = np.asarray(value, dtype=np.float64)[()]
        wrong = (value < least) | (whole & (value != np.floor(value)))
        if np.any(wrong):
            found = float(np.extract(wrong, value)[0])
            text = f"{self.value.text!r} is" if isinstance(self.value, Expression) else "found"
            kind = "a whole number" if whole else "a number"
            raise InputError(
                f"{self.what} must be {kind} of at least {least:g}, {text} {found:g}", self.place
            )
        return value


@dataclass(frozen=True)
class _Around:
    """What lies around a node: its phase, loops in time, tiles; `keys` are of the node itself."""

    phase: PhaseSchema
    keys: Keys
    loops: tuple[Loop, ...] = ()
    tiles: tuple[tuple[str, Tile, tuple[str, ...]], ...] = ()


class Structure:
    """The phases of a file for one cascade on one architecture, their numbers as written.

    Raises `InputError` for whatever the cascade or the architecture does not have.
    """

    def __init__(
        self,
        schema: MappingSchema,
        document: Document,
        cascade: Cascade,
        architecture: Architecture,
    ) -> None:
        self._schema, self._document = schema, document
        self._architecture = architecture
        self._memories = [memory.name for memory in architecture.memories]
        named = schema.cascade
        if named is not None and named != cascade.name:
            raise InputError(
                f"a mapping of cascade {named!r}, but the design has {cascade.name!r}",
                self._document.place("cascade"),
            )
        self.cascade = self._rewritten(cascade)
        self._einsums = [e.name for e in computing(self.cascade)]
        self.phases = tuple(self._phases())

    def _rewritten(self, cascade: Cascade) -> Cascade:
        wanted = self._schema.recompute
        ways = rewrites(cascade)
        again = list(dict.fromkeys(tensor for about, _ in ways for tensor in about))
        for at, tensor in enumerate(wanted):
            self._known(tensor, again, "tensor that can be made again", ("recompute", at))
        return next(own for about, own in ways if set(about) == set(wanted))

    def _known(self, name: str, allowed: Iterable[str], what: str, keys: Keys) -> str:
        allowed = list(allowed)
        if name not in allowed:
            place = self._document.place(*keys)
            raise InputError(f"{name!r} is no {what}", place, allowed=allowed, found=name)
        return name

    def _phases(self) -> Iterator[Phase]:
        placed: dict[str, str] = {}
        formats: dict[str, str] = {}
        for number, schema in enumerate(self._schema.phases):
            keys: Keys = ("phases", number)
            phase = self._phase(schema, keys)
            for nest in phase.einsums:
                if nest.einsum in placed:
                    raise InputError(
                        f"{nest.einsum} is placed twice, in phases {placed[nest.einsum]!r} and "
                        f"{phase.name!r}",
                        self._document.place(*keys, "nest"),
                    )
                placed[nest.einsum] = phase.name
            for tensor in phase.residency:
                name = phase.formats.get(tensor, "words")
                if formats.setdefault(tensor, name) != name:
                    message = f"{tensor} is in format {formats[tensor]} in an earlier phase"
                    raise InputError(message, self._document.place(*keys, "formats"))
            yield phase

    def _phase(self, schema: PhaseSchema, keys: Keys) -> Phase:
        inside = [name for node in schema.nest for name in _einsums(node)]
        seen: set[str] = set()
        for node_keys, name in _places(schema.nest, (*keys, "nest")):
            self._known(name, self._einsums, f"Einsum of cascade {self.cascade.name!r}", node_keys)
            if name in seen:
                raise InputError(f"{name} is placed twice", self._document.place(*node_keys))
            seen.add(name)
        root = _Around(schema, keys)
        root = replace(root, tiles=self._kept(schema.keep, inside, root))
        nests: list[EinsumMapping] = []
        chains: dict[tuple[str, str], tuple[Tile, ...]] = {}
        for nest, own in self._nodes(schema.nest, root, (*keys, "nest")):
            nests.append(nest)
            for tensor in touched(self.cascade, nest.einsum):
                chains[tensor, nest.einsum] = self._chain(tensor, nest.einsum, own)
        residency = self._residency(schema, keys, chains)
        for key in ("steps", "interleaved"):
            for number, group in enumerate(getattr(schema, key)):
                for each in group:
                    self._known(each, inside, "Einsum in this phase", (*keys, key, number))
        for einsum, tensors in schema.spilled.items():
            self._known(einsum, inside, "Einsum in this phase", (*keys, "spilled", einsum))
            for tensor in tensors:
                reached = touched(self.cascade, einsum)
                self._known(tensor, reached, f"tensor of {einsum}", (*keys, "spilled", einsum))
        ports = [port.name for port in self._architecture.memories[0].ports]
        for name, allowed in (("formats", self._architecture.format_bits), ("ports", ports)):
            for tensor, value in getattr(schema, name).items():
                place = (*keys, name, tensor)
                self._known(tensor, residency, "tensor in this phase", place)
                self._known(value, allowed, name.removesuffix("s"), place)
        for tensor in schema.ahead:
            self._known(tensor, residency, "tensor in this phase", (*keys, "ahead"))
        return Phase(
            schema.name,
            tuple(nests),
            residency,
            steps=tuple(map(tuple, schema.steps)) if inside else ((),),
            stall_cycles=self._number(schema.stall_cycles, "stall_cycles", (*keys, "stall_cycles")),
            spilled={(e, tensor): True for e, every in schema.spilled.items() for tensor in every},
            interleaved=tuple(map(tuple, schema.interleaved)),
            formats=schema.formats,
            ports=schema.ports,
            ahead=frozenset(schema.ahead),
        )

    def _number(self, value: Any, what: str, keys: Keys) -> Written:
        return Written(value, what, self._document.place(*keys))

    def _nodes(
        self, nodes: list[NodeSchema], around: _Around, keys: Keys
    ) -> Iterator[tuple[EinsumMapping, _Around]]:
        """The nests of all Einsums, each with what lies around it."""
        first: dict[str, int] = {}
        for number, node in enumerate(nodes):
            own: Keys = (*keys, number)
            if node.do is None:
                yield self._leaf(node, around, own)
                continue
            name = next(iter(node.for_))
            if name in first:
                raise InputError(
                    f"two loops {name!r} beside each other: what shares a loop stands inside of "
                    "it together, and another loop has another name",
                    self._document.place(*own, "for", name),
                )
            first[name] = number
            inside = replace(
                around, keys=own, loops=self._loops(node.for_, around.loops, (*own, "for"))
            )
            names = [each for part in node.do for each in _einsums(part)]
            kept = self._kept(node.keep, names, inside)
            inside = replace(inside, tiles=(*around.tiles, *kept))
            yield from self._nodes(node.do, inside, (*own, "do"))

    def _leaf(self, node: NodeSchema, around: _Around, keys: Keys) -> tuple[EinsumMapping, _Around]:
        einsum, array = str(node.einsum), str(node.array)
        arrays = [a.name for a in self._architecture.arrays]
        self._known(array, arrays, f"array of {self._architecture.name!r}", (*keys, "array"))
        loops = self._loops(node.for_, around.loops, (*keys, "for"))
        inside = replace(around, keys=keys, loops=loops)
        kept = self._kept(node.keep, [einsum], inside)
        every = self._loops(node.spatial, loops, (*keys, "spatial"), spatial=True)
        for key, name in (("restarts", node.restarts), ("stagger", node.stagger)):
            if name is not None:
                self._known(name, (lp.name for lp in loops), f"loop of {einsum}", (*keys, key))
        nest = EinsumMapping(
            einsum,
            array,
            every,
            len(around.loops),
            node.issue or around.phase.issue,
            node.folds or around.phase.folds,
            node.restarts,
            node.stagger,
        )
        return nest, replace(inside, tiles=(*around.tiles, *kept))

    def _loops(
        self, given: Loops, around: tuple[Loop, ...], keys: Keys, spatial: bool = False
    ) -> tuple[Loop, ...]:
        loops = list(around)
        for name, schema in given.items():
            place = (*keys, name)
            if name in [loop.name for loop in loops]:
                message = f"a loop {name!r} inside of another one of that name"
                raise InputError(message, self._document.place(*place))
            rank = schema.rank or rank_of(self.cascade, name)
            ranks = list(self.cascade.ranks)
            if rank is None:
                raise InputError(
                    f"loop {name!r} begins with the name of no rank: name the rank, as in "
                    f"{name}: {{rank: {ranks[0]}, extent: ...}}",
                    self._document.place(*place),
                    allowed=ranks,
                    found=name,
                )
            self._known(rank, ranks, f"rank of cascade {self.cascade.name!r}", (*place, "rank"))
            extent = self._number(schema.extent, f"loop {name}", place)
            loops.append(Loop(name, rank, extent, spatial))
        return tuple(loops)

    def _kept(
        self, keep: Keep, inside: list[str], around: _Around
    ) -> tuple[tuple[str, Tile, tuple[str, ...]], ...]:
        """Tiles, each with its tensor and the Einsums that it is for."""
        found = []
        for memory, tiles_of in keep.items():
            keys: Keys = (*around.keys, "keep", memory)
            self._known(memory, self._memories, f"memory of {self._architecture.name!r}", keys)
            for number, schema in enumerate(tiles_of):
                found.append(self._tile(schema, memory, inside, around, (*keys, number)))
        return tuple(found)

    def _tile(
        self, schema: TileSchema, memory: str, inside: list[str], around: _Around, keys: Keys
    ) -> tuple[str, Tile, tuple[str, ...]]:
        users = {
            tensor: [e for e in inside if tensor in touched(self.cascade, e)]
            for e in inside
            for tensor in touched(self.cascade, e)
        }
        self._known(schema.tensor, users, "tensor that an Einsum inside of here touches", keys)
        for einsum in schema.einsums or ():
            what = f"Einsum inside of here that touches {schema.tensor}"
            self._known(einsum, users[schema.tensor], what, (*keys, "einsums"))
        names = [loop.name for loop in around.loops]
        if schema.below is not None:
            self._known(schema.below, names, "loop around it", (*keys, "below"))
        below = schema.below or (names[-1] if names else None)
        tile = Tile(memory, below, schema.copies, schema.retain)
        return schema.tensor, tile, tuple(schema.einsums or users[schema.tensor])

    def _chain(self, tensor: str, einsum: str, around: _Around) -> tuple[Tile, ...]:
        """The tiles through which an Einsum reaches a tensor, from the outside inwards."""
        own = [tile for name, tile, users in around.tiles if name == tensor and einsum in users]
        own.sort(key=lambda tile: self._memories.index(tile.memory))
        for one, other in pairwise(own):
            if one.memory == other.memory:
                raise InputError(
                    f"{one.memory} keeps two tiles of {tensor} for {einsum}, below {one.below} and "
                    f"{other.below}",
                    self._document.place(*around.keys),
                )
        return tuple(own)

    def _residency(
        self, schema: PhaseSchema, keys: Keys, chains: dict[tuple[str, str], tuple[Tile, ...]]
    ) -> dict[str, tuple[Option, ...]]:
        users: dict[str, list[str]] = {}
        for tensor, einsum in chains:
            users.setdefault(tensor, []).append(einsum)
        homes: dict[str, str] = {}
        what = "tensor that an Einsum of this phase touches"
        for memory, tensors in schema.home.items():
            place = (*keys, "home", memory)
            known = (*self._memories, IN_ARRAY)
            self._known(memory, known, f"memory of {self._architecture.name!r}", place)
            for tensor in tensors:
                self._known(tensor, users, what, place)
                if tensor in homes:
                    message = f"{tensor} lives in {homes[tensor]} already"
                    raise InputError(message, self._document.place(*place))
                homes[tensor] = memory
        for tensor, old in schema.in_place_of.items():
            for name in (tensor, old):
                self._known(name, users, what, (*keys, "in_place_of", tensor))
        for tensor, readers in schema.handed_to.items():
            place = (*keys, "handed_to", tensor)
            self._known(tensor, users, what, place)
            for reader in readers:
                self._known(
                    reader, users[tensor], f"Einsum of this phase that touches {tensor}", place
                )
        found: dict[str, tuple[Option, ...]] = {}
        for tensor, einsums in users.items():
            if tensor not in homes:
                raise InputError(
                    f"phase {schema.name!r} does not say where {tensor} lives: "
                    f"{', '.join((*self._memories, IN_ARRAY))}",
                    self._document.place(*keys, "home"),
                )
            every = {einsum: chains[tensor, einsum] for einsum in einsums}
            alike = len(set(every.values())) == 1
            residency = Residency(
                homes[tensor],
                every[einsums[0]] if alike else (),
                {} if alike else {einsum: chain for einsum, chain in every.items() if chain},
                schema.in_place_of.get(tensor),
                frozenset(schema.handed_to.get(tensor, ())),
            )
            found[tensor] = (Option(True, residency),)
        return found


def rank_of(cascade: Cascade, loop: str) -> str | None:
    """The rank of a loop by its name: the longest that the name begins with.

    >>> from einsum_cascade import parse_cascade
    >>> text = "{name: x, ranks: [M, M1], inputs: ['A[m,m1]'], body: ['X[m] = A[m,m1]']}"
    >>> [rank_of(parse_cascade(text), name) for name in ("M0", "M1", "M1.0", "Q")]
    ['M', 'M1', 'M1', None]
    """
    found = [rank for rank in cascade.ranks if loop.startswith(rank)]
    return max(found, key=len, default=None)


def _einsums(node: NodeSchema) -> list[str]:
    """The Einsums of a node and of all inside of it."""
    if node.einsum is not None:
        return [node.einsum]
    return [name for part in node.do or () for name in _einsums(part)]


def _places(nodes: list[NodeSchema], keys: Keys) -> Iterator[tuple[Keys, str]]:
    for number, node in enumerate(nodes):
        if node.einsum is not None:
            yield (*keys, number, "einsum"), node.einsum
        yield from _places(node.do or [], (*keys, number, "do"))


__all__ = ["Structure", "Written", "rank_of"]
