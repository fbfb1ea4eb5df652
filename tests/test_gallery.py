"""The gallery shows every dial, split, fact and preset of every task, and one sample."""

from __future__ import annotations

import pytest

from synthetic_tasks import TASKS, Markov, describe, gallery
from synthetic_tasks.gallery import dials


@pytest.mark.parametrize("name", TASKS)
def test_a_page_names_everything(name):
    kind = TASKS[name]
    page = describe(name)
    for word in (*dials(kind), *kind.splits, *kind.facts, *kind.presets):
        assert word in page
    assert all(dials(kind).values()), "every dial is explained in the docstring of its task"
    assert kind().show().splitlines()[0] in page


def test_the_gallery_holds_all_pages():
    assert gallery() == "\n\n\n".join(map(describe, TASKS))


def test_turned_dials_are_shown_as_they_are():
    assert "states = 3" in describe(Markov(states=3)) and "trigram" in describe(Markov(order=2))


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="no task 'markow'; did you mean 'markov'"):
        describe("markow")
