"""C-STORE as SCU: each stored object is sent once, and what the peer said is a value.

Contexts are proposed one per (SOP class, transfer syntax), so that the peer's choice cannot force
a conversion, and looked at before anything is sent.

Source: DICOM PS3.4 annex B; PS3.8 9.3.2.2 (at most 128 contexts).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from node.dicom.requestor import Target, associated
from node.dicom.statuses import SendKind, classify
from node.dicom.values import DEFLATED, EXPLICIT_LITTLE, IMPLICIT_LITTLE

MAX_CONTEXTS: Final = 128

_TRANSFER_SYNTAXES_NOT_SUPPORTED: Final = 4  # PS3.8 table 9-18

_CONVERTIBLE: Final = frozenset({EXPLICIT_LITTLE, IMPLICIT_LITTLE, DEFLATED})
"""Syntaxes between which only lengths and VRs change, never a pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingFile:
    """A stored PS3.10 object to send.

    Attributes:
        path: The local file that holds it.
        offset: Its first byte in the file.
        length: Its number of bytes.
    """

    path: Path
    offset: int
    length: int
    sop_class: str
    sop_uid: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class SendOutcome:
    """What became of one object.

    Attributes:
        status: The peer's C-STORE status; None if it gave none.
        sentence: For people, with the peer's own comment.
    """

    sop_uid: str
    status: int | None
    sentence: str
    kind: SendKind


def send_instances(
    target: Target,
    files: Sequence[OutgoingFile],
    *,
    calling_ae: str,
    on_answer: Callable[[SendOutcome], None] | None = None,
) -> list[SendOutcome]:
    """Send objects over one association; return one outcome each, in their order.

    Args:
        target: The peer.
        files: What to send, together of at most some 40 SOP classes.
        calling_ae: Our AE title.
        on_answer: Called with each outcome as soon as it is known.

    Raises:
        PassingError: The peer was not reached or did not accept an association; nothing was sent.
        ValueError: The objects need more presentation contexts than one association can have.
    """
    outcomes: list[SendOutcome] = []
    with associated(target, _proposed(files), calling_ae=calling_ae) as association:
        accepted = frozenset(
            (str(context.abstract_syntax), str(context.transfer_syntax[0]))
            for context in association.accepted_contexts
        )
        broken = False
        for file in files:
            # After a missing answer the library still calls the association established.
            outcome = (
                _not_sent(target, file) if broken else _send(target, association, file, accepted)
            )
            broken = broken or outcome.kind is SendKind.LOST
            outcomes.append(outcome)
            if on_answer is not None:
                on_answer(outcome)
    return outcomes


def _proposed(files: Sequence[OutgoingFile]) -> list[PresentationContext]:
    pairs: dict[tuple[str, str], None] = {}
    for file in files:
        for syntax in (file.transfer_syntax, *_conversions(file)):
            pairs[file.sop_class, syntax] = None
    if len(pairs) > MAX_CONTEXTS:
        raise ValueError(f"{len(pairs)} presentation contexts, at most {MAX_CONTEXTS} fit")
    return [build_context(sop_class, syntax) for sop_class, syntax in pairs]


def _conversions(file: OutgoingFile) -> tuple[str, ...]:
    """Return the syntaxes that the object could be sent in besides its own, the better first."""
    if file.transfer_syntax not in _CONVERTIBLE:
        return ()
    return tuple(
        syntax for syntax in (EXPLICIT_LITTLE, IMPLICIT_LITTLE) if syntax != file.transfer_syntax
    )


def _send(
    target: Target,
    association: Association,
    file: OutgoingFile,
    accepted: frozenset[tuple[str, str]],
) -> SendOutcome:
    syntaxes = [
        syntax
        for syntax in (file.transfer_syntax, *_conversions(file))
        if (file.sop_class, syntax) in accepted
    ]
    if not syntaxes:
        what = _why_no_context(target, association, file)
        return SendOutcome(file.sop_uid, None, what, SendKind.NO_CONTEXT)
    if not association.is_established:
        return _not_sent(target, file)
    try:
        answer = _store(association, file, syntaxes[0])
    except RuntimeError:  # the library's word for an association that ended a moment ago
        return _not_sent(target, file)
    if "Status" not in answer:
        what = (
            f"{target.name} gave no answer: the connection broke or {target.answer_s:g} s passed. "
            "Whether it has the object is not known."
        )
        return SendOutcome(file.sop_uid, None, what, SendKind.LOST)
    status = int(answer.Status)
    kind, words = classify(status)
    own = str(answer.get("ErrorComment") or "").strip()
    sentence = f"{target.name} {words}" + (f"; it says: {own}" if own else "") + "."
    return SendOutcome(file.sop_uid, status, sentence, kind)


def _not_sent(target: Target, file: OutgoingFile) -> SendOutcome:
    what = f"{target.name} ended the association before this object was sent."
    return SendOutcome(file.sop_uid, None, what, SendKind.RETRY)


def _store(association: Association, file: OutgoingFile, syntax: str) -> Dataset:
    """Send one object: from its file as it is, or converted if its own syntax was not accepted."""
    if syntax != file.transfer_syntax:
        with _alone(file) as path:
            dataset = dcmread(path)
        # Of these three, the library finds the accepted one and encodes for it.
        dataset.file_meta.TransferSyntaxUID = UID(
            IMPLICIT_LITTLE if file.transfer_syntax == IMPLICIT_LITTLE else EXPLICIT_LITTLE
        )
        return association.send_c_store(dataset)
    with _alone(file) as path:
        return association.send_c_store(path)


@contextmanager
def _alone(file: OutgoingFile) -> Iterator[Path]:
    """Give a file that holds exactly this object; a part of a larger file is copied out."""
    if file.offset == 0 and file.path.stat().st_size == file.length:
        yield file.path
        return
    with tempfile.NamedTemporaryFile(suffix=".dcm") as copy, file.path.open("rb") as whole:
        whole.seek(file.offset)
        left = file.length
        while left and (piece := whole.read(min(left, 1 << 20))):
            copy.write(piece)
            left -= len(piece)
        copy.flush()
        yield Path(copy.name)


def _why_no_context(target: Target, association: Association, file: OutgoingFile) -> str:
    results = {
        context.result
        for context in association.rejected_contexts
        if context.abstract_syntax == file.sop_class
    }
    name = UID(file.sop_class).name
    if results == {_TRANSFER_SYNTAXES_NOT_SUPPORTED}:
        return (
            f"{target.name} takes {name}, but not in {UID(file.transfer_syntax).name}; "
            "nothing was sent."
        )
    return (
        f"{target.name} does not take {name}; nothing was sent. Configure it there, or take the "
        "kind out of this peer's takes."
    )
