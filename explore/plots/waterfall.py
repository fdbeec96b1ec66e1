"""Waterfalls: who works when, and who waits for what; several runs on one time axis.

What is shown (`waterfall_figure`) is plain data; drawing it (`draw_waterfall`) needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from explore.plots.style import (
    COLUMN_IN,
    INK,
    SAVING,
    SETTINGS,
    TEXT_PT,
    TICK_PT,
    legend_form,
    look,
    text_in,
)
from explore.trace import by_unit, how_often, lanes
from sim.timeline.result import Segment, Timeline

_VISIBLE = 0.01
"""The part of a run that an Einsum must take to have a colour of its own."""
_LABELS = {"2d": "2D array", "1d": "1D array"}
_MOVED = {"load": "#cfe3f1", "store": "#7f9fb5"}
"""Ports in muted colours: bright ones are for Einsums."""


@dataclass(frozen=True)
class Bar:
    """Work on a unit, in seconds of compressed time.

    Work that is interleaved shares the height of a row: `lane` of `lanes`.
    """

    name: str
    kind: str
    lane: int
    lanes: int
    start: float
    end: float


@dataclass(frozen=True)
class Wait:
    """Time in which a unit could not begin, and what it waited for."""

    reason: str
    start: float
    end: float


@dataclass(frozen=True)
class UnitRow:
    """A unit of a run; `busy` is the share of the whole run that it works."""

    label: str
    bars: tuple[Bar, ...]
    waits: tuple[Wait, ...]
    busy: float


@dataclass(frozen=True)
class Repeat:
    """A stretch of the axis that stands for more than itself."""

    start: float
    end: float
    times: float


@dataclass(frozen=True)
class Waterfall:
    """One run: `end` is its end on the axis, `latency_s` and `cycles` its true length.

    `shares` says which part of that length each Einsum takes on its array.
    """

    title: str
    rows: tuple[UnitRow, ...]
    shares: tuple[tuple[str, float], ...]
    repeats: tuple[Repeat, ...]
    end: float
    latency_s: float
    cycles: float


@dataclass(frozen=True)
class WaterfallFigure:
    """Runs on one time axis, which ends at `until` seconds."""

    name: str
    panels: tuple[Waterfall, ...]
    until: float

    @property
    def named(self) -> tuple[str, ...]:
        """What arrays work on that takes a visible part of some run, in order of appearance."""
        return tuple(
            dict.fromkeys(
                name for panel in self.panels for name, share in panel.shares if share >= _VISIBLE
            )
        )


def waterfall_figure(
    runs: Iterable[tuple[str, Timeline]], name: str = "waterfall", cycles: float | None = None
) -> WaterfallFigure:
    """What a figure of some runs shows, each with its title; only the first `cycles` of them."""
    runs = list(runs)
    panels = tuple(_waterfall(title, timeline) for title, timeline in runs)
    until = max(panel.end for panel in panels)
    if cycles is not None:
        until = min(until, max(cycles / timeline.clock_hz for _, timeline in runs))
    return WaterfallFigure(name, panels, until)


def opening(figure: WaterfallFigure) -> WaterfallFigure | None:
    """The same, cut where the first run ends; None where that cuts off little."""
    until = min(panel.end for panel in figure.panels)
    if not 0 < until < 0.75 * figure.until:
        return None
    return replace(figure, name=f"{figure.name}-start", until=until)


def _waterfall(title: str, timeline: Timeline) -> Waterfall:
    second = 1 / timeline.clock_hz
    rows = []
    begins: dict[str, float] = {}
    for s in timeline.segments:
        begins[s.phase] = min(s.start, begins.get(s.phase, s.start))
    for unit, segments in by_unit(timeline).items():
        moves = any(segment.kind != "compute" for segment in segments)
        label = f"{unit} port" if moves else _LABELS.get(unit, unit)
        busy = timeline.units[unit].busy / timeline.cycles if timeline.cycles else 0.0
        bars = tuple(_bars(segments, second))
        rows.append(UnitRow(label, bars, _waits(segments, begins, second), busy))
    repeats = tuple(
        Repeat(s.start * second, s.end * second, s.repeats)
        for s in timeline.stretches
        if s.repeats > 1
    )
    ends = [s.end for s in timeline.stretches] or [timeline.cycles]
    return Waterfall(
        title,
        tuple(rows),
        tuple(_shares(timeline).items()),
        repeats,
        max(ends) * second,
        timeline.latency_s,
        timeline.cycles,
    )


def _shares(timeline: Timeline) -> dict[str, float]:
    """Parts of the run that arrays spend on each Einsum, in order of appearance."""
    found: dict[str, float] = {}
    often = how_often(timeline)
    for s in timeline.segments:
        if s.kind == "compute":
            cycles = (s.end - s.start) * often(s)
            found[s.name] = found.get(s.name, 0.0) + cycles / timeline.cycles
    return found


def _bars(segments: Iterable[Segment], second: float) -> Iterator[Bar]:
    """The tasks of a unit; those that run at the same time, directly or in a chain, in lanes."""
    together: list[Segment] = []
    last = 0.0
    for s in [*sorted(segments, key=lambda s: (s.start, s.end)), None]:
        if s is None or s.start >= last:
            own = lanes(together)
            for i, lane in enumerate(own):
                for each in lane:
                    start, end = each.start * second, each.end * second
                    yield Bar(each.name, each.kind, i, len(own), start, end)
            together = []
        if s is not None:
            together.append(s)
            last = max(last, s.end)


def _waits(
    segments: Iterable[Segment], begins: Mapping[str, float], second: float
) -> tuple[Wait, ...]:
    """Gaps before tasks that something held up, from when the task's phase `begins`.

    A unit that has nothing to do does not wait, nor does a port before there is anything to store.
    """
    found = []
    worked = 0.0
    for s in sorted(segments, key=lambda s: (s.start, s.end)):
        made = s.kind != "store" or s.blocker.startswith("room")
        since = max(worked, begins[s.phase])
        if s.start > since and s.blocker and made:
            found.append(Wait(s.blocker, since * second, s.start * second))
        worked = max(worked, s.end)
    return tuple(found)


_ROW_IN, _LANE_IN, _PORT_IN = 0.24, 0.15, 0.15
_BRACKET_IN = 0.11  # for how often a stretch happens
_TITLE_IN, _BELOW_IN, _LEFT_IN, _RIGHT_IN, _GAP_IN = 0.2, 0.32, 0.62, 0.6, 0.1
_LEGEND_LINE_IN, _HANDLE_IN = 0.15, 0.42
_FILL = 0.86  # of a row that is bars
_PALE = "#efefef"
_DARK = ("#0072B2", "#D55E00", "#009E73")  # text on these is white
_OTHER: dict[str, Any] = {"facecolor": "#444444", "edgecolor": INK, "linewidth": 0.3}
_THIN_IN = 0.02
_SCALES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def time_text(seconds: float) -> str:
    """A time as people write it.

    >>> time_text(0.0123), time_text(4.5678e-06), time_text(21904.2)
    ('12.3 ms', '4.57 µs', '21,904 s')
    """
    scale, unit = _scale(seconds)
    return f"{seconds / scale:.3g} {unit}" if seconds < 1000 else f"{seconds:,.0f} s"


def _scale(seconds: float) -> tuple[float, str]:
    return next(((s, u) for s, u in _SCALES if seconds >= s), _SCALES[-1])


def draw_waterfall(
    figure: WaterfallFigure,
    folder: Path,
    width: str = "double",
    formats: Sequence[str] = ("pdf", "png"),
) -> list[Path]:
    """Draw the figure into `folder`, in every format; the files written."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas
    from matplotlib.patches import Patch

    folder.mkdir(parents=True, exist_ok=True)
    settings: Any = SETTINGS  # the stubs of matplotlib know a literal type for every key
    width_in = COLUMN_IN["double" if width == "auto" else width]
    looks = {name: look(i) for i, name in enumerate(figure.named)}
    every = [bar for p in figure.panels for row in p.rows for bar in row.bars]
    kinds = {bar.kind for bar in every}
    legend = list(looks.items())
    if any(bar.kind == "compute" and bar.name not in looks for bar in every):
        legend.append(("other Einsums", _OTHER))
    legend += [(kind, {"facecolor": c, "edgecolor": INK, "linewidth": 0.3})
               for kind, c in _MOVED.items() if kind in kinds]  # fmt: skip
    if any(row.waits for p in figure.panels for row in p.rows):
        legend.append(("waits (for what)", _waiting()))
    columns, lines = legend_form([name for name, _ in legend], width_in, _HANDLE_IN)
    above = 0.04 + _LEGEND_LINE_IN * lines
    heights = [sum(_height(row) for row in panel.rows) for panel in figure.panels]
    heads = [_TITLE_IN + (_BRACKET_IN if panel.repeats else 0) for panel in figure.panels]
    height = above + sum(heads) + sum(heights) + _GAP_IN * (len(heights) - 1) + _BELOW_IN
    scale, unit = _scale(figure.until)
    across_in = width_in - _LEFT_IN - _RIGHT_IN
    with mpl.rc_context(settings):
        canvas = Canvas(figsize=(width_in, height))
        top = height - above
        for panel, head, tall in zip(figure.panels, heads, heights, strict=True):
            top -= head + tall
            box = (_LEFT_IN / width_in, top / height, across_in / width_in, tall / height)
            ax: Any = canvas.add_axes(box)
            ax.set_xlim(0, figure.until / scale)
            ax.set_ylim(tall, 0)  # in inches, downwards
            _draw_panel(ax, panel, looks, scale, across_in / (figure.until / scale))
            last = panel is figure.panels[-1]
            ax.tick_params(axis="x", labelbottom=last)
            if last:
                again = any(p.repeats for p in figure.panels)
                note = "; a stretch marked × happens so often" if again else ""
                cut = figure.until < max(p.end for p in figure.panels)
                whole = "the beginning; " if cut else ""
                ax.set_xlabel(f"{whole}time ({unit}{note})")
            top -= _GAP_IN
        handles = [Patch(label=name, **style) for name, style in legend]
        canvas.legend(handles=handles, loc="upper center", ncols=columns, borderaxespad=0.1)
        FigureCanvasAgg(canvas)
        paths = []
        for kind in formats:
            paths.append(folder / f"{figure.name}.{kind}")
            canvas.savefig(paths[-1], format=kind, **SAVING[kind])
    return paths


def _height(row: UnitRow) -> float:
    lanes_in = _LANE_IN * max((bar.lanes for bar in row.bars), default=1)
    port = bool(row.bars) and all(bar.kind != "compute" for bar in row.bars)
    return max(_PORT_IN if port else _ROW_IN, lanes_in)


def _waiting() -> dict[str, Any]:
    return {"facecolor": _PALE, "hatch": "//////", "edgecolor": "#b5b5b5", "linewidth": 0.0}


def _draw_panel(
    ax: Any, panel: Waterfall, looks: Mapping[str, dict[str, Any]], scale: float, inch: float
) -> None:
    """One run; `inch` is how many inches a unit of the axis takes."""
    whole = panel.latency_s
    text = f"{panel.title}: {time_text(whole)}, {panel.cycles:,.0f} cycles"
    ax.set_title(text, loc="left", fontsize=TEXT_PT,
                 pad=2.5 + (72 * _BRACKET_IN if panel.repeats else 0))  # fmt: skip
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    middles, top = [], 0.0
    for row in panel.rows:
        tall = _height(row)
        middles.append(top + tall / 2)
        _draw_row(ax, row, top, tall, looks, scale, inch)
        busy = f"{100 * row.busy:.0f} % busy"
        ax.text(1.008, top + tall / 2, busy, transform=ax.get_yaxis_transform(), va="center",
                fontsize=TICK_PT)  # fmt: skip
        top += tall
    ax.set_yticks(middles, [row.label for row in panel.rows])
    end = panel.end / scale
    if end <= ax.get_xlim()[1]:
        ax.plot([end, end], [0, top], color=INK, linewidth=0.8)
    _draw_brackets(ax, panel, top, scale, inch)


def _draw_row(
    ax: Any,
    row: UnitRow,
    top: float,
    tall: float,
    looks: Mapping[str, dict[str, Any]],
    scale: float,
    inch: float,
) -> None:
    low, high = top + tall * (1 - _FILL) / 2, tall * _FILL
    limit = ax.get_xlim()[1]
    waits = [(w.start / scale, (w.end - w.start) / scale) for w in row.waits]
    ax.broken_barh(waits, (low, high), **_waiting(), zorder=1)
    for wait, (start, long) in zip(row.waits, waits, strict=True):
        long = min(long, limit - start)
        for words in (f"waits for {wait.reason}", wait.reason):
            if text_in(words, TICK_PT) < long * inch - 0.04 and high > 0.1:
                back = {"facecolor": _PALE, "edgecolor": "none", "pad": 0.6}
                ax.text(start + long / 2, low + high / 2, words, ha="center", va="center",
                        fontsize=TICK_PT - 0.5, bbox=back)  # fmt: skip
                break
    series: dict[tuple[str, str, float, float], list[tuple[float, float]]] = {}
    for box in boxes(row.bars, _THIN_IN * scale / inch):
        if box.start < limit * scale:
            key = (box.name, box.kind, box.low, box.high)
            series.setdefault(key, []).append((box.start / scale, (box.end - box.start) / scale))
    for (name, kind, bottom, ceiling), spans in series.items():
        moved = {"facecolor": _MOVED.get(kind), "edgecolor": INK, "linewidth": 0.3}
        style = dict(moved if kind != "compute" else looks.get(name, _OTHER))
        y, each = low + bottom * high, (ceiling - bottom) * high
        if max(long for _, long in spans) * inch < _THIN_IN:  # an outline would hide the colour
            style |= {"linewidth": 0.0, "hatch": ""}
        ax.broken_barh(spans, (y, each), **style, zorder=2)
        for start, long in spans:
            if text_in(name, TICK_PT) < min(long, limit - start) * inch - 0.02 and each > 0.12:
                back = {"facecolor": style["facecolor"], "edgecolor": "none", "pad": 0.3}
                dark = style["facecolor"] in _DARK
                ax.text(start + min(long, limit - start) / 2, y + each / 2, name, ha="center",
                        va="center", fontsize=TICK_PT - 0.5, bbox=back, clip_on=True,
                        color="white" if dark else INK)  # fmt: skip


@dataclass(frozen=True)
class Box:
    """What is drawn of a row: from `low` to `high`, fractions of its height."""

    name: str
    kind: str
    low: float
    high: float
    start: float
    end: float


def boxes(bars: Sequence[Bar], thin: float) -> Iterator[Box]:
    """The bars; a run of bars too thin to be seen as bands, each as high as its share of the time.

    Times are seconds; `thin` is the length from which a bar can be seen.
    """
    crowd: list[Bar] = []
    for bar in [*sorted(bars, key=lambda b: b.start), None]:
        narrow = bar is not None and bar.end - bar.start < thin and bar.lanes == 1
        if crowd and (bar is None or not narrow or bar.start - crowd[-1].end > thin):
            yield from _bands(crowd)
            crowd = []
        if bar is not None and narrow:
            crowd.append(bar)
        elif bar is not None:
            low, high = bar.lane / bar.lanes, (bar.lane + 1) / bar.lanes
            yield Box(bar.name, bar.kind, low, high, bar.start, bar.end)


_CROWD = 12
"""Thin bars in a row that are drawn as bands."""


def _bands(crowd: Sequence[Bar]) -> Iterator[Box]:
    if len(crowd) < _CROWD:
        for bar in crowd:
            yield Box(bar.name, bar.kind, 0.0, 1.0, bar.start, bar.end)
        return
    start, end = crowd[0].start, crowd[-1].end
    shares: dict[tuple[str, str], float] = {}
    for bar in crowd:
        key = (bar.name, bar.kind)
        shares[key] = shares.get(key, 0.0) + (bar.end - bar.start) / (end - start)
    low = 0.0
    for (name, kind), share in shares.items():
        yield Box(name, kind, low, low + share, start, end)
        low += share


@dataclass(frozen=True)
class Bracket:
    """Stretches that are drawn as one, and how often they happen."""

    start: float
    end: float
    least: float
    most: float

    @property
    def text(self) -> str:
        """The numbers as they stand over the bracket."""
        if self.least == self.most:
            return f"× {self.most:,.12g}"
        return f"× {self.least:,.12g} to {self.most:,.12g}"


def brackets(repeats: Iterable[Repeat], readable: float) -> list[Bracket]:
    """What repeats, neighbours together that leave no room for a label of their own.

    `readable` is the time that a label covers. Periods inside of periods are many short stretches.
    """
    found: list[Bracket] = []
    for repeat in repeats:
        last = found[-1] if found else None
        if last is not None:
            middle = (repeat.start + repeat.end - last.start - last.end) / 2
            if middle < readable:
                least, most = min(last.least, repeat.times), max(last.most, repeat.times)
                found[-1] = Bracket(last.start, repeat.end, least, most)
                continue
        found.append(Bracket(repeat.start, repeat.end, repeat.times, repeat.times))
    return found


def _draw_brackets(ax: Any, panel: Waterfall, bottom: float, scale: float, inch: float) -> None:
    """Brackets over what happens again and again, and the breaks where it was cut."""
    limit = ax.get_xlim()[1]
    shown = [repeat for repeat in panel.repeats if repeat.start < limit * scale]
    widest = max((text_in(f"× {r.times:,.12g}", TICK_PT) for r in shown), default=0.0)
    for bracket in brackets(shown, (2 * widest + 0.1) * scale / inch):
        start, end = bracket.start / scale, min(bracket.end / scale, limit)
        style = {"color": INK, "clip_on": False, "zorder": 5}
        ax.plot([start, end], [0, 0], linewidth=1.4, solid_capstyle="butt", **style)
        for at in (start, end):
            ax.plot([at, at], [0, bottom], linewidth=0.5, linestyle=(0, (2, 2)), **style)
        half = text_in(bracket.text, TICK_PT) / inch / 2
        middle = min(max((start + end) / 2, half), limit - half)
        ax.annotate(bracket.text, (middle, 0), (0, 1.5), textcoords="offset points", ha="center",
                    va="bottom", fontsize=TICK_PT)  # fmt: skip
        slant = 0.035 / inch
        for shift in (-0.02 / inch, 0.02 / inch):
            across = [end + shift - slant, end + shift + slant]
            ax.plot(across, [bottom + 0.05, bottom - 0.05], linewidth=0.7, **style)


__all__ = [
    "Bar",
    "Bracket",
    "Repeat",
    "UnitRow",
    "Wait",
    "Waterfall",
    "WaterfallFigure",
    "boxes",
    "brackets",
    "draw_waterfall",
    "opening",
    "time_text",
    "waterfall_figure",
]
