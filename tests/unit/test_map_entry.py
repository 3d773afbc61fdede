"""What a package answers when its container is started, by the file that is copied into it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isocenter.maps import entry

ENTRY = Path(entry.__file__)


@pytest.fixture
def package(tmp_path: Path) -> dict[str, str]:
    """A package's folders, and the environment that tells them."""
    for folder in ("etc", "app", "models/liver", "docs", "export"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "app/main.py").write_text("import sys; print('ran', *sys.argv[1:]); sys.exit(3)\n")
    (tmp_path / "models/liver/model.ts").write_text("weights")
    (tmp_path / "docs/README.md").write_text("read me")
    (tmp_path / "app.yaml").write_text("application: {}\n")
    (tmp_path / "etc/pkg.json").write_text('{"apiVersion": "1.0.0"}')
    _manifest(tmp_path, [sys.executable, str(tmp_path / "app/main.py")])
    return {
        "HOLOSCAN_APP_MANIFEST_PATH": str(tmp_path / "etc/app.json"),
        "HOLOSCAN_PKG_MANIFEST_PATH": str(tmp_path / "etc/pkg.json"),
        "HOLOSCAN_APPLICATION": str(tmp_path / "app"),
        "HOLOSCAN_MODEL_PATH": str(tmp_path / "models"),
        "HOLOSCAN_DOCS_PATH": str(tmp_path / "docs"),
        "HOLOSCAN_CONFIG_PATH": str(tmp_path / "app.yaml"),
        "HOLOSCAN_EXPORT_PATH": str(tmp_path / "export"),
    }


def _manifest(folder: Path, command: list[str], **others: Any) -> None:
    document = {"version": "1.2.3", "command": json.dumps(command), "workingDirectory": str(folder), **others}
    (folder / "etc/app.json").write_text(json.dumps(document))


def _asked(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    # As in the package: nothing but the standard library.
    return subprocess.run(
        [sys.executable, "-I", "-S", str(ENTRY), *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )


def test_without_a_word_the_application_runs(package: dict[str, str]) -> None:
    done = _asked(package)
    assert (done.stdout, done.returncode) == ("ran\n", 3)
    assert _asked(package, "--fast", "2").stdout == "ran --fast 2\n"


def test_manifests_are_shown_as_json(package: dict[str, str]) -> None:
    assert json.loads(_asked(package, "show", "pkg").stdout) == {"apiVersion": "1.0.0"}
    assert set(json.loads(_asked(package, "show").stdout)) == {"app.json", "pkg.json"}
    assert _asked(package, "show", "all of it").returncode == 2


def test_version_environment_and_help(package: dict[str, str]) -> None:
    assert _asked(package, "version").stdout == "1.2.3\n"
    assert f"HOLOSCAN_APPLICATION={package['HOLOSCAN_APPLICATION']}" in _asked(package, "env").stdout
    assert "extract" in _asked(package, "help").stdout


def test_everything_is_extracted_where_no_part_is_named(package: dict[str, str], tmp_path: Path) -> None:
    assert _asked(package, "extract").returncode == 0
    there = {path.relative_to(tmp_path / "export").as_posix() for path in (tmp_path / "export").rglob("*.*")}
    assert there == {
        "app/main.py",
        "config/app.json",
        "config/app.yaml",
        "config/pkg.json",
        "docs/README.md",
        "models/liver/model.ts",
    }


def test_only_the_parts_that_are_mounted_or_named_are_extracted(
    package: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "export/models").mkdir()
    _asked(package, "extract")
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["models"]
    _asked(package, "extract", "manifests")
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == ["config", "models"]


def test_an_export_that_is_not_mounted_is_told(package: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "export").rmdir()
    done = _asked(package, "extract")
    assert done.returncode == 2
    assert "mount a folder" in done.stderr


def test_a_run_ends_at_its_time_limit(package: dict[str, str], tmp_path: Path) -> None:
    _manifest(tmp_path, ["sleep", "30"], timeout=1)
    done = _asked({**package, "PATH": os.environ["PATH"]})
    assert done.returncode == 124
    assert "1 s, its time limit" in done.stderr


WAITS = "import sys, time; print('up', flush=True); print('told', sys.stdin.readline(), flush=True); time.sleep(60)"


@pytest.fixture
def waiting(package: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """One that is started in advance, whose time limit is a second."""
    _manifest(tmp_path, [sys.executable, "-c", WAITS], timeout=1)
    with subprocess.Popen(
        [sys.executable, str(ENTRY)],
        env={**package, "ISOCENTER_WAIT": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        process.kill()


def test_the_time_limit_of_one_that_waits_counts_from_when_it_is_told(
    waiting: subprocess.Popen[str],
) -> None:
    assert waiting.stdin is not None
    assert waiting.stdout is not None
    time.sleep(1.5)
    assert waiting.poll() is None
    waiting.stdin.write("begin\n")
    waiting.stdin.flush()
    assert waiting.stdout.readline() == "told begin\n"
    assert waiting.wait(20) == 124


def test_one_that_waits_ends_with_whoever_would_tell_it(waiting: subprocess.Popen[str]) -> None:
    assert waiting.stdin is not None
    waiting.stdin.close()
    assert waiting.wait(20) != 0


def test_whoever_ends_the_container_ends_the_application(package: dict[str, str], tmp_path: Path) -> None:
    _manifest(tmp_path, ["sh", "-c", "trap 'echo told; exit 5' TERM; echo up; while :; do sleep 0.05; done"])
    with subprocess.Popen(
        [sys.executable, str(ENTRY)],
        env={**package, "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "told\n"
    assert process.returncode == 5


def test_a_command_that_is_none_is_told(package: dict[str, str], tmp_path: Path) -> None:
    _manifest(tmp_path, ["/nowhere/python"])
    done = _asked(package)
    assert done.returncode == 2
    assert "can not be started" in done.stderr
