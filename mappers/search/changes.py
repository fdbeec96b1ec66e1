"""When nothing fits: the smallest change of one number that lets something fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from einsum_cascade import InputError
from mappers.search.asked import Answer, Asked
from mappers.search.options import Constraints, Objective


@dataclass(frozen=True)
class Change:
    """One number of a design that is `old`, and with which something fits when it is `new`.

    Nothing fits with any value between the two. `answer`, and what was `asked` for it, is a mapping
    that fits then.
    """

    key: str
    old: float
    new: float
    asked: Asked
    answer: Answer

    @property
    def ratio(self) -> float:
        """How many times larger or smaller the number becomes."""
        least, most = sorted((self.old, self.new))
        return most / least if least else math.inf

    def __str__(self) -> str:
        more = "more" if self.new > self.old else "less"
        new, apart = _enough(self.new), _enough(abs(self.new - self.old))
        old = f"{self.old:,.0f}" if self.old.is_integer() else f"{self.old:.6g}"
        return f"{self.key} of {new} in place of {old} ({apart} {more}, {self.ratio:.4g} times)"


def _enough(value: float) -> str:
    """A whole number as it is, others with six digits that are not less.

    >>> _enough(65536.0), _enough(0.0123456711), _enough(1.5e-6)
    ('65,536', '0.0123457', '1.5e-06')
    """
    if value.is_integer():
        return f"{value:,.0f}"
    text = f"{value:.6g}"
    if float(text) < value:
        text = f"{value + 10.0 ** (math.floor(math.log10(value)) - 5):.6g}"
    return text


def smallest_changes(
    asked: Asked, extents: bool = False, stopped: Callable[[], bool] = bool
) -> list[Change]:
    """For each number by itself, all else as it is, the change that lets something fit; the
    smallest ratio of new to old first.

    Numbers are the size of each memory on chip, each constraint, and with `extents` each extent of
    the shape (not larger, with one more nothing fits). Without one that is enough alone, nothing.
    """
    asked = replace(asked, options=asked.options.model_copy(update={"budget": None}))
    found = [*_memories(asked, stopped), *_constraints(asked, stopped)]
    if extents:
        found += _extents(asked, stopped)
    return sorted(found, key=lambda change: change.ratio)


def _answer(asked: Asked, objective: Objective, stopped: Callable[[], bool]) -> Answer | None:
    answer = asked.answer(objective, stopped)
    return answer if len(answer.picked) else None


def _memories(asked: Asked, stopped: Callable[[], bool]) -> Iterator[Change]:
    """The least size of each memory, the others as they are; of several memories to a byte."""
    inner = asked.architecture.memories[1:]
    for memory in inner:
        old = float(memory.size_bytes)
        answer = _answer(asked.with_size(memory.name, np.inf), "buffer_bytes", stopped)
        if answer is None:
            continue
        enough, low = float(answer.costs[0, 0]), float(math.floor(old))
        while len(inner) > 1 and enough - low > 1:  # what is least in sum need not be of this one
            middle = float(math.floor((low + enough) / 2))
            less = _answer(asked.with_size(memory.name, middle), "buffer_bytes", stopped)
            if less is not None:
                answer, enough = less, middle
            else:
                low = middle
        if enough > old:
            yield Change(f"memories.{memory.name}.size_bytes", old, enough, asked, answer)


def _constraints(asked: Asked, stopped: Callable[[], bool]) -> Iterator[Change]:
    """The least that can be kept to of each constraint, the others as they are."""
    constraints = asked.options.constraints
    for name, old in constraints.of_columns.items():
        freer = _with_constraints(asked, constraints.model_copy(update={name: None}))
        answer = _answer(freer, name, stopped)
        if answer is not None and (new := float(answer.costs[0, 0])) > old:
            yield Change(f"constraints.{name}", old, new, asked, answer)
    if constraints.power_w is not None and constraints.latency_s is not None:
        freer = _with_constraints(asked, constraints.model_copy(update={"power_w": None}))
        answer = _answer(freer, "energy_pj", stopped)
        if answer is not None:
            joules = float(answer.costs[0, 0]) * 1e-12
            new = joules / constraints.latency_s
            while joules / new > constraints.latency_s:
                new = float(np.nextafter(new, np.inf))
            if new > constraints.power_w:
                yield Change("constraints.power_w", constraints.power_w, new, asked, answer)


def _with_constraints(asked: Asked, constraints: Constraints) -> Asked:
    return replace(asked, options=asked.options.model_copy(update={"constraints": constraints}))


def _extents(asked: Asked, stopped: Callable[[], bool]) -> Iterator[Change]:
    """The largest of each extent, by halving: with the next larger one nothing fits."""
    for rank, value in asked.shape.items():
        low, high, answer = 0, int(value), None
        while high - low > 1:
            middle = 1 if low == 0 else (low + high) // 2
            smaller = replace(asked, shape={**asked.shape, rank: middle})
            try:
                found = _answer(smaller, "buffer_bytes", stopped)
            except InputError:  # other extents go with it, or tiles that do not divide it
                found = None
            if found is not None:
                low, answer = middle, found
            elif low == 0:
                break
            else:
                high = middle
        if answer is not None:
            yield Change(f"extent {rank}", float(value), float(low), asked, answer)


__all__ = ["Change", "smallest_changes"]
