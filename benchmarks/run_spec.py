"""Time and memory of cold processes against their targets.

    python benchmarks/run_spec.py [--repeat N]

Prints, for each command, the median and the range of wall seconds and the largest resident memory
(the command's own process and those that it started). Exit status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXPLORE = [sys.executable, "-m", "explore"]
COMMANDS = [  # name, arguments, target seconds, target megabytes
    ("whole FuseMax spec with figures", "run experiments/fusemax.yaml --out {out}", 5.0, 500),
    ("100,000 FPGA configurations", "run benchmarks/templates.yaml --out {out}", 30.0, None),
    ("help", "--help", 0.3, None),
    ("passes of a cascade", "passes attention-3pass", None, None),
    ("validate", "validate", None, None),
]


def once(arguments: list[str]) -> tuple[float, float]:
    """Wall seconds and peak resident megabytes of one cold process and its children.

    Linux reports the largest single process among the children waited for; what a process starts
    beside itself is added up by reading its tree while it runs.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "results")
        command = [*EXPLORE, *(a.format(out=out) for a in arguments)]
        begin = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, resident_megabytes(process.pid))
            time.sleep(0.005)
        seconds = time.perf_counter() - begin
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    return seconds, peak


def resident_megabytes(pid: int) -> float:
    """Resident memory of a process and all below it; shared pages are counted in proportion."""
    total = 0.0
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += next(int(x.split()[1]) for x in rollup.splitlines() if x.startswith("Pss:")) / 1024
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                total += resident_megabytes(int(child))
    except (OSError, StopIteration):
        pass
    return total


def main() -> int:
    """Run every command and compare with its targets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    missed = False
    for name, arguments, target_s, target_mb in COMMANDS:
        runs = [once(arguments.split()) for _ in range(repeat)]
        seconds = [s for s, _ in runs]
        peak = max(mb for _, mb in runs)
        median = statistics.median(seconds)
        targets = [f"{target_s} s" if target_s else "", f"{target_mb} MB" if target_mb else ""]
        bad = bool(target_s and median > target_s) or bool(target_mb and peak > target_mb)
        missed |= bad
        print(
            f"{name:<34} median {median:6.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), "
            f"peak {peak:5.0f} MB   target {' and '.join(filter(None, targets)) or 'none'}"
            f"{'  MISSED' if bad else ''}"
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
