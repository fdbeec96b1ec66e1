"""What further passes must move again: a lower bound on traffic that no mapping can beat.

Take an input T read along a rank R in n passes (of its family), and fix the coordinates of all
ranks that T, and all on the way from T to what a pass reads, have in common: one *instance*, whose
words no other instance shares. A *column* is the part of the instance at one coordinate of R. What
pass j reads of a column comes from T (a words a column) or from a tensor on the way, of which the
smallest has i words a column.

Let t(1) be the time at which the last column of T is first read. No fiber of the instance has begun
pass 2 by then, since each waits for a reduction over all columns of the instance. So at t(1) each
column either is on chip, as at least min(a, i) words, or something of it is read after t(1): T
itself, or a tensor on the way, which was written before. Let t(2) be the time when the last of
those columns is read after t(1), and so on: reads between t(j) and t(j+1) are distinct, hence

    reads beyond the first  >=  (n-1) * (columns * min(a, i) - buffer)

and, if anything but T is read, at least one tensor was written on top. The least over both ways,
for a word kept on chip saves at most `min(a, 2i)/min(a, i)` words a pass:

    extra >= min((n-1)*a, (n-1)*min(a, i) + w) * columns - (n-1) * buffer * min(a, 2i)/min(a, i)

with w = i, or 0 where an output is written anyway. The sum over instances holds; families that
share a tensor are not summed, the largest counts.

The argument needs that a barrier value waits for every column of its instance. Where a filter cuts
the iteration space, an index is shifted or read under another rank's variable, or a barrier keeps a
rank that the way has lost, it may not hold, and the family adds nothing: still a lower bound.

The published check (FuseMax's setting with B = H = 1, 64 queries, 65,536 keys, E = F = 64, a buffer
of 16,384 words): 3-pass at least 2.00x compulsory, 2-pass by deferred division 1.50x, 1-pass 1.00x.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from einsum_cascade.affine import mixed_radix
from einsum_cascade.cascade import Access, Cascade, Einsum
from einsum_cascade.passes import RankAnalysis, carries, explain, family
from einsum_cascade.shapes import size_in


@dataclass(frozen=True)
class Reload:
    """An input that further passes along a rank need again, or something computed from it.

    `passes` holds, for each further pass and each thing that it reads, the intermediates on the way
    to that (any of which could be spilled in place of reading the input again). `instances` are the
    ranks (innermost parts) that all of them have in common. `nodes` are all tensors of the family.
    """

    rank: str
    tensor: str
    passes: tuple[tuple[tuple[str, ...], ...], ...]
    instances: tuple[str, ...]
    nodes: frozenset[str]


Analyze = Callable[[str, str], RankAnalysis]


def reloads(
    cascade: Cascade, analyze: Analyze, passes: Callable[[str, str], int]
) -> tuple[Reload, ...]:
    """Every input and rank with more than one pass for which the bound's argument holds."""
    if not all(_is_simple(cascade, einsum) for einsum in cascade.einsums):
        return ()
    found = []
    for name in cascade.inputs:
        ranks = {
            leaf: None for r in cascade.tensors[name].ranks for leaf in (r, *cascade.leaves(r))
        }
        for rank in ranks:
            if passes(rank, name) > 1:
                found += _reloads_of(cascade, analyze(rank, name), rank, name)
    return tuple(found)


def _is_simple(cascade: Cascade, einsum: Einsum) -> bool:
    """No filter; every index a variable of its rank, the parts of it, or an iterative step."""
    if einsum.filters or einsum.data_filters:
        return False
    for access in einsum.operands:
        if access.gathers:
            return False
        for rank_name, index in zip(
            cascade.tensors[access.tensor].ranks, access.indices, strict=True
        ):
            rank = cascade.ranks[rank_name]
            if rank.iterative:
                continue
            parts = rank.partition and index == mixed_radix(rank.partition)
            if not parts and not (index.is_plain and index.variables[0].upper() == rank_name):
                return False
    return True


def _reloads_of(cascade: Cascade, analysis: RankAnalysis, rank: str, tensor: str) -> list[Reload]:
    """One `Reload` for all further passes if they share their instances, else one a pass."""
    members = family(cascade, tensor, analysis.along)
    own = _leaves(cascade, tensor)
    by_instances: dict[tuple[str, ...], list[tuple[tuple[str, ...], ...]]] = {}
    for step in explain(cascade, analysis)[1:]:
        barrier = _leaves(cascade, step.tensor)
        ways: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for name in step.einsums:
            for access in cascade.einsum(name).operands:
                if access.tensor not in members or not carries(access, analysis.along):
                    continue
                way = _way(cascade, analysis, tensor, access, members)
                if way is None:
                    continue
                # A rank that the barrier lacks was reduced on the way to it: columns span it.
                shared = own & barrier - set(cascade.leaves(rank)[:1])
                for node in way:
                    shared &= _leaves(cascade, node)
                if not (own - shared) & barrier:
                    ways.setdefault(tuple(sorted(shared)), []).append(way)
        for instances, found in ways.items():
            by_instances.setdefault(instances, []).append(tuple(found))
    return [
        Reload(rank, tensor, tuple(passes), instances, members)
        for instances, passes in by_instances.items()
    ]


def _leaves(cascade: Cascade, tensor: str) -> frozenset[str]:
    return frozenset(
        leaf for rank in cascade.tensors[tensor].ranks for leaf in cascade.leaves(rank)
    )


def _way(
    cascade: Cascade,
    analysis: RankAnalysis,
    root: str,
    access: Access,
    members: frozenset[str],
) -> tuple[str, ...] | None:
    """The intermediates of the family from `root` to what `access` reads that could be spilled.

    None when a tensor on the way comes from no member of the family read along the rank (it can
    then be had without the input).
    """
    along = analysis.along
    found: dict[str, None] = {}
    pending = [access.tensor]
    while pending:
        name = pending.pop()
        if name == root or name in found:
            continue
        found[name] = None
        for producer in cascade.producers[name]:
            if not carries(producer.output, along):
                continue  # the boundary of an iterative rank
            sources = [
                a.tensor for a in producer.operands if a.tensor in members and carries(a, along)
            ]
            if not sources:
                return None
            pending += sources
    return tuple(n for n in found if not all(p.is_view for p in cascade.producers[n]))


def reload_bound(
    cascade: Cascade, items: tuple[Reload, ...], values: Mapping[str, Any], buffer_words: Any
) -> Any:
    """Words that further passes move at least, beyond the compulsory ones."""
    groups: list[tuple[frozenset[str], Any]] = []
    for item in items:
        nodes, extra = item.nodes, _extra(cascade, item, values, buffer_words)
        apart = []
        for other_nodes, other in groups:
            if other_nodes & nodes:
                nodes, extra = nodes | other_nodes, np.maximum(extra, other)
            else:
                apart.append((other_nodes, other))
        groups = [*apart, (nodes, extra)]
    total: Any = 0
    for _, extra in groups:
        total = total + extra
    return total


def _extra(cascade: Cascade, item: Reload, values: Mapping[str, Any], buffer_words: Any) -> Any:
    instances: Any = 1
    for rank in item.instances:
        instances = instances * values[rank]
    instances = np.asarray(instances, dtype=np.float64)
    again = size_in(cascade, item.tensor, values) / instances
    words: dict[str, Any] = {}
    spilled, written = np.inf, np.inf
    for ways in item.passes:
        needed: Any = 0.0  # of the things that a pass reads, one is the dearest to have
        for way in ways:
            cheapest = np.inf
            for name in way:
                words.setdefault(name, size_in(cascade, name, values) / instances)
                cheapest = np.minimum(cheapest, words[name])
                output = cascade.tensors[name].role == "output"
                written = np.minimum(written, 0.0 if output else words[name])
            needed = np.maximum(needed, cheapest)
        spilled = np.minimum(spilled, needed)
    # The bound of the module's docstring; a and i are those of all columns of an instance together.
    n = len(item.passes)
    least = np.minimum(again, spilled)
    moved = np.minimum(n * again, n * least + written)
    saved = np.minimum(again, 2 * spilled) / least
    return np.maximum(moved - n * saved * buffer_words, 0.0) * instances
