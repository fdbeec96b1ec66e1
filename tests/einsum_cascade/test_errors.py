"""Every mistake in a cascade is an error that points at its place in the text."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from einsum_cascade import InputError, execute, parse_cascade

GOOD = """\
name: softmax
ranks: {M: , P: , T: {partition: [T1, T0]}, T1: , T0: }
parameters: [W]
functions: {gelu: an activation}
inputs: ["S[m,p]", "X[t]", "Y[t1,t0]"]
outputs: [A, B, R, C]
initialization:
  - R[0,p] = 0
body:
  - G[p] = max over m of S[m,p]
  - N[m,p] = exp(S[m,p] - G[p])
  - A[m,p] = N[m,p] * G[p]
  - B[t1,t0] = X[t1*T0+t0] + Y[t1,t0]
  - R[m+1,p] = R[m,p] + N[m,p] where m <= p
final:
  - C[p] = R[M,p]
iterate: {rank: M, stop: m >= M}
"""

MISTAKES = [
    # (text, what replaces it, line, column, words of the message)
    ("exp(S", "epx(S", 11, 14, "unknown operator 'epx'"),
    ("exp(S", "epx(S", 11, 14, "did you mean 'exp'"),
    ("exp(S[m,p] - G[p])", "exp(S[m,p], G[p])", 11, 14, "exp takes 1, found 2"),
    ("exp(S", "max(S", 11, 14, "max takes two arguments or more, found 1"),
    ("max over m of S", "maxx over m of S", 10, 12, "unknown reduction 'maxx'"),
    ("max over m of S", "gelu over m of S", 10, 12, "unknown reduction 'gelu'"),
    ("max over m of S", "max over q of S", 10, 21, "unknown index variable 'q'"),
    ("max over m of S", "max over p of S", 10, 21, "'p' stands on the left side"),
    ("max over m of S", "max over t0 of S", 10, 21, "'t0' is reduced over but stands nowhere"),
    ("G[p] = max over m of S", "G = max over m of S", 10, 9, "the left side lacks p"),
    ("S[m,p] - G[p]", "S[p,m] - G[p]", 11, 20, "its index 1 ranges over M, found 'p' of P"),
    ("S[m,p] - G[p]", "S[m] - G[p]", 11, 18, "S has the ranks M, P, found 1 index"),
    ("S[m,p] - G[p]", "S - G[p]", 11, 18, "S has the ranks M, P, found 0 indices"),
    ("S[m,p] - G[p]", "SS[m,p] - G[p]", 11, 18, "the tensor 'SS' is never defined"),
    ("S[m,p] - G[p]", "S[m,p] - G[k]", 11, 29, "unknown index variable 'k'"),
    ("S[m,p] - G[p]", "S[m,p] - G[p*m]", 11, 29, "p*m is not affine"),
    ("S[m,p] - G[p]", "S[m,p] - G[exp(p)]", 11, 29, "'exp' cannot stand in an index"),
    ("S[m,p] - G[p]", "S[m,p] - G[0.5]", 11, 29, "0.5 is no coordinate"),
    ("S[m,p] - G[p]", "S[m,p] - G[S[m,p]*S[m,p]]", 11, 29, "'mul' cannot stand between tables"),
    ("S[m,p] - G[p]", "S[m,p] - G[KK]", 11, 29, "unknown rank or parameter 'KK'"),
    ("S[m,p] - G[p]", "S[m,p] - G[p+1]", 11, 27, "G[p+1] runs 1 past the end of P"),
    ("S[m,p] - G[p]", "S[m,p] - G[p-1]", 11, 27, "G[p-1] begins at coordinate -1"),
    ("S[m,p] - G[p]", "S[m,p] - - ", 11, 29, "unexpected"),
    ("S[m,p] - G[p]", "S[m,p] $ G[p]", 11, 25, "unexpected character '$'"),
    ("S[m,p] - G[p])", "S[m,p] - G[p]", 11, 31, "unexpected the end"),
    ("G[p] = max", "G[P] = max", 10, 5, "its index variable is in lower case, as in G[p]"),
    ("A[m,p] = N", "N[m,p] = N", 12, 5, "'N' is defined twice: first at line 11"),
    ("A[m,p] = N", "S[m,p] = N", 12, 5, "'S' is defined twice: it is an input already"),
    ("A[m,p] = N", "A[m,m] = N", 12, 5, "stands twice in A"),
    ("A[m,p] = N", "A[m,p+1] = N", 12, 9, "only an iterative rank is written ahead"),
    ("A[m,p] = N", "A[m,2*p] = N", 12, 9, "'2*p' on the left side is neither"),
    ("A[m,p] = N[m,p] * G[p]", "A[m,p] = A[m,p] * G[p]", 12, 5, "cycle: A needs A"),
    ("A[m,p] = N", "1 = N", 12, 5, "unexpected '1'"),
    ("N[m,p] * G[p]", "N[m,p] * G[p] where t0 <= p", 12, 34, "the filter names 't0'"),
    ("N[m,p] * G[p]", "N[m,p] * G[p] where m", 12, 35, "unexpected the end"),
    ("N[m,p] * G[p]", "N[m,p] * C[p]", 12, 23, "C is computed in 'final', after 'body'"),
    ("R[0,p] = 0", "R[0,p] = G[p]", 8, 14, "G is computed in 'body', after 'initialization'"),
    ("R[0,p] = 0", "R[1,p] = 0", 8, 7, "R at 1 is defined twice"),
    ("R[0,p] = 0", "R[0,0] = 0", 8, 9, "P is not iterative"),
    ("R[0,p] = 0", "R[0] = 0", 8, 5, "R has the ranks M, P, found 1"),
    ("R[0,p] = 0", "Q[0,p] = 0", 8, 5, "only single coordinates of 'Q' are defined"),
    ("  - C[p] = R[M,p]", "  - C[p] = R[M,p]\n  - R[3,p] = 1", 17, 5, "is set in 'final'"),
    ("initialization:\n  - R[0,p] = 0\n", "", 12, 16, "R[m,p] needs R[0,p], which nothing sets"),
    ("stop: m >= M", "stop: m <= M", 17, 26, "a stop cannot compare by '<='"),
    ("stop: m >= M", "stop: p >= M", 17, 26, "a stop compares 'm' with a constant"),
    ("{rank: M,", "{rank: MM,", 17, 17, "unknown rank 'MM'"),
    ("outputs: [A,", "outputs: [AA,", 6, 11, "the output 'AA' is computed by no Einsum"),
    ("outputs: [A, ", "outputs: [", 12, 5, "'A' is never read and it is not among the outputs"),
    ('"X[t]",', '"X[t]", "Z[t]",', 5, 29, "'Z' is never read"),
    ('"X[t]",', '"X[t+1]",', 5, 23, "an input is declared with index variables only"),
    ('"X[t]",', '"X[t]", "X[t]",', 5, 29, "'X' is declared twice"),
    ('"X[t]",', '"X[u]",', 5, 23, "unknown index variable 'u'"),
    ('"X[t]",', '"X[t", ', 5, 24, "unexpected the end"),
    ('"X[t]",', '"m",', 5, 21, "cannot be named 'm'"),
    ("partition: [T1, T0]", "partition: [T1, T2]", 2, 23, "unknown rank 'T2'"),
    ("partition: [T1, T0]", "partition: [T1]", 2, 19, "a partition has two parts or more"),
    ("partition: [T1, T0]", "partition: [T1, T]", 2, 23, "'T' comes from itself"),
    ("partition: [T1, T0]", "like: Z", 2, 23, "unknown rank 'Z'"),
    ("{M: ,", "{m: , M: ,", 2, 9, "'m' must be in upper case"),
    ("parameters: [W]", "parameters: [M]", 3, 1, "'M' is a rank already"),
    ("{gelu:", "{exp:", 4, 13, "'exp' is built in"),
    ("body:", "bodi:", 9, 1, "unknown key 'bodi'; allowed: name,"),
    ("body:", "bodi:", 9, 1, "did you mean 'body'?"),
    ("name: softmax\n", "", 1, 1, "missing key 'name'"),
]


@pytest.mark.parametrize(("old", "new", "line", "column", "words"), MISTAKES)
def test_a_mistake_is_pointed_at(old, new, line, column, words):
    assert old in GOOD
    with pytest.raises(InputError) as error:
        parse_cascade(GOOD.replace(old, new, 1), "my.yaml")
    message = str(error.value)
    assert words in message
    errors = [error.value, *error.value.others]
    own = [InputError(e.message, e.place, allowed=e.allowed, found=e.found) for e in errors]
    places = [e.place for e in own if e.place and words in str(e)]
    assert [(p.file, p.line, p.column) for p in places] == [("my.yaml", line, column)], message


def test_the_good_one_is_good():
    assert len(parse_cascade(GOOD).einsums) == 7


def test_places_in_a_block_of_text():
    text = "name: x\nranks: [K]\ninputs: ['A[k]']\nbody: |\n  # first\n  Y = A[k]\n  Z = Y * B\n"
    with pytest.raises(InputError, match=r"<text>:7:11: body: the tensor 'B' is never defined"):
        parse_cascade(text)


def test_longer_cycles_are_named():
    text = (
        "{name: x, ranks: [K], inputs: ['A[k]'], body: ['X[k] = A[k] * Z[k]', 'Y[k] = X[k]', "
        "'Z[k] = Y[k]']}"
    )
    with pytest.raises(InputError, match=r"cycle: . needs . needs . needs ., in one"):
        parse_cascade(text)


def test_a_cycle_through_a_terminal_coordinate():
    text = """
name: x
ranks: [K]
inputs: ["A[k]"]
initialization: ["S[0] = 0"]
body: ["S[k+1] = S[k] + A[k] / S[K]"]
iterate: {rank: K}
"""
    with pytest.raises(InputError, match="cycle: S needs S"):
        parse_cascade(text)


@given(st.text(max_size=60))
def test_any_text_is_an_einsum_or_an_input_error(line):
    import yaml

    document = yaml.safe_dump(
        {"name": "x", "ranks": ["K"], "inputs": ["A[k]"], "body": [line, "Y = A[k]"]}
    )
    with contextlib.suppress(InputError):
        parse_cascade(document)


TOKENS = [*"AYkK[]()+-*/=,<1", "max", "over", "of", "where", "exp", "and", "inf", ">="]


@given(st.lists(st.sampled_from(TOKENS)))
def test_any_tokens_are_an_einsum_or_an_input_error(tokens):
    test_any_text_is_an_einsum_or_an_input_error.hypothesis.inner_test(" ".join(tokens))


@pytest.mark.parametrize("depth", [150, 250, 450, 5000])
@pytest.mark.parametrize(
    ("before", "after"), [("exp(", ")"), ("-", ""), ("A[k] + ", ""), ("(", ")"), ("A[k]*(", ")")]
)
def test_deep_expressions_are_refused_or_computed(before, after, depth):
    """Never a RecursionError."""
    text = before * depth + "A[k]" + after * depth
    try:
        cascade = parse_cascade(f"name: x\nranks: [K]\ninputs: ['A[k]']\nbody: ['Y[k] = {text}']")
    except InputError as error:
        assert "nested deeper than 200 operations" in str(error)  # noqa: PT017
    else:
        assert depth < 200 or before == "("
        assert str(cascade)
        execute(cascade, {"A": [0.5]})
