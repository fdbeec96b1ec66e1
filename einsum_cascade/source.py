"""Text that people wrote, with the place of every part of it, and errors that point there.

Every YAML file of the project (cascades, architectures, models, experiments) is read here, so that
a mistake in any of them is reported alike: file, line, column, key, what was found, what is
allowed, and the nearest match.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
_MAX_ALLOWED = 14  # keys that a message lists in full; of more, the nearest
_NEAREST = 10


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
            near = nearest(str(self.found), self.allowed) if self.found is not None else None
            hint = f"did you mean {near!r}?" if near is not None else ""
            if len(self.allowed) <= _MAX_ALLOWED:
                text += f"; allowed: {', '.join(self.allowed)}" + (f"; {hint}" if hint else "")
            else:
                text += f"; {hint} allowed: " if hint else "; allowed: "
                kept = _most_alike(str(self.found or ""), self.allowed)
                text += f"{', '.join(kept)} and {len(self.allowed) - len(kept)} more"
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


def _most_alike(word: str, allowed: tuple[str, ...]) -> list[str]:
    """The few of many allowed words most like `word`, nearest first; the first few if none is."""
    near = nearest(word, allowed)
    if near is None:
        return list(allowed[:_NEAREST])
    folded = word.casefold()
    alike = {a: difflib.SequenceMatcher(None, folded, a.casefold()).ratio() for a in allowed}
    return sorted(alike, key=lambda a: (a != near, -alike[a]))[:_NEAREST]


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
        errors = [dict(e) for e in error.errors() if e["type"] not in _CONSEQUENCES]
        errors = list(_by_value(document, keys, errors))
        problems = [_problem(model, document, keys, each) for each in errors]
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


_CONSEQUENCES = ("default_factory_not_called",)  # errors that stand beside the one that is meant
_MAPPING = "a mapping (key: value)"
_EXPECTED = {  # pydantic's types of errors in plain words
    "string_type": "text",
    "path_type": "a path",
    "dict_type": _MAPPING,
    "mapping_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "dataclass_type": _MAPPING,
    "list_type": "a list",
    "tuple_type": "a list",
    "iterable_type": "a list",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "none_required": "nothing",
    "greater_than_equal": "a number of at least {ge}",
    "greater_than": "a number above {gt}",
    "less_than_equal": "a number of at most {le}",
    "less_than": "a number below {lt}",
    "string_too_short": "at least {min_length} letter(s)",
    "string_too_long": "at most {max_length} letter(s)",
    "too_short": "at least {min_length} item(s)",
    "too_long": "at most {max_length} item(s)",
}


def _expected(error: Mapping[str, Any]) -> str | None:
    """What is expected in place of a value that is of the wrong kind or size."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in ("literal_error", "enum"):
        return ", ".join(_choices(context))
    if kind == "string_pattern_mismatch":
        return _in_words(context["pattern"])
    text = _EXPECTED.get(kind)
    if text is None:
        return None
    text = text.format_map(context)
    counts = [int(n) for n in re.findall(r"\d+", text)]
    return text.replace("(s)", "" if counts == [1] else "s")


def _choices(context: Mapping[str, Any]) -> list[str]:
    found = str(context["expected"]).replace(" or ", ", ").split(",")
    return [word.strip().strip("'") for word in found]


def _in_words(pattern: str) -> str:
    """A pattern of one character class, and maybe another for the first character, in words.

    >>> _in_words("^[A-Za-z0-9][A-Za-z0-9._-]*$")
    "letters, digits, '.', '_' and '-', the first a letter or a digit"
    """
    found = re.fullmatch(r"\^(?:\[([^^\]]+)\])?\[([^\]]+)\][*+]\$", pattern)
    if found is None:
        return f"text of the form {pattern}"
    first, every = found.groups()
    if every.startswith("^"):
        return "text on one line"
    words = _joined(_characters(every, "letters", "digits"), "and")
    if first:
        words += f", the first {_joined(_characters(first, 'a letter', 'a digit'), 'or')}"
    return words


def _characters(of: str, letter: str, digit: str) -> list[str]:
    words = [word for span, word in (("A-Za-z", letter), ("0-9", digit)) if span in of]
    return words + [repr(mark) for mark in of.replace("A-Za-z", "").replace("0-9", "")]


def _joined(words: Sequence[str], last: str) -> str:
    """`a, b and c`, with `last` before the last."""
    *others, end = words
    return f"{', '.join(others)} {last} {end}" if others else end


def _by_value(
    document: Document, keys: Keys, errors: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The errors, those of the branches of a union made one.

    A value that may be of several kinds and is of none has an error for each of them; one that is
    of a kind, but has a mistake inside, has that error and the other kinds' beside it.
    """
    places = [_in_data(document, keys, e) for e in errors]
    kinds = [_expected(e) for e in errors]
    for i, (error, place) in enumerate(zip(errors, places, strict=True)):
        if kinds[i] is None:
            yield error
            continue
        if any(len(other) > len(place) and other[: len(place)] == place for other in places):
            continue
        alike = [j for j, other in enumerate(places) if other == place and kinds[j] is not None]
        if alike[0] != i:
            continue
        wanted = list(dict.fromkeys(str(kinds[j]) for j in alike))
        yield error if len(wanted) == 1 else error | {"expected": _joined(wanted, "or")}


def _problem(model: Any, document: Document, keys: Keys, error: dict[str, Any]) -> InputError:
    location = _in_data(document, keys, error)
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
    if kind in ("literal_error", "enum") and "expected" not in error:
        return InputError(f"found {shown(value)}", place, allowed=_choices(context), found=value)
    wanted = error.get("expected") or _expected(error)
    if wanted is not None:
        return InputError(f"expected {wanted}, found {shown(value)}", place)
    message = str(inner) if isinstance(inner, ValueError) else str(error["msg"])
    return InputError(f"{message[:1].lower()}{message[1:]}, found {shown(value)}", place)


def _in_data(document: Document, keys: Keys, error: Mapping[str, Any]) -> Keys:
    """Where an error is, without the tags that pydantic puts in for the branch of a union."""
    data: Any = document.data
    for key in keys:
        data = data[key]
    location: Keys = error["loc"]
    kept: list[str | int] = []
    for position, key in enumerate(location):
        absent = error["type"] == "missing" and position == len(location) - 1
        if isinstance(data, dict) and (key in data or absent):
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
