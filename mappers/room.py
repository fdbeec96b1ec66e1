"""The room that a phase takes on chip, for mappers that have to say what is missing at least."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from sim import Mapping, Phase, evaluate_phase
from sim.accesses import tally

_MORE_THAN_ENOUGH = 2.0**80


def room_bytes(on: Mapping, phase: Phase) -> np.ndarray:
    """Bytes next to the outermost memory that a phase cannot be without.

    Infinite where it could not be even if it had them. What may spill takes none.
    """
    architecture = on.architecture
    outermost, buffer, *rest = architecture.memories
    like = np.asarray(buffer.size_bytes, dtype=np.float64)
    large = replace(buffer, size_bytes=np.full_like(like, _MORE_THAN_ENOUGH))
    enough = replace(architecture, memories=(outermost, large, *rest))
    costs = evaluate_phase(replace(on, architecture=enough), phase, explain=False)
    spills: dict[str, Any] = {}
    for (_, tensor), when in phase.spilled.items():
        spills[tensor] = spills.get(tensor, False) | np.asarray(when)
    words: Any = np.float64(0)
    held = tally(on.cascade, architecture, on.shape, phase).footprint_words
    for (memory, tensor, *_), each in held.items():
        if memory == buffer.name:
            words = words + np.where(spills.get(tensor, False), 0.0, each)
    needed = np.broadcast_to(words * architecture.word_bytes, np.shape(costs.latency_s))
    result: np.ndarray = np.where(np.isnan(costs.latency_s), np.inf, needed)
    return result


__all__ = ["room_bytes"]
