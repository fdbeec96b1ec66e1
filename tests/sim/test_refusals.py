"""What stays on chip, in registers or on its way between arrays: refusals at their exact borders."""

from __future__ import annotations

import numpy as np
import pytest

import mappers
import workloads
from archs import load_architecture
from einsum_cascade import parse_cascade
from sim import (
    IN_ARRAY,
    EinsumMapping,
    Loop,
    Mapping,
    Phase,
    PhaseChoice,
    Tile,
    always,
    evaluate,
)

FUSEMAX = load_architecture("fusemax-cloud")
ROWS, COLUMNS = 8, 64
# Z is in a later pass over N than Y, D in the same
SUMS = parse_cascade(
    "{name: sums, ranks: {R: rows, N: columns}, inputs: ['A[r,n]', 'W[n]'], outputs: [Z],"
    " body: ['Y[r,n] = A[r,n] * W[n]', 'D[r] = Y[r,n]', 'Z[r,n] = Y[r,n] * D[r]']}"
)
ON = {"Y": "2d", "D": "2d", "Z": "2d"}


def nest(einsum, shared=1, array="2d", columns=None, lanes=1):
    """Rows in the shared loop, then the columns, `lanes` of them side by side."""
    columns = COLUMNS if columns is None else columns
    loops = [Loop("r", "R", ROWS), Loop(f"{einsum}n", "N", columns / lanes)]
    loops += [Loop(f"{einsum}l", "N", lanes, True)] * (lanes > 1)
    return EinsumMapping(einsum, array, tuple(loops), shared)


def reason(nests, *, architecture=None, **homes):
    architecture = architecture or FUSEMAX.resolve()
    kept = {t: always("DRAM") for t in ("A", "W", "Y", "D", "Z")} | homes
    phase = Phase("rows", tuple(nests), kept)
    shape = {"R": ROWS, "N": COLUMNS}
    found = evaluate(Mapping(SUMS, architecture, shape, (PhaseChoice((phase,)),)))
    refused = found.infeasible[0] is not None
    for cost in (found.latency_s, found.traffic_bytes, found.energy_pj):
        assert np.isnan(cost).all() == refused
    return found.infeasible[0]


def test_a_tile_is_kept_only_inside_loops_that_its_users_share():
    all_three = [nest(e) for e in "YDZ"]
    row = always("buffer", Tile("buffer", "r"))
    assert reason(all_three, Y=row) is None
    apart = [nest("Y", shared=0), nest("D"), nest("Z")]
    found = reason(apart, Y=row)
    assert "would need tiles of Y that Y has overwritten: they do not share loop r" in found
    whole = always("buffer", Tile("buffer", None))
    assert reason(apart, Y=whole) is None


@pytest.mark.parametrize("words", [15, 16, 17, 64])
def test_registers_hold_what_the_next_einsum_takes_over(words):
    """A row of 64 words over 4 lanes: 16 words in each PE from Y to Z."""
    nests = [nest(e, lanes=4) for e in "YDZ"]
    architecture = FUSEMAX.resolve({"arrays.2d.registers.words": words})
    found = reason(nests, architecture=architecture, Y=always(IN_ARRAY))
    if words >= 16:
        assert found is None
    else:
        assert "each PE of array 2d needs 16 words of registers, and has 15" in found
        assert "1 are missing (Y takes 16)" in found


def test_a_later_pass_on_another_array_finds_nothing():
    """Y flows from the 2D to the 1D array for D, but Z comes when all of it has gone by."""
    kept = always("buffer", Tile("buffer", "r"))
    nests = [nest("Y"), nest("D", array="1d"), nest("Z", array="1d")]
    assert reason(nests, Y=kept) is None
    found = reason(nests, Y=always(IN_ARRAY))
    assert "Z on array 1d needs Y in a later pass over N than Y on array 2d makes it" in found
    half = always("buffer", Tile("buffer", "r"), handed_to=frozenset({"D"}))
    assert reason(nests, Y=half) is None


def test_values_flow_in_the_direction_of_a_link_only():
    """The 2D array feeds the 1D array, not the other way round."""
    assert FUSEMAX.resolve().links == {("2d", "1d")}
    there = [nest("Y"), nest("D", array="1d"), nest("Z", array="1d")]
    handed = always("buffer", Tile("buffer", "r"), handed_to=frozenset({"D"}))
    assert reason(there, Y=handed) is None
    back = [nest("Y", array="1d"), nest("D"), nest("Z")]
    found = reason(back, Y=handed)
    assert "Y is handed from Y on array 1d to D on array 2d, which are not linked" in found


def test_arrays_that_share_no_loop_do_not_overlap():
    nests = [nest("Y", shared=0), nest("D", shared=0, array="1d"), nest("Z", shared=0)]
    found = reason(nests)
    assert "D cannot overlap with Y" in found or "Z cannot overlap with D" in found
    assert "they share no loop" in found


def placed(size, mapper="fusemax", cascade="attention-1pass", arch="flat-cloud", **shape):
    sizes = {"B": 2, "H": 2, "E": 64, "F": 64, "M": 1024, "P": 1024} | shape
    architecture = load_architecture(arch).resolve({"memories.buffer.size_bytes": size})
    options = mappers.check_options(mapper, {})
    return mappers.place(
        mapper,
        options,
        cascade=workloads.cascade(cascade),
        architecture=architecture,
        shape=sizes,
    )


def test_a_buffer_fits_to_the_byte():
    """One tile of queries on FLAT's machine, and a byte less.

    Q, RM, RD, RNV of 256 queries, QK and SLN twice (one filled, one read: the published traffic from
    16K tokens on needs it so), a tile of K and one of V.
    """
    queries = 256 * (64 + 1 + 1 + 64 + 2 * (256 + 256))
    need = 2.0 * (queries + 2 * 256 * 64)
    assert evaluate(placed(need)).infeasible[0] is None
    found = evaluate(placed(need - 1)).infeasible[0]
    assert f"need {need:,.0f} bytes of buffer, which has {need - 1:,.0f}: 1 bytes" in found


def test_only_the_points_that_do_not_fit_are_refused():
    sizes = np.array([1024.0, 2.0**25, 2048.0])
    found = evaluate(placed(sizes))
    assert [r is None for r in found.infeasible] == [False, True, False]
    assert np.isnan(found.traffic_bytes).tolist() == [True, False, True]
    assert "which has 1,024" in found.infeasible[0]
    assert "which has 2,048" in found.infeasible[2]
    alone = evaluate(placed(2.0**25))
    assert found.latency_s[1] == alone.latency_s[0]


@pytest.mark.parametrize("mapper", ["fusemax", "flat", "unfused"])
@pytest.mark.parametrize("length", [1024, 4096, 6144])
def test_a_larger_buffer_never_hurts_a_search(mapper, length):
    cascade = "attention-1pass" if mapper == "fusemax" else "attention-3pass"
    sizes = 2.0 ** np.arange(17, 27)
    found = evaluate(placed(sizes, mapper, cascade, M=length, P=length))
    fine = np.array([r is None for r in found.infeasible])
    assert fine[-1]
    assert (np.diff(fine.astype(int)) >= 0).all()  # what fits goes on fitting
    if mapper == "fusemax":
        assert (np.diff(found.traffic_bytes[fine]) <= 0).all()
    else:
        assert (np.diff(found.latency_s[fine]) <= found.latency_s[fine][:-1] * 1e-9).all()
