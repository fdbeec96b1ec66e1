"""Compulsory words against enumerating every point: never more, and exact for the usual forms."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from einsum_cascade import analyze_passes, parse_cascade
from einsum_cascade.filters import filtered_space
from einsum_cascade.reached import distinct_sums
from einsum_cascade.shapes import points_in
from einsum_cascade.tiles import tile_share

PLACES = [  # indices of one input, and their tuples
    "p",
    "m",
    "m,p",
    "x(p+k)",
    "x(2*p+k)",
    "x(2*p+4*k)",
    "x(3*p+2*k)",
    "x(p-k+9)",
    "p,x(p+k)",
    "m,x(p+k)",
    "x(m+p)",
    "x(m+p+k)",
    "k",
    "k,x(p+k)",
    "x(p+m),x(m+k)",
]


def random_condition(chosen):
    sign = chosen.choice(["<", "<=", ">", ">=", "=="])
    c = chosen.randint(-4, 9)
    return chosen.choice(
        [
            f"m {sign} p{c:+d}",
            f"p - m {sign} {c}",
            f"p + m {sign} {abs(c)}",
            f"p + k {sign} {abs(c)}",
            f"p - k {sign} {c}",
            f"p {sign} {abs(c)}",
            f"m {sign} {abs(c)}",
            f"k {sign} {abs(c)}",
            f"P {sign} {abs(c)}",
            f"2*p {sign} m{c:+d}",
        ]
    )


def values_of(place, at):
    texts = [t.removeprefix("x(").removesuffix(")") for t in place.split(",")]
    return tuple(eval(t, {}, at) for t in texts)


def cascade_of(place, conditions, out="p"):
    count = place.count(",") + 1
    declared = ["xyz"[i] if t.startswith("x(") else t for i, t in enumerate(place.split(","))]
    index = ",".join(t.removeprefix("x(").removesuffix(")") for t in place.split(","))
    names = ",".join(declared)
    where = f" where {', '.join(conditions)}" if conditions else ""
    used = {v for v in "mpk" if v in index or any(v in c for c in conditions)} | {"m", "p", "k"}
    others = "".join(f" * O{v}[{v}]" for v in sorted(used))
    inputs = [f"A[{names}]", *(f"O{v}[{v}]" for v in sorted(used))]
    ranks = "{P: a, M: a, K: a, X: a, Y: a, Z: a}"
    unused = [r for r in "XYZ"[:3] if r.lower() not in declared]
    for r in unused:
        ranks = ranks.replace(f", {r}: a", "")
    assert count <= 3
    return parse_cascade(
        f"name: c\nranks: {ranks}\ninputs: {inputs}\nbody:\n"
        f"  - Y{out.upper()}[{out}] = A[{index}]{others}{where}\n".replace("'", '"')
    )


def kept(conditions, shape):
    for p, m, k in itertools.product(*(range(shape[r]) for r in "PMK")):
        at = {"p": p, "m": m, "k": k, "P": shape["P"]}
        if all(eval(c, {}, at) for c in conditions):
            yield at


@pytest.mark.parametrize("seed", range(200))
def test_no_more_than_every_point_reads(seed):
    chosen = random.Random(seed)
    place = chosen.choice(PLACES)
    conditions = [random_condition(chosen) for _ in range(chosen.choice((0, 1, 1, 2)))]
    cascade = cascade_of(place, conditions)
    shape = {r: chosen.randint(1, 7) for r in "PMK"}
    full = {**shape, **{r: 60 for r in "XYZ" if r in cascade.ranks}}
    analysis = analyze_passes(cascade)
    points = list(kept(conditions, shape))
    true = len({values_of(place, at) for at in points})
    found = analysis._words("A", {**full})
    assert found <= true, (place, conditions, shape)
    space = filtered_space(cascade, cascade.einsums[0], full) if conditions else None
    plain = not any(c in place for c in "+-")
    if plain and (space is None or all(b.closed for b in space.bands)):
        assert found == true, (place, conditions, shape)
    for name in "pmk":
        words = analysis._words(f"O{name}", full)
        assert words <= len({at[name] for at in points})
    written = analysis._words("YP", full)
    assert written <= (len({at["p"] for at in points}) if conditions else shape["P"])
    # arrays of design points are counted alike
    many = {n: np.array([float(v), float(v)]) for n, v in full.items()}
    np.testing.assert_allclose(np.broadcast_to(analysis._words("A", many), 2), found)


@pytest.mark.parametrize(
    ("index", "where", "words"),
    [
        ("p+k", "p >= 300", 730),
        ("p+k", "p+k >= 3", 1027),
        ("p+k", "0 <= p+k-3 < P", 1024),
        ("2*p+4*k", "p >= 0", 1036),
        ("2*p+k", "p >= 300", 1453),
        ("8*p+k", "p >= 0", 1024 * 7),
        ("p-k+7", "p >= 0", 1030),
    ],
)
def test_windows(index, where, words):
    cascade = parse_cascade(
        f"{{name: c, ranks: [P, K, X], inputs: ['A[x]', 'W[k]'], "
        f"body: ['Y[p] = A[{index}] * W[k] where {where}']}}"
    )
    shape = {"P": 1024, "K": 7, "X": 9000}
    at = {"P": 1024}
    terms = [t.strip() for t in where.split(",")]
    true = {
        eval(index, {}, {"p": p, "k": k})
        for p in range(1024)
        for k in range(7)
        if all(eval(t, {}, {"p": p, "k": k, **at}) for t in terms)
    }
    assert len(true) == words
    assert analyze_passes(cascade)._words("A", shape) == words


@pytest.mark.parametrize("seed", range(200))
def test_sums_of_strides(seed):
    chosen = random.Random(seed)
    terms = [(chosen.randint(1, 9), chosen.randint(1, 9)) for _ in range(chosen.choice((2, 2, 3)))]
    true = len({sum(i) for i in itertools.product(*(range(0, s * n, s) for s, n in terms))})
    found = distinct_sums(terms)
    assert found <= true
    if len(terms) == 2:
        assert found == true
    many = [(np.array([s, s]), np.array([float(n), n])) for s, n in terms]
    assert np.all(distinct_sums(many) <= true)


def test_a_causal_matrix_may_be_an_input():
    cascade = parse_cascade(
        "{name: c, ranks: [P, M, F], inputs: ['S[m,p]', 'V[f,m]'], "
        "body: ['AV[f,p] = S[m,p] * V[f,m] where m <= p']}"
    )
    shape = {"P": 1024, "M": 1024, "F": 64}
    assert analyze_passes(cascade).compulsory_words(shape) == 1024 * 1025 // 2 + 2 * 64 * 1024


def test_a_causal_matrix_may_be_an_output():
    cascade = parse_cascade(
        "{name: c, ranks: [P, M, E], inputs: ['Q[e,p]', 'K[e,m]'], "
        "body: ['S[m,p] = Q[e,p] * K[e,m] where m <= p']}"
    )
    assert analyze_passes(cascade)._words("S", {"P": 64, "M": 64, "E": 4}) == 64 * 65 // 2


@pytest.mark.parametrize("occupancy", [0.0, 0.1, 1.0])
def test_blocks_that_data_leave(occupancy):
    cascade = parse_cascade(
        f"""
name: c
ranks: {{P: {{partition: [P1, P0]}}, P1: , P0: , M: {{partition: [M1, M0]}}, M1: , M0: , E: e}}
inputs: ["Q[e,p]", "K[e,m]", "G[m1,p1]"]
occupancy: {{G: {occupancy}}}
body: ["S[m1,m0,p1,p0] = Q[e,p1*P0+p0] * K[e,m1*M0+m0] where G[m1,p1] > 0"]
"""
    )
    shape = {"P": 32, "P0": 8, "M": 24, "M0": 8, "E": 2}
    analysis = analyze_passes(cascade)
    values = cascade.resolve_shape(shape)
    share = 1 - (1 - occupancy) ** 4
    assert analysis._words("K", values) == pytest.approx(share * 2 * 24)
    assert analysis._words("Q", values) == pytest.approx((1 - (1 - occupancy) ** 3) * 2 * 32)
    assert analysis._words("G", values) == 12  # all of it, to know where it is above 0
    assert analysis._words("S", values) == pytest.approx(occupancy * 32 * 24)
    generator = np.random.default_rng(1)
    drawn = (generator.random((4000, 3, 4)) < occupancy).any(2).mean()
    assert share == pytest.approx(drawn, abs=0.02)


def test_a_filter_on_data_under_a_mask():
    cascade = parse_cascade(
        "{name: c, ranks: [P, M], inputs: ['A[m]', 'Q[p]', 'G[m,p]'], occupancy: {G: 0.3}, "
        "body: ['Y[p] = Q[p] * A[m] where m <= p, G[m,p] > 0']}"
    )
    shape = {"P": 8, "M": 8}
    generator = np.random.default_rng(2)
    rows, columns = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    drawn = (generator.random((4000, 8, 8)) < 0.3) & (rows <= columns)
    analysis = analyze_passes(cascade)
    true = drawn.any(2).sum(1).mean()
    assert 0.7 * true < analysis._words("A", shape) <= true + 0.05
    assert analysis._words("G", shape) == 36


@pytest.mark.parametrize("where", ["P < 5", "p == 10", "p >= 3, p < 3", "m < p, m >= p"])
def test_nothing_is_read_where_nothing_is_left(where):
    cascade = parse_cascade(
        "{name: c, ranks: [P, M], inputs: ['A[m]', 'Q[p]'], "
        f"body: ['Y[p] = Q[p] * A[m] where {where}']}}"
    )
    assert analyze_passes(cascade).compulsory_words({"P": 7, "M": 9}) == 0
    many = {"P": np.array([7, 20]), "M": np.array([9, 9])}
    found = np.broadcast_to(analyze_passes(cascade).compulsory_words(many), 2)
    assert found[0] == 0


CLIPPED = [
    "m <= p, m >= 4",
    "m <= p, p >= 9",
    "p + m < 17, 3 <= m < 11",
    "m <= p, p < 12, m > 1",
    "0 <= p - m < 5, m >= 2, p < 13",
]


@pytest.mark.parametrize("where", CLIPPED)
@pytest.mark.parametrize("seed", range(12))
def test_masks_with_a_bound_on_one_variable(where, seed):
    chosen = random.Random(seed)
    cascade = parse_cascade(
        "{name: c, ranks: [P, M], inputs: ['A[m]', 'Q[p]'], "
        f"body: ['Y[p] = Q[p] * A[m] where {where}']}}"
    )
    einsum = cascade.einsum("Y")
    tile_p, tile_m = chosen.randint(1, 6), chosen.randint(1, 6)
    shape = {"P": tile_p * chosen.randint(1, 5), "M": tile_m * chosen.randint(1, 5)}
    p, m = np.meshgrid(np.arange(shape["P"]), np.arange(shape["M"]), indexing="ij")
    python = where.replace("0 <= p - m < 5", "(0 <= p - m) & (p - m < 5)")
    python = python.replace("3 <= m < 11", "(3 <= m) & (m < 11)")
    held = np.logical_and.reduce([eval(c, {}, {"p": p, "m": m}) for c in python.split(", ")])
    assert all(b.closed for b in filtered_space(cascade, einsum, shape).bands)
    assert points_in(cascade, einsum, shape) == held.sum()
    across, down = shape["P"] // tile_p, shape["M"] // tile_m
    tiles = held.reshape(across, tile_p, down, tile_m).any((1, 3)).sum()
    found = tile_share(cascade, einsum, shape, {"p": tile_p, "m": tile_m}) * across * down
    assert found == pytest.approx(tiles)
    assert analyze_passes(cascade).compulsory_words(shape) == (
        held.any(0).sum() + 2 * held.any(1).sum()
    )


def test_a_long_mask_with_a_bound_is_counted_in_closed_form():
    cascade = parse_cascade(
        "{name: c, ranks: [P, M], inputs: ['A[m]', 'Q[p]'], "
        "body: ['Y[p] = Q[p] * A[m] where m <= p, m >= 4']}"
    )
    n = 2**20
    assert points_in(cascade, cascade.einsum("Y"), {"P": n, "M": n}) == (n - 4) * (n - 3) // 2
