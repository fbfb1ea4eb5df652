"""The measure of probes: planted features are found, noise and mere types are not, and numbers are right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted import TINY, Planted, grown, induction, random_subject, table, value
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from toy import Toy

from probelab.measures._examples import labels_of, types_of
from probelab.measures.probe import Probe
from probelab.spec import LSTM
from probelab.subject import Model
from synthetic_tasks import TASKS, Batch, Classification, Markov, Repeats, Task, stream

SITE = "blocks.0.hook_resid_post"


@dataclass(frozen=True)
class Facts(Toy):
    """Symbols with labels of every kind: tied to the token, to the one before, to nothing at all."""

    symbols: int = 40
    length: int = 6

    name = "facts"

    def sample(self, rng: np.random.Generator, n: int, split: str = "train") -> Batch:
        tokens = rng.integers(self.symbols, size=(n, self.length))
        before = np.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
        facts = {
            "parity": tokens % 2,
            "before": before,
            "free": rng.integers(4, size=n),
            "some": np.where(rng.random(tokens.shape) < 0.7, rng.integers(3, size=tokens.shape), -1),
            "never": np.full(n, -1),
            "later": np.where(np.arange(self.length) < 3, 1, tokens % 3),
            "rare": np.where(np.arange(self.length) < 2, tokens % 3, -1),
            "real": rng.random(n),
            "items": rng.integers(3, size=(n, 2)),
        }
        return Batch(tokens, np.where(tokens < 5, tokens, -1), facts=facts)


class Shown(Model):
    """A 'model' whose stream is given by hand, `[batch pos d]`."""

    def __init__(self, task: Task, stream_of: Callable[[Batch], np.ndarray], memory: int = 2**31):
        super().__init__(TINY, task, {}, memory=memory)
        self.stream_of = stream_of

    def cache(self, x: Any, record: Iterable[str] | None = None, edits: Any = ()) -> dict[str, torch.Tensor]:
        return {site: torch.from_numpy(self.stream_of(x)).float() for site in record or ()}


def noise(x: Batch, size: int = 8) -> np.ndarray:
    return stream("test", "noise", len(x)).standard_normal((*x.tokens.shape, size))


def showing(fact: str, classes: int) -> Callable[[Batch], np.ndarray]:
    """Noise, with a fact written into its first dimensions."""

    def features(x: Batch) -> np.ndarray:
        labels = x.facts[fact] if x.facts[fact].ndim == 2 else x.facts[fact][:, None]
        return noise(x) + 6 * np.eye(8)[:classes][np.broadcast_to(labels, x.tokens.shape)]

    return features


def probed(measure: Probe, *shown: Callable[[Batch], np.ndarray], task: Task | None = None) -> pd.DataFrame:
    task = task or Facts()
    return table(measure, Planted(task, *(Shown(task, features) for features in shown)))


def mean(rows: pd.DataFrame, metric: str, step: int = 0) -> float:
    return float(rows[(rows["metric"] == metric) & (rows["step"] == step)]["value"].mean())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_contract(task: str, kind: str):
    small = {"classification": Classification(classes=16, labels=8, dim=8), "repeats": Repeats(tokens=12, length=20)}
    subject = random_subject(small.get(task) or Markov(length=12))
    rows = table(Probe(kind=kind, n=24), subject)
    pd.testing.assert_frame_equal(rows, table(Probe(kind=kind, n=24), subject))
    free = {"layer", "pos", "site", "target"}
    assert set(rows) <= {"step", "split", "metric", "value", "lo", "hi", "n"} | free
    assert np.isfinite(rows["value"]).all() and rows.groupby("step").size().nunique() == 1
    assert not rows.duplicated([c for c in rows if c not in ("value", "lo", "hi", "n")]).any()
    sure = rows.dropna(subset="lo")
    assert ((sure["lo"] <= sure["value"]) & (sure["value"] <= sure["hi"])).all()


@pytest.mark.parametrize("pooled", [False, True])
def test_planted_features_are_found_and_noise_is_not(pooled: bool):
    measure = Probe("free", layers=(0,), kind="logistic", n=400, pooled=pooled)
    rows = probed(measure, showing("free", 4), noise)
    assert mean(rows, "accuracy") > 0.98 and mean(rows, "selectivity") > 0.6 and mean(rows, "compression") > 2
    assert mean(rows, "v_information") == pytest.approx(np.log(4), abs=0.1) and mean(rows, "log_loss") < 0.1
    assert mean(rows, "compression_control") < 1.05 and abs(mean(rows, "accuracy_shuffled") - 0.25) < 0.2
    for metric in ("accuracy", "accuracy_shuffled", "accuracy_control", "chance"):
        assert mean(rows, metric, 1) == pytest.approx(0.25, abs=0.07)
    assert abs(mean(rows, "selectivity", 1)) < 0.06
    assert mean(rows, "v_information", 1) < 0 and mean(rows, "compression", 1) < 1


def test_a_probe_that_learns_types_by_heart_has_no_selectivity():
    """The stream holds the token alone: parity is then as easy as random labels, and not to be found on new tokens."""

    def tokens(x: Batch) -> np.ndarray:
        return np.eye(40)[x.tokens]

    by_heart = probed(Probe("parity", layers=(0,), n=800, pooled=True), tokens)
    assert mean(by_heart, "accuracy") == 1 and abs(mean(by_heart, "selectivity")) < 1e-9
    unseen = probed(Probe("parity", layers=(0,), n=800, pooled=True, held_out="types"), tokens, showing("parity", 2))
    assert (
        mean(unseen, "accuracy") < 0.75 and mean(unseen, "accuracy", 1) > 0.98
    )  # a real feature is found all the same
    assert not unseen["metric"].str.contains("control|selectivity").any()


def test_held_out_types_are_in_one_half_only():
    task, measure = Facts(), Probe("parity", n=200, held_out="types", test=0.3)
    batch, asks = measure._question(Planted(task))
    assert asks.types is not None and len(asks.train) == 140
    fitted, scored = asks.types[:140][asks.train >= 0], asks.types[140:][asks.test >= 0]
    assert not set(fitted) & set(scored) and len(set(fitted)) + len(set(scored)) == 40
    assert 0.1 < len(set(scored)) / 40 < 0.5


def test_the_token_before_arrives_with_the_first_layer():
    task = Facts(symbols=8, answers=8)
    rows = {
        site: table(Probe("before", site, (0,), n=600), Planted(task, induction(task), model=induction(task).spec))
        for site in ("resid_pre", "resid_post")
    }
    assert mean(rows["resid_post"], "accuracy") == 1 and mean(rows["resid_post"], "accuracy_shuffled") < 0.25
    assert mean(rows["resid_pre"], "accuracy") < 0.25
    assert 0 not in set(rows["resid_pre"]["pos"].dropna())  # nothing stands before the first token
    assert mean(rows["resid_pre"], "accuracy_untrained") < 0.25


def test_the_token_itself_is_there_before_training():
    rows = table(Probe("token", n=400, pooled=True), random_subject(Facts(symbols=8), steps=1))
    assert mean(rows, "accuracy_untrained") > 0.9


@pytest.mark.parametrize("target", ["some", "answer"])
def test_numbers_are_those_of_scikit_learn(target: str):
    task = Facts(symbols=10)
    subject = random_subject(task, steps=1)
    batch, model = subject.batch(300), subject.models[0]
    rows = {kind: table(Probe(target, kind=kind, n=300, test=0.4), subject) for kind in ("ridge", "logistic")}
    labels = batch.facts["some"] if target == "some" else batch.targets
    x = model.cache(batch)[SITE].double().numpy()
    for pos in (1, 4):
        there = labels[:, pos] >= 0
        train, test = (there & half for half in (np.arange(300) < 180, np.arange(300) >= 180))
        y, at = labels[:, pos], dict(layer=0, pos=pos)
        models = {"ridge": RidgeClassifier(), "logistic": LogisticRegression(tol=1e-7, max_iter=5000)}
        for kind, plain in models.items():
            theirs = make_pipeline(StandardScaler(), plain).fit(x[train, pos], y[train])
            hit = theirs.predict(x[test, pos]) == y[test]
            row = rows[kind].query("metric == 'accuracy' and layer == 0 and pos == @pos").iloc[0]
            assert row["value"] == pytest.approx(hit.mean(), abs=1e-12) and row["n"] == 120
            assert row["hi"] - row["lo"] == pytest.approx(2 * 1.96 * hit.std() / len(hit) ** 0.5, rel=0.02)
            most = np.bincount(y[train]).argmax()
            assert value(rows[kind], metric="chance", pos=pos) == pytest.approx((y[test] == most).mean())
        said = theirs.predict_proba(x[test, pos])[np.arange(test.sum()), y[test]]
        n, k = train.sum(), 1 + labels.max()
        loss = -np.log((n * said + 1 / k) / (n + 1)).mean()
        assert value(rows["logistic"], metric="log_loss", **at) == pytest.approx(loss, abs=1e-3)
        share = np.bincount(y[train], minlength=k)[y[test]] / n
        guess = -np.log((n * share + 1 / k) / (n + 1)).mean()
        assert value(rows["logistic"], metric="v_information", **at) == pytest.approx(guess - loss, abs=1e-3)


def test_one_probe_for_all_positions():
    task, model = Facts(symbols=10), grown(Facts(symbols=10))
    rows = table(Probe("some", n=200, pooled=True, positions=(-1, 2)), Planted(task, model))
    batch = Planted(task).batch(200)
    x, y = model.cache(batch)["blocks.1.hook_resid_post"].double().numpy()[:, [2, 5]], batch.facts["some"][:, [2, 5]]
    there = y >= 0
    theirs = make_pipeline(StandardScaler(), RidgeClassifier()).fit(x[:100][there[:100]], y[:100][there[:100]])
    hit = theirs.predict(x[100:][there[100:]]) == y[100:][there[100:]]
    assert value(rows, metric="accuracy", layer=1) == pytest.approx(hit.mean(), abs=1e-12)
    assert "pos" not in rows and set(rows["layer"].dropna()) == {0, 1}


def test_rows_of_a_step_do_not_depend_on_other_steps_nor_on_memory():
    task = Facts()
    models = [grown(task, seed=seed, scale=3.0) for seed in (0, 1)]
    measure = Probe("rare", kind="logistic", n=100)
    both, alone = table(measure, Planted(task, *models)), table(measure, Planted(task, models[1]))
    assert both[both["step"] == 1]["value"].tolist() == alone["value"].tolist()
    assert set(both["pos"]) == {0, 1}
    little = grown(task, seed=1, scale=3.0, memory=2**18)
    assert table(measure, Planted(task, little))["value"].to_numpy() == pytest.approx(
        alone["value"].to_numpy(), abs=1e-6
    )


def test_positions_with_one_label_are_left_out():
    for pooled, expected in ((False, {3, 4, 5}), (True, set())):
        rows = table(Probe("later", n=40, pooled=pooled), random_subject(Facts(), steps=1))
        assert set(rows.get("pos", pd.Series(dtype=int))) == expected


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_a_checkpoint_that_diverged_has_rows_without_values(kind: str):
    """The others have theirs: those they have without it."""
    task = Repeats(tokens=8, length=6)
    good, bad = grown(task, seed=0), grown(task, seed=1)
    bad.params["blocks.0.attn.W_O"] = bad.params["blocks.0.attn.W_O"] * np.nan
    measure = Probe("token", n=64, kind=kind)
    rows, alone = (table(measure, Planted(task, *models)) for models in ((good, bad), (good,)))
    pd.testing.assert_frame_equal(rows[rows["step"] == 0].reset_index(drop=True), alone)
    lost = rows[(rows["step"] == 1) & ~rows["metric"].str.endswith("_untrained") & (rows["metric"] != "chance")]
    assert len(lost) and lost[["value", "lo", "hi"]].isna().all(axis=None)


def test_the_seed_draws_other_controls():
    one, two = (table(Probe("free", n=60, seed=seed), random_subject(Facts(), steps=1)) for seed in (0, 1))
    assert mean(one, "accuracy") == mean(two, "accuracy")
    assert mean(one, "accuracy_control") != mean(two, "accuracy_control")


def test_the_type_of_a_vector_is_its_class():
    task = Classification(classes=16, labels=8, dim=8)
    batch = Planted(task).batch(20)
    types = types_of(task, batch)
    assert types is not None and (types[:, ::2] == 8 + batch.facts["classes"]).all()
    assert (types[:, 1::2] == batch.tokens[:, 1::2]).all()
    bare = Batch(batch.tokens, batch.targets, batch.vectors)
    assert types_of(task, bare) is None
    padded = Batch(np.array([[3, 1, -1]]), np.full((1, 3), -1), facts={"size": np.array([2])})
    assert labels_of(Toy(), padded, "size").tolist() == [[2, 2, -1]]  # nothing stands on the padding


def test_vectors_without_classes_have_no_control():
    @dataclass(frozen=True)
    class Vectors(Toy):
        width: int = 4
        name = "vectors"

    rows = table(Probe(n=40), random_subject(Vectors()))
    assert {"accuracy", "chance"} <= set(rows["metric"]) and "selectivity" not in set(rows["metric"])
    with pytest.raises(ValueError, match="held_out = 'types', but vectors of 'vectors' have no type"):
        table(Probe(n=40, held_out="types"), random_subject(Vectors()))


def test_heads_and_recurrent_nets_are_probed_too():
    rows = table(Probe("parity", "z", n=60, positions=(3,)), random_subject(Facts(), steps=1))
    assert set(rows["site"]) == {"z"} and set(rows["layer"].dropna()) == {0, 1}
    net = Planted(Facts(), grown(Facts(), LSTM(d_model=8)), model=LSTM(d_model=8))
    assert mean(table(Probe("token", "out", n=60), net), "accuracy") > 0
    with pytest.raises(ValueError, match="no site to probe 'resid_post' known: out"):
        table(Probe("token", n=60), net)


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        (dict(n=3), "n = 3 is out of range: at least 4 sequences"),
        (dict(test=1.0), "test = 1.0 is out of range: a share between 0 and 1"),
        (dict(penalty=0.0), "penalty = 0.0 is out of range: more than 0"),
        (dict(kind="rigde"), "no kind of probe 'rigde'; did you mean 'ridge'"),
        (dict(held_out="tokens"), "no held_out of probe 'tokens'.* known: sequences, types"),
        (dict(target="befor"), "no target in facts 'befor'; did you mean 'before'"),
        (dict(target="real"), r"target = 'real' cannot be read off: in facts it is float64 \[24\]"),
        (dict(target="items"), r"target = 'items' cannot be read off: in facts it is int64 \[24, 2\]"),
        (dict(target="never"), "target = 'never' leaves nothing to probe: .* the 12 sequences to fit on"),
        (dict(site="resid_pots"), "no site to probe 'resid_pots'; did you mean 'resid_post'"),
        (dict(layers=(2,)), "layers = 2 is out of range: 0 to 1"),
        (dict(positions=(6,)), "positions = 6 is out of range: -6 to 5"),
    ],
)
def test_bad_dials_are_refused(dials: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        table(Probe(**{"n": 24, **dials}), random_subject(Facts()))
