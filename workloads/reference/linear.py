"""Attention in linear time, in NumPy: the definitions, token by token or as full matrices."""

from __future__ import annotations

import numpy as np

from workloads.reference.proof import Array, Arrays, Extents, Proof
from workloads.reference.softmax import random_inputs, softmax


def _normal(g: np.random.Generator, shape: Extents, **ranks: str) -> dict[str, Array]:
    return {name: g.normal(size=[shape[r] for r in letters]) for name, letters in ranks.items()}


def _small(g: np.random.Generator, ranks: str) -> dict[str, int]:
    return {rank: int(g.integers(1, 6)) for rank in ranks}


def _block_shape(g: np.random.Generator) -> dict[str, int]:
    blocks, tokens = (int(n) for n in g.integers(1, 5, 2))
    return {**_small(g, "BHEF"), "N": blocks * tokens, "R": tokens}


def _decays(shape: Extents, count: int) -> Array:
    slopes = 2.0 ** -np.arange(1, shape["H"] + 1)
    return np.asarray(np.exp(-slopes[:, None] * np.arange(count)))


def _block_inputs(g: np.random.Generator, shape: Extents, magnitude: float) -> dict[str, Array]:
    found = _normal(g, shape, Q="BHEN", K="BHEN", V="BHFN")
    decays = _decays(shape, shape["R"] + 1)
    return found | {"DECAY": decays[:, :-1], "DCOL": decays[:, :0:-1], "DBLK": decays[:, -1]}


def _quadratic_shape(g: np.random.Generator) -> dict[str, int]:
    shape = _small(g, "BHEFP")
    return {**shape, "M": shape["P"], "X": shape["P"]}


def _quadratic_inputs(g: np.random.Generator, shape: Extents, magnitude: float) -> dict[str, Array]:
    found = _normal(g, shape, Q="BHEP", K="BHEM", V="BHFM")
    return found | {"DECAY": _decays(shape, shape["X"])}


def decayed(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """The recurrence of linear attention with decay, one token after the other."""
    q, k, v = inputs["Q"], inputs["K"], inputs["V"]
    forget = 2.0 ** -np.arange(1, shape["H"] + 1)
    forget = np.exp(-forget)
    state = np.zeros((*q.shape[:3], v.shape[2]))
    found = np.zeros((*v.shape[:3], q.shape[3]))
    for t in range(q.shape[3]):
        state = state * forget[None, :, None, None]
        state += k[..., t][..., :, None] * v[..., t][..., None, :]
        found[..., t] = np.einsum("bhe,bhef->bhf", q[..., t], state)
    return {"O": found}


def _feature_shape(g: np.random.Generator) -> dict[str, int]:
    shape = _small(g, "BHPMEF")
    return {**shape, "D": shape["E"]}


def _feature_inputs(g: np.random.Generator, shape: Extents, magnitude: float) -> dict[str, Array]:
    return random_inputs(g, shape, magnitude) | _normal(g, shape, W="HDE")


def hedgehog(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """The full matrix of weights from feature maps, normalized over the keys."""

    def features(x: Array) -> Array:
        projected = np.einsum("hde,bhen->bhnd", inputs["W"], x)
        return softmax(np.concatenate([2 * projected, -2 * projected], axis=-1))

    weights = features(inputs["Q"]) @ np.swapaxes(features(inputs["K"]), 2, 3)
    weights /= weights.sum(axis=-1, keepdims=True)
    return {"AV": np.einsum("bhpm,bhfm->bhfp", weights, inputs["V"])}


def _landmark_shape(g: np.random.Generator) -> dict[str, int]:
    shape = _small(g, "BHNEFL")
    return {**shape, "I": shape["L"], "J": shape["L"]}


def _landmark_inputs(g: np.random.Generator, shape: Extents, magnitude: float) -> dict[str, Array]:
    return _normal(g, shape, Q="BHEN", QL="BHEL", V="BHFN")


def soft(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Kernels from differences, Newton's iteration on matrices, head by head."""
    found = np.zeros(inputs["V"].shape)
    for head in np.ndindex(inputs["Q"].shape[:2]):
        q, landmarks, v = (inputs[name][head].T for name in ("Q", "QL", "V"))

        def kernel(a: Array, b: Array) -> Array:
            return np.asarray(np.exp(-0.5 * ((a[:, None] - b[None]) ** 2).sum(axis=-1)))

        tokens, own = kernel(q, landmarks), kernel(landmarks, landmarks)
        p = own + 0.01 * np.eye(len(own))
        inverse = 1.8 / p.sum(axis=1).max() ** 2 * p
        for _ in range(20):
            inverse = 2 * inverse - inverse @ p @ inverse
        found[head] = (tokens @ inverse @ tokens.T @ v).T
    return {"O": found}


def _image_shape(g: np.random.Generator) -> dict[str, int]:
    y, x = (int(n) for n in g.integers(1, 6, 2))
    shape = _small(g, "BHFU")
    return {**shape, "E": 2 * shape["U"], "Y": y, "X": x, "N": y * x, "I": 5, "J": 5}


def _image_inputs(g: np.random.Generator, shape: Extents, magnitude: float) -> dict[str, Array]:
    halves = {name: "BHUN" for name in ("Q1", "Q2", "K1", "K2")}
    found = _normal(g, shape, **halves, V="BHFN", W="HFIJ", G="BHFN")
    angles = g.uniform(0, 6, (shape["U"], shape["N"]))
    return found | {"COS": np.cos(angles), "SIN": np.sin(angles), "SCALE": np.asarray(0.5)}


def rala(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """The full matrix of weights, complex numbers for the rotation, shifted images for the
    convolution."""
    n = shape["N"]

    def features(name: str) -> Array:
        both = np.concatenate([inputs[f"{name}1"], inputs[f"{name}2"]], axis=2)
        return np.asarray(np.where(both > 0, both + 1, np.exp(np.minimum(both, 0))))

    def turned(x: Array) -> Array:
        first, second = np.split(x, 2, axis=2)
        return np.asarray((first + 1j * second) * (inputs["COS"] + 1j * inputs["SIN"]))

    q, k = features("Q"), features("K")
    weights = softmax(inputs["SCALE"] * np.einsum("bhe,bhen->bhn", q.mean(axis=3), k)) * n
    k = k * weights[:, :, None]
    scale = 1 / (np.einsum("bhen,bhe->bhn", q, k.mean(axis=3)) + 1e-6)
    scores = np.einsum("bhup,bhum->bhpm", turned(q), turned(k).conj()).real
    output = np.einsum("bhpm,bhfm->bhfp", scores, inputs["V"]) / n * scale[:, :, None]
    image = inputs["V"].reshape(*inputs["V"].shape[:3], shape["Y"], shape["X"])
    padded = np.pad(image, [(0, 0)] * 3 + [(2, 2)] * 2)
    local = np.zeros(image.shape)
    for i in range(5):
        for j in range(5):
            part = padded[..., i : i + shape["Y"], j : j + shape["X"]]
            local += part * inputs["W"][None, :, :, i, j, None, None]
    return {"O": (output + local.reshape(output.shape)) * inputs["G"]}


PROOFS = {
    "lightning-attention-2": Proof(_block_shape, _block_inputs, decayed),
    "transnormer": Proof(_quadratic_shape, _quadratic_inputs, decayed),
    # not stable: the features never overflow, but the products of all of them may underflow to 0
    "hedgehog": Proof(_feature_shape, _feature_inputs, hedgehog),
    "soft-attention": Proof(_landmark_shape, _landmark_inputs, soft),
    "rala": Proof(_image_shape, _image_inputs, rala),
}
