"""Packages built without an engine, on a base of a few files: what is in them, and that it is the same on any day."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import sys
import tarfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace as Namespace

import pytest
from packaging.requirements import Requirement

from isocenter.cli import main
from isocenter.maps.app_folder import AppFolder, read_app
from isocenter.maps.base import Base, is_reference, open_base
from isocenter.maps.building import Parts, build_image, finish_image
from isocenter.maps.closure import Closure, closure_of, read_requirements
from isocenter.maps.debian import Recipe, debian_base
from isocenter.maps.dependencies import Dependencies
from isocenter.maps.distributions import Distribution, installed, wheels_in
from isocenter.maps.dockerfile import BASE, write_context
from isocenter.maps.engine import Engine, Order, engine_named
from isocenter.maps.image_config import ContainerConfig, ImageConfig
from isocenter.maps.image_writer import Draft, write_image
from isocenter.maps.layer import LayerContent, write_layer
from isocenter.maps.linting import lint_package
from isocenter.maps.manifests import HOLOSCAN, read_application, read_package
from isocenter.maps.models import models_of
from isocenter.maps.oci import Image, open_image
from isocenter.maps.reference import opened
from isocenter.maps.security_updates import Sources
from isocenter.weights import digest_of
from isocenter_operators.errors import ConfigurationError, InputError, Unavailable

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
APP_YAML = """
application:
  title: Copies
  version: 1.2.3
  license: Apache-2.0
  inputFormats: [DICOM]
  outputFormats: [DICOM]
  timeout: 60
resources: {cpu: 1, memory: 1Gi, sharedMemory: 64Mi}
"""
STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u10

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root file system with a Python that is none."""
    folder = tmp_path / "root"
    files = {
        f"usr/bin/python{MINOR}": "#!/bin/sh\n",
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
        "etc/group": "root:x:0:\n",
        "etc/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        "var/lib/dpkg/status": STATUS,
        "var/log/dpkg.log": "on that day",
    }
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (folder / f"usr/bin/python{MINOR}").chmod(0o755)
    (folder / "usr/bin/python3").symlink_to(f"python{MINOR}")
    return folder


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "copies"
    folder.mkdir()
    (folder / "app.yaml").write_text(APP_YAML)
    (folder / "__main__.py").write_text("print('copied')\n")
    (folder / "requirements.txt").write_text("colorama>=0.4  # of a colour\n")
    (folder / "README.md").write_text("# Copies\n")
    return folder


def _parts(folder: Path, **others: object) -> Parts:
    app = read_app(folder)
    closure = closure_of(app.requirements, installed, gpu=False)
    return Parts(app=app, closure=closure, models=(), tag="copies:1.2.3", minor=MINOR, **others)  # type: ignore[arg-type]


def _built(parts: Parts, base: Path, out: Path) -> Image:
    work = out.parent / f"work-{out.name}"
    work.mkdir()
    digest = build_image(parts, open_base(base, work, epoch=0), out, work, epoch=0)
    image = open_image(out)
    assert image.digest == digest
    image.verify()
    return image


def test_a_package_is_what_the_specification_says(app: Path, root: Path, tmp_path: Path) -> None:
    image = _built(_parts(app), root, tmp_path / "copies.oci")
    manifest = read_application(image.read(HOLOSCAN.application_manifest), "app.json")
    assert manifest.arguments == ("/opt/holoscan/venv/bin/python3", "/opt/holoscan/app")
    assert (manifest.version, manifest.timeout) == ("1.2.3", 60)
    assert manifest.input_path(HOLOSCAN) == "/var/holoscan/input"
    package = read_package(image.read(HOLOSCAN.package_manifest), "pkg.json")
    assert (package.resources.cpu, package.resources.memory) == (1, "1Gi")
    assert image.read("/opt/holoscan/app/__main__.py") == b"print('copied')\n"
    assert image.read("/opt/holoscan/docs/README.md") == b"# Copies\n"
    container = image.config.config
    assert container.user == "1000:1000"
    assert container.environment["HOLOSCAN_MODEL_PATH"] == "/opt/holoscan/models"
    assert container.environment["PATH"].startswith("/opt/holoscan/venv/bin:")
    assert container.argv == ("/opt/holoscan/venv/bin/python3", "/var/holoscan/tools")
    labels = container.labels or {}
    assert labels["org.opencontainers.image.version"] == "1.2.3"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    entries = {entry.path: entry for entry in image.entries()}
    assert entries["opt/holoscan/venv/bin/python3"].target == f"/usr/bin/python{MINOR}"
    assert f"opt/holoscan/venv/lib/python{MINOR}/site-packages/colorama/__init__.py" in entries
    assert entries["var/holoscan/output"].uid == 1000
    assert "var/log/dpkg.log" not in entries
    assert b"holoscan:x:1000:1000" in image.read("/etc/passwd")


def test_lint_finds_nothing_in_it(app: Path, root: Path, tmp_path: Path) -> None:
    _built(_parts(app), root, tmp_path / "copies.oci")
    with opened(str(tmp_path / "copies.oci")) as package:
        assert lint_package(package) == []


def test_the_same_input_gives_the_same_bytes_on_another_day(
    app: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _built(_parts(app), root, tmp_path / "first.oci")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    for folder in (app, root):
        for path in folder.rglob("*"):
            os.utime(path, (1e9, 1e9), follow_symlinks=False)
    (app / "__pycache__").mkdir()
    (app / "__pycache__/x.pyc").write_bytes(os.urandom(9))
    second = _built(_parts(app), root, tmp_path / "second.oci")
    assert second.digest == first.digest
    assert (tmp_path / "second.oci").read_bytes() == (tmp_path / "first.oci").read_bytes()
    (app / "__main__.py").write_text("print('changed')\n")
    assert _built(_parts(app), root, tmp_path / "third.oci").digest != first.digest


def test_the_bill_of_materials_names_what_is_inside(app: Path, root: Path, tmp_path: Path) -> None:
    image = _built(_parts(app), root, tmp_path / "layout")
    document = json.loads(image.read("/opt/holoscan/docs/sbom.cdx.json"))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    named = {each["name"]: each for each in document["components"]}
    assert set(named) == {"debian", "colorama", "libc6"}
    assert named["libc6"]["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=debian-12"
    assert named["colorama"]["purl"].startswith("pkg:pypi/colorama@")
    assert "BSD" in json.dumps(named["colorama"]["licenses"])
    assert len(named["colorama"]["properties"][0]["value"]) == 64


def test_a_base_of_another_python_is_refused(app: Path, root: Path, tmp_path: Path) -> None:
    (root / f"usr/bin/python{MINOR}").rename(root / "usr/bin/python3.9")
    (root / "usr/bin/python3").unlink()
    (root / "usr/bin/python3").symlink_to("python3.9")
    with pytest.raises(ConfigurationError, match=r"has Python 3\.9"):
        _built(_parts(app), root, tmp_path / "copies.oci")


def test_a_base_without_python_is_refused(app: Path, root: Path, tmp_path: Path) -> None:
    (root / "usr/bin/python3").unlink()
    with pytest.raises(ConfigurationError, match="no python3"):
        _built(_parts(app), root, tmp_path / "copies.oci")


def test_a_base_may_be_a_tar_or_an_image(app: Path, root: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "root.tar", "w") as archive:
        archive.add(root, ".")
    packed = open_base(root, tmp_path, epoch=0)
    assert isinstance(packed, Base)
    write_image(
        Draft(ImageConfig(config=ContainerConfig(env=("A=1",))), packed.layers, "base:1"),
        tmp_path / "base.oci",
    )
    for name in ("root.tar", "base.oci"):
        image = _built(_parts(app), tmp_path / name, tmp_path / f"on-{name}")
        assert image.read("/etc/os-release").startswith(b"ID=debian")
    assert open_image(tmp_path / "on-base.oci").config.config.environment["A"] == "1"
    labels = open_image(tmp_path / "on-base.oci").config.config.labels or {}
    assert labels["org.opencontainers.image.base.name"] == "base:1"
    assert labels["org.opencontainers.image.base.digest"] == open_image(tmp_path / "base.oci").digest


def test_a_base_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigurationError, match="a base is a file or a folder"):
        open_base(Path("python:3.11"), Path(), epoch=0)
    assert is_reference("python:3.11-slim-bookworm")
    assert is_reference(f"registry:5000/group/name@sha256:{'0' * 64}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda app: (app / "__main__.py").unlink(), "__main__.py"),
        (lambda app: (app / "app.yaml").write_text("application: {version: 1}"), "title"),
        (lambda app: (app / "app.yaml").write_text("application: ["), "YAML"),
        (lambda app: (app / "app.yaml").unlink(), "can not be read"),
        (lambda app: (app / "app.yaml").write_text(APP_YAML.replace("1Gi", "much")), "resources"),
        (lambda app: (app / "requirements.txt").write_text("--index-url somewhere\n"), "requirements.txt:1"),
        (lambda app: (app / "requirements.txt").write_text("not-a-package-that-is-here\n"), "not here"),
        (lambda app: (app / "requirements.txt").write_text("colorama>=99\n"), "asks for colorama>=99"),
    ],
)
def test_what_can_not_be_packed_is_told(app: Path, change: object, said: str) -> None:
    change(app)  # type: ignore[operator]
    with pytest.raises(ConfigurationError, match=said):
        _parts(app)


def test_requirements_may_name_other_files_and_hashes(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("# more\nb[x]>=2 ; python_version > '3'\n")
    (tmp_path / "requirements.txt").write_text("a==1 \\\n  --hash=sha256:00\n-r more.txt\n")
    assert [str(each) for each in read_requirements(tmp_path / "requirements.txt")] == [
        "a==1",
        'b[x]>=2; python_version > "3"',
    ]


def _distribution(name: str, *requires: str, version: str = "1.0") -> Distribution:
    return Distribution(name, version, "", tuple(requires), {}, {}, {}, "0" * 64, 0)


def _walked(distributions: Sequence[Distribution], *wanted: str, gpu: bool = False) -> Closure:
    there = {each.name: each for each in distributions}
    return closure_of([Requirement(each) for each in wanted], there.get, gpu=gpu)


def test_a_closure_follows_extras_and_markers() -> None:
    there = [
        _distribution("a", "b; extra == 'more'", "c", "d; python_version < '3'"),
        _distribution("b", "e"),
        *map(_distribution, ("c", "d", "e")),
    ]
    assert [each.name for each in _walked(there, "a").distributions] == ["a", "c"]
    assert [each.name for each in _walked(there, "a", "a[more]").distributions] == ["a", "b", "c", "e"]


def test_a_closure_ends_where_packages_need_each_other() -> None:
    assert len(_walked([_distribution("a", "b"), _distribution("b", "a")], "a").distributions) == 2


def test_what_only_a_gpu_needs_is_left_out_without_one() -> None:
    there = [_distribution("a", "cupy-cuda13x"), _distribution("cupy-cuda13x")]
    assert [each.name for each in _walked(there, "a").distributions] == ["a"]
    assert [each.name for each in _walked(there, "a", gpu=True).distributions] == ["a", "cupy-cuda13x"]


def test_what_a_package_lacks_is_noted_and_what_the_application_lacks_is_refused() -> None:
    there = [_distribution("a", "gone", "b<1"), _distribution("b")]
    assert _walked(there, "a").notes == (
        "a asks for b<1, and 1.0 is here",
        "a asks for gone, which is not here",
    )
    with pytest.raises(ConfigurationError, match="gone"):
        _walked(there, "gone")


def test_a_cpu_build_of_pytorch_is_not_packed_for_a_gpu(app: Path) -> None:
    closure = Closure((_distribution("torch", version="2.13.0+cpu"),), ())
    with pytest.raises(ConfigurationError, match="CPU build"):
        Parts(read_app(app), closure, (), "t:1", MINOR, gpu=True)


def test_the_drivers_are_asked_for_on_a_gpu(app: Path, root: Path, tmp_path: Path) -> None:
    image = _built(_parts(app, gpu=True), root, tmp_path / "gpu.oci")
    assert image.config.config.environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with one package, installed as pip does it."""
    folder = tmp_path / "site"
    files = {
        "shade/__init__.py": b"TONE = 1\n",
        "shade-2.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: Shade\nVersion: 2.0\nLicense: MIT\n",
    }
    lines = [
        "shade-2.0.dist-info/RECORD,,",
        "../../../bin/shade,,",
        "shade/__pycache__/__init__.cpython-311.pyc,,",
    ]
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(content)}")
    (folder / "shade-2.0.dist-info/RECORD").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_what_is_installed_is_taken_without_its_scripts(site: Path) -> None:
    shade = installed("SHADE")
    assert shade is not None
    assert (shade.name, shade.version, shade.licence) == ("shade", "2.0", "MIT")
    assert set(shade.files) == {"shade/__init__.py", "shade-2.0.dist-info/METADATA"}


def test_a_file_that_was_changed_after_it_was_installed_is_not_packed(site: Path) -> None:
    (site / "shade/__init__.py").write_text("TONE = 2\n")
    with pytest.raises(InputError, match="not what its RECORD says"):
        installed("shade")


def test_a_file_that_is_gone_is_told(site: Path) -> None:
    (site / "shade/__init__.py").unlink()
    with pytest.raises(InputError, match="not there"):
        installed("shade")


def test_a_source_tree_is_packed_as_it_is_now() -> None:
    ours = installed("isocenter")
    assert ours is not None
    assert "isocenter/maps/building.py" in ours.files
    assert "isocenter/app_template/app.yaml" in ours.files
    assert not any(".pyc" in path or "__editable__" in path for path in ours.files)
    # Not even where it was installed before this stood in pyproject.toml.
    assert any("torch" in each and 'extra == "models"' in each for each in ours.requires)


def _wheel(folder: Path, content: bytes, recorded: bytes | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    digest = base64.urlsafe_b64encode(hashlib.sha256(recorded or content).digest()).rstrip(b"=").decode()
    file = folder / "shade-3.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("shade/__init__.py", content)
        archive.writestr("shade-3.0.data/scripts/shade", "#!python\n")
        archive.writestr("shade-3.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: shade\nVersion: 3.0\n")
        archive.writestr(
            "shade-3.0.dist-info/RECORD",
            f"shade/__init__.py,sha256={digest},\nshade-3.0.data/scripts/shade,,\nshade-3.0.dist-info/METADATA,,\n",
        )
    return file


def test_a_private_wheel_wins_over_what_is_installed(site: Path, tmp_path: Path) -> None:
    _wheel(tmp_path / "wheels", b"TONE = 3\n")
    closure = Dependencies("installed", tmp_path, tmp_path / "wheels").closure([Requirement("shade")])
    (shade,) = closure.distributions
    assert shade.version == "3.0"
    assert set(shade.files) == {"shade/__init__.py", "shade-3.0.dist-info/METADATA"}


def test_wheels_alone_have_to_be_complete(tmp_path: Path) -> None:
    _wheel(tmp_path / "wheels", b"TONE = 3\n")
    with pytest.raises(ConfigurationError, match="colorama"):
        Dependencies("wheels", tmp_path, tmp_path / "wheels").closure(
            [Requirement("shade"), Requirement("colorama")]
        )
    with pytest.raises(ConfigurationError, match="forbids"):
        Dependencies("index", tmp_path, offline=True).closure([Requirement("shade")])


@pytest.fixture
def installed_isocenter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As in the images of docker/: no source tree, a distribution as any other, that no index has."""
    folder = tmp_path / "site"
    metadata = (
        "Metadata-Version: 2.1\nName: isocenter\nVersion: 9.0\nProvides-Extra: models\n"
        'Requires-Dist: shade>=3; extra == "models"\nRequires-Dist: nowhere; extra == "service"\n'
    )
    for path, content in (("isocenter/__init__.py", ""), ("isocenter-9.0.dist-info/METADATA", metadata)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    lines = "isocenter/__init__.py,,\nisocenter-9.0.dist-info/METADATA,,\n"
    (folder / "isocenter-9.0.dist-info/RECORD").write_text(lines)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # the folder of wheels is the index
    return folder


def test_an_index_is_asked_for_what_isocenter_needs_and_not_for_isocenter(
    installed_isocenter: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(_wheel(tmp_path / "wheels", b"TONE = 3\n"), "a") as archive:  # which pip asks for
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr("shade-3.0.dist-info/WHEEL", tags)
    wanted = [Requirement("Isocenter[models]>=9")]
    closure = Dependencies("index", tmp_path, tmp_path / "wheels").closure(wanted)
    assert [(each.name, each.version) for each in closure.distributions] == [
        ("isocenter", "9.0"),
        ("shade", "3.0"),
    ]
    (tmp_path / "other").mkdir()
    newer = Dependencies("index", tmp_path / "other", tmp_path / "wheels")
    with pytest.raises(ConfigurationError, match=r"asks for isocenter.*9\.0 is here"):
        newer.closure([Requirement("isocenter[models]>=10")])


def test_a_damaged_wheel_is_not_packed(tmp_path: Path) -> None:
    _wheel(tmp_path / "wheels", b"TONE = 4\n", recorded=b"TONE = 3\n")
    with pytest.raises(InputError, match="not what its RECORD says"):
        wheels_in(tmp_path / "wheels", tmp_path / "unpacked")


def test_links_that_a_wheel_only_lists_are_made(tmp_path: Path) -> None:
    """As Holoscan's wheel has its libraries' names."""
    file = _wheel(tmp_path / "wheels", b"TONE = 3\n")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(
            "shade-3.0.dist-info/symlinks.txt", "shade-3.0.data/purelib/shade/lib.so,lib.so.4,0\n"
        )
    shade = wheels_in(tmp_path / "wheels", tmp_path / "unpacked")["shade"]
    assert shade.links == {"shade/lib.so": "lib.so.4"}


@pytest.fixture
def ours(app: Path, tmp_path: Path) -> AppFolder:
    """An application of Isocenter with a model on Triton."""
    (app / "app.yaml").write_text(APP_YAML + 'isocenter: {models: {liver: "1"}}\n')
    (app / "__main__.py").unlink()
    (app / "app.py").write_text("")
    for name in ("liver", "self_test"):
        (tmp_path / f"repository/{name}/1").mkdir(parents=True)
        (tmp_path / f"repository/{name}/config.pbtxt").write_text(f'name: "{name}"\n')
        (tmp_path / f"repository/{name}/1/model.py").write_text("WEIGHTS = 1\n")
    return read_app(app)


def test_models_go_with_the_digest_of_their_weights(ours: AppFolder, root: Path, tmp_path: Path) -> None:
    models = models_of(ours, None, [tmp_path / "repository"])
    parts = Parts(ours, Closure((), ()), models, "copies:1", MINOR)
    image = _built(parts, root, tmp_path / "copies.oci")
    weights = digest_of(tmp_path / "repository/liver/1")
    config = image.read("/opt/holoscan/app/app.yaml").decode()
    assert f"weights_sha256: {weights}" in config
    assert "name: copies" in config
    assert (image.config.config.labels or {})["org.isocenter.model.liver"] == f"sha256:{weights}"
    manifest = read_application(image.read(HOLOSCAN.application_manifest), "app.json")
    assert manifest.arguments[1:] == ("-m", "isocenter.stack.alone", "/opt/holoscan/app")
    package = read_package(image.read(HOLOSCAN.package_manifest), "pkg.json")
    assert [model.name for model in package.models] == ["liver", "self_test"]
    # What is started is there also where the application has none of its own.
    assert b"isocenter_operators.command" in image.read("/opt/holoscan/app/__main__.py")
    document = json.loads(image.read("/opt/holoscan/docs/sbom.cdx.json"))
    (liver,) = [each for each in document["components"] if each["name"] == "liver"]
    assert {each["name"] for each in liver["components"]} == {"config.pbtxt", "1/model.py"}


def test_an_application_of_ours_brings_what_runs_it(ours: AppFolder) -> None:
    assert Requirement("isocenter[models]") in ours.requirements


def test_a_model_that_is_missing_or_another_is_told(ours: AppFolder, app: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="liver"):
        models_of(ours, None, [tmp_path])
    stated = APP_YAML + f"isocenter: {{models: {{liver: {{version: '1', weights_sha256: {'a' * 64}}}}}}}\n"
    (app / "app.yaml").write_text(stated)
    with pytest.raises(ConfigurationError, match="states the weights"):
        models_of(read_app(app), None, [tmp_path / "repository"])


def test_a_folder_of_models_is_read_as_the_sdk_does(app: Path, tmp_path: Path) -> None:
    (tmp_path / "models/spleen").mkdir(parents=True)
    (tmp_path / "models/spleen/model.ts").write_text("weights")
    (model,) = models_of(read_app(app), tmp_path / "models", ())
    assert (model.name, set(model.files)) == ("spleen", {"model.ts"})


def test_a_dockerfile_is_written_with_all_that_it_needs(app: Path, tmp_path: Path) -> None:
    file = write_context(
        _parts(app),
        "debian:12",
        ("debian:12", ""),
        tmp_path / "context",
        epoch=0,
        system_packages=("libgl1",),
    )
    text = file.read_text()
    assert "ARG BASE=debian:12\nFROM ${BASE}\n" in text
    assert "libgl1" in text
    assert "\nUSER 1000:1000\n" in text
    assert 'ENTRYPOINT ["/opt/holoscan/venv/bin/python3", "/var/holoscan/tools"]' in text
    added = {line.split()[1] for line in text.splitlines() if line.startswith("ADD")}
    assert added == {path.name for path in file.parent.glob("*.tar")}
    assert BASE.format(minor="3.11") == "python:3.11-slim-bookworm"


ENGINE = """#!/bin/sh
echo "$@" >> "$0.log"
case "$1" in
  info) exit ${INFO_FAILS:-0} ;;
  build) [ -z "$BUILD_FAILS" ] || { echo "no space left"; exit 1; } ;;
  save) cp "$SAVED" "$3" ;;
esac
"""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    """A program of that name which notes what it is told, and saves an image that is there."""
    program = tmp_path / "bin/docker"
    program.parent.mkdir()
    program.write_text(ENGINE)
    program.chmod(0o755)
    shutil.copy("/bin/cp", program.parent)
    layer = write_layer(
        LayerContent(files={"etc/os-release": b"ID=debian\n"}), tmp_path / "saved.layer", epoch=0
    )
    write_image(Draft(ImageConfig(), [layer], "copies:1.2.3"), tmp_path / "saved.tar")
    monkeypatch.setenv("PATH", f"{program.parent}")
    monkeypatch.setenv("SAVED", str(tmp_path / "saved.tar"))
    return program


def _order(app: Path, tmp_path: Path) -> Order:
    file = write_context(
        _parts(app), "debian:12", ("debian:12", ""), tmp_path / "context", epoch=0, system_packages=()
    )
    return Order(file, "debian:12", "copies:1.2.3", tmp_path / "out.tar", offline=True)


def test_an_engine_builds_and_what_it_saved_gets_its_bill_of_materials(
    docker: Path, app: Path, tmp_path: Path
) -> None:
    engine = engine_named("auto")
    assert engine == Engine("docker")
    order = _order(app, tmp_path)
    engine.build(order, tmp_path, lambda _: None)
    log = Path(f"{docker}.log").read_text().splitlines()
    assert log[1] == (
        f"build --pull=false --build-arg BASE=debian:12 -t copies:1.2.3 -f {order.dockerfile} {order.dockerfile.parent}"
    )
    finish_image(_parts(app), order.out, ("debian:12", ""), tmp_path / "copies.oci", tmp_path, epoch=0)
    image = open_image(tmp_path / "copies.oci")
    image.verify()
    document = json.loads(image.read("/opt/holoscan/docs/sbom.cdx.json"))
    assert "colorama" in {each["name"] for each in document["components"]}


def test_an_engine_that_fails_is_told_and_one_that_is_missing_is_done_without(
    docker: Path, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILD_FAILS", "1")
    with pytest.raises(Unavailable, match="no space left"):
        Engine("docker").build(_order(app, tmp_path), tmp_path, lambda _: None)
    with pytest.raises(ConfigurationError, match="podman is not installed"):
        engine_named("podman")
    monkeypatch.setenv("INFO_FAILS", "1")
    assert engine_named("auto") is None
    assert engine_named("none") is None


def test_a_base_is_named_by_what_goes_into_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, more = Recipe("bookworm", ("python3",)), Recipe("bookworm", ("libgl1", "python3"))
    assert plain.file(tmp_path) != more.file(tmp_path)
    assert "libgl1" in Recipe.for_running_python(("libgl1",)).packages
    monkeypatch.setattr("isocenter.maps.debian.sys", Namespace(version_info=Namespace(major=3, minor=14)))
    with pytest.raises(ConfigurationError, match=r"Python 3\.14"):
        Recipe.for_running_python()


@pytest.mark.parametrize(
    ("sources", "updates"),
    [
        (Sources("bookworm"), "http://deb.debian.org/debian-security bookworm-security main"),
        (Sources("bookworm", "http://pacs/debian/"), "http://pacs/debian-security/ bookworm-security main"),
        (Sources("bookworm", "http://pacs/deb", "http://pacs/sec"), "http://pacs/sec bookworm-security main"),
        (
            Sources("bookworm", "http://snapshot.debian.org/archive/debian/20261101T000000Z"),
            "[check-valid-until=no] http://snapshot.debian.org/archive/debian-security/20261101T000000Z "
            "bookworm-security main",
        ),
        (Sources("noble", "http://pacs/ubuntu"), "http://pacs/ubuntu noble-security main"),
    ],
    ids=["Debian's", "a mirror's", "named", "a past day's", "Ubuntu's"],
)
def test_where_a_bases_security_updates_are(sources: Sources, updates: str) -> None:
    assert f"deb {updates}" in sources.lines
    assert any(f"{sources.suite}-updates" in line for line in sources.lines)


def test_a_base_without_its_updates_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where apt only warns that it could not reach them."""
    with pytest.raises(ConfigurationError, match="--security-mirror"):
        Sources("bookworm", "http://pacs/deb").lines  # noqa: B018
    (tmp_path / "etc/apt").mkdir(parents=True)
    (tmp_path / "etc/hosts").write_text("of the base\n")
    asked: list[str] = []

    def run(command: list[str], **_: object) -> Namespace:
        asked.append(command[-1])
        return Namespace(returncode=0, stdout=said)

    monkeypatch.setattr("isocenter.maps.security_updates.subprocess.run", run)
    monkeypatch.setattr("isocenter.maps.security_updates.namespaces.available", lambda: False)
    said = "Hit:1 bookworm\n"
    Sources("bookworm").bring_up_to_date(tmp_path, print)
    assert asked == ["update", "dist-upgrade", "clean"]
    assert "bookworm-security" in (tmp_path / "etc/apt/sources.list").read_text()
    said = "Hit:1 bookworm\nErr:2 bookworm-security\nW: Some index files failed to download.\n"
    with pytest.raises(Unavailable, match="apt-get update: Err:2 bookworm-security"):
        Sources("bookworm").bring_up_to_date(tmp_path, print)
    assert (tmp_path / "etc/hosts").read_text() == "of the base\n"


def test_a_mirrors_password_gets_into_no_base_and_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "http://{}pacs/debian"
    secret = Recipe("bookworm", (), address.format("user:of@mirror@"))
    (tmp_path / "etc/apt").mkdir(parents=True)
    used: list[str] = []

    def run(_: list[str], **__: object) -> Namespace:
        used.append((tmp_path / "etc/apt/sources.list").read_text())
        return Namespace(
            returncode=code, stdout="Err:1 http://user:of@mirror@pacs/debian bookworm InRelease\n"
        )

    monkeypatch.setattr("isocenter.maps.security_updates.subprocess.run", run)
    monkeypatch.setattr("isocenter.maps.security_updates.namespaces.available", lambda: False)
    code = 100
    with pytest.raises(Unavailable, match="http://pacs/debian") as told:
        Sources("bookworm", secret.mirror).bring_up_to_date(tmp_path, print)
    assert "of@mirror" not in str(told.value)
    monkeypatch.setattr(
        "isocenter.maps.security_updates.subprocess.run",
        lambda *_, **__: Namespace(returncode=0, stdout=""),
    )
    Sources("bookworm", secret.mirror).bring_up_to_date(tmp_path, print)
    assert all("user:of@mirror@pacs" in each for each in used)
    kept = (tmp_path / "etc/apt/sources.list").read_text()
    assert kept.splitlines() == list(Sources("bookworm", address.format("")).lines)
    assert secret.name == Recipe("bookworm", (), address.format("")).name


def test_a_base_that_can_not_be_made_here_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(ConfigurationError, match="apt-get install debootstrap"):
        debian_base(Recipe("bookworm", ()), tmp_path, print)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: "/bin/false")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigurationError, match="as root only"):
        debian_base(Recipe("bookworm", ()), tmp_path, print)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(Unavailable, match="could not make bookworm"):
        debian_base(Recipe("bookworm", ()), tmp_path, print)
    assert not list(tmp_path.glob("*.oci"))


def test_the_command_builds_and_tells_what_it_built(
    app: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(app), "--engine", "none", "--base", str(root), "--json"]
    (app / ".env").write_text("PASSWORD=1")
    assert main(["map", "build", *words, "-o", str(tmp_path / "copies.oci")]) == 0
    told = capsys.readouterr()
    assert f"note: {app / '.env'} looks like a secret" in told.err
    said = json.loads(told.out)
    assert said["digest"] == open_image(tmp_path / "copies.oci").digest
    assert (said["tag"], said["engine"], said["distributions"]) == ("copies:1.2.3", "none", 1)
    assert main(["map", "build", *words, "--dockerfile-only", str(tmp_path / "context")]) == 1
    assert "no image" in json.loads(capsys.readouterr().out)["reason"]
    assert list(tmp_path.glob(".map-*")) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "-o FILE"),
        (("-o", "a.oci", "--dockerfile-only", "b"), "-o FILE"),
        (
            ("-o", "a.oci", "--engine", "none", "--base", ".", "--system-packages", "libgl1"),
            "--system-packages",
        ),
        (("-o", "a.oci", "--engine", "none", "--offline", "--cache", "empty"), "--offline"),
        (("-o", "a.oci", "--engine", "none", "--base", "nowhere"), "no nowhere"),
        (("-o", "a.oci", "--dependencies", "wheels"), "--wheels"),
        (("--dockerfile-only", "context", "--base", "/no/where.oci"), "neither a file"),
    ],
)
def test_wrong_usage_of_the_command_is_told(
    app: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: Sequence[str],
    said: str,
) -> None:
    monkeypatch.chdir(app.parent)
    assert main(["map", "build", str(app), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_new_application_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["app", "new", "hip_bone", "--title", 'Hip "bone"']) == 0
    written = {Path(line).name for line in capsys.readouterr().out.splitlines()}
    assert {"app.py", "app.yaml", "requirements.txt", "__main__.py", "test_app.py", "README.md"} == written
    assert read_app(Path("apps/hip_bone")).application.title == 'Hip "bone"'
    assert "isocenter run hip_bone" in Path("apps/hip_bone/README.md").read_text()
    assert main(["app", "new", "hip_bone"]) == 2
    assert main(["app", "new", "Hip-Bone"]) == 2
