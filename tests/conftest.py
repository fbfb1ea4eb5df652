"""Every test runs on one thread and without a network, and so does every Python process that it starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

OFFLINE = str(Path(__file__).parent / "offline")

# Before anything imports torch, which reads these once.
os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"})
os.environ.update({"HF_HUB_DISABLE_TELEMETRY": "1", "WANDB_MODE": "disabled", "WANDB_ERROR_REPORTING": "false"})
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [OFFLINE, os.environ.get("PYTHONPATH")]))

sys.path.insert(0, OFFLINE)
import no_network  # noqa: E402

LONG = ("test_notebooks", "test_conduct", "test_storage")  # these files go first, so that both cores end together


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(autouse=True)
def reached() -> Iterator[list[str]]:
    """What the test tried to reach on other machines; anything left in the list fails it, swallowed error or not."""
    no_network.REACHED.clear()
    yield no_network.REACHED
    assert not no_network.REACHED, f"no test may touch the network: {no_network.REACHED}"
