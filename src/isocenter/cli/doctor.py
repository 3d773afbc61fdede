"""`isocenter doctor`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from isocenter.cli import options
from isocenter.cli.output import print_json, print_lines, table

__all__ = ["command"]


@click.command()
@options.config
@options.json_option
def command(config: Path | None, as_json: bool) -> int:
    """Is everything this needs here, reachable and compatible? 1 when something required is missing.

    Beside a stack that runs, the configuration is judged as the next start will read it.
    """
    from isocenter.cli.examination import examine
    from isocenter.settings import Settings
    from isocenter.stack.running import running

    settings = Settings.load(config)
    serving = None if running(settings) is None else options.running_settings(config)
    findings = examine(settings, serving)
    healthy = all(finding.ok or not finding.required for finding in findings)
    if as_json:
        print_json({"healthy": healthy, "checks": [asdict(finding) for finding in findings]})
        return 0 if healthy else 1
    rows = [(_mark(each.ok, each.required), each.what, each.seen) for each in findings]
    print_lines(table(["", "what", "seen"], rows)[1:])
    advice = [f"{each.what}: {each.advice}" for each in findings if not each.ok]
    if advice:
        print_lines(["", *advice])
    return 0 if healthy else 1


def _mark(ok: bool, required: bool) -> str:
    if ok:
        return "ok"
    return "MISSING" if required else "without"
