"""What a container's engine is told of the gateway and the worker in it."""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from ports import free_port

from isocenter.cli.main import main
from isocenter.settings import Settings
from isocenter.worker import presence, watchdog
from isocenter.worker.heartbeat import Heartbeat


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    return Settings.load()


def test_a_worker_is_well_from_its_announcement_to_its_end(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["healthcheck", "worker"]) == 1
    presence.announce(settings)
    assert main(["healthcheck", "worker"]) == 0
    assert main(["healthcheck", "worker", "--name", "another"]) == 1
    presence.withdraw(settings)
    assert main(["healthcheck", "worker"]) == 1
    assert "still loading" in capsys.readouterr().out


def test_what_an_earlier_life_of_the_same_number_has_left_is_not_believed(settings: Settings) -> None:
    presence.announce(settings)
    (file,) = (settings.data_dir / "run").iterdir()
    pid, started = file.read_text().split()
    file.write_text(f"{pid} {int(started) - 1}")
    assert presence.missing(settings) == "the worker has ended"
    file.write_text(pid)  # as an earlier release wrote it
    assert presence.missing(settings) is not None


def test_a_worker_that_was_killed_is_gone(settings: Settings) -> None:
    program = (
        "import sys; from isocenter.settings import Settings; from isocenter.worker import presence\n"
        "presence.announce(Settings()); print(flush=True); sys.stdin.read()"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ
    )
    assert worker.stdout is not None
    assert worker.stdin is not None
    worker.stdout.readline()
    assert presence.missing(settings) is None
    worker.kill()
    # Its parent has not asked yet how it ended: it is still listed, and works no more.
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    assert presence.missing(settings) == "the worker has ended"
    worker.wait()
    assert presence.missing(settings) == "the worker has ended"
    worker.stdin.close()
    worker.stdout.close()


BEATING = """
import ctypes, os, sys, threading, time
from isocenter.settings import Settings
from isocenter.worker import presence, watchdog
from isocenter.worker.heartbeat import Heartbeat
presence._SILENT_S = 2.0
settings = Settings()
threading.Thread(target=time.sleep, args=[600], name="queue-worker-isocenter", daemon=True).start()
presence.announce(settings)
Heartbeat(settings, ["isocenter"], beat_s=0.2).start()
"""


@contextmanager
def beating(then: str) -> Iterator[subprocess.Popen[str]]:
    """A worker's heartbeat, and what the process does after it has said that it beats."""
    program = f"{BEATING}\ntime.sleep(0.5)\nprint(flush=True)\n{then}"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=os.environ
    ) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        try:
            yield worker
        finally:
            worker.kill()


def seen_for(settings: Settings, seconds: float) -> set[str | None]:
    """All that is said of the worker in this time."""
    until, seen = time.monotonic() + seconds, set()
    while time.monotonic() < until:
        seen.add((presence.missing(settings) or "").partition(":")[0] or None)
        time.sleep(0.1)
    return seen


def test_a_worker_that_waits_or_whose_job_lets_nothing_run_is_well(settings: Settings) -> None:
    with beating("time.sleep(60)"):
        assert seen_for(settings, 4.0) == {None}
    in_job = (
        "with watchdog.at_most(600):\n"
        "    presence.beat(settings, watchdog.longest_s())\n"
        "    ctypes.PyDLL(None).sleep(30)"
    )
    with beating(in_job):
        assert seen_for(settings, 4.0) == {None}


@pytest.mark.parametrize("how", ["frozen", "holds the lock"])
def test_a_worker_that_hangs_outside_a_job_is_not_well(settings: Settings, how: str) -> None:
    with beating("ctypes.PyDLL(None).sleep(30)" if how == "holds the lock" else "time.sleep(60)") as worker:
        assert presence.missing(settings) is None
        if how == "frozen":
            worker.send_signal(signal.SIGSTOP)
        assert "the worker hangs" in seen_for(settings, 4.0)
        assert main(["healthcheck", "worker"]) == 1
        worker.send_signal(signal.SIGCONT)
        if how == "frozen":
            assert None in seen_for(settings, 2.0)


def test_a_worker_of_whose_queues_nobody_takes_jobs_is_not_well(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    presence.announce(settings)
    (file,) = (settings.data_dir / "run").iterdir()
    os.utime(file, (1.0, 1.0))
    ended = threading.Event()
    threading.Thread(target=ended.wait, name="queue-worker-isocenter", daemon=True).start()
    heartbeat = Heartbeat(settings, ["isocenter"])
    try:
        heartbeat.beat()
        assert presence.missing(settings) is None
        ended.set()
        for _ in range(200):
            if all(each.name != "queue-worker-isocenter" for each in threading.enumerate()):
                break
            time.sleep(0.05)
        heartbeat.beat()  # DBOS may be about to start another
        os.utime(file, (1.0, 1.0))
        heartbeat.beat()
        assert "the worker hangs" in str(presence.missing(settings))
        assert "nobody takes jobs from isocenter any more" in caplog.text
    finally:
        faulthandler.cancel_dump_traceback_later()
        watchdog._still_s.clear()


def test_the_gateway_is_asked_under_a_name_that_it_answers_to(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Host"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    port = free_port()
    monkeypatch.setenv("ISOCENTER_GATEWAY__HOST", "0.0.0.0")
    monkeypatch.setenv("ISOCENTER_GATEWAY__PORT", str(port))
    monkeypatch.setenv("ISOCENTER_GATEWAY__NAMES", '["isocenter.hospital"]')
    assert main(["healthcheck", "gateway"]) == 1
    with HTTPServer(("127.0.0.1", port), Gateway) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert main(["healthcheck", "gateway"]) == 0
    assert asked == [("/livez", "isocenter.hospital")]
