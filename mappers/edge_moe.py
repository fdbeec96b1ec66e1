"""Edge-MoE's kernels on an FPGA template (Sarkar et al., ICCAD 2023, and its published code).

A layer runs kernel by kernel, each on the units made for it; between two kernels everything is in
the outermost memory. What a kernel is follows from its cascade: attention, a linear layer (of an
expert, where its rows are gathered), the router of experts, patches, a norm, or element by element.
The units have fixed names: patches, linear, activation, results, scores, statistics, exponentials,
values, norm_sums, norm_output, gate_logits, gate_statistics, gate_ranking, gate_weights,
elementwise; the memories on chip are weights and rows.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as MappingABC
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from archs import Architecture
from einsum_cascade import Cascade, Einsum
from mappers import edge_moe_attention as attention
from mappers import edge_moe_rows as rows
from mappers.roles import refuse
from mappers.template import Template, is_product
from sim import Mapping, Phase, PhaseChoice
from sim.accesses import analysis_of, computing
from sim.mapping import Number

NAME = "edge_moe"
WHOLE_NETWORK = True
"""It places all kernels of a network, not attention alone."""


class Options(BaseModel):
    """The techniques of the paper that are a matter of mapping, each to be switched off.

    `reordering`: rows of queries in parallel, so that one row of keys at a time serves all of them;
    without it, rows of keys in parallel for one query. `softmax`: with the products as far as
    passes allow, or every pass of it as a kernel of its own. `experts`: all tokens of an expert one
    after the other, or each token with the experts it goes to, whose weights it brings. `loads`:
    which matrices of weights come while a kernel computes: of linear layers those of experts alone
    (as in the published code), all (`overlapped`), or none (`serial`). The router's come ahead with
    the first, and those of patches alongside, unless all, or none, do.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    reordering: bool = True
    softmax: Literal["fused", "separate"] = "fused"
    experts: Literal["expert-by-expert", "patch-by-patch"] = "expert-by-expert"
    loads: Literal["experts", "overlapped", "serial"] = "experts"


def place(
    options: Options, cascade: Cascade, architecture: Architecture, shape: MappingABC[str, Number]
) -> Mapping:
    """Place one kernel.

    Raises `InputError` for a cascade that is none of these kernels, and for an architecture without
    the units that it needs.
    """
    template = Template(architecture, NAME)
    kind = _kind(cascade)
    shown = [e for e in cascade.einsums if e.is_view and not cascade.consumers[e.output.tensor]]
    if shown:
        name = shown[0].output.tensor
        raise refuse(cascade, NAME, f"results that are computed, and {name} is a view")
    given = dict(shape)
    for rank in cascade.ranks.values():  # keys come one by one: a tile of them is a single one
        inner = rank.partition[1:] if kind is attention.phases else ()
        for part in inner:
            if rank.name in given and not {*rank.partition} & given.keys():
                given[part] = 1
    full = {k: np.asarray(v) for k, v in cascade.resolve_shape(given).items()}
    phases = kind(template, cascade, full, options)
    return Mapping(cascade, architecture, full, tuple(PhaseChoice((p,)) for p in phases))


def _kind(cascade: Cascade) -> Callable[[Template, Cascade, Any, Any], tuple[Phase, ...]]:
    """What places a cascade, from its structure."""
    einsums = [e for e in cascade.order if e in computing(cascade)]
    products = [e for e in einsums if is_product(e)]
    if attention.is_attention(cascade, products):
        return attention.phases
    if len(products) == 1:
        product = products[0]
        if any(len(i.variables) > 1 for a in product.operands for i in a.indices if not a.gathers):
            return rows.patches
        columns = rows.columns_of(cascade, NAME, product)
        return rows.router if _passes(cascade, einsums, columns) > 1 else rows.linear
    if products:
        raise refuse(cascade, NAME, "attention, or one product of matrices at most")
    ranks = {rank for e in einsums for rank in e.ranks}
    if any(_passes(cascade, einsums, rank) > 1 for rank in ranks):
        return rows.norm
    return rows.elementwise


def _passes(cascade: Cascade, einsums: list[Einsum], rank: str) -> int:
    analysis = analysis_of(cascade)
    return max((analysis.level(e.name, rank) for e in einsums if rank in e.ranks), default=0)
