"""Running a sweep: what is missing is evaluated here, in other processes, or on a cluster."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

from einsum_cascade.source import InputError
from explore.spec import Experiment
from explore.sweeps.block import SamplingSchema
from explore.sweeps.former import Former
from explore.sweeps.keys import context_key, part_key, unit_key
from explore.sweeps.parts import Store, write_manifest
from explore.sweeps.units import Unit, units
from explore.sweeps.work import Done, Job, packed, work

Evaluator = Callable[[Iterable[Job]], Iterator[Done]]
"""Evaluates jobs, in any order."""

ALONE_S = 1.0
"""A sweep that is done in so many seconds is not worth the start of processes."""

_RESTARTS = 20
"""How often workers may die in a row before something must be wrong with the machine."""


@dataclass
class Progress:
    """How far a sweep is: `points` of `total`, of which `kept` were there before.

    The others were `evaluated`, but for those that a condition excludes.
    """

    total: int
    points: int = 0
    kept: int = 0
    evaluated: int = 0
    rows: int = 0
    feasible: int = 0
    best: tuple[float, str] | None = None
    told: Callable[[Progress], None] | None = field(default=None, repr=False)

    def add(self, points: int, done: Done | None) -> None:
        """A part is there: evaluated now (`done`), or before."""
        self.points += points
        if done is None:
            self.kept += points
        else:
            self.kept += done.known
            self.evaluated += done.evaluated
            self.rows += done.rows
            self.feasible += done.feasible
            self.best = min((b for b in (self.best, done.best) if b is not None), default=None)
        if self.told is not None:
            self.told(self)


def run_sweep(
    experiment: Experiment,
    store: Store,
    evaluate: Evaluator,
    told: Callable[[Progress], None] | None = None,
) -> Progress:
    """Evaluate all points of a sweep that `store` does not hold yet.

    The manifest is written before the first part, so that what is there can be read at any time.
    """
    sampling = experiment.schema.sampling or SamplingSchema()
    every = units(experiment)
    for unit in every:
        unit.design.refuse_front()
    if sampling.kind == "search":
        from explore.sweeps.ask import search

        return search(experiment, every, store, evaluate, told)
    plan = Plan(every, experiment.schema.rank.by)
    progress = Progress(sum(unit.size for unit in every), told=told)
    write_manifest(store.folder, manifest(experiment, every, plan.keys))
    former = Former(store, plan.keys)
    sizes: dict[str, int] = {}

    def missing() -> Iterator[Job]:
        for unit, job in plan.jobs():
            if store.whole(job.key) or job.key in sizes:
                progress.add(job.chunk.count, None)
            else:
                sizes[job.key] = job.chunk.count
                yield replace(job, former=former.beside(unit, job.context, job.chunk))

    for done in evaluate(missing()):
        store.write(done.key, done.data)
        progress.add(sizes[done.key], done)
    return progress


def manifest(experiment: Experiment, every: Sequence[Unit], keys: Sequence[str]) -> dict[str, Any]:
    """What a reader of a sweep must know."""
    names = [n for unit in every for n in (*unit.labels, *unit.parameters)]
    return {
        "name": experiment.name,
        "by": experiment.schema.rank.by,
        "parameters": list(dict.fromkeys(names)),
        "parts": list(keys),
    }


class Plan:
    """All chunks of a sweep in order, with their keys."""

    def __init__(self, every: Sequence[Unit], by: str) -> None:
        self.units, self.by = every, by
        self.unit_keys = [unit_key(unit) for unit in every]
        self.keys = [
            part_key(unit, key, chunk)
            for unit, key in zip(every, self.unit_keys, strict=True)
            for chunk in unit.chunks()
        ]

    def jobs(self) -> Iterator[tuple[Unit, Job]]:
        """A job for each chunk, and its unit."""
        keys = iter(self.keys)
        for unit in self.units:
            data, context = packed(unit), context_key(unit)
            for chunk in unit.chunks():
                yield unit, Job(next(keys), data, chunk, context, self.by)


def here(jobs: Iterable[Job]) -> Iterator[Done]:
    """Evaluate in this process."""
    return map(work, jobs)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes(count: int) -> Evaluator:
    """Evaluate in processes of this machine, by joblib's executor. One that dies is replaced."""

    def evaluate(jobs: Iterable[Job]) -> Iterator[Done]:
        stream = iter(jobs)
        begin = last = time.perf_counter()
        for job in stream:
            now = time.perf_counter()
            if now - begin >= ALONE_S:
                brief = now - last < ALONE_S / 4
                yield from _in_processes(chain([job], stream), count, brief)
                return
            yield work(job)
            last = now

    return evaluate


def _in_processes(jobs: Iterator[Job], count: int, brief: bool) -> Iterator[Done]:
    """Two jobs for each process in advance; those that died with a process are tried again. If jobs
    are `brief`, this process evaluates some until the others have started."""
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.process_executor import BrokenProcessPool

    def pool() -> Any:
        return get_reusable_executor(
            max_workers=count, timeout=300, initializer=_prepare, initargs=(os.getpid(),)
        )

    running: dict[Future[Done], Job] = {}
    lost: list[Job] = []
    failures = 0
    try:
        while True:
            try:
                for job in islice(chain(_taken(lost), jobs), 2 * count - len(running)):
                    running[pool().submit(work, job)] = job
            except BrokenProcessPool:
                lost.append(job)
            while brief and running and not any(future.done() for future in running):
                own = next(jobs, None)
                if own is None:
                    break
                yield work(own)
            brief = False
            finished = wait(running, return_when=FIRST_COMPLETED).done
            if not finished and not lost:
                return
            for future in finished:
                job = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    lost.append(job)
                    continue
                yield future.result()
                failures = 0
            if lost:  # all processes went with the one that died
                lost += running.values()
                running.clear()
                failures += 1
                if failures > _RESTARTS:
                    raise InputError(
                        "worker processes die again and again (is there too little memory?): "
                        "what is finished is kept; try fewer --workers, or a smaller sampling.chunk"
                    )
    finally:
        pool().shutdown(wait=True, kill_workers=True)


def _taken(jobs: list[Job]) -> Iterator[Job]:
    while jobs:
        yield jobs.pop()


def _prepare(parent: int) -> None:
    """A process that shares the cores: one thread for tables; Ctrl-C is its parent's, without
    which it ends, however that did."""
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


@contextmanager
def cluster(address: str) -> Iterator[Evaluator]:
    """Evaluate on a Dask cluster: `tcp://...`, or `local:N` for N processes on this machine."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise InputError(
            "--cluster needs dask.distributed: pip install 'einsum-cascade-explorer[cluster]'"
        ) from None
    kind, _, count = address.partition(":")
    with ExitStack() as stack:
        if kind == "local":
            if not count.isdigit() or int(count) < 1:
                raise InputError(
                    f"--cluster local:N needs a number of processes, found {address!r}"
                )
            target: Any = stack.enter_context(
                LocalCluster(
                    n_workers=int(count), threads_per_worker=1, processes=True,
                    dashboard_address=None, silence_logs=50,
                )
            )  # fmt: skip
        elif "://" in address:
            target = address
        else:
            raise InputError(
                f"unknown cluster {address!r}",
                allowed=["local:N", "tcp://HOST:PORT"],
                found=address,
            )
        try:
            client = stack.enter_context(Client(target, timeout=30))
        except (OSError, ValueError) as error:
            raise InputError(f"no cluster answers at {address!r}: {error}") from None
        yield lambda jobs: _on_cluster(client, jobs)


def _on_cluster(client: Any, jobs: Iterable[Job]) -> Iterator[Done]:
    """Jobs by Dask, a few for each worker in advance; lost ones are given out again."""
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    stream = iter(jobs)
    running: dict[Any, Job] = {}
    failures = 0

    def submit(job: Job) -> Any:
        future = client.submit(work, job, pure=False, retries=_RESTARTS)
        running[future] = job
        return future

    ahead = 3 * max(1, len(client.scheduler_info()["workers"]))
    queue = as_completed([submit(job) for job in islice(stream, ahead)])
    try:
        for future in queue:
            job = running.pop(future)
            try:
                done = future.result()
            except KilledWorker:
                failures += 1
                if failures > _RESTARTS:
                    raise InputError(
                        "the cluster's workers die again and again: what is finished is kept"
                    ) from None
                queue.add(submit(job))
                continue
            except OSError as error:
                raise InputError(
                    f"the cluster is gone: {error}; what is finished is kept"
                ) from None
            failures = 0
            for following in islice(stream, 1):
                queue.add(submit(following))
            yield done
    finally:
        if sys.exc_info()[0] is not None:
            client.cancel(list(running))
