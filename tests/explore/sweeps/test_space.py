"""The points of a sweep: samples, chunks, conditions, and what the spec may say of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from einsum_cascade.source import InputError
from explore.spec import load_experiment
from explore.sweeps.block import Range
from explore.sweeps.space import Draws, axis, blocks, draws, permuted, values_at
from explore.sweeps.units import units
from explore.sweeps.work import table_of

SPEC = """\
name: small
workload:
  models: [bert-base, xlm]
  seq_len: [1K, 4K]
  batch: [1, 64]
designs:
  Ours: {arch: fusemax-cloud, cascade: attention-1pass, mapper: fusemax}
sweep:
  arch.array_dim: [64, 128, 256]
  arch.clock_hz: [940 MHz, 1.2 GHz]
"""


def write(tmp_path, text, name="spec.yaml"):
    file = tmp_path / name
    file.write_text(text)
    return file


def swept(tmp_path, text):
    return units(load_experiment(write(tmp_path, text)))


def rows(unit):
    import polars as pl

    return pl.concat([table_of(unit, chunk).rows for chunk in unit.chunks()], how="diagonal")


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_a_permutation_takes_every_place_once(count, word):
    found = permuted(np.arange(count, dtype=np.uint64), count, np.uint64(word))
    assert np.array_equal(np.sort(found), np.arange(count))


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(1, 40))
def test_blocks_are_the_grid_in_its_order(sizes, most):
    axes = [axis(f"a{i}", list(range(n))) for i, n in enumerate(sizes)]
    parts = [values_at(axes, block) for block in blocks(axes, most)]
    whole = np.meshgrid(*map(np.arange, sizes), indexing="ij")
    for i, values in enumerate(whole):
        assert np.array_equal(np.concatenate([p[f"a{i}"] for p in parts]), values.ravel())
    assert all(block.count <= most for block in blocks(axes, most))
    assert sum(block.count for block in blocks(axes, most)) == math.prod(sizes)


@pytest.mark.parametrize("total", [1, 12, 240])
def test_a_latin_hypercube_has_one_point_in_each_stratum(total):
    axes = [axis("x", Range(2.0, 5.0)), axis("y", Range(1.0, 1e6, log=True)), axis("z", [1, 2, 3])]
    parts = [values_at(axes, chunk) for chunk in draws("latin-hypercube", 7, total, 50)]
    x, y, z = (np.concatenate([p[n] for p in parts]) for n in "xyz")
    for share in ((x - 2) / 3, np.log(y) / math.log(1e6)):
        assert np.array_equal(np.sort(np.floor(share * total)), np.arange(total))
    if total % 3 == 0:
        assert np.unique(z, return_counts=True)[1].tolist() == [total // 3] * 3


def test_random_draws_differ_and_go_on_where_they_were():
    axes = [axis("a", range(1, 8)), axis("b", range(1, 10))]
    every = values_at(axes, Draws("random", 1, 0, 63, 63))
    assert len(set(zip(every["a"].tolist(), every["b"].tolist(), strict=True))) == 63
    first = values_at(axes, Draws("random", 1, 0, 20, 20))
    assert np.array_equal(first["a"], every["a"][:20])
    other = values_at(axes, Draws("random", 2, 0, 63, 63))
    assert not np.array_equal(other["a"], every["a"])
    uniform = values_at([axis("c", Range(0.5, 1.5))], Draws("random", 0, 0, 20000, 20000))["c"]
    assert abs(uniform.mean() - 1) < 0.01
    assert abs(np.histogram(uniform, 10, (0.5, 1.5))[0] / 2000 - 1).max() < 0.1


def test_ranges():
    assert Range(64, 1024, steps=5, log=True) == [64, 128, 256, 512, 1024]
    assert Range(1, 2, steps=3) == [1, 1.5, 2]
    assert Range(3, 7, integer=True) == [3, 4, 5, 6, 7]
    assert Range(1, 8, steps=20, integer=True) == [1, 2, 3, 4, 5, 6, 7, 8]
    drawn = Range(1, 10**9, log=True, integer=True).at(np.linspace(0, 1, 1000, endpoint=False))
    assert np.array_equal(drawn, np.rint(drawn))
    assert drawn.min() == 1
    assert Range(1, 10**9, log=True).at(np.array([0.0, 0.5])) == pytest.approx([1, 10**4.5])


def test_conditions_leave_points_out(tmp_path):
    text = SPEC + (
        "derive: {half: array_dim/2, arch.arrays.2d.registers.words: half}\n"
        "sampling: {require: ['arch.array_dim * clock_hz <= 128 * 1.2e9', 'half > 32', 'M <= 1024',"
        " 'arch.arrays.2d.registers.words < arch.memories.buffer.size_bytes']}\n"
    )
    (unit,) = swept(tmp_path, text)
    found = rows(unit)
    assert found["arch.array_dim"].unique().to_list() == [128]
    assert found["seq_len"].unique().to_list() == [1024]
    assert found.height == 2 * 2 * 2
    (unit,) = swept(tmp_path, SPEC + "sampling: {require: array_dim > 999}\n")
    assert rows(unit).height == 0


def test_a_condition_saves_derived_values_that_would_have_none(tmp_path):
    text = SPEC + (
        "derive: {arch.arrays.2d.registers.words: 'array_dim - 100'}\n"
        "sampling: {require: array_dim > 100}\n"
    )
    (unit,) = swept(tmp_path, text)
    assert rows(unit)["reason"].null_count() == rows(unit).height == 32
    (unit,) = swept(tmp_path, text.replace("require: array_dim > 100", "seed: 1"))
    found = rows(unit)
    assert found.height == 48  # without the condition, points are rows with a reason
    assert "is not positive" in found["reason"].drop_nulls()[0]
    assert found["reason"].null_count() == 32


def test_samplings_of_a_spec(tmp_path):
    (unit,) = swept(tmp_path, SPEC + "sampling: {kind: random, points: 17, chunk: 16}\n")
    found = rows(unit)
    assert (
        found.height == found.select("model", "batch", "seq_len", *unit.parameters).n_unique() == 17
    )
    (unit,) = swept(tmp_path, SPEC + "sampling: {kind: random, points: 1K}\n")
    assert rows(unit).height == 48  # there are no more
    text = SPEC.replace("[64, 128, 256]", "{from: 16, to: 512, scale: log, integer: true}")
    with pytest.raises(InputError, match=r"spec.yaml:9:3: .*a range has steps"):
        swept(tmp_path, text)
    text += "sampling: {kind: latin-hypercube, points: 64, axes: {seq_len: {from: 1K, to: 1M, scale: log}}}\n"
    (unit,) = swept(tmp_path, text)
    found = rows(unit)
    assert found.height == 64
    assert np.array_equal(found["arch.array_dim"], np.rint(found["arch.array_dim"]))
    assert found["seq_len"].min() >= 1024
    assert found["seq_len"].max() > 500_000


def test_a_list_moves_values_together(tmp_path):
    points = "[{arch.array_dim: 64, seq_len: 2K}, {arch.array_dim: 32, seq_len: 1K}]"
    (unit,) = swept(tmp_path, SPEC + f"sampling: {{kind: list, list: {points}}}\n")
    found = rows(unit)
    pairs = found.select("arch.array_dim", "seq_len").unique(maintain_order=True).rows()
    assert pairs == [(64, 2048), (32, 1024)]
    assert found.height == 2 * 2 * 2 * 2
    (tmp_path / "points.csv").write_text("arch.array_dim,seq_len\n64,2K\n32,1K\n")
    (again,) = swept(tmp_path, SPEC + "sampling: {kind: list, list: points.csv}\n")
    assert rows(again).equals(found)


def test_axes_of_mapper_and_queries(tmp_path):
    axes = "{mapper.schedule: [serial, interleaved], queries: [1, seq_len]}"
    found = swept(tmp_path, SPEC + f"sampling: {{axes: {axes}}}\n")
    labels = [tuple(unit.labels.values()) for unit in found]
    assert labels == [
        ("serial", "1"),
        ("serial", "seq_len"),
        ("interleaved", "1"),
        ("interleaved", "seq_len"),
    ]
    means = [rows(unit)["latency_s"].mean() for unit in found]
    assert means[0] < means[1]
    assert means[3] < means[1]


DEVICES = """\
name: devices
workload: {models: [m3vit], kernels: [attention], seq_len: 129}
designs: {Edge: {arch: edge-moe-zcu102, cascade: edge-moe-attention, mapper: edge_moe}}
sampling: {axes: {device: [zcu102, u280, {name: tiny, source: none, totals: {DSP: 9, BRAM18: 9, URAM: 0, LUT: 9, FF: 9}}]}}
"""


def test_devices_are_an_axis(tmp_path):
    found = [rows(unit).row(0, named=True) for unit in swept(tmp_path, DEVICES)]
    assert [row["device"] for row in found] == ["zcu102", "u280", "tiny"]
    own, other, tiny = found
    assert own["latency_s"] == other["latency_s"]
    assert own["dsp"] == other["dsp"] == tiny["dsp"] > 9
    assert own["energy_pj"] > 0
    assert other["energy_pj"] is None  # what that board draws, nobody said
    assert "DSP, and tiny has 9" in tiny["reason"]


def test_zero_is_a_value_where_the_architecture_says_so(tmp_path):
    text = SPEC.replace("[940 MHz, 1.2 GHz]", "[940 MHz]").replace("[64, 128, 256]", "[0, 64]")
    text = text.replace(
        "sweep:", "sweep:\n  arch.memories.DRAM.read_energy_pj: {from: 0, to: 8, steps: 3}"
    )
    (unit,) = swept(tmp_path, text)
    found = rows(unit)
    bad = found.filter(found["arch.array_dim"] == 0)
    assert bad["reason"].str.contains("must be at least 1, found 0").all()
    good = found.filter(found["arch.array_dim"] == 64)
    assert good["reason"].null_count() == good.height == 24
    assert sorted(good["arch.memories.DRAM.read_energy_pj"].unique()) == [0, 4, 8]


def test_a_slip_of_the_program_is_a_reason(tmp_path, monkeypatch):
    import explore.sweeps.work

    real = explore.sweeps.work.evaluate_together

    def failing(grid, design, points, accounting):
        if np.any(points.seq_len == 4096):
            raise ZeroDivisionError("of a kind that nobody foresaw")
        return real(grid, design, points, accounting)

    monkeypatch.setattr(explore.sweeps.work, "evaluate_together", failing)
    (unit,) = swept(tmp_path, SPEC)
    found = rows(unit)
    bad = found.filter(found["seq_len"] == 4096)
    assert set(bad["reason"]) == {
        "internal error: ZeroDivisionError: of a kind that nobody foresaw"
    }
    assert bad["latency_s"].null_count() == bad.height == found.height // 2
    assert found.filter(found["seq_len"] == 1024)["reason"].null_count() == found.height // 2


MISTAKES = {
    "kind": ("sampling: {kind: gird}", "did you mean 'grid'"),
    "no points": ("sampling: {kind: random}", "needs points"),
    "points of a grid": ("sampling: {points: 4}", "has no points"),
    "no list": ("sampling: {kind: list}", "needs list"),
    "key": ("sampling: {sead: 1}", "unknown key 'sead'.*did you mean 'seed'"),
    "no comparison": ("sampling: {require: array_dim}", "a comparison such as"),
    "no expression": ("sampling: {require: 'array_dim <'}", "not an arithmetic expression"),
    "equal": ("sampling: {require: 'array_dim == 64'}", "numbers compare with <=, <, >= and >"),
    "name": ("sampling: {require: 'array_dims < 3'}", "unknown name 'array_dims'.*'array_dim'"),
    "axis": ("sampling: {axes: {seqlen: [1]}}", "unknown axis 'seqlen'.*'seq_len'"),
    "length": ("sampling: {axes: {seq_len: [1.5]}}", "whole number"),
    "option": ("sampling: {axes: {mapper.shedule: [serial]}}", "unknown key 'shedule'.*'schedule'"),
    "device": ("sampling: {axes: {device: [zcu103]}}", "'fusemax-cloud' is for no device"),
    "queries": ("families: {f: {design: Ours, sweep: {queries: [1]}}}", r"swept with explore sweep: .*axes: {queries"),
    "objective": ("sampling: {objectives: latency_s}", "only for a sweep of kind search"),
    "list name": ("sampling: {kind: list, list: [{arch.arraydim: 3}]}", "no 'arraydim'"),
    "list model": ("sampling: {kind: list, list: [{model: bert}]}", "unknown model 'bert'.*bert-base"),
    "list value": ("sampling: {kind: list, list: [{seq_len: few}]}", "numbers are expected"),
    "list file": ("sampling: {kind: list, list: none.csv}", "cannot be read: No such file"),
    "uneven list": ("sampling: {kind: list, list: [{seq_len: 3}, {batch: 3}]}", "is missing in some"),
    "range order": ("sampling: {axes: {seq_len: {from: 8, to: 4}}}", "from < to must hold"),
    "families": (
        "sampling: {kind: random, points: 3}\nfamilies: {f: {design: Ours}}", "families are swept as grids",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_name_their_place(tmp_path, name):
    text, message = MISTAKES[name]
    with pytest.raises(InputError, match=r"(?s)" + message) as caught:
        swept(tmp_path, SPEC + text + "\n")
    assert (
        "spec.yaml:11" in str(caught.value) or "none.csv" in str(caught.value) or name == "families"
    )


def test_range_mistakes(tmp_path):
    for values, message in {
        "{from: 4}": "missing key 'to'",
        "{from: 4, to: 9, step: 2}": "unknown key 'step'",
        "{from: 9, to: 4}": "from < to must hold",
        "{from: 1, to: 2.5, integer: true}": "begins and ends with one",
        "[]": "at least 1 item",
        "[x]": "a number or a quantity",
        "[-1]": "a number of at least 0",
        "{from: 0, to: 8, steps: 3, scale: log}": "begins above 0",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            swept(tmp_path, SPEC.replace("[64, 128, 256]", values))
        assert "spec.yaml:9" in str(caught.value)


def test_one_unit_at_other_chunks_is_the_same(tmp_path):
    (unit,) = swept(tmp_path, SPEC)
    finer = replace(unit, sampling=unit.sampling.model_copy(update={"chunk": 16}))
    assert len(list(finer.chunks())) > 2
    assert rows(finer).equals(rows(unit))


def test_an_unknown_device_names_the_nearest(tmp_path):
    with pytest.raises(InputError, match=r"unknown device 'u820'.*did you mean 'u280'") as caught:
        swept(tmp_path, DEVICES.replace("u280", "u820"))
    assert "spec.yaml:4" in str(caught.value)
    for name in ("device", "arch.device", "mapper.reordering"):
        with pytest.raises(InputError, match="is swept with explore sweep: sampling") as caught:
            swept(tmp_path, DEVICES + f"sweep: {{{name}: [zcu102]}}\n")
        assert "spec.yaml:5" in str(caught.value)
