"""Real files of many makers, in their own transfer syntax: kept byte for byte, or refused."""

# ruff: noqa: RUF001  foreign alphabets are among the subjects
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_objects import made_ct
from receiving_node import Node
from scu_client import send_raw, stored

from node.dicom.filemeta import read_file_meta
from node.dicom.header import HeaderError, walk_header
from node.dicom.storage_contexts import TRANSFER_SYNTAXES
from node.dicom.values import is_uid

# pydicom warns about UIDs of damaged files when they are put into command sets.
pytestmark = pytest.mark.filterwarnings("ignore:.*VR UI:UserWarning")

COLOUR_PALETTE = "1.2.840.10008.5.1.4.39.1"


def files_that_can_be_sent(folder: Path) -> list[tuple[Path, str, str, str, bytes]]:
    """Return (file, class, instance, syntax, data set) of those with both UIDs in their meta."""
    found = []
    for path in sorted(folder.rglob("*.dcm")):
        data = path.read_bytes()
        try:
            meta, start = read_file_meta(data)
        except HeaderError:
            continue
        if is_uid(meta.sop_uid) and is_uid(meta.sop_class):
            found.append((path, meta.sop_class, meta.sop_uid, meta.transfer_syntax, data[start:]))
    return found


def test_every_real_file_is_kept_unchanged_or_refused_with_a_reason(
    node: Node, shared_data: Callable[[str], Path]
) -> None:
    kept: dict[str, bytes] = {}
    refused: dict[str, str] = {}
    for path, sop_class, sop_uid, syntax, dataset in files_that_can_be_sent(shared_data("interop")):
        # Of deflated objects, and of colour palettes, no context is accepted.
        if syntax not in TRANSFER_SYNTAXES or sop_class == COLOUR_PALETTE or sop_uid in kept:
            continue
        answer = send_raw(node, dataset, sop_uid=sop_uid, sop_class=sop_class, syntax=syntax)
        if answer.Status == 0:
            kept[sop_uid] = dataset
        else:
            assert answer.Status in (0xA900, 0xC000), path.name
            refused[path.name] = str(answer.ErrorComment)

    rows = {row.sop_uid: row for row in node.instances()}
    assert set(rows) == set(kept)
    for uid, dataset in kept.items():
        assert node.dataset(rows[uid]) == dataset
    assert len(kept) > 40
    assert all(comment for comment in refused.values())
    assert stored(node, made_ct()) == [0]


def test_names_in_every_character_set_reach_the_rows(
    node: Node, shared_data: Callable[[str], Path]
) -> None:
    names = {}
    for path, _, _, syntax, dataset in files_that_can_be_sent(shared_data("interop")):
        if not path.name.startswith("chr"):
            continue
        try:
            facts = walk_header(dataset, syntax)
        except HeaderError:
            continue  # without a study: refused, as the test above says
        # Some of these files name another instance in their meta than in their data set.
        uids = {"sop_uid": facts.sop_uid, "sop_class": facts.sop_class}
        assert send_raw(node, dataset, **uids, syntax=syntax).Status == 0, path.name
        names[path.stem] = facts.patient_name

    assert names["chrGerm"] == "Äneas^Rüdiger"
    assert names["chrRuss"] == "Люкceмбypг"
    assert names["chrH31"] == "Yamada^Tarou=山田^太郎=やまだ^たろう"
    assert names["chrX1"] == "Wang^XiaoDong=王^小東"
