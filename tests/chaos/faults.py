"""The kinds of fault: each breaks something for a while, and mends it again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg

from chaos.parts import Part
from chaos.proxy import FaultProxy, Mode
from chaos.site import LOST_AFTER_S, Site

__all__ = ["Fault", "NotNow", "faults_of"]

_TOLD_WITHIN_S = 30.0
_MET_SOON_S = 3.0  # by what goes on anyway
_MET_WITHIN_S = 15.0  # once another study arrives


class NotNow(Exception):
    """There was nothing to do this to at the moment: it did not happen, and is tried again later."""


@dataclass(frozen=True)
class Fault:
    """One kind. `touches` names what it needs for itself: two faults that touch the same never overlap."""

    name: str
    touches: Callable[[Site], tuple[str, ...]]
    happen: Callable[[Site, random.Random], None]

    def drawn(self, site: Site, rng: random.Random) -> Fault:
        """This kind as it will happen."""
        return self


@dataclass(frozen=True)
class WorkersFault(Fault):
    """One that befalls so many workers, and leaves the others alone. A worker takes long to start, so the next fault
    that befalls it waits for that, and no other."""

    number: int
    befall: Callable[[Site, Sequence[Part], random.Random], None]

    def drawn(self, site: Site, rng: random.Random) -> Fault:
        parts = rng.sample(site.workers, self.number)
        touches = _one(*(part.name for part in parts))

        def happen(site: Site, rng: random.Random) -> None:
            for part in parts:
                part.wait()
            self.befall(site, parts, rng)

        return Fault(self.name, touches, happen)


def _one(*names: str) -> Callable[[Site], tuple[str, ...]]:
    return lambda site: names


def _every_part(site: Site) -> tuple[str, ...]:
    return tuple(part.name for part in site.parts)


def _workers(site: Site) -> tuple[str, ...]:
    return tuple(part.name for part in site.workers)


def _killed(parts: Iterable[Part], rng: random.Random) -> None:
    for part in parts:
        part.kill()
    time.sleep(rng.uniform(0.1, 2))
    for part in parts:
        part.start()


def _kill(part_of: Callable[[Site], Part]) -> Callable[[Site, random.Random], None]:
    def happen(site: Site, rng: random.Random) -> None:
        _killed([part_of(site)], rng)
        part_of(site).wait()

    return happen


def _kill_workers(site: Site, workers: Sequence[Part], rng: random.Random) -> None:
    _killed(workers, rng)  # they start while other things break; see `WorkersFault`


def _freeze_workers(site: Site, workers: Sequence[Part], rng: random.Random) -> None:
    for worker in workers:
        worker.freeze()
    time.sleep(rng.uniform(1, 3) + (LOST_AFTER_S if site.postgres is not None else 0))
    for worker in workers:
        worker.thaw()


def _kill_everything(site: Site, rng: random.Random) -> None:
    site.kill()
    time.sleep(rng.uniform(0, 2))
    site.new_life()
    for part in site.parts:
        part.start()
    for part in (site.orthanc, site.triton, site.gateway):
        part.wait()


def _through(site: Site, proxy: FaultProxy, mode: Mode, rng: random.Random) -> None:
    """Until a connection has met it; another study arrives when none does soon. Raises NotNow where none has."""
    before = proxy.felt
    proxy.mode = mode
    try:
        time.sleep(rng.uniform(0.5, 3))
        if mode == "refuse":
            proxy.mode = "reset"  # who is refused nobody can count; who is reset now tries often enough
        if not _met(proxy, before, _MET_SOON_S):
            site.another_study()
            if not _met(proxy, before, _MET_WITHIN_S):
                raise NotNow
    finally:
        proxy.mode = "through"


def _met(proxy: FaultProxy, before: int, within_s: float) -> bool:
    give_up = time.monotonic() + within_s
    while proxy.felt == before and time.monotonic() < give_up:
        time.sleep(0.05)
    return proxy.felt != before


def _orthanc_answers(mode: Mode) -> Callable[[Site, random.Random], None]:
    return lambda site, rng: _through(site, site.to_orthanc, mode, rng)


def _events(mode: Mode) -> Callable[[Site, random.Random], None]:
    return lambda site, rng: _through(site, site.to_gateway, mode, rng)


def _freeze_orthanc(site: Site, rng: random.Random) -> None:
    site.orthanc.freeze()
    time.sleep(rng.uniform(1, 4))
    site.orthanc.thaw()


def _duplicate_events(site: Site, rng: random.Random) -> None:
    """Events that say again what was said, things that never were, and nothing that could be understood."""
    for _ in range(30):
        event = rng.choice(
            [
                b"{}",
                b'{"series": ["2.25.1"]}',
                b"[]",
                b"null",
                b"\xff\x00junk",
                b"{" * 5000,
                b"x" * 70_000,
                b"",
            ]
        )
        with suppress(httpx.HTTPError):
            site.api("POST", "/api/events/orthanc", content=event)


def _service_disk(but_bytes: int) -> Callable[[Site, random.Random], None]:
    def happen(site: Site, rng: random.Random) -> None:
        disk = site.service_disk
        assert disk is not None
        disk.fill(but_bytes=but_bytes)
        try:
            _wait_until(lambda: _tells_of_shortage(site), "/healthz tells of the full disk")
            time.sleep(rng.uniform(0.5, 2))
        finally:
            disk.free()
        _wait_until(lambda: not _tells_of_shortage(site), "/healthz tells that there is room again")

    return happen


def _archive_disk(site: Site, rng: random.Random) -> None:
    disk = site.archive_disk
    assert disk is not None
    disk.fill(but_bytes=0)
    time.sleep(rng.uniform(2, 4))
    disk.free()


def _no_file_grows(parts_of: Callable[[Site], Iterable[Part]]) -> Callable[[Site, random.Random], None]:
    """Where no small disk can be mounted. It is less than a full disk: what does not ignore SIGXFSZ, Orthanc for one,
    is ended by it when it writes."""

    def happen(site: Site, rng: random.Random) -> None:
        for part in parts_of(site):
            part.limit_files(0)
        time.sleep(rng.uniform(1, 3))
        for part in parts_of(site):
            part.limit_files(None)
            part.start()

    return happen


def _tells_of_shortage(site: Site) -> bool:
    with suppress(httpx.HTTPError):
        said = site.api("GET", "/healthz").text
        return "no new work is taken" in said or "no room left" in said
    return False


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + _TOLD_WITHIN_S
    while not condition():
        assert time.monotonic() < give_up, f"it did not come to pass that {what}"
        time.sleep(0.2)


def _cancel_and_retry(site: Site, rng: random.Random) -> None:
    """A person stops a job that runs, and thinks better of it. Where none runs, one that is done is run again first."""
    give_up = time.monotonic() + 8
    again = ""
    while time.monotonic() < give_up:
        with suppress(httpx.HTTPError):
            for job in _jobs(site, "running"):
                site.asked.add(job["id"])
                if site.api("POST", f"/api/jobs/{job['id']}/cancel").is_success:
                    time.sleep(rng.uniform(0, 2))
                    _retry(site, job["id"])
                    return
            if not again and not _jobs(site, "queued"):
                current = [job["id"] for job in _jobs(site, "done") if not job["superseded_by"]]
                again = rng.choice(current) if current else ""
                site.asked.add(again)
                site.api("POST", f"/api/jobs/{again}/retry")
        time.sleep(0.05)
    raise NotNow


def _jobs(site: Site, state: str) -> list[dict[str, Any]]:
    """The newest in this state. Raises httpx.HTTPError."""
    answer = site.api("GET", f"/api/jobs?limit=50&state={state}").raise_for_status()
    jobs: list[dict[str, Any]] = answer.json()["jobs"]
    return jobs


def _retry(site: Site, job_id: str) -> None:
    """Until it is accepted, or the job needs it no more because a newer one has replaced it or it has been done."""
    give_up = time.monotonic() + 180
    while time.monotonic() < give_up:
        with suppress(httpx.HTTPError):
            if site.api("POST", f"/api/jobs/{job_id}/retry").is_success:
                return
            job = site.api("GET", f"/api/jobs/{job_id}").json()
            if job.get("state") == "done" or job.get("superseded_by"):
                return
        time.sleep(0.3)
    raise AssertionError(f"the cancelled job {job_id[:12]} can not be asked for again")


def _restart_postgres(how: str) -> Callable[[Site, random.Random], None]:
    def happen(site: Site, rng: random.Random) -> None:
        server = site.postgres
        assert server is not None
        if how == "crash":
            server.kill()
        else:
            server.stop()
        time.sleep(rng.uniform(0.2, 4))
        server.start()

    return happen


def _cut_postgres(site: Site, rng: random.Random) -> None:
    """Every connection to the database is ended from the other side."""
    server = site.postgres
    assert server is not None
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
        )


def _of_workers(
    name: str, number: int, befall: Callable[[Site, Sequence[Part], random.Random], None]
) -> Fault:
    return WorkersFault(name, _workers, _not_drawn, number, befall)


def _not_drawn(site: Site, rng: random.Random) -> None:
    raise AssertionError("which workers it befalls was not drawn")


def faults_of(site: Site) -> tuple[Fault, ...]:
    """All kinds that this site can suffer."""
    disks = _DISKS if site.small_disks else _NO_FILE_GROWS
    return (*_FAULTS, *disks, *(_POSTGRES if site.postgres is not None else ()))


_FAULTS: tuple[Fault, ...] = (
    _of_workers("SIGKILL worker", 1, _kill_workers),
    Fault("SIGKILL gateway", _one("gateway"), _kill(lambda site: site.gateway)),
    Fault("SIGKILL Triton", _one("triton"), _kill(lambda site: site.triton)),
    Fault("SIGKILL Orthanc", _one("orthanc"), _kill(lambda site: site.orthanc)),
    Fault("SIGKILL everything", _every_part, _kill_everything),
    _of_workers("worker frozen", 1, _freeze_workers),
    Fault("Orthanc frozen", _one("orthanc"), _freeze_orthanc),
    Fault("Orthanc refuses", _one("to orthanc"), _orthanc_answers("refuse")),
    Fault("Orthanc slow", _one("to orthanc"), _orthanc_answers("slow")),
    Fault("Orthanc 503", _one("to orthanc"), _orthanc_answers("503")),
    Fault("Orthanc 503 to STOW", _one("to orthanc"), _orthanc_answers("503 to STOW")),
    Fault("answers cut off", _one("to orthanc"), _orthanc_answers("cut")),
    Fault("duplicate and junk events", _one("gateway"), _duplicate_events),
    Fault("events lost", _one("to gateway"), _events("refuse")),
    Fault("events delayed", _one("to gateway"), _events("slow")),
    Fault("job cancelled, then retried", _one("gateway"), _cancel_and_retry),
)

_DISKS: tuple[Fault, ...] = (
    Fault("service's disk low", _one("gateway", "service disk"), _service_disk(8_000_000)),
    Fault("service's disk full", _one("gateway", "service disk"), _service_disk(0)),
    Fault("archive's disk full", _one("orthanc"), _archive_disk),
)

_NO_FILE_GROWS: tuple[Fault, ...] = (
    Fault(
        "service's files can not grow",
        lambda site: ("gateway", *_workers(site)),
        _no_file_grows(lambda site: [site.gateway, *site.workers]),
    ),
    Fault("archive's files can not grow", _one("orthanc"), _no_file_grows(lambda site: [site.orthanc])),
)

_POSTGRES: tuple[Fault, ...] = (
    _of_workers("SIGKILL two workers", 2, _kill_workers),
    Fault("PostgreSQL restarted", _one("postgres", "gateway"), _restart_postgres("order")),
    Fault("PostgreSQL crashed", _one("postgres", "gateway"), _restart_postgres("crash")),
    Fault("PostgreSQL's connections cut", _one("postgres"), _cut_postgres),
)
