"""What a Grayscale Softcopy Presentation State has to fulfil (PS3.3, A.33.1) for its drawings to be shown."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

from isocenter_operators.dicom.rules.problem import Problem, absent, error

__all__ = ["presentation_state_problems"]

_SHAPES = {
    "POINT": 1,
    "POLYLINE": None,
    "INTERPOLATED": None,
    "CIRCLE": 2,
    "ELLIPSE": 4,
}  # points (C.10.5.1.2)
_UNITS = {"PIXEL", "DISPLAY", "MATRIX"}


def presentation_state_problems(state: Dataset) -> Iterator[Problem]:
    """Every problem of one presentation state."""
    required = (
        "ContentLabel",
        "PresentationCreationDate",
        "PresentationCreationTime",
        "DisplayedAreaSelectionSequence",
    )
    yield from absent(state, (*required, "ReferencedSeriesSequence"))
    if not state.get("PresentationLUTShape") and not state.get("PresentationLUTSequence"):
        yield error("PresentationLUTShape", "is missing, as is a Presentation LUT (C.11.6)")
    images: set[str] = set()
    for series in state.get("ReferencedSeriesSequence") or []:
        yield from absent(
            series, ("SeriesInstanceUID", "ReferencedImageSequence"), "ReferencedSeriesSequence: "
        )
        images |= _images(series)
    layers = [str(item.get("GraphicLayer")) for item in state.get("GraphicLayerSequence") or []]
    for number, annotation in enumerate(state.get("GraphicAnnotationSequence") or [], 1):
        yield from _annotation_problems(annotation, layers, images, f"annotation {number}: ")
    for area in state.get("DisplayedAreaSelectionSequence") or []:
        where = "DisplayedAreaSelectionSequence: "
        yield from absent(
            area,
            ("DisplayedAreaTopLeftHandCorner", "DisplayedAreaBottomRightHandCorner", "PresentationSizeMode"),
            where,
        )
        if not _images(area) <= images:
            yield error(f"{where}ReferencedImageSequence", "names an image that the state does not list")


def _annotation_problems(
    annotation: Dataset, layers: list[str], images: set[str], where: str
) -> Iterator[Problem]:
    if annotation.get("GraphicLayer") not in layers:
        yield error(f"{where}GraphicLayer", "is not among the graphic layers: it will not be shown")
    if not _images(annotation) <= images:
        yield error(f"{where}ReferencedImageSequence", "names an image that the state does not list")
    if not annotation.get("GraphicObjectSequence") and not annotation.get("TextObjectSequence"):
        yield error(f"{where}GraphicObjectSequence", "is missing, as is a text: nothing is annotated")
    for graphic in annotation.get("GraphicObjectSequence") or []:
        yield from _graphic_problems(graphic, where)
    for text in annotation.get("TextObjectSequence") or []:
        yield from absent(text, ("UnformattedTextValue",), where)
        if "AnchorPoint" not in text and "BoundingBoxTopLeftHandCorner" not in text:
            yield error(f"{where}TextObjectSequence", "has neither an anchor point nor a bounding box")


def _graphic_problems(graphic: Dataset, where: str) -> Iterator[Problem]:
    required = (
        "GraphicAnnotationUnits",
        "GraphicDimensions",
        "NumberOfGraphicPoints",
        "GraphicData",
        "GraphicType",
    )
    lacking = list(absent(graphic, required, where))
    yield from lacking
    if lacking:
        return
    count, kind = int(graphic.NumberOfGraphicPoints), graphic.GraphicType
    if graphic.GraphicAnnotationUnits not in _UNITS:
        yield error(f"{where}GraphicAnnotationUnits", "is not PIXEL, DISPLAY or MATRIX")
    if kind not in _SHAPES:
        yield error(f"{where}GraphicType", "is none of PS3.3, C.10.5.1.2")
    elif _SHAPES[kind] not in (None, count):
        yield error(f"{where}NumberOfGraphicPoints", f"is {count}; a {kind} has {_SHAPES[kind]}")
    if len(graphic.GraphicData) != 2 * count:
        yield error(f"{where}GraphicData", "is not two numbers for each of the Number of Graphic Points")


def _images(item: Dataset) -> set[str]:
    return {str(image.get("ReferencedSOPInstanceUID")) for image in item.get("ReferencedImageSequence") or []}
