"""A Ray cluster as a place to work: a task for every stack of runs, under its name and with what it needs.

Ray starts, places and watches processes; what to do when one is lost is decided in `dispatch`, as on one machine.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from probelab import nodes
from probelab.planner import room
from probelab.storage import remote
from probelab.work import ONE_THREAD, Gathered, Message, Order, answer

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before Ray is imported: it would report to its makers

try:
    import ray  # pyright: ignore[reportMissingImports]
    from ray import cloudpickle  # pyright: ignore[reportMissingImports]
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError  # pyright: ignore[reportMissingImports]
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise ValueError(f"--on ray needs Ray ({error}): pip install 'probelab-emergence[cluster]'") from error

KNOCK, ANSWER = 5, 90  # seconds: for a cluster's door to open, for a node to answer
STEP = 256 << 20  # memory is asked for in multiples of this, so that most runs ask for the same
GIB = 1 << 30
STERN = {"max_retries": 0, "runtime_env": {"env_vars": ONE_THREAD}}  # of every task


class Cluster:
    """A connection to a Ray cluster; without an address the one that Ray finds, or one of its own on this machine.

    gpus  the share of a GPU that a stack of runs asks for, where the device is `cuda`
    """

    def __init__(self, address: str | None = None, gpus: float = 1.0) -> None:
        if not 0 < gpus <= 1:
            raise ValueError(f"--gpus {gpus:g} is out of range: the share of a GPU for each stack, above 0 and up to 1")
        self.gpus, self.mine = gpus, not ray.is_initialized()
        if self.mine:
            connect(address)

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that can work, as Ray describes them."""
        return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]

    def places(self, device: str) -> int:
        """How many stacks can be worked on at a time, if memory allows."""
        if device == "cpu":
            return max(1, int(sum(node["Resources"]["CPU"] for node in self.nodes)))
        return max(1, int(sum(node["Resources"].get("GPU", 0) for node in self.nodes) / self.gpus))

    def place(self, orders: Sequence[Order]) -> OnRay:
        """Where orders are carried out; refused before work starts if a node is unfit, or no node can hold one."""
        if not self.nodes:
            raise ValueError("the Ray cluster has no node with a core to work on: `ray start --address=...` adds one")
        self.check_room(orders)
        self.check_nodes(orders[0].root)
        return OnRay(self, self.places(orders[0].device))

    def needs(self, order: Order) -> dict[str, float]:
        """What Ray is asked for, in its own words."""
        memory = -(-room(list(order.jobs), order.memory) // STEP) * STEP
        return {"num_cpus": 1, "memory": memory} | ({} if order.device == "cpu" else {"num_gpus": self.gpus})

    def check_room(self, orders: Sequence[Order]) -> None:
        """Refuse an order that no node can hold: Ray would let it wait for ever."""
        have = [node["Resources"] for node in self.nodes]
        for order in orders:
            needs = self.needs(order)
            memory, gpus = needs["memory"], needs.get("num_gpus", 0)
            if not any(node.get("memory", 0) >= memory and node.get("GPU", 0) >= gpus for node in have):
                most = max(node.get("memory", 0) for node in have)
                wanted = f"{memory / GIB:.2f} GiB of memory" + (f" and {gpus:g} of a GPU" if gpus else "")
                there = f"the largest has {most / GIB:.2f} GiB, {max(node.get('GPU', 0) for node in have):g} GPUs"
                raise ValueError(
                    f"no node can hold {order.name}: it asks for {wanted}, and {there}. "
                    "A smaller --memory or --stack asks for less"
                )

    def check_nodes(self, root: Path) -> None:
        """Ask every node for its versions, and whether it shares the folder (or URL) of the results with us."""
        folder = root
        if not remote(root):
            folder = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
        token = f"probelab-{uuid4().hex}"
        left = folder / f".{token}"
        with suppress(OSError):  # if we may not write there, the message is each node's
            left.write_text(token)
        try:
            with nullcontext() if remote(root) else left.open() as handle:
                if handle:
                    fcntl.flock(handle, fcntl.LOCK_EX)
                found = self.ask(str(folder), token)
            wrong = [f"{name} {told}" for name, told in found.items() if told]
            for name in found:
                if not wrong and not left.with_name(f".{token}-{name}").exists():
                    wrong.append(f"{name} does not share {folder}: what it writes there is not seen here")
        except OSError as error:
            raise ValueError(f"cannot write to {folder}: {error.strerror}") from error
        finally:
            for path in folder.glob(f".{token}*"):
                path.unlink(missing_ok=True)
        if wrong:
            raise ValueError("not all nodes of the cluster can take part. " + "; ".join(wrong))

    def ask(self, folder: str, token: str) -> dict[str, str]:
        """What is wrong with each node, by its address; empty where nothing is."""
        cloudpickle.register_pickle_by_value(nodes)
        question, refs = ray.remote(nodes.asked), {}
        alike = {"num_cpus": 0, "name": "probelab asks", **STERN}
        for node in self.nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            name = f"node {node['NodeManagerAddress']} ({node['NodeID'][:6]})"
            refs[name] = question.options(scheduling_strategy=there, **alike).remote(folder, token, name)
        found, kinds, ours = {}, set(), nodes.versions()
        for name, ref in refs.items():
            try:
                versions, instructions, storage = ray.get(ref, timeout=ANSWER)
                told = nodes.differences(versions, ours) + ([f"{storage} {folder}"] if storage else [])
                found[name] = ", ".join(told)
                kinds.add(instructions)
            except GetTimeoutError:
                found[name] = f"did not answer within {ANSWER} s"
            except RayError as error:
                found[name] = f"did not answer: {first_line(error)}"
        if len(kinds) > 1:
            told = f"probelab: nodes differ in their instructions ({', '.join(sorted(kinds))}): the last bit may, too"
            print(told, file=sys.stderr, flush=True)
        return found

    def close(self) -> None:
        if self.mine:
            ray.shutdown()


def connect(address: str | None) -> None:
    """Join a cluster, or say why not."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host:
        try:
            socket.create_connection((host, int(port)), timeout=KNOCK).close()
        except (OSError, ValueError) as error:
            raise ValueError(f"no Ray cluster at --address {address}: {error}") from error
    try:
        dashboard = None if address else False  # a cluster has its own; one of this machine's goes without
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=dashboard)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"cannot join the Ray cluster at --address {address}: {first_line(error)}") from error


class Mailbox:
    """An actor that keeps what workers say until the driver takes it."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, Message]] = []

    def put(self, key: int, message: Message) -> None:
        self.messages.append((key, message))

    def take(self) -> list[tuple[int, Message]]:
        taken, self.messages = self.messages, []
        return taken


def carry_out(text: str, key: int, mailbox: Any, wanted: dict[str, str]) -> Message:
    """The task: an order as JSON in, how it ended out; progress goes to the mailbox."""
    if wrong := nodes.differences(nodes.versions(), wanted):  # a node that joined after all had been asked
        return {"kind": "error", "text": f"node {ray.util.get_node_ip_address()} {', '.join(wrong)}"}
    mailbox.put.remote(key, {"kind": "begun", "node": ray.get_runtime_context().get_node_id()})
    gathered = Gathered(lambda kind, done: mailbox.put.remote(key, {"kind": kind, "done": done}))
    ended = answer(Order.read(text), gathered)
    # What was said on the way may come too late. Waiting for it would free the core, and Ray start one more worker.
    return ended | {"told": dict(gathered.total)}


class OnRay:
    """Orders as tasks of a cluster. More are given to Ray than can be worked on, so that it sees what is needed."""

    def __init__(self, cluster: Cluster, places: int) -> None:
        self.cluster, self.ahead = cluster, 2 * places + 16
        self.queue, self.heard = deque[Order](), deque[tuple[Order, Message]]()
        self.orders: dict[Any, Order] = {}  # by Ray's reference to what the task will return
        self.keys: dict[int, Any] = {}  # the references of tasks that may still speak
        self.where: dict[Any, str] = {}  # the node that each works on
        self.given, self.wanted, self.looked = 0, nodes.versions(), time.monotonic()
        self.task = ray.remote(carry_out)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self.mailbox: Any = ray.remote(Mailbox).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()

    def give(self, order: Order, soon: bool = False) -> None:
        if soon:
            self.queue.appendleft(order)
        else:
            self.queue.append(order)

    def feed(self) -> None:
        """Hand over what Ray should know of."""
        while self.queue and len(self.orders) < self.ahead:
            order, self.given = self.queue.popleft(), self.given + 1
            task = self.task.options(name=order.name, **self.cluster.needs(order), **STERN)
            self.keys[self.given] = task.remote(order.text, self.given, self.mailbox, self.wanted)
            self.orders[self.keys[self.given]] = order

    def hear(self, seconds: float) -> tuple[Order, Message] | None:
        if not self.heard:
            self.feed()
            if not self.orders:
                time.sleep(seconds)
                return None
            ready, _ = ray.wait(list(self.orders), timeout=seconds)
            with suppress(RayError):
                for key, message in ray.get(self.mailbox.take.remote(), timeout=KNOCK):
                    order = self.orders.get(self.keys[key])
                    if message["kind"] == "begun":
                        self.where[self.keys[key]] = message["node"]
                    elif order:  # else it was given up: it may live on, cut off
                        self.heard.append((order, message))
            for ref in ready:
                self.heard.append((self.orders.pop(ref), ending(ref)))
            for ref in self.cut_off():
                self.heard.append((self.orders.pop(ref), {"kind": "lost", "text": "its node is gone"}))
        return self.heard.popleft() if self.heard else None

    def cut_off(self) -> list[Any]:
        """Tasks on nodes that are gone. Ray notices when a connection breaks; of a cut wire, minutes late."""
        if time.monotonic() - self.looked < KNOCK:
            return []
        self.looked, there = time.monotonic(), {node["NodeID"] for node in self.cluster.nodes}
        return [ref for ref in self.orders if ref in self.where and self.where[ref] not in there]

    def withdraw(self) -> list[Order]:
        """All that is open: a task that works is ended, too, and continues where it was with the next command."""
        given = [*self.queue, *self.orders.values()]
        for ref in self.orders:
            ray.cancel(ref, force=True)
        self.queue.clear()
        self.orders.clear()
        return given

    def close(self) -> None:
        self.withdraw()
        ray.kill(self.mailbox)


def ending(ref: Any) -> Message:
    """How a task ended: in its own words, or in Ray's."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        return {"kind": "error", "text": f"{type(error.cause).__name__}: {error.cause}"}
    except RayError as error:
        return {"kind": "lost", "text": first_line(error)}


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
