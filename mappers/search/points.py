"""Arrays along the axes of tiles, taken at some of all their sets of sizes.

Where few are left of many, what is dear to work out is worked out for these alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sim import EinsumMapping, Mapping, Option, Phase


def positions(where: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """Flat positions in an array of a shape with one entry along some axes, where all axes have
    their full extent in `where`."""
    at = np.zeros(len(where[0]), dtype=np.int64)
    for size, own in zip(shape, where, strict=True):
        at = at * size + own if size > 1 else at
    return at


def pick(array: Any, where: Sequence[np.ndarray]) -> np.ndarray:
    """An array whose last axes are those of tiles (it may lack the first of them), with one axis of
    points instead."""
    full: np.ndarray = np.asarray(array)
    if not full.ndim:
        return full
    full = full.reshape((1,) * (len(where) - full.ndim) + full.shape)
    ahead, tiles = full.shape[: full.ndim - len(where)], full.shape[full.ndim - len(where) :]
    flat = full.reshape(*ahead, -1)
    return flat if flat.shape[-1] == 1 else flat[..., positions(where, tiles)]


def at_points(
    on: Mapping,
    phase: Phase,
    nests: Sequence[EinsumMapping],
    tensor: str,
    where: Sequence[np.ndarray],
) -> tuple[Mapping, Phase]:
    """A phase at some points: no more of it than some nests, and where one tensor lives."""
    placed = tuple(
        replace(nest, loops=tuple(replace(lp, extent=pick(lp.extent, where)) for lp in nest.loops))
        for nest in nests
    )
    options = [Option(pick(o.when, where), o.residency) for o in phase.residency[tensor]]
    kept = tuple(option for option in options if np.any(option.when))
    shape = {rank: pick(extent, where) for rank, extent in on.shape.items()}
    return replace(on, shape=shape), replace(phase, einsums=placed, residency={tensor: kept})


__all__ = ["at_points", "pick", "positions"]
