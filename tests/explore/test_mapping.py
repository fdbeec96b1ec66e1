"""`explore mapping`: loop nests, files and figures of single design points, fronts, refusals."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

import explore.mapping
from einsum_cascade.source import InputError
from explore.cli import app
from explore.levels import Selection
from explore.mapping import front_figure, mappings_of
from explore.plots.nest import draw_nest, nest_figure
from explore.run import run
from explore.spec import load_experiment

SPEC = """\
name: small
workload:
  models: [{name: tiny, D: 128, H: 2, E: 64, S: 256}]
  seq_len: [512, 1K]
  batch: 1
designs:
  FuseMax: {arch: fusemax-cloud, cascade: attention-1pass, mapper: fusemax}
  Searched:
    arch: fusemax-cloud
    cascade: attention-1pass
    mapper: {name: search, fusion: whole, objective: [latency_s, buffer_bytes]}
  None:
    arch: fusemax-cloud
    cascade: attention-1pass
    mapper: {name: search, fusion: whole, objective: traffic_bytes, constraints: {latency_s: 1 us}}
"""


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path / "spec.yaml"


def called(*words, status=0):
    done = CliRunner().invoke(app, ["mapping", "spec.yaml", *words], catch_exceptions=True)
    if isinstance(done.exception, InputError):
        assert status == 2
        return str(done.exception)
    assert done.exit_code == status, done.output
    return done.output


def test_a_mapping_is_shown_written_drawn_and_run_again(spec, tmp_path):
    text = called(
        "--design", "FuseMax", "--seq-len", "1K", "--out", "mine.yaml", "--figure", "nest.svg"
    )
    assert text.startswith("FuseMax: attention of tiny, 1024 tokens, batch 1\n  latency ")
    assert "        QK   on 2d: for E in 64; over M0 256 x P0 256\n" in text
    drawn = (tmp_path / "nest.svg").read_text()
    for words in (
        "M1 in 4",
        "buffer keeps",
        "Q RM RD RNV",
        "for E in 64; over M0 256 × P0 256",
        "SPNV",
    ):
        assert f">{words}<" in drawn, words
    (tmp_path / "again.yaml").write_text(
        SPEC[: SPEC.index("  Searched")]
        + "  Written: {arch: fusemax-cloud, cascade: attention-1pass, mapper: {file: mine.yaml}}\n"
    )
    table = run(load_experiment(tmp_path / "again.yaml"))
    rows = {(r["design"], r["seq_len"]): r for r in table.to_dicts()}
    one, other = rows["FuseMax", 1024], rows["Written", 1024]
    for name in ("latency_s", "energy_pj", "traffic_bytes", "util_2d", "bottleneck", "mapping"):
        assert one[name] == other[name]
    assert other["mapper"] == "file"
    assert "the mapping is for " in rows["Written", 512]["reason"]  # numbers of another point


def test_several_objectives_are_a_front(spec, tmp_path):
    text = called("--design", "Searched", "--out", "front", "--figure", "front.svg")
    found = next(iter(mappings_of(load_experiment(spec), Selection(designs=("Searched",)))))
    count = len(found.mappings)
    assert count > 1
    assert f"{count} mappings that none beats in latency_s and buffer_bytes" in text
    files = sorted((tmp_path / "front").iterdir())
    assert [f.name for f in files] == sorted(f"Searched-{i + 1}.yaml" for i in range(count))
    assert (found.costs[:-1, 0] < found.costs[1:, 0]).all()
    assert (found.costs[:-1, 1] > found.costs[1:, 1]).all()
    for costs, evaluation in zip(found.costs, found.evaluations, strict=True):
        assert evaluation.latency_s == pytest.approx(costs[0], rel=1e-9)
    figure = front_figure(found, "front")
    (line,) = figure.curves[0][0].lines
    assert line.y == tuple(found.costs[:, 1])
    assert line.labels == tuple(str(i + 1) for i in range(count))
    assert (tmp_path / "front.svg").read_text().count("</svg>") == 1


def test_a_run_takes_one_objective(spec):
    with pytest.raises(InputError, match="--front latency_s,buffer_bytes` lists it"):
        run(load_experiment(spec))
    spec.write_text(spec.read_text().replace("[latency_s, buffer_bytes]", "latency_s"))
    table = run(load_experiment(spec))
    reasons = {r["design"]: r["reason"] for r in table.to_dicts()}
    assert reasons["FuseMax"] is reasons["Searched"] is None
    assert "constraints.latency_s of " in reasons["None"]


def test_nothing_fits(spec, monkeypatch):
    """The reason, and what would let something fit, but what the reason says already."""
    enough = "constraints.latency_s of "
    found = [enough, "extent F of 21 in place of 64 (43 less, 3.048 times)"]
    monkeypatch.setattr("mappers.search.changes", lambda *asked: found)
    text = called("--design", "None", status=3)
    assert (
        "infeasible: no mapping keeps to the constraints: it would, by the smallest change" in text
    )
    assert enough in text.splitlines()[1]
    assert f"something fits with {enough}" not in text
    assert "  something fits with extent F of 21 in place of 64 (43 less, 3.048 times)\n" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--front", "latency_s,energy"), "no column 'energy'.*did you mean 'energy_pj'"),
        (("--front", "latency_s"), "two or more columns"),
        (("--front", "latency_s,energy_pj", "--design", "FuseMax"), "'fusemax' gives one mapping, no front; allowed: search"),
        (("--design", "Fusemax"), "did you mean 'FuseMax'"),
        (("--design", "Searched", "--out", "a.yaml"), "holds one mapping, and these are"),
        (("--design", "FuseMax", "--figure", "a.jpg"), r"allowed: .pdf, .svg, .png"),
        (("--design", "FuseMax", "--out", "spec.yaml"), "--force writes over it"),
    ],
)  # fmt: skip
def test_mistakes(spec, words, message):
    assert re.search(message, called(*words, status=2))


def test_interrupted(spec, monkeypatch):
    """The best so far is shown and written; the status says that it was not all."""
    import mappers.search as search

    real = search.optimum

    def stopped(*asked):
        found = real(*asked)
        report = search.replace(found.report, interrupted=True, complete=False)
        return search.replace(found, report=report)

    monkeypatch.setattr(search, "optimum", stopped)
    spec.write_text(SPEC.replace("[latency_s, buffer_bytes]", "latency_s"))
    text = called("--design", "Searched", "--out", "mine.yaml", status=130)
    assert "interrupted: the best so far" in text
    assert "1 mapping in mine.yaml" in text


def test_what_a_figure_of_a_mapping_shows(spec, tmp_path):
    experiment = load_experiment(spec)
    (point,) = mappings_of(experiment, Selection(designs=("FuseMax",)))
    figure = nest_figure(point.mappings[0])
    rows = [(row.kind, row.depth, row.name, row.text, row.array, row.result) for row in figure.rows]
    assert rows[:9] == [
        ("phase", 0, "phase fusemax", "", "", ""),
        ("home", 0, "in DRAM", "Q K V AV", "", ""),
        ("home", 0, "in buffer", "RM RD RNV", "", ""),
        ("home", 0, "in the arrays", "QK LM SLN SLD SLNV PRM SPD SPNV", "", ""),
        ("note", 0, "interleaved", "QK SLNV; SPNV RNV", "", ""),
        ("loops", 0, "for", "H in 2", "", ""),
        ("kept", 1, "buffer keeps", "Q RM RD RNV", "", ""),
        ("loops", 1, "for", "M1 in 2", "", ""),
        ("kept", 2, "buffer keeps", "K V", "", ""),
    ]
    assert rows[9] == ("loops", 2, "for", "P1 in 2", "", "")
    assert rows[10] == (
        "einsum",
        3,
        "QK",
        "for E in 64; over M0 256 × P0 256",
        "2d",
        "stays in the array",
    )
    assert rows[-1] == ("einsum", 1, "AV", "for P1 in 2, F in 64; over P0 256", "1d", "to DRAM")
    assert [row[2] for row in rows if row[0] == "einsum"] == [e.name for e in einsums(point)]
    assert figure.arrays == ("2d", "1d")
    boxes = [(box.depth, box.first, box.last) for box in figure.boxes]
    assert boxes == [(0, 5, len(rows) - 1), (1, 7, len(rows) - 2), (2, 9, len(rows) - 2)]
    for form in ("svg", "pdf"):
        one = draw_nest(figure, tmp_path / f"one.{form}").read_bytes()
        assert draw_nest(figure, tmp_path / f"two.{form}").read_bytes() == one


def einsums(point):
    nests = point.mappings[0].phases[0].options[0].einsums
    return [point.design.cascade.einsum(nest.einsum) for nest in nests]


def test_only_what_is_asked_for_is_looked_at(spec, monkeypatch):
    """A design of another mapper is not placed for the sake of one."""
    seen = []
    real = explore.mapping.attention_problem
    monkeypatch.setattr(
        explore.mapping, "attention_problem",
        lambda grid, design, point, values: seen.append((design.name, point.seq_len.tolist())) or real(grid, design, point, values),
    )  # fmt: skip
    called("--design", "FuseMax", "--seq-len", "1K")
    assert seen == [("FuseMax", [1024])]


@pytest.mark.parametrize(
    ("file", "message"), [("both.png", "shows one design"), ("both.jpg", "allowed: .pdf")]
)
def test_a_figure_that_cannot_be_is_refused_before_anything_is_searched(
    spec, monkeypatch, file, message
):
    def never(*_):
        raise AssertionError("searched")

    monkeypatch.setattr(explore.mapping, "mappings_of", never)
    words = ("--design", "FuseMax", "--design", "Searched", "--figure", file)
    assert message in called(*words, status=2)
