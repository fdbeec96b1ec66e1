"""What proves a packaged cascade: random inputs, and what NumPy says it must give for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]
Extents = Mapping[str, int]


@dataclass(frozen=True)
class Proof:
    """How a cascade is proved.

    `shape` draws small extents: every rank of the inputs, and the parameters and parts that no
    input tells. `inputs` draws the input tensors for a shape; `magnitude` scales what the scores
    are made of (1 gives scores of order 1). `expected` computes the outputs independently, from the
    paper's equations, by tensor name. `functions` are the cascade's user-defined operators.

    `stable`: the algorithm claims finite, right results at any magnitude. `exact`: integers, to be
    equal bit by bit.
    """

    shape: Callable[[np.random.Generator], dict[str, int]]
    inputs: Callable[[np.random.Generator, Extents, float], dict[str, Array]]
    expected: Callable[[Arrays, Extents], dict[str, Array]]
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    stable: bool = False
    exact: bool = False
