"""What determines a part, as one short text: the same text, the same part."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from einsum_cascade.expression import Expression
from einsum_cascade.source import Document, Place
from explore.sweeps.block import Range
from explore.sweeps.space import Chunk, content
from explore.sweeps.units import Unit
from workloads import Model

CODE = {  # package -> what in it determines results
    "einsum_cascade": ("*.py",),
    "archs": ("*.py", "devices/*.yaml"),
    "workloads": ("*.py", "networks/*.yaml", "routings/*.yaml", "cascades/layers/*.yaml"),
    "sim": ("*.py",),
    "mappers": ("**/*.py", "data/*"),
    "explore": ("evaluate.py", "networks.py", "points.py", "results.py"),
    "explore.sweeps": ("block.py", "space.py", "units.py", "former.py", "work.py"),
}
_TABLES = (".yaml", ".yml", ".csv")


@lru_cache(maxsize=1)
def code_version() -> str:
    """A hash of the program: its sources, the tables that come with it, and NumPy's version."""
    digest = blake2b(np.__version__.encode(), digest_size=16)
    for package, patterns in CODE.items():
        root = Path(str(files(package)))
        for path in sorted({p for pattern in patterns for p in root.glob(pattern)}):
            digest.update(f"{package}/{path.relative_to(root)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def unit_key(unit: Unit) -> str:
    """A hash of what determines the parts of a unit, the values of its points aside."""
    sampling = unit.sampling
    return _hashed([context_key(unit), canonical([sampling.require, sampling.columns])])


def context_key(unit: Unit) -> str:
    """A hash of what determines the figures of a point, its values aside."""
    grid, design = unit.grid, unit.design
    folders = [Path(design.architecture.document.file).parent, *_base(design.options)]
    parts: dict[str, Any] = {
        "code": code_version(),
        "design": [design.name, design.mapper, design.options, design.cascade],
        "architecture": design.architecture.schema,
        "shape": [design.schema.shape, design.schema.occupancy],
        "grid": [grid.family, grid.kernels, grid.queries, grid.attention, grid.histogram],
        "derive": grid.derive,
        "labels": unit.labels,
        "accounting": unit.accounting,
        # networks of several models are priced together, each point by itself
        "models": grid.models if "network" in grid.kernels else None,
    }
    return _hashed(canonical(parts, folders))


def model_key(model: Model) -> str:
    """A hash of a model, whatever it is called in a spec."""
    return _hashed(canonical(model))


def part_key(unit: Unit, of_unit: str, chunk: Chunk) -> str:
    """The key of the part that holds a chunk of a unit, whose key is `of_unit`."""
    models = [canonical(model) for model in unit.grid.models]
    values = [
        [
            name,
            [models[int(v)] for v in each] if name == "model" and isinstance(each, list) else each,
        ]
        for name, each in content(unit.axes, chunk)
    ]
    drawn = not all(isinstance(each, list) for _, each in values)
    return _hashed([of_unit, values, models if drawn else None])


def _base(options: Any) -> list[Path]:
    base = getattr(options, "base", None)
    return [base] if base is not None else []


def _hashed(value: Any) -> str:
    text = json.dumps(value, separators=(",", ":"), allow_nan=True)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def canonical(value: Any, folders: Iterable[Path] = ()) -> Any:
    """The value as lists and plain values that are the same in every process.

    Where something stands in a file is left out; a table that a text names (relative to one of
    `folders`) is taken with what it holds.
    """
    folders = list(folders)

    def plain(value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, (Place, Document)):
            return None
        if isinstance(value, (str, Path)):
            return _with_content(str(value), folders)
        if isinstance(value, Expression):
            return value.text
        if isinstance(value, Range):
            return [*value, value.low, value.high, value.steps, value.log, value.integer]
        if isinstance(value, (np.ndarray, np.generic)):
            return plain(value.tolist())
        if isinstance(value, BaseModel):
            names = [n for n in type(value).model_fields if n != "base"]  # a folder, not a value
            return [[name, plain(getattr(value, name))] for name in names]
        if is_dataclass(value) and not isinstance(value, type):
            names = [f.name for f in fields(value) if f.name != "file"]  # where, not what
            return [[name, plain(getattr(value, name))] for name in names]
        if isinstance(value, Mapping):
            return [[plain(key), plain(each)] for key, each in value.items()]
        if isinstance(value, (set, frozenset)):
            return sorted((plain(each) for each in value), key=json.dumps)
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        raise TypeError(f"{type(value).__name__} has no canonical form")

    return plain(value)


def _with_content(text: str, folders: list[Path]) -> Any:
    if not text.endswith(_TABLES):
        return text
    for folder in folders:
        path = folder / text
        if path.is_file():
            return ["file", blake2b(path.read_bytes(), digest_size=16).hexdigest()]
    return text
