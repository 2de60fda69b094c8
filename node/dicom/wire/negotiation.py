"""Which presentation contexts of a request are accepted, in which transfer syntax and role.

A pure decision: a request and an offer give exactly one answer per proposed context. What a peer
may not ask for is rejected here, before anything is sent in that context:

- 3 (abstract syntax not supported): a class that this node does not serve, or none at all.
- 1 (user rejection): a class that it serves, but not for this peer, or in no proposed role.
- 4 (transfer syntaxes not supported): none of the proposed syntaxes is taken.

A class counts as storage if it is in the offer's list; where unknown ones are allowed, also if it
is a UID outside the Standard's own root. The Standard's other services are therefore never taken
for storage, whatever their names say.

Source: DICOM PS3.8 section 9.3.3 and table 9-18 (results), PS3.7 D.3.3.4 (roles), PS3.4 annex J.3.3
(the reporter of a commitment takes the SCP role on an association that it opens).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from node.dicom.wire.pdu import AnsweredContext, AssociateRequest, ProposedContext, Role

VERIFICATION: Final = "1.2.840.10008.1.1"
STORAGE_COMMITMENT: Final = "1.2.840.10008.1.20.1"
PERFORMED_PROCEDURE_STEP: Final = "1.2.840.10008.3.1.2.3.3"
INSTANCE_AVAILABILITY: Final = "1.2.840.10008.5.1.4.33"

EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"
IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"

MESSAGE_SYNTAXES: Final[tuple[str, ...]] = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
"""What the data sets of services other than storage are taken in. Explicit first: it says which VR
an element has, so that a message can be read without a dictionary of private elements."""

ACCEPTED: Final = 0
USER_REJECTION: Final = 1
NO_REASON: Final = 2
ABSTRACT_SYNTAX_NOT_SUPPORTED: Final = 3
TRANSFER_SYNTAXES_NOT_SUPPORTED: Final = 4

AS_SCU: Final[Mapping[str, str]] = {
    VERIFICATION: "echo",
    STORAGE_COMMITMENT: "ask-commitment",
    PERFORMED_PROCEDURE_STEP: "mpps",
    INSTANCE_AVAILABILITY: "ian",
}
"""SOP class -> the service that a peer needs to act as its SCU."""

AS_SCP: Final[Mapping[str, str]] = {STORAGE_COMMITMENT: "report-commitment"}
"""SOP class -> the service that a peer needs to act as its SCP."""

STORE: Final = "store"

_STANDARD_ROOT: Final = "1.2.840.10008."
_UID_MAX: Final = 64
_UID_SIGNS: Final = frozenset("0123456789.")


@dataclass(frozen=True, slots=True)
class Offer:
    """What one peer may have on one association.

    Attributes:
        services: What it may ask for: `STORE` and the values of `AS_SCU` and `AS_SCP`.
        storage_classes: SOP classes that are taken for storage.
        transfer_syntaxes: What is kept, in our order of preference.
        accept_unknown: Whether classes outside the Standard's root are taken for storage too.
    """

    services: frozenset[str]
    storage_classes: frozenset[str]
    transfer_syntaxes: tuple[str, ...]
    accept_unknown: bool


def negotiate(
    request: AssociateRequest, offer: Offer
) -> tuple[tuple[AnsweredContext, ...], tuple[Role, ...]]:
    """Return the answer to each proposed context, and to the role selections of accepted ones."""
    proposed_roles: dict[str, Role] = {}
    for role in request.roles:
        # Neither role is no proposal; of two for one class the first counts.
        if role.scu or role.scp:
            proposed_roles.setdefault(role.sop_class, role)
    answers = []
    roles: dict[str, Role] = {}
    for context in request.contexts:
        uid = context.abstract_syntax
        proposed_role = proposed_roles.get(uid)
        result, syntax = _judge(context, proposed_role, offer)
        answers.append(AnsweredContext(context.id, result, uid, syntax))
        if result == ACCEPTED and proposed_role is not None:
            roles[uid] = _granted(proposed_role, offer)
    return tuple(answers), tuple(roles.values())


def _judge(context: ProposedContext, role: Role | None, offer: Offer) -> tuple[int, str]:
    """Return result and transfer syntax; a rejection names one too, which nobody looks at."""
    uid = context.abstract_syntax
    if uid in AS_SCU:
        syntaxes, permitted = MESSAGE_SYNTAXES, _may_use(uid, offer)
    elif _is_storage(uid, offer):
        syntaxes, permitted = offer.transfer_syntaxes, STORE in offer.services
    else:
        return ABSTRACT_SYNTAX_NOT_SUPPORTED, IMPLICIT_LITTLE
    if permitted and role is not None:
        granted = _granted(role, offer)
        permitted = granted.scu or granted.scp
    if not permitted:
        return USER_REJECTION, IMPLICIT_LITTLE
    for syntax in syntaxes:
        if syntax in context.transfer_syntaxes:
            return ACCEPTED, syntax
    return TRANSFER_SYNTAXES_NOT_SUPPORTED, IMPLICIT_LITTLE


def _may_use(uid: str, offer: Offer) -> bool:
    """Return whether the peer may be SCU or SCP of a service.

    Who proposes no role is taken as either: archives report commitments without proposing one.
    """
    return AS_SCU[uid] in offer.services or AS_SCP.get(uid) in offer.services


def _granted(role: Role, offer: Offer) -> Role:
    """Return the part of a proposed role that the peer may have."""
    return Role(
        role.sop_class,
        scu=role.scu and AS_SCU.get(role.sop_class, STORE) in offer.services,
        scp=role.scp and AS_SCP.get(role.sop_class) in offer.services,
    )


def _is_storage(uid: str, offer: Offer) -> bool:
    if uid in offer.storage_classes:
        return True
    return (
        offer.accept_unknown
        and 0 < len(uid) <= _UID_MAX
        and set(uid) <= _UID_SIGNS
        and not uid.startswith(_STANDARD_ROOT)
    )
