"""Ends a call of a model that does not end by itself, so that the next one is served.

Triton can not interrupt a call of a Python model: its client stops waiting, and the instance stays taken for ever. On
the embedded server the process of the model is interrupted, or killed where that does not help, and the model is
loaded again, with all its versions. Other models are not touched.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

from isocenter.catalog import Catalog
from isocenter.settings import Settings
from isocenter.worker.model_process import ModelProcess, Server
from isocenter_operators.errors import Unavailable
from isocenter_operators.inference.control import ModelControl
from isocenter_operators.inference.shared_memory import SHARED_MEMORY

__all__ = ["Found", "end_calls", "end_stuck_call"]

log = logging.getLogger("isocenter.worker")

_GRACE_S = 3.0  # in which a late call may still end by itself
_INTERRUPTED_WITHIN_S = 3.0
_LOOK_EVERY_S = 0.1
_DEADLINE_S = 300.0  # of a model that no installed application names


@dataclass(frozen=True)
class Found:
    """What was found and done, in one sentence. `at_work`: the model serves, and only had more to do than time."""

    said: str
    at_work: bool = False


def end_stuck_call(settings: Settings, model: str | None, version: str = "") -> Found:
    """Make `model` serve again after a call exceeded its deadline, or after its process died. Raises nothing foreseen.

    `version`: the one that was called; what others of the same model do says nothing about it.

    A model that has ended any call within the longest deadline of
    the applications that use it is at work, not stuck, and is left alone; so a call that began late, because it had to
    wait, gets as long as any other. Takes some seconds; one process of this machine does it at a time.
    """
    if model is None:
        return Found("it is not known which model was called, so nothing was ended")
    asked = time.time()
    with _one_at_a_time(settings), ModelControl(settings.triton.endpoint, model, version) as control:
        try:
            found = (
                _embedded(settings, control, asked)
                if settings.triton.embedded
                else _remote(settings, control)
            )
        except Unavailable as error:
            found = Found(f"the call could not be ended: {error}")
    log.warning("model %s: %s", model, found.said)
    return found


def _embedded(settings: Settings, control: ModelControl, asked: float) -> Found:
    model = control.model
    server = Server.running(settings)
    if server is None:
        return Found("Triton is not running on this machine, so no call is stuck there")
    instances = server.of(model, control.version)
    if len(instances) < control.instances():
        control.load_again()
        return Found(f"the process of model {model!r} had ended; it was loaded again")
    newest = max(each.process.create_time() for each in instances)
    if newest > asked:
        return Found(
            f"model {model!r} was loaded again meanwhile, for another job that had waited for the same call"
        )
    serving = _at_work(control, _longest_call_s(settings, model), since=newest)
    if serving is not None:
        return serving
    return Found(_restarted(server, control, instances))


def _remote(settings: Settings, control: ModelControl) -> Found:
    """The processes of another machine are out of reach. A model loaded again serves beside the call that is stuck."""
    where = f"Triton at {control.url}"
    serving = _at_work(control, _longest_call_s(settings, control.model), since=0.0)
    if serving is not None:
        return serving
    name = f"model {control.model!r} on {where}"
    try:
        control.load_again()
    except Unavailable as error:
        return Found(
            f"a call of {name} is stuck, and it could not be loaded again ({error}); restart that server"
        )
    return Found(
        f"{name} was loaded again; the call that is stuck keeps its memory there until that server is restarted"
    )


def _longest_call_s(settings: Settings, model: str) -> float:
    applications = Catalog.of(settings).sound()
    return max((app.deadline_s for app in applications if model in app.models), default=_DEADLINE_S)


def _at_work(control: ModelControl, longest_s: float, *, since: float) -> Found | None:
    """Why the model is not stuck; None when it is, also after a grace. `since`: when it was loaded, 0.0 unknown."""
    before = control.last_answered()
    quiet_s = time.time() - max(before, since)
    if quiet_s + _GRACE_S >= longest_s:
        if _within(_GRACE_S, lambda: control.last_answered() != before):
            return Found(f"model {control.model!r} has answered meanwhile, so no call was ended")
        quiet_s = time.time() - max(before, since)
    if quiet_s < longest_s:
        return Found(
            f"model {control.model!r} is at work, it ended a call or was loaded {quiet_s:.0f} s ago: none was ended",
            at_work=True,
        )
    return None


def _restarted(server: Server, control: ModelControl, instances: list[ModelProcess]) -> str:
    model = (
        f"{len(instances)} instances of model {control.model!r}"
        if len(instances) > 1
        else f"model {control.model!r}"
    )
    killed = end_calls(control, instances)  # before the loading, which may need the memory
    try:
        control.load_again()
    except Unavailable as error:
        server.process.kill()
        return f"a call of {model} was stuck; as it could not be loaded again ({error}), Triton was ended as a whole"
    if not _within(_INTERRUPTED_WITHIN_S, lambda: not any(each.lives for each in instances)):
        killed = True
        _kill(instances)
    left, free = server.abandoned_bytes(), shutil.disk_usage(SHARED_MEMORY).free
    if left > free:
        server.process.kill()
        return (
            f"a call of {model} was stuck; Triton was ended as a whole, because calls that were killed have left "
            f"{left / 1e6:.0f} MB in {SHARED_MEMORY}, where {free / 1e6:.0f} MB are free"
        )
    how = "killed" if killed else "interrupted"
    return f"a call of {model} was stuck: it was {how}, and the model was loaded again"


def end_calls(control: ModelControl, instances: list[ModelProcess]) -> bool:
    """Interrupt the calls of these processes, or kill these where that does not help. Whether they were killed.

    Either way they serve nobody any more: the model has to be loaded again. Raises InferenceUnavailable.
    """
    killed = not _interrupt(control, instances)
    if killed:
        _kill(instances)
    return killed


def _interrupt(control: ModelControl, instances: list[ModelProcess]) -> bool:
    """Have the calls end with an exception. False where that ends none: it hangs outside Python.

    It is the only way in which Triton gives back all that a call held.
    """
    before = control.last_answered()
    interrupted = [each.interrupt() for each in instances]
    return any(interrupted) and _within(_INTERRUPTED_WITHIN_S, lambda: control.last_answered() != before)


def _kill(instances: list[ModelProcess]) -> None:
    for each in instances:
        with suppress(psutil.NoSuchProcess):
            each.process.kill()


def _within(limit_s: float, true: Callable[[], bool]) -> bool:
    give_up = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > give_up:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True


@contextmanager
def _one_at_a_time(settings: Settings) -> Iterator[None]:
    """On this machine. Two jobs can have waited for the same call."""
    file = settings.data_dir / "run" / "stuck_model.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
