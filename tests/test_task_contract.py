"""What every task promises, for all that ship, with their presets and splits."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

import synthetic_tasks
from synthetic_tasks import TASKS, Batch, Task, batch, preset, turn
from synthetic_tasks.task import stream

ROOM = Path(synthetic_tasks.__file__).parent
TOOLS = {
    "__init__",
    "task",
    "skew",
    "locality",
    "strategies",
    "episodes",
    "chain",
    "scratchpad",
    "summands",
    "brackets",
    "networks",
    "worlds",
    "observations",
    "card",
    "export",
    "folder",
    "formats",
    "gallery",
}
SETTINGS = {name: kind() for name, kind in TASKS.items()} | {
    f"{name}/{paper}": preset(kind, paper) for name, kind in TASKS.items() for paper in kind.presets
}


def splits_of(task: Task) -> list[str]:
    """Those that do not contradict the dials."""
    found = []
    for split in task.splits:
        try:
            batch(task, 0, 0, split, n=1)
        except ValueError:
            continue
        found.append(split)
    return found


EVERY = [
    pytest.param(task, split, id=f"{name}-{split}") for name, task in SETTINGS.items() for split in splits_of(task)
]
EACH = [pytest.param(task, id=name) for name, task in SETTINGS.items()]


def fingerprint(lot: Batch) -> str:
    digest = blake2b()
    for name, x in [("tokens", lot.tokens), ("targets", lot.targets), *sorted(lot.facts.items())]:
        digest.update(f"{name} {x.dtype} {x.shape}".encode() + np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()


def test_the_table_lists_the_files():
    assert {path.stem for path in ROOM.glob("*.py")} - TOOLS == set(TASKS)
    assert all(kind.name == name for name, kind in TASKS.items())


@pytest.mark.parametrize("name", TASKS)
def test_train_is_there_and_never_contradicts(name):
    assert TASKS[name].splits[0] == "train"
    assert all("train" in splits_of(task) for key, task in SETTINGS.items() if key.startswith(name))


@pytest.mark.parametrize(("task", "split"), EVERY)
def test_a_batch_is_a_pure_function_of_its_address(task, split):
    one = fingerprint(batch(task, 3, 7, split, n=8))
    batch(task, 9, 9, split, n=8)
    assert fingerprint(batch(turn(task), 3, 7, split, n=8)) == one
    others = [
        batch(task, 4, 7, split, n=8),
        batch(task, 3, 8, split, n=8),
        batch(turn(task, world=1), 3, 7, split, n=8),
    ]
    assert len({one, *map(fingerprint, others)}) == 4


def test_another_process_draws_the_same():
    code = "import test_task_contract as t; print(*[t.fingerprint(t.batch(x, 3, 7, n=8)) for x in t.SETTINGS.values()])"
    paths = [str(Path(__file__).parent), str(ROOM.parent)]
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == [fingerprint(batch(task, 3, 7, n=8)) for task in SETTINGS.values()]


@pytest.mark.parametrize(("task", "split"), EVERY)
def test_shapes_kinds_and_ranges(task, split):
    lot = batch(task, 0, 0, split, n=6)
    assert lot.tokens.shape == lot.targets.shape and len(lot) == 6 and 0 < lot.tokens.shape[1] <= task.context
    assert lot.tokens.dtype == lot.targets.dtype == np.int64
    assert -1 <= lot.tokens.min() and lot.tokens.max() < task.vocab
    assert -1 <= lot.targets.min() and lot.targets.max() < task.outputs
    assert (lot.vectors is None) == (task.features == 0)
    assert 0 < task.chance(split) < 1


@pytest.mark.parametrize(("task", "split"), EVERY)
def test_facts_are_those_documented(task, split):
    lot = batch(task, 0, 0, split, n=6)
    assert set(lot.facts) == set(task.facts) and set(task.roles) <= set(task.facts)
    for name, text in task.facts.items():
        axes = text[1 : text.index("]")].split()
        fact = lot.facts[name]
        assert axes[0] == "batch" and len(text) > text.index("]") + 2
        assert len(axes) == fact.ndim and len(fact) == 6, name
        assert "pos" not in axes or fact.shape[axes.index("pos")] == lot.tokens.shape[1], name
    for name in task.roles:
        assert (lot.facts[name] <= np.arange(lot.tokens.shape[1])).all(), f"{name} may not look ahead"


@pytest.mark.parametrize(("task", "split"), EVERY)
def test_strategies_are_distributions_and_beat_uniform_where_they_can(task, split):
    lot = batch(task, 0, 0, split, n=128)
    asked = lot.targets >= 0
    loss = {}
    for name, logs in task.oracles(lot).items():
        assert logs.shape == (*lot.targets.shape, task.outputs), name
        assert np.exp(logs[asked]).sum(axis=-1) == pytest.approx(1), name
        loss[name] = -np.take_along_axis(logs, np.maximum(lot.targets, 0)[..., None], axis=2)[..., 0][asked].mean()
    assert loss["uniform"] == pytest.approx(np.log(task.outputs))
    assert min(loss.values()) < loss["uniform"] + 1e-6


@pytest.mark.parametrize(("task", "split"), EVERY)
def test_strategies_do_not_look_ahead(task, split):
    lot = batch(task, 0, 0, split, n=4)
    half = lot.tokens.shape[1] // 2
    changed = Batch(lot.tokens.copy(), lot.targets.copy(), lot.vectors, lot.facts)
    changed.tokens[:, half:] = lot.tokens[::-1, half:]
    both = (lot.targets >= 0) & (lot.targets[::-1] >= 0)  # what is asked stays asked, also in ragged rows
    changed.targets[both] = lot.targets[::-1][both]
    changed.targets[:, : half - 1] = lot.targets[:, : half - 1]
    one, other = task.oracles(lot), task.oracles(changed)
    for name in one:
        assert np.array_equal(one[name][:, :half], other[name][:, :half], equal_nan=True), name


@pytest.mark.parametrize("task", EACH)
def test_pairs_agree_but_for_what_they_are_about(task):
    for kind in task.kinds:
        pairs = task.pairs(stream("pairs", kind), 7, kind)
        rows = np.arange(7)
        assert pairs.clean.tokens.shape == pairs.corrupt.tokens.shape and len(pairs.clean) == 7
        assert (pairs.answer != pairs.foil).all()
        differs = pairs.clean.tokens != pairs.corrupt.tokens
        if pairs.clean.vectors is not None:
            differs = differs | (pairs.clean.vectors != pairs.corrupt.vectors).any(axis=2)
        read = np.arange(differs.shape[1]) < pairs.position[:, None]
        changed = (differs & read).sum(axis=1)
        assert changed.min() >= 1 and changed.max() <= 2 and not differs[rows, pairs.position].any()
        again = task.pairs(stream("pairs", kind), 7, kind)
        assert np.array_equal(again.corrupt.tokens, pairs.corrupt.tokens)
    with pytest.raises(ValueError, match="known: "):
        task.pairs(stream("pairs"), 1, "no such kind")


@pytest.mark.parametrize("task", EACH)
def test_dials_are_frozen_and_make_equals(task):
    assert turn(task) == task and hash(turn(task)) == hash(task)
    assert all(dial.name in repr(task) for dial in fields(task))


@pytest.mark.parametrize("name", TASKS)
def test_unknown_splits_dials_and_presets_name_the_near_miss(name):
    kind = TASKS[name]
    dial = fields(kind)[-1].name
    with pytest.raises(ValueError, match=rf"no split of {name} 'trian'; did you mean 'train'\? known: "):
        batch(kind(), 0, 0, "trian")
    with pytest.raises(ValueError, match=rf"no dial of {name} '{dial}s'; did you mean '{dial}'"):
        turn(kind(), **{dial + "s": 1})
    known = next(iter(kind.presets))
    with pytest.raises(ValueError, match=f"no preset of {name} '{known}x'; did you mean '{known}'"):
        preset(kind, known + "x")


@pytest.mark.parametrize("task", EACH)
def test_a_sample_can_be_shown(task):
    assert len(task.show().splitlines()) > 3
    assert max(map(len, task.show().splitlines())) <= 200


def test_the_package_needs_numpy_alone():
    code = "import sys, synthetic_tasks; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    run = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOM.parent)!r}); {code}"]
    loaded = set(subprocess.run(run, capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & {"torch", "pandas", "pyarrow", "scipy", "probelab", "transformer_lens"}
    assert loaded - set(sys.stdlib_module_names) - {"__main__", "numpy", "synthetic_tasks"} <= _of_the_interpreter()


def _of_the_interpreter() -> set[str]:
    """What a Python loads here before any import of ours."""
    run = [sys.executable, "-c", "import sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"]
    return set(subprocess.run(run, capture_output=True, text=True, check=True).stdout.split())
