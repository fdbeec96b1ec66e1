"""The results of a sweep, or of a run, lazily: the best, the front, what two of them differ in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from einsum_cascade.source import InputError
from explore.sweeps.block import CHOICES
from explore.sweeps.filters import compiled, parsed
from explore.sweeps.parts import MANIFEST, Store, read_manifest

if TYPE_CHECKING:
    import polars as pl

IDENTITY = ("family", "design", "kernel", "model", "batch", "seq_len")
SHOWN = ("latency_s", "energy_pj", "traffic_bytes", "area_um2", "bottleneck")


@dataclass(frozen=True)
class Results:
    """A folder of results: its rows in the order of the spec, and what tells points apart.

    `missing` says how many parts of the sweep are not there yet.
    """

    folder: Path
    files: tuple[Path, ...]
    schema: Mapping[str, Any]
    parameters: tuple[str, ...]
    by: str
    missing: int

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.schema)

    def scan(self) -> pl.LazyFrame:
        """All rows, nothing read yet."""
        import polars as pl

        return pl.scan_parquet(list(self.files), schema=dict(self.schema), missing_columns="insert")

    def where(self, conditions: Sequence[str], texts: Mapping[str, Sequence[str]]) -> pl.LazyFrame:
        """The rows that meet all conditions and have one of the texts of each column."""
        import polars as pl

        found = self.scan()
        for column, wanted in texts.items():
            if wanted:
                found = found.filter(pl.col(column).is_in(list(wanted)))
        for text in conditions:
            rule = parsed(text, self.numbers, "--where", condition=True)
            found = found.filter(compiled(rule, self.numbers))
        return found

    def check(self, texts: Mapping[str, Sequence[str]]) -> None:
        """Raise `InputError` for a text that no row has in a column."""
        import polars as pl

        for column, wanted in texts.items():
            if not wanted:
                continue
            there = self.scan().select(pl.col(column).unique()).collect(engine="streaming")
            for name in set(wanted) - set(there[column]):
                allowed = sorted(there[column].drop_nulls())
                raise InputError(f"--{column}: no point of {name!r}", allowed=allowed, found=name)

    @property
    def numbers(self) -> list[str]:
        """Names of the columns that hold numbers."""
        return [name for name, kind in self.schema.items() if kind.is_numeric()]

    def value(self, text: str, option: str) -> pl.Expr:
        """What an option of the command names or works out, of every row."""
        return compiled(parsed(text, self.numbers, option), self.numbers)


def results(folder: Path) -> Results:
    """The results in a folder. Raises `InputError` when there are none that can be read."""
    import polars as pl

    if folder.is_file():
        raise InputError(f"{str(folder)!r} is a file: give the folder of a sweep, or of a run")
    if not (folder / MANIFEST).exists() and (folder / "results.parquet").is_file():
        files = [folder / "results.parquet"]
        names, by, missing = [], "latency_s", 0
    else:
        manifest = read_manifest(folder)
        store = Store(folder)
        files = [store.path(key) for key in manifest["parts"] if key in store]
        names, by = manifest["parameters"], manifest["by"]
        missing = len(manifest["parts"]) - len(files)
    schema: dict[str, Any] = {}
    for file in files:
        try:
            schema |= {n: t for n, t in pl.read_parquet_schema(file).items() if n not in schema}
        except (OSError, pl.exceptions.PolarsError):
            raise InputError(
                f"{str(file)!r} cannot be read: run the sweep again, which replaces it"
            ) from None
    if not schema:
        raise InputError(f"nothing is finished in {str(folder)!r}")
    if not names:  # of a run: all that may have been swept
        names = [name for name in schema if name.startswith(("arch.", "shape."))]
    last = [name for name in ("bottleneck", "mapping", "reason") if name in schema]
    ordered = {n: t for n, t in schema.items() if n not in last} | {n: schema[n] for n in last}
    return Results(folder, tuple(files), ordered, tuple(names), by, missing)


def _shown(found: Results, extra: Sequence[str] = ()) -> list[str]:
    """The columns that tell a row apart, and the figures that people look at first."""
    names = [*IDENTITY, *found.parameters, *extra, *SHOWN]
    return [name for name in dict.fromkeys(names) if name in found.schema]


def top(
    found: Results,
    by: str,
    count: int,
    conditions: Sequence[str] = (),
    texts: Mapping[str, Sequence[str]] | None = None,
) -> pl.DataFrame:
    """The rows with the least `by`, equals in their order."""
    import polars as pl

    rows = found.where(conditions, texts or {})
    value = found.value(by, "--by")
    named = rows.with_columns(value.alias("_by")).filter(pl.col("_by").is_not_null())
    best = named.with_row_index("_row").bottom_k(count, by=["_by", "_row"]).sort("_by", "_row")
    columns = _shown(found)
    if by not in columns:
        best = best.with_columns(pl.col("_by").alias(by))
        columns = [*columns, by]
    return best.select(columns).collect(engine="streaming")


def pareto(
    found: Results,
    x: str,
    y: str,
    conditions: Sequence[str] = (),
    texts: Mapping[str, Sequence[str]] | None = None,
) -> pl.DataFrame:
    """The rows that no other beats: none has less of one of both and no more of the other.

    Part by part, then the parts' fronts together: never more in memory than that.
    """
    import polars as pl

    values = (found.value(x, "--x").alias("_x"), found.value(y, "--y").alias("_y"))
    columns = _shown(found)
    columns += [text for text in dict.fromkeys((x, y)) if text not in columns]
    front: pl.DataFrame | None = None
    for file in found.files:
        part = Results(found.folder, (file,), found.schema, found.parameters, found.by, 0)
        rows = part.where(conditions, texts or {}).with_columns(*values)
        rows = rows.filter(pl.col("_x").is_not_null() & pl.col("_y").is_not_null())
        if front is not None and front.height:  # most are beaten by what is known already
            rows = rows.filter(_not_beaten_by(front))
        named = [pl.col(v).alias(n) for v, n in (("_x", x), ("_y", y)) if n not in found.schema]
        kept = _front(rows.with_columns(named).select(*columns, "_x", "_y").collect())
        front = kept if front is None else _front(pl.concat([front, kept]))
    assert front is not None
    return front.sort("_x", "_y", maintain_order=True).drop("_x", "_y")


def _not_beaten_by(front: pl.DataFrame) -> pl.Expr:
    """A cheap test: not beaten by three points of a front, its ends and its middle."""
    import polars as pl

    ordered = front.sort("_x", "_y")
    kept = pl.lit(True)
    for i in {0, ordered.height // 2, ordered.height - 1}:
        x, y = ordered["_x"][i], ordered["_y"][i]
        beaten = ((pl.col("_x") > x) & (pl.col("_y") >= y)) | (
            (pl.col("_x") >= x) & (pl.col("_y") > y)
        )
        kept = kept & ~beaten
    return kept


def _front(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of a table that no other beats, in their order; equal ones stay all."""
    import polars as pl

    least = rows.group_by("_x").agg(pl.col("_y").min()).sort("_x")
    before = pl.col("_y").cum_min().shift(1).fill_null(float("inf"))
    corners = least.filter(pl.col("_y") < before)
    return rows.join(corners, on=["_x", "_y"], how="semi", maintain_order="left")


@dataclass(frozen=True)
class Difference:
    """Two results, point by point.

    `table` has a row for every point of both that differs (`change`: better, worse, feasible,
    infeasible, new, gone) with the values `first` and `second` and their `ratio`.
    """

    counts: dict[str, int]
    table: pl.LazyFrame


CHANGES = ("better", "worse", "equal", "feasible", "infeasible", "new", "gone")


def difference(
    first: Results,
    second: Results,
    by: str,
    conditions: Sequence[str] = (),
    texts: Mapping[str, Sequence[str]] | None = None,
) -> Difference:
    """What became of `by` from the first to the second; less is better."""
    import polars as pl

    keys = [name for name in IDENTITY if name in first.schema and name in second.schema]
    both = [*first.parameters, *second.parameters]
    keys += [n for n in dict.fromkeys(both) if n in first.schema and n in second.schema]
    sides = []
    for found, name in ((first, "first"), (second, "second")):
        rows = found.where(conditions, texts or {})
        _refuse_others(found, rows, [n for n in both if n in found.schema and n not in keys])
        value = found.value(by, "--by").alias(name)
        side = rows.select(*(_alike(key) for key in keys), value, pl.lit(True).alias(f"_{name}"))
        sides.append(side.unique(keys, keep="first", maintain_order=False))
    joined = sides[0].join(sides[1], on=keys, how="full", coalesce=True, nulls_equal=True)
    a, b = pl.col("first"), pl.col("second")
    change = (
        pl.when(pl.col("_first").is_null()).then(pl.lit("new"))
        .when(pl.col("_second").is_null()).then(pl.lit("gone"))
        .when(a.is_null() & b.is_null()).then(pl.lit("equal"))
        .when(a.is_null()).then(pl.lit("feasible"))
        .when(b.is_null()).then(pl.lit("infeasible"))
        .when(b < a).then(pl.lit("better"))
        .when(b > a).then(pl.lit("worse"))
        .otherwise(pl.lit("equal"))
    )  # fmt: skip
    table = joined.with_columns(change.alias("change"), (b / a).alias("ratio"))
    counted = table.group_by("change").len().collect(engine="streaming")
    found_counts = dict(counted.iter_rows())
    differs = table.filter(pl.col("change") != "equal")
    order = ["change", "ratio", *keys]
    return Difference(
        {name: int(found_counts.get(name, 0)) for name in CHANGES},
        differs.select("change", *keys, "first", "second", "ratio").sort(order, nulls_last=True),
    )


def _alike(name: str) -> pl.Expr:
    """Numbers of points are compared as such: a run's whole numbers with a sweep's."""
    import polars as pl

    texts = ("family", "design", "kernel", "model", *CHOICES)
    is_text = name in texts or name.startswith("mapper.")
    return pl.col(name).cast(pl.String if is_text else pl.Float64)


def _refuse_others(found: Results, rows: pl.LazyFrame, names: list[str]) -> None:
    """A parameter that the other results lack tells points apart that look equal there."""
    for name in names:
        distinct = rows.select(name).unique().head(2).collect()
        if distinct.height > 1:
            raise InputError(
                f"points differ in {name!r} in {str(found.folder)!r} alone: "
                f"choose one of its values, as in --where '{name} <= ...'"
            )
