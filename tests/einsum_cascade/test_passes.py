"""The pass analyzer against an oracle that looks at every element of small cascades."""

from __future__ import annotations

import itertools
import random

import pytest

import workloads
from einsum_cascade import Cascade, analyze_passes, parse_cascade

EXTENT = 3


class Elements:
    """Every point of every Einsum as an event, and which events lie before it."""

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade
        self.before: dict[tuple, frozenset] = {}
        self.reads: dict[tuple, list] = {}
        made: dict[tuple, frozenset] = {}
        for einsum in cascade.order:
            writes: dict[tuple, set] = {}
            for point in itertools.product(range(EXTENT), repeat=len(einsum.ranks)):
                at = dict(zip((r.lower() for r in einsum.ranks), point, strict=True))
                event = (einsum.name, point)
                elements = [
                    (a.tensor, tuple(i.evaluate({}, at) for i in a.indices))
                    for a in einsum.operands
                ]
                before = frozenset().union(*(made.get(e, frozenset()) for e in elements))
                self.before[event], self.reads[event] = before, elements
                written = tuple(i.evaluate({}, at) for i in einsum.output.indices)
                writes.setdefault(written, set()).update(before | {event})
            for written, events in writes.items():
                made[einsum.name, written] = frozenset(events)

    def coordinate(self, event: tuple, rank: str) -> int | None:
        ranks = self.cascade.einsum(event[0]).ranks
        return event[1][ranks.index(rank)] if rank in ranks else None

    def passes(self, rank: str, tensor: str) -> int:
        """The longest chain of complete visits to one fiber of `tensor`, event by event."""
        ranks = self.cascade.tensors[tensor].ranks
        if rank not in ranks:
            return 0
        at = ranks.index(rank)
        family: dict[tuple, int] = {}
        for k in range(EXTENT):  # the fiber at coordinate 0 of the other ranks
            family[tensor, tuple(k if i == at else 0 for i in range(len(ranks)))] = k
        for event, elements in self.reads.items():
            einsum = self.cascade.einsum(event[0])
            k = self.coordinate(event, rank)
            out = dict(zip(einsum.ranks, event[1], strict=True))
            kept = k is not None and rank not in einsum.reduction_ranks
            if kept and any(family.get(e) == k for e in elements):
                written = tuple(out[r] for r in self.cascade.tensors[einsum.name].ranks)
                family[einsum.name, written] = k
        number: dict[tuple, int] = {}
        touched: dict[tuple, int] = {}
        for event, elements in self.reads.items():  # in order of dependency
            k = self.coordinate(event, rank)
            if k is None or not any(family.get(e) == k for e in elements):
                continue
            complete = [
                max((number[e] for e in self.before[event] if touched.get(e) == r), default=0)
                for r in range(EXTENT)
            ]
            number[event], touched[event] = 1 + min(complete), k
        return max(number.values(), default=0)

    def fusible(self, one: str, other: str, rank: str) -> bool:
        """Whether no point of one needs a point of the other at another coordinate of the rank."""
        for event, before in self.before.items():
            for first, second in ((one, other), (other, one)):
                if event[0] == first:
                    k = self.coordinate(event, rank)
                    if any(e[0] == second and self.coordinate(e, rank) != k for e in before):
                        return False
        return True


def random_cascade(seed: int) -> Cascade:
    """A random cascade over the ranks K and P: maps, reductions, products."""
    chosen = random.Random(seed)
    tensors = {"A": ("k",), "B": ("k",), "C": ("k", "p"), "D": ("p",)}
    inputs = dict(tensors)
    body: list[str] = []
    read: set[str] = set()

    def written(name: str) -> str:
        read.add(name)
        return f"{name}[{','.join(tensors[name])}]" if tensors[name] else name

    for step in range(chosen.randint(3, 9)):
        operands = chosen.choices(sorted(tensors), k=chosen.choice((1, 2, 2, 3)))
        ranks = sorted({v for name in operands for v in tensors[name]})
        kept = tuple(v for v in ranks if chosen.random() < 0.6)
        expression = chosen.choice((" * ", " + ")).join(map(written, operands))
        lacking = [v for v in ranks if v not in kept]
        operator = chosen.choice(("", "max"))
        if operator and lacking:
            expression = f"max over {', '.join(lacking)} of {expression}"
        name = f"T{step}"
        tensors[name] = kept
        body.append(f"{written(name)} = {expression}")
        read.discard(name)
    declared = [f"{n}[{','.join(v)}]" for n, v in inputs.items() if n in read]
    lines = "\n".join(f"  {line}" for line in body)
    return parse_cascade(f"name: r\nranks: [K, P]\ninputs: {declared}\nbody: |\n{lines}\n")


@pytest.mark.parametrize("seed", range(150))
def test_passes_equal_those_of_the_elements(seed):
    cascade = random_cascade(seed)
    analysis, elements = analyze_passes(cascade), Elements(cascade)
    for tensor in cascade.tensors:
        for rank in "KP":
            expected = elements.passes(rank, tensor)
            assert analysis.passes(rank, tensor) == expected, (rank, tensor, str(cascade))


@pytest.mark.parametrize("seed", range(60))
def test_fusible_is_what_the_elements_allow(seed):
    cascade = random_cascade(seed)
    analysis, elements = analyze_passes(cascade), Elements(cascade)
    for one, other in itertools.combinations(cascade.einsums, 2):
        for rank in set(one.ranks) & set(other.ranks):
            expected = elements.fusible(one.name, other.name, rank)
            assert analysis.fusible((one.name, other.name), rank) == expected, (
                one.name,
                other.name,
                str(cascade),
            )
            if analysis.level(one.name, rank) == analysis.level(other.name, rank):
                assert expected  # equal levels always fuse


@pytest.mark.parametrize(
    ("name", "rank", "expected"),
    [
        ("pedagogical-1", "K", 2),
        ("pedagogical-2", "K", 1),
        ("pedagogical-3", "K", 1),
        ("attention-3pass", "M", 3),
        ("attention-3pass-deferred", "M", 2),
        ("attention-2pass", "M", 2),
        ("attention-2pass-deferred", "M", 2),
        ("attention-2pass-deferred", "M1", 2),
        ("attention-1pass", "M", 1),
        ("attention-1pass", "M1", 1),
        ("attention-1pass", "M0", 2),
        ("attention-1pass", "P", 1),
        ("attention-3pass", "E", 1),
    ],
)
def test_published_classes(name, rank, expected):
    """FuseMax (MICRO 2024), sections III and IV."""
    assert analyze_passes(workloads.cascade(name)).passes(rank) == expected


def test_pedagogical_tensors():
    analysis = analyze_passes(workloads.cascade("pedagogical-1"))
    assert (analysis.passes("K", "A"), analysis.passes("K", "B")) == (2, 1)
    step = analysis.chain("K")[1]
    assert (step.einsums, step.reduction, step.tensor, step.path) == (
        ("Z",),
        "Y",
        "Y",
        ("Y", "Z"),
    )


def test_unrelated_tensors_are_apart_without_a_further_pass():
    cascade = parse_cascade(
        "{name: x, ranks: [K], inputs: ['A[k]', 'B[k]'], body: ['Y = B[k]*B[k]', 'Z = Y*A[k]']}"
    )
    analysis = analyze_passes(cascade)
    assert analysis.passes("K", "A") == analysis.passes("K", "B") == 1
    assert (analysis.level("Y", "K"), analysis.level("Z", "K")) == (1, 2)
    assert not analysis.fusible(("Y", "Z"), "K")
    assert analysis.live_ranks("A") == ()


def test_chain_of_the_3_pass_softmax():
    first, second, third = analyze_passes(workloads.cascade("attention-3pass")).chain("M")
    assert first.einsums == ("QK", "GM")
    assert (second.einsums, second.tensor) == (("SN", "SD"), "GM")
    assert (third.einsums, third.tensor, third.path) == (("A", "AV"), "SD", ("SD", "A"))


@pytest.mark.parametrize(
    ("name", "tensor", "expected"),
    [
        ("attention-3pass", "QK", "M"),
        ("attention-3pass", "SN", "M"),
        ("attention-3pass", "A", "1"),
        ("attention-3pass", "K", "1"),
        ("attention-3pass-deferred", "SN", "1"),
        ("attention-2pass", "SLN", "M"),
        ("attention-2pass-deferred", "LM", "M/M0"),
        ("attention-1pass", "RNV", "1"),
        ("pedagogical-1", "A", "K"),
        ("pedagogical-2", "A", "1"),
    ],
)
def test_footprints(name, tensor, expected):
    assert str(analyze_passes(workloads.cascade(name)).footprint(tensor)) == expected


def test_1_pass_footprints_do_not_grow_with_the_sequence():
    cascade = workloads.cascade("attention-1pass")
    analysis = analyze_passes(cascade)
    for tensor in cascade.tensors:
        assert str(analysis.footprint(tensor)) in ("1", "M0")


def test_a_terminal_coordinate_waits_for_the_whole_rank():
    cascade = parse_cascade(
        """
name: normalise
ranks: [K]
inputs: ["A[k]"]
initialization: ["S[0] = 0"]
body: ["S[k+1] = S[k] + A[k]"]
final: ["Z[k] = A[k] / S[K]"]
iterate: {rank: K}
"""
    )
    assert analyze_passes(cascade).passes("K") == 2


def test_a_prefix_sum_is_one_pass():
    cascade = parse_cascade(
        """
name: prefix
ranks: [K]
inputs: ["A[k]"]
initialization: ["S[0] = 0"]
body: ["S[k+1] = S[k] + A[k]", "Z[k] = A[k] / S[k+1]"]
iterate: {rank: K}
"""
    )
    assert analyze_passes(cascade).passes("K") == 1


def test_one_element_of_a_free_rank_is_no_barrier():
    cascade = parse_cascade("{name: x, ranks: [K], inputs: ['A[k]'], body: ['Z[k] = A[k] / A[0]']}")
    assert analyze_passes(cascade).passes("K") == 1


def test_a_view_undone_is_the_rank_again():
    cascade = parse_cascade(
        """
name: two ways
ranks: {M: {partition: [M1, M0]}, M1: , M0: }
inputs: ["A[m]"]
body:
  - T[m1,m0] = A[m1*M0+m0]
  - G = max over m1, m0 of T[m1,m0]
  - Z[m] = A[m] - G
"""
    )
    analysis = analyze_passes(cascade)
    assert (analysis.passes("M"), analysis.passes("M1"), analysis.passes("M0")) == (2, 2, 2)
    assert str(analysis.footprint("A")) == "M"
