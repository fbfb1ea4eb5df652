"""Head scores: a hand-built induction circuit scores 1, random models score chance, loops agree with the fast way."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from planted import TINY, Planted, grown, induction, random_subject, table, value
from scipy.special import entr

from probelab.measures import Heads, InContext
from probelab.measures.heads import copying_weights
from probelab.spec import Transformer
from probelab.subject import Model
from synthetic_tasks import Batch, Markov, Repeats, Task

CHAIN, COPY = Markov(length=20), Repeats(tokens=12, length=30)


def test_a_hand_built_induction_circuit_scores_one():
    rows = table(Heads(64), Planted(COPY, induction(COPY), model=induction(COPY).spec))
    back, match = dict(layer=0, head=0), dict(layer=1, head=0)
    assert value(rows, metric="previous_token", **back) == pytest.approx(1, abs=1e-6)
    assert value(rows, metric="prefix_matching", **match) == pytest.approx(1, abs=1e-6)
    assert value(rows, metric="copying", **match) == pytest.approx(1, abs=1e-6)
    assert value(rows, metric="copying_weights", **match) == pytest.approx(1, abs=1e-6)
    assert value(rows, metric="entropy", **back) == pytest.approx(0, abs=1e-6)
    for metric, place in (("previous_token", match), ("prefix_matching", back), ("copying_weights", back)):
        assert value(rows, metric=metric, **place) < 0.2
    assert value(rows, metric="copying", **back) == -1  # it writes where the readout does not look


def test_the_same_circuit_on_markov_chains():
    """Two symbols: the places after earlier occurrences are many, all of them together get the attention."""
    rows = table(Heads(64), Planted(CHAIN, induction(CHAIN), model=induction(CHAIN).spec))
    score, chance = (
        value(rows, metric=metric, layer=layer)
        for metric, layer in (("prefix_matching", 1), ("prefix_matching_chance", None))
    )
    assert score == pytest.approx(1, abs=1e-6) and 0.4 < chance < 0.7


def test_distinct_tokens_give_the_textbook_score():
    """Where no token comes by chance, the place to copy is the only match, and every copy is right."""
    task = Distinct()
    subject = Planted(task, induction(task), model=induction(task).spec)
    rows, found = table(Heads(32), subject), table(InContext(32), subject)
    score = value(rows, metric="prefix_matching", layer=1)
    assert score == pytest.approx(1, abs=1e-6)
    assert value(rows, metric="attention_to_source", layer=1) == pytest.approx(score, abs=1e-12)
    assert value(rows, metric="attention_to_match", layer=1) == pytest.approx(0, abs=1e-6)
    assert value(found, metric="copy_accuracy") == 1 and value(found, metric="copy") < -2


@dataclass(frozen=True)
class Distinct(Repeats):
    """A permutation, then its tokens after the first once more."""

    tokens: int = 10
    length: int = 18
    name = "distinct"

    def sample(self, rng: np.random.Generator, n: int, split: str = "train") -> Batch:
        once = np.argsort(rng.random((n, 10)), axis=1)
        symbols = np.concatenate([once, once[:, 1:]], axis=1)
        starts = np.tile([1, 10], (n, 1))
        return self._batch(symbols, starts, np.full(n, 9), np.full((n, 0, 0), -1))


@pytest.mark.parametrize("task", [COPY, CHAIN])
def test_random_models_score_chance(task: Task):
    spec = Transformer(heads=8, d_model=64)
    rows = pd.concat([table(Heads(64), Planted(task, grown(task, spec, seed), model=spec)) for seed in range(4)])
    chance = rows[rows["layer"].isna()].groupby("metric")["value"].first()
    scores = rows.dropna(subset="layer").groupby("metric")["value"].agg(["mean", "sem"])
    for metric in scores.index.difference(["copying_weights"]):
        off = scores["mean"][metric] - chance[f"{metric}_chance"]
        assert abs(off) < 4 * scores["sem"][metric] + 0.02 * abs(chance[f"{metric}_chance"]), metric
    assert abs(scores["mean"]["copying_weights"]) < 4 * scores["sem"]["copying_weights"]


def test_chance_levels_by_hand():
    rows = table(Heads(16), random_subject(COPY, steps=1))
    length, source = 30, Planted(COPY).batch(16).facts["source"]
    assert value(rows, metric="previous_token_chance") == pytest.approx(np.mean(1 / np.arange(2, length + 1)))
    assert value(rows, metric="entropy_chance") == pytest.approx(np.mean(np.log(np.arange(1, length + 1))))
    expected = np.mean(1 / (np.argwhere(source >= 0)[:, 1] + 1))
    assert value(rows, metric="attention_to_source_chance") == pytest.approx(expected)


@dataclass(frozen=True)
class Mixed(Task):
    """Vectors and symbols take turns; the last positions of odd sequences are padding."""

    name = "mixed"
    vocab = property(lambda self: 4)
    context = property(lambda self: 10)
    features = property(lambda self: 3)

    def sample(self, rng: np.random.Generator, n: int, split: str = "train") -> Batch:
        tokens, vectors = rng.integers(4, size=(n, 10)), rng.normal(size=(n, 10, 3)).astype(np.float32)
        tokens[:, ::2], vectors[:, 1::2] = -1, 0
        tokens[1::2, 7:], vectors[1::2, 7:] = -1, 0
        return Batch(tokens, tokens, vectors)


@pytest.mark.parametrize("task", [COPY, Repeats(tokens=12, length=30, copies=3, share=0.5), CHAIN, Mixed()])
def test_scores_against_loops(task: Task):
    spec = Transformer(layers=2, heads=(2, 1), d_model=12, positions="learned")
    subject = Planted(task, grown(task, spec, 0, 20.0, dtype=torch.float64), model=spec)
    batch, model, rows = subject.batch(12), subject.models[0], table(Heads(12), subject)
    for layer, head in ((0, 0), (0, 1), (1, 0)):
        looked, copied = by_hand(model, batch, layer, head)
        for metric, expected in looked.items():
            assert value(rows, metric=metric, layer=layer, head=head) == pytest.approx(expected, abs=1e-9), metric
        assert value(rows, metric="copying", layer=layer, head=head) == pytest.approx(copied, abs=1e-6)


def by_hand(model: Model, batch: Batch, layer: int, head: int) -> tuple[dict[str, float], float]:
    """The scores of a head, word by word as their definitions say them."""
    here = f"blocks.{layer}.attn"
    cache = model.cache(batch)
    pattern, values = cache[f"{here}.hook_pattern"][:, head].numpy(), cache[f"{here}.hook_v"][:, :, head].numpy()
    writes = model.head_weights(layer)["W_O"][head].numpy() @ model["unembed.W_U"].numpy()
    back, after, source, spread, own, held = [], [], [], [], 0.0, 0.0
    read = [7 if batch.vectors is not None and s % 2 else len(tokens) for s, tokens in enumerate(batch.tokens)]
    for s, tokens in enumerate(batch.tokens):
        facts = {name: fact[s] for name, fact in batch.facts.items()}
        for q in range(read[s]):
            goals = [k for k in range(1, q + 1) if tokens[k - 1] == tokens[q] >= 0]
            spread.append(entr(pattern[s, q]).sum())
            if q > 0:
                back.append(pattern[s, q, q - 1])
            if goals and ("source" not in facts or facts["source"][q] >= 0):
                after.append(sum(pattern[s, q, k] for k in goals))
            if "source" in facts and facts["source"][q] >= 0:
                source.append(pattern[s, q, facts["source"][q]])
            for k in np.flatnonzero(tokens[: q + 1] >= 0):
                logits = values[s, k] @ writes
                raised = np.maximum(logits - logits.mean(), 0)
                own += pattern[s, q, k] * raised[tokens[k]]
                held += pattern[s, q, k] * sum(raised[t] for t in set(tokens.tolist()) - {-1})
    looked = {"previous_token": np.mean(back), "prefix_matching": np.mean(after), "entropy": np.mean(spread)}
    return looked | ({"attention_to_source": np.mean(source)} if source else {}), 2 * own / held - 1


@pytest.mark.parametrize("task", [COPY, CHAIN])
@pytest.mark.parametrize("tied", [False, True])
def test_copying_by_weights_against_numpy(task: Task, tied: bool):
    model = grown(task, replace(TINY, tied=tied), scale=3.0, dtype=torch.float64)
    w = {name: weight.numpy() for name, weight in model.head_weights(1).items()}
    unembed = model["embed.W_E"].numpy().T if tied else model["unembed.W_U"].numpy()
    for head in (0, 1):
        eigenvalues = np.linalg.eigvals(model["embed.W_E"].numpy() @ w["W_V"][head] @ w["W_O"][head] @ unembed)
        expected = eigenvalues.sum().real / np.abs(eigenvalues).sum()
        assert copying_weights(model, 1, head) == pytest.approx(expected, abs=1e-9)


def test_what_does_not_apply_is_left_out():
    plain = table(Heads(8, split="plain"), random_subject(COPY))
    assert not any("attention_to" in metric for metric in plain["metric"])
    spec = replace(TINY, readout=(8,))
    through_mlp = table(Heads(8), random_subject(COPY, spec))
    assert not any("copying" in metric for metric in through_mlp["metric"])
    assert {"previous_token", "prefix_matching", "entropy"} <= set(through_mlp["metric"])
