"""FPGAs: packaged, from a file, inline; and mistakes in them."""

from __future__ import annotations

import pytest

from archs.devices import list_devices, load_device
from archs.resources import RESOURCES
from einsum_cascade.source import InputError, Place, parse_yaml

TEXT = """
name: mine
source: a data sheet
totals: {DSP: 10, BRAM18: 20, URAM: 0, LUT: 1000, FF: 2000}
"""


@pytest.mark.parametrize("name", list_devices())
def test_every_packaged_device_is_cited_and_whole(name):
    device = load_device(name)
    assert device.name == name
    assert "AMD DS" in device.source
    assert tuple(device.totals) == RESOURCES
    assert device.totals["FF"] == 2 * device.totals["LUT"]  # in every CLB of UltraScale+


@pytest.mark.parametrize(("name", "totals"), [
    ("zcu102", (2520, 2 * 912, 0, 274_080, 548_160)),
    ("u280", (9024, 2 * 2016, 960, 1_303_680, 2_607_360)),
    ("k26", (1248, 2 * 144, 64, 117_120, 234_240)),
])  # fmt: skip
def test_totals_of_the_data_sheets(name, totals):
    assert tuple(load_device(name).totals.values()) == totals


def test_a_device_from_a_file_inline_and_as_part_of_a_document(tmp_path):
    (tmp_path / "mine.yaml").write_text(TEXT)
    device = load_device("mine.yaml", tmp_path)
    assert (device.name, device.totals["LUT"]) == ("mine", 1000)
    document = parse_yaml(TEXT)
    assert load_device(document) == load_device(document.data) == device
    within = parse_yaml("device:\n  " + TEXT.strip().replace("\n", "\n  "))
    assert load_device(within.part("device")) == device


def test_an_unknown_device_names_the_nearest():
    with pytest.raises(InputError, match=r"unknown device 'zcu103'.*did you mean 'zcu10") as caught:
        load_device("zcu103", place=Place("spec.yaml", 3))
    assert caught.value.place == Place("spec.yaml", 3)


@pytest.mark.parametrize("reference", ["nowhere.yaml", "./zcu102", "", "a/b"])
def test_a_device_that_is_not_there(reference):
    with pytest.raises(InputError):
        load_device(reference)


MISTAKES = {
    "DSP: 10": ("DPS: 10", "did you mean 'DSP'"),
    "DSP: 10, ": ("", "missing key 'DSP'"),
    "LUT: 1000": ("LUT: -1", "at least 0"),
    "FF: 2000": ("FF: .inf", "finite"),
    "source: a data sheet\n": ("", "missing key 'source'"),
    "a data sheet": ("''", "at least 1 letter"),
    "name: mine": ("name: my board", "letters, digits"),
}


@pytest.mark.parametrize("old", MISTAKES)
def test_mistakes_say_where_and_what(old, tmp_path):
    new, message = MISTAKES[old]
    file = tmp_path / "mine.yaml"
    file.write_text(TEXT.replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        load_device(str(file))
    assert caught.value.place.file == str(file)
