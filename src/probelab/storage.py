"""Where results lie: a folder of this machine, or a URL that fsspec can reach (`s3://bucket/folder`), written alike.

No reader ever takes half a file for a whole one. In a file system a file is written beside its place and then renamed.
An object store shows an object when all of it has arrived, so there the name is written to at once.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, cast
from uuid import uuid4

HOST = re.sub(r"\W", "_", platform.node())
LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, None}  # None: no error of the storage
ABANDONED = 3600  # seconds after which a half-written file of another machine is swept
STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "r2", "memory"}  # of objects


class RunError(ValueError):
    """What is on disk is not what was asked for; nothing was changed."""


def home(out: str | Path | None = None) -> Path:
    """Where results go: `out`, else the environment variable PROBELAB_RUNS, else `./runs`."""
    return located(out or os.environ.get("PROBELAB_RUNS") or "runs")


def located(place: str | Path) -> Path:
    """A folder or file: a path, or a URL as `UPath`, which answers to all that a path is asked here."""
    if re.match(r"\w\w+:/\w", str(place)):  # not a drive of Windows
        raise ValueError(f"{place} is a URL that went through pathlib, which writes // as /: give it as text")
    if "://" not in str(place):
        return Path(place)
    if str(place).startswith(("file://", "local://")):
        return Path(str(place).partition("://")[2])
    from upath import UPath  # a tenth of a second that a folder of this machine need not wait

    try:
        path = UPath(place, use_listings_cache=False)  # others write, too
        _ = path.fs  # it is here that the protocol is found, or not
    except (ImportError, ValueError) as error:
        raise ValueError(f"{place} cannot be reached: {error}") from error
    return cast(Path, path)


def remote(path: Path) -> bool:
    """Is it a URL?"""
    return not isinstance(path, Path)


def passing(error: BaseException) -> bool:
    """May the storage do next time what it could not do now? Not if it is full or closed to us."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno not in LASTING


@contextmanager
def told(doing: str) -> Iterator[None]:
    """Say every failure of the storage alike: those of a distant one are of many kinds."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError):
        raise  # no failure of a store
    except Exception as error:  # each store has its own, for want of a connection or of credentials
        cause = error
        if not isinstance(error, OSError) or error.errno is None:
            closed = isinstance(error, PermissionError) or "credential" in str(error).lower()
            cause = OSError(errno.EACCES if closed else errno.EIO, str(error))
        raise RunError(f"could not {doing}: {getattr(cause, 'strerror', None) or error}") from cause


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    if remote(path):
        with told(f"write {path}"):
            send(path, data)
        return
    temporary = unfinished(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunError(f"could not write {path}: {error.strerror}; what was there before is untouched") from error


def send(path: Any, data: bytes) -> None:
    """Write to a URL: as one object, or elsewhere as one file that is then renamed."""
    if path.protocol in STORES:
        path.fs.pipe_file(path.path, data)
        return
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.part")
    make_room(path)
    temporary.write_bytes(data)
    path.fs.mv(temporary.path, path.path)


def make_room(path: Any) -> None:
    """The folder of a file at a URL, where there are folders."""
    if path.protocol not in STORES:
        path.parent.mkdir(parents=True, exist_ok=True)


def read(path: Path) -> bytes:
    """What is in a file; of a URL in one journey."""
    return cast(Any, path).fs.cat_file(cast(Any, path).path) if remote(path) else path.read_bytes()


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented and with sorted keys."""
    write(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def noted(path: Path) -> dict[str, Any]:
    """What a small JSON file says; nothing, if there is none."""
    return parsed(content(path))


def parsed(text: bytes) -> dict[str, Any]:
    """The same of what was read from one."""
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        return {}


@contextmanager
def at_hand(path: Path) -> Iterator[Path]:
    """A file of this machine with the content of `path`: itself, or a copy for as long as it is needed."""
    if not remote(path):
        yield path
        return
    with NamedTemporaryFile() as copy:
        with told(f"read {path}"):
            copy.write(read(path))
        copy.flush()
        yield Path(copy.name)


def contents(paths: Sequence[Path]) -> list[bytes]:
    """What is in files of one place, nothing where that cannot be read; those of a URL are fetched side by side."""
    if not paths or not remote(paths[0]):
        return [content(path) for path in paths]
    names = [cast(Any, path).path for path in paths]
    found = cast(Any, paths[0]).fs.cat(names, on_error="omit")
    return [found.get(name, b"") for name in names]


def content(path: Path) -> bytes:
    """What is in a file, nothing if that cannot be read."""
    try:
        return read(path)
    except OSError:
        return b""


def below(folder: Path) -> dict[str, int]:
    """Every file below a URL, by its name from there, and its bytes: one listing, as each question is a journey."""
    distant = cast(Any, folder)
    root = distant.path.strip("/") + "/"
    found = distant.fs.find(distant.path, detail=True)
    return {name.strip("/").removeprefix(root): about["size"] for name, about in found.items()}


def reach(place: Path) -> None:
    """Refuse a URL that does not answer, or not to us."""
    if remote(place):
        with told(f"reach {place}"):
            place.exists()


def check(out: Path) -> None:
    """Refuse a URL that cannot be written to, before work starts; a folder here says so at the first file."""
    if remote(out):
        probe = out / f".probelab-{uuid4().hex}"
        write(probe, b"")
        with told(f"delete in {out}"):
            probe.unlink()


def unfinished(path: Path, pid: int | None = None) -> Path:
    """The neighbour that a process of this machine writes to before it renames."""
    return path.with_name(f".{path.name}.{HOST}.{pid or os.getpid()}.part")


def sweep(part: Path) -> None:
    """Remove what a killed process had half written; its machine and its number are in the name."""
    *_, host, pid, _ = part.name.split(".")
    try:
        if host == HOST:
            os.kill(int(pid), 0)
        elif time.time() - part.stat().st_mtime > ABANDONED:
            part.unlink(missing_ok=True)
    except ProcessLookupError:
        part.unlink(missing_ok=True)
    except (ValueError, OSError):
        return
