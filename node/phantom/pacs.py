"""A phantom PACS: keeps what arrives, counts every C-STORE, answers storage commitment.

It does not de-duplicate: each C-STORE is an entry with the digest of its dataset, so that a test
sees what a forgiving archive hides. It misbehaves on order (`orders.py`). As a process it prints
its port as its first JSON line and every event as a further one:

    python -m node.phantom.pacs --port 0 --folder F --ae PHANTOMPACS --report-to HOST:PORT:AE
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pydicom.dataset import Dataset

from node.dicom.callbacks import Callbacks, CommitRequest, Ended, Incoming
from node.dicom.commitment import ALL_COMMITTED, SOME_FAILED, report_message
from node.dicom.filemeta import FileMeta, encode_file_meta
from node.dicom.scp import start_scp
from node.dicom.scu import Target, report_commitment
from node.dicom.statuses import OUT_OF_RESOURCES, SUCCESS
from node.dicom.wire.admission import (
    ASK_COMMITMENT,
    ECHO,
    STORE,
    TOO_MANY,
    Admission,
    Caller,
    Rejection,
)
from node.errors import LimnerError
from node.phantom.journal import Event, Journal, read_events
from node.phantom.orders import Commitment, Orders, read_orders
from node.phantom.relay import Relay, WireOrders

AE_TITLE: Final = "PHANTOMPACS"
_NO_SUCH_INSTANCE: Final = 0x0112
_SERVICES: Final = frozenset({ECHO, STORE, ASK_COMMITMENT})

__all__ = ["Event", "PhantomPacs", "Stored", "read_events"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One C-STORE request.

    Attributes:
        sop_uid: SOP Instance UID.
        sop_class: SOP Class UID.
        digest: SHA-256 of the dataset's bytes as they came, hex.
        status: What was answered.
        calling_ae: Who sent it.
        file: Where it was kept, None where it was not.
    """

    sop_uid: str
    sop_class: str
    digest: str
    status: int
    calling_ae: str
    file: Path | None


class PhantomPacs:
    """A running PACS; `with PhantomPacs(folder) as pacs:` stops it at the end."""

    def __init__(
        self,
        folder: Path,
        *,
        ae_title: str = AE_TITLE,
        host: str = "127.0.0.1",
        port: int = 0,
        report_to: Target | None = None,
        orders: Orders | None = None,
        on_event: Callable[[Event], None] = lambda _: None,
    ) -> None:
        """Start listening.

        Args:
            folder: Objects go to `folder`, one file for each C-STORE, and events.jsonl beside.
            ae_title: Its AE title.
            host: Address to listen on.
            port: Port; 0 takes a free one.
            report_to: Where commitment reports go on a new association; `answer_to` says it later.
            orders: How to misbehave.
            on_event: Called with each event, from the threads of the associations.

        Raises:
            OSError: The address cannot be bound.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ae_title = ae_title
        self._host = host
        self._report_to = report_to
        self._orders = orders or Orders()
        self._journal = Journal(folder, on_event)
        self._lock = threading.Lock()
        self._stored: list[Stored] = []
        self._associations = 0
        self._reporting: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._report_here: tuple[Dataset, int] | None = None
        on_the_wire = self._orders.on_the_wire
        self._scp = start_scp(
            host="127.0.0.1" if on_the_wire else host,
            port=0 if on_the_wire else port,
            callbacks=Callbacks(
                admit=self._admit,
                on_echo=self._echoed,
                on_store=self._store,
                on_commit_request=self._commit,
                on_end=self._ended,
            ),
            accept_unknown_classes=True,
        )
        self._relay = self._start_relay(port) if on_the_wire else None
        self.port = self._relay.port if self._relay else self._scp.port
        self._journal.tell({"event": "listening", "port": self.port, "ae_title": ae_title})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def target(self) -> Target:
        """Where to call it."""
        return Target(name="phantom-pacs", ae_title=self.ae_title, host=self._host, port=self.port)

    @property
    def stored(self) -> tuple[Stored, ...]:
        """Every C-STORE request so far, in the order of their answers."""
        with self._lock:
            return tuple(self._stored)

    @property
    def events(self) -> tuple[Event, ...]:
        """Every event so far."""
        return self._journal.events

    def counts(self) -> Counter[str]:
        """Return how often each SOP Instance UID was kept."""
        return Counter(one.sop_uid for one in self.stored if one.file is not None)

    def answer_to(self, target: Target) -> None:
        """Say where commitment reports go from now on."""
        self._report_to = target

    def wait_for(self, event: str, count: int = 1, *, timeout_s: float = 30.0) -> bool:
        """Wait until `event` has happened `count` times; return whether it has."""
        return self._journal.wait_for(event, count, timeout_s)

    def stop(self) -> None:
        """Stop listening and end all associations; reports that are held back are not sent."""
        self._stopping.set()
        if self._relay is not None:
            self._relay.stop()
        self._scp.stop(grace_s=1.0)
        for thread in self._reporting:
            thread.join()

    def _start_relay(self, port: int) -> Relay:
        orders = self._orders
        here = orders.commitment is Commitment.SAME_ASSOCIATION
        return Relay(
            ("127.0.0.1", self._scp.port),
            WireOrders(
                refused_classes=orders.refused_classes,
                close_in_data=orders.close_in_data,
                close_before_answer=orders.close_before_answer,
                report_here=self._take_report if here else None,
            ),
            host=self._host,
            port=port,
        )

    def _admit(self, caller: Caller) -> Admission | Rejection:
        with self._lock:
            self._associations += 1
            number = self._associations
        if number <= self._orders.reject_associations:
            self._journal.tell({"event": "rejected", "calling_ae": caller.calling_ae})
            return TOO_MANY
        self._journal.tell({"event": "association", "calling_ae": caller.calling_ae})
        return Admission(caller.calling_ae, _SERVICES)

    def _echoed(self, caller: Caller) -> None:
        self._journal.tell({"event": "echo", "calling_ae": caller.calling_ae})

    def _ended(self, ended: Ended) -> None:
        self._journal.tell(
            {
                "event": "ended",
                "calling_ae": ended.caller.calling_ae,
                "outcome": ended.outcome,
                "stored": ended.stored,
                "refused": ended.refused,
            }
        )

    def _store(self, incoming: Incoming) -> tuple[int, str]:
        with self._lock:
            number = len(self._stored) + 1
            status, file = self._verdict(incoming, number)
            one = Stored(
                sop_uid=incoming.sop_uid,
                sop_class=incoming.sop_class,
                digest=hashlib.sha256(incoming.dataset).hexdigest(),
                status=status,
                calling_ae=incoming.caller.calling_ae,
                file=file,
            )
            self._stored.append(one)
        self._journal.tell(
            {
                "event": "store",
                "number": number,
                "sop_uid": one.sop_uid,
                "sop_class": one.sop_class,
                "digest": one.digest,
                "status": status,
                "calling_ae": one.calling_ae,
                "file": file.name if file else "",
            }
        )
        return status, "" if status == SUCCESS else "The phantom PACS was told to refuse."

    def _verdict(self, incoming: Incoming, number: int) -> tuple[int, Path | None]:
        """Return the status of a C-STORE request, and its file where it is kept."""
        if number <= self._orders.out_of_resources:
            return OUT_OF_RESOURCES, None
        if self._orders.store_status:
            return self._orders.store_status, None
        if self._orders.forget:
            return SUCCESS, None
        file = self.folder / f"{number:06d}-{incoming.sop_uid}.dcm"
        meta = FileMeta(
            sop_class=incoming.sop_class,
            sop_uid=incoming.sop_uid,
            transfer_syntax=incoming.transfer_syntax,
            source_ae=incoming.caller.calling_ae,
        )
        file.write_bytes(encode_file_meta(meta) + incoming.dataset)
        return SUCCESS, file

    def _commit(self, caller: Caller, request: CommitRequest) -> None:
        kept = {(one.sop_class, one.sop_uid) for one in self.stored if one.file is not None}
        committed: list[tuple[str, str]] = []
        failed: dict[tuple[str, str], int] = {}
        for reference in request.references:
            pair = (reference.sop_class, reference.sop_uid)
            reason = self._orders.commitment_failure or (0 if pair in kept else _NO_SUCH_INSTANCE)
            if reason:
                failed[pair] = reason
            else:
                committed.append(pair)
        self._journal.tell(
            {
                "event": "commit-request",
                "calling_ae": caller.calling_ae,
                "transaction_uid": request.transaction_uid,
                "committed": len(committed),
                "failed": len(failed),
            }
        )
        if self._orders.commitment is Commitment.SAME_ASSOCIATION:
            message = report_message(request.transaction_uid, committed, failed)
            self._report_here = (message, SOME_FAILED if failed else ALL_COMMITTED)
        elif self._orders.commitment is Commitment.NEW_ASSOCIATION:
            thread = threading.Thread(
                target=self._report, args=(request.transaction_uid, committed, failed)
            )
            self._reporting.append(thread)
            thread.start()

    def _take_report(self) -> tuple[Dataset, int] | None:
        """Give the relay the report for the request that was just answered."""
        report, self._report_here = self._report_here, None
        if report is not None:
            self._journal.tell(_reported(str(report[0].TransactionUID), "sent", ""))
        return report

    def _report(
        self,
        transaction_uid: str,
        committed: Sequence[tuple[str, str]],
        failed: dict[tuple[str, str], int],
    ) -> None:
        """Report on an association of our own."""
        if self._stopping.wait(self._orders.commitment_delay_s):
            return
        if self._report_to is None:
            self._journal.tell(
                _reported(transaction_uid, "unsent", "Nobody said where reports go.")
            )
            return
        try:
            report_commitment(
                self._report_to, transaction_uid, committed, failed, calling_ae=self.ae_title
            )
        except LimnerError as error:
            self._journal.tell(_reported(transaction_uid, "unsent", error.fault.what))
        else:
            self._journal.tell(_reported(transaction_uid, "sent", ""))


def _reported(transaction_uid: str, outcome: str, why: str) -> Event:
    return {
        "event": "commit-report",
        "transaction_uid": transaction_uid,
        "outcome": outcome,
        "why": why,
    }


def _target(text: str) -> Target:
    """Return the target that HOST:PORT:AE names."""
    host, port, ae_title = text.rsplit(":", 2)
    return Target(name=ae_title, ae_title=ae_title, host=host, port=int(port))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a phantom PACS until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m node.phantom.pacs", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--ae", default=AE_TITLE)
    parser.add_argument("--report-to", type=_target, metavar="HOST:PORT:AE")
    parser.add_argument("--order", action="append", default=[], metavar="NAME=VALUE")
    chosen = parser.parse_args(arguments)
    try:
        orders = read_orders(chosen.order)
    except ValueError as error:
        parser.error(str(error))
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())

    def say(event: Event) -> None:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()

    with PhantomPacs(
        chosen.folder,
        ae_title=chosen.ae,
        host=chosen.host,
        port=chosen.port,
        report_to=chosen.report_to,
        orders=orders,
        on_event=say,
    ):
        ended.wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
