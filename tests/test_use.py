"""Decodable is not used: a planted model that holds two facts, and answers by one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted import Planted, grown, random_subject, table, value

from probelab.measures._examples import question
from probelab.measures.probe import Probe
from probelab.measures.use import Use, others
from probelab.model import shapes
from probelab.spec import Transformer
from probelab.subject import Model
from synthetic_tasks import TASKS, Batch, Classification, Markov, Repeats, Task, stream

SPEC = Transformer(layers=2, heads=1, d_model=12, norm="none", biases=False)


@dataclass(frozen=True)
class Two(Task):
    """A token is one of 3 shapes in one of 2 colours; the shape is asked."""

    length: int = 4

    name = "two"
    vocab = property(lambda self: 6)
    outputs = property(lambda self: 3)
    context = property(lambda self: self.length)

    def sample(self, rng: np.random.Generator, n: int, split: str = "train") -> Batch:
        tokens = rng.integers(6, size=(n, self.length))
        facts = {
            "shape": tokens // 2,
            "colour": tokens % 2,
            "first": np.where(np.arange(self.length) == 0, tokens // 2, -1),
            "coin": rng.integers(2, size=n),
            "some": np.where(rng.random(tokens.shape) < 0.6, tokens // 2, -1),
        }
        return Batch(tokens, np.where(np.arange(self.length) > 0, tokens // 2, -1), facts=facts)


def by_shape(task: Task, heed: float = 6.0, **how: Any) -> Model:
    """Shape and colour stand in the stream side by side; the answer heeds the shape alone. Attention does nothing."""
    params = {name: np.zeros(shape, np.float32) for name, (shape, _, _) in shapes(SPEC, task).items()}
    tokens = np.arange(6)
    params["embed.W_E"][tokens, tokens // 2] = 1
    params["embed.W_E"][tokens, 3 + tokens % 2] = 1
    params["embed.W_E"][:, 5:] = stream("test", "embedding").standard_normal((6, 7)) * 0.1
    params["unembed.W_U"][:3] = heed * np.eye(3)
    return Model(SPEC, task, params, **how)


def used(target: str, *models: Model, **dials: Any) -> pd.DataFrame:
    return table(Use(target, **{"layers": (0,), "n": 300, **dials}), Planted(Two(), *models, model=SPEC))


@pytest.mark.parametrize("task", TASKS)
def test_contract(task: str):
    small = {"classification": Classification(classes=16, labels=8, dim=8), "repeats": Repeats(tokens=12, length=20)}
    subject = random_subject(small.get(task) or Markov(length=12))
    for pooled in (False, True):
        rows = table(Use(n=24, pooled=pooled), subject)
        pd.testing.assert_frame_equal(rows, table(Use(n=24, pooled=pooled), subject))
        assert np.isfinite(rows["value"]).all() and rows.groupby("step").size().nunique() == 1
        assert not rows.duplicated(["step", "layer", "metric"]).any()
        assert ((rows["lo"] <= rows["value"]) & (rows["value"] <= rows["hi"])).all()


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
@pytest.mark.parametrize("pooled", [False, True])
def test_what_is_decodable_need_not_be_used(kind: str, pooled: bool):
    task, model = Two(), by_shape(Two())
    for target, matters in (("shape", True), ("colour", False)):
        found = table(Probe(target, layers=(0,), n=300, pooled=pooled), Planted(task, model, model=SPEC))
        assert (found[found["metric"] == "accuracy"]["value"] == 1).all()  # both can be read off
        rows = used(target, model, kind=kind, pooled=pooled, positions=(1, 2, 3))
        for metric, size in (("interchange", 6.0), ("erasure", np.log(3))):  # 6: of the logits; log 3: a blind guess
            change, excess = (rows[rows["metric"] == name].iloc[0] for name in (metric, f"{metric}_excess"))
            assert excess["value"] == pytest.approx(change["value"] - value(rows, metric=f"{metric}_control"))
            if matters:
                assert change["value"] == pytest.approx(size, rel=0.1) and excess["lo"] > 0.2 * size
            else:
                assert abs(change["value"]) < 0.03 and excess["hi"] < 0.03


def test_a_model_that_heeds_the_shape_more_and_more_uses_it_from_then_on():
    models = [by_shape(Two(), heed) for heed in (0.0, 1.0, 6.0)]
    rows = used("shape", *models, positions=(1, 2, 3))
    curve = [value(rows, metric="interchange_excess", step=step) for step in range(3)]
    assert curve[0] == 0 and 0.3 < curve[1] < curve[2]


def test_noise_is_not_used():
    rows = used("coin", by_shape(Two()), positions=(1, 2, 3))
    for metric in ("interchange", "erasure"):
        assert value(rows, metric=f"{metric}_excess") < 0.1


def test_a_checkpoint_that_diverged_has_rows_without_values():
    task = Repeats(tokens=8, length=6)
    good, bad = grown(task, seed=0), grown(task, seed=1)
    bad.params["blocks.0.attn.W_O"] = bad.params["blocks.0.attn.W_O"] * np.nan
    rows = table(Use("token", n=64), Planted(task, good, bad))
    assert rows.groupby("step")["value"].agg(lambda part: part.notna().mean()).to_dict() == {0: 1.0, 1: 0.0}


def test_answers_count_from_the_first_change_on():
    """Position 0 has no say in later answers here; nor has what is changed after an answer."""
    assert value(used("first", by_shape(Two())), metric="interchange") == 0
    late = used("shape", by_shape(Two()), positions=(3,))
    assert value(late, metric="interchange") == pytest.approx(6.0, rel=0.1)  # the unchanged answers do not dilute it


def test_changes_are_what_they_are_said_to_be():
    task, model, measure = Two(), by_shape(Two()), Use("shape", n=200, dims=1, controls=2)
    batch = Planted(task).batch(200)
    asks = question(task, batch, "shape", None, 0.5)
    donors = measure._donors(task, asks)
    labels = np.take_along_axis(asks.test, donors, axis=0)
    assert (donors >= 0).all() and (labels != asks.test).all()
    site = "blocks.0.hook_resid_post"
    held = model.cache(batch, [site])[site].double()
    changes = measure._changes(held, asks, donors)
    assert set(changes) == {
        "none",
        "interchange",
        "erasure",
        *(f"{m} {k}" for m in ("interchange", "erasure") for k in (0, 1)),
    }
    for metric in ("interchange", "erasure"):
        for k in (0, 1):
            norms = (changes[name].norm(dim=-1) for name in (metric, f"{metric} {k}"))
            assert torch.allclose(*norms, atol=1e-9)
    assert torch.linalg.matrix_rank(changes["interchange"][:, 1], tol=1e-6) == 1 and not changes["none"].any()
    losses = measure._losses(model, batch, site, asks, donors)
    for name, change in changes.items():
        logits = ((held[100:] + change) @ model["unembed.W_U"].double()).log_softmax(-1)
        expected = -logits.gather(-1, torch.from_numpy(batch.facts["shape"][100:, :, None]))[..., 0]
        assert losses[name][:, 1:] == pytest.approx(expected[:, 1:].numpy(), abs=1e-4)


def test_places_without_a_label_keep_what_they_hold():
    task, measure = Two(), Use("some", n=80, controls=1)
    batch = Planted(task).batch(80)
    asks = question(task, batch, "some", None, 0.5)
    donors = measure._donors(task, asks)
    assert ((donors >= 0) == (batch.facts["some"][40:] >= 0)).all()
    changes = measure._changes(torch.randn(80, 4, 12, dtype=torch.float64), asks, donors)
    for name, change in changes.items():
        assert (change.abs().amax(-1) > 0).numpy().tolist() == ((donors >= 0) & (name != "none")).tolist()


def test_others_have_another_label_and_each_is_as_likely():
    labels = np.array([0, 1, 1, -1, 2, 2, 2])
    drawn = np.array([others(labels, stream("test", "others", k)) for k in range(600)])
    assert (drawn[:, 3] == -1).all()
    for k, label in enumerate(labels):
        if label >= 0:
            allowed = np.flatnonzero((labels >= 0) & (labels != label))
            counts = np.bincount(drawn[:, k], minlength=7)
            assert set(np.flatnonzero(counts)) == set(allowed)
            assert counts[allowed] == pytest.approx(600 / len(allowed), rel=0.35)
    assert others(np.array([1, 1, -1]), stream("a")).tolist() == [-1, -1, -1]
    assert others(np.array([-1, -1]), stream("a")).tolist() == [-1, -1]


def test_heads_are_changed_too_and_memory_changes_nothing():
    task = Two()
    rows = [
        table(Use("shape", "z", n=60), Planted(task, grown(task, scale=3.0, memory=memory)))
        for memory in (2**30, 2**17)
    ]
    assert grown(task, memory=2**17).chunk(Planted(task).batch(30), True) < 30
    assert rows[0]["value"].to_numpy() == pytest.approx(rows[1]["value"].to_numpy(), abs=1e-5)
    assert rows[0]["value"].abs().max() > 1e-4 and set(rows[0]["layer"]) == {0, 1}


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        (dict(n=3), "n = 3 is out of range: at least 4 sequences"),
        (dict(test=0.0), "test = 0.0 is out of range: a share between 0 and 1"),
        (dict(penalty=-1.0), "penalty = -1.0 is out of range: more than 0"),
        (dict(dims=0), "dims = 0 is out of range: at least 1, or None"),
        (dict(controls=0), "controls = 0 is out of range: at least 1"),
        (dict(kind="lasso"), "no kind of probe 'lasso'.* known: ridge, logistic"),
        (dict(target="shap"), "no target in two 'shap'; did you mean 'shape'"),
    ],
)
def test_bad_dials_are_refused(dials: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        table(Use(**{"n": 24, **dials}), Planted(Two(), by_shape(Two()), model=SPEC))
