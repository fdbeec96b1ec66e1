"""Text that people wrote, with the place of every part of it, and errors that point there.

Every YAML file of the project (cascades, architectures, models, experiments) is read here, so that
a mistake in any of them is reported alike: file, line, column, key, what was found, what is
allowed, and the nearest match.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

import yaml

if TYPE_CHECKING:
    from pydantic import BaseModel

    Model = TypeVar("Model", bound=BaseModel)

Keys = tuple[str | int, ...]

_MAX_BYTES = 4 << 20
_MAX_SHOWN = 60


@dataclass(frozen=True)
class Place:
    """A position in a user's text; lines and columns count from 1.

    >>> str(Place("spec.yaml", 3, 5, "workload.batch"))
    'spec.yaml:3:5: workload.batch'
    """

    file: str
    line: int | None = None
    column: int | None = None
    key: str = ""

    def __str__(self) -> str:
        position = ":".join(str(p) for p in (self.file, self.line, self.column) if p is not None)
        return f"{position}: {self.key}" if self.key else position


class InputError(ValueError):
    """A mistake in something a user wrote. `str()` is the whole message, one problem a line.

    >>> print(InputError("unknown rank 'N'", Place("a.yaml", 2), allowed=["M", "NN"], found="N"))
    a.yaml:2: unknown rank 'N'; allowed: M, NN; did you mean 'NN'?
    """

    def __init__(
        self,
        message: str,
        place: Place | None = None,
        *,
        allowed: Iterable[object] = (),
        found: object = None,
        others: Iterable[InputError] = (),
        keys: Keys = (),
    ) -> None:
        self.message = message
        self.place = place
        self.allowed = tuple(str(a) for a in allowed)
        self.found = found
        self.others = tuple(others)
        self.keys = keys  # where a validator of a whole mapping found the mistake inside of it
        super().__init__(message)

    def __str__(self) -> str:
        text = f"{self.place}: {self.message}" if self.place else self.message
        if self.allowed:
            text += f"; allowed: {', '.join(self.allowed)}"
            near = nearest(str(self.found), self.allowed) if self.found is not None else None
            if near is not None:
                text += f"; did you mean {near!r}?"
        return "\n".join([text, *map(str, self.others)])


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """The allowed word most like `word`, or None when none is near.

    >>> nearest("attention-3pas", ["attention-1pass", "attention-3pass"])
    'attention-3pass'
    """
    by_folded = {a.casefold(): a for a in allowed}
    folded = word.casefold()
    found = difflib.get_close_matches(folded, by_folded, n=1, cutoff=0.6)
    if not found and len(folded) > 2:
        found = [a for a in by_folded if a.startswith(folded)]
    return by_folded[found[0]] if found else None


def shown(value: object) -> str:
    """`value` as it is quoted in a message: on one line and not too long."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


@dataclass(frozen=True)
class Document:
    """A YAML mapping and where each of its values stands."""

    file: str
    data: dict[str, Any]
    _root: yaml.Node | None = field(default=None, repr=False, compare=False)

    def part(self, *keys: str | int) -> Document:
        """The mapping under `keys` as a document of its own, its places kept."""
        data: Any = self.data
        for key in keys:
            data = data[key]
        return Document(self.file, data, self._node(keys))

    def place(self, *keys: str | int) -> Place:
        """Where the value under `keys` stands; of a missing one, where its parent stands."""
        node = self._key_node(keys)
        if node is None:
            return Place(self.file, key=_dotted(keys))
        mark = node.start_mark
        return Place(self.file, mark.line + 1, mark.column + 1, _dotted(keys))

    def text_place(self, *keys: str | int, line: int = 0, column: int = 0) -> Place:
        """Where a character inside the text under `keys` stands; both offsets count from 0."""
        node = self._node(keys)
        if not isinstance(node, yaml.ScalarNode):
            return self.place(*keys)
        mark = node.start_mark
        if node.style in ("|", ">"):  # the text begins on the line after the indicator
            indent = self._block_indent(node)
            return Place(self.file, mark.line + 2 + line, indent + column + 1, _dotted(keys))
        if line:
            return Place(self.file, mark.line + 1 + line, column + 1, _dotted(keys))
        quote = 1 if node.style in ("'", '"') else 0
        return Place(self.file, mark.line + 1, mark.column + quote + column + 1, _dotted(keys))

    @staticmethod
    def _block_indent(node: yaml.ScalarNode) -> int:
        buffer = node.start_mark.buffer
        if buffer is None:
            return 0
        lines = buffer.splitlines()[node.start_mark.line + 1 :]
        first = next((text for text in lines if text.strip()), "")
        return len(first) - len(first.lstrip())

    def _node(self, keys: Keys) -> yaml.Node | None:
        node: yaml.Node | None = self._root
        for key in keys:
            if isinstance(node, yaml.MappingNode):
                node = next((v for k, v in node.value if k.value == str(key)), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
                node = node.value[key] if key < len(node.value) else None
            else:
                return None
        return node

    def _key_node(self, keys: Keys) -> yaml.Node | None:
        """The node of the last key that exists: a mapping's key itself, a list's item."""
        for length in range(len(keys), 0, -1):
            parent, last = self._node(keys[: length - 1]), keys[length - 1]
            if isinstance(parent, yaml.MappingNode):
                found = [key for key, _ in parent.value if key.value == str(last)]
            elif isinstance(parent, yaml.SequenceNode) and isinstance(last, int):
                found = parent.value[last : last + 1]
            else:
                found = []
            if found:
                return cast("yaml.Node", found[0])
        return self._root


def read_yaml(path: str | Path) -> Document:
    """Read a YAML file whose top level is a mapping.

    Raises `InputError` for a file that is missing, too large, not UTF-8, not YAML, not a mapping,
    or that names a key twice.
    """
    file = str(path)
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", Place(file)) from None
    if len(raw) > _MAX_BYTES:
        raise InputError(f"{len(raw)} bytes long, more than the {_MAX_BYTES} allowed", Place(file))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"not UTF-8 text: byte 0x{raw[error.start]:02x}", Place(file, line)
        ) from None
    return parse_yaml(text, file)


def parse_yaml(text: str, file: str = "<text>") -> Document:
    """Like `read_yaml`, for a text.

    >>> parse_yaml("a: {b: 1}").place("a", "b").line
    1
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_unclear_keys(root, file)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
        raise InputError(f"not valid YAML: {error.problem or error.context}", place) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"not valid YAML: {error.reason}", Place(file, line)) from None
    except RecursionError:
        raise InputError("nested too deeply", Place(file)) from None
    except InputError:
        raise
    except ValueError as error:  # e.g. a date that does not exist, an integer of 5,000 digits
        raise InputError(f"not valid YAML: {error}", Place(file)) from None
    if not isinstance(data, dict):
        kind = "nothing" if data is None else f"a {type(data).__name__}"
        raise InputError(
            f"a mapping (key: value) is expected at the top, found {kind}", Place(file)
        )
    return Document(file, data, root)


def _refuse_unclear_keys(root: yaml.Node | None, file: str) -> None:
    """A key given twice silently wins in YAML; a key that is a list or a mapping is a slip."""
    stack, seen = [root], set()
    while stack:
        node = stack.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            stack.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                mark = key.start_mark
                place = Place(file, mark.line + 1, mark.column + 1)
                if not isinstance(key, yaml.ScalarNode):
                    raise InputError("a key must be a plain word", place)
                if key.value in keys:
                    raise InputError(f"key {key.value!r} is given twice", place)
                keys.add(key.value)
                stack.append(value)


def check(model: type[Model], document: Document, keys: Keys = (), data: Any = None) -> Model:
    """The part of `document` under `keys` as a pydantic `model`.

    `data`, when given, is validated in place of what stands there (a file that was merged with the
    one it extends). Raises `InputError`, every problem with its place and the allowed keys.
    """
    from pydantic import ValidationError

    if data is None:
        data = document.data
        for key in keys:
            data = data[key]
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [_problem(model, document, keys, dict(e)) for e in error.errors()]
        first, *others = _distinct(problems)
        raise InputError(
            first.message, first.place, allowed=first.allowed, found=first.found, others=others
        ) from None


def _distinct(problems: list[InputError]) -> list[InputError]:
    """Each problem once; a typo first, and without the missing key that it explains."""
    typos = [p for p in problems if p.message.startswith("unknown key")]
    meant = {nearest(str(p.found), p.allowed) for p in typos}
    rest = [
        p for p in problems
        if p not in typos and not (p.message.startswith("missing key") and p.found in meant)
    ]  # fmt: skip
    return list({str(problem): problem for problem in (*typos, *rest)}.values())


def _problem(model: Any, document: Document, keys: Keys, error: dict[str, Any]) -> InputError:
    location = _in_data(document.data, keys, error["loc"])
    place = document.place(*keys, *location)
    kind, value = error["type"], error["input"]
    if kind == "extra_forbidden":
        name = str(location[-1])
        return InputError(
            f"unknown key {name!r}", place, allowed=_allowed_keys(model, error["loc"]), found=name
        )
    if kind == "missing":
        name = str(error["loc"][-1])
        return InputError(f"missing key {name!r}", place, found=name)
    context = error.get("ctx", {})
    inner = context.get("error")
    if isinstance(inner, InputError):  # raised by a validator that knows what is allowed
        place = document.place(*keys, *location, *inner.keys) if inner.keys else place
        return InputError(inner.message, place, allowed=inner.allowed, found=inner.found)
    if kind in ("literal_error", "enum"):
        allowed = [
            w.strip().strip("'") for w in context["expected"].replace(" or ", ", ").split(",")
        ]
        return InputError(f"found {shown(value)}", place, allowed=allowed, found=value)
    message = str(inner) if isinstance(inner, ValueError) else str(error["msg"])
    return InputError(f"{message[:1].lower()}{message[1:]}, found {shown(value)}", place)


def _in_data(data: Any, keys: Keys, location: Keys) -> Keys:
    """`location` without the tags that pydantic puts in for the branch of a union."""
    for key in keys:
        data = data[key]
    kept: list[str | int] = []
    for position, key in enumerate(location):
        last = position == len(location) - 1
        if isinstance(data, dict) and (key in data or last):
            kept.append(key)
            data = data.get(key)
        elif isinstance(data, list) and isinstance(key, int):
            kept.append(key)
            data = data[key] if key < len(data) else None
    return tuple(kept)


def _allowed_keys(model: Any, location: Keys) -> list[str]:
    """The keys that the model at the parent of `location` has."""
    from pydantic import BaseModel

    models = [model]
    for key in location[:-1]:
        fields = [m.model_fields for m in models]
        inner = [f[key].annotation for f in fields if isinstance(key, str) and key in f]
        if inner:
            models = [m for annotation in inner for m in _models_in(annotation)]
    names = [
        field_.alias or name
        for m in models
        if isinstance(m, type) and issubclass(m, BaseModel)
        for name, field_ in m.model_fields.items()
    ]
    return list(dict.fromkeys(names))


def _models_in(annotation: Any) -> Iterator[Any]:
    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, mapping by mapping; lists are replaced whole.

    >>> merged({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}})
    {'a': {'x': 1, 'y': 3}}
    """
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def _dotted(keys: Keys) -> str:
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


__all__ = [
    "Document",
    "InputError",
    "Place",
    "check",
    "merged",
    "nearest",
    "parse_yaml",
    "read_yaml",
    "shown",
]
