"""The gate: the insertion against sorting, the weights against float64."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from workloads.numerics import Format, cast, gate, top_k

PAPER = Format(32, 10)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_insertion_is_sorting(k):
    """All orders of four scores, equal ones and the smallest ones included."""
    scores = np.array(list(product([-(2**31), 0, 1, 7], repeat=4)))
    expected = [sorted(range(4), key=lambda i: (-row[i], i))[:k] for row in scores.tolist()]
    assert top_k(scores, k).tolist() == expected


def test_insertion_of_many():
    scores = np.random.default_rng(0).integers(0, 30, (5, 40, 16))
    expected = np.argsort(-scores, axis=-1, kind="stable")[..., :5]
    np.testing.assert_array_equal(top_k(scores, 5), expected)


@pytest.mark.parametrize("k", [0, 5])
def test_more_than_there_are(k):
    with pytest.raises(ValueError, match=f"1 <= k <= 4 scores must hold, found k = {k}"):
        top_k(np.zeros((3, 4)), k)


def test_weights_are_those_of_the_softmax_over_all():
    logits = np.random.default_rng(2).normal(size=(2000, 16))
    parts = np.exp(logits)
    exact = parts / parts.sum(axis=1, keepdims=True)
    best = np.argsort(-logits, axis=1)[:, :2]
    found = gate(cast(logits, PAPER))
    assert sum(found.overflows.values()) == 0
    assert np.all(found.experts == best, axis=1).mean() > 0.999
    error = np.abs(found.weights.to_float() - np.take_along_axis(exact, found.experts, axis=1))
    assert error.max() < 1e-5
    assert np.all(found.weights.to_float().sum(axis=1) < 1)


def test_fewer_bits_choose_other_experts():
    logits = np.random.default_rng(3).normal(size=(4000, 16))
    best = np.argsort(-logits, axis=1)[:, :2]
    agreement = [
        np.all(gate(cast(logits, Format(width, 10))).experts == best, axis=1).mean()
        for width in (12, 16, 20, 32)
    ]
    assert agreement == sorted(agreement)
    assert agreement[0] < 0.9 < 0.999 < agreement[-1]
