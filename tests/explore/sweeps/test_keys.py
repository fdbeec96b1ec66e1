"""Keys: the same text wherever it is worked out, another as soon as a result could be another."""

from __future__ import annotations

import subprocess
import sys

import pytest

from explore.spec import load_experiment
from explore.sweeps.driver import Plan
from explore.sweeps.units import units

SPEC = """\
name: small
workload:
  models: [bert-base, {name: mine, D: 256, H: 4, E: 64, S: 1024}]
  seq_len: [1K, 4K]
  batch: [1, 64]
designs:
  Ours: {arch: {extends: fusemax-cloud, clock_hz: 1 GHz}, cascade: attention-1pass, mapper: fusemax}
  FLAT: {arch: mine.yaml, cascade: mine-cascade.yaml, mapper: {name: flat, mapping: map.yaml}}
sweep: {arch.array_dim: [64, 128, 256], arch.memories.DRAM.bandwidth_bytes_per_s: [100 GB/s, 200 GB/s]}
sampling: {chunk: 16}
"""
ARCH = "extends: flat-cloud\nname: mine\n"
MAP = "{row_tile: 256, stationarity: {QK: output, AV: output}, on_chip: [K]}\n"


@pytest.fixture
def keys(tmp_path):
    import workloads

    packaged = workloads.cascade("attention-3pass").file
    (tmp_path / "mine.yaml").write_text(ARCH)
    (tmp_path / "map.yaml").write_text(MAP)
    with open(packaged, encoding="utf-8") as stream:
        (tmp_path / "mine-cascade.yaml").write_text(stream.read())

    def found(old="", new="", file="spec.yaml"):
        (tmp_path / "spec.yaml").write_text(SPEC)
        path = tmp_path / file
        before = path.read_text()
        assert old in before, old
        path.write_text(before.replace(old, new) if old else before)
        plan = Plan(units(load_experiment(tmp_path / "spec.yaml")), "latency_s")
        path.write_text(before)
        return plan.keys

    return found


def test_keys_are_those_of_another_process(keys, tmp_path):
    mine = keys()
    code = (
        "import sys; from explore.spec import load_experiment; from explore.sweeps.units import units;"
        "from explore.sweeps.driver import Plan;"
        "print(*Plan(units(load_experiment(sys.argv[1])), 'latency_s').keys)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "spec.yaml")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == mine
    assert len(set(mine)) == len(mine) == 2 * 4


def test_what_changes_nothing_keeps_keys(keys):
    before = keys()
    for old, new in {
        "name: small": "name: other",
        "seq_len: [1K": "seq_len: [1024",
        "sampling: {chunk: 16}": "sampling: {chunk: 16, seed: 3}\nrank: {baseline: Ours}",
        "100 GB/s": "1.0e11",
    }.items():
        assert keys(old, new) == before, new
    assert keys("extends: flat-cloud", "# a remark\nextends: flat-cloud", "mine.yaml") == before


@pytest.mark.parametrize(
    ("old", "new", "file", "kept"),
    [
        ("200 GB/s]", "200 GB/s, 400 GB/s]", "spec.yaml", 0),  # the inner axes are in all parts
        ("[64, 128, 256]", "[64, 128, 256, 512]", "spec.yaml", 4),  # more values of what is cut,
        ("S: 1024}]", "S: 1024}, xlm]", "spec.yaml", 8),  # the outermost axis
        ("batch: [1, 64]", "batch: [1, 64, 8]", "spec.yaml", 0),
        ("S: 1024", "S: 2048", "spec.yaml", 4),  # one model
        ("clock_hz: 1 GHz", "clock_hz: 2 GHz", "spec.yaml", 4),  # one design
        ("256", "128", "map.yaml", 4),
        ("name: mine", "name: mine\nclock_hz: 1 GHz", "mine.yaml", 4),
        ("name: ", "name: the-", "mine-cascade.yaml", 4),
        ("seq_len: [1K", "queries: 1\n  seq_len: [1K", "spec.yaml", 0),
        ("sampling: {", "energy: {accounting: artifact}\nsampling: {", "spec.yaml", 0),
        ("sampling: {", "sampling: {columns: [lower_bound_bytes], ", "spec.yaml", 0),
        ("sampling: {", "sampling: {require: M > 0, ", "spec.yaml", 0),
    ],
)
def test_what_is_kept_when_something_changes(keys, old, new, file, kept):
    assert len(set(keys()) & set(keys(old, new, file))) == kept


def test_another_program_has_other_keys(keys, monkeypatch):
    before = keys()
    monkeypatch.setattr("explore.sweeps.keys.code_version", lambda: "another")
    assert not set(before) & set(keys())


def test_a_mapping_in_a_file_counts_with_what_it_says(tmp_path):
    from typer.testing import CliRunner

    from explore.cli import app

    spec, file = tmp_path / "spec.yaml", tmp_path / "mine.yaml"
    text = SPEC[: SPEC.index("  FLAT")].replace("[1K, 4K]", "1K").replace("[1, 64]", "1")
    spec.write_text(text)
    done = CliRunner().invoke(app, ["mapping", str(spec), "--out", str(file)])
    assert done.exit_code == 0, done.output
    spec.write_text(text.replace("mapper: fusemax", "mapper: {file: mine.yaml}"))

    def keys():
        return Plan(units(load_experiment(spec)), "latency_s").keys

    before = keys()
    assert keys() == before
    file.write_text(file.read_text().replace("P1: ", "P1: 2*"))
    assert keys() != before
