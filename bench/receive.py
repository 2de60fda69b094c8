"""How fast do storage SCPs receive, and what does it cost them?

Ours, DCMTK's storescp, Orthanc and pynetdicom, each as it comes and at its best, and a bare sink:
all are started first, then loaded in turn by a client that costs little, round after round. What
is not synced lies on tmpfs, what is durable on a disk; nothing is deleted before the end. Medians
over rounds; ratios are taken inside each round.

    python -m bench.receive                    both tables, 1, 4 and 8 associations
    python -m bench.receive --tls              the same receivers over TLS beside plain TCP
    python -m bench.receive --big              one 200 MB multi-frame object: memory and seconds
    python -m bench.receive --stock            DCMTK's storescu, Nagle-bound, and its likeness
    python -m bench.receive --idle             200 associations that do nothing
    python -m bench.receive --flat             100 000 small instances, 5 000 bare TCP connections
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from bench import receive_modes
from bench.dicom_client import Sending, TlsFiles
from bench.dicom_objects import Kind
from bench.dicom_servers import Server, make_tls_files, start
from bench.receive_load import Load, measure
from bench.receive_report import Cell, report
from bench.receivers import RECEIVERS, NotStartedError, Sync

_TMPFS: Final = Path("/dev/shm")  # noqa: S108  tmpfs is what is wanted
_SERVERS: Final = {
    Sync.NONE: (
        "us", "storescp", "storescp-best", "orthanc", "orthanc-tuned", "pynetdicom",
        "pynetdicom-tuned",
    ),
    Sync.DURABLE: ("us", "sink", "sink-files", "sink-growing", "orthanc-tuned"),
}  # fmt: skip
_TLS_SERVERS: Final = {
    Sync.NONE: ("us", "storescp-best", "orthanc-tuned", "pynetdicom-tuned"),
    Sync.DURABLE: ("us", "sink"),
}
_TLS_MARK: Final = "+tls"
_MODE_SERVERS: Final = {
    "big": _SERVERS[Sync.NONE],
    "stock": ("us", "storescp", "storescp-nodelay", "storescp-best"),
    "idle": ("us", "storescp-best", "pynetdicom-tuned"),
    "flat": ("us",),
}
_FACTORS: Final = {Kind.CT: 1.0, Kind.MR: 1.5, Kind.US: 0.0, Kind.SMALL: 4.0}
"""Instances of a kind for each that `--count` names; a large one is sent once by each client."""

_WARM_UP_INSTANCES: Final = 8


def main() -> None:
    """Measure as the command line says."""
    wanted = _arguments()
    mode = next((mode for mode in _MODE_SERVERS if getattr(wanted, mode)), "")
    if mode:
        data, text = _other_mode(wanted, mode)
    else:
        cells = [cell for sync in wanted.sync for cell in _measure_table(wanted, sync)]
        data, text = [asdict(cell) for cell in cells], report(cells)
    text = f"{_surroundings()}\n\n{text.strip()}\n\n{_legend(data)}"
    print(text)
    if wanted.json:
        whole = {"schema": 1, "mode": mode or "table", "measured": data}
        wanted.json.write_text(json.dumps(whole, indent=1))
    if wanted.markdown:
        wanted.markdown.write_text(text + "\n")


def _measure_table(wanted: argparse.Namespace, sync: Sync) -> list[Cell]:
    names: Sequence[str] = wanted.servers or (_TLS_SERVERS if wanted.tls else _SERVERS)[sync]
    if wanted.tls:
        names = [each for name in names for each in (name, name + _TLS_MARK)]
    cells: list[Cell] = []
    with _scratch(sync, wanted.folder) as folder:
        for kind in wanted.cases:
            with _running(names, folder / kind, sync, wanted) as servers:
                _fill_pages(sync, folder, _bytes_needed(wanted, kind, servers))
                cells += _rounds(wanted, sync, kind, servers)
            if sync is Sync.NONE:
                shutil.rmtree(folder / kind)
    return cells


def _rounds(
    wanted: argparse.Namespace, sync: Sync, kind: Kind, servers: list[Server]
) -> Iterator[Cell]:
    """Yield one cell for each round, number of associations and server."""
    for server in servers:
        few = 1 if kind is Kind.US else _WARM_UP_INSTANCES
        measure(server, Load(kind=kind, associations=1, instances=few))
        server.settle()
    began = time.monotonic()
    for number in range(wanted.rounds):
        for associations in wanted.associations:
            for server in servers[number % len(servers) :] + servers[: number % len(servers)]:
                load = Load(
                    kind=kind,
                    associations=associations,
                    instances=_instances(wanted.count, kind, associations, server),
                    sending=wanted.sending,
                    max_pdu_bytes=wanted.pdu,
                )
                yield Cell(sync, kind, associations, number, server.name, measure(server, load))
                server.settle()
        took_s = time.monotonic() - began
        left_s = took_s / (number + 1) * (wanted.rounds - number - 1)
        _tell(f"sync {sync}, {kind}: round {number + 1} of {wanted.rounds}, {left_s:.0f} s left")


def _instances(count: int, kind: Kind, associations: int, server: Server) -> int:
    each = max(2, round(count * _FACTORS[kind] * server.receiver.share / associations))
    return associations * (1 if kind is Kind.US else each)


def _other_mode(wanted: argparse.Namespace, mode: str) -> tuple[list[dict[str, Any]], str]:
    names: Sequence[str] = wanted.servers or _MODE_SERVERS[mode]
    with (
        _scratch(Sync.NONE, None) as folder,
        _running(names, folder / mode, Sync.NONE, wanted) as servers,
    ):
        if mode == "big":
            wanted.associations = [1]
            cells = list(_rounds(wanted, Sync.NONE, Kind.US, servers))
            return [asdict(cell) for cell in cells], receive_modes.big_report(cells)
        if mode == "stock":
            return receive_modes.stock(servers, folder, rounds=wanted.rounds)
        if mode == "idle":
            return receive_modes.idle(
                servers, associations=wanted.idle_associations, seconds=wanted.seconds
            )
        return receive_modes.flat(
            servers, instances=wanted.flat_instances, probes=wanted.flat_probes
        )


@contextmanager
def _running(
    names: Sequence[str], folder: Path, sync: Sync, wanted: argparse.Namespace
) -> Iterator[list[Server]]:
    """Run the named receivers; one that does not start is named and left out."""
    servers = []
    with ExitStack() as ends:
        tls = make_tls_files(folder / "tls") if wanted.tls else None
        for name in names:
            try:
                server = _start(name, folder / name, sync, tls, wanted.listener)
            except NotStartedError as error:
                _tell(f"left out: {error}")
                continue
            ends.callback(server.stop)
            servers.append(server)
        if not servers:
            raise SystemExit("no receiver could be started")
        yield servers


def _start(
    name: str, folder: Path, sync: Sync, tls: TlsFiles | None, lines: Sequence[str]
) -> Server:
    plain = name.removesuffix(_TLS_MARK)
    server = start(
        plain, folder, sync=sync, tls=tls if plain != name else None, listener_lines=lines
    )
    server.name = name
    return server


@contextmanager
def _scratch(sync: Sync, folder: Path | None) -> Iterator[Path]:
    """Give a folder on the right kind of file system, and delete it at the end."""
    parent = _TMPFS if sync is Sync.NONE else folder or Path(tempfile.gettempdir())
    kind = _file_system(parent)
    if (kind == "tmpfs") != (sync is Sync.NONE):
        raise SystemExit(f"{parent} is {kind}: sync {sync} cannot be measured there (--folder)")
    scratch = Path(tempfile.mkdtemp(prefix="limner-bench-", dir=parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch)


def _bytes_needed(wanted: argparse.Namespace, kind: Kind, servers: Sequence[Server]) -> int:
    sizes = {Kind.CT: 540_000, Kind.MR: 205_000, Kind.US: 200_300_000, Kind.SMALL: 13_000}
    instances = sum(
        _instances(wanted.count, kind, associations, server)
        for server in servers
        for associations in wanted.associations
    )
    return instances * int(wanted.rounds) * sizes[kind]


def _fill_pages(sync: Sync, folder: Path, needed: int) -> None:
    """See that there is room, and on tmpfs touch as much memory once before it is measured.

    In a virtual machine the first touch of a page is dear and falls on whoever comes first.
    """
    needed += needed // 4 + (1 << 30)  # segments and databases
    free = shutil.disk_usage(folder).free
    if sync is Sync.NONE:
        free = min(free, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if needed > free:
        raise SystemExit(
            f"{folder} has {free >> 20} MB free, {needed >> 20} MB are wanted: lower --count, "
            "--rounds or --associations"
        )
    if sync is Sync.NONE:
        path = folder / "pages"
        with path.open("wb") as file:
            for _ in range(needed >> 24):
                file.write(bytes(1 << 24))
        path.unlink()


def _file_system(folder: Path) -> str:
    asked = ["stat", "--file-system", "--format=%T", str(folder)]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def _surroundings() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "unknown processor",
    )
    return (
        f"{os.cpu_count()} cores ({model}), shared by clients and servers; Linux "
        f"{os.uname().release}; Python {sys.version.split()[0]}; "
        f"load average {os.getloadavg()[0]:.1f} at the end."
    )


def _legend(data: Sequence[dict[str, Any]]) -> str:
    names = dict.fromkeys(str(one["server"]).removesuffix(_TLS_MARK) for one in data)
    return "\n".join(f"- {name}: {RECEIVERS[name].words}" for name in names)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_mutually_exclusive_group()
    for mode in _MODE_SERVERS:
        modes.add_argument(f"--{mode}", action="store_true")
    parser.add_argument("--tls", action="store_true", help="each receiver plain and over TLS")
    parser.add_argument("--sync", type=_several(Sync), help="none,durable; with --tls none")
    parser.add_argument("--cases", type=_several(Kind), default=[Kind.CT, Kind.MR], help="ct,mr,us")
    parser.add_argument("--associations", type=_several(int), default=[1, 4, 8])
    parser.add_argument("--servers", type=_several(_server), help=", ".join(RECEIVERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=320, help="CT per server and round")
    parser.add_argument("--pdu", type=int, default=131_072, help="longest PDU of the client")
    parser.add_argument("--sending", type=Sending, choices=list(Sending), default=Sending.WHOLE)
    parser.add_argument("--folder", type=Path, help="on a disk, for sync durable")
    parser.add_argument(
        "--listener", action="append", default=[], help="a line for our [listener] table"
    )
    parser.add_argument("--idle-associations", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long --idle looks")
    parser.add_argument("--flat-instances", type=int, default=100_000)
    parser.add_argument("--flat-probes", type=int, default=5_000)
    parser.add_argument("--json", type=Path, help="file for every measurement")
    parser.add_argument("--markdown", type=Path, help="file for the tables")
    wanted = parser.parse_args()
    wanted.sync = wanted.sync or ([Sync.NONE] if wanted.tls else list(Sync))
    return wanted


def _several(one: Any) -> Any:
    def parse(text: str) -> list[Any]:
        return [one(part) for part in text.split(",")]

    parse.__name__ = getattr(one, "__name__", "list").lower()
    return parse


def _server(name: str) -> str:
    if name not in RECEIVERS:
        raise ValueError(name)
    return name


if __name__ == "__main__":
    main()
