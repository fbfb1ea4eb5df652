"""Edges and faithfulness over checkpoints: planted circuits, a planted birth, and what does not apply."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from planted import TINY, Planted, Recall, grown, induction, random_subject, table, value
from test_circuits import COPY

from probelab.curves import onset
from probelab.measures import faithful
from probelab.measures._pairs import drawn, lots
from probelab.measures.edges import Edges
from probelab.measures.faithful import FOUND_ON, Faithful
from probelab.paths import edges
from probelab.rows import RESERVED, load_rows, pick, save_rows
from probelab.spec import LSTM, Spec
from probelab.subject import Model
from synthetic_tasks import Classification, Markov, Repeats, Task, stream

SHORT = Repeats(tokens=12, length=12)
TASKS = [Markov(length=16), SHORT, Classification(classes=16, labels=8, dim=8)]
MEASURES = [Edges(12), Edges(12, noising=True), Faithful(12, random=4)]
FREE = {"sender", "receiver", "edges", "found_at", "pairs"}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_contract(measure: Any, task: Task, tmp_path: Any):
    subject = random_subject(task, replace(TINY, d_mlp=8))
    before = [p.clone() for m in subject.models for p in m.params.values()]
    rows = table(measure, subject)
    pd.testing.assert_frame_equal(rows, table(measure, subject))
    after = [p for m in subject.models for p in m.params.values()]
    assert all(a.equal(b) and not a.requires_grad for a, b in zip(after, before, strict=True))
    assert {"step", "metric", "value"} <= set(rows) <= FREE | set(RESERVED)
    assert np.isfinite(rows.loc[rows["metric"] != "faithfulness", "value"]).all()
    sure = rows.dropna(subset="lo")
    assert ((sure["lo"] <= sure["value"]) & (sure["value"] <= sure["hi"])).all()
    assert not rows.duplicated([column for column in rows if column not in ("value", "lo", "hi", "n")]).any()
    assert rows.groupby("step").size().nunique() == 1 and list(rows["step"].unique()) == [0, 1]
    save_rows(tmp_path / "rows.parquet", rows)
    assert len(load_rows(tmp_path / "rows.parquet")) == len(rows)


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_what_a_step_gives_depends_on_neither_memory_nor_other_steps(measure: Any):
    whole, pieces = (table(measure, random_subject(SHORT, memory=memory)) for memory in (2**30, 2**19))
    pd.testing.assert_frame_equal(whole, pieces, rtol=1e-4, atol=1e-4)
    alone = random_subject(SHORT)
    alone.steps, alone.models = (1,), alone.models[1:]
    rows = whole[whole["step"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(table(measure, alone), rows)


@pytest.mark.parametrize("noising", [False, True])
def test_edges_of_a_planted_circuit_stand_in_rows(noising: bool):
    model = induction(COPY)
    rows = table(Edges(32, noising=noising), Planted(COPY, grown(COPY, model.spec), model, model=model.spec))
    sign, last = -1 if noising else 1, rows[rows["step"] == 1]
    assert value(last, metric="all_edges", sender=None) == pytest.approx(sign * 160, abs=1e-2)
    each = last[last["metric"] == "edge_effect"].set_index(["sender", "receiver"])["value"]
    planted = {("embed", "1.0 v"), ("1.0", "logits")}
    assert set(each.index) == {edge.names for edge in edges(model.spec)}
    for edge, effect in each.items():
        assert effect == pytest.approx(sign * 160 if edge in planted else 0, abs=1e-2)
    untrained = rows[rows["step"] == 0]
    assert (untrained["value"].abs() < 0.1).all(), "nothing is carried before it is learned"


BRIEF = Repeats(tokens=8, length=14)
STEPS = np.r_[0, np.logspace(0, 4, 25)]
WEIGHTS = 1 / (1 + (100 / np.maximum(STEPS, 1e-9)) ** 4)


def handed_over(weight: float) -> Model:
    """Two copies of the second head of the induction circuit: one does this share of the work, the other the rest."""
    one = induction(BRIEF)
    params = {name: each[0].numpy().copy() for name, each in one.params.items()}
    whole = params["blocks.1.attn.W_QKV"].reshape(one.spec.d_model, 3, 1, -1)
    params["blocks.1.attn.W_QKV"] = whole.repeat(2, axis=2).reshape(one.spec.d_model, -1)
    out = params["blocks.1.attn.W_O"]
    params["blocks.1.attn.W_O"] = np.concatenate([weight * out, (1 - weight) * out]).astype(np.float32)
    return Model(replace(one.spec, heads=(1, 2)), BRIEF, params)


@pytest.fixture(scope="module")
def born() -> pd.DataFrame:
    """Rows of a circuit that takes over at step 100."""
    models = [handed_over(weight) for weight in WEIGHTS]
    subject = Planted(BRIEF, *models, model=models[0].spec)
    subject.run, subject.steps = SimpleNamespace(spec=subject.spec, steps=list(STEPS)), tuple(STEPS)  # type: ignore
    return table(Faithful(16, random=9), subject)


def test_the_birth_of_a_circuit_is_dated(born: pd.DataFrame):
    """The answer is right all along; since step 100 it is this circuit that gives it."""
    share = pick(born, metric="faithfulness", edges="circuit")
    np.testing.assert_allclose(share["value"], WEIGHTS, atol=1e-4)
    assert (share["hi"] - share["lo"] < 1e-3).all() and set(born["found_at"]) == {STEPS[-1]}
    found = onset(share.assign(run="planted"), by=("run", "metric")).iloc[0]
    assert found["status"] == "switched" and found["value"] == pytest.approx(100, rel=0.02)
    np.testing.assert_allclose(pick(born, metric="effect", edges="circuit")["value"], 160 * WEIGHTS, atol=1e-2)
    np.testing.assert_allclose(pick(born, metric="effect", edges="all")["value"], 160, atol=1e-2)


def test_the_complement_does_the_rest_and_random_edges_nothing(born: pd.DataFrame):
    rest = pick(born, metric="faithfulness", edges="complement")
    assert rest["value"].iloc[-1] == pytest.approx(0, abs=1e-3), "the circuit is complete"
    chance = pick(born, metric="faithfulness", edges="random")
    assert (chance["value"] < 0.05).all() and (chance["n"] == 9).all()


def test_others_that_stand_in_for_the_circuit_make_it_incomplete(born: pd.DataFrame):
    """What its other half writes is there whatever is taken from the circuit: so much does the circuit not explain."""
    apart = pick(born, metric="incompleteness")
    np.testing.assert_allclose(apart["value"], 160 * (1 - WEIGHTS), atol=0.1)
    assert (apart["n"] == 10).all()


def test_the_circuit_stands_in_rows_and_every_edge_of_it_is_needed(born: pd.DataFrame):
    drops = pick(born, metric="edge_drop", step=STEPS[-1])
    assert set(zip(drops["sender"], drops["receiver"], strict=True)) == {("embed", "1.0 v"), ("1.0", "logits")}
    assert drops["value"].to_numpy() == pytest.approx(160, abs=0.1)
    assert (pick(born, metric="circuit_size")["value"] == 2).all()


def test_the_circuit_may_be_found_elsewhere():
    models = [handed_over(weight) for weight in (0.0, 0.5, 1.0)]
    subject = Planted(BRIEF, *models, model=models[0].spec)
    rows = table(Faithful(16, random=2, at=0), subject)
    named = pick(rows, metric="edge_drop", step=0)
    assert set(zip(named["sender"], named["receiver"], strict=True)) == {("embed", "1.1 v"), ("1.1", "logits")}
    share = pick(rows, metric="faithfulness", edges="circuit")["value"]
    assert list(share) == pytest.approx([1, 0.5, 0], abs=1e-3)
    with pytest.raises(ValueError, match="at = 7 is out of range: a kept step, such as 2"):
        table(Faithful(16, at=7), subject)


def test_where_clean_and_corrupt_are_not_told_apart_there_is_no_ratio():
    """Untrained models answer neither; on a few pairs some of them seem to, by luck."""
    spec = replace(TINY, positions="learned")
    subject = Planted(SHORT, *(grown(SHORT, spec, seed, 3.0) for seed in range(12)), model=spec)
    rows = table(Faithful(16, random=2), subject)
    whole = pick(rows, metric="effect", edges="all")
    without = ((whole["lo"] <= 0) & (whole["hi"] >= 0)).to_numpy()
    for some in ("circuit", "complement", "random"):
        assert (pick(rows, metric="faithfulness", edges=some)["value"].isna().to_numpy() == without).all()
    assert without.sum() >= 6 and not without.all()


def test_the_circuit_is_found_on_other_pairs_than_it_is_scored_on(monkeypatch: pytest.MonkeyPatch):
    subject = random_subject(SHORT)
    scored, found, again = (
        drawn("faithful", subject, 40, None, purpose) for purpose in ("measure", FOUND_ON, FOUND_ON)
    )
    assert (found.clean.tokens == again.clean.tokens).all() and (scored.clean.tokens != found.clean.tokens).any()
    seen, real = [], faithful.Wiring
    monkeypatch.setattr(
        faithful, "Wiring", lambda models, clean, *rest: seen.append(clean) or real(models, clean, *rest)
    )
    table(Faithful(40, random=2), subject)
    assert (seen[0].tokens == found.clean.tokens).all()
    assert all((batch.tokens == scored.clean.tokens).all() for batch in seen[1:]) and len(seen) == 3


def test_lots_hold_every_pair_once():
    pairs = SHORT.pairs(stream("pairs"), 7)
    for size in (1, 2, 3, 7, 20):
        parts = list(lots(pairs, size))
        assert len(parts) == -(-7 // size)
        for name in ("position", "answer", "foil"):
            assert (np.concatenate([getattr(part, name) for part in parts]) == getattr(pairs, name)).all()
        assert (np.concatenate([part.corrupt.tokens for part in parts]) == pairs.corrupt.tokens).all()


def test_bad_dials_and_what_does_not_apply():
    for measure in (Edges(8), Faithful(8)):
        with pytest.raises(ValueError, match=f"{measure.name} needs pairs, and 'recall' has none"):
            table(measure, Planted(Recall(), grown(Recall())))
        with pytest.raises(ValueError, match="no kind of pairs of repeats 'bigram'"):
            table(replace(measure, kind="bigram"), random_subject(SHORT))
        lstm = Planted(SHORT)
        lstm.run.spec = Spec(SHORT, LSTM())
        with pytest.raises(ValueError, match=f"{measure.name} looks at attention heads, and LSTM has none"):
            table(measure, lstm)
    for measure, dial, bad in (
        (Edges(), "n", 0),
        (Faithful(), "n", 1),
        (Faithful(), "bar", 1.0),
        (Faithful(), "random", 0),
    ):
        with pytest.raises(ValueError, match=f"{dial} = {bad} is out of range"):
            replace(measure, **{dial: bad})  # pyright: ignore
