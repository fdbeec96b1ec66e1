"""A timeline as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open.

The Trace Event Format, as far as both read it: metadata events that name one process (the design
point) and a thread a unit, and complete events ("X"), one a task, in microseconds. What runs on a
unit at the same time, interleaved cycle by cycle, has a thread each: slices of a thread must nest.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from einsum_cascade.source import InputError
from explore.levels import PointResult, Run, shares
from sim.timeline.result import Segment, Timeline

PROCESS = 1
COMPRESSED = "compressed time"
"""The thread that says which stretches happen more than once."""


def trace(run: Run) -> dict[str, Any]:
    """The whole trace, ready for `json.dump`."""
    timeline, result = run.timeline, run.result
    return {
        "displayTimeUnit": "ns",
        "otherData": _about(result, timeline),
        "traceEvents": [*_names(result, timeline), *_tasks(timeline), *_repeated(timeline)],
    }


def write_trace(run: Run, file: Path) -> None:
    """Write the trace of a run, a line an event. Raises `InputError` where that is not possible."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = trace(run)
        events = ",\n".join(map(json.dumps, whole.pop("traceEvents")))
        head = json.dumps(whole)[:-1]
        file.write_text(f'{head}, "traceEvents": [\n{events}\n]}}\n', encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {str(file)!r}: {error.strerror}") from None


def file_names(designs: Sequence[str]) -> list[str]:
    """A name of a file for every design.

    >>> file_names(["+Binding", "FuseMax, 4 MiB", "FuseMax 4 MiB"])
    ['trace-+Binding.json', 'trace-FuseMax-4-MiB.json', 'trace-FuseMax-4-MiB-2.json']
    """
    found: list[str] = []
    for design in designs:
        plain = f"trace-{re.sub(r'[^A-Za-z0-9+._]+', '-', design).strip('-') or 'design'}"
        again = 2
        name = plain
        while f"{name}.json" in found:
            name, again = f"{plain}-{again}", again + 1
        found.append(f"{name}.json")
    return found


def lanes(segments: Iterable[Segment]) -> list[list[Segment]]:
    """The tasks of a unit in lanes, in each of which they follow one another.

    One lane is enough unless tasks are interleaved.
    """
    found: list[list[Segment]] = []
    for segment in sorted(segments, key=lambda s: (s.start, s.end)):
        free = (lane for lane in found if lane[-1].end <= segment.start)
        lane = next(free, None)
        if lane is None:
            found.append([segment])
        else:
            lane.append(segment)
    return found


def by_unit(timeline: Timeline) -> dict[str, list[Segment]]:
    """The tasks of every unit, units that do nothing too."""
    found: dict[str, list[Segment]] = {unit: [] for unit in timeline.units}
    for segment in timeline.segments:
        found.setdefault(segment.unit, []).append(segment)
    return found


def warning(run: Run) -> str | None:
    """What to say of a trace that does not hold all of the run."""
    if not run.timeline.extrapolated:
        return None
    return (
        f"{run.result.design}: the trace is of compressed time: {len(run.timeline.segments)} of "
        f"{run.timeline.tasks:.0f} tasks; a steady state is shown once, and args.repeats says how "
        "often it happens"
    )


def _about(result: PointResult, timeline: Timeline) -> dict[str, Any]:
    def percent(cycles: float) -> float:
        return round(100 * cycles / timeline.cycles, 3) if timeline.cycles else 0.0

    return {
        "design": result.design,
        "model": result.model,
        "kernel": result.kernel,
        "batch": result.batch,
        "seq_len": result.seq_len,
        **result.swept,
        "clock_hz": timeline.clock_hz,
        "latency_s": timeline.latency_s,
        "cycles": timeline.cycles,
        "tasks": timeline.tasks,
        "compressed": timeline.extrapolated,
        "critical_path": shares(timeline.critical_path, timeline.cycles),
        "units_percent": {
            unit: {
                "busy": percent(time.busy),
                "stalled": {reason: percent(c) for reason, c in time.stalled.items()},
                "idle": percent(time.idle),
            }
            for unit, time in timeline.units.items()
        },
    }


def _names(result: PointResult, timeline: Timeline) -> Iterator[dict[str, Any]]:
    """Metadata: what processes and threads are called, and their order."""
    title = result.name + (" (compressed time)" if timeline.extrapolated else "")
    yield _metadata("process_name", 0, {"name": title})
    for order, (thread, name) in enumerate(_threads(timeline)):
        yield _metadata("thread_name", thread, {"name": name})
        yield _metadata("thread_sort_index", thread, {"sort_index": order})


def _metadata(name: str, thread: int, args: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "ph": "M", "pid": PROCESS, "tid": thread, "args": args}


def _threads(timeline: Timeline) -> Iterator[tuple[int, str]]:
    """Numbers and names of the threads: units and their lanes, as `_tasks` numbers them."""
    thread = 0
    for unit, segments in by_unit(timeline).items():
        count = max(1, len(lanes(segments)))
        for lane in range(count):
            thread += 1
            yield thread, unit if lane == 0 else f"{unit}, interleaved"
    if timeline.extrapolated:
        yield thread + 1, COMPRESSED


def _tasks(timeline: Timeline) -> Iterator[dict[str, Any]]:
    often = how_often(timeline)
    thread = 0
    for segments in by_unit(timeline).values():
        for lane in lanes(segments) or [[]]:
            thread += 1
            for s in lane:
                args: dict[str, Any] = {**dict(s.index), "phase": s.phase}
                args |= {"start_cycle": s.start, "end_cycle": s.end}
                if s.blocker:
                    args["waited_for"] = s.blocker
                repeats = often(s)
                if repeats > 1:
                    args["repeats"] = repeats
                yield _complete(timeline, thread, s.name, s.kind, s.start, s.end, args)


def how_often(timeline: Timeline) -> Callable[[Segment], float]:
    """How often a task happens: as often as the stretch it lies in, or the busiest of several."""
    stretches = timeline.stretches
    starts = [stretch.start for stretch in stretches]

    def often(segment: Segment) -> float:
        found = 1.0
        for stretch in stretches[max(0, bisect_right(starts, segment.start) - 1) :]:
            if stretch.start >= segment.end:
                break
            found = max(found, stretch.repeats)
        return found

    return often


def _repeated(timeline: Timeline) -> Iterator[dict[str, Any]]:
    """What stands for more than itself."""
    if not timeline.extrapolated:
        return
    thread = [number for number, _ in _threads(timeline)][-1]
    for stretch in timeline.stretches:
        if stretch.repeats > 1:
            name = f"happens {stretch.repeats:.12g} times"
            args = {"repeats": stretch.repeats}
            yield _complete(timeline, thread, name, "stretch", stretch.start, stretch.end, args)


def _complete(
    timeline: Timeline,
    thread: int,
    name: str,
    category: str,
    start: float,
    end: float,
    args: Mapping[str, Any],
) -> dict[str, Any]:
    """A slice. Viewers keep whole nanoseconds, so both ends are rounded to them here.

    A start and a duration that are rounded apart would overlap the next slice; the exact cycles are
    in the args.
    """
    first, last = (round(cycle / timeline.clock_hz * 1e9) for cycle in (start, end))
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "ts": _microseconds(first),
        "dur": _microseconds(last - first),
        "pid": PROCESS,
        "tid": thread,
        "args": args,
    }


def _microseconds(nanoseconds: int) -> float:
    """The number that is not less than these nanoseconds when a reader multiplies and cuts."""
    value = nanoseconds / 1e3
    return value if int(value * 1e3) == nanoseconds else math.nextafter(value, math.inf)
