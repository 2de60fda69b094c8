"""The wire: the process that peers talk to. Started by the keeper; not a command for people.

    python -m node.dicom.wire.process --link FD --listen FD [--listen-tls FD]

The sockets are inherited. The first message on the link is the configuration; further ones change
it, or end the process. When the keeper is gone the wire answers what is under way and ends too.

Only the standard library, xxhash and light modules of ours are imported here: what shares this
process with the connections slows them down (measured: one busy thread, a third of the speed).
"""

from __future__ import annotations

import argparse
import gc
import logging
import signal
import socket
import ssl
import sys
import threading
from pathlib import Path
from typing import Any, Final

from node.dicom.filemeta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from node.dicom.wire.acceptor import Acceptor
from node.dicom.wire.admission import Guest
from node.dicom.wire.connection import Limits, Self
from node.dicom.wire.link import Link, Message
from node.dicom.wire.receiving import Receiver, Rules
from node.dicom.wire.tls import ServerTls, TlsError, TlsFiles
from storage.objects import ObjectStore
from storage.segment_writer import SegmentWriter

FINISH_S: Final = 3600.0
"""How long associations in flight may go on after the port was handed over."""


def main(arguments: list[str] | None = None) -> int:
    """Run the wire until the keeper says stop or is gone."""
    parser = argparse.ArgumentParser(prog="node.dicom.wire.process")
    parser.add_argument("--link", type=int, required=True)
    parser.add_argument("--listen", type=int, required=True)
    parser.add_argument("--listen-tls", type=int)
    wanted = parser.parse_args(arguments)
    # The keeper decides when to end; a Ctrl-C in a terminal reaches the whole process group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    link = Link(socket.socket(fileno=wanted.link))
    logging.basicConfig(handlers=[_ToKeeper(link)], level=logging.WARNING)
    messages = link.messages()
    first = next(messages, None)
    if first is None:
        return 1
    wire = _Wire(link, first)
    wire.listen(wanted.listen, wanted.listen_tls)
    # What is alive now lives on: the collector need not look at it again.
    gc.freeze()
    link.send({"kind": "ready"})
    for message in messages:
        if message["kind"] == "configure":
            wire.configure(message)
        elif message["kind"] == "finish":
            wire.finish()
        elif message["kind"] == "stop":
            break
    wire.stop()
    link.flush()
    return 0


class _Wire:
    """The parts of the process, put together from the keeper's first message."""

    def __init__(self, link: Link, first: Message) -> None:
        self._link = link
        store = ObjectStore(Path(first["objects"]), first["reserve_mb"])
        journal = SegmentWriter(
            store.folder,
            owner=first["owner"],
            segment_bytes=first["segment_bytes"],
            reserve_bytes=first["reserve_mb"] * 1024 * 1024,
            resume=first["resume"],
            resume_at=first["resume_at"],
        )
        self._receiver = Receiver(_rules(first), store, journal, link, first["owner"])
        self._acceptor = Acceptor(
            self._receiver,
            limits=_limits(first),
            own=Self(
                implementation_class_uid=IMPLEMENTATION_CLASS_UID,
                implementation_version=IMPLEMENTATION_VERSION,
            ),
        )
        self._tls = ServerTls(TlsFiles(**first["tls"])) if first["tls"] else None

    def listen(self, plain: int, tls: int | None) -> None:
        """Accept from the inherited sockets."""
        self._acceptor.listen(socket.socket(fileno=plain))
        if tls is not None:
            self._acceptor.listen(socket.socket(fileno=tls), self._tls_context)

    def configure(self, message: Message) -> None:
        """Take another configuration for associations from now on."""
        self._receiver.rules = _rules(message)
        self._acceptor.limit(_limits(message))
        if self._tls is not None and message["tls"]:
            self._tls.take(TlsFiles(**message["tls"]))

    def finish(self) -> None:
        """Accept nothing more; end by itself when the open associations have ended."""
        self._acceptor.stop_listening()
        threading.Thread(target=self._end_when_empty, daemon=True).start()

    def stop(self) -> None:
        """Answer what is under way, then end."""
        self._acceptor.stop()

    def _end_when_empty(self) -> None:
        self._acceptor.wait_empty(FINISH_S)
        self._link.flush()
        self._link.close()

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            raise TlsError("it is not configured")
        return self._tls.context()


class _ToKeeper(logging.Handler):
    """Sends log records to the keeper, which has the log."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        self._link.send(
            {"kind": "log", "level": record.levelname.lower(), "what": self.format(record)[:4000]}
        )


def _rules(message: Message) -> Rules:
    rules: dict[str, Any] = message["rules"]
    return Rules(
        ae_title=rules["ae_title"],
        guests=tuple(_guest(one) for one in rules["guests"]),
        storage_classes=frozenset(rules["storage_classes"]),
        transfer_syntaxes=tuple(rules["transfer_syntaxes"]),
        accept_unknown=rules["accept_unknown"],
        open_to_all=rules["open_to_all"],
        reserve_bytes=message["reserve_mb"] * 1024 * 1024,
    )


def _guest(one: dict[str, Any]) -> Guest:
    return Guest(
        name=one["name"],
        ae_title=one["ae_title"],
        services=frozenset(one["services"]),
        addresses=tuple(one["addresses"]),
        certificates=tuple(one["certificates"]),
        secure_only=one["secure_only"],
    )


def _limits(message: Message) -> Limits:
    return Limits(**message["limits"])


if __name__ == "__main__":
    sys.exit(main())
