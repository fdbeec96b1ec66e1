"""The kernels of a network at a model's shape: one layer kind after the other, with their counts.

>>> import workloads
>>> gpt2 = workloads.model("gpt2")
>>> found = kernels(workloads.network(gpt2.network), gpt2, batch=1, queries=1024, keys=1024)
>>> [(k.name, k.cascade.name, k.shape, k.count) for k in found if k.name == "FFN1"]
[('FFN1', 'linear-layer', {'R': 1024, 'K': 768, 'N': 3072}, 12.0)]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from einsum_cascade import Cascade, analyze_passes
from einsum_cascade.analysis import PassAnalysis
from einsum_cascade.shapes import size
from einsum_cascade.source import InputError
from workloads import library
from workloads.blocks import KernelRule, Network
from workloads.models import Experts, Model

ATTENTION = "attention"
"""The name of the kernels whose cascade a user may replace."""


Histogram = Sequence[float] | Sequence[Sequence[float]]
"""A number for each expert, for all layers with experts, or a row of numbers for each of them."""


@dataclass(frozen=True)
class Kernel:
    """A cascade at a shape, run `count` times.

    Extents are Python ints or int64 arrays, the count a float or a float64 array, all broadcastable
    over the design points. Where `instances` is more than 1, arrays have that many elements along
    an axis before those of the points: experts with different loads, or stages; the cost of the
    kernel is the sum over that axis of the cost of each times its count (`total`). Counts that are
    no whole numbers are expected values. Of `weight_sets` sets of weights, a run reads one.
    """

    name: str
    block: str
    cascade: Cascade
    shape: Mapping[str, Any]
    count: Any
    instances: int = 1
    weight_sets: int = 1

    def total(self, cost: Any) -> Any:
        """The cost of all runs, from that of one run of each instance."""
        if np.ndim(self.count):  # what never runs costs nothing, even where it has no cost
            cost = np.where(self.count == 0, 0, cost)
        product = cost * self.count
        return product.sum(axis=0) if self.instances > 1 else product


def kernels(
    network: Network,
    model: Model,
    batch: Any,
    queries: Any = None,
    keys: Any = None,
    *,
    attention: Cascade | None = None,
    histogram: Histogram | None = None,
    base: str | Path | None = None,
) -> tuple[Kernel, ...]:
    """The kernels of the network in their order; equal ones of all layers are one, with its count.

    `batch`, `queries` and `keys` are positive integers or arrays of design points. Prefill has as
    many queries as keys, decoding has 1 query and as many keys as the cache then holds; `keys` left
    out is `queries`, and both left out are the tokens of the model's image.

    `attention` replaces the cascade of the kernels of that name. `histogram` has one number for
    each expert, their loads up to a factor (shares, or counted tokens), for all layers with experts
    or a row of such numbers for each of them; left out, all experts are equally likely. `base` is
    the folder that paths of cascades start from.

    Raises `InputError` for a shape that is no positive integer, for names that the model does not
    have, and for a histogram that no routing can have.
    """
    check_layers(network, model)
    queries = model.tokens if queries is None else queries
    if queries is None:
        raise InputError(f"model {model.name!r} has no image, so a number of queries is needed")
    keys = queries if keys is None else keys
    values = {"B": batch, "P": queries, "M": keys}
    points = np.broadcast_shapes(*(np.shape(value) for value in values.values()))
    if model.moe is not None:
        tokens = np.broadcast_to(np.asarray(batch, dtype=np.float64) * queries, points)
        layers = model.L - model.moe.dense
        by_layer = _by_layer(histogram)
        if len(by_layer) > 1 and len(by_layer) != layers:
            raise InputError(
                f"histograms of {len(by_layer)} layers for the {layers} layers with experts of "
                f"model {model.name!r}"
            )
        values["moe.rows"], values["moe.active"] = expert_loads(model.moe, tokens, histogram)
    elif histogram is not None:
        raise InputError(f"a histogram for model {model.name!r}, which has no experts")
    return _kernels(network, model, values, len(points), attention, base)


def check_layers(network: Network, model: Model) -> None:
    """Raises `InputError` for a model that does not say how many layers a network of it has.

    >>> import workloads
    >>> single = Model(name="mine", D=128, H=2, E=64, S=512)
    >>> check_layers(workloads.network("encoder"), single)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    einsum_cascade.source.InputError: model 'mine' has no L, ... network 'encoder' needs
    """
    if "L" in model.model_fields_set:
        return
    rules = [*network.symbols.values()]
    for block in network.blocks.values():
        rules.append(block.repeat)
        for kernel in block.kernels:
            rules += [kernel.count, *kernel.shape.values()]
    if any("L" in rule.names for rule in rules):
        raise InputError(
            f"model {model.name!r} has no L, its number of layers, which network "
            f"{network.name!r} needs"
        )


def expert_loads(experts: Experts, tokens: Any, histogram: Histogram | None = None) -> Any:
    """Rows of an expert, and how many experts have that many: two arrays, a load a first axis.

    A token goes to expert x with the probability p = TOPK * share, independently of the others, so
    that of `tokens` an expert is active with 1 - (1-p)^tokens and then has tokens * p / active rows
    on average; a part goes to the whole numbers below and above, which keeps the sum. Loads vary
    around that average; this variation is left out. A histogram of counts is taken as it stands
    where it sums to tokens * TOPK. Of histograms of several layers, each is taken so, and the
    numbers of experts are means over the layers.

    >>> from workloads.models import Experts
    >>> rows, active = expert_loads(Experts(X=8, TOPK=2, S=1), 3)
    >>> rows.tolist(), active.round(3).tolist(), float((rows * active).sum().round(9))
    ([1, 2], [3.25, 1.375], 6.0)
    """
    if by_layer := _by_layer(histogram):
        layers = [expert_loads(experts, tokens, layer) for layer in by_layer]
        rows, active = (np.concatenate(each) for each in zip(*layers, strict=True))
        return rows, active / len(layers)
    given = np.ones(experts.X) if histogram is None else np.asarray(histogram, dtype=np.float64)
    if given.shape != (experts.X,):
        raise InputError(f"the histogram has {given.size} numbers for {experts.X} experts")
    if not np.all(np.isfinite(given)) or given.min() < 0 or given.sum() <= 0:
        raise InputError("the loads of a histogram must be numbers of 0 and more, not all 0")
    loads, same = np.unique(given, return_counts=True)
    tokens = np.asarray(tokens, dtype=np.float64)
    column = (-1,) + (1,) * tokens.ndim
    chance = (experts.TOPK * loads / given.sum()).reshape(column)
    if chance.max() > 1 + 1e-9:
        raise InputError(
            f"an expert of the histogram has {chance.max() / experts.TOPK:.3g} of the load: more "
            f"than every token once, which is 1/{experts.TOPK}"
        )
    with np.errstate(divide="ignore"):
        active = -np.expm1(tokens * np.log1p(-np.minimum(chance, 1.0)))
    if histogram is not None:
        counts = bool(np.all(given == np.floor(given)))
        measured = counts & (given.sum() == tokens * experts.TOPK)
        active = np.where(measured, chance > 0, active)
    rows = tokens * chance / np.where(active > 0, active, 1.0)
    whole = np.round(rows)
    rows = np.where(np.abs(rows - whole) < 1e-9, whole, rows)  # a whole number, but for rounding
    below = np.maximum(np.floor(rows), 1.0)
    above = np.clip(rows - below, 0.0, 1.0)
    number = active * same.reshape(column)
    return (
        np.concatenate([below, below + 1]).astype(np.int64),
        np.concatenate([number * (1 - above), number * above]),
    )


def _by_layer(histogram: Histogram | None) -> list[Any]:
    """The histograms of the layers; none where there is one for all of them."""
    rows: list[Any] = [] if histogram is None else list(histogram)
    return rows if any(np.ndim(row) for row in rows) else []


def macs(found: Iterable[Kernel]) -> dict[str, Any]:
    """Multiply-accumulates of each kernel, all its runs together, by name.

    These are the products that are summed, those of norms included; an element-wise product is
    none. Tiles do not change them, so ranks in parts need no sizes.

    >>> import workloads
    >>> vit = workloads.model("vit-base")
    >>> round(sum(macs(kernels(workloads.network("vit"), vit, batch=1)).values()) / 1e9, 2)
    17.57
    """
    total: dict[str, Any] = {}
    for kernel in found:
        counts = _analysis(kernel.cascade).operation_counts(_untiled(kernel.cascade, kernel.shape))
        total[kernel.name] = total.get(kernel.name, 0) + kernel.total(counts.get("mac", 0))
    return total


def parameters(network: Network, model: Model, active: bool = False) -> int:
    """Weights of the network: inputs whose size depends on neither batch nor tokens.

    Linear layers have no bias here. With `active`, only those that one token meets: TOPK experts
    of a layer, in place of all.

    >>> import workloads
    >>> parameters(workloads.network("decoder"), workloads.model("llama2-7b"))
    6738415616
    """
    tokens = model.tokens or 1
    experts = {} if model.moe is None else {
        "moe.active": model.moe.TOPK if active else model.moe.X
    }  # fmt: skip
    one, more = (
        _kernels(network, model, {**experts, **values}, 0)
        for values in (
            {"B": 1, "P": tokens, "M": tokens, "moe.rows": 1},
            {"B": 2, "P": 4 * tokens, "M": 4 * tokens, "moe.rows": 2},
        )
    )
    total = -model.V * model.D if model.tied else 0
    for kernel, larger in zip(one, more, strict=True):
        cascade = kernel.cascade
        here, there = (_untiled(cascade, each.shape) for each in (kernel, larger))
        for name, tensor in cascade.tensors.items():
            if tensor.role != "input" or not tensor.extents:
                continue
            words = size(cascade, name, here)
            fixed = np.all(words == size(cascade, name, there))
            sets = 1 if active else kernel.weight_sets
            total += int(np.sum(kernel.total(words))) * sets if fixed else 0
    return total


def _kernels(
    network: Network,
    model: Model,
    values: Mapping[str, Any],
    dimensions: int,
    attention: Cascade | None = None,
    base: str | Path | None = None,
) -> tuple[Kernel, ...]:
    """Like `kernels`, for the symbols that do not come from the model; points have `dimensions`."""
    known = {**model.symbols(), **values}
    for name, value in known.items():
        if name.startswith("stages.") and np.ndim(value):
            known[name] = np.reshape(value, (-1,) + (1,) * dimensions)
    for name, rule in network.symbols.items():
        known[name] = rule.evaluate(known)
    found = []
    for block, content in network.blocks.items():
        repeat = content.repeat.evaluate(known)
        for kernel in content.kernels:
            count = np.asarray(kernel.count.evaluate(known) * repeat, dtype=np.float64)
            if not count.any():
                continue
            cascade = attention if kernel.name == ATTENTION and attention else None
            cascade = cascade or library.cascade(_cascade_name(kernel, model), base)
            hint = _image_hint(model)
            shape = {
                rank: _extent(f"{rank} of kernel {kernel.name!r}", rule.evaluate(known), hint)
                for rank, rule in kernel.shape.items()
                if kernel.name != ATTENTION or rank in {*cascade.ranks, *cascade.parameters}
            }
            each = _with_instances(kernel.name, block, cascade, shape, count, dimensions)
            sets = _extent(
                f"weight_sets of kernel {kernel.name!r}", kernel.weight_sets.evaluate(known)
            )
            found.append(replace(each, weight_sets=int(sets)))
    return tuple(found)


def _cascade_name(kernel: KernelRule, model: Model) -> str:
    field = kernel.cascade.removeprefix("model.")
    return kernel.cascade if field == kernel.cascade else str(getattr(model, field))


def _with_instances(
    name: str,
    block: str,
    cascade: Cascade,
    shape: Mapping[str, Any],
    count: Any,
    dimensions: int,
) -> Kernel:
    """The kernel without those instances that never run, and without the axis of a single one."""
    arrays = [a for a in (count, *shape.values()) if np.ndim(a) > dimensions]
    instances = max(map(len, arrays), default=1)
    if instances > 1 and count.ndim <= dimensions:
        count = count.reshape((1,) * (dimensions - count.ndim) + count.shape)
        count = np.repeat(count[None], instances, axis=0)
    kept: Any = np.flatnonzero(count.reshape(instances, -1).any(axis=1)) if instances > 1 else [0]
    kept = kept[0] if len(kept) == 1 else kept

    def chosen(array: Any) -> Any:
        array = array[kept] if np.ndim(array) > dimensions else array
        return array.item() if np.ndim(array) == 0 and hasattr(array, "item") else array

    return Kernel(
        name=name,
        block=block,
        cascade=cascade,
        shape={rank: chosen(extent) for rank, extent in shape.items()},
        count=chosen(count),
        instances=int(np.size(kept)),
    )


def _image_hint(model: Model) -> str:
    """What the numbers of queries and keys are, for a model of images."""
    if model.image is None:
        return ""
    extra = f", of which {model.image.extra} no patches" if model.image.extra else ""
    return (
        f": model {model.name!r} takes images, and its queries and keys are all tokens of one "
        f"({model.tokens} for its own{extra})"
    )


def _extent(what: str, value: Any, hint: str = "") -> Any:
    wrong = (value < 1) | (value != np.floor(value))
    if np.any(wrong):
        raise InputError(
            f"{what} must be a positive integer, found {float(np.extract(wrong, value)[0]):g}{hint}"
        )
    return np.asarray(value).astype(np.int64)


@lru_cache(maxsize=256)
def _analysis(cascade: Cascade) -> PassAnalysis:
    return analyze_passes(cascade)


def _untiled(cascade: Cascade, shape: Mapping[str, Any]) -> dict[str, Any]:
    """The shape with all of a rank in its outermost part, where no part is given."""
    inner = {
        part: 1
        for rank in cascade.ranks.values()
        if rank.partition and not any(part in shape for part in rank.partition)
        for part in rank.partition[1:]
    }
    return cascade.resolve_shape({**inner, **shape})
