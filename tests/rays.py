"""A Ray cluster of several nodes on this machine, for tests: every node a session of its own, to be killed whole."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

PATIENCE, ATTEMPTS = 150, 6  # seconds for a node to start, and how often: its parts wait 15 s for each other, no more
ROOT = Path(__file__).parents[1]
RAY = str(Path(sys.executable).with_name("ray"))
SECRET = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid4().hex}  # else Ray keeps one in the user's home
ENVIRONMENT = {**os.environ, **SECRET, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_register_timeout_seconds": "300"}
# Without the guard of tests/offline: Ray calls this machine by its address in the network, which the guard refuses.
ENVIRONMENT["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
SMALL = ("--object-store-memory=80000000", "--disable-usage-stats")


class Rays:
    """Nodes of one cluster, the first its head. `within` is put before a node's command: a network namespace, say."""

    def __init__(self, cores: int = 1, ip: str = "127.0.0.1", within: tuple[str, ...] = (), **more: Any) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rays"))  # short: sockets lie in it
        self.ip, self.port = ip, free_port()
        self.nodes: list[subprocess.Popen[bytes]] = []
        head = ("--head", f"--port={self.port}", f"--temp-dir={self.folder}", "--include-dashboard=false")
        self.add(cores, ip, within, *head, **more)

    @property
    def address(self) -> str:
        return f"{self.ip}:{self.port}"

    def add(self, cores: int = 1, ip: str = "", within: tuple[str, ...] = (), *role: str, **more: Any) -> int:
        """Start a node and wait until it is up; its number."""
        number, memory = len(self.nodes), more.get("memory", 4 << 30)
        where = role or (f"--address={self.address}",)
        sizes = (f"--num-cpus={cores}", f"--memory={memory}", f"--node-ip-address={ip or self.ip}")
        command = [*within, RAY, "start", *where, *sizes, *SMALL, "--block"]
        self.nodes.append(self.started(command, {**ENVIRONMENT, **more.get("environment", {})}))
        return number

    def started(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """A node that is up. What does not come up is ended and started again; the last failure is told."""
        said = ""
        for attempt in range(ATTEMPTS):
            log = self.folder / f"node{len(self.nodes)}-{attempt}.log"
            with log.open("wb") as file:
                node = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
            deadline = time.monotonic() + PATIENCE
            while node.poll() is None and time.monotonic() < deadline:
                if "Ray runtime started" in (said := log.read_text()):
                    return node
                time.sleep(0.2)
            end(node)
        self.end()
        raise RuntimeError(f"no node came up in {ATTEMPTS} attempts:\n{said}")

    def processes(self, number: int) -> list[int]:
        """Every process of a node: those of its session."""
        return of_session(self.nodes[number].pid)

    def workers(self, number: int) -> list[int]:
        """The processes of a node that carry out orders now."""
        return [pid for pid in self.processes(number) if re.match(r"ray::[a-z_]+-", title(pid))]

    def lose(self, number: int) -> None:
        """All of a node ends at once, as if its power had failed."""
        end(self.nodes[number])

    def end(self) -> None:
        for number in reversed(range(len(self.nodes))):
            self.lose(number)
        shutil.rmtree(self.folder, ignore_errors=True)


def stats() -> list[tuple[int, int, int, str]]:
    """Process, parent, session and state of every process of this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, _, session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it ended meanwhile
            continue
        found.append((int(path.parent.name), int(parent), int(session), state))
    return found


def of_session(session: int) -> list[int]:
    """Every process of a session."""
    return [pid for pid, _, found, _ in stats() if found == session]


def end(node: subprocess.Popen[bytes]) -> None:
    """Kill all of a node."""
    for pid in of_session(node.pid):
        kill(pid)
    node.wait()


def title(pid: int) -> str:
    """What a process calls itself: Ray's workers name their task."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
