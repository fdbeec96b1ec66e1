"""What a phase cannot cost less than, before anything of it is worked out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np

from einsum_cascade import Einsum
from mappers.roles import states
from mappers.search.bindings import Binding
from mappers.search.bounds import ROUNDING, Run
from mappers.search.fronts import Column
from mappers.search.problem import Problem, is_simple, touched
from mappers.search.residency import leaves
from mappers.search.structures import Structure
from sim.accesses import Use, analysis_of
from sim.mapping import Mask, Number


@dataclass(frozen=True, eq=False)
class _Exchange:
    """A tensor that an Einsum of a run makes and others read: its ranks, the positions of these
    `users`, and the words that are written, if it does not go outside in any case. For each reader
    the words that it reads, and the ranks along which it is in a later pass."""

    ranks: frozenset[str]
    users: tuple[int, ...]
    written: Number
    readers: tuple[tuple[Number, tuple[str, ...]], ...]


def least(
    problem: Problem, run: Run, columns: Sequence[Column], every: Sequence[Structure]
) -> np.ndarray:
    """What no phase of a run of Einsums costs less than, with `every` structure: work, what comes
    from outside or goes, and what cannot stay in the arrays.

    Shape: structures, tiles that the cascade itself makes, columns.
    """
    architecture = problem.architecture
    outermost = architecture.memories[0]
    einsums = problem.order[run[0] : run[1]]
    shape = (len(every), max(1, len(problem.parts)))
    names = [array.name for array in architecture.arrays]
    loops = np.array([array.loop is not None for array in architecture.arrays])
    busy = np.zeros((len(names), *shape))
    crossing = _crossing(problem, einsums)
    energy: np.ndarray = np.zeros(shape) + _taken_by_several(problem, crossing)
    for at, einsum in enumerate(einsums):
        bound = [structure.bindings[at] for structure in every]
        each = {}
        for binding in dict.fromkeys(bound):
            seconds, joules = _work(problem, einsum.name, binding)
            each[binding] = seconds, joules + _delivered_again(problem, einsum, binding, crossing)
        seconds, joules = np.moveaxis(_table(bound, each, (2, shape[1])), 1, 0)
        energy += joules
        on = [names.index(binding.array) for binding in bound], np.arange(len(every))
        together = np.maximum(busy[on], seconds)  # Einsums may be in one pipelined loop
        busy[on] = np.where(loops[on[0], None], together, busy[on] + seconds)
    for exchange in _exchanges(problem, einsums):
        keys = [_exchanging(structure, exchange.users) for structure in every]
        taken = {key: (_exchanged(problem, exchange, *key),) for key in dict.fromkeys(keys)}
        energy += _table(keys, taken, (1, shape[1]))[:, 0]
    read, written = problem.moved(run)
    energy = energy + read / outermost.access_words * outermost.read_energy_pj
    energy = energy + written / outermost.access_words * outermost.write_energy_pj
    traffic = (read + written) * architecture.word_bytes
    latency = np.maximum(busy.max(axis=0), traffic / outermost.bandwidth_bytes_per_s)
    found = {
        "latency_s": latency,
        "energy_pj": energy + architecture.power_w * latency * 1e12,
        "traffic_bytes": np.broadcast_to(traffic, shape),
        "buffer_bytes": np.zeros(shape),
    }
    return np.asarray(np.nan_to_num(np.stack([found[c] for c in columns], axis=-1)) * ROUNDING)


def _table(
    keys: Sequence[Any], values: Mapping[Any, Sequence[Number]], shape: tuple[int, int]
) -> np.ndarray:
    """The values of each key, in arrays of such a shape: numbers, and along the tiles that the
    cascade itself makes."""
    table = np.empty((len(values), *shape))
    for rows, own in zip(table, values.values(), strict=True):
        for row, value in zip(rows, own, strict=True):
            row[:] = value
    at = {key: number for number, key in enumerate(values)}
    return np.asarray(table[[at[key] for key in keys]])


@dataclass(frozen=True)
class _Words:
    """What reading a word takes, and writing one: outside, and on chip where that is least."""

    read_outside: float
    write_outside: float
    read_inside: float
    write_inside: float

    @property
    def read(self) -> float:
        """Where it takes the least."""
        return min(self.read_outside, self.read_inside)

    @property
    def write(self) -> float:
        """Where it takes the least."""
        return min(self.write_outside, self.write_inside)


def _words_pj(problem: Problem) -> _Words:
    outermost, *inner = problem.architecture.memories
    return _Words(
        float(outermost.read_energy_pj / outermost.access_words),
        float(outermost.write_energy_pj / outermost.access_words),
        min((float(m.read_energy_pj / m.access_words) for m in inner), default=np.inf),
        min((float(m.write_energy_pj / m.access_words) for m in inner), default=np.inf),
    )


def _work(problem: Problem, einsum: str, binding: Binding) -> tuple[Number, Number]:
    """Seconds of an array for an Einsum, spread in the way that takes the least, and energy."""
    each = [problem.work(einsum, binding.array, spatial) for spatial in binding.spreads]
    return reduce(np.minimum, [seconds for seconds, _ in each]), each[0][1]


def _crossing(problem: Problem, einsums: Sequence[Einsum]) -> dict[str, list[Use]]:
    """What each Einsum of a run takes from outside of it, or makes for outside; but for running
    values, and what is hard to count: under filters, gathers and windows."""
    here = {e.name for e in einsums}
    made = {e.output.tensor for e in einsums}
    running = states(problem.cascade)
    return {
        einsum.name: [
            use
            for use in touched(problem.cascade, einsum.name)
            if is_simple(einsum, use)
            and use.tensor not in running
            and (use.tensor not in made or (use.writes and leaves(problem, use.tensor, here)))
        ]
        for einsum in einsums
    }


def _taken_by_several(problem: Problem, crossing: Mapping[str, Sequence[Use]]) -> Number:
    """The energy of inputs that are taken in several ways, beyond reading each from outside once:
    each of these takes all words, from outside or from a memory into which they have been written.
    """
    words = _words_pj(problem)
    readers: dict[str, list[Number]] = {}
    for use in (use for uses in crossing.values() for use in uses):
        if not use.writes:
            readers.setdefault(use.tensor, []).append(problem.words(use.ranks))
    total: Number = np.float64(0)
    for each in readers.values():
        times, least = len(each), reduce(np.minimum, each)
        again = (times - 1) * words.read_outside
        total = total + least * min(again, words.write_inside + times * words.read_inside)
    return total


def _delivered_again(
    problem: Problem, einsum: Einsum, binding: Binding, crossing: Mapping[str, Sequence[Use]]
) -> Number:
    """The energy of words that cross the edge of the array more than once, of what comes from
    outside of the phase or goes there; spread in the way that takes the least."""
    own = crossing[einsum.name]
    users = Counter(use.tensor for uses in crossing.values() for use in uses)
    shared = frozenset(use.tensor for use in own if users[use.tensor] > 1)
    what = "again", einsum.name, binding.array, tuple((u.tensor, u.writes) for u in own), shared
    each = (
        problem.once(
            (*what, spatial),
            partial(_spread_again, problem, einsum, own, shared, binding.array, spatial),
        )
        for spatial in binding.spreads
    )
    return reduce(np.minimum, each)


def _spread_again(
    problem: Problem,
    einsum: Einsum,
    crossing: Sequence[Use],
    shared: frozenset[str],
    on: str,
    spatial: tuple[str, ...],
) -> Number:
    """The same for some uses, with some ranks spread; what is `shared` is used in other ways too,
    for all of which it is written on chip once.

    What the innermost loop in time moves comes anew in every iteration of all loops: from outside,
    or from a memory into which it has been written before. Only the rank of that loop may be
    chosen, so whichever takes the least.
    """
    array = problem.architecture.array(on)
    sides = dict(zip(spatial, array.shape, strict=False))
    trips = {}
    for rank in einsum.ranks:
        extent = problem.shape[rank]
        trips[rank] = np.ceil(extent / np.minimum(extent, sides.get(rank, 1.0)))
    pj = _words_pj(problem)
    words: list[tuple[frozenset[str], Number]] = []
    for use in crossing:
        times: Number = np.float64(1)
        for rank in set(einsum.ranks) - use.ranks:
            times = times * trips[rank]
        if use.tensor in shared:
            each = (times - 1) * (pj.write if use.writes else pj.read)
        elif use.writes:  # sums that are not complete come back
            outside = (times - 1) * (pj.write_outside + pj.read_outside)
            each = np.minimum(outside, times * (pj.write_inside + pj.read_inside))
        else:
            outside = (times - 1) * pj.read_outside
            each = np.minimum(outside, pj.write_inside + times * pj.read_inside)
        words.append((use.ranks, problem.words(use.ranks) * each))
    ways = [
        sum((energy for ranks, energy in words if rank in ranks), np.float64(0))
        for rank in einsum.ranks
        if problem.typical(rank) > 1
    ]
    return reduce(np.minimum, ways) if ways else np.float64(0)


_Exchanging = tuple[tuple[Binding, ...], tuple[frozenset[str] | None, ...]]


def _exchanging(structure: Structure, users: Sequence[int]) -> _Exchanging:
    """The bindings of what makes a tensor and of its readers; and for each reader that follows in
    a run with other loops the ranks that both share, else None."""
    maker, *readers = (structure.run[at] for at in users)
    shared = frozenset((*structure.batch, *structure.outer))
    apart = (
        shared if run != maker and (structure.inner[run] or structure.inner[maker]) else None
        for run in readers
    )
    return tuple(structure.bindings[at] for at in users), tuple(apart)


def _exchanged(
    problem: Problem,
    exchange: _Exchange,
    bindings: Sequence[Binding],
    shared: Sequence[frozenset[str] | None],
) -> Number:
    """The energy of a tensor that some reader has to take from a memory, given its users'
    `_exchanging`: it is written once at least, and read by each of these, where that takes the
    least."""
    words_pj = _words_pj(problem)
    total: Number = np.float64(0)
    kept: Mask = np.False_
    for reader, own, (words, later) in zip(bindings[1:], shared, exchange.readers, strict=True):
        waiting = frozenset() if own is None else exchange.ranks - own
        apart = _apart(problem, bindings[0], reader, later, waiting)
        total = total + np.where(apart, words, 0.0) * words_pj.read
        kept = kept | apart
    return total + np.where(kept, exchange.written, 0.0) * words_pj.write


def _apart(
    problem: Problem,
    writer: Binding,
    reader: Binding,
    later: Sequence[str],
    waiting: frozenset[str],
) -> Mask:
    """Whether no tiles let a reader have a tensor from the array that makes it, as
    `sim.legality.forwarding` says: the arrays are not linked, or whole fibers of a rank along which
    the reader is in a later pass would have to go to the other array, or into the registers. There
    all of the ranks `waiting` would be, too, for a reader that follows on the same array."""
    other = writer.array != reader.array
    if other and (writer.array, reader.array) not in problem.architecture.links:
        return np.True_
    array = problem.architecture.array(writer.array)
    result: Mask = np.bool_(bool(later or (waiting and not other)))
    for spatial in writer.spreads:
        sides = dict(zip(spatial, array.shape, strict=False))

        def words(rank: str, sides: Mapping[str, Number] = sides) -> Number:
            extent = problem.shape[rank]
            return extent / np.minimum(extent, sides.get(rank, 1.0))

        here: Mask = np.False_
        for rank in later:
            deep = words(rank) > array.register_words
            here = here | ((problem.shape[rank] > 1) & (other | deep))
        if not other:
            each = reduce(np.multiply, map(words, sorted(waiting)), np.float64(1))
            here = here | (each > array.register_words)
        result = result & here
    return result


def _exchanges(problem: Problem, einsums: Sequence[Einsum]) -> Iterator[_Exchange]:
    """What the Einsums of a run exchange, but for running values, and what is hard to count: under
    filters, gathers and windows."""
    cascade, analysis = problem.cascade, analysis_of(problem.cascade)
    here = {e.name for e in einsums}
    for at, einsum in enumerate(einsums):
        tensor = einsum.output.tensor
        made = next(u for u in touched(cascade, einsum.name) if u.writes)
        if tensor in states(cascade) or not is_simple(einsum, made):
            continue
        users, readers = [at], []
        for other, reader in enumerate(einsums):
            for use in touched(cascade, reader.name):
                if use.tensor != tensor or use.writes or other == at or not is_simple(reader, use):
                    continue
                both = (einsum.name, reader.name)
                common = [r for r in einsum.ranks if r in reader.ranks and r in made.ranks]
                later = tuple(r for r in common if not analysis.fusible(both, r))
                users.append(other)
                readers.append((problem.words(use.ranks), later))
        if readers:
            outside = leaves(problem, tensor, here)
            written = np.float64(0) if outside else problem.words(made.ranks)
            yield _Exchange(made.ranks, tuple(users), written, tuple(readers))


__all__ = ["least"]
