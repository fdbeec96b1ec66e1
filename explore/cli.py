"""The `explore` command. Heavy imports happen inside the commands: start-up is instant."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from explore import mapping_cli, sweep_cli
from explore.tables import engineering, print_table

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import polars as pl

    from explore.agreement import Disagreement
    from explore.fpga import Resources
    from explore.levels import PointResult, Selection
    from explore.run import Summary
    from explore.schema import ExperimentSchema, FiguresSchema
    from explore.spec import Experiment
    from explore.theirs import Beside


class Level(StrEnum):
    """How finely a design point is simulated."""

    ANALYTIC = "analytic"
    TIMELINE = "timeline"
    CYCLE = "cycle"


class Width(StrEnum):
    """Width of the figures, in columns of a paper."""

    AUTO = "auto"
    SINGLE = "single"
    DOUBLE = "double"


class Format(StrEnum):
    """Forms of a table."""

    TABLE = "table"
    MARKDOWN = "markdown"
    LATEX = "latex"


app = typer.Typer(
    name="explore",
    help="Rank attention algorithms, accelerators and mappings before anything is built.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

MISTAKE, NOTHING_FEASIBLE, OUT_OF_TOLERANCE = 2, 3, 1

SpecFile = Annotated[Path, typer.Argument(help="The experiment: a YAML file.", metavar="SPEC")]
Out = Annotated[Path | None, typer.Option(help="Folder of the results.", metavar="DIR")]
Force = Annotated[bool, typer.Option("--force", help="Write over results that are there.")]
Designs = Annotated[
    list[str] | None, typer.Option("--design", help="Only this design; again for more.")
]
Models = Annotated[list[str] | None, typer.Option("--model", help="Only this model.")]
Kernels = Annotated[list[str] | None, typer.Option("--kernel", help="Only this kernel.")]
SeqLens = Annotated[
    list[str] | None, typer.Option("--seq-len", help="Only this length, as 4K.", metavar="N")
]
Batches = Annotated[list[int] | None, typer.Option("--batch", help="Only this batch size.")]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Only the first N of these points.", metavar="N")
]


def _version(wanted: bool) -> None:
    if wanted:
        from explore import __version__

        typer.echo(f"explore {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command("run")
def run_command(spec: SpecFile, out: Out = None, force: Force = False) -> None:
    """Evaluate every design point of SPEC, rank the designs, write results and figures."""
    from explore.fpga import resources_of
    from explore.plots import drawing_processes
    from explore.results import FIGURES, refuse_overwriting, write
    from explore.run import idle_memories, run, summarize
    from explore.spec import experiment_file, load_experiment
    from explore.sweeps.units import refuse_sampling
    from explore.theirs import beside_published

    spec = experiment_file(spec)
    experiment = load_experiment(spec)
    refuse_sampling(experiment)
    folder = out if out is not None else Path("results") / experiment.name
    refuse_overwriting(folder, force)
    schema = experiment.schema
    for architecture, memories in idle_memories(experiment).items():
        which = f"{', '.join(memories)} of {architecture}"
        typer.echo(f"warning: no mapper uses {which} (only its area is counted)", err=True)
    with drawing_processes() as pool:
        with _progress(experiment.points) as advance:
            table = run(experiment, advance, pool)
        write(table, folder, spec)
        reasons = table["reason"].drop_nulls()
        drawn = 0
        if len(reasons) < table.height:
            drawn = _draw(table, folder / FIGURES, schema, schema.figures, pool)
    _print_summary(summarize(table), schema.rank.baseline)
    _print_resources(resources_of(experiment.designs))
    _print_published(beside_published(table, schema.published))
    if len(reasons):
        typer.echo(f"{len(reasons)} of {table.height} points are infeasible; the first because")
        typer.echo(f"  {reasons[0]}")
    if not drawn:
        typer.echo(f"{table.height} rows in {folder}; nothing to draw")
    else:
        typer.echo(f"{table.height} rows in {folder}, {drawn} figure files in {folder / FIGURES}")
    if len(reasons) == table.height:
        raise typer.Exit(NOTHING_FEASIBLE)


sweep_cli.register(app)
mapping_cli.register(app)


@app.command("plot")
def plot_command(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.", metavar="DIR")],
    width: Annotated[Width | None, typer.Option(help="Column width, else the spec's.")] = None,
) -> None:
    """Draw the figures of a run again."""
    from einsum_cascade.source import check, read_yaml
    from explore.plots import drawing_processes
    from explore.results import FIGURES, SPEC, read
    from explore.schema import ExperimentSchema, FiguresSchema

    table = read(folder)
    schema, figures = None, FiguresSchema()
    if (folder / SPEC).is_file():
        schema = check(ExperimentSchema, read_yaml(folder / SPEC))
        figures = schema.figures
    if width is not None:
        figures = figures.model_copy(update={"width": width.value})
    with drawing_processes() as pool:
        drawn = _draw(table, folder / FIGURES, schema, figures, pool)
    if not drawn:
        typer.echo(f"nothing to draw: no point in {folder} is feasible")
        return
    typer.echo(f"{drawn} figure files in {folder / FIGURES}")


@app.command("passes", context_settings={"allow_extra_args": True})
def passes_command(
    context: typer.Context,
    cascade: Annotated[
        str | None,
        typer.Argument(
            help="A cascade by name, or a YAML file; none with --all.", metavar="CASCADE"
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="One table of all attention cascades.")
    ] = False,
    rank: Annotated[str | None, typer.Option(help="Only the passes over this rank.")] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="Extents, all or some: --shape M=1K P=1K.", metavar="K=V"),
    ] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="A table in this form, a row a cascade.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the table (.md and .tex say its form).")
    ] = None,
) -> None:
    """How many passes a cascade needs over each rank, and what forces each of them."""
    from shutil import get_terminal_size

    import workloads
    from einsum_cascade import analyze_passes
    from einsum_cascade.source import InputError
    from explore.passes import format_of, parse_extents, pass_table

    # `--shape M=1K P=1K`: the second extent is a word of its own to the parser of options
    words = [word for word in (cascade, *context.args) if word is not None]
    names = [word for word in words if "=" not in word]
    extents = parse_extents([*(shape or ()), *(word for word in words if "=" in word)])
    if every == bool(names) or len(names) > 1:
        raise InputError("explore passes takes one cascade, or --all")
    if every or form is not None or out is not None:
        if rank is not None:
            raise InputError("--rank goes with the report of one cascade, not with a table")
        chosen = workloads.list_cascades("attention") if every else names
        kind = form.value if form is not None else format_of(out)
        width = get_terminal_size().columns if out is None and sys.stdout.isatty() else None
        text = pass_table([workloads.cascade(n) for n in chosen], extents, kind, width)
        if out is not None:
            out.write_text(text + "\n", encoding="utf-8")
            typer.echo(f"{len(chosen)} rows in {out}")
        else:
            typer.echo(text)
        return
    found = workloads.cascade(names[0])
    if rank is not None:
        found.rank(rank)
    typer.echo(analyze_passes(found).report(rank=rank, shape=extents or None))


@app.command("simulate")
def simulate_command(
    spec: SpecFile,
    level: Annotated[Level, typer.Option(help="How finely.")] = Level.TIMELINE,
    out: Out = None,
    force: Force = False,
    design: Designs = None,
    model: Models = None,
    seq_len: SeqLens = None,
    kernel: Kernels = None,
    batch: Batches = None,
    limit: Limit = None,
) -> None:
    """Run design points of SPEC at one level: who works when, who waits for what."""
    from explore import levels
    from explore.results import refuse_overwriting
    from explore.spec import experiment_file, load_experiment

    experiment = load_experiment(experiment_file(spec))
    if out is not None:
        refuse_overwriting(out, force)
    chosen = levels.selection(design, model, kernel, seq_len, batch)
    results = [each for (each,) in _at_levels(experiment, chosen, (level.value,), limit)]
    _print_levels(results)
    if out is not None:
        levels.write_csv(levels.table_of(results), out / levels.CSV)
        typer.echo(f"{len(results)} rows in {out / levels.CSV}")
    if all(each.reason is not None for each in results):
        raise typer.Exit(NOTHING_FEASIBLE)


@app.command("trace")
def trace_command(
    spec: SpecFile,
    out: Annotated[
        Path,
        typer.Option(
            help="A .json file for one design; else a folder, for traces and a waterfall.",
            metavar="PATH",
        ),
    ],
    design: Designs = None,
    model: Models = None,
    seq_len: SeqLens = None,
    kernel: Kernels = None,
    batch: Batches = None,
    cycles: Annotated[
        float | None,
        typer.Option(min=1, help="The figure shows only the first N cycles.", metavar="N"),
    ] = None,
    force: Force = False,
) -> None:
    """One design point a design as a trace for Perfetto, and all of them as a waterfall.

    Of every model, length, batch and kernel that is not chosen the first of SPEC is taken.
    """
    from einsum_cascade.source import InputError
    from explore import levels
    from explore.results import FIGURES, refuse_overwriting, refuse_overwriting_file
    from explore.spec import experiment_file, load_experiment
    from explore.trace import file_names, warning, write_trace

    experiment = load_experiment(experiment_file(spec))
    single = out.suffix == ".json"
    if not single or out.is_dir():
        refuse_overwriting(out, force)
    else:
        refuse_overwriting_file(out, force)
    chosen = levels.selection(design, model, kernel, seq_len, batch)
    chosen = levels.first_of_each(experiment, chosen)
    if single and len(levels.places(experiment, chosen)) > 1:
        raise InputError(
            f"{out.name} holds one point: choose a design with --design, or give a folder",
            allowed=chosen.designs,
        )
    runs, left_out = levels.run_timelines(experiment, chosen)
    for each in left_out:
        typer.echo(f"{each.label}: {each.reason}", err=True)
    if not runs:
        raise typer.Exit(NOTHING_FEASIBLE)
    names = [out.name] if single else file_names([run.result.label for run in runs])
    folder = out.parent if single else out
    for run, name in zip(runs, names, strict=True):
        write_trace(run, folder / name)
        typer.echo(f"{run.result.name}: {engineering(run.result.latency_s, 's')}, {folder / name}")
        if (text := warning(run)) is not None:
            typer.echo(f"note: {text}", err=True)
    if not single:
        from explore.plots.waterfall import draw_waterfall, opening, waterfall_figure

        titled = [(run.result.label, run.timeline) for run in runs]
        figure = waterfall_figure(titled, cycles=cycles)
        start = opening(figure) if cycles is None else None
        schema = experiment.schema.figures
        for drawn in (figure, *([start] if start else [])):
            for path in draw_waterfall(drawn, folder / FIGURES, schema.width, schema.formats):
                typer.echo(path)


@app.command("compare-levels")
def compare_levels_command(
    spec: SpecFile,
    level: Annotated[
        tuple[Level, Level], typer.Option("--levels", help="The two levels to compare.")
    ] = (Level.ANALYTIC, Level.TIMELINE),
    out: Annotated[
        Path | None, typer.Option(help="A CSV file for the whole table.", metavar="FILE")
    ] = None,
    force: Force = False,
    design: Designs = None,
    model: Models = None,
    seq_len: SeqLens = None,
    kernel: Kernels = None,
    batch: Batches = None,
    limit: Limit = None,
    rows: Annotated[int, typer.Option(min=0, help="Rows to print, the worst first.")] = 40,
) -> None:
    """How far two levels agree at the design points of SPEC, and why they do not."""
    from explore import agreement, levels
    from explore.results import refuse_overwriting_file
    from explore.spec import experiment_file, load_experiment

    experiment = load_experiment(experiment_file(spec))
    if out is not None:
        refuse_overwriting_file(out, force)
    chosen = levels.selection(design, model, kernel, seq_len, batch)
    both = tuple(each.value for each in level)
    pairs = _at_levels(experiment, chosen, both, limit)
    found, left_out = agreement.disagreements(pairs), agreement.at_no_level(pairs)
    if found:
        _print_agreement(found, both, rows)
    if left_out:
        typer.echo(f"{len(left_out)} of {len(pairs)} points can run at neither level:")
        why = dict.fromkeys((d.first.design, d.effect) for d in left_out)
        for name, reason in list(why)[:rows]:
            typer.echo(f"  {name}: {reason}")
        if len(why) > rows:
            typer.echo(f"  {len(why) - rows} more reasons")
    if out is not None:
        levels.write_csv(agreement.disagreement_table([*found, *left_out]), out)
        typer.echo(f"{len(pairs)} rows in {out}")
    if all(each.gap is None for each in found):
        raise typer.Exit(NOTHING_FEASIBLE)


def _print_agreement(found: list[Disagreement], both: tuple[str, ...], rows: int) -> None:
    """Points at two levels, the worst first, and a row a design."""
    from explore import agreement

    if "cycle" in both:
        typer.echo("level cycle has no memory ports: both levels with memories that answer at once")
    head = ("design", "model", "kernel", "tokens", "batch", *both, "gap", "tasks", "effect")
    cells = [
        (*_point_cells(d.first), engineering(d.first.latency_s, "s"),
         engineering(d.second.latency_s, "s"), "" if d.gap is None else f"{100 * d.gap:+.3f} %",
         _count(d.second.tasks if d.second.tasks is not None else d.first.tasks), d.effect)
        for d in found[:rows]
    ]  # fmt: skip
    print_table(f"{both[1]} against {both[0]}, the largest gaps first", head, cells)
    if len(found) > rows:
        typer.echo(f"{len(found) - rows} more points agree better")

    def percent(share: float | None) -> str:
        return "" if share is None else f"{share:.3%}"

    summary = [
        (a.design, f"{a.points}", percent(a.median), percent(a.largest), f"{a.within}",
         f"{a.failed or ''}")
        for a in agreement.agreement(found)
    ]  # fmt: skip
    within = f"within {agreement.WITHIN:.0%}"
    about = ("design", "points", "median gap", "largest gap", within, "at one level only")
    print_table("by design", about, summary)


@app.command("numerics")
def numerics_command(spec: SpecFile, out: Out = None, force: Force = False) -> None:
    """Fixed-point formats and table sizes of SPEC against the error that they make."""
    from explore import numerics
    from explore.results import FIGURES, refuse_overwriting
    from explore.spec import experiment_file

    schema = numerics.load_numerics(experiment_file(spec))
    folder = out if out is not None else Path("results") / schema.name
    refuse_overwriting(folder, force)
    rows = list(numerics.numerics_rows(schema))
    table = numerics.table_of(rows)
    file = numerics.write_numerics(table, folder)
    for (study,), part in table.group_by("study", maintain_order=True):
        used = [name for name in part.columns if part[name].null_count() < part.height]
        cells = [
            [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row]
            for row in part.select(used[1:]).iter_rows()
        ]
        print_table(str(study), used[1:], cells)
    paths = numerics.draw_figures(rows, folder / FIGURES, schema.figures)
    typer.echo(f"{len(rows)} rows in {file}, {len(paths)} figure files in {folder / FIGURES}")


@app.command("list")
def list_command() -> None:
    """The cascades, architectures, mappers and models that specs can name."""
    import archs
    import mappers
    import workloads
    from archs.devices import list_devices, load_device
    from einsum_cascade.source import read_yaml
    from explore.spec import experiment_file, list_experiments

    def first_sentence(text: str) -> str:
        return " ".join(text.split()).partition(". ")[0].rstrip(".")

    sections = {
        "cascades": {n: workloads.cascade(n).description for n in workloads.list_cascades()},
        "architectures": {
            n: archs.load_architecture(n).description for n in archs.list_architectures()
        },
        "devices": {n: load_device(n).description for n in list_devices()},
        "mappers": {n: mappers.about(n) for n in mappers.list_mappers()},
        "models": {n: workloads.model(n).about for n in workloads.list_models()},
        "routings": {n: workloads.routing(n).about for n in workloads.list_routings()},
        "experiments": {
            n: read_yaml(experiment_file(n)).data.get("description", "") for n in list_experiments()
        },
    }
    for title, entries in sections.items():
        typer.echo(title)
        longest = max(map(len, entries))
        for name, description in entries.items():
            typer.echo(f"  {name:<{longest}}  {first_sentence(description)}".rstrip())


@app.command("validate")
def validate_command(
    out: Annotated[
        Path | None, typer.Option(help="Folder for the deviations of all rows.", metavar="DIR")
    ] = None,
) -> None:
    """Compare with the published rows that come with the project."""
    from explore.report import report
    from explore.validate import validate

    result = validate()
    typer.echo(report(result))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        result.deviations.write_csv(out / "deviations.csv")
    if not result.passed:
        raise typer.Exit(OUT_OF_TOLERANCE)


def _draw(
    table: pl.DataFrame,
    folder: Path,
    schema: ExperimentSchema | None,
    figures: FiguresSchema,
    pool: Executor,
) -> int:
    """Draw all figures; the number of files written."""
    from explore.plots import Published, draw_all

    given = schema.published if schema is not None else {}
    paths = draw_all(
        table,
        folder,
        baseline=schema.rank.baseline if schema is not None else None,
        published=[Published(name, p.latency_s, p.joules) for name, p in given.items()],
        pareto=(figures.pareto.x, figures.pareto.y),
        width=figures.width,
        formats=figures.formats,
        pool=pool,
    )
    return len(paths)


def _at_levels(
    experiment: Experiment, chosen: Selection, wanted: Sequence[str], limit: int | None
) -> list[tuple[PointResult, ...]]:
    """The chosen points at levels, side by side, with a progress bar."""
    from explore import levels
    from explore.plots import drawing_processes

    count = len(levels.places(experiment, chosen)[:limit])
    with drawing_processes() as pool, _progress(count) as advance:
        return levels.at_levels(experiment, chosen, wanted, limit, advance, pool)


@contextmanager
def _progress(points: int) -> Iterator[Callable[[str, int], None] | None]:
    """A progress bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("design points", total=points)
        yield lambda design, count: bar.update(task, advance=count, description=design)


def _print_summary(rows: list[Summary], baseline: str | None) -> None:
    """The designs, best first: means over the points of the main grid that they have in common."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    def plain(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    kernels = list(dict.fromkeys(row.kernel for row in rows))
    console = Console(width=None if sys.stdout.isatty() else 140)
    compared = ("speedup", "energy ratio") if baseline else ()
    for kernel in kernels:
        own = [row for row in rows if row.kernel == kernel]
        utils = {"2D util": "util_2d", "1D util": "util_1d"}
        utils = {n: c for n, c in utils.items() if any(getattr(r, c) is not None for r in own)}
        names = ("latency", "energy", "traffic", *utils, "bottleneck")
        against = f"; speedup and energy ratio against {baseline}" if baseline else ""
        title = f"{kernel}: {_points_compared(own[0])}{against}"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        table.add_column("design", no_wrap=True)
        for name in ("rank", *compared, *names):
            justify: Literal["left", "right"] = "left" if name == "bottleneck" else "right"
            table.add_column(name, justify=justify, no_wrap=True)
        for row in own:
            ratios = (plain(row.speedup, ".2f"), plain(row.energy_ratio, ".1%"))
            energy_j = None if row.energy_pj is None else row.energy_pj * 1e-12
            table.add_row(
                row.design
                + (f" ({row.infeasible} of {row.points} infeasible)" if row.infeasible else ""),
                plain(row.mean_rank, ".2f"),
                *(ratios if baseline else ()),
                engineering(row.latency_s, "s"),
                engineering(energy_j, "J"),
                engineering(row.traffic_bytes, "B"),
                *(plain(getattr(row, column), ".1%") for column in utils.values()),
                row.bottleneck,
            )
        console.print(table)


def _print_resources(rows: list[Resources]) -> None:
    """What designs need of an FPGA, as their files say, and the share of it."""
    kinds = list(dict.fromkeys(kind for row in rows for kind in row.need if row.have.get(kind)))

    def cell(row: Resources, kind: str) -> str:
        if not row.have.get(kind):
            return "-"
        return f"{row.need[kind]:,.0f} ({row.need[kind] / row.have[kind]:.0%})"

    if rows:
        cells = [(row.design, row.device, *(cell(row, kind) for kind in kinds)) for row in rows]
        title = "FPGA resources (estimates, unvalidated) and their share of the device"
        print_table(title, ["design", "device", *kinds], cells)


def _print_published(rows: list[Beside]) -> None:
    """What others published, and how many times the latency and energy of a design that is."""

    def times(ratio: float | None) -> str:
        return "-" if ratio is None else f"{ratio:.2f}x"

    cells = [
        (row.name, engineering(row.latency_s, "s"), engineering(row.energy_j, "J"),
         times(row.latency_ratio), times(row.energy_ratio), row.ours)
        for row in rows
    ]  # fmt: skip
    if cells:
        head = ["published", "latency", "energy", "latency, times", "energy, times", "that of"]
        print_table("published by others, and over what is computed here", head, cells)


def _print_levels(results: list[PointResult]) -> None:
    """Design points at one level, a row each."""
    from explore.levels import stall_text, term_text, unit_text

    units = list(dict.fromkeys(unit for r in results for unit in r.busy_s))
    shown = "busy" if all(r.stalled_s is None for r in results) else "busy/\nstalled/idle"
    head = ["design", "model", "kernel", "tokens", "batch", "latency"]
    head += [*(f"{unit} {shown} %" for unit in units), "largest stall", "critical path"]
    cells = [
        (*_point_cells(r), engineering(r.latency_s, "s") + ("*" if r.extrapolated else ""),
         *(unit_text(r, unit) for unit in units), r.reason or stall_text(r), term_text(r))
        for r in results
    ]  # fmt: skip
    print_table("", head, cells)
    if any(r.extrapolated for r in results):
        typer.echo("* extrapolated from a steady state")


def _point_cells(r: PointResult) -> tuple[str, ...]:
    from explore.plots.front import short

    return r.label, r.model, r.kernel, short(r.seq_len), str(r.batch)


def _count(number: float | None) -> str:
    return "-" if number is None else f"{number:.6g}"


def _points_compared(row: Summary) -> str:
    """What the means of a kernel are over."""
    if row.compared == row.points:
        return "means over all points"
    if not row.compared:
        return f"no means: none of the {row.points} points is feasible for all designs"
    count = f"{row.compared} of {row.points} points"
    return f"means over the {count} that are feasible for all designs that have any"


def main() -> None:
    """Run the command; a mistake in the input ends with its message and exit status 2."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where it is known what to do when nobody reads
    except ValueError as error:
        from einsum_cascade.source import InputError  # here, so that `--help` need not wait for it

        if not isinstance(error, InputError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(MISTAKE)
    except (BrokenPipeError, SystemExit) as end:
        # the reader of a pipe left early, as `| head` does
        if not isinstance(end, BrokenPipeError) and not isinstance(
            end.__context__, BrokenPipeError
        ):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
