"""Extents, sizes, and how many points a filter leaves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from einsum_cascade import InputError, parse_cascade

TILED = parse_cascade(
    """
name: tiled
ranks: {M: {partition: [M2, M1, M0]}, M2: , M1: , M0: , N: {like: M}, T: }
inputs: ["A[m]", "B[n]"]
outputs: [C, S]
initialization: ["S[0] = 0"]
body:
  - C[m2,m1,m0] = A[m2*M0*M1+m1*M0+m0] * B[0]
  - S[t+1] = S[t] + B[0]
iterate: {rank: T, stop: t >= 5}
"""
)


def test_parts_like_and_stop():
    found = TILED.resolve_shape({"M": 24, "M1": 3, "M0": 2})
    assert found == {"M": 24, "M2": 4, "M1": 3, "M0": 2, "N": 24, "T": 5}
    assert TILED.resolve_shape({"M2": 4, "M1": 3, "M0": 2})["N"] == 24
    assert TILED.size("S", found) == 6
    assert TILED.points("S", found) == 5


def test_elementwise_on_design_points():
    found = TILED.resolve_shape({"M": np.array([24, 60]), "M1": np.array([3, 5]), "M0": 2})
    np.testing.assert_array_equal(found["M2"], [4, 6])
    np.testing.assert_array_equal(TILED.size("C", found), [24, 60])


def test_iterations_are_as_many_as_the_cascade_says():
    cascade = parse_cascade(
        """{name: halved, ranks: {M: numbers, T: times}, inputs: ["A[m]"], outputs: [B],
        initialization: ["X[m,0] = A[m]"], body: ["X[m,t+1] = 0.5*X[m,t]"],
        final: ["B[m] = X[m,T]"], iterate: {rank: T, stop: t >= 5}}"""
    )
    assert cascade.resolve_shape({"M": 3})["T"] == cascade.resolve_shape({"M": 3, "T": 5})["T"] == 5
    with pytest.raises(InputError, match="T = 2 disagrees with where its iteration stops = 5"):
        cascade.resolve_shape({"M": 3, "T": 2})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"M": 25, "M1": 3, "M0": 2}, "M = 25 is not divisible by M1 * M0 = 6, so M2 has no value"),
        (
            {"M": np.array([24, 26]), "M1": 3, "M0": 2},
            "M = 26 is not divisible by M1 * M0 = 6, so M2 has no value",
        ),
        ({"M": 24, "M2": 4, "M1": 3, "M0": 1}, "M = 24 disagrees with M2 * M1 * M0 = 12"),
        ({"M": 24, "M1": 3, "M0": 2, "N": 23}, "N = 23 disagrees with like M = 24"),
        ({"M": 24}, "lacks M2, M1, M0: give M2, or M and M1 and M0"),
        ({"MM": 24}, "no rank or parameter 'MM'"),
        ({"M": 0}, "M must be a positive integer, found 0"),
        ({"M": 2.5}, "M must be a positive integer, found 2.5"),
        ({"M": "24"}, "M must be a positive integer, found '24'"),
        ({"M": float("nan")}, "M must be a positive integer"),
        ({"M": None}, "M must be a positive integer, found None"),
        ({"M": np.array([1, -1])}, "M must be a positive integer"),
        ({"M": True}, "M must be a positive integer"),
    ],
)
def test_wrong_shapes(shape, message):
    with pytest.raises(InputError) as error:
        TILED.resolve_shape(shape)
    assert message in str(error.value)


FILTERS = {
    "m <= p": lambda m, p, n, W, P: m <= p,
    "m < p": lambda m, p, n, W, P: m < p,
    "p < m": lambda m, p, n, W, P: p < m,
    "m >= p + 2": lambda m, p, n, W, P: m >= p + 2,
    "m == p": lambda m, p, n, W, P: m == p,
    "m <= p, p - m < W": lambda m, p, n, W, P: 0 <= p - m < W,
    "m - p <= W and p - m <= W": lambda m, p, n, W, P: abs(m - p) <= W,
    "m < W": lambda m, p, n, W, P: m < W,
    "1 <= m < W": lambda m, p, n, W, P: 1 <= m < W,
    "m + W <= P": lambda m, p, n, W, P: m + W <= P,
    "m != p": lambda m, p, n, W, P: m != p,
    "m + p <= W": lambda m, p, n, W, P: m + p <= W,
    "2*m <= p": lambda m, p, n, W, P: 2 * m <= p,
    "m <= p, m < W": lambda m, p, n, W, P: m <= p and m < W,
    "W < 3": lambda m, p, n, W, P: W < 3,
    "m < W, W < 3": lambda m, p, n, W, P: m < W < 3,
    "m <= p, n < W": lambda m, p, n, W, P: m <= p and n < W,
}


@pytest.mark.parametrize("text", FILTERS)
@given(m=st.integers(1, 9), p=st.integers(1, 9), n=st.integers(1, 3), w=st.integers(1, 6))
def test_points_are_those_that_one_counts(text, m, p, n, w):
    cascade = _filtered(text)
    expected = sum(
        FILTERS[text](a, b, c, w, p) for a, b, c in itertools.product(range(m), range(p), range(n))
    )
    shape = {"M": m, "P": p, "N": n, "W": w}
    assert cascade.points("Z", shape) == expected
    many = {k: np.array([v, 2, v]) for k, v in shape.items()}
    assert cascade.points("Z", many)[2] == expected


def _filtered(text, memo={}):  # noqa: B006
    if text not in memo:
        memo[text] = parse_cascade(
            "name: x\nranks: [M, P, N]\nparameters: [W]\ninputs: ['A[m,p]', 'B[n]']\n"
            f"body: ['Z = A[m,p]*B[n] where {text}']"
        )
    return memo[text]


@given(m1=st.integers(1, 4), m0=st.integers(1, 4), p1=st.integers(1, 4), p0=st.integers(1, 4))
def test_a_causal_filter_over_tiles(m1, m0, p1, p0):
    cascade = _tiles()
    expected = sum(a <= b for a, b in itertools.product(range(m1 * m0), range(p1 * p0)))
    assert cascade.points("Z", {"M1": m1, "M0": m0, "P1": p1, "P0": p0}) == expected


def _tiles(memo=[]):  # noqa: B006
    if not memo:
        memo.append(
            parse_cascade(
                """
name: tiles
ranks: {M: {partition: [M1, M0]}, M1: , M0: , P: {partition: [P1, P0]}, P1: , P0: }
inputs: ["A[m1,m0,p1,p0]"]
body: ["Z = A[m1,m0,p1,p0] where m1*M0 + m0 <= p1*P0 + p0"]
"""
            )
        )
    return memo[0]


def test_a_filter_over_single_parts():
    cascade = parse_cascade(
        """
name: parts
ranks: {M: {partition: [M1, M0]}, M1: , M0: , P: }
inputs: ["A[m1,m0,p]"]
body: ["Z = A[m1,m0,p] where m1*M0 + m0 <= p, m0 > 0"]
"""
    )
    expected = sum(
        a * 3 + b <= p and b > 0 for a, b, p in itertools.product(range(2), range(3), range(5))
    )
    assert cascade.points("Z", {"M1": 2, "M0": 3, "P": 5}) == expected


def test_causal_at_a_million_is_exact_and_at_once():
    cascade = _filtered("m <= p")
    n = 2**20
    assert cascade.points("Z", {"M": n, "P": n, "N": 1, "W": 1}) == n * (n + 1) // 2


def test_what_cannot_be_counted_says_so():
    cascade = _filtered("2*m <= p")
    with pytest.raises(InputError, match="no closed form here"):
        cascade.points("Z", {"M": 10**6, "P": 10**6, "N": 1, "W": 1})


def test_causal_closed_form():
    from einsum_cascade import analyze_passes

    analysis = analyze_passes(_filtered("m <= p"))
    form = analysis.operation_counts()["mac"]
    symbols = {str(s): s for s in form.free_symbols}
    assert form.subs({symbols["M"]: 7, symbols["P"]: 7, symbols["N"]: 1}) == 28
