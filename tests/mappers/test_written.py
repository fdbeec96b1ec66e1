"""Mappings in files: what is written is read back, costs the same, and mistakes are shown."""

from __future__ import annotations

import random
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mappers
import workloads
from archs import load_architecture
from einsum_cascade import InputError, parse_cascade
from einsum_cascade.source import check, parse_yaml
from mappers.search.recompute import rewrite
from mappers.tree import loop_tree, plain, touched
from mappers.written import MappingFile, load_mapping, write_mapping
from mappers.written.schema import MappingSchema
from sim import (
    IN_ARRAY,
    EinsumMapping,
    Loop,
    Mapping,
    Option,
    Phase,
    PhaseChoice,
    Residency,
    Tile,
    evaluate,
)
from sim.accesses import tally
from sim.single import single_point

PAGE = Path(__file__).parents[2] / "docs" / "mappings.md"
SMALL = {"B": 2, "H": 3, "E": 64, "F": 64, "P": 512, "M": 512}


def read(text):
    document = parse_yaml(text, "mapping.yaml")
    return MappingFile(check(MappingSchema, document), document)


def whole(text, cascade, on, shape):
    file = read(text)
    file.check_names(cascade, on)
    return file.place(cascade, on, shape)


def placed(mapper, arch, cascade, shape, **options):
    on = load_architecture(arch).resolve({})
    found = workloads.cascade(cascade)
    each = {rank: np.array([extent]) for rank, extent in shape.items()}
    given_options = mappers.check_options(mapper, options)
    mapping = mappers.place(mapper, given_options, cascade=found, architecture=on, shape=each)
    return single_point(mapping), found, on, each


def same(one, other):
    """All that an evaluation says, the note aside."""
    for name in (f.name for f in fields(one) if f.name != "mapping_notes"):
        ours, theirs = getattr(one, name), getattr(other, name)
        if isinstance(ours, dict):
            assert ours.keys() == theirs.keys()
            pairs = [(ours[key], theirs[key]) for key in ours]
        else:
            pairs = [(ours, theirs)]
        for a, b in pairs:  # a number that is not one is written as such
            assert repr(np.ravel(a).tolist()) == repr(np.ravel(b).tolist()), name


MAPPINGS = {
    "fusemax": ("fusemax", "fusemax-cloud", "attention-1pass", SMALL, {}),
    "fusemax with steps": ("fusemax", "fusemax-cloud", "attention-1pass", SMALL, {"schedule": "serial"}),
    "padded keys": ("fusemax", "fusemax-cloud", "attention-1pass", {**SMALL, "M": 1000, "P": 1000}, {}),
    "flat that spills": ("flat", "flat-edge", "attention-3pass", {**SMALL, "P": 4096, "M": 4096}, {}),
    "unfused": ("unfused", "flat-cloud", "attention-3pass", SMALL, {"folds": "serialized"}),
    "fused": ("fused", "fusemax-cloud", "grouped-query-attention", {**SMALL, "B": 1, "H": 4, "G": 2, "P": 256, "M": 256}, {}),
    "search, two phases": ("search", "flat-edge", "attention-3pass", SMALL, {"recompute": False}),
    "an FPGA template": ("edge_moe", "edge-moe-zcu102", "edge-moe-attention",
                         {"B": 1, "H": 3, "E": 64, "F": 64, "P": 129, "M": 129}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", MAPPINGS)
def test_what_a_mapper_found_is_read_back(name):
    mapper, arch, cascade, shape, options = MAPPINGS[name]
    mapping, found, on, each = placed(mapper, arch, cascade, shape, **options)
    text = write_mapping(mapping, "mine", found, each)
    file = read(text)
    file.check_names(found, on)
    again = file.place(found, on, each)
    assert write_mapping(again, "mine", found, each) == text
    same(evaluate(mapping), evaluate(again))
    assert {k: float(v) for k, v in mapping.shape.items()} == {
        k: float(np.ravel(v)[0]) for k, v in again.shape.items()
    }


def test_what_a_search_found_is_the_same_object():
    mapping, found, _, each = placed(
        "search", "fusemax-cloud", "attention-1pass", SMALL, fusion="whole"
    )
    again = read(write_mapping(mapping, "mine", found, each)).place(
        found, mapping.architecture, each
    )
    assert single_point(again).phases == mapping.phases
    assert all(
        loop.extent > 1 or loop.spatial or at < nest.shared
        for nest in mapping.phases[0].options[0].einsums
        for at, loop in enumerate(nest.loops)
    )


def test_copies_that_are_made_again():
    """The file is for the cascade as it was; the copies are Einsums of the mapping."""
    cascade = workloads.cascade("attention-3pass")
    again = rewrite(cascade, ("QK",))
    on = load_architecture("flat-cloud").resolve({})
    shape = {"B": 1, "H": 1, "E": 64, "F": 64, "P": 64, "M": 512}
    options = mappers.check_options("unfused", {})
    mapping = single_point(
        mappers.place("unfused", options, cascade=again, architecture=on,
                      shape={k: np.array([v]) for k, v in shape.items()})
    )  # fmt: skip
    text = write_mapping(mapping, "mine", cascade, shape)
    assert "recompute: [QK]" in text
    assert "einsum: QKagain2" in text
    same(evaluate(read(text).place(cascade, on, shape)), evaluate(mapping))
    without = text.replace("recompute: [QK]\n", "")
    with pytest.raises(InputError, match="'QKagain2' is no Einsum of cascade"):
        read(without).place(cascade, on, shape)


def test_the_example_of_the_page():
    """It is FuseMax's mapping at every length, from one file with expressions."""
    text = next(
        block for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
        if "phases:" in block
    )  # fmt: skip
    on = load_architecture("fusemax-cloud").resolve({})
    cascade = workloads.cascade("attention-1pass")
    lengths = np.array([1024, 2048, 4096])
    shape = {"B": 64, "H": 12, "E": 64, "F": 64, "P": lengths, "M": lengths}
    shape = {k: np.broadcast_to(v, lengths.shape) for k, v in shape.items()}
    file = read(text)
    file.check_names(cascade, on)
    ours = evaluate(file.place(cascade, on, shape))
    options = mappers.check_options("fusemax", {})
    theirs = evaluate(
        mappers.place("fusemax", options, cascade=cascade, architecture=on, shape=shape)
    )
    same(ours, theirs)
    assert set(ours.infeasible) == {None}
    assert set(ours.mapping_notes) == {"sixteen tiles of queries for each tile of keys"}
    swept = load_architecture("fusemax-cloud").resolve({"array_dim": np.array([64, 128, 256])})
    assert set(evaluate(file.place(cascade, swept, shape)).infeasible) == {None}


CHAIN = parse_cascade(
    """
    {name: chain, ranks: [P, M, E], inputs: ["Q[e,p]", "K[e,m]"], outputs: [Z],
     body: ["X[m,p] = Q[e,p] * K[e,m]", "Y[m,p] = exp(X[m,p])", "Z[p] = Y[m,p]"]}"""
)
TWO_LEVELS = load_architecture(
    {
        "extends": "fusemax-cloud",
        "parameters": {"array_dim": 2},
        "memories": {
            "scratch": {"size_bytes": "512 B", "read_energy_pj": 1, "write_energy_pj": 1},
            "buffer": {"size_bytes": "4 KiB"},
        },
    }
).resolve({})
MEMORIES = [memory.name for memory in TWO_LEVELS.memories]


SIZES = {"P": 8, "M": 8, "E": 4}


def random_phase(seed):
    """Any phase that the simulator takes for one, be it legal or not."""
    rng = random.Random(seed)
    names = ["X", "Y", "Z"]
    common = ["P2", rng.choice(["M1", "rows"])]
    apart = rng.random() < 0.5  # Z has another second loop than the rest
    extent = {name: rng.randint(1, 4) for name in (*common, "M1.1")}
    rank = {"P2": "P", "M1": "M", "rows": "M", "M1.1": "M"}
    nests = []
    for name in names:
        around = ["P2", "M1.1"] if apart and name == "Z" else common
        around = around[: rng.randint(0, 2)]
        loops = [Loop(n, rank[n], np.float64(extent[n])) for n in around]
        wide = [Loop("P0", "P", np.float64(2), True)] * rng.randint(0, 1)
        own = rng.sample("PME" if name == "X" else "PM", 3 if name == "X" else 2)
        for r in own if rng.random() < 0.9 else own[1:]:
            done = np.prod([lp.extent for lp in (*loops, *wide) if lp.rank == r])
            loops.append(Loop(f"{r}t", r, np.ceil(SIZES[r] / done)))
        loops += wide
        issue = rng.choice(["sequential", "pipelined"])
        array = rng.choice(["2d", "1d"])
        nests.append(EinsumMapping(name, array, tuple(loops), len(around), issue))
    residency = {}
    for tensor in "QKXYZ":
        home = rng.choice(["DRAM", "DRAM", "buffer", "scratch", IN_ARRAY])
        users = [n for n in nests if tensor in touched(CHAIN, n.einsum)]
        outer = MEMORIES.index(home) if home in MEMORIES else 0
        chains = {}
        for nest in users:
            picked = [m for m in MEMORIES[outer + 1 :] if rng.random() < 0.5]
            picked = [home, *picked] if home in MEMORIES[1:] else picked
            below = [None, *(loop.name for loop in nest.temporal)]
            chains[nest.einsum] = tuple(
                Tile(m, rng.choice(below), rng.randint(1, 2), rng.random() < 0.7) for m in picked
            )
        readers = [n.einsum for n in users if n.einsum != tensor]
        handed = frozenset(r for r in readers if rng.random() < 0.3)
        residency[tensor] = (Option(True, Residency(home, (), chains, None, handed)),)
    if rng.random() < 0.5:
        steps = (("X", "Y"), ("Z",))
        return Phase("p", tuple(nests), residency, steps, np.float64(rng.randint(0, 9)))
    return Phase("p", tuple(nests), residency)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32).map(random_phase))
def test_any_phase_is_read_back(phase):
    # what shares a loop stands together in a file
    phase = replace(phase, einsums=tuple(e.nest for e in loop_tree(CHAIN, phase).leaves()))
    extents = {rank: np.float64(n) for rank, n in SIZES.items()}
    mapping = Mapping(CHAIN, TWO_LEVELS, extents, (PhaseChoice((phase,)),))
    text = write_mapping(mapping, "mine", CHAIN, SIZES)
    again = read(text).place(CHAIN, TWO_LEVELS, SIZES)
    assert write_mapping(again, "mine", CHAIN, SIZES) == text
    there = again.phases[0].options[0]
    assert there.einsums == phase.einsums
    for tensor, (option,) in phase.residency.items():
        other = there.residency[tensor][0].residency
        assert (option.residency.home, option.residency.handed_to) == (other.home, other.handed_to)
        for einsum in option.residency.tiles_of:
            assert option.residency.of(einsum) == other.of(einsum)
    assert (phase.steps, phase.stall_cycles) == (there.steps, there.stall_cycles)
    one, other = (tally(CHAIN, TWO_LEVELS, extents, p) for p in (phase, there))
    assert one.moved_words == other.moved_words
    assert one.footprint_words == other.footprint_words
    same(evaluate(mapping), evaluate(again))


def test_left_out_is_what_says_nothing():
    """An idle loop goes unless a tile hangs below it; equal chains are one."""
    idle = Loop("Mt", "M", np.float64(1))
    kept = Loop("Pt", "P", np.float64(1))
    real = Loop("Et", "E", np.float64(4))
    nest = EinsumMapping("X", "2d", (Loop("P2", "P", np.float64(1)), idle, kept, real), 1)
    tile = (Tile("buffer", "Pt"),)
    residency = {
        "Q": (Option(True, Residency("DRAM", (), {"X": tile})),),
        "K": (Option(np.True_, Residency("DRAM", tile, {"X": ()})),),
        "X": (Option(True, Residency("DRAM")),),
        "Z": (Option(True, Residency("DRAM")),),
    }
    mapping = Mapping(CHAIN, TWO_LEVELS, {}, (PhaseChoice((Phase("p", (nest,), residency),)),))
    found = plain(mapping).phases[0].options[0]
    assert [loop.name for loop in found.einsums[0].loops] == ["P2", "Pt", "Et"]
    assert found.residency["Q"][0].residency == Residency("DRAM", tile)
    assert found.residency["K"][0].residency == Residency("DRAM")
    assert "Z" not in found.residency


@pytest.fixture(scope="module")
def flat():
    shape = {**SMALL, "P": 4096, "M": 4096}
    mapping, cascade, on, each = placed("flat", "flat-edge", "attention-3pass", shape)
    return write_mapping(mapping, "mine", cascade, each), cascade, on, each


MISTAKES = {
    "an Einsum": ("einsum: QK", "einsum: QQ", "no Einsum of cascade 'attention-3pass'.*allowed: QK, GM"),
    "an Einsum twice": ("einsum: GM", "einsum: QK", "QK is placed twice"),
    "an array": ("array: 2d", "array: 3d", "'3d' is no array of 'flat-edge'; allowed: 2d, 1d"),
    "a memory": ("keep: {buffer: [{tensor: Q", "keep: {bufer: [{tensor: Q", "did you mean 'buffer'"),
    "a home": ("    buffer: [QK", "    buf: [QK", "'buf' is no memory.*allowed: DRAM, buffer, array; did you mean 'buffer'"),
    "a tensor": ("    array: [GM", "    array: [GN", "'GN' is no tensor that an Einsum of this phase touches"),
    "a tensor without a home": ("[Q, K, V, AV]", "[Q, K, AV]", "does not say where V lives"),
    "a tensor with two homes": ("[Q, K, V, AV]", "[Q, K, V, AV, GM]", "GM lives in DRAM already"),
    "a kept tensor": ("tensor: K,", "tensor: V,", "'V' is no tensor that an Einsum inside of here touches"),
    "a loop": ("below: E1", "below: E2", "'E2' is no loop around it; allowed: B, H, P2, M1, E1, P1, P0"),
    "a rank": ("Pr: 64", "Rr: 64", "loop 'Rr' begins with the name of no rank"),
    "a rank by name": ("Pr: 64", "Pr: {rank: R, extent: 64}", "'R' is no rank of cascade"),
    "a loop twice": ("for: {Pr: 64}", "for: {P2: 64}", "a loop 'P2' inside of another one"),
    "an extent": ("Pr: 64", "Pr: Q/2", "unknown name 'Q' in 'Q/2'; allowed"),
    "half an extent": ("Pr: 64", "Pr: 5/2", "loop Pr must be a whole number of at least 1, '5/2' is 2.5"),
    "no iterations": ("Pr: 64", "Pr: 0", "a whole number of at least 1, found 0"),
    "code": ("Pr: 64", "Pr: \"__import__('os')\"", "not an arithmetic expression"),
    "in place": ("SN: QK, A: QK", "SN: QK, A: QX", "'QX' is no tensor"),
    "in place of nothing": ("SN: QK, A: QK", "SN: GM, A: QK", "SN is in place of GM, which has no room"),
    "handed to": ("{SN: [SD]}", "{SN: [GM]}", "'GM' is no Einsum of this phase that touches SN"),
    "spilled": ("AV: [A]", "AV: [QK]", "'QK' is no tensor of AV; allowed: A, V, AV"),
    "a key": ("copies: 2", "copy: 2", "unknown key 'copy'.*did you mean 'copies'"),
    "an issue": ("issue: pipelined", "issue: piped", "did you mean 'pipelined'"),
    "a shape": ("shape: {B: 2", "shape: {BB: 2", "has no rank or parameter 'BB'"),
    "another shape": ("shape: {B: 2", "shape: {B: 3", "the mapping is for B = 3, and here it is 2"),
    "another cascade": ("cascade: attention-3pass", "cascade: other", "a mapping of cascade 'other'"),
    "two tiles": ("keep: {buffer: [{tensor: Q", "keep: {buffer: [Q, {tensor: Q", "buffer keeps two tiles of Q for QK"),
    "no tile at home": ("QK, SN, A]}", "QK, SN]}", "A lives in buffer: a tile must say"),
    "made again": ("cascade: attention-3pass", "recompute: [GM]", "'GM' is no tensor that can be made again; allowed: QK, SN"),
    "not yaml": ("phases:", "phases: ]", "not valid YAML"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(flat, name):
    text, cascade, on, shape = flat
    old, new, message = MISTAKES[name]
    assert old in text, old
    changed = text.replace(old, new, 1)
    line = next(
        i
        for i, (a, b) in enumerate(zip(text.splitlines(), changed.splitlines(), strict=True))
        if a != b
    )
    with pytest.raises(InputError, match=message) as caught:
        whole(changed, cascade, on, shape)
    assert "mapping.yaml:" in str(caught.value)
    apart = {"a tensor without a home", "in place of nothing", "two tiles", "no tile at home"}
    if name not in apart | {"a tensor with two homes"}:  # these show the phase, Einsum or list
        assert caught.value.place.line == line + 1


def test_two_loops_of_one_name_beside_each_other(flat):
    """By name they would be one loop, which the tree does not show."""
    text, cascade, on, shape = flat
    again = "    - for: {Pr: 64}\n      do:\n      - {einsum: SN,"
    changed = text.replace("      - {einsum: SN,", again, 1)
    with pytest.raises(InputError, match="two loops 'Pr' beside each other"):
        read(changed).place(cascade, on, shape)


def test_what_does_not_cover_is_the_simulators_objection(flat):
    text, cascade, on, shape = flat
    reason = evaluate(read(text.replace("P2: 64", "P2: 32")).place(cascade, on, shape)).infeasible[
        0
    ]
    assert "the loops of QK cover 2048 of 4096 coordinates of rank P" in reason
    mapping, cascade, on, each = placed("unfused", "flat-cloud", "attention-3pass", SMALL)
    text = write_mapping(mapping, "mine", cascade, each)
    missing = text[: text.index("- name: AV")]
    reason = evaluate(read(missing).place(cascade, on, each)).infeasible[0]
    assert reason == "every Einsum is placed once, but AV 0 times"


def test_a_pause():
    mapping, cascade, on, each = placed("fusemax", "fusemax-cloud", "attention-1pass", SMALL)
    pause = Phase("wait", (), {}, steps=((),), stall_cycles=np.float64(940e3))
    waiting = replace(mapping, phases=(*mapping.phases, PhaseChoice((pause,))))
    text = write_mapping(waiting, "mine", cascade, each)
    assert text.endswith("- name: wait\n  stall_cycles: 940000\n")
    found = evaluate(read(text).place(cascade, on, each))
    assert found.infeasible[0] is None
    assert found.latency_s[0] == pytest.approx(evaluate(mapping).latency_s[0] + 1e-3)
    assert found.energy_pj[0] == evaluate(mapping).energy_pj[0]


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="no mapping file"):
        load_mapping(tmp_path / "none.yaml")
