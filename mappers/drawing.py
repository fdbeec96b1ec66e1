"""A mapping as a text: its phases, what they keep where, and their loop nests as a tree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sim import IN_ARRAY, EinsumMapping, Loop, Mapping, Phase, Residency


def draw(mapping: Mapping, point: int = 0) -> str:
    """The loop nests of one design point. A loop of one iteration is left out."""
    lines = [f"{mapping.cascade.name} on {mapping.architecture.name}"]
    extents = ", ".join(f"{r} = {_at(n, point):g}" for r, n in mapping.shape.items())
    lines.append(f"  {extents}")
    for choice in mapping.phases:
        phase = choice.options[int(_at(choice.index, point))]
        lines.append(f"phase {phase.name}")
        for tensor, residency in _homes(phase, point):
            lines.append(f"  {tensor}: {_where(residency)}")
        lines += _tree(list(phase.einsums), 0, point, "  ")
    return "\n".join(lines)


def _at(number: Any, point: int) -> float:
    values = np.ravel(number)
    return float(values[point if len(values) > 1 else 0])


def _homes(phase: Phase, point: int) -> Iterator[tuple[str, Residency]]:
    for tensor, options in phase.residency.items():
        for option in options:
            if _at(option.when, point):
                yield tensor, option.residency


def _where(residency: Residency) -> str:
    if residency.home == IN_ARRAY:
        return "in the array"
    texts = [residency.home]
    chains = {tiles: None for tiles in (residency.tiles, *residency.tiles_of.values())}
    for tiles in chains:
        for tile in tiles:
            below = f"below {tile.below}" if tile.below else "whole"
            texts.append(f"{tile.memory} {below}" + (", twice" if tile.copies == 2 else ""))
    if residency.in_place_of:
        texts.append(f"in place of {residency.in_place_of}")
    if residency.handed_to:
        texts.append(f"handed to {' '.join(sorted(residency.handed_to))}")
    return "; ".join(texts)


def _tree(nests: Sequence[EinsumMapping], depth: int, point: int, indent: str) -> list[str]:
    """The loops from `depth` on, those that nests share written once."""
    lines: list[str] = []
    rest = list(nests)
    while rest:
        first = rest[0]
        if depth >= first.shared:
            own = [_loop(lp, point) for lp in first.loops[depth:] if _at(lp.extent, point) > 1]
            lines.append(f"{indent}{first.einsum} on {first.array}: {', '.join(own) or '-'}")
            rest = rest[1:]
            continue
        loop = first.loops[depth]
        together = []
        for nest in rest:
            if depth >= nest.shared or nest.loops[depth].name != loop.name:
                break
            together.append(nest)
        shown = _at(loop.extent, point) > 1
        if shown:
            lines.append(f"{indent}{_loop(loop, point)}")
        lines += _tree(together, depth + 1, point, indent + "  " * shown)
        rest = rest[len(together) :]
    return lines


def _loop(loop: Loop, point: int) -> str:
    kind = "over PEs" if loop.spatial else "in time"
    return f"{loop.name}: {_at(loop.extent, point):g} {kind}"


__all__ = ["draw"]
