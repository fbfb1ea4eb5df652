"""Classify, Circuit and Mixture, against models that follow one strategy, or look where they are told to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from planted import TINY, Oracle, Planted, grown, random_subject, table, value
from scipy.optimize import minimize

from probelab.measures import Circuit, Classify, Mixture
from probelab.measures.mixture import fitted, highest, resampled
from probelab.spec import Transformer
from probelab.subject import Model
from synthetic_tasks import Batch, Markov
from synthetic_tasks.classification import DOUBT, Classification

REDDY = Classification(**Classification.presets["reddy2023"])
TASK = replace(REDDY, classes=64)  # 8 classes, 8 of 32 labels, trained classes only
SPLITS = ("train", "icl", "icl2", "swap", "flip", "iwl", "ciwl")


class Guess(Model):
    """A 'model' whose probabilities `[sequence label]` at the query are computed from what it reads."""

    def __init__(self, task: Classification, said: Any):
        super().__init__(TINY, task, {})
        self.said = said

    def __call__(self, x: Any, edits: Any = ()) -> torch.Tensor:
        told = {name: np.exp(logs[:, -1]) for name, logs in self.task.oracles(x).items()}
        logits = np.zeros((*x.tokens.shape, self.task.outputs))
        logits[:, -1] = np.log(self.said(x, told))
        return torch.from_numpy(logits)


class Looking(Model):
    """A 'model' whose heads `looks[layer][head](batch)` give patterns `[sequence query key]`."""

    def __init__(self, task: Classification, *looks: list[Any]):
        super().__init__(Transformer(layers=len(looks), heads=len(looks[0]), d_model=16), task, {})
        self.looks = looks

    def cache(self, x: Any, record: Any = None, edits: Any = ()) -> dict[str, torch.Tensor]:
        found = {}
        for layer, heads in enumerate(self.looks):
            found[f"blocks.{layer}.attn.hook_pattern"] = torch.from_numpy(np.stack([look(x) for look in heads], 1))
        return {site: found[site] for site in record}


def even(x: Batch) -> np.ndarray:
    """Looks at all it has read alike."""
    length = x.tokens.shape[1]
    alike = np.array([[1 / (q + 1) if k <= q else 0 for k in range(length)] for q in range(length)])
    return np.repeat(alike[None], len(x), axis=0)


def back(x: Batch) -> np.ndarray:
    """Looks at the place before; the first place at itself."""
    length, pattern = x.tokens.shape[1], np.zeros((len(x), x.tokens.shape[1], x.tokens.shape[1]))
    for q in range(length):
        pattern[:, q, max(q - 1, 0)] = 1
    return pattern


def towards(what: str) -> Any:
    """From the query to the labels (or items) of its class ("right", "likes"), or to labels of others ("wrong")."""

    def look(x: Batch) -> np.ndarray:
        pattern = even(x)
        for row, classes in enumerate(x.facts["classes"].tolist()):
            likes = [i for i in range(len(classes) - 1) if (classes[i] == classes[-1]) == (what != "wrong")]
            pattern[row, -1] = 0
            pattern[row, -1, [2 * i + (what != "likes") for i in likes]] = 1 / len(likes)
        return pattern

    return look


LUCK = 1 / 32
SCORES = {  # accuracy, accuracy_in_context, owned_accuracy; None: left out. Where all labels tie, label 0 is said
    "icl": {
        "train": (1, 1, 1), "icl": (1, 1, None), "icl2": (1, 1, None), "swap": (1, 1, 0), "flip": (1, 1, 0),
        "iwl": (LUCK, None, LUCK), "ciwl": (LUCK, 1 / 8, LUCK),
    },
    "iwl": {
        "train": (1, 1, 1), "icl": (LUCK, 1 / 8, None), "icl2": (LUCK, 1 / 2, None), "swap": (0, 0.1, 1),
        "flip": (0, 0, 1), "iwl": (1, None, 1), "ciwl": (1, 1, 1),
    },
    "ciwl": {
        "train": (1, 1, 1), "icl": (1 / 8, 1 / 8, None), "icl2": (1 / 2, 1 / 2, None), "swap": (0.1, 0.1, 0.23),
        "flip": (0, 0, 1), "iwl": (0, None, 0), "ciwl": (1, 1, 1),
    },
    "uniform": {
        "train": (LUCK, 1 / 8, LUCK), "icl": (LUCK, 1 / 8, None), "icl2": (LUCK, 1 / 2, None),
        "swap": (LUCK, 1 / 8, LUCK), "flip": (LUCK, 1 / 2, LUCK),
        "iwl": (LUCK, None, LUCK), "ciwl": (LUCK, 1 / 8, LUCK),
    },
}  # fmt: skip


@pytest.mark.parametrize("strategy", SCORES)
def test_a_strategy_scores_on_every_split_what_its_definition_says(strategy: str):
    rows = table(Classify(SPLITS, n=800), Planted(TASK, Oracle(TASK, strategy)))
    for split, (accuracy, within, owned) in SCORES[strategy].items():
        found = rows[rows["split"] == split].set_index("metric")["value"]
        expected = {"accuracy": accuracy, "accuracy_in_context": within, "owned_accuracy": owned}
        for metric, wanted in expected.items():
            assert (metric in found) == (wanted is not None), (split, metric)
            if wanted is not None:
                assert found[metric] == pytest.approx(wanted, abs=1e-9 if wanted in (0, 1) else 0.05), (split, metric)


def test_probabilities_are_those_of_the_strategies():
    rows = table(
        Classify(SPLITS, n=200), Planted(TASK, *(Oracle(TASK, s) for s in ("icl", "iwl", "context", "uniform")))
    )
    surely, never = np.log(1 - DOUBT + DOUBT / 32), np.log(DOUBT / 32)

    def log_prob(step: int, split: str) -> float:
        return value(rows, metric="log_prob", step=step, split=split)

    def mass(step: int, split: str) -> float:
        return value(rows, metric="context_mass", step=step, split=split)

    for split in ("train", "icl", "icl2", "swap", "flip"):
        assert log_prob(0, split) == pytest.approx(surely, abs=1e-9)
        assert mass(0, split) == pytest.approx(1, abs=DOUBT)
    assert log_prob(0, "iwl") == pytest.approx(np.log(1 / 32)) and log_prob(1, "iwl") == pytest.approx(surely)
    assert log_prob(1, "flip") == pytest.approx(never) and log_prob(3, "swap") == pytest.approx(-np.log(32))
    assert mass(1, "iwl") == pytest.approx(0, abs=DOUBT) and mass(1, "ciwl") == pytest.approx(1, abs=DOUBT)
    for split in SPLITS:
        assert mass(2, split) == pytest.approx(1, abs=DOUBT)
    assert mass(3, "icl") == pytest.approx(8 / 32) and mass(3, "icl2") == pytest.approx(2 / 32)


def test_any_label_that_a_class_owns_counts_as_remembered():
    """Chan's label multiplicity: a model that picks one of three labels is right a third of the time, yet remembers."""
    task = Classification(classes=16, labels=None, multiplicity=3, p_bursty=1.0)

    def last_owned(x: Batch, told: dict[str, np.ndarray]) -> np.ndarray:
        return (np.eye(48)[x.facts["owned"][:, -1]] + 1e-6) / (1 + 48e-6)

    rows = table(Classify(("iwl", "swap", "icl"), n=900), Planted(task, Guess(task, last_owned)))
    assert value(rows, metric="owned_accuracy", split="iwl") == 1 == value(rows, metric="owned_accuracy", split="swap")
    assert value(rows, metric="accuracy", split="iwl") == pytest.approx(1 / 3, abs=0.06)
    assert value(rows, metric="accuracy", split="swap") == 0
    assert "owned_accuracy" not in set(rows[rows["split"] == "icl"]["metric"])


def test_likeliest_labels_that_tie_share_the_point():
    task = Classification(classes=64, labels=64, p_bursty=1.0)
    rows = table(Classify(("flip",), n=50), Planted(task, Oracle(task, "context")))
    row = rows[rows["metric"] == "accuracy_in_context"].iloc[0]
    assert row["value"] == row["lo"] == row["hi"] == 0.5 and row["n"] == 50


def test_scores_of_a_random_model_by_plain_loops():
    subject = random_subject(TASK, steps=1)
    batch, rows = subject.batch(60, "ciwl"), table(Classify(("ciwl",), n=60), subject)
    said, right, inside = subject.models[0].log_probs(batch)[:, -1].double().numpy(), 0, 0
    for p, labels in zip(said, batch.facts["labels"].tolist(), strict=True):
        right += max(range(32), key=lambda label: p[label]) == labels[-1]
        inside += max(set(labels[:-1]), key=lambda label: p[label]) == labels[-1]
    assert value(rows, metric="accuracy") == pytest.approx(right / 60)
    assert value(rows, metric="accuracy_in_context") == pytest.approx(inside / 60)
    mass = np.mean(
        [
            sum(np.exp(p[label]) for label in set(x[:-1]))
            for p, x in zip(said, batch.facts["labels"].tolist(), strict=True)
        ]
    )
    assert value(rows, metric="context_mass") == pytest.approx(mass, abs=1e-6)


@pytest.mark.parametrize("burst", [1, 2, 4])
def test_heads_made_by_hand_score_what_they_do(burst: int):
    task = replace(TASK, burst=burst)
    heads = [[back, even], [towards("right"), towards("wrong")], [towards("likes"), even]]
    rows = table(Circuit(n=40), Planted(task, Looking(task, *heads)))
    expected = {
        (0, 0): dict(label_to_item=1, query_to_correct=0, query_to_labels=1, query_to_likes=0),  # the last label
        (1, 0): dict(query_to_correct=1, query_to_labels=1, query_to_likes=0, induction=1),
        (1, 1): dict(query_to_correct=0, query_to_labels=1, query_to_likes=0, induction=-1),
        (2, 0): dict(query_to_correct=0, query_to_labels=0, query_to_likes=1, induction=0),
    }
    classes = Planted(task).batch(40, "icl").facts["classes"]
    last = (classes[:, -2] == classes[:, -1]).mean()  # a head that looks one back sees the right label by luck
    expected[0, 0] |= dict(query_to_correct=last, induction=2 * last - 1)
    for (layer, head), scores in expected.items():
        for metric, wanted in scores.items():
            assert value(rows, metric=metric, layer=layer, head=head) == pytest.approx(wanted, abs=1e-12), metric


@pytest.mark.parametrize("split", ["icl", "iwl", "train"])
def test_even_attention_is_the_line_of_chance(split: str):
    task = Classification(classes=30, p_bursty=0.5)
    rows = table(Circuit(n=50, split=split), Planted(task, Looking(task, [even])))
    for metric in ("label_to_item", "query_to_correct", "query_to_labels", "query_to_likes", "induction"):
        for column in ("value", "lo", "hi"):
            one, line = (rows[rows["metric"] == m][column].item() for m in (metric, f"{metric}_chance"))
            assert one == pytest.approx(line, abs=1e-12)
    assert rows[rows["metric"].str.endswith("_chance")][["layer", "head"]].isna().all(axis=None)
    known = dict(label_to_item=np.mean([1 / (2 * i + 2) for i in range(8)]), query_to_labels=8 / 17)
    if split == "icl":
        known |= dict(query_to_correct=3 / 17, query_to_likes=3 / 17, induction=-2 / 17)
    if split == "iwl":
        known |= dict(query_to_correct=0, query_to_likes=0, induction=-8 / 17)
    for metric, wanted in known.items():
        assert value(rows, metric=f"{metric}_chance") == pytest.approx(wanted, abs=1e-12)


def test_patterns_of_a_real_model_by_plain_loops():
    """Layers with different numbers of heads; the positions are those of the drawing x1 l1 ... xn ln xq."""
    spec = replace(TINY, heads=(1, 2))
    subject = random_subject(TASK, spec, steps=1)
    batch, rows = subject.batch(20, "train"), table(Circuit(n=20, split="train"), subject)
    cache = subject.models[0].cache(batch)
    for layer, head in ((0, 0), (1, 0), (1, 1)):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][:, head].double().numpy()
        right, item, labels = 0.0, 0.0, 0.0
        for p, classes in zip(pattern, batch.facts["classes"].tolist(), strict=True):
            for i in range(8):
                right += p[16, 2 * i + 1] * (classes[i] == classes[-1]) / 20
                labels += p[16, 2 * i + 1] / 20
                item += p[2 * i + 1, 2 * i] / 160
        at = dict(layer=layer, head=head)
        assert value(rows, metric="query_to_correct", **at) == pytest.approx(right, abs=1e-9)
        assert value(rows, metric="label_to_item", **at) == pytest.approx(item, abs=1e-9)
        assert value(rows, metric="induction", **at) == pytest.approx(2 * right - labels, abs=1e-8)


NAMES = ("icl", "iwl", "ciwl", "context", "frequency")


@pytest.mark.parametrize("strategy", NAMES)
def test_a_pure_strategy_is_found_and_nothing_is_left(strategy: str):
    task = replace(TASK, zipf=1.0, skewed_bursts=True, classes=48)
    rows = table(Mixture(n=60), Planted(task, Oracle(task, strategy)))
    for name in NAMES:
        assert value(rows, metric="weight", strategy=name) == pytest.approx(float(name == strategy), abs=1e-6)
    assert value(rows, metric="misfit") == pytest.approx(0, abs=1e-9)
    weights = rows[rows["metric"] == "weight"]
    assert (weights["lo"] <= weights["value"]).all() and (weights["value"] <= weights["hi"]).all()


def test_planted_weights_are_found():
    planted = dict(zip(NAMES, (0.5, 0.2, 0.0, 0.25, 0.05), strict=True))
    mixed = Guess(TASK, lambda x, told: sum(w * told[s] for s, w in planted.items()))
    rows = table(Mixture(n=60), Planted(TASK, mixed))
    for name, weight in planted.items():
        assert value(rows, metric="weight", strategy=name) == pytest.approx(weight, abs=1e-6)
    assert value(rows, metric="misfit") == pytest.approx(0, abs=1e-9)


def test_intervals_cover_the_share_of_sequences_that_follow_a_strategy():
    """Sequences follow one of three strategies: the share found by chance in a sample is what intervals must span."""
    shares, hits, widths = np.array([0.5, 0.3, 0.2]), 0, []
    for seed in range(60):
        rng = np.random.default_rng(seed)

        def pick(x: Batch, told: dict[str, np.ndarray], rng: np.random.Generator = rng) -> np.ndarray:
            who = rng.choice(3, size=len(x), p=shares)
            return np.stack([told["icl"], told["iwl"], told["uniform"]])[who, np.arange(len(x))]

        measure = Mixture(("flip", "swap"), ("icl", "iwl", "uniform"), n=60)
        rows = table(measure, Planted(TASK, Guess(TASK, pick), data=seed))
        weights = rows[rows["metric"] == "weight"]
        hits += ((weights["lo"] <= shares) & (shares <= weights["hi"])).sum()
        widths.append((weights["hi"] - weights["lo"]).mean())
    assert 0.88 <= hits / 180 <= 0.99
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.mean([(p * (1 - p) / 120) ** 0.5 for p in shares]), rel=0.15)


def brute(said: np.ndarray, told: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, float]:
    """The best weights that scipy finds from several starts, and the height there."""

    def depth(logits: np.ndarray) -> float:
        weights = np.exp(logits - logits.max())
        mixed = np.einsum("s,nsl->nl", weights / weights.sum(), told)
        return -float((counts[:, None] * said * np.log(mixed)).sum() / counts.sum())

    starts = np.random.default_rng(0).normal(size=(3, told.shape[1]))
    best = min((minimize(depth, start, options=dict(gtol=1e-9)) for start in starts), key=lambda end: end.fun)
    weights = np.exp(best.x - best.x.max())
    return weights / weights.sum(), best.fun


@pytest.mark.parametrize("sharp", [1.0, 4.0])
def test_weights_are_those_that_brute_force_finds(sharp: float):
    rng = np.random.default_rng(3)
    told = np.exp(sharp * rng.normal(size=(80, 4, 6)))
    told /= told.sum(axis=2, keepdims=True)
    said = np.einsum("ns,nsl->nl", rng.dirichlet([1, 0.5, 0.5, 0.01], size=80), told) + 0.02 * rng.random((80, 6))
    said /= said.sum(axis=1, keepdims=True)
    weights, ones = fitted(said, told), np.ones(80)
    expected, depth = brute(said, told, ones)
    assert weights == pytest.approx(expected, abs=2e-4) and weights.sum() == pytest.approx(1) and weights.min() >= 0
    assert -(said * np.log(np.einsum("s,nsl->nl", weights, told))).sum() / 80 <= depth + 1e-9
    counts = np.stack([np.bincount(rng.integers(80, size=80), minlength=80) for _ in range(5)])
    for sample, found in zip(counts, resampled(said, told, counts, weights), strict=True):
        afresh, _ = brute(said, told, sample)
        assert np.abs(found - afresh).max() < 0.25 * max(np.abs(afresh - weights).max(), 0.05)


def test_a_parabola_is_highest_where_a_grid_says():
    rng = np.random.default_rng(0)
    root, slope = rng.normal(size=(20, 3, 3)), 3 * rng.normal(size=(20, 3))
    curve, weights = root @ root.swapaxes(1, 2), np.full(3, 1 / 3)
    grid = np.array([(a, b, 100 - a - b) for a in range(101) for b in range(101 - a)]) / 100
    for found, g, h in zip(highest(slope, curve, weights), slope, curve, strict=True):
        height = [(w - weights) @ g - (w - weights) @ h @ (w - weights) / 2 for w in (found, *grid)]
        assert found.sum() == pytest.approx(1) and found.min() >= 0 and height[0] >= max(height[1:]) - 1e-9


def test_strategies_that_never_differ_share_evenly():
    rows = table(Mixture(("icl",), ("icl", "ideal", "uniform"), n=20), Planted(TASK, Oracle(TASK, "icl")))
    assert rows["value"].tolist() == pytest.approx([0.5, 0.5, 0, 0], abs=1e-5)


def test_what_no_strategy_says_is_misfit():
    """Half of what the model says is a label that only the uniform strategy allows: log 32 nats too many."""

    def stubborn(x: Batch, told: dict[str, np.ndarray]) -> np.ndarray:
        return np.full((len(x), 32), 1e-9) + np.eye(32)[0]

    rows = table(Mixture(("icl",), ("uniform", "iwl"), n=20), Planted(TASK, Guess(TASK, stubborn)))
    assert value(rows, metric="misfit") == pytest.approx(np.log(32), abs=1e-5)


def test_tasks_without_these_facts_are_told_what_to_measure_instead():
    markov = random_subject(Markov(length=20))
    with pytest.raises(
        ValueError, match="classify needs the facts `labels` and `owned`, and 'markov' has none on train: measure"
    ):
        table(Classify(("train",), n=4), markov)
    with pytest.raises(
        ValueError, match="circuit needs the facts `classes` and `item`, and 'markov' has none: measure heads"
    ):
        table(Circuit(4, "train"), markov)
    with pytest.raises(ValueError, match="mixture needs the strategy 'icl', and 'markov' has uniform, "):
        table(Mixture(("train",), n=4), markov)
    for measure in (Classify(n=4), Mixture(n=4)):
        with pytest.raises(ValueError, match="no split of markov '(icl|flip)'"):
            table(measure, markov)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Classify(n=0), "n = 0 is out of range: at least one sequence"),
        (lambda: Classify(()), r"splits = \(\) is out of range: at least one"),
        (lambda: Circuit(0), "n = 0 is out of range: at least one sequence"),
        (lambda: Mixture(n=1), "n = 1 is out of range: at least two sequences"),
        (lambda: Mixture(()), r"splits = \(\) is out of range: at least one"),
        (lambda: Mixture(strategies=("icl",)), r"strategies = \('icl',\) is out of range: at least two"),
    ],
)
def test_bad_dials_are_refused(make: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("measure", [Classify(("train", "iwl"), 24), Circuit(24), Mixture(n=12)])
def test_chunks_that_fit_into_little_memory_change_nothing(measure: Any):
    whole, pieces = (table(measure, Planted(TASK, grown(TASK, memory=memory))) for memory in (2**30, 2**18))
    assert grown(TASK, memory=2**18).chunk(Planted(TASK).batch(24), True) < 24
    assert pieces["value"].to_numpy() == pytest.approx(whole["value"].to_numpy(), abs=1e-4)
