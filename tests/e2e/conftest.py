"""The gateway that the tests of the viewer open, on the archive that all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ports import free_port
from reader import require_viewer
from served import served

from isocenter.arrivals import Arrival
from isocenter.gateway import create_app
from isocenter.job import Job
from isocenter.rules import Series
from isocenter.settings import OrthancSettings, Settings


class NoRouter:
    def nudge(self) -> None: ...

    def study(self, study_uid: str) -> list[Series]:
        return []

    def known(self, study_uid: str) -> list[Arrival]:
        return []

    def status(self) -> dict[str, str]:
        return {"away": ""}

    def newest(self, limit: int = 100) -> list[Arrival]:
        return []


class NoJobs:
    def list(self, limit: int = 100) -> list[Job]:
        return []

    def show(self, job_id: str) -> Job | None:
        return None

    def depth(self) -> tuple[int, int]:
        return 0, 0

    def retry(self, job_id: str) -> Job:
        raise NotImplementedError

    def cancel(self, job_id: str) -> Job:
        raise NotImplementedError


@pytest.fixture(scope="module")
def gateway(orthanc: OrthancSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("gateway"), orthanc=orthanc)
    viewer = require_viewer()
    port = free_port()
    settings = settings.model_copy(
        update={"gateway": settings.gateway.model_copy(update={"ohif": viewer, "port": port})}
    )
    with served(create_app(settings, router=NoRouter(), jobs=NoJobs()), port) as url:
        yield url
