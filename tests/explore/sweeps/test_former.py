"""A changed spec evaluates what is new in it, and leaves the files of a sweep that began afresh."""

from __future__ import annotations

import shutil

import polars as pl
import pytest

import explore.sweeps.work
from explore.spec import load_experiment
from explore.sweeps import driver, former
from explore.sweeps.parts import opened, read_manifest
from explore.sweeps.read import results

SPEC = """\
name: small
workload: {models: [bert-base, xlm], seq_len: [1K, 4K], batch: [1, 64]}
designs:
  Ours: {arch: fusemax-cloud, cascade: attention-1pass, mapper: fusemax}
sweep:
  arch.array_dim: [64, 128]
  arch.memories.buffer.size_bytes: [2 KiB, 4 MiB]
  arch.clock_hz: [940 MHz, 1.2 GHz]
sampling: {chunk: 16, require: ["array_dim * clock_hz <= 1.3e11"], columns: [compute_s]}
"""
POINTS = 2 * 2 * 2 * 2 * 3  # the condition leaves three of four pairs of sides and clocks
FAILING = SPEC.replace("sampling", "  shape.M0: [256, 300]\nsampling").replace(", xlm", "")
CHANGES = {  # what is changed, points evaluated then
    "clock_hz: [940 MHz": ("clock_hz: [700 MHz, 940 MHz", 2 * POINTS // 3),
    "seq_len: [1K": ("seq_len: [1K, 2K", POINTS // 2),
    "batch: [1": ("batch: [8, 1", POINTS // 2),
    "array_dim: [64": ("array_dim: [32, 64", 2 * POINTS // 3),
    "[bert-base, xlm]": ("[bert-base, gpt2, xlm]", POINTS // 2),
    "xlm]": ("{name: xlm, D: 1024, H: 16, E: 64, S: 4096}]", POINTS // 2),
    "<= 1.3e11": ("<= 2e11", POINTS // 3),
    "1.3e11": ("1.0e11", 0),
    "columns: [compute_s]": ("columns: []", 0),
    "chunk: 16": ("chunk: 40", 0),
    "[compute_s]": ("[compute_s, mapping]", POINTS),
    "sampling: {": ("derive: {size: array_dim}\nsampling: {", POINTS),
}


def swept(text, folder):
    """A sweep of the spec into folder/out, without parts of others, and what was evaluated."""
    spec, out = folder / "spec.yaml", folder / "out"
    spec.write_text(text)
    with opened(out) as store:
        progress = driver.run_sweep(load_experiment(spec), store, driver.here)
        store.prune(read_manifest(out)["parts"])
    return progress


def files(folder):
    return sorted(p.name for p in (folder / "out" / "parts").iterdir())


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A sweep of SPEC; tests change a copy."""
    folder = tmp_path_factory.mktemp("first")
    assert swept(SPEC, folder).evaluated == POINTS
    return folder


@pytest.fixture
def counted(monkeypatch):
    """The numbers of points of all calls that evaluate."""
    calls = []
    real = explore.sweeps.work.evaluate_together

    def together(grid, design, points, accounting):
        calls.append(len(points))
        return real(grid, design, points, accounting)

    monkeypatch.setattr(explore.sweeps.work, "evaluate_together", together)
    return calls


@pytest.mark.parametrize("old", CHANGES)
def test_what_is_new_is_evaluated(first, tmp_path, counted, old):
    new, points = CHANGES[old]
    assert old in SPEC
    changed = tmp_path / "changed"
    shutil.copytree(first, changed)
    progress = swept(SPEC.replace(old, new), changed)
    assert sum(counted) == progress.evaluated == points
    assert progress.points == progress.total
    swept(SPEC.replace(old, new), tmp_path)
    assert files(changed) == files(tmp_path)  # the names hold the sums of the files


def test_kernels_stay_in_their_order(tmp_path):
    text = SPEC.replace("seq_len: [1K", "kernels: [encoder, attention], seq_len: [1K")
    text = text.replace("[bert-base, xlm]", "[bert-base]").replace("batch: [1, 64]", "batch: 1")
    swept(text, tmp_path)
    changed = text.replace("clock_hz: [940 MHz", "clock_hz: [700 MHz, 940 MHz")
    assert swept(changed, tmp_path).kept == POINTS // 4
    (tmp_path / "fresh").mkdir()
    swept(changed, tmp_path / "fresh")
    assert files(tmp_path) == files(tmp_path / "fresh")


def test_points_beside_one_that_fails_are_evaluated_again(tmp_path):
    swept(FAILING, tmp_path)
    text = FAILING.replace("<= 1.3e11", "<= 1e11")
    progress = swept(text, tmp_path)
    found = results(tmp_path / "out").scan().collect()
    failed = found["reason"].str.contains("is not divisible by M0 = 300")
    assert failed.sum() == found.height // 2
    assert progress.evaluated == found.height
    (tmp_path / "fresh").mkdir()
    swept(text, tmp_path / "fresh")
    assert files(tmp_path) == files(tmp_path / "fresh")


def test_only_whole_parts_are_looked_into_and_only_some(first, tmp_path, counted, monkeypatch):
    text = SPEC.replace("chunk: 16", "chunk: 64")
    shutil.copytree(first, tmp_path / "changed")
    monkeypatch.setattr(former, "MOST_PARTS", 2)
    assert swept(text, tmp_path / "changed").evaluated == POINTS - 2 * 12
    monkeypatch.undo()
    counted.clear()
    shutil.copytree(first, tmp_path / "damaged")
    part = next((tmp_path / "damaged" / "out" / "parts").iterdir())
    lost = pl.read_parquet(part).height
    data = bytearray(part.read_bytes())
    data[len(data) // 3] ^= 1
    part.write_bytes(data)
    assert swept(text, tmp_path / "damaged").evaluated == lost > 0
    assert files(tmp_path / "damaged") == files(tmp_path / "changed")
