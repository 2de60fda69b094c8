"""What must be true of a node after a crash, whatever its store looks like inside."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from node.dicom.walk import HeaderError
from storage.errors import StorageError
from storage.instances import InstanceRow

from .listening import Listening
from .sending import Made

_LONG_AGO_S = 7200.0
"""Older than whatever a listener takes for another writer's unfinished work (an hour)."""


class Lost(AssertionError):  # noqa: N818  named for what is so
    """An acknowledged instance is not there, or an instance is not what was sent."""


def check_kept(
    listening: Listening,
    acknowledged: Mapping[str, Made],
    *,
    offered: Mapping[str, Made],
    patience_s: float = 30,
) -> None:
    """Check that everything acknowledged has its row and its bytes, and nothing else has a row.

    Args:
        listening: The node.
        acknowledged: What must be there, by SOP Instance UID.
        offered: What may be there.
        patience_s: How long the listener may take to index what it finds.

    Raises:
        AssertionError: Something is missing, or differs from what was sent, or is there twice.
    """

    def indexed() -> bool | None:
        return acknowledged.keys() <= {row.sop_uid for row in listening.rows()} or None

    try:
        listening.wait("everything acknowledged has its row", indexed, timeout_s=patience_s)
    except AssertionError as error:
        missing = sorted(acknowledged.keys() - {row.sop_uid for row in listening.rows()})
        raise Lost(
            f"{len(missing)} of {len(acknowledged)} acknowledged instances are lost: "
            f"{missing[:5]}\n{error}"
        ) from None
    rows = listening.rows()
    uids = [row.sop_uid for row in rows]
    assert len(uids) == len(set(uids))
    assert set(uids) <= offered.keys()
    torn = [row.sop_uid for row in rows if not _is_whole(listening, row, offered)]
    if torn:
        raise Lost(f"{len(torn)} of {len(rows)} instances are not what was sent: {torn[:5]}")
    assert listening.conflicts() == 0  # the same bytes again are nothing new


def check_nothing_left_over(listening: Listening, offered: Mapping[str, Made]) -> None:
    """Check that a listener that starts sweeps what earlier ones left unfinished.

    The listener is killed and started again; meanwhile all files become old enough to be nobody's
    work. Afterwards no file of the store is without a row. The journal's segments hold many
    instances each and stay; of new ones no more are ready than configured.
    """
    listening.kill()
    make_old(listening)
    listening.wait_listening()
    wait_swept(listening)
    assert {row.sop_uid for row in listening.rows()} <= offered.keys()


def tell(line: str) -> None:
    """Say what was counted; `pytest -rP` shows it for tests that pass."""
    sys.stdout.write(line + "\n")


def make_old(listening: Listening) -> None:
    """Make all stored files old enough to be nobody's unfinished work."""
    long_ago = time.time() - _LONG_AGO_S
    for path in _files(listening):
        os.utime(path, (long_ago, long_ago))


def wait_swept(listening: Listening) -> None:
    """Wait until no file of the store is without a row."""

    def left() -> set[str]:
        return _files_by_name(listening) - {row.object_name for row in listening.rows()}

    try:
        listening.wait("every file of the store has a row", lambda: not left() or None)
    except AssertionError as error:
        raise AssertionError(f"{len(left())} left over: {sorted(left())[:5]}\n{error}") from None
    assert _prepared(listening) <= listening.settings.storage.journal_ahead


def _is_whole(listening: Listening, row: InstanceRow, offered: Mapping[str, Made]) -> bool:
    try:
        return listening.kept(row) == offered[row.sop_uid].dataset()
    except (StorageError, HeaderError):
        return False


def _files(listening: Listening) -> list[Path]:
    """Return the files of the store that hold one instance each, or a part of one."""
    store = listening.settings.storage.objects
    return [path for path in store.glob("*/*/*") if path.is_file()]


def _prepared(listening: Listening) -> int:
    """Return how many segments of the journal wait to be used, or are being made."""
    found = (listening.settings.storage.objects / "segments").glob("*")
    return sum(path.suffix != ".seg" for path in found)


def _files_by_name(listening: Listening) -> set[str]:
    store = listening.settings.storage.objects
    return {path.relative_to(store).as_posix() for path in _files(listening)}
