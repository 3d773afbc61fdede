"""`isocenter map run`: what a package may do and what not, how it is ended, and what is said of what it wrote."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from map_cases import ALLOWED, ATTEMPTS, COPY, PYTHON, Recipe, add_program, good
from pydicom import dcmread

from isocenter.cli.main import main
from isocenter.maps import bubblewrap, cgroup, execution, namespaces
from isocenter.maps.cell import Cell
from isocenter.maps.handover import hand_over
from isocenter.maps.limits import Limits
from isocenter.maps.linting import lint_package
from isocenter.maps.mounts import Mount
from isocenter.maps.oci import open_image
from isocenter.maps.output_watch import OutputWatch
from isocenter.maps.package import open_package
from isocenter.maps.unpacked import forget
from isocenter.maps.user import User
from isocenter_operators.testing.phantom import thorax_phantom
from isocenter_operators.testing.series import write_series

ENGINES = [
    pytest.param(
        "bubblewrap",
        marks=pytest.mark.skipif(
            not bubblewrap.available(), reason="bubblewrap is not installed, or not allowed here"
        ),
    ),
    pytest.param(
        "namespaces",
        marks=pytest.mark.skipif(not namespaces.available(), reason="no namespaces can be made here"),
    ),
]
EITHER = "bubblewrap" if bubblewrap.available() else "namespaces"
CONFINED = pytest.mark.skipif(
    not bubblewrap.available() and not namespaces.available(), reason="nothing here can confine a package"
)
pytestmark = [
    CONFINED,
    pytest.mark.skipif(not PYTHON.exists(), reason="packages here are run with the system's Python"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_series(thorax_phantom(size=(16, 16, 3), spacing_mm=(22.0, 22.0, 60.0)), folder)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "isocenter" / "maps"


def _package(folder: Path, program: str, change: Callable[[Recipe], object] = lambda _: None) -> Path:
    """The folder of a package that runs this program, with this machine's Python."""
    recipe = good()
    del recipe.content.files["usr/bin/python3"]
    recipe.content.executable.clear()
    recipe.content.files["opt/holoscan/app/__main__.py"] = program.encode()
    change(recipe)
    return recipe.write_folder(folder / "package")


def _run(package: Path, images: Path, *words: str, engine: str = EITHER) -> tuple[int, dict[str, Any]]:
    out = package.parent / "out"
    arguments = [
        "map",
        "run",
        str(package),
        "-i",
        str(images),
        "-o",
        str(out),
        "--engine",
        engine,
        "--json",
        *words,
    ]
    with redirect_stdout(io.StringIO()) as said:
        code = main(arguments)
    return code, json.loads(said.getvalue())


@pytest.mark.parametrize("engine", ENGINES)
def test_what_it_writes_arrives_and_is_checked(engine: str, tmp_path: Path, images: Path) -> None:
    code, said = _run(_package(tmp_path, COPY), images, engine=engine)
    assert (code, said["status"], said["engine"]) == (0, "done", engine)
    result = said["results"][0]
    assert (result["modality"], result["problems"]) == ("CT", [])
    assert dcmread(result["path"]).SOPInstanceUID
    assert {each.name for each in (tmp_path / "out").iterdir()} == {
        "map.log",
        Path(result["path"]).name,
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_what_it_may_do_and_what_not(engine: str, tmp_path: Path, images: Path) -> None:
    """Each attempt is seen to fail, and each of what it needs to work, in one run."""
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    program = "import json, os, socket, subprocess\nfound = {}\n"
    for name, attempt in {**ATTEMPTS, **ALLOWED}.items():
        program += f"try:\n    {attempt}\n    found[{name!r}] = True\n"
        program += f"except (OSError, subprocess.CalledProcessError):\n    found[{name!r}] = False\n"
    program += "found['user'] = os.getuid()\n"
    program += "json.dump(found, open('/var/holoscan/output/found.json', 'w'))\n"
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        package = _package(
            tmp_path,
            program,
            lambda recipe: recipe.app["environment"].update(SECRET=str(secret), PROCESS=str(bystander.pid)),
        )
        _, said = _run(package, images, engine=engine)
    finally:
        bystander.kill()
        bystander.wait()
    found = json.loads((tmp_path / "out" / "found.json").read_text())
    assert found.pop("user") == 1000
    assert {name for name, worked in found.items() if worked} == set(ALLOWED)
    assert "none of them is DICOM" in said["reason"]
    assert not (package / "var/holoscan/new").exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_environment_of_who_runs_it_is_not_to_be_found(
    engine: str, tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also not as that of the first process in it, which confines the package."""
    monkeypatch.setenv("ISOCENTER_ORTHANC__PASSWORD", "of-the-archive")
    program = """
import glob
found = []
for file in glob.glob("/proc/[0-9]*/environ"):
    try:
        found.append(open(file, "rb").read())
    except OSError:
        pass
open("/var/holoscan/output/found", "wb").write(b"".join(found))
"""
    _run(_package(tmp_path, program), images, engine=engine)
    found = (tmp_path / "out" / "found").read_bytes()
    assert b"HOLOSCAN_INPUT_PATH" in found
    assert b"of-the-archive" not in found


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("directory", [".", "..", "var/holoscan"])
def test_a_working_directory_that_is_not_absolute_is_refused(
    directory: str, engine: str, tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = "import os\nopen('/var/holoscan/output/found', 'w').write(os.getcwd())\n"
    package = _package(tmp_path, program, lambda recipe: recipe.app.update(workingDirectory=directory))
    out = ["-o", str(tmp_path / "out")]
    assert main(["map", "run", str(package), "-i", str(images), *out, "--engine", engine]) != 0
    assert "no absolute path" in capsys.readouterr().err
    assert not (tmp_path / "out" / "found").exists()


def _confined(work: Path, *mounts: Mount, arguments: Sequence[str], directory: str = "/") -> list[str]:
    """The command of a cell with this machine's programs."""
    if not namespaces.available():
        pytest.skip("no namespaces can be made here")
    work.mkdir()
    system = [
        Mount("read", f"/{name}", f"/{name}")
        for name in ("usr", "bin", "lib", "lib64")
        if Path("/", name).exists()
    ]
    cell = Cell(
        mounts=[*system, Mount("processes", "/proc"), *mounts],
        arguments=arguments,
        environment={"PATH": "/usr/bin:/bin"},
        directory=directory,
        user=User(1000, 1000),
    )
    return namespaces.command_of(cell, work)


def test_a_relative_directory_leads_nowhere_outside_of_the_root(tmp_path: Path) -> None:
    """Whoever makes a cell may forget it: what confines does not."""
    words = _confined(tmp_path / "work", arguments=["/bin/pwd", "-P"], directory=".")
    said = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert said.stdout.strip() == "/"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts something here")
def test_what_is_mounted_in_a_folder_that_can_be_read_can_only_be_read_too(tmp_path: Path) -> None:
    inner = tmp_path / "images" / "of a disk"
    inner.mkdir(parents=True)
    words = _confined(
        tmp_path / "work",
        Mount("read", "/images", str(tmp_path / "images")),
        arguments=["touch", "/images/of a disk/new"],
    )
    mounted = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(inner)]
    done = subprocess.run([*mounted, *words], capture_output=True, text=True, check=False)
    assert "Read-only file system" in done.stderr


@pytest.mark.parametrize("engine", ENGINES)
def test_a_link_in_the_output_is_not_followed(engine: str, tmp_path: Path, images: Path) -> None:
    program = COPY + "os.symlink('/etc/shadow', target / 'link.dcm')\nos.symlink('/etc', target / 'etc')\n"
    code, said = _run(_package(tmp_path, program), images, engine=engine)
    assert code == 0
    assert len(said["results"]) == 1


def test_what_it_wrote_is_data_and_gives_nobody_a_right(tmp_path: Path, images: Path) -> None:
    """A program that anybody here could start, with the rights of whoever ran the package, would be a way in."""
    program = COPY + "for file in target.iterdir(): file.chmod(0o6755)\n"
    program += "(target / 'hidden').write_text('x')\n(target / 'hidden').chmod(0)\n"
    code, said = _run(_package(tmp_path, program), images)
    assert code == 0, said
    modes = {stat.S_IMODE(Path(each["path"]).stat().st_mode) for each in said["results"]}
    assert modes == {0o644, 0o600}


@pytest.mark.parametrize("engine", ENGINES)
def test_it_is_ended_when_its_time_is_over_and_all_it_started_too(
    engine: str, tmp_path: Path, images: Path
) -> None:
    program = "import subprocess, time\nsubprocess.Popen(['sleep', '4242'], start_new_session=True)\ntime.sleep(4242)\n"
    began = time.monotonic()
    code, said = _run(_package(tmp_path, program), images, "--timeout", "1", engine=engine)
    assert (code, said["reason"].split(";")[0]) == (1, "it did not end within 1 s and was ended")
    assert time.monotonic() - began < 20
    assert not _sleepers()


def _sleepers() -> list[int]:
    return [
        each.pid for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"] == ["sleep", "4242"]
    ]


GREEDY = "import time\nheld = [bytearray(16 << 20) for _ in range(16)]\ntime.sleep(3)\n"


@pytest.mark.parametrize("engine", ENGINES)
def test_memory_is_kept_to_what_it_declares(engine: str, tmp_path: Path, images: Path) -> None:
    package = _package(tmp_path, GREEDY, lambda recipe: recipe.pkg["resources"].update(memory="128Mi"))
    code, said = _run(package, images, engine=engine)
    assert code == 1
    assert said["reason"] == "it took more memory than the 128 MiB that it may take; give it more"
    assert said["memory"]["limit_mib"] == 128
    assert said["memory"]["kept_by"] in ("the kernel's control group", "watching its processes")


_OUTPUT = "import os\nos.chdir('/var/holoscan/output')\n"
_SLEEP = "import time\ntime.sleep(4242)\n"
FILLERS = {
    "a file": "open('a', 'wb').write(bytes(16 << 20))",
    "many": "for number in range(4096): open(str(number), 'w')",
    "hard links": "open('a', 'wb').write(bytes(1 << 20))\nfor number in range(16): os.link('a', str(number))",
    "a hole": "open('a', 'wb').truncate(1 << 40)",
    "deleted, and still open": "held = open('a', 'wb'); os.remove('a'); held.write(bytes(16 << 20)); held.flush()",
    "deleted, and mapped": "import mmap\nheld = open('a', 'w+b'); held.truncate(16 << 20)\n"
    "there = mmap.mmap(held.fileno(), 16 << 20); os.remove('a'); held.close(); there[:] = bytes(16 << 20)",
    "too deep": "for _ in range(3000): os.mkdir('d'); os.chdir('d')",
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("how", FILLERS)
def test_one_that_fills_the_disk_is_ended(how: str, engine: str, tmp_path: Path, images: Path) -> None:
    package = _package(tmp_path, f"{_OUTPUT}{FILLERS[how]}\n{_SLEEP}")
    began = time.monotonic()
    code, said = _run(package, images, "--output-size", "8Mi", engine=engine)
    assert (code, said["reason"].split(" (")[0]) == (1, "it wrote more than the 8 MiB that it may")
    assert time.monotonic() - began < 20
    assert not [each for each in (tmp_path / "out").iterdir() if each.name.startswith(".")]


def test_what_it_wrote_as_it_ended_is_counted_too(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two looks; and whatever it says of itself."""
    exceeded = OutputWatch.exceeded
    monkeypatch.setattr(OutputWatch, "exceeded", lambda watch, process=None: not process and exceeded(watch))
    package = _package(tmp_path, f"{_OUTPUT}{FILLERS['a file']}\n")
    code, said = _run(package, images, "--output-size", "8Mi")
    assert (code, said["exit_code"], said["reason"].split(" (")[0]) == (
        1,
        0,
        "it wrote more than the 8 MiB that it may",
    )
    shutil.rmtree(tmp_path / "out")
    _, said = _run(package, images)
    assert "none of them is DICOM" in said["reason"]


def test_memory_is_watched_where_no_group_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "_MOUNTS", tmp_path / "none")
    command = execution.Command([str(PYTHON), "-c", GREEDY], tmp_path / "log")
    done = execution.execute(command, Limits(memory=64 << 20, cpu=1, shared_memory=1 << 20))
    assert (done.ending, done.memory_guard) == ("out of memory", "watching its processes")
    assert done.memory_peak is not None
    assert done.memory_peak > 64 << 20


def test_a_log_that_can_not_be_written_changes_nothing_else() -> None:
    """As where the disk is full: what it said last is known all the same, and it is not made to fail."""
    command = execution.Command(
        [str(PYTHON), "-c", "for n in range(3): print(n, flush=True)"], Path("/dev/full")
    )
    done = execution.execute(command, Limits(memory=256 << 20, cpu=1, shared_memory=1 << 20))
    assert (done.exit_code, list(done.tail)) == (0, ["0", "1", "2"])


def test_what_a_worker_has_set_for_itself_is_not_the_packages(tmp_path: Path) -> None:
    """Signals that are blocked, as a worker's are, would never reach a package; nor may its memory's limit."""
    program = "import resource\nprint(resource.getrlimit(resource.RLIMIT_DATA)[0])\n"
    program += "print(resource.getrlimit(resource.RLIMIT_CORE))\n"  # a crash leaves no image on the disk
    program += "print(open('/proc/self/status').read().split('SigBlk:')[1].split()[0])\n"
    before = resource.getrlimit(resource.RLIMIT_DATA)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, before[1]))
    try:
        command = execution.Command([str(PYTHON), "-c", program], tmp_path / "log")
        done = execution.execute(command, Limits(memory=256 << 20, cpu=1, shared_memory=1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    assert list(done.tail) == [str(before[1]), "(0, 0)", "0" * 16]


def test_it_ends_with_whoever_started_it(tmp_path: Path, images: Path) -> None:
    """Also where that one is killed and can not do anything about it."""
    program = "import subprocess\nprint('here', flush=True)\nsubprocess.run(['sleep', '4242'])\n"
    words = ["map", "run", str(_package(tmp_path, program)), "-i", str(images), "-o", str(tmp_path / "out")]
    words += ["--engine", EITHER]
    running = subprocess.Popen(
        [sys.executable, "-m", "isocenter.cli", *words], stderr=subprocess.PIPE, text=True
    )
    assert running.stderr is not None
    assert running.stderr.readline() == "| here\n"
    running.kill()
    running.communicate()
    deadline = time.monotonic() + 20
    while _sleepers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _sleepers()


@pytest.mark.parametrize("where", ["below", "beside"])
def test_a_group_of_the_kernels_second_interface(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In folders as that interface has them; this machine may have the first one."""
    own = tmp_path / "mount" / "user.slice" / "session"
    own.mkdir(parents=True)
    (own / "cgroup.procs").touch()
    (own if where == "below" else own.parent).joinpath("cgroup.subtree_control").write_text(
        "cpu memory pids\n"
    )
    (tmp_path / "own").write_text("0::/user.slice/session\n")
    monkeypatch.setattr(cgroup, "_MOUNTS", tmp_path / "mount")
    monkeypatch.setattr(cgroup, "_OWN", tmp_path / "own")
    with cgroup.cgroup(Limits(memory=64 << 20, cpu=1.5, shared_memory=1 << 20)) as group:
        assert group is not None
        (folder,) = group.folders
        assert folder.parent == (own if where == "below" else own.parent)
        assert (folder / "memory.max").read_text() == str(64 << 20)
        assert (folder / "cpu.max").read_text() == "150000 100000"
        (folder / "memory.events").write_text("oom 1\noom_kill 2\n")
        (folder / "memory.peak").write_text("67108864\n")
        assert (group.memory_exceeded, group.memory_peak) == (True, 64 << 20)


def test_a_group_whose_owner_was_killed_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mount").mkdir()
    (tmp_path / "mount" / "cgroup.procs").touch()
    (tmp_path / "mount" / "cgroup.subtree_control").write_text("memory\n")
    (tmp_path / "own").write_text("0::/\n")
    monkeypatch.setattr(cgroup, "_MOUNTS", tmp_path / "mount")
    monkeypatch.setattr(cgroup, "_OWN", tmp_path / "own")
    ended = subprocess.Popen(["true"])
    ended.wait()
    abandoned = tmp_path / "mount" / f"isocenter-map-{ended.pid}-0123456789ab"
    held = tmp_path / "mount" / f"isocenter-map-{os.getppid()}-0123456789ab"
    abandoned.mkdir()
    held.mkdir()
    with cgroup.cgroup(Limits(memory=64 << 20, cpu=1, shared_memory=1 << 20)) as group:
        assert group is not None
    assert held.exists()
    assert not abandoned.exists()


def test_one_that_declares_no_memory_gets_what_the_specification_assumes(
    tmp_path: Path, images: Path
) -> None:
    package = _package(tmp_path, COPY, lambda recipe: recipe.pkg["resources"].pop("memory"))
    _, said = _run(package, images)
    assert said["memory"]["limit_mib"] == 1024
    shutil.rmtree(tmp_path / "out")
    _, said = _run(package, images, "--memory", "2Gi")
    assert said["memory"]["limit_mib"] == 2048


def test_a_package_may_write_a_file_of_the_logs_name(tmp_path: Path, images: Path) -> None:
    package = _package(tmp_path, f"{COPY}\n(target / 'map.log').write_text('its own')\nprint('said')\n")
    code, said = _run(package, images)
    assert (code, Path(said["log"]).read_text()) == (0, "said\n")
    assert (tmp_path / "out" / "map.log").read_text() == "its own"


FAILURES = [
    ("import sys\nsys.exit(3)\n", "it ended with exit code 3; its log says more"),
    ("pass\n", "it wrote nothing"),
    ("open('/var/holoscan/output/a.txt', 'w').write('x')\n", "it wrote 1 file, and none of them is DICOM"),
    (COPY + "next(target.iterdir()).open('r+b').truncate(400)\n", "can not be right by the standard"),
    ("open('/var/holoscan/output/a.dcm', 'w').write('x')\n", "none of them is DICOM"),
]


@pytest.mark.parametrize(("program", "told"), FAILURES, ids=["code", "nothing", "text", "truncated", "named"])
def test_what_went_wrong_is_told(program: str, told: str, tmp_path: Path, images: Path) -> None:
    code, said = _run(_package(tmp_path, program), images)
    assert (code, said["status"]) == (1, "failed")
    assert told in said["reason"]


def test_what_is_not_applicable_is_an_outcome_and_no_fault(tmp_path: Path, images: Path) -> None:
    program = "import sys\nsys.stderr.write('not applicable: no liver in this series\\n')\nprint([])\n"
    code, said = _run(_package(tmp_path, program), images)
    assert (code, said["status"], said["reason"]) == (0, "not_applicable", "no liver in this series")


def test_what_it_says_of_itself_is_one_line_of_plain_text(tmp_path: Path, images: Path) -> None:
    """It is shown on pages and terminals: no colours, no bells, nothing that turns what follows around."""
    said_by_it = "not applicable: \\x1b[31mno\\tliver\\x07 \\u202ehere " + "x" * 1000
    _, said = _run(_package(tmp_path, f"print('{said_by_it}')\n"), images)
    assert said["reason"].startswith("[31mno liver here xxx")
    assert said["reason"].isprintable()
    assert len(said["reason"]) <= 300


def test_ctrl_c_ends_it_and_leaves_its_log(tmp_path: Path, images: Path) -> None:
    program = "import subprocess, time\nprint('here', flush=True)\nsubprocess.run(['sleep', '4242'])\n"
    package = _package(tmp_path, program)
    words = ["map", "run", str(package), "-i", str(images), "-o", str(tmp_path / "out"), "--engine", EITHER]
    running = subprocess.Popen(
        [sys.executable, "-m", "isocenter.cli", *words],
        stderr=subprocess.PIPE,
        text=True,
        # Of tests that a shell runs in its background it is ignored, and so by all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert running.stderr is not None
    assert running.stderr.readline() == "| here\n"
    running.send_signal(signal.SIGINT)
    _, rest = running.communicate()
    assert (running.returncode, rest.strip()) == (130, "interrupted")
    assert not _sleepers()
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["map.log"]


def test_an_output_that_is_not_empty_is_refused(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.dcm").touch()
    package = _package(tmp_path, COPY)
    assert main(["map", "run", str(package), "-i", str(images), "-o", str(tmp_path / "out")]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_an_image_that_is_no_such_file(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["map", "run", "no.oci", "-i", str(images), "-o", str(tmp_path / "out")]) == 2
    assert "no.oci: there is no such file or folder" in capsys.readouterr().err


def _with_a_shell(recipe: Recipe) -> None:
    """A system of its own: a shell, `cat`, and the libraries that they need."""
    del recipe.content.files["usr/bin/python3"]
    recipe.content.executable.clear()
    for program in ("/bin/sh", "/usr/bin/cat"):
        add_program(recipe, Path(program))


SHELL = b"""#!/bin/sh
for file in "$HOLOSCAN_INPUT_PATH"/*; do cat "$file" > "$HOLOSCAN_OUTPUT_PATH/result.dcm"; done
"""


def _shell_image(tmp_path: Path, program: bytes) -> Path:
    recipe = good()
    _with_a_shell(recipe)
    recipe.content.owned["var/holoscan"] = (1000, 1000)
    recipe.content.files["opt/holoscan/app/start"] = program
    recipe.content.executable.add("opt/holoscan/app/start")
    recipe.config["Entrypoint"] = ["/opt/holoscan/app/start"]
    return recipe.write_image(tmp_path)


SHELL_ATTEMPTS = b"""#!/bin/sh
for file in "$HOLOSCAN_INPUT_PATH"/*; do cat "$file" > "$HOLOSCAN_OUTPUT_PATH/result.dcm"; done
for place in /new /opt/holoscan/app/new "$HOLOSCAN_INPUT_PATH/new"; do
  if (echo x > "$place") 2>/dev/null; then echo "could write $place"; fi
done
for place in /tmp/new new; do (echo x > "$place") || echo "could not write $place"; done
while read -r line; do
  case $line in lo:*|Inter*|face*) ;; *) echo "sees the network: $line" ;; esac
done < /proc/net/dev
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_an_image_by_each_engine(engine: str, tmp_path: Path, images: Path) -> None:
    """By Docker and Podman: tests/integration/test_map_engines.py."""
    code, said = _run(_shell_image(tmp_path, SHELL_ATTEMPTS), images, engine=engine)
    assert (tmp_path / "out" / "map.log").read_text() == ""
    assert (code, said["status"], said["engine"]) == (0, "done", engine)


def test_where_an_engine_can_start_nothing_another_way_is_taken(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Podman in a container that lets it do too little: it answers, and fails."""
    (tmp_path / "bin").mkdir()
    engine = tmp_path / "bin" / "docker"
    engine.write_text(
        '#!/bin/sh\ncase $1 in info|image) exit 0;; run) echo "no permission" >&2; exit 126;; esac\n'
    )
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    image = _shell_image(tmp_path, SHELL)
    with redirect_stdout(io.StringIO()) as said:
        code = main(["map", "run", str(image), "-i", str(images), "-o", str(tmp_path / "out"), "--json"])
    document = json.loads(said.getvalue())
    assert (code, document["engine"]) == (0, EITHER)
    assert f"docker could not start it, so {EITHER} ran it" in document["notes"]


@pytest.mark.parametrize("exit_code", [126, 127])
def test_what_began_to_write_is_not_run_again_into_the_same_folder(
    exit_code: int, tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell ends so too when a command of its script is missing: the results of two runs would lie side by side."""
    (tmp_path / "bin").mkdir()
    engine = tmp_path / "bin" / "docker"
    engine.write_text(
        f"#!/bin/sh\ncase $1 in info|image) exit 0;; run) "
        f'for file in "{tmp_path}"/out/.map-*/output; do echo half > "$file/of the first"; done; exit {exit_code};; '
        "esac\n"
    )
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    image = _shell_image(tmp_path, SHELL)
    with redirect_stdout(io.StringIO()) as said:
        code = main(["map", "run", str(image), "-i", str(images), "-o", str(tmp_path / "out"), "--json"])
    document = json.loads(said.getvalue())
    assert (code, document["engine"], document["exit_code"]) == (1, "docker", exit_code)
    assert not (tmp_path / "out" / "result.dcm").exists()


@pytest.mark.parametrize(
    ("part", "path"),
    [
        ("workingDirectory", "/etc:/seen"),
        ("input", "/in:/seen"),
        ("output", "/out,source=/etc"),
        ("output", "/out\nput"),
    ],
)
def test_a_path_that_an_engine_would_take_for_several_is_refused(
    part: str, path: str, tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--volume /etc:/seen` is the host's own folder, and can be written."""

    def change(recipe: Recipe) -> None:
        recipe.app.update({part: path if part == "workingDirectory" else {**recipe.app[part], "path": path}})

    package = _package(tmp_path, COPY, change)
    assert main(["map", "run", str(package), "-i", str(images), "-o", str(tmp_path / "out")]) != 0
    assert "its maker has to name another" in capsys.readouterr().err


def test_an_engine_is_given_the_image_that_was_looked_at_under_no_others_name(tmp_path: Path) -> None:
    """An archive may tell an engine of another image than its index does, and call it as one of the site's."""
    image = open_image(_shell_image(tmp_path, SHELL))
    with tarfile.open(image.path, "a") as archive:
        other = json.dumps(
            [{"Config": "evil.json", "RepoTags": ["the-sites:1.0"], "Layers": ["evil.tar"]}]
        ).encode()
        for name in ("manifest.json", "evil.json", "evil.tar"):
            header = tarfile.TarInfo(name)
            header.size = len(other)
            archive.addfile(header, io.BytesIO(other))
    looked_at = open_image(image.path)
    with (tmp_path / "given.tar").open("wb") as out:
        hand_over(looked_at, "ours:1", out)
    given = open_image(tmp_path / "given.tar")
    assert (given.digest, given.config_digest, given.tag) == (image.digest, image.config_digest, "ours:1")
    given.verify()
    with tarfile.open(tmp_path / "given.tar") as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        (listed,) = json.load(manifest)
        assert listed["RepoTags"] == ["ours:1"]
        assert listed["Config"] == f"blobs/{image.config_digest.replace(':', '/')}"
        assert set(listed["Layers"]) | {listed["Config"]} <= set(archive.getnames())
        assert "evil.json" not in archive.getnames()


@pytest.mark.parametrize("engine", ENGINES)
def test_an_image_is_unpacked_once_and_started_by_its_entrypoint(
    engine: str, tmp_path: Path, images: Path, cache: Path
) -> None:
    image = _shell_image(tmp_path, SHELL)
    code, said = _run(image, images, engine=engine)
    assert (code, said["status"]) == (0, "done")
    assert said["digest"].startswith("sha256:")
    root = cache / said["digest"].replace(":", "-")
    made = root.stat().st_mtime_ns
    shutil.rmtree(tmp_path / "out")
    assert _run(image, images, engine=engine)[0] == 0
    assert root.stat().st_mtime_ns == made


@pytest.mark.parametrize("engine", ENGINES)
def test_while_it_runs_nobody_removes_what_it_runs_from(
    engine: str, tmp_path: Path, images: Path, cache: Path
) -> None:
    given = tmp_path / "given"
    shutil.copytree(images, given)
    wait = b'#!/bin/sh\necho here\nwhile [ ! -e "$HOLOSCAN_INPUT_PATH/.go" ]; do :; done\n'
    words = ["map", "run", str(_shell_image(tmp_path, wait + SHELL)), "-i", str(given)]
    running = subprocess.Popen(
        [sys.executable, "-m", "isocenter.cli", *words, "-o", str(tmp_path / "out"), "--engine", engine],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    assert running.stderr.readline() == "| here\n"
    (root,) = cache.glob("sha256-*")
    forget(cache, lambda _: False)
    assert root.is_dir()
    (given / ".go").touch()  # which the loop over the images does not see
    running.communicate()
    assert running.returncode == 0
    forget(cache, lambda _: False)
    assert not root.exists()


def test_an_image_that_was_changed_is_not_run(tmp_path: Path, images: Path, cache: Path) -> None:
    image = good().write_image(tmp_path)
    content = image.read_bytes()
    image.write_bytes(content.replace(b"print('done')", b"print('evil')"))
    code, said = _run(image, images)
    assert code == 1
    assert "is not what its digest says" in said["reason"]
    assert not [each for each in cache.iterdir() if not each.name.endswith(".lock")]


def test_another_machines_image_is_not_run(tmp_path: Path, images: Path) -> None:
    recipe = good()
    recipe.architecture = "s390x"
    code, said = _run(recipe.write_image(tmp_path), images)
    assert code == 1
    assert "built for linux/s390x" in said["reason"]


def _as_holoscan_cli(recipe: Recipe, folder: Path) -> None:
    """The manifests as holoscan-cli's own packager makes them of the SDK's documented app.yaml."""
    from holoscan_cli.packager.config_reader import ApplicationConfiguration

    (folder / "app.yaml").write_text(SDK_APP_YAML)
    given = SimpleNamespace(
        command='["python3", "/opt/holoscan/app"]',
        app_dir=Path("/opt/holoscan/app"),
        input_dir="input/",
        output_dir="output/",
        working_dir=Path("/var/holoscan"),
        models_dir=Path("/opt/holoscan/models"),
        config_file_path=Path("/var/holoscan/app.yaml"),
        app_manifest_path="/etc/holoscan/app.json",
        package_manifest_path="/etc/holoscan/pkg.json",
        docs_dir=Path("/opt/holoscan/docs"),
        logs_dir=Path("/var/holoscan/logs"),
        timeout=0,
        version=None,
        models={"liver": Path("liver")},
    )
    configuration = ApplicationConfiguration()
    configuration.read(folder / "app.yaml")
    recipe.app = configuration.populate_app_manifest(given).data
    recipe.pkg = configuration.populate_package_manifest(given).data
    recipe.content.files["var/holoscan/app.yaml"] = SDK_APP_YAML.encode()


SDK_APP_YAML = """%YAML 1.2
---
application:
  title: MONAI Deploy App Package - MONAI Bundle AI App
  version: 1.0
  inputFormats: ["file"]
  outputFormats: ["file"]
resources:
  cpu: 1
  gpu: 1
  memory: 1Gi
  gpuMemory: 6Gi
"""


def test_what_holoscan_cli_packages_is_run(tmp_path: Path, images: Path) -> None:
    package = _package(tmp_path, COPY, lambda recipe: _as_holoscan_cli(recipe, tmp_path))
    code, said = _run(package, images)
    assert (code, said["reason"]) == (0, None)
    assert "it asks for 1 GPU and was given none" in said["notes"]
    found = {(each.name, each.severity) for each in lint_package(open_package(package))}
    assert {name for name, severity in found if severity == "error"} == {
        "version-not-semantic",  # 1.0, as the SDK's own examples have it
        "command-program-missing",  # the folder has no system
    }


LEGACY = """
import os, pathlib, shutil
source, target = pathlib.Path(os.environ["MONAI_INPUTPATH"]), pathlib.Path(os.environ["MONAI_OUTPUTPATH"])
shutil.copyfile(next(source.iterdir()), target / "result.dcm")
"""


@pytest.fixture
def legacy(tmp_path: Path) -> Path:
    """A package as the SDK made them before 1.0, unpacked."""
    from test_map_linting import _legacy

    recipe = good()
    del recipe.content.files["usr/bin/python3"]
    recipe.content.executable.clear()
    _legacy(recipe)
    recipe.content.files["opt/monai/app/__main__.py"] = LEGACY.encode()
    return recipe.write_folder(tmp_path / "package")


def test_the_legacy_form_is_run(legacy: Path, images: Path) -> None:
    code, said = _run(legacy, images)
    assert (code, said["reason"]) == (0, None)
