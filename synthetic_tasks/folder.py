"""A folder that is filled file by file: finished files are kept and verified, anything else in it is refused."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

MANIFEST = "shards.json"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class Folder:
    """Finished files by name, with size and hash; `spec` is all that determines their bytes."""

    path: Path
    spec: dict[str, Any]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write a file under another name, then rename it: it is there whole or not at all."""
        try:
            replace(self.path / name, write)
            self.files[name] = fingerprint(self.path / name)
            self.record()
        except OSError as error:
            if error.errno not in FULL:
                raise
            kept = f"{len(self.files)} files are finished and kept"
            advice = "make room and give the same command again to go on"
            raise OSError(error.errno, f"no space left for {name} in {self.path}: {kept}; {advice}") from error

    def record(self) -> None:
        """Write down what is finished."""
        text = json.dumps({"spec": self.spec, "files": dict(sorted(self.files.items()))}, indent=1) + "\n"
        replace(self.path / MANIFEST, lambda path: path.write_text(text, encoding="utf-8"))


@contextmanager
def claim(path: Path, spec: dict[str, Any]) -> Iterator[Folder]:
    """The folder, for this process alone; ValueError if it holds another dataset, or something else, or is in use."""
    spec = json.loads(json.dumps(spec))
    _held(path, spec)
    path.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        files = _held(path, spec)
        folder = Folder(path, spec, {name: was for name, was in files.items() if _intact(path / name, was)})
        folder.record()
        yield folder


def _held(path: Path, spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The files that the folder's manifest lists, if it is a manifest of the same dataset."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file, and a dataset is a folder")
    if not path.exists() or all(entry.name.endswith(".part") for entry in path.iterdir()):
        return {}
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        held, files = dict(manifest["spec"]), dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not empty and holds no dataset of ours; name an empty or a new folder") from None
    differs = [
        f"{key} is {_brief(held.get(key), spec.get(key))} there and {_brief(spec.get(key), held.get(key))} here"
        for key in sorted(held.keys() | spec.keys())
        if held.get(key) != spec.get(key)
    ]
    if differs:
        raise ValueError(
            f"{path} holds another dataset: {'; '.join(differs)}. Name another folder, or ask for the same"
        )
    return files


def _brief(value: Any, other: Any) -> Any:
    """A value, or of a dictionary only what differs."""
    if isinstance(value, dict) and isinstance(other, dict):
        return {key: value.get(key) for key in value if value.get(key) != other.get(key)}
    return value


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """A lock that dies with its holder and leaves no file; none where the system has no such thing."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ValueError(f"another process is writing to {path}; wait for it, or name another folder") from None
    finally:
        os.close(handle)


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a file beside `path`, bring it to the disk, and rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def fingerprint(path: Path) -> dict[str, Any]:
    """Size in bytes and BLAKE2b hash of a file."""
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return {"bytes": path.stat().st_size, "blake2b": digest.hexdigest()}


def _intact(path: Path, was: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == was.get("bytes") and fingerprint(path) == was
