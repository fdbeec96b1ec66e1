"""Points that are there already: rows in parts of former specs, found by the values of the points.

A spec that changes cuts other chunks, so the keys of its parts are new where most of its points are
not. Each part says what its rows follow from beside the values of the points (`context`), and
within which bounds these are. Parts that may hold points of a chunk go to its worker with it, which
evaluates the other points only: equal values in one context are one point.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from explore.points import Points
from explore.sweeps.keys import model_key
from explore.sweeps.parts import Store
from explore.sweeps.space import Array, Chunk
from explore.sweeps.units import Unit

if TYPE_CHECKING:
    import polars as pl

ABOUT = "points"
"""The key of what a part says of its points, in the metadata of its file."""

MOST_PARTS = 8
"""Parts that are looked into for a chunk, the newest: more take longer than evaluating may."""

_WHATEVER = {"lower_bound_bytes", "compute_s"}
"""Columns that a spec may ask for and that do not depend on the points evaluated together.

Others are there (0) or not (null) as some point has them; a mapping may say of how many it is best.
"""


def about(unit: Unit, context: str, rows: pl.DataFrame) -> dict[str, str]:
    """What a part says of its points: context, models, and the bounds of every parameter."""
    if rows.is_empty():
        return {}
    there = set(rows["model"].unique())
    models = {m.name: model_key(m) for m in unit.grid.models if m.name in there}
    bounds = {name: [rows[name].min(), rows[name].max()] for name in _numbers(unit)}
    return {ABOUT: json.dumps({"context": context, "models": models, "bounds": bounds})}


def _numbers(unit: Unit) -> list[str]:
    """The columns of numbers that tell the points of a unit apart."""
    return ["seq_len", "batch", *unit.parameters]


def _values(points: Points) -> dict[str, Array]:
    return {"seq_len": points.seq_len, "batch": points.batch, **points.swept}


@dataclass(frozen=True)
class _Part:
    key: str
    models: dict[str, str]
    bounds: dict[str, list[float]]

    def may_hold(self, models: dict[str, str], bounds: dict[str, list[float]]) -> bool:
        """Whether it can have points of these models within these bounds."""
        return (
            self.bounds.keys() == bounds.keys()
            and not models.items().isdisjoint(self.models.items())
            and all(
                low <= bounds[name][1] and high >= bounds[name][0]
                for name, (low, high) in self.bounds.items()
            )
        )


class Former:
    """The parts in a store that are none of the current plan, by their contexts."""

    def __init__(self, store: Store, plan: Collection[str]) -> None:
        self._store = store
        self._parts: dict[str, list[_Part]] = defaultdict(list)
        for key in store.newest_but(plan):
            said = store.metadata(key).get(ABOUT)
            if said is not None:
                found = json.loads(said)
                part = _Part(key, found["models"], found["bounds"])
                self._parts[found["context"]].append(part)

    def beside(self, unit: Unit, context: str, chunk: Chunk) -> tuple[bytes, ...]:
        """The files of the parts that may hold points of a chunk."""
        asked = unit.sampling.columns
        if context not in self._parts or asked == "all" or not _WHATEVER.issuperset(asked):
            return ()
        points = unit.points(chunk)
        bounds = {name: [each.min(), each.max()] for name, each in _values(points).items()}
        models = _models(unit, points)
        found: list[bytes] = []
        for part in self._parts[context]:
            if len(found) < MOST_PARTS and part.may_hold(models, bounds):
                data = self._store.read(part.key)
                found += [data] if data is not None else []
        return tuple(found)


def _models(unit: Unit, points: Points) -> dict[str, str]:
    """The models at points, and what tells each from another of its name."""
    there = (unit.grid.models[i] for i in np.unique(points.model))
    return {model.name: model_key(model) for model in there}


def rows_there(
    unit: Unit, points: Points, parts: Sequence[bytes], like: pl.DataFrame
) -> pl.DataFrame:
    """The rows of `points` that files of parts hold, with the position of the point as `_at`.

    `like` has the columns wanted, and no rows.
    """
    import polars as pl

    names, points = ["model", *_numbers(unit)], points.flat
    models = pl.Series([model.name for model in unit.grid.models], dtype=pl.String)
    wanted = pl.DataFrame({"model": models.gather(points.model), **_values(points)})
    wanted = wanted.cast({name: like.schema[name] for name in names}).with_row_index("_at")
    same = _models(unit, points).items()
    found = [like]
    for data in parts:
        said = json.loads(pl.read_parquet_metadata(io.BytesIO(data))[ABOUT])
        rows = pl.read_parquet(io.BytesIO(data))
        if set(like.columns) <= set(rows.columns):  # it may have been asked for less
            unchanged = [name for name, _ in same & said["models"].items()]
            found.append(rows.select(like.columns).filter(pl.col("model").is_in(unchanged)))
    known = pl.concat(found).unique([*names, "kernel"])
    return known.join(wanted, on=names, how="inner")
