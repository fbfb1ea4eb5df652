"""Give orders out until all are done: a worker that dies is replaced, a storage that fails is asked again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Protocol

from probelab.storage import RunError
from probelab.work import ONE_THREAD, Message, Order, Report, obey

TRIES = 3  # of an order whose worker dies, or whose storage fails
PAUSE = 2.0  # seconds before an order is given again that others were busy with, or that the storage failed


class Place(Protocol):
    """Where orders are carried out: here, in `Processes`, or on a cluster."""

    def give(self, order: Order, soon: bool = False) -> None:
        """Take an order, to be begun after all others, or `soon`."""
        ...

    def hear(self, seconds: float) -> tuple[Order, Message] | None:
        """The next message of a worker, waiting at most this long for it."""
        ...

    def withdraw(self) -> list[Order]:
        """Begin nothing more, and say which orders were not begun or are given up."""
        ...

    def close(self) -> None:
        """End the workers."""
        ...


@dataclass
class Telling:
    """Progress of an order as the bar was told it: what a second try does again is not told again."""

    report: Report
    told: Counter[str] = field(default_factory=Counter)
    now: Counter[str] = field(default_factory=Counter)

    def __call__(self, kind: str, done: int) -> None:
        self.now[kind] += done
        if (more := self.now[kind] - self.told[kind]) > 0:
            self.told[kind] += more
            self.report(kind, more)


def dispatch(orders: Sequence[Order], place: Place, report: Report) -> None:
    """Have every order carried out at a place.

    An order whose worker died, or whose storage failed in a way that may pass, is given again, `TRIES` times in all.
    One whose folder another process writes to waits until that is done. The first lasting error ends all: what has been
    begun on this machine is finished, and the error is raised.
    """
    telling = {order: Telling(report) for order in orders}
    tries: Counter[Order] = Counter()
    later: deque[tuple[float, Order]] = deque()
    errors: list[str] = []
    for order in orders:
        place.give(order)
    waiting = set(orders)
    while waiting:
        while later and later[0][0] <= time.monotonic():
            place.give(later.popleft()[1])
        heard = place.hear(PAUSE / 4)
        if heard is None:
            continue
        order, message = heard
        if message["kind"] in ("train", "measure"):
            telling[order](message["kind"], message["done"])
            continue
        for kind, total in message.get("told", {}).items():
            telling[order](kind, total - telling[order].now[kind])
        telling[order].now.clear()
        again, error = verdict(order, message, tries)
        if error or errors or again is None:
            waiting.discard(order)
        elif again:
            later.append((time.monotonic() + again, order))
        else:
            place.give(order, soon=True)
        if error:
            errors.append(error)
            waiting -= {*place.withdraw(), *(order for _, order in later)}
            later.clear()
    if errors:
        raise RunError(errors[0])


def verdict(order: Order, message: Message, tries: Counter[Order]) -> tuple[float | None, str]:
    """When an order that has ended is to be given again (None: not at all), and what is to be told, if anything."""
    kind = message["kind"]
    if kind == "finished":
        return None, ""
    if kind == "busy":
        if not tries[order]:
            print(f"probelab: {message['text'].partition(':')[0]}; it comes last", file=sys.stderr, flush=True)
            tries[order] += 1
        return PAUSE, ""
    tries[order] += 1
    if kind == "lost":
        text = f"the worker of {order.name} ended unexpectedly {tries[order]} times ({message['text']})"
        return (0.0, "") if tries[order] < TRIES else (None, f"{text}; the same command continues from there")
    return (PAUSE, "") if kind == "failed" and tries[order] < TRIES else (None, message["text"])


class Here:
    """This process does it itself, one order after the other."""

    def __init__(self, report: Report) -> None:
        self.report, self.queue = report, deque[Order]()

    def give(self, order: Order, soon: bool = False) -> None:
        self.queue.append(order)

    def hear(self, seconds: float) -> tuple[Order, Message] | None:
        if not self.queue:
            time.sleep(seconds)
            return None
        order = self.queue.popleft()
        return order, obey(order, self.report)

    def withdraw(self) -> list[Order]:
        orders = list(self.queue)
        self.queue.clear()
        return orders

    def close(self) -> None:
        return


class Worker:
    """A process of this machine that carries out one order at a time, and puts what it says on a queue."""

    def __init__(self, messages: SimpleQueue[tuple[Worker, Message]]) -> None:
        self.order: Order | None = None
        self.process = subprocess.Popen(
            [sys.executable, "-m", "probelab.work"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ONE_THREAD},
        )
        self.listener = Thread(target=self.listen, args=(messages,), daemon=True)
        self.listener.start()

    def listen(self, messages: SimpleQueue[tuple[Worker, Message]]) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as answers:
            for line in answers:
                if line.endswith("\n"):  # else it died in the middle of a line
                    messages.put((self, json.loads(line)))
        messages.put((self, {"kind": "lost", "text": f"exit code {self.process.wait()}"}))

    def take(self, order: Order) -> None:
        self.order = order
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it died: its message "lost" is on the way
            self.process.stdin.write(order.text + "\n")
            self.process.stdin.flush()

    def end(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.listener.join()


class Processes:
    """At most `limit` single-threaded processes of this machine."""

    def __init__(self, limit: int) -> None:
        self.limit, self.queue = limit, deque[Order]()
        self.workers: list[Worker] = []
        self.messages: SimpleQueue[tuple[Worker, Message]] = SimpleQueue()

    def give(self, order: Order, soon: bool = False) -> None:
        if soon:
            self.queue.appendleft(order)
        else:
            self.queue.append(order)
        self.feed()

    def feed(self) -> None:
        """Orders to workers without one; a new worker, if there may be more."""
        while self.queue:
            idle = next((worker for worker in self.workers if worker.order is None), None)
            if idle is None:
                if len(self.workers) == self.limit:
                    return
                idle = Worker(self.messages)
                self.workers.append(idle)
            idle.take(self.queue.popleft())

    def hear(self, seconds: float) -> tuple[Order, Message] | None:
        self.feed()
        try:
            worker, message = self.messages.get(timeout=seconds)
        except Empty:
            return None
        order = worker.order
        if message["kind"] == "lost":
            self.workers.remove(worker)
            worker.end()
        if message["kind"] not in ("train", "measure"):
            worker.order = None
        return (order, message) if order else None

    def withdraw(self) -> list[Order]:
        orders = list(self.queue)
        self.queue.clear()
        return orders

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
