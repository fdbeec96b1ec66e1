"""Attention whose rows of queries wrap around the keys, against the published loop nest, run here."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import mappers
import workloads
from archs import load_architecture
from sim import evaluate
from sim.accesses import stagger_iterations

LANES = 8
FILE = load_architecture("edge-moe-zcu102")
CASCADE = workloads.cascade("edge-moe-attention")


def published(n, p):
    """Edge-MoE's loop (src/attention.cpp): rows of queries that wait in p places, keys that pass.

    Returns the (query, key) pairs that are multiplied, the rows of queries that are loaded, the
    steps, and the most rows of queries loaded at one time.
    """
    pairs, loaded, at_once = Counter(), Counter(), 0
    waiting = [None] * p
    blocks, rest = divmod(n + p - 1, p)
    steps = 0
    for block in range(blocks + (1 if rest else 0)):
        for key in range(n if block < blocks else rest):
            now = 0
            if key < p:  # the row in this place has met all keys: the next one takes it
                row = block * p + key
                waiting[key] = row if row < n else None
                loaded[row] += row < n
                now += row < n
            at_once = max(at_once, now)
            for row in waiting:
                if row is not None:
                    pairs[row, key] += 1
            steps += 1
    return pairs, +loaded, steps, at_once


@pytest.mark.parametrize(("p", "steps"), [(1, 16641), (2, 8385), (4, 4257), (8, 2193), (16, 1161)])
def test_the_published_loop_covers_every_pair_once(p, steps):
    n = 129
    pairs, loaded, taken, at_once = published(n, p)
    assert len(pairs) == n * n
    assert set(pairs.values()) == {1}
    assert loaded == Counter(range(n))
    assert taken == steps
    assert at_once == 1


def attention(n, p, *, heads=3, embedding=64, batch=1, reordering=True, keys=None):
    """Edge-MoE's two kernels; numbers may be arrays."""
    architecture = FILE.resolve({"p": p, "tokens": 8 * 129})
    shape = {"B": batch, "H": heads, "E": embedding, "F": embedding, "P": n, "M": keys or n}
    options = mappers.check_options("edge_moe", {"reordering": reordering})
    found = evaluate(
        mappers.place("edge_moe", options, cascade=CASCADE, architecture=architecture, shape=shape)
    )
    assert all(reason is None for reason in found.infeasible)
    return found, architecture


def rows_of(found, tensor, heads=3, embedding=64):
    return found.traffic_by_tensor_bytes[tensor] / 4 / (heads * embedding)


def cycles_of(found, architecture, unit):
    return found.busy_s[unit] * architecture.clock_hz


@given(st.integers(1, 24), st.integers(1, 9), st.integers(1, 24))
@example(129, 4, 129)
def test_the_loops_of_the_mapping_cover_every_pair_once(queries, p, keys):
    """PE i is i iterations of the loop of its stagger behind: walked as the mapping has them."""
    options = mappers.check_options("edge_moe", {})
    shape = {"B": 1, "H": 3, "E": 8, "F": 8, "P": queries, "M": keys}
    mapping = mappers.place(
        "edge_moe",
        options,
        cascade=CASCADE,
        architecture=FILE.resolve({"p": p}),
        shape=shape,
    )
    for nest in (m for c in mapping.phases for m in c.options[0].einsums if m.stagger is not None):
        rows, going = (lp for lp in nest.loops if lp.name in ("P1", nest.stagger))
        places = next(lp for lp in nest.loops if lp.spatial)
        whole = int(rows.extent * going.extent)
        pairs: Counter = Counter()
        last = 0
        for place in range(int(places.extent)):
            for at in range(whole):  # its own iterations, begun `place` later
                row = at // int(going.extent) * int(places.extent) + place
                if row < queries:
                    step = at + place
                    pairs[row, step % int(going.extent)] += 1
                    last = max(last, step + 1)
        assert pairs == Counter({(q, k): 1 for q in range(queries) for k in range(keys)})
        behind = float(stagger_iterations(nest, mapping.shape))
        assert max(last, whole) == whole + behind


def test_the_model_takes_as_many_steps_and_rows():
    """Of N = 129 rows of 192 features, 24 beats a step, over p in one go."""
    p = np.array([1.0, 2, 4, 8, 16])
    found, architecture = attention(129, p)
    steps = np.array([published(129, int(each))[2] for each in p])
    for unit in ("scores", "values"):
        assert cycles_of(found, architecture, unit) == pytest.approx(steps * 24)
    for tensor in "KV":
        assert rows_of(found, tensor) == pytest.approx(steps)
    for tensor in ("Q", "AV"):
        assert rows_of(found, tensor) == pytest.approx(129)
    hz = architecture.clock_hz
    port = max(found.latency_terms_s[t][2] for t in found.latency_terms_s if "DRAM." in t) * hz
    assert port == pytest.approx(4257 * 24 * 2)  # 128 bits of the 256 of a beat each cycle


def test_loads_and_steps_of_the_papers_table():
    """Table I: N^2/p + N + p - 1 rows in N^2/p + p - 1 steps, or N^2 + N rows in N^2/p steps."""
    n, p = 128, np.array([1.0, 2, 4, 8, 16])
    found, architecture = attention(n, p)
    loads = rows_of(found, "K") + rows_of(found, "Q")
    assert loads == pytest.approx(n * n / p + n + p - 1)
    assert cycles_of(found, architecture, "scores") == pytest.approx((n * n / p + p - 1) * 24)
    found, architecture = attention(n, p, reordering=False)
    loads = rows_of(found, "K") + rows_of(found, "Q")
    assert loads == pytest.approx(np.full(5, n * n + n))
    assert cycles_of(found, architecture, "scores") == pytest.approx(n * n / p * 24)


NUMBERS = st.integers(1, 40)


@given(NUMBERS, st.integers(1, 20))
def test_steps_of_the_published_loop(n, p):
    pairs, loaded, steps, _ = published(n, p)
    assert steps == (n + p - 1) // p * n + (n + p - 1) % p
    if p <= n:  # with fewer keys than places the loop has no key with which the last rows come
        assert len(pairs) == n * n
        assert set(pairs.values()) == {1}
        assert loaded == Counter(range(n))


@given(NUMBERS, st.integers(1, 20), st.integers(1, 3), st.integers(1, 5), st.integers(1, 20))
@settings(max_examples=40)
def test_the_model_and_the_loop_agree(n, p, batch, heads, embedding):
    """Every sequence of a batch has keys of its own, so its last rows end before the next begins."""
    found, architecture = attention(n, float(p), batch=batch, heads=heads, embedding=embedding)
    steps = batch * published(n, p)[2]
    beats = heads * -(-embedding // LANES)
    for unit, tensor in (("scores", "K"), ("values", "V")):
        assert cycles_of(found, architecture, unit)[0] == pytest.approx(steps * beats)
        assert rows_of(found, tensor, heads, embedding)[0] == pytest.approx(steps)
    for tensor in ("Q", "AV"):
        assert rows_of(found, tensor, heads, embedding)[0] == pytest.approx(batch * n)


@example(5, 2, 4)  # the last place is not through its first row when the last row ends
@given(NUMBERS, st.integers(2, 40), st.integers(1, 20))
@settings(max_examples=30)
def test_other_numbers_of_keys_than_of_queries(queries, keys, p):
    """Places one behind the other, each with all keys for every row that it gets."""
    met, steps = Counter(), 0
    for place in range(p):
        at = place
        for row in range(place, queries, p):
            met.update((row, (at + i) % keys) for i in range(keys))
            at += keys
        steps = max(steps, at if place < queries else 0)
    assert set(met.values()) == {1}
    assert len(met) == queries * keys
    found, architecture = attention(queries, float(p), keys=keys)
    assert cycles_of(found, architecture, "scores")[0] == pytest.approx(steps * 24)
    assert rows_of(found, "K")[0] == pytest.approx(steps)


@given(NUMBERS, st.integers(1, 20))
@settings(max_examples=20)
def test_without_reordering_keys_come_for_every_query(n, p):
    """All keys that there are, side by side, stay for the next query."""
    found, architecture = attention(n, float(p), reordering=False)
    assert cycles_of(found, architecture, "scores")[0] == pytest.approx(n * -(-n // p) * 24)
    assert rows_of(found, "K")[0] == pytest.approx(n if n <= p else n * n)
    assert rows_of(found, "Q")[0] == pytest.approx(n)
