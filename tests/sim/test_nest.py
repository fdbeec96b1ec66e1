"""Reuse analysis against a walk through the loop nest, iteration by iteration."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.mapping import Loop
from sim.nest import product, visits

RANKS = ("M", "P", "E")


@st.composite
def nests(draw):
    """Up to five loops over three ranks, a set of ranks that a tensor has, a tile's position."""
    count = draw(st.integers(1, 5))
    loops = [
        Loop(f"l{i}", draw(st.sampled_from(RANKS)), float(draw(st.integers(1, 4))))
        for i in range(count)
    ]
    ranks = draw(st.frozensets(st.sampled_from(RANKS)))
    return loops, ranks, draw(st.integers(0, count))


def walk(loops, ranks, position):
    """Fetches and distinct tiles, by going through the outer loops in order and comparing."""
    outer = loops[:position]
    coordinates = itertools.product(*(range(int(loop.extent)) for loop in outer))
    fetched, seen, last = 0, set(), None
    for point in coordinates:
        tile = tuple(c for c, loop in zip(point, outer, strict=True) if loop.rank in ranks)
        if tile != last:
            fetched += 1
        seen.add(tile)
        last = tile
    return fetched, len(seen)


@given(nests())
@settings(max_examples=300, deadline=None)
def test_fetches_are_those_of_a_walk(case):
    loops, ranks, position = case
    found = visits(loops, ranks, position)
    fetched, distinct = walk(loops, ranks, position)
    assert (found.count, found.distinct) == (fetched, distinct)
    assert bool(np.all(found.accumulates)) == (fetched > distinct)
    inside = [int(loop.extent) for loop in loops[position:] if loop.rank in ranks]
    assert found.words == np.prod(inside, initial=1)


@given(nests())
@settings(max_examples=100, deadline=None)
def test_a_streamed_tile_is_fetched_for_every_iteration(case):
    loops, ranks, position = case
    assert visits(loops, ranks, position, retain=False).count == product(loops[:position])


@given(nests(), st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_arrays_of_extents_are_their_entries(case, more):
    loops, ranks, position = case
    many = [Loop(x.name, x.rank, np.array([x.extent, x.extent + more, 1.0])) for x in loops]
    found = visits(many, ranks, position)
    for i in range(3):
        single = [Loop(x.name, x.rank, float(x.extent[i])) for x in many]
        assert np.broadcast_to(found.count, 3)[i] == visits(single, ranks, position).count
