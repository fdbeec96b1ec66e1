"""Hardware: memories, compute arrays, operations; described in YAML, one file an architecture.

>>> int(load_architecture("fusemax-cloud").resolve().array("2d").pes)
65536
"""

from archs.hardware import Architecture, ComputeArray, Memory, Operation, PipelinedLoop, Port
from archs.loading import ArchitectureFile, list_architectures, load_architecture

__all__ = [
    "Architecture",
    "ArchitectureFile",
    "ComputeArray",
    "Memory",
    "Operation",
    "PipelinedLoop",
    "Port",
    "list_architectures",
    "load_architecture",
]
