"""Packages run by Docker and by Podman, both real: what a package may do there, its limits, and how it is ended."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from engines import ENGINES, command, require_containers, running_engine
from unit.map_cases import ALLOWED, ATTEMPTS, COPY, PYTHON, Recipe, add_program, add_python, good

from isocenter.cli.main import main
from isocenter.maps import container
from isocenter.maps.execution import Command, execute
from isocenter.maps.limits import Limits
from isocenter.maps.oci import open_image
from isocenter_operators.testing.phantom import thorax_phantom
from isocenter_operators.testing.series import write_series

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not PYTHON.exists(), reason="the package is made of the system's Python"),
]

# What it is to do lies among the images, so that one package, given to the engine once, is enough for all tests.
PROGRAM = """
import os, pathlib
exec((pathlib.Path(os.environ["HOLOSCAN_INPUT_PATH"]) / "program.py").read_text())
"""


def _recipe() -> Recipe:
    recipe = good()
    add_python(recipe)
    for each in ("/usr/bin/sleep", "/usr/bin/mount", "/usr/bin/unshare", "/usr/bin/true"):
        add_program(recipe, Path(each))
    recipe.content.owned["var/holoscan"] = (
        1000,
        1000,
    )  # as every packager does it: an engine leaves it as it is
    recipe.content.files["opt/holoscan/app/__main__.py"] = PROGRAM.encode()
    recipe.pkg["resources"].update(memory="96Mi")
    return recipe


@dataclass(frozen=True)
class Machine:
    """A machine with this one engine, and a package. `images`: what the package is given."""

    engine: str
    package: Path
    images: Path
    folder: Path

    def words(self, program: str, *more: str) -> list[str]:
        (self.images / "program.py").write_text(program)
        words = ["map", "run", str(self.package), "-i", str(self.images), "-o", str(self.folder / "out")]
        return [*words, "--engine", self.engine, *more]

    def run(self, program: str, *more: str) -> tuple[int, dict[str, Any]]:
        with redirect_stdout(io.StringIO()) as said:
            code = main(self.words(program, *more, "--json"))
        return code, json.loads(said.getvalue())

    def containers(self) -> list[str]:
        return command(self.engine, "ps", "--all", "--format", "{{.Names}}").stdout.split()

    def volumes(self) -> list[str]:
        return command(self.engine, "volume", "ls", "--quiet").stdout.split()

    def processes(self) -> list[str]:
        """What keeps this engine's containers, whether it knows them or not."""
        (folder,) = set(re.findall(r"isocenter-\w+", os.environ[f"ISOCENTER_{self.engine.upper()}"]))
        found = []
        for each in psutil.process_iter(["name", "cmdline"]):
            words = " ".join(each.info["cmdline"] or ())
            if each.info["name"].startswith(("conmon", "containerd-shim")) and folder in words:
                found.append(words)
        return found


@pytest.fixture(scope="module", params=ENGINES)
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    write_series(thorax_phantom(size=(16, 16, 3), spacing_mm=(22.0, 22.0, 60.0)), folder / "images")
    with running_engine(request.param):
        package = _recipe().write_image(folder)
        require_containers(request.param, package, [str(PYTHON), "-c", "pass"])
        yield Machine(request.param, package, folder / "images", folder)


@pytest.fixture
def machine(started: Machine, tmp_path: Path) -> Iterator[Machine]:
    """It has to be left without a container, without the processes of one that the engine lost sight of, and without
    what lay in the working directory of one."""
    yield Machine(started.engine, started.package, started.images, tmp_path)
    assert started.containers() == []
    give_up = time.monotonic() + 10
    while started.processes() and time.monotonic() < give_up:
        time.sleep(0.1)
    assert started.processes() == []
    assert started.volumes() == []


def test_what_it_writes_arrives_and_is_checked(machine: Machine) -> None:
    code, said = machine.run(COPY)
    assert (code, said["status"], said["engine"]) == (0, "done", machine.engine), said
    assert said["memory"]["kept_by"] == "the engine"
    (result,) = said["results"]
    assert (result["modality"], result["problems"]) == ("CT", [])
    assert Path(result["path"]).stat().st_uid == os.getuid()


def test_what_it_may_do_and_what_not(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt is seen to fail, and each of what it needs to work, in one run."""
    monkeypatch.setenv("http_proxy", "http://user:password@proxy")
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    bystander = subprocess.Popen(["sleep", "60"])
    program = "import json, os, socket, subprocess\n"
    program += f"os.environ.update(SECRET={str(secret)!r}, PROCESS='{bystander.pid}')\n"
    program += "found = {}\n"
    for name, attempt in {**ATTEMPTS, **ALLOWED}.items():
        program += f"try:\n    {attempt}\n    found[{name!r}] = True\n"
        program += f"except (OSError, subprocess.CalledProcessError):\n    found[{name!r}] = False\n"
    program += "found['user'] = os.getuid()\n"
    program += "found['interfaces'] = [line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line]\n"
    program += "found['rights'] = [line.split()[1] for line in open('/proc/self/status') if line.startswith('Cap')]\n"
    program += "found['environment'] = sorted(os.environ)\n"
    program += "json.dump(found, open('/var/holoscan/output/found.json', 'w'))\n"
    try:
        _, said = machine.run(program)
    finally:
        bystander.kill()
        bystander.wait()
    found = json.loads((tmp_path / "out" / "found.json").read_text())
    assert (found.pop("user"), found.pop("interfaces")) == (1000, ["lo"])
    assert set(found.pop("rights")) == {"0" * 16}
    environment = found.pop("environment")
    assert not {name for name in environment if name.startswith(("ISOCENTER", "CONTAINERS", "DOCKER"))}
    assert "http_proxy" not in environment
    worked = {name for name, worked in found.items() if worked}
    if machine.engine == "podman":  # it lets a package make a user namespace, in which it has rights
        worked -= {"to be root elsewhere"}
    assert worked == set(ALLOWED)
    assert "none of them is DICOM" in said["reason"]


def test_a_manifest_brings_no_folder_of_the_host_in(machine: Machine) -> None:
    """An engine would take a working directory with a colon for one of the host's, and where it is to be seen."""
    (machine.folder / "site").mkdir()
    (machine.folder / "site" / "secret").write_text("of the host")
    recipe = _recipe()
    recipe.app["workingDirectory"] = f"{machine.folder}/site:/seen"
    recipe.app["input"]["path"], recipe.app["output"]["path"] = "/var/holoscan/input", "/var/holoscan/output"
    (machine.folder / "evil").mkdir()
    evil = Machine(
        machine.engine, recipe.write_image(machine.folder / "evil"), machine.images, machine.folder
    )
    words = evil.words("open('/var/holoscan/output/found', 'w').write(open('/seen/secret').read())")
    assert main(words) != 0
    assert not (machine.folder / "out" / "found").exists()


def test_the_network_is_granted_by_a_word(machine: Machine) -> None:
    seen = "import os\nopen('/var/holoscan/output/net', 'w').write(open('/proc/net/dev').read())\n"
    machine.run(seen, "--network")
    assert "eth0" in (machine.folder / "out" / "net").read_text()


GREEDY = "held = [bytearray(16 << 20) for _ in range(16)]\n"
CHILD = (
    "import os, sys\nchild = os.fork()\n"
    f"if child == 0:\n    {GREEDY}    os._exit(0)\n"
    "os.waitpid(child, 0)\nsys.exit(3)\n"
)


def test_memory_is_kept_to_what_it_declares(machine: Machine) -> None:
    code, said = machine.run(GREEDY)
    assert (code, said["status"]) == (1, "failed")
    assert "it took more memory than the 96 MiB that it may take" in said["reason"]
    assert not Path("oom").exists()  # which Podman's monitor writes


def test_a_process_of_its_own_that_took_too_much_is_told(machine: Machine) -> None:
    """Its first process goes on. Docker tells of that; Podman says how the first one ended."""
    _, said = machine.run(CHILD)
    told = "it took more memory" if machine.engine == "docker" else "it ended with exit code 3"
    assert told in said["reason"]


def test_one_that_takes_too_long_is_ended(machine: Machine) -> None:
    began = time.monotonic()
    code, said = machine.run("import subprocess\nsubprocess.run(['sleep', '4242'])\n", "--timeout", "2")
    assert (code, said["reason"].split(";")[0]) == (1, "it did not end within 2 s and was ended")
    assert time.monotonic() - began < 60
    assert machine.containers() == []


def test_an_exit_code_is_told_and_its_log_kept(machine: Machine) -> None:
    code, said = machine.run("import sys\nprint('said', flush=True)\nsys.exit(7)\n")
    assert (code, said["reason"]) == (1, "it ended with exit code 7; its log says more")
    assert Path(said["log"]).read_text() == "said\n"


def test_ctrl_c_leaves_no_container(machine: Machine) -> None:
    program = "import subprocess\nprint('here', flush=True)\nsubprocess.run(['sleep', '4242'])\n"
    running = subprocess.Popen(
        [sys.executable, "-m", "isocenter.cli", *machine.words(program)],
        stderr=subprocess.PIPE,
        text=True,
        # Of tests that a shell runs in its background it is ignored, and so by all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert running.stderr is not None
    assert running.stderr.readline() == "| here\n"
    (name,) = machine.containers()
    log = command(machine.engine, "logs", name)
    assert "here" not in log.stdout + log.stderr  # the engine keeps none, which would have no end
    running.send_signal(signal.SIGINT)
    _, rest = running.communicate(timeout=60)
    assert (running.returncode, rest.strip()) == (130, "interrupted")
    assert machine.containers() == []


class _Enough(Exception):
    """What a cancelled job's checkpoint raises."""


def test_broken_off_while_the_container_is_made_it_leaves_none(machine: Machine) -> None:
    image = container.load(machine.engine, open_image(machine.package))
    options = os.environ[f"ISOCENTER_{machine.engine.upper()}"].split()
    for number, after_s in enumerate((0.05, 0.15, 0.25, 0.35, 0.5)):
        name, began = f"broken-off-{number}", time.monotonic()

        def checkpoint(began: float = began, after_s: float = after_s) -> None:
            if time.monotonic() - began > after_s:
                raise _Enough

        words = [machine.engine, *options, "run", "--rm", "--network=none", "--name", name]
        words += ["--entrypoint=/usr/bin/sleep", str(image), "4242"]
        asked = Command(
            words,
            machine.folder / "log",
            engine_limits=True,
            checkpoint=checkpoint,
            end=lambda name=name: container.end(machine.engine, name),  # type: ignore[misc]
        )
        with pytest.raises(_Enough):
            execute(asked, Limits(memory=64 << 20, cpu=1, shared_memory=1 << 20))
    time.sleep(1)
    assert machine.containers() == []


def test_an_image_of_the_engines_is_run_by_its_name(machine: Machine) -> None:
    """What one of the engine's own commands has made of it, or fetched."""
    digest = open_image(machine.package).config_digest
    assert container.load(machine.engine, open_image(machine.package)) == digest
    command(machine.engine, "tag", digest, "localhost/of-the-site:1")
    by_name = Machine(machine.engine, Path("localhost/of-the-site:1"), machine.images, machine.folder)
    code, said = by_name.run(COPY)
    assert (code, said["status"], said["engine"]) == (0, "done", machine.engine), said


def test_a_name_that_the_site_uses_stays_its_own(machine: Machine) -> None:
    """Another image has the name that stands in the archive: that one keeps it, and the archive's is run."""
    recipe = good()
    recipe.config["Labels"]["of"] = "the site"
    folder = machine.folder / "other"
    folder.mkdir()
    other = recipe.write_image(folder)
    command(machine.engine, "load", "--input", str(other))
    name = "localhost/good:1.0.0" if machine.engine == "podman" else "good:1.0.0"
    code, said = machine.run(COPY)
    assert (code, said["status"], said["engine"]) == (0, "done", machine.engine), said
    found = command(machine.engine, "image", "inspect", "--format", "{{.Id}}", name).stdout.strip()
    assert found.removeprefix("sha256:") == open_image(other).config_digest.removeprefix("sha256:")


def test_a_layout_in_a_folder_is_given_to_it_too(machine: Machine) -> None:
    layout = machine.folder / "layout"
    layout.mkdir()
    subprocess.run(["tar", "-xf", machine.package, "-C", layout], check=True)
    of_layout = Machine(machine.engine, layout, machine.images, machine.folder)
    code, said = of_layout.run(COPY)
    assert (code, said["status"], said["engine"]) == (0, "done", machine.engine), said
