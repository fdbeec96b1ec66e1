"""The row of a cascade against rows worked out by hand, published classes and plain counting."""

from __future__ import annotations

import time

import pytest
import sympy

import workloads
from einsum_cascade import InputError, analyze_passes, parse_cascade
from einsum_cascade.summary import Summary, summarize

B, D, E, F, H, M, M0, P = sympy.symbols("B D E F H M M0 P", positive=True, integer=True)


def row(name: str, **given: int) -> Summary:
    return summarize(analyze_passes(workloads.cascade(name)), given)


def state(found: Summary) -> dict[str, tuple[str, ...]]:
    return dict(found.state.tensors)


# passes over M, state, its words, operations a head and sequence, footprint: by hand, after FuseMax
HAND = {
    "attention-3pass": (
        3, "", 0, M, {"QK", "SN"},
        {"mac": M*P*(E + F), "max": M*P, "exp": M*P, "add": 2*M*P, "div": M*P},
    ),
    "attention-3pass-deferred": (
        2, "", 0, M, {"QK"},
        {"mac": M*P*(E + F), "max": M*P, "exp": M*P, "add": 2*M*P, "div": F*P},
    ),
    "attention-2pass": (
        2, "RM RD", 2, M, {"SLN"},
        {"mac": M*P*(E + F), "max": M*P + M*P/M0, "exp": M*P + 3*M*P/M0, "div": M*P,
         "add": 2*M*P + 4*M*P/M0, "mul": M*P + 2*M*P/M0},
    ),
    "attention-2pass-deferred": (
        2, "", 0, M0, {"QK"},
        {"mac": M*P*(E + F) + (F + 1)*M*P/M0, "max": M*P + M*P/M0, "exp": M*P + M*P/M0,
         "add": 2*M*P + M*P/M0, "div": F*P},
    ),
    "attention-1pass": (
        1, "RM RD RNV", F + 2, M0, {"QK"},
        {"mac": M*P*(E + F), "max": M*P + M*P/M0, "exp": M*P + M*P/M0, "div": F*P,
         "add": 2*M*P + (F + 2)*M*P/M0, "mul": (F + 1)*M*P/M0},
    ),
    "attention-causal-3pass": (3, "", 0, M, {"QK", "SN"}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", HAND)
def test_rows_worked_out_by_hand(name: str) -> None:
    passes, carried, words, live, largest, operations = HAND[name]
    found = row(name)
    assert str(found.keys) == f"{passes} (M)"
    assert str(found.queries) == "1 (P)"
    assert found.special == ("exp", "div")
    assert " ".join(state(found)) == carried
    assert sympy.simplify(found.state.words - words) == 0
    assert found.footprint.words == live
    assert set(dict(found.footprint.tensors)) == largest
    assert found.factor == B * H
    assert sympy.expand(found.compulsory_words - B * H * (E + F) * (M + P)) == 0
    if operations is not None:
        assert found.operations.keys() == operations.keys()
        for kind, form in operations.items():
            assert sympy.expand(found.operations[kind] - form) == 0, kind


def test_a_causal_count_gets_a_name_and_a_closed_form() -> None:
    found = row("attention-causal-3pass")
    assert found.notes == {"n": "P*(2*M - P + 1)/2, points (m, p) where m ≤ p+M-P"}
    given = row("attention-causal-3pass", M=7, P=5)
    pairs = sum(1 for p in range(5) for m in range(7) if m <= p + 2)
    assert not given.notes
    assert given.operations["exp"] == pairs
    assert sympy.expand(given.operations["mac"] - pairs * (E + F)) == 0


@pytest.mark.parametrize("name", workloads.list_cascades("attention"))
def test_with_all_extents_the_forms_are_the_numbers_of_the_analysis(name: str) -> None:
    cascade = workloads.cascade(name)
    shape = {"B": 2, "H": 4, "E": 8, "F": 16, "D": 8, "M": 64, "P": 64, "N": 64, "M0": 16, "G": 2,
             "W": 32, "W0": 8, "L0": 8, "J0": 8, "T": 16}  # fmt: skip
    for left_out in ("", *shape):  # what a cascade has of it, less what contradicts it
        own = {r: v for r, v in shape.items() if r != left_out}
        own = {r: v for r, v in own.items() if r in cascade.ranks or r in cascade.parameters}
        try:
            full = cascade.resolve_shape(own)
        except InputError:
            continue
        break
    else:
        pytest.skip("needs a shape of its own")
    analysis = analyze_passes(cascade)
    found = summarize(analysis, full)
    expected = analysis.operation_counts(full)
    for kind, form in found.operations.items():
        values = {s: float(found.notes[s.name].partition(",")[0]) for s in form.free_symbols}
        assert float((found.factor * form).subs(values)) == pytest.approx(expected[kind]), kind
    assert float(found.compulsory_words) == pytest.approx(float(analysis.compulsory_words(full)))


# Classes as published: FuseMax's table, FlashAttention 1 and 2, the papers of the others
CLASSES = {
    "attention-3pass": 3, "attention-2pass": 2, "attention-1pass": 1, "causal-attention": 1,
    "cross-attention": 1, "grouped-query-attention": 1, "multi-query-attention": 1,
    "sliding-window-attention": 1, "paged-attention": 1, "window-attention": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_published_classes(name: str) -> None:
    found = row(name)
    assert found.keys.count == CLASSES[name]
    assert found.keys.ranks == ("M",)
    assert len(found.state.tensors) == {1: 3, 2: 2, 3: 0}[CLASSES[name]]


def test_state_of_splits_and_latent_vectors() -> None:
    splits = row("decode-attention").state
    assert str(splits) == "RM[S], RD[S], RNV[F,S]: S*(F + 2)"
    assert str(row("multi-head-latent-attention").state) == "RM, RD, RNV[C]: C + 2"


def test_tiles_of_keys_that_were_moved_first_are_tiles() -> None:
    found = parsed(
        "{N: '', J: {partition: [J1, J0]}, J1: '', J0: '', P: '', F: ''}",
        ["S[n,p]", "V[f,n]", "T[j]"],
        ["D[f,j1,p] = SR[j1*J0+j0,p] * VR[f,j1*J0+j0]", "R[f,j1+1,p] = R[f,j1,p] + D[f,j1,p]"],
        ", initialization: ['SR[j,p] = S[T[j],p]', 'VR[f,j] = V[f,T[j]]', 'R[f,0,p] = 0'], "
        "final: ['O[f,p] = R[f,J1,p]'], iterate: {rank: J1, stop: j1 >= J1}",
    )
    assert str(found.keys) == "1 (J)"
    assert str(found.state) == "R[F]: F"


def parsed(ranks: str, inputs: list[str], body: list[str], more: str = "") -> Summary:
    text = f"{{name: x, ranks: {ranks}, inputs: {inputs}, body: {body}{more}}}"
    return summarize(analyze_passes(parse_cascade(text)))


def test_linear_attention_of_a_sequence_to_itself() -> None:
    found = parsed(
        "[H, N, E, F]",
        ["Q[h,e,n]", "K[h,e,n]", "V[h,f,n]"],
        ["KV[h,e,f] = K[h,e,n] * V[h,f,n]", "O[h,f,n] = Q[h,e,n] * KV[h,e,f]"],
    )
    assert str(found.keys) == "1 (N)" == str(found.queries)
    assert str(found.state) == "KV[E,F]: E*F"
    assert found.special == ()
    assert not found.footprint.tensors
    assert found.footprint.words == 1


def test_sigmoid_attention_carries_the_output() -> None:
    found = parsed(
        "[M, P, E, F]",
        ["Q[e,p]", "K[e,m]", "V[f,m]"],
        ["S[m,p] = Q[e,p] * K[e,m]", "A[m,p] = 1 / (1 + exp(-S[m,p]))", "O[f,p] = A[m,p] * V[f,m]"],
    )
    assert str(found.state) == "O[F]: F"
    assert str(found.keys) == "1 (M)"


def test_windows_of_neighbours_are_the_keys() -> None:
    found = parsed(
        "{P: queries, X: places, W: neighbours, E: '', F: ''}",
        ["Q[e,p]", "K[e,x]", "V[f,x]"],
        ["S[w,p] = Q[e,p] * K[e,p+w]", "G[p] = max over w of S[w,p]",
         "N[w,p] = exp(S[w,p] - G[p])", "D[p] = N[w,p]", "A[w,p] = N[w,p] / D[p]",
         "O[f,p] = A[w,p] * V[f,p+w]"],
    )  # fmt: skip
    assert str(found.keys) == "3 (W)"
    assert str(found.queries) == "1 (P)"
    assert found.footprint.words == sympy.Symbol("W", positive=True, integer=True)


def test_steps_of_a_numerical_method_are_no_tiles() -> None:
    found = parsed(
        "{M: keys, P: queries, T: steps, E: '', F: ''}",
        ["Q[e,p]", "K[e,m]", "V[f,m]"],
        ["S[p] = Q[e,p] * K[e,m]", "Z[p,t+1] = Z[p,t] * S[p]"],
        ", initialization: ['Z[p,0] = 1'], final: ['O[f,p] = V[f,m] * Z[p,T]'], "
        "iterate: {rank: T, stop: t >= 4}",
    )  # fmt: skip
    assert "Z" not in state(found)
    assert found.keys.ranks == ("M",)


def test_rows_that_fall_back_are_said_to() -> None:
    found = parsed(
        "[M, P]", ["S[m,p]"],
        ["D[p] = S[m,p]", "F[p] = S[m,p] * D[p] where D[p] > 0", "O[p] = D[p] + F[p]"],
        ", occupancy: {D: 0.25}",
    )  # fmt: skip
    assert str(found.keys) == "1 to 2 (M)"
    assert found.notes["s"].startswith("0.25, expected share")


def test_nothing_depends_on_the_name_of_a_cascade() -> None:
    text = workloads.cascade("attention-1pass")
    assert text.name == "attention-1pass"
    from dataclasses import replace

    renamed = summarize(analyze_passes(replace(text, name="x")))
    assert replace(renamed, name=text.name) == row("attention-1pass")


def test_an_extent_that_contradicts_the_cascade_is_refused() -> None:
    with pytest.raises(InputError, match="not divisible"):
        row("attention-1pass", M=10, M0=4)


def test_forty_rows_take_seconds() -> None:
    names = workloads.list_cascades("attention")
    cascades = [workloads.cascade(name) for name in names]
    start = time.process_time()
    for cascade in cascades:
        summarize(analyze_passes(cascade))
    assert time.process_time() - start < 0.4 * len(names)
