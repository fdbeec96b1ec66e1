"""What designs need of an FPGA."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from explore.spec import Design


@dataclass(frozen=True)
class Resources:
    """What a design needs of a device by kinds, and what the device has of them."""

    design: str
    device: str
    need: Mapping[str, float]
    have: Mapping[str, float]


def resources_of(designs: Iterable[Design]) -> list[Resources]:
    """The designs that are made for an FPGA, with the values of their architecture files."""
    found = []
    for design in designs:
        architecture = design.architecture.resolve({}, design.place)
        if architecture.device:
            need, have = (
                {kind: float(number) for kind, number in numbers.items()}
                for numbers in (architecture.resources, architecture.device_resources)
            )
            found.append(Resources(design.name, architecture.device, need, have))
    return found


__all__ = ["Resources", "resources_of"]
