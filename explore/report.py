"""The comparisons of `explore validate` as text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from explore.validate import ENERGY, FlatRow, Validation


def report(validation: Validation) -> str:
    """Deviations by figure, headline means, FLAT searched beside FLAT as published."""
    lines = [*_deviations(validation), "", *_headlines(validation), "", *_flat(validation), ""]
    lines.append("everything within tolerance" if validation.passed else "NOT within tolerance")
    return "\n".join(lines)


def _verdict(passed: bool) -> str:
    return "ok" if passed else "OUT OF TOLERANCE"


def _deviations(validation: Validation) -> Iterator[str]:
    yield "Deviation from the published rows: the largest of all rows, and their mean"
    yield ""
    head = ("figure", "quantity", "rows", "largest", "mean", "allowed")
    yield "  {:<26} {:<12} {:>4} {:>9} {:>8} {:>8}".format(*head)
    for c in validation.checks:
        yield (
            f"  {c.figure:<26} {c.quantity:<12} {c.rows:>4} {c.largest:>9.3%} {c.mean:>8.3%} "
            f"{c.tolerance:>8.0%}  {_verdict(c.passed)}"
        )
    yield ""
    short, long = (format(limit, ".0%") for limit in ENERGY)
    yield f"  Energy has two lines: {short} is allowed up to 16K tokens, and {long} from 64K on:"
    yield "  the published energies of long sequences count first reads wrongly (docs/model.md)"


def _headlines(validation: Validation) -> Iterator[str]:
    yield "Means that FuseMax claims, over 4 models x 6 lengths. Energy as its artifact counts it,"
    yield "and in full: with the register files of all PEs, not of one"
    yield ""
    yield "  {:<38} {:>7} {:>9} {:>8}".format("claim", "paper", "artifact", "full")
    for line in validation.headlines:
        form, rounded = (".1%", ".0%") if line.full is not None else (".2f", ".1f")
        full = "" if line.full is None else format(line.full, form)
        yield (
            f"  {line.claim:<38} {format(line.published, rounded):>7} "
            f"{format(line.computed, form):>9} {full:>8}  {_verdict(line.passed)}"
        )


def _flat(validation: Validation) -> Iterator[str]:
    yield "FLAT searched over FLAT with its published mappings: latency / DRAM traffic (of the"
    yield "products alone, the search may take only what is no worse in either)"
    for (platform, cascade), rows in groupby(validation.flat, key=_kind):
        table = list(rows)
        yield ""
        lengths = "".join(f"{_short(n):>12}" for n in table[0].seq_len)
        yield f"  {f'{platform}, {cascade}':<28}"
        yield f"  {'':<12}{lengths}"
        for row in table:
            pairs = zip(row.latency, row.traffic, strict=True)
            cells = "".join(f"{f'{time:.2f} / {moved:.2f}':>12}" for time, moved in pairs)
            yield f"  {row.model:<12}{cells}"


def _kind(row: FlatRow) -> tuple[str, str]:
    return row.platform, row.cascade


def _short(number: int) -> str:
    for suffix, size in (("M", 2**20), ("K", 2**10)):
        if number % size == 0:
            return f"{number // size}{suffix}"
    return str(number)
