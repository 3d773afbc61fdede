"""Which starts of a worker belong together, wherever it runs."""

from __future__ import annotations

import os

import psutil
import pytest

from isocenter.worker.service import _life


def test_the_first_process_of_a_container_has_a_life_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent is 0, which is no process. When it is started again, its life is the same: its death counts."""
    monkeypatch.delenv("ISOCENTER_STACK", raising=False)
    of_a_child = _life()
    monkeypatch.setattr(os, "getppid", lambda: 0)
    with pytest.raises(psutil.NoSuchProcess):
        psutil.Process(os.getppid())
    assert _life() == _life() != of_a_child


def test_in_a_stack_nobody_asks_for_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask() -> int:
        raise AssertionError

    monkeypatch.setenv("ISOCENTER_STACK", "a stack")
    monkeypatch.setattr(os, "getppid", ask)
    assert _life() == "a stack"
