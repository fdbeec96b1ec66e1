"""Every refusal is reached, and says what needs what, where, and how much is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import mappers
import workloads
from archs import load_architecture
from einsum_cascade import analyze_passes, parse_cascade
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

B = H = 1
P, M, E, F = 64, 65536, 64, 64
SHAPE = {"B": B, "H": H, "P": P, "M": M, "E": E, "F": F}
# the machine on which AccelForge's fused 3-pass softmax moves compulsory traffic only: 1-byte words,
# a 16 KiB buffer, one row of QK is 64 KiB
SMALL = {
    "extends": "flat-cloud",
    "word_bytes": 1,
    "parameters": {"array_dim": 64},
    "memories": {"buffer": {"size_bytes": "16 KiB"}},
}


def loops(*pairs, spatial=()):
    return tuple(Loop(n, r, float(x)) for n, r, x in pairs) + tuple(
        Loop(n, r, float(x), True) for n, r, x in spatial
    )


def softmax_fused_on_m(tile_below="Pt"):
    """QK, the softmax and AV in one nest that goes through M once: what a pass forbids."""
    outer = (("B", "B", B), ("H", "H", H), ("Pt", "P", 1.0), ("M1", "M", M / 64))
    lanes = [("M0", "M", 64), ("P0", "P", 64)]
    two = EinsumMapping("QK", "2d", loops(*outer, ("E", "E", E), spatial=lanes), 4)
    av = EinsumMapping("AV", "2d", loops(*outer, ("F", "F", F), spatial=lanes), 4)
    row = loops(*outer, ("P1", "P", 64), spatial=[("M0", "M", 64)])
    softmax = [EinsumMapping(e, "1d", row, 4) for e in ("GM", "SN", "SD", "A")]
    residency = {
        **{t: always("DRAM", Tile("buffer", "M1")) for t in ("K", "V")},
        **{t: always("DRAM", Tile("buffer", tile_below)) for t in ("Q", "AV")},
        **{t: always("buffer", Tile("buffer", "M1")) for t in ("QK", "SN", "A")},
        **{t: always(IN_ARRAY) for t in ("GM", "SD")},
    }
    return Phase("fused", (two, *softmax, av), residency)


def evaluated(cascade, phases, arch=SMALL, shape=SHAPE):
    mapping = Mapping(cascade, load_architecture(arch).resolve(), shape, phases)
    return evaluate(mapping)


def only_reason(evaluation):
    assert np.isnan(evaluation.latency_s).all()
    assert np.isnan(evaluation.traffic_bytes).all()
    return evaluation.infeasible.ravel()[0]


def test_the_illegal_fusion_of_a_peer_is_refused():
    """Timings and all would be compulsory (8,396,800 bytes); the max is consumed before it is."""
    cascade = workloads.cascade("attention-3pass")
    reason = only_reason(evaluated(cascade, (PhaseChoice((softmax_fused_on_m(),)),)))
    assert "SN is fused with QK on loop M1" in reason
    assert "passes 2 and 1" in reason
    assert "gone through the whole fiber" in reason


def test_the_bound_of_that_example():
    """Two reloads of K: at least 2.00x the compulsory traffic, less what the buffer can keep."""
    three = analyze_passes(workloads.cascade("attention-3pass"))
    deferred = analyze_passes(workloads.cascade("attention-3pass-deferred"))
    one = analyze_passes(workloads.cascade("attention-1pass"))
    buffer = 16 * 1024
    compulsory = three.compulsory_words(SHAPE)
    assert compulsory == 8_396_800
    assert three.traffic_lower_bound_words(SHAPE, buffer) / compulsory == pytest.approx(
        2, rel=0.005
    )
    bound = deferred.traffic_lower_bound_words(SHAPE, buffer) / compulsory
    assert bound == pytest.approx(1.5, rel=0.005)
    shape = {**SHAPE, "M0": 64}
    assert one.traffic_lower_bound_words(shape, buffer) == compulsory


@pytest.mark.parametrize(("mapper", "factor"), [("unfused", 2.5), ("flat", 2.0)])
def test_legal_mappings_of_that_example_pay_for_their_passes(mapper, factor):
    cascade = workloads.cascade("attention-3pass")
    placed = mappers.place(
        mapper,
        mappers.check_options(mapper, {}),
        cascade=cascade,
        architecture=load_architecture({**SMALL, "parameters": {"array_dim": 32}}).resolve(),
        shape=SHAPE,
    )
    found = evaluate(placed)
    assert found.infeasible[0] is None, found.infeasible[0]
    assert found.traffic_bytes[0] >= factor * 8_396_800 * 0.99


def test_the_one_pass_cascade_is_legal_there_at_compulsory_traffic():
    arch = {**SMALL, "extends": "fusemax-cloud", "parameters": {"array_dim": 32}}
    placed = mappers.place(
        "fusemax",
        mappers.check_options("fusemax", {}),
        cascade=workloads.cascade("attention-1pass"),
        architecture=load_architecture(arch).resolve(),
        shape={**SHAPE, "P": 32},
    )
    found = evaluate(placed)
    assert found.infeasible[0] is None, found.infeasible[0]
    assert found.traffic_bytes[0] == found.lower_bound_bytes[0]


PRODUCT = parse_cascade(
    "{name: p, ranks: {R: rows, K: in, N: out}, inputs: ['A[r,k]', 'W[k,n]'], outputs: [Z],"
    " body: ['Z[r,n] = A[r,k] * W[k,n]']}"
)
DENSE = {"R": 64, "K": 32, "N": 64}


def product_phase(**changes):
    nest = {
        "loops": loops(("K", "K", 32), spatial=[("N0", "N", 64), ("R0", "R", 64)]),
        "array": "2d",
    } | changes
    mapping = EinsumMapping("Z", nest["array"], nest["loops"])
    residency = {t: always("DRAM", Tile("buffer", None)) for t in ("A", "W")} | {
        "Z": always("DRAM")
    }
    return Phase("product", (mapping,), residency)


def product_reason(phase, arch=SMALL, cascade=PRODUCT):
    return only_reason(evaluated(cascade, (PhaseChoice((phase,)),), arch, DENSE))


def test_a_legal_product_is_priced():
    found = evaluated(PRODUCT, (PhaseChoice((product_phase(),)),), SMALL, DENSE)
    assert found.infeasible[0] is None
    assert found.traffic_bytes[0] == 64 * 32 + 32 * 64 + 64 * 64
    assert found.busy_s["2d"][0] == pytest.approx(32 / 940e6)


def test_loops_that_do_not_cover_the_rank():
    short = loops(("K", "K", 31), spatial=[("N0", "N", 64), ("R0", "R", 64)])
    assert "cover 31 of 32 coordinates of rank K" in product_reason(product_phase(loops=short))


def test_loops_over_a_rank_that_is_not_the_einsums():
    stray = loops(("K", "K", 32), ("X", "X", 2), spatial=[("N0", "N", 64), ("R0", "R", 64)])
    assert "loops over X" in product_reason(product_phase(loops=stray))


def test_more_pes_than_there_are():
    wide = loops(("K", "K", 32), spatial=[("R0", "R", 64), ("N0", "N", 128)])
    assert "spreads N0 over 128 PEs of array 2d, which has 64" in product_reason(
        product_phase(loops=wide)
    )


def test_more_spatial_ranks_than_the_array_has_dimensions():
    on_one = product_phase(array="1d")
    assert "2 spatial ranks on array 1d" in product_reason(on_one)


def test_an_operation_that_the_array_lacks():
    cascade = parse_cascade(
        "{name: e, ranks: {R: rows, N: out}, inputs: ['A[r,n]'], outputs: [Z],"
        " body: ['Z[r,n] = exp(A[r,n])']}"
    )
    nest = EinsumMapping("Z", "2d", loops(spatial=[("N0", "N", 64), ("R0", "R", 64)]))
    phase = Phase("exp", (nest,), {"A": always("DRAM"), "Z": always("DRAM")})
    mapping = (PhaseChoice((phase,)),)
    reason = only_reason(evaluated(cascade, mapping, SMALL, {"R": 64, "N": 64}))
    assert "Z needs the operation 'exp', which array '2d' of flat-cloud-modified lacks" in reason


def test_tiles_beyond_the_capacity():
    arch = {**SMALL, "memories": {"buffer": {"size_bytes": "4000 B"}}}
    reason = product_reason(product_phase(), arch)
    assert "need 4,096 bytes of buffer, which has 4,000: 96 bytes are missing" in reason


def test_arrays_that_share_no_loop_do_not_overlap():
    """Unfused kernels in one phase would count the longest of them, not their sum."""
    cascade = workloads.cascade("attention-3pass")
    apart = replace(
        softmax_fused_on_m(),
        einsums=tuple(replace(m, shared=0) for m in softmax_fused_on_m().einsums),
    )
    found = evaluated(cascade, (PhaseChoice((apart,)),))
    assert "GM cannot overlap with QK, whose result it needs" in only_reason(found)


def test_steps_hold_every_einsum_once():
    phase = replace(product_phase(), steps=(("Z",), ("Z",)))
    assert "Z is in 2 steps and 1 nests" in product_reason(phase)
    phase = replace(product_phase(), steps=(("Y",),))
    assert "steps" in product_reason(phase)


def test_a_tile_below_a_loop_that_is_not_there():
    phase = product_phase()
    odd = replace(phase, residency={**phase.residency, "A": always("DRAM", Tile("buffer", "R7"))})
    with pytest.raises(ValueError, match="Z has no loop 'R7', only K, N0, R0"):
        evaluated(PRODUCT, (PhaseChoice((odd,)),), SMALL, DENSE)


def test_an_einsum_that_is_not_placed_or_twice():
    cascade = workloads.cascade("attention-products")
    arch = load_architecture("flat-cloud").resolve()
    placed = mappers.place(
        "unfused",
        mappers.check_options("unfused", {}),
        cascade=cascade,
        architecture=arch,
        shape=SHAPE,
    )
    missing = evaluate(replace(placed, phases=placed.phases[:1]))
    assert "every Einsum is placed once, but AV 0 times" in only_reason(missing)
    twice = evaluate(replace(placed, phases=(*placed.phases, placed.phases[0])))
    assert "QK 2 times" in only_reason(twice)
    backwards = evaluate(replace(placed, phases=placed.phases[::-1]))
    assert "AV runs in a phase before QK, which it needs" in only_reason(backwards)


def test_what_two_phases_exchange_cannot_stay_on_chip():
    cascade = workloads.cascade("attention-products")
    arch = load_architecture("flat-cloud").resolve()
    placed = mappers.place(
        "unfused",
        mappers.check_options("unfused", {}),
        cascade=cascade,
        architecture=arch,
        shape={**SHAPE, "M": 256},
    )
    first = placed.phases[0].options[0]
    kept = replace(
        first, residency={**first.residency, "QK": always("buffer", Tile("buffer", None))}
    )
    found = evaluate(replace(placed, phases=(PhaseChoice((kept,)), placed.phases[1])))
    assert "QK is exchanged with another phase, so it cannot live in buffer" in only_reason(found)
