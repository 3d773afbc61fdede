"""A shadow whose call did not end, or whose process did: the version is loaded again, or switched off.

Whoever was left in the middle of a call serves nobody any more. Of a model that jobs ask, all versions are loaded again
at once, with a pause; nobody waits for a shadow, so that is done when no job runs, and the others go on serving.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from isocenter.bundles.model_config import rewrite, with_versions
from isocenter.hung_shadows import Hang, HungShadows
from isocenter.serving import Serving, Servings
from isocenter.settings import Settings
from isocenter.worker.model_process import Server
from isocenter.worker.stuck_model import end_calls
from isocenter_operators.errors import ConfigurationError, Unavailable
from isocenter_operators.inference.control import ModelControl

__all__ = ["HungShadow"]

log = logging.getLogger("isocenter.worker")

_LOAD_WITHIN_S = 600.0
_GONE_WITHIN_S = 60.0
_LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class HungShadow:
    """One version of a model that has an embedded server's processes, or is on another machine."""

    settings: Settings
    model: str
    version: str

    @property
    def refuses(self) -> bool:
        """Whether it was left in the middle of a call, and nobody has seen to that yet."""
        hang = self._hung.of(self.model, self.version)
        return hang is not None and hang.state == "refuses"

    def end_call(self) -> None:
        """Note that it hangs, and end its call. Raises Unavailable, and ConfigurationError if it can not be noted."""
        hang = self._hung.hung(self.model, self.version)
        if not self.settings.triton.embedded:
            reason = (
                f"the call may still go on in Triton at {self.settings.triton.endpoint.url}, whose calls nobody can "
                "end from here: load it there again"
            )
            self._hung.write(self.model, self.version, hang.model_copy(update={"reason": reason}))
            return
        server = Server.running(self.settings)
        instances = server.of(self.model, self.version) if server else []
        if instances:
            with ModelControl(self.settings.triton.endpoint, self.model, self.version) as control:
                killed = end_calls(control, instances)
            log.warning(
                "shadow version %s of %s: its call was %s",
                self.version,
                self.model,
                "killed" if killed else "interrupted",
            )

    def crashed(self) -> None:
        """Note that its process ended: the server does nothing about it by itself. Raises ConfigurationError."""
        self._hung.hung(self.model, self.version, "crashed")

    def see_to(self) -> None:
        """Load it again where it refuses every call, or switch it off where that was done often enough or can not be
        done. For a moment when no job runs. Where it can not be done now, it is logged, and left as it is."""
        hang = self._hung.of(self.model, self.version)
        if hang is None or not self.refuses:
            return
        servings = Servings(self.settings.data_dir)
        try:
            with servings.changing(self.model):
                serving = servings.of(self.model)
                if serving is None or serving.shadow != self.version:
                    return  # a person has switched it off meanwhile
                if not serving.loaded:
                    return  # a person has given its memory back: who loads the model again loads it anew
                seen_to = self._seen_to(servings, serving, hang)
                if seen_to != hang:
                    self._hung.write(self.model, self.version, seen_to)
                    log.warning("%s", seen_to.said(self.model, self.version))
        except (Unavailable, ConfigurationError) as error:
            log.warning("shadow version %s of %s is left as it is: %s", self.version, self.model, error)

    def look(self) -> None:
        """Note where it was loaded again by others: by a start of the stack, or because a job's call hung."""
        hang = self._hung.of(self.model, self.version)
        if hang is not None and hang.state == "refuses" and not self._refuses(hang):
            self._hung.write(self.model, self.version, hang.model_copy(update={"state": "loaded again"}))

    def _seen_to(self, servings: Servings, serving: Serving, hang: Hang) -> Hang:
        if hang.exhausted:
            return self._switched_off(servings, serving, hang, "")
        if not self.settings.triton.embedded:
            return hang
        if self._refuses(hang):
            try:
                self._load_again(serving)
            except _NotLoadable as error:
                return self._switched_off(servings, serving, hang, f"it could not be loaded again: {error}")
        return hang.model_copy(update={"state": "loaded again"})

    def _refuses(self, hang: Hang) -> bool:
        """Whether no process of it is newer than what happened. A newer server alone may serve without it."""
        since = hang.at[-1]
        server = Server.running(self.settings) if self.settings.triton.embedded else None
        if server is None:
            return True
        return not any(each.process.create_time() > since for each in server.of(self.model, self.version))

    def _load_again(self, serving: Serving) -> None:
        """Without it, and with it again. Raises Unavailable, and _NotLoadable where it was left out."""
        config = self._config
        text = config.read_text()
        # Who ended in the middle of this has left it out of the text, too.
        without, wanted = self._without(text, serving), with_versions(text, serving.versions)
        try:
            self._load(without)
            self._await_end()
        except Unavailable:
            rewrite(config, wanted)
            raise
        try:
            self._load(wanted)
        except Unavailable as error:
            try:
                self._load(without)
            except Unavailable:  # the server is away: nothing is known of the version
                rewrite(config, wanted)
                raise
            raise _NotLoadable(str(error)) from error

    def _switched_off(self, servings: Servings, serving: Serving, hang: Hang, reason: str) -> Hang:
        after = serving.with_shadow(None)
        servings.write(self.model, after)
        if self.settings.triton.embedded:
            text = self._config.read_text()
            try:
                self._load(self._without(text, serving))
                if self.version in after.versions:  # as the one before the active one is
                    self._await_end()
                    self._load(with_versions(text, after.versions))
            except Unavailable as error:  # the configuration holds at the next start
                log.warning("version %s of %s is still loaded: %s", self.version, self.model, error)
        return hang.model_copy(update={"state": "switched off", "reason": reason})

    def _without(self, text: str, serving: Serving) -> str:
        """The configuration with the versions beside it only."""
        return with_versions(text, sorted(set(serving.versions) - {self.version}, key=int))

    def _load(self, text: str) -> None:
        """Where the server goes on as it is, it is not asked to do anything."""
        if rewrite(self._config, text):
            with ModelControl(
                self.settings.triton.endpoint, self.model, load_within_s=_LOAD_WITHIN_S
            ) as control:
                control.load()

    def _await_end(self) -> None:
        """Until its processes have ended, which takes Triton some seconds."""
        server, give_up = Server.running(self.settings), time.monotonic() + _GONE_WITHIN_S
        while server is not None and server.of(self.model, self.version) and time.monotonic() < give_up:
            time.sleep(_LOOK_EVERY_S)

    @property
    def _config(self) -> Path:
        return self.settings.data_dir / "models" / self.model / "config.pbtxt"

    @property
    def _hung(self) -> HungShadows:
        return HungShadows(self.settings.data_dir)


class _NotLoadable(Exception):
    """The version does not load any more; the others serve without it."""
