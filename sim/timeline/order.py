"""The order in which each unit takes its tasks: software pipelining over the common loops.

An epoch is one iteration of the spine. In epoch k an array works on tile k - lag of each Einsum:
the further an Einsum is behind the values that it needs, the more time these have to come. Memory
ports load in the order in which tiles are needed and store in the order in which they are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from math import ceil

from sim.mapping import Phase
from sim.timeline.building import Builder, Counter
from sim.timeline.spaces import Space
from sim.timeline.streams import Need, Stream, Streams


@dataclass(frozen=True)
class Distance:
    """Epochs between a value and its use on another array, or behind the way out of one.

    With `tiles`, from and to Einsums that do not follow all common loops: their larger tiles.
    """

    hop: int
    per_latency: int
    tiles: bool = False


PIPELINES = (
    Distance(1, 1),
    Distance(2, 1),
    Distance(1, 1, tiles=True),
    Distance(1, 0, tiles=True),
    Distance(1, 0),
    Distance(0, 0),
)
"""Tried in this order; deeper pipelines need more room for tiles on their way."""

_APART = 1e4
"""More than there are Einsums: between the places of one lag, or step, and the next."""


_REMEMBERED = 4096
"""Tasks of a stream whose epoch is not worked out again."""


def ordered(on: Builder, streams: Streams, phase: Phase, distance: Distance) -> Streams:
    """The streams with epochs, lags and places in an epoch."""
    spine = streams.spine
    computes = [i for i, s in enumerate(streams.all) if s.kind == "compute"]
    topological = {e.name: i for i, e in enumerate(on.cascade.order)}
    behind = _behind(on, streams, computes)
    lags = (
        _step_lags(on, streams, phase, computes)
        if phase.steps
        else _lags(streams, computes, distance, topological)
    )
    steps = {e: i for i, step in enumerate(phase.steps) for e in step}
    result = [replace(s) for s in streams.all]
    for i in sorted(computes, key=lambda j: topological[str(result[j].einsum)]):
        stream = result[i]
        name = str(stream.einsum)
        stream.epoch = _epochs(spine, stream.space, after=i in behind)
        stream.lag = lags[i]
        if i in behind:
            stream.epoch = _not_before(result, streams, i)
        place = float(steps.get(name, 0)) if phase.steps else -float(lags[i])
        stream.rank = stream.place = place * _APART + topological[name]
    if phase.steps:
        _barriers(on, result, computes, steps)
    else:
        _inside(result, [i for i in behind if not _along(spine, result[i].space)])
    _group(result, phase)
    for i, stream in enumerate(streams.all):
        if stream.kind != "compute":
            _follow(result, i)
    return replace(streams, all=tuple(result))


def _epochs(spine: Space, space: Space, after: bool) -> Counter:
    """The iteration of the spine to which a task of `space` belongs.

    A task outside of inner loops of the spine comes before the first iteration of these that
    touches its coordinates, or after the last.
    """
    levels = [v.name for v in space.levels]
    names = [v.name for v in spine.levels]
    if levels[: len(names)] == names:
        inner = space.count // max(spine.count, 1)
        return lambda task: task // inner
    common = 0
    for a, b in zip(levels, names, strict=False):
        if a != b:
            break
        common += 1
    deeper = {v.rank for v in spine.levels[common:]}
    own = {v.rank for v in space.levels[common:]}
    inside = Space(spine.loops, spine.depth)

    def epoch(task: int) -> int:
        digits = space.digits(task)
        coordinates = space.last(digits) if after else space.first(digits)
        limits = {rank: coordinates[rank] for rank in deeper & own}
        found = inside.latest(limits) if after else inside.earliest(limits)
        rest = inside.digits(found)[common:]
        total = 0
        for level, digit in zip(spine.levels, (*digits[:common], *rest), strict=True):
            total = total * level.extent + digit
        return total

    return lru_cache(_REMEMBERED)(epoch)


def _not_before(ordering: list[Stream], streams: Streams, index: int) -> Counter:
    """The epoch of a task: in none before those of the values that it, or one before it, needs.

    A running value needs no looking after: it is of an iteration that has passed.
    """
    stream = ordering[index]
    own, space = stream.epoch, stream.space
    sources = [
        (ordering[need.producer], need.count)
        for need in stream.needs
        if need.sort == "value"
        and ordering[need.producer].kind == "compute"
        and not _tiles_back(streams, index, need)
    ]

    @lru_cache(_REMEMBERED)
    def of(task: int) -> int:
        found = own(task)
        for source, count in sources:
            if count(task) > 0 and source is not stream:
                found = max(found, source.epoch(min(count(task), source.count) - 1))
        return found

    def epoch(task: int) -> int:
        found, inside = of(task), 1
        for level in reversed(space.levels):  # the ends of the iterations before it
            inside *= level.extent
            if task % inside and task % inside >= inside // level.extent:
                found = max(found, of(task - task % (inside // level.extent) - 1))
        return found

    return lru_cache(_REMEMBERED)(epoch)


def _behind(on: Builder, streams: Streams, computes: Sequence[int]) -> set[int]:
    """The streams that need, directly or not, what the streams of all spine loops make."""
    found = {i for i in computes if on.is_full(streams.all[i].space)}
    full = set(found)
    grown = True
    while grown:
        grown = False
        for i in computes:
            values = {n.producer for n in streams.all[i].needs if n.sort == "value"}
            if i not in found and values & found:
                found.add(i)
                grown = True
    return found - full


def _lags(
    streams: Streams, computes: Sequence[int], distance: Distance, topological: dict[str, int]
) -> dict[int, int]:
    """As early as the distances allow, then as late as the readers allow.

    The second keeps what waits for others from lying in registers meanwhile.
    """
    busy: dict[str, float] = {}
    epochs = max(streams.spine.count, 1)
    for i in computes:
        stream = streams.all[i]
        busy[stream.unit] = busy.get(stream.unit, 0.0) + stream.cycles * stream.count / epochs
    period = max(busy.values(), default=1.0) or 1.0
    edges: list[tuple[int, int, int]] = []  # reader, writer, epochs between them at least
    for i in computes:
        for need in streams.all[i].needs:
            if need.sort != "value" or streams.all[need.producer].kind != "compute":
                continue
            crosses = streams.all[need.producer].unit != streams.all[i].unit or need.latency > 0
            count = min(streams.all[i].count, streams.all[need.producer].count)
            scale = max(epochs // max(count, 1), 1) if distance.tiles else 1
            behind = ceil(need.latency / (scale * period))
            far = scale * (distance.hop + distance.per_latency * behind)
            back = _tiles_back(streams, i, need)
            edges.append((i, need.producer, (far if crosses else 0) - back))
    lags = dict.fromkeys(computes, 0)
    for _ in computes:
        for reader, writer, far in edges:
            lags[reader] = max(lags[reader], lags[writer] + far)
    for i in sorted(computes, key=lambda j: -topological[str(streams.all[j].einsum)]):
        own = [lags[r] - far for r, w, far in edges if w == i and r != i]
        if own and any(w != i and r == i for r, w, _ in edges):
            lags[i] = max(lags[i], min(own))
    return lags


def _tiles_back(streams: Streams, reader: int, need: Need) -> int:
    """How many epochs before its own a task finds a value: 0 but for running values."""
    mine, theirs = streams.all[reader].space, streams.all[need.producer].space
    if mine.count != theirs.count:
        return 0
    return mine.count - need.count(mine.count - 1)


def _step_lags(
    on: Builder, streams: Streams, phase: Phase, computes: Sequence[int]
) -> dict[int, int]:
    """Under steps, an Einsum that stands before what it needs works on the tile before."""
    place = {e: i for i, step in enumerate(phase.steps) for e in step}
    lags = dict.fromkeys(computes, 0)
    for _ in computes:
        for i in computes:
            for need in streams.all[i].needs:
                if need.sort != "value" or streams.all[need.producer].kind != "compute":
                    continue
                if _tiles_back(streams, i, need):
                    continue
                early = place[str(streams.all[i].einsum)]
                late = place[str(streams.all[need.producer].einsum)]
                lags[i] = max(lags[i], lags[need.producer] + (late > early))
    return lags


def _barriers(
    on: Builder, streams: list[Stream], computes: Sequence[int], steps: dict[str, int]
) -> None:
    """A step begins when the other arrays have ended the steps before it."""
    for i in computes:
        stream = streams[i]
        stream.needs = list(stream.needs)
        for j in computes:
            other = streams[j]
            if other.unit == stream.unit or not on.is_full(other.space):
                continue
            same = steps[str(other.einsum)] < steps[str(stream.einsum)]
            epoch, lag, shift = stream.epoch, stream.lag, other.lag - same

            def count(task: int, epoch: Counter = epoch, lag: int = lag, shift: int = shift) -> int:
                return int(epoch(task) + lag - shift)

            stream.needs.append(Need(j, count, 1, 0.0, 1, "step", str(other.einsum)))


def _group(streams: list[Stream], phase: Phase) -> None:
    """Einsums that are interleaved begin together: of different tiles, or one feeding the other."""
    for number, members in enumerate(phase.interleaved):
        own = [i for i, s in enumerate(streams) if s.kind == "compute" and s.einsum in members]
        for i, j in combinations(own, 2):
            feeds = {n.producer for n in streams[i].needs} | {n.producer for n in streams[j].needs}
            if streams[i].lag == streams[j].lag and not feeds & {i, j}:
                break
        else:
            for i in own:
                streams[i].group = number


def _along(spine: Space, space: Space) -> bool:
    """Whether all the loops of a space are the first ones of the spine."""
    names = [v.name for v in space.levels]
    return names == [v.name for v in spine.levels[: len(names)]]


def _inside(streams: list[Stream], behind: list[int]) -> None:
    """Einsums behind an epoch that share a loop there go through it together, each with its lag."""
    loops: dict[tuple[object, ...], list[Stream]] = {}
    for i in sorted(behind):
        loops.setdefault(tuple(streams[i].space.levels), []).append(streams[i])
    for together in loops.values():
        lag = min(stream.lag for stream in together)
        place = min(stream.place + (stream.lag - lag) * _APART for stream in together)
        for stream in together:
            later = stream.lag - lag
            stream.inner = lambda task, later=later: task + later  # type: ignore[misc]
            stream.lag, stream.place = lag, place


def _follow(streams: list[Stream], index: int) -> None:
    """A load is as urgent as the first task that needs it, a store as the last that it needs."""
    moved = streams[index]
    stream = next(s for s in streams if s.kind == "compute" and s.einsum == moved.einsum)
    inner = max(stream.space.count // max(moved.space.count, 1), 1)
    epoch, within, tasks, slices = stream.epoch, stream.inner, stream.space.count, moved.slices

    def task(piece: int) -> int:
        first = piece // slices * inner
        return min(first if moved.kind == "load" else first + inner - 1, tasks - 1)

    moved.epoch = lambda piece: epoch(task(piece))
    moved.inner = lambda piece: within(task(piece))
    moved.lag, moved.rank, moved.place = stream.lag, stream.rank, stream.place
