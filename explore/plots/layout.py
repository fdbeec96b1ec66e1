"""Where the panels of a figure of bars stand: folded into lines when a row is too wide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from explore.plots.figure import Panel, Row
from explore.plots.style import TEXT_PT, TICK_PT, text_in

LEFT_IN, RIGHT_IN = 0.44, 0.04
TITLE_IN, TEXT_LINE_IN = 0.17, 0.13
BETWEEN_PANELS, BETWEEN_GROUPS, FILL = 0.7, 0.6, 0.86  # in units of a label's place
EDGE = 0.25
NARROWEST_IN = 0.022  # of a bar
LETTER_IN = text_in("x", TEXT_PT) * 0.9  # of prose
ALONG_Y: dict[str, Any] = {
    "rotation": 90, "ha": "left", "va": "center", "multialignment": "center", "linespacing": 1.0
}  # fmt: skip
PITCH_IN = TICK_PT * 1.05 / 72  # of labels that stand upright
LONGEST_TURNED = 13  # letters of a name that is written aslant

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Strip:
    """Panels side by side in one set of axes; a label's place is one unit wide."""

    y_label: str
    panels: tuple[Panel, ...]

    @cached_property
    def places(self) -> list[Any]:
        """Where the labels of each panel stand."""
        begin, found = EDGE, []
        for panel in self.panels:
            each = place(panel)
            at = begin + each * (np.arange(len(panel.labels) * max(1, len(panel.groups))) + 0.5)
            at += BETWEEN_GROUPS * (np.arange(len(at)) // len(panel.labels))
            found.append(at)
            begin = at[-1] + each / 2 + BETWEEN_PANELS
        return found

    @property
    def extent(self) -> float:
        """The width of all panels."""
        return float(self.places[-1][-1]) + place(self.panels[-1]) / 2 + EDGE

    @property
    def labels(self) -> list[str]:
        """The labels of all panels."""
        return [label for p in self.panels for label in p.labels * max(1, len(p.groups))]

    @property
    def groups(self) -> list[tuple[float, str]]:
        """Where the names of the groups stand, and the names."""
        return [
            (float(middle), name)
            for panel, at in zip(self.panels, self.places, strict=True)
            if panel.groups
            for middle, name in zip(
                at.reshape(len(panel.groups), -1).mean(axis=1), panel.groups, strict=True
            )
        ]


def place(panel: Panel) -> float:
    """The width of a label's place: bars with numbers need room for them."""
    return max(3.0, 0.75 * len(panel.series)) if panel.numbered else 1.0


def folded(row: Row, longest: float) -> Iterator[Strip]:
    """The panels of a row in as few lines as hold them, all but the last equally many."""
    for count in range(1, len(row.panels) + 1):
        each = -(-len(row.panels) // count)
        parts = [row.panels[i : i + each] for i in range(0, len(row.panels), each)]
        lines = [Strip(row.y_label, part) for part in parts]
        if all(line.extent <= longest for line in lines):
            break
    yield from lines


def fits(line: Strip, unit_in: float) -> bool:
    """Whether the labels can be written side by side."""
    at = np.concatenate(line.places) * unit_in
    half = np.array([text_in(label) / 2 for label in line.labels])
    return bool(np.all(np.diff(at) >= half[1:] + half[:-1] + 0.015))


def names_fit(line: Strip, unit_in: float) -> bool:
    """Whether the names of the groups can be written side by side."""
    spans = [(at * unit_in, text_in(name, TEXT_PT) / 2) for at, name in line.groups]
    return all(b - a >= p + q + 0.03 for (a, p), (b, q) in pairwise(spans))


def shortened(text: str, most: int) -> str:
    """A name of at most `most` letters: names often differ at their ends, so the middle goes.

    >>> shortened("a long name 3", 9)
    'a lo…me 3'
    """
    if len(text) <= most:
        return text
    tail = (most - 1) // 2
    return f"{text[: most - 1 - tail]}…{text[-tail:]}"


def told_apart(names: Sequence[str], most: int) -> list[str]:
    """Names of at most `most` letters, or of as many more as tell different ones apart.

    What stands last ("on flat-cloud") is kept whole then, as it is what differs.

    >>> told_apart(["a long name 3", "short"], 9)
    ['a lo…me 3', 'short']
    >>> told_apart(["sliding-window on flat-cloud", "sliding-window on fusemax-cloud"], 13)
    ['slidin…flat-cloud', 'slidin…fusemax-cloud']
    """
    different = len(set(names))
    cut = [shortened(name, most) for name in names]
    head = most // 2
    while len(set(cut)) < different and head < max(map(len, names)):
        ends = [name.rsplit(" ", 1)[-1] if " " in name else name[-head:] for name in names]
        cut = [
            name if len(name) <= head + 1 + len(end) else f"{name[:head]}…{end}"
            for name, end in zip(names, ends, strict=True)
        ]
        head += 1
    return cut if len(set(cut)) == different else list(names)


def raised(labels: Sequence[tuple[float, float, float]], pitch: float) -> list[float]:
    """Heights at which labels do not cover each other, given as (left, right, height).

    They go up, the lowest first, until each is `pitch` away from those beside it.

    >>> raised([(0, 9, 1), (5, 12, 0), (20, 25, 1)], 3)
    [3, 0, 1]
    """
    heights = [height for _, _, height in labels]
    done: list[int] = []
    for i in sorted(range(len(labels)), key=lambda i: heights[i]):
        left, right, _ = labels[i]
        for j in sorted(done, key=lambda j: heights[j]):
            beside = left < labels[j][1] and labels[j][0] < right
            if beside and abs(heights[i] - heights[j]) < pitch:
                heights[i] = heights[j] + pitch
        done.append(i)
    return heights


Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""


AROUND = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
"""Sides of a point: right, left, above, below, and aslant."""


_MOST_COVERED = 0.05  # of its own area, off the page four times as bad


def beside(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    page: Box,
    obstacles: Sequence[tuple[float, float]] = (),
    gap: float = 4.0,
    around: Sequence[tuple[int, int]] = AROUND,
) -> list[tuple[float, float] | None]:
    """Left bottom corners of labels of some `sizes`, each by its point, where they cover least.

    A label keeps off other labels, the points and `obstacles`, and stays on the page as far as it
    goes; the first place `around` a point that covers nothing is taken, the near ones first. There
    is none, and None in its stead, where a label would cover much wherever it stood.

    >>> beside([(10, 10), (12, 10)], [(20, 6), (20, 6)], (0, 0, 100, 100))
    [(14.0, 7.0), (2.0, 14.0)]
    """
    done: list[Box] = []
    corners: list[tuple[float, float] | None] = []
    marks = [(x - 2, y - 2, x + 2, y + 2) for x, y in (*points, *obstacles)]
    for (x, y), (wide, high) in zip(points, sizes, strict=True):
        best, corner = _MOST_COVERED * wide * high, None
        for far in (gap, 2.5 * gap, 4.5 * gap):
            for right, up in around:
                left = x + (right - 1) * wide / 2 + right * far
                low = y + (up - 1) * high / 2 + up * far * (1.0 if right == 0 else 0.8)
                box = (left, low, left + wide, low + high)
                others = (*done, *(m for m in marks if m != (x - 2, y - 2, x + 2, y + 2)))
                covered = sum(_common(box, other) for other in others)
                outside = wide * high - _common(box, page)
                cost = covered + 4 * outside + 1e-3 * far
                if cost < best - 1e-9:
                    best, corner = cost, (left, low)
        corners.append(corner)
        if corner is not None:
            done.append((*corner, corner[0] + wide, corner[1] + high))
    return corners


def _common(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, wide) * max(0.0, high)


def group_names(line: Strip, unit_in: float) -> list[tuple[float, str]]:
    """Where the names of the groups stand, and the names, cut when they have to be turned."""
    if names_fit(line, unit_in):
        return line.groups
    names = told_apart([name for _, name in line.groups], LONGEST_TURNED)
    return [(at, name) for (at, _), name in zip(line.groups, names, strict=True)]


def turned(line: Strip, unit_in: float) -> int:
    """Degrees by which names of groups are turned: aslant, long ones would leave the page."""
    if names_fit(line, unit_in):
        return 0
    longest = max(len(name) for _, name in group_names(line, unit_in))
    return 45 if longest <= LONGEST_TURNED else 90


def height_below(line: Strip, unit_in: float, level: bool) -> float:
    """The height of labels and groups' names under the axes, in inches."""
    labels = labels_in(line, level)
    if not line.groups:
        return labels
    if names_fit(line, unit_in):
        return labels + TEXT_LINE_IN
    longest = max(text_in(name, TEXT_PT) for _, name in group_names(line, unit_in))
    return labels + 0.08 + (0.72 if turned(line, unit_in) == 45 else 1.0) * longest


def labels_in(line: Strip, level: bool) -> float:
    """The height of the labels under the axes, in inches."""
    return TEXT_LINE_IN if level else 0.07 + max(map(text_in, line.labels))
