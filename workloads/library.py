"""Finding cascades and models: by name in this package, by path among the user's files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from einsum_cascade import Cascade, load_cascade
from einsum_cascade.source import Document, InputError, check, parse_yaml, read_yaml
from workloads.models import Model


def list_cascades() -> tuple[str, ...]:
    """Names of the packaged cascades.

    >>> "attention-1pass" in list_cascades()
    True
    """
    return _names("cascades")


def list_models() -> tuple[str, ...]:
    """Names of the packaged models.

    >>> list_models()
    ('bert-base', 't5-small', 'trxl-wt103', 'xlm')
    """
    return _names("models")


def cascade(name_or_path: str | Path, base: str | Path | None = None) -> Cascade:
    """A packaged cascade by its name, or the user's own by its path.

    A relative path starts from `base` (the folder of the file that names it; else the working
    directory). Raises `InputError`, with the nearest name, when there is neither.

    >>> cascade("attention-3pass").einsum("GM").reduction
    'max'
    """
    found = _find("cascades", name_or_path, base)
    return _packaged_cascade(found) if isinstance(found, str) else load_cascade(found)


def model(source: str | Path | Mapping[str, Any], base: str | Path | None = None) -> Model:
    """A packaged model by its name, the user's own by its path, or one given as a mapping.

    >>> model("xlm").E, model({"D": 128, "H": 2, "E": 64, "S": 512}).name
    (128, 'inline')

    Raises `InputError` as `cascade` does, and for an extent that is no positive integer.
    """
    if isinstance(source, Mapping):
        return check(Model, Document("<model>", dict(source)))
    found = _find("models", source, base)
    return _packaged_model(found) if isinstance(found, str) else check(Model, read_yaml(found))


@cache
def _names(kind: str) -> tuple[str, ...]:
    entries = (files("workloads") / kind).iterdir()
    return tuple(sorted(e.name.removesuffix(".yaml") for e in entries if e.name.endswith(".yaml")))


@cache
def _packaged_cascade(name: str) -> Cascade:
    return load_cascade(_packaged("cascades", name))


@cache
def _packaged_model(name: str) -> Model:
    return check(Model, _packaged("models", name))


def _packaged(kind: str, name: str) -> Document:
    text = (files("workloads") / kind / f"{name}.yaml").read_text(encoding="utf-8")
    return parse_yaml(text, f"workloads/{kind}/{name}.yaml")


def _find(kind: str, name_or_path: str | Path, base: str | Path | None) -> str | Path:
    """The name of a packaged file, or the path of an existing one."""
    text = str(name_or_path)
    if isinstance(name_or_path, str) and text in _names(kind):
        return text
    path = Path(base or "") / text
    if path.is_file():
        return path
    what = kind.removesuffix("s")
    if path.suffix in (".yaml", ".yml") or "/" in text:
        raise InputError(f"no {what} file {str(path)!r}")
    raise InputError(
        f"unknown {what} {text!r} (nor is there a file of that name)",
        allowed=_names(kind),
        found=text,
    )
