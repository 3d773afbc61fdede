"""Which versions of a model are in use, and for what: the active one, the one before it, a shadow, a canary.

Only models of which somebody has changed that have a file here; of every other one `app.yaml` names the version.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self, TextIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from isocenter_operators.errors import ConfigurationError

__all__ = ["Canary", "Role", "Serving", "Servings"]

Role = Literal["active", "before", "shadow", "canary"]

_VERSION = "^[1-9][0-9]{0,8}$"  # as Triton names a version's folder
_POINTS = 10_000  # a share is told to a hundredth of a percent
_CALLED: dict[Role, str] = {"active": "the active one", "before": "the one that a rollback makes active"}
_MOST_REMEMBERED = 20  # versions to roll back to
_LOOK_EVERY_S = 0.2


class Canary(BaseModel):
    """A version that does the work of some studies. `share_percent`: of how many, 0 to 100."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str = Field(pattern=_VERSION)
    share_percent: float = Field(ge=0, le=100)


class Serving(BaseModel):
    """`earlier`: the versions that were active before, in order. `keeps_earlier`: whether the last of them is kept
    loaded, so that what was begun with it ends with it. `loaded`: False while the model is out of service."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    active: str = Field(pattern=_VERSION)
    earlier: tuple[str, ...] = ()
    keeps_earlier: bool = True
    shadow: str | None = Field(default=None, pattern=_VERSION)
    canary: Canary | None = None
    loaded: bool = True

    @model_validator(mode="after")
    def _roles_differ(self) -> Self:
        others = [each for each in (self.shadow, self.canary and self.canary.version) if each]
        if self.active in others or len(set(others)) != len(others):
            raise ValueError("active, shadow and canary are to be different versions")
        return self

    @property
    def before(self) -> str | None:
        """The version that a rollback makes active."""
        return self.earlier[-1] if self.earlier else None

    @property
    def answering(self) -> frozenset[str]:
        """The versions whose results are shown: a job that was made for one of them is done with it."""
        kept = self.before if self.keeps_earlier else None
        canary = self.canary.version if self.canary else None
        return frozenset(each for each in (self.active, kept, canary) if each)

    @property
    def versions(self) -> tuple[str, ...]:
        """All that the inference server has to have loaded, in the order of their numbers."""
        return tuple(sorted(self.answering | ({self.shadow} if self.shadow else set()), key=int))

    def roles(self, version: str) -> tuple[Role, ...]:
        held: dict[Role, str | None] = {
            "active": self.active,
            "before": self.before,
            "shadow": self.shadow,
            "canary": self.canary.version if self.canary else None,
        }
        return tuple(role for role, holder in held.items() if holder == version)

    def version_for(self, model: str, study_uid: str) -> str:
        """The version that does a study's work: always the same one, as long as the roles and the share are.

        A share that grows takes studies in and lets none go.
        """
        if self.canary is None or _point_of(model, study_uid) >= self.canary.share_percent / 100 * _POINTS:
            return self.active
        return self.canary.version

    def promoted(self, version: str) -> Serving:
        """With this version active. Raises ConfigurationError where it is so already."""
        if version == self.active:
            raise ConfigurationError(f"version {version} is the active one already")
        others = {"shadow": None} if self.shadow == version else {}
        if self.canary is not None and self.canary.version == version:
            others["canary"] = None
        earlier = (*(each for each in self.earlier if each != version), self.active)[-_MOST_REMEMBERED:]
        return self.model_copy(
            update={"active": version, "earlier": earlier, "keeps_earlier": True, **others}
        )

    def rolled_back(self) -> Serving:
        """With the version active that was so before; the present one then has no role any more.

        Raises ConfigurationError where there is none.
        """
        if self.before is None:
            raise ConfigurationError(
                f"version {self.active} is the first that was active: there is none to go back to; "
                "`isocenter models promote` takes any version"
            )
        back = self.promoted(self.before)
        return back.model_copy(update={"earlier": self.earlier[:-1]})

    def with_shadow(self, version: str | None) -> Serving:
        """Raises ConfigurationError where the version has another role."""
        if version is not None:
            self._require_free(version, "shadow")
        return self.model_copy(update={"shadow": version})

    def with_canary(self, canary: Canary | None) -> Serving:
        """Raises ConfigurationError where the version has another role."""
        if canary is not None:
            self._require_free(canary.version, "canary")
        return self.model_copy(update={"canary": canary})

    def without(self, version: str) -> Serving:
        """With no thought of a version that is to be deleted. Raises ConfigurationError where it has something to do:
        the one before the active one has, as long as it is kept, since a rollback needs it."""
        kept = self.answering | ({self.shadow} if self.shadow else set())
        if version in kept:
            roles = " and ".join(_CALLED.get(role, f"the {role}") for role in self.roles(version))
            raise ConfigurationError(f"version {version} is {roles}: {self._freed(version)}")
        return self.model_copy(update={"earlier": tuple(each for each in self.earlier if each != version)})

    def _freed(self, version: str) -> str:
        """What takes a version its role."""
        role = self.roles(version)[-1]
        if role == "active":
            return "`isocenter models promote NAME` another one first"
        if role == "before":
            return f"`isocenter models unload NAME --version {version}` does without it, and so without that rollback"
        return f"`isocenter models {role} NAME off` first"

    def _require_free(self, version: str, wanted: Role) -> None:
        others = [role for role in self.roles(version) if role not in ("before", wanted)]
        if others:
            raise ConfigurationError(
                f"version {version} is the {others[0]}"
                + ("" if others[0] == "active" else f": `isocenter models {others[0]} NAME off` first")
            )


class Servings:
    """The files of all models, `serving/<model>.json` in the data folder: each written whole, or not at all."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "serving"

    def of(self, model: str) -> Serving | None:
        """None where nobody has changed anything. Raises ConfigurationError for a file that can not be used."""
        file = self._file(model)
        try:
            return Serving.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise ConfigurationError(f"{file}: can not be used: {error}", path=str(file)) from error

    def write(self, model: str, serving: Serving) -> None:
        """Raises ConfigurationError where it can not be written; then the file is as it was."""
        file = self._file(model)
        part = self._folder / f".{file.name}.part"  # of one command at a time, see `changing`
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with part.open("w") as content:
                content.write(serving.model_dump_json(indent=2) + "\n")
                content.flush()
                os.fsync(content.fileno())
            part.replace(file)
        except OSError as error:
            raise ConfigurationError(
                f"{file}: can not be written: {error.strerror}", path=str(file)
            ) from error

    def forget(self, model: str) -> None:
        self._file(model).unlink(missing_ok=True)

    @contextmanager
    def changing(self, model: str, *, waits: bool = False) -> Iterator[None]:
        """One command at a time changes what a model's versions are for. Raises ConfigurationError for a second one,
        unless that `waits` until the first has ended."""
        with self._lock(model) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise ConfigurationError(
                    f"another command changes the versions of {model} just now: wait until it has ended"
                ) from error
            yield

    @contextmanager
    def loading(self, model: str, within_s: float) -> Iterator[None]:
        """One process at a time has the model loaded; after that, another looks again whether it still has to.

        It waits for so long and no longer: the first one may be frozen.
        """
        give_up = time.monotonic() + within_s
        with self._lock(model, "loading") as lock:
            while not _taken(lock) and time.monotonic() < give_up:
                time.sleep(_LOOK_EVERY_S)
            yield

    def _lock(self, model: str, of: str = "lock") -> TextIO:
        file = self._folder / f"{model}.{of}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return file.open("w")
        except OSError as error:
            raise ConfigurationError(
                f"{file}: can not be written: {error.strerror}", path=str(file)
            ) from error

    def _file(self, model: str) -> Path:
        return self._folder / f"{model}.json"


def _taken(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _point_of(model: str, study_uid: str) -> int:
    """Where a study lies among so many points, all equally likely: by its UID alone, for each model another one."""
    digest = hashlib.sha256(f"{model}/{study_uid}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % _POINTS
