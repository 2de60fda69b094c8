"""An acceptor of associations: admission, C-ECHO, C-STORE and storage commitment as callbacks.

It stands on pynetdicom and holds no rule of the node: who is admitted, what happens to an
instance and what is written down is the caller's. The listener and the phantom PACS use it. Each
association runs in a thread of its own; callbacks are called from those threads.
"""

from __future__ import annotations

import threading
import time
from socketserver import TCPServer

from pynetdicom.presentation import build_context

from node.dicom.callbacks import (
    Callbacks,
    CommitReport,
    CommitRequest,
    Ended,
    Incoming,
    Limits,
    SopReference,
)
from node.dicom.conversation import Connection, Floor, Server
from node.dicom.library import application_entity
from node.dicom.storage_contexts import VERIFICATION

__all__ = [
    "Callbacks",
    "CommitReport",
    "CommitRequest",
    "Ended",
    "Incoming",
    "Limits",
    "RunningScp",
    "SopReference",
    "start_scp",
]


def start_scp(
    *,
    host: str,
    port: int,
    ae_title: str,
    callbacks: Callbacks,
    limits: Limits | None = None,
    accept_unknown_classes: bool = False,
) -> RunningScp:
    """Listen on `host`:`port` (0 takes a free one) until `stop` is called.

    Raises:
        OSError: The address cannot be bound.
    """
    limits = limits or Limits()
    entity = application_entity(ae_title)
    entity.maximum_pdu_size = limits.max_pdu
    # Ours counts first, with a reason that is written down; this one is only a backstop.
    entity.maximum_associations = limits.max_associations + 64
    entity.acse_timeout = limits.request_s
    entity.dimse_timeout = limits.stall_s
    entity.network_timeout = limits.idle_s
    floor = Floor(callbacks, limits, accept_unknown_classes=accept_unknown_classes)

    server = entity.make_server(
        (host, port),
        contexts=[build_context(VERIFICATION)],
        server_class=Server,
        request_handler=Connection,
    )
    if not isinstance(server, Server):  # said to the type checker; make_server gives what it got
        raise TypeError(type(server).__name__)
    server.floor = floor
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="dicom-acceptor"
    )
    thread.start()
    return RunningScp(server, floor, thread)


class RunningScp:
    """A listening acceptor."""

    def __init__(self, server: Server, floor: Floor, thread: threading.Thread) -> None:
        self._server = server
        self._floor = floor
        self._thread = thread
        self.port = int(server.server_address[1])

    def stop(self, grace_s: float = 5.0) -> None:
        """Stop listening, let requests in progress be answered, then end all associations.

        Args:
            grace_s: How long requests in progress may take.
        """
        self._floor.stopping = True
        TCPServer.shutdown(self._server)
        self._server.server_close()
        self._thread.join()
        until = time.monotonic() + grace_s
        while self._floor.busy() and time.monotonic() < until:
            time.sleep(0.01)
        self._floor.end_all()

    def cut_all(self) -> None:
        """Break every connection without a word, as a failing network does."""
        self._floor.cut_all()
