"""Bounds against all sequences of phases, and fronts against all pairs of rows."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mappers.search.bounds import bounds_around, merged
from mappers.search.fronts import beaten, front_of, join, less
from mappers.search.goals import Goal

COLUMNS = ("latency_s", "energy_pj")
PEAKS = ("latency_s", "energy_pj", "buffer_bytes")


def rows(width, most=6, low=0):
    size = st.tuples(st.integers(1, most), st.just(width))
    return size.flatmap(lambda s: arrays(float, s, elements=st.integers(low, 9).map(float)))


def sorted_front(costs):
    return costs[front_of(costs)]


@given(rows(2, 12), rows(2, 12))
def test_beaten_two_columns(costs, others):
    kept = sorted_front(others)
    wanted = [any(np.all(row <= cost) for row in others) for cost in costs]
    assert beaten(costs, kept).tolist() == wanted
    assert beaten(costs, np.repeat(kept, 1, axis=0)).tolist() == wanted


@given(rows(3, 12))
def test_a_front_has_each_row_that_nothing_beats_once(costs):
    kept = costs[front_of(costs)].tolist()
    wanted = {tuple(c) for c in costs if not any(np.all(o <= c) and np.any(o < c) for o in costs)}
    assert len(kept) == len(wanted)
    assert {tuple(c) for c in kept} == wanted


def test_what_differs_by_rounding_is_equal():
    nearly = 1 + 1e-15
    assert front_of(np.array([[1.0, 5.0], [nearly, 2.0], [nearly, 2.0 * nearly]])).tolist() == [1]
    three = np.array([[1.0, 5.0, 0.0], [nearly, 2.0, 0.0], [3.0, 1.0, 0.0]])
    assert front_of(three).tolist() == [1, 2]


@given(rows(2, 8, 5), rows(2, 4), rows(2, 12))
def test_what_all_others_let_a_front_beat(best, others, costs):
    best, others = sorted_front(best), sorted_front(others)
    wanted = [all(beaten((cost + other)[None], best)[0] for other in others) for cost in costs]
    assert beaten(costs, less(best, others)).tolist() == wanted
    alive = Goal(COLUMNS).alive({None: others}, best)(costs, None)
    assert (~alive).tolist() == wanted
    assert not np.any(Goal(COLUMNS).alive({}, best)(costs, None))


@settings(max_examples=30)
@given(st.lists(rows(3, 4), min_size=6, max_size=6))
def test_what_is_around_a_run_is_never_more_than_what_a_sequence_has(found):
    runs = [(0, 1), (1, 2), (2, 3), (0, 2), (1, 3), (0, 3)]
    phases = dict(zip(runs, found, strict=True))
    around = bounds_around(3, phases, PEAKS)
    for sequence in ([(0, 1), (1, 2), (2, 3)], [(0, 2), (2, 3)], [(0, 1), (1, 3)], [(0, 3)]):
        for chosen in product(*(phases[run] for run in sequence)):
            for at, run in enumerate(sequence):
                rest = np.zeros(3)
                for costs in (*chosen[:at], *chosen[at + 1 :]):
                    rest = join(PEAKS, rest[None], costs[None])[0]
                assert any(np.all(row <= rest) for row in around[run])


@given(rows(2, 40))
def test_few_rows_stand_for_many(costs):
    few = merged(costs)
    assert len(few) <= 8
    assert all(any(np.all(row <= cost) for row in few) for cost in costs)


def test_a_run_that_no_sequence_completes_is_not_around():
    around = bounds_around(2, {(0, 1): np.ones((1, 2))}, COLUMNS)
    assert around == {}
