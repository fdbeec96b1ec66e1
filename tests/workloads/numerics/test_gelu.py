"""GELU by a table, against math.erf, fractions and what is known of Edge-MoE's table."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einsum_cascade import InputError
from workloads.numerics import (
    DeltaTable,
    Fixed,
    Format,
    cast,
    delta,
    erf_gelu,
    table_gelu,
    tanh_gelu,
)

PAPER, ENTRY = Format(32, 10), Format(22, 0, signed=False)
WIDE, WIDE_ENTRY = Format(60, 10), Format(50, 0, signed=False)


def gelu(x):
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def errors(table, form, reference, span=8):
    x = cast(np.arange(-span, span + 2**-12, 2**-12), form)
    exact = [reference(v) for v in x.to_float().tolist()]
    return np.abs(table_gelu(x, table).to_float() - exact)


def test_edge_moe():
    table = DeltaTable(1 / 32, 5.5, ENTRY)
    assert (table.entries, table.bits) == (177, 3894)
    assert errors(table, PAPER, gelu).max() == pytest.approx(9.74e-5, rel=1e-3)
    assert errors(table, PAPER, gelu, span=4).mean() == pytest.approx(1.5e-5, abs=0.05e-5)
    assert errors(table, PAPER, lambda x: float(tanh_gelu(x))).max() == pytest.approx(
        4.8e-4, rel=2e-3
    )


@pytest.mark.parametrize(
    ("step", "published"), [(8, 1.55e-3), (16, 3.9e-4), (32, 9.74e-5), (64, 2.4e-5), (128, 6.1e-6)]
)
def test_error_by_step(step, published):
    """Of straight lines: h^2/8 times the largest curvature, which is 2 phi(0), at 0."""
    found = errors(DeltaTable(1 / step, 5.5, WIDE_ENTRY), WIDE, gelu).max()
    assert found == pytest.approx(published, rel=0.02)
    assert found == pytest.approx(step**-2 / 8 * 2 / math.sqrt(2 * math.pi), rel=0.02)


def test_narrow_entries_limit_what_a_small_step_gains():
    for width in (8, 12, 16):
        table = DeltaTable(1 / 128, 5.5, Format(width, 0, signed=False))
        assert errors(table, WIDE, gelu).max() == pytest.approx(2.0**-width, rel=0.5)
        rounded = DeltaTable(1 / 128, 5.5, Format(width, 0, False, "AP_RND"))
        assert errors(rounded, WIDE, gelu).max() < 0.75 * errors(table, WIDE, gelu).max()


def test_a_table_that_ends_early():
    found = errors(DeltaTable(1 / 32, 2.0, ENTRY), PAPER, gelu).max()
    assert found == pytest.approx(2 - gelu(2), rel=1e-2)  # the rectifier from there on


def test_both_forms_of_the_unit():
    x = np.linspace(-9, 9, 1001)
    np.testing.assert_allclose(erf_gelu(x), [gelu(v) for v in x.tolist()], atol=1e-15)
    np.testing.assert_allclose(delta(np.abs(x)), np.maximum(x, 0) - erf_gelu(x), atol=4e-15)
    assert np.abs(tanh_gelu(x) - erf_gelu(x)).max() == pytest.approx(4.73e-4, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    st.builds(Format, st.integers(4, 50), st.integers(-3, 12)),
    st.builds(
        DeltaTable, st.sampled_from([2.0**-k for k in range(6)]), st.just(6.0), st.just(ENTRY)
    ),
    st.integers(0, 2**32 - 1),
)
def test_interpolation_in_fractions(form, table, seed):
    """Any format of x, coarser or finer than the step, the smallest number of each included."""
    raw = np.random.default_rng(seed).integers(form.lowest, form.highest, 6, endpoint=True)
    raw[:2] = form.lowest, form.highest
    x = Fixed(raw, form)
    unit, step = Fraction(2) ** -form.fraction, Fraction(table.step)
    entries = [Fraction(int(v), 2**22) for v in table.values().raw]
    for value, found in zip(raw.tolist(), table_gelu(x, table).raw.tolist(), strict=True):
        place, rest = divmod(abs(value * unit), step)
        part = 0
        if place < len(entries) - 1:
            low, high = entries[int(place)], entries[int(place) + 1]
            part = low + (high - low) * rest / step
        expected = math.floor((max(value, 0) * unit - part) / unit)
        half = 2 ** (form.width - 1)
        assert found == (expected + half) % (2 * half) - half


def test_numbers_far_below_the_step():
    form = Format(16, -100)
    x = Fixed(np.array([form.lowest, -1, 0, 1, form.highest]), form)
    found = table_gelu(x, DeltaTable(1 / 32, 5.5, ENTRY)).to_float()
    np.testing.assert_allclose(found, x.to_float() / 2, rtol=0.03, atol=2.0**-116)


def test_any_shape():
    x = np.linspace(-3, 3, 12).reshape(3, 1, 4)
    found = table_gelu(cast(x, PAPER), DeltaTable(1 / 64, 5.5, ENTRY))
    assert found.shape == x.shape
    np.testing.assert_allclose(found.to_float(), erf_gelu(x), atol=3e-5)


@pytest.mark.parametrize(
    ("step", "largest", "entry", "message"),
    [
        (1 / 30, 5.5, ENTRY, "must be a power of two"),
        (0.0, 5.5, ENTRY, "must be a power of two"),
        (math.nan, 5.5, ENTRY, "must be a power of two"),
        (1 / 8, 5.55, ENTRY, r"must end at a multiple of its step 0\.125, found 5\.55"),
        (1 / 8, 0.0, ENTRY, "must end at a multiple"),
        (1 / 8, math.inf, ENTRY, "must end at a multiple"),
        (1 / 8, 5.5, Format(8, -3, signed=False), r"does not hold 0\.1700"),
    ],
)
def test_tables_that_cannot_be(step, largest, entry, message):
    with pytest.raises(InputError, match=message):
        DeltaTable(step, largest, entry).values()
