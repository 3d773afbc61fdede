"""The installed applications, from their folders only."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from isocenter.catalog import Catalog
from isocenter.settings import Settings, TritonSettings
from isocenter.weights import digest_of
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.errors import ConfigurationError

ROOT = Path(__file__).parents[2]


def write(apps: Path, name: str, content: str) -> None:
    (apps / name).mkdir(parents=True)
    (apps / name / "app.yaml").write_text(content)


def test_an_application_is_described_without_importing_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        "liver",
        "application: {title: Liver, version: 2.0, inputFormats: [DICOM]}\nresources: {cpu: 1}\n"
        "isocenter: {models: {liver_net: 3}, deadline_s: 60, concurrency: 2}",
    )
    (tmp_path / "liver" / "app.py").write_text("raise RuntimeError('imported')")
    write(tmp_path, "plain", "application: {title: Plain, version: '1'}")

    catalog = Catalog(tmp_path)

    assert [app.name for app in catalog.all()] == ["liver", "plain"]
    liver = catalog.get("liver")
    assert liver.algorithm == Algorithm("liver", "2.0", {"liver_net": "3"})
    assert liver.deadline_s == 60
    assert liver.concurrency == 2
    assert catalog.models == ("liver_net",)
    assert catalog.get("plain").deadline_s == 300
    assert catalog.get("plain").concurrency is None


def test_a_model_may_state_its_weights(tmp_path: Path) -> None:
    digest = "0123456789abcdef" * 4
    write(
        tmp_path,
        "liver",
        "application: {title: Liver, version: '2.0'}\n"
        f"isocenter: {{models: {{liver_net: {{version: 3, weights_sha256: {digest}}}, other: 1}}}}",
    )
    algorithm = Catalog(tmp_path).get("liver").algorithm
    assert algorithm.models == {"liver_net": "3", "other": "1"}
    assert algorithm.weights == {"liver_net": digest}


def model(repository: Path, weights: bytes) -> Path:
    """The version folder of a model as the server leaves it."""
    folder = repository / "liver_net" / "3"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "__pycache__" / "model.pyc").write_bytes(b"compiled")
    (folder / "model.py").write_text("...")
    (folder / "weights").mkdir()
    (folder / "weights" / "net.pt").write_bytes(weights)
    return folder


def test_weights_are_told_apart_by_names_and_bytes_alone(tmp_path: Path) -> None:
    one = model(tmp_path / "one", b"weights")
    same = model(tmp_path / "same", b"weights")
    (same / "__pycache__" / "other.pyc").write_bytes(b"of another Python")
    changed = model(tmp_path / "changed", b"Weights")
    renamed = model(tmp_path / "renamed", b"weights")
    (renamed / "weights" / "net.pt").rename(renamed / "weights" / "net2.pt")
    assert digest_of(one) == digest_of(same)
    assert len({digest_of(folder) for folder in (one, changed, renamed)}) == 3


def test_an_application_has_the_weights_that_lie_here_for_the_server(tmp_path: Path) -> None:
    apps, repository = tmp_path / "apps", tmp_path / "models"
    described = "application: {title: Liver, version: '2'}\nisocenter: {models: {liver_net: %s, away: 1}}"
    write(apps, "liver", described % "3")
    digest = digest_of(model(repository, b"weights"))
    embedded = Settings(apps_dir=apps, triton=TritonSettings(model_repository=repository))
    assert Catalog.weighed(embedded).get("liver").algorithm.weights == {"liver_net": digest}
    triton = TritonSettings(url="127.0.0.1:1", model_repository=repository)
    elsewhere = Settings(apps_dir=apps, data_dir=tmp_path / "data", triton=triton)
    assert Catalog.weighed(elsewhere).get("liver").algorithm.weights == {}
    imported = digest_of(model(tmp_path / "data" / "models", b"imported"))
    assert Catalog.weighed(elsewhere).get("liver").algorithm.weights == {"liver_net": imported}

    stated = "{version: 3, weights_sha256: %s}"
    (apps / "liver" / "app.yaml").write_text(described % (stated % digest))
    assert Catalog.weighed(embedded).get("liver").algorithm.weights == {"liver_net": digest}
    (apps / "liver" / "app.yaml").write_text(described % (stated % ("f" * 64)))
    with pytest.raises(ConfigurationError, match=r"models.liver_net: states weights ffffffffffff\.\.\."):
        Catalog.weighed(embedded).get("liver")


@pytest.mark.parametrize("how", ["imported again", "written over"])
def test_other_weights_under_the_same_name_are_noticed_by_a_process_that_runs(
    tmp_path: Path, how: str
) -> None:
    apps, repository = tmp_path / "apps", tmp_path / "models"
    write(apps, "liver", "application: {title: L, version: '2'}\nisocenter: {models: {liver_net: 3}}")
    folder = model(repository, b"weights")
    settings = Settings(apps_dir=apps, triton=TritonSettings(model_repository=repository))
    before = Catalog.weighed(settings).get("liver").algorithm.weights
    file = folder / "weights" / "net.pt"
    at = file.stat()
    if how == "imported again":
        shutil.rmtree(repository / "liver_net")
        model(repository, b"Weights")
    else:
        file.write_bytes(b"Weights")
    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))  # as `cp -p` and archives keep it
    after = Catalog.weighed(settings).get("liver").algorithm.weights
    assert after == {"liver_net": digest_of(folder)} != before


def test_weights_that_do_not_change_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apps, repository = tmp_path / "apps", tmp_path / "models"
    write(apps, "liver", "application: {title: L, version: '2'}\nisocenter: {models: {liver_net: 3}}")
    folder = model(repository, b"weights")
    settings = Settings(apps_dir=apps, triton=TritonSettings(model_repository=repository))
    first = Catalog.weighed(settings).get("liver")
    monkeypatch.setattr("isocenter.weights.digest_of", lambda _: pytest.fail("read again"))
    (folder / "__pycache__" / "late.pyc").write_bytes(b"which the server writes")
    assert Catalog.weighed(settings).get("liver") == first


def test_weights_that_change_while_they_are_read_are_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apps, repository = tmp_path / "apps", tmp_path / "models"
    write(apps, "liver", "application: {title: L, version: '2'}\nisocenter: {models: {liver_net: 3}}")
    folder = model(repository, b"weights")

    def written_meanwhile(_: Path) -> str:
        (folder / "weights" / "net.pt").write_bytes(b"others, and more")
        return "0" * 64

    monkeypatch.setattr("isocenter.weights.digest_of", written_meanwhile)
    settings = Settings(apps_dir=apps, triton=TritonSettings(model_repository=repository))
    with pytest.raises(ConfigurationError, match="was changed while it was read"):
        Catalog.weighed(settings).get("liver")


def test_the_applications_of_this_project_are_described(tmp_path: Path) -> None:
    density = Catalog(ROOT / "apps").get("ct_lung_density")
    assert density.algorithm.models == {"ct_lung_density": "1"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("application: {title: T}", r"app.yaml: application.version: Field required"),
        ("application: [", r"app.yaml: not valid YAML"),
        (
            "application: {title: T, version: '1'}\nisocenter: {modles: {}}",
            r"app.yaml: isocenter.modles: Extra inputs",
        ),
        (
            "application: {title: T, version: '1'}\nisocenter: {concurrency: 0}",
            r"app.yaml: isocenter.concurrency: Input should be greater than or equal to 1",
        ),
    ],
)
def test_a_description_that_can_not_be_used_is_named(tmp_path: Path, content: str, message: str) -> None:
    write(tmp_path, "broken", content)
    write(tmp_path, "liver", "application: {title: Liver, version: '1'}")
    catalog = Catalog(tmp_path)
    with pytest.raises(ConfigurationError, match=message):
        catalog.get("broken")
    with pytest.raises(ConfigurationError, match=message):
        catalog.all()
    assert catalog.get("liver").title == "Liver"  # which it does not concern


def test_an_unknown_application_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    write(tmp_path, "liver", "application: {title: Liver, version: '1'}")
    with pytest.raises(
        ConfigurationError, match=r"there is no application 'lung' in .* \(installed: liver\)"
    ):
        Catalog(tmp_path).get("lung")
    with pytest.raises(ConfigurationError, match="there is no folder"):
        Catalog(tmp_path / "nowhere")


def test_an_imported_application_stands_for_no_installed_one_and_half_an_import_is_none(
    tmp_path: Path,
) -> None:
    for place, version in (
        ("apps/lung", "1"),
        ("data/lung", "2"),
        ("data/liver", "3"),
        ("data/.import-x", "4"),
    ):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "app.yaml").write_text(f"application: {{title: T, version: '{version}'}}")
    catalog = Catalog(tmp_path / "apps", tmp_path / "data")
    assert (catalog.get("lung").version, catalog.get("liver").version) == ("1", "3")
    assert ".import-x" not in {app.name for app in catalog.all()}
