"""A search that ends before its space: by its budget, or by Ctrl-C."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from pydantic import ValidationError

import mappers.search.engine as engine
from archs import load_architecture
from einsum_cascade import parse_cascade
from mappers.search import Options, front, optimum, place
from mappers.search.interrupts import interruptible
from sim import evaluate

CASCADE = parse_cascade(
    """
    {name: chain, ranks: [P, M, E], inputs: ["Q[e,p]", "K[e,m]"], outputs: [Z],
     body: ["X[m,p] = Q[e,p] * K[e,m]", "Y[m,p] = exp(X[m,p])", "Z[p] = Y[m,p]"]}"""
)
SHAPE = {"P": 64, "M": 96, "E": 8}
ON = load_architecture({"extends": "flat-edge", "parameters": {"array_dim": 8}}).resolve({})
GIVEN = {"compare": False, "recompute": False, "objective": "energy_pj"}


@pytest.mark.parametrize("seed", [None, 0, 7])
def test_larger_budgets_are_never_worse_and_the_same_budget_is_the_same_mapping(seed):
    whole = optimum(Options(**GIVEN, seed=seed), CASCADE, ON, SHAPE)
    last = np.inf
    for budget in (1, whole.report.costed // 3, None):
        asked = Options(**GIVEN, budget=budget, seed=seed)
        found = optimum(asked, CASCADE, ON, SHAPE)
        again = optimum(asked, CASCADE, ON, SHAPE)
        assert again.mappings[0].phases == found.mappings[0].phases
        assert found.score <= last
        assert evaluate(found.mappings[0]).energy_pj[0] == pytest.approx(found.score)
        partial = "best so far (the budget was spent)" in found.mappings[0].notes
        assert partial == (budget is not None) == (not found.report.complete)
        last = found.score
    assert last == whole.score == optimum(Options(**GIVEN), CASCADE, ON, SHAPE).score


@pytest.fixture
def pressed(monkeypatch):
    """Ctrl-C while the structure of some number is opened."""

    def at(number):
        calls = []
        real = engine.open_structure

        def opened(*given):
            calls.append(1)
            if len(calls) == number:
                signal.raise_signal(signal.SIGINT)
            return real(*given)

        monkeypatch.setattr(engine, "open_structure", opened)
        return calls

    return at


@pytest.mark.parametrize("look", [optimum, front])
def test_ctrl_c_returns_the_best_so_far(pressed, look):
    whole = look(Options(**GIVEN), CASCADE, ON, SHAPE)
    calls = pressed(2)
    found = look(Options(**GIVEN), CASCADE, ON, SHAPE)
    assert found.report.partial
    assert not found.report.complete
    assert len(calls) == 2  # the one at hand is finished: what is there is whole
    assert "best so far (interrupted)" in found.mappings[0].notes
    for mapping, costs in zip(found.mappings, found.costs, strict=True):
        real = evaluate(mapping)
        assert real.infeasible[0] is None
        assert getattr(real, found.columns[0])[0] == pytest.approx(costs[0])
    assert found.costs[:, 0].min() >= whole.costs[:, 0].min()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_ends_a_run(pressed):
    """Half of a search is no row, and nothing that a sweep could keep."""
    pressed(2)
    shape = {rank: np.array([extent]) for rank, extent in SHAPE.items()}
    with pytest.raises(KeyboardInterrupt):
        place(Options(**GIVEN), CASCADE, ON, shape)


def test_nothing_found_yet(pressed):
    best = optimum(Options(**GIVEN), CASCADE, ON, SHAPE).score
    pressed(1)
    with pytest.raises(KeyboardInterrupt):
        optimum(Options(**GIVEN, constraints={"energy_pj": best * 0.9999}), CASCADE, ON, SHAPE)


def test_pressed_twice_it_interrupts_at_once():
    with interruptible() as stopped:
        assert not stopped()
        signal.raise_signal(signal.SIGINT)
        assert stopped()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_handler_of_somebody_else_stays():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        with interruptible() as stopped:
            signal.raise_signal(signal.SIGINT)
            assert not stopped()
        assert seen == [1]
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_budget_is_a_number():
    assert Options(budget="20K").budget == 20 * 1024
    with pytest.raises(ValidationError):
        Options(budget=0)
