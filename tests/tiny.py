"""The smallest lab, for tests of what lies on disk: a run that trains in a fraction of a second, and snapshots."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import pytest

from probelab import api
from probelab.cli import main
from probelab.runs import Folder, content_hash
from probelab.spec import Optimizer, Spec, Transformer
from probelab.subject import Run
from synthetic_tasks import Markov

SPEC = Spec(Markov(states=2, length=16), Transformer(layers=1, heads=1, d_model=16), Optimizer(lr=1e-2), batch=16)
STEPS, KEEP = 12, (0, 1, 5, 12)


def train(out: Path, spec: Spec = SPEC, steps: int = STEPS, keep: tuple[int, ...] = KEEP) -> Run:
    return api.train(spec, steps=steps, keep=keep, out=out, progress=False)


def snapshot(root: Path) -> dict[str, tuple[str, int]]:
    """Every folder and file below `root`, with its content and when it was written: equal only if nothing changed."""
    return {
        str(path.relative_to(root)): (content(path), path.stat().st_mtime_ns if path.is_file() else 0)
        for path in sorted(root.rglob("*"))
    }


def content(path: Path) -> str:
    return blake2b(path.read_bytes()).hexdigest() if path.is_file() else "folder"


def weights(folder: Folder) -> dict[int, str]:
    """The content hash of every checkpoint."""
    return {step: content_hash(folder.weights(step)) for step in folder.steps}


def results(out: Path) -> dict[str, str]:
    """What invariant 2 promises to be the same to the bit: checkpoints, logs, rows and arrays of all runs."""
    kinds = ("checkpoints/*", "train.parquet", "spec.json", "rows/*", "arrays/*")
    return {str(path.relative_to(out)): content(path) for kind in kinds for path in sorted(out.glob(f"runs/*/{kind}"))}


class Said(NamedTuple):
    code: int
    out: str
    err: str


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> Said:
    """Run `probelab` with these arguments in this process."""
    capsys.readouterr()
    code = 0
    try:
        main([str(a) for a in arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    return Said(code, *capsys.readouterr())
