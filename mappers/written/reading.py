"""From a file to a mapping: its numbers at the points of a shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from archs import Architecture
from einsum_cascade import Cascade
from einsum_cascade.expression import Expression
from einsum_cascade.source import Document, InputError, Place, check, read_yaml
from mappers.roles import tiles
from mappers.written.schema import MappingSchema
from mappers.written.structure import Structure, Written
from sim import Mapping, Phase, PhaseChoice
from sim.form import check_form
from sim.mapping import Number


@dataclass(frozen=True)
class MappingFile:
    """A mapping as its file has it."""

    schema: MappingSchema
    document: Document

    def check_names(self, cascade: Cascade, architecture: Architecture) -> None:
        """Raise `InputError` for a name that stands for nothing."""
        structure = Structure(self.schema, self.document, cascade, architecture)
        known = {*architecture.parameters, *cascade.ranks, *cascade.parameters}
        for number in (*self._shape(cascade).values(), *_numbers(structure.phases)):
            for name in sorted(number.names - known):
                assert isinstance(number.value, Expression)
                message = f"unknown name {name!r} in {number.value.text!r}"
                raise InputError(message, number.place, allowed=sorted(known), found=name)

    def place(
        self, cascade: Cascade, architecture: Architecture, shape: MappingABC[str, Number]
    ) -> Mapping:
        """The mapping at the points of `shape`. Raises `InputError` for a point it is not for."""
        structure = Structure(self.schema, self.document, cascade, architecture)
        full = self._extents(cascade, architecture, shape)
        names = {**architecture.parameters, **full}
        placed = tuple(_resolved(phase, names) for phase in structure.phases)
        choices = tuple(PhaseChoice((phase,)) for phase in placed)
        note = self.schema.note or self.schema.name
        mapping = Mapping(structure.cascade, architecture, full, choices, note)
        for number, phase in enumerate(placed):
            try:
                check_form(mapping, phase)
            except ValueError as error:
                raise InputError(str(error), self.document.place("phases", number)) from None
        return mapping

    def _shape(self, cascade: Cascade) -> dict[str, Written]:
        found = {}
        known = (*cascade.ranks, *cascade.parameters)
        for name, value in self.schema.shape.items():
            place = self.document.place("shape", name)
            if name not in known:
                message = f"cascade {cascade.name!r} has no rank or parameter {name!r}"
                raise InputError(message, place, allowed=known, found=name)
            found[name] = Written(value, name, place)
        return found

    def _extents(
        self, cascade: Cascade, architecture: Architecture, shape: MappingABC[str, Number]
    ) -> dict[str, Number]:
        """All extents: tiles of the cascade's own as the file has them, their rank padded."""
        given = {name: np.asarray(value) for name, value in shape.items()}
        names = {**architecture.parameters, **given}
        for name, number in self._shape(cascade).items():
            wanted = number.at(names)
            own, here = np.broadcast_arrays(wanted, given.setdefault(name, wanted))
            if np.any(own != here):
                at = int(np.argmax(own != here))
                raise InputError(
                    f"the mapping is for {name} = {own.flat[at]:g}, and here it is "
                    f"{here.flat[at]:g}",
                    number.place,
                )
        for rank in cascade.ranks.values():
            _, *inner = rank.partition or ("",)
            if len(inner) == 1 and inner[0] in self.schema.shape and rank.name in given:
                padded = tiles(given[rank.name], given[inner[0]]) * given[inner[0]]
                alike = [r.name for r in cascade.ranks.values() if r.like == rank.name]
                given |= {name: padded for name in (rank.name, *alike) if name in given}
        return cascade.resolve_shape(given)


def load_mapping(path: str | Path, place: Place | None = None) -> MappingFile:
    """Read the file of a mapping. Raises `InputError` with the place of every mistake found;
    `place` is where the file is named."""
    if not Path(path).is_file():
        raise InputError(f"no mapping file {str(path)!r}", place)
    document = read_yaml(path)
    return MappingFile(check(MappingSchema, document), document)


def _numbers(phases: Iterable[Phase]) -> Iterator[Written]:
    for phase in phases:
        yield phase.stall_cycles
        yield from (loop.extent for nest in phase.einsums for loop in nest.loops)


def _resolved(phase: Phase, names: MappingABC[str, Any]) -> Phase:
    """The phase with its numbers."""
    known: dict[int, Number] = {}

    def at(number: Written) -> Number:
        if id(number) not in known:
            known[id(number)] = number.at(names)
        return known[id(number)]

    nests = tuple(
        replace(nest, loops=tuple(replace(loop, extent=at(loop.extent)) for loop in nest.loops))
        for nest in phase.einsums
    )
    stall = phase.stall_cycles.at(names, least=0.0, whole=False)
    return replace(phase, einsums=nests, stall_cycles=stall)


__all__ = ["MappingFile", "load_mapping"]
