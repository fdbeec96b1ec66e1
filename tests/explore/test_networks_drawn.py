"""Figures of networks, ablations, sweeps and published points: what they show, and the text."""

from __future__ import annotations

import polars as pl
import pytest
from typer.testing import CliRunner

from explore.cli import app
from explore.plots import Published, draw_all, figures
from explore.plots.layout import beside
from explore.plots.networks import kernel_name, kernels_figure, steps_figure
from explore.plots.sweeps import sweep_figures, swept_columns
from explore.run import run
from explore.spec import experiment_file, load_experiment
from explore.theirs import beside_published

AXES = (None, "latency_s")


def rows(count: int, **columns) -> pl.DataFrame:
    """Rows of one model and kernel, with columns in the order of the results."""
    swept = {n: v for n, v in columns.items() if n.startswith(("arch.", "shape."))}
    table = {
        "family": [None] * count,
        "design": ["A"] * count,
        "model": ["m"] * count,
        "kernel": ["network"] * count,
        "batch": [1] * count,
        "seq_len": [129] * count,
        **swept,
        "latency_s": [1.0] * count,
        "reason": [None] * count,
    }
    kinds = {"family": pl.String, "reason": pl.String}
    return pl.DataFrame(table | columns, schema_overrides=kinds)


def steps(**changes) -> pl.DataFrame:
    columns = {"design": ["Base", "+One", "+Two"], "latency_s": [0.4, 0.3, 0.1]}
    return rows(3, **columns | changes)


def values(panel):
    return {s.name: s.values for s in panel.series}


# -- kernels ---------------------------------------------------------------------------------------


def test_kernels_are_shares_in_the_order_of_the_network_and_small_ones_others():
    table = steps(
        kernel_patches_s=[0.1, 0.1, 0.0005],
        kernel_attention_norm_s=[0.1, 0.198, 0.0995],
        kernel_router_s=[0.2, 0.002, None],
    )
    (figure,) = kernels_figure(table, [])
    (panel,) = figure.panels
    assert (figure.name, figure.kind) == ("kernels", "shares")
    assert panel.labels == ("Base", "+One", "+Two")
    assert panel.notes == ("400 ms", "300 ms", "100 ms")
    found = values(panel)
    assert [*found] == ["patches", "attention norm", "router", "other"]
    assert found["patches"] == pytest.approx((0.25, 1 / 3, 0))
    assert found["other"] == pytest.approx((0, 0.002 / 0.3, 0.0005 / 0.1))
    assert sum(v[1] for v in found.values()) == pytest.approx(1)


def test_families_without_a_sweep_have_bars_too():
    main = rows(1, kernel_x_s=[1.0])
    family = rows(1, kernel_x_s=[1.0], family=["busy"])
    (figure,) = kernels_figure(main, [family])
    assert figure.panels[0].labels == ("A", "A, busy")


def test_kernels_are_means_of_points_that_all_designs_share():
    table = rows(
        4,
        design=["A", "A", "B", "B"],
        batch=[1, 2, 1, 2],
        latency_s=[1.0, 3.0, 2.0, None],
        kernel_x_s=[1.0, 3.0, 2.0, None],
        reason=[None, None, None, "too large"],
    )
    (figure,) = kernels_figure(table, [])
    assert figure.panels[0].notes == ("1.00 s", "2.00 s")


def test_without_kernels_there_is_no_such_figure():
    assert list(kernels_figure(rows(1), [])) == []
    assert list(kernels_figure(rows(1, kernel_x_s=[None]), [])) == []
    assert kernel_name("kernel_expert_FFN1_s") == "expert FFN1"


# -- steps -----------------------------------------------------------------------------------------


def test_steps_say_what_is_left_and_what_each_takes():
    (figure,) = steps_figure(steps(), "network", [Published("+One", 0.5), Published("GPU", 1, 2)])
    (panel,) = figure.panels
    found = values(panel)
    assert figure.x_label == "latency of network (ms)"
    assert found["latency"] == pytest.approx((400, 300, 100))
    assert found["taken away by the step"][0] is None
    assert found["taken away by the step"][1:] == pytest.approx((100, 200))
    assert found["published"] == (None, 500, None)
    assert panel.notes == ("400 ms", "300 ms (−25%)", "100 ms (−67%)")


@pytest.mark.parametrize(
    "table",
    [
        steps(design=["Base", "One", "Two"]),
        steps(latency_s=[0.4, None, 0.1]),
        pl.concat([steps(), steps(seq_len=[256] * 3)]),
    ],
    ids=["no step", "infeasible", "many points"],
)
def test_steps_are_drawn_of_one_point_of_each_design(table):
    assert list(steps_figure(table, "network")) == []


# -- sweeps ----------------------------------------------------------------------------------------


def test_one_parameter_is_an_axis_of_latency_and_of_the_bandwidth_needed():
    table = rows(
        6,
        design=["A"] * 3 + ["B"] * 3,
        latency_s=[4.0, 2.0, 1.0, 4.0, 4.0, 4.0],
        traffic_bytes=[8e9, 4e9, 2e9, 8e9, 8e9, 8e9],
        compute_s=[2.0, 1.0, 0.5] * 2,
        **{"arch.p": [1, 2, 4] * 2},
    )
    assert swept_columns(table) == ["arch.p"]
    (figure,) = sweep_figures(table, table, "study", AXES)
    latency, bandwidth = figure.curves[0]
    assert figure.name == "sweep_study_network"
    assert (latency.x_label, latency.y_label) == ("p", "latency of network (s)")
    assert [(line.name, line.x, line.y) for line in bandwidth.lines] == [
        ("A", (1, 2, 4), (4, 4, 4)),
        ("B", (1, 2, 4), (4, 8, 16)),
    ]


def test_two_values_are_no_curve_and_many_lines_become_means():
    two = rows(2, **{"arch.p": [1, 2]})
    assert list(sweep_figures(two, two, None, AXES)) == []
    points = [(n, p) for n in range(1, 11) for p in (1, 2, 4)]
    many = rows(
        30,
        seq_len=[n for n, _ in points],
        latency_s=[float(n * p) for n, p in points],
        **{"arch.p": [p for _, p in points]},
    )
    (figure,) = sweep_figures(many, many, None, AXES)
    (line,) = figure.curves[0][0].lines
    assert line.y == pytest.approx((5.5, 11, 22))


def test_several_parameters_are_points_and_a_front():
    table = rows(
        4,
        latency_s=[0.4, 0.2, 0.3, None],
        dsp=[10.0, 20.0, 30.0, 40.0],
        bram18=[4.0, 3.0, 2.0, 1.0],
        **{"arch.p": [1, 2, 1, 2], "arch.TI": [1, 1, 2, 2]},
    )
    main = rows(1, latency_s=[0.25], dsp=[25.0], bram18=[2.0])
    (figure,) = sweep_figures(table, main, "board", AXES)
    ((panel,),) = figure.curves
    (line,) = panel.lines
    assert figure.name == "front_board_network"
    assert panel.x_label == "DSP slices; numbers: p / TI"
    assert (line.x, line.front) == ((10, 20, 30), (True, True, False))
    assert line.labels == ("1/1", "2/1", "")
    assert panel.marked == (("A", 25, 250),)
    (figure,) = sweep_figures(table, main, "board", ("bram18", "latency_s"))
    assert figure.curves[0][0].lines[0].front == (False, True, True)
    # a main grid has no other grid to be marked in it, and no area is drawn where there is none
    (figure,) = sweep_figures(table, table, None, AXES)
    assert (figure.name, figure.curves[0][0].marked) == ("front_network", ())
    assert list(sweep_figures(table.drop("dsp", "bram18"), main, "board", AXES)) == []


def test_many_points_are_pixels_in_files_of_lines(tmp_path):
    sides = range(60)
    points = [(p, q) for p in sides for q in sides]
    table = rows(
        len(points),
        latency_s=[1.0 / (1 + p) + q / 100 for p, q in points],
        dsp=[1.0 + p + 3 * q for p, q in points],
        **{"arch.p": [p + 1 for p, _ in points], "arch.q": [q + 1 for _, q in points]},
    )
    (path,) = draw_all(table, tmp_path, formats=["svg"])
    text = path.read_text()
    assert path.name == "front_network.svg"
    assert "<image" in text
    assert len(text) < 400_000


def test_labels_cover_nothing_or_are_left_out():
    points = [(50.0, 50.0), (52.0, 50.0), (54.0, 50.0)]
    found = beside(points, [(20, 6)] * 3, (0, 0, 100, 100))
    assert None not in found
    boxes = [(x, y, x + 20, y + 6) for x, y in found]
    for i, (left, low, right, top) in enumerate(boxes):
        assert 0 <= left < right <= 100
        assert all(right <= a or c <= left or top <= b or d <= low for a, b, c, d in boxes[i + 1 :])
    assert None in beside(points * 20, [(40, 30)] * 60, (0, 0, 100, 100))


# -- the study that comes with the project ---------------------------------------------------------


@pytest.fixture(scope="module")
def edge_moe():
    experiment = load_experiment(experiment_file("edge_moe"))
    return experiment, run(experiment)


def test_every_step_of_the_ablation_lowers_latency_and_fits(edge_moe):
    _, table = edge_moe
    main = table.filter(pl.col("family").is_null())
    assert main["reason"].null_count() == main.height == 6
    latency = main["latency_s"].to_list()
    assert latency == sorted(latency, reverse=True)
    assert len(set(latency)) == 6
    assert latency[-1] == pytest.approx(34.64e-3, rel=0.02)  # published
    kernels = main.select(pl.sum_horizontal(pl.col("^kernel_.*$").fill_null(0))).to_series()
    assert kernels.to_list() == pytest.approx(latency)


def test_families_have_routings_of_their_own(edge_moe):
    experiment, table = edge_moe
    loads = {grid.family: grid.histogram for grid in experiment.grids}
    assert loads[None] is None
    assert loads["task0"] is not None
    assert sum(loads["task0"]) == sum(loads["task1"]) == 2 * 129
    moved = [table.filter(pl.col("family") == t)["traffic_bytes"][0] for t in ("task0", "task1")]
    even = table.filter(pl.col("design") == "+Attention reordering")["traffic_bytes"][0]
    assert moved[0] < moved[1] < even  # 12, 13 and 16 experts are read


def test_reordering_needs_one_row_at_a_time_whatever_is_in_parallel(edge_moe):
    _, table = edge_moe
    need = pl.col("traffic_bytes") / pl.col("compute_s")
    family = table.filter(pl.col("family") == "reordering").with_columns(need.alias("need"))
    ours, other = (
        family.filter(pl.col("design") == d)["need"].to_list()
        for d in ("With reordering", "Without")
    )
    assert ours == pytest.approx([ours[0]] * 5, rel=0.2)
    assert [b / other[0] for b in other[:4]] == pytest.approx([1, 2, 4, 8], rel=0.1)


def test_the_study_draws_its_figures_and_says_what_others_published(edge_moe):
    experiment, table = edge_moe
    given = experiment.schema.published
    known = [Published(name, p.latency_s, p.joules) for name, p in given.items()]
    found = {f.name: f for f in figures(table, "Baseline", known, ("dsp", "latency_s"))}
    new = {"kernels", "steps_network", "published_network", "sweep_reordering_attention"}
    assert new | {"front_board_network"} <= set(found)
    (panel,) = found["published_network"].curves[0]
    assert [line.name for line in panel.lines] == ["this model", "published"]
    assert "+Attention reordering, published" in panel.lines[1].labels
    assert len(panel.lines[1].x) == 7  # of the earlier steps, latency alone is known
    by_name = {b.name: b for b in beside_published(table, given)}
    ours = by_name["+Attention reordering"]
    assert (ours.ours, by_name["Baseline"].ours) == ("+Attention reordering", "Baseline")
    for name, ratio in (("GPU A6000", 2.24), ("CPU Xeon 6226R", 4.90)):
        assert by_name[name].energy_ratio / ours.energy_ratio == pytest.approx(ratio, rel=0.01)


def test_computing_is_what_memories_without_a_limit_leave():
    """On an array that never waits for data nothing changes; else it is that of endless memories."""
    import archs
    import mappers
    import workloads
    from sim import evaluate

    for bandwidth in (1e9, 1e12, 1e30):
        memory = {"memories.DRAM.bandwidth_bytes_per_s": bandwidth}
        mapping = mappers.place(
            "fusemax",
            mappers.check_options("fusemax", {}),
            cascade=workloads.cascade("attention-1pass"),
            architecture=archs.load_architecture("fusemax-cloud").resolve(memory),
            shape={"B": 1, "H": 1, "E": 64, "F": 64, "M": 65536, "P": 65536},
        )
        found = evaluate(mapping)
        assert found.compute_s <= found.latency_s
        assert (found.compute_s < found.latency_s) == (bandwidth == 1e9)


# -- specs and text --------------------------------------------------------------------------------

SPEC = """\
name: small
workload: {models: [m3vit], kernels: [network], seq_len: 129}
designs:
  First: {arch: edge-moe-zcu102, cascade: edge-moe-attention, mapper: {name: edge_moe, reordering: false}}
  +Step: {arch: edge-moe-zcu102, cascade: edge-moe-attention, mapper: edge_moe}
rank: {by: latency_s, baseline: First}
"""
OWN = "{Own: {arch: edge-moe-zcu102, cascade: edge-moe-attention, mapper: edge_moe}}"


def write(tmp_path, text):
    (tmp_path / "spec.yaml").write_text(SPEC + text)
    return tmp_path / "spec.yaml"


MISTAKES = {
    "published of nothing": ("published: {GPU: {power_w: 1, source: x}}\n", 7, "missing key 'latency_s'"),
    "published without source": ("published: {GPU: {latency_s: 1}}\n", 7, "missing key 'source'"),
    "published typo": ("published: {GPU: {latency: 1, source: x}}\n", 7, "did you mean 'latency_s'"),
    "published twice the energy": (
        "published: {GPU: {latency_s: 1, power_w: 1, energy_j: 1, source: x}}\n", 7, "power and energy: give one"),
    "published below zero": ("published: {GPU: {latency_s: -1, source: x}}\n", 7, "above 0"),
    "published infinite": ("published: {GPU: {latency_s: .inf, source: x}}\n", 7, "finite"),
    "published of many points": (
        "sweep: {arch.p: [2, 4]}\npublished: {GPU: {latency_s: 1, source: x}}\n", 8, "beside 2 points a design"),
    "pareto typo": ("figures: {pareto: {x: dps}}\n", 7, "did you mean 'dsp'"),
    "pareto of one": ("figures: {pareto: {x: latency_s}}\n", 7, "x and y are the same"),
    "family without design": ("families:\n  f: {sweep: {arch.p: [1]}}\n", 8, "a family has a design, or designs"),
    "family with both": ("families:\n  f: {design: First, designs: [+Step]}\n", 8, "a family has a design, or designs"),
    "family of unknown designs": ("families:\n  f: {designs: [First, +Stp]}\n", 8, "did you mean '\\+Step'"),
    "family of no designs": ("families:\n  f: {designs: []}\n", 8, "at least 1 item"),
    "family that hides a design": (f"families:\n  f: {{designs: {OWN.replace('Own', 'First')}}}\n", 8, "design of the main grid"),
    "own design, unknown option": (
        f"families:\n  f: {{designs: {OWN.replace('mapper: edge_moe', 'mapper: {name: edge_moe, load: all}')}}}\n", 8, "did you mean 'loads'"),
    "own design, unknown architecture": (f"families:\n  f: {{designs: {OWN.replace('zcu102', 'zcu12')}}}\n", 8, "did you mean 'edge-moe-zcu102'"),
    "own design, unknown rank": (f"families:\n  f: {{designs: {OWN.replace('}}', ', shape: {QQ: 1}}}')}}}\n", 8, "has no rank 'QQ'"),
    "loads of a family": ("families:\n  f: {design: First, histogram: edge-moe-task2}\n", 8, "did you mean 'edge-moe-task"),
    "loads of a family for nothing": (
        "families:\n  f: {design: First, kernels: [attention], histogram: edge-moe-task0}\n", 8, "no kernel 'network'"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_said_with_their_place(tmp_path, name):
    text, line, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message) as refused:
        load_experiment(write(tmp_path, text))
    assert f"spec.yaml:{line}:" in str(refused.value)


def test_designs_of_families_are_their_own_or_of_the_main_grid(tmp_path):
    text = f"families:\n  listed: {{designs: [+Step, First]}}\n  own: {{designs: {OWN}}}\n"
    grids = load_experiment(write(tmp_path, text)).grids
    names = [[design.name for design in grid.designs] for grid in grids]
    assert names == [["First", "+Step"], ["+Step", "First"], ["Own"]]


def test_loads_of_the_workload_are_those_of_families_without(tmp_path):
    text = "families: {a: {design: First}, b: {design: First, histogram: edge-moe-task1}}\n"
    spec = write(tmp_path, text)
    spec.write_text(
        spec.read_text().replace("seq_len: 129}", "seq_len: 129, histogram: edge-moe-task0}")
    )
    main, a, b = (grid.histogram for grid in load_experiment(spec).grids)
    assert main == a != b


def test_the_report_has_resources_and_published_points_and_no_empty_columns(tmp_path):
    text = (
        "published: {GPU: {latency_s: 0.07, energy_j: 1, source: x}}\nfigures: {formats: [png]}\n"
    )
    spec, out = write(tmp_path, text), tmp_path / "out"
    done = CliRunner().invoke(app, ["run", str(spec), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "2D util" not in done.output
    assert "1,366 (54%)" in done.output
    assert "2.00x" in done.output
    drawn = {path.stem for path in (out / "figures").iterdir()}
    assert {"kernels", "steps_network", "published_network"} <= drawn


def test_designs_that_are_not_for_an_fpga_have_no_such_table(tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "name: a\nworkload: {models: [vit-tiny], seq_len: 1K}\nfigures: {formats: [png]}\n"
        "designs: {A: {arch: fusemax-cloud, cascade: attention-1pass, mapper: fusemax}}\n"
    )
    done = CliRunner().invoke(app, ["run", str(spec), "--out", str(tmp_path / "out")])
    assert "2D util" in done.output
    assert "FPGA" not in done.output
