"""Ranks, inputs and the Einsums as they are written, before tensors are defined."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from einsum_cascade.affine import Affine
from einsum_cascade.cascade import Rank, Section, Tensor
from einsum_cascade.expression import Expression
from einsum_cascade.notation import (
    Locate,
    Raw,
    RawAccess,
    RawCondition,
    RawEinsum,
    parse,
    to_affine,
)
from einsum_cascade.schema import CascadeSpec
from einsum_cascade.source import Document, InputError, Place

_RANK = re.compile(r"[A-Z][A-Z0-9_]*")
_SECTIONS: tuple[Section, ...] = ("initialization", "body", "final")
UNARY = ("exp", "exp2", "log", "log2", "sqrt", "abs", "floor", "round", "tanh")
"""Built-in functions of one argument."""
BUILT_IN = ("max", "min", "pow", "sum", "product", *UNARY)
_RESERVED = ("over", "of", "where", "and", "inf", "OVER")


@dataclass(frozen=True)
class Names:
    """What a name in the text may stand for, tensors aside."""

    ranks: Mapping[str, Rank]
    parameters: frozenset[str]
    functions: Mapping[str, int]
    of_variable: Mapping[str, str] = field(default_factory=dict)

    @property
    def symbols(self) -> frozenset[str]:
        """Names of extents and parameters."""
        return self.parameters | set(self.ranks)

    def root(self, rank: str) -> str:
        """The rank whose coordinates `rank` shares: itself unless it is `like` another."""
        like = self.ranks[rank].like
        return self.root(like) if like else rank

    def variable(self, name: str, place: Place | None) -> str:
        """The rank over which the variable `name` ranges."""
        if name not in self.of_variable:
            raise InputError(
                f"unknown index variable {name!r}: no rank {name.upper()!r} is declared",
                place,
                allowed=self.of_variable,
                found=name,
            )
        return self.of_variable[name]

    def affine(self, raw: Raw, locate: Locate) -> Affine:
        """An index expression of variables, extents and parameters."""
        return to_affine(raw, lambda access: self.index(access, locate), locate)

    def index(self, raw: RawAccess, locate: Locate) -> Affine:
        """An index variable, an extent or a parameter."""
        if raw.name in self.symbols:
            return Affine.of_symbol(raw.name)
        if raw.name in self.of_variable:
            return Affine.of_variable(raw.name)
        if raw.name.isupper():
            raise InputError(
                f"unknown rank or parameter {raw.name!r}",
                locate(raw.column),
                allowed=sorted(self.symbols),
                found=raw.name,
            )
        self.variable(raw.name, locate(raw.column))
        raise AssertionError("unreachable")


@dataclass(frozen=True)
class Statement:
    """One Einsum as it was written, with the indices of its left side resolved."""

    section: Section
    raw: RawEinsum
    locate: Locate
    indices: tuple[Affine, ...] = ()

    @property
    def tensor(self) -> str:
        """The tensor on the left side."""
        return self.raw.output.name


def declare_ranks(spec: CascadeSpec, document: Document) -> Names:
    """The ranks, their parts, which of them are iterative; parameters and functions."""
    for key, given in (("ranks", spec.ranks), ("parameters", spec.parameters)):
        for name in given:
            if not _RANK.fullmatch(name):
                raise InputError(
                    f"{name!r} must be in upper case (its index variable is the same name in lower "
                    "case)",
                    document.place(key, name),
                )
    parents: dict[str, str] = {}
    for name, rank in spec.ranks.items():
        if len(rank.partition) == 1:
            raise InputError(
                "a partition has two parts or more, found 1", document.place("ranks", name)
            )
        for part in rank.partition:
            place = document.place("ranks", name, "partition")
            if part not in spec.ranks:
                raise InputError(f"unknown rank {part!r}", place, allowed=spec.ranks, found=part)
            if part in parents:
                raise InputError(f"{part!r} is a part of {parents[part]!r} already", place)
            parents[part] = name
        if rank.like is not None and rank.like not in spec.ranks:
            place = document.place("ranks", name, "like")
            raise InputError(
                f"unknown rank {rank.like!r}", place, allowed=spec.ranks, found=rank.like
            )
    for name in spec.ranks:
        for step, key in ((parents, "partition"), (_likes(spec), "like")):
            seen, at = {name}, step.get(name)
            while at is not None:
                if at in seen:
                    raise InputError(
                        f"{name!r} comes from itself", document.place("ranks", name, key)
                    )
                seen.add(at)
                at = step.get(at)
    for name in spec.parameters:
        if name in spec.ranks:
            raise InputError(f"{name!r} is a rank already", document.place("parameters", name))
    ranks = {
        name: Rank(name, rank.about, parents.get(name), tuple(rank.partition), rank.like)
        for name, rank in spec.ranks.items()
    }
    names = Names(
        ranks,
        frozenset(spec.parameters),
        {name: function.arguments for name, function in spec.functions.items()},
        {rank.variable: name for name, rank in ranks.items()},
    )
    for name in spec.functions:
        if name in BUILT_IN:
            raise InputError(f"{name!r} is built in", document.place("functions", name))
    return replace(names, ranks=_iterative(spec, document, names))


def _text_at(document: Document, *keys: str | int, line: int = 0) -> Locate:
    """Places in the text under `keys`."""
    return lambda column: document.text_place(*keys, line=line, column=column)


def _likes(spec: CascadeSpec) -> dict[str, str]:
    return {name: rank.like for name, rank in spec.ranks.items() if rank.like is not None}


def _iterative(spec: CascadeSpec, document: Document, names: Names) -> dict[str, Rank]:
    ranks = dict(names.ranks)
    listed = isinstance(document.data.get("iterate"), list)
    for position, iterate in enumerate(spec.iterate):
        keys = ("iterate", position) if listed else ("iterate",)
        if iterate.rank not in ranks:
            raise InputError(
                f"unknown rank {iterate.rank!r}",
                document.text_place(*keys, "rank"),
                allowed=ranks,
                found=iterate.rank,
            )
        rank = ranks[iterate.rank]
        if rank.iterative:
            raise InputError(f"{rank.name!r} is iterated twice", document.place(*keys))
        stop = Affine.of_symbol(rank.name)
        if iterate.stop is not None:
            stop = _stop(iterate.stop, rank, names, _text_at(document, *keys, "stop"))
        ranks[rank.name] = replace(rank, iterative=True, start=iterate.start, stop=stop)
    return ranks


def _stop(text: str, rank: Rank, names: Names, locate: Locate) -> Affine:
    """The first coordinate at which the iteration is over."""
    conditions: list[RawCondition] = parse(text, "condition", locate)
    condition = conditions[0]
    left = names.affine(condition.left, locate)
    right = names.affine(condition.right, locate)
    allowed = f"{rank.variable} >= {rank.name}"
    if len(conditions) > 1 or left != Affine.of_variable(rank.variable) or not right.is_constant:
        raise InputError(
            f"a stop compares {rank.variable!r} with a constant of the shape, e.g. {allowed!r}, "
            f"found {text!r}",
            locate(condition.column),
        )
    if condition.comparison == ">":
        return right + Affine.of_number(1)
    if condition.comparison not in (">=", "=="):
        raise InputError(
            f"a stop cannot compare by {condition.comparison!r}",
            locate(condition.column),
            allowed=[">=", ">", "=="],
        )
    return right


def declare_inputs(spec: CascadeSpec, document: Document, names: Names) -> dict[str, Tensor]:
    """The input tensors, from declarations such as `Q[b,h,e,p]`."""
    tensors: dict[str, Tensor] = {}
    for position, text in enumerate(spec.inputs):
        locate = _text_at(document, "inputs", position)
        access = parse(text, "access", locate)
        if not isinstance(access, RawAccess):
            raise InputError("a tensor with its ranks must stand here, e.g. 'Q[e,p]'", locate(0))
        ranks = []
        for index in access.indices or ():
            affine = names.affine(index, locate)
            if not affine.is_plain:
                raise InputError(
                    f"an input is declared with index variables only, found '{affine}'",
                    locate(index.column),
                )
            ranks.append(names.of_variable[affine.variables[0]])
            if len(set(ranks)) < len(ranks):
                raise InputError(f"{affine} stands twice", locate(index.column))
        check_new_name(access.name, names, bool(ranks), locate(access.column))
        if access.name in tensors:
            raise InputError(f"the tensor {access.name!r} is declared twice", locate(0))
        extents = tuple(map(Affine.of_symbol, ranks))
        tensors[access.name] = Tensor(access.name, tuple(ranks), "input", extents, locate(0))
    return tensors


def declare_defaults(spec: CascadeSpec, document: Document, names: Names) -> dict[str, Expression]:
    """Extents and parameters to take where a shape gives none."""
    found = {}
    for key, given in (("ranks", spec.ranks), ("parameters", spec.parameters)):
        for name, each in given.items():
            if each.default is not None:
                _check_names(each.default, names, document.place(key, name, "default"))
                found[name] = each.default
    return found


def _check_names(rule: Expression, names: Names, place: Place) -> None:
    for name in sorted(rule.names - names.symbols):
        raise InputError(
            f"unknown rank or parameter {name!r}", place, allowed=sorted(names.symbols), found=name
        )


def check_new_name(name: str, names: Names, has_ranks: bool, place: Place | None) -> None:
    """Raises `InputError` for a name that a tensor cannot have."""
    if name in _RESERVED:
        raise InputError(f"{name!r} is a word of the notation, not a name for a tensor", place)
    if not has_ranks and (name in names.symbols or name in names.of_variable):
        raise InputError(
            f"a tensor without ranks cannot be named {name!r}: that is a rank, its index variable "
            "or a parameter",
            place,
        )


def statements(spec: CascadeSpec, document: Document, names: Names) -> tuple[Statement, ...]:
    """Every Einsum of the text, parsed."""
    found = []
    for section in _SECTIONS:
        given: str | list[str] = getattr(spec, section)
        lines = given.splitlines() if isinstance(given, str) else given
        for position, line in enumerate(lines):
            text = line.split("#", 1)[0]
            if not text.strip() and isinstance(given, str):
                continue

            if isinstance(given, str):
                locate = _text_at(document, section, line=position)
            else:
                locate = _text_at(document, section, position)
            raw = parse(text, "einsum", locate)
            indices = tuple(names.affine(index, locate) for index in raw.output.indices or ())
            found.append(Statement(section, raw, locate, indices))
    if not found:
        raise InputError("a cascade has at least one Einsum", document.place("body"))
    return tuple(found)
