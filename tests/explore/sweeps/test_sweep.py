"""Sweeps as they are run: stopped, killed, short of disk, by several processes; and what is read."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from einsum_cascade.source import InputError
from explore.cli import app
from explore.run import run_file
from explore.spec import load_experiment
from explore.sweeps import driver, parts
from explore.sweeps.parts import opened
from explore.sweeps.read import difference, pareto, results, top
from explore.sweeps.units import units
from explore.sweeps.work import Job, packed, work

SPEC = """\
name: small
workload:
  models: [bert-base, xlm]
  kernels: [attention, encoder]
  seq_len: [1K, 4K, 16K]
  batch: [1, 64]
designs:
  Ours: {arch: fusemax-cloud, cascade: attention-1pass, mapper: fusemax}
  Theirs: {arch: fusemax-cloud, cascade: attention-1pass, mapper: {name: fusemax, schedule: serial}}
sweep:
  arch.array_dim: [64, 128, 256]
  arch.memories.buffer.size_bytes: [2 KiB, 4 MiB]
  arch.clock_hz: [940 MHz, 1.2 GHz]
sampling: {chunk: 24}
"""
PARTS = 2 * 6  # chunks of both designs
ROOT = Path(__file__).parents[3]


def write(tmp_path, text=SPEC, name="spec.yaml"):
    file = tmp_path / name
    file.write_text(text)
    return file


def swept(spec, out, evaluate=driver.here):
    with opened(out) as store:
        return driver.run_sweep(load_experiment(spec), store, evaluate)


def files(out):
    return sorted(p.name for p in (out / "parts").glob("*.parquet"))


def started(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "explore", "sweep", *map(str, arguments)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    progress = swept(write(folder), folder / "out")
    assert (progress.points, progress.kept, progress.rows) == (288, 0, 576)
    assert len(files(folder / "out")) == PARTS
    return folder / "out"


TEMPLATE = """\
name: template
workload: {models: [m3vit], kernels: [attention, network], seq_len: 129}
designs:
  Edge: {arch: edge-moe-zcu102, cascade: edge-moe-attention, mapper: edge_moe}
sweep: {arch.TI: [0, 8, 64], arch.p: [2, 64]}
"""
TILES = """\
name: tiles
workload: {models: [bert-base], seq_len: [1K, 1200], batch: 4}
designs:
  Ours: {arch: fusemax-cloud, cascade: attention-1pass, mapper: fusemax}
  No energy:
    arch:
      extends: fusemax-cloud
      memories: {DRAM: {read_energy_pj: 0, write_energy_pj: 0}, buffer: {read_energy_pj: 0, write_energy_pj: 0}}
      arrays:
        2d: {registers: {energy_pj: 0}, operations: {mac: {energy_pj: 0}, max: {energy_pj: 0}}}
        1d: {registers: {energy_pj: 0}, operations: {mac: {energy_pj: 0}, add: {energy_pj: 0}, mul: {energy_pj: 0}, max: {energy_pj: 0}, div: {energy_pj: 0}}}
    cascade: attention-1pass
    mapper: fusemax
sweep: {shape.M0: [256, 300], arch.memories.buffer.size_bytes: [2 KiB, 4 MiB]}
"""


@pytest.mark.parametrize("text", [SPEC.partition("sampling")[0], TEMPLATE, TILES])
def test_a_sweep_is_the_run_of_its_spec(text, tmp_path):
    """The same figures as `explore run`, whatever the chunks, also of points that cannot be."""
    run = run_file(write(tmp_path, text))
    asked = "sampling: {chunk: 24, columns: [lower_bound_bytes, compute_s]}\n"
    swept(write(tmp_path, text + asked), tmp_path / "out")
    found = results(tmp_path / "out").scan().collect()
    keys = ["design", "kernel", "model", "batch", "seq_len"]
    keys += [name for name in run.columns if name.startswith(("arch.", "shape."))]
    both = run.join(found, on=keys, how="inner", maintain_order="right")
    assert both.height == run.height == found.height
    figures = [name for name in found.columns if name not in (*keys, "family")]
    assert {"latency_s", "energy_pj", "area_um2", "util_2d", "bottleneck"} <= set(figures)
    assert ("dsp" in figures) == (text is TEMPLATE)
    for name in figures:
        if name in run.columns:
            assert both[name].equals(both[f"{name}_right"].alias(name), null_equal=True), name
        else:  # an array that there is not
            assert found[name].null_count() == found.height
    infeasible = found.filter(pl.col("reason").is_not_null() & pl.col("area_um2").is_not_null())
    assert 0 < infeasible.height < found.height or text is TEMPLATE
    assert 0 < found["reason"].null_count() < found.height


def test_killed_at_any_moment_it_goes_on(undisturbed, tmp_path):
    spec, out = write(tmp_path), tmp_path / "out"
    moments = random.Random(1)
    there = []
    for _ in range(3):
        process = started(spec, "--out", out, "--workers", 1)
        wanted = len(there and files(out)) + moments.randint(1, 3)
        end = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < end:
            if (out / "parts").is_dir() and len(files(out)) >= wanted:
                break
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.02))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        there.append(set(files(out)))
    assert there[0] <= there[1] <= there[2] <= set(files(undisturbed))
    progress = swept(spec, out)
    assert progress.kept == 24 * len(there[2])
    assert files(out) == files(undisturbed)
    assert results(out).scan().collect().equals(results(undisturbed).scan().collect())
    assert swept(spec, out).kept == 288


def test_a_part_that_is_damaged_is_evaluated_again(undisturbed, tmp_path):
    spec, out = write(tmp_path), tmp_path / "out"
    swept(spec, out)
    first, second, *_ = (out / "parts" / name for name in files(out))
    first.write_bytes(first.read_bytes()[:100])
    data = bytearray(second.read_bytes())
    data[len(data) // 2] ^= 1
    second.write_bytes(data)
    (out / "parts" / "left.parquet.writing").write_bytes(b"of a run that was killed")
    assert swept(spec, out).kept == 288 - 2 * 24
    assert len(list((out / "parts").iterdir())) == PARTS
    assert files(out) == files(undisturbed)
    first.write_bytes(b"")
    with pytest.raises(InputError, match="run the sweep again"):
        results(out)


def test_a_full_disk_ends_with_a_message_and_a_rerun_completes(undisturbed, tmp_path, monkeypatch):
    spec, out = write(tmp_path), tmp_path / "out"
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(parts.os, "fsync", full)
    done = CliRunner().invoke(app, ["sweep", str(spec), "--out", str(out), "--workers", "1"])
    assert isinstance(done.exception, InputError)  # which ends with exit status 2
    assert "No space left on device; what is finished is kept" in str(done.exception)
    monkeypatch.undo()
    kept = set(files(out))
    assert kept < set(files(undisturbed))
    assert kept
    assert swept(spec, out).kept == 24 * len(kept)
    assert files(out) == files(undisturbed)


def workers():
    """The processes that joblib started for this one."""
    from joblib.externals.loky import reusable_executor

    return list(reusable_executor._executor._processes)


def test_processes_give_the_same_and_one_may_die(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "ALONE_S", 0)
    spec, out = write(tmp_path), tmp_path / "out"
    killed = []

    def evaluate(jobs):
        for done in driver.processes(2)(jobs):
            if not killed:
                killed.append(workers()[0])
                os.kill(killed[0], signal.SIGKILL)
            yield done

    swept(spec, out, evaluate)
    assert killed
    assert files(out) == files(undisturbed)


def test_workers_end_with_a_process_that_is_killed(tmp_path):
    text = SPEC.replace("[64, 128, 256]", "{from: 64, to: 256, steps: 193}")
    process = started(write(tmp_path, text), "--out", tmp_path / "out", "--workers", "2")
    running = Path(f"/proc/{process.pid}/task")
    if not running.exists():
        process.kill()
        pytest.skip("processes are not seen here")

    def children():
        return {c for t in running.iterdir() for c in (t / "children").read_text().split()}

    until = time.monotonic() + 60
    while len(children()) < 3 and time.monotonic() < until:  # two workers, and what loky has
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    until = time.monotonic() + 30
    while _is_there(process.pid):
        assert time.monotonic() < until
        time.sleep(0.1)


def _is_there(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_dask_gives_the_same_when_a_worker_is_killed(undisturbed, tmp_path):
    """A scheduler and two workers, each a process of its own, as on a cluster."""
    pytest.importorskip("distributed")
    spec, out, found = write(tmp_path), tmp_path / "out", tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "distributed.cli.dask_"]
    options = ["--scheduler-file", str(found), "--no-dashboard"]
    commands = [[*dask[:2], f"{dask[2]}scheduler", "--host", "127.0.0.1", "--port", "0", *options]]
    commands += 2 * [[*dask[:2], f"{dask[2]}worker", "--no-nanny", "--nthreads", "1", *options]]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [subprocess.Popen(command, cwd=ROOT, **quiet) for command in commands]
    try:
        end = time.monotonic() + 60
        while not found.exists() or not found.stat().st_size:
            assert time.monotonic() < end
            time.sleep(0.02)
        address = json.loads(found.read_text())["address"]
        assert address.startswith("tcp://")
        with driver.cluster(address) as evaluate:

            def killing(jobs):
                for i, done in enumerate(evaluate(jobs)):
                    if i == 1:
                        running[1].kill()
                    yield done

            assert swept(spec, out, killing).points == 288
        assert running[1].wait(10) == -signal.SIGKILL
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert files(out) == files(undisturbed)
    assert results(out).scan().collect().equals(results(undisturbed).scan().collect())


def test_a_worker_with_another_program_is_refused(tmp_path, monkeypatch):
    (unit, _) = units(load_experiment(write(tmp_path)))
    job = Job("key", packed(unit), next(unit.chunks()), "context")
    monkeypatch.setattr("explore.sweeps.work.code_version", lambda: "another")
    with pytest.raises(InputError, match="has another version of this program"):
        work(job)


def test_dask_mistakes(monkeypatch):
    pytest.importorskip("distributed")
    for address, message in {
        "local:x": "number of processes",
        "nowhere": "unknown cluster",
    }.items():
        with pytest.raises(InputError, match=message), driver.cluster(address):
            pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(InputError, match=r"needs dask\.distributed: pip install"),
        driver.cluster("local:1"),
    ):
        pass


def test_interrupted_it_says_how_to_go_on(tmp_path):
    spec, out = write(tmp_path), tmp_path / "out"
    process = started(spec, "--out", out, "--workers", 1)
    end = time.monotonic() + 30
    while not (out / "parts").is_dir() or not files(out):
        assert time.monotonic() < end
        time.sleep(0.002)
    with pytest.raises(InputError, match="another run is writing"):
        swept(spec, out)
    os.kill(process.pid, signal.SIGINT)
    _, message = process.communicate(timeout=30)
    assert process.returncode == 130, message
    assert "run the same again to continue" in message
    assert "Traceback" not in message
    found = results(out)
    assert found.missing == PARTS - len(found.files)


def test_a_changed_spec_recomputes_what_changed(undisturbed, tmp_path):
    spec, out = write(tmp_path), tmp_path / "out"
    swept(spec, out)
    write(tmp_path, SPEC.replace("[64, 128, 256]", "[64, 128, 256, 512]"))
    progress = swept(spec, out)
    assert (progress.points, progress.kept) == (384, 288)
    write(tmp_path)
    assert swept(spec, out).kept == 288
    assert results(out).scan().collect().equals(results(undisturbed).scan().collect())
    assert len(files(out)) == 16
    done = CliRunner().invoke(app, ["sweep", str(spec), "--out", str(out), "--prune"])
    assert done.exit_code == 0, done.output
    assert "4 parts of former specs removed" in done.output
    assert files(out) == files(undisturbed)


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match=r"holds 'mine.txt' and no sweep"):
        swept(write(tmp_path), tmp_path / "out")
    with pytest.raises(InputError, match="is a file"):
        swept(write(tmp_path), tmp_path / "spec.yaml")
    with pytest.raises(InputError, match=r"no sweep\.json"):
        results(tmp_path)


def test_a_run_refuses_a_sweep_and_open_ranges(tmp_path):
    done = CliRunner().invoke(app, ["run", str(write(tmp_path)), "--out", str(tmp_path / "o")])
    assert "spec.yaml:14" in str(done.exception)
    assert "explore sweep" in str(done.exception)
    text = SPEC.replace("[64, 128, 256]", "{from: 64, to: 256}").replace(
        "sampling: {chunk: 24}\n", ""
    )
    done = CliRunner().invoke(
        app, ["run", str(write(tmp_path, text)), "--out", str(tmp_path / "o")]
    )
    assert "a range has steps" in str(done.exception)


def test_top_is_the_sorted_table(undisturbed):
    found = results(undisturbed)
    table = found.scan().collect()
    chosen = top(
        found, "latency_s", 5, ["seq_len >= 4096", "array_dim*clock_hz < 2e11"], {"model": ["xlm"]}
    )
    rows = table.filter(
        (pl.col("seq_len") >= 4096) & (pl.col("arch.array_dim") * pl.col("arch.clock_hz") < 2e11)
        & (pl.col("model") == "xlm") & pl.col("latency_s").is_not_null()
    ).sort("latency_s", maintain_order=True)  # fmt: skip
    assert chosen.equals(rows.head(5).select(chosen.columns))
    product = top(found, "max(latency_s, 1e-3)*energy_pj", 3)
    value = np.maximum(table["latency_s"].to_numpy(), 1e-3) * table["energy_pj"].to_numpy()
    assert product.to_series(-1).to_list() == sorted(value[~np.isnan(value)])[:3]
    assert top(found, "edp", 3)["edp"].is_sorted()


def test_expressions_over_columns_are_those_over_arrays(undisturbed):
    from einsum_cascade.expression import parse_expression
    from explore.sweeps.filters import compiled

    table = results(undisturbed).scan().collect().drop_nulls("latency_s")
    for text in (
        "batch % 7 - seq_len // 3", "-latency_s ** 2 / 3", "min(batch, 8, seq_len) + max(batch, 8)",
        "ceil(util_1d * 10) - floor(util_1d * 10)", "sqrt(log2(seq_len))", "pow2_at_least(batch + 3)",
    ):  # fmt: skip
        rule = parse_expression(text)
        wanted = rule.evaluate({n: table[n].to_numpy() for n in rule.names})
        found = table.select(compiled(rule, table.columns)).to_series().to_numpy()
        assert np.allclose(found, wanted, rtol=1e-12), text


def test_the_front_is_what_nothing_beats(undisturbed):
    found = results(undisturbed)
    table = found.scan().collect().drop_nulls("latency_s")
    for x, y in (("latency_s", "area_um2"), ("energy_pj", "latency_s"), ("-util_2d", "area_um2")):
        a, b = (-table[n[1:]].to_numpy() if n[0] == "-" else table[n].to_numpy() for n in (x, y))
        less = (a[:, None] <= a) & (b[:, None] <= b) & ((a[:, None] < a) | (b[:, None] < b))
        wanted = table.filter(~less.any(axis=0))
        front = pareto(found, x, y)
        shared = [c for c in front.columns if c in table.columns]
        assert front.select(shared).sort(shared).equals(wanted.select(shared).sort(shared)), (x, y)


def test_what_differs_between_two(undisturbed, tmp_path):
    text = SPEC.replace("[940 MHz, 1.2 GHz]", "[940 MHz, 1.5 GHz]")
    text = text.replace("[2 KiB, 4 MiB]", "[4 MiB, 2 KiB]").replace(
        "schedule: serial", "schedule: interleaved"
    )
    swept(write(tmp_path, text), tmp_path / "out")
    old, new = results(undisturbed), results(tmp_path / "out")
    found = difference(old, new, "latency_s")
    keys = ["design", "kernel", "model", "batch", "seq_len", *old.parameters]
    a, b = (
        dict(
            zip(
                r.scan().select(keys).collect().rows(), r.scan().collect()["latency_s"], strict=True
            )
        )
        for r in (old, new)
    )
    wanted = dict.fromkeys(found.counts, 0)
    for key in a.keys() | b.keys():
        x, y = a.get(key), b.get(key)
        if key not in a or key not in b:
            wanted["gone" if key in a else "new"] += 1
        elif x is None or y is None or x == y:
            wanted["equal"] += 1
            assert x == y
        else:
            wanted["better" if y < x else "worse"] += 1
    assert found.counts == wanted
    assert min(wanted[n] for n in ("better", "equal", "new", "gone")) > 0
    rows = found.table.collect()
    assert rows.height == sum(wanted.values()) - wanted["equal"]
    better = rows.filter(pl.col("change") == "better")
    assert (better["second"] < better["first"]).all()
    assert better["ratio"].is_sorted()
    text = SPEC.replace("  arch.clock_hz: [940 MHz, 1.2 GHz]\n", "")
    swept(write(tmp_path, text), tmp_path / "fewer")
    with pytest.raises(InputError, match=r"points differ in 'arch.clock_hz' in .* alone"):
        difference(old, results(tmp_path / "fewer"), "latency_s")


def test_commands_on_a_sweep_and_on_a_run(undisturbed, tmp_path):
    runner = CliRunner()
    spec = write(tmp_path, SPEC.replace("sampling: {chunk: 24}\n", "figures: {formats: [svg]}\n"))
    run = tmp_path / "run"
    assert runner.invoke(app, ["run", str(spec), "--out", str(run)]).exit_code == 0
    for folder in (undisturbed, run):
        done = runner.invoke(app, ["top", str(folder), "-n", "2", "--where", "seq_len >= 4K"])
        assert "--where: not an arithmetic expression" in str(done.exception)
        out = tmp_path / f"{folder.name}.csv"
        done = runner.invoke(app, ["pareto", str(folder), "--y", "area_um2", "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert "on the front of latency_s and area_um2" in done.output
        done = runner.invoke(app, ["top", str(folder), "--by", "latencys"])
        assert "did you mean 'latency_s'" in str(done.exception)
        done = runner.invoke(app, ["top", str(folder), "--kernel", "encoder", "-n", "2"])
        assert done.output.count("encoder") == 2
    done = runner.invoke(app, ["diff", str(run), str(undisturbed)])
    assert done.exit_code == 0, done.output
    assert "576 equal" in done.output.replace(" 0 ", "")


def test_commands_say_what_is_wrong(undisturbed, tmp_path):
    runner = CliRunner()
    done = runner.invoke(app, ["top", str(undisturbed), "--design", "Our"])
    assert "no point of 'Our'" in str(done.exception)
    assert "did you mean 'Ours'" in str(done.exception)
    for command in ("top", "pareto"):
        done = runner.invoke(app, [command, str(undisturbed), "--design", "Ours", "--model", "xlm"])
        assert done.exit_code == 0, done.exception
        assert "Ours" in done.output
        assert "Theirs" not in done.output
    done = runner.invoke(app, ["diff", str(undisturbed), str(write(tmp_path))])
    assert "is a file: give the folder of a sweep" in str(done.exception)
    small = SPEC.replace("[2 KiB, 4 MiB]", "2 KiB").replace("[1K, 4K, 16K]", "1K")
    spec = write(tmp_path, small.replace("chunk: 24", "columns: [util_2d, utl, utl, reason]"))
    done = runner.invoke(app, ["sweep", str(spec), "--out", str(tmp_path / "none")])
    assert done.exit_code == 3
    assert "the reason of " in done.output
    assert "buffer" in done.output[done.output.index("the reason of ") :]
    spec = write(
        tmp_path,
        small.replace("2 KiB", "4 MiB").replace("chunk: 24", "columns: [utl, utl, reason]"),
    )
    done = runner.invoke(app, ["sweep", str(spec), "--out", str(tmp_path / "some")])
    assert "note: no point has the column 'utl' of sampling.columns" in done.output


def test_what_a_sweep_cannot_be_is_said_before_anything_is_evaluated(tmp_path):
    text = SPEC.replace(
        "mapper: fusemax}", "mapper: {name: search, objective: [latency_s, energy_pj]}}"
    )
    with pytest.raises(InputError, match="--front latency_s,energy_pj") as error:
        swept(write(tmp_path, text), tmp_path / "out")
    assert error.value.place.line == 8
    with pytest.raises(InputError, match="--front latency_s,energy_pj"):
        run_file(write(tmp_path, text.partition("sampling")[0]))
    for wrong in ("1 GiB", "{from: 1 GB, to: 2 GB, steps: 2}"):
        text = SPEC.replace("[940 MHz, 1.2 GHz]", wrong)
        with pytest.raises(InputError, match=r"arch\.clock_hz is in Hz, found '1 G") as error:
            swept(write(tmp_path, text), tmp_path / "out")
        assert error.value.place.line == 13
    pytest.importorskip("optuna")
    asked = "sampling: {kind: search, points: 4, batch: 4,\n  objectives: [latencys]}\n"
    text = SPEC.replace("sampling: {chunk: 24}\n", asked)
    with pytest.raises(InputError, match="unknown column 'latencys'") as error:
        swept(write(tmp_path, text), tmp_path / "out")
    assert error.value.place.line == 15


def test_a_search_finds_the_front_and_repeats_no_point(tmp_path):
    pytest.importorskip("optuna")
    text = SPEC[: SPEC.index("sampling")].replace("[attention, encoder]", "attention") + (
        "sampling: {kind: search, points: 60, batch: 20, objectives: [latency_s, area_um2],"
        " require: array_dim > 64}\n"
    )
    spec, out = write(tmp_path, text), tmp_path / "out"

    class StopError(Exception):
        pass

    def stopping(jobs):
        for i, done in enumerate(driver.here(jobs)):
            yield done
            if i == 1 and len(files(out)) >= 3:
                raise StopError

    with pytest.raises(StopError):
        swept(spec, out, stopping)
    kept = len(files(out))
    assert kept >= 3
    progress = swept(spec, out)
    assert progress.points == 60
    assert progress.kept > 0
    swept(spec, tmp_path / "again")
    assert files(tmp_path / "again") == files(out)
    found = results(out)
    table = found.scan().collect()
    assert table.select("design", "model", "batch", "seq_len", *found.parameters).is_unique().all()
    assert table["arch.array_dim"].min() == 128


def test_a_search_goes_on_where_no_point_of_a_batch_is_one(tmp_path):
    pytest.importorskip("optuna")
    text = SPEC[: SPEC.index("sampling")].replace("[attention, encoder]", "attention") + (
        "sampling: {kind: search, points: 24, batch: 2, objectives: [latency_s],"
        " require: array_dim > 100000}\n"
    )
    progress = swept(write(tmp_path, text), tmp_path / "out")
    assert progress.rows == 0
    assert progress.points > 2


def test_the_spec_of_the_page(tmp_path):
    page = (ROOT / "docs" / "sweeps.md").read_text()
    text = page[page.index("```yaml\n") + 8 :]
    text = text[: text.index("```")].replace("points: 10K", "points: 200")
    found = swept(write(tmp_path, text), tmp_path / "out")
    assert found.points == 2 * 200  # of each schedule
    assert 0 < found.rows < 400
    assert found.feasible == found.rows
    columns = results(tmp_path / "out").columns
    assert {"mapper.schedule", "arch.array_dim", "arch.clock_hz", "latency_s"} <= set(columns)
