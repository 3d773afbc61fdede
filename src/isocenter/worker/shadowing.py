"""A shadow: another version of a model looks at what a job has ended on, and nobody is shown what it finds.

It is begun when the worker has nothing else to do, holds no place that a job could take, and is tried once. What it
writes stays in the data folder. Whatever goes wrong is written into its comparison, and nowhere else.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbos import DBOS

from isocenter.catalog import Catalog
from isocenter.hung_shadows import HungShadows
from isocenter.job import JobSpec
from isocenter.jobs import SHADOW_WORKFLOW, Jobs
from isocenter.queues import SHADOWS
from isocenter.route import PRIORITIES
from isocenter.serving import Servings
from isocenter.settings import Settings
from isocenter.shadows import Comparison, Shadows
from isocenter.shadows import Run as Compared
from isocenter.surprise import log_way, where
from isocenter.worker import runner
from isocenter.worker.agreement import agreement
from isocenter.worker.gate import Gate
from isocenter.worker.hung_shadow import HungShadow
from isocenter.worker.stuck_model import end_stuck_call
from isocenter.worker.task import archive_of, deidentification_of, priors_of
from isocenter_operators.errors import DeadlineExceeded, IsocenterError, ModelCrashed, Unavailable
from isocenter_operators.inference.client import InferenceClient
from isocenter_operators.run import Folder, Outcome, Run

__all__ = ["Shadowing", "listen", "register", "shadows_of"]

log = logging.getLogger("isocenter.worker")

_POLL_S = 2.0  # nobody waits for a shadow
_LOOK_S = 1.0
_TRIES, _PAUSE_S = 3, 10.0  # where the archive or the server is away
# It is begun once, which its folder tells; DBOS counts each start of a worker.
_RECOVERIES = 1_000_000


def shadows_of(settings: Settings, spec: JobSpec) -> Iterator[tuple[str, str]]:
    """The models of a job that have a shadow, each with its version. Raises ConfigurationError."""
    servings = Servings(settings.data_dir)
    for model, version in spec.algorithm.models.items():
        serving = servings.of(model)
        if serving is not None and serving.loaded and serving.shadow not in (None, version):
            yield model, str(serving.shadow)


def register(settings: Settings, jobs: Jobs, gate: Gate, inference: InferenceClient) -> None:
    """Teach DBOS, in this process, what `Jobs.shadow` asks for."""

    @DBOS.workflow(name=SHADOW_WORKFLOW, max_recovery_attempts=_RECOVERIES)
    def run_shadow(spec: dict[str, Any], model: str, version: str, answer: dict[str, Any]) -> str:
        shadowing = Shadowing(settings, inference, JobSpec.from_json(spec), model, version, answer)

        def shadow() -> str:
            _await_rest(jobs, gate)
            shadowing.hung.see_to()  # where that could not be done the last time
            state = shadowing.run()
            if shadowing.hung.refuses:
                _await_rest(jobs, gate)
                shadowing.hung.see_to()
            return state

        return DBOS.run_step({"name": "shadow"}, shadow)


def listen(settings: Settings) -> None:
    """Take shadows from their queue, one at a time."""
    for model, version, _ in HungShadows(settings.data_dir).all():
        HungShadow(settings, model, version).look()
    DBOS.register_queue(
        SHADOWS, worker_concurrency=1, polling_interval_sec=_POLL_S, on_conflict="always_update"
    )


def _await_rest(jobs: Jobs, gate: Gate) -> None:
    while not _at_rest(jobs, gate):
        time.sleep(_LOOK_S)


def _at_rest(jobs: Jobs, gate: Gate) -> bool:
    try:
        return gate.at_rest and not jobs.anything_waits()
    except Unavailable:
        return False


@dataclass(frozen=True)
class Shadowing:
    """One version on what one job has ended on. `answer`: how the job ended, as the worker notes it."""

    settings: Settings
    inference: InferenceClient
    spec: JobSpec
    model: str
    version: str
    answer: Mapping[str, Any]

    def run(self) -> str:
        """Run, compare, and write both down; how it ended. Raises nothing: nobody waits for it."""
        shadows, job_id = Shadows(self.settings.data_dir), self.spec.identity.job_id
        try:
            serving = Servings(self.settings.data_dir).of(self.model)
            if serving is None or not serving.loaded or serving.shadow != self.version:
                return "not wanted any more"
            folder = shadows.begin(self.model, self.version, job_id)
            if folder is None and shadows.ended(self.model, self.version, job_id):
                return "known already"
            found = (
                self._compared(folder)
                if folder is not None
                else self._failed(
                    "the worker ended while it ran: a restart, or a crash of which its log says more"
                )
            )
            shadows.write(self.model, found)
            limits = self.settings.limits
            shadows.trim(limits.jobs_kept_days, limits.shadows_kept_mb)
        except (IsocenterError, OSError) as error:
            log.warning("shadow of job %s could not be kept: %s", job_id[:12], error)
            return "failed"
        log.info("shadow of job %s: %s %s", job_id[:12], found.shadow.state, found.shadow.reason)
        return found.shadow.state

    def _compared(self, folder: Path) -> Comparison:
        try:
            outcome = self._tried(folder)
        except Exception as error:  # noqa: BLE001 - recorded: a shadow fails for itself alone
            if isinstance(error, DeadlineExceeded | ModelCrashed) and error.model is not None:
                self._end_call(error)
            return self._failed(_said(error))
        finally:
            shutil.rmtree(folder / "priors", ignore_errors=True)  # images of the patient, and no results
        shadow = Compared(
            version=self.version,
            state=outcome.status,
            reason=outcome.reason,
            inference_s=outcome.seconds.get("inference"),
        )
        found = self._said(shadow)
        if (found.shown.state, shadow.state) != ("done", "done"):
            return found.model_copy(update={"not_compared": "only one of the two, or none, has a result"})
        try:
            agreed = agreement(self.settings, self.answer, outcome)
            return found.model_copy(update=agreed.as_update())
        except Exception as error:  # noqa: BLE001 - recorded, as above
            return found.model_copy(update={"not_compared": _said(error)})

    def _tried(self, folder: Path) -> Outcome:
        for remaining in reversed(range(_TRIES)):
            try:
                return self._run(folder)
            except Unavailable as error:
                if remaining == 0 or error.model is not None:
                    raise  # a model that fails, or does not answer, is what the comparison is to tell
                time.sleep(_PAUSE_S)
        raise AssertionError("unreachable")

    def _run(self, folder: Path) -> Outcome:
        spec, settings = self.spec, self.settings
        app = Catalog.weighed(settings).with_version(spec.algorithm.name, self.model, self.version)
        priors, notes = priors_of(settings, spec, folder / "priors")
        task = Run(
            source=archive_of(settings, spec),
            sink=Folder(folder),
            triton_url=settings.triton.endpoint,
            inference=self.inference,
            created=spec.created,
            deadline_s=app.deadline_s,
            rejected=folder / "rejected",
            form=settings.result_form(),
            sop_instance_uids=frozenset(spec.sop_instance_uids),
            priority=len(PRIORITIES),  # the last one: batch
            priors=priors,
            notes=notes,
            algorithm=app.algorithm,
            deidentification=deidentification_of(settings, spec),
        )
        return runner.run(app, task)

    def _said(self, shadow: Compared) -> Comparison:
        shown = Compared(
            version=self.spec.algorithm.models[self.model],
            state=self.answer["state"],
            reason=self.answer.get("reason", ""),
            inference_s=self.answer.get("seconds", {}).get("inference"),
        )
        return Comparison(
            job_id=self.spec.identity.job_id,
            study_uid=self.spec.study_uid,
            ended=time.time(),
            shown=shown,
            shadow=shadow,
        )

    def _failed(self, reason: str) -> Comparison:
        failed = self._said(Compared(version=self.version, state="failed", reason=reason))
        return failed.model_copy(update={"not_compared": "the shadow has failed"})

    @property
    def hung(self) -> HungShadow:
        """This version, as one whose call did not end."""
        return HungShadow(self.settings, self.model, self.version)

    def _end_call(self, error: DeadlineExceeded | ModelCrashed) -> None:
        """A call that hangs would go on taking a core from the jobs."""
        try:
            if error.model != self.model:  # another one that the application asks, and so do its jobs
                end_stuck_call(self.settings, error.model, error.version or "")
            elif isinstance(error, ModelCrashed):
                self.hung.crashed()
            else:
                self.hung.end_call()
        except IsocenterError as failed:
            log.warning("shadow version %s of %s: %s", self.version, self.model, failed)


def _said(error: Exception) -> str:
    """What is told of an error; of one that nobody foresaw the log tells where it came from."""
    if isinstance(error, IsocenterError):
        return str(error)
    log_way(log, error)
    return f"an unexpected {where(error)}"
