"""From text to a cascade: names resolved, everything checked, errors at their place.

The way: `schema` says which keys a file has, `notation` gives a syntax tree for each Einsum,
`declarations` and `definitions` read ranks and tensors, this module resolves the Einsums against
them, and `checking` looks at the cascade as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path
from types import MappingProxyType

from einsum_cascade.affine import Affine
from einsum_cascade.cascade import (
    Access,
    Call,
    Cascade,
    Condition,
    Coordinate,
    DataCondition,
    Einsum,
    Gather,
    Node,
    Number,
    Tensor,
    nodes,
)
from einsum_cascade.checking import check_cascade
from einsum_cascade.declarations import (
    UNARY,
    Names,
    Statement,
    declare_defaults,
    declare_inputs,
    declare_ranks,
    statements,
)
from einsum_cascade.definitions import declare_outputs, define_tensors
from einsum_cascade.notation import Raw, RawAccess, RawCall, RawNumber, reads_tensor
from einsum_cascade.occupancy import with_occupancy
from einsum_cascade.schema import CascadeSpec
from einsum_cascade.source import Document, InputError, check, parse_yaml, read_yaml

_NARY = ("max", "min")
_OPERATORS = (*_NARY, "pow", *UNARY)
_SYMBOLS = ("add", "sub", "mul", "div", "neg", "floordiv", "mod", "lshift", "rshift")
_REDUCTIONS = {
    "sum": "add",
    "+": "add",
    "product": "mul",
    "max": "max",
    "min": "min",
}


def load_cascade(source: str | Path | Document) -> Cascade:
    """A cascade from a YAML file, or from one that was read already.

    Raises `InputError` with file, line, column and key for anything that is wrong in it.
    """
    return build(source if isinstance(source, Document) else read_yaml(source))


def parse_cascade(text: str, file: str = "<text>") -> Cascade:
    """A cascade from YAML text.

    >>> cascade = parse_cascade('''
    ... name: dot
    ... ranks: {K: contracted}
    ... inputs: ["A[k]", "B[k]"]
    ... body: ["Y = A[k] * B[k]"]
    ... ''')
    >>> cascade.einsum("Y").reduction_ranks, dict(cascade.einsum("Y").operations)
    (('K',), {'mac': 1})
    """
    return build(parse_yaml(text, file))


def build(document: Document) -> Cascade:
    """The cascade that a document describes."""
    spec = check(CascadeSpec, document)
    names = declare_ranks(spec, document)
    inputs = declare_inputs(spec, document, names)
    written = statements(spec, document, names)
    tensors = define_tensors(written, inputs, names)
    einsums = _named(tuple(_einsum(s, names, tensors) for s in written))
    tensors = declare_outputs(spec, document, tensors, einsums)
    cascade = Cascade(
        name=spec.name,
        description=spec.description.strip(),
        source=spec.source.strip(),
        ranks=MappingProxyType(dict(names.ranks)),
        parameters=MappingProxyType({n: p.about for n, p in spec.parameters.items()}),
        functions=MappingProxyType(dict(names.functions)),
        tensors=MappingProxyType(tensors),
        einsums=einsums,
        defaults=MappingProxyType(declare_defaults(spec, document, names)),
        file=document.file,
        place=document.place("name"),
    )
    check_cascade(cascade)
    return with_occupancy(cascade, spec.occupancy, document) if spec.occupancy else cascade


def _named(einsums: tuple[Einsum, ...]) -> tuple[Einsum, ...]:
    """Initializations of a tensor that the body defines are named `RM.init`, `RM.init2`, ..."""
    counts: dict[str, int] = {}
    result = []
    for einsum in einsums:
        boundary = any(index.is_constant for index in einsum.output.indices)
        if boundary:
            tensor = einsum.output.tensor
            counts[tensor] = counts.get(tensor, 0) + 1
            suffix = "" if counts[tensor] == 1 else str(counts[tensor])
            einsum = replace(einsum, name=f"{tensor}.init{suffix}")
        result.append(einsum)
    return tuple(result)


def _einsum(statement: Statement, names: Names, tensors: Mapping[str, Tensor]) -> Einsum:
    raw, locate = statement.raw, statement.locate
    resolver = _Resolver(statement, names, tensors)
    place = locate(raw.output.column)
    output = Access(statement.tensor, statement.indices, place=place)
    expression = resolver.node(raw.expression)
    on_data = [c for c in raw.filters if reads_tensor(c.left) or reads_tensor(c.right)]
    on_coordinates = [c for c in raw.filters if c not in on_data]
    filters = tuple(
        Condition(resolver.affine(c.left), c.comparison, resolver.affine(c.right))
        for c in on_coordinates
    )
    data_filters = tuple(
        DataCondition(resolver.node(c.left), c.comparison, resolver.node(c.right)) for c in on_data
    )
    on_left = output.variables
    used = _variables(expression)
    tested = [_variables(c.left) | _variables(c.right) for c in data_filters]
    tested += [dict.fromkeys((*c.left.variables, *c.right.variables)) for c in filters]
    reduced = [v for v in used if v not in on_left]
    operator: str | None = "add" if reduced else None
    if raw.reduction is not None:
        operator = _reduction_operator(statement, names)
        for name, column in zip(
            raw.reduction.variables, raw.reduction.variable_columns, strict=True
        ):
            names.variable(name, locate(column))
            if name in on_left:
                raise InputError(
                    f"{name!r} stands on the left side, so nothing is reduced over it",
                    locate(column),
                    allowed=reduced,
                )
            counted = not used or any(name in names_of for names_of in tested)
            if name not in used and not counted:
                raise InputError(
                    f"{name!r} is reduced over but stands nowhere in the expression",
                    locate(column),
                    allowed=reduced,
                )
        missing = [v for v in reduced if v not in raw.reduction.variables]
        if missing:
            raise InputError(
                f"the left side lacks {', '.join(missing)}, which the reduction does not name",
                locate(raw.reduction.column),
            )
        reduced = list(raw.reduction.variables)
    for both, written in zip(tested, (*on_data, *on_coordinates), strict=True):
        foreign = [v for v in both if v not in on_left and v not in reduced]
        if foreign:
            raise InputError(
                f"the filter names {foreign[0]!r}, over which this Einsum does not iterate",
                locate(written.column),
                allowed=[*on_left, *reduced],
            )
    read = [n for n in nodes(expression) if isinstance(n, Access)]
    return Einsum(
        name=statement.tensor,
        section=statement.section,
        output=output,
        expression=expression,
        operands=tuple(dict.fromkeys((*read, *(a for c in data_filters for a in c.accesses)))),
        ranks=tuple(names.of_variable[v] for v in (*on_left, *reduced)),
        reduction_ranks=tuple(names.of_variable[v] for v in reduced),
        reduction=operator,
        filters=filters,
        data_filters=data_filters,
        place=place,
    )


def _variables(node: Node) -> dict[str, None]:
    """The index variables of an expression, in order of appearance."""
    found: dict[str, None] = {}
    for each in nodes(node):
        if isinstance(each, Access):
            found.update(dict.fromkeys(each.variables))
        elif isinstance(each, Coordinate):
            found.update(dict.fromkeys(each.index.variables))
    return found


def _reduction_operator(statement: Statement, names: Names) -> str:
    reduction = statement.raw.reduction
    assert reduction is not None
    if reduction.operator in _REDUCTIONS:
        return _REDUCTIONS[reduction.operator]
    if names.functions.get(reduction.operator) == 2:
        return reduction.operator
    binary = [n for n, arity in names.functions.items() if arity == 2]
    raise InputError(
        f"unknown reduction {reduction.operator!r}",
        statement.locate(reduction.column),
        allowed=[*_REDUCTIONS, *binary],
        found=reduction.operator,
    )


class _Resolver:
    """Resolves the names of one Einsum's expression."""

    def __init__(self, statement: Statement, names: Names, tensors: Mapping[str, Tensor]) -> None:
        self.locate = statement.locate
        self.names = names
        self.tensors = tensors

    def affine(self, raw: Raw) -> Affine:
        return self.names.affine(raw, self.locate)

    def node(self, raw: Raw) -> Node:
        if isinstance(raw, RawNumber):
            return Number(raw.value)
        if isinstance(raw, RawCall):
            return self.call(raw)
        return self.access(raw)

    def call(self, raw: RawCall) -> Node:
        place = self.locate(raw.column)
        arguments = [self.node(argument) for argument in raw.arguments]
        if raw.operator in _SYMBOLS:
            return Call(raw.operator, tuple(arguments))
        if raw.operator in _NARY:
            if len(arguments) < 2:
                raise InputError(
                    f"{raw.operator} takes two arguments or more, found {len(arguments)}; a "
                    f"reduction is written '{raw.operator} over m of ...'",
                    place,
                )
            return reduce(lambda a, b: Call(raw.operator, (a, b)), arguments)
        if raw.operator in UNARY:
            arity = 1
        elif raw.operator == "pow":
            arity = 2
        elif raw.operator in self.names.functions:
            arity = self.names.functions[raw.operator]
        else:
            raise InputError(
                f"unknown operator {raw.operator!r}",
                place,
                allowed=[*_OPERATORS, *self.names.functions],
                found=raw.operator,
            )
        if len(arguments) != arity:
            raise InputError(f"{raw.operator} takes {arity}, found {len(arguments)}", place)
        return Call(raw.operator, tuple(arguments))

    def access(self, raw: RawAccess) -> Node:
        place = self.locate(raw.column)
        tensor = self.tensors.get(raw.name)
        is_symbol = raw.name in self.names.symbols
        is_variable = tensor is None and raw.name in self.names.of_variable
        if raw.indices is None and (is_symbol or is_variable):
            return Coordinate(self.names.index(raw, self.locate))
        if tensor is None:
            raise InputError(
                f"the tensor {raw.name!r} is never defined",
                place,
                allowed=self.tensors,
                found=raw.name,
            )
        indices = raw.indices or ()
        if len(indices) != len(tensor.ranks):
            raise InputError(
                f"{raw.name} has {_ranks(tensor)}, found {_count(len(indices), 'index')}", place
            )
        resolved = []
        gathers = []
        for position, (rank, index) in enumerate(zip(tensor.ranks, indices, strict=True)):
            if reads_tensor(index):
                gather = self.gather(position, index)
                gathers.append(gather)
                affine = gather.offset
                for _, table in gather.tables:
                    for variable in table.variables:
                        if variable not in affine.variables:
                            affine = affine + Affine.of_variable(variable)
            else:
                affine = self.affine(index)
                self._same_rank(tensor, position, rank, affine, index)
            resolved.append(affine)
        return Access(raw.name, tuple(resolved), tuple(gathers), place)

    def gather(self, position: int, raw: Raw) -> Gather:
        """An index with tables in it: affine in their entries."""
        if isinstance(raw, RawAccess) and raw.indices is not None:
            table = self.access(raw)
            assert isinstance(table, Access)
            return Gather(position, Affine(()), ((Affine.of_number(1), table),))
        if not reads_tensor(raw):
            return Gather(position, self.affine(raw), ())
        assert isinstance(raw, RawCall)
        parts = [self.gather(position, argument) for argument in raw.arguments]
        scaled = [(i, p) for i, p in enumerate(parts) if not p.tables and p.offset.is_constant]
        if raw.operator in ("add", "sub", "neg"):
            last = parts[-1] if raw.operator == "add" else _scaled(parts[-1], Affine.of_number(-1))
            if len(parts) == 1:
                return last
            return Gather(position, parts[0].offset + last.offset, parts[0].tables + last.tables)
        if raw.operator == "mul" and scaled:
            at, factor = scaled[0]
            return _scaled(parts[1 - at], factor.offset)
        raise InputError(
            f"{raw.operator!r} cannot stand between tables in an index: only sums of tables and of "
            "index variables, each times a constant",
            self.locate(raw.column),
            allowed=["+", "-", "*"],
        )

    def _same_rank(self, tensor: Tensor, position: int, rank: str, index: Affine, raw: Raw) -> None:
        """A single variable must range over the rank that the tensor has there."""
        names = self.names
        variable = index.variable
        if variable is None:
            return
        found = names.of_variable[variable]
        if names.root(found) != names.root(rank):
            raise InputError(
                f"{tensor.name} has {_ranks(tensor)}: its index {position + 1} ranges over {rank}, "
                f"found {variable!r} of {found}",
                self.locate(raw.column),
                allowed=[rank.lower()],
                found=variable,
            )


def _scaled(gather: Gather, factor: Affine) -> Gather:
    tables = tuple((f * factor, table) for f, table in gather.tables)
    return Gather(gather.position, gather.offset * factor, tables)


def _ranks(tensor: Tensor) -> str:
    if not tensor.ranks:
        return "no ranks"
    return f"the ranks {', '.join(tensor.ranks)}"


def _count(number: int, noun: str) -> str:
    plural = {"index": "indices"}.get(noun, f"{noun}s")
    return f"{number} {noun if number == 1 else plural}"


__all__ = ["build", "load_cascade", "parse_cascade"]
