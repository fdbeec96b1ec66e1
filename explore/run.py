"""Running an experiment: every design on every grid, then the table, the summary, the figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from explore.evaluate import evaluate_design
from explore.results import finished, rows_of
from explore.spec import Experiment, load_experiment

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Summary:
    """A design on one kernel of the main grid, arithmetic means over its feasible points."""

    design: str
    kernel: str
    points: int
    infeasible: int
    mean_rank: float | None
    latency_s: float | None
    energy_pj: float | None
    traffic_bytes: float | None
    speedup: float | None
    energy_ratio: float | None
    util_2d: float | None
    util_1d: float | None
    bottleneck: str


def run(experiment: Experiment, progress: Callable[[str, int], None] | None = None) -> pl.DataFrame:
    """The results table of an experiment, one row a design point in the order of the spec.

    `progress` is told the design that is done and how many points it had.

    Raises `InputError` for what cannot be computed at all; an infeasible point is a row with the
    reason.
    """
    frames = []
    accounting = experiment.schema.energy.accounting
    for grid in experiment.grids:
        for design in grid.designs:
            frames.append(rows_of(grid, evaluate_design(grid, design, accounting)))
            if progress is not None:
                progress(design.name, frames[-1].height)
    swept = list(dict.fromkeys(name for grid in experiment.grids for name in grid.sweep))
    return finished(frames, experiment.schema.rank, swept)


def run_file(path: str | Path) -> pl.DataFrame:
    """The results table of the spec at `path`."""
    return run(load_experiment(path))


def summarize(table: pl.DataFrame) -> list[Summary]:
    """The main grid's designs, best mean rank first, kernel by kernel."""
    import polars as pl

    main = table.filter(pl.col("family").is_null())
    for array in ("util_2d", "util_1d"):  # an architecture may call its arrays by other names
        if array not in main.columns:
            main = main.with_columns(pl.lit(None, pl.Float64).alias(array))
    means = ("latency_s", "energy_pj", "traffic_bytes", "speedup", "energy_ratio")
    grouped = main.group_by("kernel", "design", maintain_order=True).agg(
        pl.len().alias("points"),
        pl.col("reason").is_not_null().sum().alias("infeasible"),
        pl.when(pl.col("reason").is_null().any())  # an infeasible point counts as the last place
        .then(pl.col("rank").fill_null(main["design"].n_unique()).mean())
        .alias("mean_rank"),
        *(pl.col(name).mean() for name in (*means, "util_2d", "util_1d")),
        pl.col("bottleneck").drop_nulls().mode().sort().first().fill_null("").alias("bottleneck"),
    )
    order = {kernel: i for i, kernel in enumerate(main["kernel"].unique(maintain_order=True))}
    found = [Summary(**row) for row in grouped.to_dicts()]
    last = float("inf")
    return sorted(
        found, key=lambda s: (order[s.kernel], last if s.mean_rank is None else s.mean_rank)
    )
