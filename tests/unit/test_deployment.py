"""docker/: what compose.yaml and the Dockerfile say, against the specifications and against this project.

The Compose Specification's schema is the copy in check-jsonschema; Dockerfiles are read by hadolint. The other rules
are ours: each is something that a hospital would miss.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from composed import PROFILES, ROOT, compose, orthanc_configuration, services
from jsonschema import Draft202012Validator

from isocenter.maps.seccomp import DENIED
from isocenter.settings import GatewaySettings, Settings, TritonSettings
from isocenter.stack.orthanc import configuration
from isocenter.stack.triton import triton_child
from isocenter_operators.errors import ConfigurationError

DOCKERFILE = ROOT / "docker" / "Dockerfile"
EVERY = [(profile, name) for profile in PROFILES for name in services(profile)]
SECRET = re.compile("password|secret|token|key", re.IGNORECASE)


def targets() -> dict[str, str]:
    """The instructions of each stage of the Dockerfile."""
    stages: dict[str, str] = {}
    for stage in re.split(r"^FROM ", DOCKERFILE.read_text(), flags=re.MULTILINE)[1:]:
        first, _, rest = stage.partition("\n")
        stages[first.split()[-1]] = rest
    return stages


def test_compose_is_what_its_specification_says() -> None:
    schema = get_builtin_schema("vendor.compose-spec")
    problems = [
        f"{each.json_path}: {each.message}" for each in Draft202012Validator(schema).iter_errors(compose())
    ]
    assert problems == []
    wrong = {**compose(), "services": {"gateway": {"imagee": "x"}}}
    assert list(Draft202012Validator(schema).iter_errors(wrong))


def test_the_dockerfile_is_clean() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    config = ["--config", str(ROOT / "docker" / "hadolint.yaml")]
    done = subprocess.run([hadolint, *config, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_images_get_all_that_the_service_needs() -> None:
    """What the service imports is a dependency of its own, so that no other package has to bring it by chance."""
    told = subprocess.run(
        [sys.executable, ROOT / "docker" / "needed.py", ROOT / "pyproject.toml"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    names = {re.split(r"[^A-Za-z0-9._-]", each)[0] for each in told}
    assert {"click", "dbos", "httpx", "monai", "pydantic-settings", "torch", "uvicorn"} <= names
    assert not {"isocenter", "nvidia-pytriton", "mypy"} & names
    assert "--requirement needed.txt" in targets()["python"]


def test_every_base_and_image_is_pinned() -> None:
    bases = re.findall(r"^ARG (?:DEBIAN|TRITON|ORTHANC)=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    froms = re.findall(r"^FROM (\S+) AS", DOCKERFILE.read_text(), re.MULTILINE)
    assert len(bases) == 3
    assert {each for each in froms if each not in targets()} == {"${DEBIAN}", "${TRITON}", "${ORTHANC}"}
    for image in [*bases, *(service["image"] for service in compose()["services"].values())]:
        name, _, tag = image.rpartition(":")
        assert name, f"{image} has no tag"
        assert re.search(r"\d+\.\d+|\d{8}", tag), f"{image}: a tag like this moves"


@pytest.mark.parametrize("target", ["gateway", "worker", "triton", "orthanc"])
def test_every_image_runs_as_a_number_that_is_not_root_and_is_asked_how_it_is(target: str) -> None:
    base = {"gateway": "service", "worker": "service"}.get(target)
    instructions = targets()[target] + (targets()[base] if base else "")
    users = re.findall(r"^USER (\S+)$", instructions, re.MULTILINE)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])
    assert re.search(r"^HEALTHCHECK ", instructions, re.MULTILINE)


@pytest.mark.parametrize("target", ["service", "gateway", "worker", "triton", "orthanc"])
def test_no_image_that_is_kept_tells_of_the_index(target: str) -> None:
    """What a stage is given as ARG stands in its image's history, with the password that may be in it."""
    assert "PIP_" not in targets()[target]


def test_triton_and_the_worker_are_one_user_so_that_they_share_memory() -> None:
    user = {
        name: re.findall(r"^USER (\S+)$", targets()[name], re.MULTILINE)[-1] for name in ("service", "triton")
    }
    assert user["service"] == user["triton"]
    for profile in PROFILES:
        for service in services(profile).values():
            if "worker" in service["image"]:
                triton = service["ipc"].removeprefix("service:")
                there = services(profile)[triton]
                assert (there["ipc"], service["depends_on"][triton]) == (
                    "shareable",
                    {"condition": "service_healthy", "restart": True},
                )
                assert "--allow-client-shm=true" in there["command"]
                assert "user" not in service
                assert "user" not in there


@pytest.mark.parametrize(("profile", "name"), EVERY)
def test_every_service_is_confined(profile: str, name: str) -> None:
    service = services(profile)[name]
    assert service["healthcheck"]["test"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    limits = service["deploy"]["resources"]["limits"]
    assert {"cpus", "memory"} <= limits.keys()
    # Compose refuses the whole file where a limit stands in both places.
    assert limits["pids"] > 0
    assert not {"pids_limit", "mem_limit", "cpus"} & service.keys()
    assert service["restart"] == "unless-stopped"
    assert service["stop_grace_period"]
    assert not service.get("privileged")
    assert service.get("network_mode") is None
    # Of an image that is not ours, whose own user is root.
    if service["image"].startswith("isocenter/"):
        assert "user" not in service
    else:
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])


def test_only_workers_may_make_namespaces_and_only_where_packages_are_wanted() -> None:
    packages = yaml.safe_load((ROOT / "docker" / "packages.yaml").read_text())
    assert list(Draft202012Validator(get_builtin_schema("vendor.compose-spec")).iter_errors(packages)) == []
    assert packages["services"].keys() == {name for _, name in EVERY if name.startswith("worker")}
    for service in packages["services"].values():
        assert service == {
            "security_opt": [
                "seccomp=packages.seccomp.json",
                "apparmor=unconfined",
                "systempaths=unconfined",
            ]
        }
    # Of what a package may not ask of the kernel the worker's container may ask what a sandbox is made by.
    profile = json.loads((ROOT / "docker" / "packages.seccomp.json").read_text())
    denied, unknown = (set(each["names"]) for each in profile["syscalls"])
    makes = {"chroot", "mount", "pivot_root", "sethostname", "setns", "umount2", "unshare"}
    assert denied == DENIED.keys() - makes
    assert all(each.startswith("io_uring_") for each in unknown)


@pytest.mark.parametrize("profile", PROFILES)
def test_only_the_gateway_and_dicom_are_published(profile: str) -> None:
    published = {name: service["ports"] for name, service in services(profile).items() if "ports" in service}
    dicom = "balancer" if profile.startswith("scale") else "orthanc"
    assert published == {"gateway": ["127.0.0.1:8080:8080"], dicom: ["0.0.0.0:4242:4242"]}
    networks = compose()["networks"]
    reached = {
        name
        for name, service in services(profile).items()
        if not all(networks[each].get("internal") for each in service["networks"])
    }
    assert not reached & {"postgres", "triton", "triton-gpu", "orthanc-1", "orthanc-2"}
    # Docker publishes ports by a container's first network, in the order of names: an internal one has no way in.
    for name in reached:
        assert not networks[min(services(profile)[name]["networks"])].get("internal"), name


@pytest.mark.parametrize("profile", PROFILES)
def test_who_asks_whom_shares_a_network_with_it(profile: str) -> None:
    there = services(profile)
    on = {
        network: {
            *(name for name, each in there.items() if network in each["networks"]),
            *(
                alias
                for each in there.values()
                if isinstance(each["networks"], dict)
                for alias in (each["networks"].get(network) or {}).get("aliases", ())
            ),
        }
        for network in compose()["networks"]
    }
    assert {"orthanc", "gateway"} <= on["archive"]
    assert {"triton"} <= on["inference"]
    assert {"postgres", "gateway"} <= on["database"]
    workers = {name for name, each in there.items() if "worker" in each["image"]}
    assert len(workers) == 1
    for network in ("archive", "inference", "database"):
        assert workers <= on[network]
    assert "gateway" not in on["inference"]


def test_no_secret_stands_in_an_environment() -> None:
    for name, service in compose()["services"].items():
        for variable in service.get("environment", {}):
            assert not SECRET.search(variable) or variable.endswith("_FILE"), f"{name}: {variable}"
    given = {
        secret if isinstance(secret, str) else secret["source"]
        for service in compose()["services"].values()
        for secret in service.get("secrets", ())
    }
    assert given == compose()["secrets"].keys()
    ignored = subprocess.run(["git", "check-ignore", "docker/secrets/database_url"], cwd=ROOT, check=False)
    assert ignored.returncode == 0


def test_the_secrets_fit_each_other_and_are_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    script = ROOT / "docker" / "secrets.sh"
    subprocess.run([script, folder], check=True, capture_output=True)
    made = {file.name: file.read_text() for file in folder.iterdir()}
    assert made.keys() == {Path(each["file"]).name for each in compose()["secrets"].values()}
    users = json.loads(made["orthanc_users.json"])["RegisteredUsers"]
    assert users == {"isocenter": made["orthanc_password"].strip()}
    assert made["database_url"].split("@")[0] == f"postgresql://isocenter:{made['database_password'].strip()}"
    assert len({made["database_password"], made["orthanc_password"]}) == 2
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    subprocess.run([script, folder], check=True, capture_output=True)
    assert {file.name: file.read_text() for file in folder.iterdir()} == made


@pytest.mark.parametrize(
    ("profile", "name"), [each for each in EVERY if "gateway" in each[1] or "worker" in each[1]]
)
def test_every_variable_is_a_setting(
    profile: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run([ROOT / "docker" / "secrets.sh", tmp_path], check=True, capture_output=True)
    for variable, value in services(profile)[name]["environment"].items():
        monkeypatch.setenv(variable, value.replace("/run/secrets", str(tmp_path)))
    for variable, value in re.findall(r"(ISOCENTER_\w+)=(\S+)", targets()["service"] + targets()["gateway"]):
        if variable not in os.environ:
            monkeypatch.setenv(variable, value)
    (file,) = (each["target"] for each in services(profile)[name]["configs"])
    assert os.environ["ISOCENTER_CONFIG"] == file
    monkeypatch.setenv("ISOCENTER_CONFIG", str(ROOT / "docker" / "isocenter.yaml"))
    settings = Settings.load()
    assert not settings.orthanc.embedded
    assert not settings.triton.embedded
    assert settings.database.startswith("postgresql://")
    monkeypatch.setenv("ISOCENTER_ORTHANC__URRL", "x")
    with pytest.raises(ConfigurationError, match="URRL: there is no such key"):
        Settings.load()


def test_orthanc_is_configured_as_the_embedded_one(tmp_path: Path) -> None:
    """So that what the other tests show of the embedded archive holds for this one."""
    embedded = configuration(Settings(data_dir=tmp_path, gateway=GatewaySettings(host="gateway")))
    # Where it lies, and who may reach it, are the container's own; the plugins and the script are in the image.
    own = {
        "StorageDirectory",
        "IndexDirectory",
        "Plugins",
        "PythonScript",
        "RegisteredUsers",
        "RemoteAccessAllowed",
        "HttpBindAddresses",
        "AuthenticationEnabled",
        "OrthancExplorerEnabled",
    }
    for name in ("orthanc", "orthanc-1", "orthanc-2"):
        made = orthanc_configuration(compose()["services"][name]["environment"])
        index = made.pop("PostgreSQL", None)
        assert {key: made.get(key) for key in embedded if key not in own} == {
            key: value for key, value in embedded.items() if key not in own
        }
        assert made.keys() <= embedded.keys()
        assert made["AuthenticationEnabled"] is True
        assert (index is not None) == (name != "orthanc")
        assert index is None or (index["Lock"], index["EnableStorage"]) == (False, False)
    plugins = {Path(each).name for each in embedded["Plugins"]}
    assert plugins <= set(re.findall(r"lib\w+\.so", targets()["orthanc"]))


def test_triton_is_started_as_the_embedded_one(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, triton=TritonSettings(model_repository=ROOT / "triton_models"))
    installed = sorted(each.parent.name for each in (ROOT / "triton_models").glob("*/config.pbtxt"))
    embedded = set(triton_child(settings, installed).argv)
    # Its addresses and its logs are the container's own.
    own = ("--http-", "--grpc-", "--metrics-", "--log-", "--backend-directory", "--model-repository")
    wanted = {each for each in embedded if each.startswith("--") and not each.startswith(own)}
    for name in ("triton", "triton-gpu"):
        command = compose()["services"][name]["command"]
        assert wanted <= set(command)
        assert set(command) - wanted == {
            "--allow-client-shm=true",
            "--model-repository=/opt/isocenter/triton_models",
            "--model-repository=/models/imported",
        }


def test_a_gpu_is_asked_for_where_the_profile_says_so() -> None:
    for profile in PROFILES:
        asked = [
            device
            for each in services(profile).values()
            for device in each["deploy"]["resources"]["reservations"].get("devices", ())
        ]
        assert len(asked) == profile.endswith("gpu")


def test_volumes_outlive_the_containers_and_every_one_is_used() -> None:
    used = {
        volume.split(":")[0]
        for service in compose()["services"].values()
        for volume in service.get("volumes", ())
        if not volume.startswith(".")
    }
    assert used == compose()["volumes"].keys()
    for profile in PROFILES:
        stored = {
            volume.split(":")[1]
            for service in services(profile).values()
            if "orthanc" in service["image"]
            for volume in service["volumes"]
        }
        assert stored == {"/var/lib/orthanc/db"}
    for file in ("postgres", "haproxy/haproxy.cfg"):
        assert (ROOT / "docker" / file).exists()


def test_what_the_images_copy_is_there_and_reaches_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text(), re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            kept = [each.removeprefix("!") for each in ignored if each.startswith("!")]
            assert any(source == each or source.startswith(f"{each}/") for each in kept), source
