"""A mapping as a text: where tensors live, and the loop nests as a tree with the tiles in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from mappers.tree import Branch, Kept, Leaf, loop_tree, opened, residency_of, touched
from sim import IN_ARRAY, Loop, Phase
from sim import Mapping as PlacedMapping
from sim.single import single_point


def draw(mapping: PlacedMapping, point: int = 0) -> str:
    """The loop nests of one design point.

    A loop of one iteration is left out, but a tile that is kept below it is not.
    """
    mapping = single_point(mapping, point)
    lines = [f"{mapping.cascade.name} on {mapping.architecture.name}"]
    lines.append("  " + ", ".join(f"{r} = {float(n):g}" for r, n in mapping.shape.items()))
    for choice in mapping.phases:
        phase = choice.options[0]
        tree = loop_tree(mapping.cascade, phase)
        lines.append(f"phase {phase.name}")
        for home, tensors in homes(mapping, phase).items():
            where = "in the arrays" if home == IN_ARRAY else f"in {home}"
            lines.append(f"  {where}: {' '.join(tensor_in_words(phase, t) for t in tensors)}")
        lines += [f"  {line}" for line in schedule_in_words(phase)]
        width = max((len(leaf.nest.einsum) for leaf in tree.leaves()), default=0)
        lines += _drawn(tree, "  ", width)
    return "\n".join(lines)


def homes(mapping: PlacedMapping, phase: Phase) -> dict[str, list[str]]:
    """The tensors that a phase touches by what holds them, memories outermost first."""
    found: dict[str, list[str]] = {m.name: [] for m in mapping.architecture.memories}
    found[IN_ARRAY] = []
    every = (t for nest in phase.einsums for t in touched(mapping.cascade, nest.einsum))
    for tensor in dict.fromkeys(every):
        found[residency_of(phase, tensor).home].append(tensor)
    return {home: tensors for home, tensors in found.items() if tensors}


def tensor_in_words(phase: Phase, tensor: str) -> str:
    """A tensor, with what is special about its stay in a phase."""
    residency = residency_of(phase, tensor)
    notes = []
    if residency.in_place_of:
        notes.append(f"in place of {residency.in_place_of}")
    if residency.handed_to:
        notes.append(f"handed to {' '.join(sorted(residency.handed_to))}")
    if any(spilled == tensor and when for (_, spilled), when in phase.spilled.items()):
        notes.append("spills")
    if tensor in phase.ahead:
        notes.append("ahead")
    return f"{tensor} ({', '.join(notes)})" if notes else tensor


def schedule_in_words(phase: Phase) -> Iterator[str]:
    """What a phase does beside overlapping all it can."""
    if phase.einsums and phase.steps:
        yield "steps: " + "; then ".join(" ".join(step) for step in phase.steps)
    if phase.stall_cycles:
        yield f"{'stalls' if phase.einsums else 'waits'}: {float(phase.stall_cycles):,.0f} cycles"
    if phase.interleaved:
        yield "interleaved: " + "; ".join(" ".join(group) for group in phase.interleaved)


def _drawn(tree: Branch | Leaf, indent: str, width: int) -> list[str]:
    if isinstance(tree, Leaf):
        if isinstance(around := opened(tree), Branch):
            return _drawn(around, indent, width)
        words = [f"for {', '.join(loops)}" for loops in [loops_in_words(tree.loops)] if loops]
        words += [f"over {' x '.join(lanes)}" for lanes in [lanes_in_words(tree.spatial)] if lanes]
        name = f"{tree.nest.einsum:<{width}} on {tree.nest.array}"
        return [f"{indent}{name}: {'; '.join(words)}" if words else f"{indent}{name}"]
    lines = []
    if shown := loops_in_words(tree.loops):
        lines.append(f"{indent}for {', '.join(shown)}")
        indent += "  "
    lines += [f"{indent}{m} keeps {' '.join(t)}" for m, t in kept_in_words(tree.kept).items()]
    for part in tree.inside:
        lines += _drawn(part, indent, width)
    return lines


def loops_in_words(loops: Iterable[Loop]) -> list[str]:
    """Loops in time of more than one iteration."""
    return [f"{loop.name} in {float(loop.extent):g}" for loop in loops if loop.extent > 1]


def lanes_in_words(loops: Iterable[Loop]) -> list[str]:
    """Loops over the dimensions of an array."""
    return [f"{loop.name} {float(loop.extent):g}" for loop in loops]


def kept_in_words(kept: Iterable[Kept]) -> Mapping[str, list[str]]:
    """What each memory keeps in one place."""
    found: dict[str, list[str]] = {}
    for each in kept:
        tile, notes = each.tile, []
        if tile.copies != 1:
            notes.append("twice" if tile.copies == 2 else f"{tile.copies} times")
        if not tile.retain:
            notes.append("streamed")
        if each.only:
            notes.append(f"for {' '.join(each.only)}")
        text = f"{each.tensor} ({', '.join(notes)})" if notes else each.tensor
        found.setdefault(tile.memory, []).append(text)
    return found


__all__ = [
    "draw",
    "homes",
    "kept_in_words",
    "lanes_in_words",
    "loops_in_words",
    "schedule_in_words",
    "tensor_in_words",
]
