"""Detections drawn on the images: Grayscale Softcopy Presentation States (PS3.3, A.33.1)."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from typing import Any

import numpy as np
from highdicom import SOPClass
from highdicom.color import CIELabColor
from highdicom.pr import GraphicGroup, GraphicLayer, GraphicObject, TextObject
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRLittleEndian, GrayscaleSoftcopyPresentationStateStorage
from pydicom.valuerep import format_number_as_ds

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Findings, MeasurementGroup
from isocenter_operators.dicom.header import DISCLAIMER, referenced, stamp
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.results.trace import FrameStack, Trace
from isocenter_operators.dicom.results.wording import group_heading, number, unit
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.tracking import group_tracking
from isocenter_operators.errors import InputError, InvalidResult, UnreadableInput

__all__ = ["presentation_states"]

_LAYER = "AI_FINDINGS"
_COLOUR = CIELabColor.from_rgb(255, 220, 0)
_LO, _ST = 64, 1024  # characters (PS3.5, 6.2)
_LEAST_WIDTHS = {"LINEAR": 1.0, "LINEAR_EXACT": 1e-6, "SIGMOID": 1e-6}  # C.11.2.1.2, C.11.2.1.3

# Rescale Slope, Rescale Intercept, Rescale Type; None where the stored values are what they mean.
_Modality = tuple[str, str, str] | None


def presentation_states(
    *,
    findings: Findings,
    frames: Sequence[Frame],
    algorithm: Algorithm,
    identity: JobIdentity,
    series_number: int = 9008,
    series_description: str | None = None,
    disclaimer: str = DISCLAIMER,
) -> tuple[SOPClass, ...]:
    """The findings that have a region, each drawn on the images where it is seen, with its name and how certain it is.

    A place is a point on the nearest image, an outline a line on the image that it lies on; of an outline that crosses
    the images, each shows where it is cut (see `FrameStack.traces`). Each drawing carries the tracking identifiers that
    the finding has in the report. What is drawn is a copy for the eye: the region itself stands in the report.

    A state refers to the images that it draws on and to no others, and shows them in the first window of their own. It
    can tell one modality transformation only (C.11.1): of images that differ in theirs, as those of PET, there is one
    state for each.

    Parameters
    ----------
    findings
        Groups without a region are left out.
    frames
        The image planes that they are about, in the order of Z, of one orientation; no pixels are needed.

    Raises InvalidResult where no group has a region, or a region lies on none of the images or more than half the
    distance between slices from every one; InputError where the images are in colour.
    """
    if not any(group.region is not None for group in findings.groups):
        raise InvalidResult("no finding has a place or an outline that could be drawn on the images")
    for frame in frames:
        if int(frame.instance.get("SamplesPerPixel") or 1) != 1:
            raise InputError(
                f"{frame.name} is in colour; a grayscale presentation state can not show it",
                series_uid=frame.series_uid,
            )
    annotations = _annotations(findings, frames, algorithm, identity)
    description = series_description or f"{algorithm.name} findings"
    states = []
    for place, (modality, shown) in enumerate(_by_modality(frames, annotations).items(), 1):
        state = SOPClass(
            study_instance_uid=str(shown[0].instance.StudyInstanceUID),
            series_instance_uid=identity.uid("pr.series"),
            series_number=series_number,
            sop_instance_uid=identity.uid(f"pr.{place}"),
            sop_class_uid=GrayscaleSoftcopyPresentationStateStorage,
            instance_number=place,
            modality="PR",
            manufacturer=algorithm.manufacturer,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            series_description=description[:_LO],
        )
        state.ContentLabel = "AI_FINDINGS"
        state.ContentDescription = description[:_LO]
        state.ContentCreatorName = None  # type 2
        state.Laterality = None  # of General Series, 2C: no body part is named
        _add_images(state, shown, modality)
        _add_graphics(state, [annotations[frame] for frame in shown], findings, algorithm)
        stamp(
            state,
            source=shown[0].instance,
            algorithm=algorithm,
            identity=identity,
            disclaimer=disclaimer,
            texts=[description, *(text for group in findings.groups for text in (group.label, _text(group)))],
        )
        state.PresentationCreationDate, state.PresentationCreationTime = state.ContentDate, state.ContentTime
        for keyword in (
            "ContentDate",
            "ContentTime",
            "ContentQualification",
        ):  # of images and of reports on them
            del state[keyword]
        states.append(state)
    return tuple(states)


def _by_modality(frames: Sequence[Frame], drawn_on: Container[Frame]) -> dict[_Modality, list[Frame]]:
    """The frames that are drawn on, in their order, by their modality transformation."""
    found: dict[_Modality, list[Frame]] = {}
    for frame in frames:
        if frame in drawn_on:
            found.setdefault(_modality(frame), []).append(frame)
    return found


def _modality(frame: Frame) -> _Modality:
    slope, intercept = frame.get("RescaleSlope"), frame.get("RescaleIntercept")
    if slope is None or intercept is None:
        return None
    kind = frame.get("RescaleType") or ("HU" if frame.get("Modality") == "CT" else "US")
    return format_number_as_ds(float(slope)), format_number_as_ds(float(intercept)), str(kind)


def _annotations(
    findings: Findings, frames: Sequence[Frame], algorithm: Algorithm, identity: JobIdentity
) -> dict[Frame, Dataset]:
    """Of each frame that is drawn on, the item of the Graphic Annotation Sequence (C.10.5)."""
    stack = FrameStack(frames)
    found: dict[Frame, Dataset] = {}
    for place, group in enumerate(findings.groups):
        if group.region is None:
            continue
        traces: dict[Frame, list[Trace]] = {}
        for trace in stack.traces(group.region, f'the region of "{group.label}"'):
            traces.setdefault(trace.frame, []).append(trace)
        tracking = group_tracking(group, place, algorithm, identity)
        for frame, seen in traces.items():
            if frame not in found:
                found[frame] = Dataset()
                found[frame].ReferencedImageSequence = referenced([frame])
                found[frame].GraphicLayer = _LAYER
                found[frame].GraphicObjectSequence, found[frame].TextObjectSequence = [], []
            belongs = _graphic_group(group, place)
            found[frame].GraphicObjectSequence.extend(_graphic(trace, tracking, belongs) for trace in seen)
            found[frame].TextObjectSequence.append(_label(_text(group), seen, tracking, belongs))
    return found


def _graphic(trace: Trace, tracking: tuple[str, str], group: GraphicGroup) -> GraphicObject:
    graphic = GraphicObject(
        trace.kind,
        trace.points,
        "PIXEL",
        tracking_id=tracking[0],
        tracking_uid=tracking[1],
        graphic_group=group,
    )
    if trace.kind == "POINT":
        del graphic.GraphicFilled  # 1C: only of what is closed
    return graphic


def _label(text: str, traces: Sequence[Trace], tracking: tuple[str, str], group: GraphicGroup) -> TextObject:
    """The text, tied to the uppermost point of what it is about."""
    points = np.concatenate([trace.points for trace in traces])
    column, row = points[points[:, 1].argmin()]
    return TextObject(
        text,
        "PIXEL",
        anchor_point=(float(column), float(row)),
        tracking_id=tracking[0],
        tracking_uid=tracking[1],
        graphic_group=group,
    )


def _text(group: MeasurementGroup) -> str:
    """What it is, and how certain that is where it was measured: "Nodule (left): 87.5 %"."""
    text = group_heading(group)
    for measurement in group.measurements:
        if measurement.concept[:2] == codes.CERTAINTY_OF_FINDING[:2] and math.isfinite(measurement.value):
            text = f"{text}: {number(measurement)} {unit(measurement.unit)}".rstrip()
    return text[:_ST]


def _graphic_group(group: MeasurementGroup, place: int) -> GraphicGroup:
    """Drawings and text of one finding belong together (C.10.11)."""
    label = group.label.replace("\\", "/")  # which would part it into two values
    return GraphicGroup(place + 1, label[:_LO], description=label[:_ST] if len(label) > _LO else None)


def _add_images(state: Dataset, shown: Sequence[Frame], modality: _Modality) -> None:
    """Which images, and how each is shown: C.11.11, C.10.4, C.11.1, C.11.8, C.11.6."""
    first = shown[0]
    series = Dataset()
    series.SeriesInstanceUID = first.series_uid
    series.ReferencedImageSequence = referenced(shown)
    state.ReferencedSeriesSequence = [series]
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = list(first.shape[::-1])
    area.PresentationSizeMode = "SCALE TO FIT"
    area.PresentationPixelSpacing = [format_number_as_ds(value) for value in first.spacing_mm]
    state.DisplayedAreaSelectionSequence = [area]
    if modality is not None:
        state.RescaleSlope, state.RescaleIntercept, state.RescaleType = modality
    windows = _windows(shown)
    if windows:
        state.SoftcopyVOILUTSequence = windows
    inverse = first.instance.get("PhotometricInterpretation") == "MONOCHROME1"
    state.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"


def _windows(shown: Sequence[Frame]) -> list[Dataset]:
    """The first window of each image, those with the same one together. None where the images have none."""
    by_window: dict[tuple[float, float, str], list[Frame]] = {}
    for frame in shown:
        window = _window(frame)
        if window is not None:
            by_window.setdefault(window, []).append(frame)
    items = []
    for (centre, width, function), frames in by_window.items():
        item = Dataset()
        if len(frames) < len(shown):
            item.ReferencedImageSequence = referenced(frames)
        item.WindowCenter, item.WindowWidth = format_number_as_ds(centre), format_number_as_ds(width)
        if function != "LINEAR":
            item.VOILUTFunction = function
        items.append(item)
    return items


def _window(frame: Frame) -> tuple[float, float, str] | None:
    try:
        centre, width = (_first_number(frame.get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
        function = str(frame.get("VOILUTFunction") or "LINEAR")
    except UnreadableInput:  # a window is a proposal, without which the image can be shown too
        return None
    if (
        centre is None
        or width is None
        or function not in _LEAST_WIDTHS
        or not width >= _LEAST_WIDTHS[function]
    ):
        return None
    return centre, width, function


def _first_number(value: Any) -> float | None:
    first = value[0] if isinstance(value, MultiValue | list) and value else value
    try:
        number = float(first)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _add_graphics(
    state: Dataset, annotations: list[Dataset], findings: Findings, algorithm: Algorithm
) -> None:
    """C.10.5, C.10.7, C.10.11."""
    state.GraphicAnnotationSequence = annotations
    used = {int(graphic.GraphicGroupID) for item in annotations for graphic in item.GraphicObjectSequence}
    state.GraphicGroupSequence = [
        _graphic_group(group, place) for place, group in enumerate(findings.groups) if place + 1 in used
    ]
    state.GraphicLayerSequence = [
        GraphicLayer(
            _LAYER, 1, f"{algorithm.name} {algorithm.version}".replace("\\", "/")[:_LO], display_color=_COLOUR
        )
    ]
