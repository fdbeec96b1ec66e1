"""How far the timeline and the analytic model are apart on random legal mappings.

    python benchmarks/random_mappings.py [--count N] [--seed S] [--out FILE]

Draws arrays, buffers, bandwidths, shapes and mappers until N mappings with at least 64 tiles are
found, and prints a line for each that is more than 1 % apart, with what its units wait for, and a
summary a mapper. Hours for the 500 of docs/timeline.md on a busy machine, minutes for 50.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import mappers
import workloads
from archs import load_architecture
from einsum_cascade.source import InputError
from sim import Mapping, evaluate
from sim.single import single_point
from sim.timeline import CannotRun, timeline
from sim.timeline.building import streams_of

KINDS: list[tuple[str, str, str, dict[str, str]]] = [
    ("attention-1pass", "fusemax-cloud", "fusemax", {}),
    ("attention-1pass", "fusemax-cloud", "fusemax", {"schedule": "serial"}),
    ("attention-1pass", "flat-cloud", "fusemax", {}),
    ("attention-3pass", "flat-cloud", "unfused", {}),
    ("attention-3pass-deferred", "flat-cloud", "unfused", {}),
    ("attention-3pass", "flat-cloud", "flat", {}),
    ("attention-3pass-deferred", "flat-cloud", "flat", {}),
    ("attention-3pass", "fusemax-cloud", "fused", {}),
    ("attention-2pass", "flat-cloud", "fused", {}),
    ("attention-1pass", "fusemax-cloud", "fused", {}),
    ("linear-layer", "fusemax-cloud", "unfused", {}),
]
TILES, APART = 64, 0.01
WIDTHS = [16, 32, 64, 128]


def drawn(chosen: random.Random) -> tuple[str, Mapping]:
    """A random design point and its name. Raises `InputError` where the mapper has none."""
    cascade, arch, mapper, options = chosen.choice(KINDS)
    side = 2 ** chosen.randint(2, 6)
    overrides = {
        "array_dim": side,
        "memories.buffer.size_bytes": 2 ** chosen.randint(12, 25),
        "memories.DRAM.bandwidth_bytes_per_s": 4e8 * 2 ** chosen.uniform(0, 12),
    }
    if cascade == "linear-layer":
        shape = {"R": chosen.randint(16, 4096), "K": chosen.choice([64, 128, 512, 768])}
        shape["N"] = chosen.choice([64, 128, 768])
    else:
        keys = chosen.choice([chosen.randint(side, 16 * side), side * 2 ** chosen.randint(2, 6)])
        width = chosen.choice(WIDTHS)
        shape = {"B": chosen.randint(1, 6), "H": chosen.randint(1, 12), "E": width, "F": width}
        shape |= {"M": keys, "P": chosen.choice([keys, keys, max(1, keys // 4)])}
    placed = mappers.place(
        mapper,
        mappers.check_options(mapper, options),
        cascade=workloads.cascade(cascade),
        architecture=load_architecture(arch).resolve(overrides),
        shape={rank: np.array([float(extent)]) for rank, extent in shape.items()},
    )
    name = " ".join([cascade, arch, mapper, *options.values(), str(overrides), str(shape)])
    return name, single_point(placed)


def compared(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """A row for each of `count` legal mappings of enough tiles."""
    chosen = random.Random(seed)
    while count:
        try:
            name, mapping = drawn(chosen)
        except InputError:
            continue
        found = evaluate(mapping)
        phases = [choice.options[0] for choice in mapping.phases]
        streams = [s for p in phases for s in streams_of(mapping, p)[1].all if s.kind == "compute"]
        if found.infeasible[0] is not None or min(s.count for s in streams) < TILES:
            continue
        count -= 1
        row: dict[str, Any] = {"name": name, "gap": None}
        began = time.perf_counter()
        try:
            told = timeline(mapping)
        except CannotRun as refused:
            row["reason"] = str(refused)
        else:
            row["gap"] = told.latency_s / float(found.latency_s[0]) - 1
            row["waits"] = {
                unit: {why: round(part / told.cycles, 3) for why, part in times.stalled.items()}
                for unit, times in told.units.items()
            }
        yield {**row, "seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    """Compare, print, and write all rows as JSON lines if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    gaps: dict[str, list[float | None]] = defaultdict(list)
    lines = []
    for row in compared(given.seed, given.count):
        lines.append(json.dumps(row))
        gaps[" ".join(row["name"].split(" {")[0].split()[2:])].append(row["gap"])
        if row["gap"] is None or abs(row["gap"]) > APART:
            print(lines[-1], flush=True)
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")
    for mapper, found in sorted(gaps.items()):
        played = [abs(gap) for gap in found if gap is not None]
        near = sum(gap <= APART for gap in played)
        print(
            f"{mapper}: {near} of {len(played)} within {APART:.0%}, "
            f"largest {max(played, default=0):.1%}, {len(found) - len(played)} not played"
        )


if __name__ == "__main__":
    main()
