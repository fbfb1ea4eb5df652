"""Tidying up: what no report needs is deleted, after it was said and asked; rows, arrays and specs never are.

    deleted                                          what it was for
    anchors of finished runs, but the last           continuing a run from its middle
    weights at steps that no plan keeps              nothing that a study asks
    with --weights: all but the first and last       opening a run at a step, measuring it anew

Only runs that a plan (`plans/`) asks for, and that have all that every plan asks of them, are touched: a report card
is then made from their rows alone. Weights that went this way are noted in `pruned`, so that the same command does not
train them again; whoever asks for more has them made again, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from probelab.plans import plans, trained, whole
from probelab.runs import Folder, steps_in
from probelab.storage import RunError, write_json

Files = dict[str, list[Path]]  # what for -> which
ANCHORS, UNASKED = "anchors of finished runs, but the last", "weights at steps that no plan keeps"
WEIGHTS = "measured weights, but the first and last of a run"


def spared(out: Path, weights: bool, agreed: Callable[[str], bool]) -> None:
    """Say what can go and how much that frees; delete it if the answer is yes."""
    asked = together(out)
    found = {name: needless(out / "runs" / name, of, weights) for name, of in asked.items()}
    left = sum(path.is_dir() and path.name not in asked for path in (out / "runs").glob("*"))
    if left:
        print(f"{left} runs that no plan in {out / 'plans'} asks for are left alone")
    total = 0
    for why in (ANCHORS, UNASKED, WEIGHTS):
        files = [file for of in found.values() for file in of.get(why, ())]
        held = sum(file.stat().st_size for file in files)
        total += held
        if files:
            print(f"{why}: {len(files)} files, {held / 1e6:.1f} MB")
    if not total:
        print(f"nothing to delete in {out}")
        return
    if not agreed(f"delete them and free {total / 1e6:.1f} MB?"):
        print("nothing was deleted")
        return
    freed = sum(delete(out / "runs" / name, of) for name, of in found.items() if any(of.values()))
    print(f"freed {freed / 1e6:.1f} MB; report cards, rows and arrays are as they were")


def together(out: Path) -> dict[str, dict[str, Any]]:
    """What all plans together ask of each run: the most steps, every kept step, every measure at each of its steps."""
    found: dict[str, dict[str, Any]] = {}
    for plan in plans(out):
        for name, asked in plan.runs.items():
            had = found.setdefault(name, {"steps": 0, "keep": [], "asked": []})
            had["steps"] = max(had["steps"], asked["steps"])
            had["keep"] = sorted({*had["keep"], *asked["keep"]})
            had["asked"].append(asked)
    return found


def needless(path: Path, asked: dict[str, Any], weights: bool) -> Files:
    """The files of a run that no report needs; none, if something that a plan asks is still missing."""
    if not all(whole(path, of) for of in asked["asked"]):
        return {}
    kept, anchors = steps_in(path / "checkpoints"), steps_in(path / "resume")
    last = trained(path) or max(kept, default=0)
    needed = {0, last, *((0, max(kept, default=0)) if weights else asked["keep"])}
    gone = [step for step in kept if step not in needed]
    unasked = [step for step in gone if step not in asked["keep"]]
    measured = [step for step in gone if step in asked["keep"]]
    return {
        ANCHORS: [path / "resume" / f"{step:06d}.safetensors" for step in anchors[:-1]],
        UNASKED: [path / "checkpoints" / f"{step:06d}.safetensors" for step in unasked],
        WEIGHTS: [path / "checkpoints" / f"{step:06d}.safetensors" for step in measured],
    }


def delete(path: Path, files: Files) -> int:
    """Delete files of one run, unless another process writes to it; the bytes that this frees."""
    try:
        folder = Folder(path)
        with folder.lock(), folder.lock("rows"):
            gone = [int(file.stem) for file in files[WEIGHTS]]
            if gone:
                before = folder.note("pruned").get("steps", [])
                write_json(path / "pruned", {"steps": sorted({*before, *gone})})
            freed = 0
            for file in (file for some in files.values() for file in some):
                freed += file.stat().st_size
                file.unlink()
            return freed
    except RunError as error:
        print(f"{path.name} is left alone: {error}")
        return 0
