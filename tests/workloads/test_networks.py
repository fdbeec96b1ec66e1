"""Kernels of whole networks against the parameters and operations that papers publish.

The published figures are from memory, but for Edge-MoE's, which are counted from its code.
"""

from __future__ import annotations

import numpy as np
import pytest

import workloads
from einsum_cascade import InputError
from workloads.models import Experts
from workloads.networks import expert_loads

# Edge-MoE's measured loads of its first layer with experts, 129 tokens of 2 experts each.
MEASURED = [0, 6, 0, 32, 0, 27, 15, 24, 22, 19, 0, 22, 11, 33, 32, 15]


def of(name, batch=1, queries=None, keys=None, **options):
    model = workloads.model(name)
    return workloads.kernels(
        workloads.network(model.network), model, batch, queries, keys, **options
    )


def total(found):
    return sum(workloads.macs(found).values())


def parameters(name, **options):
    model = workloads.model(name)
    return workloads.parameters(workloads.network(model.network), model, **options)


def linear_biases(model):
    """Q, K, V, Z, FFN1 and FFN2 add one each, which the networks leave out."""
    return model.L * (5 * model.D + model.S)


# Weights

EXACT = {  # the published checkpoints' numbers of parameters, from memory (Hugging Face, timm)
    "llama2-7b": 6_738_415_616,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "qwen3-8b": 8_190_735_360,
}
WITH_BIASES = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "deit-t": 5_717_416,
    "deit-s": 22_050_664,
    "deit-b": 86_567_656,
    "vit-tiny": 5_717_416,
    "vit-small": 22_050_664,
    "vit-base": 86_567_656,
}


@pytest.mark.parametrize(("name", "published"), EXACT.items())
def test_parameters_of_models_without_biases(name, published):
    assert parameters(name) == published


@pytest.mark.parametrize(("name", "published"), WITH_BIASES.items())
def test_parameters_but_for_biases(name, published):
    model = workloads.model(name)
    image = model.image
    # An image model has a bias for every class, and the class token itself.
    beside = image.classes + model.D if image else 0
    assert parameters(name) + linear_biases(model) + beside == published


def test_parameters_of_swin():
    model = workloads.model("swin-t")
    biases = sum(stage.L * 9 * stage.D for stage in model.stages) + model.image.classes
    assert parameters("swin-t") + biases == 28_288_354  # timm, from memory; the paper: 29M


def test_parameters_of_bert():
    # BERT-Base: 110M in the paper, 109,482,240 in the published checkpoint (from memory), with
    # two token types, and a pooling layer behind the last one.
    text = {"L": 12, "V": 30522, "context": 512, "position": "learned"}
    model = workloads.model({"D": 768, "H": 12, "E": 64, "S": 3072, **text})
    beside = linear_biases(model) + 2 * 768 + 768 * 768 + 768
    assert workloads.parameters(workloads.network("encoder"), model) + beside == 109_482_240


def test_parameters_of_edge_moe():
    """Positions are weights; the queues of experts, the weights of their tokens and the sums not."""
    d, s = 192, 384
    patches = 3 * 16 * 16 * d + d + 129 * d
    layers = 12 * (4 * d * d + 2 * 2 * d) + 6 * 2 * d * 2 * s
    assert parameters("m3vit") == patches + layers + 6 * (16 * 2 * d * s + 2 * d * 16)
    assert parameters("m3vit", active=True) == patches + layers + 6 * (2 * 2 * d * s + d * 16)


@pytest.mark.parametrize(
    ("name", "active", "published", "tolerance"),
    [
        ("gpt3-6.7b", False, 6660e6, 1e-3),  # GPT-3, table D.1
        ("gpt3-175b", False, 174_600e6, 1e-3),
        ("mixtral-8x7b", True, 12.9e9, 4e-3),  # Mixtral of Experts: 13B active; 12.9B on its page
        ("deepseek-v3", False, 671e9, 1e-3),  # DeepSeek-V3, abstract: 671B, of which 37B
        ("deepseek-v3", True, 37e9, 2e-2),
    ],
)
def test_parameters_as_papers_round_them(name, active, published, tolerance):
    assert parameters(name, active=active) == pytest.approx(published, rel=tolerance)


# Multiply-accumulates


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("deit-t", 1.3),  # PVT (arXiv 2102.12122), table 2: DeiT-Tiny, and 4.6 for DeiT-Small
        ("deit-s", 4.6),
        ("deit-b", 17.6),
        ("vit-base", 17.6),
        ("swin-t", 4.5),  # Swin Transformer, table 1
    ],
)
def test_operations_of_an_image(name, published):
    """As published, in 10^9 multiply-accumulates of a 224 x 224 image (the papers call them FLOPs)."""
    assert round(total(of(name)) / 1e9, 1) == published


def test_only_patches_are_embedded():
    assert workloads.macs(of("vit-base"))["patch embedding"] == 196 * 16 * 16 * 3 * 768


def test_operations_of_a_larger_image():
    model = workloads.model("vit-base")
    larger = model.model_copy(
        update={"image": model.image.model_copy(update={"height": 384, "width": 384})}
    )
    found = workloads.kernels(workloads.network("vit"), larger, 1)
    assert total(found) == pytest.approx(55.4e9, rel=3e-3)  # Swin Transformer, table 1: ViT-B/16
    assert total(of("vit-base", queries=577)) == total(found)


@pytest.mark.parametrize(("name", "flops"), [("gpt3-6.7b", 1.20e22), ("gpt3-175b", 3.14e23)])
def test_compute_of_training_gpt3(name, flops):
    """Table D.1: 300 billion tokens, 2 FLOPs a multiply-accumulate, thrice for forward and backward.

    The table leaves attention out, which one query of one key nearly does.
    """
    assert 3 * 2 * total(of(name, 1, 1, 1)) * 300e9 == pytest.approx(flops, rel=3e-3)


def test_operations_of_a_layer():
    # Narayanan et al., SC 2021, appendix: 24 B s h^2 + 4 B s^2 h FLOPs in a layer's forward pass.
    model = workloads.model("xlm")
    b, s, h = 4, 512, model.D
    found = workloads.macs(of("xlm", b, s))
    matrices = sum(found[k] for k in ("Q", "K", "V", "Z", "FFN1", "FFN2", "attention"))
    assert 2 * matrices == model.L * (24 * b * s * h**2 + 4 * b * s**2 * h)


def test_operations_of_windows():
    # Swin Transformer, equation 2: 4 h w C^2 + 2 M^2 h w C in each layer of window attention.
    expected = {"linear": 0, "attention": 0}
    for index, (layers, width) in enumerate([(2, 96), (2, 192), (6, 384), (2, 768)]):
        tokens = (56 // 2**index) ** 2
        expected["linear"] += layers * 4 * tokens * width**2
        expected["attention"] += layers * 2 * 49 * tokens * width
    found = workloads.macs(of("swin-t"))
    assert sum(found[k] for k in "QKVZ") == expected["linear"]
    assert found["attention"] == expected["attention"]
    assert found["merging"] == sum((28 // 2**i) ** 2 * 4 * 2 * (96 * 2**i) ** 2 for i in range(3))


def test_operations_of_edge_moe():
    # Counted from Edge-MoE's published code, in 10^6 a layer.
    found = workloads.macs(of("m3vit"))
    layers = {
        "projections": (sum(found[k] for k in "QKVZ") / 12, 19.02),
        "attention": (found["attention"] / 12, 6.39),
        "dense": ((found["FFN1"] + found["FFN2"]) / 6, 38.04),
        "experts": ((found["expert FFN1"] + found["expert FFN2"]) / 6, 38.04),
        "gate": (found["router"] / 6, 0.40),
        "patches": (found["patch embedding"], 18.87),
    }
    for name, (ours, published) in layers.items():
        assert ours / 1e6 == pytest.approx(published, abs=0.006), name
    norms = 24 * 129 * 192  # two a layer, none behind the last one
    assert (total(of("m3vit")) - norms) / 1e6 == pytest.approx(782.7, abs=0.06)


# Prefill and decoding


@pytest.mark.parametrize("name", ["gpt2", "llama3-8b", "mixtral-8x7b"])
def test_decoding_token_by_token_is_prefill(name):
    tokens = 37
    one_by_one = workloads.macs(of(name, 2, 1, np.arange(1, tokens + 1)))
    at_once = workloads.macs(of(name, 2, tokens))
    assert one_by_one.keys() == at_once.keys()
    for kernel, expected in at_once.items():
        if kernel == "vocabulary":  # after prefill, the last token alone
            expected = expected * tokens
        found = np.broadcast_to(one_by_one[kernel], tokens).sum()
        assert found == pytest.approx(expected, rel=1e-12), kernel


def test_a_window_bounds_the_keys_of_a_query():
    model = workloads.model("mistral-7b")
    found = workloads.macs(of("mistral-7b", 1, 1, np.array([1000, 4096, 32768])))["attention"]
    per_key = 2 * model.L * model.H * model.E
    assert found.tolist() == [1000 * per_key, 4096 * per_key, 4096 * per_key]


def test_latent_attention_reads_latents_when_decoding():
    prefill = workloads.macs(of("deepseek-v3", 1, 128))
    assert prefill["attention"] == 61 * 128 * (192 + 128) * 128 * 129 / 2
    assert "latent to V" not in prefill
    decoding = workloads.macs(of("deepseek-v3", 1, 1, 128))
    assert decoding["attention"] == 61 * 128 * (512 + 64 + 512) * 128
    # The same matrices, by another order of the products: as many of them for a token.
    moved = decoding["Q to latent"] + decoding["latent to V"]
    assert moved == (prefill["K up"] + prefill["V up"]) / 128
    both = workloads.macs(of("deepseek-v3", 1, np.array([128, 1]), 128))
    assert both["attention"].tolist() == [prefill["attention"], decoding["attention"]]


@pytest.mark.parametrize("name", workloads.list_models())
def test_arrays_of_points_are_their_points(name):
    batches = np.array([1, 3, 16])
    queries = None if workloads.model(name).image else np.array([64, 1, 32])
    keys = None if queries is None else np.array([64, 96, 32])
    whole = workloads.macs(of(name, batches, queries, keys))
    for i, batch in enumerate(batches.tolist()):
        at = () if queries is None else (int(queries[i]), int(keys[i]))
        point = workloads.macs(of(name, batch, *at))
        for kernel, found in whole.items():
            here = np.broadcast_to(found, 3)[i]
            assert here == pytest.approx(point.get(kernel, 0), rel=1e-12), kernel


def test_equal_layers_are_one_kernel_with_its_count():
    ffn = [k for k in of("llama2-7b", 2, 64) if k.name == "FFN gate"]
    assert [(k.block, k.shape, k.count, k.instances) for k in ffn] == [
        ("layers", {"R": 128, "K": 4096, "N": 11008}, 32, 1)
    ]


# Experts


@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_expected_loads_are_those_of_random_routing(tokens):
    experts = Experts(X=8, TOPK=2, S=1)
    generator = np.random.default_rng(0)
    routed = generator.permuted(np.tile(np.arange(8), (4000 * tokens, 1)), axis=1)[:, :2]
    chosen = routed.reshape(4000, tokens * 2)
    active = np.mean([len(np.unique(row)) for row in chosen])
    rows, count = expert_loads(experts, tokens)
    assert (rows * count).sum() == pytest.approx(2 * tokens, rel=1e-9)
    assert count.sum() == pytest.approx(active, rel=5e-3)


def test_a_histogram_of_counts_is_taken_as_it_stands():
    rows, count = expert_loads(Experts(X=16, TOPK=2, S=384), 129, MEASURED)
    runs = {int(r): int(n) for r, n in zip(rows, count, strict=True) if n}
    assert runs == {6: 1, 11: 1, 15: 2, 19: 1, 22: 2, 24: 1, 27: 1, 32: 2, 33: 1}
    kernel = next(k for k in of("m3vit", histogram=MEASURED) if k.name == "expert FFN1")
    assert kernel.instances == 9
    assert kernel.total(1) == 6 * 12  # 12 of the 16 experts, in 6 layers
    assert kernel.shape["R"].shape == kernel.count.shape == (9,)


def test_loads_do_not_change_the_products_but_how_often_weights_are_read():
    even, uneven = of("m3vit"), of("m3vit", histogram=MEASURED)
    assert total(uneven) == pytest.approx(total(even), rel=1e-9)
    runs = [sum(k.total(1) for k in found if k.name == "expert FFN1") for found in (even, uneven)]
    assert runs[0] == pytest.approx(6 * 16, rel=1e-6)
    assert runs[1] == 72


def test_kernels_of_edge_moe():
    """As its published code has them; equal ones of all layers are one, 12 or 6 times."""
    found = of("m3vit", histogram=MEASURED)
    assert [(k.name, k.cascade.name) for k in found if k.block != "layers"] == [
        ("patch embedding", "patch-position-embedding"),
        ("FFN1", "linear-gelu"),
        ("FFN2", "linear-layer"),
        ("router", "online-router"),
        ("expert FFN1", "expert-gather-linear-gelu"),
        ("expert FFN2", "expert-scatter-linear"),
    ]
    assert sum(k.count for k in found if k.cascade.name == "layer-norm") == 24
    for name in ("expert FFN1", "expert FFN2"):
        kernel = next(k for k in found if k.name == name)
        assert kernel.shape["T"] == 129
        assert kernel.total(kernel.shape["R"]) == 6 * 258


def test_what_never_runs_costs_nothing_even_where_it_has_no_cost():
    points = of("deepseek-v3", 1, np.array([128, 1]), 128)
    prefill, decoding = (k for k in points if k.name == "attention")
    assert prefill.total(np.array([2.0, np.nan])).tolist() == [61 * 2, 0]
    assert decoding.total(np.array([np.nan, 3.0])).tolist() == [0, 61 * 3]


def test_shares_are_loads_up_to_a_factor():
    skewed = [0.5, 0.2, 0.1, 0.1, 0.05, 0.05, 0, 0]
    rows, count = expert_loads(Experts(X=8, TOPK=2, S=1), np.array([1, 4096]), skewed)
    assert rows.shape == count.shape == (10, 2)
    np.testing.assert_allclose((rows * count).sum(axis=0), [2, 8192])
    np.testing.assert_allclose(count.sum(axis=0), [2, 6])
    assert rows[:, 1].max() - 1 == 4096  # half of the load: every token goes there
    others = expert_loads(Experts(X=8, TOPK=2, S=1), np.array([1, 4096]), [20 * s for s in skewed])
    np.testing.assert_array_equal(rows, others[0])
    # Shares that sum to 1 are no counts of the one token that goes to one expert.
    rows, count = expert_loads(Experts(X=4, TOPK=1, S=1), 1, [0.5, 0.25, 0.25, 0])
    assert (rows * count).sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("histogram", "message"),
    [
        ([1, 2], "the histogram has 2 numbers for 16 experts"),
        ([-1] + [1] * 15, "0 and more"),
        ([0] * 16, "not all 0"),
        ([float("nan")] * 16, "must be numbers"),
        ([10] + [0.1] * 15, "more than every token once, which is 1/2"),
    ],
)
def test_histograms_that_no_routing_has(histogram, message):
    with pytest.raises(InputError, match=message):
        of("m3vit", histogram=histogram)


@pytest.mark.parametrize("network", ["decoder-moe", "vit-moe"])
def test_dense_layers_among_those_with_experts(network):
    base = {
        "D": 64,
        "H": 2,
        "E": 32,
        "S": 256,
        "L": 5,
        "image": {"height": 64, "width": 64, "patch": 16},
    }
    experts = {"X": 4, "TOPK": 1, "S": 128}
    model = workloads.model({**base, "moe": {**experts, "dense": 2}})
    found = workloads.macs(workloads.kernels(workloads.network(network), model, 1))
    assert found["FFN1"] == 2 * 16 * 64 * 256
    assert found["expert FFN1"] == pytest.approx(3 * 16 * 64 * 128)
    assert found["Q"] == 5 * 16 * 64 * 64


# Files and mistakes


@pytest.mark.parametrize("name", workloads.list_networks())
def test_every_network_says_what_it_is_and_from_where(name):
    network = workloads.network(name)
    assert network.name == name
    assert network.about
    assert network.source


def test_every_network_has_a_model_that_is_tested():
    used = {workloads.model(name).network for name in workloads.list_models()}
    assert used == set(workloads.list_networks())


@pytest.mark.parametrize("name", ["attention-3pass", "attention-2pass", "causal-attention"])
def test_another_attention_in_its_place(name):
    cascade = workloads.cascade(name)
    found = of("xlm", 2, 64, attention=cascade)
    kernel = next(k for k in found if k.name == "attention")
    assert kernel.cascade is cascade
    assert kernel.shape["H"] == 16
    others = [k for k in found if k.name != "attention"]
    assert others == [k for k in of("xlm", 2, 64) if k.name != "attention"]


def test_a_users_own_network(tmp_path):
    (tmp_path / "twice.yaml").write_text(
        "{name: twice, ranks: [R, D], inputs: ['X[r,d]'], body: ['Y[r,d] = X[r,d] + X[r,d]']}"
    )
    own = tmp_path / "own.yaml"
    own.write_text(
        "name: own\n"
        "blocks:\n"
        "  all:\n"
        "    repeat: L + 1\n"
        "    kernels:\n"
        "      - {name: norm, cascade: model.norm, shape: {R: B*P, D: D}}\n"
        "      - {name: twice, cascade: twice.yaml, shape: {R: B*P, D: 2*D}, count: 3}\n"
    )
    network = workloads.network("own.yaml", base=tmp_path)
    model = workloads.model({"D": 8, "H": 2, "E": 4, "S": 16, "L": 4, "norm": "rms-norm"})
    found = workloads.kernels(network, model, 2, 8, base=tmp_path)
    assert [(k.cascade.name, k.count) for k in found] == [("rms-norm", 5), ("twice", 15)]
    assert found[1].shape == {"R": 16, "D": 16}
    own.write_text(own.read_text().replace("2*D", "2*D)"))
    with pytest.raises(InputError, match=r"own\.yaml:7:\d+: .*not an arithmetic expression"):
        workloads.network("own.yaml", base=tmp_path)


def test_mistakes_are_told():
    with pytest.raises(InputError, match="a number of queries is needed"):
        of("gpt2")
    with pytest.raises(InputError, match="no experts"):
        of("gpt2", 1, 64, histogram=[1, 2])
    with pytest.raises(InputError, match=r"unknown name 'moe\.dense'"):
        workloads.kernels(workloads.network("decoder-moe"), workloads.model("gpt2"), 1, 64)
    with pytest.raises(InputError, match="N of kernel 'attention' must be a positive integer"):
        of("swin-t", 1, 3200)
    with pytest.raises(InputError, match="did you mean 'decoder'"):
        workloads.network("decodr")


def test_a_network_has_all_layers_of_its_model():
    """What FuseMax's models are: so many layers (see the sources in their files)."""
    layers = {"bert-base": 12, "t5-small": 6, "trxl-wt103": 18, "xlm": 12}
    for name, count in layers.items():
        attention = next(k for k in of(name, 1, 64) if k.name == "attention")
        assert attention.count == count
    for name in workloads.list_models():
        assert "L" in workloads.model(name).model_fields_set, name
    alone = workloads.model({"name": "mine", "D": 8, "H": 2, "E": 4, "S": 16})
    with pytest.raises(InputError, match="'mine' has no L, its number of layers"):
        workloads.kernels(workloads.network("encoder"), alone, 1, 64)


@pytest.mark.parametrize("queries", [1, 0])
def test_an_image_has_a_patch(queries):
    with pytest.raises(InputError, match=r"'vit-tiny' takes images.*197 .* 1 no patches"):
        of("vit-tiny", 1, queries)
