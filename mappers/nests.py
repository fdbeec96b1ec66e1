"""Loop nests and residencies of groups of Einsums, for many candidate tile sizes at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from archs import ComputeArray
from einsum_cascade import Cascade, Einsum
from einsum_cascade.views import reads
from mappers.factors import largest_divisor
from mappers.grouping import Group, Place
from mappers.registers import by_readers, flows, within_registers
from mappers.roles import before_iteration, states, supports, tiles
from sim import IN_ARRAY, EinsumMapping, Loop, Mapping, Option, Phase, Residency, Tile, always
from sim.accesses import Use, uses
from sim.mapping import Mask, Number, shared_loops

Keep = Literal["all", "each", "tile", "wave"]


@dataclass(frozen=True)
class Form:
    """What is chosen beside the groups.

    `rows_at_once` and `row_tiles` bound the rows of a wavefront, and the tiles of them that are
    worked on while a tile of the streamed rank stays (arrays of candidates). `keep` says how long
    inputs stay: those that rows do not move for all rows (`all`, and for all of the batch what that
    does not move; `each`, fetched for each of the batch anew), or for a tile of them (`tile`); or
    every input for one wavefront only (`wave`). `dense_only` leaves to the 2D array only what
    has the inner rank of a stream, or is a product; `along_rows` spreads rows over a 1D array,
    rather than a fiber of one row.
    """

    rows_at_once: Number
    row_tiles: Number
    keep: Keep
    dense_only: bool
    along_rows: bool


_Residencies = dict[str, tuple[Option, ...]]


@dataclass(frozen=True)
class _Placed:
    """An Einsum with its nest and the group it is in."""

    einsum: Einsum
    nest: EinsumMapping
    place: Place


def build(
    on: Mapping,
    name: str,
    groups: tuple[Group, ...],
    form: Form,
    two: ComputeArray,
    one: ComputeArray,
    typical: MappingABC[str, float],
) -> Phase:
    """One phase of groups: they share the loops over their `whole` ranks, and nothing else."""
    placed = _placed(on, groups, form, two, one, typical)
    inputs = _inputs(on, placed, form.keep)
    return Phase(name, tuple(p.nest for p in placed), inputs | _made(on, placed))


def build_each(
    on: Mapping,
    name: str,
    groups: tuple[Group, ...],
    form: Form,
    keeps: Sequence[Keep],
    two: ComputeArray,
    one: ComputeArray,
    typical: MappingABC[str, float],
) -> Iterator[tuple[Keep, Phase]]:
    """The phases of a form, for each way to keep inputs that is another one."""
    placed = _placed(on, groups, form, two, one, typical)
    made = _made(on, placed)
    found: list[_Residencies] = []
    for keep in keeps:
        inputs = _inputs(on, placed, keep)
        if inputs not in found:
            found.append(inputs)
            yield keep, Phase(name, tuple(p.nest for p in placed), inputs | made)


def _placed(
    on: Mapping,
    groups: tuple[Group, ...],
    form: Form,
    two: ComputeArray,
    one: ComputeArray,
    typical: MappingABC[str, float],
) -> list[_Placed]:
    placed = []
    for number, group in enumerate(groups):
        rows = _rows(on, group.places[0].rows, form, two, one)
        for einsum, place in zip(group.einsums, group.places, strict=True):
            nest = _nest(on, number, einsum, place, rows, form, two, one, typical)
            placed.append(_Placed(einsum, nest, place))
    return placed


@dataclass(frozen=True)
class _Rows:
    """Rows of a wavefront, tiles of them together, and how many times together."""

    at_once: Number
    together: Number
    times: Number


def _rows(
    on: Mapping, rank: str | None, form: Form, two: ComputeArray, one: ComputeArray
) -> _Rows | None:
    if rank is None:
        return None
    extent = on.shape[rank]
    at_once = np.minimum(form.rows_at_once, _side_of_rows(two, one, extent))
    count = tiles(extent, at_once)
    together = largest_divisor_of(count, form.row_tiles)
    return _Rows(at_once, together, tiles(count, together))


def bindings(
    cascade: Cascade,
    groups: tuple[Group, ...],
    form: Form,
    two: ComputeArray,
    one: ComputeArray,
    typical: MappingABC[str, float],
) -> tuple[object, ...]:
    """The array of every Einsum and the ranks that are spread over it: forms with equal ones are
    the same mapping, but for what they keep."""
    found = []
    for group in groups:
        for einsum, place in zip(group.einsums, group.places, strict=True):
            stream, own = _own_ranks(cascade, einsum, place)
            inner = _inner_of(cascade, stream)
            array, spatial = _binding(
                cascade, einsum, own, place.rows, inner, form, two, one, typical
            )
            found.append((array.name, tuple(spatial)))
    return tuple(found)


def _own_ranks(cascade: Cascade, einsum: Einsum, place: Place) -> tuple[str | None, list[str]]:
    """The streamed rank, if the Einsum has it, and the ranks that no shared loop is over."""
    stream = place.stream if place.stream in einsum.ranks else None
    own = [r for r in einsum.ranks if r not in (*place.whole, *place.beside, place.rows)]
    if stream is not None and (_is_part(cascade, stream) or cascade.ranks[stream].iterative):
        own.remove(stream)
    return stream, own


def _is_part(cascade: Cascade, rank: str) -> bool:
    return cascade.ranks[rank].parent is not None


def _nest(
    on: Mapping,
    number: int,
    einsum: Einsum,
    place: Place,
    wave: _Rows | None,
    form: Form,
    two: ComputeArray,
    one: ComputeArray,
    typical: MappingABC[str, float],
) -> EinsumMapping:
    cascade, shape = on.cascade, on.shape
    rows = place.rows
    stream, own = _own_ranks(cascade, einsum, place)
    inner = _inner_of(cascade, stream)
    own.sort(key=lambda r: r in einsum.reduction_ranks)  # sums stay in the PEs
    array, spatial = _binding(cascade, einsum, own, rows, inner, form, two, one, typical)
    width = {r: np.minimum(s, shape[r]) for r, s in zip(spatial, array.shape, strict=False)}

    shared = [Loop(r, r, shape[r]) for r in place.whole]
    inner_rows: list[Loop] = []
    if rows is not None and wave is not None:
        shared.append(Loop(f"{rows}2:{number}", rows, wave.times))
        inner_rows = [Loop(f"{rows}1:{number}.{place.run}", rows, wave.together)]
        if rows in width:
            width[rows] = wave.at_once
        else:
            own.append(rows)
    if stream is not None:
        whole_stream = _is_part(cascade, stream) or cascade.ranks[stream].iterative
        step = 1.0 if whole_stream else np.minimum(two.shape[0], shape[stream])
        loop = Loop(f"{stream}1:{number}.{place.run}", stream, tiles(shape[stream], step))
        shared.append(loop)
    shared += [Loop(f"{r}:{number}.{place.run}", r, shape[r]) for r in place.beside]
    shared += inner_rows
    temporal, unrolled = [], []
    for rank in own:
        extent = shape[rank]
        if rank == rows and wave is not None:
            extent = wave.at_once
        elif rank == stream:
            extent = np.minimum(two.shape[0], shape[rank])
        if rank in width:
            width[rank] = np.minimum(width[rank], extent)
            extent = tiles(extent, width[rank])
        temporal.append(Loop(f"{rank}t", rank, extent))
    for rank in spatial:
        unrolled.append(Loop(f"{rank}0", rank, width[rank], True))
    return EinsumMapping(
        einsum.name, array.name, (*shared, *temporal, *unrolled), len(shared), "pipelined"
    )


def _inner_of(cascade: Cascade, stream: str | None) -> str | None:
    """The part that lies inside of a streamed outer part; a whole rank streams itself."""
    if stream is None or not _is_part(cascade, stream):
        return stream
    parts = cascade.inner_to(stream)
    return parts[-1] if parts else None


def _side_of_rows(two: ComputeArray, one: ComputeArray, rows: Number) -> Number:
    return np.minimum(np.minimum(two.shape[1], one.shape[0]), rows)


def largest_divisor_of(count: Number, limit: Number) -> Number:
    """The largest divisor of the tiles that is not above a power-of-two limit."""
    count, limit = np.broadcast_arrays(count, np.asarray(limit, dtype=np.float64))
    return largest_divisor(count, limit).reshape(count.shape)


def _binding(
    cascade: Cascade,
    einsum: Einsum,
    own: list[str],
    rows: str | None,
    inner: str | None,
    form: Form,
    two: ComputeArray,
    one: ComputeArray,
    typical: MappingABC[str, float],
) -> tuple[ComputeArray, list[str]]:
    """The array of an Einsum and the ranks that are spread over it, one a dimension."""

    wide, long = float(np.max(two.shape[0])), float(np.max(one.shape[0]))

    def filled(rank: str, side: float) -> float:
        return min(side, typical[rank])

    iterative = {r for r in own if cascade.ranks[r].iterative}
    choice = [r for r in (*own, *([rows] if rows else [])) if r not in iterative]
    best = max(choice, key=lambda r: (filled(r, long), r == rows), default=None)
    lanes = rows or best
    if lanes is not None and best is not None:
        short = filled(lanes, long) * 2 < filled(best, long)
        lanes = best if short else lanes
    others = [r for r in choice if r != lanes]
    across = max(others, key=lambda r: (r == inner, filled(r, wide)), default=None)
    dense = einsum.operations.get("mac", 0) > 0 or (inner is not None and inner in einsum.ranks)
    wanted = dense or not form.dense_only or not supports(one, einsum)
    if supports(two, einsum) and across is not None and lanes is not None and wanted:
        return two, [across, lanes]
    if supports(two, einsum) and not supports(one, einsum):
        return two, [r for r in (lanes,) if r is not None]
    if not form.along_rows and across is not None:
        lanes = max((r for r in choice if r != rows), key=lambda r: filled(r, long))
    return one, [r for r in (lanes,) if r is not None]


def _readers(on: Mapping, placed: list[_Placed]) -> dict[str, list[_Placed]]:
    readers: dict[str, list[_Placed]] = {}
    for p in placed:
        for read in reads(on.cascade, p.einsum):
            readers.setdefault(read.tensor, []).append(p)
    return readers


def _inputs(on: Mapping, placed: list[_Placed], keep: Keep) -> _Residencies:
    """Where tensors are that nothing of the phase makes."""
    outermost, buffer = (m.name for m in on.architecture.memories[:2])
    made = {p.einsum.output.tensor for p in placed}
    result: _Residencies = {}
    for tensor, using in _readers(on, placed).items():
        if tensor not in made:
            tiles_of = {
                p.einsum.name: _input_tiles(on.cascade, buffer, tensor, p, keep) for p in using
            }
            result[tensor] = always(outermost, tiles_of=tiles_of)
    return result


def _made(on: Mapping, placed: list[_Placed]) -> _Residencies:
    """Where the tensors are that the phase makes: in the arrays where they can be, and fit."""
    cascade = on.cascade
    readers = _readers(on, placed)
    needed = _needed_elsewhere(cascade, frozenset(p.einsum.name for p in placed))
    bare = Phase("", tuple(p.nest for p in placed), {})
    touching = list(uses(cascade, bare))
    homes: dict[str, Residency] = {}
    result: _Residencies = {}
    for tensor, writer in {p.einsum.output.tensor: p for p in placed}.items():
        using = readers.get(tensor, [])
        leaves = cascade.tensors[tensor].role == "output" or tensor in needed
        homes[tensor] = _home(on, tensor, writer, using, leaves)
        if not using or (tensor in states(cascade) and not leaves):
            result[tensor] = (Option(True, homes[tensor]),)
            continue
        every = {p.einsum.name for p in using}
        result[tensor] = tuple(
            Option(when, Residency(IN_ARRAY))
            if len(direct) == len(every) and not leaves
            else Option(when, replace(homes[tensor], handed_to=direct))
            for when, direct in _handed(on, bare, [u for u in touching if u.tensor == tensor])
        )
    return dict(within_registers(on, replace(bare, residency=result), homes).residency)


def _home(
    on: Mapping, tensor: str, writer: _Placed, using: list[_Placed], leaves: bool
) -> Residency:
    """The memory of a tensor that the phase makes: outside if it `leaves` it, else on chip. Partial
    sums of a shared loop stay in the buffer."""
    cascade, nest = on.cascade, writer.nest
    outermost, buffer = (m.name for m in on.architecture.memories[:2])
    common = min((shared_loops(nest, p.nest) for p in using if p != writer), default=nest.shared)
    if tensor in states(cascade):
        depth = before_iteration(cascade, tensor, nest)
        kept = Tile(buffer, nest.below(depth if leaves else min(depth, common)))
        return Residency(outermost if leaves else buffer, (kept,))
    if leaves:
        ranks = set(writer.einsum.reduction_ranks)
        summed = [i for i, lp in enumerate(nest.loops[: nest.shared]) if lp.rank in ranks]
        tiles = (Tile(buffer, nest.below(summed[0])),) if summed else ()
        return Residency(outermost, tiles)
    if not using:
        return Residency(outermost)
    depth = min(shared_loops(nest, p.nest) for p in using)
    crossing = any(p.nest.array != nest.array for p in using)
    return Residency(buffer, (Tile(buffer, nest.below(depth), copies=2 if crossing else 1),))


def _handed(on: Mapping, phase: Phase, touching: list[Use]) -> list[tuple[Mask, frozenset[str]]]:
    """The readers that need no memory, given the registers, and at which points and candidates it
    is these."""
    (writer,) = (use for use in touching if use.writes)
    direct: dict[str, Mask] = {}
    for use in touching:
        if not use.writes:
            fine = direct.get(use.mapping.einsum, np.True_)
            direct[use.mapping.einsum] = fine & flows(on, phase, writer, [use], False)
    return by_readers(direct)


@lru_cache(maxsize=1024)
def _needed_elsewhere(cascade: Cascade, here: frozenset[str]) -> frozenset[str]:
    """Tensors that an Einsum of another phase reads."""
    found: set[str] = set()
    for einsum in cascade.einsums:
        if einsum.name not in here and not einsum.is_view:
            found |= {read.tensor for read in reads(cascade, einsum)}
    return frozenset(found)


def _input_tiles(
    cascade: Cascade, buffer: str, tensor: str, user: _Placed, keep: Keep
) -> tuple[Tile, ...]:
    """The tile of an input: for a tile of rows if they move it, else for all rows or streamed."""
    nest, place = user.nest, user.place
    moved = {
        v.upper()
        for read in reads(cascade, user.einsum)
        if read.tensor == tensor
        for v in read.variables
    }
    if keep == "wave":
        return (Tile(buffer, nest.below(len(nest.temporal))),)
    base = len(place.whole)
    while base and nest.loops[base - 1].rank not in moved and keep == "all":
        base -= 1  # weights that a batch rank does not move
    if place.rows is None:
        return (Tile(buffer, nest.below(nest.shared if keep == "tile" else base)),)
    by_stream = place.stream in moved and keep == "tile"
    if place.rows in moved and base == len(place.whole) and not by_stream:
        return (Tile(buffer, nest.below(len(place.whole) + 1)),)
    streamed = len(place.whole) + 1 + (place.stream in user.einsum.ranks)
    return (Tile(buffer, nest.below(streamed if keep == "tile" else base)),)


__all__ = ["Form", "Keep", "bindings", "build", "build_each"]
