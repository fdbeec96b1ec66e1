"""Architecture files that are wrong as a whole, sweeps, and expressions that need each other."""

from __future__ import annotations

import numpy as np
import pytest

from archs import load_architecture
from einsum_cascade import InputError

HEAD = "extends: fusemax-cloud\nname: mine\n"
WRONG = {
    "empty": b"",
    "a list": b"- extends: fusemax-cloud\n",
    "a text": b"fusemax-cloud\n",
    "not UTF-8": b"extends: fusemax-cloud\nname: \xff\xfe\n",
    "not YAML": b"extends: [fusemax-cloud\nname: mine\n",
    "a key twice": b"extends: fusemax-cloud\nname: a\nname: b\n",
    "extends nothing known": b"extends: fusemax-clod\nname: mine\n",
    "extends a number": b"extends: 3\nname: mine\n",
    "nothing but a name": b"name: mine\n",
    "a python object": b"!!python/object/apply:os.system ['true']\n",
    "memories as a list": HEAD.encode() + b"memories: [buffer]\n",
    "a memory as a number": HEAD.encode() + b"memories: {buffer: 3}\n",
    "an array as text": HEAD.encode() + b"arrays: {2d: big}\n",
    "three dimensions": HEAD.encode() + b"arrays: {2d: {shape: [4, 4, 4]}}\n",
    "an endless inner memory": HEAD.encode() + b"memories: {buffer: {size_bytes: null}}\n",
    "no bandwidth outside": HEAD.encode() + b"memories: {DRAM: {bandwidth_bytes_per_s: null}}\n",
    "an unknown unit": HEAD.encode()
    + b"arrays: {2d: {operations: {max: {unit: maxx, energy_pj: 1}}}}\n",
    "a loop of two": HEAD.encode() + b"parameters: {array_dim: side*2, side: array_dim/2}\n",
    "a call": HEAD.encode() + b"parameters: {array_dim: \"__import__('os')\"}\n",
    "a huge power": HEAD.encode() + b"parameters: {array_dim: 10**10**10}\n",
    "huge": HEAD.encode() + b"clock_hz: 1.0e+300\n",
    "an energy below zero": HEAD.encode() + b"memories: {DRAM: {read_energy_pj: -1}}\n",
    "no PE": HEAD.encode() + b"parameters: {array_dim: 0}\n",
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_refused_with_its_place(what, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(WRONG[what])
    with pytest.raises(InputError) as caught:
        load_architecture(str(file))
    assert caught.value.place is not None
    assert caught.value.place.file == str(file)


@pytest.mark.parametrize("reference", ["nowhere.yaml", "./fusemax-cloud", "fusemax", "", "a/b"])
def test_an_architecture_that_is_not_there(reference):
    with pytest.raises(InputError):
        load_architecture(reference)


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("array_dims", "array_dim"),
        ("memories.bufer.size_bytes", "memories.buffer.size_bytes"),
        ("arrays.2d.operations.exp.sequence.mca", "arrays.2d.operations.exp.sequence.mac"),
        ("clock", "clock_hz"),
    ],
)
def test_an_unknown_path_names_the_nearest(path, nearest):
    with pytest.raises(InputError, match=f"did you mean '{nearest}'"):
        load_architecture("fusemax-cloud").resolve({path: 1})


def test_every_parameter_can_be_swept_and_reaches_the_hardware():
    """One at a time, the two entries of a sweep are what each value alone gives."""
    file = load_architecture("fusemax-cloud")
    usual = file.resolve().parameters
    assert set(usual) == set(file.parameters())
    for path, value in usual.items():
        if not np.isfinite(value):
            continue
        pair = np.array([value, 2 * value + 1])
        swept = file.resolve({path: pair})
        for i, single in enumerate(pair):
            alone = file.resolve({path: single})
            area = np.broadcast_to(swept.area_um2, 2)[i]
            assert area == pytest.approx(alone.area_um2, rel=1e-12), path
            for name, number in alone.parameters.items():
                assert np.broadcast_to(swept.parameters[name], 2)[i] == pytest.approx(number), path
        assert swept.parameters[path].tolist() == pair.tolist()


def test_sequences_cost_what_their_parts_do():
    arch = load_architecture("fusemax-cloud").resolve(
        {
            "arrays.1d.operations.exp.sequence.mac": np.array([6, 8]),
            "arrays.1d.operations.mac.cycles": 2,
            "arrays.1d.operations.mac.energy_pj": 3.0,
        }
    )
    exp = arch.array("1d").operations["exp"]
    assert np.asarray(exp.cycles).tolist() == [12, 16]
    assert exp.energy_pj.tolist() == [18, 24]


def test_an_inline_architecture_changes_only_what_it_names():
    usual = load_architecture("fusemax-cloud").resolve().parameters
    inline = {
        "extends": "fusemax-cloud",
        "memories": {"buffer": {"size_bytes": "8 MiB", "area_um2": 7}},
    }
    found = load_architecture(inline).resolve().parameters
    changed = {k for k in usual if usual[k] != found[k]}
    assert changed == {"memories.buffer.size_bytes", "memories.buffer.area_um2"}
    assert found["memories.buffer.size_bytes"] == 8 * 1024**2
