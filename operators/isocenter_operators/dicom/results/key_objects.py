"""Key Object Selection Documents (PS3.3, A.35.4; TID 2010): the key images, and all results of a job as one set."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset

from isocenter_operators.dicom.header import DISCLAIMER, PATIENT_AND_STUDY, referenced, stamp
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.results.key_frames import KeyFrame
from isocenter_operators.dicom.results.observer import device_observer
from isocenter_operators.dicom.results.wording import image_number
from isocenter_operators.dicom.series.frame import Frame, instances_of
from isocenter_operators.errors import InvalidResult

__all__ = ["key_images", "result_set"]

# CID 7010. Its other titles say what a selection is for (a conference, printing, a manifest for sharing), or judge the
# images (best in set, quality issue): of a computed selection none of them is true.
_TITLE = CodedConcept("113000", "DCM", "Of Interest")
_KINDS = {
    "DOC": "document",
    "KO": "key object selection",
    "PR": "presentation state",
    "RTSTRUCT": "structure set",
    "SEG": "segmentation",
    "SR": "report",
}


def key_images(
    *,
    selected: Sequence[KeyFrame],
    algorithm: Algorithm,
    identity: JobIdentity,
    series_number: int = 9009,
    series_description: str | None = None,
    disclaimer: str = DISCLAIMER,
) -> KeyObjectSelectionDocument:
    """The images to look at first, and why each: of a multi-frame instance, its frames.

    Raises InvalidResult where there are none.
    """
    if not selected:
        raise InvalidResult("there is no key image to select")
    frames = [key.frame for key in selected]
    why = ", ".join(f"{image_number(key.frame)} ({'; '.join(key.reasons)})" for key in selected)
    return _document(
        objects=[_reference(instance, image=True) for instance in instances_of(frames)],
        frames=frames,
        source=frames[0].instance,
        text=f"Key images chosen by {algorithm.name} {algorithm.version}: {why}. {disclaimer}.",
        role="ko.images",
        number=1,
        algorithm=algorithm,
        identity=identity,
        series_number=series_number,
        description=series_description or f"{algorithm.name} key objects",
        disclaimer=disclaimer,
    )


def result_set(
    *,
    results: Sequence[Dataset],
    source: Dataset,
    algorithm: Algorithm,
    identity: JobIdentity,
    series_number: int = 9009,
    series_description: str | None = None,
    disclaimer: str = DISCLAIMER,
) -> KeyObjectSelectionDocument:
    """All that one job made, across its series, so that it can be found and fetched as a whole.

    `source`: one of the images that the results are about.

    Raises InvalidResult where there are no results, or one is of another study.
    """
    if not results:
        raise InvalidResult("there is no result to select")
    if {str(result.StudyInstanceUID) for result in results} != {str(source.StudyInstanceUID)}:
        raise InvalidResult(f"study {source.StudyInstanceUID}: a result is of another study")
    return _document(
        objects=[_reference(result, image="Rows" in result) for result in results],
        frames=(),
        source=source,
        text=f"All results of {algorithm.name} {algorithm.version} on these images: {_counted(results)}. {disclaimer}.",
        role="ko.results",
        number=2,
        algorithm=algorithm,
        identity=identity,
        series_number=series_number,
        description=series_description or f"{algorithm.name} key objects",
        disclaimer=disclaimer,
    )


def _document(
    *,
    objects: Sequence[Dataset],
    frames: Sequence[Frame],
    source: Dataset,
    text: str,
    role: str,
    number: int,
    algorithm: Algorithm,
    identity: JobIdentity,
    series_number: int,
    description: str,
    disclaimer: str,
) -> KeyObjectSelectionDocument:
    for keyword in PATIENT_AND_STUDY:
        setattr(objects[0], keyword, None)
    content = KeyObjectSelection(
        document_title=_TITLE,
        referenced_objects=objects,
        observer_device_context=device_observer(algorithm),
        description=text,
    )
    _name_frames(content[0], frames)
    document = KeyObjectSelectionDocument(
        evidence=objects,
        content=content,
        series_instance_uid=identity.uid("ko.series"),
        series_number=series_number,
        sop_instance_uid=identity.uid(role),
        instance_number=number,
        manufacturer=algorithm.manufacturer,
        series_description=description[:64],
    )
    stamp(
        document,
        source=source,
        algorithm=algorithm,
        identity=identity,
        disclaimer=disclaimer,
        texts=[text, description],
    )
    del document.ContentQualification  # of images and of reports on them; this IOD has none
    return document


def _name_frames(root: Dataset, frames: Sequence[Frame]) -> None:
    """highdicom refers to instances; of the multi-frame ones only some frames are meant."""
    items = {str(item.ReferencedSOPInstanceUID): item for item in referenced(frames)}
    for item in root.ContentSequence:
        for reference in item.get("ReferencedSOPSequence", ()):
            wanted = items.get(str(reference.ReferencedSOPInstanceUID), Dataset())
            if "ReferencedFrameNumber" in wanted:
                reference.ReferencedFrameNumber = wanted.ReferencedFrameNumber


def _reference(instance: Dataset, *, image: bool) -> Dataset:
    """As much of an instance as a reference to it needs."""
    reference = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(reference, keyword, str(instance[keyword].value))
    if image:
        reference.Rows = reference.Columns = 1  # by which highdicom knows an image
    return reference


def _counted(results: Sequence[Dataset]) -> str:
    kinds = [_KINDS.get(str(each.Modality), "image") for each in results]
    return ", ".join(
        f"{kinds.count(kind)} {kind}{'' if kinds.count(kind) == 1 else 's'}" for kind in dict.fromkeys(kinds)
    )
