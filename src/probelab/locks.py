"""One writer at a time: a lock of the file system, which dies with its holder, or where there is none a lease."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast
from uuid import uuid4

from probelab.storage import RunError, make_room, noted, read, remote, sweep, told, write_json

LEASE, RENEWED = 60.0, 15.0  # seconds that a lease holds, and after which it is renewed
LOOK = 0.2  # seconds after which a new lease is looked at again


class Busy(RunError):
    """Another process is writing to the folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"another process is writing to {folder}: wait for it, or give another --out")


@contextmanager
def locked(folder: Path, room: str = "") -> Iterator[None]:
    """Hold a folder for writing, or a room of it."""
    if remote(folder):
        with leased(folder, folder / room / ".writer"):
            yield
        return
    (folder / room).mkdir(exist_ok=True)
    handle = os.open(folder / room, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(folder) from error
        for part in folder.rglob(".*.part"):
            sweep(part)
        yield
    finally:
        os.close(handle)


@contextmanager
def leased(folder: Path, path: Path) -> Iterator[None]:
    """An object that says who writes and until when, renewed while it is held; what a dead process left lapses.

    A store that creates an object only if there is none (S3: If-None-Match) lets one of two through. Should two hold a
    lease all the same (no such store, clocks a minute apart), they write the same bits: work is lost, results are not.
    """
    mine, over = uuid4().hex, Event()
    with told(f"take the lease {path}"):
        got = taken(path, mine)
    if not got:
        raise Busy(folder)
    keeper = Thread(target=keep, args=(path, mine, over), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()
        with suppress(Exception):  # it lapses
            if noted(path).get("who") == mine:
                path.unlink()


def taken(path: Path, mine: str) -> bool:
    """Create the lease, if there is none that holds."""
    there = path.exists()
    if there and (noted(path).get("until") or path.stat().st_mtime + LEASE) > time.time():
        return False
    if there:
        path.unlink(missing_ok=True)
    make_room(path)
    text = json.dumps({"who": mine, "until": time.time() + LEASE})
    with suppress(FileExistsError):  # another's; or ours, where the answer was lost and the store asked again
        cast(Any, path).fs.pipe_file(cast(Any, path).path, text.encode(), mode="create")
    if there:
        time.sleep(LOOK)  # of two that take over, the second may delete what the first has made
    return noted(path).get("who") == mine


def keep(path: Path, mine: str, over: Event) -> None:
    """Renew the lease until it is given back, or another's."""
    while not over.wait(RENEWED):
        with suppress(Exception):  # the next time, perhaps
            if json.loads(read(path))["who"] == mine:
                write_json(path, {"who": mine, "until": time.time() + LEASE})
