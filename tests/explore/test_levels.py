"""Levels: the same design points, more or less finely, and how far they agree."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
from typer.testing import CliRunner

import archs
import workloads
from einsum_cascade.source import InputError
from explore.agreement import agreement, disagreement_table, disagreements, effect_behind
from explore.cli import app
from explore.levels import (
    PointResult,
    Selection,
    as_timeline,
    at_levels,
    first_of_each,
    in_sequence,
    narrowed,
    places,
    run_timelines,
    selection,
    shares,
    table_of,
)
from explore.plots import drawing_processes
from explore.run import run_file
from explore.spec import load_experiment
from sim import EinsumMapping, Loop, Mapping, Phase, PhaseChoice
from sim.cycle import PhaseRun, TaskRun
from sim.timeline.result import Segment, Stretch, Timeline, UnitTime

SMALL = """\
name: small
workload:
  models: [{name: tiny, D: 128, H: 2, E: 32, S: 256}, {name: wide, D: 128, H: 1, E: 64, S: 256}]
  kernels: [attention, encoder]
  seq_len: [128, 256]
designs:
  Ours: {arch: fusemax-cloud, cascade: attention-1pass, mapper: fusemax}
  Theirs: {arch: flat-cloud, cascade: attention-3pass, mapper: unfused}
sweep: {arch.array_dim: [32, 64]}
"""


def write(tmp_path, text=SMALL, name="spec.yaml"):
    file = tmp_path / name
    file.write_text(text)
    return file


def point(level="analytic", latency=1.0, **rest):
    return PointResult(
        "Ours", "tiny", "attention", 1, 128, level, latency_s=latency, arrays=("2d", "1d"), **rest
    )


def run(cycles=100.0, repeats=1.0, busy=60.0):
    segments = (Segment("2d", "phase", "QK", "compute", (("M1", 0),), 0, busy),)
    stretches = (Stretch(0, cycles, repeats),)
    units = {"2d": UnitTime(busy * repeats, {"LM": 30 * repeats}, (cycles - busy - 30) * repeats)}
    return Timeline(1e9, cycles * repeats, segments, stretches, units, {"QK": cycles}, 2)


def test_points_come_in_the_order_of_the_results(tmp_path):
    file = write(tmp_path)
    experiment = load_experiment(file)
    found = [each for (each,) in at_levels(experiment, Selection(), ["analytic"])]
    table = run_file(file)
    assert [(r.design, r.kernel, r.model, r.seq_len) for r in found] == [
        tuple(row) for row in table.select("design", "kernel", "model", "seq_len").iter_rows()
    ]
    assert [r.latency_s for r in found] == pytest.approx(table["latency_s"].to_list())
    assert [r.swept["arch.array_dim"] for r in found] == table["arch.array_dim"].to_list()
    first = table.row(0, named=True)
    assert found[0].busy_s["2d"] == pytest.approx(first["busy_2d_s"])
    assert found[0].cycles == pytest.approx(first["latency_s"] * 940e6)
    assert sum(found[0].critical_path_s.values()) == pytest.approx(first["latency_s"])


def test_points_are_chosen_by_name_and_number(tmp_path):
    experiment = load_experiment(write(tmp_path))
    chosen = selection(["Theirs"], ["wide"], ["encoder"], ["256"])
    assert len(places(experiment, chosen)) == 2
    found = [each for (each,) in at_levels(experiment, chosen, ["analytic"], limit=1)]
    assert [(r.design, r.model, r.kernel, r.seq_len) for r in found] == [
        ("Theirs", "wide", "encoder", 256)
    ]
    one = first_of_each(experiment, Selection(models=("wide",)))
    assert one == Selection(("Ours", "Theirs"), ("wide",), ("attention",), (128,), (1,))


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        (Selection(designs=("Our",)), "no design 'Our'; allowed: Ours, Theirs; did you mean"),
        (Selection(models=("bert-base",)), "no model 'bert-base'"),
        (Selection(seq_len=(4096,)), "no sequence length 4096; allowed: 128, 256"),
        (Selection(kernels=("network",)), "no kernel 'network'"),
        (Selection(batch=(7,)), "no batch size 7"),
    ],
)
def test_what_the_grid_does_not_have_is_refused(tmp_path, chosen, text):
    with pytest.raises(InputError) as refused:
        narrowed(load_experiment(write(tmp_path)), chosen)
    assert text in str(refused.value)


def test_networks_have_no_finer_level(tmp_path):
    text = SMALL.replace("[attention, encoder]", "[attention, network]").replace(
        "{name: tiny, D: 128, H: 2, E: 32, S: 256}, {name: wide, D: 128, H: 1, E: 64, S: 256}",
        "bert-base",
    )
    experiment = load_experiment(write(tmp_path, text))
    chosen = Selection(kernels=("network",), designs=("Ours",), seq_len=(128,))
    found = at_levels(experiment, replace(chosen, kernels=()), ["analytic", "timeline"])
    for coarse, finer in found:
        assert coarse.latency_s
        assert (finer.latency_s is None) == (finer.kernel == "network")
        assert "'network' has no level timeline" in (finer.reason or "") or finer.latency_s
    (found,) = [r for (r,) in at_levels(experiment, chosen, ["analytic"], limit=1)]
    assert found.latency_s


def test_runs_in_sequence_add_up():
    whole = in_sequence([("", run()), ("layer Q", run(50, 4)), ("layer K", run())])
    assert whole.cycles == 100 + 200 + 100
    assert [s.start for s in whole.segments] == [0, 100, 150]  # compressed: once 50 cycles
    assert [s.phase for s in whole.segments] == ["phase", "layer Q: phase", "layer K: phase"]
    assert [(s.start, s.end, s.repeats) for s in whole.stretches] == [
        (0, 100, 1),
        (100, 150, 4),
        (150, 250, 1),
    ]
    unit = whole.units["2d"]
    assert unit.busy == 60 + 240 + 60
    assert unit.stalled == {"LM": 30 + 120 + 30}
    assert unit.busy + sum(unit.stalled.values()) + unit.idle == whole.cycles
    assert whole.tasks == 6
    assert whole.extrapolated
    alone = run()
    assert in_sequence([("", alone)]) is alone


def test_a_unit_that_a_run_lacks_is_idle_in_it():
    other = replace(run(), units={"1d": UnitTime(100, {}, 0)})
    whole = in_sequence([("", run()), ("layer Q", other)])
    assert whole.units["1d"] == UnitTime(100, {}, 100)
    assert whole.units["2d"].idle == 10 + 100


def test_the_largest_stall_is_an_arrays_if_one_stalls():
    stalled = {"2d": {"LM": 0.1, "load K": 0.2}, "DRAM": {"room for K": 0.9}, "1d": {}}
    assert point(stalled_s=stalled).largest_stall == ("2d", "load K", 0.2)
    assert point(stalled_s={"DRAM": {"room for K": 0.9}}).largest_stall == (
        "DRAM",
        "room for K",
        0.9,
    )
    assert point(stalled_s={"2d": {"LM": 0.0}}).largest_stall is None
    assert point().largest_stall is None


def test_shares_leave_out_what_is_nothing():
    assert shares({"A": 1e-9, "B": 0.25, "C": 0.75}, 1.0) == "C 75.0 %, B 25.0 %"
    assert shares({"A": 1.0}, None) == ""


def fine(latency, stalled=None, idle=0.0, busy=1.0):
    return point(
        "timeline",
        latency,
        busy_s={"2d": busy, "1d": 0.1},
        stalled_s={"2d": stalled or {}, "1d": {"QK": 5.0}},
        idle_s={"2d": idle, "1d": 0.0},
        tasks=640,
    )


def test_the_effect_is_named_on_the_unit_that_the_coarse_level_calls_the_bottleneck():
    coarse = point(busy_s={"2d": 1.0, "1d": 0.1}, critical_path_s={"2d": 1.0, "stall": 0.0})
    assert effect_behind(coarse, fine(1.25, {"LM": 0.15, "load K": 0.1})) == (
        "2d waits for LM 12.00 %"
    )
    assert effect_behind(coarse, fine(1.25, idle=0.25)) == "2d has nothing to do 20.00 %"
    assert effect_behind(coarse, fine(1.25, busy=1.25)) == "2d works longer 20.00 %"
    assert effect_behind(coarse, fine(1.0)) == ""
    assert effect_behind(coarse, coarse) == ""


def test_the_effect_on_a_sum_of_steps_is_the_term_that_differs_most():
    """Drains are stalls; loads are not in the sum at all."""
    steps = point(critical_path_s={"2d": 0.4, "1d": 0.2, "stall": 0.4, "DRAM": 0.0})
    path = {"QK": 0.4, "RM": 0.2, "drain of LM": 0.41, "load Q": 0.04}
    units = {"QK": "2d", "RM": "1d", "load Q": "DRAM"}
    longer = replace(fine(1.05), critical_path_s=path, unit_of=units)
    assert effect_behind(steps, longer) == "load Q on the critical path 3.81 %"
    path = {"QK": 0.4, "RM": 0.1, "drain of LM": 0.3}
    shorter = replace(fine(0.8), critical_path_s=path, unit_of=units)
    assert effect_behind(steps, shorter) in ("overlaps 1d 12.50 %", "overlaps stall 12.50 %")


def test_disagreements_worst_first_and_their_summary():
    """What one level alone can run is worst; what none can run says nothing."""
    coarse = point(busy_s={"2d": 1.0}, critical_path_s={"2d": 1.0})
    broken = replace(coarse, latency_s=None, reason="too large")
    stuck = replace(broken, level="timeline", reason="no room")
    pairs = [(coarse, fine(1.001)), (coarse, fine(0.9)), (coarse, fine(1.02)), (broken, broken)]
    found = disagreements([*pairs, (coarse, stuck)])
    assert found[0].gap is None
    assert found[0].effect == "timeline: no room"
    assert [d.gap for d in found[1:]] == pytest.approx([-0.1, 0.02, 0.001])
    (summary,) = agreement(found)
    assert (summary.points, summary.within, summary.failed) == (4, 1, 1)
    assert (summary.median, summary.largest) == pytest.approx((0.02, 0.1))
    assert disagreement_table(found)["gap_percent"].null_count() == 1
    assert agreement(found[:1])[0].median is None


def test_the_table_has_units_in_its_names_and_nulls_for_what_is_not_known():
    rows = table_of([point(busy_s={"2d": 0.5}), replace(fine(2.0), swept={"arch.side": 8.0})])
    assert {"latency_s", "busy_2d_s", "stalled_2d_s", "idle_2d_s", "arch.side"} <= {*rows.columns}
    assert rows["stalled_2d_s"].to_list() == [None, 0.0]
    assert rows["tasks"].to_list() == [None, 640]
    assert rows["largest_stall"].to_list() == [None, "1d waits for QK 250.0 %"]


def test_simulate_writes_its_table(tmp_path):
    file, out = write(tmp_path), tmp_path / "out"
    arguments = ["simulate", str(file), "--level", "analytic", "--out", str(out)]
    done = CliRunner().invoke(app, [*arguments, "--design", "Ours", "--seq-len", "256"])
    assert done.exit_code == 0, done.output
    assert "2d busy %" in done.output
    table = pl.read_csv(out / "levels.csv")
    assert table.height == 8
    assert set(table["seq_len"]) == {256}
    again = CliRunner().invoke(app, arguments)
    assert "--force" in str(again.exception)


def test_a_timeline_adds_up_at_every_point(tmp_path):
    """Every unit's time and the critical path are the latency; an encoder is longer."""
    experiment = load_experiment(write(tmp_path))
    chosen = Selection(seq_len=(128,), models=("tiny",))
    pairs = at_levels(experiment, chosen, ["analytic", "timeline"])
    assert len(pairs) == 8
    for coarse, found in pairs:
        assert coarse.name == found.name
        assert found.reason is None
        assert found.latency_s >= coarse.busy_s["2d"]
        assert sum(found.critical_path_s.values()) == pytest.approx(found.latency_s)
        for unit, busy in found.busy_s.items():
            stalled = sum(found.stalled_s[unit].values())
            assert busy + stalled + found.idle_s[unit] == pytest.approx(found.latency_s)
            assert busy == pytest.approx(coarse.busy_s[unit])
    latency = {(r.design, r.kernel, r.swept["arch.array_dim"]): r.latency_s for _, r in pairs}
    for (design, kernel, side), seconds in latency.items():
        if kernel == "encoder":
            assert seconds > latency[design, "attention", side]


def test_other_processes_find_the_same(tmp_path):
    experiment = load_experiment(write(tmp_path))
    chosen = Selection(kernels=("attention",), designs=("Ours",))
    told = []
    with drawing_processes(1) as pool:
        wide = Selection(kernels=("attention",))
        many = at_levels(
            experiment, wide, ["timeline"], None, lambda name, count: told.append(name), pool
        )
    assert told == ["Ours"] * 8 + ["Theirs"] * 8
    assert many[:8] == at_levels(experiment, chosen, ["timeline"])


def test_compare_levels_prints_and_writes(tmp_path):
    file, out = write(tmp_path), tmp_path / "gaps.csv"
    arguments = ["compare-levels", str(file), "--levels", "analytic", "timeline"]
    done = CliRunner().invoke(
        app, [*arguments, "--out", str(out), "--kernel", "attention", "--model", "wide"]
    )
    assert done.exit_code == 0, done.output
    assert "median gap" in done.output
    table = pl.read_csv(out)
    assert table.height == 8
    gaps = table["gap_percent"].abs().to_list()
    assert gaps == sorted(gaps, reverse=True)
    assert {"latency_analytic_s", "latency_timeline_s", "effect", "tasks"} <= {*table.columns}


def test_a_point_that_cannot_be_is_a_row_with_its_reason(tmp_path):
    text = SMALL.replace(
        "arch.array_dim: [32, 64]",
        "arch.array_dim: 32, arch.memories.buffer.size_bytes: [256, 16 MiB]",
    )
    experiment = load_experiment(write(tmp_path, text))
    chosen = Selection(kernels=("attention",), designs=("Ours",), seq_len=(128,))
    found = [r for (r,) in at_levels(experiment, chosen, ["timeline"])]
    assert [r.reason is None for r in found] == [False, True] * 2
    assert table_of(found)["latency_s"].null_count() == 2
    runs, left_out = run_timelines(experiment, chosen)
    assert (len(runs), len(left_out)) == (2, 2)
    assert all(each.reason for each in left_out)


def test_points_that_no_level_can_run_are_rows_with_their_reason(tmp_path):
    text = SMALL.replace(
        "arch.array_dim: [32, 64]",
        "arch.array_dim: 32, arch.memories.buffer.size_bytes: [256, 16 MiB]",
    )
    arguments = ["compare-levels", str(write(tmp_path, text)), "--levels", "analytic", "timeline"]
    arguments += ["--kernel", "attention", "--design", "Ours", "--model", "wide", "--seq-len"]
    out = tmp_path / "gaps.csv"
    done = CliRunner().invoke(app, [*arguments, "128", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "1 of 2 points can run at neither level" in done.output
    table = pl.read_csv(out)
    assert table["reason"].null_count() == table["gap_percent"].drop_nulls().len() == 1
    done = CliRunner().invoke(app, [*arguments, "128", "--limit", "1"])
    assert done.exit_code == 3
    assert "Ours: " in done.output
    assert "median gap" not in done.output


def test_the_file_of_gaps_is_checked_before_anything_runs(tmp_path):
    arguments = ["compare-levels", str(write(tmp_path)), "--limit", "1", "--out"]
    for out, text in (("spec.yaml", "--force"), (".", "is a folder"), ("spec.yaml/a", "not a fol")):
        done = CliRunner().invoke(app, [*arguments, str(tmp_path / out)])
        assert isinstance(done.exception, InputError)
        assert text in str(done.exception)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (("[32, 64]", "[128]"), "arrays of up to 64 PEs a side, but array '2d' has 128 x 128"),
        (("[128, 256]", "4K"), "runs of up to 100,000 cycles, but this one has about"),
    ],
)
def test_what_is_too_large_cycle_by_cycle_is_refused(tmp_path, changes, text):
    file, out = write(tmp_path, SMALL.replace(*changes)), tmp_path / "out"
    arguments = ["simulate", str(file), "--level", "cycle", "--limit", "2", "--out", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 3, done.output
    assert all(text in reason for reason in pl.read_csv(out / "levels.csv")["reason"])


def test_pe_by_pe_it_is_known_who_works_but_not_who_waits(tmp_path):
    text = SMALL.replace("[32, 64]", "[16]").replace("[128, 256]", "64")
    experiment = load_experiment(write(tmp_path, text))
    chosen = Selection(designs=("Ours",), models=("wide",), kernels=("attention",))
    ((coarse, found),) = at_levels(experiment, chosen, ["analytic", "cycle"])
    assert found.busy_s["2d"] > 0
    assert (found.stalled_s, found.idle_s) == (None, None)
    assert "waits or has nothing to do" in effect_behind(coarse, found)
    assert table_of([found])["stalled_2d_s"].to_list() == [None]


def test_a_run_cycle_by_cycle_is_a_timeline():
    """Its phases follow one another; interleaved tasks share the time of their array."""
    nest = EinsumMapping(
        "QK", "2d", (Loop("P1", "P", 2), Loop("E", "E", 4), Loop("M", "M", 8, True))
    )
    other = replace(nest, einsum="AV")
    choices = tuple(PhaseChoice((Phase(n, (m,), {}),)) for n, m in (("a", nest), ("b", other)))
    cascade, architecture = (
        workloads.cascade("attention-3pass"),
        archs.load_architecture("fusemax-cloud").resolve(),
    )
    mapping = Mapping(cascade, architecture, {}, choices)
    tasks = (TaskRun("QK", "2d", (0,), 0, 40), TaskRun("QK", "2d", (1,), 20, 60))
    phases = [
        PhaseRun("a", 78, 70, tasks),
        PhaseRun("b", 37, 30, (TaskRun("AV", "2d", (0, 3), 5, 25),)),
    ]
    found = as_timeline(mapping, phases)
    assert found.cycles == 100
    assert [(s.name, s.index, s.start, s.end) for s in found.segments] == [
        ("QK", (("P1", 0),), 0, 40),
        ("QK", (("P1", 1),), 20, 60),
        ("AV", (("P1", 0), ("E", 3)), 75, 95),
    ]
    assert found.units["2d"] == UnitTime(80, {}, 20)
    assert found.units["1d"] == UnitTime(0, {}, 100)
    assert found.critical_path == {"phase a": 70, "phase b": 30}
    assert not found.extrapolated
