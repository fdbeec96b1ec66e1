"""Traffic, operations and footprints in numbers."""

from __future__ import annotations

import heapq
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workloads
from einsum_cascade import analyze_passes, parse_cascade
from workloads.reference import proofs

EXAMPLE = {"B": 1, "H": 1, "P": 64, "M": 65536, "E": 64, "F": 64}
BUFFER = 16384


def analysis_of(name):
    return analyze_passes(workloads.cascade(name))


def shape_of(analysis, **values):
    tiled = "M0" in analysis.cascade.ranks
    return {**EXAMPLE, **({"M0": 256} if tiled else {}), **values}


@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("attention-3pass", 2.00),
        ("attention-3pass-deferred", 1.50),
        ("attention-1pass", 1.00),
    ],
)
def test_the_published_example(name, ratio):
    """64 queries, 65,536 keys, E = F = 64, a 16 KB buffer of 1-byte words (see `bounds`)."""
    analysis = analysis_of(name)
    shape = shape_of(analysis)
    compulsory = analysis.compulsory_words(shape)
    assert compulsory == 8_396_800
    bound = analysis.traffic_lower_bound_words(shape, BUFFER)
    assert bound / compulsory == pytest.approx(ratio, abs=0.006)
    assert bound <= compulsory * ratio
    assert analysis.traffic_lower_bound_words(shape, 10**12) == compulsory


@given(
    b=st.integers(1, 3),
    p=st.integers(1, 300),
    m=st.integers(1, 5000),
    e=st.integers(1, 100),
    f=st.integers(1, 100),
    buffer=st.integers(1, 10**6),
)
def test_no_bound_beats_a_schedule_that_exists(b, p, m, e, f, buffer):
    """Reading K again, spilling QK, keeping all of either: schedules of the 3-pass cascade."""
    analysis = analysis_of("attention-3pass")
    shape = {"B": b, "H": 1, "P": p, "M": m, "E": e, "F": f}
    compulsory = analysis.compulsory_words(shape)
    bound = analysis.traffic_lower_bound_words(shape, buffer)
    keys, scores = b * m * e, b * m * p
    assert compulsory <= bound <= compulsory + min(2 * keys, 3 * scores)
    if buffer >= min(m * e, m * p):
        assert bound == compulsory


@given(buffers=st.lists(st.integers(1, 10**7), min_size=2, max_size=5))
def test_a_larger_buffer_never_needs_more(buffers):
    analysis = analysis_of("attention-3pass")
    buffers = np.sort(buffers)
    bounds = analysis.traffic_lower_bound_words(EXAMPLE, buffers)
    assert np.all(np.diff(bounds) <= 0)


def least_traffic(keys: int, buffer: int) -> int:
    """Fewest moves of the red-blue pebble game (Hong and Kung, 1981) on `pedagogical-1`.

    Words: A_k, B_k, the partial sums Y_k and Z_k. A partial sum may take its predecessor's place.
    """
    a, b, y, z = (range(i * keys, (i + 1) * keys) for i in range(4))
    inputs = frozenset((*a, *b))
    needs = {}
    for k in range(keys):
        needs[y[k]] = ([y[k - 1]] if k else []) + [a[k], b[k]]
        needs[z[k]] = ([z[k - 1]] if k else []) + [y[keys - 1], a[k]]
    start = (frozenset(), inputs)
    cost = {start: 0}
    queue = [(0, 0, start)]
    tie = itertools.count()
    while queue:
        moved, _, state = heapq.heappop(queue)
        if moved > cost[state]:
            continue
        red, blue = state
        if z[keys - 1] in blue:
            return moved
        steps = [(moved + 1, (red, blue | {w})) for w in red - blue if w not in inputs]
        steps += [(moved, (red - {w}, blue)) for w in red]
        if len(red) < buffer:
            steps += [(moved + 1, (red | {w}, blue)) for w in blue - red]
        for word, sources in needs.items():
            if word not in red and all(s in red for s in sources):
                previous = sources[0] if len(sources) == 3 or word in z else None
                if len(red) < buffer:
                    steps.append((moved, (red | {word}, blue)))
                if previous is not None and previous // keys == word // keys:
                    steps.append((moved, (red - {previous} | {word}, blue)))
        for total, after in steps:
            if total < cost.get(after, total + 1):
                cost[after] = total
                heapq.heappush(queue, (total, next(tie), after))
    raise AssertionError("no way to compute it")


@pytest.mark.parametrize(("keys", "buffer"), [(2, 3), (3, 3), (3, 4), (4, 3), (5, 3), (5, 4)])
def test_the_bound_holds_in_the_pebble_game(keys, buffer):
    analysis = analysis_of("pedagogical-1")
    bound = analysis.traffic_lower_bound_words({"K": keys}, buffer)
    assert 2 * keys + 1 <= bound <= least_traffic(keys, buffer)


def test_the_bound_counts_what_cannot_stay():
    analysis = analysis_of("pedagogical-1")
    assert analysis.traffic_lower_bound_words({"K": 1000}, 100) == 2001 + 900


def test_shared_keys_are_read_again_once_for_all_heads():
    """Multi-query attention: K and V lack H, so its columns serve every head."""
    cascade = parse_cascade(
        """
name: mqa
ranks: [H, M, P, E, F]
inputs: ["Q[h,e,p]", "K[e,m]", "V[f,m]"]
outputs: [AV]
body:
  - QK[h,m,p] = Q[h,e,p] * K[e,m]
  - GM[h,p] = max over m of QK[h,m,p]
  - SN[h,m,p] = exp(QK[h,m,p] - GM[h,p])
  - SD[h,p] = SN[h,m,p]
  - SNV[h,f,p] = SN[h,m,p] * V[f,m]
  - AV[h,f,p] = SNV[h,f,p] / SD[h,p]
"""
    )
    analysis = analyze_passes(cascade)
    shape = {"H": 8, "M": 4096, "P": 64, "E": 64, "F": 64}
    extra = analysis.traffic_lower_bound_words(shape, 1000) - analysis.compulsory_words(shape)
    assert extra == 4096 * 64 - 1000


def test_a_window_adds_nothing():
    """With a filter, a fiber need not be whole before the next pass begins."""
    cascade = parse_cascade(
        """
name: window
ranks: [M, P]
parameters: [W]
inputs: ["S[m,p]"]
body:
  - G[p] = max over m of S[m,p] where m <= p, p - m < W
  - N[m,p] = exp(S[m,p] - G[p]) where m <= p, p - m < W
"""
    )
    analysis = analyze_passes(cascade)
    shape = {"M": 4096, "P": 4096, "W": 8}
    assert analysis.traffic_lower_bound_words(shape, 1) == analysis.compulsory_words(shape)


def test_one_path_for_one_point_and_for_many():
    analysis = analysis_of("attention-1pass")
    lengths = np.array([1024, 65536, 2**20])
    many = {**EXAMPLE, "M0": 256, "M": lengths, "P": lengths}
    for at, length in enumerate(lengths):
        one = {name: int(np.broadcast_to(v, 3)[at]) for name, v in many.items()}
        assert analysis.compulsory_words(many)[at] == analysis.compulsory_words(one)
        counts = analysis.operation_counts(one)
        for kind, values in analysis.operation_counts(many).items():
            assert values[at] == counts[kind], (kind, length)
        found = analysis.traffic_lower_bound_words(many, 1000)[at]
        assert found == analysis.traffic_lower_bound_words(one, 1000)


@pytest.mark.parametrize("name", workloads.list_cascades())
def test_closed_forms_equal_numbers(name):
    analysis = analysis_of(name)
    proof = proofs().get(name)
    if proof is not None:
        shape = proof.shape(np.random.default_rng(5))
    else:
        sizes = {"M": 24, "M0": 6, "M1": 4}
        ranks = analysis.cascade.ranks
        shape = {r: sizes.get(r, 3 + i) for i, r in enumerate(ranks) if r != "M1"}
    values = analysis.cascade.resolve_shape(shape)

    def number(form):
        if isinstance(form, int):
            return form
        return float(form.subs({symbol: values[str(symbol)] for symbol in form.free_symbols}))

    words = analysis.compulsory_words(shape)
    assert number(analysis.compulsory_words()) == pytest.approx(words)
    counts = analysis.operation_counts(shape)
    for kind, form in analysis.operation_counts().items():
        assert number(form) == pytest.approx(counts[kind]), kind
    for tensor in analysis.cascade.tensors:
        words = analysis.footprint_words(tensor, shape)
        assert number(analysis.footprint(tensor)) == words


def test_operations_of_the_3_pass_attention():
    analysis = analysis_of("attention-3pass")
    points = 64 * 65536
    assert analysis.operation_counts(EXAMPLE) == {
        "mac": points * 128,
        "max": points,
        "add": 2 * points,
        "exp": points,
        "div": points,
    }


def test_division_deferral_divides_f_times_p():
    """FuseMax, section IV: F*P divisions in place of M*P."""
    forms = analysis_of("attention-3pass-deferred").operation_counts()
    assert str(forms["div"]) == "B*F*H*P"
    assert str(analysis_of("attention-3pass").operation_counts()["div"]) == "B*H*M*P"


def test_sizes_beyond_int64_are_exact():
    analysis = analysis_of("attention-3pass")
    shape = {**EXAMPLE, "B": 10**12, "M": 10**12}
    assert analysis.operation_counts_of("QK", shape)["mac"] == 10**24 * 64 * 64
    many = {**shape, "B": np.array([10**12, 1])}
    assert analysis.operation_counts_of("QK", many)["mac"][0] == pytest.approx(1e24 * 4096)


def test_an_input_of_which_one_coordinate_is_read():
    cascade = parse_cascade("{name: x, ranks: [K, P], inputs: ['A[k,p]'], body: ['Z[p] = A[0,p]']}")
    assert analyze_passes(cascade).compulsory_words({"K": 100, "P": 7}) == 14


def test_many_points_are_fast():
    """About a millisecond for 50 design points; a hundred times that is a mistake."""
    import time

    analysis = analysis_of("attention-1pass")
    shape = {k: np.full(50, v) for k, v in {**EXAMPLE, "M0": 256}.items()}
    analysis.traffic_lower_bound_words(shape, 1e4)
    begin = time.perf_counter()
    analysis.traffic_lower_bound_words(shape, 1e4)
    analysis.operation_counts(shape)
    assert time.perf_counter() - begin < 0.1


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 40))
def test_report_never_fails(m, p):
    analysis = analysis_of("attention-3pass")
    text = analysis.report(shape={**EXAMPLE, "M": m, "P": p})
    assert "pass 3: A, AV" in text
    assert "forced by SD: complete only after pass 2, needed by A" in text
