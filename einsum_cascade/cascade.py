"""The nouns: ranks, tensors, Einsums and the cascade. All of them immutable.

Vocabulary as in TeAAL (Nayak et al., MICRO 2023), EDGE (Odemuyiwa et al., 2024) and FuseMax (Nayak
et al., MICRO 2024): a *rank* is a named dimension, an *Einsum* maps and reduces its operands over
an iteration space, a *cascade* is a directed acyclic graph of Einsums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from einsum_cascade.affine import Affine
from einsum_cascade.source import InputError, Place

if TYPE_CHECKING:
    import networkx as nx

    from einsum_cascade.expression import Expression

Section = Literal["initialization", "body", "final"]
Role = Literal["input", "intermediate", "output"]
Shape = Mapping[str, Any]
"""Extent of each rank, value of each parameter: ints, or arrays of many design points."""


@dataclass(frozen=True)
class Rank:
    """A dimension. Its index variable is its name in lower case.

    `partition` names its parts, outermost first; a part names its `parent`. `like` names a rank of
    the same extent whose coordinates it shares (queries and keys of one sequence). An iterative
    rank is traversed in order, from `start` until `stop`.
    """

    name: str
    about: str = ""
    parent: str | None = None
    partition: tuple[str, ...] = ()
    like: str | None = None
    iterative: bool = False
    start: int = 0
    stop: Affine | None = None

    @property
    def variable(self) -> str:
        """The index variable."""
        return self.name.lower()


@dataclass(frozen=True)
class Tensor:
    """A tensor: its rank names, its extents (`M1+1` where an iterative rank runs to its end)."""

    name: str
    ranks: tuple[str, ...]
    role: Role
    extents: tuple[Affine, ...] = ()
    place: Place | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Gather:
    """An index that tables hold: the affine `offset` plus, for each table, factor times its entry.

    `BK[b,n] = KC[T[b,n]]` has at position 0 the table `T[b,n]` with factor 1.
    """

    position: int
    offset: Affine
    tables: tuple[tuple[Affine, Access], ...]

    def __str__(self) -> str:
        texts = [str(t) if f == Affine.of_number(1) else f"{f}*{t}" for f, t in self.tables]
        offset = str(self.offset)
        if self.offset.terms:
            texts.append(offset if offset.startswith("-") else f"+{offset}")
        return "+".join(texts[: len(self.tables)]) + "".join(texts[len(self.tables) :])


@dataclass(frozen=True)
class Access:
    """A tensor at affine indices.

    Where a table holds an index (`gathers`), `indices` has in its place the sum of all variables
    that it depends on: what moves it, not where it points.
    """

    tensor: str
    indices: tuple[Affine, ...]
    gathers: tuple[Gather, ...] = ()
    place: Place | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        texts = list(map(str, self.indices))
        for gather in self.gathers:
            texts[gather.position] = str(gather)
        return f"{self.tensor}[{','.join(texts)}]" if texts else self.tensor

    @property
    def variables(self) -> tuple[str, ...]:
        """The index variables, in order of appearance."""
        return tuple(dict.fromkeys(v for index in self.indices for v in index.variables))


@dataclass(frozen=True)
class Number:
    """A literal number in an expression."""

    value: int | float


@dataclass(frozen=True)
class Coordinate:
    """An index variable or an extent that stands in an expression as a value."""

    index: Affine


@dataclass(frozen=True)
class Call:
    """An operation: add sub mul div neg max min exp log sqrt, or a user-defined function."""

    operator: str
    arguments: tuple[Node, ...]


Node = Number | Coordinate | Call | Access


def nodes(node: Node) -> Iterator[Node]:
    """`node` and all nodes below it, left to right; tables in an index stand behind its tensor."""
    pending = [node]
    while pending:
        here = pending.pop()
        yield here
        if isinstance(here, Call):
            pending += reversed(here.arguments)
        elif isinstance(here, Access):
            pending += [table for g in reversed(here.gathers) for _, table in reversed(g.tables)]


def reads_data(node: Node) -> bool:
    """Whether the value depends on a tensor; what does not is known before the run."""
    return any(isinstance(each, Access) for each in nodes(node))


@dataclass(frozen=True)
class DataCondition:
    """A filter on data: `left comparison right`, expressions that read tensors."""

    left: Node
    comparison: str
    right: Node

    @property
    def accesses(self) -> tuple[Access, ...]:
        """The tensors that are read."""
        both = (*nodes(self.left), *nodes(self.right))
        return tuple(dict.fromkeys(n for n in both if isinstance(n, Access)))


@dataclass(frozen=True)
class Condition:
    """A filter on the iteration space: `left comparison right`, e.g. `k <= i`."""

    left: Affine
    comparison: str
    right: Affine

    def __str__(self) -> str:
        return f"{self.left} {self.comparison} {self.right}"


_COST = {"sub": "add", "neg": "add", "lshift": "shift", "rshift": "shift"}


@dataclass(frozen=True)
class Einsum:
    """One Einsum: output, expression, reduction, filters on coordinates and on data.

    `name` is the output tensor's name, with `.init` for an initialization of a tensor that the body
    defines. `ranks` is the iteration space, output ranks first.
    """

    name: str
    section: Section
    output: Access
    expression: Node
    operands: tuple[Access, ...]
    ranks: tuple[str, ...]
    reduction_ranks: tuple[str, ...]
    reduction: str | None
    filters: tuple[Condition, ...] = ()
    data_filters: tuple[DataCondition, ...] = ()
    place: Place | None = field(default=None, compare=False, repr=False)

    @cached_property
    def operations(self) -> Mapping[str, int]:
        """Operations per point of the iteration space, by kind.

        A subtraction or a change of sign is an `add`. A product that the reduction sums is one
        `mac`; any other reduction operator costs one operation a point. What reads no tensor is
        known before the run and costs nothing.
        """
        counts: dict[str, int] = {}
        for node in nodes(self.expression):
            if isinstance(node, Call) and reads_data(node):
                kind = _COST.get(node.operator, node.operator)
                counts[kind] = counts.get(kind, 0) + 1
        if self.reduction is not None:
            top = self.expression
            product = isinstance(top, Call) and top.operator == "mul" and reads_data(top)
            if self.reduction == "add" and product:
                counts["mul"] -= 1
                counts["mac"] = 1
            else:
                counts[self.reduction] = counts.get(self.reduction, 0) + 1
        return MappingProxyType({kind: n for kind, n in counts.items() if n})

    @property
    def is_view(self) -> bool:
        """A pure re-indexing of one tensor, such as `BK[e,m1,m0] = K[e, m1*M0+m0]`: no cost."""
        plain = isinstance(self.expression, Access) and self.reduction is None
        boundary = any(index.is_constant for index in self.output.indices)
        return plain and not boundary and not self.data_filters

    @property
    def is_constant(self) -> bool:
        """No operand at all, such as `RM[0,p] = -inf`."""
        return not self.operands

    def __str__(self) -> str:
        from einsum_cascade.render import unicode_einsum

        return unicode_einsum(self)


@dataclass(frozen=True, eq=False)
class Cascade:
    """Einsums in the order of the text, with the tensors and ranks that they use.

    `occupancy` holds, for a tensor that data filters read, the expected share of the points at
    which they hold (several: a measured distribution). `defaults` are extents and parameters to
    take where a shape gives none.
    """

    name: str
    description: str
    source: str
    ranks: Mapping[str, Rank]
    parameters: Mapping[str, str]
    functions: Mapping[str, int]
    tensors: Mapping[str, Tensor]
    einsums: tuple[Einsum, ...]
    occupancy: Mapping[str, tuple[Expression, ...]] = field(default_factory=dict)
    defaults: Mapping[str, Expression] = field(default_factory=dict)
    file: str = "<text>"
    place: Place | None = field(default=None, repr=False)

    def einsum(self, name: str) -> Einsum:
        """The Einsum of that name; InputError, with the nearest, when there is none."""
        found = self._by_name.get(name)
        if found is None:
            raise InputError(
                f"cascade {self.name!r} has no Einsum {name!r}", allowed=self._by_name, found=name
            )
        return found

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name; InputError, with the nearest, when there is none."""
        if name not in self.tensors:
            raise InputError(
                f"cascade {self.name!r} has no tensor {name!r}", allowed=self.tensors, found=name
            )
        return self.tensors[name]

    def rank(self, name: str) -> Rank:
        """The rank of that name; InputError, with the nearest, when there is none."""
        if name not in self.ranks:
            raise InputError(
                f"cascade {self.name!r} has no rank {name!r}", allowed=self.ranks, found=name
            )
        return self.ranks[name]

    @cached_property
    def _by_name(self) -> dict[str, Einsum]:
        return {einsum.name: einsum for einsum in self.einsums}

    @cached_property
    def producers(self) -> Mapping[str, tuple[Einsum, ...]]:
        """The Einsums that define each tensor: none for an input, more than one where an
        initialization sets its boundary."""
        found: dict[str, list[Einsum]] = {name: [] for name in self.tensors}
        for einsum in self.einsums:
            found[einsum.output.tensor].append(einsum)
        return MappingProxyType({name: tuple(e) for name, e in found.items()})

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Einsum, ...]]:
        """The Einsums that read each tensor."""
        found: dict[str, list[Einsum]] = {name: [] for name in self.tensors}
        for einsum in self.einsums:
            for name in dict.fromkeys(a.tensor for a in einsum.operands):
                found[name].append(einsum)
        return MappingProxyType({name: tuple(e) for name, e in found.items()})

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the input tensors."""
        return tuple(t.name for t in self.tensors.values() if t.role == "input")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the output tensors."""
        return tuple(t.name for t in self.tensors.values() if t.role == "output")

    @property
    def iterative_ranks(self) -> tuple[str, ...]:
        """Names of the ranks that are traversed in order."""
        return tuple(r.name for r in self.ranks.values() if r.iterative)

    def leaves(self, rank: str) -> tuple[str, ...]:
        """The innermost parts that `rank` is made of: itself when it is not partitioned."""
        parts = self.ranks[rank].partition
        return tuple(leaf for part in parts for leaf in self.leaves(part)) if parts else (rank,)

    def inner_to(self, leaf: str) -> tuple[str, ...]:
        """The innermost parts that lie inside `leaf`, of the rank that it is a part of."""
        top = leaf
        while (parent := self.ranks[top].parent) is not None:
            top = parent
        parts = self.leaves(top)
        return parts[parts.index(leaf) + 1 :] if leaf in parts else ()

    @cached_property
    def order(self) -> tuple[Einsum, ...]:
        """The Einsums so that each follows what it reads of the same iteration."""
        from einsum_cascade.dependencies import execution_order

        return execution_order(self)

    @cached_property
    def graph(self) -> nx.DiGraph[str]:
        """Dependencies as a networkx graph: nodes are Einsums and input tensors, edges tensors."""
        from einsum_cascade.dependencies import networkx_graph

        return networkx_graph(self)

    def resolve_shape(self, shape: Shape) -> dict[str, Any]:
        """Extents of all ranks and values of all parameters, from those given.

        See `einsum_cascade.shapes.resolve_shape`.
        """
        from einsum_cascade.shapes import resolve_shape

        return resolve_shape(self, shape)

    def size(self, tensor: str, shape: Shape) -> Any:
        """Words of `tensor`. See `einsum_cascade.shapes.size`."""
        from einsum_cascade.shapes import size

        return size(self, tensor, shape)

    def points(self, einsum: str, shape: Shape) -> Any:
        """Points of the iteration space. See `einsum_cascade.shapes.points`."""
        from einsum_cascade.shapes import points

        return points(self, einsum, shape)

    def __str__(self) -> str:
        from einsum_cascade.render import unicode_cascade

        return unicode_cascade(self)
