"""What a person at the keyboard is told of what was received, and may decide about it."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import pydicom
import pytest
from associating import closed, opened
from click.testing import CliRunner, Result
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from node.cli import cli
from node.dicom.filemeta import FileMeta, encode_file_meta
from node.errors import SetupError
from node.settings import load_settings
from storage import audit, callers, instances, studies
from storage.choosing import Choice
from storage.database import Engine, migrate, open_engine, reading, writing
from storage.instances import Difference, NewInstance
from storage.objects import ObjectStore, Place

STUDY = "1.2.840.99999.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
TOML = """
[storage]
reserve_mb = 1

[[peers]]
name = "ct1"
ae_title = "CT1"
may = ["echo", "store"]
"""


def dataset(number: int, patient: str = "P1", name: str = "Doe^Jane") -> Dataset:
    made = Dataset()
    made.SOPClassUID = CT
    made.SOPInstanceUID = f"{STUDY}.1.{number}"
    made.PatientName = name
    made.PatientID = patient
    made.StudyInstanceUID = STUDY
    made.SeriesInstanceUID = f"{STUDY}.1"
    made.Modality = "CT"
    return made


def encoded(made: Dataset) -> bytes:
    out = io.BytesIO()
    pydicom.dcmwrite(out, made, implicit_vr=False, little_endian=True)
    return out.getvalue()


def stored(store: ObjectStore, made: Dataset, *, inside: bool = False) -> Place:
    """Store a data set as a file of its own, or between others in a larger object."""
    meta = FileMeta(
        sop_class=CT,
        sop_uid=made.SOPInstanceUID,
        transfer_syntax=ExplicitVRLittleEndian,
        source_ae="CT1",
    )
    whole = encode_file_meta(meta) + encoded(made)
    if not inside:
        return store.put(whole, kind="instances")
    place = store.put(b"before" + whole + b"after", kind="instances")
    return Place(place.name, 6, len(whole))


def new(store: ObjectStore, made: Dataset, association: int, **changes: object) -> NewInstance:
    said = NewInstance(
        study_uid=STUDY,
        series_uid=made.SeriesInstanceUID,
        sop_uid=made.SOPInstanceUID,
        sop_class=CT,
        transfer_syntax=ExplicitVRLittleEndian,
        place=stored(store, made, inside=bool(made.get("InstanceNumber") == 2)),
        checksum=hashlib.md5(encoded(made)).hexdigest(),  # noqa: S324
        patient_id=made.PatientID,
        patient_name=str(made.PatientName),
        modality="CT",
        sender="ct1",
        association_id=association,
    )
    return replace(said, **changes)  # type: ignore[arg-type]


def fill(folder: Path) -> None:
    """A node with what the examples of the help name: association 12, conflict 3, caller 3."""
    (folder / "limner.toml").write_text(TOML, encoding="utf-8")
    settings = load_settings(folder / "limner.toml")
    engine = open_engine(settings.storage.database_url)
    migrate(engine)
    store = ObjectStore(settings.storage.objects)
    context = {"id": 1, "class": CT, "syntax": ExplicitVRLittleEndian, "result": 0}
    refused = {"id": 3, "class": "1.2.840.10008.5.1.4.1.1.88.11", "syntax": "", "result": 3}
    with writing(engine) as db:
        for number in range(1, 13):
            made = opened(
                db,
                calling_ae="CT1",
                called_ae="LIMNER",
                address="192.0.2.7",
                peer="ct1",
                token=f"token{number}",
                software="SCANNER_1",
                secure=number == 12,
                contexts=[context, refused],
            )
            if number < 12:
                closed(db, made, bytes=1_000_000)
        for number in (1, 2, 3):
            sent = dataset(number)
            sent.InstanceNumber = number
            instances.record_instance(db, new(store, sent, made))
        for number in (1, 2, 3):
            other = dataset(number, patient="P2", name="Roe^Max")
            instances.record_instance(db, new(store, other, made, difference=Difference.HEADER))
        for number in (1, 2, 3):
            callers.refused(
                db,
                calling_ae=f"CT{number}" if number < 3 else "CT2",
                called_ae="LIMNER",
                address=f"192.0.2.{number}",
                reason="No peer has this AE title.",
                wanted=[CT],
            )
    engine.dispose()


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("received") / "node1"
    folder.mkdir()
    fill(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, made_once: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = Path(shutil.copytree(made_once, tmp_path / "node1"))
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def engine(folder: Path) -> Engine:
    return open_engine(load_settings(folder / "limner.toml").storage.database_url)


Limner = Callable[..., Result]


@pytest.fixture
def limner(folder: Path) -> Limner:
    """Call the command line in this process, in the node's folder."""

    def call(*words: str) -> Result:
        named = {"LIMNER_CONFIG": str(folder / "limner.toml")}
        return CliRunner().invoke(cli, list(words), env=named)

    return call


def said(result: Result) -> str:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output


COMMANDS = ["instances", "export", "associations", "conflicts", "conflicts keep", "studies"]
COMMANDS += ["study", "peers refused", "peers accept"]


def examples() -> list[str]:
    """Every example in the help of the commands of this file."""
    found = []
    for name in COMMANDS:
        command: click.Command | None = cli
        for word in name.split():
            assert isinstance(command, click.Group)
            command = command.get_command(click.Context(command), word)
        assert command is not None
        lines = (command.help or "").splitlines()
        found += [line.strip() for line in lines if line.strip().startswith("limner ")]
    return sorted(set(found))


@pytest.mark.parametrize("example", examples())
def test_every_example_of_the_help_does_what_it_says(limner: Limner, example: str) -> None:
    result = limner(*example.split()[1:])
    assert result.exit_code == 0, (result.output, result.exception)


def test_instances_are_listed_with_their_places_and_digests(limner: Limner, engine: Engine) -> None:
    """A digest that is missing is computed from the bytes, shown and kept."""
    assert "sha256" not in said(limner("instances"))
    rows = json.loads(said(limner("instances", "--digest", "--json")))["instances"]
    assert [row["sop_uid"] for row in rows] == [f"{STUDY}.1.{n}" for n in (1, 2, 3)]
    assert rows[1]["offset"] == 6
    for number, row in enumerate(rows, start=1):
        sent = dataset(number)
        sent.InstanceNumber = number
        assert row["digest"] == hashlib.sha256(encoded(sent)).hexdigest()
    with reading(engine) as db:
        assert [row.digest for row in instances.list_instances(db)] == [r["digest"] for r in rows]
    assert rows[0]["digest"] in said(limner("instances", "--digest")).replace("\n", "")
    nobody = limner("instances", "--series", "1.2.3")
    assert said(nobody) == "No instances.\n"


def test_export_writes_files_that_any_dicom_tool_reads(limner: Limner, folder: Path) -> None:
    out = folder / "out"
    answer = limner("export", STUDY, "--out", str(out))
    assert "3 instances and 0 results" in said(answer)
    read = [pydicom.dcmread(path) for path in sorted(out.iterdir())]
    assert [one.SOPInstanceUID for one in read] == [f"{STUDY}.1.{n}" for n in (1, 2, 3)]
    assert {one.PatientID for one in read} == {"P1"}
    assert all(one.file_meta.SourceApplicationEntityTitle == "CT1" for one in read)


def test_export_never_mixes_with_what_is_there(limner: Limner, folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "mine.txt").write_text("mine")
    answer = limner("export", STUDY, "--out", "out")
    assert isinstance(answer.exception, SetupError)
    assert "not empty" in str(answer.exception)
    assert [path.name for path in (folder / "out").iterdir()] == ["mine.txt"]


def test_a_live_association_counts_what_has_come_so_far(limner: Limner) -> None:
    [live] = json.loads(said(limner("associations", "--open", "--json")))["associations"]
    assert (live["id"], live["outcome"], live["instances"]) == (12, "open", 3)
    assert live["bytes"] > 0
    assert len(json.loads(said(limner("associations", "--json")))["associations"]) == 12
    told = said(limner("associations", "12"))
    assert "CT1 at 192.0.2.7 called LIMNER (TLS)" in told
    assert "CT Image Storage" in told and "accepted" in told
    assert "Basic Text SR Storage" in told and "the class is not taken" in told
    assert "3 instances" in told and "(so far)" in told


def test_associations_are_found_by_peer_and_by_what_they_brought(limner: Limner) -> None:
    assert "No association fits." in said(limner("associations", "--peer", "mr"))
    for name in ("ct1", "CT1"):
        assert "192.0.2.7" in said(limner("associations", "--peer", name))
    rows = json.loads(said(limner("associations", "--study", STUDY, "--json")))["associations"]
    assert [row["id"] for row in rows] == [12]
    assert isinstance(limner("associations", "99").exception, SetupError)


def test_conflicts_are_flagged_on_the_study_and_in_its_story(limner: Limner) -> None:
    assert "3, 3 open" in said(limner("studies"))
    found = json.loads(said(limner("studies", "--json")))
    assert found["conflicts"][STUDY] == {"number": 3, "open": 3}
    told = said(limner("study", STUDY))
    assert "conflict 1 on" in told and "patient ID differs" in told
    assert "nobody has decided yet" in told
    listed = said(limner("conflicts", "--study", STUDY))
    assert listed.count("identity") == 3 and "nobody yet" in listed


def test_a_person_decides_one_conflict_or_all_of_a_study_and_it_is_audited(
    limner: Limner, engine: Engine
) -> None:
    assert "Decided: 1." in said(limner("conflicts", "keep", "1", "first"))
    answer = said(limner("conflicts", "keep", STUDY, "last"))
    assert "Decided: 2. Instances for which other bytes count now: 2." in answer
    with reading(engine) as db:
        rows = audit.list_audit(db)
        study = studies.find_study(db, STUDY)
    assert [(row.act, row.target) for row in rows[:2]] == [
        ("keep last", f"study {STUDY}"),
        ("keep first", "conflict 1"),
    ]
    assert all("(command line)" in row.who for row in rows[:2])
    # One image stayed the first patient's, two are the other's: a person said the last counts.
    assert study is not None and study.patient_id == "P2"
    assert "1 instances are of another patient" in said(limner("study", STUDY))
    for nothing in ("99", "x"):
        assert isinstance(limner("conflicts", "keep", nothing, "last").exception, SetupError)
    assert limner("conflicts", "keep", "1", Choice.FIRST + "x").exit_code == 2


def test_who_looks_for_an_association_is_told_of_callers_that_were_rejected(
    limner: Limner,
) -> None:
    told = said(limner("associations"))
    assert "Callers rejected in the last day: CT2 (192.0.2.3), CT2 (192.0.2.2), CT1" in told


def test_refused_callers_are_listed_with_what_they_wanted(limner: Limner) -> None:
    told = said(limner("peers", "refused"))
    assert "CT Image Storage" in told and "No peer has this AE title." in told
    rows = json.loads(said(limner("peers", "refused", "--json")))["callers"]
    assert [row["calling_ae"] for row in rows] == ["CT2", "CT2", "CT1"]


def test_a_refused_caller_is_accepted_with_one_command(
    limner: Limner, engine: Engine, folder: Path
) -> None:
    assert "limner.d" in said(limner("peers", "accept", "3", "--name", "ct2"))
    [peer] = [one for one in load_settings(folder / "limner.toml").peers if one.name == "ct2"]
    assert (peer.ae_title, peer.addresses) == ("CT2", ("192.0.2.3",))
    assert peer.may == {"store", "echo"}
    with reading(engine) as db:
        assert [one.id for one in callers.list_callers(db)] == [2, 1]
        [row] = audit.list_audit(db, target="peer ct2")
    assert row.act == "accept"
    assert row.detail == "AE title CT2, from 192.0.2.3, may store, echo"


def test_any_address_must_be_said(limner: Limner, folder: Path) -> None:
    said(limner("peers", "accept", "MR1", "--name", "mr1", "--may", "store", "--address", "any"))
    peer = load_settings(folder / "limner.toml").peer("mr1")
    assert peer is not None and peer.addresses == () and peer.may == {"store"}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("CT2", "--name", "ct2"), "caller-ambiguous"),
        (("NOBODY", "--name", "x"), "caller-unknown"),
        (("99", "--name", "x"), "caller-unknown"),
        (("3", "--name", "../x"), "peer-name"),
        (("3", "--name", "ct1"), "peer-known"),
        (("1", "--name", "other"), "peer-title-known"),
        (("3", "--name", "ct2", "--may", "everything"), "settings-invalid"),
        (("3", "--name", "ct2", "--address", "next door"), "settings-invalid"),
    ],
)
def test_what_would_make_the_configuration_wrong_is_refused_and_changes_nothing(
    limner: Limner, engine: Engine, folder: Path, words: tuple[str, ...], code: str
) -> None:
    before = load_settings(folder / "limner.toml")
    answer = limner("peers", "accept", *words)
    assert isinstance(answer.exception, SetupError)
    assert answer.exception.fault.code == code
    assert load_settings(folder / "limner.toml") == before
    assert list(folder.glob("limner.d/*")) == []
    with reading(engine) as db:
        assert len(callers.list_callers(db)) == 3
        assert audit.list_audit(db, target="peer ct2") == []


def test_a_peers_file_is_never_overwritten(limner: Limner, folder: Path) -> None:
    (folder / "limner.d").mkdir()
    mine = folder / "limner.d" / "peer-ct2.toml"
    mine.write_text('[[peers]]\nname = "mine"\nae_title = "MINE"\n')
    answer = limner("peers", "accept", "3", "--name", "ct2")
    assert isinstance(answer.exception, SetupError)
    assert "mine" in mine.read_text()


def test_status_says_that_receiving_is_paused_below_the_reserve(
    limner: Limner, folder: Path
) -> None:
    config = folder / "limner.toml"
    config.write_text(config.read_text().replace("reserve_mb = 1", "reserve_mb = 10_000_000"))
    answer = limner("status")
    assert answer.exit_code == 1
    assert "Receiving is paused: the disk is below the reserve" in said(answer)
    assert json.loads(limner("status", "--json").output)["receiving_paused"] is True
