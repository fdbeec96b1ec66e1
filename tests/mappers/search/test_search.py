"""What a search finds on known problems: legal fusion, published mappings, and honest reports."""

from __future__ import annotations

import re

import numpy as np
import pytest

import mappers
import workloads
from archs import load_architecture
from einsum_cascade import analyze_passes, execute
from mappers.search import Options, bindings, engine, front, optimum, price
from mappers.search.recompute import rewrite, rewrites
from sim import evaluate

SMALL = {
    "extends": "flat-edge",
    "word_bytes": "1 B",
    "memories": {"buffer": {"size_bytes": "16 KiB"}},
}
ILLEGAL = {"B": 1, "H": 1, "E": 64, "F": 64, "P": 64, "M": 65536}
COMPULSORY = 8_396_800


@pytest.mark.parametrize(
    ("name", "least"),
    [("attention-3pass", 1.99), ("attention-3pass-deferred", 1.495), ("attention-1pass", 1.0)],
)
def test_passes_are_never_fused(name, least):
    """One row of QK is four times the buffer: what further passes need is moved or made again."""
    on = load_architecture(SMALL).resolve()
    cascade = workloads.cascade(name)
    found = optimum(Options(objective="traffic_bytes", tiles="perfect"), cascade, on, ILLEGAL)
    real = evaluate(found.mappings[0])
    assert real.infeasible[0] is None
    assert found.report.complete
    ratio = real.traffic_bytes[0] / COMPULSORY
    assert ratio >= least
    assert ratio <= round(least, 1) * 1.001  # and it comes as near as that
    assert real.traffic_bytes[0] >= found.report.bound_bytes


def test_no_worse_than_fusemax_in_latency_and_energy():
    on = load_architecture("fusemax-cloud").resolve({})
    cascade = workloads.cascade("attention-1pass")
    lengths = np.array([1024, 65536])
    shape = {"B": 64, "H": 12, "E": 64, "F": 64, "P": lengths, "M": lengths}
    shape = {k: np.broadcast_to(v, lengths.shape) for k, v in shape.items()}

    def costs(mapper):
        options = mappers.check_options(mapper, {})
        return evaluate(
            mappers.place(mapper, options, cascade=cascade, architecture=on, shape=shape)
        )

    own, theirs = costs("search"), costs("fusemax")
    assert np.all(own.latency_s <= theirs.latency_s)
    assert np.all(own.energy_pj <= theirs.energy_pj)


@pytest.mark.parametrize(("name", "length"), [("flat-cloud", 512), ("flat-edge", 4096)])
def test_no_worse_than_flat_as_published(name, length):
    on = load_architecture(name).resolve({})
    cascade = workloads.cascade("attention-3pass")
    model = {"B": 64, "H": 12, "E": 64, "F": 64, "P": length, "M": length}
    shape = {k: np.array([v]) for k, v in model.items()}

    def costs(mapper, **given):
        options = mappers.check_options(mapper, given)
        return evaluate(
            mappers.place(mapper, options, cascade=cascade, architecture=on, shape=shape)
        )

    own = costs("search", recompute=False, fusion="whole")
    theirs = costs("flat", mapping="published")
    assert own.latency_s[0] <= theirs.latency_s[0] * (1 + 1e-9)
    assert own.energy_pj[0] <= theirs.energy_pj[0] * (1 + 1e-9)


def test_says_when_another_mapper_is_better():
    """A tile of 64 rows, a little of which spills, is what the space lacks."""
    on = load_architecture("flat-edge").resolve({})
    cascade = workloads.cascade("attention-3pass")
    shape = {"B": 64, "H": 12, "E": 64, "F": 64, "P": 4096, "M": 4096}
    given = {"recompute": False, "fusion": "whole"}
    found = optimum(Options(**given), cascade, on, shape)
    alone = optimum(Options(**given, compare=False), cascade, on, shape)
    assert found.report.mapper == "flat"
    assert "mapping of flat" in found.mappings[0].notes
    assert alone.report.mapper == ""
    assert np.prod(found.costs[0]) < np.prod(alone.costs[0])


MEDIUM = {"B": 2, "H": 3, "E": 64, "F": 64, "P": 512, "M": 512}


def test_every_mapping_of_a_front_costs_what_the_search_says():
    on = load_architecture("fusemax-cloud").resolve({})
    found = front(Options(), workloads.cascade("attention-1pass"), on, MEDIUM)
    assert len(found.mappings) == len(found.costs) > 1
    for mapping, costs in zip(found.mappings, found.costs, strict=True):
        real = evaluate(mapping)
        assert real.infeasible[0] is None
        np.testing.assert_allclose([real.latency_s[0], real.energy_pj[0]], costs, rtol=1e-9)
    assert np.all(np.diff(found.costs[:, 0]) > 0)
    assert np.all(np.diff(found.costs[:, 1]) < 0)


def test_a_report_adds_up():
    on = load_architecture("fusemax-cloud").resolve({})
    report = optimum(Options(), workloads.cascade("attention-1pass"), on, MEDIUM).report
    assert report.complete
    assert report.valid <= report.costed
    # a first choice of each set of tiles is costed, and then perhaps again among all of its choices
    assert report.covered <= report.costed + sum(report.pruned.values())
    assert report.gap >= 0


def test_a_budget_is_kept_and_said():
    on = load_architecture("fusemax-cloud").resolve({})
    cascade = workloads.cascade("attention-1pass")
    few = optimum(Options(budget=1), cascade, on, MEDIUM)
    every = optimum(Options(), cascade, on, MEDIUM)
    assert not few.report.complete
    assert "best so far" in few.mappings[0].notes
    assert np.prod(few.costs[0]) >= np.prod(every.costs[0])


@pytest.mark.parametrize("budget", [1, 1000])
def test_with_a_budget_it_is_no_worse_than_what_is_quick(budget):
    on = load_architecture("fusemax-cloud").resolve({})
    cascade = workloads.cascade("attention-3pass")
    extents = {k: np.array([v]) for k, v in MEDIUM.items()}
    given = mappers.check_options("fused", {})
    quick = evaluate(mappers.place("fused", given, cascade=cascade, architecture=on, shape=extents))
    found = optimum(Options(budget=budget, recompute=False), cascade, on, MEDIUM)
    real = evaluate(found.mappings[0])
    assert not found.report.complete
    assert "best so far" in found.mappings[0].notes
    assert np.prod(found.costs[0]) <= quick.latency_s[0] * quick.energy_pj[0] * (1 + 1e-9)
    np.testing.assert_allclose([real.latency_s[0], real.energy_pj[0]], found.costs[0], rtol=1e-9)


def tiny(size):
    return load_architecture(
        SMALL
        | {
            "memories": {"buffer": {"size_bytes": size}},
            "arrays": {"1d": {"registers": {"words": 1}}, "2d": {"registers": {"words": 1}}},
        }
    ).resolve()


def test_what_is_missing_when_nothing_fits():
    """The simulator says which memory, which tensor and how much; the report, with what it would."""
    cascade, shape = workloads.cascade("attention-1pass"), {**ILLEGAL, "P": 32, "M": 64}
    options = Options(fusion="whole", tiles="perfect")
    found = optimum(options, cascade, tiny(1), shape)
    reason = evaluate(found.mappings[0]).infeasible[0]
    assert re.search(r"69 bytes are missing \(\w+ takes \d+ bytes of them\)", reason)
    assert found.report.lacking == (
        "nothing fits: it would, by the smallest change of one number alone, with "
        "memories.buffer.size_bytes of 70 in place of 1 (69 more, 70 times)"
    )
    again = optimum(options, cascade, tiny(70), shape)
    assert evaluate(again.mappings[0]).infeasible[0] is None
    worse = optimum(options, cascade, tiny(69), shape)
    assert evaluate(worse.mappings[0]).infeasible[0] is not None


def test_made_again_is_the_same_computation():
    cascade = workloads.cascade("attention-3pass")
    assert [about for about, _ in rewrites(cascade)] == [(), ("QK",), ("SN",), ("QK", "SN")]
    rng = np.random.default_rng(0)
    shape = {"B": 1, "H": 1, "M": 5, "P": 3, "E": 2, "F": 2}
    inputs = {
        name: rng.normal(size=[shape[r] for r in cascade.tensors[name].ranks])
        for name in cascade.inputs
    }
    wanted = execute(cascade, inputs, shape)["AV"]
    for tensors in (("QK",), ("SN",), ("QK", "SN")):
        again = rewrite(cascade, tensors)
        np.testing.assert_array_equal(execute(again, inputs, shape)["AV"], wanted)
        assert analyze_passes(again).passes("M") == 3


def test_a_copy_is_not_made_a_pass_too_early():
    """What is made beside the maximum cannot wait, in no memory, for those who need the maximum."""
    on = load_architecture(SMALL).resolve()
    cascade = rewrite(workloads.cascade("attention-3pass-deferred"), ("QK",))
    found = optimum(
        Options(
            objective="traffic_bytes",
            tiles="perfect",
            recompute=False,
            fusion="whole",
            compare=False,
        ),
        cascade,
        on,
        ILLEGAL,
    )
    reason = evaluate(found.mappings[0]).infeasible[0]
    assert "takes 65,536 bytes" in reason  # a row of what is kept for the last pass


SHORT = {"B": 1, "H": 1, "E": 8, "F": 8, "P": 8, "M": 24}
FOUR = {"extends": "fusemax-cloud", "parameters": {"array_dim": 4},
        "memories": {"buffer": {"size_bytes": "2 KiB"}}}  # fmt: skip


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (engine, "_LONG", 1),  # Einsum by Einsum first
        (engine, "_MANY", 0),  # something good first, in every structure
        (price, "_BEAM", 1),
        (price, "_COMPARED", 0),  # no choice of one piece is left out
        (price, "_FIRST", 4),
        (price, "_MANY", 1),  # pieces are worked out for few sets of sizes of tiles wherever
        (bindings, "_MOST_SPREADS", 1),  # ways to spread an Einsum are structures of their own
    ],
)
def test_shortcuts_change_no_result(monkeypatch, where, name, value):
    on = load_architecture(FOUR).resolve({})
    given = Options(compare=False), workloads.cascade("attention-3pass"), on, SHORT
    usual = front(*given).costs
    monkeypatch.setattr(where, name, value)
    other = front(*given).costs
    np.testing.assert_allclose(usual, other, rtol=1e-12)
