"""The gallery: what tasks there are, each with an annotated sample, its dials, splits, facts and presets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from inspect import getdoc

from synthetic_tasks.task import Task, choose_from, stream

DIAL = re.compile(r"^(\w+) {2,}(\S.*(?:\n {6,}\S.*)*)\n?", re.MULTILINE)


def gallery(tasks: dict[str, type[Task]] | None = None) -> str:
    """All tasks that ship (or those given), one after another."""
    shown = _shipped() if tasks is None else tasks
    return "\n\n\n".join(describe(kind) for kind in shown.values())


def describe(which: str | type[Task] | Task) -> str:
    """One task as text: by its name, its class, or with its dials turned."""
    kind: type[Task] | Task = choose_from("task", which, _shipped()) if isinstance(which, str) else which
    task = kind() if isinstance(kind, type) else kind
    drawing = DIAL.sub("", getdoc(type(task)) or "").strip()
    now = {f"{name} = {getattr(task, name)!r}": meaning for name, meaning in dials(type(task)).items()}
    presets = {name: ", ".join(f"{k} = {v!r}" for k, v in turned.items()) for name, turned in task.presets.items()}
    batch = task.sample(stream(task.name, "gallery", task.world), 1)
    parts = [
        f"{task.name}, version {task.version}\n\n{drawing}",
        "dials\n" + _listed(now.items()),
        "splits\n  " + ", ".join(task.splits),
        "facts\n" + _listed(task.facts.items()),
        "presets\n" + _listed((name, dials or "all dials as they come") for name, dials in presets.items()),
        "strategies\n  " + ", ".join(task.oracles(batch)),
        "a sample\n" + "\n".join("  " + line for line in task.show().splitlines()),
    ]
    return "\n\n".join(parts)


def dials(kind: type[Task]) -> dict[str, str]:
    """The dials of a task and their meaning, which its docstring lists as `name  meaning` at the margin."""
    meanings = {name: " ".join(text.split()) for name, text in DIAL.findall(getdoc(kind) or "")}
    meanings["world"] = "seeds whatever is fixed for a whole run"
    names = [dial.name for dial in fields(kind) if dial.name != "world"]
    return {name: meanings.get(name, "") for name in [*names, "world"]}


def _listed(rows: Iterable[tuple[str, str]]) -> str:
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"  {name:<{width}}  {meaning}".rstrip() for name, meaning in rows)


def _shipped() -> dict[str, type[Task]]:
    from synthetic_tasks import TASKS  # not at the top: the package imports this module

    return TASKS
