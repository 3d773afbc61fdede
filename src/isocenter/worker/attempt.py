"""One attempt at a job: what is run, what is written down, and whether and when it is tried again."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dbos import DBOS

from isocenter.catalog import Catalog
from isocenter.job import JobSpec
from isocenter.jobs import QUEUE, WORKFLOW, attempt_id, summary
from isocenter.settings import Settings
from isocenter.surprise import log_way
from isocenter.worker import runner
from isocenter.worker.watchdog import at_most
from isocenter_operators.errors import IsocenterError, Unavailable
from isocenter_operators.inference.client import InferenceClient
from isocenter_operators.inference.triton import TritonClient
from isocenter_operators.run import Archive, Run

__all__ = ["register"]

log = logging.getLogger("isocenter.worker")

_LONGEST_WAIT_S = 60.0
# A job that takes its worker down with it must not do so for ever.
_RECOVERIES = 3

_Answer = dict[str, Any]


def register(settings: Settings) -> None:
    """Teach DBOS, in this process, the work that `isocenter.jobs` asks for."""
    # One client for all jobs: its shared memory is paid for once.
    inference = TritonClient(settings.triton.grpc_url)

    @DBOS.step(name="attempt")
    def attempt_step(spec: Mapping[str, Any], attempt: int) -> _Answer:
        return _attempt(settings, inference, JobSpec.from_json(spec), attempt)

    @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=_RECOVERIES)
    def run_job(spec: dict[str, Any], attempt: int, tries: int) -> _Answer:
        """`attempt` counts all there were, `tries` those since a person last asked."""
        answer = attempt_step(spec, attempt)
        if "renewed" in answer:
            _enqueue(answer.pop("renewed"), 1, 1)
        if answer["state"] != "unavailable":
            return answer
        if tries >= settings.worker.attempts:
            return {**answer, "state": "failed", "reason": f"{answer['reason']} (tried {tries} times)"}
        wait_s = min(settings.worker.retry_after_s * 2 ** (tries - 1), _LONGEST_WAIT_S)
        _enqueue(spec, attempt + 1, tries + 1, wait_s=wait_s, waiting_for=answer["reason"])
        return {**answer, "state": "queued"}


def _enqueue(
    spec: dict[str, Any], attempt: int, tries: int, *, wait_s: float = 0.0, waiting_for: str = ""
) -> None:
    DBOS.enqueue_workflow_with_options(
        {
            "workflow_name": WORKFLOW,
            "queue_name": QUEUE,
            "workflow_id": attempt_id(JobSpec.from_json(spec).identity.job_id, attempt),
            "delay_seconds": wait_s,
            "attributes": {**summary(spec, from_=time.time() + wait_s), "waiting_for": waiting_for},
        },
        spec,
        attempt,
        tries,
    )


def _attempt(settings: Settings, inference: InferenceClient, spec: JobSpec, attempt: int) -> _Answer:
    job_id = spec.identity.job_id
    began = time.time()
    log.info("job %s attempt %d: %s on series %s", job_id[:12], attempt, spec.algorithm.name, spec.series_uid)
    try:
        with at_most(settings.worker.longest_attempt_s):
            answer = _run(settings, inference, spec)
    except Unavailable as error:
        answer = {"state": "unavailable", "reason": str(error)}
    except IsocenterError as error:
        if error.__cause__ is not None and not isinstance(error.__cause__, IsocenterError):
            log_way(log, error.__cause__)
        answer = {"state": "failed", "reason": str(error)}
    log.info("job %s %s %s", job_id[:12], answer["state"], answer["reason"])
    return {**answer, "began": began, "ended": time.time()}


def _run(settings: Settings, inference: InferenceClient, spec: JobSpec) -> _Answer:
    app = Catalog(settings.apps_dir).get(spec.algorithm.name)
    if app.algorithm != spec.algorithm:
        renewed = replace(spec, algorithm=app.algorithm)
        return {
            "state": "cancelled",
            "reason": f"{app.name} {app.version} is installed by now: job {renewed.identity.job_id[:12]} does this",
            "renewed": renewed.as_json(),
        }
    archive = Archive(
        settings.orthanc.dicomweb_url,
        spec.study_uid,
        (spec.series_uid,),
        credentials=settings.orthanc.credentials,
    )
    task = Run(
        source=archive,
        sink=archive,
        triton_url=settings.triton.grpc_url,
        inference=inference,
        created=spec.created,
        deadline_s=app.deadline_s,
        rejected=settings.data_dir / "jobs" / spec.identity.job_id / "rejected",
        sop_instance_uids=frozenset(spec.sop_instance_uids),
    )
    outcome = runner.run(app, task)
    return {"state": outcome.status, "reason": outcome.reason, **runner.as_json(outcome)}
