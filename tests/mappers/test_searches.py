"""Searches against exhaustive loops, schedules, candidates, options."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mappers
import workloads
from archs import load_architecture
from einsum_cascade import InputError
from mappers.contraction import STATIONARITY, Choice, build
from mappers.factors import divisor_table, divisors, largest_divisor
from mappers.roles import as_product, batch_ranks
from sim import Mapping, evaluate, evaluate_phase

SMALL = {
    "extends": "fusemax-cloud",
    "parameters": {"array_dim": 16},
    "memories": {"buffer": {"size_bytes": "32 KiB"}},
}


def placed(cascade, arch, mapper, options, shape):
    return mappers.place(
        mapper,
        mappers.check_options(mapper, options),
        cascade=workloads.cascade(cascade),
        architecture=load_architecture(arch).resolve(),
        shape=shape,
    )


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_divisors(numbers):
    table = divisor_table(numbers)
    for number, row in zip(numbers, table, strict=True):
        assert sorted(set(row.astype(int))) == [d for d in range(1, number + 1) if number % d == 0]
        assert divisors(number) == sorted(set(row.astype(int)))
    limit = 40
    best = [max(d for d in range(1, limit + 1) if n % d == 0) for n in numbers]
    assert largest_divisor(numbers, limit).tolist() == best


@pytest.mark.parametrize("objective", ["edp", "latency_s", "energy_pj", "traffic_bytes"])
@pytest.mark.parametrize("shape", [(96, 64, 48), (512, 16, 16), (160, 200, 320), (48, 2000, 16)])
def test_a_product_is_mapped_as_an_exhaustive_loop_would(objective, shape):
    """Every candidate of the space by itself, one at a time."""
    sizes = dict(zip(("R", "K", "N"), shape, strict=True))
    architecture = load_architecture(SMALL).resolve()
    cascade = workloads.cascade("linear-layer")
    product = as_product(cascade, cascade.einsums[0])
    mapping = Mapping(cascade, architecture, {k: np.array([v]) for k, v in sizes.items()}, ())
    best = np.inf
    rows = -(-sizes["R"] // 16)
    for tiles, keep_x, keep_w, stationary in itertools.product(
        [d for d in range(1, rows + 1) if rows % d == 0], (True, False), (True, False), STATIONARITY
    ):
        choice = Choice(np.array([float(tiles)]), np.array([keep_x]), np.array([keep_w]))
        found = evaluate_phase(mapping, build(mapping, product, stationary, choice))
        if found.infeasible[0] is None:
            score = {"edp": found.latency_s * found.energy_pj}.get(objective)
            score = getattr(found, objective) if score is None else score
            best = min(best, float(score[0]))
    assert np.isfinite(best)
    found = evaluate(placed("linear-layer", SMALL, "unfused", {"objective": objective}, sizes))
    score = found.latency_s * found.energy_pj if objective == "edp" else getattr(found, objective)
    assert score[0] == pytest.approx(best, rel=1e-6)


def test_any_order_is_never_worse_than_rows():
    shape = {"R": 65536, "K": np.array([2048, 8192]), "N": np.array([8192, 2048])}
    rows, any_order = (
        evaluate(placed("linear-layer", "flat-cloud", "unfused", {"order": o}, shape))
        for o in ("rows", "any")
    )
    assert (
        any_order.latency_s * any_order.energy_pj <= rows.latency_s * rows.energy_pj * 1.0001
    ).all()
    assert (any_order.traffic_bytes < rows.traffic_bytes).all()


def test_a_fiber_that_does_not_fit_is_moved_pass_by_pass():
    """GM and SN load QK, SN spills, A loads it again; QK and AV are the same either way."""
    shape = {"B": 1, "H": 1, "E": 16, "F": 16, "M": 65536, "P": 64}
    little, much = (
        evaluate(placed("attention-3pass", {**SMALL, "extends": "flat-cloud", "memories": {
            "buffer": {"size_bytes": size}}}, "unfused", {"objective": "traffic_bytes"}, shape))
        for size in ("64 KiB", "8 MiB")
    )  # fmt: skip
    assert little.infeasible[0] is None
    row = 2 * 64 * 65536
    extra = {
        t: little.traffic_by_tensor_bytes[t] - much.traffic_by_tensor_bytes[t] for t in ("QK", "A")
    }
    assert extra == {"QK": row, "A": 0}
    assert little.traffic_by_tensor_bytes["SN"] == 2 * row
    assert much.traffic_by_tensor_bytes.get("SN", 0) == 0


SHAPE = {"B": 2, "H": 4, "E": 64, "F": 64, "M": 4096, "P": 4096}


def test_serial_steps_follow_the_dependencies():
    phase = placed(
        "attention-1pass", "fusemax-cloud", "fusemax", {"schedule": "serial"}, SHAPE
    ).phases[0]
    first, between, last = (set(step) for step in phase.options[0].steps)
    assert first == {"QK", "LM", "RD", "AV"}
    assert between == {"RM"}
    assert last == {"SLN", "SLD", "SLNV", "PRM", "SPD", "SPNV", "RNV"}
    assert phase.options[0].stall_cycles == 2 * 4 * 16 * 16 * 256


def test_which_array_runs_what():
    def on(arch):
        phase = placed("attention-1pass", arch, "fusemax", {}, SHAPE).phases[0].options[0]
        return {m.einsum for m in phase.einsums if m.array == "2d"}

    assert on("fusemax-cloud") == {"QK", "LM", "SLN", "SLD", "SLNV"}
    assert on("flat-cloud") == {"QK", "SLNV"}


def test_lengths_that_the_array_does_not_divide():
    """1000 keys in tiles of 250, 1000 queries in 4 tiles of which the last is not full."""
    shape = {**SHAPE, "M": 1000, "P": 1000}
    mapping = placed("attention-1pass", "fusemax-cloud", "fusemax", {}, shape)
    assert float(mapping.shape["M0"]) == 250
    found = evaluate(mapping)
    assert found.infeasible[0] is None
    assert found.traffic_bytes[0] == 2 * 8 * (4 * 1000 * 64)  # true words, no padding
    tiles = 8 * 4 * 4
    assert found.busy_s["2d"][0] == pytest.approx(tiles * (64 + 1 + 7 + 1 + 64) / 940e6)


def test_batch_ranks_are_found_not_named():
    assert batch_ranks(workloads.cascade("attention-1pass")) == ("B", "H")
    assert batch_ranks(workloads.cascade("linear-layer")) == ()


@pytest.mark.parametrize(("mapper", "options", "message"), [
    ("flat", {"maping": "search"}, "did you mean 'mapping'"),
    ("flat", {"spill": "some"}, "rows"),
    ("flat", {"mapping": {"stationarity": {"QK": "out"}}}, "output"),
    ("unfused", {"order": "columns"}, "did you mean|rows"),
    ("fusemax", {"schedule": "parallel"}, "interleaved"),
    ("fussmax", {}, "did you mean 'fusemax'"),
])  # fmt: skip
def test_option_mistakes(mapper, options, message):
    with pytest.raises(InputError, match=message):
        mappers.check_options(mapper, options)


@pytest.mark.parametrize(("options", "message"), [
    ({"mapping": {"stationarity": {"QK": "output"}}}, "stationarity of AV is missing"),
    ({"mapping": {"stationarity": {"QK": "output", "AV": "output", "QV": "output"}}}, "names 'QV'"),
    ({"mapping": {"stationarity": {"QK": "output", "AV": "output"}, "on_chip": ["KK"]}}, "names 'KK'"),
    ({"mapping": "published"}, "use mapping: search"),
    ({"mapping": "nowhere.csv"}, "no table of mappings"),
])  # fmt: skip
def test_mistakes_that_need_the_cascade(options, message):
    with pytest.raises(InputError, match=message):
        placed("attention-3pass", "flat-cloud", "flat", options, {**SHAPE, "M": 1000, "P": 1000})


def test_a_mapping_written_in_the_spec_is_taken():
    own = {
        "row_tile": "256",
        "stationarity": {"QK": "output", "AV": "input"},
        "on_chip": ["K", "QK", "V"],
    }
    found = evaluate(placed("attention-3pass", "flat-cloud", "flat", {"mapping": own}, SHAPE))
    assert found.infeasible[0] is None
    assert (
        "256 rows at a time, QK output- and AV input-stationary, kept: K QK V"
        in found.mapping_notes[0]
    )
    # K and V stay, Q streams once for each of 16 tiles of keys, nothing else leaves the chip
    words = 8 * 4096 * 64 * (1 + 1 + 1 + 16)
    assert found.traffic_bytes[0] == pytest.approx(2 * words)


def test_a_mapping_in_a_file_of_its_own(tmp_path):
    text = "row_tile: 256\nstationarity: {QK: output, AV: input}\non_chip: [K, QK, V]\n"
    (tmp_path / "mine.yaml").write_text(text)
    options = mappers.check_options("flat", {"mapping": "mine.yaml"}, base=tmp_path)
    mapping = mappers.place(
        "flat", options, cascade=workloads.cascade("attention-3pass"),
        architecture=load_architecture("flat-cloud").resolve(), shape=SHAPE,
    )  # fmt: skip
    assert evaluate(mapping).traffic_bytes[0] == pytest.approx(2 * 8 * 4096 * 64 * 19)
    (tmp_path / "mine.yaml").write_text(text.replace("on_chip", "onchip"))
    with pytest.raises(InputError, match=r"mine.yaml:3:1: onchip: unknown key .* mean 'on_chip'"):
        mappers.place(
            "flat", options, cascade=workloads.cascade("attention-3pass"),
            architecture=load_architecture("flat-cloud").resolve(), shape=SHAPE,
        )  # fmt: skip


@pytest.mark.parametrize(("mapper", "cascade"), [
    ("fusemax", "attention-3pass"), ("flat", "attention-1pass"), ("flat", "linear-layer"),
    ("unfused", "attention-1pass"), ("fusemax", "pedagogical-1"),
])  # fmt: skip
def test_cascades_of_another_form_are_refused(mapper, cascade):
    ranks = workloads.cascade(cascade).ranks
    shape = {k: v for k, v in {**SHAPE, "K": 64, "R": 64, "N": 64}.items() if k in ranks}
    with pytest.raises(InputError, match=f"mapper '{mapper}' cannot place cascade '{cascade}'"):
        placed(cascade, "fusemax-cloud", mapper, {}, shape)


def test_a_deferred_division_follows_the_second_product_row_tile_by_row_tile():
    """F divisions a query in place of M: the 1D array is left with three of its four Einsums."""
    plain, deferred = (
        evaluate(placed(f"attention-3pass{kind}", "flat-cloud", "flat", {}, SHAPE))
        for kind in ("", "-deferred")
    )
    assert deferred.infeasible[0] is None
    cycles = 2 * 4 * 4096 * (3 * 4096 / 256 + 1)  # 64 divisions of a query fill a part of the lanes
    assert deferred.busy_s["1d"] == pytest.approx(cycles / 940e6)
    assert deferred.busy_s["1d"][0] < 0.78 * plain.busy_s["1d"][0]
    assert deferred.traffic_bytes[0] == plain.traffic_bytes[0] == deferred.lower_bound_bytes[0]
