"""MR series in which an independent checker finds no error: what the written test series lack and real exports have."""

from typing import Any

from pydicom import Dataset
from pydicom.uid import generate_uid

from dicom_files import Series, enhanced

_WHEN = "20240131101112"
_UID = generate_uid(entropy_srcs=["dimensions"])

# beside the elements of the written series
COMMON: dict[str, Any] = {
    "FrameOfReferenceUID": generate_uid(entropy_srcs=["frame"]),
    "PositionReferenceIndicator": "",
    "PatientPosition": "HFS",
    "OtherPatientIDs": None,
    "PatientAddress": None,
}
CLASSIC = COMMON | {"ScanOptions": "", "MRAcquisitionType": "2D", "EchoTrainLength": "1"}
_NO = dict.fromkeys(
    (
        *("MultiPlanarExcitation", "PhaseContrast", "TimeOfFlightContrast", "EchoPlanarPulseSequence"),
        *("SaturationRecovery", "BurnedInAnnotation"),
    ),
    "NO",
)
_NONE = dict.fromkeys(
    (
        *("KSpaceFiltering", "VolumeBasedCalculationTechnique", "SteadyStatePulseSequence"),
        *("SpectrallySelectedSuppression", "OversamplingPhase"),
    ),
    "NONE",
)


def item(**values: Any) -> Dataset:
    """A dataset of these elements."""
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


ENHANCED = COMMON | {
    "InstanceNumber": 1,
    "ContentDate": _WHEN[:8],
    "ContentTime": _WHEN[8:],
    "AcquisitionDateTime": _WHEN,
    "AcquisitionDuration": 100.0,
    "DeviceSerialNumber": "4242",
    "ManufacturerModelName": "Skyra",
    "SoftwareVersions": "E11",
    "ContentQualification": "PRODUCT",
    "ResonantNucleus": "1H",
    "MagneticFieldStrength": 3.0,
    "ApplicableSafetyStandardAgency": "IEC",
    "PixelPresentation": "MONOCHROME",
    "VolumetricProperties": "VOLUME",
    "PresentationLUTShape": "IDENTITY",
    "LossyImageCompression": "00",
    "AcquisitionContextSequence": [],
    "PulseSequenceName": "tse",
    "MRAcquisitionType": "2D",
    "EchoPulseSequence": "SPIN",
    "MultipleSpinEcho": "YES",
    "GeometryOfKSpaceTraversal": "RECTILINEAR",
    "SegmentedKSpaceTraversal": "SINGLE",
    "RectilinearPhaseEncodeReordering": "LINEAR",
    "NumberOfKSpaceTrajectories": 1,
    **_NO,
    **_NONE,
    **dict.fromkeys(("ScanningSequence", "SequenceVariant", "EchoTime", "RepetitionTime")),  # of classic images only
    "DimensionOrganizationSequence": [item(DimensionOrganizationUID=_UID)],
    "DimensionIndexSequence": [
        item(DimensionOrganizationUID=_UID, DimensionIndexPointer=pointer, FunctionalGroupPointer=0x00209111)
        for pointer in (0x00209056, 0x00209057)  # StackID, InStackPositionNumber
    ],
}
_FRAME_TYPE = {
    "FrameType": ["ORIGINAL", "PRIMARY", "T2", "NONE"],
    "PixelPresentation": "MONOCHROME",
    "VolumetricProperties": "VOLUME",
    "VolumeBasedCalculationTechnique": "NONE",
    "ComplexImageComponent": "MAGNITUDE",
    "AcquisitionContrast": "T2",
}
_TIMING = {
    "RepetitionTime": 5000,
    "FlipAngle": 90,
    "EchoTrainLength": 8,
    "RFEchoTrainLength": 8,
    "GradientEchoTrainLength": 0,
    "GradientOutputType": "DB_DT",
    "GradientOutput": 1,
    "SpecificAbsorptionRateSequence": [
        item(SpecificAbsorptionRateDefinition="IEC_HEAD", SpecificAbsorptionRateValue=1.0)
    ],
    "OperatingModeSequence": [item(OperatingModeType="GRADIENT", OperatingMode="IEC_NORMAL")],
}
_MODIFIER = {
    **dict.fromkeys(("InversionRecovery", "T2Preparation", "PartialFourier", "ParallelAcquisition"), "NO"),
    **dict.fromkeys(("FlowCompensation", "Spoiling", "SpectrallySelectedExcitation", "SpatialPresaturation"), "NONE"),
}
_HEAD = item(CodeValue="69536005", CodingSchemeDesignator="SCT", CodeMeaning="Head")
_COIL = {"CoilName": "HEAD", "CoilManufacturerName": "", "CoilType": "BODY"}
_SHARED = {
    "MRImageFrameTypeSequence": _FRAME_TYPE,
    "FrameAnatomySequence": {"FrameLaterality": "U", "AnatomicRegionSequence": [_HEAD]},
    "MRTimingAndRelatedParametersSequence": _TIMING,
    "MREchoSequence": {"EffectiveEchoTime": 100.0},
    "MRModifierSequence": _MODIFIER,
    "MRImagingModifierSequence": {
        **{"MagnetizationTransfer": "NONE", "BloodSignalNulling": "NO", "Tagging": "NONE"},
        **{"TransmitterFrequency": 123.0, "PixelBandwidth": 200.0},
    },
    "MRReceiveCoilSequence": {f"Receive{k}": v for k, v in _COIL.items()} | {"QuadratureReceiveCoil": "YES"},
    "MRTransmitCoilSequence": {f"Transmit{k}": v for k, v in _COIL.items()},
    "MRAveragesSequence": {"NumberOfAverages": 1.0},
    "MRFOVGeometrySequence": {
        "InPlanePhaseEncodingDirection": "ROW",
        **dict.fromkeys(("MRAcquisitionFrequencyEncodingSteps", "MRAcquisitionPhaseEncodingStepsInPlane"), 20),
        **dict.fromkeys(("PercentSampling", "PercentPhaseFieldOfView"), 100.0),
    },
}


def valid_enhanced(series: Series, order: list[int]) -> Dataset:
    """`enhanced` with all that the standard demands of an enhanced MR image; `series.tags` should be `ENHANCED`."""
    dataset = enhanced(series, order)
    (shared,) = dataset.SharedFunctionalGroupsSequence
    for name, values in _SHARED.items():
        setattr(shared, name, [item(**values)])
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        (content,) = frame.FrameContentSequence
        content.FrameReferenceDateTime = content.FrameAcquisitionDateTime = _WHEN
        content.FrameAcquisitionNumber, content.FrameAcquisitionDuration = 1, 100.0
        content.DimensionIndexValues = [1, content.InStackPositionNumber]
    return dataset
