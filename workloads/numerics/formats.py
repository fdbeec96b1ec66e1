"""Fixed-point formats as HLS names them: `ap_fixed<W,I>` and `ap_ufixed<W,I>`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from einsum_cascade.source import InputError, shown

Quantization = Literal["AP_TRN", "AP_RND"]
Overflow = Literal["AP_WRAP", "AP_SAT"]

WIDEST = 128
"""Bits of the widest format that a text may name, and the most before the point."""

_KINDS = {"fixed": True, "ufixed": False, "ap_fixed": True, "ap_ufixed": False}
_FORM = re.compile(r"\s*(\w+)\s*<([^<>]*)>\s*")
_MODES = (get_args(Quantization), get_args(Overflow))
_WHOLE = re.compile(r"-?\d{1,4}")


@dataclass(frozen=True)
class Format:
    """Numbers raw * 2^-fraction, raw an integer of `width` bits.

    `integer` bits lie before the point, that of the sign among them if `signed`; it may be negative
    or more than the width. What lies below the last bit is cut off (`AP_TRN`: towards minus
    infinity) or rounded (`AP_RND`: to the nearest, halves up); what lies above the first is lost
    (`AP_WRAP`) or made the nearest number of the format (`AP_SAT`). Source: AMD UG1399, Vitis HLS,
    "Arbitrary precision fixed-point data types".

    >>> Format(32, 10).fraction, Format(22, 0, signed=False).highest, str(Format(16, 2))
    (22, 4194303, 'fixed<16,2>')
    """

    width: int
    integer: int
    signed: bool = True
    quantization: Quantization = "AP_TRN"
    overflow: Overflow = "AP_WRAP"

    @property
    def fraction(self) -> int:
        """Bits behind the point."""
        return self.width - self.integer

    @property
    def lowest(self) -> int:
        """The raw integer of the smallest number."""
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        """The raw integer of the largest number."""
        return (1 << (self.width - self.signed)) - 1

    @property
    def dtype(self) -> Any:
        """What arrays of raw integers are made of: int64 where it holds them, else Python's."""
        return np.dtype(np.int64 if self.highest < 1 << 63 else object)

    def __str__(self) -> str:
        modes = [self.quantization, self.overflow]
        shown_modes = modes if modes != ["AP_TRN", "AP_WRAP"] else []
        kind = "fixed" if self.signed else "ufixed"
        return f"{kind}<{','.join(map(str, [self.width, self.integer, *shown_modes]))}>"


def parse_format(text: object) -> Format:
    """The format that `text` names, as in HLS, with or without `ap_`.

    >>> parse_format("fixed<32,10>")
    Format(width=32, integer=10, signed=True, quantization='AP_TRN', overflow='AP_WRAP')
    >>> parse_format("ap_ufixed<8, 0, AP_RND, AP_SAT>").overflow
    'AP_SAT'

    Raises `InputError` that says what of it is wrong, and what is allowed.
    """
    form = _FORM.fullmatch(text) if isinstance(text, str) else None
    if form is None:
        raise InputError(f"a format such as 'fixed<32,10>' is expected, found {shown(text)}")
    kind, parts = form[1], [part.strip() for part in form[2].split(",")]
    if kind not in _KINDS:
        raise InputError(f"unknown kind {kind!r} in {text!r}", allowed=_KINDS, found=kind)
    numbers, modes = parts[:2], parts[2:]
    if len(numbers) < 2 or not all(map(_WHOLE.fullmatch, numbers)):
        raise InputError(f"{text!r} needs two whole numbers: all bits, and those before the point")
    width, integer = map(int, numbers)
    if not 1 <= width <= WIDEST or abs(integer) > WIDEST:
        raise InputError(
            f"{text!r}: a width from 1 to {WIDEST} bits, and from -{WIDEST} to {WIDEST} of them "
            "before the point, are expected"
        )
    if len(modes) > len(_MODES):
        raise InputError(f"{text!r} has {len(modes)} modes: one of quantization, one of overflow")
    for mode, allowed in zip(modes, _MODES, strict=False):
        if mode not in allowed:
            raise InputError(f"unknown mode {mode!r} in {text!r}", allowed=allowed, found=mode)
    return Format(width, integer, _KINDS[kind], *modes)  # type: ignore[arg-type]
