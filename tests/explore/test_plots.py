"""Figures: what they show against numbers worked out by hand, and that they are drawn."""

from __future__ import annotations

import subprocess
import sys

import polars as pl
import pytest

from explore.plots import draw_all, figures
from explore.plots.info import front, short
from explore.run import run_file
from explore.spec import experiment_file


def rows(**changes) -> pl.DataFrame:
    """Two designs, one model, two lengths; the second design is twice as fast at 1K."""
    table = {
        "family": [None] * 4,
        "design": ["Base", "Base", "New", "New"],
        "model": ["m"] * 4,
        "kernel": ["attention"] * 4,
        "batch": [1] * 4,
        "seq_len": [1024, 2048] * 2,
        "latency_s": [2.0, 4.0, 1.0, 3.0],
        "latency_2d_s": [2.0, 1.0, 0.25, 0.0],
        "latency_dram_s": [0.0, 3.0, 0.75, 3.0],
        "energy_pj": [1.0] * 4,
        "area_um2": [1e6] * 4,
        "util_2d": [0.5, 0.25, 1.0, None],
        "util_2d.QK": [0.5, 0.25, 0.75, None],
        "util_2d.AV": [0.0, 0.0, 0.25, None],
        "speedup": [1.0, 1.0, 2.0, 4 / 3],
        "energy_ratio": [1.0, 1.0, 0.5, 0.25],
        "reason": [None] * 4,
    }
    return pl.DataFrame(
        table | changes, schema_overrides={"family": pl.String, "reason": pl.String}
    )


def figure(table, name):
    return {f.name: f for f in figures(table, "Base")}[name]


def test_speedup_has_a_panel_a_model_and_the_mean():
    panels = figure(rows(), "speedup_attention").panels
    assert [p.title for p in panels] == ["m", "mean"]
    assert panels[0].labels == ("1K", "2K")
    assert {s.name: s.values for s in panels[0].series} == {"Base": (1, 1), "New": (2, 4 / 3)}
    assert {s.name: s.values[0] for s in panels[1].series} == {
        "Base": 1,
        "New": pytest.approx(5 / 3),
    }


def test_breakdown_is_in_fractions_and_leaves_out_what_is_nothing():
    base, new = figure(rows(), "latency_breakdown").panels
    assert {s.name: s.values for s in base.series} == {"2D array": (1, 0.25), "DRAM": (0, 0.75)}
    assert {s.name: s.values for s in new.series} == {"2D array": (0.25, 0), "DRAM": (0.75, 1)}


def test_einsums_stack_to_the_utilization():
    base, new = figure(rows(), "utilization_by_einsum").panels
    assert {s.name: s.values for s in base.series} == {"QK": (0.5, 0.25)}
    assert {s.name: s.values for s in new.series} == {"QK": (0.75, None), "AV": (0.25, None)}


def test_what_has_no_data_is_left_out():
    bare = rows().drop("latency_2d_s", "latency_dram_s", "util_2d", "util_2d.QK", "util_2d.AV")
    bare = bare.with_columns(pl.lit(None, pl.Float64).alias("speedup"))
    assert [f.name for f in figures(bare)] == ["energy_attention"]


def test_families_become_curves_with_their_front():
    family = rows(
        family=["f"] * 4, latency_s=[4.0, 3.0, 2.0, 2.5], area_um2=[1e6, 2e6, 3e6, 4e6]
    ).with_columns(pl.Series("arch.side", [16, 32, 64, 128]))
    (line,) = figure(family, "area_latency").lines
    assert line.x == (1, 2, 3, 4)
    assert line.labels == ("16", "32", "64", "128")
    assert line.front == (True, True, True, False)


def test_front_and_short():
    assert front([1, 1, 2], [1, 2, 0]) == (True, False, True)
    assert [short(n) for n in (512, 1000, 1024, 4096, 2**20)] == ["512", "1000", "1K", "4K", "1M"]


@pytest.mark.parametrize("width", ["auto", "single", "double"])
def test_files_are_drawn_the_same_each_time(tmp_path, width):
    table = rows(latency_s=[2.0, 4.0, 1.0, None])
    first = draw_all(table, tmp_path / "a", baseline="Base", width=width)
    again = draw_all(table, tmp_path / "b", baseline="Base", width=width)
    assert {p.suffix for p in first} == {".pdf", ".svg", ".png"}
    assert len(first) == 3 * len(figures(table, "Base"))
    for one, two in zip(first, again, strict=True):
        assert one.read_bytes() == two.read_bytes()
    inches = {"single": 3.5, "double": 7.16}.get(width)
    if inches:
        svg = next(p for p in first if p.name == "speedup_attention.svg").read_text()
        assert f'width="{inches * 72:g}pt"' in svg


def test_text_stays_text_and_fonts_are_embedded(tmp_path):
    paths = draw_all(rows(), tmp_path, baseline="Base", formats=("pdf", "svg"))
    by_name = {p.name: p for p in paths}
    assert ">speedup over Base</text>" in by_name["speedup_attention.svg"].read_text()
    assert b"/FontFile2" in by_name["speedup_attention.pdf"].read_bytes()
    assert b"/Type3" not in by_name["speedup_attention.pdf"].read_bytes()


def test_the_shipped_spec_draws_eight_figures():
    names = [f.name for f in figures(run_file(experiment_file("fusemax")), "Unfused")]
    assert names == [
        "utilization",
        "utilization_by_einsum",
        "speedup_attention",
        "energy_attention",
        "speedup_encoder",
        "energy_encoder",
        "latency_breakdown",
        "area_latency",
    ]


def test_importing_the_figures_does_not_import_matplotlib():
    code = "import sys, explore.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
