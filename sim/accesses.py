"""Every access of every memory by every tensor, from the loop nests of a phase."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from archs import Architecture, Memory
from einsum_cascade import Cascade, Einsum, PassAnalysis, analyze_passes
from einsum_cascade.affine import Affine
from einsum_cascade.tiles import tile_share
from einsum_cascade.views import Shown, reads, view_of
from sim.mapping import IN_ARRAY, EinsumMapping, Loop, Mask, Number, Phase, Residency, Tile
from sim.nest import Visits, product, visits


@dataclass(frozen=True)
class Use:
    """One Einsum of a phase reading or writing one tensor (a view stands for what it shows).

    `ranks` are those that move it. `windows` are the indices in which several ranks, or one with a
    stride, move together (`p+k`): neighbouring tiles overlap there.
    """

    mapping: EinsumMapping
    tensor: str
    ranks: frozenset[str]
    writes: bool
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True)
class Window:
    """An index of several ranks: its affine form, the tensor's extent there.

    `scattered`: a table of data points anywhere, so neighbours share nothing.
    """

    index: Affine
    extent: Affine
    scattered: bool

    @property
    def ranks(self) -> frozenset[str]:
        """The ranks that move the index."""
        return frozenset(v.upper() for v in self.index.variables)

    def words(self, sizes: Mapping[str, Number], shape: Mapping[str, Number]) -> Number:
        """Distinct coordinates that `sizes` (coordinates of each rank) reach."""
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
        if not self.scattered:
            count = np.minimum(count, span)
        return np.minimum(count, self.extent.evaluate(shape, {}))


def words_of(use: Use, loops: Sequence[Loop], shape: Mapping[str, Number]) -> Number:
    """Words of the tensor that the loops reach, an overlap of windows counted once."""
    words = product(loops, use.ranks.difference(*(w.ranks for w in use.windows)))
    for window in use.windows:
        sizes = {rank: product(loops, frozenset({rank})) for rank in window.ranks}
        words = words * window.words(sizes, shape)
    return words


@dataclass
class Tally:
    """What the memories of a phase do: words by memory and by tensor, and the room they take.

    Mutable while it is being filled, and only then.
    """

    read_words: dict[str, Number] = field(default_factory=dict)
    write_words: dict[str, Number] = field(default_factory=dict)
    words_by_tensor: dict[tuple[str, str], Number] = field(default_factory=dict)
    footprint_words: dict[tuple[str, str, tuple[str, ...]], Number] = field(default_factory=dict)
    spill: dict[str, Number] = field(default_factory=dict)

    def move(self, memory: Memory, tensor: str, words: Number, writes: bool, when: Mask) -> None:
        """Count `words` where `when` holds. Consecutive words of a line share its access."""
        words = np.where(when, words, 0.0)
        moved = self.write_words if writes else self.read_words
        moved[memory.name] = moved.get(memory.name, 0.0) + words
        key = (memory.name, tensor)
        self.words_by_tensor[key] = self.words_by_tensor.get(key, 0.0) + words

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


def uses(cascade: Cascade, phase: Phase) -> Iterator[Use]:
    """Every (Einsum, tensor) of the phase, operands first, each tensor once an Einsum."""
    for mapping in phase.einsums:
        for touch in _touches(cascade, mapping.einsum):
            yield Use(mapping, touch.tensor, touch.ranks, touch.writes, touch.windows)


@dataclass(frozen=True)
class _Touch:
    """What a `Use` is apart from the mapping."""

    tensor: str
    ranks: frozenset[str]
    writes: bool
    windows: tuple[Window, ...] = ()


@lru_cache(maxsize=8192)
def _touches(cascade: Cascade, name: str) -> tuple[_Touch, ...]:
    einsum = cascade.einsum(name)
    operands: dict[str, _Touch] = {}
    for read in reads(cascade, einsum):
        touch = _touch(cascade, read, writes=False)
        other = operands.get(read.tensor)
        if other is not None and other != touch:  # read in two ways: all that either reaches
            touch = _Touch(read.tensor, touch.ranks | other.ranks, writes=False)
        operands[read.tensor] = touch
    made = Shown(einsum.output.tensor, einsum.output.indices)
    return (*operands.values(), _touch(cascade, made, writes=True))


def _touch(cascade: Cascade, touched: Shown, writes: bool) -> _Touch:
    tensor = cascade.tensors[touched.tensor]
    iterated = generation_ranks(cascade, touched.tensor)
    windows = []
    ranks: set[str] = set()
    for position, index in enumerate(touched.indices):
        moving = frozenset(v.upper() for v in index.variables) - iterated
        if moving and index.variable is None and not moving & ranks:
            extent = tensor.extents[position]
            windows.append(Window(index, extent, position in touched.scattered))
        ranks |= moving
    return _Touch(touched.tensor, frozenset(ranks), writes, tuple(windows))


def tally(
    cascade: Cascade, architecture: Architecture, shape: Mapping[str, Number], phase: Phase
) -> Tally:
    """All accesses of a phase, in true words: what pads an incomplete tile is not moved."""
    result = Tally()
    fetched: set[tuple[object, ...]] = set()
    for use in uses(cascade, phase):
        for position, option in enumerate(phase.residency[use.tensor]):
            _count(
                result,
                cascade,
                architecture,
                shape,
                use,
                option.residency,
                option.when,
                fetched,
                position,
            )
    for memory in architecture.memories[1:]:
        _spill(result, architecture, cascade, shape, phase, memory.name, memory.size_bytes)
    return result


def _count(
    result: Tally,
    cascade: Cascade,
    architecture: Architecture,
    shape: Mapping[str, Number],
    use: Use,
    residency: Residency,
    when: Mask,
    fetched: set[tuple[object, ...]],
    option: int,
) -> None:
    einsum = use.mapping.einsum
    if residency.home == IN_ARRAY or (einsum in residency.handed_to and not use.writes):
        return
    tiles = residency.of(einsum)
    for tile in tiles:
        position = use.mapping.position(tile.below)
        if residency.in_place_of is None:
            words = words_of(use, use.mapping.loops[position:], shape) * tile.copies
            names = tuple(loop.name for loop in use.mapping.loops[:position])
            owner = () if position <= use.mapping.shared else (use.mapping.einsum,)
            key = (tile.memory, use.tensor, names + owner)
            held = result.footprint_words.get(key, np.float64(0))
            result.footprint_words[key] = np.where(when, np.maximum(held, words), held)
    # the array's side: the memory nearest to the arrays
    nearest = tiles[-1].memory if tiles else residency.home
    near = array_side(cascade, use, shape)
    words = near.words * near.count * _true_share(shape, use)
    _both_ways(result, architecture.memory(nearest), use, words, near, when)
    # between the memories: each tile is filled from, or emptied to, the level outside of it
    chain = tiles[1:] if tiles and tiles[0].memory == residency.home else tiles
    outside = residency.home
    for tile in chain:
        position = use.mapping.position(tile.below)
        names = tuple(loop.name for loop in use.mapping.loops[:position])
        once = (use.tensor, tile.memory, names, use.writes, option, use.ranks, use.windows)
        common = position <= use.mapping.shared
        if not (common and once in fetched):
            if common:
                fetched.add(once)
            _transfer(result, cascade, architecture, shape, use, tile, outside, when)
        outside = tile.memory


def _transfer(
    result: Tally,
    cascade: Cascade,
    architecture: Architecture,
    shape: Mapping[str, Number],
    use: Use,
    tile: Tile,
    outside: str,
    when: Mask,
) -> None:
    moved = visited(cascade, use, shape, use.mapping.position(tile.below), tile.retain)
    words = moved.words * moved.count * _true_share(shape, use)
    inner = architecture.memory(tile.memory)
    _both_ways(result, architecture.memory(outside), use, words, moved, when)
    result.move(inner, use.tensor, words, not use.writes, when)
    if use.writes:  # partial results that come back
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
    result.move(memory, use.tensor, words, use.writes, when)
    if use.writes:
        result.move(memory, use.tensor, np.where(moved.accumulates, words, 0.0), False, when)


def array_side(cascade: Cascade, use: Use, shape: Mapping[str, Number]) -> Visits:
    """What crosses the edge of the array: one wavefront of distinct words for each change of it."""
    return visited(cascade, use, shape, len(use.mapping.temporal))


def visited(
    cascade: Cascade,
    use: Use,
    shape: Mapping[str, Number],
    position: int,
    retain: bool = True,
) -> Visits:
    """How a tile kept inside the loops from `position` comes and goes.

    As `nest.visits` says, but only for the tiles that the Einsum's filters leave, and with what
    windows overlap counted once in a tile.
    """
    loops = use.mapping.loops
    found = visits(loops, use.ranks, position, retain)
    share = worked_share(cascade, use.mapping, shape, found.depth)
    words = found.words if not use.windows else words_of(use, loops[position:], shape)
    return replace(found, words=words, count=found.count * share, distinct=found.distinct * share)


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


def _true_share(shape: Mapping[str, Number], use: Use) -> Number:
    """Real words over words of the padded tiles, for the ranks of the tensor."""
    share: Number = 1.0
    for rank in use.ranks.difference(*(w.ranks for w in use.windows)):
        share = share * shape[rank] / product(use.mapping.loops, frozenset({rank}))
    for window in use.windows:
        padded = {rank: product(use.mapping.loops, frozenset({rank})) for rank in window.ranks}
        true = {rank: shape[rank] for rank in window.ranks}
        share = share * window.words(true, shape) / window.words(padded, shape)
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
    if not phase.spilled or not np.any(overflow > 0):
        return
    outermost = architecture.memories[0]
    for use in uses(cascade, phase):
        when = phase.spilled.get((use.mapping.einsum, use.tensor), False)
        near = array_side(cascade, use, shape)
        words = overflow * near.words * near.count * _true_share(shape, use)
        _both_ways(result, outermost, use, words, near, when)
