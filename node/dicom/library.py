"""How pynetdicom is set up: once, for the whole process, because its settings are global.

It stays inside this room. What is set here keeps it quiet (its default handlers format every
message even when nothing logs it) and tolerant (its validators end associations over AE titles and
UIDs that real devices send; we judge those ourselves, with an answer that says why).
"""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from typing import Any, Final

from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

from node.dicom.filemeta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION

_WAITING: Final = 4
"""More than can wait for an answer of one association: the library's own thread, and the caller."""

_QUICKACK: Final = getattr(socket, "TCP_QUICKACK", None)  # Linux


def application_entity(ae_title: str) -> AE:
    """Return a pynetdicom AE that names this implementation, and set the library up."""
    _set_up()
    entity = AE(ae_title=ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION
    return entity


def tune(connection: socket.socket, *, stall_s: float) -> None:
    """Send answers at once, and bound how long one read or write of the peer may take."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(stall_s)


def bound_reads(transport: AssociationSocket, connection: socket.socket, longest: int) -> None:
    """Replace the reads of one connection: one buffer, and no PDU beyond `longest` bytes.

    pynetdicom reads whatever length a PDU claims, up to 4 GiB from anybody, in pieces of 4 KiB.
    """

    def recv(wanted: int) -> bytearray:
        if wanted > longest:
            raise OSError(f"A PDU claims {wanted} bytes, more than {longest}.")
        buffer = bytearray(wanted)
        got = 0
        with memoryview(buffer) as view:
            while got < wanted:
                count = connection.recv_into(view[got:])
                if not count:
                    break
                got += count
                _acknowledge_at_once(connection)
        del buffer[got:]
        return buffer

    # The library has no other place for it: it makes its own transport in the constructor.
    transport.recv = recv  # type: ignore[method-assign, assignment]


def keep_answers(association: Association) -> None:
    """Leave answers to whoever asked.

    pynetdicom's thread for requests of the peer is told to pause while we ask, but may have begun
    another look; it then takes an answer that comes at once and drops it, and we wait for it in
    vain (measured: one of 150 instances to an acceptor that answers within a millisecond).
    """
    provider = association.dimse
    take = provider.get_msg

    def get_msg(block: bool = False) -> Any:  # noqa: FBT001, FBT002  the library's signature
        if not block:
            _, message = provider.peek_msg()
            if getattr(message, "MessageIDBeingRespondedTo", None) is not None:
                return None, None
        return take(block)

    # The library has no other place for it.
    provider.get_msg = get_msg  # type: ignore[method-assign]


def _acknowledge_at_once(connection: socket.socket) -> None:
    """Ask the kernel not to delay the next ACK; it forgets, so this follows every read.

    A sender that leaves Nagle's algorithm on (storescu, dcmsend, devices built on DCMTK) waits
    40 ms per instance for a delayed ACK.
    """
    if _QUICKACK is not None:
        connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


def _set_up() -> None:
    _config.LOG_HANDLER_LEVEL = "none"
    # Stored bytes are sent from the file as they are; the default decodes and encodes them again.
    _config.STORE_SEND_CHUNKED_DATASET = True
    _config.VALIDATORS["AE"] = _ae_title_fits
    _config.VALIDATORS["UI"] = _any_uid
    # Its own gives up before it closes when the peer is gone already, and leaks the descriptor.
    AssociationSocket._shutdown_socket = close  # type: ignore[method-assign, assignment]
    # Its errors are tracebacks about hostile bytes; ours say the same in words, with the peer.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)


def close(transport: AssociationSocket) -> None:
    """End a connection for good, whatever has become of it; more than once does no harm.

    Whoever waits for an answer is told that none will come: the library forgets that when an abort
    arrives between two messages, and the next one would wait for its whole time-out.
    """
    connection = transport.socket
    if connection is None:
        return
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
    for _ in range(_WAITING):
        transport.assoc.dimse.msg_queue.put((None, None))


def _ae_title_fits(value: str) -> tuple[bool, str]:
    return len(value) <= 16, "must not exceed 16 characters"


def _any_uid(_value: str) -> tuple[bool, str]:
    return True, ""
