"""Speed of the finer levels against their targets.

    python benchmarks/timeline.py [--repeat N]

Prints the seconds of FuseMax's attention as a timeline at 1K to 1M tokens, those of the longest
over those of a shorter run, of runs that are simulated in full over those that are extrapolated,
and of an attention cycle by cycle. Exit status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import mappers
import workloads
from archs import load_architecture
from sim import Mapping
from sim.cycle import simulate
from sim.single import single_point
from sim.timeline import programs, timeline

LENGTHS = {"1K": 2**10, "4K": 2**12, "16K": 2**14, "64K": 2**16, "256K": 2**18, "1M": 2**20}
MILLION_S, CYCLES_S = 2.0, 10.0
FLAT = 4.0
"""A run of 1M tokens may take so many times as long as one of 16K: it is no longer to simulate."""


def attention(array_dim: int, **shape: int) -> Mapping:
    """FuseMax's attention, interleaved."""
    placed = mappers.place(
        "fusemax",
        mappers.check_options("fusemax", {}),
        cascade=workloads.cascade("attention-1pass"),
        architecture=load_architecture("fusemax-cloud").resolve({"array_dim": array_dim}),
        shape=shape,
    )
    return single_point(placed)


def seconds(run: Callable[[], Any], repeat: int) -> tuple[float, Any]:
    """The median time of a run, that of the processor, and what it returns."""
    times = []
    for _ in range(repeat):
        begin = time.process_time()
        found = run()
        times.append(time.process_time() - begin)
    return statistics.median(times), found


def rows(repeat: int) -> Iterator[tuple[str, float, str, float | None]]:
    """What is measured, its value and unit, and the most that it may be."""
    by_length = {}
    for name, tokens in LENGTHS.items():
        mapping = attention(256, B=64, H=12, E=64, F=64, M=tokens, P=tokens)
        by_length[name], run = seconds(lambda m=mapping: timeline(m), repeat)  # type: ignore[misc]
        target = MILLION_S if name == "1M" else None
        yield f"timeline, {name} tokens, {run.tasks:.2g} tasks", by_length[name], "s", target
    yield "timeline, 1M tokens over 16K", by_length["1M"] / by_length["16K"], "x", FLAT

    mapping = attention(256, B=4, H=12, E=64, F=64, M=1024, P=1024)
    steady, short = seconds(lambda: timeline(mapping), repeat)
    full, whole = seconds(lambda: timeline(mapping, steady=False), repeat)
    if abs(short.cycles / whole.cycles - 1) > 1e-9:
        raise SystemExit(f"extrapolated {short.cycles:,.0f} cycles, in full {whole.cycles:,.0f}")
    name = f"in full over extrapolated, {whole.tasks:,.0f} tasks"
    yield name, full / steady, "x", None

    small = attention(16, B=1, H=1, E=16, F=16, M=64, P=64)
    generator = np.random.default_rng(0)
    extents = {rank: int(extent) for rank, extent in small.shape.items()}
    inputs = {
        name: generator.normal(size=[extents[r] for r in small.cascade.tensors[name].ranks])
        for name in small.cascade.inputs
    }
    took, run = seconds(lambda: simulate(small, inputs, programs(small)), repeat)
    name = f"cycle by cycle, 64 x 64 x 16 on 16 x 16, {run.cycles:,} cycles"
    yield name, took, "s", CYCLES_S


def main() -> int:
    """Measure everything and compare with the targets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    missed = False
    for name, value, unit, target in rows(parser.parse_args().repeat):
        bad = target is not None and value > target
        missed |= bad
        limit = f"{target:g} {unit}" if target is not None else "none"
        print(
            f"{name:<58} {value:7.2f} {unit}   target {limit}{'  MISSED' if bad else ''}",
            flush=True,
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
