"""Mappers on the published workloads against closed forms that are written down independently.

The forms are those that reproduce FuseMax's and FLAT's published tables; here they also stand for
the rows that no shipped table holds.
"""

from __future__ import annotations

import csv
from importlib.resources import files

import numpy as np
import pytest

import mappers
import workloads
from archs import load_architecture
from sim import evaluate

CLOCK, DRAM, N, BATCH = 940e6, 400 * 2**30, 256, 64
MODELS = {"bert": (12, 64), "trxl": (16, 64), "t5": (8, 64), "xlm": (16, 128)}  # heads, E = F
LENGTHS = [2**k for k in (10, 12, 14, 16, 18, 20)]
POINTS = [(h, e, m) for h, e in MODELS.values() for m in LENGTHS]


def placed(cascade, arch, mapper, options, points=POINTS):
    h, e, m = np.array(points).T
    mapping = mappers.place(
        mapper,
        mappers.check_options(mapper, options),
        cascade=workloads.cascade(cascade),
        architecture=load_architecture(arch).resolve(),
        shape={"B": BATCH, "H": h, "E": e, "F": e, "M": m, "P": m},
    )
    return evaluate(mapping)


def largest_p1(tiles, words_each, words_beside, capacity):
    """The largest number of query tiles that divides them all and fits, by trying every one."""
    return max(
        p for p in range(1, tiles + 1)
        if tiles % p == 0 and p * N * words_each + words_beside <= capacity
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arch", "buffer_words", "more"), [("fusemax-cloud", 2**23, 0), ("flat-cloud", 2**24, 4 * N)]
)
def test_one_pass_traffic(arch, buffer_words, more):
    """Q and AV once, K and V once per P2; on FLAT's architecture tiles of QK and SLN take room."""
    found = placed("attention-1pass", arch, "fusemax", {})
    for i, (h, e, m) in enumerate(POINTS):
        p1 = largest_p1(m // N, 2 * e + 2 + more, 2 * N * e, buffer_words)
        words = BATCH * h * m * e * (2 + 2 * (m // N // p1))
        assert found.traffic_bytes[i] == 2 * words


def test_interleaved_latency_and_utilization():
    """Both arrays overlap: the longer one, or DRAM."""
    found = placed("attention-1pass", "fusemax-cloud", "fusemax", {})
    for i, (h, e, m) in enumerate(POINTS):
        tiles = BATCH * h * (m // N) ** 2
        two = tiles * (e + 1 + 7 + 1 + e)
        one = tiles * (1 + 7 + 1 + 1 + e + e) + BATCH * h * (m // N) * e
        latency = max(two / CLOCK, one / CLOCK, found.traffic_bytes[i] / DRAM)
        assert found.latency_s[i] == pytest.approx(latency, rel=1e-12)
        assert found.util["2d"][i] == pytest.approx(two / CLOCK / latency, rel=1e-12)
        assert found.util["1d"][i] == pytest.approx(one / CLOCK / latency, rel=1e-12)


def test_serial_latency():
    """Steps of a tile by the paper, RD beside the first step of the next one."""
    found = placed("attention-1pass", "fusemax-cloud", "fusemax", {"schedule": "serial"})
    for i, (h, e, m) in enumerate(POINTS):
        av = e / (m // N)
        tile = max(e + 1, 1 + av) + N + 1 + max(8, 8) + max(e, 2 * e)
        expected = BATCH * h * (m // N) ** 2 * tile / CLOCK
        assert found.latency_s[i] == pytest.approx(expected, rel=1e-12)
        assert found.latency_terms_s["stall"][i] == pytest.approx(
            BATCH * h * (m // N) ** 2 * N / CLOCK
        )


def test_one_pass_on_flats_architecture():
    """The 2D array has MACs only: the softmax's Einsums take the 1D array, an exp and an add each."""
    found = placed("attention-1pass", "flat-cloud", "fusemax", {})
    for i, (h, e, m) in enumerate(POINTS):
        tiles = BATCH * h * (m // N) ** 2
        one = tiles * (N * (1 + 2 + 1) + 1 + 2 + 1 + 1 + 2 * e) + BATCH * h * (m // N) * e
        assert found.latency_s[i] == pytest.approx(one / CLOCK, rel=1e-12)


def test_unfused_latency():
    """Products bound by DRAM, the softmax by the 1D array, one after the other."""
    found = placed("attention-3pass", "flat-cloud", "unfused", {})
    for i, (h, e, m) in enumerate(POINTS):
        least = 2 * BATCH * h * 2 * (m * m + 2 * m * e) / DRAM
        softmax = 4 * BATCH * h * m * m / N / CLOCK
        assert found.latency_s[i] >= (least + softmax) * (1 - 1e-12)
        assert found.latency_s[i] == pytest.approx(least + softmax, rel=0.003)
        if m <= 65536:  # K or V of a head fits
            assert found.latency_s[i] == pytest.approx(least + softmax, rel=1e-12)


def published_mappings():
    text = (files("mappers") / "data" / "flat_published_mappings.csv").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def flat_closed_form(row):
    """Traffic in bytes and 2D cycles of FLAT's simulator for a mapping: two products, no softmax."""
    a, words = int(row["array_dim"]), int(row["buffer_bytes"]) / 2
    heads = BATCH * int(row["H"])
    e, m = int(row["E"]), int(row["seq_len"])
    p1 = int(row["row_tile"]) or m
    kept = {t: t in row["on_chip"].split() for t in ("Q", "K", "QK", "V", "AV")}
    qk_out, av_out = (row[f"{x}_stationarity"] == "output" for x in ("qk", "av"))
    across, deep = max(1, m / a), max(1, e / a)
    p2, pt = m / p1, m / p1 * max(1, p1 / a)
    cycles = (pt * across * e if qk_out else m * deep * across) + (
        pt * deep * m if av_out else m * deep * across
    )
    q, a_reads = m * e * across, m * m * deep
    k = m * e * (pt if qk_out else p2)
    v = m * e * (pt if av_out else p2)
    moved = (m * e if kept["Q"] else q) + (m * e if kept["K"] else k) + (m * e if kept["V"] else v)
    moved += m * e + (0 if kept["QK"] else m * m + a_reads)
    tile = a * min(e, a)
    room = 2 * (p1 * e if kept["Q"] else tile) + 2 * (m * e if kept["K"] else tile)
    room += 2 * (m * e if kept["V"] else tile)
    room += 2 * (p1 * e if kept["AV"] else tile if av_out else p1 * min(e, a))
    if kept["QK"]:
        room += p1 * m
    else:  # staged: a tile of A, and partial sums of QK where the embedding takes several rounds
        room += 2 * a * a + (2 * (a * a if qk_out else p1 * a) if deep > 1 and not qk_out else 0)
    spilled = max(0, 1 - words / room)
    uses = q + (m * m if qk_out else 2 * deep * m * m) + a_reads
    uses += (k if kept["K"] else 0) + (v if kept["V"] else 0)
    uses += 0 if av_out else 2 * m * e * across
    return 2 * heads * (moved + spilled * uses), heads * cycles


@pytest.mark.parametrize("platform", ["cloud", "edge"])
def test_flat_with_published_mappings(platform):
    side, bandwidth = {"cloud": (256, DRAM), "edge": (32, DRAM / 8)}[platform]
    rows = [r for r in published_mappings() if int(r["array_dim"]) == side]
    assert len(rows) == 48
    points = [(int(r["H"]), int(r["E"]), int(r["seq_len"])) for r in rows]
    options = {"mapping": "published", "spill": "all"}
    found = placed("attention-products", f"flat-{platform}", "flat", options, points)
    for i, row in enumerate(rows):
        traffic, cycles = flat_closed_form(row)
        assert found.traffic_bytes[i] == pytest.approx(traffic, rel=1e-9), row
        assert found.busy_s["2d"][i] == pytest.approx(cycles / CLOCK, rel=1e-9), row
        latency = max(traffic / bandwidth, cycles / CLOCK)
        assert found.latency_s[i] == pytest.approx(latency, rel=1e-9)


def test_flat_with_its_softmax():
    """Four Einsums of the softmax on the 1D array, beside the products and DRAM."""
    found = placed("attention-3pass", "flat-cloud", "flat", {"mapping": "published"})
    for i, (h, _, m) in enumerate(POINTS):
        softmax = 4 * BATCH * h * m * m / N / CLOCK
        assert found.busy_s["1d"][i] == pytest.approx(softmax, rel=1e-12)
        longest = max(softmax, found.busy_s["2d"][i], found.traffic_bytes[i] / DRAM)
        assert found.latency_s[i] == pytest.approx(longest, rel=1e-12)


@pytest.mark.parametrize(("cascade", "options"), [
    ("attention-3pass", {}),
    ("attention-products", {"spill": "all", "no_worse_than": "published"}),
])  # fmt: skip
@pytest.mark.parametrize("platform", ["cloud", "edge"])
def test_searched_flat_is_never_worse_than_published(platform, cascade, options):
    lengths = [2**k for k in range(9, 21)]
    points = [(h, e, m) for h, e in MODELS.values() for m in lengths]
    pinned = {"mapping": "published", "spill": options.get("spill", "rows")}
    theirs = placed(cascade, f"flat-{platform}", "flat", pinned, points)
    ours = placed(cascade, f"flat-{platform}", "flat", options, points)
    assert (ours.latency_s <= theirs.latency_s * (1 + 1e-9)).all()
    assert (ours.traffic_bytes <= theirs.traffic_bytes * (1 + 1e-9)).all()
    assert (ours.traffic_bytes < theirs.traffic_bytes * 0.99).sum() > 30
