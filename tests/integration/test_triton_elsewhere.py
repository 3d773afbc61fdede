"""Imported models on a Triton that Isocenter did not start, and whose repository they are, as compose.yaml has it; and
what is different on the one that it starts."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from model_site import ABOVE_HU, NAME, ModelSite, mask_ml, written
from ports import free_port
from threshold_bundle import compute_without_monai, threshold_bundle
from trivial_app import Workers, ended, until

from isocenter.cli import main
from isocenter.hung_shadows import HungShadows
from isocenter.jobs import Jobs
from isocenter.model_loading import load_missing
from isocenter.serving import Servings
from isocenter.settings import OrthancSettings, Settings, TritonSettings
from isocenter.stack.supervisor import Supervisor
from isocenter.stack.triton import running_triton, triton_child
from isocenter_operators.errors import InferenceUnavailable
from isocenter_operators.inference.triton import TritonClient

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


@dataclass
class Site(ModelSite):
    """`settings` are those of the gateway and the workers; `server`: of the Triton, which others start."""

    server: Settings

    def served(self, version: str = "") -> bool:
        with TritonClient(self.settings.triton.endpoint) as client:
            return client.ready(NAME, version)


@pytest.fixture
def site(orthanc: OrthancSettings, tmp_path: Path) -> Iterator[Site]:
    grpc = free_port()
    server = Settings(
        data_dir=tmp_path / "data",
        apps_dir=tmp_path / "apps",
        triton=TritonSettings(
            http_port=free_port(),
            grpc_port=grpc,
            metrics_port=free_port(),
            model_repository=ROOT / "triton_models",
            device="cpu",
        ),
    )
    settings = Settings(
        data_dir=tmp_path / "data",
        apps_dir=tmp_path / "apps",
        orthanc=OrthancSettings(url=orthanc.rest_url),
        triton=TritonSettings(url=f"127.0.0.1:{grpc}"),
        limits={"free_disk_mb": 0},
        worker={"retry_after_s": 0.5},
        routes=(),
    )
    settings.apps_dir.mkdir()
    jobs = Jobs(settings)
    try:
        yield Site(settings, tmp_path, jobs, written(settings, tmp_path), server)
    finally:
        jobs.close()


def weights_of(site: Site, version: str) -> Path:
    return site.version(version) / "bundle" / "models" / "model.pt"


def test_what_is_imported_is_loaded_there_and_chosen_between(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = Workers(site.settings, tmp_path)
    try:
        with running_triton(site.server, []):
            # As `docker compose exec -T worker isocenter models import - < first.zip`.
            first = threshold_bundle(tmp_path / "first", ABOVE_HU["1"])
            packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", first))
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(packed.read_bytes())))
            assert site.command(capsys, "import", "-", "--name", NAME)["name"] == NAME
            compute_without_monai(site.version("1"), ABOVE_HU["1"])
            assert not site.served()
            workers.start()
            until(site.served)  # before any study of it comes
            job = site.done("first")
            assert job.groups[0]["volume_mL"] == pytest.approx(mask_ml(ABOVE_HU["1"]))

            assert site.added(capsys, ABOVE_HU["2"], version="1.1.0") == "2"
            promoted = site.command(capsys, "promote", NAME, "2")
            assert (promoted["active"], promoted["live"]) == ("2", True)
            job = site.done("second")
            assert job.models == {NAME: "2"}
            assert job.groups[0]["volume_mL"] == pytest.approx(mask_ml(ABOVE_HU["2"]))
            assert main(["models", "--config", str(site.config), "check", NAME]) == 0

            site.command(capsys, "unload", NAME)
            assert not site.served()
            waiting = site.asked("third")
            reason = until(lambda: getattr(site.jobs.show(waiting), "reason", ""))
            assert "was taken out of service" in reason
            assert not site.served()
            site.command(capsys, "load", NAME)
            assert ended(site.jobs, waiting).state == "done"
            site.command(capsys, "rollback", NAME)
            assert (site.served("1"), site.served("2")) == (True, False)
            site.command(capsys, "shadow", NAME, "2")

        # Started again by whoever started it, without a word of what was loaded; and the shadow's weights are gone.
        weights_of(site, "2").unlink()
        with running_triton(site.server, []):
            assert not site.served()
            assert site.done("fourth").models == {NAME: "1"}
            assert (site.served("1"), site.served("2")) == (True, False)
            assert "could not be loaded" in HungShadows(site.settings.data_dir).told()[0]
            site.command(capsys, "remove", NAME)
            assert not site.served()
    finally:
        workers.end()


def test_a_shadow_that_can_not_be_loaded_any_more_keeps_no_other_version_out(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the Triton that `isocenter up` starts, which is started with both."""
    first = threshold_bundle(tmp_path / "first", ABOVE_HU["1"])
    site.command(capsys, "import", str(first), "--name", NAME)
    compute_without_monai(site.version("1"), ABOVE_HU["1"])
    site.added(capsys, ABOVE_HU["2"], version="1.1.0")
    with running_triton(site.server, [NAME]):
        site.command(capsys, "shadow", NAME, "2")
    weights = weights_of(site, "2")
    weights.rename(weights.with_suffix(".away"))

    # With nobody to look after it, as for `isocenter run`, it says which one it is, whatever that keeps out.
    with pytest.raises(InferenceUnavailable, match=weights.name), running_triton(site.server, [NAME]):
        pass
    child = triton_child(site.server, [NAME], wanted=lambda: [NAME])
    with Supervisor([child], environment=os.environ, say=lambda _: None) as stack:
        assert stack.wait_until_ready()
        assert (site.served("1"), site.served("2")) == (True, False)
        serving = Servings(site.settings.data_dir).of(NAME)
        assert serving is not None
        assert (serving.active, serving.shadow) == ("1", None)
        (told,) = HungShadows(site.settings.data_dir).told()
        assert told.startswith(f"shadow version 2 of {NAME} could not be loaded at ")
        assert str(weights) in told
        assert weights.name in site.command(capsys, "shadow", NAME, "2", code=1)
        assert site.served("1")

        weights.with_suffix(".away").rename(weights)
        site.command(capsys, "shadow", NAME, "2")
        assert (site.served("1"), site.served("2")) == (True, True)
        assert HungShadows(site.settings.data_dir).told() == []


def test_several_that_miss_it_have_it_loaded_once(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.command(capsys, "import", str(threshold_bundle(tmp_path / "first", 300.0)), "--name", NAME)
    begun = tmp_path / "begun"
    (site.version("1") / "model.py").write_text(
        "import os, time\n"
        "class TritonPythonModel:\n"
        "    def initialize(self, args):\n"
        f"        os.write(os.open({str(begun)!r}, os.O_CREAT | os.O_APPEND | os.O_WRONLY), b'.')\n"
        "        time.sleep(3)  # as a network takes to load\n"
        "    def execute(self, requests):\n"
        "        return []\n"
    )
    with running_triton(site.server, []), ThreadPoolExecutor(3) as workers:
        for waited in [workers.submit(load_missing, site.settings, {NAME: "1"}) for _ in range(3)]:
            waited.result()
        assert site.served("1")
    assert begun.read_text() == "."


def test_who_does_not_reach_it_changes_nothing_and_is_told(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in the container of the gateway."""
    site.command(capsys, "import", str(threshold_bundle(tmp_path / "first", 300.0)), "--name", NAME)
    assert "Triton does not answer" in site.command(capsys, "unload", NAME, code=1)
    assert Servings(site.settings.data_dir).of(NAME) is None
    assert main(["models", "--config", str(site.config), "remove", NAME]) == 0
    assert "was not told, and may hold it still: restart it" in capsys.readouterr().out


def test_one_that_has_models_of_its_own_is_not_told_what_to_load(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for version, words in (("1", []), ("2", ["--as-version"])):
        bundle = threshold_bundle(tmp_path / version, ABOVE_HU[version])
        site.command(capsys, "import", str(bundle), "--name", NAME, *words)
    with running_triton(site.server.model_copy(update={"data_dir": tmp_path / "theirs"}), []):
        refused = site.command(capsys, "promote", NAME, "2", code=1)
        assert f"its repository is another than {site.settings.data_dir / 'models'}" in refused
        assert "has no model 'bone'" in site.command(capsys, "check", NAME, code=1)
