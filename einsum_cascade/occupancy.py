"""Occupancy: the expected share of points at which a filter on data holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from einsum_cascade.cascade import Cascade, DataCondition
from einsum_cascade.expression import Expression
from einsum_cascade.source import Document, InputError

_ROUNDING = 1e-9


def with_occupancy(
    cascade: Cascade,
    given: Mapping[str, Sequence[Expression]],
    document: Document,
    above: tuple[str | int, ...] = (),
) -> Cascade:
    """The cascade with these shares in place of its own; they stand in `document`, under
    `above` and the key `occupancy`.

    Raises `InputError` for a tensor that no filter reads, an unknown name, and a number that is no
    share.
    """
    read = {a.tensor for e in cascade.einsums for c in e.data_filters for a in c.accesses}
    names = {*cascade.ranks, *cascade.parameters}
    found: dict[str, tuple[Expression, ...]] = {}
    for tensor, rules in given.items():
        keys: tuple[str | int, ...] = (*above, "occupancy", tensor)
        if tensor not in cascade.tensors:
            raise InputError(
                f"cascade {cascade.name!r} has no tensor {tensor!r}",
                document.place(*keys),
                allowed=sorted(read) or cascade.tensors,
                found=tensor,
            )
        if tensor not in read:
            raise InputError(
                f"no filter of cascade {cascade.name!r} reads {tensor!r}, so its occupancy says "
                "nothing",
                document.place(*keys),
                allowed=sorted(read),
                found=tensor,
            )
        listed = isinstance(document.part(*keys).data, list)
        places = [document.place(*keys, *((i,) if listed else ())) for i in range(len(rules))]
        placed = [replace(rule, place=at) for rule, at in zip(rules, places, strict=True)]
        for rule in placed:
            for name in sorted(rule.names - names):
                raise InputError(
                    f"unknown rank or parameter {name!r} in {rule.text!r}",
                    rule.place,
                    allowed=sorted(names),
                    found=name,
                )
            if not rule.names:
                share(rule, {})
        found[tensor] = tuple(placed)
    return replace(cascade, occupancy=MappingProxyType({**cascade.occupancy, **found}))


def occupancy_of(cascade: Cascade, condition: DataCondition) -> tuple[Expression, ...] | None:
    """The expected shares of a filter on data: those of the first tensor in it that has any."""
    for access in condition.accesses:
        if access.tensor in cascade.occupancy:
            return cascade.occupancy[access.tensor]
    return None


def share(rule: Expression, values: Mapping[str, Any]) -> Any:
    """A share of the points: a number, an array or a closed form.

    Raises `InputError`, with the place of the rule, for a number outside of 0 to 1.

    >>> from einsum_cascade.expression import parse_expression
    >>> float(share(parse_expression("TOPK/X"), {"TOPK": 2, "X": 8}))
    0.25
    """
    if any(hasattr(values[name], "free_symbols") for name in rule.names):
        return rule.symbolic(values)
    found = rule.evaluate(values)
    wrong = (found < -_ROUNDING) | (found > 1 + _ROUNDING)
    if np.any(wrong):
        value = float(np.extract(wrong, found)[0])
        is_formula = f"{rule.text!r} is {value:g}" if rule.names else f"found {value:g}"
        raise InputError(f"an occupancy is a share, from 0 to 1: {is_formula}", rule.place)
    return np.clip(found, 0.0, 1.0)


__all__ = ["occupancy_of", "share", "with_occupancy"]
