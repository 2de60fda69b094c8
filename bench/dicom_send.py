"""Send pre-encoded instances from the command line, and tell what became of them as JSON.

`python -m bench.dicom_send 127.0.0.1 11112 --called LIMNER --object ct --count 100`
prints one JSON object. With `--staged` it prints `ready`, begins when it reads a line, prints the
JSON and releases when it reads another: so that several of them begin at the same moment.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path

from bench.dicom_client import (
    Association,
    AssociationError,
    Sending,
    Sent,
    Target,
    TlsFiles,
    associate,
    send_instances,
)
from bench.dicom_objects import DicomObject, Kind, make_object


def main() -> None:
    """Send as the command line says and print what became of it as JSON."""
    wanted = _arguments()
    tls = None
    if wanted.tls_certificate is not None:
        tls = TlsFiles(
            certificate=wanted.tls_certificate, key=wanted.tls_key, authority=wanted.tls_authority
        )
    target = Target(
        host=wanted.host,
        port=wanted.port,
        called_ae=wanted.called,
        calling_ae=wanted.calling,
        tls=tls,
        source_address=wanted.source,
    )
    made = make_object(wanted.object, random.Random(wanted.seed))
    if wanted.staged:
        print("ready", flush=True)
        sys.stdin.readline()
    association, sent = _sent(wanted, target, made)
    print(json.dumps({slot: getattr(sent, slot) for slot in Sent.__slots__}), flush=True)
    if wanted.staged:
        sys.stdin.readline()
    if association is not None:
        association.release()
    sys.exit(1 if sent.failure or set(sent.statuses) - {0} else 0)


def _sent(
    wanted: argparse.Namespace, target: Target, made: DicomObject
) -> tuple[Association | None, Sent]:
    before = time.perf_counter()
    try:
        association = associate(
            target, made.sop_class, max_pdu_bytes=wanted.pdu, sending=wanted.sending
        )
    except AssociationError as ended:
        return None, Sent(failure=str(ended))
    associate_ms = (time.perf_counter() - before) * 1000
    file = -1
    if wanted.acknowledged is not None:
        file = os.open(wanted.acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sent = send_instances(
        association,
        made,
        count=wanted.count,
        max_pdu_bytes=wanted.pdu,
        sending=wanted.sending,
        on_acknowledged=(lambda uid: _write_line(file, uid)) if file >= 0 else None,
    )
    sent.associate_ms = associate_ms
    return association, sent


def _write_line(file: int, text: str) -> None:
    os.write(file, text.encode() + b"\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Send pre-encoded instances over C-STORE.")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--called", default="LIMNER")
    parser.add_argument("--calling", default="BENCH")
    parser.add_argument("--object", type=Kind, choices=list(Kind), default=Kind.CT)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--pdu", type=int, default=131_072, help="longest PDU in bytes")
    parser.add_argument("--sending", type=Sending, choices=list(Sending), default=Sending.WHOLE)
    parser.add_argument("--seed", type=int, help="the same seed gives the same UIDs")
    parser.add_argument("--source", default="", help="address to call from")
    parser.add_argument("--tls-certificate", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--tls-authority", type=Path)
    parser.add_argument("--acknowledged", type=Path, help="file for UIDs answered with 0x0000")
    parser.add_argument("--staged", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
