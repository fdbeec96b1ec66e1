"""Sweeps: rate and memory against their size and processes, and what faults do to the results.

    python benchmarks/sweep.py size [--most 1e7]       # 10^4 to 10^7 points, cold processes
    python benchmarks/sweep.py processes [--points 1e8]  # one process against two
    python benchmarks/sweep.py faults [--kills 10]     # kill -9, truncated part, full disk, Dask

Exit status 1 when a target is missed or a result differs from that of an undisturbed run.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
from run_spec import ROOT, resident_megabytes

from explore.sweeps.read import results

SPEC = """\
name: benchmark
workload:
  models: [bert-base, xlm]
  seq_len: [1K, 2K, 4K, 8K, 16K, 32K, 64K, 128K, 256K, 512K]
  batch: [1, 4, 16, 64, 256]
designs:
  FuseMax: {{arch: fusemax-cloud, cascade: attention-1pass, mapper: fusemax}}
sweep:
  arch.memories.DRAM.bandwidth_bytes_per_s: {bandwidths}
  arch.array_dim: [32, 64, 128, 256, 512]
  arch.memories.buffer.size_bytes: [4 MiB, 8 MiB, 16 MiB, 32 MiB, 64 MiB]
  arch.clock_hz: [500 MHz, 700 MHz, 940 MHz, 1.2 GHz]
sampling: {{chunk: {chunk}}}
"""
EACH = 10_000
TARGET_S, TARGET_MB, TARGET_GAIN = 60.0, 2000.0, 1.7


def write_spec(folder: Path, points: int, chunk: int = 2**16) -> Path:
    """A spec of so many points: the bandwidths make up the number."""
    count = max(1, points // EACH)
    steps = "[400 GiB/s]" if count == 1 else f"{{from: 1e11, to: 4e12, steps: {count}}}"
    file = folder / f"spec-{points}.yaml"
    file.write_text(SPEC.format(bandwidths=steps, chunk=chunk))
    return file


def started(spec: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    """A cold process that sweeps."""
    command = [sys.executable, "-m", "explore", "sweep", str(spec), "--out", str(out), *options]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def measured(spec: Path, out: Path, *options: str) -> tuple[float, float]:
    """Wall seconds and peak resident megabytes of a sweep and all its processes."""
    seconds, peak, _ = measured_with_cpu(spec, out, *options)
    return seconds, peak


def measured_with_cpu(spec: Path, out: Path, *options: str) -> tuple[float, float, float]:
    """The same, and processor seconds: what the wall seconds are worth on a busy machine."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    process = started(spec, out, *options)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, resident_megabytes(process.pid))
        time.sleep(0.05)
    seconds = time.perf_counter() - begin
    if process.returncode:
        raise SystemExit(process.stderr.read().decode() if process.stderr else "")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, peak, cpu


def sizes(most: int, workers: int) -> bool:
    """Cost of a point from 10^4 points on."""
    missed = False
    for power in range(4, 8):
        points = 10**power
        if points > most:
            break
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            seconds, peak, cpu = measured_with_cpu(
                write_spec(Path(folder), points), out, "--workers", str(workers)
            )
            disk = sum(f.stat().st_size for f in out.rglob("*") if f.is_file()) / 1e6
            begin = time.perf_counter()
            result = results(out)
            rows = result.scan().select(pl.len()).collect().item()
            best = result.scan().select(pl.col("latency_s").min()).collect().item()
            read_s = time.perf_counter() - begin
        bad = rows != points or (points == 10**7 and (seconds > TARGET_S or peak > TARGET_MB))
        missed |= bad
        print(
            f"{points:>10,} points  {seconds:7.2f} s  {points / seconds:>9,.0f} points/s  "
            f"{seconds / points * 1e6:8.2f} us/point  cpu {cpu:6.1f} s  "
            f"peak {peak:5.0f} MB  disk {disk:6.1f} MB  "
            f"least latency {best:.3g} s read in {read_s:.2f} s{'  MISSED' if bad else ''}",
            flush=True,
        )
    return missed


def two_processes(points: int) -> bool:
    """How much faster two processes are than one; the start of both is in it."""
    seconds, cpu = {}, {}
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            spec, out = write_spec(Path(folder), points), Path(folder) / "out"
            seconds[workers], _, cpu[workers] = measured_with_cpu(
                spec, out, "--workers", str(workers)
            )
    gain = seconds[1] / seconds[2]
    print(
        f"{points:,} points: one process {seconds[1]:.2f} s ({cpu[1]:.1f} s of processors), "
        f"two {seconds[2]:.2f} s ({cpu[2]:.1f} s): {gain:.2f}x"
    )
    return gain < TARGET_GAIN


def faults(points: int, kills: int) -> bool:
    """What each fault leaves, once the same command was run again, against an undisturbed run."""
    bad = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = write_spec(folder, points, chunk=2**10)
        undisturbed = folder / "undisturbed"
        seconds, _ = measured(spec, undisturbed, "--workers", "1")
        wanted = results(undisturbed).scan().collect()

        def check(what: str, out: Path) -> None:
            same = results(out).scan().collect().equals(wanted) and sorted(
                f.name for f in (out / "parts").iterdir()
            ) == sorted(f.name for f in (undisturbed / "parts").iterdir())
            print(f"{what}: {'identical' if same else 'DIFFERENT'}", flush=True)
            bad.append(not same)

        for workers in ("1", "2"):
            moments = random.Random(0)
            out = folder / f"killed-{workers}"
            counts = []
            for _ in range(kills):
                process = started(spec, out, "--workers", workers)
                if moments.random() < 0.3:  # at any moment, the start too; else among the parts
                    time.sleep(moments.uniform(0.1, 2.0))
                else:
                    more = counts[-1] if counts else 0
                    while process.poll() is None and parts_in(out) <= more:
                        time.sleep(0.005)
                    time.sleep(moments.uniform(0, seconds / kills / 2))
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                counts.append(parts_in(out))
            measured(spec, out, "--workers", workers)
            check(f"kill -9 at {kills} moments, {workers} worker(s), parts then {counts}", out)

        out = folder / "truncated"
        shutil.copytree(undisturbed, out)
        parts = sorted((out / "parts").iterdir())
        with parts[len(parts) // 2].open("r+b") as stream:
            stream.truncate(parts[len(parts) // 2].stat().st_size // 2)
        measured(spec, out, "--workers", "1")
        check("truncated part", out)
        if shutil.which("mount") and os.geteuid() == 0:
            bad += full_disk(spec, folder, check)
        else:
            print("full disk: skipped, a small file system is root's to mount")
        try:
            import distributed  # noqa: F401
        except ImportError:
            print("Dask: skipped, distributed is not installed")
        else:
            out = folder / "dask"
            process = started(spec, out, "--cluster", "local:2")
            killed = kill_one_worker(process, out)
            process.wait()
            check(f"Dask worker {'killed' if killed else 'NOT killed'}", out)
            bad.append(not killed or process.returncode != 0)
    return any(bad)


def parts_in(out: Path) -> int:
    """Parts that are there."""
    return sum(1 for _ in out.glob("parts/*.parquet"))


def full_disk(spec: Path, folder: Path, check: object) -> list[bool]:
    """A file system of 400 kB that fills up, then grows."""
    small = folder / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)], capture_output=True
    )
    if mounted.returncode:
        print("full disk: skipped, no file system can be mounted here")
        return []
    try:
        process = started(spec, small / "out", "--workers", "1")
        _, message = process.communicate()
        print(f"full disk: exit status {process.returncode}, {message.decode().strip()}")
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        measured(spec, small / "out", "--workers", "1")
        check("full disk, then room", small / "out")  # type: ignore[operator]
        return [process.returncode != 2]
    finally:
        subprocess.run(["umount", str(small)], check=True)


def kill_one_worker(process: subprocess.Popen[bytes], out: Path) -> bool:
    """Kill a process of the cluster once the first parts are there."""
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if parts_in(out):
            for pid in workers_of(process.pid):
                os.kill(pid, signal.SIGKILL)
                return True
        time.sleep(0.01)
    return False


def workers_of(pid: int) -> list[int]:
    """The processes below `pid` that were spawned to work."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("size", "processes", "faults"))
    parser.add_argument("--most", type=float, default=1e7)
    parser.add_argument("--points", type=float, default=None)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=10)
    given = parser.parse_args()
    if given.what == "size":
        return int(sizes(int(given.most), given.workers))
    if given.what == "processes":
        return int(two_processes(int(given.points or 1e8)))
    return int(faults(int(given.points or 1e5), given.kills))


if __name__ == "__main__":
    sys.exit(main())
