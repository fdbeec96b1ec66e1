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
    assert sorted(PUBLISHED) == list(workloads.list_models())
    for name, (d, h, e, s) in PUBLISHED.items():
        model = workloads.model(name)
        assert (d, h, e, e, s) == (model.D, model.H, model.E, model.F, model.S)
        assert model.source


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
        ({"DD": 3}, "unknown key 'DD'; allowed: name, about, D, H, E, F, S, source"),
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
