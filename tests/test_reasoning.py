"""Estimators on planted models: one that knows the network, one that knows only marginals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted import Planted, grown, table, value

from probelab.measures import Reasoning
from probelab.measures._walk import Walk
from probelab.measures.reasoning import moments, summed, written
from probelab.spec import LSTM
from probelab.subject import Model, as_batch
from synthetic_tasks import BayesNet, Markov

TASK = BayesNet(variables=8, nets=10, held=3, world=1)
LINE = BayesNet(variables=6, graph="chain", flip=0.1, nets=1, held=2, far=3, world=2)


class Knows(Model):
    """Says what an oracle of the task says of the next symbol, whatever is asked."""

    def __init__(self, task: BayesNet, oracle: str):
        super().__init__(LSTM(), task, {})  # of a kind that is read anew for each symbol
        self.oracle = oracle

    def __call__(self, x: Any, edits: Any = ()) -> torch.Tensor:
        batch = as_batch(x)
        asked = type(batch)(batch.tokens, np.zeros_like(batch.tokens), None, batch.facts)
        return torch.from_numpy(np.nan_to_num(self.task.oracles(asked)[self.oracle], neginf=-30.0))


def rows(task: BayesNet, oracle: str, **dials: Any) -> pd.DataFrame:
    return table(Reasoning(**dials), Planted(task, Knows(task, oracle)))


def error(found: pd.DataFrame, estimator: str, metric: str = "error", split: str = "held", drawn: Any = None) -> float:
    return value(found, estimator=estimator, metric=metric, split=split, distance=None, drawn=drawn)


def test_who_knows_the_network_is_right_by_every_way() -> None:
    found = rows(TASK, "truth", chains=40)
    line = TASK.fixed.error_of_marginal(TASK.fixed.held).mean()
    assert error(found, "marginal") == pytest.approx(line) and line > 0.02
    for estimator in ("direct", "scaffolded", "forgetful", "negative"):
        assert error(found, estimator) < 1e-8
        assert error(found, estimator, "error_to_marginal") == pytest.approx(line, abs=1e-3)
    assert error(found, "free") < line / 5 and error(found, "free", drawn=1) > error(found, "free", drawn=10)
    assert error(found, "scaffolded", "effect") == pytest.approx(1, abs=1e-4), "it goes by the step as the network does"
    assert error(found, "free", "ended") == pytest.approx(1 - (7 / 8) ** 7, abs=0.05), "it names any of 8, seven times"
    chance, rate = error(found, "free", "separating_chance"), error(found, "free", "separating")
    assert rate == pytest.approx(chance, abs=0.12), "it names variables at random"


def test_who_knows_marginals_alone_gains_nothing_by_steps() -> None:
    found = rows(TASK, "marginal", estimators=("direct", "scaffolded", "forgetful", "negative"))
    for estimator in ("direct", "scaffolded", "forgetful", "negative"):
        assert error(found, estimator) == pytest.approx(error(found, "marginal"), abs=1e-5)
        assert error(found, estimator, "error_to_marginal") < 1e-8
    assert error(found, "scaffolded", "effect") == pytest.approx(0, abs=1e-5)
    assert not len(found[found["estimator"] == "free"])


class KnowsNeighbours(Knows):
    """Says p(value | what was shown just before), if that is a neighbour; else the marginal."""

    def __call__(self, x: Any, edits: Any = ()) -> torch.Tensor:
        tokens, net = as_batch(x).tokens, self.task.fixed.net
        logits = super().__call__(x).clone()
        for row, at in np.argwhere((tokens >= 2) & (tokens < self.task.target)):
            if at >= 4:
                here, value, there = tokens[row, at - 2] - 2, tokens[row, at - 1], tokens[row, at] - 2
                p = net.given[here, value, there] if net.steps[here, there] == 1 else net.marginals[there]
                logits[row, at, :2] = torch.from_numpy(np.log([1 - p, p]))
        return logits


def test_who_knows_neighbours_alone_gets_there_by_forgetting() -> None:
    """Prystawski et al. 2023, theorem: at once the marginal; step by step the truth. But each step has to forget."""
    found = table(
        Reasoning(estimators=("direct", "scaffolded", "forgetful")), Planted(LINE, KnowsNeighbours(LINE, "marginal"))
    )
    line = error(found, "marginal")
    assert error(found, "direct") == pytest.approx(line, rel=1e-4) and line > 0.01
    assert error(found, "scaffolded") == pytest.approx(line, rel=1e-4), "from its only step the target is far"
    assert error(found, "forgetful") < 1e-8


def test_a_walk_goes_through_sets_of_several_variables() -> None:
    task = next(
        task
        for task in (BayesNet(variables=8, edges=12, nets=1, world=world) for world in range(10))
        if any(len(step) == 2 for pair in task.fixed.held for step in task.fixed.net.stages(*pair))
    )
    batch = task.queries("held")
    assert Walk(task, batch)(Knows(task, "truth")) == pytest.approx(batch.facts["conditional"], abs=1e-5)


def test_the_sum_over_a_scaffold_is_that_of_probability() -> None:
    """Against a table of all joint states: sum over s of p(s | c) p(t | s, c)."""
    states = np.array([*np.ndindex(*[2] * 6)])
    net, batch = LINE.fixed.net, LINE.queries("held")
    joint = np.prod([np.where(states[:, v] == 1, *_table(net, states, v)) for v in range(6)], axis=0)
    guess, change = summed(Knows(LINE, "truth"), batch, batch.facts["scaffold"])
    for i in range(len(batch)):
        c, e, t = (int(batch.facts[name][i]) for name in ("observed", "evidence", "target"))
        seen = states[:, c] == e
        assert guess.p[i] == pytest.approx(joint[seen & (states[:, t] == 1)].sum() / joint[seen].sum(), abs=1e-5)
        s = int(batch.facts["scaffold"][i, 0])
        by_step = [
            joint[(w := seen & (states[:, s] == v)) & (states[:, t] == 1)].sum() / joint[w].sum() for v in (0, 1)
        ]
        assert change[i] == pytest.approx(by_step[1] - by_step[0], abs=1e-5)
        weight = [joint[seen & (states[:, s] == v)].sum() / joint[seen].sum() for v in (0, 1)]
        spread = sum(w * (p - guess.p[i]) ** 2 for w, p in zip(weight, by_step, strict=True))
        assert guess.variance[i] == pytest.approx(spread, abs=1e-5)


def _table(net: Any, states: np.ndarray, v: int) -> tuple[np.ndarray, np.ndarray]:
    """p(v = 1 | its causes) and the rest, for each state."""
    one = (
        net.tables[v][tuple(states[:, list(net.parents[v])].T)]
        if net.parents[v]
        else np.full(len(states), net.tables[v])
    )
    return one, 1 - one


def test_samples_cost_their_variance() -> None:
    found = rows(LINE, "truth", estimators=("scaffolded",), drawn=(1, 10))
    bias, once, ten = (error(found, "scaffolded", drawn=size) for size in (None, 1, 10))
    assert once > 0.01 and ten - bias == pytest.approx((once - bias) / 10)
    values = np.array([[0.2, 0.4, np.nan, 0.6], [np.nan] * 4, [0.3, np.nan, np.nan, np.nan]])
    mean, variance = moments(values)
    assert mean[[0, 2]].tolist() == pytest.approx([0.4, 0.3]) and np.isnan(mean[1]) and np.isnan(variance[1])
    assert variance[0] == pytest.approx(0.04) and variance[2] == 0


def test_negative_scaffolds_are_elsewhere() -> None:
    batch = TASK.queries("held")
    other = Reasoning()._negative(TASK, batch)
    scaffold, ends = batch.facts["scaffold"], np.stack([batch.facts["target"], batch.facts["observed"]], 1)
    assert ((other >= 0) == (scaffold >= 0)).all() and (other >= 0).any()
    for mine, theirs, two in zip(other, scaffold, ends, strict=True):
        named = mine[mine >= 0].tolist()
        assert len(set(named)) == len(named) and not {*named} & {*theirs.tolist(), *two.tolist()}


def test_texts_are_read_by_the_names_in_them() -> None:
    batch = TASK.sample(np.random.default_rng(0), 50, "held_scaffold")
    named = written(TASK, TASK.chain.cut(batch))
    expected = np.zeros((50, 8), bool)
    for row, (s, o, t) in enumerate(
        zip(batch.facts["scaffold"], batch.facts["observed"], batch.facts["target"], strict=True)
    ):
        expected[row, [*s[s >= 0], o, t]] = True
    assert (named == expected).all()


def test_what_it_cannot_ask_is_refused() -> None:
    with pytest.raises(ValueError, match="markov"):
        table(Reasoning(), Planted(Markov(length=20), grown(Markov(length=20))))
    with pytest.raises(ValueError, match="did you mean 'direct'"):
        Reasoning(estimators=("dirct",))
    with pytest.raises(ValueError, match="chains = 1"):
        Reasoning(chains=1)
