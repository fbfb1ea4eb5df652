"""Zipf's law, draws, bursts and their estimates against exact probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthetic_tasks.skew import burstiness, bursts, draw, draw_distinct, even_bursts, fit_zipf, zipf
from synthetic_tasks.task import stream


def test_zipf_by_hand():
    assert zipf(4, 0) == pytest.approx([0.25] * 4)
    assert zipf(3, 1) == pytest.approx(np.array([6, 3, 2]) / 11)
    assert zipf(3, 2) == pytest.approx(np.array([36, 9, 4]) / 49)


def test_zipf_matches_the_shares_printed_for_12800_classes():
    shares = {0.5: 0.022, 1: 0.292, 1.5: 0.769, 2: 0.942, 3: 0.996}  # top 10; reference/icl.md 1.1
    assert {a: round(zipf(12_800, a)[:10].sum(), 3) for a in shares} == shares


@given(st.integers(1, 3000), st.floats(0, 1e6))
def test_zipf_is_a_falling_distribution_for_any_exponent(n, exponent):
    p = zipf(n, exponent)
    assert np.isfinite(p).all() and p.sum() == pytest.approx(1) and (np.diff(p) <= 0).all()


@pytest.mark.parametrize(("n", "exponent"), [(0, 1.0), (3, -1.0), (3, np.inf), (3, np.nan)])
def test_zipf_refuses(n, exponent):
    with pytest.raises(ValueError, match="out of range"):
        zipf(n, exponent)


def test_draws_have_their_probabilities():
    p = zipf(50, 1.3)
    counts = np.bincount(draw(stream("draw"), p, (500, 400)).ravel(), minlength=50)
    z = (counts - 200_000 * p) / np.sqrt(200_000 * p * (1 - p))
    assert np.abs(z).max() < 4 and 0.6 < z.std() < 1.4


def test_what_has_no_mass_is_never_drawn():
    drawn = draw(stream("mass"), np.array([0, 1, 0, 2, 0]), 10_000)
    assert set(drawn) == {1, 3}


@pytest.mark.parametrize("p", [[0.4, 0.3, 0.2, 0.1], [0.95, 0.03, 0.015, 0.005]], ids=["drawn again", "raced"])
def test_distinct_draws_are_successive_sampling(p):
    p, n = np.array(p), 200_000
    drawn = draw_distinct(stream("distinct"), p, n, 3)
    seen = np.bincount(drawn @ [16, 4, 1], minlength=64)
    for i, j, k in np.ndindex(4, 4, 4):
        exact = p[i] * p[j] / (1 - p[i]) * p[k] / (1 - p[i] - p[j]) if len({i, j, k}) == 3 else 0.0
        assert abs(seen[16 * i + 4 * j + k] - n * exact) <= 4.5 * np.sqrt(n * exact * (1 - exact)) + 1e-9


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.floats(0, 50), st.data())
def test_distinct_draws_are_distinct(n, exponent, data):
    p = zipf(n, exponent)
    k = data.draw(st.integers(0, int(np.count_nonzero(p))))
    drawn = draw_distinct(stream("any", n, k), p, 7, k)
    assert drawn.shape == (7, k) and all(len(set(row)) == k for row in drawn)
    assert (p[drawn] > 0).all()


def test_more_distinct_draws_than_ranks_are_refused():
    with pytest.raises(ValueError, match="k = 3 .* 0 to the 2 ranks"):
        draw_distinct(stream("x"), np.array([1, 0, 1]), 1, 3)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_bursts_hold_each_item_as_often_as_asked(multiplicities):
    slots = bursts(stream("bursts"), 20, tuple(multiplicities))
    assert (np.sort(slots, axis=1) == np.repeat(np.arange(len(multiplicities)), multiplicities)).all()


def test_bursts_are_shuffled_evenly():
    first = bursts(stream("bursts"), 40_000, (3, 3, 1, 1))[:, 0]
    assert np.bincount(first) / 40_000 == pytest.approx([3 / 8, 3 / 8, 1 / 8, 1 / 8], abs=0.01)


def test_burstiness_must_divide_the_context():
    assert even_bursts(8, 4) == (4, 4)
    with pytest.raises(ValueError, match="burstiness = 3 .* divide the context of 8"):
        even_bursts(8, 3)


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0, 2.0])
def test_fitted_exponents_hit_the_planted_one_at_their_error(exponent):
    p = zipf(200, exponent)
    fits = [fit_zipf(stream("fit", i).multinomial(5000, p)) for i in range(300)]
    z = np.array([(fit.exponent - exponent) / fit.error for fit in fits])
    assert abs(z.mean()) < 0.3 and 0.85 < z.std() < 1.15


def test_sorting_the_counts_first_biases_the_fit():
    counts = stream("bias").multinomial(2000, zipf(200, 0))
    honest, sorted_first = fit_zipf(counts), fit_zipf(np.sort(counts)[::-1])
    assert abs(honest.exponent) < 4 * honest.error < 8 * honest.error < sorted_first.exponent


def test_a_fit_to_one_rank_is_unbounded():
    assert fit_zipf(np.array([9, 0, 0])).exponent == np.inf
    assert fit_zipf(np.array([0, 0, 9])).exponent == -np.inf


def test_burstiness_by_hand():
    tokens = np.array([[0, 0, 1], [1, 2, -1]])
    found = burstiness(tokens, 3)
    assert found.repeated == pytest.approx(1 / 5)  # one token of five came before
    distinct = 2 * (1 - 0.6**3) + (1 - 0.8**3) + 2 * (1 - 0.6**2) + (1 - 0.8**2)  # shares .4, .4, .2
    assert found.independent == pytest.approx(1 - distinct / 5)
    within, across = 2 / (3 * 2 + 2 * 1), 2 / (25 - 9 - 4)  # ordered pairs of places that agree, of all
    assert found.ratio == pytest.approx(within / across)


def test_independent_tokens_are_not_bursty_and_bursts_are():
    p, rng = zipf(1600, 1.0), stream("bursty")
    plain = burstiness(draw(rng, p, (20_000, 8)), 1600)
    assert plain.repeated == pytest.approx(plain.independent, abs=0.003) and plain.ratio == pytest.approx(1, abs=0.03)
    items = draw(rng, zipf(1600, 0), (5000, 4))
    bursty = burstiness(np.take_along_axis(items, bursts(rng, 5000, (3, 3, 1, 1)), axis=1), 1600)
    assert bursty.repeated == pytest.approx(0.5, abs=0.01)  # 3 + 3 + 1 + 1: four of eight came before
    assert bursty.ratio == pytest.approx(1600 * 12 / 56, rel=0.1)  # 2 (3 x 2) of the 8 x 7 ordered pairs agree
