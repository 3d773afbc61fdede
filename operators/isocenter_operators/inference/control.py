"""What one does to a model on Triton besides asking it: see when it last answered, load and unload it."""

from __future__ import annotations

from typing import Self

from tritonclient.utils import InferenceServerException

from isocenter_operators.errors import DeadlineExceeded, InferenceUnavailable, InputError
from isocenter_operators.inference.endpoint import Endpoint
from isocenter_operators.inference.request import first_line, translated

__all__ = ["ModelControl", "chooses_for_itself"]


def chooses_for_itself(error: InferenceUnavailable) -> bool:
    """Whether a server refuses because nobody tells it what to load: it looks again and again, or once at its start."""
    return "polling is enabled" in str(error)


class ModelControl:
    """One model on the Triton whose gRPC endpoint this is: an `Endpoint`, or its URL alone ("127.0.0.1:8001").

    `version`: which of its versions is asked about, where several are loaded; what is loaded and unloaded are all.

    Every method raises InferenceUnavailable when the server is away or refuses, and DeadlineExceeded when it says
    nothing within `deadline_s`, or `load_within_s` for loading.
    """

    def __init__(
        self,
        where: str | Endpoint,
        model: str,
        version: str = "",
        *,
        deadline_s: float = 5.0,
        load_within_s: float = 180.0,
    ) -> None:
        endpoint = Endpoint.of(where)
        self.url = endpoint.url
        self.model = model
        self.version = version
        self._deadline_s = deadline_s
        self._load_within_s = load_within_s
        self._server = endpoint.connected()

    def last_answered(self) -> float:
        """When the model last ended a call, in seconds since 1970 by the server's clock; 0.0 never since its loading.

        A call that ended with an error counts, one that was dropped from the queue does not.
        """
        try:
            found = self._server.get_inference_statistics(
                self.model, self.version, client_timeout=self._deadline_s
            )
        except InferenceServerException as error:
            raise translated(error, self.model, self.url, self._silent(self._deadline_s)) from error
        return max((each.last_inference for each in found.model_stats), default=0) / 1000  # from ms

    def instances(self) -> int:
        """How many calls of the model run side by side when all is well."""
        try:
            config = self._server.get_model_config(
                self.model, self.version, client_timeout=self._deadline_s
            ).config
        except InferenceServerException as error:
            raise translated(error, self.model, self.url, self._silent(self._deadline_s)) from error
        return sum(group.count * max(1, len(group.gpus)) for group in config.instance_group)

    def load_again(self) -> None:
        """Start the model anew; returns when it serves. Calls that run go on in the old one, which ends with the last.

        The server must run with explicit model control.
        """
        self.unload()
        self.load()

    def unload(self) -> None:
        """Take the model out of service. Its processes end, and give their memory back, with the last call."""
        try:
            self._server.unload_model(self.model, client_timeout=self._deadline_s)
        except InferenceServerException as error:
            raise translated(error, self.model, self.url, self._silent(self._deadline_s)) from error

    def load(self) -> None:
        """Load the versions that the model's configuration names now; returns when they serve.

        What is loaded already goes on serving until then, and when a version can not be loaded, after it.
        """
        try:
            self._server.load_model(self.model, client_timeout=self._load_within_s)
        except InferenceServerException as error:
            said = translated(error, self.model, self.url, self._silent(self._load_within_s))
            if isinstance(said, InputError):  # how Triton calls a model.py that fails
                said = InferenceUnavailable(
                    first_line(error.message() or "no reason given"), model=self.model
                )
            raise said from error

    def close(self) -> None:
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _silent(self, waited_s: float) -> DeadlineExceeded:
        return DeadlineExceeded(f"Triton at {self.url} said nothing within {waited_s:g} s", model=self.model)
