"""What is installed is what is said: versions agree, pins are plain, imports are light, and tests have no network."""

from __future__ import annotations

import re
import socket
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
HELP = "import sys; sys.argv = ['probelab', '--help']; from probelab.cli import main; main()"
# In pieces, so that this file does not name what it looks for.
HOSTS = ["pypi" + ".org", "python" + "hosted", "download.py" + "torch", "registry." + "npmjs"]
TEXTS = ("*.py", "*.md", "*.toml", "*.txt", "*.cff", "*.ipynb", "Makefile", ".ci/run", ".gitignore")


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments, "-c", code], capture_output=True, text=True)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_citation_is_for_this_version():
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()


def test_constraints_are_plain_pins():
    """No address, no local build: `torch==2.13.0` takes the build that the user's own index or folder offers."""
    assert [line for line in PINS if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []


def test_every_dependency_is_pinned():
    extras = PROJECT["optional-dependencies"]
    named = PROJECT["dependencies"] + [line for lines in extras.values() for line in lines]
    pinned = {canonical(line.partition("==")[0]) for line in PINS}
    assert {canonical(re.split(r"[<>=\[ ]", line)[0]) for line in named} - pinned == set()


def test_no_file_names_a_registry():
    hidden = (".venv", ".git", "runs", "datasets")
    files = [path for kind in TEXTS for path in ROOT.rglob(kind) if path.relative_to(ROOT).parts[0] not in hidden]
    found = [(str(path), host) for path in files for host in HOSTS if host in path.read_text(encoding="utf-8")]
    assert files and found == []


def test_tasks_load_neither_torch_nor_the_lab():
    done = python("import synthetic_tasks, sys; print({'torch', 'pandas', 'pyarrow', 'probelab'} & set(sys.modules))")
    assert done.stdout == "set()\n", done.stderr


def test_help_loads_nothing_heavy():
    imported = python(HELP, "-X", "importtime")
    modules = {line.rpartition("|")[2].strip() for line in imported.stderr.splitlines()}
    assert imported.returncode == 0 and "reproduce" in imported.stdout, imported.stderr[-2000:]
    assert {"probelab.cli", "typer"} <= modules
    assert {"torch", "pandas", "plotly", "scipy", "pyarrow", "transformer_lens"} & modules == set()


def test_help_answers_at_once():
    """Half a second on a quiet machine; twice that here, because tests run side by side."""

    def seconds() -> float:
        began = time.perf_counter()
        assert python(HELP).returncode == 0
        return time.perf_counter() - began

    assert statistics.median(seconds() for _ in range(3)) < 1.0


def test_the_network_is_out_of_reach(reached: list[str]):
    """The guard of conftest.py, seen to fail: here and in a child process. 192.0.2.1 is nobody's address."""
    with pytest.raises(ConnectionRefusedError, match="no test may touch the network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(ConnectionRefusedError, match="no test may touch the network"):
        socket.getaddrinfo("example.org", 80)
    assert len(reached) >= 2
    reached.clear()
    child = python("import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)")
    assert "no test may touch the network" in child.stderr


def test_this_machine_is_within_reach():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
