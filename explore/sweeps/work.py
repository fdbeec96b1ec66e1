"""Evaluating a chunk: conditions, then all its points in one call, then a table of numbers."""

from __future__ import annotations

import copyreg
import io
import pickle
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from archs.resources import RESOURCES
from einsum_cascade.expression import Expression
from einsum_cascade.source import InputError
from explore.evaluate import (
    DesignResult,
    evaluate_points,
    evaluate_together,
    extents_at,
    names_at,
)
from explore.points import Points
from explore.results import FIRST, figures_of, numbers
from explore.schema import GrowSchema
from explore.spec import Design, Grid
from explore.sweeps.former import about, rows_there
from explore.sweeps.keys import code_version
from explore.sweeps.space import Array, Chunk
from explore.sweeps.units import Unit, early_names

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Job:
    """A chunk to evaluate: `unit` is what `packed` made of one, `best` what progress asks for.

    `former` are files of parts that hold points of the same `context`, maybe some of the chunk.
    """

    key: str
    unit: bytes
    chunk: Chunk
    context: str
    best: str = "latency_s"
    former: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Done:
    """A part: the bytes of its file, its rows, how many are feasible, the best of them.

    Of its points, `known` were in parts of former specs and `evaluated` were not.
    """

    key: str
    data: bytes
    known: int
    evaluated: int
    rows: int
    feasible: int
    best: tuple[float, str] | None


def _proxied(items: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(items)


def packed(unit: Unit) -> bytes:
    """A unit as bytes that go to other processes."""
    # cascades hold read-only views of dictionaries, which pickle does not know
    copyreg.pickle(MappingProxyType, lambda view: (_proxied, (dict(view),)))
    return pickle.dumps((code_version(), pickle.dumps(unit)))


@lru_cache(maxsize=16)
def _unpacked(data: bytes) -> Unit:
    """The unit, in a process of the same program: another would file its results under our keys."""
    version, inner = pickle.loads(data)
    if version != code_version():
        raise InputError(
            f"a worker on {platform.node()} has another version of this program or of NumPy: "
            "install the same there"
        )
    unit: Unit = pickle.loads(inner)
    return unit


def work(job: Job) -> Done:
    """Evaluate a chunk, in whatever process."""
    unit = _unpacked(job.unit)
    table = table_of(unit, job.chunk, job.former)
    rows = table.rows
    # the reason of a point that failed may name others that failed with it: its rows stay here
    metadata = about(unit, job.context, rows) if not table.failed else {}
    stream = io.BytesIO()
    rows.write_parquet(stream, compression="zstd", compression_level=1, metadata=metadata)
    return Done(
        key=job.key,
        data=stream.getvalue(),
        known=table.known,
        evaluated=table.evaluated,
        rows=rows.height,
        feasible=rows["reason"].null_count(),
        best=_best(rows, job.best),
    )


def _best(table: pl.DataFrame, by: str) -> tuple[float, str] | None:
    import polars as pl

    value = pl.col("latency_s") * pl.col("energy_pj") if by == "edp" else pl.col(by)
    found = table.select(value.alias("by"), "design").drop_nulls()
    if found.is_empty():
        return None
    number, design = found.row(int(found["by"].arg_min() or 0))
    return number, design


@dataclass(frozen=True)
class Table:
    """The rows of points: how many were known, how many evaluated, and whether some failed."""

    rows: pl.DataFrame
    known: int
    evaluated: int
    failed: bool


def table_of(unit: Unit, chunk: Chunk, former: Sequence[bytes] = ()) -> Table:
    """The rows of a chunk: a kernel after the other, points in their order.

    Points that files of `former` parts hold are not evaluated, except beside one that fails.
    """
    points = unit.points(chunk)
    kept = allowed(unit, points)
    if not kept.all():
        points = points[kept]
    if former and len(points):
        table = _completed(unit, points, former)
        if not table.failed:
            return table
    result = _evaluated(unit, points)
    return Table(_rows(unit, result), 0, len(points), result.failed)


def _completed(unit: Unit, points: Points, former: Sequence[bytes]) -> Table:
    """The rows of points of which some are known, the others evaluated."""
    import polars as pl

    nothing = _rows(unit, _evaluated(unit, points[np.arange(0)]))
    there = rows_there(unit, points, former, nothing)
    new = np.ones(len(points), dtype=bool)
    new[there["_at"].to_numpy()] = False
    result = _evaluated(unit, points[new])
    at = np.tile(np.flatnonzero(new), len(result.kernels))
    rows = _rows(unit, result).with_columns(pl.Series("_at", at, there.schema["_at"]))
    order = pl.col("kernel").replace_strict({k: i for i, k in enumerate(result.kernels)})
    both = pl.concat([there, rows]).sort(order, "_at").select(nothing.columns)
    evaluated = int(new.sum())
    return Table(both.rechunk(), len(points) - evaluated, evaluated, result.failed)


def allowed(unit: Unit, points: Points) -> Array:
    """The points that meet all conditions of the spec; others are no points of the sweep.

    Conditions on what is swept go first, so that a derived value that has none elsewhere does no
    harm. Where a derived value has none, the point stays: the evaluation says why.
    """
    kept = np.ones(len(points), dtype=bool)
    early = early_names(points.swept)
    first = [rule for rule in unit.sampling.require if rule.names <= early]
    later = [rule for rule in unit.sampling.require if not rule.names <= early]
    if first:
        symbols = _early(unit, points)
        for rule in first:
            kept &= _holds(rule, symbols, points)
    if later and kept.any():
        index = np.flatnonzero(kept)
        kept[index] = _later(unit, points[index], later)
    return kept


def _early(unit: Unit, points: Points) -> dict[str, Any]:
    names: dict[str, Any] = dict(extents_at(unit.grid, points))
    names |= {"seq_len": points.seq_len, "batch": points.batch}
    for name, values in points.swept.items():
        names[name] = names[name.removeprefix("arch.").removeprefix("shape.")] = values
    return names


def _holds(rule: Expression, names: Mapping[str, Any], points: Points) -> Array:
    """Whether a condition holds, for each of the flat points."""
    holds = np.asarray(rule.evaluate(names), dtype=bool)
    return np.broadcast_to(holds, points.shape).reshape(-1)


def _later(unit: Unit, points: Points, rules: list[Expression]) -> Array:
    """Where conditions hold that need derived values or parameters of the architecture."""
    try:
        values: dict[str, Array] = dict(points.swept)
        for name, rule in unit.grid.derive.items():
            if not isinstance(rule, GrowSchema):
                values[name] = rule.evaluate(names_at(unit.grid, unit.design, points, values))
        names = names_at(unit.grid, unit.design, points, values)
        names |= {f"arch.{n}": v for n, v in names.items() if f"arch.{n}" not in names}
        names |= _early(unit, points)
        holds = [_holds(rule, names, points) for rule in rules]
        return np.asarray(np.all(holds, axis=0))
    except InputError:
        if len(points) == 1:
            return np.ones(1, dtype=bool)
    half = len(points) // 2
    halves = (points[np.arange(half)], points[np.arange(half, len(points))])
    return np.concatenate([_later(unit, each, rules) for each in halves])


def _evaluated(unit: Unit, points: Points) -> DesignResult:
    """A design at points; one at which the program itself fails is a row like any other."""
    return evaluate_points(unit.grid, unit.design, points, unit.accounting, _together)


def _together(grid: Grid, design: Design, points: Points, accounting: str) -> DesignResult:
    try:
        return evaluate_together(grid, design, points, accounting)
    except (InputError, MemoryError, OSError):
        raise
    except Exception as error:  # a slip of the program at some point must not lose the others
        text = " ".join(str(error).split())
        raise InputError(f"internal error: {type(error).__name__}: {text}") from error


def _rows(unit: Unit, result: DesignResult) -> pl.DataFrame:
    import polars as pl

    points, grid = result.points, unit.grid
    models = pl.Series([model.name for model in grid.models], dtype=pl.String)
    asked = unit.sampling.columns
    kept = None if asked == "all" else _kept(unit)
    frames = []
    for kernel in result.kernels:
        whole: dict[str, str | None] = {
            "family": grid.family, "design": result.design.name, "kernel": kernel, **unit.labels
        }  # fmt: skip
        columns: dict[str, Any] = {"model": models.gather(points.model)}
        columns |= {"batch": points.batch, "seq_len": points.seq_len}
        columns |= {name: numbers(values) for name, values in result.values.items()}
        columns |= figures_of(result, kernel, kept)
        shared = [pl.lit(text, dtype=pl.String).alias(name) for name, text in whole.items()]
        frame = pl.DataFrame(columns).with_columns(shared)
        frames.append(frame.select(*whole, pl.exclude(*whole)))
    return pl.concat(frames, how="diagonal")


def _kept(unit: Unit) -> list[str]:
    """The figures that a sweep keeps: the first ones, resources, and what the spec asks for."""
    on_device = unit.design.architecture.schema.device is not None
    resources = [name.lower() for name in RESOURCES] if on_device else []
    names = dict.fromkeys((*FIRST[1:], *resources, *unit.sampling.columns))
    return [name for name in names if name not in ("design", "bottleneck", "reason")]
