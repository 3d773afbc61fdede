"""`docker compose up` of docker/compose.yaml, by Docker and Compose, and what the guides say of it, as they write it.

    scripts/fetch_engines.sh; scripts/fetch_compose.sh
    python -m pytest tests/integration/test_compose_up.py -m slow

37 minutes on two cores where the images are there, which are 12 GB. With ISOCENTER_DOCKER_DATA=FOLDER they stay
there for the next time.
The images that ours are built from are stand-ins (tests/bases): what is on trial is ours.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from composed import compose
from composed_site import Site, base, commands, fresh_site, make_bases, pytorch_for_the_processor
from engines import running_compose
from registry import BRIDGE, publish, running_index, running_registry
from threshold_bundle import threshold_bundle
from unit.map_cases import COPY_AS_RESULT, good, with_python

from isocenter_operators.testing import thorax_phantom, write_series

pytestmark = [pytest.mark.integration, pytest.mark.slow]
UP = ("up", "--detach", "--wait")
SLICES = 75


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    kept = os.environ.get("ISOCENTER_DOCKER_DATA")
    with running_compose(Path(kept) if kept else None, way_out=True) as inside:
        make_bases(tmp_path_factory.mktemp("bases"))
        yield inside


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("studies")
    thorax = thorax_phantom(size=(160, 160, SLICES), spacing_mm=(2.24, 2.24, 4.0))
    for number in range(8):
        write_series(thorax, folder / str(number), uid_seed=f"composed {number}")
    return sorted(folder.iterdir())


@pytest.fixture
def mirror(inside: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with running_registry(inside, tmp_path_factory.mktemp("registry")):
        yield


@pytest.fixture
def site(request: pytest.FixtureRequest, inside: list[str], tmp_path: Path) -> Iterator[Site]:
    site = whole_series(fresh_site(tmp_path / "isocenter", request.param, inside))
    site.compose("down", "--volumes", "--remove-orphans")
    yield site
    site.compose("down", "--volumes")


def whole_series(site: Site) -> Site:
    """Has one job for each study, however long a loaded machine pauses while it sends one."""
    settings = site.folder / "docker" / "isocenter.yaml"
    routes = settings.read_text().replace("min_instances: 20", f"min_instances: {SLICES}")
    assert str(SLICES) in routes
    settings.write_text(routes)
    return site


def results(count: int) -> dict[str, int]:
    """What the archive holds of so many studies that are done: the application's results beside the images."""
    return dict.fromkeys(("CT", "SEG", "SR", "OT"), count)


@pytest.mark.parametrize("site", ["cpu"], indirect=True)
def test_one_machine(site: Site, studies: list[Path], tmp_path: Path) -> None:
    site.compose("up", "--build", "--detach", "--wait")
    assert len(site.health()) == 5
    assert set(site.health().values()) == {"healthy"}

    site.send(studies[0])
    (job,) = site.done(1)
    assert site.modalities() == results(1)
    # docs/install-containers.md, at a terminal.
    shown = site.type(commands("install-containers")[-1], at_a_terminal=True)
    (row,) = [line.split() for line in shown.splitlines() if line.startswith(str(job["id"])[:12])]
    assert row[1] == "done"
    # In memory that the worker shares with Triton, which is in a container of its own.
    shared = site.compose("exec", "-T", "triton", "sh", "-c", "ls /dev/shm").stdout
    assert "isocenter.tensors." in shared

    # Nobody reaches what is not for them, nor writes where nothing is to be written.
    reach = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"
    for service, host, port, reached in (
        ("orthanc", "postgres", "5432", False),
        ("triton", "orthanc", "8042", False),
        ("worker", "postgres", "5432", True),
        ("worker", "triton", "8001", True),
    ):
        asked = site.compose("exec", "-T", service, "python3", "-c", reach, host, port, check=False)
        assert (asked.returncode == 0) == reached, (service, host)
    for service in ("orthanc", "triton", "worker", "gateway", "postgres"):
        assert site.compose("exec", "-T", service, "touch", "/usr/x", check=False).returncode != 0
        rights = site.compose("exec", "-T", service, "grep", "Cap", "/proc/1/status").stdout.split()[1::2]
        assert set(rights) == {"0" * 16}, service

    # A worker that is killed with a job in hand, and one that is started again, do it all the same.
    site.send(studies[1])
    site.until(lambda: [each for each in site.jobs() if each["state"] == "running"], 1, 120)
    site.kill("worker")
    site.done(2)
    site.send(studies[2])
    site.compose("restart", "worker")
    site.done(3)

    # What Compose starts again with Triton shares memory with it.
    site.compose("restart", "triton")
    site.compose(*UP)
    site.send(studies[3])
    site.done(4)
    assert "isocenter.tensors." in site.compose("exec", "-T", "triton", "sh", "-c", "ls /dev/shm").stdout

    # docs/install-offline.md: what is there already is enough.
    site.compose("down")
    site.compose(*UP, "--pull", "never", "--no-build")
    site.done(4)
    assert site.modalities() == results(4)

    # docs/upgrade.md, with a job to do.
    with (site.upstream / "src" / "isocenter" / "__init__.py").open("a") as file:
        file.write("\n# The next release.\n")
    site.commit("The next release.")
    before = site.compose("images", "--quiet", "worker").stdout
    backup, pull, build, up = commands("upgrade", "How")[-4:]
    for line in (backup.replace(" /backup", f" {tmp_path}"), pull, build):
        site.type(line)
    site.send(studies[4])
    site.type(up)
    assert site.compose("images", "--quiet", "worker").stdout != before
    kept = site.done(5)

    backed_up_and_restored(site, tmp_path, kept)
    site.send(studies[5])
    site.done(6)
    assert site.modalities() == results(6)


@pytest.mark.parametrize("site", ["scale"], indirect=True)
def test_two_orthancs_and_three_workers(site: Site, studies: list[Path], tmp_path: Path) -> None:
    site.compose("up", "--build", "--detach", "--wait")
    assert len(site.health()) == 9
    assert set(site.health().values()) == {"healthy"}

    for study in studies[:5]:
        site.send(study)
    site.done(5)
    assert site.modalities() == results(5)

    # One of each is away: sent at once, and through a balancer that starts while it is.
    site.compose("stop", "orthanc-1")
    site.kill("workers", 2)
    site.send(studies[5])
    site.done(6)
    site.compose(*UP, "--no-deps", "--force-recreate", "balancer")
    site.send(studies[6])
    kept = site.done(7)
    site.compose(*UP)
    assert site.modalities() == results(7)
    backed_up_and_restored(site, tmp_path, kept)
    site.send(studies[7])
    site.done(8)
    assert site.modalities() == results(8)


@pytest.mark.parametrize("site", ["cpu"], indirect=True)
@pytest.mark.usefixtures("mirror")
def test_the_images_are_carried_to_a_machine_without_a_network(
    site: Site, studies: list[Path], tmp_path: Path
) -> None:
    carried = [each for each in commands("install-offline", "Where there is none") if "docker" in each]
    build, pull, save, load, up = carried
    site.type(build)
    database = compose()["services"]["postgres"]["image"]
    given = publish(database)
    site.run("docker", "rmi", "--force", database)
    site.type(pull)
    held = site.run("docker", "image", "inspect", "--format={{.RepoDigests}}", database).stdout
    assert given in held
    site.type(save)
    with running_compose(way_out=False) as inside:
        there = whole_series(fresh_site(tmp_path / "there" / "isocenter", "cpu", inside))
        assert there.run("docker", "images", "--quiet").stdout == ""
        (site.folder / "images.tar.gz").rename(there.folder / "images.tar.gz")
        there.type(load)
        (there.folder / "images.tar.gz").unlink()
        there.type(up)
        assert list(there.health().values()) == ["healthy"] * 5
        there.send(studies[0])
        there.done(1)
        assert there.modalities() == results(1)
        there.compose("down", "--volumes")


@pytest.mark.parametrize("site", ["cpu"], indirect=True)
@pytest.mark.usefixtures("mirror")
def test_a_base_by_its_digest_and_pytorch_of_another_index(
    site: Site, inside: list[str], tmp_path: Path
) -> None:
    """docs/install-containers.md, "Images"."""
    if (wheel := pytorch_for_the_processor()) is None:
        pytest.skip("no build of PyTorch for the processor is at hand, in a folder of PIP_FIND_LINKS")
    # A base of the site's own, which believes the site's index and has no PyTorch to give.
    own = f"RUN echo trusted-host = {BRIDGE} >>/etc/pip.conf && rm -rf /opt/wheels/*"
    (tmp_path / "Dockerfile").write_text(f"FROM {base('DEBIAN')}\n{own}\n")
    site.run("docker", "build", "--tag", "debian:own", str(tmp_path))
    digest = publish("debian:own")
    layers = layers_of(site, "debian:own")
    site.run("docker", "rmi", "--force", "debian:own")
    (tmp_path / "index" / "torch").mkdir(parents=True)
    shutil.copy(wheel, tmp_path / "index" / "torch")

    with running_index(tmp_path / "index", inside, tmp_path / "asked") as address:
        (build,) = commands("install-containers", "Images")
        pinned = build.replace("sha256:...", f"{digest} --build-arg PIP_EXTRA_INDEX_URL={address}")
        assert digest in pinned
        site.type(f"DOCKER_BUILDKIT=1 {pinned}")  # which newer ones do unasked
        site.compose("build", *pinned.split()[-5:-1], "worker")
    assert wheel.name.replace("+", "%2B") in (tmp_path / "asked").read_text()
    for image in ("isocenter/gateway:0.1.0", "isocenter/worker:0.1.0"):
        assert layers_of(site, image)[: len(layers)] == layers
        held = "import torch; print(torch.__version__)"
        shown = site.run("docker", "run", "--rm", "--entrypoint=python", image, "-c", held).stdout
        assert shown.strip() == wheel.name.split("-")[1]


@pytest.mark.parametrize("site", ["cpu"], indirect=True)
def test_models_and_packages_of_the_sites_own(site: Site, studies: list[Path], tmp_path: Path) -> None:
    """docs/install-containers.md, "Models and applications of your own"."""
    take_in, check, add, start = commands("install-containers", "Models and applications of your own")
    (restart,) = commands("install-containers", "Settings")
    site.compose("up", "--build", "--detach", "--wait")

    shutil.make_archive(str(site.folder / "BUNDLE"), "zip", threshold_bundle(tmp_path / "bundle", 300.0))
    assert "is the application above_a_threshold" in site.type(take_in)
    assert "above_a_threshold version 1" in site.type(check.replace("NAME", "above_a_threshold"))
    set_route(site, "above_a_threshold")
    site.type(restart)
    site.send(studies[0])
    (job,) = site.done(1)
    assert {each["modality"] for each in job["results"]} == {"SEG", "SR", "OT"}
    # Started again by Docker alone, it is not told what was loaded.
    site.kill("triton")
    site.send(studies[1])
    site.done(2)

    with_python(good(), COPY_AS_RESULT).write_image(tmp_path).rename(site.folder / "PACKAGE.oci")
    (reference,) = re.findall(r"^map://\S+$", site.type(add), re.M)
    set_route(site, reference)
    site.type(restart)
    site.send(studies[2])
    (waiting,) = site.until(lambda: [each for each in site.jobs() if each["reason"]], 1, 120)
    assert "docker/packages.yaml" in waiting["reason"]
    site.type(start)
    (job, *_) = site.done(3)
    assert reference.startswith(f"{job['application']}@sha256:")
    assert [each["modality"] for each in job["results"]] == ["CT"]


def set_route(site: Site, application: str) -> None:
    """All that the site's only route names."""
    settings = site.folder / "docker" / "isocenter.yaml"
    said = re.sub(r"^( *application:) .*$", rf"\1 {application}", settings.read_text(), flags=re.M)
    assert application in said
    settings.write_text(said)


@pytest.mark.parametrize("site", ["cpu"], indirect=True)
def test_settings_and_passwords_are_changed_with_jobs_to_do(site: Site, studies: list[Path]) -> None:
    site.compose("up", "--build", "--detach", "--wait")
    # What the gateway takes from the file, and what a worker does.
    site.send(studies[0])
    site.send(studies[1])
    site.until(lambda: [each for each in site.jobs() if each["state"] == "running"], 1, 120)
    settings = site.folder / "docker" / "isocenter.yaml"
    renamed = settings.read_text().replace("name: chest CT to lung density", "name: every chest CT")
    settings.write_text(f"{renamed}results:\n  profile: {{like: any, pictures: false}}\n")
    (change,) = commands("install-containers", "Settings")
    site.type(change)
    site.done(2)
    changed = site.send(studies[2])
    (job,) = [each for each in site.done(3) if each["study_uid"] == changed]
    assert job["route"] == "every chest CT"
    assert site.modalities(changed) == {"CT": 1, "SEG": 1, "SR": 1}

    secrets = site.folder / "docker" / "secrets"
    before = {each.name: each.read_text() for each in secrets.iterdir()}
    site.send(studies[3])
    for line in commands("install-containers", "Passwords"):
        site.type(line)
    assert list(site.health().values()) == ["healthy"] * 5
    site.done(4)
    site.send(studies[4])
    site.done(5)
    assert before.keys() == {each.name for each in secrets.iterdir()}
    for name in ("database_url", "orthanc_password"):
        held = site.compose("exec", "-T", "worker", "cat", f"/run/secrets/{name}").stdout
        assert held == (secrets / name).read_text() != before[name]


def layers_of(site: Site, image: str) -> list[str]:
    shown = site.run("docker", "image", "inspect", "--format={{json .RootFS.Layers}}", image).stdout
    layers: list[str] = json.loads(shown)
    return layers


def backed_up_and_restored(site: Site, folder: Path, kept: list[dict[str, object]]) -> None:
    """docs/backup.md; everything is lost in between."""
    held = site.modalities()
    site.run("docker/backup.sh", str(folder / "backup"), site.profile)
    assert site.run("docker/restore.sh", str(folder / "backup"), site.profile, check=False).returncode == 1
    site.compose("down", "--volumes")
    site.run("rm", "-r", "docker/secrets")
    site.run("docker/restore.sh", str(folder / "backup"), site.profile)
    assert site.jobs() == kept
    assert site.modalities() == held
