"""One design point of a mapping by itself: what the finer levels simulate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from sim.evaluation import common_shape
from sim.mapping import (
    Mapping,
    MappingChoice,
    MappingParts,
    Number,
    Option,
    Phase,
    PhaseChoice,
)

Pick = Callable[[Number], Any]


def single_point(mapping: Mapping | MappingChoice | MappingParts, index: int = 0) -> Mapping:
    """The mapping of the point at flat `index`: plain numbers, one option everywhere.

    Raises IndexError when there is no such point.
    """
    if isinstance(mapping, MappingParts):
        for points, part in mapping.parts:
            at = np.flatnonzero(np.ravel(points) == index)
            if len(at):
                return single_point(part, int(at[0]))
        raise IndexError(f"no design point {index} among {mapping.count}")
    if isinstance(mapping, MappingChoice):
        shapes = [common_shape(option) for option in mapping.options]
        shape = np.broadcast_shapes(np.shape(mapping.index), *shapes)
        chosen = mapping.options[int(_picker(shape, index)(mapping.index))]
        return single_point(_spread(chosen, shape), index)
    return _single(mapping, _picker(common_shape(mapping), index))


def _picker(shape: tuple[int, ...], index: int) -> Pick:
    if not 0 <= index < int(np.prod(shape)):
        raise IndexError(f"no design point {index} among {int(np.prod(shape))}")

    def pick(value: Number) -> Any:
        if np.ndim(value) == 0:
            return np.asarray(value)[()]
        return np.broadcast_to(value, shape).flat[index]

    return pick


def _spread(mapping: Mapping, shape: tuple[int, ...]) -> Mapping:
    """The same with the points of `shape`: its extents are what broadcasts."""
    return replace(mapping, shape={k: np.broadcast_to(v, shape) for k, v in mapping.shape.items()})


def _single(mapping: Mapping, pick: Pick) -> Mapping:
    return replace(
        mapping,
        architecture=mapping.architecture.with_numbers(pick),
        shape={rank: pick(extent) for rank, extent in mapping.shape.items()},
        phases=tuple(
            PhaseChoice((_phase(choice.options[int(pick(choice.index))], pick),))
            for choice in mapping.phases
        ),
        notes=pick(np.asarray(mapping.notes, dtype=object)),
    )


def _phase(phase: Phase, pick: Pick) -> Phase:
    nests = tuple(
        replace(m, loops=tuple(replace(loop, extent=pick(loop.extent)) for loop in m.loops))
        for m in phase.einsums
    )
    residency = {
        tensor: tuple(Option(True, o.residency) for o in options if bool(pick(o.when)))
        for tensor, options in phase.residency.items()
    }
    return replace(
        phase,
        einsums=nests,
        residency=residency,
        stall_cycles=pick(phase.stall_cycles),
        spilled={access: pick(when) for access, when in phase.spilled.items()},
    )
