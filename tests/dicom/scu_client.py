"""Peers of the listener in the tests: pynetdicom as SCU, and bytes on a socket."""

from __future__ import annotations

import socket
import struct
from io import BytesIO

from made_objects import CT, EXPLICIT
from pydicom.dataset import Dataset
from pynetdicom import build_context, build_role
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext
from receiving_node import Node

from node.dicom.library import application_entity, keep_answers

COMMITMENT = "1.2.840.10008.1.20.1"


def associate(
    node: Node,
    *contexts: PresentationContext,
    calling: str = "SCANNER",
    called: str = "LIMNER",
    **options: object,
) -> Association:
    entity = application_entity(calling)  # pynetdicom, without its leaks of sockets
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 15
    proposed = list(contexts) or [build_context(CT, EXPLICIT)]
    association = entity.associate("127.0.0.1", node.port, proposed, ae_title=called, **options)
    keep_answers(association)
    return association


def stored(node: Node, *datasets: Dataset, **options: object) -> list[int]:
    """Send data sets over one association; return the statuses."""
    for dataset in datasets:
        dataset.ensure_file_meta()
        dataset.file_meta.TransferSyntaxUID = EXPLICIT
    association = associate(node, **options)
    assert association.is_established
    statuses = [int(association.send_c_store(dataset).Status) for dataset in datasets]
    association.release()
    return statuses


def report(
    node: Node,
    transaction_uid: str,
    sop_uid: str,
    *,
    calling: str = "PACS",
    failure: int | None = None,
) -> Dataset:
    """Send an N-EVENT-REPORT as a PACS does: on a new association, as SCP by role."""
    association = associate(
        node,
        build_context(COMMITMENT),
        calling=calling,
        ext_neg=[build_role(COMMITMENT, scp_role=True)],
    )
    item = Dataset()
    item.ReferencedSOPClassUID = CT
    item.ReferencedSOPInstanceUID = sop_uid
    information = Dataset()
    information.TransactionUID = transaction_uid
    if failure is None:
        information.ReferencedSOPSequence = [item]
    else:
        item.FailureReason = failure
        information.FailedSOPSequence = [item]
    kind = 1 if failure is None else 2
    answer, _ = association.send_n_event_report(information, kind, COMMITMENT, COMMITMENT + ".1")
    association.release()
    return answer


def send_one(node: Node, dataset: Dataset) -> int:
    dataset.ensure_file_meta()
    dataset.file_meta.TransferSyntaxUID = EXPLICIT
    association = associate(node)
    answer = association.send_c_store(dataset)
    return int(answer.get("Status", -1))


def send_raw(
    node: Node,
    data: bytes,
    *,
    sop_uid: str = "1.2.3.4.1.1",
    sop_class: str = CT,
    syntax: str = EXPLICIT,
) -> Dataset:
    """Send bytes as a data set, with a command set of our choice, on a real association."""
    association = associate(node, build_context(sop_class, syntax))
    assert association.is_established
    request = C_STORE()
    request.MessageID = 1
    request.Priority = 2
    request.AffectedSOPClassUID = sop_class
    request.AffectedSOPInstanceUID = sop_uid
    request.DataSet = BytesIO(data)
    context = association.accepted_contexts[0]
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, context.context_id)
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    answer = Dataset()
    answer.Status = response.Status
    if response.ErrorComment is not None:
        answer.ErrorComment = response.ErrorComment
    association.release()
    return answer


def raw_association(node: Node, calling: bytes) -> bytes:
    """Send an A-ASSOCIATE-RQ with the bytes of a calling AE title; return the answer's type."""

    def item(kind: int, value: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(value)) + value

    context = struct.pack(">BBBB", 1, 0, 0, 0)
    context += item(0x30, CT.encode()) + item(0x40, EXPLICIT.encode())
    user = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3")
    body = struct.pack(">HH", 1, 0) + b"LIMNER".ljust(16) + calling.ljust(16)[:16] + bytes(32)
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, context) + item(0x50, user)
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as connection:
        connection.sendall(struct.pack(">BBI", 1, 0, len(body)) + body)
        return connection.recv(1)
