"""How a cascade is placed on an architecture.

A mapper is a module with pydantic `Options` and a function `place`; one entry in `_MAPPERS` adds
it. A mapper asks the simulator what candidates cost; the simulator never asks a mapper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from einsum_cascade.source import Document, InputError, Place, check

if TYPE_CHECKING:
    from archs import Architecture
    from einsum_cascade import Cascade
    from sim import Mapping as PlacedMapping

_MAPPERS = {
    "unfused": (
        "mappers.unfused",
        "one kernel after the other, each with the best mapping that a search finds",
    ),
    "flat": (
        "mappers.flat",
        "FLAT: both products and the softmax fused on tiles of rows; searched or pinned",
    ),
    "fusemax": (
        "mappers.fusemax",
        "FuseMax: a one-pass cascade fused on tiles of queries and keys",
    ),
    "fused": (
        "mappers.fused",
        "any cascade, fused as far as its passes allow; the best of a stated space",
    ),
    "search": (
        "mappers.search",
        "any cascade on any architecture, the optimum of a stated space, with what was pruned",
    ),
    "edge_moe": (
        "mappers.edge_moe",
        "Edge-MoE: every kernel of a network on the units of an FPGA template, one by one",
    ),
    "file": (
        "mappers.written",
        "a mapping that is written in a YAML file: by hand, or by `explore mapping`",
    ),
}


def list_mappers() -> list[str]:
    """Names of the mappers."""
    return list(_MAPPERS)


def about(name: str) -> str:
    """One line on what a mapper does."""
    return _MAPPERS[name][1]


def places_networks(name: str) -> bool:
    """Whether a mapper places all kernels of a network, rather than attention alone."""
    return bool(getattr(_module(name), "WHOLE_NETWORK", False))


def uses_all_memories(name: str) -> bool:
    """Whether a mapper places tensors in all memories, not only the two outermost."""
    return bool(getattr(_module(name), "ALL_MEMORIES", False))


def takes_grids(name: str) -> bool:
    """Whether a mapper takes the points of a grid as arrays that broadcast together.

    Each then has the dimensions along which it varies. Else all have one, with an entry a point.
    """
    return bool(getattr(_module(name), "GRIDS", False))


def searching(name: str) -> Any:
    """The module of a mapper that searches one design point by itself, None of any other.

    It has `optimum` and `front`, which return what they found with a report, and `changes`: what
    would let something fit where nothing does.
    """
    module = _module(name)
    return module if hasattr(module, "front") else None


def _module(name: str, place: Place | None = None) -> Any:
    if name not in _MAPPERS:
        raise InputError(f"unknown mapper {name!r}", place, allowed=_MAPPERS, found=name)
    return import_module(_MAPPERS[name][0])


def named(given: str | Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The name of a mapper and its options, as a spec gives them; {file: ...} is the mapper `file`.

    >>> named({"name": "flat", "spill": "all"}), named({"file": "mine.yaml"})
    (('flat', {'spill': 'all'}), ('file', {'file': 'mine.yaml'}))
    """
    if isinstance(given, str):
        return given, {}
    options = dict(given)
    name = options.pop("name", "file" if "file" in options else None)
    return name if isinstance(name, str) else None, options


def check_options(
    name: str,
    options: Mapping[str, Any],
    document: Document | None = None,
    keys: tuple[str | int, ...] = (),
    base: Path | None = None,
) -> Any:
    """The options of a mapper, checked; `document` and `keys` say where they stand.

    Paths in them are relative to `base`. Raises `InputError` for an unknown mapper or option.
    """
    place = document.place(*keys) if document else None
    module = _module(name, place)
    source = document or Document("<options>", dict(options))
    checked = check(module.Options, source, keys, data=dict(options))
    return checked.model_copy(update={"base": base}) if hasattr(checked, "base") else checked


def check_names(name: str, options: Any, cascade: Cascade, architecture: Architecture) -> None:
    """Raise `InputError` for options that name what the cascade or the architecture lacks."""
    checks = getattr(_module(name), "check_names", None)
    if checks is not None:
        checks(options, cascade, architecture)


def place(
    name: str,
    options: Any,
    *,
    cascade: Cascade,
    architecture: Architecture,
    shape: Mapping[str, Any],
) -> PlacedMapping:
    """Place `cascade` on `architecture` for the design points of `shape` (rank -> extents).

    Raises `InputError` when the mapper cannot place such a cascade at all; a point at which nothing
    fits comes back as a mapping that the simulator finds infeasible.
    """
    function: Callable[..., PlacedMapping] = _module(name).place
    return function(options, cascade, architecture, shape)


__all__ = [
    "about",
    "check_names",
    "check_options",
    "list_mappers",
    "named",
    "place",
    "places_networks",
    "takes_grids",
]
