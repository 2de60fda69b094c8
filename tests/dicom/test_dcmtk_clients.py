"""DCMTK's own senders, in every way that modalities use: what they send is kept as they sent it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import peers
import pytest
from made_objects import BIG, EXPLICIT, IMPLICIT, made_ct, saved
from pydicom import Dataset, dcmread
from receiving_node import Node, until
from scu_client import associate

from storage.associations import AssociationOutcome

pytestmark = pytest.mark.flow

JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
JPEG_LS = "1.2.840.10008.1.2.4.80"
RLE = "1.2.840.10008.1.2.5"
CALL = ("-aet", "SCANNER", "-aec", "LIMNER", "127.0.0.1")


def images(folder: Path, count: int = 4) -> list[Path]:
    """Return images whose pixels have some structure, larger than a PDU of 16 KiB."""
    folder.mkdir(exist_ok=True)
    files = []
    for number in range(1, count + 1):
        image = made_ct(number, size=256)
        image.PixelData = b"".join(
            ((row * column // 16 + number) % 4096).to_bytes(2, "little")
            for row in range(256)
            for column in range(256)
        )
        files.append(saved(image, folder / f"{number}.dcm"))
    return files


def converted(files: Sequence[Path], tool: Sequence[str]) -> list[Path]:
    """Return the files as one of DCMTK's tools writes them."""
    made = []
    for path in files:
        target = path.with_name(f"{tool[0]}-{path.name}")
        done = peers.dcmtk(tool[0], *tool[1:], path, target)
        assert done.returncode == 0, done.stdout
        made.append(target)
    return made


def content(path: Path) -> Dataset:
    """Return a data set without what writers may add or leave out."""
    dataset = dcmread(path)
    return Dataset({tag: dataset[tag] for tag in dataset.keys() if tag.element != 0})  # noqa: SIM118


def assert_kept(node: Node, files: Sequence[Path], syntax: str, tmp_path: Path) -> None:
    rows = {row.sop_uid: row for row in node.instances()}
    assert {row.transfer_syntax for row in rows.values()} == {syntax}
    sent = {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in files}
    assert rows.keys() == sent.keys()
    for uid, path in sent.items():
        kept = tmp_path / "kept.dcm"
        kept.write_bytes(node.store.read(rows[uid].place))
        assert content(kept) == content(path)


@pytest.mark.parametrize(
    ("tool", "options", "syntax"),
    [
        pytest.param((), (), EXPLICIT, id="as it comes"),
        pytest.param((), ("-pdu", "16384", "--max-send-pdu", "16384"), EXPLICIT, id="16 KiB PDUs"),
        pytest.param((), ("-xi",), IMPLICIT, id="implicit"),
        pytest.param(("dcmconv", "+tb"), ("-xb", "-R"), BIG, id="big endian"),
        pytest.param(("dcmcjpeg", "+e1"), ("-xs", "-R"), JPEG_LOSSLESS, id="JPEG lossless"),
        pytest.param(("dcmcjpls",), ("-xt", "-R"), JPEG_LS, id="JPEG-LS"),
        pytest.param(("dcmcrle",), ("-xr", "-R"), RLE, id="RLE"),
    ],
)
def test_storescu_sends_several_images_in_one_association(
    node: Node, tmp_path: Path, tool: Sequence[str], options: Sequence[str], syntax: str
) -> None:
    files = images(tmp_path / "sent")
    if tool:
        files = converted(files, tool)

    sent = peers.dcmtk("storescu", *options, *CALL, str(node.port), *files)

    assert sent.returncode == 0, sent.stdout
    assert_kept(node, files, syntax, tmp_path)
    (association,) = node.ended_associations(1)
    assert (association.outcome, association.instances) == (AssociationOutcome.RELEASED, 4)
    assert association.software.startswith("OFFIS_DCMTK")


def test_storescu_with_an_association_for_each_image(node: Node, tmp_path: Path) -> None:
    files = images(tmp_path / "sent", count=6)

    for path in files:
        sent = peers.dcmtk("storescu", *CALL, str(node.port), path)
        assert sent.returncode == 0, sent.stdout

    assert_kept(node, files, EXPLICIT, tmp_path)
    associations = node.ended_associations(6)
    assert {(one.outcome, one.instances) for one in associations} == {
        (AssociationOutcome.RELEASED, 1)
    }
    assert len({row.study_id for row in node.instances()}) == 1


def test_a_storescu_that_knows_nothing_of_nodelay_is_served_all_the_same(
    node: Node, tmp_path: Path
) -> None:
    files = images(tmp_path / "sent")
    stock = {key: value for key, value in os.environ.items() if key != "TCP_NODELAY"}

    sent = subprocess.run(
        [peers.program("storescu"), *CALL, str(node.port), *files],
        env=stock,
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert sent.returncode == 0, sent.stderr
    assert_kept(node, files, EXPLICIT, tmp_path)


@pytest.mark.parametrize("way", ["-ma", "+ma"])
def test_dcmsend_sends_compressed_images_as_they_are_among_native_ones(
    node: Node, tmp_path: Path, way: str
) -> None:
    first, second, third, fourth = images(tmp_path / "sent")
    files = [
        first,
        *converted([second], ("dcmcjpeg", "+e1")),
        *converted([third], ("dcmcrle",)),
        *converted([fourth], ("dcmconv", "+ti")),
    ]

    sent = peers.dcmtk("dcmsend", "-dn", way, *CALL, str(node.port), *files)

    assert sent.returncode == 0, sent.stdout
    rows = sorted(node.instances(), key=lambda row: row.sop_uid)
    # It offers native syntaxes together and encodes in the one that we prefer.
    assert [row.transfer_syntax for row in rows] == [EXPLICIT, JPEG_LOSSLESS, RLE, EXPLICIT]
    for row, path in zip(rows, files, strict=True):
        kept = tmp_path / "kept.dcm"
        kept.write_bytes(node.store.read(row.place))
        assert content(kept) == content(path)


def test_what_storescu_sent_before_it_aborted_is_kept(node: Node, tmp_path: Path) -> None:
    files = images(tmp_path / "sent")

    peers.dcmtk("storescu", "--abort", *CALL, str(node.port), *files)

    assert_kept(node, files, EXPLICIT, tmp_path)
    (association,) = node.ended_associations(1)
    assert (association.outcome, association.instances) == (AssociationOutcome.ABORTED, 4)


def test_a_sender_that_releases_late_holds_up_nothing(node: Node, tmp_path: Path) -> None:
    late = associate(node)
    first, second = images(tmp_path / "sent", count=2)
    assert late.send_c_store(dcmread(first)).Status == 0

    until(lambda: len(node.instances()) == 1)  # its image has its rows while it is open
    sent = peers.dcmtk("storescu", *CALL, str(node.port), second)
    assert sent.returncode == 0, sent.stdout
    time.sleep(2)
    assert [one.outcome for one in node.associations()].count(AssociationOutcome.OPEN) == 1
    late.release()

    assert {one.outcome for one in node.ended_associations(2)} == {AssociationOutcome.RELEASED}
