"""Expressions of the project's grammar as conditions and values over columns of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from einsum_cascade.expression import Expression, parse_expression
from einsum_cascade.source import InputError

if TYPE_CHECKING:
    import polars as pl

EXTRA = {"edp": "latency_s*energy_pj"}
"""Names that stand for something worked out from columns."""


def parsed(text: str, columns: Sequence[str], option: str, condition: bool = False) -> Expression:
    """The expression of an option of the command, its names checked against `columns`."""
    try:
        rule = parse_expression(text)
    except InputError as error:
        raise InputError(
            f"{option}: {error.message}", allowed=error.allowed, found=error.found
        ) from None
    compares = bool(set(text) & set("<>"))
    if compares != condition:
        wanted = "a comparison such as 'area_um2 <= 1e9'" if condition else "a value"
        raise InputError(f"{option}: {wanted} is expected, found {text!r}")
    for name in sorted(rule.names):
        column_of(name, columns, option)
    return rule


def column_of(name: str, columns: Sequence[str], option: str) -> str:
    """The column that a name stands for, maybe without its `arch.` or `shape.`."""
    for candidate in (name, f"arch.{name}", f"shape.{name}"):
        if candidate in columns or candidate in EXTRA:
            return candidate
    known = [*columns, *EXTRA]
    raise InputError(f"{option}: unknown column {name!r}", allowed=known, found=name)


def compiled(rule: Expression, columns: Sequence[str]) -> pl.Expr:
    """An expression over columns; null wherever one of its columns is."""
    import polars as pl

    def named(name: str) -> pl.Expr:
        column = column_of(name, columns, "")
        if column in EXTRA:
            return compiled(parse_expression(EXTRA[column]), columns)
        return pl.col(column).cast(pl.Float64)

    def applied(operation: str, of: Sequence[Any]) -> pl.Expr:
        values = [v if isinstance(v, pl.Expr) else pl.lit(float(v)) for v in of]
        if operation in ("min", "max"):
            return _extreme(operation, values)
        found: pl.Expr = _OPERATIONS[operation](*values)
        return found

    found = rule.fold(named, applied)
    return found if isinstance(found, pl.Expr) else pl.lit(found)


def _extreme(operation: str, values: Sequence[pl.Expr]) -> pl.Expr:
    import polars as pl

    across = pl.min_horizontal if operation == "min" else pl.max_horizontal
    missing = reduce(lambda a, b: a | b, (v.is_null() for v in values))
    return pl.when(~missing).then(across(*values))


_OPERATIONS: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "floordiv": lambda a, b: (a / b).floor(),
    "mod": lambda a, b: a - b * (a / b).floor(),
    "pow": lambda a, b: a.pow(b),
    "neg": lambda a: -a,
    "le": lambda a, b: a <= b,
    "lt": lambda a, b: a < b,
    "ge": lambda a, b: a >= b,
    "gt": lambda a, b: a > b,
    "ceil": lambda a: a.ceil(),
    "floor": lambda a: a.floor(),
    "sqrt": lambda a: a.sqrt(),
    "log2": lambda a: a.log(2.0),
    "pow2_at_least": lambda a: (
        (a.clip(lower_bound=1).log(2.0).ceil() * math.log(2.0)).exp().round()
    ),
}
