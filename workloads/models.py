"""Model shapes, and the linear layers that an encoder layer of a model has."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _integer(value: object) -> object:
    """An integer, no number that merely looks like one (true, 64.0, '64')."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a positive integer is expected")
    return value


_Extent = Annotated[int, BeforeValidator(_integer), Field(ge=1)]


class Model(BaseModel):
    """The shape of a transformer encoder; all extents in elements.

    D is the model's width, H its heads, E the query and key embedding of a head, F the value
    embedding of a head (E where it is left out), S the hidden width of the feed-forward layers.

    >>> Model(name="tiny", D=128, H=2, E=64, S=512).F
    64
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "inline"
    about: str = ""
    D: _Extent
    H: _Extent
    E: _Extent
    F: _Extent = Field(default_factory=lambda data: data.get("E", 1))
    S: _Extent
    source: str = ""


class LinearLayer(BaseModel):
    """A linear layer: K features in, N features out, for every row (batch * queries)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    K: int
    N: int


def linear_layers(model: Model) -> tuple[LinearLayer, ...]:
    """The linear layers of one encoder layer, as shapes for the cascade `linear-layer`.

    Q, K, V project the input, Z the heads' results back, FFN1 and FFN2 are the feed-forward pair
    (FuseMax, section VI). Norms and activations are left out there, and here.

    >>> bert = Model(name="bert-base", D=768, H=12, E=64, S=3072)
    >>> [(layer.name, layer.K, layer.N) for layer in linear_layers(bert)][-2:]
    [('FFN1', 768, 3072), ('FFN2', 3072, 768)]
    """
    queries, values = model.E * model.H, model.F * model.H
    layers = {
        "Q": (model.D, queries),
        "K": (model.D, queries),
        "V": (model.D, values),
        "Z": (values, model.D),
        "FFN1": (model.D, model.S),
        "FFN2": (model.S, model.D),
    }
    return tuple(LinearLayer(name=name, K=k, N=n) for name, (k, n) in layers.items())
