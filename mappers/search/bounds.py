"""What sequences of phases cannot cost less than, given what each phase does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from einsum_cascade import Cascade
from mappers.search.fronts import Column, front_of, join
from mappers.search.problem import Problem
from sim.accesses import analysis_of
from sim.mapping import Mapping as MappingOf

Run = tuple[int, int]
"""Einsums that follow one another in the order: the first position, and that behind the last."""

ROUNDING = 1 - 1e-13
"""Sums in another order may be larger by rounding; by less than what counts as equal."""

_MOST = 8
"""How many bounds on the same thing are told apart."""


def bounds_around(
    count: int, phases: Mapping[Run, np.ndarray], columns: Sequence[Column]
) -> dict[Run, np.ndarray]:
    """For each run, what all phases before and after it cost at least: rows, one of which no choice
    of these phases is below in any column. None where a mapping cannot be made complete.

    `phases` has such rows for every run of `count` Einsums.
    """
    start = np.zeros((1, len(columns)))
    before, after = {0: start}, {count: start}
    ascending = sorted(phases.items())
    for end in range(1, count + 1):
        every = [
            join_all(columns, before[a], own)
            for (a, b), own in ascending
            if b == end and a in before
        ]
        if every:
            before[end] = merged(np.concatenate(every))
    for begin in range(count - 1, -1, -1):
        every = [
            join_all(columns, after[b], own)
            for (a, b), own in ascending
            if a == begin and b in after
        ]
        if every:
            after[begin] = merged(np.concatenate(every))
    found = {}
    for a, b in phases:
        if a in before and b in after:
            found[a, b] = merged(join_all(columns, before[a], after[b])) * ROUNDING
    return found


def join_all(columns: Sequence[Column], one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The costs of each row of one, followed by each row of the other."""
    return np.asarray(join(columns, one[:, None], other[None]).reshape(-1, len(columns)))


def merged(costs: np.ndarray) -> np.ndarray:
    """A few rows, one of which each of `costs` is not below in any column."""
    kept = costs[front_of(costs)]
    if len(kept) <= _MOST:
        return np.asarray(kept)
    return np.stack([group.min(axis=0) for group in np.array_split(kept, _MOST)])


def bound_bytes(cascade: Cascade, problem: Problem) -> float:
    """Bytes that any mapping of a cascade moves on the architecture."""
    on = MappingOf(cascade, problem.architecture, problem.shape, ())
    inner = sum(m.size_bytes for m in on.architecture.memories[1:])
    registers = sum(a.pes * a.register_words for a in on.architecture.arrays)
    held = inner / on.architecture.word_bytes + registers
    words = analysis_of(cascade).traffic_lower_bound_words(problem.shape, held)
    return float(np.min(words * on.architecture.word_bytes))


__all__ = ["ROUNDING", "Run", "bound_bytes", "bounds_around", "join_all", "merged"]
