"""The two products of attention and the softmax between them, on units of p rows by some lanes.

With reordering, p rows of queries (or of results) wait in their PEs for the keys, which come one by
one for all of them; each row begins one key after the row before and wraps around, so that rows of
queries never come at the same time. Without it, p keys at a time come for one query.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, replace
from typing import Any

from einsum_cascade import Cascade, Einsum
from mappers.roles import ranks_of, refuse, tiles
from mappers.template import ROWS, Template, direct, is_product, lanes
from sim import EinsumMapping, Loop, Option, Phase, Tile, always
from sim.accesses import analysis_of, computing, generation_ranks, shown_tensor, uses
from sim.mapping import Number


@dataclass(frozen=True)
class _Ranks:
    """The ranks by what they are to attention; `keys` is the outermost part of their rank."""

    outer: tuple[str, ...]
    heads: str
    queries: str
    keys: str
    embedding: str
    values: str


def is_attention(cascade: Cascade, products: list[Einsum]) -> bool:
    """Whether the second of two products sums over what the first makes, with a softmax between."""
    if len(products) != 2:
        return False
    first, second = products
    summed = set(second.reduction_ranks) & set(first.ranks) - set(first.reduction_ranks)
    between = [e for e in computing(cascade) if e not in products]
    return any(
        rank in e.reduction_ranks or cascade.ranks[rank].iterative
        for e in between
        for rank in summed
    )


def phases(
    template: Template, cascade: Cascade, shape: MappingABC[str, Number], options: Any
) -> tuple[Phase, ...]:
    """One kernel a pass over the keys; the first has the first product, the last the second."""
    ordered = [e for e in cascade.order if e in computing(cascade)]
    scores, second = (e for e in ordered if is_product(e))
    ranks = _ranks(template, cascade, scores, second)
    for einsum in ordered:
        if einsum.filters or einsum.data_filters:
            need = f"attention of all queries to all keys, and {einsum.name} leaves some out"
            raise refuse(cascade, template.mapper, f"{need}: the units go through all of them")
    analysis = analysis_of(cascade)
    kernels: dict[tuple[int, ...], list[Einsum]] = {}
    behind = {second.output.tensor}
    level = 1
    for einsum in ordered:
        if ranks.keys in einsum.ranks:
            level = max(level, analysis.level(einsum.name, ranks.keys))
        if any(access.tensor in behind for access in einsum.operands):
            behind.add(einsum.output.tensor)
        kernel: tuple[int, ...] = (level,)
        if options.softmax == "separate":
            kernel = (level, einsum in (scores, second), einsum.output.tensor in behind)
        kernels.setdefault(kernel, []).append(einsum)
    order = _Order.of(template, ranks, shape, options.reordering)
    return tuple(
        _kernel(template, cascade, shape, ranks, order, group) for group in kernels.values()
    )


@dataclass(frozen=True)
class _Order:
    """The loops of a pass: over rows of queries, over keys inside, and what is side by side."""

    batch: tuple[Loop, ...]
    rows: Loop
    keys: Loop
    across: Loop
    stagger: str | None

    @staticmethod
    def of(
        template: Template, ranks: _Ranks, shape: MappingABC[str, Number], reordering: bool
    ) -> _Order:
        q, k = ranks.queries, ranks.keys
        batch = tuple(Loop(r, r, shape[r]) for r in ranks.outer)
        p = template.unit("scores").shape[0]
        if reordering:
            rows, keys = Loop(f"{q}1", q, tiles(shape[q], p)), Loop(k, k, shape[k])
            return _Order(batch, rows, keys, Loop(f"{q}0", q, p), k)
        rows, keys = Loop(q, q, shape[q]), Loop(f"{k}1", k, tiles(shape[k], p))
        return _Order(batch, rows, keys, Loop(f"{k}0", k, p), None)

    def around(self, einsum: Einsum) -> tuple[Loop, ...]:
        """The loops that an Einsum has of these: all, or those over queries alone."""
        keys = (self.keys,) if self.keys.rank in einsum.ranks else ()
        return (*self.batch, self.rows, *keys)


def _ranks(template: Template, cascade: Cascade, scores: Einsum, second: Einsum) -> _Ranks:
    contracted = scores.reduction_ranks
    keys = [r for r in second.reduction_ranks if r in scores.ranks]
    both = [r for r in scores.ranks if r in second.ranks and r not in keys]
    inputs = [ranks_of(cascade, shown_tensor(cascade, a.tensor)) for a in scores.operands]
    shared = [r for r in both if all((cascade.ranks[r].parent or r) in held for held in inputs)]
    queries = [r for r in both if r not in shared]
    values = [r for r in second.ranks if r not in scores.ranks]
    parents = {cascade.ranks[r].parent for r in keys}
    if len(keys) > 1 and len(parents) == 1 and None not in parents:
        keys = [r for r in cascade.ranks[str(parents.pop())].partition if r in keys][:1]
    if not (len(contracted) == len(queries) == len(values) == len(keys) == 1 and shared):
        raise refuse(
            cascade,
            template.mapper,
            "attention over one rank each of queries, keys, their embedding and values, and heads",
        )
    return _Ranks(tuple(shared[:-1]), shared[-1], queries[0], keys[0], contracted[0], values[0])


def _kernel(
    template: Template,
    cascade: Cascade,
    shape: MappingABC[str, Number],
    ranks: _Ranks,
    order: _Order,
    kernel: list[Einsum],
) -> Phase:
    """One pass over the keys, on the units that it needs."""
    last = any(ranks.values in einsum.ranks for einsum in kernel)
    softmax = template.unit("exponentials" if last else "statistics")
    nests = []
    for einsum in kernel:
        around = order.around(einsum)
        if is_product(einsum):
            inner = ranks.values if ranks.values in einsum.ranks else ranks.embedding
            unit = template.unit("values" if inner == ranks.values else "scores")
            time, wide = lanes(inner, shape[inner], unit.shape[1])
            loops = (*around, Loop(ranks.heads, ranks.heads, shape[ranks.heads]), time)
            loops += (replace(order.across, spatial=True), wide)
            depth, stagger = len(around), order.stagger
        else:
            unit = softmax
            _check_row(template, cascade, ranks, einsum)
            across = (order.across,) if order.across.rank in einsum.ranks else ()
            time, wide = lanes(ranks.heads, shape[ranks.heads], unit.shape[0])
            own = [Loop(r, r, shape[r]) for r in (ranks.values,) if r in einsum.ranks]
            loops = (*around, *across, time, *own, wide)
            depth, stagger = len(loops) - 1, None
        nests.append(EinsumMapping(einsum.name, unit.name, loops, depth, stagger=stagger))
    made = {m.array for m in nests} & {"scores", "values"}
    phase = Phase(" and ".join(sorted(made)) or f"softmax {kernel[-1].name}", tuple(nests), {})
    kept = {}
    for use in uses(cascade, phase):
        if use.tensor not in kept:
            kept[use.tensor] = _residency(template, cascade, phase, ranks, order, use.tensor)
    return template.finished(cascade, replace(phase, residency=kept), {})


def _check_row(template: Template, cascade: Cascade, ranks: _Ranks, einsum: Einsum) -> None:
    """Raise `InputError` for what is no part of the softmax of a row, or of its results."""
    rows = {*ranks.outer, ranks.heads, ranks.queries}
    strange = set(einsum.ranks) - {*_all(ranks), *_parts(cascade, ranks), ranks.values}
    if not rows <= set(einsum.ranks) or strange or ranks.embedding in einsum.ranks:
        over = ", ".join(einsum.ranks) or "nothing"
        raise refuse(
            cascade,
            template.mapper,
            f"a softmax over the keys of each row between two products, and {einsum.name} goes "
            f"over {over}",
        )


def _residency(
    template: Template,
    cascade: Cascade,
    phase: Phase,
    ranks: _Ranks,
    order: _Order,
    tensor: str,
) -> tuple[Option, ...]:
    """Where a tensor is: one step of the keys at a time, or one block of queries."""
    held = {rank for use in uses(cascade, phase) if use.tensor == tensor for rank in use.ranks}
    tile = Tile(ROWS, order.keys.name if ranks.keys in held else order.rows.name)
    nests = {m.einsum: m for m in phase.einsums}
    writer = next((nests[e.name] for e in cascade.producers[tensor] if e.name in nests), None)
    if writer is None:
        return always(template.outermost, tile)
    readers = [e.name for e in cascade.consumers[tensor] if not e.is_view]
    beside = frozenset(
        name for name in readers if name in nests and template.beside(writer, nests[name])
    )
    here = all(name in nests for name in readers) and bool(readers)
    if cascade.tensors[tensor].role == "intermediate" and here:
        state = generation_ranks(cascade, tensor)
        one_array = all(nests[name].array == writer.array for name in readers)
        if beside == frozenset(readers) and one_array and not state:
            return direct()
        return always(ROWS, tile)
    tiles_ = () if ranks.keys in held else (tile,)
    return always(template.outermost, *tiles_, handed_to=beside)


def _all(ranks: _Ranks) -> tuple[str, ...]:
    return (*ranks.outer, ranks.heads, ranks.queries, ranks.keys, ranks.embedding)


def _parts(cascade: Cascade, ranks: _Ranks) -> tuple[str, ...]:
    """The other parts of the rank of the keys: of one coordinate each."""
    parent = cascade.ranks[ranks.keys].parent
    return cascade.ranks[parent].partition if parent else ()
