"""The designs beside what others published of the same point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from explore.plots.figure import Figure, Line, LinePanel, Published
from explore.plots.front import scaled

if TYPE_CHECKING:
    import polars as pl

OURS, THEIRS = "this model", "published"


def published_figure(
    table: pl.DataFrame, kernel: str, published: Sequence[Published]
) -> Iterator[Figure]:
    """Energy against latency of one kernel, one point a design; all points are named."""
    import polars as pl

    known = [p for p in published if p.energy_j is not None]
    if not known or "energy_pj" not in table.columns:
        return
    rows = table.filter(pl.col("latency_s").is_not_null() & pl.col("energy_pj").is_not_null())
    if rows.is_empty() or rows["design"].n_unique() < rows.height:
        return
    ours = [
        Published(name, latency, energy * 1e-12)
        for name, latency, energy in rows.select("design", "latency_s", "energy_pj").iter_rows()
    ]
    names = {p.name for p in ours}
    known = [p._replace(name=f"{p.name}, {THEIRS}") if p.name in names else p for p in known]
    factor, unit = scaled([p.latency_s for p in (*ours, *known)])
    lines = tuple(
        Line(
            name,
            tuple(p.latency_s * factor for p in points),
            tuple(p.energy_j or 0.0 for p in points),
            tuple(p.name for p in points),
            (False,) * len(points),
        )
        for name, points in ((OURS, ours), (THEIRS, known))
    )
    x_label = f"latency of {kernel} ({unit}s)"
    panel = LinePanel("", x_label, "energy (J)", lines, scattered=True, compact=True)
    yield Figure(f"published_{kernel}", "curves", curves=((panel,),))


__all__ = ["published_figure"]
