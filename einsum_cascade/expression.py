"""Arithmetic on named numbers, as it stands in architecture files and experiment specs.

A sizing rule such as `2*max(1, n//E)` is parsed by a grammar and evaluated on NumPy arrays: one
design point and a million take the same path. Nothing that a file says is ever run as code.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedInput

from einsum_cascade.source import InputError, Place

_GRAMMAR = r"""
?start: sum | sum "<=" sum -> le | sum "<" sum -> lt | sum ">=" sum -> ge | sum ">" sum -> gt
?sum: product | sum "+" product -> add | sum "-" product -> sub
?product: unary | product "*" unary -> mul | product "/" unary -> div
        | product "//" unary -> floordiv | product "%" unary -> mod
?unary: power | "-" unary -> neg
?power: atom | atom "**" unary -> pow
?atom: NUMBER -> number | NAME "(" sum ("," sum)* ")" -> call | NAME -> name | "(" sum ")"
NAME: /[A-Za-z_][A-Za-z_0-9]*(\.[A-Za-z_0-9]+)*/
NUMBER: /([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?/
%ignore /[ \t]+/
"""

_BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.true_divide,
    "floordiv": np.floor_divide,
    "mod": np.mod,
    "pow": np.power,
    "le": np.less_equal,
    "lt": np.less,
    "ge": np.greater_equal,
    "gt": np.greater,
}


def _pow2_at_least(value: Any) -> Any:
    return np.exp2(np.ceil(np.log2(np.maximum(value, 1))))


_FUNCTIONS: dict[str, tuple[Any, int | None]] = {
    "min": (lambda *a: _fold(np.minimum, a), None),
    "max": (lambda *a: _fold(np.maximum, a), None),
    "ceil": (np.ceil, 1),
    "floor": (np.floor, 1),
    "sqrt": (np.sqrt, 1),
    "log2": (np.log2, 1),
    "pow2_at_least": (_pow2_at_least, 1),
}


def _fold(function: Any, values: tuple[Any, ...]) -> Any:
    result = values[0]
    for value in values[1:]:
        result = function(result, value)
    return result


@lru_cache(maxsize=1)
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr")


@dataclass(frozen=True)
class Expression:
    """An arithmetic expression over named numbers.

    >>> rule = parse_expression("2*max(1, n//E)")
    >>> sorted(rule.names), rule.evaluate({"n": np.array([16, 256]), "E": 64})
    (['E', 'n'], array([2., 8.]))
    """

    text: str
    names: frozenset[str]
    place: Place | None = field(default=None, compare=False)
    _tree: Any = field(default=None, repr=False, compare=False)

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """The value, float64, broadcast over the arrays in `values`.

        Raises `InputError` for a name that `values` lacks, and for a value that is not finite.
        """
        with np.errstate(all="ignore"):
            result = self._value(self._tree, values)
        if not np.all(np.isfinite(result)):
            raise InputError(f"{self.text!r} is not a finite number", self.place)
        return result

    def fold(self, name: Callable[[str], Any], apply: Callable[[str, Sequence[Any]], Any]) -> Any:
        """The value in another arithmetic: of names, and of operations on values.

        Operations are `add sub mul div floordiv mod pow neg le lt ge gt` and the functions.

        >>> parse_expression("2*max(n, 1)").fold(str, lambda op, of: [op, *of])
        ['mul', 2.0, ['max', 'n', 1.0]]
        """

        def value(tree: Any) -> Any:
            kind = str(tree.data)
            if kind == "number":
                return float(tree.children[0])
            if kind == "name":
                return name(str(tree.children[0]))
            if kind == "call":
                return apply(str(tree.children[0]), [value(child) for child in tree.children[1:]])
            return apply(kind, [value(child) for child in tree.children])

        return value(self._tree)

    def symbolic(self, values: Mapping[str, Any]) -> Any:
        """The closed form over sympy symbols (and numbers) in `values`."""
        return _symbolic(self._tree, values)

    def _value(self, tree: Any, values: Mapping[str, Any]) -> Any:
        kind = str(tree.data)
        if kind == "number":
            return np.float64(tree.children[0])
        if kind == "name":
            name = str(tree.children[0])
            if name not in values:
                raise InputError(
                    f"unknown name {name!r} in {self.text!r}",
                    self.place,
                    allowed=sorted(values),
                    found=name,
                )
            return np.asarray(values[name], dtype=np.float64)[()]
        if kind == "call":
            function, _ = _FUNCTIONS[str(tree.children[0])]
            return function(*(self._value(child, values) for child in tree.children[1:]))
        if kind == "neg":
            return -self._value(tree.children[0], values)
        left, right = (self._value(child, values) for child in tree.children)
        return _BINARY[kind](left, right)


def _symbolic(tree: Any, values: Mapping[str, Any]) -> Any:
    import sympy

    kind = str(tree.data)
    if kind == "number":
        text = str(tree.children[0])
        return sympy.Integer(text) if text.isdigit() else sympy.Float(text)
    if kind == "name":
        return values[str(tree.children[0])]
    functions = {
        "min": sympy.Min,
        "max": sympy.Max,
        "ceil": sympy.ceiling,
        "floor": sympy.floor,
        "sqrt": sympy.sqrt,
        "log2": lambda x: sympy.log(x, 2),
        "pow2_at_least": lambda x: 2 ** sympy.ceiling(sympy.log(sympy.Max(x, 1), 2)),
    }
    if kind == "call":
        arguments = [_symbolic(child, values) for child in tree.children[1:]]
        return functions[str(tree.children[0])](*arguments)
    parts = [_symbolic(child, values) for child in tree.children]
    if kind == "neg":
        return -parts[0]
    if kind == "floordiv":
        return sympy.floor(parts[0] / parts[1])
    return getattr(operator, {"div": "truediv"}.get(kind, kind))(*parts)


def parse_expression(text: str, place: Place | None = None) -> Expression:
    """Parse arithmetic: numbers, names, `+ - * / // % **`, `min max ceil floor sqrt log2`, and
    `pow2_at_least` (the least power of two that is not smaller); or one comparison of two such.

    Raises `InputError` where the text leaves the grammar or a function gets a wrong number of
    arguments.
    """
    try:
        tree = _parser().parse(text)
    except UnexpectedInput as error:
        column = getattr(error, "column", -1)
        where = f" at column {column}" if isinstance(column, int) and column > 0 else " at its end"
        compared = (
            "; numbers compare with <=, <, >= and >"
            if "=" in text.replace("<=", "").replace(">=", "")
            else ""
        )
        said = f"not an arithmetic expression{where}: {text!r}{compared}"
        raise InputError(said, place) from None
    except RecursionError:
        raise InputError("expression nested too deeply", place) from None
    tree = tree if isinstance(tree, Tree) else Tree("name", [tree])
    for call in tree.find_data("call"):
        name, arguments = str(call.children[0]), call.children[1:]
        if name not in _FUNCTIONS:
            raise InputError(
                f"unknown function {name!r} in {text!r}", place, allowed=_FUNCTIONS, found=name
            )
        arity = _FUNCTIONS[name][1]
        if arity is not None and len(arguments) != arity:
            raise InputError(f"{name} takes {arity} argument, found {len(arguments)}", place)
    names = frozenset(
        str(token)
        for node in tree.find_data("name")
        for token in node.children
        if isinstance(token, Token)
    )
    return Expression(text, names, place, tree)


_SCALES = {
    "": 1.0,
    "K": 2.0**10,
    "M": 2.0**20,
    "G": 2.0**30,
    "T": 2.0**40,
}
_DECIMAL = {"": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY_PREFIX = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z/]*)\s*")


def looks_like_quantity(text: str) -> bool:
    """Whether a text is a number with letters behind it, so meant as a quantity.

    >>> looks_like_quantity("1 GB/s"), looks_like_quantity("2*side")
    (True, False)
    """
    return _QUANTITY.fullmatch(text) is not None


def parse_quantity(value: Any, unit: str = "") -> float:
    """A number with an optional prefix and unit, in `unit`.

    Counts (no unit) take the binary suffixes that the field uses for sequence lengths: 1K is 1024,
    and 1k, which many read as 1000, is refused. Units take SI (k, M, G) and IEC (Ki, Mi, Gi)
    prefixes.

    >>> parse_quantity("4K"), parse_quantity("32 MiB", "B"), parse_quantity("940 MHz", "Hz")
    (4096.0, 33554432.0, 940000000.0)

    Raises `InputError` when the text is no such number.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise InputError("a number too large to be computed with") from None
    wanted = f"a number in {unit}" if unit else "a number"
    example = {"": "4K", "B": "16 MiB", "B/s": "400 GiB/s", "Hz": "940 MHz"}.get(unit, "2.5")
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    scales: dict[str, float] = _SCALES if not unit else {**_DECIMAL, **_BINARY_PREFIX}
    if match:
        prefix = match.group(2).removesuffix(unit) if unit else match.group(2)
        bare = unit and not match.group(2)
        if bare or (match.group(2).endswith(unit) and prefix in scales):
            return float(match.group(1)) * scales["" if bare else prefix]
    if match and not unit and match.group(2) == "k":
        number = match.group(1)
        raise InputError(
            f"{value!r} is unclear: write {number}K for {float(number) * 1024:.15g}, or "
            f"{float(number) * 1000:.15g}"
        )
    raise InputError(f"expected {wanted} such as {example!r}, found {value!r}")
