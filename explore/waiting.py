"""How long a mapping computes, were all data there in time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archs import Architecture
from sim import Mapping, evaluate
from sim.mapping import MappingChoice, MappingParts

Placed = Mapping | MappingChoice | MappingParts


def compute_s(mapping: Placed) -> NDArray[Any]:
    """The latency of a mapping on memories that give everything at once, at each point.

    The traffic over it is the bandwidth at which no array ever waits for data, on the mean of the
    run. (The busiest array alone does not tell: what follows one another has each its own.)
    """
    return np.asarray(evaluate(_unlimited(mapping)).latency_s)


def _unlimited(mapping: Any) -> Any:
    if isinstance(mapping, MappingParts):
        return replace(mapping, parts=tuple((at, _unlimited(m)) for at, m in mapping.parts))
    if isinstance(mapping, MappingChoice):
        return replace(mapping, options=tuple(map(_unlimited, mapping.options)))
    return replace(mapping, architecture=_unwaiting(mapping.architecture))


def _unwaiting(architecture: Architecture) -> Architecture:
    memories = (
        replace(memory, bandwidth_bytes_per_s=np.inf, ports=()) for memory in architecture.memories
    )
    return replace(architecture, memories=tuple(memories))


__all__ = ["compute_s"]
