"""The kernel `network`: whole models, against weights counted by hand and kernels one by one."""

from __future__ import annotations

import numpy as np
import pytest

import mappers
import workloads
from archs import load_architecture
from einsum_cascade import InputError
from explore.run import run
from explore.spec import load_experiment
from sim import evaluate

SPEC = """
name: networks
workload: {models: [%s], kernels: [network], seq_len: [1K, 4K], batch: %s%s}
designs: {A: {arch: fusemax-cloud, cascade: grouped-query-attention, mapper: fused}}
"""


def table_of(tmp_path, models, batch=1, more=""):
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC % (models, batch, more))
    return run(load_experiment(spec))


def test_decoding_reads_all_weights_and_the_cache(tmp_path):
    """One token: each weight once (of the embedding table a row), each cached key and value once."""
    table = table_of(tmp_path, "llama3-8b", more=", queries: 1")
    model = workloads.model("llama3-8b")
    weights = workloads.parameters(workloads.network(model.network), model) - model.V * model.D
    for length, traffic in table.select("seq_len", "traffic_bytes").iter_rows():
        cache = 2 * model.G * model.E * length * model.L
        assert traffic == pytest.approx(2 * (weights + cache), rel=0.01)


def test_prefill_takes_what_its_macs_take(tmp_path):
    table = table_of(tmp_path, "llama3-8b")
    model = workloads.model("llama3-8b")
    for length, latency in table.select("seq_len", "latency_s").iter_rows():
        kernels = workloads.kernels(workloads.network(model.network), model, 1, length, length)
        least = sum(workloads.macs(kernels).values()) / (256 * 256 * 940e6)
        assert least < latency < 1.3 * least


def test_edge_moe_reads_its_weights_on_other_designs(tmp_path):
    """Every kernel but attention is placed, and all weights but one gate's are read once at least."""
    spec = tmp_path / "spec.yaml"
    spec.write_text("""
name: edge
workload: {models: [m3vit], kernels: [attention, network], seq_len: [129], batch: [1, 4]}
designs:
  A: {arch: fusemax-cloud, cascade: attention-1pass, mapper: fusemax}
  B: {arch: flat-cloud, cascade: attention-3pass, mapper: flat}
""")
    table = run(load_experiment(spec))
    rows = list(table.select("design", "kernel", "latency_s", "traffic_bytes").iter_rows())
    assert len(rows) == 8
    model = workloads.model("m3vit")
    weights = workloads.parameters(workloads.network(model.network), model) - 6 * 192 * 16
    for _, kernel, latency, traffic in rows:
        assert latency > 0
        if kernel == "network":
            assert traffic > 2 * 0.999 * weights  # of the positions, the class token's is not read


def test_a_network_is_the_sum_of_its_kernels(tmp_path):
    model = workloads.model("gpt2")
    table = table_of(tmp_path, "gpt2", batch=2)
    architecture = load_architecture("fusemax-cloud").resolve({})
    cascade = workloads.cascade("grouped-query-attention")
    kernels = workloads.kernels(
        workloads.network(model.network), model, 2, 1024, 1024, attention=cascade
    )
    total = np.zeros(3)
    for kernel in kernels:
        if kernel.count == 0:
            continue
        shape = {k: np.array([v]) for k, v in kernel.shape.items()}
        options = mappers.check_options("fused", {})
        found = evaluate(
            mappers.place(
                "fused", options, cascade=kernel.cascade, architecture=architecture, shape=shape
            )
        )
        costs = np.array([found.latency_s[0], found.energy_pj[0], found.traffic_bytes[0]])
        total += costs * float(kernel.count)
    row = table.row(0, named=True)
    assert row["seq_len"] == 1024
    assert [row["latency_s"], row["energy_pj"], row["traffic_bytes"]] == pytest.approx(list(total))


def test_experts_that_are_chosen_unevenly(tmp_path):
    """When decoding few tokens, fewer different experts are read if some are never chosen."""
    more = ", queries: 1%s"
    even = table_of(tmp_path, "mixtral-8x7b", batch=8, more=more % "")
    uneven = table_of(
        tmp_path, "mixtral-8x7b", batch=8, more=more % ", histogram: [4, 4, 0, 0, 0, 0, 0, 0]"
    )
    ratio = uneven["traffic_bytes"][0] / even["traffic_bytes"][0]
    experts = 8 * (1 - (1 - 2 / 8) ** 8)  # expected to be active
    assert 2 / experts < ratio < 1.2 * 2 / experts + 0.1


def test_several_models_in_one_spec(tmp_path):
    both = table_of(tmp_path, "gpt2, vit-base")
    alone = table_of(tmp_path, "vit-base")
    assert both.filter(both["model"] == "vit-base")["latency_s"].to_list() == pytest.approx(
        alone["latency_s"].to_list()
    )


def test_mistakes(tmp_path):
    with pytest.raises(InputError, match="histogram has 3 numbers for 8 experts"):
        table_of(tmp_path, "mixtral-8x7b", more=", histogram: [1, 2, 3]")
