"""Pipelined loops and ports: what is found on an FPGA template."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

import workloads
from archs import load_architecture
from einsum_cascade import InputError
from mappers.search import Options, front, optimum
from mappers.written import write_mapping
from sim import PhaseChoice, evaluate
from tests.mappers.search.test_breadth import checked, edp
from tests.mappers.search.test_price import ALIKE, LOOPS
from tests.mappers.test_written import whole

SHAPE = {"B": 1, "H": 2, "E": 8, "F": 8, "P": 8, "M": 8}


def test_no_worse_than_the_mapper_of_the_template():
    on = load_architecture("edge-moe-zcu102").resolve({})
    cascade, shape = workloads.cascade("layer-norm"), {"R": 16, "D": 192}
    least = edp("edge_moe", cascade, on, shape)
    assert np.isfinite(least)
    assert checked(cascade, on, shape, structures=64, recompute=False) <= least


def test_every_mapping_costs_what_the_search_says_and_is_read_back():
    on, cascade = load_architecture(LOOPS).resolve({}), workloads.cascade("attention-3pass")
    found = front(
        Options(structures=64, recompute=False), cascade, on, SHAPE, ("latency_s", "buffer_bytes")
    )
    assert len(found.mappings) > 1
    for mapping, costs in zip(found.mappings, found.costs, strict=True):
        real = evaluate(mapping)
        assert real.infeasible[0] is None
        assert real.latency_s[0] == pytest.approx(costs[0], rel=1e-9)
        given = {rank: np.array([extent]) for rank, extent in SHAPE.items()}
        again = evaluate(
            whole(write_mapping(mapping, "x", mapping.cascade, SHAPE), mapping.cascade, on, given)
        )
        assert again.latency_s[0] == real.latency_s[0]


@pytest.mark.parametrize("arch", [LOOPS, ALIKE], ids=["two kinds", "alike"])
def test_no_other_ports_are_better(arch):
    slow = {
        name: {**port, "memory_bits": 1} for name, port in arch["memories"]["DRAM"]["ports"].items()
    }
    memories = {**arch["memories"], "DRAM": {**arch["memories"]["DRAM"], "ports": slow}}
    on = load_architecture({**arch, "memories": memories}).resolve({})
    options = Options(objective="latency_s", compare=False, structures=64)
    mapping = optimum(options, workloads.cascade("attention-1pass"), on, SHAPE).mappings[0]
    least = evaluate(mapping)
    assert least.bottleneck[0].startswith("DRAM.")
    for at, choice in enumerate(mapping.phases):
        phase = choice.options[0]
        for taken in product(slow, repeat=len(phase.ports)):
            other = replace(phase, ports=dict(zip(phase.ports, taken, strict=True)))
            phases = [*mapping.phases]
            phases[at] = PhaseChoice((other,))
            found = evaluate(replace(mapping, phases=tuple(phases)))
            assert found.latency_s[0] >= least.latency_s[0] * (1 - 1e-12)


def test_ports_that_are_all_kept_for_formats_are_refused():
    ports = {"w": {"kernel_bits": 64, "memory_bits": 64, "carries": ["weight"]}}
    memories = {**LOOPS["memories"], "DRAM": {**LOOPS["memories"]["DRAM"], "ports": ports}}
    on = load_architecture({**LOOPS, "memories": memories, "formats": {"weight": 8}}).resolve({})
    with pytest.raises(InputError, match="'search' needs a port of 'DRAM' that carries any tensor"):
        optimum(Options(), workloads.cascade("attention-1pass"), on, SHAPE)
