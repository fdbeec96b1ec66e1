"""Every access of every memory by every tensor, from the loop nests of a phase."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, reduce
from typing import Any, Literal

import numpy as np

from archs import Architecture, Memory
from einsum_cascade import Cascade, Einsum, PassAnalysis, analyze_passes
from einsum_cascade.affine import Affine
from einsum_cascade.cascade import Node
from einsum_cascade.spread import spread
from einsum_cascade.tiles import Part, parts, tile_share, union
from einsum_cascade.views import Shown, asked, reads, view_of
from sim.mapping import IN_ARRAY, EinsumMapping, Loop, Mask, Number, Option, Phase, Residency, Tile
from sim.nest import Visits, product, visits

Accessed = Literal["all", "edges", "between", "room"]
"""Accesses at the edges of the arrays, those between memories with the room that these need, or
both; or this room alone."""


@dataclass(frozen=True)
class Use:
    """One Einsum of a phase reading or writing one tensor (a view stands for what it shows).

    `ranks` are those that move it. `windows` are the indices in which several ranks, or one with a
    stride, move together (`p+k`): neighbouring tiles overlap there. `fixed` are the indices that
    nothing moves. `asked`: a filter on data reads it, wherever the filters on coordinates leave
    points. An Einsum that reads a tensor in several ways has a `Use` for each (`nth`). Its filters
    on coordinates bound the ranks `cut`. What is `gathered` lies where a table of data says.
    """

    mapping: EinsumMapping
    tensor: str
    ranks: frozenset[str]
    writes: bool
    windows: tuple[Window, ...] = ()
    fixed: tuple[tuple[int, Affine], ...] = ()
    asked: bool = False
    nth: int = 0
    cut: frozenset[str] = frozenset()
    gathered: bool = False


@dataclass(frozen=True)
class Window:
    """An index of several ranks: its affine form, the tensor's extent there.

    `scattered`: a table of data points anywhere, so neighbours share nothing. `shifts`: what is
    read beside the index, at constant distances from it (`p+1` beside `p`). `entry`: what a
    computed table makes of the index.
    """

    index: Affine
    extent: Affine
    scattered: bool
    shifts: tuple[Affine, ...] = ()
    entry: Node | None = None

    @property
    def ranks(self) -> frozenset[str]:
        """The ranks that move the index."""
        return frozenset(v.upper() for v in self.index.variables)

    def words(
        self, sizes: Mapping[str, Number], shape: Mapping[str, Number], beyond: bool = False
    ) -> Number:
        """Distinct coordinates that `sizes` (coordinates of each rank) reach.

        With `beyond` those behind the end of the tensor count, as the last tile is padded, where
        the whole ranks reach nothing twice (a rank in parts).
        """
        count, span = self._reach(sizes, shape)
        distinct = count if self.scattered else np.minimum(count, span)
        inside = np.minimum(distinct, self.extent.evaluate(shape, {}))
        if not beyond or np.all(inside == count):
            return inside
        points, width = self._reach({rank: shape[rank] for rank in self.ranks}, shape)
        return np.where(points <= width, count, inside)

    def _reach(
        self, sizes: Mapping[str, Number], shape: Mapping[str, Number]
    ) -> tuple[Number, Number]:
        """How many values the index takes, each of its terms by itself, and from where to where."""
        count: Number = 1.0
        span: Number = 1.0
        for term in self.index.terms:
            if term.variable:
                size = sizes[term.variable.upper()]
                stride: Number = abs(term.coefficient)
                for symbol in term.symbols:
                    stride = stride * shape[symbol]
                count = count * size
                span = span + stride * (size - 1)
        if self.entry is not None:
            block = {rank.lower(): sizes[rank] for rank in self.ranks}
            span = 1.0 + spread(self.entry, block, shape)
        if self.shifts:
            shifts = [0, *(shift.evaluate(shape, {}) for shift in self.shifts)]
            count = count * len(shifts)
            span = span + reduce(np.maximum, shifts) - reduce(np.minimum, shifts)
        return count, span


def words_of(
    use: Use, loops: Sequence[Loop], shape: Mapping[str, Number], padded: bool = False
) -> Number:
    """Words of the tensor that the loops reach, an overlap of windows counted once.

    Those of a `padded` tile are what `true_share` is the share of.
    """
    words = product(loops, use.ranks.difference(*(w.ranks for w in use.windows)))
    for window in use.windows:
        sizes = {rank: product(loops, frozenset({rank})) for rank in window.ranks}
        words = words * window.words(sizes, shape, padded and _pads(use, window))
    return words


def _pads(use: Use, window: Window) -> bool:
    """Whether coordinates behind the end of the tensor count, before the true share is taken."""
    return not window.scattered and not window.ranks & use.cut


@dataclass
class Tally:
    """What the memories of a phase do: words by memory and by tensor, and the room they take.

    Words are those of the architecture: an element of a tensor may be more or less than one
    (`element_words`). `beats` are the words of each tensor that the outermost memory moves,
    with whether they are written and whether each beat stands by itself, at an address that says
    nothing about the next: what is gathered, or changed in place, read and written in turn.

    Mutable while it is being filled, and only then.
    """

    element_words: Mapping[str, Number] = field(default_factory=dict)
    in_place: frozenset[str] = frozenset()
    beats: dict[tuple[str, bool, bool], Number] = field(default_factory=dict)
    moved_words: dict[tuple[str, str, bool], Number] = field(default_factory=dict)
    footprint_words: dict[tuple[str, str, tuple[str, ...]], Number] = field(default_factory=dict)
    spill: dict[str, Number] = field(default_factory=dict)

    def move(
        self,
        memory: Memory,
        tensor: str,
        words: Number,
        writes: bool,
        when: Mask,
        single: bool = False,
    ) -> None:
        """Count `words` where `when` holds. Consecutive words of a line share its access."""
        if tensor in self.element_words:
            words = words * self.element_words[tensor]
        if when is not True:
            words = words * np.asarray(when, dtype=np.float64)
        key = (memory.name, tensor, writes)
        self.moved_words[key] = self.moved_words[key] + words if key in self.moved_words else words
        if memory.ports:
            beat = (tensor, writes, single or tensor in self.in_place)
            self.beats[beat] = self.beats.get(beat, 0.0) + words

    @cached_property
    def read_words(self) -> dict[str, Number]:
        """Words read from each memory."""
        return self._added(lambda memory, _, writes: None if writes else memory)

    @cached_property
    def write_words(self) -> dict[str, Number]:
        """Words written to each memory."""
        return self._added(lambda memory, _, writes: memory if writes else None)

    @cached_property
    def words_by_tensor(self) -> dict[tuple[str, str], Number]:
        """Words that each memory moves of each tensor."""
        return self._added(lambda memory, tensor, _: (memory, tensor))

    def _added(self, key: Callable[[str, str, bool], Any]) -> dict[Any, Number]:
        """Sums of what is moved: only here do the candidates of several tensors meet."""
        sums: dict[Any, Number] = {}
        for move, words in self.moved_words.items():
            name = key(*move)
            if name is not None:
                sums[name] = sums.get(name, 0.0) + words
        return sums

    def of(self, tensor: str) -> Tally:
        """The part of one tensor. The parts of all tensors add up to the whole."""
        return Tally(
            self.element_words,
            self.in_place,
            {key: words for key, words in self.beats.items() if key[0] == tensor},
            {key: words for key, words in self.moved_words.items() if key[1] == tensor},
            {key: words for key, words in self.footprint_words.items() if key[1] == tensor},
        )

    def footprint(self, memory: str) -> Number:
        """Words that the tiles in `memory` take together."""
        return sum((w for (m, *_), w in self.footprint_words.items() if m == memory), np.float64(0))


def shown_tensor(cascade: Cascade, tensor: str) -> str:
    """The tensor that a chain of views such as `BK[e,m1,m0] = K[e,m1*M0+m0]` shows."""
    view = view_of(cascade, tensor)
    return tensor if view is None else shown_tensor(cascade, view.operands[0].tensor)


def computing(cascade: Cascade) -> tuple[Einsum, ...]:
    """The Einsums that cost something: no views, no boundary values of iterations."""
    return tuple(e for e in cascade.einsums if not (e.is_view or e.is_constant))


@lru_cache(maxsize=64)
def analysis_of(cascade: Cascade) -> PassAnalysis:
    """The pass analysis of a cascade, made once."""
    return analyze_passes(cascade)


@lru_cache(maxsize=4096)
def generation_ranks(cascade: Cascade, tensor: str) -> frozenset[str]:
    """The iterative ranks along which a tensor is a running state: one generation is alive.

    Not so where a later pass reads the generations again: then all of them are kept.
    """
    state = set(iterated_ranks(cascade, tensor))
    for rank in tuple(state):
        for reader in cascade.consumers[tensor]:
            varies = any(
                rank.lower() in access.variables
                for access in reader.operands
                if access.tensor == tensor
            )
            made = [e.name for e in cascade.producers[tensor] if rank in e.ranks]
            if varies and not analysis_of(cascade).fusible([*made, reader.name], rank):
                state.discard(rank)
    return frozenset(state)


@lru_cache(maxsize=4096)
def iterated_ranks(cascade: Cascade, tensor: str) -> frozenset[str]:
    """The iterative ranks along which each coordinate of a tensor is made from the one before."""
    state = set()
    for einsum in cascade.producers[tensor]:
        for index in einsum.output.indices:
            ahead = index.variable is not None and not index.is_plain
            if ahead and cascade.ranks[str(index.variable).upper()].iterative:
                state.add(str(index.variable).upper())
    return frozenset(state)


def uses(cascade: Cascade, phase: Phase, tensor: str | None = None) -> Iterator[Use]:
    """Every (Einsum, tensor) of the phase, operands first, each way of reading a tensor once; or
    those of one `tensor`."""
    for mapping in phase.einsums:
        for touch in _touches(cascade, mapping.einsum):
            if tensor is None or touch["tensor"] == tensor:
                yield Use(mapping, **touch)


@lru_cache(maxsize=8192)
def _touches(cascade: Cascade, name: str) -> tuple[dict[str, Any], ...]:
    """What the uses of an Einsum are apart from the mapping."""
    einsum = cascade.einsum(name)
    groups: dict[str, list[list[Shown]]] = {}
    for read in reads(cascade, einsum):
        several = groups.setdefault(read.tensor, [])
        near = next((group for group in several if _is_near(cascade, group[0], read)), None)
        if near is None:
            several.append([read])
        else:
            near.append(read)
    filtering = asked(cascade, einsum)
    made = Shown(einsum.output.tensor, einsum.output.indices)
    cut = frozenset(v.upper() for c in einsum.filters for v in (c.left - c.right).variables)
    operands = [
        _touch(cascade, group)
        | {"cut": cut, "nth": nth, "asked": any(read in filtering for read in group)}
        for several in groups.values()
        for nth, group in enumerate(several)
    ]
    return (*operands, _touch(cascade, [made]) | {"cut": cut, "writes": True})


def _is_near(cascade: Cascade, one: Shown, other: Shown) -> bool:
    """Whether two ways of reading a tensor differ by constants along what moves them at most."""
    iterated = generation_ranks(cascade, one.tensor)
    for mine, theirs in zip(one.indices, other.indices, strict=True):
        moving = {v.upper() for i in (mine, theirs) for v in i.variables} - iterated
        apart = (theirs - mine).is_constant if moving else mine == theirs
        if not apart and (moving or not {v.upper() for v in mine.variables} <= iterated):
            return False
    return (one.scattered, one.entries) == (other.scattered, other.entries)


def _touch(cascade: Cascade, alike: Sequence[Shown]) -> dict[str, Any]:
    """One use for what differs by constants at most."""
    touched = alike[0]
    tensor = cascade.tensors[touched.tensor]
    iterated = generation_ranks(cascade, touched.tensor)
    windows = []
    fixed = []
    ranks: set[str] = set()
    for position, index in enumerate(touched.indices):
        moving = frozenset(v.upper() for v in index.variables) - iterated
        distances = dict.fromkeys(other.indices[position] - index for other in alike)
        shifts = tuple(distance for distance in distances if distance.terms) if moving else ()
        entry = dict(touched.entries).get(position)
        if (index.variable is None or shifts) and moving and not moving & ranks:
            extent = tensor.extents[position]
            windows.append(Window(index, extent, position in touched.scattered, shifts, entry))
        if not moving and tensor.ranks[position] not in iterated:
            fixed.append((position, index))
        ranks |= moving
    return {
        "tensor": touched.tensor,
        "ranks": frozenset(ranks),
        "writes": False,
        "windows": tuple(windows),
        "fixed": tuple(fixed),
        "gathered": bool(touched.scattered),
    }


def tally(
    cascade: Cascade,
    architecture: Architecture,
    shape: Mapping[str, Number],
    phase: Phase,
    tensor: str | None = None,
    what: Accessed = "all",
) -> Tally:
    """All accesses of a phase (or those of one `tensor`), in true words: what pads an incomplete
    tile is not moved. Of these, `what` crosses the edges of the arrays, or goes between the
    memories (with the room that is taken there, or without a word moved this `room` alone)."""
    replaced = {
        tensor: option.residency.in_place_of
        for tensor, options in phase.residency.items()
        for option in options
        if option.residency.in_place_of is not None
    }
    result = Tally(element_words(architecture, phase), frozenset({*replaced, *replaced.values()}))
    sharing: dict[tuple[object, ...], list[Use]] = {}
    touching = [(use, phase.residency[use.tensor]) for use in uses(cascade, phase, tensor)]
    for use, options in touching:
        for position, option in enumerate(options):
            for tile in _filled(use, option.residency):
                key = _once(use, tile, position)
                if key is not None:
                    sharing.setdefault(key, []).append(use)
    at_edges = what in ("all", "edges")
    for use, options in touching:
        if at_edges:
            near = array_side(cascade, use, shape)  # the array's side: the memory nearest to it
            words = near.words * near.count * true_share(shape, use)
        for position, option in _alike(use, options, sharing):
            residency = option.residency
            tiles = residency.of(use.mapping.einsum)
            if at_edges:
                nearest = architecture.memory(tiles[-1].memory if tiles else residency.home)
                _both_ways(result, nearest, use, words, near, option.when)
            if what != "edges":
                _hold(result, shape, use, option)
            if what in ("all", "between"):
                _refill(result, cascade, architecture, shape, use, option, position, sharing)
    for memory in architecture.memories[1:] if phase.spilled and what != "room" else ():
        _spill(result, architecture, cascade, shape, phase, memory.name, memory.size_bytes)
    return result


def _alike(
    use: Use, options: Sequence[Option], sharing: Mapping[tuple[object, ...], list[Use]]
) -> Iterator[tuple[int, Option]]:
    """The options in which a use needs a memory, those in which it does the same taken as one: the
    position of the first of them, and where any of them holds."""
    groups: dict[object, list[tuple[int, Option]]] = {}
    for position, option in enumerate(options):
        residency = option.residency
        if _is_direct(use, residency):
            continue
        once = [_once(use, tile, position) for tile in _filled(use, residency)]
        shared = tuple(tuple(map(id, sharing[key])) if key is not None else () for key in once)
        overwrites = residency.in_place_of is not None
        key = (residency.home, residency.of(use.mapping.einsum), overwrites, shared)
        groups.setdefault(key, []).append((position, option))
    for group in groups.values():
        position, first = group[0]
        when = reduce(np.logical_or, [option.when for _, option in group])
        yield position, first if len(group) == 1 else replace(first, when=when)


def element_words(architecture: Architecture, phase: Phase) -> dict[str, Number]:
    """Words that an element of a tensor takes, for those that are in a format of their own."""
    word_bits = 8 * np.asarray(architecture.word_bytes)
    return {t: architecture.format_bits[name] / word_bits for t, name in phase.formats.items()}


def _is_direct(use: Use, residency: Residency) -> bool:
    """Whether no memory has a part in it."""
    return residency.home == IN_ARRAY or (
        use.mapping.einsum in residency.handed_to and not use.writes
    )


def _filled(use: Use, residency: Residency) -> tuple[Tile, ...]:
    """The tiles that are filled from, or emptied to, the level outside of them."""
    tiles = residency.of(use.mapping.einsum)
    if _is_direct(use, residency):
        return ()
    return tiles[1:] if tiles and tiles[0].memory == residency.home else tiles


def _once(use: Use, tile: Tile, option: int) -> tuple[object, ...] | None:
    """What tells tiles apart that Einsums share; None for a tile of the Einsum's own."""
    position = use.mapping.position(tile.below)
    if position > use.mapping.shared:
        return None
    names = tuple(loop.name for loop in use.mapping.loops[:position])
    same = (use.writes, option, use.ranks, use.windows, use.fixed)
    return (use.tensor, tile.memory, names, tile.retain, *same)


def _hold(
    result: Tally,
    shape: Mapping[str, Number],
    use: Use,
    option: Option,
) -> None:
    """The room that tiles take: what several Einsums share, once."""
    residency = option.residency
    for tile in () if residency.in_place_of is not None else residency.of(use.mapping.einsum):
        position = use.mapping.position(tile.below)
        words = words_of(use, use.mapping.loops[position:], shape) * tile.copies
        words = words * result.element_words.get(use.tensor, 1.0)
        names = tuple(loop.name for loop in use.mapping.loops[:position])
        owner = () if position <= use.mapping.shared else (use.mapping.einsum,)
        other = (f"{use.mapping.einsum} {use.nth}",) if use.nth else ()
        key = (tile.memory, use.tensor, names + owner + other)
        words = words * np.asarray(option.when, dtype=np.float64)
        held = result.footprint_words.get(key)
        result.footprint_words[key] = words if held is None else np.maximum(held, words)


def _refill(
    result: Tally,
    cascade: Cascade,
    architecture: Architecture,
    shape: Mapping[str, Number],
    use: Use,
    option: Option,
    number: int,
    sharing: dict[tuple[object, ...], list[Use]],
) -> None:
    """Between the memories: each tile is filled from, or emptied to, the level outside of it."""
    residency = option.residency
    tiles = residency.of(use.mapping.einsum)
    outside = tiles[0].memory if tiles and tiles[0].memory == residency.home else residency.home
    for tile in _filled(use, residency):
        once = _once(use, tile, number)
        together = (use,) if once is None else tuple(sharing[once])
        if together[0] is use:  # what several Einsums share is moved with the first of them
            _transfer(result, cascade, architecture, shape, together, tile, outside, option.when)
        outside = tile.memory


def _transfer(
    result: Tally,
    cascade: Cascade,
    architecture: Architecture,
    shape: Mapping[str, Number],
    together: tuple[Use, ...],
    tile: Tile,
    outside: str,
    when: Mask,
) -> None:
    use = together[0]
    position = use.mapping.position(tile.below)
    moved = visited(cascade, use, shape, position, tile.retain, together[1:])
    words = moved.words * moved.count * true_share(shape, use)
    inner = architecture.memory(tile.memory)
    _both_ways(result, architecture.memory(outside), use, words, moved, when)
    result.move(inner, use.tensor, words, not use.writes, when)
    if use.writes and np.any(moved.accumulates):  # partial results that come back
        result.move(inner, use.tensor, np.where(moved.accumulates, words, 0.0), True, when)


def _both_ways(
    result: Tally,
    memory: Memory,
    use: Use,
    words: Number,
    moved: Visits,
    when: Mask,
) -> None:
    """Operands are read; results are written, and read too where they are accumulated."""
    result.move(memory, use.tensor, words, use.writes, when, use.gathered)
    if use.writes and np.any(moved.accumulates):
        again = np.where(moved.accumulates, words, 0.0)
        result.move(memory, use.tensor, again, False, when, use.gathered)


def array_side(cascade: Cascade, use: Use, shape: Mapping[str, Number]) -> Visits:
    """What crosses the edge of the array: one wavefront of distinct words for each change of it."""
    return visited(cascade, use, shape, len(use.mapping.temporal))


def visited(
    cascade: Cascade,
    use: Use,
    shape: Mapping[str, Number],
    position: int,
    retain: bool = True,
    others: Sequence[Use] = (),
) -> Visits:
    """How a tile kept inside the loops from `position` comes and goes.

    As `nest.visits` says, but only for the words that the Einsum's filters leave, or those of
    `others` that share the tile, and with what windows overlap counted once in a tile.
    """
    loops = use.mapping.loops
    found = visits(loops, use.ranks, position, retain)
    if use.mapping.stagger is not None:
        found = replace(found, count=found.count + _behind(use, shape, found, position))
    filtered = any(_is_filtered(cascade, each) for each in (use, *others))
    if not (use.windows or filtered):
        return found
    words = found.words if not use.windows else words_of(use, loops[position:], shape, True)
    overlapping = frozenset(r for w in use.windows if not w.scattered for r in w.ranks)
    moving = frozenset(rank.lower() for rank in use.ranks - overlapping)
    left = [_parts(cascade, each, shape, found, position, moving) for each in (use, *others)]
    share = union(left, moving) if all(left) else 1.0
    return replace(found, words=words, count=found.count * share, distinct=found.distinct * share)


def stagger_iterations(mapping: EinsumMapping, shape: Mapping[str, Number]) -> Number:
    """Iterations of the loop of its stagger that the last PEs of all are behind the first.

    PEs with a tile in the last wavefront are one iteration each behind the one before. (Edge-MoE,
    its published code, src/attention.cpp: rows of queries that wrap around the keys.)

    >>> nest = (Loop("P1", "P", 3.0), Loop("M", "M", 10.0), Loop("P0", "P", 4.0, spatial=True))
    >>> float(stagger_iterations(EinsumMapping("QK", "2d", nest, stagger="M"), {"P": 10, "M": 10}))
    1.0
    """
    if mapping.stagger is None or not mapping.spatial:
        return np.float64(0)
    first = mapping.spatial[0]
    last = np.mod(np.asarray(shape[first.rank], dtype=np.float64) - 1, first.extent)
    going = mapping.temporal[len(apart(mapping)) : mapping.position(mapping.stagger)]
    waves = product(going, frozenset({first.rank}))
    # with few iterations a wavefront, the last PE is not yet through its tile of the one before
    still = np.where(waves > 1, first.extent - 1 - product(going) / waves, 0.0)
    return np.maximum(last, still)


def apart(mapping: EinsumMapping) -> tuple[Loop, ...]:
    """The loops outside of those that staggered PEs go through: each iteration ends by itself.

    Beyond them is other data (keys of another sequence) that a PE which is behind has no use for.
    """
    if mapping.stagger is None or not mapping.spatial:
        return ()
    across = mapping.spatial[0].rank
    own = [loop.rank == across or loop.name == mapping.stagger for loop in mapping.temporal]
    return mapping.temporal[: own.index(True)]


def _behind(use: Use, shape: Mapping[str, Number], found: Visits, position: int) -> Number:
    """Tiles that come once more for PEs that are behind: of what all PEs of a wavefront read."""
    nest = use.mapping
    if nest.stagger is None or use.writes or position < nest.position(nest.stagger):
        return 0.0
    if not nest.spatial or nest.spatial[0].rank in use.ranks:
        return 0.0
    again: Number = 1.0
    for trips in (*found.trips[: len(apart(nest))], *found.trips[nest.position(nest.stagger) :]):
        again = again * trips
    return stagger_iterations(nest, shape) * again


def _is_filtered(cascade: Cascade, use: Use) -> bool:
    """Whether filters leave points out."""
    einsum = cascade.einsum(use.mapping.einsum)
    return bool(einsum.filters or einsum.data_filters)


def _parts(
    cascade: Cascade,
    use: Use,
    shape: Mapping[str, Number],
    found: Visits,
    position: int,
    moving: frozenset[str],
) -> tuple[Part, ...]:
    """What the filters of an Einsum leave of the words of its tiles."""
    if not _is_filtered(cascade, use):
        return ()
    einsum = cascade.einsum(use.mapping.einsum)
    loops = use.mapping.loops
    sizes = {}
    for rank in einsum.ranks:
        size = product(loops[position:], frozenset({rank}))
        for loop, trips in zip(loops, found.trips, strict=False):
            if loop.rank == rank:
                size = size * loop.extent / trips
        sizes[rank.lower()] = np.minimum(size, shape[rank])
    return parts(cascade, einsum, shape, sizes, moving, data=not use.asked)


def worked_share(
    cascade: Cascade, mapping: EinsumMapping, shape: Mapping[str, Number], depth: int
) -> Number:
    """The share of the iterations of the first `depth` loops in which the Einsum has a point."""
    einsum = cascade.einsum(mapping.einsum)
    if not einsum.filters and not einsum.data_filters:
        return 1.0
    inside = mapping.loops[depth:]
    sizes = {r.lower(): product(inside, frozenset({r})) for r in einsum.ranks}
    return tile_share(cascade, einsum, shape, sizes)


def true_share(shape: Mapping[str, Number], use: Use) -> Number:
    """Real words over words of the padded tiles, for the ranks of the tensor.

    A window may have most of its tiles cut away by filters: then what pads it counts.
    """
    share: Number = 1.0
    # in one order in every process: products of floats differ in their last digit by it
    for rank in sorted(use.ranks.difference(*(w.ranks for w in use.windows))):
        share = share * shape[rank] / product(use.mapping.loops, frozenset({rank}))
    for window in use.windows:
        if window.ranks & use.cut:
            continue
        padded = {rank: product(use.mapping.loops, frozenset({rank})) for rank in window.ranks}
        true = {rank: shape[rank] for rank in window.ranks}
        whole = window.words(padded, shape, beyond=_pads(use, window))
        share = share * window.words(true, shape) / whole
    return share


def _spill(
    result: Tally,
    architecture: Architecture,
    cascade: Cascade,
    shape: Mapping[str, Number],
    phase: Phase,
    memory: str,
    size_bytes: Number,
) -> None:
    """What does not fit goes to the outermost memory and comes back, where a mapping says so."""
    capacity = size_bytes / architecture.word_bytes
    footprint = result.footprint(memory)
    overflow = np.maximum(0.0, 1 - capacity / np.maximum(footprint, 1.0))
    result.spill[memory] = overflow
    if not np.any(overflow > 0):
        return
    outermost = architecture.memories[0]
    for use in uses(cascade, phase):
        when = phase.spilled.get((use.mapping.einsum, use.tensor), False)
        near = array_side(cascade, use, shape)
        words = overflow * near.words * near.count * true_share(shape, use)
        _both_ways(result, outermost, use, words, near, when)
