"""Imported models on a Triton elsewhere (`triton.url`), which may have the folder they lie in as a repository.

The embedded server is started with all of them. One elsewhere is started with those that its command names, so it is
told to load the others, as long as it lists them: docker/compose.yaml gives it the volume that imports go to.

Of a model that it does not serve yet Triton loads all versions or none. A shadow that can not be loaded any more, since
its weights are gone, is to keep nobody from the others: it is switched off, as one that hangs again and again is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from isocenter.bundles.model_config import rewrite, with_versions
from isocenter.hung_shadows import Hang, HungShadows
from isocenter.serving import Servings
from isocenter.settings import Settings
from isocenter_operators.errors import ConfigurationError, DeadlineExceeded, InferenceUnavailable

if TYPE_CHECKING:
    from isocenter_operators.inference.triton import TritonClient

__all__ = ["LOAD_WITHIN_S", "failed_shadow_switched_off", "load_missing"]

log = logging.getLogger(__name__)

LOAD_WITHIN_S = 600.0
_LET_GO_WITHIN_S = 60.0
_LOOK_EVERY_S = 0.1


def load_missing(settings: Settings, models: Mapping[str, str]) -> None:
    """Have those of these models (version by name) loaded that are to be in service, were imported here, and are in the
    repository of a Triton elsewhere that does not serve them; returns when it does.

    Does nothing about any other. Raises InferenceUnavailable where it refuses, can not be asked or says nothing, and
    ConfigurationError where it is not known whether a model is to be in service.
    """
    if settings.triton.embedded:
        return
    imported = {
        model: version
        for model, version in models.items()
        if (settings.data_dir / "models" / model / "config.pbtxt").is_file()
    }
    if not imported:
        return
    try:
        _load_missing(settings, imported)
    except DeadlineExceeded as error:
        # No call of the model's, which could be stuck in it: nothing is to be ended there.
        raise InferenceUnavailable(str(error), model=error.model) from error


def failed_shadow_switched_off(settings: Settings, client: TritonClient, model: str) -> bool:
    """Whether it was a shadow that kept the other versions of the model out: it is none any more, which is told where
    hung shadows are, and the model can be loaded without it.

    Raises InferenceUnavailable as `TritonClient.states` does, DeadlineExceeded too.
    """
    servings = Servings(settings.data_dir)
    config = settings.data_dir / "models" / model / "config.pbtxt"
    try:
        with servings.changing(model):
            serving = servings.of(model)
            if serving is None or serving.shadow is None or not serving.loaded:
                return False
            states = client.states(model)
            failed = {version for version in serving.versions if version in states and states[version].failed}
            after = serving.with_shadow(None)
            if (
                failed != {serving.shadow} or serving.shadow in after.versions
            ):  # which has another role besides
                return False
            hang = Hang(
                at=(time.time(),),
                how="could not be loaded",
                state="switched off",
                reason=states[serving.shadow].reason,
            )
            rewrite(config, with_versions(config.read_text(), after.versions))
            servings.write(model, after)
            HungShadows(settings.data_dir).write(model, serving.shadow, hang)
    except (ConfigurationError, OSError) as error:  # also where a command changes the versions just now
        log.warning("a shadow of %s that could not be loaded is left as it is: %s", model, error)
        return False
    log.warning("%s", hang.said(model, serving.shadow))
    _await_settled(client, model)
    return True


def _load_missing(settings: Settings, models: Mapping[str, str]) -> None:
    # Not above: what needs no model needs no gRPC either.
    from isocenter_operators.inference.triton import TritonClient

    servings = Servings(settings.data_dir)
    with TritonClient(settings.triton.endpoint, shared_memory=False) as client:

        def missing(model: str) -> bool:
            serving = servings.of(model)
            if (serving is not None and not serving.loaded) or client.ready(model, models[model]):
                return False
            return model in client.versions()

        for model in filter(missing, models):
            # Asked twice while it loads, Triton loads it twice, the second beside the first (2.51).
            with servings.loading(model, LOAD_WITHIN_S):
                if missing(model):
                    _load(settings, client, model, models[model])


def _load(settings: Settings, client: TritonClient, model: str, version: str) -> None:
    from isocenter_operators.inference.control import ModelControl, chooses_for_itself

    with ModelControl(settings.triton.endpoint, model, load_within_s=LOAD_WITHIN_S) as control:
        try:
            control.load()
        except InferenceUnavailable as error:
            reason = client.why_not_ready(model, version)
            if reason is None:  # another had it loaded meanwhile
                return
            if chooses_for_itself(error):
                raise InferenceUnavailable(f"{reason}; {error}", model=model) from error
            if not failed_shadow_switched_off(settings, client, model):
                raise
            control.load()


def _await_settled(client: TritonClient, model: str) -> None:
    """Told to load what it lets go of just then, Triton was seen to die of a signal 11 (2.51)."""
    give_up = time.monotonic() + _LET_GO_WITHIN_S
    while not all(state.settled for state in client.states(model).values()) and time.monotonic() < give_up:
        time.sleep(_LOOK_EVERY_S)
