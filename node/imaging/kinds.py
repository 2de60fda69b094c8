"""What kind of instance it is, before any geometry: images that could be voxels, and the rest.

The rule for derived images. ImageType value 1 says DERIVED on many usable reconstructions
(reformats, averaged or denoised volumes, converted enhanced objects), so it alone refuses
nothing. Refused as `derived` are: every Secondary Capture class; objects that hold results
(segmentations, dose, parametric maps); projections and screen pictures, whose pixels are no
voxels; and images that are DERIVED and SECONDARY at once, unless value 3 says that they are still
slices (AXIAL, REFORMATTED, MPR, ...), as in the cropped brain volumes of public data sets.
"""

from __future__ import annotations

from typing import Final

from pydicom.uid import UID

from node.imaging.attributes import integer, text, texts
from node.imaging.values import SourceInstance
from node.reasons import Reason

SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"

_RESULT_CLASSES: Final = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
        "1.2.840.10008.5.1.4.1.1.66",  # Raw Data
        "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
        "1.2.840.10008.5.1.4.1.1.66.5",  # Surface Segmentation
        "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
        "1.2.840.10008.5.1.4.1.1.481.2",  # RT Dose
    }
)
ULTRASOUND_CLASSES: Final = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.3",  # Ultrasound Multi-frame (retired)
        "1.2.840.10008.5.1.4.1.1.3.1",  # Ultrasound Multi-frame
        "1.2.840.10008.5.1.4.1.1.6",  # Ultrasound (retired)
        "1.2.840.10008.5.1.4.1.1.6.1",  # Ultrasound
    }
)
_PIXELLESS_CLASSES: Final = (
    "1.2.840.10008.5.1.4.1.1.9.",  # waveforms
    "1.2.840.10008.5.1.4.1.1.11.",  # presentation states
    "1.2.840.10008.5.1.4.1.1.67",  # real world value mapping
    "1.2.840.10008.5.1.4.1.1.88.",  # structured reports, key objects
    "1.2.840.10008.5.1.4.1.1.104.",  # encapsulated documents
    "1.2.840.10008.5.1.4.1.1.481.3",  # RT structure set
)


_STILL_SLICES: Final = frozenset(
    {"AXIAL", "CORONAL", "MPR", "OBLIQUE", "REFORMATTED", "RESAMPLED", "SAGITTAL", "VOLUME"}
)
_PICTURES: Final = frozenset(
    {"CSA REPORT", "MAX_IP", "MIN_IP", "MINIP", "MIP", "PROJECTION IMAGE", "SCREEN SAVE", "VRT"}
)


def image_type(instance: SourceInstance) -> tuple[str, ...]:
    """Return ImageType (0008,0008) in capitals."""
    return tuple(value.upper() for value in texts(instance.header, "ImageType"))


def is_localizer(values: tuple[str, ...]) -> bool:
    """Return whether an ImageType or FrameType marks a localizer."""
    return "LOCALIZER" in values[2:]


def is_derived(values: tuple[str, ...]) -> bool:
    """Return whether an ImageType or FrameType says that the pixels are no measured slices."""
    if _PICTURES.intersection(values[2:]):
        return True
    return values[:2] == ("DERIVED", "SECONDARY") and not _STILL_SLICES.intersection(values[2:3])


def _promises_pixels(instance: SourceInstance) -> bool:
    named = "Image Storage" in UID(instance.sop_class_uid).name
    return named or integer(instance.header, "Rows") is not None


def refuse_kind(instance: SourceInstance) -> tuple[Reason, str] | None:
    """Return why an instance cannot be voxels whatever its geometry, or None."""
    header, sop_class = instance.header, instance.sop_class_uid
    if sop_class in _RESULT_CLASSES:
        return Reason.DERIVED, "They hold results (segmentation, dose or map), not a measurement."
    if instance.pixels is None:
        if sop_class.startswith(_PIXELLESS_CLASSES) or not _promises_pixels(instance):
            return Reason.NOT_AN_IMAGE, "They hold no pixel element."
        return None  # damage, which `refuse_format` names: it counts against the whole series
    if sop_class in ULTRASOUND_CLASSES or text(header, "Modality").upper() in ("US", "IVUS"):
        return (
            Reason.NO_GEOMETRY,
            "They are ultrasound images, whose pixels have no position in the patient; only a "
            "model that works on frames takes them.",
        )
    photometric = text(header, "PhotometricInterpretation").upper()
    if integer(header, "SamplesPerPixel") != 1 or not photometric.startswith("MONOCHROME"):
        return Reason.NOT_GREYSCALE, f"Photometric interpretation {photometric or 'absent'}."
    if sop_class == SECONDARY_CAPTURE or sop_class.startswith(SECONDARY_CAPTURE + "."):
        return Reason.DERIVED, "They are secondary captures."
    values = image_type(instance)
    if is_localizer(values):
        return Reason.LOCALIZER, "ImageType says LOCALIZER."
    if is_derived(values):
        return Reason.DERIVED, f"ImageType is {'/'.join(values)}."
    return None
