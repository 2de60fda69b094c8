"""SUVbw from headers: every branch against the formula written out, every doubt refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag

from node.imaging.attributes import tolerated
from node.imaging.suv import SuvScale, suv_scale
from node.imaging.values import Refusal
from node.reasons import Reason

DOSE, WEIGHT_KG, HALF_LIFE = 350e6, 80.0, 6586.2
PLAIN = WEIGHT_KG * 1000 / DOSE
"""Factor of a value in Bq/ml if nothing decays."""

Change = Callable[[Dataset], None]


def header(**changes: Any) -> Dataset:
    """A slice in Bq/ml, injected at 10:00, series and acquisition at 11:00, five minutes long."""
    data = Dataset()
    data.Manufacturer = "Maker"
    data.Units, data.DecayCorrection = "BQML", "START"
    data.CorrectedImage = ["NORM", "ATTN", "SCAT", "DECY"]
    data.RescaleSlope, data.RescaleIntercept = 2, 0
    data.SeriesDate = data.AcquisitionDate = "20250102"
    data.SeriesTime = data.AcquisitionTime = "110000"
    data.FrameReferenceTime, data.ActualFrameDuration = 150_000, 300_000
    data.PatientWeight, data.PatientSize, data.PatientSex = WEIGHT_KG, 1.8, "M"
    item = Dataset()
    item.RadiopharmaceuticalStartDateTime = "20250102100000"
    item.RadionuclideTotalDose, item.RadionuclideHalfLife = DOSE, HALF_LIFE
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "77004003", "SCT"
    code.CodeMeaning = "^18^Fluorine"
    item.RadionuclideCodeSequence = Items([code])
    data.RadiopharmaceuticalInformationSequence = Items([item])
    for keyword, value in changes.items():
        place = item if keyword.startswith("Radi") else data
        if value is None:
            delattr(place, keyword)
        else:
            setattr(place, keyword, value)
    return data


def factors(*slices: Dataset) -> tuple[float, ...]:
    scale = suv_scale(slices, slices)
    assert isinstance(scale, SuvScale), scale
    return scale.factors


def factor(**changes: Any) -> float:
    (only,) = factors(header(**changes))
    return only


def reason(*slices: Dataset) -> Reason:
    refused = suv_scale(slices, slices)
    assert isinstance(refused, Refusal), refused
    assert len(refused.explanation) > 20
    return refused.reason


def decayed(seconds: float, half_life: float = HALF_LIFE) -> float:
    """Return the factor of a dose that has decayed so long."""
    return PLAIN * 2 ** (seconds / half_life)


def near(value: float) -> Any:
    return pytest.approx(value, rel=1e-9)


def private(group: int, creator: str | None, element: int, vr: str, value: Any) -> Change:
    def put(data: Dataset) -> None:
        block = 0x10
        if creator is not None:
            data.add_new((group, 0x0011), "LO", creator)
            block = 0x11
        data.add_new((group, block << 8 | element), vr, value)

    return put


def philips(*changes: Change, **attributes: Any) -> Dataset:
    data = header(Units="CNTS", Manufacturer="Philips Medical Systems", **attributes)
    for change in changes:
        change(data)
    return data


SUV_FACTOR = private(0x7053, "Philips PET Private Group", 0x00, "DS", "0.0005")
ACTIVITY = private(0x7053, "Philips PET Private Group", 0x09, "DS", "1.75")


# --- decay correction


def test_with_start_the_dose_decays_to_the_series_time() -> None:
    assert factor() == near(decayed(3600))


def test_with_admin_nothing_decays_and_no_time_is_needed() -> None:
    assert factor(DecayCorrection="ADMIN") == near(PLAIN)
    lost = {"RadiopharmaceuticalStartDateTime": None, "AcquisitionTime": None}
    assert factor(DecayCorrection="ADMIN", **lost) == near(PLAIN)


def test_without_correction_each_slice_decays_to_its_own_mean_time() -> None:
    plain = {"DecayCorrection": "NONE", "CorrectedImage": ["ATTN", "SCAT"]}
    first, second = header(**plain), header(**plain, AcquisitionTime="111000")
    rate = math.log(2) / HALF_LIFE
    # The mean activity over the frame is what a frame without correction shows.
    mean = (1 - math.exp(-rate * 300)) / (rate * 300)
    wanted = [decayed(delay) / mean for delay in (3600, 4200)]
    assert factors(first, second) == near(tuple(wanted))


def test_a_frame_without_correction_may_not_have_been_corrected_by_its_other_attributes() -> None:
    plain = {"DecayCorrection": "NONE"}
    assert factor(**plain, DecayFactor=1.0) == near(factor(**plain))
    assert reason(header(**plain, DecayFactor=1.45)) is Reason.SUV_CORRECTION


@pytest.mark.parametrize("value", ["", "SCAN", "YES"])
def test_an_unknown_decay_correction_is_refused(value: str) -> None:
    assert reason(header(DecayCorrection=value)) is Reason.SUV_CORRECTION


@pytest.mark.parametrize("done", [["DECY"], ["ATTN"], [], ["NORM", "SCAT"]])
def test_attenuation_and_decay_must_be_corrected(done: list[str]) -> None:
    assert reason(header(CorrectedImage=done)) is Reason.SUV_CORRECTION


def test_some_vendors_spell_decay_out() -> None:
    assert factor(CorrectedImage=["ATTN", "DECAY"]) == near(decayed(3600))


# --- the decay reference


def test_the_earliest_acquisition_of_the_whole_series_decides_whether_the_series_time_holds() -> (
    None
):
    late = header(SeriesTime="110500", AcquisitionTime="110600", FrameReferenceTime=510_000)
    early = header(SeriesTime="110500", AcquisitionTime="110000")
    alone = suv_scale([late], [late])
    both = suv_scale([late, early], [late])
    assert isinstance(alone, SuvScale)
    assert isinstance(both, SuvScale)
    assert alone.factors == near((decayed(3900),))
    # Beside a slice that began before it, 11:05 cannot be the start of the scan.
    assert both.factors[0] == pytest.approx(decayed(3600), rel=1e-4)


def test_a_rewritten_series_time_is_replaced_by_what_the_frames_say() -> None:
    beds = [
        header(SeriesTime="150000", AcquisitionTime=time, FrameReferenceTime=offset)
        for time, offset in (("110000", 150_000), ("110500", 450_000), ("111000", 750_000))
    ]
    found = factors(*beds)
    assert len(set(found)) == 1
    rate = math.log(2) / HALF_LIFE
    middle = math.log(rate * 300 / (1 - math.exp(-rate * 300))) / rate
    assert found[0] == pytest.approx(decayed(3600 + middle - 150), rel=1e-6)


def test_frames_that_disagree_on_the_reference_are_refused() -> None:
    beds = [header(SeriesTime="150000", AcquisitionTime=time) for time in ("110000", "111000")]
    assert reason(*beds) is Reason.SUV_TIMES


def test_a_rewritten_series_time_without_frame_reference_time_is_refused() -> None:
    assert reason(header(SeriesTime="150000", FrameReferenceTime=None)) is Reason.SUV_TIMES


def test_a_frame_reference_that_lies_behind_the_first_acquisition_is_not_believed() -> None:
    # FrameReferenceTime 0 as "the start of this frame": up to 1 % off, the acquisition stands.
    slightly = header(SeriesTime="150000", FrameReferenceTime=0, ActualFrameDuration=120_000)
    assert factors(slightly) == near((decayed(3600),))
    far = header(SeriesTime="150000", FrameReferenceTime=0, ActualFrameDuration=900_000)
    assert reason(far) is Reason.SUV_TIMES


@pytest.mark.parametrize(
    ("creator", "vr", "value"),
    [
        ("GEMS_PETD_01", "DT", "20250102103000.00"),
        ("GEMS_PETD_01", "UN", b"20250102103000.00 "),
        (None, "DT", "20250102103000"),
    ],
)
def test_the_private_scan_time_of_ge_comes_before_the_series_time(
    creator: str | None, vr: str, value: str | bytes
) -> None:
    for series_time in ("105000", "130000"):
        data = header(Manufacturer="GE MEDICAL SYSTEMS", SeriesTime=series_time)
        private(0x0009, creator, 0x0D, vr, value)(data)
        assert factors(data) == near((decayed(1800),))


def test_a_private_element_of_another_creator_or_maker_is_not_taken() -> None:
    other = header(Manufacturer="GE MEDICAL SYSTEMS")
    other.add_new((0x0009, 0x0010), "LO", "GEMS_IDEN_01")
    other.add_new((0x0009, 0x100D), "DT", "20250102103000")
    assert factors(other) == near((decayed(3600),))
    stranger = header(Manufacturer="Maker")
    stranger.add_new((0x0009, 0x100D), "DT", "20250102103000")
    assert factors(stranger) == near((decayed(3600),))


def test_a_private_scan_time_behind_the_acquisition_is_refused() -> None:
    data = header(Manufacturer="GE MEDICAL SYSTEMS")
    private(0x0009, "GEMS_PETD_01", 0x0D, "DT", "20250102113000")(data)
    assert reason(data) is Reason.SUV_TIMES


def test_a_decay_correction_date_time_is_the_reference() -> None:
    assert factor(DecayCorrectionDateTime="20250102104500") == near(decayed(2700))


# --- the administration


def test_an_injection_before_midnight_without_a_date_is_of_the_day_before() -> None:
    found = factor(
        SeriesTime="002000",
        AcquisitionTime="002000",
        RadiopharmaceuticalStartDateTime="",
        RadiopharmaceuticalStartTime="232000",
    )
    assert found == near(decayed(3600))


@pytest.mark.parametrize("time", ["120000", "043000"])
def test_a_time_without_a_date_far_from_the_scan_is_refused(time: str) -> None:
    lost = {"RadiopharmaceuticalStartDateTime": "", "RadiopharmaceuticalStartTime": time}
    assert reason(header(**lost)) is Reason.SUV_TIMES


def test_long_lived_nuclides_need_the_date() -> None:
    zirconium = {"RadionuclideHalfLife": 282_276, "RadionuclideCodeSequence": Items([])}
    found = factor(**zirconium, RadiopharmaceuticalStartDateTime="20241230110000")
    assert found == near(decayed(3 * 86_400, 282_276))
    lost = {"RadiopharmaceuticalStartDateTime": "", "RadiopharmaceuticalStartTime": "100000"}
    assert reason(header(**zirconium, **lost)) is Reason.SUV_TIMES


@pytest.mark.parametrize("given", ["20250102113000", "20240102100000", "2025", "yesterday"])
def test_a_date_time_of_administration_that_cannot_be_is_refused(given: str) -> None:
    with pytest.warns(UserWarning) if given == "yesterday" else _nothing():
        data = header(RadiopharmaceuticalStartDateTime=given)
    assert reason(data) is Reason.SUV_TIMES


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def test_no_time_of_administration_is_refused() -> None:
    assert reason(header(RadiopharmaceuticalStartDateTime=None)) is Reason.SUV_TIMES


def test_start_time_and_date_time_must_show_the_same_time_of_day() -> None:
    assert factor(RadiopharmaceuticalStartTime="100000.5") == near(decayed(3600))
    assert reason(header(RadiopharmaceuticalStartTime="101500")) is Reason.SUV_TIMES


def test_a_zone_of_the_date_time_is_brought_to_the_zone_of_the_series() -> None:
    utc = {"RadiopharmaceuticalStartDateTime": "20250102090000+0000"}
    assert factor(**utc, TimezoneOffsetFromUTC="+0100") == near(decayed(3600))
    beside = {"RadiopharmaceuticalStartTime": "100000"}
    assert factor(**utc, **beside, TimezoneOffsetFromUTC="+0100") == near(decayed(3600))


def test_a_zone_is_not_guessed() -> None:
    given = {"RadiopharmaceuticalStartDateTime": "20250102100000+0200"}
    assert reason(header(**given)) is Reason.SUV_TIMES
    # The same clock beside it shows that the zone is that of the series.
    assert factor(**given, RadiopharmaceuticalStartTime="100000") == near(decayed(3600))


# --- units


def test_grams_per_millilitre_are_suv_already() -> None:
    assert factor(Units="GML") == 1.0
    assert factor(Units="GML", SUVType="BW") == 1.0
    assert factor(Units="GML", RadionuclideTotalDose=None, PatientWeight=None) == 1.0


def test_other_normalisations_are_turned_into_body_weight() -> None:
    # 80 kg, 1.80 m; the rules of PS3.16, worked out by hand.
    james = 1.10 * 80 - 128 * (80 / 180) ** 2
    janma = 9270 * 80 / (6680 + 216 * 80 / 1.8**2)
    assert factor(Units="GML", SUVType="LBMJAMES128") == near(80 / james)
    assert factor(Units="GML", SUVType="LBMJANMA") == near(80 / janma)
    assert factor(Units="GML", SUVType="IBW") == near(80 / (48.0 + 1.06 * 28))
    woman = {"PatientSex": "F"}
    assert factor(Units="GML", SUVType="IBW", **woman) == near(80 / (45.5 + 0.91 * 28))
    lean = 1.07 * 80 - 148 * (80 / 180) ** 2
    assert factor(Units="GML", SUVType="LBMJAMES128", **woman) == near(80 / lean)
    surface_cm2 = 0.007184 * 80**0.425 * 180**0.725 * 1e4
    assert factor(Units="CM2ML") == near(80_000 / surface_cm2)


@pytest.mark.parametrize(
    "changes",
    [
        {"SUVType": "LBM"},
        {"SUVType": "BSA"},
        {"SUVType": "OTHER"},
        {"SUVType": "IBW", "PatientSex": "O"},
        {"SUVType": "LBMJAMES128", "PatientSex": ""},
        {"SUVType": "LBMJANMA", "PatientSize": None},
        {"SUVType": "LBMJANMA", "PatientSize": 180},
        {"Units": "CM2ML", "SUVType": "BW"},
        {"Units": "CM2ML", "PatientSize": 0},
    ],
)
def test_a_normalisation_whose_rule_is_not_known_without_doubt_is_refused(
    changes: dict[str, Any],
) -> None:
    assert reason(header(**{"Units": "GML"} | changes)) is Reason.SUV_TYPE


@pytest.mark.parametrize("units", ["PROPCNTS", "PROPCPS", "CPS", "MLML", "", "SUV"])
def test_units_of_which_no_suv_can_be_made_are_refused(units: str) -> None:
    assert reason(header(Units=units)) is Reason.SUV_UNITS


def test_counts_of_philips_are_scaled_by_their_private_factors() -> None:
    assert factors(philips(SUV_FACTOR, PatientWeight=None)) == near((0.0005,))
    assert factors(philips(ACTIVITY)) == near((1.75 * decayed(3600),))
    assert factors(philips(ACTIVITY, SUV_FACTOR)) == near((0.0005,))
    as_bytes = private(0x7053, "Philips PET Private Group", 0x00, "UN", b"0.0005 ")
    assert factors(philips(as_bytes)) == near((0.0005,))


def test_a_factor_without_its_creator_is_taken_from_its_usual_place_and_noted() -> None:
    data = philips(private(0x7053, None, 0x00, "DS", "0.0005"))
    scale = suv_scale([data], [data])
    assert isinstance(scale, SuvScale)
    assert scale.factors == near((0.0005,))
    assert any("creator is absent" in note for note in scale.notes)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: None,
        private(0x7053, "Philips PET Private Group", 0x00, "DS", "0"),
        private(0x7053, "Philips PET Private Group", 0x00, "DS", "-1"),
        private(0x7053, "Philips PET Private Group", 0x00, "UN", b"\x01\x02\x03"),
        private(0x7053, "Somebody Else", 0x00, "DS", "0.0005"),
        private(0x7053, None, 0x00, "SS", 3),
        lambda data: (
            setattr(data, "Manufacturer", "Other"),
            private(0x7053, None, 0x00, "DS", "0.0005")(data),
        ),
    ],
)
def test_counts_without_a_factor_that_can_be_trusted_are_refused(change: Change) -> None:
    assert reason(philips(change)) is Reason.SUV_SCALE_FACTOR


def test_a_factor_that_some_slices_lack_is_refused() -> None:
    assert reason(philips(SUV_FACTOR), philips()) is Reason.SUV_SCALE_FACTOR


def test_each_slice_has_its_own_factor_of_philips() -> None:
    other = private(0x7053, "Philips PET Private Group", 0x00, "DS", "0.0007")
    assert factors(philips(SUV_FACTOR), philips(other)) == near((0.0005, 0.0007))


# --- dose, half-life, weight, radiopharmaceutical


def test_a_dose_that_can_only_be_in_megabecquerels_is_read_so_and_noted() -> None:
    data = header(RadionuclideTotalDose=350)
    scale = suv_scale([data], [data])
    assert isinstance(scale, SuvScale)
    assert scale.factors == near((decayed(3600),))
    assert any("MBq" in note for note in scale.notes)


@pytest.mark.parametrize("dose", [0, -3e8, 10, 20, 50, 0.35, 5e4, 350e3, 5e10, 1e12])
def test_a_dose_that_nobody_is_given_or_in_a_doubtful_unit_is_refused(dose: float) -> None:
    assert reason(header(RadionuclideTotalDose=dose)) is Reason.SUV_DOSE


def test_the_half_life_must_be_that_of_the_nuclide() -> None:
    assert reason(header(RadionuclideHalfLife=4062)) is Reason.SUV_HALF_LIFE
    assert reason(header(RadionuclideHalfLife=109.77)) is Reason.SUV_HALF_LIFE
    assert reason(header(RadionuclideHalfLife=0, RadionuclideCodeSequence=None)) is (
        Reason.SUV_HALF_LIFE
    )
    unnamed = {"RadionuclideCodeSequence": None}
    assert reason(header(RadionuclideHalfLife=109.77, **unnamed)) is Reason.SUV_HALF_LIFE
    assert factor(RadionuclideHalfLife=6588) == near(decayed(3600, 6588))
    assert factor(**unnamed) == near(decayed(3600))
    assert reason(header(RadionuclideHalfLife=None)) is Reason.SUV_HALF_LIFE
    assert factor(RadionuclideHalfLife=None, DecayCorrection="ADMIN") == near(PLAIN)
    wrong = header(RadionuclideHalfLife=4062, DecayCorrection="ADMIN")
    assert reason(wrong) is Reason.SUV_HALF_LIFE


def test_a_wrong_code_of_the_nuclide_is_no_fault_if_its_meaning_fits_the_half_life() -> None:
    data = header(RadionuclideHalfLife=4062.6)
    item = data.RadiopharmaceuticalInformationSequence[0]
    code = item.RadionuclideCodeSequence[0]
    code.CodeValue, code.CodeMeaning = "C-131A1", "^68^Gallium"  # the code is that of gallium 66
    scale = suv_scale([data], [data])
    assert isinstance(scale, SuvScale)
    assert scale.factors == near((decayed(3600, 4062.6),))
    assert any("Ga-66" in note for note in scale.notes)


@pytest.mark.parametrize("weight", [None, 0, 1.5, 80_000, -80, ""])
def test_a_weight_that_no_patient_has_is_refused(weight: float | None) -> None:
    assert reason(header(PatientWeight=weight)) is Reason.SUV_WEIGHT


def test_several_radiopharmaceuticals_are_refused_unless_they_are_one() -> None:
    def doubled(dose: float) -> Dataset:
        data = header()
        second = header(RadionuclideTotalDose=dose)
        data.RadiopharmaceuticalInformationSequence.append(
            second.RadiopharmaceuticalInformationSequence[0]
        )
        return data

    assert factors(doubled(DOSE)) == near((decayed(3600),))
    assert reason(doubled(DOSE * 1.1)) is Reason.SUV_RADIOPHARMACEUTICAL
    empty = header()
    empty.RadiopharmaceuticalInformationSequence = Items([])
    assert reason(empty) is Reason.SUV_RADIOPHARMACEUTICAL
    other = header(RadionuclideTotalDose=DOSE * 1.1)
    assert reason(header(), other) is Reason.SUV_RADIOPHARMACEUTICAL


def test_slices_that_disagree_on_the_series_are_refused() -> None:
    assert reason(header(), header(Units="GML")) is Reason.SUV_MIXED
    assert reason(header(), header(PatientWeight=70)) is Reason.SUV_MIXED


def test_an_intercept_is_refused() -> None:
    assert reason(header(RescaleIntercept=-10)) is Reason.SUV_RESCALE


@pytest.mark.parametrize("lost", ["AcquisitionDate", "AcquisitionTime"])
def test_without_the_acquisition_nothing_is_assumed(lost: str) -> None:
    assert reason(header(**{lost: None})) is Reason.SUV_TIMES
    instead = header(**{lost: None}, AcquisitionDateTime="20250102110000")
    assert factors(instead) == near((decayed(3600),))


GARBAGE = st.one_of(
    st.text("0123456789.+-eE :ABn\\", max_size=20),
    st.sampled_from(["00010101000000", "99991231235959", "-1e308", "1e308", "inf", "nan", "0"]),
)
DAMAGED = (
    "SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime", "ActualFrameDuration",
    "FrameReferenceTime", "PatientWeight", "RescaleIntercept", "DecayCorrection", "Units",
    "RadiopharmaceuticalStartDateTime", "RadiopharmaceuticalStartTime", "RadionuclideTotalDose",
    "RadionuclideHalfLife", "TimezoneOffsetFromUTC", "DecayCorrectionDateTime", "SUVType",
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(DAMAGED), GARBAGE, min_size=1, max_size=3),
    st.sampled_from(["START", "NONE"]),
)
def test_no_damage_to_a_header_gets_past_as_an_exception(
    damage: dict[str, str], correction: str
) -> None:
    data = header(SeriesTime="150000", DecayCorrection=correction)
    item = data.RadiopharmaceuticalInformationSequence[0]
    with tolerated():
        for keyword, value in damage.items():
            place = item if keyword.startswith("Radi") else data
            tag = tag_for_keyword(keyword)
            assert tag is not None
            raw = value.encode("ascii")
            place[tag] = RawDataElement(BaseTag(tag), None, len(raw), raw, 0, True, True)
        assert isinstance(suv_scale([data], [data]), SuvScale | Refusal)
