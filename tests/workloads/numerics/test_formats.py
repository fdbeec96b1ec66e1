"""Formats as HLS writes them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einsum_cascade import InputError
from workloads.numerics import Format, parse_format


@pytest.mark.parametrize(
    ("text", "lowest", "highest"),
    [  # Edge-MoE's types: the smallest and the largest number of each
        ("ap_fixed<32,10>", -512, 512 - Fraction(1, 2**22)),
        ("ap_fixed<16,2>", -2, 2 - Fraction(1, 2**14)),
        ("ap_fixed<16,7>", -64, 64 - Fraction(1, 2**9)),
        ("ap_fixed<16,0>", Fraction(-1, 2), Fraction(1, 2) - Fraction(1, 2**16)),
        ("ap_ufixed<8,0>", 0, 1 - Fraction(1, 2**8)),
        ("ap_ufixed<22,0>", 0, 1 - Fraction(1, 2**22)),
        ("fixed<4,6>", -32, 28),
        ("ufixed<3,-2>", 0, Fraction(7, 32)),
    ],
)
def test_ranges(text, lowest, highest):
    form = parse_format(text)
    unit = Fraction(2) ** -form.fraction
    assert (form.lowest * unit, form.highest * unit) == (lowest, highest)


@settings(deadline=None)
@given(
    st.builds(
        Format,
        st.integers(1, 128),
        st.integers(-128, 128),
        st.booleans(),
        st.sampled_from(["AP_TRN", "AP_RND"]),
        st.sampled_from(["AP_WRAP", "AP_SAT"]),
    )
)
def test_text_and_back(form):
    assert parse_format(str(form)) == form
    assert parse_format(f" ap_{form} ") == form
    for limit in (form.lowest, form.highest):
        assert form.dtype == object or -(2**63) <= limit < 2**63


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (3, "'fixed<32,10>' is expected, found 3"),
        ("fixed(32,10)", "'fixed<32,10>' is expected, found"),
        ("fixd<32,10>", "unknown kind 'fixd'.*did you mean 'fixed'"),
        ("fixed<32>", "needs two whole numbers"),
        ("fixed<32,>", "needs two whole numbers"),
        ("fixed<3.2,1>", "needs two whole numbers"),
        ("fixed<__import__,1>", "needs two whole numbers"),
        ("fixed<0,0>", "a width from 1 to 128 bits"),
        ("fixed<129,0>", "a width from 1 to 128 bits"),
        ("fixed<8,-129>", "from -128 to 128 of them before the point"),
        ("fixed<8,2,AP_RDN>", "unknown mode 'AP_RDN'.*allowed: AP_TRN, AP_RND"),
        ("fixed<8,2,AP_SAT>", "unknown mode 'AP_SAT'.*allowed: AP_TRN, AP_RND"),
        ("fixed<8,2,AP_RND,AP_SAT,3>", "has 3 modes"),
    ],
)
def test_mistakes(text, message):
    with pytest.raises(InputError, match=message):
        parse_format(text)
