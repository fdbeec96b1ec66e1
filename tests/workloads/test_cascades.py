"""Every packaged attention cascade against NumPy, at magnitudes that break a naive softmax."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workloads
from einsum_cascade import InputError, execute
from workloads.reference import attention, unstable_attention

ATTENTION = [
    name
    for name in workloads.list_cascades()
    if name.startswith("attention-") and name != "attention-products"
]


def tensors(b, h, p, m, e, f, scale, seed):
    generator = np.random.default_rng(seed)
    q = generator.normal(size=(b, h, e, p)) * scale
    k = generator.normal(size=(b, h, e, m)) * scale
    return {"Q": q, "K": k, "V": generator.normal(size=(b, h, f, m))}


@pytest.mark.parametrize("name", ATTENTION)
@settings(max_examples=25, deadline=None)
@given(
    b=st.integers(1, 2),
    h=st.integers(1, 3),
    p=st.integers(1, 5),
    m1=st.integers(1, 4),
    m0=st.integers(1, 4),
    e=st.integers(1, 6),
    f=st.integers(1, 4),
    scale=st.sampled_from([0.01, 1.0, 40.0, 1e4]),
    seed=st.integers(0, 2**32 - 1),
)
def test_cascade_equals_attention(name, b, h, p, m1, m0, e, f, scale, seed):
    cascade = workloads.cascade(name)
    inputs = tensors(b, h, p, m1 * m0, e, f, scale, seed)
    shape = {"M0": m0} if "M0" in cascade.ranks else {}
    found = execute(cascade, inputs, shape)["AV"]
    expected = attention(inputs["Q"], inputs["K"], inputs["V"])
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ATTENTION)
def test_where_the_unstable_softmax_overflows(name):
    cascade = workloads.cascade(name)
    inputs = tensors(1, 2, 3, 32, 8, 4, 40.0, seed=1)
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
    assert "allowed: bert-base, t5-small, trxl-wt103, xlm" in str(error.value)
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
