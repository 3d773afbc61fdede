"""kubernetes/ applied to a real Kubernetes, by the commands of docs/install-kubernetes.md as it writes them.

    scripts/fetch_kubernetes.sh
    scripts/fetch_engines.sh; scripts/fetch_compose.sh
    python -m pytest tests/integration/test_kubernetes_up.py -m slow

Eight minutes on two cores that others used too where the images are there, and 14 GB; with
ISOCENTER_DOCKER_DATA=FOLDER they stay there for the next time. How the images are made is test_compose_up.py's.

The Kubernetes that can be built here is 1.20, which knows PodDisruptionBudgets as policy/v1beta1: that is said anew in
the copy that is applied, and nothing else is. KEDA is not there, but its definition of the ScaledObject.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import BUILT, Cluster, running_cluster
from cluster_node import NODE, running_node, tell_names, write_runtime
from composed import compose
from composed_site import Site, fresh_site, make_bases
from engines import running_compose
from keda import scaled_object_definition

from isocenter_operators.testing import thorax_phantom, write_series

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(not BUILT.exists(), reason=f"there is no {BUILT}: scripts/fetch_kubernetes.sh"),
]

ROOT = Path(__file__).parents[2]
REPLICAS = {"gateway": 1, "orthanc": 2, "triton": 1, "worker": 1}


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        apply(cluster, scaled_object_definition())
        cluster.kubectl("wait", "--for=condition=Established", "crd/scaledobjects.keda.sh")
        yield cluster


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files of a clone, for Kubernetes 1.20, and the parts of Orthanc's configuration that the guide shows."""
    tree = tmp_path / "isocenter"
    fresh_site(tree, "", [])
    for file in (tree / "kubernetes").rglob("*.yaml"):
        file.write_text(file.read_text().replace("apiVersion: policy/v1\n", "apiVersion: policy/v1beta1\n"))
    index, storage = re.findall(r"^\{.*?\}\}$", page("install-kubernetes"), re.MULTILINE | re.DOTALL)
    (tree / "index.json").write_text(index)
    (tree / "storage.json").write_text(storage)
    return tree


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


def typed(block: int) -> list[str]:
    """One of the guide's blocks: each command on a line of its own."""
    return page("install-kubernetes").split("\n```\n")[2 * block + 1].replace("\\\n", " ").splitlines()


def apply(cluster: Cluster, given: dict[str, Any]) -> None:
    (cluster.folder / "given.json").write_text(json.dumps(given))
    cluster.kubectl("apply", f"--filename={cluster.folder / 'given.json'}")


def quietly(cluster: Cluster, line: str, place: Path) -> list[str]:
    """The lines that a command says, which has to succeed and warn of nothing."""
    done = cluster.run(line, place)
    assert (done.returncode, done.stderr) == (0, ""), line
    return done.stdout.splitlines()


def until(condition: Callable[[], bool], told: Callable[[], object], within_s: float = 180) -> None:
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, told()
        time.sleep(0.5)


def kept(asked: Any, live: Any) -> bool:
    """Whether all that was asked for is in what the API server has made of it."""
    if isinstance(asked, dict):
        return isinstance(live, dict) and all(key in live and kept(asked[key], live[key]) for key in asked)
    if isinstance(asked, list):
        return isinstance(live, list) and len(asked) == len(live) and all(map(kept, asked, live))
    return bool(asked == live)


def test_the_api_server_takes_it_as_the_guide_says(cluster: Cluster, tree: Path) -> None:
    for line in typed(0):
        said = quietly(cluster, line, tree)
    assert {each.rpartition(" ")[2] for each in said[1:]} == {"created"}

    # All that was said is known to the API server, also what it knows of a ScaledObject.
    rendered = "kubectl kustomize kubernetes/site"
    for asked in yaml.safe_load_all("\n".join(quietly(cluster, rendered, tree))):
        live = cluster.get(asked["kind"], asked["metadata"]["name"])
        assert kept(asked, live), (asked, live)

    # The controllers make pods of it, which no rule of the API server refuses, and budgets and services mean them.
    def pods() -> Counter[str]:
        return Counter(
            each["metadata"]["labels"]["app.kubernetes.io/name"] for each in cluster.get("pods").values()
        )

    until(lambda: pods() == REPLICAS, pods)
    until(
        lambda: (
            {
                name: each.get("status", {}).get("expectedPods")
                for name, each in cluster.get("poddisruptionbudgets").items()
            }
            == REPLICAS
        ),
        lambda: cluster.get("poddisruptionbudgets"),
    )

    # Once more it changes nothing, nor how many workers there are, nor that KEDA pauses.
    quietly(cluster, "kubectl -n isocenter scale deployment worker --replicas=3", tree)
    (paused,) = re.findall(r"`(kubectl [^`]*paused-replicas=0)`", page("upgrade"))
    quietly(cluster, paused.replace("\n", " "), tree)
    again = quietly(cluster, "kubectl apply -k kubernetes/site", tree)
    assert {each.rpartition(" ")[2] for each in again} == {"unchanged"}
    assert cluster.get("deployment", "worker")["spec"]["replicas"] == 3
    annotations = cluster.get("scaledobject", "worker")["metadata"]["annotations"]
    assert annotations["autoscaling.keda.sh/paused-replicas"] == "0"

    # New routes: what reads them is started again, and nothing else.
    with (tree / "kubernetes" / "site" / "isocenter.yaml").open("a") as file:
        file.write("# Routes of another day.\n")
    changed = {
        each.split(" ")[0]
        for each in quietly(cluster, "kubectl apply -k kubernetes/site", tree)
        if not each.endswith(" unchanged")
    }
    assert {re.sub("(isocenter-file)-.*", r"\1", each) for each in changed} == {
        "configmap/isocenter-file",
        "deployment.apps/gateway",
        "deployment.apps/worker",
    }


def test_pods_do_what_is_to_be_done(tmp_path_factory: pytest.TempPathFactory, tree: Path) -> None:
    kept_images = os.environ.get("ISOCENTER_DOCKER_DATA")
    runtime = write_runtime(tmp_path_factory.mktemp("runtime"))
    with running_compose(Path(kept_images) if kept_images else None, runtime, way_out=True) as inside:
        make_bases(tmp_path_factory.mktemp("bases"), "pause", "names")
        site = Site(tree, "cpu", inside)
        site.compose("build")
        run_database(site)
        set_what_is_the_sites_own(tree)
        with (
            running_cluster(tmp_path_factory.mktemp("cluster"), inside) as cluster,
            running_node(cluster, inside),
        ):
            apply(cluster, scaled_object_definition())
            cluster.kubectl("wait", "--for=condition=Established", "crd/scaledobjects.keda.sh")
            for line in typed(0):
                quietly(cluster, line, tree)
            tell_names(cluster)
            for line in typed(1):
                quietly(cluster, line, tree)
            studies_are_done(cluster, site, tmp_path_factory.mktemp("studies"))


def run_database(site: Site) -> None:
    """PostgreSQL, which comes from outside: docker/compose.yaml's, on the node's own network."""
    secrets = site.folder / "docker" / "secrets"
    words = [
        "docker",
        "run",
        "--detach",
        "--network=host",
        "--shm-size=256m",
        "--env=POSTGRES_USER=isocenter",
    ]
    words += ["--env=POSTGRES_DB=isocenter", "--env=POSTGRES_PASSWORD_FILE=/run/secrets/database_password"]
    words += [f"--volume={secrets / 'database_password'}:/run/secrets/database_password:ro", "--user=999:999"]
    words += [f"--volume={site.folder / 'docker' / 'postgres'}:/docker-entrypoint-initdb.d:ro"]
    site.run(*words, compose()["services"]["postgres"]["image"])


def set_what_is_the_sites_own(tree: Path) -> None:
    """In the example: images that are here, no more processors than there are, the addresses of this test's network.

    Orthanc's images go into its database: there is no object storage here.
    """
    password = (tree / "docker" / "secrets" / "database_password").read_text().strip()
    (tree / "docker" / "secrets" / "database_url").write_text(
        f"postgresql://isocenter:{password}@{NODE}/isocenter"
    )
    index = {"EnableIndex": True, "EnableStorage": True, "Host": NODE, "Database": "orthanc", "Lock": False}
    index |= {"Username": "isocenter", "Password": password}
    (tree / "index.json").write_text(json.dumps({"PostgreSQL": index}))
    (tree / "storage.json").write_text("{}")
    file = tree / "kubernetes" / "example" / "kustomization.yaml"
    example = yaml.safe_load(file.read_text().replace("registry.example/", ""))
    place = "/spec/template/spec/containers/0/resources/requests/cpu"
    example["patches"] += [
        {
            "target": {"kind": "Deployment"},
            "patch": json.dumps([{"op": "replace", "path": place, "value": "100m"}]),
        },
        {
            "target": {"kind": "Service", "name": "dicom"},
            "patch": json.dumps(
                [{"op": "replace", "path": "/spec/loadBalancerSourceRanges", "value": [f"{NODE}/32"]}]
            ),
        },
    ]
    file.write_text(yaml.safe_dump(example))


def studies_are_done(cluster: Cluster, site: Site, folder: Path) -> None:
    thorax = thorax_phantom(size=(160, 160, 75), spacing_mm=(2.24, 2.24, 4.0))
    for number in range(3):
        write_series(thorax, folder / str(number), uid_seed=f"in a cluster {number}")
    # As a cloud's controller does for a Service of type LoadBalancer.
    address = {"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}}}
    cluster.kubectl(
        "-n", "isocenter", "patch", "service", "dicom", "--subresource=status", f"-p={json.dumps(address)}"
    )
    gateway = "kubectl -n isocenter exec deployment/gateway --"

    def jobs(state: str) -> list[Any]:
        listed = cluster.run(f"{gateway} isocenter jobs --json").stdout
        return [each for each in json.loads(listed)["jobs"] if each["state"] == state]

    def send(number: int) -> None:
        words = [sys.executable, "-m", "isocenter.cli", "send", str(folder / str(number))]
        sent = cluster.run(f"ISOCENTER_ORTHANC__HOST=198.51.100.1 {shlex.join(words)}", folder)
        assert sent.returncode == 0, sent.stderr

    def said() -> str:
        return "".join(
            cluster.run(f"kubectl -n isocenter logs deployment/{each} --tail=20").stdout for each in REPLICAS
        )

    send(0)
    until(lambda: len(jobs("done")) == 1, said, 300)

    # A worker that is taken away with a job in hand: another one does it.
    send(1)
    until(lambda: bool(jobs("running")), said, 300)
    cluster.kubectl("-n", "isocenter", "delete", "pod", "-l=app.kubernetes.io/name=worker", "--wait=false")
    until(lambda: len(jobs("done")) == 2, said, 300)
    assert {each["study_uid"] for each in jobs("failed")} <= {each["study_uid"] for each in jobs("done")}

    # Other routes: the gateway and the workers are others then, and the rest are the same.
    before = set(cluster.get("pods"))
    with (site.folder / "kubernetes" / "site" / "isocenter.yaml").open("a") as file:
        file.write("# Routes of another day.\n")
    for line in ("kubectl apply -k kubernetes/site", typed(1)[0]):
        quietly(cluster, line, site.folder)

    def stayed() -> Counter[str]:
        return Counter(name.partition("-")[0] for name in before & set(cluster.get("pods")))

    until(lambda: stayed() == {"orthanc": 2, "triton": 1}, stayed)
    send(2)
    until(lambda: len(jobs("done")) == 3, said, 300)

    # A node that is to be emptied keeps one Orthanc, for what modalities send; once it may be filled, all is back.
    drained = cluster.run("kubectl drain node --delete-emptydir-data --timeout=60s")
    assert drained.returncode != 0
    assert "disruption budget" in drained.stderr
    there = [name for name, each in cluster.get("pods").items() if each["status"]["phase"] == "Running"]
    assert [name.partition("-")[0] for name in there] == ["orthanc"]
    cluster.kubectl("uncordon", "node")
    quietly(cluster, typed(1)[0], site.folder)
    assert len(jobs("done")) == 3

    ask = "import sys, urllib.request as r; sys.stdout.write(r.urlopen(sys.argv[1]).read().decode())"
    words = ["python3", "-c", ask, "http://gateway:8080/dicom-web/series"]
    series = json.loads(
        cluster.run(f"kubectl -n isocenter exec deployment/orthanc -- {shlex.join(words)}").stdout
    )
    found = Counter(each["00080060"]["Value"][0] for each in series)
    # Images that came with pauses have a note of a job that failed too, and that note's rejection.
    notes = found.pop("SR") - 3
    assert found.pop("KO", 0) <= notes <= len(jobs("failed"))
    assert found == dict.fromkeys(("CT", "SEG", "OT"), 3)
