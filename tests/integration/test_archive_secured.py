"""An archive elsewhere whose certificate the hospital's own authority has signed: a real Orthanc behind a TLS end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from tls import certificates, secured, server_context

from isocenter.cli.examination import examine
from isocenter.cli.sending import send
from isocenter.gateway.app import create_app
from isocenter.holdings import Holdings
from isocenter.job import JobSpec
from isocenter.pacs import Orthanc
from isocenter.priors.criteria import Criteria
from isocenter.priors.gathering import _own
from isocenter.priors.own_archive import OwnArchive
from isocenter.route import PriorsWanted
from isocenter.settings import OrthancSettings, Settings
from isocenter.worker.task import archive_of
from isocenter_operators.archive import retrieve, store
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.errors import ArchiveUnavailable, ConfigurationError
from isocenter_operators.run import Archive, Record
from isocenter_operators.testing import as_datasets, thorax_phantom

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def series() -> list[Dataset]:
    return as_datasets(thorax_phantom(size=(64, 60, 4), spacing_mm=(6.0, 6.0, 75.0)), uid_seed="secured")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def url(orthanc: OrthancSettings, authority: Path) -> Iterator[str]:
    """Of the archive, for those who show a certificate of the authority's."""
    with secured(orthanc.http_port, server_context(authority, ask=True)) as port:
        yield f"https://127.0.0.1:{port}"


def settings_of(url: str, data_dir: Path, **tls: Path) -> Settings:
    orthanc = OrthancSettings.model_validate({"url": url, "tls": tls})
    return Settings(data_dir=data_dir, orthanc=orthanc, routes=())


@pytest.fixture
def settings(url: str, authority: Path, tmp_path: Path) -> Settings:
    known = {"certificate": authority / "client.pem", "key": authority / "client.key"}
    return settings_of(url, tmp_path, ca=authority / "ca.pem", **known)


def spec_of(series: list[Dataset]) -> JobSpec:
    return JobSpec(
        Algorithm("lungs", "1"),
        str(series[0].StudyInstanceUID),
        (str(series[0].SeriesInstanceUID),),
        tuple(str(each.SOPInstanceUID) for each in series),
        "route",
    )


def test_every_client_of_the_archive_believes_the_authority(
    settings: Settings, series: list[Dataset], tmp_path: Path
) -> None:
    spec = spec_of(series)
    archive = archive_of(settings, spec)
    store(series, archive, Record(), before_store=None, after_store=None)
    assert len(retrieve(archive)) == len(series)

    with Orthanc(settings.orthanc) as rest:
        assert rest.ready() is None
        assert [each.series_uid for each in rest.study_series(spec.study_uid)] == [*spec.series_uids]
    with Holdings(settings) as holdings:
        (content, *_) = holdings.dicomweb.retrieve_series(spec.study_uid, spec.series_uids[0])
    file = _written(tmp_path / "sent" / "1.dcm", bytes(content))
    assert dcmread(file).Modality == "CT"

    with _own(settings) as ours:
        nobody: Any = None
        own = OwnArchive(ours, settings.orthanc, Criteria(PriorsWanted(same_body_part=False), nobody))
        prior = own.bring({"StudyInstanceUID": spec.study_uid}, own.series(spec.study_uid), [])
    assert isinstance(prior, Archive)
    assert len(retrieve(prior)) == len(series)

    assert send(file.parent, settings, stow=True).count == 1
    proxied = asyncio.run(_proxied(settings, f"/dicom-web/studies/{spec.study_uid}/series"))
    assert proxied.json()[0]["0020000E"]["Value"] == [*spec.series_uids]
    assert [each.ok for each in examine(settings) if each.what == "Orthanc serves"] == [True]


def _written(file: Path, content: bytes) -> Path:
    file.parent.mkdir()
    file.write_bytes(content)
    return file


async def _proxied(settings: Settings, path: str) -> httpx.Response:
    class Idle:
        def study(self, _: str) -> list[Any]:
            return []

        def known(self, _: str) -> list[Any]:
            return []

    idle: Any = Idle()
    app = create_app(settings, router=idle, jobs=idle)
    through = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
    async with app.router.lifespan_context(app), through as client:
        return await client.get(path)


def test_whom_nobody_believes_is_told_with_the_setting(
    url: str, authority: Path, series: list[Dataset], tmp_path: Path
) -> None:
    unknown = "its certificate is not signed by an authority that is trusted here"
    for stranger in (
        settings_of(url, tmp_path, ca=authority / "stranger.pem"),
        Settings(data_dir=tmp_path, orthanc=OrthancSettings(url=url), routes=()),
    ):
        with Orthanc(stranger.orthanc) as rest:
            assert f"{unknown}" in str(rest.ready())
            assert "check orthanc.tls" in str(rest.ready())
        with pytest.raises(ArchiveUnavailable, match=unknown):
            retrieve(archive_of(stranger, spec_of(series)))
        refused = asyncio.run(_proxied(stranger, "/dicom-web/studies"))
        assert refused.status_code == 502
        assert "check orthanc.tls" in refused.json()["error"]


def test_files_that_can_not_be_used_are_named(url: str, tmp_path: Path) -> None:
    nowhere = settings_of(url, tmp_path, ca=tmp_path / "nowhere.pem")
    with pytest.raises(ConfigurationError, match=r"^orthanc\.tls\.ca .*nowhere\.pem can not be read"):
        Orthanc(nowhere.orthanc)
    (found,) = (each for each in examine(nowhere) if each.what == "Orthanc serves")
    assert not found.ok
    assert "orthanc.tls.ca" in found.advice
    for wrong in ({"tls": {}}, {"tls": {}, "url": "http://pacs:8042"}):
        with pytest.raises(ValueError, match="whose url begins with https://"):
            OrthancSettings.model_validate(wrong)
