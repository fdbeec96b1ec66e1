"""Finding cascades, models, networks: by name in this package, by path among the user's files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from einsum_cascade import Cascade, load_cascade
from einsum_cascade.source import Document, InputError, check, parse_yaml, read_yaml
from workloads.blocks import Network
from workloads.models import Model
from workloads.routings import Routing

Kind = Literal["attention", "layers", "examples"]


def list_cascades(kind: Kind | None = None) -> tuple[str, ...]:
    """Names of the packaged cascades: all, or those of one kind (a folder of `cascades/`).

    `attention`: every variant of attention; `layers`: the rest of a network; `examples`: cascades
    that explain something.

    >>> "attention-1pass" in list_cascades("attention"), list_cascades("examples")[-1]
    (True, 'pedagogical-3')
    """
    found = _names("cascades")
    return found if kind is None else tuple(n for n in found if _folder("cascades")[n] == kind)


def list_models() -> tuple[str, ...]:
    """Names of the packaged models.

    >>> "bert-base" in list_models(), "llama3-8b" in list_models()
    (True, True)
    """
    return _names("models")


def list_networks() -> tuple[str, ...]:
    """Names of the packaged networks.

    >>> "decoder" in list_networks()
    True
    """
    return _names("networks")


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


def network(source: str | Path | Mapping[str, Any], base: str | Path | None = None) -> Network:
    """A packaged network by its name, the user's own by its path, or one given as a mapping.

    >>> list(network("decoder").blocks)
    ['input', 'layers', 'output']

    Raises `InputError` as `cascade` does, and for what is no arithmetic.
    """
    if isinstance(source, Mapping):
        return check(Network, Document("<network>", dict(source)))
    found = _find("networks", source, base)
    return _packaged_network(found) if isinstance(found, str) else check(Network, read_yaml(found))


def routing(source: str | Path, base: str | Path | None = None) -> Routing:
    """A packaged routing by its name, or the user's own by its path.

    >>> sum(load > 0 for load in routing("edge-moe-task0").histogram)
    12

    Raises `InputError` as `cascade` does, and for loads that do not add up.
    """
    found = _find("routings", source, base)
    if isinstance(found, str):
        return check(Routing, _packaged("routings", found))
    return check(Routing, read_yaml(found))


def list_routings() -> tuple[str, ...]:
    """Names of the packaged routings.

    >>> list_routings()
    ('edge-moe-task0', 'edge-moe-task1')
    """
    return _names("routings")


@cache
def _folder(kind: str) -> dict[str, str]:
    """The folder (`""`: none) inside of `kind` that each packaged file lies in, by its name."""
    top = files("workloads") / kind
    found: dict[str, str] = {}
    for folder in ("", *(entry.name for entry in top.iterdir() if entry.is_dir())):
        for entry in (top / folder if folder else top).iterdir():
            if entry.name.endswith(".yaml"):
                found[entry.name.removesuffix(".yaml")] = folder
    return found


@cache
def _names(kind: str) -> tuple[str, ...]:
    return tuple(sorted(_folder(kind)))


@cache
def _packaged_cascade(name: str) -> Cascade:
    return load_cascade(_packaged("cascades", name))


@cache
def _packaged_model(name: str) -> Model:
    return check(Model, _packaged("models", name))


@cache
def _packaged_network(name: str) -> Network:
    return check(Network, _packaged("networks", name))


def _packaged(kind: str, name: str) -> Document:
    path = "/".join(filter(None, (kind, _folder(kind)[name], f"{name}.yaml")))
    text = (files("workloads") / path).read_text(encoding="utf-8")
    return parse_yaml(text, f"workloads/{path}")


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
