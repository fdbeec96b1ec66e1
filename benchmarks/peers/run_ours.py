"""The same jobs as the peers beside this file, by this project: JSON on stdin, results on stdout.

python benchmarks/peers/run_ours.py scalesim|zigzag|accelforge
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import mappers
import workloads
from archs import load_architecture
from mappers.search import Options, optimum
from sim import evaluate

HELD = {"os": "output", "ws": "weight", "is": "input"}


def cycles(job: dict[str, Any]) -> dict[str, float]:
    """A product with serialized folds, memory no limit."""
    on = load_architecture("fusemax-cloud").resolve(
        {
            "arrays.2d.shape.0": job["rows"],
            "arrays.2d.shape.1": job["cols"],
            "memories.DRAM.bandwidth_bytes_per_s": 1e30,
            "memories.buffer.size_bytes": 1e30,
        }
    )
    options = {"folds": "serialized", "stationary": HELD[job["dataflow"]], "objective": "latency_s"}
    extents = {"R": job["m"], "N": job["n"], "K": job["k"]}
    begin = time.perf_counter()
    placed = mappers.place(
        "unfused",
        mappers.check_options("unfused", options),
        cascade=workloads.cascade("linear-layer"),
        architecture=on,
        shape={rank: np.array([float(extent)]) for rank, extent in extents.items()},
    )
    found = float(evaluate(placed).latency_s[0] * on.clock_hz)
    return {"cycles": round(found), "seconds": time.perf_counter() - begin}


def traffic(cascade: str, shape: dict[str, int], buffer_bytes: int, side: int) -> dict[str, float]:
    """The least traffic of the mapper's space, words of one byte."""
    on = load_architecture(
        {"extends": "fusemax-cloud", "word_bytes": "1 B", "parameters": {"array_dim": side},
         "memories": {"buffer": {"size_bytes": buffer_bytes}}}
    ).resolve()  # fmt: skip
    begin = time.perf_counter()
    options = Options(objective="traffic_bytes", tiles="perfect", compare=False)
    report = optimum(options, workloads.cascade(cascade), on, shape).report
    seconds = time.perf_counter() - begin
    costed = report.costed + report.ahead
    return {
        "bytes": report.traffic_bytes, "seconds": seconds, "evaluated": costed,
        "covered": report.covered, "bound": report.bound_bytes,
    }  # fmt: skip


def product(job: dict[str, Any]) -> dict[str, float]:
    shape = {"R": job["m"], "N": job["n"], "K": job["k"]}
    return traffic("linear-layer", shape, job["buffer_bytes"], job["rows"])


def attention(job: dict[str, Any]) -> dict[str, float]:
    shape = {"B": 1, "H": job["heads"], "P": job["queries"], "M": job["keys"]}
    shape |= {"E": job["width"], "F": job["width"]}
    return traffic("attention-3pass", shape, job["buffer_bytes"], 32)


BESIDE: dict[str, Callable[[dict[str, Any]], dict[str, float]]] = {
    "scalesim": cycles, "zigzag": product, "accelforge": attention
}  # fmt: skip

if __name__ == "__main__":
    run = BESIDE[sys.argv[1]]
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
