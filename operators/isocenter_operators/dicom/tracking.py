"""How a thing that was found is named the same in every result: in SEG, SR, parametric map and annotations.

Tracking ID and Tracking UID belong together (PS3.3, 10.41; PS3.16, TID 4108); both follow from the job, so that they
are the same in each of its results and whenever it is run again.
"""

from __future__ import annotations

from isocenter_operators.dicom.findings import MeasurementGroup, Segment
from isocenter_operators.dicom.identity import Algorithm, JobIdentity

__all__ = ["group_tracking", "segment_tracking"]


def segment_tracking(segment: Segment, algorithm: Algorithm, identity: JobIdentity) -> tuple[str, str]:
    """(Tracking ID, Tracking UID) of one segment."""
    return _tracking_id(segment.label, algorithm), identity.uid(_role((segment.number,)))


def group_tracking(
    group: MeasurementGroup, place: int, algorithm: Algorithm, identity: JobIdentity
) -> tuple[str, str]:
    """(Tracking ID, Tracking UID) of what a group of measurements is about; of one segment, that segment's own.

    `place`: the group's index among the findings' groups, from 0, by which groups without a segment are told apart.
    """
    role = _role(group.segment_numbers) if group.segment_numbers else f"tracking.region.{place + 1}"
    return _tracking_id(group.label, algorithm), identity.uid(role)


def _role(numbers: tuple[int, ...]) -> str:
    return "tracking." + "+".join(str(number) for number in sorted(numbers))


def _tracking_id(label: str, algorithm: Algorithm) -> str:
    return f"{algorithm.name} {label}"[:64]
