"""Attention in NumPy, written for clarity: what the cascades are proved against."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


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
