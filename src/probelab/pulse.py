"""A sign of life: `live.json` in a run folder, every second or so while it trains, for who watches from outside."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from probelab.runs import Folder
from probelab.storage import RunError, remote, write_json

MEAN = 20  # steps whose losses are averaged
Logs = Sequence[Sequence[tuple[float, float]]]  # of each member, (loss, gradient norm) of each step


class Pulse:
    """Called after every step; writes where the runs are now and then. Results do not depend on it."""

    def __init__(self, folders: Sequence[Folder], seconds: float = 1.0):
        distant = bool(folders) and remote(folders[0].path)  # there each sign takes a journey
        self.folders, self.seconds, self.last = folders, 10 * seconds if distant else seconds, time.monotonic()

    def __call__(self, step: int, logs: Logs) -> None:
        now = time.monotonic()
        if now - self.last < self.seconds:
            return
        self.last = now
        for folder, log in zip(self.folders, logs, strict=True):
            losses = [loss for loss, _ in log[-MEAN:]]
            if losses:
                with suppress(RunError):  # a full disk is told by what must be written
                    write_json(folder.path / "live.json", {"step": step, "loss": sum(losses) / len(losses)})

    def end(self) -> None:
        """The runs train no more."""
        for folder in self.folders:
            (folder.path / "live.json").unlink(missing_ok=True)
