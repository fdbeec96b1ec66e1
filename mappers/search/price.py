"""What all candidates of one structure cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mappers.search.axes import Axes
from mappers.search.fronts import Column, Front, beaten, front_of
from mappers.search.nests import PARTS, place_nests
from mappers.search.problem import Problem
from mappers.search.residency import make_phase
from mappers.search.structures import Structure
from sim import Phase
from sim.parts import PhaseParts, TensorPart, phase_parts

_AT_ONCE = 1 << 19
"""Candidates whose costs are added up at a time."""


@dataclass
class Count:
    """Candidates: all that the space has, those that were costed (and of these, what was legal and
    fitted), and the others by what proved that they need not be."""

    covered: int = 0
    costed: int = 0
    valid: int = 0
    illegal: int = 0
    too_large: int = 0
    dominated: int = 0
    bounded: int = 0

    def add(self, other: Count) -> None:
        """Count further ones."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True)
class _Cluster:
    """Choices of tensors that bear on one another: rows are their values taken together, columns
    the sizes of tiles. Energy is infinite where a choice is not legal."""

    names: tuple[str, ...]
    counts: tuple[int, ...]
    energy: np.ndarray
    traffic: np.ndarray
    seconds: dict[str, np.ndarray]
    room: dict[str, np.ndarray]


@dataclass(frozen=True)
class Layout:
    """How the number of a candidate stands for its choices."""

    sizes: dict[str, int]
    tiled: tuple[str, ...]
    clusters: tuple[tuple[tuple[str, ...], tuple[int, ...]], ...]

    def choices(self, x: int, k: int) -> dict[str, int]:
        """The choices of a candidate: `x` numbers the sizes of its tiles, `k` all else."""
        picked: dict[str, int] = {}
        shape = [self.sizes[name] for name in reversed(self.tiled)]
        where = np.unravel_index(x, shape or (1,))
        for name, at in zip(reversed(self.tiled), where, strict=False):
            picked[name] = int(at)
        counts = [int(np.prod(c, dtype=np.int64)) for _, c in self.clusters]
        rows = np.unravel_index(k, counts)
        for (names, shape_of), row in zip(self.clusters, rows, strict=True):
            for name, at in zip(names, np.unravel_index(row, shape_of or (1,)), strict=False):
                picked[name] = int(at)
        return picked


@dataclass(frozen=True)
class Opened:
    """A structure with its parts, ready to be added up."""

    axes: Axes
    tiled: tuple[str, ...]
    points: int
    clusters: tuple[_Cluster, ...]
    energy: np.ndarray
    busy: np.ndarray

    @property
    def size(self) -> int:
        """How many candidates there are."""
        return int(np.prod(self.axes.shape, dtype=np.int64))

    @property
    def layout(self) -> Layout:
        """How its candidates are numbered."""
        clusters = tuple((c.names, c.counts) for c in self.clusters)
        return Layout(dict(self.axes.sizes), self.tiled, clusters)


_Owner = TensorPart | np.ndarray


def open_structure(problem: Problem, structure: Structure) -> Opened:
    """Work out the parts of all candidates, each along its own axes only."""
    axes = Axes()
    placed = place_nests(problem, structure, axes)
    tiled = tuple(n for n in axes.sizes if not n.startswith("order "))
    phase = make_phase(problem, "phase", placed, axes)
    return _split(axes, tiled, phase_parts(problem.on, phase))


def _split(axes: Axes, tiled: tuple[str, ...], parts: PhaseParts) -> Opened:
    """Tensors whose choices bear on one another come together."""
    free = [name for name in axes.sizes if name not in tiled]
    leader = {name: name for name in free}

    def root(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    def used(arrays: Sequence[object]) -> list[str]:
        names = frozenset().union(*(axes.along(a) for a in arrays))
        return [name for name in free if name in names]

    owners: list[tuple[list[str], _Owner]] = []
    for whole in parts.tensors.values():
        part = TensorPart(
            axes.plain(whole.energy_pj, tiled),
            axes.plain(whole.traffic_bytes, tiled),
            {name: axes.plain(values, tiled) for name, values in whole.seconds.items()},
            {name: axes.plain(values, tiled) for name, values in whole.room_bytes.items()},
        )
        arrays = [part.energy_pj, part.traffic_bytes]
        arrays += [*part.seconds.values(), *part.room_bytes.values()]
        owners.append((used(arrays), part))
    masks = [axes.plain(mask, tiled) for mask in parts.refused]
    owners += [(used([mask]), mask) for mask in masks]
    for names, _ in owners:
        for name in names[1:]:
            leader[root(name)] = root(names[0])
    grouped: dict[str, list[_Owner]] = {"": []}
    members: dict[str, list[str]] = {"": []}
    for name in free:
        grouped.setdefault(root(name), [])
        members.setdefault(root(name), []).append(name)
    for names, owner in owners:
        grouped[root(names[0]) if names else ""].append(owner)
    points = int(np.prod([axes.sizes[name] for name in tiled], dtype=np.int64))
    clusters = tuple(
        _cluster(axes, tiled, points, members[key], owned) for key, owned in grouped.items()
    )
    busy = _flat(axes, tiled, points, [], 0.0)
    for seconds in parts.busy_s.values():
        busy = np.maximum(busy, _flat(axes, tiled, points, [], axes.plain(seconds, tiled)))
    return Opened(
        axes, tiled, points, clusters, _flat(axes, tiled, points, [], parts.energy_pj)[0], busy[0]
    )


def _cluster(
    axes: Axes, tiled: tuple[str, ...], points: int, names: list[str], owned: Sequence[_Owner]
) -> _Cluster:
    rows = int(np.prod([axes.sizes[name] for name in names], dtype=np.int64))
    energy, traffic = np.zeros((rows, points)), np.zeros((rows, points))
    seconds: dict[str, np.ndarray] = {}
    room: dict[str, np.ndarray] = {}
    for owner in owned:
        if isinstance(owner, np.ndarray):
            bad = _flat(axes, tiled, points, names, owner.astype(float)) > 0
            energy = np.where(bad, np.inf, energy)
            continue
        energy = energy + _flat(axes, tiled, points, names, owner.energy_pj)
        traffic = traffic + _flat(axes, tiled, points, names, owner.traffic_bytes)
        for into, own in ((seconds, owner.seconds), (room, owner.room_bytes)):
            for memory, values in own.items():
                flat = _flat(axes, tiled, points, names, values)
                into[memory] = into.get(memory, 0.0) + flat
    counts = tuple(axes.sizes[name] for name in reversed(names))
    return _Cluster(tuple(reversed(names)), counts, energy, traffic, seconds, room)


def _flat(
    axes: Axes, tiled: Sequence[str], points: int, names: Sequence[str], array: object
) -> np.ndarray:
    """An array with the choices of `names` along rows and all sizes of tiles along columns."""
    array = np.asarray(array, dtype=np.float64)
    array = array.reshape((1,) * (len(axes.sizes) - array.ndim) + array.shape)
    wanted = [
        axes.sizes[name] if name in names or name in tiled else 1 for name in reversed(axes.sizes)
    ]
    full = np.broadcast_to(array, wanted)
    return np.ascontiguousarray(full).reshape(-1, points)


Alive = Callable[[np.ndarray], np.ndarray]


def search_structure(
    opened: Opened,
    number: int,
    columns: Sequence[Column],
    capacity: dict[str, float],
    power_w: float,
    front: Front,
    alive: Alive,
    part: int | None = None,
) -> Count:
    """Cost what can still be of use, and keep in `front` what nothing beats.

    With `part`, only candidates that take this one of the tiles that the cascade itself makes.
    """
    each = opened.size // opened.points
    here = np.ones(opened.points, dtype=bool)
    if part is not None and PARTS in opened.axes.sizes:
        here = np.arange(opened.points) % opened.axes.sizes[PARTS] == part
    count = Count(covered=int(here.sum()) * each)
    clusters = opened.clusters
    limited = any(np.isfinite(size) for size in capacity.values())

    def add(
        energy: np.ndarray,
        traffic: np.ndarray,
        seconds: dict[str, np.ndarray],
        peak: np.ndarray,
        busy: np.ndarray,
    ) -> np.ndarray:
        latency = busy
        for own in seconds.values():
            latency = np.maximum(latency, own)
        if power_w:
            energy = energy + power_w * latency * 1e12
        found = {
            "latency_s": latency, "energy_pj": energy, "traffic_bytes": traffic,
            "buffer_bytes": peak,
        }  # fmt: skip
        like = np.broadcast_shapes(*(np.shape(found[c]) for c in columns))
        return np.stack([np.broadcast_to(found[c], like).reshape(-1) for c in columns], axis=-1)

    # the least that each choice of tiles can cost, each cluster at its best by itself
    energy, traffic = opened.energy.copy(), np.zeros(opened.points)
    seconds: dict[str, np.ndarray] = {}
    room: dict[str, np.ndarray] = {}
    for cluster in clusters:
        energy = energy + cluster.energy.min(axis=0)
        traffic = traffic + cluster.traffic.min(axis=0)
        for into, own in ((seconds, cluster.seconds), (room, cluster.room)):
            for memory, values in own.items():
                into[memory] = into.get(memory, 0.0) + values.min(axis=0)
    fits = np.ones(opened.points, dtype=bool)
    for memory, values in room.items():
        fits &= values <= capacity[memory]
    legal = np.isfinite(energy) & here
    count.illegal += int((~legal & here).sum()) * each
    count.too_large += int((legal & ~fits).sum()) * each
    least = add(energy, traffic, seconds, _peak(room, opened.points), opened.busy)
    left = np.flatnonzero(legal & fits)

    def prune(left: np.ndarray) -> np.ndarray:
        fine = alive(least[left])
        count.bounded += int((~fine).sum()) * each
        left = left[fine]
        again = ~beaten(least[left], front.costs)
        count.dominated += int((~again).sum()) * each
        return np.asarray(left[again])

    def cost(some: np.ndarray, rows: Sequence[np.ndarray] | None) -> None:
        """Add up the parts: of all rows of all clusters, or of one row each a point."""
        energy: np.ndarray = opened.energy[some]
        traffic: np.ndarray = np.zeros(len(some))
        seconds: dict[str, np.ndarray] = {}
        room: dict[str, np.ndarray] = {}
        behind = len(clusters)
        for at, cluster in enumerate(clusters):

            def take(values: np.ndarray, at: int = at, deep: int = behind - at - 1) -> np.ndarray:
                if rows is not None:
                    return np.asarray(values[rows[at], some])
                own = values[:, some]
                return own.reshape(len(own), *(1,) * deep, len(some))

            energy = energy + take(cluster.energy)
            if "traffic_bytes" in columns:
                traffic = traffic + take(cluster.traffic)
            for into, parts in ((seconds, cluster.seconds), (room, cluster.room)):
                for memory, values in parts.items():
                    if into is seconds or limited or "buffer_bytes" in columns:
                        into[memory] = into.get(memory, 0.0) + take(values)
        fine = np.isfinite(energy)
        for memory, values in room.items():
            fine = fine & (values <= capacity[memory])
        full = np.broadcast_shapes(energy.shape, *(v.shape for v in room.values()))
        good = np.flatnonzero(np.broadcast_to(fine, full))
        count.valid += len(good)
        found = add(energy, traffic, seconds, _peak(room, len(some)), opened.busy[some])
        found = found if len(good) == len(found) else found[good]

        def key(picked: np.ndarray) -> np.ndarray:
            flat = good[picked]
            if rows is None:
                x, k = some[flat % len(some)], flat // len(some)
            else:
                x = some[flat]
                k = np.zeros(len(flat), dtype=np.int64)
                for at, cluster in enumerate(clusters):
                    k = k * len(cluster.energy) + rows[at][flat]
            return np.stack([np.full_like(x, number), x, k], axis=-1)

        front.add(found, key)

    left = left[alive(least[left])] if len(left) else left
    count.bounded += (int((legal & fits).sum()) - len(left)) * each
    if len(left) and each > 1:  # a first idea of what is good: each cluster at its least energy
        rows = [np.argmin(cluster.energy[:, left], axis=0) for cluster in clusters]
        count.costed += len(left)
        cost(left, rows)
    order = np.argsort(least[left].prod(axis=-1)) if len(left) else np.zeros(0, dtype=np.int64)
    left = left[order]
    if each > _AT_ONCE // 8:
        while len(left):
            left = prune(left)
            for x in left[:1]:
                one, rows = _undominated(clusters, int(x), columns)
                count.costed += len(one)
                count.dominated += each - len(one)
                cost(one, rows)
            left = left[1:]
        return count
    step = max(1, _AT_ONCE // each)
    while len(left):
        left = prune(left)
        some, left = left[:step], left[step:]
        if len(some):
            count.costed += len(some) * each
            cost(some, None)
    return count


def _undominated(
    clusters: Sequence[_Cluster], x: int, columns: Sequence[Column]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """All combinations, at one choice of tiles, of the rows that in no cluster another one beats in
    energy, traffic, time and room at once: no whole with a row that is beaten can be better."""
    kept = []
    for cluster in clusters:
        values = [cluster.energy, *cluster.seconds.values(), *cluster.room.values()]
        if "traffic_bytes" in columns:
            values.append(cluster.traffic)
        kept.append(front_of(np.stack([v[:, x] for v in values], axis=-1)))
    grids = np.meshgrid(*kept, indexing="ij")
    rows = [grid.reshape(-1) for grid in grids]
    return np.full(len(rows[0]), x), rows


def _peak(room: dict[str, np.ndarray], points: int) -> np.ndarray:
    total: np.ndarray = np.zeros(points)
    for values in room.values():
        total = total + values
    return total


def rebuild(
    problem: Problem, structure: Structure, layout: Layout, x: int, k: int
) -> tuple[Problem, Phase]:
    """The phase of one candidate, all numbers."""
    picked = layout.choices(x, k)
    single = problem.at(picked[PARTS]) if PARTS in picked else problem
    axes = Axes(picked)
    placed = place_nests(single, structure, axes)
    names = [e.name for e in structure.einsums]
    label = names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}"
    return single, make_phase(single, label, placed, axes)


__all__ = ["Alive", "Count", "Layout", "Opened", "open_structure", "rebuild", "search_structure"]
