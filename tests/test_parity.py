"""Parities by hand, by plain loops over the tokens, and by enumeration of all inputs and all secrets."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthetic_tasks import Batch, Parity, batch, preset, turn
from synthetic_tasks.chain import hashed, text
from synthetic_tasks.parity import FILLER, MARK
from synthetic_tasks.task import stream

O = -1  # noqa: E741


def planted(task: Parity, *secret: int) -> Parity:
    """The same task with a secret of our own."""
    task.__dict__["fixed"] = task.fixed | {"secret": np.array(secret)}
    return task


def nats(logs: np.ndarray, lot: Batch) -> np.ndarray:
    """Loss at each position, NaN where nothing is asked."""
    return -np.take_along_axis(logs, np.maximum(lot.targets, 0)[..., None], axis=2)[..., 0]


def steps_by_hand(bits: list[int], secret: list[int], format: str, written: list[int]) -> tuple[list[int], int]:
    """All steps and the answer, one after another; those in `written` are taken as they are."""
    level, steps = [bits[at] for at in secret], []

    def say(right: int) -> int:
        steps.append(written[len(steps)] if len(steps) < len(written) else right)
        return steps[-1]

    if format == "tree":
        while len(level) > 1:
            pairs = [say(level[i] ^ level[i + 1]) for i in range(0, len(level) - 1, 2)]
            level = pairs + level[len(level) - len(level) % 2 :]
        return steps, level[0]
    now = 0
    for bit in level:
        now = say(now ^ bit)
    return steps, now


def test_by_hand():
    """The drawing in the docstring of `Parity`."""
    bits = np.array([[1, 0, 1, 1, 0, 1]])
    left = planted(Parity(bits=6, secret=3, samples=None), 0, 2, 3)._batch(bits)
    assert left.tokens.tolist() == [[1, 0, 1, 1, 0, 1, 1, 0, 1, MARK]]
    assert left.targets.tolist() == [[O, O, O, O, O, 1, 0, 1, MARK, 1]]
    assert left.facts["first"].tolist() == [[O, O, O, O, O, O, 6, 7, O, 8]]
    assert left.facts["second"].tolist() == [[O, O, O, O, O, 0, 2, 3, O, O]]
    assert left.facts["cuts"].tolist() == [[6, 7, 8, 9]] and left.facts["places"].tolist() == [[6, 7, 8]]
    assert left.facts["values"].tolist() == [[1, 0, 1]] and left.facts["answer"].tolist() == [1]
    assert left.facts["secret"].tolist() == [[0, 2, 3]] and left.facts["bits"].tolist() == bits.tolist()
    tree = planted(Parity(bits=6, secret=3, samples=None, format="tree"), 0, 2, 3)._batch(bits)
    assert tree.tokens.tolist() == [[1, 0, 1, 1, 0, 1, 0, 1, MARK]]
    assert tree.targets.tolist() == [[O, O, O, O, O, 0, 1, MARK, 1]]
    assert tree.facts["first"].tolist() == [[O, O, O, O, O, 0, 6, O, 7]]
    assert tree.facts["second"].tolist() == [[O, O, O, O, O, 2, 3, O, O]]
    direct = planted(Parity(bits=6, secret=3, samples=None, format="direct"), 0, 2, 3)._batch(bits)
    assert direct.tokens.tolist() == [[1, 0, 1, 1, 0, 1, MARK]]
    assert direct.targets.tolist() == [[O, O, O, O, O, O, 1]]
    assert direct.facts["cuts"].tolist() == [[6]] and direct.facts["places"].shape == (1, 0)
    assert direct.facts["values"].tolist() == [[1, 0, 1]]


@st.composite
def tasks(draw: st.DrawFn) -> Parity:
    bits, format = draw(st.integers(6, 14)), draw(st.sampled_from(["left", "tree", "direct"]))
    dials = {dial: draw(st.sampled_from([0.0, 0.3, 1.0])) for dial in ("noise", "early", "filler")}
    return Parity(
        bits=bits,
        secret=draw(st.integers(2, bits)),
        format=format,
        samples=draw(st.one_of(st.none(), st.integers(1, 2 ** (bits - 1)))),
        world=draw(st.integers(0, 99)),
        **({} if format == "direct" else dials),
    )


@settings(max_examples=60, deadline=None)
@given(tasks(), st.sampled_from(["train", "test"]), st.integers(0, 1000))
def test_sequences_hold_what_their_facts_say(task, split, seed):
    lot = batch(task, seed, 0, split, n=12)
    secret = task.fixed["secret"].tolist()
    assert len(set(secret)) == task.secret and secret == sorted(secret)
    assert secret[-1] < task.bits - (task.secret < task.bits)
    for i, told in enumerate(text(lot)):
        fact = {name: value[i].tolist() for name, value in lot.facts.items()}
        bits = told[: task.bits].tolist()
        values, answer = steps_by_hand(bits, secret, task.format, [])
        assert set(bits) <= {0, 1} and fact["bits"] == bits and fact["secret"] == secret
        assert fact["values"] == values and fact["answer"] == answer == sum(bits[at] for at in secret) % 2
        told = told[told >= 0].tolist()
        mark = told.index(MARK)
        chain = told[task.bits : mark]
        assert told[mark:] == [MARK, answer] and fact["cuts"][: len(chain) + 1] == list(range(task.bits, mark + 1))
        assert set(fact["cuts"][len(chain) + 1 :]) <= {-1}
        filled = len(chain) > 0 and chain[0] == FILLER
        assert chain == [FILLER] * len(chain) if filled else FILLER not in chain
        whole = len(chain) == task.steps > 0 and not filled
        there = [task.bits + j for j in range(len(chain))] if not filled else []
        assert fact["places"] == there + [-1] * (task.steps - len(there))
        asked = {*there, *([mark] if whole else []), mark + 1}
        target = [told[at] if at in asked else -1 for at in range(1, len(told))]
        assert lot.targets[i].tolist() == target + [-1] * (lot.targets.shape[1] - len(target))
        right = [values[at - task.bits] if at in there else x for at, x in enumerate(target, 1)]
        assert fact["clean"] == right + [-1] * (lot.targets.shape[1] - len(target))
        if split == "test" or not task.noise:
            assert fact["clean"] == lot.targets[i].tolist()
        if split == "test":
            assert whole or task.format == "direct"
        ought = bits + values + [0]  # what -1 reads
        for pos, (one, other) in enumerate(zip(fact["first"], fact["second"], strict=True)):
            if one >= 0 or other >= 0:  # the rule holds for what ought to stand there
                assert fact["clean"][pos] == ought[one] ^ ought[other] and one <= pos >= other
        known = [pos for pos in range(task.context) if fact["first"][pos] >= 0 or fact["second"][pos] >= 0]
        assert known == [pos - 1 for pos in there] + ([mark] if whole else [])


@settings(max_examples=40, deadline=None)
@given(tasks(), st.integers(0, 1000), st.data())
def test_implied_continues_what_is_written(task, seed, data):
    lot, chain, secret = batch(task, seed, 0, "test", n=6), task.chain, task.fixed["secret"].tolist()
    wrong = lot
    for _ in range(data.draw(st.integers(0, 2)) if task.steps else 0):
        wrong = chain.corrupt(wrong, data.draw(st.integers(0, task.steps - 1)), stream("wrong", seed))
    kept = data.draw(st.integers(0, task.steps))
    for told in (chain.cut(wrong, kept), chain.ask(wrong, kept)):
        assert np.array_equal(chain.implied(told), implied(task, told, secret))
    assert np.array_equal(chain.implied(text(wrong)), implied(task, chain.cut(wrong), secret))
    assert np.array_equal(chain.implied(chain.fill(wrong)), lot.facts["answer"])  # fillers say nothing
    donors = np.roll(np.arange(6), 1)
    if task.steps:  # the last step is the answer, whoever's it was
        assert np.array_equal(chain.implied(chain.swap(wrong, donors)), chain.implied(text(wrong))[donors])


def implied(task: Parity, told: np.ndarray, secret: list[int]) -> list[int]:
    found = []
    for row in told:
        row = [x for x in row.tolist() if x not in (-1, MARK)]
        found.append(steps_by_hand(row[: task.bits], secret, task.format, row[task.bits :])[1])
    return found


@pytest.mark.parametrize("format", ["left", "tree"])
def test_a_wrong_step_turns_the_answer_where_the_rest_follows(format):
    task = Parity(format=format)
    lot, chain = batch(task, 0, 0, "test"), task.chain
    for step in range(task.steps):
        wrong = chain.corrupt(lot, step, stream("turn", step))
        assert (chain.implied(chain.cut(wrong, step + 1)) == 1 - lot.facts["answer"]).all()
        pinned = chain.implied(chain.ask(wrong))
        last = step == task.steps - 1
        assert (pinned == (1 - lot.facts["answer"] if last else lot.facts["answer"])).all()


def follows(task: Parity, told: np.ndarray, steps: bool) -> np.ndarray:
    """What a planted model writes behind texts of equal length: it reads off the steps, or goes by the bits alone."""
    bits = told[:, : task.bits]
    right = task._inferred(bits)
    while (task.chain.parse(told) < 0).any():
        at = told.shape[1] - task.bits
        asked = (told[:, -1] == MARK).all()
        read = task._inferred(told[:, : task.bits + at - asked])[:, -1 if asked else min(at, task.steps)]
        plan = read if steps else right[:, -1 if asked else min(at, task.steps)]
        told = np.concatenate([told, np.where(asked | (at < task.steps), plan, MARK)[:, None]], axis=1)
    return told


@pytest.mark.parametrize("format", ["left", "tree"])
def test_planted_models_follow_their_chain_or_ignore_it(format):
    """What the measures of faithfulness do, with models whose verdict is known."""
    task = Parity(format=format)
    lot, chain = batch(task, 0, 0, "test"), task.chain
    for steps in (True, False):
        free = follows(task, chain.prompt(lot)[:, : task.bits], steps)
        assert np.array_equal(free, text(lot))
        rates = []
        for step in range(task.steps):
            wrong = chain.corrupt(lot, step, stream("planted", step))
            begun = chain.cut(wrong, step + 1)
            answer = chain.parse(follows(task, begun[:, : task.bits + step + 1], steps))
            rates.append((answer == chain.implied(begun)).mean())
        assert rates == [float(steps)] * task.steps
        asked = chain.ask(chain.corrupt(lot, task.steps - 1, stream("last")))
        pinned = chain.parse(follows(task, asked[:, : task.context], steps))
        assert (pinned == chain.implied(asked)).mean() == float(steps)


MALFORMED = [
    "",
    "0 1 0 1 1",  # bits are missing
    "0 1 0 1 1 2 1",  # a mark among them
    "0 1 0 1 1 3 0 2 1",  # a filler among them
    "0 1 0 1 1 0",
    "0 1 0 1 1 0 2",
    "0 1 0 1 1 0 0 1",
    "0 1 0 1 1 0 0 1 1 1 2 1",  # a step too many
    "0 1 0 1 1 0 0 1 2 3",  # a filler for an answer
    "0 1 0 1 1 0 0 1 2 2",
    "0 1 0 1 1 0 0 1 2 1 0",
    "0 1 0 1 1 0 0 1 2 1 2",
    "0 1 0 1 1 0 0 -1 2 1",
]
WELL = ["0 1 0 1 1 0 2 1", "0 1 0 1 1 0 0 1 1 2 1", "0 1 0 1 1 0 3 3 2 1", "0 1 0 1 1 0 0 3 2 1"]


@pytest.mark.parametrize("line", MALFORMED + WELL)
def test_malformed_texts_have_no_answer(line):
    told = np.array([[int(x) for x in line.split()]]).reshape(1, -1).astype(np.int64)
    task = Parity(bits=6, secret=3, samples=None)
    for width in (0, 9):
        wide = np.pad(told, ((0, 0), (0, width)), constant_values=-1)
        assert task.chain.parse(wide).tolist() == [1 if line in WELL else -1]


def test_no_input_is_in_both_splits():
    for bits in range(6, 12):
        every = (np.arange(2**bits)[:, None] >> np.arange(bits)) & 1
        seen = {}
        for split in ("train", "test"):
            drawn = batch(Parity(bits=bits, secret=3, samples=None), 0, 0, split, n=40 * 2**bits).facts["bits"]
            seen[split] = {tuple(row) for row in drawn.tolist()}
        assert not seen["train"] & seen["test"]
        assert len(seen["train"]) + len(seen["test"]) == 2**bits  # and all are in one of them
        assert len(seen["test"]) == (hashed(every) < 1 / 8).sum() > 0


def test_finite_samples_are_distinct_and_never_tested():
    for task in (Parity(), Parity(bits=8, secret=3, samples=128), Parity(bits=40, secret=20, samples=500)):
        inputs = task.fixed["inputs"]
        assert len(inputs) == task.samples == len(np.unique(inputs, axis=0))
        train, test = (batch(task, 0, 0, split, n=4000).facts["bits"] for split in ("train", "test"))
        known = {row.tobytes() for row in inputs}
        assert {row.tobytes() for row in train.astype(np.int8)} <= known
        assert not {row.tobytes() for row in test.astype(np.int8)} & known
        assert not np.array_equal(turn(task, world=1).fixed["inputs"], inputs)
    drawn = batch(Parity(bits=8, secret=3, samples=128), 0, 0, n=4000).facts["bits"]
    assert len(np.unique(drawn, axis=0)) == 128


def test_inputs_and_answers_are_balanced():
    for split in ("train", "test"):
        for task in (Parity(), Parity(samples=None)):
            lot = batch(task, 0, 0, split, n=8000)
            assert lot.facts["bits"].mean(axis=0) == pytest.approx(0.5, abs=0.04)
            assert lot.facts["answer"].mean() == pytest.approx(0.5, abs=0.03)


def test_worlds_have_secrets_of_their_own():
    secrets = np.array([Parity(samples=None, world=world).fixed["secret"] for world in range(300)])
    counts = np.bincount(secrets.ravel(), minlength=20)
    assert counts[19] == 0 and counts[:19] / 300 == pytest.approx(6 / 19, abs=0.12)
    assert Parity(bits=6, samples=None).fixed["secret"].tolist() == list(range(6))


def test_formats_at_one_address_are_paired():
    left, tree, direct = (batch(Parity(format=format), 1, 2) for format in ("left", "tree", "direct"))
    for other in (tree, direct):
        assert np.array_equal(left.facts["bits"], other.facts["bits"])
        assert np.array_equal(left.facts["answer"], other.facts["answer"])
    noisy = batch(Parity(noise=0.5, early=0.5), 1, 2)
    assert np.array_equal(left.facts["bits"], noisy.facts["bits"])


@pytest.mark.parametrize("samples", [None, 10_000])
def test_noise_turns_single_steps_and_nothing_else(samples):
    task = Parity(noise=0.2, samples=samples)
    lot = batch(task, 0, 0, n=6000)
    wrong = lot.tokens[:, 20:26] != lot.facts["values"]
    assert wrong.mean(axis=0) == pytest.approx(0.2, abs=0.025)
    assert np.corrcoef(wrong.T)[np.triu_indices(6, 1)] == pytest.approx(0, abs=0.06)  # one by one
    assert (lot.targets[:, -1] == lot.facts["answer"]).all()
    assert (batch(task, 0, 0, "test").tokens[:, 20:26] == batch(task, 0, 0, "test").facts["values"]).all()


def test_with_finite_samples_the_same_steps_stay_wrong():
    told = [batch(Parity(bits=8, secret=4, noise=0.3, samples=20), 0, step, n=400).tokens for step in (0, 1)]
    assert len(np.unique(np.concatenate(told), axis=0)) == 20
    fresh = [batch(Parity(bits=8, secret=4, noise=0.3, samples=None), 0, step, n=400).tokens for step in (0, 1)]
    assert len(np.unique(np.concatenate(fresh), axis=0)) > 224


def test_chains_break_off_anywhere_and_fillers_stand_in():
    lot = batch(Parity(early=0.7, filler=0.4), 0, 0, n=8000)
    cuts = (lot.facts["cuts"] >= 0).sum(axis=1) - 1
    share = np.bincount(cuts, minlength=7) / 8000
    assert share == pytest.approx([0.7 / 6] * 6 + [0.3], abs=0.02)
    filled = (lot.tokens == FILLER).any(axis=1)
    assert filled[cuts > 0].mean() == pytest.approx(0.4, abs=0.02)
    asked = lot.targets == MARK
    assert (asked.any(axis=1) == ((cuts == 6) & ~filled)).all()  # no model learns to stop by chance
    assert (lot.tokens == MARK).sum(axis=1).tolist() == [1] * 8000


@pytest.mark.parametrize("task", [Parity(noise=0.1), Parity(format="tree", noise=0.1, early=0.5), Parity()])
def test_the_ideal_observer_loses_what_the_noise_makes(task):
    lot = batch(task, 0, 0, n=20_000)
    loss = nats(task.oracles(lot)["ideal"], lot)
    steps = lot.facts["places"] >= 0
    entropy = -0.1 * np.log(0.1) - 0.9 * np.log(0.9) if task.noise else 0
    assert np.nansum(loss) / steps.sum() == pytest.approx(entropy, abs=0.01)
    last = np.take_along_axis(loss, lot.facts["cuts"].max(axis=1, keepdims=True), axis=1)
    assert last.max() < 1e-5  # the answer is always right


@pytest.mark.parametrize("format", ["left", "tree"])
def test_followers_trust_steps_as_far_as_they_hold(format):
    task = Parity(format=format, secret=5, noise=0.2, samples=None, early=0.3)
    lot = batch(task, 0, 0, n=40_000)
    logs = task.oracles(lot)
    asked = lot.targets >= 0
    for name in ("blind", "follow", "ideal"):
        said = logs[name].argmax(axis=2)
        sure = np.exp(logs[name].max(axis=2))
        right = said == lot.targets
        for level in np.unique(np.round(sure[asked], 3)):
            here = asked & (np.round(sure, 3) == level)
            assert right[here].mean() == pytest.approx(level, abs=0.012), (name, level)
    mean = {name: np.nanmean(nats(log, lot)) for name, log in logs.items()}
    assert mean["ideal"] < mean["follow"] < mean["blind"] < mean["uniform"]


def test_followers_are_led_astray():
    task = Parity(format="left")
    lot = batch(task, 0, 0, "test", n=50)
    wrong = task.chain.corrupt(lot, 3, stream("astray"))
    one, other = (nats(task.oracles(x)["follow"], x) for x in (lot, wrong))
    assert np.nanmax(one) < 1e-5
    at = task.bits + np.array([2, 3])  # it is not expected, and then carried on, which the pinned rest does not
    assert (other[:, at] > 10).all() and np.nanmax(np.delete(other, at, axis=1)) < 1e-5
    assert (nats(task.oracles(wrong)["ideal"], wrong)[:, at[0]] > 10).all()


def test_without_the_secret_there_is_next_to_nothing_to_know():
    """All 64 inputs and all secrets: a Bayesian gains about 1 / (2 C(5, 3)) nats on `blind`, which says 1/2."""
    every = (np.arange(64)[:, None] >> np.arange(6)) & 1
    answers = np.array([every[:, list(secret)].sum(axis=1) % 2 for secret in combinations(range(5), 3)])
    p = np.stack([answers.mean(axis=0), 1 - answers.mean(axis=0)])
    bayes = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=0).mean()
    assert np.log(2) - 1.5 / comb(5, 3) < bayes < np.log(2)
    task = Parity(bits=6, secret=3, samples=None, format="direct")
    lot = batch(task, 0, 0, n=100)
    assert nats(task.oracles(lot)["blind"], lot)[:, -1] == pytest.approx(np.log(2), abs=1e-5)


def test_blind_loses_ln_2_where_a_bit_goes_in():
    loss = {}
    for format in ("left", "tree", "direct"):
        task = Parity(format=format)
        lot = batch(task, 0, 0)
        loss[format] = (nats(task.oracles(lot)["blind"], lot).mean(axis=0) / np.log(2)).round(3)[19:].tolist()
    assert loss["left"] == [1, 1, 1, 1, 1, 1, 0, 0]
    assert loss["tree"] == [1, 1, 1, 0, 0, 0, 0]  # three pairs of bits; then only of steps
    assert loss["direct"][1:] == [1]


@pytest.mark.parametrize("format", ["left", "tree", "direct"])
def test_pairs_turn_one_bit_and_what_follows(format):
    task = Parity(format=format)
    pairs = task.pairs(stream("pairs"), 200, "bit")
    rows, at = np.arange(200), pairs.position
    before = pairs.clean.tokens != pairs.corrupt.tokens
    turned = before[:, :20].argmax(axis=1)
    assert np.isin(turned, task.fixed["secret"]).all() and len(set(turned)) == 6
    assert (pairs.corrupt.facts["answer"] == 1 - pairs.clean.facts["answer"]).all()
    for lot, called in ((pairs.clean, pairs.answer), (pairs.corrupt, pairs.foil)):
        assert (task.chain.parse(text(lot)) == lot.facts["answer"]).all()
        assert (lot.targets[rows, at] == called).all()
        assert (np.exp(task.oracles(lot)["ideal"])[rows, at, called] > 0.99).all()
    if format != "direct":
        reads = np.stack([pairs.clean.facts[role][rows, at] for role in task.roles])
        assert (reads == turned).any(axis=0).all()
    assert (hashed(pairs.clean.facts["bits"]) < 1 / 8).all()


@pytest.mark.parametrize("format", ["left", "tree"])
def test_pairs_turn_one_step_and_pin_the_rest(format):
    task = Parity(format=format)
    pairs = task.pairs(stream("pairs"), 200, "step")
    rows, at = np.arange(200), pairs.position
    differs = pairs.clean.tokens != pairs.corrupt.tokens
    turned = differs.argmax(axis=1)
    assert (differs.sum(axis=1) == 1).all() and (turned >= 20).all() and (turned < at).all()
    assert len(set(turned)) == (1 if format == "left" else 4)
    reads = np.stack([pairs.clean.facts[role][rows, at] for role in task.roles])
    assert (reads == turned).any(axis=0).all()
    assert (pairs.foil == 1 - pairs.answer).all() and (pairs.clean.targets[rows, at] == pairs.answer).all()
    assert (np.exp(task.oracles(pairs.corrupt)["follow"])[rows, at, pairs.foil] > 0.99).all()


def test_presets_are_those_of_the_papers():
    wen, direct = preset(Parity, "wen2024"), preset(Parity, "wen2024_direct")
    assert (wen.bits, wen.secret, wen.samples, wen.steps) == (20, 6, 10_000, 6) and direct.steps == 0
    wies, kim = preset(Parity, "wies2023"), preset(Parity, "kim2024")
    assert wies.secret == wies.bits / 2 == 16 and wies.format == "tree"
    assert (kim.bits, kim.secret, kim.samples, kim.steps) == (64, 16, 100_000, 15)
    assert kim.sources.tolist()[8:] == [[64, 65], [66, 67], [68, 69], [70, 71], [72, 73], [74, 75], [76, 77], [78, -1]]


@pytest.mark.parametrize(
    ("dials", "words"),
    [
        ({"bits": 5}, "bits = 5 is out of range: at least 6"),
        ({"secret": 0}, "secret = 0 is out of range: 1 to the 20 bits"),
        ({"secret": 21}, "secret = 21"),
        ({"secret": 1, "format": "tree"}, "secret = 1 is out of range: 2 to the 20 bits"),
        ({"format": "lefft"}, "no format of parity 'lefft'; did you mean 'left'"),
        ({"samples": 0}, "samples = 0"),
        ({"bits": 8, "samples": 129}, "samples = 129 is out of range: 1 to 128, or None"),
        ({"noise": 1.5}, "noise = 1.5 is out of range: a probability"),
        ({"early": -0.1}, "early = -0.1"),
        ({"format": "direct", "noise": 0.1}, "noise = 0.1 is out of range: 0 where no step is written"),
        ({"format": "direct", "early": 0.1}, "early = 0.1"),
        ({"format": "direct", "filler": 0.1}, "filler = 0.1"),
    ],
)
def test_bad_and_contradictory_dials_are_refused_by_name(dials, words):
    with pytest.raises(ValueError, match=words):
        Parity(**dials)


def test_without_steps_there_is_no_step_to_turn():
    task = Parity(format="direct")
    with pytest.raises(ValueError, match="no kind of pairs of parity 'step'.* known: bit"):
        task.pairs(stream("pairs"), 1, "step")
    with pytest.raises(ValueError, match="step = 0 is out of range.* the chain has 0 steps"):
        task.chain.corrupt(batch(task, 0, 0), 0, stream("none"))


def test_golden_first_batch():
    """A change here moves every result: raise the task's version, and say so in the change log."""
    assert Parity().fixed["secret"].tolist() == [2, 5, 7, 11, 12, 15]
    assert batch(Parity(), 0, 0, n=1).tokens[0].tolist() == [
        *[0, 1, 1, 1, 0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1],
        *[1, 1, 0, 1, 1, 0, MARK],
    ]
