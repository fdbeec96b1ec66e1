"""A second, naive executor: one number at a time, by recursion. Shares no code with `execute`."""

from __future__ import annotations

import itertools
import math
import operator

import pytest

from einsum_cascade.cascade import Access, Call, Cascade, Coordinate, Einsum, Number

_BINARY = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "max": max,
    "min": min,
    "div": operator.truediv,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "lshift": operator.lshift,
    "rshift": operator.rshift,
    "pow": operator.pow,
}
_UNARY = {
    "exp": math.exp,
    "exp2": lambda x: 2.0**x,
    "log": math.log,
    "log2": math.log2,
    "sqrt": math.sqrt,
    "abs": abs,
    "floor": math.floor,
    "round": round,
    "tanh": math.tanh,
}
_COMPARE = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "==": operator.eq,
    "!=": operator.ne,
}
_START = {"add": 0, "mul": 1, "max": -math.inf, "min": math.inf}


def _index(affine, shape, at):
    total = 0
    for term in affine.terms:
        value = term.coefficient * (at[term.variable] if term.variable else 1)
        for symbol in term.symbols:
            value *= shape[symbol]
        total += value
    return total


class Interpreter:
    """Values of single elements of a cascade."""

    def __init__(self, cascade: Cascade, inputs, shape, functions=None) -> None:
        self.cascade, self.inputs, self.shape = cascade, inputs, shape
        self.functions = functions or {}
        self.memo: dict = {}

    def element(self, tensor: str, coordinates: tuple[int, ...]) -> float:
        if tensor in self.inputs:
            return self.inputs[tensor][coordinates].item()
        key = (tensor, coordinates)
        if key not in self.memo:
            self.memo[key] = self._compute(tensor, coordinates)
        return self.memo[key]

    def _range(self, einsum: Einsum, rank: str) -> range:
        declared = self.cascade.ranks[rank]
        if declared.iterative and einsum.section == "body":
            return range(declared.start, _index(declared.stop, self.shape, {}))
        return range(self.shape[rank])

    def _compute(self, tensor, coordinates):
        for einsum in self.cascade.einsums:
            if einsum.output.tensor != tensor:
                continue
            outer = [r for r in einsum.ranks if r not in einsum.reduction_ranks]
            for point in itertools.product(*(self._range(einsum, r) for r in outer)):
                at = {r.lower(): c for r, c in zip(outer, point, strict=True)}
                written = tuple(_index(i, self.shape, at) for i in einsum.output.indices)
                if written == coordinates:
                    return self._reduce(einsum, at)
        return 0.0

    def _reduce(self, einsum: Einsum, at):
        values = []
        ranges = [self._range(einsum, r) for r in einsum.reduction_ranks]
        for point in itertools.product(*ranges):
            here = {
                **at,
                **{r.lower(): c for r, c in zip(einsum.reduction_ranks, point, strict=True)},
            }
            if all(self._holds(c, here) for c in einsum.filters) and all(
                _COMPARE[c.comparison](self._value(c.left, here), self._value(c.right, here))
                for c in einsum.data_filters
            ):
                values.append(self._value(einsum.expression, here))
        if einsum.reduction is None:
            return values[0] if values else 0.0
        total = _START[einsum.reduction]
        for value in values:
            total = _BINARY[einsum.reduction](total, value)
        return total

    def _holds(self, condition, at) -> bool:
        left = _index(condition.left, self.shape, at)
        right = _index(condition.right, self.shape, at)
        return _COMPARE[condition.comparison](left, right)

    def _value(self, node, at):
        if isinstance(node, Number):
            return node.value
        if isinstance(node, Coordinate):
            return _index(node.index, self.shape, at)
        if isinstance(node, Access):
            coordinates = [_index(i, self.shape, at) for i in node.indices]
            for gather in node.gathers:
                coordinates[gather.position] = _index(gather.offset, self.shape, at) + sum(
                    _index(factor, self.shape, {}) * int(self._value(table, at))
                    for factor, table in gather.tables
                )
            return self.element(node.tensor, tuple(coordinates))
        assert isinstance(node, Call)
        arguments = [self._value(a, at) for a in node.arguments]
        if node.operator in _BINARY:
            return _BINARY[node.operator](*arguments)
        if node.operator == "neg":
            return -arguments[0]
        if node.operator in self.functions:
            return float(self.functions[node.operator](*arguments))
        if node.operator == "exp":
            return math.exp(arguments[0]) if arguments[0] < 700 else math.inf
        return _UNARY[node.operator](*arguments)


@pytest.fixture
def interpreter() -> type[Interpreter]:
    """The naive executor."""
    return Interpreter
