"""Mappings that mean nothing are mistakes of whoever made them; some that mean something cannot be."""

from __future__ import annotations

import pytest

from archs import load_architecture
from einsum_cascade import parse_cascade
from sim import (
    IN_ARRAY,
    EinsumMapping,
    Loop,
    Mapping,
    Option,
    Phase,
    PhaseChoice,
    Residency,
    Tile,
    always,
    evaluate,
)


def small(body, *nests, **residency):
    """A cascade over R and N on 64 x 64 PEs, its nests in one phase."""
    cascade = parse_cascade(
        "{name: s, ranks: {R: rows, N: columns}, inputs: ['A[r,n]'], body: [" + body + "]}"
    )
    kept = {t: always("DRAM") for t in cascade.tensors} | residency
    architecture = load_architecture("fusemax-cloud").resolve()
    shape = {"R": 16, "N": 8}
    return Mapping(cascade, architecture, shape, (PhaseChoice((Phase("p", nests, kept),)),))


def nest(einsum, *loops, shared=0, array="1d"):
    return EinsumMapping(einsum, array, tuple(Loop(*loop) for loop in loops), shared)


R, N = ("r", "R", 16.0), ("n", "N", 8.0)
DOUBLE = "'Y[r,n] = A[r,n] * A[r,n]'"


@pytest.mark.parametrize(("mapping", "message"), [
    (small(DOUBLE, nest("Y", R, N), Y=()), "Y must have exactly one residency"),
    (small(DOUBLE, nest("Y", R, N), Y=(Option(False, Residency("DRAM")),)), "exactly one"),
    (small(DOUBLE, nest("Y", R, N), Y=always("DRAM") * 2), "exactly one"),
    (small(DOUBLE, nest("Y", R, N), Y=always("L3")), "unknown memory 'L3'"),
    (small(DOUBLE, nest("Y", R, N, array="3d")), "unknown array '3d'"),
    (small(DOUBLE, nest("Y", (*R, True), N)), "spatial loops come last"),
    (small(DOUBLE, nest("Y", R, ("r", "N", 8.0))), "two loops of one name"),
    (small(DOUBLE, nest("Y", ("r", "R", -16.0), N)), "no positive integer"),
    (small(DOUBLE, nest("Y", ("r", "R", float("nan")), N)), "no positive integer"),
    (small(DOUBLE, nest("Y", ("r", "R", 16.5), N)), "no positive integer"),
    (small(DOUBLE, nest("Y", R, N), nest("Y", R, N)), "an Einsum has two nests"),
    (small(DOUBLE, nest("Y", R, (*N, True)), A=always("DRAM", Tile("buffer", "n"))), "a spatial loop"),
    (small(DOUBLE, nest("Y", R, N), A=always("buffer", Tile("DRAM", "r"))), "from its home inwards"),
    (small(DOUBLE + ", 'Z[r,n] = Y[r,n] * A[r,n]'", nest("Y", R, N, shared=1),
           nest("Z", ("r", "R", 8.0), ("r0", "R", 2.0), N, shared=1)), "share loop r, which differs"),
    (small(DOUBLE, nest("Y", R, N), Y=always("DRAM", in_place_of="X")), "in place of X"),
])  # fmt: skip
def test_what_no_loop_nest_could_mean_raises(mapping, message):
    with pytest.raises(ValueError, match=message):
        evaluate(mapping)


def test_overwriting_what_is_still_read():
    body = DOUBLE + ", 'Z[r,n] = Y[r,n] * Y[r,n]', 'X[r,n] = Z[r,n] + Y[r,n]'"
    tile = Tile("buffer", None)
    nests = [nest(e, R, N) for e in "YZX"]
    fine = small(body, *nests, Y=always("buffer", tile), Z=always("buffer", tile))
    assert evaluate(fine).infeasible[0] is None
    over = always("buffer", tile, in_place_of="Y")
    bad = small(body, *nests, Y=always("buffer", tile), Z=over)
    assert "Z overwrites Y, which X still reads afterwards" in evaluate(bad).infeasible[0]


def test_an_einsum_between_two_that_share_a_loop_shares_it_too():
    body = DOUBLE + ", 'X[r] = Y[r,n]', 'Z[r] = X[r] * X[r]', 'W[r,n] = Z[r] * Y[r,n]'"
    tile = Tile("buffer", None)
    nests = [
        nest("Y", R, N, shared=1), nest("X", R, N, shared=1), nest("Z", R, shared=0),
        nest("W", R, N, shared=1),
    ]  # fmt: skip
    kept = {t: always("buffer", tile) for t in "YXZ"}
    found = evaluate(small(body, *nests, **kept))
    assert (
        "Z stands between Einsums that share loop r, which it does not share"
        in (found.infeasible[0])
    )


RUN = """
name: run
ranks: {K: {about: steps}, N: columns}
inputs: ["A[k,n]"]
outputs: [Z]
initialization: ["S[0,n] = 0"]
body: ["S[k+1,n] = S[k,n] + A[k,n]"]
final: ["Z[n] = S[K,n] * S[K,n]"]
iterate: {rank: K, stop: k >= K}
"""


def running(*loops, home, shared=0):
    architecture = load_architecture("fusemax-cloud").resolve()
    nests = (
        EinsumMapping("S", "1d", tuple(Loop(*loop) for loop in loops), shared),
        EinsumMapping("Z", "1d", (Loop("n", "N", 1024.0),)),
    )
    residency = {"A": always("DRAM"), "Z": always("DRAM"), "S": home}
    phase = PhaseChoice((Phase("p", nests, residency),))
    mapping = Mapping(parse_cascade(RUN), architecture, {"K": 64, "N": 1024}, (phase,))
    return evaluate(mapping).infeasible[0]


def test_running_values_live_until_their_next_generation():
    k, n = ("k", "K", 64.0), ("n", "N", 1024.0)
    assert running(k, n, home=always("buffer", Tile("buffer", None))) is None
    part = running(k, n, home=always("buffer", Tile("buffer", "n")))
    assert "holds a part of a generation only" in part
    assert "words of registers" in running(k, n, home=always(IN_ARRAY))
    assert "spreads the iterative rank K over PEs" in running(
        n, (*k, True), home=always("buffer", Tile("buffer", None))
    )
