"""Attention to some keys, some heads, one axis at a time, in NumPy; convolutions in its place.

Each reference is written from what the variant means (the nearest neighbours, a mask of groups, a
Kronecker product that is built), not from how its cascade goes about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product

import numpy as np

from workloads.reference.modern import by_query, last_tokens
from workloads.reference.proof import Array, Arrays, Extents, Proof
from workloads.reference.softmax import softmax

Draw = Callable[[np.random.Generator, Extents, float], dict[str, Array]]
Shape = Callable[[np.random.Generator], dict[str, int]]


def nearest(token: int, tokens: int, count: int, dilation: int) -> list[int]:
    """The `count` tokens nearest to `token`, `dilation` apart, in order; of two the earlier."""
    all_of_residue = range(token % dilation, tokens, dilation)
    by_distance = sorted(all_of_residue, key=lambda other: (abs(other - token), other))
    return sorted(by_distance[:count])


def neighborhood_1d(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """One query at a time, on its W nearest keys; the bias by the difference of positions."""
    q, k, v, bias = (inputs[name] for name in ("Q", "K", "V", "RB"))
    found = np.empty((*v.shape[:3], q.shape[3]))
    for p in range(q.shape[3]):
        keys = nearest(p, q.shape[3], shape["W"], shape["DIL"])
        steps = [(key - p) // shape["DIL"] + shape["W"] - 1 for key in keys]
        scores = np.einsum("bhe,bhek->bhk", q[..., p], k[..., keys]) + bias[:, steps]
        found[..., p] = np.einsum("bhk,bhfk->bhf", softmax(scores), v[..., keys])
    return {"AV": found}


def neighborhood_2d(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """One query at a time, on the keys in the nearest rows and the nearest columns."""
    q, k, v, bias = (inputs[name] for name in ("Q", "K", "V", "RB"))
    side, dilation = shape["I"], shape["DIL"]
    found = np.empty((*v.shape[:3], *q.shape[3:]))
    for y, x in product(*map(range, q.shape[3:])):
        keys = product(
            nearest(y, q.shape[3], side, dilation), nearest(x, q.shape[4], side, dilation)
        )
        rows, columns = np.array(list(keys)).T
        down, across = ((rows - y) // dilation + side - 1, (columns - x) // dilation + side - 1)
        scores = np.einsum("bhe,bhek->bhk", q[..., y, x], k[:, :, :, rows, columns])
        weights = softmax(scores + bias[:, down, across])
        found[..., y, x] = np.einsum("bhk,bhfk->bhf", weights, v[:, :, :, rows, columns])
    return {"AV": found}


def streaming(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Every query sees the first C tokens and the last L - C, of those that are not after it."""
    every, recent = last_tokens(shape), last_tokens(shape, shape["L"] - shape["C"])

    def seen(p: int) -> Iterable[int]:
        return sorted({*list(every(p))[: shape["C"]], *recent(p)})

    return {"AV": by_query(inputs["Q"], inputs["K"], inputs["V"], seen)}


def shifted_groups(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Full attention under a mask: key and query in one group, shifted in the later heads."""
    q, k, v = (inputs[name] for name in "QKV")
    heads, tokens, size = q.shape[1], q.shape[3], shape["I"]
    scores = np.einsum("bhep,bhem->bhmp", q, k)
    for head in range(heads):
        shift = size // 2 if head >= heads / 2 else 0
        group = np.roll(np.arange(tokens) // size, shift)
        scores[:, head, group[:, None] != group[None, :]] = -np.inf
    return {"AV": np.einsum("bhmp,bhfm->bhfp", softmax(scores, axis=2), v)}


def mixture_of_heads(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Token by token: the heads that it takes, their gates, their results projected and summed."""
    q, k, v, x = (inputs[name] for name in ("Q", "K", "V", "X"))
    shared, chosen = shape["SH"], shape["TOPK"]
    found = np.zeros(x.shape)
    for b, p in product(range(len(x)), range(x.shape[2])):
        logits = inputs["WR"] @ x[b, :, p]
        kinds = 2 * softmax(inputs["WC"] @ x[b, :, p])
        gates = dict(enumerate(kinds[0] * shared * softmax(logits[:shared])))
        weights = softmax(logits[shared:])
        best = np.argsort(logits[shared:])[::-1][:chosen]
        for head in best:
            gates[shared + int(head)] = kinds[1] * chosen * weights[head] / weights[best].sum()
        for head, gate in gates.items():
            result = v[b, head] @ softmax(q[b, head, :, p] @ k[b, head])
            found[b, :, p] += gate * result @ inputs["WO"][head]
    return {"O": found}


def _of_modes(inputs: Arrays, b: int, h: int) -> tuple[Array, Array]:
    """The attention matrices of rows and of columns, [queries, keys], of one head."""
    q, k = inputs["Q"][b, h], inputs["K"][b, h]
    rows = softmax(q.mean(axis=2).T @ k.mean(axis=2))
    return rows, softmax(q.mean(axis=1).T @ k.mean(axis=1))


def kronecker(
    inputs: Arrays, shape: Extents, combine: Callable[[Array, Array], Array] = np.kron
) -> dict[str, Array]:
    """One matrix over all pairs of places, built from those of rows and columns, times V."""
    v = inputs["V"]
    found = np.empty(v.shape)
    for b, h in np.ndindex(v.shape[:2]):
        matrix = combine(*_of_modes(inputs, b, h))
        found[b, h] = (v[b, h].reshape(len(v[b, h]), -1) @ matrix.T).reshape(v[b, h].shape)
    return {"AV": found}


def kronecker_sum(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """As `kronecker`, with the Kronecker sum of the two matrices in place of their product."""

    def combine(rows: Array, columns: Array) -> Array:
        found = np.kron(rows, np.eye(len(columns))) + np.kron(np.eye(len(rows)), columns)
        return np.asarray(found)

    return kronecker(inputs, shape, combine)


def rcmha(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Pair by pair: (q_i + u) k_j + q_i r_(i-j) + b_(i-j) of the convolved q and k."""

    def convolved(x: Array, taps: Array) -> Array:
        found = np.zeros(x.shape)
        for past in range(taps.shape[2]):  # the last tap is the token's own
            earlier = x[..., : max(x.shape[3] - past, 0)]
            found[..., past:] += earlier * taps[None, :, :, -1 - past, None]
        return found

    q, k, v = (convolved(inputs[name], inputs[f"W{name}"]) for name in "QKV")
    tokens = q.shape[3]
    scores = np.empty((*q.shape[:2], tokens, tokens))
    for i, j in product(range(tokens), repeat=2):
        difference = i - j + tokens - 1
        content = ((q[..., i] + inputs["U"]) * k[..., j]).sum(axis=2)
        place = (q[..., i] * inputs["R"][..., difference]).sum(axis=2)
        scores[:, :, i, j] = content + place + inputs["RB"][:, difference]
    return {"AV": v @ softmax(scores).swapaxes(2, 3)}


def ffnified(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Convolution, GELU in its tanh form, convolution; each a sum of shifted images."""

    def convolved(image: Array, kernel: Array) -> Array:
        side = kernel.shape[1]
        padded = np.pad(image, ((0, 0), (0, 0), (side // 2, side), (side // 2, side)))
        height, width = image.shape[2:]
        found = np.zeros(image.shape)
        for i, j in product(range(side), repeat=2):
            found += padded[..., i : i + height, j : j + width] * kernel[:, i, j, None, None]
        return found

    x = convolved(inputs["Q"], inputs["WK"])
    gelu = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return {"AV": convolved(gelu, inputs["WV"])}


def vq_logits(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """The logits of an output layer whose columns are copied from the codebook."""
    return {"L": inputs["X"] @ inputs["W"][:, inputs["ID"]]}


def _extents(**most: int) -> Shape:
    """Random extents from 1 up to those given."""
    return lambda g: {name: int(g.integers(1, n + 1)) for name, n in most.items()}


def _normal(scores: str = "", biases: str = "", **ranks: str) -> Draw:
    """Normal inputs, each given with the letters of its ranks.

    Those named in `scores` are multiplied by each other to make scores, so each takes the root of
    the magnitude; those in `biases` are added to scores and take it whole.
    """

    def draw(g: np.random.Generator, shape: Extents, magnitude: float) -> dict[str, Array]:
        scale: dict[str, float] = dict.fromkeys(biases.split(), magnitude)
        scale |= dict.fromkeys(scores.split(), float(np.sqrt(magnitude)))
        return {
            name: g.normal(size=[shape[r] for r in letters]) * scale.get(name, 1)
            for name, letters in ranks.items()
        }

    return draw


def _neighbours(g: np.random.Generator) -> dict[str, int]:
    """A window of any size that the tokens hold at their dilation."""
    shape = _extents(B=2, H=3, E=4, F=4, W=5, DIL=3)(g)
    tokens = shape["W"] * shape["DIL"] + int(g.integers(0, 7))
    return {**shape, "P": tokens, "M": tokens, "T": 2 * shape["W"] - 1}


def _image_neighbours(g: np.random.Generator) -> dict[str, int]:
    shape = _extents(B=2, H=2, E=3, F=3, I=3, DIL=2)(g)
    side, most = shape["I"], shape["I"] * shape["DIL"]
    rows, columns = (most + int(n) for n in g.integers(0, 4, 2))
    axes = {"Y": rows, "V": rows, "X": columns, "U": columns, "J": side}
    return {**shape, **axes, "T": 2 * side - 1, "R": 2 * side - 1}


def _streams(g: np.random.Generator) -> dict[str, int]:
    """A cache of sinks and at least one recent token; the text may be longer or shorter."""
    shape = _extents(B=2, H=2, E=4, F=4, L1=4)(g)
    inner = int(g.integers(2, 5))
    cache = shape["L1"] * inner
    tokens = int(g.integers(1, 2 * cache + 4))
    queries = tokens if g.random() < 0.5 else int(g.integers(1, tokens + 1))
    sinks = int(g.integers(1, cache))
    return {**shape, "L0": inner, "L": cache, "M": tokens, "P": queries, "C": sinks}


def _groups(g: np.random.Generator) -> dict[str, int]:
    shape = _extents(B=2, E=4, F=4, C=4, J1=3, J0=4)(g)
    size = shape["J1"] * shape["J0"]
    tokens = shape["C"] * size
    return {**shape, "H": 2 * int(g.integers(1, 3)), "I": size, "P": tokens, "M": tokens}


def _heads(g: np.random.Generator) -> dict[str, int]:
    shape = _extents(B=2, P=5, D=5, E=4, F=4, M1=3, M0=4)(g)
    heads = int(g.integers(2, 7))
    shared = int(g.integers(1, heads))
    chosen = int(g.integers(1, heads - shared + 1))
    keys = shape["M1"] * shape["M0"]
    return {**shape, "M": keys, "H": heads, "C": 2, "SH": shared, "TOPK": chosen}


def _modes(g: np.random.Generator) -> dict[str, int]:
    shape = _extents(B=2, H=3, E=4, F=4, Y=5, X=5)(g)
    return {**shape, "I": shape["Y"], "J": shape["X"]}


def _sequence(g: np.random.Generator) -> dict[str, int]:
    shape = _extents(B=2, H=3, E=4, F=4, P=9, C=4)(g)
    return {**shape, "M": shape["P"], "T": 2 * shape["P"] - 1}


def _image(g: np.random.Generator) -> dict[str, int]:
    shape = _extents(B=2, D=4, Y=6, X=6)(g)
    side = int(2 * g.integers(1, 4) + 1)
    return {**shape, "V": shape["Y"], "U": shape["X"], "I": side, "J": side}


def _codes(g: np.random.Generator, shape: Extents, magnitude: float) -> dict[str, Array]:
    tensors = _normal(X="RD", W="DC")(g, shape, magnitude)
    return {**tensors, "ID": g.integers(0, shape["C"], shape["V"])}


_OWN = _normal("Q K", Q="BHEP", K="BHEM", V="BHFM")
_PLACES = _normal("Q K", Q="BHEYX", K="BHEIJ", V="BHFIJ")
PROOFS = {
    "neighborhood-attention-1d": Proof(
        _neighbours,
        _normal("Q K", "RB", Q="BHEP", K="BHEM", V="BHFM", RB="HT"),
        neighborhood_1d,
        stable=True,
    ),
    "neighborhood-attention-2d": Proof(
        _image_neighbours,
        _normal("Q K", "RB", Q="BHEYX", K="BHEVU", V="BHFVU", RB="HTR"),
        neighborhood_2d,
        stable=True,
    ),
    "streaming-llm": Proof(_streams, _OWN, streaming, stable=True),
    "s2-attention": Proof(_groups, _OWN, shifted_groups, stable=True),
    "moh-attention": Proof(
        _heads,
        _normal("Q K X WR WC", Q="BHEP", K="BHEM", V="BHFM", X="BDP", WR="HD", WC="CD", WO="HFD"),
        mixture_of_heads,
        stable=True,
    ),
    "kronecker-attention": Proof(_modes, _PLACES, kronecker, stable=True),
    "kronecker-attention-sum": Proof(_modes, _PLACES, kronecker_sum, stable=True),
    "rcmha": Proof(
        _sequence,
        _normal(
            "Q K U R",
            "RB",
            **{"Q": "BHEP", "K": "BHEM", "V": "BHFM", "U": "HE", "R": "HET", "RB": "HT"},
            **{"WQ": "HEC", "WK": "HEC", "WV": "HFC"},
        ),
        rcmha,
        stable=True,
    ),
    "ffnified-attention": Proof(_image, _normal(Q="BDYX", WK="DIJ", WV="DIJ"), ffnified),
    "vq-logits": Proof(_extents(R=5, D=6, V=12, C=4), _codes, vq_logits),
}
