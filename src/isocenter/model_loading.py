"""Imported models that Triton does not serve, though they are to be in service: loaded before they are asked.

The embedded server is started with all of them, and one that can not be loaded then is tried again by its next job. A
server elsewhere (`triton.url`) is started with those that its command names, so it is told to load the others, as long
as it lists them: docker/compose.yaml gives it the volume that imports go to.

Triton loads all versions of a model or none. A shadow whose weights are gone is to keep nobody from the active version:
what can be loaded is loaded without what can not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from isocenter.bundles.model_config import with_versions
from isocenter.serving import Servings
from isocenter.settings import Settings
from isocenter_operators.errors import DeadlineExceeded, InferenceUnavailable

if TYPE_CHECKING:
    from isocenter_operators.inference.triton import TritonClient

__all__ = ["LOAD_WITHIN_S", "load_missing", "not_loaded"]

log = logging.getLogger(__name__)

LOAD_WITHIN_S = 600.0
_LET_GO_WITHIN_S = 60.0
_LOOK_EVERY_S = 0.1


def load_missing(settings: Settings, models: Mapping[str, str]) -> None:
    """Have those of these models (version by name) loaded that are to be in service, were imported here, and are not
    served; returns when they are. Of the embedded Triton: those that it has tried to load. Of one elsewhere: those that
    it has in its repository.

    Does nothing about any other. Raises InferenceUnavailable where it refuses, can not be asked or says nothing, and
    ConfigurationError where it is not known whether a model is to be in service.
    """
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


def not_loaded(settings: Settings, models: Iterable[str]) -> list[str]:
    """A sentence for each version of these models that Triton could not load, with the reason.

    Raises IsocenterError where it can not be asked.
    """
    from isocenter_operators.inference.triton import TritonClient

    with TritonClient(settings.triton.endpoint, shared_memory=False, control_deadline_s=2.0) as client:
        return [
            f"version {version} of the model {model} can not be loaded: {reason}"
            for model in models
            for version, reason in client.failed(model).items()
        ]


def _load_missing(settings: Settings, models: Mapping[str, str]) -> None:
    # Not above: what needs no model needs no gRPC either.
    from isocenter_operators.inference.triton import TritonClient

    servings = Servings(settings.data_dir)
    with TritonClient(settings.triton.endpoint, shared_memory=False) as client:

        def missing(model: str) -> bool:
            serving = servings.of(model)
            if (serving is not None and not serving.loaded) or client.ready(model, models[model]):
                return False
            # The embedded one loads it by itself, and where it is being loaded, it is not to be loaded beside that.
            return bool(client.failed(model)) if settings.triton.embedded else model in client.versions()

        for model in filter(missing, models):
            # Asked twice while it loads, Triton loads it twice, the second beside the first (2.51).
            with servings.loading(model, LOAD_WITHIN_S):
                if missing(model):
                    _load(settings, client, model, models[model])


def _load(settings: Settings, client: TritonClient, model: str, version: str) -> None:
    from isocenter_operators.inference.control import ModelControl, chooses_for_itself

    config = (settings.data_dir / "models" / model / "config.pbtxt").read_text()
    with ModelControl(settings.triton.endpoint, model, load_within_s=LOAD_WITHIN_S) as control:
        try:
            control.load(config)
        except InferenceUnavailable as error:
            reason = client.why_not_ready(model, version)
            if reason is None:  # another had it loaded meanwhile
                return
            if chooses_for_itself(error):
                raise InferenceUnavailable(f"{reason}; {error}", model=model) from error
            failed, serving = client.failed(model), Servings(settings.data_dir).of(model)
            rest = [each for each in serving.versions if each not in failed] if serving is not None else []
            if not failed or version not in rest:  # it is this one itself that can not be loaded
                raise
            # Told to load what it lets go of just then, Triton was seen to die of a signal 11 (2.51).
            give_up = time.monotonic() + _LET_GO_WITHIN_S
            while client.unloading(model) and time.monotonic() < give_up:
                time.sleep(_LOOK_EVERY_S)
            control.load(with_versions(config, rest))
            for each, why in failed.items():
                log.warning("version %s of %s can not be loaded, the others are: %s", each, model, why)
