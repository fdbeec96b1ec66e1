"""Kernels that work row by row: linear layers, the router, patches, norms, element by element."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Mapping as MappingABC
from dataclasses import replace
from typing import Any

import numpy as np

from einsum_cascade import Access, Cascade, Einsum
from einsum_cascade.views import asked
from mappers.roles import refuse, supports, tiles
from mappers.template import (
    PIXEL,
    ROWS,
    WEIGHT,
    WEIGHTS,
    Template,
    direct,
    factors,
    is_product,
    lanes,
)
from sim import EinsumMapping, Loop, Option, Phase, Tile, always
from sim.accesses import analysis_of, computing, generation_ranks, shown_tensor, uses
from sim.mapping import Number

Shape = MappingABC[str, Number]


def columns_of(cascade: Cascade, mapper: str, product: Einsum) -> str:
    """The rank of a matrix product's result that its weights have.

    Raises `InputError` where they have none.
    """
    _, weights = _sides(product)
    own = [r for r in product.ranks if r.lower() in weights.variables]
    own = [r for r in own if r not in product.reduction_ranks]
    if not own:
        raise refuse(cascade, mapper, _MATRICES)
    return own[0]


_MATRICES = "a product of two matrices: rows, columns, one sum"


def linear(template: Template, cascade: Cascade, shape: Shape, options: Any) -> tuple[Phase, ...]:
    """Rows one by one through all blocks of weights, and what follows on each block of results.

    Weights of an expert, whose rows are gathered, come while another kernel computes; those of
    other layers come ahead, or likewise. An expert's may also come for every row anew.
    """
    product = _product(cascade)
    _, weights = _sides(product)
    r, n, k = _matrix(cascade, template, product)
    unit = template.unit("linear")
    n1, n0 = lanes(n, shape[n], unit.shape[1])
    k1, k0 = lanes(k, shape[k], unit.shape[0])
    shared = (Loop(r, r, shape[r]), n1)
    nests = [EinsumMapping(product.name, unit.name, (*shared, k1, k0, n0), len(shared))]
    loops: tuple[Loop, ...]
    for einsum in _computed(cascade):
        if einsum is product:
            continue
        if _replaced(cascade, einsum.output.tensor) is not None:
            other = template.unit("results")
            width = np.minimum(other.shape[0], n0.extent)
            block = (Loop(f"{n}b", n, tiles(n0.extent, width)), Loop(f"{n}0", n, width, True))
            loops = (*shared, *block)
        else:
            other = template.unit("activation")
            loops = (*shared, n0)
        depth = len([lp for lp in loops if not lp.spatial])
        nests.append(EinsumMapping(einsum.name, other.name, loops, depth))
    expert = _is_expert(cascade)
    by_patch = expert and options.experts == "patch-by-patch"
    ahead = options.loads == "serial" or (options.loads == "experts" and not expert)
    matrix = Tile(WEIGHTS, r if by_patch else None, copies=2, retain=not by_patch)  # ping, pong
    held = shown_tensor(cascade, weights.tensor)
    fixed = {held: always(template.outermost, matrix)}
    phase = Phase("linear", tuple(nests), {})
    early = frozenset({held} if ahead else ())
    return (_kept(template, cascade, phase, Tile(ROWS, r), fixed, early),)


def router(template: Template, cascade: Cascade, shape: Shape, options: Any) -> tuple[Phase, ...]:
    """A token's features, logits, their statistic, who is chosen, weights: one after the other."""
    product = _product(cascade)
    tokens, weights = _sides(product)
    t, x, d = _matrix(cascade, template, product)
    token = Loop(t, t, shape[t])
    analysis = analysis_of(cascade)
    last = max(analysis.level(e.name, x) for e in _computed(cascade) if x in e.ranks)
    ranked = {read.tensor for e in _computed(cascade) for read in asked(cascade, e)}
    steps: dict[str, list[str]] = {}
    nests = []
    for einsum in _computed(cascade):
        others = tuple(Loop(r, r, shape[r]) for r in einsum.ranks if r not in (t, x, d))
        level = analysis.level(einsum.name, x) if x in einsum.ranks else 1
        if einsum is product:
            unit = template.unit("gate_logits")
            d1, d0 = lanes(d, shape[d], unit.shape[0])
            x1, x0 = lanes(x, shape[x], unit.shape[1])
            nests.append(EinsumMapping(einsum.name, unit.name, (token, x1, d1, d0, x0), 1))
        elif others or einsum.output.tensor in ranked:
            unit = template.unit("gate_ranking")
            x1, x0 = lanes(x, shape[x], unit.shape[0])
            loops = (token, replace(x1, name=f"{x}1:{unit.name}"), *others)
            nests.append(EinsumMapping(einsum.name, unit.name, (*loops, x0), len(loops)))
        else:
            unit = template.unit("gate_weights" if level == last else "gate_statistics")
            own = (Loop(f"{x}:{level}", x, shape[x]),) if x in einsum.ranks else ()
            nests.append(EinsumMapping(einsum.name, unit.name, (token, *own), 1 + len(own)))
        steps.setdefault(unit.name, []).append(einsum.name)
    held = shown_tensor(cascade, weights.tensor)
    fixed = {held: always(template.outermost, Tile(WEIGHTS, None))}
    early = () if options.loads == "overlapped" else (held,)
    ahead = frozenset({*early, shown_tensor(cascade, tokens.tensor)})
    phase = Phase("router", tuple(replace(m, restarts=t) for m in nests), {})
    phase = replace(phase, steps=tuple(tuple(names) for names in steps.values()))
    return (_kept(template, cascade, phase, Tile(ROWS, t), fixed, ahead),)


def patches(template: Template, cascade: Cascade, shape: Shape, options: Any) -> tuple[Phase, ...]:
    """A row of patches at a time: their pixels, beat by beat, times all features.

    Several patches share a beat. Where a row is a single patch (a grid that is given as a column),
    as many as that are taken for a row.
    """
    product = _product(cascade)
    pixels, weights = _sides(product)
    windows = [i.variables for i in pixels.indices if len(i.variables) > 1]
    if len(windows) != 2:
        raise refuse(cascade, template.mapper, "patches of two dimensions")
    unit = template.unit("patches")
    (y, i), (x, j) = (_ordered(product, pair) for pair in windows)
    d = columns_of(cascade, template.mapper, product)
    outer = [r for r in product.ranks if r not in (y, i, x, j, d, *product.reduction_ranks)]
    inner = [r for r in product.reduction_ranks if r not in (i, j)]
    in_column = bool(np.all(np.asarray(shape[x]) == 1))
    along, other = (y, x) if in_column else (x, y)
    near = np.minimum(unit.shape[1], shape[along])
    block = near if in_column else shape[along]
    row = Loop(f"{along}2", along, tiles(shape[along], block))
    shared = (*(Loop(r, r, shape[r]) for r in (*outer, other)), row)
    d1, d0 = lanes(d, shape[d], unit.shape[0])
    j1, j0 = lanes(j, shape[j], unit.shape[2])
    near1 = Loop(f"{along}1", along, tiles(block, near))
    own = (*(Loop(r, r, shape[r]) for r in (*inner, i)), j1, near1, d1)
    spread = (d0, Loop(f"{along}0", along, near, True), j0)
    loops = (*shared, *own, *spread)
    nests = [EinsumMapping(product.name, unit.name, loops, len(shared), restarts=row.name)]
    for einsum in _computed(cascade):
        if einsum is not product:
            adder = template.unit("elementwise")
            d1, d0 = lanes(d, shape[d], adder.shape[0])
            loops = (*shared, Loop(f"{along}t", along, block), d1, d0)
            nests.append(EinsumMapping(einsum.name, adder.name, loops, len(shared)))
    held, read = (shown_tensor(cascade, a.tensor) for a in (weights, pixels))
    fixed = {
        held: always(template.outermost, Tile(WEIGHTS, None)),
        read: always(template.outermost, Tile(ROWS, near1.name)),
    }
    phase = Phase("patches", tuple(nests), {})
    ahead = frozenset({held} if options.loads == "serial" else ())
    return (_kept(template, cascade, phase, Tile(ROWS, row.name), fixed, ahead, {read: PIXEL}),)


def norm(template: Template, cascade: Cascade, shape: Shape, options: Any) -> tuple[Phase, ...]:
    """Row by row: its sums in one unit, pass after pass, and what needs all of them in another."""
    analysis = analysis_of(cascade)
    ranks = [r for e in _computed(cascade) for r in e.ranks]
    d = next(r for r in ranks if any(analysis.level(e.name, r) > 1 for e in _computed(cascade)))
    rows = list(dict.fromkeys(r for r in ranks if r != d))
    shared = tuple(Loop(r, r, shape[r]) for r in rows)
    last = max(analysis.level(e.name, d) for e in _computed(cascade))
    nests = []
    for einsum in _computed(cascade):
        level = analysis.level(einsum.name, d) if d in einsum.ranks else last
        unit = template.unit("norm_output" if level == last else "norm_sums")
        if set(rows) - set(einsum.ranks):
            raise refuse(cascade, template.mapper, "a norm of rows, nothing shared between them")
        loops = shared
        if d in einsum.ranks:
            time, wide = lanes(d, shape[d], unit.shape[0])
            loops = (*shared, replace(time, name=f"{d}1:{level}"), wide)
        depth = len([lp for lp in loops if not lp.spatial])
        place = shared[-1].name if shared else None
        nests.append(EinsumMapping(einsum.name, unit.name, loops, depth, restarts=place))
    phase = Phase("norm", tuple(nests), {})
    row = Tile(ROWS, shared[-1].name if shared else None)
    return (_kept(template, cascade, phase, row, {}),)


def elementwise(
    template: Template, cascade: Cascade, shape: Shape, options: Any
) -> tuple[Phase, ...]:
    """Beat by beat. A sum of two tensors of one shape takes the place of the first.

    A function that needs more than sums and products is one for the unit of activations.
    """
    unit = template.unit("elementwise")
    if not all(supports(unit, einsum) for einsum in _computed(cascade)):
        unit = template.unit("activation")
    first = _computed(cascade)[0]
    ranks = list(first.ranks)
    if any(list(e.ranks) != ranks or e.reduction_ranks for e in _computed(cascade)) or not ranks:
        raise refuse(cascade, template.mapper, "Einsums over the same ranks that sum nothing")
    time, wide = lanes(ranks[-1], shape[ranks[-1]], unit.shape[0])
    loops = (*(Loop(r, r, shape[r]) for r in ranks[:-1]), time)
    nests = [
        EinsumMapping(e.name, unit.name, (*loops, wide), len(loops)) for e in _computed(cascade)
    ]
    phase = Phase("elementwise", tuple(nests), {})
    row = Tile(ROWS, ranks[-2] if len(ranks) > 1 else None)
    return (_kept(template, cascade, phase, row, {}),)


def _kept(
    template: Template,
    cascade: Cascade,
    phase: Phase,
    row: Tile,
    fixed: MappingABC[str, tuple[Option, ...]],
    ahead: frozenset[str] = frozenset(),
    formats: MappingABC[str, str] | None = None,
) -> Phase:
    """The phase with its residencies: a row at a time on chip, and what is the same for all rows.

    `fixed` are those that the kernel has settled. Inputs that no row moves are weights.
    """
    rows = {lp.rank for m in phase.einsums for lp in m.loops if row.below == lp.name}
    nests = {m.einsum: m for m in phase.einsums}
    kept: dict[str, tuple[Option, ...]] = {}
    forms = dict(formats or {})
    for use in uses(cascade, phase):
        tensor = use.tensor
        if tensor in kept:
            continue
        role = cascade.tensors[tensor].role
        if role == "input" and not use.ranks & rows:
            forms.setdefault(tensor, WEIGHT)
        if tensor in fixed:
            kept[tensor] = fixed[tensor]
        elif role == "input":
            kept[tensor] = always(
                template.outermost, row if use.ranks & rows else Tile(WEIGHTS, None)
            )
        elif role == "output":
            kept[tensor] = always(template.outermost, in_place_of=_replaced(cascade, tensor))
        else:
            readers = [e.name for e in cascade.consumers[tensor]]
            writer = next(nests[e.name] for e in cascade.producers[tensor] if e.name in nests)
            straight = all(template.beside(writer, nests[name]) for name in readers)
            running = bool(generation_ranks(cascade, tensor))
            kept[tensor] = direct() if straight and not running else always(ROWS, row)
    return template.finished(cascade, replace(phase, residency=kept), forms, ahead)


def _replaced(cascade: Cascade, tensor: str) -> str | None:
    """The input that a result is added to, and whose place it takes."""
    for einsum in cascade.producers[tensor]:
        alike = [a for a in factors(einsum) if set(a.variables) == set(einsum.output.variables)]
        names = [shown_tensor(cascade, a.tensor) for a in alike]
        inputs = [name for name in names if cascade.tensors[name].role == "input"]
        if inputs and len(alike) > 1 and einsum.operations.get("add"):
            return inputs[0]
    return None


def _computed(cascade: Cascade) -> list[Einsum]:
    return [e for e in cascade.order if e in computing(cascade)]


def _product(cascade: Cascade) -> Einsum:
    return next(e for e in _computed(cascade) if is_product(e))


def _sides(product: Einsum) -> tuple[Access, Access]:
    """The operand that varies with the rows, and the weights: no row moves these."""
    one, other = factors(product)
    mine, theirs = (set(a.variables) & set(product.output.variables) for a in (one, other))
    if len(mine) == len(theirs) == 0:
        return one, other
    rows = [v for v in product.output.variables]
    return (one, other) if rows[0] in mine else (other, one)


def _matrix(cascade: Cascade, template: Template, product: Einsum) -> tuple[str, str, str]:
    """The ranks of a product of matrices: of its rows, its columns, and its sum.

    Raises `InputError` where there is not one of each.
    """
    columns = columns_of(cascade, template.mapper, product)
    rows = [r for r in product.ranks if r != columns and r not in product.reduction_ranks]
    if len(rows) != 1 or len(product.reduction_ranks) != 1:
        raise refuse(cascade, template.mapper, _MATRICES)
    return rows[0], columns, product.reduction_ranks[0]


def _ordered(product: Einsum, pair: Collection[str]) -> tuple[str, str]:
    """Of the two ranks of a window, the one that the result keeps first."""
    kept = [v for v in pair if v in product.output.variables]
    summed = [v for v in pair if v not in product.output.variables]
    return kept[0].upper(), summed[0].upper()


def _is_expert(cascade: Cascade) -> bool:
    """Whether rows are gathered: only some of them come here."""
    return any(a.gathers for e in _computed(cascade) for a in e.operands)
