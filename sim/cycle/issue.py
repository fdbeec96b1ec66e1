"""When tasks begin: each array takes its issues in order, each as soon as it can run to its end.

A task that runs announces, word by word, in which cycle each of its values will be where; of tasks
that have not begun nothing is known. Two clocks are kept: the *told* one, in which Einsums of one
step hand values over without a drain, and the *true* one, in which these are on their way all the
same, so that the array which takes them runs behind. Without steps both agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sim.cycle.board import LONG_AGO, Board
from sim.cycle.points import Nest, NotAtThisLevel
from sim.cycle.ways import way_cycles
from sim.mapping import Phase

Array = NDArray[Any]
TOLD, TRUE = 0, 1
UNKNOWN = 2**40


class Task(Protocol):
    """One tile of one Einsum: the iteration of each of the first loops of its nest."""

    @property
    def einsum(self) -> str:
        """The Einsum."""
        ...

    @property
    def index(self) -> tuple[int, ...]:
        """Iterations of loops."""
        ...


class Issue(Protocol):
    """Tasks that an array begins together: several take turns, point by point."""

    @property
    def tasks(self) -> Sequence[Task]:
        """One, or several that take turns."""
        ...


class Program(Protocol):
    """The issues of each array of a phase in order.

    `depth`: loops of each Einsum whose iteration is a task. `copies`: tasks of its writer that a
    tensor has room for (none: all). `sharing`: tensors that take turns in one room. `after`: tasks
    that must have ended before a task begins.
    """

    @property
    def depth(self) -> Mapping[str, int]:
        """Loops of each Einsum."""
        ...

    @property
    def queues(self) -> Mapping[str, Sequence[Issue]]:
        """Issues of each array."""
        ...

    @property
    def copies(self) -> Mapping[str, int]:
        """Rooms of tensors."""
        ...

    @property
    def sharing(self) -> Mapping[str, Sequence[str]]:
        """Tensors in one room."""
        ...

    @property
    def after(self) -> Mapping[Any, Sequence[Task]]:
        """Tasks to wait for."""
        ...


@dataclass(frozen=True)
class TaskRun:
    """A task that ran, from cycle `start` until before `end` in PE (0,0) or lane 0.

    `behind` is by how many cycles the array was later than it is told: values of the same step on
    their way.
    """

    einsum: str
    array: str
    index: tuple[int, ...]
    start: int
    end: int
    behind: int = 0


@dataclass
class _Need:
    """Words that a task reads (or writes over), and the cycle of the issue in which it does."""

    tensor: str
    at: Array
    offset: Array
    lag: tuple[int, int]


@dataclass
class _Member:
    """A task of an issue that was looked at."""

    nest: Nest
    task: Task
    begins: Array
    end: int
    x: Array
    made: Array
    ends: Array
    told: Array
    told_ends: Array
    needs: list[_Need]
    rooms: list[_Need]
    over: tuple[Array, Array]


@dataclass(frozen=True)
class Begun:
    """A task that begins: the true cycles of its points in PE (0,0), the first and last of each."""

    nest: Nest
    base: Array
    first: Array
    last: Array


def turns(cycles: Sequence[int], points: Sequence[int]) -> list[Array]:
    """The cycle in which each point of each member begins: by turns, until the shorter end.

    >>> [list(map(int, t)) for t in turns([1, 2], [3, 2])]
    [[0, 3, 6], [1, 4]]
    """
    begins: list[list[int]] = [[] for _ in points]
    now = 0
    while any(len(b) < n for b, n in zip(begins, points, strict=True)):
        for i, each in enumerate(cycles):
            if len(begins[i]) < points[i]:
                begins[i].append(now)
                now += each
    return [np.array(b, np.int64) for b in begins]


class Sequencer:
    """Begins the issues of a phase."""

    def __init__(
        self,
        phase: Phase,
        program: Program,
        nests: Mapping[str, Nest],
        board: Board,
        in_step: frozenset[str],
    ) -> None:
        self.program, self.nests, self.board, self.in_step = program, nests, board, in_step
        self.steps = phase.steps
        self.next = dict.fromkeys(program.queues, 0)
        self.free = {array: [0, 0] for array in program.queues}
        self.plans: dict[str, list[_Member]] = {}
        self.earliest: dict[str, tuple[int, int]] = {}  # version of the board, first cycle
        self.version = 0
        self.ended: dict[tuple[str, tuple[int, ...]], int] = {}
        self.ran: dict[str, list[tuple[int, ...]]] = {name: [] for name in nests}
        self.runs: list[TaskRun] = []

    @property
    def done(self) -> bool:
        """Whether all issues have begun."""
        return all(n == len(self.program.queues[a]) for a, n in self.next.items())

    def begin(self, cycle: int) -> list[Begun]:
        """The tasks that begin in a told cycle."""
        begun: list[Begun] = []
        moved = True
        while moved:
            moved = False
            for array in self.next:
                if self._start(array) <= cycle:
                    begun += self._announce(array, cycle)
                    moved = True
        return begun

    def waits(self, cycle: int) -> bool:
        """Whether an issue is known to begin later, or a running task may let one begin."""
        known = any(cycle < self._start(a) < UNKNOWN for a in self.next)
        return known or any(free[TOLD] > cycle for free in self.free.values())

    def waiting(self) -> str:
        """The tasks at the heads of the queues, for an error."""
        heads = []
        for array, n in self.next.items():
            if n < len(self.program.queues[array]):
                tasks = self.program.queues[array][n].tasks
                heads.append(" with ".join(f"{t.einsum}{t.index}" for t in tasks))
        return ", ".join(heads)

    # ---- what an issue waits for ----------------------------------------------------------------

    def _start(self, array: str) -> int:
        if self.next[array] == len(self.program.queues[array]):
            return UNKNOWN
        version, start = self.earliest.get(array, (-1, 0))
        if version != self.version:
            if array not in self.plans:
                self.plans[array] = self._plan(array)
            start = self._when(array, TOLD)
            self.earliest[array] = self.version, start
        return start

    def _when(self, array: str, clock: int) -> int:
        members = self.plans[array]
        start = self.free[array][clock]
        for member in members:
            key = (member.task.einsum, tuple(member.task.index))
            for before in self.program.after.get(member.task, ()) if clock == TOLD else ():
                ended = self.ended.get((before.einsum, tuple(before.index)), UNKNOWN)
                start = max(start, ended)
            for need in member.needs:
                words = self.board.words[need.tensor]
                known = words.announced[need.at] == words.total[need.at]
                ready = words.done[clock, need.at] + need.lag[clock] - need.offset
                ready = np.where(known, ready, UNKNOWN)
                if need.tensor in {m.nest.name for m in members}:
                    ready = self._inside(members, need, ready, clock, key)
                start = max(start, int(ready.max(initial=LONG_AGO)))
            for need in member.rooms:
                words = self.board.words[need.tensor]
                free = words.free[clock, need.at] - need.offset
                free = np.where(words.unread[need.at] == 0, free, UNKNOWN)
                start = max(start, int(free.max(initial=LONG_AGO)))
        return start

    def _inside(
        self, members: list[_Member], need: _Need, ready: Array, clock: int, key: Any
    ) -> Array:
        """Words that the issue itself makes must be there in time, whenever it begins."""
        maker = next(m for m in members if m.nest.name == need.tensor)
        at, which = np.unique(maker.told, return_inverse=True)
        ends, counts = np.full(len(at), LONG_AGO), np.zeros(len(at), np.int64)
        np.maximum.at(ends, which, maker.told_ends)
        np.add.at(counts, np.searchsorted(at, maker.made), 1)
        words = self.board.words[need.tensor]
        place = np.minimum(np.searchsorted(at, need.at), len(at) - 1)
        own = at[place] == need.at
        complete = words.announced[need.at] + counts[place] == words.total[need.at]
        fine = complete & (ends[place] + need.lag[clock] <= need.offset)
        if (own & complete & ~fine).any():
            raise ValueError(f"{key[0]}{key[1]} would have to wait for a value of its own issue")
        return np.where(own & fine, LONG_AGO, ready)

    def _plan(self, array: str) -> list[_Member]:
        issue = self.program.queues[array][self.next[array]]
        nests = [self.nests[task.einsum] for task in issue.tasks]
        if len(nests) == 1:
            begins, length = nests[0].begins(issue.tasks[0].index)
            return [self._member(nests[0], issue.tasks[0], begins, length)]
        if any(nest.folds for nest in nests):
            names = ", ".join(nest.name for nest in nests)
            raise NotAtThisLevel(f"serialized folds cannot take turns: {names}")
        shared = turns([n.cycles for n in nests], [len(n.points) for n in nests])
        return [
            self._member(nest, task, begins, int(begins[-1]) + nest.cycles)
            for nest, task, begins in zip(nests, issue.tasks, shared, strict=True)
        ]

    def _member(self, nest: Nest, task: Task, begins: Array, end: int) -> _Member:
        every, real = nest.all(task.index)
        offsets = np.broadcast_to(begins[:, None, None], real.shape)
        told = nest.told(every)
        x, offset = every[real], offsets[real]
        needs = []
        for operand in nest.operands:
            writer = self.board.words[operand.reach.tensor].writer
            if writer is not None:
                lag = self._lag(writer, nest)
                needs.append(_Need(operand.reach.tensor, operand.reach.at(x), offset, lag))
        rooms, over = self._rooms(nest, task, begins)
        return _Member(
            nest,
            task,
            begins,
            end,
            x,
            nest.output.at(x),
            offset + nest.cycles,
            nest.output.at(every[told]),
            offsets[told] + nest.cycles,
            needs,
            rooms,
            over,
        )

    def _lag(self, writer: Nest, reader: Nest) -> tuple[int, int]:
        cycles = way_cycles(writer, reader, self.in_step)
        both = {writer.name, reader.name}
        return 0 if any(both <= set(step) for step in self.steps) else cycles, cycles

    def _rooms(
        self, nest: Nest, task: Task, begins: Array
    ) -> tuple[list[_Need], tuple[Array, Array]]:
        """What lies where the task's results are to go; words, and those that each is put over."""
        tensor = nest.output.tensor
        copies = self.program.copies.get(tensor)
        none = np.zeros(0, np.int64)
        if copies is None or len(self.ran[nest.name]) < copies:
            return [], (none, none)
        x, real = nest.all(task.index)
        old, was_real = nest.all(self.ran[nest.name][-copies])
        real &= was_real  # nothing lies where a tile is padded
        offset = np.broadcast_to(begins[:, None, None], real.shape)[real]
        at, over = nest.output.at(x[real]), nest.output.at(old[real])
        fresh = self.board.words[tensor].announced[at] == 0  # not a further contribution
        needs = []
        for each in self.board.rooms[tensor]:
            if self.board.words[each].sides != self.board.words[tensor].sides:
                raise NotAtThisLevel(f"{each} shares the room of {tensor}, but not its ranks")
            needs.append(_Need(each, over[fresh], offset[fresh], (0, 0)))
        return needs, (at[fresh], over[fresh])

    # ---- what a task announces ------------------------------------------------------------------

    def _announce(self, array: str, cycle: int) -> list[Begun]:
        start = max(cycle, self._when(array, TRUE))
        members = self.plans.pop(array)
        begun = []
        for member in members:
            nest = member.nest
            words = self.board.words[nest.output.tensor]
            np.add.at(words.announced, member.made, 1)
            words.over[member.over[0]] = member.over[1]
            for clock, begin in ((TOLD, cycle), (TRUE, start)):
                np.maximum.at(words.done[clock], member.told, begin + member.told_ends)
            for operand in self.board.tracked(nest):
                read = self.board.words[operand.reach.tensor]
                at = operand.reach.at(member.x)
                np.subtract.at(read.unread, at, 1)
                lag = (0, 0) if read.writer is None else self._lag(read.writer, nest)
                for clock, begin in ((TOLD, cycle), (TRUE, start)):
                    np.maximum.at(read.free[clock], at, begin + member.ends - lag[clock])
            index = tuple(int(i) for i in member.task.index)
            first, last = 0 if len(members) == 1 else member.begins[0], member.end
            self.runs.append(
                TaskRun(
                    nest.name, array, index, int(cycle + first), int(cycle + last), start - cycle
                )
            )
            self.ended[nest.name, index] = int(cycle + last)
            self.ran[nest.name].append(index)
            firsts = start + member.begins
            begun.append(Begun(nest, nest.base(index), firsts, firsts + nest.cycles - 1))
        length = max(m.end for m in members)
        self.free[array] = [cycle + length, start + length]
        self.next[array] += 1
        self.version += 1
        return begun


__all__ = ["Begun", "Issue", "Program", "Sequencer", "Task", "TaskRun", "turns"]
