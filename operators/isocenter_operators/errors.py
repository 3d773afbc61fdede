"""Every error that Isocenter raises on purpose, as one tree.

    IsocenterError
    ├── NotApplicable             the input is sound, but not what this application is for
    ├── Cancelled                 nobody wants the result any more
    ├── InputError                what was given can not be used, and trying again will not help
    │   ├── UnreadableInput       no DICOM, a truncated file, a transfer syntax without a decoder
    │   └── GeometryError         the slices do not make one volume
    ├── InvalidResult             a result failed its own checks and was not stored
    ├── ConfigurationError        a setting is wrong; names the setting
    └── Unavailable               something this needs is away for now: worth another try
        ├── ArchiveUnavailable    Orthanc or another DICOMweb server
        ├── InferenceUnavailable  the inference server, or the model on it
        │   └── ModelCrashed      the model's process ended during a call
        ├── DeadlineExceeded      an answer did not come in time
        ├── OutOfMemory           the model or the graph did not have enough memory
        └── StorageFull           no room left on a disk

Each message says what was wrong, with which series or file, and what to do. It is written for a person
and never holds a patient's name, ID or birth date; UIDs are allowed.
"""

from __future__ import annotations

__all__ = [
    "ArchiveUnavailable",
    "Cancelled",
    "ConfigurationError",
    "DeadlineExceeded",
    "GeometryError",
    "InferenceUnavailable",
    "InputError",
    "InvalidResult",
    "IsocenterError",
    "ModelCrashed",
    "NotApplicable",
    "OutOfMemory",
    "StorageFull",
    "Unavailable",
    "UnreadableInput",
]


class IsocenterError(Exception):
    """The root. `series_uid`, `model`, its `version` and `path` name what was concerned, where that is known."""

    def __init__(
        self,
        message: str,
        *,
        series_uid: str | None = None,
        model: str | None = None,
        version: str | None = None,
        path: str | None = None,
    ) -> None:
        super().__init__(message)
        self.series_uid = series_uid
        self.model = model
        self.version = version
        self.path = path


class NotApplicable(IsocenterError):
    """The input is sound, but not what this application is for: an outcome, not a fault."""


class Cancelled(IsocenterError):
    """Nobody wants the result any more: the run stops before it stores anything."""


class InputError(IsocenterError):
    """What was given can not be used, and trying again will not help."""


class UnreadableInput(InputError):
    """No DICOM at all, a truncated file, or pixel data that no installed decoder reads."""


class GeometryError(InputError):
    """The slices do not make one regular volume."""


class InvalidResult(IsocenterError):
    """A result failed its own checks, so it was kept with the job and not stored."""


class ConfigurationError(IsocenterError):
    """A setting is wrong; the message names the setting."""


class Unavailable(IsocenterError):
    """Something this needs is away for now; the same work may succeed later."""


class ArchiveUnavailable(Unavailable):
    """Orthanc, or another DICOMweb server, does not answer or refuses for now."""


class InferenceUnavailable(Unavailable):
    """The inference server, or the model on it, is not there or not ready."""


class ModelCrashed(InferenceUnavailable):
    """The model's process has ended, in this call or before it; the model serves nobody until it is loaded again."""


class DeadlineExceeded(Unavailable):
    """An answer did not come within the time it was given."""


class OutOfMemory(Unavailable):
    """The model or the graph did not have enough memory, which may be free when it is tried again."""


class StorageFull(Unavailable):
    """There is no room left on a disk."""
