"""One attempt at a job: whether it is begun, what is run, what is written down, and whether it is tried again."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from dbos import DBOS
from sqlalchemy.exc import SQLAlchemyError

from isocenter.catalog import Catalog
from isocenter.database import database_error
from isocenter.hours import closed
from isocenter.job import JobSpec
from isocenter.jobs import WORKFLOW, Jobs
from isocenter.ledger import Ledger
from isocenter.model_loading import load_missing
from isocenter.serving import Servings
from isocenter.settings import Settings
from isocenter.surprise import log_way, where
from isocenter.worker import packaged, retries, runner
from isocenter.worker.gate import Gate
from isocenter.worker.presence import beat
from isocenter.worker.shadowing import shadows_of
from isocenter.worker.spare import Spares
from isocenter.worker.strays import Strays
from isocenter.worker.stuck_model import Found, end_stuck_call
from isocenter.worker.task import archive_of, deidentification_of, priors_of
from isocenter.worker.watchdog import at_most, longest_s
from isocenter_operators.errors import (
    Cancelled,
    ConfigurationError,
    InferenceUnavailable,
    InputError,
    IsocenterError,
    Unavailable,
)
from isocenter_operators.inference.client import InferenceClient
from isocenter_operators.inference.cuda_memory import cuda_runtime
from isocenter_operators.inference.triton import TritonClient
from isocenter_operators.manifest import AppManifest
from isocenter_operators.run import Run, StoredInstance

__all__ = ["Work", "register"]

log = logging.getLogger("isocenter.worker")

_DEATHS = 2  # of workers; a job that has cost so many is not run again
_RESTARTS = 5  # of the whole stack in the middle of a job, which it may have been the reason for
_DATABASE_AWAY_S = 1.0
_STEP_BACK_S = 1.0  # in which the more urgent one is taken from the queue
# The ledger counts the deaths of workers; DBOS counts each start of a worker, whatever the reason.
_RECOVERIES = 1_000_000

_Answer = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """All that the attempts of one worker share. `life` is of the stack that the worker belongs to."""

    settings: Settings
    life: str
    jobs: Jobs
    ledger: Ledger
    gate: Gate
    inference: InferenceClient
    strays: Strays
    spares: Spares

    @classmethod
    def of(cls, settings: Settings, life: str, executor: str) -> Work:
        # One client of the inference server for all jobs: its shared memory is paid for once.
        transport = settings.triton.transport
        inference = TritonClient(
            settings.triton.endpoint,
            shared_memory=transport != "grpc",
            cuda=cuda_runtime() if transport == "cuda" else None,
        )
        jobs, ledger = Jobs(settings), Ledger(settings.database)
        strays = Strays(settings.worker.name, executor, jobs, ledger)
        return cls(settings, life, jobs, ledger, Gate(settings), inference, strays, Spares(settings))


def register(work: Work) -> None:
    """Teach DBOS, in this process, the work that `isocenter.jobs` asks for."""

    @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=_RECOVERIES)
    def run_job(spec: dict[str, Any], attempt: int, tries: dict[str, int]) -> _Answer:
        """`attempt` counts all there were; `tries` those since a person last asked, by the trouble they met."""
        asked = JobSpec.from_json(spec)
        # The place is held until it is written down how it ended: only then another one may take the worker with it.
        with work.strays.making(asked.identity.job_id, attempt), ExitStack() as place:
            answer = DBOS.run_step({"name": "attempt"}, lambda: _attempt(work, asked, attempt, place))
            return _insisted(work, lambda: _noted(work, asked, attempt, tries, answer))


def _noted(work: Work, spec: JobSpec, attempt: int, tries: Mapping[str, int], answer: _Answer) -> _Answer:
    try:
        return _settled(work, spec, attempt, tries, answer)
    except (SQLAlchemyError, Unavailable):
        raise
    except Exception as error:  # noqa: BLE001 - recorded: else DBOS ends the workflow, and the job for ever "runs"
        log_way(log, error)
        answer = {**answer, **_failed(f"the worker met an unexpected {where(error)}")}
        _end(work, spec.identity.job_id, attempt, answer)
        return answer


def _settled(work: Work, spec: JobSpec, attempt: int, tries: Mapping[str, int], answer: _Answer) -> _Answer:
    """What follows from this answer. After a crash it is asked again, and changes nothing then."""
    job_id = spec.identity.job_id
    if answer["state"] == "obsolete":
        return answer
    if "renewed" in answer:
        work.jobs.submit(JobSpec.from_json(answer["renewed"]))
        answer = {name: value for name, value in answer.items() if name != "renewed"}
    unwanted = work.ledger.cancelled(job_id) if answer["state"] in ("closed", "unavailable") else None
    if unwanted is not None:
        answer = {**answer, "state": "cancelled", "reason": unwanted}
    if answer["state"] == "closed":
        work.ledger.pause(job_id, attempt)
        work.jobs.again(spec, attempt + 1, tries, wait_s=answer["wait_s"], waiting_for=answer["reason"])
        return {**answer, "state": "queued"}
    if answer["state"] == "unavailable":
        trouble = answer["trouble"]
        met = {**tries, trouble: tries.get(trouble, 0) + 1}
        wait_s = retries.retry(trouble, met, work.settings.worker)
        if wait_s is not None:
            work.ledger.pause(job_id, attempt)
            work.jobs.again(spec, attempt + 1, met, wait_s=wait_s, waiting_for=answer["reason"])
            return {**answer, "state": "queued"}
        answer = {**answer, **_failed(f"{answer['reason']} (tried {met[trouble]} times)", job_id)}
    _end(work, job_id, attempt, answer)
    _ask_shadow(work, spec, answer)
    return answer


def _ask_shadow(work: Work, spec: JobSpec, answer: _Answer) -> None:
    """The job has ended, and is none the worse for whatever goes wrong here."""
    if answer["state"] == "cancelled":
        return
    try:
        for model, version in shadows_of(work.settings, spec):
            work.jobs.shadow(spec, model, version, answer)
    except IsocenterError as error:
        log.warning("job %s has no shadow: %s", spec.identity.job_id[:12], error)
    except Exception as error:  # noqa: BLE001 - told: it would be written down as the end of a job that is done
        log_way(log, error)
        log.warning("job %s has no shadow: an unexpected %s", spec.identity.job_id[:12], where(error))


def _end(work: Work, job_id: str, attempt: int, answer: _Answer) -> None:
    told: str = answer.get("told") or answer["reason"]
    work.ledger.end(job_id, answer["state"], attempt, reason=told, refused=answer.get("refused", False))


def _failed(told: str, job_id: str = "") -> _Answer:
    """`told` is what the study's reader is told; whoever looks after the job is told how to run it again."""
    return {"state": "failed", "reason": f"{told}; {_by_hand(job_id)}" if job_id else told, "told": told}


def _insisted(work: Work, do: Callable[[], _Answer]) -> _Answer:
    """What is done has been done; that it is written down too, however long the database is away, is the point."""
    away = ""
    while True:
        try:
            return do()
        except (SQLAlchemyError, Unavailable) as error:
            told = error if isinstance(error, Unavailable) else database_error(work.settings, error)
            if str(told) != away:
                log.warning("%s; waiting", told)
            away = str(told)
            time.sleep(_DATABASE_AWAY_S)


def _attempt(work: Work, spec: JobSpec, attempt: int, place: ExitStack) -> _Answer:
    began = time.time()
    job_id = spec.identity.job_id
    try:
        wait_s, reason = closed(spec, datetime.now().astimezone())
        if wait_s > 0:
            return {"state": "closed", "reason": reason, "wait_s": wait_s}
        entry = work.ledger.entry(job_id)
        entered = work.gate.place(
            spec.rank,
            # Begun and not ended: it was running when its worker died, whosever fault that was.
            suspect=entry is not None and (entry.deaths > 0 or entry.worker is not None),
            look=lambda: _look(work, spec, attempt),
            tell=lambda reason: _tell(work, job_id, attempt, reason),
        )
        place.enter_context(entered)
        began = time.time()
        answer = _begun(work, spec, attempt) or _run(work, spec, attempt)
    except Cancelled as error:
        answer = {"state": "cancelled", "reason": str(error)}
    except _StepBack:
        return {"state": "closed", "reason": "a more urgent job goes first", "wait_s": _STEP_BACK_S}
    except (Unavailable, ConfigurationError) as error:
        answer = _unavailable(work, error)
    except SQLAlchemyError as error:
        answer = _unavailable(work, database_error(work.settings, error))
    except IsocenterError as error:
        if error.__cause__ is not None and not isinstance(error.__cause__, IsocenterError):
            log_way(log, error.__cause__)
        answer = {**_failed(str(error)), "refused": isinstance(error, InputError)}
    except Exception as error:  # noqa: BLE001 - recorded: a job that nobody foresaw must end too
        log_way(log, error)
        answer = _failed(f"the worker met an unexpected {where(error)}")
    log.info("job %s %s %s", job_id[:12], answer["state"], answer["reason"])
    return {**answer, "began": began, "ended": time.time()}


def _tell(work: Work, job_id: str, attempt: int, reason: str) -> None:
    """What a job waits for is good to know, and no more: a disk that is full may be the database's."""
    try:
        work.jobs.waits(job_id, attempt, reason)
    except Unavailable as error:
        log.warning("job %s waits (%s), which could not be noted: %s", job_id[:12], reason, error)


def _begun(work: Work, spec: JobSpec, attempt: int) -> _Answer | None:
    """None when the job has been begun, otherwise why not."""
    job_id, name = spec.identity.job_id, work.settings.worker.name
    begun = work.ledger.begin(job_id, name, work.life, attempt)
    if not begun.wanted:
        return {"state": "obsolete", "reason": begun.cancelled or "a later attempt does this"}
    if begun.cancelled is not None:
        return {"state": "cancelled", "reason": begun.cancelled}
    if begun.restarts >= _RESTARTS:
        reason = (
            f"set aside: the service ended {begun.restarts} times while it ran (out of memory? a machine that went "
            "down?)"
        )
        return _failed(reason, job_id)
    if begun.deaths >= _DEATHS:
        reason = (
            f"set aside: it has cost {begun.deaths} workers their life (out of memory? too slow? a crash in native "
            "code?), whose logs say more"
        )
        return _failed(reason, job_id)
    what = f"{spec.algorithm.name} on {len(spec.series_uids)} series of study {spec.study_uid}"
    log.info("job %s attempt %d: %s", job_id[:12], attempt, what)
    return None


def _run(work: Work, spec: JobSpec, attempt: int) -> _Answer:
    catalog = Catalog.weighed(work.settings)
    app = catalog.for_job(spec.algorithm, spec.study_uid)
    installed = app.algorithm
    if not installed.weights:  # this machine has no models of its own, and so does not know their weights
        installed = replace(installed, weights=spec.algorithm.weights)
    if installed != spec.algorithm:
        renewed = replace(spec, algorithm=installed)
        return {
            "state": "cancelled",
            "reason": (
                f"{app.name} {app.version} is installed by now{_of_other_weights(app, spec)}: "
                f"job {renewed.identity.job_id[:12]} does this"
            ),
            "renewed": renewed.as_json(),
        }
    _require_in_service(work.settings, app)
    folder = work.settings.data_dir / "jobs" / spec.identity.job_id
    try:
        with at_most(work.settings.worker.longest_attempt_s):
            with suppress(OSError):  # before the graph, which may let no other thread run
                beat(work.settings, longest_s())
            task = _task(work, spec, attempt, app, folder)
            stored = catalog.stored(app)
            outcome = (
                runner.run(app, task)
                if stored is None
                else packaged.run(work.settings, work.spares, stored, app, task)
            )
    finally:
        shutil.rmtree(folder / "priors", ignore_errors=True)
    return {"state": outcome.status, "reason": outcome.reason, **runner.as_json(outcome)}


def _require_in_service(settings: Settings, app: AppManifest) -> None:
    """Before the images are fetched, which would be for nothing. Raises InferenceUnavailable."""
    servings = Servings(settings.data_dir)
    for model in app.models:
        serving = servings.of(model)
        if serving is not None and not serving.loaded:
            raise InferenceUnavailable(
                f"model {model!r} was taken out of service; `isocenter models load {model}` puts it back"
            )
    load_missing(settings, app.models)


def _task(work: Work, spec: JobSpec, attempt: int, app: AppManifest, folder: Path) -> Run:
    settings, job_id = work.settings, spec.identity.job_id
    archive = archive_of(settings, spec)
    priors, notes = priors_of(settings, spec, folder / "priors")
    return Run(
        source=archive,
        sink=archive,
        triton_url=settings.triton.endpoint,
        inference=work.inference,
        created=spec.created,
        deadline_s=app.deadline_s,
        rejected=folder / "rejected",
        form=settings.result_form(_destinations(work, spec)),
        sop_instance_uids=frozenset(spec.sop_instance_uids),
        priority=spec.rank,
        priors=priors,
        notes=notes,
        algorithm=spec.algorithm,
        predecessors=_replaced(work, spec),
        deidentification=deidentification_of(settings, spec),
        checkpoint=lambda: _go_on(work, job_id, attempt),
        before_store=lambda results: _store(work, job_id, attempt, results),
        after_store=lambda results: _stored(work, job_id, attempt, results),
    )


def _destinations(work: Work, spec: JobSpec) -> tuple[str, ...]:
    """Of the job by now: another route may have asked for the same work since, for destinations of its own."""
    try:
        entry = work.ledger.entry(spec.identity.job_id)
    except SQLAlchemyError as error:
        raise database_error(work.settings, error) from error
    return spec.destinations if entry is None else entry.destinations


def _of_other_weights(app: AppManifest, spec: JobSpec) -> str:
    installed = app.algorithm
    if replace(installed, weights=spec.algorithm.weights) == spec.algorithm:
        return " with other weights"
    changed = [name for name, version in app.models.items() if spec.algorithm.models.get(name) != version]
    return f" with version {app.models[changed[0]]} of {changed[0]}" if changed else ""


def _replaced(work: Work, spec: JobSpec) -> tuple[StoredInstance, ...]:
    """The results that this job's replace, as far as they stay in the archive."""
    try:
        entry = work.ledger.replaced(spec.identity.job_id)
    except SQLAlchemyError as error:
        raise database_error(work.settings, error) from error
    if entry is None or entry.policy == "delete":
        return ()
    return tuple(map(_as_stored, entry.results))


def _as_stored(result: Mapping[str, str]) -> StoredInstance:
    return StoredInstance(
        sop_class_uid=result["sop_class_uid"],
        sop_instance_uid=result["sop_instance_uid"],
        series_uid=result["series_uid"],
        study_uid=result["study_uid"],
        modality=result["modality"],
    )


class _StepBack(Exception):
    """A job that waits for a place gives its turn in the queue to a more urgent one."""


def _look(work: Work, spec: JobSpec, attempt: int) -> None:
    """What a job that waits for a place asks every second."""
    _go_on(work, spec.identity.job_id, attempt)
    if work.jobs.more_urgent(spec):
        raise _StepBack


def _go_on(work: Work, job_id: str, attempt: int) -> None:
    """Raises Cancelled when nobody wants the result any more, Unavailable when that can not be asked."""
    try:
        reason = work.ledger.cancelled(job_id, attempt)
    except SQLAlchemyError as error:
        raise database_error(work.settings, error) from error
    if reason is not None:
        raise Cancelled(reason)


def _store(work: Work, job_id: str, attempt: int, results: Sequence[StoredInstance]) -> None:
    """The point of no return. Raises Cancelled, and Unavailable when it can not be noted what is stored."""
    try:
        work.ledger.store(job_id, runner.stored_as_json(results), attempt, work.settings.worker.name)
    except SQLAlchemyError as error:
        raise database_error(work.settings, error) from error


def _stored(work: Work, job_id: str, attempt: int, results: Sequence[StoredInstance]) -> None:
    """However long the database is away: what lies in the archive has to be known."""
    name = work.settings.worker.name

    def note() -> _Answer:
        work.ledger.stored(job_id, runner.stored_as_json(results), attempt, name)
        return {}

    _insisted(work, note)


def _unavailable(work: Work, error: Unavailable | ConfigurationError) -> _Answer:
    trouble, said = retries.trouble_of(error), str(error)
    if trouble.name in ("deadline", "crash"):
        # A call that did not end, or a model whose process died, would fail every later call.
        found = _ended_call(work, error.model, error.version or "")
        trouble = retries.BUSY if found.at_work else trouble
        said = f"{error}; {found.said}"
    return {"state": "unavailable", "trouble": trouble.name, "reason": said}


def _ended_call(work: Work, model: str | None, version: str) -> Found:
    try:
        return end_stuck_call(work.settings, model, version)
    except IsocenterError as failed:
        return Found(str(failed))
    except Exception as failed:  # noqa: BLE001 - told: the job is tried again all the same
        log_way(log, failed)
        return Found(f"the call could not be ended ({where(failed)})")


def _by_hand(job_id: str) -> str:
    return f"`isocenter jobs retry {job_id[:12]}` runs it again"
