"""Attention in NumPy, written for clarity: what the cascades are proved against."""

from __future__ import annotations

import numpy as np

from workloads.reference.proof import Array, Arrays, Extents, Proof


def softmax(scores: Array, axis: int = -1) -> Array:
    """The stable softmax along `axis`: finite for scores of any finite magnitude."""
    shifted = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=axis, keepdims=True))


def attention(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    """Attention of every head: `q` is [B,H,E,P], `k` is [B,H,E,M], `v` is [B,H,F,M].

    Returns [B,H,F,P]. `mask` is [M,P] and true where a key may be attended to. No factor 1/sqrt(E),
    as in FuseMax (MICRO 2024), section IV.
    """
    scores = np.einsum("bhep,bhem->bhmp", q, k)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    return np.asarray(np.einsum("bhmp,bhfm->bhfp", softmax(scores, axis=2), v))


def unstable_attention(q: Array, k: Array, v: Array) -> Array:
    """The same without subtracting the maximum: overflows from scores of about 700."""
    weights = np.exp(np.einsum("bhep,bhem->bhmp", q, k))
    return np.asarray(np.einsum("bhmp,bhfm->bhfp", weights / weights.sum(2, keepdims=True), v))


def _shape(generator: np.random.Generator) -> dict[str, int]:
    return {rank: int(generator.integers(1, 6)) for rank in "BHPMEF"}


def _tiled(generator: np.random.Generator) -> dict[str, int]:
    tiles, keys = (int(n) for n in generator.integers(1, 5, 2))
    return {**_shape(generator), "M": tiles * keys, "M0": keys}


def random_inputs(
    generator: np.random.Generator, shape: Extents, magnitude: float
) -> dict[str, Array]:
    """Q, K and V of every head; scores of the order of `magnitude`."""
    b, h, p, m, e, f = (shape[rank] for rank in "BHPMEF")
    each = np.sqrt(magnitude)  # of Q and of K
    return {
        "Q": generator.normal(size=(b, h, e, p)) * each,
        "K": generator.normal(size=(b, h, e, m)) * each,
        "V": generator.normal(size=(b, h, f, m)),
    }


def _expected(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    return {"AV": attention(inputs["Q"], inputs["K"], inputs["V"])}


PROOFS = {
    **{
        name: Proof(_shape, random_inputs, _expected, stable=True)
        for name in ("attention-3pass", "attention-3pass-deferred")
    },
    **{
        name: Proof(_tiled, random_inputs, _expected, stable=True)
        for name in ("attention-1pass", "attention-2pass", "attention-2pass-deferred")
    },
}
