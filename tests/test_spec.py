"""What was chosen has one text, one digest and one name, whatever way it was written."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probelab.runs import Folder
from probelab.spec import GROUPS, Optimizer, Spec, Transformer, flat, from_json, replace_all, settable, to_json
from synthetic_tasks import Markov, Repeats, Task
from tests.tiny import SPEC, train

SHARE = st.floats(0, 0.99)


@st.composite
def transformers(draw: st.DrawFn) -> Transformer:
    layers = draw(st.integers(1, 3))
    heads = draw(st.one_of(st.sampled_from([1, 2, 4]), st.tuples(*[st.sampled_from([1, 2, 4])] * layers)))
    readout = draw(st.lists(st.integers(1, 9), max_size=2).map(tuple))
    return Transformer(
        layers=layers,
        heads=heads,
        d_model=draw(st.sampled_from([8, 16, 24])),
        d_head=draw(st.sampled_from([None, 2, 8])),
        d_mlp=draw(st.integers(0, 99)),
        activation=draw(st.sampled_from(["gelu", "relu"])),
        norm=draw(st.sampled_from(["layer", "plain", "none"])),
        positions=draw(st.sampled_from(["learned", "rotary", "sinusoidal", "relative", "none"])),
        base=draw(st.floats(1.5, 1e6)),
        biases=draw(st.booleans()),
        scaled=draw(st.booleans()),
        dropout=draw(SHARE),
        tied=not readout and draw(st.booleans()),
        init=draw(st.sampled_from(["gpt2", "lecun"])),
        readout=readout,
        attention=draw(st.sampled_from(["fused", "explicit"])),
    )


@st.composite
def optimizers(draw: st.DrawFn) -> Optimizer:
    return Optimizer(
        name=draw(st.sampled_from(["adamw", "adam", "sgd"])),
        lr=draw(st.floats(1e-9, 10)),
        betas=draw(st.tuples(SHARE, SHARE)),
        eps=draw(st.floats(1e-12, 1e-3)),
        momentum=draw(SHARE),
        weight_decay=draw(st.floats(0, 10)),
        decayed=tuple(draw(st.lists(st.sampled_from(GROUPS), unique=True))),
        clip=draw(st.none() | st.floats(1e-6, 10)),
        schedule=draw(st.sampled_from(["constant", "cosine", "inverse_sqrt"])),
        warmup=draw(st.integers(1, 99)),
        horizon=draw(st.integers(100, 10**6)),
    )


TASKS_DRAWN = st.builds(Markov, states=st.integers(2, 4), length=st.integers(8, 99), world=st.integers(0, 10**9))
SPECS = st.builds(
    Spec,
    TASKS_DRAWN | st.just(Repeats()),
    transformers(),
    optimizers(),
    batch=st.integers(1, 512),
    data=st.integers(0, 10**12),
    init=st.integers(0, 10**12),
)


@given(SPECS)
def test_a_spec_survives_its_text(spec: Spec) -> None:
    again = from_json(json.loads(json.dumps(to_json(spec))))
    assert again == spec and repr(again) == repr(spec)
    assert again.digest == spec.digest and again.name == spec.name


@given(SPECS, st.data())
def test_every_dial_is_in_the_digest(spec: Spec, data: st.DataObject) -> None:
    other = data.draw(SPECS)
    assert (spec == other) == (spec.digest == other.digest)


def test_the_digest_covers_the_trajectory_and_not_its_length(tmp_path: Path) -> None:
    short = train(tmp_path, steps=2, keep=(0,))
    assert train(tmp_path, steps=4, keep=(0, 3)).path == short.path
    assert "steps" not in json.dumps(to_json(SPEC))
    for path, value in {"task.world": 1, "data": 1, "init": 1, "batch": 8, "optimizer.horizon": 9}.items():
        assert replace_all(SPEC, {path: value}).digest != SPEC.digest, path


def test_a_new_version_of_a_task_is_another_trajectory(monkeypatch: pytest.MonkeyPatch) -> None:
    before = SPEC.digest
    monkeypatch.setattr(Markov, "version", Markov.version + 1)
    assert SPEC.digest != before


@dataclass(frozen=True)
class Own(Task):
    """A task that does not check its dials."""

    skew: float = 1.0
    levels: tuple[float, ...] = (0.5,)
    name = "own"

    def __post_init__(self) -> None:
        pass


def test_one_and_one_point_zero_are_one_choice() -> None:
    assert Spec(SPEC.task, SPEC.model, Optimizer(lr=1)) == Spec(SPEC.task, SPEC.model, Optimizer(lr=1.0))
    pairs = [(Own(skew=2), Own(skew=2.0)), (Own(levels=(1, 2)), Own(levels=(1.0, 2.0)))]
    pairs += [(Own(levels=[1]), Own(levels=(1.0,)))]  # pyright: ignore[reportArgumentType]
    for whole, broken in pairs:
        assert Spec(whole).digest == Spec(broken).digest and Spec(whole).name == Spec(broken).name
    assert Spec(Own(skew=2)).digest != Spec(Own(skew=3)).digest


def test_numbers_of_numpy_are_numbers() -> None:
    spec = Spec(SPEC.task, Transformer(layers=np.int64(2)), Optimizer(lr=np.float32(0.5)), data=np.int64(3))  # pyright: ignore[reportArgumentType]
    assert spec.digest == Spec(SPEC.task, Transformer(layers=2), Optimizer(lr=0.5), data=3).digest


def test_folder_names_can_be_read() -> None:
    spec = Spec(Markov(states=3, length=20), Transformer(layers=3, heads=(1, 2, 4), init="lecun"), data=7)
    assert spec.name == f"markov-states=3-length=20-layers=3-heads=1+2+4-init=lecun-7-{spec.digest}"
    assert Spec(Repeats()).name == f"repeats-0-{Spec(Repeats()).digest}"
    many = Transformer(layers=9, heads=(8,) * 9, readout=(7,) * 30)
    assert len(Spec(Repeats(), many).name) < 120


@given(SPECS)
def test_folder_names_are_safe(spec: Spec) -> None:
    assert not set(spec.name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.=+-")


def test_seeds_together_and_alone() -> None:
    spec = SPEC.seeded(5)
    assert (spec.task.world, spec.data, spec.init, spec.seed) == (5, 5, 5, 5)
    spec = replace_all(spec, {"init": 9, "task.world": 2})
    assert (spec.task.world, spec.data, spec.init) == (2, 5, 9)


def test_dials_are_turned_together() -> None:
    spec = replace_all(SPEC, {"model.heads": (1, 1, 2), "model.layers": 3, "optimizer.lr": 1, "batch": 8})
    assert spec.model.heads == (1, 1, 2) and spec.optimizer.lr == 1.0 and spec.batch == 8
    for name in settable(SPEC):
        room, _, dial = name.rpartition(".")
        part = getattr(SPEC, room) if room else SPEC
        assert replace_all(SPEC, {name: getattr(part, dial)}) == SPEC


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("task.legnth", 3, "no dial of markov 'legnth'; did you mean 'length'"),
        ("length", 3, "no setting 'length'; did you mean 'task.length'"),
        ("model.layer", 3, "no dial of the model 'layer'; did you mean 'layers'"),
        ("optimiser.lr", 3, "no part of a run 'optimiser'; did you mean 'optimizer'"),
        ("model.layers", "two", "layers = 'two' is out of range: it is of kind int"),
        ("model.layers", True, "layers = True is out of range: it is of kind int"),
        ("model.layers", 2.0, "layers = 2.0 is out of range: it is of kind int"),
        ("model.heads", (1, "x"), "heads = (1, 'x') is out of range"),
        ("model.readout", 128, "readout = 128 is out of range"),
        ("model.norm", "layers", "no norm 'layers'; did you mean 'layer'"),
        ("optimizer.betas", 0.9, "betas = 0.9 is out of range"),
        ("optimizer.betas", (0.9,), "betas = (0.9,) is out of range"),
        ("optimizer.lr", float("nan"), "lr = nan is out of range"),
        ("optimizer.lr", float("inf"), "lr = inf is out of range"),
        ("optimizer.name", "adamv", "no name 'adamv'; did you mean 'adam"),
        ("optimizer.decayed", ("mlps",), "no parameter group 'mlps'; did you mean 'mlp'"),
        ("batch", 2.5, "batch = 2.5 is out of range"),
        ("data", "one", "data = 'one' is out of range"),
    ],
)
def test_what_cannot_be_chosen(path: str, value: object, complaint: str) -> None:
    with pytest.raises(ValueError) as error:
        replace_all(SPEC, {path: value})
    assert complaint in str(error.value)


def test_a_task_may_not_be_infinite() -> None:
    with pytest.raises(ValueError, match="skew = inf is out of range: a finite number"):
        Spec(Own(skew=float("inf")))


def test_dials_become_columns() -> None:
    columns = flat(replace(SPEC, model=Transformer(layers=2, heads=(1, 2))))
    assert columns["task.states"] == 2 and columns["model.heads"] == "[1,2]" and columns["batch"] == 16


def test_a_task_of_ones_own_needs_its_class(tmp_path: Path) -> None:
    folder = Folder.create(Spec(Own(skew=2)), tmp_path)
    assert Folder(folder.path, Own).spec == Spec(Own(skew=2))
    with pytest.raises(ValueError, match="'own' does not ship with probelab .* task=<class>"):
        Folder(folder.path)
    with pytest.raises(ValueError, match="of the task 'own', and task=Markov is 'markov'"):
        Folder(folder.path, Markov)
