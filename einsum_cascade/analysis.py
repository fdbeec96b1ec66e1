"""The analysis of a cascade: passes, footprints, operations, traffic.

All of it follows from the dependencies; nothing here knows a cascade by name. Numbers come from a
shape, as Python ints or as float64 arrays of many design points; without a shape the same formulas
give sympy closed forms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, reduce
from typing import Any

import numpy as np

from einsum_cascade.bounds import Reload, reload_bound, reloads
from einsum_cascade.cascade import Cascade, Einsum, Shape
from einsum_cascade.dependencies import Dependency, dependencies
from einsum_cascade.filters import maximum, minimum
from einsum_cascade.passes import (
    PassStep,
    RankAnalysis,
    aliases,
    analyze_rank,
    carries,
    explain,
    family,
)
from einsum_cascade.reached import reached
from einsum_cascade.shapes import numbers, points_in, size_in, symbols
from einsum_cascade.views import Shown, reads


def analyze_passes(cascade: Cascade) -> PassAnalysis:
    """Analyze `cascade`; each answer is worked out when it is first asked for.

    >>> from einsum_cascade import parse_cascade
    >>> analysis = analyze_passes(parse_cascade('''
    ... name: pedagogical
    ... ranks: [K]
    ... inputs: ["A[k]", "B[k]"]
    ... body: ["Y = A[k]*B[k]", "Z = Y*A[k]"]
    ... '''))
    >>> analysis.passes("K"), analysis.passes("K", "B"), analysis.level("Z", "K")
    (2, 1, 2)
    >>> print(analysis.chain("K")[1])
    pass 2 over K: Z
      forced by Y, complete only after pass 1 (Y -> Z)
    """
    return PassAnalysis(cascade)


@dataclass(frozen=True, eq=False)
class PassAnalysis:
    """Passes, footprints, operation counts and traffic of one cascade."""

    cascade: Cascade
    _ranks: dict[str, RankAnalysis] = field(default_factory=dict, repr=False)
    _families: dict[tuple[str, str], RankAnalysis] = field(default_factory=dict, repr=False)

    @cached_property
    def _edges(self) -> tuple[Dependency, ...]:
        return tuple(dependencies(self.cascade))

    def _on(self, rank: str) -> RankAnalysis:
        if rank not in self._ranks:
            self.cascade.rank(rank)
            self._ranks[rank] = analyze_rank(self.cascade, self._edges, rank)
        return self._ranks[rank]

    def _of(self, rank: str, tensor: str) -> RankAnalysis:
        """The analysis of `rank` that counts traversals of the tensor's family only."""
        if (rank, tensor) not in self._families:
            self.cascade.rank(rank)
            self.cascade.tensor(tensor)
            along = aliases(self.cascade, rank)
            members = family(self.cascade, tensor, along)
            self._families[rank, tensor] = analyze_rank(self.cascade, self._edges, rank, members)
        return self._families[rank, tensor]

    def _has(self, tensor: str, rank: str) -> bool:
        """Whether the tensor has the rank, or is read along it (under a rank like its own)."""
        along = aliases(self.cascade, rank)
        return any(r in along for r in self.cascade.tensor(tensor).ranks) or any(
            a.tensor == tensor and carries(a, along)
            for e in self.cascade.consumers[tensor]
            for a in e.operands
        )

    # Passes

    def level(self, einsum: str, rank: str) -> int:
        """Level of an Einsum on a rank, from 1; 0 when it does not iterate over the rank.

        Two Einsums can be fused on the rank only if their levels are equal.
        """
        self.cascade.einsum(einsum)
        return self._on(rank).levels[einsum]

    def fusible(self, einsums: Iterable[str], rank: str) -> bool:
        """Whether the Einsums can share one loop over `rank`: no barrier lies between any two, and
        none needs, at one coordinate, what another one makes at a different coordinate.

        Exact, where equal levels are merely enough: an Einsum of level 1 that nothing of level 2
        waits for can run in the second pass as well. Those that do not iterate over the rank are
        passed over.
        """
        return self._fusible(tuple(einsums), rank)

    @lru_cache(maxsize=8192)  # noqa: B019  (analyses are made once and kept)
    def _fusible(self, einsums: tuple[str, ...], rank: str) -> bool:
        analysis = self._on(rank)
        names = [self.cascade.einsum(name).name for name in einsums]
        names = [name for name in names if analysis.levels[name]]
        if any(analysis.behind[name].intersection(names) for name in names):
            return False
        sharing = [name for name in names if rank in self.cascade.einsum(name).ranks]
        return not any(analysis.separate[name].intersection(sharing) for name in sharing)

    def waits(self, einsums: Iterable[str], rank: str) -> bool:
        """Whether one of the Einsums needs the whole traversal of another one behind it."""
        analysis, names = self._on(rank), tuple(einsums)
        return any(analysis.behind[name].intersection(names) for name in names)

    def in_order(self, einsums: Iterable[str]) -> tuple[str, ...]:
        """The Einsums in the order of their dependencies."""
        names = {self.cascade.einsum(name).name for name in einsums}
        return tuple(e.name for e in self.cascade.order if e.name in names)

    def completed(self, einsum: str, rank: str) -> int:
        """How many traversals of the rank must be complete before (a step of) the Einsum."""
        self.cascade.einsum(einsum)
        return self._on(rank).completed[einsum]

    def passes(self, rank: str, tensor: str | None = None) -> int:
        """Passes over `rank` that the tensor's family needs; of all tensors, the most.

        0 for a tensor that is not read along the rank.
        """
        if tensor is None:
            self.cascade.rank(rank)
            return max((self.passes(rank, t) for t in self.cascade.tensors), default=0)
        if not self._has(tensor, rank):
            self.cascade.rank(rank)
            return 0
        return max(self._of(rank, tensor).levels.values(), default=0)

    def chain(self, rank: str, tensor: str | None = None) -> tuple[PassStep, ...]:
        """The passes over `rank` and what forces each; without a tensor, of the one with most."""
        if tensor is None:
            most = self.passes(rank)
            tensor = next((t for t in self.cascade.tensors if self.passes(rank, t) == most), None)
        if tensor is None or not self._has(tensor, rank):
            return ()
        return explain(self.cascade, self._of(rank, tensor))

    # Footprints

    def live_ranks(self, tensor: str) -> tuple[str, ...]:
        """Ranks of which a whole fiber of `tensor` must be kept, or moved again.

        Those along which the Einsums that touch it cannot all run in one pass, in any schedule with
        the fewest passes. Parts stand for a partitioned rank; the inner parts are live with the
        outer one, unless every barrier of the outer one keeps them.
        """
        if tensor not in self._live:
            ranks = self.cascade.tensor(tensor).ranks
            leaves = [leaf for rank in ranks for leaf in self.cascade.leaves(rank)]
            live = {leaf for leaf in leaves if self._is_live(tensor, leaf)}
            for outer in tuple(live):
                inner = set(self.cascade.inner_to(outer)).intersection(leaves)
                live |= {rank for rank in inner if not self._barriers_keep(outer, rank)}
            self._live[tensor] = tuple(leaf for leaf in leaves if leaf in live)
        return self._live[tensor]

    def _is_live(self, tensor: str, rank: str) -> bool:
        analysis = self._on(rank)
        touching = [
            e.name
            for e, read in self._readers(tensor)
            if any(a.tensor == read and carries(a, analysis.along) for a in e.operands)
        ]
        touching += [
            e.name for e in self.cascade.producers[tensor] if carries(e.output, analysis.along)
        ]
        return any(
            analysis.apart(one, other)
            for position, one in enumerate(touching)
            for other in touching[:position]
            if analysis.levels[one] and analysis.levels[other]
        )

    def _barriers_keep(self, outer: str, inner: str) -> bool:
        """Whether whatever completes a traversal of `outer` does so for each `inner` coordinate."""
        along = aliases(self.cascade, outer)
        within = aliases(self.cascade, inner)
        completing = [e for e in self.cascade.einsums if any(r in along for r in e.reduction_ranks)]
        return bool(completing) and all(carries(e.output, within) for e in completing)

    @cached_property
    def _live(self) -> dict[str, tuple[str, ...]]:
        return {}

    def _readers(self, tensor: str) -> list[tuple[Einsum, str]]:
        """Einsums that read the tensor, or a view of it, with the name that they read."""
        found = []
        for einsum in self.cascade.consumers[tensor]:
            if einsum.is_view:
                found += self._readers(einsum.output.tensor)
            else:
                found.append((einsum, tensor))
        return found

    def footprint(self, tensor: str) -> Any:
        """Minimum live footprint in words, a sympy closed form.

        The words of the tensor that any schedule must keep at once (or spill): its extent along
        each rank on which it is live across a pass, 1 along the others (FuseMax, section III).
        """
        return self._footprint(tensor, symbols(self.cascade))

    def footprint_words(self, tensor: str, shape: Shape) -> Any:
        """`footprint` for a shape."""
        return self._footprint(tensor, numbers(self.cascade, shape))

    def _footprint(self, tensor: str, values: Mapping[str, Any]) -> Any:
        total: Any = 1
        for rank in self.live_ranks(tensor):
            total = total * values[rank]
        return total

    # Operations

    def operation_counts(self, shape: Shape | None = None) -> dict[str, Any]:
        """Operations of the cascade by kind; without a shape, as sympy closed forms."""
        values = self._values(shape)
        totals: dict[str, Any] = {}
        for einsum in self.cascade.einsums:
            for kind, count in self._operations(einsum, values).items():
                totals[kind] = totals.get(kind, 0) + count
        return totals

    def operation_counts_of(self, einsum: str, shape: Shape | None = None) -> dict[str, Any]:
        """Operations of one Einsum by kind."""
        return self._operations(self.cascade.einsum(einsum), self._values(shape))

    def _operations(self, einsum: Einsum, values: Mapping[str, Any]) -> dict[str, Any]:
        if not einsum.operations:
            return {}
        space = points_in(self.cascade, einsum, values)
        return {kind: count * space for kind, count in einsum.operations.items()}

    def _values(self, shape: Shape | None) -> dict[str, Any]:
        return symbols(self.cascade) if shape is None else numbers(self.cascade, shape)

    # Traffic

    def compulsory_words(
        self, shape: Shape | None = None, element_words: Mapping[str, Any] | None = None
    ) -> Any:
        """Every input read once, every output written once; views and the rest move nothing.

        An element of a tensor is one word, or as many as `element_words` says.
        """
        values = self._values(shape)
        total: Any = 0
        for name, tensor in self.cascade.tensors.items():
            if tensor.role != "intermediate":
                total = total + self._words(name, values) * (element_words or {}).get(name, 1)
        return total

    def _words(self, tensor: str, values: Mapping[str, Any]) -> Any:
        """Words of the tensor that an Einsum reads or, of an output, writes at least.

        What filters on coordinates leave out is not moved, nor what a filter on data is expected
        to leave out; a table of data may point to as many coordinates as it has entries. Of several
        Einsums that read it, the one that reads most counts.
        """
        cascade = self.cascade
        role = cascade.tensors[tensor].role
        whole = size_in(cascade, tensor, values)
        if role != "input":
            made = [e for e in cascade.producers[tensor] if e.filters or e.data_filters]
            if len(made) != len(cascade.producers[tensor]):
                return whole
            uses = [(e, Shown(tensor, e.output.indices)) for e in made]
        else:
            outputs = cascade.outputs
            every = [e for e in cascade.einsums if not e.is_view or e.output.tensor in outputs]
            uses = [(e, s) for e in every for s in reads(cascade, e) if s.tensor == tensor]
        if not uses:
            return whole
        fixed = [
            position
            for position in range(len(cascade.tensors[tensor].ranks))
            if all(use.indices[position].is_constant for _, use in uses)
        ]
        found: dict[tuple[Any, ...], list[Any]] = {}
        for einsum, use in uses:
            here = tuple(use.indices[position] for position in fixed)
            words = reached(cascade, einsum, use, values)
            if hasattr(words, "free_symbols") and words == whole:
                return whole
            if not any(words is other for other in found.setdefault(here, [])):
                found[here].append(words)
        total = sum(reduce(maximum, words) for words in found.values())
        return total if len(found) == 1 else minimum(total, whole)

    @cached_property
    def reloads(self) -> tuple[Reload, ...]:
        """Families that further passes must move again when they do not fit."""
        return reloads(self.cascade, self._of, self.passes)

    def traffic_lower_bound_words(
        self, shape: Shape, buffer_words: Any, element_words: Mapping[str, Any] | None = None
    ) -> Any:
        """Fewest words that any mapping can move to and from memory.

        `buffer_words` is all that can be kept on chip, an int or an array. The compulsory traffic,
        plus what further passes must move again; see `einsum_cascade.bounds`. Where elements are
        not words each (`element_words`), further passes are taken to move the smallest ones.
        """
        values = numbers(self.cascade, shape)
        least: Any = 1
        for words in (element_words or {}).values():
            least = np.minimum(least, words)
        extra = least * reload_bound(self.cascade, self.reloads, values, buffer_words / least)
        return self.compulsory_words(shape, element_words) + extra

    def report(self, rank: str | None = None, shape: Shape | None = None) -> str:
        """All of it as plain text. See `einsum_cascade.report`."""
        from einsum_cascade.report import report

        return report(self, rank, shape)
