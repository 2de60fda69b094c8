"""Real peers for tests: DCMTK's storescp, its command-line senders, and Orthanc.

Plain functions and context managers; `tests/conftest.py` or a room's own conftest turns them into
fixtures. Every program gets a folder under tmp_path, a free loopback port and an end.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.phantom.ports import free_port

STARTS_WITHIN_S = 30.0


def program(name: str) -> str:
    """Return the path of a system peer, or skip visibly."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"system peer not installed: {name}")
    return found


def dcmtk(name: str, *arguments: str | Path, timeout_s: float = 60) -> subprocess.CompletedProcess:
    """Run one of DCMTK's tools to its end; it sends without Nagle's delays."""
    return subprocess.run(
        [program(name), *map(str, arguments)],
        env={**os.environ, "TCP_NODELAY": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def wait_for_port(port: int, process: subprocess.Popen) -> None:
    """Wait until something listens on a loopback port, or its process has ended."""
    until = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < until:
        if process.poll() is not None:
            pytest.fail(f"the peer ended with {process.returncode} before it listened")
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    pytest.fail(f"nothing listens on port {port} after {STARTS_WITHIN_S} s")


@dataclass(frozen=True)
class StoreScp:
    """A running storescp."""

    ae_title: str
    port: int
    folder: Path

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_file())


@contextmanager
def running_storescp(
    folder: Path, *, ae_title: str = "STORESCP", options: Sequence[str] = ()
) -> Iterator[StoreScp]:
    """Run DCMTK's storescp; what it receives lies in `folder`, bit for bit (`+B`)."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with _ended(
        subprocess.Popen(
            [
                program("storescp"),
                *("--fork", "+B", "--aetitle", ae_title, "-od", str(folder)),
                *options,
                str(port),
            ],
            env={**os.environ, "TCP_NODELAY": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    ) as process:
        wait_for_port(port, process)
        yield StoreScp(ae_title, port, folder)


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc."""

    ae_title: str
    port: int
    http_port: int

    def get(self, path: str) -> object:
        """Return the JSON at a REST path."""
        with urllib.request.urlopen(self._url(path), timeout=10) as answer:  # noqa: S310
            return json.load(answer)

    def read(self, path: str) -> bytes:
        """Return the bytes at a REST path, such as /instances/ID/file."""
        with urllib.request.urlopen(self._url(path), timeout=30) as answer:  # noqa: S310
            return bytes(answer.read())

    def find(self, sop_uid: str) -> list[str]:
        """Return Orthanc's ids of the instances with a SOP Instance UID."""
        request = urllib.request.Request(  # noqa: S310  loopback, made above
            self._url("/tools/lookup"), data=sop_uid.encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return [found["ID"] for found in json.load(answer) if found["Type"] == "Instance"]

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http_port}{path}"


@contextmanager
def running_orthanc(
    folder: Path,
    *,
    ae_title: str = "ORTHANC",
    modalities: dict[str, tuple[str, int]] | None = None,
    **options: object,
) -> Iterator[Orthanc]:
    """Run Orthanc with everything under `folder`.

    Args:
        folder: Is made.
        ae_title: Its AE title.
        modalities: Name -> (AE title, loopback port) of those that it may call, which is what
            storage commitment needs.
        options: More keys of its configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port, http_port = free_port(), free_port()
    configuration = {
        "Name": ae_title,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": http_port,
        "DicomPort": port,
        "DicomAet": ae_title,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowFind": True,
        "UnknownSopClassAccepted": True,
        "OverwriteInstances": False,
        "StorageCommitmentReportsSize": 100,
        "ConcurrentJobs": 1,
        "HttpThreadsCount": 4,
        "Plugins": [],
        "DicomModalities": {
            name: {"AET": title, "Host": "127.0.0.1", "Port": to, "AllowStorageCommitment": True}
            for name, (title, to) in (modalities or {}).items()
        },
        **options,
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(
            [program("Orthanc"), str(path)],
            env={**os.environ, "TCP_NODELAY": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    with _ended(process):
        wait_for_port(port, process)
        wait_for_port(http_port, process)
        yield Orthanc(ae_title, port, http_port)


@contextmanager
def _ended(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """End a process when its use ends."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
