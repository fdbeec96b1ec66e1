"""One design point of many, by itself: it costs what it costs in its company."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping as MappingABC
from dataclasses import fields

import numpy as np
import pytest

import mappers
import workloads
from archs import load_architecture
from sim import MappingChoice, MappingParts, evaluate
from sim.single import single_point

KINDS = {
    "interleaved": ("attention-1pass", "fusemax-cloud", "fusemax", {}),
    "serial": ("attention-1pass", "fusemax-cloud", "fusemax", {"schedule": "serial"}),
    "cascade": ("attention-1pass", "flat-cloud", "fusemax", {}),
    "flat": ("attention-3pass", "flat-cloud", "flat", {}),
    "unfused": ("attention-3pass", "flat-cloud", "unfused", {}),
    "unfused-serialized": ("attention-3pass", "flat-cloud", "unfused", {"folds": "serialized"}),
    "fused": ("attention-1pass", "fusemax-cloud", "fused", {}),
    "fused-3pass": ("attention-3pass", "fusemax-cloud", "fused", {}),
}
# points that differ in everything, so that mappers choose different phases and tiles for them; the
# last has a buffer in which next to nothing fits
LENGTHS = np.array([1.0, 7, 300, 1024, 4096, 65536, 1048576, 4096])
QUERIES = np.array([64.0, 7, 300, 1, 4096, 65536, 1048576, 512])
EMBEDDINGS = np.array([64.0, 16, 33, 64, 128, 64, 64, 64])
SWEPT = {
    "array_dim": np.array([256.0, 4, 32, 64, 256, 256, 128, 16]),
    "memories.buffer.size_bytes": np.array([2.0**24, 2**12, 2**20, 2**14, 2**24, 2**22, 2**25, 64]),
    "memories.DRAM.bandwidth_bytes_per_s": 4e11 / np.array([1.0, 7, 300, 1, 13, 1, 1, 1]),
}


def placed(kind, architecture, shape):
    cascade, _, mapper, options = KINDS[kind]
    return mappers.place(
        mapper,
        mappers.check_options(mapper, options),
        cascade=workloads.cascade(cascade),
        architecture=architecture,
        shape=shape,
    )


def batched(kind):
    """All points in one mapping."""
    shape = {"B": 2.0, "H": 3.0, "E": EMBEDDINGS, "F": EMBEDDINGS, "M": LENGTHS, "P": QUERIES}
    return placed(kind, load_architecture(KINDS[kind][1]).resolve(SWEPT), shape)


def row(value, index):
    """One row of a field of an evaluation: what it holds, by name."""
    parts = value if isinstance(value, MappingABC) else {"": value}
    return {key: np.ravel(part).tolist()[index] for key, part in parts.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_point_costs_what_its_row_says(kind):
    mapping = batched(kind)
    whole = evaluate(mapping)
    assert np.shape(whole.latency_s) == LENGTHS.shape
    seen = Counter()
    for index in range(len(LENGTHS)):
        own = evaluate(single_point(mapping, index))
        seen[whole.infeasible[index] is None] += 1
        for each in fields(own):
            found, wanted = row(getattr(own, each.name), 0), row(getattr(whole, each.name), index)
            assert found.keys() <= wanted.keys(), each.name
            for key, value in wanted.items():  # what only other points have is nothing here
                mine = found.get(key, 0.0)
                both_nan = value != value and (mine != mine or key not in found)
                assert both_nan or mine == value, (each.name, key, mine, value)
    assert seen[True] >= 4  # else nothing but NaN was compared


@pytest.mark.parametrize("kind", KINDS)
def test_a_point_is_made_of_plain_numbers(kind):
    """One phase wherever there was a choice, and no number with more than one value."""
    mapping = batched(kind)
    for index in range(len(LENGTHS)):
        one = single_point(mapping, index)
        assert one.shape["M"] >= LENGTHS[index]  # padded to whole tiles
        assert one.shape["P"] == QUERIES[index]
        assert one.architecture.memory("buffer").size_bytes == SWEPT["memories.buffer.size_bytes"][index]  # fmt: skip
        assert tuple(one.architecture.array("1d").shape) == (SWEPT["array_dim"][index],)
        for choice in one.phases:
            (phase,) = choice.options
            assert np.ndim(phase.stall_cycles) == 0
            assert all(isinstance(bool(when), bool) for when in phase.spilled.values())
            for options in phase.residency.values():
                assert [option.when for option in options] == [True]
            for nest in phase.einsums:
                assert all(np.ndim(loop.extent) == 0 for loop in nest.loops)


def test_a_single_point_is_its_own_single_point():
    for kind in KINDS:
        one = single_point(batched(kind), 3)
        again = single_point(one)
        assert again.phases == one.phases
        assert {k: float(v) for k, v in again.shape.items()} == {
            k: float(v) for k, v in one.shape.items()
        }


def test_every_point_of_a_grid_is_where_numpy_counts_it():
    """Extents along one axis, an architecture along another: flat indices go over both."""
    lengths, sides = np.array([[64.0], [4096], [100]]), np.array([16.0, 64])
    shape = {"B": 1.0, "H": 2.0, "E": 64.0, "F": 64.0, "M": lengths, "P": lengths}
    architecture = load_architecture("fusemax-cloud").resolve({"array_dim": sides})
    mapping = placed("interleaved", architecture, shape)
    whole = evaluate(mapping).latency_s
    assert whole.shape == (3, 2)
    found = [evaluate(single_point(mapping, i)).latency_s[0] for i in range(6)]
    assert found == whole.ravel().tolist()
    assert len(set(found)) == 6


def test_sums_have_the_same_last_digit_whatever_stands_beside_a_point():
    """Structures that bind the same Einsums to other arrays, in both orders."""
    architecture = load_architecture("fusemax-cloud").resolve({})
    ends = {"B": 1.0, "H": 2.0, "E": 64.0, "F": 64.0, "M": 512.0, "P": 512.0}
    shape = {rank: np.array([extent]) for rank, extent in ends.items()}
    both = [single_point(placed(kind, architecture, shape)) for kind in ("interleaved", "fused")]
    for order in ((0, 1), (1, 0)):
        parts = tuple((np.array([at]), both[at]) for at in order)
        found = evaluate(MappingParts(parts, 2)).util
        for at, mapping in enumerate(both):
            assert {array: found[array][at] for array in found} == {
                array: share[0] for array, share in evaluate(mapping).util.items()
            }


def test_structures_that_take_turns():
    """Structures that only an index tells apart, which has as many entries as there are points."""
    architecture = load_architecture("fusemax-cloud").resolve()
    shape = {"B": 1.0, "H": 2.0, "E": 64.0, "F": 64.0, "M": 512.0, "P": 512.0}
    options = tuple(single_point(placed(k, architecture, shape)) for k in ("interleaved", "serial"))
    choice = MappingChoice(options, np.array([1, 0, 1]))
    whole = evaluate(choice).latency_s
    assert whole[0] == whole[2] != whole[1]
    assert [evaluate(single_point(choice, i)).latency_s[0] for i in range(3)] == whole.tolist()
    parts = MappingParts(((np.array([2]), options[0]), (np.array([3, 0, 1]), choice)), 4)
    whole = evaluate(parts).latency_s
    assert [evaluate(single_point(parts, i)).latency_s[0] for i in range(4)] == whole.tolist()
    assert whole[2] == whole[0] != whole[3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", [-1, len(LENGTHS)])
def test_a_point_that_there_is_not(kind, index):
    with pytest.raises(IndexError, match=f"no design point {index} among {len(LENGTHS)}"):
        single_point(batched(kind), index)
