"""Run a cascade on NumPy arrays, Einsum by Einsum.

An Einsum is computed whole, as one array expression, unless it feeds itself through an iterative
rank: such a group runs iteration by iteration. Products that are summed go to `np.einsum`, so the
iteration space of a matrix product is never held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce as fold
from typing import Any

import numpy as np

from einsum_cascade.affine import Affine
from einsum_cascade.cascade import (
    Access,
    Call,
    Cascade,
    Coordinate,
    Einsum,
    Gather,
    Node,
    Number,
)
from einsum_cascade.dependencies import feeds_itself, recurrences
from einsum_cascade.filters import COMPARE, holds
from einsum_cascade.shapes import iteration_ranges, resolve_shape
from einsum_cascade.source import InputError

Array = np.ndarray[Any, Any]
Functions = Mapping[str, Callable[..., Any]]

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.true_divide,
    "neg": np.negative,
    "max": np.maximum,
    "min": np.minimum,
    "floordiv": np.floor_divide,
    "mod": np.mod,
    "lshift": np.left_shift,
    "rshift": np.right_shift,
    "pow": np.power,
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "log2": np.log2,
    "abs": np.abs,
    "floor": np.floor,
    "round": np.round,
    "tanh": np.tanh,
    "sqrt": np.sqrt,
}
_IDENTITY = {"add": 0, "mul": 1, "max": -np.inf, "min": np.inf}
_MOST_TERMS = 52  # letters that np.einsum has


def execute(
    cascade: Cascade,
    inputs: Mapping[str, Any],
    shape: Mapping[str, int] | None = None,
    functions: Functions | None = None,
    *,
    everything: bool = False,
) -> dict[str, Array]:
    """The outputs of `cascade` (with `everything`, all tensors) as arrays by name.

    `inputs` holds an array for each input tensor, one axis a rank. `shape` gives what the arrays do
    not tell (a partition, a parameter). `functions` holds the user-defined functions, on arrays.
    Coordinates that a filter leaves out of a tensor hold 0; a reduction of no points is its
    identity (0 for a sum, -inf for `max`).

    Raises `InputError` for a tensor or function that is missing, an array whose axes disagree with
    its ranks, an index out of bounds.

    >>> from einsum_cascade import parse_cascade
    >>> cascade = parse_cascade("{name: max, ranks: [M], inputs: ['A[m]'], "
    ...     "body: ['G = max over m of A[m]']}")
    >>> float(execute(cascade, {"A": [1.0, 3.0, 2.0]})["G"])
    3.0
    """
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    extents = _shape(cascade, arrays, dict(shape or {}))
    missing = sorted(set(cascade.functions) - set(functions or {}))
    if missing:
        raise InputError(f"cascade {cascade.name!r} needs the function {missing[0]!r}")
    run = _Run(cascade, extents, arrays, {**(functions or {}), **_FUNCTIONS})
    for group in recurrences(cascade):
        if not feeds_itself(cascade, group):
            for einsum in group:
                run.compute(einsum, {})
            continue
        rank = _iterated(cascade, group)
        ranges = iteration_ranges(cascade, group[0], extents)
        for coordinate in range(*ranges[rank.lower()]):
            for einsum in group:
                run.compute(einsum, {rank.lower(): coordinate})
    names = cascade.tensors if everything else cascade.outputs
    return {name: run.arrays[name] for name in names}


def _iterated(cascade: Cascade, group: tuple[Einsum, ...]) -> str:
    """The iterative rank over which the group feeds itself."""
    common = [r for r in cascade.iterative_ranks if all(r in e.ranks for e in group)]
    if len(common) != 1:
        names = ", ".join(e.name for e in group)
        raise InputError(
            f"{names} feed each other over {len(common)} iterative ranks; allowed: one",
            group[0].place,
        )
    return common[0]


def _shape(cascade: Cascade, arrays: Mapping[str, Array], shape: dict[str, int]) -> dict[str, Any]:
    """Extents from the axes of the inputs and what was given beside."""
    for name in cascade.inputs:
        if name not in arrays:
            raise InputError(f"cascade {cascade.name!r} needs the input {name!r}")
    for name, array in arrays.items():
        if name not in cascade.inputs:
            raise InputError(
                f"cascade {cascade.name!r} has no input {name!r}",
                allowed=cascade.inputs,
                found=name,
            )
        ranks = cascade.tensors[name].ranks
        if array.ndim != len(ranks):
            raise InputError(
                f"{name} has the ranks {', '.join(ranks) or '(none)'}, found an array with "
                f"{array.ndim} axes"
            )
        for rank, extent in zip(ranks, array.shape, strict=True):
            if shape.setdefault(rank, extent) != extent:
                raise InputError(f"{name} has {extent} along {rank}, where {rank} = {shape[rank]}")
    return resolve_shape(cascade, shape)


class _Run:
    """The arrays of one execution, as far as it has come."""

    def __init__(
        self,
        cascade: Cascade,
        shape: Mapping[str, Any],
        arrays: dict[str, Array],
        functions: Functions,
    ) -> None:
        self.cascade = cascade
        self.shape = shape
        self.arrays = dict(arrays)
        self.functions = functions

    def compute(self, einsum: Einsum, fixed: Mapping[str, int]) -> None:
        """Compute `einsum` (at the coordinates `fixed`) and store it."""
        ranges = iteration_ranges(self.cascade, einsum, self.shape)
        space = _Space(einsum, ranges, fixed, self)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore", under="ignore"):
            value = space.reduced()
        self._store(einsum, space, value)

    def _store(self, einsum: Einsum, space: _Space, value: Array) -> None:
        tensor = self.cascade.tensors[einsum.output.tensor]
        extents = tuple(int(e.evaluate(self.shape, {})) for e in tensor.extents)
        old = self.arrays.get(tensor.name)
        kept = [n for n in space.sizes[: space.kept] if n is not None]
        value = np.broadcast_to(value, kept)
        plain = all(i.is_plain for i in einsum.output.indices)
        if plain and not space.fixed and value.shape == extents:
            self.arrays[tensor.name] = np.array(value)
            return
        if old is None:
            old = np.zeros(extents, value.dtype)
        elif old.dtype != np.result_type(old, value):
            old = old.astype(np.result_type(old, value))
        index = tuple(
            np.asarray(i.evaluate(self.shape, space.outer_grid())) for i in einsum.output.indices
        )
        old[index] = value
        self.arrays[tensor.name] = old


class _Space:
    """The iteration space of one Einsum: its variables in order, output ones first.

    Arrays in here have one axis a variable; an axis of length 1 stands for any coordinate. A fixed
    variable has no axis.
    """

    def __init__(
        self,
        einsum: Einsum,
        ranges: Mapping[str, tuple[int, int]],
        fixed: Mapping[str, int],
        run: _Run,
    ) -> None:
        self.einsum = einsum
        self.run = run
        self.fixed = {v: c for v, c in fixed.items() if v in ranges}
        self.names = [v for v in ranges if v not in self.fixed]
        self.ranges = ranges
        self.sizes = [int(ranges[v][1] - ranges[v][0]) for v in self.names]
        self.kept = sum(r not in einsum.reduction_ranks for r in einsum.ranks) - sum(
            v.upper() not in einsum.reduction_ranks for v in self.fixed
        )

    def axis(self, variable: str, count: int | None = None) -> Any:
        """The coordinates of a variable, along its axis of `count` axes."""
        if variable in self.fixed:
            return self.fixed[variable]
        count = len(self.names) if count is None else count
        at = self.names.index(variable)
        form = [1] * count
        form[at] = -1
        return np.arange(*self.ranges[variable]).reshape(form)

    def grid(self) -> dict[str, Any]:
        """Coordinates of all variables."""
        return {v: self.axis(v) for v in (*self.names, *self.fixed)}

    def outer_grid(self) -> dict[str, Any]:
        """Coordinates of the output's variables, on the output's axes alone."""
        outer = [v for v in self.names[: self.kept]]
        return {v: self.axis(v, self.kept) for v in (*outer, *self.fixed)}

    def reduced(self) -> Array:
        """The value on the output's axes."""
        einsum = self.einsum
        if einsum.reduction == "add" and not einsum.filters and not einsum.data_filters:
            return self._contracted()
        value = self.value(einsum.expression)
        mask = self._mask()
        axes = tuple(range(self.kept, len(self.names)))
        if einsum.reduction is None:
            result = value if mask is None else np.where(mask, value, _zero(value))
            return np.asarray(result).reshape(np.shape(result)[: self.kept] or ())
        value = np.broadcast_to(value, self.sizes)
        if einsum.reduction in _IDENTITY:
            if mask is not None:
                value = np.where(mask, value, _identity(einsum.reduction, value))
            ufunc: Any = self.run.functions[einsum.reduction]
            return np.asarray(ufunc.reduce(value, axis=axes))
        return self._folded(value, mask)

    def _folded(self, value: Array, mask: Array | None) -> Array:
        """A reduction by a user-defined function of two arguments, in order of the coordinates."""
        if mask is not None:
            raise InputError(
                f"{self.einsum.name}: a reduction by {self.einsum.reduction!r} has no filter, for "
                "its identity is not known",
                self.einsum.place,
            )
        flat = value.reshape(*value.shape[: self.kept], -1)
        function = self.run.functions[str(self.einsum.reduction)]
        return np.asarray(fold(function, (flat[..., i] for i in range(flat.shape[-1]))))

    def _mask(self) -> Array | None:
        """Where all filters hold; where those on coordinates do not, data is not looked at."""
        if not (self.einsum.filters or self.einsum.data_filters):
            return None
        mask = self._coordinate_mask()
        found = np.bool_(True) if mask is None else mask
        for condition in self.einsum.data_filters:
            left, right = self.value(condition.left), self.value(condition.right)
            found = found & COMPARE[condition.comparison](left, right)
        return np.asarray(found)

    def _coordinate_mask(self) -> Array | None:
        if not self.einsum.filters:
            return None
        return np.asarray(holds(self.einsum.filters, self.run.shape, self.grid()))

    def _contracted(self) -> Array:
        """A sum: the factors of the expression's outermost product go to `np.einsum`."""
        factors = [np.asarray(self.value(f)) for f in _factors(self.einsum.expression)]
        operands: list[Any] = []
        summed = set(range(self.kept, len(self.names)))
        present: set[int] = set()
        scale = 1
        for factor in factors:
            form = (1,) * (len(self.names) - factor.ndim) + factor.shape
            factor = factor.reshape(form)
            axes = [i for i, n in enumerate(form) if n > 1 or (n == self.sizes[i] == 1)]
            operands += [factor.reshape([form[i] for i in axes]), axes]
            present |= set(axes)
        for axis in summed - present:
            scale *= self.sizes[axis]
        kept = [i for i in range(self.kept) if i in present]
        if len(self.names) > _MOST_TERMS:
            raise InputError(f"{self.einsum.name} has too many ranks", self.einsum.place)
        result = np.einsum(*operands, kept, optimize=len(factors) > 1)
        result = result.reshape([self.sizes[i] if i in present else 1 for i in range(self.kept)])
        return np.asarray(result * scale if scale != 1 else result)

    def value(self, node: Node) -> Any:
        """The value of an expression, broadcastable over the space."""
        if isinstance(node, Number):
            return np.asarray(node.value)
        if isinstance(node, Coordinate):
            return np.asarray(node.index.evaluate(self.run.shape, self.grid()))
        if isinstance(node, Call):
            arguments = [self.value(a) for a in node.arguments]
            return self.run.functions[node.operator](*arguments)
        return self._read(node)

    def _read(self, access: Access) -> Array:
        array = self.run.arrays[access.tensor]
        variables = [index.variables[0] if index.is_plain else None for index in access.indices]
        axes = [self.names.index(v) for v in variables if v in self.names]
        plain = len(axes) == array.ndim == len(set(axes)) and all(
            array.shape[i] == self.sizes[a] and self.ranges[self.names[a]][0] == 0
            for i, a in enumerate(axes)
        )
        plain = plain and not access.gathers
        if plain:  # no copy: only the axes are put in order
            form = [1] * len(self.names)
            for axis in axes:
                form[axis] = self.sizes[axis]
            return array.transpose(np.argsort(axes)).reshape(form)
        return self._gather(access, array)

    def _gathered(self, gather: Gather, grid: Mapping[str, Any]) -> Array:
        """The coordinates that tables hold."""
        total = np.asarray(gather.offset.evaluate(self.run.shape, grid))
        for factor, table in gather.tables:
            entries = self._read(table)
            if entries.dtype.kind not in "iu":
                if not np.all(entries == np.floor(entries)):
                    raise InputError(
                        f"the table {table.tensor} holds {entries.dtype} numbers that are no "
                        "coordinates: integers are",
                        table.place,
                    )
                entries = entries.astype(np.int64)
            total = total + factor.evaluate(self.run.shape, {}) * entries
        return np.asarray(total)

    def _gather(self, access: Access, array: Array) -> Array:
        grid = self.grid()
        index = [np.asarray(i.evaluate(self.run.shape, grid)) for i in access.indices]
        for gather in access.gathers:
            index[gather.position] = self._gathered(gather, grid)
        for position, (coordinates, extent) in enumerate(zip(index, array.shape, strict=True)):
            outside = (coordinates < 0) | (coordinates >= extent)
            if not np.any(outside):
                continue
            mask = self._coordinate_mask()
            if mask is None or np.any(outside & mask):
                worst = int(coordinates.min() if coordinates.min() < 0 else coordinates.max())
                rank = self.run.cascade.tensors[access.tensor].ranks[position]
                raise InputError(
                    f"{access} reaches coordinate {worst} of {rank}, which has 0 to {extent - 1}",
                    access.place,
                )
            index[position] = np.clip(coordinates, 0, extent - 1)
        value = array[tuple(index)]
        form = (1,) * (len(self.names) - value.ndim) + value.shape
        return np.asarray(value.reshape(form))


def _factors(node: Node) -> list[Node]:
    """The factors of the outermost product."""
    if isinstance(node, Call) and node.operator == "mul":
        return [f for a in node.arguments for f in _factors(a)]
    return [node]


def _zero(value: Array) -> Any:
    return np.zeros((), np.asarray(value).dtype)


def _identity(reduction: str, value: Array) -> Any:
    identity = _IDENTITY[reduction]
    if np.isinf(identity) and value.dtype.kind in "iu":
        info = np.iinfo(value.dtype)
        return info.min if identity < 0 else info.max
    return identity


__all__ = ["Affine", "execute"]
