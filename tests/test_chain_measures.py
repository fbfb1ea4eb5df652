"""Measures of chains on planted models: one for whom the steps are a show, one who goes by them, one who needs all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted import TINY, Planted, grown, table, value

from probelab.decode import flops
from probelab.edit import Edit
from probelab.measures import Answers, BackPatch, Early, Follow
from probelab.measures.early import agreement, over
from probelab.spec import LSTM, Transformer
from probelab.subject import Model, as_batch
from synthetic_tasks import Markov, Parity, TwoHop

TASK = Parity(bits=10, secret=4, samples=None)
MARK = 2


class Writer(Model):
    """Writes the chain of TASK symbol by symbol; how it goes on from a text is its `habit`.

    show   steps and answer from the bits, whatever is written
    steps  each from the step before it (the answer: from the last one) and the secret bits
    needs  the same steps; but as answer it repeats the last symbol before the mark, whatever that is
    silent never writes a step: the mark at once, then the answer from the bits
    """

    def __init__(self, habit: str, task: Parity = TASK):
        super().__init__(LSTM(), task, {})  # of a kind that is read anew for each symbol
        self.habit = habit

    def __call__(self, x: Any, edits: Any = ()) -> torch.Tensor:
        told = as_batch(x).tokens
        said = np.stack([self.next(told[:, : at + 1]) for at in range(told.shape[1])], axis=1)
        return torch.nn.functional.one_hot(torch.from_numpy(said), self.task.outputs).float()

    def next(self, told: np.ndarray) -> np.ndarray:
        """The symbol after texts of one length, int `[batch]`."""
        n, (bits, count) = len(told), (self.task.bits, self.task.steps)
        written = told.shape[1] - bits
        if written < 0:
            return np.zeros(n, int)
        right = np.cumsum(told[:, self.task.fixed["secret"]], axis=1) % 2
        marked = told[:, -1] == MARK
        if self.habit == "show" or written == 0 or self.habit == "silent":
            step, answer = right[:, min(written, count - 1)], right[:, -1]
        else:
            last = np.where(marked, told[:, -2], told[:, -1])  # before the mark; a bit of the prompt where none is
            step = last ^ told[:, self.task.fixed["secret"][min(written, count - 1)]]
            done = written - 1  # steps before the mark, which stands last
            rest = told[:, self.task.fixed["secret"][done:]].sum(axis=1)
            answer = last if self.habit == "needs" else (last * (done > 0) + rest) % 2
        step = np.full(n, MARK) if self.habit == "silent" or written >= count else step
        return np.where(marked, answer, step)


@pytest.fixture(scope="module")
def rows() -> dict[str, pd.DataFrame]:
    """All three measures of each habit."""
    return {
        habit: pd.concat([table(kind(n=300), Planted(TASK, Writer(habit))) for kind in (Answers, Early, Follow)])
        for habit in ("show", "steps", "needs", "silent")
    }


def test_a_chain_for_show_is_never_followed_and_one_that_is_used_always(rows: dict[str, pd.DataFrame]) -> None:
    for habit, follows in (("show", 0.0), ("steps", 1.0), ("needs", 1.0)):
        for mode in ("regenerated", "pinned", "swapped"):
            here = rows[habit][rows[habit].get("mode") == mode]
            assert set(here.loc[here["metric"].isin(["follow", "change"]), "value"]) == {follows}, (habit, mode)
            assert set(here.loc[here["metric"] == "repair", "value"]) == {1 - follows}
    links = rows["steps"].groupby("mode")["link"].unique().map(lambda found: sorted(set(pd.Series(found).dropna())))
    assert links["regenerated"] == [0, 1, 2, 3] and links["swapped"] == []
    assert links["pinned"] == [3], "steps before the last one do not count where the last one is pinned"
    assert value(rows["steps"][rows["steps"]["mode"] == "swapped"], metric="follow") == 1
    swapped = rows["steps"].query("mode == 'swapped' and metric == 'follow'")["n"].iloc[0]
    assert 110 < swapped < 190, "half of the donors have another answer"


def test_early_answers_say_who_needs_the_chain(rows: dict[str, pd.DataFrame]) -> None:
    def early(habit: str, **where: Any) -> float:
        here = rows[habit]
        return value(here[(here["metric"] == where.pop("metric")) & (here["way"] == "steps")], **where)

    for habit in ("show", "steps"):
        assert [early(habit, metric="same", kept=kept) for kept in range(5)] == [1.0] * 5
        assert early(habit, metric="aoc") == 0 == early(habit, metric="aoc_over_chance")
    same = [early("needs", metric="same", kept=kept) for kept in range(5)]
    assert same[4] == 1 and all(0.4 < s < 0.6 for s in same[:4])
    by_hand = 1 - sum((a + b) / 2 for a, b in zip(same, same[1:], strict=False)) / 4
    assert early("needs", metric="aoc") == pytest.approx(by_hand)
    assert early("needs", metric="aoc_over_chance") == pytest.approx(1, abs=0.1)
    assert [early("needs", metric="chance", kept=kept) for kept in range(5)] == [pytest.approx(0.5, abs=0.01)] * 5


def test_fillers_say_nothing() -> None:
    found = table(Early(n=100), Planted(TASK, Writer("show")))
    assert set(found.query("way == 'filler' and metric == 'accuracy'")["value"]) == {1.0}


def test_answers_at_once_forced_and_free(rows: dict[str, pd.DataFrame]) -> None:
    def said(habit: str, way: str, metric: str) -> float:
        here = rows[habit]
        return value(here[(here["way"] == way) & (here["metric"] == metric) & here["kept"].isna()])

    for habit in ("show", "steps"):
        assert said(habit, "free", "chain") == said(habit, "free", "accuracy") == said(habit, "forced", "all") == 1
        assert (said(habit, "free", "tokens"), said(habit, "direct", "tokens")) == (6, 1)
    assert said("silent", "free", "accuracy") == 1 and said("silent", "free", "steps") == 0
    assert said("silent", "forced", "all") == 0 and said("silent", "forced", "accuracy") == 1
    assert said("needs", "direct", "accuracy") == pytest.approx(0.5, abs=0.1) and said("needs", "free", "accuracy") == 1
    assert said("show", "free", "flops") == flops(TINY, TASK, 15) > said("show", "direct", "flops")
    assert said("show", "direct", "flops") == flops(TINY, TASK, 11)


def test_a_chain_that_is_written_wrong_is_not_the_right_chain() -> None:
    """Turned answers: the model infers from other secret bits, so its steps are mostly not the right ones."""
    other = Writer("show", Parity(bits=10, secret=4, samples=None, world=1))
    found = table(Answers(n=400), Planted(TASK, other))
    assert value(found, way="free", metric="steps") == 1 and 0.02 < value(found, way="free", metric="chain") < 0.5


def test_areas_and_agreement_by_hand() -> None:
    same = np.array([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]], float)
    assert over(same, np.array([3, 3, 1])).tolist() == pytest.approx([0.5, 0, 0.5])
    assert agreement(np.array([0, 0, 1, -1]), np.array([0, 1, 1, 1])) == pytest.approx(2 / 4 / 4 + 3 / 4 / 4)


@pytest.mark.parametrize("kind", [Answers, Early, Follow])
def test_what_has_no_steps_is_refused(kind: Any) -> None:
    chain = Markov(length=20)
    with pytest.raises(ValueError, match="chains, and 'markov' has none"):
        table(kind(), Planted(chain, grown(chain)))
    with pytest.raises(ValueError, match="n = 0|n = 1"):
        kind(n=1 if kind is Follow else 0)
    at_once = Parity(bits=8, secret=2, format="direct", samples=None)
    if kind is Answers:
        assert set(table(kind(n=50), Planted(at_once, grown(at_once)))["way"]) == {"direct"}
    else:
        with pytest.raises(ValueError, match="writes none on test"):
            table(kind(n=50), Planted(at_once, grown(at_once)))


def test_back_patching_is_what_it_says_cell_by_cell() -> None:
    task = TwoHop(entities=12, relations=4, phi=2.0, format="direct")
    spec = Transformer(layers=3, heads=2, d_model=16, d_mlp=32, init="lecun")
    model = grown(task, spec, 1, 2.0)  # of a seed that is right now and then
    subject = Planted(task, model, model=spec)
    found = table(BackPatch(n=60, split="ood"), subject)
    batch = subject.batch(60, "ood")
    asked, truth = batch.tokens[:, :4], batch.facts["answer"]
    before = model(asked)[:, -1].argmax(-1).numpy()
    assert value(found, metric="right") == pytest.approx((before == truth).mean())
    rescued = np.zeros((4, 60), bool)
    for pos, (layer, sender) in (
        (p, pair) for p in range(4) for pair in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    ):
        site = "blocks.2.hook_resid_post" if sender == 3 else f"blocks.{sender}.hook_resid_pre"
        moved = model.cache(asked, [site])[site][:, pos]

        def put(x: torch.Tensor, context: Any, moved: torch.Tensor = moved, pos: int = pos) -> torch.Tensor:
            return torch.cat([x[:, :pos], moved[:, None], x[:, pos + 1 :]], 1)

        now = model(asked, [Edit(f"blocks.{layer}.hook_resid_pre", put)])[:, -1].argmax(-1).numpy() == truth
        rescued[pos] |= now
        cell = found[(found["layer"] == layer) & (found["sender_layer"] == sender) & (found["pos"] == pos)]
        assert value(cell, metric="rescued") == pytest.approx(now[before != truth].mean())
    for pos in range(4):
        whole = found[found["layer"].isna() & (found["pos"] == pos)]
        assert value(whole, metric="rescued") == pytest.approx(rescued[pos][before != truth].mean())
    assert rescued.any() and not rescued.all()
    with pytest.raises(ValueError, match="several on train"):
        table(BackPatch(n=60, split="train"), subject)
