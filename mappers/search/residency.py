"""Where every tensor of a phase lives: one option for each value of a choice."""

from __future__ import annotations

from collections.abc import Container, Sequence
from itertools import product
from typing import Any

import numpy as np

from einsum_cascade import Einsum
from mappers.roles import states
from mappers.search.axes import Axes, plain
from mappers.search.nests import Placed, depth_choices, levels
from mappers.search.problem import Problem
from mappers.search.recompute import kept_rank
from sim import IN_ARRAY, Option, Phase, Residency, Tile
from sim.accesses import Use, iterated_ranks, uses
from sim.legality import forwarding, late_readers
from sim.mapping import EinsumMapping, Mask, shared_loops
from sim.nest import product as iterations

_Options = tuple[Option, ...]


def make_phase(
    problem: Problem,
    name: str,
    placed: Sequence[Placed],
    axes: Axes,
    only: Container[str] | None = None,
) -> Phase:
    """The phase of some nests, each tensor (or `only` some) with all of its options."""
    nests = tuple(p.nest for p in placed)
    by_tensor: dict[str, list[Use]] = {}
    bare = Phase(name, nests, {})
    for use in uses(problem.cascade, bare):
        if only is None or use.tensor in only:
            by_tensor.setdefault(use.tensor, []).append(use)
    at = {p.einsum.name: p for p in placed}
    result: dict[str, _Options] = {}
    held: dict[str, tuple[Mask, str, str | None]] = {}
    for tensor, own in by_tensor.items():
        writers = [u for u in own if u.writes]
        readers = [u for u in own if not u.writes]
        if not writers:
            result[tensor] = _input(problem, tensor, readers, at, axes)
        elif leaves(problem, tensor, set(at)):
            result[tensor] = _output(problem, bare, tensor, writers[0], readers, at, axes)
        else:
            result[tensor] = _between(
                problem, bare, tensor, writers[0], readers, axes, placed[0].outer, held
            )
    return Phase(
        name,
        nests,
        {
            t: _used(options)
            for t, options in _in_place(problem, Phase(name, nests, result), held).items()
        },
    )


def _used(options: _Options) -> _Options:
    return tuple(option for option in options if np.any(option.when))


def leaves(problem: Problem, tensor: str, here: set[str]) -> bool:
    """Whether a tensor that the phase makes is an output, or read in another phase."""
    readers = problem.readers.get(tensor, frozenset())
    role = problem.cascade.tensors[tensor].role
    return role == "output" or not readers or not readers <= here


def _chosen(axes: Axes, name: str, residencies: Sequence[Residency]) -> _Options:
    """One option for each value of a choice."""
    if len(residencies) == 1:
        return (Option(True, residencies[0]),)
    axes.add(name, np.arange(len(residencies)))
    masks = axes.which(name)
    return tuple(Option(when, r) for when, r in zip(masks, residencies, strict=True))


def _tiles(problem: Problem, nest: EinsumMapping, depths: Sequence[int | None]) -> tuple[Tile, ...]:
    memories = problem.architecture.memories[1:]
    return tuple(
        Tile(memory.name, _below(nest, depth))
        for memory, depth in zip(memories, depths, strict=True)
        if depth is not None
    )


def _below(nest: EinsumMapping, depth: int) -> str | None:
    return nest.loops[depth - 1].name if depth else None


def _input(
    problem: Problem, tensor: str, readers: list[Use], at: dict[str, Placed], axes: Axes
) -> _Options:
    """Kept below any loop, or not at all; each run of the phase may choose on its own."""
    inner = len(problem.architecture.memories) - 1
    runs: dict[int, list[Use]] = {}
    for use in readers:
        runs.setdefault(at[use.mapping.einsum].run, []).append(use)
    each = []
    for users in runs.values():
        shared = [u.mapping.loops[: u.mapping.shared] for u in users]
        ranks = frozenset().union(*(u.ranks for u in users))
        windows = any(u.windows for u in users)
        each.append(levels(depth_choices(ranks, shared[0], 0, windows), inner))
    home = problem.architecture.memories[0].name
    found: dict[Any, Residency] = {}
    for combination in product(*each):
        tiles_of = {}
        for users, depths in zip(runs.values(), combination, strict=True):
            for use in users:
                tiles_of[use.mapping.einsum] = _tiles(problem, use.mapping, depths)
        found.setdefault(tuple(sorted(tiles_of.items())), Residency(home, (), tiles_of))
    return _chosen(axes, f"keep {tensor}", list(found.values()))


def _output(
    problem: Problem,
    phase: Phase,
    tensor: str,
    writer: Use,
    readers: list[Use],
    at: dict[str, Placed],
    axes: Axes,
) -> _Options:
    """A result for the outermost memory; sums that are not complete may stay on chip."""
    cascade, nest = problem.cascade, writer.mapping
    memories = problem.architecture.memories
    home, inner = memories[0].name, len(memories) - 1
    others = [u for u in readers if u.mapping.einsum != nest.einsum]
    masks = _direct(problem, phase, tensor, writer, others, axes)[1]
    if tensor in states(cascade):
        depth = _before_iteration(problem, tensor, nest, [u.mapping for u in others])
        kept = Residency(home, (Tile(memories[1].name, _below(nest, depth)),))
        return (Option(True, kept),)
    einsum = cascade.einsum(nest.einsum)
    summed = any(lp.rank in einsum.reduction_ranks for lp in nest.temporal)
    shared = nest.loops[: nest.shared]
    depths = depth_choices(writer.ranks, shared, 0, bool(writer.windows)) if summed else []
    options = []
    for when, direct in masks:
        for choice in levels(depths, inner):
            tiles_of = {nest.einsum: _tiles(problem, nest, choice)}
            options.append((when, choice, Residency(home, (), tiles_of, handed_to=direct)))
    choices = levels(depths, inner)
    if len(choices) == 1:
        return tuple(Option(when, residency) for when, _, residency in options)
    axes.add(f"keep {tensor}", np.arange(len(choices)))
    which = dict(zip(choices, axes.which(f"keep {tensor}"), strict=True))
    return tuple(Option(when & which[choice], r) for when, choice, r in options)


def _direct(
    problem: Problem,
    phase: Phase,
    tensor: str,
    writer: Use,
    readers: list[Use],
    axes: Axes,
) -> tuple[Mask, list[tuple[Mask, frozenset[str]]]]:
    """Where no reader needs a memory; and which do not where one is there, at which points."""
    cascade, architecture = problem.cascade, problem.architecture
    everywhere: Mask = np.True_
    kept: dict[str, Mask] = {}
    for use in readers:
        for beside in (False, True):
            objection = forwarding(cascade, architecture, phase, tensor, writer, use, beside)
            fine: Mask = np.True_
            if objection is not None:
                fine = ~plain(objection.where).astype(bool)
            if beside:
                kept[use.mapping.einsum] = kept.get(use.mapping.einsum, np.True_) & fine
            else:
                everywhere = everywhere & fine
    always = frozenset(name for name, fine in kept.items() if np.all(fine))
    some = [name for name, fine in kept.items() if np.any(fine) and name not in always]
    if not some:
        return everywhere, [(np.True_, always)]
    masks = np.broadcast_arrays(*(kept[name] for name in some))
    code = sum(mask.astype(np.int64) << i for i, mask in enumerate(masks))
    return everywhere, [
        (code == pattern, always | {n for i, n in enumerate(some) if pattern >> i & 1})
        for pattern in np.unique(np.asarray(code)).tolist()
    ]


def _before_iteration(
    problem: Problem, tensor: str, nest: EinsumMapping, others: Sequence[EinsumMapping]
) -> int:
    """How many loops lie outside of the iteration of which a tensor is the running value."""
    iterative = iterated_ranks(problem.cascade, tensor)
    depth = nest.shared
    for i, loop in enumerate(nest.loops[: nest.shared]):
        if loop.rank in iterative:
            depth = min(depth, i)
    return min([depth, *(shared_loops(nest, other) for other in others)])


def _between(
    problem: Problem,
    phase: Phase,
    tensor: str,
    writer: Use,
    readers: list[Use],
    axes: Axes,
    outer: int,
    held: dict[str, tuple[Mask, str, str | None]],
) -> _Options:
    """A tensor of the phase's own: forwarded where it can be, else in a memory on chip.

    A running value is in the registers or in a memory. What more than one pass needs may also go to
    the outermost memory.
    """
    cascade, nest = problem.cascade, writer.mapping
    memories = problem.architecture.memories
    others = [u for u in readers if u.mapping.einsum != nest.einsum]
    arrays = {u.mapping.array for u in (writer, *readers)}
    common = min((shared_loops(nest, u.mapping) for u in others), default=nest.shared)
    beside = common > outer or not outer  # in one run: one fills a copy while the other reads one
    copies = 2 if len(arrays) > 1 and beside else 1
    if tensor in states(cascade):
        depth = _before_iteration(problem, tensor, nest, [u.mapping for u in others])
        tile = Tile(memories[1].name, _below(nest, depth))
        ways = [Residency(memories[1].name, (tile,))]
        if len(arrays) == 1:
            everywhere, _ = _direct(problem, phase, tensor, writer, others, axes)
            if np.any(everywhere & plain(_generation_fits(problem, tensor, writer))):
                ways.append(Residency(IN_ARRAY))
        return _chosen(axes, f"home {tensor}", ways)
    everywhere, masks = _direct(problem, phase, tensor, writer, others, axes)
    if np.all(everywhere):
        return (Option(True, Residency(IN_ARRAY)),)
    below = _below(nest, common)
    inner = [memory.name for memory in memories[1:]]
    kinds = [*inner]
    if kept_rank(cascade, tensor) is not None:
        kinds.append(memories[0].name)
    if len(kinds) > 1:
        axes.add(f"home {tensor}", np.arange(len(kinds)))
        which = axes.which(f"home {tensor}")
    else:
        which = [np.True_]
    options = [Option(everywhere, Residency(IN_ARRAY))] if np.any(everywhere) else []
    for kind, chosen in zip(kinds, which, strict=True):
        for when, direct in masks:
            here = chosen & when & ~np.asarray(everywhere)
            if kind == memories[0].name:
                options.append(Option(here, Residency(kind, (), handed_to=direct)))
            else:
                tile = Tile(kind, below, copies)
                options.append(Option(here, Residency(kind, (tile,), handed_to=direct)))
    if len(inner) == 1:
        held[tensor] = (which[0] & ~np.asarray(everywhere), inner[0], below)
    return tuple(options)


def _generation_fits(problem: Problem, tensor: str, writer: Use) -> Mask:
    """Whether the registers hold what an iteration carries on."""
    nest = writer.mapping
    iterative = iterated_ranks(problem.cascade, tensor)
    first = next((i for i, lp in enumerate(nest.loops) if lp.rank in iterative), None)
    if first is None:
        return np.False_
    spatial = iterations([lp for lp in nest.loops if lp.spatial], writer.ranks)
    words = iterations(nest.loops[first:], writer.ranks) / spatial
    return np.asarray(words <= problem.architecture.array(nest.array).register_words)


def _in_place(
    problem: Problem, phase: Phase, held: dict[str, tuple[Mask, str, str | None]]
) -> dict[str, _Options]:
    """Results that overwrite an operand which nothing reads any more take no room of their own."""
    cascade = problem.cascade
    result = dict(phase.residency)
    taken: set[str] = set()
    for tensor, (_, memory, below) in held.items():
        writer = next(m.einsum for m in phase.einsums if _makes(problem, m.einsum, tensor))
        for old in overwritten(cascade.einsum(writer)):
            if old not in held or old in taken or held[old][1:] != (memory, below):
                continue
            if late_readers(cascade, phase, tensor, old):
                continue
            taken.add(old)
            there = held[old][0]
            options = []
            for option in result[tensor]:
                residency = option.residency
                if residency.home != memory:
                    options.append(option)
                    continue
                over = Residency(memory, residency.tiles, {}, old, residency.handed_to)
                options += [
                    Option(option.when & there, over),
                    Option(option.when & ~np.asarray(there), residency),
                ]
            result[tensor] = tuple(options)
            break
    return result


def overwritten(einsum: Einsum) -> tuple[str, ...]:
    """The operands whose place a result could take: nothing is reduced, and each of its values
    comes from the same place."""
    if einsum.reduction_ranks:
        return ()
    return tuple(a.tensor for a in einsum.operands if a.indices == einsum.output.indices)


def _makes(problem: Problem, einsum: str, tensor: str) -> bool:
    return problem.cascade.einsum(einsum).output.tensor == tensor


__all__ = ["leaves", "make_phase", "overwritten"]
