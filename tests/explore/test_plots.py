"""Figures: what they show against numbers worked out by hand, and that they are drawn."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations

import polars as pl
import pytest

from explore.plots import draw_all, figures
from explore.plots.figure import Figure, Line, LinePanel
from explore.plots.front import front, short
from explore.plots.layout import told_apart
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


def values(panel):
    return {s.name: s.values for s in panel.series}


def test_speedup_has_a_panel_a_model_and_the_mean():
    panels = figure(rows(), "speedup_attention").panels
    assert [p.title for p in panels] == ["m", "mean"]
    assert panels[0].labels == ("1K", "2K")
    assert {s.name: s.values for s in panels[0].series} == {"Base": (1, 1), "New": (2, 4 / 3)}
    assert {s.name: s.values[0] for s in panels[1].series} == {
        "Base": 1,
        "New": pytest.approx(5 / 3),
    }


def test_breakdown_is_relative_to_the_baseline_at_each_point():
    (panel,) = figure(rows(latency_stall_s=[0.0] * 4), "latency_breakdown").panels
    assert panel.groups == ("Base", "New")
    assert panel.labels == ("1K", "2K")
    assert values(panel) == {  # what is nothing everywhere is left out
        "2D array": (1, 0.25, 0.125, 0),
        "DRAM": (0, 0.75, 0.375, 0.75),
    }


def test_breakdown_without_a_baseline_is_in_shares():
    (panel,) = figure(rows(speedup=[None] * 4), "latency_breakdown").panels
    assert values(panel) == {"2D array": (1, 0.25, 0.25, 0), "DRAM": (0, 0.75, 0.75, 1)}


def test_einsums_stack_to_the_utilization():
    (panel,) = figure(rows(), "utilization_by_einsum").panels
    assert values(panel) == {"QK": (0.5, 0.25, 0.75, None), "AV": (0, 0, 0.25, None)}


def test_each_array_has_its_row_of_utilizations():
    two, one = figure(rows(util_1d=[0.1, 0.2, 0.3, 0.4]), "utilization").rows
    assert (two.y_label, one.y_label) == (
        "2D array utilization, attention",
        "1D array utilization, attention",
    )
    assert values(two.panels[0]) == {"Base": (0.5, 0.25), "New": (1, None)}
    assert values(one.panels[0]) == {"Base": (0.1, 0.2), "New": (0.3, 0.4)}


def test_nan_is_a_point_without_a_value():
    table = rows(speedup=[1.0, float("nan"), 2.0, 4.0])
    panels = figure(table, "speedup_attention").panels
    assert values(panels[0]) == {"Base": (1, None), "New": (2, 4)}
    assert values(panels[1]) == {"Base": (1,), "New": (3,)}


def test_a_wide_range_of_speedups_is_logarithmic():
    assert not figure(rows(), "speedup_attention").log
    assert figure(rows(speedup=[1.0, 1.0, 20.0, 31.0]), "speedup_attention").log


def test_averages_are_said_to_be_averages():
    assert figure(rows(), "utilization").x_label == "sequence length (tokens)"
    both = pl.concat([rows(), rows(batch=[2] * 4)])
    assert figure(both, "utilization").x_label.endswith(", mean over the batch")
    sides = [rows().with_columns(pl.lit(side).alias("arch.side")) for side in (8, 16)]
    assert figure(pl.concat(sides), "utilization").x_label.endswith(", mean over the sweep")


def test_attention_is_what_utilizations_are_shown_of():
    encoder = rows(kernel=["encoder"] * 4, util_2d=[0.9] * 4)
    both = pl.concat([encoder, rows()])
    assert values(figure(both, "utilization").panels[0])["Base"] == (0.5, 0.25)
    assert values(figure(encoder, "utilization").panels[0])["Base"] == (0.9, 0.9)


def test_what_has_no_data_is_left_out():
    bare = rows().drop("latency_2d_s", "latency_dram_s", "util_2d", "util_2d.QK", "util_2d.AV")
    bare = bare.with_columns(pl.lit(None, pl.Float64).alias("speedup"))
    assert [f.name for f in figures(bare)] == ["energy_attention"]


def test_families_become_curves_with_their_front():
    family = rows(
        family=["f"] * 4,
        seq_len=[1024] * 4,
        latency_s=[4.0, 3.0, 2.0, 2.5],
        area_um2=[1e6, 2e6, 3e6, 4e6],
    ).with_columns(pl.Series("arch.side", [16, 32, 64, 128]))
    (line,) = figure(family, "area_latency").lines
    assert line.x == (1, 2, 3, 4)
    assert line.labels == ("16", "32", "64", "128")
    assert line.front == (True, True, True, False)


def test_a_family_over_several_lengths_has_a_curve_for_each():
    family = rows(family=["f"] * 4, design=["New"] * 4)
    table = family.with_columns(pl.Series("arch.side", [16, 16, 32, 32]))
    lines = figure(table, "area_latency").lines
    assert [(line.name, line.y) for line in lines] == [("m 1K", (1, 2)), ("m 2K", (3, 4))]


def test_several_families_have_a_figure_each_and_without_a_sweep_none():
    both = pl.concat([rows(family=[name] * 4) for name in ("f", "g")])
    assert figures(both) == []
    swept = both.with_columns(pl.Series("arch.side", [1, 2, 3, 4] * 2))
    assert [f.name for f in figures(swept)] == ["area_latency_f", "area_latency_g"]


def test_only_what_was_swept_labels_the_points():
    family = rows(family=["f"] * 4)
    table = family.select(
        pl.Series("arch.side", [1, 2, 3, 4]),
        pl.Series("arch.size", [1024, 1024, 2048, 2048]),
        *family.columns,
        pl.Series("arch.derived", [5, 6, 7, 8]),
    )
    drawn = figure(table, "area_latency")
    assert drawn.x_label == "area (mm²); numbers: side / size"
    assert {label for line in drawn.lines for label in line.labels} == {
        "1/1K",
        "2/1K",
        "3/2K",
        "4/2K",
    }


def test_front_and_short():
    assert front([1, 1, 2], [1, 2, 0]) == (True, False, True)
    assert [short(n) for n in (512, 1000, 1024, 4096, 2**20)] == ["512", "1000", "1K", "4K", "1M"]


def test_files_are_drawn_the_same_each_time(tmp_path):
    table = rows(latency_s=[2.0, 4.0, 1.0, None])
    first = draw_all(table, tmp_path / "a", baseline="Base")
    again = draw_all(table, tmp_path / "b", baseline="Base")
    assert {p.suffix for p in first} == {".pdf", ".svg", ".png"}
    assert len(first) == 3 * len(figures(table, "Base"))
    for one, two in zip(first, again, strict=True):
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(("width", "inches"), [("single", 3.5), ("double", 7.16)])
def test_a_figure_is_as_wide_as_a_column(tmp_path, width, inches):
    for path in draw_all(rows(), tmp_path, width=width, formats=["svg"]):
        assert f'width="{inches * 72:g}pt"' in path.read_text()


def test_text_stays_text_and_fonts_are_embedded(tmp_path):
    paths = draw_all(rows(), tmp_path, baseline="Base", formats=("pdf", "svg"))
    by_name = {p.name: p for p in paths}
    assert ">speedup over Base</text>" in by_name["speedup_attention.svg"].read_text()
    assert b"/FontFile2" in by_name["speedup_attention.pdf"].read_bytes()
    assert b"/Type3" not in by_name["speedup_attention.pdf"].read_bytes()


def wide(designs=4, models=5, lengths=8):
    """A grid with long names, some of it infeasible, over several decades."""
    places = [(d, m, n) for d in range(designs) for m in range(models) for n in range(lengths)]
    at = [None if d == n else 1.0 + 3.0**d for d, _, n in places]
    table = {
        "family": [None] * len(places),
        "design": [f"a design with a long name {d}" for d, _, _ in places],
        "model": [
            f"a model with a name that is far too long for its panel {m}" for _, m, _ in places
        ],
        "kernel": ["attention"] * len(places),
        "batch": [1] * len(places),
        "seq_len": [1024 * 2**n for _, _, n in places],
        "latency_s": at,
        "latency_2d_s": at,
        "area_um2": at,
        "util_2d": [v and 1 / v for v in at],
        "util_2d.QK": [v and 1 / v for v in at],
        "speedup": at,
        "energy_ratio": [v and v / 100 for v in at],
    }
    return pl.DataFrame(table, schema_overrides={"family": pl.String})


@pytest.mark.parametrize(
    ("sizes", "width"),
    [
        ((1, 1, 1), "double"),
        ((4, 5, 8), "auto"),
        ((4, 5, 8), "single"),
        ((12, 1, 2), "single"),
        ((2, 2, 40), "auto"),
    ],
)
def test_grids_of_any_size_are_drawn_inside_the_page(tmp_path, sizes, width):
    from matplotlib.image import imread

    for path in draw_all(wide(*sizes), tmp_path, width=width, formats=["png"]):
        page = imread(path)[..., :3]
        edge = (page[0], page[-1], page[:, 0], page[:, -1])
        assert all((side == 1).all() for side in edge), f"{path.name} is cut off"


def test_jobs_draw_the_same_files(tmp_path):
    one = draw_all(rows(), tmp_path / "one", formats=["svg"])
    two = draw_all(rows(), tmp_path / "two", formats=["svg"], jobs=2)
    assert [p.name for p in one] == [p.name for p in two]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))


def test_the_shipped_spec_draws_nine_figures():
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
        "sweep_area_attention",
    ]


def test_importing_the_figures_does_not_import_matplotlib():
    code = "import sys, explore.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("x", "scale"), [((0.0, 1.0, 2.0), "linear"), ((1.0, 2.0, 4.0), "log")])
def test_a_swept_zero_has_its_place(x, scale):
    from explore.plots.curves import draw_curves

    line = Line("Ours", x, (1.0, 2.0, 3.0), ("", "", ""), (True, True, True))
    panel = LinePanel("", "x", "y", (line,))
    (axes,) = draw_curves(Figure("sweep", "curves", curves=((panel,),)), 3.5).axes
    assert axes.get_xscale() == scale
    assert axes.get_xlim()[0] <= x[0] <= x[-1] <= axes.get_xlim()[1]


def test_names_that_are_cut_can_still_be_told_apart():
    kinds = ("grouped-query-attention", "grouped-latent-attention", "sliding-window-attention")
    names = [f"{kind} on {arch}" for kind in kinds for arch in ("fusemax-cloud", "flat-cloud")]
    found = told_apart(names, 13)
    assert len(set(found)) == len(names)
    assert all(len(name) < 28 for name in found)
    assert found[-1].endswith("…flat-cloud")
    assert told_apart(["x" * 20 + "1" + "x" * 20, "x" * 41], 13) == [
        "x" * 20 + "1" + "x" * 20,
        "x" * 41,
    ]


def test_names_of_a_front_do_not_cover_each_other(tmp_path):
    """Two architectures whose best points all but agree: their names stand one over the other."""
    from explore.plots.curves import draw_curves

    at = {"x": (1.0, 50.0), "y": (1.0, 0.5), "front": (True, True)}
    lines = (
        Line("fusemax", labels=("neighborhood", "far"), **at),
        Line("flat", labels=("neighborhood", "other"), **at | {"y": (1.01, 0.495)}),
    )
    panel = LinePanel("1K tokens", "latency (s)", "energy (J)", lines, scattered=True)
    canvas = draw_curves(Figure("pareto", "curves", curves=((panel,),)), 3.5)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(canvas).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in canvas.axes[0].texts]
    assert len(boxes) == 4
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
