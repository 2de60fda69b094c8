"""`limner listen` under attack: a process tree of its own, and what it holds.

Deadlines are short, so that a test can see them pass; they are what they are in the product,
settings. A test compares what the processes hold before an attack and after it.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import peers
import psutil
from raw_peer import NotAcceptedError, associated, honest
from receiving_node import until

from node.phantom.ports import free_port
from node.settings import Settings, load_settings
from storage.associations import list_associations
from storage.database import migrate, open_engine, reading
from storage.instances import InstanceRow, list_instances
from storage.objects import ObjectStore
from storage.records import Record
from storage.segments import list_segments, scan_segment

DEADLINE_S: Final = 4
"""For a request, for the next piece of a message, and without any message."""

ASSOCIATION_MB: Final = 2
"""What an association may cost in memory while it lasts."""

CONFIGURATION: Final = """
[node]
name = "attacked"
[storage]
reserve_mb = {reserve_mb}
journal_mb = 4
journal_ahead = 0
{storage}
[listener]
host = "127.0.0.1"
port = {port}
tls_port = {tls_port}
tls_cert_file = "tls/node.pem"
tls_key_file = "tls/node.key"
tls_ca_file = "tls/ca.pem"
request_s = {deadline_s}
stall_s = {deadline_s}
idle_s = {deadline_s}
object_mb = {object_mb}
{listener}
[[peers]]
name = "scanner"
ae_title = "SCANNER"
may = ["echo", "store"]
"""

_LISTEN: Final = "from node.cli import main; main()"


@dataclass(frozen=True)
class Footprint:
    """What a process holds."""

    threads: int
    descriptors: int
    rss_mb: float


@dataclass
class Attacked:
    """A running `limner listen`."""

    folder: Path
    settings: Settings
    process: subprocess.Popen[bytes]

    @property
    def port(self) -> int:
        return self.settings.listener.port

    @property
    def tls_port(self) -> int:
        return self.settings.listener.tls_port

    def tls(self) -> ssl.SSLContext:
        """Return what a peer with a good certificate speaks TLS with."""
        context = ssl.create_default_context(cafile=self.folder / "tls" / "ca.pem")
        context.load_cert_chain(self.folder / "tls" / "node.pem", self.folder / "tls" / "node.key")
        return context

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def wire(self) -> psutil.Process:
        """Return the process that peers talk to."""
        (wire,) = psutil.Process(self.process.pid).children()
        return wire

    def wire_footprint(self) -> Footprint:
        return _footprint(self.wire())

    def wire_cpu_s(self) -> float:
        """Return what the wire has computed so far, in seconds."""
        spent = self.wire().cpu_times()
        return float(spent.user + spent.system)

    def footprints(self) -> tuple[Footprint, Footprint]:
        """Return what keeper and wire hold."""
        return _footprint(psutil.Process(self.process.pid)), self.wire_footprint()

    def instances(self) -> dict[str, InstanceRow]:
        """Return the rows by SOP Instance UID; they come a moment after the answer."""
        engine = open_engine(self.settings.storage.database_url)
        try:
            with reading(engine) as db:
                return {row.sop_uid: row for row in list_instances(db, limit=100_000)}
        finally:
            engine.dispose()

    def endings(self) -> list[str]:
        """Return why associations ended that did not end well; noted a moment after it."""
        engine = open_engine(self.settings.storage.database_url)
        try:
            with reading(engine) as db:
                return [row.reason for row in list_associations(db, limit=1_000) if row.reason]
        finally:
            engine.dispose()

    def records(self) -> list[Record]:
        """Return the whole records of the journal."""
        folder = self.settings.storage.objects
        return [
            record
            for name in list_segments(folder, self.settings.node.name)
            for record in scan_segment(folder, name)
        ]

    def files(self) -> list[Path]:
        """Return files of large instances, and parts of such."""
        return sorted(self.settings.storage.objects.glob("instances/*/*"))

    def dataset(self, record: Record) -> bytes:
        store = ObjectStore(self.settings.storage.objects)
        return store.read(record.place)[record.dataset_offset :]

    @contextmanager
    def unharmed(self, *, growth_mb: float = 4.0, associations: int = 10) -> Iterator[Footprint]:
        """Check that an attack leaves the processes as they were, and honest peers served.

        Args:
            growth_mb: What the wire's memory may have grown by, at most, when it is over.
            associations: How many the attack opens at once; they bound what it may cost meanwhile.
        """
        keeper, wire = self.footprints()
        pids = (self.process.pid, self.wire().pid)
        for pid in pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is counted anew
        yield wire
        until(lambda: _serves(self.port))

        def as_before() -> bool:
            now_keeper, now_wire = self.footprints()
            return (
                now_wire.threads <= wire.threads
                and now_wire.descriptors <= wire.descriptors
                and now_keeper.threads <= keeper.threads + 1
                and now_keeper.descriptors <= keeper.descriptors + 3  # one more of the database
            )

        until(as_before, what=lambda: f"{self.footprints()} is not {keeper}, {wire}")
        after_keeper, after_wire = self.footprints()
        assert (self.process.pid, self.wire().pid) == pids, "a process died"
        assert after_wire.rss_mb < wire.rss_mb + growth_mb
        assert after_keeper.rss_mb < keeper.rss_mb + growth_mb + 8  # pages of the database
        peak_mb = ASSOCIATION_MB * associations
        assert _peak_mb(pids[1]) < wire.rss_mb + growth_mb + peak_mb
        assert _peak_mb(pids[0]) < keeper.rss_mb + growth_mb + 8
        assert "fault of ours" not in self.log.read_text(errors="replace")


def _peak_mb(pid: int) -> float:
    """Return the most memory that a process had at once since the peak was counted anew."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _footprint(process: psutil.Process) -> Footprint:
    return Footprint(
        process.num_threads(), process.num_fds(), process.memory_info().rss / (1 << 20)
    )


@contextmanager
def attacked_node(
    folder: Path,
    port: int,
    *,
    listener: str = "",
    storage: str = "",
    reserve_mb: int = 10,
    object_mb: int = 8,
    environment: Mapping[str, str] | None = None,
    warm: int = 40,
) -> Iterator[Attacked]:
    """Run `limner listen` on a fresh node in `folder`, until the end of the context.

    Args:
        folder: Of the node; made here.
        port: Where it listens.
        listener: More lines of its [listener] table.
        storage: More lines of its [storage] table.
        reserve_mb: Free space below which it takes nothing.
        object_mb: The largest instance that it takes.
        environment: Variables added to ours.
        warm: Associations held open at once before a test begins.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = CONFIGURATION.format(
        port=port,
        tls_port=free_port(),
        deadline_s=DEADLINE_S,
        listener=listener,
        storage=storage,
        reserve_mb=reserve_mb,
        object_mb=object_mb,
    )
    (folder / "limner.toml").write_text(text)
    make_certificates(folder / "tls")
    settings = load_settings(folder / "limner.toml")
    migrate(settings.storage.database_url)
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _LISTEN, "listen", "--config", str(settings.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
    node = Attacked(folder, settings, process)
    try:
        until(lambda: _listens(node), within_s=60)
        _warm_up(node, warm)
        yield node
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
            raise


def _serves(port: int) -> bool:
    """Serve an honest peer; false while places that others held are yet to be given back."""
    try:
        honest(port)
    except NotAcceptedError:
        return False
    return True


def _warm_up(node: Attacked, associations: int) -> None:
    """Use everything once: what is made at the first use, memory too, is there afterwards."""
    honest(node.port)  # answered once the wire is there
    before = node.wire_footprint()
    for _ in range(2):
        with ExitStack() as open_ones:
            for number in range(associations):
                secure = number % 2
                port, tls = (node.tls_port, node.tls()) if secure else (node.port, None)
                source = f"127.0.0.{100 + number}"
                open_ones.enter_context(associated(port, source=source, tls=tls))
        until(lambda: _serves(node.port))
    until(lambda: node.wire_footprint().threads <= before.threads)


def make_certificates(folder: Path) -> None:
    """Make an authority, and a certificate that it signed for 127.0.0.1, with its key."""
    folder.mkdir()

    def made(name: str, *options: str) -> None:
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        files = ("-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2")
        subprocess.run(
            [peers.program("openssl"), "req", "-x509", *curve, *files, *options],
            cwd=folder,
            check=True,
            capture_output=True,
        )

    made("ca", "-subj", "/CN=authority")
    addresses = ("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE")
    made("node", "-subj", "/CN=node", "-CA", "ca.pem", "-CAkey", "ca.key", *addresses)


def _listens(node: Attacked) -> bool:
    """Return whether it says so; a connection to a port that is free yet may reach itself."""
    log = node.log.read_text(errors="replace")
    assert node.process.poll() is None, f"the listener ended:\n{log}"
    return "event='listening'" in log
