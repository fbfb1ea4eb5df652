"""The floor plan of the house: a module imports from floors below its own only, and every module has a floor."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    ["synthetic_tasks"],
    ["spec", "kinds", "clamps", "rows", "runs", "storage", "locks"],
    ["model", "weights", "positions", "attention", "recurrent"]
    + [
        "train",
        "schedule",
        "optim",
        "pulse",
        "edit",
        "bridge",
        "subject",
        "places",
        "sweep",
        "prefixes",
        "reach",
        "ripple",
        "changes",
        "answers",
        "decode",
    ]
    + ["lenses", "composition", "probes", "subspaces", "paths", "circuits"],
    ["measures", "curves", "figures"],
    ["studies", "study", "claims", "conduct", "work", "record", "drawing", "picking", "progress"]
    + ["planner", "dispatch", "cluster", "nodes", "grids", "plans", "pruning", "listing", "watching", "sinks"],
    ["probelab", "api", "live", "errands", "cli"],  # probelab is the facade, src/probelab/__init__.py
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
TORCH_FREE = ("curves", "figures")  # a figure is redrawn on a laptop without torch
TORCHES = ("torch", "transformer_lens", "safetensors.torch")


class Import(NamedTuple):
    """`names` are what the statement may load, longest first; lazy: inside a function, or for the type checker only."""

    names: tuple[str, ...]
    line: int
    lazy: bool


def modules(root: Path) -> dict[str, Path]:
    """Module name -> file, for both packages of a checkout."""
    files = [(base, path) for base in (root / "src", root) for path in base.glob("*/**/*.py")]
    named = {".".join(path.relative_to(base).with_suffix("").parts): path for base, path in files}
    ours = {name: path for name, path in named.items() if name.split(".")[0] in ("probelab", "synthetic_tasks")}
    return {name.removesuffix(".__init__"): path for name, path in ours.items()}


def imports(node: ast.AST, package: str, lazy: bool = False) -> Iterator[Import]:
    """Every import under a syntax node, wherever it hides."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import((alias.name,), child.lineno, lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - child.level + 1] if child.level else []
            base = ".".join(filter(None, [*above, child.module]))
            yield from (Import((f"{base}.{alias.name}", base), child.lineno, lazy) for alias in child.names)
        elif isinstance(child, ast.Call) and "import" in ast.unparse(child.func) and child.args:
            if isinstance(child.args[0], ast.Constant):  # importlib.import_module("..."), __import__("...")
                yield Import((str(child.args[0].value),), child.lineno, lazy)
        inner = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        yield from imports(child, package, lazy or inner or typing_only)


def imports_of(module: str, path: Path) -> list[Import]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return list(imports(ast.parse(path.read_text(encoding="utf-8")), package))


def room(name: str) -> str | None:
    """The room that a module of ours lies in; None for everybody else's."""
    head, _, rest = name.partition(".")
    return rest.partition(".")[0] or head if head == "probelab" else head if head == "synthetic_tasks" else None


def broken(root: Path) -> list[str]:
    """What a checkout does against the plan, a sentence each."""
    known, found = modules(root), []
    house = {module: imports_of(module, path) for module, path in known.items()}
    for module, path in known.items():
        here = room(module)
        if here not in FLOOR:
            found.append(f"{module} has no floor: place {here!r} in FLOORS of tests/test_floor_plan.py")
            continue
        for item in house[module]:
            at = f"{path.relative_to(root)}:{item.line}"
            target = next((name for name in item.names if name in known), item.names[-1])
            there = room(target)
            found += [f"{at}: {why}" for why in outside(here, path.name, item)]
            if there is None or there == here:
                continue
            if there not in FLOOR:
                found.append(f"{at}: {target} has no floor")
            elif FLOOR[there] > FLOOR[here]:
                found.append(f"{at}: {here} (floor {FLOOR[here]}) imports {there} from above (floor {FLOOR[there]})")
            elif FLOOR[there] == FLOOR[here] == 3:
                found.append(f"{at}: {here} imports its sibling {there}")
            elif here in TORCH_FREE and FLOOR[there] > 1:
                found.append(f"{at}: {here} sees floors 1 and 0 only, not {there}")
    for module in known:
        if room(module) in TORCH_FREE and (path := way_to_torch(module, house)):
            found.append(f"importing {module} loads torch: {' -> '.join(path)}")
    return found


def outside(here: str, file: str, item: Import) -> Iterator[str]:
    """What an import of somebody else's library does against the plan."""
    name = item.names[-1]
    top = name.partition(".")[0]
    if here == "synthetic_tasks" and top not in ("synthetic_tasks", "numpy", *sys.stdlib_module_names):
        lazy_export = file == "formats.py" and top == "pyarrow" and item.lazy
        if room(name) is None and not lazy_export:
            yield f"synthetic_tasks needs numpy only, not {name} (pyarrow: inside the functions of formats.py)"
    if top == "transformer_lens" and not (here == "bridge" and item.lazy):
        yield "transformer_lens is imported inside functions of bridge.py only"
    if here in TORCH_FREE and is_torch(item):
        yield f"{here} never sees {name}"


def is_torch(item: Import) -> bool:
    return any(name == torch or name.startswith(f"{torch}.") for name in item.names for torch in TORCHES)


def way_to_torch(module: str, house: dict[str, list[Import]]) -> list[str]:
    """The shortest chain of imports that run when the module is imported, and end in torch; empty if there is none."""
    ways, seen = [[module]], {module}
    for way in ways:
        for item in house[way[-1]]:
            if not item.lazy and is_torch(item):
                return [*way, item.names[-1]]
        # Importing a.b.c runs a and a.b before.
        wanted = [name for item in house[way[-1]] if not item.lazy for name in item.names]
        for name in (prefix for full in [way[-1], *wanted] for prefix in prefixes(full)):
            if name in house and name not in seen:
                seen.add(name)
                ways.append([*way, name])
    return []


def prefixes(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[: i + 1]) for i in range(len(parts)))


def test_every_import_goes_down_the_stairs():
    assert modules(ROOT), "no module found: does the plan look in the right place?"
    assert broken(ROOT) == []


CLEAN = {
    "synthetic_tasks/task.py": "import numpy as np\nfrom dataclasses import dataclass",
    "synthetic_tasks/formats.py": "def save():\n    import pyarrow.parquet",
    "src/probelab/__init__.py": "def train():\n    from probelab.conduct import execute",
    "src/probelab/spec.py": "from synthetic_tasks.task import Task",
    "src/probelab/rows.py": "import pandas\nfrom .spec import flat\ndef late():\n    import torch",
    "src/probelab/model.py": "import torch\nfrom probelab import spec",
    "src/probelab/bridge.py": "def bridge():\n    from transformer_lens.model_bridge import TransformerBridge",
    "src/probelab/curves/onset.py": "from probelab.rows import keys\nfrom probelab.curves import seeds",
    "src/probelab/curves/seeds.py": "import scipy",
    "src/probelab/figures/style.py": "import plotly",
    "src/probelab/measures/loss.py": "from probelab.model import apply",
    "src/probelab/conduct.py": "from probelab.figures import style\nfrom probelab.curves import onset",
}
PLANTED = [
    ("synthetic_tasks/task.py", "import torch", "synthetic_tasks needs numpy only, not torch"),
    ("synthetic_tasks/task.py", "def f():\n    from probelab import spec", "from above"),
    ("synthetic_tasks/task.py", "def f():\n    import pyarrow", "synthetic_tasks needs numpy only, not pyarrow"),
    ("synthetic_tasks/formats.py", "import pyarrow", "synthetic_tasks needs numpy only, not pyarrow"),
    (
        "src/probelab/spec.py",
        "def f():\n    from probelab.model import init",
        "spec (floor 1) imports model from above",
    ),
    ("src/probelab/spec.py", "from . import model", "spec (floor 1) imports model from above"),
    ("src/probelab/spec.py", "import importlib\nimportlib.import_module('probelab.conduct')", "from above"),
    ("src/probelab/model.py", "if TYPE_CHECKING:\n    import probelab.conduct", "from above (floor 4)"),
    ("src/probelab/model.py", "from probelab import train", "imports probelab from above (floor 5)"),
    ("src/probelab/model.py", "def f():\n    import transformer_lens", "inside functions of bridge.py only"),
    ("src/probelab/bridge.py", "import transformer_lens", "inside functions of bridge.py only"),
    ("src/probelab/measures/loss.py", "from ..curves.onset import date", "measures imports its sibling curves"),
    ("src/probelab/figures/style.py", "from probelab.curves import onset", "figures imports its sibling curves"),
    ("src/probelab/figures/style.py", "import probelab.model", "figures sees floors 1 and 0 only, not model"),
    ("src/probelab/curves/onset.py", "def f():\n    from torch import nn", "curves never sees torch"),
    ("src/probelab/curves/onset.py", "from safetensors.torch import load", "curves never sees safetensors.torch"),
    ("src/probelab/rows.py", "import torch", "importing probelab.curves.onset loads torch: probelab.curves.onset -> "),
    ("src/probelab/__init__.py", "import torch", "probelab.curves.onset -> probelab -> torch"),
    ("src/probelab/attic.py", "", "probelab.attic has no floor: place 'attic'"),
]


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_plan_accepts_a_clean_house(tmp_path: Path):
    assert broken(plant(tmp_path, CLEAN)) == []


@pytest.mark.parametrize(("file", "text", "complaint"), PLANTED)
def test_the_plan_sees_a_planted_violation(tmp_path: Path, file: str, text: str, complaint: str):
    found = broken(plant(tmp_path, CLEAN | {file: text}))
    assert any(complaint in sentence for sentence in found), found


def test_curves_and_figures_load_no_torch():
    """The same promise, kept by Python itself: also through the libraries that they import."""
    rooms = [name for name in modules(ROOT) if room(name) in TORCH_FREE]
    code = f"import {', '.join(rooms)}, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert rooms and done.stdout == "False\n", done.stderr


ROOMS = ("src", "synthetic_tasks", "benchmarks", "tests", "docs")
SOURCES = sorted(path for folder in ROOMS for path in (ROOT / folder).rglob("*.py"))


def test_every_file_opens_with_a_docstring():
    assert [str(path) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []


def test_every_file_can_be_read_in_one_sitting():
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules(ROOT).values()}
    assert statistics.median(lengths.values()) < 130
    assert {path: n for path, n in lengths.items() if n > 330} == {}
