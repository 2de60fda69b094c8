"""Who a phantom says it is: identities and character sets as hospitals really write them.

Every name begins with PHANTOM^<seed> in its alphabetic group, so that nobody takes a phantom for
a patient whatever else its header says. All of them are valid DICOM (PS3.5 6.1, 6.2); what is
invalid belongs into `damage`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from node.phantom.uids import derive_uid


class HeaderStyle(StrEnum):
    """How a header is written; each style is one that archives send."""

    PLAIN = "plain"  # no character set, everything filled in
    LATIN_1 = "latin-1"  # ISO_IR 100, umlauts and accents
    UTF_8 = "utf-8"  # ISO_IR 192, several alphabets in one name
    JAPANESE = "japanese"  # \ISO 2022 IR 87: three groups, escape sequences
    KOREAN = "korean"  # \ISO 2022 IR 149: three groups, escape sequences
    CHINESE = "chinese"  # GB18030
    ODD_NAME = "odd-name"  # many components, prefix and suffix, apostrophe and hyphen
    LONG_IDS = "long-ids"  # every identifier as long as its value representation lets it be
    TRAILING_BLANKS = "trailing-blanks"  # blanks behind name, ID and accession number
    SPARSE = "sparse"  # type 2 attributes present and empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The identity and the words of a study.

    Attributes:
        character_set: Specific Character Set (0008,0005); empty for none.
        patient_name: Patient's Name (0010,0010).
        patient_id: Patient ID (0010,0020).
        issuer: Issuer of Patient ID (0010,0021); left out where empty.
        birth_date: Patient's Birth Date (0010,0030).
        sex: Patient's Sex (0010,0040).
        age: Patient's Age (0010,1010); left out where empty.
        accession: Accession Number (0008,0050).
        study_id: Study ID (0020,0010).
        study_description: Study Description (0008,1030); left out where empty.
        referring: Referring Physician's Name (0008,0090).
        institution: Institution Name (0008,0080); left out where empty.
    """

    character_set: tuple[str, ...] = ()
    patient_name: str
    patient_id: str
    issuer: str = ""
    birth_date: str = "19600229"
    sex: str = "O"
    age: str = "065Y"
    accession: str
    study_id: str = "1"
    study_description: str = "PHANTOM STUDY"
    referring: str = "PHANTOM^REFERRING"
    institution: str = "LIMNER PHANTOM HOSPITAL"


_CHARACTER_SETS: Final[dict[HeaderStyle, tuple[str, ...]]] = {
    HeaderStyle.LATIN_1: ("ISO_IR 100",),
    HeaderStyle.UTF_8: ("ISO_IR 192",),
    HeaderStyle.JAPANESE: ("", "ISO 2022 IR 87"),
    HeaderStyle.KOREAN: ("", "ISO 2022 IR 149"),
    HeaderStyle.CHINESE: ("GB18030",),
}

_CHANGES: Final[dict[HeaderStyle, dict[str, str]]] = {
    HeaderStyle.PLAIN: {"issuer": "LIMNER"},
    HeaderStyle.LATIN_1: {
        "patient_name": "{name}^Jürgen Núñez",
        "study_description": "Thorax für die Prüfung",
        "referring": "Åström^Zoë",
        "institution": "Hôpital des fantômes",
    },
    HeaderStyle.UTF_8: {
        "patient_name": "{name}^Žofie Łukasz=Ιωάννα^Жанна",
        "study_description": "Θώρακας, грудь, 胸部",
        "referring": "Đorđe^Ștefan",
    },
    HeaderStyle.JAPANESE: {
        "patient_name": "{name}=山田^太郎=やまだ^たろう",
        "study_description": "胸部",
    },
    HeaderStyle.KOREAN: {"patient_name": "{name}=洪^吉洞=홍^길동"},
    HeaderStyle.CHINESE: {
        "patient_name": "{name}=王^小东",
        "study_description": "胸部平扫",
    },
    HeaderStyle.ODD_NAME: {
        "patient_name": "{name}^O'Neill-van der Berg^Prof. Dr.^III",
        "patient_id": "{patient_id}/b (2)",
        "issuer": "Ward & Sons, 3rd",
        "study_id": "A-1.2",
        "sex": "F",
    },
    HeaderStyle.LONG_IDS: {
        "patient_name": "{name:L<64}",
        "patient_id": "{patient_id:0<64}",
        "issuer": "ISSUER".ljust(64, "I"),
        "accession": "{accession:7<16}",
        "study_id": "S".ljust(16, "1"),
        "study_description": "D".ljust(64, "d"),
    },
    HeaderStyle.TRAILING_BLANKS: {
        "patient_name": "{name}^BLANK ^  ",
        "patient_id": "{patient_id}  ",
        "accession": "{accession}  ",
        "study_description": "PHANTOM STUDY  ",
    },
    HeaderStyle.SPARSE: {
        "birth_date": "",
        "sex": "",
        "age": "",
        "accession": "",
        "study_id": "",
        "study_description": "",
        "referring": "",
        "institution": "",
    },
}
"""What each style writes differently; braces are filled from the seed's plain header."""


def make_header(seed: int, style: HeaderStyle = HeaderStyle.PLAIN) -> Header:
    """Return the header that `seed` has in `style`; the same every time."""
    number = int(derive_uid("header", seed)[5:]) % 10**8
    plain = {
        "patient_name": f"PHANTOM^{seed}",
        "patient_id": f"PHANTOM-{seed}",
        "accession": f"A{number:08d}",
    }
    changed = {
        keyword: text.format(name=plain["patient_name"], **plain)
        for keyword, text in _CHANGES[style].items()
    }
    return Header(character_set=_CHARACTER_SETS.get(style, ()), **{**plain, **changed})


def drawn_style(seed: int) -> HeaderStyle:
    """Return one of the styles, evenly spread over seeds."""
    styles = tuple(HeaderStyle)
    return styles[int(derive_uid("style", seed)[5:]) % len(styles)]
