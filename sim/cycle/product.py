"""A systolic array that computes one matrix product, fold by fold, cycle by cycle.

Operands enter at the edges, skewed, and move from PE to PE, one a cycle. Each value carries a tag
that says which one it is, and each PE counts on its own what it has done: it asserts that what lies
in its latches is what its next point needs. Cycles are those until the last PE is done.

Folds and dataflows are those of SCALE-Sim 3 (Raj et al.): output-stationary, X rows over PE rows
and W columns over PE columns; weight-stationary, K over PE rows and W columns over PE columns;
input-stationary, K over PE rows and X rows over PE columns. Incomplete folds run on the whole array
with zeros. Results of the output-stationary array leave on wires of their own, beside the next
fold; sums of the others end in accumulators at the feet of the columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Dataflow = Literal["os", "ws", "is"]
Folds = Literal["serialized", "pipelined"]

_VALUE, _TAG = 0, 1
_BUBBLE = -1.0
_LARGEST = 64


@dataclass(frozen=True)
class ProductRun:
    """The product, the cycles until the last PE was done, and when PE (0,0) began each fold."""

    result: Array
    cycles: int
    starts: tuple[int, ...]


def simulate_product(
    x: Array, w: Array, rows: int, cols: int, dataflow: Dataflow, folds: Folds = "serialized"
) -> ProductRun:
    """X[M,K] @ W[K,N] on an array of `rows` x `cols` PEs.

    Serialized, a fold begins (with loading its stationary operand) when the last PE is done with
    the one before. Pipelined, its first point follows in PE (0,0) right behind the last of the
    fold before; stationary operands are loaded into second registers meanwhile, which takes
    `rows` cycles, so shorter folds wait for them.

    Raises ValueError for operands that do not match and arrays of a side beyond 64.

    >>> run = simulate_product(np.eye(3), np.ones((3, 5)), 2, 2, "os")
    >>> run.cycles, run.starts        # 2 x 3 folds of K + R + C - 2 = 5 cycles
    (30, (0, 5, 10, 15, 20, 25))
    """
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[0] or 0 in (*x.shape, *w.shape):
        raise ValueError(f"no product of arrays of the shapes {x.shape} and {w.shape}")
    if not (1 <= rows <= _LARGEST and 1 <= cols <= _LARGEST):
        raise ValueError(f"an array of {rows} x {cols} PEs; allowed: 1 to {_LARGEST} a side")
    if dataflow not in get_args(Dataflow) or folds not in get_args(Folds):
        raise ValueError(f"no dataflow {dataflow!r} with {folds!r} folds")
    if dataflow == "is":  # the transposed product with the roles of the operands changed
        run = simulate_product(w.T, x.T, rows, cols, "ws", folds)
        return ProductRun(run.result.T, run.cycles, run.starts)
    if dataflow == "os":
        return _output_stationary(x, w, rows, cols, folds == "pipelined")
    return _weight_stationary(x, w, rows, cols, folds == "pipelined")


def _padded(array: Array, rows: int, cols: int) -> Array:
    """Zeros beyond the ends, up to multiples of `rows` and `cols`."""
    missing = [(0, -n % side) for n, side in zip(array.shape, (rows, cols), strict=True)]
    return np.pad(array, missing)


class _Wave:
    """Values that move through the array, a PE a cycle, right (`axis` 1) or down (`axis` 0)."""

    def __init__(self, rows: int, cols: int, axis: int) -> None:
        self.latch = np.zeros((2, rows, cols))
        self.latch[_TAG] = _BUBBLE
        self.value, self.tag = self.latch[_VALUE], self.latch[_TAG]
        side = cols if axis == 0 else rows
        self.edge = self.latch[:, 0] if axis == 0 else self.latch[:, :, 0]
        self.first, self.last = (
            (self.latch[:, 1:], self.latch[:, :-1])
            if axis == 0
            else (self.latch[:, :, 1:], self.latch[:, :, :-1])
        )
        self.delay = np.zeros((2, side, side))  # registers at the edge: lane i enters i late
        self.delay[_TAG] = _BUBBLE
        self.lane = np.arange(side)

    def move(self) -> None:
        """All values move on by a PE; bubbles follow."""
        self.first[...] = self.last
        self.edge[_TAG] = _BUBBLE

    def feed(self, values: Array | float = 0.0, tags: Array | float = _BUBBLE) -> None:
        """Move on, and let in the next value of each lane: lane i gets it i cycles later.

        Without a tag it is a bubble.
        """
        self.first[...] = self.last
        self.delay[:, :, 1:] = self.delay[:, :, :-1]
        self.delay[_VALUE, :, 0], self.delay[_TAG, :, 0] = values, tags
        self.edge[...] = self.delay[:, self.lane, self.lane]


class _Counters:
    """Where each PE is: the next step of which fold, counted by itself."""

    def __init__(self, rows: int, cols: int, folds: int, length: int) -> None:
        self.step, self.fold, self.done = (np.zeros((rows, cols)) for _ in range(3))
        self.folds, self.length = folds, length

    @property
    def folds_ended(self) -> int:
        """Folds with which the last PE is done."""
        return int(self.fold[-1, -1])

    def advance(self, live: Array) -> None:
        """PEs at work go on to the next point."""
        self.done += live
        self.step += live
        wrapped = self.step == self.length
        self.step[wrapped] = 0
        self.fold += wrapped


def _check(live: Array, tags: Array, wanted: Array) -> None:
    """PEs at work have met the values that their points need."""
    assert ((tags == wanted) | ~live).all(), "a PE has met the value of another point"


def _output_stationary(x: Array, w: Array, rows: int, cols: int, pipelined: bool) -> ProductRun:
    depth = x.shape[1]
    xs, ws = _padded(x, rows, 1), _padded(w, 1, cols)
    origins = [(m, n) for m in range(0, xs.shape[0], rows) for n in range(0, ws.shape[1], cols)]
    corner = np.array(origins)
    result = np.zeros((xs.shape[0], ws.shape[1]))
    right, down = _Wave(rows, cols, 1), _Wave(rows, cols, 0)
    own_x, own_w = np.indices((rows, cols)).astype(float)
    r, c = np.arange(rows), np.arange(cols)
    at = _Counters(rows, cols, len(origins), depth)
    held = np.zeros((rows, cols))
    starts: list[int] = []
    fed, cycle = 0, 0
    while at.folds_ended < len(origins):
        fold, k = divmod(fed, depth)
        if fold < len(origins) and (pipelined or k or at.folds_ended == fold):
            m, n = origins[fold]
            right.feed(xs[m : m + rows, k], fed * rows + r)
            down.feed(ws[k, n : n + cols], fed * cols + c)
            if k == 0:
                starts.append(cycle)
            fed += 1
        else:
            right.feed()
            down.feed()
        cycle += 1
        live = right.tag >= 0
        assert ((down.tag >= 0) == live).all(), "a PE has met one operand without the other"
        _check(live, right.tag, at.done * rows + own_x)
        _check(live, down.tag, at.done * cols + own_w)
        held[live & (at.step == 0)] = 0.0
        held += right.value * down.value * live
        last = live & (at.step == depth - 1)
        if last.any():
            row, col = np.nonzero(last)
            place = corner[at.fold[row, col].astype(int)]
            result[place[:, 0] + row, place[:, 1] + col] = held[row, col]
        at.advance(live)
    assert (at.fold == len(origins)).all()
    return ProductRun(result[: x.shape[0], : w.shape[1]], cycle, tuple(starts))


def _weight_stationary(x: Array, w: Array, rows: int, cols: int, pipelined: bool) -> ProductRun:
    length = x.shape[0]
    xs, ws = _padded(x, 1, rows), _padded(w, rows, cols)
    origins = [(k, n) for k in range(0, ws.shape[0], rows) for n in range(0, ws.shape[1], cols)]
    feet = np.array(origins)[:, 1]
    result = np.zeros((length, ws.shape[1]))
    right, loading, sums = _Wave(rows, cols, 1), _Wave(rows, cols, 0), _Wave(rows, cols, 0)
    own_x, own_w = np.indices((rows, cols)).astype(float)
    following, current = np.zeros((2, rows, cols)), np.zeros((2, rows, cols))
    following[_TAG] = current[_TAG] = _BUBBLE
    r, c = np.arange(rows), np.arange(cols)
    at = _Counters(rows, cols, len(origins), length)
    starts: list[int] = []
    fed, cycle = 0, 0
    sent = 0  # rows of weights that were sent, over all folds
    while at.folds_ended < len(origins):
        fold, m = divmod(fed, length)
        if fold < min(len(origins), sent // rows):  # its weights are in the PEs
            k, _ = origins[fold]
            right.feed(xs[m, k : k + rows], fed * rows + r)
            if m == 0:
                starts.append(cycle)
            fed += 1
        else:
            right.feed()
        fold, row = divmod(sent, rows)
        room = len(starts) == fold if pipelined else at.folds_ended == fold
        if fold < len(origins) and (row or room):  # the last row first: it has the longest way
            k, n = origins[fold]
            into = rows - 1 - row
            loading.feed(ws[k + into, n : n + cols], (fold * rows + into) * cols + c)
            sent += 1
        else:
            loading.feed()
        cycle += 1
        live = right.tag >= 0
        _check(live, right.tag, at.done * rows + own_x)
        taken = live & (at.step == 0)  # the first point of a fold
        if taken.any():
            np.copyto(current, following, where=taken)
        _check(live, current[_TAG], (at.fold * rows + own_x) * cols + own_w)
        sums.move()
        _check(live[1:], sums.tag[1:], at.done[1:])
        sums.value[0] = 0.0
        sums.value += right.value * current[_VALUE]
        np.copyto(sums.tag, np.where(live, at.done, _BUBBLE))
        foot = np.flatnonzero(live[-1])
        if len(foot):
            m_of, fold_of = at.step[-1, foot].astype(int), at.fold[-1, foot].astype(int)
            result[m_of, feet[fold_of] + foot] += sums.value[-1, foot]
        down = loading.tag[-1]
        ready = np.flatnonzero((down >= 0) & (down // cols % rows == rows - 1))
        if len(ready):  # what the last row wants is there, so all others have theirs
            into = loading.tag[:, ready] // cols % rows
            assert (into == own_x[:, ready]).all(), "a PE has met the weight of another row"
            used = following[_TAG][:, ready] == current[_TAG][:, ready]
            assert used.all(), "a weight was overwritten before it was used"
            following[:, :, ready] = loading.latch[:, :, ready]
        at.advance(live)
    assert (at.fold == len(origins)).all()
    return ProductRun(result[:, : w.shape[1]], cycle, tuple(starts))
