"""Unicode and LaTeX."""

from __future__ import annotations

import pytest

import workloads
from einsum_cascade import parse_cascade
from einsum_cascade.render import latex_cascade, latex_einsum, unicode_einsum


@pytest.mark.parametrize(
    ("text", "unicode", "latex"),
    [
        ("Z[i] = A[i,j] * B[j]", "Z[i] = Σ[j] A[i,j] · B[j]",
         r"Z_{i} &= \sum_{j} A_{i, j} \cdot B_{j}"),
        ("Z[i] = A[i,j] - B[j]", "Z[i] = Σ[j] (A[i,j] − B[j])",
         r"Z_{i} &= \sum_{j} \left(A_{i, j} - B_{j}\right)"),
        ("Z[i,j] = A[i,j] - (B[j] - 1)", "Z[i,j] = A[i,j] − (B[j] − 1)",
         r"Z_{i, j} &= A_{i, j} - (B_{j} - 1)"),
        ("Z[i,j] = A[i,j] / B[j] * 2", "Z[i,j] = A[i,j] / B[j] · 2",
         r"Z_{i, j} &= \frac{A_{i, j}}{B_{j}} \cdot 2"),
        ("Z[i,j] = A[i,j] / (B[j] * 2)", "Z[i,j] = A[i,j] / (B[j] · 2)",
         r"Z_{i, j} &= \frac{A_{i, j}}{B_{j} \cdot 2}"),
        ("Z[i,j] = max(A[i,j], -B[j]) where i <= j", "Z[i,j] = max(A[i,j], −B[j])   where i ≤ j",
         r"Z_{i, j} &= \max(A_{i, j}, -B_{j}) \quad (i \le j)"),
    ],
)  # fmt: skip
def test_rendering(text, unicode, latex):
    cascade = parse_cascade(
        f"name: x\nranks: [I, J]\ninputs: ['A[i,j]', 'B[j]']\nbody:\n  - {text}\n"
    ).einsum("Z")
    assert unicode_einsum(cascade) == unicode
    assert latex_einsum(cascade) == latex


def test_every_einsum_has_its_line():
    for name in workloads.list_cascades():
        text = str(workloads.cascade(name))
        assert text.startswith(name)
        assert text.count("\n") >= len(workloads.cascade(name).einsums)


def test_latex_of_the_1_pass_attention():
    text = latex_cascade(workloads.cascade("attention-1pass"))
    assert r"\mathit{RM}_{b, h, m_{1}+1, p} &= \max(\mathit{RM}_{b, h, m_{1}, p}" in text
    assert r"&\diamond: m_{1} \ge M_{1}" in text
    assert r"\mathit{LM}_{b, h, m_{1}, p} &= \max_{m_{0}}" in text
