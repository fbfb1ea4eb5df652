"""Invariant 4: every site is causal and holds what its name says; the forward pass equals one written with loops."""

from __future__ import annotations

from dataclasses import replace
from math import erf

import numpy as np
import pytest
import torch
from torch import Tensor
from toy import Toy, random_params

from probelab.edit import Edit
from probelab.model import INITS, init, shapes
from probelab.spec import Spec, Transformer
from probelab.subject import Model
from probelab.train import dropout
from probelab.weights import norm
from synthetic_tasks import Markov

Array = np.ndarray

SPECS: dict[str, Transformer] = {
    "learned": Transformer(layers=2, heads=2, d_model=8, d_mlp=12, positions="learned"),
    "rotary": Transformer(layers=2, heads=(2, 1), d_model=8, positions="rotary", base=30.0),
    "sinusoidal": Transformer(
        layers=1, heads=2, d_model=6, d_mlp=5, activation="relu", positions="sinusoidal", norm="plain"
    ),
    "relative": Transformer(layers=2, heads=2, d_model=8, positions="relative", biases=False),
    "none, unscaled": Transformer(layers=2, heads=1, d_model=6, positions="none", scaled=False, norm="none"),
    "relative, unscaled": Transformer(
        layers=1, heads=2, d_model=6, d_head=5, positions="relative", scaled=False, d_mlp=4
    ),
    "tied": Transformer(layers=1, heads=2, d_model=8, tied=True, attention="explicit"),
    "readout": Transformer(layers=2, heads=1, d_model=6, readout=(7, 4), scaled=False),
}
TASKS = {"symbols": Toy(symbols=4, answers=4), "vectors": Toy(symbols=4, answers=4, width=3)}


def a_model(spec: Transformer, task: Toy, dtype: torch.dtype = torch.float64, seed: int = 0) -> Model:
    return Model(spec, task, random_params(spec, task, np.random.default_rng(seed)), dtype)


def normalise(spec: Transformer, w: dict[str, Array], name: str, x: Array) -> Array:
    """A layer normalisation of one vector, by its definition."""
    if spec.norm == "none":
        return x
    x = (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)
    return x * w[f"{name}.w"] + w[f"{name}.b"] if spec.norm == "layer" else x


def turned(x: Array, position: int, base: float) -> Array:
    """Neighbouring pairs as complex numbers, turned by their position."""
    pairs = x[0::2] + 1j * x[1::2]
    frequencies = base ** (-np.arange(0, len(x), 2) / len(x))
    pairs = pairs * np.exp(1j * position * frequencies)
    return np.stack([pairs.real, pairs.imag], -1).reshape(-1)


def reference(spec: Transformer, w: dict[str, Array], tokens: Array, vectors: Array | None) -> dict[str, Array]:
    """Every site of one sequence, one position and one head at a time, in float64."""
    w = {name: value.astype(np.float64) for name, value in w.items()}
    n, found = len(tokens), {}
    embed = np.stack([w["embed.W_E"][t] if t >= 0 else vectors[i] @ w["embed.W_in"] for i, t in enumerate(tokens)])
    found["hook_embed"] = stream_ = embed
    if spec.positions == "learned":
        found["hook_pos_embed"] = w["pos_embed.W_pos"][:n]
    if spec.positions == "sinusoidal":
        waves = [[t * spec.base ** (-2 * i / spec.d_model) for i in range(spec.d_model // 2)] for t in range(n)]
        found["hook_pos_embed"] = np.array([[*np.sin(row), *np.cos(row)] for row in waves])
    stream_ = embed + found.get("hook_pos_embed", 0)
    for layer in range(spec.layers):
        block, here, heads, size = (
            f"blocks.{layer}",
            f"blocks.{layer}.attn",
            spec.heads_of(layer),
            spec.head_size(layer),
        )
        found[f"{block}.hook_resid_pre"] = stream_
        for x in "qkv":
            found[f"{block}.hook_{x}_input"] = np.stack([stream_] * heads, 1)
        normed = [normalise(spec, w, f"{block}.ln1", row) for row in stream_]
        joint = np.stack([row @ w[f"{here}.W_QKV"] + w.get(f"{here}.b_QKV", 0) for row in normed])
        q, k, v = joint.reshape(n, 3, heads, size).swapaxes(0, 1)
        found |= {f"{here}.hook_q": q, f"{here}.hook_k": k, f"{here}.hook_v": v}
        if spec.positions == "rotary":
            q, k = (np.array([[turned(x[t, h], t, spec.base) for h in range(heads)] for t in range(n)]) for x in (q, k))
            found |= {f"{here}.hook_rot_q": q, f"{here}.hook_rot_k": k}
        scores, pattern = np.full((heads, n, n), -np.inf), np.zeros((heads, n, n))
        z = np.zeros((n, heads, size))
        for h in range(heads):
            for i in range(n):
                for j in range(i + 1):
                    key = k[j, h] + (w[f"{here}.W_rel"][h, i - j] if spec.positions == "relative" else 0)
                    scores[h, i, j] = q[i, h] @ key / (np.sqrt(size) if spec.scaled else 1)
                weight = np.exp(scores[h, i, : i + 1] - scores[h, i, : i + 1].max())
                pattern[h, i, : i + 1] = weight / weight.sum()
                z[i, h] = pattern[h, i, : i + 1] @ v[: i + 1, h]
        found |= {f"{here}.hook_attn_scores": scores, f"{here}.hook_pattern": pattern, f"{here}.hook_z": z}
        per_head = w[f"{here}.W_O"].reshape(heads, size, -1)
        result = np.stack([z[:, h] @ per_head[h] for h in range(heads)], 1)
        written = result.sum(1) + w.get(f"{here}.b_O", 0)
        found |= {f"{here}.hook_result": result, f"{block}.hook_attn_out": written}
        stream_ = stream_ + written
        if spec.d_mlp:
            found |= {f"{block}.hook_resid_mid": stream_, f"{block}.hook_mlp_in": stream_}
            pre = np.stack([normalise(spec, w, f"{block}.ln2", row) for row in stream_]) @ w[
                f"{block}.mlp.W_in"
            ] + w.get(f"{block}.mlp.b_in", 0)
            gelu = np.vectorize(lambda x: x * (1 + erf(x / 2**0.5)) / 2)
            post = gelu(pre) if spec.activation == "gelu" else np.maximum(pre, 0)
            out = post @ w[f"{block}.mlp.W_out"] + w.get(f"{block}.mlp.b_out", 0)
            found |= {f"{block}.mlp.hook_pre": pre, f"{block}.mlp.hook_post": post, f"{block}.hook_mlp_out": out}
            stream_ = stream_ + out
        found[f"{block}.hook_resid_post"] = stream_
    final = np.stack([normalise(spec, w, "ln_final", row) for row in stream_])
    for layer in range(len(spec.readout)):
        final = found[f"readout.{layer}.hook_post"] = np.maximum(
            final @ w[f"readout.{layer}.W"] + w[f"readout.{layer}.b"], 0
        )
    return found | {"logits": final @ (w["embed.W_E"].T if spec.tied else w["unembed.W_U"])}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_site_holds_what_its_name_says(spec: Transformer, task: Toy) -> None:
    rng = np.random.default_rng(1)
    params, batch = random_params(spec, task, rng), task.sample(rng, 3)
    model = Model(spec, task, params, torch.float64)
    logits, cache = model.run(batch, model.sites)
    assert list(cache) == model.sites
    assert torch.equal(cache["logits"], logits)
    for i in range(len(batch)):
        expected = reference(spec, params, batch.tokens[i], None if batch.vectors is None else batch.vectors[i])
        assert set(expected) == set(cache)
        for site, value in expected.items():
            np.testing.assert_allclose(
                cache[site][i].numpy(), value, atol=5e-7 if spec.positions == "rotary" else 1e-12, err_msg=site
            )


def test_a_model_worked_by_hand() -> None:
    """Two symbols, one head that looks at all positions alike and copies what it sees."""
    spec = Transformer(layers=1, heads=1, d_model=2, norm="none", positions="none", biases=False)
    nothing, same = np.zeros((2, 2), np.float32), np.eye(2, dtype=np.float32)
    joint = np.concatenate([nothing, nothing, same], 1)
    params = {"embed.W_E": same, "blocks.0.attn.W_QKV": joint, "blocks.0.attn.W_O": same, "unembed.W_U": 2 * same}
    logits = Model(spec, Toy(symbols=2, answers=2), params)(np.array([0, 1, 1, 1]))
    # the symbol itself, plus the share of each symbol so far, times two
    assert logits[0].tolist() == [[4, 0], [1, 3], [pytest.approx(2 / 3), pytest.approx(2 + 4 / 3)], [0.5, 3.5]]


def test_the_model_of_edelman2024_has_its_published_size() -> None:
    task = Toy(symbols=3, answers=3, length=100)
    spec = Transformer(layers=2, heads=1, d_model=16, positions="relative", biases=False, init="edelman2024")
    assert sum(value.size for value in init(spec, task, 0).values()) == 5440


def noise(value: Tensor, at: int, axis: int) -> Tensor:
    """The value with noise at one position of an axis."""
    where = torch.arange(value.shape[axis]) == at
    added = torch.randn(value.shape, generator=torch.Generator().manual_seed(0), dtype=value.dtype)
    return value + added * where.view([-1] + [1] * (value.dim() - axis - 1))


@pytest.mark.parametrize("name", SPECS)
def test_every_site_is_causal(name: str) -> None:
    """An edit at position 4 moves the logits, there or later, and leaves the earlier ones as they were."""
    spec, task = SPECS[name], TASKS["symbols"]
    model, batch = a_model(spec, task), task.sample(np.random.default_rng(0), 2)
    plain = model(batch)
    for site in model.sites:
        axis = 2 if site.endswith(("scores", "pattern")) else 1  # [batch head q k]: the query's position

        def edit(value: Tensor, _: object, axis: int = axis) -> Tensor:
            return noise(value, 4, axis)

        moved = (model(batch, [Edit(site, edit)]) - plain).abs().amax((0, 2))
        assert moved[:4].max() < 1e-12, site
        assert moved[4:].max() > 1e-6, site


@pytest.mark.parametrize("name", SPECS)
def test_writing_back_what_was_read_changes_nothing(name: str) -> None:
    """Bit for bit: an edited site takes the same path as a recorded one."""
    model = a_model(replace(SPECS[name], attention="explicit"), TASKS["symbols"], torch.float32)
    batch = TASKS["symbols"].sample(np.random.default_rng(0), 2)
    plain = model(batch)
    for site in model.sites:
        logits, cache = model.run(batch, [site])
        torch.testing.assert_close(logits, plain, rtol=1e-5, atol=1e-5)
        again = model(batch, [Edit(site, lambda value, _, kept=cache[site]: kept.clone())])
        assert torch.equal(again, logits), site


def test_an_edit_sees_the_facts_and_the_sites_passed_so_far() -> None:
    model, batch = a_model(SPECS["learned"], TASKS["symbols"]), TASKS["symbols"].sample(np.random.default_rng(0), 2)
    batch = replace(batch, facts={"mark": np.array([1, 0])})
    early = "blocks.0.hook_resid_pre"

    def restore(value: Tensor, context: object) -> Tensor:
        return torch.where(context.facts["mark"].bool()[:, None, None], context.sites[early], value)

    edited = model.cache(batch, [early, "blocks.1.hook_resid_post"], [Edit("blocks.1.hook_resid_post", restore)])
    plain = model.cache(batch, ["blocks.1.hook_resid_post"])["blocks.1.hook_resid_post"]
    assert torch.equal(edited["blocks.1.hook_resid_post"][0], edited[early][0])
    assert torch.equal(edited["blocks.1.hook_resid_post"][1], plain[1])


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_an_edit_sees_what_was_there_before_the_nonlinearity(activation: str) -> None:
    """Which is written over where nobody asks for it."""
    model = a_model(replace(SPECS["learned"], activation=activation), TASKS["symbols"])
    batch, pre, post = TASKS["symbols"].sample(np.random.default_rng(0), 2), "blocks.0.mlp.hook_pre", "blocks.0.mlp"
    known = model.cache(batch, [pre])[pre]
    assert known.min() < -0.5, "a nonlinearity would change it"
    seen = model.cache(batch, [f"{post}.hook_post"], [Edit(f"{post}.hook_post", lambda _, context: context.sites[pre])])
    assert torch.equal(seen[f"{post}.hook_post"], known)


def test_a_stack_is_normalised_as_each_alone() -> None:
    """In one kernel where no gradient is asked for, and to the bit as with one."""
    draw = np.random.default_rng(0)
    x, weight, bias = (
        torch.from_numpy(draw.normal(1, 3, shape).astype(np.float32)) for shape in ((3, 5, 16), (3, 16), (3, 16))
    )
    with_gradient = norm("layer", {"ln.w": weight, "ln.b": bias}, "ln", x)
    with torch.no_grad():
        assert torch.equal(norm("layer", {"ln.w": weight, "ln.b": bias}, "ln", x), with_gradient)
        for k in range(3):
            alone = norm("layer", {"ln.w": weight[k : k + 1], "ln.b": bias[k : k + 1]}, "ln", x[k : k + 1])
            assert torch.equal(alone[0], with_gradient[k])


def test_an_unknown_site_is_refused_with_the_near_miss() -> None:
    model = a_model(SPECS["learned"], TASKS["symbols"])
    with pytest.raises(ValueError, match=r"blocks.0.hook_resid_mit.*did you mean 'blocks.0.hook_resid_mid'"):
        model.cache(np.array([0, 1]), ["blocks.0.hook_resid_mit"])


@pytest.mark.parametrize("name", [name for name in SPECS if "relative" not in name])
def test_fused_attention_gives_the_same_logits(name: str) -> None:
    batch = TASKS["symbols"].sample(np.random.default_rng(0), 2)
    fused, explicit = (
        a_model(replace(SPECS[name], attention=path), TASKS["symbols"])(batch) for path in ("fused", "explicit")
    )
    torch.testing.assert_close(fused, explicit, rtol=1e-12, atol=1e-12)


# Standard deviations as published, for d_model 128 (head 128, MLP 512, readout 128): name of a matrix -> value.
PUBLISHED = {
    "gpt2": {"embed.W_E": 0.02, "attn.W_QKV": 0.02, "attn.W_O": 0.01, "mlp.W_out": 0.01, "unembed.W_U": 0.02},
    "lecun": {
        "attn.W_QKV": 128**-0.5,
        "attn.W_O": 128**-0.5,
        "mlp.W_in": 128**-0.5,
        "mlp.W_out": 512**-0.5,
        "unembed.W_U": 128**-0.5,
    },
    "edelman2024": {"embed.W_E": 0.02, "attn.W_QKV": 0.02, "attn.W_O": 0.01, "unembed.W_U": 0.02},
    "reddy2023": {"attn.W_QKV": 63**-0.5, "readout.0.W": (2 / 128) ** 0.5, "unembed.W_U": 128**-0.5},
    "singh2024": {
        "embed.W_E": 0.0176,
        "embed.W_in": 512**-0.5,
        "attn.W_QKV": 128**-0.5,
        "attn.W_O": 128**-0.5,
        "unembed.W_U": 128**-0.5,
    },
}


@pytest.mark.parametrize("name", INITS)
def test_initial_weights_have_their_published_scale(name: str) -> None:
    spec = Transformer(layers=2, heads=1, d_model=128, d_mlp=512, readout=(128,), init=name)
    drawn = init(spec, Toy(symbols=64, answers=64, width=512), 0)
    for parameter, expected in PUBLISHED[name].items():
        values = next(value for full, value in drawn.items() if full.endswith(parameter))
        assert values.std() == pytest.approx(expected, rel=5 / (2 * values.size) ** 0.5 + 1e-3)
        assert abs(values.mean()) < 5 * expected / values.size**0.5


def test_a_parameter_is_drawn_at_its_own_address() -> None:
    """One more part leaves the others' initial values as they are; another seed changes all of them."""
    small, large = (init(Transformer(d_mlp=size), TASKS["symbols"], 0) for size in (0, 32))
    assert set(small) < set(large)
    assert all(np.array_equal(small[name], large[name]) for name in small)
    other = init(Transformer(), TASKS["symbols"], 1)
    assert not any(np.array_equal(small[name], other[name]) for name in small if "W_" in name)


def test_dropout_masks_have_addresses() -> None:
    """Who, when and where decide the mask: not the neighbours in the stack, nor what was drawn before."""
    specs = [Spec(Markov(), Transformer(dropout=0.3), init=seed) for seed in (0, 1, 2)]
    value = torch.ones(3, 40, 50, 10)
    together = dropout(specs, 7, "cpu")("blocks.0.hook_attn_out", value)
    for member, spec in enumerate(specs):
        drop = dropout([spec], 7, "cpu")
        drop("hook_embed", value[:1])
        assert torch.equal(drop("blocks.0.hook_attn_out", value[:1])[0], together[member])
    dropped = (together == 0).double().mean((1, 2, 3))
    torch.testing.assert_close(
        dropped, torch.full((3,), 0.3, dtype=torch.float64), rtol=0, atol=5 * (0.21 / 20_000) ** 0.5
    )
    assert together.unique().tolist() == [0, pytest.approx(1 / 0.7)]
    others = [("blocks.0.hook_attn_out", 8), ("blocks.1.hook_attn_out", 7)]
    assert not any(torch.equal(dropout(specs, step, "cpu")(site, value), together) for site, step in others)


def test_dropout_acts_where_the_spec_says() -> None:
    """On the embedding, the attention pattern and what each part writes, in the order of the pass."""
    from probelab.model import apply, inputs

    spec, task, seen = Transformer(layers=1, d_model=8, d_mlp=4, dropout=0.5), TASKS["symbols"], []
    model = a_model(spec, task, torch.float32)

    def drop(site: str, value: Tensor) -> Tensor:
        seen.append(site)
        return value

    apply(spec, model.params, inputs([task.sample(np.random.default_rng(0), 2)]), drop=drop)
    block = "blocks.0"
    assert seen == ["hook_embed", f"{block}.attn.hook_pattern", f"{block}.hook_attn_out", f"{block}.hook_mlp_out"]


def test_a_model_refuses_what_it_was_not_built_for() -> None:
    model = a_model(SPECS["learned"], TASKS["symbols"])
    with pytest.raises(ValueError, match="10 tokens are longer than the model's context of 9"):
        model(np.zeros((1, 10), int))
    with pytest.raises(ValueError, match="tokens from 0 to 4 are out of range: this model knows 0 to 3"):
        model(np.array([0, 4]))
    with pytest.raises(ValueError, match="tied = True needs as many outputs as symbols"):
        shapes(Transformer(tied=True), Toy(symbols=4, answers=3))


def test_chunks_do_not_change_the_answer() -> None:
    """Memory decides how many sequences go at a time, and nothing else."""
    spec, task = SPECS["rotary"], TASKS["vectors"]
    params, batch = random_params(spec, task, np.random.default_rng(0)), task.sample(np.random.default_rng(1), 7)
    whole, pieces = (Model(spec, task, params, torch.float64, memory=memory) for memory in (2 << 30, 1))
    assert pieces.chunk(batch, True) == 1
    (logits, cache), (parts, caches) = (model.run(batch, model.sites) for model in (whole, pieces))
    torch.testing.assert_close(parts, logits, rtol=1e-12, atol=1e-12)
    for site, value in cache.items():
        torch.testing.assert_close(caches[site], value, rtol=1e-12, atol=1e-12)
