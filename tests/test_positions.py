"""Positions against loops: sheared relative scores, rotary turns that depend on distance alone, sinusoids by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probelab.positions import future, relative_scores, rotate, sinusoids, turns

CPU, DOUBLE = torch.device("cpu"), torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.integers(1, 9), st.integers(0, 4), st.integers(1, 5))
def test_the_shear_is_a_gather(members: int, rows: int, heads: int, length: int, spare: int, width: int) -> None:
    """Also where the sequence is shorter than the context, whose far offsets are then not looked at."""
    q, offsets = normal(members, rows, heads, length, width), normal(members, heads, length + spare, width, seed=1)
    found = relative_scores(q, offsets)
    for i in range(length):
        for j in range(i + 1):
            expected = torch.einsum("mbhe,mhe->mbh", q[..., i, :], offsets[:, :, i - j])
            torch.testing.assert_close(found[..., i, j], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("base", [10_000.0, 30.0])
def test_rotary_agrees_with_a_loop(base: float) -> None:
    x = normal(2, 7, 3, 6)  # [batch pos head d]
    found = rotate(x, base)
    for t in range(7):
        for pair in range(3):
            angle = t * base ** (-2 * pair / 6)
            a, b = x[:, t, :, 2 * pair], x[:, t, :, 2 * pair + 1]
            turned = a * math.cos(angle) - b * math.sin(angle), a * math.sin(angle) + b * math.cos(angle)
            for k, expected in enumerate(turned):
                torch.testing.assert_close(found[:, t, :, 2 * pair + k], expected, rtol=0, atol=2e-6)


def test_rotary_scores_depend_on_distance_alone() -> None:
    """One query and one key, wherever they stand: what counts is how far apart."""
    q, k = (rotate(normal(1, 1, 1, 8, seed=seed).expand(1, 12, 1, 8), 100.0)[0, :, 0] for seed in (0, 1))
    scores = q @ k.T
    by_distance = [scores.diagonal(-distance) for distance in range(-11, 12)]
    assert all(float(same.max() - same.min()) < 5e-6 for same in by_distance)
    assert max(float(abs(same[0] - by_distance[11][0])) for same in by_distance) > 0.1, "and distance does count"
    torch.testing.assert_close(
        turns(12, 3, 8, 100.0, DOUBLE, CPU).abs(), torch.ones(12, 3, 4, dtype=DOUBLE), rtol=0, atol=1e-6
    )


def test_sinusoids_worked_by_hand() -> None:
    """Width 4, base 100: wavelengths 2 pi and 20 pi; two sines, then two cosines."""
    expected = [[math.sin(t), math.sin(t / 10), math.cos(t), math.cos(t / 10)] for t in range(3)]
    found = sinusoids(3, 4, 100.0, DOUBLE, CPU)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=DOUBLE), rtol=1e-12, atol=1e-12)


def test_the_future_is_out_of_sight() -> None:
    inf = math.inf
    assert future(3, DOUBLE, CPU).tolist() == [[0, -inf, -inf], [0, 0, -inf], [0, 0, 0]]
