"""Where every tensor of a phase lives: one option for each value of a choice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np

from einsum_cascade import Cascade
from mappers.registers import by_readers, flows, in_registers
from mappers.roles import before_iteration, states
from mappers.search.axes import Axes, plain
from mappers.search.nests import Placed, depth_choices, levels
from mappers.search.problem import Problem
from mappers.search.recompute import kept_rank
from sim import IN_ARRAY, Option, Phase, Residency, Tile
from sim.accesses import Use, uses
from sim.legality import late_readers
from sim.mapping import EinsumMapping, Mask, shared_loops
from sim.registers import overwritten

_Options = tuple[Option, ...]


@dataclass(frozen=True)
class Homes:
    """Where a tensor may live: one option for each value of a choice. None overwrites another yet;
    one of the phase's own may be `held` on chip. What may be outside comes and goes by one of
    `ports`, where there are any."""

    options: tuple[Option, ...]
    held: Held | None = None
    ports: MappingABC[str, Mask] = field(default_factory=dict)


@dataclass(frozen=True)
class Held:
    """Where a tensor is in each memory on chip, and the loop below which its tile is."""

    there: MappingABC[str, Mask]
    below: str | None


def make_phase(problem: Problem, name: str, placed: Sequence[Placed], axes: Axes) -> Phase:
    """The phase of some nests, with each choice picked."""
    nests = tuple(p.nest for p in placed)
    tensors = dict.fromkeys(use.tensor for use in uses(problem.cascade, Phase(name, nests, {})))
    homes = {
        tensor: find_homes(problem, placed, tensor, axes, number)
        for number, tensor in enumerate(tensors)
    }
    result = {tensor: each.options for tensor, each in homes.items()}
    held = {tensor: each.held for tensor, each in homes.items() if each.held is not None}
    for tensor, old in overwriting(problem, nests, held):
        there = held[old].there
        result[tensor] = tuple(
            Option(np.asarray(option.when & when), residency)
            for option in result[tensor]
            for taken in [there.get(option.residency.home, np.False_)]
            for when, residency in (
                (taken, replace(option.residency, in_place_of=old)),
                (np.logical_not(taken), option.residency),
            )
        )
    ports = {t: port for t, each in homes.items() for port, by in each.ports.items() if np.any(by)}
    kept = {tensor: _used(options) for tensor, options in result.items()}
    return Phase(name, nests, kept, ports=ports)


def find_homes(
    problem: Problem, placed: Sequence[Placed], tensor: str, axes: Axes, number: int
) -> Homes:
    """Where a tensor of some nests (the one of this `number`) may live. Of nests that do not use
    it, only the array matters, and the loops that are shared."""
    bare = Phase("", tuple(p.nest for p in placed), {})
    own = list(uses(problem.cascade, bare, tensor))
    writers = [u for u in own if u.writes]
    readers = [u for u in own if not u.writes]
    at = {p.einsum.name: p for p in placed}
    if not writers:
        found = Homes(_input(problem, tensor, readers, at, axes))
    elif leaves(problem, tensor, set(at)):
        found = Homes(_output(problem, bare, writers[0], readers, axes))
    else:
        found = _between(problem, bare, writers[0], readers, axes, placed[0].outer)
    options, home = _used(found.options), problem.architecture.memories[0].name
    if not problem.ports or all(option.residency.home != home for option in options):
        return replace(found, options=options)
    which = axes.which(f"port {tensor}", problem.turns(number))
    return replace(found, options=options, ports=dict(zip(problem.ports, which, strict=False)))


def overwriting(
    problem: Problem, nests: Sequence[EinsumMapping], held: MappingABC[str, Held]
) -> Iterator[tuple[str, str]]:
    """Results that overwrite an operand which nothing reads any more, each with that: they take no
    room of their own where both are in the same memory."""
    cascade, bare = problem.cascade, Phase("", tuple(nests), {})
    taken: set[str] = set()
    for tensor, own in held.items():
        writer = next(m.einsum for m in nests if _makes(problem, m.einsum, tensor))
        for old in overwritten(cascade.einsum(writer)):
            if old not in held or old in taken or held[old].below != own.below:
                continue
            if not late_readers(cascade, bare, tensor, old):
                taken.add(old)
                yield tensor, old
                break


def _used(options: _Options) -> _Options:
    return tuple(option for option in options if np.any(option.when))


def leaves(problem: Problem, tensor: str, here: set[str]) -> bool:
    """Whether a tensor that the phase makes is an output, or read in another phase."""
    readers = problem.readers.get(tensor, frozenset())
    role = problem.cascade.tensors[tensor].role
    return role == "output" or not readers or not readers <= here


def _chosen(axes: Axes, name: str, residencies: Sequence[Residency]) -> _Options:
    """One option for each value of a choice."""
    masks = axes.which(name, len(residencies))
    return tuple(Option(when, r) for when, r in zip(masks, residencies, strict=True))


def _tiles(problem: Problem, nest: EinsumMapping, depths: Sequence[int | None]) -> tuple[Tile, ...]:
    memories = problem.architecture.memories[1:]
    return tuple(
        Tile(memory.name, nest.below(depth))
        for memory, depth in zip(memories, depths, strict=True)
        if depth is not None
    )


def _input(
    problem: Problem, tensor: str, readers: list[Use], at: dict[str, Placed], axes: Axes
) -> _Options:
    """Kept below any loop, or not at all; each run of the phase may choose on its own."""
    inner = len(problem.architecture.memories) - 1
    runs: dict[int, list[Use]] = {}
    for use in readers:
        runs.setdefault(at[use.mapping.einsum].run, []).append(use)
    each = []
    parting = at[readers[0].mapping.einsum].outer if len(runs) > 1 else None
    for users in runs.values():
        shared = [u.mapping.loops[: u.mapping.shared] for u in users]
        ranks = frozenset().union(*(u.ranks for u in users))
        windows = any(u.windows for u in users)
        each.append(levels(depth_choices(ranks, shared[0], windows, parting), inner))
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
    problem: Problem, phase: Phase, writer: Use, readers: list[Use], axes: Axes
) -> _Options:
    """A result for the outermost memory; sums that are not complete may stay on chip."""
    cascade, tensor, nest = problem.cascade, writer.tensor, writer.mapping
    memories = problem.architecture.memories
    home, inner = memories[0].name, len(memories) - 1
    others = [u for u in readers if u.mapping.einsum != nest.einsum]
    hands = _handed(problem, phase, writer, others, axes)
    if tensor in states(cascade):
        depth = _before_iteration(cascade, tensor, nest, others)
        tile = Tile(memories[1].name, nest.below(depth))
        return tuple(Option(when, Residency(home, (tile,), handed_to=to)) for when, to in hands)
    einsum = cascade.einsum(nest.einsum)
    summed = any(lp.rank in einsum.reduction_ranks for lp in nest.temporal)
    shared = nest.loops[: nest.shared]
    depths = depth_choices(writer.ranks, shared, bool(writer.windows)) if summed else []
    choices = levels(depths, inner)
    which = axes.which(f"keep {tensor}", len(choices))
    return tuple(
        Option(
            chosen & when,
            Residency(home, (), {nest.einsum: _tiles(problem, nest, choice)}, handed_to=direct),
        )
        for choice, chosen in zip(choices, which, strict=True)
        for when, direct in hands
    )


def _handed(
    problem: Problem, phase: Phase, writer: Use, readers: Sequence[Use], axes: Axes
) -> list[tuple[Mask, frozenset[str]]]:
    """The readers that do not need the copy in a memory that there is, and where it is these: all
    that can do without, or only those for which nothing waits in registers."""
    fine: dict[str, Mask] = {}
    free: dict[str, Mask] = {}
    for use in readers:
        name = use.mapping.einsum
        legal = plain(flows(problem.on, phase, writer, [use], True))
        if not np.any(legal):
            fine[name] = free[name] = np.False_
            continue
        alone = Residency("", handed_to=frozenset({name}))
        fits, waits = in_registers(problem.on, phase, writer.tensor, alone)
        fine[name] = plain(fine.get(name, np.True_) & legal & fits)
        free[name] = plain(fine[name] & ~waits)
    if all(np.array_equal(fine[name], free[name]) for name in fine):
        return by_readers(fine)
    less, more = axes.which(f"hand {writer.tensor}", 2)
    return [
        (np.asarray(when & chosen), names)
        for chosen, masks in ((less, free), (more, fine))
        for when, names in by_readers(masks)
    ]


def _before_iteration(
    cascade: Cascade, tensor: str, nest: EinsumMapping, others: Sequence[Use]
) -> int:
    """How many loops, shared with all other users, lie outside of the iteration of which a tensor
    is the running value."""
    common = (shared_loops(nest, other.mapping) for other in others)
    return min([before_iteration(cascade, tensor, nest), *common])


def _between(
    problem: Problem,
    phase: Phase,
    writer: Use,
    readers: list[Use],
    axes: Axes,
    outer: int,
) -> Homes:
    """A tensor of the phase's own: in the arrays where it can be, or in a memory on chip.

    What needs no room flows; what waits in registers, as running values do, may be in a memory as
    well. What more than one pass needs may also go to the outermost memory.
    """
    cascade, tensor, nest = problem.cascade, writer.tensor, writer.mapping
    memories = problem.architecture.memories
    others = [u for u in readers if u.mapping.einsum != nest.einsum]
    arrays = {u.mapping.array for u in (writer, *readers)}
    common = min((shared_loops(nest, u.mapping) for u in others), default=nest.shared)
    if tensor in states(cascade):
        fits, _ = _in_array(problem, phase, tensor)
        depth = _before_iteration(cascade, tensor, nest, others)
        tile = Tile(memories[1].name, nest.below(depth))
        some = len(arrays) == 1 and bool(np.any(fits))
        here = np.asarray(axes.which(f"home {tensor}", 1 + some)[-1] & some & fits)
        kept = Residency(memories[1].name, (tile,))
        return Homes((Option(here, Residency(IN_ARRAY)), Option(~here, kept)))
    inside = plain(flows(problem.on, phase, writer, others, False))
    fits, waits = np.False_, np.False_
    if np.any(inside):
        fits, waits = _in_array(problem, phase, tensor)
    inside = inside & fits
    passing = inside & ~waits
    if np.all(passing):
        return Homes((Option(True, Residency(IN_ARRAY)),))
    below = nest.below(common)
    beside = common > outer or not outer  # in one run: one fills a copy while the other reads one
    tile = Tile(memories[1].name, below, 2 if len(arrays) > 1 and beside else 1)
    homes = [Residency(m.name, (replace(tile, memory=m.name),)) for m in memories[1:]]
    if kept_rank(cascade, tensor) is not None:
        homes.append(Residency(memories[0].name))
    hands = _handed(problem, phase, writer, others, axes)
    some = bool(np.any(inside & waits))
    which = axes.which(f"home {tensor}", len(homes) + some)
    here = np.asarray(passing)
    if some:
        last = which.pop()
        here = np.asarray(passing | (last & inside))
        which[0] = which[0] | last  # where it cannot wait in registers
    options = [Option(here, Residency(IN_ARRAY))] if np.any(here) else []
    for home, chosen in zip(homes, which, strict=True):
        for when, direct in hands:
            options.append(Option(chosen & when & ~here, replace(home, handed_to=direct)))
    there: dict[str, Mask] = {}
    for option in options:
        name = option.residency.home
        if name not in (IN_ARRAY, memories[0].name):
            there[name] = there.get(name, np.False_) | np.asarray(option.when)
    return Homes(tuple(options), Held(there, below))


def _in_array(problem: Problem, phase: Phase, tensor: str) -> tuple[Mask, Mask]:
    """Where the registers hold what waits there of a tensor for all of its readers, and where
    anything does."""
    fits, waits = in_registers(problem.on, phase, tensor, Residency(IN_ARRAY))
    return plain(fits), plain(waits)


def _makes(problem: Problem, einsum: str, tensor: str) -> bool:
    return problem.cascade.einsum(einsum).output.tensor == tensor


__all__ = ["Held", "Homes", "find_homes", "leaves", "make_phase", "overwriting"]
