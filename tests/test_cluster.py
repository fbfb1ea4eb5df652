"""Sweeps on a Ray cluster of several nodes on this machine: the bits of local processes, also when parts of it die."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from probelab import nodes
from probelab.storage import located
from tests.test_faults import ROOT, ended, made, repeated, undisturbed  # noqa: F401 (a fixture)

pytest.importorskip("ray")
from tests.rays import ENVIRONMENT, Rays, kill, title  # noqa: E402
from tests.stores import serving  # noqa: E402
from tests.tiny import results  # noqa: E402

DRIVER = """
import sys
from probelab.storage import located
from probelab.cluster import Cluster
from probelab.conduct import execute
from tests.test_faults import JOBS
told = {"train": 0, "measure": 0}
def report(kind, done):
    told[kind] += done
try:
    cluster = Cluster(sys.argv[1], gpus=0.5)
    where = dict(memory=int(sys.argv[3]), device=sys.argv[4])
    print(cluster.places("cuda"), "places on GPUs", file=sys.stderr)
    execute(JOBS, located(sys.argv[2]), report=report, cluster=cluster, **where)
    print(told, file=sys.stderr)
except ValueError as error:
    sys.exit(f"refused: {error}")
"""
WITHOUT = """
from importlib.machinery import PathFinder
found = PathFinder.find_spec
gone = ("probelab", "synthetic_tasks")
PathFinder.find_spec = staticmethod(lambda name, *more: None if name in gone else found(name, *more))
"""  # a sitecustomize.py: the package is installed in the environment that all nodes share
WHOLE = "{'train': 900, 'measure': 48}\n"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    """A server that speaks S3, and the environment that leads there."""
    with serving() as environment:
        yield environment


@pytest.fixture(scope="module")
def rays(store: dict[str, str]) -> Iterator[Rays]:
    """A head and another node, a core each; a test that loses nodes adds others."""
    reached = {name: value for name, value in store.items() if name.startswith("AWS_")}
    ENVIRONMENT.update(reached)
    cluster = Rays(1)
    cluster.add(1)
    yield cluster
    cluster.end()
    for name in reached:
        del ENVIRONMENT[name]


def driver(address: str, out: Path, memory: int = 1 << 30, device: str = "cpu") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DRIVER, address, str(out / "runs"), str(memory), device]
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, text=True, stderr=subprocess.PIPE)


def at_work(rays: Rays, out: Path, process: subprocess.Popen[str], number: int) -> dict[str, dict[str, int]]:
    """Wait until a run is finished and a node works on another; what is finished by then."""
    deadline = time.monotonic() + 900
    while not (found := made(out)) or not rays.workers(number):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    return found


def survived(rays: Rays, out: Path, number: int, harm: Callable[[], object], wanted: dict[str, str]) -> None:
    """Do harm to a cluster while a node works: the sweep ends with the same bits, and repeats no finished run."""
    process = driver(rays.address, out)
    before = at_work(rays, out, process, number)
    harm()
    code, said = ended(process)
    assert code == 0 and said.endswith(WHOLE), said
    assert results(out) == wanted and repeated(before, out) == []


def test_the_bits_of_local_processes(rays: Rays, tmp_path: Path, undisturbed: dict[str, str]) -> None:  # noqa: F811
    process, names = driver(rays.address, tmp_path), set[str]()
    while process.poll() is None:
        names |= {title(pid).strip() for number in (0, 1) for pid in rays.workers(number)}
        time.sleep(0.02)
    code, said = ended(process)
    assert code == 0 and said.endswith(WHOLE), said
    assert results(tmp_path) == undisturbed
    assert names and all(name.startswith("ray::markov-") for name in names), "Ray shows runs by their names"


def test_a_worker_is_killed(rays: Rays, tmp_path: Path, undisturbed: dict[str, str]) -> None:  # noqa: F811
    survived(rays, tmp_path, 1, lambda: kill(rays.workers(1)[0]), undisturbed)


def test_the_driver_is_killed(rays: Rays, tmp_path: Path, undisturbed: dict[str, str]) -> None:  # noqa: F811
    process = driver(rays.address, tmp_path)
    before = at_work(rays, tmp_path, process, 0)
    process.kill()
    ended(process)
    code, said = ended(driver(rays.address, tmp_path))
    assert code == 0, said
    assert results(tmp_path) == undisturbed and repeated(before, tmp_path) == []


def test_two_drivers(rays: Rays, tmp_path: Path, undisturbed: dict[str, str]) -> None:  # noqa: F811
    first, second = driver(rays.address, tmp_path), driver(rays.address, tmp_path)
    assert ended(first)[0] == ended(second)[0] == 0
    assert results(tmp_path) == undisturbed


def test_a_node_is_lost(rays: Rays, tmp_path: Path, undisturbed: dict[str, str]) -> None:  # noqa: F811
    number = rays.add(1)
    survived(rays, tmp_path, number, lambda: rays.lose(number), undisturbed)


def test_a_worker_is_killed_that_writes_to_a_url(rays: Rays, undisturbed: dict[str, str]) -> None:  # noqa: F811
    survived(rays, located("s3://lab/sweep"), 1, lambda: kill(rays.workers(1)[0]), undisturbed)


def test_a_url_that_is_not_there(rays: Rays) -> None:
    code, said = ended(driver(rays.address, located("s3://nobody/x")))
    assert code == 1 and "could not write s3://nobody/x" in said, said


@pytest.fixture
def wire() -> Iterator[str]:
    """A network namespace `probelab`, as a machine of its own: 10.77.0.2, wired to us, who are 10.77.0.1 there."""
    steps = (
        "netns add probelab",
        "link add probelab0 type veth peer name probelab1 netns probelab",
        "addr add 10.77.0.1/24 dev probelab0",
        "link set probelab0 up",
        "-n probelab addr add 10.77.0.2/24 dev probelab1",
        "-n probelab link set probelab1 up",
        "-n probelab link set lo up",
    )
    try:
        if not shutil.which("ip") or any(subprocess.run(["ip", *step.split()]).returncode for step in steps):
            pytest.skip("network namespaces take more rights, and iproute2")
        yield "-n probelab link set probelab1"  # the far end: ours would take our own address with it
    finally:
        if shutil.which("ip"):
            subprocess.run(["ip", "netns", "delete", "probelab"])


def test_a_machine_of_its_own_is_cut_off(wire: str, tmp_path: Path, undisturbed: dict[str, str]) -> None:  # noqa: F811
    """It lives on, unheard, and finishes what it holds; the others do the rest, and wait for its lock."""
    cluster = Rays(1, ip="10.77.0.1")
    try:
        number = cluster.add(1, ip="10.77.0.2", within=("ip", "netns", "exec", "probelab"))
        cut = ["ip", *wire.split(), "down"]
        survived(cluster, tmp_path, number, lambda: subprocess.run(cut, check=True), undisturbed)
    finally:
        cluster.end()


def test_what_no_node_can_hold(rays: Rays, tmp_path: Path) -> None:
    code, said = ended(driver(rays.address, tmp_path, 64 << 30))
    assert code == 1 and "no node can hold markov-" in said and "A smaller --memory" in said
    assert not list(tmp_path.iterdir())


def test_shares_of_gpus(rays: Rays, tmp_path: Path) -> None:
    """Ray is told of one that is not there: two stacks are sent to it, and say what they miss."""
    code, said = ended(driver(rays.address, tmp_path, device="cuda"))
    assert code == 1 and "and 0.5 of a GPU, and the largest has" in said, said
    number = rays.add(1, "", (), f"--address={rays.address}", "--num-gpus=1")
    try:
        code, said = ended(driver(rays.address, tmp_path, device="cuda"))
        assert code == 1 and "2 places on GPUs" in said and "as no GPU is found here" in said, said
    finally:
        rays.lose(number)


@pytest.mark.parametrize(("planted", "told"), [(True, "has another probelab"), (False, "has no probelab")])
def test_a_node_of_another_version(rays: Rays, tmp_path: Path, planted: bool, told: str) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    if planted:
        shutil.copytree(ROOT / "src" / "probelab", checkout / "probelab")
        shutil.copytree(ROOT / "synthetic_tasks", checkout / "synthetic_tasks")
        (checkout / "probelab" / "optim.py").write_text("# another\n")
    else:
        (checkout / "sitecustomize.py").write_text(WITHOUT)
    number = rays.add(1, environment={"PYTHONPATH": str(checkout)})
    try:
        code, said = ended(driver(rays.address, tmp_path))
        assert code == 1 and told in said and not (tmp_path / "runs").exists(), said
    finally:
        rays.lose(number)


def test_no_cluster_at_the_address(tmp_path: Path) -> None:
    code, said = ended(driver("127.0.0.1:9", tmp_path))
    assert code == 1 and "no Ray cluster at --address 127.0.0.1:9" in said
    assert not list(tmp_path.iterdir())


def test_storage_seen_from_a_node(tmp_path: Path) -> None:
    """The node's side of the question, without a cluster: not shared; not locked, though the driver locks it."""
    assert nodes.shares(str(tmp_path), "token", "node") == "does not share"
    (tmp_path / ".token").touch()
    assert nodes.shares(str(tmp_path), "token", "node") == "sees no locks of other machines in"
