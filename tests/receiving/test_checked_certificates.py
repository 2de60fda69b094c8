"""`limner check` tells how long certificates are good, and what is wrong with their files."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.commands.setup import check
from node.dicom.certificates import CertificateError, examine, read_certificates
from node.dicom.wire.tls import TlsFiles
from node.phantom.ports import free_port

from .authority import Authority, Signed
from .listening import made_listening

NOW = datetime.now(UTC)


@dataclass
class Checked:
    """A node's configuration that names TLS files, which a test puts there."""

    config: Path
    files: Path
    ours: Authority

    def install(self, signed: Signed) -> None:
        shutil.copyfile(signed.certificate, self.files / "node.pem")
        shutil.copyfile(signed.key, self.files / "node.key")
        (self.files / "node.key").chmod(0o640)
        shutil.copyfile(self.ours.certificate, self.files / "ca.pem")

    def check(self, *options: str) -> Result:
        return CliRunner().invoke(check, ["--config", str(self.config), *options])


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "ours")


@pytest.fixture
def checked(tmp_path: Path, ours: Authority) -> Iterator[Checked]:
    files = tmp_path / "files"
    files.mkdir()
    lines = f"""
tls_port = {free_port()}
tls_cert_file = "{files}/node.pem"
tls_key_file = "{files}/node.key"
tls_ca_file = "{files}/ca.pem"
"""
    with made_listening(tmp_path / "node", listener=lines) as listening:
        yield Checked(listening.config, files, ours)


def days(count: float) -> str:
    return f"{NOW + timedelta(days=count):%Y%m%d%H%M%SZ}"


def test_good_certificates_are_shown_with_their_last_day(checked: Checked, ours: Authority) -> None:
    checked.install(ours.sign("node.example", until="20310203040506Z"))

    told = checked.check()

    assert told.exit_code == 0, told.output
    assert "certificate 'node.example' until 2031-02-03" in told.output
    assert "certificate 'Test Authority' until" in told.output
    assert "warning" not in told.output
    data = json.loads(checked.check("--json").output)
    assert data["certificates"][0]["not_after"] == "2031-02-03T04:05:06Z"
    assert (data["good"], data["warnings"], data["faults"]) == (True, [], [])


def test_thirty_days_before_its_end_there_is_a_warning_and_no_fault(
    checked: Checked, ours: Authority
) -> None:
    checked.install(ours.sign("node", until=days(29.9)))
    told = checked.check()
    assert told.exit_code == 0
    assert "warning: " in told.output
    assert "'node' expires on" in told.output

    checked.install(ours.sign("node", until=days(30.1)))
    assert "warning" not in checked.check().output


@pytest.mark.parametrize(
    ("since", "until", "said"),
    [(-100, -1, "'node' expired on"), (1, 100, "'node' is not good before")],
)
def test_a_certificate_that_is_not_good_now_is_a_fault(
    checked: Checked, ours: Authority, since: float, until: float, said: str
) -> None:
    checked.install(ours.sign("node", since=days(since), until=days(until)))

    told = checked.check()

    assert told.exit_code == 1
    assert said in told.output


def test_the_key_of_another_certificate_is_a_fault(checked: Checked, ours: Authority) -> None:
    checked.install(ours.sign("node"))
    shutil.copyfile(ours.sign("other").key, checked.files / "node.key")

    told = checked.check()

    assert told.exit_code == 1
    assert "the key is not that of the certificate" in told.output


def test_a_key_with_a_password_is_a_fault_and_nobody_is_asked_for_it(
    checked: Checked, ours: Authority
) -> None:
    signed = ours.sign("node")
    checked.install(signed)
    key = checked.files / "node.key"
    subprocess.run(
        ["openssl", "ec", "-aes256", "-passout", "pass:secret", "-in", signed.key, "-out", key],
        check=True,
        capture_output=True,
    )

    told = checked.check()

    assert told.exit_code == 1
    assert "the key is encrypted" in told.output


@pytest.mark.parametrize("name", ["node.pem", "node.key", "ca.pem"])
def test_an_absent_or_damaged_file_is_a_fault_that_names_it(
    checked: Checked, ours: Authority, name: str
) -> None:
    checked.install(ours.sign("node"))
    path = checked.files / name
    path.write_bytes(path.read_bytes()[:100])
    damaged = checked.check()
    path.unlink()
    absent = checked.check()

    assert (damaged.exit_code, absent.exit_code) == (1, 1)
    assert name in damaged.output
    assert f"{path}: it cannot be read: No such file or directory" in absent.output


def test_a_key_that_every_user_may_read_is_a_fault(checked: Checked, ours: Authority) -> None:
    checked.install(ours.sign("node"))
    (checked.files / "node.key").chmod(0o644)

    told = checked.check()

    assert told.exit_code == 1
    assert "chmod o-rwx" in told.output


def test_an_expired_authority_is_a_warning_beside_a_good_one_and_a_fault_alone(
    tmp_path: Path, ours: Authority
) -> None:
    short = Authority(tmp_path / "short", "Short Authority", days=10)
    signed = ours.sign("node", until="20991231235959Z")
    signed.key.chmod(0o600)
    both = tmp_path / "both.pem"
    both.write_bytes(ours.certificate.read_bytes() + short.certificate.read_bytes())
    later = datetime.now(UTC) + timedelta(days=11)
    certificate, key = str(signed.certificate), str(signed.key)

    beside = examine(TlsFiles(certificate, key, str(both)), now=later)
    alone = examine(TlsFiles(certificate, key, str(short.certificate)), now=later)
    soon = examine(TlsFiles(certificate, key, str(both)), now=later - timedelta(days=5))

    assert (beside.faults, len(beside.warnings)) == ([], 1)
    assert "'Short Authority' expired on" in beside.warnings[0]
    assert "every authority in it has expired" in alone.faults[0]
    assert "'Short Authority' expires on" in soon.warnings[0]


def test_a_listener_says_in_its_log_what_check_says(tmp_path: Path, ours: Authority) -> None:
    signed = ours.sign("node", until=days(29))
    lines = f"""
tls_port = {free_port()}
tls_cert_file = "{signed.certificate}"
tls_key_file = "{signed.key}"
tls_ca_file = "{ours.certificate}"
"""
    with made_listening(tmp_path / "node", listener=lines) as listening:
        listener = listening.start()
        listening.until(lambda: "'node' expires on" in listener.said(), "it is in the log")


def test_a_peer_that_must_use_tls_on_a_node_without_it_is_a_fault(tmp_path: Path) -> None:
    peers = '[[peers]]\nname = "ct"\nae_title = "CT"\nmay = ["store"]\ntls = true\n'
    with made_listening(tmp_path / "node", peers=peers) as listening:
        told = CliRunner().invoke(check, ["--config", str(listening.config)])

    assert told.exit_code == 1
    assert "peer 'ct' must call over TLS" in told.output


def test_openssl_reads_the_same_from_a_certificate(ours: Authority) -> None:
    signed = ours.sign("Nödé, with=signs", since="19991231235959Z", until="20510101000001Z")

    (found,) = read_certificates(signed.certificate.read_bytes())

    told = subprocess.run(
        ["openssl", "x509", "-noout", "-dates", "-dateopt", "iso_8601", "-in", signed.certificate],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert f"notBefore={found.not_before:%Y-%m-%d %H:%M:%SZ}" in told
    assert f"notAfter={found.not_after:%Y-%m-%d %H:%M:%SZ}" in told
    assert found.name == "Nödé, with=signs"


def test_any_damage_to_a_certificate_is_read_or_refused(ours: Authority) -> None:
    pem = ours.sign("node").certificate.read_bytes()
    for cut in range(0, len(pem), 7):
        damaged = pem[:cut] + b"A" + pem[cut + 1 :]
        for data in (pem[:cut] + b"\n-----END CERTIFICATE-----\n", damaged):
            try:
                read_certificates(data)
            except CertificateError:
                continue
