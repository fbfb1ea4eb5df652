"""Which part is ready: an induction circuit with one part broken at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from planted import Planted, grown, induction, random_subject, table, value

from probelab.measures import Ready
from probelab.subject import Model
from synthetic_tasks import Classification, Repeats

TASK = Repeats(tokens=8, length=16)
WHOLE = 80.0  # what the circuit writes on the answer's logit, and not on the foil's


def broken(change: Callable[[dict[str, torch.Tensor]], None]) -> Model:
    model = induction(TASK)
    model.params = {name: value.clone() for name, value in model.params.items()}
    change(model.params)
    return model


def blind(layer: int) -> Callable[[dict[str, torch.Tensor]], None]:
    """Queries of 0: the layer looks at all it has read alike."""

    def change(params: dict[str, torch.Tensor]) -> None:
        weight = params[f"blocks.{layer}.attn.W_QKV"]
        weight[..., : weight.shape[-1] // 3] = 0

    return change


def mute(params: dict[str, torch.Tensor]) -> None:
    params["unembed.W_U"][:] = 0


@pytest.mark.parametrize(
    ("change", "ready"),
    [
        (blind(0), {"looks 0": False, "looks 1": True, "given 0": True, "given 1": True}),
        (blind(1), {"looks 0": True, "looks 1": False, "given 0": False, "given 1": True}),
        (mute, {"looks 0": True, "looks 1": True, "given 0": False, "given 1": False}),
    ],
    ids=["no previous token", "no match", "no copy"],
)
def test_a_broken_part_is_not_ready_and_the_others_are(change, ready: dict[str, bool]):
    trained = induction(TASK)
    rows = table(Ready("logit_difference", n=24), Planted(TASK, broken(change), trained, model=trained.spec))
    first = rows[rows["step"] == 0]
    found = {f"looks {layer}": value(first, metric="looks", layer=layer) for layer in (0, 1)}
    found["given 1"] = value(first, metric="given", layer=1)
    found["given 0"] = value(first, metric="given", layer=0)
    whole = value(first, metric="trained", layer=None)
    assert whole > 0.9 * WHOLE and set(rows["trained_at"]) == {1}
    for part, there in ready.items():
        assert (found[part] == pytest.approx(whole, rel=1e-3)) if there else found[part] < 0.6 * whole, part
    assert value(first, metric="model", layer=None) < 0.6 * whole, "one part is enough to fail"
    last = rows[rows["step"] == 1]
    np.testing.assert_allclose(last["value"], whole, rtol=1e-5, err_msg="the trained model is ready")


def test_several_layers_are_given_in_turn():
    """A layer is judged with the trained patterns of the layers before it, not of those behind."""
    trained = induction(TASK)
    both = broken(lambda params: (blind(0)(params), blind(1)(params)))  # type: ignore[arg-type, func-returns-value]
    rows = table(Ready("logit_difference", n=24), Planted(TASK, both, trained, model=trained.spec))
    whole = value(rows, step=0, metric="trained")
    assert value(rows, step=0, metric="looks", layer=0) < 0.6 * whole
    assert value(rows, step=0, metric="looks", layer=1) < 0.6 * whole
    assert value(rows, step=0, metric="given", layer=1) == pytest.approx(whole, rel=1e-3)


def test_every_task_with_pairs_and_any_chunk():
    task = Classification(classes=8, labels=4, examples=4, burst=1, dim=8)
    whole, pieces = (table(Ready(n=40, kind="item"), random_subject(task, memory=memory)) for memory in (2**30, 2**18))
    np.testing.assert_allclose(whole["value"], pieces["value"], atol=1e-4)
    own, trained = (whole[(whole["step"] == 1) & (whole["metric"] == metric)] for metric in ("model", "trained"))
    assert own["value"].item() == trained["value"].item()
    assert grown(task).spec.layers == whole["layer"].nunique()


def test_bad_dials_are_refused():
    with pytest.raises(ValueError, match="metric"):
        Ready(metric="loss")
    with pytest.raises(ValueError, match="n = 1"):
        Ready(n=1)
    with pytest.raises(ValueError, match="at = 7 .*a kept step"):
        table(Ready(at=7), random_subject(TASK))
