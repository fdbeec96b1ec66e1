"""Training steps of attention in NumPy: the output and the gradients, one query at a time."""

from __future__ import annotations

import numpy as np

from workloads.reference.proof import Array, Arrays, Extents, Proof
from workloads.reference.softmax import softmax


def training_step(inputs: Arrays) -> dict[str, Array]:
    """Output and gradients of attention with a mask and dropout.

    `inputs` are Q [B,H,E,P], K [B,H,E,M], V [B,H,F,M], the mask C [M,P] (0 or -inf), the dropout
    mask Z [B,H,M,P] (0 or 1/(1 - rate)) and DAV [B,H,F,P], the gradient of a loss by the output.
    Returns AV and the gradients DQ, DK, DV, shaped as what they belong to.

    The gradient of the softmax is the product with its Jacobian, diag(a) - a a^T, written out for
    every query: no sum is shared with the cascades, which never form it.
    """
    q, k, v, dropout, upstream = (inputs[name] for name in ("Q", "K", "V", "Z", "DAV"))
    found = {"AV": np.zeros(upstream.shape), "DQ": np.zeros(q.shape)}
    found |= {"DK": np.zeros(k.shape), "DV": np.zeros(v.shape)}
    for head in np.ndindex(q.shape[:2]):
        for p in range(q.shape[3]):
            query, above, kept = q[head][:, p], upstream[head][:, p], dropout[head][:, p]
            weights = softmax(query @ k[head] + inputs["C"][:, p])
            jacobian = np.diag(weights) - np.outer(weights, weights)
            scores = jacobian @ (kept * (above @ v[head]))
            found["AV"][head][:, p] = v[head] @ (kept * weights)
            found["DQ"][head][:, p] = k[head] @ scores
            found["DK"][head] += np.outer(query, scores)
            found["DV"][head] += np.outer(above, kept * weights)
    return found


def _shape(generator: np.random.Generator) -> dict[str, int]:
    sizes = {name: int(generator.integers(1, 4)) for name in ("B", "H", "E", "F")}
    length = int(generator.integers(1, 9))
    return {**sizes, "M": length, "P": length}


def _tiled_shape(generator: np.random.Generator) -> dict[str, int]:
    shape = _shape(generator)
    tiles, keys = (int(n) for n in generator.integers(1, 5, 2))
    return {**shape, "M": tiles * keys, "P": tiles * keys, "M0": keys}


def training_inputs(
    generator: np.random.Generator, shape: Extents, magnitude: float
) -> dict[str, Array]:
    """Random inputs under a causal mask, every fourth weight dropped; scores of `magnitude`."""
    b, h, m, p, e, f = (shape[rank] for rank in "BHMPEF")
    each = np.sqrt(magnitude)  # of Q and of K
    causal = np.arange(m)[:, None] <= np.arange(p) + m - p
    return {
        "Q": generator.normal(size=(b, h, e, p)) * each,
        "K": generator.normal(size=(b, h, e, m)) * each,
        "V": generator.normal(size=(b, h, f, m)),
        "C": np.where(causal, 0.0, -np.inf),
        "Z": (generator.random((b, h, m, p)) < 0.75) / 0.75,
        "DAV": generator.normal(size=(b, h, f, p)),
    }


def _expected(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    return training_step(inputs)


PROOFS: dict[str, Proof] = {
    "attention-training": Proof(_shape, training_inputs, _expected, stable=True),
    "flash-attention-training": Proof(_tiled_shape, training_inputs, _expected, stable=True),
}
