"""FLAT's mapping (Kao et al., ASPLOS 2023): both products and the softmax fused on a tile of rows.

A row of scores is the smallest tile that the softmax allows, so the key rank is never tiled across
passes: a tile of rows of QK stays in the buffer, is turned into A in place, and is consumed by the
second product. The two products alternate on the 2D array, the softmax runs on the 1D array.

The space: row tile (all rows of a head is FLAT's head granularity; tiles of a sample or of the
whole batch hold more at the same traffic and are never better), stationarity of each product, which
of Q, K, QK (with A, its successor in place), V, AV stay in the buffer. A row tile that does not fit
spills its overflow. Facts checked against FLAT's corrected simulator are in `explore validate`.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from archs import Architecture
from einsum_cascade import Cascade
from einsum_cascade.source import check, read_yaml
from mappers.contraction import STATIONARITY, with_candidate_axis
from mappers.factors import divisor_table
from mappers.flat_options import Options, Pinned, read_table
from mappers.roles import (
    Product,
    arrays,
    as_product,
    batch_ranks,
    handed_over,
    refuse,
    split,
    tiles,
)
from sim import (
    IN_ARRAY,
    EinsumMapping,
    Evaluation,
    Loop,
    Mapping,
    Option,
    Phase,
    PhaseChoice,
    Residency,
    Tile,
    always,
    evaluate_phase,
    select,
)
from sim.accesses import computing
from sim.mapping import Mask, Number

NAME = "flat"
KEPT = ("q", "k", "row", "v", "out")


@dataclass(frozen=True)
class _Cascade:
    """The two products of a cascade, and the names of their tensors by what FLAT does with them."""

    cascade: Cascade
    first: Product
    second: Product
    batch: tuple[str, ...]

    @property
    def tensors(self) -> dict[str, str]:
        """Tensor of each role in KEPT."""
        return {
            "q": self.first.x,
            "k": self.first.w,
            "row": self.first.z,
            "v": self.second.w,
            "out": self.second.z,
        }


@dataclass(frozen=True)
class _Choice:
    """A row tile (in rows) and which roles stay on chip; arrays of candidates or of points."""

    rows: Number
    kept: MappingABC[str, Mask]


def place(
    options: Options, cascade: Cascade, architecture: Architecture, shape: MappingABC[str, Number]
) -> Mapping:
    """Place a cascade of two products with a row-wise chain between them.

    The best of the space by latency, then traffic, then energy; or the pinned mapping.
    Raises `InputError` for a cascade of another form and for a point that a table lacks.
    """
    fused = _recognize(cascade)
    arrays(architecture, NAME)
    full = {k: np.asarray(v) for k, v in cascade.resolve_shape(shape).items()}
    mapping = Mapping(cascade, architecture, full, ())
    if options.mapping == "search":
        limits = None
        if options.no_worse_than is not None:
            fixed, which = _pinned(mapping, fused, options.no_worse_than, options.base)
            phases = [_phase(mapping, fused, p, c, options.spill) for p, c in fixed.items()]
            limits = select([evaluate_phase(mapping, phase) for phase in phases], which)
        choices, index, evaluated = _search(mapping, fused, options.spill, limits)
        how = f" (best of {evaluated} by latency, traffic, energy)"
    else:
        choices, index = _pinned(mapping, fused, options.mapping, options.base)
        how = " (pinned)"
    phases = [_phase(mapping, fused, p, c, options.spill) for p, c in choices.items()]
    notes = np.choose(index, [_note(mapping, fused, p, c) for p, c in choices.items()]) + how
    return replace(mapping, phases=(PhaseChoice(tuple(phases), index),), notes=notes)


def _recognize(cascade: Cascade) -> _Cascade:
    need = "two products, the second over the columns of the first, with a chain row by row between"
    found = [p for p in (as_product(cascade, e) for e in computing(cascade)) if p is not None]
    if len(found) != 2 or cascade.iterative_ranks:
        raise refuse(cascade, NAME, need)
    first, second = found
    if first.rows != second.rows or first.columns != second.contracted:
        raise refuse(cascade, NAME, need)
    return _Cascade(cascade, first, second, batch_ranks(cascade))


Pair = tuple[str, str]


def _search(
    mapping: Mapping, fused: _Cascade, spill: str, limits: Evaluation | None
) -> tuple[dict[Pair, _Choice], np.ndarray, int]:
    """The best choice of each pair of stationarities, and which pair is best at each point."""
    wider = with_candidate_axis(mapping)
    table = divisor_table(mapping.shape[fused.first.rows])
    masks = np.arange(2 ** len(KEPT))
    rows = np.repeat(table, len(masks), axis=-1)
    repeated = np.tile(masks, table.shape[-1])
    kept = {role: (repeated >> i & 1).astype(bool) for i, role in enumerate(KEPT)}
    choices, figures = {}, []
    for qk in STATIONARITY:
        for av in STATIONARITY:
            phase = _phase(wider, fused, (qk, av), _Choice(rows, kept), spill)
            found = evaluate_phase(wider, phase, explain=False)
            criteria = [found.latency_s, found.traffic_bytes, found.energy_pj]
            if limits is not None:
                good = found.latency_s <= limits.latency_s[..., None] * (1 + 1e-9)
                good &= found.traffic_bytes <= limits.traffic_bytes[..., None] * (1 + 1e-9)
                criteria = [np.where(good, values, np.nan) for values in criteria]
            best = _first(*criteria)
            at = best[..., None]

            def pick(values: Number, at: np.ndarray = at, like: Number = found.latency_s) -> Number:
                return np.take_along_axis(np.broadcast_to(values, np.shape(like)), at, -1)[..., 0]

            choices[qk, av] = _Choice(pick(rows), {r: pick(m) for r, m in kept.items()})
            figures.append([pick(v) for v in criteria])
    columns = np.moveaxis(np.asarray(figures), 0, -1)
    return choices, _first(*columns), len(choices) * rows.shape[-1]


def _first(*criteria: Number) -> np.ndarray:
    """Index along the last axis of the least by the first criterion, ties by the next ones."""
    alive: Number = True
    for values in criteria:
        values = np.where(alive & ~np.isnan(values), values, np.inf)
        least = values.min(axis=-1, keepdims=True)
        alive = alive & (values <= least * (1 + 1e-9))
    result: np.ndarray = np.argmax(alive, axis=-1)
    return result


def _pinned(
    mapping: Mapping, fused: _Cascade, source: str | Path | Pinned, base: Path | None
) -> tuple[dict[Pair, _Choice], np.ndarray]:
    """One choice a pair of stationarities that occurs, each holding at the points that name it."""
    names = fused.tensors
    points = np.broadcast_shapes(*(np.shape(v) for v in mapping.shape.values())) or (1,)
    if isinstance(source, Path) and source.suffix in (".yaml", ".yml"):
        source = check(Pinned, read_yaml((base or Path()) / source))
    if isinstance(source, Pinned):
        source.check(names.values(), (fused.first.einsum, fused.second.einsum))
        pinned = [source] * int(np.prod(points))
    else:
        pinned = read_table(source, base, mapping, points)
    every = np.broadcast_to(mapping.shape[fused.first.rows], points)
    rows = np.array([p.row_tile or 0 for p in pinned], dtype=np.float64).reshape(points)
    choice = _Choice(
        np.where(rows > 0, np.minimum(rows, every), every),
        {
            role: np.array([name in p.on_chip for p in pinned]).reshape(points)
            for role, name in names.items()
        },
    )
    pairs = [
        (p.stationarity[fused.first.einsum], p.stationarity[fused.second.einsum]) for p in pinned
    ]
    distinct = list(dict.fromkeys(pairs))
    index = np.array([distinct.index(pair) for pair in pairs]).reshape(points)
    return dict.fromkeys(distinct, choice), index


def _note(mapping: Mapping, fused: _Cascade, pair: Pair, choice: _Choice) -> np.ndarray:
    text = np.char.add(choice.rows.astype(np.int64).astype(str), " rows at a time, ")
    first, second = fused.first.einsum, fused.second.einsum
    text = np.char.add(text, f"{first} {pair[0]}- and {second} {pair[1]}-stationary, kept:")
    for role, name in fused.tensors.items():
        text = np.char.add(text, np.where(choice.kept[role], f" {name}", ""))
    result: np.ndarray = text.astype(object)
    return result


def _phase(mapping: Mapping, fused: _Cascade, pair: Pair, choice: _Choice, spill: str) -> Phase:
    """All Einsums on one tile of rows after the other."""
    shape = mapping.shape
    p, q = fused.first.rows, fused.tensors
    outer = (
        *(Loop(b, b, shape[b]) for b in fused.batch),
        Loop(f"{p}2", p, tiles(shape[p], choice.rows)),
    )
    first, stage_1 = _product_nest(mapping, fused.first, pair[0], outer, choice.rows)
    second, stage_2 = _product_nest(mapping, fused.second, pair[1], outer, choice.rows)
    chain = _chain(mapping, fused, outer, choice.rows)
    nests = (first, *chain, second)
    residency = _residency(mapping, fused, choice, nests, stage_1, stage_2)
    spilled = _spilled_rows(mapping, fused, nests)
    if spill == "all":
        spilled[fused.first.einsum, q["q"]] = True
        spilled[fused.first.einsum, q["k"]] = choice.kept["k"]
        spilled[fused.second.einsum, q["v"]] = choice.kept["v"]
        spilled[fused.second.einsum, q["out"]] = pair[1] != "output"
    return Phase(NAME, nests, residency, spilled=spilled)


def _handed(
    mapping: Mapping, fused: _Cascade, tensor: str, array_of: MappingABC[str, str]
) -> frozenset[str]:
    """Readers that get a tensor without asking a memory: never the second product, which begins
    when a tile of rows is complete."""
    found = handed_over(mapping.architecture, fused.cascade, tensor, array_of)
    return frozenset(found - {fused.second.einsum})


def _spilled_rows(
    mapping: Mapping, fused: _Cascade, nests: tuple[EinsumMapping, ...]
) -> dict[tuple[str, str], Mask]:
    """The accesses of the row tile: what overflows goes out and comes back at every one of them.

    Left out are readers on the writer's own array and in its pass, which never ask the tile.
    """
    cascade = fused.cascade
    array_of = {nest.einsum: nest.array for nest in nests}
    spilled: dict[tuple[str, str], Mask] = {}
    for nest in nests:
        einsum = cascade.einsum(nest.einsum)
        for access in (*einsum.operands, einsum.output):
            tensor = access.tensor
            if not {fused.first.rows, fused.first.columns} <= set(cascade.tensors[tensor].ranks):
                continue
            handed = _handed(mapping, fused, tensor, array_of)
            if not (einsum.name in handed and array_of.get(tensor) == nest.array):
                spilled[einsum.name, tensor] = True
    return spilled


_Stage = dict[str, tuple[Tile, ...]]


def _product_nest(
    mapping: Mapping, product: Product, stationary: str, outer: tuple[Loop, ...], rows: Number
) -> tuple[EinsumMapping, _Stage]:
    """The nest of a product inside a row tile, and the staging tiles of what is not kept.

    The staging tiles are FLAT's: one PE tile each, double-buffered and streamed.
    """
    two, _ = arrays(mapping.architecture, NAME)
    buffer = mapping.architecture.memories[1].name
    shape, side = mapping.shape, two.shape[0]
    p, c, k = product.rows, product.columns, product.contracted
    r0, c0, k0 = np.minimum(rows, side), np.minimum(shape[c], side), np.minimum(shape[k], side)
    pt = Loop(f"{p}1", p, tiles(rows, r0))
    c1, k1 = Loop(f"{c}1", c, tiles(shape[c], c0)), Loop(f"{k}1", k, tiles(shape[k], k0))

    def inside(rank: str, extent: Number, spatial: bool = False) -> Loop:
        return Loop(f"{rank}0", rank, extent, spatial)

    if stationary == "output":
        loops = (pt, c1, k1, inside(k, k0), inside(p, r0, True), inside(c, c0, True))
        x, w, z = k1, k1, c1
    elif stationary == "input":
        loops = (pt, k1, c1, inside(c, c0), inside(p, r0, True), inside(k, k0, True))
        x, w, z = k1, c1, pt
    else:
        loops = (c1, k1, pt, inside(p, r0), inside(k, k0, True), inside(c, c0, True))
        x, w, z = pt, k1, c1
    stage: _Stage = {
        product.x: (Tile(buffer, x.name, copies=2, retain=False),),
        product.w: (Tile(buffer, w.name, copies=2, retain=False),),
        product.z: (Tile(buffer, z.name, copies=2),),
    }
    return EinsumMapping(product.einsum, two.name, (*outer, *loops), len(outer)), stage


def _chain(
    mapping: Mapping, fused: _Cascade, outer: tuple[Loop, ...], rows: Number
) -> tuple[EinsumMapping, ...]:
    """The Einsums that are no products: on the 1D array, a row at a time, spread along the row."""
    cascade, shape = mapping.cascade, mapping.shape
    _, one = arrays(mapping.architecture, NAME)
    p = fused.first.rows
    around = (*outer, Loop(f"{p}r", p, rows))
    placed = {loop.rank for loop in around}
    nests = []
    for einsum in computing(cascade):
        if einsum.name in (fused.first.einsum, fused.second.einsum):
            continue
        own = [r for r in einsum.ranks if r not in placed]
        if p not in einsum.ranks or len(own) > 1:
            raise refuse(cascade, NAME, f"a chain row by row, unlike {einsum.name}")
        loops = around
        for rank in own:
            width = np.minimum(one.shape[0], shape[rank])
            loops += split(rank, (f"{rank}1", tiles(shape[rank], width)))
            loops += split(rank, (f"{rank}0", width), spatial=True)
        nests.append(EinsumMapping(einsum.name, one.name, loops, len(around), "pipelined"))
    return tuple(nests)


def _residency(
    mapping: Mapping,
    fused: _Cascade,
    choice: _Choice,
    nests: tuple[EinsumMapping, ...],
    stage_1: _Stage,
    stage_2: _Stage,
) -> dict[str, tuple[Option, ...]]:
    cascade, architecture = mapping.cascade, mapping.architecture
    outermost, buffer = (m.name for m in architecture.memories[:2])
    p = fused.first.rows
    head = fused.batch[-1] if fused.batch else None
    row_tile, double = Tile(buffer, f"{p}2"), Tile(buffer, f"{p}2", copies=2)
    whole, fiber = Tile(buffer, head, copies=2), Tile(buffer, f"{p}r")
    kept, name = choice.kept, fused.tensors
    z, x = fused.first.z, fused.second.x
    array_of = {n.einsum: n.array for n in nests}

    def either(when: Mask, then: Residency, otherwise: Residency) -> tuple[Option, ...]:
        return (Option(when, then), Option(~np.asarray(when), otherwise))

    def operand(role: str, tile: Tile, stage: _Stage) -> tuple[Option, ...]:
        staged = Residency(outermost, stage[name[role]])
        return either(kept[role], Residency(outermost, (tile,)), staged)

    result = {
        name["q"]: operand("q", double, stage_1),
        name["k"]: operand("k", whole, stage_1),
        name["v"]: operand("v", whole, stage_2),
    }
    # the row tile: scores as they leave the first product, weights as they enter the second
    complete = _complete(nests[0], fused.first)
    direct = _handed(mapping, fused, z, array_of)
    ends = {fused.first.einsum: stage_1[z]} | ({fused.second.einsum: stage_2[x]} if x == z else {})
    leaving = {**ends, fused.first.einsum: ()}  # finished results need no staging
    off = ~np.asarray(kept["row"])
    result[z] = (
        Option(kept["row"] & complete, Residency(buffer, (row_tile,), handed_to=direct)),
        Option(kept["row"] & ~complete, Residency(buffer, (row_tile,))),
        Option(off & complete, Residency(outermost, (fiber,), tiles_of=leaving)),
        Option(off & ~complete, Residency(outermost, (fiber,), tiles_of=ends)),
    )
    last = {fused.second.einsum: stage_2[x]}
    for tensor in (e.output.tensor for e in computing(cascade)):
        if tensor in result:
            continue
        handed = _handed(mapping, fused, tensor, array_of)
        readers = {e.name for e in cascade.consumers[tensor]}
        if tensor == x:
            result[tensor] = either(
                kept["row"],
                Residency(buffer, (row_tile,), in_place_of=z),
                Residency(outermost, tiles_of=last),
            )
        elif tensor == name["out"]:
            home = buffer if readers else outermost
            off_chip = (row_tile,) if readers else stage_2[tensor]
            result[tensor] = either(
                kept["out"], Residency(home, (double,)), Residency(home, off_chip)
            )
        elif not readers:
            result[tensor] = always(outermost)
        elif readers <= handed or fused.first.columns not in cascade.tensors[tensor].ranks:
            result[tensor] = always(IN_ARRAY)
        else:
            result[tensor] = either(
                kept["row"],
                Residency(buffer, (row_tile,), in_place_of=z, handed_to=handed),
                Residency(buffer, (fiber,), in_place_of=z, handed_to=handed),
            )
    return result


def _complete(nest: EinsumMapping, product: Product) -> Mask:
    """Whether results leave the array complete: then the next array can have them as they come."""
    positions = {loop.name: i for i, loop in enumerate(nest.loops)}
    inner_rows = positions[f"{product.rows}0"]
    inside_k = positions[f"{product.contracted}1"]
    if (
        not nest.loops[inner_rows].spatial
        or nest.loops[positions[f"{product.contracted}0"]].spatial
    ):
        return np.asarray(nest.loops[inside_k].extent == 1)
    return np.True_


__all__ = ["NAME", "Options", "place"]
