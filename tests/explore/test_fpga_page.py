"""The spec and the totals of the page on FPGA templates."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from archs import load_architecture
from explore.run import run
from explore.spec import load_experiment

PAGE = (Path(__file__).parents[2] / "docs" / "fpga.md").read_text()


def test_the_spec_gives_the_total_of_the_page(tmp_path):
    (spec,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "edge.yaml").write_text(spec)
    row = run(load_experiment(tmp_path / "edge.yaml")).row(0, named=True)
    (total,) = re.findall(r"experts equally likely \| ([\d.]+) ms", PAGE)
    assert row["latency_s"] * 1e3 == pytest.approx(float(total), abs=0.005)
    for kernel in ("DSP", "BRAM18", "LUT", "FF"):
        (need, share) = re.findall(rf"([\d,]+) {kernel} \((\d+) %\)", PAGE)[0]
        assert f"{row[kernel.lower()]:,.0f}" == need
        have = load_architecture("edge-moe-zcu102").resolve().device_resources[kernel]
        assert f"{100 * row[kernel.lower()] / have:.0f}" == share


def test_what_the_page_calls_estimated_is_what_the_file_does():
    def marked(block, path=""):
        if isinstance(block, dict) and "value" in block:
            return [path] if "inferred" in block else []
        if isinstance(block, dict):
            return [p for key, inner in block.items() for p in marked(inner, f"{path}.{key}")]
        return []

    file = load_architecture("edge-moe-zcu102")
    blocks = {k: v for k, v in file.document.data.items() if k != "resources"}
    for path in marked(blocks):
        assert f"| `{path.removeprefix('.').removeprefix('parameters.')}`" in PAGE
