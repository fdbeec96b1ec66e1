"""Specs with `variants`, decoding steps, occupancies, and the figures of many designs."""

from __future__ import annotations

import polars as pl
import pytest

import workloads
from einsum_cascade import InputError
from explore.plots import figures
from explore.plots.front import front
from explore.run import run
from explore.spec import load_experiment

SPEC = """
name: variants
workload: {models: [bert-base], seq_len: [1K, 4K], batch: 4%s}
variants:
  arch: [fusemax-cloud, flat-cloud]
  cascade: %s
  mapper: fused
"""


def table_of(tmp_path, cascades="[attention-1pass, attention-3pass]", workload="", more=""):
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC % (workload, cascades) + more)
    return run(load_experiment(spec))


def test_a_design_for_every_combination(tmp_path):
    table = table_of(tmp_path)
    assert table["design"].unique(maintain_order=True).to_list() == [
        "attention-1pass on fusemax-cloud",
        "attention-1pass on flat-cloud",
        "attention-3pass on fusemax-cloud",
        "attention-3pass on flat-cloud",
    ]
    assert table.height == 8
    assert table["reason"].null_count() == 8


def test_all_are_the_packaged_variants(tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC % ("", "all"))
    experiment = load_experiment(spec)
    assert len(experiment.designs) == 2 * len(workloads.list_cascades("attention"))


def test_beside_designs_of_their_own(tmp_path):
    more = (
        "designs:\n  Mine: {arch: fusemax-cloud, cascade: attention-1pass, mapper: fusemax}\n"
        "rank: {baseline: Mine}\n"
    )
    table = table_of(tmp_path, more=more)
    assert table["design"][0] == "Mine"
    assert table["speedup"].null_count() == 0


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("attention-3pass]", "attention-3pas]", "did you mean 'attention-3pass'"),
        ("flat-cloud]", "flat-clout]", "did you mean 'flat-cloud'"),
        ("mapper: fused", "mapper: fussed", "did you mean 'fused'"),
        ("attention-3pass]", "attention-1pass]", "two designs are named"),
        ("  mapper: fused", "  maper: fused", "maper"),
    ],
)
def test_mistakes(tmp_path, old, new, words):
    spec = tmp_path / "spec.yaml"
    text = SPEC % ("", "[attention-1pass, attention-3pass]")
    assert old in text
    spec.write_text(text.replace(old, new))
    with pytest.raises(InputError) as error:
        load_experiment(spec)
    assert words in str(error.value)
    assert "spec.yaml:" in str(error.value)


def test_a_decoding_step(tmp_path):
    """One query reads all keys and values once, and nothing else of that size."""
    table = table_of(tmp_path, workload=", queries: 1")
    keys = 4 * 12 * 64 * 2 * 2  # bytes of K and V a token: batch, heads, embedding, two of 2 bytes
    for length, traffic in table.select("seq_len", "traffic_bytes").iter_rows():
        assert traffic == pytest.approx(keys * length, rel=0.01)


def test_an_occupancy_of_ones_own(tmp_path):
    cascade = tmp_path / "own.yaml"
    cascade.write_text(
        "{name: own, ranks: [B, H, P, M], inputs: ['X[b,h,m,p]', 'G[b,h,p]'], "
        "occupancy: {G: 0.5}, body: ['Y[b,h,p] = X[b,h,m,p]*X[b,h,m,p] where G[b,h,p] > 0']}"
    )
    spec = tmp_path / "spec.yaml"
    design = "{arch: fusemax-cloud, cascade: own.yaml, mapper: fused%s}"
    spec.write_text(
        "name: x\nworkload: {models: [bert-base], seq_len: 1K, batch: 4}\ndesigns:\n"
        f"  half: {design % ''}\n"
        f"  tenth: {design % ', occupancy: {G: 0.1}'}\n"
        f"  spread: {design % ', occupancy: {G: [0.0, 0.2]}'}\n"
    )
    table = run(load_experiment(spec))
    half, tenth, spread = table["energy_2d_pj"].to_list()
    assert half == pytest.approx(5 * tenth)
    assert spread == pytest.approx(tenth)
    spec.write_text(spec.read_text().replace("{G: 0.1}", "{GG: 0.1}"))
    with pytest.raises(InputError, match="has no tensor 'GG'"):
        load_experiment(spec)


def test_figures_of_many_designs():
    rows = [
        {
            "family": None, "design": f"d{i} on {arch}", "cascade": f"d{i}", "architecture": arch,
            "model": "m", "kernel": "attention", "batch": 1, "seq_len": n,
            "latency_s": (i + 1.0) * n, "energy_pj": (20.0 - i) * n, "traffic_bytes": 1.0 * n,
            "reason": None,
        }
        for i in range(10) for arch in ("a", "b") for n in (1024, 4096, 16384, 65536)
    ]  # fmt: skip
    found = {f.name: f for f in figures(pl.DataFrame(rows))}
    assert set(found) == {"pareto_attention", "scaling_attention"}
    panels = found["pareto_attention"].curves[0]
    assert [p.title for p in panels] == ["1K tokens", "16K tokens", "64K tokens"]
    names = {line.name: line for line in panels[0].lines}
    assert set(names) == {"a", "b"}
    assert names["a"].labels[0] == "d0"  # the colour tells the architecture
    assert all(names["a"].front)  # each faster one takes more energy
    latency, traffic = found["scaling_attention"].curves
    assert [p.title for p in latency] == ["a", "b"]
    assert len(latency[0].lines) == len(traffic[0].lines) == 10
    assert sum(any(line.front) for line in latency[0].lines) == 5


def test_front_of_points_and_twins():
    assert front([1, 1, 2, 2, 3], [2, 2, 1, 3, 1]) == (True, True, True, False, False)


def test_hints_fit_what_can_be_written(tmp_path):
    spec = tmp_path / "spec.yaml"
    text = SPEC % ("", "headless.yaml")
    (tmp_path / "headless.yaml").write_text(
        "{name: headless, ranks: [B, M, P, E], inputs: ['Q[b,e,p]', 'K[b,e,m]'], "
        "body: ['S[b,m,p] = Q[b,e,p]*K[b,e,m]']}"
    )
    inline = "{extends: fusemax-cloud, clock_hz: %s GHz}"
    cases = {
        text: "a design under designs may set an extent",
        (SPEC % ("", "[attention-1pass]")).replace(
            "[fusemax-cloud, flat-cloud]", f"[{inline % 1}, {inline % 2}]"
        ): "give each architecture a name",
        (SPEC % ("", "[attention-1pass]")).replace(
            "mapper: fused", "mapper: [fused, {name: fused, objective: latency_s}]"
        ): "options of a mapper goes under designs",
        SPEC % ("", "[attention-1pass, attention-1pass]"): "it is listed twice",
    }
    for case, words in cases.items():
        spec.write_text(case)
        with pytest.raises(InputError, match=words):
            load_experiment(spec)


@pytest.mark.parametrize("share", ["-1", "1.3", "[0.1, 2]"])
def test_an_occupancy_out_of_range(tmp_path, share):
    (tmp_path / "own.yaml").write_text(
        "{name: own, ranks: [B, H, P, M], inputs: ['X[b,h,m,p]', 'G[b,h,p]'], "
        "body: ['Y[b,h,p] = X[b,h,m,p]*X[b,h,m,p] where G[b,h,p] > 0']}"
    )
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "name: x\nworkload: {models: [bert-base], seq_len: 1K, batch: 4}\ndesigns:\n"
        f"  A: {{arch: fusemax-cloud, cascade: own.yaml, mapper: fused, occupancy: {{G: {share}}}}}\n"
    )
    with pytest.raises(InputError, match="from 0 to 1") as error:
        load_experiment(spec)
    assert (error.value.place.line, error.value.place.key[:21]) == (4, "designs.A.occupancy.G")
    spec.write_text(spec.read_text().replace("{G:", "{X:"))
    with pytest.raises(InputError, match="no filter of cascade 'own' reads 'X'"):
        load_experiment(spec)


def test_more_queries_than_keys(tmp_path):
    """A causal mask that counts queries among the keys has none for the first; others may."""
    for cascade, causal in (("causal-attention", True), ("cross-attention", False)):
        spec = tmp_path / "spec.yaml"
        spec.write_text(SPEC % (", queries: 2K", cascade))
        if causal:
            with pytest.raises(InputError, match="2048 queries, but cascade 'causal-att") as error:
                load_experiment(spec)
            assert error.value.place.key == "workload.queries"
        else:
            load_experiment(spec)
