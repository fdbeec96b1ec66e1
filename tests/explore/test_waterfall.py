"""Waterfalls: what they show of runs made by hand, and that they are drawn."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest

from explore.plots.waterfall import (
    Repeat,
    boxes,
    brackets,
    draw_waterfall,
    waterfall_figure,
)
from sim.timeline.result import Segment, Stretch, Timeline, UnitTime

HZ = 1e9


def segment(unit, name, start, end, blocker="", kind="compute", tile=0):
    return Segment(unit, "phase", name, kind, (("M1", tile),), start, end, blocker)


def run(repeats=1.0):
    """Two tiles of 50 cycles, the second of which may stand for many; SLN and QK interleaved."""
    segments = [segment("DRAM", "load BK", 0, 10, kind="load")]
    for tile, begin in enumerate((0, 50)):
        segments += [
            segment("2d", "QK", begin + 10, begin + 30, "" if tile else "load BK", tile=tile),
            segment("2d", "SLN", begin + 40, begin + 50, "LM", tile=tile),
            segment("2d", "QK", begin + 45, begin + 55, tile=tile),
            segment("1d", "LM", begin + 35, begin + 40, "drain of QK", tile=tile),
        ]
    units = {
        "2d": UnitTime(60, {"LM": 20, "load BK": 10}, 15),
        "1d": UnitTime(10, {"drain of QK": 70}, 25),
        "DRAM": UnitTime(10, {}, 95),
    }
    stretches = (Stretch(0, 50, 1), Stretch(50, 100, repeats), Stretch(100, 105, 1))
    cycles = 105 + 50 * (repeats - 1)
    return Timeline(HZ, cycles, tuple(segments), stretches, units, {"QK": cycles}, 10)


def rows(figure, panel=0):
    return {row.label: row for row in figure.panels[panel].rows}


def test_a_row_a_unit_arrays_and_ports():
    figure = waterfall_figure([("Ours", run())])
    assert list(rows(figure)) == ["2D array", "1D array", "DRAM port"]
    assert rows(figure)["DRAM port"].bars[0].kind == "load"
    assert rows(figure)["2D array"].busy == pytest.approx(60 / 105)
    assert figure.named == ("QK", "SLN", "LM")
    (panel,) = figure.panels
    assert (panel.title, panel.cycles, panel.latency_s) == ("Ours", 105, pytest.approx(105 / HZ))


def test_einsums_that_take_next_to_nothing_have_no_colour_of_their_own():
    long = run(4094)
    tiny = segment("1d", "RM", 0, 1)
    assert (
        "RM"
        not in waterfall_figure([("Ours", replace(long, segments=(tiny, *long.segments)))]).named
    )
    often = segment("1d", "RM", 60, 61)  # in the stretch that repeats: 4094 cycles of 204755
    assert (
        "RM" in waterfall_figure([("Ours", replace(long, segments=(*long.segments, often)))]).named
    )


def test_thin_bars_are_bands_as_high_as_their_share():
    tasks = [
        segment("1d", name, start, start + long)
        for i in range(40)
        for name, start, long in (("SN", 10 * i, 6), ("SD", 10 * i + 6, 2))
    ]
    units = {"1d": UnitTime(320, {}, 80)}
    timeline = Timeline(HZ, 400, tuple(tasks), (Stretch(0, 400, 1),), units, {}, 80)
    (row,) = waterfall_figure([("Ours", timeline)]).panels[0].rows
    assert len(row.bars) == 80
    seen = list(boxes(row.bars, 100 / HZ))
    assert [(b.name, round(b.low, 2), round(b.high, 2)) for b in seen] == [
        ("SN", 0, 0.6),
        ("SD", 0.6, 0.8),
    ]
    assert len(list(boxes(row.bars, 1 / HZ))) == 80


def test_brackets_hold_what_has_no_room_for_a_number_of_its_own():
    repeats = [Repeat(0, 1, 8), Repeat(2, 3, 61080), Repeat(10, 20, 60)]
    assert [b.text for b in brackets(repeats, 0.5)] == ["× 8", "× 61,080", "× 60"]
    assert [b.text for b in brackets(repeats, 5)] == ["× 8 to 61,080", "× 60"]
    assert brackets([], 1) == []


def test_only_work_at_the_same_time_shares_a_row():
    bars = rows(waterfall_figure([("Ours", run())]))["2D array"].bars
    first, *others = sorted(bars, key=lambda b: b.start)
    assert (first.name, first.lane, first.lanes) == ("QK", 0, 1)
    together = others[:3]  # the next tile begins while SLN ends; then a tile alone
    assert [(b.name, b.lanes) for b in together] == [("SLN", 2), ("QK", 2), ("QK", 1)]
    for lane in (0, 1):
        own = sorted((b.start, b.end) for b in bars if b.lane == lane)
        assert all(a[1] <= b[0] for a, b in pairwise(own))


def test_waits_are_the_gaps_that_something_held_up():
    found = rows(waterfall_figure([("Ours", run())]))
    waits = [(w.reason, round(w.start * HZ), round(w.end * HZ)) for w in found["2D array"].waits]
    assert waits == [("load BK", 0, 10), ("LM", 30, 40), ("LM", 80, 90)]
    assert [w.reason for w in found["1D array"].waits] == ["drain of QK"] * 2
    assert found["DRAM port"].waits == ()


def test_a_wait_does_not_begin_before_its_phase():
    later = [
        replace(segment("DRAM", "load V", 110, 120, kind="load"), phase="later"),
        replace(segment("2d", "AV", 125, 140, "load V"), phase="later"),
        replace(segment("1d", "RNV", 140, 150, "AV"), phase="later"),
    ]
    whole = replace(run(), segments=(*run().segments, *later))
    found = rows(waterfall_figure([("Ours", whole)]))
    last = [found[name].waits[-1] for name in ("2D array", "1D array")]
    assert [(w.reason, round(w.start * HZ), round(w.end * HZ)) for w in last] == [
        ("load V", 110, 125),
        ("AV", 110, 140),
    ]


def test_what_repeats_is_marked_and_the_length_is_true():
    panel = waterfall_figure([("Ours", run(4094))]).panels[0]
    (repeat,) = panel.repeats
    assert (repeat.start, repeat.end) == pytest.approx((50 / HZ, 100 / HZ))
    assert repeat.times == 4094
    assert panel.end == pytest.approx(105 / HZ)
    assert panel.cycles == 105 + 50 * 4093


def test_one_axis_for_all_runs_and_its_first_cycles():
    both = [("Ours", run()), ("Theirs", run(3))]
    assert waterfall_figure(both).until == pytest.approx(105 / HZ)
    assert waterfall_figure(both, cycles=40).until == pytest.approx(40 / HZ)
    assert waterfall_figure(both, cycles=1e6).until == pytest.approx(105 / HZ)


@pytest.mark.parametrize("cycles", [None, 30])
@pytest.mark.parametrize("width", ["single", "double", "auto"])
def test_files_are_drawn_inside_the_page_the_same_each_time(tmp_path, width, cycles):
    from matplotlib.image import imread

    figure = waterfall_figure([("Ours", run()), ("Theirs", run(4094))], cycles=cycles)
    first = draw_waterfall(figure, tmp_path / "a", width, ("pdf", "png", "svg"))
    again = draw_waterfall(figure, tmp_path / "b", width, ("pdf", "png", "svg"))
    assert [p.name for p in first] == ["waterfall.pdf", "waterfall.png", "waterfall.svg"]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, again, strict=True))
    page = imread(first[1])[..., :3]
    assert all((side == 1).all() for side in (page[0], page[-1], page[:, 0], page[:, -1]))
    text = first[2].read_text()
    assert ">DRAM port</text>" in text
    assert (">× 4,094</text>" in text) == (cycles is None)


def test_importing_waterfalls_does_not_import_matplotlib():
    code = "import sys, explore.plots.waterfall; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
