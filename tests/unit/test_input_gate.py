"""What an application accepts, what is refused in which words, and the operator that stops the graph."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from isocenter_operators.dicom.gate.acceptance import Acceptance
from isocenter_operators.dicom.gate.examination import examined, refusals
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.series.geometry import Volume, volume_of
from isocenter_operators.errors import ConfigurationError, InputError, NotApplicable
from isocenter_operators.manifest import read_manifest
from isocenter_operators.run import Record
from isocenter_operators.testing import abdomen_phantom, as_datasets, head_phantom, thorax_phantom

APP = Path(__file__).parents[2] / "apps" / "ct_lung_density"
CHEST = Acceptance.model_validate({"modalities": ["CT"], "body_regions": {"chest": 120}})


@cache
def phantom_of(name: str) -> Any:
    makers: dict[str, Callable[[], Any]] = {
        "chest": lambda: thorax_phantom(size=(150, 120, 100), spacing_mm=(2.3, 2.3, 3.0)),
        "head": head_phantom,
        "abdomen": abdomen_phantom,
    }
    return makers[name]()


@cache
def _plain(name: str) -> Volume:
    return volume_of(as_datasets(phantom_of(name)))


def volume(name: str = "chest", **attributes: Any) -> Volume:
    """The phantom as a volume, with these attributes in its first image, which speaks for all; None takes one out."""
    first, *others = _plain(name).frames
    image = deepcopy(first.instance)
    for keyword, value in attributes.items():
        if value is None:
            image.pop(keyword, None)
        else:
            setattr(image, keyword, value)
    return replace(_plain(name), frames=(Frame(image), *others))


def accepts(**stated: Any) -> Acceptance:
    return Acceptance.model_validate(stated)


WATER: dict[str, Any] = {
    "images_of": "our water phantom",
    "because": "it measures that and nothing else",
    "attributes": {"QualityControlSubject": "YES", "ManufacturerModelName": "Thorax phantom"},
}


def test_images_have_to_say_themselves_that_they_are_the_only_ones_that_are_meant() -> None:
    only = accepts(modalities=["CT"], body_regions={"chest": 120}, only=WATER)
    assert refusals(volume(), only) == []
    # One reason, and not what the images say instead: it may be a name.
    assert refusals(volume(ManufacturerModelName="Meier^Erika", BodyPartExamined="HEAD"), only) == [
        "this application is only for our water phantom: it measures that and nothing else. These images do not all "
        'say "Thorax phantom" in Manufacturer\'s Model Name'
    ]
    for said in (None, "", "NO"):
        (reason,) = refusals(volume(QualityControlSubject=said), only)
        assert reason.endswith('These images do not all say "YES" in Quality Control Subject')
    # The last image counts as much as the first.
    *others, last = volume().frames
    image = deepcopy(last.instance)
    del image.QualityControlSubject
    assert len(refusals(replace(volume(), frames=(*others, Frame(image))), only)) == 1
    assert refusals(volume("head"), only)  # it is a phantom, and another one


def test_what_no_image_can_say_is_not_stated(tmp_path: Path) -> None:
    for wrong, said in (
        ({"attributes": {"QualityControlSubjekt": "YES"}}, "QualityControlSubjekt is no keyword of DICOM's"),
        ({"attributes": {"QualityControlSubject": True}}, "valid string"),  # what YAML makes of a bare YES
        ({"attributes": {}}, "at least 1 item"),
        ({"because": ""}, "at least 1 character"),
    ):
        with pytest.raises(ValueError, match=said):
            accepts(only=WATER | wrong)


def test_what_is_accepted_passes_and_what_is_not_is_told() -> None:
    assert refusals(volume(), CHEST) == []
    assert refusals(volume("head"), CHEST) == ["the scan shows a head, this application is for the chest"]
    assert refusals(volume("abdomen"), CHEST) == [
        "the scan shows an abdomen, this application is for the chest"
    ]
    (reason,) = refusals(volume(), accepts(body_regions={"chest": 250}))
    assert reason == "the scan covers 208 mm of the chest, at least 250 mm is accepted"
    # 4 cm of abdomen are enough for one of the two that are accepted.
    assert refusals(volume(), accepts(body_regions={"head": 100, "abdomen": 40})) == []


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({"modalities": ["MR", "PT"]}, "the series is CT, this application is for MR or PT"),
        ({"slice_spacing_mm": {"at_most": 2.5}}, "slices are 3.0 mm apart, at most 2.5 mm is accepted"),
        ({"slice_spacing_mm": {"at_least": 4}}, "slices are 3.0 mm apart, at least 4.0 mm is accepted"),
        ({"pixel_spacing_mm": {"at_most": 1}}, "pixels are 2.30 mm apart, at most 1.00 mm is accepted"),
        ({"slices": {"at_least": 200}}, "the series has 100 slices, at least 200 slices is accepted"),
        (
            {"field_of_view_mm": {"head_foot": {"at_least": 400}}},
            "the image measures 300 mm from head to foot, at least 400 mm is accepted",
        ),
        (
            {"field_of_view_mm": {"left_right": {"at_least": 400}}},
            "the image measures 345 mm from side to side, at least 400 mm is accepted",
        ),
        ({"quality": {"noise_hu": 5}}, "the image is too noisy: 3"),
    ],
)
def test_each_limit_is_told_with_both_figures(stated: dict[str, Any], reason: str) -> None:
    (said,) = refusals(volume(), accepts(**stated))
    assert said.startswith(reason)


def test_a_spacing_at_its_limit_is_accepted() -> None:
    assert (
        refusals(volume(), accepts(slice_spacing_mm={"at_most": 3.0}, pixel_spacing_mm={"at_most": 2.3}))
        == []
    )


def test_every_reason_is_told_at_once() -> None:
    reasons = refusals(volume("head"), accepts(body_regions={"chest": 0}, slice_spacing_mm={"at_most": 3}))
    assert len(reasons) == 2


def test_the_axes_are_the_patients_and_a_tilt_takes_no_spacing() -> None:
    coronal = thorax_phantom(orientation="LIP", size=(150, 100, 120), spacing_mm=(2.3, 3.0, 2.3))
    frames = volume().frames
    limits = accepts(field_of_view_mm={"head_foot": {"at_least": 299, "at_most": 301}})
    assert refusals(Volume(coronal.hu, coronal.affine, frames), limits) == []
    tilted = phantom_of("chest").affine.copy()
    tilted[:3, 2] += (0, 1.0, 0)  # the planes stay 3 mm apart
    spacing = accepts(slice_spacing_mm={"at_most": 3.0, "at_least": 3.0})
    assert refusals(Volume(phantom_of("chest").hu, tilted, frames), spacing) == []
    straight = accepts(oblique_degrees={"at_most": 2})
    assert refusals(Volume(coronal.hu, coronal.affine, frames), straight) == []
    assert refusals(Volume(phantom_of("chest").hu, tilted, frames), straight) == [
        "the image lies 18.4 degrees askew to the patient's axes, at most 2.0 degrees is accepted"
    ]
    axial = accepts(planes=["axial"])
    assert refusals(Volume(phantom_of("chest").hu, tilted, frames), axial) == []
    assert refusals(Volume(coronal.hu, coronal.affine, frames), axial) == [
        "its slices are coronal; accepted are axial ones"
    ]


def test_filled_gaps_are_counted() -> None:
    whole = volume()
    frames = tuple(frame for place, frame in enumerate(whole.frames) if place not in (40, 41))
    places = tuple(float(place) for place in range(100) if place not in (40, 41))
    gappy = Volume(whole.voxels, whole.affine, frames, places, missing_slices=2)
    assert refusals(gappy, accepts(missing_slices=2)) == []
    assert refusals(gappy, accepts(missing_slices=0)) == ["2 slices are missing, at most 0 may be"]


def test_a_wrong_tag_does_not_decide_and_is_noted() -> None:
    wrong = examined(volume(BodyPartExamined="HEAD"), CHEST)
    assert wrong.refusals == ()
    (note,) = wrong.notes
    assert 'that they show "HEAD"' in note
    assert "pixels show a neck, a chest and an abdomen" in note
    claimed = examined(volume("head", BodyPartExamined="CHEST"), CHEST)
    assert "the scan shows a head" in claimed.refusals[0]
    for tag in (None, "CHEST", "CHESTABDPELVIS", "SOMETHING"):
        assert examined(volume(BodyPartExamined=tag), CHEST) == examined(volume(), CHEST)
        assert examined(volume(BodyPartExamined=tag), CHEST).notes == ()


def _like(voxels: np.ndarray[Any, Any], **attributes: Any) -> Volume:
    known = volume(**attributes)
    return Volume(voxels, known.affine, known.frames)


def test_what_is_no_body_is_refused_whatever_its_tag_says() -> None:
    shape = phantom_of("chest").hu.shape
    box = np.full(shape, -1000, np.int16)
    box[20:80, 20:100, 30:120] = 0
    noise = np.random.default_rng(0).normal(0, 300, shape).astype(np.int16)
    air = np.random.default_rng(0).normal(-1000, 10, shape).astype(np.int16)
    for voxels, said in ((box, "does not show a body"), (noise, "too noisy"), (air, "nothing but air")):
        assert any(said in reason for reason in refusals(_like(voxels, BodyPartExamined="CHEST"), CHEST))
    assert refusals(_like(np.zeros(shape, np.int16)), Acceptance()) == [
        "the image is empty: all its voxels have the same value"
    ]


def test_where_the_pixels_do_not_tell_the_tag_is_believed_only_for_what_needs_no_length() -> None:
    hu = phantom_of("chest").hu.copy()
    hu[(hu < -300) & (phantom_of("chest").labels > 0)] = 40  # both lungs full of water, and cut at the middle
    unknown = hu[50:90]
    tagged = Volume(unknown, phantom_of("chest").affine, volume().frames[:40])
    assert refusals(tagged, CHEST)[0].startswith("the part of the body can not be told from the image")
    examination = examined(tagged, accepts(body_regions={"chest": 0}))
    assert (examination.refusals, len(examination.notes)) == ((), 1)
    untagged = Volume(unknown, tagged.affine, volume(BodyPartExamined=None).frames[:40])
    assert "do not say which part" in refusals(untagged, accepts(body_regions={"chest": 0}))[0]


def test_of_mr_the_tag_decides(test_data: Path) -> None:
    t2 = volume_of([dcmread(path) for path in (test_data / "mr-abdomen" / "t2_image").iterdir()])
    assert refusals(t2, accepts(modalities=["MR"], body_regions={"abdomen": 100})) == []
    assert refusals(t2, accepts(body_regions={"head": 100})) == [
        'the images say that they show "ABDOMEN"; this application is for the head'
    ]
    assert refusals(t2, CHEST) == ["the series is MR, this application is for CT"]


@pytest.mark.parametrize(
    ("attributes", "accepted", "refused"),
    [
        ({}, "none", "any_phase"),
        ({"ContrastBolusAgent": "IOHEXOL"}, "any_phase", "arterial"),
        (
            {"ContrastBolusAgent": "IOHEXOL", "SeriesDescription": "Abdomen portal venous 3.0"},
            "portal_venous",
            "venous",
        ),
        ({"ContrastBolusAgent": "IOHEXOL", "SeriesDescription": "LATE ARTERIAL"}, "arterial", "none"),
        ({"ContrastBolusAgent": "Oral", "ContrastBolusRoute": "ORAL"}, "none", "any_phase"),
        ({"ContrastBolusAgent": "GASTRO & OMNI", "ContrastBolusRoute": "Oral & IV"}, "any_phase", "none"),
        ({"ContrastBolusAgent": "NONE"}, "none", "any_phase"),
        # What contradicts itself, or says nothing, is nothing at all.
        ({"ContrastBolusAgent": ""}, None, "none"),
        (
            {"ContrastBolusAgent": "IOHEXOL", "SeriesDescription": "Abdomen without contrast"},
            None,
            "any_phase",
        ),
        ({"SeriesDescription": "arterial"}, None, "none"),
        ({"ContrastBolusAgent": "IOHEXOL", "SeriesDescription": "arterial and delayed"}, None, "any_phase"),
    ],
)
def test_contrast_is_what_the_header_says_clearly(
    attributes: dict[str, Any], accepted: str | None, refused: str
) -> None:
    scan = volume(**attributes)
    if accepted:
        assert refusals(scan, accepts(contrast=[accepted])) == []
    (reason,) = refusals(scan, accepts(contrast=[refused]))
    assert "accepted is" in reason
    assert "IOHEXOL" not in reason


def test_an_enhanced_image_states_its_phase() -> None:
    scan = volume()
    usage = Dataset()
    usage.ContrastBolusAgentNumber = 1
    usage.ContrastBolusAgentAdministered = "YES"
    groups = Dataset()
    groups.ContrastBolusUsageSequence = [usage]
    instance = scan.frames[0].instance
    instance.SharedFunctionalGroupsSequence = [groups]
    for said, accepted in (("PORTAL_VENOUS", "portal_venous"), ("PRE_CONTRAST", "none")):
        usage.ContrastBolusAgentPhase = said
        enhanced = replace(scan, frames=(Frame(instance, 1), *scan.frames[1:]))
        assert refusals(enhanced, accepts(contrast=[accepted])) == []


@pytest.mark.parametrize(
    ("accepts_yaml", "key"),
    [
        ("{slice_spacing: {at_most: 3}}", "isocenter.accepts.slice_spacing: Extra inputs"),
        ("{slice_spacing_mm: {max: 3}}", "isocenter.accepts.slice_spacing_mm.max: Extra inputs"),
        ("{body_regions: {thorax: 100}}", "isocenter.accepts.body_regions.thorax"),
        ("{contrast: [early]}", "isocenter.accepts.contrast.0"),
        ("{slices: {at_least: 9, at_most: 3}}", "at_least 9 is more than at_most 3"),
    ],
)
def test_a_wrong_statement_is_named(accepts_yaml: str, key: str, tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text(
        f"application: {{title: T, version: 1}}\nisocenter: {{accepts: {accepts_yaml}}}\n"
    )
    with pytest.raises(ConfigurationError) as refused:
        read_manifest(tmp_path)
    assert key in str(refused.value)


def test_an_application_that_states_nothing_takes_all_but_empty_images(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text("application: {title: T, version: 1}\n")
    assert read_manifest(tmp_path).accepts == Acceptance()
    assert refusals(volume("head"), Acceptance()) == []


class _Ports:
    """Stands where Holoscan's input and output contexts do."""

    def __init__(self, image: Any) -> None:
        self.image, self.emitted = image, []

    def receive(self, _: str) -> Any:
        return self.image

    def emit(self, value: Any, name: str) -> None:
        self.emitted.append((name, value))


def test_the_operator_passes_the_image_on_or_says_why_not() -> None:
    from monai.deploy.core import Fragment
    from monai.deploy.core.domain.image import Image

    from isocenter_operators.input_gate import InputGateOperator
    from isocenter_operators.volume import image_of

    record = Record()
    lungs = read_manifest(APP).accepts
    gate = InputGateOperator(Fragment(), accepts=lungs, record=record, name="gate")
    good = _Ports(image_of(volume(BodyPartExamined="HEAD")))
    gate.compute(good, good, None)
    assert good.emitted == [("image", good.image)]
    assert "the pixels were believed" in record.notes[0]
    assert "gate" in record.seconds
    head = _Ports(image_of(volume("head")))
    with pytest.raises(NotApplicable, match="shows a head, this application is for the chest") as refusal:
        gate.compute(head, head, None)
    assert (refusal.value.series_uid, head.emitted) == (volume("head").frames[0].series_uid, [])
    bare = _Ports(Image(good.image.asnumpy(), {"affine": np.eye(4)}))
    with pytest.raises(InputError, match="VolumeOperator"):
        gate.compute(bare, bare, None)


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        ("ct-chest-275/image", None),
        ("ct-abdomen-41/image", None),  # holds the bases of the lungs; the model says that they are cut off
        ("ct-head-phantom/S2010", "the scan shows a head, this application is for the chest"),
        ("ct-head-phantom/S3010", "the scan shows a head, this application is for the chest"),
        ("mr-abdomen/t2_image", "the series is MR, this application is for CT"),
    ],
)
def test_real_scans_at_the_gate_of_lung_density(series: str, reason: str | None, test_data: Path) -> None:
    images = (dcmread(path) for path in (test_data / series).iterdir())
    scan = volume_of([image for image in images if "PixelData" in image])
    found = examined(scan, read_manifest(APP).accepts)
    assert found.refusals == ((reason,) if reason else ())
    assert found.notes == ()
