"""The supervisor with real processes: readiness, restarts, and nothing left behind."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from ports import free_port

from isocenter.settings import Settings
from isocenter.stack import ports
from isocenter.stack.child import Child
from isocenter.stack.running import exclusively, running, write
from isocenter.stack.supervisor import Supervisor
from isocenter_operators.errors import ConfigurationError, Unavailable

pytestmark = pytest.mark.integration


def child(folder: Path, name: str, program: str, **changes: object) -> Child:
    """A child that is ready once it has written its process number to `<name>.pid`."""
    pid = folder / f"{name}.pid"
    source = f"import os, pathlib, signal, subprocess, sys, time\n{textwrap.dedent(program)}"
    options: dict[str, object] = {
        "name": name,
        "argv": (sys.executable, "-c", source, str(pid)),
        "environment": {},
        "log": folder / f"{name}.log",
        "ready": lambda: None if pid.exists() else f"{name} has not written its number",
        "address": name,
        "ready_within_s": 10.0,
        "stop_within_s": 5.0,
    }
    return Child(**{**options, **changes})  # type: ignore[arg-type]


SERVE = """
draft = pathlib.Path(sys.argv[1] + '.draft')
draft.write_text(str(os.getpid()))
draft.rename(sys.argv[1])
time.sleep(600)
"""


def test_a_child_is_started_again_as_it_is_to_be_by_then(tmp_path: Path) -> None:
    def wanted(number: int) -> Child:
        made = child(tmp_path, f"number {number}", SERVE, anew=lambda: wanted(number + 1))
        return replace(made, name="changing")

    def unknown() -> Child:
        raise ConfigurationError("an app.yaml is wrong")

    said: list[str] = []
    steady = child(tmp_path, "steady", SERVE, anew=unknown)
    with Supervisor([wanted(1), steady], environment=os.environ, say=said.append) as supervisor:
        supervisor.wait_until_ready()
        for name in ("changing", "steady"):
            pid = supervisor.pid(name)
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        wait_for((tmp_path / "number 2.pid").exists)
        wait_for(
            lambda: any("steady is started as it was before: an app.yaml is wrong" in each for each in said)
        )


def wait_for(condition: Callable[[], bool], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_what_dies_is_started_again_and_all_stop_in_reverse_order(tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    program = f"""
        def end(*_):
            with open({str(stopped)!r}, 'a') as file:
                file.write(pathlib.Path(sys.argv[1]).stem + chr(10))
            os._exit(0)
        signal.signal(signal.SIGTERM, end)
    """
    program = textwrap.dedent(program) + SERVE
    said: list[str] = []
    children = [child(tmp_path, name, program) for name in ("first", "second")]
    with Supervisor(children, environment=os.environ, say=said.append) as supervisor:
        assert supervisor.wait_until_ready()
        before = supervisor.pid("first")
        assert before is not None
        os.kill(before, signal.SIGKILL)
        (tmp_path / "first.pid").unlink()
        wait_for(lambda: "first is back" in said)
        after = supervisor.pid("first")
        assert after is not None
        assert after != before
    assert "first ended (killed by SIGKILL); starting it again in 0.5 s" in said[0]
    assert stopped.read_text().split() == ["second", "first"]
    assert gone(after)


def test_what_hangs_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isocenter.stack.supervisor._LOOK_EVERY_S", 0.1)
    serves = tmp_path / "hangs.pid"
    said: list[str] = []
    hangs = child(tmp_path, "hangs", SERVE, looks_before_restart=3)
    with Supervisor([hangs], environment=os.environ, say=said.append) as supervisor:
        assert supervisor.wait_until_ready()
        before = supervisor.pid("hangs")
        assert before is not None
        serves.rename(tmp_path / "away")  # once: a busy moment
        time.sleep(0.1)
        (tmp_path / "away").rename(serves)
        time.sleep(0.5)
        assert supervisor.pid("hangs") == before
        serves.unlink()
        wait_for(lambda: "hangs is back" in said)
        assert supervisor.pid("hangs") != before
    assert gone(before)
    assert said[0].startswith(
        "hangs does not serve any more: hangs has not written its number; starting it again"
    )


def test_no_room_to_start_again_is_told_and_tried_later(tmp_path: Path) -> None:
    said: list[str] = []
    lacks = child(tmp_path, "lacks", SERVE, log=tmp_path / "logs" / "lacks.log")
    with Supervisor([lacks], environment=os.environ, say=said.append) as supervisor:
        assert supervisor.wait_until_ready()
        (tmp_path / "logs").rename(tmp_path / "kept")
        (tmp_path / "logs").write_text("in the way of the folder")
        pid = supervisor.pid("lacks")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: any("lacks can not be started: File exists" in each for each in said))
        assert supervisor.failure is None
        (tmp_path / "logs").unlink()
        wait_for(lambda: "lacks is back" in said)


def test_a_log_that_has_grown_is_put_aside_when_its_child_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isocenter.stack.supervisor._LOG_BYTES", 10)
    log, aside = tmp_path / "speaks.log", tmp_path / "speaks.log.1"
    log.write_text("of long ago: much\n")
    aside.write_text("of longer ago\n")
    said: list[str] = []
    speaks = child(tmp_path, "speaks", "print('new', flush=True)" + SERVE)
    with Supervisor([speaks], environment=os.environ, say=said.append) as supervisor:
        assert supervisor.wait_until_ready()
        assert (log.read_text(), aside.read_text()) == ("new\n", "of long ago: much\n")
        pid = supervisor.pid("speaks")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: log.read_text() == "new\nnew\n")  # 4 bytes are few
    assert sorted(each.name for each in tmp_path.glob("*.log*")) == ["speaks.log", "speaks.log.1"]


def test_a_child_that_ends_while_starting_is_told_with_its_last_words(tmp_path: Path) -> None:
    good = child(tmp_path, "good", SERVE)
    bad = child(tmp_path, "bad", "print('no such licence'); sys.exit(3)")
    with (
        Supervisor([good, bad], environment=os.environ, say=print) as supervisor,
        pytest.raises(Unavailable, match=r"(?s)bad ended while starting \(exit code 3\).*no such licence"),
    ):
        supervisor.wait_until_ready()
    if (tmp_path / "good.pid").exists():
        assert gone(int((tmp_path / "good.pid").read_text()))


def test_a_child_that_never_gets_ready_is_told_with_what_it_lacks(tmp_path: Path) -> None:
    slow = child(tmp_path, "slow", "time.sleep(600)", ready_within_s=0.3)
    with (
        Supervisor([slow], environment=os.environ, say=print) as supervisor,
        pytest.raises(Unavailable, match=r"slow did not get ready within 0.3 s: slow has not written"),
    ):
        supervisor.wait_until_ready()


def test_a_child_that_does_not_listen_is_killed_with_what_it_started(tmp_path: Path) -> None:
    program = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        below = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
        pathlib.Path(sys.argv[1] + '.below').write_text(str(below.pid))
    """
    deaf = child(tmp_path, "deaf", textwrap.dedent(program) + SERVE, stop_within_s=0.2)
    with Supervisor([deaf], environment=os.environ, say=print) as supervisor:
        supervisor.wait_until_ready()
        pid = supervisor.pid("deaf")
    assert pid is not None
    assert gone(pid)
    below = int((tmp_path / "deaf.pid.below").read_text())
    wait_for(lambda: gone(below))


def test_nothing_is_left_when_the_supervisor_itself_is_killed(tmp_path: Path) -> None:
    program = f"""
        import os, pathlib, sys, time
        from isocenter.stack.child import Child
        from isocenter.stack.supervisor import Supervisor
        folder = pathlib.Path({str(tmp_path)!r})
        argv = (sys.executable, "-c", {"import os, pathlib, sys, time" + SERVE!r}, str(folder / "a.pid"))
        ready = lambda: None if (folder / "a.pid").exists() else "no"
        child = Child("a", argv, {{}}, folder / "a.log", ready, "a")
        with Supervisor([child], environment=os.environ, say=print) as supervisor:
            supervisor.wait_until_ready()
            (folder / "ready").touch()
            time.sleep(600)
    """
    supervisor = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    wait_for((tmp_path / "ready").exists)
    supervisor.kill()
    supervisor.wait()
    pid = int((tmp_path / "a.pid").read_text())
    wait_for(lambda: gone(pid))


def test_a_port_in_use_is_named_with_its_setting_and_can_be_moved_past() -> None:
    taken = free_port()
    settings = Settings(
        gateway={"port": free_port()},
        orthanc={"http_port": taken, "dicom_port": free_port()},
        triton={"url": "127.0.0.1:8001"},
    )
    with socket.socket() as other:
        other.bind(("127.0.0.1", taken))
        other.listen()
        with pytest.raises(
            ConfigurationError,
            match=rf"port {taken} is in use .* orthanc.http_port .* ISOCENTER_ORTHANC__HTTP_PORT",
        ):
            ports.require_free(ports.needed(settings))
        moved = ports.moved(settings)
        assert moved.orthanc.http_port > taken
        assert moved.gateway.port == settings.gateway.port
        ports.require_free(ports.needed(moved))
    ports.require_free(ports.needed(settings))


def test_who_only_asks_keeps_no_stack_from_starting(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    with exclusively(settings):
        pass
    with (tmp_path / "run" / "lock").open() as asked:
        fcntl.flock(asked, fcntl.LOCK_SH)
        threading.Timer(0.1, fcntl.flock, [asked, fcntl.LOCK_UN]).start()
        with exclusively(settings):
            pass


def test_one_stack_on_a_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(data_dir=tmp_path, orthanc={"username": "u", "password": "hidden"})
    assert running(settings) is None
    with exclusively(settings):
        file = write(settings)
        assert file.stat().st_mode & 0o077 == 0
        monkeypatch.setenv("ISOCENTER_ORTHANC__HTTP_PORT", "1")
        found = running(settings)
        assert found is not None
        assert found.orthanc.http_port == settings.orthanc.http_port
        assert found.orthanc.password is not None
        assert found.orthanc.password.get_secret_value() == "hidden"
        with (
            pytest.raises(ConfigurationError, match=f"another isocenter \\(process {os.getpid()}\\) runs on"),
            exclusively(settings),
        ):
            pass
    assert running(settings) is None
