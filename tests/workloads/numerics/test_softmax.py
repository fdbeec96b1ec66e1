"""Softmax of one pass in fixed point, against the recurrence number by number and float64."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.numerics import Format, cast, single_pass_softmax, softmax_statistic

PAPER = Format(32, 10)
UNIT = Fraction(1, 2**22)


def softmax(rows):
    """Rows, one after the other, with sums that do not lose anything."""
    found = []
    for row in rows:
        parts = [math.exp(x - max(row)) for x in row]
        found.append([part / math.fsum(parts) for part in parts])
    return np.array(found)


def cut(x):
    return math.floor(Fraction(x) / UNIT) * UNIT


def published(row):
    """The recurrence as the code has it, in fractions; the weights behind it."""
    bias, total = Fraction(-512), Fraction(0)
    for x in row:
        step = bias - x
        if step < 0:
            bias, total = x, cut(total * cut(math.exp(step))) + 1
        else:
            total = cut(total + cut(math.exp(-step)))
    factor = cut(1 / total)
    return bias, total, [cut(cut(math.exp(x - bias)) * factor) for x in row]


def logits(*shape, deviation=3.0):
    return np.random.default_rng(1).normal(size=shape) * deviation


def test_the_published_recurrence_number_by_number():
    rows = cast(logits(20, 33), PAPER)
    statistic, weights = softmax_statistic(rows), single_pass_softmax(rows).weights
    for i, raw in enumerate(rows.raw.tolist()):
        bias, total, expected = published([x * UNIT for x in raw])
        assert statistic.bias.raw[i] * UNIT == bias
        assert statistic.total.raw[i] * UNIT == total
        assert [w * UNIT for w in weights.raw[i].tolist()] == expected


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), deviation=st.floats(0, 60), keys=st.integers(1, 140))
def test_near_softmax_whatever_the_logits(seed, deviation, keys):
    values = np.clip(np.random.default_rng(seed).normal(size=(4, keys)) * deviation, -250, 250)
    rows = cast(values, PAPER)
    found = single_pass_softmax(rows)
    assert sum(found.overflows.values()) == 0  # the difference to the largest fits
    error = np.abs(found.weights.to_float() - softmax(rows.to_float()))
    assert error.max() <= 4 * (keys + 3) * float(UNIT)


def test_error_in_the_formats_of_the_paper():
    rows = logits(64, 129, deviation=4)
    found = single_pass_softmax(cast(rows, PAPER)).weights.to_float()
    error = np.abs(found - softmax(rows))
    assert error.max() < 2e-5
    assert error.mean() < 3e-7


def test_ascending_logits_change_the_bias_every_time():
    rows = np.arange(129)[None] / 8
    statistic = softmax_statistic(cast(rows, PAPER))
    assert statistic.bias.to_float() == [16]
    assert statistic.total.to_float()[0] == pytest.approx(np.exp(rows - 16).sum(), abs=1e-4)


@pytest.mark.parametrize("bias", [0.0, 4.0])
def test_exponentials_overflow_without_the_running_maximum(bias):
    rows = cast(logits(50, 129, deviation=5), PAPER)
    exact = rows.to_float() - bias
    expected = int((np.exp(exact) >= 512).sum())
    assert expected > 0
    found = single_pass_softmax(rows, bias)
    assert found.overflows["exp"] == found.overflows["exp again"] == expected
    assert sum(single_pass_softmax(rows).overflows.values()) == 0
    error = np.abs(found.weights.to_float() - softmax(rows.to_float()))
    assert error.max() > 0.5  # wrapped: nonsense


def test_saturation_limits_the_damage_of_an_overflow():
    rows = logits(50, 129, deviation=4)
    errors = []
    for form in (PAPER, Format(32, 10, True, "AP_RND", "AP_SAT")):
        found = single_pass_softmax(cast(rows, form), 0.0)
        assert found.overflows["exp"] > 0
        errors.append(np.abs(found.weights.to_float() - softmax(rows)).max())
    assert errors[1] <= 1 < errors[0]


def test_a_bias_too_large_leaves_no_sum():
    found = single_pass_softmax(cast(logits(3, 9), PAPER), 100.0)
    assert found.overflows["exp"] == 0
    assert found.overflows["reciprocal"] == 3


def test_more_equal_logits_than_a_sum_can_count():
    assert softmax_statistic(cast(np.zeros(511), PAPER)).overflows["sum"] == 0
    assert softmax_statistic(cast(np.zeros(512), PAPER)).overflows["sum"] == 1


def test_any_number_of_axes():
    rows = cast(logits(2, 3, 5), PAPER)
    whole = single_pass_softmax(rows).weights
    assert whole.shape == (2, 3, 5)
    np.testing.assert_array_equal(whole[1].raw, single_pass_softmax(rows[1]).weights.raw)
