"""Repeated segments: facts against a hand-made sequence, oracles against plain loops, floors against theory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthetic_tasks import Repeats, batch, preset
from synthetic_tasks.skew import fit_zipf
from synthetic_tasks.strategies import latest
from synthetic_tasks.task import stream


def losses(task: Repeats, n: int = 512, split: str = "train") -> dict[str, np.ndarray]:
    lot = batch(task, 0, 0, split, n)
    return {
        name: -np.take_along_axis(logs, lot.targets[..., None], axis=2)[..., 0]
        for name, logs in task.oracles(lot).items()
    }


def test_by_hand():
    """The drawing in the docstring of `Repeats`."""
    task = Repeats(tokens=10, length=11, repeat=3, gap=3)
    symbols = np.array([[5, 9, 2, 7, 4, 4, 8, 9, 2, 7, 1, 0]])
    lot = task._batch(symbols, np.array([[1, 7]]), np.array([3]), np.full((1, 0, 0), -1))
    o = -1
    assert lot.facts["copy"].tolist() == [[o, o, o, o, o, o, o, 2, 7, o, o]]
    assert lot.facts["match"].tolist() == [[o, o, o, o, o, o, o, 1, 2, o, o]]
    assert lot.facts["source"].tolist() == [[o, o, o, o, o, o, o, 2, 3, o, o]]
    assert lot.facts["first"].tolist() == [[0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]]
    assert latest(lot.tokens).tolist() == [[o, o, o, o, o, 4, o, 1, 2, 3, o]]
    p, trust = {name: np.exp(logs[0]) for name, logs in task.oracles(lot).items()}, task.fixed["induction"]
    assert p["uniform"] == pytest.approx(0.1)
    assert p["induction"][7, 2] == pytest.approx(trust + (1 - trust) / 10, abs=1e-5)
    assert p["induction"][0] == pytest.approx(0.1)
    strength = task.fixed["context"]
    assert p["context"][1] == pytest.approx((np.isin(range(10), [5, 9]) + strength / 10) / (2 + strength), abs=1e-5)
    strength = task.fixed["bigram"]
    assert p["bigram"][7, 2] == pytest.approx((1 + strength / 10) / (1 + strength), abs=1e-5)
    assert p["copier"][7, 2] == pytest.approx(1, abs=1e-5) and p["copier"][6] == pytest.approx(0.1)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_segments_repeat_wherever_they_fit(data):
    length, copies = data.draw(st.integers(8, 40)), data.draw(st.integers(2, 3))
    gap = data.draw(st.one_of(st.none(), st.integers(0, (length + 1 - 2 * copies) // (copies - 1))))
    longest = (length + 1 - (gap or 0) * (copies - 1)) // copies
    repeat = data.draw(st.one_of(st.none(), st.integers(2, longest)))
    language = data.draw(st.sampled_from(["uniform", "bigram"]))
    task = Repeats(tokens=9, length=length, repeat=repeat, gap=gap, copies=copies, language=language)
    lot = batch(task, data.draw(st.integers(0, 1000)), 0, n=8)
    symbols = np.concatenate([lot.tokens, lot.targets[:, -1:]], axis=1)
    for row, (starts, size) in enumerate(zip(lot.facts["segment"], lot.facts["size"], strict=True)):
        gaps = np.diff(starts) - size
        assert (gaps >= 0).all() and len(set(gaps)) == 1 and starts[-1] + size <= length + 1
        assert repeat in (None, size) and gap in (None, gaps[0])
        for start in starts:
            assert (symbols[row, start : start + size] == symbols[row, starts[0] : starts[0] + size]).all()
        copied = lot.facts["copy"][row] >= 0
        assert copied.sum() == (size - 1) * (copies - 1) and lot.facts["first"][row].sum() == size - 1
        assert (lot.facts["copy"][row] == lot.targets[row])[copied].all()
        assert (lot.tokens[row, lot.facts["source"][row]] == lot.targets[row])[copied].all()
        assert (lot.tokens[row, lot.facts["match"][row]] == lot.tokens[row])[copied].all()


def test_no_position_gives_the_source_away():
    lot = batch(Repeats(), 0, 0, n=4000)
    at = np.broadcast_to(np.arange(64), (4000, 64))
    back = (at - lot.facts["source"])[lot.facts["source"] >= 0]
    assert np.bincount(back).max() / len(back) < 0.06  # no offset is much more common than the others
    assert (lot.facts["copy"] >= 0).mean(axis=0)[32:].min() > 0.1  # copies stand everywhere in the second half


def test_share_and_splits():
    share = (batch(Repeats(share=0.3), 0, 0, n=4000).facts["size"] > 0).mean()
    assert share == pytest.approx(0.3, abs=0.03)
    plain, repeated = (batch(Repeats(share=0.3), 0, 0, split).facts for split in ("plain", "repeated"))
    assert (plain["copy"] == -1).all() and (plain["segment"] == -1).all() and (plain["first"] == 0).all()
    assert (repeated["size"] > 0).all()


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5])
def test_tokens_follow_zipf(exponent):
    tokens = batch(Repeats(zipf=exponent), 0, 0, "plain", 3000).tokens
    fit = fit_zipf(np.bincount(tokens.ravel(), minlength=64))
    assert abs(fit.exponent - exponent) < 4 * fit.error < 0.02


def test_a_bigram_language_is_spoken():
    lot = batch(Repeats(language="bigram", zipf=1.0), 0, 0, "plain", 200)
    successors = lot.facts["language"][np.arange(200)[:, None], lot.tokens]
    assert (successors == lot.targets[..., None]).any(axis=2).all()
    slots = (successors == lot.targets[..., None]).argmax(axis=2)[
        (np.diff(np.sort(successors), axis=2) > 0).all(axis=2)
    ]
    assert np.bincount(slots) / len(slots) == pytest.approx(0.25, abs=0.02)  # where four differ, all four are as likely
    fit = fit_zipf(np.bincount(lot.facts["language"].ravel(), minlength=64))
    assert abs(fit.exponent - 1) < 4 * fit.error


def test_induction_follows_the_latest_occurrence():
    task = Repeats(tokens=5, length=12)
    lot = batch(task, 0, 0, n=20)
    logs = task.oracles(lot)["induction"]
    for row, tokens in enumerate(lot.tokens):
        for t in range(12):
            before = [s for s in range(t) if tokens[s] == tokens[t]]
            best = np.flatnonzero(logs[row, t] > logs[row, t].max() - 1e-9)
            assert best.tolist() == ([tokens[before[-1] + 1]] if before else list(range(5)))


def test_bigram_counts_as_a_plain_loop_does():
    task = Repeats(tokens=4, length=10, zipf=1.0)
    lot, strength = batch(task, 0, 0, n=10), task.fixed["bigram"]
    logs = task.oracles(lot)["bigram"]
    for row, tokens in enumerate(lot.tokens):
        for t in range(10):
            counts = strength * task.marginal
            for s in range(t):
                counts[tokens[s + 1]] += tokens[s] == tokens[t]
            assert np.exp(logs[row, t]) == pytest.approx(counts / counts.sum(), abs=1e-5)


def test_the_floor_is_what_theory_says():
    task = Repeats(tokens=32, repeat=10, gap=5, length=40)
    found = losses(task)
    assert found["copier"].mean() == pytest.approx(np.log(32) * (40 - 9) / 40, rel=1e-3)
    spoken = losses(Repeats(tokens=32, language="bigram", branch=1), split="plain")["copier"]
    assert spoken.mean() == pytest.approx(0, abs=1e-4)  # one successor each: nothing is left to know


def test_the_copier_is_not_surprised_where_a_copy_starts():
    task = Repeats(language="bigram", zipf=1.0)
    lot = batch(task, 0, 0, n=2000)
    starts = lot.facts["segment"][:, 1] - 1
    loss = -task.oracles(lot)["copier"][np.arange(2000), starts, lot.targets[np.arange(2000), starts]]
    entropy = -(task.marginal * np.log(task.marginal)).sum()
    assert loss.mean() == pytest.approx(entropy, abs=0.15)


@pytest.mark.parametrize("language", ["uniform", "bigram"])
def test_strategies_that_know_more_lose_less(language):
    loss = {name: x.mean() for name, x in losses(Repeats(language=language, zipf=1.0)).items()}
    assert loss["copier"] < loss["bigram"] < loss["context"] < loss["unigram"] < loss["uniform"]
    assert loss["copier"] < loss["induction"] < loss["unigram"]


@pytest.mark.parametrize("task", [Repeats(), Repeats(language="bigram", zipf=1.0), preset(Repeats, "olsson2022")])
def test_pairs_differ_in_the_source_and_in_nothing_else_that_was_read(task):
    pairs = task.pairs(stream("pairs"), 60)
    rows, at = np.arange(60), pairs.position
    source = pairs.clean.facts["source"][rows, at]
    read = np.arange(task.length) <= at[:, None]
    differs = (pairs.clean.tokens != pairs.corrupt.tokens) & read
    assert (differs.sum(axis=1) == 1).all() and (differs.argmax(axis=1) == source).all()
    assert (pairs.clean.targets[rows, at] == pairs.answer).all() and (pairs.answer != pairs.foil).all()
    for lot, called in ((pairs.clean, pairs.answer), (pairs.corrupt, pairs.foil)):
        assert (task.oracles(lot)["induction"][rows, at].argmax(axis=1) == called).all()
        assert (lot.facts["copy"][rows, at] == called).all() and (lot.tokens[rows, source] == called).all()
        assert ((lot.tokens == lot.tokens[rows, at, None]) & read).sum(axis=1).max() == 2


@pytest.mark.parametrize("task", [Repeats(), Repeats(copies=4), Repeats(language="bigram", zipf=1.0)])
def test_match_pairs_exchange_the_present_token_s_place_and_that_of_another(task):
    pairs = task.pairs(stream("pairs"), 60, "match")
    rows, at = np.arange(60), pairs.position
    read = np.arange(task.length) <= at[:, None]
    match, other = (lot.facts["match"][rows, at] for lot in (pairs.clean, pairs.corrupt))
    now = pairs.clean.tokens[rows, at]
    for lot, here, called in ((pairs.clean, match, pairs.answer), (pairs.corrupt, other, pairs.foil)):
        assert (lot.tokens[rows, here] == now).all() and (lot.tokens[rows, here + 1] == called).all()
        assert (lot.targets[rows, at] == called).all() and (lot.facts["source"][rows, at] == here + 1).all()
        assert (task.oracles(lot)["induction"][rows, at].argmax(axis=1) == called).all()
        assert ((lot.tokens == now[:, None]) & read).sum(axis=1).tolist() == [2] * 60
    differs = (pairs.clean.tokens != pairs.corrupt.tokens) & read
    assert (differs.sum(axis=1) == 2).all() and differs[rows, match].all() and differs[rows, other].all()
    assert (pairs.corrupt.tokens[rows, match] == pairs.clean.tokens[rows, other]).all()
    assert ((pairs.corrupt.facts["match"] >= 0).sum(axis=1) == 1).all()  # nothing else is repeated on purpose
    assert (pairs.answer != pairs.foil).all()


def test_olsson_2022_repeats_25_tokens_4_times():
    lot = batch(preset(Repeats, "olsson2022"), 0, 0, n=3)
    symbols = np.concatenate([lot.tokens, lot.targets[:, -1:]], axis=1).reshape(3, 4, 25)
    assert (symbols == symbols[:, :1]).all()


@pytest.mark.parametrize(
    "dials",
    [
        {"tokens": 2},
        {"length": 3},
        {"repeat": 1},
        {"repeat": 40},
        {"gap": -1},
        {"gap": 62},
        {"repeat": 20, "gap": 26},
        {"copies": 1},
        {"copies": 40},
        {"share": 1.5},
        {"zipf": -0.5},
        {"branch": 0},
        {"language": "bigrams"},
    ],
)
def test_bad_and_contradictory_dials_are_refused_by_name(dials):
    with pytest.raises(ValueError, match="|".join(dials)):
        Repeats(**dials)


def test_the_longest_that_fits_is_allowed():
    assert batch(Repeats(repeat=20, gap=25), 0, 0).facts["segment"].tolist() == [[0, 45]] * 64


def test_golden_first_batch():
    """A change here moves every result: raise the task's version, and say so in the change log."""
    assert batch(Repeats(), 0, 0, n=1).tokens[0, :8].tolist() == [62, 14, 58, 52, 59, 42, 31, 54]


def test_pairs_are_drawn_until_there_are_enough():
    """Ten thousand come out of more than one draw; where no token is alone, none ever does."""
    pairs = Repeats(tokens=64, length=8).pairs(stream("many"), 60_000)
    assert len(pairs.answer) == 60_000
    with pytest.raises(ValueError, match="no pairs of repeats at tokens = 3, zipf = 60.0: every token came before"):
        Repeats(tokens=3, length=8, zipf=60.0).pairs(stream("none"), 4)
