"""Few-shot classification: every split against plain loops, written from the papers and not from the code."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from synthetic_tasks import Batch, batch
from synthetic_tasks.classification import DOUBT, Classification
from synthetic_tasks.episodes import as_batch, in_bursts, normal
from synthetic_tasks.skew import fit_zipf
from synthetic_tasks.task import stream

CHAN = Classification(classes=2000, labels=None, p_bursty=1.0, exemplars=20)  # 3 + 3 + 2, coincidences are rare
REDDY = Classification(**Classification.presets["reddy2023"])
SINGH = Classification(**Classification.presets["singh2024"])
SYMBOLS = Classification(classes=20, labels=None, items="symbols", exemplars=5, novel=10, p_novel=0.5)
KNOWN = ("swap", "flip", "relabel")  # splits with trained classes in bursts
ABSENT = ("iwl", "iwl_common", "iwl_rare", "ciwl")  # splits whose query is to be remembered


def lines(lot: Batch) -> list[tuple[list[int], list[int], list[int]]]:
    """Classes, labels and exemplars of each sequence, the query's last."""
    facts = (lot.facts[name].tolist() for name in ("classes", "labels", "exemplars"))
    return list(zip(*facts, strict=True))


def own(task: Classification, k: int) -> list[int]:
    """Class k owns the labels k X + j modulo L."""
    x = task.multiplicity
    return [(k * x + j) % (task.classes * x if task.labels is None else task.labels) for j in range(x)]


def likely(counts: Any, p: Any = None) -> bool:
    """Whether counts agree with probabilities (by default: even ones), at four standard errors of chi-square."""
    counts = np.asarray(counts, float)
    expected = counts.sum() * (np.full(len(counts), 1 / len(counts)) if p is None else np.asarray(p))
    assert expected.min() > 5
    return bool(((counts - expected) ** 2 / expected).sum() < len(counts) - 1 + 4 * np.sqrt(2 * (len(counts) - 1)))


def test_by_hand():
    """The drawing in the docstring: A 3, B 7, A' 3, B' 7, A" -> 3, but B is class 7 of 10 labels and A is class 13."""
    task = Classification(classes=20, labels=10, examples=4, burst=2, items="symbols", exemplars=4, novel=4)
    drawn = in_bursts(task, stream("hand"), 1, 2, 2, False)
    drawn = drawn._replace(classes=np.array([[13, 7, 13, 7, 13]]), labels=np.array([[3, 7, 3, 7, 3]]))
    lot, o = as_batch(task, stream("hand"), drawn, np.array([[0, 3, 1, 2, 2]])), -1
    # symbols: 10 labels, then 4 exemplars of each class
    assert lot.tokens.tolist() == [[62, 3, 41, 7, 63, 3, 40, 7, 64]]
    assert lot.targets.tolist() == [[o, o, o, o, o, o, o, o, 3]]
    assert lot.facts["item"].tolist() == [[o, 0, o, 2, o, 4, o, 6, o]]
    assert lot.facts["label"].tolist() == [[o, o, o, o, o, o, o, o, 5]]
    facts = {name: lot.facts[name].tolist() for name in ("owned", "bursty", "rank", "answerable")}
    assert facts == {"owned": [[3]], "bursty": [1], "rank": [13], "answerable": [1]}
    p = {name: np.exp(logs[0, -1]) for name, logs in task.oracles(lot).items()}
    sure, little = 1 - DOUBT + DOUBT / 10, DOUBT / 10
    for name in ("icl", "iwl", "ciwl", "ideal"):
        assert p[name][3] == pytest.approx(sure) and p[name][7] == pytest.approx(little), name
    assert p["context"][[3, 7]] == pytest.approx((1 - DOUBT) / 2 + little)
    assert p["frequency"] == pytest.approx(0.1) and p["uniform"] == pytest.approx(0.1)


def test_strategies_by_hand_where_they_disagree():
    """Class 13 owns 3, but carries 7 (twice) and 8 in the context, where another pair says 3; then a new class."""
    task = Classification(classes=20, labels=10, examples=4, burst=1, exemplars=4)
    drawn = in_bursts(task, stream("hand"), 2, 1, 4, False)
    classes, labels = np.array([[13, 13, 13, 5, 13], [1, 2, 3, 4, 21]]), np.array([[7, 7, 8, 3, 7], [1, 2, 3, 4, 6]])
    lot = as_batch(task, stream("hand"), drawn._replace(classes=classes, labels=labels))
    one, new = (
        {n: (np.exp(x[row, -1]) - DOUBT / 10) / (1 - DOUBT) for n, x in task.oracles(lot).items()} for row in (0, 1)
    )
    spike = np.eye(10)
    assert one["icl"] == pytest.approx((2 * spike[7] + spike[8]) / 3, abs=1e-9)
    assert one["ideal"] == pytest.approx(one["icl"])
    assert one["iwl"] == pytest.approx(spike[3], abs=1e-9) and one["ciwl"] == pytest.approx(spike[3], abs=1e-9)
    assert one["context"] == pytest.approx((2 * spike[7] + spike[8] + spike[3]) / 4, abs=1e-9)
    for name in ("icl", "iwl", "ideal"):
        assert new[name] == pytest.approx(0.1), name
    assert new["ciwl"] == pytest.approx(new["context"]) and new["context"][[1, 2, 3, 4]] == pytest.approx(0.25)
    assert lot.facts["owned"].tolist() == [[3], [-1]] and lot.facts["rank"].tolist() == [13, -1]
    assert lot.facts["label"][:, -1].tolist() == [3, -1] and lot.facts["answerable"].tolist() == [1, 0]


def test_chan_2022_draws_3_and_3_and_2():
    for classes, labels, _ in lines(batch(CHAN, 0, 0, n=500)):
        counts = Counter(classes[:-1])
        if len(counts) == 4:  # nothing coincides
            assert sorted(counts.values()) == [1, 1, 3, 3] and counts[classes[-1]] == 3
        assert counts[classes[-1]] >= 3 and all(label == k for k, label in zip(classes, labels, strict=True))


@pytest.mark.parametrize("copies", [1, 2, 4])
def test_reddy_2023_draws_b_copies_of_n_over_b_classes_with_labels_of_their_own(copies: int):
    for classes, labels, _ in lines(batch(replace(REDDY, burst=copies), 0, 0, n=200)):
        assert sorted(Counter(classes[:-1]).values()) == [copies] * (8 // copies)
        assert len(set(labels)) == 8 // copies and classes[-1] in classes[:-1]
        assert all(label == k % 32 for k, label in zip(classes, labels, strict=True))


@pytest.mark.parametrize("split", ["train", "icl"])
def test_neither_place_nor_number_gives_the_answer_away(split: str):
    """A query's class stands everywhere as often, and the label that is most frequent is right half of the time."""
    lot = batch(CHAN, 0, 1, split, n=4000)
    context, asked = lot.facts["classes"][:, :-1], lot.facts["classes"][:, -1:]
    clear = (context == asked).sum(axis=1) == 3
    places = (context == asked)[clear].sum(axis=0)
    assert places / clear.sum() == pytest.approx(3 / 8, abs=0.035)
    other = [
        max((Counter(r) - Counter({a: 9})).values())
        for r, a in zip(context.tolist(), asked[:, 0].tolist(), strict=True)
    ]
    assert np.mean(np.array(other)[clear] == 3) > 0.99  # always a rival that comes as often
    labels, answer = lot.facts["labels"][:, :-1], lot.facts["labels"][:, -1]
    assert np.mean(labels[:, -1] == answer) == pytest.approx(3 / 8, abs=0.03)
    best = [Counter(row).most_common(1)[0][0] for row in labels.tolist()]
    assert np.mean(np.array(best) == answer) == pytest.approx(1 / 2, abs=0.035)


def test_sequences_without_bursts_are_independent():
    task = Classification(classes=12, labels=None, p_bursty=0.0, zipf=1.0, examples=4, burst=1)
    classes = batch(task, 0, 0, n=6000).facts["classes"]
    p = (1 / np.arange(1, 13)) / (1 / np.arange(1, 13)).sum()
    for column in classes.T:
        assert likely(np.bincount(column, minlength=12), p)
    luck = (classes[:, :-1] == classes[:, -1:]).any(axis=1).mean()
    assert luck == pytest.approx((p * (1 - (1 - p) ** 4)).sum(), abs=0.025)
    pairs = np.bincount(12 * classes[:, 0] + classes[:, -1], minlength=144).reshape(12, 12)[:4, :4].ravel()
    within = np.outer(p[:4], p[:4]).ravel()
    assert likely(np.r_[pairs, 6000 - pairs.sum()], np.r_[within, 1 - within.sum()])


def test_shares_are_those_of_the_dials():
    task = Classification(classes=500, p_bursty=0.3, p_novel=0.4)
    lot = batch(task, 0, 0, n=5000)
    novel = lot.facts["classes"] >= 500
    assert (novel.all(axis=1) | ~novel.any(axis=1)).all() and lot.facts["bursty"][novel[:, -1]].all()
    assert novel[:, -1].mean() == pytest.approx(0.4, abs=0.03)
    assert lot.facts["bursty"][~novel[:, -1]].mean() == pytest.approx(0.3, abs=0.04)
    found = task.statistics([lot[:2000], lot[2000:]])
    assert found["queries of new classes"] == novel[:, -1].mean()
    assert found["bursty sequences"] == pytest.approx(0.4 + 0.6 * 0.3, abs=0.03)
    assert found["queries answerable from the context"] == pytest.approx(0.58 + 0.42 * 8 / 500, abs=0.03)
    assert found["pairs of the query's class"] == pytest.approx(0.4 * 3 + 0.6 * 0.3 * 3, abs=0.1)
    assert found["pairs whose class came before in their context"] == pytest.approx(0.58 * 4 / 8, abs=0.03)
    assert abs(found["Zipf exponent of the queries' classes"]) < 4 * found["standard error of that exponent"]


@pytest.mark.parametrize("p_bursty", [0.0, 1.0])
def test_classes_follow_zipf(p_bursty: float):
    classes = batch(Classification(classes=200, zipf=1.2, p_bursty=p_bursty), 0, 0, n=4000).facts["classes"]
    for column in (classes[:, -1], classes[:, 3]):
        fit = fit_zipf(np.bincount(column, minlength=200))
        assert abs(fit.exponent - 1.2) < 4 * fit.error < 0.1


def test_a_query_is_any_of_the_classes_that_burst():
    """Where they must be distinct the second is drawn from what the first has left; either is asked for as often."""
    task = Classification(classes=3, labels=None, zipf=1.5, examples=2, burst=1, distinct=True, p_bursty=1.0)
    p, asked = task.p, batch(task, 0, 0, n=8000).facts["classes"][:, -1]
    second = [sum(p[j] * p[k] / (1 - p[j]) for j in range(3) if j != k) for k in range(3)]
    assert likely(np.bincount(asked, minlength=3), (p + second) / 2)


def test_bursts_of_reddy_2023_are_uniform_whatever_zipf_says():
    """The trap of `no_repeats`: only sequences without bursts follow the exponent."""
    lot = batch(replace(REDDY, zipf=1.5, p_bursty=0.5, classes=64, labels=32), 0, 0, n=4000)
    bursty = lot.facts["bursty"] == 1
    for column in (lot.facts["classes"][:, -1], lot.facts["classes"][:, 0]):
        assert likely(np.bincount(column[bursty], minlength=64))
        fit = fit_zipf(np.bincount(column[~bursty], minlength=64))
        assert abs(fit.exponent - 1.5) < 4 * fit.error
    followed = batch(replace(REDDY, zipf=1.5, skewed_bursts=True, bursting=1), 0, 0, n=2000).facts["classes"][:, -1]
    assert abs(fit_zipf(np.bincount(followed, minlength=1024)).exponent - 1.5) < 0.1


def test_a_burst_uses_one_of_its_labels_and_all_are_used():
    task = Classification(classes=30, labels=None, multiplicity=3, p_bursty=1.0)
    assert task.outputs == 90
    used = Counter()
    for classes, labels, _ in lines(batch(task, 0, 0, n=600)):
        assert all(label in own(task, k) for k, label in zip(classes, labels, strict=True))
        likes = [label for k, label in zip(classes[:-1], labels[:-1], strict=True) if k == classes[-1]]
        assert Counter(likes)[labels[-1]] >= (6 if len(likes) > 5 else 3)  # the pairs left over choose on their own
        used[labels[-1] % 3] += 1
    assert likely([used[j] for j in range(3)])


@pytest.mark.parametrize("multiplicity", [1, 2])
def test_distinct_bursts_have_distinct_classes_and_labels(multiplicity: int):
    task = Classification(
        classes=6, labels=6, examples=6, burst=2, bursting=3, multiplicity=multiplicity, distinct=True, p_bursty=1.0
    )
    for classes, labels, _ in lines(batch(task, 0, 0, n=300)):
        assert len(set(classes[:-1])) == len(set(labels[:-1])) == 3


@pytest.mark.parametrize(
    "dials", [{}, {"distinct": True, "burst": 1, "bursting": None}, {"labels": 5}, {"multiplicity": 2}]
)
def test_new_classes_come_as_training_bursts_with_labels_of_the_sequence(dials: dict[str, Any]):
    task = replace(Classification(classes=50, labels=20), **dials)
    seen = set()
    for classes, labels, _ in lines(batch(task, 0, 0, "icl", n=300)):
        assert min(classes) >= 50 and len(set(zip(classes, labels, strict=True))) == len(set(classes))
        counts = Counter(classes[:-1])
        assert sorted(counts.values()) == sorted([task.burst] * task.bursters + [1] * (8 - task.burst * task.bursters))
        assert counts[classes[-1]] == task.burst and len(set(labels)) == min(len(counts), task.outputs)
        seen.add(labels[-1])
    assert seen == set(range(task.outputs))


def test_new_symbols_of_the_splits_are_never_trained():
    """20 classes of 5 exemplars after 20 labels; then 10 new classes of training, then 10 of the splits."""
    trained = {token for step in range(20) for token in batch(SYMBOLS, 0, step).tokens[:, ::2].ravel().tolist()}
    for split in ("icl", "icl2"):
        held = set(batch(SYMBOLS, 0, 0, split, n=300).tokens[:, ::2].ravel().tolist())
        assert not held & trained and held <= set(range(20 + 30 * 5, SYMBOLS.vocab)) and len(held) == 50
    assert trained == set(range(20, 20 + 30 * 5))
    other = SYMBOLS.pairs(stream("x"), 200).clean.tokens[:, ::2]
    assert not set(other.ravel().tolist()) & trained


def test_new_vectors_are_new_in_every_sequence():
    lot = batch(Classification(noise=0.0), 0, 0, "icl", n=100)
    rows = lot.vectors[:, ::2]  # type: ignore[index]
    assert len(np.unique(rows.reshape(-1, 32), axis=0)) == 100 * 4  # two that burst and two left over
    means = Classification(noise=0.0).fixed["means"]
    assert np.abs(rows.reshape(-1, 32) @ means.T).max() < 0.99


@pytest.mark.parametrize("dials", [{}, {"multiplicity": 2}, {"labels": 2, "classes": 4}, {"distinct": True}])
def test_two_way_splits_show_two_classes_four_times_each(dials: dict[str, Any]):
    """Chan's holdout test with new classes (icl2); Singh's flip, where each class carries the other's label."""
    task = replace(Classification(classes=6, labels=12), **dials)
    for split in ("icl2", "flip"):
        lot = batch(task, 0, 0, split, n=200)
        assert task.chance(split) == 1 / 2 and lot.facts["answerable"].all()
        for classes, labels, _ in lines(lot):
            assert sorted(Counter(classes[:-1]).values()) == sorted(Counter(labels[:-1]).values()) == [4, 4]
            label = dict(zip(classes, labels, strict=True))
            assert len(set(zip(classes, labels, strict=True))) == 2
            one, other = label
            if split == "icl2":
                assert min(classes) >= task.classes
            else:
                assert label[other] in own(task, one) and label[one] in own(task, other)


def test_swapped_labels_are_one_class_further():
    """Reddy's IC2: everything else is a training burst; with X labels the neighbour's, so that none is remembered."""
    for task in (REDDY, Classification(classes=50, labels=None, multiplicity=3, p_bursty=1.0)):
        x, modulus = task.multiplicity, task.outputs
        for classes, labels, _ in lines(batch(task, 0, 0, "swap", n=100)):
            assert all((label - x) % modulus in own(task, k) for k, label in zip(classes, labels, strict=True))
            assert labels[-1] not in own(task, classes[-1])
            assert (classes[-1], labels[-1]) in zip(classes[:-1], labels[:-1], strict=True)


def test_held_out_pairs_of_labels_come_in_relabel_alone():
    """Singh et al. 2024: 5 labels make 10 pairs, 8 are trained, the 50 classes take either label of a pair as often."""
    task = SINGH
    together: dict[str, set[tuple[int, ...]]] = {}
    for split in ("train", "relabel"):
        both, first = set(), Counter()
        for classes, labels, exemplars in lines(batch(task, 0, 0, split, n=3000)):
            assert len(set(classes[:-1])) == len(set(labels[:-1])) == 2 and set(exemplars) == {0}
            assert labels[-1] == dict(zip(classes[:-1], labels[:-1], strict=True))[classes[-1]]
            both.add(tuple(sorted(labels[:-1])))
            first[labels[0] < labels[1], classes[0] == classes[-1]] += 1
        assert likely(list(first.values())) and len(first) == 4
        together[split] = both
    assert len(together["train"]) == 8 and len(together["relabel"]) == 2
    assert not together["train"] & together["relabel"]


def test_all_pairs_of_classes_meet_where_labels_are_reassigned():
    """50 x 49 ordered pairs in Singh et al. 2024: classes k and k + 5 own one label, but it plays no part."""
    classes = batch(replace(SINGH, dim=1), 0, 0, n=20_000).facts["classes"]
    assert len({(a, b) for a, b, _ in classes.tolist()}) > 0.99 * 50 * 49


def test_nothing_can_be_remembered_where_labels_are_reassigned():
    task = Classification(classes=5, labels=4, reassigned=True, p_bursty=0.0, examples=3, burst=1)
    lot = batch(task, 0, 0, n=6000)
    assert (lot.facts["owned"] == -1).all()
    classes, labels = lot.facts["classes"], lot.facts["labels"]
    for k in range(5):
        assert likely(np.bincount(labels[classes[:, -1] == k, -1], minlength=4))
    alone = ~(classes[:, :-1] == classes[:, -1:]).any(axis=1)
    assert alone.mean() == pytest.approx(0.8**3, abs=0.03)
    assert likely(np.bincount((labels[alone, -1] - labels[alone, 0]) % 4, minlength=4))  # nor read off some place
    for classes, labels, _ in lines(lot[:500]):
        assert len(set(zip(classes[:-1], labels[:-1], strict=True))) == len(set(classes[:-1])) == len(set(labels[:-1]))


def test_relabelled_classes_are_trained_ones_with_any_label():
    lot = batch(Classification(classes=50, labels=10), 0, 0, "relabel", n=3000)
    assert lot.facts["classes"].max() < 50 and lot.facts["answerable"].all()
    shift = (lot.facts["labels"] - lot.facts["classes"])[:, -1] % 10
    assert likely(np.bincount(shift, minlength=10))


@pytest.mark.parametrize("split", ABSENT)
@pytest.mark.parametrize(
    "task", [Classification(classes=64, zipf=1.0), Classification(classes=40, labels=12, multiplicity=2)]
)
def test_a_query_to_be_remembered_is_nowhere_in_the_context(task: Classification, split: str):
    for classes, labels, _ in lines(batch(task, 0, 0, split, n=300)):
        assert classes[-1] not in classes[:-1] and labels[-1] in own(task, classes[-1])
        shown = [label for label in labels[:-1] if label in own(task, classes[-1])]
        assert shown == ([labels[-1]] if split == "ciwl" else [])
        wrong = [label not in own(task, k) for k, label in zip(classes, labels, strict=True)]
        assert sum(wrong) <= (split == "ciwl")
    facts = batch(task, 0, 0, split, n=300).facts
    assert not facts["answerable"].any() and not facts["bursty"].any() and (facts["owned"] >= 0).all()


def test_the_label_of_ciwl_is_pasted_anywhere():
    lot = batch(Classification(), 0, 0, "ciwl", n=3000)
    at = lot.facts["label"][:, -1]
    assert likely(np.bincount(at, minlength=17)[1::2]) and (np.bincount(at, minlength=17)[::2] == 0).all()
    assert (lot.tokens[np.arange(3000), at] == lot.facts["labels"][:, -1]).all()


def test_common_classes_are_the_ten_most_frequent_and_rare_ones_the_others():
    task = Classification(classes=40, labels=None, zipf=1.5)
    asked = {split: batch(task, 0, 0, split, n=4000).facts["rank"] for split in ABSENT}
    assert likely(np.bincount(asked["iwl_common"], minlength=10)) and asked["iwl_common"].max() == 9
    assert likely(np.bincount(asked["iwl_rare"] - 10, minlength=30)) and asked["iwl_rare"].min() == 10
    for split in ("iwl", "ciwl"):
        fit = fit_zipf(np.bincount(asked[split], minlength=40))
        assert abs(fit.exponent - 1.5) < 4 * fit.error


@pytest.mark.parametrize("items", ["vectors", "symbols"])
@pytest.mark.parametrize("split", ["train", "icl", "icl2", "iwl"])
@pytest.mark.parametrize("exemplars", [3, 9, 20])
def test_exemplars_of_a_class_are_drawn_without_replacement(exemplars: int, split: str, items: str):
    """Also where a class bursts twice, or comes by luck: as far as there are enough."""
    task = Classification(classes=8, exemplars=exemplars, items=items, p_bursty=0.6, p_novel=0.2)
    used, coincide = Counter(), []
    for classes, _, which in lines(batch(task, 0, 0, split, n=400)):
        for k in set(classes):
            mine = [e for c, e in zip(classes, which, strict=True) if c == k]
            assert len(set(mine)) == len(mine) or len(mine) > exemplars == len(set(mine))
        used.update(which)
        if classes[0] != classes[-1]:
            coincide.append(which[0] == which[-1])
    assert likely([used[e] for e in range(exemplars)])
    assert np.mean(coincide) == pytest.approx(1 / exemplars, abs=0.12)  # other classes are no help


@pytest.mark.parametrize("items", ["vectors", "symbols"])
@pytest.mark.parametrize("exemplars", [None, 4])
@pytest.mark.parametrize("split", ["train", "icl", "flip", "swap"])
def test_identical_queries_are_one_of_their_likes_and_fresh_ones_are_not(items: str, exemplars: int | None, split: str):
    if exemplars is None and items == "symbols":
        return
    dials: dict[str, Any] = dict(
        classes=6, labels=None, burst=2, bursting=2, examples=4, items=items, exemplars=exemplars, p_novel=0.3
    )
    for query in ("identical", "fresh"):
        task = Classification(query=query, **dials)
        lot, places = batch(task, 0, 0, split, n=200), Counter()
        seen = lot.tokens[:, ::2, None] if lot.vectors is None else lot.vectors[:, ::2]
        for row, (classes, _, which) in zip(seen, lines(lot), strict=True):
            equal = (row[:-1] == row[-1]).all(axis=1)
            assert [bool(e) for e in equal] == [
                c == classes[-1] and w == which[-1] for c, w in zip(classes[:-1], which[:-1], strict=True)
            ]
            likes = sum(c == classes[-1] for c in classes[:-1])
            assert equal.any() == (likes > 0 if query == "identical" else exemplars is not None and likes >= exemplars)
            places.update(np.flatnonzero(equal).tolist())
        assert query == "fresh" or min(places[i] for i in range(4)) > 30


@pytest.mark.parametrize("split", ["train", "icl"])
@pytest.mark.parametrize("exemplars", [None, 10])
def test_noise_is_as_large_as_its_dial(split: str, exemplars: int | None):
    """Items have unit length on average; two of a class correlate by 1 / (1 + noise^2), two of others do not."""
    task = Classification(classes=8000, noise=0.7, exemplars=exemplars, dim=16, p_bursty=1.0)
    lot = batch(task, 0, 0, split, n=2000)
    items = lot.vectors[:, ::2].astype(float)  # type: ignore[index]
    assert (items**2).sum(axis=2).mean() == pytest.approx(1, abs=0.02) and items.mean() == pytest.approx(0, abs=0.01)
    same = lot.facts["classes"][:, :-1] == lot.facts["classes"][:, -1:]
    alike = (items[:, :-1] * items[:, -1:]).sum(axis=2)
    assert alike[same].mean() == pytest.approx(1 / (1 + 0.7**2), abs=0.03)
    assert alike[~same].mean() == pytest.approx(0, abs=0.02)
    assert lot.vectors is not None and (lot.vectors[:, 1::2] == 0).all() and (lot.tokens[:, ::2] == -1).all()


def test_items_are_those_of_the_world():
    task = Classification(classes=5, exemplars=3, dim=8, noise=0.5)
    lot = batch(task, 0, 0, n=50)
    classes, which = lot.facts["classes"], lot.facts["exemplars"]
    expected = (task.fixed["means"][classes] + 0.5 * task.fixed["noise"][classes, which]) / 1.25**0.5
    assert lot.vectors is not None and lot.vectors[:, ::2] == pytest.approx(expected, abs=1e-6)
    assert not np.allclose(replace(task, world=1).fixed["means"], task.fixed["means"])


@st.composite
def tasks(draw: st.DrawFn) -> Classification:
    examples = draw(st.integers(1, 8))
    burst = draw(st.integers(1, examples))
    bursting = draw(st.one_of(st.integers(1, examples // burst), *[st.none()] * (examples % burst == 0)))
    multiplicity, exemplars = draw(st.integers(1, 3)), draw(st.one_of(st.none(), st.integers(1, 12)))
    symbols = exemplars is not None and draw(st.booleans())
    labels = draw(st.one_of(st.none(), st.integers(max(9, 3 * multiplicity), 40), st.just(max(2, multiplicity))))
    classes = draw(st.integers(20, 60))
    many = examples // burst if bursting is None else bursting
    return Classification(
        classes=classes,
        labels=labels,
        examples=examples,
        burst=burst,
        bursting=bursting,
        p_bursty=draw(st.sampled_from([0, 0.5, 1])),
        p_novel=draw(st.sampled_from([0, 0.5, 1])),
        zipf=draw(st.sampled_from([0, 1.0])),
        skewed_bursts=draw(st.booleans()),
        distinct=(labels is None or labels >= many) and draw(st.booleans()),
        exemplars=exemplars,
        query=draw(st.sampled_from(["fresh", "identical"])),
        multiplicity=multiplicity,
        reassigned=draw(st.booleans()),
        items="symbols" if symbols else "vectors",
        dim=3,
        novel=draw(st.integers(8, 12)),
    )


@settings(max_examples=150, deadline=None)
@given(tasks(), st.sampled_from(Classification.splits), st.integers(0, 1000))
def test_facts_are_what_the_tokens_say(task: Classification, split: str, seed: int):
    impossible = (
        (task.reassigned and split in ("swap", "flip", *ABSENT))
        or (task.examples % 2 and split in ("icl2", "flip"))
        or (split in ABSENT and task.outputs == task.multiplicity)
    )
    if impossible:
        with pytest.raises(ValueError, match=f"for the split {split}"):
            batch(task, seed, 0, split, 4)
        return
    lot, n, o = batch(task, seed, 0, split, 4), task.examples, -1
    assert lot.tokens[:, 1::2].tolist() == lot.facts["labels"][:, :-1].tolist()
    assert lot.targets.tolist() == [[o] * 2 * n + [answer] for answer in lot.facts["labels"][:, -1].tolist()]
    assert 0 <= lot.facts["labels"].min() and lot.facts["labels"].max() < task.outputs
    for row, (classes, labels, which) in enumerate(lines(lot)):
        facts = {name: fact[row].tolist() for name, fact in lot.facts.items()}
        if task.items == "symbols":
            places = [task.outputs + k * (task.exemplars or 0) + e for k, e in zip(classes, which, strict=True)]
            assert lot.tokens[row, ::2].tolist() == places
        right = [i for i in range(n) if labels[i] == labels[-1]]
        matched = [i for i in right if classes[i] == classes[-1]]
        latest = (matched or right or [None])[-1]
        assert facts["label"] == [o] * 2 * n + [o if latest is None else 2 * latest + 1]
        assert facts["item"] == [o, *(t - 1 if t % 2 else o for t in range(1, 2 * n + 1))]
        assert facts["answerable"] == bool(matched)
        trained = classes[-1] < task.classes
        assert facts["rank"] == (classes[-1] if trained else o)
        assert facts["owned"] == (
            own(task, classes[-1]) if trained and not task.reassigned else [o] * task.multiplicity
        )
        if split not in ("train", *ABSENT):
            assert matched and facts["bursty"]
        if split == "train" and facts["bursty"]:
            assert matched and (trained or task.p_novel) and len(matched) >= task.burst
        if not trained or task.reassigned or split == "relabel":
            told = [{label for k, label in zip(classes, labels, strict=True) if k == c} for c in set(classes[:-1])]
            assert all(len(x) == 1 for x in told if classes[-1] in classes[:-1])
        if task.distinct and facts["bursty"] and task.burst * task.bursters == n and split not in ("icl2", "flip"):
            assert len(set(classes)) == len(set(labels)) == task.bursters
    again = batch(task, seed, 0, split, 4)
    assert np.array_equal(again.tokens, lot.tokens)
    assert lot.vectors is None or np.array_equal(again.vectors, lot.vectors)  # type: ignore[arg-type]


def loss(task: Classification, split: str, n: int = 1000) -> dict[str, float]:
    lot = batch(task, 0, 0, split, n)
    return {k: -logs[np.arange(n), -1, lot.targets[:, -1]].mean() for k, logs in task.oracles(lot).items()}


def test_each_strategy_loses_nothing_where_it_works_and_what_theory_says_elsewhere():
    task = replace(REDDY, classes=64)
    sure, doubt = -np.log(1 - DOUBT + DOUBT / 32), -np.log(DOUBT / 32)
    new, exchanged, remembered, pasted = (loss(task, split) for split in ("icl", "flip", "iwl", "ciwl"))
    for name, lot in (("icl", new), ("icl", exchanged), ("iwl", remembered), ("iwl", pasted), ("ciwl", pasted)):
        assert lot[name] == pytest.approx(sure), name
    assert new["iwl"] == pytest.approx(np.log(32)) and new["context"] == pytest.approx(np.log(8), abs=2e-3)
    assert exchanged["iwl"] == pytest.approx(doubt) == exchanged["ciwl"]
    assert exchanged["context"] == pytest.approx(np.log(2), abs=2e-3)
    assert remembered["icl"] == pytest.approx(np.log(32)) and remembered["ciwl"] == pytest.approx(doubt)
    for lot in (new, exchanged, remembered, pasted):
        assert lot["uniform"] == pytest.approx(np.log(32))
    assert all(lot["ideal"] == pytest.approx(sure) for lot in (new, exchanged, remembered, pasted))


@pytest.mark.parametrize(
    "dials", [{}, {"skewed_bursts": False}, {"p_novel": 0.5}, {"multiplicity": 2}, {"reassigned": True}]
)
def test_the_frequency_of_labels_is_that_of_the_answers(dials: dict[str, Any]):
    task = replace(Classification(classes=24, labels=8, zipf=1.3, p_bursty=0.5), **dials)
    answers = batch(task, 0, 0, n=8000).targets[:, -1]
    assert likely(np.bincount(answers, minlength=8), task.label_frequencies)


@pytest.mark.parametrize("task", [REDDY, SYMBOLS, SINGH, Classification(labels=4)])
def test_pairs_differ_in_the_label_of_the_query_s_like(task: Classification):
    pairs = task.pairs(stream("pairs"), 100)
    source, rows = pairs.clean.facts["label"][:, -1], np.arange(100)
    differs = pairs.clean.tokens != pairs.corrupt.tokens
    assert (differs.sum(axis=1) == 1).all() and (differs.argmax(axis=1) == source).all()
    for lot, called in ((pairs.clean, pairs.answer), (pairs.corrupt, pairs.foil)):
        assert (lot.tokens[rows, source] == called).all() and (lot.targets[:, -1] == called).all()
        assert (task.oracles(lot)["icl"][:, -1].argmax(axis=1) == called).all() and lot.facts["answerable"].all()
        assert (lot.facts["classes"][:, :-1] == lot.facts["classes"][:, -1:]).sum(axis=1).tolist() == [1] * 100
    assert pairs.clean.vectors is None or np.array_equal(pairs.clean.vectors, pairs.corrupt.vectors)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", [REDDY, SYMBOLS, SINGH, Classification(labels=2, examples=2, burst=1)])
def test_item_pairs_swap_the_query_s_like_with_an_item_of_another_label(task: Classification):
    pairs = task.pairs(stream("pairs"), 100, "item")
    source, rows = pairs.clean.facts["label"][:, -1], np.arange(100)
    other = pairs.corrupt.facts["label"][:, -1]
    labels = pairs.clean.tokens[:, 1::2]
    assert np.array_equal(labels, pairs.corrupt.tokens[:, 1::2]) and (source != other).all()
    assert (pairs.clean.tokens[rows, source] == pairs.answer).all()
    assert (pairs.clean.tokens[rows, other] == pairs.foil).all() and (pairs.answer != pairs.foil).all()
    swapped = np.tile(np.arange(task.context), (100, 1))
    swapped[rows, source - 1], swapped[rows, other - 1] = other - 1, source - 1
    for held in ("tokens", "vectors"):
        clean, corrupt = getattr(pairs.clean, held), getattr(pairs.corrupt, held)
        assert clean is None or np.array_equal(clean[rows[:, None], swapped], corrupt)
    items = pairs.clean.tokens if pairs.clean.vectors is None else pairs.clean.vectors
    assert (items[rows, source - 1] != items[rows, other - 1]).reshape(100, -1).any(axis=1).all()
    for lot, called in ((pairs.clean, pairs.answer), (pairs.corrupt, pairs.foil)):
        assert (task.oracles(lot)["icl"][:, -1].argmax(axis=1) == called).all() and lot.facts["answerable"].all()


def test_item_pairs_need_two_labels():
    with pytest.raises(ValueError, match="examples = 1: all items of a sequence have one label"):
        Classification(examples=1, burst=1, bursting=None).pairs(stream("pairs"), 4, "item")


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ({"classes": 1}, "classes = 1 is out of range: at least 2"),
        ({"labels": 1}, "labels = 1 is out of range: at least 2"),
        ({"labels": 3, "multiplicity": 4}, "labels = 3 is out of range: at least 4"),
        ({"multiplicity": 0}, "multiplicity = 0 is out of range: at least 1"),
        ({"examples": 0}, "examples = 0 is out of range: at least 1"),
        ({"burst": 9}, "burst = 9 is out of range: 1 to the 8 pairs"),
        ({"bursting": None}, "burst = 3 is out of range: it must divide the 8 pairs"),
        ({"bursting": 3}, "bursting = 3 is out of range: 1 to 2 classes"),
        ({"bursting": 0}, "bursting = 0 is out of range: 1 to 2 classes"),
        ({"p_bursty": 1.1}, "p_bursty = 1.1 is out of range: a probability"),
        ({"p_novel": -0.1}, "p_novel = -0.1 is out of range: a probability"),
        ({"zipf": -1.0}, "zipf = -1.0 is out of range: a finite exponent"),
        ({"noise": -0.1}, "noise = -0.1 is out of range: 0 or more"),
        ({"noise": float("nan")}, "noise = nan is out of range: 0 or more"),
        ({"exemplars": 0}, "exemplars = 0 is out of range: at least 1"),
        ({"query": "frehs"}, "no query of classification 'frehs'; did you mean 'fresh'"),
        ({"items": "vector"}, "no items of classification 'vector'; did you mean 'vectors'"),
        ({"items": "symbols"}, "exemplars = None is out of range: a number, where items are symbols"),
        ({"items": "symbols", "exemplars": 2, "novel": 7}, "novel = 7 is out of range: at least the 8 pairs"),
        ({"dim": 0}, "dim = 0 is out of range: at least 1"),
        ({"burst": 1, "bursting": 8, "labels": 7, "distinct": True}, "distinct = True is out of range: False: 7"),
        ({"held_pairs": 1}, "held_pairs = 1 is out of range: 0, unless labels are reassigned"),
        ({"held_pairs": 1, "reassigned": True}, "held_pairs = 1 is out of range: 0, unless"),
        ({"held_pairs": 1, "reassigned": True, "burst": 2, "examples": 5}, "held_pairs = 1 is out of range: 0, unless"),
        ({"held_pairs": 3, "reassigned": True, "burst": 4, "labels": 3}, "held_pairs = 3 is out of range: less than"),
    ],
)  # fmt: skip
def test_bad_and_contradictory_dials_are_refused_by_name(dials: dict[str, Any], message: str):
    with pytest.raises(ValueError) as caught:
        Classification(**dials)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("split", ["swap", "flip", *ABSENT])
def test_splits_that_contradict_the_dials_say_so(split: str):
    with pytest.raises(ValueError, match=f"reassigned = True is out of range: False for the split {split}"):
        batch(Classification(reassigned=True), 0, 0, split)


def test_a_skew_that_leaves_no_second_class_is_refused_and_not_waited_for():
    with pytest.raises(ValueError, match="zipf = 60.0: so steep that classes with other labels are never drawn"):
        batch(Classification(classes=3, zipf=60.0, distinct=True), 0, 0, n=1)


def test_golden_first_batch():
    """A change here moves every result: raise the task's version, and say so in the change log."""
    assert batch(Classification(), 0, 0, n=1).facts["classes"].tolist() == [
        [414, 510, 908, 510, 510, 908, 908, 929, 908]
    ]
    assert batch(SYMBOLS, 0, 0, n=1).tokens.tolist() == [
        [150, 2, 157, 13, 132, 8, 156, 13, 159, 13, 131, 8, 134, 8, 163, 17, 133]
    ]
    vectors = batch(Classification(), 0, 0, "icl", n=1).vectors
    assert vectors is not None and vectors[0, 0, :3].tolist() == [
        0.19354018568992615,
        -0.21110709011554718,
        0.00472740363329649,
    ]


def test_vectors_are_normal():
    """The cheap normals against the real ones: a million of them, in moments and by Kolmogorov and Smirnov."""
    values = normal(stream("normal"), (1000, 16, 64)).ravel().astype(float) * 8
    assert kstest(values, "norm").pvalue > 1e-3
    assert np.mean(values**2) == pytest.approx(1, abs=0.006) and np.mean(values**4) == pytest.approx(3, abs=0.05)
    assert np.abs(values).max() > 4
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.004
