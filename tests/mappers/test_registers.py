"""What mappers leave in registers fits, however few there are, and is left there where it does."""

from __future__ import annotations

import numpy as np
import pytest

import mappers
import workloads
from archs import load_architecture
from sim import IN_ARRAY, evaluate
from sim.registers import register_words
from sim.single import single_point

ATTENTION = {"B": 1, "H": 2, "E": 16, "F": 16, "P": 64, "M": 64}
CASES = [
    ("fused", "attention-3pass", ATTENTION),
    ("fused", "attention-1pass", ATTENTION),
    ("fused", "layer-norm", {"R": 32, "D": 64}),
    ("fused", "softmax-router", {"D": 16, "T": 32, "X": 16}),
    ("unfused", "attention-3pass", ATTENTION),
    ("unfused", "layer-norm", {"R": 32, "D": 64}),
]


def placed(mapper, name, shape, words):
    on = load_architecture("fusemax-cloud").resolve(
        {
            "array_dim": 8,
            "arrays.1d.registers.words": words,
            "arrays.2d.registers.words": words,
        }
    )
    extents = {k: np.array([v]) for k, v in shape.items()}
    options = mappers.check_options(mapper, {})
    cascade = workloads.cascade(name)
    return mappers.place(mapper, options, cascade=cascade, architecture=on, shape=extents)


def waiting(mapping):
    """Words in a PE of the array that holds most, and how many tensors no memory holds."""
    single = single_point(mapping)
    most, homeless = 0.0, 0
    for choice in single.phases:
        phase = choice.options[0]
        for by_tensor in register_words(single.cascade, phase).values():
            most = max(most, float(sum(by_tensor.values())))
        homeless += sum(o[0].residency.home == IN_ARRAY for o in phase.residency.values())
    return most, homeless


@pytest.mark.parametrize(("mapper", "name", "shape"), CASES)
def test_what_waits_fits(mapper, name, shape):
    kept = []
    for words in (1, 4, 64, 4096):
        mapping = placed(mapper, name, shape, words)
        assert evaluate(mapping).infeasible[0] is None
        most, homeless = waiting(mapping)
        assert most <= words
        kept.append(homeless)
    assert kept[0] <= kept[-1]


def test_few_registers_cost_energy():
    """Or the test above would see no tensor that has to go."""
    few, many = (evaluate(placed("fused", "layer-norm", CASES[2][2], w)) for w in (1, 4096))
    assert few.energy_pj[0] > many.energy_pj[0]
