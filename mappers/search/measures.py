"""What is added up over the parts of a phase, and what follows from the sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest

import numpy as np

from archs import Architecture, Port
from mappers.search.axes import plain
from mappers.search.fronts import Column
from mappers.search.problem import free_ports
from sim.mapping import Mask, Number
from sim.parts import EinsumPart, TensorPart


@dataclass(frozen=True)
class Measures:
    """Sums over Einsums and tensors, in this order along the first axis of an array: energy,
    traffic (where a column needs it), seconds of each memory that takes time, seconds in which each
    port of the outermost one reads and in which it writes, bytes in each memory on chip, words in
    each PE of an array, seconds of each array; and, where there are any (`fills`), seconds beyond
    all of these, in which a phase fills and drains. What is zero at the end may be left out.

    `memories` and `registers` say how much room there is. The bytes in all memories together are
    `buffer_bytes`.
    """

    columns: tuple[Column, ...]
    seconds: tuple[str, ...]
    memories: Mapping[str, float]
    registers: Mapping[str, float]
    power_w: float
    ports: tuple[Port, ...] = ()
    fills: bool = False

    @cached_property
    def rooms(self) -> tuple[str, ...]:
        """The memories whose room matters."""
        wanted = "buffer_bytes" in self.columns
        return tuple(k for k, size in self.memories.items() if np.isfinite(size) or wanted)

    @cached_property
    def _first(self) -> int:
        """Where the seconds begin."""
        return 2 if "traffic_bytes" in self.columns else 1

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.array([*(self.memories[name] for name in self.rooms), *self.registers.values()])

    @cached_property
    def _room(self) -> slice:
        """Where the room is: bytes, then words in PEs."""
        first = self._first + len(self.seconds) + 2 * len(self.ports)
        return slice(first, first + len(self._sizes))

    @property
    def count(self) -> int:
        """How many sums there are."""
        return int(self._room.stop) + len(self.registers) + self.fills

    def of(
        self,
        part: TensorPart,
        room_bytes: Mapping[str, Number],
        words: Mapping[str, Number] | None,
        refused: Sequence[Mask],
        ports: Mapping[str, Mask],
    ) -> np.ndarray:
        """The measures of a tensor along a first axis, given the room that it takes in memories and
        what each PE holds of it by array (None: no room at all), and where it comes and goes by
        which port; infinite where it is refused."""
        rows: list[Number] = [part.energy_pj]
        if self._first == 2:
            rows.append(part.traffic_bytes)
        seconds = part.seconds
        rows += [seconds[name] for name in self.seconds]
        for port in self.ports:
            by = ports.get(port.name, np.False_)
            rows += [np.where(by, way, 0.0) for way in part.port_seconds(port)]
        if words is not None:
            rows += [plain(room_bytes.get(name, 0.0)) for name in self.rooms]
            rows += [plain(words.get(name, 0.0)) for name in self.registers]
        return _filled(rows, refused)

    def of_einsum(self, part: EinsumPart, array: str) -> np.ndarray:
        """The measures of an Einsum on an array, likewise."""
        rows: list[Number] = [np.float64(0)] * self.count
        rows[0] = part.energy_pj
        rows[self._of(array)] = part.seconds
        return _filled(rows, part.refused)

    def of_loop(self, array: str, seconds: Number) -> np.ndarray:
        """The measures of what several Einsums have together: the time of a pipelined loop."""
        rows: list[Number] = [np.float64(0)] * self.count
        rows[self._of(array)] = seconds
        return _filled(rows, ())

    def _of(self, array: str) -> int:
        """Where the seconds of an array are."""
        return int(self._room.stop) + list(self.registers).index(array)

    def at_stake(self, values: np.ndarray) -> float:
        """How much of all the room these measures (choices by points) differ in, by the choice."""
        rooms = values[self._room]
        if not len(rooms):
            return 0.0
        most = np.where(np.isfinite(rooms), rooms, 0.0).max(axis=1, initial=0.0)
        least = rooms.min(axis=1, initial=np.inf)
        sizes = np.maximum(self._sizes, 1.0)[:, None]
        return float(np.clip((most - least) / sizes, 0.0, 1.0).mean())

    def fit(self, sums: np.ndarray) -> np.ndarray:
        """Where there is room for everything. `sums` are measures along the first axis."""
        fine = np.ones(sums.shape[1:], dtype=bool)
        for room, size in zip(sums[self._room], self._sizes, strict=False):
            fine &= room <= size
        return fine

    def costs(self, sums: np.ndarray) -> np.ndarray:
        """The columns of what has these sums (measures along the first of two axes). Shape:
        candidates by columns."""
        end = self._room.stop + len(self.registers)
        latency = sums[self._room.stop : end].max(axis=0)
        if self._room.start > self._first:
            latency = np.maximum(latency, sums[self._first : self._room.start].max(axis=0))
        if self.fills:
            latency = latency + sums[end]
        found = np.empty((len(self.columns), sums.shape[1]))
        for at, column in enumerate(self.columns):
            if column == "latency_s":
                found[at] = latency
            elif column == "energy_pj":
                found[at] = sums[0] + self.power_w * latency * 1e12 if self.power_w else sums[0]
            elif column == "traffic_bytes":
                found[at] = sums[1]
            else:
                found[at] = sums[self._room][: len(self.rooms)].sum(axis=0)
        return found.T


def _filled(rows: Sequence[Number], refused: Sequence[Mask]) -> np.ndarray:
    """Rows along a first axis; infinite where anything is refused."""
    every = [np.asarray(each) for each in (*rows, *refused)]
    lengths = zip_longest(*(each.shape[::-1] for each in every), fillvalue=1)
    shape = tuple(max(own) for own in lengths)[::-1]
    kept = tuple(length for length in shape if length > 1)  # for many axes NumPy has no broadcast
    found = np.empty((len(rows), *kept))
    for at, each in enumerate(every):
        own = (1,) * (len(shape) - each.ndim) + each.shape
        small = each.reshape([n for n, most in zip(own, shape, strict=True) if most > 1])
        if at < len(rows):
            found[at] = small
        else:
            np.copyto(found, np.inf, where=small)
    return found.reshape(len(rows), *shape)


def measures_of(architecture: Architecture, columns: tuple[Column, ...]) -> Measures:
    """The measures that some columns need."""
    inner = {m.name: float(m.size_bytes) for m in architecture.memories[1:]}
    timed = [m.name for m in architecture.memories if np.any(np.isfinite(m.bandwidth_bytes_per_s))]
    registers = {array.name: float(array.register_words) for array in architecture.arrays}
    outermost = architecture.memories[0]
    fills = any(a.loop is not None for a in architecture.arrays) or outermost.latency_cycles > 0
    return Measures(
        columns,
        tuple(timed),
        inner,
        registers,
        float(architecture.power_w),
        free_ports(architecture),
        bool(fills),
    )


__all__ = ["Measures", "measures_of"]
