"""What the audit says of instances that put something in doubt, one row for each study and doubt.

Called last in the transaction that recorded them: an audit row waits for others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from sqlalchemy import Connection

from storage import audit
from storage.instance_rows import Doubt, NewInstance, Recorded

_WHO = "listener"
_WORDS = {
    Doubt.IDENTITY: "came again with another identity; the study is held",
    Doubt.PATIENT: "came under this study's UID with another patient; the study is held",
    Doubt.HEADER: "came again with other elements; both are kept",
    Doubt.PIXELS: "came again with other pixel data; both are kept",
}


def audit_doubts(db: Connection, recorded: Iterable[tuple[NewInstance, Recorded]]) -> None:
    """Write down which instances were in doubt, of which study, and from whom."""
    found: dict[tuple[str, Doubt, str], list[str]] = defaultdict(list)
    for new, one in recorded:
        if one.doubt is not None:
            found[new.study_uid, one.doubt, new.sender].append(new.sop_uid)
    for (study_uid, doubt, sender), uids in sorted(found.items()):
        more = f" and {len(uids) - 1} more" if len(uids) > 1 else ""
        text = f"{uids[0]}{more} from {sender or 'nobody known'} {_WORDS[doubt]}"
        audit.record(db, _WHO, "conflict", f"study {study_uid}", text)
