"""Real peers and real data: DCMTK sends, Orthanc receives, dciodvfy and dcmqi judge.

The real chest CT goes through the bundled lung model and through a third party's network that is
dropped in as a site's own model; phantom MR and multi-frame series go through a second model.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from peers import Orthanc, dcmtk, running_orthanc
from results.judges import dcentvfy, dciodvfy, dcmqi_labels
from running_node import RunningNode, made_node, peers_and_routes

from node.dicom.requestor import Target
from node.imaging.read import read_folder
from node.imaging.series import find_volumes
from node.imaging.values import Refusal, Volume
from node.imaging.volume import load_volume
from node.models.imports.bring import import_model
from node.phantom.scanner import send_study
from node.phantom.study import Form, Part, Profile, make_study, write_study
from node.results.reader import read_segmentation

pytestmark = pytest.mark.flow

CARDS = Path(__file__).parents[1] / "data" / "models"

SITE_ROUTE = """
[[routes]]
name = "site"
model = "site-lung"
send_to = ["pacs"]
[routes.when]
Modality = "CT"
"""


@contextmanager
def node_and_orthanc(
    folder: Path,
    ports: Callable[[], int],
    *,
    model: str,
    when: str,
    more: str = "",
    models: tuple[Path, ...] = (),
) -> Iterator[tuple[RunningNode, Orthanc]]:
    listen_port = ports()
    modalities = {"limner": ("LIMNER", listen_port)}
    with running_orthanc(folder / "orthanc", modalities=modalities) as orthanc:
        tables = peers_and_routes(pacs_port=orthanc.port, model=model, when=when, pacs_ae="ORTHANC")
        with made_node(
            folder / "node",
            ports,
            tables + more,
            models=models,
            lease_s=20.0,
            quiet_s=2.0,
            listen_port=listen_port,
        ) as node:
            node.start()
            yield node, orthanc


def loaded(folder: Path) -> Volume:
    (plan,) = [p for p in find_volumes(read_folder(folder)) if not isinstance(p, Refusal)]
    volume = load_volume(plan)
    assert not isinstance(volume, Refusal)
    return volume


def judged(seg: Path, volume: Volume, sources: list[Path], folder: Path) -> np.ndarray:
    """Return the labels of a SEG after every judge agreed on it."""
    assert dciodvfy(seg) == []
    assert dcentvfy([seg, *sources]) == []
    labels = read_segmentation(seg, volume)
    seen, said = dcmqi_labels(seg, volume, folder)
    assert "using it" not in said, "dcmqi found no SpacingBetweenSlices"
    assert np.array_equal(labels, seen)
    referenced = {
        item.ReferencedSOPInstanceUID
        for item in pydicom.dcmread(seg).ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert referenced == {pydicom.dcmread(p, specific_tags=[]).file_meta.MediaStorageSOPInstanceUID
                          for p in sources}  # fmt: skip
    return labels


def from_orthanc(orthanc: Orthanc, sop_uid: str, path: Path) -> Path:
    (found,) = orthanc.find(sop_uid)
    path.write_bytes(orthanc.read(f"/instances/{found}/file"))
    return path


def dice(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(2 * np.count_nonzero(found & wanted) / (found.sum() + wanted.sum()))


@pytest.mark.timeout(900)
def test_a_real_chest_ct_sent_by_dcmtk_arrives_in_orthanc_as_two_models_segs(
    tmp_path: Path, free_port: Callable[[], int], shared_data: Callable[[str], Path]
) -> None:
    with tarfile.open(shared_data("ct-thorax/dicom.tar.xz")) as archive:
        archive.extractall(tmp_path / "ct", filter="data")
    folder = tmp_path / "ct" / "dicom"
    site = tmp_path / "models" / "site-lung"
    site.parent.mkdir()
    import_model(shared_data("weights/lung-ct-unet/UNet_wdk24.pt"), site)
    shutil.copy(CARDS / "site-lung" / "card.toml", site / "card.toml")
    with node_and_orthanc(
        tmp_path,
        free_port,
        model="lung-ct",
        when='Modality = "CT"\nSliceThickness = { at_most = 5 }',
        more=SITE_ROUTE,
        models=(site.parent,),
    ) as (node, orthanc):
        port = str(node.settings.listener.port)
        sent = dcmtk(
            "dcmsend", "-aet", "SCANNER", "-aec", "LIMNER", "+sd", "127.0.0.1", port, str(folder)
        )
        assert sent.returncode == 0, sent.stdout
        uid = str(pydicom.dcmread(next(folder.iterdir())).StudyInstanceUID)
        told = node.wait_done(uid, timeout_s=600)
        assert told.study.sentence == "Results committed by pacs."
        assert told.instance_count == 99
        results = {r.result.model: r.result for job in told.jobs for r in job.results}
        assert set(results) == {"lung-ct", "site-lung"}
        volume = loaded(folder)
        sources = sorted(folder.iterdir())
        truth = np.asarray(
            nibabel.load(shared_data("ct-thorax/lung-mask.nii.gz")).dataobj
        ).T  # (column, row, slice) to (slice, row, column); slices ascend in z in both
        labels = {
            name: judged(
                from_orthanc(orthanc, result.sop_uid, tmp_path / f"{name}.dcm"),
                volume,
                sources,
                tmp_path / f"dcmqi-{name}",
            )
            for name, result in results.items()
        }
        assert dice(labels["site-lung"] > 0, truth > 0) >= 0.97
        assert dice(labels["lung-ct"] > 0, truth > 0) >= 0.98
        for side in (1, 2):
            assert dice(labels["lung-ct"] == side, truth == side) >= 0.97
        assert not np.any((labels["lung-ct"] == 1) & (truth == 2))
        assert not np.any((labels["lung-ct"] == 2) & (truth == 1))
        assert "wdk24" in {result.model_version for result in results.values()}


@pytest.mark.parametrize(
    ("form", "shape"),
    [(Form.CLASSIC, (20, 96, 112)), (Form.ENHANCED, (20, 112, 96))],
    ids=["classic-mr", "enhanced-mr"],
)
def test_phantom_mr_goes_through_a_second_model_classic_and_multi_frame(
    tmp_path: Path, free_port: Callable[[], int], form: Form, shape: tuple[int, int, int]
) -> None:
    study = make_study(31, Profile(part=Part.HEAD, form=form, shape=shape))
    sources = list(write_study(tmp_path / "mr", study))
    with node_and_orthanc(
        tmp_path, free_port, model="mr-phantom", when='Modality = "MR"', models=(CARDS,)
    ) as (node, orthanc):
        target = Target(
            name="limner", ae_title="LIMNER", host="127.0.0.1", port=node.settings.listener.port
        )
        send_study(target, study.instances, calling_ae="SCANNER")
        told = node.wait_done(study.study_uid)
        assert told.study.sentence == "Results committed by pacs."
        (result,) = [r.result for job in told.jobs for r in job.results]
        seg = from_orthanc(orthanc, result.sop_uid, tmp_path / "seg.dcm")
        labels = judged(seg, loaded(tmp_path / "mr"), sources, tmp_path / "dcmqi")
        assert dice(labels > 0, study.truth.labels > 0) >= 0.9


def test_a_multi_frame_ct_goes_through_the_lung_model(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    study = make_study(7, Profile(form=Form.ENHANCED, shape=(36, 128, 128)))
    sources = list(write_study(tmp_path / "ct", study))
    with node_and_orthanc(tmp_path, free_port, model="lung-ct", when='Modality = "CT"') as (
        node,
        orthanc,
    ):
        target = Target(
            name="limner", ae_title="LIMNER", host="127.0.0.1", port=node.settings.listener.port
        )
        send_study(target, study.instances, calling_ae="SCANNER")
        told = node.wait_done(study.study_uid)
        assert told.study.sentence == "Results committed by pacs."
        (result,) = [r.result for job in told.jobs for r in job.results]
        seg = from_orthanc(orthanc, result.sop_uid, tmp_path / "seg.dcm")
        labels = judged(seg, loaded(tmp_path / "ct"), sources, tmp_path / "dcmqi")
        for side in (1, 2):
            assert dice(labels == side, study.truth.labels == side) >= 0.9
