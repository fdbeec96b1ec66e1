"""What the kernels of an FPGA template have in common: units by their names, formats, ports."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, replace

import numpy as np

from archs import Architecture, ComputeArray
from einsum_cascade import Access, Cascade, Einsum, InputError
from mappers.roles import tiles
from sim import IN_ARRAY, EinsumMapping, Loop, Option, Phase, Residency
from sim.accesses import uses
from sim.mapping import Number

WEIGHTS, ROWS = "weights", "rows"
"""The two memories on chip: for matrices of weights, and for rows of activations."""

ACTIVATION, WEIGHT, PIXEL = "activation", "weight", "pixel"
"""Number formats. An architecture that does not have one keeps such numbers as its words."""


@dataclass(frozen=True)
class Template:
    """An architecture whose arrays are the units of kernels, each called by what it computes."""

    architecture: Architecture
    mapper: str

    def __post_init__(self) -> None:
        have = [m.name for m in self.architecture.memories]
        for name in (WEIGHTS, ROWS):
            if name not in have[1:]:
                raise self._lacks("memory", name, have)

    def unit(self, name: str) -> ComputeArray:
        """The array of that name. Raises `InputError` when the architecture has none."""
        found = {array.name: array for array in self.architecture.arrays}
        if name not in found:
            raise self._lacks("array", name, list(found))
        return found[name]

    def _lacks(self, what: str, name: str, have: list[str]) -> InputError:
        return InputError(
            f"mapper {self.mapper!r} needs a template with {what} {name!r}: "
            f"{self.architecture.name!r} has {', '.join(have)}"
        )

    @property
    def outermost(self) -> str:
        """The memory in which all activations live between two kernels."""
        return self.architecture.memories[0].name

    def finished(
        self,
        cascade: Cascade,
        phase: Phase,
        formats: MappingABC[str, str],
        ahead: frozenset[str] = frozenset(),
    ) -> Phase:
        """The phase with the formats of its tensors and the ports by which they come and go.

        Tensors take the ports for their format in turn, each a port of its own while there are any;
        what is changed in place stays on its port. `ahead`: what comes before the kernel begins.
        """
        held = {use.tensor: None for use in uses(cascade, phase)}
        moving = [t for t in held if any(self._outside(o) for o in phase.residency[t])]
        named = {t: formats.get(t, ACTIVATION) for t in held}
        known = {t: name for t, name in named.items() if name in self.architecture.format_bits}
        all_ports = self.architecture.memories[0].ports
        assigned: dict[str, str] = {}
        turns: dict[frozenset[str], int] = {}
        old_of = {t: o.residency.in_place_of for t in moving for o in phase.residency[t]}
        for tensor in moving:
            form = formats.get(tensor, ACTIVATION)
            names = [p.name for p in all_ports if form in p.carries]
            names = names or [p.name for p in all_ports if not p.carries]
            if not all_ports:
                break
            if not names:
                raise InputError(
                    f"architecture {self.architecture.name!r} has no port for {tensor} of format "
                    f"{form!r}: all of its ports are for others"
                )
            if old_of.get(tensor) in assigned:
                assigned[tensor] = assigned[str(old_of[tensor])]
                continue
            turn = turns.get(frozenset(names), 0)
            turns[frozenset(names)] = turn + 1
            assigned[tensor] = names[turn % len(names)]
        return replace(phase, formats=known, ports=assigned, ahead=ahead)

    def beside(self, writer: EinsumMapping, reader: EinsumMapping) -> bool:
        """Whether a reader takes a value as it is made: in the same loop, or in a linked one."""
        if writer.array == reader.array:
            return [lp.name for lp in writer.loops] == [lp.name for lp in reader.loops]
        return (writer.array, reader.array) in self.architecture.links

    def _outside(self, option: Option) -> bool:
        return option.residency.home == self.outermost


def lanes(rank: str, extent: Number, width: Number) -> tuple[Loop, Loop]:
    """A rank over the lanes of a unit: a loop in time, and one over as many as there are.

    >>> [(loop.name, float(loop.extent)) for loop in lanes("D", 192, 8)]
    [('D1', 24.0), ('D0', 8.0)]
    """
    width = np.minimum(width, extent)
    return Loop(f"{rank}1", rank, tiles(extent, width)), Loop(f"{rank}0", rank, width, True)


def direct() -> tuple[Option, ...]:
    """The residency of what goes from one unit to the next as it is made."""
    return (Option(True, Residency(IN_ARRAY)),)


def factors(einsum: Einsum) -> list[Access]:
    """The operands of an Einsum but for the tables by which others are gathered."""
    tables = {a.tensor for o in einsum.operands for g in o.gathers for _, a in g.tables}
    return [access for access in einsum.operands if access.tensor not in tables]


def is_product(einsum: Einsum) -> bool:
    """Whether an Einsum sums the products of two tensors."""
    two = {access.tensor for access in factors(einsum) if access.variables}
    return einsum.operations == {"mac": 1} and len(two) == 2 and bool(einsum.reduction_ranks)
