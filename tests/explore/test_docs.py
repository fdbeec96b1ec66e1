"""The walk from an equation to a point on the plot, as the page shows it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from einsum_cascade import analyze_passes, execute, load_cascade
from explore.run import run
from explore.spec import load_experiment

PAGE = Path(__file__).parents[2] / "docs" / "variants.md"


def test_the_walk_of_the_page(tmp_path):
    cascade_text, spec_text = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "squared-relu.yaml").write_text(cascade_text)
    (tmp_path / "mine.yaml").write_text(spec_text)
    cascade = load_cascade(tmp_path / "squared-relu.yaml")
    assert analyze_passes(cascade).passes("M") == 1
    generator = np.random.default_rng(0)
    q, k = generator.normal(size=(2, 1, 2, 4, 5))
    v = generator.normal(size=(1, 2, 3, 5))
    weights = np.clip(np.einsum("bhep,bhem->bhpm", q, k), 0, None) ** 2
    expected = np.einsum("bhpm,bhfm->bhfp", weights / weights.sum(-1, keepdims=True), v)
    found = execute(cascade, {"Q": q, "K": k, "V": v})["AV"]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    table = run(load_experiment(tmp_path / "mine.yaml"))
    assert table["reason"].null_count() == table.height == 18
