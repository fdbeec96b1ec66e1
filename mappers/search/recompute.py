"""Making an intermediate again for a later pass, in place of keeping it.

It is a rewrite of the cascade: a copy of the Einsum that makes the tensor, for the readers of a
later pass. What the copy needs of an earlier pass is made again, or kept, likewise.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import combinations
from types import MappingProxyType

from einsum_cascade import Access, Cascade, Einsum
from einsum_cascade.cascade import Call, Node
from sim.accesses import analysis_of

AGAIN = "again"
"""What the names of copies end in."""

_MOST_TOGETHER = 3
"""Of so many tensors every set is made again."""


@lru_cache(maxsize=64)
def rewrites(cascade: Cascade) -> tuple[tuple[tuple[str, ...], Cascade], ...]:
    """The cascade itself, and with each set of its tensors made again in later passes; of more than
    a few tensors, with each one by itself."""
    found: list[tuple[tuple[str, ...], Cascade]] = [((), cascade)]
    if cascade.iterative_ranks:
        return tuple(found)
    tensors = [t for t in cascade.tensors if _later_readers(cascade, t)]
    most = len(tensors) if len(tensors) <= _MOST_TOGETHER else 1
    for count in range(1, most + 1):
        for some in combinations(tensors, count):
            found.append((some, rewrite(cascade, some)))
    return tuple(found)


def kept_rank(cascade: Cascade, tensor: str) -> str | None:
    """A rank of which later passes need whole fibers of a tensor; a tile's inner part is none."""
    for rank in analysis_of(cascade).live_ranks(tensor):
        inner = cascade.ranks[rank].parent is not None and not cascade.inner_to(rank)
        if not inner:
            return rank
    return None


def _later_readers(cascade: Cascade, tensor: str) -> list[str]:
    """Readers in another pass than that in which an intermediate is made."""
    producers = [e for e in cascade.producers[tensor] if not (e.is_view or e.is_constant)]
    rank = kept_rank(cascade, tensor)
    if rank is None or cascade.tensors[tensor].role != "intermediate" or len(producers) != 1:
        return []
    analysis = analysis_of(cascade)
    readers = [e.name for e in cascade.consumers[tensor] if not e.is_view]
    return [r for r in readers if not analysis.fusible((producers[0].name, r), rank)]


def rewrite(cascade: Cascade, tensors: tuple[str, ...]) -> Cascade:
    """A cascade that makes some tensors again for their readers in later passes.

    >>> from einsum_cascade import parse_cascade
    >>> text = '''
    ... {name: x, ranks: [K], inputs: ["A[k]"], outputs: [Z],
    ...  body: ["X[k] = exp(A[k])", "S = X[k]", "Z[k] = X[k] / S"]}'''
    >>> [e.name for e in rewrite(parse_cascade(text), ("X",)).einsums]
    ['X', 'S', 'Xagain2', 'Z']
    """
    later = {t: set(_later_readers(cascade, t)) for t in tensors}
    analysis = analysis_of(cascade)
    made: dict[str, str] = {}
    einsums: list[Einsum] = []
    extra = dict(cascade.tensors)

    def level(reader: str, tensor: str) -> int:
        rank = kept_rank(cascade, tensor)
        return analysis.level(reader, rank) if rank is not None else 0

    def again(tensor: str, at: int) -> str:
        """The copy of a tensor for a pass, made with all that it needs."""
        name = f"{tensor}{AGAIN}{at}"
        if name not in made:
            made[name] = tensor
            source = next(e for e in cascade.producers[tensor] if not e.is_constant)
            renamed = {}
            for access in source.operands:
                if access.tensor in tensors and level(source.name, access.tensor) != at:
                    renamed[access.tensor] = again(access.tensor, at)
            copy = _with_operands(source, renamed)
            extra[name] = replace(cascade.tensors[tensor], name=name)
            einsums.append(replace(copy, name=name, output=replace(source.output, tensor=name)))
        return name

    for einsum in cascade.einsums:
        renamed = {
            t: again(t, level(einsum.name, t))
            for t, readers in later.items()
            if einsum.name in readers
        }
        einsums.append(_with_operands(einsum, renamed))
    return replace(
        cascade,
        name=f"{cascade.name}, {' and '.join(tensors)} made again",
        tensors=MappingProxyType(extra),
        einsums=tuple(einsums),
    )


def _with_operands(einsum: Einsum, renamed: dict[str, str]) -> Einsum:
    if not renamed:
        return einsum

    def turned(node: Node) -> Node:
        if isinstance(node, Access):
            return replace(node, tensor=renamed.get(node.tensor, node.tensor))
        if isinstance(node, Call):
            return replace(node, arguments=tuple(map(turned, node.arguments)))
        return node

    operands = tuple(replace(a, tensor=renamed.get(a.tensor, a.tensor)) for a in einsum.operands)
    return replace(einsum, expression=turned(einsum.expression), operands=operands)


__all__ = ["kept_rank", "rewrite", "rewrites"]
