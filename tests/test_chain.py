"""Chains against plain lists, and what every task with a chain promises to those who cut, corrupt and read it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_task_contract import SETTINGS, splits_of

from synthetic_tasks import Batch, Chain, Task, batch
from synthetic_tasks.chain import compose, hashed, packed, read, text
from synthetic_tasks.task import stream

CHAINED = [
    pytest.param(task, split, id=f"{name}-{split}")
    for name, task in SETTINGS.items()
    if hasattr(task, "chain")
    for split in splits_of(task)
    if (batch(task, 0, 0, split, 8).facts["cuts"] >= 0).any()  # some splits hold no chains
]
FILLER = 9
GOLDEN = 0.018998923162896197
TOY = Chain(np.array([0, 1, 2, 3]), FILLER, lambda told: told[:, 0], lambda told: told[:, 0])


def padded(rows: list[list[int]], width: int | None = None) -> np.ndarray:
    width = max(map(len, rows)) if width is None else width
    return np.array([row + [-1] * (width - len(row)) for row in rows], np.int64).reshape(len(rows), width)


def rows_of(told: np.ndarray) -> list[list[int]]:
    """Texts as lists; a gap before the end is an error."""
    found = [row[row >= 0].tolist() for row in told]
    assert np.array_equal(padded(found, told.shape[1]), told)
    return found


def test_by_hand():
    """The drawing in the docstring of `Chain`."""
    lot = compose(
        np.array([[1, 0, 1, 1, 0]]),
        np.array([[0, 1, 0]]),
        np.array([[1, 2, 3]]),
        np.array([[0, 1, 2]]),
        7,
        np.array([[1]]),
        width=9,
    )
    o = -1
    assert lot.tokens.tolist() == [[1, 0, 1, 1, 0, 0, 1, 0, 7]]
    assert lot.targets.tolist() == [[o, o, o, o, 0, 1, 0, 7, 1]]
    assert lot.facts["cuts"].tolist() == [[5, 6, 7, 8]] and lot.facts["places"].tolist() == [[5, 6, 7]]
    assert rows_of(text(lot)) == [[1, 0, 1, 1, 0, 0, 1, 0, 7, 1]]
    assert rows_of(TOY.prompt(lot)) == [[1, 0, 1, 1, 0]]
    assert rows_of(TOY.cut(lot, 2)) == [[1, 0, 1, 1, 0, 0, 1]]
    assert rows_of(TOY.ask(lot, 1)) == [[1, 0, 1, 1, 0, 0, 7]]
    assert rows_of(TOY.ask(lot)) == [[1, 0, 1, 1, 0, 0, 1, 0, 7]]
    assert rows_of(TOY.fill(lot)) == [[1, 0, 1, 1, 0, 9, 9, 9, 7]]
    assert rows_of(TOY.fill(lot, 1)) == [[1, 0, 1, 1, 0, 9, 7]]
    wrong = TOY.corrupt(lot, 1, stream("wrong"))
    (value,) = wrong.tokens[0, [6]]
    assert value in (0, 2, 3)
    assert wrong.tokens.tolist() == [[1, 0, 1, 1, 0, 0, value, 0, 7]]
    assert wrong.targets.tolist() == [[o, o, o, o, 0, value, 0, 7, 1]]


@st.composite
def sequences(draw: st.DrawFn) -> dict:
    """Prompts, steps of several symbols around one value, marks and answers, as lists, ragged in every way."""
    n = draw(st.integers(1, 5))
    symbol, value = st.integers(4, 8), st.integers(0, 3)
    step = st.tuples(st.lists(symbol, max_size=2), value, st.lists(symbol, max_size=1))
    return {
        "prompt": [draw(st.lists(st.integers(0, 8), min_size=1, max_size=4)) for _ in range(n)],
        "steps": [draw(st.lists(step, max_size=3)) for _ in range(n)],
        "mark": [draw(symbol) for _ in range(n)],
        "answer": [draw(st.lists(value, min_size=1, max_size=3)) for _ in range(n)],
        "kept": [draw(st.integers(0, 4)) for _ in range(n)],
        "asked": [draw(st.booleans()) for _ in range(n)],
    }


def composed(drawn: dict, breaks: bool) -> tuple[Batch, list[list[list[int]]]]:
    """The batch, and the symbols of each step that is written, as lists."""
    steps = [[[*before, value, *after] for before, value, after in row] for row in drawn["steps"]]
    offset = [[len(before) for before, _, _ in row] for row in drawn["steps"]]
    sizes = [np.cumsum([0, *map(len, row)]) for row in steps]
    most = max(map(len, steps))
    kept = drawn["kept"] if breaks else [len(row) for row in steps]
    asked = np.array(drawn["asked"]) if breaks else np.ones(len(steps), bool)
    width = 30
    lot = compose(
        padded(drawn["prompt"]),
        padded([sum(row, []) if asked[i] else [FILLER] * int(sizes[i][-1]) for i, row in enumerate(steps)]),
        padded([size[1:].tolist() for size in sizes], most),
        padded([(size[:-1] + at).tolist() for size, at in zip(sizes, offset, strict=True)], most),
        np.array(drawn["mark"])[:, None],
        padded(drawn["answer"]),
        width,
        np.array(kept) if breaks else None,
        asked if breaks else None,
    )
    assert lot.tokens.shape[1] <= width
    written = [row[: kept[i]] for i, row in enumerate(steps)]
    return lot, [row if asked[i] else [[FILLER] * len(step) for step in row] for i, row in enumerate(written)]


@settings(max_examples=60, deadline=None)
@given(sequences(), st.booleans())
def test_sequences_are_those_of_plain_lists(drawn, breaks):
    lot, written = composed(drawn, breaks)
    for i, told in enumerate(rows_of(text(lot))):
        prompt, mark, answer, steps = drawn["prompt"][i], drawn["mark"][i], drawn["answer"][i], drawn["steps"][i]
        chain, plain = sum(written[i], []), drawn["asked"][i] or not breaks
        assert told == [*prompt, *chain, mark, *answer]
        begin, end = len(prompt), len(prompt) + len(chain)
        cuts = np.cumsum([begin, *map(len, written[i])]).tolist()
        assert lot.facts["cuts"][i].tolist() == cuts + [-1] * (lot.facts["cuts"].shape[1] - len(cuts))
        for j, place in enumerate(lot.facts["places"][i]):
            there = plain and j < len(written[i])
            assert place == (cuts[j] + len(steps[j][0]) if there else -1)
            assert not there or told[place] == steps[j][1]
        finished = plain and 0 < len(steps) == len(written[i])
        scored = {*range(begin if plain else end, end + finished), *range(end + 1, len(told))}
        targets = [told[at] if at in scored else -1 for at in range(1, len(told))]
        assert lot.targets[i].tolist() == targets + [-1] * (lot.targets.shape[1] - len(targets))


@settings(max_examples=60, deadline=None)
@given(sequences(), st.booleans(), st.data())
def test_texts_are_those_of_plain_lists(drawn, breaks, data):
    lot, written = composed(drawn, breaks)
    n = len(lot)
    kept = np.array(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)))
    donors = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=n, max_size=n)))
    fillers = np.array(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)))
    one = int(kept[0])
    found = {
        "prompt": TOY.prompt(lot),
        "cut": TOY.cut(lot),
        "cut each": TOY.cut(lot, kept),
        "cut one": TOY.cut(lot, one),
        "ask each": TOY.ask(lot, kept),
        "fill": TOY.fill(lot),
        "fill each": TOY.fill(lot, fillers),
        "swap": TOY.swap(lot, donors),
    }
    lists = {name: rows_of(told) for name, told in found.items()}
    for i in range(n):
        prompt, mark = drawn["prompt"][i], [drawn["mark"][i]]
        chain, some = sum(written[i], []), sum(written[i][: kept[i]], [])
        assert lists["prompt"][i] == (prompt if written[i] else prompt + mark)
        assert lists["cut"][i] == prompt + chain
        assert lists["cut each"][i] == prompt + some
        assert lists["cut one"][i] == prompt + sum(written[i][:one], [])
        assert lists["ask each"][i] == prompt + some + mark
        assert lists["fill"][i] == prompt + [FILLER] * len(chain) + mark
        assert lists["fill each"][i] == prompt + [FILLER] * int(fillers[i]) + mark
        assert lists["swap"][i] == prompt + sum(written[donors[i]], []) + mark


@settings(max_examples=60, deadline=None)
@given(sequences(), st.booleans(), st.data())
def test_corrupt_changes_one_value_and_nothing_else(drawn, breaks, data):
    lot, _ = composed(drawn, breaks)
    places, rows = lot.facts["places"], np.arange(len(lot))
    if places.shape[1] == 0:
        return
    step = np.array(data.draw(st.lists(st.integers(0, places.shape[1] - 1), min_size=len(lot), max_size=len(lot))))
    wrong = TOY.corrupt(lot, step, stream("corrupt", data.draw(st.integers(0, 99))))
    at = places[rows, step]
    for i, (was, told) in enumerate(zip(rows_of(text(lot)), rows_of(text(wrong)), strict=True)):
        differs = [place for place in range(len(was)) if was[place] != told[place]]
        assert len(was) == len(told) and differs == ([at[i]] if at[i] >= 0 else [])
        assert all(told[place] in TOY.symbols for place in differs)
    assert np.array_equal(lot.targets >= 0, wrong.targets >= 0) and wrong.facts is lot.facts


def test_corrupt_draws_every_other_value_as_often():
    n = 3000
    one = np.ones((n, 1), np.int64)
    lot = compose(5 * one, 2 * one, one, 0 * one, 7, one, width=3)
    wrong = TOY.corrupt(lot, 0, stream("often")).tokens[:, 1]
    assert np.bincount(wrong, minlength=4) / n == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3], abs=0.03)


@pytest.mark.parametrize("step", [-1, 3, np.array([0, 3])])
def test_steps_that_are_not_there_are_refused(step):
    prompt, one = np.full((2, 1), 5), np.tile(np.arange(3), (2, 1))
    lot = compose(prompt, one, one + 1, one, 7, prompt, 6)
    with pytest.raises(ValueError, match=r"step = .* is out of range: 0 to 2, as the chain has 3 steps"):
        TOY.corrupt(lot, step, stream("none"))
    with pytest.raises(ValueError, match="steps = -1"):
        TOY.cut(lot, -1)
    with pytest.raises(ValueError, match="fillers = -2"):
        TOY.fill(lot, -2)


def test_gaps_go_to_the_right():
    assert packed(np.array([[1, -1], [2, 3]]), np.array([[-1, 4], [-1, -1]])).tolist() == [
        [1, 4, -1, -1],
        [2, 3, -1, -1],
    ]


READ = {
    "5": ([-1, -1], -1, True),  # the prompt alone
    "5 0": ([0, -1], -1, True),
    "5 0 9 7": ([0, -1], -1, True),  # a filler
    "5 0 3 7 2": ([0, 3], 2, True),
    "5 7 2": ([-1, -1], 2, True),
    "5 0 1 2 7 2": ([0, 1], 2, False),  # more steps than there are
    "5 4 1 7 2": ([-1, 1], 2, False),  # no value
    "5 0 1 7 4": ([0, 1], 4, False),
    "5 0 1 7 9": ([0, 1], 9, False),
    "5 0 1 7 7": ([0, 1], 7, False),
    "5 0 1 7 2 2": ([0, 1], 2, False),  # more than an answer
    "5 0 -1 7 2": ([0, -1], 7, False),  # a gap
}


def test_reading_steps_of_one_symbol():
    told = padded([[int(x) for x in line.split()] for line in READ])
    steps, answer, fine = read(told, 1, 2, 7, TOY)
    for i, (line, (known, said, well)) in enumerate(READ.items()):
        assert fine[i] == well, line
        assert not well or (steps[i].tolist(), answer[i]) == (known, said), line


def test_hashes_are_of_the_content():
    told = np.array([[0, 1, 1], [0, 1, 0], [0, 1, -1]])
    same = hashed(np.pad(told, ((0, 0), (0, 4)), constant_values=-1))
    assert np.array_equal(hashed(told), same) and len(set(same)) == 3
    assert hashed(told[::-1])[::-1].tolist() == same.tolist()
    assert hashed(told.astype(np.int8)).tolist() == same.tolist()
    assert hashed(told)[0] == pytest.approx(GOLDEN, abs=1e-12)  # all test splits change with it


def test_hashes_are_uniform_and_tell_neighbours_apart():
    codes = (np.arange(2**16)[:, None] >> np.arange(16)) & 1
    shares = hashed(codes)
    assert len(np.unique(shares)) == 2**16
    counts = np.histogram(shares, 64, (0, 1))[0]
    assert ((counts - 1024) ** 2 / 1024).sum() < 63 + 5 * np.sqrt(2 * 63)
    near = shares < 1 / 8
    for bit in range(16):
        assert near[codes[:, bit] == 1].mean() == pytest.approx(1 / 8, abs=0.01)
        flipped = near.reshape(2 ** (15 - bit), 2, 2**bit)
        assert (flipped[:, 0] & flipped[:, 1]).mean() == pytest.approx(1 / 64, abs=0.005)


def chains(task: Task, split: str, n: int = 48) -> tuple[Batch, Chain]:
    lot = batch(task, 0, 0, split, n)
    return lot[lot.facts["cuts"][:, 0] >= 0], task.chain  # type: ignore[attr-defined]


def begun(told: np.ndarray) -> Iterator[np.ndarray]:
    """Every proper beginning of texts, a symbol longer each time."""
    size = (told >= 0).sum(axis=1, keepdims=True)
    for end in range(told.shape[1]):
        yield np.where(np.arange(told.shape[1]) < np.minimum(end, size - 1), told, -1)


@pytest.mark.parametrize(("task", "split"), CHAINED)
def test_facts_say_where_steps_stand(task, split):
    lot, chain = chains(task, split)
    facts, told, rows = lot.facts, text(lot), np.arange(len(lot))
    cuts, places = facts["cuts"], facts["places"]
    steps = (cuts >= 0).sum(axis=1) - 1
    assert cuts.shape[1] == places.shape[1] + 1 and (np.diff(chain.symbols) > 0).all()
    assert 0 <= chain.filler < task.vocab and chain.filler not in chain.symbols
    for j in range(places.shape[1]):
        there, placed = steps > j, places[:, j] >= 0
        assert (cuts[there, j] < cuts[there, j + 1]).all() and (cuts[~there, j + 1] == -1).all()
        assert not (placed & ~there).any()
        assert (cuts[placed, j] <= places[placed, j]).all() and (places[placed, j] < cuts[placed, j + 1]).all()
        assert np.isin(told[rows[placed], places[placed, j]], chain.symbols).all()
        assert np.isin(facts["values"][placed, j], chain.symbols).all()


@pytest.mark.parametrize(("task", "split"), CHAINED)
def test_finished_texts_parse_and_their_beginnings_do_not(task, split):
    lot, chain = chains(task, split)
    told = text(lot)
    assert (chain.parse(told) == lot.facts["answer"]).all()
    for part in begun(told):
        assert (chain.parse(part) == -1).all()
    assert (chain.parse(np.full((2, 3), -1)) == -1).all()
    again = np.pad(told, ((0, 0), (0, 1)), constant_values=-1)
    np.put_along_axis(again, (told >= 0).sum(axis=1, keepdims=True), lot.tokens[:, :1], axis=1)
    assert (chain.parse(again) == -1).all()  # something stands behind the answer


@pytest.mark.parametrize(("task", "split"), CHAINED)
def test_every_beginning_implies_an_answer(task, split):
    lot, chain = chains(task, split)
    most = lot.facts["places"].shape[1]
    told = [chain.prompt(lot), text(lot), *(f(lot, j) for j in range(most + 1) for f in (chain.cut, chain.ask))]
    assert all((chain.implied(some) >= 0).all() for some in told)
    assert np.array_equal(chain.implied(chain.ask(lot)), chain.implied(text(lot)))  # what is answered does not count
    assert np.array_equal(chain.implied(chain.ask(lot)), chain.implied(chain.cut(lot)))


@pytest.mark.parametrize(("task", "split"), CHAINED)
def test_a_corrupted_chain_is_well_formed_and_wrong_in_one_place(task, split):
    lot, chain = chains(task, split)
    for j in range(lot.facts["places"].shape[1]):
        wrong = chain.corrupt(lot, j, stream("contract", j))
        at = lot.facts["places"][:, j]
        differs = lot.tokens != wrong.tokens
        assert (differs.sum(axis=1) == (at >= 0)).all() and (differs.argmax(axis=1) == np.maximum(at, 0)).all()
        assert (chain.parse(text(wrong)) == lot.facts["answer"]).all()
        assert (chain.implied(chain.ask(wrong)) >= 0).all() and (chain.implied(chain.cut(wrong, j + 1)) >= 0).all()


@pytest.mark.parametrize(("task", "split"), CHAINED)
def test_a_chain_fits_into_its_model(task, split):
    lot, chain = chains(task, split)
    assert chain.ask(lot).max() < task.vocab and (chain.ask(lot) >= 0).sum(axis=1).max() <= task.context
    ahead = (lot.facts["cuts"] >= 0).sum(axis=1) == 1
    last = lot.facts["cuts"].max(axis=1)
    forced = lot.targets[np.arange(len(lot)), last - 1]
    assert (lot.targets[np.arange(len(lot)), last] >= 0).all()  # the answer is asked
    assert (forced[ahead] == -1).all()  # but no mark that is given
