"""Architecture files: extending, expressions, sweeps, areas against published ones, mistakes."""

from __future__ import annotations

import numpy as np
import pytest

from archs import list_architectures, load_architecture
from einsum_cascade.source import InputError, Place


@pytest.mark.parametrize("name", list_architectures())
def test_every_packaged_file_cites_its_numbers(name):
    file = load_architecture(name)
    assert file.schema.source
    found = file.resolve()
    if file.schema.kind == "fpga-template":  # what it takes of its device is its size
        assert all(found.resources[kind] <= have for kind, have in found.device_resources.items())
    else:
        assert found.area_um2 > 0


def test_areas_of_the_2d_pe_that_figure_12_publishes():
    """um^2 a PE at register depths 4 (n = 16, 32, 64), 8, 16 and 32 words (n = 512), E = 64."""
    published = np.array([18408.7, 18420.2, 18432.0, 18443.7])
    words = np.array([4, 8, 16, 32])
    found = load_architecture("fusemax-cloud").resolve({"arrays.2d.registers.words": words})
    assert found.array("2d").pe_area_um2 == pytest.approx(published, rel=1e-4)


def test_fusemax_is_the_smaller_one():
    ours, theirs = (load_architecture(f"{n}-cloud").resolve().area_um2 for n in ("fusemax", "flat"))
    assert 1 - ours / theirs == pytest.approx(0.064, abs=0.001)


def test_exponentiation_is_six_macs():
    exp = load_architecture("fusemax-cloud").resolve().array("2d").operations["exp"]
    assert (exp.cycles, exp.energy_pj) == (6, pytest.approx(6 * 17.1645))
    assert dict(exp.elementary) == {"mac": 6}


def test_parameters_reach_everything_that_names_them():
    found = load_architecture("fusemax-cloud").resolve({"array_dim": np.array([16, 512])})
    assert found.array("2d").pes.tolist() == [256, 512**2]
    assert found.array("1d").pes.tolist() == [16, 512]
    assert found.memory("buffer").access_words.tolist() == [16, 512]
    one_word = found.memory("buffer").read_energy_pj / found.memory("buffer").access_words
    assert one_word[0] == one_word[1]


def test_extending_replaces_single_values():
    edge, cloud = (load_architecture(f"flat-{p}").resolve() for p in ("edge", "cloud"))
    assert (
        edge.memory("DRAM").bandwidth_bytes_per_s == cloud.memory("DRAM").bandwidth_bytes_per_s / 8
    )
    assert edge.array("2d").shape == (32, 32)
    assert edge.array("1d").operations["exp"] == cloud.array("1d").operations["exp"]


def test_quantities_and_files(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: fusemax-cloud\nname: a\nclock_hz: 2 GHz\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\nname: b\nword_bytes: 1\n")
    found = load_architecture("b.yaml", tmp_path)
    assert found.extends == ("a.yaml", "fusemax-cloud")
    assert (found.resolve().clock_hz, found.resolve().word_bytes) == (2e9, 1)


def test_an_unknown_override_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'array_dim'") as caught:
        load_architecture("fusemax-cloud").resolve({"arraydim": 3}, Place("spec.yaml", 9))
    assert caught.value.place == Place("spec.yaml", 9)


HEAD = "extends: fusemax-cloud\nname: mine\n"
MISTAKES = {
    "clock: 1 GHz": "did you mean 'clock_hz'",
    "clock_hz: fast GHz": "not an arithmetic expression",
    "clock_hz: 1 GB/s": "such as '940 MHz'",
    "clock_hz: 0": "at least",
    "clock_hz: -3 GHz": "not an arithmetic|at least|such as",
    "clock_hz: [1]": "a number in Hz",
    "clock_hz: true": "a number in Hz",
    "clock_hz: .inf": "at least",
    "clock_hz: .nan": "at least",
    "clock_hz: {value: 1 GHz}": "source",
    "clock_hz: {value: 1 GHz, sauce: x}": "cited number",
    "clock_hz: {source: x}": "cited number",
    "clock_hz: 1/0": "not a finite number",
    "clock_hz: nothing*2": "unknown name 'nothing'",
    "memories: {buffer: {size: 1 MiB}}": "did you mean 'size_bytes'",
    "memories: {buffer: {size_bytes: 1 MHz}}": "such as '16 MiB'",
    "memories: {third: {read_energy_pj: 1, write_energy_pj: 1}}": "'third' needs size_bytes",
    "memories: {DRAM: {bandwidth_bytes_per_s: 0}}": "at least",
    "arrays: {2d: {shape: []}}": "at least 1 item",
    "arrays: {2d: {shape: [-1+0, 4]}}": r"arrays.2d.shape.0 must be at least 1, found -1",
    "clock_hz: 3-4": "clock_hz must be at least 1e-30, found -1",
    "arrays: {2d: {shape: [0.5, 4]}}": "at least 1",
    "arrays: {2d: {operations: {exp: {sequence: {mack: 6}}}}}": "did you mean 'mac'",
    "arrays: {1d: {operations: {log: {unit: mac}}}}": "needs energy_pj",
    "arrays: {1d: {operations: {log: {energy_pj: 1}}}}": "needs a unit or a sequence",
    "arrays: {'3 d': {shape: [4]}}": "missing key|pattern",
    "links: [{from: 2d}]": "missing key 'to'",
    "links: [{from: 2d, to: 1e}]": "unknown array '1e'; allowed: 2d, 1d",
    "parameters: {array_dim: 2*array_dim}": "depends on itself",
    "kind: fpga": "spatial-array",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_say_where_and_what(text, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"{HEAD}{text}\n")
    with pytest.raises(InputError, match=MISTAKES[text]) as caught:
        load_architecture(str(file))
    assert caught.value.place.file == str(file)
    assert caught.value.place.line == 3


@pytest.mark.parametrize(("overrides", "message"), [
    ({"clock_hz": np.nan}, "clock_hz must be at least"),
    ({"array_dim": 2.5}, r"shape.0 must be a whole number, found 2.5"),
    ({"array_dim": np.array([16, -16])}, "array_dim must be at least 0, found -16"),
])  # fmt: skip
def test_swept_values_are_checked_too(overrides, message):
    with pytest.raises(InputError, match=message):
        load_architecture("fusemax-cloud").resolve(overrides, Place("spec.yaml", 3))


def test_what_extends_itself(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\nname: a\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\nname: b\n")
    with pytest.raises(InputError, match="goes on too long"):
        load_architecture("a.yaml", tmp_path)


@pytest.mark.parametrize("name", ["flat-cloud", "flat-edge", "fusemax-cloud"])
def test_a_dram_access_is_64_bits_at_any_word_size(name):
    """The energy of a byte does not depend on how long the words are that it is part of."""
    found = load_architecture(name).resolve({"word_bytes": np.array([1, 2, 4])})
    assert found.memory("DRAM").access_words.tolist() == [8, 4, 2]
    bytes_each = found.memory("DRAM").access_words * found.word_bytes
    assert (found.memory("DRAM").read_energy_pj / bytes_each == 249.6 / 8).all()


@pytest.mark.parametrize(
    ("inline", "nearest"),
    [
        ({"memories": {"bufer": {"size_bytes": "8 MiB"}}}, "buffer"),
        ({"arrays": {"2D": {"shape": [4, 4]}}}, "2d"),
    ],
)
def test_a_typo_in_a_name_that_is_extended_is_no_new_memory(inline, nearest):
    with pytest.raises(InputError, match=f"a new one needs.*did you mean '{nearest}'"):
        load_architecture({"extends": "fusemax-cloud"} | inline)


def test_a_new_memory_says_all_that_it_needs():
    new = {"size_bytes": "64 KiB", "read_energy_pj": 1, "write_energy_pj": 1}
    found = load_architecture({"extends": "fusemax-cloud", "memories": {"buffer2": new}})
    assert found.resolve().memories[2].size_bytes == 65536


def test_a_sequence_gives_way_to_a_unit():
    def with_exp(**changes):
        array = {"units": {"exp": {"area_um2": 1}}, "operations": {"exp": changes}}
        return load_architecture({"extends": "fusemax-cloud", "arrays": {"2d": array}})

    with pytest.raises(InputError, match="write `sequence: null`"):
        with_exp(unit="exp", energy_pj=2)
    found = with_exp(unit="exp", energy_pj=2, sequence=None).resolve()
    assert found.array("2d").operations["exp"].energy_pj == 2


def test_a_sequence_of_sequences():
    def with_operations(**own):
        return load_architecture(
            {"extends": "fusemax-cloud", "arrays": {"2d": {"operations": own}}}
        ).resolve()

    phi = with_operations(phi={"sequence": {"exp": 2, "add": 1}}).array("2d").operations["phi"]
    assert dict(phi.elementary) == {"mac": 12, "add": 1}
    assert phi.cycles == 13
    assert phi.energy_pj == pytest.approx(12 * 17.1645 + 8.3395)
    with pytest.raises(InputError, match="a sequence of itself: a -> b -> a"):
        with_operations(a={"sequence": {"b": 1}}, b={"sequence": {"a": 1}})


@pytest.mark.parametrize("name", ["array_dims", "ARRAY_DIM", "lanes"])
def test_a_parameter_that_nothing_uses_is_refused(name):
    with pytest.raises(InputError, match=f"depends on parameter '{name}'") as error:
        load_architecture({"extends": "flat-cloud", "parameters": {name: 16}})
    assert "array_dim" in str(error.value)
    used = {"extends": "flat-cloud", "parameters": {name: 16}, "clock_hz": f"{name}*1e6"}
    assert load_architecture(used).resolve().parameters[name] == 16
