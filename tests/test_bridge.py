"""Invariant 5: logits, sites and effects equal TransformerLens's on the same weights; others are refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy import Toy, random_params

from probelab.bridge import to_transformer_lens
from probelab.edit import Edit
from probelab.runs import Folder
from probelab.spec import Optimizer, Spec, Transformer
from probelab.subject import Model, Run
from probelab.train import grow
from synthetic_tasks import Markov

# On TransformerLens's native model these hold other things: scores are its pattern, its MLP input is normalised.
NOT_THEIRS = ("attn_scores", "mlp_in")


def random_spec(rng: np.random.Generator) -> Transformer:
    """Any shape that TransformerLens can express."""

    def pick(*options: Any) -> Any:
        return options[rng.integers(len(options))]

    heads = pick(1, 2, 3)
    return Transformer(
        layers=pick(1, 2, 3),
        heads=heads,
        d_model=12 * pick(1, 2),
        d_head=pick(None, 2, 8),
        d_mlp=pick(0, 5, 16),
        activation=pick("gelu", "relu"),
        norm=pick("layer", "plain", "none"),
        positions=pick("learned", "rotary", "sinusoidal", "none"),
        base=pick(10_000.0, 30.5),
        biases=pick(True, False),
        dropout=pick(0.0, 0.1),
        tied=pick(True, False),
        attention=pick("fused", "explicit"),
    )


def close(ours: Tensor, theirs: Tensor) -> bool:
    """Within the tolerance of invariant 5."""
    gap, largest = float((ours - theirs).abs().max()), float(ours.abs().max())
    return gap <= (1e-9 if ours.dtype == torch.float64 else 1e-5 * max(1.0, largest))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", range(24))
def test_any_shape_it_can_express(seed: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(seed)
    spec, symbols = random_spec(rng), int(rng.integers(2, 9))
    task = Toy(symbols=symbols, answers=symbols if spec.tied else int(rng.integers(2, 9)))
    ours = Model(spec, task, random_params(spec, task, rng), dtype)
    check_equal(ours, rng.integers(symbols, size=(3, int(rng.integers(1, task.length + 1)))))


def check_equal(ours: Model, tokens: np.ndarray) -> None:
    with torch.no_grad():
        logits, cached = to_transformer_lens(ours).run_with_cache(torch.as_tensor(tokens))
    mine, sites = ours.run(tokens, ours.sites)
    assert mine.dtype == logits.dtype == ours.dtype
    assert close(mine, logits)
    both = [site for site in sites if site in cached and not site.endswith(NOT_THEIRS)]
    for site in both:
        assert close(sites[site], cached[site]), site
    expected = {"embed", "resid_pre", "q", "k", "v", "pattern", "z", "attn_out", "resid_post"}
    expected |= {"pos_embed"} if ours.spec.positions in ("learned", "sinusoidal") else set()
    expected |= {"resid_mid", "pre", "post", "mlp_out"} if ours.spec.d_mlp else set()
    assert expected <= {site.split("hook_")[1] for site in both}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    spec = Spec(
        Markov(states=3, length=16), Transformer(layers=2, heads=2, d_model=16, d_mlp=32), Optimizer(lr=3e-3), batch=32
    )
    folder = Folder.create(spec, tmp_path_factory.mktemp("runs"))
    grow([folder], 30)
    return Run(folder.path)


def test_a_trained_checkpoint(trained: Run) -> None:
    for dtype in (torch.float32, torch.float64):
        check_equal(trained.model(30, dtype), trained.batch(8).tokens)
    batch = trained.batch(8)
    with torch.no_grad():
        assert close(trained.model()(batch), trained.to_transformer_lens()(torch.as_tensor(batch.tokens)))


def test_patching_has_the_same_effect(trained: Run) -> None:
    """Every head's z, taken from another batch, moves the logits as it does in TransformerLens."""
    ours, clean, other = (
        trained.model(30, torch.float64),
        trained.batch(4).tokens,
        trained.batch(4, seed="other").tokens,
    )
    theirs = to_transformer_lens(ours)
    for layer, head in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        site = f"blocks.{layer}.attn.hook_z"
        donor = ours.cache(other, [site])[site]

        def patch(z: Tensor, *_: object, hook: object = None, head: int = head, donor: Tensor = donor) -> Tensor:
            return torch.where((torch.arange(z.shape[2]) == head)[:, None], donor, z)

        with torch.no_grad():
            expected = theirs.run_with_hooks(torch.as_tensor(clean), fwd_hooks=[(site, patch)])
        assert not close(ours(clean), expected)
        assert close(ours(clean, [Edit(site, patch)]), expected)


def test_the_bridge_stands_alone(trained: Run) -> None:
    """Its weights are copies, in evaluation mode, and making it draws nothing from the global stream."""
    ours, tokens = trained.model(), trained.batch(4).tokens
    before, state = ours(tokens), torch.get_rng_state()
    bridge = to_transformer_lens(ours)
    assert torch.equal(torch.get_rng_state(), state)
    assert not bridge.training
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.zero_()
    assert torch.equal(ours(tokens), before)


@pytest.mark.parametrize(
    ("dials", "features", "said"),
    [
        ({"positions": "relative"}, 0, "positions = 'relative'.*'rotary'"),
        ({"scaled": False}, 0, "scaled = False.*sqrt"),
        ({"heads": (2, 1)}, 0, r"heads = \(2, 1\).*every layer"),
        ({"readout": (8,)}, 0, r"readout = \(8,\)"),
        ({}, 3, "features = 3.*toy has vectors"),
    ],
)
def test_what_it_cannot_express_is_refused(dials: dict[str, Any], features: int, said: str) -> None:
    spec, task = Transformer(d_model=8, **dials), Toy(width=features)
    model = Model(spec, task, random_params(spec, task, np.random.default_rng(0)))
    with pytest.raises(ValueError, match=said):
        to_transformer_lens(model)


def test_unscaled_heads_of_size_one_are_no_exception() -> None:
    """Dividing by sqrt(1) is no division."""
    spec, task = Transformer(d_model=4, heads=2, d_head=1, positions="none", scaled=False), Toy()
    rng = np.random.default_rng(0)
    check_equal(
        Model(spec, task, random_params(spec, task, rng), torch.float64), rng.integers(task.symbols, size=(2, 5))
    )
