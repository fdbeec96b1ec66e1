"""From a spec to rows: the issue's spec, columns, ranking, sweeps, derived values, own files."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from explore.cli import app
from explore.results import CSV, PARQUET, SPEC
from explore.run import run_file, summarize
from explore.spec import experiment_file, load_experiment

SMALL = """\
name: small
workload:
  models: [bert-base, {name: mine, D: 256, H: 4, E: 64, S: 1024}]
  kernels: [attention, encoder]
  seq_len: [1K, 2048]
  batch: [1, 8]
designs:
  Ours: {arch: fusemax-cloud, cascade: attention-1pass, mapper: fusemax}
  Theirs: {arch: flat-cloud, cascade: attention-3pass, mapper: unfused}
rank: {by: latency_s, baseline: Theirs}
"""


def write(tmp_path, text, name="spec.yaml"):
    file = tmp_path / name
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def published() -> pl.DataFrame:
    return run_file(experiment_file("fusemax"))


def test_the_fusemax_spec_has_all_its_rows(published):
    main = published.filter(pl.col("family").is_null())
    assert main.height == 5 * 4 * 6 * 2
    assert published.filter(pl.col("family") == "area").height == 24
    assert published["reason"].null_count() == published.height
    assert published["seq_len"].dtype.is_integer()
    wanted = (
        "design model kernel seq_len latency_s traffic_bytes energy_pj util_2d util_1d area_um2"
    )
    assert set(wanted.split()) | {"bottleneck", "util_2d.QK", "util_1d.RM"} <= set(
        published.columns
    )
    # rows keep the order of the spec
    designs = main["design"].unique(maintain_order=True).to_list()
    assert designs == ["Unfused", "FLAT", "+Cascade", "+Architecture", "+Binding"]


def test_terms_add_up_in_every_row(published):
    terms = [f"latency_{t}_s" for t in ("2d", "1d", "dram", "stall")]
    total = published.select(pl.sum_horizontal(terms)).to_series()
    assert np.allclose(total, published["latency_s"], rtol=1e-12)
    energy = [c for c in published.columns if c.startswith("energy_") and c.endswith("_pj")]
    energy.remove("energy_pj")
    total = published.select(pl.sum_horizontal(energy)).to_series()
    assert np.allclose(total, published["energy_pj"], rtol=1e-12)
    for array in ("2d", "1d"):
        shares = [c for c in published.columns if c.startswith(f"util_{array}.")]
        total = published.select(pl.sum_horizontal(pl.col(shares).fill_null(0))).to_series()
        assert np.allclose(total, published[f"util_{array}"], rtol=1e-12)
        assert published[f"util_{array}"].is_between(0, 1 + 1e-12).all()
    assert (published["traffic_bytes"] >= published["lower_bound_bytes"] * (1 - 1e-12)).all()


def test_the_paper_ranks_its_steps_so(published):
    """Attention, every model and length: +Binding first, then +Architecture."""
    attention = published.filter(pl.col("family").is_null(), pl.col("kernel") == "attention")
    best = attention.filter(pl.col("rank") == 1)["design"].unique().to_list()
    second = attention.filter(pl.col("rank") == 2)["design"].unique().to_list()
    assert (best, second) == (["+Binding"], ["+Architecture"])
    base = attention.filter(pl.col("design") == "Unfused")
    assert (base["speedup"] == 1).all()
    assert (base["energy_ratio"] == 1).all()


def test_encoder_is_attention_and_its_linear_layers(published):
    main = published.filter(pl.col("family").is_null())
    attention = main.filter(pl.col("kernel") == "attention")
    encoder = main.filter(pl.col("kernel") == "encoder")
    for column in ("latency_s", "traffic_bytes", "energy_pj", "lower_bound_bytes"):
        assert (encoder[column].to_numpy() > attention[column].to_numpy()).all()
    # the MACs of the six linear layers keep a 2D array of 256 x 256 busy without a gap
    row = {"bert-base": (768, 12 * 64, 3072)}
    d, he, s = row["bert-base"]
    macs = 64 * 1024 * (3 * d * he + he * d + 2 * d * s)
    first = (pl.col("model") == "bert-base") & (pl.col("seq_len") == 1024)
    extra = (
        encoder.filter(first, pl.col("design") == "+Binding")["latency_s"][0]
        - attention.filter(first, pl.col("design") == "+Binding")["latency_s"][0]
    )
    assert extra == pytest.approx(macs / 256**2 / 940e6, rel=1e-12)


def test_files_force_and_summary(tmp_path):
    spec = write(tmp_path, SMALL)
    out = tmp_path / "out"
    runner = CliRunner()
    done = runner.invoke(app, ["run", str(spec), "--out", str(out)])
    assert done.exit_code == 0, done.output
    table = pl.read_parquet(out / PARQUET)
    assert table.height == 2 * 2 * 2 * 2 * 2
    assert pl.read_csv(out / CSV)["latency_s"].to_list() == pytest.approx(
        table["latency_s"].to_list()
    )
    first, copy = (out / SPEC).read_text().split("\n", 1)
    assert copy == SMALL
    assert str(spec) in first  # where relative paths start from
    assert "attention" in done.output
    assert "speedup" in done.output
    (out / "mine.txt").write_text("keep me")
    again = runner.invoke(app, ["run", str(spec), "--out", str(out)])
    assert "--force" in str(again.exception)
    forced = runner.invoke(app, ["run", str(spec), "--out", str(out), "--force"])
    assert forced.exit_code == 0, forced.output
    assert (out / "mine.txt").read_text() == "keep me"
    figures = sorted((out / "figures").iterdir())
    stamps = [f.stat().st_size for f in figures]
    for figure in figures:
        figure.unlink()
    redrawn = runner.invoke(app, ["plot", str(out)])
    assert redrawn.exit_code == 0, redrawn.output
    assert [f.stat().st_size for f in sorted((out / "figures").iterdir())] == stamps
    assert "no results.parquet" in str(runner.invoke(app, ["plot", str(tmp_path)]).exception)


def test_a_point_alone_is_the_point_among_others(tmp_path):
    """One path for one point and for many."""
    table = run_file(write(tmp_path, SMALL))
    alone = SMALL.replace("[1K, 2048]", "2048").replace("[1, 8]", "8").replace("[bert-base, ", "[")
    single = run_file(write(tmp_path, alone, "alone.yaml"))
    rows = table.filter(pl.col("seq_len") == 2048, pl.col("batch") == 8, pl.col("model") == "mine")
    for column in ("latency_s", "traffic_bytes", "energy_pj", "util_2d", "rank", "speedup"):
        assert single[column].to_list() == pytest.approx(rows[column].to_list(), rel=1e-12)


def test_sweeps_and_derived_values(tmp_path):
    text = SMALL.replace(
        "  Theirs: {arch: flat-cloud, cascade: attention-3pass, mapper: unfused}\n", ""
    )
    text = text.replace("baseline: Theirs", "baseline: Ours") + (
        "sweep: {arch.array_dim: [64, 128], arch.clock_hz: [940 MHz, 1.88 GHz]}\n"
        "derive: {half: array_dim/2, arch.memories.buffer.size_bytes: 65536*half}\n"
    )
    table = run_file(write(tmp_path, text))
    assert table.height == 2 * 2 * 2 * 2 * 2 * 2
    assert (table["half"] == table["arch.array_dim"] / 2).all()
    slow, fast = (table.filter(pl.col("arch.clock_hz") == c) for c in (940e6, 1.88e9))
    assert np.allclose(slow["busy_2d_s"], 2 * fast["busy_2d_s"].to_numpy(), rtol=1e-12)
    assert np.allclose(slow["traffic_bytes"], fast["traffic_bytes"].to_numpy(), rtol=1e-12)
    assert table.filter(pl.col("arch.array_dim") == 64)["area_um2"].max() < (
        table.filter(pl.col("arch.array_dim") == 128)["area_um2"].min()
    )


def test_own_files_relative_to_the_spec(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "arch.yaml").write_text("extends: fusemax-cloud\nname: faster\nclock_hz: 1.88 GHz\n")
    (own / "model.yaml").write_text("name: tiny\nD: 128\nH: 2\nE: 64\nS: 256\n")
    source = (
        experiment_file("fusemax").parents[1] / "workloads/cascades/attention/attention-1pass.yaml"
    )
    (own / "cascade.yaml").write_text(source.read_text().replace("attention-1pass", "mine"))
    text = SMALL.replace("fusemax-cloud", "own/arch.yaml").replace(
        "attention-1pass", "own/cascade.yaml"
    )
    table = run_file(write(tmp_path, text.replace("bert-base", "own/model.yaml")))
    ours = table.filter(pl.col("design") == "Ours")
    assert set(ours["architecture"]) == {"faster"}
    assert set(ours["cascade"]) == {"mine"}
    assert set(ours["model"]) == {"tiny", "mine"}
    assert ours["reason"].null_count() == ours.height


def test_arrays_of_other_names_have_their_utilization_columns(tmp_path):
    source = experiment_file("fusemax").parents[1] / "archs/fusemax-cloud.yaml"
    text = source.read_text().replace("  2d:", "  tensor:").replace("  1d:", "  vector:")
    text = text.replace("{from: 2d, to: 1d", "{from: tensor, to: vector")
    (tmp_path / "other.yaml").write_text(text.replace("name: fusemax-cloud", "name: other"))
    plain = run_file(write(tmp_path, SMALL))
    other = run_file(
        write(tmp_path, SMALL.replace("fusemax-cloud", "other.yaml"), "other-spec.yaml")
    )
    ours = pl.col("design") == "Ours"
    for dimensions, name in (("2d", "tensor"), ("1d", "vector")):
        found = other.filter(ours)
        assert found[f"util_{dimensions}"].to_list() == found[f"util_{name}"].to_list()
        assert (
            found[f"util_{dimensions}"].to_list()
            == plain.filter(ours)[f"util_{dimensions}"].to_list()
        )


def test_inline_architecture_overrides_single_values(tmp_path):
    inline = "{extends: fusemax-cloud, memories: {DRAM: {bandwidth_bytes_per_s: 1 GiB/s}}}"
    plain, slow = (
        run_file(write(tmp_path, SMALL.replace("arch: fusemax-cloud", f"arch: {a}"), f"{i}.yaml"))
        for i, a in enumerate(("fusemax-cloud", inline))
    )
    ours = pl.col("design") == "Ours"
    ratio = slow.filter(ours)["busy_dram_s"] / plain.filter(ours)["busy_dram_s"]
    assert np.allclose(ratio, 400)
    assert set(slow.filter(ours, pl.col("kernel") == "attention")["bottleneck"]) == {"DRAM"}


def test_a_failing_point_is_a_row_with_its_reason(tmp_path):
    """Of two buffers, one holds the tiles and one does not."""
    text = SMALL + "sweep: {arch.memories.buffer.size_bytes: [1 KiB, 16 MiB]}\n"
    table = run_file(write(tmp_path, text))
    bad = table.filter(pl.col("reason").is_not_null())
    assert set(bad["arch.memories.buffer.size_bytes"]) == {1024}
    assert bad["latency_s"].null_count() == bad.height
    assert bad["rank"].null_count() == bad.height
    good = table.filter(pl.col("design") == "Ours", pl.col("reason").is_null())
    assert set(good["arch.memories.buffer.size_bytes"]) == {16 * 2**20}


def test_every_process_has_the_same_last_digits():
    """Whatever order sets have there."""
    code = (
        "import sys; from explore.run import run_file; from explore.spec import experiment_file;"
        "sys.stdout.write(run_file(experiment_file('vit_ranking')).write_csv())"
    )
    tables = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, check=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert tables[0] == tables[1]
    assert tables[0].count(b"\n") > 10


def test_figure_12s_sizing_rule_is_minimal(published):
    """Half the buffer would have left DRAM the longest, or is below where the rule starts."""
    family = published.filter(pl.col("family") == "area")
    longest = pl.max_horizontal("busy_2d_s", "busy_1d_s")
    assert family.filter(pl.col("busy_dram_s") > longest).is_empty()
    start = {"bert-base": 64, "trxl-wt103": 64, "t5-small": 64, "xlm": 128}
    for row in family.iter_rows(named=True):
        least = row["arch.array_dim"] * start[row["model"]] * 8 * 2
        size = row["arch.memories.buffer.size_bytes"]
        assert size in (least, 2 * least, 4 * least)
        assert np.log2(size / least) % 1 == 0


def test_summary_ranks_by_mean_rank(published):
    summary = [s for s in summarize(published) if s.kernel == "attention"]
    assert [s.design for s in summary][:2] == ["+Binding", "+Architecture"]
    assert summary[0].speedup == pytest.approx(10, rel=0.02)


def test_points_are_counted_before_they_are_run():
    experiment = load_experiment(experiment_file("fusemax"))
    assert experiment.points == 264


@pytest.mark.parametrize("arguments", [["list"], ["passes", "attention-3pass"], ["--version"],
                                       ["passes", "attention-1pass", "--rank", "M", "--shape", "B=1", "H=2", "M=1K", "M0=256", "P=1K", "E=64", "F=64"],
                                       ["--help"]])  # fmt: skip
def test_small_commands(arguments):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert done.output.strip()
