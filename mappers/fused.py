"""Any cascade on any architecture with a 2D and a 1D array: groups of Einsums, fused by pass.

The space that is searched for each design point:

- what is fused: groups of Einsums that share a loop over rows and, inside, over a streamed rank,
  never across a pass (`mappers.grouping`); all groups in one pipeline over the batch, or one after
  the other; or each product by itself, with the best mapping of its own (`mappers.contraction`),
  and what stands between two of them together;
- what each of these loops over outside of everything: ranks of every input and output, and any of
  those along which little is shared, so running sequences one after the other is always among it;
  or every short rank that all Einsums have;
- rows in a wavefront (the array's side, 1/4, 1/16, 1/64 of it, or one), and tiles of them that are
  worked on while a tile of the streamed rank stays (powers of two, cut to divisors);
- inputs that rows do not move kept on chip for all rows (and for all of the batch, or fetched for
  each of it), or streamed; for a kernel of one Einsum, where nothing else fits, every input for one
  wavefront only;
- elementwise Einsums on the 2D array where it can, or on the 1D array, whose lanes hold rows or
  neighbours of one row.

Of phases that follow one another the mappings are chosen together: the least product of sums is not
the sum of least products. Where nothing fits, the mapping is the one that lacks the least room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, field, replace
from itertools import product as combinations
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from archs import Architecture
from einsum_cascade import Cascade, Einsum
from mappers.contraction import Objective, is_on, search, with_candidate_axis
from mappers.grouping import Group, grouped, in_order, kernels, outsides
from mappers.nests import Form, Keep, bindings, build, build_each
from mappers.roles import Product, arrays, as_product, padded_shape
from mappers.room import room_bytes
from sim import (
    Evaluation,
    Mapping,
    MappingChoice,
    MappingParts,
    Phase,
    PhaseChoice,
    evaluate_phase,
)
from sim.mapping import Number

NAME = "fused"
_FRACTIONS = (4.0, 16.0, 64.0, np.inf)
_MOST_TILES = 12


class Options(BaseModel):
    """`objective`: what the search minimizes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    objective: Objective = "edp"


_Run = tuple[Einsum, ...]


@dataclass(frozen=True)
class _Plan:
    """Runs of Einsums, a phase each, and what it is called.

    `outside` are choices of ranks to be looped over outside, for every run. A `last_resort` is
    tried only where nothing else fits at all points.
    """

    about: str
    phases: tuple[_Run, ...]
    outside: dict[_Run, list[tuple[str, ...]]]
    last_resort: bool = False


@dataclass(frozen=True)
class _Costs:
    """Costs of candidates, infinite where one cannot be; points along the first axis."""

    latency_s: np.ndarray
    energy_pj: np.ndarray
    traffic_bytes: np.ndarray

    def by(self, objective: Objective) -> np.ndarray:
        """What is minimized."""
        edp = objective == "edp"
        result: np.ndarray = self.latency_s * self.energy_pj if edp else getattr(self, objective)
        return result

    def best(self, objective: Objective) -> np.ndarray:
        """The least along the last axis, of equal ones that of less energy."""
        known = np.where(np.isfinite(self.energy_pj), self.energy_pj, 0.0)
        share = known / np.maximum(known.max(axis=-1, keepdims=True), 1e-300)
        result: np.ndarray = np.argmin(self.by(objective) * (1 + 1e-10 * share), axis=-1)
        return result

    def at(self, index: np.ndarray) -> _Costs:
        """Those of one candidate at each point."""
        one = index[..., None]
        return self._each(lambda v: np.take_along_axis(v, one, -1)[..., 0])

    def where(self, mask: np.ndarray, other: _Costs) -> _Costs:
        """These where the mask holds, else the other ones."""
        pairs = zip(self._all(), other._all(), strict=True)
        return _Costs(*(np.where(mask, mine, theirs) for mine, theirs in pairs))

    def _each(self, function: Callable[[np.ndarray], np.ndarray]) -> _Costs:
        return _Costs(*map(function, self._all()))

    def _all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.latency_s, self.energy_pj, self.traffic_bytes

    @staticmethod
    def of(evaluation: Evaluation, legal: Any, shape: tuple[int, ...]) -> _Costs:
        """Those of an evaluation whose points are `shape`, where it is `legal`."""
        wanted = (evaluation.latency_s, evaluation.energy_pj, evaluation.traffic_bytes)
        full = (np.broadcast_to(v, shape) for v in wanted)
        return _Costs(*(np.where(np.isnan(v) | ~np.asarray(legal), np.inf, v) for v in full))

    @staticmethod
    def beside(some: Sequence[_Costs]) -> _Costs:
        """Candidates of all, along the last axis."""
        columns = zip(*(c._all() for c in some), strict=True)
        return _Costs(*(np.concatenate(values, axis=-1) for values in columns))

    @staticmethod
    def after(some: Sequence[_Costs]) -> _Costs:
        """What phases cost that follow one another."""
        columns = zip(*(c._all() for c in some), strict=True)
        return _Costs(*(sum(values[1:], values[0]) for values in columns))


@dataclass(frozen=True)
class _Part:
    """Candidates of one structure for a phase.

    `made` builds those of an index, one a point, and says in words what they are. `room` says how
    many bytes of the buffer each takes, infinite where it could not be even if it had them.
    """

    costs: _Costs
    made: Callable[[np.ndarray], tuple[Phase, np.ndarray]]
    room: Callable[[], np.ndarray]


_Parts = list[_Part]


def place(
    options: Options, cascade: Cascade, architecture: Architecture, shape: MappingABC[str, Number]
) -> MappingParts:
    """Place any cascade; at each point the best of the space by the objective.

    Extents are numbers or arrays of one dimension. What the space is follows from how long ranks
    are against each other and the array: points that are alike in that are searched together, and
    a point's mapping does not depend on the company it is in.

    Raises `InputError` for an architecture without a 2D and a 1D array.
    """
    two, _ = arrays(architecture, NAME)
    full = padded_shape(cascade, shape, two.shape[0])
    numbers = [np.asarray(v) for v in (*full.values(), *architecture.parameters.values())]
    count = np.broadcast_shapes((1,), *(n.shape for n in numbers))[0]
    parts = []
    for points, typical in _alike(cascade, full, two.shape[0], count):

        def at(number: Number, points: Any = points) -> Number:
            return number if np.ndim(number) == 0 else np.broadcast_to(number, (count,))[points]

        extents = {k: np.asarray(at(v), dtype=np.float64) for k, v in full.items()}
        extents = {k: np.broadcast_to(v, points.shape) for k, v in extents.items()}
        mapping = Mapping(cascade, architecture.with_numbers(at), extents, ())
        parts.append((points, _best_plan(mapping, typical, options)))
    return MappingParts(tuple(parts), count)


def _alike(
    cascade: Cascade, shape: MappingABC[str, Number], side: Number, count: int
) -> list[tuple[np.ndarray, dict[str, float]]]:
    """Points by classes, and the extents that stand for each class.

    Extents count by powers of four, and all the same from four times the array's side: no decision
    on the structure of a mapping looks closer. Outer parts follow from the rank they are part of.
    """
    outer = {r.partition[0]: r for r in cascade.ranks.values() if r.partition}
    names = [name for name in shape if name not in outer]
    sides = np.floor(np.log2(np.broadcast_to(side, (count,))) + 1e-9)
    columns = [np.log2(np.broadcast_to(shape[name], (count,))) for name in names]
    most = np.floor((sides + 2) / 2)
    table = [sides, *(np.minimum(np.floor(c / 2 + 1e-9), most) for c in columns)]
    classes, members = np.unique(np.stack(table, axis=-1), axis=0, return_inverse=True)
    found = []
    for number, row in enumerate(classes):
        typical = {name: float(4.0**size) for name, size in zip(names, row[1:], strict=True)}
        for part, rank in outer.items():
            inner = np.prod([typical[p] for p in rank.partition[1:]])
            typical[part] = max(1.0, float(typical[rank.name] / inner))
        found.append((np.flatnonzero(members.reshape(-1) == number), typical))
    return found


@dataclass(frozen=True)
class _Searched:
    """Points that are searched together, and what has been found for their phases."""

    mapping: Mapping
    wider: Mapping
    typical: MappingABC[str, float]
    options: Options
    outside: list[tuple[str, ...]]
    products: dict[_Run, _Parts] = field(default_factory=dict)
    nested: dict[tuple[Group, ...], _Parts] = field(default_factory=dict)
    waves: dict[tuple[Group, ...], _Parts] = field(default_factory=dict)

    @property
    def points(self) -> tuple[int, ...]:
        """The shape of the points."""
        return np.broadcast_shapes(*(np.shape(v) for v in self.mapping.shape.values()))


def _best_plan(
    mapping: Mapping, typical: MappingABC[str, float], options: Options
) -> MappingChoice:
    """The best plan with its best forms, at each of some points that are alike."""
    two, _ = arrays(mapping.architecture, NAME)
    outside, furthest = outsides(mapping.cascade, typical, float(np.max(two.shape[0])))
    on = _Searched(mapping, with_candidate_axis(mapping), typical, options, outside)
    found: list[tuple[_Plan, list[_Parts], list[np.ndarray]]] = []
    totals: list[_Costs] = []
    for plan in _plans(on, furthest):
        if plan.last_resort and np.all(_together(totals).by(options.objective).min(-1) < np.inf):
            continue
        phases = [_parts(on, run, plan.outside[run]) for run in plan.phases]
        index, total = _chosen(phases, options.objective)
        found.append((plan, phases, index))
        totals.append(total)
    both = _together(totals)
    best = both.best(options.objective)
    lost = ~np.isfinite(both.at(best).latency_s)
    if np.any(lost):
        best = _least_lacking(found, best, lost)
    used, which = np.unique(best, return_inverse=True)
    chosen = []
    for i in used:
        plan, phases, index = found[i]
        chosen.append(_placed(on, plan, phases, index, best == i))
    return MappingChoice(tuple(chosen), which.reshape(best.shape))


def _together(totals: Sequence[_Costs]) -> _Costs:
    return _Costs.beside([total._each(lambda v: v[..., None]) for total in totals])


def _plans(on: _Searched, furthest: tuple[str, ...]) -> list[_Plan]:
    """What may be fused: each way once."""
    cascade = on.mapping.cascade
    every = list(dict.fromkeys((*on.outside, furthest)))
    whole = tuple(in_order(cascade))
    single = kernels(cascade)
    outside: dict[_Run, list[tuple[str, ...]]] = {whole: every}
    parted: dict[tuple[_Run, ...], None] = {}
    for ranks in every:
        runs = tuple(g.einsums for g in _structure(on, whole, ranks))
        parted[runs] = None
        for run in runs:
            if run != whole:
                outside.setdefault(run, []).append(ranks)
    found = [_Plan("fused", (whole,), outside)]
    found += [_Plan("fused", runs, outside) for runs in parted if runs != (whole,)]
    if single not in parted:
        found.append(_Plan("kernel by kernel", single, {run: on.outside for run in single}))
    last = {run: every for run in single}
    return [*found, _Plan("kernel by kernel", single, last, last_resort=True)]


def _structure(
    on: _Searched, run: _Run, outside: tuple[str, ...], whole_steps: bool = False
) -> tuple[Group, ...]:
    two, _ = arrays(on.mapping.architecture, NAME)
    least = float(np.max(two.shape[0]))
    return grouped(on.mapping.cascade, on.typical, least, outside, run, whole_steps)


def _parts(on: _Searched, run: _Run, outside: list[tuple[str, ...]]) -> _Parts:
    """Candidates of one phase: a plain product by itself has a space of its own.

    Where nothing of it fits, it is nested like the others.
    """
    if len(run) == 1:
        product = as_product(on.mapping.cascade, run[0])
        if product is not None and is_on(on.mapping.architecture, on.mapping.cascade, product):
            if run not in on.products:
                on.products[run] = _product(on, run, product)
            return on.products[run]
    return _nests(on, run, outside)


def _nests(on: _Searched, run: _Run, outside: list[tuple[str, ...]]) -> _Parts:
    parts: _Parts = []
    structures = dict.fromkeys(
        _structure(on, run, ranks, whole_steps)
        for ranks, whole_steps in combinations(outside, (False, True))
    )
    for groups in structures:
        if groups not in on.nested:
            on.nested[groups] = list(_forms(on, groups, ("all", "each", "tile")))
        parts += on.nested[groups]
    if len(run) == 1 and np.any(~_fits(parts)):  # it only saves room
        for groups in structures:
            if groups not in on.waves:
                on.waves[groups] = list(_forms(on, groups, ("wave",)))
            parts += on.waves[groups]
    return parts


def _fits(parts: _Parts) -> np.ndarray:
    fits: np.ndarray = np.any([np.isfinite(p.costs.latency_s).any(-1) for p in parts], axis=0)
    return fits


_RATIOS = 2.0 ** np.arange(-2, 2.25, 0.25)


def _chosen(phases: list[_Parts], objective: Objective) -> tuple[list[np.ndarray], _Costs]:
    """The best candidate of each phase at each point, and what all phases cost.

    The least energy-delay product of phases that follow one another is at the least of
    `ratio * latency + energy` of each, for one ratio that they have in common.
    """
    costs = [_Costs.beside([part.costs for part in parts]) for parts in phases]
    index = [c.best(objective) for c in costs]
    total = _Costs.after([c.at(i) for c, i in zip(costs, index, strict=True)])
    if objective != "edp" or len(costs) == 1:
        return index, total

    def improved(ratio: np.ndarray) -> None:
        nonlocal index, total
        ratio = np.where(np.isfinite(ratio), ratio, 1.0)[..., None]
        other = [np.argmin(ratio * c.latency_s + c.energy_pj, axis=-1) for c in costs]
        sums = _Costs.after([c.at(i) for c, i in zip(costs, other, strict=True)])
        better = sums.by(objective) < total.by(objective)
        total = sums.where(better, total)
        index = [np.where(better, new, old) for new, old in zip(other, index, strict=True)]

    with np.errstate(invalid="ignore"):
        first = total.energy_pj / total.latency_s
        for ratio in _RATIOS:
            improved(first * ratio)
        improved(total.energy_pj / total.latency_s)
        improved(total.energy_pj / total.latency_s)
    return index, total


def _placed(
    on: _Searched, plan: _Plan, phases: list[_Parts], index: list[np.ndarray], taken: np.ndarray
) -> Mapping:
    """A plan with the best form of every phase at the points that take it."""
    choices, text = [], np.asarray(f"{plan.about}: ", dtype=object)
    for number, (parts, own) in enumerate(zip(phases, index, strict=True)):
        starts = np.cumsum([0, *(p.costs.latency_s.shape[-1] for p in parts)])
        which = np.searchsorted(starts, own, side="right") - 1
        used = np.unique(which[taken])
        built = []
        for part in used:
            here = np.where(taken & (which == part), own, own[taken & (which == part)][0])
            built.append(parts[part].made(here - starts[part]))
        position = np.where(taken, np.searchsorted(used, which), 0)
        choices.append(PhaseChoice(tuple(phase for phase, _ in built), position))
        note = np.choose(position, [np.broadcast_to(words, on.points) for _, words in built])
        text = text + ("; " if number else "") + note
    return replace(on.mapping, phases=tuple(choices), notes=text)


def _least_lacking(
    found: list[tuple[_Plan, list[_Parts], list[np.ndarray]]], best: np.ndarray, lost: np.ndarray
) -> np.ndarray:
    """The plan that needs the least room where nothing fits, its phases set to what needs least."""
    needs = []
    for _, phases, index in found:
        worst: Any = 0.0
        for number, parts in enumerate(phases):
            room = np.concatenate([part.room() for part in parts], axis=-1)
            index[number] = np.where(lost, np.argmin(room, axis=-1), index[number])
            worst = np.maximum(worst, room.min(axis=-1))
        needs.append(worst)
    return np.where(lost, np.argmin(np.stack(needs), axis=0), best)


def _candidates(side: Number, rows: Number) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a wavefront and tiles of them, along the candidate axis."""
    most = int(min(_MOST_TILES, max(0, np.ceil(np.log2(max(float(np.max(rows / side)), 1.0))))))
    at_once = [np.asarray(side) for _ in range(most + 1)]
    together = [2.0**k for k in range(most + 1)]
    for fraction in _FRACTIONS:
        at_once.append(np.maximum(np.ceil(np.asarray(side) / fraction), 1.0))
        together.append(1.0)
    return np.stack([np.broadcast_to(a, np.shape(side)) for a in at_once], -1), np.array(together)


def _product(on: _Searched, run: _Run, product: Product) -> _Parts:
    """The best mappings of a product, as its own search finds them."""
    objective = on.options.objective
    choice, note, _ = search(on.mapping, product, "any", objective)
    index = np.broadcast_to(choice.index, on.points)
    parts: _Parts = []
    for number in np.unique(index):
        phase = choice.options[number]
        costs = evaluate_phase(on.mapping, phase, explain=False)

        def made(_: np.ndarray, phase: Phase = phase) -> tuple[Phase, np.ndarray]:
            return phase, note

        def room(phase: Phase = phase, here: np.ndarray = index == number) -> np.ndarray:
            return np.where(here, room_bytes(on.mapping, phase), np.inf)[..., None]

        legal = index == number
        own = _Costs.of(costs, legal, on.points)._each(lambda v: v[..., None])
        parts.append(_Part(own, made, room))
    if not np.all(_fits(parts)):
        parts += _nests(on, run, on.outside)
    return parts


def _forms(on: _Searched, groups: tuple[Group, ...], keeps: tuple[Keep, ...]) -> Iterator[_Part]:
    """Candidates of one structure: bindings, inputs that are kept, rows and tiles of them."""
    mapping, wider, typical = on.mapping, on.wider, on.typical
    two, one = arrays(mapping.architecture, NAME)
    wide_two, wide_one = arrays(wider.architecture, NAME)
    name = "-".join(dict.fromkeys((groups[0].einsums[0].name, groups[-1].einsums[-1].name)))
    longest = [mapping.shape[g.places[0].rows] for g in groups if g.places[0].rows]
    rows = np.max(np.stack(np.broadcast_arrays(*longest)), axis=0) if longest else np.ones(1)
    side = np.broadcast_to(np.minimum(two.shape[1], one.shape[0]), on.points)
    at_once, together = _candidates(side, rows)
    shape = (*on.points, len(together))
    legal = np.broadcast_to(_overlaps(wider, groups), shape)
    rows_of = np.broadcast_to(at_once, shape)
    bound: dict[object, tuple[bool, bool]] = {}
    for pair in combinations((True, False), (True, False)):
        form = Form(at_once, together, "all", *pair)
        bound.setdefault(bindings(mapping.cascade, groups, form, two, one, typical), pair)
    for pair in bound.values():
        trial = Form(at_once, together, "all", *pair)
        for keep, phase in build_each(
            wider, name, groups, trial, keeps, wide_two, wide_one, typical
        ):

            def made(
                index: np.ndarray, keep: Keep = keep, pair: tuple[bool, bool] = pair
            ) -> tuple[Phase, np.ndarray]:
                picked = np.take_along_axis(rows_of, index[..., None], -1)[..., 0]
                form = Form(picked, together[index], keep, *pair)
                words = _note(groups, replace(form, rows_at_once=np.minimum(picked, rows)))
                return build(mapping, name, groups, form, two, one, typical), words

            def room(phase: Phase = phase) -> np.ndarray:
                taken = np.broadcast_to(room_bytes(wider, phase), shape)
                return np.where(legal, taken, np.inf)

            costs = evaluate_phase(wider, phase, explain=False)
            yield _Part(_Costs.of(costs, legal, shape), made, room)


def _overlaps(on: Mapping, groups: tuple[Group, ...]) -> Any:
    """Groups that follow one another run side by side only over several batch elements."""
    if len(groups) == 1:
        return np.True_
    common = [set(g.places[0].whole) for g in groups]
    shared = set.intersection(*common)
    count: Any = 1.0
    for rank in shared:
        count = count * on.shape[rank]
    return count > 1


def _note(groups: tuple[Group, ...], form: Form) -> np.ndarray:
    names = f"{groups[0].einsums[0].name}..{groups[-1].einsums[-1].name}"
    rows = dict.fromkeys(g.places[0].rows for g in groups if g.places[0].rows)
    streams = dict.fromkeys(p.stream for g in groups for p in g.places if p.stream)
    text = names + (f" over {', '.join(map(str, rows))}" if rows else "")
    text += f" and {', '.join(map(str, streams))}" if streams else ""
    text += ", inputs kept" if form.keep == "all" else ""
    numbers = np.asarray(form.rows_at_once).astype(np.int64).astype(str)
    tiles_of = np.asarray(form.row_tiles).astype(np.int64).astype(str)
    words = np.char.add(np.char.add(f"{text}, ", numbers), " rows x ")
    result: np.ndarray = np.char.add(words, tiles_of).astype(object)
    return result


__all__ = ["NAME", "Options", "place"]
