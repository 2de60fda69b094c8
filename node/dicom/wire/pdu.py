"""Association PDUs as values: tolerant of what devices send, strict where a length could lie.

Pure: bytes in, values out, and back. Padding of every kind, AE titles that are not ASCII, unknown
items and absent user information are taken; an item that reaches past its container is not, and
no length is believed before it is checked. Every step of a walk moves forward by at least four
bytes and `MAX_ITEMS` ends it, so the cost of a hostile request does not grow with its size.
`PduError` is the only exception that leaves the decoders.

What one association request may get wrong:

- An identifier of a presentation context that is even or appears twice, or a context beyond the
  128th: the PDU is refused, because no answer to it would be unambiguous.
- A context without an abstract syntax, or with an empty one, or without transfer syntaxes: only
  that context is lost; negotiation rejects it (PS3.8 table 9-18) and the others go on.
- A secret in the user identity is stepped over and never kept.

Source: DICOM PS3.8 section 9.3 (PDUs) and annex D (maximum length), PS3.7 annex D.3.3 (user
information: implementation, asynchronous operations, role selection, user identity).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from node.dicom.wire.text import plain

ASSOCIATE_RQ: Final = 1
ASSOCIATE_AC: Final = 2
ASSOCIATE_RJ: Final = 3
P_DATA: Final = 4
RELEASE_RQ: Final = 5
RELEASE_RP: Final = 6
ABORT: Final = 7

PDU_HEADER: Final = struct.Struct(">BxI")
"""Type and length of what follows. Every PDU begins with these six bytes."""

UNRECOGNISED_PDU: Final = 1
UNEXPECTED_PDU: Final = 2
UNRECOGNISED_PARAMETER: Final = 4
UNEXPECTED_PARAMETER: Final = 5
INVALID_PARAMETER: Final = 6
"""Reasons of an abort by the service provider (PS3.8 table 9-26)."""

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
"""The only one that DICOM has (PS3.7 annex A)."""

MAX_CONTEXTS: Final = 128
"""Presentation contexts of one association: there are only 128 odd numbers in a byte."""

MAX_ITEMS: Final = 16_384
"""Items and sub-items of one PDU. 128 contexts with each of some 60 transfer syntaxes make 8 000;
the walk to this limit takes some 10 ms here."""

MIN_MAX_LENGTH: Final = 16
"""Smallest maximum length that a peer may announce: with less there is no room for a fragment of
any use behind its header of 6 bytes."""

TITLES_BYTES: Final = 64
"""Called and calling AE title and the reserved field, which an acceptance repeats."""

_AE_BYTES: Final = 16
_FIXED: Final = struct.Struct(">H2x64s")
_ITEM: Final = struct.Struct(">BxH")
_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_WINDOW: Final = struct.Struct(">HH")

_APPLICATION_CONTEXT_ITEM: Final = 0x10
_CONTEXT_ITEM: Final = 0x20
_CONTEXT_ANSWER_ITEM: Final = 0x21
_ABSTRACT_SYNTAX_ITEM: Final = 0x30
_TRANSFER_SYNTAX_ITEM: Final = 0x40
_USER_INFORMATION_ITEM: Final = 0x50
_MAX_LENGTH_ITEM: Final = 0x51
_IMPLEMENTATION_CLASS_ITEM: Final = 0x52
_WINDOW_ITEM: Final = 0x53
_ROLE_ITEM: Final = 0x54
_IMPLEMENTATION_VERSION_ITEM: Final = 0x55
_IDENTITY_ITEM: Final = 0x58
_IDENTITY_ANSWER_ITEM: Final = 0x59

_USERNAME_KINDS: Final = frozenset({1, 2})
"""User identities (name; name and passcode) whose answer is an empty item. The answer to a ticket
or a token would have to hold one, so those get none (PS3.7 table D.3-15)."""


class PduError(Exception):
    """A PDU that cannot be read.

    Attributes:
        reason: What to abort with, as service provider (PS3.8 table 9-26).
        what: A sentence for people, without text from the peer.
    """

    def __init__(self, reason: int, what: str) -> None:
        super().__init__(what)
        self.reason = reason
        self.what = what


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """A presentation context as the requestor proposes it; the syntaxes may be empty."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AnsweredContext:
    """A presentation context as the acceptor answers it (PS3.8 table 9-18).

    Attributes:
        id: The proposed one.
        result: 0 accepted, 1 user rejection, 2 no reason, 3 abstract syntax not supported,
            4 no transfer syntax supported.
        abstract_syntax: Of the proposal; empty when it was decoded, as it is not on the wire.
        transfer_syntax: The chosen one; without meaning in a rejection.
    """

    id: int
    result: int
    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Role:
    """SCP/SCU role selection for one SOP class: what the requestor may be (PS3.7 D.3.3.4)."""

    sop_class: str
    scu: bool
    scp: bool


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """That a user identity came, of which kind (PS3.7 table D.3-14), and whether to answer it."""

    kind: int
    response_wanted: bool


@dataclass(frozen=True, slots=True)
class AssociateRequest:
    """An A-ASSOCIATE-RQ.

    Attributes:
        called_ae: Without padding; may be empty.
        calling_ae: Likewise.
        protocol_version: Bit 0 is version 1, the only one there is.
        application_context: Empty if the item is absent.
        contexts: At most 128, with different odd identifiers.
        max_length: Longest P-DATA-TF that the requestor takes, bytes without the PDU header; at
            least `MIN_MAX_LENGTH`, or 0 for no limit.
        implementation_class_uid: Empty if absent.
        implementation_version: Empty if absent.
        async_window: Operations (invoked, performed) at a time; None if not negotiated.
        roles: In the order sent; a SOP class may appear twice.
        user_identity: None if absent.
        titles: The 64 bytes that an acceptance repeats.
    """

    called_ae: str
    calling_ae: str
    protocol_version: int
    application_context: str
    contexts: tuple[ProposedContext, ...]
    max_length: int
    implementation_class_uid: str
    implementation_version: str
    async_window: tuple[int, int] | None
    roles: tuple[Role, ...]
    user_identity: UserIdentity | None
    titles: bytes


@dataclass(frozen=True, slots=True)
class AssociateAccept:
    """An A-ASSOCIATE-AC; fields as in `AssociateRequest`, the contexts without abstract syntax."""

    contexts: tuple[AnsweredContext, ...]
    max_length: int
    implementation_class_uid: str
    implementation_version: str
    async_window: tuple[int, int] | None
    roles: tuple[Role, ...]


# -- decoding -------------------------------------------------------------------------------------


def decode_associate_request(body: bytes | bytearray | memoryview) -> AssociateRequest:
    """Return the association request whose PDU has `body` behind its header.

    Raises:
        PduError: An item is cut short, or one of the rules in the module's docstring is broken.
    """
    items, version, titles = _begin(body)
    application_context: str | None = None
    contexts: dict[int, ProposedContext] = {}
    user: _UserInformation | None = None
    for kind, start, end in items.top_level():
        if kind == _CONTEXT_ITEM:
            context = _proposed_context(items, start, end)
            if context.id in contexts:
                raise _invalid(f"Presentation context {context.id} is proposed twice.")
            contexts[context.id] = context
        elif kind == _APPLICATION_CONTEXT_ITEM:
            _only_one(application_context, "application context")
            application_context = plain(items.data[start:end])
        elif kind == _USER_INFORMATION_ITEM:
            _only_one(user, "user information item")
            user = _user_information(items, start, end)
    user = user or _UserInformation()
    return AssociateRequest(
        called_ae=plain(titles[:_AE_BYTES]),
        calling_ae=plain(titles[_AE_BYTES : 2 * _AE_BYTES]),
        protocol_version=version,
        application_context=application_context or "",
        contexts=tuple(contexts.values()),
        max_length=user.max_length,
        implementation_class_uid=user.implementation_class_uid,
        implementation_version=user.implementation_version,
        async_window=user.async_window,
        roles=tuple(user.roles),
        user_identity=user.identity,
        titles=titles,
    )


def decode_associate_accept(body: bytes | bytearray | memoryview) -> AssociateAccept:
    """Return the acceptance whose PDU has `body` behind its header.

    Raises:
        PduError: As for a request.
    """
    items, _version, _titles = _begin(body)
    contexts: dict[int, AnsweredContext] = {}
    user: _UserInformation | None = None
    for kind, start, end in items.top_level():
        if kind == _CONTEXT_ANSWER_ITEM:
            context = _answered_context(items, start, end)
            if context.id in contexts:
                raise _invalid(f"Presentation context {context.id} is answered twice.")
            contexts[context.id] = context
        elif kind == _USER_INFORMATION_ITEM:
            _only_one(user, "user information item")
            user = _user_information(items, start, end)
    user = user or _UserInformation()
    return AssociateAccept(
        contexts=tuple(contexts.values()),
        max_length=user.max_length,
        implementation_class_uid=user.implementation_class_uid,
        implementation_version=user.implementation_version,
        async_window=user.async_window,
        roles=tuple(user.roles),
    )


def decode_associate_reject(body: bytes | bytearray | memoryview) -> tuple[int, int, int]:
    """Return (result, source, diagnostic) of a rejection (PS3.8 table 9-21)."""
    if len(body) < 4:
        raise _invalid("The association rejection is cut short.")
    return body[1], body[2], body[3]


def decode_abort(body: bytes | bytearray | memoryview) -> tuple[int, int]:
    """Return (source, reason) of an abort (PS3.8 table 9-26)."""
    if len(body) < 4:
        raise _invalid("The abort is cut short.")
    return body[2], body[3]


class _Items:
    """Walks the items of one PDU and counts them."""

    def __init__(self, data: bytes, *, start: int) -> None:
        self.data = data
        self._start = start
        self._left = MAX_ITEMS

    def top_level(self) -> Iterator[tuple[int, int, int]]:
        """Yield (type, start, end) of the content of each variable item of the PDU."""
        return self.within(self._start, len(self.data))

    def within(self, at: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield (type, start, end) of the content of each item between two offsets."""
        data, read = self.data, _ITEM.unpack_from
        while at < end:
            if end - at < _ITEM.size:
                raise _invalid(f"An item at byte {at} of the PDU is cut short.")
            if self._left == 0:
                raise _invalid(f"The PDU has more than {MAX_ITEMS} items.")
            self._left -= 1
            kind, length = read(data, at)
            start = at + _ITEM.size
            at = start + length
            if at > end:
                raise _invalid(
                    f"Item {kind:02X}H at byte {start} of the PDU claims {length} bytes,"
                    f" {end - start} are there."
                )
            yield kind, start, at


class _UserInformation:
    """What the sub-items of a user information item say; the defaults hold where one is absent."""

    def __init__(self) -> None:
        self.max_length = 0
        self.implementation_class_uid = ""
        self.implementation_version = ""
        self.async_window: tuple[int, int] | None = None
        self.roles: list[Role] = []
        self.identity: UserIdentity | None = None


def _begin(body: bytes | bytearray | memoryview) -> tuple[_Items, int, bytes]:
    """Return the variable items of a request or acceptance, its version, its AE titles."""
    data = bytes(body)
    if len(data) < _FIXED.size:
        raise _invalid(f"The PDU has {len(data)} bytes, its fixed part alone has {_FIXED.size}.")
    version, titles = _FIXED.unpack_from(data)
    return _Items(data, start=_FIXED.size), version, titles


def _proposed_context(items: _Items, at: int, end: int) -> ProposedContext:
    number = _context_id(items.data, at, end)
    abstract_syntax: str | None = None
    transfer_syntaxes = []
    for kind, start, stop in items.within(at + 4, end):
        if kind == _TRANSFER_SYNTAX_ITEM:
            transfer_syntaxes.append(plain(items.data[start:stop]))
        elif kind == _ABSTRACT_SYNTAX_ITEM:
            _only_one(abstract_syntax, "abstract syntax in one presentation context")
            abstract_syntax = plain(items.data[start:stop])
    return ProposedContext(number, abstract_syntax or "", tuple(transfer_syntaxes))


def _answered_context(items: _Items, at: int, end: int) -> AnsweredContext:
    number = _context_id(items.data, at, end)
    transfer_syntax = ""
    for kind, start, stop in items.within(at + 4, end):
        if kind == _TRANSFER_SYNTAX_ITEM:
            transfer_syntax = plain(items.data[start:stop])
    return AnsweredContext(number, items.data[at + 2], "", transfer_syntax)


def _context_id(data: bytes, at: int, end: int) -> int:
    if end - at < 4:
        raise _invalid(f"The presentation context at byte {at} of the PDU is cut short.")
    number = data[at]
    if number % 2 == 0:
        raise _invalid(f"Presentation context {number} is even; they are odd.")
    return number


def _user_information(items: _Items, at: int, end: int) -> _UserInformation:
    user, data = _UserInformation(), items.data
    for kind, start, stop in items.within(at, end):
        if kind == _MAX_LENGTH_ITEM:
            (user.max_length,) = _fields(_U32, data, start, stop, "maximum length")
            if 0 < user.max_length < MIN_MAX_LENGTH:
                raise _invalid(f"The maximum length is {user.max_length}, too small to be used.")
        elif kind == _IMPLEMENTATION_CLASS_ITEM:
            user.implementation_class_uid = plain(data[start:stop])
        elif kind == _IMPLEMENTATION_VERSION_ITEM:
            user.implementation_version = plain(data[start:stop])
        elif kind == _WINDOW_ITEM:
            invoked, performed = _fields(_WINDOW, data, start, stop, "asynchronous operations")
            user.async_window = invoked, performed
        elif kind == _ROLE_ITEM:
            user.roles.append(_role(data, start, stop))
        elif kind == _IDENTITY_ITEM:
            user.identity = _identity(data, start, stop)
    return user


def _role(data: bytes, at: int, end: int) -> Role:
    (length,) = _fields(_U16, data, at, end, "role selection")
    roles = at + 2 + length
    if roles + 2 > end:
        raise _invalid(f"The role selection at byte {at} of the PDU is cut short.")
    return Role(plain(data[at + 2 : roles]), scu=data[roles] != 0, scp=data[roles + 1] != 0)


def _identity(data: bytes, at: int, end: int) -> UserIdentity:
    """Return what kind of identity was sent, having checked that its two fields are whole."""
    field = at + 2
    for name in ("first", "second"):
        (length,) = _fields(_U16, data, field, end, "user identity")
        field += 2 + length
        if field > end:
            raise _invalid(f"The {name} field of the user identity is cut short.")
    return UserIdentity(kind=data[at], response_wanted=data[at + 1] != 0)


def _fields(layout: struct.Struct, data: bytes, at: int, end: int, name: str) -> tuple[int, ...]:
    if end - at < layout.size:
        raise _invalid(f"The {name} item at byte {at} of the PDU is cut short.")
    fields: tuple[int, ...] = layout.unpack_from(data, at)
    return fields


def _only_one(earlier: object, name: str) -> None:
    if earlier is not None:
        raise PduError(UNEXPECTED_PARAMETER, f"There is more than one {name}.")


def _invalid(what: str) -> PduError:
    return PduError(INVALID_PARAMETER, what)


# -- encoding -------------------------------------------------------------------------------------


def encode_associate_request(
    *,
    called_ae: str,
    calling_ae: str,
    contexts: Sequence[ProposedContext],
    max_length: int,
    roles: Sequence[Role] = (),
    implementation_class_uid: str,
    implementation_version: str,
) -> bytes:
    """Return the whole A-ASSOCIATE-RQ PDU.

    Args:
        called_ae: At most 16 ASCII characters.
        calling_ae: Likewise.
        contexts: What to propose.
        max_length: Longest P-DATA-TF that we take, bytes without the PDU header; 0 is no limit.
        roles: Role selections to propose.
        implementation_class_uid: Ours.
        implementation_version: Ours, 1 to 16 characters.

    Raises:
        ValueError: An AE title is too long or not ASCII.
    """
    titles = _ae_field(called_ae) + _ae_field(calling_ae)
    proposed = [
        _item(
            _CONTEXT_ITEM,
            bytes((context.id, 0, 0, 0))
            + _uid_item(_ABSTRACT_SYNTAX_ITEM, context.abstract_syntax)
            + b"".join(
                _uid_item(_TRANSFER_SYNTAX_ITEM, syntax) for syntax in context.transfer_syntaxes
            ),
        )
        for context in contexts
    ]
    user = [
        _item(_MAX_LENGTH_ITEM, _U32.pack(max_length)),
        _uid_item(_IMPLEMENTATION_CLASS_ITEM, implementation_class_uid),
        *map(_role_item, roles),
        _uid_item(_IMPLEMENTATION_VERSION_ITEM, implementation_version),
    ]
    return _associate(ASSOCIATE_RQ, titles.ljust(TITLES_BYTES, b"\0"), proposed, user)


def encode_associate_accept(
    request: AssociateRequest,
    contexts: Sequence[AnsweredContext],
    *,
    max_length: int,
    roles: Sequence[Role] = (),
    implementation_class_uid: str,
    implementation_version: str,
) -> bytes:
    """Return the whole A-ASSOCIATE-AC PDU.

    One operation at a time is answered where more were proposed: silence is taken as consent to
    any number by some requestors. A user identity is acknowledged where the requestor wants that
    of a name, which tells it that the association stands, not that a passcode was looked at.

    Args:
        request: What is answered.
        contexts: One answer to each proposed context.
        max_length: Longest P-DATA-TF that we take, bytes without the PDU header.
        roles: Answers to role selections.
        implementation_class_uid: Ours.
        implementation_version: Ours, 1 to 16 characters.
    """
    answered = [
        _item(
            _CONTEXT_ANSWER_ITEM,
            bytes((context.id, 0, context.result, 0))
            + _uid_item(_TRANSFER_SYNTAX_ITEM, context.transfer_syntax),
        )
        for context in contexts
    ]
    user = [
        _item(_MAX_LENGTH_ITEM, _U32.pack(max_length)),
        _uid_item(_IMPLEMENTATION_CLASS_ITEM, implementation_class_uid),
    ]
    if request.async_window is not None:
        user.append(_item(_WINDOW_ITEM, _WINDOW.pack(1, 1)))
    user.extend(map(_role_item, roles))
    user.append(_uid_item(_IMPLEMENTATION_VERSION_ITEM, implementation_version))
    identity = request.user_identity
    if identity is not None and identity.response_wanted and identity.kind in _USERNAME_KINDS:
        user.append(_item(_IDENTITY_ANSWER_ITEM, _U16.pack(0)))
    return _associate(ASSOCIATE_AC, request.titles, answered, user)


def encode_associate_reject(result: int, source: int, diagnostic: int) -> bytes:
    """Return the whole A-ASSOCIATE-RJ PDU (PS3.8 table 9-21)."""
    return PDU_HEADER.pack(ASSOCIATE_RJ, 4) + bytes((0, result, source, diagnostic))


def encode_abort(source: int, reason: int) -> bytes:
    """Return the whole A-ABORT PDU: source 0 is the user, 2 the provider (PS3.8 table 9-26)."""
    return PDU_HEADER.pack(ABORT, 4) + bytes((0, 0, source, reason))


RELEASE_RQ_PDU: Final = PDU_HEADER.pack(RELEASE_RQ, 4) + bytes(4)
RELEASE_RP_PDU: Final = PDU_HEADER.pack(RELEASE_RP, 4) + bytes(4)


def _associate(kind: int, titles: bytes, contexts: Iterable[bytes], user: Iterable[bytes]) -> bytes:
    body = b"".join(
        (
            _FIXED.pack(1, titles),
            _uid_item(_APPLICATION_CONTEXT_ITEM, APPLICATION_CONTEXT),
            *contexts,
            _item(_USER_INFORMATION_ITEM, b"".join(user)),
        )
    )
    return PDU_HEADER.pack(kind, len(body)) + body


def _ae_field(ae_title: str) -> bytes:
    field = ae_title.encode("ascii").ljust(_AE_BYTES)
    if len(field) > _AE_BYTES:
        raise ValueError(f"The AE title '{ae_title}' has more than {_AE_BYTES} characters.")
    return field


def _item(kind: int, content: bytes) -> bytes:
    return _ITEM.pack(kind, len(content)) + content


def _uid_item(kind: int, value: str) -> bytes:
    return _item(kind, value.encode("ascii"))


def _role_item(role: Role) -> bytes:
    sop_class = role.sop_class.encode("ascii")
    return _item(_ROLE_ITEM, _U16.pack(len(sop_class)) + sop_class + bytes((role.scu, role.scp)))
