"""Storage SCPs made with pynetdicom: as its examples show, and as fast as it goes.

`python -m bench.pynetdicom_scp naive|tuned 11114 FOLDER` prints `listening` when it does.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import ssl
import threading
from pathlib import Path
from typing import Any, Final

from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
from pynetdicom.transport import AssociationSocket

_MANY: Final = 1000
_VERIFICATION: Final = "1.2.840.10008.1.1"


def save_dataset(event: Any, folder: Path) -> int:
    """Decode the dataset and write it again, as most scripts do."""
    dataset = event.dataset
    dataset.file_meta = event.file_meta
    dataset.save_as(folder / dataset.SOPInstanceUID, enforce_file_format=True)
    return 0x0000


def save_bytes(event: Any, folder: Path) -> int:
    """Write file meta and dataset as received."""
    file = os.open(folder / event.request.AffectedSOPInstanceUID, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(file, event.encoded_dataset())
    os.close(file)
    return 0x0000


def receive_at_once(self: Any, nr_bytes: int) -> bytearray:
    """Read into one buffer; stands in for a loop over pieces of 4 096 bytes."""
    whole = bytearray(nr_bytes)
    view = memoryview(whole)
    at = 0
    while at < nr_bytes:
        received = self.socket.recv_into(view[at:])
        if not received:
            break
        at += received
    return whole[:at]


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="pynetdicom as a storage SCP.")
    parser.add_argument("way", choices=["naive", "tuned"])
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tls-certificate", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--tls-authority", type=Path)
    wanted = parser.parse_args()
    ae = AE("PYNETDICOM")
    ae.supported_contexts = AllStoragePresentationContexts
    ae.add_supported_context(_VERIFICATION)
    ae.maximum_associations = _MANY
    save = save_dataset
    if wanted.way == "tuned":
        _config.LOG_HANDLER_LEVEL = "none"
        ae.maximum_pdu_size = 0
        AssociationSocket.recv = receive_at_once  # type: ignore[method-assign]  # the point of it
        save = save_bytes
    tls = None
    if wanted.tls_certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(wanted.tls_certificate, wanted.tls_key)
        tls.load_verify_locations(wanted.tls_authority)
        tls.verify_mode = ssl.CERT_REQUIRED
    server = ae.start_server(
        ("127.0.0.1", wanted.port),
        block=False,
        ssl_context=tls,
        evt_handlers=[(evt.EVT_C_STORE, save, [wanted.folder])],
    )
    if server is None or server.socket is None:
        raise SystemExit("pynetdicom did not start")
    if wanted.way == "tuned":
        server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print("listening", flush=True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    server.shutdown()


if __name__ == "__main__":
    main()
