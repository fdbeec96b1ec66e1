"""What is fetched under filters, for readers with different ones, and for tensors read twice.

Found by a review; each is held against walking through the loops with sets of words.
"""

from __future__ import annotations

import itertools

import pytest

from archs import load_architecture
from einsum_cascade import analyze_passes, parse_cascade
from sim import EinsumMapping, Loop, Phase, Tile, always
from sim.accesses import tally

ARCHITECTURE = load_architecture("flat-cloud").resolve({})
HOME, BUFFER = (memory.name for memory in ARCHITECTURE.memories[:2])


def priced(cascade, shape, nests, tiles):
    """Words of each tensor from and to the outermost memory; all nests in one phase."""
    tensors = (*cascade.inputs, *(e.name for e in cascade.einsums))
    residency = {t: always(HOME, *(Tile(BUFFER, b) for b in tiles.get(t, ()))) for t in tensors}
    found = tally(
        cascade, ARCHITECTURE, cascade.resolve_shape(shape), Phase("y", tuple(nests), residency)
    )
    return {t: words for (m, t), words in found.words_by_tensor.items() if m == HOME}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("m <= p", "m > p"),
        ("m <= p, p - m < 8", "p - m < 24"),
        ("m < 16", "m >= 32"),
        ("m <= p", ""),
    ],
)
@pytest.mark.parametrize(("p", "m"), [(64, 64), (60, 50)])
def test_two_readers_under_different_filters(one, other, p, m):
    """A tile that both share is fetched where one or the other needs it."""
    wheres = [f" where {c}" if c else "" for c in (one, other)]
    cascade = parse_cascade(
        "{name: c, ranks: [P, M], inputs: ['A[m]', 'Q[p]'], outputs: [Y, Z], body: "
        f"['Y[p] = Q[p] * A[m]{wheres[0]}', 'Z[p] = Q[p] * A[m]{wheres[1]}']}}"
    )
    size = 16
    shared = (Loop("P1", "P", float(-(-p // size))), Loop("M1", "M", float(-(-m // size))))
    nests = [
        EinsumMapping(
            name, "2d", (*shared, Loop("M0", "M", size, True), Loop("P0", "P", size, True)), 2
        )
        for name in "YZ"
    ]
    words = priced(cascade, {"P": p, "M": m}, nests, {"A": ["M1"], "Q": ["P1"]})

    def needed(i, j):
        return any(
            eval(c.replace(",", " and") or "True", {}, {"p": i, "m": j}) for c in (one, other)
        )

    starts = itertools.product(range(0, p, size), range(0, m, size))
    fetched = [
        (a, b)
        for a, b in starts
        if any(needed(i, j) for i in range(a, min(a + size, p)) for j in range(b, min(b + size, m)))
    ]
    assert words["A"] == pytest.approx(sum(min(size, m - b) for _, b in fetched))
    assert words["Q"] == pytest.approx(sum(min(size, p - a) for a in {a for a, _ in fetched}))


def combining(shape, tile):
    """The sum of the results of a token's experts, in tiles of tokens, experts and features."""
    cascade = parse_cascade(
        "{name: c, ranks: [T, X, N], parameters: [TOPK], inputs: ['Z[t,x,n]', 'G[t,x]'], "
        "occupancy: {G: TOPK/X}, body: ['Y[t,n] = Z[t,x,n] * G[t,x] where G[t,x] > 0']}"
    )
    loops = (
        Loop("T1", "T", float(shape["T"] // tile)),
        Loop("X", "X", float(shape["X"])),
        Loop("N", "N", float(shape["N"])),
        Loop("T0", "T", float(tile), True),
    )
    below = {"Z": ["T1"], "G": ["T1"], "Y": ["T1"]}
    nest = EinsumMapping("Y", "1d", loops)
    return cascade, priced(cascade, shape, [nest], below)


@pytest.mark.parametrize("tile", [1, 16, 64])
def test_results_of_experts_that_were_not_chosen_are_not_fetched(tile):
    shape = {"T": 64, "X": 32, "N": 8, "TOPK": 2}
    cascade, words = combining(shape, tile)
    assert words["Z"] == pytest.approx(64 * 2 * 8)
    assert words["G"] == pytest.approx(64 * 32)  # read to know which are chosen
    least = analyze_passes(cascade).compulsory_words(shape)
    assert sum(words.values()) >= least * (1 - 1e-12)


def test_what_no_point_of_a_tile_needs():
    """A word that several points share is fetched if any of them passes."""
    cascade = parse_cascade(
        "{name: c, ranks: [P, M], inputs: ['A[m]', 'Q[p]', 'G[p,m]'], occupancy: {G: 0.05}, "
        "body: ['Y[p] = A[m] * Q[p] where G[p,m] > 0']}"
    )
    loops = (
        Loop("P1", "P", 4.0),
        Loop("M1", "M", 4.0),
        Loop("M0", "M", 16.0, True),
        Loop("P0", "P", 16.0, True),
    )
    nest = EinsumMapping("Y", "2d", loops)
    words = priced(cascade, {"P": 64, "M": 64}, [nest], {"A": ["M1"], "Q": ["P1"], "G": ["M1"]})
    assert words["A"] == pytest.approx(4 * 64 * (1 - 0.95**16))
    assert words["Q"] == pytest.approx(64 * (1 - 0.95**64))  # kept while all keys go by
    assert words["G"] == pytest.approx(64 * 64)


def test_two_ways_of_reading_a_tensor_in_one_einsum():
    cascade = parse_cascade(
        "{name: c, ranks: {P: a, Q: {like: P}}, inputs: ['A[p]'], body: ['Y[p,q] = A[p] * A[q]']}"
    )
    loops = (
        Loop("P1", "P", 4.0),
        Loop("Q1", "Q", 4.0),
        Loop("Q0", "Q", 16.0, True),
        Loop("P0", "P", 16.0, True),
    )
    nest = EinsumMapping("Y", "2d", loops)
    words = priced(cascade, {"P": 64}, [nest], {"A": ["Q1"]})
    assert words["A"] == pytest.approx(64 + 4 * 64)  # its tile of p stays, that of q changes


def test_neighbours_read_in_one_einsum():
    cascade = parse_cascade(
        "{name: c, ranks: [X], inputs: ['A[x]'], body: ['Y[x] = A[x] * A[x+3] where x + 3 < X']}"
    )
    loops = (Loop("X1", "X", 4.0), Loop("X0", "X", 16.0, True))
    words = priced(cascade, {"X": 64}, [EinsumMapping("Y", "1d", loops)], {"A": ["X1"]})
    assert words["A"] == pytest.approx(4 * (16 + 3))


@pytest.mark.parametrize("where", ["P > 1000", "P < 1000"])
def test_a_filter_that_never_holds(where):
    cascade = parse_cascade(
        "{name: c, ranks: [P, M], inputs: ['A[m]', 'Q[p]'], "
        f"body: ['Y[p] = Q[p] * A[m] where {where}']}}"
    )
    loops = (
        Loop("P1", "P", 4.0),
        Loop("M1", "M", 4.0),
        Loop("M0", "M", 16.0, True),
        Loop("P0", "P", 16.0, True),
    )
    nest = EinsumMapping("Y", "2d", loops)
    words = priced(cascade, {"P": 64, "M": 64}, [nest], {"A": ["M1"], "Q": ["P1"]})
    some = where == "P < 1000"
    assert (words["A"], words["Q"]) == (some * 4 * 64, some * 64)


@pytest.mark.parametrize("where", ["m < 4", "m >= 8", "m <= p", "m > p + 4", "p >= 8", "p + m < 7"])
@pytest.mark.parametrize("innermost", ["P1", "M1"])
def test_incomplete_tiles(where, innermost):
    """10 x 9 points in tiles of 4: never less than the cascade needs, and just what is touched."""
    cascade = parse_cascade(
        "{name: c, ranks: [P, M], inputs: ['A[m]', 'Q[p]', 'S[p,m]'], "
        f"body: ['Y[p] = Q[p] * A[m] * S[p,m] where {where}']}}"
    )
    outer = [Loop("P1", "P", 3.0), Loop("M1", "M", 3.0)]
    if innermost == "P1":
        outer.reverse()
    loops = (*outer, Loop("M0", "M", 4.0, True), Loop("P0", "P", 4.0, True))
    below = {tensor: [innermost] for tensor in "AQS"}
    nest = EinsumMapping("Y", "2d", loops)
    words = priced(cascade, {"P": 10, "M": 9}, [nest], below)
    tiles = [
        (a, b)
        for a, b in itertools.product(range(0, 10, 4), range(0, 9, 4))
        if any(
            eval(where, {}, {"p": i, "m": j})
            for i in range(a, min(a + 4, 10))
            for j in range(b, min(b + 4, 9))
        )
    ]
    inner, kept = ("Q", "A") if innermost == "P1" else ("A", "Q")
    size = {"Q": lambda tile: min(4, 10 - tile[0]), "A": lambda tile: min(4, 9 - tile[1])}
    assert words["S"] == pytest.approx(sum(size["Q"](t) * size["A"](t) for t in tiles))
    assert words[inner] == pytest.approx(sum(map(size[inner], tiles)))
    once = {t[1 if kept == "A" else 0]: size[kept](t) for t in tiles}
    assert words[kept] == pytest.approx(sum(once.values()))


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize(
    "table", ["D*p", "p%D + D*max(min(p//D - 2, (P - p%D + D - 1)//D - 5), 0)"]
)
def test_a_computed_table_with_steps(step, table):
    """`T[p] + D*k`: as many coordinates as a tile of 16 reaches, or a few more."""
    n, near, size = 64, 5, 16
    cascade = parse_cascade(
        "{name: c, ranks: [P, K, X], parameters: [D], inputs: ['A[x]', 'W[k]'], "
        f"body: ['T[p] = {table}', 'Y[p] = A[T[p]+D*k] * W[k]']}}"
    )
    loops = (Loop("P1", "P", n / size), Loop("K", "K", near), Loop("P0", "P", size, True))
    nest = EinsumMapping("Y", "1d", loops)
    shape = {"P": n, "K": near, "X": 1000, "D": step}
    words = priced(cascade, shape, [nest], {"A": ["P1"]})
    true = 0
    for tile in range(0, n, size):
        points = itertools.product(range(tile, tile + size), range(near))
        at = {"P": n, "D": step, "max": max, "min": min}
        true += len({eval(table, {}, at | {"p": p}) + step * k for p, k in points})
    assert true - 1e-9 <= words["A"] <= 4 * size * near
    assert words["A"] <= true * (1.25 if "%" in table or step == 1 else step)


def test_a_window_beside_the_first_keys():
    """Streaming attention's table: sinks at the beginning, then a window that goes with p."""
    cascade = parse_cascade(
        "{name: c, ranks: [P, L, M], parameters: [C], inputs: ['A[m]', 'W[l]'], body: "
        "['T[l,p] = min(l//C, 1) * (p + 100)', 'Y[p] = A[T[l,p]+l] * W[l]']}"
    )
    loops = (
        Loop("P1", "P", 4.0),
        Loop("L1", "L", 2.0),
        Loop("L0", "L", 16.0),
        Loop("P0", "P", 16.0, True),
    )
    shape = {"P": 64, "L": 32, "M": 1000, "C": 4}
    words = priced(cascade, shape, [EinsumMapping("Y", "1d", loops)], {"A": ["L1"]})
    true = 0
    for p0, l0 in itertools.product(range(0, 64, 16), range(0, 32, 16)):
        block = itertools.product(range(p0, p0 + 16), range(l0, l0 + 16))
        true += len({min(k // 4, 1) * (p + 100) + k for p, k in block})
    assert words["A"] == pytest.approx(true)
