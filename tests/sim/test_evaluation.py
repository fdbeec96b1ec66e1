"""Evaluations: arrays against points, terms that add up, bounds, combinations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mappers
import workloads
from archs import load_architecture
from sim import combine, evaluate, select

CASES = [
    ("attention-1pass", "fusemax-cloud", "fusemax", {}),
    ("attention-1pass", "fusemax-cloud", "fusemax", {"schedule": "serial"}),
    ("attention-1pass", "flat-cloud", "fusemax", {}),
    ("attention-3pass", "flat-cloud", "unfused", {}),
    ("attention-3pass", "flat-edge", "flat", {}),
    ("attention-3pass-deferred", "flat-cloud", "flat", {}),
    ("attention-3pass-deferred", "flat-edge", "unfused", {}),
]


def placed(case, shape, **overrides):
    cascade, arch, mapper, options = case
    mapping = mappers.place(
        mapper,
        mappers.check_options(mapper, options),
        cascade=workloads.cascade(cascade),
        architecture=load_architecture(arch).resolve(overrides),
        shape=shape,
    )
    return evaluate(mapping)


sizes = st.sampled_from([1, 2, 3, 4, 8, 12])
lengths = st.sampled_from([16, 100, 256, 384, 1000, 1024, 4096, 65536])
heads = st.sampled_from([16, 64, 80, 128])
points = st.fixed_dictionaries(
    {"B": sizes, "H": sizes, "E": heads, "F": heads, "M": lengths, "P": lengths}
)


@pytest.mark.parametrize("case", CASES, ids=str)
@given(data=st.lists(points, min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_many_points_are_each_alone_and_stay_above_the_bound(case, data):
    shape = {k: np.array([p[k] for p in data]) for k in data[0]}
    many = placed(case, shape)
    for i, point in enumerate(data):
        alone = placed(case, point)
        for name in ("latency_s", "traffic_bytes", "energy_pj", "area_um2", "lower_bound_bytes"):
            assert getattr(many, name)[i] == pytest.approx(
                getattr(alone, name)[0], rel=1e-9, nan_ok=True
            )
        assert many.infeasible[i] == alone.infeasible[0]
        assert many.infeasible[i] is None or "less than" not in many.infeasible[i]
    fine = many.infeasible == None  # noqa: E711
    assert (many.traffic_bytes[fine] >= many.lower_bound_bytes[fine] * (1 - 1e-9)).all()
    assert np.allclose(
        sum(many.latency_terms_s.values()), many.latency_s, rtol=1e-9, equal_nan=True
    )
    assert np.allclose(
        sum(many.energy_terms_pj.values()), many.energy_pj, rtol=1e-9, equal_nan=True
    )
    for array, used in many.util.items():
        assert ((used[fine] >= 0) & (used[fine] <= 1 + 1e-9)).all(), array
    longest = np.max(list(many.busy_s.values()), axis=0)
    assert (many.latency_s[fine] >= longest[fine] * (1 - 1e-9)).all()


SHAPE = {"B": 2, "H": 4, "E": 64, "F": 64, "M": 4096, "P": 4096}


def test_a_larger_buffer_never_moves_more():
    sizes = np.array([2.0**k for k in range(18, 27)])
    found = placed(CASES[0], SHAPE, **{"memories.buffer.size_bytes": sizes})
    assert (np.diff(found.traffic_bytes) <= 0).all()
    assert found.traffic_bytes[0] > found.traffic_bytes[-1]


def test_time_and_energy_follow_their_parameters():
    slow = placed(CASES[0], SHAPE)
    fast = placed(CASES[0], SHAPE, clock_hz=1.88e9)
    assert fast.busy_s["2d"] == pytest.approx(slow.busy_s["2d"] / 2)
    assert fast.busy_s["DRAM"] == pytest.approx(slow.busy_s["DRAM"])
    dear = placed(CASES[0], SHAPE, **{"arrays.2d.operations.mac.energy_pj": 2 * 17.1645})
    # QK and SLNV have a MAC a point, each exp of SLN six
    macs = 2 * 4 * 4096**2 * (64 + 64 + 6)
    assert dear.energy_pj - slow.energy_pj == pytest.approx(17.1645 * macs)


def test_accountings_differ_in_the_registers_only():
    cascade = workloads.cascade("attention-1pass")
    architecture = load_architecture("fusemax-cloud").resolve()
    mapping = mappers.place(
        "fusemax", mappers.check_options("fusemax", {}),
        cascade=cascade, architecture=architecture, shape=SHAPE,
    )  # fmt: skip
    full, artifact = evaluate(mapping, "full"), evaluate(mapping, "artifact")
    for term, value in full.energy_terms_pj.items():
        if term == "registers":
            assert (value > artifact.energy_terms_pj[term] * 200).all()
        else:
            assert value == pytest.approx(artifact.energy_terms_pj[term])


def test_combine_adds_and_select_picks():
    first, second = placed(CASES[0], SHAPE), placed(CASES[3], SHAPE)
    both = combine([first, second], [2, 1])
    assert both.latency_s == pytest.approx(2 * first.latency_s + second.latency_s)
    assert both.energy_terms_pj["DRAM"] == pytest.approx(
        2 * first.energy_terms_pj["DRAM"] + second.energy_terms_pj["DRAM"]
    )
    twice = combine([first, first])
    assert twice.util["2d"] == pytest.approx(first.util["2d"])
    assert select([first, second], 1).latency_s == pytest.approx(second.latency_s)
    assert select([first, second], np.array([0])).traffic_bytes == pytest.approx(
        first.traffic_bytes
    )


def test_one_infeasible_part_makes_the_whole_infeasible():
    good = placed(CASES[0], SHAPE)
    bad = placed(CASES[0], SHAPE, **{"memories.buffer.size_bytes": 1024.0})
    both = combine([good, bad])
    assert np.isnan(both.latency_s).all()
    assert "bytes are missing" in both.infeasible[0]


@pytest.mark.parametrize(
    "case", [*CASES, ("attention-products", "flat-cloud", "flat", {"spill": "all"})], ids=str
)
@given(
    point=points,
    rows=st.sampled_from([1, 8, 64, 100]),
    columns=st.sampled_from([1, 16, 64, 256]),
    lanes=st.sampled_from([1, 16, 300]),
    buffer=st.sampled_from([2.0**10, 2.0**16, 2.0**22]),
    word=st.sampled_from([1, 2, 4]),
)
@settings(max_examples=20, deadline=None)
def test_on_odd_machines_a_mapping_fits_or_says_what_is_missing(
    case, point, rows, columns, lanes, buffer, word
):
    """Arrays that are not square, little buffers: never too many PEs, never below the bound."""
    found = placed(case, point, **{
        "arrays.2d.shape.0": rows, "arrays.2d.shape.1": columns, "arrays.1d.shape.0": lanes,
        "memories.buffer.size_bytes": buffer, "word_bytes": word,
    })  # fmt: skip
    reason = found.infeasible[0]
    if reason is not None:
        assert "bytes are missing" in reason
        return
    assert found.traffic_bytes[0] >= found.lower_bound_bytes[0] * (1 - 1e-9)
    assert all(0 <= used[0] <= 1 + 1e-9 for used in found.util.values())
