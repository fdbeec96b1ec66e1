"""What an access really touches: through views, down to the tensor that they show.

A view costs nothing, so reading `BK[e,m1,m0]` with `BK[e,m1,m0] = K[e, m1*M0+m0]` is reading K.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from einsum_cascade.affine import Affine
from einsum_cascade.cascade import Access, Cascade, Coordinate, Einsum, Node
from einsum_cascade.spread import entry, put


@dataclass(frozen=True)
class Shown:
    """A tensor that is no view, and what moves each of its indices.

    `scattered` are the positions whose coordinates a table of data holds: they may lie anywhere.
    `tables` are the tables of data on the way. `entries` are the indices that computed tables hold,
    by position, as expressions of coordinates.
    """

    tensor: str
    indices: tuple[Affine, ...]
    scattered: frozenset[int] = frozenset()
    tables: tuple[Access, ...] = ()
    entries: tuple[tuple[int, Node], ...] = ()

    @property
    def variables(self) -> tuple[str, ...]:
        """The index variables, in order of appearance."""
        return tuple(dict.fromkeys(v for index in self.indices for v in index.variables))


def is_table(cascade: Cascade, tensor: str) -> bool:
    """Whether a tensor is known before the run: computed from coordinates alone, every part."""
    producers = cascade.producers[tensor]
    return bool(producers) and all(e.is_constant for e in producers)


def view_of(cascade: Cascade, tensor: str) -> Einsum | None:
    """The Einsum that makes the tensor a view of another, if it is one."""
    return next((e for e in cascade.producers[tensor] if e.is_view), None)


@lru_cache(maxsize=4096)
def shown(cascade: Cascade, access: Access) -> Shown:
    """What `access` touches.

    >>> from einsum_cascade import parse_cascade
    >>> cascade = parse_cascade("{name: v, ranks: [P, K, M], inputs: ['A[m]'], "
    ...     "body: ['W[p,k] = A[p+k]', 'Y[p] = W[p,k]']}")
    >>> found = shown(cascade, cascade.einsum("Y").operands[0])
    >>> found.tensor, str(found.indices[0])
    ('A', 'p+k')
    """
    scattered = frozenset(
        g.position
        for g in access.gathers
        if any(not is_table(cascade, table.tensor) for _, table in g.tables)
    )
    tables = tuple(
        table
        for g in access.gathers
        for _, table in g.tables
        if not is_table(cascade, table.tensor)
    )
    held = {g.position: entry(cascade, g) for g in access.gathers if g.position not in scattered}
    view = view_of(cascade, access.tensor)
    if view is None:
        return Shown(access.tensor, access.indices, scattered, tables, tuple(held.items()))
    source = view.expression
    assert isinstance(source, Access)
    below = shown(cascade, source)
    written = view.output.indices
    if not all(index.is_plain for index in written):  # the parts of a rank put together
        entries = tuple(held.items())
        return Shown(below.tensor, access.indices, scattered, tables + below.tables, entries)
    moved = {
        index.variables[0]: given for index, given in zip(written, access.indices, strict=True)
    }
    moving = {index.variables[0]: i for i, index in enumerate(written)}
    lost = {
        i
        for i, index in enumerate(below.indices)
        if i in below.scattered or any(moving.get(v) in scattered for v in index.variables)
    }
    values = {v: held.get(i, Coordinate(access.indices[i])) for v, i in moving.items()}
    further = dict(below.entries)
    entries = tuple(
        (i, put(further.get(i, Coordinate(index)), values))
        for i, index in enumerate(below.indices)
        if i not in lost and (i in further or any(moving.get(v) in held for v in index.variables))
    )
    return Shown(
        below.tensor,
        tuple(index.substitute(moved) for index in below.indices),
        frozenset(lost),
        tables + tuple(_moved(table, moved) for table in below.tables),
        entries,
    )


def _moved(table: Access, moved: dict[str, Affine]) -> Access:
    indices = tuple(index.substitute(moved) for index in table.indices)
    return Access(table.tensor, indices, table.gathers, table.place)


@lru_cache(maxsize=8192)
def asked(cascade: Cascade, einsum: Einsum) -> frozenset[Shown]:
    """What the filters on data read: needed to know where they hold, so wherever they are asked."""
    accesses = [a for c in einsum.data_filters for a in c.accesses]
    return frozenset(found for access in accesses for found in _shown(cascade, access))


def reads(cascade: Cascade, einsum: Einsum) -> tuple[Shown, ...]:
    """All that an Einsum reads, tables of data too; what is known before the run is not read."""
    return _reads(cascade, einsum.name)


@lru_cache(maxsize=8192)
def _reads(cascade: Cascade, name: str) -> tuple[Shown, ...]:
    return tuple(_read(cascade, cascade.einsum(name)))


def _read(cascade: Cascade, einsum: Einsum) -> Iterator[Shown]:
    for access in einsum.operands:
        yield from _shown(cascade, access)


def _shown(cascade: Cascade, access: Access) -> Iterator[Shown]:
    if is_table(cascade, access.tensor):
        return
    found = shown(cascade, access)
    if not is_table(cascade, found.tensor):
        yield found
    for table in found.tables:
        yield shown(cascade, table)


__all__ = ["Shown", "asked", "is_table", "reads", "shown", "view_of"]
