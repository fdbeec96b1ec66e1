"""One cascade as one row of a comparison: what it forces on every mapping, in short closed forms.

Everything follows from the analysis and from the names that the project gives to ranks: M is keys,
P is queries, B batch, H heads, E, F and D embeddings. A cascade's own name says nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from einsum_cascade.affine import Affine, Term, mixed_radix
from einsum_cascade.analysis import PassAnalysis
from einsum_cascade.cascade import Cascade, Condition, Einsum
from einsum_cascade.filters import filtered_points
from einsum_cascade.passes import aliases
from einsum_cascade.render import _COMPARE, _data_condition
from einsum_cascade.shapes import iteration_ranges, known_shape, points_in, size_in, symbols

KEYS, QUERIES = "M", "P"
BATCH, EMBEDDINGS = ("B", "H"), ("E", "F", "D")
COMMON = ("mac", "mul", "add", "max")
LONG, PART, OTHER = 2**16, 256, 64
MOST_CHARACTERS = 40


@dataclass(frozen=True)
class Passes:
    """Passes over some ranks, each of which has that many.

    `always` of them are for all points; filters on data leave the later ones to some.
    """

    count: int
    always: int
    ranks: tuple[str, ...]

    def __str__(self) -> str:
        if not self.ranks:
            return "-"
        counts = str(self.count) if self.always == self.count else f"{self.always} to {self.count}"
        return f"{counts} ({', '.join(self.ranks)})"


@dataclass(frozen=True)
class Words:
    """Tensors that take `words` together, each with the ranks that its share of them is of."""

    tensors: tuple[tuple[str, tuple[str, ...]], ...]
    words: Any

    def __str__(self) -> str:
        names = [f"{name}[{','.join(r)}]" if r else name for name, r in self.tensors]
        return f"{', '.join(names)}: {self.words}" if names else "-"


@dataclass(frozen=True)
class Summary:
    """The row of one cascade; forms are factored sympy expressions.

    `operations` by kind and `factor`, which multiplies all of them. `notes` explain the symbols in
    the forms that are neither ranks nor parameters.
    """

    name: str
    keys: Passes
    queries: Passes
    state: Words
    special: tuple[str, ...]
    factor: Any
    operations: Mapping[str, Any]
    compulsory_words: Any
    footprint: Words
    notes: Mapping[str, str] = field(default_factory=dict)
    note_parts: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def grouped_operations(self) -> tuple[tuple[tuple[str, ...], Any], ...]:
        """Kinds of operations with the same form together."""
        groups: dict[Any, list[str]] = {}
        for kind, form in self.operations.items():
            groups.setdefault(form, []).append(kind)
        return tuple((tuple(kinds), form) for form, kinds in groups.items())


def summarize(analysis: PassAnalysis, given: Mapping[str, int] | None = None) -> Summary:
    """The row of a cascade; extents that `given` holds are put into its forms.

    Counts under a filter that mentions both M and P are for P up to M: there, query p is token
    p + M - P. `given` may lack any extent. Raises `InputError` where it contradicts the cascade.

    >>> from einsum_cascade import analyze_passes, parse_cascade
    >>> row = summarize(analyze_passes(parse_cascade('''
    ... name: linear
    ... ranks: [M, P, E, F]
    ... inputs: ["Q[e,p]", "K[e,m]", "V[f,m]"]
    ... body: ["KV[e,f] = K[e,m] * V[f,m]", "AV[f,p] = Q[e,p] * KV[e,f]"]
    ... ''')))
    >>> print(row.keys, "|", row.state, "|", row.operations["mac"])
    1 (M) | KV[E,F]: E*F | E*F*(M + P)
    """
    cascade = analysis.cascade
    keys, queries = key_ranks(analysis), query_ranks(analysis)
    forms = _Forms(analysis, known_shape(cascade, given) if given else {})
    operations = forms.operations()
    factor = forms.common_batch(operations.values())
    operations = {kind: forms.short(form / factor) for kind, form in operations.items()}
    return Summary(
        name=cascade.name,
        keys=_passes(analysis, keys),
        queries=_passes(analysis, queries),
        state=_state(analysis, keys, queries, forms),
        special=tuple(kind for kind in operations if kind not in COMMON),
        factor=forms.short(factor),
        operations=operations,
        compulsory_words=forms.compulsory(),
        footprint=_footprint(analysis, keys, queries, forms),
        notes={name: "".join(map(str, parts)) for name, parts in forms.notes.items()},
        note_parts=forms.notes,
    )


# Which ranks


def _passes(analysis: PassAnalysis, ranks: tuple[str, ...]) -> Passes:
    count = max(map(analysis.passes, ranks), default=0)
    certain = {e.name for e in analysis.cascade.einsums if not e.data_filters}
    if count < 2 or len(certain) == len(analysis.cascade.einsums):
        return Passes(count, count, ranks)
    always = max(
        level
        for rank in ranks
        for tensor in analysis.cascade.tensors
        if analysis.passes(rank, tensor)
        for name, level in (*analysis._of(rank, tensor).levels.items(), ("", 0))
        if name in certain or not name
    )
    return Passes(count, always or count, ranks)


def key_ranks(analysis: PassAnalysis) -> tuple[str, ...]:
    """The ranks of keys: those whose traversal yields an output.

    M, where an Einsum reduces it. Else the rank that an iterative rank divides into tiles. Else, of
    the ranks that Einsums reduce (batch, heads, queries and embeddings apart), those that an output
    has too (a sequence that attends to itself), or all of them; if these are several, those with
    most passes.
    """
    cascade = analysis.cascade
    reduced = _reduced(cascade)
    if KEYS in reduced:
        return (KEYS,)
    tiled = dict.fromkeys(_whole(cascade, rank) for rank in _tile_ranks(analysis))
    if tiled:
        return tuple(tiled)
    able = [r for r in cascade.ranks if r in reduced and r not in (*BATCH, *EMBEDDINGS, QUERIES)]
    shown = _of_outputs(cascade)
    able = [rank for rank in able if rank in shown] or able
    passes = {rank: analysis.passes(rank) for rank in able}
    return tuple(rank for rank, count in passes.items() if count == max(passes.values()))


def query_ranks(analysis: PassAnalysis) -> tuple[str, ...]:
    """The ranks of queries: P, where an output has it or a part of it.

    Else the ranks that an output shares with an input, batch, heads and embeddings apart.
    """
    cascade = analysis.cascade
    shown = _of_outputs(cascade)
    if QUERIES in shown:
        return (QUERIES,)
    read = {_whole(cascade, r) for name in cascade.inputs for r in cascade.tensors[name].ranks}
    return tuple(r for r in shown if r in read and r not in (*BATCH, *EMBEDDINGS))


def _of_outputs(cascade: Cascade) -> tuple[str, ...]:
    ranks = (_whole(cascade, r) for name in cascade.outputs for r in cascade.tensors[name].ranks)
    return tuple(dict.fromkeys(ranks))


def _whole(cascade: Cascade, rank: str) -> str:
    """The rank that `rank` is a part of, or itself."""
    while (parent := cascade.ranks[rank].parent) is not None:
        rank = parent
    return rank


def _reduced(cascade: Cascade) -> set[str]:
    return {_whole(cascade, r) for e in _computing(cascade) for r in e.reduction_ranks}


def _computing(cascade: Cascade) -> tuple[Einsum, ...]:
    return tuple(e for e in cascade.einsums if not (e.is_view or e.is_constant))


def _tile_ranks(analysis: PassAnalysis) -> tuple[str, ...]:
    """Iterative ranks that divide something into tiles: not the steps of a numerical method.

    A tensor that is made without the rank, as keys are, is read along it.
    """
    cascade = analysis.cascade
    read = {(a.tensor, v) for e in cascade.einsums for a in e.operands for v in a.variables}
    return tuple(
        rank
        for rank in cascade.iterative_ranks
        if any(
            (name, rank.lower()) in read
            and not any(rank in e.ranks for e in cascade.producers[name])
            for name in cascade.tensors
        )
    )


# Row state


def _state(
    analysis: PassAnalysis, keys: tuple[str, ...], queries: tuple[str, ...], forms: _Forms
) -> Words:
    """What one tile of keys hands to the next.

    The generations of an iterative rank; and, where one pass over the keys is enough, the sums and
    maxima over them, which grow from tile to tile in that pass (those for all points: what filters
    on data leave to a later pass is not part of it). With more passes, such a sum is a complete
    result of its pass: what is kept for the next pass is the footprint's matter.
    """
    cascade = analysis.cascade
    state = {}
    for name in cascade.tensors:
        carried = [rank for rank in _tile_ranks(analysis) if _carried(analysis, name, rank)]
        if carried:
            state[name] = carried
    along = {rank for key in keys for rank in aliases(cascade, key)}
    passes = _passes(analysis, keys)
    if passes.always == 1:
        for einsum in _computing(cascade):
            if einsum.data_filters and passes.count > 1:
                continue
            if along.intersection(einsum.reduction_ranks) and not _is_local(einsum, along):
                state.setdefault(einsum.output.tensor, [])
    row = _row_ranks(cascade, queries)
    tensors = []
    total: Any = 0
    for name, carried in state.items():
        left = [
            rank
            for rank in cascade.tensors[name].ranks
            if rank not in carried and _whole(cascade, rank) not in row
        ]
        tensors.append((name, tuple(left)))
        total = total + prod(forms.values[rank] for rank in left)
    return Words(tuple(tensors), forms.short(total))


def _is_local(einsum: Einsum, along: set[str]) -> bool:
    """Whether each output moves its own window over the rank, as a convolution does.

    Such a window is a neighbourhood: it is at hand whole, and no tile hands anything on.
    """
    kept = set(einsum.output.variables)
    return any(
        kept.intersection(index.variables)
        and along.intersection(v.upper() for v in index.variables)
        for access in einsum.operands
        for index in access.indices
        if index.variable is None
    )


def _carried(analysis: PassAnalysis, tensor: str, rank: str) -> bool:
    """Whether each coordinate along the rank is made from the one before, which is then dead.

    It is not dead where a later pass reads the generations again.
    """
    cascade = analysis.cascade
    made = [e for e in cascade.producers[tensor] if rank in e.ranks]
    ahead = any(
        index.variable == rank.lower() and not index.is_plain
        for e in made
        for index in e.output.indices
    )
    return ahead and all(
        analysis.fusible([*(e.name for e in made), reader.name], rank)
        for reader in cascade.consumers[tensor]
        if any(rank.lower() in a.variables for a in reader.operands if a.tensor == tensor)
    )


def _row_ranks(cascade: Cascade, queries: tuple[str, ...]) -> set[str]:
    """A row is one query of one head: all ranks that an output has and no Einsum reduces."""
    free = set(_of_outputs(cascade)) - _reduced(cascade) - set(EMBEDDINGS)
    return free.union(BATCH, queries)


# Footprint


def _footprint(
    analysis: PassAnalysis, keys: tuple[str, ...], queries: tuple[str, ...], forms: _Forms
) -> Words:
    """The largest footprint of a tensor, and the tensors that have it.

    Forms are compared where keys and queries have 65,536 coordinates, a part 256 and any other rank
    64, unless it has a default.
    """
    cascade = analysis.cascade
    found: dict[Any, list[tuple[str, tuple[str, ...]]]] = {}
    for name in cascade.tensors:
        if analysis.live_ranks(name):
            found.setdefault(forms.footprint(name), []).append((name, ()))
    if not found:
        return Words((), forms.short(1))
    extents = _typical(cascade, {*keys, *queries})
    numbers = {form: form.subs({s: extents[s.name] for s in form.free_symbols}) for form in found}
    largest = max(found, key=lambda form: float(numbers[form]))
    return Words(tuple(found[largest]), largest)


def _typical(cascade: Cascade, sequences: set[str]) -> dict[str, float]:
    """An extent for every name, only to tell long forms from short ones."""
    long = sequences | {_whole(cascade, like) for r in sequences if (like := cascade.ranks[r].like)}
    extents: dict[str, float] = {}
    for name in (*cascade.ranks, *cascade.parameters):
        part = name in cascade.ranks and cascade.ranks[name].parent is not None
        extents[name] = LONG if name in long else PART if part else OTHER
    for name, rule in cascade.defaults.items():
        if name not in long:
            extents[name] = max(1.0, float(rule.evaluate(extents)))
    return extents


# Closed forms


class _Forms:
    """Closed forms of one cascade, with what is given put in, and long counts under short names."""

    def __init__(self, analysis: PassAnalysis, given: Mapping[str, Any]) -> None:
        import sympy

        self.analysis = analysis
        self.cascade = analysis.cascade
        self.values = _values(self.cascade)
        self.given = {_symbol(name): value for name, value in given.items()}
        self.notes: dict[str, tuple[Any, ...]] = {}
        self._named: dict[Any, Any] = {}
        self._counted: dict[Any, Any] = {}
        # For P up to M, M is P and what is before: `Max(0, M - P)` is then no riddle.
        self._within = self.values
        self._unfold: dict[Any, Any] = {}
        keys, queries = self.values.get(KEYS), self.values.get(QUERIES)
        tied = any({KEYS, QUERIES} <= _extents(e) for e in self.cascade.einsums)
        if tied and keys is not None and queries is not None and keys != queries:
            before = sympy.Symbol("before", nonnegative=True, integer=True)
            later = queries + before
            self._within = {n: value.subs(keys, later) for n, value in self.values.items()}
            self._unfold = {before: keys - queries}

    def short(self, form: Any) -> Any:
        """What is given put in, and the shortest of some ways to write the form."""
        import sympy

        form = sympy.expand(_whole_numbers(sympy.sympify(form).subs(self.given)))
        ways = [sympy.factor(form)]
        terms = sympy.Add.make_args(form)
        for names in (set(BATCH[:1]), set(BATCH), set(self.notes)):
            groups: dict[Any, list[Any]] = {}
            for term in terms:
                key = frozenset(s for s in term.free_symbols if s.name in names)
                groups.setdefault(key, []).append(term)
            if len(groups) > 1:
                ways.append(sympy.Add(*(sympy.factor(sympy.Add(*g)) for g in groups.values())))
        return min(ways, key=_length)

    def common_batch(self, forms: Iterable[Any]) -> Any:
        """The extents of batch and heads that all forms are multiples of."""
        import sympy

        terms = [
            set(sympy.Mul.make_args(t))
            for form in forms
            for t in sympy.Add.make_args(sympy.expand(form))
        ]
        ranks = [leaf for r in BATCH if r in self.cascade.ranks for leaf in self.cascade.leaves(r)]
        extents = {s for r in (*BATCH, *ranks) if r in self.values for s in [self.values[r]]}
        return prod(s for s in extents if s.is_Symbol and all(s in factors for factors in terms))

    def operations(self) -> dict[str, Any]:
        """Operations by kind."""
        totals: dict[str, Any] = {}
        for einsum in self.cascade.einsums:
            if einsum.operations:
                points = self._points(einsum)
                for kind, count in einsum.operations.items():
                    totals[kind] = totals.get(kind, 0) + count * points
        return {kind: form.subs(self.given) for kind, form in totals.items()}

    def _points(self, einsum: Einsum) -> Any:
        bare = replace(einsum, filters=())
        every = points_in(self.cascade, replace(bare, data_filters=()), self.values)
        share = self._share(einsum, points_in(self.cascade, bare, self.values) / every)
        if not einsum.filters:
            return every * share
        ranges, free = self._ranges(einsum, self.values)
        return free * self._count(einsum, tuple(ranges.items())) * share

    def _ranges(self, einsum: Einsum, values: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """Ranges of the variables that filters mention, and the points of all others."""
        tied = {v for c in einsum.filters for side in (c.left, c.right) for v in side.variables}
        ranges = iteration_ranges(self.cascade, einsum, values)
        free = prod(stop - start for name, (start, stop) in ranges.items() if name not in tied)
        return {name: ranges[name] for name in sorted(tied & ranges.keys())}, free

    def _count(self, einsum: Einsum, tied: tuple[Any, ...]) -> Any:
        """Points of the variables that filters mention: a product of extents, else a name."""
        key = (einsum.filters, tied)
        if key not in self._counted:
            _, free = self._ranges(einsum, self._within)
            form = self._plain(filtered_points(self.cascade, einsum, self._within) / free)
            if not _is_product(form):
                joined = [self._joined(c) for c in einsum.filters]
                names = {v for c in joined for side in (c.left, c.right) for v in side.variables}
                text = f"points ({', '.join(sorted(names))}) where {_chained(joined)}"
                form = self._name("n", text, form)
            self._counted[key] = form
        return self._counted[key]

    def _share(self, einsum: Einsum, share: Any) -> Any:
        """The expected share of the points at which filters on data hold."""
        import sympy

        share = _whole_numbers(sympy.sympify(share)).subs(self.given)
        if _is_short(share) and not share.atoms(sympy.Float):
            return share
        where = ", ".join(_data_condition(c, latex=False) for c in einsum.data_filters)
        return self._name("s", f"expected share of the points where {where}", share)

    def _joined(self, condition: Condition) -> Condition:
        """`m1*M0+m0` put together to `m`, for people."""
        sides = [condition.left, condition.right]
        for rank in self.cascade.ranks.values():
            if rank.partition:
                parts = mixed_radix(rank.partition)
                for whole, sign in ((parts, 1), (-parts, -1)):
                    alone = Affine((Term(rank.variable, (), sign),))
                    sides = [
                        side - whole + alone if set(whole.terms) <= set(side.terms) else side
                        for side in sides
                    ]
        return Condition(sides[0], condition.comparison, sides[1])

    def compulsory(self) -> Any:
        """Words of the inputs and outputs; those that are reached in a complicated way by name."""
        import sympy

        total: Any = 0
        for name, tensor in self.cascade.tensors.items():
            if tensor.role == "intermediate":
                continue
            words = self._plain(self.analysis._words(name, self._within))
            if words.is_number:  # a share to a power is no fraction for people
                words = words if words.is_Integer else sympy.Float(words, 8)
            elif not _is_short(words) or words.has(sympy.Max, sympy.Min):
                verb = "read" if tensor.role == "input" else "written"
                most = self.short(size_in(self.cascade, name, self.values))
                text = f"words of {name} that are {verb}, at most "
                words = self._name(f"w_{name}", text, words, most)
            total = total + words
        return self.short(total)

    def footprint(self, tensor: str) -> Any:
        """Minimum live footprint of a tensor."""
        return self.short(self.analysis._footprint(tensor, self.values))

    def _plain(self, form: Any) -> Any:
        """The form without maxima that can be decided, in M and P again, and factored."""
        import sympy

        form = _decided(_whole_numbers(sympy.sympify(form))).subs(self._unfold)
        return sympy.factor(form.subs(self.given) if self.given else form)

    def _name(self, name: str, text: str, form: Any, *more: Any) -> Any:
        """A symbol for a form, and a note that says what it is; a number stays what it is.

        The note is the form, if it is short, and the text; `more` forms stand behind it.
        """
        if form.is_Integer:
            return form
        if text not in self._named:
            taken = sum(n == name or n.startswith(f"{name}_") for n in self.notes)
            name = f"{name}_{taken + 1}" if taken else name
            self._named[text] = _symbol(name)
            shown = f"{float(form):g}" if form.is_number else form
            self.notes[name] = (*((shown, ", ") if _is_short(form) else ()), text, *more)
        return self._named[text]


def _symbol(name: str) -> Any:
    import sympy

    return sympy.Symbol(name, positive=True, integer=True)


def _values(cascade: Cascade) -> dict[str, Any]:
    """A symbol for every extent; a rank other than M that no tensor has is written as its parts."""
    values = symbols(cascade)
    used = {rank for tensor in cascade.tensors.values() for rank in tensor.ranks}
    for rank in cascade.ranks.values():
        outer = rank.partition[:1]
        if outer and rank.name != KEYS and rank.name not in used and values[rank.name].is_Symbol:
            parts = prod(
                _symbol(part) if part in outer else values[part] for part in rank.partition
            )
            whole = values[rank.name]
            values = {name: value.subs(whole, parts) for name, value in values.items()}
    return values


def _chained(conditions: list[Condition]) -> str:
    """Conditions as text; `0 <= x` and `x < X` are `0 ≤ x < X`."""
    texts: list[str] = []
    middle: Affine | None = None
    for condition in conditions:
        sign = _COMPARE.get(condition.comparison, condition.comparison)
        if condition.left == middle:
            texts[-1] += f" {sign} {condition.right}"
        else:
            texts.append(f"{condition.left} {sign} {condition.right}")
        middle = condition.right
    return ", ".join(texts)


def _extents(einsum: Einsum) -> set[str]:
    """Extents that the filters of an Einsum mention."""
    return {s for c in einsum.filters for side in (c.left, c.right) for s in side.symbols}


def _is_product(form: Any) -> bool:
    """Whether the form is a product of extents."""
    return all(f.is_number or f.is_Symbol for f in form.as_ordered_factors()) and _is_short(form)


def _is_short(form: Any) -> bool:
    """Whether people can read the form inside of another one."""
    import sympy

    if any("points(" in s.name for s in form.free_symbols):
        return False
    powers = any(not power.exp.is_number for power in form.atoms(sympy.Pow))
    choices = form.atoms(sympy.Max, sympy.Min, sympy.floor)
    return not powers and len(choices) < 2 and len(str(form)) <= MOST_CHARACTERS


def _length(form: Any) -> tuple[int, int]:
    """How long a form is: names and numbers in it, then characters."""
    import sympy

    leaves = sum(1 for node in sympy.preorder_traversal(form) if not node.args)
    return leaves, len(str(form))


def _whole_numbers(form: Any) -> Any:
    """`1.0` as `1`: occupancies are computed in floats."""
    import sympy

    floats: Iterable[Any] = form.atoms(sympy.Float)
    return form.xreplace({f: sympy.Integer(int(f)) for f in floats if float(f).is_integer()})


def _is_never_negative(form: Any) -> bool:
    """Whether a polynomial of extents, each at least 1, is certainly not below 0."""
    import sympy

    more = {s: 1 + sympy.Dummy(nonnegative=True) for s in form.free_symbols if s.is_positive}
    return bool(sympy.expand(form.subs(more)).is_nonnegative)


def _decided(form: Any) -> Any:
    """Maxima and minima, from the inside, with what stands beside them moved in.

    `x - Max(0, x - y)` is `Min(x, y)`; sympy then drops an argument that is never the largest.
    """
    import sympy

    if not form.has(sympy.Max, sympy.Min):
        return form
    form = form.func(*map(_decided, form.args))
    if isinstance(form, (sympy.Max, sympy.Min)):
        choices = [sympy.expand(argument) for argument in form.args]
        least = [c for c in choices if isinstance(c, sympy.Min)]
        if isinstance(form, sympy.Max) and least and len(choices) == 2 and 0 in choices:
            return least[0] if all(map(_is_never_negative, least[0].args)) else form
        return form.func(*choices)
    if isinstance(form, sympy.Mul) and form.could_extract_minus_sign():
        one = [f for f in form.args if isinstance(f, (sympy.Max, sympy.Min))]
        if len(one) == 1:  # -Max(-x, -y) is Min(x, y)
            other = sympy.Min if isinstance(one[0], sympy.Max) else sympy.Max
            return -form / one[0] * other(*(-argument for argument in one[0].args))
    chosen = [
        (term, choice)
        for term in sympy.Add.make_args(form)
        for factor, choice in [term.as_coeff_Mul()]
        if isinstance(choice, (sympy.Max, sympy.Min)) and abs(factor) == 1
    ]
    if len(chosen) != 1:
        return form
    term, choice = chosen[0]
    sign, rest = term / choice, form - term
    swapped = sympy.Min if isinstance(choice, sympy.Max) else sympy.Max
    moved = [sympy.expand(rest + sign * argument) for argument in choice.args]
    return choice.func(*moved) if sign == 1 else swapped(*moved)
