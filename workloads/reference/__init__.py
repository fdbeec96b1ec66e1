"""Attention and its neighbours in NumPy, written for clarity: what the cascades are proved against.

Each module holds references of one family and, in `PROOFS`, how each packaged cascade of that
family is proved by them. A new cascade is proved by a new entry there.
"""

from __future__ import annotations

from workloads.reference.proof import Proof
from workloads.reference.softmax import attention, softmax, unstable_attention

__all__ = ["Proof", "attention", "softmax", "unstable_attention"]
