"""The nouns of hardware. Every number may be an array: one entry a design point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np

Number = Any
"""A float, or a float array with one entry a design point."""


@dataclass(frozen=True)
class Port:
    """A way from the arrays into a memory, such as an AXI master: reads and writes side by side.

    A beat has `kernel_bits` at the arrays' side; `memory_bits` cross to the memory each cycle. A
    beat that is no part of a burst takes `single_beat_cycles`. A port that `carries` some number
    formats is for these alone, and they have no other; the rest goes through the other ports.
    """

    name: str
    kernel_bits: Number
    memory_bits: Number
    single_beat_cycles: Number
    carries: frozenset[str] = frozenset()

    def cycles(self, burst_bytes: Number, single_bytes: Number) -> Number:
        """Cycles to move bytes in bursts, and bytes in beats by themselves, in one direction."""
        beat = np.maximum(1.0, self.kernel_bits / self.memory_bits)
        alone = np.maximum(beat, self.single_beat_cycles)
        return 8 * (burst_bytes * beat + single_bytes * alone) / self.kernel_bits


@dataclass(frozen=True)
class Memory:
    """A level of the memory hierarchy.

    `access_words` is what one access moves (a DRAM burst, a buffer line) and the unit that the
    energies are given for. `size_bytes` is infinite for the outermost level. `ports` share the
    bandwidth; `latency_cycles` is one way there and back.
    """

    name: str
    size_bytes: Number
    bandwidth_bytes_per_s: Number
    access_words: Number
    read_energy_pj: Number
    write_energy_pj: Number
    area_um2: Number
    ports: tuple[Port, ...] = ()
    latency_cycles: Number = 0.0


@dataclass(frozen=True)
class Operation:
    """An operation of a processing element.

    `unit_cycles` is the time that each functional unit is occupied by one operation; `elementary`
    says of how many operations of a unit it is made.
    """

    name: str
    unit_cycles: Mapping[str, Number]
    energy_pj: Number
    elementary: Mapping[str, Number]

    @property
    def cycles(self) -> Number:
        """Cycles of one operation by itself."""
        return sum(self.unit_cycles.values())


@dataclass(frozen=True)
class PipelinedLoop:
    """A loop in hardware, as high-level synthesis makes it: all its operations at once.

    An iteration begins `interval_cycles` (the initiation interval) after the one before and ends
    `depth_cycles` after its own begin, whatever operations are in it.
    """

    interval_cycles: Number
    depth_cycles: Number


@dataclass(frozen=True)
class ComputeArray:
    """A 1D or 2D array of equal processing elements (PEs).

    A PE works on one operation after the other, or `loop` says that it is a pipelined loop.
    """

    name: str
    shape: tuple[Number, ...]
    operations: Mapping[str, Operation]
    register_words: Number
    register_energy_pj: Number
    pe_area_um2: Number
    loop: PipelinedLoop | None = None

    @property
    def pes(self) -> Number:
        """Number of processing elements."""
        count: Number = 1.0
        for extent in self.shape:
            count = count * extent
        return count

    @property
    def drain_cycles(self) -> Number:
        """Cycles for a result to leave the array: one hop a PE along its first dimension."""
        return self.shape[0]


@dataclass(frozen=True)
class Architecture:
    """An accelerator: memories outermost first, arrays, and which array feeds which directly.

    `format_bits` are the number formats other than words of `word_bytes`. `power_w` is drawn as
    long as anything runs. `resources` is what an FPGA design needs of each kind,
    `device_resources` what its `device` has.
    """

    name: str
    clock_hz: Number
    word_bytes: Number
    memories: tuple[Memory, ...]
    arrays: tuple[ComputeArray, ...]
    links: frozenset[tuple[str, str]]
    parameters: Mapping[str, Number]
    format_bits: Mapping[str, Number] = field(default_factory=dict)
    power_w: Number = 0.0
    resources: Mapping[str, Number] = field(default_factory=dict)
    device: str = ""
    device_resources: Mapping[str, Number] = field(default_factory=dict)

    def memory(self, name: str) -> Memory:
        """The memory level of that name; KeyError when there is none."""
        return {m.name: m for m in self.memories}[name]

    def array(self, name: str) -> ComputeArray:
        """The compute array of that name; KeyError when there is none."""
        return {a.name: a for a in self.arrays}[name]

    @property
    def area_um2(self) -> Number:
        """Area of all arrays and on-chip memories."""
        arrays = sum(a.pes * a.pe_area_um2 for a in self.arrays)
        memories = sum(m.area_um2 for m in self.memories if np.all(np.isfinite(m.size_bytes)))
        return arrays + memories

    def with_numbers(self, function: Callable[[Number], Number]) -> Architecture:
        """The same with `function` applied to every number (to add an axis for candidates, say)."""
        result: Architecture = _mapped(self, function)
        return result


def _mapped(value: Any, function: Callable[[Number], Number]) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        changes = {f.name: _mapped(getattr(value, f.name), function) for f in fields(value)}
        return replace(value, **changes)
    if isinstance(value, tuple):
        return tuple(_mapped(v, function) for v in value)
    if isinstance(value, Mapping):
        return {k: _mapped(v, function) for k, v in value.items()}
    if value is None or isinstance(value, (str, frozenset)):
        return value
    return function(value)
