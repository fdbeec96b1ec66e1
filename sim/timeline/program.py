"""The timeline's order as explicit lists of tasks, which a finer level plays in its own way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from sim.timeline.building import Builder
from sim.timeline.engine import Run
from sim.timeline.streams import Streams


@dataclass(frozen=True)
class Task:
    """One tile of an Einsum: the iteration of each of the first loops of its nest."""

    einsum: str
    index: tuple[int, ...]


@dataclass(frozen=True)
class Issue:
    """Tasks that an array begins together: several take turns, point by point."""

    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Program:
    """The issues of each array of a phase in order, and the rooms that they are meant for.

    `depth` is the number of loops of each Einsum whose iteration is a task, `copies` the tasks of
    its writer that a tensor has room for, `sharing` the tensors that take turns in a room, `after`
    the tasks of other arrays that must have ended before a task begins.
    """

    depth: Mapping[str, int]
    queues: Mapping[str, tuple[Issue, ...]]
    copies: Mapping[str, int]
    sharing: Mapping[str, tuple[str, ...]]
    after: Mapping[Task, tuple[Task, ...]]


def program_of(builder: Builder, streams: Streams, run: Run) -> Program:
    """What was simulated in full, as lists of tasks."""

    def task(index: int, number: int) -> Task:
        stream = streams.all[index]
        return Task(str(stream.einsum), tuple(stream.space.digits(number)))

    queues: dict[str, list[Issue]] = {array: [] for array in streams.arrays}
    after: dict[Task, tuple[Task, ...]] = {}
    for unit, members in run.issues:
        if unit not in queues:
            continue
        queues[unit].append(Issue(tuple(task(*member) for member in members)))
        for index, number in members:
            waits = [
                task(need.producer, need.count(number) - 1)
                for need in streams.all[index].needs
                if need.sort == "step" and need.count(number) > 0
            ]
            if waits:
                after[task(index, number)] = tuple(waits)
    room = builder.rooms()
    spaces = {str(s.einsum): s.space for s in streams.all if s.kind == "compute"}
    copies = {}
    for tensor, tiles in room.copies.items():
        for name, space in spaces.items():
            if builder.cascade.einsum(name).output.tensor == tensor:
                visits = prod(v.extent for v in space.levels[: room.depth[tensor]])
                copies[tensor] = tiles * (space.count // visits)
    return Program(
        {name: space.depth for name, space in spaces.items()},
        {array: tuple(issues) for array, issues in queues.items()},
        copies,
        {tensor: room.sharing.get(tensor, (tensor,)) for tensor in copies},
        after,
    )


__all__ = ["Issue", "Program", "Task", "program_of"]
