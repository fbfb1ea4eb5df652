"""The recurrent controls equal torch's own modules, are causal, can be edited, and learn; what needs heads refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy import Toy, random_params

import probelab as lab
from probelab.bridge import to_transformer_lens
from probelab.conduct import execute
from probelab.edit import Edit
from probelab.model import init
from probelab.planner import packed, price
from probelab.spec import LSTM, RNN, Optimizer, Recurrent, Spec, Transformer, from_json, replace_all, to_json
from probelab.study import Job, grid
from probelab.subject import Model, Run
from synthetic_tasks import Markov
from tests.tiny import command, results, train

KINDS = {"lstm": LSTM(layers=2, d_model=6), "rnn": RNN(layers=2, d_model=6)}
TASKS = {"symbols": Toy(symbols=4, answers=3), "vectors": Toy(symbols=4, answers=3, width=3)}
SMALL = Spec(Markov(states=2, length=20), LSTM(layers=1, d_model=16), Optimizer(lr=1e-2))
every_kind = pytest.mark.parametrize("spec", KINDS.values(), ids=KINDS)


def a_model(spec: Recurrent, task: Toy, dtype: torch.dtype = torch.float64, memory: int = 2 << 30) -> Model:
    return Model(spec, task, random_params(spec, task, np.random.default_rng(0)), dtype, memory=memory)


def torch_module(model: Model) -> torch.nn.LSTM | torch.nn.RNN:
    """torch's own module with our weights; its second bias is 1 for the forget gate and 0 elsewhere."""
    spec = model.spec
    kind = torch.nn.LSTM if isinstance(spec, LSTM) else torch.nn.RNN
    module = kind(spec.d_model, spec.d_model, spec.layers, batch_first=True, dtype=model.dtype)
    state = {}
    for layer in range(spec.layers):
        here, d = f"recurrent.{layer}", spec.d_model
        state[f"weight_ih_l{layer}"] = model[f"{here}.W_in"].T
        state[f"weight_hh_l{layer}"] = model[f"{here}.W_rec"].T
        state[f"bias_ih_l{layer}"] = model[f"{here}.b"]
        state[f"bias_hh_l{layer}"] = torch.cat([torch.zeros(d), torch.ones(d), torch.zeros(2 * d)])
        if isinstance(spec, RNN):
            state[f"bias_hh_l{layer}"] = torch.zeros(d)
    module.load_state_dict(state)
    return module


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@every_kind
def test_logits_are_those_of_torch(spec: Recurrent, task: Toy, dtype: torch.dtype) -> None:
    model, batch = a_model(spec, task, dtype), task.sample(np.random.default_rng(1), 3)
    logits, cache = model.run(batch, model.sites)
    assert list(cache) == model.sites == ["hook_embed", "recurrent.0.hook_out", "recurrent.1.hook_out", "logits"]
    embedded = model["embed.W_E"][batch.tokens.clip(0)]
    if batch.vectors is not None:
        said = torch.from_numpy(batch.vectors).to(dtype) @ model["embed.W_in"]
        embedded = torch.where(torch.from_numpy(batch.tokens < 0)[..., None], said, embedded)
    with torch.no_grad():
        out = torch_module(model)(embedded)[0]
    near = dict(rtol=0.0, atol=1e-12 if dtype == torch.float64 else 1e-5)
    torch.testing.assert_close(cache["hook_embed"], embedded, **near)
    torch.testing.assert_close(cache["recurrent.1.hook_out"], out, **near)
    torch.testing.assert_close(logits, out @ model["unembed.W_U"], **near)


def test_a_layer_worked_by_hand() -> None:
    """One unit that reads 1, 1, 1: `h = tanh(x + h / 2 + 1 / 4)`."""
    one = np.ones((1, 1), np.float32)
    params = {"embed.W_E": one, "unembed.W_U": one, "recurrent.0.W_in": one, "recurrent.0.W_rec": one / 2}
    params["recurrent.0.b"] = one[0] / 4
    task = Toy(symbols=1, answers=1)
    state, expected = 0.0, []
    for _ in range(3):
        state = np.tanh(1 + state / 2 + 1 / 4)
        expected.append(state)
    logits = Model(RNN(layers=1, d_model=1), task, params)(np.zeros((1, 3), int))
    assert logits[0, :, 0].tolist() == pytest.approx(expected, abs=1e-6)


@every_kind
def test_every_site_is_causal(spec: Recurrent) -> None:
    """An edit at position 4 moves the logits there, and leaves the earlier ones as they were; so does another token."""
    task = TASKS["symbols"]
    model, batch = a_model(spec, task), task.sample(np.random.default_rng(0), 2)
    plain = model(batch)

    def noise(value: Tensor, _: object) -> Tensor:
        return value + (torch.arange(value.shape[1]) == 4).view(-1, 1) * 0.5

    tokens = batch.tokens.copy()
    tokens[:, 4] = (tokens[:, 4] + 1) % 4
    others = {site: model(batch, [Edit(site, noise)]) for site in model.sites} | {"tokens": model(tokens)}
    for site, logits in others.items():
        moved = (logits - plain).abs().amax((0, 2))
        assert moved[:4].max() == 0, site
        assert moved[4] > 1e-3, site
        later = site not in ("logits", "recurrent.1.hook_out")  # what the last layer gave out is not read again
        assert (moved[5:].max() > 1e-6) == later, site


@every_kind
def test_writing_back_what_was_read_changes_nothing(spec: Recurrent) -> None:
    model, batch = a_model(spec, TASKS["vectors"], torch.float32), TASKS["vectors"].sample(np.random.default_rng(0), 2)
    logits, cache = model.run(batch, model.sites)
    assert torch.equal(model(batch), logits)
    for site in model.sites:
        assert torch.equal(model(batch, [Edit(site, lambda _, __, kept=cache[site]: kept.clone())]), logits), site


@every_kind
def test_chunks_do_not_change_the_answer(spec: Recurrent) -> None:
    task = TASKS["vectors"]
    whole, pieces, batch = a_model(spec, task), a_model(spec, task, memory=1), task.sample(np.random.default_rng(1), 7)
    assert pieces.chunk(batch, True) == 1 and whole.chunk(batch, True) >= 7
    torch.testing.assert_close(pieces(batch), whole(batch), rtol=0, atol=1e-12)


@every_kind
def test_initial_weights(spec: Recurrent) -> None:
    """Standard deviation 1/sqrt(d_model), biases zero, two layers not alike."""
    drawn = init(replace(spec, d_model=64), TASKS["vectors"], 0)
    for layer in (0, 1):
        for name in ("W_in", "W_rec"):
            assert drawn[f"recurrent.{layer}.{name}"].std() == pytest.approx(1 / 8, rel=0.06)
        assert not drawn[f"recurrent.{layer}.b"].any()
    assert not np.array_equal(drawn["recurrent.0.W_rec"], drawn["recurrent.1.W_rec"])


@pytest.mark.parametrize("kind", [LSTM, RNN])
def test_a_stack_changes_nothing(tmp_path: Path, kind: type[Recurrent]) -> None:
    """Bit for bit: checkpoints and logs of three members trained together are those of each alone."""
    spec = replace(SMALL, model=kind(layers=2, d_model=16), batch=16)
    jobs = [Job("control", spec.seeded(seed), 12, (0, 5, 12)) for seed in range(3)]
    assert [len(group) for group in packed(jobs, 3)] == [3] and price(jobs[0]) > 0
    odd = [replace(job, spec=replace(job.spec, model=replace(job.spec.model, d_model=24))) for job in jobs]
    assert [len(group) for group in packed(odd, 3)] == [1, 1, 1]
    execute(jobs, tmp_path / "stack/runs", stack=3)
    execute(jobs, tmp_path / "alone/runs", stack=1)
    assert len(results(tmp_path / "stack")) == 3 * 5
    assert results(tmp_path / "stack") == results(tmp_path / "alone")


@pytest.mark.parametrize("kind", [LSTM, RNN, Transformer])
def test_a_spec_survives_its_text(kind: Any) -> None:
    spec = replace(SMALL, model=kind(layers=3, d_model=24, init="singh2024"))
    again = from_json(json.loads(json.dumps(to_json(spec))))
    assert again == spec and type(again.model) is kind and (again.name, again.digest) == (spec.name, spec.digest)


def test_kinds_have_names_and_digests_of_their_own() -> None:
    lstm, rnn, plain = (replace(SMALL, model=kind(layers=1, d_model=16)) for kind in (LSTM, RNN, Transformer))
    assert lstm.name == f"markov-lstm-length=20-layers=1-d_model=16-0-{lstm.digest}"
    assert rnn.name == f"markov-rnn-length=20-layers=1-d_model=16-0-{rnn.digest}"
    assert plain.name == f"markov-length=20-layers=1-d_model=16-0-{plain.digest}"
    assert len({lstm.digest, rnn.digest, plain.digest}) == 3
    assert Spec(Markov(), LSTM()).name.startswith("markov-lstm-0-")
    assert to_json(lstm)["model"] == {"kind": "lstm", "layers": 1, "d_model": 16, "init": "lecun"}
    assert (lab.LSTM, lab.RNN) == (LSTM, RNN) and {"LSTM", "RNN"} <= set(dir(lab))


def test_the_kind_is_a_dial() -> None:
    """Another kind keeps layers and d_model; the same kind changes nothing; a grid makes arms."""
    start = replace(SMALL, model=Transformer(layers=3, heads=4, d_model=48, init="gpt2"))
    assert replace_all(start, {"model.kind": "rnn"}).model == RNN(layers=3, d_model=48)
    assert replace_all(start, {"model.layers": 1, "model.kind": "lstm"}).model == LSTM(layers=1, d_model=48)
    assert replace_all(start, {"model.kind": "transformer"}) == start
    kinds = [type(replace_all(start, dials).model) for _, dials in grid({"model.kind": ["transformer", "lstm"]})]
    assert kinds == [Transformer, LSTM]


@pytest.mark.parametrize(
    ("dials", "complaint"),
    [
        ({"model.kind": "lstn"}, "no model kind 'lstn'; did you mean 'lstm'? known: transformer, lstm, rnn"),
        ({"model.kind": "rnn", "model.heads": 2}, "no dial of the model 'heads'"),
        ({"model.kind": "rnn", "model.dropout": 0.1}, "no dial of the model 'dropout'"),
        ({"model.kind": "lstm", "model.layers": 0}, "layers = 0 is out of range: at least 1"),
        ({"model.kind": "lstm", "model.d_model": 2.5}, "d_model = 2.5 is out of range: it is of kind int"),
    ],
)
def test_what_cannot_be_chosen(dials: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError) as error:
        replace_all(SMALL, dials)
    assert complaint in str(error.value)


def test_the_command_line_knows_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("train", "markov", "--set", "length=16", "--steps", "2", "--out", tmp_path, "--model", "d_model=8")
    said = command(capsys, *asked, "--model", "kind=lstm")
    assert said.code == 0 and "markov-lstm-length=16-d_model=8" in said.out
    assert lab.runs(tmp_path)[0].spec.model == LSTM(d_model=8)
    said = command(capsys, *asked, "--model", "kind=lstn")
    assert said.code == 2 and "no model kind 'lstn'; did you mean 'lstm'" in said.err


@pytest.fixture(scope="module", params=[LSTM, RNN])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    spec = replace(SMALL, model=request.param(layers=1, d_model=16))
    return train(tmp_path_factory.mktemp("run"), spec, 400, (0, 400))


def test_it_learns_more_than_how_often_symbols_come(trained: Run) -> None:
    """On the same fresh chains it beats the unigram counter by far, and comes as close as .01 nats to the bigram one.

    An LSTM even passes it: the first symbol, drawn from the stationary distribution, tells about the chain, which the
    counter ignores; exact Bayes is .005 nats below it here.
    """
    rows = lab.measure(trained, lab.Loss(n=2048)).set_index(["step", "metric"])
    lines = rows.loc[(400, "oracle_loss")].set_index("strategy")["value"]
    before, after = (rows.loc[(step, "loss"), "value"].item() for step in (0, 400))
    assert before == pytest.approx(lines["uniform"], abs=0.02)
    assert lines["bigram"] - 0.005 < after < lines["bigram"] + 0.01 < lines["unigram"] - 0.02


def test_measures_of_behaviour_work_and_those_of_heads_refuse(trained: Run) -> None:
    assert len(lab.measure(trained, lab.Strategy(n=64))) and len(lab.measure(trained, lab.InContext(n=64)))
    norms = lab.measure(trained, "norms")
    assert {"embedding", "recurrent", "bias", "readout"} == set(norms["site"].dropna())
    for measure in (lab.Heads(n=8), lab.Patterns()):
        kind = type(trained.spec.model).__name__
        with pytest.raises(ValueError, match=f"{measure.name} looks at attention heads, and {kind} has none"):
            lab.measure(trained, measure)


def test_the_bridge_refuses(trained: Run) -> None:
    with pytest.raises(ValueError, match="cannot become a TransformerBridge: only a Transformer can"):
        to_transformer_lens(trained.model())
