"""Fixtures: a real Orthanc without a worker, and one study whose images a test stores there, few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import httpx
import pytest
import yaml
from ports import free_port
from pydicom import Dataset, dcmread

from isocenter.settings import Settings
from isocenter.stack.orthanc import running_orthanc


@pytest.fixture
def database_url() -> str | None:
    """SQLite, unless a test's file says otherwise."""
    return None


@pytest.fixture
def settings(tmp_path: Path, database_url: str | None) -> Iterator[Settings]:
    """A real Orthanc that runs, and settings without routes."""
    for name in ("trivial", "other"):
        folder = tmp_path / "apps" / name
        folder.mkdir(parents=True)
        (folder / "app.yaml").write_text(yaml.safe_dump({"application": {"title": name, "version": "1"}}))
    settings = Settings(
        data_dir=tmp_path / "data",
        database_url=database_url,
        apps_dir=tmp_path / "apps",
        gateway={"port": free_port()},
        orthanc={"http_port": free_port(), "dicom_port": free_port()},
        routing={"settle_s": 0.6, "stat_settle_s": 0.3, "reconcile_every_s": 0.2, "longest_wait_s": 60},
        limits={"free_disk_mb": 0},
        routes=[],
    )
    with running_orthanc(settings):
        yield settings


@pytest.fixture
def image(test_data: Path) -> Dataset:
    """One slice of the abdomen CT: the model for every image here."""
    return dcmread(sorted((test_data / "ct-abdomen-41" / "image").iterdir())[0])


@pytest.fixture
def send(settings: Settings, image: Dataset) -> Callable[..., list[str]]:
    """Stores images `first` to `last` of a series of the one study; gives their UIDs."""

    def store(series: str, first: int, last: int, **attributes: str) -> list[str]:
        uids = []
        for number in range(first, last + 1):
            image.SeriesInstanceUID, image.SeriesDescription = f"1.2.{len(series)}", series
            image.SOPInstanceUID = f"1.2.{len(series)}.{number}"
            image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
            image.InstanceNumber = number
            for keyword, value in attributes.items():
                setattr(image, keyword, value)
            content = BytesIO()
            image.save_as(content)
            answer = httpx.post(f"{settings.orthanc.rest_url}/instances", content=content.getvalue())
            answer.raise_for_status()
            uids.append(str(image.SOPInstanceUID))
        return uids

    return store
