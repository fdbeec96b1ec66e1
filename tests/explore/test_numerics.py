"""`explore numerics`: rows, figures, and mistakes in the spec."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from einsum_cascade import InputError
from explore.cli import app
from explore.numerics import CSV, load_numerics, numerics_figures, numerics_rows, table_of
from explore.spec import experiment_file

SPEC = """\
name: small
gelu: {numbers: "fixed<32,10>", step: [1/8, 1/32], largest: 5.5, entry: ["ufixed<22,0>", "ufixed<8,0>"]}
softmax: {numbers: ["fixed<32,10>", "fixed<16,9>"], bias: [running, 0], rows: 20, keys: 129, deviation: 4}
gate: {numbers: ["fixed<32,10>", "fixed<12,8>"], tokens: 500, experts: 16, chosen: 2}
figures: {formats: [svg]}
"""


@pytest.fixture
def spec(tmp_path):
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC)
    return file


def run(*arguments):
    return CliRunner().invoke(app, ["numerics", *map(str, arguments)])


def test_rows_and_figures(spec, tmp_path):
    out = tmp_path / "out"
    done = run(spec, "--out", out)
    assert done.exit_code == 0, done.output
    table = pl.read_csv(out / CSV)
    assert table["study"].to_list() == ["gelu"] * 4 + ["softmax"] * 4 + ["gate"] * 2
    gelu = table.filter(pl.col("entry") == "ufixed<22,0>")
    assert gelu["table_bits"].to_list() == [45 * 22, 177 * 22]
    assert gelu["error_max"].to_list() == pytest.approx([1.55e-3, 9.74e-5], rel=2e-3)
    softmax = table.filter(pl.col("study") == "softmax")
    running, fixed = (softmax.filter(pl.col("bias") == bias) for bias in ("running", "0"))
    assert running["overflows"].sum() == 0
    assert fixed["exp_overflows"].min() > 0
    assert running["error_max"][0] < running["error_max"][1] < fixed["error_max"].min()
    agreement = table["agreement"].drop_nulls().to_list()
    assert agreement[0] > 0.99 > agreement[1] > 0.5
    assert sorted(p.name for p in (out / "figures").iterdir()) == [
        "gelu_table.svg",
        "word_length.svg",
    ]
    assert "9.739e-05" in done.output
    again = run(spec, "--out", out)
    assert isinstance(again.exception, InputError)
    assert "--force" in str(again.exception)


def test_narrower_numbers_and_smaller_tables_take_less_of_an_fpga(spec):
    """A DSP slice multiplies 27 by 18 bits, a block of RAM has 18 Kb (AMD UG579, UG573)."""
    found = list(numerics_rows(load_numerics(spec)))
    tables = [row for row in found if row.study == "gelu" and row.entry == "ufixed<22,0>"]
    assert [(row.entries, row.bram18) for row in tables] == [(45, 0), (177, 1)]
    assert tables[0].lut > tables[1].lut  # a small table is of LUTs
    by_width = {row.word_bits: row.dsp for row in found if row.study == "softmax"}
    assert by_width[32] == 2 * 4
    assert sorted(by_width.values()) == [dsp for _, dsp in sorted(by_width.items())]


def test_the_same_seed_gives_the_same_rows(spec):
    first, second = (table_of(list(numerics_rows(load_numerics(spec)))) for _ in range(2))
    assert first.equals(second)
    spec.write_text(SPEC + "seed: 1\n")
    other = table_of(list(numerics_rows(load_numerics(spec))))
    assert not other.equals(first)
    gelu = pl.col("study") == "gelu"
    assert other.filter(gelu).equals(first.filter(gelu))


def test_studies_see_the_same_numbers_with_and_without_the_others(spec):
    both = list(numerics_rows(load_numerics(spec)))
    lines = SPEC.splitlines()
    spec.write_text("\n".join([lines[0], *lines[3:]]))
    alone = list(numerics_rows(load_numerics(spec)))
    assert alone == both[-2:]


def test_figures(spec):
    rows = list(numerics_rows(load_numerics(spec)))
    table, words = numerics_figures(rows)
    assert [line.name for line in table.lines] == ["ufixed<22,0>", "ufixed<8,0>"]
    assert table.lines[0].labels == ("1/8", "1/32")
    assert [line.name for line in words.lines] == ["softmax", "softmax, bias 0", "gate"]
    assert words.lines[0].x == (16, 32)
    assert [figure.name for figure in numerics_figures(rows[4:])] == ["word_length"]


def test_the_packaged_spec_holds_edge_moes_table():
    schema = load_numerics(experiment_file("edge_moe_numerics"))
    only = schema.model_copy(update={"softmax": None, "gate": None})
    rows = [row for row in numerics_rows(only) if row.entry == "ufixed<22,0>"]
    (published,) = (row for row in rows if row.step == 1 / 32)
    assert (published.entries, published.table_bits) == (177, 3894)
    found = [row.error_max for row in rows]
    assert found == pytest.approx([1.55e-3, 3.9e-4, 9.74e-5, 2.4e-5, 6.1e-6], rel=0.03)


def test_the_page(tmp_path):
    """What docs/numerics.md shows works as it stands."""
    text = (Path(__file__).parents[2] / "docs" / "numerics.md").read_text(encoding="utf-8")
    (spec,), (code,) = (
        re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("yaml", "python")
    )
    (tmp_path / "spec.yaml").write_text(spec)
    assert load_numerics(tmp_path / "spec.yaml").gelu.entry[1].overflow == "AP_SAT"
    names: dict = {}
    exec(code, names)
    assert (names["table"].entries, names["table"].bits) == (177, 3894)
    assert names["weights"].sum(axis=1) == pytest.approx([1] * 8, abs=1e-3)


MISTAKES = {
    "format": ("fixed<16,9>", "fixd<16,9>", r"spec\.yaml:3:37: softmax\.numbers\[1\]: unknown kind 'fixd'.*did you mean 'fixed'"),
    "unknown key": ("largest", "lrgest", r":2:\d+: gelu\.lrgest: unknown key 'lrgest'.*did you mean 'largest'"),
    "step": ("1/32", "1/30", r":2:\d+: gelu\.step\[1\]: the step of a table must be a power of two"),
    "step is code": ("1/32", "'__import__(1)'", r"gelu\.step\[1\]: "),
    "end": ("5.5", "5.55", r"gelu\.largest\[0\]: a table must end at a multiple of its step 0\.125"),
    "entry": ("ufixed<8,0>", "ufixed<8,-4>", r"gelu\.entry\[1\]: ufixed<8,-4> does not hold 0\.1700"),
    "huge": ("1/8", "2**-40", r"gelu\.step\[0\]: a table of \d+ entries, more than 16384"),
    "bias": ("[running, 0]", "runing", r"softmax\.bias: unknown bias 'runing'.*did you mean 'running'"),
    "large bias": ("[running, 0]", "[0, 300]", r"softmax\.bias\[1\]: fixed<16,9> does not hold 300"),
    "no bias": ("[running, 0]", "[]", r"softmax\.bias: expected at least 1 item"),
    "many": ("rows: 20", "rows: 100000", r"softmax\.rows: 100000 rows of 129 keys: more than 4194304 logits"),
    "chosen": ("chosen: 2", "chosen: 17", r"gate\.chosen: 17 chosen of 16 experts"),
    "deviation": ("deviation: 4", "deviation: 0", r"softmax\.deviation: expected a number above 0"),
    "keys": ("keys: 129", "keys: 1.5", r"softmax\.keys: expected a whole number, found 1\.5"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(spec, name):
    old, new, message = MISTAKES[name]
    spec.write_text(SPEC.replace(old, new))
    with pytest.raises(InputError, match=message):
        load_numerics(spec)


def test_nothing_to_do(spec):
    spec.write_text("name: small\n")
    with pytest.raises(InputError, match="needs gelu, softmax or gate"):
        load_numerics(spec)


def test_status_2_and_no_traceback(spec):
    spec.write_text(SPEC.replace("gate:", "gates:"))
    command = [sys.executable, "-m", "explore", "numerics", str(spec)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {spec}:4:1: gates: unknown key 'gates'; allowed: ")
