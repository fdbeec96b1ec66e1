"""Serialized folds: SCALE-Sim's cycles, a walk through the nest, Einsums that are no products."""

from __future__ import annotations

import csv
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mappers
import workloads
from archs import load_architecture
from einsum_cascade import parse_cascade
from mappers.contraction import STATIONARITY, Choice, build
from mappers.roles import as_product
from sim import IN_ARRAY, EinsumMapping, Loop, Mapping, Phase, always, evaluate, evaluate_phase
from sim.folds import folds_of
from sim.schedule import einsum_cycles

LINEAR = workloads.cascade("linear-layer")  # Z[r,n] = A[r,k] * W[k,n]: M is R here
PRODUCT = as_product(LINEAR, LINEAR.einsums[0])
TURNED = replace(
    PRODUCT, x=PRODUCT.w, w=PRODUCT.x, rows=PRODUCT.columns, columns=PRODUCT.rows
)  # Z transposed: W's columns are its rows
# memory is no limit, so that the arrays alone set the time
ROOMY = {
    "memories.DRAM.bandwidth_bytes_per_s": 1e30,
    "memories.buffer.size_bytes": 1e30,
}
DATAFLOWS = {"os": "output", "ws": "weight", "is": "input"}


def reported():
    with (Path(__file__).parent / "scalesim.csv").open() as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return [{k: v if k == "dataflow" else int(v) for k, v in row.items()} for row in rows]


ROWS = reported()


def machine(rows, cols, **more):
    sides = {"arrays.2d.shape.0": rows, "arrays.2d.shape.1": cols}
    return load_architecture("fusemax-cloud").resolve({**ROOMY, **sides, **more})


def closed_form(dataflow, m, n, k, r, c):
    """Folds times the length of a fold."""
    if dataflow == "os":
        return np.ceil(m / r) * np.ceil(n / c) * (k + r + c - 2)
    if dataflow == "ws":
        return np.ceil(k / r) * np.ceil(n / c) * (m + 2 * r + c - 2)
    return np.ceil(k / r) * np.ceil(m / c) * (n + 2 * r + c - 2)


def nest(dataflow, m, n, k, r, c):
    """SCALE-Sim's loops, written down."""
    ranks = {"os": "RNK", "ws": "KNR", "is": "KRN"}[dataflow]  # rows, columns, stream
    extents = {"R": m, "N": n, "K": k}
    rows, columns, stream = ranks
    across = [np.minimum(extents[rows], r), np.minimum(extents[columns], c)]
    return EinsumMapping(
        "Z",
        "2d",
        (
            Loop("rows1", rows, np.ceil(extents[rows] / across[0])),
            Loop("columns1", columns, np.ceil(extents[columns] / across[1])),
            Loop("stream", stream, extents[stream]),
            Loop("rows0", rows, across[0], True),
            Loop("columns0", columns, across[1], True),
        ),
        folds="serialized",
    )


def searched(product, stationary, m, n, k, architecture, folds="serialized"):
    """The nest of `mappers.contraction` with all rows in one tile."""
    shape = {"R": m, "N": n, "K": k}
    side = np.minimum(architecture.array("2d").shape[1], shape[product.rows])
    choice = Choice(np.ceil(shape[product.rows] / side), np.True_, np.True_)
    mapping = Mapping(LINEAR, architecture, shape, ())
    phase = build(mapping, product, stationary, choice, folds)
    return mapping, phase


# ---- SCALE-Sim ------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(map(str, row.values())))
def test_a_product_takes_the_cycles_that_scale_sim_reports(row):
    m, n, k, r, c = (row[name] for name in ("M", "N", "K", "rows", "cols"))
    flow, cycles = row["dataflow"], row["cycles"] + 1  # it counts from 0
    architecture, shape = machine(r, c), {"R": m, "N": n, "K": k}
    assert closed_form(flow, m, n, k, r, c) == cycles
    by_hand = nest(flow, m, n, k, r, c)
    assert einsum_cycles(LINEAR, architecture, shape, by_hand) == cycles
    # in `mappers.contraction`, Z has W's columns on the rows of PEs: the transposed product
    product = TURNED if flow == "os" else PRODUCT
    mapping, phase = searched(product, DATAFLOWS[flow], m, n, k, architecture)
    assert einsum_cycles(LINEAR, architecture, shape, phase.einsums[0], phase) == cycles
    found = evaluate_phase(mapping, phase)
    assert found.infeasible[0] is None
    assert found.latency_s[0] * architecture.clock_hz == pytest.approx(cycles, rel=1e-12)


def random_products(count):
    rng = np.random.default_rng(6)
    m, n, k = np.floor(np.exp(rng.uniform(0, np.log(5000), (3, count))))
    r, c = np.floor(np.exp(rng.uniform(0, np.log(300), (2, count))))
    return m, n, k, r, c


@pytest.mark.parametrize("flow", DATAFLOWS)
def test_closed_form_on_500_shapes_and_arrays_at_once(flow):
    m, n, k, r, c = random_products(500)
    architecture, shape = machine(r, c), {"R": m, "N": n, "K": k}
    expected = closed_form(flow, m, n, k, r, c)
    by_hand = nest(flow, m, n, k, r, c)
    assert (einsum_cycles(LINEAR, architecture, shape, by_hand) == expected).all()
    product = TURNED if flow == "os" else PRODUCT
    mapping, phase = searched(product, DATAFLOWS[flow], m, n, k, architecture)
    found = evaluate_phase(mapping, phase)
    assert (found.infeasible == None).all()  # noqa: E711
    assert found.latency_s * architecture.clock_hz == pytest.approx(expected, rel=1e-12)
    folds = folds_of(LINEAR, architecture, shape, phase.einsums[0], phase)
    held = {"os": "Z", "ws": "W", "is": "A"}[flow]
    assert folds.stationary == (held,)
    assert (folds.count * folds.length_cycles(1.0) == expected).all()
    assert (folds.iterations == {"os": k, "ws": m, "is": n}[flow]).all()
    assert (folds.preload_cycles == (0 if flow == "os" else r)).all()


@pytest.mark.parametrize("stationary", STATIONARITY)
def test_both_ways_round_and_row_tiles(stationary):
    """X and W change places, so do M and N. Row tiles cut what W's folds stream."""
    m, n, k, r, c = random_products(500)
    architecture = machine(r, c)
    flow = {v: k for k, v in DATAFLOWS.items()}[stationary]
    shape = {"R": m, "N": n, "K": k}
    for product, sides in ((PRODUCT, (m, n)), (TURNED, (n, m))):
        if flow == "os":
            sides = sides[::-1]  # columns of W on the rows of PEs
        _, phase = searched(product, stationary, m, n, k, architecture)
        cycles = einsum_cycles(LINEAR, architecture, shape, phase.einsums[0], phase)
        assert (cycles == closed_form(flow, *sides, k, r, c)).all()
    for tiles in (2.0, 3.0):
        rows = np.ceil(m / np.minimum(m, c))
        each = np.ceil(rows / tiles)
        mapping = Mapping(LINEAR, architecture, shape, ())
        choice = Choice(each, np.True_, np.True_)
        phase = build(mapping, PRODUCT, stationary, choice, "serialized")
        cycles = einsum_cycles(LINEAR, architecture, shape, phase.einsums[0], phase)
        count = np.ceil(rows / each)
        if stationary == "weight":
            held = np.ceil(k / r) * np.ceil(n / c)
            folds = np.where(held > 1, count * held, 1)  # one tile of W stays for all row tiles
            assert (cycles == count * held * np.ceil(m / count) + folds * (2 * r + c - 2)).all()
        else:  # folds of their own anyway; tiles that do not divide are padded
            whole = closed_form(flow, *((n, m) if flow == "os" else (m, n)), k, r, c)
            assert cycles == pytest.approx(whole * count * each / rows)


def test_a_linear_layer_from_the_mapper_to_its_latency():
    """Compute-bound on 32 x 32 PEs: the best of all dataflows, and each one pinned."""
    m, n, k = np.array([64.0, 100, 1024, 1]), np.array([64.0, 70, 64, 1024]), 64.0
    shape = {"R": m, "N": n, "K": np.full(4, k)}
    architecture = machine(32, 32)

    def placed(**options):
        options = {"objective": "latency_s", "order": "any", **options}
        mapping = mappers.place(
            "unfused",
            mappers.check_options("unfused", options),
            cascade=LINEAR,
            architecture=architecture,
            shape=shape,
        )
        found = evaluate(mapping)
        assert (found.infeasible == None).all()  # noqa: E711
        assert (found.bottleneck == "2d").all()
        return found

    counts = {flow: closed_form(flow, m, n, k, 32, 32) for flow in DATAFLOWS}
    counts["os"] = np.minimum(counts["os"], closed_form("os", n, m, k, 32, 32))
    for flow, stationary in DATAFLOWS.items():
        found = placed(folds="serialized", stationary=stationary)
        assert found.latency_s * architecture.clock_hz == pytest.approx(counts[flow])
        assert all(f"Z: {stationary}-stationary" in note for note in found.mapping_notes)
    best = placed(folds="serialized")
    assert best.latency_s * architecture.clock_hz == pytest.approx(np.min([*counts.values()], 0))
    pipelined, serialized = placed(stationary="output"), placed(
        stationary="output", folds="serialized"
    )  # fmt: skip
    assert (pipelined.latency_s < serialized.latency_s).all()
    assert (placed(folds="pipelined").latency_s == placed().latency_s).all()
    assert (placed().latency_s <= pipelined.latency_s).all()
    assert (serialized.util["2d"] < pipelined.util["2d"]).all()
    assert (serialized.traffic_bytes >= serialized.lower_bound_bytes).all()


# ---- the rule -------------------------------------------------------------------------------------

RANKS = {"A": "RK", "W": "KN", "Z": "RN"}


@st.composite
def products(draw):
    """Loops over R, K and N in any order, two of these ranks over the PEs."""
    over = draw(st.permutations("RKN"))[:2]
    loops = [
        Loop(f"l{i}", draw(st.sampled_from("RKN")), float(draw(st.integers(1, 4))))
        for i in range(draw(st.integers(0, 6)))
    ]
    spatial = [Loop(f"s{rank}", rank, float(draw(st.integers(1, 5))), True) for rank in over]
    return EinsumMapping("Z", "2d", (*loops, *spatial), folds="serialized")


@given(products(), st.integers(5, 9), st.integers(5, 9))
@settings(max_examples=200, deadline=None)
def test_folds_are_those_of_a_walk(mapping, rows, columns):
    """Iteration by iteration: the held tensor's tile changes, and a new fold begins."""
    architecture = machine(rows, columns)
    over = {loop.rank for loop in mapping.loops if loop.spatial}
    (held,) = (tensor for tensor, ranks in RANKS.items() if over <= set(ranks))
    folds, last, iterations = 0, None, 0
    for at in itertools.product(*(range(int(loop.extent)) for loop in mapping.temporal)):
        tile = [c for c, loop in zip(at, mapping.temporal, strict=True) if loop.rank in RANKS[held]]
        folds += tile != last
        last = tile
        iterations += 1
    shape = {
        rank: np.prod([loop.extent for loop in mapping.loops if loop.rank == rank])
        for rank in "RKN"
    }
    found = folds_of(LINEAR, architecture, shape, mapping)
    assert found.stationary == (held,)
    assert found.count == folds
    assert found.iterations * folds == iterations
    inside = [loop.extent for loop in mapping.temporal[int(found.depth) :]]
    assert np.prod(inside) == found.iterations
    preload = 0 if held == "Z" else rows
    cycles = einsum_cycles(LINEAR, architecture, shape, mapping)
    assert cycles == iterations + folds * (preload + rows - 1 + columns - 1)
    assert cycles == folds * found.length_cycles(1.0)
    pipelined = replace(mapping, folds="pipelined")
    assert einsum_cycles(LINEAR, architecture, shape, pipelined) == iterations


@given(st.lists(products(), min_size=1, max_size=1), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_arrays_of_extents_are_their_entries(mappings, more):
    (mapping,) = mappings
    architecture = machine(9, 9)
    many = replace(
        mapping,
        loops=tuple(
            loop if loop.spatial else replace(loop, extent=np.array([loop.extent, more, 1.0]))
            for loop in mapping.loops
        ),
    )
    shape = {rank: 1.0 for rank in "RKN"}
    cycles = np.broadcast_to(einsum_cycles(LINEAR, architecture, shape, many), 3)
    for i in range(3):
        loops = tuple(replace(x, extent=np.broadcast_to(x.extent, 3)[i]) for x in many.loops)
        alone = einsum_cycles(LINEAR, architecture, shape, replace(many, loops=loops))
        assert cycles[i] == alone


# ---- Einsums that are no products -----------------------------------------------------------------


def fusemax(**shape):
    """FuseMax's attention with serialized folds on 8 x 16 PEs: 8 keys, 16 queries a tile."""
    architecture = machine(8, 16, **{"arrays.1d.shape.0": 16})
    mapping = mappers.place(
        "fusemax",
        mappers.check_options("fusemax", {}),
        cascade=workloads.cascade("attention-1pass"),
        architecture=architecture,
        shape={"B": 1, "H": 2, "E": 4, "F": 4, "M": 40, "P": 48, **shape},
    )
    phase = mapping.phases[0].options[0]
    nests = tuple(replace(m, folds="serialized") for m in phase.einsums)
    return mapping, replace(phase, einsums=nests)


def test_a_tile_of_fusemax_is_a_fold_of_each_einsum_without_a_preload():
    """What SLN and LM hold was made in the PE. Max and sum over the rows move through them."""
    mapping, phase = fusemax()
    tiles, skew = 2 * (40 / 8) * (48 / 16), 7 + 15
    work = {"QK": 4, "LM": 1, "SLN": 7, "SLD": 1, "SLNV": 4}
    held = {"QK": ("QK",), "LM": ("QK",), "SLN": ("QK", "SLN"), "SLD": ("SLN",), "SLNV": ("SLN",)}
    around = (mapping.cascade, mapping.architecture, mapping.shape)
    for m in phase.einsums:
        folds = folds_of(*around, m, phase)
        cycles = einsum_cycles(*around, m, phase)
        if m.array == "2d":
            assert folds.stationary == held[m.einsum]
            assert (folds.count, folds.preloads) == (tiles, 0)
            assert cycles == tiles * (work[m.einsum] + skew)
        else:  # a query a lane, next to no other
            assert cycles == einsum_cycles(*around, replace(m, folds="pipelined"))
    found = evaluate_phase(mapping, phase)
    assert found.infeasible[0] is None
    expected = tiles * (sum(work.values()) + 5 * skew)
    assert found.busy_s["2d"][0] * mapping.architecture.clock_hz == pytest.approx(expected)


def test_what_a_pe_did_not_make_is_shifted_in():
    """SLN on the 2D array, its operand from the buffer: rows of preload for every tile."""
    mapping, phase = fusemax()
    sln = next(m for m in phase.einsums if m.einsum == "SLN")
    around = (mapping.cascade, mapping.architecture, mapping.shape)
    alone = einsum_cycles(*around, sln)  # nothing beside it made QK
    assert alone == einsum_cycles(*around, sln, phase) + 30 * 8
    elsewhere = replace(phase, residency={**phase.residency, "QK": always("buffer")})
    assert einsum_cycles(*around, sln, elsewhere) == alone
    beside = always("buffer", handed_to=frozenset({"SLN"}))  # a copy is kept, the PE has its own
    handed = replace(phase, residency={**phase.residency, "QK": beside})
    assert einsum_cycles(*around, sln, handed) == einsum_cycles(*around, sln, phase)
    # made on this array, but by another PE: keys and queries have changed sides
    turned = replace(sln, loops=(*sln.temporal, *reversed(sln.loops[-2:])))
    assert einsum_cycles(*around, turned, phase) == alone


def test_some_points_preload():
    """Where QK lives may differ from point to point."""
    mapping, phase = fusemax()
    sln = next(m for m in phase.einsums if m.einsum == "SLN")
    here = np.array([True, False])
    (inside,), (outside,) = phase.residency["QK"], always("buffer")
    options = (replace(inside, when=here), replace(outside, when=~here))
    mixed = replace(phase, residency={**phase.residency, "QK": options})
    cycles = einsum_cycles(mapping.cascade, mapping.architecture, mapping.shape, sln, mixed)
    assert (cycles == 30 * np.array([7 + 22, 7 + 22 + 8])).all()


def test_an_array_that_turns_to_another_einsum_ends_a_fold_but_keeps_what_it_holds():
    """W stays for all rows; between two tiles of them the array runs the next layer."""
    cascade = parse_cascade(
        "{name: two, ranks: [R, K, N, L], inputs: ['A[r,k]', 'W[k,n]', 'U[n,l]'], "
        "body: ['Y[r,n] = A[r,k] * W[k,n]', 'Z[r,l] = Y[r,n] * U[n,l]']}"
    )
    architecture, shape = machine(8, 16), {"R": 20, "K": 8, "N": 8, "L": 16}
    outer = (Loop("R1", "R", 5.0), Loop("one", "R", 1.0))
    row = Loop("R0", "R", 4.0)
    y = EinsumMapping("Y", "2d", (*outer, row, Loop("K0", "K", 8.0, True), Loop("N0", "N", 8.0, True)), 2, folds="serialized")  # fmt: skip
    z = EinsumMapping("Z", "2d", (*outer, row, Loop("N0", "N", 8.0, True), Loop("L0", "L", 16.0, True)), 2, folds="serialized")  # fmt: skip
    skew, load = 7 + 15, 8
    assert einsum_cycles(cascade, architecture, shape, y) == load + 20 + skew
    for others, folds in (((), 1), ((z,), 5), ((replace(z, array="1d"),), 1)):
        phase = Phase("both", (y, *others), {"Y": always(IN_ARRAY)})
        found = folds_of(cascade, architecture, shape, y, phase)
        assert (found.count, found.preloads, found.iterations) == (folds, 1, 20 / folds)
        cycles = einsum_cycles(cascade, architecture, shape, y, phase)
        assert cycles == load + 20 + folds * skew


def elementwise(text):
    inputs = "'A[m,p,f]', 'V[f,p]'" if "V" in text else "'A[m,p,f]'"
    return parse_cascade(f"{{name: e, ranks: [M, P, F], inputs: [{inputs}], body: ['{text}']}}")


@pytest.mark.parametrize(
    ("text", "spatial", "held", "folds", "preload"),
    [
        # an operand of its own for each PE and iteration: shifted in each time
        ("S[m,p] = A[m,p,f]", "MP", ("A", "S"), 15, 8),
        # the result of a max over rows is not held, the operand is
        ("S[p,f] = max over m of A[m,p,f]", "MP", ("A",), 15, 8),
        # one column of PEs: A enters at its rows, the result stays while F goes on
        ("S[m,p] = A[m,p,f]", "M", ("S",), 3, 0),
        # a PE by itself
        ("S[m,p] = A[m,p,f]", "", ("S",), 12, 0),
        # V goes down the columns, the result of each PE changes with F
        ("S[m,p,f] = A[m,p,f] * V[f,p]", "MP", ("A", "S"), 15, 8),
    ],
)
def test_einsums_of_one_full_operand(text, spatial, held, folds, preload):
    cascade = elementwise(text)
    architecture, shape = machine(8, 16), {"M": 4, "P": 3 * 16, "F": 5}
    if len(spatial) < 2:
        shape["P"] = 3
    loops = [Loop("P1", "P", 3.0), Loop("F", "F", 5.0)]
    if "M" not in spatial:
        loops.insert(0, Loop("M", "M", 4.0))
    sizes = {"M": 4.0, "P": 16.0}
    over = [Loop(f"{rank}0", rank, sizes[rank], True) for rank in spatial]
    m = EinsumMapping("S", "2d", (*loops, *over), folds="serialized")
    found = folds_of(cascade, architecture, shape, m)
    assert (found.stationary, found.count, found.preload_cycles) == (held, folds, preload)
    assert found.skew_cycles == 7 + 15


def test_nothing_held_is_one_fold():
    """All PEs add to one value; operands move in along rows and columns."""
    cascade = parse_cascade(
        "{name: d, ranks: [M, P, F], inputs: ['A[m,f]', 'B[p,f]'], body: ['S[f] = A[m,f] * B[p,f]']}"
    )
    loops = (Loop("F", "F", 9.0), Loop("M", "M", 8.0, True), Loop("P", "P", 8.0, True))
    m = EinsumMapping("S", "2d", loops, folds="serialized")
    shape = {"M": 8, "P": 8, "F": 9}
    assert folds_of(cascade, machine(8, 16), shape, m).stationary == ()
    assert einsum_cycles(cascade, machine(8, 16), shape, m) == 9 + 7 + 15


# ---- 1D arrays ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 2, 16, 100, 256])
def test_a_reduction_over_lanes_waits_for_its_tree_in_each_row(lanes):
    """The softmax of unfused attention: max and sum of a row are over the lanes."""
    architecture = machine(32, 32, **{"arrays.1d.shape.0": lanes})
    shape = {"B": 1, "H": 2, "E": 16, "F": 16, "M": 512, "P": 40}

    def cycles(folds):
        mapping = mappers.place(
            "unfused",
            mappers.check_options("unfused", {"folds": folds}),
            cascade=workloads.cascade("attention-3pass"),
            architecture=architecture,
            shape=shape,
        )
        (phase,) = (c.options[0] for c in mapping.phases if c.options[0].einsums[0].array == "1d")
        around = (mapping.cascade, mapping.architecture, mapping.shape)
        assert evaluate(mapping).infeasible[0] is None
        return {m.einsum: float(einsum_cycles(*around, m, phase)) for m in phase.einsums}

    pipelined, serialized = cycles("pipelined"), cycles("serialized")
    tree = int(np.ceil(np.log2(lanes)))
    for einsum, before in pipelined.items():
        reduces = einsum in ("GM", "SD")
        assert serialized[einsum] - before == (2 * 40 * tree if reduces else 0)


# ---- filters --------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_folds_that_a_mask_leaves_out_cost_nothing(keys, queries, m0, p0):
    """Causal QK: only tiles that hold a point are filled and drained."""
    cascade = parse_cascade(
        "{name: c, ranks: [M, P, E], inputs: ['K[e,m]', 'Q[e,p]'], "
        "body: ['QK[m,p] = Q[e,p] * K[e,m] where m <= p']}"
    )
    loops = (
        Loop("P1", "P", float(queries)),
        Loop("M1", "M", float(keys)),
        Loop("E", "E", 3.0),
        Loop("M0", "M", float(m0), True),
        Loop("P0", "P", float(p0), True),
    )
    m = EinsumMapping("QK", "2d", loops, folds="serialized")
    shape = {"M": keys * m0, "P": queries * p0, "E": 3}
    worked = sum(
        any(x <= y for x in range(i * m0, i * m0 + m0) for y in range(j * p0, j * p0 + p0))
        for i in range(keys)
        for j in range(queries)
    )
    found = folds_of(cascade, machine(8, 16), shape, m)
    assert found.count == pytest.approx(worked)
    cycles = einsum_cycles(cascade, machine(8, 16), shape, m)
    assert cycles == pytest.approx(worked * (3 + 7 + 15))
