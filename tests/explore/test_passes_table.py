"""The table of `explore passes`: three forms of the same rows, and the command's options."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

import workloads
from einsum_cascade import InputError
from explore.cli import app
from explore.passes import COLUMNS, pass_table

THREE = ["attention-3pass", "attention-1pass", "causal-attention"]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["passes", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def table(form: str, **extents: int) -> str:
    return pass_table([workloads.cascade(name) for name in THREE], extents, form)


def test_the_markdown_row_of_1_pass_attention() -> None:
    line = next(x for x in table("markdown").splitlines() if x.startswith("| attention-1pass"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        "attention-1pass", "1 (M)", "1 (P)", "RM, RD, RNV[F]: `F + 2`", "exp, div",
        "`B*H` ×<br>mac: `M*P*(E + F)`<br>max, exp: `M*P*(M0 + 1)/M0`"
        "<br>add: `M*P*(F + 2*M0 + 2)/M0`<br>mul: `M*P*(F + 1)/M0`<br>div: `F*P`",
        "`B*H*(E + F)*(M + P)`", "QK: `M0`",
    ]  # fmt: skip


def test_all_forms_have_a_row_for_every_attention_cascade() -> None:
    names = workloads.list_cascades("attention")
    text = run("--all")
    assert [line.split()[0] for line in text.splitlines() if re.match(r"  \S+  +\d", line)] == [
        *names
    ]
    rows = [x for x in run("--all", "--format", "markdown").splitlines() if x.startswith("| ")]
    assert [x.split(" | ")[0].strip("| ") for x in rows[1:]] == [*names]
    assert all(len(re.split(r"(?<!\\)\|", x)) == len(COLUMNS) + 2 for x in rows)


def test_latex_is_balanced_and_has_all_columns() -> None:
    text = table("latex")
    body = text[text.index(r"\endfoot") : text.index(r"\end{longtable}")].splitlines()[1:]
    assert len(body) == len(THREE)
    for line in body:
        assert line.count(" & ") == len(COLUMNS) - 1
        assert line.endswith(r"\\")
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert text.count("$") % 2 == 0
    unescaped = re.sub(r"\\[{}]", "", text)
    assert unescaped.count("{") == unescaped.count("}")
    assert r"\toprule" in text
    assert r"\midrule" in text
    assert r"\bottomrule" in text
    assert text.isascii()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles(tmp_path: Path) -> None:
    run("--all", "--out", str(tmp_path / "passes.tex"))
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\usepackage[paperwidth=90cm,paperheight=50cm]{geometry}"
        r"\usepackage{booktabs,longtable}\begin{document}\input{passes}\end{document}"
    )
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stdout[-2000:]


def test_latex_notes_hold_formulas() -> None:
    notes = [line for line in table("latex").splitlines() if "noindent" in line]
    assert any(r"$\frac{P \left(2 M - P + 1\right)}{2}$, points" in line for line in notes)
    assert not any("$*$" in line or "Min(" in line for line in notes)


def test_notes_explain_each_symbol_that_is_no_extent() -> None:
    note = "P*(2*M - P + 1)/2, points (m, p) where m ≤ p+M-P"
    assert table("table").endswith(f"causal-attention\n  n = {note}")
    assert "n = " not in table("table", M=8, P=8)


def test_a_part_of_a_shape_is_put_in() -> None:
    text = run("attention-3pass", "--format", "markdown", "--shape", "M=1K", "E=64")
    assert "mac: `1024*P*(F + 64)`" in text
    report = run("attention-3pass", "--shape", "M=1K")
    assert "QK  1024" in report
    assert "1024*B*E*H*P + 1024*B*F*H*P" in report
    assert "With M = 1024; numbers would need B, H, P, E, F too" in report


def test_a_whole_shape_gives_numbers() -> None:
    shape = ["B=1", "H=2", "M=8", "P=4", "E=16", "F=32"]
    for words in (["attention-3pass", "--shape", *shape], ["--shape", *shape, "attention-3pass"]):
        macs = re.search(r"mac +\S.* (\S+)$", run(*words), re.MULTILINE)
        assert macs is not None
        assert macs.group(1) == f"{2 * 8 * 4 * (16 + 32):,}"


def test_the_name_of_a_file_says_its_form(tmp_path: Path) -> None:
    for name, form in (("a.md", "markdown"), ("a.tex", "latex"), ("a.txt", "table")):
        assert "1 rows" in run("attention-3pass", "--out", str(tmp_path / name))
        text = pass_table([workloads.cascade("attention-3pass")], {}, form)
        assert (tmp_path / name).read_text(encoding="utf-8") == text + "\n"


def test_help_shows_one_cascade() -> None:
    usage = next(line for line in run("--help").splitlines() if "Usage" in line)
    assert usage.split("passes ")[1].strip() == "[OPTIONS] [CASCADE]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one cascade, or --all"),
        (["attention-3pass", "--all"], "one cascade, or --all"),
        (["attention-3pass", "attention-1pass"], "one cascade, or --all"),
        (["--all", "--rank", "M"], "--rank"),
        (["--all", "--shape", "QQ=3"], "QQ"),
        (["--all", "--shape", "M"], "RANK=EXTENT"),
    ],
)
def test_mistakes(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CliRunner().invoke(app, ["passes", *arguments], catch_exceptions=False)
