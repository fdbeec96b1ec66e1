"""Register room: against a walk that knows when each word is made and read last, and by hand."""

from __future__ import annotations

import itertools
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mappers
import workloads
from archs import load_architecture
from einsum_cascade import parse_cascade
from sim import (
    IN_ARRAY,
    EinsumMapping,
    Loop,
    Mapping,
    Phase,
    PhaseChoice,
    Tile,
    always,
    evaluate,
)
from sim.registers import register_words
from sim.single import single_point
from sim.timeline import timeline

ROWS = parse_cascade(
    "{name: rows, ranks: {R: rows, N: columns}, inputs: ['A[r,n]', 'W[n]'], outputs: [V], body: ["
    "'Y[r,n] = A[r,n] * W[n]', 'D[r] = Y[r,n]', 'Z[r,n] = Y[r,n] * D[r]', 'V[r] = Z[r,n] * Y[r,n]']}"
)
RANKS = {"Y": "RN", "D": "RN", "Z": "RN", "V": "RN"}
MADE = {"Y": "RN", "D": "R", "Z": "RN", "V": "R"}
READ = {"Y": "", "D": "Y", "Z": "YD", "V": "ZY"}


@st.composite
def phases(draw):
    """Four Einsums that share loops over rows, the later ones fewer of them; own loops in any order."""
    shared = [Loop(f"s{i}", "R", float(draw(st.integers(1, 3)))) for i in range(2)]
    rows, columns = draw(st.integers(1, 3)), [draw(st.integers(1, 3)) for _ in range(2)]
    lanes = draw(st.sampled_from("RN"))
    wide = draw(st.integers(1, 3))
    depths = sorted((draw(st.integers(0, 2)) for _ in "YDZV"), reverse=True)
    nests = []
    for name, depth in zip("YDZV", depths, strict=True):
        rest = prod(loop.extent for loop in shared[depth:])
        own = [Loop(f"{name}r", "R", float(rows * rest))]
        own += [Loop(f"{name}n{i}", "N", float(n)) for i, n in enumerate(columns)]
        own = draw(st.permutations(own))
        lane = Loop(f"{name}l", lanes, float(wide), True)
        nests.append(EinsumMapping(name, "1d", (*shared[:depth], *own, lane), depth))
    kept = {t: always("DRAM") for t in "AWV"} | {t: always(IN_ARRAY) for t in "YDZ"}
    return Phase("rows", tuple(nests), kept)


def operations(nests, loops=()):
    """All iterations in time of nests that follow one another, and share loops."""
    depth = len(loops)
    for together, group in itertools.groupby(nests, lambda m: m.shared > depth):
        group = list(group)
        if together:
            for i in range(int(group[0].loops[depth].extent)):
                yield from operations(group, (*loops, i))
            continue
        for nest in group:
            for own in itertools.product(*(range(int(lp.extent)) for lp in nest.temporal[depth:])):
                yield nest, (*loops, *own)


def coordinates(nest, digits):
    found = {"R": 0, "N": 0}
    for at, (loop, digit) in enumerate(zip(nest.loops, digits, strict=True)):
        inside = prod(int(lp.extent) for lp in nest.loops[at + 1 :] if lp.rank == loop.rank)
        found[loop.rank] += digit * inside
    return found


def walked(phase):
    """For each Einsum, the most words in any PE before or after one of its operations."""
    born, last, times, home = {}, {}, {}, {}
    for time, (nest, digits) in enumerate(operations(phase.einsums)):
        times.setdefault(nest.einsum, []).append(time)
        for lane in range(int(nest.loops[-1].extent)):
            at = coordinates(nest, (*digits, lane))
            word = (nest.einsum, *(at[r] for r in MADE[nest.einsum]))
            if nest.einsum != "V":
                born.setdefault(word, time)
                home[word] = lane if nest.loops[-1].rank in MADE[nest.einsum] else 0
            for tensor in READ[nest.einsum]:
                last[(tensor, *(at[r] for r in MADE[tensor]))] = time
    most = {}
    for name, when in times.items():
        for time in when:
            for before in (True, False):
                held = {}
                for word, first in born.items():
                    alive = first < time <= last[word] if before else first <= time < last[word]
                    if alive:
                        held[home[word]] = held.get(home[word], 0) + 1
                most[name] = max(most.get(name, 0), max(held.values(), default=0))
    return most


@settings(max_examples=60, deadline=None)
@given(phases())
def test_never_less_than_what_is_alive(phase):
    """Each tensor has room of its own for all of the phase, and so at every moment."""
    counted = register_words(ROWS, phase)
    total = sum(counted.get("1d", {}).values(), np.float64(0))
    assert max(walked(phase).values()) <= total


NEST = ("s", "R", 4.0), ("n", "N", 16.0)


def nest(einsum, array, shared=1, loops=NEST, lanes=()):
    own = [
        Loop(name if i < shared else f"{einsum}{name}", *rest)
        for i, (name, *rest) in enumerate(loops)
    ]
    return EinsumMapping(einsum, array, (*own, *lanes), shared)


def missing(cascade, nests, shape, registers, **kept):
    on = load_architecture("fusemax-cloud").resolve(
        {f"arrays.{name}.registers.words": words for name, words in registers.items()}
    )
    phase = Phase("p", tuple(nests), kept)
    return evaluate(Mapping(cascade, on, shape, (PhaseChoice((phase,)),))).infeasible[0]


SHAPE = {"R": 4, "N": 16}
HOMES = {t: always("DRAM") for t in "AWV"} | {t: always(IN_ARRAY) for t in "YDZ"}


@pytest.mark.parametrize(("words", "fits"), [(33, True), (32, False)])
def test_tensors_share_the_registers(words, fits):
    """Y is read again by V, so Z takes words of its own, and D one."""
    nests = [nest(e, "2d") for e in "YDZV"]
    found = missing(ROWS, nests, SHAPE, {"2d": words}, **HOMES)
    if fits:
        assert found is None
    else:
        assert "each PE of array 2d needs 33 words of registers, and has 32: 1 are missing" in found
        assert "Y takes 16" in found
        assert "D takes 1" in found
        assert "Z takes 16" in found


PAIR = parse_cascade(
    "{name: pair, ranks: {R: rows, N: columns}, inputs: ['A[r,n]'], outputs: [V], body: ["
    "'Y[r,n] = A[r,n] * A[r,n]', 'V[r,n] = Y[r,n] * A[r,n]']}"
)


@pytest.mark.parametrize("lanes", [1.0, 4.0])
@pytest.mark.parametrize("turned", [False, True])
def test_loops_of_the_same_name_are_not_the_same_loops(turned, lanes):
    """V takes Y in another order, or over other lanes: all of it waits."""

    def own(einsum, first, second, wide):
        loops = (Loop("a", *first), Loop("b", *second), Loop("l", "N", wide, True))
        return EinsumMapping(einsum, "2d", loops)

    order = (("R", 4.0), ("N", 16.0 / lanes))
    y = own("Y", ("R", 4.0), ("N", 16.0), 1.0)
    v = own("V", *(order[::-1] if turned else order), lanes)
    home = {"A": always("DRAM"), "V": always("DRAM"), "Y": always(IN_ARRAY)}
    found = missing(PAIR, [y, v], SHAPE, {"2d": 63}, **home)
    if turned or lanes > 1:
        assert "each PE of array 2d needs 64 words of registers, and has 63" in found
    else:
        assert found is None


SOFTMAX = parse_cascade(
    "{name: softmax, ranks: {R: rows, N: columns}, inputs: ['A[r,n]', 'W[n]'], outputs: [V], body: ["
    "'Y[r,n] = A[r,n] * W[n]', 'D[r] = max over n of Y[r,n]', 'Z[r,n] = exp(Y[r,n] - D[r])',"
    " 'V[r] = Z[r,n] * W[n]']}"
)


@pytest.mark.parametrize(("words", "fits"), [(17, True), (16, False)])
def test_a_result_overwrites_an_operand_that_nothing_reads_any_more(words, fits):
    nests = [nest(e, "2d") for e in "YDZV"]
    found = missing(SOFTMAX, nests, SHAPE, {"2d": words}, **HOMES)
    assert (found is None) == fits


@pytest.mark.parametrize(("words", "fits"), [(32, True), (31, False)])
def test_what_waits_for_another_array_has_the_next_tile_beside_it(words, fits):
    """D goes to the 1D array and comes back through the buffer: meanwhile Y of the next row is made."""
    nests = [nest(e, "1d" if e == "D" else "2d") for e in "YDZV"]
    home = HOMES | {"D": always("buffer", Tile("buffer", "s", 2))}
    found = missing(SOFTMAX, nests, SHAPE, {"2d": words}, **home)
    assert (found is None) == fits
    if not fits:
        assert "Y takes 32" in found
    alone = [nest(e, "1d" if e == "D" else "2d", loops=(("s", "R", 1.0), NEST[1])) for e in "YDZV"]
    assert missing(SOFTMAX, alone, {"R": 1, "N": 16}, {"2d": 16}, **home) is None


def test_steps_work_on_one_tile():
    """Serial schedules do not begin the next tile: FuseMax's fits where the interleaved one does not."""
    cascade = workloads.cascade("attention-1pass")
    shape = {"B": 1, "H": 1, "E": 8, "F": 8, "M": 64, "P": 64}
    for words, schedule in itertools.product((1, 2), ("serial", "interleaved")):
        on = load_architecture("fusemax-cloud").resolve(
            {"array_dim": 8, "arrays.2d.registers.words": words}
        )
        placed = mappers.place(
            "fusemax",
            mappers.check_options("fusemax", {"schedule": schedule}),
            cascade=cascade,
            architecture=on,
            shape=shape,
        )
        assert (evaluate(placed).infeasible[0] is None) == (words == 2 or schedule == "serial")


SUMS = parse_cascade(
    "{name: sums, ranks: {R: rows, N: columns, K: summed}, inputs: ['A[r,k]', 'W[k,n]'],"
    " outputs: [Z], body: ['Y[r,n] = A[r,k] * W[k,n]', 'Z[r] = max over n of Y[r,n]']}"
)


@pytest.mark.parametrize(("order", "words"), [("nk", 1), ("kn", 16)])
def test_partial_sums_wait_for_the_last(order, words):
    """What is handed to a linked array is complete: sums over an outer loop stay in their PEs."""
    every = {"n": ("n", "N", 16.0), "k": ("k", "K", 8.0)}
    lanes = (Loop("Rl", "R", 4.0, True),)
    y = nest("Y", "2d", 1, (("s", "R", 4.0), *(every[k] for k in order)), lanes)
    z = nest("Z", "1d", 1, NEST, lanes)
    home = {t: always("DRAM") for t in "AWZ"} | {"Y": always(IN_ARRAY)}
    shape = {"R": 16, "N": 16, "K": 8}
    assert missing(SUMS, [y, z], shape, {"2d": words}, **home) is None
    if words > 1:
        found = missing(SUMS, [y, z], shape, {"2d": words - 1}, **home)
        assert "array 2d needs 16 words of registers, and has 15" in found


def test_what_the_next_array_comes_back_to_waits_there():
    """The 1D array reads each row of Y once for every column of the result."""
    cascade = parse_cascade(
        "{name: again, ranks: {R: rows, N: columns, F: out}, inputs: ['A[r,n]', 'W[n]', 'U[n,f]'],"
        " outputs: [Z], body: ['Y[r,n] = A[r,n] * W[n]', 'Z[r,f] = Y[r,n] * U[n,f]']}"
    )
    y = nest("Y", "2d")
    home = {t: always("DRAM") for t in "AWUZ"} | {"Y": always(IN_ARRAY)}
    shape = {"R": 4, "N": 16, "F": 8}
    for order, words in ((("n", "f"), 1), (("f", "n"), 16)):
        every = {"n": ("n", "N", 16.0), "f": ("f", "F", 8.0)}
        z = nest("Z", "1d", 1, (NEST[0], *(every[k] for k in order)))
        assert missing(cascade, [y, z], shape, {"1d": words}, **home) is None
        if words > 1:
            found = missing(cascade, [y, z], shape, {"1d": words - 1}, **home)
            assert "array 1d needs 16 words of registers, and has 15" in found


STATE = parse_cascade("""
name: run
ranks: {K: {about: steps}, N: columns}
inputs: ["A[k,n]"]
outputs: [Z]
initialization: ["S[0,n] = 0"]
body: ["S[k+1,n] = S[k,n] + A[k,n]", "D[k,n] = S[k,n] * A[k,n]", "Z[k,n] = D[k,n] * D[k,n]"]
iterate: {rank: K, stop: k >= K}
""")


def test_the_generation_before_waits_for_its_last_reader():
    """S of the step before is read when S of this one is there: two words of each, and D's."""
    loops = (("k", "K", 4.0), ("n", "N", 8.0))
    home = {"A": always("DRAM"), "Z": always("DRAM"), "S": always(IN_ARRAY), "D": always(IN_ARRAY)}
    nests = [nest(e, "1d", 1, loops) for e in "SDZ"]
    shape = {"K": 4, "N": 8}
    assert missing(STATE, nests, shape, {"1d": 24}, **home) is None
    found = missing(STATE, nests, shape, {"1d": 23}, **home)
    assert "array 1d needs 24 words of registers, and has 23" in found
    assert "S takes 16" in found


@pytest.mark.parametrize("length", [4096, 8192])
def test_what_fits_runs_at_full_speed(length):
    """The tile of keys that the rule allows overlaps on the timeline too, tile by tile."""
    on = load_architecture("fusemax-cloud").resolve({})
    cascade = workloads.cascade("attention-1pass")
    shape = {"B": 2, "H": 2, "E": 64, "F": 64, "P": length, "M": length}
    options = mappers.check_options("search", {"fusion": "whole"})
    placed = mappers.place(
        "search", options, cascade=cascade, architecture=on, shape={**shape, "M0": 2048}
    )
    costs = evaluate(placed)
    assert costs.infeasible[0] is None
    found = timeline(single_point(placed), ports=False)
    assert found.latency_s == pytest.approx(costs.latency_s[0], rel=0.01)
