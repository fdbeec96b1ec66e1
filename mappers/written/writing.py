"""From a mapping to its file: the tree of every phase, one line an Einsum where that is enough."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import yaml

from einsum_cascade import Cascade
from mappers.drawing import homes
from mappers.search.recompute import rewrites
from mappers.tree import Branch, Kept, Leaf, loop_tree, residency_of
from mappers.written.structure import rank_of
from sim import Loop, Phase
from sim import Mapping as PlacedMapping
from sim.single import single_point

_WIDTH = 100


class _Flow(dict[str, Any]):
    """A mapping on one line."""


class _Row(list[Any]):
    """A list on one line."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """What is equal is written out again: nobody reads anchors."""
        return True


_Dumper.add_representer(
    _Flow, lambda d, data: d.represent_mapping("tag:yaml.org,2002:map", data.items(), True)
)
_Dumper.add_representer(
    _Row, lambda d, data: d.represent_sequence("tag:yaml.org,2002:seq", data, True)
)


def write_mapping(
    mapping: PlacedMapping, name: str, cascade: Cascade, shape: Mapping[str, Any]
) -> str:
    """The file of a mapping of one design point.

    `cascade` and the extents of `shape` are what was to be placed: the mapping may be of a rewrite
    of the cascade that makes intermediates again, and pads what its tiles do not divide.
    """
    single = single_point(mapping)
    ways = rewrites(cascade)
    again = next(about for about, own in ways if own.einsums == single.cascade.einsums)
    given: dict[str, Any] = {"name": name}
    if single.notes not in ("", name):
        given["note"] = str(single.notes)
    given["cascade"] = cascade.name
    if again:
        given["recompute"] = _Row(again)
    tiles = [part for rank in cascade.ranks.values() for part in rank.partition[1:]]
    extents = {rank: _number(np.ravel(extent)[0]) for rank, extent in shape.items()}
    own = {rank: _number(single.shape[rank]) for rank in tiles if rank not in extents}
    given["shape"] = _Flow(extents | own)
    given["phases"] = [_phase(single, choice.options[0]) for choice in single.phases]
    return _text(given)


def _number(value: Any) -> int | float:
    number = float(value)
    return int(number) if number == int(number) else number


def _phase(mapping: PlacedMapping, phase: Phase) -> dict[str, Any]:
    found: dict[str, Any] = {"name": phase.name}
    if not phase.einsums:
        return found | {"stall_cycles": _number(phase.stall_cycles)}
    tree = loop_tree(mapping.cascade, phase)
    found |= _alike(phase)
    lived = homes(mapping, phase)
    found["home"] = {memory: _Row(tensors) for memory, tensors in lived.items()}
    tensors = [tensor for each in lived.values() for tensor in each]
    residency = {tensor: residency_of(phase, tensor) for tensor in tensors}
    in_place = {t: r.in_place_of for t, r in residency.items() if r.in_place_of is not None}
    handed = {t: _Row(sorted(r.handed_to)) for t, r in residency.items() if r.handed_to}
    spilled: dict[str, list[str]] = {}
    for (einsum, tensor), when in phase.spilled.items():
        if when:
            spilled.setdefault(einsum, _Row()).append(tensor)
    found |= {"in_place_of": _Flow(in_place)} if in_place else {}
    found |= {"handed_to": _Flow(handed)} if handed else {}
    found |= {"formats": _Flow(phase.formats)} if phase.formats else {}
    found |= {"ports": _Flow(phase.ports)} if phase.ports else {}
    found |= {"ahead": _Row(sorted(phase.ahead))} if phase.ahead else {}
    found |= {"keep": _keep(tree.kept, None)} if tree.kept else {}
    found["nest"] = [_node(mapping.cascade, part, None, 4, found) for part in tree.inside]
    found |= {"steps": _Row(map(_Row, phase.steps))} if phase.steps else {}
    found |= {"stall_cycles": _number(phase.stall_cycles)} if phase.stall_cycles else {}
    found |= {"interleaved": _Row(map(_Row, phase.interleaved))} if phase.interleaved else {}
    found |= {"spilled": _Flow(spilled)} if spilled else {}
    return found


def _node(
    cascade: Cascade,
    part: Branch | Leaf,
    outside: str | None,
    indent: int,
    phase: Mapping[str, Any],
) -> dict[str, Any]:
    """A node of the tree inside of the loop `outside`; `indent` is where its text begins."""
    loops = _Flow(_loops(cascade, part.loops))
    innermost = part.loops[-1].name if part.loops else outside
    if isinstance(part, Branch):
        node: dict[str, Any] = {"for": loops}
        node |= {"keep": _keep(part.kept, innermost)} if part.kept else {}
        inside = [_node(cascade, inner, innermost, indent + 2, phase) for inner in part.inside]
        return node | {"do": inside}
    nest = part.nest
    leaf: dict[str, Any] = {"einsum": nest.einsum, "array": nest.array}
    leaf |= {"for": loops} if loops else {}
    leaf |= {"spatial": _Flow(_loops(cascade, part.spatial))} if part.spatial else {}
    leaf |= {"keep": _keep(part.kept, innermost)} if part.kept else {}
    for key, default in _DEFAULTS.items():
        own = getattr(nest, key)
        leaf |= {key: own} if own != phase.get(key, default) else {}
    leaf |= {"restarts": nest.restarts} if nest.restarts is not None else {}
    leaf |= {"stagger": nest.stagger} if nest.stagger is not None else {}
    line = _text(_Flow(leaf), 10**6)
    return _Flow(leaf) if indent + len(line) <= _WIDTH else leaf


_DEFAULTS = {"issue": "sequential", "folds": "pipelined"}


def _alike(phase: Phase) -> dict[str, str]:
    """What all Einsums of a phase do in another way than they would if nothing were said."""
    found: dict[str, str] = {}
    for key, default in _DEFAULTS.items():
        first, *others = {getattr(nest, key) for nest in phase.einsums}
        found |= {key: first} if not others and first != default else {}
    return found


def _text(data: Any, width: int = _WIDTH) -> str:
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=width, allow_unicode=True)
    return text


def _loops(cascade: Cascade, loops: Iterable[Loop]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for loop in loops:
        extent = _number(loop.extent)
        plain = rank_of(cascade, loop.name) == loop.rank
        found[loop.name] = extent if plain else _Flow(rank=loop.rank, extent=extent)
    return found


def _keep(kept: Iterable[Kept], innermost: str | None) -> dict[str, Any]:
    found: dict[str, Any] = _Flow()
    for each in kept:
        tile = each.tile
        told: dict[str, Any] = {}
        told |= {"below": tile.below} if tile.below != innermost else {}
        told |= {"copies": tile.copies} if tile.copies != 1 else {}
        told |= {"retain": False} if not tile.retain else {}
        told |= {"einsums": _Row(each.only)} if each.only else {}
        entry = _Flow({"tensor": each.tensor, **told}) if told else each.tensor
        found.setdefault(tile.memory, _Row()).append(entry)
    return found


__all__ = ["write_mapping"]
