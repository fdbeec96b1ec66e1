"""FPGA templates at the finer levels: a reason in place of a number, and never a traceback."""

from __future__ import annotations

import csv

import pytest
from typer.testing import CliRunner

import mappers
import workloads
from archs import load_architecture
from explore.cli import app
from sim.single import single_point
from sim.timeline import CannotRun, programs, timeline

SPEC = """
name: edge
workload: {models: [m3vit], kernels: [attention], seq_len: [12]}
designs:
  edge: {arch: edge-moe-zcu102, cascade: edge-moe-attention, mapper: edge_moe}
"""
REASON = r"only the analytic level knows pipelined loops (scores)"


@pytest.mark.parametrize("level", [timeline, programs])
def test_finer_levels_know_no_pipelined_loops(level):
    mapping = mappers.place(
        "edge_moe",
        mappers.check_options("edge_moe", {}),
        cascade=workloads.cascade("edge-moe-attention"),
        architecture=load_architecture("edge-moe-zcu102").resolve(),
        shape={"B": 1, "H": 3, "E": 64, "F": 64, "P": 12, "M": 12},
    )
    with pytest.raises(CannotRun, match=r"phase scores: .*pipelined loops \(scores\)"):
        level(single_point(mapping))


@pytest.mark.parametrize("levels", [("analytic", "timeline"), ("analytic", "cycle"),
                                    ("timeline", "cycle")])  # fmt: skip
def test_comparing_levels(levels, tmp_path):
    spec, out = tmp_path / "spec.yaml", tmp_path / "out.csv"
    spec.write_text(SPEC)
    command = ["compare-levels", str(spec), "--levels", *levels, "--out", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 3, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    (row,) = csv.DictReader(out.open())
    assert row["design"] == "edge"
    assert any(REASON in cell for cell in row.values())


def test_a_trace(tmp_path):
    spec, out = tmp_path / "spec.yaml", tmp_path / "trace.json"
    spec.write_text(SPEC)
    done = CliRunner().invoke(app, ["trace", str(spec), "--out", str(out)])
    assert done.exit_code == 3, done.output
    assert isinstance(done.exception, SystemExit)
    assert REASON in done.output
    assert not out.exists()
