"""GELU as the rectifier less a small even function from a table, as Edge-MoE computes it.

gelu(x) = max(x, 0) - delta(|x|), delta(x) = x (1 - Phi(x)), which is 0 at 0 and soon 0 again: few
entries do, with straight lines between them. Source: Edge-MoE (Sarkar et al., ICCAD 2023, arXiv
2305.18691), its published code, src/gelu.cpp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from einsum_cascade.source import InputError
from workloads.numerics.fixed import Array, Fixed, cast, overflowing, where
from workloads.numerics.formats import Format

_ERFC = np.vectorize(math.erfc, otypes=[np.float64])


def delta(x: Any) -> Array:
    """max(x, 0) - gelu(x) for x >= 0, float64.

    >>> delta([0, 1]).round(6).tolist()
    [0.0, 0.158655]
    """
    x = np.asarray(x, dtype=np.float64)
    return np.asarray(x / 2 * _ERFC(x / math.sqrt(2)))


def erf_gelu(x: Any) -> Array:
    """x Phi(x), float64: the unit itself (Hendrycks and Gimpel, arXiv 1606.08415).

    >>> erf_gelu([-1, 1]).round(6).tolist()
    [-0.158655, 0.841345]
    """
    x = np.asarray(x, dtype=np.float64)
    return np.asarray(x / 2 * _ERFC(-x / math.sqrt(2)))


def tanh_gelu(x: Any) -> Array:
    """The form with a hyperbolic tangent of the same paper, section 2, float64.

    >>> float(abs(tanh_gelu(2.7) - erf_gelu(2.7)).round(6))
    0.000473
    """
    x = np.asarray(x, dtype=np.float64)
    return np.asarray(x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


@dataclass(frozen=True)
class DeltaTable:
    """A read-only memory of delta at 0, step, ..., largest, in the format `entry`.

    The step is a power of two, so that the first bits of |x| are the address. From `largest` on,
    delta is taken as 0.

    >>> table = DeltaTable(step=1 / 32, largest=5.5, entry=Format(22, 0, signed=False))
    >>> table.entries, table.bits
    (177, 3894)

    Raises `InputError` for another step, or a largest that is no multiple of it.
    """

    step: float
    largest: float
    entry: Format

    def __post_init__(self) -> None:
        step, largest = self.step, self.largest
        if not step > 0 or math.frexp(step)[0] != 0.5:
            message = f"the step of a table must be a power of two, found {step:g}"
            raise InputError(message, keys=("step",))
        if not largest >= step or largest % step:
            message = f"a table must end at a multiple of its step {step:g}, found {largest:g}"
            raise InputError(message, keys=("largest",))

    @property
    def entries(self) -> int:
        """How many numbers it holds."""
        return round(self.largest / self.step) + 1

    @property
    def bits(self) -> int:
        """Its size."""
        return self.entries * self.entry.width

    def values(self) -> Fixed:
        """The entries [entries]. Raises `InputError` where the format does not hold them."""
        exact = delta(np.arange(self.entries) * self.step)
        if np.any(overflowing(exact, self.entry)):
            message = f"{self.entry} does not hold {exact.max():.4f}, an entry of the table"
            raise InputError(message, keys=("entry",))
        return cast(exact, self.entry)


def table_gelu(x: Fixed, table: DeltaTable) -> Fixed:
    """gelu(x) in the format of x, any shape, by the table and straight lines between its entries.

    >>> table = DeltaTable(1 / 32, 5.5, Format(22, 0, signed=False))
    >>> table_gelu(cast([-1, 1, 9], Format(32, 10)), table).to_float().round(4).tolist()
    [-0.1587, 0.8413, 9.0]
    """
    address_bits = -(math.frexp(table.step)[1] - 1)  # behind the point
    size = abs(x)
    fraction = max(size.format.fraction, address_bits)
    size = cast(size, Format(size.format.integer + fraction, size.format.integer))
    rest_bits = fraction - address_bits
    address = size.raw >> rest_bits
    inside = np.asarray(address < table.entries - 1, dtype=bool)
    address = np.where(inside, address, 0).astype(np.int64)
    width = max(rest_bits, 1)
    rest = Format(width, width - rest_bits, signed=False)  # a part of a step, 0 to 1
    part = Fixed(np.where(inside, size.raw - (address << rest_bits), 0), rest)
    values = table.values()
    low, high = values[address], values[address + 1]
    rectified = Fixed(np.maximum(x.raw, 0), x.format)
    found = cast(rectified - (low + (high - low) * part), x.format)
    return where(inside, found, rectified)
