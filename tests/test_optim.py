"""Optimisers against torch.optim, schedules by hand, and invariant 3: in a stack a member trains as it does alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from probelab.model import init, shapes
from probelab.optim import Flat, Update, learning_rate
from probelab.runs import Folder, content_hash
from probelab.spec import Optimizer, Spec, Transformer
from probelab.train import grow, read_log
from synthetic_tasks import Markov

MODEL, TASK = Transformer(layers=1, d_model=6, d_mlp=10, positions="learned"), Markov(states=3, length=5)
TABLE = shapes(MODEL, TASK)


def stack(*optimizers: Optimizer) -> tuple[Flat, Update]:
    flat = Flat(TABLE, len(optimizers))
    for member in range(len(optimizers)):
        flat.load(member, init(MODEL, TASK, member))
    return flat, Update(flat, optimizers)


def gradients(step: int) -> dict[str, torch.Tensor]:
    """Large at first and then smaller, as in training."""
    generator = torch.Generator().manual_seed(step)
    return {name: torch.randn(shape, generator=generator) / (1 + step) for name, (shape, _, _) in TABLE.items()}


def set_gradients(flat: Flat, member: int, step: int) -> None:
    for name, value in gradients(step).items():
        flat.view(flat.grad, name)[member] = value


PEERS: dict[str, tuple[dict[str, Any], Callable[[list], torch.optim.Optimizer]]] = {
    "adamw": (
        {"name": "adamw", "betas": (0.9, 0.95), "eps": 1e-6},
        lambda groups: torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-6),
    ),
    "adam with L2": (
        {"name": "adam", "betas": (0.8, 0.99)},
        lambda groups: torch.optim.Adam(groups, betas=(0.8, 0.99)),
    ),
    "sgd": ({"name": "sgd"}, lambda groups: torch.optim.SGD(groups)),
    "sgd with momentum": ({"name": "sgd", "momentum": 0.9}, lambda groups: torch.optim.SGD(groups, momentum=0.9)),
}


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("name", PEERS)
def test_it_moves_weights_as_torch_does(name: str, clip: float | None) -> None:
    """Twenty steps; each member has its own rate and decay, and decay acts on the groups that were listed, only."""
    dials, peer = PEERS[name]
    chosen = [
        Optimizer(lr=lr, weight_decay=decay, decayed=("attention", "bias"), clip=clip, **dials)
        for lr, decay in ((1e-2, 0.1), (3e-3, 0.5), (1e-3, 0.0))
    ]
    flat, update = stack(*chosen)
    moved = []
    for member, optimizer in enumerate(chosen):
        theirs = {
            name: torch.nn.Parameter(torch.from_numpy(value)) for name, value in init(MODEL, TASK, member).items()
        }
        groups = [
            {
                "params": [p],
                "lr": optimizer.lr,
                "weight_decay": optimizer.weight_decay * (TABLE[name].group in optimizer.decayed),
            }
            for name, p in theirs.items()
        ]
        reference = peer(groups)
        for step in range(20):
            for name, gradient in gradients(step).items():
                theirs[name].grad = gradient
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(theirs.values(), clip)
            reference.step()
        moved.append(theirs)
    for step in range(20):
        for member in range(len(chosen)):
            set_gradients(flat, member, step)
        update(step)
    for member, theirs in enumerate(moved):
        for name, expected in theirs.items():
            torch.testing.assert_close(flat.params[name][member], expected, rtol=1e-6, atol=1e-6)


def test_clipping_scales_each_member_by_its_own_norm() -> None:
    """What is reported is the norm before clipping; a small gradient is left as it is."""
    flat, update = stack(*[Optimizer(name="sgd", clip=1.0, weight_decay=0.0)] * 2)
    set_gradients(flat, 0, 0)
    set_gradients(flat, 1, 10_000)
    before = flat.grad.clone()
    theirs = list(gradients(0).values())
    parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in theirs]
    for parameter, gradient in zip(parameters, theirs, strict=True):
        parameter.grad = gradient
    norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    assert update(0) == pytest.approx([float(norm), float(before[1].norm())], rel=1e-6)
    for name, clipped in zip(TABLE, parameters, strict=True):
        torch.testing.assert_close(flat.view(flat.grad, name)[0], clipped.grad, rtol=1e-5, atol=1e-8)
    assert torch.equal(flat.grad[1], before[1])


def test_schedules_worked_by_hand() -> None:
    def rates(steps: list[int], **dials: Any) -> list[float]:
        return [learning_rate(Optimizer(lr=2.0, **dials), step) for step in steps]

    assert rates([0, 1, 999]) == [2, 2, 2]
    assert rates([0, 1, 3, 4, 99], warmup=4) == [0.5, 1, 2, 2, 2]
    cosine = rates([0, 1, 2, 5, 8, 20], warmup=2, schedule="cosine", horizon=8)
    assert cosine == pytest.approx([1, 2, 2, 1, 0, 0])
    assert rates([1, 3, 15, 63], warmup=4, schedule="inverse_sqrt") == pytest.approx([1, 2, 1, 0.5])


SIXTEENS = {
    "attention only, rotary": Transformer(layers=2, heads=2, d_model=32),
    "MLP, learned": Transformer(layers=1, heads=4, d_model=16, d_mlp=64, positions="learned"),
    "relative": Transformer(layers=2, heads=1, d_model=16, positions="relative", biases=False),
    "dropout, readout": Transformer(layers=1, heads=2, d_model=16, d_mlp=32, dropout=0.2, readout=(32,)),
    "plain norm, tied": Transformer(layers=1, heads=1, d_model=16, norm="plain", tied=True, positions="sinusoidal"),
}


def kept(folder: Folder) -> dict[str, str]:
    """Content of every checkpoint and of the log."""
    weights = {str(step): content_hash(folder.weights(step)) for step in folder.steps}
    return weights | {"log": str(pd.util.hash_pandas_object(read_log(folder)).sum())}


@pytest.mark.parametrize("model", SIXTEENS.values(), ids=SIXTEENS)
def test_a_member_of_a_stack_is_bit_identical_to_itself_alone(tmp_path: Path, model: Transformer) -> None:
    """Members differ in seeds, learning rate, decay and a dial of the task."""
    first = Spec(Markov(states=3, length=13), model, Optimizer(lr=3e-3, clip=1.0), batch=16)
    specs = [
        replace(
            first.seeded(member),
            task=Markov(states=3, length=13, concentration=1 + member, world=member),
            optimizer=replace(first.optimizer, lr=3e-3 * (1 + member), weight_decay=0.1 * member),
        )
        for member in range(3)
    ]
    together = [Folder.create(spec, tmp_path / "together") for spec in specs]
    grow(together, 12, (0, 1, 5))
    for spec, folder in zip(specs, together, strict=True):
        alone = Folder.create(spec, tmp_path / "alone")
        grow([alone], 12, (0, 1, 5))
        assert kept(folder) == kept(alone)
    assert len({kept(folder)["12"] for folder in together}) == 3
