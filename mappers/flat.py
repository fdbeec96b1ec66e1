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
from dataclasses import replace
from pathlib import Path

import numpy as np

from archs import Architecture
from einsum_cascade import Cascade
from einsum_cascade.source import check, read_yaml
from mappers.contraction import STATIONARITY, with_candidate_axis
from mappers.factors import divisor_table
from mappers.flat_options import Options, Pinned, read_table
from mappers.flat_phase import KEPT, NAME, Choice, Fused, Pair, build, recognize
from mappers.roles import arrays
from mappers.room import room_bytes
from sim import Evaluation, Mapping, PhaseChoice, evaluate_phase, select
from sim.mapping import Number


def place(
    options: Options, cascade: Cascade, architecture: Architecture, shape: MappingABC[str, Number]
) -> Mapping:
    """Place a cascade of two products with a row-wise chain between them.

    The best of the space by latency, then traffic, then energy; or the pinned mapping.
    Raises `InputError` for a cascade of another form and for a point that a table lacks.
    """
    fused = recognize(cascade)
    arrays(architecture, NAME)
    full = {k: np.asarray(v) for k, v in cascade.resolve_shape(shape).items()}
    mapping = Mapping(cascade, architecture, full, ())
    if options.mapping == "search":
        limits = None
        if options.no_worse_than is not None:
            fixed, which = _pinned(mapping, fused, options.no_worse_than, options.base)
            phases = [build(mapping, fused, p, c, options.spill) for p, c in fixed.items()]
            limits = select([evaluate_phase(mapping, phase) for phase in phases], which)
        choices, index, evaluated = _search(mapping, fused, options.spill, limits)
        how = f" (best of {evaluated} by latency, traffic, energy)"
    else:
        choices, index = _pinned(mapping, fused, options.mapping, options.base)
        how = " (pinned)"
    phases = [build(mapping, fused, p, c, options.spill) for p, c in choices.items()]
    notes = np.choose(index, [_note(mapping, fused, p, c) for p, c in choices.items()]) + how
    return replace(mapping, phases=(PhaseChoice(tuple(phases), index),), notes=notes)


def _search(
    mapping: Mapping, fused: Fused, spill: str, limits: Evaluation | None
) -> tuple[dict[Pair, Choice], np.ndarray, int]:
    """The best choice of each pair of stationarities, and which pair is best at each point."""
    wider = with_candidate_axis(mapping)
    table = divisor_table(mapping.shape[fused.first.rows])
    masks = np.arange(2 ** len(KEPT))
    rows = np.repeat(table, len(masks), axis=-1)
    repeated = np.tile(masks, table.shape[-1])
    kept = {role: (repeated >> i & 1).astype(bool) for i, role in enumerate(KEPT)}
    choices, figures, tried = {}, [], []
    for qk in STATIONARITY:
        for av in STATIONARITY:
            phase = build(wider, fused, (qk, av), Choice(rows, kept), spill)
            tried.append(phase)
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

            choices[qk, av] = Choice(pick(rows), {r: pick(m) for r, m in kept.items()})
            figures.append([pick(v) for v in criteria])
    columns = np.moveaxis(np.asarray(figures), 0, -1)
    index = _first(*columns)
    lost = np.all(np.isnan(columns[0]), axis=-1)
    if np.any(lost):  # the mapping that lacks the least room says why
        needed = [room_bytes(wider, p) for p in tried]
        shape = np.broadcast_shapes(rows.shape, *(np.shape(room) for room in needed))
        rooms = np.stack([np.broadcast_to(room, shape) for room in needed])
        index = np.where(lost, np.argmin(rooms.min(axis=-1), axis=0), index)
        for room, (pair, choice) in zip(rooms, choices.items(), strict=True):
            at = np.argmin(room, axis=-1)[..., None]

            def least(own: Number, values: Number, at: np.ndarray = at) -> Number:
                full = np.broadcast_to(values, shape)
                return np.where(lost, np.take_along_axis(full, at, -1)[..., 0], own)

            kept_then = {role: least(choice.kept[role], mask) for role, mask in kept.items()}
            choices[pair] = Choice(least(choice.rows, rows), kept_then)
    return choices, index, len(choices) * rows.shape[-1]


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
    mapping: Mapping, fused: Fused, source: str | Path | Pinned, base: Path | None
) -> tuple[dict[Pair, Choice], np.ndarray]:
    """One choice a pair of stationarities that occurs, each holding at the points that name it."""
    names = fused.tensors
    points = np.broadcast_shapes(*(np.shape(v) for v in mapping.shape.values())) or (1,)
    if isinstance(source, Path) and source.suffix in (".yaml", ".yml"):
        source = check(Pinned, read_yaml((base or Path()) / source))
    if isinstance(source, Pinned):
        source.check(names.values(), (fused.first.einsum, fused.second.einsum))
        pinned = [source] * int(np.prod(points))
    else:
        products = (fused.first.einsum, fused.second.einsum)
        pinned = read_table(source, base, mapping, points, products, tuple(names.values()))
    every = np.broadcast_to(mapping.shape[fused.first.rows], points)
    rows = np.array([p.row_tile or 0 for p in pinned], dtype=np.float64).reshape(points)
    choice = Choice(
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


def _note(mapping: Mapping, fused: Fused, pair: Pair, choice: Choice) -> np.ndarray:
    text = np.char.add(choice.rows.astype(np.int64).astype(str), " rows at a time, ")
    first, second = fused.first.einsum, fused.second.einsum
    text = np.char.add(text, f"{first} {pair[0]}- and {second} {pair[1]}-stationary, kept:")
    for role, name in fused.tensors.items():
        text = np.char.add(text, np.where(choice.kept[role], f" {name}", ""))
    some = np.any([np.asarray(kept) for kept in choice.kept.values()], axis=0)
    text = np.char.add(text, np.where(some, "", " nothing"))
    result: np.ndarray = text.astype(object)
    return result


__all__ = ["Options", "place"]
