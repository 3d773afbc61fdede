"""Volumes of segments: counted voxels, and words where there is none."""

from __future__ import annotations

import numpy as np

from isocenter_operators.dicom.catalogue import segments_of
from isocenter_operators.segment_volumes import volumes_of

SEGMENTS, _ = segments_of(["background", "liver", "spleen"])


def test_each_segment_that_is_there_has_its_volume() -> None:
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1, :2, :3] = 2
    findings = volumes_of(labels, SEGMENTS, voxel_ml=0.5, notes=("seen at night",))
    (group,) = findings.groups
    assert (group.label, group.segment_numbers) == ("Spleen", (2,))
    assert group.as_dict() == {"volume_mL": 3.0}
    assert findings.notes == ("seen at night",)


def test_masks_may_overlap() -> None:
    masks = np.zeros((2, 3, 4, 5), bool)
    masks[0] = True
    masks[1, 0] = True
    volumes_ml = [group.as_dict()["volume_mL"] for group in volumes_of(masks, SEGMENTS, 0.1).groups]
    np.testing.assert_allclose(volumes_ml, [6.0, 2.0])


def test_nothing_found_is_said_in_words() -> None:
    findings = volumes_of(np.zeros((2, 3, 4), np.uint8), SEGMENTS, 1.0, ("seen at night",))
    assert findings.groups == ()
    assert findings.notes == ("Nothing was found of: Liver, Spleen.", "seen at night")
