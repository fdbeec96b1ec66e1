"""The search against an enumerator of its own: every nest, order, depth and home, none left out.

The enumerator builds mappings by hand from what docs/search.md says the space is, with all depths
and orders (the search leaves out those that it proves to be no better), and asks the simulator for
each. What nothing beats must be the same.
"""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from archs import load_architecture
from einsum_cascade import parse_cascade
from mappers.factors import divisors
from mappers.search import Options, front, optimum
from sim import (
    IN_ARRAY,
    EinsumMapping,
    Loop,
    Mapping,
    Option,
    Phase,
    Residency,
    Tile,
    evaluate,
    evaluate_phase,
)

PRODUCT = parse_cascade(
    """
    {name: product, ranks: [P, M, E], inputs: ["Q[e,p]", "K[e,m]"], outputs: [X],
     body: ["X[m,p] = Q[e,p] * K[e,m]"]}"""
)
CHAIN = parse_cascade(
    """
    {name: chain, ranks: [P, M, E], inputs: ["Q[e,p]", "K[e,m]"], outputs: [Y],
     body: ["X[m,p] = Q[e,p] * K[e,m]", "Y[p] = max over m of X[m,p]"]}"""
)
RANKS = {"X": ("M", "P", "E"), "Y": ("P", "M")}
TENSORS = {"Q": "EP", "K": "EM", "X": "MP", "Y": "P"}


def machine(size, registers=16):
    return load_architecture(
        {
            "extends": "fusemax-cloud",
            "parameters": {"array_dim": 2},
            "memories": {"buffer": {"size_bytes": f"{size} B"}},
            "arrays": {"2d": {"registers": {"words": registers}}},
        }
    ).resolve({})


def least(rows):
    """Rows that no other beats."""
    rows = np.unique(np.asarray(rows), axis=0)
    kept = []
    for row in rows[np.lexsort(rows.T[::-1])]:
        if not any(np.all(k <= row * (1 + 1e-12)) for k in kept):
            kept.append(row)
    return np.array(kept)


def sizes(shape, loops):
    """All ways to give loops (outermost first) sizes that divide and shrink, as arrays."""
    found = []
    for choice in product(*(divisors(shape[r]) for r in loops)):
        last = dict(shape)
        for rank, size in zip(loops, choice, strict=True):
            if size > last[rank]:
                break
            last[rank] = size
        else:
            found.append(choice)
    return np.array(found, dtype=float).reshape(len(found), len(loops)).T


def nest(einsum, array, spatial, loops, at, order, shape, sides=2.0, shared=None):
    left = {r: np.float64(shape[r]) for r in RANKS[einsum]}
    made = []
    for number, (rank, size) in enumerate(zip(loops, at, strict=True)):
        made.append(Loop(f"{rank}.{number}", rank, np.ceil(left[rank] / size)))
        left[rank] = size
    wide = []
    for rank in spatial:
        times = np.ceil(left[rank] / sides)
        wide.append(Loop(f"{rank}s", rank, np.ceil(left[rank] / times), True))
        left[rank] = times
    own = [Loop(f"{r}t", r, left[r]) for r in order]
    count = len(loops) if shared is None else shared
    return EinsumMapping(einsum, array, (*made, *own, *wide), count, "pipelined")


def depths(tensor, n, axis, total):
    """One option for each depth or none, along an axis of its own."""
    names = [None, *[loop.name for loop in n.loops[: n.shared]]]
    ways = [(), *[(Tile("buffer", name),) for name in names]]
    numbers = np.arange(len(ways)).reshape((len(ways),) + (1,) * axis)
    return tuple(
        Option(numbers == i, Residency("DRAM", way)) for i, way in enumerate(ways)
    ), axis + 1


def costs(cascade, on, shape, phase):
    mapping = Mapping(cascade, on, {k: np.float64(v) for k, v in shape.items()}, ())
    found = evaluate_phase(mapping, phase, explain=False)
    rows = np.stack([found.latency_s, found.energy_pj], axis=-1).reshape(-1, 2)
    rows = rows[np.isfinite(rows).all(axis=-1)]
    return [least(rows)] if len(rows) else []


def single(cascade, on, shape, einsum, places):
    """All phases of one Einsum."""
    found = []
    ranks = [r for r in RANKS[einsum] if shape[r] > 1]
    tensors = {"X": ("Q", "K", "X"), "Y": ("X", "Y")}[einsum]
    for (array, spatial), loops, order in product(
        places, permutations(ranks), permutations(RANKS[einsum])
    ):
        n = nest(einsum, array, spatial, loops, sizes(shape, loops), order, shape)
        residency, axis = {}, 1
        for tensor in tensors:
            residency[tensor], axis = depths(tensor, n, axis, len(tensors))
        found += costs(cascade, on, shape, Phase("p", (n,), residency))
    return least(np.concatenate(found)) if found else np.zeros((0, 2))


def fused(cascade, on, shape):
    """All phases of X and Y that share loops over P and M, in any sequence of up to three."""
    found = []
    sequences = [("P", "M"), ("M", "P"), ("P", "M", "P"), ("M", "P", "M")]
    places_x = [("2d", ("M", "P")), ("2d", ("E", "P"))]
    places_y = [("2d", ("M", "P")), ("1d", ("P",))]
    for loops, px, py in product(sequences, places_x, places_y):
        for order in permutations(RANKS["X"]):
            for other in permutations(RANKS["Y"]):
                at = sizes(shape, loops)
                x = nest("X", *px, loops, at, order, shape)
                y = nest("Y", *py, loops, at, other, shape)
                for home in (IN_ARRAY, "buffer", "DRAM"):
                    if px[0] != py[0] and order[-1] != "E":
                        continue  # what one array hands to another is complete
                    copies = 2 if px[0] != py[0] else 1
                    tile = (Tile("buffer", x.loops[x.shared - 1].name, copies),)
                    between = (Option(True, Residency(home, tile if home == "buffer" else ())),)
                    residency, axis = {"X": between}, 1
                    for tensor, n in (("Q", x), ("K", x), ("Y", y)):
                        residency[tensor], axis = depths(tensor, n, axis, 3)
                    found += costs(cascade, on, shape, Phase("p", (x, y), residency))
    return least(np.concatenate(found)) if found else np.zeros((0, 2))


OPTIONS = Options(tiles="perfect", recompute=False)
PAIRS = [("2d", p) for p in permutations("MPE", 2)]


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ({"P": 4, "M": 2, "E": 4}, 24),
        ({"P": 4, "M": 4, "E": 2}, 16),
        ({"P": 6, "M": 3, "E": 2}, 60),
    ],
)
def test_a_product(shape, size):
    on = machine(size)
    pairs = [(a, s) for a, s in PAIRS if all(shape[r] > 1 for r in s)]
    wanted = single(PRODUCT, on, shape, "X", pairs)
    found = front(OPTIONS, PRODUCT, on, shape)
    np.testing.assert_allclose(found.costs, wanted, rtol=1e-9)
    for mapping, row in zip(found.mappings, found.costs, strict=True):
        real = evaluate(mapping)
        np.testing.assert_allclose([real.latency_s[0], real.energy_pj[0]], row, rtol=1e-9)
    for most in (wanted[-1, 1], wanted[-1, 1] * 0.99):  # and within a limit of energy
        limit = {"energy_pj": float(most) * (1 + 1e-9)}
        best = optimum(limited(limit, "latency_s"), PRODUCT, on, shape)
        within = wanted[wanted[:, 1] <= most * (1 + 1e-9), 0]
        assert list(best.costs[:, 0]) == pytest.approx(list(within[:1]), rel=1e-9)
    for most in np.quantile(wanted[:, 1] * 1e-12 / wanted[:, 0], [0.5]):  # and of power
        best = optimum(limited({"power_w": float(most)}, "latency_s"), PRODUCT, on, shape)
        slowest = np.maximum(wanted[:, 0], wanted[:, 1] * 1e-12 / most)
        assert best.score == pytest.approx(slowest.min(), rel=1e-9)


def limited(constraints, objective):
    given = {"constraints": constraints, "objective": objective, "compare": False}
    return Options(**OPTIONS.model_dump(include={"tiles", "recompute"}), **given)


@pytest.mark.parametrize(
    ("shape", "size"), [({"P": 4, "M": 2, "E": 2}, 32), ({"P": 2, "M": 4, "E": 2}, 16)]
)
def test_a_chain_in_one_phase_or_two(shape, size):
    on = machine(size, registers=2)
    places_y = [("2d", ("M", "P")), ("1d", ("P",))]
    apart = [
        one + other
        for one in single(CHAIN, on, shape, "X", PAIRS)
        for other in single(CHAIN, on, shape, "Y", places_y)
    ]
    wanted = least(np.concatenate([fused(CHAIN, on, shape), np.array(apart).reshape(-1, 2)]))
    found = front(OPTIONS, CHAIN, on, shape)
    np.testing.assert_allclose(found.costs, wanted, rtol=1e-9)
    assert found.report.complete
