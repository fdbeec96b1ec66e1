"""What a circuit takes of an UltraScale+ FPGA, from its number formats and its parallelism.

Every function takes numbers or arrays (one entry a design point) and rounds widths, depths and
banks up to whole ones; zero of something needs nothing. The estimates count the datapath and its
memories. Control, the multiplexers between shared units and what a tool replicates to meet timing
are not counted, so LUT and FF are below what a tool reports. Each function says what its estimate
rests on, and what of it nothing published confirms (unvalidated).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from archs.hardware import Number

RESOURCES = ("DSP", "BRAM18", "URAM", "LUT", "FF")
"""DSP48E2 slices, block RAMs of 18 Kb, UltraRAMs of 288 Kb, 6-input LUTs, flip-flops."""

MultiplierKind = Literal["dsp", "lut"]
BufferKind = Literal["auto", "bram", "uram", "lutram"]

_DSP_PORTS = (27, 18)
_CASCADE_SHIFT = 17
_BRAM18_SHAPES = ((36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384))
_URAM_SHAPE = (72, 4096)
_LUTRAM_DEPTH = 64
SMALL_BITS = 1024
"""A memory of at most so many bits is made of LUTs, unless its kind is said."""


def _whole(number: Number) -> Number:
    """A size, rounded up; never below zero."""
    return np.maximum(np.ceil(np.asarray(number, dtype=np.float64)), 0.0)[()]


def _need(**parts: Number) -> dict[str, Number]:
    return {name: parts.get(name, 0.0) for name in RESOURCES}


def _pieces(bits: Number, port: int) -> Number:
    """Pieces of a signed operand: the uppermost fills a port, each other one bit less.

    The lower pieces are unsigned, so the sign bit of the port stays zero.
    """
    return np.where(bits > 0, np.maximum(np.ceil((bits - 1) / (port - 1)), 1.0), 0.0)[()]


def dsp_of_multiplier(bits_a: Number, bits_b: Number) -> Number:
    """DSP48E2 slices for one signed product a cycle, every bit of it kept.

    ceil((a - 1)/26) * ceil((b - 1)/17) or the same with a and b exchanged, whichever is less: a
    slice multiplies 27 by 18 bits in two's complement (AMD UG579), and of an operand that is cut in
    pieces all but the uppermost are unsigned. An unsigned operand counts as one bit wider. A
    product takes a whole slice however small it is: neither two small ones in a slice nor LUTs in
    its place are assumed. Unvalidated as to whether a tool keeps to the fewest; one that needs the
    lower half of a product only may take fewer.

    >>> [int(dsp_of_multiplier(*bits)) for bits in [(32, 16), (32, 32), (8, 16), (27, 18)]]
    [2, 4, 1, 1]
    """
    bits_a, bits_b = _whole(bits_a), _whole(bits_b)
    wide, narrow = _DSP_PORTS
    return np.minimum(
        _pieces(bits_a, wide) * _pieces(bits_b, narrow),
        _pieces(bits_a, narrow) * _pieces(bits_b, wide),
    )


def need_of_multiplier(
    bits_a: Number, bits_b: Number, kind: MultiplierKind = "dsp"
) -> dict[str, Number]:
    """A pipelined signed multiplier, one product a cycle: the need of each resource.

    Of DSP slices (`dsp_of_multiplier`): their own registers and their cascade, which shifts by 17
    bits, do all if it is one. Each further slice takes 17 LUTs (the low bits of a partial product
    that wait for the rest) and a + b flip-flops (the operands, a stage later): derived from the
    cascade of AMD UG579, unvalidated.
    Of LUTs: a * b LUTs, b rows of a-bit carry chains whose LUTs also form the partial products (AMD
    UG574), and (a + b) * ceil(log2(b)) flip-flops, the smaller operand being b: unvalidated.

    >>> {name: int(n) for name, n in need_of_multiplier(32, 32).items() if n}
    {'DSP': 4, 'LUT': 51, 'FF': 192}
    >>> {name: int(n) for name, n in need_of_multiplier(4, 4, "lut").items() if n}
    {'LUT': 16, 'FF': 16}
    """
    bits_a, bits_b = _whole(bits_a), _whole(bits_b)
    some = np.minimum(bits_a, bits_b) > 0
    if kind == "lut":
        rows = np.ceil(np.log2(np.maximum(np.minimum(bits_a, bits_b), 2.0)))
        return _need(LUT=bits_a * bits_b, FF=np.where(some, (bits_a + bits_b) * rows, 0.0)[()])
    slices = dsp_of_multiplier(bits_a, bits_b)
    further = np.maximum(slices - 1, 0.0)
    return _need(DSP=slices, LUT=_CASCADE_SHIFT * further, FF=(bits_a + bits_b) * further)


def need_of_adder(bits: Number) -> dict[str, Number]:
    """An adder, a subtractor, a comparator or an accumulator, its result in a register.

    A LUT and a flip-flop a bit: the carry chain of AMD UG574. The register unvalidated.

    >>> {name: int(n) for name, n in need_of_adder(32).items() if n}
    {'LUT': 32, 'FF': 32}
    """
    bits = _whole(bits)
    return _need(LUT=bits, FF=bits)


def need_of_registers(bits: Number) -> dict[str, Number]:
    """Registers: a flip-flop a bit.

    >>> int(need_of_registers(7.5)["FF"])
    8
    """
    return _need(FF=_whole(bits))


def need_of_divider(dividend_bits: Number, divisor_bits: Number) -> dict[str, Number]:
    """A divider that takes a dividend every cycle and gives a quotient of as many bits.

    A stage for each of the n bits of the dividend. It subtracts the divisor (d + 1 LUTs of a carry
    chain, AMD UG574) and keeps the remainder, the divisor and the word that is partly dividend and
    partly quotient (2 d + n flip-flops): restoring division unrolled (Ercegovac and Lang, Digital
    Arithmetic, chapter 5). Unvalidated; a tool may keep words that only wait in LUTs. In fixed
    point the dividend is as much longer as the quotient has bits behind the point.

    >>> {name: int(n) for name, n in need_of_divider(54, 32).items() if n}
    {'LUT': 1782, 'FF': 6372}
    """
    n, d = _whole(dividend_bits), _whole(divisor_bits)
    some = np.where(d > 0, 1.0, 0.0)[()]
    return _need(LUT=some * n * (d + 1), FF=some * n * (2 * d + n))


def bram18_of(width_bits: Number, depth: Number, banks: Number = 1) -> Number:
    """Block RAMs of 18 Kb for `banks` memories of `depth` words of `width_bits`.

    The least, over the shapes 512x36, 1Kx18, 2Kx9, 4Kx4, 8Kx2 and 16Kx1 of a block (AMD UG573), of
    ceil(width/w) * ceil(depth/d), for each bank. The widest shape has one port that reads and one
    that writes; the others have two that do both. One shape a memory: a tool that mixes them may
    take fewer.

    >>> [int(bram18_of(*memory)) for memory in [(36, 512), (32, 1024), (256, 576), (1, 16385)]]
    [1, 2, 15, 2]
    """
    width_bits, depth = _whole(width_bits), _whole(depth)
    least: Number = np.inf
    for width, words in _BRAM18_SHAPES:
        least = np.minimum(least, np.ceil(width_bits / width) * np.ceil(depth / words))
    return least * _whole(banks)


def uram_of(width_bits: Number, depth: Number, banks: Number = 1) -> Number:
    """UltraRAMs of 288 Kb, all 4096x72 (AMD UG573): ceil(width/72) * ceil(depth/4096) a bank.

    >>> int(uram_of(256, 4097, banks=2))
    16
    """
    width, words = _URAM_SHAPE
    blocks = np.ceil(_whole(width_bits) / width) * np.ceil(_whole(depth) / words)
    return blocks * _whole(banks)


def lut_of_lutram(width_bits: Number, depth: Number, banks: Number = 1) -> Number:
    """LUTs as memory, 64 words of a bit each (AMD UG574): width * ceil(depth/64) a bank.

    With one port. A port more that only reads takes as many again at worst: unvalidated.

    >>> int(lut_of_lutram(22, 40))
    22
    """
    return _whole(width_bits) * np.ceil(_whole(depth) / _LUTRAM_DEPTH) * _whole(banks)


def need_of_buffer(
    width_bits: Number, depth: Number, banks: Number = 1, kind: BufferKind = "auto"
) -> dict[str, Number]:
    """On-chip memory: `banks` of `depth` words of `width_bits`, each with ports of its own.

    `bram`, `uram` and `lutram` say what it is made of; `auto` is LUTs for a bank of at most 1,024
    bits and block RAM otherwise. The border is the default that AMD UG1399 (Vitis HLS) gives for
    FIFOs, and unvalidated for other memories; UltraRAM is used where it is asked for only.

    >>> table = need_of_buffer(22, np.array([46, 177]))
    >>> table["LUT"].tolist(), table["BRAM18"].tolist()
    ([22.0, 0.0], [0.0, 1.0])
    """
    size = (width_bits, depth, banks)
    if kind == "uram":
        return _need(URAM=uram_of(*size))
    if kind == "bram":
        return _need(BRAM18=bram18_of(*size))
    if kind == "lutram":
        return _need(LUT=lut_of_lutram(*size))
    small = _whole(width_bits) * _whole(depth) <= SMALL_BITS
    return _need(
        BRAM18=np.where(small, 0.0, bram18_of(*size))[()],
        LUT=np.where(small, lut_of_lutram(*size), 0.0)[()],
    )


def need_of_table(
    entry_bits: Number, entries: Number, below_bits: Number, width_bits: Number
) -> dict[str, Number]:
    """A function by a table of `entries` and straight lines between them, a result a cycle.

    The table, which two neighbours are read from; the product of their difference (a sign more) and
    the `below_bits` of the argument below the step (a sign more); four sums of `width_bits`: |x|,
    the difference, the line, and what it is added to or taken from (ReLU(x), for GELU). Edge-MoE's
    GELU, released source; how it is built is inferred, and unvalidated.

    >>> {name: int(n) for name, n in need_of_table(22, 177, 17, 32).items() if n}
    {'DSP': 1, 'BRAM18': 1, 'LUT': 128, 'FF': 128}
    """
    parts = [
        need_of_buffer(entry_bits, entries),
        need_of_multiplier(entry_bits + 1, np.maximum(below_bits, 0.0) + 1),
        *[need_of_adder(width_bits)] * 4,
    ]
    return {name: sum((part[name] for part in parts), 0.0) for name in RESOURCES}
