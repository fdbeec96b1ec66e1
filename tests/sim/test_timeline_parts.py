"""The parts of the timeline, one by one, against loops that go over every word."""

from __future__ import annotations

from itertools import product
from math import inf, prod

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import mappers
import workloads
from archs import load_architecture
from sim import Loop, evaluate
from sim.single import single_point
from sim.timeline import timeline
from sim.timeline.account import Clock, critical_path, stretches_of, unit_times
from sim.timeline.between import Between
from sim.timeline.building import streams_of
from sim.timeline.engine import Deadlock, Engine, Run, offset
from sim.timeline.order import PIPELINES, ordered
from sim.timeline.result import Segment, Stretch
from sim.timeline.spaces import Space, chunks
from sim.timeline.streams import Need, Stream, Streams

FEW = settings(max_examples=150, deadline=None, derandomize=True)
ONE_PASS = ("attention-1pass", "fusemax-cloud", "fusemax", {})
SERIAL = ("attention-1pass", "fusemax-cloud", "fusemax", {"schedule": "serial"})
CASCADE = ("attention-1pass", "flat-cloud", "fusemax", {})
FLAT = ("attention-3pass", "flat-cloud", "flat", {})
FUSED = ("attention-3pass", "fusemax-cloud", "fused", {})


def placed(cascade, arch, mapper, options, shape, **overrides):
    mapping = mappers.place(
        mapper,
        mappers.check_options(mapper, options),
        cascade=workloads.cascade(cascade),
        architecture=load_architecture(arch).resolve(overrides),
        shape=shape,
    )
    return single_point(mapping)


# ---- spaces ---------------------------------------------------------------------------------------


@st.composite
def nests(draw, ranks="PMF", spatial=True):
    """Loops over parts of up to three ranks, in any order, spatial ones last."""
    loops = []
    for at in range(draw(st.integers(1, 5))):
        rank = draw(st.sampled_from(ranks))
        loops.append(Loop(f"{rank}{at}", rank, draw(st.integers(1, 4))))
    if spatial and draw(st.booleans()):
        rank = draw(st.sampled_from(ranks))
        loops.append(Loop(f"{rank}s", rank, draw(st.integers(1, 4)), True))
    return tuple(loops)


@st.composite
def spaces(draw, **rest):
    loops = draw(nests(**rest))
    return Space(loops, draw(st.integers(0, sum(not loop.spatial for loop in loops))))


def walked(space):
    """Every point of a nest in order: its task, its place in time within it, its coordinates."""
    loops = space.loops
    outer = prod(loop.extent for loop in loops[space.depth :] if not loop.spatial)
    for number, digits in enumerate(product(*(range(lp.extent) for lp in loops if not lp.spatial))):
        task, at = divmod(number, outer)
        for lanes in product(*(range(lp.extent) for lp in loops if lp.spatial)):
            x = dict.fromkeys((lp.rank for lp in loops), 0)
            for lp, digit in zip(loops, (*digits, *lanes), strict=True):
                x[lp.rank] = x[lp.rank] * lp.extent + digit
            yield task, at, x


@FEW
@given(space=spaces())
def test_what_a_task_covers(space):
    seen = {}
    for task, _, x in walked(space):
        seen.setdefault(task, []).append(x)
    assert space.count == len(seen)
    for task, found in seen.items():
        digits = space.digits(task)
        low, high = space.first(digits), space.last(digits)
        for rank in low:
            values = {x[rank] for x in found}
            assert values == set(range(low[rank], high[rank] + 1))
            assert space.inside[rank] == len(values)
    assert space.whole == {r: max(x[r] for v in seen.values() for x in v) + 1 for r in space.whole}


@FEW
@given(space=spaces(), data=st.data())
def test_the_last_and_the_first_task_that_touch_coordinates(space, data):
    chosen = [r for r in space.whole if data.draw(st.booleans())]
    limits = {r: data.draw(st.integers(0, space.whole[r] + 2), r) for r in chosen}
    tasks = {}
    for task, _, x in walked(space):
        tasks.setdefault(task, []).append(x)
    clipped = {r: min(v, space.whole[r] - 1) for r, v in limits.items()}
    touching = [
        t
        for t, found in tasks.items()
        if any(all(x[r] <= v for r, v in clipped.items()) for x in found)
    ]
    exactly = [
        t
        for t, found in tasks.items()
        if any(all(x[r] == v for r, v in clipped.items()) for x in found)
    ]
    assert space.latest(limits) == max(touching)
    assert space.earliest(limits) == min(exactly)
    assert space.latest({**limits, "P": -1}) == -1


@FEW
@given(data=st.data())
def test_equal_parts_come_in_the_same_order(data):
    """No word of a part is read in an earlier part than that in which its last contribution is made."""
    outer = tuple(Loop(f"{r}2", r, 2) for r in data.draw(st.lists(st.sampled_from("PM"), unique=True)))  # fmt: skip
    sizes = data.draw(st.lists(st.tuples(st.sampled_from("PMF"), st.integers(1, 4)), min_size=1, max_size=3))  # fmt: skip
    inner = [Loop(f"{r}{at}", r, n) for at, (r, n) in enumerate(sizes)]
    summed = [Loop("K", "K", data.draw(st.integers(1, 3), "summed"))]
    made = Space((*outer, *data.draw(st.permutations(inner + summed))), len(outer))
    read = Space((*outer, *data.draw(st.permutations(inner))), len(outer))
    parts = chunks(made, read, frozenset("PMF"))
    ends, starts = {}, {}
    for space, found in ((made, ends), (read, starts)):
        points = prod(lp.extent for lp in space.loops[space.depth :])
        assert points % parts == 0
        for task, at, x in walked(space):
            word = (task, *(x.get(r, 0) for r in "PMF"))
            found.setdefault(word, []).append(at // (points // parts))
    assert ends.keys() == starts.keys()
    assert all(max(ends[word]) <= min(starts[word]) for word in ends)
    if made.loops[: len(read.loops)] == read.loops:
        assert parts == prod(n for _, n in sizes)  # word by word


# ---- between --------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_words_are_there_when_they_are_taken(data):
    """The wait is the largest over all words of when one is made less when it is first read."""
    made, taken = data.draw(spaces(ranks="PMF")), data.draw(spaces(ranks="PMF"))
    own = [r for r in made.whole if data.draw(st.booleans(), r)]
    assume(own)
    ranks = []
    for rank in own:
        known = rank in taken.whole and data.draw(st.booleans(), f"{rank} is read")
        ahead = data.draw(st.integers(-1, 1), "ahead") if known else 0
        ranks.append((rank, rank if known else None, ahead))
    extents = {r: data.draw(st.integers(1, made.whole[r]), f"extent of {r}") for r in own}
    between = Between(made, taken, tuple(ranks), extents)
    each, other = data.draw(st.sampled_from([(1, 1), (1, 3), (6, 1), (2.5, 1.5)]))
    maker = data.draw(st.integers(0, made.count - 1), "maker")
    taker = data.draw(st.integers(0, taken.count - 1), "taker")
    ends, starts = {}, {}
    for task, at, x in walked(made):
        word = tuple(x[r] for r in own)
        if task == maker and all(x[r] < extents[r] for r in own):
            ends[word] = max(ends.get(word, -inf), (at + 1) * each)
    for task, at, x in walked(taken):
        wanted = {r: x[n] + ahead for r, n, ahead in ranks if n is not None}
        if task == taker:
            key = tuple(wanted.get(r) for r in own)
            starts[key] = min(starts.get(key, inf), at * other)
    longest = -inf
    for word, end in ends.items():
        key = tuple(w if n is not None else None for w, (_, n, _) in zip(word, ranks, strict=True))
        if key in starts:
            longest = max(longest, end - starts[key])
    assert between.wait(maker, taker, each, other) == pytest.approx(longest)


@FEW
@given(
    made=st.lists(st.tuples(st.sampled_from([4, 8, 12]), st.sampled_from([1.0, 2.0, 5.0])), min_size=1, max_size=2),
    taken=st.lists(st.tuples(st.sampled_from([4, 8, 12]), st.sampled_from([1.0, 3.0])), min_size=1, max_size=2),
    parts=st.sampled_from([1, 2, 4]),
)  # fmt: skip
def test_the_least_offset_at_which_no_part_is_taken_before_it_is_made(made, taken, parts):
    made, taken = tuple(made), tuple(taken)
    ends, starts = turns(made)[0], turns(taken)[0]

    def fits(shift):
        for part in range(parts):
            last = ends[(part + 1) * len(ends) // parts - 1][1]
            first = starts[part * len(starts) // parts][0]
            if last > first + shift + 1e-9:
                return False
        return True

    found = offset(made, 0, taken, 0, parts)
    assert fits(found)
    assert not fits(found - 0.5)


def turns(shape):
    """Begin and end of every point of members that take turns until they are through."""
    left = [points for points, _ in shape]
    found, now = [[] for _ in shape], 0.0
    while any(left):
        for i, (_, cycles) in enumerate(shape):
            if left[i]:
                found[i].append((now, now + cycles))
                now, left[i] = now + cycles, left[i] - 1
    return found


# ---- rooms ----------------------------------------------------------------------------------------


def rooms_of(mapping):
    return streams_of(mapping, mapping.phases[0].options[0])[0].rooms()


@pytest.mark.parametrize("side", [16, 64, 256, 512])
def test_fusemax_arrays_hold_eight_tiles(side):
    """The rule by which its paper sizes registers is for 2 * side / E tiles, at least 2."""
    tiles = 2 * max(1, side // 64)
    over = {
        "array_dim": side,
        "arrays.1d.registers.words": 8 * tiles,
        "arrays.2d.registers.words": 2 * tiles,
        "memories.buffer.size_bytes": 2**28,
    }
    shape = {"B": 1, "H": 12, "E": 64, "F": 64, "M": 8192, "P": 8192}
    room = rooms_of(placed(*ONE_PASS, shape, **over))
    assert room.in_flight["2d"] == tiles
    assert room.in_flight["1d"] >= tiles
    if side == 256:
        assert rooms_of(placed(*ONE_PASS, shape)).in_flight["2d"] == 8


@pytest.mark.parametrize("copies", range(3, 8))
def test_a_buffer_with_room_for_so_many_copies(copies):
    """One more of each tile, the smallest first, as long as all of it fits; Q is the largest."""
    shape = {"B": 1, "H": 1, "E": 16, "F": 8, "M": 64, "P": 64}
    mapping = placed(*ONE_PASS, shape, array_dim=8)
    phase = mapping.phases[0].options[0]
    builder, _ = streams_of(mapping, phase)
    own = {t: o[0].residency.tiles[0].copies for t, o in phase.residency.items() if o[0].residency.tiles}  # fmt: skip
    words = {
        tensor: float(held) / own[tensor]
        for (name, tensor, *_), held in builder.tally.footprint_words.items()
        if name == "buffer"
    }
    assert max(words, key=lambda tensor: words[tensor]) == "Q"
    needed = sum(copies * size for size in words.values())

    def loads(size):
        one = placed(*ONE_PASS, shape, array_dim=8, **{"memories.buffer.size_bytes": 2 * size})
        assert one.phases == mapping.phases
        return rooms_of(one).loads

    exact, less = loads(needed), loads(needed - 1)
    assert [exact[t] for t in "QKV"] == [copies] * 3
    assert less["Q"] == copies - 1
    assert min(less["K"], less["V"]) >= copies


# ---- order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [ONE_PASS, SERIAL, CASCADE, FLAT, FUSED], ids=lambda c: "-".join(c[:3]))  # fmt: skip
@given(
    shape=st.fixed_dictionaries(
        {"B": st.just(1), "H": st.integers(1, 2), "E": st.integers(1, 6), "F": st.integers(1, 6),
         "M": st.integers(1, 12), "P": st.integers(1, 12)}
    ),
    side=st.integers(2, 4),
    ports=st.booleans(),
    distance=st.sampled_from(PIPELINES),
)  # fmt: skip
@settings(max_examples=8, deadline=None, derandomize=True)
def test_no_pipeline_waits_for_ever_where_there_is_room(case, shape, side, ports, distance):
    """Registers and buffers of the full size hold all tiles of small arrays."""
    over = {"arrays.1d.registers.words": 4096, "arrays.2d.registers.words": 4096}
    mapping = placed(*case, shape, array_dim=side, **over)
    for choice in mapping.phases:
        phase = choice.options[0]
        if phase.steps and distance != PIPELINES[0]:
            continue
        builder, streams = streams_of(mapping, phase, ports)
        trial = ordered(builder, streams, phase, distance)
        run = Engine(trial, steady=False).simulate()
        assert len(run.segments) == sum(s.count for s in trial.all)
        for stream in trial.all:
            epochs = [stream.epoch(task) for task in range(stream.count)]
            assert epochs == sorted(epochs)
            assert stream.lag >= 0


def test_a_reader_is_as_far_behind_as_its_values_are_on_their_way():
    mapping = placed(*ONE_PASS, {"B": 1, "H": 1, "E": 64, "F": 64, "M": 2048, "P": 2048})
    phase = mapping.phases[0].options[0]
    builder, streams = streams_of(mapping, phase)
    trial = ordered(builder, streams, phase, PIPELINES[0])
    lag = {s.name: s.lag for s in trial.all if s.kind == "compute"}
    assert lag["QK"] < lag["RM"] < lag["SLN"] <= lag["SLNV"] < lag["RNV"]
    later = {s.name: s.lag for s in ordered(builder, streams, phase, PIPELINES[1]).all}
    assert later["RNV"] > lag["RNV"]


# ---- ports and the engine -------------------------------------------------------------------------


def stream(name, unit, count, cycles, kind="compute", needs=(), lag=0, rank=0.0):
    space = Space((Loop("T", "T", count),), 1)
    return Stream(
        name, kind, unit, space, cycles, 1, name, lag=lag, rank=rank, needs=list(needs)
    )  # fmt: skip


def played(*streams, ports=("DRAM",)):
    arrays = tuple(dict.fromkeys(s.unit for s in streams if s.kind == "compute"))
    spine = max((s.space for s in streams), key=lambda s: s.count)
    run = Engine(Streams("test", spine, tuple(streams), arrays, ports), False).simulate()
    return {(s.name, s.index[0][1]): (s.start, s.end, s.blocker) for s in run.segments}, run


def first(producer, **rest):
    """Task n needs the tasks up to the n-th of another stream."""
    return Need(producer, lambda task: task + 1, **rest)


def test_a_port_takes_what_is_ready_first():
    """The second load has waited longer than the first in the text; urgency decides between equals."""
    late = Need(2, lambda task: task + 1)
    found, _ = played(
        stream("load A", "DRAM", 1, 4.0, "load", [late]),
        stream("load B", "DRAM", 1, 4.0, "load", rank=9.0),
        stream("X", "2d", 1, 3.0),
        stream("Y", "2d", 1, 1.0, needs=[first(0), first(1)], rank=1.0),
    )
    assert found["load B", 0][:2] == (0, 4)
    assert found["load A", 0][:2] == (4, 8)
    assert found["Y", 0] == (8, 9, "load A")


def test_of_what_is_ready_at_once_a_port_takes_stores_then_what_is_needed_soonest():
    found, _ = played(
        stream("load far", "DRAM", 1, 2.0, "load", lag=5),
        stream("load near", "DRAM", 1, 2.0, "load"),
        stream("store Z", "DRAM", 1, 2.0, "store", rank=7.0),
        stream("X", "2d", 1, 1.0, needs=[first(0), first(1)]),
    )
    assert [found[n, 0][0] for n in ("store Z", "load near", "load far")] == [0, 2, 4]


def test_a_room_is_waited_for_and_named():
    """Two rooms: the third tile begins when the first was read."""
    back = Need(1, lambda task: task - 1, sort="room", about="X")
    found, run = played(
        stream("X", "2d", 4, 1.0, needs=[back]), stream("Y", "1d", 4, 5.0, needs=[first(0)])
    )
    assert [found["X", n][0] for n in range(4)] == [0, 1, 6, 11]
    assert found["X", 2][2] == "room for X"
    assert [found["Y", n][0] for n in range(4)] == [1, 6, 11, 16]
    times = unit_times(run, stretches_of(run, 21.0), ["2d", "1d"], 21.0)
    assert times["2d"].stalled == {"room for X": 8}
    assert (times["2d"].busy, times["2d"].idle) == (4, 9)
    assert critical_path(run, stretches_of(run, 21.0), 21.0) == {"X": 1, "Y": 20}


def test_a_drain_is_waited_for_and_named():
    found, run = played(
        stream("X", "2d", 2, 3.0), stream("Y", "1d", 2, 1.0, needs=[first(0, latency=4.0)])
    )
    assert found["Y", 0] == (7, 8, "drain of X")
    assert found["Y", 1] == (10, 11, "drain of X")
    assert critical_path(run, stretches_of(run, 11.0), 11.0) == {"X": 6, "drain of X": 4, "Y": 1}


def test_tasks_that_wait_for_each_other():
    with pytest.raises(Deadlock):
        played(
            stream("X", "2d", 2, 1.0, needs=[Need(1, lambda task: task, sort="room")]),
            stream("Y", "1d", 2, 1.0, needs=[Need(0, lambda task: task + 2)]),
        )


def test_long_transfers_go_in_slices():
    """No single one takes longer than the tiles of an epoch; together they move all words."""
    shape = {"B": 1, "H": 3, "E": 64, "F": 64, "M": 128, "P": 128}
    over = {"array_dim": 16, "memories.DRAM.bandwidth_bytes_per_s": 4e9}
    mapping = placed(*ONE_PASS, shape, **over)
    builder, streams = streams_of(mapping, mapping.phases[0].options[0])
    loads = [s for s in streams.all if s.kind == "load"]
    assert max(s.slices for s in loads) > 1
    for s in loads:
        assert s.cycles <= builder.period * (1 + 1e-9)
        assert s.slices == 1 or s.cycles * s.slices > builder.period
    moved = sum(s.cycles * s.count for s in streams.all if s.unit == "DRAM")
    busy = float(evaluate(mapping).busy_s["DRAM"][0]) * 940e6
    assert moved == pytest.approx(busy, rel=1e-9)
    found = timeline(mapping, steady=False)
    for s in found.segments:
        if s.kind == "load":
            assert s.end - s.start <= builder.period * (1 + 1e-9)


# ---- accounts -------------------------------------------------------------------------------------


@FEW
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9), st.integers(2, 5)), max_size=4),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), min_size=1, max_size=6),
)
def test_spans_of_compressed_time(marked, spans):
    """Unit by unit of compressed time, each as often as all stretches that it lies in say."""
    run = Run(stretches=[Stretch(a, a + n, repeats) for a, n, repeats in marked])
    end = 30.0
    clock = Clock(stretches_of(run, end))
    for start, length in sorted(spans):
        wanted = sum(
            prod(s.repeats for s in run.stretches if s.start <= t and t + 1 <= s.end)
            for t in range(start, min(start + length, 30))
        )
        assert clock.cycles(start, start + length) == pytest.approx(wanted)
    assert sum((s.end - s.start) * s.repeats for s in stretches_of(run, end)) == Clock(
        stretches_of(run, end)
    ).cycles(0, end)


def test_ports_that_wait_for_results_are_idle():
    """A store that nothing was made for has no work; one that waits for room has."""

    def segment(start, blocker, kind="store"):
        return Segment("DRAM", "p", f"{kind} Z", kind, (), start, start + 1.0, blocker)

    run = Run(segments=[segment(2.0, "X"), segment(5.0, "room for Z"), segment(9.0, "X", "load")])
    time = unit_times(run, (Stretch(0, 12, 1),), ["DRAM"], 12.0)["DRAM"]
    assert (time.busy, time.idle) == (3, 2 + 2)
    assert time.stalled == {"room for Z": 2, "X": 3}
    assert np.isclose(time.busy + time.idle + sum(time.stalled.values()), 12)
