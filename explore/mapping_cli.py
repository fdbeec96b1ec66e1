"""The command of mappings: what a mapper does at one design point."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from explore.mapping import PointMappings

NOTHING_FEASIBLE, INTERRUPTED = 3, 130


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("mapping")(mapping_command)


def mapping_command(
    spec: Annotated[Path, typer.Argument(help="The experiment: a YAML file.", metavar="SPEC")],
    design: Annotated[
        list[str] | None, typer.Option("--design", help="Only this design; again for more.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option("--model", help="At this model.")] = None,
    seq_len: Annotated[
        list[str] | None, typer.Option("--seq-len", help="At this length, as 4K.", metavar="N")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option("--batch", help="At this batch size.")] = None,
    front: Annotated[
        str | None,
        typer.Option(
            help="All mappings that none beats in these columns, as latency_s,energy_pj.",
            metavar="COLUMNS",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A .yaml file for the mapping; a folder for several.", metavar="PATH"),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            help="A .pdf, .svg or .png file: the loop nest, or of several mappings the front.",
            metavar="FILE",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over what is there.")] = False,
) -> None:
    """How SPEC's designs map their attention, each at one point: loop nests, tiles, and costs.

    Of every model, length and batch size that is not chosen the first of SPEC is taken.
    """
    from einsum_cascade.source import InputError
    from explore import levels
    from explore.mapping import changes_of, check_form, draw_point, mappings_of, parse_columns
    from explore.results import refuse_overwriting, refuse_overwriting_file
    from explore.spec import experiment_file, load_experiment

    experiment = load_experiment(experiment_file(spec))
    single = out is not None and out.suffix in (".yaml", ".yml")
    if out is not None:
        (refuse_overwriting_file if single else refuse_overwriting)(out, force)
    chosen = levels.selection(design, model, None, seq_len, batch)
    if figure is not None:
        check_form(figure)
        refuse_overwriting_file(figure, force)
        _refuse_several(figure, len(set(chosen.designs) or experiment.designs))
    points = list(mappings_of(experiment, chosen, parse_columns(front) if front else ()))
    found = [point for point in points if point.mappings]
    count = sum(len(point.mappings) for point in found)
    if count > 1 and single:
        raise InputError(f"{out} holds one mapping, and these are {count}: give a folder")
    if figure is not None:
        _refuse_several(figure, len(found))
    files = _file_names(found)
    for point in points:
        typer.echo(f"{point.design.name}: {point.where}")
        if point.reason is not None:
            typer.echo(f"  infeasible: {point.reason}")
            for change in changes_of(point):
                if change not in point.reason:
                    typer.echo(f"  something fits with {change}")
            continue
        if point.interrupted:
            typer.echo("interrupted: the best so far", err=True)
        names = [files.pop(0) for _ in point.mappings]
        _print(point, names if out is not None and not single else [], front is not None)
        for number, name in enumerate(names):
            if out is not None:
                _write(point, number, out if single else out / name)
        if out is not None:
            typer.echo(f"{len(names)} mapping{'s' * (len(names) > 1)} in {out}")
        if figure is not None:
            typer.echo(draw_point(point, figure, experiment.schema.figures.width))
    if not found:
        raise typer.Exit(NOTHING_FEASIBLE)
    if any(point.interrupted for point in points):
        raise typer.Exit(INTERRUPTED)


def _refuse_several(figure: Path, count: int) -> None:
    from einsum_cascade.source import InputError

    if count > 1:
        raise InputError(f"{figure} shows one design: choose it with --design")


def _print(point: PointMappings, names: list[str], several: bool) -> None:
    """One mapping as its loop nest (and where `several` were asked for, that it is one); several as
    a table."""
    from explore.tables import engineering, print_table
    from mappers.drawing import draw

    units = {"latency_s": ("s", 1.0), "energy_pj": ("J", 1e-12)}

    def cell(column: str, value: float) -> str:
        unit, scale = units.get(column, ("B", 1.0))
        return engineering(value * scale, unit)

    if len(point.mappings) == 1:
        if several:
            typer.echo(f"  one mapping is best in {' and '.join(point.columns)}")
        row = zip(point.columns, point.costs[0], strict=True)
        costs = (f"{name.rpartition('_')[0]} {cell(name, float(v))}" for name, v in row)
        typer.echo("  " + ", ".join(costs))
        if note := str(point.mappings[0].notes):
            typer.echo(f"  {note}")
        typer.echo(draw(point.mappings[0]))
        return
    cells = [
        [str(number + 1), *(cell(c, float(v)) for c, v in zip(point.columns, row, strict=True)),
         *names[number : number + 1], str(mapping.notes).partition(" (")[0]]
        for number, (row, mapping) in enumerate(zip(point.costs, point.mappings, strict=True))
    ]  # fmt: skip
    head = ["", *(c.rpartition("_")[0] for c in point.columns), *(["file"] if names else [])]
    title = f"{len(cells)} mappings that none beats in {' and '.join(point.columns)}"
    print_table(title, [*head, "mapping"], cells)


def _file_names(points: list[PointMappings]) -> list[str]:
    """A name of a file for every mapping."""
    found: list[str] = []
    for point in points:
        plain = re.sub(r"[^A-Za-z0-9+._]+", "-", point.design.name).strip("-") or "mapping"
        for number in range(len(point.mappings)):
            name = f"{plain}-{number + 1}" if len(point.mappings) > 1 else plain
            again = 2
            while f"{name}.yaml" in found:
                name, again = f"{plain}-again{again}", again + 1
            found.append(f"{name}.yaml")
    return found


def _write(point: PointMappings, number: int, file: Path) -> None:
    from einsum_cascade.source import InputError

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(point.written(number), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {str(file)!r}: {error.strerror}") from None
