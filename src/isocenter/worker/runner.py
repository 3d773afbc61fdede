"""Runs one installed application once: the only way in which anything of the service starts a graph."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from isocenter.surprise import where
from isocenter_operators.errors import ConfigurationError, IsocenterError, OutOfMemory, StorageFull
from isocenter_operators.frames import empty_frames
from isocenter_operators.manifest import AppManifest
from isocenter_operators.run import Outcome, Run, StoredInstance
from isocenter_operators.sdk_core import import_sdk_core

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["as_json", "load", "run", "stored_as_json", "translated"]


def load(app: AppManifest) -> ModuleType:
    """The application's `app.py`, imported once in a process. Raises ConfigurationError."""
    file = app.folder / "app.py"
    # Of its folder, not of its name alone: another one's application would answer for it, and nobody would see.
    name = f"isocenter_app_{app.name}_{hashlib.sha256(str(app.folder).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.exists():
        raise ConfigurationError(f"{app.folder}: an application needs an app.py", path=str(app.folder))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        import_sdk_core()
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigurationError(
            f"{file} can not be imported: {type(error).__name__}: {error}", path=str(file)
        ) from error
    if not callable(getattr(module, "application", None)):
        del sys.modules[name]
        raise ConfigurationError(f"{file} has no function `application(task)`", path=str(file))
    return module


def run(app: AppManifest, task: Run) -> Outcome:
    """Run the graph of `app` once. Whatever goes wrong arrives as an IsocenterError with a reason."""
    module = load(app)
    try:
        outcome: Outcome = _application(app, module, task).execute()
    except IsocenterError as error:
        empty_frames(error)
        raise
    except Exception as error:
        empty_frames(error)
        raise translated(app, error) from error
    if outcome.status == "done" and not outcome.results:
        # An interrupted graph ends without an error.
        raise IsocenterError(f"{app.name} {app.version} ended without a result and without a reason")
    return outcome


def _application(app: AppManifest, module: ModuleType, task: Run) -> Any:
    """The application, ready to be executed. Raises ConfigurationError where it would see what it is not to see.

    Whoever names it keeps it, and all that its graph held, for as long as an error of it is kept.
    """
    made = module.application(task)
    if task.deidentification is not None:
        from isocenter_operators.application import Application

        if not isinstance(made, Application):  # whose source and sink hide who the patient is
            raise ConfigurationError(
                f"{app.name} {app.version} can not be run de-identified: it does not derive from "
                "isocenter_operators.application.Application; see deidentify of the route"
            )
    return made


def translated(app: AppManifest, error: Exception) -> IsocenterError:
    """What a person is told of an error that nobody foresaw.

    The error's own text is left out: it may quote a patient's data. Its place in the code is a beginning.
    """
    for cause in _causes(error):
        if isinstance(cause, IsocenterError):
            return cause
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
            return StorageFull("no room left on the disk while results were written; free some space")
        if isinstance(cause, MemoryError):
            return OutOfMemory(f"not enough memory for {app.name} on this study")
    return IsocenterError(f"{app.name} {app.version} ended unexpectedly: {where(error)}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome in plain values; a number that is not one becomes None, as JSON has no NaN."""
    return {
        "groups": [_plain(group) for group in outcome.groups],
        "notes": list(outcome.notes),
        "results": stored_as_json(outcome.results),
        "seconds": {name: round(value, 3) for name, value in outcome.seconds.items()},
    }


def stored_as_json(results: Sequence[StoredInstance]) -> list[dict[str, str]]:
    """Stored instances in plain values, without what is not known of them."""
    return [
        {name: str(value) for name, value in asdict(stored).items() if value is not None}
        for stored in results
    ]


def _plain(group: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _plain(value)
        if isinstance(value, Mapping)
        else None
        if isinstance(value, float) and not math.isfinite(value)
        else value
        for name, value in group.items()
    }
