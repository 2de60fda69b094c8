"""The listener's keeper: configuration, wires, books. What peers send becomes durable, then rows.

    keeper (this process)  -- configuration -->  wire (connections, journal)
                           <-- what landed --

It imports no torch. `run_listener` returns when `stop` is set, after requests in progress have
been answered, or when a successor has taken the port over and the last association has ended (see
`handover`).

The database may be away, at the start too: the wires go on, because what they answered for is on
disk, and the books look there for what has no rows until nothing is left.
"""

from __future__ import annotations

import base64
import errno
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import structlog

from node.dicom.admitting import first_message, rules_of
from node.dicom.books import Books
from node.dicom.certificates import examine, files_of
from node.dicom.handover import Address, Offer, Predecessor, find_predecessor
from node.dicom.messages import Request, act
from node.dicom.statuses import PROCESSING_FAILURE
from node.dicom.wire.acceptor import listening_socket
from node.dicom.wire.link import Message
from node.dicom.wires import Wire, Wires
from node.errors import LimnerError, setup_error
from node.settings import Settings, load_settings
from storage.conflicts import OnConflict
from storage.database import Engine
from storage.errors import StorageError
from storage.objects import ObjectStore
from storage.segment_writer import (
    count_prepared,
    free_bytes,
    prepare_segment,
    sweep_prepared,
)

LOOK_EVERY_S: Final = 1.0

_FILL_AFTER_S: Final = 1.0
"""Without an instance for so long, segments are prepared."""
"""How often the configuration files, and the segments kept ready, are looked at."""

_ADDRESS_S: Final = 2.0
"""How long an address may be taken at the start: the wires of a listener that was killed hold it
until they have noticed."""

_ENDED: Final = "The listener ended first; what was answered is kept."
_DIED: Final = "The listener's process died; what was answered before is kept."

SETTLE_EVERY_S: Final = 3600.0
"""How often what is on disk is compared with the rows; nearly always nothing is found."""

TELL_EVERY_S: Final = 86_400.0
"""How often the log says what is wrong with certificates, or soon will be."""

log = structlog.get_logger("dicom")


def run_listener(
    settings: Settings,
    engine: Engine,
    store: ObjectStore,
    *,
    stop: threading.Event,
    on_ready: Callable[[int], None] | None = None,
    database_away: bool = False,
) -> None:
    """Receive until `stop` is set, or until a successor has taken over.

    If a listener runs in the node's data folder already, its sockets are taken over.

    Args:
        settings: The node's settings; port 0 takes a free port.
        engine: The node's database.
        store: Where instance bytes go.
        stop: Ends it: requests in progress are answered, then associations are aborted.
        on_ready: Called once with the port when peers can connect.
        database_away: It was a moment ago: begin without waiting for it.

    Raises:
        SetupError: An address cannot be bound, or no wire can be started to take over with.
    """
    keeper = _Keeper(settings, engine, store, stop)
    try:
        keeper.start(database_away=database_away)
        if on_ready is not None:
            on_ready(keeper.port)
        keeper.watch()
    finally:
        keeper.end()
        log.info("listener-stopped")


class _Keeper:
    """The parts of one listener."""

    def __init__(
        self, settings: Settings, engine: Engine, store: ObjectStore, stop: threading.Event
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._store = store
        self._stop = stop
        self._stamps = _stamps(settings)
        self._books = Books(
            engine,
            store,
            settings.node.name,
            on_conflict=OnConflict(settings.storage.on_conflict),
        )
        self._acting = ThreadPoolExecutor(2, thread_name_prefix="dicom-act")
        self._landed_s = -_FILL_AFTER_S
        self._preparing = threading.Thread(target=self._prepare, name="dicom-prepare", daemon=True)
        self._resume: list[tuple[str, int]] = []
        self._resumed: set[str] = set()
        self._lost: frozenset[str] = frozenset()
        self._all_lost = False
        settings.node.data.mkdir(parents=True, exist_ok=True)
        self._predecessor = find_predecessor(settings.node.data)
        self._sockets = _sockets(settings, self._predecessor)
        self._offer = Offer(settings.node.data, self._sockets, self._finish)
        self._handed_over = threading.Event()
        self._wires = Wires(
            tuple(self._sockets.values()),
            first_message=self._first_message,
            heard=self._heard,
            died=self._died,
        )
        self.port = int(next(iter(self._sockets.values())).getsockname()[1])

    def start(self, *, database_away: bool) -> None:
        """Index what is on disk, then let peers connect; without a database the other way round."""
        if self._predecessor is None:
            self._sweep()
        self._all_lost = self._predecessor is None
        if database_away:
            self._books.owe(self._settle)
        else:
            self._catch_up()
        self._books.start()
        wanted = self._settings.listener
        if wanted.open:
            log.warning("listener-open-to-all", remedy="Set [listener] open = false.")
        if not self._wires.start(wanted.processes):
            log.warning("wires-not-ready")
            if self._predecessor is not None:
                raise setup_error(
                    "not-taken-over",
                    "The listener's processes do not start; the one that runs goes on.",
                    where=str(self._settings.node.data),
                    remedy="See the log for what they say.",
                )
        self._publish()
        self._preparing.start()
        log.info("listening", host=wanted.host, port=self.port, ae_title=wanted.ae_title)

    def watch(self) -> None:
        """Take up changes of the configuration until the end."""
        settled_s = time.monotonic()
        told_s = 0.0
        while not self._stop.wait(LOOK_EVERY_S):
            if not told_s or time.monotonic() - told_s > TELL_EVERY_S:
                told_s = time.monotonic()
                self._tell_of_certificates()
            if time.monotonic() - settled_s > SETTLE_EVERY_S:
                settled_s = time.monotonic()
                self._books.owe(self._settle)
            if self._handed_over.is_set():
                if self._wires.ended:
                    return
                continue
            stamps = _stamps(self._settings)
            if stamps != self._stamps:
                self._stamps = stamps
                self._reload()

    def end(self) -> None:
        """End wires, then books; everything that was answered for is in the rows or on disk."""
        self._stop.set()
        self._wires.stop()
        self._acting.shutdown()
        self._books.stop()
        self._offer.close()
        if self._predecessor is not None:
            self._predecessor.close()
        if self._preparing.is_alive():
            self._preparing.join(10)

    def _sweep(self) -> None:
        swept = self._store.sweep() + sweep_prepared(self._store.folder, self._settings.node.name)
        if swept:
            log.info("parts-swept", count=swept)

    def _publish(self) -> None:
        """Let a successor take over from us; tell the predecessor that we did."""
        try:
            self._offer.publish()
        except OSError as error:
            log.warning("no-hand-over", what=error.strerror)
        if self._predecessor is not None:
            log.info("port-taken-over", predecessor=self._predecessor.pid)
            self._predecessor.taken()
            threading.Thread(target=self._wait_predecessor, daemon=True).start()

    def _wait_predecessor(self) -> None:
        """Look after what the predecessor left; nearly always that is nothing."""
        if self._predecessor is not None:
            self._predecessor.wait_gone()
            log.info("predecessor-ended", pid=self._predecessor.pid)
        self._books.owe(self._lose_all)

    def _lose_all(self) -> bool:
        self._all_lost = True
        self._books.owe(self._settle)
        return True

    def _finish(self) -> None:
        """Leave new connections to the successor, and end with the last open association."""
        self._wires.finish()
        self._handed_over.set()

    # -- rows for what is on disk ------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Bring the rows up to what is on disk before the start, as far as that can be done."""
        # Not with a predecessor: it lives, and may be about to do the same.
        resumable = 0 if self._predecessor else self._settings.listener.processes
        try:
            self._close_lost()
            found = self._books.catch_up(resumable=resumable)
        except StorageError as error:
            log.warning("journal-not-indexed", code=error.code, what=error.what)
            self._books.owe(self._settle)
            return
        self._resume = list(found.resumable.items())
        self._resumed = set(found.resumable)
        if found.in_use:
            self._books.owe(self._settle)
        else:
            self._books.sweep()

    def _settle(self) -> bool:
        """Bring the rows up to what is on disk; return whether nothing is left to be done."""
        if self._handed_over.is_set():
            return True  # the successor's
        self._close_lost()
        found = self._books.catch_up(leave=self._resumed)
        if found.in_use - self._wires.segments():
            return False
        self._books.sweep()
        return True

    def _close_lost(self) -> None:
        """Close the rows of associations whose process ended without a word."""
        if self._lost:
            self._books.close_lost(_DIED, self._lost)
            self._lost = frozenset()
        if self._all_lost:
            self._books.close_lost(_ENDED)
            self._all_lost = False

    def _first_message(self, _number: int) -> Message:
        resume = self._resume.pop() if self._resume else ("", 0)
        return first_message(self._settings, self._store.folder, resume)

    def _heard(self, wire: Wire, message: Message) -> None:
        kind = message["kind"]
        if kind == "landed":
            self._landed_s = time.monotonic()
        if kind in ("opened", "landed", "finished", "ended", "rejected"):
            self._books.tell(message)
        elif kind == "act":
            self._acting.submit(self._act, wire, message)
        if kind == "log":
            log.warning("wire", what=message["what"])
        elif kind == "ended":
            log.info(
                "association-ended",
                outcome=message["outcome"],
                stored=message["stored"],
                refused=message["refused"],
            )
        elif kind == "rejected":
            log.warning(
                "association-rejected",
                calling_ae=message["calling_ae"],
                address=message["address"],
                reason=message["reason"],
            )
        elif kind == "refused":
            log.warning(
                "instance-refused",
                peer=message["peer"],
                status=f"{message['status']:04X}",
                comment=message["what"],
                sop_uid=message["sop_uid"],
            )
        elif kind == "turned-away":
            log.info("connection-ended", address=message["address"], reason=message["reason"])

    def _act(self, wire: Wire, message: Message) -> None:
        status, comment = PROCESSING_FAILURE, ""
        try:
            status, comment = act(
                Request(
                    calling_ae=message["calling_ae"],
                    peer=message["peer"],
                    services=frozenset(message["services"]),
                    field=message["field"],
                    sop_class=message["sop_class"],
                    sop_uid=message["sop_uid"],
                    syntax=message["syntax"],
                    data=base64.b64decode(message["data"]),
                ),
                engine=self._engine,
                peers=self._settings.peers,
            )
        except Exception:  # outermost of this thread: the peer must hear something
            log.exception("message-failed", peer=message["peer"])
        wire.link.answer(message, {"status": status, "comment": comment})

    def _died(self, wire: Wire, ending: str) -> None:
        """Have what a wire left indexed; the next one goes on at once, in another segment."""
        log.error("wire-died", pid=wire.process.pid, ending=ending)
        # Only once the books have written down all that it told.
        self._books.owe(lambda: self._lose(wire))

    def _lose(self, wire: Wire) -> bool:
        self._lost |= wire.tokens
        self._resumed -= wire.segments
        self._books.owe(self._settle)
        return True

    def _tell_of_certificates(self) -> None:
        files = files_of(self._settings.listener)
        if files is not None:
            found = examine(files, now=datetime.now(UTC))
            for what in (*found.faults, *found.warnings):
                log.warning("certificate", what=what)

    def _reload(self) -> None:
        """Take up changed peers and limits; a faulty file changes nothing."""
        try:
            settings = load_settings(self._settings.path)
        except LimnerError as error:
            log.warning("settings-not-taken", what=str(error))
            return
        # Addresses and folders stay: they need a restart.
        kept = self._settings.listener
        listener = replace(
            settings.listener, host=kept.host, port=kept.port, tls_port=kept.tls_port
        )
        self._settings = replace(self._settings, listener=listener, peers=settings.peers)
        self._wires.tell({"kind": "configure", **rules_of(self._settings)})
        log.info("settings-taken", peers=len(settings.peers))

    def _prepare(self) -> None:
        """Keep some segments ready, as long as there is room for them.

        Not while instances arrive: filling takes more from their writes than it gives them later.
        """
        storage, owner = self._settings.storage, self._settings.node.name
        size = storage.journal_mb * 1024 * 1024
        reserve = storage.reserve_mb * 1024 * 1024
        while not self._stop.is_set() and not self._handed_over.is_set():
            try:
                if (
                    time.monotonic() - self._landed_s > _FILL_AFTER_S
                    and count_prepared(self._store.folder, owner) < storage.journal_ahead
                    and free_bytes(self._store.folder, reserve) > 2 * size
                ):
                    prepare_segment(self._store.folder, owner, size)
                    continue
            except (StorageError, OSError) as error:
                log.warning("segment-not-prepared", what=str(error))
            self._stop.wait(LOOK_EVERY_S)


def _sockets(settings: Settings, predecessor: Predecessor | None) -> dict[Address, socket.socket]:
    """Return the listening socket, and that of TLS if it is wanted; the predecessor's if it can be.

    Raises:
        SetupError: An address cannot be bound.
    """
    wanted = settings.listener
    offered = predecessor.sockets if predecessor else {}
    found: dict[Address, socket.socket] = {}
    for key, port in (("port", wanted.port), ("tls_port", wanted.tls_port)):
        if key == "tls_port" and not port:
            continue
        address = Address(wanted.host, port)
        try:
            found[address] = offered.pop(address) if address in offered else _bound(address)
        except OSError as error:
            for sock in found.values():
                sock.close()
            raise setup_error(
                "listener-address",
                f"The listener cannot take its address: {error.strerror or error}.",
                where=f"[listener] {key}: {wanted.host}:{port}",
                remedy="Another program may hold the port; choose another, or end that program.",
            ) from error
    for sock in offered.values():  # an address that is not wanted any more
        sock.close()
    return found


def _bound(address: Address) -> socket.socket:
    until = time.monotonic() + _ADDRESS_S
    while True:
        try:
            return listening_socket(*address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                raise
        time.sleep(0.05)


def _stamps(settings: Settings) -> tuple[tuple[str, int], ...]:
    """Return what changes when the configuration files do."""
    files = [settings.path, *sorted((settings.path.parent / "limner.d").glob("*.toml"))]
    stamps = []
    for file in files:
        try:
            stamps.append((str(file), file.stat().st_mtime_ns))
        except OSError:
            stamps.append((str(file), 0))
    return tuple(stamps)
