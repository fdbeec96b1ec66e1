"""What a sweep shows: one parameter as curves, several as points and their front."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from explore.plots.figure import Figure, Line, LinePanel
from explore.plots.front import front, scaled, short

if TYPE_CHECKING:
    import polars as pl

_FEWEST_VALUES = 3
_MOST_LINES = 8
_MOST_NAMED = 16
_AXES = {
    "dsp": ("DSP slices", 1.0),
    "bram18": ("block RAMs of 18 Kb", 1.0),
    "uram": ("UltraRAMs", 1.0),
    "lut": ("LUTs", 1.0),
    "ff": ("flip-flops", 1.0),
    "area_um2": ("area (mm²)", 1e-6),
    "energy_pj": ("energy (J)", 1e-12),
    "traffic_bytes": ("DRAM traffic (B)", 1.0),
}
Axes = tuple[str | None, str]
"""The columns of a front; without the first, DSP slices, or the area where there are none."""


def swept_columns(table: pl.DataFrame) -> list[str]:
    """What was swept in a grid: it stands before the results, what was derived behind them."""
    columns = table.columns
    before = columns[: columns.index("latency_s")]
    return [c for c in before if c.startswith(("arch.", "shape.")) and varies(table, c)]


def varies(table: pl.DataFrame, column: str) -> bool:
    """Whether there are different values in a column."""
    return column in table.columns and table[column].drop_nulls().n_unique() > 1


def sweep_figures(
    table: pl.DataFrame, main: pl.DataFrame, family: str | None, axes: Axes
) -> Iterator[Figure]:
    """The figures of one grid, kernel by kernel; points of the `main` grid are marked in fronts."""
    swept = swept_columns(table)
    for (kernel,), own in table.group_by("kernel", maintain_order=True):
        name = f"{family}_{kernel}" if family is not None else str(kernel)
        if len(swept) == 1:
            yield from _curves(f"sweep_{name}", own, swept[0], str(kernel))
        elif swept:
            named = main.filter(main["kernel"] == kernel) if family is not None else main.clear()
            yield from _points(f"front_{name}", own, named, swept, str(kernel), axes)


def _curves(name: str, table: pl.DataFrame, swept: str, kernel: str) -> Iterator[Figure]:
    """Latency and the bandwidth needed against one parameter, a line a design and workload.

    The bandwidth is what a memory has to give for arrays never to wait: the traffic over the time
    that the kernel took if they did not (`compute_s`). Where there would be too many lines, each is
    the mean over the workloads.
    """
    import polars as pl

    table = table.filter(pl.col("latency_s").is_not_null())
    keys = ["design", *(c for c in ("model", "batch", "seq_len") if varies(table, c))]
    if table.select(keys).n_unique() > _MOST_LINES:
        keys = ["design"]
    if table.is_empty() or table.select(keys).n_unique() > _MOST_LINES:
        return
    quantities = {"latency": pl.col("latency_s")}
    if "compute_s" in table.columns and table["compute_s"].count():
        quantities["bandwidth"] = pl.col("traffic_bytes") / pl.col("compute_s") * 1e-9
    means = (
        table.group_by(*keys, swept, maintain_order=True)
        .agg(value.mean().alias(quantity) for quantity, value in quantities.items())
        .sort(swept, maintain_order=True)
    )
    factor, unit = scaled(means["latency"].to_list())
    labels = {"latency": f"latency of {kernel} ({unit}s)", "bandwidth": "bandwidth needed (GB/s)"}
    panels = []
    for quantity in quantities:
        lines = []
        for key, own in means.group_by(*keys, maintain_order=True):
            y = own[quantity] * (factor if quantity == "latency" else 1.0)
            title = _title(keys, key, table["design"].n_unique() > 1)
            x = tuple(map(float, own[swept]))
            lines.append(Line(title, x, tuple(y), (), (True,) * own.height))
        panels.append(LinePanel("", last_part(swept), labels[quantity], tuple(lines)))
    if max(len(line.x) for line in panels[0].lines) >= _FEWEST_VALUES:
        yield Figure(name, "curves", curves=(tuple(panels),))


def _title(keys: Sequence[str], key: Sequence[object], designs: bool) -> str:
    """What a line is called: by its design, unless there is but one and something else to say."""
    parts = [
        f"batch {value}"
        if column == "batch"
        else short(value)
        if isinstance(value, int)
        else str(value)
        for column, value in zip(keys, key, strict=True)
        if designs or column != "design" or len(keys) == 1
    ]
    return ", ".join(parts)


def last_part(column: str) -> str:
    """A swept parameter as an axis names it.

    >>> last_part("arch.memories.buffer.size_bytes")
    'size bytes'
    """
    return column.split(".")[-1].replace("_", " ")


def _points(
    name: str,
    table: pl.DataFrame,
    main: pl.DataFrame,
    swept: Sequence[str],
    kernel: str,
    axes: Axes,
) -> Iterator[Figure]:
    """All points of a sweep by two quantities, their front, and the designs as they are unswept.

    Points are means over models, lengths and batch sizes.
    """
    import polars as pl

    y_column = axes[1]
    x_column = axes[0] or next((c for c in ("dsp", "area_um2") if _has(table, c)), None)
    if x_column is None or not (_has(table, x_column) and _has(table, y_column)):
        return
    found = pl.col("latency_s").is_not_null() & (pl.col(x_column) > 0) & (pl.col(y_column) > 0)
    pair = pl.col(x_column, y_column).mean()
    means = table.filter(found).group_by("design", *swept, maintain_order=True).agg(pair)
    if means.is_empty() or means["design"].n_unique() > _MOST_LINES:
        return
    seconds = [*means[y_column]] if y_column == "latency_s" else [*means[x_column]]
    factor, unit = scaled(seconds)
    scale = {c: (label, f) for c, (label, f) in _AXES.items()}
    scale["latency_s"] = (f"latency of {kernel} ({unit}s)", factor)
    (x_label, x_factor), (y_label, y_factor) = scale[x_column], scale[y_column]
    lines = []
    for (design,), own in means.group_by("design", maintain_order=True):
        x, y = ((own[c] * f).to_list() for c, f in ((x_column, x_factor), (y_column, y_factor)))
        best = front(x, y)
        named = sum(best) <= _MOST_NAMED
        labels = tuple(
            "/".join(map(short, values)) if on and named else ""
            for on, values in zip(best, own.select(swept).iter_rows(), strict=True)
        )
        lines.append(Line(str(design), tuple(x), tuple(y), labels, best))
    unswept = main.filter(found, pl.col("design").is_in([line.name for line in lines]))
    marked = tuple(
        (str(design), x * x_factor, y * y_factor)
        for design, x, y in unswept.group_by("design", maintain_order=True).agg(pair).iter_rows()
    )
    if any(label for line in lines for label in line.labels):
        x_label += f"; numbers: {' / '.join(map(last_part, swept))}"
    panel = LinePanel("", x_label, y_label, tuple(lines), True, True, marked, True)
    yield Figure(name, "curves", curves=((panel,),))


def _has(table: pl.DataFrame, column: str) -> bool:
    return column in table.columns and bool((table[column].drop_nulls() > 0).any())


__all__ = ["Axes", "last_part", "sweep_figures", "swept_columns", "varies"]
