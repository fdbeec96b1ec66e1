"""The units of a sweep: one design with one choice of everything that is not a number, its axes."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import mappers
from einsum_cascade.source import Document, InputError, Place
from explore.points import Points
from explore.schema import LARGEST, GrowSchema
from explore.spec import EXTENTS, Design, Experiment, Grid, check_paths, check_queries
from explore.sweeps.block import CHOICES, Range, SamplingSchema, Values, check_units
from explore.sweeps.space import (
    Array,
    Axis,
    Block,
    Chunk,
    axis,
    blocks,
    draws,
    grid_at,
    grid_size,
    values_at,
)

WORKLOAD = ("model", "seq_len", "batch")
MOST_POINTS = 10**12


@dataclass(frozen=True)
class Unit:
    """A design at the points over its axes.

    `labels` are the columns that all its points share: `queries`, the device and options of
    the mapper that the sweep varies.
    """

    grid: Grid
    design: Design
    labels: Mapping[str, Any]
    axes: tuple[Axis, ...]
    sampling: SamplingSchema
    accounting: str

    def points(self, chunk: Chunk) -> Points:
        """The points of a chunk; those of a grid as a product."""
        axes = self.axes
        values = grid_at(axes, chunk) if isinstance(chunk, Block) else values_at(axes, chunk)
        model, seq_len, batch = (values.pop(name).astype(np.int64) for name in WORKLOAD)
        return Points(model, seq_len, batch, values)

    @property
    def size(self) -> int:
        """Points before the conditions."""
        if self.sampling.points is None:
            return int(grid_size(self.axes))
        return int(min(self.sampling.points, self._distinct))

    @property
    def _distinct(self) -> float:
        return grid_size(self.axes) if self.sampling.kind == "random" else float("inf")

    def chunks(self) -> Iterator[Chunk]:
        """All points in chunks, in order. A search chooses its own."""
        kind, most = self.sampling.kind, self.sampling.chunk
        if kind in ("random", "latin-hypercube"):
            yield from draws(kind, self.sampling.seed, self.size, most)
        else:
            yield from blocks(self.axes, most)

    @property
    def parameters(self) -> list[str]:
        """The columns that tell its points apart, in the order of the axes."""
        return [name for each in self.axes for name in each.values if name not in WORKLOAD]


def units(experiment: Experiment) -> list[Unit]:
    """The units of a sweep, in the order of the spec. Raises `InputError` for what cannot be."""
    sampling = experiment.schema.sampling or SamplingSchema()
    document = experiment.document
    place = document.place("sampling")
    if len(experiment.grids) > 1 and sampling.kind != "grid":
        raise InputError(
            f"families are swept as grids, not as {sampling.kind}: give them a spec of their own",
            document.place("families"),
        )
    found = []
    for grid in experiment.grids:
        main = grid.family is None
        together = _list(experiment, sampling, grid) if main and sampling.list_ else {}
        extra = {n: v for n, v in sampling.axes.items() if main}
        axes = _axes(document, grid, together, extra, sampling)
        swept = {n for each in axes for n in each.values if n not in WORKLOAD}
        places = dict.fromkeys(swept, place) | grid.places
        bare = replace(grid, sweep={name: [1.0] for name in swept}, places=places)
        check_paths(bare)
        for design in grid.designs:
            _check_conditions(document, sampling, bare, design)
            for labels, chosen, queries in _choices(document, design, extra, grid):
                own = replace(bare, designs=(chosen,), queries=queries, sweep={})
                lengths = np.concatenate(
                    [a.values["seq_len"] for a in axes if "seq_len" in a.values]
                )
                check_queries(document, replace(own, seq_len=tuple(lengths.tolist())), chosen)
                unit = Unit(
                    own, chosen, labels, axes, sampling, experiment.schema.energy.accounting
                )
                if sampling.points is None and grid_size(axes) > MOST_POINTS:
                    raise InputError(
                        f"a grid of {grid_size(axes):.3g} points is too many: draw some of them, "
                        "as in sampling: {kind: random, points: 1M}",
                        place if experiment.schema.sampling else document.place("sweep"),
                    )
                found.append(unit)
    return found


def refuse_sampling(experiment: Experiment) -> None:
    """Raise `InputError` for a spec that is a sweep where all points are taken at once."""
    document = experiment.document
    if experiment.schema.sampling is not None:
        raise InputError(
            "a spec with sampling is a sweep: explore sweep SPEC", document.place("sampling")
        )
    for grid in experiment.grids:
        for name, values in grid.sweep.items():
            if isinstance(values, Range) and not values.has_levels:
                raise InputError("a range has steps: {from: 1, to: 9, steps: 3}", grid.places[name])


def _axes(
    document: Document,
    grid: Grid,
    together: Mapping[str, Array],
    extra: Mapping[str, Any],
    sampling: SamplingSchema,
) -> tuple[Axis, ...]:
    """Axes, outermost first: those of a list, models, what the spec sweeps, batch, length."""
    lists: dict[str, Sequence[Any]] = {"model": range(len(grid.models)), **grid.sweep}
    for name, values in extra.items():
        if name in CHOICES or name.startswith("mapper."):
            continue
        if name not in ("seq_len", "batch"):
            raise InputError(
                f"unknown axis {name!r}: numbers of the architecture and extents stand under sweep",
                document.place("sampling", "axes", name),
                allowed=["seq_len", "batch", *CHOICES, "mapper.OPTION"],
                found=name,
            )
        lists[name] = _whole(values, document.place("sampling", "axes", name))
    for name, default in (("batch", grid.batch), ("seq_len", grid.seq_len)):
        lists[name] = lists.pop(name, list(default))
    for name, each in lists.items():
        is_open = isinstance(each, Range) and not each.has_levels
        if is_open and sampling.kind in ("grid", "list"):
            where = grid.places.get(name, document.place("sampling", "axes", name))
            raise InputError(
                "a range has steps in a grid, as in {from: 1, to: 9, steps: 3}; without them, "
                "points can be drawn: sampling: {kind: random, points: 1K}",
                where,
            )
    rest = [axis(name, values) for name, values in lists.items() if name not in together]
    return ((Axis(together),) if together else ()) + tuple(rest)


def _whole(values: Sequence[Any], place: Place) -> Sequence[float]:
    """Lengths and batch sizes are whole numbers."""
    from pydantic import TypeAdapter, ValidationError

    if isinstance(values, Range):
        span = Range(values.low, values.high, values.steps, values.log, integer=True)
        numbers: Sequence[float] = [span.low, span.high]
    else:
        try:
            numbers = span = TypeAdapter(Values).validate_python(values)  # type: ignore[assignment]
        except ValidationError:
            raise InputError("numbers are expected", place) from None
    wrong = [v for v in numbers if v != int(v) or not 1 <= v <= LARGEST]
    if wrong:
        raise InputError(f"a whole number up to {LARGEST} is expected, found {wrong[0]:g}", place)
    return span


def _choices(
    document: Document, design: Design, extra: Mapping[str, Any], grid: Grid
) -> Iterator[tuple[dict[str, Any], Design, Any]]:
    """The design with every combination of the mapper's options, devices, numbers of queries."""
    base, axes = Path(document.file).parent, document.place("sampling", "axes")
    names = [n for n in extra if n.startswith("mapper.") or n in CHOICES]
    given = design.schema.mapper
    for values in product(*(extra[name] for name in names)):
        labels: dict[str, Any] = {}
        queries: Any = grid.queries
        chosen = design
        options = dict(given) if isinstance(given, dict) else {}
        for name, value in zip(names, values, strict=True):
            place = document.place("sampling", "axes", name)
            if name == "queries":
                queries = value if value == "seq_len" else int(_whole([value], place)[0])
                labels[name] = queries if value == "seq_len" else str(queries)
            elif name == "device":
                other = design.architecture.on_device(value, base, place)
                chosen = replace(chosen, architecture=other)
                labels[name] = other.schema.device["name"]
            else:
                options[name.removeprefix("mapper.")] = value
                labels[name] = str(value)
        if any(name.startswith("mapper.") for name in names):
            own = {k: v for k, v in options.items() if k != "name"}
            try:
                checked = mappers.check_options(design.mapper, own, base=base)
            except InputError as error:
                message = f"mapper {design.mapper!r} of design {design.name!r}: {error.message}"
                raise InputError(message, axes, allowed=error.allowed, found=error.found) from None
            chosen = replace(chosen, options=checked)
        yield labels, chosen, queries


_NUMBERS = re.compile(r"(arch|shape)\..+|seq_len|batch")


def _list(experiment: Experiment, sampling: SamplingSchema, grid: Grid) -> dict[str, Array]:
    """The points of a list: an array for each name that its entries give."""
    document = experiment.document
    rows, place_of = _rows(document, sampling)
    names = list(rows[0])
    models = {model.name: i for i, model in enumerate(grid.models)}
    columns: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        if name != "model" and not _NUMBERS.fullmatch(name):
            raise InputError(
                f"a point of a list has no {name!r}",
                place_of(0),
                allowed=["model", "seq_len", "batch", "arch.PARAMETER", "shape.RANK"],
                found=name,
            )
    for i, row in enumerate(rows):
        if set(row) != set(names):
            odd = sorted(set(row) ^ set(names))[0]
            raise InputError(
                f"all points of a list give the same values: {odd!r} is missing in some",
                place_of(i), allowed=names, found=odd,
            )  # fmt: skip
        for name, value in row.items():
            if name == "model":
                if value not in models:
                    raise InputError(
                        f"unknown model {value!r}", place_of(i), allowed=models, found=value
                    )
                columns[name].append(models[value])
            else:
                columns[name].append(_number(name, value, place_of(i)))
    points = list(dict.fromkeys(zip(*columns.values(), strict=True)))
    return {name: np.asarray(each) for name, each in zip(names, zip(*points), strict=True)}  # noqa: B905


def _number(name: str, value: Any, place: Place) -> float:
    from pydantic import TypeAdapter, ValidationError

    if name in ("seq_len", "batch"):
        return _whole([value], place)[0]
    try:
        check_units(name, value)
        return float(TypeAdapter(Values).validate_python([value])[0])
    except InputError as error:
        raise InputError(error.message, place) from None
    except ValidationError:
        raise InputError(f"{name} must be a number, found {value!r}", place) from None


def _rows(document: Document, sampling: SamplingSchema) -> tuple[list[dict[str, Any]], Any]:
    """The entries of a list, and where each stands."""
    given = sampling.list_
    if isinstance(given, list):
        if not all(given):
            raise InputError("a point without values", document.place("sampling", "list"))
        return given, lambda i: document.place("sampling", "list", i)
    file = Path(document.file).parent / str(given)
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        place = document.place("sampling", "list")
        raise InputError(f"{str(file)!r} cannot be read: {reason}", place) from None
    if not rows:
        raise InputError("no points: a line of names, and one for each point", Place(str(file)))
    for i, row in enumerate(rows):
        if None in row or None in row.values():
            raise InputError("more or fewer values than names", Place(str(file), i + 2))
    return rows, lambda i: Place(str(file), i + 2)


def _check_conditions(
    document: Document, sampling: SamplingSchema, grid: Grid, design: Design
) -> None:
    """Every name of a condition stands for something that is known before a point is evaluated."""
    known = known_before(grid, design)
    for i, rule in enumerate(sampling.require):
        listed = isinstance(document.part("sampling").data.get("require"), list)
        place = document.place("sampling", "require", *([i] if listed else []))
        for name in sorted(rule.names - known):
            raise InputError(
                f"unknown name {name!r} in {rule.text!r}", place, allowed=sorted(known), found=name
            )


def known_before(grid: Grid, design: Design) -> set[str]:
    """Names that a condition may use: extents, parameters, swept and derived values."""
    parameters = design.architecture.parameters()
    names = {*early_names(grid.sweep), *parameters}
    names |= {f"arch.{name}" for name in parameters}
    for name, rule in grid.derive.items():
        if isinstance(rule, GrowSchema):  # settled by results, which a condition is to save
            names -= {name, name.removeprefix("arch.")}
        else:
            names |= {name, name.removeprefix("arch.").removeprefix("shape.")}
    return names


def early_names(swept: Iterable[str]) -> set[str]:
    """Names whose values are known without the architecture: extents, and what is swept."""
    bare = {name.removeprefix("arch.").removeprefix("shape.") for name in swept}
    return {*EXTENTS, "seq_len", "batch", *swept, *bare}
