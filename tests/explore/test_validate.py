"""The comparisons themselves: they pass, they cover every row, and they can fail."""

from __future__ import annotations

import dataclasses

import polars as pl
import pytest

from explore import published
from explore.report import report
from explore.validate import validate


@pytest.fixture(scope="module")
def result():
    return validate()


def test_everything_is_within_tolerance(result):
    assert [c for c in result.checks if not c.passed] == []
    assert [h for h in result.headlines if not h.passed] == []
    assert result.passed


def test_every_published_row_is_compared(result):
    compared = result.deviations.filter(pl.col("quantity") == "latency")
    for table in ("unfused", "flat", "cascade", "arch", "binding"):
        rows = published.published(f"attn-{table}")
        own = compared.filter(pl.col("figure") == f"attention {table}")
        assert own["published"].to_list() == published.column(rows, "latency").tolist()
    assert (
        result.deviations.filter(
            pl.col("figure") == "Figure 12", pl.col("quantity") == "area"
        ).height
        == 8
    )
    network = compared.filter(pl.col("figure") == "Edge-MoE, M3ViT")
    assert network["point"].to_list() == ["experts equally likely", "task0", "task1"]
    assert set(network["published"]) == {34.64e-3}
    assert len(result.headlines) == 8


def test_a_deviation_fails(result):
    check = dataclasses.replace(result.checks[0], largest=0.5)
    failing = dataclasses.replace(result, checks=(check, *result.checks[1:]))
    assert not failing.passed
    assert "OUT OF TOLERANCE" in report(failing)
    wrong = dataclasses.replace(result.headlines[0], computed=5.0)
    assert not dataclasses.replace(result, headlines=(wrong,)).passed


def test_searched_flat_is_no_worse_anywhere(result):
    for row in result.flat:
        assert max(row.latency) <= 1 + 1e-9
        assert max(row.traffic) <= 1 + 1e-9


def test_full_accounting_counts_more_energy(result):
    """All register files are counted: the energy claims move, by little, and in one direction."""
    moved = [h.full - h.computed for h in result.headlines if h.full is not None]
    assert len(moved) == 4
    assert all(0 < m < 0.05 for m in moved)
