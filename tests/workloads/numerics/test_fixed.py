"""Fixed-point arithmetic against Python's fractions."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.numerics import Fixed, Format, cast, evaluate, overflowing

MODES = (st.sampled_from(["AP_TRN", "AP_RND"]), st.sampled_from(["AP_WRAP", "AP_SAT"]))
FORMATS = st.builds(Format, st.integers(1, 70), st.integers(-20, 80), st.booleans(), *MODES)
NARROW = st.builds(Format, st.integers(1, 40), st.integers(-5, 45), st.booleans())


def exact(value):
    """The numbers as fractions."""
    unit = Fraction(2) ** -value.format.fraction
    return [int(raw) * unit for raw in np.ravel(value.raw)]


def put(number, form):
    """What an assignment does, and whether the number fits, by the definition."""
    half = Fraction(1, 2) if form.quantization == "AP_RND" else 0
    raw = floor(number * Fraction(2) ** form.fraction + half)
    bits = form.width - (1 if form.signed else 0)
    lowest, highest = (-(2**bits) if form.signed else 0), 2**bits - 1
    fits = lowest <= raw <= highest
    if form.overflow == "AP_SAT":
        return min(max(raw, lowest), highest), fits
    return (raw - lowest) % 2**form.width + lowest, fits


@st.composite
def numbers(draw, formats=FORMATS):
    form = draw(formats)
    raw = draw(st.lists(st.integers(form.lowest, form.highest), min_size=1, max_size=4))
    return Fixed(np.array(raw, dtype=form.dtype), form)


@settings(deadline=None)
@given(numbers(), FORMATS)
def test_assignment(value, to):
    expected = [put(number, to) for number in exact(value)]
    found = cast(value, to)
    assert found.format == to
    assert found.raw.dtype == to.dtype
    assert found.raw.tolist() == [raw for raw, _ in expected]
    assert overflowing(value, to).tolist() == [not fits for _, fits in expected]


@settings(deadline=None)
@given(st.lists(st.floats(-1e25, 1e25), min_size=1, max_size=4), FORMATS)
def test_assignment_of_real_numbers(values, to):
    expected = [put(Fraction(value), to) for value in values]
    assert cast(values, to).raw.tolist() == [raw for raw, _ in expected]
    assert overflowing(values, to).tolist() == [not fits for _, fits in expected]


@settings(deadline=None)
@given(numbers(NARROW), numbers(NARROW))
def test_sums_and_products_are_exact(a, b):
    a, b = a[:1], b[:1]
    (x,), (y,) = exact(a), exact(b)
    for found, expected in [(a + b, x + y), (a - b, x - y), (a * b, x * y), (abs(a), abs(x))]:
        assert exact(found) == [expected]
        assert found.format.lowest <= found.raw[0] <= found.format.highest


@settings(deadline=None)
@given(numbers())
def test_as_real_numbers(value):
    assert value.to_float().tolist() == [float(number) for number in exact(value)]


def test_widths_of_expressions():
    # UG1399: sums have one bit more before the point, products the bits of both
    a, b = cast(1.5, Format(16, 4)), cast(0.25, Format(8, 1))
    assert str((a + b).format) == "fixed<17,5>"
    assert str((a * b).format) == "fixed<24,5>"
    u = cast(1.5, Format(8, 4, signed=False))
    assert str((u + u).format) == "ufixed<9,5>"
    assert str((u - u).format) == "fixed<9,5>"
    assert str((a + u).format) == "fixed<18,6>"  # a bit for the sign of the unsigned one


def test_rounding_of_halves():
    halves = [-1.5, -0.5, 0.5, 1.5, 0.49999999999999994, -0.5000000000000001]
    assert cast(halves, Format(8, 8, True, "AP_RND")).raw.tolist() == [-1, 0, 1, 2, 0, -1]
    assert cast(halves, Format(8, 8)).raw.tolist() == [-2, -1, 0, 1, 0, -1]


def test_a_number_too_small_to_be_scaled_has_a_sign():
    assert cast([-5e-324, 5e-324], Format(4, 40)).raw.tolist() == [-1, 0]
    assert cast([-5e-324, 5e-324], Format(4, 40, True, "AP_RND")).raw.tolist() == [0, 0]


def test_rounding_up_may_not_fit():
    form = Format(4, 4, True, "AP_RND")
    assert overflowing(7.5, form)
    assert cast(7.5, form).raw == -8


def test_shapes():
    for form in (Format(8, 4), Format(100, 4)):
        assert cast(1.0, form).shape == ()
        assert cast(np.ones((2, 0, 3)), form).shape == (2, 0, 3)
        assert cast(np.ones((2, 3)), form)[0, 1].raw == 1 << form.fraction


def test_functions():
    logs = evaluate(np.log2, cast([4, 0.5], Format(8, 4)))
    assert logs.tolist() == [2, -1]
    assert evaluate(np.reciprocal, cast(0, Format(8, 4))) == 2**130


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_number(value):
    with pytest.raises(ValueError, match="must be finite"):
        cast([1.0, value], Format(8, 4))
