"""The block `resources:` of an architecture file: the circuits that an FPGA is asked to hold.

A component is one of the kinds of `archs.resources`, `count` times:

    resources:
      products: {count: TI*TO, multiplier: {widths: [formats.activation, formats.weight]}}
      weights:  {count: 2, buffer: {width: TI*formats.weight, depth: 576, banks: TO}}
      ports:    {count: 5, given: {LUT: 2000, FF: 3000}, inferred: "..."}

A number is a number or an expression over the numbers of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from archs.fields import Cited, NonNegative, Strict
from archs.hardware import Number
from archs.resources import (
    RESOURCES,
    BufferKind,
    MultiplierKind,
    need_of_adder,
    need_of_buffer,
    need_of_divider,
    need_of_multiplier,
    need_of_registers,
    need_of_table,
)
from einsum_cascade.source import InputError

At = Callable[[str], Number]
"""The number at a dotted path, all expressions resolved: a float or an array."""


class MultiplierSchema(Strict):
    """A signed product a cycle of operands of two widths, in bits."""

    widths: Annotated[list[NonNegative], Field(min_length=2, max_length=2)]
    kind: MultiplierKind = "dsp"


class AdderSchema(Strict):
    """An adder, comparator or accumulator of a width in bits."""

    width: NonNegative


class FlipFlopsSchema(Strict):
    """Registers of a width in bits."""

    width: NonNegative


class DividerSchema(Strict):
    """A quotient a cycle; the widths in bits, the quotient as wide as the dividend."""

    dividend: NonNegative
    divisor: NonNegative


class BufferSchema(Strict):
    """On-chip memory of `banks` times `depth` words of `width` bits."""

    width: NonNegative
    depth: NonNegative
    banks: NonNegative = 1.0
    kind: BufferKind = "auto"


class TableSchema(Strict):
    """A function by a table of `entries` of `entry` bits, with straight lines between them.

    `below` are the bits of the argument below the step, `width` is that of the result.
    """

    entry: NonNegative
    entries: NonNegative
    below: NonNegative
    width: NonNegative


class GivenSchema(Strict):
    """The resources of a circuit that is known, or estimated elsewhere."""

    DSP: NonNegative | None = None
    BRAM18: NonNegative | None = None
    URAM: NonNegative | None = None
    LUT: NonNegative | None = None
    FF: NonNegative | None = None

    @model_validator(mode="after")
    def _something(self) -> GivenSchema:
        if all(getattr(self, name) is None for name in RESOURCES):
            raise ValueError(f"at least one of {', '.join(RESOURCES)} is expected")
        return self


class ComponentSchema(Cited):
    """Equal circuits, `count` of them: one kind of circuit, so just one of the keys for it."""

    count: NonNegative = 1.0
    multiplier: MultiplierSchema | None = None
    adder: AdderSchema | None = None
    registers: FlipFlopsSchema | None = None
    divider: DividerSchema | None = None
    buffer: BufferSchema | None = None
    table: TableSchema | None = None
    given: GivenSchema | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> ComponentSchema:
        found = [kind for kind in KINDS if getattr(self, kind) is not None]
        if not found:
            raise InputError("a component is of one of the kinds", allowed=KINDS)
        if len(found) > 1:
            raise InputError(
                f"a component is of one kind, found {' and '.join(found)}: write "
                f"`{found[0]}: null` to be rid of one in the file that it extends",
                keys=(found[1],),
            )
        if self.given is not None and not (self.source or self.inferred):
            raise InputError(
                "given resources need a source, or what they are inferred from", keys=("given",)
            )
        return self

    @property
    def kind(self) -> str:
        """The kind of circuit, one of `KINDS`."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)


KINDS = ("multiplier", "adder", "registers", "divider", "buffer", "table", "given")
"""The kinds of component."""


def resource_numbers(components: Mapping[str, ComponentSchema]) -> list[tuple[str, Any]]:
    """Every number of the components by its dotted path, as it stands: a float or an expression.

    >>> adder = ComponentSchema.model_validate({"count": 3, "adder": {"width": 8}})
    >>> resource_numbers({"sum": adder})
    [('resources.sum.count', 3.0), ('resources.sum.adder.width', 8.0)]
    """
    return [
        (f"resources.{name}.{path}", number)
        for name, component in components.items()
        for path, number in _numbers(component)
    ]


def _numbers(component: ComponentSchema) -> Iterator[tuple[str, Any]]:
    yield "count", component.count
    kind = component.kind
    for key, value in getattr(component, kind):
        if isinstance(value, list):
            yield from ((f"{kind}.{key}.{i}", each) for i, each in enumerate(value))
        elif key != "kind" and value is not None:
            yield f"{kind}.{key}", value


def need_by_component(
    components: Mapping[str, ComponentSchema], at: At
) -> dict[str, dict[str, Number]]:
    """What each component needs of each of `RESOURCES`, all of its `count` together.

    `at` gives the number at each path of `resource_numbers`.
    """
    needs: dict[str, dict[str, Number]] = {}
    for name, component in components.items():
        path = f"resources.{name}"
        count = at(f"{path}.count")
        one = _need_of_one(component, f"{path}.{component.kind}", at)
        needs[name] = {resource: count * one[resource] for resource in RESOURCES}
    return needs


def _need_of_one(component: ComponentSchema, path: str, at: At) -> Mapping[str, Number]:
    if component.multiplier is not None:
        widths = at(f"{path}.widths.0"), at(f"{path}.widths.1")
        return need_of_multiplier(*widths, component.multiplier.kind)
    if component.adder is not None:
        return need_of_adder(at(f"{path}.width"))
    if component.registers is not None:
        return need_of_registers(at(f"{path}.width"))
    if component.divider is not None:
        return need_of_divider(at(f"{path}.dividend"), at(f"{path}.divisor"))
    if component.buffer is not None:
        width, depth, banks = (at(f"{path}.{key}") for key in ("width", "depth", "banks"))
        return need_of_buffer(width, depth, banks, component.buffer.kind)
    if component.table is not None:
        return need_of_table(*(at(f"{path}.{key}") for key in TableSchema.model_fields))
    given = component.given
    return {r: 0.0 if getattr(given, r) is None else at(f"{path}.{r}") for r in RESOURCES}


def need_of(components: Mapping[str, ComponentSchema], at: At) -> dict[str, Number]:
    """What all components need together, of each of `RESOURCES`.

    >>> adder = ComponentSchema.model_validate({"count": "n", "adder": {"width": 8}})
    >>> at = {"resources.sum.count": 3.0, "resources.sum.adder.width": 8.0}.__getitem__
    >>> need_of({"sum": adder}, at)["LUT"]
    np.float64(24.0)
    """
    needs = need_by_component(components, at).values()
    return {resource: sum((need[resource] for need in needs), 0.0) for resource in RESOURCES}
