"""Arrays that are pipelined loops, against loops that are run iteration by iteration.

The clocks here have 1 Hz, so that seconds are cycles.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archs import Architecture, ComputeArray, Memory, Operation, PipelinedLoop
from einsum_cascade import parse_cascade
from sim import EinsumMapping, Loop, Mapping, Phase, PhaseChoice, Tile, always, evaluate
from sim.accesses import Tally
from sim.schedule import STALL, carried, timing

KINDS = ("mac", "mul", "add", "exp", "max")


def array(name, interval, depth, *shape):
    operations = {kind: Operation(kind, {}, 0.0, {}) for kind in KINDS}
    loop = PipelinedLoop(float(interval), float(depth))
    return ComputeArray(name, shape or (1.0,), operations, 0.0, 0.0, np.nan, loop)


def architecture(*arrays, latency=0.0, bandwidth=1e12, links=()):
    dram = Memory("DRAM", np.inf, bandwidth, 1.0, 0.0, 0.0, 0.0, latency_cycles=latency)
    rows = Memory("rows", 1e9, np.inf, 1.0, 0.0, 0.0, 0.0)
    return Architecture("toy", 1.0, 4.0, (dram, rows), arrays, frozenset(links), {})


def independent(count):
    """Einsums that have nothing to do with each other."""
    body = ", ".join(f"'Y{i}[r] = A[r] * A[r]'" for i in range(count))
    return parse_cascade("{name: s, ranks: {R: r}, inputs: ['A[r]'], body: [" + body + "]}")


def cycles_of(architecture, cascade, *nests, shape=None, steps=()):
    phase = Phase("p", tuple(nests), {}, steps)
    return timing(cascade, architecture, shape or {"R": 1}, phase, Tally())


class Pipeline:
    """A loop in hardware: an iteration begins an interval after the last, or when it is empty."""

    def __init__(self, interval, depth):
        self.interval, self.depth = interval, depth
        self.next, self.empty = 0, 0

    def iteration(self):
        self.empty = max(self.next + self.depth, self.next + self.interval)
        self.next += self.interval

    def run_empty(self):
        self.next = self.empty


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.integers(1, 7),
    st.integers(0, 30),
    st.none() | st.integers(0, 2),
)
def test_a_loop_runs_full_and_empty_as_often_as_it_restarts(extents, interval, depth, restarts):
    at = None if restarts is None else min(restarts, len(extents) - 1)
    pipeline = Pipeline(interval, depth)

    def run(level):
        if level == len(extents):
            return pipeline.iteration()
        for _ in range(extents[level]):
            run(level + 1)
            if level == at:
                pipeline.run_empty()

    run(0)
    loops = tuple(Loop(f"r{i}", "R", float(x)) for i, x in enumerate(extents))
    nest = EinsumMapping("Y0", "a", loops, restarts=None if at is None else f"r{at}")
    found = cycles_of(architecture(array("a", interval, depth)), independent(1), nest)
    assert found.latency_s == pipeline.empty
    assert found.terms_s["a"] + found.terms_s[STALL] == pipeline.empty


@st.composite
def trees(draw, path=(), depth=0):
    """Nodes of a tree of loops: (path, number of Einsums that end there, children)."""
    count = draw(st.integers(0, 3 - depth))
    children = [
        draw(trees((*path, Loop(f"l{depth}{i}-{len(path)}", "R", float(draw(st.integers(1, 4))))),
                   depth + 1))
        for i in range(count)
    ]  # fmt: skip
    own = draw(st.integers(0 if children else 1, 2)) if path else 0
    return path, own, children


def dissolved(children):
    """Loops inside of another one: what is in a loop of one iteration stands in its place."""
    for child in children:
        path, _, inside = child
        if path[-1].extent > 1:
            yield child
        else:
            yield from dissolved(inside)


def walk(node, pipeline):
    """Runs the loops of a tree; what has no loop inside is an iteration, whatever is in it."""
    path, _, children = node
    for _ in range(int(path[-1].extent) if path else 1):
        inside = list(dissolved(children))
        if not inside:
            pipeline.iteration()
        for child in inside:
            walk(child, pipeline)


def nests_of(node):
    path, own, children = node
    yield from (path for _ in range(own))
    for child in children:
        yield from nests_of(child)


@given(trees(), st.integers(1, 4), st.integers(0, 9), st.randoms())
def test_einsums_that_share_all_their_loops_with_others_are_one_loop(tree, interval, depth, random):
    nests = list(nests_of(tree))
    if not nests:
        return
    random.shuffle(nests)
    pipeline = Pipeline(interval, depth)
    walk(tree, pipeline)
    mapped = [EinsumMapping(f"Y{i}", "a", n, len(n)) for i, n in enumerate(nests)]
    found = cycles_of(architecture(array("a", interval, depth)), independent(len(nests)), *mapped)
    assert found.latency_s == pipeline.empty
    leaves = {tuple(loop.name for loop in nest if loop.extent > 1) for nest in nests}
    leaves = {n for n in leaves if not any(o[: len(n)] == n and o != n for o in leaves)}
    along = carried(architecture(array("a", 1, 1)), Phase("p", tuple(mapped), {}))
    assert len(mapped) - len(along) == len(leaves)
    assert not {loop for loops in along.values() for loop in loops} & set(along)


@given(st.lists(st.lists(st.integers(1, 3), min_size=3, max_size=3), min_size=2, max_size=2))
def test_at_each_point_loops_are_one_where_the_others_have_one_iteration(extents):
    """Two Einsums share a loop and have one each of their own."""
    hardware = architecture(array("a", 2, 3))

    def latency(shared, one, other):
        nests = [
            EinsumMapping(f"Y{i}", "a", (Loop("r", "R", shared), Loop(f"r{i}", "R", own)), 1)
            for i, own in enumerate((one, other))
        ]
        return cycles_of(hardware, independent(2), *nests).latency_s

    def by_hand(shared, one, other):
        alone = [own for own in (one, other) if own > 1]
        return 2 * (shared * sum(alone) if alone else shared) + (3 - 2)

    points = [np.array(each, dtype=float) for each in zip(*extents, strict=True)]
    assert latency(*points).tolist() == [by_hand(*each) for each in extents]


@given(trees(), st.integers(1, 4), st.integers(0, 9))
def test_loops_of_one_iteration_cost_nothing(tree, interval, depth):
    nests = list(nests_of(tree))
    if not nests:
        return
    hardware = architecture(array("a", interval, depth))
    mapped = [EinsumMapping(f"Y{i}", "a", n, len(n)) for i, n in enumerate(nests)]
    named = [  # names that stay apart when loops outside are left out
        [
            replace(loop, name=f"{[lp.name for lp in n[:at]]} {loop.name}")
            for at, loop in enumerate(n)
        ]
        for n in nests
    ]
    fewer = [tuple(loop for loop in n if loop.extent > 1) for n in named]
    without = [EinsumMapping(f"Y{i}", "a", n, len(n)) for i, n in enumerate(fewer)]
    cascade = independent(len(nests))
    found = cycles_of(hardware, cascade, *mapped).latency_s
    assert found == cycles_of(hardware, cascade, *without).latency_s


def test_loops_are_one_only_where_they_are_shared_and_on_one_array():
    loops = (Loop("r1", "R", 5.0), Loop("r0", "R", 4.0))
    hardware = architecture(array("a", 2, 2), array("b", 3, 3))
    alone = [EinsumMapping(e, "a", loops) for e in ("Y0", "Y1")]
    assert cycles_of(hardware, independent(2), *alone).latency_s == 2 * 40
    shared = [replace(nest, shared=2) for nest in alone]
    assert cycles_of(hardware, independent(2), *shared).latency_s == 40
    beside = [shared[0], replace(shared[1], array="b")]
    assert cycles_of(hardware, independent(2), *beside).latency_s == 60
    steps = (("Y0",), ("Y1",))
    assert cycles_of(hardware, independent(2), *beside, steps=steps).latency_s == 40 + 60


def test_units_fill_one_behind_the_other_and_the_memory_is_at_both_ends():
    """By hand: 20 iterations of interval 2; depths 10 and 7; 75 cycles there and back, twice."""
    loops = (Loop("r", "R", 20.0),)
    hardware = architecture(array("a", 2, 10), array("b", 1, 7), latency=75.0)
    nests = [EinsumMapping("Y0", "a", loops, 1), EinsumMapping("Y1", "b", loops, 1)]
    found = cycles_of(hardware, independent(2), *nests)
    assert found.latency_s == 20 * 2 + (10 - 2) + (7 - 1) + 2 * 75
    assert found.terms_s[STALL] == 8 + 6 + 150
    assert found.busy_s == {"a": 40, "b": 20, "DRAM": 0}


FILTERED = """
name: masked
ranks: {P: p, M: m}
inputs: ["A[p,m]"]
body:
  - X[p,m] = A[p,m] * A[p,m] where m <= p
  - Y[p,m] = A[p,m] * A[p,m]
"""


@pytest.mark.parametrize("order", [("X", "Y"), ("Y", "X")])
def test_a_loop_goes_on_as_long_as_any_of_its_einsums_has_points(order):
    loops = (Loop("p", "P", 6.0), Loop("m", "M", 6.0))
    hardware = architecture(array("a", 1, 1))
    cascade, shape = parse_cascade(FILTERED), {"P": 6, "M": 6}
    nests = [EinsumMapping(e, "a", loops, 2) for e in order]
    assert cycles_of(hardware, cascade, *nests, shape=shape).latency_s == 36
    masked = [nest for nest in nests if nest.einsum == "X"]
    assert cycles_of(hardware, cascade, *masked, shape=shape).latency_s == 21


PRODUCT = parse_cascade(
    "{name: product, ranks: {R: r, K: k, N: n}, inputs: ['A[r,k]', 'W[k,n]'], outputs: [Z],"
    " body: ['Z[r,n] = A[r,k] * W[k,n]']}"
)


def product(r, k, n, *, interval=1, depth=16, lanes=(4, 2), ahead=(), bandwidth=1e12, latency=0.0):
    unit = array("linear", interval, depth, *map(float, lanes))
    hardware = architecture(unit, bandwidth=bandwidth, latency=latency)
    wide = min(lanes[0], k), min(lanes[1], n)
    loops = (
        Loop("R", "R", float(r)),
        Loop("N1", "N", np.ceil(n / wide[1])),
        Loop("K1", "K", np.ceil(k / wide[0])),
        Loop("K0", "K", float(wide[0]), True),
        Loop("N0", "N", float(wide[1]), True),
    )
    kept = {"A": always("DRAM", Tile("rows", "R")), "W": always("DRAM", Tile("rows", None)),
            "Z": always("DRAM")}  # fmt: skip
    phase = Phase("p", (EinsumMapping("Z", "linear", loops),), kept, ahead=frozenset(ahead))
    shape = {"R": r, "K": k, "N": n}
    return evaluate(Mapping(PRODUCT, hardware, shape, (PhaseChoice((phase,)),)))


@given(*[st.integers(1, 9)] * 3, st.integers(1, 5), st.integers(1, 40), st.integers(1, 4),
       st.integers(1, 4))  # fmt: skip
def test_a_matrix_product_block_by_block(r, k, n, interval, depth, wide, high):
    pipeline = Pipeline(interval, depth)
    for _ in range(r):
        for _ in range(0, n, high):
            for _ in range(0, k, wide):
                pipeline.iteration()
    found = product(r, k, n, interval=interval, depth=depth, lanes=(wide, high))
    assert found.infeasible[0] is None
    assert found.latency_s[0] == pytest.approx(pipeline.empty)
    moved = 4 * (r * k + k * n + r * n)
    assert [found.traffic_bytes[0], found.lower_bound_bytes[0]] == pytest.approx([moved] * 2)
    done = found.util["linear"][0] * found.latency_s[0] * wide * high
    assert done == pytest.approx(r * k * n * interval)  # what pads the last block is no work


def test_weights_that_come_ahead_by_hand():
    """6 x 8 weights at 4 bytes a cycle, then 6 rows of 2 x 4 blocks; the way there once more."""
    beside = product(6, 6, 8, lanes=(3, 2), depth=1, bandwidth=4.0, latency=10.0)
    assert beside.latency_s[0] == 36 + 48 + 48 + 2 * 10  # bound by all that the memory moves
    ahead = product(6, 6, 8, lanes=(3, 2), depth=1, bandwidth=4.0, latency=10.0, ahead="W")
    assert ahead.latency_s[0] == 48 + (36 + 48) + 3 * 10
    fast = product(6, 6, 8, lanes=(3, 2), depth=1, bandwidth=40.0, latency=10.0, ahead="W")
    assert fast.latency_s[0] == pytest.approx(4.8 + 6 * 4 * 2 + 3 * 10)
    assert ahead.busy_s["DRAM"][0] == beside.busy_s["DRAM"][0] == 36 + 48 + 48
    assert ahead.traffic_bytes[0] == beside.traffic_bytes[0]
    total = sum(term[0] for term in fast.latency_terms_s.values())
    assert total == pytest.approx(fast.latency_s[0])


def test_only_the_outermost_memory_has_to_be_waited_for():
    """What a memory on chip gives to its arrays meanwhile is not ahead of them."""
    unit = array("linear", 1, 1, 1.0)
    hardware = architecture(unit, bandwidth=4.0)
    slow = replace(hardware.memories[1], bandwidth_bytes_per_s=4.0)
    hardware = replace(hardware, memories=(hardware.memories[0], slow))
    loops = tuple(Loop(r, r, 4.0) for r in "RNK")
    kept = {"A": always("DRAM"), "W": always("DRAM", Tile("rows", None)), "Z": always("DRAM")}
    phase = Phase("p", (EinsumMapping("Z", "linear", loops),), kept, ahead=frozenset("W"))
    found = evaluate(Mapping(PRODUCT, hardware, dict.fromkeys("RNK", 4), (PhaseChoice((phase,)),)))
    moved = 16 + 64  # weights in, and one for each of the 64 products out
    assert found.busy_s["rows"][0] == moved
    assert found.latency_s[0] == 16 + max(moved, 64 + 16)


def test_all_numbers_may_be_arrays():
    intervals, depths = np.array([1.0, 2.0, 3.0]), np.array([5.0, 1.0, 40.0])
    loops = (Loop("r1", "R", np.array([2.0, 3.0, 4.0])), Loop("r0", "R", 4.0))
    nests = [
        EinsumMapping("Y0", "a", loops[:1], 1, restarts="r1"),
        EinsumMapping("Y1", "a", loops, 2, restarts="r1"),
    ]
    many = cycles_of(architecture(array("a", 1, 1)), independent(2), *nests).latency_s
    assert many.tolist() == [8, 12, 16]
    hardware = architecture(replace(array("a", 1, 1), loop=PipelinedLoop(intervals, depths)))
    many = cycles_of(hardware, independent(2), *nests).latency_s
    assert many.tolist() == [2 * (4 + 4), 3 * 8, 4 * (12 + 37)]
