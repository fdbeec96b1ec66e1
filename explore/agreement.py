"""How far two levels agree at the same design points, and what is behind a disagreement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from explore.levels import PointResult
from sim.schedule import STALL

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Disagreement:
    """A point at two levels: `gap` is the second latency over the first, less 1.

    It is None unless both levels can run the point; `effect` says why then.
    """

    first: PointResult
    second: PointResult
    gap: float | None
    effect: str


@dataclass(frozen=True)
class Agreement:
    """How far a design's points agree: the gaps are absolute, `failed` points have none."""

    design: str
    points: int
    median: float | None
    largest: float | None
    within: int
    failed: int


WITHIN = 0.01
"""A gap that counts as agreement."""


def disagreements(pairs: Iterable[Sequence[PointResult]]) -> list[Disagreement]:
    """Points at two levels with their gaps, the worst first.

    A point that only one level can run is the worst of all; one that none can is left out.
    """
    found = []
    for first, second in pairs:
        if first.reason is not None and second.reason is not None:
            continue
        if first.latency_s is None or second.latency_s is None:
            failed = first if first.latency_s is None else second
            effect = f"{failed.level}: {failed.reason}"
            found.append(Disagreement(first, second, None, effect))
            continue
        gap = second.latency_s / first.latency_s - 1
        found.append(Disagreement(first, second, gap, effect_behind(first, second)))
    return sorted(found, key=lambda d: -np.inf if d.gap is None else -abs(d.gap))


def at_no_level(pairs: Iterable[Sequence[PointResult]]) -> list[Disagreement]:
    """What `disagreements` leaves out: the points that none of the levels can run, and why."""
    found = []
    for first, second in pairs:
        if first.reason is not None and second.reason is not None:
            each = f"{first.level}: {first.reason}; {second.level}: {second.reason}"
            why = first.reason if first.reason == second.reason else each
            found.append(Disagreement(first, second, None, why))
    return found


def effect_behind(coarse: PointResult, fine: PointResult) -> str:
    """What the coarse level leaves out on the unit that it calls the bottleneck.

    Where one unit is the whole latency: the largest of what that unit waits for, has nothing to do
    in, or works longer than thought. Where the latency is a sum, as of steps that follow one
    another: the largest difference between its terms and what the finer critical path is spent on.
    """
    if coarse.latency_s and fine.latency_s and abs(fine.latency_s / coarse.latency_s - 1) < 1e-9:
        return ""
    if not coarse.latency_s or not fine.latency_s:
        return ""
    known = fine.stalled_s is not None and fine.idle_s is not None
    terms = {name: seconds for name, seconds in coarse.critical_path_s.items() if seconds > 0}
    if len(terms) != 1 or fine.latency_s < coarse.latency_s or not {*terms} <= {*fine.busy_s}:
        return _path_effect(terms, fine) if known else ""
    (unit,) = terms
    stalled = (fine.stalled_s or {}).get(unit, {})
    effects = {f"{unit} waits for {what}": seconds for what, seconds in stalled.items()}
    if known:
        effects[f"{unit} has nothing to do"] = (fine.idle_s or {}).get(unit, 0.0)
    else:
        effects[f"{unit} waits or has nothing to do"] = fine.latency_s - fine.busy_s[unit]
    effects[f"{unit} works longer"] = fine.busy_s[unit] - coarse.busy_s.get(unit, 0.0)
    largest = max(effects, key=lambda text: effects[text])
    if effects[largest] <= 0:
        return ""
    return f"{largest} {100 * effects[largest] / fine.latency_s:.2f} %"


def _path_effect(terms: Mapping[str, float], fine: PointResult) -> str:
    """The critical path by unit, drains as stalls, against the terms of a coarser level."""
    spent: dict[str, float] = {}
    longest: dict[str, str] = {}
    path = fine.critical_path_s
    for name in sorted(path, key=lambda n: -path[n]):
        account = STALL if name.startswith("drain of ") else fine.unit_of.get(name, name)
        spent[account] = spent.get(account, 0.0) + path[name]
        longest.setdefault(account, name)
    longer = (fine.latency_s or 0.0) >= sum(terms.values())
    differ = {k: spent.get(k, 0.0) - terms.get(k, 0.0) for k in (*spent, *terms)}
    differ = {k: d if longer else -d for k, d in differ.items()}
    account = max(differ, key=lambda k: differ[k], default="")
    if not account or differ[account] <= 0:
        return ""
    what = f"{longest[account]} on the critical path" if longer else f"overlaps {account}"
    return f"{what} {100 * differ[account] / (fine.latency_s or 1.0):.2f} %"


def agreement(found: Iterable[Disagreement]) -> list[Agreement]:
    """A summary of each design, in the order of their worst points."""
    gaps: dict[str, list[float | None]] = {}
    for each in found:
        gaps.setdefault(each.first.design, []).append(each.gap)
    return [_agreement(design, own) for design, own in gaps.items()]


def _agreement(design: str, gaps: Sequence[float | None]) -> Agreement:
    known = [abs(gap) for gap in gaps if gap is not None]
    return Agreement(
        design,
        points=len(gaps),
        median=float(np.median(known)) if known else None,
        largest=max(known, default=None),
        within=sum(gap <= WITHIN for gap in known),
        failed=len(gaps) - len(known),
    )


def disagreement_table(found: Iterable[Disagreement]) -> pl.DataFrame:
    """The same for a file: one row a point."""
    import polars as pl

    rows = [
        {
            "design": d.first.design,
            "model": d.first.model,
            "kernel": d.first.kernel,
            "batch": d.first.batch,
            "seq_len": d.first.seq_len,
            **d.first.swept,
            f"latency_{d.first.level}_s": d.first.latency_s,
            f"latency_{d.second.level}_s": d.second.latency_s,
            "gap_percent": None if d.gap is None else 100 * d.gap,
            "tasks": d.second.tasks if d.second.tasks is not None else d.first.tasks,
            "effect": None if d.gap is None else d.effect,
            "reason": d.effect if d.gap is None else None,
        }
        for d in found
    ]
    return pl.DataFrame(rows, infer_schema_length=None)
