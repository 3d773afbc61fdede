"""The same work has the same UIDs; any other work has others."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from isocenter_operators.dicom.identity import Algorithm, JobIdentity

NOW = datetime(2026, 1, 2, tzinfo=UTC)
LATER = datetime(2026, 3, 4, tzinfo=UTC)
LUNGS = Algorithm("lungs", "1.0", {"net": "3"})


def test_order_and_time_do_not_change_the_identity() -> None:
    one, other = JobIdentity.of(["1.2", "1.1"], LUNGS, NOW), JobIdentity.of(["1.1", "1.2"], LUNGS, LATER)
    assert one.job_id == other.job_id
    assert one.uid("seg") == other.uid("seg")


def test_instances_application_version_and_model_do() -> None:
    identities = {
        JobIdentity.of(uids, algorithm, NOW).job_id
        for uids, algorithm in [
            (["1.1", "1.2"], LUNGS),
            (["1.1"], LUNGS),
            (["1.1", "1.2"], Algorithm("lungs", "1.1", {"net": "3"})),
            (["1.1", "1.2"], Algorithm("liver", "1.0", {"net": "3"})),
            (["1.1", "1.2"], Algorithm("lungs", "1.0", {"net": "4"})),
        ]
    }
    assert len(identities) == 5


def test_uids_are_of_a_valid_uuid() -> None:
    identity = JobIdentity.of(["1.1"], LUNGS, NOW)
    uid = identity.uid("seg")
    assert uid.startswith("2.25.")
    assert len(uid) <= 64
    assert uuid.UUID(int=int(uid.removeprefix("2.25."))).variant == uuid.RFC_4122
    assert uid != identity.uid("sr")
