"""`isocenter map lint` and `inspect`: nothing is found in a good package, and in each broken one what was broken."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from map_cases import WEIGHTS, WEIGHTS_COUNTED, Recipe, good

from isocenter.cli import map_inspect, map_lint
from isocenter.maps.finding import Finding
from isocenter.maps.inspection import inspect_package
from isocenter.maps.linting import lint_package
from isocenter.maps.package import open_package

Break = Callable[[Recipe], object]


def _set(part: str, key: str, value: object) -> Break:
    """In app.json, pkg.json, resources or the image's configuration."""

    def change(recipe: Recipe) -> None:
        place = recipe.pkg["resources"] if part == "resources" else getattr(recipe, part)
        place[key] = value

    return change


def _drop(part: str, key: str) -> Break:
    def change(recipe: Recipe) -> None:
        place = recipe.pkg["resources"] if part == "resources" else getattr(recipe, part)
        del place[key]

    return change


def _file(path: str, content: bytes = b"x", mode: int = 0o644) -> Break:
    def change(recipe: Recipe) -> None:
        recipe.content.files[path] = content
        recipe.content.modes[path] = mode

    return change


def _without(path: str) -> Break:
    def change(recipe: Recipe) -> None:
        content = recipe.content
        content.files = {each: what for each, what in content.files.items() if not each.startswith(path)}
        content.folders = {each for each in content.folders if not each.startswith(path)}
        content.modes = {each: mode for each, mode in content.modes.items() if not each.startswith(path)}
        content.executable -= {path}

    return change


def _label(name: str, value: str | None) -> Break:
    def change(recipe: Recipe) -> None:
        labels = recipe.config["Labels"]
        labels.pop(name, None)
        if value is not None:
            labels[name] = value

    return change


def _all(*changes: Break) -> Break:
    return lambda recipe: [change(recipe) for change in changes]


def _bill_of_other_weights(recipe: Recipe) -> None:
    component = {
        "type": "machine-learning-model",
        "name": "/opt/holoscan/models/liver/model.ts",
        "hashes": [{"alg": "SHA-256", "content": "0" * 64}],
    }
    bill = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [component]}
    recipe.content.files["opt/holoscan/sbom.cdx.json"] = json.dumps(bill).encode()


def _legacy(recipe: Recipe) -> None:
    """The form before 1.0: other places, keys with hyphens."""
    files = recipe.content.files
    for path in [path for path in files if path.startswith("opt/holoscan/")]:
        files[path.replace("opt/holoscan", "opt/monai")] = files.pop(path)
    recipe.content.folders |= {"var/monai/input", "var/monai/output"}
    recipe.content.owned["var/monai/output"] = (1000, 1000)
    recipe.manifests = "etc/monai"
    recipe.app = {
        "api-version": "0.1.0",
        "command": "python3 /opt/monai/app",
        "working-directory": "/var/monai",
        "input": {"path": "input", "formats": ["DICOM"]},
        "output": {"path": "output", "format": {"type": "DICOM"}},
        "version": "1.0.0",
        "timeout": 60,
    }
    recipe.pkg = {
        "api-version": "0.1.0",
        "application-root": "/opt/monai/app",
        "models": [{"name": "liver", "path": "/opt/monai/models/liver"}],
        "resources": {"cpu": 1, "gpu": False, "memory": "1Gi"},
        "version": "1.0.0",
    }
    recipe.config["Entrypoint"] = ["python3", "/opt/monai/app"]


# What is broken, the finding it makes, and whether that is an error.
BROKEN: list[tuple[str, bool, Break]] = [
    ("app-manifest-missing", True, lambda recipe: setattr(recipe, "app", None)),
    ("pkg-manifest-missing", True, lambda recipe: setattr(recipe, "pkg", None)),
    ("app-manifest-invalid", True, lambda recipe: setattr(recipe, "app", b"{")),
    ("app-manifest-invalid", True, _set("app", "commnad", "x")),
    ("pkg-manifest-invalid", True, _set("resources", "memory", "lots")),
    ("command-missing", True, _drop("app", "command")),
    ("command-missing", True, _set("app", "command", "")),
    ("command-unparsable", True, _set("app", "command", "python3 'app")),
    ("command-program-missing", True, _set("app", "command", "python4 /opt/holoscan/app")),
    ("command-not-executable", True, _set("app", "command", "/opt/holoscan/app/__main__.py")),
    ("command-file-missing", True, _set("app", "command", "python3 /opt/holoscan/application")),
    ("layout-legacy", False, _legacy),
    ("api-version-absent", False, _drop("app", "apiVersion")),
    ("api-version-not-semantic", True, _set("pkg", "apiVersion", "one")),
    ("api-version-unknown", False, _set("app", "apiVersion", "2.0.0")),
    ("version-absent", False, _drop("app", "version")),
    ("version-not-semantic", True, _all(*(_set(each, "version", "1.0") for each in ("app", "pkg")))),
    ("versions-differ", False, _set("pkg", "version", "1.0.1")),
    ("sdk-version-not-semantic", True, _set("app", "sdkVersion", "4")),
    ("timeout-absent", False, _set("app", "timeout", 0)),
    ("input-format-absent", False, _set("app", "input", {"path": "input"})),
    ("output-format-absent", False, _set("app", "output", {"path": "output", "format": {}})),
    ("probe-type", True, _set("app", "liveness", {"type": "ping"})),
    ("probe-incomplete", True, _set("app", "readiness", {"type": "http-get", "port": 8080})),
    ("model-name", True, _set("pkg", "models", [{"name": "the liver", "path": "liver"}])),
    (
        "model-missing",
        True,
        _set("pkg", "models", {"liver": "/opt/holoscan/models/liver", "spleen": "spleen"}),
    ),
    ("model-unlisted", False, _file("opt/holoscan/models/spleen/model.ts")),
    ("model-root-relative", True, _set("pkg", "modelRoot", "models")),
    ("model-root-not-there", True, _set("pkg", "modelRoot", "/opt/models")),
    ("application-root-absent", False, _drop("pkg", "applicationRoot")),
    ("application-root-relative", True, _set("pkg", "applicationRoot", "app")),
    ("application-root-not-there", True, _set("pkg", "applicationRoot", "/opt/app")),
    ("working-directory-relative", True, _set("app", "workingDirectory", "work")),
    ("working-directory-not-there", True, _set("app", "workingDirectory", "/var/work")),
    ("input-not-there", False, _without("var/holoscan/input")),
    ("output-not-there", False, _without("var/holoscan/output")),
    ("output-in-input", True, _set("app", "output", {"path": "input/out", "format": "DICOM"})),
    ("output-not-writable", False, lambda recipe: recipe.content.owned.clear()),
    ("environment-absent", False, lambda recipe: recipe.app["environment"].pop("HOLOSCAN_INPUT_PATH")),
    (
        "environment-contradicts",
        True,
        lambda recipe: recipe.app["environment"].update(HOLOSCAN_OUTPUT_PATH="/var/holoscan/results"),
    ),
    (
        "environment-contradicts",
        True,
        _set("config", "Env", ["PATH=/usr/bin", "HOLOSCAN_MODEL_PATH=/models"]),
    ),
    ("memory-absent", False, _drop("resources", "memory")),
    ("cpu-absent", False, _drop("resources", "cpu")),
    ("shared-memory-absent", False, _drop("resources", "sharedMemory")),
    ("memory-unit", True, _set("resources", "memory", "2GB")),
    ("gpu-needed", False, _all(_set("resources", "gpu", 1), _set("resources", "gpuMemory", "4Gi"))),
    ("gpu-memory-absent", False, _all(_set("resources", "gpu", 1), _label("org.isocenter.gpu", "optional"))),
    ("gpu-contradicts", False, _set("resources", "gpuMemory", "4Gi")),
    ("platform", True, lambda recipe: setattr(recipe, "architecture", "s390x")),
    ("runs-as-root", False, _set("config", "User", "")),
    ("runs-as-root", False, _set("config", "User", "0:0")),
    ("user-unknown", True, _set("config", "User", "nobody-knows")),
    ("entrypoint-missing", True, _drop("config", "Entrypoint")),
    ("entrypoint-program-missing", True, _set("config", "Entrypoint", ["/var/holoscan/tools"])),
    ("entrypoint-not-executable", True, _set("config", "Entrypoint", ["/opt/holoscan/app/__main__.py"])),
    ("base-unpinned", False, _label("org.opencontainers.image.base.digest", None)),
    (
        "base-unknown",
        False,
        _all(*(_label(f"org.opencontainers.image.base.{each}", None) for each in ("name", "digest"))),
    ),
    ("secret-in-environment", False, _set("config", "Env", ["PATH=/usr/bin", "REGISTRY_TOKEN=abc"])),
    ("world-writable", False, _file("opt/holoscan/app/settings.ini", mode=0o666)),
    ("setuid", False, _file("usr/bin/su", mode=0o4755)),
    ("repository-inside", False, _file("opt/holoscan/app/.git/HEAD")),
    ("cache-inside", False, _file("root/.cache/pip/http/a")),
    ("secret-inside", False, _file("opt/holoscan/app/.env", b"PASSWORD=1")),
    ("secret-inside", False, _file("opt/holoscan/app/tls.key", b"-----BEGIN PRIVATE KEY-----\n")),
    ("images-inside", False, _file("opt/holoscan/app/example.dcm")),
    ("sbom-absent", False, _without("opt/holoscan/sbom.cdx.json")),
    ("weights-differ", True, _file("opt/holoscan/models/liver/model.ts", b"other weights")),
    ("weights-differ", True, _bill_of_other_weights),
]


def _linted(recipe: Recipe, folder: Path) -> list[Finding]:
    return lint_package(open_package(recipe.write_image(folder)))


def test_nothing_is_found_in_a_good_package(tmp_path: Path) -> None:
    assert _linted(good(), tmp_path) == []


def test_nothing_is_found_in_the_same_one_unpacked(tmp_path: Path) -> None:
    assert lint_package(open_package(good().write_folder(tmp_path))) == []


@pytest.mark.parametrize(
    ("name", "is_error", "broken"), BROKEN, ids=[f"{name}-{at}" for at, (name, *_) in enumerate(BROKEN)]
)
def test_what_was_broken_is_found(name: str, is_error: bool, broken: Break, tmp_path: Path) -> None:
    recipe = good()
    broken(recipe)
    found = _linted(recipe, tmp_path)
    named = [each for each in found if each.name == name]
    assert named, [each.name for each in found]
    assert {each.severity for each in named} == {"error" if is_error else "warning"}
    assert all(each.where and each.message and each.advice for each in found)


def test_every_finding_is_in_the_documentation_and_in_the_table() -> None:
    root = Path(__file__).parents[2]
    told = (root / "docs" / "maps.md").read_text()
    tested = {name for name, *_ in BROKEN}
    assert not [name for name in sorted(tested) if f"`{name}`" not in told]


def test_places_of_one_kind_are_told_together(tmp_path: Path) -> None:
    recipe = good()
    for number in range(12):
        _file(f"opt/holoscan/app/{number:02}", mode=0o666)(recipe)
    found = [each for each in _linted(recipe, tmp_path) if each.name == "world-writable"]
    assert len(found) == 3
    assert "9 more" in found[-1].message


def test_what_libraries_bring_is_nobodys_secret(tmp_path: Path) -> None:
    recipe = good()
    _file("opt/venv/lib/python3.11/site-packages/tls/tests/key.pem", b"-----BEGIN PRIVATE KEY-----\n")(recipe)
    _file("usr/lib/python3/dist-packages/pydicom/data/chrArab.dcm")(recipe)
    assert _linted(recipe, tmp_path) == []


def test_lint_ends_with_one_where_there_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = good()
    recipe.app["command"] = ""
    file = recipe.write_image(tmp_path)
    assert map_lint.command.main([str(file), "--json"], standalone_mode=False) == 1
    assert [each["name"] for each in json.loads(capsys.readouterr().out)["findings"]] == ["command-missing"]
    assert map_lint.command.main([str(file)], standalone_mode=False) == 1
    assert "1 error, 0 warnings" in capsys.readouterr().out


def test_inspect_tells_models_by_their_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = good().write_image(tmp_path)
    found = inspect_package(open_package(file))
    model, bill = found.models[0], found.bills_of_materials[0]
    assert (model.path, model.size, model.sha256) == (
        "/opt/holoscan/models/liver",
        len(WEIGHTS),
        hashlib.sha256(WEIGHTS_COUNTED).hexdigest(),
    )
    assert (found.needs.memory, found.needs.cpu, found.needs.timeout_s) == (2 << 30, 2, 600)
    assert found.base == f"debian:12@sha256:{'b' * 64}"
    assert (bill.path, bill.format) == ("/opt/holoscan/sbom.cdx.json", "CycloneDX 1.6")
    assert map_inspect.command.main([str(file)], standalone_mode=False) == 0
    told = capsys.readouterr().out
    assert model.sha256 in told
    assert "2 CPU, no GPU, 2.0 GiB memory, 64.0 MiB shared memory, 600 s" in told


def test_inspect_reads_a_folder_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = good()
    recipe.pkg = None
    assert (
        map_inspect.command.main([str(recipe.write_folder(tmp_path)), "--json"], standalone_mode=False) == 1
    )
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == ["/etc/holoscan/pkg.json: there is none"]
    assert (found["kind"], found["digest"]) == ("folder", None)
