"""Einsums that read another coordinate of a rank than their own, against looking at every element."""

from __future__ import annotations

import itertools
import random

import pytest

from einsum_cascade import analyze_passes, parse_cascade

EXTENT = 4
INDICES = {  # of a read along P (and Q, of the same coordinates), and what it needs at (p, q)
    "p": lambda p, q: p,
    "p+1": lambda p, q: p + 1,
    "p-1": lambda p, q: p - 1,
    "P-1-p": lambda p, q: EXTENT - 1 - p,
    "2*p": lambda p, q: 2 * p,
    "p+q": lambda p, q: p + q,
    "q": lambda p, q: q,
    "0": lambda p, q: 0,
    "p+R[p]": lambda p, q: EXTENT - 1 - p,  # a table known before the run
}


def random_chain(seed):
    """Einsums over P, some with Q, each of one or two of those before it at some index."""
    chosen = random.Random(seed)
    made, body = ["A"], ["R[p] = P - 1 - 2*p"]
    reads = {}
    for step in range(chosen.randint(2, 4)):
        name = f"T{step}"
        count = chosen.choice((1, 1, 2))
        operands = [
            (chosen.choice(made), chosen.choice(["p", "p", "p", *INDICES])) for _ in range(count)
        ]
        if not any("p" in index for _, index in operands):
            operands.append((made[-1], "p"))
        body.append(f"{name}[p] = " + " * ".join(f"{t}[{i}]" for t, i in operands) + " where p < P")
        reads[name] = operands
        made.append(name)
    used = "R[p]" in " ".join(body[1:])
    text = "\n".join(f"  {line}" for line in body[0 if used else 1 :])
    ranks = "{P: a, Q: {like: P}}" if any("q" in line for line in body[1:]) else "{P: a}"
    return parse_cascade(f"name: c\nranks: {ranks}\ninputs: ['A[p]']\nbody: |\n{text}\n"), reads


def elements_allow(reads, one, other):
    """Whether each element of either needs, of the other, at most its own coordinate."""
    needed = {}  # (tensor, coordinate) -> elements behind it
    for name, operands in reads.items():
        for p in range(EXTENT):
            found = set()
            for (tensor, index), q in itertools.product(operands, range(EXTENT)):
                at = INDICES[index](p, q)
                if 0 <= at < EXTENT:
                    found |= {(tensor, at)} | needed.get((tensor, at), set())
            needed[name, p] = found
    return all(
        at == p
        for first, second in ((one, other), (other, one))
        for p in range(EXTENT)
        for tensor, at in needed[first, p]
        if tensor == second
    )


@pytest.mark.parametrize("seed", range(150))
def test_one_loop_is_shared_only_at_the_same_coordinate(seed):
    cascade, reads = random_chain(seed)
    analysis = analyze_passes(cascade)
    for one, other in itertools.combinations(reads, 2):
        # a reduction (over q) is a barrier along Q alone
        expected = elements_allow(reads, one, other)
        assert analysis.fusible((one, other), "P") == expected, (one, other, str(cascade))


@pytest.mark.parametrize(
    ("index", "passes"), [("P-1-p", 2), ("T[p]", 2), ("p+1", 1), ("2*p", 1), ("p", 1)]
)
def test_passes_of_what_runs_the_other_way(index, passes):
    table = ", 'T[p]'" if "T" in index else ""
    text = (
        f"{{name: c, ranks: [P], inputs: ['A[p]'{table}], "
        f"body: ['S[p] = exp(A[p])', 'Z[p] = S[{index}] + S[p] where p < P']}}"
    )
    assert analyze_passes(parse_cascade(text)).passes("P") == passes


def test_what_only_runs_the_other_way_is_one_pass_that_is_not_fused():
    cascade = parse_cascade(
        "{name: c, ranks: [P], inputs: ['A[p]'], body: ['S[p] = exp(A[p])', 'Z[p] = S[P-1-p]*2']}"
    )
    analysis = analyze_passes(cascade)
    assert analysis.passes("P") == 1
    assert not analysis.fusible(("S", "Z"), "P")


def test_tiles_are_fused_though_their_inside_is_turned():
    cascade = parse_cascade(
        """
name: c
ranks: {M: {partition: [M1, M0]}, M1: , M0: , P: p}
inputs: ["A[m,p]"]
body:
  - S[m1,m0,p] = A[m1*M0+m0,p] * 2
  - Z[m1,m0,p] = S[m1,M0-1-m0,p] + S[m1,m0,p]
"""
    )
    analysis = analyze_passes(cascade)
    assert analysis.fusible(("S", "Z"), "M1")
    assert not analysis.fusible(("S", "Z"), "M0")
    assert analysis.fusible(("S", "Z"), "P")


def test_generations_are_fused():
    cascade = parse_cascade(
        """
name: c
ranks: [K, P]
inputs: ["A[k,p]"]
initialization: ["S[0,p] = 0"]
body: ["S[k+1,p] = S[k,p] + A[k,p]", "Y[k,p] = A[k,p] - S[k,p]", "Z[k,p] = A[k,p] / S[k+1,p]"]
iterate: {rank: K}
"""
    )
    analysis = analyze_passes(cascade)
    assert analysis.fusible(("S", "Y", "Z"), "K")
    assert analysis.fusible(("S", "Y", "Z"), "P")
