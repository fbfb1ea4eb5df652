"""Path patching against two passes by hand, sum rules, and the edges of a circuit set by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import grown, induction

from probelab.answers import Metric, logit_difference
from probelab.clamps import PreviousToken
from probelab.edit import Edit
from probelab.paths import Edge, edge_effects, edge_named, edges, receivers, senders
from probelab.places import Place
from probelab.spec import LSTM, Transformer
from probelab.subject import Model
from synthetic_tasks import Batch, Repeats, stream
from synthetic_tasks.task import Pairs

TASK = Repeats(tokens=6, length=7)
SMALL = Transformer(layers=2, heads=2, d_model=8)
SPECS = [
    SMALL,
    replace(SMALL, positions="learned", norm="none", d_mlp=12),
    replace(SMALL, positions="relative", norm="plain", heads=(3, 1), d_head=4),
    replace(SMALL, positions="sinusoidal", d_mlp=8, activation="relu", biases=False, readout=(5,)),
    replace(SMALL, positions="none", layers=3, heads=1, scaled=False, attention="explicit", tied=True, d_mlp=8),
    replace(SMALL, layers=1),
]
IDS = [f"{s.positions}-{s.norm}-{s.layers}-{s.d_mlp}" for s in SPECS]


def exact(spec: Transformer, seeds: int = 2) -> list[Model]:
    return [grown(TASK, spec, seed, 8.0, dtype=torch.float64) for seed in range(seeds)]


def pairs(n: int = 5) -> Pairs:
    return TASK.pairs(stream("pairs", "paths"), n)


def held(model: Model, batch: Batch, site: str) -> torch.Tensor:
    return model.cache(batch, [site])[site]


def patched_by_hand(model: Model, edge: Edge, base: Batch, source: Batch, pos: int | None = None) -> torch.Tensor:
    """Two passes: the sender's output on both inputs, then the receiver's input moved by their difference."""
    site = edge.sender.name
    change = held(model, source, site) - held(model, base, site)
    if edge.sender.head is not None:
        change = change[:, :, edge.sender.head]
    if pos is not None:
        change = change * (torch.arange(change.shape[1]) == pos)[:, None]

    def move(value: torch.Tensor, context: object) -> torch.Tensor:
        value = value.clone()
        if edge.receiver.head is None:
            return value + change
        value[:, :, edge.receiver.head] += change
        return value

    return model(base, [Edit(edge.receiver.name, move)])


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
@pytest.mark.parametrize("by_position", [False, True])
def test_every_edge_is_two_passes_by_hand(spec: Transformer, by_position: bool):
    models, drawn = exact(spec), pairs(3)
    metric, rows = logit_difference(drawn), np.arange(3)
    found = edge_effects(models, drawn.clean, drawn.corrupt, metric, drawn.position, by_position=by_position)
    positions = (0, 2, TASK.length - 1) if by_position else (None,)
    for m, model in enumerate(models):
        before = metric(model(drawn.clean)[rows, drawn.position])
        for e, edge in enumerate(edges(spec)):
            for pos in positions:
                after = metric(patched_by_hand(model, edge, drawn.clean, drawn.corrupt, pos)[rows, drawn.position])
                mine = found[m, e] if pos is None else found[m, e, pos]
                torch.testing.assert_close(mine, after - before, rtol=0, atol=1e-9, msg=f"{edge.names} at {pos}")
    assert (found.abs().flatten(2).amax((0, 2)) > 1e-6).float().mean() > 0.6, "most edges of a random model matter"


def test_the_graph_has_the_edges_it_should():
    names = {edge.names for edge in edges(replace(SMALL, heads=(2, 1), d_mlp=8))}
    heads = [f"0.{h} {part}" for h in (0, 1) for part in "qkv"]
    later = ["1.0 q", "1.0 k", "1.0 v"]
    by_hand = {("embed", r) for r in [*heads, "mlp 0", *later, "mlp 1", "logits"]}
    by_hand |= {(s, r) for s in ("0.0", "0.1") for r in ["mlp 0", *later, "mlp 1", "logits"]}
    by_hand |= {("mlp 0", r) for r in [*later, "mlp 1", "logits"]}
    by_hand |= {("1.0", "mlp 1"), ("1.0", "logits"), ("mlp 1", "logits")}
    assert names == by_hand and len(edges(replace(SMALL, heads=(2, 1), d_mlp=8))) == len(by_hand)
    two_by_four = replace(SMALL, heads=4)
    assert len(edges(two_by_four)) == 25 + 4 * 13 + 4 and len(senders(two_by_four)) == 9
    assert len(receivers(two_by_four)) == 25


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_direct_edges_to_the_logits_add_up_where_nothing_bends(norm: str):
    """All that the logits read is exchanged, so without a norm their effects are the difference of the two runs."""
    spec = replace(SMALL, norm=norm, d_mlp=8, positions="learned")
    (model,), drawn = exact(spec, 1), pairs()
    metric, rows = logit_difference(drawn), np.arange(5)
    chosen = [edge for edge in edges(spec) if edge.receiver.site == "resid_post"]
    found = edge_effects([model], drawn.clean, drawn.corrupt, metric, drawn.position, which=chosen)[0]
    whole = metric(model(drawn.corrupt)[rows, drawn.position]) - metric(model(drawn.clean)[rows, drawn.position])
    close = torch.allclose(found.sum(0), whole, rtol=0, atol=1e-9)
    assert close == (norm == "none")


def test_positions_of_an_edge_add_up_where_nothing_bends():
    """Values come in linearly, and the logits are read at one position."""
    spec = replace(SMALL, norm="none")
    models, drawn = exact(spec), pairs()
    metric = logit_difference(drawn)
    chosen = [edge_named(spec, "embed", "1.0 v"), edge_named(spec, "0.1", "1.1 v"), edge_named(spec, "0.0", "logits")]
    both = [
        edge_effects(models, drawn.clean, drawn.corrupt, metric, drawn.position, which=chosen, by_position=by_position)
        for by_position in (False, True)
    ]
    torch.testing.assert_close(both[1].sum(2), both[0], rtol=0, atol=1e-9)
    at = torch.arange(TASK.length)[:, None] == torch.as_tensor(drawn.position)
    assert (both[1][:, 2, ~at].abs() < 1e-12).all(), "the logits read one position"
    after = torch.arange(TASK.length)[:, None] > torch.as_tensor(drawn.position)
    assert (both[1][:, :, after].abs() < 1e-12).all(), "nothing comes from the future"


def test_members_and_memory_change_nothing():
    models, drawn = exact(SMALL, 3), pairs()
    given = drawn.clean, drawn.corrupt, logit_difference(drawn), drawn.position
    whole = edge_effects(models, *given)
    alone = torch.cat([edge_effects([model], *given) for model in models])
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-12)
    for model in models:
        model.memory = 1
    torch.testing.assert_close(edge_effects(models, *given), whole, rtol=0, atol=1e-12)


def test_without_a_position_to_read_the_metric_sees_all():
    (model,), drawn = exact(SMALL, 1), pairs()
    found = edge_effects([model], drawn.clean, drawn.corrupt, lambda logits: logits.square().sum((-1, -2)))
    for e, edge in enumerate(edges(SMALL)):
        after, before = patched_by_hand(model, edge, drawn.clean, drawn.corrupt), model(drawn.clean)
        expected = after.square().sum((-1, -2)) - before.square().sum((-1, -2))
        torch.testing.assert_close(found[0, e], expected, rtol=0, atol=1e-9)


COPY = Repeats(tokens=12, length=30)


def effects(clean: Batch, corrupt: Batch, metric: Metric, position: np.ndarray) -> dict[str, float]:
    """The mean effect of every edge of the induction circuit set by hand that has one, in logits."""
    model = induction(COPY)
    found = edge_effects([model], clean, corrupt, metric, position)[0].mean(1).tolist()
    named = [" -> ".join(edge.names) for edge in edges(model.spec)]
    return {name: value for name, value in zip(named, found, strict=True) if abs(value) > 1e-3}


def test_edges_of_a_planted_induction_circuit():
    """Another token to copy: the second head's values carry it, and the logits read that head. Nothing else does."""
    drawn = COPY.pairs(stream("pairs"), 32)
    metric = logit_difference(drawn)
    found = effects(drawn.clean, drawn.corrupt, metric, drawn.position)
    assert found == pytest.approx({"embed -> 1.0 v": -160, "1.0 -> logits": -160}, abs=1e-2)
    back = effects(drawn.corrupt, drawn.clean, metric, drawn.position)
    assert back == pytest.approx({"embed -> 1.0 v": 160, "1.0 -> logits": 160}, abs=1e-2)


def test_another_token_before_it_takes_the_other_way():
    """Another token where the present one stood first: the first head carries it, the second head's keys read that."""
    drawn = COPY.pairs(stream("pairs"), 64)
    match = drawn.clean.facts["match"][np.arange(64), drawn.position]
    now = drawn.clean.tokens[np.arange(64), drawn.position]
    absent = np.array([np.isin(np.arange(12), row, invert=True) for row in drawn.clean.tokens])
    other = np.where(absent.any(1), absent.argmax(1), -1)
    rows = np.flatnonzero((other >= 0) & (match > 0))
    assert len(rows) >= 16
    clean = drawn.clean[rows]
    tokens = clean.tokens.copy()
    assert (tokens[np.arange(len(rows)), match[rows]] == now[rows]).all()
    tokens[np.arange(len(rows)), match[rows]] = other[rows]
    metric = logit_difference(drawn._replace(answer=drawn.answer[rows], foil=drawn.foil[rows]))
    found = effects(clean, replace(clean, tokens=tokens), metric, drawn.position[rows])
    assert set(found) == {"embed -> 0.0 v", "0.0 -> 1.0 k", "1.0 -> logits"}
    assert found["embed -> 0.0 v"] == pytest.approx(found["0.0 -> 1.0 k"], abs=1e-3), "edges in a row: one effect"
    assert found["0.0 -> 1.0 k"] == pytest.approx(found["1.0 -> logits"], rel=0.01)


def test_what_has_no_edges_is_refused():
    drawn = pairs()
    metric = logit_difference(drawn)
    with pytest.raises(ValueError, match="no edge '0.0 -> 1.0 kk'; did you mean '0.0 -> 1.0 k'"):
        edge_named(SMALL, "0.0", "1.0 kk")
    clamped, models = Model(SMALL, TASK, {}, edits=(PreviousToken(),)), exact(SMALL, 1)
    backwards = Edge(Place("mlp_out", 1), Place("q_input", 0, head=0))
    for which in ([], [backwards]):
        with pytest.raises(ValueError, match="is out of range: one or more of `edges.spec.`"):
            edge_effects(models, drawn.clean, drawn.corrupt, metric, which=which)
    with pytest.raises(ValueError, match="shape of the other input = "):
        edge_effects(models, drawn.clean, drawn.corrupt[:1], metric)
    with pytest.raises(ValueError, match="model with clamps .PreviousToken"):
        edge_effects([clamped], drawn.clean, drawn.corrupt, metric)
    with pytest.raises(ValueError, match="LSTM has no heads"):
        edge_effects([Model(LSTM(), TASK, {})], drawn.clean, drawn.corrupt, metric)
