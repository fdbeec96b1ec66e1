"""Arrays of fixed-point numbers: exact arithmetic on integers, and what a format makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from workloads.numerics.formats import Format

Array = np.ndarray[Any, Any]

_BEYOND = 2.0**130  # no format that a text can name holds it
_TINY = 5e-324  # what is scaled down to nothing still has its sign


@dataclass(frozen=True, eq=False)
class Fixed:
    """An array of numbers raw * 2^-format.fraction, raw being integers of any shape.

    Sums, differences and products are exact: their format has the bits that they may need, as HLS
    has it for expressions. `cast` puts them into another format, as an assignment does there.

    >>> a, b = (cast([1.5, -2.25], Format(8, 4)), cast(0.125, Format(6, 2)))
    >>> product = a * b
    >>> product.to_float().tolist(), str(product.format), str((a + b).format)
    ([0.1875, -0.28125], 'fixed<14,6>', 'fixed<9,5>')
    """

    raw: Array
    format: Format

    def __add__(self, other: Fixed) -> Fixed:
        form = _sum_format(self.format, other.format, signed=False)
        return Fixed(_aligned(self, form) + _aligned(other, form), form)

    def __sub__(self, other: Fixed) -> Fixed:
        form = _sum_format(self.format, other.format, signed=True)
        return Fixed(_aligned(self, form) - _aligned(other, form), form)

    def __mul__(self, other: Fixed) -> Fixed:
        a, b = self.format, other.format
        form = Format(a.width + b.width, a.integer + b.integer, a.signed or b.signed)
        return Fixed(self.raw.astype(form.dtype) * other.raw.astype(form.dtype), form)

    def __abs__(self) -> Fixed:
        form = Format(self.format.width + 1, self.format.integer + 1)
        return Fixed(np.abs(self.raw.astype(form.dtype)), form)

    def __getitem__(self, index: Any) -> Fixed:
        return Fixed(np.asarray(self.raw[index], dtype=self.format.dtype), self.format)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return tuple(self.raw.shape)

    def to_float(self) -> Array:
        """The numbers in float64: exact up to 53 bits, else rounded.

        >>> cast([0.3], Format(8, 1)).to_float().tolist()
        [0.296875]
        """
        return np.asarray(np.ldexp(self.raw.astype(np.float64), -self.format.fraction))


def cast(value: Any, to: Format) -> Fixed:
    """Fixed-point or real numbers (array-like, finite) in the format `to`, by its two modes.

    >>> cast([0.7, -0.7, 2.6], Format(4, 3)).to_float().tolist()  # cut off, wrapped
    [0.5, -1.0, 2.5]
    >>> cast([4.6, -9], Format(4, 3, True, "AP_RND", "AP_SAT")).to_float().tolist()
    [3.5, -4.0]
    >>> cast(cast(5, Format(8, 8)), Format(4, 3)).to_float().tolist()
    -3.0

    Raises `ValueError` for a number that is not finite.
    """
    raw = _quantized(value, to)
    beyond = _beyond(raw, to)
    if beyond.any():
        whole = raw.astype(object)
        if to.overflow == "AP_SAT":
            raw = np.minimum(np.maximum(whole, to.lowest), to.highest)
        else:
            sign = 1 << (to.width - 1) if to.signed else 0
            raw = ((whole & ((1 << to.width) - 1)) ^ sign) - sign
    return Fixed(np.asarray(raw).astype(to.dtype), to)


def overflowing(value: Any, to: Format) -> Array:
    """Which numbers `cast` cannot keep: they lie beyond the format once they are cut or rounded.

    >>> overflowing([511.9, 512, -512, -512.1], Format(32, 10)).tolist()
    [False, True, False, True]
    """
    return _beyond(_quantized(value, to), to)


def evaluate(function: Callable[[Array], Array], x: Fixed) -> Array:
    """A function of real numbers at fixed-point arguments, float64, to be `cast`.

    What is larger than any format's numbers, infinity too, is made 2^130. An idealization: cores
    for such functions may differ in their last bits.

    >>> evaluate(np.exp, cast([0, 500], Format(16, 10))).tolist() == [1, 2**130]
    True
    """
    with np.errstate(over="ignore", divide="ignore"):
        return np.asarray(np.clip(function(x.to_float()), -_BEYOND, _BEYOND))


def where(condition: Array, one: Fixed, other: Fixed) -> Fixed:
    """`one` where the condition holds, else `other`; both of one format."""
    assert one.format == other.format, (one.format, other.format)
    return Fixed(np.where(condition, one.raw, other.raw), one.format)


def _sum_format(a: Format, b: Format, signed: bool) -> Format:
    """The format of a sum; an unsigned number beside a signed one needs a bit for its sign."""
    any_signed = a.signed or b.signed
    integer = 1 + max(f.integer + (any_signed and not f.signed) for f in (a, b))
    return Format(integer + max(a.fraction, b.fraction), integer, any_signed or signed)


def _aligned(value: Fixed, to: Format) -> Array:
    return np.asarray(value.raw.astype(to.dtype) << (to.fraction - value.format.fraction))


def _quantized(value: Any, to: Format) -> Array:
    """Integers of any size with as many bits behind the point as the format has."""
    rounded = to.quantization == "AP_RND"
    if not isinstance(value, Fixed):
        real = np.asarray(value, dtype=np.float64)
        scaled = np.ldexp(real, to.fraction)
        scaled = np.where((scaled == 0) & (real != 0), np.copysign(_TINY, real), scaled)
        if not np.all(np.isfinite(scaled)):
            raise ValueError(f"numbers must be finite to be put into {to}")
        below = np.floor(scaled)
        raw = _integers(below)
        return np.asarray(raw + (scaled - below >= 0.5) if rounded else raw)
    more = to.fraction - value.format.fraction
    if more >= 0:
        wide = Format(value.format.width + more, value.format.integer, value.format.signed)
        return _aligned(value, wide)
    most = 63 if value.raw.dtype != object else -more  # int64 has no longer shifts
    kept = value.raw >> min(-more, most)
    if rounded:  # the first bit that is cut off
        kept = kept + ((value.raw >> min(-more - 1, most)) & 1)
    return np.asarray(kept, dtype=value.raw.dtype)


def _integers(whole: Array) -> Array:
    """Whole numbers in float64 as integers, none of them changed."""
    if np.all(np.abs(whole) < 2.0**62):
        return whole.astype(np.int64)
    return np.array([int(v) for v in whole.ravel()], dtype=object).reshape(whole.shape)


def _beyond(raw: Array, to: Format) -> Array:
    return np.asarray((raw < to.lowest) | (raw > to.highest), dtype=bool)
