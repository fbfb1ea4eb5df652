"""What becomes of an order whose worker dies, whose storage fails, whose folder others hold, or that is wrong."""

from __future__ import annotations

import errno
from collections import Counter
from pathlib import Path

import pytest

from probelab import dispatch as dispatching
from probelab.dispatch import TRIES, Telling, dispatch
from probelab.storage import RunError, passing
from probelab.study import Job
from probelab.work import Message, Order
from tests.tiny import SPEC

FINISHED, BUSY = {"kind": "finished"}, {"kind": "busy", "text": "held: x"}
LOST, FAILED = {"kind": "lost", "text": "exit code -9"}, {"kind": "failed", "text": "could not write x"}
ERROR = {"kind": "error", "text": "no such split"}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "PAUSE", 0.0)


def orders(n: int) -> list[Order]:
    return [Order((Job("arm", SPEC.seeded(seed), 10, (0, 10), (), seed),), Path("runs")) for seed in range(n)]


class Played:
    """A place where what happens to each order is written down beforehand; then it finishes."""

    def __init__(self, script: dict[Order, list[Message]]) -> None:
        self.script, self.queue = script, list[Order]()
        self.begun: Counter[Order] = Counter()
        self.ended: list[Order] = []

    def give(self, order: Order, soon: bool = False) -> None:
        self.queue.insert(0 if soon else len(self.queue), order)

    def hear(self, seconds: float) -> tuple[Order, Message] | None:
        if not self.queue:
            return None
        order = self.queue[0]
        lines = self.script.setdefault(order, [])
        message = lines.pop(0) if lines else FINISHED
        if message["kind"] not in ("train", "measure"):
            self.begun[self.queue.pop(0)] += 1
            if message is FINISHED:
                self.ended.append(order)
        return order, message

    def withdraw(self) -> list[Order]:
        orders, self.queue = self.queue, []
        return orders

    def close(self) -> None:
        return


def played(script: list[list[Message]]) -> Played:
    several = orders(len(script))
    place = Played(dict(zip(several, script, strict=True)))
    dispatch(several, place, lambda kind, done: None)
    assert set(place.ended) == set(several)
    return place


@pytest.mark.parametrize("trouble", [LOST, FAILED])
def test_trouble_that_passes_is_got_over(trouble: Message) -> None:
    place = played([[], [trouble] * (TRIES - 1), []])
    assert sorted(place.begun.values()) == [1, 1, TRIES], "no other is begun again"


@pytest.mark.parametrize(("trouble", "told"), [(LOST, "ended unexpectedly 3 times"), (FAILED, "could not write x")])
def test_trouble_that_stays_is_told(trouble: Message, told: str) -> None:
    with pytest.raises(RunError, match=told):
        played([[], [trouble] * TRIES])


def test_a_lost_order_is_begun_before_the_rest_and_a_held_one_after(capsys: pytest.CaptureFixture[str]) -> None:
    place = played([[LOST], [BUSY] * 9, [], []])
    names = [order.jobs[0].seed for order in place.ended]
    assert names[0] == 0 and set(names) == {0, 1, 2, 3}
    assert capsys.readouterr().err == "probelab: held; it comes last\n", "told once"


def test_an_error_begins_nothing_more() -> None:
    several = orders(4)
    place = Played({several[1]: [ERROR]})
    with pytest.raises(RunError, match="no such split"):
        dispatch(several, place, lambda kind, done: None)
    assert place.ended == several[:1] and sum(place.begun.values()) == 2


def test_what_a_second_try_repeats_is_not_told_again() -> None:
    def train(done: int) -> Message:
        return {"kind": "train", "done": done}

    told: Counter[str] = Counter()
    several = orders(1)
    script = [train(4), train(3), LOST, train(5), train(5), {"kind": "measure", "done": 2}]
    dispatch(several, Played({several[0]: script}), lambda kind, done: told.update({kind: done}))
    assert told == {"train": 10, "measure": 2}
    telling = Telling(lambda kind, done: told.update({kind: done}))
    telling("train", 1)
    assert told["train"] == 11


def test_which_errors_of_a_storage_may_pass() -> None:
    assert passing(OSError(errno.EIO, "")) and passing(OSError(errno.ESTALE, "")) and passing(TimeoutError(110, ""))
    assert not any(passing(OSError(code, "")) for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES))
    assert not passing(OSError("a truncated file")) and not passing(RunError("another spec"))
    try:
        try:
            raise OSError(errno.EIO, "")
        except OSError as error:
            raise RunError("could not write") from error
    except RunError as error:
        assert passing(error)


def test_an_order_says_where_its_folder_is_whoever_reads_it() -> None:
    """A worker may stand elsewhere: `ray start` was given in another folder."""
    order = orders(1)[0]
    assert Order.read(order.text).root == Path.cwd() / "runs" and Order.read(order.text).jobs == order.jobs


def test_what_came_too_late_is_told_at_the_end() -> None:
    """The totals of an order are with its ending; what was told before is not told twice."""
    told: Counter[str] = Counter()
    order = orders(1)[0]
    said: list[Message] = [{"kind": "train", "done": 4}, FINISHED | {"told": {"train": 10, "measure": 2}}]
    dispatch([order], Played({order: said}), lambda kind, done: told.update({kind: done}))
    assert told == {"train": 10, "measure": 2}
