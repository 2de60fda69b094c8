"""One listener hands its sockets to the next one, and no connection is refused in between.

    successor                                  predecessor
    connects to listener.sock  ------------->
                               <-------------  "sockets", with the listening sockets (SCM_RIGHTS)
    starts its wires on them; both accept
    puts a listener.sock of its own there
    "taken"                    ------------->  accepts no more, ends its open associations
                               <-------------  closes when it has ended

The file lies in the node's data folder and is the owner's alone (mode 0600); whoever connects must
run as the same user. A file that a crash left refuses connections and is replaced. A successor
that fails before it said "taken" changes nothing: the predecessor never stopped accepting.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from node.errors import setup_error

NAME: Final = "listener.sock"
_MOST_SOCKETS: Final = 8
_LONGEST_LINE: Final = 65_536
_ANSWER_S: Final = 10.0
"""How long the predecessor may take to send its sockets; it does nothing else meanwhile."""

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: process, user, group

log = structlog.get_logger("dicom")


class Address(NamedTuple):
    """A listening address as it was configured, which says whether a socket is wanted."""

    host: str
    port: int


class Predecessor:
    """The listener that runs already, seen from its successor."""

    def __init__(
        self, link: socket.socket, pid: int, sockets: Mapping[Address, socket.socket]
    ) -> None:
        """Take over the connection to it, and its sockets."""
        self.pid = pid
        self.sockets = dict(sockets)
        self._link = link

    def taken(self) -> None:
        """Tell it that its successor accepts connections."""
        with suppress(OSError):  # it is gone; then there is nobody to tell
            self._link.sendall(b"taken\n")

    def wait_gone(self) -> None:
        """Return when it has ended, in whatever way."""
        with suppress(OSError):
            while self._link.recv(1):
                pass

    def close(self) -> None:
        """Stop waiting for it."""
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self._link.close()


def find_predecessor(folder: Path) -> Predecessor | None:
    """Return the listener that runs in a data folder, with its sockets; None if there is none.

    Raises:
        SetupError: One runs and does not hand over.
    """
    until = time.monotonic() + _ANSWER_S
    while time.monotonic() < until:
        link = _connect(folder)
        if link is None:
            return None
        try:
            link.settimeout(max(0.1, until - time.monotonic()))
            found = _receive(link)
        except OSError:  # it ends, or hands over to another successor, in this moment
            found = None
        if found is not None:
            link.settimeout(None)
            return found
        link.close()
        time.sleep(0.1)
    raise setup_error(
        "no-hand-over",
        "A listener runs in this data folder and does not hand its port over.",
        where=str(folder / NAME),
        remedy="End it first; if nothing runs, delete that file.",
    )


class Offer:
    """Lets a successor take the sockets of this listener; one thread."""

    def __init__(
        self, folder: Path, sockets: Mapping[Address, socket.socket], taken: Callable[[], None]
    ) -> None:
        """Make ready; `publish` begins.

        Args:
            folder: The node's data folder.
            sockets: What is handed over.
            taken: Called once when a successor accepts connections on them.
        """
        self._folder = folder
        self._sockets = dict(sockets)
        self._taken = taken
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._listening: socket.socket | None = None
        self._inode = 0
        self._successor: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="dicom-hand-over", daemon=True)

    def publish(self) -> None:
        """Let successors connect from now on.

        Raises:
            OSError: The file cannot be made in the folder.
        """
        self._listen()
        self._thread.start()

    def close(self) -> None:
        """End; a successor that took the sockets hears that this listener has ended."""
        with self._lock:
            self._closed.set()
            for sock in (self._listening, self._successor):
                if sock is not None:
                    with suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)  # wakes the thread
        if self._thread.is_alive():
            self._thread.join()
        self._withdraw()
        if self._successor is not None:
            self._successor.close()

    def _run(self) -> None:
        while (listening := self._listening) is not None:
            try:
                link, _ = listening.accept()
            except OSError:
                return
            with self._lock:
                if self._closed.is_set():
                    link.close()
                    return
                self._successor = link
            if self._hand_over(link):
                log.info("port-handed-over")
                self._withdraw()
                self._taken()
                return
            with self._lock:
                self._successor = None
            link.close()
            if self._closed.is_set():
                return
            self._listen_again()

    def _hand_over(self, link: socket.socket) -> bool:
        """Send the sockets; return whether the other side says that it serves them."""
        try:
            _, user, _ = _CREDENTIALS.unpack(
                link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
            if user != os.geteuid():
                log.warning("hand-over-refused", user=user)
                return False
            said = {
                "kind": "sockets",
                "pid": os.getpid(),
                "addresses": [list(address) for address in self._sockets],
            }
            descriptors = [sock.fileno() for sock in self._sockets.values()]
            socket.send_fds(link, [json.dumps(said).encode() + b"\n"], descriptors)
            return link.recv(16) == b"taken\n"
        except OSError:
            return False

    def _listen_again(self) -> None:
        """Put the file back if a successor that failed had replaced it."""
        with _folder_path(self._folder) as folder:
            try:
                ours = (folder / NAME).stat().st_ino == self._inode
            except OSError:
                ours = False
        if not ours:
            if self._listening is not None:
                self._listening.close()
            try:
                self._listen()
            except OSError as error:
                log.warning("no-hand-over", what=error.strerror)

    def _listen(self) -> None:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _folder_path(self._folder) as folder:
                part = folder / f".{NAME}.{os.getpid()}"
                part.unlink(missing_ok=True)
                # The mode of the file is that of the socket: nobody else may connect, ever.
                os.fchmod(listening.fileno(), 0o600)
                listening.bind(str(part))
                listening.listen(4)
                self._inode = part.stat().st_ino
                part.replace(folder / NAME)
        except BaseException:
            listening.close()
            raise
        with self._lock:
            self._listening = listening

    def _withdraw(self) -> None:
        """Close the listening end, and remove the file if it is still ours."""
        with self._lock:
            listening, self._listening = self._listening, None
        if listening is None:
            return
        listening.close()
        with suppress(OSError), _folder_path(self._folder) as folder:
            if (folder / NAME).stat().st_ino == self._inode:
                (folder / NAME).unlink()


def _connect(folder: Path) -> socket.socket | None:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _folder_path(folder) as short:
            link.connect(str(short / NAME))
    except OSError:  # no file, or one that a crash left
        link.close()
        return None
    return link


def _receive(link: socket.socket) -> Predecessor | None:
    data, descriptors, _, _ = socket.recv_fds(link, _LONGEST_LINE, _MOST_SOCKETS)
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    for sock in sockets:
        sock.set_inheritable(False)
    try:
        said = json.loads(data)
        addresses = [Address(host, port) for host, port in said["addresses"]]
        return Predecessor(link, said["pid"], dict(zip(addresses, sockets, strict=True)))
    except (ValueError, KeyError, TypeError):  # it closed, or speaks another language
        for sock in sockets:
            sock.close()
        return None


@contextmanager
def _folder_path(folder: Path) -> Iterator[Path]:
    """Give a short path of a folder: the address of a Unix socket has 107 characters at most."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
