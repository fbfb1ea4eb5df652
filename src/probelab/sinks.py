"""Where metrics go beside the disk: event files of TensorBoard, or Weights & Biases, each an extra.

    lab.train(task, ..., watch=lab.TensorBoard("events"))        the loss, while it falls
    probelab watch DIR --tensorboard events --wandb PROJECT      every run of a sweep: loss, then all its measures

Nothing depends on them: what they are given lies in the run folders already. Weights & Biases stays offline (in its
folder `wandb`, to be sent by `wandb sync`) unless it is told to go online.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

EVERY = 20  # steps whose losses are averaged into one point


class Sink(Protocol):
    """Takes numbers of a run at a step."""

    def write(self, run: str, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Watching:
    """What `lab.train(..., watch=...)` calls: the loss of every step, averaged over `every` of them."""

    def __init__(self, name: str, every: int):
        self.name, self.every = name, every
        self.waiting: list[float] = []

    def __call__(self, step: int, loss: float) -> None:
        self.waiting.append(loss)
        if len(self.waiting) == self.every:
            self.write(self.name, step + 1, {"train/loss": sum(self.waiting) / self.every})
            self.waiting = []

    def write(self, run: str, step: int, values: Mapping[str, float]) -> None:
        raise NotImplementedError


class TensorBoard(Watching):
    """Event files in `folder/<run>/`; look at them with `tensorboard --logdir folder`."""

    def __init__(self, folder: str | Path, name: str = "training", every: int = EVERY):
        needs("tensorboard", "TensorBoard")
        super().__init__(name, every)
        self.folder = Path(folder)
        self.writers: dict[str, Any] = {}

    def write(self, run: str, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2  # pyright: ignore[reportMissingImports]
        from tensorboard.summary.writer.event_file_writer import EventFileWriter  # pyright: ignore[reportMissingImports]

        if run not in self.writers:
            self.writers[run] = EventFileWriter(str(self.folder / run))
        made: Any = summary_pb2
        told = [made.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        event: Any = event_pb2
        about = dict(wall_time=time.time(), step=step, summary=made.Summary(value=told))
        self.writers[run].add_event(event.Event(**about))

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()


class WandB(Watching):
    """A run of Weights & Biases for each of ours; files lie in `folder/wandb`, and leave it only if `online`."""

    def __init__(
        self,
        project: str,
        folder: str | Path = ".",
        online: bool = False,
        name: str = "training",
        every: int = EVERY,
        **config: Any,
    ):
        needs("wandb", "Weights & Biases")
        super().__init__(name, every)
        self.project, self.folder, self.mode, self.config = (
            project,
            Path(folder),
            "online" if online else "offline",
            config,
        )
        self.runs: dict[str, Any] = {}

    def write(self, run: str, step: int, values: Mapping[str, float]) -> None:
        if self.mode == "offline":  # it would tell its makers how it is used, offline or not
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb  # pyright: ignore[reportMissingImports]

        if run not in self.runs:
            self.folder.mkdir(parents=True, exist_ok=True)
            alone = self.mode == "offline"  # then it asks nobody who we are, and on what machine
            quiet = wandb.Settings(silent=True, console="off", x_disable_viewer=alone, x_disable_machine_info=alone)
            about: dict[str, Any] = dict(
                project=self.project, name=run, dir=str(self.folder), mode=self.mode, config=self.config
            )
            self.runs[run] = wandb.init(**about, settings=quiet, reinit="create_new")
            self.runs[run].define_metric("*", step_metric="step")  # measures come after training, at earlier steps
        self.runs[run].log({"step": step, **values})

    def close(self) -> None:
        for run in self.runs.values():
            run.finish()


def needs(package: str, spoken: str) -> None:
    """Raise unless an extra is installed, and say how it is."""
    if find_spec(package) is None:
        raise ValueError(f"{spoken} is not installed: pip install '.[{package}]' in the checkout of probelab")
