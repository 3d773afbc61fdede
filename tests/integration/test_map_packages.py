"""Packages for real: built on a Debian base, read by others' programs, run in a sandbox, with the same results."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from commands import ROOT, isocenter, site
from engines import ENGINES, require_containers, running_engine
from pydicom import Dataset, dcmread

from isocenter.cli.map_base import default_base
from isocenter.maps.engine import engine_named
from isocenter.maps.manifests import HOLOSCAN
from isocenter.maps.oci import open_image
from isocenter_operators.errors import ConfigurationError, Unavailable
from isocenter_operators.testing import thorax_phantom, write_series

pytestmark = pytest.mark.integration

COPIES = """
import os, pathlib, shutil
source, target = (pathlib.Path(os.environ[f"HOLOSCAN_{each}PUT_PATH"]) for each in ("IN", "OUT"))
for path in source.iterdir():
    shutil.copyfile(path, target / path.name)
print("copied as user", os.getuid())
"""


@pytest.fixture(scope="session")
def base() -> Path:
    """The base of this machine, which is kept."""
    try:
        return default_base((), ROOT / ".cache" / "maps")
    except (ConfigurationError, Unavailable) as error:
        pytest.skip(f"no base can be made here: {error}")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = site(tmp_path_factory.mktemp("site"))
    phantom = thorax_phantom(size=(80, 70, 40), spacing_mm=(4.0, 4.0, 6.0))
    phantom.hu[10:14, 20:30, 20:30] = 700
    write_series(phantom, folder / "in")
    return folder


@pytest.fixture(scope="module")
def hello(place: Path, base: Path) -> dict[str, Any]:
    """A new application, packed; what the command said of it."""
    isocenter(place, "app", "new", "hello")
    words = ("--engine", "none", "--base", base, "-o", "hello.oci")
    built: dict[str, Any] = isocenter(place, "map", "build", "apps/hello", *words)
    return built


def _read(folder: Path) -> dict[str, list[Dataset]]:
    found: dict[str, list[Dataset]] = {}
    for path in sorted(folder.rglob("*.dcm")):
        dataset = dcmread(path)
        found.setdefault(dataset.Modality, []).append(dataset)
    return found


def _numbers(report: Dataset) -> list[float]:
    return [
        float(item.MeasuredValueSequence[0].NumericValue)
        for item in _items(report)
        if item.ValueType == "NUM"
    ]


def _items(dataset: Dataset) -> Iterator[Dataset]:
    for item in dataset.get("ContentSequence", ()):
        yield item
        yield from _items(item)


def _assert_same_results(packed: Path, alone: Path) -> None:
    found, expected = _read(packed), _read(alone)
    assert set(found) == set(expected) >= {"SEG", "SR"}
    for modality, instances in expected.items():
        assert [each.SOPInstanceUID for each in found[modality]] == [
            each.SOPInstanceUID for each in instances
        ]
        if modality == "SR":
            assert _numbers(found[modality][0]) == _numbers(instances[0])
        for one, other in zip(found[modality], instances, strict=True):
            if "PixelData" in other:
                assert np.array_equal(one.pixel_array, other.pixel_array)


def test_a_new_application_becomes_a_package_that_says_the_same(place: Path, hello: dict[str, Any]) -> None:
    assert hello["digest"] == open_image(place / "hello.oci").digest
    errors = [
        each
        for each in isocenter(place, "map", "lint", "hello.oci")["findings"]
        if each["severity"] == "error"
    ]
    assert errors == []
    isocenter(place, "map", "run", "hello.oci", "-i", "in", "-o", "out")
    done = subprocess.run(
        [sys.executable, "-m", "isocenter.cli", "run", "hello", "in", "--out", "alone"],
        cwd=place,
        env={**os.environ, "ISOCENTER_APPS_DIR": str(place / "apps")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _assert_same_results(place / "out", place / "alone")


def test_a_package_of_no_model_carries_no_pytorch(place: Path, hello: dict[str, Any]) -> None:
    site_packages = (
        f"opt/holoscan/venv/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    )
    names = {
        entry.path.removeprefix(f"{site_packages}/").partition("/")[0]
        for entry in open_image(place / "hello.oci").entries()
        if entry.path.startswith(f"{site_packages}/")
    }
    assert {"holoscan", "isocenter", "isocenter_operators", "pydicom"} <= names
    assert not {"torch", "cupy", "dbos", "sqlalchemy", "pytriton"} & names


def test_the_new_applications_own_test_passes(place: Path, hello: dict[str, Any]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(place / "apps/hello")],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_built_again_elsewhere_it_has_the_same_digest(place: Path, hello: dict[str, Any], base: Path) -> None:
    (place / "elsewhere").mkdir()
    shutil.copytree(
        place / "apps/hello", place / "elsewhere/hello", ignore=shutil.ignore_patterns("__pycache__")
    )
    for path in (place / "elsewhere/hello").iterdir():
        os.utime(path, (1e9, 1e9))
    words = ("--engine", "none", "--base", base, "-o", "layout")
    again = isocenter(place, "map", "build", "elsewhere/hello", *words)
    assert again["digest"] == hello["digest"]
    shutil.rmtree(place / "layout")


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """An application that needs nothing but Python, in the SDK's form."""
    folder = tmp_path / "copies"
    folder.mkdir()
    (folder / "__main__.py").write_text(COPIES)
    application = {
        "title": "Copies", "version": "1.0.0", "input-formats": ["file"], "output-formats": ["file"], "timeout": 60,
    }  # fmt: skip
    resources = {"cpu": 1, "memory": "1Gi", "sharedMemory": "64Mi"}
    (folder / "app.yaml").write_text(json.dumps({"application": application, "resources": resources}))
    shutil.copytree(
        ROOT / "triton_models/self_test",
        tmp_path / "models/self_test",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    return folder


def _build(copies: Path, base: Path, out: str, *words: str) -> dict[str, Any]:
    place = copies.parent
    built: dict[str, Any] = isocenter(
        place, "map", "build", "copies", "--models", "models", "--base", base, "-o", out, *words
    )
    return built


def test_others_programs_read_the_manifests(
    copies: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """holoscan-cli 4.0 fetches them out of the image by Docker, here by what stands in for it."""
    from holoscan_cli.common.utils import get_requested_gpus
    from holoscan_cli.runner.resources import get_shared_memory_size
    from holoscan_cli.runner.runner import _fetch_map_manifest

    _build(copies, base, "copies.oci", "--engine", "none")
    open_image(tmp_path / "copies.oci").extract(tmp_path / "root")
    docker = tmp_path / "bin/docker"
    docker.parent.mkdir()
    docker.write_text(
        f'#!/bin/sh\ncase "$1" in create) echo id;; cp) cp "{tmp_path}/root${{2#*:}}" "$3";; esac\n'
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:{os.environ['PATH']}")
    app, pkg = _fetch_map_manifest("copies:1.0.0")
    assert app["input"]["path"] == "/var/holoscan/input"
    assert app["environment"]["HOLOSCAN_MODEL_PATH"] == pkg["modelRoot"] == "/opt/holoscan/models"
    assert json.loads(app["command"])[-1] == "/opt/holoscan/app"
    assert get_requested_gpus(pkg) == 0
    assert get_shared_memory_size(pkg, False, False, "", "config") == 64 << 20


def test_the_sdk_finds_its_paths_and_models(
    copies: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _build(copies, base, "copies.oci", "--engine", "none")
    image = open_image(tmp_path / "copies.oci")
    image.extract(tmp_path / "root")
    for name, value in json.loads(image.read(HOLOSCAN.application_manifest))["environment"].items():
        if name.startswith("HOLOSCAN_"):
            monkeypatch.setenv(name, f"{tmp_path}/root{value}" if value.startswith("/") else value)
    told = subprocess.run(
        [
            sys.executable, "-W", "ignore", "-c",
            "from monai.deploy.core.app_context import AppContext; c = AppContext({}); "
            "print(c.input_path, c.output_path, c.workdir, *(m['name'] for m in c.models.get_model_list()))",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    root = f"{tmp_path}/root/var/holoscan"
    assert told.stdout.split() == [f"{root}/input", f"{root}/output", root, "self_test"], told.stderr


@pytest.fixture
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Buildah or Podman with a store of its own, which is gone afterwards; or none."""
    name: str = request.param
    # Podman takes no longer path of its files than 50 characters.
    with TemporaryDirectory(prefix="isocenter-", ignore_cleanup_errors=True) as store:
        options = ("--root", f"{store}/root", "--runroot", f"{store}/run", "--storage-driver", "vfs")
        monkeypatch.setenv(f"ISOCENTER_{name.upper()}", " ".join(options))
        try:
            engine_named(name)
        except ConfigurationError as error:
            pytest.skip(str(error))
        yield name
        if name != "none":
            subprocess.run([name, *options, "rmi", "-a", "-f"], check=False, capture_output=True)


@pytest.mark.parametrize("engine", ["buildah", "podman"], indirect=True)
def test_an_engine_builds_it_in_a_chroot_the_same_each_time(
    engine: str, copies: Path, base: Path, tmp_path: Path, place: Path
) -> None:
    first = _build(copies, base, "copies.oci", "--engine", engine)
    second = _build(copies, base, "again.oci", "--engine", engine)
    assert second["digest"] == first["digest"]
    findings = isocenter(tmp_path, "map", "lint", "copies.oci")["findings"]
    assert [each for each in findings if each["severity"] == "error"] == []
    document = json.loads(open_image(tmp_path / "copies.oci").read("/opt/holoscan/docs/sbom.cdx.json"))
    assert {"debian", "libc6", "self_test"} <= {each["name"] for each in document["components"]}
    isocenter(tmp_path, "map", "run", "copies.oci", "-i", place / "in", "-o", "out")
    assert len(list((tmp_path / "out").rglob("IM*.dcm"))) == len(list((place / "in").iterdir()))


@pytest.mark.parametrize("name", ENGINES)
def test_docker_and_podman_build_and_run_it(
    name: str, copies: Path, base: Path, tmp_path: Path, place: Path
) -> None:
    """Both real; and holoscan-cli fetches the manifests out of Docker's image, as it does of its own."""
    with running_engine(name):
        require_containers(name, base, ["/bin/true"])
        _build(copies, base, "copies.oci", "--engine", name)
        findings = isocenter(tmp_path, "map", "lint", "copies.oci")["findings"]
        assert [each for each in findings if each["severity"] == "error"] == []
        for package, out in (("copies.oci", "out"), ("copies:1.0.0", "named")):
            words = ("-i", place / "in", "-o", out, "--engine", name)
            said = isocenter(tmp_path, "map", "run", package, *words)
            assert (said["status"], said["engine"]) == ("done", name)
            assert len(list((tmp_path / out).rglob("IM*.dcm"))) == len(list((place / "in").iterdir()))
            assert (tmp_path / said["log"]).read_text() == "copied as user 1000\n"
        if name == "docker":
            from holoscan_cli.runner.runner import _fetch_map_manifest

            app, pkg = _fetch_map_manifest("copies:1.0.0")
            assert (app["workingDirectory"], pkg["modelRoot"]) == ("/var/holoscan", "/opt/holoscan/models")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["none", "buildah"], indirect=True)
def test_an_application_with_a_model_runs_alone_with_the_same_results(
    engine: str, place: Path, base: Path, test_data: Path
) -> None:
    """Its own Triton in the package, on loopback; the real chest CT."""
    chest = test_data / "ct-chest-275" / "image"
    words = ("--engine", engine, "--base", base, "-o", "lung.oci")
    isocenter(place, "map", "build", ROOT / "apps/ct_lung_density", *words)
    isocenter(place, "map", "run", "lung.oci", "-i", chest, "-o", f"lung-{engine}")
    (place / "lung.oci").unlink()
    if not (place / "lung-alone").is_dir():
        isocenter(place, "run", "ct_lung_density", chest, "--out", "lung-alone")
    _assert_same_results(place / f"lung-{engine}", place / "lung-alone")
