"""The listener's keeper: configuration, wires, books. What peers send becomes durable, then rows.

    keeper (this process)  -- configuration -->  wire (connections, journal)
                           <-- what landed --

It imports no torch. `run_listener` returns when `stop` is set, after requests in progress have
been answered, or when a successor has taken the port over and the last association has ended.
"""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

import structlog

from node.dicom.admitting import first_message, rules_of
from node.dicom.books import Books
from node.dicom.messages import Request, act
from node.dicom.statuses import PROCESSING_FAILURE
from node.dicom.wire.acceptor import listening_socket
from node.dicom.wire.link import Message
from node.dicom.wires import Wire, Wires
from node.errors import LimnerError, setup_error
from node.settings import Settings, load_settings
from storage.associations import close_lost
from storage.conflicts import OnConflict
from storage.database import Engine, writing
from storage.errors import StorageError
from storage.objects import ObjectStore
from storage.segments import (
    count_prepared,
    free_bytes,
    list_segments,
    prepare_segment,
    sweep_prepared,
)

LOOK_EVERY_S: Final = 1.0
"""How often the configuration files, and the segments kept ready, are looked at."""

log = structlog.get_logger("dicom")


def run_listener(
    settings: Settings,
    engine: Engine,
    store: ObjectStore,
    *,
    stop: threading.Event,
    on_ready: Callable[[int], None] | None = None,
) -> None:
    """Receive until `stop` is set.

    Args:
        settings: The node's settings; port 0 takes a free port.
        engine: The node's database.
        store: Where instance bytes go.
        stop: Ends it: requests in progress are answered, then associations are aborted.
        on_ready: Called once with the port when peers can connect.

    Raises:
        SetupError: An address cannot be bound.
    """
    keeper = _Keeper(settings, engine, store, stop)
    try:
        keeper.start()
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
        self._preparing = threading.Thread(target=self._prepare, name="dicom-prepare", daemon=True)
        self._sockets = _sockets(settings)
        self._resume: list[tuple[str, int]] = []
        self._behind: frozenset[str] = frozenset()
        """Segments that nobody writes to any more, to be indexed once the database is there."""
        self._wires = Wires(
            self._sockets, first_message=self._first_message, heard=self._heard, died=self._died
        )
        self.port = int(self._sockets[0].getsockname()[1])

    def start(self) -> None:
        """Index what is on disk, then let peers connect."""
        swept = self._store.sweep() + sweep_prepared(self._store.folder, self._settings.node.name)
        if swept:
            log.info("parts-swept", count=swept)
        self._catch_up()
        self._books.start()
        wanted = self._settings.listener
        if wanted.open:
            log.warning("listener-open-to-all", remedy="Set [listener] open = false.")
        if not self._wires.start(wanted.processes):
            log.warning("wires-not-ready")
        self._preparing.start()
        log.info("listening", host=wanted.host, port=self.port, ae_title=wanted.ae_title)

    def watch(self) -> None:
        """Take up changes of the configuration until the end."""
        while not self._stop.wait(LOOK_EVERY_S):
            if self._behind:
                self._make_up()
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
        for sock in self._sockets:
            sock.close()
        if self._preparing.is_alive():
            self._preparing.join(10)

    def _catch_up(self) -> None:
        """Bring the rows up to what is on disk; without a database that is left for later."""
        try:
            with writing(self._engine) as db:
                lost = close_lost(db, "The listener ended first; what was answered is kept.")
            if lost:
                log.info("associations-lost", count=lost)
            ends = self._books.catch_up()
        except StorageError as error:
            self._put_off(error, self._segments())
            return
        roomy = sorted(ends.items(), reverse=True)[: self._settings.listener.processes]
        self._resume = [(name, at) for name, at in roomy]
        self._books.seal([name for name in ends if name not in dict(self._resume)])

    def _put_off(self, error: StorageError, segments: frozenset[str]) -> None:
        log.warning("journal-not-indexed", code=error.code, what=error.what)
        self._behind |= segments

    def _make_up(self) -> None:
        """Try again to index what was put off."""
        behind = self._behind
        try:
            self._books.catch_up(leave=self._segments() - behind)
            self._books.seal(sorted(behind & self._segments()))
        except StorageError:
            return  # still away; whoever writes rows says so
        self._behind -= behind
        log.info("journal-indexed-late", segments=len(behind))

    def _segments(self) -> frozenset[str]:
        try:
            return frozenset(list_segments(self._store.folder, self._settings.node.name))
        except OSError:
            return frozenset()  # without its folder nothing can be received either

    def _first_message(self, _number: int) -> Message:
        resume = self._resume.pop() if self._resume else ("", 0)
        return first_message(self._settings, self._store.folder, resume)

    def _heard(self, wire: Wire, message: Message) -> None:
        kind = message["kind"]
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
        """Index what a wire left, before the next one goes on in its segment."""
        log.error("wire-died", pid=wire.process.pid, ending=ending)
        try:
            with writing(self._engine) as db:
                close_lost(
                    db,
                    "The listener's process died; what was answered before is kept.",
                    sorted(wire.tokens),
                )
            ends = self._books.catch_up(self._wires.segments(but=wire))
        except StorageError as error:
            self._put_off(error, frozenset(wire.segments))
            return
        mine = sorted(name for name in ends if name in wire.segments)
        self._resume = [(mine[-1], ends[mine[-1]])] if mine else []

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
        """Keep some segments ready, as long as there is room for them."""
        storage, owner = self._settings.storage, self._settings.node.name
        size = storage.journal_mb * 1024 * 1024
        reserve = storage.reserve_mb * 1024 * 1024
        while not self._stop.is_set():
            try:
                if (
                    count_prepared(self._store.folder, owner) < storage.journal_ahead
                    and free_bytes(self._store.folder, reserve) > 2 * size
                ):
                    prepare_segment(self._store.folder, owner, size)
                    continue
            except (StorageError, OSError) as error:
                log.warning("segment-not-prepared", what=str(error))
            self._stop.wait(LOOK_EVERY_S)


def _sockets(settings: Settings) -> list[socket.socket]:
    wanted = settings.listener
    found: list[socket.socket] = []
    for key, port in (("port", wanted.port), ("tls_port", wanted.tls_port)):
        if key == "tls_port" and not port:
            continue
        try:
            found.append(listening_socket(wanted.host, port))
        except OSError as error:
            for sock in found:
                sock.close()
            raise setup_error(
                "listener-address",
                f"The listener cannot take its address: {error.strerror or error}.",
                where=f"[listener] {key}: {wanted.host}:{port}",
                remedy="Another program may hold the port; choose another, or end that program.",
            ) from error
    return found


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
