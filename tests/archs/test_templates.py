"""FPGA templates: ports, pipelined loops, number formats, a device and what is taken of it."""

from __future__ import annotations

import numpy as np
import pytest

import mappers
import workloads
from archs import load_architecture
from archs.hardware import Port
from einsum_cascade import InputError
from sim import evaluate

HEAD = "name: mine\nextends: edge-moe-zcu102\n"


def test_what_a_template_becomes():
    """By hand: 256 bits of 32-bit words are 8 lanes; half of a port's beat goes on in a cycle."""
    found = load_architecture("edge-moe-zcu102").resolve()
    dram = found.memories[0]
    assert [port.name for port in dram.ports] == [f"inout{i}" for i in (1, 2, 3, 4)] + ["weights"]
    assert dram.ports[-1] == Port("weights", 256, 128, 5, frozenset({"weight"}))
    assert (dram.latency_cycles, found.power_w, found.word_bytes) == (75, 14.54, 4)
    assert found.format_bits == {"activation": 32, "weight": 16, "pixel": 8, "gelu": 22}
    unit = found.array("scores")
    assert unit.shape == (4, 8)
    assert (unit.loop.interval_cycles, unit.loop.depth_cycles) == (1, 15)
    assert set(unit.operations) == {"mac"}
    assert found.device == "zcu102"
    assert found.device_resources["DSP"] == 2520


def test_parameters_reach_loops_ports_and_formats():
    file = load_architecture("edge-moe-zcu102")
    found = file.resolve({
        "axi_bits": np.array([256, 512]), "formats.weight": 8, "exact_gelu": 1,
        "arrays.scores.loop.interval_cycles": 2, "memories.DRAM.ports.inout1.memory_bits": 64,
    })  # fmt: skip
    assert found.array("scores").shape[1].tolist() == [8, 16]
    assert found.array("scores").loop.interval_cycles == 2
    assert found.array("activation").loop.interval_cycles == 77
    assert found.memories[0].ports[0].memory_bits == 64
    assert found.memory("weights").size_bytes == 2 * 768 * 192


MISTAKES = {
    # ports
    "memories: {DRAM: {ports: {i: {memory_bits: 128}}}}": "missing key 'kernel_bits'",
    "memories: {DRAM: {ports: {i: {kernel_bits: 8, memory_bits: 8, carries: [wait]}}}}":
        "port 'i' carries unknown number format 'wait'; allowed: activation, weight",
    "memories: {DRAM: {ports: {i: {kernel_bits: 0, memory_bits: 8}}}}": "at least 1",
    "memories: {DRAM: {ports: {inout1: {memory_bit: 8}}}}": "did you mean 'memory_bits'",
    "memories: {rows: {ports: {i: {kernel_bits: 8, memory_bits: 8}}}}":
        "memory 'rows' has ports: only the outermost has",
    "memories: {DRAM: {ports: {a b: {kernel_bits: 8, memory_bits: 8}}}}": "letters, digits",
    "memories: {DRAM: {latency_cycles: -1}}": "not an arithmetic|at least",
    # loops
    "arrays: {linear: {units: {mac: {area_um2: 1}}}}": "a pipelined loop has no units",
    "arrays: {linear: {registers: {words: 1, area_um2: 1, energy_pj: 1}}}":
        "a pipelined loop has no registers",
    "arrays: {linear: {operations: {mac: {unit: mac, energy_pj: 1}}}}": "are a list of names",
    "arrays: {linear: {loop: {interval_cycles: 0}}}": "at least 1",
    "arrays: {linear: {loop: {interval: 1}}}": "did you mean 'interval_cycles'",
    "arrays: {linear: {loop: {depth_cycles: -3}}}": "not an arithmetic|at least 0",
    "arrays: {linear: {loop: null}}": "an array of PEs needs units, or else is a loop",
    "arrays: {linear: {shape: [4, 4, 4, 4]}}": "at most 3 items",
    "arrays: {extra: {shape: [4], operations: [mac]}}": "an array of PEs needs units, or else is",
    # formats, power, device
    "formats: {weight: 0}": "at least 1",
    "formats: {weight: half}": "unknown name 'half'",
    "word_bytes: formats.activatoin/8": "unknown name 'formats.activatoin'",
    "power_w: -3": "not an arithmetic|at least 0",
    "device: zcu103": "unknown device 'zcu103'; allowed: k26, u280, zcu102, zcu104",
    "device: nowhere.yaml": "no device file",
    "device: null": "resources need the device that they are taken from",
    "device: 3": "the name of a device, a path, or its totals",
    "resources: {linear_sums: {adder: {width: formats.waight}}}": "unknown name 'formats.waight'",
    "resources: {linear_sums: {count: TX}}": "unknown name 'TX'",
}  # fmt: skip


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_say_where_and_what(text, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"{HEAD}{text}\n")
    with pytest.raises(InputError, match=MISTAKES[text]) as caught:
        load_architecture(str(file)).resolve()
    assert caught.value.place.file == str(file)


def test_pes_have_two_dimensions(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nextends: fusemax-cloud\narrays: {2d: {shape: [4, 4, 4]}}\n")
    with pytest.raises(InputError, match="at most 2 dimensions"):
        load_architecture(str(file))


@pytest.mark.parametrize(("overrides", "message"), [
    ({"arrays.linear.loop.interval_cycles": 0.5}, "interval_cycles must be at least 1, found 0.5"),
    ({"port_bits": 0}, "memory_bits must be at least 1, found 0"),
    ({"formats.weight": 0}, "formats.weight must be at least 1"),
    ({"p": 2.5}, "must be a whole number, found 2.5"),
    ({"linear_unit": 8}, "did you mean 'linear_units'"),
])  # fmt: skip
def test_swept_values_are_checked_too(overrides, message):
    with pytest.raises(InputError, match=message):
        load_architecture("edge-moe-zcu102").resolve(overrides)


# -- resources against the device -----------------------------------------------------------------


def linear(architecture):
    cascade = workloads.cascade("linear-layer")
    options = mappers.check_options("edge_moe", {})
    shape = {"R": 129, "K": 192, "N": 192}
    mapping = mappers.place(
        "edge_moe", options, cascade=cascade, architecture=architecture, shape=shape
    )
    return evaluate(mapping)


def test_a_design_that_the_device_has_no_room_for():
    file = load_architecture("edge-moe-zcu102")
    found = linear(file.resolve({"TI": np.array([16, 32, 64])}))
    need = found.resources["DSP"]
    assert found.infeasible[0] is None
    assert need[1] - need[0] == 16 * 16 * 2  # products of 32 by 16 bits, 2 slices each
    assert need[2] > 2520
    missing = need[2] - 2520
    expected = (
        f"the design needs {need[2]:,.0f} DSP, and zcu102 has 2,520: {missing:,.0f} are missing"
    )
    assert found.infeasible[2].startswith(expected)
    assert "BRAM18, and zcu102 has 1,824" in found.infeasible[2]  # all that lack are named
    assert np.isnan(found.latency_s).tolist() == [False, need[1] > 2520, True]
    assert found.resources["DSP"][2] == need[2]  # what was too much is still there to be read


def test_the_same_design_on_other_devices():
    for device, fits in (("u280", True), ("k26", False), ("zcu104", False)):
        file = load_architecture({"extends": "edge-moe-zcu102", "device": device, "power_w": 0})
        reason = linear(file.resolve()).infeasible[0]
        assert (reason is None) == fits
        assert fits or f"and {device} has" in reason


def test_a_device_given_inline():
    totals = {"DSP": 3000, "BRAM18": 100, "URAM": 0, "LUT": 1e6, "FF": 1e6}
    device = {"name": "mine", "source": "nowhere", "totals": totals}
    changed = {"extends": "edge-moe-zcu102", "device": device}
    with pytest.raises(InputError, match="another device draws another power"):
        load_architecture(changed)
    file = load_architecture({**changed, "power_w": 20})
    assert "BRAM18, and mine has 100" in linear(file.resolve()).infeasible[0]


def test_other_architectures_take_nothing_of_a_device():
    found = load_architecture("fusemax-cloud").resolve()
    assert (found.resources, found.device, found.device_resources) == ({}, "", {})
