"""What others published of the point of a spec, beside its designs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from explore.schema import PublishedSchema

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Beside:
    """A published point, and how many times the latency and the energy of `ours` it takes.

    `ours` is the design of the same name, or the best of all.
    """

    name: str
    ours: str
    latency_s: float
    energy_j: float | None
    latency_ratio: float
    energy_ratio: float | None


def beside_published(table: pl.DataFrame, published: Mapping[str, PublishedSchema]) -> list[Beside]:
    """Every published point beside the best design of the main grid, or the one that it is of."""
    import polars as pl

    main = table.filter(pl.col("family").is_null() & pl.col("latency_s").is_not_null())
    if main.is_empty() or not published:
        return []
    rows = {row["design"]: row for row in main.sort("rank").iter_rows(named=True)}
    best = next(iter(rows))
    found = []
    for name, theirs in published.items():
        ours = rows[name if name in rows else best]
        energy, own_energy = theirs.joules, ours["energy_pj"]
        ratio = None if energy is None or not own_energy else energy / (own_energy * 1e-12)
        latency = theirs.latency_s / ours["latency_s"]
        found.append(Beside(name, ours["design"], theirs.latency_s, energy, latency, ratio))
    return found


__all__ = ["Beside", "beside_published"]
