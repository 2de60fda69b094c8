"""PET series as files: the digital reference objects, enhanced forms, and what a card is told."""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import PositronEmissionTomographyImageStorage

from node.commands.imaging import inspect
from node.imaging import find_volumes, load_volume, read_folder
from node.imaging.inspect import inspect_folder
from node.imaging.values import Volume, VolumePlan
from node.models.card import parse_card
from node.models.fit import refusal_of
from node.reasons import Reason
from tests.models.builders import documented_card

from .build import enhanced, phantom, save, series
from .test_suv import DOSE, HALF_LIFE, PLAIN, header

Shared = Callable[[str], Path]
OBJECTS = (
    "DRO_0_0", "DRO_1_0", "DRO_2_0", "DRO_2_4", "DRO_3_1", "DRO_3_3", "DRO_4_1", "DRO_5_0",
    "value_siemens", "refuse_weight_absent", "refuse_weight_zero", "refuse_units_propcnts",
    "refuse_dose_absent", "refuse_cnts_no_factor",
)  # fmt: skip
REFUSED = {
    "refuse_weight_absent": Reason.SUV_WEIGHT,
    "refuse_weight_zero": Reason.SUV_WEIGHT,
    "refuse_units_propcnts": Reason.SUV_UNITS,
    "refuse_dose_absent": Reason.SUV_DOSE,
    "refuse_cnts_no_factor": Reason.SUV_SCALE_FACTOR,
}
GROWTH = 2 ** (3600 / HALF_LIFE)


def listed(shared_data: Shared) -> dict[str, dict[str, str]]:
    text = shared_data("pet-suv/manifest.csv").read_text()
    return {row["object"]: row for row in csv.DictReader(io.StringIO(text))}


def test_every_object_of_the_manifest_is_tried(shared_data: Shared) -> None:
    assert set(listed(shared_data)) == set(OBJECTS)


@pytest.mark.parametrize("name", OBJECTS)
def test_a_reference_object_has_its_known_suv_or_its_named_refusal(
    shared_data: Shared, tmp_path: Path, name: str
) -> None:
    known = listed(shared_data)[name]
    with tarfile.open(shared_data(f"pet-suv/{name}.tar.xz")) as packed:
        packed.extractall(tmp_path, filter="data")
    mask = tmp_path / name / "mask" / "DRO_mask.nii.gz"
    (volume,) = inspect_folder(tmp_path / name / "PT", mask=mask)["volumes"]
    assert volume["usable"] is True
    assert volume["mask"]["voxels"] == 203_202
    if known["expect"] == "refuse":
        assert volume["reason"] == REFUSED[name]
        assert volume["units"] == known["units"]
        return
    assert (volume["units"], volume["reason"]) == ("SUVbw", None)
    for figure in ("min", "median", "max"):
        name_in_json = {"min": "minimum", "max": "maximum"}.get(figure, figure)
        assert volume[name_in_json] == pytest.approx(float(known[f"suv_{figure}"]), rel=0.005)


def pet(folder: Path, **changes: Any) -> Path:
    """Write a classic PET series whose slope differs between slices."""
    slices = series()
    for index, data in enumerate(slices):
        data.SOPClassUID, data.Modality = PositronEmissionTomographyImageStorage, "PT"
        del data.RescaleIntercept
        data.update(header(**changes))
        data.RescaleSlope = 1 + index
    return save(folder, slices)


def plan_of(folder: Path) -> VolumePlan:
    (plan,) = find_volumes(read_folder(folder))
    assert isinstance(plan, VolumePlan), plan
    return plan


def volume_of(folder: Path) -> Volume:
    volume = load_volume(plan_of(folder))
    assert isinstance(volume, Volume), volume
    return volume


def test_a_pet_volume_is_read_in_suv_with_the_slope_of_each_slice(tmp_path: Path) -> None:
    volume = volume_of(pet(tmp_path))
    assert volume.units == "SUVbw"
    assert volume.array.dtype == np.float32
    slopes = np.arange(1, 13)[:, None, None]
    np.testing.assert_allclose(volume.array, phantom() * slopes * PLAIN * GROWTH, rtol=1e-6)


def test_whole_numbers_of_suv_are_float32_too(tmp_path: Path) -> None:
    slices = series()
    for data in slices:
        data.SOPClassUID, data.Modality = PositronEmissionTomographyImageStorage, "PT"
        data.update(header(Units="GML", RescaleSlope=1))
    volume = volume_of(save(tmp_path, slices))
    assert (volume.units, volume.array.dtype) == ("SUVbw", np.float32)
    np.testing.assert_array_equal(volume.array, phantom())


def test_a_volume_without_suv_keeps_its_units_and_says_why(tmp_path: Path) -> None:
    folder = pet(tmp_path, PatientWeight=0)
    (said,) = inspect_folder(folder)["volumes"]
    assert (said["usable"], said["units"], said["reason"]) == (True, "BQML", "suv-weight")
    assert "PatientWeight is 0" in said["explanation"]
    slopes = np.arange(1, 13)[:, None, None]
    np.testing.assert_allclose(volume_of(folder).array, phantom() * slopes, rtol=1e-6)
    shown = CliRunner().invoke(inspect, [str(folder)])
    assert shown.exit_code == 0, shown.output
    assert "suv-weight" in shown.output
    (right,) = inspect_folder(pet(tmp_path / "right"))["volumes"]
    assert (right["units"], right["reason"], right["explanation"]) == ("SUVbw", None, None)


def test_a_model_that_wants_suv_refuses_with_exactly_that_reason(tmp_path: Path) -> None:
    text = documented_card().replace('units = "HU"', 'units = "SUVbw"')
    card = parse_card(text, Path("models/lung-ct"))
    assert card.voxels.units == "SUVbw"
    without = refusal_of(volume_of(pet(tmp_path / "without", PatientWeight=0)), card)
    assert without is not None
    assert without.reason is Reason.SUV_WEIGHT
    assert "PatientWeight is 0" in without.explanation
    assert refusal_of(volume_of(pet(tmp_path / "right")), card) is None


def enhanced_pet(frames: int = 12, **changes: Any) -> Dataset:
    """An Enhanced PET Image: dose in MBq, unit in the real world mapping."""
    data = enhanced(range(frames))
    data.SOPClassUID, data.Modality = "1.2.840.10008.5.1.4.1.1.130", "PT"
    data.PatientWeight = 80
    data.AttenuationCorrected = data.DecayCorrected = "YES"
    data.DecayCorrectionDateTime = "20250102110000"
    item = header().RadiopharmaceuticalInformationSequence[0]
    item.RadionuclideTotalDose = DOSE / 1e6
    data.RadiopharmaceuticalInformationSequence = Items([item])
    shared = data.SharedFunctionalGroupsSequence[0]
    shared.PixelValueTransformationSequence = Items([Dataset()])
    shared.PixelValueTransformationSequence[0].RescaleSlope = 3
    shared.PixelValueTransformationSequence[0].RescaleIntercept = 0
    shared.RealWorldValueMappingSequence = Items([Dataset()])
    mapping = shared.RealWorldValueMappingSequence[0]
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 3.0, 0.0
    mapping.MeasurementUnitsCodeSequence = Items([Dataset()])
    mapping.MeasurementUnitsCodeSequence[0].CodeValue = "Bq/ml"
    for group in data.PerFrameFunctionalGroupsSequence:
        content = group.FrameContentSequence[0]
        content.FrameAcquisitionDateTime = "20250102110000"
        content.FrameAcquisitionDuration = 300_000.0
    for keyword, value in changes.items():
        setattr(data if keyword in data else mapping, keyword, value)
    return data


def test_an_enhanced_pet_image_gives_suv_from_its_functional_groups(tmp_path: Path) -> None:
    volume = volume_of(save(tmp_path / "corrected", [enhanced_pet()]))
    assert volume.units == "SUVbw"
    np.testing.assert_allclose(volume.array, phantom() * 3 * PLAIN * GROWTH, rtol=1e-6)
    plain = volume_of(save(tmp_path / "plain", [enhanced_pet(DecayCorrected="NO")]))
    rate = np.log(2) / HALF_LIFE
    mean = (1 - np.exp(-rate * 300)) / (rate * 300)
    np.testing.assert_allclose(plain.array, phantom() * 3 * PLAIN * GROWTH / mean, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"RealWorldValueSlope": 2.5}, Reason.SUV_UNITS),
        ({"AttenuationCorrected": "NO"}, Reason.SUV_CORRECTION),
        ({"DecayCorrectionDateTime": ""}, Reason.SUV_CORRECTION),
        ({"PatientWeight": 0}, Reason.SUV_WEIGHT),
    ],
)
def test_an_enhanced_pet_image_that_lacks_something_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], reason: Reason
) -> None:
    plan = plan_of(save(tmp_path, [enhanced_pet(**changes)]))
    assert plan.suv is not None
    assert plan.suv.reason is reason


def test_a_converted_pet_image_gives_suv_from_what_it_kept_of_its_slices(tmp_path: Path) -> None:
    data = enhanced(range(12))
    data.SOPClassUID, data.Modality = "1.2.840.10008.5.1.4.1.1.128.1", "PT"
    kept = header(Units="CNTS", Manufacturer="Philips Medical Systems")
    data.SharedFunctionalGroupsSequence[0].UnassignedSharedConvertedAttributesSequence = Items(
        [kept]
    )
    for index, group in enumerate(data.PerFrameFunctionalGroupsSequence):
        own = Dataset()
        own.add_new((0x7053, 0x0010), "LO", "Philips PET Private Group")
        own.add_new((0x7053, 0x1000), "DS", f"{0.0001 * (index + 1):.6g}")
        group.UnassignedPerFrameConvertedAttributesSequence = Items([own])
        group.PixelValueTransformationSequence = Items([Dataset()])
        group.PixelValueTransformationSequence[0].RescaleSlope = 1
    volume = volume_of(save(tmp_path, [data]))
    assert volume.units == "SUVbw"
    factors = 0.0001 * np.arange(1, 13)[:, None, None]
    np.testing.assert_allclose(volume.array, phantom() * factors, rtol=1e-5)


def test_every_acquisition_of_the_series_counts_for_each_of_its_volumes(tmp_path: Path) -> None:
    # The series time lies behind the first volume's acquisition and before the second's, so it is
    # the start of neither, whichever volume is looked at.
    slices = []
    for number, (begun, offset_ms) in enumerate((("110000", 150_000), ("111000", 750_000))):
        for data in series():
            data.SOPClassUID, data.Modality = PositronEmissionTomographyImageStorage, "PT"
            data.SOPInstanceUID = f"{data.SOPInstanceUID}{number}"
            data.AcquisitionNumber = number + 1
            data.update(header(SeriesTime="110500", AcquisitionTime=begun))
            data.FrameReferenceTime = offset_ms
            slices.append(data)
    found = find_volumes(read_folder(save(tmp_path, slices)))
    assert len(found) == 2
    for plan in found:
        assert isinstance(plan, VolumePlan)
        assert plan.factors == pytest.approx((PLAIN * GROWTH,) * 12, rel=1e-4)
