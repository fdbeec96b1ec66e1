"""The example of the notation's page is a cascade, and computes what it says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from einsum_cascade import analyze_passes, execute, parse_cascade
from workloads.reference import attention

PAGE = Path(__file__).parents[2] / "docs" / "notation.md"


def test_the_pages_example():
    found = re.search(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    cascade = parse_cascade(found[1])
    generator = np.random.default_rng(0)
    q, k, v = (generator.normal(size=(4, 8)) * 20 for _ in range(3))
    out = execute(cascade, {"Q": q, "K": k, "V": v}, {"M0": 2, "W": 1}, {"gelu": np.tanh})["AV"]
    mask = np.tri(8, dtype=bool).T  # [m,p]: m <= p
    expected = attention(q[None, None], k[None, None], v[None, None], mask)[0, 0]
    np.testing.assert_allclose(out, expected, rtol=1e-9)
    assert analyze_passes(cascade).passes("M") == 1


def test_a_window_needs_a_finite_beginning():
    """As the page says: a tile may hold no key of a row, and exp(-inf - -inf) is no number."""
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert found
    windowed = found[1].replace("where m1*M0 + m0 <= p", "where 0 <= p - m1*M0 - m0 < W")
    assert windowed.count("< W") == 3
    generator = np.random.default_rng(0)
    q, k, v = (generator.normal(size=(4, 8)) for _ in range(3))
    near = np.tri(8, dtype=bool).T & ~np.tri(8, k=-2, dtype=bool).T  # [m,p]: 0 <= p - m < 2
    expected = attention(q[None, None], k[None, None], v[None, None], near)[0, 0]
    beginning = re.search(r"begin with `(RM\[0,p\] = .*?)`", page)
    assert beginning
    for text, same in ((windowed, False), (windowed.replace("RM[0,p] = -inf", beginning[1]), True)):
        with np.errstate(invalid="ignore"):
            out = execute(
                parse_cascade(text), {"Q": q, "K": k, "V": v}, {"M0": 2, "W": 2}, {"gelu": np.tanh}
            )["AV"]
        assert np.allclose(out, expected) is same
