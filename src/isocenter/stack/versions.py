"""The versions of one imported model, as a command changes what they are for: on disk, and in a server that runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from isocenter.bundles.installing import remove_version, versions_of
from isocenter.bundles.model_config import rewrite, with_instances, with_versions
from isocenter.catalog import Catalog
from isocenter.model_loading import LOAD_WITHIN_S
from isocenter.serving import Serving, Servings
from isocenter.settings import Settings
from isocenter.stack.running import running
from isocenter.worker.model_process import Server
from isocenter_operators.errors import ConfigurationError, InferenceUnavailable, IsocenterError, Unavailable
from isocenter_operators.inference.control import ModelControl, chooses_for_itself
from isocenter_operators.inference.triton import TritonClient
from isocenter_operators.manifest import AppManifest

__all__ = ["Change", "ModelVersions"]

_GONE_WITHIN_S = 60.0
_LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class Change:
    """What a command did. `live`: a server serves so now; `served` says from when on else. The memory is that of the
    model's processes on this machine, resident, in 2^20 bytes; None where none of them can be seen."""

    serving: Serving
    live: bool
    served: str
    seconds: float
    before_mb: int | None
    after_mb: int | None


class ModelVersions:
    """One model that an application asks for. Raises ConfigurationError where none does."""

    def __init__(self, settings: Settings, model: str) -> None:
        self.settings, self.model = settings, model
        apps = [app for app in Catalog.of(settings).sound() if model in app.models]
        if not apps:
            raise ConfigurationError(f"no application has a model {model!r}; see `isocenter models`")
        self.app: AppManifest = apps[0]
        self._servings = Servings(settings.data_dir)

    @property
    def folder(self) -> Path:
        """Of an imported model. Raises ConfigurationError for one that was not."""
        folder = self.settings.data_dir / "models" / self.model
        if not (folder / "config.pbtxt").is_file():
            raise ConfigurationError(
                f"{self.model!r} came with the installation: only versions of an imported model can be chosen between"
            )
        return folder

    @property
    def there(self) -> tuple[str, ...]:
        """The versions that were imported, in order."""
        return versions_of(self.settings.data_dir / "models" / self.model)

    @property
    def serving(self) -> Serving:
        return self._servings.of(self.model) or Serving(active=self.app.models[self.model])

    @property
    def live(self) -> bool:
        """Whether there is a server that can be told to load: that of a stack which runs here, or one elsewhere that
        lists the model, so that this folder is its repository. Raises Unavailable where that one can not be asked."""
        if self.settings.triton.embedded:
            return running(self.settings) is not None
        with TritonClient(self.settings.triton.endpoint, shared_memory=False) as client:
            return self.model in client.versions()

    def require(self, version: str) -> None:
        """Raises ConfigurationError, naming those that there are, where this one is none of them."""
        if self.folder and version not in self.there:
            raise ConfigurationError(
                f"there is no version {version} of {self.model}, only {', '.join(self.there)}; "
                "`isocenter models import BUNDLE --as-version` adds one"
            )

    def change(self, how: Callable[[Serving], Serving]) -> Change:
        """Give the versions other roles. New jobs go by them when all that have one serve, and not before.

        how: from the present roles to the others; what another command has changed meanwhile is among the present.

        What has no role any more is unloaded when its last call has ended. Raises ConfigurationError for a version that
        is not there, and Unavailable where one can not be loaded; then nothing is changed.
        """
        config = self.folder / "config.pbtxt"
        with self._servings.changing(self.model), self._measured() as measured:
            before, text = self.serving, config.read_text()
            after = how(before)
            for version in after.versions:
                self.require(version)
            both = sorted({*before.versions, *after.versions}, key=int)
            try:
                self._load(config, with_versions(text, both))
                self._require_served(after)
            except IsocenterError:
                rewrite(config, text)
                raise
            self._servings.write(self.model, after)
            self._load(config, with_versions(text, after.versions))
        return measured[0]

    def scale(self, count: int, gpus: Sequence[int] = ()) -> Change:
        """Have `count` processes of each version on each of these GPUs, or of those that Triton finds."""
        config = self.folder / "config.pbtxt"
        with self._servings.changing(self.model), self._measured() as measured:
            text = config.read_text()
            try:
                self._load(config, with_instances(text, count, gpus))
            except IsocenterError:
                rewrite(config, text)
                raise
        return measured[0]

    def take_out(self) -> Change:
        """Unload the model, in the server that runs and at its next start: its jobs wait."""
        with self._servings.changing(self.model), self._measured() as measured:
            after = self.serving.model_copy(update={"loaded": False})
            live = self.live  # where it can not be known, nothing is changed
            self._servings.write(self.model, after)  # before: else the supervisor, or a worker, would miss it
            told = live and self._tell(ModelControl.unload)
            if told:
                self._await_end()
        return self._as_told(measured[0], told)

    def put_back(self) -> Change:
        """Load what was taken out of service."""
        with self._servings.changing(self.model), self._measured() as measured:
            told = self.live and self._tell(ModelControl.load)
            self._servings.write(self.model, self.serving.model_copy(update={"loaded": True}))
        return self._as_told(measured[0], told)

    def remove(self, version: str) -> Change:
        """Delete a version. Raises ConfigurationError for one that has something to do, or that is not there, and
        Unavailable where a server that runs does not let go of it; then nothing is changed."""
        config = self.folder / "config.pbtxt"
        with self._servings.changing(self.model), self._measured() as measured:
            self.require(version)
            after = self.serving.without(version)
            self._load(config, with_versions(config.read_text(), after.versions))
            self._require_let_go(version)
            if self._servings.of(self.model) is not None:
                self._servings.write(self.model, after)
            remove_version(
                self.model,
                version,
                models=self.settings.data_dir / "models",
                apps=self.settings.imported_apps_dir,
            )
        return measured[0]

    def unload(self) -> None:
        """The model was deleted: the server, where it was `live`, shall not hold it any more. Raises Unavailable."""
        with self._control() as control:
            control.unload()

    def memory_mb(self) -> int | None:
        """What the model's processes hold; None where there are none here."""
        server = Server.running(self.settings) if self.settings.triton.embedded and self.live else None
        held = [_resident_mb(each.process) for each in (server.of(self.model) if server else ())]
        return sum(held) if held else None

    def _load(self, config: Path, text: str) -> None:
        """Where the server goes on as it is, it is not asked to do anything: what one elsewhere has is not known."""
        changed = rewrite(config, text) or not self.settings.triton.embedded
        if changed and self.serving.loaded and self.live:
            self._tell(ModelControl.load)  # whether it serves a version is asked then
            self._await_end()

    def _tell(self, do: Callable[[ModelControl], None]) -> bool:
        """Whether the server does as it is told: one may choose for itself what it loads."""
        try:
            with self._control() as control:
                do(control)
        except InferenceUnavailable as error:
            if not chooses_for_itself(error):
                raise
            return False
        return True

    def _as_told(self, change: Change, told: bool) -> Change:
        return change if told else replace(change, live=False, served=self._served(live=False))

    def _require_served(self, after: Serving) -> None:
        if self.settings.triton.embedded and not (self.live and self.serving.loaded):
            return  # they are loaded at the next start
        with TritonClient(self.settings.triton.endpoint, shared_memory=False) as client:
            for version in after.versions:
                reason = client.why_not_ready(self.model, version)
                if reason is None:
                    continue
                what = "restart `isocenter up`, which was started before the model was imported"
                if not self.settings.triton.embedded:
                    what = (
                        f"load it there first: its repository is another than {self.folder.parent}, or it chooses for "
                        "itself what it loads"
                    )
                raise InferenceUnavailable(f"{reason}; {what}", model=self.model, version=version)

    def _require_let_go(self, version: str) -> None:
        if not self.live:
            return
        with TritonClient(self.settings.triton.endpoint, shared_memory=False) as client:
            if client.ready(self.model, version):
                remedy = "restart `isocenter up`"
                if not self.settings.triton.embedded:
                    remedy = f"unload it there, at {self.settings.triton.endpoint}"
                raise InferenceUnavailable(
                    f"Triton has version {version} of {self.model} loaded, which has nothing to do: {remedy}, and "
                    "remove it then",
                    model=self.model,
                    version=version,
                )

    def _control(self) -> ModelControl:
        return ModelControl(self.settings.triton.endpoint, self.model, load_within_s=LOAD_WITHIN_S)

    def _await_end(self) -> None:
        """Until the processes of what was unloaded have ended, which takes Triton some seconds."""
        server = Server.running(self.settings)
        give_up = time.monotonic() + _GONE_WITHIN_S
        while server is not None and time.monotonic() < give_up:
            with TritonClient(self.settings.triton.endpoint, shared_memory=False) as client:
                ready = [version for version in self._loadable() if client.ready(self.model, version)]
            with self._control() as control:
                wanted = len(ready) * control.instances() if ready else 0
            if len(server.of(self.model)) <= wanted:
                return
            time.sleep(_LOOK_EVERY_S)

    def _loadable(self) -> Sequence[str]:
        return self.there or (self.app.models[self.model],)

    @contextmanager
    def _measured(self) -> Iterator[list[Change]]:
        made: list[Change] = []
        begun, before_mb = time.monotonic(), self.memory_mb()
        yield made
        try:
            live, served = self.live, None
        except Unavailable as error:  # the change is made all the same
            live, served = False, f"so when Triton answers again ({error})"
        made.append(
            Change(
                serving=self.serving,
                live=live,
                served=served or self._served(live=live),
                seconds=round(time.monotonic() - begun, 2),
                before_mb=before_mb,
                after_mb=self.memory_mb() if before_mb is not None or live else None,
            )
        )

    def _served(self, *, live: bool) -> str:
        if live:
            return "so now"
        if self.settings.triton.embedded:
            return "so when `isocenter up` is started the next time"
        return (
            f"as Triton at {self.settings.triton.endpoint} has it loaded, which is not told: its repository is "
            "another, or it chooses for itself what it loads"
        )


def _resident_mb(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss) >> 20
    except psutil.Error:
        return 0
