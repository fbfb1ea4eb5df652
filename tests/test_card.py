"""Cards of data whose statistics are known."""

from __future__ import annotations

import json
from importlib import import_module
from itertools import count

import numpy as np
import pytest

from synthetic_tasks import Batch, Classification, Markov, Repeats, Task, batch
from synthetic_tasks.card import card, mean, tables
from synthetic_tasks.task import stream


def carded(task: Task, split: str = "train", n: int = 3000) -> dict:
    return card(task, split, (batch(task, 0, i, split, n=500) for i in range(n // 500)))


def test_it_says_what_was_asked_and_on_how_many_it_measured():
    found = carded(Markov(states=3, length=20), "iid")
    assert found["asked"]["dials"] == {**vars(Markov(states=3, length=20))}
    assert found["asked"]["split"] == "iid" and found["asked"]["chance"] == pytest.approx(1 / 3, abs=1e-6)
    measured = found["measured"]
    assert (measured["sequences"], measured["tokens"], measured["scored"]) == (3000, 60_000, 60_000)


@pytest.mark.parametrize(("length", "sequences"), [(10, 100), (30, 2000 // 30)])
def test_it_stops_reading_when_it_has_enough(monkeypatch, length, sequences):
    for name, most in (("SEQUENCES", 100), ("TOKENS", 2000)):
        monkeypatch.setattr(import_module("synthetic_tasks.card"), name, most)
    task, read = Markov(length=length), []
    found = card(task, "train", (read.append(i) or batch(task, 0, i, n=40) for i in count()))
    assert found["measured"]["sequences"] == sequences and len(read) == -(-sequences // 40)


def test_zipf_is_measured_by_the_tasks_own_ranks_within_its_error():
    z = []
    for seed in range(12):  # repeats make tokens of one sequence dependent: the error must allow for that
        task = Repeats(tokens=32, length=32, zipf=1.2, repeat=8, gap=0, copies=4)
        zipf = card(task, "train", [batch(task, seed, 0, n=500)])["measured"]["zipf"]
        assert zipf["ranks"] == "the task's own"
        z.append((zipf["exponent"] - 1.2) / zipf["error"])
    assert 0.5 < np.std(z) < 1.6 and abs(np.mean(z)) < 1
    assert "biases" in carded(Markov())["measured"]["zipf"]["ranks"]


def test_losses_are_those_of_theory():
    loss = carded(Repeats(tokens=16, repeat=8, gap=4, length=30))["measured"]["loss"]
    assert loss["uniform"] == {"nats": pytest.approx(np.log(16), abs=1e-4), "error": pytest.approx(0, abs=1e-6)}
    assert loss["copier"]["nats"] == pytest.approx(np.log(16) * 23 / 30, rel=1e-3)
    loss = carded(Markov(variant="iid"), n=6000)["measured"]["loss"]
    exact = 0.5  # the mean entropy of a coin whose bias is uniform on [0, 1], in nats
    assert abs(loss["truth"]["nats"] - exact) < 4 * loss["truth"]["error"] < 0.02
    assert loss["truth"]["nats"] < loss["unigram"]["nats"] < loss["bigram"]["nats"] < loss["uniform"]["nats"]


def test_entropies_of_independent_tokens():
    measured = carded(Repeats(tokens=8), "plain")["measured"]
    assert measured["entropy_rate"] == pytest.approx([np.log(8)] * len(measured["entropy_rate"]), abs=0.005)
    assert list(measured["mutual_information"].values()) == pytest.approx([0] * 7, abs=0.001)
    assert measured["burstiness"]["ratio"] == pytest.approx(1, abs=0.01)


def test_the_error_of_a_mean_takes_sequences_to_be_independent():
    rng = stream("errors")
    found = []
    for _ in range(400):
        shared, sizes = rng.standard_normal(50), rng.integers(5, 20, size=50)
        found.append(mean(shared * sizes, sizes))
    middles, errors = np.array(found).T
    assert errors.mean() == pytest.approx(middles.std(), rel=0.15)


def test_it_is_json_and_rounded_and_a_page():
    found = carded(Repeats(length=12), n=500)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert all(len(f"{x!r}".replace("0.", "").replace(".", "")) <= 11 for x in found["measured"]["frequencies"])
    page = tables(found)
    for word in ("500 sequences", "Zipf exponent", "mutual information", "induction"):
        assert word in page


def test_vectors_without_tokens_have_a_card_too():
    class Silent(Task):
        name = "silent"
        vocab = 0  # type: ignore[assignment]
        outputs = 2  # type: ignore[assignment]

        def oracles(self, batch):
            return {"uniform": np.full((*batch.targets.shape, 2), -np.log(2))}

    lot = Batch(np.full((5, 3), -1), np.array([[-1, -1, 1]] * 5), np.zeros((5, 3, 2), np.float32))
    measured = card(Silent(), "train", [lot])["measured"]
    assert measured["tokens"] == 0 and measured["scored"] == 5 and "zipf" not in measured
    assert measured["loss"]["uniform"]["nats"] == pytest.approx(np.log(2), abs=1e-5)
    assert "uniform" in tables(card(Silent(), "train", [lot]))


def test_the_card_of_vectors_says_what_is_measured_of_classes():
    task = Classification(classes=64, labels=8, zipf=1.0, p_bursty=0.5)
    found = card(task, "train", [batch(task, 0, step, n=1000) for step in range(4)])
    told = found["measured"]["statistics"]
    assert told["bursty sequences"] == pytest.approx(0.5, abs=0.03)
    assert abs(told["Zipf exponent of the queries' classes"] - 1) < 4 * told["standard error of that exponent"]
    assert told["queries answerable from the context"] > 0.5
    page = tables(found)
    assert "| queries answerable from the context |" in page and "| mutual information, nats | none |" in page
