"""Costs in pieces, one tensor at a time, against whole phases asked of the simulator one by one."""

from __future__ import annotations

import random

import numpy as np
import pytest

import workloads
from archs import load_architecture
from einsum_cascade import parse_cascade
from mappers.search.engine import runs_of
from mappers.search.fronts import Front
from mappers.search.least import least
from mappers.search.measures import measures_of
from mappers.search.pieces import Pieces
from mappers.search.price import open_structure, rebuild
from mappers.search.problem import problem
from mappers.search.recompute import rewrites
from mappers.search.screen import Count, Screen
from mappers.search.structures import structures
from sim import Mapping, evaluate_phase

COLUMNS = ("latency_s", "energy_pj", "traffic_bytes", "buffer_bytes")
SHAPE = {"B": 1, "H": 2, "E": 8, "F": 8, "P": 24, "M": 48}
SMALL = {
    "extends": "fusemax-cloud",
    "parameters": {"array_dim": 4},
    "memories": {"buffer": {"size_bytes": "2 KiB", "bandwidth_bytes_per_s": "40 GiB/s"}},
    "power_w": 3,
}
WHOLE = {**SMALL, "parameters": {"array_dim": 8}}
"""Along a side there is all of E and F."""

TWO_LEVELS = {
    **SMALL,
    "memories": {
        "buffer": {"size_bytes": "2 KiB"},
        "inner": {
            "size_bytes": "512 B", "access_words": 4, "read_energy_pj": 5, "write_energy_pj": 6,
            "area_um2": 1,
        },
    },
}  # fmt: skip

LOOPS = {
    "name": "loops",
    "kind": "fpga-template",
    "clock_hz": "100 MHz",
    "word_bytes": 2,
    "power_w": 3,
    "memories": {
        "DRAM": {
            "bandwidth_bytes_per_s": "1 GB/s", "read_energy_pj": 7, "write_energy_pj": 9,
            "latency_cycles": 50,
            "ports": {
                "first": {"kernel_bits": 128, "memory_bits": 64, "single_beat_cycles": 5},
                "second": {"kernel_bits": 128, "memory_bits": 64, "single_beat_cycles": 5},
                "narrow": {"kernel_bits": 64, "memory_bits": 64, "single_beat_cycles": 3},
            },
        },
        "rows": {
            "size_bytes": 1500, "bandwidth_bytes_per_s": "3 GB/s", "read_energy_pj": 2,
            "write_energy_pj": 3,
        },
    },
    "arrays": {
        "products": {
            "shape": [4, 2],
            "loop": {"interval_cycles": 1, "depth_cycles": 9},
            "operations": ["mac", "mul"],
        },
        "rest": {
            "shape": [4],
            "loop": {"interval_cycles": 2, "depth_cycles": 20},
            "operations": ["mac", "mul", "add", "sub", "exp", "div", "max", "sqrt"],
        },
    },
    "links": [{"from": "products", "to": "rest"}],
}  # fmt: skip
"""Pipelined loops behind ports of two kinds."""

ALIKE = {
    **LOOPS,
    "memories": {
        **LOOPS["memories"],
        "DRAM": {
            **LOOPS["memories"]["DRAM"],
            "ports": {name: LOOPS["memories"]["DRAM"]["ports"]["first"] for name in "abcd"},
        },
    },
}


def alive(costs, part):
    return np.ones(len(costs), dtype=bool)


def everything(space, measures, pieces):
    """Some structures of all runs, opened with nothing left out but what is illegal or too large."""
    fronts = {None: Front(len(measures.columns))}
    screen = Screen(measures, alive, fronts, len(space.parts))
    rng = np.random.default_rng(1)
    for run in runs_of(space):
        found = list(structures(space, space.order[run[0] : run[1]]))
        for at in sorted(rng.choice(len(found), min(4, len(found)), replace=False)):
            opened = open_structure(pieces, space, found[at], screen, Count())
            if opened is not None and len(opened.x):
                yield run, found[at], opened


def costs_of(opened, measures, at, code):
    """What the pieces of one candidate add up to."""
    picked = opened.layout.picked(int(opened.x[at]), code)
    sums = opened.base[:, at].copy()
    for piece, positions in opened.pieces:
        row = tuple(picked[name] for name in piece.names)
        values = piece.values.reshape(*piece.values.shape[: 1 + len(row)], -1)
        sums[: len(values)] += values[(slice(None), *row, positions[at])]
    if not (np.isfinite(sums[0]) and measures.fit(sums[:, None])[0]):
        return None
    return measures.costs(sums[:, None])[0]


@pytest.mark.parametrize(
    ("name", "on", "ways"),
    [
        ("attention-3pass", SMALL, [(), ("QK", "SN")]),
        ("attention-3pass", WHOLE, [()]),
        ("attention-1pass", SMALL, [()]),
        ("attention-2pass", SMALL, [()]),
        ("attention-3pass", LOOPS, [(), ("QK", "SN")]),
        ("attention-1pass", ALIKE, [()]),
        ("causal-attention", LOOPS, [()]),
        ("edge-moe-attention", LOOPS, [()]),
        ("attention-3pass-deferred", TWO_LEVELS, [()]),
        ("causal-attention", SMALL, [()]),
    ],
)
def test_pieces_add_up_to_what_the_simulator_says(name, on, ways):
    architecture = load_architecture(on).resolve({})
    original = workloads.cascade(name)
    measures = measures_of(architecture, COLUMNS)
    pieces = Pieces(measures)  # those of rewrites in common
    for cascade in map(dict(rewrites(original)).__getitem__, ways):
        copies = frozenset(cascade.tensors) - frozenset(original.tensors)
        check(problem(cascade, architecture, SHAPE, "padded", copies), measures, pieces)


TWICE = """
{name: twice, ranks: {P: rows, M: {about: columns, like: P}, F: features},
 inputs: ["X[p,m]", "W[p,m,f]"], outputs: [Z], body: ["Z[f] = X[p,m] * X[m,p] * W[p,m,f]"]}"""


def test_what_an_einsum_takes_in_two_ways_is_written_on_chip_once():
    architecture = load_architecture(SMALL).resolve({})
    measures = measures_of(architecture, COLUMNS)
    space = problem(parse_cascade(TWICE), architecture, {"P": 24, "F": 32}, "padded")
    check(space, measures, Pieces(measures), 100)


def check(space, measures, pieces, samples=4):
    """Compare random candidates of a space with the simulator."""
    rng, draw = np.random.default_rng(0), random.Random(0)
    found = 0
    for run, structure, opened in everything(space, measures, pieces):
        bound = least(space, run, COLUMNS, [structure])[0].min(axis=0)
        for at in rng.integers(len(opened.x), size=samples):
            code = draw.randrange(opened.layout.each)  # may be longer than an integer of NumPy
            costs = costs_of(opened, measures, at, code)
            single, phase = rebuild(space, structure, opened.layout, int(opened.x[at]), code)
            whole = Mapping(single.cascade, single.architecture, single.shape, ())
            real = evaluate_phase(whole, phase)
            assert (costs is None) == (real.infeasible[0] is not None)
            if costs is None:
                continue
            found += 1
            assert np.all(bound <= costs)
            assert np.all(measures.costs(opened.least[:, [at]]) <= costs * (1 + 1e-12))
            wanted = [float(np.ravel(getattr(real, c))[0]) for c in COLUMNS[:3]]
            np.testing.assert_allclose(costs[:3], wanted, rtol=1e-12)
    assert found > 20
