"""What comes to a node that pages tell of: associations, refused callers, other bytes."""

from __future__ import annotations

from dataclasses import replace

from associating import opened

from storage import callers, instances
from storage.database import reading, writing
from storage.instances import Difference, NewInstance
from storage.objects import Place

from .fill import Line, Node

CT = "1.2.840.10008.5.1.4.1.1.2"
SR = "1.2.840.10008.5.1.4.1.1.88.11"


def open_one(node: Node, **changes: object) -> int:
    said: dict[str, object] = {
        "calling_ae": "CT1",
        "called_ae": "LIMNER",
        "address": "192.0.2.10",
        "peer": "ct1",
        "software": "SCANNER_1",
        "secure": True,
        "contexts": [
            {"id": 1, "class": CT, "syntax": "1.2.840.10008.1.2.1", "result": 0},
            {"id": 3, "class": SR, "syntax": "", "result": 3},
        ],
    }
    with writing(node.engine) as db:
        return opened(db, **(said | changes))


def refuse(node: Node, calling_ae: str = "NEW_CT", address: str = "192.0.2.99") -> int:
    with writing(node.engine) as db:
        callers.refused(
            db,
            calling_ae=calling_ae,
            called_ae="LIMNER",
            address=address,
            reason="No peer has this AE title.",
            wanted=[CT],
        )
        return callers.list_callers(db)[0].id


def other_bytes(node: Node, line: Line, image: int = 1, **changes: object) -> NewInstance:
    """The same instance again with other bytes; of the same patient unless it is changed."""
    with reading(node.engine) as db:
        row = instances.find_instance(db, f"{line.uid}.1.{image}")
    assert row is not None
    said = NewInstance(
        study_uid=row.study_uid,
        series_uid=row.series_uid,
        sop_uid=row.sop_uid,
        sop_class=row.sop_class,
        transfer_syntax=row.transfer_syntax,
        place=Place(f"segments/other{image}", 0, 10),
        digest=f"{image}".ljust(64, "f"),
        patient_id=row.patient_id,
        accession=row.accession,
        sender="workstation",
        difference=Difference.HEADER,
    )
    return replace(said, **changes)  # type: ignore[arg-type]


def come_again(node: Node, line: Line, images: int = 1, **changes: object) -> None:
    for image in range(1, images + 1):
        new = other_bytes(node, line, image, **changes)
        with writing(node.engine) as db:
            instances.record_instance(db, new)
