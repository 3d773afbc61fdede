"""Imported models that Triton does not serve, though they are to be in service: loaded before they are asked.

The embedded server is started with all of them; what it could not load is tried again. One elsewhere (`triton.url`) is
started with those that its command names, so it is told to load the others, as long as it lists them:
docker/compose.yaml gives it the volume that imports go to.

Of a model that it does not serve yet Triton loads all versions or none. One that can not be loaded any more, a shadow
whose weights are gone, is to keep nobody from the active one: it is left out of the model's configuration then, and
comes back into it when somebody changes what versions are for, or asks for the model to be loaded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from isocenter.bundles.model_config import rewrite, with_versions
from isocenter.serving import Servings
from isocenter.settings import Settings
from isocenter_operators.errors import ConfigurationError, DeadlineExceeded, InferenceUnavailable

if TYPE_CHECKING:
    from isocenter_operators.inference.control import ModelControl
    from isocenter_operators.inference.triton import TritonClient

__all__ = ["LOAD_WITHIN_S", "await_settled", "left_out", "load_missing", "not_loaded", "require_served"]

log = logging.getLogger(__name__)

LOAD_WITHIN_S = 600.0
_LOOK_EVERY_S = 0.1


def load_missing(settings: Settings, models: Mapping[str, str]) -> None:
    """Have those of these models (version by name) loaded that are to be in service, were imported here, and are not
    served; returns when they are. Of the embedded Triton: those that it knows of. Of one elsewhere: those that it has
    in its repository.

    Does nothing about any other. Raises InferenceUnavailable where it refuses, can not be asked or says nothing, and
    ConfigurationError where it is not known whether a model is to be in service.
    """
    imported = {model: version for model, version in models.items() if _config(settings, model).is_file()}
    if not imported:
        return
    # Not above: what needs no model needs no gRPC either.
    from isocenter_operators.inference.triton import TritonClient

    try:
        with TritonClient(settings.triton.endpoint, shared_memory=False) as client:
            for model, version in imported.items():
                _load_missing(settings, client, model, version)
    except DeadlineExceeded as error:
        # No call of the model's, which could be stuck in it: nothing is to be ended there.
        raise InferenceUnavailable(str(error), model=error.model) from error


def require_served(settings: Settings, models: Mapping[str, str]) -> None:
    """Raises InferenceUnavailable, with the reason, for the first of these (version by name) that is not served."""
    from isocenter_operators.inference.triton import TritonClient

    with TritonClient(settings.triton.endpoint, shared_memory=False) as client:
        for model, version in models.items():
            if (reason := client.why_not_ready(model, version)) is not None:
                raise InferenceUnavailable(reason, model=model, version=version)


def not_loaded(settings: Settings, models: Iterable[str]) -> list[str]:
    """A sentence for each version of these models that has something to do and that Triton could not load.

    Raises IsocenterError where that can not be asked.
    """
    from isocenter_operators.inference.triton import TritonClient

    servings, told = Servings(settings.data_dir), list[str]()
    with TritonClient(settings.triton.endpoint, shared_memory=False, control_deadline_s=2.0) as client:
        for model in models:
            serving = servings.of(model)
            for version, state in client.states(model).items():
                if state.failed and (serving is None or version in serving.versions):
                    told.append(f"version {version} of the model {model} can not be loaded: {state.reason}")
    return told


def await_settled(client: TritonClient, model: str) -> None:
    """Until no version of the model is on its way in or out, or for ten minutes.

    Told to load what it lets go of just then, Triton was seen to die of a signal 11; and what it loads already it would
    load a second time, beside the first (2.51).
    """
    give_up = time.monotonic() + LOAD_WITHIN_S
    while not all(state.settled for state in client.states(model).values()) and time.monotonic() < give_up:
        time.sleep(_LOOK_EVERY_S)


def left_out(settings: Settings, client: TritonClient, model: str, version: str) -> dict[str, str]:
    """The versions that can not be loaded and keep this one out, each with its reason: the model's configuration names
    the others only from now on. Empty where that is of no use. Raises ConfigurationError where it can not be written.
    """
    serving = Servings(settings.data_dir).of(model)
    states = client.states(model)
    failed = (
        {}
        if serving is None
        else {
            each: states[each].reason for each in serving.versions if each in states and states[each].failed
        }
    )
    if serving is None or not failed or version in failed:
        return {}
    rest = [each for each in serving.versions if each not in failed]
    config = _config(settings, model)
    rewrite(config, with_versions(config.read_text(), rest))
    for each, reason in failed.items():
        log.warning("version %s of %s can not be loaded, and is left out: %s", each, model, reason)
    return failed


def _load_missing(settings: Settings, client: TritonClient, model: str, version: str) -> None:
    servings = Servings(settings.data_dir)

    def missing() -> bool:
        serving = servings.of(model)
        if (serving is not None and not serving.loaded) or client.ready(model, version):
            return False
        # The embedded one is started with all that there is to be: a version that it does not know of is in no role.
        states = client.states(model)
        return version in states if settings.triton.embedded else bool(states)

    if not missing():
        return
    with servings.loading(model, LOAD_WITHIN_S):
        await_settled(client, model)
        if missing():
            _require_worth_it(client, model, version)
            _load(settings, client, model, version)


def _require_worth_it(client: TritonClient, model: str, version: str) -> None:
    """Each try would load the versions that serve a second time, and the next job of this one comes soon."""
    states = client.states(model)
    known = states.get(version)
    if known is not None and known.failed and any(state.ready for state in states.values()):
        raise InferenceUnavailable(
            f"version {version} of the model {model} can not be loaded: {known.reason}; "
            f"`isocenter models load {model}` tries it again",
            model=model,
            version=version,
        )


def _load(settings: Settings, client: TritonClient, model: str, version: str) -> None:
    from isocenter_operators.inference.control import ModelControl, chooses_for_itself

    with ModelControl(settings.triton.endpoint, model, load_within_s=LOAD_WITHIN_S) as control:
        if _loaded_without_failed(settings, client, control, version):  # as the server's start has shown
            return
        try:
            control.load()
        except InferenceUnavailable as error:
            reason = client.why_not_ready(model, version)
            if reason is None:  # another had it loaded meanwhile
                return
            if chooses_for_itself(error):
                raise InferenceUnavailable(f"{reason}; {error}", model=model) from error
            if not _loaded_without_failed(settings, client, control, version):
                raise


def _loaded_without_failed(
    settings: Settings, client: TritonClient, control: ModelControl, version: str
) -> bool:
    """Whether others kept this one out, and it is served without them now."""
    try:
        # So that nobody takes the model out of service, or gives its versions other roles, in the middle of this.
        with Servings(settings.data_dir).changing(control.model):
            serving = Servings(settings.data_dir).of(control.model)
            if serving is None or not serving.loaded:
                return False
            await_settled(client, control.model)
            if not left_out(settings, client, control.model, version):
                return False
            control.load()
            return True
    except ConfigurationError as error:
        raise InferenceUnavailable(str(error), model=control.model, version=version) from error


def _config(settings: Settings, model: str) -> Path:
    return settings.data_dir / "models" / model / "config.pbtxt"
