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


def test_other_weights_of_the_same_version_are_another_job_and_another_device() -> None:
    one, other = (Algorithm("lungs", "1.0", {"net": "3"}, weights={"net": digit * 64}) for digit in "ab")
    identities = {JobIdentity.of(["1.1"], algorithm, NOW).job_id for algorithm in (LUNGS, one, other)}
    assert len(identities) == 3
    assert len({algorithm.device_uid for algorithm in (LUNGS, one, other)}) == 3
    (model,), (other_model,) = one.model_algorithms, other.model_algorithms
    assert (model.name, model.version) == ("net", "3")
    assert model.device_uid != other_model.device_uid


def test_what_is_known_of_no_weights_keeps_its_identity() -> None:
    """Results that lie in archives were named by it."""
    identity = JobIdentity.of(["1.1"], LUNGS, NOW)
    assert identity.job_id == "80ae5625cdc65992e00f808da30b43d0db286439594acfe5596999c9209dd302"
    assert LUNGS.device_uid == "2.25.284263351748575359369104158350967332330"
