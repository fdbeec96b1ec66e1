"""One kernel after the other, each with the best mapping of its own.

Matrix products run on the 2D array, each mapped by the search of `mappers.contraction`. What stands
between two of them runs on the 1D array as one kernel, row by row: it loads one fiber, keeps it for
all its passes, and writes its results back; a fiber that does not fit is loaded again pass by pass.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from archs import Architecture
from einsum_cascade import Cascade, Einsum
from mappers.contraction import FoldKind, Objective, Order, Stationary, is_on, search
from mappers.registers import within_registers
from mappers.roles import arrays, as_product, handed_over, refuse, split, tiles
from sim import (
    IN_ARRAY,
    EinsumMapping,
    Loop,
    Mapping,
    Option,
    Phase,
    PhaseChoice,
    Residency,
    Tile,
    always,
    footprint_bytes,
)
from sim.accesses import analysis_of, computing, shown_tensor
from sim.mapping import Number

NAME = "unfused"


class Options(BaseModel):
    """`order`: which operand the outermost tiles are of; `objective`: what the search minimizes.

    With `order: rows` the outermost loop is over tiles of the first operand's rows (queries,
    tokens), as in the published evaluations; `any` also searches the transposed nests. `folds`:
    whether an array begins the next set of held values at once or when the last has ended entirely
    (`sim.folds`); `stationary` pins which tensor of a product is held: its output, its first
    operand (input) or its second (weight).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    order: Order = "rows"
    objective: Objective = "edp"
    folds: FoldKind = "pipelined"
    stationary: Stationary = "any"


def place(
    options: Options, cascade: Cascade, architecture: Architecture, shape: MappingABC[str, Number]
) -> Mapping:
    """Place a cascade without iterative ranks, kernel by kernel.

    Raises `InputError` for an iterative cascade: its Einsums are bound together tile by tile.
    """
    if cascade.iterative_ranks:
        raise refuse(cascade, NAME, "a cascade without an iterative rank")
    arrays(architecture, NAME)
    full = cascade.resolve_shape(shape)
    mapping = Mapping(cascade, architecture, {k: np.asarray(v) for k, v in full.items()}, ())
    phases: list[PhaseChoice] = []
    notes: list[Any] = []
    for kernel in _kernels(cascade, architecture):
        product = as_product(cascade, kernel[0])
        if product is not None and is_on(architecture, cascade, product):
            choice, note, evaluated = search(
                mapping,
                product,
                options.order,
                options.objective,
                options.folds,
                options.stationary,
            )
            phases.append(choice)
            notes.append(note + f" (best of {evaluated} by {options.objective})")
        else:
            phases.append(PhaseChoice((_row_kernel(mapping, kernel, options.folds),)))
    text: Any = notes[0] if notes else ""
    for note in notes[1:]:
        text = text + "; " + note
    return replace(mapping, phases=tuple(phases), notes=text)


def _kernels(cascade: Cascade, architecture: Architecture) -> list[list[Einsum]]:
    """Each product by itself, and what stands between two of them together."""
    kernels: list[list[Einsum]] = []
    open_kernel = False
    ordered = [e for e in cascade.order if e in computing(cascade)]
    for einsum in ordered:
        product = as_product(cascade, einsum)
        if product is not None and is_on(architecture, cascade, product):
            kernels.append([einsum])
            open_kernel = False
        elif open_kernel:
            kernels[-1].append(einsum)
        else:
            kernels.append([einsum])
            open_kernel = True
    return kernels


def _row_kernel(mapping: Mapping, kernel: list[Einsum], folds: FoldKind) -> Phase:
    """A chain on the 1D array, fused on the ranks over which all of it is in one pass."""
    cascade, architecture, shape = mapping.cascade, mapping.architecture, mapping.shape
    _, one = arrays(architecture, NAME)
    analysis = analysis_of(cascade)
    common = [r for r in kernel[0].ranks if all(r in e.ranks for e in kernel)]
    same_pass = [r for r in common if len({analysis.level(e.name, r) for e in kernel}) == 1]
    private = [r for r in kernel[0].ranks if r not in same_pass]
    if not (private or same_pass):
        between = f"{kernel[0].name} to {kernel[-1].name}" if len(kernel) > 1 else kernel[0].name
        raise refuse(cascade, NAME, f"a rank that it can spread over the 1D array in {between}")
    lanes = private[-1] if private else same_pass[-1]
    rows = [r for r in same_pass if r != lanes]
    shared = tuple(Loop(r, r, shape[r]) for r in rows)
    nests = []
    for einsum in kernel:
        own = [r for r in einsum.ranks if r not in rows and r != lanes]
        loops = (*shared, *(Loop(r, r, shape[r]) for r in own))
        if lanes in einsum.ranks:
            width = np.minimum(one.shape[0], shape[lanes])
            loops += split(lanes, (f"{lanes}1", tiles(shape[lanes], width)))
            loops += split(lanes, (f"{lanes}0", width), spatial=True)
        nests.append(
            EinsumMapping(einsum.name, one.name, loops, len(shared), "pipelined", folds=folds)
        )
    fiber = shared[-1].name if shared else None
    kept = _row_residency(mapping, kernel, nests, fiber, fits=np.True_)
    phase = Phase("-".join(e.name for e in kernel), tuple(nests), kept)
    memory = architecture.memories[1]
    fits = np.asarray(footprint_bytes(mapping, phase, memory.name) <= memory.size_bytes)
    phase = replace(phase, residency=_row_residency(mapping, kernel, nests, fiber, fits))
    outside = Residency(architecture.memories[0].name)
    return within_registers(
        mapping, phase, dict.fromkeys((e.output.tensor for e in kernel), outside)
    )


def _row_residency(
    mapping: Mapping,
    kernel: list[Einsum],
    nests: list[EinsumMapping],
    fiber: str | None,
    fits: Number,
) -> dict[str, tuple[Option, ...]]:
    cascade, architecture = mapping.cascade, mapping.architecture
    outermost, buffer = (m.name for m in architecture.memories[:2])
    array_of = {n.einsum: n.array for n in nests}
    result: dict[str, tuple[Option, ...]] = {}
    tile = Tile(buffer, fiber)
    for einsum in kernel:
        for access in (*einsum.operands, einsum.output):
            tensor = shown_tensor(cascade, access.tensor)
            made_here = tensor in array_of
            readers = [e.name for e in cascade.consumers[access.tensor]]
            if not made_here:
                here = sum(e in array_of for e in readers)
                reused = fits & np.bool_(here > 1)
                result[tensor] = (
                    Option(reused, Residency(outermost, (tile,))),
                    Option(~reused, Residency(outermost)),
                )
            elif not readers or any(e not in array_of for e in readers):
                result[tensor] = always(outermost)
            else:
                result[tensor] = _between(mapping, tensor, einsum, array_of, tile, fits)
    return result


def _between(
    mapping: Mapping,
    tensor: str,
    writer: Einsum,
    array_of: dict[str, str],
    tile: Tile,
    fits: Number,
) -> tuple[Option, ...]:
    """Where a kernel's own intermediate lives: in registers, in the buffer, or outside."""
    cascade, architecture = mapping.cascade, mapping.architecture
    outermost, buffer = (m.name for m in architecture.memories[:2])
    handed = handed_over(architecture, cascade, tensor, array_of)
    one_a_row = len(cascade.tensors[tensor].ranks) < len(writer.ranks)
    if one_a_row or {e.name for e in cascade.consumers[tensor]} <= handed:
        return always(IN_ARRAY)
    direct = frozenset(handed)
    return (
        Option(fits, Residency(buffer, (tile,), handed_to=direct)),
        Option(~fits, Residency(outermost, handed_to=direct)),
    )
