"""Clamps in training: what is overwritten has the value worked out by hand and no gradient; all else learns on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import probelab as lab
from probelab.bridge import check
from probelab.clamps import CLAMPS, NEVER, Clamp
from probelab.edit import SILENT, Context, Edit, clamping
from probelab.measures.norms import gradient
from probelab.model import shapes
from probelab.optim import Flat
from probelab.planner import likeness
from probelab.runs import Folder, content_hash
from probelab.spec import LSTM, Optimizer, Spec, Transformer, from_json, replace_all, to_json
from probelab.study import Job, parse_clamp
from probelab.subject import Model, unseen
from probelab.train import clamped, grow, member_losses, read_log
from synthetic_tasks import Batch, Markov, Task, batch
from tests.test_train import SPEC as MARKOV
from tests.toy import random_params


@dataclass(frozen=True)
class Few(Task):
    """Four classes and three labels, drawn anew for every sequence; the query's class is one of the context's.

    x1 l1 x2 l2 x3 l3 xq        labels are the tokens 0 to 2, class k is the token 3 + k
    """

    name = "few"
    facts = {"classes": "[batch item] class, the query's last", "labels": "[batch item] label, the answer last"}
    vocab, outputs, context = 7, 3, 7

    def sample(self, rng: np.random.Generator, n: int, split: str = "train") -> Batch:
        classes, owned = rng.integers(4, size=(n, 3)), rng.integers(3, size=(n, 4))
        asked = classes[np.arange(n), rng.integers(3, size=n)]
        return few(np.c_[classes, asked], np.take_along_axis(owned, np.c_[classes, asked], 1))


def few(classes: np.ndarray, labels: np.ndarray) -> Batch:
    """The sequences of classes and labels `[batch item]`, the query last."""
    tokens = np.stack([classes + 3, labels], -1).reshape(len(classes), -1)[:, :-1]
    targets = np.full_like(tokens, -1)
    targets[:, -1] = labels[:, -1]
    return Batch(tokens, targets, facts={"classes": classes, "labels": labels})


# Two pairs are right; the class stands there with another label only; it stands there twice, once with the answer.
SMALL = few(np.array([[0, 1, 0, 0], [0, 1, 2, 0], [2, 0, 2, 2]]), np.array([[2, 1, 2, 2], [1, 2, 2, 2], [0, 1, 1, 1]]))
MODEL = Transformer(layers=2, heads=2, d_model=32, biases=False)
SPEC = Spec(Few(), MODEL, Optimizer(lr=1e-2), batch=16)
STEPS, KEEP = 20, (0, 5, 20)
EVERY = (
    lab.PreviousToken(head=1),
    lab.HandBuiltLayer(),
    lab.Match(head=1),
    lab.Copy(head=1),
    lab.OnlyHeads(heads=(1,)),
)


def a_model(*edits: Clamp, positions: str = "rotary") -> Model:
    spec = replace(MODEL, positions=positions)
    params = random_params(spec, Few(), np.random.default_rng(0))
    return Model(spec, Few(), params, torch.float64, edits=edits)


def test_previous_token() -> None:
    pattern = a_model(lab.PreviousToken(head=1)).cache(SMALL)["blocks.0.attn.hook_pattern"]
    before = [[0, 0, 1, 2, 3, 4, 5]] * 3
    assert torch.equal(pattern[:, 1].argmax(-1), torch.tensor(before)) and set(pattern[:, 1].unique().tolist()) == {
        0,
        1,
    }
    assert torch.equal(pattern[:, 0], a_model().cache(SMALL)["blocks.0.attn.hook_pattern"][:, 0])


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_a_layer_built_by_hand(positions: str) -> None:
    model = a_model(lab.HandBuiltLayer(), positions=positions)
    cache = model.cache(SMALL)
    raw, embedded = cache["blocks.0.hook_resid_pre"], cache["hook_embed"]
    keys = torch.stack([raw[:, 0], *embedded.unbind(1)[:5], raw[:, 6]], 1)  # of the token before, but first and query
    assert torch.equal(embedded[:, 0], model["embed.W_E"][SMALL.tokens[:, 0]])
    for head in range(2):
        assert torch.equal(cache["blocks.1.hook_k_input"][:, :, head], keys)
        assert torch.equal(cache["blocks.1.hook_q_input"][:, :, head], raw)
        assert torch.equal(cache["blocks.1.hook_v_input"][:, :, head], raw)
    before = model(SMALL)
    model.params["blocks.0.attn.W_O"] *= 2
    assert torch.equal(model(SMALL), before), "the layer below plays no part"
    assert not torch.allclose(a_model(positions=positions)(SMALL), before)


def test_match() -> None:
    model, site = a_model(lab.Match(head=1)), "blocks.1.attn.hook_pattern"
    pattern, free = model.cache(SMALL)[site], a_model().cache(SMALL)[site]
    assert pattern[0, 1, -1].tolist() == [0, 0.5, 0, 0, 0, 0.5, 0]
    assert torch.equal(pattern[1, 1, -1], free[1, 1, -1]), "no right label: the row is left alone"
    assert pattern[2, 1, -1].tolist() == [0, 0, 0, 0, 0, 1, 0], "of its class, but not the answer: no"
    assert torch.equal(pattern[:, 1, :-1], free[:, 1, :-1]) and torch.equal(pattern[:, 0], free[:, 0])


def test_copy() -> None:
    cache = a_model(lab.Copy(head=1)).cache(SMALL)
    scores = cache["blocks.1.attn.hook_attn_scores"][:, 1, -1].numpy()
    a, b, c = scores[:, 1], scores[:, 3], scores[:, 5]
    either = np.logaddexp
    by_hand = [[NEVER, b[0], either(a[0], c[0])], [NEVER, a[1], either(b[1], c[1])], [a[2], either(b[2], c[2]), NEVER]]
    np.testing.assert_allclose(cache["logits"][:, -1], by_hand, rtol=1e-7)
    assert torch.equal(cache["logits"][:, :-1], a_model().cache(SMALL)["logits"][:, :-1])
    unrecorded = a_model(lab.Copy(head=1))(SMALL)  # the fused kernel has no scores
    torch.testing.assert_close(unrecorded, cache["logits"], rtol=1e-12, atol=1e-12)


def test_only_heads() -> None:
    z = a_model(lab.OnlyHeads(heads=(1,))).cache(SMALL)["blocks.1.attn.hook_z"]
    assert not z[:, :, 0].any() and torch.equal(z[:, :, 1], a_model().cache(SMALL)["blocks.1.attn.hook_z"][:, :, 1])


def parts(flat: Flat) -> dict[str, Tensor]:
    """Gradients of one member by what they belong to: `1.q.0` are the queries of head 0 in layer 1."""
    grads = {name: grad[0] for name, grad in zip(flat.table, flat.grads, strict=True)}
    found = {name: grads[name] for name in ("embed.W_E", "ln_final.w", "unembed.W_U")}
    for layer in range(2):
        found[f"{layer}.ln"] = grads[f"blocks.{layer}.ln1.w"]
        for k, slices in enumerate(grads[f"blocks.{layer}.attn.W_QKV"].chunk(6, -1)):
            found[f"{layer}.{'qkv'[k // 2]}.{k % 2}"] = slices
        found |= {f"{layer}.o.{head}": o for head, o in enumerate(grads[f"blocks.{layer}.attn.W_O"].chunk(2))}
    return found


ALL = {f"{x}.{head}" for x in "qkvo" for head in range(2)}
STILL = {
    (): set(),
    (lab.PreviousToken(head=1),): {"0.q.1", "0.k.1"},
    (lab.HandBuiltLayer(),): {"0.ln", *(f"0.{part}" for part in ALL)},
    (lab.Match(head=1),): {"1.q.1", "1.k.1"},
    (lab.Copy(head=1),): {"ln_final.w", "unembed.W_U", *(f"1.{part}" for part in ALL - {"q.1", "k.1"})},
    (lab.OnlyHeads(heads=(1,)),): {f"1.{x}.0" for x in "qkvo"},
}


@pytest.mark.parametrize("edits", STILL, ids=lambda edits: edits[0].name if edits else "none")
def test_no_gradient_where_it_is_clamped_and_some_everywhere_else(edits: tuple[Clamp, ...]) -> None:
    spec = replace(SPEC, edits=edits)
    flat = Flat(shapes(spec.model, spec.task), 1)
    flat.load(0, random_params(spec.model, spec.task, np.random.default_rng(0)))
    batches = [batch(spec.task, 0, 0, "train", 16)]
    flat.backward(member_losses(spec, flat, batches, "cpu", tape=clamped([spec], batches, "cpu")).sum())
    still = {name for name, grad in parts(flat).items() if not grad.any()}
    assert still == STILL[edits], "exactly zero, and only there"


def hashes(folder: Folder) -> list[str]:
    return [content_hash(folder.weights(step)) for step in folder.steps] + [read_log(folder).to_csv()]


STACKS = {
    "different": [(), *((clamp,) for clamp in EVERY if clamp.name != "hand_built_layer")],
    "hand built": [(lab.HandBuiltLayer(), lab.Copy()), (lab.HandBuiltLayer(), lab.Copy(head=1))],
    "fused": [(lab.OnlyHeads(),), (lab.OnlyHeads(heads=(1,)),)],
}


@pytest.mark.parametrize("name", STACKS)
def test_members_of_a_stack_have_clamps_and_facts_of_their_own(tmp_path: Path, name: str) -> None:
    """Bit for bit; where clamps differ the attention path must not."""
    model = replace(MODEL, attention="explicit" if name == "different" else "fused")
    specs = [replace(SPEC.seeded(seed), model=model, edits=edits) for seed, edits in enumerate(STACKS[name])]
    alone = [Folder.create(spec, tmp_path / "alone") for spec in specs]
    for folder in alone:
        grow([folder], 6, (3,))
    together = [Folder.create(spec, tmp_path / "together") for spec in specs]
    grow(together, 6, (3,))
    assert [hashes(folder) for folder in together] == [hashes(folder) for folder in alone]
    assert len({hashes(folder)[-1] for folder in alone}) == len(specs)


def test_only_equal_clamps_are_stacked_by_the_planner() -> None:
    def job(seed: int, *edits: Clamp) -> Job:
        return Job("arm", replace(SPEC.seeded(seed), edits=edits), STEPS, KEEP, (), seed)

    assert likeness(job(0, lab.Match())) == likeness(job(1, lab.Match()))
    assert likeness(job(0, lab.Match())) != likeness(job(1, lab.Match(head=1)))
    assert likeness(job(0)) != likeness(job(1, lab.Match())) and likeness(job(0)) == likeness(job(1))


def test_without_clamps_nothing_listens() -> None:
    assert clamped([SPEC, SPEC], [SMALL, SMALL], "cpu") is SILENT


def test_the_text_of_a_spec() -> None:
    assert MARKOV.digest == "d332672491", "specs without clamps keep the digest that they had before there were any"
    assert "edits" not in to_json(SPEC)
    spec = replace(SPEC, edits=EVERY)
    assert from_json(to_json(spec), Few) == spec and from_json(to_json(SPEC), Few) == SPEC
    assert {clamp.name for clamp in EVERY} == set(CLAMPS)
    described = to_json(replace(SPEC, edits=(lab.OnlyHeads(heads=(0, 1)),)))
    assert described["edits"] == [{"name": "only_heads", "layer": 1, "heads": [0, 1]}]
    several = [SPEC, *(replace(SPEC, edits=edits) for edits in [*((c,) for c in EVERY), EVERY, EVERY[::-1]])]
    assert len({spec.digest for spec in several}) == len(several)
    name = replace(SPEC, edits=(lab.Match(), lab.Copy(head=1), lab.OnlyHeads(layer=0, heads=(0, 1)))).name
    assert name.startswith("few-match-copy.head=1-only_heads.layer=0.heads=0+1-heads=2-")
    described["edits"][0]["name"] = "only_head"
    with pytest.raises(ValueError, match="no clamp 'only_head'; did you mean 'only_heads'"):
        from_json(described, Few)
    described["edits"] = [{"name": "match", "heads": 3}]
    with pytest.raises(ValueError, match="no dial of the clamp match 'heads'; did you mean 'head'"):
        from_json(described, Few)


def test_a_run_continues_exactly(tmp_path: Path) -> None:
    spec = replace(SPEC, edits=EVERY[1:])
    whole, halves = (Folder.create(spec, tmp_path / name) for name in ("whole", "halves"))
    grow([whole], STEPS, KEEP)

    def interrupt(step: int, losses: list[float]) -> None:
        if step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grow([halves], STEPS, KEEP, watch=interrupt)
    grow([halves], STEPS, KEEP)
    assert hashes(halves) == hashes(whole)


def test_what_was_clamped_in_training_is_clamped_when_measured(tmp_path: Path) -> None:
    clamps = (lab.HandBuiltLayer(), lab.Match(head=1))
    model = replace(MODEL, norm="plain")
    run = lab.train(Few(), model, steps=STEPS, batch=16, edits=clamps, keep=KEEP, out=tmp_path, progress=False)
    assert run.spec.edits == clamps
    opened = run.model(5)
    bare = Model(model, Few(), run.weights(5))
    seen = batch(Few(), 0, 5, "train", 16)
    assert torch.equal(opened(seen), bare(seen, clamping(clamps))) and not torch.allclose(opened(seen), bare(seen))
    losses = -opened.log_probs(seen)[torch.arange(16), -1, torch.from_numpy(seen.targets[:, -1])]
    assert float(losses.mean()) == pytest.approx(read_log(run)["loss"][5], rel=1e-5), "what training saw"
    rows, batches = lab.measure(run, lab.Loss(n=64), [5]), unseen(Few(), 0, "train", 64)
    losses = -opened.log_probs(batches)[torch.arange(64), -1, torch.from_numpy(batches.targets[:, -1])]
    assert rows["value"][0] == pytest.approx(float(losses.mean()), rel=1e-5)
    slopes = gradient(opened, seen)
    assert not slopes["blocks.0.attn.W_QKV"].any() and slopes["blocks.1.attn.W_QKV"].any()
    norms = lab.measure(run, lab.Norms(), [5])
    logged = norms[(norms["metric"] == "grad_norm") & norms["site"].isna()]["value"].item()
    assert logged == pytest.approx(read_log(run)["grad_norm"][5], rel=1e-4)


def test_further_edits_come_after_the_clamps() -> None:
    site, seen = "blocks.1.attn.hook_pattern", []

    def look(value: Tensor, context: Context) -> Tensor:
        seen.append(value[0, 1, -1].tolist())
        return torch.zeros_like(value)

    cache = a_model(lab.Match(head=1)).cache(SMALL, [site], [Edit(site, look)])
    assert seen == [[0, 0.5, 0, 0, 0, 0.5, 0]] and not cache[site].any()


def test_large_batches_are_cut_with_their_facts() -> None:
    model, many = a_model(*EVERY[2:]), unseen(Few(), 0, "train", 50)
    whole = model(many)
    model.memory = 1
    torch.testing.assert_close(model(many), whole, rtol=1e-12, atol=1e-12)


def test_facts_are_needed_only_where_they_are_read() -> None:
    with pytest.raises(ValueError, match="the clamp match needs the fact 'classes'.* call the model with one .*none"):
        a_model(lab.Match())(SMALL.tokens)
    free = a_model(lab.PreviousToken(), lab.HandBuiltLayer(), lab.OnlyHeads())
    assert torch.equal(free(SMALL.tokens), free(SMALL))


@pytest.mark.parametrize(
    ("edits", "complaint"),
    [
        ((lab.Match(layer=2),), "match: layer = 2 is out of range: 0 to 1"),
        ((lab.Copy(head=2),), "copy: head = 2 is out of range: 0 to 1 in layer 1"),
        ((lab.OnlyHeads(heads=(0, -1)),), "only_heads: head = -1 is out of range"),
        ((lab.HandBuiltLayer(layer=0),), "hand_built_layer: layer = 0 is out of range: 1 or more"),
        ((lab.Match,), "edits = .* is out of range"),
    ],
)
def test_what_cannot_be_clamped(edits: tuple[Clamp, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        replace(SPEC, edits=edits)


def test_what_has_no_heads_or_no_facts_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the clamp match is for a transformer, not for LSTM"):
        Spec(Few(), LSTM(), edits=(lab.Match(),))
    with pytest.raises(ValueError, match="the clamp match is for a transformer"):
        replace_all(replace(SPEC, edits=(lab.Match(),)), {"model.kind": "lstm"})
    with pytest.raises(ValueError, match="no fact of markov for the clamp match 'classes'"):
        lab.train(Markov(), edits=(lab.Match(),), out=tmp_path, progress=False)
    with pytest.raises(ValueError, match="a task, where model, optimizer or edits are given beside it"):
        lab.train(SPEC, edits=(lab.Match(),), out=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_transformer_lens_knows_no_clamps() -> None:
    with pytest.raises(ValueError, match="edits = .* cannot be expressed"):
        check(a_model(lab.OnlyHeads()))


def test_clamps_at_the_command_line() -> None:
    assert parse_clamp("match:layer=0:head=3") == lab.Match(layer=0, head=3) and parse_clamp("copy") == lab.Copy()
    assert parse_clamp("only_heads:heads=[1,3]") == lab.OnlyHeads(heads=(1, 3))
    for text, complaint in [
        ("mach", "no clamp 'mach'; did you mean 'match'"),
        ("match:3", "'match:3' is not of the form clamp:dial=value"),
        ("match:haed=3", "no dial of the clamp match 'haed'; did you mean 'head'"),
        ("match:name=copy", "no dial of the clamp match 'name'"),
        ("match:head=1,2", "head = '1,2' is out of range: it is of kind int"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            parse_clamp(text)
