"""Where a run lies: a folder that can be read without this library (SCHEMA.md), and is never half written."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from probelab.kinds import canonical
from probelab.locks import locked
from probelab.spec import Spec, from_json, to_json
from probelab.storage import RunError, at_hand, located, read, write, write_json
from synthetic_tasks import Task

FORMAT = 1
Arrays = dict[str, np.ndarray]


def content_hash(arrays: Arrays) -> str:
    """Hash over sorted (name, dtype, shape, bytes): equal exactly when the weights are."""
    total = blake2b(digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name}|{array.dtype}|{array.shape}|".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def save_arrays(path: Path, arrays: Arrays, about: dict[str, Any]) -> None:
    """Write arrays as safetensors; one metadata key holds canonical JSON, with the hash of the content."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    about = {**about, "format": FORMAT, "hash": content_hash(arrays)}
    write(path, save(arrays, metadata={"probelab": canonical(about)}))


def load_arrays(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Read arrays and what is said about them; refuse a truncated, altered or foreign file."""
    with at_hand(path) as near:
        try:
            with safe_open(near, framework="numpy") as file:
                about = json.loads((file.metadata() or {}).get("probelab", "{}"))
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, ValueError) as error:
            why = "it is truncated, or no safetensors file. Delete it and it is made again"
            raise RunError(f"{path} cannot be read ({error}): {why}") from error
    if about.get("hash") != content_hash(arrays):
        why = "its content does not match its hash. Delete it and it is made again"
        raise RunError(f"{path} was altered after it was written: {why}")
    return arrays, about


class Folder:
    """One run on disk. Reading needs no torch; `probelab.subject.Run` adds the models."""

    def __init__(self, path: str | Path, task: type[Task] | None = None):
        self.path = located(path)
        try:
            described = json.loads(read(self.path / "spec.json"))
            version = described["format"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.path} is not a run folder: it has no readable spec.json") from error
        if version != FORMAT:
            raise RunError(f"{self.path} was written in format {version}, this version reads format {FORMAT}")
        try:
            self.spec: Spec = from_json(described["spec"], task)
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.path} cannot be opened: {error}") from error
        if described.get("digest") != self.spec.digest:
            raise RunError(
                f"{self.path}/spec.json was altered, or written by another version: "
                f"its digest is {described.get('digest')}, its content gives {self.spec.digest}"
            )

    @classmethod
    def create(cls, spec: Spec, root: str | Path) -> Folder:
        """The folder of this trajectory under `root`, made if it is not there yet."""
        path = located(root) / spec.name
        if not (path / "spec.json").exists():
            write_json(path / "spec.json", {"format": FORMAT, "digest": spec.digest, "spec": to_json(spec)})
        return cls(path, type(spec.task))

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def steps(self) -> list[int]:
        """The steps whose weights are kept."""
        return steps_in(self.path / "checkpoints")

    @property
    def anchors(self) -> list[int]:
        """The steps from which training can be continued exactly."""
        return steps_in(self.path / "resume")

    @property
    def length(self) -> int:
        """How many steps the run has been trained in full; 0 if it was never finished."""
        return self.note("done").get("steps", 0)

    @property
    def stopped(self) -> dict[str, Any]:
        """Step and reason, if training had to stop (non-finite loss); else empty."""
        return self.note("stopped")

    def note(self, name: str) -> dict[str, Any]:
        """A small JSON file of the folder, or an empty dict."""
        try:
            return dict(json.loads(read(self.path / name)))
        except (FileNotFoundError, ValueError, TypeError):
            return {}
        except OSError as error:  # not to be taken for a note that is not there
            raise RunError(f"could not read {self.path / name}: {error.strerror}") from error

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"{step:06d}.safetensors"

    def anchor(self, step: int) -> Path:
        return self.path / "resume" / f"{step:06d}.safetensors"

    def weights(self, step: int) -> Arrays:
        """The parameters at a kept step, by name."""
        self.check_kept(step)
        arrays, about = load_arrays(self.checkpoint(step))
        if about.get("digest") != self.spec.digest or about.get("step") != step:
            says = f"it says {about.get('digest')}, step {about.get('step')}"
            raise RunError(f"{self.checkpoint(step)} belongs to another run or step ({says})")
        return arrays

    def check_kept(self, *steps: int) -> None:
        """Raise unless the weights at these steps are kept."""
        kept = self.steps
        for step in steps:
            if step not in kept:
                near = f"; the nearest is {min(kept, key=lambda s: abs(s - step))}" if kept else ""
                raise RunError(f"run {self.name} keeps no checkpoint at step {step}{near}; kept: {spoken(kept)}")

    def save_weights(self, step: int, arrays: Arrays) -> None:
        save_arrays(self.checkpoint(step), arrays, {"digest": self.spec.digest, "step": step})

    def lock(self, room: str = "") -> AbstractContextManager[None]:
        """Hold the folder for training, or its room `rows` for measuring; the lock dies with its holder."""
        return locked(self.path, room)


def steps_in(folder: Path) -> list[int]:
    """The steps in a folder of files named `<step>.safetensors`."""
    return sorted(int(path.stem) for path in folder.glob("*.safetensors") if path.stem.isdigit())


def spoken(steps: list[int], most: int = 12) -> str:
    """A list of steps, shortened in the middle."""
    if len(steps) <= most:
        return ", ".join(map(str, steps)) or "none"
    half = most // 2
    return ", ".join(map(str, steps[:half])) + ", ..., " + ", ".join(map(str, steps[-half:]))


def run_folders(root: str | Path) -> list[Path]:
    """The run folders directly under `root`, or under its `runs/`."""
    root = located(root)
    inside = root / "runs" if (root / "runs").is_dir() else root
    return sorted(path.parent for path in inside.glob("*/spec.json"))
