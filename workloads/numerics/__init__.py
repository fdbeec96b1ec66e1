"""What narrow numbers do to attention: fixed-point formats, and the kernels of Edge-MoE in them.

Numbers are scaled integers and every product and sum is exact until it is put into a format, as in
high-level synthesis (HLS). Source of the kernels: Edge-MoE (Sarkar et al., ICCAD 2023, arXiv
2305.18691) and its published code.
"""

from workloads.numerics.fixed import Fixed, cast, evaluate, overflowing
from workloads.numerics.formats import Format, parse_format
from workloads.numerics.gate import Gate, gate, top_k
from workloads.numerics.gelu import DeltaTable, delta, erf_gelu, table_gelu, tanh_gelu
from workloads.numerics.softmax import Softmax, Statistic, single_pass_softmax, softmax_statistic

__all__ = [
    "DeltaTable",
    "Fixed",
    "Format",
    "Gate",
    "Softmax",
    "Statistic",
    "cast",
    "delta",
    "erf_gelu",
    "evaluate",
    "gate",
    "overflowing",
    "parse_format",
    "single_pass_softmax",
    "softmax_statistic",
    "table_gelu",
    "tanh_gelu",
    "top_k",
]
