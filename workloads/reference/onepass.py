"""Softmax attention by other algorithms, and attention without a softmax, in NumPy."""

from __future__ import annotations

import numpy as np

from workloads.reference.proof import Array, Arrays, Extents, Proof
from workloads.reference.softmax import attention, random_inputs


def _shape(generator: np.random.Generator) -> dict[str, int]:
    return {rank: int(generator.integers(1, 6)) for rank in "BHPMEF"}


def _tiled(generator: np.random.Generator) -> dict[str, int]:
    tiles, keys = (int(n) for n in generator.integers(1, 5, 2))
    return {**_shape(generator), "M": tiles * keys, "M0": keys}


def _gated_shape(generator: np.random.Generator) -> dict[str, int]:
    return {**_tiled(generator), "D": int(generator.integers(1, 6))}


def _causal(generator: np.random.Generator) -> dict[str, int]:
    shape = _shape(generator)
    return {**shape, "M": shape["P"] + int(generator.integers(0, 4))}


def _exact(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    return {"AV": attention(inputs["Q"], inputs["K"], inputs["V"])}


def _with_constant(
    generator: np.random.Generator, shape: Extents, magnitude: float
) -> dict[str, Array]:
    found = random_inputs(generator, shape, magnitude)
    # a narrow range, so that some rows fall back at any magnitude
    return found | {"PHI": np.asarray(0.5), "RANGE": np.asarray(2.0)}


def _with_bias(g: np.random.Generator, shape: Extents, magnitude: float) -> dict[str, Array]:
    bias = np.asarray(-np.log(shape["M"]))
    return random_inputs(g, shape, magnitude) | {"BIAS": bias}


def sigmoid_attention(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """The published form of the sigmoid, by a hyperbolic tangent."""
    scores = np.einsum("bhep,bhem->bhpm", inputs["Q"], inputs["K"]) + inputs["BIAS"]
    weights = 0.5 * (1 + np.tanh(scores / 2))
    return {"AV": np.moveaxis(weights @ np.moveaxis(inputs["V"], 2, 3), 2, 3)}


def _gate_inputs(g: np.random.Generator, shape: Extents, magnitude: float) -> dict[str, Array]:
    b, d, p, h, f = (shape[r] for r in "BDPHF")
    return random_inputs(g, shape, magnitude) | {
        "X": g.normal(size=(b, d, p)),
        "W": g.normal(size=(d, h, f)),
    }


def gated_attention(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Attention, and head by head the gate of its token."""
    output = attention(inputs["Q"], inputs["K"], inputs["V"])
    for head in range(shape["H"]):
        gate = np.swapaxes(inputs["X"], 1, 2) @ inputs["W"][:, head]
        output[:, head] *= np.swapaxes(0.5 * (1 + np.tanh(gate / 2)), 1, 2)
    return {"Y": output}


def _reweighting_inputs(
    g: np.random.Generator, shape: Extents, magnitude: float
) -> dict[str, Array]:
    rows = np.arange(shape["P"]) + shape["M"] - shape["P"] + 1.0
    return random_inputs(g, shape, magnitude) | {
        "C": np.log(rows + 1),
        "N": rows,
        "O": np.asarray(0.3),
        "EPS": np.asarray(1e-3),
    }


def reweighted(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Row by row, over the keys that a query sees."""
    q, k, v = inputs["Q"], inputs["K"], inputs["V"]
    found = np.zeros((shape["B"], shape["H"], shape["F"], shape["P"]))
    for p in range(shape["P"]):
        seen = p + shape["M"] - shape["P"] + 1
        scores = np.einsum("bhe,bhem->bhm", q[..., p], k[..., :seen]) * inputs["C"][p]
        first = np.logaddexp(0, scores)
        first /= first.sum(axis=-1, keepdims=True)
        second = np.clip(first * inputs["N"][p] - inputs["O"], 0, None) ** 3
        second /= second.sum(axis=-1, keepdims=True) + inputs["EPS"]
        found[..., p] = np.einsum("bhm,bhfm->bhf", second, v[..., :seen])
    return {"AV": found}


PROOFS = {
    "attention-two-pass": Proof(_tiled, random_inputs, _exact, stable=True),
    "flash-attention-1": Proof(_tiled, random_inputs, _exact, stable=True),
    "flash-decoding-pp": Proof(_shape, _with_constant, _exact, stable=True),
    "sigmoid-attention": Proof(_shape, _with_bias, sigmoid_attention, stable=True),
    "gated-attention": Proof(_gated_shape, _gate_inputs, gated_attention, stable=True),
    "lssar": Proof(_causal, _reweighting_inputs, reweighted),
}
