"""The analysis as plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from einsum_cascade.cascade import Shape
from einsum_cascade.shapes import known_shape

if TYPE_CHECKING:
    from einsum_cascade.analysis import PassAnalysis


def report(analysis: PassAnalysis, rank: str | None = None, shape: Shape | None = None) -> str:
    """Passes with what forces them, footprints, operations and compulsory traffic.

    `rank` limits the passes to one rank. With a `shape` (one design point), numbers stand beside
    the closed forms; with a part of one, the closed forms with what is known put in.
    """
    cascade = analysis.cascade
    known = known_shape(cascade, shape) if shape is not None else {}
    names = [*cascade.ranks, *cascade.parameters]
    if shape is not None and len(known) < len(names):
        shape = None
    put_in = known if shape is None else {}
    lines = [f"{cascade.name}: {len(cascade.einsums)} Einsums"]
    if cascade.description:
        lines.append(f"  {cascade.description}")
    lines += ["", "Passes"]
    for name in [cascade.rank(rank).name] if rank else cascade.ranks:
        lines += _passes(analysis, name)
    lines += ["", "Minimum live footprint (words)"]
    lines += _table(
        [
            (name, _form(analysis.footprint(name), put_in), _number(_words(analysis, name, shape)))
            for name in cascade.tensors
            if analysis.live_ranks(name)
        ]
        or [("every tensor", "1", "")]
    )
    lines += ["", "Operations"]
    counts = analysis.operation_counts(shape) if shape is not None else {}
    lines += _table(
        [
            (kind, _form(form, put_in), _number(counts.get(kind)))
            for kind, form in analysis.operation_counts().items()
        ]
        or [("none", "0", "")]
    )
    lines += ["", "Compulsory traffic (words): every input once, every output once"]
    number = analysis.compulsory_words(shape) if shape is not None else None
    lines += _table([("total", _form(analysis.compulsory_words(), put_in), _number(number))])
    if put_in:
        given = ", ".join(f"{name} = {value}" for name, value in put_in.items())
        missing = ", ".join(name for name in names if name not in known)
        lines += ["", f"With {given}; numbers would need {missing} too"]
    return "\n".join(lines)


def _form(form: Any, known: Shape) -> str:
    """A closed form, with the extents that are known put in."""
    if not known or not hasattr(form, "free_symbols"):
        return str(form)
    return str(form.subs({s: known[s.name] for s in form.free_symbols if s.name in known}))


def _words(analysis: PassAnalysis, tensor: str, shape: Shape | None) -> Any:
    return None if shape is None else analysis.footprint_words(tensor, shape)


def _passes(analysis: PassAnalysis, name: str) -> list[str]:
    cascade = analysis.cascade
    rank = cascade.ranks[name]
    most = analysis.passes(name)
    if most == 0:
        return [f"  {name}: not traversed"]
    notes = [rank.about] if rank.about else []
    if rank.partition:
        notes.append(f"in parts {' x '.join(rank.partition)}, as often as {rank.partition[0]}")
    if rank.parent:
        notes.append(f"part of {rank.parent}")
    if rank.iterative:
        notes.append("iterative")
    note = f" ({'; '.join(notes)})" if notes else ""
    lines = [f"  {name}{note}: {most} {'pass' if most == 1 else 'passes'}"]
    if most == 1:
        return lines
    by_count: dict[int, list[str]] = {}
    for tensor in cascade.tensors:
        count = analysis.passes(name, tensor)
        if count:
            by_count.setdefault(count, []).append(tensor)
    for count, tensors in sorted(by_count.items(), reverse=True):
        lines.append(f"    {count} over {', '.join(tensors)}")
    for step in analysis.chain(name):
        lines.append(f"    pass {step.number}: {', '.join(step.einsums)}")
        if step.reduction:
            lines.append(
                f"      forced by {step.tensor}: complete only after pass {step.number - 1}, "
                f"needed by {step.path[-1]}"
            )
            lines.append(f"      chain: {' -> '.join(step.path)}")
    return lines


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{float(value):,.0f}"


def _table(rows: list[tuple[str, str, str]]) -> list[str]:
    first, second = (max(len(row[i]) for row in rows) for i in (0, 1))
    return [f"  {a:<{first}}  {b:<{second}}  {c}".rstrip() for a, b, c in rows]
