"""Figures for papers, from a results table alone.

What a figure shows (`info`) is worked out apart from how it looks (`draw`): the first is plain data
and tested as such, the second needs matplotlib, which is imported only when something is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from explore.plots.figure import Figure, Published
from explore.plots.info import figures
from explore.plots.sweeps import Axes

if TYPE_CHECKING:
    import polars as pl

Width = Literal["auto", "single", "double"]


def draw_all(
    table: pl.DataFrame,
    folder: Path,
    *,
    baseline: str | None = None,
    published: Sequence[Published] = (),
    pareto: Axes = (None, "latency_s"),
    width: Width = "auto",
    formats: Sequence[str] = ("pdf", "svg", "png"),
    pool: Executor | None = None,
    jobs: int = 1,
) -> list[Path]:
    """Draw every figure that the table has data for, in every format; the files written.

    `published` and `pareto` are as `figures` takes them. `width` is a paper's single (3.5 in) or
    double (7.16 in) column, or what suits each figure. `pool` draws figures side by side (see
    `drawing_processes`); without it they follow one another, or `jobs` processes are started for
    them.
    """
    if pool is None and jobs > 1:
        with drawing_processes(jobs) as pool:
            return draw_all(
                table,
                folder,
                baseline=baseline,
                published=published,
                pareto=pareto,
                width=width,
                formats=formats,
                pool=pool,
            )
    folder.mkdir(parents=True, exist_ok=True)
    found = figures(table, baseline, published, pareto)
    count = len(found)
    arguments = (found, [folder] * count, [width] * count, [tuple(formats)] * count)
    paths = pool.map(_draw, *arguments) if pool else map(_draw, *arguments)
    return [path for each in paths for path in each]


def _draw(figure: Figure, folder: Path, width: Width, formats: tuple[str, ...]) -> list[Path]:
    from explore.plots.draw import draw

    return draw(figure, folder, width, formats)


@contextmanager
def drawing_processes(count: int = 2) -> Iterator[Executor]:
    """Processes that load matplotlib while the caller does something else, and then draw.

    The caller's main module must be importable, as the `explore` command's is.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"))
    try:
        for _ in range(count):
            pool.submit(_load)
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _load() -> None:
    import explore.plots.draw  # noqa: F401


__all__ = ["Figure", "Published", "draw_all", "drawing_processes", "figures"]
