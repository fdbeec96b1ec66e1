"""Words of a tensor that one access reaches at least: distinct coordinates, counted in closed form.

Coordinates are told apart by the *units* that move them: index variables, or a rank whose parts an
index or a filter uses together only. An index that one unit moves determines it. What stays open is
a *window*, an index that several units move: sums of strides, counted without the coordinates that
they share. Where units that no index determines are tied to others by a filter, the mean over them
is taken, which is never more than there is. Filters on data are random, see `tiles`: of the tuples
of coordinates, the expected share is reached of which any point passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from functools import reduce
from itertools import product
from typing import Any

import numpy as np

from einsum_cascade.affine import Affine, Term, mixed_radix
from einsum_cascade.cascade import Cascade, Einsum
from einsum_cascade.filters import (
    Band,
    Filtered,
    counted,
    filtered_space,
    maximum,
    minimum,
    reach,
    reach_at_best,
)
from einsum_cascade.occupancy import occupancy_of, share
from einsum_cascade.shapes import iteration_ranges
from einsum_cascade.views import Shown, asked


def reached(cascade: Cascade, einsum: Einsum, use: Shown, values: Mapping[str, Any]) -> Any:
    """Words that `use`, an access of `einsum`, reaches at least (with filters on data: expected).

    `values` are extents as in `shapes.points_in`. A table of data is taken to point to as many
    coordinates as it has entries, as far as there are.

    >>> from einsum_cascade import parse_cascade
    >>> from einsum_cascade.views import reads
    >>> causal = parse_cascade("{name: c, ranks: [P, M], inputs: ['S[m,p]', 'V[m]'], "
    ...     "body: ['Y[p] = S[m,p] * V[m] where m <= p']}")
    >>> y = causal.einsum("Y")
    >>> [reached(causal, y, read, {"P": 4, "M": 4}) for read in reads(causal, y)]
    [10, 4]
    """
    space = _Space(cascade, einsum, values, use not in asked(cascade, einsum))
    extents = [e.evaluate(values, {}) for e in cascade.tensors[use.tensor].extents]
    plain = [i for i in range(len(extents)) if i not in use.scattered]
    indices = [space.joined(index) for index in use.indices]
    total = space.words([(indices[i], extents[i]) for i in plain], ())
    if use.scattered:
        pointed = {v for i in use.scattered for v in indices[i].variables}
        entries = space.words([(indices[i], extents[i]) for i in plain], pointed)
        there = _product(extents[i] for i in use.scattered)
        if _is_form(total) or _is_form(entries):  # what both share stands before the minimum
            return total * minimum(there, entries / total)
        total = minimum(total * there, entries)
    return total


class _Space:
    """The iteration space of an Einsum as its filters leave it."""

    def __init__(
        self, cascade: Cascade, einsum: Einsum, values: Mapping[str, Any], data: bool
    ) -> None:
        self.cascade, self.einsum, self.values = cascade, einsum, values
        self.ranges = iteration_ranges(cascade, einsum, values)
        self.filtered = filtered_space(cascade, einsum, values) if einsum.filters else _ALL
        self.conditions = []
        for condition in einsum.data_filters if data else ():
            rules = occupancy_of(cascade, condition)
            if rules is not None:
                variables = {v for a in condition.accesses for v in a.variables}
                self.conditions.append((variables, [share(rule, values) for rule in rules]))

    def joined(self, index: Affine) -> Affine:
        """`m1*M0+m0+k` as `m+k`."""
        for rank in self.cascade.ranks.values():
            if rank.partition and rank.variable not in self.ranges:
                parts = mixed_radix(rank.partition)
                for whole, sign in ((parts, 1), (-parts, -1)):
                    if set(whole.terms) <= set(index.terms):
                        index = index - whole + Affine((Term(rank.variable, (), sign),))
        return index

    def parts(self, unit: str) -> tuple[str, ...]:
        """The index variables of a unit."""
        if unit in self.ranges:
            return (unit,)
        rank = self.cascade.ranks[unit.upper()]
        return tuple(v for part in rank.partition for v in self.parts(part.lower()))

    def extent(self, unit: str) -> Any:
        """Coordinates of a unit, filters aside."""
        if unit in self.ranges:
            start, stop = self.ranges[unit]
            return stop - start
        return _product(self.extent(v) for v in self.parts(unit))

    def words(self, indices: list[tuple[Affine, Any]], known: Iterable[str]) -> Any:
        """Distinct tuples of indices (each with its tensor's extent), and of the units `known`."""
        return self._words(indices, frozenset(v for u in known for v in self.parts(u)), frozenset())

    def _words(
        self, indices: list[tuple[Affine, Any]], known: frozenset[str], held: frozenset[str]
    ) -> Any:
        """The same at one coordinate of each of `held`."""
        found = set(known)
        left = [(index, extent) for index, extent in indices if not index.is_constant]
        settled = False
        while not settled:
            settled = True
            for index, _ in left:
                units = self._open(index, found | held)
                if len(units) == 1:
                    found.update(self.parts(units[0]))
                    settled = False
        rest = [(*each, units) for each in left if (units := self._open(each[0], found | held))]
        bands: list[Band] = []  # accounted for by windows
        for index, _, units in rest:
            others = [u for _, _, other in rest if other is not units for u in other]
            tied = self._window_bands(index, units, others, found | held)
            if tied is None:
                return self._at_one(indices, known, held, [u for *_, units in rest for u in units])
            bands += tied
        total, averaged = self._held(found, held)
        free = set(found)
        for band in self.filtered.bands:
            free.difference_update(*(self.parts(unit) for unit in band.names))
            if band not in bands:
                total = total * self._of_band(band, found, averaged, held)
        total = total * _product(self.extent(v) for v in sorted(free))
        for index, extent, units in rest:
            total = total * minimum(extent, self._window(index, units))
        truth = self.filtered.always
        if _is_form(truth) or np.all(truth):
            return total
        return np.where(truth, total, 0) if np.ndim(truth) else 0

    def _at_one(
        self,
        indices: list[tuple[Affine, Any]],
        known: frozenset[str],
        held: frozenset[str],
        units: list[str],
    ) -> Any:
        """Words at one coordinate of one more unit, that of which leaves most; in a closed form one
        that most indices have, rather of a reduction."""
        choices = list(dict.fromkeys(units))
        if any(map(_is_form, self.values.values())):
            kept = self.einsum.output.variables
            choices = [max(choices, key=lambda u: (units.count(u), u not in kept, units.index(u)))]
        counts = [self._words(indices, known, held.union(self.parts(u))) for u in choices]
        return reduce(maximum, counts)

    def _open(self, index: Affine, settled: set[str]) -> list[str]:
        """Units of an index that are not settled."""
        return [u for u in index.variables if not settled.issuperset(self.parts(u))]

    def _window_bands(
        self, index: Affine, units: list[str], others: list[str], taken: set[str]
    ) -> list[Band] | None:
        """The bands of the units of a window that depends on nothing else; None if it does."""
        mine = {v for u in units for v in self.parts(u)}
        asked_for = {v for variables, _ in self.conditions for v in variables}
        if mine & (taken | asked_for) or any(mine.intersection(self.parts(u)) for u in others):
            return None
        found = []
        for band in self.filtered.bands:
            if mine.isdisjoint(v for unit in band.names for v in self.parts(unit)):
                continue
            if not band.closed:
                return None
            outside = {v for u in band.names if u not in units for v in self.parts(u)}
            if outside & (taken | asked_for) or outside.intersection(
                v for u in others for v in self.parts(u)
            ):
                return None
            if len(band.names) == 2 and not outside:  # it must bound what the index has of both
                one, two = (_stride(index, name) for name in band.names)
                if one != (two[0] if band.mirrored else -two[0], two[1]):
                    return None
            found.append(band)
        return found

    def _window(self, index: Affine, units: list[str]) -> Any:
        """Distinct values of an index that several units move."""
        strides = {
            unit: _product([abs(coefficient), *(self.values[s] for s in names)])
            for unit in units
            for coefficient, names in [_stride(index, unit)]
        }
        counts = {unit: self.extent(unit) for unit in units}
        for band in self.filtered.bands:
            inside = [i for i, name in enumerate(band.names) if name in units]
            if len(inside) == 1:
                counts[band.names[inside[0]]] = reach(band, inside[0])
            if len(inside) < 2:
                continue
            (x0, x1), (y0, y1) = band.within
            least, most = x0 - y1 + 1, x1 - 1 - y0
            low = least if band.low is None else maximum(least, band.low)
            high = most if band.high is None else minimum(most, band.high)
            some = _some(counted(band, self.values, self.einsum))
            counts[band.names[0]] = maximum(high - low + 1, 0) * some
            counts[band.names[1]] = 1
        return distinct_sums([(strides[unit], counts[unit]) for unit in reversed(units)])

    def _of_band(
        self, band: Band, found: Set[str], mean: Set[str], held: Set[str] = frozenset()
    ) -> Any:
        """Distinct coordinates, of what is found, that a band leaves: of all that it ties them to,
        on average over `mean`, or at the best coordinate of `held`."""
        inside = [v for unit in band.names for v in self.parts(unit)]
        if found.isdisjoint(inside):
            return _some(counted(band, self.values, self.einsum))
        lacking = [v for v in inside if v not in found]
        if band.closed:
            moved = [i for i, u in enumerate(band.names) if not found.isdisjoint(self.parts(u))]
            other = {v for i, u in enumerate(band.names) if i not in moved for v in self.parts(u)}
            parts = _product(self.extent(v) for v in lacking if v not in other)
            if len(moved) == 1 and not other & (mean | held):
                return _over(reach(band, moved[0]), parts)
            if len(moved) == 1 and other <= held - mean:
                some = _some(counted(band, self.values, self.einsum))
                return _over(reach_at_best(band, moved[0]), parts) * some
        points = counted(band, self.values, self.einsum)
        return _over(points, _product(self.extent(v) for v in lacking))

    def _held(self, found: Set[str], mean: Set[str]) -> tuple[Any, Set[str]]:
        """The expected share of tuples that filters on data leave, and what more is averaged over.

        Conditions that vary over something common are taken to hold or not at each of its points.
        """
        groups: list[tuple[list[set[str]], list[list[Any]]]] = []
        for variables, shares in self.conditions:
            others = {v for v in variables if v in self.ranges} - found - mean
            touching = [g for g in groups if any(others & o for o in g[0])]
            merged = ([others], [shares])
            for group in touching:
                merged = (group[0] + merged[0], group[1] + merged[1])
            groups = [g for g in groups if g not in touching] + [merged]
        total: Any = 1
        averaged: set[str] = set()
        for several, shares in groups:
            common = set.intersection(*several)
            averaged |= set.union(*several)
            points = self._points(common, found)
            chances = [1 - (1 - _product(chosen)) ** points for chosen in product(*shares)]
            total = total * (sum(chances) / len(chances))
        return total, averaged

    def _points(self, variables: Set[str], found: Set[str]) -> Any:
        """How many coordinates variables that nothing determines have."""
        total: Any = 1
        for band in self.filtered.bands:
            inside = {v for unit in band.names for v in self.parts(unit)}
            if variables & inside and not found & inside:
                held = self._of_band(band, variables & inside, set())
                total, variables = total * held, variables - inside
        return total * _product(self.extent(v) for v in variables)


_ALL = Filtered((), {}, True)


def distinct_sums(terms: list[tuple[Any, Any]]) -> Any:
    """How many values `a*i + b*j + ...` has at least, for `0 <= i < n` and so on: exactly so with
    two terms, and where those before make a row without gaps.

    `terms` are strides and numbers of steps: numbers, arrays or closed forms.

    >>> distinct_sums([(2, 4), (4, 3)]), distinct_sums([(2, 100), (3, 4)])
    (8, 206)
    >>> distinct_sums([(8, 5), (1, 3)])
    15
    """
    ordered = sorted(terms, key=lambda t: not (isinstance(t[0], int) and t[0] == 1))
    if all(isinstance(stride, int) for stride, _ in terms):
        ordered = sorted(terms, key=lambda t: t[0])
    (stride, count), *rest = ordered
    row: Any = True  # what is counted so far are steps of `stride`, without a gap
    for b, m in rest:
        least = count + m - 1
        joined, dense = _joined((stride, count), (b, m))
        if row is True:
            count, row = joined, dense
        elif row is False:
            count = least
        else:
            count, row = np.where(row, joined, least), row & dense
    for _, m in terms:
        count = count * _some(m)
    return count


def _joined(one: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[Any, Any]:
    """Distinct sums of two rows of steps, and whether they are steps of the first, without a gap.

    The second falls into classes by what is left of its steps over those of the first. In each, it
    shifts the first row by as many steps as it has, or as there are between.
    """
    (a, n), (b, m) = one, other
    if isinstance(a, int) and a == 1:
        classes, shift, whole = 1, b, True
    elif a is b or (_is_form(a) and a == b):
        classes, shift, whole = 1, 1, True
    elif _is_form(a) or _is_form(b):
        return n + m - 1, False
    else:
        common = np.gcd(np.asarray(a, dtype=np.int64), np.asarray(b, dtype=np.int64))
        steps = np.asarray(a // common, dtype=np.int64)
        classes, shift, whole = minimum(steps, m), np.asarray(b // common), steps == 1
    dense = bool(shift == n) if _is_form(shift) or _is_form(n) else shift <= n
    sums = classes * n + (m - classes) * minimum(n, shift)
    if _is_form(sums):
        import sympy

        return sympy.expand(sums), dense
    if np.ndim(sums) == 0:
        return _integer(sums), bool(whole) and bool(dense)
    return sums, np.logical_and(whole, dense)


def _stride(index: Affine, unit: str) -> tuple[int, tuple[str, ...]]:
    """What a unit is multiplied with in an index: a number and the names of extents."""
    terms = [t for t in index.terms if t.variable == unit]
    (term,) = terms
    return term.coefficient, term.symbols


def _integer(number: Any) -> Any:
    """A Python integer where the number is one."""
    return int(number) if float(number).is_integer() else float(number)


def _is_form(value: Any) -> bool:
    """Whether a value is a closed form."""
    return hasattr(value, "free_symbols")


def _some(points: Any) -> Any:
    """1 where there are any points."""
    if _is_form(points):
        return 1
    return np.where(points > 0, 1, 0) if np.ndim(points) else int(points > 0)


def _over(count: Any, parts: Any) -> Any:
    """The least number of groups of `parts` that hold `count`."""
    if _is_form(count) or _is_form(parts):
        return count / parts
    if isinstance(count, int) and isinstance(parts, int):
        return -(-count // parts)
    return np.ceil(count / parts)


def _product(factors: Iterable[Any]) -> Any:
    return reduce(lambda a, b: a * b, factors, 1)


__all__ = ["distinct_sums", "reached"]
