"""TCP ports for phantoms and for nodes of tests and benchmarks."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress


def free_port() -> int:
    """Return a free loopback port out of the range that outgoing connections take theirs of.

    There somebody's connection could take it before it is listened at, or while a listener that
    was killed is down.
    """
    while True:
        port = 15_000 + secrets.randbelow(17_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
