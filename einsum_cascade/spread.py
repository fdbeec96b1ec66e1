"""How far apart the entries of a computed table lie in a block of coordinates, by its expression.

An index such as `ST[p] + DIL*w`, with a table `ST` that is computed from coordinates alone, goes
through as many coordinates as lie between its least and its largest value at most. Tables are put
into the index; the bound follows the expression from the inside out.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np

from einsum_cascade.affine import Affine, Term
from einsum_cascade.cascade import Access, Call, Cascade, Coordinate, Gather, Node, Number

_VALUES = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "floordiv": np.floor_divide,
    "mod": np.mod,
    "max": np.maximum,
    "min": np.minimum,
}


def put(node: Node, moved: Mapping[str, Node]) -> Node:
    """An expression with others in place of its index variables."""
    if isinstance(node, Call):
        return Call(node.operator, tuple(put(argument, moved) for argument in node.arguments))
    if not isinstance(node, Coordinate) or not moved.keys() & set(node.index.variables):
        return node
    terms: list[Node] = []
    for term in node.index.terms:
        value = moved.get(term.variable)
        if value is None:
            terms.append(Coordinate(Affine((term,))))
        else:
            factor = Coordinate(Affine((Term("", term.symbols, term.coefficient),)))
            terms.append(Call("mul", (factor, value)))
    return _sum(terms)


def entry(cascade: Cascade, gather: Gather) -> Node:
    """The index that computed tables hold, as an expression of coordinates.

    Where a table is made in parts or read through another, it stays as it is: see `spread`.
    """
    terms: list[Node] = [Coordinate(gather.offset)]
    for factor, table in gather.tables:
        terms.append(Call("mul", (Coordinate(factor), _computed(cascade, table))))
    return _sum(terms)


def _computed(cascade: Cascade, table: Access) -> Node:
    producers = cascade.producers[table.tensor]
    if len(producers) > 1 or table.gathers:
        return table
    (einsum,) = producers
    written = einsum.output.indices
    if einsum.reduction is not None or not all(index.is_plain for index in written):
        return table
    moved: dict[str, Node] = {
        index.variables[0]: Coordinate(given)
        for index, given in zip(written, table.indices, strict=True)
    }
    return put(einsum.expression, moved)


def _sum(terms: list[Node]) -> Node:
    return reduce(lambda a, b: Call("add", (a, b)), terms)


def spread(node: Node, sizes: Mapping[str, Any], shape: Mapping[str, Any]) -> Any:
    """The largest value less the least, at most, in a block of `sizes` coordinates of each index
    variable; infinite where the expression does not tell. `shape` are extents.

    >>> from einsum_cascade import parse_cascade
    >>> cascade = parse_cascade("{name: t, ranks: {P: a, X: b}, parameters: [D], inputs: ['A[x]'], "
    ...     "body: ['T[p] = p%D + D*max(p//D - 2, 0)', 'Y[p] = A[T[p]]*2']}")
    >>> (gather,) = cascade.einsum("Y").operands[0].gathers
    >>> [float(spread(entry(cascade, gather), {"p": 16}, {"D": d})) for d in (1, 2)]
    [15.0, 17.0]
    """
    if isinstance(node, Access):
        return np.inf
    if isinstance(node, Number):
        return 0.0
    if isinstance(node, Coordinate):
        total: Any = 0.0
        for term in node.index.terms:
            if term.variable:
                stride = reduce(lambda a, s: a * shape[s], term.symbols, abs(term.coefficient))
                total = total + stride * (sizes[term.variable] - 1.0)
        return total
    inside = [spread(argument, sizes, shape) for argument in node.arguments]
    if node.operator in ("add", "sub", "neg"):
        return sum(inside)
    if node.operator in ("max", "min"):
        return reduce(np.maximum, inside)
    constant = [_value(argument, shape) for argument in node.arguments]
    if node.operator == "mul":
        for one, other in ((0, 1), (1, 0)):
            if constant[one] is not None:
                return np.abs(constant[one]) * inside[other]
        for one, other in ((0, 1), (1, 0)):
            if _is_switch(node.arguments[one], shape):
                return inside[other]
    if node.operator in ("floordiv", "mod") and constant[1] is not None:
        step = np.abs(constant[1])
        if node.operator == "floordiv":
            return np.ceil(inside[0] / step)
        return np.where(np.asarray(inside[0]) > 0, step - 1, 0)
    return np.inf if any(value is None for value in constant) else 0.0


def _is_switch(node: Node, shape: Mapping[str, Any]) -> bool:
    """Whether a factor is 0 or 1: `min(l//C, 1)`. It parts the coordinates of a block, and each
    part is a block of its own: together they reach what one block would, but for its ends."""
    if not isinstance(node, Call) or node.operator != "min" or not _is_natural(node):
        return False
    tops = [_value(argument, shape) for argument in node.arguments]
    return any(top is not None and bool(np.all(top <= 1)) for top in tops)


def _is_natural(node: Node) -> bool:
    """Whether the value is surely no negative number, and whole."""
    if isinstance(node, Number):
        return isinstance(node.value, int) and node.value >= 0
    if isinstance(node, Coordinate):
        return all(term.coefficient >= 0 for term in node.index.terms)
    if isinstance(node, Access):
        return False
    known = {"add", "mul", "floordiv", "mod", "max", "min"}
    return node.operator in known and all(map(_is_natural, node.arguments))


def _value(node: Node, shape: Mapping[str, Any]) -> Any:
    """The value of an expression without index variables; None with any."""
    if isinstance(node, Number):
        return node.value
    if isinstance(node, Coordinate):
        return None if node.index.variables else node.index.evaluate(shape, {})
    if isinstance(node, Access):
        return None
    inside = [_value(argument, shape) for argument in node.arguments]
    if node.operator not in _VALUES or any(value is None for value in inside):
        return None
    return _VALUES[node.operator](*inside)


__all__ = ["entry", "put", "spread"]
