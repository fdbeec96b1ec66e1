"""Masks, windows and gathers in the simulator, against walking through the loop nest."""

from __future__ import annotations

import itertools
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archs import load_architecture
from einsum_cascade import parse_cascade
from sim import EinsumMapping, Loop, Mapping, Phase, PhaseChoice, Tile, always, evaluate
from sim.legality import exchanges_along


def cascade_with(expression, ranks, inputs, extra=""):
    return parse_cascade(
        f"{{name: c, ranks: {ranks}, inputs: {inputs}, {extra} body: ['Y[p] = {expression}']}}"
    )


ARCHITECTURE = load_architecture("flat-cloud").resolve({})


def priced(cascade, shape, loops, tiles, array="2d"):
    architecture = ARCHITECTURE
    home = architecture.memories[0].name
    buffer = architecture.memories[1].name
    residency = {
        name: always(home, *(Tile(buffer, below) for below in tiles.get(name, ())))
        for name in (*cascade.inputs, "Y")
    }
    nest = EinsumMapping("Y", array, loops)
    phase = Phase("y", (nest,), residency)
    full = {k: np.asarray(v, dtype=np.float64) for k, v in cascade.resolve_shape(shape).items()}
    return evaluate(Mapping(cascade, architecture, full, (PhaseChoice((phase,)),)))


def nest(p, m, tile_p, tile_m):
    return (
        Loop("P1", "P", -(-p // tile_p)),
        Loop("M1", "M", -(-m // tile_m)),
        Loop("M0", "M", tile_m, True),
        Loop("P0", "P", tile_p, True),
    )


@pytest.mark.parametrize(("p", "m", "tile_p", "tile_m"), [(64, 64, 16, 16), (64, 96, 16, 8)])
@pytest.mark.parametrize("window", [None, 24])
def test_masked_product_walked_through(p, m, tile_p, tile_m, window):
    mask = "m <= p + M - P" + ("" if window is None else f", p + M - P - m < {window}")
    cascade = cascade_with(f"Q[p] * A[m] where {mask}", "[P, M]", "['Q[p]', 'A[m]']")
    found = priced(
        cascade, {"P": p, "M": m}, nest(p, m, tile_p, tile_m), {"A": ["M1"], "Q": ["P1"]}
    )

    def holds(i, j):
        return j <= i + m - p and (window is None or i + m - p - j < window)

    worked = [
        (a, b)
        for a, b in itertools.product(range(p // tile_p), range(m // tile_m))
        if any(holds(a * tile_p + i, b * tile_m + j) for i in range(tile_p) for j in range(tile_m))
    ]
    architecture = load_architecture("flat-cloud").resolve({})
    assert found.infeasible[0] is None
    assert found.latency_s[0] * architecture.clock_hz == pytest.approx(len(worked))
    keys = len(worked) * tile_m  # each worked tile of keys is fetched: another one lies between
    queries = len({a for a, _ in worked}) * tile_p
    by_tensor = found.traffic_by_tensor_bytes
    assert by_tensor["A"][0] == pytest.approx(2 * keys)
    assert by_tensor["Q"][0] == pytest.approx(2 * queries)
    points = sum(holds(i, j) for i in range(p) for j in range(m))
    used = found.slot_seconds["2d", "Y"][0] * architecture.clock_hz * 256 * 256
    assert used == pytest.approx(points)  # work is counted exactly, cycles by tiles


def test_a_window_overlaps_itself():
    cascade = cascade_with("A[p+k] * W[k]", "[P, K, X]", "['A[x]', 'W[k]']")
    p, k, tile = 64, 5, 16
    loops = (
        Loop("P1", "P", p // tile),
        Loop("K", "K", k),
        Loop("P0", "P", tile, True),
    )
    found = priced(cascade, {"P": p, "K": k, "X": p + k - 1}, loops, {"A": ["P1"]}, "1d")
    assert found.infeasible[0] is None
    # every tile of 16 results needs 16 + 4 neighbours, not 16 * 5
    assert found.traffic_by_tensor_bytes["A"][0] == pytest.approx(2 * (p // tile) * (tile + k - 1))


@given(*[st.integers(1, 5)] * 2, *[st.integers(1, 6)] * 2, st.integers(1, 3))
@settings(max_examples=60)
def test_a_rank_in_parts_is_moved_once(outer, m0, tile, inner, rows):
    """Whatever pads the last tile, or the only one: `m1*M0 + m0` reaches every word once."""
    cascade = parse_cascade(
        "{name: parts, ranks: {P: p, M: {about: m, partition: [M1, M0]}, M1: {}, M0: {}},"
        " inputs: ['A[m]', 'Q[p]'], body: ['B[m1,m0] = A[m1*M0+m0]', 'Y[p] = B[m1,m0] * Q[p]']}"
    )
    m = outer * m0
    shape = {"P": rows, "M": m, "M1": outer, "M0": m0}
    loops = (
        Loop("P", "P", rows),
        Loop("M1b", "M1", -(-outer // tile)),
        Loop("M0b", "M0", -(-m0 // inner)),
        Loop("M1a", "M1", tile),
        Loop("M0a", "M0", inner, True),
    )
    for below in (None, "P", "M1b", "M0b"):
        found = priced(cascade, shape, loops, {"A": [below]}, "1d")
        assert found.infeasible[0] is None
        outside = [loop.extent for loop in loops[1 : [None, "P", "M1b", "M0b"].index(below)]]
        times = rows if prod(outside) > 1 else 1  # one tile alone stays for all rows
        assert found.traffic_by_tensor_bytes["A"][0] == pytest.approx(2 * m * times)


@given(
    st.integers(1, 9), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(1, 5)
)
@settings(max_examples=80)
def test_windows_with_a_stride(p, k, stride, tile, inner):
    """Never fewer words than there are different ones, nor more than the tiles have in all."""
    cascade = parse_cascade(
        "{name: patches, ranks: {P: p, K: k, X: {}}, parameters: {S: stride},"
        " inputs: ['A[x]', 'W[k]'], outputs: [Y], body: ['Y[p] = A[S*p+k] * W[k]']}"
    )
    shape = {"P": p, "K": k, "X": stride * (p - 1) + k, "S": stride}
    loops = (
        Loop("P1", "P", -(-p // tile)),
        Loop("K1", "K", -(-k // inner)),
        Loop("P0", "P", tile),
        Loop("K0", "K", inner),
    )
    found = priced(cascade, shape, loops, {"A": ["K1"]}, "1d")
    assert found.infeasible[0] is None
    tiles = [
        {stride * (a * tile + i) + b * inner + j for i in range(tile) for j in range(inner)}
        for a in range(-(-p // tile))
        for b in range(-(-k // inner))
    ]
    reached = {stride * i + j for i in range(p) for j in range(k)}
    words = found.traffic_by_tensor_bytes["A"][0] / 2
    assert words >= len(reached) * (1 - 1e-9)
    assert words <= sum(map(len, tiles)) * (1 + 1e-9)
    if stride >= k:  # patches: nothing is reached twice
        assert words == pytest.approx(p * k)


def test_a_table_of_data_scatters():
    cascade = cascade_with("A[T[p,k]] * W[k]", "[P, K, X]", "['A[x]', 'W[k]', 'T[p,k]']")
    p, k, tile = 64, 5, 16
    loops = (
        Loop("P1", "P", p // tile),
        Loop("K", "K", k),
        Loop("P0", "P", tile, True),
    )
    tiles = {"A": ["P1"], "T": ["P1"]}
    found = priced(cascade, {"P": p, "K": k, "X": 1000}, loops, tiles, "1d")
    assert found.infeasible[0] is None
    assert found.traffic_by_tensor_bytes["A"][0] == pytest.approx(2 * p * k)
    assert found.traffic_by_tensor_bytes["T"][0] == pytest.approx(2 * p * k)
    few = priced(cascade, {"P": p, "K": k, "X": 40}, loops, tiles, "1d")
    # no tile holds more than the 40 words there are
    assert few.traffic_by_tensor_bytes["A"][0] == pytest.approx(2 * (p // tile) * 40)


def test_a_filter_on_data_skips_tiles_at_random():
    cascade = cascade_with(
        "A[m] * Q[p] where G[p] > 0",
        "[P, M]",
        "['A[m]', 'Q[p]', 'G[p]']",
        "occupancy: {G: 0.05},",
    )
    found = priced(cascade, {"P": 64, "M": 64}, nest(64, 64, 16, 16), {"A": ["M1"]})
    assert found.infeasible[0] is None
    clock = load_architecture("flat-cloud").resolve({}).clock_hz
    assert found.latency_s[0] * clock == pytest.approx(16 * (1 - 0.95**16))


def test_a_step_that_exchanges_rows_must_be_iterated_outside():
    cascade = parse_cascade(
        "{name: newton, ranks: {T: {}, I: {}, J: {like: I}, K: {like: I}}, "
        "inputs: ['V0[i,j]', 'P[i,k]'], initialization: ['V[0,i,j] = V0[i,j]*1'], "
        "body: ['V[t+1,i,j] = V[t,i,k]*P[k,j]'], final: ['Z[i,j] = V[T,i,j]*2'], "
        "iterate: {rank: T, stop: t >= 4}}"
    )
    assert exchanges_along(cascade, "T", "J")
    assert exchanges_along(cascade, "T", "K")
    assert not exchanges_along(cascade, "T", "I")  # V[i] needs row i alone: V P^t
