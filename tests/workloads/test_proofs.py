"""Every packaged cascade against NumPy written from the paper's equations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workloads
from einsum_cascade import execute
from workloads.reference import proofs

PROOFS = proofs()
LARGE = 1e3  # scores at which exp overflows in float64


def compare(name, seed, magnitude):
    proof = PROOFS[name]
    generator = np.random.default_rng(seed)
    shape = proof.shape(generator)
    inputs = proof.inputs(generator, shape, magnitude)
    cascade = workloads.cascade(name)
    found = execute(cascade, inputs, shape, proof.functions)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        expected = proof.expected(inputs, shape)
    assert set(expected) == set(cascade.outputs)
    for tensor, array in expected.items():
        if proof.exact:
            assert found[tensor].dtype.kind in "iu"
            np.testing.assert_array_equal(found[tensor], array, err_msg=f"{name} {tensor}")
            continue
        assert np.all(np.isfinite(found[tensor])), f"{name} {tensor} {shape}"
        scale = max(1.0, float(np.max(np.abs(array), initial=0.0)))
        error = float(np.max(np.abs(found[tensor] - array), initial=0.0)) / scale
        assert error <= 1e-10, f"{name} {tensor} is off by {error} at {shape}"


@pytest.mark.parametrize("name", sorted(PROOFS))
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_cascade_equals_reference(name, seed):
    compare(name, seed, 1.0)


@pytest.mark.parametrize("name", sorted(n for n, p in PROOFS.items() if p.stable))
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_stable_at_large_magnitudes(name, seed):
    compare(name, seed, LARGE)


@pytest.mark.parametrize(
    "name", [*workloads.list_cascades("attention"), *workloads.list_cascades("layers")]
)
def test_every_cascade_has_a_proof(name):
    assert name in PROOFS
