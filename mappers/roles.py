"""What the ranks of a cascade are to a mapper, worked out from the cascade, never from names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from archs import Architecture, ComputeArray
from einsum_cascade import Cascade, Einsum, InputError
from sim.accesses import analysis_of, generation_ranks, iterated_ranks, shown_tensor
from sim.mapping import EinsumMapping, Loop, Number


def refuse(cascade: Cascade, mapper: str, need: str) -> InputError:
    """The error for a cascade that a mapper cannot place."""
    return InputError(f"mapper {mapper!r} cannot place cascade {cascade.name!r}: it needs {need}")


def arrays(architecture: Architecture, mapper: str) -> tuple[ComputeArray, ComputeArray]:
    """The 2D and the 1D array of an architecture that has one of each."""
    if any(array.loop is not None for array in architecture.arrays):
        raise InputError(
            f"mapper {mapper!r} needs an architecture with a 2D and a 1D array, and those of "
            f"{architecture.name!r} are pipelined loops: mapper 'edge_moe' takes such a template"
        )
    found = {len(array.shape): array for array in reversed(architecture.arrays)}
    if set(found) != {1, 2}:
        have = ", ".join(f"{len(a.shape)}D" for a in architecture.arrays)
        raise InputError(
            f"mapper {mapper!r} needs an architecture with a 2D and a 1D array, "
            f"{architecture.name!r} has {have}"
        )
    return found[2], found[1]


def supports(array: ComputeArray, einsum: Einsum) -> bool:
    """Whether the array has every operation that the Einsum needs."""
    return all(kind in array.operations for kind in einsum.operations)


def ranks_of(cascade: Cascade, tensor: str) -> frozenset[str]:
    """The unpartitioned ranks of a tensor (parts are replaced by the rank they come from)."""
    return frozenset(cascade.ranks[r].parent or r for r in cascade.tensors[tensor].ranks)


def padded_shape(cascade: Cascade, shape: Mapping[str, Number], side: Number) -> dict[str, Number]:
    """Extents of all ranks. An inner part that nothing gives is no larger than an array's side.

    As many tiles as that takes are made equally large; a rank that they do not divide is padded by
    less than one coordinate a tile, whose costs are counted. Only a rank that a tensor has is cut
    into tiles: H as G groups of R heads is not.
    """
    given = dict(shape)
    for rank in cascade.ranks.values():
        held = any(rank.name in tensor.ranks for tensor in cascade.tensors.values())
        if len(rank.partition) != 2 or rank.name not in given or not held:
            continue
        outer, inner = rank.partition
        known = given.keys() | cascade.defaults.keys()
        if {outer, inner} & known or cascade.ranks[inner].like in known:
            continue
        length = np.asarray(given[rank.name])
        count = tiles(length, np.minimum(np.asarray(side), length))
        given[inner] = tiles(length, count)
        given[rank.name] = count * given[inner]
        for other in cascade.ranks.values():
            if other.like == rank.name and other.name in given:
                given[other.name] = given[rank.name]
    return cascade.resolve_shape(given)


def batch_ranks(cascade: Cascade) -> tuple[str, ...]:
    """The ranks on every input and output: nothing is shared along them."""
    ends = [ranks_of(cascade, t) for t in (*cascade.inputs, *cascade.outputs)]
    common = frozenset.intersection(*ends)
    return tuple(r for r in cascade.ranks if r in common)


@dataclass(frozen=True)
class Product:
    """A contraction `Z = X * W` summed over what Z lacks, by the roles of its ranks.

    `rows` come from X alone, `columns` from W alone, `contracted` from both, `batch` from both and
    stays in Z. Each is one rank; ranks of extent 1 aside, that is every matrix product.
    """

    einsum: str
    x: str
    w: str
    z: str
    rows: str
    columns: str
    contracted: str
    batch: tuple[str, ...]


def as_product(cascade: Cascade, einsum: Einsum) -> Product | None:
    """`einsum` as a matrix product, or None when it is none."""
    if einsum.operations != {"mac": 1} or len(einsum.operands) != 2:
        return None
    if einsum.data_filters or any(a.gathers for a in einsum.operands):
        return None
    z = {v.upper() for v in einsum.output.variables}
    x, w = ({v.upper() for v in a.variables} for a in einsum.operands)
    rows, columns, contracted = (z & x) - w, (z & w) - x, (x & w) - z
    if not len(rows) == len(columns) == len(contracted) == 1 or z - x - w:
        return None
    batch = tuple(r for r in einsum.ranks if r in x & w & z)
    first, second = (shown_tensor(cascade, a.tensor) for a in einsum.operands)
    return Product(
        einsum=einsum.name,
        x=first,
        w=second,
        z=einsum.output.tensor,
        rows=rows.pop(),
        columns=columns.pop(),
        contracted=contracted.pop(),
        batch=batch,
    )


def states(cascade: Cascade) -> frozenset[str]:
    """Tensors of which one generation is alive: the running values of an iteration."""
    return frozenset(t for t in cascade.tensors if generation_ranks(cascade, t))


def split(rank: str, *parts: tuple[str, Number], spatial: bool = False) -> tuple[Loop, ...]:
    """Loops over the parts of a rank, outermost first."""
    return tuple(Loop(name, rank, extent, spatial) for name, extent in parts)


def tiles(extent: Number, size: Number) -> Number:
    """How many tiles of `size` cover `extent`, the incomplete one counted."""
    return np.ceil(extent / size)


def handed_over(
    architecture: Architecture, cascade: Cascade, tensor: str, array_of: Mapping[str, str]
) -> set[str]:
    """The readers that get `tensor` from its writer without a trip through a memory.

    On the same array, or on one that the writer's array feeds, in the same pass. A later pass on a
    2D array finds the tile in the registers of its PEs; on a 1D array a tile is too deep for them.
    """
    analysis = analysis_of(cascade)
    handed = {e.name for e in cascade.consumers[tensor]}
    for writer in cascade.producers[tensor]:
        if writer.name not in array_of:
            continue
        for reader in cascade.consumers[tensor]:
            w, r = array_of[writer.name], array_of[reader.name]
            common = set(writer.ranks) & set(reader.ranks)
            later = any(not analysis.fusible((writer.name, reader.name), k) for k in common)
            in_registers = w == r and len(architecture.array(w).shape) == 2
            near = w == r or (w, r) in architecture.links
            if not near or (later and not in_registers):
                handed.discard(reader.name)
    return handed


def before_iteration(cascade: Cascade, tensor: str, nest: EinsumMapping) -> int:
    """How many loops lie outside of the iteration of which a tensor is the running value."""
    iterative = iterated_ranks(cascade, tensor)
    for depth, loop in enumerate(nest.loops[: nest.shared]):
        if loop.rank in iterative:
            return depth
    return nest.shared
