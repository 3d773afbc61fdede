"""A package's manifests: the specification's form, holoscan-cli's, and the legacy one; what is none is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from isocenter.maps.manifests import (
    HOLOSCAN,
    MONAI,
    ApplicationManifest,
    Model,
    PackageManifest,
    Resources,
    application_json,
    memory_bytes,
    package_json,
    read_application,
    read_package,
)
from isocenter_operators.errors import UnreadableInput


def _bytes(content: Any) -> bytes:
    return json.dumps(content).encode()


# As holoscan-cli 4.0 writes it: a command that is a list in a string, formats of the output, nulls.
HOLOSCAN_CLI_APP = {
    "apiVersion": "1.0.0",
    "command": '["python3", "/opt/holoscan/app"]',
    "environment": {
        "HOLOSCAN_INPUT_PATH": "/var/holoscan/input",
        "HOLOSCAN_OUTPUT_PATH": "/var/holoscan/output",
    },
    "input": {"path": "input/", "formats": None},
    "liveness": None,
    "output": {"path": "output/", "formats": None},
    "readiness": None,
    "sdk": "monai-deploy",
    "sdkVersion": "4.0.0",
    "timeout": 0,
    "version": 1.0,
    "workingDirectory": "/var/holoscan",
}
HOLOSCAN_CLI_PKG = {
    "apiVersion": "1.0.0",
    "applicationRoot": "/opt/holoscan/app",
    "modelRoot": "/opt/holoscan/models",
    "models": {"spleen": "/opt/holoscan/models/spleen"},
    "resources": {"cpu": 1, "gpu": 1, "memory": "1Gi", "gpuMemory": "6Gi"},
    "version": 1.0,
    "platformConfig": "dgpu",
}
# As the SDK 0.5 wrote it.
LEGACY_APP = {
    "api-version": "0.1.0",
    "sdk-version": "0.5.1",
    "command": "/usr/local/bin/python3.8 -u /opt/monai/app/app.py",
    "environment": {},
    "working-directory": "/var/monai",
    "input": {"path": "input", "formats": []},
    "output": {"path": "output", "format": {}},
    "version": "0.0.0",
    "timeout": 0,
}
LEGACY_PKG = {
    "api-version": "0.1.0",
    "sdk-version": "0.5.1",
    "application-root": "/var/monai",
    "models": [{"name": "spleen-0f1e", "path": "/opt/monai/models/spleen/model.ts"}],
    "resources": {"cpu": 1, "gpu": True, "memory": "7Gi"},
    "version": "0.0.0",
}


def test_what_holoscan_cli_writes_is_read() -> None:
    app, package = (
        read_application(_bytes(HOLOSCAN_CLI_APP), "app.json"),
        read_package(_bytes(HOLOSCAN_CLI_PKG), "pkg.json"),
    )
    assert app.arguments == ("python3", "/opt/holoscan/app")
    assert app.version == "1.0"
    assert (app.input_path(HOLOSCAN), app.output_path(HOLOSCAN)) == (
        "/var/holoscan/input",
        "/var/holoscan/output",
    )
    assert [model.path_in("/opt/holoscan/models") for model in package.models] == [
        "/opt/holoscan/models/spleen"
    ]
    assert package.resources.gpu == 1


def test_the_legacy_form_is_read() -> None:
    app, package = (
        read_application(_bytes(LEGACY_APP), "app.json"),
        read_package(_bytes(LEGACY_PKG), "pkg.json"),
    )
    assert app.arguments == ("/usr/local/bin/python3.8", "-u", "/opt/monai/app/app.py")
    assert app.input_path(MONAI) == "/var/monai/input"
    assert package.models[0].path_in("/opt/monai/models") == "/opt/monai/models/spleen/model.ts"
    assert package.resources.gpu == 1


def test_a_model_without_a_path_lies_under_its_name() -> None:
    package = read_package(
        _bytes({"applicationRoot": "/a", "models": [{"name": "liver"}, {"name": "b", "path": "x/y"}]}), "p"
    )
    assert [model.path_in("/models") for model in package.models] == ["/models/liver", "/models/x/y"]


@pytest.mark.parametrize("given", [HOLOSCAN_CLI_APP, LEGACY_APP])
def test_what_is_written_is_the_standard_form_and_reads_the_same(given: dict[str, Any]) -> None:
    app = read_application(_bytes(given), "app.json")
    written = application_json(app)
    assert read_application(written.encode(), "app.json") == app
    assert not any("-" in key for key in json.loads(written))
    assert "formats" not in json.loads(written)["output"]


def test_models_are_written_as_a_list_and_counts_as_whole_numbers() -> None:
    package = PackageManifest(
        application_root="/opt/holoscan/app",
        models=(Model(name="liver", path="liver"),),
        resources=Resources(cpu=2, gpu=0, memory="1.5Gi"),
    )
    content = json.loads(package_json(package))
    assert content["models"] == [{"name": "liver", "path": "liver"}]
    assert content["resources"] == {"cpu": 2, "gpu": 0, "memory": "1.5Gi"}
    assert '"gpu": 0\n' in package_json(package).replace(",", "")  # holoscan-cli counts with it


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "pkg.json: not valid JSON"),
        (b"[]", "pkg.json: expected an object"),
        (b'{"version": "1", "version": "2"}', "'version' stands there twice"),
        (_bytes({"resources": {"memory": "1 bushel"}}), "resources.memory: '1 bushel' is no size of memory"),
        (_bytes({"resources": {"ram": "1Gi"}}), "resources.ram"),
        (_bytes({"models": [{"path": "x"}]}), "models.0.name"),
        (_bytes({"models": [{"name": "x"}, {"name": "x"}]}), "x stands there twice"),
        (_bytes({"api-version": "1", "apiVersion": "1"}), "twice, with and without hyphens"),
    ],
)
def test_what_is_unknown_or_wrong_is_refused_by_file_and_key(content: bytes, told: str) -> None:
    with pytest.raises(UnreadableInput, match=r"^pkg\.json: ") as refused:
        read_package(content, "pkg.json")
    assert told in str(refused.value)


def test_a_command_is_needed_and_a_negative_timeout_refused() -> None:
    with pytest.raises(UnreadableInput, match=r"app.json: command: .*; timeout: "):
        read_application(_bytes({"timeout": -1}), "app.json")


@pytest.mark.parametrize(
    ("size", "count"),
    [("1.5Gi", 1610612736), ("512MiB", 536870912), ("2GB", 2 * 10**9), (4096, 4096), ("1g", 10**9)],
)
def test_sizes(size: str | int, count: int) -> None:
    assert memory_bytes(size) == count


@pytest.mark.parametrize("size", ["", "Gi", "-1Gi", "1,5Gi", "1Xi"])
def test_what_is_no_size(size: str) -> None:
    with pytest.raises(ValueError, match="no size of memory"):
        memory_bytes(size)


def test_the_least_that_is_written() -> None:
    app = ApplicationManifest(command="python3 /opt/holoscan/app", timeout=60, version="1.0.0")
    assert json.loads(application_json(app)) == {
        "command": "python3 /opt/holoscan/app",
        "environment": {},
        "input": {"path": "input/", "formats": []},
        "output": {"path": "output/"},
        "timeout": 60,
        "version": "1.0.0",
    }
