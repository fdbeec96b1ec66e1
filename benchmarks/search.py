"""How fast the search is: optimum and front of one attention (as one fused phase, and in all phases
there can be), and the rate of costing alone; and how good: against published mappings.

python benchmarks/search.py [1pass] [3pass] [rate] [fusemax] [flat]

Exit status 1 when a target is missed: one fused phase takes longer than a second, fewer than a
million candidates are costed a second, or a published mapping is better.
"""

from __future__ import annotations

import sys
import time

import numpy as np

import mappers
import workloads
from archs import load_architecture
from mappers.search import Options, front, optimum
from mappers.search.engine import runs_of
from mappers.search.fronts import Front
from mappers.search.measures import measures_of
from mappers.search.pieces import Pieces
from mappers.search.price import Pricing, open_structure
from mappers.search.problem import problem
from mappers.search.screen import Count, Screen
from mappers.search.structures import structures
from sim import evaluate

TARGET_S, TARGET_RATE = 1.0, 1e6
SHAPE = {"B": 1, "H": 12, "E": 64, "F": 64, "P": 65536, "M": 65536}


def timed(name: str, options: Options, whole_front: bool) -> bool:
    """The least of three, after a smaller search so that the cold start is not counted; whether it
    is soon enough, if it is one fused phase."""
    cascade = workloads.cascade(name)
    on = load_architecture("fusemax-cloud").resolve({})
    look = front if whole_front else optimum
    look(options, cascade, on, {**SHAPE, "P": 512, "M": 512})
    every = []
    for _ in range(3):
        begun = time.perf_counter()
        found = look(options, cascade, on, SHAPE)
        every.append(time.perf_counter() - begun)
    seconds, report = min(every), found.report
    kind = "front" if whole_front else options.objective
    fine = seconds <= TARGET_S or options.fusion != "whole"
    print(
        f"{name} ({kind}, fusion {options.fusion}, recompute {options.recompute}): {seconds:.2f} s"
        + ("" if fine else "  MISSED")
    )
    print(f"  {len(found.costs)} mappings; covered {report.covered / seconds:,.0f}/s, "
          f"valid and costed {report.valid / seconds:,.0f}/s; {report}")  # fmt: skip
    return fine


def rate(name: str) -> bool:
    """Candidates a second of one structure when nothing is pruned, opening it and adding up: the
    best of three, and whether that is enough."""
    cascade = workloads.cascade(name)
    on = load_architecture("fusemax-cloud").resolve({})
    found = problem(cascade, on, SHAPE, "padded")
    run = runs_of(found)[0]
    structure = next(iter(structures(found, found.order[run[0] : run[1]])))
    measures = measures_of(on, ("latency_s", "energy_pj"))
    everything = lambda costs, part: np.ones(len(costs), dtype=bool)  # noqa: E731
    screen = Screen(measures, everything, {None: _Nothing(2)}, len(found.parts))
    every = []
    for _ in range(4):
        count = Count()
        begun = time.perf_counter()
        opened = open_structure(Pieces(measures), found, structure, screen, count)
        between = time.perf_counter()
        assert opened is not None
        Pricing(opened, 0, screen, count).search()
        end = time.perf_counter()
        every.append((end - begun, between - begun))
    seconds, opening = min(every[1:])  # the cold start is not counted
    fine = count.costed / seconds >= TARGET_RATE
    print(f"{name}: {count.costed:,} costed ({count.valid:,} valid) in {seconds:.3f} s")
    print(f"  {opening:.3f} s of it to open the structure")
    print(f"  {count.costed / seconds:,.0f} costed/s, {count.valid / seconds:,.0f} valid/s"
          + ("" if fine else "  MISSED"))  # fmt: skip
    return fine


MODELS = "bert-base", "trxl-wt103", "t5-small", "xlm"


def against(mapper: str, on: str, cascade: str, lengths: list[int], **given: object) -> bool:
    """Whether the search is at least as good as another mapper for all models and lengths: the
    least latency, and the least energy of what is no slower."""
    ratios = []
    for name in MODELS:
        model = workloads.model(name)
        for length in lengths:
            shape = {"B": 64, "H": model.H, "E": model.E, "F": model.F, "P": length, "M": length}
            what = workloads.cascade(cascade), load_architecture(on).resolve({})
            options = mappers.check_options(mapper, given)
            extents = {rank: np.array([extent]) for rank, extent in shape.items()}
            theirs = evaluate(
                mappers.place(mapper, options, cascade=what[0], architecture=what[1], shape=extents)
            )
            limit = {"latency_s": float(theirs.latency_s[0]) * (1 + 1e-12)}
            fast = optimum(Options(objective="latency_s"), *what, shape)
            frugal = optimum(Options(objective="energy_pj", constraints=limit), *what, shape)
            ratios.append(
                (fast.score / theirs.latency_s[0], frugal.score / theirs.energy_pj[0],
                 bool(frugal.report.mapper))
            )  # fmt: skip
    latency, energy, own = (np.array(column) for column in zip(*ratios, strict=True))
    print(
        f"{on}, {len(ratios)} rows of {mapper}: {latency.min():.3f} to {latency.max():.3f} of its "
        f"latency, {energy.min():.3f} to {energy.max():.3f} of its energy ({own.sum()} by its own "
        f"mapping)",
        flush=True,
    )
    return bool(np.all(latency <= 1 + 1e-9) and np.all(energy <= 1 + 1e-9))


class _Nothing(Front):
    """A front that keeps nothing, so that nothing is pruned against it."""

    def add(self, costs, key):
        pass


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["1pass", "3pass", "rate"]
    fine = True
    for each in ("1pass", "3pass"):
        if each in wanted:
            for fusion in ("whole", "any"):
                for whole_front in (False, True):
                    fine &= timed(f"attention-{each}", Options(fusion=fusion), whole_front)
    if "rate" in wanted:
        fine &= rate("attention-1pass")
        fine &= rate("attention-3pass")
    if "fusemax" in wanted:
        lengths = [2**n for n in (10, 12, 14, 16, 18, 20)]
        fine &= against("fusemax", "fusemax-cloud", "attention-1pass", lengths)
    if "flat" in wanted:
        for platform in ("flat-cloud", "flat-edge"):
            every = [2**n for n in range(9, 21)]
            fine &= against("flat", platform, "attention-3pass", every, mapping="published")
    sys.exit(not fine)
