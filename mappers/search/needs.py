"""What the costs of a tensor depend on, so that structures which have it in common share them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

from einsum_cascade import Cascade, Einsum
from mappers.search.placing import Nest
from mappers.search.problem import Problem, touched
from mappers.search.recompute import kept_rank
from mappers.search.residency import leaves
from mappers.search.structures import Structure
from sim import EinsumMapping, Phase
from sim.accesses import Accessed, analysis_of
from sim.legality import late_readers
from sim.registers import needed_by, overwritten


@dataclass(frozen=True)
class Tensor:
    """A tensor of a run of Einsums, with the positions of its users.

    If an Einsum of the run makes it (`made`), it may overwrite one of `old`, in memories and in
    registers. Of what is made `between` it and a reader that needs both, the arrays matter. What
    several Einsums take is in several pieces: that which goes between memories, and for each of
    these (`at`, a position) what crosses the edge of its array. Of the cascade, `facts` matter.
    Where there are ports, its `number` among those of the run says which it may come by.
    """

    name: str
    users: tuple[int, ...]
    made: bool
    facts: object = None
    old: tuple[str, ...] = ()
    between: tuple[int, ...] = ()
    what: Accessed = "all"
    at: int | None = None
    number: int = 0


@dataclass(frozen=True)
class Needed:
    """A tensor of a structure, and keys that are equal where its costs are (`key`), where they are
    whatever it overwrites (`alone`), and where what is known of its homes is (`homes`).

    `choices` are those of the nests that matter, `every` also those of nests that matter to what
    it may overwrite (`old`).
    """

    tensor: Tensor
    key: object
    alone: object
    homes: object
    choices: tuple[str, ...]
    every: tuple[str, ...]
    old: Mapping[str, Needed]


def tensors_of(problem: Problem, einsums: Sequence[Einsum]) -> Iterator[Tensor]:
    """The tensors of a run of Einsums, with what bears on where each lives."""
    found = list(_tensors(problem, einsums))
    numbers = {name: number for number, name in enumerate(dict.fromkeys(t.name for t in found))}
    for tensor in found:
        yield replace(tensor, number=numbers[tensor.name]) if problem.ports else tensor


def _tensors(problem: Problem, einsums: Sequence[Einsum]) -> Iterator[Tensor]:
    users: dict[str, dict[int, None]] = {}
    makers: dict[str, int] = {}
    for at, einsum in enumerate(einsums):
        for use in touched(problem.cascade, einsum.name):
            users.setdefault(use.tensor, {})[at] = None
            if use.writes:
                makers[use.tensor] = at
    for tensor, own in users.items():
        every = tuple(own)
        if tensor not in makers:
            if len(own) == 1:
                yield Tensor(tensor, every, False)
                continue
            yield Tensor(tensor, every, False, what="between")
            for user in own:
                yield Tensor(tensor, every, False, what="edges", at=user)
            continue
        old = tuple(o for o in overwritten(einsums[makers[tensor]]) if o in makers)
        several = any(sum(each in overwritten(e) for e in einsums) > 1 for each in old)
        if several:  # which of them takes it depends on all else that they may take
            old = tuple(name for name in users if name in makers)
        between = tuple(at for at in range(min(every), max(every)) if at not in every)
        whole = several or bool(problem.cascade.iterative_ranks)
        facts = problem if whole else _facts(problem, tensor, einsums, every, between, old)
        yield Tensor(tensor, every, True, facts, old, between)


def _facts(
    problem: Problem,
    tensor: str,
    einsums: Sequence[Einsum],
    users: Sequence[int],
    between: Sequence[int],
    old: Sequence[str],
) -> object:
    """What matters of a cascade to where a tensor of a phase may live, but for passes: the same in
    rewrites that leave this alone."""
    cascade = problem.cascade
    here = tuple(e.name for e in einsums)
    phase = Phase("", tuple(EinsumMapping(name, "", ()) for name in here), {})
    after = needed_by(cascade)
    through = tuple(
        (here[one] in after[here[at]], here[at] in after[here[one]])
        for at in between
        for one in users
    )
    late = tuple(bool(late_readers(cascade, phase, tensor, each)) for each in old)
    return leaves(problem, tensor, set(here)), kept_rank(cascade, tensor), through, late


@lru_cache(maxsize=1 << 12)
def _passes(cascade: Cascade, einsums: tuple[str, ...], ranks: tuple[str, ...]) -> tuple[bool, ...]:
    """Which pairs of some Einsums can be in the same pass over each of some ranks."""
    analysis = analysis_of(cascade)
    pairs = list(combinations(einsums, 2))
    return tuple(analysis.fusible(pair, rank) for rank in ranks for pair in pairs)


def needs_of(
    problem: Problem, structure: Structure, tensors: Sequence[Tensor], nests: Sequence[Nest]
) -> Iterator[Needed]:
    """What each tensor of a structure needs."""
    alone = [_alone(problem, structure, tensor, nests) for tensor in tensors]
    known = {needed.tensor.name: needed for needed in alone}
    for needed in alone:
        old = {name: known[name] for name in needed.tensor.old}
        if not old:
            yield needed
            continue
        every = tuple(dict.fromkeys(n for o in (needed, *old.values()) for n in o.choices))
        same = tuple(tuple(map(every.index, o.choices)) for o in old.values())
        key = needed.key, tuple(o.key for o in old.values()), same
        yield Needed(needed.tensor, key, needed.key, needed.homes, needed.choices, every, old)


def _alone(problem: Problem, structure: Structure, tensor: Tensor, nests: Sequence[Nest]) -> Needed:
    """What a tensor needs that overwrites nothing. Runs of the phase are told apart in its key, but
    not numbered."""
    run, users = structure.run, tensor.users
    runs = tuple(run[at] for at in users)
    apart = {number: place for place, number in enumerate(dict.fromkeys(runs))}
    shared = tuple((nests[at].around, apart[run[at]]) for at in users)
    names = tuple(structure.einsums[at].name for at in users)
    by = problem.turns(tensor.number) if problem.ports else 0
    homes: object = tensor.name, names, shared, runs, by
    if tensor.at is not None:  # of the others only the loops outside of which it may be kept
        at = tensor.at
        choices = choices_of(nests, (at,))
        key: object = tensor.name, nests[at].number, users.index(at), shared, by
    elif not tensor.made:
        between = tensor.what == "between"
        choices = choices_of(nests, users, plain=between)
        numbers = tuple(nests[at].plain if between else nests[at].number for at in users)
        key = tensor.name, numbers, spread_of(nests, users, choices), shared, by
    else:
        choices = choices_of(nests, users)
        around = tuple(
            (e.name, apart[at])
            for e, at in zip(structure.einsums, run, strict=True)
            if len(apart) > 1 and at in apart
        )
        arrays = tuple(structure.bindings[at].array for at in tensor.between)
        numbers = tuple(nests[at].number for at in users)
        same = spread_of(nests, users, choices)
        beside = tuple(dict.fromkeys((*names, *(name for name, _ in around))))
        ranks = tuple(dict.fromkeys(r for at in users for r in structure.einsums[at].ranks))
        passes = _passes(problem.cascade, beside, ranks)
        key = tensor.facts, passes, tensor.name, names, numbers, same, shared, around, arrays, by
        homes = key, runs
    return Needed(tensor, key, key, homes, choices, choices, {})


def choices_of(nests: Sequence[Nest], users: Sequence[int], plain: bool = False) -> tuple[str, ...]:
    """The choices of some nests: first all orders, then what is spread."""
    orders = () if plain else (nests[at].choices[0] for at in users)
    spreads = (nests[at].choices[1] for at in users)
    return tuple(name for name in dict.fromkeys((*orders, *spreads)) if name)


def spread_of(
    nests: Sequence[Nest], users: Sequence[int], choices: tuple[str, ...]
) -> tuple[int | None, ...]:
    """Which of the choices is that of what each nest spreads."""
    spreads = (nests[at].choices[1] for at in users)
    return tuple(choices.index(name) if name else None for name in spreads)


__all__ = ["Needed", "Tensor", "choices_of", "needs_of", "spread_of", "tensors_of"]
