"""A layer of experts in NumPy, in two orders: patch by patch, and expert by expert with queues.

Source: Edge-MoE (Sarkar et al., ICCAD 2023, arXiv 2305.18691), its published code, src/moe.cpp. The
orders give the same results (but for rounding) and read an expert's weights differently often.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from workloads.reference.layers import gelu
from workloads.reference.proof import Array, Arrays, Extents, Proof
from workloads.reference.softmax import softmax


class Experts(NamedTuple):
    """Results [T,N], how many tokens each expert got [X], and how often experts were read."""

    results: Array
    loads: Array
    reads: int


def route(inputs: Arrays, topk: int) -> tuple[Array, Array]:
    """Experts [T,topk] of each token, best first, and their weights, of a softmax over all."""
    weights = softmax(inputs["A"] @ inputs["W"])
    chosen = np.argsort(-weights, axis=1, kind="stable")[:, :topk]
    return chosen, np.take_along_axis(weights, chosen, axis=1)


def unnormalized_router(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Gates [T,X], 0 where an expert is not chosen."""
    chosen, weights = route(inputs, shape["TOPK"])
    gates = np.zeros((len(chosen), inputs["W"].shape[1]))
    np.put_along_axis(gates, chosen, weights, axis=1)
    return {"G": gates}


def patch_by_patch(inputs: Arrays, topk: int) -> Experts:
    """Every token through its experts, one after the other: an expert is read for each token."""
    chosen, weights = route(inputs, topk)
    results = np.zeros((len(chosen), inputs["W2"].shape[2]))
    for token, x in np.ndindex(chosen.shape):
        expert = chosen[token, x]
        results[token] += weights[token, x] * _expert(inputs, expert, inputs["A"][token])
    return Experts(results, _loads(chosen, inputs), chosen.size)


def expert_by_expert(inputs: Arrays, topk: int) -> Experts:
    """Tokens in queues, one queue an expert: each expert with tokens is read once, others never."""
    chosen, weights = route(inputs, topk)
    loads = _loads(chosen, inputs)
    results = np.zeros((len(chosen), inputs["W2"].shape[2]))
    metaqueue = np.flatnonzero(loads)
    for expert in metaqueue:
        queue, place = np.nonzero(chosen == expert)
        scores = weights[queue, place]
        results[queue] += scores[:, None] * _expert(inputs, expert, inputs["A"][queue])
    return Experts(results, loads, len(metaqueue))


def gathered(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """One expert's hidden features of the tokens in its queue, token by token."""
    rows = [inputs["A"][token] @ inputs["W"] for token in inputs["ID"]]
    return gelu({"X": np.stack(rows)}, shape)


def scattered(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """The sums of all tokens, one expert's results added at its tokens; of these, the queue's."""
    sums = inputs["X"].copy()
    for row, token in enumerate(inputs["ID"]):
        sums[token] += inputs["G"][row] * (inputs["A"][row] @ inputs["W"])
    return {"Y": sums[inputs["ID"]]}


def _expert(inputs: Arrays, expert: Any, rows: Array) -> Array:
    hidden = gelu({"X": rows @ inputs["W1"][expert] + inputs["B1"][expert]}, {})["Y"]
    return np.asarray(hidden @ inputs["W2"][expert] + inputs["B2"][expert])


def _loads(chosen: Array, inputs: Arrays) -> Array:
    return np.bincount(chosen.ravel(), minlength=inputs["W"].shape[1])


def _shape(ranks: str) -> Callable[[np.random.Generator], dict[str, int]]:
    def draw(g: np.random.Generator) -> dict[str, int]:
        shape = {rank: int(g.integers(1, 7)) for rank in ranks}
        return {**shape, "TOPK": int(g.integers(1, shape["X"] + 1))}

    return draw


def layer_inputs(g: np.random.Generator, shape: Extents, magnitude: float) -> dict[str, Array]:
    """Normal inputs of a layer with the extents T, D, X and S."""
    t, d, x, s = (shape[rank] for rank in "TDXS")
    sizes = {"A": (t, d), "W": (d, x), "W1": (x, d, s), "B1": (x, s), "W2": (x, s, d), "B2": (x, d)}
    return {name: g.normal(size=size) * magnitude for name, size in sizes.items()}


def _router_inputs(g: np.random.Generator, shape: Extents, magnitude: float) -> dict[str, Array]:
    found = layer_inputs(g, {**shape, "S": 1}, magnitude)
    return {name: found[name] for name in "AW"}


def _queue_shape(g: np.random.Generator) -> dict[str, int]:
    shape = {rank: int(g.integers(1, 7)) for rank in "TKN"}
    return {**shape, "R": int(g.integers(1, shape["T"] + 1))}


def _queue_inputs(
    **ranks: str,
) -> Callable[[np.random.Generator, Extents, float], dict[str, Array]]:
    """Normal inputs, each given with the letters of its ranks, and a queue without repetitions."""

    def draw(g: np.random.Generator, shape: Extents, magnitude: float) -> dict[str, Array]:
        drawn = {
            name: g.normal(size=[shape[rank] for rank in letters]) * magnitude
            for name, letters in ranks.items()
        }
        return drawn | {"ID": g.permutation(shape["T"])[: shape["R"]]}

    return draw


PROOFS = {
    "expert-gather-linear-gelu": Proof(
        _queue_shape, _queue_inputs(A="TK", W="KN"), gathered, stable=True
    ),
    "expert-scatter-linear": Proof(
        _queue_shape, _queue_inputs(A="RK", W="KN", X="TN", G="R"), scattered
    ),
    "online-router": Proof(_shape("TDX"), _router_inputs, unnormalized_router, stable=True),
    "unnormalized-router": Proof(_shape("TDX"), _router_inputs, unnormalized_router, stable=True),
    "moe-layer": Proof(
        _shape("TDXS"), layer_inputs, lambda i, s: {"Y": patch_by_patch(i, s["TOPK"]).results}
    ),
}
