"""How much the numbers of an architecture matter: the latency with each of them scaled.

    python benchmarks/sensitivity.py SPEC DESIGN [--numbers PATTERN ...] [--factors 0.5 2]

Takes the first model, length and batch of SPEC, and of its kernels the last (a network, say). The
numbers are those whose dotted path fits a PATTERN (such as `arrays.*.loop.*`); without any, those
that the architecture file marks as inferred, but for its resources. What follows from a number in
the file changes with it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any

from archs.loading import ArchitectureFile
from explore.evaluate import evaluate_design
from explore.spec import Design, Experiment, experiment_file, load_experiment


@dataclass(frozen=True)
class Row:
    """A number, and the latency with it times each factor, or the reason why that cannot be."""

    number: str
    value: float
    seconds: tuple[float | str, ...]


def inferred(file: ArchitectureFile) -> list[str]:
    """The numbers that nobody published, by their dotted path."""

    def walk(block: Any, path: tuple[str, ...]) -> Iterator[str]:
        if isinstance(block, dict) and "value" in block:
            if "inferred" in block:
                yield ".".join(path[1:] if path[0] == "parameters" else path)
        elif isinstance(block, (dict, list)):
            items = block.items() if isinstance(block, dict) else enumerate(block)
            for key, inner in items:
                yield from walk(inner, (*path, str(key)))

    known = file.parameters()
    return [
        p for p in walk(file.document.data, ()) if p in known and not p.startswith("resources.")
    ]


def sensitivity(
    experiment: Experiment, design: Design, numbers: Sequence[str], factors: Sequence[float]
) -> tuple[float, list[Row]]:
    """The latency as the design is, and a row for each number."""
    main = experiment.grids[0]
    grid = replace(
        main,
        designs=(design,),
        models=main.models[:1],
        kernels=main.kernels[-1:],
        seq_len=main.seq_len[:1],
        batch=main.batch[:1],
        sweep={},
    )
    accounting = experiment.schema.energy.accounting

    def latencies(sweep: dict[str, list[float]]) -> list[float | str]:
        places = main.places | dict.fromkeys(sweep, design.place)
        found = evaluate_design(replace(grid, sweep=sweep, places=places), design, accounting)
        costs = found.kernels[grid.kernels[0]]
        pairs = zip(costs.latency_s, costs.infeasible, strict=True)
        return [float(s) if reason is None else str(reason) for s, reason in pairs]

    (base,) = latencies({})
    if isinstance(base, str):
        raise SystemExit(f"design {design.name!r} cannot be: {base}")
    values = design.architecture.resolve().parameters
    rows = []
    for number in numbers:
        value = float(values[number])
        found = latencies({f"arch.{number}": [value * factor for factor in factors]})
        rows.append(Row(number, value, tuple(found)))
    return base, rows


def main() -> None:
    """Print the table, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("spec")
    parser.add_argument("design")
    parser.add_argument("--numbers", nargs="*", default=[], metavar="PATTERN")
    parser.add_argument("--factors", nargs="*", type=float, default=[0.5, 2.0])
    given = parser.parse_args()
    experiment = load_experiment(experiment_file(given.spec))
    designs = {design.name: design for design in experiment.designs}
    if given.design not in designs:
        raise SystemExit(f"no design {given.design!r}: {', '.join(designs)}")
    design = designs[given.design]
    numbers = [
        path
        for path in design.architecture.parameters()
        if any(fnmatch(path, pattern) for pattern in given.numbers)
    ]
    base, rows = sensitivity(
        experiment, design, numbers or inferred(design.architecture), given.factors
    )
    print(f"{design.name}: {base * 1e3:.2f} ms\n")
    print("| number | value |" + "".join(f" times {factor:g} |" for factor in given.factors))
    print("|---" * (2 + len(given.factors)) + "|")
    reasons = []
    for row in rows:
        cells = []
        for factor, found in zip(given.factors, row.seconds, strict=True):
            if isinstance(found, str):
                reasons.append(f"`{row.number}` times {factor:g}: {found}")
                cells.append("cannot be")
            else:
                cells.append(f"{found * 1e3:.2f} ms ({100 * (found / base - 1):+.1f} %)")
        print(f"| `{row.number}` | {row.value:g} | {' | '.join(cells)} |")
    if reasons:
        print("\nWhat cannot be:\n\n" + "\n".join(f"- {reason}" for reason in reasons))


if __name__ == "__main__":
    main()
