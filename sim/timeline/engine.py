"""The simulation of ordered streams: every unit takes its tasks in order, each as soon as it can.

A loop of the spine that repeats itself is not gone through to its end. The state at the beginning
of an iteration (times relative to it, tasks relative to the loop) decides all that follows; when
it recurs, the iterations in between are one period, which is repeated without being simulated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil, inf, prod

from sim.timeline.result import Segment, Stretch
from sim.timeline.streams import Need, Stream, Streams

Shape = tuple[tuple[int, float], ...]
"""What an issue consists of: points and cycles a point of each of its tasks."""
Ready = tuple[float, Need | None, int]
"""When a task may begin, the need that sets it, and the segment that it waits for (or -1)."""
Key = tuple[int, float, int, float]
"""What orders the tasks of a unit: epoch, place in it, iteration of a loop there, place in that."""


class Deadlock(Exception):  # noqa: N818  (another order may go on)
    """No unit can go on: tiles wait for room that only later tiles give back."""


@dataclass(frozen=True)
class Began:
    """A task that has begun: when, as what member of what issue, and its segment."""

    start: float
    shape: Shape
    member: int
    segment: int


@dataclass
class _Queue:
    """The streams of a unit: an array takes their tasks in order, a port as they are ready."""

    unit: str
    streams: list[int]
    reference: bool = False


@dataclass
class Run:
    """What a simulation found, in compressed time: segments, and the segment that each waited for
    with the time at which its issue began; `issues` as units began them (stream and task)."""

    segments: list[Segment] = field(default_factory=list)
    causes: list[tuple[int, float]] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)
    issues: list[tuple[str, tuple[tuple[int, int], ...]]] = field(default_factory=list)


class Engine:
    """Simulates the streams of one phase. `steady=False` goes through all tasks."""

    def __init__(self, streams: Streams, steady: bool = True) -> None:
        self.streams, self.steady = streams, steady
        self.all = streams.all
        self.next = [0] * len(self.all)
        self.began: list[dict[int, Began]] = [{} for _ in self.all]
        self.free = dict.fromkeys((*streams.arrays, *streams.ports), 0.0)
        self.last: dict[str, int] = dict.fromkeys(self.free, -1)
        self.queues = [_Queue(a, streams.on(a, "compute")) for a in streams.arrays]
        self.reference = self._reference()
        for queue in self.queues:
            queue.reference = self.reference in queue.streams
        self.ports = [_Queue(port, streams.on(port)) for port in streams.ports]
        self.run = Run()
        self.loops = _merged(streams)
        self.seen: list[dict[object, tuple[int, float, tuple[int, ...]]]]
        self.seen = [{} for _ in self.loops]
        self.moves = [[self._each(s, loop) for s in self.all] for loop in self.loops]
        self.sometimes = [
            [0 if self._each(s, loop) else self._own(s, loop) for s in self.all]
            for loop in self.loops
        ]
        self.inner = max(1, self.all[self.reference].count // max(streams.spine.count, 1))
        self.reach = max(0.0, *(n.latency for s in self.all for n in s.needs), 0.0)
        self.keys: list[tuple[int, Key]] = [(-1, (0, 0.0, 0, 0.0))] * len(self.all)
        self.shapes: dict[tuple[int, ...], Shape] = {}
        self.known: list[Ready | None] = [None] * len(self.all)
        self.heads: dict[str, tuple[object, Ready | None, tuple[int, int]]] = {}
        self.blocked = (-1, 0)

    def _reference(self) -> int:
        """The stream by which iterations are told: of all spine loops, on the busiest array."""
        depth = self.streams.spine.depth
        full = [
            i
            for i, s in enumerate(self.all)
            if s.kind == "compute" and self.streams.affected(s, depth - 1)
        ] or [i for i, s in enumerate(self.all) if s.kind == "compute"]
        busy: dict[str, float] = {}
        for i in full:
            busy[self.all[i].unit] = busy.get(self.all[i].unit, 0.0) + self.all[i].cycles
        unit = max(busy, key=lambda u: busy[u])
        return next(i for i in full if self.all[i].unit == unit)

    def _each(self, stream: Stream, loop: _Loop) -> int:
        """Tasks of a stream in one iteration of a loop, 0 when it does not move with the loop."""
        each = self.streams.per_iteration(stream, loop.last)
        if self.streams.affected(stream, loop.last):
            return each * (loop.inside if loop.block else 1)
        steps = loop.block and _in_steps(self.streams, stream, loop.last)
        return each if steps and stream.space.levels[loop.last].extent == loop.extent else 0

    def _own(self, stream: Stream, loop: _Loop) -> int:
        """The same for a stream that has the loop, but not all loops around it."""
        spine = self.streams.spine.levels[loop.last]
        for at, v in enumerate(stream.space.levels):
            if (
                loop.first == loop.last
                and not loop.block
                and (v.name, v.extent) == (spine.name, spine.extent)
            ):
                return prod(w.extent for w in stream.space.levels[at + 1 :])
        return 0

    # ---- running --------------------------------------------------------------------------------

    def simulate(self) -> Run:
        """Run all tasks. Raises Deadlock when the order and the rooms do not go together."""
        while True:
            moved = False
            for queue in self.queues:
                if not queue.reference:
                    while self._issue(queue):
                        moved = True
            bound = self._reference_start()
            for port in self.ports:
                while self._transfer(port, bound):
                    moved = True
                    if bound == inf:  # an array may go on now, and ask for something sooner
                        break
            if moved:
                continue
            main = next(q for q in self.queues if q.reference)
            if self._issue(main):
                continue
            if any(self._transfer(port, inf) for port in self.ports):
                continue
            break
        if any(n < s.count for n, s in zip(self.next, self.all, strict=True)):
            raise Deadlock
        return self.run

    def _key(self, index: int) -> Key:
        n = self.next[index]
        cached = self.keys[index]
        if cached[0] == n:
            return cached[1]
        stream = self.all[index]
        key = (stream.epoch(n) + stream.lag, stream.place, stream.inner(n), stream.rank)
        self.keys[index] = (n, key)
        return key

    def _head(self, queue: _Queue) -> list[int]:
        """The streams whose next tasks the unit takes now: one, or several interleaved."""
        left = [i for i in queue.streams if self.next[i] < self.all[i].count]
        if not left:
            return []
        first = min(left, key=self._key)
        group = self.all[first].group
        if group is None:
            return [first]
        epoch = self._key(first)[0]
        return [first] + [
            i
            for i in left
            if i != first and self.all[i].group == group and self._key(i)[0] == epoch
        ]

    def _known(self, unit: str, members: list[int], shape: Shape) -> Ready | None:
        """What `_ready` says of the next tasks of an array, asked again only when it may differ."""
        tasks = [(i, self.next[i]) for i in members]
        asked, found, (producer, count) = self.heads.get(unit, (None, None, (-1, 0)))
        if asked == tasks and (found is not None or count > self.next[producer]):
            return found
        found = self._ready(members, shape)
        self.heads[unit] = (tasks, found, self.blocked)
        return found

    def _ready(self, members: list[int], shape: Shape) -> Ready | None:
        """When the next tasks of `members` can run through, and what comes last; None: unknown."""
        latest, why, cause = -inf, None, -1
        for place, index in enumerate(members):
            task = self.next[index]
            for need in self.all[index].needs:
                count = min(need.count(task), self.all[need.producer].count)
                if count <= 0:
                    continue
                if count > self.next[need.producer]:
                    if need.producer in members and count == self.next[need.producer] + 1:
                        continue  # a member of the same issue hands on as it goes
                    self.blocked = (need.producer, count)
                    return None
                if need.between is not None and len(shape) == 1:
                    found = self._word_by_word(need, task, count, shape[0][1], latest)
                    if found is not None:
                        latest, why, cause = found[0], need, found[1]
                    continue
                for part in range(max(0, count - need.span), count):
                    made = self.began[need.producer].get(part)
                    if made is None:
                        continue
                    after = offset(made.shape, made.member, shape, place, need.chunks)
                    if need.span > 1:  # the parts that come first are taken first
                        after -= _length(shape) * (part - count + need.span) / need.span
                    if made.start + after + need.latency > latest:
                        latest, why, cause = made.start + after + need.latency, need, made.segment
        return latest, why, cause

    def _word_by_word(
        self, need: Need, task: int, count: int, cycles: float, latest: float
    ) -> tuple[float, int] | None:
        """The latest that any of the first `count` tasks lets `task` begin, if after `latest`.

        Not before the last of them has begun: only then it is known when its words will be there.
        """
        found = None
        assert need.between is not None
        for maker in range(count - 1, -1, -1):
            made = self.began[need.producer].get(maker)
            if made is None:
                break
            if maker == count - 1 and made.start > latest:
                latest = made.start
                found = (latest, made.segment)
            if len(made.shape) > 1:  # it shares its array: in equal parts
                wait = offset(made.shape, made.member, ((need.chunks, cycles),), 0, need.chunks)
            else:
                wait = need.between.wait(maker, task - need.back, made.shape[0][1], cycles)
            if made.start + wait + need.latency > latest:
                latest = made.start + wait + need.latency
                found = (latest, made.segment)
            if made.start + need.latency <= latest:  # those before it had ended by then
                break
        return found

    def _shape(self, members: list[int]) -> Shape:
        key = tuple(members)
        if key not in self.shapes:
            streams = [self.all[i] for i in members]
            self.shapes[key] = tuple((s.points, s.cycles / s.points) for s in streams)
        return self.shapes[key]

    def _issue(self, queue: _Queue) -> bool:
        members = self._head(queue)
        if not members:
            return False
        shape = self._shape(members)
        ready = self._known(queue.unit, members, shape)
        if ready is None:
            return False
        if queue.reference and self.reference in members:
            start = max(ready[0], self.free[queue.unit])
            if self.steady and self._checkpoint(start):
                return True
        self._begin(queue.unit, members, shape, ready)
        return True

    def _transfer(self, port: _Queue, bound: float) -> bool:
        """A port takes what is ready first; then stores, which give room; then the most urgent.

        Nothing is taken that begins after `bound` while something unknown may be ready sooner.
        """
        best: tuple[float, bool, Key] | None = None
        chosen, blocked, free = -1, False, self.free[port.unit]
        for index in port.streams:
            if self.next[index] >= self.all[index].count:
                continue
            ready = self.known[index] or self._ready([index], self._shape([index]))
            if ready is None:
                blocked = True
                continue
            self.known[index] = ready
            rank = (max(ready[0], free), self.all[index].kind == "load", self._key(index))
            if best is None or rank < best:
                best, chosen = rank, index
        if best is None or (blocked and best[0] > bound):
            return False
        ready, self.known[chosen] = self.known[chosen], None
        assert ready is not None
        self._begin(port.unit, [chosen], self._shape([chosen]), ready)
        return True

    def _reference_start(self) -> float:
        """A lower bound for whatever begins later: the next task that all others wait for."""
        queue = next(q for q in self.queues if q.reference)
        members = self._head(queue)
        if not members:
            return inf
        ready = self._known(queue.unit, members, self._shape(members))
        return inf if ready is None else max(ready[0], self.free[queue.unit])

    def _begin(
        self,
        unit: str,
        members: list[int],
        shape: Shape,
        ready: Ready,
    ) -> None:
        waited = ready[0] > self.free[unit]
        start = max(ready[0], self.free[unit], 0.0)
        self.run.issues.append((unit, tuple((i, self.next[i]) for i in members)))
        blocker = self._blocker(ready[1], ready[2], start) if waited and start > 0 else ""
        cause = ready[2] if waited else self.last[unit]
        for place, index in enumerate(members):
            stream = self.all[index]
            task = self.next[index]
            first, end = _span(shape, place)
            number = len(self.run.segments)
            levels = stream.space.levels
            names = tuple(
                (v.name, d)
                for v, d in zip(levels, stream.space.digits(task // stream.slices), strict=True)
            )
            self.run.segments.append(
                Segment(
                    unit, self.streams.phase, stream.name, stream.kind, names,
                    start + first, start + end, blocker,
                )
            )  # fmt: skip
            self.run.causes.append((cause, start))
            self.began[index][task] = Began(start, shape, place, number)
            self.next[index] = task + 1
            self.last[unit] = number
        self.free[unit] = start + _length(shape)

    def _blocker(self, need: Need | None, cause: int, start: float) -> str:
        if need is None:
            return ""
        if need.sort == "room":
            return f"room for {need.about}"
        if need.sort == "step":
            return f"end of {need.about}"
        if need.latency > 0 and cause >= 0 and self.run.segments[cause].end < start:
            return f"drain of {self.run.segments[cause].name}"
        return self.all[need.producer].name

    # ---- steady state ---------------------------------------------------------------------------

    def _checkpoint(self, now: float) -> bool:
        """At the first task of an iteration: leap over what would only repeat."""
        task, left = divmod(self.next[self.reference], self.inner)
        if left:
            return False
        self._forget(now)
        for level, loop in enumerate(self.loops):
            if task % loop.inside or loop.extent < 4:
                continue
            digit = task // loop.inside % loop.extent
            if digit == 0:
                self.seen[level:] = [{} for _ in self.loops[level:]]
            history = self.seen[level]
            state = self._state(level, task // loop.inside, now)
            earlier = history.get(state)
            if earlier is not None and self._leap(level, digit, now, earlier):
                return True
            history[state] = (digit, now, tuple(self.next))
        return False

    def _state(self, level: int, iteration: int, now: float) -> object:
        """All that decides what follows, relative to this iteration.

        Tasks of streams that have the loop, but not all around it, are told by `_leap` instead.
        """
        found: list[object] = []
        for index, began in enumerate(self.began):
            at = self.next[index]
            each = self.moves[level][index]
            if each:
                found.append(at - iteration * each)
            elif not self.sometimes[level][index]:
                found.append(at)
            for task, b in began.items():  # in the order of tasks
                found.append((task - at, round(b.start - now, 3), b.shape, b.member))
        found += [round(max(free - now, 0.0), 3) for free in self.free.values()]
        return tuple(found)

    def _forget(self, now: float) -> None:
        """Tasks whose results are there, whoever may ask."""
        for began in self.began:
            ends = ((t, b.start + _length(b.shape) + self.reach) for t, b in began.items())
            over = [t for t, end in ends if end < now - 1e-6]  # one that ends now decides on now
            for task in over:
                del began[task]

    def _leap(
        self, level: int, digit: int, now: float, earlier: tuple[int, float, tuple[int, ...]]
    ) -> bool:
        """Repeat the period since `earlier` as often as nothing new can happen."""
        iteration, then, before = earlier
        period = digit - iteration
        shift = [at - old for at, old in zip(self.next, before, strict=True)]
        for index in range(len(self.all)):
            each = self.moves[level][index]
            allowed = {period * each} if each else {0, period * self.sometimes[level][index]}
            if shift[index] not in allowed:
                return False
        low, high = 0, (self.loops[level].extent - 1 - digit) // period
        while low < high:  # the largest number of repeats that is safe
            middle = (low + high + 1) // 2
            if self._safe(level, shift, middle, before):
                low = middle
            else:
                high = middle - 1
        if low == 0:
            return False
        for index, step in enumerate(shift):
            if step:
                self.next[index] += low * step
                self.began[index] = {t + low * step: b for t, b in self.began[index].items()}
        self.known = [None] * len(self.all)
        self.heads.clear()
        self.run.stretches.append(Stretch(then, now, 1.0 + low))
        self.seen[level:] = [{} for _ in self.loops[level:]]
        return True

    def _safe(self, level: int, shift: list[int], repeats: int, before: tuple[int, ...]) -> bool:
        """Whether the state after `repeats` more periods lies in the same stretch of the loop.

        No stream may leave the loop, none may have been outside of it. What moves must need what
        moves with it, as many tasks further; what stands still must stay blocked, and must have
        been there long enough for whoever needs it.
        """
        extent = self.loops[level].extent
        after = [at + repeats * step for at, step in zip(self.next, shift, strict=True)]
        reached = 0
        for index, step in enumerate(shift):
            if step:
                each = self.moves[level][index] or self.sometimes[level][index]
                start = self.next[index] - self.next[index] % (extent * each)
                if before[index] - start < each or after[index] - start > (extent - 1) * each:
                    return False
                stream = self.all[index]
                last = min(after[index], stream.count - 1)
                reached = max(reached, stream.epoch(last) + stream.lag)
        for index, stream in enumerate(self.all):
            task, step = after[index], repeats * shift[index]
            if task >= stream.count:
                continue
            later = reached + self.loops[level].inside
            if not step and stream.kind == "compute" and stream.epoch(task) + stream.lag <= later:
                return False
            for need in stream.needs:
                other = need.producer
                count = min(need.count(task), self.all[other].count)
                if step and shift[other]:
                    further = count - min(need.count(task - step), count)
                    if count > 0 and further != repeats * shift[other]:
                        return False
                elif shift[other]:
                    if self.next[other] < count <= after[other]:
                        return False
                elif step and (count > self.next[other] or count - 1 in self.began[other]):
                    return False
        return True


@dataclass(frozen=True)
class _Loop:
    """Neighbouring loops of the spine that all streams have or have not, as one loop.

    `inside` are the spine's iterations in one of its own. A `block` is a part of the last loop: so
    many iterations of it as one task of a stream that goes over the same rank in larger steps.
    """

    first: int
    last: int
    extent: int
    inside: int
    block: bool = False


def _merged(streams: Streams) -> list[_Loop]:
    spine = streams.spine.levels
    found: list[_Loop] = []
    for at, level in enumerate(spine):
        inside = prod(v.extent for v in spine[at + 1 :])
        if found:
            outer = found[-1]
            both = [s for s in streams.all if streams.affected(s, outer.last)]
            names = {level.name}
            apart = any(
                streams.affected(s, at) != (s in both)
                or (s not in both and names & {v.name for v in s.space.levels})
                for s in streams.all
            )
            if not apart:
                found[-1] = _Loop(outer.first, at, outer.extent * level.extent, inside)
                continue
        found.append(_Loop(at, at, level.extent, inside))
    if found and found[-1].first == found[-1].last:
        steps = {
            s.space.levels[len(spine) - 1].extent
            for s in streams.all
            if _in_steps(streams, s, found[-1].last)
        }
        whole = found.pop()
        found += [
            _Loop(whole.first, whole.last, extent, whole.extent // extent, block=True)
            for extent in sorted(steps)
            if 1 < extent < whole.extent and whole.extent % extent == 0
        ]
        found.append(whole)
    return found


def _in_steps(streams: Streams, stream: Stream, at: int) -> bool:
    """Whether a stream goes over the rank of loop `at` of the spine in steps of its own."""
    own, spine = stream.space.levels, streams.spine.levels
    return (
        len(own) > at
        and [(v.name, v.extent) for v in own[:at]] == [(v.name, v.extent) for v in spine[:at]]
        and own[at].rank == spine[at].rank
        and own[at].name != spine[at].name
    )


@lru_cache(maxsize=65536)
def offset(made: Shape, maker: int, taken: Shape, taker: int, parts: int) -> float:
    """Cycles from one start to another so that no part is taken before it is made.

    >>> one, two = ((4, 1.0),), ((4, 2.0),)
    >>> offset(one, 0, two, 0, 1)      # the whole: when it is done
    4.0
    >>> offset(one, 0, two, 0, 4)      # part by part: the slower one follows at once
    1.0
    >>> offset(two, 0, one, 0, 4)      # the faster one waits until it will not overtake
    5.0
    """
    if len(made) == len(taken) == 1 and made[0][0] % parts == taken[0][0] % parts == 0:
        each, other = _length(made) / parts, _length(taken) / parts
        return max(each, parts * each - (parts - 1) * other)
    ends = _ends(made, maker, parts)
    starts = _starts(taken, taker, parts)
    return max(end - start for end, start in zip(ends, starts, strict=True))


def _ends(shape: Shape, member: int, parts: int) -> list[float]:
    if parts == 1:
        return [_span(shape, member)[1]]
    times = _points(shape, member)
    return [times[ceil((j + 1) * len(times) / parts) - 1][1] for j in range(parts)]


def _starts(shape: Shape, member: int, parts: int) -> list[float]:
    if parts == 1:
        return [_span(shape, member)[0]]
    times = _points(shape, member)
    return [times[j * len(times) // parts][0] for j in range(parts)]


@lru_cache(maxsize=4096)
def _points(shape: Shape, member: int) -> list[tuple[float, float]]:
    """Start and end of every point of a member: alone, or in turns with the others."""
    found: list[tuple[float, float]] = []
    if len(shape) == 1:
        points, cycles = shape[0]
        return [(i * cycles, (i + 1) * cycles) for i in range(points)]
    now, done = 0.0, [0] * len(shape)
    while any(d < points for d, (points, _) in zip(done, shape, strict=True)):
        for i, (points, cycles) in enumerate(shape):
            if done[i] < points:
                if i == member:
                    found.append((now, now + cycles))
                now += cycles
                done[i] += 1
    return found


@lru_cache(maxsize=4096)
def _length(shape: Shape) -> float:
    return float(sum(points * cycles for points, cycles in shape))


@lru_cache(maxsize=4096)
def _span(shape: Shape, member: int) -> tuple[float, float]:
    if len(shape) == 1:
        return 0.0, _length(shape)
    times = _points(shape, member)
    return times[0][0], times[-1][1]


__all__ = ["Deadlock", "Engine", "Run", "offset"]
