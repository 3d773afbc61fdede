"""What a package wrote becomes a result of the job: the same UIDs each time, references kept, nobody else's patient."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from result_cases import findings_of, phantom_case, report_of, seg_of

from isocenter.rules import Series, attributes_of, is_our_own
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.results.package_results import as_results
from isocenter_operators.dicom.rules.validate import check
from isocenter_operators.errors import InvalidResult

DIGEST = f"sha256:{'a' * 64}"
ALGORITHM = Algorithm("map://liver", "2.0.1", manufacturer="ACME", weights={"map://liver": "a" * 64})


@pytest.fixture(scope="module")
def made() -> tuple[dict[str, Dataset], list[tuple[str, Dataset]]]:
    """The images, and a SEG and a report about it as a package writes them."""
    volume, labels = phantom_case(size=(32, 32, 8), spacing_mm=(11.0, 11.0, 36.0))
    seg = seg_of(volume, labels)
    report = report_of(volume, findings_of(volume, labels), seg)
    sources = {str(source.SOPInstanceUID): source for source in volume.sources}
    return sources, [("b.dcm", report), ("a.dcm", seg)]


def _run(
    sources: dict[str, Dataset],
    written: list[tuple[str, Dataset]],
    change: Callable[[Dataset], object] = lambda _: None,
) -> list[Dataset]:
    """One run: the package makes up UIDs of its own, and files' names too."""
    uids = {str(each.SOPInstanceUID): generate_uid() for _, each in written}
    uids |= {str(each.SeriesInstanceUID): generate_uid() for _, each in written}
    fresh = []
    for _, dataset in written:
        copy = deepcopy(dataset)
        copy.walk(lambda _, element: _renamed(element, uids))
        change(copy)
        fresh.append((f"{copy.SOPInstanceUID}.dcm", copy))
    identity = JobIdentity.of(sources, ALGORITHM, datetime(2026, 11, 26, tzinfo=UTC))
    return as_results(
        fresh, sources, identity=identity, algorithm=ALGORITHM, digest=DIGEST, disclaimer="Research use only"
    )


def _renamed(element: object, uids: dict[str, str]) -> None:
    if element.VR == "UI" and str(element.value) in uids:  # type: ignore[attr-defined]
        element.value = uids[str(element.value)]  # type: ignore[attr-defined]


def test_two_runs_make_the_same_objects(made: tuple[dict[str, Dataset], list[tuple[str, Dataset]]]) -> None:
    one, other = _run(*made), _run(*made)
    assert [str(each.SOPInstanceUID) for each in one] == [str(each.SOPInstanceUID) for each in other]
    assert [str(each.SeriesInstanceUID) for each in one] == [str(each.SeriesInstanceUID) for each in other]
    assert len({str(each.SeriesInstanceUID) for each in one}) == 2
    assert all(each.file_meta.MediaStorageSOPInstanceUID == each.SOPInstanceUID for each in one)


def test_objects_that_nothing_tells_apart_but_their_content_keep_their_uids(
    made: tuple[dict[str, Dataset], list[tuple[str, Dataset]]],
) -> None:
    """Of two that changed their UIDs between two tries an archive would keep one twice, and lose the other."""
    sources, ((_, report), _) = made
    twins = []
    for said in ("left", "right"):
        twin = deepcopy(report)
        twin.SOPInstanceUID = generate_uid()
        twin.ContentSequence[-1].TextValue = said
        twins.append((said, twin))
    runs = []
    for names in (("a.dcm", "b.dcm"), ("b.dcm", "a.dcm")):
        written = [(name, deepcopy(twin)) for name, (_, twin) in zip(names, twins, strict=True)]
        for _, each in written:
            each.ContentTime = "120000" if names[0] == "a.dcm" else "130000"
        identity = JobIdentity.of(sources, ALGORITHM, datetime(2026, 11, 26, tzinfo=UTC))
        found = as_results(
            written, sources, identity=identity, algorithm=ALGORITHM, digest=DIGEST, disclaimer=""
        )
        runs.append({each.ContentSequence[-1].TextValue: str(each.SOPInstanceUID) for each in found})
    assert runs[0] == runs[1]


def test_references_lead_where_they_did(made: tuple[dict[str, Dataset], list[tuple[str, Dataset]]]) -> None:
    results = {each.Modality: each for each in _run(*made)}
    referenced = {
        str(element.value)
        for element in results["SR"].iterall()
        if element.keyword in ("ReferencedSOPInstanceUID", "SeriesInstanceUID")
    }
    assert {str(results["SEG"].SOPInstanceUID), str(results["SEG"].SeriesInstanceUID)} <= referenced
    others = {**made[0], **{str(each.SOPInstanceUID): each for each in results.values()}}
    for each in results.values():
        check(each, others)


def test_the_package_is_named_and_its_results_are_ours(
    made: tuple[dict[str, Dataset], list[tuple[str, Dataset]]],
) -> None:
    for result in _run(*made, lambda each: setattr(each, "Manufacturer", "ACME")):
        maker = result.ContributingEquipmentSequence[-1]
        assert (maker.Manufacturer, maker.ManufacturerModelName, maker.SoftwareVersions) == (
            "ACME",
            "map://liver",
            "2.0.1",
        )
        assert DIGEST in maker.ContributionDescription
        assert maker.DeviceUID == ALGORITHM.device_uid
        assert is_our_own(Series("1", "2", 1, attributes_of(result), lambda: ()))


REFUSED: list[tuple[str, Callable[[Dataset], object]]] = [
    ("another study", lambda each: setattr(each, "StudyInstanceUID", "1.2.3")),
    ("another Patient ID", lambda each: setattr(each, "PatientID", "somebody else")),
    ("another Patient's Name", lambda each: setattr(each, "PatientName", "Somebody^Else")),
    ("another Patient's Name than", lambda each: setattr(each, "PatientName", "")),
    ("without a SOP or Series Instance UID", lambda each: delattr(each, "SeriesInstanceUID")),
    ("two objects have the SOP Instance UID", lambda each: setattr(each, "SOPInstanceUID", "1.2.3")),
]


@pytest.mark.parametrize(("told", "change"), REFUSED, ids=[told for told, _ in REFUSED])
def test_what_can_not_be_this_jobs_result_is_refused(
    told: str, change: Callable[[Dataset], object], made: tuple[dict[str, Dataset], list[tuple[str, Dataset]]]
) -> None:
    with pytest.raises(InvalidResult, match=told):
        _run(*made, change)


def test_the_same_patient_may_be_written_another_way(
    made: tuple[dict[str, Dataset], list[tuple[str, Dataset]]],
) -> None:
    def write(each: Dataset) -> None:
        each.SpecificCharacterSet = "ISO_IR 192"
        each.PatientName = f"{str(each.PatientName).upper()}^^"

    for result in _run(*made, write):
        check(result, {**made[0], str(result.SOPInstanceUID): result})


@pytest.mark.parametrize(
    ("keyword", "told"),
    [("SOPInstanceUID", "which the package was given"), ("SeriesInstanceUID", "a series of images")],
)
def test_images_are_not_handed_back(
    keyword: str, told: str, made: tuple[dict[str, Dataset], list[tuple[str, Dataset]]]
) -> None:
    source = next(iter(made[0].values()))
    with pytest.raises(InvalidResult, match=told):
        _run(*made, lambda each: setattr(each, keyword, source[keyword].value))
