"""What a simulated run adds up to: busy, stalled and idle units, and the critical path."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from sim.timeline.engine import Run
from sim.timeline.result import Stretch, UnitTime


def stretches_of(run: Run, end: float) -> tuple[Stretch, ...]:
    """Compressed time from 0 to `end` in parts, each with how often it happens in all.

    A period inside of a period happens as often as both together.
    """
    cuts = sorted({0.0, end, *(t for s in run.stretches for t in (s.start, s.end) if t <= end)})
    found: list[Stretch] = []
    for low, high in pairwise(cuts):
        repeats = 1.0
        for s in run.stretches:
            if s.start <= low and high <= s.end:
                repeats *= s.repeats
        if found and found[-1].repeats == repeats:
            found[-1] = Stretch(found[-1].start, high, repeats)
        else:
            found.append(Stretch(low, high, repeats))
    return tuple(found)


class Clock:
    """True cycles of spans of compressed time."""

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        self.stretches = stretches
        self.at = 0

    def cycles(self, start: float, end: float) -> float:
        """True cycles of a span; fastest when spans are asked for in their order."""
        if end <= start or not self.stretches:
            return 0.0
        while self.at > 0 and self.stretches[self.at].start > start:
            self.at -= 1
        while self.at < len(self.stretches) - 1 and self.stretches[self.at].end <= start:
            self.at += 1
        total, i = 0.0, self.at
        while i < len(self.stretches) and self.stretches[i].start < end:
            s = self.stretches[i]
            total += max(0.0, min(end, s.end) - max(start, s.start)) * s.repeats
            i += 1
        return total


def unit_times(
    run: Run, stretches: Sequence[Stretch], units: Sequence[str], end: float
) -> dict[str, UnitTime]:
    """Busy, stalled and idle cycles of each unit."""
    found = {}
    for unit in units:
        clock = Clock(stretches)
        busy, idle, stalled, done = 0.0, 0.0, dict[str, float](), 0.0
        for segment in run.segments:
            if segment.unit != unit:
                continue
            waits_for_work = segment.kind == "store" and not segment.blocker.startswith("room")
            gap = clock.cycles(done, segment.start)
            if gap > 0:
                if waits_for_work or not segment.blocker:
                    idle += gap
                else:
                    stalled[segment.blocker] = stalled.get(segment.blocker, 0.0) + gap
            busy += clock.cycles(max(done, segment.start), segment.end)
            done = max(done, segment.end)
        idle += clock.cycles(done, end)
        found[unit] = UnitTime(busy, stalled, idle)
    return found


def critical_path(run: Run, stretches: Sequence[Stretch], end: float) -> dict[str, float]:
    """The chain of tasks that sets the end, from the last one backwards: cycles by task name."""
    found: dict[str, float] = {}
    clock = Clock(stretches)

    def spend(name: str, start: float, stop: float) -> None:
        cycles = clock.cycles(start, stop)
        if cycles > 0:
            found[name] = found.get(name, 0.0) + cycles

    if not run.segments:
        return found
    at = max(range(len(run.segments)), key=lambda i: run.segments[i].end)
    now = end
    while at >= 0:
        segment = run.segments[at]
        if segment.end < now:
            spend(f"drain of {segment.name}", segment.end, now)
            now = segment.end
        cause, issued = run.causes[at]
        begin = min(segment.start, issued)
        spend(segment.name, begin, now)
        now = min(now, begin)
        if now <= 0 or cause == at:
            break
        at = cause
    return found
