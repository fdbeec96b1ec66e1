"""FuseMax's mapping of a one-pass cascade (Nayak et al., MICRO 2024, sections IV and V).

The iterative rank M1 and the query tiles P2 and P1 are shared by all Einsums of the loop body, M0
and P0 are spatial, and nothing but inputs and outputs touches the outermost memory. The same
mapping places the cascade on an architecture whose 2D array has only MACs (+Cascade in the paper):
what that array cannot do runs on the 1D array, and tiles are exchanged through the buffer.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from archs import Architecture
from einsum_cascade import Cascade, Einsum
from mappers.contraction import with_candidate_axis
from mappers.factors import divisor_table
from mappers.roles import (
    arrays,
    batch_ranks,
    handed_over,
    padded_shape,
    ranks_of,
    refuse,
    split,
    states,
    supports,
    tiles,
)
from sim import (
    IN_ARRAY,
    EinsumMapping,
    Loop,
    Mapping,
    Option,
    Phase,
    PhaseChoice,
    Tile,
    always,
    footprint_bytes,
)
from sim.accesses import computing, shown_tensor
from sim.mapping import Number
from sim.nest import product

NAME = "fusemax"
GRIDS = True


class Options(BaseModel):
    """`schedule`: interleaved (all overlaps, FuseMax's +Binding) or serial (its +Architecture)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    schedule: Literal["interleaved", "serial"] = "interleaved"


@dataclass(frozen=True)
class _Ranks:
    """The ranks by what they are to this mapping."""

    batch: tuple[str, ...]
    queries: str
    outer: str
    inner: str
    keys: str


def _ranks(cascade: Cascade) -> _Ranks:
    need = "one iterative rank that, with one inner rank, partitions another (a one-pass cascade)"
    iterative = cascade.iterative_ranks
    parent = cascade.ranks[iterative[0]].parent if len(iterative) == 1 else None
    if parent is None or len(cascade.ranks[parent].partition) != 2:
        raise refuse(cascade, NAME, need)
    inner = next(r for r in cascade.ranks[parent].partition if r != iterative[0])
    batch = batch_ranks(cascade)
    running = [set(cascade.tensors[t].ranks) for t in states(cascade)]
    common = set.intersection(*running) - {*batch, iterative[0]} if running else set()
    if len(common) != 1:
        raise refuse(cascade, NAME, "one rank (the queries) that all running values share")
    return _Ranks(batch, common.pop(), iterative[0], inner, parent)


def place(
    options: Options, cascade: Cascade, architecture: Architecture, shape: MappingABC[str, Number]
) -> Mapping:
    """Place a one-pass cascade.

    `shape` gives every unpartitioned rank. The inner part of the keys is the side of the 2D array;
    keys that do not divide are padded to whole tiles. P1 is the largest divisor of the query tiles
    with which everything that stays in the buffer fits.

    Raises `InputError` for a cascade or an architecture of another form.
    """
    ranks = _ranks(cascade)
    two, one = arrays(architecture, NAME)
    full = padded_shape(cascade, shape, two.shape[0])
    across = np.minimum(np.minimum(two.shape[1], one.shape[0]), full[ranks.queries])
    count = np.atleast_1d(tiles(full[ranks.queries], across))
    plain = Mapping(cascade, architecture, full, ())
    p1 = _largest_tile(options, plain, ranks, across, count)
    phase = _phase(options, plain, ranks, p1, across)
    chosen = {
        f"{ranks.queries}1": p1,
        f"{ranks.queries}2": count / p1,
        ranks.inner: full[ranks.inner],
    }
    notes: Any = ""
    for name, value in chosen.items():
        text = np.char.add(f"{name}=", np.asarray(value).astype(np.int64).astype(str))
        notes = text if isinstance(notes, str) else np.char.add(np.char.add(notes, ", "), text)
    return replace(plain, phases=(PhaseChoice((phase,)),), notes=notes.astype(object))


_IDLE_NUMBERS = ("clock_hz", "bandwidth_bytes_per_s", "energy_pj")
"""Endings of parameters that say how fast or costly something is, not how much of it fits."""


def _largest_tile(
    options: Options, on: Mapping, ranks: _Ranks, across: Number, count: Number
) -> Number:
    """P1 at each point. Flat points that differ in speeds and energies alone are tried once, as
    those of a grid are anyway: nothing that is asked for here has the dimensions of these."""
    given = on.architecture.parameters
    told = [v for name, v in given.items() if not name.endswith(_IDLE_NUMBERS)]
    first, back = _distinct([count, across, *on.shape.values(), *told])

    def chosen(value: Number) -> Number:
        return value[first] if np.shape(value) == count.shape else value

    if count.ndim == 1 and len(first) < len(count):
        shape = {rank: chosen(extent) for rank, extent in on.shape.items()}
        fewer = Mapping(on.cascade, on.architecture.with_numbers(chosen), shape, ())
        found = _largest_tile(options, fewer, ranks, chosen(across), count[first])
        return np.broadcast_to(found, first.shape)[back]
    candidates = divisor_table(count)
    wider = with_candidate_axis(on)
    trial = _phase(options, wider, ranks, candidates, across=np.asarray(across)[..., None])
    memory = on.architecture.memories[1]
    fits = footprint_bytes(wider, trial, memory.name) <= np.asarray(memory.size_bytes)[..., None]
    return np.where(fits, candidates, 1.0).max(axis=-1)


def _distinct(values: list[Number]) -> tuple[Any, Any]:
    """The first of every kind of points, and the kind of each point."""
    count = len(values[0])
    varying = [np.asarray(v, dtype=np.float64) for v in values if np.shape(v) == (count,)]
    kinds = np.zeros(count, dtype=np.int64)
    for value in varying:
        if (value == value[0]).all():
            continue
        own = np.unique(value, return_inverse=True)[1]
        kinds = np.unique(kinds * (own.max() + 1) + own, return_inverse=True)[1]
    _, first, back = np.unique(kinds, return_index=True, return_inverse=True)
    return first, back


def _phase(options: Options, on: Mapping, ranks: _Ranks, p1: Number, across: Number) -> Phase:
    cascade, architecture, shape = on.cascade, on.architecture, on.shape
    two, one = arrays(architecture, NAME)
    count = tiles(shape[ranks.queries], across)
    body = [e for e in computing(cascade) if ranks.outer in e.ranks]
    batch = tuple(Loop(r, r, shape[r]) for r in ranks.batch)
    q, m = ranks.queries, ranks.outer
    outer = (*batch, Loop(f"{q}2", q, tiles(count, p1)))
    shared = (*outer, Loop(m, m, shape[m]), Loop(f"{q}1", q, p1))
    lanes = split(q, (f"{q}0", across), spatial=True)
    nests = []
    for einsum in computing(cascade):
        if q not in einsum.ranks or not set(ranks.batch) <= set(einsum.ranks):
            raise refuse(
                cascade, NAME, f"every Einsum to run over the queries, unlike {einsum.name}"
            )
        on_two = ranks.inner in einsum.ranks and supports(two, einsum)
        around = shared if einsum in body else (*outer, Loop(f"{q}1", q, p1))
        placed = {loop.rank for loop in around} | ({ranks.inner} if on_two else set())
        own = tuple(Loop(r, r, shape[r]) for r in einsum.ranks if r not in placed)
        keys = (Loop(ranks.inner, ranks.inner, shape[ranks.inner], True),) if on_two else ()
        nests.append(
            EinsumMapping(
                einsum.name,
                (two if on_two else one).name,
                (*around, *own, *keys, *lanes),
                shared=len(shared) if einsum in body else len(outer),
            )
        )
    phase = Phase(NAME, tuple(nests), _residency(on, ranks, nests, body))
    if options.schedule == "serial":
        steps, handoffs = _serial(cascade, nests, body, two.name)
        lost = handoffs * two.drain_cycles * product(shared)
        return replace(phase, steps=steps, stall_cycles=lost)
    return replace(phase, interleaved=_interleaved(cascade, nests, body, two.name))


def _interleaved(
    cascade: Cascade, nests: list[EinsumMapping], body: list[Einsum], two: str
) -> tuple[tuple[str, ...], ...]:
    """What takes turns on an array, so that words leave one array as fast as the other takes them.

    When the 2D array hands on words in time (SLNV), another product takes every other cycle, of a
    tile that is further behind or ahead (QK); and the Einsum that takes them (RNV) takes turns with
    what makes its other operand in the same order (SPNV). FuseMax, Figure 5.
    """
    inside = {
        n.einsum: tuple((lp.rank, lp.name) for lp in n.loops[n.shared :] if not lp.spatial)
        for n in nests
    }
    array_of = {n.einsum: n.array for n in nests}
    names = [e.name for e in body]
    groups = []
    for taker in (e for e in names if array_of[e] != two and inside[e]):
        feeders = [p.name for p in _same_tile(cascade, cascade.einsum(taker)) if p.name in names]
        givers = [e for e in feeders if array_of[e] == two and inside[e]]
        if not givers:
            continue
        beside = [e for e in names if array_of[e] == two and inside[e] and e not in givers]
        groups.append((*beside, *givers))
        alike = [e for e in feeders if array_of[e] != two and inside[e] == inside[taker]]
        groups.append((*alike, taker))
    unique = {frozenset(group): group for group in groups if len(group) > 1}
    return tuple(unique.values())


def _residency(
    on: Mapping, ranks: _Ranks, nests: list[EinsumMapping], body: list[Einsum]
) -> dict[str, tuple[Option, ...]]:
    cascade, architecture = on.cascade, on.architecture
    outermost, buffer = (m.name for m in architecture.memories[:2])
    query_tile = Tile(buffer, f"{ranks.queries}2")
    key_tile = Tile(buffer, ranks.outer)
    array_of = {n.einsum: n.array for n in nests}
    loops_of = {n.einsum: n.loops for n in nests}
    running = states(cascade)
    result = {}
    for name, tensor in cascade.tensors.items():
        if shown_tensor(cascade, name) != name:
            continue
        if tensor.role == "input":
            per_query = ranks.queries in ranks_of(cascade, name)
            result[name] = always(outermost, query_tile if per_query else key_tile)
        elif tensor.role == "output":
            result[name] = always(outermost)
        elif name in running:
            result[name] = always(buffer, query_tile)
        else:
            handed = handed_over(architecture, cascade, name, array_of)
            readers = {e.name for e in cascade.consumers[name]}
            if readers <= handed:
                result[name] = always(IN_ARRAY)
            else:  # two arrays work on it at the same time: one fills a copy, one reads the other
                users = (name, *sorted(readers))
                apart = [e for e in users if all(lp.name != ranks.outer for lp in loops_of[e])]
                if apart:
                    need = f"a loop over {ranks.outer} in {apart[0]} too, for which it keeps {name}"
                    raise refuse(cascade, NAME, need)
                crossing = len({array_of[e] for e in users}) > 1
                kept = Tile(buffer, ranks.outer, copies=2 if crossing else 1)
                result[name] = always(buffer, kept, handed_to=frozenset(handed))
    return result


def _serial(
    cascade: Cascade, nests: list[EinsumMapping], body: list[Einsum], two: str
) -> tuple[tuple[tuple[str, ...], ...], int]:
    """The steps of one tile when its Einsums overlap only as their dependencies allow.

    A 2D Einsum that needs a value of the 1D array begins a new step, behind the 1D Einsums on the
    way to it, which the array has to drain for. All other 1D Einsums run beside the 2D array; one
    that no other of its tile waits for, and that takes a single word a lane from the 2D array, runs
    beside the first step of the next tile: there the word has had the time to drain. Returns the
    steps and the number of times that the array drains in a tile.
    """
    array_of = {n.einsum: n.array for n in nests}
    shared = max((n.loops[: n.shared] for n in nests), key=len)
    needs: dict[str, set[str]] = {}
    stage: dict[str, int] = {}
    for einsum in (e for e in cascade.order if e in body):
        before = {p.name for p in _same_tile(cascade, einsum) if p in body}
        needs[einsum.name] = before.union(*(needs[p] for p in before)) if before else set()
        hop = array_of[einsum.name] == two
        stage[einsum.name] = max(
            (stage[p] + (hop and array_of[p] != two) for p in before), default=0
        )
    last = max((s for e, s in stage.items() if array_of[e] == two), default=0)
    between: list[set[str]] = []
    for g in range(last):
        following = [e for e in stage if array_of[e] == two and stage[e] > g]
        between.append(
            {e for e in stage if array_of[e] != two and stage[e] == g
             and any(e in needs[f] for f in following)}
        )  # fmt: skip
    steps: list[set[str]] = [set() for _ in range(last + 1)]
    for name, g in stage.items():
        if any(name in names for names in between):
            continue
        delayed = array_of[name] != two and g < last and bool(needs[name] & between[g])
        steps[g + delayed].add(name)
    later = {
        e
        for e in steps[last]
        if last and array_of[e] != two and not any(e in needs[other] for other in stage)
        and any(array_of[p.name] == two for p in _same_tile(cascade, cascade.einsum(e)))
        and all(lp.spatial or lp in shared for n in nests if n.einsum == e for lp in n.loops)
    }  # fmt: skip
    steps[last] -= later
    steps[0] |= later | {n.einsum for n in nests if n.einsum not in stage}
    ordered = [steps[0]]
    for g in range(last):
        ordered += [between[g], steps[g + 1]]
    drains = sum(any(array_of[p] == two for e in names for p in needs[e]) for names in between)
    return tuple(tuple(sorted(s)) for s in ordered), drains


def _same_tile(cascade: Cascade, einsum: Einsum) -> list[Einsum]:
    """The Einsums whose value of the same tile this one needs (not of the tile before)."""
    found = []
    for access in einsum.operands:
        for producer in cascade.producers[access.tensor]:
            if producer.is_view or producer.is_constant:
                continue
            previous = any(
                produced.offset != wanted.offset
                for produced, wanted in zip(producer.output.indices, access.indices, strict=True)
            )
            if not previous:
                found.append(producer)
    return found


__all__ = ["NAME", "Options", "place"]
