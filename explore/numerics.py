"""Word lengths and table sizes against error: what `explore numerics` does with its spec.

One page of explanation: docs/numerics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from itertools import groupby, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from archs.resources import need_of_adder, need_of_multiplier, need_of_table
from einsum_cascade.expression import parse_expression
from einsum_cascade.source import InputError, check, read_yaml
from explore.schema import FiguresSchema, FileName, Strict
from workloads.numerics import (
    DeltaTable,
    Format,
    cast,
    erf_gelu,
    gate,
    overflowing,
    parse_format,
    single_pass_softmax,
    table_gelu,
)
from workloads.reference import softmax

if TYPE_CHECKING:
    import polars as pl

    from explore.plots.figure import Figure, Line

CSV = "numerics.csv"
MOST_ENTRIES, MOST_LOGITS = 1 << 14, 1 << 22
SPAN, MEAN_SPAN, POINTS_A_STEP = 8, 4, 32
"""GELU's largest error is over [-8, 8], the mean over [-4, 4], at 32 points a step of the table."""


def _listed(raw: Any) -> Any:
    return raw if isinstance(raw, list) else [raw]


def _number(raw: Any) -> float:
    if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
        raise ValueError("a number such as 1/32 is expected")
    return float(parse_expression(str(raw)).evaluate({}))


def _bias(raw: Any) -> float | None:
    if isinstance(raw, str) and raw.isalpha():
        if raw != "running":
            raise InputError(f"unknown bias {raw!r}", allowed=["running", "a number"], found=raw)
        return None
    return _number(raw)


_AtLeastOne = Field(min_length=1)
_Whole = Annotated[int, Field(strict=True, ge=1, le=1 << 20)]
_Deviation = Annotated[float, Field(gt=0, le=1e6)]
_Format = Annotated[Format, BeforeValidator(parse_format)]
_Formats = Annotated[list[_Format], BeforeValidator(_listed), _AtLeastOne]
_Number = Annotated[float, BeforeValidator(_number)]
_Numbers = Annotated[list[_Number], BeforeValidator(_listed), _AtLeastOne]
_Bias = Annotated[float | None, BeforeValidator(_bias)]
_Biases = Annotated[list[_Bias], BeforeValidator(_listed), _AtLeastOne]


class GeluSchema(Strict):
    """Tables of every step, last argument and format of entries; every format of activations."""

    numbers: _Formats
    step: _Numbers
    largest: _Numbers
    entry: _Formats

    @model_validator(mode="after")
    def _buildable(self) -> GeluSchema:
        for (i, step), (j, largest), (k, entry) in product(
            enumerate(self.step), enumerate(self.largest), enumerate(self.entry)
        ):
            at = {"step": i, "largest": j, "entry": k}
            try:
                table = DeltaTable(step, largest, entry)
                if table.entries > MOST_ENTRIES:
                    message = f"a table of {table.entries} entries, more than {MOST_ENTRIES}"
                    raise InputError(message, keys=("step",))
                table.values()
            except InputError as error:
                (key,) = error.keys
                raise InputError(error.message, keys=(key, at[str(key)])) from None
        return self


class SoftmaxSchema(Strict):
    """Rows of normal logits, in every format and with every bias."""

    numbers: _Formats
    bias: _Biases = [None]
    rows: _Whole = 256
    keys: _Whole
    deviation: _Deviation = 1.0

    @model_validator(mode="after")
    def _computable(self) -> SoftmaxSchema:
        _refuse_many(self.rows, "rows", self.keys, "keys")
        for i, bias in enumerate(self.bias):
            for numbers in self.numbers:
                if bias is not None and overflowing(bias, numbers):
                    raise InputError(f"{numbers} does not hold {bias:g}", keys=("bias", i))
        return self


class GateSchema(Strict):
    """Tokens with normal logits of experts, in every format."""

    numbers: _Formats
    tokens: _Whole = 4096
    experts: _Whole
    chosen: _Whole
    deviation: _Deviation = 1.0

    @model_validator(mode="after")
    def _enough(self) -> GateSchema:
        if self.chosen > self.experts:
            raise InputError(f"{self.chosen} chosen of {self.experts} experts", keys=("chosen",))
        _refuse_many(self.tokens, "tokens", self.experts, "experts")
        return self


def _refuse_many(a: int, name: str, b: int, other: str) -> None:
    if a * b > MOST_LOGITS:
        raise InputError(f"{a} {name} of {b} {other}: more than {MOST_LOGITS} logits", keys=(name,))


class NumericsSchema(Strict):
    """A whole spec: one or more of the three studies."""

    name: FileName
    description: str = ""
    seed: Annotated[int, Field(strict=True, ge=0)] = 0
    gelu: GeluSchema | None = None
    softmax: SoftmaxSchema | None = None
    gate: GateSchema | None = None
    figures: FiguresSchema = Field(default_factory=FiguresSchema)

    @model_validator(mode="after")
    def _some_study(self) -> NumericsSchema:
        if not (self.gelu or self.softmax or self.gate):
            raise InputError("a spec of numerics needs gelu, softmax or gate")
        return self


@dataclass(frozen=True)
class Row:
    """A design point: absolute errors against float64; what a study does not have is None.

    `agreement` is the share of tokens with the right experts in the right order. `overflows`
    counts all results that their format could not hold, `exp_overflows` the exponentials of the
    first pass among them. `dsp`, `bram18`, `lut` and `ff` are what a circuit takes of an FPGA that
    gives a result a cycle: a table with its interpolation, or the products and sums of a statistic
    and of the weights, without exponential and reciprocal (`archs.resources`: unvalidated).
    """

    study: str
    numbers: str
    word_bits: int
    error_max: float
    error_mean: float
    entry: str | None = None
    step: float | None = None
    largest: float | None = None
    entries: int | None = None
    table_bits: int | None = None
    bias: str | None = None
    agreement: float | None = None
    exp_overflows: int | None = None
    overflows: int | None = None
    dsp: int = 0
    bram18: int = 0
    lut: int = 0
    ff: int = 0


def load_numerics(path: str | Path) -> NumericsSchema:
    """Read and check a spec. Raises `InputError` with the place of every mistake found."""
    return check(NumericsSchema, read_yaml(path))


def numerics_rows(schema: NumericsSchema) -> Iterator[Row]:
    """All design points in the order of the spec, each study on the same numbers throughout."""
    if schema.gelu is not None:
        yield from _gelu_rows(schema.gelu)
    if schema.softmax is not None:
        yield from _softmax_rows(schema.softmax, np.random.default_rng([schema.seed, 0]))
    if schema.gate is not None:
        yield from _gate_rows(schema.gate, np.random.default_rng([schema.seed, 1]))


def _gelu_rows(study: GeluSchema) -> Iterator[Row]:
    for numbers, entry, largest, step in product(
        study.numbers, study.entry, study.largest, study.step
    ):
        table = DeltaTable(step, largest, entry)
        apart = min(step, 1.0) / POINTS_A_STEP
        points = np.arange(-SPAN, SPAN + apart, apart)
        x = cast(points[~overflowing(points, numbers)], numbers)
        exact = x.to_float()
        error = np.abs(table_gelu(x, table).to_float() - erf_gelu(exact))
        yield Row(
            study="gelu",
            numbers=str(numbers),
            word_bits=numbers.width,
            error_max=float(error.max()),
            error_mean=float(error[np.abs(exact) <= MEAN_SPAN].mean()),
            entry=str(entry),
            step=step,
            largest=largest,
            entries=table.entries,
            table_bits=table.bits,
            **_table_need(table, numbers),
        )


def _softmax_rows(study: SoftmaxSchema, generator: np.random.Generator) -> Iterator[Row]:
    logits = generator.normal(size=(study.rows, study.keys)) * study.deviation
    expected = softmax(logits)
    for bias, numbers in product(study.bias, study.numbers):
        found = single_pass_softmax(cast(logits, numbers), bias)
        error = np.abs(found.weights.to_float() - expected)
        yield Row(
            study="softmax",
            numbers=str(numbers),
            word_bits=numbers.width,
            error_max=float(error.max()),
            error_mean=float(error.mean()),
            bias="running" if bias is None else f"{bias:g}",
            **_lost(found.overflows, logits, numbers),
            **_statistic_need(numbers),
        )


def _gate_rows(study: GateSchema, generator: np.random.Generator) -> Iterator[Row]:
    logits = generator.normal(size=(study.tokens, study.experts)) * study.deviation
    expected = softmax(logits)
    best = np.argsort(-logits, axis=-1, kind="stable")[:, : study.chosen]
    for numbers in study.numbers:
        found = gate(cast(logits, numbers), study.chosen)
        exact = np.take_along_axis(expected, found.experts, axis=-1)
        error = np.abs(found.weights.to_float() - exact)
        yield Row(
            study="gate",
            numbers=str(numbers),
            word_bits=numbers.width,
            error_max=float(error.max()),
            error_mean=float(error.mean()),
            bias="running",
            agreement=float(np.all(found.experts == best, axis=-1).mean()),
            **_lost(found.overflows, logits, numbers),
            **_statistic_need(numbers),
        )


def _lost(found: Mapping[str, int], logits: Any, numbers: Format) -> dict[str, Any]:
    beyond = int(np.count_nonzero(overflowing(logits, numbers)))
    return {"exp_overflows": found["exp"], "overflows": sum(found.values()) + beyond}


def _table_need(table: DeltaTable, numbers: Format) -> dict[str, Any]:
    below = numbers.fraction + int(np.log2(table.step))
    return _summed(need_of_table(table.entry.width, table.entries, below, numbers.width))


def _statistic_need(numbers: Format) -> dict[str, Any]:
    """The product and the three sums of a statistic, the product and the sum of a weight."""
    products = [need_of_multiplier(numbers.width, numbers.width)] * 2
    return _summed(*products, *[need_of_adder(numbers.width)] * 4)


def _summed(*needs: Mapping[str, Any]) -> dict[str, Any]:
    names = ("DSP", "BRAM18", "LUT", "FF")
    return {name.lower(): int(sum(need[name] for need in needs)) for name in names}


def table_of(found: list[Row]) -> pl.DataFrame:
    """The rows as a table, a column for each field."""
    import polars as pl

    names = [field.name for field in fields(Row)]
    columns = {name: [getattr(row, name) for row in found] for name in names}
    return pl.DataFrame(columns, infer_schema_length=None)


def write_numerics(table: pl.DataFrame, folder: Path) -> Path:
    """Write the table as CSV into `folder`; the file written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table.write_csv(folder / CSV)
    except OSError as error:
        raise InputError(f"cannot write to {str(folder)!r}: {error.strerror}") from None
    return folder / CSV


def draw_figures(found: list[Row], folder: Path, how: FiguresSchema) -> list[Path]:
    """Draw the figures into `folder`; the files written."""
    from explore.plots.draw import draw

    folder.mkdir(parents=True, exist_ok=True)
    figures = numerics_figures(found)
    return [path for figure in figures for path in draw(figure, folder, how.width, how.formats)]


def numerics_figures(found: list[Row]) -> list[Figure]:
    """Error against the bits of GELU's table, and against the word length of softmax and gate."""
    from explore.plots.figure import Figure

    tables = [row for row in found if row.study == "gelu"]
    several = len({(row.numbers, row.largest) for row in tables}) > 1
    by_table = _lines(
        tables,
        lambda row: f"{row.entry}" + (f" to {row.largest:g}, {row.numbers}" if several else ""),
        lambda row: (row.table_bits or 0, f"{Fraction(row.step or 0)}"),
    )
    by_word = _lines(
        [row for row in found if row.study != "gelu"],
        lambda row: row.study if row.bias == "running" else f"{row.study}, bias {row.bias}",
        lambda row: (row.word_bits, f"{row.word_bits}"),
    )
    figures = [
        Figure("gelu_table", "lines", lines=by_table, x_label="bits of the table (at points: step)",
               y_label="max |error| of GELU"),
        Figure("word_length", "lines", lines=by_word, x_label="bits of a number",
               y_label="max |error| of a weight"),
    ]  # fmt: skip
    return [figure for figure in figures if figure.lines]


def _lines(
    found: list[Row], name: Callable[[Row], str], point: Callable[[Row], tuple[int, str]]
) -> tuple[Line, ...]:
    """A curve for each name, from its points of (x, label); errors of 0 have no logarithm."""
    from explore.plots.figure import Line
    from explore.plots.front import front

    lines = []
    for title, group in groupby((row for row in found if row.error_max > 0), key=name):
        points = sorted((*point(row), row.error_max) for row in group)
        x, labels, y = zip(*points, strict=True)
        lines.append(Line(title, x, y, labels, front(x, y)))
    return tuple(lines)
