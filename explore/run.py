"""Running an experiment: every design on every grid, then the table, the summary, the figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import mappers
from einsum_cascade.source import InputError
from explore.comparison import in_common
from explore.evaluate import evaluate_design
from explore.results import finished, rows_of
from explore.spec import Experiment, load_experiment

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Summary:
    """A design on one kernel of the main grid.

    Means are arithmetic, over the `compared` points: those that are feasible for all designs of the
    kernel (designs without any feasible point aside), so that designs are compared at the same
    points. They are None where there are no such points, or the design has none. `mean_rank` is
    over all `points`: an infeasible one counts as the last place.
    """

    design: str
    kernel: str
    points: int
    infeasible: int
    compared: int
    mean_rank: float | None
    latency_s: float | None
    energy_pj: float | None
    traffic_bytes: float | None
    speedup: float | None
    energy_ratio: float | None
    util_2d: float | None
    util_1d: float | None
    bottleneck: str


_FEW = 8
"""Designs that are not worth the way to other processes, which read the spec again."""


def run(
    experiment: Experiment,
    progress: Callable[[str, int], None] | None = None,
    pool: Executor | None = None,
) -> pl.DataFrame:
    """The results table of an experiment, one row a design point in the order of the spec.

    `progress` is told the design that is done and how many points it had. `pool` evaluates designs
    side by side, if there are many.

    What cannot be placed is a row with the reason, be it a point or a whole design. Raises
    `InputError` where nothing can be placed at all, and for a design with a front at each point.
    """
    for design in (d for grid in experiment.grids for d in grid.designs):
        design.refuse_front()
    tasks = [(g, d) for g, grid in enumerate(experiment.grids) for d in range(len(grid.designs))]
    file = experiment.document.file
    results: Iterator[tuple[pl.DataFrame, InputError | None]]
    if pool is not None and len(tasks) > _FEW:
        results = pool.map(_evaluated_file, repeat(file), tasks, chunksize=2)
    else:
        results = (_evaluated(experiment, task) for task in tasks)
    frames, refusals = [], []
    for (g, d), (frame, refusal) in zip(tasks, results, strict=True):
        frames.append(frame)
        refusals.append(refusal)
        if progress is not None:
            progress(experiment.grids[g].designs[d].name, frame.height)
    if refusals[0] is not None and None not in refusals:
        raise refusals[0]
    swept = list(dict.fromkeys(name for grid in experiment.grids for name in grid.sweep))
    return finished(frames, experiment.schema.rank, swept)


def _evaluated(
    experiment: Experiment, task: tuple[int, int]
) -> tuple[pl.DataFrame, InputError | None]:
    """The rows of one design of one grid, by their positions, and why it has none."""
    grid = experiment.grids[task[0]]
    result = evaluate_design(grid, grid.designs[task[1]], experiment.schema.energy.accounting)
    return rows_of(grid, result), result.refusal


def _evaluated_file(file: str, task: tuple[int, int]) -> tuple[pl.DataFrame, InputError | None]:
    """The same in another process, from the file of the spec."""
    return _evaluated(_loaded(file), task)


@lru_cache(maxsize=1)
def _loaded(file: str) -> Experiment:
    return load_experiment(file)


_PLACED_IN = 2  # mappers place data in the outermost memory and the next one


def idle_memories(experiment: Experiment) -> dict[str, list[str]]:
    """The memories of each architecture in which no mapper places anything."""
    found = {
        d.architecture.name: [*d.architecture.schema.memories]
        for grid in experiment.grids
        for d in grid.designs
        # one of whole networks knows the memories of its template
        if not (mappers.places_networks(d.mapper) or mappers.uses_all_memories(d.mapper))
    }
    return {name: all_[_PLACED_IN:] for name, all_ in found.items() if len(all_) > _PLACED_IN}


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
    main = main.with_columns(in_common(main).alias("_common"))
    common = pl.col("_common") & pl.col("reason").is_null()
    grouped = main.group_by("kernel", "design", maintain_order=True).agg(
        pl.len().alias("points"),
        pl.col("reason").is_not_null().sum().alias("infeasible"),
        pl.col("_common").sum().alias("compared"),
        pl.when(pl.col("reason").is_null().any())  # an infeasible point counts as the last place
        .then(pl.col("rank").fill_null(main["design"].n_unique()).mean())
        .alias("mean_rank"),
        *(pl.col(name).filter(common).mean() for name in (*means, "util_2d", "util_1d")),
        pl.col("bottleneck").filter(common).mode().sort().first().fill_null("").alias("bottleneck"),
    )
    order = {kernel: i for i, kernel in enumerate(main["kernel"].unique(maintain_order=True))}
    found = [Summary(**row) for row in grouped.to_dicts()]
    last = float("inf")
    return sorted(
        found, key=lambda s: (order[s.kernel], last if s.mean_rank is None else s.mean_rank)
    )
