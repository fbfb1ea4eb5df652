"""Python imports this at start: tests/conftest.py puts its folder on PYTHONPATH, so child processes are guarded too."""

import no_network  # noqa: F401
