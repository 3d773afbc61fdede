"""Who made a result, from what: the identity that its UIDs are derived from.

One job is one application on one exact set of instances. Its identity is a hash of the sorted SOP Instance
UIDs, the application, its version, its models' versions and, where they are known, the hashes of their weights. So the
same work done twice, or done again after a crash, gives the same UIDs, and an archive keeps one copy; other weights
under the same version number are other work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

__all__ = ["Algorithm", "JobIdentity"]


@dataclass(frozen=True)
class Algorithm:
    """What computed a result: the application and the models it ran."""

    name: str
    version: str
    models: Mapping[str, str] = field(default_factory=dict)  # model name -> version
    manufacturer: str = "Isocenter"
    weights: Mapping[str, str] = field(
        default_factory=dict
    )  # model name -> SHA-256 of its files, where known

    @property
    def device_uid(self) -> str:
        """Device UID (0018,1002): another one as soon as the application or any of its models has another version, or
        other weights."""
        what: list[Any] = [self.manufacturer, self.name, self.version, sorted(self.models.items())]
        if self.weights:
            what.append(sorted(self.weights.items()))
        return _uid_of(json.dumps(what, separators=(",", ":")))

    def as_run(self, run: Algorithm | None) -> Algorithm:
        """The same as a run is told to use it: the versions and weights of those of its models that `run` names, and
        its own version where `run` is this application. What `run` does not say stays."""
        if run is None:
            return self
        models = {model: run.models.get(model, version) for model, version in self.models.items()}
        weights = {**self.weights, **{model: run.weights[model] for model in models if model in run.weights}}
        version = run.version if run.name == self.name else self.version
        return replace(self, version=version, models=models, weights=weights)

    @property
    def model_algorithms(self) -> tuple[Algorithm, ...]:
        """Each model as an algorithm of its own: its name, its version, its weights; in order of the names."""
        return tuple(
            Algorithm(
                name,
                version,
                manufacturer=self.manufacturer,
                weights={name: self.weights[name]} if name in self.weights else {},
            )
            for name, version in sorted(self.models.items())
        )


@dataclass(frozen=True)
class JobIdentity:
    """`job_id` is 64 hexadecimal digits; `created` dates the results of this job."""

    job_id: str
    created: datetime

    @classmethod
    def of(cls, sop_instance_uids: Iterable[str], algorithm: Algorithm, created: datetime) -> JobIdentity:
        """The identity of running `algorithm` on exactly these instances, in whatever order they come."""
        what: dict[str, Any] = {
            "instances": sorted(sop_instance_uids),
            "application": algorithm.name,
            "version": algorithm.version,
            "models": dict(sorted(algorithm.models.items())),
        }
        if algorithm.weights:
            what["weights"] = dict(sorted(algorithm.weights.items()))
        digest = hashlib.sha256(json.dumps(what, separators=(",", ":")).encode()).hexdigest()
        return cls(digest, created)

    def uid(self, role: str) -> str:
        """The UID of one thing this job makes ("seg", "seg.series", "tracking.1"), as `2.25.<integer>`.

        The integer is a UUID of version 5 in form (PS3.5, B.2), its bits taken from the job and the role.
        """
        return _uid_of(f"{self.job_id}/{role}")


def _uid_of(text: str) -> str:
    digest = bytearray(hashlib.sha256(text.encode()).digest()[:16])
    digest[6] = (digest[6] & 0x0F) | 0x50
    digest[8] = (digest[8] & 0x3F) | 0x80
    return f"2.25.{int.from_bytes(digest, 'big')}"
