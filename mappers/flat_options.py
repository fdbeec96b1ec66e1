"""What a spec may say to the `flat` mapper: search, a mapping, or a table of mappings."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from einsum_cascade.expression import parse_quantity
from einsum_cascade.source import InputError, Place
from sim import Mapping

Stationarity = Literal["output", "input", "weight"]
STATIONARY = get_args(Stationarity)
Size = Annotated[
    Annotated[int, Field(ge=1, le=2**60)], BeforeValidator(lambda v: int(parse_quantity(v)))
]


class Pinned(BaseModel):
    """A mapping: rows of a tile (none: all rows of a head), stationarities, what stays on chip."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    row_tile: Size | None = None
    stationarity: dict[str, Stationarity]
    on_chip: list[str] = Field(default_factory=list)

    def check(self, tensors: Iterable[str], products: Iterable[str]) -> None:
        """Raise `InputError` for a tensor or a product that the cascade does not have."""
        known = list(tensors)
        for name in self.on_chip:
            if name not in known:
                raise InputError(f"on_chip names {name!r}", allowed=known, found=name)
        for name in products:
            if name not in self.stationarity:
                raise InputError(f"stationarity of {name} is missing", allowed=STATIONARY)
        for name in set(self.stationarity) - set(products):
            raise InputError(f"stationarity names {name!r}", allowed=products, found=name)


class Options(BaseModel):
    """`mapping`: search (default), published, one mapping, a YAML file of one, a CSV file of many.

    `spill` says what gives way when a row tile does not fit: the row itself at every pass over it
    (`rows`, as in FuseMax's evaluation of FLAT), or everything that is staged (`all`, as in FLAT's
    simulator, which leaves the softmax out). With `no_worse_than` a search takes only what is
    neither slower nor moves more than that mapping.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    mapping: Literal["search", "published"] | Path | Pinned = "search"
    spill: Literal["rows", "all"] = "rows"
    no_worse_than: Literal["published"] | Path | Pinned | None = None
    base: Path | None = Field(default=None, exclude=True)


def read_table(
    table_file: str | Path,
    base: Path | None,
    mapping: Mapping,
    points: tuple[int, ...],
    products: tuple[str, str],
    tensors: tuple[str, ...],
) -> list[Pinned]:
    """The mapping of each point from a table, found by platform and shape.

    The table names the products QK and AV and the tensors Q, K, QK, V, AV, as FLAT does; `products`
    and `tensors` are what the cascade calls them.

    Raises `InputError` when the file cannot be read or a point is not in it.
    """
    if table_file == "published":
        file = str(files("mappers") / "data" / "flat_published_mappings.csv")
        shown = "the published mappings"
    else:
        file = shown = str((base or Path()) / table_file)
    try:
        with open(file, encoding="utf-8", newline="") as stream:
            lines = [line for line in stream if not line.startswith("#")]
    except OSError as error:
        raise InputError(f"no table of mappings: {error.strerror}", Place(file)) from None
    except UnicodeDecodeError as error:
        raise InputError(f"no table of mappings: {error.reason}", Place(file)) from None
    table = {}
    own = dict(zip(("Q", "K", "QK", "V", "AV"), tensors, strict=True))
    for number, row in enumerate(csv.DictReader(lines), start=1):
        try:
            key = tuple(int(row[k]) for k in _KEYS)
            table[key] = Pinned(
                row_tile=int(row["row_tile"]) or None,
                stationarity={
                    products[0]: row["qk_stationarity"],  # type: ignore[dict-item]
                    products[1]: row["av_stationarity"],  # type: ignore[dict-item]
                },
                on_chip=[own[name] for name in row["on_chip"].split()],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"row {number} is no mapping: {error}", Place(file)) from None
    found = []
    for key in _keys(mapping, points):
        if key not in table:
            wanted = ", ".join(f"{k} = {v}" for k, v in zip(_KEYS, key, strict=True))
            raise InputError(f"{shown} have none for {wanted}; use mapping: search")
        found.append(table[key])
    return found


_KEYS = ("array_dim", "buffer_bytes", "H", "E", "F", "seq_len")


def _keys(mapping: Mapping, points: tuple[int, ...]) -> list[tuple[int, ...]]:
    architecture, shape = mapping.architecture, mapping.shape
    if np.any(shape["M"] != shape.get("P", shape["M"])):
        raise InputError("tables of mappings hold as many queries as keys; use mapping: search")
    columns: list[Any] = [
        next(a for a in architecture.arrays if len(a.shape) == 2).shape[0],
        architecture.memories[1].size_bytes,
        *(shape.get(k, 0) for k in ("H", "E", "F", "M")),
    ]
    flat = [np.broadcast_to(np.asarray(c, dtype=np.float64), points).ravel() for c in columns]
    return [tuple(int(v) for v in row) for row in zip(*flat, strict=True)]
