"""Derived and swept values: what they may be called, what they may be, and points they fail at."""

from __future__ import annotations

import polars as pl
import pytest

from einsum_cascade.source import InputError
from explore.run import run_file, summarize

SPEC = """\
name: derived
workload: {{models: [bert-base], kernels: [attention, encoder], seq_len: [1K, 4K], batch: 2}}
designs:
  Ours: {{arch: fusemax-cloud, cascade: attention-1pass, mapper: fusemax, shape: {{{shape}}}}}
  Theirs: {{arch: flat-cloud, cascade: attention-3pass, mapper: unfused}}
rank: {{baseline: Theirs}}
sweep: {{{sweep}}}
derive: {{{derive}}}
"""


def run(tmp_path, **parts):
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC.format(**{"shape": "", "sweep": "", "derive": "", **parts}))
    return run_file(file)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("latency_s", "a column of the results"),
        ("util_2d.QK", "cannot be derived"),
        ("model", "a column of the results"),
        ("E", "an extent of the model"),
        ("array_dim", "derive arch.array_dim"),
        ("archs.array_dim", "cannot be derived"),
        ("a b", "cannot be derived"),
    ],
)
def test_a_derived_value_takes_no_other_name(tmp_path, name, said):
    with pytest.raises(InputError, match=said) as caught:
        run(tmp_path, derive=f"{name}: 2")
    assert caught.value.place.line == 8


@pytest.mark.parametrize("value", ["0", "-5", "1.5", "2**50", "2**2**9"])
def test_an_extent_is_a_positive_whole_number(tmp_path, value):
    with pytest.raises(InputError, match="whole number") as caught:
        run(tmp_path, shape=f"M0: '{value}'")
    assert caught.value.place.line == 4
    ours = "\n".join(line for line in SPEC.splitlines() if "Theirs" not in line)
    file = tmp_path / "spec.yaml"
    file.write_text(ours.format(shape="", sweep="", derive=f"shape.M0: '{value}'"))
    with pytest.raises(InputError, match="whole number") as caught:
        run_file(file)
    assert caught.value.place.line == 6


@pytest.mark.parametrize("value", ["0", "array_dim - 256", "0 - 1"])
def test_hardware_is_made_of_positive_numbers(tmp_path, value):
    with pytest.raises(InputError, match="not positive") as caught:
        run(tmp_path, derive=f"arch.array_dim: '{value}'")
    assert caught.value.place.line == 8


def test_a_rule_that_never_holds_is_a_row_with_its_reason(tmp_path):
    """Not the end of the run: one point of a sweep that cannot be must not cost the others."""
    rule = (
        "arch.memories.buffer.size_bytes: {start: 16777216, at_most: 3, double_until: 'P > 1024'}"
    )
    table = run(tmp_path, derive=rule)
    ours = table.filter(pl.col("design") == "Ours")
    for row in ours.to_dicts():
        if row["seq_len"] == 1024:
            assert "does not hold after 3 doublings" in row["reason"]
            assert row["latency_s"] is None
            assert row["util_2d"] is None
            assert row["bottleneck"] is None
            assert row["arch.memories.buffer.size_bytes"] == 8 * 16777216
        else:
            assert row["reason"] is None
            assert row["latency_s"] > 0
            assert row["arch.memories.buffer.size_bytes"] == 16777216


def test_an_infeasible_point_counts_as_the_last_place(tmp_path):
    """A design that only works where it shines must not lead the ranking for it."""
    table = run(tmp_path, sweep="arch.array_dim: [128, 256]", shape="M0: 256", derive="")
    ours, theirs = sorted(
        (s for s in summarize(table) if s.kernel == "attention"), key=lambda s: s.design
    )
    assert (ours.design, ours.infeasible, ours.mean_rank) == ("Ours", 2, 1.5)
    assert (theirs.infeasible, theirs.mean_rank) == (0, 1.5)
