"""Whole attentions on the cycle-accurate arrays: what comes out, and when tasks run."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mappers
import workloads
from archs import load_architecture
from einsum_cascade import execute
from einsum_cascade.dependencies import dependencies
from sim.cycle import issue, simulate, simulate_product
from sim.single import single_point
from sim.timeline.program import Issue, Program, Task


def placed(cascade, arch, mapper, options, shape, **overrides):
    mapping = mappers.place(
        mapper,
        mappers.check_options(mapper, options),
        cascade=workloads.cascade(cascade),
        architecture=load_architecture(arch).resolve(overrides),
        shape=shape,
    )
    return single_point(mapping)


def tasks_of(mapping, phase, alone_depth=None):
    """The depth of each nest, and all tasks: (epoch, step, place in the cascade, array, task).

    An epoch is an iteration of the loops that most Einsums share, or all tasks of a single Einsum.
    """
    spine = max(phase.einsums, key=lambda m: m.shared)
    alone = len(phase.einsums) == 1
    shared = spine.temporal[:alone_depth] if alone else spine.loops[: spine.shared]
    sizes = [int(loop.extent) for loop in shared]
    order = [e.name for e in mapping.cascade.order]
    steps = {e: i for i, step in enumerate(phase.steps) for e in step}
    depth, found = {}, []
    for m in phase.einsums:
        deeper = {loop.rank for loop in shared[m.shared :]}
        at = len(shared) if alone else m.shared
        while not alone and at < len(m.temporal) and m.loops[at].rank in deeper:
            at += 1
        depth[m.einsum] = at
        own = {loop.name: i for i, loop in enumerate(m.loops[:at])}
        late = any(s.name not in own for s in shared)  # it follows the last iteration of such loops
        place = order.index(m.einsum) + (1000 if late else 0)
        step = steps.get(m.einsum, 0)
        # what stands in a step before its operands is of the tile before
        lag = any(steps.get(p, 0) > step for p in _makers(mapping, m.einsum)) and not alone
        for index in product(*(range(int(loop.extent)) for loop in m.loops[:at])):
            digits = [index[own[s.name]] if s.name in own else int(s.extent) - 1 for s in shared]
            epoch = int(np.ravel_multi_index(digits, sizes)) if sizes else 0
            found.append((epoch + lag, step, place, m.array, Task(m.einsum, index)))
    return depth, sorted(found, key=lambda f: f[:3])


def _makers(mapping, einsum):
    """What makes the operands of an Einsum in the same iteration."""
    found = dependencies(mapping.cascade)
    return {d.producer.name for d in found if d.consumer.name == einsum and d.distance == 0}


def in_order(mapping, phase, copies=None, depth=None):
    """Tile after tile, in each of them the Einsums in topological order: no overlap is sought.

    Steps are kept apart: each begins when the tasks of other arrays in all before it have ended.
    """
    depth, tasks = tasks_of(mapping, phase, depth)
    queues, after, last = {m.array: [] for m in phase.einsums}, {}, {}
    for epoch, step, place, array, task in tasks:
        queues[array].append(Issue((task,)))
        if phase.steps and place < 1000:
            others = {a: t for a, t in last.items() if a != array}
            after[task] = tuple(
                t for ended in others.values() for at, t in ended if at < (epoch, step)
            )[-8:]
            last.setdefault(array, []).append(((epoch, step), task))
    rows = {a: tuple(q) for a, q in queues.items()}
    return Program(depth, rows, copies or {}, {}, after)


def interleaved(mapping, phase, pairs, copies=None):
    """As `in_order`, but an Einsum takes turns with another of the same tile, or of the next."""
    program = in_order(mapping, phase, copies)
    tasks = [i.tasks[0] for queue in program.queues.values() for i in queue]
    partner = {}
    for first, second, ahead in pairs:
        mine = [t for t in tasks if t.einsum == first]
        theirs = [t for t in tasks if t.einsum == second]
        partner |= dict(zip(mine, theirs[ahead:], strict=False))
    taken = set(partner.values())
    queues = {
        array: tuple(
            Issue((i.tasks[0], partner[i.tasks[0]]) if i.tasks[0] in partner else i.tasks)
            for i in queue
            if i.tasks[0] not in taken
        )
        for array, queue in program.queues.items()
    }
    return replace(program, queues=queues)


def tensors_of(mapping, seed=0):
    generator = np.random.default_rng(seed)
    shape = {k: int(v) for k, v in mapping.shape.items()}
    return {
        name: generator.normal(size=[shape[r] for r in mapping.cascade.tensors[name].ranks])
        for name in mapping.cascade.inputs
    }


def check(mapping, programs):
    inputs = tensors_of(mapping)
    run = simulate(mapping, inputs, programs)
    parts = {k: int(v) for k, v in mapping.shape.items()}
    wanted = execute(mapping.cascade, inputs, parts, everything=True)
    for name in mapping.cascade.tensors:
        if name in run.tensors:
            np.testing.assert_allclose(run.tensors[name], wanted[name], rtol=0, atol=1e-9)
    return run


def spans(run, phase=0):
    """Start and end of each task."""
    return {(t.einsum, t.index): (t.start, t.end) for t in run.phases[phase].tasks}


SHAPE = {"B": 1, "H": 2, "E": 6, "F": 5, "M": 12, "P": 12}
PAIRS = [("SLNV", "QK", 1), ("SPNV", "RNV", 0)]
ONE_PASS = ("attention-1pass", "fusemax-cloud", "fusemax", {})
SERIAL = ("attention-1pass", "fusemax-cloud", "fusemax", {"schedule": "serial"})
CASES = [
    ONE_PASS,
    SERIAL,
    ("attention-1pass", "flat-cloud", "fusemax", {}),
    ("attention-3pass", "flat-cloud", "unfused", {}),
    ("attention-3pass", "flat-cloud", "flat", {}),
    ("attention-3pass-deferred", "flat-cloud", "flat", {}),
    ("attention-3pass-deferred", "flat-cloud", "unfused", {}),
    ("attention-3pass", "fusemax-cloud", "flat", {}),
]
SIZES = st.integers(1, 9)
SHAPES = st.fixed_dictionaries(
    {"B": st.just(1), "H": st.integers(1, 2), "E": SIZES, "F": SIZES, "M": SIZES, "P": SIZES}
)


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join([*c[:3], *c[3].values()]))
@given(shape=SHAPES, side=st.integers(2, 5), depth=st.integers(0, 4))
@settings(max_examples=15, deadline=None)
def test_tensors_are_those_of_the_execution(case, shape, side, depth):
    mapping = placed(*case, shape, array_dim=side)
    check(mapping, [in_order(mapping, c.options[0], depth=depth) for c in mapping.phases])


@given(shape=SHAPES, side=st.integers(2, 5), copies=st.sampled_from([None, 1, 2]))
@settings(max_examples=30, deadline=None)
def test_interleaved_tensors_are_those_of_the_execution(shape, side, copies):
    mapping = placed(*ONE_PASS, shape, array_dim=side)
    phase = mapping.phases[0].options[0]
    rooms = dict.fromkeys((m.einsum for m in phase.einsums), copies) if copies else {}
    check(mapping, [interleaved(mapping, phase, PAIRS, rooms)])


def test_values_take_their_way():
    mapping = placed(*ONE_PASS, SHAPE, array_dim=4)
    run = check(mapping, [in_order(mapping, mapping.phases[0].options[0])])
    at = spans(run)
    tile = (0, 0, 0, 0, 0)
    assert at["QK", tile] == (0, 6)  # one point of E a cycle
    assert at["LM", tile] == (6, 7)  # what a PE made it can use in the next cycle
    assert at["RM", tile] == (11, 12)  # 4 cycles down and into the lanes
    assert at["SLN", tile] == (12, 19)  # from a lane to the top of its column: none
    assert at["SLD", tile] == (19, 20)
    assert at["RD", tile] == (24, 25)
    assert at["SLNV", tile] == (20, 25)
    assert at["RNV", tile] == (30, 35)  # behind SPNV, which ends in 30
    assert run.phases[0].cycles == run.phases[0].told_cycles + 3  # the last lane is 3 behind


def test_a_tree_joins_lanes():
    case = ("attention-3pass", "flat-cloud", "unfused", {})
    mapping = placed(*case, SHAPE | {"H": 1, "P": 1, "M": 4}, array_dim=4)
    run = check(mapping, [in_order(mapping, c.options[0]) for c in mapping.phases])
    at = spans(run, 1)
    row = (0, 0, 0)
    assert at["GM", row] == (0, 1)
    assert at["SN", row] == (3, 4)  # log2 of 4 lanes
    assert at["SD", row] == (4, 5)
    assert at["A", row] == (7, 8)


def test_a_reader_streams_behind_its_writer():
    mapping = placed(*ONE_PASS, SHAPE | {"F": 30}, array_dim=4)
    run = check(mapping, [interleaved(mapping, mapping.phases[0].options[0], PAIRS)])
    at = spans(run)
    tile = (0, 0, 0, 0, 0)
    slnv, rnv = at["SLNV", tile], at["RNV", tile]
    assert slnv[0] < rnv[0] < slnv[1]


def test_interleaved_tasks_take_turns():
    mapping = placed(*ONE_PASS, SHAPE | {"E": 12}, array_dim=4)
    phase = mapping.phases[0].options[0]
    run = check(mapping, [interleaved(mapping, phase, PAIRS)])
    at = spans(run)
    first, second = (0, 0, 0, 0, 0), (0, 0, 0, 0, 1)
    begin = at["SLNV", first][0]
    assert at["QK", second] == (begin + 1, begin + 17)  # 5 of each by turns, then QK alone
    assert at["SLNV", first][1] == begin + 9
    begin = at["SPNV", first][0]
    assert at["SPNV", first] == (begin, begin + 9)
    assert at["RNV", first] == (begin + 1, begin + 10)


def test_serial_schedule_counts_steps_and_drains():
    mapping = placed(*SERIAL, SHAPE, array_dim=4)
    phase = mapping.phases[0].options[0]
    run = check(mapping, [in_order(mapping, phase)]).phases[0]
    tiles = 2 * 3 * 3
    lanes = 7 + 1 + 5 + 5  # PRM, SPD, SPNV, RNV: longer than SLN, SLD, SLNV
    each = (6 + 1) + 4 + 1 + lanes  # QK and LM, the drain, RM
    assert run.told_cycles == tiles * each + 1 + 5  # and RD and AV of the last tile
    assert {task.behind for task in run.tasks} == {0}


def test_inside_a_step_lanes_run_behind():
    mapping = placed(*SERIAL, SHAPE | {"F": 2}, array_dim=4)
    run = check(mapping, [in_order(mapping, mapping.phases[0].options[0])]).phases[0]
    behind = {t.einsum: t.behind for t in run.tasks}
    assert behind["RNV"] == 3  # its first word was made a cycle before, and is 4 on its way
    assert behind["RM"] == behind["SLN"] == behind["QK"] == 0


@pytest.mark.parametrize("stationary", ["output", "weight", "input"])
@given(shape=SHAPES, side=st.integers(2, 5), depth=st.integers(0, 4))
@settings(max_examples=20, deadline=None)
def test_serialized_folds_are_those_of_the_systolic_array(stationary, shape, side, depth):
    options = {"folds": "serialized", "stationary": stationary}
    case = ("attention-3pass", "flat-cloud", "unfused", options)
    mapping = placed(*case, shape, array_dim=side)
    run = check(mapping, [in_order(mapping, c.options[0], depth=depth) for c in mapping.phases])
    heads, e, f, keys, queries = (shape[r] for r in "HEFMP")
    held = {"output": "os", "weight": "ws", "input": "ws"}[stationary]
    for phase, rows, k, cols in ((0, queries, e, keys), (-1, queries, keys, f)):
        if stationary != "weight":  # queries over the columns
            rows, cols = cols, rows
        one = simulate_product(np.ones((rows, k)), np.ones((k, cols)), side, side, held)
        assert run.phases[phase].told_cycles == heads * one.cycles


def test_room_is_waited_for():
    mapping = placed(*ONE_PASS, SHAPE, array_dim=4)
    phase = mapping.phases[0].options[0]
    program = in_order(mapping, phase)
    on_two = sorted(program.queues["2d"], key=lambda i: i.tasks[0].einsum != "QK")  # all QK first
    program = replace(program, queues={**program.queues, "2d": tuple(on_two)})
    check(mapping, [program])
    with pytest.raises(ValueError, match=r"QK\(0, 0, 0, 0, 2\).*wait for ever"):
        check(mapping, [replace(program, copies={"QK": 2})])


def test_an_array_waits_until_its_result_was_read():
    shape = SHAPE | {"F": 30}
    mapping = placed("attention-1pass", "flat-cloud", "fusemax", {}, shape, array_dim=4)
    phase = mapping.phases[0].options[0]
    free = spans(check(mapping, [in_order(mapping, phase)]))
    tight = spans(check(mapping, [in_order(mapping, phase, {"SLNV": 1})]))
    first, second = (0, 0, 0, 0, 0), (0, 0, 0, 0, 1)
    assert free["SLNV", first] == tight["SLNV", first]
    assert tight["SLNV", second][0] + 4 >= tight["RNV", first][0] + 1  # f by f, 4 on their way
    assert set(free) == set(tight)


@pytest.mark.parametrize("case", [ONE_PASS, *CASES[2:6:2]], ids=lambda c: "-".join(c[:3]))
def test_no_value_can_be_used_a_cycle_earlier(case, monkeypatch):
    mapping = placed(*case, SHAPE, array_dim=4)
    programs = [in_order(mapping, choice.options[0]) for choice in mapping.phases]
    real = issue.way_cycles
    monkeypatch.setattr(issue, "way_cycles", lambda w, r, s: max(0, real(w, r, s) - 1))
    with pytest.raises(AssertionError, match=r"not there yet|on its way|incomplete"):
        check(mapping, programs)


def test_refusals():
    mapping = placed(*ONE_PASS, SHAPE, array_dim=65)
    with pytest.raises(ValueError, match="more than 64"):
        simulate(mapping, {}, [])
    mapping = placed(*ONE_PASS, SHAPE, array_dim=4)
    with pytest.raises(ValueError, match="Q is missing"):
        simulate(mapping, {}, [])
    with pytest.raises(ValueError, match="Q has the shape"):
        simulate(mapping, {name: np.ones((1, 1, 1, 1)) for name in "QKV"}, [])
    causal = ("attention-causal-3pass", "flat-cloud", "unfused", {})
    mapping = placed(*causal, SHAPE, array_dim=4)
    with pytest.raises(ValueError, match="filter"):
        check(mapping, [in_order(mapping, choice.options[0]) for choice in mapping.phases])
