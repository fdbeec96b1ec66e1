"""The nouns of hardware. Every number may be an array: one entry a design point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

Number = Any
"""A float, or a float array with one entry a design point."""


@dataclass(frozen=True)
class Memory:
    """A level of the memory hierarchy.

    `access_words` is what one access moves (a DRAM burst, a buffer line) and the unit that the
    energies are given for. `size_bytes` is infinite for the outermost level.
    """

    name: str
    size_bytes: Number
    bandwidth_bytes_per_s: Number
    access_words: Number
    read_energy_pj: Number
    write_energy_pj: Number
    area_um2: Number


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
class ComputeArray:
    """A 1D or 2D array of equal processing elements (PEs)."""

    name: str
    shape: tuple[Number, ...]
    operations: Mapping[str, Operation]
    register_words: Number
    register_energy_pj: Number
    pe_area_um2: Number

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
    """An accelerator: memories outermost first, arrays, and which array feeds which directly."""

    name: str
    clock_hz: Number
    word_bytes: Number
    memories: tuple[Memory, ...]
    arrays: tuple[ComputeArray, ...]
    links: frozenset[tuple[str, str]]
    parameters: Mapping[str, Number]

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
    if isinstance(value, (str, frozenset)):
        return value
    return function(value)
