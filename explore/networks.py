"""Whole networks: every kernel of a model placed and priced, and the sum of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

import mappers
import workloads
from archs import Architecture
from einsum_cascade import Cascade
from einsum_cascade.source import InputError
from explore.points import Array, Points
from explore.spec import Design, Grid
from sim import Evaluation, combine, evaluate, scatter
from workloads import Kernel, Model
from workloads.networks import ATTENTION

_MAPPER = "fused"
"""Places all kernels but the attention of the design, where its mapper places attention alone."""


@dataclass(frozen=True)
class _Job:
    """One instance of a kernel (a load of experts, a stage) of one model, at the model's points.

    `points` are their positions in the grid; `runs` says how often it runs at each of them.
    """

    kernel: Kernel
    points: Array
    shape: dict[str, Array]
    runs: Array


def network_evaluation(
    grid: Grid, design: Design, points: Points, architecture: Architecture, accounting: str
) -> Evaluation:
    """A model's network at all points, prefill or decoding as the workload's `queries` say.

    Costs are those of all kernels one after the other. Kernels of one cascade, of all models, are
    priced in one go. Raises `InputError` for a cascade that a network cannot take as its attention,
    or that a mapper cannot place.
    """
    jobs: list[_Job] = []
    for index, model in enumerate(grid.models):
        chosen = np.flatnonzero(points.model == index)
        if len(chosen):
            jobs += _jobs(grid, design, model, points[chosen], chosen)
    costs: dict[int, Evaluation] = {}
    for alike in _by_cascade(jobs).values():
        priced = _priced(grid, design, [jobs[i] for i in alike], architecture, accounting, points)
        costs |= dict(zip(alike, priced, strict=True))
    parts = []
    for chosen in {job.points.tobytes(): job.points for job in jobs}.values():
        own = [i for i, job in enumerate(jobs) if job.points is chosen]
        total = combine([costs[i] for i in own], [jobs[i].runs for i in own])
        notes = np.full(len(chosen), "", dtype=object)
        for i in own:
            if jobs[i].kernel.name == ATTENTION:
                notes = np.where(jobs[i].runs > 0, costs[i].mapping_notes, notes)
        parts.append((chosen, Evaluation(**_fields(total) | {"mapping_notes": notes})))
    return scatter(parts, len(points))


def _jobs(grid: Grid, design: Design, model: Model, points: Points, chosen: Array) -> list[_Job]:
    queries = points.seq_len if grid.queries == "seq_len" else np.full(len(points), grid.queries)
    kernels = workloads.kernels(
        workloads.network(model.network),
        model,
        points.batch,
        queries,
        points.seq_len,
        attention=design.cascade if grid.attention == "design" else None,
        histogram=grid.histogram if model.moe is not None else None,
    )
    jobs = []
    for kernel in kernels:
        form = (kernel.instances, len(points))
        shape = {rank: np.broadcast_to(e, form) for rank, e in kernel.shape.items()}
        runs = np.broadcast_to(np.asarray(kernel.count, dtype=np.float64), form)
        for i in range(kernel.instances):
            if np.any(runs[i]):
                own = {rank: extents[i] for rank, extents in shape.items()}
                jobs.append(_Job(kernel, chosen, own, runs[i]))
    return jobs


def _by_cascade(jobs: Sequence[_Job]) -> dict[tuple[Cascade, frozenset[str]], list[int]]:
    """Jobs that can be points of one mapping."""
    found: dict[tuple[Cascade, frozenset[str]], list[int]] = {}
    for i, job in enumerate(jobs):
        found.setdefault((job.kernel.cascade, frozenset(job.shape)), []).append(i)
    return found


def _priced(
    grid: Grid,
    design: Design,
    jobs: Sequence[_Job],
    architecture: Architecture,
    accounting: str,
    points: Points,
) -> list[Evaluation]:
    """Each job's costs at its points, from one mapping of all of them."""
    kernel = jobs[0].kernel
    designed = kernel.name == ATTENTION and grid.attention == "design"
    designed = designed or mappers.places_networks(design.mapper)
    mapper = design.mapper if designed else _MAPPER
    options = design.options if designed else mappers.check_options(_MAPPER, {})
    where = np.concatenate([job.points for job in jobs])

    def at(number: Any) -> Any:
        many = np.ndim(number) > 0
        return np.broadcast_to(number, (len(points),))[where] if many else number

    shape = {rank: np.concatenate([job.shape[rank] for job in jobs]) for rank in jobs[0].shape}
    try:
        mapping = mappers.place(
            mapper,
            options,
            cascade=kernel.cascade,
            architecture=architecture.with_numbers(at),
            shape=shape,
        )
    except InputError as error:
        message = f"kernel {kernel.name!r}: {error.message}"
        raise InputError(message, allowed=error.allowed, found=error.found) from None
    costs = evaluate(mapping, accounting)  # type: ignore[arg-type]
    if np.shape(costs.latency_s) != where.shape:  # nothing depends on the point
        costs = costs[np.zeros(len(where), dtype=np.int64)]
    ends = np.cumsum([len(job.points) for job in jobs])
    starts = np.concatenate([[0], ends[:-1]])
    parts = [costs[int(a) : int(b)] for a, b in zip(starts, ends, strict=True)]
    apart = mappers.places_networks(mapper) and len(costs.kernel_latency_s) > 1
    return [
        replace(part, kernel_latency_s=_named(job.kernel.name, part, apart))
        for job, part in zip(jobs, parts, strict=True)
    ]


def _named(kernel: str, part: Evaluation, apart: bool) -> dict[str, Any]:
    """The latency of a kernel, or of each of its phases where these are kernels themselves."""
    if not apart:
        return {kernel: part.latency_s}
    return {f"{kernel} {phase}": s for phase, s in part.kernel_latency_s.items()}


def _fields(evaluation: Evaluation) -> dict[str, Any]:
    return {f.name: getattr(evaluation, f.name) for f in fields(evaluation)}


__all__ = ["network_evaluation"]
