"""Which Einsum needs which, and across how many iterations."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from einsum_cascade.cascade import Access, Cascade, Einsum
from einsum_cascade.source import InputError

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class Dependency:
    """`consumer` reads what `producer` made, at `access`, `distance` iterations earlier.

    A distance of 0 is the same iteration, or no iteration at all; else `rank` is the one iterated.
    """

    producer: Einsum
    consumer: Einsum
    access: Access
    distance: int = 0
    rank: str | None = None


@lru_cache(maxsize=256)
def dependencies(cascade: Cascade) -> tuple[Dependency, ...]:
    """Every dependency between two Einsums, in text order of the consumer."""
    return tuple(_dependencies(cascade))


def _dependencies(cascade: Cascade) -> Iterator[Dependency]:
    for consumer in cascade.einsums:
        for access in consumer.operands:
            for producer in cascade.producers[access.tensor]:
                if _may_meet(cascade, producer, access):
                    yield Dependency(
                        producer, consumer, access, *_distance(cascade, producer, access)
                    )


def _may_meet(cascade: Cascade, producer: Einsum, access: Access) -> bool:
    """Whether the access can fall on a coordinate that the producer writes."""
    ranks = cascade.tensors[access.tensor].ranks
    for rank, written, read in zip(ranks, producer.output.indices, access.indices, strict=True):
        start = cascade.ranks[rank].start
        read_number = read.is_constant and not read.is_terminal
        if written.is_constant:  # an initialization
            if read_number and read.offset != written.offset:
                return False
            later = written.offset < start + read.offset
            if read.variable and cascade.ranks[rank].iterative and later:
                return False  # e.g. RM[m1+1] never meets RM[0]
        elif read_number and cascade.ranks[rank].iterative and read.offset < start + written.offset:
            return False  # a boundary that only the initialization sets
    return True


def _distance(cascade: Cascade, producer: Einsum, access: Access) -> tuple[int, str | None]:
    ranks = cascade.tensors[access.tensor].ranks
    for rank, written, read in zip(ranks, producer.output.indices, access.indices, strict=True):
        same = written.variable is not None and written.variable == read.variable
        if cascade.ranks[rank].iterative and same and written.offset != read.offset:
            return written.offset - read.offset, rank
    return 0, None


def execution_order(cascade: Cascade) -> tuple[Einsum, ...]:
    """The Einsums so that each follows what it reads of the same iteration; text order else.

    Raises `InputError` for a cycle, naming the Einsums on it.
    """
    position = {einsum.name: i for i, einsum in enumerate(cascade.einsums)}
    sorter: TopologicalSorter[str] = TopologicalSorter({name: () for name in position})
    for dependency in dependencies(cascade):
        if dependency.distance <= 0:
            sorter.add(dependency.consumer.name, dependency.producer.name)
    try:
        sorter.prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        culprit = max((cascade.einsum(n) for n in cycle), key=lambda e: position[e.name])
        chain = " needs ".join(reversed(cycle))
        raise InputError(f"cycle: {chain}, in one and the same iteration", culprit.place) from None
    ready: list[int] = []
    ordered = []
    while sorter.is_active():
        for name in sorter.get_ready():
            heapq.heappush(ready, position[name])
        einsum = cascade.einsums[heapq.heappop(ready)]
        ordered.append(einsum)
        sorter.done(einsum.name)
    return tuple(ordered)


@lru_cache(maxsize=256)
def recurrences(cascade: Cascade) -> tuple[tuple[Einsum, ...], ...]:
    """Groups of Einsums in execution order: one that needs no loop stands alone; those that feed
    each other across iterations form one group.

    A lone Einsum that feeds itself (`RM[m1+1] = max(RM[m1], LM[m1])`) is a group of one.
    """
    edges = list(dependencies(cascade))
    following: dict[str, list[str]] = {e.name: [] for e in cascade.einsums}
    for dependency in edges:
        following[dependency.producer.name].append(dependency.consumer.name)
    if all(dependency.distance <= 0 for dependency in edges):
        return tuple((einsum,) for einsum in cascade.order)
    import networkx as nx

    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(e.name for e in cascade.einsums)
    graph.add_edges_from((a, b) for a, many in following.items() for b in many)
    condensed = nx.condensation(graph)
    position = {einsum.name: i for i, einsum in enumerate(cascade.order)}
    first = {
        node: min(position[name] for name in condensed.nodes[node]["members"])
        for node in condensed.nodes
    }
    groups = []
    for node in nx.lexicographical_topological_sort(condensed, key=first.__getitem__):
        names = sorted(condensed.nodes[node]["members"], key=position.__getitem__)
        groups.append(tuple(cascade.einsum(name) for name in names))
    return tuple(groups)


def feeds_itself(cascade: Cascade, group: tuple[Einsum, ...]) -> bool:
    """Whether the group is a recurrence, to be computed iteration by iteration."""
    names = {einsum.name for einsum in group}
    return any(
        d.distance > 0 and d.producer.name in names and d.consumer.name in names
        for d in dependencies(cascade)
    )


def networkx_graph(cascade: Cascade) -> nx.DiGraph[str]:
    """A directed graph: a node for each Einsum (`einsum=`) and each input tensor (`tensor=`), an
    edge for each dependency with the `tensor` that it carries and the `distance` in iterations."""
    import networkx as nx

    graph: nx.DiGraph[str] = nx.DiGraph(name=cascade.name)
    for name in cascade.inputs:
        graph.add_node(f"input {name}", kind="input", tensor=cascade.tensors[name])
    for einsum in cascade.einsums:
        graph.add_node(einsum.name, kind="einsum", einsum=einsum)
        for access in einsum.operands:
            if cascade.tensors[access.tensor].role == "input":
                graph.add_edge(
                    f"input {access.tensor}", einsum.name, tensor=access.tensor, distance=0
                )
    for d in dependencies(cascade):
        graph.add_edge(
            d.producer.name, d.consumer.name, tensor=d.access.tensor, distance=d.distance
        )
    nx.freeze(graph)
    return graph
