"""Fixtures that every kind of test uses."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ports import free_port

from isocenter.settings import OrthancSettings, Settings

if TYPE_CHECKING:
    from isocenter.jobs import Jobs

ROOT = Path(__file__).parent.parent
# Where several workers of pytest-xdist take files, those that take minutes come first: else the last worker would end
# long after the others.
_LONGEST = (
    *("test_fuzz", "test_jobs", "test_map_packages", "test_packaged", "test_workers", "test_serving"),
    *("test_compose", "test_bundle_kinds", "test_results", "test_demo", "test_stack", "test_stuck_model"),
    *("test_map_engines", "test_completion", "test_pacs"),
)
_SPEAK_DICOM = {"test_onward", "test_priors", "test_pacs", "test_chaos", "test_cli", "test_stack"}

# The folder of another Orthanc than the system's, which all tests are then run against: what
# scripts/fetch_orthanc_1_12.sh makes.
if other_orthanc := os.environ.get("ISOCENTER_TEST_ORTHANC"):
    if not (Path(other_orthanc) / "bin" / "Orthanc").exists():
        raise pytest.UsageError(f"ISOCENTER_TEST_ORTHANC: there is no {other_orthanc}/bin/Orthanc")
    os.environ["PATH"] = os.pathsep.join((str(Path(other_orthanc).absolute() / "bin"), os.environ["PATH"]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real DICOM data: `$ISOCENTER_TEST_DATA/dicom`, else `../shared/dicom` beside the project."""
    folder = Path(os.environ.get("ISOCENTER_TEST_DATA", ROOT.parent / "shared")) / "dicom"
    if not folder.is_dir():
        message = f"no real DICOM data at {folder}; set ISOCENTER_TEST_DATA to the folder that holds dicom/"
        if os.environ.get("ISOCENTER_REQUIRE_TEST_DATA") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="module", autouse=True)
def failed_associations(request: pytest.FixtureRequest) -> Iterator[None]:
    """pynetdicom leaves the sockets of failed associations to the garbage collector: not in another module's tests."""
    yield
    if request.module.__name__.rpartition(".")[2] in _SPEAK_DICOM:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture(scope="session")
def triton_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The gRPC address of one real Triton for all tests, with every model of the repository loaded."""
    from isocenter.settings import TritonSettings
    from isocenter.stack.triton import running_triton

    settings = Settings(
        data_dir=tmp_path_factory.mktemp("triton"),
        triton=TritonSettings(
            http_port=free_port(),
            grpc_port=free_port(),
            metrics_port=free_port(),
            model_repository=ROOT / "triton_models",
        ),
    )
    models = sorted(path.parent.name for path in settings.triton.model_repository.glob("*/config.pbtxt"))
    with running_triton(settings, models) as url:
        yield url


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancSettings]:
    """One real Orthanc for all tests that only add to it: its URLs, DICOM port and application entity title."""
    from isocenter.settings import GatewaySettings
    from isocenter.stack.orthanc import running_orthanc

    settings = Settings(
        data_dir=tmp_path_factory.mktemp("orthanc"),
        gateway=GatewaySettings(port=free_port()),
        orthanc=OrthancSettings(http_port=free_port(), dicom_port=free_port()),
    )
    with running_orthanc(settings):
        yield settings.orthanc


@pytest.fixture
def jobs(settings: Settings) -> Iterator[Jobs]:
    """The queue of the test's own `settings`."""
    from isocenter.jobs import Jobs

    queue = Jobs(settings)
    yield queue
    queue.close()
