"""Edge-MoE's softmax: a running bias and sum in one pass, then the exponentials a second time.

Source: Edge-MoE (Sarkar et al., ICCAD 2023, arXiv 2305.18691), its published code,
src/attention.cpp (`finalize_attn` and the product with V). With a `bias` given in place of the
running maximum, the same arithmetic shows why the running maximum is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from workloads.numerics.fixed import Fixed, cast, evaluate, overflowing, where
from workloads.numerics.formats import Format

_ONE = Fixed(np.asarray(1), Format(2, 2))


@dataclass(frozen=True, eq=False)
class Statistic:
    """What one pass over the last axis of logits leaves, and how often a number did not fit.

    `bias` and `total` have the logits' shape without that axis; total is the sum of
    exp(logit - bias). `overflows` counts the results that did not fit, by operation.
    """

    bias: Fixed
    total: Fixed
    overflows: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Softmax:
    """Weights of the logits' shape, and how often a number did not fit, by operation."""

    weights: Fixed
    overflows: Mapping[str, int]


def softmax_statistic(logits: Fixed, bias: float | None = None) -> Statistic:
    """Bias and sum of each row of logits [..., keys], all numbers in the logits' format.

    The bias starts as the smallest number of the format and is then the largest logit so far; each
    logit needs one exponential, of a number that is never positive (its difference from the bias
    is kept exactly). A `bias` of one's own stays as it is, and exponentials may overflow.

    >>> rows = cast([[1, 3, 2], [-4, -4, -4]], Format(32, 10))
    >>> found = softmax_statistic(rows)
    >>> found.bias.to_float().tolist(), found.total.to_float().round(4).tolist()
    ([3.0, -4.0], [1.5032, 3.0])
    >>> softmax_statistic(cast([[7, 1]], Format(32, 10)), bias=0).overflows
    {'exp': 1, 'sum': 0}
    """
    form = logits.format
    rows = logits.shape[:-1]
    start = np.full(rows, form.lowest, dtype=form.dtype)
    best = Fixed(start, form) if bias is None else cast(np.full(rows, bias), form)
    total = cast(np.zeros(rows), form)
    lost = {"exp": 0, "sum": 0}
    for key in range(logits.shape[-1]):
        logit = logits[..., key]
        difference = logit - best
        larger = (difference.raw > 0) & (bias is None)
        if bias is None:
            difference = Fixed(-np.abs(difference.raw), difference.format)
        part = _put(evaluate(np.exp, difference), form, lost, "exp")
        scaled = cast(total * part, form) + _ONE  # one has no fraction: as if put together
        total = where(larger, scaled, cast(total + part, scaled.format))
        total = _put(total, form, lost, "sum")
        best = where(larger, logit, best)
    return Statistic(best, total, lost)


def normalized(logits: Fixed, statistic: Statistic) -> Softmax:
    """exp(logit - bias) * (1 / total) for logits [..., keys], in their format: the second pass.

    A sum of 0 has no reciprocal and counts as one that does not fit.
    """
    form = logits.format
    lost = {"exp again": 0, "reciprocal": 0, "weight": 0}
    reciprocal = _put(evaluate(np.reciprocal, statistic.total), form, lost, "reciprocal")
    parts = evaluate(np.exp, logits - statistic.bias[..., None])
    product = _put(parts, form, lost, "exp again") * reciprocal[..., None]
    return Softmax(_put(product, form, lost, "weight"), lost)


def single_pass_softmax(logits: Fixed, bias: float | None = None) -> Softmax:
    """Softmax over the last axis of logits, in their format, as Edge-MoE computes it.

    >>> single_pass_softmax(cast([0, 1, 2], Format(32, 10))).weights.to_float().round(6).tolist()
    [0.09003, 0.244728, 0.665241]
    """
    statistic = softmax_statistic(logits, bias)
    found = normalized(logits, statistic)
    return Softmax(found.weights, {**statistic.overflows, **found.overflows})


def _put(value: Any, form: Format, lost: dict[str, int], operation: str) -> Fixed:
    """`cast`, counting in `lost` what does not fit."""
    lost[operation] += int(np.count_nonzero(overflowing(value, form)))
    return cast(value, form)
