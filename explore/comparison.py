"""What is compared with what: designs, at the points that all of them can be built for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl


def in_common(table: pl.DataFrame, *by: str) -> pl.Series:
    """Which rows are of a point that is feasible for all designs, kernel by kernel.

    Designs that have no feasible point (among the rows of equal `by`) are left out of that: they
    are compared with nothing.
    """
    import polars as pl

    # the designs have the same points in the same order
    numbered = table.select(
        "kernel",
        "design",
        *by,
        pl.col("latency_s").is_not_null().alias("feasible"),
        pl.int_range(pl.len()).over("kernel", "design").alias("point"),
    )
    # one window at a time: inside another, a window sees the other's groups alone
    anywhere = pl.col("feasible").any().over("kernel", "design", *by)
    numbered = numbered.with_columns(anywhere.alias("anywhere"))
    fails = (~pl.col("feasible") & pl.col("anywhere")).any().over("kernel", "point")
    some = pl.col("feasible").any().over("kernel", "point")
    return numbered.select((some & ~fails).alias("common"))["common"]
