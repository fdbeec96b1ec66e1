"""What the latency of a network goes to, and what the steps of an ablation take from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from explore.comparison import in_common
from explore.plots.figure import Figure, Panel, Published, Row, Series
from explore.plots.front import scaled, sized

if TYPE_CHECKING:
    import polars as pl

LEAST_SHARE = 0.01
"""Kernels with less of a bar's latency are put together there."""
OTHERS = "other"
STEP = "+"
"""How the name of a design begins that adds a step to the design before it."""
MOST_BARS = 24


def kernels_figure(main: pl.DataFrame, families: Sequence[pl.DataFrame]) -> Iterator[Figure]:
    """The share of each kernel of a network in its latency, a panel a model, a bar a design.

    Means over batch sizes, lengths and swept values of the main grid; bars of the `families`, which
    sweep nothing, stand below it.
    """
    import polars as pl

    columns = [c for c in main.columns if c.startswith("kernel_") and main[c].dtype.is_numeric()]
    if not columns:
        return
    shared = [
        own.filter(in_common(own), pl.any_horizontal(pl.col(columns).is_not_null()))
        for own in (main, *families)
    ]
    rows = pl.concat(shared, how="vertical_relaxed")
    if rows.is_empty():
        return
    means = rows.group_by("model", "family", "design", maintain_order=True).agg(
        pl.col("latency_s").mean(), pl.col(columns).fill_null(0).mean()
    )
    panels = tuple(
        _shares(str(model), own, columns)
        for (model,), own in means.group_by("model", maintain_order=True)
        if own.height <= MOST_BARS
    )
    if panels:
        yield Figure("kernels", "shares", (Row("", panels),), x_label="share of the latency (%)")


def _shares(model: str, table: pl.DataFrame, columns: Sequence[str]) -> Panel:
    """The bars of one model; what is small in a bar goes to its others."""
    bars = []
    for row in table.iter_rows(named=True):
        each = {kernel_name(c): row[c] / row["latency_s"] for c in columns}
        large = {name: share for name, share in each.items() if share >= LEAST_SHARE}
        bars.append(large | {OTHERS: sum(each.values()) - sum(large.values())})
    names = [n for n in map(kernel_name, columns) if any(n in bar for bar in bars)]
    names += [OTHERS] if any(bar[OTHERS] > 0 for bar in bars) else []
    series = (Series(n, tuple(bar.get(n, 0.0) for bar in bars)) for n in names)
    labels = (
        design if family is None else f"{design}, {family}"
        for family, design in table.select("family", "design").iter_rows()
    )
    notes = tuple(sized(seconds, "s") for seconds in table["latency_s"])
    return Panel(model, tuple(labels), tuple(series), notes=notes)


def kernel_name(column: str) -> str:
    """The kernel of a column.

    >>> kernel_name("kernel_patch_embedding_s")
    'patch embedding'
    """
    return column.removeprefix("kernel_").removesuffix("_s").replace("_", " ")


def steps_figure(
    table: pl.DataFrame, kernel: str, published: Sequence[Published] = ()
) -> Iterator[Figure]:
    """Designs of one kernel whose names begin with `STEP`: the latency, and what each step takes.

    Of a single point a design: with more, there is no one latency. What was published of a design
    stands beside it.
    """
    designs = table["design"].to_list()
    latency = table["latency_s"].to_list()
    steps = [i > 0 and name.startswith(STEP) for i, name in enumerate(designs)]
    if len(set(designs)) < len(designs) or not any(steps) or None in latency:
        return
    theirs = {p.name: p.latency_s for p in published}
    known = [theirs.get(name) for name in designs]
    factor, unit = scaled([*latency, *(v for v in known if v is not None)])
    saved = [latency[i - 1] - latency[i] if steps[i] else None for i in range(len(designs))]
    series = [
        Series("latency", tuple(v * factor for v in latency)),
        Series("taken away by the step", tuple(v and v * factor for v in saved)),
    ]
    if any(known):
        series.append(Series("published", tuple(v and v * factor for v in known)))
    notes = tuple(
        sized(now, "s") + ("" if less is None else f" ({-less / (now + less):+.0%})")
        for now, less in zip(latency, saved, strict=True)
    )
    texts = tuple(n.replace("-", "−") for n in notes)
    panel = Panel("", tuple(designs), tuple(series), notes=texts)
    row = Row("", (panel,))
    yield Figure(f"steps_{kernel}", "steps", (row,), x_label=f"latency of {kernel} ({unit}s)")


__all__ = ["LEAST_SHARE", "OTHERS", "kernel_name", "kernels_figure", "steps_figure"]
