"""Checks of a cascade as a whole: bounds, boundaries, sections, cycles."""

from __future__ import annotations

from einsum_cascade.affine import Affine
from einsum_cascade.cascade import Access, Cascade, Einsum
from einsum_cascade.dependencies import dependencies, recurrences
from einsum_cascade.source import InputError

_ORDER = {"initialization": 0, "body": 1, "final": 2}


def check_cascade(cascade: Cascade) -> None:
    """Raises `InputError` at the first Einsum that cannot be computed."""
    for einsum in cascade.einsums:
        for access in einsum.operands:
            _check_section(cascade, einsum, access)
            for position, index in enumerate(access.indices):
                _check_bounds(cascade, einsum, access, position, index)
    _ = cascade.order  # raises for a cycle
    negative = [d for d in dependencies(cascade) if d.distance < 0]
    if negative:
        group = {e.name: i for i, g in enumerate(recurrences(cascade)) for e in g}
        for d in negative:
            if group[d.producer.name] == group[d.consumer.name]:
                raise InputError(
                    f"{d.consumer.name} reads {d.access}, which a later iteration sets",
                    d.access.place,
                )


def _check_section(cascade: Cascade, einsum: Einsum, access: Access) -> None:
    producers = cascade.producers[access.tensor]
    if not producers:
        return
    earliest = min(producers, key=lambda p: _ORDER[p.section])
    if _ORDER[earliest.section] > _ORDER[einsum.section]:
        raise InputError(
            f"{access.tensor} is computed in {earliest.section!r}, after {einsum.section!r}",
            access.place,
        )


def _check_bounds(
    cascade: Cascade, einsum: Einsum, access: Access, position: int, index: Affine
) -> None:
    """`k+1` where `k` runs to the end of its rank, `RM[m1]` with nothing at 0."""
    tensor = cascade.tensors[access.tensor]
    rank = cascade.ranks[tensor.ranks[position]]
    variable = index.variable
    if variable is None:
        return  # `execute` looks at the numbers
    ranges = cascade.ranks[variable.upper()]
    looped = ranges.iterative and einsum.section == "body"
    lowest = (ranges.start if looped else 0) + index.offset
    filtered = bool(einsum.filters)  # may keep it inside: `execute` looks at the numbers
    if lowest < 0 and not filtered:
        raise InputError(f"{access} begins at coordinate {lowest}", access.place)
    if ranges.name != rank.name:
        return
    extent = tensor.extents[position]
    highest = (ranges.stop if looped and ranges.stop else Affine.of_symbol(ranges.name)) + (
        Affine.of_number(index.offset)
    )
    beyond = highest - extent
    if not beyond.symbols and beyond.offset > 0 and not filtered:
        raise InputError(
            f"{access} runs {beyond.offset} past the end of {rank.name}: a filter such as "
            f"'where {variable} < {rank.name} - {beyond.offset}' would keep it inside",
            access.place,
        )
    main = next(
        (p for p in cascade.producers[tensor.name] if not p.output.indices[position].is_constant),
        None,
    )
    if main is None or not rank.iterative or main.section != "body":
        return
    first_written = rank.start + main.output.indices[position].offset
    initial = {
        p.output.indices[position].offset
        for p in cascade.producers[tensor.name]
        if p.output.indices[position].is_constant
    }
    missing = [c for c in range(max(lowest, 0), first_written) if c not in initial]
    if missing:
        indices = list(map(str, access.indices))
        indices[position] = str(missing[0])
        raise InputError(
            f"{access} needs {tensor.name}[{','.join(indices)}], which nothing sets: an "
            "initialization is missing",
            access.place,
        )
