"""The grammar of one Einsum, and the syntax tree that it gives.

    SLN[m1,m0,p] = exp(QK[m1,m0,p] - RM[m1+1,p]) where m1*M0+m0 <= p
    GM[p]        = max over m of QK[m,p]

Names are not resolved here: that is `building`'s part, which knows the ranks and the tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from lark import Lark, Token, Transformer, v_args
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken, VisitError

from einsum_cascade.affine import Affine
from einsum_cascade.source import InputError, Place

_GRAMMAR = r"""
einsum: access "=" [reduction] expression [filter]
reduction: (NAME | SUM) "over" NAME ("," NAME)* "of"
filter: "where" condition (("," | "and") condition)*
condition: expression (COMPARE expression)+
access: NAME ["[" expression ("," expression)* "]"]

?expression: sum
    | expression _LSHIFT sum -> lshift
    | expression _RSHIFT sum -> rshift
?sum: product
    | sum "+" product -> add
    | sum "-" product -> sub
?product: unary
    | product "*" unary -> mul
    | product "/" unary -> div
    | product "//" unary -> floordiv
    | product "%" unary -> mod
?unary: atom
    | "-" unary -> neg
?atom: NUMBER -> number
    | NAME "(" expression ("," expression)* ")" -> call
    | access
    | "(" expression ")"

SUM: "+"
_LSHIFT.2: "<<"
_RSHIFT.2: ">>"
COMPARE: "<=" | ">=" | "==" | "!=" | "<" | ">"
NUMBER: /([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?/
NAME: /[A-Za-z_][A-Za-z_0-9]*/
%ignore /[ \t]+/
"""

# what a person would call the grammar's terminals, for the list of what may stand at an error
_WORDS = {
    "NAME": "a name",
    "NUMBER": "a number",
    "COMPARE": "a comparison (<= < >= > == !=)",
    "EQUAL": "=",
    "PLUS": "+",
    "SUM": "+",
    "MINUS": "-",
    "STAR": "*",
    "SLASH": "/",
    "_LSHIFT": "<<",
    "_RSHIFT": ">>",
    "__ANON_0": "//",
    "PERCENT": "%",
    "LPAR": "(",
    "RPAR": ")",
    "LSQB": "[",
    "RSQB": "]",
    "COMMA": ",",
    "OVER": "over",
    "OF": "of",
    "WHERE": "where",
    "AND": "and",
    "$END": "the end",
}


_MAX_DEPTH = 200


@dataclass(frozen=True)
class RawAccess:
    """A name, with or without indices, and the column (from 0) where it begins."""

    name: str
    indices: tuple[Raw, ...] | None
    column: int = field(default=0, compare=False)


@dataclass(frozen=True)
class RawNumber:
    """A literal number."""

    value: int | float
    column: int = field(default=0, compare=False)


@dataclass(frozen=True)
class RawCall:
    """An operator or a function on its arguments."""

    operator: str
    arguments: tuple[Raw, ...]
    column: int = field(default=0, compare=False)


Raw = RawAccess | RawNumber | RawCall


@dataclass(frozen=True)
class RawCondition:
    """`left comparison right`."""

    left: Raw
    comparison: str
    right: Raw
    column: int = field(default=0, compare=False)


@dataclass(frozen=True)
class RawReduction:
    """`operator over variables of`."""

    operator: str
    variables: tuple[str, ...]
    column: int = field(default=0, compare=False)
    variable_columns: tuple[int, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class RawEinsum:
    """One statement of the notation."""

    output: RawAccess
    reduction: RawReduction | None
    expression: Raw
    filters: tuple[RawCondition, ...]


def _column(token: Token) -> int:
    return (token.column or 1) - 1


def _begin(node: Raw) -> int:
    """The leftmost column of a tree (an operator stands between its operands)."""
    if isinstance(node, RawCall) and node.arguments:
        return min(node.column, *(_begin(a) for a in node.arguments))
    return node.column


@v_args(inline=True)
class _Build(Transformer[Token, Any]):
    """From lark's tree to ours."""

    def access(self, name: Token, *indices: Raw | None) -> Raw:
        kept = tuple(i for i in indices if i is not None)
        if not kept and str(name) == "inf":
            return RawNumber(float("inf"), _column(name))
        return RawAccess(str(name), kept or None, _column(name))

    def number(self, token: Token) -> RawNumber:
        text = str(token)
        return RawNumber(int(text) if text.isdigit() else float(text), _column(token))

    def call(self, name: Token, *arguments: Raw) -> RawCall:
        return RawCall(str(name), arguments, _column(name))

    def neg(self, value: Raw) -> Raw:
        if isinstance(value, RawNumber):
            return RawNumber(-value.value, value.column)
        return RawCall("neg", (value,), _begin(value))

    def _binary(operator: str) -> Any:  # type: ignore[misc]  # noqa: N805
        def build(self: Any, left: Raw, right: Raw) -> RawCall:
            return RawCall(operator, (left, right), _begin(left))

        return build

    add = _binary("add")
    sub = _binary("sub")
    mul = _binary("mul")
    div = _binary("div")
    floordiv = _binary("floordiv")
    mod = _binary("mod")
    lshift = _binary("lshift")
    rshift = _binary("rshift")

    def reduction(self, operator: Token, *names: Token) -> RawReduction:
        columns = tuple(_column(n) for n in names)
        return RawReduction(str(operator), tuple(map(str, names)), _column(operator), columns)

    def condition(self, *parts: Any) -> list[RawCondition]:
        return [
            RawCondition(parts[i], str(parts[i + 1]), parts[i + 2], _begin(parts[i]))
            for i in range(0, len(parts) - 2, 2)
        ]

    def filter(self, *conditions: list[RawCondition]) -> tuple[RawCondition, ...]:
        return tuple(c for chain in conditions for c in chain)

    def einsum(self, output: Raw, reduction: Any, expression: Raw, filters: Any) -> RawEinsum:
        if not isinstance(output, RawAccess):
            raise _Misplaced("a tensor must stand on the left side", output.column)
        return RawEinsum(output, reduction, expression, filters or ())


class _Misplaced(Exception):  # noqa: N818
    def __init__(self, message: str, column: int) -> None:
        super().__init__(message)
        self.column = column


@lru_cache(maxsize=1)
def _parser() -> Lark:
    return Lark(
        _GRAMMAR, parser="lalr", start=["einsum", "access", "condition"], maybe_placeholders=True
    )


Locate = Callable[[int], Place | None]
"""Column (from 0) in the text to the place in the file."""


def parse(text: str, start: str, locate: Locate) -> Any:
    """The tree of `text`: a `RawEinsum`, a `RawAccess` or a list of `RawCondition`.

    Raises `InputError` at the first character that no Einsum can have there.
    """
    if "\n" in text.strip():
        line = next((n for n in text.splitlines() if n.strip()), "")
        raise InputError("an Einsum must stand on one line", locate(len(line)))
    try:
        tree = _Build().transform(_parser().parse(text, start=start))
        _check_depth(tree, locate)
        return tree
    except UnexpectedToken as error:
        end = error.token.type == "$END"
        found = "the end" if end else repr(str(error.token))
        column = len(text.rstrip()) if end else (error.column or 1) - 1
        expected = sorted({_WORDS.get(e, e) for e in error.accepts or error.expected})
        raise InputError(
            f"unexpected {found} in {text.strip()!r}", locate(column), allowed=expected
        ) from None
    except UnexpectedCharacters as error:
        column = error.column - 1
        found = repr(text[column])
        raise InputError(
            f"unexpected character {found} in {text.strip()!r}", locate(column)
        ) from None
    except UnexpectedInput:
        raise InputError(f"not an Einsum: {text.strip()!r}", locate(0)) from None
    except VisitError as error:
        if isinstance(error.orig_exc, RecursionError):
            raise InputError(
                f"an expression nested deeper than {_MAX_DEPTH} operations", locate(0)
            ) from None
        if isinstance(error.orig_exc, _Misplaced):
            raise InputError(str(error.orig_exc), locate(error.orig_exc.column)) from None
        raise
    except RecursionError:  # before there is a tree to measure
        raise InputError(
            f"an expression nested deeper than {_MAX_DEPTH} operations", locate(0)
        ) from None


def reads_tensor(node: Raw) -> bool:
    """Whether a tensor at indices stands in the tree."""
    if isinstance(node, RawAccess):
        return node.indices is not None
    return isinstance(node, RawCall) and any(map(reads_tensor, node.arguments))


def to_affine(node: Raw, resolve: Callable[[RawAccess], Affine], locate: Locate) -> Affine:
    """`node` as an affine index expression; `resolve` knows the names."""
    if isinstance(node, RawNumber):
        if not isinstance(node.value, int):
            raise InputError(f"{node.value} is no coordinate: an integer is", locate(node.column))
        return Affine.of_number(node.value)
    if isinstance(node, RawAccess):
        if node.indices is not None:
            raise InputError(
                f"the tensor {node.name!r} cannot stand in an index", locate(node.column)
            )
        return resolve(node)
    arguments = [to_affine(a, resolve, locate) for a in node.arguments]
    if node.operator == "neg":
        return -arguments[0]
    if node.operator == "add":
        return arguments[0] + arguments[1]
    if node.operator == "sub":
        return arguments[0] - arguments[1]
    if node.operator == "mul":
        try:
            return arguments[0] * arguments[1]
        except ValueError as error:
            raise InputError(str(error), locate(node.column)) from None
    raise InputError(
        f"{node.operator!r} cannot stand in an index", locate(node.column), allowed=["+", "-", "*"]
    )


def _check_depth(tree: Any, locate: Locate) -> None:
    """Everything behind the parser recurses, so a tree has a depth that Python's stack can take."""
    roots: list[Any] = []
    if isinstance(tree, RawEinsum):
        roots = [tree.output, tree.expression]
        roots += [side for c in tree.filters for side in (c.left, c.right)]
    elif isinstance(tree, RawAccess):
        roots = [tree]
    pending = [(root, 1) for root in roots]
    while pending:
        node, depth = pending.pop()
        if depth > _MAX_DEPTH:
            raise InputError(
                f"an expression nested deeper than {_MAX_DEPTH} operations", locate(node.column)
            )
        if isinstance(node, RawCall):
            pending += [(argument, depth + 1) for argument in node.arguments]
        elif isinstance(node, RawAccess):
            pending += [(index, depth + 1) for index in node.indices or ()]
