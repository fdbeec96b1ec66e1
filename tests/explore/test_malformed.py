"""Bad input ends with a message that points at its place, exit status 2, and no traceback."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from einsum_cascade.source import InputError
from explore.cli import app

SPEC = """\
name: small
workload:
  models: [bert-base]
  seq_len: [1K]
  batch: 2
designs:
  Ours: {arch: fusemax-cloud, cascade: attention-1pass, mapper: fusemax}
rank: {by: latency_s, baseline: Ours}
"""


def changed(old: str, new: str, count: int = 1) -> str:
    assert old in SPEC, old
    return SPEC.replace(old, new, count)


def appended(text: str) -> str:
    return SPEC + text


# name -> (spec, line where the mistake is or None, what the message must say)
SPECS = {
    "empty file": ("", None, "a mapping"),
    "a list": ("- a\n- b\n", None, "a mapping .* expected at the top, found a list"),
    "a word": ("nonsense\n", None, "a mapping .* expected at the top, found a str"),
    "broken yaml": ("name: [a\nworkload: }\n", 2, "not valid YAML"),
    "a tab": ("name: a\n\tworkload: b\n", 2, "not valid YAML"),
    "key twice": (changed("  batch: 2\n", "  batch: 2\n  batch: 3\n"), 6, "'batch' is given twice"),
    "key is a list": (changed("name: small", "? [a, b]\n: 1\nname: small"), 1, "plain word"),
    "control character": ("name: a\x07\n", 1, "not valid YAML"),
    "nested too deeply": ("name: " + "[" * 5000 + "\n", None, "nested too deeply|not valid YAML"),
    "typo in a key": (changed("workload:", "worklaod:"), 2, "did you mean 'workload'"),
    "typo in seq_len": (changed("seq_len", "seqlen"), 4, "did you mean 'seq_len'"),
    "typo in a design key": (changed("cascade:", "cascad:"), 7, "did you mean 'cascade'"),
    "missing workload": ("name: a\ndesigns: {}\n", 1, "missing key 'workload'"),
    "missing mapper": (changed(", mapper: fusemax", ""), 7, "missing key 'mapper'"),
    "no designs": (changed(SPEC[SPEC.index("  Ours") : SPEC.index("rank")], "  {}\n"), 1, "needs designs, or variants"),
    "designs is a list": (changed(SPEC[SPEC.index("  Ours") : SPEC.index("rank")], "  [a]\n"), 6, "expected a mapping"),
    "no models": (changed("[bert-base]", "[]"), 3, "at least 1 item"),
    "no lengths": (changed("[1K]", "[]"), 4, "at least 1 item"),
    "unknown model": (changed("bert-base", "bert-bsae"), 3, "did you mean 'bert-base'"),
    "unknown architecture": (changed("fusemax-cloud", "fusemax-clowd"), 7, "did you mean 'fusemax-cloud'"),
    "unknown cascade": (changed("attention-1pass", "attention-1-pass"), 7, "did you mean 'attention-1pass'"),
    "unknown mapper": (changed("mapper: fusemax", "mapper: fusmax"), 7, "did you mean 'fusemax'"),
    "unknown baseline": (changed("baseline: Ours", "baseline: Our"), 8, "did you mean 'Ours'"),
    "unknown ranking": (changed("by: latency_s", "by: latency"), 8, "allowed: latency_s, energy_pj"),
    "unknown kernel": (changed("  batch: 2", "  kernels: [attn]\n  batch: 2"), 5, "attention"),
    "zero length": (changed("[1K]", "[0]"), 4, "from 1 to"),
    "negative length": (changed("[1K]", "[-4]"), 4, "from 1 to"),
    "fractional length": (changed("[1K]", "[1.5]"), 4, "whole number"),
    "huge length": (changed("[1K]", "[1e30]"), 4, "from 1 to"),
    "a length of 400 digits": (changed("[1K]", "[" + "9" * 400 + "]"), 4, "too large"),
    "length nan": (changed("[1K]", "[.nan]"), 4, "from 1 to"),
    "length inf": (changed("[1K]", "[.inf]"), 4, "from 1 to"),
    "length is a word": (changed("[1K]", "[long]"), 4, "a number"),
    "length is true": (changed("[1K]", "[true]"), 4, "a number"),
    "unknown suffix": (changed("[1K]", "[1Q]"), 4, "such as '4K'"),
    "zero batch": (changed("batch: 2", "batch: 0"), 5, "from 1 to"),
    "batch is a mapping": (changed("batch: 2", "batch: {a: 1}"), 5, "a number"),
    "name with a slash": (changed("name: small", "name: ../small"), 1, "expected letters, digits, .* the first a letter or a digit"),
    "name is a number": (changed("name: small", "name: 3"), 1, "expected text, found 3"),
    "mapper without name": (changed("mapper: fusemax", "mapper: {schedule: serial}"), 7, "needs a name"),
    "unknown mapper option": (
        changed("mapper: fusemax", "mapper: {name: fusemax, schedul: serial}"), 7, "did you mean 'schedule'"),
    "unknown schedule": (
        changed("mapper: fusemax", "mapper: {name: fusemax, schedule: seriel}"), 7, "serial"),
    "cascade of another form": (changed("attention-1pass", "attention-3pass"), 7, "one iterative rank"),
    "iterative cascade unfused": (changed("mapper: fusemax", "mapper: unfused"), 7, "without an iterative"),
    "published has none": (
        changed("attention-1pass, mapper: fusemax", "attention-3pass, mapper: {name: flat, mapping: published}"),
        7, "use mapping: search"),
    "missing model file": (changed("bert-base", "mine.yaml"), 3, "no model file"),
    "missing architecture file": (changed("fusemax-cloud", "mine.yaml"), 7, "no architecture file"),
    "missing cascade file": (changed("attention-1pass", "mine.yaml"), 7, "no cascade file"),
    "model without E": (changed("[bert-base]", "[{D: 8, H: 2, S: 8}]"), 3, "missing key 'E'"),
    "model with zero heads": (changed("[bert-base]", "[{D: 8, H: 0, E: 4, S: 8}]"), 3, "expected a number of at least 1, found 0"),
    "two models of one name": (
        changed("[bert-base]", "[{name: a, D: 8, H: 2, E: 4, S: 8}, {name: a, D: 8, H: 1, E: 4, S: 8}]"),
        3, "two models are named 'a'"),
    "inline without extends": (changed("arch: fusemax-cloud", "arch: {clock_hz: 1 GHz}"), 7, "extends"),
    "inline typo": (
        changed("arch: fusemax-cloud", "arch: {extends: fusemax-cloud, clock: 1 GHz}"), 7, "did you mean 'clock_hz'"),
    "inline wrong unit": (
        changed("arch: fusemax-cloud", "arch: {extends: fusemax-cloud, clock_hz: 1 GB}"), 7, "'940 MHz'"),
    "inline negative": (
        changed("arch: fusemax-cloud", "arch: {extends: fusemax-cloud, clock_hz: -1}"), 7, "at least"),
    "extends nothing known": (changed("arch: fusemax-cloud", "arch: {extends: fusemax}"), 7, "unknown architecture"),
    "swept unknown parameter": (appended("sweep: {arch.aray_dim: [16]}\n"), 9, "did you mean 'array_dim'"),
    "swept nothing": (appended("sweep: {arch.array_dim: []}\n"), 9, "at least 1 item"),
    "swept without arch": (appended("sweep: {array_dim: [16]}\n"), 9, "arch.PARAMETER"),
    "swept a word": (appended("sweep: {arch.array_dim: [big]}\n"), 9, "a number"),
    "swept below zero": (appended("sweep: {arch.array_dim: [-1]}\n"), 9, "at least 0"),
    "swept unknown rank": (appended("sweep: {shape.M9: [16]}\n"), 9, "has no 'M9'"),
    "derived with an unknown name": (appended("derive: {x: 2*arraydim}\n"), 9, "did you mean 'array_dim'"),
    "derived syntax": (appended("derive: {x: '2*(3'}\n"), 9, "not an arithmetic expression"),
    "derived code": (appended("derive: {x: '__import__(\"os\")'}\n"), 9, "not an arithmetic expression"),
    "derived unknown function": (appended("derive: {x: 'exp(3)'}\n"), 9, "unknown function 'exp'"),
    "derived division by zero": (appended("derive: {arch.array_dim: 1/0}\n"), 9, "not a finite number"),
    "family of unknown design": (appended("families: {a: {design: Theirs}}\n"), 9, "unknown design 'Theirs'"),
    "family typo": (appended("families: {a: {design: Ours, seqlen: 1}}\n"), 9, "did you mean 'seq_len'"),
    "derived later": (appended("derive: {x: y, y: 2}\n"), 9, "unknown name 'y'"),
    "doubled until a typo": (
        appended("derive: {arch.array_dim: {start: 4, double_until: PP > 1}}\n"), 9, "unknown name 'PP'"),
    "a rank that the cascade has not": (
        changed("mapper: fusemax", "mapper: fusemax, shape: {N0: 4}"), 7, "has no rank 'N0'"),
    "an extent with a typo": (
        changed("mapper: fusemax", "mapper: fusemax, shape: {M0: aray_dim}"), 7, "did you mean 'array_dim'"),
    "arch is a number": (changed("arch: fusemax-cloud", "arch: 3"), 7, "expected text or a mapping"),
    "mapping is a number": (
        changed("mapper: fusemax", "mapper: {name: flat, mapping: 3}"), 7,
        "expected search, published, a path or a mapping"),
    "a long name": (changed("name: small", "name: " + "a" * 70), 1, "at most 64 letters"),
    "unknown accounting": (appended("energy: {accounting: ful}\n"), 9, "did you mean 'full'"),
    "a rank of the workload": (
        changed("mapper: fusemax", "mapper: fusemax, shape: {M: 128}"), 7,
        r"shape\.M: 'M' is set by workload\.seq_len, for all designs alike"),
    "a rank of the model": (
        changed("mapper: fusemax", "mapper: fusemax, shape: {M0: 64, E: 32}"), 7,
        r"shape\.E: 'E' is set by the model \(workload\.models\)"),
    "a lower-case k": (changed("[1K]", "[1k]"), 4, "'1k' is unclear: write 1K for 1024, or 1000"),
    "several queries": (changed("  batch: 2", "  queries: [1, 16]\n  batch: 2"), 5, "one number or seq_len is expected"),
    "queries is a word": (changed("  batch: 2", "  queries: all\n  batch: 2"), 5, "a number"),
    "a histogram for nothing": (
        changed("  batch: 2", "  histogram: [1, 2]\n  batch: 2"), 5, "of a model with experts"),
    "a network without layers": (
        changed("[bert-base]", "[bert-base, {name: a, D: 8, H: 2, E: 4, S: 8}]\n  kernels: [network]"), 3,
        r"models\[1\]: model 'a' has no L"),
    "a word like no name": (
        changed("mapper: fusemax", "mapper: fusemax, shape: {M0: foo*2}"), 7, r"allowed: B, D, E, .*\bM\b"),
    "swept rank of one design": (
        appended("sweep: {shape.M0: [64]}\n").replace(
            "rank:", "  Theirs: {arch: fusemax-cloud, cascade: attention-3pass, mapper: unfused}\nrank:"),
        10, "attention-3pass has no 'M0' .design 'Theirs'.: sweep what only some designs have in families"),
    "unknown format": (appended("figures: {formats: [jpg]}\n"), 9, "pdf"),
}  # fmt: skip

CASCADE = """\
name: mine
ranks: {B: batch, M: keys, P: queries, E: embedding}
inputs: ["Q[b,e,p]", "K[b,e,m]"]
outputs: [S]
body:
  - QK[b,m,p] = Q[b,e,p] * K[b,e,m]
  - S[b,p] = max over m of QK[b,m,p]
"""

CASCADES = {
    "unknown operator": (CASCADE.replace("* K", "^ K"), 6),
    "unknown tensor": (CASCADE.replace("K[b,e,m]\n", "L[b,e,m]\n"), 6),
    "unknown rank": (CASCADE.replace("QK[b,m,p] = ", "QK[b,n,p] = "), 6),
    "defined twice": (CASCADE + "  - QK[b,m,p] = Q[b,e,p] * K[b,e,m]\n", 8),
    "never defined": (CASCADE.replace("outputs: [S]", "outputs: [T]"), 4),
    "a cycle": (CASCADE + "  - A[b,p] = C[b,p] + S[b,p]\n  - C[b,p] = A[b,p] + S[b,p]\n", None),
    "wrong number of ranks": (CASCADE.replace("Q[b,e,p] *", "Q[b,e] *"), 6),
    "code": (CASCADE.replace("Q[b,e,p] *", "exec('x') *"), 6),
}

ARCHITECTURE = "extends: fusemax-cloud\nname: mine\n"

ARCHITECTURES = {
    "extends itself": ("extends: mine.yaml\nname: mine\n", "goes on too long"),
    "name is missing a word": ("extends: fusemax-cloud\nname: ''\n", "expected letters"),
    "unknown link": (ARCHITECTURE + "links: [{from: 2d, to: 3d}]\n", "unknown array '3d'"),
    "three dimensions": (ARCHITECTURE + "arrays: {2d: {shape: [4, 4, 4]}}\n", "at most 2 dimensions"),
    "unknown unit": (
        ARCHITECTURE + "arrays: {1d: {operations: {log: {unit: logs, energy_pj: 1}}}}\n",
        "unknown unit 'logs'",
    ),
    "depends on itself": (ARCHITECTURE + "parameters: {array_dim: array_dim+1}\n", "depends on itself"),
    "depends in a circle": (
        ARCHITECTURE + "parameters: {array_dim: side, side: array_dim}\n", "depends on itself"),
    "unknown name": (ARCHITECTURE + "clock_hz: 2*aray_dim\n", "did you mean 'array_dim'"),
    "a size of zero": (ARCHITECTURE + "memories: {buffer: {size_bytes: 0}}\n", "at least"),
    "uncited": (ARCHITECTURE + "clock_hz: {value: 1 GHz}\n", "source"),
    "a list": ("[1, 2]\n", "a mapping"),
}  # fmt: skip


def run(tmp_path, *arguments):
    return CliRunner().invoke(app, [*map(str, arguments), "--out", str(tmp_path / "out")])


def refused(result) -> str:
    """The message of the InputError that ends the command."""
    assert isinstance(result.exception, InputError), result.exception or result.output
    return str(result.exception)


@pytest.mark.parametrize("case", SPECS)
def test_spec(case, tmp_path):
    text, line, message = SPECS[case]
    file = tmp_path / "spec.yaml"
    file.write_bytes(text.encode())
    found = refused(run(tmp_path, "run", file))
    assert found.startswith(f"{file}:{line}:" if line else str(file)), found
    assert re.search(message, found), found
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", CASCADES)
def test_cascade(case, tmp_path):
    text, line = CASCADES[case]
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    spec = tmp_path / "spec.yaml"
    spec.write_text(changed("attention-1pass, mapper: fusemax", "mine.yaml, mapper: unfused"))
    found = refused(run(tmp_path, "run", spec))
    assert found.startswith(f"{file}:{line}:" if line else str(file)), found


@pytest.mark.parametrize("case", ARCHITECTURES)
def test_architecture(case, tmp_path):
    text, message = ARCHITECTURES[case]
    (tmp_path / "mine.yaml").write_text(text)
    spec = tmp_path / "spec.yaml"
    spec.write_text(changed("fusemax-cloud", "mine.yaml"))
    found = refused(run(tmp_path, "run", spec))
    assert str(tmp_path) in found, found
    assert re.search(message, found), found


def test_not_utf8(tmp_path):
    file = tmp_path / "spec.yaml"
    file.write_bytes(SPEC.encode() + b"# caf\xe9\n")
    assert f"{file}:9: not UTF-8 text: byte 0xe9" in refused(run(tmp_path, "run", file))


def test_a_folder_and_a_missing_file(tmp_path):
    assert "cannot be read" in refused(run(tmp_path, "run", tmp_path))
    assert "cannot be read" in refused(run(tmp_path, "run", tmp_path / "none.yaml"))
    assert "did you mean 'fusemax'" in refused(run(tmp_path, "run", "fusemx"))


def test_a_buffer_too_small_is_a_row_with_its_reason(tmp_path):
    """Nothing fits, so no row is feasible: status 3, and the rows say what is missing."""
    import polars as pl

    spec = tmp_path / "spec.yaml"
    tiny = "arch: {extends: fusemax-cloud, memories: {buffer: {size_bytes: 1 KiB}}}"
    spec.write_text(changed("arch: fusemax-cloud", tiny))
    result = run(tmp_path, "run", spec)
    assert result.exit_code == 3
    rows = pl.read_csv(tmp_path / "out" / "results.csv")
    assert rows["latency_s"].null_count() == rows.height == 1
    assert re.search(r"need [\d,]+ bytes of buffer, which has 1,024: [\d,]+ bytes are missing",
                     rows["reason"][0])  # fmt: skip


def test_the_process_ends_with_status_2_and_no_traceback(tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(changed("seq_len", "seqlen"))
    done = subprocess.run(
        [sys.executable, "-m", "explore", "run", str(spec)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: {spec}:4:3: workload.seqlen: unknown key 'seqlen'; allowed: "
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("case", SPECS)
def test_messages_are_in_plain_words(case, tmp_path):
    """Nothing of the library that checks the files, or of Python, shows."""
    file = tmp_path / "spec.yaml"
    file.write_bytes(SPECS[case][0].encode())
    found = refused(run(tmp_path, "run", file))
    for word in ("pydantic", "Undefined", "input should", "validat", "pattern", "Schema", "class"):
        assert word not in found.replace(str(tmp_path), ""), found


def test_a_model_with_a_mistake_has_one(tmp_path):
    file = tmp_path / "spec.yaml"
    file.write_text(changed("[bert-base]", "[{D: x, H: 2, E: 4, S: 8}]"))
    found = refused(run(tmp_path, "run", file))
    assert found == (
        f"{file}:3:13: workload.models[0].D: a positive integer is expected, found 'x'"
    )


def test_a_wrong_branch_of_a_union_is_not_spoken_of(tmp_path):
    """What is a mapping was meant as one: only the mistake in it is told."""
    file = tmp_path / "spec.yaml"
    file.write_text(changed("mapper: fusemax", "mapper: {name: flat, mapping: {row_tile: 2}}"))
    found = refused(run(tmp_path, "run", file))
    assert "missing key 'stationarity'" in found
    assert "\n" not in found


def test_of_many_keys_the_nearest_are_listed(tmp_path):
    file = tmp_path / "spec.yaml"
    file.write_text(appended("sweep: {arch.aray_dim: [16]}\n"))
    found = refused(run(tmp_path, "run", file))
    assert re.search(r"did you mean 'array_dim'\? allowed: array_dim, .* and \d+ more$", found)
    assert found.count(", ") < 12


HEADLESS = """\
name: headless
ranks: {%s M: keys, P: queries, E: embedding, F: value embedding}
inputs: ["Q[%se,p]", "K[%se,m]", "V[%sf,m]"]
body:
  - QK[%sm,p] = Q[%se,p] * K[%se,m]
  - AV[%sf,p] = QK[%sm,p] * V[%sf,m]
"""


@pytest.mark.parametrize(
    ("ranks", "batch", "heads", "said"),
    [
        ("", 2, 12, "no rank B and no rank H, so 2 batch elements and 12 heads"),
        ("B", 2, 12, "no rank H, so 12 heads"),
        ("H", 2, 12, "no rank B, so 2 batch elements"),
        ("", 1, 12, "no rank H"),
        ("", 1, 1, None),
        ("H", 1, 12, None),
        ("B", 64, 1, None),
        ("BH", 64, 12, None),
    ],
)
def test_a_batch_or_heads_that_the_cascade_has_not(ranks, batch, heads, said, tmp_path):
    """They would be priced as one: the cascade is named, and what it lacks."""
    declared = "".join(f"{r}: repeated, " for r in ranks)
    indices = "".join(f"{r.lower()}," for r in ranks)
    (tmp_path / "mine.yaml").write_text(HEADLESS % (declared, *[indices] * 9))
    spec = tmp_path / "spec.yaml"
    text = changed("attention-1pass, mapper: fusemax", "mine.yaml, mapper: unfused")
    text = text.replace("[bert-base]", f"[{{D: 64, H: {heads}, E: 64, S: 64}}]")
    spec.write_text(text.replace("batch: 2", f"batch: [1, {batch}]"))
    done = run(tmp_path, "run", spec)
    if said is None:
        assert done.exit_code == 0, done.exception
        return
    found = refused(done)
    assert found.startswith(f"{spec}:7:")
    assert "'headless'" in found
    assert said in found


def test_an_extent_may_hold_the_heads(tmp_path):
    """`shape` says that queries of all heads stand in one rank: four times the work of one."""
    import polars as pl

    (tmp_path / "mine.yaml").write_text(HEADLESS % ("", *[""] * 9))
    work = []
    for heads, shape in ((1, ""), (4, ", shape: {P: P*H}")):
        text = changed("attention-1pass, mapper: fusemax", f"mine.yaml, mapper: unfused{shape}")
        text = text.replace("[bert-base]", f"[{{D: 64, H: {heads}, E: 64, S: 64}}]")
        (tmp_path / "spec.yaml").write_text(text.replace("batch: 2", "batch: 1"))
        done = run(tmp_path, "run", tmp_path / "spec.yaml", "--force")
        assert done.exit_code == 0, done.exception
        work.append(pl.read_csv(tmp_path / "out" / "results.csv")["busy_2d_s"][0])
    assert work[1] == pytest.approx(4 * work[0])


@pytest.mark.parametrize("command", [["list"], ["passes", "attention-3pass"]])
def test_a_reader_that_leaves_early_is_no_failure(command):
    import os

    read, write = os.pipe()
    os.close(read)  # nobody reads, as after `| head`
    done = subprocess.run(
        [sys.executable, "-m", "explore", *command],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
