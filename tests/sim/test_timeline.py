"""The timeline against brute force: nothing is used before it is made, all time is accounted for."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from importlib.resources import files
from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import Phase, given, reject, settings
from hypothesis import strategies as st

import mappers
import workloads
from archs import load_architecture
from einsum_cascade.shapes import iteration_ranges
from einsum_cascade.source import InputError
from einsum_cascade.views import shown
from sim import evaluate, evaluate_phase
from sim.schedule import einsum_cycles
from sim.single import single_point
from sim.timeline import CannotRun, timeline

KINDS = {
    "interleaved": ("attention-1pass", "fusemax-cloud", "fusemax", {}),
    "serial": ("attention-1pass", "fusemax-cloud", "fusemax", {"schedule": "serial"}),
    "cascade": ("attention-1pass", "flat-cloud", "fusemax", {}),
    "flat": ("attention-3pass", "flat-cloud", "flat", {}),
    "flat-deferred": ("attention-3pass-deferred", "flat-cloud", "flat", {}),
    "unfused": ("attention-3pass", "flat-cloud", "unfused", {}),
    "unfused-deferred": ("attention-3pass-deferred", "flat-cloud", "unfused", {}),
    "unfused-serialized": ("attention-3pass", "flat-cloud", "unfused", {"folds": "serialized"}),
    "fused": ("attention-1pass", "fusemax-cloud", "fused", {}),
    "fused-3pass": ("attention-3pass", "fusemax-cloud", "fused", {}),
    "fused-2pass": ("attention-2pass", "flat-cloud", "fused", {}),
}
PORTS = st.booleans()
QUICK = {"deadline": None, "phases": [Phase.generate]}  # points are small: not made smaller


def placed(kind, shape, **overrides):
    cascade, arch, mapper, options = KINDS[kind]
    mapping = mappers.place(
        mapper,
        mappers.check_options(mapper, options),
        cascade=workloads.cascade(cascade),
        architecture=load_architecture(arch).resolve(overrides),
        shape=shape,
    )
    return single_point(mapping)


def points(longest, heads):
    """Shapes, odd bandwidths, room enough or hardly enough."""
    size, length = st.integers(1, 9), st.integers(1, longest)
    return st.fixed_dictionaries(
        {
            "shape": st.fixed_dictionaries(
                {
                    "B": st.just(1),
                    "H": st.integers(1, heads),
                    "E": size,
                    "F": size,
                    "M": length,
                    "P": length,
                }
            ),
            "side": st.integers(2, 5),
            "buffer_bytes": st.sampled_from([2**24, 2**24, 4096, 1024, 400]),
            "words_a_cycle": st.sampled_from([0.13, 1.0, 7 / 3, 11.7, 1e9]),
        }
    )


def feasible(kind, point):
    """The mapping of a point, if there is one."""
    over = {
        "array_dim": point["side"],
        "memories.buffer.size_bytes": point["buffer_bytes"],
        "memories.DRAM.bandwidth_bytes_per_s": point["words_a_cycle"] * 2 * 940e6,
    }
    try:
        mapping = placed(kind, point["shape"], **over)
    except InputError:
        reject()
    if evaluate(mapping).infeasible[0] is not None or uneven(mapping):
        reject()
    return mapping


def uneven(mapping):
    """Whether Einsums cut a rank into tiles of different sizes at a loop that they share.

    FLAT's tiles of 5 rows are wavefronts of 3 and 3 to its products: see the test that fails.
    """
    for choice in mapping.phases:
        sizes = defaultdict(set)
        for nest in choice.options[0].einsums:
            for at, loop in enumerate(nest.loops[: nest.shared]):
                inside = prod(int(lp.extent) for lp in nest.loops[at + 1 :] if lp.rank == loop.rank)
                if loop.extent > 1:
                    sizes[loop.name].add(inside)
        if any(len(found) > 1 for found in sizes.values()):
            return True
    return False


# ---- brute force ----------------------------------------------------------------------------------


class Work:
    """What the tasks of an Einsum do: which coordinates in which of its points in time."""

    def __init__(self, mapping, phase, nest, depth):
        self.nest, self.depth = nest, depth
        self.einsum = mapping.cascade.einsum(nest.einsum)
        self.shape = {k: int(v) for k, v in mapping.shape.items()}
        self.ranges = iteration_ranges(mapping.cascade, self.einsum, self.shape)
        self.outer = nest.loops[:depth]
        inner = nest.loops[depth:]
        own = [loop for loop in inner if not loop.spatial]
        self.points = prod(int(loop.extent) for loop in own)
        self.indices = set(product(*(range(int(loop.extent)) for loop in self.outer)))
        whole = einsum_cycles(mapping.cascade, mapping.architecture, mapping.shape, nest, phase)
        self.cycles = float(whole) / len(self.indices)  # of a task
        spatial = [loop for loop in inner if loop.spatial]
        in_time, in_place = (
            np.array(list(product(*(range(int(loop.extent)) for loop in loops)))).T
            for loops in (own, spatial)
        )
        in_time, in_place = in_time[:, :, None], in_place[:, None, :]
        self.inside = {k: np.zeros((1, 1), int) for k in self.ranges}
        for loops, digits in ((own, in_time), (spatial, in_place)):
            for loop, digit in zip(loops, digits, strict=True):
                self.inside[loop.rank.lower()] = self.inside[
                    loop.rank.lower()
                ] + digit * self._stride(loop)

    def _stride(self, loop):
        at = self.nest.loops.index(loop)
        return prod(int(lp.extent) for lp in self.nest.loops[at + 1 :] if lp.rank == loop.rank)

    def coordinates(self, index):
        """Coordinates of every variable at each point in time of each PE, and which are real."""
        x = dict(self.inside)
        for loop, digit in zip(self.outer, index, strict=True):
            x[loop.rank.lower()] = x[loop.rank.lower()] + digit * self._stride(loop)
        size = np.broadcast_shapes((self.points, 1), *(v.shape for v in x.values()))
        x = {k: np.broadcast_to(v + self.ranges[k][0], size) for k, v in x.items()}
        real = np.ones(size, bool)
        for k, v in x.items():
            real &= v < self.ranges[k][1]
        return x, real

    def words(self, indices, x, real):
        return tuple(np.broadcast_to(i.evaluate(self.shape, x), real.shape)[real] for i in indices)


def by_turns(works, starts):
    """When each point of each of several Einsums that share an array begins."""
    now, begins = min(starts), [[] for _ in works]
    while any(len(b) < w.points for b, w in zip(begins, works, strict=True)):
        for b, w in zip(begins, works, strict=True):
            if len(b) < w.points:
                b.append(now)
                now += w.cycles / w.points
    return [np.array(b) for b in begins], now


def issues(segments):
    """Segments of a unit that overlap, together."""
    found = []
    until = -np.inf
    for s in sorted(segments, key=lambda s: (s.start, s.end)):
        if s.start < until - 1e-6:
            found[-1].append(s)
        else:
            found.append([s])
        until = max(until, s.end)
    return found


def index_of(segment):
    return tuple(digit for _, digit in segment.index)


def check_tasks(mapping, phase, segments):
    """Every task once, at its place in the loops, with the cycles that it takes; no two at once.

    Returns the Einsums' works, and the cycle in which each point of each task begins.
    """
    computes = [s for s in segments if s.kind == "compute"]
    works, begins = {}, {}
    for nest in phase.einsums:
        own = [s for s in computes if s.name == nest.einsum]
        (depth,) = {len(s.index) for s in own}
        works[nest.einsum] = work = Work(mapping, phase, nest, depth)
        assert {s.unit for s in own} == {nest.array}
        assert {tuple(name for name, _ in s.index) for s in own} == {
            tuple(loop.name for loop in nest.loops[:depth])
        }
        assert Counter(map(index_of, own)) == Counter(work.indices)
    assert len(computes) == sum(len(w.indices) for w in works.values())
    for array in {nest.array for nest in phase.einsums}:
        for issue in issues(s for s in computes if s.unit == array):
            names = [s.name for s in issue]
            together = [works[n] for n in names]
            times, end = by_turns(together, [s.start for s in issue])
            if len(issue) > 1:
                assert any(set(names) <= set(group) for group in phase.interleaved)
                assert len(set(names)) == len(names)
            assert max(s.end for s in issue) == pytest.approx(end, abs=1e-6)
            for s, at, w in zip(issue, times, together, strict=True):
                assert s.start == pytest.approx(at[0], abs=1e-6)
                assert s.end == pytest.approx(at[-1] + w.cycles / w.points, abs=1e-6)
                begins[s.name, index_of(s)] = at
    for port in {s.unit for s in segments if s.kind != "compute"}:
        assert all(len(i) == 1 for i in issues(s for s in segments if s.unit == port))
    return works, begins


def check_values(mapping, phase, works, begins):
    """Word by word: none is used before its last contribution was made and has come to its place.

    What an array hands to another one passes its rows first, but for Einsums of one step.
    """
    cascade = mapping.cascade
    made = {}
    done = Counter()
    for name, work in works.items():
        tensor = work.einsum.output.tensor
        extents = cascade.tensors[tensor].extents
        sides = [int(e.evaluate(work.shape, {})) for e in extents]
        when = made.setdefault(tensor, np.full(sides, -np.inf))
        for index in work.indices:
            x, real = work.coordinates(index)
            done[name] += int(real.sum())
            ends = begins[name, index] + work.cycles / work.points
            ends = np.broadcast_to(ends[:, None], real.shape)[real]
            np.maximum.at(when, work.words(work.einsum.output.indices, x, real), ends)
    for name, work in works.items():
        assert done[name] == prod(stop - start for start, stop in work.ranges.values())
    writers = {w.einsum.output.tensor: n for n, w in works.items()}
    steps = {e: i for i, step in enumerate(phase.steps) for e in step}
    used = 0
    for name, work in works.items():
        for access in work.einsum.operands:
            seen = shown(cascade, access)
            if seen.tensor not in writers:
                continue
            writer = works[writers[seen.tensor]].nest
            sides = mapping.architecture.array(writer.array).shape
            step = steps.get(writer.einsum)
            apart = writer.array != work.nest.array and (step is None or step != steps.get(name))
            way = int(sides[0]) if len(sides) == 2 and apart else 0
            for index in work.indices:
                x, real = work.coordinates(index)
                there = made[seen.tensor][work.words(seen.indices, x, real)] + way
                at = np.broadcast_to(begins[name, index][:, None], real.shape)[real]
                assert (there <= at + 1e-6).all(), (name, index, seen.tensor)
                used += np.isfinite(there).sum()
    assert used or len(works) == 1


def check_transfers(mapping, phase, works, segments):
    """Tiles are loaded before they are used and fit in the buffer; results leave after their making."""
    spans = {(s.name, index_of(s)): (s.start, s.end) for s in segments if s.kind == "compute"}
    moves = defaultdict(list)
    for s in segments:
        if s.kind != "compute":
            moves[s.name, s.index].append((s.start, s.end))
    held = []
    bandwidth = float(mapping.architecture.memories[0].bandwidth_bytes_per_s)
    clock = float(mapping.architecture.clock_hz)
    checked = 0
    for nest in phase.einsums:
        work = works[nest.einsum]
        names = tuple(loop.name for loop in work.outer)
        read = {shown(mapping.cascade, access).tensor for access in work.einsum.operands}
        for (name, index), times in moves.items():
            kind, tensor = name.split()
            if index and names[: len(index)] != tuple(n for n, _ in index):
                continue
            prefix = tuple(d for _, d in index)
            own = [
                v for (e, i), v in spans.items() if e == nest.einsum and i[: len(prefix)] == prefix
            ]
            if not own:
                continue
            if kind == "load" and tensor in read:
                loads = [n for n in phase.einsums if tensor in _read(mapping, n)]
                tiles = phase.residency[tensor][0].residency.of(nest.einsum)
                last = max(end for _, end in times) if len(loads) == 1 else min(e for _, e in times)
                whole = bool(tiles) and nest.position(tiles[0].below) <= len(names)
                spills = [bool(v) for (e, t), v in phase.spilled.items() if t == tensor]
                if any(spills) and not phase.spilled.get((nest.einsum, tensor)):
                    continue  # another Einsum's
                if whole and not any(spills):
                    checked += 1
                    assert last <= min(start for start, _ in own) + 1e-6, (name, nest.einsum)
                    if len(loads) == 1:
                        bytes_ = sum(e - s for s, e in times) * bandwidth / clock
                        begin, end = min(s for s, _ in times), max(e for _, e in own)
                        held += [(begin, 1, bytes_), (end, 0, -bytes_)]
                else:
                    assert last <= max(end for _, end in own) + 1e-6, (name, nest.einsum)
            elif kind == "store" and tensor == work.einsum.output.tensor:
                checked += 1
                assert max(e for _, e in times) >= max(end for _, end in own) - 1e-6
    now = 0.0
    for _, _, change in sorted((round(t, 6), order, c) for t, order, c in held):
        now += change
        assert now <= float(mapping.architecture.memories[1].size_bytes) * (1 + 1e-9)
    return checked


def _read(mapping, nest):
    return {shown(mapping.cascade, a).tensor for a in mapping.cascade.einsum(nest.einsum).operands}


def check_account(mapping, found):
    """Times add up; nothing takes longer, or less long, than the analytic level says."""
    clock = float(mapping.architecture.clock_hz)
    least = 0.0
    busy = Counter()
    for choice in mapping.phases:
        one = evaluate_phase(mapping, choice.options[0])
        terms = {unit: float(s[0]) * clock for unit, s in one.busy_s.items()}
        least += max(v for k, v in terms.items() if k in found.units)
        busy.update(terms)
    assert found.cycles >= least * (1 - 1e-9)
    for unit, time in found.units.items():
        assert time.busy == pytest.approx(busy[unit], rel=1e-9, abs=1e-6), unit
        assert min(time.idle, *time.stalled.values(), 0.0) >= -1e-6
        assert time.busy + sum(time.stalled.values()) + time.idle == pytest.approx(found.cycles)
    assert sum(found.critical_path.values()) == pytest.approx(found.cycles)
    assert min(found.critical_path.values()) > 0


def check_waits(segments, begin):
    """A unit that waited in a phase says for what."""
    done = defaultdict(lambda: begin)
    for s in sorted(segments, key=lambda s: (s.start, s.end)):
        assert s.blocker or s.start <= done[s.unit] + 1e-6, s
        done[s.unit] = max(done[s.unit], s.end)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, **QUICK)
@given(point=points(16, 2), ports=PORTS)
def test_a_schedule_is_valid(kind, point, ports):
    mapping = feasible(kind, point)
    found = timeline(mapping, ports=ports, steady=False)
    assert not found.extrapolated
    assert len(found.segments) == found.tasks
    begin = 0.0
    for choice in mapping.phases:
        phase = choice.options[0]
        segments = [s for s in found.segments if s.phase == phase.name]
        assert min(s.start for s in segments) >= begin - 1e-6  # phases follow one another
        check_waits(segments, begin)
        begin = max(s.end for s in segments)
        if any(nest.folds == "serialized" for nest in phase.einsums):
            continue
        works, begins = check_tasks(mapping, phase, segments)
        check_values(mapping, phase, works, begins)
        checked = check_transfers(mapping, phase, works, segments)
        assert bool(checked) or not ports
    assert begin == pytest.approx(found.cycles)
    check_account(mapping, found)


def test_tiles_that_wavefronts_do_not_divide_are_refused_in_words():
    """10 rows in tiles of 5 on 3 x 3 PEs: the products' wavefronts reach into the next tile."""
    over = {
        "array_dim": 3,
        "memories.buffer.size_bytes": 400,
        "memories.DRAM.bandwidth_bytes_per_s": 2e9,
    }
    mapping = placed("flat", {"B": 1, "H": 1, "E": 2, "F": 5, "M": 15, "P": 10}, **over)
    assert evaluate(mapping).infeasible[0] is None
    assert uneven(mapping)
    with pytest.raises(
        CannotRun, match="loop P2 is 5 coordinates to GM and, in whole wavefronts, 6"
    ):
        timeline(mapping, ports=False)


# ---- steady states --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_skipped_would_only_have_been_repeated(kind):
    """Whole numbers, as without ports, are equal; others are equal but for rounding."""
    extrapolated = Counter()

    @settings(max_examples=10, derandomize=True, **QUICK)
    @given(point=points(12, 12), ports=PORTS)
    def equal(point, ports):
        mapping = feasible(kind, point)
        steady = timeline(mapping, ports=ports)
        full = timeline(mapping, ports=ports, steady=False)
        rounded = ports or kind == "unfused-serialized"  # the end of a fold is shared by its tasks
        close = dict(rel=1e-9, abs=1e-6) if rounded else dict(rel=0, abs=0)
        assert steady.cycles == pytest.approx(full.cycles, **close)
        assert steady.tasks == full.tasks == len(full.segments)
        assert steady.units.keys() == full.units.keys()
        for unit, wanted in full.units.items():
            found = steady.units[unit]
            assert found.busy == pytest.approx(wanted.busy, **close)
            assert found.idle == pytest.approx(wanted.idle, **close)
            assert {k: v for k, v in found.stalled.items() if v > 1e-6} == pytest.approx(
                {k: v for k, v in wanted.stalled.items() if v > 1e-6}, **close
            )
        # the chain through a period stands for those through all: not always the same one
        slack = 0.02 * full.cycles if rounded else 0
        for name in {*steady.critical_path, *full.critical_path}:
            found, wanted = (run.critical_path.get(name, 0.0) for run in (steady, full))
            assert found == pytest.approx(wanted, rel=0, abs=slack), name
        # said when, and only when, it happened
        assert steady.extrapolated == (len(steady.segments) < steady.tasks)
        assert not full.extrapolated
        extrapolated[steady.extrapolated] += 1

    equal()
    assert extrapolated[True] >= 2


def test_a_million_tokens():
    """10^11 tasks: a few of them are simulated, and time is that of the shorter runs."""
    shape = {"B": 64, "H": 12, "E": 64, "F": 64, "M": 2**20, "P": 2**20}
    found = timeline(placed("interleaved", shape))
    assert found.tasks > 1e11
    assert found.extrapolated
    assert len(found.segments) < 1e5
    busiest = max(found.units.values(), key=lambda unit: unit.busy)
    assert found.cycles == pytest.approx(busiest.busy, rel=1e-4)
    for unit in found.units.values():
        assert unit.busy + sum(unit.stalled.values()) + unit.idle == pytest.approx(found.cycles)
    # a run is its stretches, each as often as it happens, and all tasks are in them
    assert found.cycles == pytest.approx(
        sum((s.end - s.start) * s.repeats for s in found.stretches)
    )
    tasks = sum(
        max((w for low, _, w in found.weights(s.start, s.end) if low <= s.start), default=0)
        for s in found.segments
    )
    assert tasks == pytest.approx(found.tasks, rel=1e-3)


# ---- published latencies --------------------------------------------------------------------------

MODELS = {"BERT": (12, 64), "TrXL": (16, 64), "T5": (8, 64), "XLM": (16, 128)}


def published(name):
    """Seconds of attention by model and sequence length, at a batch of 64."""
    text = (files("explore") / "data" / "published" / f"attn-{name}.csv").read_text("utf-8")
    return {
        (row["model"], row["seq_len"]): float(row["latency"])
        for row in csv.DictReader(text.splitlines())
    }


def whole(kind, model, length):
    heads, embedding = MODELS[model]
    tokens = int(length[:-1]) * {"K": 1024, "M": 1024**2}[length[-1]]
    shape = {"B": 64, "H": heads, "E": embedding, "F": embedding, "M": tokens, "P": tokens}
    return placed(kind, shape)


@pytest.mark.parametrize(
    ("model", "length"),
    [("BERT", "1K"), ("BERT", "16K"), ("BERT", "1M"), ("XLM", "1K"), ("XLM", "256K")],
)
@pytest.mark.parametrize(("kind", "table"), [("interleaved", "binding"), ("serial", "arch")])
def test_published_latencies(kind, table, model, length):
    """The designs of FuseMax, as published, from a simulation that knows of no such figure."""
    found = timeline(whole(kind, model, length))
    assert found.extrapolated
    assert found.latency_s == pytest.approx(published(table)[model, length], rel=0.01)


@pytest.mark.parametrize("length", ["1K", "64K"])
@pytest.mark.parametrize("model", ["T5", "XLM"])
@pytest.mark.parametrize("kind", ["unfused", "cascade"])
def test_what_nothing_stands_in_the_way_of(kind, model, length):
    """Long pipelines: the analytic level counts all but the first and the last tile."""
    mapping = whole(kind, model, length)
    analytic = float(evaluate(mapping).latency_s[0])
    assert analytic * (1 - 1e-9) <= timeline(mapping).latency_s <= analytic * 1.01
