"""The gateway's own pages, rendered here: the list of jobs, and what is shown where OHIF is not installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from isocenter.job import Job

__all__ = ["missing_viewer_page", "status_page", "study_link"]

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
       color: #dce3ee; background: #0b1220; }
a { color: #7cb7ff; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .5rem .75rem; border-bottom: 1px solid #24304a; }
.done { color: #6fd08c; } .failed { color: #ff8a80; } .not_applicable, .cancelled { color: #e6c46a; }
small, .uid { color: #93a1b8; } .uid { font-family: ui-monospace, monospace; font-size: 12px; }
button { color: inherit; background: #1b2942; border: 1px solid #3a4a6b; border-radius: 4px; cursor: pointer; }
form { display: inline; }
"""

_SHOWN_STATE = {"not_applicable": "not applicable"}


def study_link(study_uid: str) -> str:
    """Where OHIF shows this study, on this origin."""
    return f"/viewer?StudyInstanceUIDs={quote(study_uid)}"


def status_page(jobs: Iterable[Job]) -> str:
    """The newest jobs with their outcome, as one HTML page that keeps itself up to date."""
    rows = "".join(_row(job) for job in jobs)
    table = (
        "<table><thead><tr><th>State</th><th>Application</th><th>Study</th><th>Outcome</th><th>Time</th><th></th>"
        f"</tr></thead><tbody>{rows}</tbody></table>"
        if rows
        else "<p>No jobs yet. Send a study (<code>isocenter send FOLDER</code>) and it appears here.</p>"
    )
    return _page(
        "Isocenter", f'<h1>Jobs</h1><p><a href="/">Studies in the viewer</a></p>{table}', refresh_s=5
    )


def missing_viewer_page(folder: Path) -> str:
    """What `/` says without OHIF."""
    return _page(
        "Isocenter",
        "<h1>The viewer is not installed</h1>"
        f"<p>OHIF's files are not in <code>{escape(str(folder))}</code>. Run <code>make ohif</code> in "
        "Isocenter's folder (it needs npm), or set <code>gateway.ohif</code> to the <code>dist</code> folder of "
        "the npm package @ohif/app.</p>"
        '<p>All else works: <a href="/status">jobs and their results</a>, the DICOMweb proxy at '
        "<code>/dicom-web</code> for any other viewer, and <a href='/healthz'>what is up</a>.</p>",
    )


def _page(title: str, body: str, refresh_s: int | None = None) -> str:
    refresh = f'<meta http-equiv="refresh" content="{refresh_s}">' if refresh_s else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>{refresh}'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>"
    )


def _row(job: Job) -> str:
    state = _SHOWN_STATE.get(job.state, job.state)
    link = f'<a href="{study_link(job.study_uid)}">open in the viewer</a>'
    study = f'{link}<br><span class="uid">{escape(job.study_uid)}</span>'
    took = f"{(job.ended - job.created).total_seconds():.1f} s" if job.ended else ""
    return (
        f'<tr><td class="{job.state}">{state}</td><td>{escape(job.application)}</td><td>{study}</td>'
        f"<td>{_outcome(job)}</td><td>{job.created:%Y-%m-%d %H:%M:%S}<br><small>{took}</small></td>"
        f"<td>{_actions(job)}</td></tr>"
    )


def _outcome(job: Job) -> str:
    lines = [escape(job.reason)] if job.reason else []
    lines += [_group(group) for group in job.groups]
    lines += [f"<small>{escape(note)}</small>" for note in job.notes]
    stored = ", ".join(escape(result.get("modality", "?")) for result in job.results)
    if stored:
        lines.append(f"<small>stored: {stored}</small>")
    return "<br>".join(lines)


def _group(group: Mapping[str, Any]) -> str:
    numbers = ", ".join(
        f"{escape(name)} {value:.4g}" for name, value in group.items() if isinstance(value, int | float)
    )
    return f"{escape(str(group.get('label', '')))}: {numbers}"


def _actions(job: Job) -> str:
    action = "cancel" if job.state == "queued" else "retry" if job.over else ""
    if not action:
        return ""
    return f'<form method="post" action="/api/jobs/{quote(job.id)}/{action}"><button>{action}</button></form>'
