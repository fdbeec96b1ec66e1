"""A mapping that somebody wrote, or that another mapper found, in a YAML file of its own.

`docs/mappings.md` has the notation. What a file says is what is priced: the simulator judges it
like any other mapping.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from archs import Architecture
from einsum_cascade import Cascade
from mappers.written.reading import MappingFile, load_mapping
from mappers.written.writing import write_mapping
from sim import Mapping
from sim.mapping import Number

NAME = "file"
ALL_MEMORIES = True
"""It places tensors in every memory."""


class Options(BaseModel):
    """`file`: the path of the mapping, relative to the spec."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: str
    base: Path | None = Field(default=None, exclude=True)

    @property
    def path(self) -> Path:
        """The file itself."""
        return (self.base or Path()) / self.file


def check_names(options: Options, cascade: Cascade, architecture: Architecture) -> None:
    """Raise `InputError` for a file that names what cascade or architecture do not have."""
    load_mapping(options.path).check_names(cascade, architecture)


def place(
    options: Options, cascade: Cascade, architecture: Architecture, shape: MappingABC[str, Number]
) -> Mapping:
    """The mapping of the file at all points. Raises `InputError` for a point that it is not for."""
    return load_mapping(options.path).place(cascade, architecture, shape)


__all__ = [
    "NAME",
    "MappingFile",
    "Options",
    "check_names",
    "load_mapping",
    "place",
    "write_mapping",
]
