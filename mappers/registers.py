"""What a phase leaves in the registers, and what it keeps in a memory because they are full."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import replace

import numpy as np

from sim import IN_ARRAY, Mapping, Option, Phase, Residency
from sim.mapping import Mask
from sim.registers import register_words, waiting


def within_registers(on: Mapping, phase: Phase, homes: MappingABC[str, Residency]) -> Phase:
    """A phase with as much in its registers as fits: where they are too few, the tensor that takes
    the most of them goes to its home among `homes` (if it has one), and so on.

    Readers that take each word as it is made get it from the array all the same.
    """
    moved = True
    while moved:
        moved = False
        for name, by_tensor in register_words(on.cascade, phase).items():
            words = {t: w for t, w in by_tensor.items() if t in homes}
            over = np.asarray(sum(by_tensor.values()) > on.architecture.array(name).register_words)
            if not words or not np.any(over):
                continue
            most = np.argmax(np.stack(np.broadcast_arrays(*words.values())), axis=0)
            for at, (tensor, own) in enumerate(words.items()):
                where = over & (most == at) & (own > 0)
                if np.any(where):
                    phase = _moved(on, phase, tensor, homes[tensor], where)
                    moved = True
            if moved:  # what others take may have changed
                break
    return phase


def _moved(on: Mapping, phase: Phase, tensor: str, home: Residency, where: Mask) -> Phase:
    """A phase that keeps a tensor in its home at some points."""
    options = []
    for option in phase.residency[tensor]:
        handed = option.residency.handed_to
        if option.residency.home == IN_ARRAY:
            handed = frozenset(m.einsum for m in phase.einsums)
        free = frozenset(e for e in handed if _is_free(on, phase, tensor, frozenset({e})))
        if not _is_free(on, phase, tensor, free):
            free = frozenset()
        options += [
            Option(np.asarray(option.when) & ~where, option.residency),
            Option(np.asarray(option.when) & where, replace(home, handed_to=free)),
        ]
    kept = tuple(option for option in options if np.any(option.when))
    return replace(phase, residency={**phase.residency, tensor: kept})


def _is_free(on: Mapping, phase: Phase, tensor: str, readers: frozenset[str]) -> bool:
    """Whether some readers get a tensor without a word that waits in registers, at all points."""
    found = list(waiting(on.cascade, phase, tensor, Residency("", handed_to=readers)))
    return bool(found) and not any(np.any(own.words + own.ahead) for own in found)


__all__ = ["within_registers"]
