"""I-ViT in exact integers of any size, and Edge-MoE's softmax, number by number."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import floor

import numpy as np

from workloads.reference.proof import Array, Arrays, Extents, Proof

_LARGEST = 2**31 - 1


def shift_exp(x: int, unit: int, bits: int) -> int:
    """About e^(x*s) * 2^bits * -unit, for unit = floor(-1/s): I-ViT's exponential.

    The exponent is taken as 2^-q times a linear rest. `x` is an integer of scale s.
    """
    scaled = x + floor(Fraction(x, 2)) - floor(Fraction(x, 16))  # about x * log2(e)
    kept = max(scaled, bits * unit)
    q = floor(Fraction(kept, unit))
    rest = kept - unit * q
    return max(floor((Fraction(rest, 2) - unit) * Fraction(2) ** (bits - q)), 0)


def quotient(part: int, whole: int) -> int:
    """part / whole in 8 bits of scale 2^-7, by one division of 2^31 - 1."""
    factor = floor(Fraction(_LARGEST, min(whole, _LARGEST)))
    return floor(Fraction(part * factor, 2**24))


def shiftmax(row: list[int], unit: int) -> list[int]:
    """I-ViT's softmax of a row of integer logits, with weights of 8 bits."""
    exponentials = [shift_exp(x - max(row), unit, 15) for x in row]
    return [quotient(e, sum(exponentials)) for e in exponentials]


def ivit_attention(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Row by row of every head."""
    q, k, v = (inputs[name] for name in "QKV")
    found = np.empty((*v.shape[:3], q.shape[3]), dtype=np.int64)
    for b, h, p in np.ndindex(q.shape[0], q.shape[1], q.shape[3]):
        weights = shiftmax((k[b, h].T @ q[b, h, :, p]).tolist(), int(inputs["X0"]))
        found[b, h, :, p] = v[b, h] @ np.array(weights)
    return {"AV": found}


def shift_gelu(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """x * sigmoid(1.702 x), row by row: e^(x - max) over that and e^-max."""
    unit = int(inputs["X0"])
    found = []
    for row in inputs["X"].tolist():
        floor_of_row = shift_exp(-max(row), unit, 23)
        each = [shift_exp(x - max(row), unit, 23) for x in row]
        found.append([x * quotient(e, e + floor_of_row) for x, e in zip(row, each, strict=True)])
    return {"Y": np.array(found)}


def integer_layer_norm(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Row by row; the root of the sum of squares by 10 steps of Newton's iteration from 2^16."""
    found = []
    for row in inputs["X"].tolist():
        mean = floor(Fraction(sum(row), len(row)) + Fraction(1, 2))
        squares = sum((x - mean) ** 2 for x in row)
        root = 2**16
        for _ in range(10):
            root = floor(Fraction(root + floor(Fraction(squares, root)), 2))
        factor = floor(Fraction(_LARGEST, root))
        found.append([floor(Fraction((x - mean) * factor, 2)) for x in row])
    return {"Y": np.array(found) + inputs["BI"]}


def edge_moe(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Edge-MoE as published: bias and sum logit by logit, then exponentials a second time."""
    q, k, v = (inputs[name] for name in "QKV")
    found = np.empty((*v.shape[:3], q.shape[3]))
    for b, h, p in np.ndindex(q.shape[0], q.shape[1], q.shape[3]):
        logits = k[b, h].T @ q[b, h, :, p]
        bias, total = -np.inf, 0.0
        for x in logits:
            step = bias - x
            if step < 0:
                bias, total = x, total * np.exp(step) + 1
            else:
                total += np.exp(-step)
        found[b, h, :, p] = v[b, h] @ np.exp(logits - bias) / total
    return {"AV": found}


def _extents(**most: int) -> Callable[[np.random.Generator], dict[str, int]]:
    return lambda g: {name: int(g.integers(1, n + 1)) for name, n in most.items()}


def _tiled(g: np.random.Generator) -> dict[str, int]:
    shape = _extents(B=2, H=3, E=5, F=4, P=6, M1=4, M0=4)(g)
    return {**shape, "M": shape["M1"] * shape["M0"]}


def _real(g: np.random.Generator, shape: Extents, magnitude: float) -> dict[str, Array]:
    b, h, p, m, e, f = (shape[rank] for rank in "BHPMEF")
    each = np.sqrt(magnitude)  # of Q and of K
    return {
        "Q": g.normal(size=(b, h, e, p)) * each,
        "K": g.normal(size=(b, h, e, m)) * each,
        "V": g.normal(size=(b, h, f, m)),
    }


def _whole(most: int, unit: bool, **ranks: str) -> Callable[..., dict[str, Array]]:
    """Integers of a random width, of `most` bits at most, and a sign; X0 if there is a `unit`."""

    def draw(g: np.random.Generator, shape: Extents, magnitude: float) -> dict[str, Array]:
        largest = 2 ** int(g.integers(1, most + 1)) - 1
        found = {
            name: g.integers(-largest, largest + 1, [shape[r] for r in letters])
            for name, letters in ranks.items()
        }
        return found | ({"X0": np.asarray(-int(2 ** g.uniform(0, 12)))} if unit else {})

    return draw


def _activations(g: np.random.Generator, shape: Extents, magnitude: float) -> dict[str, Array]:
    """Rows around 0 and rows far to one side of it: the maximum may be negative."""
    found = _whole(12, True, X="RD")(g, shape, magnitude)
    moved = g.integers(-2, 3, (shape["R"], 1)) * np.abs(found["X"]).max()
    return {**found, "X": found["X"] + moved}


PROOFS = {
    "ivit-attention": Proof(
        _extents(B=2, H=2, E=5, F=4, P=5, M=9),
        _whole(7, True, Q="BHEP", K="BHEM", V="BHFM"),
        ivit_attention,
        exact=True,
    ),
    "ivit-shiftgelu": Proof(_extents(R=5, D=8), _activations, shift_gelu, exact=True),
    "ivit-layernorm": Proof(
        _extents(R=5, D=9), _whole(12, False, X="RD", BI="D"), integer_layer_norm, exact=True
    ),
    "edge-moe-attention": Proof(_tiled, _real, edge_moe, stable=True),
}
