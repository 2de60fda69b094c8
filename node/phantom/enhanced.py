"""A series as one multi-frame object: Enhanced CT and Enhanced MR (PS3.3 A.36, A.38).

What all frames share stands once in the shared functional groups; position, content and times
stand per frame. A frame's place in the object follows the series' instance numbers, so frames may
lie in any order; the dimension index says where each belongs.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from node.phantom.headers import Header
from node.phantom.objects import (
    STUDY_DATE,
    ImageSeries,
    decimal,
    decimals,
    new_dataset,
    orientation_text,
    put_series,
    spacing_text,
    time_of,
    window,
)
from node.phantom.pixels import FORMATS, describe_cells, put_pixels, stored_cells

ENHANCED_CT: Final = "1.2.840.10008.5.1.4.1.1.2.1"
ENHANCED_MR: Final = "1.2.840.10008.5.1.4.1.1.4.1"
_REGIONS: Final = {"CHEST": ("43799004", "Chest"), "HEADNECK": ("774007", "Head and Neck")}


def enhanced_dataset(series: ImageSeries, header: Header) -> Dataset:
    """Return `series` as one multi-frame object."""
    is_ct = series.modality == "CT"
    dataset = new_dataset(
        header,
        sop_class=ENHANCED_CT if is_ct else ENHANCED_MR,
        sop_uid=series.instance_uid("enhanced"),
        syntax=series.syntax,
    )
    put_series(dataset, series)
    dataset.QualityControlImage = "YES"
    dataset.InstanceNumber = 1
    dataset.AcquisitionNumber = 1
    dataset.ContentDate = STUDY_DATE
    dataset.ContentTime = time_of(0)
    dataset.AcquisitionDateTime = STUDY_DATE + time_of(0)
    dataset.AcquisitionDuration = series.grid.shape[0] * 500.0
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.ContentQualification = "RESEARCH"
    dataset.PixelPresentation = "MONOCHROME"
    dataset.VolumetricProperties = "VOLUME"
    dataset.VolumeBasedCalculationTechnique = "NONE"
    slices, rows, columns = series.grid.shape
    dataset.NumberOfFrames = slices
    describe_cells(dataset, series.cells, rows=rows, columns=columns)
    if is_ct:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    else:
        _put_mr(dataset)
    # The acquisition context module is mandatory and may say nothing.
    dataset.AcquisitionContextSequence = Sequence()
    _put_dimensions(dataset, series)
    shared = _ct_shared(series) if is_ct else _mr_shared(series)
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    order = np.argsort(series.instance_numbers, kind="stable")
    dataset.PerFrameFunctionalGroupsSequence = Sequence(
        _frame_groups(series, int(index)) for index in order
    )
    put_pixels(dataset, stored_cells(series.values, series.cells)[order], series.syntax)
    return dataset


def _put_mr(dataset: Dataset) -> None:
    """Write what the MR pulse sequence and MR image modules say for the whole object."""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "T2", "NONE"]
    dataset.ComplexImageComponent = "MAGNITUDE"
    dataset.AcquisitionContrast = "T2"
    dataset.ResonantNucleus = "1H"
    dataset.KSpaceFiltering = "NONE"
    dataset.MagneticFieldStrength = 1.5
    dataset.ApplicableSafetyStandardAgency = "IEC"
    dataset.PulseSequenceName = "PHANTOM_T2"
    dataset.MRAcquisitionType = "2D"
    dataset.EchoPulseSequence = "SPIN"
    dataset.MultipleSpinEcho = "NO"
    dataset.MultiPlanarExcitation = "NO"
    dataset.PhaseContrast = "NO"
    dataset.TimeOfFlightContrast = "NO"
    dataset.SteadyStatePulseSequence = "NONE"
    dataset.EchoPlanarPulseSequence = "NO"
    dataset.SaturationRecovery = "NO"
    dataset.SpectrallySelectedSuppression = "FAT"
    dataset.OversamplingPhase = "NONE"
    dataset.GeometryOfKSpaceTraversal = "RECTILINEAR"
    dataset.RectilinearPhaseEncodeReordering = "LINEAR"
    dataset.SegmentedKSpaceTraversal = "SINGLE"
    dataset.NumberOfKSpaceTrajectories = 1


def _put_dimensions(dataset: Dataset, series: ImageSeries) -> None:
    """Write the multi-frame dimension module: stack, then place in the stack."""
    uid = series.instance_uid("dimensions")
    organization = Dataset()
    organization.DimensionOrganizationUID = uid
    dataset.DimensionOrganizationSequence = Sequence([organization])
    indices = []
    for keyword, label in ((0x00209056, "Stack"), (0x00209057, "Place in stack")):
        item = Dataset()
        item.DimensionOrganizationUID = uid
        item.DimensionIndexPointer = Tag(keyword)
        item.FunctionalGroupPointer = Tag(0x00209111)
        item.DimensionDescriptionLabel = label
        indices.append(item)
    dataset.DimensionIndexSequence = Sequence(indices)


def _frame_groups(series: ImageSeries, index: int) -> Dataset:
    """Return the per-frame functional groups of slice `index`."""
    content = Dataset()
    content.FrameAcquisitionNumber = 1
    content.StackID = "1"
    content.InStackPositionNumber = index + 1
    content.DimensionIndexValues = [1, index + 1]
    content.FrameReferenceDateTime = STUDY_DATE + time_of(index)
    content.FrameAcquisitionDateTime = STUDY_DATE + time_of(index)
    content.FrameAcquisitionDuration = 500.0
    position = Dataset()
    position.ImagePositionPatient = decimals(series.grid.position_mm(index))
    groups = Dataset()
    groups.FrameContentSequence = Sequence([content])
    groups.PlanePositionSequence = Sequence([position])
    return groups


def _common_shared(series: ImageSeries) -> Dataset:
    """Return the functional groups that CT and MR share."""
    measures = Dataset()
    measures.PixelSpacing = spacing_text(series.grid)
    measures.SliceThickness = decimal(series.thickness_mm)
    measures.SpacingBetweenSlices = decimal(series.grid.spacing_mm[0])
    plane = Dataset()
    plane.ImageOrientationPatient = orientation_text(series.grid.orientation)
    anatomy = Dataset()
    anatomy.FrameLaterality = "U"
    region = Dataset()
    region.CodeValue, region.CodeMeaning = _REGIONS[series.body_part]
    region.CodingSchemeDesignator = "SCT"
    anatomy.AnatomicRegionSequence = Sequence([region])
    rescale = Dataset()
    rescale.RescaleIntercept = decimal(FORMATS[series.cells].intercept)
    rescale.RescaleSlope = "1"
    rescale.RescaleType = "HU" if series.modality == "CT" else "US"
    lut = Dataset()
    centre, width = window(series)
    lut.WindowCenter, lut.WindowWidth = decimal(centre), decimal(width)
    groups = Dataset()
    groups.PixelMeasuresSequence = Sequence([measures])
    groups.PlaneOrientationSequence = Sequence([plane])
    groups.FrameAnatomySequence = Sequence([anatomy])
    groups.PixelValueTransformationSequence = Sequence([rescale])
    groups.FrameVOILUTSequence = Sequence([lut])
    return groups


def _frame_type(image_type: list[str]) -> Dataset:
    """Return the item that the CT and MR frame type macros have in common."""
    item = Dataset()
    item.FrameType = image_type
    item.PixelPresentation = "MONOCHROME"
    item.VolumetricProperties = "VOLUME"
    item.VolumeBasedCalculationTechnique = "NONE"
    return item


def _item(**elements: object) -> Sequence:
    """Return a sequence of one item with these elements."""
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return Sequence([item])


def _ct_shared(series: ImageSeries) -> Dataset:
    """Return the shared functional groups of an Enhanced CT."""
    groups = _common_shared(series)
    groups.CTImageFrameTypeSequence = Sequence(
        [_frame_type(["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])]
    )
    groups.CTAcquisitionTypeSequence = _item(
        AcquisitionType="SPIRAL", ConstantVolumeFlag="NO", FluoroscopyFlag="NO"
    )
    groups.CTAcquisitionDetailsSequence = _item(
        RotationDirection="CW",
        RevolutionTime=0.5,
        SingleCollimationWidth=1.0,
        TotalCollimationWidth=16.0,
        TableHeight=150.0,
        GantryDetectorTilt=0.0,
        DataCollectionDiameter=500.0,
    )
    groups.CTTableDynamicsSequence = _item(
        TableSpeed=32.0, TableFeedPerRotation=16.0, SpiralPitchFactor=1.0
    )
    groups.IrradiationEventIdentificationSequence = _item(
        IrradiationEventUID=series.instance_uid("irradiation")
    )
    groups.CTPositionSequence = _item(
        TablePosition=0.0,
        ReconstructionTargetCenterPatient=[0.0, 0.0, 0.0],
        DataCollectionCenterPatient=[0.0, 0.0, 0.0],
    )
    groups.CTGeometrySequence = _item(
        DistanceSourceToDetector=1000.0, DistanceSourceToDataCollectionCenter=550.0
    )
    groups.CTReconstructionSequence = _item(
        ReconstructionAlgorithm="FILTER_BACK_PROJ",
        ConvolutionKernel="PHANTOM",
        ConvolutionKernelGroup="LUNG",
        ReconstructionDiameter=decimal(series.grid.spacing_mm[2] * series.grid.shape[2]),
        ReconstructionPixelSpacing=list(series.grid.spacing_mm[1:]),
        ImageFilter="PHANTOM",
        ReconstructionAngle=360.0,
    )
    groups.CTExposureSequence = _item(
        ExposureTimeInms=500.0,
        XRayTubeCurrentInmA=200.0,
        ExposureInmAs=100.0,
        ExposureModulationType="NONE",
        CTDIvol=5.0,
        CTDIPhantomTypeCodeSequence=_item(
            CodeValue="113691",
            CodingSchemeDesignator="DCM",
            CodeMeaning="IEC Body Dosimetry Phantom",
        ),
    )
    groups.CTXRayDetailsSequence = _item(
        KVP="120",
        FocalSpots=[1.0],
        FilterType="FLAT",
        FilterMaterial="ALUMINUM",
        CalciumScoringMassFactorPatient=1.0,
    )
    return groups


def _mr_shared(series: ImageSeries) -> Dataset:
    """Return the shared functional groups of an Enhanced MR."""
    groups = _common_shared(series)
    frame_type = _frame_type(["ORIGINAL", "PRIMARY", "T2", "NONE"])
    frame_type.ComplexImageComponent = "MAGNITUDE"
    frame_type.AcquisitionContrast = "T2"
    groups.MRImageFrameTypeSequence = Sequence([frame_type])
    groups.MRTimingAndRelatedParametersSequence = _item(
        RepetitionTime="4000",
        FlipAngle="90",
        EchoTrainLength=16,
        RFEchoTrainLength=16,
        GradientEchoTrainLength=0,
        GradientOutputType="DB_DT",
        GradientOutput=0.0,
        SpecificAbsorptionRateSequence=_item(
            SpecificAbsorptionRateDefinition="IEC_WHOLE_BODY", SpecificAbsorptionRateValue=0.1
        ),
        OperatingModeSequence=_item(OperatingModeType="STATIC FIELD", OperatingMode="IEC_NORMAL"),
    )
    groups.MRFOVGeometrySequence = _item(
        InPlanePhaseEncodingDirection="ROW",
        MRAcquisitionFrequencyEncodingSteps=series.grid.shape[2],
        MRAcquisitionPhaseEncodingStepsInPlane=series.grid.shape[1],
        PercentSampling="100",
        PercentPhaseFieldOfView="100",
    )
    groups.MREchoSequence = _item(EffectiveEchoTime=90.0)
    groups.MRModifierSequence = _item(
        InversionRecovery="NO",
        FlowCompensation="NONE",
        Spoiling="NONE",
        T2Preparation="NO",
        SpectrallySelectedExcitation="NONE",
        SpatialPresaturation="NONE",
        PartialFourier="NO",
        ParallelAcquisition="NO",
    )
    groups.MRImagingModifierSequence = _item(
        MagnetizationTransfer="NONE",
        BloodSignalNulling="NO",
        Tagging="NONE",
        TransmitterFrequency=63.87,
        PixelBandwidth="200",
    )
    groups.MRReceiveCoilSequence = _item(
        ReceiveCoilName="PHANTOM",
        ReceiveCoilManufacturerName="LIMNER PHANTOM",
        ReceiveCoilType="BODY",
        QuadratureReceiveCoil="YES",
    )
    groups.MRTransmitCoilSequence = _item(
        TransmitCoilName="PHANTOM",
        TransmitCoilManufacturerName="LIMNER PHANTOM",
        TransmitCoilType="BODY",
    )
    groups.MRAveragesSequence = _item(NumberOfAverages="1")
    return groups
