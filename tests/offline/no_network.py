"""Importing this makes any attempt of the process to reach another machine raise; a socket on this one is fine."""

import os
import sys

LOCAL = ("", "localhost", "::1", "0.0.0.0")
REACHED: list[str] = []  # what was tried, also where the caller swallowed the error


def guard(event: str, args: tuple) -> None:
    """Audit hook: refuse an internet address, or a name to look up, that is not this machine's own."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        host = args[1][0] if isinstance(args[1], tuple) else None  # a text is the path of a Unix socket
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    host = os.fsdecode(host) if isinstance(host, bytes) else host
    if isinstance(host, str) and host not in LOCAL and not host.startswith("127."):
        REACHED.append(f"{event} {host}")
        raise ConnectionRefusedError(f"a test tried to reach {host!r} ({event}): no test may touch the network")


sys.addaudithook(guard)
