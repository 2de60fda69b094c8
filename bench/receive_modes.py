"""The other questions about receiving: memory of one large object, stock senders, idleness, leaks.

Each returns what was measured as plain data, and a text with a table.
"""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench import process_tree
from bench.dicom_client import Association, AssociationError, Sending, Target, associate
from bench.dicom_objects import Kind, file_start, make_object
from bench.dicom_servers import Server
from bench.receive_load import Load, Measured, measure
from bench.receive_report import Cell, table

Data = list[dict[str, Any]]

_STOCK_FILES: Final = 60
_FLAT_STEPS: Final = 10
_FLAT_ASSOCIATIONS: Final = 4
_CONNECT_WITHIN_S: Final = 60.0
_SETTLES_S: Final = 2.0


def big_report(cells: Sequence[Cell]) -> str:
    """Return a table of memory and seconds for one 200 MB object at a time."""
    rows = []
    for server in dict.fromkeys(cell.server for cell in cells):
        mine = [cell.measured for cell in cells if cell.server == server]
        failed = next((one.failure for one in mine if one.failure), "")
        rows.append(
            [
                server,
                f"{median(one.latency_ms for one in mine) / 1000:.2f}",
                f"{median(one.cpu_ms for one in mine):.0f}",
                f"{median(one.rss_before_mb for one in mine):.0f}",
                f"{max(one.rss_mb for one in mine):.0f}",
                f"{max(one.rss_sum_mb for one in mine):.0f}",
                str(max(one.processes for one in mine)),
                failed,
            ]
        )
    return "### One 200 MB multi-frame object, on tmpfs\n\n" + table(
        ["server", "seconds", "CPU ms", "RSS MB: before (sum)", "peak of the largest process",
         "sum of peaks", "processes", "notes"],
        rows,
    )  # fmt: skip


def stock(servers: Sequence[Server], folder: Path, *, rounds: int) -> tuple[Data, str]:
    """Send CT files with the stock storescu, and the same from our client in its manner."""
    taken: dict[str, list[float]] = {server.name: [] for server in servers}
    likeness: dict[str, list[Measured]] = {server.name: [] for server in servers}
    files = folder / "files"
    files.mkdir()
    for _ in range(rounds):
        for server in servers:
            one_s = _storescu_s(server.target, _written(files, 1))
            many_s = _storescu_s(server.target, _written(files, _STOCK_FILES))
            taken[server.name].append((many_s - one_s) / (_STOCK_FILES - 1) * 1000)
            load = Load(kind=Kind.CT, associations=1, instances=_STOCK_FILES, sending=Sending.NAGLE)
            likeness[server.name].append(measure(server, load))
    rows = []
    for server in servers:
        mine = taken[server.name]
        ratios = [theirs / own for theirs, own in zip(mine, taken["us"], strict=True)] if (
            "us" in taken
        ) else []  # fmt: skip
        like = [one.latency_ms for one in likeness[server.name]]
        rows.append(
            [
                server.name,
                f"{median(mine):.2f}",
                f"{min(mine):.2f}-{max(mine):.2f}",
                f"{median(ratios):.1f}" if ratios else "-",
                f"{median(like):.2f}",
            ]
        )
    data: Data = [
        {
            "server": server.name,
            "storescu_ms_per_ct": taken[server.name],
            "nagle_client_latency_ms": [one.latency_ms for one in likeness[server.name]],
        }
        for server in servers
    ]
    return data, "### Stock storescu, CT, on tmpfs\n\n" + table(
        ["server", "storescu: ms per CT", "range", "x ours",
         "our client, sending as storescu: median ms"],
        rows,
    )  # fmt: skip


def idle(servers: Sequence[Server], *, associations: int, seconds: float) -> tuple[Data, str]:
    """Hold associations that do nothing and look at what the servers do meanwhile."""
    data: Data = []
    for server in servers:
        without = _watch(server, seconds / 2)
        opened = _hold(server.target, associations)
        time.sleep(_SETTLES_S)
        held = _watch(server, seconds)
        data.append(
            {
                "server": server.name,
                "associations": len(opened),
                "wake_ups_per_s_without": without[0],
                "wake_ups_per_s": held[0],
                "cpu_ms_per_s_without": without[1],
                "cpu_ms_per_s": held[1],
                "rss_mb_without": without[2],
                "rss_mb": held[2],
                "threads": process_tree.threads(server.pid),
                "still_answers": _answers(server),
            }
        )
        for association in opened:
            association.close()
        time.sleep(_SETTLES_S)
    rows = [
        [
            one["server"],
            str(one["associations"]),
            f"{one['wake_ups_per_s_without']:.1f}",
            f"{one['wake_ups_per_s']:.1f}",
            f"{one['cpu_ms_per_s_without']:.2f}",
            f"{one['cpu_ms_per_s']:.2f}",
            f"{one['rss_mb_without']:.0f}",
            f"{one['rss_mb']:.0f}",
            str(one["threads"]),
            "yes" if one["still_answers"] else "no",
        ]
        for one in data
    ]
    return data, "### Idle associations\n\n" + table(
        ["server", "idle associations", "wake-ups per s: none open", "held", "CPU ms per s: none",
         "held", "RSS MB (sum): none", "held", "threads", "takes one more"],
        rows,
    )  # fmt: skip


def flat(servers: Sequence[Server], *, instances: int, probes: int) -> tuple[Data, str]:
    """Look at memory while small instances and bare TCP connections come and go."""
    data: Data = []
    for server in servers:
        data.append(_memory_row(server, "started"))
        step = max(1, instances // _FLAT_STEPS)
        for sent in range(step, instances + 1, step):
            load = Load(kind=Kind.SMALL, associations=_FLAT_ASSOCIATIONS, instances=step)
            measured = measure(server, load)
            row = _memory_row(server, f"{sent} instances")
            row["per_second"], row["failure"] = measured.per_second, measured.failure
            data.append(row)
            print(f"{server.name}: {row['after']}", file=sys.stderr, flush=True)
            if measured.failure:
                break
        refused = _probe(server.target, probes)
        time.sleep(_SETTLES_S)
        row = _memory_row(server, f"{probes} connections ({refused} refused)")
        row["failure"] = "" if _answers(server) else "does not answer after them"
        data.append(row)
    rows = [
        [
            row["server"],
            row["after"],
            f"{row['largest_mb']:.1f}",
            f"{row['sum_mb']:.1f}",
            str(row["threads"]),
            f"{row['per_second']:.0f}" if "per_second" in row else "",
            row.get("failure", ""),
        ]
        for row in data
    ]
    return data, "### Memory over many small instances and bare connections\n\n" + table(
        ["server", "after", "RSS MB: largest", "sum", "threads", "per s", "notes"], rows
    )


def _written(folder: Path, count: int) -> list[Path]:
    """Write CT files with new UIDs over those of the time before."""
    made = make_object(Kind.CT, random.Random())
    paths = [folder / f"{number:04d}.dcm" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(file_start(made, number) + made.block)
    return paths


def _storescu_s(target: Target, files: Sequence[Path]) -> float:
    call = ["storescu", "-aet", "BENCH", "-aec", target.called_ae, target.host, str(target.port)]
    before = time.monotonic()
    subprocess.run([*call, *map(str, files)], check=True, capture_output=True)
    return time.monotonic() - before


def _hold(target: Target, wanted: int) -> list[Association]:
    """Open associations from several loopback addresses until enough or a minute is over."""
    opened: list[Association] = []
    until = time.monotonic() + _CONNECT_WITHIN_S
    sop_class = make_object(Kind.SMALL, random.Random()).sop_class
    while len(opened) < wanted and time.monotonic() < until:
        source = Target(
            host=target.host,
            port=target.port,
            called_ae=target.called_ae,
            source_address=f"127.0.0.{len(opened) // 4 + 2}",
        )
        try:
            opened.append(associate(source, sop_class))
        except AssociationError as error:
            print(f"after {len(opened)} associations: {error}", file=sys.stderr, flush=True)
            break
    return opened


def _watch(server: Server, seconds: float) -> tuple[float, float, float]:
    """Return wake-ups per second, CPU ms per second and resident MB."""
    wake_ups, cpu = process_tree.wake_ups(server.pid), process_tree.cpu_ms(server.pid)
    time.sleep(seconds)
    return (
        (process_tree.wake_ups(server.pid) - wake_ups) / seconds,
        (process_tree.cpu_ms(server.pid) - cpu) / seconds,
        process_tree.memory(server.pid).sum_mb,
    )


def _answers(server: Server) -> bool:
    return not measure(server, Load(kind=Kind.SMALL, associations=1, instances=1)).failure


def _memory_row(server: Server, after: str) -> dict[str, Any]:
    memory = process_tree.memory(server.pid)
    return {
        "server": server.name,
        "after": after,
        "largest_mb": memory.largest_mb,
        "sum_mb": memory.sum_mb,
        "threads": process_tree.threads(server.pid),
    }


def _probe(target: Target, count: int) -> int:
    """Connect and close, as a load balancer looks; return how often that was refused."""
    refused = 0
    for number in range(count):
        with socket.socket() as probe, suppress(TimeoutError):
            probe.settimeout(_SETTLES_S)
            probe.bind((f"127.1.{number % 200}.{number // 200 % 200 + 1}", 0))
            refused += probe.connect_ex((target.host, target.port)) != 0
    return refused
