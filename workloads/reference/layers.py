"""The layers of networks beside attention, in NumPy, and how their cascades are proved."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from workloads.reference.proof import Array, Arrays, Extents, Proof
from workloads.reference.softmax import softmax


def _shape(**most: int) -> Callable[[np.random.Generator], dict[str, int]]:
    """Random extents from 1 up to those given."""
    return lambda g: {name: int(g.integers(1, n + 1)) for name, n in most.items()}


def _normal(**ranks: str) -> Callable[[np.random.Generator, Extents, float], dict[str, Array]]:
    """Normal inputs; each tensor is given with the letters of its ranks."""

    def draw(g: np.random.Generator, shape: Extents, magnitude: float) -> dict[str, Array]:
        return {
            name: g.normal(size=[shape[r] for r in letters]) * magnitude
            for name, letters in ranks.items()
        }

    return draw


def _with(
    base: Callable[[np.random.Generator, Extents, float], dict[str, Array]],
    more: Callable[[np.random.Generator, Extents], dict[str, Array]],
) -> Callable[[np.random.Generator, Extents, float], dict[str, Array]]:
    return lambda g, shape, magnitude: base(g, shape, magnitude) | more(g, shape)


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


def layer_norm(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Rows of X [R,D] with mean 0 and variance 1, scaled by G and shifted by S."""
    x = inputs["X"]
    variance = x.var(axis=1, keepdims=True)
    normed = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(variance + inputs["EPS"])
    return {"Y": normed * inputs["G"] + inputs["S"]}


def rms_norm(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Rows of X [R,D] over their root mean square, scaled by G."""
    x = inputs["X"]
    return {"Y": x / np.sqrt((x**2).mean(axis=1, keepdims=True) + inputs["EPS"]) * inputs["G"]}


def gelu(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """The tanh form, as the paper writes it."""
    x = inputs["X"]
    return {"Y": 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))}


def rope(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Complex numbers turned by their angle."""
    turned = (inputs["X1"] + 1j * inputs["X2"]) * (inputs["COS"] + 1j * inputs["SIN"])
    return {"Y1": turned.real, "Y2": turned.imag}


def router(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Gates [T,X]: the softmax over each token's best experts alone."""
    logits = inputs["A"] @ inputs["W"]
    gates = np.zeros(logits.shape)
    for t, row in enumerate(logits):
        best = np.argsort(row)[::-1][: shape["TOPK"]]
        gates[t, best] = softmax(row[best])
    return {"G": gates}


def experts(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Every token through its experts, one after the other."""
    found = np.zeros((shape["T"], shape["X"], shape["N"]))
    for t, x in zip(*np.nonzero(inputs["G"]), strict=True):
        found[t, x] = inputs["A"][t] @ inputs["W"][x]
    return {"Z": found}


def patches(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Each patch flattened and multiplied by the flattened weights."""
    image, weights = inputs["A"], inputs["W"]
    side, d = shape["I"], shape["D"]
    found = np.zeros((image.shape[0], shape["V"] // side, shape["U"] // side, d))
    for y in range(found.shape[1]):
        for x in range(found.shape[2]):
            patch = image[:, :, y * side : (y + 1) * side, x * side : (x + 1) * side]
            found[:, y, x] = patch.reshape(len(image), -1) @ weights.reshape(d, -1).T
    return {"Z": found + inputs["BIAS"]}


def placed_patches(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Patches in the order of a row by row reading, each with its row of the table of positions."""
    found = patches(inputs, shape)["Z"]
    rows = found.reshape(len(found), -1, shape["D"])
    return {"Z": (rows + inputs["POS"][: rows.shape[1]]).reshape(found.shape)}


def merged(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """The four neighbours of Swin side by side, times the weights."""
    a, w = inputs["A"], inputs["W"]
    found: Array = np.zeros(())
    for i in range(shape["I"]):
        for j in range(shape["I"]):
            found = found + a[:, i :: shape["I"], j :: shape["I"]] @ w[:, i, j].T
    return {"Z": found}


def depthwise(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """A sum of shifted images, zeros around."""
    a, w = inputs["A"], inputs["W"]
    zeros, size = shape["I"] // 2, shape["I"]
    padded = np.pad(a, ((0, 0), (0, 0), (zeros, size), (zeros, size)))
    y, x = a.shape[2:]
    total = np.zeros(a.shape)
    for i in range(size):
        for j in range(size):
            total += padded[:, :, i : i + y, j : j + x] * w[None, :, i, j, None, None]
    return {"O": total}


def _scale(g: np.random.Generator, shape: Extents) -> dict[str, Array]:
    return {"EPS": np.asarray(1e-5)}


def _gates(g: np.random.Generator, shape: Extents) -> dict[str, Array]:
    kept = g.random((shape["T"], shape["X"])) < 0.5
    return {"G": np.where(kept, g.random(kept.shape) + 0.1, 0.0)}


def _angles(g: np.random.Generator, shape: Extents) -> dict[str, Array]:
    angle = g.uniform(0, 6, (shape["I"], shape["P"]))
    return {"COS": np.cos(angle), "SIN": np.sin(angle)}


def _tokens(g: np.random.Generator, shape: Extents) -> dict[str, Array]:
    return {"ID": g.integers(0, shape["V"], shape["R"]), "SCALE": np.asarray(2.5)}


def _image_shape(g: np.random.Generator) -> dict[str, int]:
    side = int(g.integers(1, 4))
    shape = _shape(B=2, C=3, D=4)(g)
    down, across = (side * int(n) for n in g.integers(1, 4, 2))
    return {**shape, "I": side, "J": side, "V": down, "U": across}


def _placed_shape(g: np.random.Generator) -> dict[str, int]:
    shape = _image_shape(g)
    tokens = (shape["V"] // shape["I"]) * (shape["U"] // shape["J"])
    return {**shape, "T": tokens + int(g.integers(0, 3))}


def _conv_shape(g: np.random.Generator) -> dict[str, int]:
    shape = _shape(B=2, C=3, Y=5, X=5)(g)
    side = int(2 * g.integers(1, 3) + 1)
    return {**shape, "V": shape["Y"], "U": shape["X"], "I": side, "J": side}


def _router_shape(g: np.random.Generator) -> dict[str, int]:
    shape = _shape(T=5, D=4, X=6)(g)
    return {**shape, "TOPK": int(g.integers(1, shape["X"] + 1))}


_ROWS = _shape(R=5, D=7)
PROOFS = {
    "layer-norm": Proof(_ROWS, _with(_normal(X="RD", G="D", S="D"), _scale), layer_norm),
    "rms-norm": Proof(_ROWS, _with(_normal(X="RD", G="D"), _scale), rms_norm),
    "gelu": Proof(_ROWS, _normal(X="RD"), gelu, stable=True),
    "silu-gate": Proof(
        _ROWS,
        _normal(A="RD", B="RD"),
        lambda i, s: {"Y": i["A"] * sigmoid(i["A"]) * i["B"]},
        stable=True,
    ),
    "relu": Proof(_ROWS, _normal(X="RD"), lambda i, s: {"Y": np.where(i["X"] > 0, i["X"], 0)}),
    "rope": Proof(
        _shape(B=2, H=2, P=5, I=4, E=8), _with(_normal(X1="BHIP", X2="BHIP"), _angles), rope
    ),
    "residual-add": Proof(_ROWS, _normal(X="RD", Y="RD"), lambda i, s: {"Z": i["Y"] + i["X"]}),
    "bias-add": Proof(
        _ROWS,
        _normal(X="RD", BIAS="D"),
        lambda i, s: {"Z": np.stack([row + i["BIAS"] for row in i["X"]])},
    ),
    "linear-layer": Proof(
        _shape(R=5, K=6, N=4),
        _normal(A="RK", W="KN"),
        lambda i, s: {"Z": np.stack([row @ i["W"] for row in i["A"]])},
    ),
    "linear-gelu": Proof(
        _shape(R=5, K=6, N=4),
        _normal(A="RK", W="KN"),
        lambda i, s: gelu({"X": i["A"] @ i["W"]}, s),
        stable=True,
    ),
    "softmax-router": Proof(_router_shape, _normal(A="TD", W="DX"), router, stable=True),
    "expert-linear": Proof(
        _shape(T=5, X=4, K=4, N=3), _with(_normal(A="TK", W="XKN"), _gates), experts
    ),
    "moe-combine": Proof(
        _shape(T=5, X=4, N=3),
        _with(_normal(Z="TXN"), _gates),
        lambda i, s: {"Y": (i["Z"] * i["G"][:, :, None]).sum(axis=1)},
    ),
    "patch-embedding": Proof(_image_shape, _normal(A="BCVU", W="DCIJ", BIAS="D"), patches),
    "patch-position-embedding": Proof(
        _placed_shape, _normal(A="BCVU", W="DCIJ", BIAS="D", POS="TD"), placed_patches
    ),
    "token-embedding": Proof(
        _shape(R=6, V=5, D=4),
        _with(_normal(W="VD"), _tokens),
        lambda i, s: {"Z": i["W"][i["ID"]] * i["SCALE"]},
    ),
    "patch-merging": Proof(_image_shape, _normal(A="BVUC", W="DIJC"), merged),
    "depthwise-conv": Proof(_conv_shape, _normal(A="BCVU", W="CIJ"), depthwise),
}
