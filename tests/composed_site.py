"""A site that runs docker/compose.yaml with Docker, by the commands of the guides.

The images that ours are built from are stand-ins (tests/bases): no registry of images has to be reached, but Debian's
packages, PyPI and npm have to be.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from composed import ROOT, compose

__all__ = ["Site", "base", "commands", "fresh_site", "make_bases", "pytorch_for_the_processor"]

_BASES = ROOT / "tests" / "bases"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_SERIES = (
    "import sys, urllib.request as r; sys.stdout.write(r.urlopen(sys.argv[1], timeout=30).read().decode())"
)


def make_bases(folder: Path, *others: str) -> None:
    """Build each image that docker/Dockerfile and compose.yaml start from, under its name, where it is not there.

    `others` are further targets of tests/bases/Dockerfile; each becomes `isocenter-base/TARGET`.
    """
    services = compose()["services"]
    names = {
        "debian": base("DEBIAN"),
        "tritonserver": base("TRITON"),
        "orthanc": base("ORTHANC"),
        "postgres": services["postgres"]["image"],
        "haproxy": services["balancer"]["image"],
        **{other: f"isocenter-base/{other}" for other in others},
    }
    for release in ("bookworm", "trixie"):
        if _run(["docker", "image", "inspect", f"isocenter-base/{release}"], check=False).returncode:
            _import(release, folder)
    context = folder / "context"
    shutil.copytree(_BASES, context)
    (context / "given" / "wheels").mkdir(parents=True)
    shutil.copy(_CERTIFICATES, context / "given" / "certificates.crt")
    if wheel := pytorch_for_the_processor():
        shutil.copy(wheel, context / "given" / "wheels")
    pytriton = f"PYTRITON={version('nvidia-pytriton')}"
    for target, name in names.items():
        if _run(["docker", "image", "inspect", name], check=False).returncode:
            words = ["docker", "build", "--target", target, "--tag", name, "--build-arg", pytriton, context]
            _run(list(map(str, words)), DOCKER_BUILDKIT="1")


def base(argument: str) -> str:
    """The image that an argument of docker/Dockerfile names where none is given."""
    (name,) = re.findall(rf"^ARG {argument}=(\S+)$", (ROOT / "docker/Dockerfile").read_text(), re.M)
    return str(name)


def pytorch_for_the_processor() -> Path | None:
    """This machine's wheel, where it has one: PyPI's is the CUDA build."""
    name = f"torch-{version('torch').partition('+')[0]}+cpu-cp311-*.whl"
    for place in os.environ.get("PIP_FIND_LINKS", "").split():
        for wheel in Path(place).glob(name):
            return wheel
    return None


def _import(release: str, folder: Path) -> None:
    """A bare Debian; skips the test where it can not be made."""
    if shutil.which("debootstrap") is None:
        pytest.skip("there is no debootstrap here (apt-get install debootstrap)")
    root = folder / release
    include = "--include=ca-certificates"
    made = _run(["debootstrap", "--variant=minbase", include, release, str(root)], check=False)
    if made.returncode:
        pytest.skip(f"no bare Debian can be made here: {made.stdout.strip().splitlines()[-1:]}")
    left_out = [f"--exclude=./{each}/*" for each in ("proc", "sys", "dev", "var/cache/apt/archives")]
    with subprocess.Popen(["tar", "-C", root, *left_out, "-c", "."], stdout=subprocess.PIPE) as packed:
        words = ["docker", "import", "-", f"isocenter-base/{release}"]
        subprocess.run(words, stdin=packed.stdout, check=True, capture_output=True)
    shutil.rmtree(root)


def commands(page: str, section: str | None = None) -> list[str]:
    """The lines that a section of a page of docs/ has typed, without what stands beside them for the reader.

    Without a section: those before the first.
    """
    text = (ROOT / "docs" / f"{page}.md").read_text()
    if section:
        text = text.split(f"## {section}\n")[1]
    text = text.split("\n## ")[0]
    typed = "".join(re.findall(r"^```\n(.*?)^```", text, re.M | re.S)).replace("\\\n", "")
    return [re.split(r"\s+#\s", line)[0] for line in typed.splitlines()]


@dataclass(frozen=True)
class Site:
    """`folder`: a clone of `upstream`. `inside`: enters the network that ports are published in."""

    folder: Path
    profile: str
    inside: list[str]

    @property
    def upstream(self) -> Path:
        """The repository that the site is a clone of."""
        return self.folder.with_name(f"{self.folder.name}.upstream")

    def commit(self, message: str) -> None:
        """All that is in the folder of `upstream`."""
        _run(["git", "add", "--all", "--force"], cwd=self.upstream)
        who = ["-c", "user.name=Isocenter", "-c", "user.email=isocenter@example.org"]
        _run(["git", *who, "commit", "--quiet", f"--message={message}"], cwd=self.upstream)

    def compose(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`docker compose -f docker/compose.yaml --profile ...`, as the guides write it."""
        options = ["-f", "docker/compose.yaml", "--profile", self.profile]
        return self.run("docker", "compose", *options, *words, check=check)

    def type(self, line: str, *, at_a_terminal: bool = False) -> str:
        """A command as a page has it, by a shell in the project's folder; gives what it prints."""
        if at_a_terminal:
            return self.run("script", "--quiet", "--return", "--command", line, os.devnull).stdout
        return self.run("bash", "-o", "pipefail", "-c", line).stdout

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command in the project's folder."""
        return _run(list(words), check=check, cwd=self.folder, TRITON_CPUS=str(min(4, os.cpu_count() or 1)))

    def health(self) -> dict[str, str]:
        """By the containers' names."""
        shown = self.compose("ps", "--all", "--format", "{{.Name}} {{.Health}}").stdout
        return dict(line.split(" ", 1) for line in shown.strip().splitlines())

    def send(self, study: Path) -> str:
        """To the published DICOM port, as a modality does. Gives the study's UID."""
        words = [*self.inside, sys.executable, "-m", "isocenter.cli", "send", str(study), "--json"]
        uids: list[str] = json.loads(_run(words, cwd=study.parent).stdout)["study_uids"]
        return uids[0]

    def jobs(self) -> list[dict[str, Any]]:
        """Of the gateway's own command line."""
        listed = self.compose("exec", "-T", "gateway", "isocenter", "jobs", "--json").stdout
        jobs: list[dict[str, Any]] = json.loads(listed)["jobs"]
        return jobs

    def done(self, count: int, within_s: float = 300) -> list[dict[str, Any]]:
        """All jobs, once there are `count` and each is done; a failed one fails the test at once."""
        jobs = self.until(lambda: [each for each in self.jobs() if each["ended"]], count, within_s)
        assert {each["state"] for each in jobs} == {"done"}, jobs
        return jobs

    def until(
        self, ask: Callable[[], list[dict[str, Any]]], count: int, within_s: float
    ) -> list[dict[str, Any]]:
        give_up = time.monotonic() + within_s
        while len(found := ask()) < count:
            assert time.monotonic() < give_up, self.compose("logs", "--tail", "30").stdout
            time.sleep(1)
        assert len(found) == count, found
        return found

    def modalities(self, study_uid: str | None = None) -> Counter[str]:
        """Of all series of the archive, or of a study's, by the published port of the gateway."""
        study = f"/studies/{study_uid}" if study_uid else ""
        url = f"http://127.0.0.1:8080/dicom-web{study}/series"
        series = json.loads(_run([*self.inside, sys.executable, "-c", _SERIES, url]).stdout)
        return Counter(each["00080060"]["Value"][0] for each in series)

    def kill(self, service: str, index: int = 1) -> None:
        """With SIGKILL, the process that the container is for, as the kernel does where memory runs out."""
        line = "kill -9 $(cat /proc/1/task/1/children)"
        self.compose("exec", "-T", "--index", str(index), service, "sh", "-c", line)


def fresh_site(folder: Path, profile: str, inside: list[str]) -> Site:
    """A clone of the files of this tree that git knows, or would take in, with secrets of its own."""
    site = Site(folder, profile, inside)
    listed = _run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT).stdout
    for name in filter(None, listed.split("\0")):
        if os.path.lexists(ROOT / name):
            (site.upstream / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, site.upstream / name, follow_symlinks=False)
    _run(["git", "init", "--quiet", "--initial-branch=main", str(site.upstream)])
    site.commit("A release.")
    _run(["git", "clone", "--quiet", str(site.upstream), str(folder)])
    site.run("docker/secrets.sh")
    return site


def _run(
    words: list[str], *, check: bool = True, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        words, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, (
        f"{words}: {done.returncode}\n{(done.stdout + done.stderr)[-4000:]}"
    )
    return done
