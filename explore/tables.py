"""Tables and numbers on the terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Literal

_WIDE = 10_000
"""Characters of a line in a file: nothing is cut off there."""


def print_table(title: str, head: Sequence[str], cells: Iterable[Sequence[str]]) -> None:
    """Words to the left, what begins with a digit or a sign to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    rows = list(cells)
    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD)
    for i, name in enumerate(head):
        numbers = all(not row[i] or row[i][0] in "+-.0123456789" for row in rows)
        # a number that is cut off is another number
        side: Literal["left", "right"] = "right" if numbers else "left"
        table.add_column(name, justify=side, no_wrap=i == 0 or numbers, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else _WIDE, markup=False).print(table)


def engineering(value: float | None, unit: str) -> str:
    """A number with the SI prefix that leaves one to three digits before the point.

    >>> engineering(0.00123, "s"), engineering(2.5e12, "B")
    ('1.23 ms', '2.5 TB')
    """
    if value is None:
        return "-"
    thousands = math.floor(math.log10(abs(value)) / 3) if value else 0
    thousands = min(max(thousands, -4), 6)
    return f"{value / 1000.0**thousands:.4g} {'pnum kMGTPE'[thousands + 4].strip()}{unit}"
