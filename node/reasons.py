"""Why a series is not usable as a volume or as frames: one enum, a sentence each, stable codes.

docs/reasons.md is made from this file (`python -m node.reasons`), so that the code in a JSON
output, the page's sentence and the manual cannot differ.
"""

from __future__ import annotations

import sys
from enum import StrEnum


class Reason(StrEnum):
    """Why a set of instances is refused. Values are stored, printed and documented."""

    NO_GEOMETRY = "no-geometry"
    NO_FRAME_OF_REFERENCE = "no-frame-of-reference"
    TOO_FEW_SLICES = "too-few-slices"
    MISSING_SLICES = "missing-slices"
    DUPLICATE_POSITION = "duplicate-position"
    UNEVEN_SPACING = "uneven-spacing"
    MIXED_ORIENTATION = "mixed-orientation"
    MIXED_MATRIX = "mixed-matrix"
    MIXED_SPACING = "mixed-spacing"
    GANTRY_TILT = "gantry-tilt"
    MOVING_ORIGIN = "moving-origin"
    NOT_GREYSCALE = "not-greyscale"
    DERIVED = "derived"
    LOCALIZER = "localizer"
    NOT_AN_IMAGE = "not-an-image"
    AMBIGUOUS_VOLUME = "ambiguous-volume"
    MIXED_IDENTITY = "mixed-identity"
    UNSUPPORTED_SYNTAX = "unsupported-syntax"
    TRUNCATED_FRAME = "truncated-frame"
    DECODE_MISMATCH = "decode-mismatch"
    DECODE_FAILED = "decode-failed"
    BAD_HEADER = "bad-header"
    NOT_ACCEPTED = "not-accepted"
    SUV_UNITS = "suv-units"
    SUV_TYPE = "suv-type"
    SUV_SCALE_FACTOR = "suv-scale-factor"
    SUV_CORRECTION = "suv-correction"
    SUV_RESCALE = "suv-rescale"
    SUV_WEIGHT = "suv-weight"
    SUV_DOSE = "suv-dose"
    SUV_HALF_LIFE = "suv-half-life"
    SUV_RADIOPHARMACEUTICAL = "suv-radiopharmaceutical"
    SUV_TIMES = "suv-times"
    SUV_MIXED = "suv-mixed"
    STAGE_REJECTED = "stage-rejected"
    STAGE_EMPTY = "stage-empty"
    NOT_FRAMES = "not-frames"
    COLOURED = "coloured"
    NOT_CALIBRATED = "not-calibrated"
    INPUT_REJECTED = "input-rejected"
    CHANNEL_MISSING = "channel-missing"
    CHANNEL_NOT_REGISTERED = "channel-not-registered"


SENTENCES: dict[Reason, str] = {
    Reason.NO_GEOMETRY: "Image position, orientation or pixel spacing is absent or malformed, "
    "so no voxel has a place in the patient.",
    Reason.NO_FRAME_OF_REFERENCE: "Instances carry no Frame of Reference UID where others do, or "
    "where a result needs one.",
    Reason.TOO_FEW_SLICES: "There are fewer than three slices (or two whose distance nothing "
    "confirms); a volume needs more, unless the model's card says otherwise.",
    Reason.MISSING_SLICES: "One or more slices are missing inside the stack.",
    Reason.DUPLICATE_POSITION: "Several different images lie at one position and no attribute "
    "tells which volume each belongs to.",
    Reason.UNEVEN_SPACING: "The distance between slices changes inside the stack.",
    Reason.MIXED_ORIENTATION: "The slices do not share one orientation.",
    Reason.MIXED_MATRIX: "The slices differ in rows or columns.",
    Reason.MIXED_SPACING: "The slices differ in pixel spacing.",
    Reason.GANTRY_TILT: "The stack is sheared: each slice is shifted within its plane by the "
    "same step, as with a tilted gantry.",
    Reason.MOVING_ORIGIN: "Slices are shifted within their plane irregularly.",
    Reason.NOT_GREYSCALE: "The pixels are colour, not one grey channel.",
    Reason.DERIVED: "The images are no measured volume: secondary captures, projections, results "
    "such as segmentations, or images that are DERIVED and SECONDARY at once in ImageType and "
    "whose value 3 does not say that they are slices (AXIAL, REFORMATTED, MPR, ...). DERIVED "
    "alone refuses nothing.",
    Reason.LOCALIZER: "The images are localizers (scouts).",
    Reason.NOT_AN_IMAGE: "The object holds no image pixels.",
    Reason.AMBIGUOUS_VOLUME: "Several volumes fit equally well and nothing says which is meant.",
    Reason.MIXED_IDENTITY: "The instances do not agree on one patient and study.",
    Reason.UNSUPPORTED_SYNTAX: "The pixels are in a transfer syntax that is not read, such as MPEG "
    "video; uncompressed, JPEG, JPEG-LS, JPEG 2000, HTJ2K and RLE are.",
    Reason.TRUNCATED_FRAME: "A frame has fewer bytes than its header promises.",
    Reason.DECODE_MISMATCH: "The compressed stream and the header disagree on size or precision.",
    Reason.DECODE_FAILED: "A frame could not be decoded.",
    Reason.BAD_HEADER: "A header could not be read or contradicts itself.",
    Reason.NOT_ACCEPTED: "The model's card does not accept a series of this kind.",
    Reason.SUV_UNITS: "PET values are in units of which no SUV can be made (anything but BQML, "
    "GML, CM2ML and Philips' CNTS); of an Enhanced PET Image, its frames map to no such unit.",
    Reason.SUV_TYPE: "The SUV is not by body weight, and its rule, or the sex, height or weight "
    "that the rule needs, is not known.",
    Reason.SUV_SCALE_FACTOR: "Units are CNTS and Philips' private scale factor is absent, often "
    "removed by an anonymiser.",
    Reason.SUV_CORRECTION: "The PET image is not said to be corrected for attenuation and decay, "
    "or what it says of its decay correction contradicts itself.",
    Reason.SUV_RESCALE: "PET values have an intercept or a table, so they are not proportional "
    "to activity.",
    Reason.SUV_WEIGHT: "The patient's weight is absent or no weight of a person.",
    Reason.SUV_DOSE: "The administered dose is absent or no dose that is given for imaging; "
    "perhaps its unit is wrong.",
    Reason.SUV_HALF_LIFE: "The half-life is absent, or not that of the nuclide.",
    Reason.SUV_RADIOPHARMACEUTICAL: "No radiopharmaceutical is described, or several different "
    "ones are.",
    Reason.SUV_TIMES: "The time of administration, acquisition or decay correction is absent or "
    "malformed, or the times contradict each other.",
    Reason.SUV_MIXED: "The slices disagree on what holds for the whole PET series, such as "
    "units, weight or decay correction.",
    Reason.STAGE_REJECTED: "The model that has to run first gave a result that its own card "
    "rejects, so the model that builds on it did not run.",
    Reason.STAGE_EMPTY: "The model that has to run first found nothing to which the next one "
    "could be limited.",
    Reason.NOT_FRAMES: "The model works on single frames such as ultrasound, and these are slices "
    "of a volume.",
    Reason.COLOURED: "Colour, as Doppler draws it, covers more than a tenth of the tissue, and the "
    "model's card does not accept that.",
    Reason.NOT_CALIBRATED: "The model's card has steps in millimetres, and the image does not say "
    "reliably how large its pixels are.",
    Reason.INPUT_REJECTED: "The volume or image is outside what the model's card sets for its "
    "input, so the model did not run.",
    Reason.CHANNEL_MISSING: "The model needs several series of one study as its channels, and the "
    "study does not hold one of them.",
    Reason.CHANNEL_NOT_REGISTERED: "The model needs several series of one study as its channels, "
    "and they do not share a Frame of Reference UID.",
}


def sentence(reason: Reason) -> str:
    """Return the sentence an administrator reads for `reason`."""
    return SENTENCES[reason]


def reasons_page() -> str:
    """Return docs/reasons.md as text."""
    rows = "".join(f"| `{reason}` | {SENTENCES[reason]} |\n" for reason in Reason)
    return (
        "# Reasons\n\nWhy a series, or a part of it, is not usable as a volume or as frames; those "
        "that begin with `suv-`: why a PET volume is not in SUVbw, so that only models which want "
        "that refuse it. Made from `node/reasons.py` by `python -m node.reasons`; the codes are "
        "stable.\n\n"
        "| code | meaning |\n|---|---|\n" + rows
    )


if __name__ == "__main__":
    sys.stdout.write(reasons_page())
