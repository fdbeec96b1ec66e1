"""What needs no memory: it flows, or waits in registers while these have room."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sim import IN_ARRAY, Mapping, Option, Phase, Residency
from sim.accesses import Use, uses
from sim.legality import forwarding
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
            users = uses(on.cascade, phase, tensor)
            handed = frozenset(u.mapping.einsum for u in users if not u.writes)
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
    return not np.any(in_registers(on, phase, tensor, Residency("", handed_to=readers))[1])


def in_registers(on: Mapping, phase: Phase, tensor: str, residency: Residency) -> tuple[Mask, Mask]:
    """Where the registers hold what waits there of a tensor by itself; and where anything does."""
    fits: Mask = np.True_
    waits: Mask = np.False_
    for own in waiting(on.cascade, phase, tensor, residency):
        words = own.words + own.ahead
        fits = fits & (words <= on.architecture.array(own.array).register_words)
        waits = waits | (words > 0)
    return fits, waits


def flows(on: Mapping, phase: Phase, writer: Use, readers: Sequence[Use], kept: bool) -> Mask:
    """Where no reader needs a memory, given the registers; `kept`: beside one that there is."""
    fine: Mask = np.True_
    for use in readers:
        for objection in forwarding(on.cascade, on.architecture, phase, writer, use, kept):
            fine = fine & ~np.asarray(objection.where, dtype=bool)
    return fine


def by_readers(masks: MappingABC[str, Mask]) -> list[tuple[Mask, frozenset[str]]]:
    """The names whose masks hold, and where it is these."""
    always = frozenset(name for name, mask in masks.items() if np.all(mask))
    some = [name for name, mask in masks.items() if np.any(mask) and name not in always]
    if not some:
        return [(np.True_, always)]
    code = sum(np.asarray(masks[name]).astype(np.int64) << i for i, name in enumerate(some))
    return [
        (code == pattern, always | {n for i, n in enumerate(some) if pattern >> i & 1})
        for pattern in np.unique(np.asarray(code)).tolist()
    ]


__all__ = ["by_readers", "flows", "in_registers", "within_registers"]
