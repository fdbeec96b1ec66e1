"""Attention in AccelForge 1.0, by its own Python (3.12): jobs as JSON on stdin, results on stdout.

A job is {"queries", "keys", "width", "heads", "buffer_bytes", "workers"}: the stable softmax as six
Einsums, in three passes. Words have one byte; the only cost is a unit of energy for each bit that
the outer memory moves, so the optimum is the least traffic. A result is {"bytes", "seconds",
"evaluated"}: traffic, seconds of its mapper alone, mappings by its own counter.
Started by benchmarks/peers.py; needs nothing of this project.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

ARCH = """\
arch:
  nodes:
  - !Memory
    name: DRAM
    size: inf
    leak_power: 0
    area: 0
    tensors: {{keep: ~Intermediates, may_keep: All}}
    actions:
    - {{name: read, energy: 1, throughput: inf}}
    - {{name: write, energy: 1, throughput: inf}}
  - !Memory
    name: buffer
    size: {bits}
    leak_power: 0
    area: 0
    tensors: {{keep: ~DRAM, may_keep: All}}
    actions:
    - {{name: read, energy: 0, throughput: inf}}
    - {{name: write, energy: 0, throughput: inf}}
  - !Compute
    name: MAC
    leak_power: 0
    area: 0
    actions: [{{name: compute, energy: 0, throughput: 1}}]
"""
THREE_PASS = [  # name, operands with their ranks, ranks of the result
    ("QK", "Q:h,p,e K:h,m,e", "h,p,m"),
    ("GM", "QK:h,p,m", "h,p"),
    ("SN", "QK:h,p,m GM:h,p", "h,p,m"),
    ("SD", "SN:h,p,m", "h,p"),
    ("A", "SN:h,p,m SD:h,p", "h,p,m"),
    ("AV", "A:h,p,m V:h,m,f", "h,p,f"),
]


def workload(job: dict[str, object]) -> str:
    extents = {"h": job["heads"], "p": job["queries"], "m": job["keys"]}
    extents |= dict.fromkeys("ef", job["width"])
    lines = ["workload:", "  iteration_space_shape:"]
    lines += [f"    {rank}: 0 <= {rank} < {extent}" for rank, extent in extents.items()]
    lines += ["  bits_per_value: {All: 8}", "  einsums:"]
    for name, operands, ranks in THREE_PASS:
        lines += [f"  - name: {name}", "    tensor_accesses:"]
        for operand in operands.split():
            tensor, moved = operand.split(":")
            lines.append(f"    - {{name: {tensor}, projection: [{moved}]}}")
        lines.append(f"    - {{name: {name}, projection: [{ranks}], output: True}}")
    return "\n".join(lines) + "\n"


def run(job: dict[str, object]) -> dict[str, float]:
    import accelforge
    from accelforge.mapper.FFM.main import join_pmappings, make_pmappings

    accelforge.set_n_parallel_jobs(job["workers"], print_message=False)
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        arch, work = Path(name) / "arch.yaml", Path(name) / "workload.yaml"
        arch.write_text(ARCH.format(bits=8 * int(str(job["buffer_bytes"]))))
        work.write_text(workload(job))
        spec = accelforge.Spec.from_yaml(arch, work)
        spec.mapper.metrics = accelforge.Metrics.ENERGY
        begin = time.perf_counter()
        partial = make_pmappings(spec, print_progress=False)
        found = join_pmappings(
            partial, require_all_einsums=True, print_progress=False, metrics=spec.mapper.metrics
        )
        seconds = time.perf_counter() - begin
        bits = min(found.data["Total<SEP>energy"])
        return {
            "bytes": float(bits) / 8,
            "seconds": seconds,
            "evaluated": float(partial.n_evaluated_pmappings()),
        }


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
