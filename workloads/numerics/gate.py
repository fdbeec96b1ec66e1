"""Edge-MoE's gate: softmax over all experts, normalized for the chosen few alone.

Source: Edge-MoE (Sarkar et al., ICCAD 2023, arXiv 2305.18691), its published code, src/moe.cpp
(`update_softmax_info`, `top_k`). There, `top_k` leaves a place unassigned that neither takes the
new score nor moves; here it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from workloads.numerics.fixed import Array, Fixed
from workloads.numerics.softmax import normalized, softmax_statistic


@dataclass(frozen=True, eq=False)
class Gate:
    """Chosen experts [..., k], best first, and their weights [..., k]; what did not fit."""

    experts: Array
    weights: Fixed
    overflows: Mapping[str, int]


def top_k(scores: Array, k: int) -> Array:
    """Places [..., k] of the k largest of scores [..., n], largest first, by insertion.

    Each score goes before the first kept one that is smaller; those behind move down, the others
    are kept. Of equal scores the first comes first.

    >>> top_k(np.array([[3, 9, 5, 9]]), 2).tolist()
    [[1, 3]]

    Raises `ValueError` where there are fewer than k scores.
    """
    if not 1 <= k <= scores.shape[-1]:
        raise ValueError(f"1 <= k <= {scores.shape[-1]} scores must hold, found k = {k}")
    places = [np.full(scores.shape[:-1], -1) for _ in range(k)]
    kept = [np.zeros(scores.shape[:-1], dtype=scores.dtype) for _ in range(k)]
    for place in range(scores.shape[-1]):
        score = scores[..., place]
        above = [(score > kept[j]) | (places[j] < 0) for j in range(k)]
        for j in reversed(range(k)):  # from the last, so that what moves down is still there
            moved = above[j - 1] if j else np.zeros_like(above[0])
            kept[j] = np.where(moved, kept[j - 1], np.where(above[j], score, kept[j]))
            places[j] = np.where(moved, places[j - 1], np.where(above[j], place, places[j]))
    return np.stack(places, axis=-1)


def gate(logits: Fixed, k: int = 2) -> Gate:
    """The k experts with the largest logits [..., experts], and their softmax weights.

    The softmax is over all experts: weights of the chosen do not sum to 1.

    >>> from workloads.numerics import Format, cast
    >>> found = gate(cast([0, 2, -1, 1], Format(32, 10)))
    >>> found.experts.tolist(), found.weights.to_float().round(4).tolist()
    ([1, 3], [0.6439, 0.2369])
    """
    statistic = softmax_statistic(logits)
    experts = top_k(logits.raw, k)
    chosen = Fixed(np.take_along_axis(logits.raw, experts, axis=-1), logits.format)
    found = normalized(chosen, statistic)
    return Gate(experts, found.weights, {**statistic.overflows, **found.overflows})
