"""Circuits run by hand, found where they were planted, and scored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from planted import grown, induction
from test_paths import IDS, SMALL, SPECS, TASK, exact, pairs

from probelab.answers import logit_difference
from probelab.circuits import Wiring, discover, named, random_circuits, without_each
from probelab.edit import Edit
from probelab.paths import edges, receivers
from probelab.spec import Transformer
from probelab.subject import Model
from synthetic_tasks import Batch, Classification, Repeats, stream
from synthetic_tasks.task import Pairs

COPY = Repeats(tokens=12, length=30)


def wired_by_hand(model: Model, circuit: np.ndarray, clean: Batch, corrupt: Batch) -> torch.Tensor:
    """Logits: receivers in their order, each fed by one more pass in which all those before it are set by edits."""
    inside = [edge for edge, there in zip(edges(model.spec), circuit, strict=True) if there]
    was, set_to, site_order = model.cache(corrupt), {}, list(dict.fromkeys(r.name for r in receivers(model.spec)))

    def now(name: str) -> torch.Tensor:
        """What a sender's site holds when the receivers so far read what they should."""
        edits = [Edit(site, lambda value, context, held=held: held) for site, held in set_to.items()]
        return model.cache(clean, [name], edits)[name]

    for site in site_order:
        fed = was[site].clone()
        for edge in inside:
            if edge.receiver.name == site:
                change = now(edge.sender.name) - was[edge.sender.name]
                change = change if edge.sender.head is None else change[:, :, edge.sender.head]
                if edge.receiver.head is None:
                    fed += change
                else:
                    fed[:, :, edge.receiver.head] += change
        set_to[site] = fed
    return now("logits")


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_a_circuit_is_what_it_is_by_hand(spec: Transformer):
    models, drawn = exact(spec), pairs(3)
    metric, total = logit_difference(drawn), len(edges(spec))
    circuits = np.random.default_rng(0).random((3, total)) < [[0.3], [0.6], [0.9]]
    found = Wiring(models, drawn.clean, drawn.corrupt, drawn.position)(circuits, metric)
    for m, model in enumerate(models):
        for c, circuit in enumerate(circuits):
            logits = wired_by_hand(model, circuit, drawn.clean, drawn.corrupt)
            expected = metric(logits[np.arange(3), drawn.position])
            torch.testing.assert_close(found[m, c], expected, rtol=0, atol=1e-9)
    assert found.std(1).min() > 1e-6, "the circuits differ"


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_full_is_the_clean_run_and_empty_the_corrupt_one(spec: Transformer):
    models, drawn = exact(spec, 3), pairs()
    metric, total, rows = logit_difference(drawn), len(edges(spec)), np.arange(5)
    wiring = Wiring(models, drawn.clean, drawn.corrupt, drawn.position)
    found = wiring(np.array([np.zeros(total), np.ones(total)]), metric)
    for m, model in enumerate(models):
        for k, batch in enumerate((drawn.corrupt, drawn.clean)):
            expected = metric(model(batch)[rows, drawn.position])
            torch.testing.assert_close(found[m, k], expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(wiring.full(metric), found[:, 1], rtol=0, atol=1e-10)
    torch.testing.assert_close(wiring.empty(metric), found[:, 0], rtol=0, atol=1e-10)
    ends = wiring.faithfulness(np.array([np.zeros(total), np.ones(total)]), metric)
    np.testing.assert_allclose(ends, [[0, 1]] * 3, atol=1e-9)


def test_inputs_may_be_vectors():
    task = Classification(classes=16, labels=8, dim=8)
    model, drawn = grown(task, replace(SMALL, d_mlp=8), 0, 8.0, dtype=torch.float64), task.pairs(stream("pairs"), 4)
    metric, circuit = logit_difference(drawn), np.arange(len(edges(model.spec))) % 2 == 0
    found = Wiring([model], drawn.clean, drawn.corrupt, drawn.position)(np.stack([circuit, ~circuit]), metric)[0]
    for k, one in enumerate((circuit, ~circuit)):
        expected = metric(wired_by_hand(model, one, drawn.clean, drawn.corrupt)[np.arange(4), drawn.position])
        torch.testing.assert_close(found[k], expected, rtol=0, atol=1e-9)


def test_members_memory_and_neighbours_change_nothing():
    models, drawn = exact(SMALL, 2), pairs()
    metric = logit_difference(drawn)
    circuits = random_circuits(np.arange(len(edges(SMALL))) < 12, 7, "test")
    whole = Wiring(models, drawn.clean, drawn.corrupt, drawn.position)(circuits, metric)
    alone = torch.cat([Wiring([m], drawn.clean, drawn.corrupt, drawn.position)(circuits, metric) for m in models])
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-12)
    models[0].memory = 1
    one_by_one = Wiring(models, drawn.clean, drawn.corrupt, drawn.position)
    assert one_by_one.room() == 1
    torch.testing.assert_close(one_by_one(circuits, metric), whole, rtol=0, atol=1e-12)


def test_random_circuits_have_the_size_and_their_own_stream():
    circuit = np.arange(40) % 4 == 0
    drawn = random_circuits(circuit, 500, "repeats", 0)
    assert drawn.shape == (500, 40) and (drawn.sum(1) == 10).all()
    np.testing.assert_allclose(drawn.mean(0), 0.25, atol=0.08)
    assert (drawn == random_circuits(circuit, 500, "repeats", 0)).all()
    assert (drawn != random_circuits(circuit, 500, "repeats", 1)).any()


def found_in(model: Model, drawn: Pairs, bar: float = 0.9) -> set[str]:
    wiring = Wiring([model], drawn.clean, drawn.corrupt, drawn.position)
    return set(named(wiring.edges, discover(wiring, logit_difference(drawn), bar)))


def test_the_way_of_the_copied_token_is_found():
    drawn = COPY.pairs(stream("pairs", "circuits"), 48)
    assert found_in(induction(COPY), drawn) == {"embed -> 1.0 v", "1.0 -> logits"}


def neither(*ids: np.ndarray) -> np.ndarray:
    """The first token that is none of these, for each sequence."""
    return np.stack([(np.arange(12)[:, None] != one).T for one in ids]).all(0).argmax(1)


def unrelated(drawn: Pairs) -> Pairs:
    """Corrupt tokens are those of other sequences; the present one, which the logits read too, is no answer or foil."""
    rows, tokens = np.arange(len(drawn.answer)), stream("unrelated").integers(12, size=drawn.clean.tokens.shape)
    now = drawn.clean.tokens[rows, drawn.position]
    foil = neither(drawn.answer, now)
    tokens[rows, drawn.position] = neither(drawn.answer, now, foil)
    return drawn._replace(corrupt=replace(drawn.clean, tokens=tokens), foil=foil)


PLANTED = {"embed -> 0.0 v", "0.0 -> 1.0 k", "embed -> 1.0 q", "embed -> 1.0 v", "1.0 -> logits"}


def test_a_planted_induction_circuit_is_recovered_edge_by_edge():
    """Against unrelated sequences every edge that carries a token is needed, and no other one."""
    assert found_in(induction(COPY), unrelated(COPY.pairs(stream("pairs", "circuits"), 64))) == PLANTED


@dataclass(frozen=True)
class Placed(Repeats):
    """Repeats whose symbols say a token and a place, so that places can be corrupted like tokens."""

    name = "placed"
    vocab = property(lambda self: self.tokens * self.length)
    outputs = property(lambda self: self.tokens)


def placed_induction(task: Placed) -> Model:
    """The circuit set by hand, with positions spoken by the symbols."""
    one = induction(Repeats(tokens=task.tokens, length=task.length))
    params = {name: value[0].numpy() for name, value in one.params.items() if name != "pos_embed.W_pos"}
    both = params["embed.W_E"][:, None] + one["pos_embed.W_pos"].numpy()[None]
    params["embed.W_E"] = both.reshape(task.vocab, -1)
    return Model(replace(one.spec, positions="none"), task, params)


def test_with_places_corrupted_too_all_of_it_is_recovered():
    """The first head finds the place before by queries and keys; keys of the second shut out place 0."""
    task, drawn = Placed(tokens=12, length=30), unrelated(COPY.pairs(stream("pairs", "placed"), 64))
    places = np.tile(np.arange(30), (64, 1))
    others = stream("places").permuted(places, axis=1)
    clean, corrupt = (
        replace(batch, tokens=batch.tokens * 30 + at) for batch, at in ((drawn.clean, places), (drawn.corrupt, others))
    )
    found = found_in(placed_induction(task), drawn._replace(clean=clean, corrupt=corrupt), bar=0.999)
    assert found == PLANTED | {"embed -> 0.0 q", "embed -> 0.0 k", "embed -> 1.0 k"}


@pytest.mark.parametrize("seed", range(6))
def test_what_is_found_is_faithful_and_minimal_on_any_model(seed: int):
    model, drawn = grown(TASK, replace(SMALL, d_mlp=12), seed, 8.0, dtype=torch.float64), pairs(16)
    wiring, metric = Wiring([model], drawn.clean, drawn.corrupt, drawn.position), logit_difference(drawn)
    circuit = discover(wiring, metric, 0.8)
    assert 0 < circuit.sum() < len(circuit)
    assert abs(1 - wiring.faithfulness(circuit, metric)).max() <= 0.2
    assert (abs(1 - wiring.faithfulness(without_each(circuit), metric)) > 0.2).all()


class Stepped:
    """A wiring whose circuits of two edges do not work, though smaller ones do."""

    edges, sweep = range(4), SimpleNamespace(models=[None])

    def gap(self, metric: object) -> np.ndarray:
        return np.ones(1)

    def faithfulness(self, circuits: np.ndarray, metric: object) -> np.ndarray:
        return np.array([0, 1, 0.5, 1, 1])[circuits.sum(1)][None]


def test_the_search_passes_through_faithful_circuits_alone():
    stepped: Any = Stepped()
    assert discover(stepped, lambda logits: logits).sum() == 3


def test_dials_out_of_range():
    models, drawn = exact(SMALL, 2), pairs()
    metric, wiring = logit_difference(drawn), Wiring(models, drawn.clean, drawn.corrupt)
    with pytest.raises(ValueError, match="bar = 1.5 is out of range"):
        discover(wiring, metric, 1.5)
    with pytest.raises(ValueError, match="models = 2 is out of range: one"):
        discover(wiring, metric)
    with pytest.raises(ValueError, match=r"shape of circuits = \(1, 3\) is out of range: .* 29 edges"):
        wiring(np.ones(3), metric)
    with pytest.raises(ValueError, match=r"shape of the other input = \(\d+, 3\) is out of range: \(\d+, \d+\)"):
        Wiring(models, drawn.clean, shorter(drawn.corrupt, 3))


def shorter(batch: Batch, length: int) -> Batch:
    return Batch(batch.tokens[:, :length], batch.targets[:, :length])


@pytest.mark.parametrize("seed", range(4))
def test_where_clean_and_corrupt_tell_the_same_there_is_no_circuit_to_find(seed: int):
    """What differs behind the position read alone leaves a gap of rounding, of which any edge may make any share."""
    drawn = pairs()
    tokens, behind = drawn.clean.tokens.copy(), np.arange(drawn.clean.tokens.shape[1]) > 2
    tokens[:, behind] = drawn.corrupt.tokens[:, behind]
    other, read = Batch(tokens, drawn.clean.targets), np.full(len(tokens), 2)
    metric, model = logit_difference(drawn), grown(TASK, SMALL, seed, 8.0)
    wiring = Wiring([model], drawn.clean, other, read)
    assert (
        not wiring.gap(metric).any() and Wiring([model], drawn.clean, drawn.corrupt, drawn.position).gap(metric).all()
    )
    with pytest.raises(ValueError, match="nothing is there to explain"):
        discover(wiring, metric)
