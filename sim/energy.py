"""Energy of arithmetic, register files and memories.

Two accountings of the register files: `full` counts those of every PE; `artifact` counts one PE of
each array, as FuseMax's published energies do, so that they can be compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from archs import Architecture
from einsum_cascade import Cascade
from sim.accesses import Tally
from sim.mapping import Number, Phase

BOARD = "board"
"""The energy term of what is drawn as long as anything runs (`Architecture.power_w`)."""

Accounting = Literal["full", "artifact"]

_REGISTER_ACCESSES = {"mac": 4.0}
_REGISTER_ACCESSES_ELSE = 3.0
"""Words read and written by an operation: two operands and a result; a MAC reads its sum too.

An assumption of this project (operands from the PE's own registers, no forwarding); FuseMax
publishes no such count."""


def energy_terms(
    cascade: Cascade,
    architecture: Architecture,
    points: Mapping[str, Number],
    phase: Phase,
    tally: Tally,
    accounting: Accounting,
) -> dict[str, Number]:
    """Picojoules by array (arithmetic), by memory, and of the registers."""
    terms: dict[str, Number] = {array.name: np.float64(0) for array in architecture.arrays}
    registers: Number = np.float64(0)
    for mapping in phase.einsums:
        array = architecture.array(mapping.array)
        counted = 1.0 if accounting == "full" else 1.0 / array.pes
        for kind, times in cascade.einsum(mapping.einsum).operations.items():
            if kind not in array.operations:
                terms[array.name] = terms[array.name] * np.nan
                continue
            operation = array.operations[kind]
            count = points[mapping.einsum] * times
            terms[array.name] = terms[array.name] + count * operation.energy_pj
            words = sum(
                n * _REGISTER_ACCESSES.get(each, _REGISTER_ACCESSES_ELSE)
                for each, n in operation.elementary.items()
            )
            registers = registers + count * words * array.register_energy_pj * counted
    terms["registers"] = registers
    for memory in architecture.memories:
        read_pj = memory.read_energy_pj / memory.access_words  # for each word
        write_pj = memory.write_energy_pj / memory.access_words
        reads, writes = tally.read_words.get(memory.name), tally.write_words.get(memory.name)
        terms[memory.name] = np.float64(0) if reads is None else reads * read_pj
        if writes is not None:
            terms[memory.name] = terms[memory.name] + writes * write_pj
    return terms
