"""Texts go on as the whole model says, symbol by symbol, whatever stands beside them; and their price is counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import probelab as lab
from probelab.decode import Keeping, Rereading, decode, flops
from probelab.model import init, shapes
from probelab.subject import Model
from synthetic_tasks import Parity

TASK = Parity(bits=8, secret=4, samples=None)
SPEC = lab.Transformer(layers=2, heads=2, d_model=16, d_mlp=32, init="lecun")
SPECS = [replace(SPEC, positions=kind) for kind in ("learned", "rotary", "sinusoidal", "relative", "none")]
SPECS += [lab.LSTM(layers=1, d_model=16), lab.Transformer(layers=3, heads=(1, 4, 2), d_model=16, d_mlp=0, tied=True)]


def model(spec=SPEC, task=TASK, seed: int = 0) -> Model:
    return Model(spec, task, init(spec, task, seed), torch.float64)


def never(told: np.ndarray) -> np.ndarray:
    return np.full(len(told), -1)


def told(rng: np.random.Generator, n: int, shortest: int = 1) -> np.ndarray:
    """Random texts of different lengths."""
    lengths = rng.integers(shortest, TASK.context + 1, size=n)
    return np.where(np.arange(TASK.context) < lengths[:, None], rng.integers(4, size=(n, TASK.context)), -1)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: getattr(spec, "positions", "lstm"))
def test_each_symbol_is_the_likeliest_after_all_before_it(spec) -> None:
    one, texts = model(spec), told(np.random.default_rng(0), 40)
    whole = decode(one, texts, never)
    assert whole.shape == (40, TASK.context + 1) and (whole >= 0).all()
    here = np.pad(texts, ((0, 0), (0, 1)), constant_values=-1)
    assert (whole == here)[here >= 0].all(), "what was there stays"
    said = one(whole[:, :-1]).argmax(-1).numpy()
    assert (whole[:, 1:] == said)[here[:, 1:] < 0].all()
    assert len(np.unique(whole[:, 1:][here[:, 1:] < 0])) > 1, "or nothing was compared"


@pytest.mark.parametrize("spec", SPECS[:5], ids=lambda spec: spec.positions)
def test_what_is_kept_equals_reading_again(spec) -> None:
    one, tokens = model(spec), torch.from_numpy(np.random.default_rng(1).integers(4, size=(6, TASK.context)))
    keeping, rereading, stay = Keeping(one), Rereading(one), torch.tensor([4, 0, 3])
    with torch.no_grad():
        for reader in (keeping, rereading):
            reader(tokens[:, :5])
        torch.testing.assert_close(keeping(tokens[:, 5:6]), rereading(tokens[:, 5:6]), atol=1e-10, rtol=0)
        for reader in (keeping, rereading):
            reader.stay(stay)
        for at in range(6, TASK.context):
            new = tokens[stay][:, at : at + 1]
            torch.testing.assert_close(keeping(new), rereading(new), atol=1e-10, rtol=0)


def test_symbols_are_drawn_from_what_the_model_says() -> None:
    one, start = model(seed=3), np.tile([[1, 0, 1]], (20_000, 1))
    for temperature in (1.0, 0.5):
        whole = decode(one, start, never, temperature, np.random.default_rng(0))
        p = (one(start[:1])[0, -1] / temperature).softmax(-1).numpy()
        assert chisquare(np.bincount(whole[:, 3], minlength=4), 20_000 * p).pvalue > 1e-3
        then = whole[whole[:, 3] == 1]
        p = (one(then[:1, :4])[0, -1] / temperature).softmax(-1).numpy()
        assert chisquare(np.bincount(then[:, 4], minlength=4), len(then) * p).pvalue > 1e-3


def test_a_text_ends_where_it_parses_and_neighbours_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    one, texts = model(seed=1), told(np.random.default_rng(2), 300)

    def second_two(text: np.ndarray) -> np.ndarray:
        return np.where((text == 2).sum(axis=1) >= 2, 1, -1)

    whole = decode(one, texts, second_two, 1.0, np.random.default_rng(5))
    ends, wrote = (whole >= 0).sum(axis=1), (whole >= 0).sum(axis=1) > (texts >= 0).sum(axis=1)
    done = wrote & (ends <= TASK.context)
    assert done.sum() > 30 and (whole[done, ends[done] - 1] == 2).all()
    assert ((whole == 2).sum(axis=1)[wrote] <= 2).all() and (second_two(whole)[done] == 1).all()
    begun = second_two(texts) == 1
    assert begun.any() and not wrote[begun].any(), "what is finished stays as it is"
    for change in ({"KEPT": 0.0}, {"KEPT": 1.1}, {"CACHE": 20_000}, {"can_keep": lambda model: False}):
        with monkeypatch.context() as patch:
            for name, value in change.items():
                patch.setitem(decode.__globals__, name, value)
            assert (decode(one, texts, second_two, 1.0, np.random.default_rng(5)) == whole).all(), change


def test_trained_models_write_the_chain(tmp_path) -> None:
    task = Parity(bits=10, secret=2, samples=None)
    spec = lab.Transformer(layers=1, heads=2, d_model=32, d_mlp=128, positions="learned")
    run = lab.train(task, spec, steps=400, out=tmp_path, progress=False)
    test = run.batch(200, "test")
    whole = decode(run.model(), task.chain.prompt(test), task.chain.parse)
    assert (task.chain.parse(whole) == test.facts["answer"]).mean() > 0.95


def test_the_price_is_that_of_the_products() -> None:
    parameters = {name: shape for name, (shape, _, _) in shapes(SPEC, TASK).items()}
    products = sum(np.prod(s) for name, s in parameters.items() if len(s) == 2 and "embed.W_E" not in name)
    products -= np.prod(parameters.get("pos_embed.W_pos", (0,)))
    attention = sum(2 * 2 * 16 * keys for keys in range(1, 6)) * 2
    assert flops(SPEC, TASK, 5) == 2 * 5 * products + attention
    assert (np.diff(flops(SPEC, TASK, np.arange(5))) > 0).all() and flops(lab.LSTM(), TASK, 0) == 0


def test_errors_say_what_to_choose() -> None:
    with pytest.raises(ValueError, match="rng"):
        decode(model(), np.array([[1]]), never, 1.0)
    with pytest.raises(ValueError, match="rng"):
        decode(model(), np.array([[1]]), never, 0.0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="temperature"):
        decode(model(), np.array([[1]]), never, -1.0)
    with pytest.raises(ValueError, match="texts"):
        decode(model(), np.array([[-1]]), never)
    with pytest.raises(ValueError, match="below 4"):
        decode(model(), np.array([[9]]), never)
    assert decode(model(), np.empty((0, 3), int), never).shape == (0, TASK.context + 1)
