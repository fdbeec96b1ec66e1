"""What a timeline says: who worked when, who waited for what, and which chain of work set the end.

A long run is periodic. The engine simulates until a loop repeats itself, then lets one period stand
for many: *compressed* time holds that period once, and its `Stretch` says how often it happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["compute", "load", "store"]


@dataclass(frozen=True)
class Segment:
    """One task: a tile of an Einsum on an array, or of a tensor on the port of a memory.

    `start` and `end` are cycles of compressed time. `index` names the loops that the tile belongs
    to and the iteration of each. `blocker` is what the unit waited for before it could begin, ""
    when it was simply busy until then: the name of a task ("LM", "load K"), "drain of LM", or
    "room for SLN".
    """

    unit: str
    phase: str
    name: str
    kind: Kind
    index: tuple[tuple[str, int], ...]
    start: float
    end: float
    blocker: str = ""


@dataclass(frozen=True)
class Stretch:
    """A part of compressed time that happens `repeats` times in a row or in all."""

    start: float
    end: float
    repeats: float


@dataclass(frozen=True)
class UnitTime:
    """Cycles of a unit over the run: at work, stalled on what, and idle (it has nothing to do).

    The three add up to the cycles of the run.
    """

    busy: float
    stalled: Mapping[str, float]
    idle: float


@dataclass(frozen=True)
class Timeline:
    """The run of one design point.

    `cycles` is its true length. `critical_path` holds the cycles of that length by what they were
    spent on, as `Segment.name` (with "drain of ..." for the way out of an array); they add up to
    `cycles`. `tasks` counts all tasks of the run, `segments` holds those that were simulated.
    """

    clock_hz: float
    cycles: float
    segments: tuple[Segment, ...]
    stretches: tuple[Stretch, ...]
    units: Mapping[str, UnitTime]
    critical_path: Mapping[str, float]
    tasks: float

    @property
    def latency_s(self) -> float:
        """Seconds of the run."""
        return self.cycles / self.clock_hz

    @property
    def extrapolated(self) -> bool:
        """Whether a steady state was found and not all of it simulated."""
        return any(stretch.repeats > 1 for stretch in self.stretches)

    def weights(self, start: float, end: float) -> Iterator[tuple[float, float, float]]:
        """The parts of a span of compressed time, each with how often it happens."""
        for stretch in self.stretches:
            low, high = max(start, stretch.start), min(end, stretch.end)
            if high > low:
                yield low, high, stretch.repeats
