"""Accesses of every memory against a walk that moves single words and remembers where they are.

The walk knows no reuse rule: it executes the nests of a phase iteration by iteration, with the set
of words that each tile holds at that time, and counts a move whenever such a set changes.
"""

from __future__ import annotations

import itertools
from collections import Counter
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archs import load_architecture
from einsum_cascade import parse_cascade
from sim import EinsumMapping, Loop, Mapping, Option, Phase, PhaseChoice, Residency, Tile, evaluate
from sim.accesses import tally

ARCHITECTURE = load_architecture(
    {
        "extends": "fusemax-cloud",
        "parameters": {"array_dim": 4},
        "memories": {"local": {"size_bytes": "1 MiB", "read_energy_pj": 1, "write_energy_pj": 2}},
    }
).resolve()
MEMORIES = ("DRAM", "buffer", "local")
# two products in a row, and two Einsums that read the same input
CASCADES = {
    "chain": (
        "{name: chain, ranks: {R: r, K: k, N: n, S: s}, inputs: ['A[r,k]', 'W[k,n]', 'V[n,s]'],"
        " outputs: [Z], body: ['Y[r,n] = A[r,k] * W[k,n]', 'Z[r,s] = Y[r,n] * V[n,s]']}",
        {"Y": ({"A": "RK", "W": "KN"}, "RN"), "Z": ({"Y": "RN", "V": "NS"}, "RS")},
        "RN",
    ),
    "siblings": (
        "{name: siblings, ranks: {R: r, K: k, N: n}, inputs: ['A[r,k]', 'W[k,n]', 'U[r]'],"
        " outputs: [Y, X], body: ['Y[r,n] = A[r,k] * W[k,n]', 'X[r,k] = A[r,k] * U[r]']}",
        {"Y": ({"A": "RK", "W": "KN"}, "RN"), "X": ({"A": "RK", "U": "R"}, "RK")},
        "RK",
    ),
}


@st.composite
def phases(draw):
    """Two fused Einsums: shared loops, own loops in any order, tiles at any depth."""
    name = draw(st.sampled_from(sorted(CASCADES)))
    _, einsums, common = CASCADES[name]
    shared = [
        Loop(f"s{i}", draw(st.sampled_from(common)), float(draw(st.integers(1, 3))))
        for i in range(draw(st.integers(0, 2)))
    ]
    used = sorted({r for ops, out in einsums.values() for r in "".join(ops.values()) + out})
    inner = {r: draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)) for r in used}
    nests = []
    for einsum, (operands, output) in einsums.items():
        ranks = sorted(set("".join(operands.values()) + output))
        parts = draw(st.permutations([(r, x) for r in ranks for x in inner[r]]))
        spatial = draw(st.integers(0, 2))
        own = [
            Loop(f"{einsum}{i}", r, float(x), i >= len(parts) - spatial)
            for i, (r, x) in enumerate(parts)
        ]
        nests.append(EinsumMapping(einsum, "2d", (*shared, *own), len(shared)))
    covered = {
        r: prod(inner[r]) * prod(int(x.extent) for x in shared if x.rank == r) for r in inner
    }
    padded = draw(st.booleans())
    shape = {r: draw(st.integers(1, n)) if padded else n for r, n in covered.items()}
    residency = {}
    for tensor in sorted({t for ops, _ in einsums.values() for t in ops} | set(einsums)):
        users = [n for n in nests if tensor == n.einsum or tensor in einsums[n.einsum][0]]
        between = name == "chain" and tensor == "Y"
        home = "buffer" if between and draw(st.booleans()) else "DRAM"
        retain = {m: draw(st.booleans()) for m in MEMORIES}
        copies = {m: draw(st.integers(1, 2)) for m in MEMORIES}
        chains = {}
        for nest in users:
            limit = len(shared) if home == "buffer" else len(nest.temporal)
            chain, position = [], 0
            for memory in MEMORIES[1:]:
                if not (memory == home or draw(st.booleans())):
                    continue
                position = draw(st.integers(position, limit))
                limit = len(nest.temporal)
                below = nest.loops[position - 1].name if position else None
                chain.append(Tile(memory, below, copies[memory], retain[memory]))
            chains[nest.einsum] = tuple(chain)
        residency[tensor] = (Option(True, Residency(home, (), chains)),)
    return name, shape, Phase("random", tuple(nests), residency), covered


def held(loops, position, index, ranks, shape):
    """The words of a tensor over `ranks` that the loops from `position` on go through."""
    axes = []
    for rank in ranks:
        own = [(i, loop) for i, loop in enumerate(loops) if loop.rank == rank]
        values = [[index[i]] if i < position else range(int(x.extent)) for i, x in own]
        found = []
        for choice in itertools.product(*values):
            at = 0
            for value, (_, loop) in zip(choice, own, strict=True):
                at = at * int(loop.extent) + value
            found.append(at)
        axes.append([x for x in found if x < shape[rank]])
    return frozenset(itertools.product(*axes))


class Walk:
    """Runs a phase and counts the words that move between the memories, and the read-backs."""

    def __init__(self, phase, einsums, shape):
        self.phase, self.einsums, self.shape = phase, einsums, shape
        self.reads, self.writes = Counter(), Counter()
        self.departed, self.back = Counter(), Counter()
        self.now, self.left = {}, {}
        first = phase.einsums[0]
        shared = [range(int(x.extent)) for x in first.loops[: first.shared]]
        self.iterations = Counter()
        for outer in itertools.product(*shared):
            for nest in phase.einsums:
                own = [range(int(x.extent)) for x in nest.temporal[nest.shared :]]
                for rest in itertools.product(*own):
                    self.iterations[nest.einsum] += 1
                    self.step(nest, (*outer, *rest))
        for key, (_, words, tensor, inside, outside) in list(self.now.items()):
            if key[-1] == "out":
                self.leave(key, words, tensor, inside, outside)

    def step(self, nest, index):
        operands, output = self.einsums[nest.einsum]
        for tensor, ranks in operands.items():
            self.use(nest, index, tensor, ranks, "in")
        self.use(nest, index, nest.einsum, output, "out")

    def use(self, nest, index, tensor, ranks, way):
        residency = self.phase.residency[tensor][0].residency
        tiles = residency.of(nest.einsum)
        at_home = bool(tiles) and tiles[0].memory == residency.home
        outside = residency.home
        for tile in tiles[1:] if at_home else tiles:
            names = [loop.name for loop in nest.loops]
            position = names.index(tile.below) + 1 if tile.below else 0
            private = nest.einsum if position > nest.shared else ""
            key = (tensor, tile.memory, tile.below, private, way)
            self.change(
                key, nest, index, position, ranks, tensor, tile.memory, outside, tile.retain
            )
            outside = tile.memory
        key = (tensor, "PEs", nest.einsum, way)
        self.change(key, nest, index, len(nest.temporal), ranks, tensor, None, outside, True)

    def change(self, key, nest, index, position, ranks, tensor, inside, outside, retain):
        words = held(nest.loops, position, index, ranks, self.shape)
        label = words if retain else index[:position]
        if key in self.now and self.now[key][0] == label:
            return
        if key[-1] == "out":
            if key in self.now:
                self.leave(key, *self.now[key][1:])
            self.back[outside, inside, tensor] += len(words & self.left.get(key, frozenset()))
        else:
            self.reads[outside, tensor] += len(words)
            self.writes[inside, tensor] += len(words)
        self.now[key] = (label, words, tensor, inside, outside)

    def leave(self, key, words, tensor, inside, outside):
        self.writes[outside, tensor] += len(words)
        self.reads[inside, tensor] += len(words)
        self.departed[outside, inside, tensor] += len(words)
        self.left[key] = self.left.get(key, frozenset()) | words


def expected(walk):
    """Words read from and written to each memory, by tensor, and by the convention of `sim`.

    Where partial results come back at all, they are read at their first visit too.
    """
    reads, writes = Counter(walk.reads), Counter(walk.writes)
    for (outside, inside, tensor), words in walk.departed.items():
        if walk.back[outside, inside, tensor]:
            reads[outside, tensor] += words
            writes[inside, tensor] += words
    return reads, writes


@given(phases())
@settings(max_examples=200, deadline=None)
def test_every_access_is_that_of_a_walk(case):
    name, shape, phase, _ = case
    text, einsums, _ = CASCADES[name]
    found = tally(parse_cascade(text), ARCHITECTURE, shape, phase)
    walk = Walk(phase, einsums, shape)
    reads, writes = expected(walk)
    for memory in MEMORIES:
        for tensor in phase.residency:
            total = reads[memory, tensor] + writes[memory, tensor]
            assert found.words_by_tensor.get((memory, tensor), 0) == pytest.approx(total)
        read = sum(n for (m, _), n in reads.items() if m == memory)
        written = sum(n for (m, _), n in writes.items() if m == memory)
        assert found.read_words.get(memory, 0) == pytest.approx(read)
        assert found.write_words.get(memory, 0) == pytest.approx(written)


@given(phases())
@settings(max_examples=50, deadline=None)
def test_edges_of_arrays_and_what_goes_between_memories_are_all(case):
    name, shape, phase, _ = case
    cascade = parse_cascade(CASCADES[name][0])
    for tensor in phase.residency:
        every, edges, between, room = (
            tally(cascade, ARCHITECTURE, shape, phase, tensor, what)
            for what in ("all", "edges", "between", "room")
        )
        assert every.footprint_words == between.footprint_words == room.footprint_words
        assert not edges.footprint_words
        assert not room.moved_words
        for move, words in every.moved_words.items():
            parts = [each.moved_words.get(move, 0.0) for each in (edges, between)]
            assert words == pytest.approx(sum(parts))
        assert every.moved_words.keys() == edges.moved_words.keys() | between.moved_words.keys()


@given(phases())
@settings(max_examples=100, deadline=None)
def test_the_room_of_tiles_is_what_they_hold(case):
    name, _, phase, covered = case
    text, einsums, _ = CASCADES[name]
    found = tally(parse_cascade(text), ARCHITECTURE, covered, phase)
    room = {}
    for nest in phase.einsums:
        operands, output = einsums[nest.einsum]
        for tensor, ranks in {**operands, nest.einsum: output}.items():
            for tile in phase.residency[tensor][0].residency.of(nest.einsum):
                names = [loop.name for loop in nest.loops]
                position = names.index(tile.below) + 1 if tile.below else 0
                words = len(held(nest.loops, position, [0] * position, ranks, covered))
                key = (tile.memory, tensor, *names[:position])
                room[key] = max(room.get(key, 0), tile.copies * words)
    for memory in MEMORIES[1:]:
        assert found.footprint(memory) == sum(n for (m, *_), n in room.items() if m == memory)


@given(phases())
@settings(max_examples=150, deadline=None)
def test_an_evaluation_moves_and_takes_what_the_walk_does(case):
    name, shape, phase, _ = case
    text, einsums, _ = CASCADES[name]
    cascade = parse_cascade(text)
    found = evaluate(Mapping(cascade, ARCHITECTURE, shape, (PhaseChoice((phase,)),)))
    assert found.infeasible[0] is None
    walk = Walk(phase, einsums, shape)
    reads, writes = expected(walk)
    words = sum(n for (m, _), n in (reads + writes).items() if m == "DRAM")
    assert found.traffic_bytes[0] == pytest.approx(2 * words)
    read_once = {t for ops, _ in einsums.values() for t in ops} - set(einsums)
    ranks = {t: r for ops, _ in einsums.values() for t, r in ops.items()}
    least = sum(prod(shape[r] for r in ranks[t]) for t in read_once)
    least += sum(
        prod(shape[r] for r in out) for e, (_, out) in einsums.items() if e in cascade.outputs
    )
    assert words >= least
    assert found.busy_s["2d"][0] == pytest.approx(sum(walk.iterations.values()) / 940e6)


@given(phases(), st.integers(2, 3))
@settings(max_examples=40, deadline=None)
def test_arrays_of_shapes_are_their_entries(case, times):
    """Extents of one structure as arrays: the padded and the true words of each point."""
    name, shape, phase, covered = case
    cascade = parse_cascade(CASCADES[name][0])
    shapes = [shape, covered, {r: max(1, n // times) for r, n in covered.items()}]
    stacked = {r: np.array([s[r] for s in shapes]) for r in shape}
    many = evaluate(Mapping(cascade, ARCHITECTURE, stacked, (PhaseChoice((phase,)),)))
    for i, each in enumerate(shapes):
        alone = evaluate(Mapping(cascade, ARCHITECTURE, each, (PhaseChoice((phase,)),)))
        assert many.infeasible[i] == alone.infeasible[0]
        for cost in ("latency_s", "traffic_bytes", "energy_pj"):
            assert getattr(many, cost)[i] == pytest.approx(
                getattr(alone, cost)[0], rel=1e-12, nan_ok=True
            )
