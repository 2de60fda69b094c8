"""DICOM over TLS: who gets in, who does not and why, and certificates that change."""

from __future__ import annotations

import shutil
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import peers
import pytest
from pydicom import dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset

from node.phantom.ports import free_port

from .authority import Authority, Signed, client
from .calling import CT, EXPLICIT, Caller, Turned, image
from .listening import Listening, made_listening

pytestmark = [pytest.mark.flow, pytest.mark.xdist_group("tls")]

PEERS = """
[[peers]]
name = "secure"
ae_title = "SECURE"
may = ["echo", "store"]
tls = true
certificates = ["ct1.example"]
"""


@dataclass
class Secure:
    """A node that serves TLS, and the certificates around it."""

    listening: Listening
    ours: Authority
    node: Path
    scanner: Signed

    @property
    def port(self) -> int:
        return self.listening.tls_port

    def trusting(self, signed: Signed | None, **options: ssl.TLSVersion) -> ssl.SSLContext:
        return client(signed, self.ours.certificate, **options)

    def ends_with(self, what: str, *, before: int = 0) -> None:
        """Wait until one more connection has ended for this reason."""
        self.listening.until(
            lambda: self.listening.now.said().count(what) > before, f"the log says: {what}"
        )


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("tls")
    ours = Authority(folder / "ours")
    node = folder / "files"
    node.mkdir()
    install(node, ours.sign("node"), ours)
    lines = f"""
tls_port = {free_port()}
tls_cert_file = "{node}/node.pem"
tls_key_file = "{node}/node.key"
tls_ca_file = "{node}/ca.pem"
"""
    with made_listening(folder / "node", listener=lines, peers=PEERS) as listening:
        listening.start()
        yield Secure(listening, ours, node, ours.sign("scanner", dns="ct1.example"))


def install(node: Path, signed: Signed, authority: Authority) -> None:
    shutil.copyfile(signed.key, node / "node.key")
    shutil.copyfile(authority.certificate, node / "ca.pem")
    shutil.copyfile(signed.certificate, node / "node.pem")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_caller_with_a_certificate_of_ours_is_served(
    secure: Secure, version: ssl.TLSVersion
) -> None:
    uid = f"1.2.3.{version.value}"
    caller = Caller(
        secure.port, calling="SECURE", tls=secure.trusting(secure.scanner, version=version)
    )
    assert isinstance(caller.socket, ssl.SSLSocket)
    assert caller.socket.version() == version.name.replace("v1_", "v1.")
    assert caller.store(uid, size=700_000) == 0
    caller.release()

    secure.listening.until(lambda: uid in secure.listening.sop_uids(), "it is indexed")
    row = secure.listening.associations()[0]
    assert (row.peer, row.secure) == ("secure", True)


def test_tls_1_1_and_weak_ciphers_are_not_spoken(secure: Secure) -> None:
    for weaken in (
        lambda context: context.set_ciphers("AES128-SHA:AES256-SHA:@SECLEVEL=0"),
        lambda context: context.set_ciphers("ECDHE+AES+SHA:@SECLEVEL=0"),
    ):
        context = secure.trusting(secure.scanner, version=ssl.TLSVersion.TLSv1_2)
        weaken(context)
        with pytest.raises(ssl.SSLError):
            Caller(secure.port, tls=context)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(secure.ours.certificate)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        Caller(secure.port, tls=old)


@pytest.mark.parametrize(
    ("certificate", "said"),
    [
        ("none", "It shows no certificate."),
        ("foreign", "Its certificate is refused: unable to get local issuer certificate."),
        ("expired", "Its certificate is refused: certificate has expired."),
        ("future", "Its certificate is refused: certificate is not yet valid."),
    ],
)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_caller_without_a_good_certificate_is_refused_and_the_log_says_why(
    secure: Secure, tmp_path: Path, certificate: str, said: str, version: ssl.TLSVersion
) -> None:
    shown = {
        "none": lambda: None,
        "foreign": lambda: Authority(tmp_path / "foreign", "Elsewhere").sign("ct1.example"),
        "expired": lambda: secure.ours.sign("ct1.example", until="20210101000000Z"),
        "future": lambda: secure.ours.sign("ct1.example", since="20980101000000Z"),
    }[certificate]()
    threads = secure.listening.now.threads()
    before = secure.listening.now.said().count(said)

    with pytest.raises(OSError, match=r"alert|reset|closed|EOF|[Bb]roken"):
        Caller(secure.port, calling="SECURE", tls=secure.trusting(shown, version=version))

    secure.ends_with(said, before=before)
    secure.listening.until(
        lambda: secure.listening.now.threads() <= threads, "its thread has ended"
    )


def test_a_certificate_of_another_name_is_rejected_as_an_unknown_caller(secure: Secure) -> None:
    other = secure.ours.sign("ct2", dns="ct2.example")

    with pytest.raises(Turned) as turned:
        Caller(secure.port, calling="SECURE", tls=secure.trusting(other))

    assert turned.value.codes == (1, 1, 3)
    secure.ends_with("The certificate does not name the peer 'secure'")


def test_a_peer_that_must_use_tls_is_rejected_without_it(secure: Secure) -> None:
    with pytest.raises(Turned) as turned:
        Caller(secure.listening.port, calling="SECURE")

    assert turned.value.codes == (1, 1, 3)
    secure.ends_with("The peer 'secure' must call over TLS")


def test_who_speaks_the_wrong_protocol_on_a_port_is_told_apart_in_the_log(secure: Secure) -> None:
    with pytest.raises(OSError, match=r"reset|closed"):
        Caller(secure.port)
    with pytest.raises(OSError, match=r"reset|closed|EOF|version"):
        Caller(secure.listening.port, tls=secure.trusting(secure.scanner))

    secure.ends_with("It does not speak TLS on the port for TLS.")
    secure.ends_with("A TLS client called the port without TLS.")


def test_dcmtk_sends_over_tls(secure: Secure, tmp_path: Path) -> None:
    files = [saved(f"1.2.3.100.{number}", tmp_path / f"{number}.dcm") for number in range(3)]
    tls = ("+tls", secure.scanner.key, secure.scanner.certificate)
    tls += ("+cf", secure.ours.certificate)
    node = ("-aet", "SECURE", "-aec", "LIMNER", "127.0.0.1", str(secure.port))

    echoed = peers.dcmtk("echoscu", *tls, *node)
    stored = peers.dcmtk("storescu", *tls, *node, *files)

    assert (echoed.returncode, stored.returncode) == (0, 0), echoed.stdout + stored.stdout
    wanted = {f"1.2.3.100.{number}" for number in range(3)}
    secure.listening.until(lambda: wanted <= secure.listening.sop_uids(), "all are indexed")


def test_dcmtk_is_refused_without_a_good_certificate(secure: Secure, tmp_path: Path) -> None:
    foreign = Authority(tmp_path / "foreign", "Elsewhere").sign("ct1.example")
    node = ("-aet", "SECURE", "-aec", "LIMNER", "127.0.0.1", str(secure.port))

    echoed = peers.dcmtk(
        *("echoscu", "+tls", foreign.key, foreign.certificate),
        *("+cf", secure.ours.certificate, *node),
    )

    assert echoed.returncode != 0


def test_silent_tls_clients_disturb_nobody_and_are_closed(secure: Secure) -> None:
    threads = secure.listening.now.threads()
    silent = [socket.create_connection(("127.0.0.1", secure.port)) for _ in range(20)]
    for number, connection in enumerate(silent[:10]):
        connection.sendall(b"\x16\x03\x01\x02"[: number % 4])  # some begin to say hello

    began_s = time.monotonic()
    caller = Caller(secure.port, calling="SECURE", tls=secure.trusting(secure.scanner))
    assert caller.store("1.2.3.200") == 0
    caller.release()
    took_s = time.monotonic() - began_s

    assert took_s < 3, "an honest client waited for silent ones"
    for connection in silent:
        connection.settimeout(20)
        while connection.recv(100):  # TLS may say why
            pass
        connection.close()
    secure.listening.until(
        lambda: secure.listening.now.threads() <= threads, "their threads have ended"
    )


def test_a_peer_that_dies_in_the_middle_of_a_data_set_leaves_no_thread(secure: Secure) -> None:
    threads = secure.listening.now.threads()
    caller = Caller(secure.port, calling="SECURE", tls=secure.trusting(secure.scanner))
    caller.socket.sendall(caller.message("1.2.3.300", size=300_000)[:100_000])
    # The connection is reset, without TLS or TCP saying goodbye.
    caller.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    caller.close()

    secure.listening.until(
        lambda: secure.listening.now.threads() <= threads, "its thread has ended"
    )
    assert "1.2.3.300" not in secure.listening.sop_uids()


def test_new_certificates_are_taken_without_a_restart(secure: Secure, tmp_path: Path) -> None:
    before = Caller(secure.port, calling="SECURE", tls=secure.trusting(secure.scanner))
    assert before.store("1.2.3.400") == 0
    others = Authority(tmp_path / "others", "New Authority")
    theirs = client(others.sign("scanner", dns="ct1.example"), others.certificate)

    # Half of a certificate, and a certificate without its key: the last good ones stay in use.
    renewed = others.sign("node")
    for faulty in (renewed.certificate.read_bytes()[:200], renewed.certificate.read_bytes()):
        said = secure.listening.now.said().count("TLS files are not taken")
        (secure.node / "node.pem").write_bytes(faulty)
        time.sleep(1.1)  # the files are looked at once a second
        Caller(secure.port, calling="SECURE", tls=secure.trusting(secure.scanner)).release()
        secure.ends_with("TLS files are not taken", before=said)

    install(secure.node, renewed, others)

    secure.listening.until(
        lambda: is_served(secure, theirs), "the new certificate is shown, its authority trusted"
    )
    with pytest.raises(OSError, match=r"verif|alert|reset|closed"):
        Caller(secure.port, calling="SECURE", tls=secure.trusting(secure.scanner))
    assert before.store("1.2.3.401") == 0, "a connection that is open goes on"
    before.release()

    install(secure.node, secure.ours.sign("node"), secure.ours)
    ours = secure.trusting(secure.scanner)
    secure.listening.until(lambda: is_served(secure, ours), "the former ones are taken again")


def is_served(secure: Secure, tls: ssl.SSLContext) -> bool:
    try:
        Caller(secure.port, calling="SECURE", tls=tls).release()
    except OSError:
        return False
    return True


def test_many_at_once_over_tls_all_arrive(secure: Secure) -> None:
    statuses: list[int] = []

    def send(first: int) -> None:
        caller = Caller(secure.port, calling="SECURE", tls=secure.trusting(secure.scanner))
        statuses.extend(caller.store(f"1.2.3.500.{first + n}", size=50_000) for n in range(5))
        caller.release()

    threads = [threading.Thread(target=send, args=(10 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert statuses == [0] * 20
    secure.listening.until(
        lambda: sum("1.2.3.500." in uid for uid in secure.listening.sop_uids()) == 20,
        "all are indexed",
    )


def saved(uid: str, path: Path) -> Path:
    """Write a PS3.10 file of an image."""
    dataset = read_dataset(DicomBytesIO(image(uid)), is_implicit_VR=False, is_little_endian=True)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = EXPLICIT
    dataset.file_meta.MediaStorageSOPClassUID = CT
    dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dcmwrite(path, dataset, enforce_file_format=True)
    return path
