"""Attention and its neighbours in NumPy, written for clarity: what the cascades are proved against.

Each module holds references of one family and, in `PROOFS`, how each packaged cascade of that
family is proved by them. A new cascade is proved by a new entry there.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from workloads.reference.proof import Proof
from workloads.reference.softmax import attention, softmax, unstable_attention


def proofs() -> dict[str, Proof]:
    """The proofs of all packaged cascades, by the cascade's name.

    >>> proofs()["attention-1pass"].stable
    True
    """
    found: dict[str, Proof] = {}
    for module in iter_modules(__path__):
        found |= getattr(import_module(f"{__name__}.{module.name}"), "PROOFS", {})
    return found


__all__ = ["Proof", "attention", "proofs", "softmax", "unstable_attention"]
