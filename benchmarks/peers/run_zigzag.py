"""Matrix products in ZigZag 3, by its own Python: jobs as JSON on stdin, results on stdout.

A job is {"m", "n", "k", "rows", "cols", "buffer_bytes", "limit"}. Words have one byte; the only
cost is a unit of energy for each byte that the outer memory moves, so the optimum is the least
traffic.
Products of K over the rows and N over the columns of the array, each PE keeps its results.
`limit` is ZigZag's `lpf_limit`, the loops that are put in every order. A result is {"bytes",
"seconds", "evaluated"}: traffic, seconds of its search alone, mappings that its model costed.
Started by benchmarks/peers.py; needs nothing of this project.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LINKS = {"O": "O", "W": "I2", "I": "I1"}
WIDE = 2**20


def memory(
    size_bits: int, cost: float, operands: list[str], served: list[str], wide: int = WIDE
) -> dict[str, Any]:
    results = ("fh", "fl", "tl", "th")
    ways = [f"{o}, {w}" for o in operands for w in (results if o == "O" else ("fh", "tl"))]
    port = {"name": "rw_port_1", "type": "read_write", "bandwidth_min": 8, "bandwidth_max": wide}
    return {
        "size": size_bits, "r_cost": cost, "w_cost": cost, "area": 0, "latency": 1,
        "operands": operands, "served_dimensions": served, "ports": [{**port, "allocation": ways}],
    }  # fmt: skip


def files(job: dict[str, int]) -> dict[str, Any]:
    both = ["D1", "D2"]
    hardware = {
        "name": "array",
        "memories": {
            "registers": memory(8, 0.0, ["O"], []),
            "buffer": memory(8 * job["buffer_bytes"], 0.0, ["I1", "I2", "O"], both),
            "dram": memory(2**40, 1.0, ["I1", "I2", "O"], both, 8),
        },
        "operational_array": {
            "unit_energy": 0.0, "unit_area": 1.0, "dimensions": both,
            "sizes": [job["rows"], job["cols"]],
        },
    }  # fmt: skip
    mapping = {
        "name": "default", "memory_operand_links": LINKS,
        "spatial_mapping": {"D1": [f"C, {job['rows']}"], "D2": [f"K, {job['cols']}"]},
    }  # fmt: skip
    layer = {
        "id": 0, "operator_type": "Gemm", "equation": "O[b][k]+=I[b][c]*W[c][k]",
        "loop_dims": ["B", "C", "K"], "loop_sizes": [job["m"], job["k"], job["n"]],
        "operand_precision": {"I": 8, "W": 8, "O": 8, "O_final": 8},
        "operand_source": {"I": 0, "W": 0},
    }  # fmt: skip
    return {"hardware": hardware, "mapping": [mapping], "workload": [layer]}


def run(job: dict[str, int]) -> dict[str, float]:
    import yaml
    from zigzag.api import get_hardware_performance_zigzag
    from zigzag.stages.evaluation import cost_model_evaluation as stage

    logging.disable(logging.CRITICAL)
    costed = 0
    real = stage.CostModelEvaluation

    def counted(**named: Any) -> Any:
        nonlocal costed
        costed += 1
        return real(**named)

    stage.CostModelEvaluation = counted
    try:
        with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
            paths = {}
            for what, data in files(job).items():
                paths[what] = Path(name) / f"{what}.yaml"
                paths[what].write_text(yaml.safe_dump(data, sort_keys=False))
            begin = time.perf_counter()
            energy, _, _ = get_hardware_performance_zigzag(
                str(paths["workload"]), str(paths["hardware"]), str(paths["mapping"]),
                opt="energy", dump_folder=name, lpf_limit=job["limit"],
                loma_show_progress_bar=False,
            )  # fmt: skip
            seconds = time.perf_counter() - begin
    finally:
        stage.CostModelEvaluation = real
    return {"bytes": float(energy), "seconds": seconds, "evaluated": costed}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
