"""The mappings of single design points: found, drawn, written to files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import mappers
from archs import Architecture
from einsum_cascade.source import InputError
from explore.evaluate import attention_problem, points_of, settled
from explore.levels import Selection, first_of_each, narrowed
from explore.plots.figure import Figure, Line, LinePanel
from explore.plots.front import scaled, short
from explore.spec import Design, Experiment, Grid
from mappers.written import write_mapping
from sim import Evaluation, evaluate
from sim.single import single_point

if TYPE_CHECKING:
    from sim import Mapping as PlacedMapping

COLUMNS = ("latency_s", "energy_pj", "traffic_bytes", "buffer_bytes")
FORMS = (".pdf", ".svg", ".png")


@dataclass(frozen=True)
class PointMappings:
    """The mappings of a design at one point, best or smallest in the first of `columns` first.

    `costs` has a row a mapping. Without any there is a `reason`. `interrupted`: they are the best
    so far.
    """

    design: Design
    where: str
    architecture: Architecture
    shape: Mapping[str, Any]
    mappings: tuple[PlacedMapping, ...]
    evaluations: tuple[Evaluation, ...]
    columns: tuple[str, ...]
    costs: Any
    reason: str | None = None
    interrupted: bool = False

    def written(self, number: int) -> str:
        """The file of one of the mappings."""
        name = self.design.name + (f" {number + 1}" if len(self.mappings) > 1 else "")
        return write_mapping(self.mappings[number], name, self.design.cascade, self.shape)


def mappings_of(
    experiment: Experiment, chosen: Selection, columns: Sequence[str] = ()
) -> Iterator[PointMappings]:
    """The mappings of the chosen designs, each at the first of the chosen points (and at all values
    of a sweep). With `columns`, all that none beats in these, of mappers that search for such.

    It is the design's own cascade that is placed, attention: a whole network has no one mapping.
    Raises `InputError` for a choice that the spec lacks, and for a front that a mapper cannot give.
    """
    grid = narrowed(experiment, first_of_each(experiment, chosen))
    for design in grid.designs:
        front = tuple(columns) or design.objectives
        if front and mappers.searching(design.mapper) is None:
            names = [n for n in mappers.list_mappers() if mappers.searching(n) is not None]
            raise InputError(
                f"design {design.name!r}: mapper {design.mapper!r} gives one mapping, no front",
                design.place,
                allowed=names,
            )
        points = points_of(grid)
        for at in range(len(points)):
            yield _at(experiment, grid, design, points[np.array([at])], front)


def _at(
    experiment: Experiment, grid: Grid, design: Design, point: Any, front: tuple[str, ...]
) -> PointMappings:
    values, unmet = settled(grid, design, point, experiment.schema.energy.accounting)
    architecture, shape = attention_problem(grid, design, point, values)
    architecture = architecture.with_numbers(lambda number: np.ravel(number)[0])
    shape = {rank: extent[0] for rank, extent in shape.items()}
    model = grid.models[int(point.model[0])].name
    swept = "".join(f", {k} = {short(float(v[0]))}" for k, v in point.swept.items())
    where = f"attention of {model}, {point.seq_len[0]} tokens, batch {point.batch[0]}{swept}"
    empty = PointMappings(design, where, architecture, shape, (), (), front, ())
    if unmet[0] is not None:
        return replace(empty, reason=unmet[0])
    search = mappers.searching(design.mapper)
    interrupted = False
    if search is None:
        each = {rank: np.array([extent]) for rank, extent in shape.items()}
        placed = mappers.place(
            design.mapper,
            design.options,
            cascade=design.cascade,
            architecture=architecture,
            shape=each,
        )
        found = (single_point(placed),)
    else:
        asked = (design.options, design.cascade, architecture, shape)
        answer = search.front(*asked, front) if front else search.optimum(*asked)
        found, interrupted = answer.mappings, answer.report.partial
    evaluations = tuple(
        evaluate(mapping, experiment.schema.energy.accounting)[0] for mapping in found
    )
    if evaluations[0].infeasible is not None:
        return replace(empty, reason=str(evaluations[0].infeasible))
    if search is not None and front:
        columns, costs = answer.columns, answer.costs
    else:
        columns = COLUMNS[:3]
        costs = np.array([[float(getattr(evaluations[0], column)) for column in columns]])
    return replace(
        empty,
        mappings=found,
        evaluations=evaluations,
        columns=columns,
        costs=costs,
        interrupted=interrupted,
    )


def changes_of(point: PointMappings) -> list[str]:
    """What would let something fit, the smallest change first; of mappers that search."""
    search = mappers.searching(point.design.mapper)
    if search is None:
        return []
    design = point.design
    found = search.changes(design.options, design.cascade, point.architecture, point.shape)
    return [str(change) for change in found]


def parse_columns(text: str) -> tuple[str, ...]:
    """The columns of a front, from words of a command line.

    >>> parse_columns("latency_s,energy_pj")
    ('latency_s', 'energy_pj')
    """
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in COLUMNS:
            raise InputError(f"--front: no column {name!r}", allowed=COLUMNS, found=name)
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError("--front takes two or more columns, each once", allowed=COLUMNS)
    return names


_LABELS = {
    "energy_pj": ("energy (J)", 1e-12),
    "traffic_bytes": ("DRAM traffic (B)", 1.0),
    "buffer_bytes": ("room on chip (B)", 1.0),
}


def front_figure(point: PointMappings, name: str) -> Figure:
    """The front of a design point in its first two columns, its mappings by their numbers."""
    factor, prefix = scaled([float(v) for v in point.costs[:, point.columns.index("latency_s")]]
                            if "latency_s" in point.columns else [1.0])  # fmt: skip
    labels = _LABELS | {"latency_s": (f"latency ({prefix}s)", factor)}
    (x_label, x_factor), (y_label, y_factor) = (labels[column] for column in point.columns[:2])
    x = tuple(float(v) * x_factor for v in point.costs[:, 0])
    y = tuple(float(v) * y_factor for v in point.costs[:, 1])
    names = tuple(str(i + 1) for i in range(len(x)))
    line = Line(point.design.name, x, y, names, (True,) * len(x))
    panel = LinePanel("", x_label, y_label, (line,), stepped=True, compact=True)
    return Figure(name, "curves", curves=((panel,),))


def check_form(file: Path) -> None:
    """Raises `InputError` unless a figure can be written to such a file."""
    if file.suffix not in FORMS:
        raise InputError(f"--figure: found {file.name!r}", allowed=FORMS, found=file.suffix)


def draw_point(point: PointMappings, file: Path, width: str) -> Path:
    """The mapping of a point as a figure, or of several the front."""
    from explore.plots.draw import draw
    from explore.plots.nest import draw_nest, nest_figure

    check_form(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    if len(point.mappings) == 1:
        return draw_nest(nest_figure(point.mappings[0], file.stem), file, width)
    kind = file.suffix.removeprefix(".")
    return draw(front_figure(point, file.stem), file.parent, width, [kind])[0]


__all__ = [
    "COLUMNS",
    "PointMappings",
    "changes_of",
    "check_form",
    "draw_point",
    "front_figure",
    "mappings_of",
    "parse_columns",
]
