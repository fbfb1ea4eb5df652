"""Design, section 7: a mistake is told in one message that repeats the question, and nothing on disk changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch

import probelab as lab
from probelab.runs import Folder
from probelab.spec import Optimizer, Spec, Transformer
from synthetic_tasks import Markov, Repeats
from tests.test_runs import altered, full_disk, of_another_step, truncated
from tests.tiny import SPEC, Said, command, snapshot, train, weights

Probelab = Callable[..., Said]
RUN = f"runs/{SPEC.name}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one run, measured once."""
    out = tmp_path_factory.mktemp("made")
    lab.measure(train(out), lab.Loss(n=8))
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the present folder and the place where results go."""
    copytree(made, tmp_path / "lab")
    monkeypatch.chdir(tmp_path / "lab")
    monkeypatch.setenv("PROBELAB_RUNS", ".")
    return Path()


@pytest.fixture
def probelab(capsys: pytest.CaptureFixture[str]) -> Probelab:
    return lambda *arguments: command(capsys, *arguments)


@pytest.fixture
def refused(out: Path, probelab: Probelab) -> Callable[..., str]:
    """Gives a command that must fail and change nothing on disk, and returns what it says."""

    def refuse(*arguments: object) -> str:
        before = snapshot(out)
        said = probelab(*arguments)
        assert said.code == 2, said
        assert "Traceback" not in said.err and said.err.count("\n") <= 3 + said.err.count("Usage"), said.err
        assert snapshot(out) == before
        return said.err

    return refuse


TRAIN, GENERATE = ("train", "markov", "--steps", "2"), ("generate", "markov", "--n", "9", "--out", "data")
REPRODUCE, MEASURE = ("reproduce", "markov", "--preset", "smoke", "--jobs", "1"), ("measure", RUN, "loss")
MISTAKES = [
    # what there is not
    (("reproduce", "markvo"), "no study 'markvo'; did you mean 'markov'? known: markov, induction"),
    (("verify", "inductoin"), "no study 'inductoin'; did you mean 'induction'"),
    (("train", "markvo"), "no task 'markvo'; did you mean 'markov'"),
    (("tasks", "repeat"), "no task 'repeat'; did you mean 'repeats'"),
    (("generate", "markvo", "--n", "9", "--out", "data"), "no task 'markvo'"),
    (("measure", RUN, "los"), "no measure 'los'; did you mean 'loss'"),
    (("draw", RUN, "dynamic"), "no figure 'dynamic'; did you mean 'dynamics'"),
    (("draw", RUN, "dynamics", "--metric", "los"), "no metric 'los'; did you mean 'loss'"),
    (("draw", "markov", "phases"), "'markov' is no run folder, and no study has been reproduced"),
    (("reproduce", "markov", "--preset", "smok"), "no preset of the study markov 'smok'; did you mean 'smoke'"),
    ((*REPRODUCE, "--panel", "phase"), "no panel of the study markov 'phase'; did you mean 'phases'"),
    ((*GENERATE, "--split", "trian"), "no split of markov 'trian'; did you mean 'train'"),
    ((*GENERATE, "--format", "parket"), "'parket'; did you mean 'parquet'"),
    ((*GENERATE, "--preset", "edelman2042"), "no preset of markov 'edelman2042'; did you mean 'edelman2024"),
    (("reproduc", "markov"), "No such command 'reproduc'"),
    # dials there are not
    ((*REPRODUCE, "--set", "task.legnth=3"), "no dial of markov 'legnth'; did you mean 'length'"),
    ((*REPRODUCE, "--set", "length=3"), "no setting 'length'; did you mean 'task.length'"),
    ((*REPRODUCE, "--set", "step=3"), "no setting 'step'; did you mean 'steps'"),
    ((*REPRODUCE, "--set", "taks.length=3"), "no part of a run 'taks'; did you mean 'task'"),
    ((*REPRODUCE, "--set", "model.layer=3"), "no dial of the model 'layer'; did you mean 'layers'"),
    ((*TRAIN, "--set", "legnth=3"), "no dial of markov 'legnth'"),
    ((*TRAIN, "--set", "state=3"), "no dial of markov 'state'; did you mean 'states'"),
    ((*TRAIN, "--model", "layer=3"), "no dial of the model 'layer'; did you mean 'layers'"),
    ((*TRAIN, "--optimizer", "lrr=3"), "no dial of the optimizer 'lrr'; did you mean 'lr'"),
    ((*GENERATE, "--set", "legnth=3"), "no dial of markov 'legnth'"),
    ((*MEASURE, "--set", "m=3"), "no dial of the measure loss 'm'"),
    ((*MEASURE, "--set", "splti=icl"), "no dial of the measure loss 'splti'; did you mean 'split'"),
    ((*TRAIN, "--stpes", "3"), "No such option"),
    # values of another kind
    ((*TRAIN, "--set", "states=abc"), "states = 'abc' is out of range: it is of kind int"),
    ((*TRAIN, "--set", "length=3.5"), "length = 3.5 is out of range"),
    ((*TRAIN, "--model", "layers=two"), "layers = 'two' is out of range"),
    ((*TRAIN, "--model", "heads=[1,x]"), "heads = '[1,x]' is out of range"),
    ((*TRAIN, "--model", 'norm={"a":1}'), "no norm"),
    ((*TRAIN, "--optimizer", "lr=abc"), "lr = 'abc' is out of range: it is of kind float"),
    ((*TRAIN, "--optimizer", "lr=NaN"), "lr = nan is out of range"),
    ((*TRAIN, "--optimizer", "lr=Infinity"), "lr = inf is out of range"),
    ((*TRAIN, "--optimizer", "betas=0.9"), "betas = 0.9 is out of range"),
    ((*MEASURE, "--set", "n=many"), "n = 'many' is out of range"),
    ((*REPRODUCE, "--set", "steps=1e3"), "steps = 1000.0 is out of range: a whole number"),
    ((*REPRODUCE, "--set", "batch=many"), "batch = 'many' is out of range"),
    (("train", "markov", "--steps", "1e3"), "Invalid value for '--steps'"),
    # values out of range
    ((*TRAIN, "--set", "states=1"), "states = 1 is out of range"),
    ((*TRAIN, "--model", "dropout=1"), "dropout = 1.0 is out of range: 0 up to, not including, 1"),
    ((*TRAIN, "--optimizer", "lr=-1"), "lr = -1.0 is out of range: above 0"),
    ((*TRAIN, "--model", "init=gpt3"), "no init 'gpt3'; did you mean 'gpt2'"),
    ((*TRAIN, "--batch", "0"), "batch = 0 is out of range"),
    (("train", "markov", "--steps", "0"), "--steps 0 is out of range"),
    ((*TRAIN, "--device", "cudo"), "no device 'cudo'; did you mean 'cuda'"),
    ((*REPRODUCE, "--set", "task.states=1"), "states = 1 is out of range"),
    ((*REPRODUCE, "--set", "model.init=gpt3"), "no init 'gpt3'; did you mean 'gpt2'"),
    ((*REPRODUCE, "--set", "steps=-1"), "steps = -1 is out of range"),
    (("reproduce", "markov", "--jobs", "0"), "--jobs 0 is out of range"),
    ((*REPRODUCE, "--stack", "0"), "--stack 0 is out of range"),
    ((*MEASURE, "--set", "n=0"), "n = 0 is out of range"),
    ((*MEASURE, "--set", "split=icl"), "no split of markov 'icl'"),
    ((*MEASURE, "--steps", "4"), "keeps no checkpoint at step 4; the nearest is 5; kept: 0, 1, 5, 12"),
    (("generate", "markov", "--n", "0", "--out", "data"), "n = 0"),
    # dials that contradict one another
    ((*TRAIN, "--model", "heads=3"), "heads = 3 is out of range: a divisor of d_model = 64, or set d_head"),
    ((*TRAIN, "--model", "heads=[1,1,1]"), "heads = (1, 1, 1) is out of range: one number, or 2 (one a layer)"),
    ((*TRAIN, "--model", "tied=true", "--model", "readout=[9]"), "tied = True is out of range"),
    ((*TRAIN, "--optimizer", "schedule=cosine"), "horizon = None is out of range"),
    (("train", "repeats", "--set", "repeat=50", "--set", "length=60"), "length = 60 is out of range"),
    ((*TRAIN, "--set", "variant=doubly_stochastic", "--set", "order=2"), "order = 2 is out of range"),
    ((*REPRODUCE, "--set", "model.d_head=3", "--set", "model.positions=rotary"), "d_head = 3 is out of range: even"),
    # text that cannot be read
    ((*REPRODUCE, "--set", "task.length"), "'task.length' is not of the form dial=value"),
    ((*REPRODUCE, "--set", "task.length="), "'task.length=' is not of the form dial=value"),
    ((*REPRODUCE, "--set", "task.length=1,,2"), "is not of the form dial=value"),
    ((*REPRODUCE, "--set", "=3"), "'=3' is not of the form dial=value"),
    ((*REPRODUCE, "--set", "batch=8", "--set", "batch=9"), "'batch=9': batch was set before"),
    ((*TRAIN, "--set", "length=16,32"), "length = [16, 32]: this command takes one value for each dial"),
    ((*REPRODUCE, "--seeds", "5-3"), "--seeds '5-3': the first of a range must not be above the last"),
    ((*REPRODUCE, "--seeds", "a-b"), "--seeds 'a-b' is not a range like 100-105 or a list like 0,1,7"),
    ((*REPRODUCE, "--seeds", "100-"), "--seeds '100-' is not a range"),
    ((*REPRODUCE, "--seeds", "-3"), "--seeds '-3' is not a range"),
    ((*REPRODUCE, "--seeds", "1,,2"), "--seeds '1,,2' is not a range"),
    ((*REPRODUCE, "--seeds", "0-99999999999"), "names more than"),
    ((*REPRODUCE, "--memory", "2"), "--memory '2' is not a size like 2GiB or 512MiB"),
    ((*REPRODUCE, "--memory", "-1GiB"), "--memory '-1GiB' is not a size"),
    ((*REPRODUCE, "--memory", "infGiB"), "--memory 'infGiB' is not a size"),
    ((*MEASURE, "--memory", "0GiB"), "--memory '0GiB' is not a size"),
    ((*MEASURE, "--steps", "0:10"), "--steps '0:10' is not a range like"),
    # places that are not what was named
    (("measure", "nowhere", "loss"), "nowhere is not a run folder"),
    (("measure", ".", "loss"), "is not a run folder: it has no readable spec.json"),
    (("draw", "runs", "dynamics"), "runs is not a run folder"),
    (("verify", "markov", "--preset", "smoke"), "0 of 6 runs are in"),
    ((*TRAIN, "--out", f"{RUN}/spec.json"), "could not write"),
    (("generate", "markov", "--n", "9", "--out", "runs"), "runs is not empty"),
]


@pytest.mark.parametrize(
    ("arguments", "complaint"), MISTAKES, ids=[" ".join(args[:1] + args[-2:]) for args, _ in MISTAKES]
)
def test_a_mistake_is_told_and_changes_nothing(
    refused: Callable[..., str], arguments: tuple[str, ...], complaint: str
) -> None:
    assert complaint in " ".join(refused(*arguments).split())


def test_a_dry_run_sees_the_same_mistakes(refused: Callable[..., str]) -> None:
    assert "no init 'gpt3'" in refused(*REPRODUCE, "--set", "model.init=gpt3", "--dry-run")
    assert "--memory '2'" in refused(*REPRODUCE, "--memory", "2", "--dry-run")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(refused: Callable[..., str]) -> None:
    assert "device = 'cuda' is out of range: cpu, as no GPU is found here" in refused(*TRAIN, "--device", "cuda")
    assert "no GPU is found here" in refused(*REPRODUCE, "--device", "cuda")


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (dict(steps=10.5), "steps = 10.5 is out of range: a whole number"),
        (dict(steps=-1), "steps = -1 is out of range"),
        (dict(steps=4, keep=[0, 9]), "keep = 9 is out of range: whole numbers from 0 to steps = 4"),
        (dict(steps=4, seed=0.5), "world = 0.5 is out of range"),
        (dict(steps=4, batch=True), "batch = True is out of range"),
        (dict(task=SPEC, model=SPEC.model), "a task, where model, optimizer or edits are given beside it"),
        (dict(model=Transformer(init="none")), "no init 'none'"),
        (dict(optimizer=3), "optimizer = 3 is out of range: it is of kind Optimizer"),
        (dict(task=Markov), "is out of range: it is of kind Task"),
    ],
)
def test_mistakes_in_python(out: Path, wrong: dict, complaint: str) -> None:
    before = snapshot(out)
    with pytest.raises(ValueError) as error:
        lab.train(**{"task": SPEC.task, "progress": False, "out": out / "new", **wrong})
    assert complaint in str(error.value) and snapshot(out) == before


def test_a_sequence_longer_than_the_context(out: Path) -> None:
    run, before = lab.open(out / RUN), snapshot(out)
    with pytest.raises(ValueError, match="sequences of 17 tokens are longer than the model's context of 16"):
        run.model()(np.zeros((1, 17), int))
    with pytest.raises(ValueError, match="sequences of 64 tokens are longer"):
        run.cache(5, Repeats(tokens=3, length=64).sample(np.random.default_rng(0), 2))
    with pytest.raises(ValueError, match="tokens from 0 to 2 are out of range: this model knows 0 to 1"):
        run.model()(np.arange(3))
    assert snapshot(out) == before


def test_a_loss_that_is_not_finite(out: Path, probelab: Probelab) -> None:
    wild = (*TRAIN[:2], "--optimizer", "name=sgd", "--optimizer", "lr=1e30", "--steps", "20", "--out", "wild")
    said = probelab(*wild)
    assert said.code == 2 and "Traceback" not in said.err
    assert "the loss is no longer finite; the last good checkpoint, of step" in said.err
    run = lab.open(next(Path("wild/runs").iterdir()))
    step = run.stopped["step"]
    assert f"stopped at step {step}" in said.err and f"of step {run.last}, is kept" in said.err
    assert run.last < step and all(np.isfinite(array).all() for array in run.weights(run.last).values())
    assert torch.isfinite(run.model()(run.batch(4))).all(), "the last checkpoint is a good one"
    before = snapshot(Path("wild"))
    assert probelab(*wild).code == 2
    assert {k: v[0] for k, v in snapshot(Path("wild")).items()} == {k: v[0] for k, v in before.items()}
    assert f"stopped at {step}" in probelab("runs", "wild").out
    assert probelab("measure", run.path, "loss", "--set", "n=8").code == 0


def rewrite(out: Path, **changed: object) -> None:
    described = json.loads((out / RUN / "spec.json").read_text())
    (out / RUN / "spec.json").write_text(json.dumps({**described, **changed}))


SAME = ("train", "markov", "--set", "length=16", "--model", "layers=1", "--model", "d_model=16", "--batch", "16")
SAME += ("--optimizer", "lr=1e-2", "--steps", "30")


def test_the_same_run_is_named(out: Path, probelab: Probelab) -> None:
    said = probelab(*SAME)
    assert said.code == 0 and SPEC.name in said.out, "what the tests below rely on"
    assert lab.open(out / RUN).length == 30


def test_a_run_folder_of_another_version(out: Path, refused: Callable[..., str]) -> None:
    described = json.loads((out / RUN / "spec.json").read_text())["spec"]
    for changed, complaint in [
        (dict(format=2), "was written in format 2, this version reads format 1"),
        (dict(format=1, digest="0000000000"), "spec.json was altered, or written by another version"),
        (
            dict(spec={**described, "task": {**described["task"], "version": 7}}),
            "made by version 7 of the task 'markov'",
        ),
    ]:
        rewrite(out, **changed)
        for arguments in (MEASURE, SAME, ("draw", RUN, "dynamics")):
            assert complaint in refused(*arguments), arguments


def test_a_listing_shows_what_cannot_be_opened(out: Path, probelab: Probelab) -> None:
    train(out, SPEC.seeded(1), 1, (0, 1))
    rewrite(out, format=2)
    said = probelab("runs")
    assert said.code == 0 and f"{SPEC.name}  cannot be opened" in said.out and "1 steps  2 checkpoints" in said.out


@pytest.mark.parametrize("harm", [truncated, altered, of_another_step])
def test_a_harmed_checkpoint(out: Path, refused: Callable[..., str], harm: Callable[[Path], None]) -> None:
    harm(out / RUN / "checkpoints/000005.safetensors")
    assert "checkpoints/000005.safetensors" in refused(*MEASURE, "--set", "n=9")


@pytest.mark.parametrize("harm", [truncated, altered])
def test_a_harmed_anchor(out: Path, refused: Callable[..., str], harm: Callable[[Path], None]) -> None:
    for anchor in (out / RUN / "resume").iterdir():
        harm(anchor)
    assert "Delete it and it is made again" in refused(*SAME)


@pytest.mark.parametrize("name", ["train.parquet", "rows/*.parquet"])
def test_harmed_rows(out: Path, refused: Callable[..., str], name: str) -> None:
    truncated(next((out / RUN).glob(name)))
    command = SAME if name == "train.parquet" else (*MEASURE, "--set", "n=8")
    assert "Delete it and it is made again" in refused(*command)


def test_a_full_disk(out: Path, probelab: Probelab, tmp_path: Path) -> None:
    before = weights(Folder(out / RUN))
    with pytest.MonkeyPatch.context() as monkeypatch:
        full_disk(monkeypatch, room=800)
        said = probelab(*SAME)
        assert said.code == 2 and "No space left on device; what was there before is untouched" in said.err
        assert "Traceback" not in said.err
        measured = probelab(*MEASURE, "--set", "n=9")
        assert measured.code == 2 and "No space left on device" in measured.err
    after = Folder(out / RUN)
    assert weights(after) == before and not list(out.rglob("*.part"))
    assert probelab(*SAME).code == 0 and probelab(*MEASURE, "--set", "n=9").code == 0
    fresh = lab.train(SPEC, steps=30, out=tmp_path / "fresh", progress=False)
    assert weights(fresh).items() <= weights(lab.open(out / RUN)).items()


def test_two_processes_in_one_run_folder(out: Path, refused: Callable[..., str]) -> None:
    with Folder(out / RUN).lock():
        assert "another process is writing to" in refused(*SAME)
    with Folder(out / RUN).lock("rows"):
        assert "another process is writing to" in refused(*MEASURE, "--set", "n=9")


def test_a_run_without_rows_or_patterns(out: Path, refused: Callable[..., str]) -> None:
    assert "has no patterns yet: run `probelab measure" in refused("draw", RUN, "pattern")
    for path in (out / RUN / "rows").iterdir():
        path.unlink()
    assert "has no rows yet: run `probelab measure" in refused("draw", RUN, "dynamics")


def test_specs_that_contradict_themselves() -> None:
    with pytest.raises(ValueError, match="warmup = 0 is out of range"):
        Optimizer(schedule="inverse_sqrt")
    with pytest.raises(ValueError, match="batch = 0"):
        Spec(SPEC.task, batch=0)
    with pytest.raises(ValueError, match="d_model = 7 is out of range: even"):
        Transformer(d_model=7, heads=1, positions="sinusoidal")
