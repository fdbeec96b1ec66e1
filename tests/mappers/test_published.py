"""Every published row that the project ships, from the mappers and the simulator alone.

The tables are read here, not through `explore`, and the models' shapes are written down again.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import mappers
import workloads
from archs import load_architecture
from sim import combine, evaluate

ROOT = Path(__file__).parents[2]
FOLDERS = (
    ROOT / "explore/data/published",
    ROOT.parent / "shared/reference/fusemax",
    ROOT.parent / "shared/reference/flat",
)
BATCH = 64
# width, heads, embedding of a head, hidden width of the feed-forward layers
MODELS = {
    "BERT": (768, 12, 64, 3072),
    "TrXL": (1024, 16, 64, 4096),
    "T5": (512, 8, 64, 2048),
    "XLM": (2048, 16, 128, 8192),
}
SHARES = ("QK", "LM", "SLN", "SLD", "SLNV", "AV")
DESIGNS = {
    "unfused": ("attention-3pass", "flat-cloud", "unfused", {}),
    "flat": ("attention-3pass", "flat-cloud", "flat", {"mapping": "published"}),
    "cascade": ("attention-1pass", "flat-cloud", "fusemax", {}),
    "arch": ("attention-1pass", "fusemax-cloud", "fusemax", {"schedule": "serial"}),
    "binding": ("attention-1pass", "fusemax-cloud", "fusemax", {"schedule": "interleaved"}),
}


def read(name):
    """A published table, column by column; numbers as arrays."""
    file = next((f / f"{name}.csv" for f in FOLDERS if (f / f"{name}.csv").is_file()), None)
    if file is None:
        pytest.skip(f"no published table {name}")
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows
    columns = {}
    for key in rows[0]:
        texts = [row[key] for row in rows]
        try:
            columns[key] = np.array([float(t) for t in texts])
        except ValueError:
            columns[key] = np.array(texts)
    if "seq_len" in columns:
        columns["tokens"] = np.array([tokens(row["seq_len"]) for row in rows])
    return columns


def tokens(text):
    return int(text[:-1]) * {"K": 1024, "M": 1024**2}[text[-1]] if text[-1] in "KM" else int(text)


def cost(cascade, arch, mapper, options, shape):
    mapping = mappers.place(
        mapper,
        mappers.check_options(mapper, options),
        cascade=workloads.cascade(cascade),
        architecture=load_architecture(arch).resolve(),
        shape=shape,
    )
    found = evaluate(mapping, "artifact")
    assert [reason for reason in found.infeasible if reason] == []
    return found


def within(found, published, share):
    """Relative deviation, row by row."""
    assert np.shape(found) == np.shape(published)
    np.testing.assert_array_less(np.abs(found / published - 1), share)


def energy_is_close(found, table):
    """The artifact miscounts buffer reads on long sequences: from 64K on the limit is wider."""
    long = table["tokens"] >= 65536
    assert long.any()
    assert (~long).any()
    within(found[~long], table["energy"][~long], 0.02)
    within(found[long], table["energy"][long], 0.07)


@pytest.mark.parametrize("name", DESIGNS)
def test_attention(name):
    table = read(f"attn-{name}")
    _, heads, embedding, _ = np.array([MODELS[m] for m in table["model"]]).T
    length = table["tokens"]
    shape = {"B": BATCH, "H": heads, "E": embedding, "F": embedding, "M": length, "P": length}
    found = cost(*DESIGNS[name], shape)
    within(found.latency_s, table["latency"], 0.01)
    within(found.traffic_bytes, table["traffic"], 0.01)
    within(found.util["2d"], table["util_2d"], 0.01)
    within(found.util["1d"], table["util_1d"], 0.01)
    energy_is_close(found.energy_pj, table)
    shares = [e for e in SHARES if e in table]
    assert bool(shares) == (name != "unfused")
    for einsum in shares:
        within(found.util_by_einsum["2d", einsum], table[einsum], 0.01)
    if shares:  # nothing else runs there
        assert {e for a, e in found.slot_seconds if a == "2d"} == set(shares)


@pytest.mark.parametrize(
    ("name", "arch"), [("end2end-flat", "flat-cloud"), ("end2end-proposal", "fusemax-cloud")]
)
def test_linear_layers(name, arch):
    """Q, K and V, deprojection Z, FFN1, FFN2, one matrix product after the other."""
    table = read(name)
    width, heads, embedding, hidden = np.array([MODELS[m] for m in table["model"]]).T
    rows = BATCH * table["tokens"]
    features = [
        (width, heads * embedding),
        (heads * embedding, width),
        (width, hidden),
        (hidden, width),
    ]
    layers = [
        cost("linear-layer", arch, "unfused", {}, {"R": rows, "K": k, "N": n}) for k, n in features
    ]
    found = combine(layers, [3, 1, 1, 1])
    within(found.latency_s, table["latency"], 0.01)
    within(found.traffic_bytes, table["traffic"], 0.01)
    energy_is_close(found.energy_pj, table)


@pytest.mark.parametrize("platform", ["cloud", "edge"])
def test_flats_simulator(platform):
    """FLAT's own simulator, corrected: the two products, every row with the mapping it chose."""
    table = read("flat_validation")
    here = table["platform"] == platform
    assert here.any()
    shape = {k: table[k][here] for k in "BHEFMP"}
    options = {"mapping": "published", "spill": "all"}
    found = cost("attention-products", f"flat-{platform}", "flat", options, shape)
    within(found.latency_s, table["actual_latency"][here], 0.01)
    within(found.traffic_bytes, table["mem_traffic"][here], 0.01)


@pytest.fixture(scope="module")
def family():
    return read("pareto")


def sized(n, embedding, heads, length=262144):
    """Buffer by the rule of Figure 12: room for the least P1, doubled while DRAM is the longest."""
    several = 2 * max(1, n // embedding)
    p1 = max(1, several // (length // n))
    buffer = n * p1 * embedding * 8 * 2
    while True:
        overrides = {
            "array_dim": n,
            "memories.buffer.size_bytes": buffer,
            "arrays.2d.registers.words": 2 * several,
            "arrays.1d.registers.words": 8 * several,
        }
        mapping = mappers.place(
            "fusemax",
            mappers.check_options("fusemax", {}),
            cascade=workloads.cascade("attention-1pass"),
            architecture=load_architecture("fusemax-cloud").resolve(overrides),
            shape={
                "B": BATCH, "H": heads, "E": embedding, "F": embedding, "M": length, "P": length
            },
        )  # fmt: skip
        found = evaluate(mapping)
        busy = {k: v[0] for k, v in found.busy_s.items()}
        if found.infeasible[0] is None and busy["DRAM"] <= max(busy["2d"], busy["1d"]):
            return found, mapping.architecture
        buffer *= 2


def test_the_family_of_figure_12(family):
    for i, model in enumerate(family["model"]):
        n = int(family["PE_dim"][i])
        _, heads, embedding, _ = MODELS[model]
        found, arch = sized(n, embedding, heads)
        two = arch.array("2d")
        row = {k: v[i] for k, v in family.items()}
        wanted = {
            "latency": found.latency_s[0],
            "comp_2d_lat": found.busy_s["2d"][0],
            "comp_1d_lat": found.busy_s["1d"][0],
            "mem_lat": found.busy_s["DRAM"][0],
            "traffic": found.traffic_bytes[0],
            "array_2d_area": two.pes * two.pe_area_um2,
            "area": found.area_um2[0],
        }
        for name, value in wanted.items():
            assert value == pytest.approx(row[name], rel=0.01), (model, n, name)
