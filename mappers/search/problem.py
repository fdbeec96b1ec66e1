"""What is searched: a cascade on an architecture for one shape, and what follows from these."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import numpy as np

from archs import Architecture, ComputeArray, Port
from einsum_cascade import Cascade, Einsum, InputError
from einsum_cascade.dependencies import dependencies
from einsum_cascade.shapes import points_in
from mappers.factors import divisors
from mappers.grouping import in_order
from mappers.roles import padded_shape, states, supports
from mappers.search.sizes import Tiles
from sim import Mapping
from sim.accesses import Tally, Use, analysis_of, uses
from sim.energy import energy_terms
from sim.legality import exchanges_along, nest_objections
from sim.mapping import EinsumMapping, Number, Phase
from sim.schedule import point_cycles

Value = TypeVar("Value")

STRUCTURES = 2048
"""Up to how many structures of a cascade Einsums that are alike are bound apart, if not said."""

_MOST_IN_PES = 16
"""An inner part of a rank is at most so many sides of an array long."""


@dataclass(frozen=True, eq=False)
class Problem:
    """One design point. Extents that the search chooses (tiles that the cascade itself makes of a
    rank) are arrays of one dimension, all others numbers."""

    cascade: Cascade
    architecture: Architecture
    shape: MappingABC[str, Number]
    parts: tuple[int, ...]
    tiles: Tiles
    longest: MappingABC[str, float]
    copies: frozenset[str]
    structures: int

    @property
    def on(self) -> Mapping:
        """The point without phases."""
        return Mapping(self.cascade, self.architecture, self.shape, ())

    def at(self, part: int) -> Problem:
        """With one choice of the extents."""
        shape = {k: v[part] if np.ndim(v) else v for k, v in self.shape.items()}
        return replace(self, shape=shape)

    @cached_property
    def order(self) -> tuple[Einsum, ...]:
        """The Einsums that cost something, in the order of their dependencies."""
        return tuple(in_order(self.cascade))

    @cached_property
    def sides(self) -> tuple[int, ...]:
        """The extents of the arrays."""
        return tuple(sorted({int(s) for a in self.architecture.arrays for s in a.shape}))

    @cached_property
    def ports(self) -> tuple[str, ...]:
        """The ports by which any tensor may come and go."""
        return tuple(port.name for port in free_ports(self.architecture))

    def turns(self, number: int) -> int:
        """Between how many ports the tensor of this number (in the order of a phase) may choose:
        where all are alike, those that the tensors before it may take, and one more."""
        return min(number + 1, len(self.ports)) if self._alike else len(self.ports)

    @cached_property
    def _alike(self) -> bool:
        """Whether all of these ports are."""
        every = [replace(port, name="") for port in free_ports(self.architecture)]
        return all(port == every[0] for port in every)

    @cached_property
    def tiled(self) -> tuple[str, ...]:
        """The ranks that may be taken in tiles, in the cascade's order."""
        every = {rank for einsum in self.order for rank in einsum.ranks}
        ranks = self.cascade.ranks.values()
        return tuple(r.name for r in ranks if r.name in every and not r.iterative)

    def typical(self, rank: str) -> float:
        """An extent, where it is chosen the largest."""
        return self.longest[rank]

    @cached_property
    def together(self) -> frozenset[int]:
        """Positions in the order before which a phase need not end: inside of an iteration whose
        steps exchange values; between a copy that is made again (`copies`) and its reader. There,
        to keep what the copy is of would take as much, and save making it again."""
        names = [e.name for e in self.order]
        found: set[int] = set()
        running = states(self.cascade)
        for dependency in dependencies(self.cascade):
            tensor = dependency.access.tensor
            ends = (dependency.producer.name, dependency.consumer.name)
            if any(name not in names for name in ends):
                continue
            if tensor in self.copies:
                first, last = sorted(map(names.index, ends))
                found |= set(range(first + 1, last + 1))
            if tensor not in running:
                continue
            generations = {
                r
                for r in self.cascade.iterative_ranks
                if r.lower() in dependency.access.variables and r in dependency.producer.ranks
            }
            if generations:
                first, last = sorted(map(names.index, ends))
                found |= set(range(first + 1, last + 1))
        return frozenset(found)

    def is_long(self, rank: str) -> bool:
        """Whether a rank has more than one coordinate."""
        return self.typical(rank) > 1

    @cached_property
    def runs(self) -> int:
        """How many runs of Einsums can be a phase."""
        ends = len(self.order) + 1 - len(self.together)
        return ends * (ends - 1) // 2

    @cached_property
    def _extents(self) -> dict[str, Number]:
        return {k: np.asarray(v, dtype=np.float64) for k, v in self.shape.items()}

    @cached_property
    def _known(self) -> dict[object, Any]:
        return {}

    def once(self, key: object, make: Callable[[], Value]) -> Value:
        """What is made of a problem, made once for each key."""
        if key not in self._known:
            self._known[key] = make()
        found: Value = self._known[key]
        return found

    def work(
        self, einsum: str, array: str, spatial: tuple[str, ...] | None
    ) -> tuple[Number, Number]:
        """Seconds that an array needs for an Einsum at least, spread over ranks (None: over
        anything), and the energy of its operations: NaN where it lacks one."""

        def make() -> tuple[Number, Number]:
            where = self.architecture.array(array)
            points = points_in(self.cascade, self.cascade.einsum(einsum), self._extents)
            nest = EinsumMapping(einsum, array, (), issue="pipelined")
            cycles = points * point_cycles(self.cascade, where, nest)
            used = where.pes
            if spatial is not None:
                used = np.float64(1)
                for rank, side in zip(spatial, where.shape, strict=False):
                    used = used * np.minimum(side, self._extents[rank])
            terms = energy_terms(
                self.cascade, self.architecture, {einsum: points}, Phase("", (nest,), {}),
                Tally(), "full",
            )  # fmt: skip
            like = np.broadcast_shapes(np.shape(cycles), np.shape(used))
            seconds = np.broadcast_to(cycles / used / self.architecture.clock_hz, like)
            return seconds, np.broadcast_to(sum(terms.values()), like)

        return self.once(("work", einsum, array, spatial), make)

    def moved(self, run: tuple[int, int]) -> tuple[Number, Number]:
        """Words that a phase of a run of Einsums reads and writes outside at least.

        Nothing where it is hard to tell: under filters, gathers and windows.
        """
        return self.once(("moved", run), lambda: self._count_moved(self.order[run[0] : run[1]]))

    def _count_moved(self, einsums: tuple[Einsum, ...]) -> tuple[Number, Number]:
        cascade = self.cascade
        here = {e.name for e in einsums}
        inputs: set[tuple[str, frozenset[str]]] = set()
        outputs: set[tuple[str, frozenset[str]]] = set()
        for einsum in einsums:
            for use in touched(cascade, einsum.name):
                simple = is_simple(einsum, use)
                made = any(e.name in here for e in cascade.producers[use.tensor])
                if use.writes and simple:
                    elsewhere = any(
                        other.tensor == use.tensor
                        for e in self.order
                        if e.name not in here
                        for other in touched(cascade, e.name)
                    )
                    if elsewhere or cascade.tensors[use.tensor].role == "output":
                        outputs.add((use.tensor, use.ranks))
                elif not use.writes and not made and simple:
                    inputs.add((use.tensor, use.ranks))
        return self._words(inputs), self._words(outputs)

    def _words(self, found: set[tuple[str, frozenset[str]]]) -> Number:
        total: dict[str, Number] = {}
        for tensor, ranks in found:
            total[tensor] = np.maximum(total.get(tensor, 0.0), self.words(ranks))
        return sum(total.values(), np.float64(0))

    def words(self, ranks: Iterable[str]) -> Number:
        """Coordinates of some ranks together."""
        size: Number = np.float64(1)
        for rank in ranks:
            size = size * self._extents[rank]
        return size

    def arrays_for(self, einsum: Einsum) -> list[ComputeArray]:
        """The arrays that can compute an Einsum; all where none can, and the simulator says why."""

        def make() -> list[ComputeArray]:
            every = list(self.architecture.arrays)
            return [a for a in every if supports(a, einsum)] or every

        return self.once(("arrays", einsum.name), make)

    def unsupported(self) -> str | None:
        """What the simulator says of the first Einsum that no array can compute."""
        for einsum in self.order:
            said = []
            for array in self.architecture.arrays:
                nest = EinsumMapping(einsum.name, array.name, ())
                if supports(array, einsum):
                    break
                objections = nest_objections(self.cascade, self.architecture, self.shape, nest)
                said.append(next(objections).text.format())
            else:
                return "; ".join(said)
        return None

    @cached_property
    def readers(self) -> MappingABC[str, frozenset[str]]:
        """The Einsums that read each tensor, directly or through views."""
        found: dict[str, set[str]] = {}
        for einsum in self.order:
            for use in touched(self.cascade, einsum.name):
                if not use.writes:
                    found.setdefault(use.tensor, set()).add(einsum.name)
        return {tensor: frozenset(names) for tensor, names in found.items()}


def problem(
    cascade: Cascade,
    architecture: Architecture,
    shape: MappingABC[str, Any],
    tiles: Tiles,
    copies: frozenset[str] = frozenset(),
    structures: int = STRUCTURES,
) -> Problem:
    """The problem of one design point.

    Raises `InputError` where all ports are kept for number formats: the search has words alone.
    """
    if architecture.memories[0].ports and not free_ports(architecture):
        raise InputError(
            f"mapper 'search' needs a port of {architecture.memories[0].name!r} that carries any "
            f"tensor, and all those of {architecture.name!r} are kept for some (`carries`)"
        )
    sides = sorted({int(s) for a in architecture.arrays for s in a.shape})
    given = {k: int(v) for k, v in shape.items()}
    chosen = _chosen_parts(cascade, given)
    if not chosen:
        full = {k: np.float64(v) for k, v in cascade.resolve_shape(given).items()}
        return Problem(cascade, architecture, full, (), tiles, _longest(full), copies, structures)
    whole = max(given[rank] for rank in chosen)
    candidates = set(divisors(whole)) | {s * 2**k for s in sides for k in range(5)}
    fitting = min(whole, _MOST_IN_PES * sides[-1])
    lengths = sorted(c for c in candidates if c <= fitting) or [whole]
    full = padded_shape(cascade, given, np.array(lengths, dtype=np.float64))
    columns = {k: np.broadcast_to(np.asarray(v, float), (len(lengths),)) for k, v in full.items()}
    table = np.stack(list(columns.values()), axis=-1)
    _, first = np.unique(table, axis=0, return_index=True)
    first = np.sort(first)
    extents: dict[str, Number] = {}
    for name, values in columns.items():
        extents[name] = values[first] if len(set(values[first])) > 1 else np.float64(values[0])
    parts = tuple(lengths[i] for i in first)
    most = _longest(extents)
    return Problem(cascade, architecture, extents, parts, tiles, most, copies, structures)


def free_ports(architecture: Architecture) -> tuple[Port, ...]:
    """The ports of the outermost memory that are kept for no number format."""
    return tuple(port for port in architecture.memories[0].ports if not port.carries)


def _longest(shape: MappingABC[str, Number]) -> dict[str, float]:
    return {rank: float(np.max(extent)) for rank, extent in shape.items()}


def _chosen_parts(cascade: Cascade, given: MappingABC[str, int]) -> list[str]:
    """Ranks that the cascade takes in tiles whose size nothing gives."""
    found = []
    known = given.keys() | cascade.defaults.keys()
    for rank in cascade.ranks.values():
        held = any(rank.name in tensor.ranks for tensor in cascade.tensors.values())
        if len(rank.partition) != 2 or rank.name not in given or not held:
            continue
        outer, inner = rank.partition
        if not ({outer, inner} & known or cascade.ranks[inner].like in known):
            found.append(rank.name)
    return found


@lru_cache(maxsize=4096)
def touched(cascade: Cascade, einsum: str) -> tuple[Use, ...]:
    """What an Einsum reads and writes; the mapping in it is empty."""
    return tuple(uses(cascade, Phase("", (EinsumMapping(einsum, "", ()),), {})))


@lru_cache(maxsize=4096)
def common_ranks(cascade: Cascade, einsums: tuple[str, ...]) -> tuple[str, ...]:
    """Ranks over which Einsums can share a loop, in the order of the first one's."""
    analysis = analysis_of(cascade)
    every = [cascade.einsum(name) for name in einsums]
    steps = {r for e in every for r in e.ranks if cascade.ranks[r].iterative}
    found = []
    for rank in every[0].ranks:
        if not all(rank in e.ranks for e in every) or not analysis.fusible(einsums, rank):
            continue
        inside = steps - {rank}
        shared = all(all(r in e.ranks for e in every) for r in inside)
        if not shared and any(exchanges_along(cascade, t, rank) for t in inside):
            continue
        found.append(rank)
    return tuple(found)


def is_simple(einsum: Einsum, use: Use) -> bool:
    """Whether an Einsum touches all words of a tensor's ranks: no filter, gather or window."""
    return not (use.windows or use.fixed or einsum.filters or einsum.data_filters)


def is_product(einsum: Einsum) -> bool:
    """Whether an Einsum sums products."""
    return "mac" in einsum.operations


__all__ = [
    "Problem",
    "common_ranks",
    "free_ports",
    "is_product",
    "is_simple",
    "problem",
    "touched",
]
