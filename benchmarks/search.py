"""How fast the search is: optimum and front of one fused attention, and the rate of costing alone.

python benchmarks/search.py [1pass] [3pass] [rate]
"""

from __future__ import annotations

import sys
import time

import numpy as np

import workloads
from archs import load_architecture
from mappers.search import Options, front, optimum
from mappers.search.engine import runs_of
from mappers.search.fronts import Front
from mappers.search.price import open_structure, search_structure
from mappers.search.problem import problem
from mappers.search.structures import structures

SHAPE = {"B": 1, "H": 12, "E": 64, "F": 64, "P": 65536, "M": 65536}


def timed(name: str, options: Options, whole_front: bool) -> None:
    cascade = workloads.cascade(name)
    on = load_architecture("fusemax-cloud").resolve({})
    look = front if whole_front else optimum
    small = {**SHAPE, "P": 512, "M": 512}
    look(options.model_copy(update={"fusion": "whole"}), cascade, on, small)  # not the cold start
    begun = time.perf_counter()
    found = look(options, cascade, on, SHAPE)
    seconds = time.perf_counter() - begun
    report = found.report
    kind = "front" if whole_front else options.objective
    print(
        f"{name} ({kind}, fusion {options.fusion}, recompute {options.recompute}): {seconds:.2f} s"
    )
    print(f"  {len(found.costs)} mappings; covered {report.covered / seconds:,.0f}/s, "
          f"costed {report.costed / seconds:,.0f}/s; {report}")  # fmt: skip


def rate(name: str) -> None:
    """Candidates a second of one structure when nothing is pruned: opening it, and adding up."""
    cascade = workloads.cascade(name)
    on = load_architecture("fusemax-cloud").resolve({})
    found = problem(cascade, on, SHAPE, "padded")
    run = runs_of(found)[0]
    structure = next(iter(structures(found, found.order[run[0] : run[1]])))
    open_structure(found, structure)
    begun = time.perf_counter()
    opened = open_structure(found, structure)
    between = time.perf_counter()
    capacity = {m.name: float(m.size_bytes) for m in on.memories[1:]}
    kept = _Nothing(2)
    columns = ("latency_s", "energy_pj")
    everything = lambda costs: np.ones(len(costs), dtype=bool)  # noqa: E731
    count = search_structure(opened, 0, columns, capacity, 0.0, kept, everything)
    end = time.perf_counter()
    seconds, opening = end - begun, between - begun
    print(f"{name}: {count.costed:,} costed ({count.valid:,} valid) in {seconds:.3f} s")
    print(f"  {opening:.3f} s of it to open the structure")
    print(f"  {count.costed / seconds:,.0f} costed/s, {count.valid / seconds:,.0f} valid/s")


class _Nothing(Front):
    """A front that keeps nothing, so that nothing is pruned against it."""

    def add(self, costs, key):
        pass


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["1pass", "3pass", "rate"]
    for each in ("1pass", "3pass"):
        if each in wanted:
            for fusion in ("whole", "any"):
                for whole_front in (False, True):
                    options = Options(fusion=fusion, recompute=False)
                    timed(f"attention-{each}", options, whole_front)
    if "rate" in wanted:
        rate("attention-1pass")
        rate("attention-3pass")
