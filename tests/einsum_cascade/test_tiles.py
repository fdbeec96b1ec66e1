"""Tiles and coordinates that filters touch, against counting every point."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einsum_cascade import InputError, parse_cascade
from einsum_cascade.filters import filtered_space, reach
from einsum_cascade.shapes import points_in
from einsum_cascade.tiles import parts, tile_share, union

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
    rows, columns = np.meshgrid(np.arange(p), np.arange(m), indexing="ij")
    exact = FORMS[form](rows, columns, p, m, w)
    assert points_in(cascade, einsum, shape) == exact.sum()
    whole = np.zeros((across * tile_p, down * tile_m), dtype=bool)  # the last ones incomplete
    whole[:p, :m] = exact
    in_tiles = whole.reshape(across, tile_p, down, tile_m).any((1, 3))
    sizes = {"p": tile_p, "m": tile_m}
    found = tile_share(cascade, einsum, shape, sizes) * across * down
    assert found == pytest.approx(in_tiles.sum())
    high = np.minimum(tile_p, p - tile_p * np.arange(across))  # true words of a tile
    wide = np.minimum(tile_m, m - tile_m * np.arange(down))
    for moving, weights, total in (
        ("p", high[:, None] * np.ones(down), p * down),
        ("m", np.ones(across)[:, None] * wide, across * m),
        ("pm", high[:, None] * wide, p * m),
    ):
        (part,) = parts(cascade, einsum, shape, sizes, frozenset(moving))
        assert part.share * total == pytest.approx((in_tiles * weights).sum())
    for band in filtered_space(cascade, einsum, shape).bands:
        for position, name in enumerate(band.names):
            assert reach(band, position) == exact.any(1 if name == "p" else 0).sum()


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


OCCUPIED = (
    "{name: c, ranks: [T, X], inputs: ['A[t]', 'G[t,x]'],\n occupancy: {%s},\n "
    "body: ['Y[t,x] = A[t]*3 where G[t,x] > 0']}"
)


@pytest.mark.parametrize(
    ("occupancy", "words"),
    [
        ("G: 1.3", "<text>:2:14: occupancy.G: an occupancy is a share, from 0 to 1: found 1.3"),
        ("G: -1", "from 0 to 1: found -1"),
        ("G: [0.1, 2]", r"<text>:2:23: occupancy.G\[1\]: .* found 2"),
        ("A: 0.5", "no filter of cascade 'c' reads 'A'.*allowed: G"),
        ("GG: 0.5", "has no tensor 'GG'.*did you mean 'G'"),
        ("G: 2/XX", "unknown rank or parameter 'XX'"),
    ],
)
def test_an_occupancy_is_a_share_of_what_a_filter_reads(occupancy, words):
    with pytest.raises(InputError) as error:
        parse_cascade(OCCUPIED % occupancy)
    assert re.search(words, str(error.value))


def test_a_share_that_leaves_its_range_at_some_shapes():
    cascade = parse_cascade(OCCUPIED % "G: 4/X")
    einsum = cascade.einsum("Y")
    assert points_in(cascade, einsum, {"T": 8, "X": 4}) == 32
    with pytest.raises(InputError, match="'4/X' is 2") as error:
        points_in(cascade, einsum, {"T": 8, "X": np.array([8.0, 2.0])})
    assert error.value.place.line == 2


READERS = ["m <= p", "m <= p, p - m < 5", "m > p", "m >= p + 3", "p - m < 3", "m >= 7", "p < 6", ""]


@pytest.mark.parametrize("one", READERS)
@pytest.mark.parametrize("other", READERS)
@settings(max_examples=15, deadline=None)
@given(p=SIZES, m=SIZES, tile_p=SIZES, tile_m=SIZES, moving=st.sampled_from(["p", "m", "pm"]))
def test_what_two_readers_need(one, other, p, m, tile_p, tile_m, moving):
    """The tiles that one or the other reads, in true words: never less than there are."""
    shape = {"P": p, "M": m, "W": 1}
    across, down = -(-p // tile_p), -(-m // tile_m)
    rows, columns = np.meshgrid(np.arange(p), np.arange(m), indexing="ij")
    several, touched = [], np.zeros((across, down), dtype=bool)
    for form in (one, other):
        cascade = cascade_with(form or "m >= 0")
        einsum = cascade.einsum("Y")
        sizes = {"p": tile_p, "m": tile_m}
        several.append(parts(cascade, einsum, shape, sizes, frozenset(moving)) if form else ())
        held = np.ones((p, m), dtype=bool)
        for condition in form.split(", ") if form else ():
            held &= eval(condition, {}, {"p": rows, "m": columns})
        whole = np.zeros((across * tile_p, down * tile_m), dtype=bool)
        whole[:p, :m] = held
        touched |= whole.reshape(across, tile_p, down, tile_m).any((1, 3))
    high = np.minimum(tile_p, p - tile_p * np.arange(across))[:, None]
    wide = np.minimum(tile_m, m - tile_m * np.arange(down))
    weights = (
        (high if "p" in moving else 1) * (wide if "m" in moving else 1) * np.ones((across, down))
    )
    found = union(several, frozenset(moving)) * weights.sum()
    true = (touched * weights).sum()
    assert found >= true - 1e-9
    single = {"m >= 7", "p < 6"}
    if one == other or not one or not other or not {one, other} & single:
        assert found == pytest.approx(true)
