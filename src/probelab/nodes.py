"""What a node of a cluster is asked before work starts: which versions it has, and whether it shares the storage.

Standard library alone (but for a URL): these functions travel as they are, so that a node without probelab can answer.
"""

from __future__ import annotations

import fcntl
import os
import platform
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

OURS = ("probelab", "synthetic_tasks")
LIBRARIES = ("torch", "numpy", "pandas", "pyarrow", "safetensors", "scipy")  # they decide the bytes of what is written


def versions() -> dict[str, str]:
    """What decides the results, by name: a hash of our own sources, others' public versions; empty where absent."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in OURS:
        spec = find_spec(package)
        sources = sorted(Path(spec.origin).parent.rglob("*.py")) if spec and spec.origin else []
        total = blake2b(digest_size=5)
        for path in sources:
            total.update(f"{path.name}|".encode() + path.read_bytes())
        found[package] = total.hexdigest() if sources else ""
    for library in LIBRARIES:
        try:
            found[library] = version(library).partition("+")[0]
        except PackageNotFoundError:
            found[library] = ""
    return found


def instructions() -> str:
    """The widest vectors of this machine's processor, on which the last bit of a sum depends."""
    try:
        flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    except OSError:
        return ""
    return next((name for name in ("avx512f", "avx2", "avx") if name in flags), "")


def shares(folder: str, token: str, me: str) -> str:
    """What is wrong with a folder seen from here, empty if nothing is: the driver left a file there, and holds it."""
    if "://" in folder:
        return reaches(folder, token, me)
    left, answer = Path(folder, f".{token}"), Path(folder, f".{token}-{me}")
    try:
        if not left.exists():
            return "does not share"
        answer.write_text(token)
        handle = os.open(left, os.O_RDONLY)
    except OSError as error:
        return f"cannot write to ({error.strerror})"
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return ""
    except OSError as error:
        return f"cannot lock files in ({error.strerror})"
    finally:
        os.close(handle)
    return "sees no locks of other machines in"


def reaches(url: str, token: str, me: str) -> str:
    """The same of a URL, where nothing is held."""
    try:
        from fsspec import url_to_fs

        store, folder = url_to_fs(url, use_listings_cache=False)
        if not store.exists(f"{folder}/.{token}"):
            return "does not share"
        store.pipe_file(f"{folder}/.{token}-{me}", b"")
    except Exception as error:  # each store has its own
        return f"cannot write to ({error})"
    return ""


def asked(folder: str, token: str, me: str) -> tuple[dict[str, str], str, str]:
    """All of it, in a task."""
    return versions(), instructions(), shares(folder, token, me)


def differences(node: dict[str, str], here: dict[str, str]) -> list[str]:
    """What a node lacks or has in another version, a clause each."""
    found = []
    for name, wanted in here.items():
        have = node.get(name, "")
        if not have:
            found.append(f"has no {name}")
        elif have != wanted:
            found.append(
                f"has another {name}" + (" (its sources differ)" if name in OURS else f", {have} not {wanted}")
            )
    return found
