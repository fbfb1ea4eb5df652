"""Lens, attribution and composition over checkpoints: planted circuits, chance, and what does not apply."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted import TINY, Planted, Recall, grown, induction, random_subject, table, value

from probelab.api import train
from probelab.bridge import to_transformer_lens
from probelab.clamps import HandBuiltLayer
from probelab.lenses import kl, logit_lens, tuned_lens
from probelab.measures import Loss
from probelab.measures._pairs import drawn
from probelab.measures.attribution import Attribution
from probelab.measures.composition import Composition
from probelab.measures.lens import Lens
from probelab.model import shapes
from probelab.rows import RESERVED, load_rows, save_rows
from probelab.spec import LSTM, Spec, Transformer
from probelab.subject import Model, Subject
from synthetic_tasks import Classification, Markov, Repeats, Task, TwoHop

CHAIN, COPY = Markov(length=20), Repeats(tokens=12, length=30)
TASKS = [CHAIN, COPY, Classification(classes=16, labels=8, dim=8)]
MEASURES = [Lens(24), Lens(24, tuned=True), Lens(24, tuned=True, target="token", positions=(1, -2), pooled=False)]
MEASURES += [Attribution(24), Attribution(24, by_position=True), Composition()]
FREE = {"layer", "head", "pos", "component", "sender_layer", "sender_head", "pairs", "target"}
HOPS = TwoHop(entities=6, relations=3, phi=2.0, ood=0.0, format="direct")


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_contract(measure: Any, task: Task, tmp_path: Any):
    subject = random_subject(task)
    before = [p.clone() for m in subject.models for p in m.params.values()]
    rows = table(measure, subject)
    pd.testing.assert_frame_equal(rows, table(measure, subject))
    after = [p for m in subject.models for p in m.params.values()]
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(after, before, strict=True))
    assert {"step", "metric", "value"} <= set(rows) <= FREE | set(RESERVED)
    assert np.isfinite(rows["value"]).all()
    sure = rows.dropna(subset="lo") if "lo" in rows else rows.iloc[:0].assign(lo=0.0, hi=0.0)
    assert ((sure["lo"] <= sure["value"]) & (sure["value"] <= sure["hi"])).all()
    assert not rows.duplicated([column for column in rows if column not in ("value", "lo", "hi", "n")]).any()
    assert rows.groupby("step").size().nunique() == 1 and list(rows["step"].unique()) == [0, 1]
    save_rows(tmp_path / "rows.parquet", rows)
    assert len(load_rows(tmp_path / "rows.parquet")) == len(rows)


@pytest.mark.parametrize("measure", MEASURES[:5], ids=repr)
def test_what_a_step_gives_depends_on_neither_memory_nor_other_steps(measure: Any):
    whole, pieces = (table(measure, random_subject(COPY, memory=memory)) for memory in (2**30, 2**20))
    pd.testing.assert_frame_equal(whole, pieces, rtol=0, atol=2e-4)
    alone = random_subject(COPY)
    alone.steps, alone.models = (1,), alone.models[1:]
    rows = whole[whole["step"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(table(measure, alone), rows)


def test_the_answer_is_attributed_to_the_induction_head_and_to_what_it_looks_at():
    rows = table(Attribution(64, by_position=True), Planted(COPY, induction(COPY), model=induction(COPY).spec))
    total = value(rows, metric="logit_difference")
    head = dict(layer=1, head=0, pos=None)
    assert total == pytest.approx(80, abs=1e-3)
    assert value(rows, metric="attribution", component="head", **head) == pytest.approx(total, abs=1e-3)
    assert value(rows, metric="attribution_from_source", **head) == pytest.approx(total, abs=1e-3)
    assert value(rows, metric="attribution_from_match", **head) == pytest.approx(0, abs=1e-3)
    others = rows[(rows["metric"] == "attribution") & rows["pos"].isna() & (rows["layer"] != 1)]
    assert list(others["component"]) == ["embed", "pos_embed", "head"] and (others["value"].abs() < 1e-3).all()


def test_attributions_add_up_and_are_the_models_own():
    model = grown(COPY, replace(TINY, positions="learned", d_mlp=16), scale=4.0, dtype=torch.float64)
    measure = Attribution(40, by_position=True)
    rows, subject = table(measure, Planted(COPY, model, model=model.spec)), Planted(COPY)
    by_part = rows[(rows["metric"] == "attribution") & rows["pos"].isna()]
    total = value(rows, metric="logit_difference")
    assert by_part["value"].sum() == pytest.approx(total, abs=1e-9)
    for (layer, head), some in rows[rows["pos"].notna()].groupby(["layer", "head"]):
        one = value(by_part, component="head", layer=layer, head=head)
        assert some["value"].sum() == pytest.approx(one, abs=1e-9)
    pairs, at = drawn("attribution", subject, 40, None), np.arange(40)
    logits = model(pairs.clean).numpy()[at, pairs.position]
    assert total == pytest.approx((logits[at, pairs.answer] - logits[at, pairs.foil]).mean(), abs=1e-9)


def test_random_models_attribute_nothing():
    """Over models and pairs, what a component adds to answer minus foil is 0 on average."""
    subject = Planted(COPY, *(grown(COPY, seed=seed, scale=3.0) for seed in range(30)))
    rows = table(Attribution(64), subject)
    rows = rows[rows["component"].isin(["embed", "head"])]
    scores = rows.groupby(["component", "layer", "head"], dropna=False)["value"].agg(["mean", "sem"])
    assert len(scores) == 5 and (scores["mean"].abs() < 4 * scores["sem"]).all()


def test_kinds_of_pairs():
    subject = random_subject(CHAIN)
    default, bigram, unigram = (table(Attribution(24, kind), subject) for kind in (None, "bigram", "unigram"))
    assert default.equals(bigram) and not default.equals(unigram)
    with pytest.raises(ValueError, match="no kind of pairs of markov 'bigam'; did you mean 'bigram'"):
        table(Attribution(24, "bigam"), subject)


@pytest.mark.parametrize("task", [COPY, Recall(), HOPS], ids=lambda task: task.name)
def test_lens_loss_in_the_last_layer_is_the_models_and_before_it_is_by_hand(task: Task):
    model = grown(task, scale=4.0)
    subject = Planted(task, model)
    rows, loss = table(Lens(48), subject), table(Loss(48), subject)
    assert value(rows, metric="lens_loss", layer=2) == pytest.approx(value(loss, metric="loss"), abs=1e-6)
    assert value(rows, metric="lens_kl", layer=2) == 0
    batch = subject.batch(48)
    said, there = logit_lens(model, batch).double().numpy(), batch.targets >= 0
    for layer in (0, 1):
        one, model_says = said[layer][there], said[2][there]
        expected = {
            "lens_loss": -one[np.arange(len(one)), batch.targets[there]].mean(),
            "lens_kl": (np.exp(model_says) * (model_says - one)).sum(1).mean(),
            "lens_accuracy": (one.argmax(1) == batch.targets[there]).mean(),
        }
        for metric, number in expected.items():
            assert value(rows, metric=metric, layer=layer) == pytest.approx(number, abs=1e-5)


def test_the_tuned_lens_is_scored_on_sequences_that_it_was_not_fitted_to():
    model = grown(COPY, scale=4.0)
    subject = Planted(COPY, model)
    rows, batch = table(Lens(2, tuned=True), subject), subject.batch(2)
    known = logit_lens(model, batch, tuned_lens(model, batch))
    assert value(rows, metric="tuned_kl", layer=0) > 2 * float(kl(known[-1], known[0]).mean())


def test_the_induction_circuit_answers_in_its_last_layer_only():
    task = Repeats(tokens=12, length=30, copies=4)
    rows = table(Lens(64, tuned=True), Planted(task, induction(task, write=4.0), model=induction(task).spec))
    accuracy = [value(rows, metric="lens_accuracy", layer=layer) for layer in (0, 1, 2)]
    assert max(accuracy[:2]) < 0.15 and accuracy[2] > 0.25  # chance 1/12; most tokens are no copies
    for layer in (0, 1):  # a tuned lens is nearer, but cannot know what was not read yet
        near, far = (value(rows, metric=f"{name}_kl", layer=layer) for name in ("tuned", "lens"))
        assert 0.5 < near < 0.95 * far
    assert value(rows, metric="tuned_kl", layer=2) == 0


def first_hop(task: TwoHop) -> Model:
    """A circuit set by hand that writes what the first entity and the relation here lead to, where answers are read.

    The stream holds the token, the first token (which the one head fetches from position 0), the position, and what is
    said. Each hidden unit of the first block's MLP is one fact of the graph. The second block writes nothing.
    """
    v, t, facts = task.vocab, task.context, np.argwhere(task.fixed["tails"] >= 0)
    size, place, said = max(v, t), 2 * v, 2 * v + t  # of a head; where positions begin, and what is said
    spec = Transformer(
        layers=2, heads=1, d_model=3 * v + t, d_head=size, d_mlp=len(facts), activation="relu", norm="none",
        positions="learned", scaled=False,
    )  # fmt: skip
    params = {name: np.zeros(shape, np.float32) for name, (shape, _, _) in shapes(spec, task).items()}
    params["embed.W_E"][:, :v] = np.eye(v)
    params["pos_embed.W_pos"][:, place:said] = np.eye(t)
    fetch = params["blocks.0.attn.W_QKV"]
    fetch[place:said, 0] = 40  # every query looks for the first position
    fetch[place, size] = 1
    fetch[:v, 2 * size : 2 * size + v] = np.eye(v)
    params["blocks.0.attn.W_O"][:v, v:place] = np.eye(v)
    unit = np.arange(len(facts))
    params["blocks.0.mlp.W_in"][v + facts[:, 0], unit] = 1
    params["blocks.0.mlp.W_in"][task.entities + facts[:, 1], unit] = 1
    params["blocks.0.mlp.b_in"][:] = -1
    params["blocks.0.mlp.W_out"][unit, said + task.fixed["tails"][tuple(facts.T)]] = 20
    params["unembed.W_U"][said:] = np.eye(v)
    return Model(spec, task, params)


def test_the_lens_finds_a_bridge_that_is_never_written_where_it_was_looked_up_and_nowhere_else():
    planted = Planted(HOPS, first_hop(HOPS), model=first_hop(HOPS).spec)
    rows = table(Lens(256, target="bridge", pooled=False), planted)
    assert set(rows["target"]) == {"bridge"} and set(rows["pos"]) == {0, 1, 2, 3}
    for layer in (1, 2):  # behind the block that looks it up, and behind one that adds nothing
        assert value(rows, metric="lens_accuracy", layer=layer, pos=1) == 1
        assert value(rows, metric="lens_loss", layer=layer, pos=1) == pytest.approx(0, abs=1e-6)
    chance = np.log(HOPS.outputs)
    for layer, pos in ((0, 1), (0, 2), (1, 0), (2, 0), (1, 3), (2, 3)):  # nothing is said
        assert value(rows, metric="lens_loss", layer=layer, pos=pos) == pytest.approx(chance, abs=1e-4)
        assert value(rows, metric="lens_accuracy", layer=layer, pos=pos) < 0.5
    facts = planted.batch(256).facts
    head, relations, bridge = (facts[name][facts["inferred"]] for name in ("head", "relations", "bridge"))
    said = HOPS.fixed["tails"][head, relations[:, 1] - HOPS.entities]  # at the second relation
    assert value(rows, metric="lens_accuracy", layer=1, pos=2) == pytest.approx((said == bridge).mean())
    found = table(Lens(256, target="head", positions=(1, 3)), planted)
    assert found.loc[found["metric"] == "lens_accuracy", "value"].max() < 0.5


def test_a_fact_read_from_a_run_is_what_its_cached_stream_says_by_hand(tmp_path: Any):
    spec = Transformer(layers=2, heads=2, d_model=16, d_mlp=16)
    run = train(HOPS, spec, steps=60, keep=[60], out=tmp_path, progress=False)
    measure = Lens(48, target="bridge", positions=(1, -1), pooled=False)
    rows, batch = table(measure, Subject(run, [60])), Subject(run, [60]).batch(48)
    sites = ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_post"]
    cache, weights = run.cache(60, batch, sites), run.weights(60)
    composed = batch.facts["inferred"]
    assert 0 < composed.sum() < 48 and set(rows["pos"]) == {1, 3}
    for layer, site in enumerate(sites):
        for pos in (1, 3):
            x = cache[site][:, pos].double().numpy()[composed]
            x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
            logits = (x * weights["ln_final.w"] + weights["ln_final.b"]) @ weights["unembed.W_U"]
            bridge = batch.facts["bridge"][composed]
            loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(bridge)), bridge]
            here = dict(layer=layer, pos=pos)
            assert value(rows, metric="lens_loss", **here) == pytest.approx(loss.mean(), abs=1e-5)
            assert value(rows, metric="lens_accuracy", **here) == (logits.argmax(1) == bridge).mean()


def test_all_positions_together_are_the_mean_over_what_is_asked_at_each():
    subject = Planted(HOPS, grown(HOPS, scale=4.0))
    asked = (subject.batch(48).targets >= 0).sum(0)
    assert 0 < asked[2] < asked[3], "atomic facts are asked at once, and are fewer"
    together, each = (table(Lens(48, pooled=pooled), subject) for pooled in (True, False))
    for layer, metric in product(range(3), ("lens_loss", "lens_kl", "lens_accuracy")):
        here = dict(layer=layer, metric=metric)
        parts = [asked[pos] * value(each, pos=pos, **here) for pos in (2, 3)]
        assert value(together, pos=None, **here) == pytest.approx(sum(parts) / asked.sum(), abs=1e-9)


def test_a_fact_is_read_as_transformer_lens_reads_it():
    from transformer_lens.tools.analysis import logit_lens as their_lens

    model = grown(HOPS, replace(TINY, positions="learned", d_mlp=16), scale=4.0)
    subject = Planted(HOPS, model, model=model.spec)
    rows, batch = table(Lens(48, target="bridge", pooled=False), subject), subject.batch(48)[:48]
    composed = torch.from_numpy(batch.facts["inferred"])
    bridge = torch.from_numpy(batch.facts["bridge"])[composed]
    with torch.no_grad():
        cache = to_transformer_lens(model).run_with_cache(torch.from_numpy(batch.tokens.clip(0)))[1]
        said = their_lens(cache, positions=None, return_type="log_probs").values[:, composed]
    for layer, pos in product(range(3), range(4)):
        one = said[layer, :, pos]
        loss = -one[torch.arange(len(bridge)), bridge].mean().item()
        here = dict(layer=layer, pos=pos)
        assert value(rows, metric="lens_loss", **here) == pytest.approx(loss, abs=1e-4)
        assert value(rows, metric="lens_accuracy", **here) == (one.argmax(-1) == bridge).double().mean()


def test_a_fact_that_no_answer_can_say_is_refused():
    subject = Planted(HOPS, grown(HOPS))
    for target, why in (
        ("brigde", "no target in two_hop 'brigde'; did you mean 'bridge'"),
        ("values", r"target = 'values' cannot be read off: in two_hop it is int64 \[8, 1\]"),
        ("relation", "target = 'relation' cannot be read by a lens: in two_hop it is nowhere at the positions asked"),
    ):
        with pytest.raises(ValueError, match=why):
            table(Lens(8, target=target, positions=(0,)), subject)
    few = Planted(Classification(classes=16, labels=8, dim=8))
    with pytest.raises(ValueError, match=r"'rank' cannot be read by a lens: .* goes up to \d+, .* the answers 0 to 7"):
        table(Lens(64, target="rank"), few)


def test_composition_finds_the_circuit():
    rows = table(Composition(), Planted(COPY, induction(COPY), model=induction(COPY).spec))
    pair = dict(layer=1, head=0, sender_layer=0, sender_head=0)
    chance = value(rows, metric="k_composition_chance")
    assert chance == induction(COPY).spec.d_model ** -0.5
    assert value(rows, metric="k_composition", **pair) > 1.4 * chance
    assert value(rows, metric="q_composition", **pair) == value(rows, metric="v_composition", **pair) == 0
    assert value(rows, metric="k_matching_weights", **pair) == pytest.approx(1)
    assert value(rows, metric="matching_weights", layer=1, head=0) == 0


def test_random_heads_compose_by_chance():
    spec = Transformer(layers=3, heads=8, d_model=64)
    rows = table(Composition(), Planted(COPY, *(grown(COPY, spec, seed) for seed in range(3)), model=spec))
    assert len(rows) == 3 * (3 + 4 * 192 + 24)
    for kind in "qkv":
        scores = rows.loc[rows["metric"] == f"{kind}_composition", "value"]
        assert np.sqrt((scores**2).mean()) == pytest.approx(64**-0.5, rel=0.01)
    for metric in ("matching_weights", "k_matching_weights"):
        scores = rows.loc[rows["metric"] == metric, "value"].to_numpy()
        assert abs(scores.mean()) < 4 * scores.std() / len(scores) ** 0.5


def test_what_does_not_apply_is_left_out_or_refused():
    single = replace(TINY, layers=1, heads=1)
    rows = table(Composition(), random_subject(COPY, single))
    assert set(rows["metric"]) == {"matching_weights", *(f"{kind}_composition_chance" for kind in "qkv")}
    assert "sender_layer" not in rows
    through_mlp = replace(TINY, readout=(8,))
    assert not table(Composition(), random_subject(TASKS[2]))["metric"].str.contains("matching").any()
    assert len(table(Lens(8), random_subject(COPY, through_mlp))) == 2 * 9
    with pytest.raises(ValueError, match=r"readout = \(8,\) stands between"):
        table(Attribution(8), random_subject(COPY, through_mlp))
    with pytest.raises(ValueError, match="attribution needs pairs, and 'recall' has none"):
        table(Attribution(8), random_subject(Recall()))
    clamped = Planted(COPY, Model(TINY, COPY, weights(COPY), edits=(HandBuiltLayer(),)))
    with pytest.raises(ValueError, match="the clamp hand_built_layer overwrites blocks.1.hook_resid_pre"):
        table(Attribution(8), clamped)
    recurrent = random_subject(COPY)
    recurrent.run.spec = Spec(COPY, LSTM(d_model=16))
    for measure in (Lens(8), Attribution(8), Composition()):
        with pytest.raises(ValueError, match="LSTM has none"):
            table(measure, recurrent)


def weights(task: Task) -> dict[str, np.ndarray]:
    return {name: value[0].numpy() for name, value in grown(task).params.items()}


@pytest.mark.parametrize("kind", [Lens, Attribution])
def test_bad_dials_are_refused(kind: Any):
    with pytest.raises(ValueError, match="n = 0 is out of range: at least one"):
        kind(n=0)
