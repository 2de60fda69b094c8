"""Certificates for tests, made with the openssl command: an authority and what it signs."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CONFIG: Final = """
[ca]
default_ca = this
[this]
database = {folder}/index
new_certs_dir = {folder}
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
copy_extensions = copy
[any]
commonName = supplied
"""
_NEW_KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True, slots=True)
class Signed:
    """A certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """An authority with a folder of its own."""

    def __init__(self, folder: Path, name: str = "Test Authority", *, days: int = 3650) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.certificate = folder / "ca.pem"
        self._key = folder / "ca.key"
        (folder / "index").touch()
        (folder / "ca.cnf").write_text(_CONFIG.format(folder=folder))
        _openssl(
            *("req", "-x509", *_NEW_KEY, "-keyout", self._key, "-out", self.certificate),
            *("-subj", f"/CN={name}", "-days", str(days)),
        )

    def sign(
        self,
        name: str,
        *,
        dns: str = "",
        since: str = "20200101000000Z",
        until: str = "20991231235959Z",
    ) -> Signed:
        """Sign a certificate for `name`, good for both sides; times as YYYYMMDDHHMMSSZ."""
        number = len(list(self.folder.glob("*.key")))
        signed = Signed(self.folder / f"{number}.pem", self.folder / f"{number}.key")
        request = self.folder / f"{number}.csr"
        names = f"IP:127.0.0.1,DNS:{dns}" if dns else "IP:127.0.0.1"
        _openssl(
            *(
                "req",
                "-utf8",
                *_NEW_KEY,
                "-keyout",
                signed.key,
                "-out",
                request,
                "-subj",
                f"/CN={name}",
            ),
            *("-addext", f"subjectAltName={names}"),
        )
        _openssl(
            *("ca", "-batch", "-notext", "-config", self.folder / "ca.cnf", "-in", request),
            *("-cert", self.certificate, "-keyfile", self._key, "-out", signed.certificate),
            *("-startdate", since, "-enddate", until),
        )
        return signed


def client(
    signed: Signed | None, authority: Path, *, version: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """Return a context for a caller that trusts `authority` and shows `signed`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority)
    if signed is not None:
        context.load_cert_chain(signed.certificate, signed.key)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
