"""Points and designs that cannot be: rows with reasons, and comparisons at the points in common."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

import mappers
from einsum_cascade.source import InputError
from explore.cli import app
from explore.evaluate import Points, refused_points
from explore.plots import figures
from explore.results import write
from explore.run import idle_memories, run_file, summarize
from explore.spec import load_experiment

SPEC = """\
name: partial
workload: {{models: [bert-base, xlm], kernels: [{kernels}], seq_len: [{lengths}], batch: [2, 4]}}
designs:
  Ours: {{arch: {arch}, cascade: attention-1pass, mapper: fusemax}}
  Theirs: {{arch: flat-cloud, cascade: attention-3pass, mapper: unfused}}
{more}
rank: {{baseline: Theirs}}
"""
ONLY_OURS = SPEC.replace("  Theirs: {{arch: flat-cloud, cascade: attention-3pass, mapper: unfused}}\n", "").replace("rank: {{baseline: Theirs}}\n", "")  # fmt: skip
IMPOSSIBLE = "  Impossible: {arch: fusemax-cloud, cascade: attention-3pass, mapper: fusemax}"
TINY = "{extends: fusemax-cloud, memories: {buffer: {size_bytes: 1 KiB}}}"


def spec(tmp_path, text=SPEC, **parts):
    defaults = {"kernels": "attention", "lengths": "1K, 2K", "arch": "fusemax-cloud", "more": ""}
    file = tmp_path / "spec.yaml"
    file.write_text(text.format(**{**defaults, **parts}))
    return file


def run(tmp_path, text=SPEC, **parts):
    return run_file(spec(tmp_path, text, **parts))


@pytest.mark.parametrize("sizes", ["256, 300", "300, 256"])
def test_a_size_that_does_not_divide_costs_only_its_points(tmp_path, sizes):
    parts = {"kernels": "attention, encoder", "lengths": "1K, 1200, 2K"}
    table = run(tmp_path, ONLY_OURS, more=f"sweep: {{shape.M0: [{sizes}]}}", **parts)
    bad = table.filter(pl.col("reason").is_not_null())
    for row in bad.to_dicts():
        size, length = int(row["shape.M0"]), row["seq_len"]
        said = f"M = {length} is not divisible by M0 = {size}"
        assert length % size == 0 or said in row["reason"]
        assert row["latency_s"] is None
        assert row["bottleneck"] is None
    good = table.filter(pl.col("reason").is_null())
    assert {(int(m), n) for m, n in good.select("shape.M0", "seq_len").iter_rows()} == {
        (256, 1024),
        (256, 2048),
    }
    alone = run(tmp_path, ONLY_OURS, kernels="attention, encoder", lengths="1K, 2K",
                more="sweep: {shape.M0: 256}")  # fmt: skip
    common = [c for c in alone.columns if c in good.columns]
    assert good.select(common).equals(alone.select(common))


def test_a_value_that_is_wrong_at_some_points(tmp_path):
    table = run(tmp_path, ONLY_OURS, more="derive: {shape.M0: P/16}", lengths="1K, 1000, 2K")
    reasons = dict(table.select("seq_len", "reason").unique().iter_rows())
    assert "found 62.5" in reasons.pop(1000)
    assert set(reasons.values()) == {None}


def test_a_design_that_cannot_be_placed_leaves_the_others(tmp_path):
    without = run(tmp_path, kernels="attention, encoder")
    table = run(tmp_path, kernels="attention, encoder", more=IMPOSSIBLE)
    ours = table.filter(pl.col("design") != "Impossible")
    assert ours.select(without.columns).equals(without)
    theirs = table.filter(pl.col("design") == "Impossible")
    assert theirs.height == 16
    assert theirs["latency_s"].null_count() == 16
    assert set(theirs["reason"]) == {theirs["reason"][0]}
    assert "needs one iterative rank" in theirs["reason"][0]
    for row in summarize(table):
        assert (row.compared, row.points) == (8, 8) if row.design != "Impossible" else True
        assert (row.latency_s is None) == (row.design == "Impossible")
    done = CliRunner().invoke(
        app, ["run", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "o")]
    )
    assert done.exit_code == 0, done.exception
    assert "8 of 8 infeasible" in done.output


def test_a_spec_in_which_nothing_can_be_placed_is_a_mistake(tmp_path):
    text = SPEC.replace("attention-1pass", "attention-3pass").replace("unfused", "fusemax")
    with pytest.raises(InputError, match="needs one iterative rank") as caught:
        run(tmp_path, text)
    assert caught.value.place.line == 4


def test_a_family_of_a_design_that_cannot_be_placed(tmp_path):
    family = "families: {f: {design: Impossible, sweep: {arch.array_dim: [64, 128]}}}"
    table = run(tmp_path, more=f"{IMPOSSIBLE}\n{family}")
    own = table.filter(pl.col("family") == "f")
    assert own.height == 2 * 2 * 2 * 2
    assert own["reason"].null_count() == 0
    assert set(own["arch.array_dim"]) == {64, 128}


def test_the_calls_are_as_many_as_the_causes(tmp_path, monkeypatch):
    """Two thousand points, of which half cannot be, and one array call for those that can."""
    sizes = []

    def counted(*arguments, **named):
        sizes.append(len(named["shape"]["M"]))
        return place(*arguments, **named)

    place = mappers.place
    monkeypatch.setattr(mappers, "place", counted)
    clocks = ", ".join(str(10**9 + i) for i in range(125))
    sweep = f"sweep: {{shape.M0: [256, 300], arch.clock_hz: [{clocks}]}}"
    table = run(tmp_path, ONLY_OURS, more=sweep)
    assert table.height == 2000
    assert table["reason"].null_count() == 1000
    assert sizes[-1] == 1000
    assert len(sizes) < 400


@pytest.mark.parametrize("seed", range(20))
def test_exactly_the_points_that_fail_are_found(seed):
    """Against going through all points, for causes on random values of one to three axes."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 5, size=5)
    grid = [a.ravel() for a in np.meshgrid(*map(np.arange, lengths), indexing="ij")]
    model, seq_len, batch, rank, size = grid
    points = Points(model, seq_len, batch, {"arch.size": size, "shape.M0": rank})
    causes = [
        {int(a): int(random.integers(lengths[a])) for a in random.permutation(5)[:count]}
        for count in random.integers(1, 4, size=random.integers(1, 5))
    ]

    def cause(point):
        met = (c for c in causes if all(grid[a][point] == v for a, v in c.items()))
        return next(met, None)

    def attempt(chosen):
        found = next((c for c in map(cause, chosen) if c is not None), None)
        return None if found is None else InputError(str(found))

    everything = np.arange(len(model))
    first = attempt(everything)
    found = {} if first is None else {
        int(point): error.message
        for chosen, error in refused_points(points, everything, first, attempt)
        for point in chosen
    }  # fmt: skip
    assert sorted(found) == [p for p in everything if cause(p) is not None]


def test_means_are_over_the_points_in_common(tmp_path):
    """Where one design cannot be, the others are not compared: not at points of their own."""
    text = SPEC.replace("mapper: fusemax}}", "mapper: fusemax, shape: {{M0: 256}}}}")
    table = run(tmp_path, text, more="sweep: {arch.array_dim: [128, 256]}")
    feasible = {d: set() for d in ("Ours", "Theirs")}
    point = ["model", "batch", "seq_len", "arch.array_dim"]
    for row in table.filter(pl.col("reason").is_null()).to_dicts():
        feasible[row["design"]].add(tuple(row[c] for c in point))
    both = feasible["Ours"] & feasible["Theirs"]
    assert both < feasible["Ours"] | feasible["Theirs"]
    rows = table.filter([tuple(r) in both for r in table.select(point).iter_rows()])
    for summary in summarize(table):
        own = rows.filter(pl.col("design") == summary.design)
        assert (summary.compared, summary.points) == (len(both), 16)
        for column in ("latency_s", "energy_pj", "speedup", "util_2d"):
            assert getattr(summary, column) == pytest.approx(own[column].mean(), rel=1e-12)
    drawn = {f.name: f for f in figures(table, "Theirs")}["speedup_attention"]
    mean = {s.name: s.values[0] for s in drawn.panels[-1].series}
    assert mean["Ours"] == pytest.approx(rows.filter(pl.col("design") == "Ours")["speedup"].mean())
    assert drawn.panels[-1].labels == (f"{len(both) / 16:.0%} of points",)


def test_without_points_in_common_there_are_no_means(tmp_path):
    table = run(tmp_path, lengths="1K, 2K")
    first, second = pl.col("design") == "Ours", pl.col("seq_len") == 1024
    never = table.with_columns(
        pl.when(first == second).then(pl.lit("impossible")).alias("reason"),
        pl.when(first != second).then(pl.col("latency_s")).alias("latency_s"),
    )
    for summary in summarize(never):
        assert (summary.points, summary.infeasible, summary.compared) == (8, 4, 0)
        assert summary.latency_s is summary.speedup is summary.util_2d is None


def test_nothing_feasible_is_nothing_to_draw(tmp_path):
    more = "sweep: {arch.clock_hz: [1 GHz]}\nfamilies: {f: {design: Ours, sweep: {arch.clock_hz: [1 GHz, 2 GHz]}}}"  # fmt: skip
    file = spec(tmp_path, ONLY_OURS, arch=TINY, more=more)
    out = str(tmp_path / "out")
    done = CliRunner().invoke(app, ["run", str(file), "--out", out])
    assert "nothing to draw" in done.output
    assert isinstance(done.exception, SystemExit)  # not a traceback
    again = CliRunner().invoke(app, ["plot", out])
    assert again.exit_code == 0, again.exception
    assert "nothing to draw" in again.output


@pytest.mark.parametrize("baseline", ["Ours", "Theirs", "Impossible"])
def test_a_design_without_a_point_leaves_the_figures_of_the_others(tmp_path, baseline):
    text = SPEC.replace("baseline: Theirs", f"baseline: {baseline}")
    file = spec(tmp_path, text, arch=TINY, more=IMPOSSIBLE)
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["run", str(file), "--out", str(out)])
    assert done.exit_code == 0, done.exception
    drawn = {f.stem for f in (out / "figures").iterdir()}
    assert {"utilization", "latency_breakdown"} <= drawn
    assert ("speedup_attention" in drawn) == (baseline == "Theirs")


def test_figures_of_one_kernel_say_which(tmp_path):
    table = run(tmp_path, kernels="attention, encoder")
    rows = {f.name: f.rows for f in figures(table, "Theirs")}
    for name in ("utilization", "utilization_by_einsum", "latency_breakdown"):
        assert all("attention" in row.y_label for row in rows[name])


def test_memories_that_no_mapper_uses_are_named(tmp_path):
    third = "{extends: fusemax-cloud, memories: {L1: {size_bytes: 64 KiB, read_energy_pj: 1, write_energy_pj: 1}}}"  # fmt: skip
    file = spec(tmp_path, arch=third)
    assert idle_memories(load_experiment(file)) == {"fusemax-cloud-modified": ["L1"]}
    done = CliRunner().invoke(app, ["run", str(file), "--out", str(tmp_path / "out")])
    assert "warning: no mapper uses L1 of fusemax-cloud-modified" in done.output
    assert idle_memories(load_experiment(spec(tmp_path))) == {}
    quiet = CliRunner().invoke(
        app, ["run", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "p")]
    )
    assert "warning" not in quiet.output


def test_dram_energy_follows_the_bytes_of_a_word(tmp_path):
    """Twice as many bytes through DRAM are twice the energy."""
    table = run(tmp_path, ONLY_OURS, lengths="1K", more="sweep: {arch.word_bytes: [2, 4]}")
    short, long = (table.filter(pl.col("arch.word_bytes") == w) for w in (2, 4))
    traffic = long["traffic_bytes"] / short["traffic_bytes"]
    assert (traffic == 2).all()
    assert ((long["energy_dram_pj"] / short["energy_dram_pj"]) - traffic).abs().max() < 1e-12


def test_the_copy_of_a_spec_says_where_its_paths_start(tmp_path):
    table = run(tmp_path)
    write(table, tmp_path / "out", tmp_path / "spec.yaml")
    first, copy = (tmp_path / "out" / "spec.yaml").read_text().split("\n", 1)
    assert str(tmp_path / "spec.yaml") in first
    assert first.startswith("#")
    assert copy == (tmp_path / "spec.yaml").read_text()
