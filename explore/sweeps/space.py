"""The space of a design: axes, and the points at any positions, which are never listed.

A chunk of points is a few numbers: where it begins and ends on each axis of a grid, or in a sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explore.points import product
from explore.sweeps.block import Range

Array = NDArray[Any]


@dataclass(frozen=True)
class Axis:
    """Values that vary by themselves; with several names, values that vary together (a list).

    `values` holds an array for each name. A range without steps has no values, but `open`.
    """

    values: Mapping[str, Array]
    open: Range | None = None

    @property
    def size(self) -> float:
        """How many values there are; infinitely many between the ends of an open range."""
        return math.inf if self.open is not None else len(next(iter(self.values.values())))

    def at(self, share: Array) -> dict[str, Array]:
        """The values at shares (0 to 1, 1 left out) of the axis."""
        if self.open is not None:
            return dict.fromkeys(self.values, self.open.at(share))
        return self.level((share * self.size).astype(np.int64))

    def level(self, index: Array | slice) -> dict[str, Array]:
        """The values at positions."""
        return {name: values[index] for name, values in self.values.items()}


def axis(name: str, values: Sequence[float]) -> Axis:
    """One axis, from what the spec says of it."""
    kept = values if isinstance(values, Range) and not values.has_levels else None
    distinct = np.asarray(list(dict.fromkeys(values)))
    return Axis({name: distinct}, kept)


@dataclass(frozen=True)
class Block:
    """A chunk of a grid: a slice of every axis."""

    slices: tuple[tuple[int, int], ...]

    @property
    def count(self) -> int:
        """Its points."""
        return math.prod(stop - start for start, stop in self.slices)


@dataclass(frozen=True)
class Draws:
    """A chunk of a sample: the draws from `start` to `stop`, of `total`."""

    kind: str
    seed: int
    start: int
    stop: int
    total: int

    @property
    def count(self) -> int:
        """Its points."""
        return self.stop - self.start


@dataclass(frozen=True)
class Chosen:
    """A chunk that somebody chose: shares of each axis, or positions on it."""

    shares: tuple[tuple[float, ...], ...]

    @property
    def count(self) -> int:
        """Its points."""
        return len(self.shares)


Chunk = Block | Draws | Chosen


def grid_size(axes: Sequence[Axis]) -> float:
    """Points of the whole grid."""
    return math.prod(each.size for each in axes)


def blocks(axes: Sequence[Axis], most: int) -> Iterator[Block]:
    """The grid in chunks of at most `most` points, in the order of the points.

    As many of the innermost axes as fit are whole in every chunk, the next one is cut into slices,
    the others have one value: more values on one of those, or at the end of the one that is cut,
    are more chunks beside those that there were.
    """
    sizes = [int(each.size) for each in axes]
    cut, inner = len(sizes), 1
    while cut and inner * sizes[cut - 1] <= most:
        cut -= 1
        inner *= sizes[cut]
    whole = tuple((0, size) for size in sizes[cut:])
    if not cut:
        yield Block(whole)
        return
    step = max(1, most // inner)
    for outer in np.ndindex(*sizes[: cut - 1]):
        lead = tuple((i, i + 1) for i in outer)
        for start in range(0, sizes[cut - 1], step):
            yield Block((*lead, (start, min(start + step, sizes[cut - 1])), *whole))


def draws(kind: str, seed: int, total: int, most: int) -> Iterator[Draws]:
    """A sample in chunks of `most` points."""
    for start in range(0, total, most):
        yield Draws(kind, seed, start, min(start + most, total), total)


def values_at(axes: Sequence[Axis], chunk: Chunk) -> dict[str, Array]:
    """The values of every name at the points of a chunk, in their order."""
    if isinstance(chunk, Block):
        grid = grid_at(axes, chunk)
        flat = (np.ravel(values) for values in np.broadcast_arrays(*grid.values()))
        return dict(zip(grid, flat, strict=True))
    if isinstance(chunk, Draws):
        return _drawn(axes, chunk)
    found: dict[str, Array] = {}
    for each, shares in zip(axes, np.asarray(chunk.shares, dtype=np.float64).T, strict=True):
        found |= each.at(shares)
    return found


def grid_at(axes: Sequence[Axis], block: Block) -> dict[str, Array]:
    """The values of every name in a chunk of a grid, as `explore.points.product` lays them out."""
    return product(_slices(axes, block))


def _slices(axes: Sequence[Axis], block: Block) -> list[dict[str, Array]]:
    return [each.level(slice(*s)) for each, s in zip(axes, block.slices, strict=True)]


def content(axes: Sequence[Axis], chunk: Chunk) -> list[Any]:
    """What tells the points of a chunk from those of another: the values, not their positions."""
    if isinstance(chunk, Block):
        slices = _slices(axes, chunk)
        return [[name, values.tolist()] for part in slices for name, values in part.items()]
    drawn = values_at(axes, chunk)
    return [[name, blake2b(values.tobytes()).hexdigest()] for name, values in drawn.items()]


def _drawn(axes: Sequence[Axis], chunk: Draws) -> dict[str, Array]:
    """Draws of a sample, each worked out from its number alone.

    Of a grid that can be counted, random draws are different points: a permutation of all.
    """
    numbers = np.arange(chunk.start, chunk.stop, dtype=np.uint64)
    size = grid_size(axes)
    found: dict[str, Array] = {}
    if chunk.kind == "random" and size < 2**62:
        index = permuted(numbers, int(size), _word(chunk.seed, "point"))
        for each in reversed(axes):
            index, level = np.divmod(index, np.uint64(each.size))
            found = each.level(level.astype(np.int64)) | found
        return found
    for each in axes:
        name = " ".join(each.values)
        share = shares(numbers, _word(chunk.seed, f"share {name}"))
        if chunk.kind == "latin-hypercube":  # one point in each of `total` equal strata
            stratum = permuted(numbers, chunk.total, _word(chunk.seed, f"stratum {name}"))
            share = np.minimum((stratum + share) / chunk.total, np.nextafter(1.0, 0.0))
        found |= each.at(share)
    return found


def _word(seed: int, name: str) -> np.uint64:
    """64 bits for a use of a seed."""
    digest = blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _mixed(values: Array) -> Array:
    """SplitMix64 (Steele, Lea and Flood 2014): 64 bits that look random, from any 64 bits."""
    with np.errstate(over="ignore"):
        z = values + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def shares(numbers: Array, word: np.uint64) -> Array:
    """A number from 0 to 1 (1 left out) for each of `numbers`, uniform and repeatable."""
    bits = _mixed(_mixed(numbers ^ word) + word)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permuted(numbers: Array, count: int, word: np.uint64) -> Array:
    """Where a permutation of `count` things takes each of `numbers` (all below `count`).

    A Feistel network over the smallest even number of bits that holds `count`, walked along its
    cycles until it is below `count` again: no table, any position by itself.

    >>> sorted(permuted(np.arange(10, dtype=np.uint64), 10, np.uint64(1)).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    half = np.uint64(max(1, (max(count - 1, 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = [_mixed(np.asarray(word ^ np.uint64(r)))[()] for r in range(6)]

    def once(values: Array) -> Array:
        left, right = values >> half, values & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        return (left << half) | right

    found = once(numbers)
    outside = np.flatnonzero(found >= count)
    while len(outside):
        found[outside] = once(found[outside])
        outside = outside[found[outside] >= count]
    return found
