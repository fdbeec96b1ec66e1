"""Search: a sampler of optuna asks for points, a batch at a time; each batch is evaluated at once.

The sampler is repeatable, so a search that was stopped asks for the same points again: the batches
whose parts are there are read, not evaluated.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from einsum_cascade.source import InputError, Place
from explore.spec import Experiment
from explore.sweeps.driver import Evaluator, Progress, manifest
from explore.sweeps.filters import column_of, compiled
from explore.sweeps.keys import context_key, part_key, unit_key
from explore.sweeps.parts import Store, write_manifest
from explore.sweeps.space import Axis, Chosen, grid_size
from explore.sweeps.units import Unit
from explore.sweeps.work import Job, allowed, packed

if TYPE_CHECKING:
    import polars as pl

Point = tuple[int, tuple[float, ...]]
"""A unit, and the share of each of its axes."""

_IDLE = 20
"""Batches without a new point, after which a search is over."""


@dataclass
class _Known:
    """What is known of points: their objectives, or None where they cannot be."""

    values: dict[Point, list[float] | None]
    keys: list[str]


def search(
    experiment: Experiment,
    every: Sequence[Unit],
    store: Store,
    evaluate: Evaluator,
    told: Callable[[Progress], None] | None = None,
) -> Progress:
    """Evaluate as many points as the spec says, each once, where a sampler expects good ones.

    A search is over all designs together: which one is a choice like any other.
    """
    optuna = _optuna()
    sampling = every[0].sampling
    assert sampling.points is not None
    total = int(min(sampling.points, sum(grid_size(unit.axes) for unit in every)))
    progress = Progress(total, told=told)
    study = optuna.create_study(
        directions=["minimize"] * len(sampling.objectives),
        sampler=_sampler(optuna, sampling.sampler, sampling.seed, sampling.batch),
    )
    data = [packed(unit) for unit in every]
    unit_keys = [unit_key(unit) for unit in every]
    contexts = [context_key(unit) for unit in every]
    place = experiment.document.place("sampling", "objectives")
    known, idle = _Known({}, []), 0
    while len(known.values) < total and idle < _IDLE:
        trials = [study.ask() for _ in range(sampling.batch)]
        points = [_suggested(trial, every) for trial in trials]
        fresh = [p for p in dict.fromkeys(points) if p not in known.values]
        fresh = fresh[: total - len(known.values)]
        idle = 0 if fresh else idle + 1
        jobs = []
        for i, unit in enumerate(every):
            own = tuple(shares for number, shares in fresh if number == i)
            if own:
                chunk = Chosen(own)
                key = part_key(unit, unit_keys[i], chunk)
                jobs.append((i, Job(key, data[i], chunk, contexts[i], experiment.schema.rank.by)))
        if fresh:
            known.keys += [job.key for _, job in jobs]
            _evaluate(store, evaluate, [job for _, job in jobs], progress)
            write_manifest(store.folder, manifest(experiment, every, known.keys))
        for i, job in jobs:
            _learn(known, i, job, every[i], store, place)
        for trial, point in zip(trials, points, strict=True):
            values = known.values.get(point)
            if values is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, values)
    progress.total = progress.points
    return progress


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise InputError(
            "a sweep of kind search needs optuna: pip install 'einsum-cascade-explorer[search]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _sampler(optuna: Any, name: str, seed: int, batch: int) -> Any:
    """A sampler by its name in the spec; one population of a genetic one is a batch."""
    samplers = optuna.samplers
    made: dict[str, Callable[[], Any]] = {
        "nsga2": lambda: samplers.NSGAIISampler(seed=seed, population_size=max(2, batch)),
        "nsga3": lambda: samplers.NSGAIIISampler(seed=seed, population_size=max(2, batch)),
        "tpe": lambda: samplers.TPESampler(seed=seed, constant_liar=True),
        "gp": lambda: samplers.GPSampler(seed=seed),
        "random": lambda: samplers.RandomSampler(seed=seed),
        "qmc": lambda: samplers.QMCSampler(seed=seed),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental arguments
        try:
            return made[name]()
        except ImportError as error:
            raise InputError(f"the sampler {name} needs more than optuna: {error}") from None


def _suggested(trial: Any, every: Sequence[Unit]) -> Point:
    """The point that a trial is to be: a unit, and a share of each of its axes."""
    number = 0
    if len(every) > 1:
        number = trial.suggest_categorical("design", list(range(len(every))))
    shares = tuple(_share(trial, each) for each in every[number].axes)
    return number, shares


def _share(trial: Any, axis: Axis) -> float:
    """Numbers in an order are searched as such; names, as a choice."""
    name = " ".join(axis.values)
    if axis.open is not None:
        share: float = trial.suggest_float(name, 0.0, float(np.nextafter(1.0, 0.0)))
        if not axis.open.integer:
            return share
        value = float(axis.open.at(np.asarray([share]))[0])
        return axis.open.share(value)  # one share for one point, so that it is known again
    size = int(axis.size)
    ordered = name != "model" and len(axis.values) == 1
    if ordered:
        level = trial.suggest_int(name, 0, size - 1)
    else:
        level = trial.suggest_categorical(name, list(range(size)))
    return (int(level) + 0.5) / size


def _evaluate(store: Store, evaluate: Evaluator, jobs: Sequence[Job], progress: Progress) -> None:
    counts = {job.key: job.chunk.count for job in jobs}
    missing = []
    for job in jobs:
        if store.whole(job.key):
            progress.add(counts[job.key], None)
        else:
            missing.append(job)
    for done in evaluate(missing):
        store.write(done.key, done.data)
        progress.add(counts[done.key], done)


def _learn(known: _Known, number: int, job: Job, unit: Unit, store: Store, place: Place) -> None:
    """The objectives of the points of a part, the sum over kernels where there are several.

    Points that a condition excludes have no rows: they are known to be nothing.
    """
    import polars as pl

    assert isinstance(job.chunk, Chosen)
    table = pl.read_parquet(store.path(job.key))
    points = [(number, shares) for shares in job.chunk.shares]
    kept = np.flatnonzero(allowed(unit, unit.points(job.chunk)))
    known.values |= dict.fromkeys(points, None)
    if not len(kept):
        return
    each = _objectives(table, unit, place)
    found = each.reshape(len(unit.grid.kernels), len(kept), -1).sum(axis=0)
    for index, values in zip(kept, found, strict=True):
        if np.isfinite(values).all():
            known.values[points[index]] = values.tolist()


def _objectives(table: pl.DataFrame, unit: Unit, place: Place) -> Any:
    numbers = [name for name, kind in table.schema.items() if kind.is_numeric()]
    for rule in unit.sampling.objectives:
        for name in sorted(rule.names):
            try:
                column_of(name, numbers, "a search")
            except InputError as error:
                raise InputError(
                    error.message, place, allowed=error.allowed, found=error.found
                ) from None
    columns = [
        compiled(rule, numbers).alias(f"{i}") for i, rule in enumerate(unit.sampling.objectives)
    ]
    return table.select(columns).fill_null(float("nan")).to_numpy()
