"""Which results are in the archive, counted in Orthanc itself, over QIDO-RS and WADO-RS alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from archive_count import rejected_by
from pydicom import dcmread
from pydicom.dataset import Dataset

from chaos.installation import POLICIES
from chaos.modality import Study
from isocenter_operators.dicomweb.client import DICOMwebClient

__all__ = ["Count", "count"]

_RESULTS = {"SEG", "SR"}
_EACH_ONCE = Counter(_RESULTS)
_MANY = "100000"
_CT = "1.2.840.10008.5.1.4.1.1.2"
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_SERVICE = "isocenter"  # as the maker of notes on how jobs ended

_Key = tuple[str, frozenset[str]]  # application, the images that a result was made from


@dataclass
class Count:
    """What was found. `lost` and `double` say in words which."""

    images: int = 0
    instances: int = 0  # results of any kind
    current: int = 0  # sets of results
    superseded: int = 0  # sets of results that are marked, as their policy has it
    lost: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    images_missing: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not (self.lost or self.double or self.images_missing)


def count(dicomweb_url: str, studies: Iterable[Study], replaced: Iterable[tuple[str, str]] = ()) -> Count:
    """Compare what the archive holds with what should be there. Raises ArchiveUnavailable.

    `replaced`: studies (their UIDs) and applications that had results before more images came. Theirs have to be there
    and marked, unless their policy is to delete them.
    """
    total = Count()
    earlier: dict[str, set[str]] = defaultdict(set)
    for study_uid, application in replaced:
        earlier[study_uid].add(application)
    with DICOMwebClient(dicomweb_url) as client:
        sent = list(studies)
        there = {_first(each, "0020000D") for each in client.search_studies(limit=_MANY)}
        total.double += [f"study {uid} was never sent" for uid in there - {each.uid for each in sent}]
        for study in sent:
            _count(client, study, earlier[study.uid], total)
    return total


def _count(client: DICOMwebClient, study: Study, earlier: set[str], total: Count) -> None:
    results: list[tuple[str, Dataset]] = []
    notes: list[Dataset] = []
    rejected: set[str] = set()
    there: set[str] = set()
    for series in client.search_series(study.uid):
        series_uid, modality = _first(series, "0020000E"), _first(series, "00080060")
        found = {
            _first(each, "00080018") for each in client.search_instances(study.uid, series_uid, limit=_MANY)
        }
        if modality == "CT":
            there |= found
            continue
        instances = [dcmread(BytesIO(each)) for each in client.retrieve_series(study.uid, series_uid)]
        assert {str(each.SOPInstanceUID) for each in instances} == found, "QIDO-RS and WADO-RS differ"
        for instance in instances:
            if modality == "KO":
                rejected |= rejected_by(instance)
            elif instance.ManufacturerModelName == _SERVICE:
                notes.append(instance)
            else:
                assert modality in _RESULTS, f"a result of modality {modality}"
                results.append((str(instance.ManufacturerModelName), instance))
    total.instances += len(results)
    wanted = {str(image.SOPInstanceUID) for image in study.images}
    total.images += len(there)
    if there != wanted:
        total.images_missing.append(f"study {study.uid} has {len(there)} images of {len(wanted)}")
    _refute(study, [each for each in notes if str(each.SOPInstanceUID) not in rejected], total)
    marked = _compare(study, _sets(results), rejected, total)
    for application in sorted(earlier - {each for each, _ in marked}):
        if POLICIES[application] != "delete":
            total.lost.append(
                f"{_named(study)}: {application}'s earlier results are gone, and were to be kept"
            )


def _refute(study: Study, notes: Iterable[Dataset], total: Count) -> None:
    """A note that there is no result, valid beside the result, would be a lie; so would two of the same."""
    told = Counter((_told_of(each), _sources(each)) for each in notes)
    for (application, sources), number in told.items():
        named = f"{_named(study)}: {application} on {len(sources)} images"
        if (application, sources) in study.expected:
            total.double.append(f"{named}: a note that it has no result")
        elif number > 1:
            total.double.append(f"{named}: {number} notes on how it ended")


def _told_of(note: Dataset) -> str:
    names = (each for each in note.ContentSequence if each.get("ConceptNameCodeSequence"))  # images have none
    (name,) = (each for each in names if each.ConceptNameCodeSequence[0].CodeValue == "111001")
    return str(name.TextValue)


def _compare(study: Study, sets: dict[_Key, list[Dataset]], rejected: set[str], total: Count) -> set[_Key]:
    """Count what there is, and what is wrong with it; give the sets that are marked as not to go by."""
    current: set[_Key] = set()
    marked: set[_Key] = set()
    for (application, sources), instances in sets.items():
        named = f"{_named(study)}: {application} on {len(sources)} images"
        valid = [each for each in instances if str(each.SOPInstanceUID) not in rejected]
        if not valid:
            marked.add((application, sources))
        elif (application, sources) not in study.expected:
            total.double.append(f"{named}: results that nothing replaced or took back ({_modalities(valid)})")
        elif Counter(str(each.Modality) for each in valid) > _EACH_ONCE:
            total.double.append(f"{named}: {_modalities(valid)}")
        elif Counter(str(each.Modality) for each in valid) == _EACH_ONCE:
            current.add((application, sources))
            total.current += 1
        else:
            total.lost.append(f"{named}: only {_modalities(valid)} of its results")
            current.add((application, sources))  # told
    for application, sources in study.expected - current:
        total.lost.append(f"{_named(study)}: {application} on {len(sources)} images has no results")
    for application, sources in marked:
        named = f"{_named(study)}: {application} on {len(sources)} images"
        if POLICIES[application] == "delete":
            total.double.append(f"{named}: marked, and should have been deleted")
        elif not any(each == application and sources < larger for each, larger in current):
            total.double.append(f"{named}: marked, and nothing replaced it")
        else:
            total.superseded += 1
    return marked


def _named(study: Study) -> str:
    return f"{study.kind} study {study.uid}"


def _sets(results: Iterable[tuple[str, Dataset]]) -> dict[_Key, list[Dataset]]:
    """The results by what made them. A Segmentation belongs to the report that refers to it."""
    sets: dict[_Key, list[Dataset]] = defaultdict(list)
    reported: dict[str, _Key] = {}
    for application, result in results:
        if result.Modality == "SR":
            key = (application, _sources(result))
            sets[key].append(result)
            reported.update(dict.fromkeys(_referenced(result, _SEGMENTATION), key))
    for application, result in results:
        if result.Modality == "SEG":
            alone = (application, _sources(result))
            sets[reported.get(str(result.SOPInstanceUID), alone)].append(result)
    return sets


def _modalities(instances: Iterable[Dataset]) -> str:
    return ", ".join(sorted(str(each.Modality) for each in instances))


def _sources(result: Dataset) -> frozenset[str]:
    """The CT images that a result names as what it was made from."""
    if result.Modality == "SEG":
        series = result.ReferencedSeriesSequence
        return frozenset(
            str(each.ReferencedSOPInstanceUID) for item in series for each in item.ReferencedInstanceSequence
        )
    return frozenset(_referenced(result, _CT))


def _referenced(document: Dataset, sop_class_uid: str | None = None) -> set[str]:
    """The instances that a report or a note names as its evidence (PS3.3, C.17.2.1): all, or those of one class."""
    return {
        str(each.ReferencedSOPInstanceUID)
        for item in document.CurrentRequestedProcedureEvidenceSequence
        for series in item.ReferencedSeriesSequence
        for each in series.ReferencedSOPSequence
        if sop_class_uid in (None, str(each.ReferencedSOPClassUID))
    }


def _first(attributes: dict[str, Any], tag: str) -> str:
    return str(attributes[tag]["Value"][0])
