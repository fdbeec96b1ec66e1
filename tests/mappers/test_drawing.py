"""A mapping as text: every loop, tile and home is where it is in the mapping."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import mappers
import workloads
from archs import load_architecture
from mappers.drawing import draw
from mappers.tree import Branch, Leaf, loop_tree, opened, residency_of, touched
from sim import Phase, PhaseChoice, evaluate
from sim.single import single_point


def placed(mapper, arch, cascade, shape, **options):
    on = load_architecture(arch).resolve({})
    each = {rank: np.atleast_1d(extent) for rank, extent in shape.items()}
    given = mappers.check_options(mapper, options)
    return mappers.place(
        mapper, given, cascade=workloads.cascade(cascade), architecture=on, shape=each
    )


SMALL = {"B": 2, "H": 3, "E": 64, "F": 64, "P": 1024, "M": 1024}


def test_a_fused_mapping():
    assert (
        draw(placed("fusemax", "fusemax-cloud", "attention-1pass", SMALL))
        == """\
attention-1pass on fusemax-cloud
  B = 2, H = 3, E = 64, F = 64, P = 1024, M = 1024, M0 = 256, M1 = 4
phase fusemax
  in DRAM: Q K V AV
  in buffer: RM RD RNV
  in the arrays: QK LM SLN SLD SLNV PRM SPD SPNV
  interleaved: QK SLNV; SPNV RNV
  for B in 2, H in 3
    buffer keeps Q RM RD RNV
    for M1 in 4
      buffer keeps K V
      for P1 in 4
        QK   on 2d: for E in 64; over M0 256 x P0 256
        LM   on 2d: over M0 256 x P0 256
        RM   on 1d: over P0 256
        SLN  on 2d: over M0 256 x P0 256
        SLD  on 2d: over M0 256 x P0 256
        SLNV on 2d: for F in 64; over M0 256 x P0 256
        PRM  on 1d: over P0 256
        SPD  on 1d: over P0 256
        RD   on 1d: over P0 256
        SPNV on 1d: for F in 64; over P0 256
        RNV  on 1d: for F in 64; over P0 256
    AV   on 1d: for P1 in 4, F in 64; over P0 256"""
    )


def test_tiles_between_the_loops_of_one_einsum():
    shape = {**SMALL, "P": 4096, "M": 4096}
    assert (
        draw(placed("flat", "flat-edge", "attention-3pass", shape))
        == """\
attention-3pass on flat-edge
  B = 2, H = 3, E = 64, F = 64, P = 4096, M = 4096
phase flat
  in DRAM: Q K V AV
  in buffer: QK (spills) SN (in place of QK, handed to SD, spills) A (in place of QK, spills)
  in the arrays: GM SD
  for B in 2, H in 3, P2 in 64
    buffer keeps Q (twice) QK SN A
    for M1 in 128, E1 in 2
      buffer keeps K (twice, streamed)
      QK on 2d: for P1 in 2, P0 in 32; over E0 32 x M0 32
    for Pr in 64
      GM on 1d: for M1 in 128; over M0 32
      SN on 1d: for M1 in 128; over M0 32
      SD on 1d: for M1 in 128; over M0 32
      A  on 1d: for M1 in 128; over M0 32
    for F1 in 2
      buffer keeps AV (twice)
      for M1 in 128
        buffer keeps V (twice, streamed)
        AV on 2d: for P1 in 2, P0 in 32; over M0 32 x F0 32"""
    )


def test_the_point_that_is_asked_for():
    mapping = placed("unfused", "flat-cloud", "attention-3pass", {**SMALL, "M": [512, 1024]})
    first, second = draw(mapping, 0), draw(mapping, 1)
    assert "M = 512" in first
    assert "M = 1024" in second
    assert [line for line in second.splitlines() if line.startswith("phase")] == [
        "phase QK", "phase GM-SN-SD-A", "phase AV",
    ]  # fmt: skip


def test_schedules():
    mapping = single_point(
        placed("fusemax", "fusemax-cloud", "attention-1pass", SMALL, schedule="serial")
    )
    text = draw(mapping)
    assert "  steps: AV LM QK RD; then RM; then PRM RNV SLD SLN SLNV SPD SPNV\n" in text
    assert "  stalls: 24,576 cycles\n" in text
    pause = Phase("wait", (), {}, steps=((),), stall_cycles=np.float64(1234))
    waiting = replace(mapping, phases=(*mapping.phases, PhaseChoice((pause,))))
    assert draw(waiting) == f"{text}\nphase wait\n  waits: 1,234 cycles"


@pytest.mark.parametrize(
    ("mapper", "arch", "cascade"),
    [
        ("fusemax", "fusemax-cloud", "attention-1pass"),
        ("unfused", "flat-cloud", "attention-3pass"),
        ("flat", "flat-edge", "attention-3pass"),
    ],
)
def test_the_tree_has_the_loops_of_every_nest_and_each_tile_where_it_is_kept(mapper, arch, cascade):
    """Walking down the tree to an Einsum passes its loops in their order, and its tiles."""
    mapping = single_point(placed(mapper, arch, cascade, SMALL))
    assert evaluate(mapping).infeasible[0] is None
    for choice in mapping.phases:
        phase = choice.options[0]
        found = dict(walked(loop_tree(mapping.cascade, phase), (), ()))
        assert list(found) == [nest.einsum for nest in phase.einsums]
        for nest in phase.einsums:
            loops, kept = found[nest.einsum]
            assert loops == tuple(loop.name for loop in nest.temporal)
            for tensor in touched(mapping.cascade, nest.einsum):
                chain = residency_of(phase, tensor).of(nest.einsum)
                here = {
                    (tile, at)
                    for name, tile, only, at in kept
                    if name == tensor and nest.einsum in (only or [nest.einsum])
                }
                assert here == {(tile, nest.position(tile.below)) for tile in chain}


def walked(part, loops, kept):
    part = opened(part) if isinstance(part, Leaf) else part
    loops = (*loops, *(loop.name for loop in part.loops))
    if isinstance(part, Leaf):
        yield part.nest.einsum, (loops, kept)
        return
    assert isinstance(part, Branch)
    kept = (*kept, *((k.tensor, k.tile, k.only, len(loops)) for k in part.kept))
    for inner in part.inside:
        yield from walked(inner, loops, kept)
