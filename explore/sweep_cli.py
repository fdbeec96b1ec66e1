"""The commands of sweeps: run one, its best points, its front, what two of them differ in."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explore.tables import print_table

if TYPE_CHECKING:
    import polars as pl

    from explore.sweeps.driver import Evaluator, Progress
    from explore.sweeps.read import Results

NOTHING_FEASIBLE, INTERRUPTED = 3, 130

Folder = Annotated[Path, typer.Argument(help="Folder of a sweep, or of a run.", metavar="DIR")]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", help="Only points for which this holds; again for more."),
]
Designs = Annotated[
    list[str] | None, typer.Option("--design", help="Only this design; again for more.")
]
Models = Annotated[list[str] | None, typer.Option("--model", help="Only this model.")]
Kernels = Annotated[list[str] | None, typer.Option("--kernel", help="Only this kernel.")]
TableOut = Annotated[
    Path | None, typer.Option(help="Write the rows to a .csv or .parquet file.", metavar="FILE")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("sweep")(sweep_command)
    app.command("top")(top_command)
    app.command("pareto")(pareto_command)
    app.command("diff")(diff_command)


def sweep_command(
    spec: Annotated[Path, typer.Argument(help="The experiment: a YAML file.", metavar="SPEC")],
    out: Annotated[Path | None, typer.Option(help="Folder of the results.", metavar="DIR")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes on this machine (default: its cores).")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="A Dask cluster: tcp://HOST:PORT or local:N.", metavar="ADDRESS"),
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove parts of former specs when finished.")
    ] = False,
) -> None:
    """Evaluate all points of SPEC that its folder does not hold yet."""
    if workers == 1:  # one process is one core; read when polars is imported
        os.environ.setdefault("POLARS_MAX_THREADS", "1")
    from einsum_cascade.source import InputError
    from explore.spec import experiment_file, load_experiment
    from explore.sweeps.driver import run_sweep
    from explore.sweeps.parts import SPEC, opened, read_manifest, write_whole

    if workers is not None and cluster is not None:
        raise InputError("--workers are processes on this machine, --cluster is another: give one")
    file = experiment_file(spec)
    experiment = load_experiment(file)
    folder = out if out is not None else Path("results") / experiment.name
    begin = time.perf_counter()
    with opened(folder) as store, _stopping(), _bar() as told:
        text = f"# {file.resolve()} (relative paths start from its folder)\n"
        text += file.read_text(encoding="utf-8-sig")
        try:
            with _evaluator(workers, cluster) as evaluate:
                write_whole(folder / SPEC, text.encode())
                progress = run_sweep(experiment, store, evaluate, told)
        except KeyboardInterrupt:
            typer.echo(
                f"interrupted; what is finished is in {folder}: run the same again to continue",
                err=True,
            )
            raise typer.Exit(INTERRUPTED) from None
        removed = store.prune(read_manifest(folder)["parts"]) if prune else 0
    seconds = time.perf_counter() - begin
    sampling = experiment.schema.sampling
    asked = sampling.columns if sampling is not None and sampling.columns != "all" else []
    _print_end(folder, progress, removed, seconds, asked)


def _print_end(
    folder: Path, progress: Progress, removed: int, seconds: float, asked: Sequence[str]
) -> None:
    import polars as pl

    from explore.sweeps.read import results

    every = results(folder)
    named = [name for name in dict.fromkeys(asked) if name in every.schema]
    counts = [pl.len().alias("0"), pl.col("reason").null_count().alias("1")]
    counts += [pl.col(name).count().alias(str(at)) for at, name in enumerate(named, start=2)]
    rows, feasible, *filled = every.scan().select(counts).collect(engine="streaming").row(0)
    kept = f", {progress.kept:,} were there before" if progress.kept else ""
    typer.echo(f"{progress.evaluated:,} points evaluated in {seconds:.1f} s{kept}")
    typer.echo(f"{rows:,} rows in {folder}, {rows - feasible:,} of them infeasible")
    if removed:
        typer.echo(f"{removed} parts of former specs removed")
    if not rows:
        typer.echo("no point meets all conditions of sampling.require")
    for name in (n for n, points in zip(named, filled, strict=True) if feasible and not points):
        typer.echo(f"note: no point has the column {name!r} of sampling.columns")
    if rows and not feasible:
        reasons = every.scan().select(pl.col("reason").value_counts(sort=True))
        most = reasons.head(1).unnest("reason").collect(engine="streaming")
        text, count = most.row(0)
        typer.echo(f"the reason of {count:,} of them: {text}")
    if not feasible:
        raise typer.Exit(NOTHING_FEASIBLE)


def top_command(
    folder: Folder,
    by: Annotated[str | None, typer.Option(help="A column, or an expression of some.")] = None,
    count: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 10,
    where: Where = None,
    design: Designs = None,
    model: Models = None,
    kernel: Kernels = None,
    out: TableOut = None,
) -> None:
    """The points with the least latency, or whatever --by says."""
    from explore.sweeps.read import top

    found = _opened(folder)
    chosen = by if by is not None else found.by
    table = top(found, chosen, count, where or (), _texts(design, model, kernel, found))
    _show(table, f"least {chosen}", out, count)


def pareto_command(
    folder: Folder,
    x: Annotated[str, typer.Option(help="A column, or an expression of some.")] = "latency_s",
    y: Annotated[str, typer.Option(help="The same of the other axis.")] = "energy_pj",
    count: Annotated[int, typer.Option("-n", min=1, help="Rows to print.")] = 40,
    where: Where = None,
    design: Designs = None,
    model: Models = None,
    kernel: Kernels = None,
    out: TableOut = None,
) -> None:
    """The points that no other beats in both of two figures; less is better."""
    from explore.sweeps.read import pareto

    results = _opened(folder)
    table = pareto(results, x, y, where or (), _texts(design, model, kernel, results))
    _show(table, f"{table.height} points on the front of {x} and {y}", out, count)


def diff_command(
    first: Annotated[Path, typer.Argument(help="Folder of a sweep, or of a run.", metavar="A")],
    second: Annotated[Path, typer.Argument(help="What it is compared with.", metavar="B")],
    by: Annotated[str | None, typer.Option(help="A column, or an expression of some.")] = None,
    count: Annotated[int, typer.Option("-n", min=1, help="Rows of each kind to print.")] = 10,
    where: Where = None,
    design: Designs = None,
    model: Models = None,
    kernel: Kernels = None,
    out: TableOut = None,
) -> None:
    """What became better, worse, new or gone from A to B, point by point."""
    import polars as pl

    from explore.sweeps.read import difference

    old, new = _opened(first), _opened(second)
    chosen = by if by is not None else new.by
    found = difference(old, new, chosen, where or (), _texts(design, model, kernel))
    total = sum(found.counts.values())
    typer.echo(f"{chosen} of {total:,} points, {first} to {second}:")
    typer.echo("  " + ", ".join(f"{n:,} {change}" for change, n in found.counts.items()))
    for change, n in found.counts.items():
        if n and change != "equal":
            rows = found.table.filter(pl.col("change") == change)
            least_first = change != "worse"
            if change in ("better", "worse"):
                rows = rows.sort("ratio", descending=not least_first, maintain_order=True)
            _show(rows.head(count).collect(engine="streaming").drop("change"), change, None, count)
    if out is not None:
        _write(found.table.collect(engine="streaming"), out)


def _opened(folder: Path) -> Results:
    from explore.sweeps.read import results

    found = results(folder)
    if found.missing:
        total = found.missing + len(found.files)
        typer.echo(f"note: {found.missing} of {total} parts are not finished", err=True)
    return found


def _texts(
    design: list[str] | None,
    model: list[str] | None,
    kernel: list[str] | None,
    of: Results | None = None,
) -> dict[str, list[str]]:
    """What is asked for by name, which has to be there in the results `of` a folder."""
    texts = {"design": design or [], "model": model or [], "kernel": kernel or []}
    if of is not None:
        of.check(texts)
    return texts


def _show(table: pl.DataFrame, title: str, out: Path | None, count: int) -> None:
    """The first rows of a table, without columns in which all of them are empty."""
    shown = table.head(count)
    names = [n for n in shown.columns if shown[n].null_count() < shown.height]
    cells = [
        ["" if v is None else f"{v:.5g}" if isinstance(v, float) else str(v) for v in row]
        for row in shown.select(names).iter_rows()
    ]
    if cells:
        print_table(title, names, cells)
    else:
        typer.echo(f"{title}: no point")
    if table.height > count:
        typer.echo(f"{table.height - count:,} more")
    if out is not None:
        _write(table, out)


def _write(table: pl.DataFrame, out: Path) -> None:
    from einsum_cascade.source import InputError

    writers: dict[str, Callable[[Path], Any]] = {
        ".csv": table.write_csv, ".parquet": table.write_parquet
    }  # fmt: skip
    if out.suffix not in writers:
        raise InputError(f"--out: found {out.name!r}", allowed=writers, found=out.suffix)
    try:
        writers[out.suffix](out)
    except OSError as error:
        raise InputError(f"cannot write {str(out)!r}: {error.strerror or error}") from None
    typer.echo(f"{table.height:,} rows in {out}")


@contextmanager
def _evaluator(workers: int | None, cluster: str | None) -> Iterator[Evaluator]:
    from explore.sweeps import driver

    if cluster is not None:
        with driver.cluster(cluster) as evaluate:
            yield evaluate
        return
    count = workers if workers is not None else driver.cores()
    yield driver.here if count == 1 else driver.processes(count)


@contextmanager
def _stopping() -> Iterator[None]:
    """A batch system's SIGTERM ends a sweep as Ctrl-C does."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None] | None]:
    """Rate, remaining time and the best so far, on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.percentage:3.0f} %"), BarColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(), TextColumn("{task.fields[best]}", markup=False),
        console=Console(stderr=True), transient=True,
    ) as bar:  # fmt: skip
        begin = time.perf_counter()
        task = bar.add_task("points", rate="", best="")

        def told(progress: Any) -> None:
            seconds = max(time.perf_counter() - begin, 1e-9)
            rate = f"{(progress.points - progress.kept) / seconds:,.0f} points/s"
            best = "" if progress.best is None else "best {:.4g} ({})".format(*progress.best)
            bar.update(task, total=progress.total, completed=progress.points, rate=rate, best=best)

        yield told
