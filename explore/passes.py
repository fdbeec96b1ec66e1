"""The table of `explore passes`: a row a cascade, for the terminal, as Markdown or as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from einsum_cascade import Cascade, InputError, analyze_passes
from einsum_cascade.expression import parse_quantity
from einsum_cascade.summary import Summary, Words, summarize

COLUMNS = (
    ("variant", ""),
    ("passes", "over keys"),
    ("passes", "over queries"),
    ("row state", "words"),
    ("special", "operations"),
    ("operations", ""),
    ("compulsory traffic", "words"),
    ("live footprint", "words"),
)
UNBOUNDED, WIDEST = 1000, 56
_SUFFIXES = {".md": "markdown", ".tex": "latex"}

Row = list[list[str]]
"""The cells of a row, each a list of lines."""


def pass_table(
    cascades: Iterable[Cascade],
    extents: Mapping[str, int],
    form: str = "table",
    width: int | None = None,
) -> str:
    """The table of `cascades`: `form` is table (wrapped at `width`), markdown or latex.

    Every cascade takes from `extents` what it has. Raises `InputError` for an extent that none has,
    or that contradicts a cascade.
    """
    cascades = list(cascades)
    names = {name for c in cascades for name in (*c.ranks, *c.parameters)}
    for name in extents:
        if name not in names:
            raise InputError(f"no cascade has a rank {name!r}", allowed=sorted(names), found=name)
    rows = []
    for cascade in cascades:
        own = {n: v for n, v in extents.items() if n in cascade.ranks or n in cascade.parameters}
        rows.append(summarize(analyze_passes(cascade), own))
    if form == "table":
        return _terminal(rows, width or UNBOUNDED)
    return _markdown(rows) if form == "markdown" else _latex(rows)


def parse_extents(texts: Iterable[str]) -> dict[str, int]:
    """`["M=1K", "P=2"]` as `{"M": 1024, "P": 2}`."""
    extents = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--shape takes RANK=EXTENT, found {text!r}")
        extent = parse_quantity(value)
        if extent != int(extent):
            raise InputError(f"{name} must be a whole number, found {value!r}")
        extents[name] = int(extent)
    return extents


def format_of(file: Path | None) -> str:
    """The form that the name of a file asks for."""
    return _SUFFIXES.get(file.suffix.lower(), "table") if file is not None else "table"


def _cells(
    row: Summary, formula: Callable[[Any], str], plain: Callable[[str], str], times: str
) -> Row:
    """The cells of a row; `formula` writes a form, `plain` a text."""

    def words(value: Words) -> list[str]:
        if not value.tensors:
            return ["-" if value.words == 0 else formula(value.words)]
        names = [f"{n}[{','.join(r)}]" if r else n for n, r in value.tensors]
        return [f"{plain(', '.join(names))}: {formula(value.words)}"]

    operations = [
        f"{plain(', '.join(kinds))}: {formula(form)}" for kinds, form in row.grouped_operations
    ]
    if row.factor != 1:
        operations.insert(0, f"{formula(row.factor)} {times}")
    return [
        [plain(row.name)],
        [plain(str(row.keys))],
        [plain(str(row.queries))],
        words(row.state),
        [plain(", ".join(row.special) or "-")],
        operations,
        [formula(row.compulsory_words)],
        words(row.footprint),
    ]


def _notes(rows: Sequence[Summary]) -> dict[str, list[tuple[str, str]]]:
    return {row.name: list(row.notes.items()) for row in rows if row.notes}


def _terminal(rows: Sequence[Summary], width: int) -> str:
    from io import StringIO

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_lines=True)
    for title, about in COLUMNS:
        first = title == COLUMNS[0][0]
        table.add_column(f"{title}\n{about}", no_wrap=first, max_width=None if first else WIDEST)
    for row in rows:
        table.add_row(*(Text("\n".join(lines)) for lines in _cells(row, str, str, "×")))
    stream = StringIO()
    Console(file=stream, width=width).print(table)
    lines = [line.rstrip() for line in stream.getvalue().strip("\n").splitlines()]
    for name, notes in _notes(rows).items():
        lines.append(f"{name}")
        lines += [f"  {symbol} = {text}" for symbol, text in notes]
    return "\n".join(lines)


def _markdown(rows: Sequence[Summary]) -> str:
    def formula(form: Any) -> str:
        return f"`{form}`"

    def plain(text: str) -> str:
        return text.replace("|", "\\|").replace("_", "\\_").replace("*", "\\*")

    titles = [f"{title} {about}".strip() for title, about in COLUMNS]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        cells = ["<br>".join(cell) for cell in _cells(row, formula, plain, "×")]
        lines.append(f"| {' | '.join(cells)} |")
    notes = _notes(rows)
    if notes:
        lines.append("")
    for name, found in notes.items():
        lines.append(f"- {name}: " + "; ".join(f"`{symbol}` = {plain(t)}" for symbol, t in found))
    return "\n".join(lines)


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "_": r"\_", "%": r"\%", "&": r"\&",
    "#": r"\#", "$": r"\$", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": "$<$",
    ">": "$>$", "≤": r"$\le$", "≥": r"$\ge$", "≠": r"$\ne$", "·": r"$\cdot$", "−": "$-$",
    "*": "$*$", "∞": r"$\infty$", "[": "{[}", "]": "{]}",
}  # fmt: skip


def _latex(rows: Sequence[Summary]) -> str:
    def formula(form: Any) -> str:
        import sympy

        symbols = {s: _latex_symbol(s.name) for s in form.free_symbols}
        return f"${sympy.latex(form, symbol_names=symbols)}$"

    columns = "@{}" + "l" * len(COLUMNS) + "@{}"
    lines = [
        r"% needs \usepackage{booktabs,longtable}; wide: small type, a landscape page",
        rf"\begin{{longtable}}{{{columns}}}",
        r"\toprule",
        " & ".join(title for title, _ in COLUMNS) + r" \\",
        " & ".join(about for _, about in COLUMNS) + r" \\",
        r"\midrule",
        r"\endhead",
        r"\bottomrule",
        r"\endfoot",
    ]
    for row in rows:
        cells = _cells(row, formula, _latex_text, r"$\times$")
        lines.append(" & ".join(map(_stacked, cells)) + r" \\")
    lines.append(r"\end{longtable}")
    noted = {row.name: row.note_parts.items() for row in rows if row.notes}
    for name, found in noted.items():
        texts = [
            f"${_latex_symbol(symbol)}$ = "
            + "".join(_latex_text(p) if isinstance(p, str) else formula(p) for p in parts)
            for symbol, parts in found
        ]
        lines.append(rf"\par\noindent {_latex_text(name)}: {'; '.join(texts)}.")
    return "\n".join(lines)


def _stacked(lines: Sequence[str]) -> str:
    """A cell of several lines."""
    if len(lines) == 1:
        return lines[0]
    return r"\begin{tabular}[t]{@{}l@{}}" + r" \\ ".join(lines) + r"\end{tabular}"


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_symbol(name: str) -> str:
    r"""A name in a formula: `M0` as `M_{0}`, `TOPK` upright, `w_K` as `w_{K}`.

    >>> _latex_symbol("M0"), _latex_symbol("TOPK"), _latex_symbol("w_WQ")
    ('M_{0}', '\\mathrm{TOPK}', 'w_{\\mathrm{WQ}}')
    """
    stem, _, index = name.partition("_")
    if not index and (split := re.fullmatch(r"([A-Za-z]+)(\d+)", name)):
        stem, index = split.groups()
    letters = [s if len(s) < 2 or s.isdigit() else rf"\mathrm{{{s}}}" for s in (stem, index)]
    return letters[0] + (f"_{{{letters[1]}}}" if index else "")
