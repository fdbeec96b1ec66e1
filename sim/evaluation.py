"""What a mapping costs: one `Evaluation` for all its design points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from archs import Architecture
from einsum_cascade import Cascade, Einsum
from einsum_cascade.dependencies import dependencies
from einsum_cascade.shapes import points_in
from sim.accesses import analysis_of, computing, element_words, tally
from sim.energy import BOARD, Accounting, energy_terms
from sim.form import check_form
from sim.legality import Objection, objections
from sim.mapping import Mapping as MappingOf
from sim.mapping import MappingChoice, MappingParts, Number, Phase, PhaseChoice
from sim.schedule import carried, point_cycles, timing

Terms = Mapping[str, Number]
AnyMapping = MappingOf | MappingChoice | MappingParts


@dataclass(frozen=True)
class Evaluation:
    """Costs of design points, every number an array of one entry a point.

    `compute_s` is what the latency would be if memories gave everything at once.
    `latency_terms_s` adds up to `latency_s`. `busy_s` is how long each array and memory works.
    `slot_seconds` is, for each array and Einsum, the time its work would take on the whole array;
    over the latency it is the utilization. `kernel_latency_s` is that of each phase, or of each
    kernel where several are added up under names; `resources` are what the design needs of an FPGA.
    `infeasible` holds the reason why a point cannot be, or None; its numbers are NaN then. Areas
    and bounds are of the whole design.
    """

    latency_s: Number
    compute_s: Number
    traffic_bytes: Number
    energy_pj: Number
    area_um2: Number
    latency_terms_s: Terms
    busy_s: Terms
    energy_terms_pj: Terms
    slot_seconds: Mapping[tuple[str, str], Number]
    traffic_by_tensor_bytes: Terms
    lower_bound_bytes: Number
    infeasible: Any
    mapping_notes: Any
    kernel_latency_s: Terms = field(default_factory=dict)
    resources: Terms = field(default_factory=dict)

    def __getitem__(self, index: Any) -> Evaluation:
        """The points at `index` of every array, as NumPy indexes."""
        return self._each(lambda value: value[index])

    def spread(self, shape: tuple[int, ...]) -> Evaluation:
        """The same with every array of `shape`."""
        return self._each(lambda value: np.broadcast_to(value, shape))

    def flat(self, shape: tuple[int, ...]) -> Evaluation:
        """The points of `shape` one after the other, along one dimension."""
        return self._each(lambda value: np.broadcast_to(value, shape).reshape(-1))

    def _each(self, function: Callable[[Any], Any]) -> Evaluation:
        def changed(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {key: function(each) for key, each in value.items()}
            return function(value)

        return Evaluation(**{f.name: changed(getattr(self, f.name)) for f in fields(self)})

    @property
    def bottleneck(self) -> Any:
        """The name of the largest term of the latency at each point."""
        return np.array(list(self.latency_terms_s), dtype=object)[self.largest_term]

    @property
    def largest_term(self) -> Any:
        """Which of the latency's terms, in their order, is the largest at each point."""
        shape = np.shape(self.latency_s)
        terms = [np.broadcast_to(term, shape) for term in self.latency_terms_s.values()]
        return np.argmax(np.stack(terms), axis=0)

    @cached_property
    def util_by_einsum(self) -> dict[tuple[str, str], Number]:
        """Fraction of an array's compute slots that an Einsum uses over the run."""
        return {key: s / self.latency_s for key, s in self.slot_seconds.items()}

    @cached_property
    def util(self) -> dict[str, Number]:
        """Fraction of each array's compute slots used over the run."""
        total: dict[str, Number] = {}
        for (array, _), used in self.util_by_einsum.items():
            total[array] = total.get(array, 0.0) + used
        return total


def evaluate(mapping: AnyMapping, accounting: Accounting = "full") -> Evaluation:
    """Cost all design points of `mapping` in one go.

    Every number comes back as an array of the common shape of all that the mapping holds (at least
    one dimension). Nothing is raised for a mapping that cannot be: its points say why. One that
    means nothing (see `sim.form`) raises ValueError.
    """
    if isinstance(mapping, MappingParts):
        parts = []
        for points, part in mapping.parts:
            parts.append((points, evaluate(part, accounting).spread(np.shape(points))))
        return _ordered(scatter(parts, mapping.count), mapping)
    if isinstance(mapping, MappingChoice):
        shape = np.broadcast_shapes(np.shape(mapping.index), *map(common_shape, mapping.options))
        alike = [evaluate(option, accounting).spread(shape) for option in mapping.options]
        return _ordered(select(alike, mapping.index), mapping)
    # until the end every number has the dimensions only along which it varies
    phases = []
    for choice in mapping.phases or (PhaseChoice((Phase("nothing", (), {}),)),):
        options = [_evaluate_phase(mapping, p, accounting) for p in choice.options]
        phases.append(select(options, choice.index))
    total = combine(phases)
    if len(phases) > 1:
        names = [choice.options[0].name for choice in mapping.phases]
        each = {n: part.latency_s for n, part in zip(names, phases, strict=True)}
        total = replace(total, kernel_latency_s=each)
    bound = _lower_bound(mapping)
    problems = [*_whole(mapping)]
    if mapping.refusal is not None:
        problems = [Objection(True, "{}", (np.asarray(mapping.refusal, dtype=object),))]
    if mapping.architecture.resources:
        problems += _device(mapping.architecture)
    # a mapping that moves less than the cascade needs has been counted wrongly: never report it
    missing = total.traffic_bytes < bound * (1 - 1e-9)
    problems.append(
        Objection(
            missing,
            "{:,.0f} bytes of traffic are less than the {:,.0f} that the cascade needs",
            (total.traffic_bytes, bound),
        )
    )
    notes = np.asarray(mapping.notes, dtype=object)
    whole = _refuse(replace(total, lower_bound_bytes=bound, mapping_notes=notes), problems)
    return _ordered(whole.spread(common_shape(mapping)), mapping)


def _ordered(evaluation: Evaluation, mapping: AnyMapping) -> Evaluation:
    """The Einsums in the order of the cascade, whichever of them other points have.

    A sum over them then has the same last digit for a point, whatever stands beside it.
    """
    order: dict[str, int] = {}
    for cascade in sorted(_cascades(mapping), key=lambda c: -len(c.einsums)):
        for at, einsum in enumerate(cascade.einsums):
            order.setdefault(einsum.name, at)
    slots = sorted(evaluation.slot_seconds.items(), key=lambda item: order[item[0][1]])
    return replace(evaluation, slot_seconds=dict(slots))


def _cascades(mapping: AnyMapping) -> dict[Cascade, None]:
    if isinstance(mapping, MappingOf):
        return {mapping.cascade: None}
    inner = mapping.options if isinstance(mapping, MappingChoice) else [p for _, p in mapping.parts]
    return {cascade: None for each in inner for cascade in _cascades(each)}


def evaluate_phase(
    mapping: MappingOf, phase: Phase, accounting: Accounting = "full", explain: bool = True
) -> Evaluation:
    """Cost one phase by itself, as a mapper does that compares candidates.

    Without `explain` a point that cannot be says so in one word: a search has no use for texts.
    """
    single = replace(mapping, phases=(PhaseChoice((phase,)),))
    return _evaluate_phase(single, phase, accounting, explain).spread(common_shape(single))


def footprint_bytes(mapping: MappingOf, phase: Phase, memory: str) -> Number:
    """Bytes that the tiles of a phase take in `memory`."""
    counted = tally(mapping.cascade, mapping.architecture, mapping.shape, phase, what="room")
    return counted.footprint(memory) * mapping.architecture.word_bytes


def _evaluate_phase(
    mapping: MappingOf,
    phase: Phase,
    accounting: Accounting,
    explain: bool = True,
) -> Evaluation:
    """The costs of a phase, each with the dimensions along which it varies."""
    if explain:  # a mapper that compares candidates builds them all in the same way
        check_form(mapping, phase)
    cascade, architecture = mapping.cascade, mapping.architecture
    counted = tally(cascade, architecture, mapping.shape, phase)
    timed = timing(cascade, architecture, mapping.shape, phase, counted)
    einsums = [cascade.einsum(m.einsum) for m in phase.einsums]
    extents = {k: np.asarray(v, dtype=np.float64) for k, v in mapping.shape.items()}
    points = {e.name: points_in(cascade, e, extents) for e in einsums}
    energy = energy_terms(cascade, architecture, points, phase, counted, accounting)
    if np.any(architecture.power_w):
        energy[BOARD] = architecture.power_w * timed.latency_s * 1e12
    slots = {}
    along = carried(architecture, phase)
    for m in phase.einsums:
        array = architecture.array(m.array)
        each = point_cycles(cascade, array, m)
        for when in along.get(m.einsum, {}).values():
            each = np.where(when, 0.0, each)
        slots[m.array, m.einsum] = points[m.einsum] * each / (array.pes * architecture.clock_hz)
    outermost = architecture.memories[0].name
    by_tensor = {
        tensor: words * architecture.word_bytes
        for (memory, tensor), words in counted.words_by_tensor.items()
        if memory == outermost
    }

    def floats(terms: Mapping[Any, Number]) -> dict[Any, Number]:
        return {key: np.asarray(value, dtype=np.float64) for key, value in terms.items()}

    totals = {
        "latency_s": timed.latency_s,
        "compute_s": timed.compute_s,
        "traffic_bytes": sum(by_tensor.values(), np.float64(0)),
        "energy_pj": sum(energy.values()),
        "area_um2": architecture.area_um2,
        "lower_bound_bytes": 0.0,
    }
    evaluation = Evaluation(
        **floats(totals),
        latency_terms_s=floats(timed.terms_s),
        busy_s=floats(timed.busy_s),
        energy_terms_pj=floats(energy),
        slot_seconds=floats(slots),
        traffic_by_tensor_bytes=floats(by_tensor),
        infeasible=np.full(1, None, dtype=object),
        mapping_notes=np.full(1, "", dtype=object),
        resources=floats(architecture.resources),
    )
    problems = list(objections(cascade, architecture, mapping.shape, phase, counted))
    return _refuse(evaluation, problems, explain)


def _refuse(
    evaluation: Evaluation, problems: Sequence[Objection], explain: bool = True
) -> Evaluation:
    """Numbers become NaN, and reasons are given, wherever a problem stands."""
    standing = [problem for problem in problems if np.any(problem.where)]
    told = [n for p in standing for n in (p.where, *(p.numbers if explain else ()))]
    shape = np.broadcast_shapes(*map(np.shape, [evaluation.infeasible, *told]))
    reasons = np.array(np.broadcast_to(evaluation.infeasible, shape), dtype=object)
    for problem in standing:
        where = np.broadcast_to(problem.where, shape)
        if not explain:
            reasons[where] = "infeasible"
            continue
        flat = reasons.reshape(-1)
        first = np.flatnonzero(where.reshape(-1) & (flat == None))  # noqa: E711  (elementwise)
        flat[first] = problem.reasons(shape, first)  # texts only for points that fail, once each
        reasons = flat.reshape(shape)
    bad = reasons != None  # noqa: E711  (elementwise)
    if not np.any(bad):
        return replace(evaluation, infeasible=reasons)
    masked = _mapped(evaluation, lambda values: np.where(bad, np.nan, values[0]), [evaluation])
    return replace(masked, area_um2=evaluation.area_um2, infeasible=reasons)


_TERMS = (
    "latency_terms_s",
    "busy_s",
    "energy_terms_pj",
    "slot_seconds",
    "traffic_by_tensor_bytes",
    "kernel_latency_s",
)
_TOTALS = ("latency_s", "compute_s", "traffic_bytes", "energy_pj")


def _mapped(
    first: Evaluation,
    function: Callable[[list[Number]], Number],
    evaluations: Sequence[Evaluation],
) -> Evaluation:
    """`first` with each cost replaced by `function` of that cost in all `evaluations`."""
    changed: dict[str, Any] = {
        name: function([getattr(e, name) for e in evaluations]) for name in _TOTALS
    }
    zero = np.zeros(np.shape(first.latency_s))
    for name in _TERMS:
        keys = dict.fromkeys(key for e in evaluations for key in getattr(e, name))
        changed[name] = {
            key: function([getattr(e, name).get(key, zero) for e in evaluations]) for key in keys
        }
    return replace(first, **changed)


def combine(
    evaluations: Sequence[Evaluation], counts: Sequence[Number] | None = None
) -> Evaluation:
    """One after the other: costs add up, each `counts` times. The area is that of the design.

    What runs 0 times costs nothing, even where it could not run.
    """
    times = list(counts) if counts is not None else [1.0] * len(evaluations)

    def added(values: Sequence[Number]) -> Number:
        each = (np.where(np.equal(n, 0), 0.0, v * n) for v, n in zip(values, times, strict=True))
        return sum(each, np.float64(0))

    total = _mapped(evaluations[0], added, evaluations)
    bound = added([e.lower_bound_bytes for e in evaluations])
    reasons: Any = np.where(np.equal(times[0], 0), None, evaluations[0].infeasible)
    notes = evaluations[0].mapping_notes
    for evaluation, count in zip(evaluations[1:], times[1:], strict=True):
        ran = np.where(np.equal(count, 0), None, evaluation.infeasible)
        reasons = np.where(reasons == None, ran, reasons)  # noqa: E711
        parts = np.char.add(notes.astype(str), np.where(evaluation.mapping_notes != "", "; ", ""))
        notes = np.char.add(parts, evaluation.mapping_notes.astype(str)).astype(object)
    return replace(total, lower_bound_bytes=bound, infeasible=reasons, mapping_notes=notes)


def select(evaluations: Sequence[Evaluation], index: Number) -> Evaluation:
    """At each point, the evaluation that `index` names."""
    if len(evaluations) == 1:
        return evaluations[0]
    picked = _mapped(evaluations[0], lambda values: np.choose(index, values), evaluations)
    reasons = np.choose(index, [e.infeasible for e in evaluations])
    notes = np.choose(index, [e.mapping_notes for e in evaluations])
    return replace(picked, infeasible=reasons, mapping_notes=notes)


def scatter(parts: Sequence[tuple[Any, Evaluation]], count: int) -> Evaluation:
    """Evaluations of some points each, as one of all `count`.

    `parts` holds the positions of the points (integers) beside their evaluation. A term that a part
    lacks is 0 at its points.
    """

    def spread(values: Sequence[Any], missing: Any) -> Any:
        kind: Any = object if missing is None or missing == "" else np.float64
        full = np.full(count, missing, dtype=kind)
        for (points, _), value in zip(parts, values, strict=True):
            if value is not None:
                full[points] = value
        return full

    result: dict[str, Any] = {}
    for each in fields(Evaluation):
        values = [getattr(evaluation, each.name) for _, evaluation in parts]
        if isinstance(values[0], Mapping):
            keys = dict.fromkeys(key for value in values for key in value)
            result[each.name] = {k: spread([v.get(k) for v in values], 0.0) for k in keys}
        else:
            missing = {"infeasible": None, "mapping_notes": ""}.get(each.name, 0.0)
            result[each.name] = spread(values, missing)
    return Evaluation(**result)


def common_shape(mapping: MappingOf) -> tuple[int, ...]:
    numbers: list[Number] = [*mapping.shape.values(), *_numbers_of(mapping.architecture)]
    for choice in mapping.phases:
        numbers.append(choice.index)
        for phase in choice.options:
            numbers += [loop.extent for m in phase.einsums for loop in m.loops]
            numbers += [o.when for options in phase.residency.values() for o in options]
            numbers += phase.spilled.values()
    shape = np.broadcast_shapes(*(np.shape(n) for n in numbers))
    return shape or (1,)


def _numbers_of(architecture: Architecture) -> list[Number]:
    numbers = [*architecture.parameters.values(), *architecture.format_bits.values()]
    return [architecture.clock_hz, architecture.area_um2, *numbers]


def _lower_bound(mapping: MappingOf) -> Number:
    """Bytes that any mapping of the cascade moves on this architecture."""
    inner = sum(m.size_bytes for m in mapping.architecture.memories[1:])
    registers = sum(a.pes * a.register_words for a in mapping.architecture.arrays)
    held = inner / mapping.architecture.word_bytes + registers
    elements: dict[str, Number] = {}
    for choice in mapping.phases:
        for phase in choice.options:
            elements |= element_words(mapping.architecture, phase)
    analysis = analysis_of(mapping.cascade)
    words = analysis.traffic_lower_bound_words(mapping.shape, held, elements)
    return np.asarray(words * mapping.architecture.word_bytes, dtype=np.float64)


def _device(architecture: Architecture) -> Sequence[Objection]:
    """An FPGA has what the design needs of every kind of resource: all that lack are named."""
    kinds = list(architecture.resources)
    have = [architecture.device_resources.get(kind, np.float64(0)) for kind in kinds]
    need = [architecture.resources[kind] for kind in kinds]
    lacking = np.stack(np.broadcast_arrays(*(n > h for n, h in zip(need, have, strict=True))))
    found = []
    for pattern in np.unique(lacking.reshape(len(kinds), -1), axis=1).T:
        short = np.flatnonzero(pattern)
        each = "{{:,.0f}} {}, and {} has {{:,.0f}}: {{:,.0f}} are missing"
        texts = [each.format(kinds[k], architecture.device) for k in short]
        numbers = [number for k in short for number in (need[k], have[k], need[k] - have[k])]
        where = np.all(pattern == lacking.T, axis=-1).T
        text = "the design needs " + "; ".join(texts)
        found += [Objection(where, text, tuple(numbers))] if len(short) else []
    return found


def _whole(mapping: MappingOf) -> Sequence[Objection]:
    """Every Einsum of the cascade is placed once, and phases meet only in the outermost memory."""
    cascade = mapping.cascade
    names = {e.name for e in computing(cascade)}
    found = []
    placed = []
    formats: dict[str, str | None] = {}
    for choice in mapping.phases:
        for tensor, name in ((t, o.formats.get(t)) for o in choice.options for t in o.residency):
            if formats.setdefault(tensor, name) != name:
                raise ValueError(f"{tensor} is in one format in a phase, and in another elsewhere")
        alike = [{m.einsum for m in option.einsums} for option in choice.options]
        if any(names_of != alike[0] for names_of in alike):
            raise ValueError("the options of a phase place different Einsums")
        placed.append(alike[0])
    counts = {name: sum(name in phase for phase in placed) for name in names}
    wrong = sorted(name for name, count in counts.items() if count != 1)
    if wrong:
        text = ", ".join(f"{name} {counts[name]} times" for name in wrong)
        found.append(Objection(True, f"every Einsum is placed once, but {text}"))
    order = {name: i for i, phase in enumerate(placed) for name in phase}
    for einsum in computing(cascade):
        for needed in _sources(cascade, einsum):
            if order.get(needed, -1) > order.get(einsum.name, 0):
                reason = f"{einsum.name} runs in a phase before {needed}, which it needs"
                found.append(Objection(True, reason))
    return found


def _sources(cascade: Cascade, einsum: Einsum) -> set[str]:
    """The Einsums whose results this one reads, directly or through views."""
    found = set()
    for dependency in dependencies(cascade):
        if dependency.consumer.name == einsum.name:
            producer = dependency.producer
            found |= _sources(cascade, producer) if producer.is_view else {producer.name}
    return found


__all__ = [
    "Evaluation",
    "combine",
    "evaluate",
    "evaluate_phase",
    "footprint_bytes",
    "scatter",
    "select",
]
