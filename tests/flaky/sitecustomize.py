"""Python imports this at start where FLAKY is set by a test: storage then fails now and then, at addresses of its own.

One in FLAKY files cannot be put in its place at the first attempt: an input/output error, as of a network's disk.
"""

import errno
import os
from hashlib import blake2b
from pathlib import Path

honest, tried = Path.replace, set()


def replace(self: Path, target: Path) -> Path:
    drawn = blake2b(f"{Path(target).parent.parent.name}/{Path(target).name}".encode()).digest()[0]
    mark = Path(os.environ["FLAKY_MARKS"], f"{Path(target).parent.parent.name}-{Path(target).name}")
    if drawn % int(os.environ["FLAKY"]) == 0 and not mark.exists():
        mark.touch()
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return honest(self, target)


if "FLAKY" in os.environ:
    Path.replace = replace
