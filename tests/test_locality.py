"""Neighbourhoods against hand-made graphs, and measured locality against sources whose information is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthetic_tasks import locality
from synthetic_tasks.task import stream

LINE = np.eye(5, k=1, dtype=int) + np.eye(5, k=-1, dtype=int)


def test_distances_on_a_line():
    place = np.arange(5)
    assert np.array_equal(locality.distances(LINE), np.abs(place[:, None] - place))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.floats(0, 0.5), st.integers(0, 10**6))
def test_distances_equal_those_of_floyd_and_warshall(n, density, seed):
    adjacency = stream("graph", seed).random((n, n)) < density
    known = np.where(adjacency, 1.0, np.inf)
    np.fill_diagonal(known, 0)
    for via in range(n):
        known = np.minimum(known, known[:, via, None] + known[None, via])
    assert np.array_equal(locality.distances(adjacency), np.where(np.isinf(known), -1, known))


def test_a_ball_holds_what_is_near():
    steps = locality.distances(LINE)
    assert locality.ball(steps, np.array([0, 2]), np.array([1, 0])).astype(int).tolist() == [
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
    ]
    apart = locality.distances(np.zeros((3, 3)))
    assert locality.ball(apart, np.array([1]), np.array([9])).tolist() == [[False, True, False]]


def test_neighbourhoods_have_their_centre_and_their_reach():
    steps = locality.distances(LINE)
    reach = np.array([0, 1, 2, 4] * 50)
    centres, present = locality.neighbourhoods(stream("balls"), steps, reach)
    assert present[np.arange(200), centres].all() and set(centres) == set(range(5))
    assert np.array_equal(present, steps[centres] <= reach[:, None])


def test_radii_have_their_law():
    rng = stream("radii")
    assert (locality.radii(rng, 5, "fixed", 2, 3) == 2).all()
    geometric = np.bincount(locality.radii(rng, 100_000, "geometric", 0.5, 3)) / 100_000
    assert geometric == pytest.approx(np.array([8, 4, 2, 1]) / 15, abs=0.01)
    power = np.bincount(locality.radii(rng, 100_000, "zipf", 1.0, 2)) / 100_000
    assert power == pytest.approx(np.array([6, 3, 2]) / 11, abs=0.01)


@pytest.mark.parametrize(
    ("law", "scale"), [("fixed", 4), ("fixed", 0.5), ("geometric", 1.0), ("zipf", -1), ("zipff", 1)]
)
def test_radii_refuse(law, scale):
    with pytest.raises(ValueError):
        locality.radii(stream("x"), 5, law, scale, 3)


def test_dropout_takes_its_share_and_adds_nothing():
    present = stream("p").random((500, 40)) < 0.5
    left = locality.drop(stream("d"), present, 0.2)
    assert not (left & ~present).any() and left.sum() / present.sum() == pytest.approx(0.8, abs=0.02)


def test_cooccurrence_falls_with_distance():
    steps = locality.distances(LINE)
    present = np.array([[1, 1, 0, 0, 0], [0, 0, 1, 1, 0]], dtype=bool)
    rate = locality.cooccurrence(present, steps)
    assert rate == pytest.approx([4 / 10, 2 / 8, 0, 0, 0])  # 4 of 5 x 2 present; 2 edges of 4, each in 1 of 2 sequences


def flips(rate: float, n: int, length: int) -> np.ndarray:
    """A fair bit that flips with a known rate at each step."""
    rng = stream("flips")
    return (rng.integers(2, size=(n, 1)) + np.cumsum(rng.random((n, length)) < rate, axis=1)) % 2


def bits(p: float) -> float:
    return float(-p * np.log(p) - (1 - p) * np.log(1 - p))


def test_information_of_a_known_chain():
    tokens = flips(0.1, 4000, 50)
    found = locality.mutual_information(tokens, [1, 2, 5, 10])
    exact = [np.log(2) - bits((1 - 0.8**d) / 2) for d in (1, 2, 5, 10)]
    assert found == pytest.approx(exact, abs=0.004)


def test_entropy_rate_of_a_known_chain():
    found = locality.entropy_rates(flips(0.1, 4000, 50))
    assert found[0] == pytest.approx(np.log(2), abs=0.002)
    assert found[1:] == pytest.approx(bits(0.1), abs=0.004)


def test_chance_does_not_look_like_information():
    few = stream("few").integers(20, size=(300, 20))
    twice = np.concatenate([few, few], axis=1)  # pairs of tokens come twice: Miller-Madow alone would find .015 nats
    found = [locality.mutual_information(x, [1, 2, 3]) for x in (few, twice)]
    assert np.abs(found).max() < 0.006


def test_entropy_of_few_sightings_is_not_too_small():
    estimates = [locality.entropy(np.bincount(stream("h", i).integers(20, size=60))) for i in range(200)]
    assert np.mean(estimates) == pytest.approx(np.log(20), abs=0.05)


def test_padding_is_no_token():
    tokens = flips(0.1, 500, 20)
    padded = np.concatenate([tokens, np.full((500, 7), -1)], axis=1)
    assert locality.mutual_information(padded, [1, 3]) == pytest.approx(locality.mutual_information(tokens, [1, 3]))
    assert locality.entropy_rates(padded, 3) == pytest.approx(locality.entropy_rates(tokens, 3))


def test_many_kinds_are_counted_without_a_table():
    tokens = np.arange(100).reshape(20, 5) * 10**6
    assert locality.entropy(np.ones(100)) == pytest.approx(np.log(100) + 99 / 200)
    assert np.isfinite(locality.mutual_information(tokens % (3 * 10**6), [1])).all()
