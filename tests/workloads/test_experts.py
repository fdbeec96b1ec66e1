"""M3ViT's layer of experts on real tensors, and measured routings."""

from __future__ import annotations

import numpy as np
import pytest

import workloads
from einsum_cascade import InputError, analyze_passes, execute
from workloads.networks import expert_loads
from workloads.reference.experts import (
    expert_by_expert,
    layer_inputs,
    patch_by_patch,
    unnormalized_router,
)

M3VIT = workloads.model("m3vit")
SHAPE = {"T": M3VIT.tokens, "D": M3VIT.D, "X": M3VIT.moe.X, "S": M3VIT.moe.S}
TOPK = M3VIT.moe.TOPK


@pytest.fixture(scope="module")
def inputs():
    """Tensors of the layer's own extents, sized as trained weights are."""
    drawn = layer_inputs(np.random.default_rng(0), SHAPE, 1.0)
    return {name: t if name == "A" else t / 14 for name, t in drawn.items()}


@pytest.fixture(scope="module")
def some(inputs):
    """The same layer for the first few tokens: tokens do not see each other."""
    return {**inputs, "A": inputs["A"][:12]}


def test_both_orders(inputs):
    patches, experts = (order(inputs, TOPK) for order in (patch_by_patch, expert_by_expert))
    np.testing.assert_allclose(experts.results, patches.results, atol=1e-12)
    assert patches.loads.tolist() == experts.loads.tolist()
    assert patches.loads.sum() == 2 * 129
    assert patches.reads == 258  # an expert is loaded for each token that it gets
    assert experts.reads == np.count_nonzero(experts.loads) <= 16
    assert active(kernels(histogram=experts.loads)) == 6 * experts.reads


def test_the_layer_as_a_cascade(some):
    found = execute(workloads.cascade("moe-layer"), some, {"TOPK": TOPK})["Y"]
    assert np.abs(found).max() > 0.1
    for order in (patch_by_patch, expert_by_expert):
        np.testing.assert_allclose(found, order(some, TOPK).results, atol=1e-12)


def test_the_layer_in_its_kernels(some):
    """Kernels that go token by token, one after the other, give the same."""
    shape = {"TOPK": TOPK}
    gates = execute(
        workloads.cascade("unnormalized-router"), {"A": some["A"], "W": some["W"]}, shape
    )["G"]
    first = execute(
        workloads.cascade("expert-linear"), {"A": some["A"], "W": some["W1"], "G": gates}, shape
    )["Z"]
    results = np.zeros((len(gates), SHAPE["X"], SHAPE["D"]))
    for x in np.flatnonzero(gates.any(axis=0)):
        rows = gates[:, x] > 0
        hidden = execute(workloads.cascade("gelu"), {"X": first[rows, x] + some["B1"][x]})["Y"]
        linear = execute(workloads.cascade("linear-layer"), {"A": hidden, "W": some["W2"][x]})["Z"]
        results[rows, x] = linear + some["B2"][x]
    found = execute(workloads.cascade("moe-combine"), {"Z": results, "G": gates}, shape)["Y"]
    np.testing.assert_allclose(found, patch_by_patch(some, TOPK).results, atol=1e-12)


def through_queues(inputs, topk):
    """The layer in the kernels of Edge-MoE's network: a router, then expert by expert two of them.

    Returns the results, and how many tokens each expert got.
    """
    router = {name: inputs[name] for name in "AW"}
    gates = execute(workloads.cascade("online-router"), router, {"TOPK": topk})["G"]
    sums = np.zeros((len(gates), inputs["W2"].shape[2]))
    for x in np.flatnonzero(gates.any(axis=0)):
        queue = np.flatnonzero(gates[:, x])
        hidden = execute(
            workloads.cascade("expert-gather-linear-gelu"),
            {"A": inputs["A"], "W": inputs["W1"][x], "ID": queue},
        )["Y"]
        sums[queue] = execute(
            workloads.cascade("expert-scatter-linear"),
            {"A": hidden, "W": inputs["W2"][x], "X": sums, "ID": queue, "G": gates[queue, x]},
        )["Y"]
    return sums, np.count_nonzero(gates, axis=0)


def without_biases(inputs):
    """Linear layers of networks have none."""
    return {n: np.zeros_like(t) if n.startswith("B") else t for n, t in inputs.items()}


def test_the_layer_through_queues(some):
    found, loads = through_queues(some, TOPK)
    expected = patch_by_patch(without_biases(some), TOPK)
    assert np.abs(found).max() > 0.1
    np.testing.assert_allclose(found, expected.results, atol=1e-12)
    assert loads.tolist() == expected.loads.tolist()


@pytest.mark.parametrize("seed", range(10))
def test_any_layer_through_queues(seed):
    generator = np.random.default_rng(seed)
    shape = dict(zip("TDXS", generator.integers(1, 8, 4).tolist(), strict=True))
    topk = int(generator.integers(1, shape["X"] + 1))
    drawn = layer_inputs(generator, shape, 1.0)
    expected = patch_by_patch(without_biases(drawn), topk)
    np.testing.assert_allclose(through_queues(drawn, topk)[0], expected.results, atol=1e-11)


@pytest.mark.parametrize("topk", [1, 2, 5])
@pytest.mark.parametrize("seed", range(5))
def test_routers_where_logits_are_equal(seed, topk):
    """Of equal logits the first is chosen; the router in 3 passes keeps all of them."""
    generator = np.random.default_rng(seed)
    inputs = {"A": np.eye(40), "W": generator.integers(-2, 3, (40, 5)).astype(float)}
    inputs["W"][0] = 1.0  # all equal
    inputs["W"][1] = np.arange(5)  # each the largest so far
    found = execute(workloads.cascade("online-router"), inputs, {"TOPK": topk})["G"]
    np.testing.assert_allclose(
        found, unnormalized_router(inputs, {"TOPK": topk})["G"], rtol=1e-13, atol=0
    )
    assert np.count_nonzero(found, axis=1).tolist() == [topk] * 40
    plain = execute(workloads.cascade("unnormalized-router"), inputs, {"TOPK": topk})["G"]
    assert np.count_nonzero(plain[0]) == 5
    np.testing.assert_allclose(plain[found > 0], found[found > 0], rtol=1e-13)


def test_passes_of_routers():
    """A running statistic takes one pass over the experts, its use in the gates another."""
    passes = {
        n: analyze_passes(workloads.cascade(n)) for n in ("online-router", "unnormalized-router")
    }
    assert [found.passes("X") for found in passes.values()] == [2, 3]
    assert passes["online-router"].fusible(["L", "RM", "SLN", "PRM", "RD"], "X")


@pytest.mark.parametrize("seed", range(20))
def test_both_orders_of_any_layer(seed):
    generator = np.random.default_rng(seed)
    shape = dict(zip("TDXS", generator.integers(1, 8, 4).tolist(), strict=True))
    topk = int(generator.integers(1, shape["X"] + 1))
    drawn = layer_inputs(generator, shape, 1.0)
    patches, experts = (order(drawn, topk) for order in (patch_by_patch, expert_by_expert))
    np.testing.assert_allclose(experts.results, patches.results, atol=1e-11)
    np.testing.assert_array_equal(experts.loads, patches.loads)
    assert patches.reads == shape["T"] * topk >= experts.reads


def kernels(**options):
    return workloads.kernels(workloads.network(M3VIT.network), M3VIT, 1, **options)


def active(found):
    return sum(k.total(1) for k in found if k.name == "expert FFN1")


def test_products_of_the_whole_network():
    """Counted from Edge-MoE's code, in 10^6: exactly, from its extents."""
    found = workloads.macs(kernels())
    n, d, s, patch = 129, 192, 768, 16 * 16 * 3
    expected = {
        "patch embedding": 128 * patch * d,
        "attention": 12 * 2 * n * n * d,
        "FFN1": 6 * n * d * s,
        "router": 6 * n * d * 16,
        "expert FFN1": 6 * 2 * n * d * 384,
    }
    for name, products in expected.items():
        assert found[name] == pytest.approx(products, rel=1e-12), name
    counted = sum(found[k] for k in ("patch embedding", "attention", "router", *"QKVZ"))
    counted += sum(found[k] for k in ("FFN1", "FFN2", "expert FFN1", "expert FFN2"))
    assert counted / 1e6 == pytest.approx(782.7, abs=0.05)


def test_measured_routings():
    both = [workloads.routing(name).histogram for name in workloads.list_routings()]
    assert [np.count_nonzero(loads) for loads in both] == [12, 13]
    assert [active(kernels(histogram=loads)) for loads in both] == [6 * 12, 6 * 13]


def test_a_histogram_for_each_layer():
    first, second = (workloads.routing(name).histogram for name in workloads.list_routings())
    layers = [first, second, first, first, [1] * 16, second]
    found = kernels(histogram=layers)
    linear = next(k for k in found if k.name == "expert FFN1")
    assert linear.total(linear.shape["R"]) == pytest.approx(6 * 258)
    even = active(kernels()) / 6
    assert active(found) == pytest.approx(3 * 12 + 2 * 13 + even)
    alike = kernels(histogram=[first] * 6)
    assert active(alike) == active(kernels(histogram=first)) == 72
    assert workloads.macs(alike) == pytest.approx(workloads.macs(kernels(histogram=first)))


def test_loads_of_layers_at_several_points():
    experts, tokens = M3VIT.moe, np.array([129, 258])
    layers = [list(workloads.routing(name).histogram) for name in workloads.list_routings()]
    rows, count = expert_loads(experts, tokens, layers)
    np.testing.assert_allclose((rows * count).sum(axis=0), [258, 516])


@pytest.mark.parametrize(
    ("histogram", "message"),
    [
        ([[1] * 16] * 5, "histograms of 5 layers for the 6 layers with experts of model 'm3vit'"),
        ([[1] * 16] * 5 + [[1] * 15], "has 15 numbers for 16 experts"),
        ([[1] * 16] * 5 + [[0] * 16], "not all 0"),
    ],
)
def test_histograms_of_layers_that_cannot_be(histogram, message):
    with pytest.raises(InputError, match=message):
        kernels(histogram=histogram)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "tokens: 4\nTOPK: 2\nloads: [[4, 2, 1]]",
            r"mine\.yaml:3:9: loads\[0\]: loads sum to 7, but 4 tokens .* 2 .*: 8",
        ),
        (
            "tokens: 4\nTOPK: 2\nloads: [[4, 4], [4, 3, 1]]",
            r"loads\[1\]: 3 experts, but 2 in the first",
        ),
        ("tokens: 4\nTOPK: 2\nloads: [[5, 3]]", "an expert has 5 tokens of 4"),
        ("tokens: 4\nTOPK: 2\nloads: [[4, -4]]", "expected a number of at least 0, found -4"),
        ("tokens: 4\nTOPK: 2\nloads: []", "at least 1 item"),
        ("tokens: 4\nTOPK: 2\nload: [[4, 4]]", "unknown key 'load'.*did you mean 'loads'"),
    ],
)
def test_routings_that_do_not_add_up(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text + "\n")
    with pytest.raises(InputError, match=message):
        workloads.routing(file)


def test_a_users_own_routing(tmp_path):
    (tmp_path / "mine.yaml").write_text("tokens: 2\nTOPK: 1\nloads: [[2, 0], [1, 1]]\n")
    assert workloads.routing("mine.yaml", tmp_path).histogram == ((2, 0), (1, 1))
    with pytest.raises(InputError, match="did you mean 'edge-moe-task0'"):
        workloads.routing("edge-moe-taks0")


def test_a_gate_for_each_task():
    network = workloads.network(M3VIT.network)
    single = M3VIT.model_copy(update={"moe": M3VIT.moe.model_copy(update={"gates": 1})})
    more = workloads.parameters(network, M3VIT) - workloads.parameters(network, single)
    assert more == 6 * 192 * 16
    assert workloads.parameters(network, M3VIT, active=True) == workloads.parameters(
        network, single, active=True
    )
    assert sum(workloads.macs(kernels()).values()) == sum(
        workloads.macs(workloads.kernels(network, single, 1)).values()
    )
