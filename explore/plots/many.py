"""What figures show when there are more designs than bars can hold: curves and Pareto fronts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from explore.plots.figure import Figure, Line, LinePanel
from explore.plots.front import front, short

if TYPE_CHECKING:
    import polars as pl

MOST_BARS = 12
"""Designs that a group of bars can hold."""
_PANELS = 3
_MARKED = 5


def figures_of_many(table: pl.DataFrame, kernel: str) -> Iterator[Figure]:
    """Figures of one kernel of the main grid: `pareto` and `scaling`.

    Points are means over models, batch sizes and swept values.
    """
    import polars as pl

    means = (
        table.filter(pl.col("latency_s").is_not_null())
        .group_by("design", "cascade", "architecture", "seq_len", maintain_order=True)
        .agg(pl.col("latency_s", "energy_pj", "traffic_bytes").mean())
    )
    alone = means.select("design", "cascade", "architecture").unique()
    if alone.select("cascade", "architecture").is_unique().all():  # the panel says the rest
        means = means.with_columns(pl.col("cascade").alias("design"))
    if means.is_empty():
        return
    lengths = sorted(means["seq_len"].unique().to_list())
    yield Figure(f"pareto_{kernel}", "curves", curves=(_fronts(means, _some(lengths)),))
    if len(lengths) > 1:
        yield Figure(f"scaling_{kernel}", "curves", curves=_growth(means))


def _some(lengths: list[int]) -> list[int]:
    """The shortest, the longest, and the middle one."""
    if len(lengths) <= _PANELS:
        return lengths
    return [lengths[0], lengths[len(lengths) // 2], lengths[-1]]


def _fronts(means: pl.DataFrame, lengths: list[int]) -> tuple[LinePanel, ...]:
    """Latency against energy at some lengths, a colour an architecture."""
    import polars as pl

    panels = []
    for length in lengths:
        own = means.filter(pl.col("seq_len") == length)
        best = front(own["latency_s"].to_list(), own["energy_pj"].to_list())
        own = own.with_columns(pl.Series("front", best))
        lines = []
        for (name,), part in own.group_by("architecture", maintain_order=True):
            lines.append(
                Line(
                    str(name),
                    tuple(part["latency_s"]),
                    tuple(e * 1e-12 for e in part["energy_pj"]),
                    tuple(part["design"]),
                    tuple(part["front"]),
                )
            )
        title = f"{short(length)} tokens"
        panels.append(LinePanel(title, "latency (s)", "energy (J)", tuple(lines), scattered=True))
    return tuple(panels)


def _growth(means: pl.DataFrame) -> tuple[tuple[LinePanel, ...], ...]:
    """Latency and traffic against the sequence length, a panel an architecture.

    Those designs are marked that are on the front of latency and energy of an architecture at its
    longest sequence, and then the fastest there, up to as many as can be told apart.
    """
    import polars as pl

    rows = []
    for column, label in (("latency_s", "latency (s)"), ("traffic_bytes", "DRAM traffic (B)")):
        panels = []
        for (name,), own in means.group_by("architecture", maintain_order=True):
            longest = own.filter(pl.col("seq_len") == own["seq_len"].max()).sort("latency_s")
            on = front(longest["latency_s"].to_list(), longest["energy_pj"].to_list())
            best = [d for d, is_best in zip(longest["design"], on, strict=True) if is_best]
            best = list(dict.fromkeys([*best, *longest["design"]]))[:_MARKED]
            lines = []
            for (design,), part in own.group_by("design", maintain_order=True):
                part = part.sort("seq_len")
                marks = (design in best,) * part.height
                x, y = tuple(map(float, part["seq_len"])), tuple(part[column])
                lines.append(Line(str(design), x, y, (), marks))
            panels.append(LinePanel(str(name), "sequence length (tokens)", label, tuple(lines)))
        rows.append(tuple(panels))
    return tuple(rows)


__all__ = ["MOST_BARS", "figures_of_many"]
