"""What each figure shows, as plain data taken from a results table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import polars as pl

Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Series:
    """Values along the x axis of a panel; None where a point is infeasible."""

    name: str
    values: Values


@dataclass(frozen=True)
class Panel:
    """A set of axes. Every series has one value for each of `labels`."""

    title: str
    labels: tuple[str, ...]
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Line:
    """A curve of (x, y, label) points; `front` marks those that no other point beats in both."""

    name: str
    x: Values
    y: Values
    labels: tuple[str, ...]
    front: tuple[bool, ...]


@dataclass(frozen=True)
class Figure:
    """A figure by its file name: panels of bars, or one panel of lines."""

    name: str
    kind: Literal["grouped", "stacked", "lines"]
    y_label: str
    panels: tuple[Panel, ...] = ()
    lines: tuple[Line, ...] = ()
    x_label: str = "sequence length (tokens)"
    log: bool = False
    reference: float | None = None
    rows: int = 1


def short(number: float) -> str:
    """1024 as 1K, 1048576 as 1M."""
    for suffix, size in (("M", 2**20), ("K", 2**10)):
        if number >= size and number % size == 0:
            return f"{number / size:g}{suffix}"
    return f"{number:g}"


def figures(table: pl.DataFrame, baseline: str | None = None) -> list[Figure]:
    """All figures that `table` has data for.

    `baseline` names the design that `speedup` and `energy_ratio` compare with.
    """
    return list(_figures(table, baseline))


def _figures(table: pl.DataFrame, baseline: str | None) -> Iterator[Figure]:
    import polars as pl

    main = table.filter(pl.col("family").is_null())
    kernels = main["kernel"].unique(maintain_order=True).to_list()
    base = baseline or "the baseline"
    for kernel in kernels:
        own = main.filter(pl.col("kernel") == kernel)
        if kernel == kernels[0]:
            yield from _utilization(own)
        if own["speedup"].drop_nulls().len():
            panels = (*_by_model(own, "speedup"), _mean(own, "speedup"))
            yield Figure(
                f"speedup_{kernel}",
                "grouped",
                f"speedup over {base}",
                panels,
                log=True,
                reference=1.0,
            )
        if own["energy_ratio"].drop_nulls().len():
            panels = (*_by_model(own, "energy_ratio"), _mean(own, "energy_ratio"))
            yield Figure(
                f"energy_{kernel}", "grouped", f"energy over {base}", panels, reference=1.0
            )
    yield from _breakdown(main.filter(pl.col("kernel") == kernels[0]) if kernels else main)
    families = table["family"].drop_nulls().unique(maintain_order=True).to_list()
    for family in families:
        yield from _family(
            table.filter(pl.col("family") == family),
            "area_latency" if len(families) == 1 else f"area_latency_{family}",
        )


def _lengths(table: pl.DataFrame) -> list[int]:
    return sorted(table["seq_len"].unique().to_list())


def _designs(table: pl.DataFrame) -> list[str]:
    return table["design"].unique(maintain_order=True).to_list()


def _means(table: pl.DataFrame, column: str) -> Values:
    """The mean at each sequence length; None where nothing is feasible."""
    import polars as pl

    found = dict(table.group_by("seq_len").agg(pl.col(column).mean()).iter_rows())
    return tuple(found.get(length) for length in _lengths(table))


def _by_model(table: pl.DataFrame, column: str) -> Iterator[Panel]:
    """A panel a model: groups of sequence lengths, a bar a design."""
    import polars as pl

    labels = tuple(short(n) for n in _lengths(table))
    for model in table["model"].unique(maintain_order=True):
        own = table.filter(pl.col("model") == model)
        bars = (
            Series(design, _means(own.filter(pl.col("design") == design), column))
            for design in _designs(table)
        )
        yield Panel(model, labels, tuple(bars))


def _mean(table: pl.DataFrame, column: str) -> Panel:
    """One group: the arithmetic mean over all points, a bar a design."""
    import polars as pl

    found = dict(table.group_by("design").agg(pl.col(column).mean()).iter_rows())
    bars = tuple(Series(design, (found[design],)) for design in _designs(table))
    return Panel("mean", ("all",), bars)


def _utilization(table: pl.DataFrame) -> Iterator[Figure]:
    arrays = [a for a in ("2d", "1d") if f"util_{a}" in table.columns]
    panels = []
    for array in arrays:
        for panel in _by_model(table, f"util_{array}"):
            panels.append(
                Panel(f"{panel.title}, {array.upper()} array", panel.labels, panel.series)
            )
    if panels:
        yield Figure("utilization", "grouped", "utilization", tuple(panels), rows=len(arrays))
    for array in arrays[:1]:
        prefix = f"util_{array}."
        einsums = [c.removeprefix(prefix) for c in table.columns if c.startswith(prefix)]
        found = tuple(_by_design(table, einsums, {e: f"{prefix}{e}" for e in einsums}))
        if found:
            label = f"{array.upper()} utilization by Einsum"
            yield Figure("utilization_by_einsum", "stacked", label, found)


def _by_design(table: pl.DataFrame, names: list[str], columns: dict[str, str]) -> Iterator[Panel]:
    """A panel a design: stacks at each sequence length, means over the models."""
    import polars as pl

    labels = tuple(short(n) for n in _lengths(table))
    for design in _designs(table):
        own = table.filter(pl.col("design") == design)
        stacks = (Series(name, _means(own, columns[name])) for name in names)
        yield Panel(design, labels, tuple(s for s in stacks if any(s.values)))


def _breakdown(table: pl.DataFrame) -> Iterator[Figure]:
    """What the latency consists of, as fractions."""
    import polars as pl

    columns = [c for c in table.columns if c.startswith("latency_") and c != "latency_s"]
    if not columns or table["latency_s"].drop_nulls().is_empty():
        return
    shares = table.with_columns(pl.col(c) / pl.col("latency_s") for c in columns)
    known = {"2d": "2D array", "1d": "1D array", "dram": "DRAM", "stall": "stalls"}
    terms = {known.get(k, k): c for c in columns for k in [c[len("latency_") : -len("_s")]]}
    panels = tuple(_by_design(shares, list(terms), terms))
    yield Figure("latency_breakdown", "stacked", "share of the latency", panels)


def _family(table: pl.DataFrame, name: str) -> Iterator[Figure]:
    """Area against latency, a line a model, points labelled with what was swept."""
    import polars as pl

    swept = [c for c in table.columns if c.startswith(("arch.", "shape."))]
    varied = [c for c in swept if table[c].n_unique() > 1]
    feasible = table.filter(pl.col("latency_s").is_not_null())
    if not varied or feasible.is_empty():
        return
    label = varied[0]
    lines = []
    for model in feasible["model"].unique(maintain_order=True):
        own = feasible.filter(pl.col("model") == model).sort("area_um2")
        area = [a * 1e-6 for a in own["area_um2"]]
        latency = own["latency_s"].to_list()
        labels = tuple(f"{v:g}" for v in own[label])
        lines.append(Line(model, tuple(area), tuple(latency), labels, front(area, latency)))
    x_label = f"area (mm$^2$), points: {label.removeprefix('arch.').replace('_', ' ')}"
    yield Figure(name, "lines", "latency (s)", lines=tuple(lines), x_label=x_label, log=True)


def front(x: list[float], y: list[float]) -> tuple[bool, ...]:
    """Which points no other beats: smaller or equal in both, and smaller in one.

    >>> front([1, 2, 3], [3, 4, 1])
    (True, False, True)
    """
    points = list(zip(x, y, strict=True))
    return tuple(
        not any(a <= px and b <= py and (a < px or b < py) for a, b in points) for px, py in points
    )
