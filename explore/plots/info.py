"""What each figure shows, as plain data taken from a results table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from explore.comparison import in_common
from explore.plots.beside import published_figure
from explore.plots.figure import Figure, Line, Panel, Published, Row, Series, Values
from explore.plots.front import front, short
from explore.plots.many import MOST_BARS, figures_of_many
from explore.plots.networks import LEAST_SHARE, OTHERS, kernels_figure, steps_figure
from explore.plots.sweeps import Axes, sweep_figures, swept_columns

if TYPE_CHECKING:
    import polars as pl

_LOG_FROM = 30.0  # bars on a linear axis are lengths to compare; beyond this ratio they vanish
_MOST_TERMS = 8
_TERMS = {"2d": "2D array", "1d": "1D array", "dram": "DRAM", "stall": "stalls"}


def figures(
    table: pl.DataFrame,
    baseline: str | None = None,
    published: Sequence[Published] = (),
    pareto: Axes = (None, "latency_s"),
) -> list[Figure]:
    """All figures that `table` has data for.

    `baseline` names the design that `speedup` and `energy_ratio` compare with, `published` is drawn
    beside the designs, `pareto` names what is drawn against what where several parameters are
    swept.
    """
    import polars as pl
    import polars.selectors as cs

    table = table.with_columns(cs.float().fill_nan(None))
    found = [*_figures(table, baseline, pl.col("family"))]
    found += _of_networks_and_sweeps(table, published, pareto)
    return [figure for figure in found if figure.has_marks]


def _figures(table: pl.DataFrame, baseline: str | None, family: pl.Expr) -> Iterator[Figure]:
    base = baseline or "the baseline"
    main = table.filter(family.is_null())
    grids = {str(name): _Grid(str(name), own) for (name,), own in _parts(main, "kernel")}
    one = grids.get("attention") or next(iter(grids.values()), None)
    many = [kernel for kernel, grid in grids.items() if len(grid.designs) > MOST_BARS]
    for kernel in many:
        yield from figures_of_many(grids.pop(kernel).table, kernel)
    one = one if one and one.kernel not in many else None
    if one:
        yield from _utilization(one)
    for kernel, grid in grids.items():
        yield from _compared(grid, f"speedup_{kernel}", "speedup", f"speedup over {base}")
        label = f"energy relative to {base}"
        yield from _compared(grid, f"energy_{kernel}", "energy_ratio", label)
    if one:
        yield from _breakdown(one, base)
    families = table.filter(family.is_not_null())
    parts = [(str(name), own) for (name,), own in _parts(families, "family")]
    for name, own in parts:
        yield from _family(own, "area_latency" if len(parts) == 1 else f"area_latency_{name}")


def _of_networks_and_sweeps(
    table: pl.DataFrame, published: Sequence[Published], pareto: Axes
) -> Iterator[Figure]:
    main = table.filter(table["family"].is_null())
    parts = [own for _, own in _parts(table.filter(table["family"].is_not_null()), "family")]
    yield from kernels_figure(main, [own for own in parts if not swept_columns(own)])
    for (kernel,), own in _parts(main, "kernel"):
        yield from steps_figure(own, str(kernel), published)
        yield from published_figure(own, str(kernel), published)
    for own in (main, *parts):
        if own.height:
            yield from sweep_figures(own, main, own["family"][0], pareto)


def _parts(table: pl.DataFrame, *by: str) -> Iterator[tuple[tuple[object, ...], pl.DataFrame]]:
    """The rows for each value of the columns `by`, in the order of appearance."""
    if table.height:
        yield from table.group_by(*by, maintain_order=True)


class _Grid:
    """The rows of one kernel on the main grid, and what they are drawn along."""

    def __init__(self, kernel: str, table: pl.DataFrame) -> None:
        self.kernel = kernel
        self.table = table
        self.designs: list[str] = table["design"].unique(maintain_order=True).to_list()
        self.models: list[str] = table["model"].unique(maintain_order=True).to_list()
        self.lengths: list[int] = sorted(table["seq_len"].unique().to_list())
        self.labels = tuple(short(n) for n in self.lengths)
        averaged = ["batch"] if _varies(table, "batch") else []
        if any(_varies(table, c) for c in table.columns if c.startswith(("arch.", "shape."))):
            averaged += ["sweep"] if table.height > self._places() else []
        mean = f", mean over the {' and the '.join(averaged)}" if averaged else ""
        self.x_label = f"sequence length (tokens){mean}"

    def _places(self) -> int:
        return self.table.select("design", "model", "seq_len").n_unique()

    def has(self, column: str) -> bool:
        """Whether there is a number in `column`."""
        return column in self.table.columns and self.table[column].count() > 0

    def means(self, columns: Mapping[str, pl.Expr]) -> dict[tuple[object, ...], Values]:
        """For each (design, model, length) a number a column: over points that designs share."""
        shared = self.table.filter(in_common(self.table, "model", "seq_len"))
        own = shared.group_by("design", "model", "seq_len").agg(
            value.mean().alias(f"value {name}") for name, value in columns.items()
        )
        return {row[:3]: row[3:] for row in own.iter_rows()}

    def grouped(self, column: str) -> tuple[Panel, ...]:
        """A panel a model: groups of sequence lengths, a bar a design."""
        import polars as pl

        found = self.means({column: pl.col(column)})
        return tuple(
            Panel(
                model,
                self.labels,
                tuple(
                    Series(
                        design,
                        tuple(found.get((design, model, n), (None,))[0] for n in self.lengths),
                    )
                    for design in self.designs
                ),
            )
            for model in self.models
        )

    def stacked(self, columns: Mapping[str, pl.Expr]) -> tuple[Panel, ...]:
        """A panel a model: a group a design, in it a stack a sequence length."""
        found = self.means(columns)
        blank = (None,) * len(columns)
        stacks = {
            model: [found.get((d, model, n), blank) for d in self.designs for n in self.lengths]
            for model in self.models
        }
        kept = [any(s[i] for own in stacks.values() for s in own) for i in range(len(columns))]
        return tuple(
            Panel(
                model,
                self.labels,
                tuple(
                    Series(name, tuple(stack[i] for stack in own))
                    for i, name in enumerate(columns)
                    if kept[i]
                ),
                groups=tuple(self.designs),
            )
            for model, own in stacks.items()
        )


def _varies(table: pl.DataFrame, column: str) -> bool:
    return column in table.columns and table[column].drop_nulls().n_unique() > 1


def _compared(grid: _Grid, name: str, column: str, y_label: str) -> Iterator[Figure]:
    """A quantity relative to the baseline, with its mean over the points that designs share."""
    import polars as pl

    if not grid.has(column):
        return
    shared = in_common(grid.table)
    means = grid.table.filter(shared).group_by("design").agg(pl.col(column).mean())
    found = dict(means.iter_rows())
    bars = tuple(Series(design, (found.get(design),)) for design in grid.designs)
    label = "all" if shared.all() else f"{shared.sum() / len(shared):.0%} of points"
    panels = (*grid.grouped(column), Panel("mean", (label,), bars, numbered=True))
    values = [v for p in panels for s in p.series for v in s.values if v]
    log = bool(values) and max(values) > _LOG_FROM * min(values)
    rows = (Row(y_label, panels),)
    yield Figure(name, "grouped", rows, x_label=grid.x_label, log=log, reference=1.0)


def _utilization(grid: _Grid) -> Iterator[Figure]:
    """How busy each array is, and which Einsums keep the 2D array busy."""
    import polars as pl

    arrays = [a for a in ("2d", "1d") if grid.has(f"util_{a}")]
    rows = tuple(
        Row(f"{a.upper()} array utilization, {grid.kernel}", grid.grouped(f"util_{a}"))
        for a in arrays
    )
    if rows:
        yield Figure("utilization", "grouped", rows, x_label=grid.x_label)
    prefix = "util_2d."
    own = [c for c in grid.table.columns if c.startswith(prefix) and grid.has(c)]
    if own:
        panels = grid.stacked({c.removeprefix(prefix): pl.col(c) for c in own})
        rows = (Row(f"2D array utilization, {grid.kernel}", panels),)
        yield Figure("utilization_by_einsum", "stacked", rows, x_label=grid.x_label)


def _breakdown(grid: _Grid, base: str) -> Iterator[Figure]:
    """What the latency consists of, relative to the baseline's; without one, as shares."""
    import polars as pl

    own = [c for c in grid.table.columns if c.startswith("latency_") and c != "latency_s"]
    columns = [c for c in own if grid.has(c)]
    if not columns:
        return
    compared = grid.has("speedup")
    whole = pl.col("latency_s") * pl.col("speedup") if compared else pl.col("latency_s")
    terms = {c: c.removeprefix("latency_").removesuffix("_s") for c in columns}
    large = columns
    if len(columns) > _MOST_TERMS:  # colours repeat, and what is small cannot be told apart
        shares = grid.table.select((pl.col(columns) / whole).max()).row(0, named=True)
        large = [c for c in columns if (shares[c] or 0.0) >= LEAST_SHARE]
    parts = {_term(terms[c]): pl.col(c) / whole for c in large}
    if small := [pl.col(c) for c in columns if c not in large]:
        parts[OTHERS] = pl.sum_horizontal(small) / whole
    panels = grid.stacked(parts)
    label = f"latency of {grid.kernel} relative to {base}"
    label = label if compared else f"share of the latency of {grid.kernel}"
    reference = 1.0 if compared else None
    rows = (Row(label, panels),)
    yield Figure("latency_breakdown", "stacked", rows, x_label=grid.x_label, reference=reference)


def _term(name: str) -> str:
    """What a term of the latency is called in a figure.

    >>> _term("1d"), _term("norm_output"), _term("dram.inout1")
    ('1D array', 'norm output', 'DRAM inout1')
    """
    first, _, port = name.partition(".")
    return f"{_TERMS.get(first, first)} {port}".strip().replace("_", " ")


def _family(table: pl.DataFrame, name: str) -> Iterator[Figure]:
    """Area against latency, a line a model, points labelled with what was swept."""
    import polars as pl

    columns = list(table.columns)
    varied = [c for c in columns if c.startswith(("arch.", "shape.")) and _varies(table, c)]
    # what was swept stands before the results, what was derived from it behind them
    swept = [c for c in varied if columns.index(c) < columns.index("latency_s")] or varied[:1]
    table = table.filter(pl.col("latency_s").is_not_null() & pl.col("area_um2").is_not_null())
    if not swept or table.is_empty():
        return
    keys = ["model", *(c for c in ("kernel", "batch", "seq_len") if _varies(table, c))]
    lines = []
    for key, own in _parts(table, *keys):
        own = own.sort("area_um2", "latency_s")
        area = [a * 1e-6 for a in own["area_um2"]]
        latency = own["latency_s"].to_list()
        labels = tuple(
            "/".join(short(v) for v in row if v is not None)
            for row in own.select(swept).iter_rows()
        )
        title = " ".join(short(k) if isinstance(k, int) else str(k) for k in key)
        lines.append(Line(title, tuple(area), tuple(latency), labels, front(area, latency)))
    names = " / ".join(c.split(".")[-1].replace("_", " ") for c in swept)
    x_label = f"area (mm²); numbers: {names}"
    yield Figure(name, "lines", lines=tuple(lines), x_label=x_label, y_label="latency (s)")
