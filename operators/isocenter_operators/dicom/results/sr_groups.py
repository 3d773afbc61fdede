"""The measurement groups of a report: one for each region, or for the images as a whole (PS3.16, TID 1500).

What a group is about decides its template: one segment, or a volume given by outlines or as a box, is TID 1411; an
outline, or one point, TID 1410; several segments, several points, or the images as a whole, TID 1501, which is
extensible and holds more than one reference where the others allow a single one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    CodedConcept,
    ContentItem,
    ContentSequence,
    FindingSite,
    GraphicTypeValues3D,
    ImageRegion3D,
    MeasurementsAndQualitativeEvaluations,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    ReferencedSegment,
    RelationshipTypeValues,
    Scoord3DContentItem,
    SourceImageForMeasurementGroup,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    VolumeSurface,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from highdicom.sr import Measurement as NumericMeasurement
from highdicom.sr.templates import Template
from pydicom.dataset import Dataset

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import (
    Box,
    Code,
    Contour,
    Measurement,
    MeasurementGroup,
    Points,
    Segment,
)
from isocenter_operators.dicom.header import referenced
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.dicom.results.region import Planes, closed_polygon, points_mm
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.errors import InputError, InvalidResult

__all__ = ["Grouping", "algorithm_identification", "comment", "concept"]

_SEG_CLASSES = {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}
_FINDING = CodedConcept("121071", "DCM", "Finding")
_LATERALITY = CodedConcept("272741003", "SCT", "Laterality")
_SOURCE_OF_MEASUREMENT = CodedConcept("121112", "DCM", "Source of Measurement")  # CID 7551


@dataclass(frozen=True)
class Grouping:
    """What all groups of one report share: what they point at, and who measured.

    seg: the segmentation whose segments they name; `segments`: what its numbers stand for.
    names_images: whether a group about the images as a whole names each of them. Where none does, all those of the
    image library are meant; readers such as highdicom say so too.
    """

    frames: tuple[Frame, ...]
    algorithm: Algorithm
    seg: Dataset | None = None
    segments: tuple[Segment, ...] = ()
    names_images: bool = True

    def group(self, group: MeasurementGroup, tracking: tuple[str, str]) -> Template:
        """The container of one group, alone in its sequence.

        Raises InvalidResult where what it is about is not there, or can not be pointed at.
        """
        self._refuse_unknown_segments(group)
        template = self._template(group, self._shared(group, tracking))
        content = template[0].ContentSequence
        if group.laterality is not None and not any(isinstance(item, FindingSite) for item in content):
            _name_side(content, group.laterality)
        content.extend(comment(text) for text in _comments(group))
        return template

    def _template(self, group: MeasurementGroup, shared: Mapping[str, Any]) -> Template:
        what = f'the region of "{group.label}"'
        match group.region:
            case None if group.segment_numbers:
                return self._of_segments(group.segment_numbers, shared)
            case None:
                sources = _sources(self.frames) if self.names_images else None
                return MeasurementsAndQualitativeEvaluations(**shared, source_images=sources)
            case Points() as points:
                return self._of_points(points, what, shared)
            case Contour() as contour:
                return self._of_contour(contour, what, shared)
            case Box() as box:
                return self._of_volume(self._planes.surface(box, what), what, shared)
            case contours:
                return self._of_volume(contours, what, shared)

    def _of_segments(self, numbers: Sequence[int], shared: Mapping[str, Any]) -> Template:
        references = [self._referenced_segment(number) for number in numbers]
        if len(references) == 1:
            return VolumetricROIMeasurementsAndQualitativeEvaluations(
                referenced_segment=references[0], **shared
            )
        template = MeasurementsAndQualitativeEvaluations(**shared)
        content = template[0].ContentSequence
        content.extend(reference[0] for reference in references)
        content.append(references[0][1])  # the source series, the same for each of them
        return template

    def _of_points(self, region: Points, what: str, shared: Mapping[str, Any]) -> Template:
        points = points_mm(region, what)
        frames = self._planes.nearest(points, what)
        if len(points) == 1:
            place = ImageRegion3D(GraphicTypeValues3D.POINT, points, self._frame_of_reference_uid)
            return self._planar(place, frames, shared)
        places = Scoord3DContentItem(
            _SOURCE_OF_MEASUREMENT,
            GraphicTypeValues3D.MULTIPOINT,
            points,
            self._frame_of_reference_uid,
            relationship_type=RelationshipTypeValues.CONTAINS,
        )
        template = MeasurementsAndQualitativeEvaluations(**shared, source_images=_sources(frames))
        template[0].ContentSequence.append(places)
        return template

    def _of_contour(self, contour: Contour, what: str, shared: Mapping[str, Any]) -> Template:
        vertices = closed_polygon(contour, what)
        outline = ImageRegion3D(GraphicTypeValues3D.POLYGON, vertices, self._frame_of_reference_uid)
        return self._planar(outline, self._planes.nearest(vertices, what), shared)

    def _planar(self, region: ImageRegion3D, frames: Sequence[Frame], shared: Mapping[str, Any]) -> Template:
        """TID 1410 has no image beside coordinates in space; readers that only know images need one."""
        template = PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=region, **shared)
        template[0].ContentSequence.extend(_sources(frames))
        return template

    def _of_volume(self, contours: Sequence[Contour], what: str, shared: Mapping[str, Any]) -> Template:
        if len(contours) < 2:
            raise InvalidResult(
                f"{what} is a volume of {len(contours)} outlines; it has at least two. A single one is given as itself"
            )
        polygons = [closed_polygon(contour, what) for contour in contours]
        for polygon in polygons:
            self._planes.nearest(polygon, what)
        surface = VolumeSurface(
            GraphicTypeValues3D.POLYGON,
            polygons,
            self._frame_of_reference_uid,
            source_series=SourceSeriesForSegmentation(self.frames[0].series_uid),
        )
        return VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_volume_surface=surface, **shared)

    def _shared(self, group: MeasurementGroup, tracking: tuple[str, str]) -> dict[str, Any]:
        site = group.site or self._site_of_segments(group)
        laterality = concept(group.laterality) if group.laterality else None
        return {
            "tracking_identifier": TrackingIdentifier(identifier=tracking[0], uid=tracking[1]),
            "finding_type": concept(group.finding),
            "finding_sites": [FindingSite(concept(site), laterality)] if site else [],
            "algorithm_id": algorithm_identification(self.algorithm),
            "measurements": [_measurement(m) for m in group.measurements if math.isfinite(m.value)],
            "qualitative_evaluations": [
                QualitativeEvaluation(concept(each.concept), concept(each.value))
                for each in group.evaluations
            ],
        }

    def _site_of_segments(self, group: MeasurementGroup) -> Code | None:
        """Where all of the group's segments are: the anatomy they lie in, or, where they are anatomy, themselves."""
        sites = {
            segment.anatomic_region or (group.finding if _is_anatomy(segment) else None)
            for segment in self.segments
            if segment.number in group.segment_numbers
        }
        return sites.pop() if len(sites) == 1 else None

    def _referenced_segment(self, number: int) -> ReferencedSegment:
        assert self.seg is not None
        return ReferencedSegment(
            sop_class_uid=str(self.seg.SOPClassUID),
            sop_instance_uid=str(self.seg.SOPInstanceUID),
            segment_number=number,
            source_series=SourceSeriesForSegmentation(self.frames[0].series_uid),
        )

    def _refuse_unknown_segments(self, group: MeasurementGroup) -> None:
        if not group.segment_numbers:
            return
        if group.region is not None:
            raise InvalidResult(
                f'the measurements of "{group.label}" name segments and a region; they are about one of them'
            )
        if self.seg is None:
            raise InvalidResult(
                f'the measurements of "{group.label}" name segments, but there is no segmentation'
            )
        if self.seg.SOPClassUID not in _SEG_CLASSES:
            raise InvalidResult(f"{self.seg.SOPInstanceUID} is not a segmentation but {self.seg.SOPClassUID}")
        known = {int(item.SegmentNumber) for item in self.seg.SegmentSequence} & {
            segment.number for segment in self.segments
        }
        unknown = set(group.segment_numbers) - known
        if unknown:
            raise InvalidResult(
                f'the measurements of "{group.label}" name segment {min(unknown)}; the segmentation has {sorted(known)}'
            )

    @cached_property
    def _planes(self) -> Planes:
        return Planes.of(self.frames)

    @property
    def _frame_of_reference_uid(self) -> str:
        uid = self.frames[0].instance.get("FrameOfReferenceUID")
        if not uid:
            series_uid = self.frames[0].series_uid
            raise InputError(
                f"series {series_uid} has no Frame of Reference UID, so coordinates can not be given in it; "
                "send the original images",
                series_uid=series_uid,
            )
        return str(uid)


def _name_side(content: Iterable[ContentItem], laterality: Code) -> None:
    """Of a finding whose site is not named, the side is its own modifier: it must not get lost."""
    for item in content:
        if item.name == _FINDING:
            side = CodeContentItem(_LATERALITY, concept(laterality), RelationshipTypeValues.HAS_CONCEPT_MOD)
            item.ContentSequence = ContentSequence([side])


def _is_anatomy(segment: Segment) -> bool:
    return segment.category[:2] == codes.ANATOMICAL_STRUCTURE[:2]


def _sources(frames: Sequence[Frame]) -> list[SourceImageForMeasurementGroup]:
    sources = []
    for item in referenced(frames):
        numbers = item.get("ReferencedFrameNumber")
        sources.append(
            SourceImageForMeasurementGroup(
                item.ReferencedSOPClassUID,
                item.ReferencedSOPInstanceUID,
                None
                if numbers is None
                else [int(n) for n in (numbers if hasattr(numbers, "__iter__") else [numbers])],
            )
        )
    return sources


def algorithm_identification(algorithm: Algorithm) -> AlgorithmIdentification:
    """TID 4019: the application; its models, as far as known by their weights, are its parameters."""
    parameters = [
        f"model {model.name} {model.version}"
        + "".join(f", weights SHA-256 {digest}" for digest in model.weights.values())
        for model in algorithm.model_algorithms
    ]
    return AlgorithmIdentification(
        name=algorithm.name, version=algorithm.version, parameters=parameters or None
    )


def _measurement(measurement: Measurement) -> NumericMeasurement:
    """TID 300: the number with unit and derivation."""
    return NumericMeasurement(
        name=concept(measurement.concept),
        value=float(measurement.value),
        unit=concept(measurement.unit),
        derivation=concept(measurement.derivation) if measurement.derivation else None,
    )


def _comments(group: MeasurementGroup) -> Iterable[str]:
    yield from group.notes
    for measurement in group.measurements:
        if not math.isfinite(measurement.value):
            yield f"{measurement.name}: there is no value, nothing could be measured"


def comment(text: str) -> ContentItem:
    return TextContentItem(concept(codes.COMMENT), text, RelationshipTypeValues.CONTAINS)


def concept(code: Code) -> CodedConcept:
    return CodedConcept(*code)
