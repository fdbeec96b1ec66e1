"""The phase of FLAT's mapping: all Einsums of a cascade on one tile of rows after the other."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import dataclass

import numpy as np

from einsum_cascade import Cascade
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
from sim import IN_ARRAY, EinsumMapping, Loop, Mapping, Option, Phase, Residency, Tile, always
from sim.accesses import computing
from sim.mapping import Mask, Number

NAME = "flat"
KEPT = ("q", "k", "row", "v", "out")
"""What may stay on chip: Q, K, the row tile (QK and, in place of it, A), V, AV."""

Pair = tuple[str, str]
"""Stationarity of the first and of the second product."""


@dataclass(frozen=True)
class Fused:
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
class Choice:
    """A row tile (in rows) and which roles stay on chip; arrays of candidates or of points."""

    rows: Number
    kept: MappingABC[str, Mask]


def recognize(cascade: Cascade) -> Fused:
    """The roles of a cascade's ranks and tensors; InputError when it is of another form."""
    need = "two products, the second over the columns of the first, with a chain row by row between"
    found = [p for p in (as_product(cascade, e) for e in computing(cascade)) if p is not None]
    if len(found) != 2 or cascade.iterative_ranks:
        raise refuse(cascade, NAME, need)
    first, second = found
    if first.rows != second.rows or first.columns != second.contracted:
        raise refuse(cascade, NAME, need)
    return Fused(cascade, first, second, batch_ranks(cascade))


def build(mapping: Mapping, fused: Fused, pair: Pair, choice: Choice, spill: str) -> Phase:
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
    mapping: Mapping, fused: Fused, tensor: str, array_of: MappingABC[str, str]
) -> frozenset[str]:
    """Readers that get a tensor without asking a memory: never the second product, which begins
    when a tile of rows is complete."""
    found = handed_over(mapping.architecture, fused.cascade, tensor, array_of)
    return frozenset(found - {fused.second.einsum})


def _spilled_rows(
    mapping: Mapping, fused: Fused, nests: tuple[EinsumMapping, ...]
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
    shape = mapping.shape
    p, c, k = product.rows, product.columns, product.contracted
    first, second = two.shape  # spatial ranks in this order; what is in time takes tiles as deep
    across = {"output": (first, second, first), "input": (first, first, second)}
    r_side, c_side, k_side = across.get(stationary, (first, second, first))
    r0 = np.minimum(rows, r_side)
    c0, k0 = np.minimum(shape[c], c_side), np.minimum(shape[k], k_side)
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
    mapping: Mapping, fused: Fused, outer: tuple[Loop, ...], rows: Number
) -> tuple[EinsumMapping, ...]:
    """The Einsums that are no products: on the 1D array, a row at a time, spread along the row.

    Those that need the second product go over the rows again, when it has gone over all of them.
    """
    cascade, shape = mapping.cascade, mapping.shape
    _, one = arrays(mapping.architecture, NAME)
    p = fused.first.rows
    after = _after_second(fused)
    nests = []
    for einsum in computing(cascade):
        if einsum.name in (fused.first.einsum, fused.second.einsum):
            continue
        around = (*outer, Loop(f"{p}s" if einsum.name in after else f"{p}r", p, rows))
        placed = {loop.rank for loop in around}
        own = [r for r in einsum.ranks if r not in placed]
        if p not in einsum.ranks or len(own) > 1:
            raise refuse(cascade, NAME, f"a chain row by row, unlike {einsum.name}")
        loops: tuple[Loop, ...] = around
        for rank in own:
            width = np.minimum(one.shape[0], shape[rank])
            loops += split(rank, (f"{rank}1", tiles(shape[rank], width)))
            loops += split(rank, (f"{rank}0", width), spatial=True)
        nests.append(EinsumMapping(einsum.name, one.name, loops, len(around), "pipelined"))
    return tuple(nests)


def _after_second(fused: Fused) -> set[str]:
    """The Einsums that need the second product's result, directly or not."""
    found: set[str] = set()
    made = {fused.second.z}
    for einsum in fused.cascade.order:
        if made & {access.tensor for access in einsum.operands}:
            found.add(einsum.name)
            made.add(einsum.output.tensor)
    return found


def _residency(
    mapping: Mapping,
    fused: Fused,
    choice: Choice,
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
    after = _after_second(fused)
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
        elif tensor not in after and readers & after:
            result[tensor] = always(buffer, row_tile)  # it waits for the second product
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
