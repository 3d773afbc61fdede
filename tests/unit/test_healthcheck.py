"""What a container's engine is told of the gateway and the worker in it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from isocenter.cli.main import main
from isocenter.settings import Settings
from isocenter.worker import presence


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


def test_the_gateway_is_asked_under_a_name_that_it_answers_to(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int]
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
