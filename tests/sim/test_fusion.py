"""Fusion against a run that keeps the books: is every value complete when it is read?

The oracle executes the shared loops point by point and counts the contributions that each value has
had. A mapping is illegal exactly when some Einsum reads a value that is not complete.
"""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archs import load_architecture
from einsum_cascade import parse_cascade
from sim import EinsumMapping, Loop, Mapping, Phase, PhaseChoice, always, evaluate

ARCHITECTURE = load_architecture("fusemax-cloud").resolve()
# name -> Einsums in order: output ranks, {operand: ranks}, the iteration space, text
CASCADES = {
    "softmax": {
        "Y": ("RN", {"A": "RN", "W": "N"}, "RN", "Y[r,n] = A[r,n] * W[n]"),
        "G": ("R", {"Y": "RN"}, "RN", "G[r] = max over n of Y[r,n]"),
        "S": ("RN", {"Y": "RN", "G": "R"}, "RN", "S[r,n] = exp(Y[r,n] - G[r])"),
        "D": ("R", {"S": "RN"}, "RN", "D[r] = S[r,n]"),
        "Z": ("RN", {"S": "RN", "D": "R"}, "RN", "Z[r,n] = S[r,n] / D[r]"),
    },
    "by columns": {
        "Y": ("RN", {"A": "RN", "W": "N"}, "RN", "Y[r,n] = A[r,n] * W[n]"),
        "C": ("N", {"Y": "RN"}, "RN", "C[n] = Y[r,n]"),
        "X": ("RN", {"Y": "RN", "C": "N"}, "RN", "X[r,n] = Y[r,n] * C[n]"),
        "D": ("R", {"X": "RN"}, "RN", "D[r] = X[r,n]"),
        "Z": ("RN", {"X": "RN", "D": "R"}, "RN", "Z[r,n] = X[r,n] * D[r]"),
    },
    "deferred": {
        "Y": ("R", {"A": "RN", "W": "N"}, "RN", "Y[r] = A[r,n] * W[n]"),
        "X": ("R", {"A": "RN"}, "RN", "X[r] = A[r,n]"),
        "Z": ("R", {"Y": "R", "X": "R"}, "R", "Z[r] = Y[r] * X[r]"),
    },
    "elementwise": {
        "Y": ("RN", {"A": "RN", "W": "N"}, "RN", "Y[r,n] = A[r,n] * W[n]"),
        "X": ("RN", {"Y": "RN"}, "RN", "X[r,n] = exp(Y[r,n])"),
        "Z": ("RN", {"X": "RN", "Y": "RN"}, "RN", "Z[r,n] = X[r,n] + Y[r,n]"),
    },
}


def parsed(name):
    body = [f"'{text}'" for *_, text in CASCADES[name].values()]
    return parse_cascade(
        f"{{name: c, ranks: {{R: rows, N: columns}}, inputs: ['A[r,n]', 'W[n]'], outputs: [Z],"
        f" body: [{', '.join(body)}]}}"
    )


@st.composite
def fusions(draw):
    """Shared loops with a depth for each Einsum that goes up and then down, so they stay a tree."""
    name = draw(st.sampled_from(sorted(CASCADES)))
    loops = [
        (f"s{i}", draw(st.sampled_from("RN")), draw(st.integers(1, 3)))
        for i in range(draw(st.integers(1, 3)))
    ]
    einsums = list(CASCADES[name])
    limit = {}
    for e in einsums:
        ranks = CASCADES[name][e][2]
        outside = (i for i, (_, rank, _) in enumerate(loops) if rank not in ranks)
        limit[e] = next(outside, len(loops))
    depths = [draw(st.integers(0, limit[e])) for e in einsums]
    for i in range(1, len(depths) - 1):  # no Einsum between two that are fused deeper than it is
        deepest = min(max(depths[:i]), max(depths[i + 1 :]))
        if depths[i] < deepest:
            depths[i + 1 :] = [min(d, depths[i]) for d in depths[i + 1 :]]
    inner = {"R": draw(st.integers(1, 2)), "N": draw(st.integers(1, 3))}
    return name, loops, dict(zip(einsums, depths, strict=True)), inner


def extents(case):
    _, loops, _, inner = case
    found = dict(inner)
    for _, rank, extent in loops:
        found[rank] *= extent
    return found


def reads_too_early(case):
    """Whether an Einsum reads a value before all of its producer's contributions are in."""
    name, loops, depths, _ = case
    cascade, sizes = CASCADES[name], extents(case)
    had, early = Counter(), []
    needed = {
        e: sizes[rank] if (rank := "".join(set(space) - set(out))) else 1
        for e, (out, _, space, _) in cascade.items()
    }

    def points(einsum, fixed):
        """Coordinates of the iteration space inside the shared loops that are at `fixed`."""
        space = cascade[einsum][2]
        axes = []
        for rank in space:
            outer = [(v, x) for v, (_, r, x) in zip(fixed, loops, strict=False) if r == rank]
            block, start = sizes[rank], 0
            for value, extent in outer:
                block //= extent
                start += value * block
            axes.append(range(start, start + block))
        return (dict(zip(space, p, strict=True)) for p in itertools.product(*axes))

    def run(einsums, fixed):
        depth = len(fixed)
        for deeper, group in itertools.groupby(einsums, key=lambda e: depths[e] > depth):
            if deeper:
                group = list(group)
                for value in range(loops[depth][2]):
                    run(group, (*fixed, value))
                continue
            for einsum in group:
                out, operands, _, _ = cascade[einsum]
                for at in points(einsum, fixed):
                    for tensor, ranks in operands.items():
                        if tensor in cascade:
                            key = (tensor, *(at[r] for r in ranks))
                            if had[key] < needed[tensor]:
                                early.append((einsum, key))
                    had[(einsum, *(at[r] for r in out))] += 1

    run(list(cascade), ())
    return bool(early)


def reason(case):
    name, loops, depths, _ = case
    sizes = extents(case)
    nests = []
    for einsum, (_, _, space, _) in CASCADES[name].items():
        outer = tuple(Loop(n, r, float(x)) for n, r, x in loops[: depths[einsum]])
        own = []
        for rank in space:
            extent = float(sizes[rank])
            for loop in outer:
                extent /= loop.extent if loop.rank == rank else 1
            own.append(Loop(f"{einsum}{rank}", rank, extent))
        nests.append(EinsumMapping(einsum, "1d", (*outer, *own), len(outer)))
    everywhere = {t: always("DRAM") for t in ("A", "W", *CASCADES[name])}
    phase = Phase("fused", tuple(nests), everywhere)
    mapping = Mapping(parsed(name), ARCHITECTURE, sizes, (PhaseChoice((phase,)),))
    return evaluate(mapping).infeasible[0]


@given(fusions())
@settings(max_examples=300, deadline=None)
def test_fusion_is_refused_exactly_when_a_value_is_read_too_early(case):
    found = reason(case)
    assert found is None or "is fused with" in found
    assert (found is not None) == reads_too_early(case), found


@pytest.mark.parametrize(
    ("name", "rank", "legal"),
    [
        ("softmax", "N", False),
        ("softmax", "R", True),
        ("by columns", "R", False),
        ("by columns", "N", False),
        ("elementwise", "N", True),
    ],
)
def test_all_fused_on_one_loop(name, rank, legal):
    """The oracle itself, and the simulator, where the answer is known."""
    case = (name, [("s0", rank, 2)], dict.fromkeys(CASCADES[name], 1), {"R": 2, "N": 2})
    assert reads_too_early(case) != legal
    assert (reason(case) is None) == legal
