"""Evaluating a chunk: conditions, then all its points in one call, then a table of numbers."""

from __future__ import annotations

import copyreg
import io
import pickle
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from einsum_cascade.expression import Expression
from einsum_cascade.source import InputError
from explore.evaluate import (
    DesignResult,
    _among_all,
    _nowhere,
    _refused,
    _symbols,
    evaluate_points,
    names_at,
    result_names,
)
from explore.points import Points
from explore.results import FIRST, _by_dimension
from explore.schema import GrowSchema
from explore.sweeps.keys import code_version
from explore.sweeps.space import Array, Chunk
from explore.sweeps.units import Unit, early_names

if TYPE_CHECKING:
    import polars as pl

    from sim import Evaluation


@dataclass(frozen=True)
class Job:
    """A chunk to evaluate: `unit` is what `packed` made of one, `best` what progress asks for."""

    key: str
    unit: bytes
    chunk: Chunk
    best: str = "latency_s"


@dataclass(frozen=True)
class Done:
    """A part: the bytes of its file, its rows, how many are feasible, the best of them."""

    key: str
    data: bytes
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
    table = table_of(unit, job.chunk)
    stream = io.BytesIO()
    table.write_parquet(stream, compression="zstd", compression_level=1)
    feasible = table["reason"].null_count() if table.height else 0
    return Done(job.key, stream.getvalue(), table.height, feasible, _best(table, job.best))


def _best(table: pl.DataFrame, by: str) -> tuple[float, str] | None:
    import polars as pl

    value = pl.col("latency_s") * pl.col("energy_pj") if by == "edp" else pl.col(by)
    found = table.select(value.alias("by"), "design").drop_nulls()
    if found.is_empty():
        return None
    number, design = found.row(int(found["by"].arg_min() or 0))
    return number, design


def table_of(unit: Unit, chunk: Chunk) -> pl.DataFrame:
    """The rows of a chunk: a kernel after the other, points in their order."""
    points = unit.points(chunk)
    kept = allowed(unit, points)
    if not kept.all():
        points = points[kept]
    return _rows(unit, _evaluated(unit, points))


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
            kept &= _holds(rule, symbols, len(points))
    if later and kept.any():
        index = np.flatnonzero(kept)
        kept[index] = _later(unit, points[index], later)
    return kept


def _early(unit: Unit, points: Points) -> dict[str, Any]:
    names: dict[str, Any] = dict(_symbols(unit.grid, points))
    names |= {"seq_len": points.seq_len, "batch": points.batch}
    for name, values in points.swept.items():
        names[name] = names[name.removeprefix("arch.").removeprefix("shape.")] = values
    return names


def _holds(rule: Expression, names: Mapping[str, Any], count: int) -> Array:
    return np.broadcast_to(np.asarray(rule.evaluate(names), dtype=bool), (count,))


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
        holds = [_holds(rule, names, len(points)) for rule in rules]
        return np.asarray(np.all(holds, axis=0))
    except InputError:
        if len(points) == 1:
            return np.ones(1, dtype=bool)
    half = len(points) // 2
    halves = (points[np.arange(half)], points[np.arange(half, len(points))])
    return np.concatenate([_later(unit, each, rules) for each in halves])


def _evaluated(unit: Unit, points: Points) -> DesignResult:
    """A design at points; what fails in a way that nobody foresaw fails for its points alone."""
    if not len(points):
        return _without_points(unit, points)
    try:
        return _attempt(unit, points)
    except InputError as error:
        first = error
    reasons = np.full(len(points), None, dtype=object)

    def failure(chosen: Array) -> InputError | None:
        try:
            _attempt(unit, points[chosen])
        except InputError as error:
            return error
        return None

    for chosen, refused in _refused(points, np.arange(len(points)), first, failure):
        reasons[chosen] = refused.message
    good = reasons == None  # noqa: E711  (elementwise)
    if not good.any():
        kernels = {kernel: _nowhere(reasons) for kernel in unit.grid.kernels}
        return DesignResult(unit.design, points, dict(points.swept), kernels, reasons)
    return _among_all(_attempt(unit, points[good]), points, good, reasons)


def _attempt(unit: Unit, points: Points) -> DesignResult:
    try:
        return evaluate_points(unit.grid, unit.design, points, unit.accounting)
    except (InputError, MemoryError, OSError):
        raise
    except Exception as error:  # a slip of the program at some point must not lose the others
        text = " ".join(str(error).split())
        raise InputError(f"internal error: {type(error).__name__}: {text}") from error


def _without_points(unit: Unit, points: Points) -> DesignResult:
    nothing: Array = np.full(0, None, dtype=object)
    kernels: dict[str, Evaluation] = {kernel: _nowhere(nothing) for kernel in unit.grid.kernels}
    return DesignResult(unit.design, points, dict(points.swept), kernels, nothing)


def _rows(unit: Unit, result: DesignResult) -> pl.DataFrame:
    import polars as pl

    points, grid = result.points, unit.grid
    models = pl.Series([model.name for model in grid.models], dtype=pl.String)
    frames = []
    for kernel, found in result.kernels.items():
        reason = _reasons(result, found)
        bad = reason.is_not_null().to_numpy()
        whole: dict[str, str | None] = {
            "family": grid.family, "design": result.design.name, "kernel": kernel, **unit.labels
        }  # fmt: skip
        columns: dict[str, Any] = {"model": models.gather(points.model)}
        columns |= {"batch": points.batch, "seq_len": points.seq_len}
        columns |= {name: _numbers(values) for name, values in result.values.items()}
        for name, values in _figures(unit, result, found).items():
            columns[name] = _numbers(
                values if name == "area_um2" else np.where(bad, np.nan, values)
            )
        columns["bottleneck"] = _bottleneck(found, bad)
        if unit.sampling.columns == "all" or "mapping" in unit.sampling.columns:
            columns["mapping"] = pl.Series(found.mapping_notes.tolist(), dtype=pl.String)
        columns["reason"] = reason
        shared = [pl.lit(text, dtype=pl.String).alias(name) for name, text in whole.items()]
        frame = pl.DataFrame(columns).with_columns(shared)
        frames.append(frame.select(*whole, pl.exclude(*whole)))
    return pl.concat(frames, how="diagonal")


def _reasons(result: DesignResult, found: Evaluation) -> pl.Series:
    import polars as pl

    reason = np.where(found.infeasible == None, result.unmet, found.infeasible)  # noqa: E711
    if not np.any(reason != None):  # noqa: E711
        return pl.Series("reason", [None], dtype=pl.String).new_from_index(0, len(reason))
    return pl.Series("reason", reason.tolist(), dtype=pl.String)


def _numbers(values: Array) -> pl.Series:
    """Numbers as a column; what is not a number is null."""
    import polars as pl

    full = np.ascontiguousarray(values, dtype=np.float64)
    return pl.Series(full).fill_nan(None) if np.isnan(full).any() else pl.Series(full)


def _figures(unit: Unit, result: DesignResult, found: Evaluation) -> dict[str, Array]:
    """The figures that the sweep keeps: the first ones, resources, and what the spec asks for."""
    named = {**result_names(found), **_by_dimension(result, found.util)}
    asked = unit.sampling.columns
    if asked == "all":
        return named
    on_device = unit.design.architecture.schema.device is not None
    kept = {*FIRST, *(name.lower() for name in found.resources if on_device), *asked}
    empty = np.full(len(result.points), np.nan)
    named |= {name: empty for name in asked if name not in named and name != "mapping"}
    return {name: values for name, values in named.items() if name in kept}


def _bottleneck(found: Evaluation, bad: Array) -> pl.Series:
    import polars as pl

    names = list(found.latency_terms_s)
    if not names or not len(bad):
        return pl.Series([None], dtype=pl.String).new_from_index(0, len(bad))
    terms = np.stack([np.broadcast_to(found.latency_terms_s[n], bad.shape) for n in names])
    largest = np.where(bad, len(names), np.argmax(terms, axis=0))
    return pl.Series([*names, None], dtype=pl.String).gather(largest)
