"""The results table: one row a design point, and the files it is kept in."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from einsum_cascade.source import InputError
from explore.evaluate import DesignResult, result_names
from explore.schema import RankSchema
from explore.spec import Grid

if TYPE_CHECKING:
    import polars as pl

CSV, PARQUET, SPEC, FIGURES = "results.csv", "results.parquet", "spec.yaml", "figures"
POINT = ("family", "model", "kernel", "batch", "seq_len")
FIRST = ("design", "latency_s", "traffic_bytes", "energy_pj", "util_2d", "util_1d", "area_um2")


def rows_of(grid: Grid, result: DesignResult) -> pl.DataFrame:
    """The rows of one design on one grid; figures of an infeasible point are null."""
    import polars as pl

    frames = []
    points = result.points
    names = np.array([model.name for model in grid.models], dtype=object)
    for kernel, found in result.kernels.items():
        count = len(points)
        columns: dict[str, Any] = {
            "design": [result.design.name] * count,
            "family": [grid.family] * count,
            "model": names[points.model],
            "kernel": [kernel] * count,
            "batch": points.batch,
            "seq_len": points.seq_len,
            "architecture": [result.design.architecture.name] * count,
            "cascade": [result.design.cascade.name] * count,
            "mapper": [result.design.mapper] * count,
        }
        columns |= result.values
        reason = np.where(found.infeasible == None, result.unmet, found.infeasible)  # noqa: E711
        bad = reason != None  # noqa: E711
        # a design that can be placed nowhere has no terms to compare
        bottleneck = np.where(bad, None, found.bottleneck if found.latency_terms_s else None)
        named = {**result_names(found), **_by_dimension(result, found.util)}
        # where nothing has an energy, it is unknown, not 0
        named["energy_pj"] = np.where(named["energy_pj"] == 0, np.nan, named["energy_pj"])
        if kernel == "network":
            each = found.kernel_latency_s.items()
            named |= {f"kernel_{name.replace(' ', '_')}_s": seconds for name, seconds in each}
        sizes = {"area_um2", *(kind.lower() for kind in found.resources)}
        figures = {n: v if n in sizes else np.where(bad, np.nan, v) for n, v in named.items()}
        columns |= {**figures, "bottleneck": bottleneck}
        columns |= {"mapping": found.mapping_notes, "reason": reason}
        texts = {"design", "family", "model", "kernel", "bottleneck", "mapping", "reason"}
        texts |= {"architecture", "cascade", "mapper"}
        series = [
            pl.Series(name, list(value), dtype=pl.String)
            if name in texts
            else pl.Series(name, np.ascontiguousarray(value)).fill_nan(None)
            if np.asarray(value).dtype.kind == "f"
            else pl.Series(name, np.ascontiguousarray(value))
            for name, value in columns.items()
        ]
        frames.append(pl.DataFrame(series))
    return pl.concat(frames, how="diagonal_relaxed")


def _by_dimension(result: DesignResult, util: Mapping[str, Any]) -> dict[str, Any]:
    """`util_2d` and `util_1d` where arrays have other names: those of the first of each."""
    arrays = result.design.architecture.schema.arrays
    return {
        f"util_{dimensions}d": util[name]
        for name, array in reversed(arrays.items())
        for dimensions in [len(array.shape)]
        if array.loop is None and name in util and f"{dimensions}d" not in util
    }


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
