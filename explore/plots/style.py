"""How figures look: widths of papers' columns, colours that also read in grey."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

COLUMN_IN = {"single": 3.5, "double": 7.16}
TEXT_PT = 7.0
TICK_PT = 6.5
INK = "#222222"

# Okabe and Ito (2008), ordered so that neighbours differ in lightness too
COLOURS = ("#E69F00", "#0072B2", "#F0E442", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#999999")
HATCHES = ("", "/////", "", ".....", "\\\\\\\\\\", "xxxxx", "-----", "|||||")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": TEXT_PT,
    "axes.labelsize": TEXT_PT,
    "axes.labelpad": 2.0,
    "axes.linewidth": 0.5,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": TICK_PT,
    "ytick.labelsize": TICK_PT,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 2.0,
    "ytick.major.size": 2.0,
    "xtick.minor.size": 1.2,
    "ytick.minor.size": 1.2,
    "xtick.major.pad": 1.5,
    "ytick.major.pad": 1.5,
    "legend.fontsize": TEXT_PT,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.4,
    "legend.borderpad": 0.2,
    "legend.labelspacing": 0.3,
    "hatch.linewidth": 0.4,
    "grid.linewidth": 0.3,
    "grid.color": "#cccccc",
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "svg.hashsalt": "explore",  # the same table gives the same file
    "savefig.dpi": 200,
}

SAVING: dict[str, dict[str, Any]] = {  # no dates: the same table gives the same file
    "pdf": {"metadata": {"CreationDate": None}},
    "svg": {"metadata": {"Date": None}},
    "png": {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 3}},
}


def look(index: int) -> dict[str, Any]:
    """Colour and hatch of the series at `index`, as a patch takes them."""
    turn, again = index % len(COLOURS), index // len(COLOURS)
    return {
        "facecolor": COLOURS[turn],
        "hatch": HATCHES[(turn + again) % len(HATCHES)],
        "edgecolor": INK,
        "linewidth": 0.3,
    }


def text_in(text: str, size_pt: float = TICK_PT) -> float:
    """The width of a line of text in inches, near enough to decide whether it fits."""
    return 0.61 * size_pt * len(text) / 72


def legend_form(names: Sequence[str], width_in: float, handle_in: float) -> tuple[int, int]:
    """Columns and lines of a legend, filled column by column; `handle_in` stands beside a name."""
    widths = [handle_in + text_in(name, TEXT_PT) for name in names]
    for lines in range(1, len(names) + 1):
        columns = [widths[i : i + lines] for i in range(0, len(widths), lines)]
        if sum(map(max, columns)) <= width_in or lines == len(names):
            break
    return len(columns), lines


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(value: float, _: object = None) -> str:
    """A power of ten as an axis shows it.

    >>> [power(v) for v in (0.01, 0.1, 1, 10, 100)]
    ['10⁻²', '0.1', '1', '10', '10²']
    """
    if 0.09 < value < 11:
        return f"{value:g}"
    return "10" + f"{round(math.log10(value))}".translate(_RAISED)


def log_ticks(axis: Any, lowest: float, highest: float) -> None:
    """Ticks of a logarithmic axis: decades named, and what lies between where there are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    few = highest < 20 * lowest
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axis.set_major_formatter(FuncFormatter((lambda value, _: f"{value:g}") if few else power))
    axis.set_minor_formatter(NullFormatter())
