"""Constraints are kept to exactly: the best of what keeps to them, or what would have to change."""

from __future__ import annotations

import numpy as np
import pytest

import mappers
import workloads
from archs import load_architecture
from einsum_cascade import InputError, parse_cascade
from mappers.search import Options, changes, front, optimum, place
from mappers.search.asked import Asked
from mappers.search.changes import smallest_changes
from mappers.search.fronts import COLUMNS
from sim import evaluate
from sim.single import single_point
from sim.timeline import timeline

CHAIN = parse_cascade(
    """
    {name: chain, ranks: [P, M, E], inputs: ["Q[e,p]", "K[e,m]"], outputs: [Y],
     body: ["X[m,p] = Q[e,p] * K[e,m]", "Y[p] = max over m of X[m,p]"]}"""
)
SHAPE = {"P": 8, "M": 12, "E": 4}


def machine(**memories):
    """Two lanes each way, and one memory on chip or two."""
    return load_architecture(
        {
            "extends": "fusemax-cloud",
            "parameters": {"array_dim": 2},
            "memories": {
                name: {"size_bytes": f"{size} B"}
                | ({} if name == "buffer" else {"read_energy_pj": 1, "write_energy_pj": 1})
                for name, size in memories.items()
            },
            "arrays": {name: {"registers": {"words": 1}} for name in ("1d", "2d")},
        }
    ).resolve({})


def options(objective="latency_s", **constraints):
    return Options(
        objective=objective,
        constraints=constraints,
        tiles="perfect",
        recompute=False,
        compare=False,
    )


@pytest.fixture(scope="module")
def every():
    """All mappings of the chain that none beats in all four columns at once."""
    found = front(options(), CHAIN, machine(buffer=512), SHAPE, COLUMNS)
    assert len(found.costs) > 10
    return found.costs


@pytest.mark.parametrize("limited", COLUMNS)
@pytest.mark.parametrize("objective", ["latency_s", "energy_pj", "edp"])
def test_the_best_that_keeps_to_a_limit(every, objective, limited):
    """The whole front in all columns holds the best within any limit: there it is looked up."""
    on, at = machine(buffer=512), COLUMNS.index(limited)
    score = {"edp": every[:, 0] * every[:, 1]} | dict(zip(COLUMNS, every.T, strict=True))
    for most in np.quantile(every[:, at], [0.0, 0.6], method="lower"):
        within = every[:, at] <= most
        found = optimum(options(objective, **{limited: float(most)}), CHAIN, on, SHAPE)
        assert found.score == pytest.approx(score[objective][within].min(), rel=1e-12)
        real = evaluate(found.mappings[0])
        assert real.infeasible[0] is None
        if limited != "buffer_bytes":
            assert getattr(real, limited)[0] <= most * (1 + 1e-12)


def test_several_limits_and_a_front_within_one(every):
    on = machine(buffer=512)
    energy, room = np.quantile(every[:, 1], 0.5), np.quantile(every[:, 3], 0.4)
    within = (every[:, 1] <= energy) & (every[:, 3] <= room)
    found = optimum(options(energy_pj=float(energy), buffer_bytes=float(room)), CHAIN, on, SHAPE)
    assert found.score == pytest.approx(every[within, 0].min(), rel=1e-12)
    limited = front(options(traffic_bytes=float(every[:, 2].min())), CHAIN, on, SHAPE)
    rows = every[every[:, 2] <= every[:, 2].min()][:, :2]
    wanted = [r for r in rows if not any(np.all(o <= r) and np.any(o < r) for o in rows)]
    np.testing.assert_allclose(limited.costs[:, :2], np.unique(wanted, axis=0), rtol=1e-12)


def test_a_limit_of_room_is_of_all_memories_together():
    on, shape = machine(buffer=64, scratch=64), {"P": 4, "M": 4, "E": 2}
    rows = front(options(), CHAIN, on, shape, COLUMNS).costs
    most = np.quantile(rows[:, 3], 0.5, method="lower")
    found = optimum(options("energy_pj", buffer_bytes=float(most)), CHAIN, on, shape)
    assert found.score == pytest.approx(rows[rows[:, 3] <= most, 1].min(), rel=1e-12)
    assert found.costs[0, list(found.columns).index("buffer_bytes")] <= most


@pytest.mark.parametrize("objective", ["latency_s", "energy_pj", "edp"])
def test_what_would_draw_too_much_waits(every, objective):
    """Of all mappings, and for each the least wait that keeps its mean power: the best."""
    on = machine(buffer=512)
    power = every[:, 1] * 1e-12 / every[:, 0]
    for most in np.quantile(power, [0.02, 0.6]):
        latency = np.maximum(every[:, 0], every[:, 1] * 1e-12 / most)
        score = {"latency_s": latency, "energy_pj": every[:, 1], "edp": latency * every[:, 1]}
        found = optimum(options(objective, power_w=float(most)), CHAIN, on, SHAPE)
        assert found.score == pytest.approx(score[objective].min(), rel=1e-12)
        real = evaluate(found.mappings[0])
        assert real.energy_pj[0] * 1e-12 / real.latency_s[0] <= most * (1 + 1e-9)
        assert real.latency_s[0] == pytest.approx(
            found.costs[0, list(found.columns).index("latency_s")]
        )


def test_the_wait_is_part_of_the_mapping():
    on = machine(buffer=512)
    found = optimum(options(power_w=1e-3), CHAIN, on, SHAPE)
    last = found.mappings[0].phases[-1].options[0]
    assert last.einsums == ()
    assert last.stall_cycles > 0
    real = evaluate(found.mappings[0])
    assert real.energy_pj[0] * 1e-12 / real.latency_s[0] == pytest.approx(1e-3)
    assert real.bottleneck[0] == "stall"
    run = timeline(single_point(found.mappings[0]))
    assert run.critical_path["wait"] == pytest.approx(last.stall_cycles)
    assert run.cycles >= real.latency_s[0] * on.clock_hz * (1 - 1e-9)


def test_limits_with_units_and_mistakes_in_them():
    given = Options(
        constraints={
            "latency_s": "20 ms",
            "energy_pj": "3 mJ",
            "buffer_bytes": "8 MiB",
            "power_w": 5,
        }
    ).constraints
    assert (given.latency_s, given.energy_pj, given.power_w) == pytest.approx((0.02, 3e9, 5))
    assert given.buffer_bytes == 8 * 2**20
    for wrong, message in {
        "latency": "unknown key 'latency'.*did you mean 'latency_s'",
        "power_w": "expected a number above 0",
        "latency_s": "expected a number in s",
    }.items():
        value = {"latency_s": "3 J", "power_w": -1}.get(wrong, 1)
        with pytest.raises(InputError, match=message):
            mappers.check_options("search", {"constraints": {wrong: value}})
    for objective, message in {
        "latency": "unknown objective 'latency'.*did you mean 'latency_s'",
        ("latency_s", "energy"): "unknown objective 'energy'.*did you mean 'energy_pj'",
        ("latency_s",): "two or more",
    }.items():
        value = list(objective) if isinstance(objective, tuple) else objective
        with pytest.raises(InputError, match=message):
            mappers.check_options("search", {"objective": value})


def test_area_is_that_of_the_architecture():
    on = machine(buffer=512)
    area = float(on.area_um2)
    found = optimum(options(area_um2=area), CHAIN, on, SHAPE)
    assert len(found.costs) == 1
    refused = optimum(options(area_um2=area - 1000), CHAIN, on, SHAPE)
    reason = evaluate(refused.mappings[0]).infeasible[0]
    assert f"takes {area:,.0f} um2 of area, 1,000 more than the" in reason
    assert changes(options(area_um2=area - 1000), CHAIN, on, SHAPE) == []


def test_power_of_the_board_is_no_mappings_matter():
    on = load_architecture({"extends": "fusemax-cloud", "power_w": 3}).resolve({})
    with pytest.raises(InputError, match="draws a power_w of its own"):
        optimum(options(power_w=5.0), CHAIN, on, SHAPE)


def test_a_run_has_rows_with_reasons():
    """Points that nothing keeps to the constraints at do not affect the others."""
    shape = {rank: np.array([extent, extent]) for rank, extent in SHAPE.items()}
    shape["M"] = np.array([12, 1200])
    on = machine(buffer=512)
    best = optimum(options(), CHAIN, on, SHAPE).costs[0, 0]
    found = evaluate(place(options(latency_s=float(best)), CHAIN, on, shape))
    assert found.infeasible[0] is None
    assert found.latency_s[0] == best
    assert found.infeasible[1].startswith("no mapping keeps to the constraints: it would, by the ")
    assert np.isnan(found.latency_s[1])
    with pytest.raises(InputError, match="--front latency_s,energy_pj"):
        place(options(["latency_s", "energy_pj"]), CHAIN, on, shape)


def test_another_mapper_keeps_to_them_too():
    """Where the budget leaves little, FLAT's mapping is better, if there is room for it."""
    cascade, on = workloads.cascade("attention-3pass"), load_architecture("flat-edge").resolve({})
    shape = {"B": 2, "H": 3, "E": 64, "F": 64, "P": 512, "M": 512}
    given = {"budget": 1, "fusion": "whole", "recompute": False}
    free = optimum(Options(**given), cascade, on, shape)
    assert free.report.mapper == "flat"
    limited = Options(**given, constraints={"buffer_bytes": "2 KiB"})
    found = optimum(limited, cascade, on, shape)
    assert found.report.mapper == ""


RUNNING = parse_cascade(
    """
    {name: running, ranks: [K, P, F], inputs: ["C[k,p]", "A[f,k,p]"], outputs: [Z],
     initialization: ["R[0,p] = 0", "S[f,0,p] = 0"],
     body: ["R[k+1,p] = R[k,p] + C[k,p]", "S[f,k+1,p] = S[f,k,p] * R[k+1,p] + A[f,k,p]"],
     final: ["Z[f,p] = exp(S[f,K,p])"], iterate: {rank: K, stop: k >= K}}"""
)
"""Whose running values need room."""
TINY = {"K": 4, "P": 4, "F": 4}
ROOM = "memories.buffer.size_bytes"
SMALLEST = {  # what there is, the limits, and the least step of what may change
    "one memory": ({"buffer": 1}, {}, {ROOM: 1}),
    "two memories": ({"buffer": 4, "scratch": 1}, {}, {ROOM: 1}),
    "a limit of time": ({"buffer": 64}, {"latency_s": 1e-9}, {"constraints.latency_s": 0}),
    "a limit of energy": ({"buffer": 64}, {"energy_pj": 10.0}, {"constraints.energy_pj": 0}),
    "a limit of traffic": ({"buffer": 64}, {"traffic_bytes": 10.0}, {"constraints.traffic_bytes": 1}),
    "a limit of room": ({"buffer": 64}, {"buffer_bytes": 1.0}, {"constraints.buffer_bytes": 1}),
    "power and time": (
        {"buffer": 64}, {"power_w": 1e-5, "latency_s": 1e-6},
        {"constraints.latency_s": 0, "constraints.power_w": 0},
    ),
    "room and time": ({"buffer": 1}, {"latency_s": 1e-9}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_change(name):
    """By exactly that, something fits; by a byte less, or by a hair, nothing."""
    sizes, limits, wanted = SMALLEST[name]
    asked = options(**limits).model_copy(update={"fusion": "whole"})

    def fits(key, value):
        have, within = dict(sizes), asked.constraints
        if key.startswith("memories."):
            have[key.split(".")[1]] = value
        else:
            within = within.model_copy(update={key.removeprefix("constraints."): value})
        changed = asked.model_copy(update={"constraints": within})
        return len(Asked(changed, RUNNING, machine(**have), TINY).answer("latency_s").picked) > 0

    nothing = optimum(asked, RUNNING, machine(**sizes), TINY)
    assert not len(nothing.costs)
    lacking = nothing.report.lacking
    found = smallest_changes(Asked(asked, RUNNING, machine(**sizes), TINY))
    assert {change.key for change in found} == set(wanted)
    assert ("no change of a memory or a constraint alone is enough" in lacking) == (not wanted)
    assert [c.ratio for c in found] == sorted(c.ratio for c in found)
    for change in found:
        assert str(change) in lacking
        step = wanted[change.key] or change.new * 1e-12
        assert fits(change.key, change.new)
        assert not fits(change.key, change.new - step)


def test_the_largest_extent():
    on, asked = machine(buffer=512), options(latency_s=2e-8)
    found = {c.key: c.new for c in changes(asked, CHAIN, on, SHAPE) if c.key.startswith("extent")}
    assert found
    for key, most in found.items():
        rank = key.removeprefix("extent ")
        assert len(optimum(asked, CHAIN, on, {**SHAPE, rank: int(most)}).costs)
        assert not len(optimum(asked, CHAIN, on, {**SHAPE, rank: int(most) + 1}).costs)
