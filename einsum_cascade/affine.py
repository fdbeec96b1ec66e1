"""Affine index expressions: `m1*M0+m0`, `m1+1`, `0`, `M1`.

An index variable is written in lower case and ranges over the rank of the same name in upper case;
a name in upper case is the extent of a rank or a parameter of the shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True, order=True)
class Term:
    """`coefficient * symbols * variable`; without a variable, a constant of the shape."""

    variable: str
    symbols: tuple[str, ...]
    coefficient: int

    def __str__(self) -> str:
        factors = [*([self.variable] if self.variable else []), *self.symbols]
        if abs(self.coefficient) != 1 or not factors:
            factors.insert(0, str(abs(self.coefficient)))
        return "*".join(factors)


@dataclass(frozen=True)
class Affine:
    """A sum of terms, each with at most one index variable.

    >>> str(Affine.of_variable("m1") * Affine.of_symbol("M0") + Affine.of_variable("m0"))
    'm1*M0+m0'
    """

    terms: tuple[Term, ...]

    @staticmethod
    def of_variable(name: str) -> Affine:
        """The index variable itself."""
        return Affine((Term(name, (), 1),))

    @staticmethod
    def of_symbol(name: str) -> Affine:
        """The extent of a rank, or a parameter."""
        return Affine((Term("", (name,), 1),))

    @staticmethod
    def of_number(value: int) -> Affine:
        """A constant coordinate."""
        return Affine((Term("", (), value),) if value else ())

    @staticmethod
    def _collect(terms: Iterable[Term]) -> Affine:
        sums: dict[tuple[str, tuple[str, ...]], int] = {}
        for term in terms:
            key = (term.variable, term.symbols)
            sums[key] = sums.get(key, 0) + term.coefficient
        # variables first, the one of the longest stride foremost, as people write them
        kept = [Term(v, s, c) for (v, s), c in sums.items() if c]
        kept.sort(key=lambda t: (not t.variable, -len(t.symbols), -abs(t.coefficient)))
        return Affine(tuple(kept))

    def __add__(self, other: Affine) -> Affine:
        return self._collect((*self.terms, *other.terms))

    def __neg__(self) -> Affine:
        return Affine(tuple(Term(t.variable, t.symbols, -t.coefficient) for t in self.terms))

    def __sub__(self, other: Affine) -> Affine:
        return self + (-other)

    def __mul__(self, other: Affine) -> Affine:
        """The product; ValueError when it would multiply two index variables."""
        products = []
        for a in self.terms:
            for b in other.terms:
                if a.variable and b.variable:
                    raise ValueError(f"{a.variable}*{b.variable} is not affine")
                symbols = tuple(sorted((*a.symbols, *b.symbols)))
                products.append(
                    Term(a.variable or b.variable, symbols, a.coefficient * b.coefficient)
                )
        return self._collect(products)

    def __str__(self) -> str:
        text = ""
        for term in self.terms:
            sign = "-" if term.coefficient < 0 else "+" if text else ""
            text += f"{sign}{term}"
        return text or "0"

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """The index variables, in the order written."""
        return tuple(dict.fromkeys(t.variable for t in self.terms if t.variable))

    @property
    def symbols(self) -> tuple[str, ...]:
        """The shape symbols: extents and parameters."""
        return tuple(dict.fromkeys(s for t in self.terms for s in t.symbols))

    @cached_property
    def variable(self) -> str | None:
        """The variable when the expression is that variable plus an integer, else None.

        >>> (Affine.of_variable("k") + Affine.of_number(1)).variable
        'k'
        """
        with_variable = [t for t in self.terms if t.variable]
        if len(with_variable) != 1 or with_variable[0].symbols or with_variable[0].coefficient != 1:
            return None
        rest = [t for t in self.terms if not t.variable]
        return with_variable[0].variable if all(not t.symbols for t in rest) else None

    @property
    def offset(self) -> int:
        """The integer that is added, shape symbols aside."""
        return sum(t.coefficient for t in self.terms if not t.variable and not t.symbols)

    @property
    def is_plain(self) -> bool:
        """Exactly one index variable, with nothing added."""
        return self.variable is not None and len(self.terms) == 1

    @property
    def is_constant(self) -> bool:
        """No index variable: an integer, or a terminal coordinate such as `M1`."""
        return not self.variables

    @property
    def is_terminal(self) -> bool:
        """A constant that a shape symbol sets, such as `M1`."""
        return self.is_constant and bool(self.symbols)

    def substitute(self, indices: Mapping[str, Affine]) -> Affine:
        """The same with other index expressions in place of its variables.

        >>> m = Affine.of_variable("p") + Affine.of_variable("k")
        >>> str(m.substitute({"p": Affine.of_variable("q") * Affine.of_number(2)}))
        '2*q+k'
        """
        total = Affine(())
        for term in self.terms:
            factor = Affine((Term("", term.symbols, term.coefficient),))
            if term.variable:
                factor = factor * indices.get(term.variable, Affine.of_variable(term.variable))
            total = total + factor
        return total

    def evaluate(self, shape: Mapping[str, Any], coordinates: Mapping[str, Any]) -> Any:
        """The coordinate, broadcast over the integers and arrays that are given."""
        total: Any = 0
        for term in self.terms:
            value: Any = term.coefficient
            for symbol in term.symbols:
                value = value * shape[symbol]
            if term.variable:
                value = value * coordinates[term.variable]
            total = total + value
        return total


def mixed_radix(parts: Iterable[str]) -> Affine:
    """The index of a rank in terms of its parts, outermost first.

    >>> str(mixed_radix(("M2", "M1", "M0")))
    'm2*M0*M1+m1*M0+m0'
    """
    names = tuple(parts)
    total = Affine(())
    for position, name in enumerate(names):
        term = Affine.of_variable(name.lower())
        for inner in names[position + 1 :]:
            term = term * Affine.of_symbol(inner)
        total = total + term
    return total
