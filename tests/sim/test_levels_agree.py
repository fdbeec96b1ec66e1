"""The levels are three views of one run: cycle by cycle, as tasks, and as arithmetic."""

from __future__ import annotations

import csv
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase as Work
from hypothesis import given, settings
from hypothesis import strategies as st

import mappers
import workloads
from archs import load_architecture
from einsum_cascade import execute
from einsum_cascade.source import InputError
from sim import EinsumMapping, Loop, Mapping, Phase, PhaseChoice, Tile, always, evaluate
from sim.cycle import simulate
from sim.single import single_point
from sim.timeline import programs, timeline

KINDS = {  # how many examples of each
    "interleaved": (("attention-1pass", "fusemax-cloud", "fusemax", {}), 35),
    "serial": (("attention-1pass", "fusemax-cloud", "fusemax", {"schedule": "serial"}), 30),
    "cascade": (("attention-1pass", "flat-cloud", "fusemax", {}), 25),
    "flat": (("attention-3pass", "flat-cloud", "flat", {}), 20),
    "flat-deferred": (("attention-3pass-deferred", "flat-cloud", "flat", {}), 15),
    "flat-on-fusemax": (("attention-3pass", "fusemax-cloud", "flat", {}), 15),
    "unfused": (("attention-3pass", "flat-cloud", "unfused", {}), 15),
    "unfused-deferred": (("attention-3pass-deferred", "flat-cloud", "unfused", {}), 15),
    "unfused-serialized": (
        ("attention-3pass", "flat-cloud", "unfused", {"folds": "serialized"}),
        10,
    ),
    "fused": (("attention-1pass", "fusemax-cloud", "fused", {}), 10),
    "fused-2pass": (("attention-2pass-deferred", "flat-cloud", "fused", {}), 10),
    "fused-3pass": (("attention-3pass", "fusemax-cloud", "fused", {}), 10),
}
assert sum(count for _, count in KINDS.values()) >= 200
SHARE = 1.0 if os.environ.get("HYPOTHESIS_PROFILE") == "search" else 0.5  # all of them take minutes
QUICK = {"deadline": None, "phases": [Work.generate]}  # points are small: not made smaller
SMALL, LENGTH = st.integers(1, 9), st.integers(1, 14)
SHAPES = st.fixed_dictionaries(
    {"B": st.just(1), "H": st.integers(1, 2), "E": SMALL, "F": SMALL, "M": LENGTH, "P": LENGTH}
)


def placed(cascade, arch, mapper, options, shape, **overrides):
    mapping = mappers.place(
        mapper,
        mappers.check_options(mapper, options),
        cascade=workloads.cascade(cascade),
        architecture=load_architecture(arch).resolve(overrides),
        shape=shape,
    )
    return single_point(mapping)


def feasible(mapping):
    return evaluate(mapping).infeasible[0] is None


def tensors_of(mapping):
    generator = np.random.default_rng(0)
    shape = {k: int(v) for k, v in mapping.shape.items()}
    return shape, {
        name: generator.normal(size=[shape[r] for r in mapping.cascade.tensors[name].ranks])
        for name in mapping.cascade.inputs
    }


def check_equal(mapping):
    """Every task begins and ends in the cycle that the timeline says, and computes what it should."""
    told = timeline(mapping, ports=False, steady=False)
    shape, inputs = tensors_of(mapping)
    run = simulate(mapping, inputs, programs(mapping))
    wanted = execute(mapping.cascade, inputs, shape, everything=True)
    for name in mapping.cascade.outputs:
        assert name in run.tensors
    for name, values in run.tensors.items():
        np.testing.assert_allclose(values, wanted[name], rtol=0, atol=1e-9)
    begin, found = 0, []
    for phase in run.phases:
        for t in phase.tasks:
            found.append((phase.name, t.einsum, t.index, begin + t.start, begin + t.end))
        begin += phase.told_cycles
    segments = [(s.phase, s.name, index_of(s), s.start, s.end) for s in told.segments]
    nests = [nest for choice in mapping.phases for nest in choice.options[0].einsums]
    if any(nest.folds == "serialized" for nest in nests):
        # a fold's end is shared by its tasks in the timeline, and belongs to the last one here
        assert begin == pytest.approx(told.cycles, rel=1e-12)
        assert sorted(t[:3] for t in found) == sorted(t[:3] for t in segments)
    else:
        assert begin == told.cycles
        assert sorted(found) == sorted(segments)
    assert told.tasks == len(found)
    return told


def index_of(segment):
    return tuple(digit for _, digit in segment.index)


@pytest.mark.parametrize("kind", KINDS)
def test_cycle_by_cycle_is_the_timeline(kind):
    """Nothing that the analytic level finds feasible may be refused at the others."""
    case, examples = KINDS[kind]
    examples = math.ceil(examples * SHARE)
    ran = Counter()

    @settings(max_examples=examples, **QUICK)
    @given(shape=SHAPES, side=st.integers(2, 5))
    def equal(shape, side):
        mapping = placed(*case, shape, array_dim=side)
        assert feasible(mapping)  # the buffer is that of the full size
        ran[check_equal(mapping).tasks > 20] += 1

    equal()
    assert sum(ran.values()) >= examples
    assert ran[True] >= examples // 3  # not only single tiles


@pytest.mark.parametrize("kind", ["interleaved", "serial", "cascade", "flat", "fused-3pass"])
def test_in_a_buffer_with_hardly_any_room(kind):
    """Fewer copies than would keep the arrays busy: the same waits at both levels."""
    case, _ = KINDS[kind]
    ran = Counter()

    @settings(max_examples=12, **QUICK)
    @given(shape=SHAPES, side=st.integers(2, 4), words=st.sampled_from([40, 80, 160, 320]))
    def equal(shape, side, words):
        over = {"array_dim": side, "memories.buffer.size_bytes": 2 * words}
        try:
            mapping = placed(*case, shape, **over)
        except InputError:
            return
        if feasible(mapping):
            check_equal(mapping)
            ran[words] += 1

    equal()
    assert sum(ran.values()) >= 4


@pytest.mark.parametrize("words", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("kind", ["interleaved", "serial", "cascade"])
def test_registers_for_few_tiles(kind, words):
    """As many tiles on their way as the registers hold, at both levels; one, if it waits for the
    other array, is too few."""
    over = {"arrays.1d.registers.words": 4 * words, "arrays.2d.registers.words": words}
    shape = {"B": 1, "H": 1, "E": 2, "F": 3, "M": 12, "P": 12}
    mapping = placed(*KINDS[kind][0], shape, array_dim=3, **over)
    assert feasible(mapping) == (kind != "interleaved" or words > 1)
    if feasible(mapping):
        check_equal(mapping)


def test_fewer_registers_are_slower():
    """Or the test above would not see them at all."""
    shape = {"B": 1, "H": 1, "E": 2, "F": 3, "M": 12, "P": 12}
    cycles = []
    for words in (3, 4):
        over = {"arrays.1d.registers.words": 4 * words, "arrays.2d.registers.words": words}
        mapping = placed(*KINDS["interleaved"][0], shape, array_dim=3, **over)
        cycles.append(timeline(mapping, ports=False).cycles)
    assert cycles[0] > cycles[1]


# ---- timeline and arithmetic ----------------------------------------------------------------------


@st.composite
def long_runs(draw):
    """Tiles as large as FuseMax sizes its registers for, and many of them."""
    side = draw(st.sampled_from([4, 8, 16, 32]))
    size = draw(st.integers(2 * side, 8 * side))
    keys, queries = draw(st.integers(2, 5)), draw(st.integers(2, 5))
    heads = -(-64 // (keys * queries)) + draw(st.integers(0, 2))
    shape = {"B": 1, "H": heads, "E": size, "F": size, "M": keys * side, "P": queries * side}
    words = draw(st.sampled_from([0.05, 0.2, 0.4, 0.6, 1.0, 4.0])) * side  # a cycle
    return heads * keys * queries, shape, side, words


def test_long_runs_take_as_long_as_the_busiest_unit():
    """But for filling and draining: a tile more, and the way of a head's Q in and AV out."""
    bottlenecks = Counter()

    @settings(max_examples=24, **QUICK)
    @given(run=long_runs())
    def close(run):
        tiles, shape, side, words = run
        over = {"array_dim": side, "memories.DRAM.bandwidth_bytes_per_s": words * 2 * 940e6}
        mapping = placed(*KINDS["interleaved"][0], shape, **over)
        cost = evaluate(mapping)
        analytic = float(cost.latency_s[0]) * 940e6
        ends = (shape["E"] + shape["F"]) * shape["P"] / words
        found = timeline(mapping).cycles
        assert analytic * (1 - 1e-9) <= found <= analytic * (1 + 1.2 / tiles) + ends
        bottlenecks[cost.bottleneck[0]] += 1

    close()
    assert min(bottlenecks["DRAM"], bottlenecks["1d"] + bottlenecks["2d"]) >= 5


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (k, w)
        for k in ("interleaved", "serial", "cascade")
        for w in (2, 8, 100)
        if w != 2 or k != "serial"
    ],
)
def test_hundreds_of_tiles_are_within_a_percent_of_the_arithmetic(kind, words):
    """Where loads take all the time, a serial schedule waits for Q too: not among these."""
    shape = {"B": 2, "H": 12, "E": 32, "F": 32, "M": 32, "P": 32}
    over = {"array_dim": 8, "memories.DRAM.bandwidth_bytes_per_s": words * 2 * 940e6}
    mapping = placed(*KINDS[kind][0], shape, **over)
    found = timeline(mapping).latency_s / evaluate(mapping).latency_s[0]
    assert 0.99 <= found <= 1.01


LAYERS = st.fixed_dictionaries(
    {"R": st.integers(1, 400), "K": st.integers(1, 64), "N": st.integers(1, 64)}
)


@given(shape=LAYERS, side=st.integers(2, 16), folds=st.sampled_from(["pipelined", "serialized"]))
@settings(max_examples=25, **QUICK)
def test_a_product_by_itself_has_nothing_to_wait_for(shape, side, folds):
    """With memories that answer at once the array never stands still."""
    case = ("linear-layer", "fusemax-cloud", "unfused", {"folds": folds})
    mapping = placed(*case, shape, array_dim=side)
    found = timeline(mapping, ports=False)
    busy = float(evaluate(mapping).busy_s["2d"][0]) * 940e6
    assert found.cycles == pytest.approx(busy, rel=1e-9)
    assert found.units["2d"].stalled == {}


def reported():
    with (Path(__file__).parent / "scalesim.csv").open() as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return [{k: v if k == "dataflow" else int(v) for k, v in row.items()} for row in rows]


@pytest.mark.parametrize(
    "row",
    [row for row in reported() if max(row["rows"], row["cols"]) <= 64],
    ids=lambda row: "-".join(map(str, row.values())),
)
def test_a_product_takes_the_cycles_that_scale_sim_reports(row):
    """Fold by fold, as tasks; SCALE-Sim counts from 0."""
    extents = {"R": row["M"], "N": row["N"], "K": row["K"]}
    down, across, stream = {"os": "RNK", "ws": "KNR", "is": "KRN"}[row["dataflow"]]
    sides = min(extents[down], row["rows"]), min(extents[across], row["cols"])
    loops = (
        Loop("down1", down, -(-extents[down] // sides[0])),
        Loop("across1", across, -(-extents[across] // sides[1])),
        Loop("stream", stream, extents[stream]),
        Loop("down0", down, sides[0], True),
        Loop("across0", across, sides[1], True),
    )
    nest = EinsumMapping("Z", "2d", loops, folds="serialized")
    fetched = always("DRAM", Tile("buffer", "across1"))
    phase = Phase("Z", (nest,), {"A": fetched, "W": fetched, "Z": always("DRAM")})
    architecture = load_architecture("fusemax-cloud").resolve(
        {
            "arrays.2d.shape.0": row["rows"],
            "arrays.2d.shape.1": row["cols"],
            "memories.buffer.size_bytes": 1e12,
        }
    )
    mapping = Mapping(workloads.cascade("linear-layer"), architecture, extents, (PhaseChoice((phase,)),))  # fmt: skip
    assert feasible(mapping)
    for steady in (False, True):
        found = timeline(mapping, ports=False, steady=steady)
        assert found.cycles == pytest.approx(row["cycles"] + 1, rel=1e-12)
    assert found.tasks == loops[0].extent * loops[1].extent
