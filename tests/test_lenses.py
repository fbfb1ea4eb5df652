"""Lenses, attribution and composition: exact sums, hand-built circuits, and TransformerLens on the same weights."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from planted import TINY, Recall, grown, induction
from scipy.stats import ortho_group
from toy import Toy, random_params

from probelab.bridge import to_transformer_lens
from probelab.clamps import HandBuiltLayer, OnlyHeads, PreviousToken
from probelab.composition import KINDS, composition, composition_chance, copying_weights, matching_weights, places
from probelab.lenses import (
    Part,
    Translators,
    attribution_by_source,
    direct_logit_attribution,
    kl,
    logit_directions,
    logit_lens,
    residual_streams,
    tuned_lens,
)
from probelab.spec import LSTM, Transformer
from probelab.subject import Model
from synthetic_tasks import Batch, Repeats, Task, stream

COPY = Repeats(tokens=12, length=30)
POSITIONS: tuple[Any, ...] = ("learned", "rotary", "sinusoidal", "relative", "none")
NORMS: tuple[Any, ...] = ("layer", "plain", "none")


def drawn(spec: Transformer, task: Task, seed: int = 0, n: int = 6, **how: Any) -> tuple[Model, Batch]:
    """A model in float64 none of whose weights is small, and sequences for it."""
    rng = np.random.default_rng(seed)
    return Model(spec, task, random_params(spec, task, rng), torch.float64, **how), task.sample(rng, n)


def asked(task: Task) -> list[np.ndarray]:
    """Where, answer and foil, of six sequences."""
    rng = np.random.default_rng(0)
    return [rng.integers(high, size=6) for high in (task.context, task.outputs, task.outputs)]


def cases() -> list[tuple[Transformer, Toy]]:
    """Every position scheme with every norm, the other dials in turn."""
    found = []
    for k, (positions, norm) in enumerate(product(POSITIONS, NORMS)):
        dials: dict[str, Any] = dict(biases=k % 2 == 0, d_mlp=(0, 8)[k % 4 > 1], tied=k % 3 == 0, scaled=k % 5 > 0)
        spec = Transformer(heads=(1, 2), d_model=8, positions=positions, norm=norm, **dials)
        found.append((spec, Toy(answers=5 if spec.tied else 4, width=3 * (k % 4 == 3))))
    return found


@pytest.mark.parametrize(("spec", "task"), cases())
def test_parts_sum_to_the_logit_difference_and_sources_to_their_head(spec: Transformer, task: Toy):
    model, batch = drawn(spec, task)
    position, answer, foil = asked(task)
    rows, logits = np.arange(6), model(batch)
    for directions, goal in (
        (logit_directions(model, answer), logits[rows, position, answer]),
        (logit_directions(model, answer, foil), logits[rows, position, answer] - logits[rows, position, foil]),
    ):
        parts = direct_logit_attribution(model, batch, position, directions)
        torch.testing.assert_close(torch.stack(list(parts.values())).sum(0), goal, rtol=0, atol=1e-9)
        sources = attribution_by_source(model, batch, position, directions)
        assert set(sources) == {part for part in parts if part.component == "head"} and len(sources) == 3
        for part, by_source in sources.items():
            torch.testing.assert_close(by_source.sum(1), parts[part], rtol=0, atol=1e-9)
            assert all((row[at + 1 :] == 0).all() for row, at in zip(by_source, position, strict=True))
    kinds = {part.component for part in parts}
    assert kinds >= {"embed", "head"} and ("mlp" in kinds) == bool(spec.d_mlp)
    assert ("pos_embed" in kinds) == (spec.positions in ("learned", "sinusoidal"))
    assert ("attn_bias" in kinds) == spec.biases and ("norm_bias" in kinds) == (spec.norm == "layer")


@pytest.mark.parametrize(("spec", "task"), [*cases(), (replace(TINY, readout=(7, 3)), Toy())])
def test_the_last_lens_is_the_model_and_the_others_stop_early(spec: Transformer, task: Toy):
    model, batch = drawn(spec, task)
    said = logit_lens(model, batch)
    torch.testing.assert_close(said[-1], model.log_probs(batch), rtol=0, atol=1e-9)
    for layers in (1, 0):  # a model whose later blocks write nothing says what the lens reads
        mute = {
            name: np.zeros_like(value) if int(name.split(".")[1]) >= layers else value
            for name, value in random_params(spec, task, np.random.default_rng(0)).items()
            if name.startswith("blocks") and name.split(".")[-1] in ("W_O", "b_O", "W_out", "b_out")
        }
        params = {name: value[0].numpy() for name, value in model.params.items()} | mute
        stopped = Model(spec, task, params, torch.float64).log_probs(batch)
        torch.testing.assert_close(said[layers], stopped, rtol=0, atol=1e-9)


def test_what_is_not_defined_is_refused():
    model, batch = drawn(replace(TINY, readout=(7,)), Toy())
    with pytest.raises(ValueError, match=r"readout = \(7,\) stands between stream and logits"):
        logit_directions(model, np.zeros(6, int))
    lstm = Model(LSTM(d_model=8), Toy(), {})
    with pytest.raises(ValueError, match="a lens reads the residual stream, and LSTM has none"):
        logit_lens(lstm, batch)
    with pytest.raises(ValueError, match="no kind of composition 'k' known: Q, K, V"):
        composition(model, "k")
    position, answer, _ = asked(Toy())
    for clamp, direct, by_source in ((HandBuiltLayer(), 0, 0), (OnlyHeads(heads=(1,)), 1, 0), (PreviousToken(), 1, 1)):
        clamped, _ = drawn(TINY, Toy(), edits=(clamp,))
        logits = clamped(batch)[np.arange(6), position, answer]
        here = clamped, batch, position, logit_directions(clamped, answer)
        for attribute, works in ((direct_logit_attribution, direct), (attribution_by_source, by_source)):
            if not works:
                with pytest.raises(ValueError, match=f"the clamp {clamp.name} overwrites"):
                    attribute(*here)
        if direct:
            torch.testing.assert_close(sum(direct_logit_attribution(*here).values()), logits, rtol=0, atol=1e-9)


def linear_block() -> tuple[Model, Task]:
    """One block that is a linear map: every position attends to itself alone."""
    task = Toy(symbols=6, answers=6)
    spec = Transformer(layers=1, heads=1, d_model=16, d_head=9, norm="none", positions="learned", biases=False)
    params = random_params(spec, task, np.random.default_rng(0))
    params["embed.W_E"][:, 7:] = params["pos_embed.W_pos"][:, :7] = 0
    params["pos_embed.W_pos"][:, 7:] = np.eye(9)
    heads = params["blocks.0.attn.W_QKV"]
    heads[:, :18] = 0
    heads[7:, :9] = heads[7:, 9:18] = 20 * np.eye(9)
    params["blocks.0.attn.W_O"] *= 10
    return Model(spec, task, params, torch.float64), task


def test_a_tuned_lens_sees_through_a_linear_block():
    model, task = linear_block()
    fit, held = (task.sample(stream("lens", name), 64) for name in ("fit", "held"))
    before, after = (logit_lens(model, held, tuned) for tuned in (None, tuned_lens(model, fit, 300)))
    far, near = (float(kl(said[-1], said[0]).mean()) for said in (before, after))
    assert far > 0.2 and 0 <= near < 1e-3 * far
    assert torch.equal(before[-1], after[-1])


def test_a_tuned_lens_starts_at_the_identity_and_comes_closer_every_time_alike():
    model, task = grown(COPY, scale=5.0, dtype=torch.float64), COPY
    fit = task.sample(stream("lens", "fit"), 32)
    plain, same = logit_lens(model, fit), logit_lens(model, fit, tuned_lens(model, fit, 0))
    assert torch.equal(plain, same)
    tuned, again = tuned_lens(model, fit), tuned_lens(model, fit)
    assert all(torch.equal(a, b) for a, b in zip(tuned, again, strict=True))
    there = torch.from_numpy(fit.targets >= 0)
    said = logit_lens(model, fit, tuned)
    before, after = (kl(each[-1], each)[:, there].mean(1) for each in (plain, said))
    assert (after[:2] < 0.7 * before[:2]).all() and after[2] == before[2] == 0
    assert isinstance(tuned, Translators) and tuned.weight.shape == (2, 16, 16) and tuned.bias.shape == (2, 16)


def test_a_tuned_lens_is_fitted_where_something_is_asked():
    task = Recall()
    model, batch = grown(task, scale=5.0), task.sample(stream("lens"), 16)
    later = np.arange(6) > (batch.targets >= 0).argmax(1)[:, None]
    other = Batch(np.where(later, (batch.tokens + 1) % 5, batch.tokens), batch.targets)
    torch.testing.assert_close(tuned_lens(model, batch), tuned_lens(model, other), rtol=0, atol=1e-5)


def test_the_induction_head_reads_the_previous_token_head_with_its_keys():
    model = induction(COPY)
    scores = {kind: composition(model, kind)[0, 1].item() for kind in KINDS}
    assert scores["K"] > 1.4 * composition_chance(model) and scores["Q"] == scores["V"] == 0
    assert matching_weights(model, 1, 0, sender=(0, 0)) == pytest.approx(1)
    assert matching_weights(model, 1, 0) == 0 and copying_weights(model, 1, 0) == pytest.approx(1)


def test_the_answer_comes_from_the_induction_head_and_through_the_source():
    model, pairs = induction(COPY), COPY.pairs(stream("pairs"), 32)
    here = model, pairs.clean, pairs.position, logit_directions(model, pairs.answer, pairs.foil)
    parts, sources = direct_logit_attribution(*here), attribution_by_source(*here)
    head = parts.pop(Part("head", 1, 0))
    assert torch.allclose(head, torch.full_like(head, 80.0), atol=1e-3)  # write 40, twice
    assert all(part.abs().max() < 1e-3 for part in parts.values())
    source = pairs.clean.facts["source"][np.arange(32), pairs.position]
    assert torch.allclose(sources[Part("head", 1, 0)][np.arange(32), source], head, atol=1e-3)


def test_chance_is_that_of_a_stream_turned_at_random():
    """Whatever two heads are, the mean square score over random turns between them is 1 / d_model."""
    spec = Transformer(heads=1, d_model=12, d_head=4)
    squares = []
    for k in range(400):
        params = random_params(spec, COPY, np.random.default_rng(0))
        turn = ortho_group.rvs(12, random_state=stream("turn", k))
        params["blocks.0.attn.W_O"] = (params["blocks.0.attn.W_O"] @ turn).astype(np.float32)
        model = Model(spec, COPY, params)
        squares.append([composition(model, kind)[0, 1].item() ** 2 for kind in KINDS])
    mean, error = np.mean(squares, 0), np.std(squares, 0) / 20
    assert (np.abs(mean - composition_chance(model) ** 2) < 4 * error).all() and (error < 0.1 * mean).all()


@pytest.mark.parametrize("heads", [2, (1, 3)])
def test_scores_of_weights_against_numpy(heads: Any):
    spec = replace(TINY, heads=heads, d_model=12)
    model = grown(COPY, spec, dtype=torch.float64)
    where, symbols, w = places(model), model["embed.W_E"].numpy(), {}
    for layer, head in where:
        w[layer, head] = {name: m[head].numpy() for name, m in model.head_weights(layer).items()}
    ov = {place: m["W_V"] @ m["W_O"] for place, m in w.items()}
    qk = {place: m["W_Q"] @ m["W_K"].T for place, m in w.items()}
    read = {"Q": qk, "K": {place: m.T for place, m in qk.items()}, "V": ov}
    for kind, (i, s), (j, r) in product(KINDS, enumerate(where), enumerate(where)):
        found = composition(model, kind)[i, j].item()
        if s[0] >= r[0]:
            assert np.isnan(found)
            continue
        size = [np.linalg.norm(m) for m in (ov[s] @ read[kind][r], ov[s], read[kind][r])]
        assert found == pytest.approx(size[0] / size[1] / size[2], abs=1e-12)
        for keys, sender in ((symbols, None), (symbols @ ov[s], s)):
            eigenvalues = np.linalg.eigvals(symbols @ qk[r] @ keys.T)
            expected = eigenvalues.sum().real / np.abs(eigenvalues).sum()
            assert matching_weights(model, *r, sender=sender) == pytest.approx(expected, abs=1e-9)


@pytest.fixture(scope="module", params=[("none", 0), ("plain", 8), ("layer", 8)], ids=str)
def theirs(request: pytest.FixtureRequest) -> tuple[Model, Batch, Any, Any]:
    """Model, sequences, bridge and its cache."""
    norm, d_mlp = request.param
    spec = Transformer(heads=2, d_model=8, positions="learned", norm=norm, d_mlp=d_mlp)
    model, batch = drawn(spec, Toy())
    bridge = to_transformer_lens(model)
    with torch.no_grad():
        return model, batch, bridge, bridge.run_with_cache(torch.from_numpy(batch.tokens))[1]


def close(ours: Any, other: Any) -> None:
    torch.testing.assert_close(ours, other, rtol=0, atol=1e-9)


def test_lenses_agree_with_transformer_lens(theirs: Any):
    from transformer_lens.tools.analysis import logit_lens as their_lens

    model, batch, bridge, cache = theirs
    with torch.no_grad():
        close(residual_streams(model, batch), cache.accumulated_resid())
        close(logit_lens(model, batch), (cache.accumulated_resid(apply_ln=True) @ bridge.W_U).log_softmax(-1))
        found = their_lens(cache, positions=None, return_type="log_probs").values  # in float32, whatever the model is
    torch.testing.assert_close(logit_lens(model, batch).float(), found, rtol=0, atol=1e-5)


def test_attribution_agrees_with_transformer_lens(theirs: Any):
    """Its directions leave out the weight of the final norm, which ours have."""
    model, batch, _, cache = theirs
    position, answer, foil = asked(model.task)
    rows, directions = np.arange(6), logit_directions(model, answer, foil)
    parts = direct_logit_attribution(model, batch, position, directions)
    with torch.no_grad():
        stack = cache.stack_head_results()
        if model.spec.norm == "layer":
            found = (cache.apply_ln_to_stack(stack)[:, rows, position] * directions * model["ln_final.w"]).sum(-1)
        else:
            words = (torch.from_numpy(each) for each in (answer, foil))
            found = cache.logit_attrs(stack, *words)[:, rows, position]
    close(torch.stack([parts[Part("head", *place)] for place in places(model)]), found)


def test_composition_agrees_with_transformer_lens(theirs: Any):
    model, _, bridge, _ = theirs
    for kind in KINDS:
        with torch.no_grad():
            found = bridge.all_composition_scores(kind).scores.flatten(2).flatten(0, 1)
        close(composition(model, kind).nan_to_num(0), found)
