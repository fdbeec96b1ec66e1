"""Traces: the Trace Event Format as Perfetto and chrome://tracing read it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from typer.testing import CliRunner

from einsum_cascade.source import InputError
from explore.cli import app
from explore.levels import PointResult, Run, Selection, first_of_each, run_timelines
from explore.plots.waterfall import opening, waterfall_figure
from explore.spec import experiment_file, load_experiment
from explore.trace import COMPRESSED, file_names, lanes, trace, warning, write_trace
from sim.timeline.result import Segment, Stretch, Timeline, UnitTime

HZ = 940e6


def segment(unit, name, start, end, blocker="", kind="compute", tile=0):
    return Segment(unit, "phase", name, kind, (("M1", tile), ("P1", 3)), start, end, blocker)


def made(repeats=1.0) -> Run:
    segments = (
        segment("DRAM", "load BK", 0, 7, kind="load"),
        segment("2d", "QK", 7, 71, "load BK"),
        segment("2d", "SLN", 71, 80),
        segment("2d", "SLNV", 71, 80.5),
        segment("2d", "QK", 80.5, 145, tile=1),
        segment("1d", "LM", 75, 80, "drain of QK"),
    )
    units = {
        "2d": UnitTime(138, {"load BK": 7}, 0),
        "1d": UnitTime(5, {"drain of QK": 75}, 65),
        "DRAM": UnitTime(7, {}, 138),
    }
    stretches = (Stretch(0, 71, 1), Stretch(71, 145, repeats))
    cycles = 71 + 74 * repeats
    timeline = Timeline(HZ, cycles, segments, stretches, units, {"QK": cycles}, 6 * repeats)
    result = PointResult("Ours", "bert-base", "attention", 1, 1024, "timeline", {"arch.side": 8.0})
    return Run(result, timeline)


def check_format(loaded: dict) -> None:
    """What both viewers need."""
    events = loaded["traceEvents"]
    named = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert [e for e in events if e["name"] == "process_name"]
    assert all(e["ph"] in "MX" for e in events)
    tasks = [e for e in events if e["ph"] == "X"]
    for event in tasks:
        assert {"name", "cat", "ts", "dur", "pid", "tid", "args"} <= event.keys()
        assert event["ts"] >= 0
        assert event["dur"] >= 0
        assert (event["pid"], event["tid"]) in named
    assert len(set(named.values())) == len(named)
    for thread in named:
        own = [e for e in tasks if (e["pid"], e["tid"]) == thread]
        spans = [(int(e["ts"] * 1e3), int(e["ts"] * 1e3) + int(e["dur"] * 1e3)) for e in own]
        assert spans == sorted(spans)
        assert all(before[1] <= after[0] for before, after in pairwise(spans)), "slices overlap"


@pytest.mark.parametrize("repeats", [1.0, 4094.0])
def test_the_format(tmp_path, repeats):
    write_trace(made(repeats), tmp_path / "deep" / "trace.json")
    check_format(json.loads((tmp_path / "deep" / "trace.json").read_text()))


def test_threads_are_units_and_what_is_interleaved():
    events = trace(made())["traceEvents"]
    threads = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert list(threads.values()) == ["2d", "2d, interleaved", "1d", "DRAM"]
    where = {(e["name"], threads[e["tid"]]) for e in events if e["ph"] == "X"}
    assert where == {
        ("QK", "2d"),
        ("SLN", "2d"),
        ("SLNV", "2d, interleaved"),
        ("LM", "1d"),
        ("load BK", "DRAM"),
    }


def test_a_task_has_its_time_tile_and_what_it_waited_for():
    (task,) = [e for e in trace(made())["traceEvents"] if e["name"] == "LM"]
    assert task["ts"] == pytest.approx(75 / HZ * 1e6, abs=5e-4)
    assert task["dur"] == pytest.approx(5 / HZ * 1e6, abs=1e-3)
    assert task["cat"] == "compute"
    assert task["args"] == {
        "M1": 0,
        "P1": 3,
        "phase": "phase",
        "start_cycle": 75,
        "end_cycle": 80,
        "waited_for": "drain of QK",
    }


def test_all_of_a_run_needs_no_warning():
    run = made()
    assert warning(run) is None
    found = trace(run)
    assert not found["otherData"]["compressed"]
    assert not any("repeats" in e["args"] for e in found["traceEvents"])
    assert found["otherData"]["latency_s"] == pytest.approx(145 / HZ)
    assert found["otherData"]["units_percent"]["2d"]["stalled"] == {"load BK": 4.828}
    assert found["otherData"]["arch.side"] == 8


def test_compressed_time_says_so():
    run = made(4094)
    assert "6 of 24564 tasks" in (warning(run) or "")
    found = trace(run)
    assert found["otherData"]["compressed"]
    events = found["traceEvents"]
    assert "(compressed time)" in events[0]["args"]["name"]
    repeated = {e["name"]: e["args"].get("repeats") for e in events if e["ph"] == "X"}
    assert repeated["LM"] == 4094
    assert repeated["load BK"] is None
    assert repeated["happens 4094 times"] == 4094
    assert COMPRESSED in {e["args"]["name"] for e in events if e["name"] == "thread_name"}


def test_lanes_hold_no_two_tasks_at_once():
    tasks = [segment("2d", n, a, b) for n, a, b in [("A", 0, 4), ("B", 1, 3), ("C", 3, 6)]]
    assert [[s.name for s in lane] for lane in lanes(tasks)] == [["A"], ["B", "C"]]
    assert lanes([]) == []


def test_a_run_of_no_length_is_a_trace(tmp_path):
    empty = Timeline(HZ, 0.0, (), (), {"2d": UnitTime(0, {}, 0)}, {}, 0)
    write_trace(replace(made(), timeline=empty), tmp_path / "empty.json")
    check_format(json.loads((tmp_path / "empty.json").read_text()))


def test_files_of_designs_differ_and_errors_are_for_people(tmp_path):
    names = file_names(["a/b", "a b", "..", ""])
    assert len(set(names)) == 4
    assert all("/" not in name for name in names)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_trace(made(), tmp_path / "file" / "trace.json")


SPEC = """\
name: small
workload:
  models: [{name: tiny, D: 128, H: 2, E: 32, S: 256}]
  seq_len: [128, 256]
designs:
  Ours, serial:
    arch: &small {extends: fusemax-cloud, parameters: {array_dim: 32}}
    cascade: attention-1pass
    mapper: {name: fusemax, schedule: serial}
  Ours: {arch: *small, cascade: attention-1pass, mapper: fusemax}
figures: {formats: [png]}
"""


def invoke(tmp_path, *arguments):
    (tmp_path / "spec.yaml").write_text(SPEC)
    return CliRunner().invoke(app, ["trace", str(tmp_path / "spec.yaml"), *arguments])


def test_a_folder_of_traces_and_a_waterfall(tmp_path):
    out = tmp_path / "out"
    done = invoke(tmp_path, "--out", str(out))
    assert done.exit_code == 0, done.output
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert [n for n in names if "start" not in n] == [
        "figures/waterfall.png",
        "trace-Ours-serial.json",
        "trace-Ours.json",
    ]
    for name in ("trace-Ours.json", "trace-Ours-serial.json"):
        loaded = json.loads((out / name).read_text())
        check_format(loaded)
        about = loaded["otherData"]
        assert (about["seq_len"], about["compressed"]) == (128, False)
        tasks = [e for e in loaded["traceEvents"] if e["ph"] == "X"]
        assert len(tasks) == about["tasks"]
        assert max(e["args"]["end_cycle"] for e in tasks) <= about["cycles"]
    again = invoke(tmp_path, "--out", str(out))
    assert "--force" in str(again.exception)


def test_one_file_is_of_one_design(tmp_path):
    file = tmp_path / "trace.json"
    done = invoke(tmp_path, "--out", str(file))
    assert "holds one point" in str(done.exception)
    done = invoke(tmp_path, "--out", str(file), "--design", "Ours", "--seq-len", "256")
    assert done.exit_code == 0, done.output
    loaded = json.loads(file.read_text())
    check_format(loaded)
    assert loaded["otherData"]["seq_len"] == 256
    assert sorted(p.name for p in tmp_path.iterdir()) == ["spec.yaml", "trace.json"]


def test_swept_values_are_runs_of_their_own(tmp_path):
    (tmp_path / "spec.yaml").write_text(SPEC + "sweep: {arch.array_dim: [32, 64]}\n")
    arguments = ["trace", str(tmp_path / "spec.yaml"), "--design", "Ours", "--out"]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (tmp_path / "out").glob("*.json")) == [
        "trace-Ours-array_dim-32.json",
        "trace-Ours-array_dim-64.json",
    ]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "one.json")])
    assert "holds one point" in str(done.exception)


def test_a_design_that_cannot_be_is_left_out(tmp_path):
    text = SPEC.replace("figures:", "  Tiny:\n    arch: {extends: fusemax-cloud, parameters: "
                        "{array_dim: 32}, memories: {buffer: {size_bytes: 256}}}\n"
                        "    cascade: attention-1pass\n    mapper: fusemax\nfigures:")  # fmt: skip
    (tmp_path / "spec.yaml").write_text(text)
    arguments = ["trace", str(tmp_path / "spec.yaml"), "--out"]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith("Tiny: ")
    names = {p.name for p in (tmp_path / "out").glob("*.json")}
    assert names == {"trace-Ours-serial.json", "trace-Ours.json"}
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "t.json"), "--design", "Tiny"])
    assert done.exit_code == 3
    assert not (tmp_path / "t.json").exists()


def test_the_shipped_figure_has_three_runs_on_one_axis():
    experiment = load_experiment(experiment_file("waterfall"))
    runs, _ = run_timelines(experiment, first_of_each(experiment, Selection()))
    assert not any(run.timeline.extrapolated for run in runs)
    figure = waterfall_figure([(run.result.design, run.timeline) for run in runs])
    assert [panel.title for panel in figure.panels] == [
        "FLAT",
        "FuseMax, serial",
        "FuseMax, interleaved",
    ]
    ends = [panel.end for panel in figure.panels]
    assert ends == sorted(ends, reverse=True)
    for panel, run in zip(figure.panels, runs, strict=True):
        assert panel.end == pytest.approx(run.timeline.latency_s)
        assert [row.label for row in panel.rows] == ["2D array", "1D array", "DRAM port"]
    start = opening(figure)
    assert start is not None
    assert start.until == pytest.approx(ends[-1])
