"""kubernetes/: what kustomize makes of it, against the schemas and against this project.

The schemas of Kubernetes are those that kubernetes-validate carries; that of KEDA's ScaledObject is the model which
cloudcoil-models-keda was generated with, from KEDA 2.16. The other rules are ours. No cluster is asked.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from composed import ROOT, compose, orthanc_configuration

from isocenter.settings import Settings

FOLDER = ROOT / "kubernetes"
OVERLAYS = ("base", "example")
VERSIONS = ("1.31", "1.37")
_MINE = {"gateway", "worker", "triton", "orthanc"}
NOBODYS = "192.0.2."

Object = dict[str, Any]


def rendered(overlay: str) -> list[Object]:
    kubectl = Path(sys.executable).with_name("kubectl")
    done = subprocess.run(
        [kubectl, "kustomize", FOLDER / overlay], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # nothing that is deprecated
    return [each for each in yaml.safe_load_all(done.stdout) if each]


@pytest.fixture(scope="module")
def every() -> dict[str, list[Object]]:
    return {overlay: rendered(overlay) for overlay in OVERLAYS}


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def pods(objects: list[Object]) -> dict[str, Object]:
    return {name: each["spec"]["template"] for name, each in of_kind(objects, "Deployment").items()}


def container(pod: Object) -> Object:
    (only,) = pod["spec"]["containers"]
    found: Object = only
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_what_kubernetes_says(every: dict[str, list[Object]], version: str) -> None:
    for each in (each for objects in every.values() for each in objects if each["kind"] != "ScaledObject"):
        kubernetes_validate.validate(each, version, strict=True)
    wrong = {**of_kind(every["base"], "Service")["gateway"], "speck": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_all_is_in_one_namespace(every: dict[str, list[Object]]) -> None:
    for objects in every.values():
        (namespace,) = of_kind(objects, "Namespace")
        for each in objects:
            metadata = each["metadata"]
            assert metadata.get("namespace", metadata["name"]) == namespace, (each["kind"], metadata["name"])
            assert metadata["labels"]["app.kubernetes.io/part-of"] == "isocenter"


def test_the_scaled_object_is_what_keda_says(every: dict[str, list[Object]]) -> None:
    from cloudcoil.models.keda.v1alpha1 import ScaledObject

    for objects in every.values():
        (worker,) = of_kind(objects, "ScaledObject").values()
        read = ScaledObject.model_validate(worker)
        # Its models let unknown keys fall: what comes back has to be all that was said.
        assert read.model_dump(mode="json", by_alias=True, exclude_unset=True) == worker


def test_workers_are_as_many_as_there_are_jobs(every: dict[str, list[Object]]) -> None:
    for objects in every.values():
        spec = of_kind(objects, "ScaledObject")["worker"]["spec"]
        assert (
            "replicas" not in of_kind(objects, "Deployment")["worker"]["spec"]
        )  # else each apply would set it back
        assert spec["scaleTargetRef"]["name"] == "worker"
        assert 1 <= spec["minReplicaCount"] < spec["maxReplicaCount"]
        (trigger,) = spec["triggers"]
        asked = trigger["metadata"]
        host, port, path = re.fullmatch(r"http://([^:/]+):(\d+)(/.+)", asked["url"]).groups()  # type: ignore[union-attr]
        service = of_kind(objects, "Service")["gateway"]
        assert (host, int(port)) == (
            f"gateway.{service['metadata']['namespace']}.svc.cluster.local",
            service["spec"]["ports"][0]["port"],
        )
        source = (ROOT / "src" / "isocenter" / "gateway" / "api.py").read_text()
        assert f'Route("{path}"' in source
        assert f'"{asked["valueLocation"]}":' in source
        assert host in settings_file(objects)["gateway"]["names"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_confined(every: dict[str, list[Object]], overlay: str) -> None:
    for name, pod in pods(every[overlay]).items():
        spec, mine = pod["spec"], container(pod)
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert mine["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert mine[probe], f"{name} has no {probe}"
        assert {"cpu", "memory"} <= mine["resources"]["requests"].keys()
        assert {"cpu", "memory", "ephemeral-storage"} <= mine["resources"]["limits"].keys()
        assert re.search(r":\d+\.\d+\.\d+$", mine["image"]), mine["image"]
        assert not spec.get("hostNetwork")
        for volume in spec["volumes"]:
            assert "hostPath" not in volume
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"]
    (namespace,) = of_kind(every[overlay], "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_pods_run_as_the_users_of_their_images(every: dict[str, list[Object]]) -> None:
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    users = {
        stage: re.findall(r"^USER ([1-9]\d*):", text, re.MULTILINE)
        for stage, text in re.findall(
            r"^FROM \S+ AS (\w+)\n(.*?)(?=^FROM |\Z)", dockerfile, re.MULTILINE | re.DOTALL
        )
    }
    users |= {"gateway": users["service"], "worker": users["service"]}
    for name, pod in pods(every["example"]).items():
        assert [str(pod["spec"]["securityContext"]["runAsUser"])] == users[name]


def test_triton_asks_for_a_gpu_and_loads_what_is_installed(every: dict[str, list[Object]]) -> None:
    triton = container(pods(every["base"])["triton"])
    for kind in ("requests", "limits"):
        assert triton["resources"][kind]["nvidia.com/gpu"] == "1"
    here = set(triton["args"])
    there = set(compose()["services"]["triton"]["command"])
    assert there - here == {"--model-repository=/models/imported", "--allow-client-shm=true"}
    assert here <= there


def test_nothing_is_allowed_but_what_is_named(every: dict[str, list[Object]]) -> None:
    for objects in every.values():
        policies = of_kind(objects, "NetworkPolicy")
        assert policies["nothing"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        for name, policy in policies.items():
            for direction, side in (("ingress", "from"), ("egress", "to")):
                for rule in policy["spec"].get(direction, ()):
                    assert rule[side], f"{name}: {direction} with everybody"
                    assert rule["ports"], f"{name}: {direction} on every port"
                    assert not any(peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0" for peer in rule[side])


def test_who_asks_whom_may(every: dict[str, list[Object]]) -> None:
    example = every["example"]
    wanted = {
        ("worker", "triton", 8001),
        ("gateway", "orthanc", 8042),
        ("worker", "orthanc", 8042),
        ("orthanc", "gateway", 8080),
    }
    assert allowed(example) == wanted
    assert allowed(every["base"]) == {("worker", "triton", 8001)}


def allowed(objects: list[Object]) -> set[tuple[str, str, int]]:
    """From which of our pods to which of them, by both sides' policies, and on which port."""
    policies = list(of_kind(objects, "NetworkPolicy").values())
    ports = {
        name: {port["name"]: port["containerPort"] for port in container(pod).get("ports", ())}
        for name, pod in pods(objects).items()
    }
    given = {
        "egress": set(policies_of(policies, "egress", ports)),
        "ingress": set(policies_of(policies, "ingress", ports)),
    }
    return given["egress"] & {(one, other, port) for other, one, port in given["ingress"]}


def policies_of(
    policies: list[Object], direction: str, ports: Mapping[str, Mapping[str, int]]
) -> Iterator[tuple[str, str, int]]:
    side = {"egress": "to", "ingress": "from"}[direction]
    for policy in policies:
        for rule in policy["spec"].get(direction, ()):
            others = {name for peer in rule[side] for name in selected(peer.get("podSelector"), ports)}
            for one in selected(policy["spec"]["podSelector"], ports):
                for port in rule["ports"]:
                    number = port["port"] if isinstance(port["port"], int) else ports[one][port["port"]]
                    yield from ((one, other, number) for other in others)


def selected(selector: Object | None, ports: Mapping[str, object]) -> set[str]:
    """The pods of ours that a selector means."""
    if selector is None:
        return set()
    names = set(ports)
    key = "app.kubernetes.io/name"
    if "matchLabels" in selector:
        names &= {selector["matchLabels"].get(key)}
    for expression in selector.get("matchExpressions", ()):
        assert (expression["key"], expression["operator"]) == (key, "In")
        names &= set(expression["values"])
    return names


def test_every_deployment_may_be_disturbed_but_not_emptied(every: dict[str, list[Object]]) -> None:
    for objects in every.values():
        budgets = of_kind(objects, "PodDisruptionBudget")
        assert budgets.keys() == of_kind(objects, "Deployment").keys() <= _MINE
        for name, budget in budgets.items():
            assert budget["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/name": name}
            # One that may never be taken away keeps its node from being drained.
            assert budget["spec"].get("maxUnavailable", 1) >= 1
    spread = {
        name for name, pod in pods(every["example"]).items() if pod["spec"].get("topologySpreadConstraints")
    }
    assert spread == _MINE - {"gateway"}


def test_secrets_come_from_outside_as_files(every: dict[str, list[Object]]) -> None:
    for objects in every.values():
        assert not of_kind(objects, "Secret")
        for pod in pods(objects).values():
            mine = container(pod)
            assert not any("secretKeyRef" in str(each) for each in mine.get("env", ()))
            assert not any("secretRef" in each for each in mine.get("envFrom", ()))
        for name, given in of_kind(objects, "ConfigMap").items():
            assert not re.search(
                "password|secret_key|access_key",
                "".join(key.lower() for key in given["data"] if not key.endswith("_FILE")),
            ), name


def settings_file(objects: list[Object]) -> Object:
    (given,) = (
        each for name, each in of_kind(objects, "ConfigMap").items() if name.startswith("isocenter-file-")
    )
    read: Object = yaml.safe_load(given["data"]["isocenter.yaml"])
    return read


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_every_variable_is_a_setting(
    every: dict[str, list[Object]], overlay: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = container(pods(every[overlay])[name])
    maps = of_kind(every[overlay], "ConfigMap")
    (given,) = (maps[each["configMapRef"]["name"]]["data"] for each in mine["envFrom"])
    variables = {**given, **{each["name"]: each.get("value", "a-pod") for each in mine["env"]}}
    (tmp_path / "secret").write_text("postgresql://isocenter:x@db/isocenter")
    for variable, value in variables.items():
        monkeypatch.setenv(variable, str(tmp_path / "secret") if variable.endswith("_FILE") else value)
    (tmp_path / "isocenter.yaml").write_text(yaml.safe_dump(settings_file(every[overlay])))
    assert variables["ISOCENTER_CONFIG"] == "/etc/isocenter/isocenter.yaml"
    settings = Settings.load(tmp_path / "isocenter.yaml")
    assert not settings.orthanc.embedded
    assert not settings.triton.embedded
    if name == "worker":
        assert settings.worker.name == "a-pod"
        limit = mine["resources"]["limits"]["memory"]
        assert settings.worker.memory_limit_mb is not None
        assert settings.worker.memory_limit_mb < int(limit.removesuffix("Gi")) * 1024
    mounts = {each["mountPath"] for each in mine["volumeMounts"]}
    for variable, value in variables.items():
        if variable.endswith("_FILE"):
            assert str(Path(value).parent) in mounts


def test_orthanc_is_configured_as_in_compose(every: dict[str, list[Object]]) -> None:
    maps = of_kind(every["example"], "ConfigMap")
    (given,) = (each["data"] for name, each in maps.items() if name.startswith("orthanc-"))
    own = {"StorageDirectory", "IndexDirectory"}
    there = orthanc_configuration(compose()["services"]["orthanc"]["environment"])
    assert orthanc_configuration(given) == {key: value for key, value in there.items() if key not in own}


def test_the_examples_addresses_are_all_its_own(every: dict[str, list[Object]]) -> None:
    """What the base leaves to an overlay: a policy with nobody's address would keep everybody away."""
    assert NOBODYS in yaml.safe_dump_all(every["base"])
    assert NOBODYS not in yaml.safe_dump_all(every["example"])
