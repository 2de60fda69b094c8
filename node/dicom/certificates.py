"""Are the TLS files of the listener good, and until when?

The few fields that matter are read from the DER encoding here: Python's own `ssl` parses only
certificates of a connection, and certificates that are no authorities it does not show at all.

Source: RFC 5280 section 4.1 (Certificate, Validity, Name), RFC 7468 (PEM).
"""

from __future__ import annotations

import base64
import binascii
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from node.dicom.wire.tls import TlsError, TlsFiles, server_context
from node.settings import ListenerSettings

WARN_BEFORE: Final = timedelta(days=30)
"""A hospital's authority may take weeks to sign a new one."""

_BLOCK: Final = re.compile(
    rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.*?)-----END", re.DOTALL
)
_COMMON_NAME: Final = bytes.fromhex("550403")  # OID 2.5.4.3
_UTC_TIME, _VERSION = 0x17, 0xA0
_LONG_FORM: Final = 0x80


class CertificateError(ValueError):
    """Bytes are not the certificate that they claim to be; the text is for people."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is of interest of one certificate; both times are UTC and inclusive."""

    name: str
    not_before: datetime
    not_after: datetime


@dataclass(slots=True)
class Findings:
    """What was found of the files of a listener.

    Attributes:
        certificates: File -> what lies in it, ours first.
        faults: What keeps peers from connecting, or endangers the key, now.
        warnings: What will, soon.
    """

    certificates: list[tuple[str, Certificate]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def files_of(listener: ListenerSettings) -> TlsFiles | None:
    """Return the files that a listener is configured with; None where it serves no TLS."""
    if not listener.tls_port:
        return None
    return TlsFiles(
        certificate=str(listener.tls_cert_file),
        key=str(listener.tls_key_file),
        authorities=str(listener.tls_ca_file),
    )


def examine(files: TlsFiles, *, now: datetime) -> Findings:
    """Return what is wrong with the files of a listener, or will be soon."""
    found = Findings()
    found.faults += [fault for path in files if (fault := _unreadable(Path(path)))]
    if not found.faults:
        try:
            server_context(files)
        except TlsError as error:
            found.faults.append(f"TLS cannot be served: {error}")
    _look_at_key(Path(files.key), found)
    for one in _certificates(files.certificate, found):
        if now > one.not_after:
            found.faults.append(_said(files.certificate, one, "expired on", one.not_after))
        elif now < one.not_before:
            found.faults.append(_said(files.certificate, one, "is not good before", one.not_before))
        elif now > one.not_after - WARN_BEFORE:
            found.warnings.append(_said(files.certificate, one, "expires on", one.not_after))
    _look_at_authorities(files.authorities, found, now)
    return found


def read_certificates(pem: bytes) -> tuple[Certificate, ...]:
    """Return the certificates of a PEM file, in its order.

    Raises:
        CertificateError: One of them cannot be read.
    """
    return tuple(_decode(block) for block in _BLOCK.findall(pem))


def _look_at_authorities(path: str, found: Findings, now: datetime) -> None:
    authorities = _certificates(path, found)
    if authorities and all(now > one.not_after for one in authorities):
        found.faults.append(f"{path}: every authority in it has expired: no peer is let in")
        return
    for one in authorities:
        if now > one.not_after:
            found.warnings.append(
                _said(path, one, "expired on", one.not_after) + ": whom it signed is refused"
            )
        elif now > one.not_after - WARN_BEFORE:
            found.warnings.append(_said(path, one, "expires on", one.not_after))


def _unreadable(path: Path) -> str:
    """Return why a file cannot be read; empty if it can."""
    try:
        path.open("rb").close()
    except OSError as error:
        return f"{path}: it cannot be read: {error.strerror}"
    return ""


def _look_at_key(path: Path, found: Findings) -> None:
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # said already
    if mode & stat.S_IRWXO:
        found.faults.append(f"{path}: every user of this machine may read the key: chmod o-rwx")


def _certificates(path: str, found: Findings) -> tuple[Certificate, ...]:
    try:
        certificates = read_certificates(Path(path).read_bytes())
    except OSError:
        return ()  # said already
    except CertificateError as error:
        found.faults.append(f"{path}: {error}")
        return ()
    found.certificates += [(path, one) for one in certificates]
    return certificates


def _said(path: str, one: Certificate, what: str, when: datetime) -> str:
    return f"{path}: the certificate '{one.name}' {what} {when:%Y-%m-%d %H:%M} UTC"


def _decode(block: bytes) -> Certificate:
    try:
        der = base64.b64decode(b"".join(block.split()), validate=True)
        (_, whole), *_ = _elements(der)
        (_, signed), *_ = _elements(whole)
        fields = [value for tag, value in _elements(signed) if tag != _VERSION]
        # serial number, signature, issuer, validity, subject, ...
        first, last = [_time(tag, value) for tag, value in _elements(fields[3])]
        return Certificate(_common_name(fields[4]) or "without a name", first, last)
    except (binascii.Error, ValueError, IndexError) as error:
        raise CertificateError("it holds a certificate that cannot be read") from error


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of the elements that follow each other.

    Raises:
        ValueError: A length points behind the end.
    """
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & _LONG_FORM:
            count = length & ~_LONG_FORM
            length = int.from_bytes(der[at : at + count], "big")
            at += count
        if at + length > len(der):
            raise ValueError("an element is longer than what holds it")
        yield tag, der[at : at + length]
        at += length


def _time(tag: int, value: bytes) -> datetime:
    text = value.decode("ascii")
    if tag == _UTC_TIME:  # two digits of the year: 50 and later are of the last century
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _common_name(name: bytes) -> str:
    for _, relative in _elements(name):
        for _, attribute in _elements(relative):
            (_, kind), (_, value) = _elements(attribute)
            if kind == _COMMON_NAME:
                return value.decode("utf-8", "replace")
    return ""
