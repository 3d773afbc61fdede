"""The gateway's own pages, rendered here: what became of each series, and what is shown where OHIF is not installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.responses import HTMLResponse

from isocenter.arrivals import Arrival
from isocenter.job import Job
from isocenter.job_groups import notes_of
from isocenter.measurements import measurement_table
from isocenter.rules import OUR_OWN

__all__ = ["missing_viewer_page", "status_page", "study_link"]

_SAFE = {
    # Nothing is loaded, nobody frames it, and its buttons ask this server only.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
       color: #dce3ee; background: #0b1220; }
a { color: #7cb7ff; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .5rem .75rem; border-bottom: 1px solid #24304a; }
h1 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
.done { color: #6fd08c; }
.running, .queued { color: #7cb7ff; } .failed { color: #ff8a80; } .not_applicable, .cancelled { color: #e6c46a; }
small, .uid { color: #93a1b8; } .uid { font-family: ui-monospace, monospace; font-size: 12px; }
button { color: inherit; background: #1b2942; border: 1px solid #3a4a6b; border-radius: 4px; cursor: pointer; }
form { display: inline; }
tr.superseded > td, tr.superseded .done { color: #7d899c; } tr:target > td { background: #14213a; }
.uid { display: inline-block; max-width: 17rem; overflow-wrap: anywhere; }
.numbers table { width: auto; margin-bottom: .25rem; }
.numbers th, .numbers td { padding: .1rem .5rem; border: 0; font-weight: normal; text-align: right; }
.numbers th { color: #93a1b8; font-size: 13px; }
.numbers th:first-child, .numbers td:first-child { text-align: left; padding-left: 0; }
"""

_SHOWN_STATE = {"not_applicable": "not applicable"}


def study_link(study_uid: str) -> str:
    """Where OHIF shows this study, on this origin."""
    return f"/viewer?StudyInstanceUIDs={quote(study_uid)}"


def status_page(
    jobs: Sequence[Job],
    arrivals: Sequence[Arrival],
    away: str,
    destinations: Mapping[str, Mapping[str, Any]] | None = None,
    warnings: Sequence[str] = (),
) -> HTMLResponse:
    """The newest jobs, then the newest series without one and why, as a page that keeps itself up to date.

    destinations: how each stands by name, as `Couriers.status` tells. warnings: a sentence each.
    """
    waiting = f'<p class="failed">Waiting: {escape(away)}</p>' if away else ""
    waiting += "".join(f'<p class="not_applicable">{escape(each)}</p>' for each in warnings)
    without = [arrival for arrival in arrivals if not _is_explained(arrival)]
    nothing = "<p>No jobs yet. Send a study (<code>isocenter send FOLDER</code>) and it appears here.</p>"
    body = (
        f'<p><a href="/">Studies in the viewer</a></p>{waiting}<h1>Jobs</h1>'
        + (
            _table(("State", "Application", "Study", "Outcome", "Time (UTC)", ""), map(_row, jobs))
            if jobs
            else nothing
        )
        + "<h1>Series without a job</h1>"
        + (
            _table(
                ("State", "Study and series", "Images", "Why", "Time (UTC)"), map(_row_of_arrival, without)
            )
            if without
            else "<p>None.</p>"
        )
        + _destinations(destinations or {})
    )
    return _page("Isocenter", body, refresh_s=5)


def _is_explained(arrival: Arrival) -> bool:
    """Whether a series has a job, or is a result: neither leaves anybody wondering whether the AI ran."""
    verdicts = arrival.verdicts
    return any(each.job_id for each in verdicts) or (
        bool(verdicts) and all(each.reason == OUR_OWN for each in verdicts)
    )


def _table(header: Iterable[str], rows: Iterable[str]) -> str:
    cells = "".join(f"<th>{title}</th>" for title in header)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def missing_viewer_page(folder: Path, status: int) -> HTMLResponse:
    """What `/` says without OHIF."""
    return _page(
        "Isocenter",
        "<h1>The viewer is not installed</h1>"
        f"<p>OHIF's files are not in <code>{escape(str(folder))}</code>. Run <code>make ohif</code> in "
        "Isocenter's folder (it needs npm), or set <code>gateway.ohif</code> to the <code>dist</code> folder of "
        "the npm package @ohif/app.</p>"
        '<p>All else works: <a href="/status">jobs and their results</a>, the DICOMweb proxy at '
        "<code>/dicom-web</code> for any other viewer, and <a href='/healthz'>what is up</a>.</p>",
        status=status,
    )


def _page(title: str, body: str, *, refresh_s: int | None = None, status: int = 200) -> HTMLResponse:
    refresh = f'<meta http-equiv="refresh" content="{refresh_s}">' if refresh_s else ""
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>{refresh}'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>",
        status,
        _SAFE,
    )


def _study(study_uid: str) -> str:
    link = f'<a href="{study_link(study_uid)}">open in the viewer</a>'
    return f'{link}<br><span class="uid">{escape(study_uid)}</span>'


def _row(job: Job) -> str:
    state = _SHOWN_STATE.get(job.state, job.state)
    took = f"{sum(job.seconds.values()):.1f} s" if job.over and job.seconds else ""
    replaced = ' class="superseded"' if job.superseded_by else ""
    return (
        f'<tr id="job-{escape(job.id[:12])}"{replaced}><td class="{job.state}">{state}</td>'
        f"<td>{escape(job.application)}<br><small>{job.priority}</small></td><td>{_study(job.study_uid)}</td>"
        f"<td>{_outcome(job)}</td><td>{job.created:%Y-%m-%d %H:%M:%S}<br><small>{took}</small></td>"
        f"<td>{_actions(job)}</td></tr>"
    )


def _row_of_arrival(arrival: Arrival) -> str:
    state, kind = ("settling", "queued") if arrival.settling else ("not wanted", "not_applicable")
    reasons = [f"{escape(each.route)}: {escape(each.reason)}" for each in arrival.verdicts]
    coming = escape(arrival.waiting or "images may still be coming")
    why = coming if arrival.settling else "<br>".join(reasons) or "there are no rules"
    if arrival.settling and arrival.waiting not in ("", "images may still be coming"):
        state = "waiting"
    changed = datetime.fromtimestamp(arrival.changed_at, UTC)
    return (
        f'<tr><td class="{kind}">{state}</td><td>{_study(arrival.study_uid)}<br>'
        f'<span class="uid">{escape(arrival.series_uid)}</span></td><td>{arrival.instances}</td>'
        f"<td>{why}</td><td>{changed:%Y-%m-%d %H:%M:%S}</td></tr>"
    )


def _outcome(job: Job) -> str:
    lines = [_superseded(job.superseded_by)] if job.superseded_by else []
    lines += [escape(job.reason)] if job.reason else []
    lines += [f"<small>{escape(note)}</small>" for note in (*notes_of(job.groups), *job.notes)]
    stored = ", ".join(escape(result.get("modality", "?")) for result in job.results)
    if stored:
        lines.append(f"<small>stored: {stored}</small>")
    return (_measurements(job.groups) if job.groups else "") + "<br>".join(lines)


def _superseded(by: str) -> str:
    job = escape(by[:12])
    return f'superseded by <a href="#job-{job}" class="uid">job {job}</a>'


def _destinations(destinations: Mapping[str, Mapping[str, Any]]) -> str:
    if not destinations:
        return ""
    header = ("State", "Destination", "Waiting", "Failed", "Why", "Since (UTC)")
    return "<h1>Destinations</h1>" + _table(
        header, map(_row_of_destination, *zip(*destinations.items(), strict=True))
    )


def _row_of_destination(name: str, stands: Mapping[str, Any]) -> str:
    waiting, since = stands["waiting"], stands["failing_since"]
    state, kind = (
        ("away", "failed") if since else ("sending", "running") if waiting else ("up to date", "done")
    )
    failed = f'<span class="failed">{stands["failed"]}</span>' if stands["failed"] else "0"
    shown = f"{datetime.fromisoformat(since).astimezone(UTC):%Y-%m-%d %H:%M:%S}" if since else ""
    return (
        f'<tr><td class="{kind}">{state}</td><td>{escape(name)}</td><td>{waiting}</td><td>{failed}</td>'
        f"<td>{escape(stands['reason'])}</td><td>{shown}</td></tr>"
    )


def _measurements(groups: Sequence[Mapping[str, Any]]) -> str:
    header, *rows = ([escape(cell) for cell in row] for row in measurement_table(groups))
    lines = (f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="numbers">{_table(header, lines)}</div>'


def _actions(job: Job) -> str:
    retriable = job.over and not job.superseded_by
    action = "cancel" if job.state in ("queued", "running") else "retry" if retriable else ""
    if not action:
        return ""
    return f'<form method="post" action="/api/jobs/{quote(job.id)}/{action}"><button>{action}</button></form>'
