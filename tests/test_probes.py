"""Probes: equal to scikit-learn's, and right about what was planted and what was not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from probelab.probes import FRACTIONS, Linear, frequencies, hits, logistic, nats, online_code, ridge, uniform_code
from probelab.subspaces import Part, along, random_basis, read_by, told_by, white
from synthetic_tasks import stream


def planted(cells: int, n: int, d: int, classes: int, signal: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Correlated features, off centre, of very different scales; labels are noisy functions of them, `[cell 1 n]`."""
    rng = stream("test", "probes", seed)
    x = rng.standard_normal((cells, n, d)) @ rng.standard_normal((d, d))
    odds = signal * x @ rng.standard_normal((cells, d, classes)) / d + rng.gumbel(size=(cells, n, classes))
    x = x * 10.0 ** rng.uniform(-2, 2, size=d) + rng.normal(size=d) * 5
    return torch.from_numpy(x), torch.from_numpy(odds.argmax(-1))[:, None]


def scaled(model: Any) -> Any:
    return make_pipeline(StandardScaler(), model)


@pytest.mark.parametrize(("d", "classes", "penalty"), [(6, 2, 1.0), (20, 5, 0.1), (60, 3, 30.0)])
def test_ridge_is_that_of_scikit_learn(d: int, classes: int, penalty: float):
    x, y = planted(4, 50, d, classes, 3.0)
    fit = ridge(x, y, classes, penalty)
    said = fit(x)[:, 0].mT.numpy()
    for features, labels, ours in zip(x.numpy(), y[:, 0].numpy(), said, strict=True):
        theirs = scaled(RidgeClassifier(alpha=penalty)).fit(features, labels)
        decision = theirs.decision_function(features)
        assert (ours if classes > 2 else ours[:, 1]) == pytest.approx(decision, abs=1e-9)
        assert (ours.argmax(1) == theirs.predict(features)).all()
        plain = scaled(Ridge(alpha=penalty)).fit(features, 2.0 * np.eye(classes)[labels] - 1)
        assert ours == pytest.approx(plain.predict(features), abs=1e-9)


def test_features_as_models_give_them_are_precise_enough():
    """In float32, with features that lie far off centre for their scale."""
    x, y = planted(4, 200, 30, 4, 3.0)
    exact, usual = ridge(x, y, 4)(x), ridge(x.float(), y, 4)(x.float())
    assert (exact - usual).abs().max() < 1e-2 and usual.dtype == torch.float64
    assert (hits(exact, y) == hits(usual, y)).double().mean() > 0.99


@pytest.mark.parametrize("signal", [1.0, 12.0])
@pytest.mark.parametrize(("d", "classes", "penalty"), [(6, 2, 1.0), (20, 5, 0.1), (60, 3, 30.0), (8, 30, 1.0)])
def test_logistic_is_that_of_scikit_learn(d: int, classes: int, penalty: float, signal: float):
    x, y = planted(3, 300, d, classes, signal)
    train = slice(None, 200)
    exact = logistic(x[:, train], y[..., train], classes, penalty, tolerance=1e-9)
    usual = logistic(x[:, train].float(), y[..., train], classes, penalty)
    for cell in range(3):
        features, labels = x[cell].numpy(), y[cell, 0].numpy()
        known = np.unique(labels[train])
        rows = np.flatnonzero(np.isin(labels, known) & (np.arange(300) >= 200))  # scikit-learn cannot score the others
        model = scaled(LogisticRegression(C=1 / penalty, tol=1e-9, max_iter=10_000)).fit(features[train], labels[train])
        theirs = model.predict_log_proba(features)
        ours = exact(x)[cell, 0].log_softmax(0).mT.numpy()
        assert ours[:, known] == pytest.approx(theirs, abs=1e-5, rel=1e-5)
        assert (np.delete(ours, known, 1) == -math.inf).all()
        loss = log_loss(labels[rows], np.exp(theirs[rows]), labels=known)
        for fit in (exact, usual):
            said = fit(x)[cell, 0].log_softmax(0).mT.numpy()
            assert -said[rows, labels[rows]].mean() == pytest.approx(loss, abs=1e-3)


def test_targets_fitted_together_are_those_fitted_alone():
    x, y = planted(3, 80, 7, 4, 3.0)
    both = torch.cat([y, y.roll(1, -1)], 1)
    for fit in (ridge, logistic):
        together = fit(x, both, 4)
        for target in range(2):
            alone = fit(x, both[:, [target]], 4)
            assert torch.allclose(together.weight[:, [target]], alone.weight, atol=1e-9)
            one = fit(x[[1]], both[[1]][:, [target]], 4)  # nor does it matter which cells are fitted beside it
            assert torch.allclose(together.weight[[1]][:, [target]], one.weight, atol=1e-9)


def test_examples_left_out_do_not_count():
    x, y = planted(2, 90, 5, 3, 3.0)
    there = torch.from_numpy(stream("test", "there").random((2, 90)) < 0.6)
    some = torch.where(there[:, None], y, -1)
    for fit in (ridge, logistic):
        masked = fit(x, some, 3)
        for cell in range(2):
            kept = fit(x[[cell]][:, there[cell]], y[[cell]][..., there[cell]], 3)
            assert torch.allclose(masked.weight[[cell]], kept.weight, atol=1e-8)
            assert torch.allclose(masked.bias[[cell]], kept.bias, atol=1e-8)
    assert (hits(ridge(x, some, 3)(x), some)[~there[:, None]] == 0).all()


def test_a_warm_start_saves_iterations_and_changes_nothing():
    x, y = planted(2, 200, 10, 4, 8.0)
    moved = x + 0.02 * x.std(1, keepdim=True) * torch.from_numpy(stream("test", "moved").standard_normal(x.shape))
    before, cold = logistic(moved, y, 4, tolerance=1e-8), logistic(x, y, 4, tolerance=1e-8)
    assert torch.allclose(logistic(x, y, 4, start=before, tolerance=1e-8).weight, cold.weight, atol=1e-5)
    assert torch.allclose(logistic(x, y, 4, start=cold, most=0).weight, cold.weight, atol=1e-12)
    near, far = (logistic(x, y, 4, start=start, most=3)(x).log_softmax(-2) for start in (before, None))
    best = cold(x).log_softmax(-2)
    assert (near - best).abs().mean() < 0.3 * (far - best).abs().mean()


def test_odd_cells_are_no_trouble():
    """Constant features, cells without examples, cells with one class."""
    x = torch.ones(4, 6, 3) * 0.1
    x[2:, :, 0] = torch.arange(6.0)
    y = torch.tensor([[0, 1, 1, 1, 0, 1], [-1] * 6, [2] * 6, [0, 0, 0, 1, 1, 1]])[:, None]
    for fit in (ridge, logistic):
        found = fit(x, y, 3)
        assert torch.isfinite(found.weight).all() and not torch.isnan(found(x)).any()
        assert (found.weight[:2].abs() < 1e-3).all() and (found.weight[2].abs() < 1e-3).all()
        assert hits(found(x), y).sum(-1).flatten().tolist() == [4, 0, 6, 6]
    p = logistic(x, y, 3)(x).softmax(-2)
    assert torch.allclose(p[1], torch.full((1, 3, 6), 1 / 3).to(p)) and abs(p[0, 0, 1] - 4 / 6).max() < 1e-4


def test_loss_in_nats_by_hand():
    logs = torch.tensor([[0.5, 1.0], [0.5, 0.0]]).log()  # two classes, two examples
    labels, fitted = torch.tensor([1, 1]), torch.tensor([9])
    expected = [-math.log((9 * 0.5 + 0.5) / 10), -math.log(0.5 / 10)]
    assert nats(logs, labels, fitted).tolist() == pytest.approx(expected)
    assert nats(logs, torch.tensor([-1, 0]), fitted).tolist() == pytest.approx([0, -math.log(9.5 / 10)])
    counts = frequencies(torch.tensor([0, 0, 1, -1]), 3).exp()
    assert counts.flatten().tolist() == pytest.approx([2 / 3, 1 / 3, 0])


def test_planted_features_compress_and_noise_does_not():
    x, y = planted(1, 400, 8, 4, 60.0)
    noise = y[..., torch.from_numpy(stream("test", "shuffle").permutation(400))]
    found, none = (uniform_code(labels, 4) / online_code(x, labels, 4) for labels in (y, noise))
    assert found > 2 and 0.7 < none < 1.05
    together = online_code(x, torch.cat([y, noise], 1), 4)
    assert uniform_code(y, 4)[0, 0] == 800 and together[0, 0] < 400 < 760 < together[0, 1]


def test_an_online_code_by_plain_loops():
    x, y = planted(1, 130, 5, 3, 5.0)
    ends = [end for end in (round(share * 130) for share in FRACTIONS) if end >= 16]
    assert ends == [16, 32, 65, 130]
    bits = ends[0] * math.log2(3)
    for start, end in zip(ends, ends[1:], strict=False):
        model = scaled(LogisticRegression(tol=1e-6)).fit(x[0, :start].numpy(), y[0, 0, :start].numpy())
        p = np.zeros((end - start, 3))
        p[:, model.classes_] = model.predict_proba(x[0, start:end].numpy())
        own = p[np.arange(end - start), y[0, 0, start:end].numpy()]
        bits -= np.log2((start * own + 1 / 3) / (start + 1)).sum()
    assert online_code(x, y, 3).item() == pytest.approx(bits, rel=1e-3)


def test_too_few_examples_are_sent_as_they_are():
    x, y = planted(1, 12, 3, 4, 5.0)
    assert online_code(x, y, 4).item() == 24 == uniform_code(y, 4).item()


def leace(x: Tensor, labels: Tensor, classes: int) -> Part:
    there, space = labels >= 0, white(x, labels >= 0)
    return along(space, told_by(x, torch.nn.functional.one_hot(labels.clamp(min=0), classes), there, space))


def test_leace_leaves_nothing_linear():
    x, y = planted(2, 300, 6, 3, 8.0)
    x = torch.cat([x, x[..., :1] * 2 + 1, torch.ones_like(x[..., :1])], -1)  # two features that add no dimension
    there = torch.from_numpy(stream("test", "erased").random((2, 300)) < 0.8)
    labels = torch.where(there[:, None], y, -1)
    part = leace(x, labels[:, 0], 3)
    clean = x - part(x)
    for cell in range(2):
        rows = there[cell]
        kept, z = clean[cell, rows], torch.nn.functional.one_hot(y[cell, 0, rows], 3).double()
        cross = (kept - kept.mean(0)).T @ (z - z.mean(0)) / len(z)
        assert (cross.abs().amax(1) / (x[cell, rows].std(0) + 1)).max() < 1e-9
        assert torch.linalg.matrix_rank(part.projects[cell], tol=1e-6) == 2  # one less than classes
        assert torch.allclose(kept.mean(0), x[cell, rows].mean(0))
    most = torch.stack([torch.bincount(y[c, 0, there[c]]).max() for c in range(2)])
    erased, before = (hits(ridge(seen, labels, 3)(seen), labels).sum(-1)[:, 0] for seen in (clean, x))
    assert (erased == most).all() and (before > most + 30).all()  # the most frequent label is all that is left


def test_leace_is_what_theorem_4_3_says():
    x, y = planted(1, 200, 5, 2, 8.0)
    values, z = x[0].numpy(), np.eye(2)[y[0, 0].numpy()]
    centred = values - values.mean(0)
    sigma, cross = centred.T @ centred / 200, centred.T @ (z - z.mean(0)) / 200
    lam, q = np.linalg.eigh(sigma)
    whiten, colour = q @ np.diag(lam**-0.5) @ q.T, q @ np.diag(lam**0.5) @ q.T
    u = (whiten @ cross)[:, :1]
    expected = values - centred @ (colour @ (u @ u.T / (u.T @ u)) @ whiten).T
    assert (x - leace(x, y[:, 0], 2)(x))[0].numpy() == pytest.approx(expected, rel=1e-8, abs=1e-8)


def test_exchanging_what_a_probe_reads_changes_its_mind_and_little_else():
    x, y = planted(3, 100, 6, 4, 5.0)
    fit, space = ridge(x, y, 4), white(x, y[:, 0] >= 0)
    basis = read_by(fit, space)
    assert basis.shape == (3, 3, 6) and torch.allclose(basis @ basis.mT, torch.eye(3, dtype=basis.dtype), atol=1e-9)
    part, given = along(space, basis), x.flip(1)
    new = x + part(given) - part(x)
    assert torch.allclose(fit(new).softmax(-2), fit(given).softmax(-2))  # it reads what it read of the other example
    assert torch.allclose(part(part(x) + space.mean), part(x))
    rest = Part(space.mean, torch.eye(6, dtype=x.dtype) - part.projects)
    assert torch.allclose(rest(new), rest(x))
    inside, outside = part(x), rest(x)  # the two are uncorrelated
    assert ((inside.mT @ outside / 100).abs() / (x.std(1)[:, :, None] * x.std(1)[:, None])).max() < 1e-9
    shifted = read_by(Linear(fit.weight + 5, fit.bias), space)  # what all classes share tells nothing
    assert torch.allclose(shifted.mT @ shifted, basis.mT @ basis)
    one = read_by(fit, space, 1)
    assert one.shape == (3, 1, 6) and torch.allclose(one, basis[:, :1])


def test_random_subspaces():
    drawn = random_basis(stream("test", "basis"), 3, 2, 6)
    assert torch.allclose(drawn @ drawn.mT, torch.eye(2, dtype=drawn.dtype).expand(3, 2, 2), atol=1e-12)
    assert drawn.shape == (3, 2, 6) and not torch.allclose(drawn[0], drawn[1])


@pytest.mark.parametrize("fit", [ridge, logistic])
def test_what_does_not_fit_together_is_refused(fit: Any):
    x, y = torch.randn(2, 5, 3), torch.zeros(2, 2, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match="penalty = 0 is out of range: more than 0"):
        fit(x, y, 2, penalty=0)
    with pytest.raises(ValueError, match="shape of labels = .2, 5. is out of range"):
        fit(x, y[:, 0], 2)
    with pytest.raises(ValueError, match="classes = 2 is out of range: more than the largest label"):
        fit(x, y + 2, 2)
    y[0, 1, 3] = -1
    with pytest.raises(ValueError, match="labels = -1 is out of range: left out of all targets of a cell, or of none"):
        fit(x, y, 2)
