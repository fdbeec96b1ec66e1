"""From a phase to its streams: which tiles there are, how long each takes, what each waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import ceil, prod

import numpy as np

from einsum_cascade import Einsum
from einsum_cascade.affine import Affine
from einsum_cascade.dependencies import dependencies
from einsum_cascade.views import reads, shown
from sim.accesses import (
    Tally,
    Use,
    element_words,
    iterated_ranks,
    tally,
    true_share,
    uses,
    words_of,
    worked_share,
)
from sim.folds import folds_of
from sim.mapping import IN_ARRAY, EinsumMapping, Phase, Tile
from sim.mapping import Mapping as MappingOf
from sim.registers import in_place
from sim.schedule import einsum_cycles
from sim.timeline.between import Between
from sim.timeline.rooms import Rooms, rooms
from sim.timeline.spaces import Space, chunks, private
from sim.timeline.streams import Need, Stream, Streams
from sim.timeline.ways import lanes_in_step, place_of, way_cycles


class Builder:
    """Collects the streams of one phase of a single design point."""

    def __init__(self, mapping: MappingOf, phase: Phase, ports: bool) -> None:
        self.mapping, self.phase = mapping, phase
        self.cascade, self.architecture = mapping.cascade, mapping.architecture
        self.nests = {m.einsum: m for m in phase.einsums}
        self.uses = list(uses(self.cascade, phase))
        self.home = {t: options[0].residency for t, options in phase.residency.items()}
        self.overwritten = {} if phase.interleaved else in_place(self.cascade, phase)
        self.element_words = element_words(self.architecture, phase)
        self.tally = tally(self.cascade, self.architecture, mapping.shape, phase)
        self.places = {
            m.einsum: place_of(self.cascade, self.architecture, m) for m in phase.einsums
        }
        self.streams: list[Stream] = []
        self.compute: dict[str, int] = {}
        self.spine = self._spine()
        self.ports = ports
        self.port_names = tuple(
            m.name for m in self.architecture.memories if np.isfinite(m.bandwidth_bytes_per_s)
        )

    # ---- spaces ---------------------------------------------------------------------------------

    def _spine(self) -> Space:
        """The loops that most Einsums share, or all the tiles of a single Einsum."""
        longest = max(self.phase.einsums, key=lambda m: m.shared)
        if len(self.phase.einsums) == 1:
            return Space(longest.loops, self._own_depth(longest))
        return Space(longest.loops, longest.shared)

    def _own_depth(self, m: EinsumMapping) -> int:
        """For an Einsum by itself: down to the loop whose iterations bring or take tiles."""
        depth = 0
        for use in self.uses:
            residency = self.home[use.tensor]
            if residency.home == IN_ARRAY:
                continue
            for tile in residency.of(m.einsum):
                depth = max(depth, tile_depth(use, tile))
        return depth

    def space(self, m: EinsumMapping) -> Space:
        """The tasks of an Einsum: iterations of the spine, or as close to these as it comes.

        Beside the loops that it shares with the spine, those of its own over the spine's ranks.
        """
        common = 0
        for mine, spine in zip(m.loops[: m.shared], self.spine.levels, strict=False):
            if mine.name != spine.name:
                break
            common += 1
        if len(self.phase.einsums) == 1:
            return Space(m.loops, self.spine.depth)
        deeper = {v.rank for v in self.spine.levels[common:]}
        depth = common
        for loop in m.loops[common:]:
            if loop.spatial or loop.rank not in deeper:
                break
            depth += 1
        return Space(m.loops, depth)

    def is_full(self, space: Space) -> bool:
        """Whether tasks follow all the loops of the spine."""
        return [v.name for v in space.levels] == [v.name for v in self.spine.levels]

    # ---- compute --------------------------------------------------------------------------------

    def computes(self) -> None:
        """One stream for each Einsum, with what it needs of the others."""
        phase = self.phase
        for m in phase.einsums:
            space = self.space(m)
            cycles = float(
                einsum_cycles(self.cascade, self.architecture, self.mapping.shape, m, phase)
            )
            points = prod(int(loop.extent) for loop in private(space))
            self.compute[m.einsum] = self._add(
                Stream(m.einsum, "compute", m.array, space, cycles / space.count, points, m.einsum)
            )
        self.in_step = lanes_in_step(self.places, self._passed())
        for name in self.compute:
            for producer, limits, plain in self._sources(name):
                self._value(name, producer, limits, plain)

    def _add(self, stream: Stream) -> int:
        self.streams.append(stream)
        return len(self.streams) - 1

    def _sources(self, name: str) -> Iterator[tuple[Einsum, Limits, bool]]:
        """What makes the operands: producer, the coordinates needed, and whether of this tile."""
        einsum = self.cascade.einsum(name)
        for found in dependencies(self.cascade):
            if found.consumer.name != name:
                continue
            seen = shown(self.cascade, found.access)
            producers = (
                [found.producer]
                if not found.producer.is_view
                else [p for p in self.cascade.producers[seen.tensor] if not p.is_view]
            )
            for producer in producers:
                if producer.name in self.nests:
                    limits = self._limits(producer, einsum, seen.indices)
                    yield producer, limits, found.distance == 0
        for table in reads(self.cascade, einsum):  # tables of data on the way
            for producer in self.cascade.producers[table.tensor]:
                direct = {a.tensor for a in einsum.operands}
                if producer.name in self.nests and table.tensor not in direct:
                    yield producer, self._limits(producer, einsum, table.indices), True

    def _limits(self, producer: Einsum, consumer: Einsum, indices: tuple[Affine, ...]) -> Limits:
        """For ranks of the producer: the affine coordinate that the consumer wants at most."""
        wanted: Limits = {}
        made = producer.output.indices
        if len(made) != len(indices):
            return wanted
        for written, read in zip(made, indices, strict=True):
            if written.variable is None or not read.variables:
                continue
            if any(t.coefficient < 0 for t in read.terms if t.variable):
                continue
            if not {v.upper() for v in read.variables} <= set(consumer.ranks):
                continue
            shift = Affine.of_number(written.offset)
            wanted[str(written.variable).upper()] = read - shift
        return wanted

    def _value(self, name: str, producer: Einsum, limits: Limits, plain: bool) -> None:
        reader, writer = self.compute[name], self.compute[producer.name]
        mine, theirs = self.streams[reader].space, self.streams[writer].space
        count = self._counter(mine, theirs, limits)
        ranks = frozenset(limits)
        parts = 1
        if plain and all(limit.is_plain for limit in limits.values()):
            same = all(str(limit.variable).upper() == rank for rank, limit in limits.items())
            parts = chunks(theirs, mine, ranks) if same and not self._gathered(name) else 1
        latency = self.latency(producer.name, name)
        between = self._between(producer, theirs, mine, limits, name)
        tensor = producer.output.tensor
        need = Need(writer, count, parts, latency, 1, "value", tensor, between)
        self.streams[reader].needs.append(need)

    def _between(
        self, producer: Einsum, made: Space, taken: Space, limits: Limits, reader: str
    ) -> Between | None:
        """Word by word, when both go over whole words one by one."""
        nests = (self.nests[producer.name], self.nests[reader])
        if self._gathered(reader) or any(m.folds == "serialized" for m in nests):
            return None
        ranks: list[tuple[str, str | None, int]] = []
        for index in producer.output.indices:
            rank = str(index.variable).upper()
            if rank not in made.whole:
                return None
            wanted = limits.get(rank)
            if wanted is not None and wanted.variable is None:
                return None
            known = wanted is not None and str(wanted.variable).upper() in taken.whole
            named = str(wanted.variable).upper() if wanted is not None and known else None
            ranks.append((rank, named, wanted.offset if wanted is not None and known else 0))
        extents = {rank: int(self.mapping.shape[rank]) for rank, _, _ in ranks}
        return Between(made, taken, tuple(ranks), extents)

    def _gathered(self, name: str) -> bool:
        """Whether the order of what is read depends on data."""
        return any(access.gathers for access in self.cascade.einsum(name).operands)

    def _counter(self, mine: Space, theirs: Space, limits: Limits) -> Counter:
        """How many of the producer's tasks a task needs."""
        shape = {k: int(v) for k, v in self.mapping.shape.items()}
        same = [(v.name, v.rank, v.extent) for v in mine.levels] == [
            (v.name, v.rank, v.extent) for v in theirs.levels
        ]
        plain = {r for r, a in limits.items() if a.is_plain and str(a.variable).upper() == r}
        loose = {v.rank for v in theirs.levels if v.extent == 1} - limits.keys()
        if same and all(v.rank in plain | loose for v in theirs.levels):
            return lambda task: task + 1

        def count(task: int) -> int:
            high = mine.last(mine.digits(task))
            low = {rank.lower(): value for rank, value in high.items()}
            wanted = {r: int(a.evaluate(shape, low)) for r, a in limits.items()}
            return theirs.latest(wanted) + 1

        return count

    def latency(self, producer: str, consumer: str) -> float:
        """Cycles from the end of work in the array to where the consumer can use the value."""
        if self._one_step(producer, consumer):
            return 0.0
        w, r = self.places[producer], self.places[consumer]
        way = float(way_cycles(self.cascade, w, r, producer, consumer, self.in_step))
        return self._after_end(producer, way)

    def _after_end(self, producer: str, way: float) -> float:
        """The part of the way that is left when a task ends: a serialized fold counts its end."""
        nest = self.nests[producer]
        if nest.folds == "pipelined":
            return way
        folds = folds_of(self.cascade, self.architecture, self.mapping.shape, nest, self.phase)
        return max(0.0, way - float(folds.skew_cycles))

    def _passed(self) -> Iterator[tuple[str, str]]:
        """Einsums of the phase and those whose results they read."""
        for name in self.compute:
            for producer, _, _ in self._sources(name):
                yield producer.name, name

    def _one_step(self, producer: str, consumer: str) -> bool:
        return any(producer in step and consumer in step for step in self.phase.steps)

    # ---- rooms ----------------------------------------------------------------------------------

    def rooms(self) -> Rooms:
        """How many tiles of each tensor there is room for."""
        spaces = {name: self.streams[i].space for name, i in self.compute.items()}
        return rooms(self, spaces)

    def room_needs(self, room: Rooms) -> None:
        """A tile is overwritten when all that read it are done with it."""
        for tensor, copies in room.copies.items():
            writers = [n for n in self.compute if self.cascade.einsum(n).output.tensor == tensor]
            for writer in writers:
                for maker, reader, limits in self.readers(room.sharing.get(tensor, (tensor,))):
                    if reader != writer:
                        way = self.latency(maker, reader)
                        self._room(writer, reader, limits, copies, room.depth[tensor], way)

    def readers(self, tensors: tuple[str, ...]) -> Iterator[tuple[str, str, Limits]]:
        """Einsums of the phase that read a tile in the epoch in which another makes it."""
        for tensor in tensors:
            for name in self.compute:
                for producer, limits, plain in self._sources(name):
                    if producer.output.tensor != tensor or not plain or name == producer.name:
                        continue
                    behind = iterated_ranks(self.cascade, tensor) - {*self._spun(name)}
                    if not behind:  # else it reads the last generation, when all are through
                        yield producer.name, name, limits

    def _room(
        self, writer: str, reader: str, limits: Limits, copies: int, depth: int, way: float
    ) -> None:
        w, r = self.streams[self.compute[writer]], self.streams[self.compute[reader]]
        tiles = prod(v.extent for v in w.space.levels[:depth])
        back = copies * (w.space.count // tiles)
        ranks = {rank for rank, a in limits.items() if a.is_plain}
        parts = chunks(r.space, w.space, frozenset(ranks))
        one_to_one = w.space.count == r.space.count and self.is_full(w.space)

        def count(task: int) -> int:
            old = task - back
            if old < 0:
                return 0
            if one_to_one and self.is_full(r.space):
                return old + 1
            high = w.space.last(w.space.digits(old))
            return r.space.latest({rank: high[rank] for rank in ranks if rank in high}) + 1

        same = [(rank, rank, 0) for rank in ranks if rank in r.space.whole]
        plain = len(same) == len(limits) == len(self.cascade.einsum(writer).output.indices)
        pipelined = all(self.nests[e].folds == "pipelined" for e in (writer, reader))
        between = None
        if plain and pipelined and all(str(limits[k].variable).upper() == k for k, _, _ in same):
            extents = {rank: int(self.mapping.shape[rank]) for rank, _, _ in same}
            between = Between(r.space, w.space, tuple(same), extents)
        index = self.compute[reader]
        w.needs.append(Need(index, count, parts, -way, 1, "room", w.name, between, back))

    def _spun(self, name: str) -> set[str]:
        """The ranks that an Einsum loops over."""
        return {loop.rank for loop in self.nests[name].loops}

    # ---- memory ports ---------------------------------------------------------------------------

    def transfers(self, room: Rooms) -> None:
        """Loads and stores of every memory with a bandwidth."""
        busy = {array: 0.0 for array in {s.unit for s in self.streams}}
        for stream in self.streams:
            busy[stream.unit] += stream.cycles * stream.count / max(self.spine.count, 1)
        self.period = max(1.0, *busy.values())
        outermost = self.architecture.memories[0].name
        fetched: dict[tuple[object, ...], int] = {}
        for use in self.uses:
            residency = self.home[use.tensor]
            if outermost not in self.port_names or residency.home != outermost:
                continue
            if use.mapping.einsum in residency.handed_to and not use.writes:
                continue
            tiles = residency.of(use.mapping.einsum)
            tile = tiles[0] if tiles else None
            if use.writes:
                self._store(use, tile, room)
            else:
                self._load(use, tile, room, fetched)
        self._spills(outermost)
        for memory in self.port_names:
            if memory != outermost:
                self._inner_port(memory)

    def _cycles(self, memory: str, words: float) -> float:
        bandwidth = self.architecture.memory(memory).bandwidth_bytes_per_s
        seconds = words * self.architecture.word_bytes / bandwidth
        return float(seconds * self.architecture.clock_hz)

    def _slices(self, cycles: float) -> int:
        """Into how many parts a transfer is cut, so that none holds up others for an epoch."""
        return int(min(max(ceil(cycles / self.period), 1), SLICES))

    def _moved(self, use: Use, tile: Tile | None) -> tuple[int, float]:
        """Loops whose iterations move a tile, and the words of one move (padding not moved)."""
        m, shape = use.mapping, self.mapping.shape
        temporal = len(m.temporal)
        position = temporal if tile is None else m.position(tile.below)
        depth = position if tile is not None and not tile.retain else moving(use, position)
        words = float(words_of(use, m.loops[position:], shape, padded=True))
        words *= float(self.element_words.get(use.tensor, 1.0))
        share = float(worked_share(self.cascade, m, shape, depth))
        return depth, words * share * float(true_share(shape, use))

    def _load(
        self, use: Use, tile: Tile | None, room: Rooms, fetched: dict[tuple[object, ...], int]
    ) -> None:
        m, memory = use.mapping, self.architecture.memories[0].name
        depth, words = self._moved(use, tile)
        reader = self.compute[m.einsum]
        space = self.streams[reader].space
        position = None if tile is None else m.position(tile.below)
        names = () if position is None else tuple(lp.name for lp in m.loops[:position])
        key = (use.tensor, None if tile is None else tile.memory, names, use.ranks)
        common = position is not None and position <= m.shared
        if common and key in fetched:
            self._loaded(reader, fetched[key], depth, use.tensor, room.loads.get(use.tensor, 1))
            return
        name = f"load {use.tensor}"
        if depth > space.depth or (tile is None and depth == space.depth):  # as the array asks
            inside = prod(int(lp.extent) for lp in m.loops[space.depth : depth])
            cycles = self._cycles(memory, words * inside)
            slices = min(self._slices(cycles), max(inside, 1))
            cycles /= slices
            points = max(inside // slices, 1)
            index = self._add(
                Stream(name, "load", memory, space, cycles, points, m.einsum, slices=slices)
            )
            parts = self.streams[reader].points if slices == 1 else 1
            self.streams[reader].needs.append(
                Need(index, lambda task: (task + 1) * slices, parts, 0.0, slices, "value", name)
            )
            self.streams[index].needs.append(
                Need(reader, lambda piece: piece // slices - 1, 1, 0.0, 1, "room", use.tensor)
            )
        else:
            cycles = self._cycles(memory, words)
            slices = self._slices(cycles)
            tiles = Space(m.loops, depth)
            index = self._add(
                Stream(name, "load", memory, tiles, cycles / slices, 1, m.einsum, slices=slices)
            )
            copies = STREAMED if tile is None else room.loads.get(use.tensor, 1)
            self._loaded(reader, index, depth, use.tensor, copies)
        if common:
            fetched[key] = index
        self._written_before(use, index)

    def _loaded(self, reader: int, load: int, depth: int, tensor: str, copies: int) -> None:
        """A task waits for its tile, and the tile for room."""
        space = self.streams[reader].space
        inner = prod(v.extent for v in space.levels[depth:])
        slices = self.streams[load].slices

        def loaded(task: int) -> int:
            return (task // inner + 1) * slices

        def freed(piece: int) -> int:
            return (piece // slices - copies + 1) * inner

        value = Need(load, loaded, 1, 0.0, 1, "value", f"load {tensor}")
        self.streams[reader].needs.append(value)
        self.streams[load].needs.append(Need(reader, freed, 1, 0.0, 1, "room", tensor))

    def _written_before(self, use: Use, load: int) -> None:
        """What this phase itself wrote to the memory is read back when it is there."""
        name = use.mapping.einsum
        for producer, limits, _ in self._sources(name):
            if producer.output.tensor == use.tensor:
                theirs = self.streams[self.compute[producer.name]].space
                tiles = self._counter(self.streams[load].space, theirs, limits)
                slices = self.streams[load].slices

                def count(piece: int, tiles: Counter = tiles, slices: int = slices) -> int:
                    return tiles(piece // slices)

                writer = self.compute[producer.name]
                need = Need(writer, count, 1, 0.0, 1, "value", producer.name)
                self.streams[load].needs.append(need)

    def _store(self, use: Use, tile: Tile | None, room: Rooms) -> None:
        m, memory = use.mapping, self.architecture.memories[0].name
        depth, words = self._moved(use, tile)
        writer = self.compute[m.einsum]
        space = self.streams[writer].space
        name = f"store {use.tensor}"
        latency = 0.0
        if len(self.architecture.array(m.array).shape) > 1:
            drain = float(self.architecture.array(m.array).drain_cycles)
            latency = self._after_end(m.einsum, drain)
        if depth > space.depth or (tile is None and depth == space.depth):
            inside = prod(int(lp.extent) for lp in m.loops[space.depth : depth])
            cycles = self._cycles(memory, words * inside)
            index = self._add(Stream(name, "store", memory, space, cycles, 1, m.einsum))
            self.streams[index].points = parts = self.streams[writer].points
            need = Need(writer, lambda task: task + 1, parts, latency, 1, "value", m.einsum)
            self.streams[index].needs.append(need)
            back = Need(index, lambda task: task - 1, 1, 0.0, 1, "room", use.tensor)
            self.streams[writer].needs.append(back)
        else:
            inner = prod(v.extent for v in space.levels[depth:])
            cycles = self._cycles(memory, words)
            index = self._add(Stream(name, "store", memory, Space(m.loops, depth), cycles, 1))
            self.streams[index].einsum = m.einsum
            need = Need(writer, lambda v: (v + 1) * inner, 1, latency, 1, "value", m.einsum)
            self.streams[index].needs.append(need)
            copies = STREAMED if tile is None else room.loads.get(use.tensor, 1)
            back = Need(
                index, lambda task: task // inner - copies + 1, 1, 0.0, 1, "room", use.tensor
            )
            self.streams[writer].needs.append(back)
        if _accumulates(use, depth):  # partial results come back at every visit
            again = replace(self.streams[index], name=f"load {use.tensor}", kind="load", needs=[])
            back_in = self._add(again)
            inner = max(1, space.count // again.space.count)
            self.streams[writer].needs.append(
                Need(back_in, lambda task: task // inner + 1, 1, 0.0, 1, "value", again.name)
            )
            self.streams[back_in].needs.append(
                Need(writer, lambda tile: (tile - 1) * inner, 1, 0.0, 1, "room", use.tensor)
            )

    def _spills(self, outermost: str) -> None:
        """What overflows goes out and comes back with every access that the mapping names."""
        if not self.phase.spilled:
            return
        without = tally(
            self.cascade, self.architecture, self.mapping.shape, replace(self.phase, spilled={})
        )
        for (einsum, tensor), when in self.phase.spilled.items():
            if not when:
                continue
            one = replace(self.phase, spilled={(einsum, tensor): True})
            found = tally(self.cascade, self.architecture, self.mapping.shape, one)
            self._beside(outermost, einsum, tensor, without, found)

    def _beside(self, memory: str, einsum: str, tensor: str, base: Tally, found: Tally) -> None:
        """Traffic that goes along with an Einsum's tasks: what `found` has more than `base`."""
        compute = self.compute[einsum]
        stream = self.streams[compute]
        read = float(found.read_words.get(memory, 0.0) - base.read_words.get(memory, 0.0))
        write = float(found.write_words.get(memory, 0.0) - base.write_words.get(memory, 0.0))
        kinds = (("load", read), ("store", write))
        for kind, words in kinds:
            if words <= 0:
                continue
            cycles = self._cycles(memory, words / stream.count)
            moved = Stream(f"{kind} {tensor}", "load", memory, stream.space, cycles, stream.points)
            moved.kind = "load" if kind == "load" else "store"
            moved.einsum = einsum
            index = self._add(moved)
            if kind == "load":
                need = Need(index, lambda t: t + 1, stream.points, 0.0, 1, "value", moved.name)
                stream.needs.append(need)
                back = Need(compute, lambda t: t - STAGED + 1, 1, 0.0, 1, "room", tensor)
                moved.needs.append(back)
            else:
                moved.needs.append(
                    Need(compute, lambda t: t + 1, stream.points, 0.0, 1, "value", einsum)
                )
                room = Need(index, lambda t: t - STAGED + 1, 1, 0.0, 1, "room", tensor)
                stream.needs.append(room)

    def _inner_port(self, memory: str) -> None:
        """A memory on chip with a bandwidth: what each Einsum's tiles make it move."""
        done: list[EinsumMapping] = []
        base = Tally()
        for m in self.phase.einsums:
            done.append(m)
            part = replace(self.phase, einsums=tuple(done), spilled={})
            found = tally(self.cascade, self.architecture, self.mapping.shape, part)
            self._beside(memory, m.einsum, memory, base, found)
            base = found


SLICES = 64
"""Parts into which a long transfer is cut at most."""

STREAMED = 2
"""Parts of a tensor without a tile on chip that are on their way: one moves, one is in use."""

STAGED = 4
"""Tasks whose spilled parts are on their way from or to the outermost memory at the same time."""

Counter = Callable[[int], int]

Limits = dict[str, Affine]
"""Ranks of a producer, and the coordinate of each that a consumer wants at most."""


def moving(use: Use, position: int) -> int:
    """The loops up to the innermost one, outside of `position`, that changes the tile."""
    for at in range(position, 0, -1):
        loop = use.mapping.loops[at - 1]
        if loop.rank in use.ranks and loop.extent > 1:
            return at
    return 0


def tile_depth(use: Use, tile: Tile) -> int:
    """The number of loops whose iterations bring a new tile, or take one away."""
    position = use.mapping.position(tile.below)
    return moving(use, position) if tile.retain else position


def _accumulates(use: Use, depth: int) -> bool:
    """Whether a tile of results leaves before it is complete."""
    return any(loop.rank not in use.ranks and loop.extent > 1 for loop in use.mapping.loops[:depth])


def streams_of(mapping: MappingOf, phase: Phase, ports: bool = True) -> tuple[Builder, Streams]:
    """The streams of a phase of a single design point, without an order yet."""
    builder = Builder(mapping, phase, ports)
    builder.computes()
    room = builder.rooms()
    builder.room_needs(room)
    if ports:
        builder.transfers(room)
    arrays = tuple(dict.fromkeys(m.array for m in phase.einsums))
    used = tuple(p for p in builder.port_names if any(s.unit == p for s in builder.streams))
    found = Streams(phase.name, builder.spine, tuple(builder.streams), arrays, used)
    return builder, found


__all__ = ["Builder", "streams_of"]
