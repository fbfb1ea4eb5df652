"""The loop: grow a stack of models, keep the checkpoints that are missing, and be able to continue exactly."""

from __future__ import annotations

import io
import math
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from probelab import schedule
from probelab.attention import Dropout
from probelab.edit import SILENT, Tape, clamping, facts_of
from probelab.model import INITS, apply, init, inputs, no_dropout, shapes, sites
from probelab.optim import Flat, Update
from probelab.pulse import Pulse
from probelab.rows import load_rows
from probelab.runs import Folder, load_arrays, save_arrays
from probelab.spec import Spec
from probelab.storage import RunError, write, write_json
from synthetic_tasks import Batch, batch, stream
from synthetic_tasks.task import choose, require

LOG = ("loss", "grad_norm")
AHEAD = 8  # steps whose batches are drawn together
Progress = Callable[[int], None]  # called with the number of steps just done
Watch = Callable[[int, list[float]], None]  # called with the step and the loss of each member


def grow(
    folders: Sequence[Folder],
    steps: int,
    keep: Iterable[int] = (),
    device: str = "cpu",
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> None:
    """Train the runs in `folders` together for `steps` steps, keeping the weights at the steps in `keep`.

    What is there already is not made again: training starts from the latest anchor before the first missing checkpoint,
    and repeats the same numbers exactly (CPU, same build). A member whose loss is no longer finite stops alone.
    """
    specs = [folder.spec for folder in folders]
    check_stack(specs)
    wanted = sorted({step for step in keep if 0 <= step <= steps} | {0, steps})
    with one_thread(), locked(folders):
        span = what_is_missing(folders, wanted, steps)
        if progress:
            progress(steps - (span[1] - span[0] if span else 0))
        if watch:
            for step, losses in enumerate(zip(*(past(folder, span) for folder in folders), strict=False)):
                watch(step, list(losses))
        if span:
            train(folders, *span, wanted, set(schedule.anchors(steps)), device, progress, watch)
        for folder in folders:
            if folder.stopped:  # at that step the loss was not finite: its weights are no good
                folder.checkpoint(folder.stopped["step"]).unlink(missing_ok=True)
            elif folder.length < steps:
                write_json(folder.path / "done", {"steps": steps})


def check(spec: Spec, steps: int, keep: Iterable[int] = (), device: str = "cpu") -> None:
    """Refuse what cannot be trained, before anything is written."""
    require(isinstance(steps, int) and steps >= 0, "steps", steps, "a whole number, 0 or more")
    for step in keep:
        require(isinstance(step, int) and 0 <= step <= steps, "keep", step, f"whole numbers from 0 to steps = {steps}")
    choose("init", spec.model.init, INITS)
    shapes(spec.model, spec.task)
    for clamp in spec.edits:
        for fact in clamp.facts:
            choose(f"fact of {spec.task.name} for the clamp {clamp.name}", fact, spec.task.facts)
    check_device(device)


def check_device(device: str) -> None:
    """Refuse a device that this machine does not have."""
    choose("device", device.partition(":")[0], ("cpu", "cuda"))
    require(device == "cpu" or torch.cuda.is_available(), "device", device, "cpu, as no GPU is found here")


def check_stack(specs: Sequence[Spec]) -> None:
    """Members of a stack may differ in seeds, in learning rate and decay, in edits, and in dials that keep shapes."""
    first = specs[0]
    for spec in specs[1:]:
        same = {
            "model": spec.model == first.model,
            "batch": spec.batch == first.batch,
            "task": type(spec.task) is type(first.task),
            "shapes": shapes(spec.model, spec.task) == shapes(first.model, first.task)
            and spec.task.context == first.task.context,
            "optimizer": replace(spec.optimizer, lr=1.0, weight_decay=0.0)
            == replace(first.optimizer, lr=1.0, weight_decay=0.0),
        }
        if not all(same.values()):
            parts = ", ".join(part for part, equal in same.items() if not equal)
            raise ValueError(
                f"{spec.name} cannot be stacked with {first.name}: they differ in {parts}; "
                "members may differ in seeds, lr, weight_decay, edits and dials that keep shapes"
            )


def what_is_missing(folders: Sequence[Folder], wanted: list[int], steps: int) -> tuple[int, int] | None:
    """From which step to which step training must run, so that every wanted checkpoint and the whole log exist."""
    going = [folder for folder in folders if not folder.stopped]
    missing: set[int] = set()
    for folder in going:
        missing |= set(wanted) - set(folder.steps)
        if len(read_log(folder)) < steps:
            missing.add(steps)
    if not missing:
        return None
    anchors = set.intersection(*(set(folder.anchors) for folder in going))
    return max((step for step in anchors if step <= min(missing)), default=0), max(missing)


def train(
    folders: Sequence[Folder],
    start: int,
    end: int,
    wanted: list[int],
    anchors: set[int],
    device: str,
    progress: Progress | None,
    watch: Watch | None,
) -> None:
    """Steps `start` to `end` of the runs in `folders`, which are all at `start`."""
    specs = [folder.spec for folder in folders]
    spec = specs[0]
    flat = Flat(shapes(spec.model, spec.task), len(folders), device)
    update = Update(flat, [s.optimizer for s in specs])
    logs = [restore(folder, flat, update, member, start) for member, folder in enumerate(folders)]
    alive = [not folder.stopped for folder in folders]
    have = [set(folder.steps) for folder in folders]
    wanted_set, pulse = set(wanted), Pulse(folders)

    def keep(step: int) -> None:
        for member, folder in enumerate(folders):
            if alive[member] and step in wanted_set and step not in have[member]:
                folder.save_weights(step, flat.arrays(member))
            if alive[member] and step in anchors and step > start:
                save_anchor(folder, flat, update, member, step, logs[member])

    for folder in folders:
        write_env(folder, device)
    for step, batches in enumerate(drawn(specs, start, end), start):
        keep(step)
        drop, tape = dropout(specs, step, device), clamped(specs, batches, device)
        losses = member_losses(spec, flat, batches, device, drop, tape)
        flat.backward(losses.sum())
        values = losses.tolist()
        dead = [member for member, value in enumerate(values) if alive[member] and not math.isfinite(value)]
        for member in dead:
            alive[member] = False
            write_json(folders[member].path / "stopped", {"step": step, "reason": "the loss is no longer finite"})
        before = flat.theta.clone() if not all(alive) else None
        norms = update(step)
        if before is not None:
            for member, lives in enumerate(alive):
                if not lives:
                    flat.theta[member] = before[member]
        for member, log in enumerate(logs):
            if alive[member]:
                log.append((values[member], norms[member]))
        pulse(step + 1, logs)
        if progress:
            progress(1)
        if watch:
            watch(step, values)
        if not any(alive):
            break
    else:
        keep(end)
    for member, folder in enumerate(folders):
        if len(logs[member]) >= len(read_log(folder)):
            write_log(folder, logs[member])
    pulse.end()


def drawn(specs: Sequence[Spec], start: int, end: int) -> Iterator[list[Batch]]:
    """The members' batches of each step, several steps at a time: that halves the price, as caches stay warm."""
    for first in range(start, end, AHEAD):
        steps = range(first, min(first + AHEAD, end))
        yield from [[batch(s.task, s.data, step, "train", s.batch) for s in specs] for step in steps]


def member_losses(
    spec: Spec, flat: Flat, batches: list[Batch], device: str, drop: Dropout = no_dropout, tape: Tape = SILENT
) -> Tensor:
    """Cross-entropy of each member in nats per scored token: `[member]`."""
    targets = torch.from_numpy(np.stack([b.targets for b in batches])).to(device, torch.int64).flatten(1)
    logits = apply(spec.model, flat.params, inputs(batches, device), tape, drop)
    by_row = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), ignore_index=-1, reduction="none")
    return by_row.view_as(targets).sum(1) / (targets >= 0).sum(1)


def clamped(specs: Sequence[Spec], batches: Sequence[Batch], device: str) -> Tape:
    """The tape that does to each member what its own clamps say, with the facts of its own batch."""
    edits = [edit for member, spec in enumerate(specs) for edit in clamping(spec.edits, (member,))]
    if not edits:
        return SILENT
    return Tape(edits=edits, facts=[facts_of(b, device) for b in batches], known=sites(specs[0].model))


def dropout(specs: Sequence[Spec], step: int, device: str) -> Dropout:
    """Dropout whose masks have addresses: member, step and site decide, not what was drawn before."""
    rate = specs[0].model.dropout
    if rate == 0:
        return no_dropout

    def drop(site: str, value: Tensor) -> Tensor:
        size = value[0].numel()
        draws = [np.frombuffer(stream("dropout", s.init, step, site).bytes(2 * size), np.uint16) for s in specs]
        keep = torch.from_numpy(np.stack(draws) >= round(rate * 2**16)).view(value.shape)  # 16 bits: exact to 1e-5
        return value * keep.to(device, value.dtype).mul_(1 / (1 - rate))

    return drop


def restore(folder: Folder, flat: Flat, update: Update, member: int, step: int) -> list[tuple[float, float]]:
    """Put one member where it was at an anchor (or at its init), and return its log up to there."""
    if step == 0 or folder.stopped:  # a stopped member rides along, and nothing is kept of it
        flat.load(member, init(folder.spec.model, folder.spec.task, folder.spec.init))
        return []
    arrays, about = load_arrays(folder.anchor(step))
    if about.get("digest") != folder.spec.digest or about.get("step") != step:
        raise RunError(f"{folder.anchor(step)} belongs to another run or step. Delete it and it is made again")
    flat.theta[member] = torch.from_numpy(arrays["theta"])
    for k, moment in enumerate(update.moments):
        moment[member] = torch.from_numpy(arrays[f"moment.{k}"])
    return [(loss, norm) for loss, norm in arrays["log"].tolist()]


def past(folder: Folder, span: tuple[int, int] | None) -> list[float]:
    """The losses of the steps that are not trained again: before a span, or all."""
    if span is None:
        return read_log(folder)["loss"].tolist()
    anchor = folder.anchor(span[0])
    return load_arrays(anchor)[0]["log"][:, 0].tolist() if anchor.exists() else []


def save_anchor(
    folder: Folder, flat: Flat, update: Update, member: int, step: int, log: list[tuple[float, float]]
) -> None:
    """Keep what continuing needs: parameters, moments and the log so far. The data needs nothing: it has addresses."""
    arrays = {"theta": flat.theta[member], **{f"moment.{k}": moment[member] for k, moment in enumerate(update.moments)}}
    saved = {name: array.cpu().numpy().copy() for name, array in arrays.items()}
    save_arrays(
        folder.anchor(step), {**saved, "log": np.array(log, np.float64)}, {"digest": folder.spec.digest, "step": step}
    )


def write_log(folder: Folder, log: list[tuple[float, float]]) -> None:
    """The loss and gradient norm of every step, as `train.parquet`."""
    table = pd.DataFrame(log, columns=list(LOG)).rename_axis("step").reset_index()
    seen = (table["step"] + 1) * folder.spec.batch
    table = table.assign(sequences=seen, tokens=seen * folder.spec.task.context)
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write(folder.path / "train.parquet", buffer.getvalue())


def read_log(folder: Folder) -> pd.DataFrame:
    """The loss and gradient norm of every step; empty if training has not reached its first end."""
    path = folder.path / "train.parquet"
    return load_rows(path) if path.exists() else pd.DataFrame(columns=["step", *LOG])


def write_env(folder: Folder, device: str) -> None:
    """What the run was made with. The one file that may differ between two machines."""
    write_json(
        folder.path / "env.json",
        {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "device": device,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "commit": os.environ.get("PROBELAB_COMMIT", ""),
        },
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread on the CPU: the results then do not depend on the machine's cores, and tiny matrices are faster."""
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@cache
def keep_freed_memory() -> None:
    """Let this process reuse up to 64 MiB of freed memory, rather than fault in new pages for every large tensor.

    glibc keeps blocks up to the largest that it saw freed; 32 MiB is the most that it learns from (`man mallopt`).
    """
    torch.empty((32 << 20) - (64 << 10), dtype=torch.uint8)


@contextmanager
def locked(folders: Sequence[Folder]) -> Iterator[None]:
    """Hold all the folders for writing."""
    if not folders:
        yield
        return
    with folders[0].lock(), locked(folders[1:]):
        yield
