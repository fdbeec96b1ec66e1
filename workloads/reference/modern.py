"""The attention of today's models in NumPy, one query at a time, on the keys that it sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product

import numpy as np

from workloads.reference.proof import Array, Arrays, Extents, Proof
from workloads.reference.softmax import softmax

Draw = Callable[[np.random.Generator, Extents, float], dict[str, Array]]


def by_query(q: Array, k: Array, v: Array, seen: Callable[[int], Iterable[int]]) -> Array:
    """Attention of each query to the keys `seen(p)`; the others do not take part at all.

    `q` is [...,E,P], `k` [...,E,M], `v` [...,F,M]; the leading axes of `k` and `v` broadcast to
    those of `q`, which is how heads share keys. Returns [...,F,P]. No factor 1/sqrt(E).
    """
    heads = q.shape[:-2]
    k, v = (np.broadcast_to(x, (*heads, *x.shape[-2:])) for x in (k, v))
    result = np.empty((*heads, v.shape[-2], q.shape[-1]))
    for head in np.ndindex(heads):
        for p in range(q.shape[-1]):
            keys = list(seen(p))
            weights = softmax(q[head][:, p] @ k[head][:, keys])
            result[head][:, p] = v[head][:, keys] @ weights
    return result


def last_tokens(shape: Extents, window: int | None = None) -> Callable[[int], Iterable[int]]:
    """The keys up to query p, which is token p + M - P: all of them, or the last `window`."""

    def seen(p: int) -> Iterable[int]:
        token = p + shape["M"] - shape["P"]
        return range(0 if window is None else max(0, token - window + 1), token + 1)

    return seen


def causal(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Every head with keys of its own."""
    return {"AV": by_query(inputs["Q"], inputs["K"], inputs["V"], last_tokens(shape))}


def sliding_window(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Grouped queries, each of which sees itself and the W - 1 tokens before."""
    k, v = inputs["K"][:, :, None], inputs["V"][:, :, None]
    return {"AV": by_query(inputs["Q"], k, v, last_tokens(shape, shape["W"]))}


def cross(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Every query sees every key."""
    return {"AV": by_query(inputs["Q"], inputs["K"], inputs["V"], lambda p: range(shape["M"]))}


def multi_query(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """One head of keys for all: K is [B,E,M], V is [B,F,M]."""
    k, v = inputs["K"][:, None], inputs["V"][:, None]
    return {"AV": by_query(inputs["Q"], k, v, last_tokens(shape))}


def grouped_query(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Q is [B,G,R,E,P]; R query heads share a head of K [B,G,E,M] and V [B,G,F,M]."""
    k, v = inputs["K"][:, :, None], inputs["V"][:, :, None]
    return {"AV": by_query(inputs["Q"], k, v, last_tokens(shape))}


def paged(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """The pages of each sequence put one behind the other, then grouped-query attention."""
    tokens = {}
    for pool in ("KP", "VP"):
        pages = [np.concatenate(list(inputs[pool][row]), axis=-1) for row in inputs["T"]]
        tokens[pool[0]] = np.stack(pages)
    return grouped_query({"Q": inputs["Q"], **tokens}, shape)


def latent(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """One key for all heads, latent and rotated part put together; the latent is the value."""
    q = np.concatenate([inputs["Q"], inputs["QR"]], axis=2)
    keys = np.concatenate([inputs["C"], inputs["KR"]], axis=2).swapaxes(1, 2)[:, None]
    values = inputs["C"].swapaxes(1, 2)[:, None]
    return {"AV": by_query(q, keys, values, last_tokens(shape))}


def window(inputs: Arrays, shape: Extents) -> dict[str, Array]:
    """Swin: softmax(QK + B)V; B from the table by difference of rows and columns."""
    side = shape["S"]
    table = inputs["RB"].reshape(-1, 2 * side - 1, 2 * side - 1)
    places = list(product(range(side), repeat=2))
    bias = np.empty((len(table), len(places), len(places)))
    for (i, (row, column)), (j, (key_row, key_column)) in product(enumerate(places), repeat=2):
        bias[:, j, i] = table[:, row - key_row + side - 1, column - key_column + side - 1]
    scores = inputs["K"].swapaxes(-1, -2) @ inputs["Q"] + bias  # [B,N,H,M,P]
    return {"AV": inputs["V"] @ softmax(scores, axis=-2)}


def _tensors(**ranks: str) -> Draw:
    """Normal inputs, each given with the letters of its ranks.

    Scores are of the order of the magnitude: it is divided between queries and keys. Values (V, VP)
    are of order 1 whatever the magnitude.
    """

    def draw(g: np.random.Generator, shape: Extents, magnitude: float) -> dict[str, Array]:
        return {
            name: g.normal(size=[shape[r] for r in letters])
            * (1 if name.startswith("V") else np.sqrt(magnitude))
            for name, letters in ranks.items()
        }

    return draw


def _pages(g: np.random.Generator, shape: Extents, magnitude: float) -> dict[str, Array]:
    """Pages in any order; sequences may share some, as those with a common prefix do."""
    sizes = {"N": shape["N"], "K": shape["M0"], **{r: shape[r] for r in "BGREFP"}}
    draw = _tensors(Q="BGREP", KP="NGEK", VP="NGFK")
    return {
        **draw(g, sizes, magnitude),
        "T": g.integers(0, shape["N"], (shape["B"], shape["M1"])),
    }


def _self(ranks: str, *parts: str) -> Callable[[np.random.Generator], dict[str, int]]:
    """Random extents with as many queries as keys, or fewer; M is the product of its `parts`."""

    def shape(g: np.random.Generator) -> dict[str, int]:
        found = {rank: int(g.integers(1, 4)) for rank in ranks}
        tiles = {part: int(g.integers(1, 5)) for part in parts}
        keys = int(np.prod(list(tiles.values()))) if tiles else int(g.integers(1, 13))
        queries = keys if g.random() < 0.5 else int(g.integers(1, keys + 1))
        return {**found, **tiles, "M": keys, "P": queries}

    return shape


def _sliding_shape(g: np.random.Generator) -> dict[str, int]:
    shape = _self("BGREF", "M1", "M0")(g)
    return {**shape, "W": int(g.integers(1, shape["M"] + 2))}


def _paged_shape(g: np.random.Generator) -> dict[str, int]:
    return {**_self("BGREF", "M1", "M0")(g), "N": int(g.integers(1, 9))}


def _cross_shape(g: np.random.Generator) -> dict[str, int]:
    return {**_self("BHEF", "M1", "M0")(g), "P": int(g.integers(1, 20))}


def _window_shape(g: np.random.Generator) -> dict[str, int]:
    shape = {rank: int(g.integers(1, 4)) for rank in "BNHEFS"}
    tokens = shape["S"] ** 2
    return {**shape, "P": tokens, "M": tokens, "T": (2 * shape["S"] - 1) ** 2}


_OWN = _tensors(Q="BHEP", K="BHEM", V="BHFM")
_SHARED = _tensors(Q="BGREP", K="BGEM", V="BGFM")
_TILED = _self("BHEF", "M1", "M0")
PROOFS = {
    "attention-causal-3pass": Proof(_self("BHEF"), _OWN, causal, stable=True),
    "causal-attention": Proof(_TILED, _OWN, causal, stable=True),
    "sliding-window-attention": Proof(_sliding_shape, _SHARED, sliding_window, stable=True),
    "cross-attention": Proof(_cross_shape, _OWN, cross, stable=True),
    "multi-query-attention": Proof(
        _TILED, _tensors(Q="BHEP", K="BEM", V="BFM"), multi_query, stable=True
    ),
    "grouped-query-attention": Proof(
        _self("BGREF", "M1", "M0"), _SHARED, grouped_query, stable=True
    ),
    "decode-attention": Proof(_self("BGREF", "M1", "S", "M0"), _SHARED, grouped_query, stable=True),
    "paged-attention": Proof(_paged_shape, _pages, paged, stable=True),
    "multi-head-latent-attention": Proof(
        _self("BHCR", "M1", "M0"),
        _tensors(Q="BHCP", QR="BHRP", C="BMC", KR="BMR"),
        latent,
        stable=True,
    ),
    "window-attention": Proof(
        _window_shape, _tensors(Q="BNHEP", K="BNHEM", V="BNHFM", RB="HT"), window, stable=True
    ),
}
