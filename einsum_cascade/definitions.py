"""The tensors that Einsums define, and which of them are outputs."""

from __future__ import annotations

from dataclasses import replace

from einsum_cascade.affine import Affine, mixed_radix
from einsum_cascade.cascade import Einsum, Rank, Tensor
from einsum_cascade.declarations import Names, Statement, check_new_name
from einsum_cascade.schema import CascadeSpec
from einsum_cascade.source import Document, InputError, Place


def define_tensors(
    written: tuple[Statement, ...], inputs: dict[str, Tensor], names: Names
) -> dict[str, Tensor]:
    """The tensors of the cascade.

    A tensor has one definition over whole ranks; an initialization may set single coordinates of
    its iterative rank beside it.
    """
    tensors = dict(inputs)
    for statement in written:
        locate, output, indices = statement.locate, statement.raw.output, statement.indices
        place = locate(output.column)
        if output.name in inputs:
            raise InputError(
                f"the tensor {output.name!r} is defined twice: it is an input already", place
            )
        boundary = any(index.is_constant for index in indices)
        if boundary:
            continue
        if output.name in tensors:
            first = tensors[output.name].place
            raise InputError(
                f"the tensor {output.name!r} is defined twice: first at line "
                f"{first.line if first else '?'}",
                place,
            )
        check_new_name(output.name, names, bool(indices), place)
        ranks = tuple(
            _output_rank(index, names, locate(raw.column))
            for index, raw in zip(indices, output.indices or (), strict=True)
        )
        variables = [v for index in indices for v in index.variables]
        if len(set(variables)) < len(variables):
            raise InputError(f"an index variable stands twice in {output.name}", place)
        extents = tuple(
            _extent(names.ranks[rank], index) for rank, index in zip(ranks, indices, strict=True)
        )
        tensors[output.name] = Tensor(output.name, ranks, "intermediate", extents, place)
    for statement in written:
        if any(index.is_constant for index in statement.indices):
            _check_boundary(statement, tensors, names, written)
    return tensors


def _extent(rank: Rank, index: Affine) -> Affine:
    if not rank.iterative:
        return Affine.of_symbol(rank.name)
    stop = rank.stop if rank.stop is not None else Affine.of_symbol(rank.name)
    return stop + Affine.of_number(index.offset)


def _output_rank(index: Affine, names: Names, place: Place | None) -> str:
    """The rank that a left-side index spans."""
    variable = index.variable
    if variable is not None:
        rank = names.of_variable[variable]
        if index.is_plain:
            return rank
        if names.ranks[rank].iterative and index.offset > 0:
            return rank
        iterative = [r.variable for r in names.ranks.values() if r.iterative]
        raise InputError(
            f"'{index}' on the left side: only an iterative rank is written ahead",
            place,
            allowed=[f"{v}+1" for v in iterative],
        )
    for whole in names.ranks.values():
        if whole.partition and index == mixed_radix(whole.partition):
            return whole.name
    raise InputError(
        f"'{index}' on the left side is neither an index variable, nor a coordinate of an "
        "iterative rank, nor the parts of a partitioned rank",
        place,
        allowed=[str(mixed_radix(r.partition)) for r in names.ranks.values() if r.partition],
    )


def _check_boundary(
    statement: Statement,
    tensors: dict[str, Tensor],
    names: Names,
    written: tuple[Statement, ...],
) -> None:
    name, place = statement.tensor, statement.locate(statement.raw.output.column)
    tensor = tensors.get(name)
    if tensor is None:
        written_as = [str(index) for index in statement.indices]
        message = f"only single coordinates of {name!r} are defined: "
        if any(text in names.ranks for text in written_as):
            variables = [t.lower() if t in names.ranks else t for t in written_as]
            message += "a name in upper case is one number, the extent of a rank; its index "
            message += f"variable is in lower case, as in {name}[{','.join(variables)}]"
        else:
            message += "an Einsum over its ranks is missing"
        raise InputError(message, place)
    if statement.section != "initialization":
        raise InputError(
            f"a single coordinate of {name!r} is set in {statement.section!r}; allowed: in "
            "'initialization'",
            place,
        )
    if len(statement.indices) != len(tensor.ranks):
        raise InputError(
            f"{name} has the ranks {', '.join(tensor.ranks)}, found {len(statement.indices)} "
            "indices",
            place,
        )
    main = next(
        s for s in written if s.tensor == name and not any(i.is_constant for i in s.indices)
    )
    for rank_name, index, body, raw in zip(
        tensor.ranks,
        statement.indices,
        main.indices,
        statement.raw.output.indices or (),
        strict=True,
    ):
        at, rank = statement.locate(raw.column), names.ranks[rank_name]
        if not index.is_constant:
            if index != body:
                raise InputError(f"'{index}' stands where {rank_name} ({body}) is expected", at)
            continue
        if not rank.iterative or index.is_terminal or index.offset < 0:
            raise InputError(
                f"'{index}' on the left side: only a first coordinate of an iterative rank is set, "
                f"and {rank_name} is {'iterative' if rank.iterative else 'not iterative'}",
                at,
            )
        if index.offset >= rank.start + body.offset:
            raise InputError(
                f"{name} at {index} is defined twice: the Einsum at line "
                f"{main.locate(0).line} sets it too",  # type: ignore[union-attr]
                at,
            )


def declare_outputs(
    spec: CascadeSpec,
    document: Document,
    tensors: dict[str, Tensor],
    einsums: tuple[Einsum, ...],
) -> dict[str, Tensor]:
    """`tensors` with the outputs marked: those named, or else those that nothing reads."""
    result = dict(tensors)
    computed = [name for name, tensor in tensors.items() if tensor.role != "input"]
    for position, name in enumerate(spec.outputs):
        if name not in computed:
            raise InputError(
                f"the output {name!r} is computed by no Einsum",
                document.text_place("outputs", position),
                allowed=computed,
                found=name,
            )
        result[name] = replace(tensors[name], role="output")
    read = {access.tensor for einsum in einsums for access in einsum.operands}
    if not spec.outputs:
        for name in computed:
            if name not in read:
                result[name] = replace(tensors[name], role="output")
    for tensor in result.values():
        if tensor.role != "output" and tensor.name not in read:
            hint = "" if tensor.role == "input" else " and it is not among the outputs"
            raise InputError(f"the tensor {tensor.name!r} is never read{hint}", tensor.place)
    return result
