"""Every packaged attention cascade against NumPy, at magnitudes that break a naive softmax."""

from __future__ import annotations

import os

import numpy as np
import pytest

import mappers
import workloads
from archs import load_architecture
from einsum_cascade import InputError, execute
from sim import evaluate
from workloads.reference import attention, unstable_attention
from workloads.reference.softmax import random_inputs

SOFTMAX = [
    "attention-1pass",
    "attention-2pass",
    "attention-2pass-deferred",
    "attention-3pass",
    "attention-3pass-deferred",
]


@pytest.mark.parametrize("name", SOFTMAX)
def test_where_the_unstable_softmax_overflows(name):
    cascade = workloads.cascade(name)
    extents = {"B": 1, "H": 2, "P": 3, "M": 32, "E": 8, "F": 4}
    inputs = random_inputs(np.random.default_rng(1), extents, 1600.0)
    with np.errstate(over="ignore", invalid="ignore"):
        assert not np.all(np.isfinite(unstable_attention(*inputs.values())))
    shape = {"M0": 8} if "M0" in cascade.ranks else {}
    found = execute(cascade, inputs, shape)["AV"]
    np.testing.assert_allclose(found, attention(*inputs.values()), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["pedagogical-1", "pedagogical-2", "pedagogical-3"])
def test_the_pedagogical_three_are_one_function(name):
    generator = np.random.default_rng(0)
    a, b = generator.uniform(0.5, 2, (2, 9))
    found = execute(workloads.cascade(name), {"A": a, "B": b})["Z"]
    assert found == pytest.approx(a @ b * a.sum())


def test_linear_layer_is_a_matrix_product():
    a, w = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    found = execute(workloads.cascade("linear-layer"), {"A": a, "W": w})["Z"]
    np.testing.assert_array_equal(found, a @ w)


@pytest.mark.parametrize("name", workloads.list_cascades())
def test_every_cascade_says_where_it_comes_from(name):
    cascade = workloads.cascade(name)
    assert cascade.name == name
    assert cascade.description
    assert cascade.source


def test_unknown_names():
    with pytest.raises(InputError) as error:
        workloads.cascade("attention-3pas")
    assert "did you mean 'attention-3pass'?" in str(error.value)
    with pytest.raises(InputError) as error:
        workloads.model("bert")
    assert "did you mean 'bert-base'?" in str(error.value)
    with pytest.raises(InputError, match="no cascade file"):
        workloads.cascade("mine/absent.yaml")


def test_a_users_own_cascade_by_path(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("{name: own, ranks: [K], inputs: ['A[k]'], body: ['Y = A[k]']}")
    assert workloads.cascade("own.yaml", base=tmp_path).name == "own"
    assert workloads.cascade(own).name == "own"
    own.write_text("{name: own, ranks: [K], inputs: ['A[k]'], body: ['Y = B[k]']}")
    with pytest.raises(InputError, match=r"own\.yaml:1:\d+: body\[0\]: the tensor 'B'"):
        workloads.cascade("own.yaml", base=tmp_path)


def test_names_are_found_from_any_directory(tmp_path):
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        assert workloads.cascade("linear-layer").name == "linear-layer"
        assert workloads.model("xlm").E == 128
    finally:
        os.chdir(before)


@pytest.mark.parametrize("name", workloads.list_cascades("attention"))
def test_divisions_of_a_whole_score_matrix_stand_alone(name):
    """An Einsum runs on one array: what only the 1D one has would take the rest there too."""
    cascade = workloads.cascade(name)
    scores = [e for e in cascade.einsums if {"m", "p"} <= {str(i) for i in e.output.indices}]
    for einsum in scores:
        if {"div", "log"} & set(einsum.operations):
            assert not {"exp", "mul", "mac"} & set(einsum.operations), einsum.name


def test_a_sigmoid_is_as_fast_as_its_divisions():
    """On FuseMax's 1D array: a division a score, a sum beside it; exponentials on the 2D array."""
    cascade = workloads.cascade("sigmoid-attention")
    architecture = load_architecture("fusemax-cloud").resolve()
    shape = {
        name: np.array([n]) for name, n in zip("BHPMEF", (1, 12, 4096, 4096, 64, 64), strict=True)
    }
    mapping = mappers.place(
        "fused",
        mappers.check_options("fused", {}),
        cascade=cascade,
        architecture=architecture,
        shape=shape,
    )
    divisions_s = 12 * 4096**2 / 256 / 940e6
    assert evaluate(mapping).latency_s[0] == pytest.approx(divisions_s, rel=0.05)


@pytest.mark.parametrize(("tokens", "windows"), [(1, 1), (49, 1), (50, 2), (98, 2), (1024, 21)])
def test_an_image_is_cut_into_whole_windows(tokens, windows):
    # as Swin pads it: no token is left out
    shape = {"B": 1, "H": 1, "E": 4, "F": 4, "TOKENS": tokens}
    assert workloads.cascade("window-attention").resolve_shape(shape)["N"] == windows
