"""TLS as PS3.15 annex B.12 (BCP 195) wants it: 1.2 or better, both sides with certificates.

Certificates are read again when their files change, so that renewing one needs no restart. Every
new connection takes the context of that moment; open ones keep theirs.

Source: DICOM PS3.15 B.12 and B.13; RFC 9325.
"""

from __future__ import annotations

import ssl
import threading
import time
from pathlib import Path
from typing import Final

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL"
"""Of TLS 1.2: forward secrecy and authenticated encryption alone. TLS 1.3 has no others."""

LOOK_EVERY_S: Final = 5.0


class TlsError(Exception):
    """A certificate or key cannot be used; the text is for people."""


class ServerTls:
    """The context for connections that peers open, renewed when its files change."""

    def __init__(self, certificate: str, key: str, authorities: str) -> None:
        """Read the files.

        Args:
            certificate: PEM file of our certificate and its chain.
            key: PEM file of its key.
            authorities: PEM file of the authorities that sign peers' certificates.

        Raises:
            TlsError: A file cannot be read or used.
        """
        self._files = (Path(certificate), Path(key), Path(authorities))
        self._lock = threading.Lock()
        self._stamps = self._now()
        self._context = server_context(certificate, key, authorities)
        self._looked_s = time.monotonic()

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection; the last good one if new files are faulty."""
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._looked_s >= LOOK_EVERY_S:
                self._looked_s = now_s
                stamps = self._now()
                if stamps != self._stamps:
                    try:
                        self._context = server_context(*map(str, self._files))
                        self._stamps = stamps
                    except TlsError:
                        pass  # half-written; `limner check` says what is wrong with them
            return self._context

    def _now(self) -> tuple[int, ...]:
        return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in self._files)


def server_context(certificate: str, key: str, authorities: str) -> ssl.SSLContext:
    """Return a context that wants a certificate of the peer.

    Raises:
        TlsError: A file cannot be read or used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= (
        ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    )
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise TlsError(f"{certificate} with {key}: {error}") from error
    try:
        context.load_verify_locations(authorities)
    except (OSError, ssl.SSLError) as error:
        raise TlsError(f"{authorities}: {error}") from error
    return context
