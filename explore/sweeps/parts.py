"""The folder of a sweep: parts as Parquet files named by their keys, and which of them are it.

    DIR/sweep.json      the keys of all parts, in the order of their points
    DIR/parts/KEY-SUM.parquet
    DIR/spec.yaml       a copy of the spec

A part is written beside its place, forced to the disk and renamed: it is there whole or not at all.
SUM is a hash of the file, by which a later run finds out whether it still is what was written.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from einsum_cascade.source import InputError

MANIFEST, PARTS, SPEC, LOCK = "sweep.json", "parts", "spec.yaml", ".lock"
FORMAT = 1
_TEMPORARY = ".writing"


@dataclass
class Store:
    """The parts in a folder, by their keys."""

    folder: Path
    _names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with suppress(FileNotFoundError):
            for entry in os.scandir(self.folder / PARTS):
                key, _, end = entry.name.partition("-")
                if end.endswith(".parquet"):
                    self._names[key] = entry.name

    def __contains__(self, key: object) -> bool:
        return key in self._names

    def newest_but(self, keys: Collection[str]) -> list[str]:
        """All others than `keys`, the newest first."""
        others = set(self._names) - set(keys)
        return sorted(others, key=lambda key: self.path(key).stat().st_mtime_ns, reverse=True)

    def metadata(self, key: str) -> dict[str, str]:
        """What the file of a part says beside its rows; nothing, if it cannot be read."""
        import polars as pl

        try:
            return pl.read_parquet_metadata(self.path(key))
        except (OSError, pl.exceptions.PolarsError):
            return {}

    def path(self, key: str) -> Path:
        """Where a part is that is there."""
        return self.folder / PARTS / self._names[key]

    def read(self, key: str) -> bytes | None:
        """The file of a part that is there and is what was written; another is forgotten."""
        if key not in self._names:
            return None
        try:
            data = self.path(key).read_bytes()
        except OSError:
            data = b""
        if self._names[key] == _name(key, data):
            return data
        with suppress(OSError):
            self.path(key).unlink()
        del self._names[key]
        return None

    def whole(self, key: str) -> bool:
        """Whether a part is there and is what was written."""
        return self.read(key) is not None

    def write(self, key: str, data: bytes) -> None:
        """Add a part. Raises `InputError` when it cannot be written; what is there stays valid."""
        name = _name(key, data)
        write_whole(self.folder / PARTS / name, data)
        self._names[key] = name

    def prune(self, keys: Sequence[str]) -> int:
        """Remove all parts but those of `keys`; how many were removed."""
        kept = set(keys)
        stale = [key for key in self._names if key not in kept]
        for key in stale:
            self.path(key).unlink(missing_ok=True)
            del self._names[key]
        return len(stale)


def _name(key: str, data: bytes) -> str:
    return f"{key}-{blake2b(data, digest_size=8).hexdigest()}.parquet"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, whenever the power goes."""
    beside = path.with_name(f"{path.name}{_TEMPORARY}")
    try:
        with beside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise InputError(
            f"cannot write to {str(path.parent)!r}: {error.strerror}; what is finished is kept: "
            "run the same again to continue"
        ) from None


@contextmanager
def opened(folder: Path) -> Iterator[Store]:
    """The store in a folder, for one run at a time.

    Raises `InputError` for a folder that holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{str(folder)!r} is a file: give a folder for the results")
    known = {MANIFEST, PARTS, SPEC, LOCK}
    if folder.is_dir():
        names = {entry.name for entry in folder.iterdir()}
        if names and not names & {MANIFEST, PARTS}:
            other = sorted(names - known)[0]
            raise InputError(
                f"{str(folder)!r} holds {other!r} and no sweep: give a new folder with --out DIR"
            )
    try:
        (folder / PARTS).mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise InputError(f"cannot write to {str(folder)!r}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another run is writing to {str(folder)!r}") from None
        except OSError:
            pass  # a file system without locks: parts are whole all the same
        for left in (folder / PARTS).glob(f"*{_TEMPORARY}"):
            left.unlink(missing_ok=True)
        yield Store(folder)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Say which parts are the sweep."""
    text = json.dumps({"format": FORMAT, **manifest}, indent=1)
    write_whole(folder / MANIFEST, text.encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `write_manifest` wrote. Raises `InputError` when there is none."""
    file = folder / MANIFEST
    try:
        found: dict[str, Any] = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise InputError(f"no {MANIFEST} in {str(folder)!r}: run `explore sweep`") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{str(file)!r} cannot be read: {error}") from None
    if found.get("format") != FORMAT:
        raise InputError(f"{str(file)!r} is of another version: run `explore sweep` again")
    return found
