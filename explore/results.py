"""The results table: one row a design point, and the files it is kept in."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from einsum_cascade.source import InputError
from explore.evaluate import DesignResult, result_names
from explore.schema import RankSchema
from explore.spec import Grid

if TYPE_CHECKING:
    import polars as pl

    from sim import Evaluation

CSV, PARQUET, SPEC, FIGURES = "results.csv", "results.parquet", "spec.yaml", "figures"
POINT = ("family", "model", "kernel", "batch", "seq_len")
FIRST = ("design", "latency_s", "traffic_bytes", "energy_pj", "util_2d", "util_1d", "area_um2")


def rows_of(grid: Grid, result: DesignResult) -> pl.DataFrame:
    """The rows of one design on one grid, a kernel after the other."""
    import polars as pl

    frames = []
    points, design = result.points, result.design
    models = pl.Series([model.name for model in grid.models], dtype=pl.String)
    values = {  # whole numbers stay such
        name: numbers(value) if value.dtype.kind == "f" else np.ascontiguousarray(value)
        for name, value in result.values.items()
    }
    for kernel in result.kernels:
        texts = {"design": design.name, "family": grid.family, "kernel": kernel}
        texts |= {"architecture": design.architecture.name, "cascade": design.cascade.name}
        texts["mapper"] = design.mapper
        shared = {n: pl.Series([text], dtype=pl.String) for n, text in texts.items()}
        columns: dict[str, Any] = {n: s.new_from_index(0, len(points)) for n, s in shared.items()}
        columns |= {"model": models.gather(points.model)}
        columns |= {"batch": points.batch, "seq_len": points.seq_len}
        frames.append(pl.DataFrame({**columns, **values, **figures_of(result, kernel)}))
    return pl.concat(frames, how="diagonal_relaxed")


def figures_of(
    result: DesignResult, kernel: str, kept: Sequence[str] | None = None
) -> dict[str, pl.Series]:
    """The figures of a kernel at the points of a result, by the names of their columns.

    All that there are and `mapping`, or those of `kept` (null where there is no such figure), and
    `bottleneck` and `reason`. At an infeasible point they are null but for its area and resources.
    """
    import polars as pl

    found, reasons = result.kernels[kernel], result.reasons(kernel)
    bad = reasons != None  # noqa: E711  (elementwise)
    named = {**result_names(found), **_by_dimension(result, found)}
    # where nothing has an energy, it is unknown, not 0
    named["energy_pj"] = np.where(found.energy_pj == 0, np.nan, found.energy_pj)
    if kernel == "network":
        each = found.kernel_latency_s.items()
        named |= {f"kernel_{name.replace(' ', '_')}_s": seconds for name, seconds in each}
    sizes = {"area_um2", *(kind.lower() for kind in found.resources)}
    columns = {}
    for name in named if kept is None else [name for name in kept if name != "mapping"]:
        value = named.get(name, np.nan)
        known = value if name in sizes or not bad.any() else np.where(bad, np.nan, value)
        columns[name] = numbers(np.broadcast_to(known, bad.shape))
    # a design that can be placed nowhere has no terms to compare
    terms = [*found.latency_terms_s, None]
    largest = np.where(bad, len(terms) - 1, found.largest_term if len(terms) > 1 else 0)
    columns["bottleneck"] = pl.Series(terms, dtype=pl.String).gather(largest)
    if kept is None or "mapping" in kept:
        columns["mapping"] = pl.Series(found.mapping_notes.tolist(), dtype=pl.String)
    nothing = pl.repeat(None, len(bad), dtype=pl.String, eager=True)
    columns["reason"] = pl.Series(reasons.tolist(), dtype=pl.String) if bad.any() else nothing
    return columns


def numbers(values: Any) -> pl.Series:
    """Numbers as a column; what is not a number is null."""
    import polars as pl

    full = np.ascontiguousarray(values, dtype=np.float64)
    return pl.Series(full).fill_nan(None) if np.isnan(full).any() else pl.Series(full)


def _by_dimension(result: DesignResult, found: Evaluation) -> dict[str, Any]:
    """`util_2d` and `util_1d`: those of the first array of each, whatever its name.

    An array that has no work at any of the points is idle, as one that has none at some.
    """
    if not found.latency_terms_s:
        return {}
    arrays = result.design.architecture.schema.arrays
    first = {len(a.shape): name for name, a in reversed(arrays.items()) if a.loop is None}
    first |= {d: f"{d}d" for d in first if f"{d}d" in found.util}
    idle = np.zeros(len(result.points))
    return {f"util_{d}d": found.util.get(name, idle) for d, name in first.items()}


def finished(frames: list[pl.DataFrame], rank: RankSchema, swept: list[str]) -> pl.DataFrame:
    """All rows together, in the order of the spec, ranked and compared with the baseline.

    `rank` is the place of a design among those at the same point (1 is best), `speedup` and
    `energy_ratio` compare with the baseline design there.
    """
    import polars as pl

    table = pl.concat(frames, how="diagonal_relaxed")
    by = pl.col("latency_s") * pl.col("energy_pj") if rank.by == "edp" else pl.col(rank.by)
    point = [*POINT, *(s for s in swept if s in table.columns)]
    table = table.with_columns(by.rank("min").over(point).cast(pl.Int64).alias("rank"))
    if rank.baseline is not None:
        base = table.filter(pl.col("design") == rank.baseline).select(
            *point,
            pl.col("latency_s").alias("_latency"),
            pl.col("energy_pj").alias("_energy"),
        )
        table = table.join(base, on=point, how="left", nulls_equal=True, maintain_order="left")
        table = table.with_columns(
            (pl.col("_latency") / pl.col("latency_s")).alias("speedup"),
            (pl.col("energy_pj") / pl.col("_energy")).alias("energy_ratio"),
        ).drop("_latency", "_energy")
    else:
        table = table.with_columns(
            pl.lit(None, pl.Float64).alias("speedup"),
            pl.lit(None, pl.Float64).alias("energy_ratio"),
        )
    last = ["mapping", "reason"]
    lead = [*POINT[:1], "design", *POINT[1:], *(s for s in swept if s in table.columns)]
    lead += [c for c in FIRST[1:] if c in table.columns]
    lead += ["bottleneck", "rank", "speedup", "energy_ratio"]
    return table.select(*lead, pl.exclude(*lead, *last), *last)


def refuse_overwriting(folder: Path, force: bool) -> None:
    """Raise `InputError` when `folder` holds something and `force` is not set."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{str(folder)!r} is a file: give a folder for the results")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise InputError(
            f"{str(folder)!r} is not empty: --force writes the results over what is there"
        )


def refuse_overwriting_file(file: Path, force: bool) -> None:
    """Raise `InputError` when `file` is there and `force` is not set, or cannot be written."""
    if file.is_dir():
        raise InputError(f"{str(file)!r} is a folder: give a file")
    if file.is_file() and not force:
        raise InputError(f"{str(file)!r} is there: --force writes over it")
    there = next((p for p in (file, *file.absolute().parents) if p.exists()), file)
    if there != file and not there.is_dir():
        raise InputError(f"cannot write {str(file)!r}: {str(there)!r} is not a folder")
    if not os.access(there, os.W_OK):
        raise InputError(f"cannot write {str(file)!r}: {os.strerror(errno.EACCES)}")


def write(table: pl.DataFrame, folder: Path, spec: Path) -> None:
    """Write the table as CSV and Parquet, and the spec that gave it. Nothing else is touched.

    The copy of the spec begins with a comment that says where it was: its paths start there.
    """
    origin = f"# {spec.resolve()} (relative paths start from its folder)\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table.write_csv(folder / CSV)
        table.write_parquet(folder / PARQUET)
        text = origin + spec.read_text(encoding="utf-8-sig")
        (folder / SPEC).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write to {str(folder)!r}: {error.strerror}") from None


def read(folder: Path) -> pl.DataFrame:
    """The table that `write` left in `folder`. Raises `InputError` when there is none."""
    import polars as pl

    file = folder / PARQUET
    if not file.is_file():
        raise InputError(f"no {PARQUET} in {str(folder)!r}: run `explore run SPEC --out {folder}`")
    try:
        return pl.read_parquet(file)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{str(file)!r} cannot be read: {error}") from None
