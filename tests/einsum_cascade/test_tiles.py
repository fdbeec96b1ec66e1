"""Tiles and coordinates that filters touch, against counting every point."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einsum_cascade import parse_cascade
from einsum_cascade.shapes import points_in
from einsum_cascade.tiles import tile_share, touched

FORMS = {
    "m <= p + M - P": lambda p, m, P, M, W: m <= p + M - P,
    "p + M - P - m < W, m <= p + M - P": lambda p, m, P, M, W: (
        (m <= p + M - P) & (p + M - P - m < W)
    ),
    "0 <= p + m - W < P": lambda p, m, P, M, W: (p + m - W >= 0) & (p + m - W < P),
    "m >= W": lambda p, m, P, M, W: m >= W,
    "p == m": lambda p, m, P, M, W: p == m,
}
SIZES = st.integers(1, 40)


def cascade_with(form):
    return parse_cascade(
        "{name: c, ranks: [P, M], parameters: [W], inputs: ['A[m]', 'Q[p]'], "
        f"body: ['Y[p] = Q[p]*A[m] where {form}']}}"
    )


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=150, deadline=None)
@given(p=SIZES, m=SIZES, w=SIZES, tile_p=SIZES, tile_m=SIZES)
def test_points_tiles_and_coordinates(form, p, m, w, tile_p, tile_m):
    cascade = cascade_with(form)
    einsum = cascade.einsum("Y")
    shape = {"P": p, "M": m, "W": w}
    across, down = -(-p // tile_p), -(-m // tile_m)
    rows, columns = np.meshgrid(np.arange(across * tile_p), np.arange(down * tile_m), indexing="ij")
    whole = FORMS[form](rows, columns, p, m, w)  # incomplete tiles made whole
    exact = whole[:p, :m]
    assert points_in(cascade, einsum, shape) == exact.sum()
    in_tiles = whole.reshape(across, tile_p, down, tile_m).any((1, 3)).sum()
    found = tile_share(cascade, einsum, shape, {"p": tile_p, "m": tile_m}) * across * down
    # a bound beyond the end of a rank may be seen by the incomplete tile only
    single = form in ("m >= W",)
    if not single:
        assert found == pytest.approx(in_tiles)
    if p % tile_p == 0 and m % tile_m == 0:
        assert found == pytest.approx(exact.reshape(across, tile_p, down, tile_m).any((1, 3)).sum())
    counts = touched(cascade, einsum, shape, ("M",))
    for variable, axis in (("p", 1), ("m", 0)):
        if variable in counts:
            assert counts[variable] == exact.any(axis).sum()


def test_arrays_of_points_and_tiles():
    cascade = cascade_with("m <= p + M - P")
    shape = {
        "P": np.array([1024.0, 4096.0]),
        "M": np.array([1024.0, 4096.0]),
        "W": np.array([1.0, 1]),
    }
    found = tile_share(
        cascade, cascade.einsum("Y"), shape, {"p": 256.0, "m": np.array([256.0, 64])}
    )
    # 4 tiles a side: 10 of 16; 16 rows of 64 columns: 4, 8, ..., 64
    np.testing.assert_allclose(found, [10 / 16, sum(range(4, 65, 4)) / (16 * 64)])


def test_parts_of_a_rank_and_a_window():
    cascade = parse_cascade(
        "{name: c, ranks: {P: q, M: {partition: [M1, M0]}, M1: o, M0: i}, inputs: ['A[m]', 'Q[p]'], "
        "body: ['Y[p] = Q[p]*A[m1*M0+m0] where m1*M0 + m0 <= p']}"
    )
    values = {"P": 64, "M": 64, "M1": 4, "M0": 16}
    whole = tile_share(cascade, cascade.einsum("Y"), values, {"p": 16, "m1": 1, "m0": 16})
    assert whole == pytest.approx(10 / 16)
    inner = tile_share(cascade, cascade.einsum("Y"), values, {"p": 1, "m1": 1, "m0": 1})
    assert inner == pytest.approx(64 * 65 / 2 / 64**2)


def test_data_filters_by_occupancy():
    cascade = parse_cascade(
        "{name: c, ranks: [T, X], inputs: ['A[t]', 'G[t,x]'], occupancy: {G: 2/X}, "
        "body: ['Y[t,x] = A[t]*3 where G[t,x] > 0']}"
    )
    einsum = cascade.einsum("Y")
    values = {"T": 64, "X": 16}
    assert points_in(cascade, einsum, values) == pytest.approx(128)
    share = tile_share(cascade, einsum, values, {"t": 8, "x": 1})
    assert share == pytest.approx(1 - (1 - 2 / 16) ** 8)
    # at random: the mean over many draws
    generator = np.random.default_rng(0)
    chosen = generator.random((4000, 64, 16)) < 2 / 16
    assert share == pytest.approx(chosen.reshape(4000, 8, 8, 16).any(2).mean(), abs=2e-3)


def test_a_measured_distribution():
    cascade = parse_cascade(
        "{name: c, ranks: [T, X], inputs: ['A[t]', 'G[t,x]'], occupancy: {G: [0.5, 0.1]}, "
        "body: ['Y[t,x] = A[t]*3 where G[t,x] > 0']}"
    )
    einsum = cascade.einsum("Y")
    assert points_in(cascade, einsum, {"T": 10, "X": 2}) == pytest.approx(6)
    share = tile_share(cascade, einsum, {"T": 10, "X": 2}, {"t": 2, "x": 1})
    assert share == pytest.approx((1 - 0.5**2 + 1 - 0.9**2) / 2)
