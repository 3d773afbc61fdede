"""A process that is started in advance: it waits, is let begin once, and its time counts from then."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from isocenter.maps import cgroup, execution
from isocenter.maps.execution import Command, Execution, execute
from isocenter.maps.limits import Limits
from isocenter.maps.standby import Standby
from isocenter_operators.dicom.results.standard_tables import load_tables
from isocenter_operators.standby import BEGIN, READY, VARIABLE

WAITS = f"import sys, time\nprint({READY!r}, flush=True)\nprint('told', sys.stdin.readline(), flush=True)\n"
Started = Callable[..., tuple[Standby, list[Execution]]]


@pytest.fixture
def start(tmp_path: Path) -> Started:
    """Runs a program from a thread of its own; what it came to is in the list, then."""

    def started(
        program: str,
        *,
        idle_s: float = 60,
        time_s: float | None = None,
        memory: int = 1 << 30,
        output: int | None = None,
        has_room: Callable[[int], bool] = lambda _: True,
    ) -> tuple[Standby, list[Execution]]:
        standby, done = Standby(idle_s, has_room), []
        written = None if output is None else tmp_path / "output"
        command = Command([sys.executable, "-c", program], tmp_path / "log", output=written, standby=standby)
        limits = Limits(memory=memory, cpu=1, shared_memory=1 << 20, time_s=time_s, output=output or 1 << 30)
        threading.Thread(target=lambda: done.append(execute(command, limits))).start()
        return standby, done

    return started


def _ended(done: list[Execution]) -> Execution:
    deadline = time.monotonic() + 20
    while not done:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return done[0]


def test_it_begins_when_it_is_told_and_its_time_counts_from_then(start: Started) -> None:
    standby, done = start(WAITS, time_s=0.6)
    assert standby.wait("starting", 20) == "ready"
    time.sleep(1)
    assert not done
    assert standby.claim()
    assert standby.begin()
    execution = _ended(done)
    assert (execution.ending, execution.exit_code) == ("ended", 0)
    assert execution.seconds < 0.6
    assert f"told {BEGIN}" in execution.tail
    assert not standby.begin()  # once


def test_once_begun_its_time_is_limited(start: Started) -> None:
    standby, done = start(f"{WAITS}time.sleep(60)\n", time_s=0.3)
    standby.wait("starting", 20)
    assert standby.begin()
    assert _ended(done).ending == "timed out"


def test_what_is_not_ready_can_not_be_let_begin(start: Started) -> None:
    standby, done = start("import time\ntime.sleep(60)\n")
    assert not standby.begin()
    standby.end()
    assert _ended(done).ending == "never begun"


def test_it_is_ended_after_its_idle_time_unless_it_is_claimed(start: Started) -> None:
    standby, done = start(WAITS, idle_s=0.3)
    assert _ended(done).ending == "never begun"
    assert not standby.claim()
    standby, done = start(WAITS, idle_s=1.0)
    standby.wait("starting", 20)
    assert standby.claim()
    time.sleep(2.2)
    assert standby.begin()
    assert _ended(done).ending == "ended"


def test_one_that_dies_while_it_waits_is_no_run(start: Started) -> None:
    """Also where it says that all went well."""
    standby, done = start(f"print({READY!r}, flush=True)\n")
    assert _ended(done).ending == "never begun"
    assert not standby.claim()


def test_its_memory_is_watched_while_it_waits(
    start: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "_MOUNTS", tmp_path / "none")
    standby, done = start(f"held = bytearray(256 << 20)\n{WAITS}", memory=128 << 20)
    assert _ended(done).ending == "never begun"
    assert not standby.claim()


def test_what_it_writes_is_counted_while_it_waits(start: Started, tmp_path: Path) -> None:
    """Else it would have ten minutes to fill the disk."""
    (tmp_path / "output").mkdir()
    program = f"open({str(tmp_path / 'output' / 'a')!r}, 'wb').write(bytes(16 << 20))\n{WAITS}"
    standby, done = start(program, output=8 << 20)
    assert _ended(done).ending == "wrote too much"
    assert not standby.claim()


def test_it_is_ended_where_others_need_the_memory_unless_it_is_claimed(start: Started) -> None:
    for claimed, ending in ((False, "never begun"), (True, "ended")):
        room: list[bool] = []
        standby, done = start(WAITS, has_room=lambda _, room=room: not room)
        assert standby.wait("starting", 20) == "ready"
        assert not claimed or standby.claim()
        room.append(False)
        time.sleep(1.5)
        assert standby.begin() is claimed
        assert _ended(done).ending == ending


def test_where_all_memory_is_taken_it_is_the_first_to_go(start: Started) -> None:
    """By the kernel's own choice; whoever was let begin in it is run again."""
    asks = "import os\nprint('score', open('/proc/self/oom_score_adj').read(), flush=True)\n"
    standby, done = start(asks + WAITS)
    assert standby.wait("starting", 20) == "ready"
    assert standby.begin()
    assert "score 1000" in _ended(done).tail


def test_what_starts_as_its_starter_dies_ends_too(tmp_path: Path) -> None:
    """Before it could ask the kernel to be told of that."""
    words = [
        sys.executable,
        "-I",
        "-S",
        str(execution._LAUNCH),
        "1",
        "0",
        "--",
        "touch",
        str(tmp_path / "ran"),
    ]
    assert subprocess.run(words, check=False).returncode != 0
    assert not (tmp_path / "ran").exists()


def test_what_the_first_result_would_read_is_read_before() -> None:
    """As long as highdicom keeps it where it is looked for."""
    import highdicom  # noqa: F401
    from highdicom import _standard_utils

    load_tables()
    for each in ("get_iod_module_map", "get_module_attribute_map", "get_sop_class_iod_map"):
        assert getattr(_standard_utils, each).cache_info().currsize == 1


def test_nobody_waits_whose_environment_does_not_ask_for_it() -> None:
    program = "from isocenter_operators.standby import stand_by\nprint(stand_by(lambda: None))\n"
    for environment, said, told in (
        ({}, "", "True"),
        ({VARIABLE: "1"}, BEGIN, "True"),
        ({VARIABLE: "1"}, "", "False"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            input=said and f"{said}\n",
            capture_output=True,
            text=True,
            check=True,
        )
        assert (done.stdout.strip(), done.stderr.strip()) == (told, READY if environment else "")
