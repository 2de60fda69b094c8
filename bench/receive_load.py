"""One load on one receiver, measured: the client processes, and what it cost the server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from bench import process_tree
from bench.dicom_client import Sending, Target
from bench.dicom_objects import Kind
from bench.dicom_servers import Server

ROWS_WITHIN_S: Final = 120.0
_SETTLES_S: Final = 0.05
"""A forked child has ended and was waited for by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent, by how many client processes at once."""

    kind: Kind
    associations: int
    instances: int
    sending: Sending = Sending.WHOLE
    max_pdu_bytes: int = 131_072


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of it.

    Attributes:
        instances: How many were answered with 0x0000.
        per_second: Those, from the first byte of the first message to the last answer.
        cpu_ms: Server CPU per instance; ours until every row is in the database.
        rss_before_mb: Resident memory of all its processes before.
        rss_mb: Peak of its largest process while it received (and until digests are there).
        rss_sum_mb: Sum of the peaks of its processes.
        associate_ms: Median time from connect to A-ASSOCIATE-AC.
        client_cpu_ms: Client CPU per instance.
        indexed_after_ms: From the last answer until every row is there; ours only.
        digested_after_ms: The same until every digest is there; None where they came with rows.
        digested_cpu_ms: Server CPU per instance until then.
        failure: Why not everything was answered with 0x0000; empty when it was.
    """

    instances: int
    per_second: float
    latency_ms: float
    latency_p95_ms: float
    latency_max_ms: float
    cpu_ms: float
    rss_before_mb: float
    rss_mb: float
    rss_sum_mb: float
    processes: int
    associate_ms: float
    client_cpu_ms: float
    indexed_after_ms: float | None = None
    digested_after_ms: float | None = None
    digested_cpu_ms: float | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class _Rows:
    """When our rows and digests were complete, and the server's CPU time by then."""

    indexed_s: float
    indexed_cpu_ms: float
    digested_s: float | None
    digested_cpu_ms: float | None


def measure(server: Server, load: Load) -> Measured:
    """Send the load and return what it took.

    Raises:
        RuntimeError: A client process ended; a server that fails is a `Measured.failure`.
    """
    clients: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(load.associations):
            clients.append(_client(server.target, load, number))
        for client in clients:
            _line(client)
        return _measured(server, clients)
    finally:
        for client in clients:
            client.kill()
            client.communicate()


def _measured(server: Server, clients: Sequence[subprocess.Popen[bytes]]) -> Measured:
    listed = server.counted()[0] if server.receiver.rows else 0
    before = process_tree.memory(server.pid)
    process_tree.forget_peak(server.pid)
    cpu = process_tree.cpu_ms(server.pid)
    # A server that serves one association at a time must see a release to go on; one that has a
    # process for each is looked at before they end.
    at_once = b"\n" if server.receiver.forks else b"\n\n"
    for client in clients:
        _tell(client, at_once)
    sent: list[dict[str, Any]] = [json.loads(_line(client)) for client in clients]
    peak = process_tree.peak_memory(server.pid)
    answered = sum(one["statuses"].get("0", 0) for one in sent)
    failure = _failure(sent)
    rows = _wait_for_rows(server, listed + answered) if server.receiver.rows else None
    for client in clients:
        _tell(client, b"\n")
        client.wait()
    if server.receiver.rows:
        peak = process_tree.peak_memory(server.pid)
        failure = failure or ("" if rows else f"rows are missing after {ROWS_WITHIN_S:.0f} s")
    else:
        time.sleep(_SETTLES_S)
    used = (rows.indexed_cpu_ms if rows else process_tree.cpu_ms(server.pid)) - cpu
    started_s = min((one["started_ns"] for one in sent if one["started_ns"]), default=0) / 1e9
    ended_s = max(one["ended_ns"] for one in sent) / 1e9
    latencies = sorted(ms for one in sent for ms in one["latencies_ms"]) or [0.0]
    each = max(answered, 1)
    measured = Measured(
        instances=answered,
        per_second=answered / (ended_s - started_s) if ended_s > started_s else 0.0,
        latency_ms=_part(latencies, 0.5),
        latency_p95_ms=_part(latencies, 0.95),
        latency_max_ms=latencies[-1],
        cpu_ms=used / each,
        rss_before_mb=before.sum_mb,
        rss_mb=peak.largest_mb,
        rss_sum_mb=peak.sum_mb,
        processes=peak.processes,
        associate_ms=_part(sorted(one["associate_ms"] for one in sent), 0.5),
        client_cpu_ms=sum(one["cpu_ms"] for one in sent) / each,
        failure=failure,
    )
    if rows is None:
        return measured
    measured = replace(measured, indexed_after_ms=_after_ms(rows.indexed_s, ended_s))
    if rows.digested_s is None or rows.digested_cpu_ms is None:
        return measured
    return replace(
        measured,
        digested_after_ms=_after_ms(rows.digested_s, ended_s),
        digested_cpu_ms=(rows.digested_cpu_ms - cpu) / each,
    )


def client_options(target: Target) -> list[str]:
    """Return the command-line options of `bench.dicom_send` for a target."""
    tls: Sequence[str] = ()
    if target.tls is not None:
        tls = (
            *("--tls-certificate", str(target.tls.certificate)),
            *("--tls-key", str(target.tls.key)),
            *("--tls-authority", str(target.tls.authority)),
        )
    return [target.host, str(target.port), "--called", target.called_ae, *tls]


def _client(target: Target, load: Load, number: int) -> subprocess.Popen[bytes]:
    share = load.instances // load.associations + (number < load.instances % load.associations)
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "bench.dicom_send", *client_options(target)),
            *("--object", load.kind, "--count", str(share), "--pdu", str(load.max_pdu_bytes)),
            *("--sending", load.sending, "--staged"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def _line(client: subprocess.Popen[bytes]) -> bytes:
    line = client.stdout.readline() if client.stdout else b""
    if not line:
        raise RuntimeError(f"a client process ended with {client.wait()}")
    return line


def _tell(client: subprocess.Popen[bytes], lines: bytes) -> None:
    if client.stdin is not None and client.poll() is None:
        try:
            client.stdin.write(lines)
            client.stdin.flush()
        except BrokenPipeError:
            return


def _wait_for_rows(server: Server, expected: int) -> _Rows | None:
    until = time.monotonic() + ROWS_WITHIN_S
    indexed: tuple[float, float] | None = None
    came_together = True
    while time.monotonic() < until:
        rows, digests = server.counted()
        now = time.monotonic()
        if indexed is None and rows >= expected:
            indexed = now, process_tree.cpu_ms(server.pid)
            came_together = digests >= expected
        if indexed is not None and digests >= expected:
            later = None if came_together else now
            return _Rows(*indexed, later, process_tree.cpu_ms(server.pid) if later else None)
        time.sleep(0.01)
    return None if indexed is None else _Rows(*indexed, None, None)


def _failure(sent: Sequence[Mapping[str, Any]]) -> str:
    for one in sent:
        if one["failure"]:
            return str(one["failure"])
        other = [status for status in one["statuses"] if status != "0"]
        if other:
            return "answered " + ", ".join(f"{int(status):04X}" for status in other)
    return ""


def _after_ms(at_s: float, ended_s: float) -> float:
    return max(0.0, at_s - ended_s) * 1000


def _part(values: Sequence[float], part: float) -> float:
    """Return the value below which that part of the sorted values lies."""
    return values[min(len(values) - 1, int(part * len(values)))]
