"""The storage SCPs that are compared, and how each is called: ours, DCMTK's, Orthanc, pynetdicom.

A command line may need a configuration file, which is written into the receiver's own folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from bench.dicom_client import TlsFiles
from node.phantom.ports import free_port

DCMTK_LONGEST_PDU: Final = 131_072
MANY_ASSOCIATIONS: Final = 500
"""What `limner.toml` takes at most; 200 idle associations must find room."""

_CONFIG: Final = """
[node]
name = "bench"
[storage]
reserve_mb = 10
[listener]
host = "127.0.0.1"
port = {port}
ae_title = "LIMNER"
max_associations = {associations}
{more}
[web]
enabled = false
[[peers]]
name = "scanner"
ae_title = "BENCH"
may = ["echo", "store"]
[[peers]]
name = "stock"
ae_title = "STORESCU"
may = ["echo", "store"]
"""


class Sync(StrEnum):
    """What an answer of 0x0000 is worth; figures of the two are never put side by side."""

    NONE = "none"  # everything lies on tmpfs: what the protocol costs
    DURABLE = "durable"  # on a disk, and whoever can syncs before it answers


class NotStartedError(Exception):
    """A server did not come up; the message holds the end of what it wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a server is started with.

    Attributes:
        folder: Its own; everything it writes lies there.
        port: Loopback port.
        sync: Whether a receiver that can sync what it writes should.
        tls: Certificate for TLS; None for plain TCP.
        listener_lines: More lines for `[listener]` in our limner.toml.
    """

    folder: Path
    port: int
    sync: Sync
    tls: TlsFiles | None
    listener_lines: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """One of the receivers that are compared.

    Attributes:
        words: What it is, for the reader of a table.
        ae_title: Its AE title.
        command: Gives the command line; may write configuration into the folder first.
        share: How many of the instances it gets; less than 1 where it is known to be slow, so
            that a round does not wait for it.
        nodelay: Whether DCMTK's variable TCP_NODELAY is set for it.
        forks: Whether it serves each association in a process of its own that ends with it.
        rows: Whether it has our database.
    """

    words: str
    ae_title: str
    command: Callable[[Surroundings], list[str]]
    share: float = 1.0
    nodelay: bool = False
    forks: bool = False
    rows: bool = False


def _limner(around: Surroundings) -> list[str]:
    lines, port = list(around.listener_lines), around.port
    if around.tls is not None:
        port = free_port()  # plain DICOM, which nobody calls
        lines += [
            f"tls_port = {around.port}",
            f'tls_cert_file = "{around.tls.certificate}"',
            f'tls_key_file = "{around.tls.key}"',
            f'tls_ca_file = "{around.tls.authority}"',
        ]
    config = around.folder / "limner.toml"
    config.write_text(
        _CONFIG.format(port=port, associations=MANY_ASSOCIATIONS, more="\n".join(lines))
    )
    call = [sys.executable, "-m", "node.cli"]
    made = subprocess.run(
        [*call, "migrate", "--config", str(config)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise NotStartedError(f"limner migrate: {made.stdout}{made.stderr}"[-600:])
    return [*call, "listen", "--config", str(config)]


def _storescp(around: Surroundings, *options: str) -> list[str]:
    received = around.folder / "received"
    received.mkdir()
    tls: list[str] = []
    if around.tls is not None:
        files = around.tls
        tls = ["+tls", str(files.key), str(files.certificate), "+cf", str(files.authority)]
    return ["storescp", "-aet", "STORESCP", "-od", str(received), *options, *tls,
            str(around.port)]  # fmt: skip


def _storescp_best(around: Surroundings) -> list[str]:
    return _storescp(around, "--fork", "+B", "-pdu", str(DCMTK_LONGEST_PDU))


def _orthanc(around: Surroundings, **options: object) -> list[str]:
    storage = str(around.folder / "storage")
    configuration: dict[str, object] = {
        "StorageDirectory": storage,
        "IndexDirectory": storage,
        "DicomPort": around.port,
        "DicomAet": "ORTHANC",
        "HttpPort": free_port(),
        "RemoteAccessAllowed": False,
        **options,
    }
    if around.tls is not None:
        configuration |= {
            "DicomTlsEnabled": True,
            "DicomTlsCertificate": str(around.tls.certificate),
            "DicomTlsPrivateKey": str(around.tls.key),
            "DicomTlsTrustedCertificates": str(around.tls.authority),
        }
    path = around.folder / "orthanc.json"
    path.write_text(json.dumps(configuration))
    return ["Orthanc", str(path)]


def _orthanc_tuned(around: Surroundings) -> list[str]:
    return _orthanc(
        around,
        StorageCompression=False,
        SyncStorageArea=around.sync is Sync.DURABLE,
        StoreMD5ForAttachments=False,
        OverwriteInstances=False,
        MaximumPduLength=DCMTK_LONGEST_PDU,
        DicomThreadsCount=16,
        SaveJobs=False,
    )


def _ours_in_python(module: str, around: Surroundings, *arguments: str) -> list[str]:
    tls: list[str] = []
    if around.tls is not None:
        tls = [
            *("--tls-certificate", str(around.tls.certificate)),
            *("--tls-key", str(around.tls.key)),
            *("--tls-authority", str(around.tls.authority)),
        ]
    return [sys.executable, "-m", f"bench.{module}", *arguments, *tls]


def _pynetdicom(way: str) -> Callable[[Surroundings], list[str]]:
    def command(around: Surroundings) -> list[str]:
        received = around.folder / "received"
        received.mkdir()
        return _ours_in_python("pynetdicom_scp", around, way, str(around.port), str(received))

    return command


def _sink(files: int, mb: int = 256) -> Callable[[Surroundings], list[str]]:
    def command(around: Surroundings) -> list[str]:
        unsynced = ["--unsynced"] if around.sync is Sync.NONE else []
        length = ("--files", str(files), "--mb", str(mb))
        arguments = (str(around.port), str(around.folder), *length, *unsynced)
        return _ours_in_python("dicom_sink", around, *arguments)

    return command


RECEIVERS: Final = {
    "us": Receiver(words="limner listen", ae_title="LIMNER", command=_limner, rows=True),
    "storescp": Receiver(
        words="storescp as it comes", ae_title="STORESCP", command=_storescp, share=1 / 16
    ),
    "storescp-nodelay": Receiver(
        words="storescp as it comes, TCP_NODELAY=1",
        ae_title="STORESCP",
        command=_storescp,
        share=1 / 16,
        nodelay=True,
    ),
    "storescp-best": Receiver(
        words="storescp --fork +B -pdu 131072, TCP_NODELAY=1",
        ae_title="STORESCP",
        command=_storescp_best,
        nodelay=True,
        forks=True,
    ),
    "orthanc": Receiver(words="Orthanc as it comes", ae_title="ORTHANC", command=_orthanc,
                    share=1 / 16),
    "orthanc-tuned": Receiver(
        words="Orthanc without MD5 (and without sync where nobody syncs), TCP_NODELAY=1",
        ae_title="ORTHANC",
        command=_orthanc_tuned,
        share=1 / 2,
        nodelay=True,
    ),
    "pynetdicom": Receiver(
        words="pynetdicom, dataset.save_as",
        ae_title="PYNETDICOM",
        command=_pynetdicom("naive"),
        share=1 / 4,
    ),
    "pynetdicom-tuned": Receiver(
        words="pynetdicom, encoded bytes, one recv per PDU, TCP_NODELAY",
        ae_title="PYNETDICOM",
        command=_pynetdicom("tuned"),
        share=1 / 4,
    ),
    "sink": Receiver(words="read, pwrite, fdatasync, answer; one file, round and round",
                 ae_title="SINK", command=_sink(1)),
    "sink-files": Receiver(words="the same with 8 files", ae_title="SINK", command=_sink(8)),
    "sink-growing": Receiver(words="the same with one file that grows: it keeps what arrives",
                 ae_title="SINK", command=_sink(1, mb=0)),
}  # fmt: skip
"""Every receiver by its name."""
