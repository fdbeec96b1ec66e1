"""The tasks of a phase as streams: tiles of Einsums on arrays, tiles of tensors on memory ports.

A stream is a sequence of equal tasks in the order of its loops. Its `Need`s say how many tasks of
other streams each of its tasks waits for: values, loads, and room for results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Literal

from sim.timeline.between import Between
from sim.timeline.result import Kind
from sim.timeline.spaces import Space


@dataclass(frozen=True)
class Need:
    """Task n waits for the first `count(n)` tasks of stream `producer`.

    Both go over what passes between them in `chunks` equal parts, and each part is there
    `latency` cycles after the producer is done with it. Where the producer makes it in several
    tasks, `span` is how many: each of them is a part. `between` knows the times word by word, for
    tasks that have their unit to themselves; for room, of the task `back` before. `sort`: a value
    is waited for, or room, or the end of a step; `about` names it.
    """

    producer: int
    count: Callable[[int], int]
    chunks: int = 1
    latency: float = 0.0
    span: int = 1
    sort: Literal["value", "room", "step"] = "value"
    about: str = ""
    between: Between | None = None
    back: int = 0


@dataclass
class Stream:
    """Equal tasks of `cycles` each, in which a PE (or port) handles `points` one after the other.

    `epoch(n)` is the iteration of the phase's common loops to which task n belongs, `lag` by how
    many epochs it comes later in the order of its unit, `rank` its place in an epoch. Einsums of a
    loop inside of an epoch have one `place` in it; there, task n belongs to iteration `inner(n)`. A
    long transfer goes in `slices`, tasks of their own, so that others come in between.
    """

    name: str
    kind: Kind
    unit: str
    space: Space
    cycles: float
    points: int
    einsum: str | None = None
    epoch: Callable[[int], int] = lambda task: task
    lag: int = 0
    rank: float = 0.0
    place: float = 0.0
    inner: Callable[[int], int] = lambda task: 0
    needs: list[Need] = field(default_factory=list)
    group: int | None = None
    slices: int = 1

    @property
    def count(self) -> int:
        """Number of tasks."""
        return self.space.count * self.slices


@dataclass(frozen=True)
class Streams:
    """All streams of a phase, and the common loops (`spine`) in which they move forward."""

    phase: str
    spine: Space
    all: tuple[Stream, ...]
    arrays: tuple[str, ...]
    ports: tuple[str, ...]

    def on(self, unit: str, *kinds: str) -> list[int]:
        """The streams of a unit."""
        return [
            i for i, s in enumerate(self.all) if s.unit == unit and (not kinds or s.kind in kinds)
        ]

    def affected(self, stream: Stream, level: int) -> bool:
        """Whether a stream moves forward with loop `level` of the spine."""
        own = stream.space.levels[: level + 1]
        return len(own) == level + 1 and all(
            (a.name, a.extent) == (b.name, b.extent)
            for a, b in zip(own, self.spine.levels, strict=False)
        )

    def per_iteration(self, stream: Stream, level: int) -> int:
        """Tasks of an affected stream in one iteration of loop `level`."""
        return prod(v.extent for v in stream.space.levels[level + 1 :]) * stream.slices
