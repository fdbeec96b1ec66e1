"""Published tables that come with the project, as arrays of design points.

Sources and units: explore/data/published/README.md.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

import workloads
from einsum_cascade.expression import parse_quantity
from workloads import Model

Array = NDArray[Any]
Rows = Sequence[dict[str, str]]

MODELS = {"BERT": "bert-base", "TrXL": "trxl-wt103", "T5": "t5-small", "XLM": "xlm"}
"""The names of the tables for the models of `workloads`."""

BATCH = 64


def published(name: str) -> list[dict[str, str]]:
    """The rows of a published table, as text."""
    text = (files("explore") / "data" / "published" / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def column(rows: Rows, name: str) -> Array:
    """A column of numbers, shape (rows,)."""
    return np.array([float(row[name]) for row in rows])


def lengths_of(rows: Rows) -> Array:
    """Sequence lengths in tokens, shape (rows,)."""
    texts = (row["seq_len"] for row in rows)
    return np.array([int(parse_quantity(int(t) if t.isdigit() else t)) for t in texts])


def models_of(names: Sequence[str]) -> tuple[Model, ...]:
    """The models that the tables name."""
    return tuple(workloads.model(MODELS[name]) for name in names)


def points_named(rows: Rows) -> list[str]:
    """A name for each row."""
    return [f"{row.get('model', row.get('models'))} {row['seq_len']}" for row in rows]


def shape_of(rows: Rows, name: str = "model") -> dict[str, Array]:
    """Extents of the attention ranks at each row; `name` is the column that names the model."""
    models = models_of([row[name] for row in rows])
    lengths = lengths_of(rows)
    shape: dict[str, Array] = {
        k: np.array([getattr(m, k) for m in models]) for k in ("H", "E", "F")
    }
    return shape | {"B": np.full(len(rows), BATCH), "M": lengths, "P": lengths}
