"""A chunk of a grid, evaluated as a whole, gives what its points give one after the other."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mappers
from explore.evaluate import evaluate_together, points_of
from explore.points import Points, product
from explore.results import figures_of
from explore.spec import load_experiment
from explore.sweeps.units import units
from explore.sweeps.work import table_of

SPEC = """\
name: grids
workload:
  models: [bert-base, xlm]
  seq_len: [1K, 3000, 64K]
  batch: [1, 64]
  kernels: [attention, encoder]
designs:
  Ours: {arch: fusemax-cloud, cascade: attention-1pass, mapper: fusemax}
sweep:
  arch.array_dim: [32, 256]
  arch.memories.DRAM.bandwidth_bytes_per_s: [100 GB/s, 400 GB/s, 4 TB/s]
  arch.memories.buffer.size_bytes: [64 KiB, 16 MiB]
  arch.clock_hz: [500 MHz, 940 MHz]
sampling: {columns: all}
"""
DERIVED = """\
derive:
  arch.arrays.2d.registers.words: "max(4, 4*array_dim//E)"
  arch.memories.buffer.size_bytes: {start: 4096*array_dim, double_until: "latency_s < 1", at_most: 5}
sampling:"""
TWO_SIZES = "  arch.memories.buffer.size_bytes: [64 KiB, 16 MiB]\n"

SPECS = {
    "interleaved": SPEC,
    "serial": SPEC.replace("mapper: fusemax", "mapper: {name: fusemax, schedule: serial}"),
    "derived": SPEC.replace("sampling:", DERIVED).replace(TWO_SIZES, ""),
    "decoding": SPEC.replace("kernels: [attention, encoder]", "queries: 1"),
    "fixed tiles": SPEC.replace("fusemax}", "fusemax, shape: {M0: 8}}").replace("3000", "3200"),
    "one axis": "\n".join(SPEC.replace(", xlm", "").replace("1, 64", "1").splitlines()[:8])
    + "\nsampling: {columns: all}\n",
}


def swept(tmp_path, text):
    file = tmp_path / "spec.yaml"
    file.write_text(text)
    return units(load_experiment(file))


def table(unit, points):
    found = evaluate_together(unit.grid, unit.design, points, unit.accounting)
    assert found.points.is_flat
    columns = found.values | {
        f"{kernel} {name}": figures
        for kernel in found.kernels
        for name, figures in figures_of(found, kernel).items()
    }
    return pl.DataFrame(columns | {"unmet": pl.Series(found.unmet.tolist(), dtype=pl.String)})


@pytest.mark.parametrize("name", SPECS)
def test_a_grid_is_its_points(tmp_path, name):
    (unit,) = swept(tmp_path, SPECS[name])
    (chunk,) = unit.chunks()
    points = unit.points(chunk)
    assert mappers.takes_grids(unit.design.mapper)
    assert points.is_flat == (name == "one axis")
    whole = table(unit, points)
    assert whole.equals(table(unit, points.flat))
    for at in np.random.default_rng(0).integers(len(points), size=5):
        alone = table(unit, points[np.array([at])])
        for column, figures in alone.to_dict(as_series=False).items():
            if figures[0] is not None and not column.endswith(("bottleneck", "reason", "mapping")):
                assert whole[column][int(at)] == pytest.approx(figures[0], rel=1e-12)


def test_points_of_a_grid_can_be_infeasible_and_feasible(tmp_path):
    (unit,) = swept(tmp_path, SPEC)
    (chunk,) = unit.chunks()
    reasons = table_of(unit, chunk).rows["reason"]
    assert 0 < reasons.null_count() < len(reasons)


def test_other_mappers_see_flat_points(tmp_path):
    text = SPEC.replace("attention-1pass, mapper: fusemax", "attention-3pass, mapper: unfused")
    (unit,) = swept(tmp_path, text.replace("3000, 64K", "2K"))
    (chunk,) = unit.chunks()
    points = unit.points(chunk)
    assert not mappers.takes_grids(unit.design.mapper)
    assert table(unit, points).equals(table(unit, points.flat))


@given(st.lists(st.integers(1, 4), min_size=3, max_size=6))
def test_a_product_is_in_the_order_of_its_axes(sizes):
    names = [f"a{i}" for i in range(len(sizes))]
    axes = {name: np.arange(size) for name, size in zip(names, sizes, strict=True)}
    values = product([{name: each, f"{name} too": 2 * each} for name, each in axes.items()])
    first, second, third, *_ = names
    points = Points(values[first], values[second], values[third], values)
    assert points.shape == (tuple(size for size in sizes if size > 1) or (1,))
    assert len(points) == len(points.flat.model) == np.prod(sizes)
    meshed = np.meshgrid(*axes.values(), indexing="ij")
    for name, wanted in zip(names, meshed, strict=True):
        assert np.array_equal(points.flat.swept[name], wanted.ravel())
        assert np.array_equal(points.flat.swept[f"{name} too"], 2 * wanted.ravel())
    last = points[np.array([len(points) - 1])]
    assert last.is_flat
    assert [int(last.swept[name][0]) for name in names] == [size - 1 for size in sizes]


def test_a_spec_without_sampling_has_the_same_points(tmp_path):
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC.replace("sampling: {columns: all}\n", ""))
    experiment = load_experiment(file)
    (grid,), (unit,) = experiment.grids, units(experiment)
    (chunk,) = unit.chunks()
    one, other = points_of(grid), unit.points(chunk)
    assert one.shape == other.shape
    for name, values in one.flat.swept.items():
        assert np.array_equal(values, other.flat.swept[name])
