"""Evaluating a grid: all points of a design in one call, nothing looped over points."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import mappers
import workloads
from archs import Architecture
from einsum_cascade import Cascade
from einsum_cascade.expression import Expression
from einsum_cascade.shapes import own_extents
from einsum_cascade.source import InputError, Place
from explore.networks import network_evaluation
from explore.points import Points, product
from explore.schema import LARGEST, GrowSchema
from explore.spec import Design, Grid
from sim import Evaluation, combine, evaluate
from workloads import linear_layers

if TYPE_CHECKING:
    from sim import Mapping as PlacedMapping

Array = NDArray[Any]
LINEAR = "linear-layer"
LINEAR_MAPPER = "unfused"


def points_of(grid: Grid) -> Points:
    """All combinations, models outermost, then swept values, batch sizes, sequence lengths."""
    axes: list[Array] = [np.arange(len(grid.models)), *map(np.asarray, grid.sweep.values())]
    axes += [np.asarray(grid.batch), np.asarray(grid.seq_len)]
    names = ["model", *grid.sweep, "batch", "seq_len"]
    values = product([{name: each} for name, each in zip(names, axes, strict=True)])
    return Points(values.pop("model"), values.pop("seq_len"), values.pop("batch"), values)


@dataclass(frozen=True)
class DesignResult:
    """A design at all points of a grid: swept and derived values, an evaluation a kernel.

    The points are flat, and so are all arrays that say something of them. `unmet` says for each
    point which rule of the spec could not be met there, or is None.
    `failed` says whether there are points that cannot even be placed; `refusal` is the error of a
    design that can be placed at none.
    """

    design: Design
    points: Points
    values: dict[str, Array]
    kernels: dict[str, Evaluation]
    unmet: Array
    failed: bool = False
    refusal: InputError | None = None

    def reasons(self, kernel: str) -> Array:
        """Why each point cannot be, or None."""
        infeasible = self.kernels[kernel].infeasible
        return np.where(infeasible == None, self.unmet, infeasible)  # noqa: E711  (elementwise)


def evaluate_design(grid: Grid, design: Design, accounting: str) -> DesignResult:
    """Evaluate a design at all points of a grid.

    Points that a mapper or the shape of the cascade refuses are infeasible, with that reason.
    Raises `InputError` where an expression of the spec has no value at any point.
    """
    found = evaluate_points(grid, design, points_of(grid), accounting)
    error = found.refusal
    if error is None:
        return found
    if error.place is not None and error.place.line is not None:  # an expression of the spec
        raise error
    refusal = InputError(error.message, design.place, allowed=error.allowed, found=error.found)
    return replace(found, refusal=refusal)


def evaluate_together(grid: Grid, design: Design, points: Points, accounting: str) -> DesignResult:
    """A design at points in one call. Raises `InputError` when one of them cannot be placed.

    Those of a whole grid are placed as such where the mapper takes them so, else one by one.
    """
    if not mappers.takes_grids(design.mapper) or "network" in grid.kernels:
        points = points.flat
    values, unmet = settled(grid, design, points, accounting)
    kernels = _kernels(grid, design, points, accounting, values)
    return DesignResult(
        design,
        points.flat,
        {name: np.broadcast_to(v, points.shape).reshape(-1) for name, v in values.items()},
        {kernel: found.flat(points.shape) for kernel, found in kernels.items()},
        unmet.reshape(-1),
    )


def evaluate_points(
    grid: Grid,
    design: Design,
    points: Points,
    accounting: str,
    together: Callable[[Grid, Design, Points, str], DesignResult] = evaluate_together,
) -> DesignResult:
    """The same at any points over the axes of a grid, of which none stops the others.

    Those for which `together` fails are rows with its message; where it fails for all of them,
    the first error is the `refusal`.
    """
    count = len(points)
    if not count:
        return _nowhere(grid, design, points, np.full(0, None, dtype=object))
    try:
        return together(grid, design, points, accounting)
    except InputError as error:
        first = error
    points = points.flat

    def failure(chosen: Array) -> InputError | None:
        try:
            together(grid, design, points[chosen], accounting)
        except InputError as error:
            return error
        return None

    # a message may quote an array: a flat one, as those of parts do
    first = failure(np.arange(count)) or first
    reasons = np.full(count, None, dtype=object)
    for chosen, refused in refused_points(points, np.arange(count), first, failure):
        reasons[chosen] = refused.message
    good = reasons == None  # noqa: E711  (elementwise)
    if not good.any():
        return replace(_nowhere(grid, design, points, reasons), failed=True, refusal=first)
    found = together(grid, design, points[good], accounting)
    return replace(_among_all(found, points, good, reasons), failed=True)


def refused_points(
    points: Points, chosen: Array, error: InputError, attempt: Callable[[Array], InputError | None]
) -> Iterator[tuple[Array, InputError]]:
    """The points among `chosen` that fail, part by part; `error` is how all of them together do.

    Points fail together when one of them does, and a message names the values that are at fault.
    So an axis along which every value fails with the same message has nothing to do with it, and
    where that is so of all axes, all points fail. A part that fails otherwise along an axis is
    split into the values of that axis: the calls are as many as there are causes, not points.
    """
    for axis in points.axes:
        values = axis[chosen]
        parts = [chosen[values == value] for value in dict.fromkeys(values.tolist())]
        failures = (attempt(part) for part in parts)
        if len(parts) == 1 or all(f is not None and f.message == error.message for f in failures):
            continue
        for part in parts:
            failed = attempt(part)
            if failed is not None:
                yield from refused_points(points, part, failed, attempt)
        return
    yield chosen, error


def _among_all(found: DesignResult, points: Points, good: Array, reasons: Array) -> DesignResult:
    """What was found for the good points, among all points: the others have their reasons."""

    def spread(values: Any, missing: Any = None) -> Any:
        if isinstance(values, Mapping):
            return {key: spread(value) for key, value in values.items()}
        text = np.asarray(values).dtype == object
        full = np.full(len(points), missing if text else np.nan, object if text else np.float64)
        full[good] = values
        return full

    def whole(evaluation: Evaluation) -> Evaluation:
        changed = {f.name: spread(getattr(evaluation, f.name), "") for f in fields(evaluation)}
        infeasible = np.where(good, spread(evaluation.infeasible), reasons)
        return Evaluation(**changed | {"infeasible": infeasible})

    values = spread(found.values) | points.swept
    unmet = np.where(good, spread(found.unmet), reasons)
    kernels = {kernel: whole(evaluation) for kernel, evaluation in found.kernels.items()}
    return DesignResult(found.design, points, values, kernels, unmet)


def _nowhere(grid: Grid, design: Design, points: Points, reasons: Array) -> DesignResult:
    """A design at points of which none can be placed: reasons alone."""
    nothing = np.full(len(points), np.nan)
    evaluation = Evaluation(
        latency_s=nothing,
        compute_s=nothing,
        traffic_bytes=nothing,
        energy_pj=nothing,
        area_um2=nothing,
        latency_terms_s={},
        busy_s={},
        energy_terms_pj={},
        slot_seconds={},
        traffic_by_tensor_bytes={},
        lower_bound_bytes=nothing,
        infeasible=reasons,
        mapping_notes=np.full(len(points), "", dtype=object),
    )
    values = points.swept | dict.fromkeys(grid.derive, nothing)
    return DesignResult(design, points, values, dict.fromkeys(grid.kernels, evaluation), reasons)


def extents_at(grid: Grid, points: Points) -> dict[str, Array]:
    """Extents of the models and of the workload at each point."""
    table = {
        name: np.array([getattr(model, name) for model in grid.models])[points.model]
        for name in ("D", "H", "G", "E", "F", "S")
    }
    queries = points.seq_len if grid.queries == "seq_len" else np.asarray(grid.queries)
    return table | {
        "B": points.batch,
        "M": points.seq_len,
        "N": points.seq_len,
        "TOKENS": points.seq_len,
        "P": queries,
    }


def settled(
    grid: Grid, design: Design, points: Points, accounting: str
) -> tuple[dict[str, Array], Array]:
    """Swept values, then derived ones in the order of the spec; what grows, until it holds.

    Beside them, for each point, the rule that never held there, or None.
    """
    values: dict[str, Array] = dict(points.swept)
    unmet = np.full(points.shape, None, dtype=object)
    for name, rule in grid.derive.items():
        grows = isinstance(rule, GrowSchema)
        formula = rule.start if grows else rule
        value = _of(formula, names_at(grid, design, points, values), grid, name)
        _check_derived(name, value, grid)
        if grows:
            value, missed = _grown(grid, design, points, accounting, values, name, rule, value)
            text = f"{rule.double_until.text!r} does not hold after {rule.at_most} doublings"
            unmet[missed] = f"{text} of {name}"
        values[name] = value
    return values, unmet


def _check_derived(name: str, value: Array, grid: Grid) -> None:
    """Hardware is made of positive numbers; an extent is checked where it is used."""
    if name.startswith("arch.") and np.any(value <= 0):
        raise InputError(f"{float(np.min(value)):g} is not positive", grid.places[name])


def _of(rule: Expression, names: dict[str, Any], grid: Grid, name: str) -> Array:
    try:
        return np.asarray(rule.evaluate(names))
    except InputError as error:
        raise InputError(
            error.message, grid.places[name], allowed=error.allowed, found=error.found
        ) from None


def names_at(
    grid: Grid, design: Design, points: Points, values: dict[str, Array]
) -> dict[str, Any]:
    """What an expression may use: extents, values so far (also by their last part), parameters."""
    architecture = design_architecture(design, values)
    names: dict[str, Any] = dict(architecture.parameters)
    names |= extents_at(grid, points)
    for name, value in values.items():
        names[name.removeprefix("arch.").removeprefix("shape.")] = value
        names[name] = value
    return names


def _grown(
    grid: Grid,
    design: Design,
    points: Points,
    accounting: str,
    values: dict[str, Array],
    name: str,
    rule: GrowSchema,
    start: Array,
) -> tuple[Array, Array]:
    """The first of start, 2 start, 4 start, ... at which the comparison holds, for each point.

    Beside it, the points at which it never does: they are rows with a reason, not the run's end.
    """
    value = np.broadcast_to(np.asarray(start, dtype=np.float64), points.shape).copy()
    open_points = np.ones(points.shape, dtype=bool)
    for doubling in range(rule.at_most + 1):
        trial = {**values, name: value}
        found = _attention(grid, design, points, accounting, trial)
        names = {**names_at(grid, design, points, trial), **result_names(found)}
        feasible = ~np.isnan(found.latency_s)
        holds = np.zeros(points.shape, dtype=bool)
        filled = {k: np.nan_to_num(np.asarray(v, dtype=np.float64)) for k, v in names.items()}
        holds |= feasible & np.asarray(_of(rule.double_until, filled, grid, name), dtype=bool)
        open_points &= ~holds
        if doubling == rule.at_most or not open_points.any():
            break
        value = np.where(open_points, value * 2, value)
    return value, open_points


def result_names(evaluation: Evaluation) -> dict[str, Array]:
    """The figures of an evaluation by the names of their columns."""
    columns: dict[str, Array] = {
        "latency_s": evaluation.latency_s,
        "traffic_bytes": evaluation.traffic_bytes,
        "energy_pj": evaluation.energy_pj,
        "area_um2": evaluation.area_um2,
    }
    columns |= {f"busy_{name.lower()}_s": v for name, v in evaluation.busy_s.items()}
    columns |= {f"latency_{name.lower()}_s": v for name, v in evaluation.latency_terms_s.items()}
    columns |= {f"energy_{name.lower()}_pj": v for name, v in evaluation.energy_terms_pj.items()}
    columns |= {f"util_{array}": v for array, v in evaluation.util.items()}
    columns |= {f"util_{a}.{einsum}": v for (a, einsum), v in evaluation.util_by_einsum.items()}
    columns["lower_bound_bytes"] = evaluation.lower_bound_bytes
    columns["compute_s"] = evaluation.compute_s
    columns |= {name.lower(): need for name, need in evaluation.resources.items()}
    return columns


def design_architecture(design: Design, values: dict[str, Array]) -> Architecture:
    """The architecture of a design, with swept and derived values in it."""
    overrides = {
        name.removeprefix("arch."): value
        for name, value in values.items()
        if name.startswith("arch.")
    }
    return design.architecture.resolve(overrides, design.place)


def _attention(
    grid: Grid, design: Design, points: Points, accounting: str, values: dict[str, Array]
) -> Evaluation:
    mapping = attention_mapping(grid, design, points, values)
    return evaluate(mapping, accounting)  # type: ignore[arg-type]


def attention_mapping(
    grid: Grid, design: Design, points: Points, values: dict[str, Array]
) -> PlacedMapping:
    """How a design places its cascade at points, swept and derived values settled."""
    architecture, shape = attention_problem(grid, design, points, values)
    return mappers.place(
        design.mapper,
        design.options,
        cascade=design.cascade,
        architecture=architecture,
        shape=shape,
    )


def attention_problem(
    grid: Grid, design: Design, points: Points, values: dict[str, Array]
) -> tuple[Architecture, dict[str, Array]]:
    """On what, and with which extents, a design places its cascade at points."""
    cascade = design.cascade
    own = own_extents(cascade)
    symbols: dict[str, Any] = {
        k: v for k, v in extents_at(grid, points).items() if k not in own and k != "S"
    }
    names = names_at(grid, design, points, values) if design.schema.shape else {}
    for rank, rule in design.schema.shape.items():
        symbols[rank] = _extent(rank, rule.evaluate(names), design.place)
    for name, value in values.items():
        if name.startswith("shape."):
            rank = name.removeprefix("shape.")
            symbols[rank] = _extent(rank, value, grid.places[name])
    known = {k: v for k, v in symbols.items() if k in cascade.ranks or k in cascade.parameters}
    if points.is_flat:  # each extent at each point, for a mapper that goes from one to the next
        known = {k: np.broadcast_to(v, points.shape) for k, v in known.items()}
    return design_architecture(design, values), known


def _extent(rank: str, value: Array, place: Place) -> Array:
    wrong = (value < 1) | (value > LARGEST) | (value != np.floor(value))
    if np.any(wrong):
        found = float(np.extract(wrong, value)[0])
        raise InputError(
            f"extent {rank!r} must be a whole number from 1 to {LARGEST}, found {found:g}", place
        )
    return value


def _kernels(
    grid: Grid, design: Design, points: Points, accounting: str, values: dict[str, Array]
) -> dict[str, Evaluation]:
    result = {}
    if {"attention", "encoder"} & set(grid.kernels):
        result["attention"] = attention = _attention(grid, design, points, accounting, values)
    if "network" in grid.kernels:
        architecture = design_architecture(design, values)
        result["network"] = network_evaluation(grid, design, points, architecture, accounting)
    if "encoder" in grid.kernels:
        architecture = design_architecture(design, values)
        linear = linear_evaluation(grid, architecture, points, accounting, design)
        result["encoder"] = combine([attention, linear])
    return {kernel: result[kernel] for kernel in grid.kernels}


@lru_cache(maxsize=1)
def _linear_cascade() -> Cascade:
    return workloads.cascade(LINEAR)


def linear_evaluation(
    grid: Grid,
    architecture: Architecture,
    points: Points,
    accounting: str,
    design: Design | None = None,
) -> Evaluation:
    """The linear layers of an encoder layer, one after the other, each with its best mapping."""
    mapping = linear_mapping(grid, architecture, points, design)
    found = evaluate(mapping, accounting)  # type: ignore[arg-type]
    return combine([found[i] for i in range(len(found.latency_s))])


def linear_mapping(
    grid: Grid, architecture: Architecture, points: Points, design: Design | None = None
) -> PlacedMapping:
    """How the linear layers are placed: design points are [layer, *points].

    By the design's mapper if that places all kernels, else each by a search of its own.
    """
    own = design is not None and mappers.places_networks(design.mapper)
    mapper = design.mapper if design is not None and own else LINEAR_MAPPER
    options = design.options if design is not None and own else mappers.check_options(mapper, {})
    layers = [linear_layers(model) for model in grid.models]  # [model][layer]
    inputs = np.array([[layer.K for layer in each] for each in layers]).T
    outputs = np.array([[layer.N for layer in each] for each in layers]).T
    rows = points.batch * points.seq_len
    return mappers.place(
        mapper,
        options,
        cascade=_linear_cascade(),
        architecture=architecture,
        shape={"R": rows[None], "K": inputs[:, points.model], "N": outputs[:, points.model]},
    )
