"""Any cascade on any architecture: what is found is legal, and no worse than what others find."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import mappers
import workloads
from archs import load_architecture
from einsum_cascade import InputError, parse_cascade
from mappers.search import Options, optimum
from sim import evaluate

ON = {
    "extends": "fusemax-cloud",
    "parameters": {"array_dim": 8},
    "memories": {"buffer": {"size_bytes": "16 KiB"}},
}
NEAR = {"size_bytes": "2 KiB", "access_words": 8, "read_energy_pj": 40, "write_energy_pj": 50}
ONE_ARRAY = {
    "name": "one-array",
    "clock_hz": "1 GHz",
    "word_bytes": "2 B",
    "memories": {
        "DRAM": {"bandwidth_bytes_per_s": "1 TiB/s", "read_energy_pj": 250, "write_energy_pj": 250},
        "buffer": {"size_bytes": "16 KiB", "read_energy_pj": 50, "write_energy_pj": 60},
    },
    "arrays": {
        "1d": {
            "shape": [8],
            "units": {"alu": {"area_um2": 1}},
            "operations": {
                kind: {"unit": "alu", "energy_pj": 1}
                for kind in ("mac", "mul", "add", "max", "exp", "div", "sqrt")
            },
            "registers": {"words": 64, "area_um2": 1, "energy_pj": 0.3},
        }
    },
}
ATTENTION = {"B": 1, "H": 2, "E": 8, "F": 8, "P": 32, "M": 32}
CASES = {
    "attention-3pass": ATTENTION,
    "causal-attention": ATTENTION | {"M1": 4},
    "decode-attention": ATTENTION | {"G": 1, "P": 1},
    "expert-gather-linear-gelu": {"N": 32, "T": 32, "K": 64, "R": 16},
    "layer-norm": {"R": 16, "D": 16},
    "linear-layer": {"R": 16, "K": 64, "N": 32},
    "patch-embedding": {"B": 2, "D": 16, "V": 16, "U": 16},
    "residual-add": {"R": 16, "D": 16},
    "rope": {"B": 2, "H": 4, "E": 8, "P": 32},
    "soft-attention": {"B": 1, "H": 1, "N": 32, "L": 8, "E": 8, "F": 8},
    "unnormalized-router": {"D": 16, "T": 32, "X": 16},
}


def edp(mapper, cascade, on, shape):
    """What another mapper's mapping costs; infinite where it has none."""
    extents = {k: np.array([v]) for k, v in shape.items()}
    given = mappers.check_options(mapper, {})
    try:
        found = evaluate(
            mappers.place(mapper, given, cascade=cascade, architecture=on, shape=extents)
        )
    except InputError:
        return np.inf
    return found.latency_s[0] * found.energy_pj[0] if found.infeasible[0] is None else np.inf


def checked(cascade, on, shape, **options):
    """The product of energy and latency of what the search finds, which the simulator allows."""
    found = optimum(Options(compare=False, **options), cascade, on, shape)
    real = evaluate(found.mappings[0])
    assert real.infeasible[0] is None
    report = found.report
    assert report.complete
    assert report.valid <= report.costed <= report.covered
    assert report.costed + sum(report.pruned.values()) == report.covered
    return real.latency_s[0] * real.energy_pj[0]


@pytest.mark.parametrize("name", CASES)
def test_no_worse_than_what_the_general_mappers_find(name):
    on = load_architecture(ON).resolve({})
    cascade, shape = workloads.cascade(name), CASES[name]
    least = min(edp(mapper, cascade, on, shape) for mapper in ("fused", "unfused"))
    assert np.isfinite(least)
    assert checked(cascade, on, shape) <= least * (1 + 1e-9)


@pytest.mark.parametrize("name", ["attention-3pass", "layer-norm"])
@pytest.mark.parametrize(
    "changed",
    [{"memories": {**ON["memories"], "near": NEAR}}, {"links": []}],
    ids=["two memories on chip", "no links"],
)
def test_other_architectures(name, changed):
    on = load_architecture({**ON, **changed}).resolve({})
    cascade, shape = workloads.cascade(name), CASES[name]
    least = min(edp(mapper, cascade, on, shape) for mapper in ("fused", "unfused"))
    assert np.isfinite(least)
    assert checked(cascade, on, shape) <= least * (1 + 1e-9)


def test_a_second_memory_or_a_link_is_never_a_loss():
    cascade, shape = workloads.cascade("layer-norm"), CASES["layer-norm"]

    def found(changed):
        return checked(cascade, load_architecture({**ON, **changed}).resolve({}), shape)

    assert found({"memories": {**ON["memories"], "near": NEAR}}) <= found({}) * (1 + 1e-9)
    assert found({}) <= found({"links": []}) * (1 + 1e-9)


@pytest.mark.parametrize("name", ["attention-3pass", "layer-norm", "linear-layer"])
def test_one_array_of_one_dimension(name):
    """With a memory from which nothing has to wait, the lanes are never idle."""
    on = load_architecture(ONE_ARRAY).resolve({})
    cascade, shape = workloads.cascade(name), CASES[name]
    assert np.isfinite(checked(cascade, on, shape))
    found = optimum(Options(objective="latency_s"), cascade, on, shape)
    assert evaluate(found.mappings[0]).util["1d"][0] == pytest.approx(1)


SOFTMAX = parse_cascade(
    "{name: softmax, ranks: {P: rows, M: columns}, inputs: ['A[m,p]'], outputs: [Z], body: ["
    "'G[p] = max over m of A[m,p]', 'S[m,p] = exp(A[m,p] - G[p])', 'D[p] = S[m,p]',"
    " 'Z[m,p] = S[m,p] / D[p]']}"
)


def test_what_two_runs_read_is_moved_once():
    """A row of A stays for the second pass over it: nothing is moved but A, once, and Z."""
    on = load_architecture(ON).resolve({})
    options = Options(objective="traffic_bytes", compare=False)
    found = optimum(options, SOFTMAX, on, {"P": 16, "M": 64})
    assert found.costs[0, 0] == 2 * 16 * 64 * on.word_bytes
    assert found.report.gap == 0


@pytest.mark.parametrize("name", ["attention-1pass", "attention-3pass"])
@pytest.mark.parametrize("rows", [1, 16])
def test_few_queries(name, rows):
    """A single query has nothing along the lanes that all Einsums share."""
    on = load_architecture("fusemax-cloud").resolve({})
    shape = {"B": 1, "H": 2, "E": 64, "F": 64, "P": rows, "M": 256}
    cascade = workloads.cascade(name)
    options = Options(compare=False, recompute=False)
    real = evaluate(optimum(options, cascade, on, shape).mappings[0])
    least = edp("fused", cascade, on, shape)
    assert real.latency_s[0] * real.energy_pj[0] <= least * (1 + 1e-9)


def test_no_worse_than_fused_where_arrays_differ():
    """GM, SN and SD on the 2D array, the division on the other: as `fused` has them."""
    on = load_architecture("fusemax-cloud").resolve({})
    shape = {"B": 64, "H": 12, "E": 64, "F": 64, "P": 1024, "M": 1024}
    cascade = workloads.cascade("attention-3pass")
    real = evaluate(optimum(Options(compare=False), cascade, on, shape).mappings[0])
    assert real.latency_s[0] * real.energy_pj[0] <= edp("fused", cascade, on, shape) * (1 + 1e-9)


@pytest.mark.parametrize("size", ["512 B", "1 KiB"])
def test_a_second_memory_takes_nothing_from_the_first(size):
    """Results overwrite operands in either."""
    cascade, shape = workloads.cascade("attention-3pass"), CASES["attention-3pass"]
    options = Options(objective="traffic_bytes", recompute=False, compare=False)
    buffer = {**ON["memories"]["buffer"], "size_bytes": size}
    found = []
    for memories in ({"buffer": buffer}, {"buffer": buffer, "near": {**NEAR, "size_bytes": "2 B"}}):
        on = load_architecture({**ON, "memories": memories}).resolve({})
        found.append(optimum(options, cascade, on, shape).costs[0, 0])
    assert found[1] <= found[0]


def test_more_structures_are_a_larger_space_and_never_a_worse_mapping():
    """Only the division needs the 1D array: what is like it otherwise may be apart from it."""
    on = load_architecture(ON).resolve({})
    cascade, shape = workloads.cascade("layer-norm"), CASES["layer-norm"]
    options = Options(compare=False)
    found = [
        optimum(options.model_copy(update={"structures": most}), cascade, on, shape)
        for most in (0, 2048, 32768)
    ]
    listed = [f.report.structures + f.report.structures_bounded for f in found]
    least = [f.costs[0].prod() for f in found]
    assert listed == sorted(listed)
    assert listed[0] < listed[-1]
    assert least == sorted(least, reverse=True)
    assert least[0] > least[-1]


def test_an_operation_that_no_array_has_is_named():
    on = load_architecture(ON).resolve({})
    cascade = workloads.cascade("ivit-layernorm")
    found = optimum(Options(), cascade, on, {"R": 16, "D": 16})
    why = evaluate(found.mappings[0]).infeasible[0]
    for array in ("2d", "1d"):
        assert f"ME needs the operation 'floordiv', which array '{array}' of" in why
    assert not found.report.covered


ONCE = """
import workloads
from archs import load_architecture
from mappers.search import Options, optimum
from mappers.written import write_mapping
cascade, shape = workloads.cascade("attention-3pass"), {shape!r}
found = optimum(Options(compare=False), cascade, load_architecture({on!r}).resolve({{}}), shape)
print(found.mappings[0].notes)
print(write_mapping(found.mappings[0], "found", cascade, shape))
"""


def test_hashes_decide_nothing():
    """Two processes whose sets are in other orders find the same mapping, with the same report."""
    script = ONCE.format(on=ON, shape=CASES["attention-3pass"])
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE, text=True,
        )
        for seed in ("1", "2")
    ]  # fmt: skip
    one, other = (process.communicate()[0] for process in begun)
    assert "candidates covered" in one
    assert one == other
