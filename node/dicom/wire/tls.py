"""TLS as PS3.15 annex B.12 (BCP 195) wants it: 1.2 or better, both sides with certificates.

Certificates are read again when their files change, so that renewing one needs no restart. Every
new connection takes the context of that moment; open ones keep theirs. Files that cannot be used,
such as half-written ones, change nothing and are said once.

Sessions are not resumed: a ticket would outlive the certificate that it was given for, and its key
would have to be changed every week (RFC 9325 section 3.4).

Source: DICOM PS3.15 B.12 and B.13; RFC 9325.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from pathlib import Path
from typing import Final, NamedTuple

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL"
"""Of TLS 1.2: forward secrecy and authenticated encryption alone. TLS 1.3 has no others."""

LOOK_EVERY_S: Final = 1.0

_REASONS: Final = {
    "KEY_VALUES_MISMATCH": "the key is not that of the certificate",
    "NO_CERTIFICATE_OR_CRL_FOUND": "there is no certificate in it",
    "PEM_LIB": "it is not whole",
    "NO_START_LINE": "it is no PEM file",
}
"""What OpenSSL says of files, in words."""

log = logging.getLogger(__name__)


class TlsError(Exception):
    """A certificate or key cannot be used; the text is for people."""


class TlsFiles(NamedTuple):
    """PEM files.

    Attributes:
        certificate: Ours, followed by its chain.
        key: Its key, not encrypted.
        authorities: Of those that sign the certificates of peers.
    """

    certificate: str
    key: str
    authorities: str


class ServerTls:
    """The context for connections that peers open, renewed when its files change."""

    def __init__(self, files: TlsFiles) -> None:
        """Read the files; if they cannot be used, they are looked at again later."""
        self._lock = threading.Lock()
        self._files = files
        self._stamps: tuple[object, ...] = ()
        self._context: ssl.SSLContext | None = None
        self._fault = ""
        self._look_at_s = 0.0
        self._look()

    def take(self, files: TlsFiles) -> None:
        """Use other files from now on; until they are good, what was read before stays."""
        with self._lock:
            self._files = files
            self._look()

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection; the last good one if new files are faulty.

        Raises:
            TlsError: There never were good ones.
        """
        with self._lock:
            if time.monotonic() >= self._look_at_s:
                self._look()
            if self._context is None:
                raise TlsError(self._fault)
            return self._context

    def _look(self) -> None:
        self._look_at_s = time.monotonic() + LOOK_EVERY_S
        stamps = (self._files, *map(_stamp, self._files))
        if stamps == self._stamps:
            return
        try:
            self._context = server_context(self._files)
        except TlsError as error:
            if str(error) != self._fault:
                self._fault = str(error)
                log.warning("TLS files are not taken: %s", error)
        else:
            # Stamped before they were read: what changed meanwhile is read again.
            self._stamps, self._fault = stamps, ""


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Return a context that wants a certificate of the peer.

    Raises:
        TlsError: A file cannot be read or used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= (
        ssl.OP_NO_COMPRESSION
        | ssl.OP_NO_RENEGOTIATION
        | ssl.OP_CIPHER_SERVER_PREFERENCE
        | ssl.OP_NO_TICKET
    )
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        # Without a password of ours OpenSSL would ask for it on the terminal.
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except _EncryptedError as error:
        raise TlsError(f"{files.key}: the key is encrypted; give one without") from error
    except OSError as error:  # ssl.SSLError is one
        raise TlsError(f"{files.certificate} with {files.key}: {_words(error)}") from error
    try:
        context.load_verify_locations(files.authorities)
    except OSError as error:
        raise TlsError(f"{files.authorities}: {_words(error)}") from error
    return context


def handshake_fault(error: OSError) -> str:
    """Return in words why no TLS connection came about."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"Its certificate is refused: {error.verify_message}."
    reason = getattr(error, "reason", None)
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "It shows no certificate."
    if reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST"}:
        return "It does not speak TLS on the port for TLS."
    return f"No TLS came about: {_words(error)}."


class _EncryptedError(Exception):
    """OpenSSL wants a password for the key."""


def _no_password() -> str:
    raise _EncryptedError


def _words(error: OSError) -> str:
    """Return what OpenSSL or the system says, without their numbers."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, str):
        return _REASONS.get(reason, reason.replace("_", " ").lower())
    return error.strerror or "it cannot be used"


def _stamp(path: str) -> tuple[int, int, int]:
    """Return what changes with a file; of one that is absent too."""
    try:
        found = Path(path).stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)
