"""How figures look: widths of papers' columns, colours that also read in grey."""

from __future__ import annotations

from typing import Any

COLUMN_IN = {"single": 3.5, "double": 7.16}

# Okabe and Ito (2008), ordered so that neighbours differ in lightness too
COLOURS = ("#E69F00", "#0072B2", "#F0E442", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#999999")
HATCHES = ("", "////", "", "....", "", "xxxx", "\\\\\\\\", "++++")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

SETTINGS: dict[str, Any] = {
    "font.size": 7.0,
    "axes.labelsize": 7.0,
    "axes.titlesize": 7.0,
    "axes.titlepad": 3.0,
    "axes.labelpad": 2.0,
    "axes.linewidth": 0.5,
    "axes.axisbelow": True,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2.0,
    "ytick.major.size": 2.0,
    "xtick.major.pad": 1.5,
    "ytick.major.pad": 1.5,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
    "hatch.linewidth": 0.4,
    "grid.linewidth": 0.3,
    "grid.color": "#cccccc",
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "svg.hashsalt": "explore",  # the same table gives the same file
    "savefig.dpi": 160,
    "font.family": "DejaVu Sans",
}

METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {"Software": None},
}


def look(index: int) -> dict[str, object]:
    """Colour and hatch of the series at `index`."""
    turn = index % len(COLOURS)
    return {
        "color": COLOURS[turn],
        "hatch": HATCHES[turn],
        "edgecolor": "#222222",
        "linewidth": 0.3,
    }
