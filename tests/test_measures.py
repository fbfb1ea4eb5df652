"""Measures: their contract, and each against a model whose answer is known beforehand."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted import TINY, Guessed, Oracle, Planted, Recall, grown, random_subject, table, value

import probelab.measures
from probelab.measures import MEASURES, Heads, InContext, Loss, Norms, Patterns, Strategy
from probelab.measures._estimate import pooled
from probelab.measures.norms import gradient
from probelab.model import shapes
from probelab.rows import RESERVED, load_rows, save_rows
from probelab.runs import Folder
from probelab.spec import Spec, Transformer
from probelab.subject import Run, Subject, as_batch
from probelab.train import grow, read_log
from synthetic_tasks import TASKS, Classification, Markov, Repeats, Task

CHAIN, COPY = Markov(length=20), Repeats(tokens=12, length=30)
SMALL: dict[str, Task] = {
    "markov": CHAIN,
    "repeats": COPY,
    "classification": Classification(classes=16, labels=8, dim=8),
}
FREE = {
    "layer",
    "head",
    "pos",
    "key",
    "neuron",
    "role",
    "strategy",
    "site",
    "change",
    "target",
    "component",
    "sender",
    "receiver",
    "edges",
    "found_at",
    "pairs",
    "trained_at",
    "sender_layer",
    "sender_head",
    "way",
    "kept",
    "mode",
    "link",
    "estimator",
    "distance",
    "drawn",
}

# of a gap or of chains that a random model does not have: NaN
SHARES = ("recovery", "faithfulness", "aoc_over_chance", "separating", "separating_chance", "length", "rescued", "kept")


def small(kind: type, **dials: Any) -> Any:
    return kind(**dials, **({"n": 24} if "n" in {f.name for f in fields(kind)} else {}))


def close(left: pd.DataFrame, right: pd.DataFrame, digits: float) -> None:
    pd.testing.assert_frame_equal(left, right, rtol=0, atol=digits)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = Folder.create(Spec(CHAIN, TINY, batch=8), tmp_path_factory.mktemp("runs"))
    grow([folder], 2, [0, 1, 2])
    return Run(folder.path)


def test_the_table_lists_the_files_of_the_folder():
    files = {path.stem for path in Path(probelab.measures.__path__[0]).glob("[!_]*.py")}
    assert files == set(MEASURES) == {kind.name for kind in MEASURES.values()}


FOR_CLASSIFIERS = ("classify", "circuit", "mixture")
FOR_CHAINS = ("answers", "early", "follow", "backpatch")
ASKED_ONCE = ("classification", "parity", "addition", "two_hop", "bayes_net")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", MEASURES)
def test_contract(name: str, task: str, tmp_path: Path):
    measure, subject = small(MEASURES[name]), random_subject(SMALL.get(task) or TASKS[task]())
    before = [p.clone() for m in subject.models for p in m.params.values()]
    asked_once = name == "icl" and task in ASKED_ONCE
    chained = hasattr(TASKS[task], "chain")
    if (
        asked_once
        or (name in FOR_CLASSIFIERS and task != "classification")
        or (name in FOR_CHAINS and not chained)
        or (name == "reasoning" and task != "bayes_net")
    ):
        with pytest.raises(ValueError, match=task):  # what a measure has no use for it refuses, and says of which task
            list(measure(subject))
        return
    rows = pd.DataFrame(measure(subject))
    again = pd.DataFrame(small(MEASURES[name])(subject))
    pd.testing.assert_frame_equal(rows, again)
    for weight, old in zip((p for m in subject.models for p in m.params.values()), before, strict=True):
        assert torch.equal(weight, old) and not weight.requires_grad
    assert measure.version >= 1
    if hasattr(measure, "arrays"):
        for axes, array in measure.arrays(subject).values():
            assert len(axes) == array.ndim == len(set(axes))
        return
    assert {"step", "metric", "value"} <= set(rows) <= FREE | set(RESERVED)
    assert np.isfinite(rows["value"])[~rows["metric"].isin(SHARES)].all()
    sure = rows.dropna(subset="lo") if "lo" in rows else rows.iloc[:0].assign(lo=0.0, hi=0.0)
    assert ((sure["lo"] <= sure["value"]) & (sure["value"] <= sure["hi"])).all()
    places = [column for column in rows if column not in ("value", "lo", "hi", "n")]
    assert not rows.duplicated(places).any()
    assert rows.groupby("step").size().nunique() == 1 and list(rows["step"].unique()) == [0, 1]
    save_rows(tmp_path / "rows.parquet", rows)
    assert len(load_rows(tmp_path / "rows.parquet")) == len(rows)


@pytest.mark.parametrize(
    "measure", [Loss(24, by_position=True), Strategy(24, by_position=True), InContext(24), Heads(24)]
)
@pytest.mark.parametrize("task", ["markov", "repeats"])
def test_chunks_that_fit_into_little_memory_change_nothing(measure: Any, task: str):
    whole, pieces = (table(measure, random_subject(SMALL[task], memory=memory)) for memory in (2**30, 2**20))
    close(whole, pieces, 1e-4)
    model = grown(SMALL[task], memory=2**20)
    assert 1 <= model.chunk(random_subject(SMALL[task]).batch(24), True) < 24


@pytest.mark.parametrize("kind", [Loss, Strategy, InContext, Heads])
def test_bad_dials_are_refused(kind: Any):
    with pytest.raises(ValueError, match="n = 0 is out of range: at least one"):
        kind(n=0)
    with pytest.raises(ValueError, match="no split of markov 'tain'; did you mean 'train'"):
        table(kind(split="tain"), random_subject(CHAIN))


# --- estimates -------------------------------------------------------------------------------------------------------


def test_a_pooled_mean_by_hand():
    mean = pooled(np.array([1.0, 2.0, 9.0]), np.array([1, 1, 2]))  # tokens 1 | 2 | 4, 5 or any two that make 9
    assert mean.row() == dict(
        value=3.0, lo=pytest.approx(3 - 1.959964 * 1.3125**0.5), hi=pytest.approx(3 + 1.959964 * 1.3125**0.5), n=3
    )
    single = pooled(np.array([2.0]), np.array([4])).row()
    assert single["value"] == 0.5 and np.isnan(single["lo"]) and np.isnan(single["hi"])


@pytest.mark.parametrize("paired", [False, True])
def test_intervals_cover_the_truth(paired: bool):
    """Sequences of unequal length whose level differs: 95 % of intervals hold the mean over tokens."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(500):
        counts = rng.integers(1, 20, 200)
        level = 0.1 * counts + rng.normal(size=200)  # long sequences are worse, so the mean of means would be wrong
        later = pooled(counts * level + rng.normal(size=200) * counts**0.5, counts)
        earlier = pooled(counts * (level - 1) + rng.normal(size=200) * counts**0.5, counts)
        truth = 1.0 if paired else 0.1 * np.mean(np.arange(1, 20) ** 2) / 10
        row = (later.minus(earlier) if paired else later).row()
        hits += row["lo"] <= truth <= row["hi"]
    assert 0.92 <= hits / 500 <= 0.98


# --- loss ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["uniform", "unigram", "bigram"])
def test_the_loss_of_a_planted_strategy_is_that_of_its_oracle(strategy: str):
    rows = table(Loss(64, by_position=True), Planted(CHAIN, Oracle(CHAIN, strategy)))
    model, oracle = (rows[rows["metric"] == m] for m in ("loss", "oracle_loss"))
    oracle = oracle[oracle["strategy"] == strategy]
    for column in ("value", "lo", "hi", "n"):
        assert model[column].tolist() == pytest.approx(oracle[column].tolist())
    if strategy == "uniform":
        assert model["value"].tolist() == pytest.approx([np.log(2)] * 21)


def test_loss_by_position_averages_to_the_loss():
    rows = table(Loss(64, by_position=True), random_subject(CHAIN, steps=1))
    rows = rows[rows["metric"] == "loss"]
    assert rows["pos"].dropna().tolist() == list(range(20))
    assert rows["value"].iloc[1:].mean() == pytest.approx(rows["value"].iloc[0], abs=1e-12)


def test_loss_counts_only_what_is_asked():
    """One answer a sequence, at a different place: by position, each place has a third of the sequences."""
    subject = random_subject(Recall(), steps=1)
    batch, model = subject.batch(30), subject.models[0]
    rows = table(Loss(30, by_position=True), subject)
    logs = model.log_probs(batch).double().numpy()
    last = 3 + np.arange(30) % 3
    expected = -logs[np.arange(30), last, batch.tokens[np.arange(30), last]]
    assert rows["metric"].unique().tolist() == ["loss"]  # no oracles, no lines
    assert value(rows, pos=None) == pytest.approx(expected.mean(), abs=1e-6)
    assert rows["pos"].dropna().tolist() == [3, 4, 5]
    assert value(rows, pos=4) == pytest.approx(expected[last == 4].mean(), abs=1e-6)


# --- strategy --------------------------------------------------------------------------------------------------------


def test_a_perfect_strategy_has_distance_zero_to_itself_only():
    names = ["uniform", "unigram", "bigram"]
    rows = table(Strategy(64, by_position=True), Planted(CHAIN, *(Oracle(CHAIN, name) for name in names)))
    for step, name in enumerate(names):
        own = rows[(rows["metric"] == "kl") & (rows["step"] == step) & (rows["strategy"] == name)]
        assert own["value"].abs().max() < 1e-12 and len(own) > 5
        for other in set(names) - {name}:
            assert value(rows, metric="kl", step=step, strategy=other, pos=None) > 0.01
        for pos in (None, 0, 19):
            expected = value(rows, metric="kl_truth_oracle", step=step, strategy=name, pos=pos)
            assert value(rows, metric="kl_truth", step=step, pos=pos) == pytest.approx(expected, abs=1e-12)


def test_the_truth_has_distance_zero_to_itself():
    rows = table(Strategy(64), Planted(CHAIN, Oracle(CHAIN, "truth")))
    assert abs(value(rows, metric="kl_truth")) < 1e-12


def test_distances_against_another_library():
    subject = random_subject(CHAIN, steps=1)
    batch = subject.batch(64)
    said, told = subject.models[0].log_probs(batch)[:, -1].double(), CHAIN.oracles(batch)
    rows = table(Strategy(64, by_position=True), subject)
    kl = torch.nn.functional.kl_div
    for name, logs in told.items():
        expected = kl(said, torch.from_numpy(logs[:, -1]), log_target=True, reduction="batchmean")
        assert value(rows, metric="kl", strategy=name, pos=None) == pytest.approx(float(expected), abs=1e-7)
        assert value(rows, metric="kl", strategy=name, pos=19) == value(rows, metric="kl", strategy=name, pos=None)
    expected = kl(said, torch.from_numpy(batch.facts["truth"][:, -1]), reduction="batchmean")
    assert value(rows, metric="kl_truth", pos=None) == pytest.approx(float(expected), abs=1e-7)


def test_the_levels_of_edelman_2024():
    """k = 2, 100 symbols: the oracles' KL to the truth is read off the paper as .21, .09 and .01."""
    rows = table(Strategy(2048), random_subject(Markov(), Transformer(layers=1, d_model=4), steps=1))
    for name, level, off in (("uniform", 0.21, 0.02), ("unigram", 0.09, 0.01), ("bigram", 0.01, 0.003)):
        assert value(rows, metric="kl_truth_oracle", strategy=name) == pytest.approx(level, abs=off)


def test_the_last_position_is_the_last_that_is_asked():
    task = Guessed()
    uniform = grown(task, scale=0.0)  # says 1/5 everywhere
    rows = table(Strategy(30, by_position=True), Planted(task, uniform))
    logits = np.zeros((6, 5))
    logits[:, 0] = np.arange(6)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = (p * np.log(p * 5)).sum(-1)
    assert value(rows, pos=None) == pytest.approx(expected[3:].mean(), abs=1e-6)
    losses = table(Loss(30, by_position=True), Planted(task, uniform))
    answers = Planted(task).batch(30).targets[:, 4]
    loss = -np.log(p[4, answers[answers >= 0]]).mean()
    assert value(losses, metric="oracle_loss", strategy="later", pos=4) == pytest.approx(loss)
    assert {pos: value(rows, pos=pos) for pos in (3, 5)} == pytest.approx({3: expected[3], 5: expected[5]}, abs=1e-6)
    assert rows["pos"].dropna().isin([3, 4, 5]).all()


def test_strategy_says_when_there_is_nothing_to_compare_with():
    with pytest.raises(ValueError, match="'recall' has neither `oracles` nor a fact `truth`: measure loss"):
        table(Strategy(8), random_subject(Recall()))


# --- in context ------------------------------------------------------------------------------------------------------


def test_a_perfect_copier_gains_the_whole_loss():
    """Uniform tokens cost log 12 nats where they come first, and nothing where they are copied."""
    rows = table(InContext(64), Planted(COPY, Oracle(COPY, "copier"), Oracle(COPY, "uniform")))
    assert value(rows, metric="copy", step=0) == pytest.approx(-np.log(12), abs=1e-5)
    assert value(rows, metric="copy_accuracy", step=0) == 1
    assert value(rows, metric="copy", step=1) == pytest.approx(0, abs=1e-12)
    assert value(rows, metric="icl", step=1) == pytest.approx(0, abs=1e-12)
    for metric in ("copy", "icl"):
        lines = value(rows, metric=f"{metric}_oracle", step=1, strategy="copier")
        assert value(rows, metric=metric, step=0) == pytest.approx(lines, abs=1e-12)


def test_icl_is_late_minus_early():
    subject = random_subject(CHAIN, steps=1)
    by_position = table(Loss(64, by_position=True), subject)
    losses = by_position[by_position["metric"] == "loss"].dropna(subset="pos").set_index("pos")["value"]
    rows = table(InContext(64, early=0.25, late=0.9, window=0.2), subject)
    expected = losses.loc[16:19].mean() - losses.loc[3:6].mean()
    assert value(rows, metric="icl") == pytest.approx(expected, abs=1e-12)
    points = table(InContext(64, early=0.1, late=1.0, window=0.0), subject)
    assert value(points, metric="icl") == pytest.approx(losses[19] - losses[2], abs=1e-12)


def test_icl_says_when_there_is_nothing_to_compare():
    with pytest.raises(ValueError, match="'recall' asks nothing around early = 0.1 or late = 0.95"):
        table(InContext(8), random_subject(Recall()))
    with pytest.raises(ValueError, match="late = 0.1 is out of range: after early = 0.5"):
        InContext(early=0.5, late=0.1)


def test_copies_are_left_out_where_there_are_none():
    rows = table(InContext(8, split="plain"), random_subject(COPY))
    assert {m.removesuffix("_oracle") for m in rows["metric"]} == {"icl"}


# --- norms -----------------------------------------------------------------------------------------------------------


def test_weight_norms_against_numpy(run: Run):
    rows = table(Norms(), Subject(run))
    for step in run.steps:
        weights, groups = run.weights(step), shapes(TINY, CHAIN)
        whole = np.linalg.norm(np.concatenate([w.ravel() for w in weights.values()]).astype(np.float64))
        assert value(rows, metric="weight_norm", step=step, site=None) == pytest.approx(whole, rel=1e-12)
        some = np.concatenate([w.ravel() for name, w in weights.items() if groups[name].group == "attention"])
        attention = value(rows, metric="weight_norm", step=step, site="attention")
        assert attention == pytest.approx(np.linalg.norm(some.astype(np.float64)), rel=1e-12)


def test_gradient_norms_are_those_of_training(run: Run):
    rows, log = table(Norms(), Subject(run)), read_log(run)
    for step in (0, 1):
        assert value(rows, metric="grad_norm", step=step, site=None) == pytest.approx(log["grad_norm"][step], rel=1e-5)
    for step in run.steps:
        parts = rows[(rows["metric"] == "grad_norm") & (rows["step"] == step)].dropna(subset="site")["value"]
        assert value(rows, metric="grad_norm", step=step, site=None) == pytest.approx((parts**2).sum() ** 0.5)


def test_the_gradient_is_the_slope_of_the_loss():
    model = grown(Recall(), scale=3.0, dtype=torch.float64)
    batch = Planted(Recall()).batch(6)
    slopes, rng = gradient(model, batch), np.random.default_rng(0)
    way = {name: torch.from_numpy(rng.normal(size=p.shape)) for name, p in model.params.items()}

    def loss(along: float) -> float:
        there = grown(Recall(), scale=3.0, dtype=torch.float64)
        there.params = {name: p + along * way[name] for name, p in there.params.items()}
        logs = there.log_probs(batch).numpy()
        return -float(np.mean([logs[i, pos, batch.targets[i, pos]] for i, pos in np.argwhere(batch.targets >= 0)]))

    expected = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert sum(float((slopes[name] * way[name]).sum()) for name in way) == pytest.approx(expected, rel=1e-6)


# --- patterns --------------------------------------------------------------------------------------------------------


def test_patterns_are_what_the_model_looks_at(run: Run):
    arrays = Patterns(shown=3).arrays(Subject(run))
    axes, pattern = arrays["pattern"]
    assert axes == ("step", "layer", "head", "query", "key") and pattern.shape == (3, 2, 2, 20, 20)
    tokens = arrays["tokens"].array
    assert arrays["steps"].array.tolist() == run.steps == [0, 1, 2]
    assert np.array_equal(tokens, Subject(run).batch(16).tokens[3])
    seen = run.model(2).cache(as_batch(tokens))["blocks.1.attn.hook_pattern"][0].numpy()
    assert np.abs(pattern[2, 1].astype(np.float32) - seen).max() < 5e-4
    assert list(Patterns()(Subject(run))) == []
    with pytest.raises(ValueError, match="shown = 16 is out of range"):
        Patterns(shown=16)


def test_the_pattern_shown_is_of_the_sequence_that_varies_most(run: Run):
    drawn = Subject(run).batch(16).tokens
    shown = Patterns().arrays(Subject(run))["tokens"].array
    spread = [np.bincount(row, minlength=run.spec.task.vocab).max() for row in drawn]
    assert np.bincount(shown).max() == min(spread) and not np.array_equal(shown, drawn[0])


def test_missing_heads_are_nan():
    spec = replace(TINY, heads=(1, 2))
    pattern = Patterns().arrays(random_subject(CHAIN, spec, steps=1))["pattern"].array[0]
    assert np.isnan(pattern[0, 1]).all() and np.isfinite(pattern[0, 0]).all() and np.isfinite(pattern[1]).all()


@pytest.mark.parametrize("look", [lambda s: table(Heads(8), s), lambda s: Patterns().arrays(s)])
def test_models_without_heads_are_refused(look: Any):
    subject = random_subject(CHAIN)
    subject.run = SimpleNamespace(spec=SimpleNamespace(task=CHAIN, model=SimpleNamespace(), data=0))  # type: ignore
    with pytest.raises(ValueError, match="looks at attention heads, and SimpleNamespace has none: measure loss"):
        look(subject)
