"""What a mapping is and what it costs: accesses, cycles, energy, utilization, legality.

One path for one design point and for a million: everything is arithmetic on NumPy arrays.
"""

from sim.evaluation import (
    Evaluation,
    combine,
    evaluate,
    evaluate_phase,
    footprint_bytes,
    scatter,
    select,
)
from sim.mapping import (
    IN_ARRAY,
    EinsumMapping,
    Loop,
    Mapping,
    MappingChoice,
    MappingParts,
    Option,
    Phase,
    PhaseChoice,
    Residency,
    Tile,
    always,
)

__all__ = [
    "IN_ARRAY",
    "EinsumMapping",
    "Evaluation",
    "Loop",
    "Mapping",
    "MappingChoice",
    "MappingParts",
    "Option",
    "Phase",
    "PhaseChoice",
    "Residency",
    "Tile",
    "always",
    "combine",
    "evaluate",
    "evaluate_phase",
    "footprint_bytes",
    "scatter",
    "select",
]
