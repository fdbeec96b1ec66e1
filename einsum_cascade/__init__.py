"""Cascades of Einsums: notation, execution, passes and bounds. Knows no hardware."""

from einsum_cascade.affine import Affine
from einsum_cascade.analysis import PassAnalysis, analyze_passes
from einsum_cascade.building import load_cascade, parse_cascade
from einsum_cascade.cascade import Access, Cascade, Einsum, Rank, Tensor
from einsum_cascade.execute import execute
from einsum_cascade.passes import PassStep
from einsum_cascade.source import Document, InputError, Place, read_yaml

__all__ = [
    "Access",
    "Affine",
    "Cascade",
    "Document",
    "Einsum",
    "InputError",
    "PassAnalysis",
    "PassStep",
    "Place",
    "Rank",
    "Tensor",
    "analyze_passes",
    "execute",
    "load_cascade",
    "parse_cascade",
    "read_yaml",
]
