"""Shadows whose call did not end, whose process did, or that could not be loaded: told until somebody has seen to it.

`shadow/<model>/<version>/hang.json` in the data folder holds when it happened and how the version stands.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isocenter.serving import Servings
from isocenter_operators.errors import ConfigurationError

__all__ = ["LOADED_AGAIN_AT_MOST", "Hang", "HungShadows"]

log = logging.getLogger("isocenter.shadows")

LOADED_AGAIN_AT_MOST = 2  # times, by itself; each time a core was taken up to the deadline for nothing
_FILE = "hang.json"


class Hang(BaseModel):
    """`at`: each time since a person has switched the shadow on, in seconds since 1970, the last one last.

    `how`: it gave no answer by its deadline, its process ended, or it could not be loaded. `state`: "refuses" every
    call, as it was left in the middle of one; "loaded again" since; "switched off", it is no shadow any more. `reason`:
    what stands in the way of its being loaded again, "" where nothing does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: tuple[float, ...] = Field(min_length=1)
    how: Literal["hung", "crashed", "could not be loaded"] = "hung"
    state: Literal["refuses", "loaded again", "switched off"] = "refuses"
    reason: str = ""

    @property
    def exhausted(self) -> bool:
        """Whether it is not loaded again any more."""
        return len(self.at) > LOADED_AGAIN_AT_MOST

    def said(self, model: str, version: str) -> str:
        """What happened, and what to do."""
        when = f"{datetime.fromtimestamp(self.at[-1], UTC):%Y-%m-%d %H:%M:%S} UTC"
        if len(self.at) > 1:
            when += f" ({len(self.at)} times since it was switched on)"
        hung = f"shadow version {version} of {model} {self.how} at {when}"
        if self.state == "switched off":
            why = f" ({self.reason})" if self.reason else ""
            return (
                f"{hung}, and was switched off{why}: `isocenter models report {model}` names the studies, "
                f"`isocenter models shadow {model} {version}` tries it again"
            )
        if self.state == "loaded again":
            return f"{hung}, and was loaded again; after {LOADED_AGAIN_AT_MOST + 1} times it is switched off"
        now = self.reason or "it refuses every call, and is loaded again as soon as no job runs"
        return f"{hung}: {now}; `isocenter models shadow {model} off` does without it"


class HungShadows:
    """The files of all models. What can not be written is a ConfigurationError, naming it."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "shadow"
        self._servings = Servings(data_dir)

    def of(self, model: str, version: str) -> Hang | None:
        """None where it has not hung since it was switched on. A broken file counts as none, and is told."""
        file = self._folder / model / version / _FILE
        try:
            return Hang.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.warning("%s can not be read: %s", file, type(error).__name__)
            return None

    def write(self, model: str, version: str, hang: Hang) -> None:
        file = self._folder / model / version / _FILE
        part = file.with_name(f".{_FILE}.part")
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part.write_text(hang.model_dump_json(indent=2) + "\n")
            part.replace(file)
        except OSError as error:
            raise ConfigurationError(
                f"{file}: can not be written: {error.strerror}", path=str(file)
            ) from error

    def hung(self, model: str, version: str, how: Literal["hung", "crashed"] = "hung") -> Hang:
        """Note that it did so, now. One that was killed because it hung has not crashed besides."""
        before = self.of(model, version)
        if how == "crashed" and before is not None and before.state == "refuses":
            return before
        hang = Hang(at=(*(before.at if before else ()), time.time()), how=how)
        self.write(model, version, hang)
        return hang

    def forget(self, model: str, version: str) -> None:
        """A person has seen to it: it is counted anew."""
        (self._folder / model / version / _FILE).unlink(missing_ok=True)

    def all(self) -> Iterator[tuple[str, str, Hang]]:
        """Model, version and hang of each that still concerns somebody, in the order of their names.

        That are those of present shadows, and of versions that were switched off and have been given nothing to do.
        """
        for file in sorted(self._folder.glob(f"*/*/{_FILE}")):
            model, version = file.parent.parent.name, file.parent.name
            hang = self.of(model, version)
            if hang is None:
                continue
            try:
                serving = self._servings.of(model)
            except ConfigurationError:
                continue  # who asks for the model is told
            roles = serving.roles(version) if serving else ()
            if (roles in ((), ("before",))) if hang.state == "switched off" else ("shadow" in roles):
                yield model, version, hang

    def told(self) -> list[str]:
        return [hang.said(model, version) for model, version, hang in self.all()]
