"""FPGAs: how much of each resource there is; one YAML file a device, or inline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from archs.fields import Name, Strict
from archs.resources import RESOURCES
from einsum_cascade.source import Document, InputError, Place, check, read_yaml

_Total = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Device:
    """An FPGA, the whole of it: a shell, or what a tool cannot place, is not taken off.

    `totals` has every name of `archs.resources.RESOURCES`, each a number of primitives; a block RAM
    of 36 Kb is two of `BRAM18`.
    """

    name: str
    totals: Mapping[str, float]
    source: str
    description: str = ""


class _Totals(Strict):
    DSP: _Total
    BRAM18: _Total
    URAM: _Total
    LUT: _Total
    FF: _Total


class _DeviceSchema(Strict):
    name: Name
    description: str = ""
    source: str = Field(min_length=1)
    totals: _Totals


def list_devices() -> list[str]:
    """Names of the devices that come with the project.

    >>> list_devices()
    ['k26', 'u280', 'zcu102', 'zcu104']
    """
    found = (Path(str(f)) for f in (files("archs") / "devices").iterdir())
    return sorted(f.stem for f in found if f.suffix == ".yaml")


def load_device(
    reference: str | Document | Mapping[str, Any],
    base: Path | None = None,
    place: Place | None = None,
) -> Device:
    """The device of that name, in that file, or given inline.

    `reference` is a name of `list_devices`, a path (relative to `base`), or the mapping itself (a
    document knows the places of its keys, for messages). Raises `InputError` with the place of the
    mistake.

    >>> int(load_device("u280").totals["BRAM18"])
    4032
    """
    if isinstance(reference, str):
        reference = read_yaml(_path(reference, base, place))
    elif not isinstance(reference, Document):
        reference = Document(place.file if place else "<inline>", dict(reference))
    schema = check(_DeviceSchema, reference)
    totals = {name: float(getattr(schema.totals, name)) for name in RESOURCES}
    return Device(schema.name, totals, schema.source, schema.description)


def _path(reference: str, base: Path | None, place: Place | None) -> Path:
    if reference in list_devices():
        return Path(str(files("archs") / "devices" / f"{reference}.yaml"))
    if reference.endswith((".yaml", ".yml")) or "/" in reference:
        given = (base or Path()) / reference
        if not given.is_file():
            raise InputError(f"no device file {str(given)!r}", place)
        return given
    raise InputError(
        f"unknown device {reference!r}", place, allowed=list_devices(), found=reference
    )
