"""How often each rank must be traversed, from the dependencies alone.

FuseMax (MICRO 2024), section III: a *pass* over a fiber is one traversal of all its elements. An
Einsum that iterates over a rank R and needs a value that exists only once an earlier Einsum has
gone through the whole R fiber starts a new pass, when both touch the same tensor or tensors
computed from it element by element along R. Einsums of one pass can be fused on R, those of two
cannot.

Two notions, both computed here for one rank at a time:

*level* of an Einsum on R: 1 plus the number of complete traversals of R, of whatever tensor, that
must lie behind it. Two Einsums may share a loop over R only at equal levels.

*passes* over a tensor along R: the same, but only traversals that touch the tensor's *family* (the
tensor and all that is computed from it element by element along R) count. Barriers of unrelated
tensors shift a pass, they do not add one.

An iterative rank adds no pass: the value of the previous coordinate is there already. A terminal
coordinate (`RD[M1,p]`) is there only once the whole rank was traversed. A partitioned rank is
traversed as often as its outermost part; a reduction over an inner part is a barrier inside a tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from einsum_cascade.affine import mixed_radix
from einsum_cascade.cascade import Access, Cascade, Einsum
from einsum_cascade.dependencies import Dependency
from einsum_cascade.source import InputError


@lru_cache(maxsize=1024)
def aliases(cascade: Cascade, rank: str) -> frozenset[str]:
    """Ranks whose traversal is a traversal of `rank`: its outermost parts, the ranks it is part of.

    An index such as `q+s` into a rank W, with W no declared partition, ties W to the variable that
    the Einsum's output keeps.
    """
    outer = {r.name: r.partition[0] for r in cascade.ranks.values() if r.partition}
    whole: dict[str, list[str]] = {}
    for r in cascade.ranks.values():
        for part in r.partition:
            whole.setdefault(part, []).append(r.name)
    for name, part in _windows(cascade):
        outer.setdefault(name, part)
        whole.setdefault(part, []).append(name)
    found = {rank}
    at = rank
    while at in outer and outer[at] not in found:
        at = outer[at]
        found.add(at)
    pending = list(found)
    while pending:
        for name in whole.get(pending.pop(), ()):
            if name not in found:
                found.add(name)
                pending.append(name)
    return frozenset(found)


@lru_cache(maxsize=64)
def _windows(cascade: Cascade) -> tuple[tuple[str, str], ...]:
    pairs = []
    for einsum in cascade.einsums:
        kept = einsum.output.variables
        for access in einsum.operands:
            for rank, index in zip(
                cascade.tensors[access.tensor].ranks, access.indices, strict=True
            ):
                variables = index.variables
                if index.variable is not None or not variables:
                    continue
                if index == mixed_radix(cascade.ranks[rank].partition):
                    continue
                outermost = next((v for v in variables if v in kept), variables[0])
                if outermost.upper() != rank:
                    pairs.append((rank, outermost.upper()))
    return tuple(pairs)


def carries(access: Access, along: frozenset[str]) -> bool:
    """Whether an index of `access` moves along one of the ranks `along`."""
    return any(v.upper() in along for index in access.indices for v in index.variables)


@dataclass(frozen=True)
class RankAnalysis:
    """One rank: which Einsums traverse it, at which level, and after how many completions.

    `levels[X]` is 0 for an Einsum that does not iterate over the rank; `completed[X]` counts the
    traversals that must be complete before X (at all, when it does not iterate over the rank).
    `forced_by[X]` is the dependency that set the number. `latest[X]` is the last level at which X
    can run without adding a level to the rank. `behind[X]` are the Einsums whose traversal of the
    rank must be complete before X.
    """

    rank: str
    along: frozenset[str]
    levels: dict[str, int]
    completed: dict[str, int]
    forced_by: dict[str, Dependency]
    latest: dict[str, int]
    behind: dict[str, frozenset[str]]

    def apart(self, one: str, other: str) -> bool:
        """Whether no schedule with the fewest passes has both Einsums in one pass."""
        if one in self.behind[other] or other in self.behind[one]:
            return True
        return self.levels[one] > self.latest[other] or self.levels[other] > self.latest[one]


def analyze_rank(
    cascade: Cascade,
    edges: tuple[Dependency, ...],
    rank: str,
    family: frozenset[str] | None = None,
) -> RankAnalysis:
    """Levels on `rank`; with a `family` of tensors, only traversals that touch it count."""
    along = aliases(cascade, rank)
    completed = {einsum.name: 0 for einsum in cascade.einsums}
    forced_by: dict[str, Dependency] = {}
    counted = {
        einsum.name: _iterates(einsum, along) and (family is None or touches(einsum, family, along))
        for einsum in cascade.einsums
    }
    into: dict[str, list[Dependency]] = {einsum.name: [] for einsum in cascade.einsums}
    for edge in edges:
        # What an earlier iteration of another rank made lies in another fiber.
        if edge.distance <= 0 or edge.rank in along:
            into[edge.consumer.name].append(edge)
    for _ in range(len(cascade.einsums) + 1):
        changed = False
        for einsum in cascade.order:
            for edge in into[einsum.name]:
                behind = completed[edge.producer.name]
                if counted[edge.producer.name] and _is_barrier(cascade, edge, along):
                    behind += 1
                if behind > completed[einsum.name]:
                    completed[einsum.name] = behind
                    forced_by[einsum.name] = edge
                    changed = True
        if not changed:
            break
    else:  # a recurrence cannot hold a barrier along its own rank: that is a cycle
        raise InputError(f"the passes over {rank} do not settle", cascade.place)
    levels = {
        einsum.name: completed[einsum.name] + 1 if counted[einsum.name] else 0
        for einsum in cascade.einsums
    }
    latest = _latest(cascade, into, along, counted, levels)
    return RankAnalysis(
        rank, along, levels, completed, forced_by, latest, _behind(cascade, into, along, counted)
    )


def _latest(
    cascade: Cascade,
    into: dict[str, list[Dependency]],
    along: frozenset[str],
    counted: dict[str, bool],
    levels: dict[str, int],
) -> dict[str, int]:
    """The last level of each Einsum: the most levels, less the barriers that must follow it."""
    follow: dict[str, int | None] = {name: 0 if counted[name] else None for name in counted}
    for _ in range(len(counted) + 1):
        changed = False
        for consumer in reversed(cascade.order):
            after = follow[consumer.name]
            if after is None:
                continue
            for edge in into[consumer.name]:
                name = edge.producer.name
                barrier = counted[name] and _is_barrier(cascade, edge, along)
                value = after + barrier
                old = follow[name]
                if old is None or value > old:
                    follow[name] = value
                    changed = True
        if not changed:
            break
    most = max(levels.values(), default=0)
    return {name: most - (follow[name] or 0) if counted[name] else 0 for name in counted}


def _behind(
    cascade: Cascade,
    into: dict[str, list[Dependency]],
    along: frozenset[str],
    counted: dict[str, bool],
) -> dict[str, frozenset[str]]:
    """For each Einsum, those whose whole traversal must precede it."""
    behind: dict[str, frozenset[str]] = {name: frozenset() for name in counted}
    upstream = {name: frozenset([name] if counted[name] else []) for name in counted}
    for _ in range(len(counted) + 1):
        changed = False
        for einsum in cascade.order:
            name = einsum.name
            up, done = upstream[name], behind[name]
            for edge in into[name]:
                producer = edge.producer.name
                up |= upstream[producer]
                done |= behind[producer]
                if counted[producer] and _is_barrier(cascade, edge, along):
                    done |= upstream[producer]
            if (up, done) != (upstream[name], behind[name]):
                upstream[name], behind[name] = up, done
                changed = True
        if not changed:
            break
    return behind


def _iterates(einsum: Einsum, along: frozenset[str]) -> bool:
    return any(rank in along for rank in einsum.ranks)


def _is_barrier(cascade: Cascade, edge: Dependency, along: frozenset[str]) -> bool:
    """Whether the consumer needs the producer's whole traversal behind it, not one element."""
    if not carries(edge.producer.output, along):
        return True  # the rank was reduced
    access = edge.access
    kept = edge.consumer.output.variables
    for rank, index, written in zip(
        cascade.tensors[access.tensor].ranks,
        access.indices,
        edge.producer.output.indices,
        strict=True,
    ):
        if not any(v.upper() in along for v in written.variables):
            continue
        if any(v.upper() in along for v in index.variables):
            return False
        if index.is_constant:
            # The order along a rank that is not iterative is free: its one element may be first.
            return index.is_terminal and cascade.ranks[rank].iterative
        return not any(v in kept for v in index.variables)  # read under another rank's variable
    return False


def family(cascade: Cascade, tensor: str, along: frozenset[str]) -> frozenset[str]:
    """`tensor` and all tensors computed from it element by element along the rank."""
    found = {tensor}
    pending = [tensor]
    while pending:
        name = pending.pop()
        for einsum in cascade.consumers[name]:
            reads = any(a.tensor == name and carries(a, along) for a in einsum.operands)
            output = einsum.output.tensor
            if reads and carries(einsum.output, along) and output not in found:
                found.add(output)
                pending.append(output)
    return frozenset(found)


def touches(einsum: Einsum, tensors: frozenset[str], along: frozenset[str]) -> bool:
    """Whether `einsum` reads one of `tensors` along the rank."""
    return any(a.tensor in tensors and carries(a, along) for a in einsum.operands)


@dataclass(frozen=True)
class PassStep:
    """Why pass `number` is a pass of its own.

    `einsums` traverse the rank in it. They wait for `tensor`, which `reduction` has complete only
    at the end of pass `number - 1`; `path` leads from that reduction to the first of `einsums`.
    """

    rank: str
    number: int
    einsums: tuple[str, ...]
    reduction: str = ""
    tensor: str = ""
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"pass {self.number} over {self.rank}: {', '.join(self.einsums)}"
        if self.reduction:
            through = " -> ".join(self.path)
            text += (
                f"\n  forced by {self.tensor}, complete only after pass {self.number - 1} "
                f"({through})"
            )
        return text


def explain(cascade: Cascade, analysis: RankAnalysis) -> tuple[PassStep, ...]:
    """The passes of an analysis, each with the chain of Einsums that forces it."""
    steps = []
    for number in range(1, max(analysis.levels.values(), default=0) + 1):
        here = [e for e in cascade.order if analysis.levels[e.name] == number]
        if not here:
            continue
        names = tuple(e.name for e in here)
        if number == 1:
            steps.append(PassStep(analysis.rank, number, names))
            continue
        path = [here[0].name]
        edge = analysis.forced_by[here[0].name]
        while True:
            path.append(edge.producer.name)
            before = analysis.completed[edge.producer.name]
            if before < number - 1:
                break
            edge = analysis.forced_by[edge.producer.name]
        reduction, tensor = edge.producer.name, edge.access.tensor
        steps.append(
            PassStep(analysis.rank, number, names, reduction, tensor, tuple(reversed(path)))
        )
    return tuple(steps)
