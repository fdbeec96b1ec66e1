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

Two Einsums that share a loop over R are at the same coordinate of it. So an Einsum that reads what
another one made at any other coordinate (`S[p+1]`, `S[2*p]`, `S[P-1-p]`, `S[T[p]]`, `S[q]`) cannot
share a loop with it, be there a barrier or not: see `separate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from einsum_cascade.affine import Affine, Term, mixed_radix
from einsum_cascade.cascade import Access, Cascade, Einsum
from einsum_cascade.dependencies import Dependency
from einsum_cascade.source import InputError
from einsum_cascade.views import is_table


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
    rank must be complete before X, `separate[X]` those and the ones of which X, at one coordinate,
    needs another coordinate.
    """

    rank: str
    along: frozenset[str]
    levels: dict[str, int]
    completed: dict[str, int]
    forced_by: dict[str, Dependency]
    latest: dict[str, int]
    behind: dict[str, frozenset[str]]
    separate: dict[str, frozenset[str]]

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
                done = completed[edge.producer.name]
                if counted[edge.producer.name] and _is_barrier(cascade, edge, along):
                    done += 1
                if done > completed[einsum.name]:
                    completed[einsum.name] = done
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
    behind = _behind(cascade, into, along, counted)
    separate = _behind(cascade, into, along, counted, _partition(cascade, rank))
    return RankAnalysis(rank, along, levels, completed, forced_by, latest, behind, separate)


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
    own: frozenset[str] = frozenset(),
) -> dict[str, frozenset[str]]:
    """For each Einsum, those whose whole traversal must precede it; and those too of which it needs
    another coordinate than its own, of the ranks `own`."""
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
                if counted[producer] and (
                    _is_barrier(cascade, edge, along)
                    or (own and not _is_same_coordinate(cascade, edge, own))
                ):
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
    kept = edge.consumer.output.variables
    for position, rank, index, _ in _positions(cascade, edge, along):
        if _is_pointed_at(cascade, edge.access, position):
            return True  # by data: which element comes first is not known before
        if any(v.upper() in along for v in index.variables):
            return _is_turned(edge.access, position, along) and _meets(cascade, edge, along)
        if index.is_constant:
            # The order along a rank that is not iterative is free: its one element may be first.
            return index.is_terminal and cascade.ranks[rank].iterative
        return not any(v in kept for v in index.variables)  # read under another rank's variable
    return False


def _positions(
    cascade: Cascade, edge: Dependency, along: frozenset[str]
) -> Iterator[tuple[int, str, Affine, Affine]]:
    """Where the producer writes along the rank: position, rank, index read and index written."""
    for position, (rank, index, written) in enumerate(
        zip(
            cascade.tensors[edge.access.tensor].ranks,
            edge.access.indices,
            edge.producer.output.indices,
            strict=True,
        )
    ):
        if any(v.upper() in along for v in written.variables):
            yield position, rank, index, written


def _is_pointed_at(cascade: Cascade, access: Access, position: int) -> bool:
    """Whether a table of data holds the index."""
    return any(
        not is_table(cascade, table.tensor)
        for gather in access.gathers
        if gather.position == position
        for _, table in gather.tables
    )


def _is_turned(access: Access, position: int, along: frozenset[str]) -> bool:
    """Whether the index runs against the rank, or as a table has it."""
    return any(gather.position == position for gather in access.gathers) or any(
        term.variable.upper() in along and term.coefficient < 0
        for term in access.indices[position].terms
    )


def _meets(cascade: Cascade, edge: Dependency, along: frozenset[str]) -> bool:
    """Whether the consumer also reads, in its own order along the rank, something that the
    producer was made from or made. Alone, it could follow the other order."""
    mine = _sources(cascade, edge.access.tensor, along)
    return any(
        not mine.isdisjoint(_sources(cascade, access.tensor, along))
        for access in edge.consumer.operands
        if access != edge.access and carries(access, along)
    )


@lru_cache(maxsize=4096)
def _sources(cascade: Cascade, tensor: str, along: frozenset[str]) -> frozenset[str]:
    """The tensor and all that it was computed from along the rank."""
    found = {tensor}
    pending = [tensor]
    while pending:
        for einsum in cascade.producers[pending.pop()]:
            for access in einsum.operands:
                if carries(access, along) and access.tensor not in found:
                    found.add(access.tensor)
                    pending.append(access.tensor)
    return frozenset(found)


def _partition(cascade: Cascade, rank: str) -> frozenset[str]:
    """The rank, those that it is a part of, and its own parts."""
    found = {rank}
    at = rank
    while (parent := cascade.ranks[at].parent) is not None:
        found.add(at := parent)
    pending = [rank]
    while pending:
        parts = cascade.ranks[pending.pop()].partition
        found.update(parts)
        pending += parts
    return frozenset(found)


def _is_same_coordinate(cascade: Cascade, edge: Dependency, own: frozenset[str]) -> bool:
    """Whether the consumer needs, of what was made along a rank, its own coordinate only.

    Earlier generations of an iterative rank, and its first coordinate, are there as well.
    """
    for position, rank, index, written in _positions(cascade, edge, own):
        if any(gather.position == position for gather in edge.access.gathers):
            return False
        if cascade.ranks[rank].iterative:
            earlier = index.variable == written.variable and index.offset <= written.offset
            if index.is_constant or (index.variable is not None and earlier):
                continue
        if _joined(cascade, index) != _joined(cascade, written):
            return False
    return True


def _joined(cascade: Cascade, index: Affine) -> Affine:
    """`m1*M0+m0` as `m`."""
    for rank in cascade.ranks.values():
        if rank.partition and index == mixed_radix(rank.partition):
            return Affine((Term(rank.variable, (), 1),))
    return index


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
