"""Addresses, dials and errors that all tasks share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from synthetic_tasks import Batch, Markov, Repeats, Task, batch, preset, stream, turn
from synthetic_tasks.task import choose


def test_an_address_always_holds_the_same_numbers():
    assert stream("a", 1).integers(2**60) == stream("a", 1).integers(2**60)
    assert stream("markov", "train", 0, 0, 0).integers(2**60) == 254653654750798920  # golden: data must not change


@pytest.mark.parametrize(
    "other", [("a", 2, 1), ("a", 1, 3), ("b", 1, 2), ("a", "1", 2), ("a1", 2), ("a", 12), ("a", 1, 2, 0)]
)
def test_other_addresses_hold_other_numbers(other):
    assert stream("a", 1, 2).integers(2**60) != stream(*other).integers(2**60)


def test_neighbouring_addresses_are_independent():
    draws = np.array([stream("a", seed).standard_normal(1000) for seed in range(20)])
    correlation = np.corrcoef(draws)[np.triu_indices(20, 1)]
    assert np.abs(correlation).max() < 4.5 / np.sqrt(1000)


def test_an_address_is_text_and_whole_numbers():
    with pytest.raises(TypeError, match=r"1\.5"):
        stream("a", 1.5)  # type: ignore[arg-type]


def test_batches_at_one_address_are_paired_across_dials():
    flat, skewed = (batch(Repeats(zipf=exponent), 0, 3) for exponent in (0.0, 0.1))
    assert np.array_equal(flat.facts["segment"], skewed.facts["segment"])
    assert np.abs(flat.tokens - skewed.tokens).max() < 6  # the same uniform numbers, read through another Zipf law


def test_slices_keep_facts_with_their_sequences():
    whole = batch(Markov(), 0, 0, n=10)
    part = whole[3:5]
    assert len(part) == 2
    for name, fact in part.facts.items():
        assert np.array_equal(fact, whole.facts[name][3:5])


def test_dials_are_turned_by_name():
    assert turn(Markov(), states=3) == Markov(states=3)
    with pytest.raises(ValueError, match="no dial of markov 'state'; did you mean 'states'"):
        turn(Markov(), state=3)


def test_presets_are_found_by_name():
    assert preset(Markov, "edelman2024", length=64) == Markov(length=64)
    with pytest.raises(ValueError, match="no preset of repeats 'olson2022'; did you mean 'olsson2022'"):
        preset(Repeats, "olson2022")


def test_equal_dials_look_equal():
    assert repr(Markov(concentration=1)) == repr(Markov(concentration=1.0))


@pytest.mark.parametrize("value", ["2", 2.5, True, None])
def test_dials_have_kinds(value):
    with pytest.raises(ValueError, match=f"states = {value!r} .* of kind int"):
        Markov(states=value)


def test_choose_repeats_the_question_without_a_near_miss():
    with pytest.raises(ValueError, match="^no colour 'x' known: red, blue$"):
        choose("colour", "x", ["red", "blue"])


def test_what_is_fixed_is_drawn_once():
    drawn = []

    @dataclass(frozen=True)
    class Own(Task):
        name = "own"

        @property
        def vocab(self) -> int:
            return 2

        def sample(self, rng, n, split="train"):
            tokens = rng.integers(2, size=(n, 3))
            drawn.append(n)
            return Batch(tokens, tokens)

    assert np.array_equal(batch(Own(), 0, 0).tokens, batch(Own(), 0, 0).tokens)
    assert not np.array_equal(batch(Own(), 0, 0).tokens, batch(Own(world=1), 0, 0).tokens)
    assert Own().outputs == 2 and Own().chance() == 0.5
