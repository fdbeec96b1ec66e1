"""Model shapes and their linear layers."""

from __future__ import annotations

import pytest

import workloads
from einsum_cascade import InputError

PUBLISHED = {  # FuseMax (MICRO 2024), section VI: D, H, E = F, S
    "bert-base": (768, 12, 64, 3072),
    "trxl-wt103": (1024, 16, 64, 4096),
    "t5-small": (512, 8, 64, 2048),
    "xlm": (2048, 16, 128, 8192),
}


def test_published_models():
    for name, (d, h, e, s) in PUBLISHED.items():
        model = workloads.model(name)
        assert (d, h, e, e, s) == (model.D, model.H, model.E, model.F, model.S)


@pytest.mark.parametrize("name", workloads.list_models())
def test_every_model_says_where_it_comes_from(name):
    model = workloads.model(name)
    assert model.name == name
    assert model.about
    assert model.source
    assert model.network in workloads.list_networks()


def test_linear_layers_of_xlm():
    layers = {x.name: (x.K, x.N) for x in workloads.linear_layers(workloads.model("xlm"))}
    assert layers == {
        "Q": (2048, 2048),
        "K": (2048, 2048),
        "V": (2048, 2048),
        "Z": (2048, 2048),
        "FFN1": (2048, 8192),
        "FFN2": (8192, 2048),
    }


def test_linear_layers_of_grouped_queries_and_a_gate():
    layers = {x.name: (x.K, x.N) for x in workloads.linear_layers(workloads.model("llama3-8b"))}
    assert layers == {
        "Q": (4096, 4096),
        "K": (4096, 1024),
        "V": (4096, 1024),
        "Z": (4096, 4096),
        "FFN1": (4096, 2 * 14336),
        "FFN2": (14336, 4096),
    }


@pytest.mark.parametrize("name", ["deepseek-v3", "m3vit", "mixtral-8x7b", "swin-t"])
def test_no_plain_layer(name):
    with pytest.raises(InputError, match="so no plain layer"):
        workloads.linear_layers(workloads.model(name))


def test_linear_layers_are_those_of_the_network():
    for name in ("bert-base", "gpt2", "llama3-70b", "vit-tiny"):
        model = workloads.model(name)
        network = workloads.network(model.network)
        found = [
            k for k in workloads.kernels(network, model, 1, 64)
            if k.cascade.name == "linear-layer" and k.block == "layers"
        ]  # fmt: skip
        words = sum(k.shape["K"] * k.shape["N"] * k.count for k in found)
        assert words == model.L * sum(x.K * x.N for x in workloads.linear_layers(model))


def test_models_are_immutable():
    with pytest.raises(ValueError, match="frozen"):
        workloads.model("xlm").D = 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"D": 0}, "D: expected a number of at least 1, found 0"),
        ({"H": -2}, "found -2"),
        ({"E": 64.0}, "a positive integer is expected, found 64.0"),
        ({"S": True}, "a positive integer is expected, found True"),
        ({"S": "1K"}, "a positive integer is expected, found '1K'"),
        ({"DD": 3}, "unknown key 'DD'"),
        ({"V": -1}, "V: expected a number of at least 0, found -1"),
        ({"G": 3, "H": 4}, "G = 3 does not divide H = 4"),
        ({"activation": "swish"}, "allowed: gelu, relu, silu-gate"),
        ({"moe": {"X": 2, "TOPK": 3, "S": 8}}, "TOPK is more than the X experts"),
        ({"moe": {"X": 4, "TOPK": 1, "S": 8, "dense": 2}}, "more dense layers than L"),
        ({"moe": {"X": 4, "TOPK": 1, "s": 8}}, "unknown key 's'"),
        ({"latent": {"q": 8, "kv": 8, "rope": 64}}, "rope is not less than E"),
        ({"image": {"height": 20, "width": 32, "patch": 16}}, "patch does not divide the image"),
        ({"stages": [{"L": 2, "D": 128, "H": 2}]}, "L is not the layers of the stages"),
    ],
)
def test_wrong_models(changed, message):
    with pytest.raises(InputError) as error:
        workloads.model({"D": 128, "H": 2, "E": 64, "S": 512, **changed})
    assert message in str(error.value)


def test_a_users_own_model(tmp_path):
    own = tmp_path / "tiny.yaml"
    own.write_text("name: tiny\nD: 128\nH: 2\nE: 32\nF: 64\nS: 512\n")
    assert workloads.model("tiny.yaml", base=tmp_path).F == 64
    own.write_text("name: tiny\nD: 128\nH: 2\nS: 512\n")
    with pytest.raises(InputError, match=r"tiny\.yaml:.*missing key 'E'"):
        workloads.model(own)
