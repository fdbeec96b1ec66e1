"""Ports of the outermost memory against a port that is run cycle by cycle; widths of elements."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archs import (
    Architecture,
    ComputeArray,
    Memory,
    Operation,
    PipelinedLoop,
    Port,
    load_architecture,
)
from einsum_cascade import parse_cascade
from sim import (
    EinsumMapping,
    Loop,
    Mapping,
    Option,
    Phase,
    PhaseChoice,
    Residency,
    Tile,
    always,
    evaluate,
    footprint_bytes,
)
from sim.single import single_point
from sim.timeline import timeline

HZ, WORD = 1.0, 4.0


def unit():
    operations = {kind: Operation(kind, {}, 0.0, {}) for kind in ("add", "mac", "mul")}
    loop = PipelinedLoop(1.0, 1.0)
    return ComputeArray("unit", (8.0,), operations, 0.0, 0.0, np.nan, loop)


def architecture(*ports, bandwidth=1e12):
    dram = Memory("DRAM", np.inf, bandwidth, 1.0, 0.0, 0.0, 0.0, ports)
    rows = Memory("rows", 1e9, np.inf, 1.0, 0.0, 0.0, 0.0)
    return Architecture("toy", HZ, WORD, (dram, rows), (unit(),), frozenset(), {})


def cycles_of_port(beats, kernel_bits, memory_bits, alone):
    """Cycles in which a port hands over its beats, one after the other.

    A beat of a burst leaves when all of its bits have come, one beat a cycle at most; a beat by
    itself is asked for when the one before has left, and takes `alone` at least.
    """
    now = here = 0
    for single in beats:
        began, here = now, here if not single else 0
        while True:
            now += 1
            here += memory_bits
            if here >= kernel_bits and (not single or now - began >= alone):
                here = min(here - kernel_bits, 0 if memory_bits >= kernel_bits else here)
                break
    return now


@given(
    st.sampled_from([32, 64, 128, 256]),
    st.sampled_from([32, 64, 128, 256]),
    st.integers(1, 9),
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_a_port_beat_by_beat(kernel_bits, memory_bits, alone, bursts, singles):
    port = Port("p", float(kernel_bits), float(memory_bits), float(alone))
    beats = [False] * bursts + [True] * singles
    size = kernel_bits / 8
    found = port.cycles(bursts * size, singles * size)
    assert found == cycles_of_port(beats, kernel_bits, memory_bits, alone)


SUM = parse_cascade(
    "{name: sum, ranks: {R: r, D: d}, inputs: ['A[r,d]', 'B[r,d]'], outputs: [Z],"
    " body: ['Z[r,d] = A[r,d] + B[r,d]']}"
)
GATHER = parse_cascade(
    "{name: gather, ranks: {R: r, T: t, D: d}, inputs: ['ID[r]', 'A[t,d]', 'B[r,d]'],"
    " outputs: [Z], body: ['Z[r,d] = A[ID[r],d] + B[r,d]']}"
)


def placed(cascade, shape, hardware, ports, *, widths=None, in_place=False, spilled=None):
    loops = (Loop("R", "R", shape["R"]), Loop("D1", "D", np.ceil(shape["D"] / 8)),
             Loop("D0", "D", 8.0, True))  # fmt: skip
    kept = {t: always("DRAM", Tile("rows", "R")) for t in cascade.tensors}
    kept["Z"] = (Option(True, Residency("DRAM", in_place_of="A" if in_place else None)),)
    nests = (EinsumMapping("Z", "unit", loops),)
    formats = {tensor: tensor for tensor in widths or {}}
    phase = Phase("p", nests, kept, ports=ports, formats=formats, spilled=spilled or {})
    wide = with_formats(hardware, widths or {})
    return Mapping(cascade, wide, shape, (PhaseChoice((phase,)),))


def with_formats(hardware, widths):
    """An architecture with a format for each tensor, of so many words."""
    bits = {tensor: words * 8 * hardware.word_bytes for tensor, words in widths.items()}
    return replace(hardware, format_bits=bits)


TENSORS = ("A", "B", "Z")


@given(
    *[st.integers(1, 12)] * 2,
    st.tuples(*[st.integers(0, 2)] * 3),
    st.tuples(*[st.sampled_from([1, 2, 4])] * 3),
    st.booleans(),
    st.integers(1, 9),
)
@settings(max_examples=60)
def test_reads_and_writes_of_a_port_are_side_by_side(rows, beats, ports, widths, in_place, alone):
    """A sum of two tensors over three ports of 8 words, with elements of 4, 8 and 16 bytes."""
    hardware = architecture(*(Port(n, 256.0, 128.0, float(alone)) for n in "ijk"))
    by_port = {t: "ijk"[p] for t, p in zip(TENSORS, ports, strict=True)}
    words = dict(zip(TENSORS, map(float, widths), strict=True))
    shape = {"R": rows, "D": 8 * beats}
    mapping = placed(SUM, shape, hardware, by_port, widths=words, in_place=in_place)
    found = evaluate(mapping)
    assert found.infeasible[0] is None
    longest = 0
    for name in "ijk":
        ways = {True: [], False: []}
        for tensor in TENSORS:
            if by_port[tensor] == name:
                single = in_place and tensor in "AZ"
                ways[tensor == "Z"] += [single] * int(rows * beats * words[tensor])
        cycles = max(cycles_of_port(sorted(w), 256, 128, alone) for w in ways.values())
        assert found.busy_s[f"DRAM.{name}"][0] == pytest.approx(cycles)
        longest = max(longest, cycles)
    assert found.latency_s[0] == pytest.approx(max(longest, rows * beats))


@given(*[st.integers(1, 20)] * 3, st.integers(1, 9))
@settings(max_examples=40)
def test_gathered_rows_come_beat_by_beat(rows, table, beats, alone):
    hardware = architecture(Port("i", 256.0, 128.0, float(alone)), Port("o", 256.0, 128.0, 1.0))
    ports = {"A": "i", "B": "o", "Z": "o", "ID": "o"}
    shape = {"R": rows, "T": table, "D": 8 * beats}
    found = evaluate(placed(GATHER, shape, hardware, ports))
    assert found.infeasible[0] is None
    assert found.traffic_by_tensor_bytes["A"][0] == pytest.approx(rows * beats * 32)
    cycles = cycles_of_port([True] * rows * beats, 256, 128, alone)
    assert found.busy_s["DRAM.i"][0] == pytest.approx(cycles)


def test_ports_share_the_bandwidth_of_the_memory():
    hardware = architecture(*(Port(n, 256.0, 128.0, 1.0) for n in "ijk"), bandwidth=24.0)
    shape = {"R": 10, "D": 32}
    found = evaluate(placed(SUM, shape, hardware, dict(zip(TENSORS, "ijk", strict=True))))
    assert {found.busy_s[f"DRAM.{n}"][0] for n in "ijk"} == {10 * 4 * 2}
    assert found.latency_s[0] == found.busy_s["DRAM"][0] == 3 * 10 * 32 * 4 / 24
    assert found.bottleneck[0] == "DRAM"


@given(*[st.integers(1, 40)] * 2, st.tuples(*[st.floats(0.125, 4)] * 3))
@settings(max_examples=40)
def test_widths_scale_traffic_room_and_bound(rows, features, widths):
    shape = {"R": rows, "D": features}
    plain = placed(SUM, shape, architecture(), {})
    words = dict(zip(TENSORS, widths, strict=True))
    wide = placed(SUM, shape, architecture(), {}, widths=words)
    before, after = evaluate(plain), evaluate(wide)
    for tensor in TENSORS:
        scaled = before.traffic_by_tensor_bytes[tensor][0] * words[tensor]
        assert after.traffic_by_tensor_bytes[tensor][0] == pytest.approx(scaled)
    moved = rows * features * WORD * sum(widths)
    assert [after.traffic_bytes[0], after.lower_bound_bytes[0]] == pytest.approx([moved, moved])
    held = 8 * np.ceil(features / 8)  # of Z nothing is held
    room = footprint_bytes(wide, wide.phases[0].options[0], "rows")
    assert room == pytest.approx(held * WORD * (words["A"] + words["B"]))
    assert after.busy_s["DRAM"][0] == pytest.approx(moved / 1e12)


def test_widths_may_be_an_axis():
    words = {"A": np.array([0.5, 1.0, 2.0])}
    mapping = placed(SUM, {"R": 4, "D": 8}, architecture(), {}, widths=words)
    assert evaluate(mapping).traffic_bytes.tolist() == [4 * 32 * w for w in (2.5, 3, 4)]


THREE = parse_cascade("""
name: passes
ranks: {P: p, M: m}
inputs: ["A[p,m]"]
outputs: [Z]
body:
  - S[p] = A[p,m]
  - Z[p,m] = A[p,m] * S[p]
""")


@given(st.integers(1, 6), st.integers(2, 60), st.sampled_from([0.25, 0.5, 1.0, 2.0]),
       st.integers(1, 80))  # fmt: skip
@settings(max_examples=60)
def test_the_bound_of_a_second_pass_knows_the_widths(p, m, width, room):
    """Row by row, a tile that keeps the row where it fits; else it comes again for the second."""
    hardware = architecture()
    size = room * WORD
    hardware = replace(
        hardware, memories=(hardware.memories[0], replace(hardware.memories[1], size_bytes=size))
    )
    loops = (Loop("p", "P", float(p)), Loop("m", "M", float(m)))
    again = (loops[0], replace(loops[1], name="m2"))
    fits = m * width <= room - 1
    shared = 1
    nests = (EinsumMapping("S", "unit", loops, shared), EinsumMapping("Z", "unit", again, shared))
    tile = Tile("rows", "p") if fits else Tile("rows", None)
    kept = {"A": always("DRAM", tile) if fits else always("DRAM"), "Z": always("DRAM"),
            "S": always("rows", Tile("rows", "p"))}  # fmt: skip
    phase = Phase("p", nests, kept, formats={"A": "A", "Z": "Z"})
    hardware = with_formats(hardware, {"A": width, "Z": width})
    found = evaluate(Mapping(THREE, hardware, {"P": p, "M": m}, (PhaseChoice((phase,)),)))
    assert found.infeasible[0] is None
    times = 2 if fits else 3
    assert found.traffic_bytes[0] == pytest.approx(times * p * m * width * WORD)
    assert found.lower_bound_bytes[0] <= found.traffic_bytes[0] * (1 + 1e-9)
    assert found.lower_bound_bytes[0] >= 2 * p * m * width * WORD * (1 - 1e-9)


def test_what_uses_the_outermost_memory_needs_a_port():
    hardware = architecture(Port("i", 256.0, 128.0, 1.0))
    ports = dict.fromkeys(TENSORS, "i")
    shape = {"R": 4, "D": 8}
    assert evaluate(placed(SUM, shape, hardware, ports)).infeasible[0] is None
    with pytest.raises(ValueError, match="B needs a port of DRAM: i"):
        evaluate(placed(SUM, shape, hardware, {"A": "i", "Z": "i", "B": "j"}))
    with pytest.raises(ValueError, match="Z needs a port of DRAM: i"):
        evaluate(placed(SUM, shape, hardware, {"A": "i", "B": "i"}))


def test_what_may_be_spilled_needs_a_port_too():
    hardware = architecture(Port("i", 256.0, 128.0, 1.0))
    loops = (Loop("p", "P", 4.0), Loop("m", "M", 8.0))
    again = (loops[0], replace(loops[1], name="m2"))
    nests = (EinsumMapping("S", "unit", loops, 1), EinsumMapping("Z", "unit", again, 1))
    kept = {"A": always("DRAM"), "Z": always("DRAM"), "S": always("rows", Tile("rows", "p"))}
    ports = {"A": "i", "Z": "i"}
    phase = Phase("p", nests, kept, ports=ports, spilled={("Z", "S"): True})
    mapping = Mapping(THREE, hardware, {"P": 4, "M": 8}, (PhaseChoice((phase,)),))
    with pytest.raises(ValueError, match="S needs a port of DRAM: i"):
        evaluate(mapping)


@pytest.mark.parametrize("width", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("keys", [3, 4, 8])
def test_the_timeline_moves_the_same_bytes(width, keys):
    """Elements of another width, and a rank in parts whose only tile is padded."""
    cascade = parse_cascade(
        "{name: parts, ranks: {P: p, M: {about: m, partition: [M1, M0]}, M1: {}, M0: {}},"
        " inputs: ['A[m]', 'Q[p]'], outputs: [Y],"
        " body: ['B[m1,m0] = A[m1*M0+m0]', 'Y[p] = B[m1,m0] * Q[p]']}"
    )
    hardware = load_architecture("flat-cloud").resolve()
    shape = {"P": 5, "M": keys, "M1": keys, "M0": 1}
    loops = (Loop("p", "P", 5.0), Loop("m", "M1", np.ceil(keys / 4)), Loop("m0", "M0", 1.0),
             Loop("m1", "M1", 4.0, True))  # fmt: skip
    kept = dict.fromkeys("QY", always("DRAM"))
    kept["A"] = always("DRAM", Tile("buffer", "m"))
    phase = Phase("p", (EinsumMapping("Y", "1d", loops),), kept, formats={"A": "A"})
    hardware = with_formats(hardware, {"A": width})
    mapping = Mapping(cascade, hardware, shape, (PhaseChoice((phase,)),))
    priced, played = evaluate(mapping), timeline(single_point(mapping))
    assert priced.infeasible[0] is None
    times = 1 if keys <= 4 else 5
    words = keys * times * width + 5 + 5
    assert priced.traffic_bytes[0] == pytest.approx(words * hardware.word_bytes)
    moved = priced.busy_s["DRAM"][0] * hardware.clock_hz
    assert played.units["DRAM"].busy == pytest.approx(moved)
