"""Imported models on a Triton elsewhere (`triton.url`), which may have the folder they lie in as a repository.

The embedded server is started with all of them. One elsewhere is started with those that its command names, so it is
told to load the others, as long as it lists them: docker/compose.yaml gives it the volume that imports go to.
"""

from __future__ import annotations

from collections.abc import Mapping

from isocenter.serving import Servings
from isocenter.settings import Settings
from isocenter_operators.errors import DeadlineExceeded, InferenceUnavailable

__all__ = ["LOAD_WITHIN_S", "load_missing"]

LOAD_WITHIN_S = 600.0


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


def _load_missing(settings: Settings, models: Mapping[str, str]) -> None:
    # Not above: what needs no model needs no gRPC either.
    from isocenter_operators.inference.control import ModelControl, chooses_for_itself
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
                if not missing(model):
                    continue
                try:
                    with ModelControl(
                        settings.triton.endpoint, model, load_within_s=LOAD_WITHIN_S
                    ) as control:
                        control.load()
                except InferenceUnavailable as error:
                    reason = client.why_not_ready(model, models[model])
                    if reason is None:  # another had it loaded meanwhile
                        continue
                    if chooses_for_itself(error):
                        raise InferenceUnavailable(f"{reason}; {error}", model=model) from error
                    raise
