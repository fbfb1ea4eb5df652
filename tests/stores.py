"""A server that speaks S3, for tests: moto, a stand-in that keeps objects in memory, as no real one can be had here."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem


@contextmanager
def serving() -> Iterator[dict[str, str]]:
    """A server with an empty bucket `lab`; the environment that leads there, which is also this process's."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    store.start()
    host, port = store.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}
    environment = {**keys, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            S3FileSystem.clear_instance_cache()  # one may remember a server that is no more
            boto3.client("s3").create_bucket(Bucket="lab")
            yield {**os.environ, **environment}
    finally:
        store.stop()
