"""The watchdog: what hangs ends its process, also where it lets no Python run."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time

import pytest

HOLDS = "ctypes.PyDLL(None).sleep(30)"  # a call into C that keeps the interpreter's lock
LETS_GO = "ctypes.CDLL(None).sleep(30)"


def ran(program: str) -> tuple[int, str, float]:
    """How the program ended, what it wrote, and after how many seconds from when it was `ready`."""
    source = "import ctypes, threading, time\nfrom isocenter.worker import watchdog\n" + textwrap.dedent(
        program
    )
    with subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        began = time.monotonic()
        said = process.stderr.read()
        return process.wait(30), said, time.monotonic() - began


@pytest.mark.parametrize("call", [HOLDS, LETS_GO])
def test_a_call_that_hangs_ends_the_process(call: str) -> None:
    code, said, took_s = ran(f"""
        def hanging():
            patient = "Doe^Jane"
            {call}
        watchdog._GRACE_S = 0.5
        with watchdog.at_most(0.5):
            print("ready", flush=True)
            hanging()
    """)
    assert code == 1
    assert took_s < 10
    assert "in hanging" in said  # the log tells where
    assert "Doe" not in said
    assert ("a job has not ended after 0.5 s" in said) == (call == LETS_GO)


def test_a_worker_in_which_no_python_runs_ends_outside_a_job_too() -> None:
    code, said, took_s = ran(f"""
        watchdog._GRACE_S = 0.5
        def stirring():
            while True:
                watchdog.stir(2.0)
                time.sleep(0.2)
        threading.Thread(target=stirring, daemon=True).start()
        with watchdog.at_most(600):  # a job may
            ctypes.PyDLL(None).sleep(3)
        time.sleep(2.5)  # so may a worker that waits
        print("ready", flush=True)
        def hanging():
            {HOLDS}
        hanging()
    """)
    assert code == 1
    assert 1 < took_s < 15
    assert "in hanging" in said


def test_of_several_jobs_the_first_that_is_due_counts_and_one_that_ends_is_not_watched_any_more() -> None:
    code, said, took_s = ran(f"""
        watchdog._GRACE_S = 0.2
        def long():
            with watchdog.at_most(600):
                time.sleep(600)
        threading.Thread(target=long, daemon=True).start()
        with watchdog.at_most(0.3):
            pass
        with watchdog.at_most(0.3), watchdog.at_most(0.3):
            pass
        time.sleep(1.0)  # nothing is due
        print("ready", flush=True)
        with watchdog.at_most(0.3):
            {HOLDS}
    """)
    assert code == 1
    assert took_s < 10
    assert "Timeout" in said


def test_what_ends_in_time_is_left_alone() -> None:
    code, said, _ = ran("""
        watchdog._GRACE_S = 0.0
        print("ready", flush=True)
        for _ in range(3):
            with watchdog.at_most(0.2):
                time.sleep(0.05)
        time.sleep(0.5)
    """)
    assert (code, said) == (0, "")
