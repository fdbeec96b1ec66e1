"""The executor against an interpreter that computes one number at a time, and against NumPy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import workloads
from einsum_cascade import InputError, execute, parse_cascade
from workloads.reference import proofs

PROOFS = proofs()

CASES = {
    "causal attention": (
        """
ranks: [M, P, E, F]
inputs: ["Q[e,p]", "K[e,m]", "V[f,m]"]
outputs: [AV]
body:
  - QK[m,p] = Q[e,p] * K[e,m] where m <= p
  - GM[p] = max over m of QK[m,p] where m <= p
  - SN[m,p] = exp(QK[m,p] - GM[p]) where m <= p
  - SD[p] = SN[m,p]
  - AV[f,p] = SN[m,p] / SD[p] * V[f,m]
""",
        {"M": 5, "P": 5, "E": 2, "F": 3},
    ),
    "sliding window with a sink": (
        """
ranks: [M, P]
parameters: {W: window}
inputs: ["S[m,p]"]
body:
  - N[m,p] = exp(S[m,p]) where m <= p, p - m < W
  - D[p] = N[m,p]
  - A[m,p] = N[m,p] / D[p]
""",
        {"M": 6, "P": 6, "W": 2},
    ),
    "grouped queries": (
        """
ranks: {H: {partition: [G, R]}, G: , R: , M: , P: , E: }
inputs: ["Q[h,e,p]", "K[g,e,m]"]
body: ["QK[g,r,m,p] = Q[g*R+r,e,p] * K[g,e,m]", "S[h,m] = QK2[h,m,p]",
       "QK2[g*R+r,m,p] = QK[g,r,m,p]"]
""",
        {"H": 6, "G": 2, "M": 3, "P": 2, "E": 2},
    ),
    "convolution": (
        """
ranks: [W, Q, S]
inputs: ["A[w]", "F[s]"]
body: ["O[q] = A[q+s] * F[s]"]
""",
        {"W": 8, "S": 3, "Q": 6},
    ),
    "stencil with a filter": (
        """
ranks: [K]
inputs: ["A[k]"]
body: ["O[k] = A[k+1] - A[k] where k < K - 1"]
""",
        {"K": 5},
    ),
    "decay by position": (
        """
ranks: [I, J]
inputs: ["A[i,j]", S]
body: ["O[i] = exp(-S * (i - j)) * A[i,j] where j <= i", "X = sum over i of O[i] / I"]
""",
        {"I": 4, "J": 4},
    ),
    "two iterative loops": (
        """
ranks: [K]
inputs: ["A[k]"]
outputs: [Z, R]
initialization: ["S[0] = 0", "R[0] = 1", "R[1] = 2"]
body:
  - S[k+1] = S[k] + A[k]
  - R[k+2] = R[k+1] * A[k] + R[k] - T[k]
  - T[k] = min(R[k+1], A[k])
final: ["Z[k] = A[k] / S[K]"]
iterate: {rank: K, stop: k >= K}
""",
        {"K": 5},
    ),
    "Newton's inverse": (
        """
ranks: {T: iterations, I: , J: {like: I}, L: {like: I}}
inputs: ["X[i,j]"]
outputs: [Z]
initialization: ["V[0,i,j] = X[i,j] / 9"]
body:
  - Y[t,i,j] = X[i,l] * V[t,l,j]
  - V[t+1,i,j] = 2 * V[t,i,j] - U[t,i,j]
  - U[t,i,j] = V[t,i,l] * Y[t,l,j]
final: ["Z[i,j] = V[T,i,j]"]
iterate: {rank: T, stop: t >= 4}
""",
        {"I": 2},
    ),
    "products, minima, numbers": (
        """
ranks: [I, J]
inputs: ["A[i,j]"]
body:
  - L[i] = product over j of A[i,j] + 1.5
  - S = min over i of max(L[i], 2, A[i,0])
  - N = sum over i, j of 1
  - Z[j,i] = sqrt(A[i,j] * A[i,j]) - -2 / N * S
""",
        {"I": 3, "J": 2},
    ),
    "start at one, looking back": (
        """
ranks: [K]
inputs: ["A[k]"]
initialization: ["X[0] = A[0]"]
body: ["X[k] = X[k-1] * 0.5 + A[k]"]
iterate: {rank: K, start: 1}
""",
        {"K": 6},
    ),
    "a diagonal and a broadcast": (
        """
ranks: {I: , J: {like: I}}
inputs: ["A[i,j]", "D[i]"]
body: ["T = A[i,i]", "Z[i,j] = D[j] + T"]
""",
        {"I": 3},
    ),
    "comparisons": (
        """
ranks: [I, J]
inputs: ["A[i,j]"]
body: ["X = A[i,j] where i != j and 2*i + j < 5", "Y[i] = max over j of A[i,j] where j > i"]
outputs: [X, Y]
""",
        {"I": 3, "J": 4},
    ),
}


PRODUCT = """
name: product
ranks: [M, K, N]
inputs: ["A[m,k]", "B[k,n]"]
body: ["Z[m,n] = A[m,k] * B[k,n]"]
"""


def inputs_of(cascade, shape, seed=0):
    generator = np.random.default_rng(seed)
    resolved = cascade.resolve_shape(shape)
    return {
        name: generator.uniform(0.5, 2, [resolved[r] for r in cascade.tensors[name].ranks])
        for name in cascade.inputs
    }


def assert_same(cascade, shape, interpreter, functions=None, inputs=None):
    inputs = inputs_of(cascade, shape) if inputs is None else inputs
    resolved = cascade.resolve_shape(shape)
    naive = interpreter(cascade, inputs, resolved, functions)
    found = execute(cascade, inputs, shape, functions, everything=True)
    for name, array in found.items():
        if name in cascade.inputs:
            continue
        assert array.shape == tuple(e.evaluate(resolved, {}) for e in cascade.tensors[name].extents)
        for at in itertools.product(*map(range, array.shape)):
            assert math.isclose(array[at], naive.element(name, at), rel_tol=1e-9, abs_tol=1e-12), (
                name,
                at,
            )


@pytest.mark.parametrize("case", CASES)
def test_execute_equals_the_interpreter(case, interpreter):
    text, shape = CASES[case]
    assert_same(parse_cascade(f"name: {case}\n{text}".replace("'s", "s")), shape, interpreter)


@pytest.mark.parametrize("name", sorted(PROOFS))
def test_packaged_cascades_equal_the_interpreter(name, interpreter):
    """At the smallest of many random shapes: the interpreter is slow."""
    cascade, proof = workloads.cascade(name), PROOFS[name]
    generator = np.random.default_rng(3)
    shapes = [proof.shape(generator) for _ in range(40)]
    several = [s for s in shapes if math.prod(s.values()) > 64] or shapes
    shape = min(several, key=lambda s: math.prod(s.values()))
    inputs = proof.inputs(generator, shape, 1.0)
    assert_same(cascade, shape, interpreter, dict(proof.functions), inputs)


def test_user_functions():
    cascade = parse_cascade(
        """
name: sigmoid
ranks: [M, F]
functions: {sigmoid: 1 / (1 + exp(-x)), shr: {arguments: 2}, absmax: {arguments: 2}}
inputs: ["S[m]", "V[f,m]"]
outputs: [O, N, X]
body: ["O[f] = sigmoid(S[m]) * V[f,m]", "X = absmax over m of S[m]", "N[m] = shr(S[m], 1)"]
"""
    )
    assert dict(cascade.einsum("O").operations) == {"sigmoid": 1, "mac": 1}
    scores = np.array([1, -8, 3])
    values = np.arange(6).reshape(2, 3)
    found = execute(
        cascade,
        {"S": scores, "V": values},
        functions={
            "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
            "shr": np.right_shift,
            "absmax": lambda a, b: np.where(np.abs(a) > np.abs(b), a, b),
        },
    )
    np.testing.assert_allclose(found["O"], values @ (1 / (1 + np.exp(-scores))))
    assert found["X"] == -8
    np.testing.assert_array_equal(found["N"], [0, -4, 1])
    assert found["N"].dtype.kind == "i"  # integers stay integers
    with pytest.raises(InputError, match="needs the function 'absmax'"):
        execute(cascade, {"S": scores, "V": values}, functions={"shr": np.right_shift})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"A": np.ones((2, 3))}, "needs the input 'B'"),
        ({"A": np.ones((2, 3)), "B": np.ones((4, 5))}, "B has 4 along K, where K = 3"),
        ({"A": np.ones(3), "B": np.ones((3, 5))}, "A has the ranks M, K, found an array with 1"),
        (
            {"A": np.ones((2, 3)), "B": np.ones((3, 5)), "a": 1},
            "no input 'a'; allowed: A, B; did you mean 'A'?",
        ),
    ],
)
def test_wrong_arrays(inputs, message):
    cascade = parse_cascade(PRODUCT)
    with pytest.raises(InputError) as error:
        execute(cascade, inputs)
    assert message in str(error.value)


def test_out_of_bounds_is_an_error_with_its_place():
    cascade = parse_cascade(
        "name: w\nranks: [W, Q, S]\ninputs: ['A[w]', 'F[s]']\nbody:\n  - O[q] = A[q+s] * F[s]\n"
    )
    with pytest.raises(InputError, match=r"<text>:5:12: .*reaches coordinate 8 of W.*0 to 7"):
        execute(cascade, {"A": np.ones(8), "F": np.ones(3)}, {"Q": 7})


def test_a_matrix_product_needs_no_memory_for_its_iteration_space():
    cascade = parse_cascade(PRODUCT)
    a, b = np.ones((600, 800)), np.ones((800, 700))  # 336 M points: 2.7 GB if held
    np.testing.assert_allclose(execute(cascade, {"A": a, "B": b})["Z"], a @ b)
