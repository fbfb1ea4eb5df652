"""Sums by hand, by Python's own arithmetic on strings, and by enumeration of all pairs of two digits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from synthetic_tasks import Addition, Batch, batch, preset, turn
from synthetic_tasks.chain import text
from synthetic_tasks.scratchpad import FILLER, MARK, column
from synthetic_tasks.summands import few, fresh, held, summands
from synthetic_tasks.task import stream

SYMBOLS = "0123456789+=,_"
FORMATS = ["plain", "reverse", "simplified", "detailed"]
CHAINED = ["simplified", "detailed"]
PAIR = np.array([[[8, 2, 1], [7, 6, 3]]])  # 128 + 367, from the right
EVERY = np.stack(np.meshgrid(np.arange(100), np.arange(100), indexing="ij"), -1).reshape(-1, 2)


def read(told: np.ndarray) -> list[str]:
    return ["".join(SYMBOLS[x] for x in row if x >= 0) for row in told]


def texts(*lines: str) -> np.ndarray:
    width = max(map(len, lines))
    return np.array([[SYMBOLS.index(c) for c in line] + [-1] * (width - len(line)) for line in lines], np.int64)


def nats(logs: np.ndarray, lot: Batch) -> np.ndarray:
    """Loss at each position, NaN where nothing is asked."""
    return -np.take_along_axis(logs, np.maximum(lot.targets, 0)[..., None], axis=2)[..., 0]


def columns(a: int, b: int, digits: int) -> list[tuple[int, int]]:
    """Digit and carry of each column from the right, by the whole numbers up to it."""
    found = []
    for i in range(1, digits + 1):
        total = a % 10**i + b % 10**i
        found.append((total % 10**i // 10 ** (i - 1), total // 10**i))
    return found


def scratch(a: int, b: int, digits: int, format: str) -> list[str]:
    """What each step writes."""
    steps, made = [], ""
    left = [f"{x:0{digits}d}" for x in (a, b)]
    into = 0
    for digit, carry in columns(a, b, digits):
        line = f"{left[0]}+{left[1]},{made}{into}," if format == "detailed" else ""
        steps += [f"{line}{digit}", str(carry)]
        left, made, into = [x[:-1] for x in left], f"{digit}{made}", carry
    return steps if format in CHAINED else []


def test_by_hand():
    """The drawing in the docstring of `Addition`."""
    plain = Addition(format="plain")._batch(PAIR)
    assert read(text(plain)) == ["128+367=0495"]
    assert plain.targets.tolist() == [[-1] * 7 + [0, 4, 9, 5]]
    assert read(text(Addition(format="reverse")._batch(PAIR))) == ["128+367=5940"]
    lot = Addition()._batch(PAIR)
    assert read(lot.tokens) == ["128+367519040=049"]
    assert lot.targets.tolist() == [[-1] * 6 + [5, 1, 9, 0, 4, 0, MARK, 0, 4, 9, 5]]
    o, facts = -1, lot.facts
    assert facts["first"][0, 6:].tolist() == [2, 2, 1, 1, 0, 0, o, o, o, o, o]
    assert facts["second"][0, 6:].tolist() == [6, 6, 5, 5, 4, 4, o, o, o, o, o]
    assert facts["incoming"][0, 6:].tolist() == [o, o, 8, 8, 10, 10, o, o, o, o, o]
    assert facts["source"][0, 6:].tolist() == [o, o, o, o, o, o, o, 12, 11, 9, 7]
    assert facts["cuts"].tolist() == [[7, 8, 9, 10, 11, 12, 13]] and facts["places"].tolist() == [[*range(7, 13)]]
    assert facts["operands"].tolist() == [[128, 367]] and facts["answer"].tolist() == [495]
    assert facts["digit"].tolist() == [[5, 9, 4]] and facts["carry"].tolist() == [[1, 0, 0]]
    assert facts["carries"].tolist() == [1] and facts["values"].tolist() == [[5, 1, 9, 0, 4, 0]]
    detailed = Addition(format="detailed")._batch(PAIR)
    assert read(text(detailed)) == ["128+367" + "128+367,0,51" + "12+36,51,90" + "1+3,950,40" + "=0495"]
    assert detailed.facts["places"].tolist() == [[17, 18, 28, 29, 38, 39]]


@st.composite
def tasks(draw: st.DrawFn) -> Addition:
    digits, format = draw(st.integers(2, 9)), draw(st.sampled_from(FORMATS))
    dials = {dial: draw(st.sampled_from([0.0, 0.3, 1.0])) for dial in ("early", "filler")}
    noise = {dial: draw(st.sampled_from([0.0, 0.3, 1.0])) for dial in ("noise_digit", "noise_carry")}
    return Addition(
        digits=digits,
        format=format,
        samples=draw(st.one_of(st.none(), st.integers(200, 400))),
        balanced=draw(st.booleans()),
        world=draw(st.integers(0, 99)),
        **(dials if format in CHAINED else {}),
        **(noise if format == "simplified" else {}),
    )


@settings(max_examples=60, deadline=None)
@given(tasks(), st.sampled_from(["train", "test"]), st.integers(0, 1000))
@example(Addition(noise_digit=0.3, noise_carry=0.3, early=0.3, filler=0.3), "train", 0)
@example(Addition(format="detailed", early=0.5, filler=0.3), "train", 0)
def test_sequences_hold_what_their_facts_say(task, split, seed):
    lot = batch(task, seed, 0, split, n=8)
    d = task.digits
    for i, told in enumerate(read(text(lot))):
        fact = {name: value[i].tolist() for name, value in lot.facts.items()}
        a, b = fact["operands"]
        right, steps = columns(a, b, d), scratch(a, b, d, task.format)
        assert fact["answer"] == a + b and fact["carries"] == sum(fact["carry"])
        assert list(zip(fact["digit"], fact["carry"], strict=True)) == right
        assert fact["values"] == [x for pair in right for x in pair]
        prompt, answer = f"{a:0{d}d}+{b:0{d}d}", f"{a + b:0{d + 1}d}"
        answer = answer[::-1] if task.format == "reverse" else answer
        assert told.startswith(prompt) and told.endswith("=" + answer)
        chain = told[len(prompt) : -len(answer) - 1]
        kept = sum(cut >= 0 for cut in fact["cuts"]) - 1
        assert fact["cuts"][: kept + 1] == np.cumsum([len(prompt), *map(len, steps[:kept])]).tolist()
        filled, clean = "_" in chain, "".join(steps[:kept])
        if filled:
            assert chain == "_" * len(clean)
        elif split == "test" or not (task.noise_digit or task.noise_carry):
            assert chain == clean
        if split == "test":
            assert kept == len(steps) and not filled
        ends = fact["cuts"][1 : kept + 1]
        assert fact["places"] == [(-1 if filled else end - 1) for end in ends] + [-1] * (len(steps) - kept)
        end, whole = len(prompt) + len(chain), kept == len(steps) > 0 and not filled
        asked = [*range(len(prompt), end if not filled else 0), *([end] if whole else []), *range(end + 1, len(told))]
        ought = prompt + clean + "=" + answer
        for name, said in (("clean", ought), ("", told)):
            target = [SYMBOLS.index(said[at]) if at in asked else -1 for at in range(1, len(told))]
            found = fact["clean"] if name else lot.targets[i].tolist()
            assert found == target + [-1] * (len(found) - len(target))
        for at in range(1, len(told)):  # the rules hold for what ought to stand there
            first, second, into, source = (fact[role][at - 1] for role in task.roles)
            if source >= 0:
                assert ought[source] == ought[at] and source < at
            if first >= 0:
                total = int(ought[first]) + int(ought[second]) + (int(ought[into]) if into >= 0 else 0)
                assert into >= 0 or not steps or first in (d - 1, *[len(prompt) + d - 1] * (task.format == "detailed"))
                possible = {total % 10, total // 10} | ({(total + 1) % 10, (total + 1) // 10} if into < 0 else set())
                assert int(ought[at]) in possible
            if at not in asked:
                assert (first, second, into, source) == (-1, -1, -1, -1)
        if whole:  # all digits have an origin, but the 0 that is carried into the first column
            known = [at for at in asked if max(fact[role][at - 1] for role in task.roles) >= 0]
            assert known == [at for at in asked if ought[at].isdigit() and not ought[at - 2 : at + 2] == f"{b % 10},0,"]


def implied(told: str, digits: int) -> int:
    """What a simplified scratchpad means, by plain loops."""
    a, b, steps = int(told[:digits]), int(told[digits + 1 : 2 * digits + 1]), told[2 * digits + 1 :].split("=")[0]
    answer, into = 0, 0
    for i in range(digits):
        total = a // 10**i % 10 + b // 10**i % 10 + into
        said = steps[2 * i : 2 * i + 2]
        digit, into = int(said[0]) if said[:1] not in ("", "_") else total % 10, total // 10
        into = int(said[1]) if said[1:] not in ("", "_") else into
        answer += digit * 10**i
    return answer + into * 10**digits


def implied_by_lines(told: str, digits: int) -> int:
    """What a detailed scratchpad means: its last line says all, the rest follows from the numbers that are left."""
    chain = told[2 * digits + 1 :].split("=")[0]
    a, b, made, into = told[:digits], told[digits + 1 : 2 * digits + 1], "", 0
    for i in range(digits):
        size = 2 * (digits - i) + i + 6
        line, chain = chain[:size], chain[size:]
        if line == "":
            break
        left, state, news = line.split(",")
        (a, b), made, into = left.split("+"), state[:-1], int(state[-1])
        total = int(a[-1]) + int(b[-1]) + into
        made = (news[:1] or str(total % 10)) + made
        into = int(news[1:] or total // 10)
        a, b = a[:-1], b[:-1]
    left = len(a)
    rest = int(a or 0) + int(b or 0) + into
    return rest * 10 ** (digits - left) + int(made or 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 5), st.sampled_from(CHAINED), st.integers(0, 1000), st.data())
def test_implied_continues_what_is_written(digits, format, seed, data):
    task = Addition(digits=digits, format=format, samples=None)
    lot, chain = batch(task, seed, 0, "test", n=6), task.chain
    wrong = lot
    for _ in range(data.draw(st.integers(0, 2))):
        wrong = chain.corrupt(wrong, data.draw(st.integers(0, task.steps - 1)), stream("wrong", seed))
    kept = data.draw(st.integers(0, task.steps))
    rule = implied if format == "simplified" else implied_by_lines
    for told in (chain.cut(wrong, kept), chain.ask(wrong, kept), text(wrong)):
        assert chain.implied(told).tolist() == [rule(line, digits) for line in read(told)]
    assert np.array_equal(chain.implied(chain.fill(wrong)), lot.facts["answer"])  # fillers say nothing
    donors = np.roll(np.arange(6), 1)
    assert np.array_equal(chain.implied(chain.swap(wrong, donors)), chain.implied(text(wrong))[donors])


@pytest.mark.parametrize("format", CHAINED)
def test_what_a_wrong_step_leads_to(format):
    task = Addition(format=format)
    lot, chain = batch(task, 0, 0, "test", n=300), task.chain
    right = lot.facts["answer"]
    for step in range(task.steps):
        wrong = chain.corrupt(lot, step, stream("turn", step))
        i, at = divmod(step, 2)[0], lot.facts["places"][0, step]
        change = wrong.tokens[:, at] - lot.tokens[:, at]
        if step % 2:
            assert (wrong.tokens[:, at] == 1 - lot.tokens[:, at]).all()  # carries stay carries
        else:
            assert len(np.unique(wrong.tokens[:, at])) == 10
        off = change * 10 ** (i + step % 2)
        assert (chain.implied(chain.cut(wrong, step + 1)) == right + off).all()  # carried on
        last = step >= task.steps - 2
        pinned = chain.implied(chain.ask(wrong))
        stays = last or (format == "simplified" and step % 2 == 0)  # a digit of the answer; a carry was used already
        assert (pinned == (right + off if stays else right)).all()


def follows(task: Addition, told: np.ndarray, steps: bool) -> np.ndarray:
    """What a planted model writes behind texts of equal length: it goes by what is written, or by the numbers alone."""
    pad = task.pad
    while (task.chain.parse(told) < 0).any():
        if steps:
            slots = pad.slots(np.zeros((len(told), 2, task.digits), np.int64))
            for at, slot in enumerate(pad.whole[: told.shape[1]]):
                slots[:, slot] = told[:, at]
        else:
            figures = told[:, np.flatnonzero(pad.prompt < 4 * task.digits)].reshape(len(told), 2, task.digits)
            slots = pad.slots(figures[:, :, ::-1])
        told = np.concatenate([told, pad.inferred(slots)[:, [pad.whole[told.shape[1]]]]], axis=1)
    return told


@pytest.mark.parametrize("format", CHAINED)
def test_planted_models_follow_their_chain_or_ignore_it(format):
    """What the measures of faithfulness do, with models whose verdict is known."""
    task = Addition(format=format)
    lot, chain = batch(task, 0, 0, "test"), task.chain
    for steps in (True, False):
        prompt = chain.prompt(lot)
        assert np.array_equal(follows(task, prompt[:, : (prompt[0] >= 0).sum()], steps), text(lot))
        for step in range(task.steps):
            begun = chain.cut(chain.corrupt(lot, step, stream("planted", step)), step + 1)
            answer = chain.parse(follows(task, begun[:, : (begun[0] >= 0).sum()], steps))
            assert (answer == chain.implied(begun)).mean() == float(steps)
        asked = chain.ask(chain.corrupt(lot, task.steps - 1, stream("last")))
        pinned = chain.parse(follows(task, asked[:, : (asked[0] >= 0).sum()], steps))
        assert (pinned == chain.implied(asked)).mean() == float(steps)


MALFORMED = [
    *["1", "12+3", "12334=046", "12=34=046", "12+_4=046"],  # no numbers
    *["12+34", "12+34=", "12+34=04", "12+346040=04"],  # no answer yet
    *["12+34=0460", "12+346040=046=", "12+34=0_6", "12+34=0=6", "12+34=04,"],  # not an answer
    "12+3460400=046",  # a step too many
]
WELL = {
    "12+34=046": (46, 46),
    "12+346040=046": (46, 46),
    "12+346040=999": (999, 46),  # what is said need not be what is implied
    "12+347=011": (11, 47),
    "12+3461=001": (1, 56),
    "12+346151=999": (999, 156),
    "12+34____=000": (0, 46),
    "12+346_=000": (0, 46),
    "12+34+0,9=046": (46, -1),  # no scratchpad, but an answer
}


def test_malformed_texts_have_no_answer():
    task = Addition(digits=2, samples=None)
    assert (task.chain.parse(texts(*MALFORMED)) == -1).all()
    told = texts(*WELL)
    for wide in (told, np.pad(told, ((0, 0), (0, 9)), constant_values=-1)):
        assert list(zip(task.chain.parse(wide), task.chain.implied(wide), strict=True)) == list(WELL.values())
    for gap in (np.insert(texts("12+34=046"), 7, -1, axis=1), np.insert(texts("12+340460"), 5, -1, axis=1)):
        assert task.chain.parse(gap).tolist() == task.chain.implied(gap).tolist() == [-1]
    reverse = turn(task, format="reverse")
    assert reverse.chain.parse(texts("12+34=640", "12+346=640")).tolist() == [46, -1]


def carries(pairs: np.ndarray, digits: int) -> np.ndarray:
    return np.array([sum(carry for _, carry in columns(a, b, digits)) for a, b in pairs.tolist()], np.int64)


def test_balanced_pairs_are_each_as_likely():
    count, longer = carries(EVERY, 2), EVERY.max(axis=1) >= 10
    drawn = summands(stream("balanced"), 2, np.repeat([0, 1, 2], 40_000))
    found = np.bincount(drawn @ [100, 1], minlength=10_000)
    assert (found[~longer] == 0).all()
    for c in range(3):
        these = found[longer & (count == c)]
        expected = 40_000 / len(these)
        assert these.sum() == 40_000
        assert ((these - expected) ** 2 / expected).sum() < len(these) + 5 * np.sqrt(2 * len(these))
    nine = summands(stream("nine"), 9, np.arange(10))
    assert carries(nine, 9).tolist() == list(range(10)) and (nine.max(axis=1) >= 10**8).all()


@pytest.mark.parametrize(("digits", "n"), [(2, 300), (2, 5000), (3, 10_000), (3, 50_000), (9, 2000)])
def test_balanced_samples_are_those_of_the_paper(digits, n):
    pairs = few(stream("few"), n, digits, balanced=True)
    assert len(pairs) == n == len(np.unique(pairs, axis=0)) and not held(pairs).any()
    long = pairs.max(axis=1)
    one, two = long < 10, (long >= 10) & (long < 100)
    assert one.sum() == 100 and (digits == 2 or two.sum() == round(0.09 * n))
    assert (long[~one & ~two] >= 10 ** (digits - 1)).all()
    for lot, length in ((pairs[two], 2), (pairs[~one & ~two], digits)):
        counts = np.bincount(carries(lot, digits), minlength=length + 1)
        assert counts.sum() == 0 or counts.max() - counts.min() <= 1


def test_fresh_pairs_are_balanced_too():
    pairs = fresh(stream("fresh"), 20_000, 3, balanced=True)
    long = pairs.max(axis=1)
    shares = [np.mean(long < 10), np.mean((long >= 10) & (long < 100)), np.mean(long >= 100)]
    assert shares == pytest.approx([0.0114, 0.089, 0.9], abs=0.01) and not held(pairs).any()
    assert np.bincount(carries(pairs[long >= 100], 3)) / (long >= 100).sum() == pytest.approx([1 / 4] * 4, abs=0.015)
    plain = fresh(stream("fresh"), 20_000, 3)
    assert plain.mean(axis=0) == pytest.approx(499.5, abs=8) and np.mean(plain.max(axis=1) >= 100) > 0.985


def test_no_pair_is_in_both_splits_in_either_order():
    assert held(EVERY)[EVERY.max(axis=1) >= 10].mean() == pytest.approx(1 / 8, abs=0.01)
    for balanced in (True, False):
        task = Addition(digits=2, samples=None, balanced=balanced)
        train, test = (batch(task, 0, 0, split, n=60_000).facts["operands"] for split in ("train", "test"))
        assert set(map(tuple, test.tolist())) == set(map(tuple, EVERY[held(EVERY)].tolist()))
        assert not {frozenset(pair) for pair in train.tolist()} & {frozenset(pair) for pair in test.tolist()}
        if not balanced:  # all the others are drawn
            assert len(np.unique(train, axis=0)) > 0.99 * (~held(EVERY)).sum()
    for task in (Addition(), Addition(digits=2, samples=1000, balanced=False)):
        train = batch(task, 0, 0, n=4000).facts["operands"]
        known = set(map(tuple, task.fixed["pairs"].tolist()))
        assert len(known) == task.samples and set(map(tuple, train.tolist())) <= known
        assert not held(train).any() and held(batch(task, 0, 0, "test").facts["operands"]).all()
        assert not np.array_equal(turn(task, world=1).fixed["pairs"], task.fixed["pairs"])


def test_formats_at_one_address_are_paired():
    for samples in (1000, None):
        lots = [batch(Addition(format=format, samples=samples), 1, 2).facts for format in FORMATS]
        lots += [batch(Addition(noise_digit=0.5, early=0.5, filler=0.5, samples=samples), 1, 2).facts]
        assert all(np.array_equal(lots[0]["operands"], lot["operands"]) for lot in lots)


@pytest.mark.parametrize("samples", [None, 10_000])
def test_noise_is_drawn_uniformly_and_one_by_one(samples):
    """The published generator switches its noise off for good once it has drawn a 0: this one does not."""
    task = Addition(noise_digit=1.0, noise_carry=0.5, samples=samples)
    lot = batch(task, 0, 0, n=20_000)
    said, right = lot.tokens[:, 7:13], lot.facts["values"]
    for i in range(3):
        table = np.histogram2d(right[:, 2 * i], said[:, 2 * i], bins=10)[0]
        assert table / table.sum(axis=1, keepdims=True) == pytest.approx(np.full((10, 10), 0.1), abs=0.04)
        assert np.isin(said[:, 2 * i + 1], (0, 1)).all()
    wrong = said != right
    assert wrong.mean(axis=0) == pytest.approx([0.9, 0.25] * 3, abs=0.02)
    assert np.corrcoef(wrong.T)[np.triu_indices(6, 1)] == pytest.approx(0, abs=0.05)
    answers = lot.targets[:, -4:] @ [1000, 100, 10, 1]
    assert (answers == lot.facts["answer"]).all()
    assert (batch(task, 0, 0, "test").tokens[:, 7:13] == batch(task, 0, 0, "test").facts["values"]).all()


def test_with_finite_samples_the_same_steps_stay_wrong():
    noisy = Addition(noise_digit=0.5, noise_carry=0.5, samples=200)
    told = [batch(noisy, 0, step, n=2000).tokens for step in (0, 1)]
    assert len(np.unique(np.concatenate(told), axis=0)) == 200


def test_chains_break_off_anywhere_and_fillers_stand_in():
    for format in CHAINED:
        lot = batch(Addition(format=format, early=0.7, filler=0.4), 0, 0, n=6000)
        cuts = (lot.facts["cuts"] >= 0).sum(axis=1) - 1
        assert np.bincount(cuts, minlength=7) / 6000 == pytest.approx([0.7 / 6] * 6 + [0.3], abs=0.025)
        filled = (lot.tokens == FILLER).any(axis=1)
        assert filled[cuts > 0].mean() == pytest.approx(0.4, abs=0.02)
        assert ((lot.targets == MARK).any(axis=1) == ((cuts == 6) & ~filled)).all()


def test_a_column_by_enumeration():
    for total in range(19):
        for into in (0.0, 0.25, 1.0):
            digit, carry = column(np.array(total), np.array(into), 12)
            ways = [(total + c, w) for c, w in ((0, 1 - into), (1, into))]
            assert digit.tolist() == [sum(w for x, w in ways if x % 10 == s) for s in range(12)]
            assert carry.tolist() == [sum(w for x, w in ways if x // 10 == s) for s in range(12)]


@pytest.mark.parametrize("format", FORMATS)
def test_what_strategies_know_by_enumeration(format):
    """All pairs of two digits: who sees one column, two, or all of them is sure exactly where they suffice."""
    task = Addition(digits=2, format=format, samples=None)
    lot = task._batch(task._figures(EVERY))
    logs, asked = task.oracles(lot), lot.targets >= 0
    loss = {name: np.where(asked, nats(log, lot), 0) for name, log in logs.items()}
    assert loss["ideal"].max() < 1e-5 and loss["neighbours"].max() < 1e-5  # two columns are all there are
    unsure = loss["columns"] > 0.5
    assert loss["columns"][unsure] == pytest.approx(np.log(2), abs=1e-5) and loss["columns"][~unsure].max() < 1e-5
    last = EVERY % 10
    nine = EVERY.sum(axis=1) // 10 - last.sum(axis=1) // 10 == 9
    tens = {"plain": [9 - 2 - 1], "reverse": [7]}.get(format)
    if tens:  # the tens always need the carry, the hundreds where the tens make 9
        places = unsure[:, 5:]
        assert places[:, 1].all() and np.array_equal(places[:, 0 if format == "plain" else 2], nine)
        assert not places[:, 2 if format == "plain" else 0].any()
        assert np.array_equal(logs["follow"], logs["columns"], equal_nan=True)
    else:
        assert loss["follow"].max() < 1e-5  # it reads the carry


def test_neighbours_miss_long_carries_only():
    task = Addition(digits=4, format="reverse", samples=None)
    lot = batch(task, 0, 0, "test", n=4000)
    figures = task._figures(lot.facts["operands"]).sum(axis=1)
    unsure = nats(task.oracles(lot)["neighbours"], lot)[:, -5:] > 0.5
    assert not unsure[:, :2].any()
    assert np.array_equal(unsure[:, 2], figures[:, 1] == 9) and np.array_equal(unsure[:, 3], figures[:, 2] == 9)
    assert np.array_equal(unsure[:, 4], (figures[:, 2] == 9) & (figures[:, 3] == 9))


def test_the_ideal_observer_loses_what_the_noise_makes():
    task = Addition(noise_digit=0.4, noise_carry=0.2, samples=None)
    lot = batch(task, 0, 0, n=20_000)
    loss = nats(task.oracles(lot)["ideal"], lot)
    digit = -(0.64 * np.log(0.64) + 9 * 0.04 * np.log(0.04))
    carry = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    assert loss[:, 6:12].mean(axis=0) == pytest.approx([digit, carry] * 3, abs=0.035)
    assert loss[:, 12:].max() < 1e-5
    mean = {name: np.nanmean(nats(log, lot)) for name, log in task.oracles(lot).items()}
    assert mean["ideal"] < mean["follow"] < mean["columns"] < mean["uniform"]


def test_followers_trust_carries_as_far_as_they_hold():
    task = Addition(noise_carry=0.6, samples=None, balanced=False)
    lot = batch(task, 0, 0, n=20_000)
    logs = task.oracles(lot)["follow"]
    sure, right = np.exp(logs.max(axis=2)), logs.argmax(axis=2) == lot.targets
    for at in (8, 10):  # the later digits: a carry that is written is right 7 times in 10
        assert sure[:, at] == pytest.approx(0.7, abs=1e-5) and right[:, at].mean() == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize("format", CHAINED)
def test_followers_are_led_astray(format):
    task = Addition(format=format)
    lot = batch(task, 0, 0, "test", n=100)
    for step in range(6):
        wrong = task.chain.corrupt(lot, step, stream("astray", step))
        loss = nats(task.oracles(wrong)["follow"], wrong)
        at = lot.facts["places"][0, step]
        readers = {p for p in range(task.context) for role in ("incoming", "source") if lot.facts[role][0, p] == at}
        digits = {p for p in readers if lot.facts["source"][0, p] == at or p + 1 in lot.facts["places"][0, ::2]}
        assert digits and (loss[:, [at - 1, *digits]] > 10).all()  # it is not expected, and then carried on
        assert np.nanmax(np.delete(loss, [at - 1, *readers], axis=1)) < 1e-5


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["digit", "carry"])
def test_pairs_change_a_digit_or_a_carry_and_what_follows(format, kind):
    task = Addition(format=format)
    if kind not in task.kinds:
        return
    pairs = task.pairs(stream("pairs"), 300, kind)
    rows, at = np.arange(300), pairs.position
    assert held(pairs.clean.facts["operands"]).all()
    for lot, called in ((pairs.clean, pairs.answer), (pairs.corrupt, pairs.foil)):
        assert (task.chain.parse(text(lot)) == lot.facts["operands"].sum(axis=1)).all()
        assert (np.exp(task.oracles(lot)["ideal"])[rows, at, called] > 0.99).all()
    before = pairs.clean.tokens[:, :7] != pairs.corrupt.tokens[:, :7]
    differs = {name: pairs.clean.facts[name] != pairs.corrupt.facts[name] for name in ("digit", "carry")}
    changed = 2 - np.where(before[:, :3].any(axis=1), before[:, :3].argmax(axis=1), before[:, 4:].argmax(axis=1))
    assert set(changed) == {0, 1, 2}
    if kind == "digit":
        assert (before[:, :3].sum(axis=1) == 1).all() and not before[:, 3:].any()
        assert differs["digit"][rows, changed].all()
    else:
        assert differs["carry"][rows, changed].all() and not differs["digit"][rows, changed].any()
        assert (before.sum(axis=1) <= 2).all() and not (differs["digit"] & (np.arange(3) < changed[:, None])).any()
        if format == "simplified":
            assert (at == pairs.clean.facts["places"][rows, 2 * changed]).all()  # its carry is the next thing


@pytest.mark.parametrize("format", CHAINED)
def test_pairs_change_a_step_and_pin_the_rest(format):
    task = Addition(format=format)
    pairs = task.pairs(stream("pairs"), 600, "step")
    rows, at = np.arange(600), pairs.position
    differs = pairs.clean.tokens != pairs.corrupt.tokens
    turned = differs.argmax(axis=1)
    assert (differs.sum(axis=1) == 1).all() and (turned >= 7).all() and (turned < at).all()
    assert len(set(turned)) == (4 if format == "simplified" else 6 + 2 + 3)  # all but next to their only reader
    assert (np.exp(task.oracles(pairs.corrupt)["follow"])[rows, at, pairs.foil] > 0.99).all()
    assert (pairs.clean.targets[rows, at] == pairs.answer).all()
    assert (pairs.corrupt.targets[rows, at] == pairs.foil).all()


def test_the_card_says_how_often_one_carries():
    lots = [batch(Addition(), 0, step, n=2000) for step in range(2)]
    found = Addition().statistics(lots)
    assert found.pop("share of one digit") == pytest.approx(0.01, abs=0.005)
    assert list(found) == [f"share with {c} carries" for c in range(4)]
    assert list(found.values()) == pytest.approx([0.2625, 0.2575, 0.2525, 0.225], abs=0.025)


def test_presets_are_those_of_the_paper():
    formats = {name: preset(Addition, name).format for name in Addition.presets if preset(Addition, name).format}
    assert [formats[f"lee2023{name}"] for name in ("_plain", "_reverse", "", "_detailed")] == FORMATS
    noisy = [preset(Addition, f"lee2023_random{name}") for name in ("_digit", "_carry", "")]
    assert [(task.noise_digit, task.noise_carry) for task in noisy] == [(1, 0), (0, 1), (1, 1)]
    assert not preset(Addition, "lee2023_unbalanced").balanced


@pytest.mark.parametrize(
    ("dials", "words"),
    [
        ({"digits": 1}, "digits = 1 is out of range: 2 to 9"),
        ({"digits": 10}, "digits = 10"),
        ({"format": "revers"}, "no format of addition 'revers'; did you mean 'reverse'"),
        ({"samples": 199}, r"samples = 199 is out of range: 200 to 50000, or None \(balanced = True\)"),
        ({"samples": 5001, "digits": 2}, "samples = 5001 is out of range: 200 to 5000"),
        ({"samples": 0, "balanced": False}, "samples = 0 is out of range: 1 to 500000"),
        ({"noise_digit": 1.5}, "noise_digit = 1.5 is out of range: a probability"),
        ({"early": -0.1}, "early = -0.1"),
        ({"format": "plain", "early": 0.1}, "early = 0.1 is out of range: 0 where no step is written"),
        ({"format": "reverse", "noise_carry": 0.1}, "noise_carry = 0.1"),
        ({"format": "detailed", "noise_digit": 0.1}, "noise_digit = 0.1 is out of range: 0 but in the simplified"),
    ],
)
def test_bad_and_contradictory_dials_are_refused_by_name(dials, words):
    with pytest.raises(ValueError, match=words):
        Addition(**dials)


def test_golden_first_batch():
    """A change here moves every result: raise the task's version, and say so in the change log."""
    assert read(text(batch(Addition(), 0, 0, n=2))) == ["102+623502070=0725", "400+123302050=0523"]
