"""Any cascade on any architecture with a 2D and a 1D array: groups of Einsums, fused by pass.

The space that is searched for each design point:

- what is looped over outside of everything: ranks of every input and output, or of every Einsum;
- what is fused: groups of Einsums that share a loop over rows and, inside, over a streamed rank,
  never across a pass (`mappers.grouping`); all groups in one pipeline over the batch, or one after
  the other; or each product by itself, with the best mapping of its own (`mappers.contraction`),
  and what stands between two of them together;
- rows in a wavefront (the array's side, 1/4, 1/16, 1/64 of it, or one), and tiles of them that are
  worked on while a tile of the streamed rank stays (powers of two, cut to divisors);
- inputs that rows do not move kept on chip for all rows, or streamed; for a kernel of one Einsum,
  where nothing else fits, every input for one wavefront only;
- elementwise Einsums on the 2D array where it can, or on the 1D array, whose lanes hold rows or
  neighbours of one row.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, replace
from itertools import product as combinations
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from archs import Architecture, ComputeArray
from einsum_cascade import Cascade
from mappers.contraction import Objective, is_on, score_of, search, with_candidate_axis
from mappers.grouping import Group, grouped, kernels
from mappers.nests import Form, Keep, bindings, build
from mappers.roles import arrays, as_product, padded_shape
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


@dataclass(frozen=True)
class _Plan:
    """Phases, each of some groups, and what it is called.

    A `last_resort` is tried only where nothing else fits at all points.
    """

    about: str
    phases: tuple[tuple[Group, ...], ...]
    last_resort: bool = False


_Found = tuple[PhaseChoice, Evaluation, Any]
"""The best mapping of a phase at each point, what it costs, and what it is in words."""


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


def _best_plan(
    mapping: Mapping, typical: MappingABC[str, float], options: Options
) -> MappingChoice:
    """The best plan with its best forms, at each of some points that are alike."""
    two, _ = arrays(mapping.architecture, NAME)
    plans = _plans(mapping.cascade, typical, two)
    found: dict[tuple[Group, ...], _Found] = {}
    placed: list[tuple[Mapping, np.ndarray]] = []
    for plan in plans:
        if plan.last_resort and np.all(np.min([score for _, score in placed], axis=0) < np.inf):
            continue
        for groups in plan.phases:
            if groups not in found:
                found[groups] = _search(mapping, groups, typical, options)
        placed.append(_placed(mapping, plan, found, options))
    scores = np.stack([np.broadcast_to(score, placed[0][1].shape) for _, score in placed])
    best = np.argmin(scores, axis=0)
    used, index = np.unique(best, return_inverse=True)
    return MappingChoice(tuple(placed[i][0] for i in used), index.reshape(best.shape))


def _plans(cascade: Cascade, typical: MappingABC[str, float], two: ComputeArray) -> list[_Plan]:
    """What may be fused: each way once."""
    least = float(np.max(two.shape[0]))
    found: dict[tuple[tuple[Group, ...], ...], _Plan] = {}

    def add(about: str, *phases: tuple[Group, ...], last_resort: bool = False) -> None:
        found.setdefault(phases, _Plan(about, phases, last_resort))

    for outside in (False, True):
        groups = grouped(cascade, typical, least, outside)
        add("fused", groups)
        add("fused", *((g,) for g in groups))
        single = kernels(cascade, typical, least, outside)
        add("kernel by kernel", *((g,) for g in single), last_resort=outside)
    return sorted(found.values(), key=lambda plan: plan.last_resort)


def _placed(
    mapping: Mapping, plan: _Plan, found: MappingABC[tuple[Group, ...], _Found], options: Options
) -> tuple[Mapping, np.ndarray]:
    """A plan with the best form of every phase, and its score at each point."""
    choices, notes, total = [], [], None
    for groups in plan.phases:
        choice, best, note = found[groups]
        choices.append(choice)
        notes.append(note)
        total = best if total is None else _sum(total, best)
    assert total is not None
    text: Any = notes[0]
    for note in notes[1:]:
        text = text + "; " + note
    text = np.asarray(f"{plan.about}: ", dtype=object) + text
    return replace(mapping, phases=tuple(choices), notes=text), score_of(total, options.objective)


def _sum(a: Evaluation, b: Evaluation) -> Evaluation:
    return replace(
        a,
        latency_s=a.latency_s + b.latency_s,
        energy_pj=a.energy_pj + b.energy_pj,
        traffic_bytes=a.traffic_bytes + b.traffic_bytes,
    )


def _candidates(side: Number, rows: Number) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a wavefront and tiles of them, along the candidate axis."""
    most = int(min(_MOST_TILES, max(0, np.ceil(np.log2(max(float(np.max(rows / side)), 1.0))))))
    at_once = [np.asarray(side) for _ in range(most + 1)]
    together = [2.0**k for k in range(most + 1)]
    for fraction in _FRACTIONS:
        at_once.append(np.maximum(np.ceil(np.asarray(side) / fraction), 1.0))
        together.append(1.0)
    return np.stack([np.broadcast_to(a, np.shape(side)) for a in at_once], -1), np.array(together)


def _search(
    mapping: Mapping,
    groups: tuple[Group, ...],
    typical: MappingABC[str, float],
    options: Options,
) -> _Found:
    """The best mapping of one phase: a plain product by itself has a space of its own."""
    einsums = [e for group in groups for e in group.einsums]
    found = as_product(mapping.cascade, einsums[0]) if len(einsums) == 1 else None
    if found is None or not is_on(mapping.architecture, mapping.cascade, found):
        return _best(mapping, groups, typical, options)
    choice, note, _ = search(mapping, found, "any", options.objective)
    costs = [evaluate_phase(mapping, phase, explain=False) for phase in choice.options]
    return choice, _choose(costs, choice.index), note


def _best(
    mapping: Mapping,
    groups: tuple[Group, ...],
    typical: MappingABC[str, float],
    options: Options,
) -> _Found:
    """The best form of one phase at each point."""
    two, one = arrays(mapping.architecture, NAME)
    wider = with_candidate_axis(mapping)
    wide_two, wide_one = arrays(wider.architecture, NAME)
    name = "-".join(dict.fromkeys((groups[0].einsums[0].name, groups[-1].einsums[-1].name)))
    points = np.broadcast_shapes(*(np.shape(v) for v in mapping.shape.values()))
    longest = [mapping.shape[g.places[0].rows] for g in groups if g.places[0].rows]
    rows = np.max(np.stack(np.broadcast_arrays(*longest)), axis=0) if longest else np.ones(1)
    side = np.broadcast_to(np.minimum(two.shape[1], one.shape[0]), points)
    at_once, together = _candidates(side, rows)
    phases: list[Phase] = []
    found: list[Evaluation] = []
    scores: list[np.ndarray] = []
    texts = []
    keeps: list[Keep] = ["all", "tile"]
    if sum(len(g.einsums) for g in groups) == 1:
        keeps.append("wave")
    bound: dict[object, tuple[bool, bool]] = {}
    for pair in combinations((True, False), (True, False)):
        form = Form(at_once, together, "all", *pair)
        bound.setdefault(bindings(mapping.cascade, groups, form, two, one, typical), pair)
    for keep, pair in combinations(keeps, bound.values()):
        if keep == "wave" and np.all(np.min(scores, axis=0) < np.inf):
            continue  # it only saves room
        trial = Form(at_once, together, keep, *pair)
        phase = build(wider, name, groups, trial, wide_two, wide_one, typical)
        costs = evaluate_phase(wider, phase, explain=False)
        score = score_of(costs, options.objective)
        score = np.where(_overlaps(wider, groups), score, np.inf)
        score = np.broadcast_to(score, (*points, len(together)))
        best = np.argmin(score, axis=-1)
        scores.append(np.take_along_axis(score, best[..., None], -1)[..., 0])
        rows_of = np.broadcast_to(at_once, score.shape)
        picked_rows = np.take_along_axis(rows_of, best[..., None], -1)[..., 0]
        picked_tiles = together[best]
        form = Form(picked_rows, picked_tiles, keep, *pair)
        phases.append(build(mapping, name, groups, form, two, one, typical))
        found.append(_at(costs, best))
        texts.append(_note(groups, replace(form, rows_at_once=np.minimum(picked_rows, rows))))
    index = np.argmin(np.stack(scores), axis=0)
    used, index = np.unique(index, return_inverse=True)  # what no point takes is not priced again
    index = index.reshape(points)
    chosen = [found[i] for i in used], [texts[i] for i in used]
    choice = PhaseChoice(tuple(phases[i] for i in used), index)
    return choice, _choose(chosen[0], index), np.choose(index, chosen[1])


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


def _at(costs: Evaluation, best: np.ndarray) -> Evaluation:
    def picked(values: Any) -> Any:
        if np.shape(values)[-1] == 1:  # the same for all candidates
            return np.asarray(values)[..., 0]
        return np.take_along_axis(values, best[..., None], -1)[..., 0]

    return replace(
        costs,
        latency_s=picked(costs.latency_s),
        energy_pj=picked(costs.energy_pj),
        traffic_bytes=picked(costs.traffic_bytes),
    )


def _choose(found: list[Evaluation], index: np.ndarray) -> Evaluation:
    def chosen(values: list[Any]) -> Any:
        return np.choose(index, values)

    return replace(
        found[0],
        latency_s=chosen([f.latency_s for f in found]),
        energy_pj=chosen([f.energy_pj for f in found]),
        traffic_bytes=chosen([f.traffic_bytes for f in found]),
    )


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
