"""Chains whose truth is known by hand, by linear algebra, or by counting in plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthetic_tasks import Markov, batch
from synthetic_tasks.markov import gram, stationary, successors
from synthetic_tasks.task import Batch, stream


def kl(p: np.ndarray, logq: np.ndarray) -> float:
    return float((p * (np.log(p) - logq)).sum(axis=-1).mean())


def test_by_hand():
    """Tokens 0 0 0 1 1 0: after the last one, 0 was followed by 0 twice and by 1 once; four 0 and two 1 were read."""
    task = Markov(length=6)
    lot = Batch(np.array([[0, 0, 0, 1, 1, 0]]), np.array([[0, 0, 1, 1, 0, 0]]))
    p = {name: np.exp(logs[0, -1]) for name, logs in task.oracles(lot).items()}
    assert p["uniform"] == pytest.approx([1 / 2, 1 / 2])
    assert p["unigram"] == pytest.approx([5 / 8, 3 / 8])
    assert p["bigram"] == pytest.approx([3 / 5, 2 / 5])


def test_oracles_are_as_far_from_the_truth_as_published():
    """Edelman et al. 2024, k = 2, at the last of 100 positions: .21, .093 and .010 nats, read off a figure."""
    lot = batch(Markov(), 0, 0, n=20_000)
    found = {name: kl(lot.facts["truth"][:, -1], logs[:, -1]) for name, logs in Markov().oracles(lot).items()}
    assert found["uniform"] == pytest.approx(0.21, abs=0.01)
    assert found["unigram"] == pytest.approx(0.09, abs=0.01)
    assert found["bigram"] == pytest.approx(0.010, abs=0.0015)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.floats(0.05, 20), st.integers(0, 10**6))
def test_the_stationary_distribution_stays(k, concentration, seed):
    chain = stream("pi", seed).dirichlet(np.full(k, concentration), size=(8, k))
    share = stationary(chain)
    assert share.sum(axis=1) == pytest.approx(1)
    assert (share[:, None] @ chain)[:, 0] == pytest.approx(share, abs=1e-12)


def test_the_stationary_distribution_of_hard_chains():
    sticky = np.array([[1 - 1e-13, 1e-13], [3e-13, 1 - 3e-13]])  # I - P has lost all but three digits
    assert stationary(sticky[None])[0] == pytest.approx([0.75, 0.25], rel=1e-3)
    apart = np.eye(3)[None]
    assert stationary(apart).sum() == pytest.approx(1) and np.isfinite(stationary(apart)).all()


@pytest.mark.parametrize("order", [1, 2])
def test_symbols_follow_their_chain(order):
    lot = batch(Markov(states=3, order=order, length=4000), 0, 0, n=4)
    for context, targets, chain in zip(lot.facts["context"], lot.targets, lot.facts["chain"], strict=True):
        counts = np.zeros((3**order, 3))
        np.add.at(counts, (context[order - 1 :], targets[order - 1 :]), 1)
        rows = counts.sum(axis=1, keepdims=True)
        assert (np.abs(counts - rows * chain) < 5 * np.sqrt(rows * chain * (1 - chain)) + 1).all()


def test_first_symbols_are_stationary():
    lot = batch(Markov(states=2, order=2, length=3), 0, 0, n=40_000)
    share = lot.facts["stationary"][:, 1]
    for at in range(3):
        residual = lot.tokens[:, at] - share
        assert abs(residual.mean()) < 4.5 * residual.std() / 200


def test_before_the_order_the_truth_is_that_of_the_stationary_chain():
    task = Markov(states=3, order=3, length=5)
    lot = batch(task, 0, 0, n=6)
    for row in range(6):
        share = stationary(successors(lot.facts["chain"][row : row + 1]))[0].reshape(3, 3, 3)
        begun = share[lot.tokens[row, 0]].sum(axis=1)
        assert lot.facts["truth"][row, 0] == pytest.approx(begun / begun.sum())
        read = 9 * lot.tokens[row, 0] + 3 * lot.tokens[row, 1] + lot.tokens[row, 2]
        assert lot.facts["context"][row, :3].tolist() == [-1, -1, read]
        assert lot.facts["truth"][row, 2] == pytest.approx(lot.facts["chain"][row, read])


@pytest.mark.parametrize("task", [Markov(length=12), Markov(states=3, order=3, length=15)], ids=["order 1", "order 3"])
def test_oracles_count_as_a_plain_loop_does(task):
    lot = batch(task, 0, 0, n=5)
    logs, k = task.oracles(lot), task.states
    assert list(logs) == [gram(i) for i in range(task.order + 2)]
    for row, tokens in enumerate(lot.tokens):
        for t in range(task.length):
            for size in range(task.order + 1):
                counts = np.ones(k)
                for s in range(size, t + 1):
                    if t >= size - 1 and (tokens[s - size : s] == tokens[t - size + 1 : t + 1]).all():
                        counts[tokens[s]] += 1
                assert np.exp(logs[gram(size + 1)][row, t]) == pytest.approx(counts / counts.sum()), (t, size)


def test_doubly_stochastic_chains_have_no_unigrams():
    lot = batch(Markov(states=4, variant="doubly_stochastic"), 0, 0, n=200)
    chain = lot.facts["chain"]
    assert chain.sum(axis=1) == pytest.approx(1) and chain.sum(axis=2) == pytest.approx(1)
    assert lot.facts["stationary"] == pytest.approx(0.25)
    assert len(np.unique(chain.argmax(axis=2), axis=0)) > 20  # shifts of random permutations, not always the same ones
    two = batch(Markov(variant="doubly_stochastic"), 0, 0, n=20_000).facts["chain"][:, 0, 0]
    assert np.histogram(two, 10, (0, 1))[0] / 20_000 == pytest.approx(0.1, abs=0.01)  # p ~ Beta(1, 1)


def test_iid_chains_forget():
    chain = batch(Markov(states=3, variant="iid"), 0, 0, n=50).facts["chain"]
    assert (chain == chain[:, :1]).all()


def test_splits_follow_the_variant_they_name():
    assert (batch(Markov(), 0, 0, "iid").facts["chain"].std(axis=1) < 1e-12).all()
    assert batch(Markov(variant="iid"), 0, 0, "doubly_stochastic").facts["stationary"] == pytest.approx(0.5)
    train, test = (batch(Markov(), 0, 0, split) for split in ("train", "test"))
    assert not np.array_equal(train.tokens, test.tokens)


def test_the_concentration_is_that_of_the_rows():
    rows = batch(Markov(states=3, concentration=0.5), 0, 0, n=20_000).facts["chain"][..., 0]
    assert rows.mean() == pytest.approx(1 / 3, abs=0.005)
    assert rows.var() == pytest.approx((1 / 3) * (2 / 3) / (3 * 0.5 + 1), rel=0.02)


@pytest.mark.parametrize("kind", Markov.kinds)
@pytest.mark.parametrize("task", [Markov(), Markov(states=3, length=40), Markov(order=2)], ids=["k2", "k3", "order 2"])
def test_pairs_flip_one_strategy_and_not_the_other(task, kind):
    pairs = task.pairs(stream("pairs"), 40, kind)
    rows, at = np.arange(40), pairs.position
    clean, corrupt = task.oracles(pairs.clean), task.oracles(pairs.corrupt)
    other = "unigram" if kind == "bigram" else "bigram"
    assert (clean[kind][rows, at].argmax(axis=1) == pairs.answer).all()
    assert (corrupt[kind][rows, at].argmax(axis=1) == pairs.foil).all()
    assert (clean[other][rows, at].argmax(axis=1) == corrupt[other][rows, at].argmax(axis=1)).all()
    differs = pairs.clean.tokens != pairs.corrupt.tokens
    assert (differs.sum(axis=1) == 1).all() and (differs.argmax(axis=1) < at).all()


@pytest.mark.parametrize(
    "dials",
    [
        {"states": 1},
        {"order": 0},
        {"length": 2, "order": 3},
        {"order": 11},
        {"concentration": 0.0},
        {"concentration": float("nan")},
        {"variant": "doubly"},
        {"variant": "doubly_stochastic", "order": 2},
    ],
)
def test_bad_dials_are_refused_by_name(dials):
    with pytest.raises(ValueError, match="|".join(dials)):
        Markov(**dials)


def test_a_split_that_contradicts_the_order_is_refused():
    with pytest.raises(ValueError, match="order = 2"):
        batch(Markov(order=2), 0, 0, "doubly_stochastic")


def test_golden_first_batch():
    """A change here moves every result: raise the task's version, and say so in the change log."""
    first = batch(Markov(), 0, 0, n=2).tokens[:, :16]
    assert ["".join(map(str, row)) for row in first] == ["0111001110000001", "1011010110101101"]
