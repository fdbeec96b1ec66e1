"""FPGA resources: estimates against counts by hand and brute force, their properties, the block."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archs.fields import Strict
from archs.resources import (
    RESOURCES,
    bram18_of,
    dsp_of_multiplier,
    lut_of_lutram,
    need_of_adder,
    need_of_buffer,
    need_of_divider,
    need_of_multiplier,
    need_of_registers,
    need_of_table,
    uram_of,
)
from archs.resources_schema import (
    ComponentSchema,
    need_by_component,
    need_of,
    resource_numbers,
)
from einsum_cascade.source import InputError, check, parse_yaml

BITS = st.integers(0, 80)
DEPTH = st.integers(0, 40_000)
BANKS = st.integers(0, 8)
ESTIMATES = {
    "multiplier of slices": (need_of_multiplier, (BITS, BITS)),
    "multiplier of LUTs": (lambda a, b: need_of_multiplier(a, b, "lut"), (BITS, BITS)),
    "adder": (need_of_adder, (BITS,)),
    "registers": (need_of_registers, (BITS,)),
    "divider": (need_of_divider, (BITS, BITS)),
    "buffer": (need_of_buffer, (BITS, DEPTH, BANKS)),
    "table": (need_of_table, (BITS, DEPTH, BITS, BITS)),
    "block RAM": (lambda *a: need_of_buffer(*a, kind="bram"), (BITS, DEPTH, BANKS)),
    "UltraRAM": (lambda *a: need_of_buffer(*a, kind="uram"), (BITS, DEPTH, BANKS)),
    "LUTs as memory": (lambda *a: need_of_buffer(*a, kind="lutram"), (BITS, DEPTH, BANKS)),
}
MONOTONE = [name for name in ESTIMATES if name not in ("buffer", "table")]  # from LUTs to block RAM


def numbers(need):
    return {name: float(n) for name, n in need.items()}


# -- DSP slices -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "slices"), [
    ((32, 16), 2), ((32, 32), 4), ((8, 16), 1), ((27, 18), 1), ((28, 18), 2), ((27, 19), 2),
    ((35, 35), 4), ((18, 35), 2), ((53, 18), 2), ((54, 18), 3), ((53, 53), 8), ((1, 1), 1),
    ((0, 16), 0),
])  # fmt: skip
def test_slices_counted_by_hand(bits, slices):
    """27 bits, and 26 more with each further piece; 18 bits, and 17 more."""
    assert dsp_of_multiplier(*bits) == dsp_of_multiplier(*bits[::-1]) == slices


def cut(bits, port):
    """Pieces of a signed number, cut off one by one from below."""
    pieces = 1
    while bits > port:
        bits, pieces = bits - (port - 1), pieces + 1
    return pieces


@given(st.integers(1, 120), st.integers(1, 120))
def test_slices_by_cutting(a, b):
    best = min(cut(a, 27) * cut(b, 18), cut(a, 18) * cut(b, 27))
    assert dsp_of_multiplier(a, b) == best


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1))
def test_four_slices_multiply_32_by_32_bits(a, b):
    """The pieces that are counted fit the ports, and their products add up to the product."""
    assert dsp_of_multiplier(32, 32) == 4
    pieces_a = [(a >> 26, 26), (a & (2**26 - 1), 0)]
    pieces_b = [(b >> 17, 17), (b & (2**17 - 1), 0)]
    assert all(-(2**26) <= piece < 2**26 for piece, _ in pieces_a)
    assert all(-(2**17) <= piece < 2**17 for piece, _ in pieces_b)
    assert sum((x * y) << (i + j) for x, i in pieces_a for y, j in pieces_b) == a * b


# -- memories -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("memory", "blocks"), [
    ((36, 512, 1), 1), ((37, 512, 1), 2), ((36, 513, 1), 2), ((18, 1024, 1), 1),
    ((9, 2048, 1), 1), ((4, 4096, 1), 1), ((2, 8192, 1), 1), ((1, 16384, 1), 1),
    ((256, 576, 16), 240),  # 15 of 1Kx18 a bank; 16 of 512x36
    ((256, 24, 4), 32), ((72, 512, 3), 6), ((0, 512, 1), 0), ((8, 0, 1), 0), ((8, 8, 0), 0),
])  # fmt: skip
def test_block_rams_counted_by_hand(memory, blocks):
    assert bram18_of(*memory) == blocks


@given(st.integers(1, 600), st.integers(1, 70_000), st.integers(1, 20))
def test_block_rams_by_trying_every_shape(width, depth, banks):
    shapes = [(512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1)]
    best = min(ceil(width / w) * ceil(depth / d) for d, w in shapes)
    found = bram18_of(width, depth, banks)
    assert found == banks * best
    assert found * 18 * 1024 >= banks * width * depth


def test_ultra_rams_and_lutrams_counted_by_hand():
    assert uram_of(72, 4096) == 1
    assert uram_of(73, 4097, 2) == 8
    assert lut_of_lutram(32, 64) == 32
    assert lut_of_lutram(32, 65, 3) == 192


@pytest.mark.parametrize(("kind", "need"), [
    ("auto", {"LUT": 16}), ("lutram", {"LUT": 16}), ("bram", {"BRAM18": 1}), ("uram", {"URAM": 1}),
])  # fmt: skip
def test_what_a_small_memory_is_made_of(kind, need):
    assert numbers(need_of_buffer(16, 64, kind=kind)) == dict.fromkeys(RESOURCES, 0) | need


def test_a_memory_of_1024_bits_is_the_largest_of_luts():
    need = need_of_buffer(16, np.array([64, 65]))
    assert need["LUT"].tolist() == [16, 0]
    assert need["BRAM18"].tolist() == [0, 1]


# -- logic ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("found", "need"), [
    (need_of_adder(32), {"LUT": 32, "FF": 32}),
    (need_of_registers(24), {"FF": 24}),
    (need_of_multiplier(18, 27), {"DSP": 1}),
    (need_of_multiplier(32, 16), {"DSP": 2, "LUT": 17, "FF": 48}),
    (need_of_multiplier(4, 8, "lut"), {"LUT": 32, "FF": 24}),
    (need_of_divider(8, 4), {"LUT": 40, "FF": 128}),
    (need_of_divider(8, 0), {}),
    (need_of_table(22, 177, 17, 32), {"DSP": 1, "BRAM18": 1, "LUT": 128, "FF": 128}),
    (need_of_table(10, 100, -3, 8), {"DSP": 1, "LUT": 20 + 32, "FF": 32}),
])  # fmt: skip
def test_logic_counted_by_hand(found, need):
    assert numbers(found) == dict.fromkeys(RESOURCES, 0) | need


# -- every estimate -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATES)
@given(data=st.data())
def test_an_array_gives_what_its_entries_give(name, data):
    estimate, sizes = ESTIMATES[name]
    points = data.draw(st.lists(st.tuples(*sizes), min_size=1, max_size=6))
    together = estimate(*(np.array(axis, dtype=float) for axis in zip(*points, strict=True)))
    assert tuple(together) == RESOURCES
    for i, point in enumerate(points):
        one = numbers(estimate(*point))
        assert {n: float(np.broadcast_to(v, len(points))[i]) for n, v in together.items()} == one
        assert all(v >= 0 and v == int(v) for v in one.values())


@pytest.mark.parametrize("name", MONOTONE)
@given(data=st.data())
def test_more_never_needs_less(name, data):
    estimate, sizes = ESTIMATES[name]
    point = data.draw(st.tuples(*sizes))
    more = tuple(size + data.draw(st.integers(0, 70)) for size in point)
    less, much = numbers(estimate(*point)), numbers(estimate(*more))
    assert all(less[resource] <= much[resource] for resource in RESOURCES)


@given(BITS, DEPTH, st.integers(1, 5000))
def test_a_deeper_memory_never_needs_fewer_block_rams(width, depth, more):
    ours, theirs = need_of_buffer(width, depth), need_of_buffer(width, depth + more)
    assert ours["BRAM18"] <= theirs["BRAM18"]


# -- the block of an architecture file ------------------------------------------------------------


class File(Strict):
    resources: dict[str, ComponentSchema]


def components(text):
    return check(File, parse_yaml("resources:\n" + text, "a.yaml")).resources


BLOCK = """
  products: {count: TI*TO, multiplier: {widths: [formats.activation, formats.weight]}}
  sums: {count: TO, adder: {width: 32}}
  small: {multiplier: {widths: [4, 4], kind: lut}}
  flags: {registers: {width: 5}}
  quotient: {divider: {dividend: 8, divisor: 4}}
  curve: {count: 3, table: {entry: 22, entries: 177, below: 17, width: 32}}
  weights: {count: 2, buffer: {width: TI*formats.weight, depth: 576, banks: TO, kind: bram}}
  port: {count: 5, given: {LUT: 10*TO, FF: {value: 3, source: a report}}, inferred: a guess}
"""


def resolved(block, **values):
    """The number at each path, of expressions over `values` (`formats_weight` for a dotted one)."""
    names = {name.replace("formats_", "formats."): value for name, value in values.items()}
    found = {}
    for path, number in resource_numbers(block):
        found[path] = number.evaluate(names) if hasattr(number, "evaluate") else number
    return found.__getitem__


VALUES = {"TI": 16, "TO": 16, "formats_activation": 32, "formats_weight": 16}


def test_every_number_of_a_block_has_a_path():
    numbers_found = dict(resource_numbers(components(BLOCK)))
    assert list(numbers_found)[:4] == [
        "resources.products.count",
        "resources.products.multiplier.widths.0",
        "resources.products.multiplier.widths.1",
        "resources.sums.count",
    ]
    assert numbers_found["resources.products.multiplier.widths.1"].text == "formats.weight"
    assert numbers_found["resources.sums.adder.width"] == 32
    assert numbers_found["resources.weights.buffer.banks"].text == "TO"
    assert numbers_found["resources.port.given.FF"] == 3
    assert "resources.port.given.DSP" not in numbers_found
    assert not [path for path in numbers_found if path.endswith("kind")]


def test_the_need_of_a_block_is_that_of_its_components():
    block = components(BLOCK)
    each = need_by_component(block, resolved(block, **VALUES))
    assert numbers(each["products"]) == numbers(
        {"DSP": 512, "BRAM18": 0, "URAM": 0, "LUT": 256 * 17, "FF": 256 * 48}
    )
    assert each["small"]["LUT"] == 16
    assert each["weights"]["BRAM18"] == 2 * 16 * 15
    assert numbers(each["curve"]) == {"DSP": 3, "BRAM18": 3, "URAM": 0, "LUT": 384, "FF": 384}
    assert numbers(each["port"]) == dict.fromkeys(RESOURCES, 0) | {"LUT": 800, "FF": 15}
    assert numbers(need_of(block, resolved(block, **VALUES))) == {
        "DSP": 512 + 3,
        "BRAM18": 480 + 3,
        "URAM": 0,
        "LUT": 256 * 17 + 16 * 32 + 16 + 40 + 384 + 800,
        "FF": 256 * 48 + 16 * 32 + 16 + 5 + 128 + 384 + 15,
    }


def test_design_points_are_an_axis():
    block = components(BLOCK)
    sweep = {"TI": np.array([8, 16, 20]), "formats_weight": np.array([8, 16, 32])}
    together = need_of(block, resolved(block, **VALUES | sweep))
    for i in range(3):
        point = {name: axis[i] for name, axis in sweep.items()}
        one = numbers(need_of(block, resolved(block, **VALUES | point)))
        assert {n: float(np.broadcast_to(v, 3)[i]) for n, v in together.items()} == one


def test_nothing_needs_nothing():
    assert need_of({}, {}.__getitem__) == dict.fromkeys(RESOURCES, 0)


MISTAKES = {
    "x: {adder: {width: 3}, registers: {width: 3}}": "one kind, found adder and registers",
    "x: {count: 3}": "one of the kinds; allowed: multiplier, adder",
    "x: {given: {LUT: 3}}": "need a source, or what they are inferred from",
    "x: {given: {}, source: a}": "at least one of DSP",
    "x: {given: {LUTS: 3}, source: a}": "did you mean 'LUT'",
    "x: {multiplier: {widths: [3]}}": "at least 2 items",
    "x: {multiplier: {widths: [3, 4, 5]}}": "at most 2 items",
    "x: {multiplier: {widths: [3, -4]}}": "not an arithmetic|at least 0",
    "x: {multiplier: {widths: [3, 4], kind: dps}}": "did you mean 'dsp'",
    "x: {multiplyer: {widths: [3, 4]}}": "did you mean 'multiplier'",
    "x: {buffer: {width: 3}}": "missing key 'depth'",
    "x: {buffer: {width: 3, depth: 4, kind: ultra}}": "allowed: auto, bram, uram, lutram",
    "x: {adder: {width: 32 bit}}": "such as '4K'",
    "x: {adder: {width: {value: 3}}}": "needs a source",
    "x: {adder: 3}": "mapping",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_say_where_and_what(text):
    with pytest.raises(InputError, match=MISTAKES[text]) as caught:
        components(f"  {text}\n")
    assert (caught.value.place.file, caught.value.place.line) == ("a.yaml", 2)


def test_a_kind_gives_way_to_another():
    (one,) = components("  x: {adder: null, registers: {width: 3}}\n").values()
    assert one.kind == "registers"
