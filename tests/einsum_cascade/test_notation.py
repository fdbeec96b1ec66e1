"""Gathers, filters on data, integer operations, defaults: run, counted, refused."""

from __future__ import annotations

import numpy as np
import pytest

from einsum_cascade import InputError, analyze_passes, execute, parse_cascade

TEXT = """
name: all
ranks: {P: queries, K: {about: window, default: 3}, N: {default: P}, H: heads, J: {like: H}}
parameters: {TOPK: {about: kept, default: 2}}
inputs: ["X[n]", "T[p]", "W[p,h]", "I[p]"]
outputs: [Y, Z, S, U]
occupancy: {C: TOPK/H}
body:
  - ST[p] = max(0, min(p - K//2, N - K))
  - NX[p,k] = X[ST[p] + k]
  - Y[p] = NX[p,k]
  - C[p,h] = sum over j of 1 where W[p,j] > W[p,h]
  - Z[p,h] = W[p,h]*2 where C[p,h] < TOPK
  - S[p] = (I[p] >> 1) + (I[p] << 2) - I[p] // 3 % 2
  - U[p] = X[T[p]] * 3
"""


@pytest.fixture
def inputs():
    generator = np.random.default_rng(0)
    return {
        "X": generator.normal(size=6),
        "T": generator.integers(0, 6, 6),
        "W": generator.normal(size=(6, 4)),
        "I": generator.integers(-50, 50, 6),
    }


def test_what_it_computes(inputs):
    found = execute(parse_cascade(TEXT), inputs)
    starts = [max(0, min(p - 1, 3)) for p in range(6)]
    np.testing.assert_allclose(found["Y"], [inputs["X"][s : s + 3].sum() for s in starts])
    i = inputs["I"]
    np.testing.assert_array_equal(found["S"], (i >> 1) + (i << 2) - i // 3 % 2)
    assert found["S"].dtype.kind == "i"
    np.testing.assert_allclose(found["U"], inputs["X"][inputs["T"]] * 3)
    kept = np.argsort(-inputs["W"], axis=1)[:, :2]
    mask = np.zeros((6, 4), bool)
    np.put_along_axis(mask, kept, True, axis=1)
    np.testing.assert_allclose(found["Z"], np.where(mask, 2 * inputs["W"], 0))


def test_what_it_costs():
    cascade = parse_cascade(TEXT)
    counts = analyze_passes(cascade).operation_counts({"P": 6, "H": 4})
    assert counts["shift"] == 12
    assert counts["floordiv"] == counts["mod"] == 6
    assert counts["mul"] == 6 * 4 * 2 / 4 + 6  # Z only where it is kept
    assert cascade.einsum("NX").is_view
    assert cascade.einsum("ST").is_constant
    assert not cascade.einsum("ST").operations  # known before the run
    assert str(analyze_passes(cascade).operation_counts()["mul"]) in ("P*TOPK + P", "P*(TOPK + 1)")


def test_defaults():
    cascade = parse_cascade(TEXT)
    assert cascade.resolve_shape({"P": 8, "H": 2})["N"] == 8
    assert cascade.resolve_shape({"P": 8, "H": 2, "N": 16, "K": 5})["K"] == 5
    assert list(cascade.resolve_shape({"P": np.array([8, 9]), "H": 2})["N"]) == [8, 9]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("X[T[p]]", "X[T[p]*T[p]]", "'mul' cannot stand between tables in an index"),
        ("X[T[p]]", "X[exp(T[p])]", "'exp' cannot stand between tables"),
        ("X[T[p]]", "X[R[p]]", "the tensor 'R' is never defined"),
        ("{C: TOPK/H}", "{CC: TOPK/H}", "has no tensor 'CC'"),
        ("{C: TOPK/H}", "{C: TOPK/HH}", "unknown rank or parameter 'HH'"),
        ("default: 2", "default: Q + 1", "unknown rank or parameter 'Q'"),
        ("W[p,j] > W[p,h]", "W[p,j] > W[p,n]", "its index 2 ranges over H, found 'n' of N"),
        ("C[p,h] < TOPK", "C[p,j] < TOPK", "the filter names 'j', over which"),
    ],
)
def test_refused(old, new, words):
    assert old in TEXT
    with pytest.raises(InputError) as error:
        parse_cascade(TEXT.replace(old, new, 1), "my.yaml")
    assert words in str(error.value)
    assert str(error.value).startswith("my.yaml:")


def test_a_table_that_points_outside(inputs):
    with pytest.raises(InputError, match="reaches coordinate 9 of N, which has 0 to 5"):
        execute(parse_cascade(TEXT), inputs | {"T": np.array([0, 9, 0, 0, 0, 0])})
    with pytest.raises(InputError, match="no coordinates"):
        execute(parse_cascade(TEXT), inputs | {"T": np.array([0.5, 0, 0, 0, 0, 0])})
