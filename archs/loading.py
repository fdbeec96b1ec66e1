"""From a YAML file to an `Architecture`, with any of its numbers replaced by swept ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from archs.devices import load_device
from archs.hardware import Architecture, ComputeArray, Memory, Operation, PipelinedLoop, Port
from archs.resources_schema import need_of, resource_numbers
from archs.schema import ArchitectureSchema, ArraySchema, MemorySchema
from einsum_cascade.expression import Expression
from einsum_cascade.source import Document, InputError, Place, check, merged, nearest, read_yaml

_MAX_CHAIN = 8


def list_architectures() -> list[str]:
    """Names of the architectures that come with the project."""
    found = (Path(str(f)) for f in files("archs").iterdir())
    return sorted(f.stem for f in found if f.suffix == ".yaml")


@dataclass(frozen=True)
class ArchitectureFile:
    """A checked architecture file, before its parameters have values."""

    name: str
    description: str
    schema: ArchitectureSchema
    document: Document
    extends: tuple[str, ...] = field(default=())

    def parameters(self) -> dict[str, float | Expression]:
        """Every number of the file by its dotted path: what a sweep may set.

        >>> load_architecture("fusemax-cloud").parameters()["array_dim"]
        256.0
        """
        return dict(_numbers(self.schema))

    def resolve(
        self, overrides: Mapping[str, Any] | None = None, place: Place | None = None
    ) -> Architecture:
        """The architecture with `overrides` (path -> number or array) in place of its own numbers.

        Raises `InputError` for an unknown path and for a parameter that depends on itself.
        """
        values = self.parameters()
        for path, value in (overrides or {}).items():
            if path not in values:
                raise InputError(
                    f"architecture {self.name!r} has no parameter {path!r}",
                    place,
                    allowed=values,
                    found=path,
                )
            values[path] = value
        return _Resolver(self, values, place).architecture()

    def on_device(
        self, device: str | Mapping[str, Any], base: Path | None = None, place: Place | None = None
    ) -> ArchitectureFile:
        """The same design for another FPGA (as `load_device` takes one; `base` is for a path).

        What a board draws is said of the file's own device alone: on another, `power_w` is 0, which
        leaves the energy out. Raises `InputError` for a device that there is not, and for an
        architecture that is not made for an FPGA.
        """
        if self.schema.device is None:
            raise InputError(f"architecture {self.name!r} is for no device", place)
        own = load_device(self.schema.device, Path(self.document.file).parent)
        other = load_device(device, base, place)
        totals = {"name": other.name, "source": other.source, "totals": dict(other.totals)}
        changed = {"device": totals, "power_w": self.schema.power_w if other == own else 0.0}
        return replace(self, schema=self.schema.model_copy(update=changed))


def load_architecture(
    reference: str | Document | Mapping[str, Any],
    base: Path | None = None,
    place: Place | None = None,
) -> ArchitectureFile:
    """The architecture of that name, in that file, or given inline.

    `reference` is a name of `list_architectures`, a path (relative to `base`), or a mapping that
    `extends` another (a document knows the places of its keys, for messages). Raises `InputError`
    with the place of the mistake.

    >>> fast = load_architecture({"extends": "flat-edge", "clock_hz": "1 GHz"})
    >>> float(fast.resolve().clock_hz)
    1000000000.0
    """
    document, chain = _collect(reference, base, place, ())
    schema = check(ArchitectureSchema, document)
    architecture = ArchitectureFile(schema.name, schema.description, schema, document, chain)
    architecture.resolve()  # a mistake in an expression is reported where the file is read
    _no_typo(architecture)
    return architecture


def _no_typo(file: ArchitectureFile) -> None:
    """A parameter that nothing uses changes nothing, whatever its author thinks."""
    numbers = file.parameters().values()
    used = {name for number in numbers if isinstance(number, Expression) for name in number.names}
    for name in file.schema.parameters:
        if name not in used:
            known = [parameter for parameter in file.schema.parameters if parameter in used]
            raise InputError(
                f"no number of architecture {file.name!r} depends on parameter {name!r}",
                file.document.place("parameters", name),
                allowed=known,
                found=name,
            )


def _collect(
    reference: str | Document | Mapping[str, Any],
    base: Path | None,
    place: Place | None,
    chain: tuple[str, ...],
) -> tuple[Document, tuple[str, ...]]:
    """The document with those that it extends merged in; the places are the outermost file's."""
    if len(chain) > _MAX_CHAIN:
        raise InputError(f"'extends' goes on too long: {' -> '.join(chain)}", place)
    if isinstance(reference, Mapping):
        reference = Document(place.file if place else "<inline>", dict(reference))
    if isinstance(reference, Document):
        document = reference
        parent = document.data.get("extends")
        if parent is None and not {"memories", "arrays"} <= set(document.data):
            raise InputError("an inline architecture needs 'extends'", document.place())
        named = {"name": f"{Path(str(parent)).stem}-modified", **document.data}
        document = Document(document.file, named, document._root)
    else:
        path = _path(reference, base, place)
        document, base = read_yaml(path), path.parent
    data = dict(document.data)
    parent = data.pop("extends", None)
    if parent is None:
        return document, chain
    if not isinstance(parent, str):
        raise InputError("'extends' names an architecture or a file", document.place("extends"))
    above, chain = _collect(parent, base, document.place("extends"), (*chain, parent))
    _refuse_typos(document, above)
    if above.data.get("power_w") and "power_w" not in data and _is_device(document, data):
        raise InputError(
            f"another device draws another power than that of {above.data['name']!r}: give power_w "
            f"(0 leaves energy out)",
            document.place("device"),
        )
    whole = merged(above.data, data)
    # memories and arrays keep the order of the file that introduces them
    return Document(document.file, whole, document._root), chain


def _is_device(document: Document, data: Mapping[str, Any]) -> bool:
    """Whether a file sets a device that there is; another one is refused with the rest."""
    if not isinstance(data.get("device"), (str, dict)):
        return False
    try:
        load_device(data["device"], Path(document.file).parent)
    except InputError:
        return False
    return True


def _refuse_typos(document: Document, above: Document) -> None:
    """A memory or array that is not in the file above is new, and needs all of its own numbers."""
    for block, schema in (("memories", MemorySchema), ("arrays", ArraySchema)):
        ours, theirs = document.data.get(block), above.data.get(block)
        if not isinstance(ours, dict) or not isinstance(theirs, dict):
            continue
        needed = [name for name, f in schema.model_fields.items() if f.is_required()]
        if schema is ArraySchema and not any("loop" in (theirs[name] or ()) for name in theirs):
            needed += ["units", "registers"]
        for name in set(ours) - set(theirs):
            missing = [k for k in needed if k not in (ours[name] or ())]
            if missing and nearest(str(name), theirs) is not None:
                raise InputError(
                    f"no {name!r} in the {block} that are extended, and a new one needs "
                    f"{', '.join(missing)}",
                    document.place(block, name),
                    allowed=theirs,
                    found=name,
                )


def _path(reference: str, base: Path | None, place: Place | None) -> Path:
    packaged = Path(str(files("archs") / f"{reference}.yaml"))
    if reference in list_architectures():
        return packaged
    given = (base or Path()) / reference
    if given.suffix in (".yaml", ".yml") or "/" in reference:
        if not given.is_file():
            raise InputError(f"no architecture file {str(given)!r}", place)
        return given
    raise InputError(
        f"unknown architecture {reference!r}", place, allowed=list_architectures(), found=reference
    )


def _numbers(schema: ArchitectureSchema) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = [*schema.parameters.items()]
    found += [("clock_hz", schema.clock_hz), ("word_bytes", schema.word_bytes)]
    found += [("power_w", schema.power_w)]
    found += [(f"formats.{name}", bits) for name, bits in schema.formats.items()]
    for name, memory in schema.memories.items():
        for key in _MEMORY:
            value = getattr(memory, key)
            found.append((f"memories.{name}.{key}", np.inf if value is None else value))
        for port, numbers in memory.ports.items():
            prefix = f"memories.{name}.ports.{port}"
            found += [(f"{prefix}.{key}", getattr(numbers, key)) for key in _PORT]
    for name, array in schema.arrays.items():
        prefix = f"arrays.{name}"
        found += [(f"{prefix}.shape.{i}", extent) for i, extent in enumerate(array.shape)]
        found += [(f"{prefix}.units.{u}.area_um2", s.area_um2) for u, s in array.units.items()]
        if array.registers is not None:
            for key in ("words", "area_um2", "energy_pj"):
                found.append((f"{prefix}.registers.{key}", getattr(array.registers, key)))
        if array.loop is not None:
            for key in ("interval_cycles", "depth_cycles"):
                found.append((f"{prefix}.loop.{key}", getattr(array.loop, key)))
        for operation, s in array.operations.items():
            if s.unit is not None:
                found.append((f"{prefix}.operations.{operation}.cycles", s.cycles))
                found.append((f"{prefix}.operations.{operation}.energy_pj", s.energy_pj))
            for part, times in (s.sequence or {}).items():
                found.append((f"{prefix}.operations.{operation}.sequence.{part}", times))
    return found + resource_numbers(schema.resources)


_MEMORY = (
    "size_bytes",
    "bandwidth_bytes_per_s",
    "access_words",
    "read_energy_pj",
    "write_energy_pj",
    "area_um2",
    "latency_cycles",
)
_PORT = ("kernel_bits", "memory_bits", "single_beat_cycles")
_POSITIVE = ("clock_hz", "word_bytes", "size_bytes", "bandwidth_bytes_per_s")
_COUNTS = ("words", "access_words", "interval_cycles", *_PORT)


def _least(path: str) -> float:
    """The least that the number at a path may be, however it was given (see archs.schema)."""
    last = path.rpartition(".")[2]
    if last in _COUNTS or any(part in path for part in (".shape.", ".sequence.", "formats.")):
        return 1.0
    return 1e-30 if last in _POSITIVE else 0.0


class _Resolver:
    """Evaluates the expressions of a file, each once, in the order of their dependence."""

    def __init__(self, file: ArchitectureFile, values: dict[str, Any], place: Place | None) -> None:
        self._schema, self._document = file.schema, file.document
        self._values, self._place = values, place
        self._done: dict[str, Any] = {}
        self._open: list[str] = []

    def _at(self, path: str) -> Any:
        if path in self._done:
            return self._done[path]
        if path in self._open:
            loop = " -> ".join([*self._open, path])
            raise InputError(f"a parameter depends on itself: {loop}", self._where(path))
        value = self._values[path]
        if isinstance(value, Expression):
            self._open.append(path)
            # beside a name of `parameters`, an expression may use the numbers of its own block
            block = path.rpartition(".")[0]
            names = {n: self._lookup(n, block) for n in value.names}
            allowed = {n: v for n, v in names.items() if v is not None}
            if len(allowed) < len(names):
                for known in self._schema.parameters:
                    allowed.setdefault(known, np.nan)
            try:
                value = value.evaluate(allowed)
            except InputError as error:
                raise InputError(
                    error.message, self._where(path), allowed=error.allowed, found=error.found
                ) from None
            self._open.pop()
        value = np.asarray(value, dtype=np.float64)[()]
        least = _least(path)
        if not np.all(value >= least):  # nor is NaN
            raise InputError(
                f"{path} must be at least {least:g}, found {float(np.min(value)):g}",
                self._where(path),
            )
        if ".shape." in path and np.any(value != np.floor(value)):
            part = float(np.extract(value != np.floor(value), value)[0])
            raise InputError(f"{path} must be a whole number, found {part:g}", self._where(path))
        self._done[path] = value
        return value

    def _where(self, path: str) -> Place:
        """Where the number at a dotted path stands, unless it was set from elsewhere."""
        if self._place is not None:
            return self._place
        if path in self._schema.parameters:
            return self._document.place("parameters", path)
        return self._document.place(*(int(k) if k.isdigit() else k for k in path.split(".")))

    def _lookup(self, name: str, block: str) -> Any:
        for path in (f"{block}.{name}" if block else name, name):
            if path in self._values:
                return self._at(path)
        return None

    def architecture(self) -> Architecture:
        schema = self._schema
        device = None
        if schema.device is not None:
            base = Path(self._document.file).parent
            device = load_device(schema.device, base, self._document.place("device"))
        return Architecture(
            name=schema.name,
            clock_hz=self._at("clock_hz"),
            word_bytes=self._at("word_bytes"),
            memories=tuple(self._memory(n, m) for n, m in schema.memories.items()),
            arrays=tuple(self._array(n, a) for n, a in schema.arrays.items()),
            links=frozenset((link.origin, link.target) for link in schema.links),
            parameters={path: self._at(path) for path in self._values},
            format_bits={name: self._at(f"formats.{name}") for name in schema.formats},
            power_w=self._at("power_w"),
            resources=need_of(schema.resources, self._at) if schema.resources else {},
            device=device.name if device else "",
            device_resources=device.totals if device else {},
        )

    def _memory(self, name: str, schema: MemorySchema) -> Memory:
        at = {key: self._at(f"memories.{name}.{key}") for key in _MEMORY}
        ports = tuple(
            Port(
                port,
                **{key: self._at(f"memories.{name}.ports.{port}.{key}") for key in _PORT},
                carries=frozenset(numbers.carries),
            )
            for port, numbers in schema.ports.items()
        )
        return Memory(name, **at, ports=ports)

    def _array(self, name: str, schema: ArraySchema) -> ComputeArray:
        prefix = f"arrays.{name}"
        shape = tuple(self._at(f"{prefix}.shape.{i}") for i in range(len(schema.shape)))
        if schema.loop is not None:
            loop = PipelinedLoop(
                self._at(f"{prefix}.loop.interval_cycles"), self._at(f"{prefix}.loop.depth_cycles")
            )
            named = {name: Operation(name, {}, 0.0, {}) for name in schema.operations}
            return ComputeArray(name, shape, named, 0.0, 0.0, np.nan, loop)
        operations = {name: self._operation(prefix, name, schema) for name in schema.operations}
        units = sum(self._at(f"{prefix}.units.{unit}.area_um2") for unit in schema.units)
        return ComputeArray(
            name=name,
            shape=shape,
            operations=operations,
            register_words=self._at(f"{prefix}.registers.words"),
            register_energy_pj=self._at(f"{prefix}.registers.energy_pj"),
            pe_area_um2=units + self._at(f"{prefix}.registers.area_um2"),
        )

    def _operation(self, prefix: str, name: str, schema: ArraySchema) -> Operation:
        """An operation on a unit, or the sum of those that it is a sequence of."""
        own, path = schema.operations[name], f"{prefix}.operations.{name}"
        if own.sequence is None:
            cycles = {str(own.unit): self._at(f"{path}.cycles")}
            return Operation(name, cycles, self._at(f"{path}.energy_pj"), {name: 1.0})
        cycles = {}
        elementary: dict[str, Any] = {}
        energy: Any = 0.0
        for inner in own.sequence:
            part = self._operation(prefix, inner, schema)
            times = self._at(f"{path}.sequence.{inner}")
            energy = energy + times * part.energy_pj
            for unit, each in part.unit_cycles.items():
                cycles[unit] = cycles.get(unit, 0.0) + times * each
            for basic, each in part.elementary.items():
                elementary[basic] = elementary.get(basic, 0.0) + times * each
        return Operation(name, cycles, energy, elementary)
