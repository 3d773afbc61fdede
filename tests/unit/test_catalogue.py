"""The label catalogue: every name of the known sets maps, codes mean what the standard says, no side is swapped."""

from __future__ import annotations

import csv
import itertools
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sr._concepts_dict import concepts
from read_back import found_by_dciodvfy, read_seg
from result_cases import ALGORITHM, identity_of, phantom_case, written

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.catalogue import segment_of, segments_of
from isocenter_operators.dicom.findings import Segment
from isocenter_operators.dicom.results.seg import segmentation
from isocenter_operators.dicom.schemes import declare_schemes
from isocenter_operators.errors import InputError

CATALOGUE = list(
    csv.DictReader(
        files("isocenter_operators.dicom").joinpath("catalogue.csv").read_text("utf-8").splitlines()
    )
)

# SNOMED CT codes that no context group of the standard has (pydicom 3.0.2), each with where it is from:
# A: TotalSegmentator's totalsegmentator_snomed_mapping.csv, the same in 3D Slicer's terminology for it.
# B: HL7 mCODE, mcode-radiotherapy-treatment-location-vs (AAPM TG-263 to SNOMED CT), the same in A.
# C: AAPM TG-263's "gluteus maximus" in public mappings by its fully specified name; A has the code of "entire ...".
ELSEWHERE = {
    "74281007": "Myocardium",  # A; "Myocardium structure"
    "110765007": "Portal vein and splenic vein",  # A; "... (combined site)"
    "78333006": "Gluteus medius muscle",  # A
    "75297007": "Gluteus minimus muscle",  # A
    "244849004": "Deep muscle of back",  # A
    "68455001": "Iliopsoas muscle",  # A
    "65985001": "S1 vertebra",  # B; "Structure of first sacral vertebra"
    "48535007": "First rib",  # B, as all ribs; "Bone structure of first rib"
    "78247007": "Second rib",
    "25888004": "Third rib",
    "25523003": "Fourth rib",
    "15339008": "Fifth rib",
    "59558009": "Sixth rib",
    "24915002": "Seventh rib",
    "5953002": "Eighth rib",
    "22565002": "Ninth rib",
    "77644006": "Tenth rib",
    "58830002": "Eleventh rib",
    "43993008": "Twelfth rib",
    "206007": "Gluteus maximus muscle",  # C; "Structure of gluteus maximus muscle"
}

RIBS = [f"rib_{side}_{number}" for side in ("left", "right") for number in range(1, 13)]
SPINE = [
    *(f"vertebrae_L{number}" for number in range(5, 0, -1)),
    *(f"vertebrae_T{number}" for number in range(12, 0, -1)),
    *(f"vertebrae_C{number}" for number in range(7, 0, -1)),
]


def sides(*names: str) -> list[str]:
    return [f"{name}_{side}" for name in names for side in ("left", "right")]


TRUNK = [
    *[
        "spleen",
        "gallbladder",
        "liver",
        "stomach",
        "aorta",
        "inferior_vena_cava",
        "portal_vein_and_splenic_vein",
    ],
    *[
        "pancreas",
        "esophagus",
        "trachea",
        "brain",
        "small_bowel",
        "duodenum",
        "colon",
        "sacrum",
        "urinary_bladder",
    ],
    *["lung_upper_lobe_left", "lung_lower_lobe_left", "lung_upper_lobe_right", "lung_middle_lobe_right"],
    *[
        "lung_lower_lobe_right",
        *sides("kidney", "adrenal_gland", "iliac_artery", "iliac_vena", "humerus", "scapula"),
    ],
    *sides("clavicula", "femur", "hip", "gluteus_maximus", "gluteus_medius", "gluteus_minimus", "autochthon"),
    *sides("iliopsoas"),
]
WHOLE_BODY_V1 = [
    *TRUNK, *SPINE, *RIBS, *sides("heart_atrium", "heart_ventricle"), "heart_myocardium", "pulmonary_artery", "face",
]  # fmt: skip
WHOLE_BODY_V2 = [
    *TRUNK, *SPINE, *RIBS, "vertebrae_S1", "thyroid_gland", "prostate", *sides("kidney_cyst"), "heart",
    "pulmonary_vein", "brachiocephalic_trunk", *sides("subclavian_artery", "common_carotid_artery"),
    *sides("brachiocephalic_vein"), "atrial_appendage_left", "superior_vena_cava", "spinal_cord", "skull", "sternum",
    "costal_cartilages",
]  # fmt: skip


def zoo_names(test_data: Path) -> dict[str, dict[int, str]]:
    """The labels of every output of the bundles, as their `channel_def` has them."""
    bundles = sorted((test_data.parent / "model-zoo").glob("*/configs/metadata.json"))
    outputs = {
        path.parts[-3]: json.loads(path.read_text())["network_data_format"]["outputs"] for path in bundles
    }
    return {
        bundle: {int(number): name for number, name in output["channel_def"].items()}
        for bundle, heads in outputs.items()
        for output in heads.values()
    }


def test_whole_body_sets_have_their_sizes_and_every_name_is_known() -> None:
    assert (len(WHOLE_BODY_V1), len(WHOLE_BODY_V2)) == (104, 117)
    for names in (WHOLE_BODY_V1, WHOLE_BODY_V2):
        assert segments_of(names)[1] == ()


def test_every_label_of_the_model_zoo_is_known(test_data: Path) -> None:
    zoo = zoo_names(test_data)
    assert sorted(zoo["wholeBody_ct_segmentation"].values()) == sorted(["background", *WHOLE_BODY_V1])
    assert len(zoo) == 4
    for names in zoo.values():
        segments, notes = segments_of(names)
        assert notes == ()
        assert [segment.number for segment in segments] == list(range(1, len(names)))
    btcv = {s.label for s in segments_of(zoo["swin_unetr_btcv_segmentation"])[0]}
    assert {
        "Left kidney",
        "Inferior vena cava",
        "Portal vein and splenic vein",
        "Right adrenal gland",
    } <= btcv


def test_every_code_means_what_the_standard_says() -> None:
    standard: dict[str, set[str]] = {}
    for spellings in concepts["SCT"].values():
        for value, (meaning, _) in spellings.items():
            standard.setdefault(value, set()).add(meaning)
    used: set[str] = set()
    for row in CATALOGUE:
        if row["scheme"] == codes.PRIVATE_SCHEME:
            assert (row["source"], len(row["value"]) <= 16) == ("private", True)
            continue
        assert row["scheme"] == "SCT"
        used.add(row["value"])
        if row["source"] == "PS3.16":
            assert row["meaning"] in standard[row["value"]], row["names"]
        else:
            assert row["value"] not in standard, f"{row['names']}: the standard has this code"
            assert row["meaning"] == ELSEWHERE[row["value"]]
    assert set(ELSEWHERE) <= used


def test_categories_are_those_of_cid_7150() -> None:
    known = {
        meaning: value
        for group in concepts["SCT"].values()
        for value, (meaning, cids) in group.items()
        if 7150 in cids
    }
    for row in CATALOGUE:
        segment, _ = segment_of(row["names"].split("|")[0], 1)
        assert known[segment.category.meaning] == segment.category.value


@pytest.mark.parametrize("names", [WHOLE_BODY_V1, WHOLE_BODY_V2], ids=["v1", "v2"])
def test_each_class_of_a_set_is_a_structure_and_a_colour_of_its_own(names: list[str]) -> None:
    segments, _ = segments_of(names)
    meanings = [(segment.type.value, segment.laterality, segment.anatomic_region) for segment in segments]
    assert len(set(meanings)) == len(names)
    assert len({segment.label for segment in segments}) == len(names)
    apart = min(colour_distance(one, other) for one, other in itertools.combinations(segments, 2))
    assert apart > 6, "two colours are hard to tell apart"


def colour_distance(one: Segment, other: Segment) -> float:
    """Delta E of 1976."""
    return float(np.linalg.norm(cielab(one) - cielab(other)))


def cielab(segment: Segment) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    linear = np.array(
        [(c / 255 + 0.055) ** 2.4 / 1.055**2.4 if c > 10 else c / 3294 for c in segment.display_rgb]
    )
    x, y, z = np.cbrt(linear @ [[0.4339, 0.2126, 0.0177], [0.3762, 0.7152, 0.1095], [0.1899, 0.0722, 0.8728]])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_sides_are_those_of_the_name() -> None:
    by_type = {"82471001": "left", "87878005": "left", "33626005": "left"}
    by_type |= {"73829009": "right", "53085002": "right", "72481006": "right"}
    laterality = {None: None, codes.LEFT: "left", codes.RIGHT: "right"}
    for name in {*WHOLE_BODY_V1, *WHOLE_BODY_V2}:
        segment, _ = segment_of(name, 1)
        named = next((side for side in ("left", "right") if side in name.split("_")), None)
        assert (laterality[segment.laterality] or by_type.get(segment.type.value)) == named, name
        if named:
            assert named in segment.label.lower()


@pytest.mark.parametrize(
    ("spellings", "label"),
    [
        (["kidney_left", "Left Kidney", "left-kidney", "KIDNEY LEFT", "kidney_L", "Left Kideny"], "Left kidney"),
        (["lung_upper_lobe_left", "LeftLungUpperLobe", "Upper lobe of the left lung"], "Left upper lobe of lung"),
        (["vertebrae_L5", "vertebra_L5", "L5 vertebra"], "L5 vertebra"),
        (["rib_left_1", "Left rib 1", "rib_01_left", "left first rib"], "Left first rib"),
        (["lung_middle_lobe_right", "Right middle lobe", "middle lobe of lung"], "Middle lobe of right lung"),
        (["IVC", "Inferior Vena Cava"], "Inferior vena cava"),
        (["heart_atrium_left", "left_atrium", "Left Atrium"], "Left atrium"),
        (["lungs", "Lung"], "Lung"),
    ],
)  # fmt: skip
def test_usual_spellings_are_the_same(spellings: list[str], label: str) -> None:
    assert {segment_of(spelling, 3)[0].label for spelling in spellings} == {label}
    assert {segment_of(spelling, 3)[1] for spelling in spellings} == {None}


@pytest.mark.parametrize(
    "name",
    [
        "foo",
        "left liver",
        "lung_middle_lobe_left",
        "left and right kidney",
        "not spleen",
        "肺",
        "L5",
        "liver 2",
    ],
)
def test_what_is_not_known_is_never_another_organ(name: str) -> None:
    segment, note = segment_of(name, 7)
    assert note is not None
    assert name in note
    assert "label 7" in note
    assert (segment.label, segment.type.meaning, segment.type.scheme) == (name, name, codes.PRIVATE_SCHEME)
    assert len(segment.type.value) <= 16
    assert segment.category.meaning == "Tissue"
    assert segment.laterality is None
    assert segment_of(name, 7) == (segment, note)


def test_unknown_labels_have_codes_and_colours_of_their_own() -> None:
    names = [f"structure {number}" for number in range(300)]
    segments, notes = segments_of(names)
    assert len(notes) == 300
    assert len({segment.type.value for segment in segments}) == 300
    assert len({segment.display_rgb for segment in segments}) == 300
    # The longest that DICOM can hold, and without what it can not.
    long, _ = segment_of("a\\b\n" + "x" * 100, 1)
    assert (len(long.label), long.label[:4]) == (64, "a b ")


def test_names_that_can_not_be_right_are_refused() -> None:
    with pytest.raises(InputError, match="label 2 has no name"):
        segments_of(["spleen", " _ "])
    with pytest.raises(InputError, match="label 1 is called the background"):
        segments_of({0: "spleen", 1: "background"})


def test_private_scheme_is_declared_where_it_is_used() -> None:
    result = Dataset()
    result.ContentSequence = [Dataset()]
    declare_schemes(result)
    assert "CodingSchemeIdentificationSequence" not in result
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = segment_of("foo", 1)[0].type
    result.ContentSequence[0].ConceptCodeSequence = [code]
    for _ in range(2):  # once is enough
        declare_schemes(result)
        (declared,) = result.CodingSchemeIdentificationSequence
        assert declared.CodingSchemeDesignator == codes.PRIVATE_SCHEME


def test_a_cyst_is_a_cyst_in_a_kidney() -> None:
    cyst, _ = segment_of("kidney_cyst_left", 1)
    assert (cyst.label, cyst.category.meaning) == ("Left kidney cyst", "Morphologically Abnormal Structure")
    volume, labels = phantom_case(size=(26, 16, 4), spacing_mm=(14.0, 22.0, 60.0))
    seg = segmentation(
        labels=(labels > 0).astype(np.uint8),
        frames=volume.frames,
        segments=[cyst],
        algorithm=ALGORITHM,
        identity=identity_of(volume),
    )
    (item,) = seg.SegmentSequence
    (what,), (where,) = item.SegmentedPropertyTypeCodeSequence, item.AnatomicRegionSequence
    assert (what.CodeMeaning, where.CodeMeaning) == ("Cyst", "Kidney")
    assert what.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"


def test_104_segments_are_read_back_by_other_tools(tmp_path: Path) -> None:
    volume, _ = phantom_case(size=(26, 16, 4), spacing_mm=(14.0, 22.0, 60.0))
    labels = np.zeros(volume.voxels.shape, np.uint8)
    labels[1, :8, 4:17] = np.arange(1, 105).reshape(8, 13)
    segments, _ = segments_of(WHOLE_BODY_V1)
    seg = segmentation(
        labels=labels,
        frames=volume.frames,
        segments=segments,
        algorithm=ALGORITHM,
        identity=identity_of(volume),
    )
    assert [item.CodingSchemeDesignator for item in seg.CodingSchemeIdentificationSequence] == [
        codes.PRIVATE_SCHEME
    ]
    path = written(seg, tmp_path, "whole_body")
    assert [problem for problem in found_by_dciodvfy(path) if problem.severity == "error"] == []
    read_seg(path, tmp_path)
    groups = json.loads((tmp_path / "meta.json").read_text())["segmentAttributes"]
    read = {item["labelID"]: item for group in groups for item in group}
    assert len(read) == 104
    for segment in segments:
        item = read[segment.number]
        assert item["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == segment.type.value
        assert item["SegmentedPropertyCategoryCodeSequence"]["CodeValue"] == segment.category.value
        side = item.get("SegmentedPropertyTypeModifierCodeSequence", {}).get("CodeValue")
        assert side == (segment.laterality.value if segment.laterality else None)
        assert np.abs(np.subtract(item["recommendedDisplayRGBValue"], segment.display_rgb)).max() <= 3
