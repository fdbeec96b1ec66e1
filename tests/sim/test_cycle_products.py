"""The systolic array against NumPy, SCALE-Sim and the closed form of serialized folds."""

import os
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.cycle import simulate_product

# M, N, K, rows, cols, dataflow, cycles: what SCALE-Sim 3 reported in CALC mode, 0-indexed, so one
# less than the count
SCALE_SIM = [
    (64, 64, 64, 32, 32, "os", 503),
    (64, 64, 64, 32, 32, "ws", 631),
    (64, 64, 64, 32, 32, "is", 631),
    (128, 128, 64, 32, 32, "os", 2015),
    (128, 128, 64, 32, 32, "ws", 1775),
    (128, 128, 64, 32, 32, "is", 1775),
    (256, 256, 64, 32, 32, "os", 8063),
    (256, 256, 64, 32, 32, "ws", 5599),
    (256, 256, 64, 32, 32, "is", 5599),
    (256, 64, 256, 32, 32, "os", 5087),
    (256, 64, 256, 32, 32, "ws", 5599),
    (256, 64, 256, 32, 32, "is", 10111),
    (100, 70, 50, 32, 32, "os", 1343),
    (100, 70, 50, 32, 32, "ws", 1163),
    (100, 70, 50, 32, 32, "is", 1311),
    (256, 256, 64, 16, 64, "os", 9087),
    (256, 256, 64, 16, 64, "ws", 5599),
    (256, 256, 64, 16, 64, "is", 5599),
    (1, 1024, 64, 32, 32, "os", 4031),
    (1, 1024, 64, 32, 32, "ws", 6079),
    (1024, 1024, 64, 32, 32, "os", 129023),
    (1024, 1024, 64, 32, 32, "ws", 71551),
    (1024, 1024, 64, 32, 32, "is", 71551),
    (1024, 64, 1024, 32, 32, "os", 69503),
    (1024, 64, 1024, 32, 32, "ws", 71551),
]
LARGE = 2**26  # products: seconds each, so that by default one dataflow of these has to do
ALL = os.environ.get("HYPOTHESIS_PROFILE") == "search"
CASES = [c for c in SCALE_SIM if ALL or c[0] * c[1] * c[2] < LARGE or c[5] == "os"]
SIZES = st.integers(1, 20)
SIDES = st.integers(1, 9)
DATAFLOWS = st.sampled_from(["os", "ws", "is"])


def _operands(m: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(m * 7 + n * 3 + k)
    return generator.normal(size=(m, k)), generator.normal(size=(k, n))


def _folds(m: int, n: int, k: int, rows: int, cols: int, dataflow: str) -> tuple[int, int, int]:
    """Folds, points of a PE in a fold, and cycles to load the stationary operand."""
    down, across, points = {"os": (m, n, k), "ws": (k, n, m), "is": (k, m, n)}[dataflow]
    return ceil(down / rows) * ceil(across / cols), points, 0 if dataflow == "os" else rows


@pytest.mark.parametrize(("m", "n", "k", "rows", "cols", "dataflow", "reported"), CASES)
def test_scale_sim(m, n, k, rows, cols, dataflow, reported):
    x, w = _operands(m, n, k)
    run = simulate_product(x, w, rows, cols, dataflow)
    assert run.cycles == reported + 1
    np.testing.assert_allclose(run.result, x @ w, rtol=0, atol=1e-9)


@settings(max_examples=500, deadline=None)
@given(SIZES, SIZES, SIZES, SIDES, SIDES, DATAFLOWS)
def test_closed_form_of_serialized_folds(m, n, k, rows, cols, dataflow):
    x, w = _operands(m, n, k)
    run = simulate_product(x, w, rows, cols, dataflow)
    folds, points, load = _folds(m, n, k, rows, cols, dataflow)
    assert run.cycles == folds * (load + points + rows + cols - 2)
    np.testing.assert_allclose(run.result, x @ w, rtol=0, atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(SIZES, SIZES, SIZES, SIDES, SIDES, DATAFLOWS)
def test_pipelined_folds_follow_in_the_next_cycle(m, n, k, rows, cols, dataflow):
    x, w = _operands(m, n, k)
    run = simulate_product(x, w, rows, cols, dataflow, "pipelined")
    folds, points, load = _folds(m, n, k, rows, cols, dataflow)
    each = max(points, load)  # loading beside a short fold takes longer than the fold
    assert run.starts == tuple(load + fold * each for fold in range(folds))
    assert run.cycles == load + (folds - 1) * each + points + rows + cols - 2
    np.testing.assert_allclose(run.result, x @ w, rtol=0, atol=1e-12)


def test_refusals():
    x, w = _operands(2, 3, 4)
    with pytest.raises(ValueError, match="shapes"):
        simulate_product(x, w.T, 2, 2, "os")
    with pytest.raises(ValueError, match="1 to 64"):
        simulate_product(x, w, 65, 2, "os")
    with pytest.raises(ValueError, match="dataflow"):
        simulate_product(x, w, 2, 2, "rs")
