"""Running receivers: each a process tree of its own, under a folder, on a free loopback port.

`start` waits until it listens, `stop` ends it by its process id. Nothing is deleted here.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.dicom_client import Target, TlsFiles
from bench.process_tree import tree
from bench.receivers import RECEIVERS, NotStartedError, Receiver, Surroundings, Sync
from node.phantom.ports import free_port

STARTS_WITHIN_S: Final = 60.0
STOPS_WITHIN_S: Final = 15.0
SETTLES_WITHIN_S: Final = 60.0
SETTLED_AFTER_S: Final = 2.5
"""Our listener looks each second, and fills a segment in less."""


@dataclass(slots=True)
class Server:
    """A running receiver."""

    name: str
    receiver: Receiver
    target: Target
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """Root of its process tree."""
        return self.process.pid

    def counted(self) -> tuple[int, int]:
        """Return how many instances our database lists, and how many of them with a digest."""
        path = self.folder / "data" / "limner.sqlite"
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
        try:
            row = database.execute(
                "SELECT count(*), coalesce(sum(coalesce(digest, '') <> ''), 0) FROM instances"
            ).fetchone()
        finally:
            database.close()
        return int(row[0]), int(row[1])

    def settle(self) -> None:
        """Wait until ours has its segments ready again, which is nobody else's disk time."""
        if not self.receiver.rows:
            return
        segments = self.folder / "data" / "objects" / "segments"
        until = time.monotonic() + SETTLES_WITHIN_S
        ready = -1
        while time.monotonic() < until:
            before, ready = ready, sum(1 for _ in segments.glob("*.ready"))
            if before == ready and not any(segments.glob("*.new")):
                return
            time.sleep(SETTLED_AFTER_S)

    def stop(self) -> None:
        """End it as a service manager would; kill what is left of its tree after that."""
        started = tree(self.pid)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOPS_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pid in started[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def start(
    name: str,
    folder: Path,
    *,
    sync: Sync,
    tls: TlsFiles | None = None,
    listener_lines: Sequence[str] = (),
) -> Server:
    """Start one of `RECEIVERS` and wait until it listens.

    Args:
        name: Its name in `RECEIVERS`.
        folder: Is made.
        sync: See `Surroundings`.
        tls: See `Surroundings`.
        listener_lines: See `Surroundings`.

    Raises:
        NotStartedError: It is not installed, ended, or did not listen in time.
    """
    receiver = RECEIVERS[name]
    folder.mkdir(parents=True)
    around = Surroundings(
        folder=folder,
        port=free_port(),
        sync=sync,
        tls=tls,
        listener_lines=listener_lines,
    )
    log = folder / "log.txt"
    environment = {key: value for key, value in os.environ.items() if key != "TCP_NODELAY"}
    if receiver.nodelay:
        environment["TCP_NODELAY"] = "1"
    try:
        with log.open("wb") as out:
            process = subprocess.Popen(
                receiver.command(around),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment,
            )
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotStartedError(f"{name}: {error}") from error
    target = Target(host="127.0.0.1", port=around.port, called_ae=receiver.ae_title, tls=tls)
    server = Server(name, receiver, target, folder, process)
    try:
        _wait_until_listening(server)
    except NotStartedError:
        server.stop()
        raise
    return server


def make_tls_files(folder: Path) -> TlsFiles:
    """Make an authority and one certificate for 127.0.0.1 with the openssl command.

    The certificate serves both sides; it is good for a day.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = TlsFiles(
        certificate=folder / "node.crt", key=folder / "node.key", authority=folder / "ca.crt"
    )
    (folder / "node.ext").write_text(
        "subjectAltName = IP:127.0.0.1, DNS:localhost\n"
        "extendedKeyUsage = serverAuth, clientAuth\n"
        "basicConstraints = CA:FALSE\n"
        "keyUsage = digitalSignature, keyEncipherment\n"
    )
    new_key = ["-newkey", "rsa:2048", "-nodes"]
    for arguments in (
        ["req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=Bench CA",
         "-days", "1"],
        ["req", *new_key, "-keyout", "node.key", "-out", "node.csr", "-subj", "/CN=BENCH"],
        ["x509", "-req", "-in", "node.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
         "-extfile", "node.ext", "-out", "node.crt", "-days", "1"],
    ):  # fmt: skip
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
    return files


def _wait_until_listening(server: Server) -> None:
    until = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < until:
        if server.process.poll() is not None:
            raise NotStartedError(f"{server.name} ended: {_end_of_log(server.folder)}")
        with socket.socket() as probe:
            if probe.connect_ex((server.target.host, server.target.port)) == 0:
                return
        time.sleep(0.05)
    raise NotStartedError(f"{server.name} does not listen: {_end_of_log(server.folder)}")


def _end_of_log(folder: Path) -> str:
    return (folder / "log.txt").read_text(errors="replace")[-600:].strip()
