"""Model shapes, and the linear layers that a plain layer of a model has."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from einsum_cascade.source import InputError


def _integer(value: object) -> object:
    """An integer, no number that merely looks like one (true, 64.0, '64')."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a positive integer is expected")
    return value


_Extent = Annotated[int, BeforeValidator(_integer), Field(ge=1)]
_Count = Annotated[int, BeforeValidator(_integer), Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Experts(_Part):
    """A mixture of experts: X experts of hidden width S, of which a token goes through TOPK.

    Every token also goes through the `shared` experts. `dense` layers have no experts but the
    model's own feed-forward layer. Of `gates` routers, one for each task, one is used at a time.
    """

    X: _Extent
    TOPK: _Extent
    S: _Extent
    shared: _Count = 0
    dense: _Count = 0
    gates: _Extent = 1


class Latent(_Part):
    """Multi-head latent attention: ranks of the latent queries and of the latent keys and values.

    `rope` of the E features of a query and a key carry the rotary position.
    """

    q: _Extent
    kv: _Extent
    rope: _Extent


class Image(_Part):
    """An image in pixels, cut into patches of patch x patch; `extra` tokens are no patches."""

    height: _Extent
    width: _Extent
    patch: _Extent
    channels: _Extent = 3
    extra: _Count = 0
    classes: _Count = 0


class Stage(_Part):
    """A stage of a hierarchical network: L layers of width D with H heads."""

    L: _Extent
    D: _Extent
    H: _Extent


class Model(_Part):
    """The shape of a transformer; all extents in elements.

    D is the model's width, H its query heads, G its heads of keys and values (H where it is left
    out), E the query and key embedding of a head, F the value embedding of a head (E where it is
    left out), S the hidden width of the feed-forward layers, L the layers, V the vocabulary and
    `context` the longest sequence (0: none). `silu-gate` has three matrices in a feed-forward
    layer, the other activations two. `window`: the tokens that a query sees (0: all), or the side
    of a window of a network with stages, whose D, H and S are those of the first stage. `tied`:
    the output layer has the weights of the embedding. `network`: the network that has this shape.

    >>> Model(name="tiny", D=128, H=2, E=64, S=512).F
    64
    """

    name: str = "inline"
    about: str = ""
    D: _Extent
    H: _Extent
    G: _Extent = Field(default_factory=lambda data: data.get("H", 1))
    E: _Extent
    F: _Extent = Field(default_factory=lambda data: data.get("E", 1))
    S: _Extent
    L: _Extent = 1
    V: _Count = 0
    context: _Count = 0
    window: _Count = 0
    activation: Literal["gelu", "relu", "silu-gate"] = "gelu"
    norm: Literal["layer-norm", "rms-norm"] = "layer-norm"
    position: Literal["none", "learned", "rotary"] = "none"
    qk_norm: bool = False
    tied: bool = False
    moe: Experts | None = None
    latent: Latent | None = None
    image: Image | None = None
    stages: tuple[Stage, ...] = ()
    network: str = "encoder"
    source: str = ""

    @model_validator(mode="after")
    def _agrees(self) -> Model:
        moe, latent, image = self.moe, self.latent, self.image
        rules = {
            f"G = {self.G} does not divide H = {self.H}": self.H % self.G == 0,
            "TOPK is more than the X experts": moe is None or moe.TOPK <= moe.X,
            "more dense layers than L": moe is None or moe.dense <= self.L,
            "rope is not less than E": latent is None or latent.rope < self.E,
            "patch does not divide the image": image is None
            or (image.height % image.patch == 0 and image.width % image.patch == 0),
            "experts in a network with stages": moe is None or not self.stages,
            "L is not the layers of the stages": not self.stages
            or sum(stage.L for stage in self.stages) == self.L,
        }
        for problem, holds in rules.items():
            if not holds:
                raise InputError(problem)
        return self

    @property
    def tokens(self) -> int | None:
        """Tokens of the image, those that are no patches included; None for a model of text.

        >>> Model(D=192, H=3, E=64, S=768, image={"height": 128, "width": 256, "patch": 16}).tokens
        128
        """
        if self.image is None:
            return None
        image = self.image
        return (image.height // image.patch) * (image.width // image.patch) + image.extra

    def symbols(self) -> dict[str, Any]:
        """The numbers that expressions of a network file may use, by name; what is absent is not.

        Of a part, with a dot: `moe.X`, `latent.kv`, `image.patch`. `gated`, `learned`, `rotary`,
        `tied` and `qk_norm` are 1 or 0. Those of `stages` are arrays, one element a stage:
        `stages.L`, `.D`, `.H` and `.index` (0, 1, ...); `stages.count` is their number.

        >>> Model(D=128, H=2, E=64, S=512, activation="silu-gate").symbols()["gated"]
        1
        """
        found: dict[str, Any] = {
            "gated": int(self.activation == "silu-gate"),
            "learned": int(self.position == "learned"),
            "rotary": int(self.position == "rotary"),
        }
        for name, value in self:
            if isinstance(value, int):
                found[name] = int(value)
            elif isinstance(value, _Part):
                found |= {f"{name}.{inner}": number for inner, number in value}
        if self.image:
            found["image.tokens"] = self.tokens
        if self.stages:
            found["stages.count"] = len(self.stages)
            found["stages.index"] = np.arange(len(self.stages))
            for name in Stage.model_fields:
                found[f"stages.{name}"] = np.array([getattr(s, name) for s in self.stages])
        return found


class LinearLayer(BaseModel):
    """A linear layer: K features in, N features out, for every row (batch * queries)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    K: int
    N: int


def linear_layers(model: Model) -> tuple[LinearLayer, ...]:
    """The linear layers of one plain layer, as shapes for the cascade `linear-layer`.

    Q, K, V project the input (K and V for the G heads of keys and values), Z the heads' results
    back, FFN1 and FFN2 are the feed-forward pair (FuseMax, section VI). A gated feed-forward layer
    has the gate's matrix beside the first: one product with 2 S features out. Norms and
    activations are left out there, and here. Raises `InputError` for a model whose layers differ
    from each other or have other matrices: its network says which.

    >>> bert = Model(name="bert-base", D=768, H=12, E=64, S=3072)
    >>> [(layer.name, layer.K, layer.N) for layer in linear_layers(bert)][-2:]
    [('FFN1', 768, 3072), ('FFN2', 3072, 768)]
    """
    for what in ("moe", "latent", "stages"):
        if getattr(model, what):
            raise InputError(
                f"model {model.name!r} has {what!r}, so no plain layer; "
                f"its kernels are those of the network {model.network!r}"
            )
    values = model.F * model.H
    gated = model.activation == "silu-gate"
    layers = {
        "Q": (model.D, model.E * model.H),
        "K": (model.D, model.E * model.G),
        "V": (model.D, model.F * model.G),
        "Z": (values, model.D),
        "FFN1": (model.D, model.S * (2 if gated else 1)),
        "FFN2": (model.S, model.D),
    }
    return tuple(LinearLayer(name=name, K=k, N=n) for name, (k, n) in layers.items())
