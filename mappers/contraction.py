"""The best mapping of one matrix product on a 2D array, by exhaustive search of a stated space.

Z[rows, columns] = sum over k of X[rows, k] * W[columns, k]. The space:

- stationarity: which of the three tensors stays in the PEs (output, input = X, weight = W);
- the outermost loop runs over tiles of rows (of X: queries, tokens), every divisor of their number;
  with `order: any` also over tiles of columns;
- X kept in the buffer for a row tile or not, W kept whole or fetched again for every row tile;
- operands are staged in the buffer; finished results leave for the outermost memory.

On an array of R x C PEs, output-stationary has the columns of W on the R rows and the rows of X on
the C columns, input-stationary k and the rows of X, weight-stationary k and the columns of W. With
all rows in one tile these are SCALE-Sim's loops (output-stationary: those of the transposed
product, which `order: any` turns back), so serialized folds cost what it reports. Row tiles cut
what a weight-stationary nest streams into shorter folds; the search decides what that is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from archs import Architecture
from einsum_cascade import Cascade
from mappers.factors import divisor_table
from mappers.roles import Product, arrays, split, tiles
from sim import (
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
)
from sim.mapping import Mask, Number

Order = Literal["rows", "any"]
Objective = Literal["edp", "latency_s", "energy_pj", "traffic_bytes"]
Stationary = Literal["any", "output", "input", "weight"]
FoldKind = Literal["pipelined", "serialized"]
STATIONARITY = ("output", "input", "weight")
_TURNED = {"output": "output", "input": "weight", "weight": "input"}  # X and W change places


@dataclass(frozen=True)
class Choice:
    """What is chosen beside the stationarity: rows of an outer tile, in tiles; what is kept."""

    row_tiles: Number
    keep_x: Mask
    keep_w: Mask


def search(
    mapping: Mapping,
    product: Product,
    order: Order,
    objective: Objective,
    folds: FoldKind = "pipelined",
    stationary: Stationary = "any",
) -> tuple[PhaseChoice, np.ndarray, int]:
    """The best phase for every design point, of one stationarity or of all three.

    Returns it with a text for each point that says what was chosen, and the number of candidates
    that were evaluated for each point.
    """
    wider = with_candidate_axis(mapping)
    variants = [product] if order == "rows" else [product, _transposed(product)]
    phases, notes, scores, evaluated = [], [], [], 0
    for variant in variants:
        _, across = _sides(wider, variant)
        rows = np.asarray(mapping.shape[variant.rows], dtype=np.float64)
        table = divisor_table(tiles(rows, np.asarray(across)[..., 0]))
        counts = np.repeat(table, 4, axis=-1)
        kept = np.tile(np.arange(4), table.shape[-1])
        trial = Choice(counts, (kept & 1).astype(bool), (kept & 2).astype(bool))
        for role in STATIONARITY:
            held = role if variant is product else _TURNED[role]
            if stationary not in ("any", held):
                continue
            phase = build(wider, variant, role, trial, folds)
            found = evaluate_phase(wider, phase, explain=False)
            score = score_of(found, objective)
            best = np.argmin(score, axis=-1)
            scores.append(np.take_along_axis(score, best[..., None], -1)[..., 0])
            evaluated += counts.shape[-1]
            chosen = Choice(
                np.take_along_axis(np.broadcast_to(counts, score.shape), best[..., None], -1)[
                    ..., 0
                ],
                trial.keep_x[best],
                trial.keep_w[best],
            )
            phases.append(build(mapping, variant, role, chosen, folds))
            notes.append(_note(variant, held, chosen))
    index = np.argmin(np.stack(scores), axis=0)
    return PhaseChoice(tuple(phases), index), np.choose(index, notes), evaluated


def score_of(evaluation: Evaluation, objective: Objective) -> np.ndarray:
    """What is minimized; infinite where a candidate cannot be. Ties go to less energy."""
    if objective == "edp":
        score = evaluation.latency_s * evaluation.energy_pj
    else:
        score = getattr(evaluation, objective)
    score = score * (1 + 1e-9 * evaluation.energy_pj / np.nanmax(evaluation.energy_pj, initial=1.0))
    result: np.ndarray = np.where(np.isnan(score), np.inf, score)
    return result


def with_candidate_axis(mapping: Mapping) -> Mapping:
    """The same points with a new last axis, along which candidates are compared."""
    return replace(
        mapping,
        architecture=mapping.architecture.with_numbers(lambda n: np.asarray(n)[..., None]),
        shape={k: np.asarray(v)[..., None] for k, v in mapping.shape.items()},
        phases=(),
    )


def _transposed(p: Product) -> Product:
    return replace(p, x=p.w, w=p.x, rows=p.columns, columns=p.rows)


def _sides(mapping: Mapping, p: Product) -> tuple[Number, Number]:
    """Extents of the array, cut to those of the ranks: for the first dimension and for rows."""
    two, _ = arrays(mapping.architecture, "unfused")
    return two.shape[0], np.minimum(two.shape[1], mapping.shape[p.rows])


def build(
    mapping: Mapping,
    p: Product,
    stationary: str,
    choice: Choice,
    folds: FoldKind = "pipelined",
) -> Phase:
    """The loop nest of one candidate (or of an array of candidates)."""
    architecture, shape = mapping.architecture, mapping.shape
    two, _ = arrays(architecture, "unfused")
    outermost, buffer = (m.name for m in architecture.memories[:2])
    r, c, k = p.rows, p.columns, p.contracted
    side = two.shape[0]
    r0 = np.minimum(two.shape[1], shape[r])
    count = tiles(shape[r], r0)
    batch = tuple(Loop(b, b, shape[b]) for b in p.batch)
    row_tile = Loop(f"{r}2", r, tiles(count, choice.row_tiles))
    r1 = Loop(f"{r}1", r, choice.row_tiles)
    rows0 = Loop(f"{r}0", r, r0, True)
    c0, k0 = np.minimum(side, shape[c]), np.minimum(side, shape[k])
    c1, k1 = Loop(f"{c}1", c, tiles(shape[c], c0)), Loop(f"{k}1", k, tiles(shape[k], k0))
    whole = p.batch[-1] if p.batch else None
    several = np.asarray(k1.extent) > 1
    in_tile = Tile(buffer, row_tile.name)
    keep_x, keep_w = np.asarray(choice.keep_x), np.asarray(choice.keep_w)
    z: tuple[Option, ...] = always(outermost)
    inner: tuple[Loop, ...]
    if stationary == "output":
        inner = (c1, r1, Loop(k, k, shape[k]))
        spatial = (Loop(f"{c}0", c, c0, True), rows0)
        x = _either(outermost, keep_x, (in_tile,), (Tile(buffer, r1.name),))
        w = _either(outermost, keep_w, (Tile(buffer, whole),), (Tile(buffer, c1.name),))
    elif stationary == "input":
        inner = (k1, r1, Loop(c, c, shape[c]))
        spatial = (Loop(f"{k}0", k, k0, True), rows0)
        x = _either(outermost, keep_x, (in_tile,), (Tile(buffer, r1.name),))
        w = _either(outermost, keep_w, (Tile(buffer, whole),), (Tile(buffer, k1.name),))
        z = _either(outermost, several, (in_tile,), ())
    else:
        cross = np.minimum(two.shape[1], shape[c])
        # a serialized fold ends with its last row; pipelined ones stream whole wavefronts of rows
        each = tiles(shape[r], row_tile.extent)
        stream = ((f"{r}1", choice.row_tiles), (f"{r}t", r0))
        if folds == "serialized":
            stream = ((f"{r}1", each), (f"{r}t", 1.0))
        inner = (
            Loop(f"{c}1", c, tiles(shape[c], cross)),
            k1,
            *split(r, *stream),
        )
        spatial = (Loop(f"{k}0", k, k0, True), Loop(f"{c}0", c, cross, True))
        x = _either(outermost, keep_x, (in_tile,), (Tile(buffer, f"{r}1"),))
        w = _either(outermost, keep_w, (Tile(buffer, whole),), (Tile(buffer, k1.name),))
        z = _either(outermost, several, (Tile(buffer, f"{c}1"),), ())
    nest = EinsumMapping(p.einsum, two.name, (*batch, row_tile, *inner, *spatial), folds=folds)
    return Phase(p.einsum, (nest,), {p.x: x, p.w: w, p.z: z})


def _either(
    home: str, when: Mask, tiles_then: Sequence[Tile], tiles_else: Sequence[Tile]
) -> tuple[Option, ...]:
    return (
        Option(when, Residency(home, tuple(tiles_then))),
        Option(~when, Residency(home, tuple(tiles_else))),
    )


def _note(p: Product, stationary: str, choice: Choice) -> np.ndarray:
    words = np.char.add(
        f"{p.einsum}: {stationary}-stationary, ",
        np.char.add(choice.row_tiles.astype(np.int64).astype(str), f" tiles of {p.rows} at a time"),
    )
    words = np.char.add(words, np.where(choice.keep_x, f", {p.x} kept", ""))
    words = np.char.add(words, np.where(choice.keep_w, f", {p.w} kept", ""))
    result: np.ndarray = words.astype(object)
    return result


def is_on(architecture: Architecture, cascade: Cascade, p: Product) -> bool:
    """Whether the 2D array can compute the product."""
    two, _ = arrays(architecture, "unfused")
    return "mac" in two.operations and cascade.einsum(p.einsum).operations == {"mac": 1}
