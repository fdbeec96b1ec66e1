"""Peers beside this project: the same work, in the same run.

    python benchmarks/peers.py [scalesim] [zigzag] [accelforge] [--quick]
    python benchmarks/peers.py scalesim=PYTHON accelforge=PYTHON

A peer may live in an environment of its own (PYTHON is its interpreter, else this one): it is run
as a process, and so is this project (benchmarks/peers/run_*.py). Printed are what each found, the
seconds inside of each (without start and imports) and those of the two processes. Peers that are
not installed are skipped, with how to install them. Exit status 1 when the cycles of serialized
folds are not SCALE-Sim's, or when this project says less traffic than its bound.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from run_spec import ROOT

HERE = Path(__file__).parent / "peers"
Job = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """A peer: its package, how to install it, its work, and the part that `--quick` takes."""

    package: str
    install: str
    jobs: tuple[Job, ...]
    quick: int


def _cycles() -> tuple[Job, ...]:
    size = {"m": 1024, "n": 1024, "k": 64}
    return tuple(
        {**size, "rows": side, "cols": side, "dataflow": flow}
        for side in (256, 32)
        for flow in ("os", "ws", "is")
    )


def _product(m: int, n: int, k: int, kib: int, limit: int = 6) -> Job:
    size = {"m": m, "n": n, "k": k, "rows": 32, "cols": 32}
    return {**size, "buffer_bytes": kib * 1024, "limit": limit}


PEERS = {
    "scalesim": Peer("scalesim", "'scalesim==3.0.0' 'numpy<2.3'", _cycles(), 3),
    "zigzag": Peer(
        "zigzag-dse",
        "'zigzag-dse==3.9.1' six",
        (
            _product(512, 512, 64, 1024),
            _product(1024, 1024, 64, 64),
            _product(1024, 1024, 1024, 64),
            _product(1024, 1024, 1024, 64, limit=8),
        ),
        3,
    ),
    "accelforge": Peer(
        "accelforge",
        "'accelforge==1.0.467'   (needs Python 3.12)",
        (
            {"queries": 64, "keys": 65536, "width": 64, "heads": 1,
             "buffer_bytes": 16 * 1024, "workers": 2},
            {"queries": 65536, "keys": 65536, "width": 64, "heads": 12,
             "buffer_bytes": 16 * 1024**2, "workers": 2},
        ),
        1,
    ),
}  # fmt: skip


def version(python: str, package: str) -> str | None:
    """The version of a package in an environment, or None."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def timed(command: list[str], jobs: tuple[Job, ...]) -> tuple[list[dict[str, float]], float]:
    """The results of jobs, and the seconds of the whole process."""
    paths = {"PYTHONPATH": str(ROOT)} if command[0] == sys.executable else {}
    begin = time.perf_counter()
    done = subprocess.run(
        command, input="\n".join(map(json.dumps, jobs)), capture_output=True, text=True, cwd=ROOT,
        check=False, env={**os.environ, **paths},
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()], seconds


def said(found: dict[str, float]) -> str:
    """One result in words."""
    figure = "cycles" if "cycles" in found else "bytes"
    text = f"{found[figure]:>13,.0f} {figure} in {found['seconds']:8.3f} s"
    if "evaluated" in found:
        rate = found["evaluated"] / found["seconds"]
        text += f", {found['evaluated']:,.0f} mappings costed ({rate:,.0f}/s)"
    if "covered" in found:
        text += f", {found['covered']:,.0f} covered, bound {found['bound']:,.0f}"
    return text


def compared(name: str, python: str, quick: bool) -> bool:
    """Run a peer and this project on the same jobs; whether something is wrong with ours."""
    peer = PEERS[name]
    found = version(python, peer.package)
    if found is None:
        print(f"{peer.package}: not installed in {python}: pip install {peer.install}")
        return False
    jobs = peer.jobs[: peer.quick] if quick else peer.jobs
    theirs, their_s = timed([python, str(HERE / f"run_{name}.py")], jobs)
    ours, our_s = timed([sys.executable, str(HERE / "run_ours.py"), name], jobs)
    print(f"{peer.package} {found}: processes {their_s:.1f} s, ours {our_s:.1f} s")
    wrong = False
    for job, their, our in zip(jobs, theirs, ours, strict=True):
        print("  " + ", ".join(f"{key} {value}" for key, value in job.items()))
        print(f"    {peer.package:<12}{said(their)}")
        print(f"    {'ours':<12}{said(our)}")
        if "cycles" in our:
            wrong |= our["cycles"] != their["cycles"]
        else:
            wrong |= our["bytes"] < our["bound"] * (1 - 1e-9)
            if their["bytes"] < our["bound"] * (1 - 1e-9):
                print(f"    {peer.package} moves less than any schedule of the cascade can")
    return wrong


def main() -> int:
    """Run the peers that were asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", nargs="*", metavar="PEER[=PYTHON]", help=", ".join(PEERS))
    parser.add_argument("--quick", action="store_true", help="the shorter part of the work")
    given = parser.parse_args()
    wrong = False
    for text in given.peers or PEERS:
        name, _, python = text.partition("=")
        if name not in PEERS:
            parser.error(f"unknown peer {name!r}, not one of {', '.join(PEERS)}")
        wrong |= compared(name, python or sys.executable, given.quick)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
